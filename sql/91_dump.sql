-- sql/91_dump.sql
-- What pg_dump takes along. A table of an extension is dumped only if it is registered, and so is a
-- sequence. Left out: pushers and channel_state (what is true now, not what was), and the events' parent
-- and day partitions, which pg_dump sees as ordinary tables.
-- One call a statement: several in one would update the same catalog row twice.

SELECT pg_extension_config_dump('ecstats.config', '');
SELECT pg_extension_config_dump('ecstats.day_marks', '');
SELECT pg_extension_config_dump('ecstats.rejects', '');
SELECT pg_extension_config_dump('ecstats.rejects_id_seq', '');
SELECT pg_extension_config_dump('ecstats.events_default', '');
SELECT pg_extension_config_dump('ecstats.event_types', '');
SELECT pg_extension_config_dump('ecstats.order_lines', '');
SELECT pg_extension_config_dump('ecstats.daily_kpi', '');
SELECT pg_extension_config_dump('ecstats.weekly_kpi', '');
SELECT pg_extension_config_dump('ecstats.monthly_kpi', '');
SELECT pg_extension_config_dump('ecstats.daily_sales', '');
SELECT pg_extension_config_dump('ecstats.daily_sales_by', '');
SELECT pg_extension_config_dump('ecstats.daily_events', '');
SELECT pg_extension_config_dump('ecstats.daily_funnel', '');
SELECT pg_extension_config_dump('ecstats.event_names', '');
SELECT pg_extension_config_dump('ecstats.user_day', '');
SELECT pg_extension_config_dump('ecstats.order_day', '');
SELECT pg_extension_config_dump('ecstats.buyer_daily', '');
SELECT pg_extension_config_dump('ecstats.buyers', '');
SELECT pg_extension_config_dump('ecstats.first_seen_block', '');
SELECT pg_extension_config_dump('ecstats.restatements', '');
SELECT pg_extension_config_dump('ecstats.day_state', '');
SELECT pg_extension_config_dump('ecstats.activity_levels', '');
SELECT pg_extension_config_dump('ecstats.user_activity', '');
SELECT pg_extension_config_dump('ecstats.activity_state', '');
SELECT pg_extension_config_dump('ecstats.cohorts', '');
SELECT pg_extension_config_dump('ecstats.tag_rules', '');
SELECT pg_extension_config_dump('ecstats.user_tags', '');
SELECT pg_extension_config_dump('ecstats.tag_daily', '');
SELECT pg_extension_config_dump('ecstats.jobs', '');
SELECT pg_extension_config_dump('ecstats.jobs_job_id_seq', '');
SELECT pg_extension_config_dump('ecstats.job_runs', '');
SELECT pg_extension_config_dump('ecstats.job_runs_run_id_seq', '');
SELECT pg_extension_config_dump('ecstats.templates', '');
SELECT pg_extension_config_dump('ecstats.reports', '');
SELECT pg_extension_config_dump('ecstats.targets', '');
SELECT pg_extension_config_dump('ecstats.report_failures', '');
SELECT pg_extension_config_dump('ecstats.report_failures_id_seq', '');
SELECT pg_extension_config_dump('ecstats.channel_kinds', '');
SELECT pg_extension_config_dump('ecstats.channels', '');
SELECT pg_extension_config_dump('ecstats.deliveries', '');
SELECT pg_extension_config_dump('ecstats.deliveries_id_seq', '');
SELECT pg_extension_config_dump('ecstats.delivery_attempts', '');
SELECT pg_extension_config_dump('ecstats.home', '');
SELECT pg_extension_config_dump('ecstats.sources', '');
SELECT pg_extension_config_dump('ecstats.source_fetches', '');
SELECT pg_extension_config_dump('ecstats.source_fetches_fetch_id_seq', '');
