-- sql/34_report_tables.sql
-- What a report is made of: templates with versions, the reports themselves, targets. The rules that
-- need code (next version, one active version, owner) are triggers, made after their functions in
-- 45_report.sql. No key points from reports to templates or channels: a restore loads the tables in
-- any order. ecstats.report_message and ecstats.report_status name what is missing.

CREATE TABLE ecstats.templates (
	name text NOT NULL,
	version int NOT NULL,
	body jsonb NOT NULL,
	active boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	note text,
	CONSTRAINT templates_pkey PRIMARY KEY (name, version),
	CONSTRAINT templates_name_text CHECK (length(name) BETWEEN 1 AND 64 AND name !~ '[[:cntrl:]]'),
	CONSTRAINT templates_version_positive CHECK (version > 0),
	CONSTRAINT templates_body_object CHECK (jsonb_typeof(body) = 'object'),
	CONSTRAINT templates_body_size CHECK (octet_length(body::text) <= 262144)
);
CREATE UNIQUE INDEX templates_one_active ON ecstats.templates (name) WHERE active;
COMMENT ON TABLE ecstats.templates IS
	'Message templates (ecstats_render). INSERT without a version makes the next one and activates it; UPDATE ... SET active = true on an old version rolls back to it; bodies never change';
COMMENT ON COLUMN ecstats.templates.name IS 'Name that reports give';
COMMENT ON COLUMN ecstats.templates.created_at IS 'When this version was written';
COMMENT ON COLUMN ecstats.templates.version IS 'left out at INSERT: the highest version of the name plus 1';
COMMENT ON COLUMN ecstats.templates.body IS
	'a JSON object whose strings are templates: a neutral message (title, markdown, text) that each channel puts into its own form, or a provider''s own form as it is';
COMMENT ON COLUMN ecstats.templates.active IS 'the version that is rendered; at most one a name';
COMMENT ON COLUMN ecstats.templates.note IS 'what changed, for people';

CREATE TABLE ecstats.reports (
	name text NOT NULL,
	owner text NOT NULL DEFAULT CURRENT_USER,
	dataset text NOT NULL DEFAULT 'daily',
	audience text COLLATE "C",
	template text NOT NULL,
	condition jsonpath,
	channels text[] NOT NULL DEFAULT '{}',
	schedule text,
	timezone text,
	priority int NOT NULL DEFAULT 5,
	ttl interval,
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	CONSTRAINT reports_pkey PRIMARY KEY (name),
	CONSTRAINT reports_name_text CHECK (length(name) BETWEEN 1 AND 64 AND name !~ '[[:cntrl:]]'),
	CONSTRAINT reports_dataset_known
		CHECK (dataset IN ('daily', 'weekly', 'monthly', 'activity', 'custom')),
	CONSTRAINT reports_audience_of_activity
		CHECK (audience IS NULL OR dataset = 'activity' AND length(audience) BETWEEN 1 AND 63),
	CONSTRAINT reports_channels_list
		CHECK (array_position(channels, NULL) IS NULL AND coalesce(array_ndims(channels), 1) = 1
			AND cardinality(channels) <= 100),
	CONSTRAINT reports_timezone_with_schedule CHECK (timezone IS NULL OR schedule IS NOT NULL),
	CONSTRAINT reports_priority_range CHECK (priority BETWEEN 1 AND 9),
	CONSTRAINT reports_ttl_positive CHECK (ttl > interval '0')
);
COMMENT ON TABLE ecstats.reports IS
	'What is sent, when and where. An enabled report of dataset daily without a schedule goes out at the first close of each day; one of dataset activity where ecstats_report is called for it, as the job recall does';
COMMENT ON COLUMN ecstats.reports.name IS 'Name of the report';
COMMENT ON COLUMN ecstats.reports.enabled IS 'false: not queued by itself';
COMMENT ON COLUMN ecstats.reports.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.reports.owner IS 'the role that wrote the row (forced; a superuser may set another)';
COMMENT ON COLUMN ecstats.reports.dataset IS 'what ecstats_report_data gives to the template: daily (the figures of a day) or activity (levels, tags and an audience of the latest scored day)';
COMMENT ON COLUMN ecstats.reports.audience IS 'the tag whose users a report of dataset activity is about (ecstats.tag_rules); NULL: none';
COMMENT ON COLUMN ecstats.reports.template IS 'name in ecstats.templates; its active version is rendered';
COMMENT ON COLUMN ecstats.reports.condition IS
	'jsonpath predicate over ecstats_report_data, e.g. $.dod.gmv < -0.1; the report is sent only where it is true. NULL: always';
COMMENT ON COLUMN ecstats.reports.channels IS 'names in ecstats.channels; empty: nothing is sent';
COMMENT ON COLUMN ecstats.reports.schedule IS 'cron expression of its own; NULL: at the close of the day';
COMMENT ON COLUMN ecstats.reports.timezone IS 'zone of schedule; NULL: config.timezone';
COMMENT ON COLUMN ecstats.reports.priority IS '1 (first) to 9, handed to its deliveries';
COMMENT ON COLUMN ecstats.reports.ttl IS 'how long a delivery may wait before it expires; NULL: for ever';

-- Only what adds up over days can have a target for a month; a ratio or a distinct count of persons
-- cannot be summed. The order counts are the sum of the days' counts.
CREATE TABLE ecstats.targets (
	period text NOT NULL,
	metric text NOT NULL,
	value numeric NOT NULL,
	CONSTRAINT targets_pkey PRIMARY KEY (period, metric),
	CONSTRAINT targets_period_form CHECK (
		CASE WHEN period !~ '^\d{4}(-(0[1-9]|1[0-2])(-\d\d)?)?$' OR period ~ '^0000' THEN false
			 WHEN length(period) = 10 THEN
				make_date(substr(period, 1, 4)::int, substr(period, 6, 2)::int, substr(period, 9, 2)::int) IS NOT NULL
			 ELSE true END),
	CONSTRAINT targets_metric_adds_up CHECK (metric IN
		('gmv', 'order_count', 'quantity', 'paid_amount', 'paid_order_count', 'refund_amount',
		 'refund_order_count', 'net_amount', 'abnormal_order_count', 'event_count', 'pv', 'new_user_count')),
	CONSTRAINT targets_value_positive CHECK (value > 0 AND value < 'Infinity')
);
COMMENT ON TABLE ecstats.targets IS 'What a year, a month or a day is meant to reach; reports compare what is reached so far';
COMMENT ON COLUMN ecstats.targets.value IS 'What is to be reached';
COMMENT ON COLUMN ecstats.targets.period IS 'business days: 2026 (year), 2026-11 (month) or 2026-11-23 (day)';
COMMENT ON COLUMN ecstats.targets.metric IS 'a column of ecstats.daily_kpi that adds up over days';

-- A report that could not be made or queued: the close went on without it.
CREATE TABLE ecstats.report_failures (
	id		bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	report	text NOT NULL,
	day		date NOT NULL,
	channel	text,
	sqlstate text NOT NULL,
	reason	text NOT NULL
);
CREATE INDEX report_failures_at ON ecstats.report_failures (at);
COMMENT ON TABLE ecstats.report_failures IS 'Reports that could not be queued at a close, with the reason; SELECT ecstats_report(report, day) tries again';
COMMENT ON COLUMN ecstats.report_failures.id IS 'Number of the failure';
COMMENT ON COLUMN ecstats.report_failures.at IS 'When it failed';
COMMENT ON COLUMN ecstats.report_failures.report IS 'Name in ecstats.reports';
COMMENT ON COLUMN ecstats.report_failures.day IS 'Business day that the report was for';
COMMENT ON COLUMN ecstats.report_failures.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN ecstats.report_failures.reason IS 'The failure in words';
COMMENT ON COLUMN ecstats.report_failures.channel IS 'NULL: the message itself could not be made';
