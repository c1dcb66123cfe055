-- sql/00_header.sql
-- The install script runs as superuser: only pg_catalog is searched, so that no planted operator or
-- function is picked up. Callable functions go to @extschema@, everything else to schema ecstats.

\echo Use "CREATE EXTENSION ecstats" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SCHEMA ecstats;
COMMENT ON SCHEMA ecstats IS 'ecstats: tables, views and internal functions; what users call is ecstats_* in the schema of the extension';

CREATE FUNCTION @extschema@.ecstats_version() RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_version';
COMMENT ON FUNCTION @extschema@.ecstats_version() IS
	'Version of the loaded ecstats library, major.minor. The pusher refuses another major version.';

-- sql/10_config.sql

-- sql/11_day.sql

-- sql/20_event_c.sql

-- sql/21_order_c.sql

-- sql/22_rollup_c.sql

-- sql/23_cron_c.sql

-- sql/24_template_c.sql

-- sql/25_hmac_c.sql

-- sql/26_job_c.sql

-- sql/30_event_tables.sql

-- sql/31_order_tables.sql

-- sql/32_rollup_tables.sql

-- sql/33_job_tables.sql

-- sql/34_report_tables.sql

-- sql/35_delivery_tables.sql

-- sql/36_channel_kinds.sql

-- sql/37_report_rows.sql

-- sql/40_event.sql

-- sql/41_event_partition.sql

-- sql/42_order.sql

-- sql/43_rollup.sql

-- sql/44_job.sql

-- sql/45_report.sql

-- sql/46_channel.sql

-- sql/47_delivery.sql

-- sql/50_pipeline.sql

-- sql/51_maintain.sql

-- sql/60_status.sql

-- sql/90_grants.sql

-- sql/91_dump.sql

