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
-- Settings: one typed row. And the two helpers that every table with shipped rows uses.

-- A restore loads rows over those that CREATE EXTENSION ships: the restored row replaces the one of
-- its key. pg_dump and pg_restore switch check_function_bodies off; nobody else does by accident.
-- Trigger arguments: the key's columns.
CREATE FUNCTION ecstats.restore_replace() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT pg_catalog.current_setting('check_function_bodies')::boolean THEN
		EXECUTE format('DELETE FROM %I.%I t WHERE ROW(%s) = ROW(%s)', TG_TABLE_SCHEMA, TG_TABLE_NAME,
					   (SELECT string_agg(format('t.%I', a), ', ' ORDER BY o)
						  FROM unnest(TG_ARGV) WITH ORDINALITY AS u(a, o)),
					   (SELECT string_agg(format('($1).%I', a), ', ' ORDER BY o)
						  FROM unnest(TG_ARGV) WITH ORDINALITY AS u(a, o)))
			USING NEW;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.restore_replace() IS
	'Trigger: while a dump is restored, a row replaces the shipped one of its key. Arguments: key columns.';

CREATE FUNCTION ecstats.timezone_valid(name text) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_timezone_valid';
COMMENT ON FUNCTION ecstats.timezone_valid(text) IS
	'True where name is an IANA time zone (POSIX strings such as FOO5BAR are not).';

CREATE TABLE ecstats.config (
	singleton				boolean PRIMARY KEY DEFAULT true,
	timezone				text NOT NULL,
	day_starts_at			time NOT NULL DEFAULT '00:00',
	currency				text NOT NULL DEFAULT 'CNY',
	close_grace				interval NOT NULL DEFAULT '10 minutes',
	score_window_days		integer NOT NULL DEFAULT 7,
	score_half_life_days	numeric NOT NULL DEFAULT 7,
	event_retention			interval,
	order_retention			interval,
	log_retention			interval DEFAULT '90 days',
	abnormal_statuses		text[] NOT NULL DEFAULT '{cancelled,failed,risk}',
	delivery_lease			interval NOT NULL DEFAULT '1 minute',
	max_running_jobs		integer NOT NULL DEFAULT 10,
	operators_channel		text,
	CONSTRAINT config_is_one_row CHECK (singleton),
	CONSTRAINT config_timezone_is_an_iana_name CHECK (ecstats.timezone_valid(timezone)),
	CONSTRAINT config_day_starts_at_before_24_00 CHECK (day_starts_at < '24:00'),
	CONSTRAINT config_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
	CONSTRAINT config_close_grace_0_to_7_days CHECK (close_grace BETWEEN interval '0' AND interval '7 days'),
	CONSTRAINT config_score_window_1_to_366_days CHECK (score_window_days BETWEEN 1 AND 366),
	CONSTRAINT config_score_half_life_above_0 CHECK (score_half_life_days > 0 AND score_half_life_days <= 36600),
	CONSTRAINT config_retention_at_least_1_day CHECK (event_retention >= interval '1 day'
		AND order_retention >= interval '1 day' AND log_retention >= interval '1 day'),
	CONSTRAINT config_abnormal_statuses_without_null CHECK (array_position(abnormal_statuses, NULL) IS NULL),
	CONSTRAINT config_delivery_lease_5_seconds_to_1_hour CHECK (delivery_lease BETWEEN interval '5 seconds' AND interval '1 hour'),
	CONSTRAINT config_max_running_jobs_1_to_1000 CHECK (max_running_jobs BETWEEN 1 AND 1000)
);
COMMENT ON TABLE ecstats.config IS 'Settings of ecstats: one row, changed with UPDATE';
COMMENT ON COLUMN ecstats.config.singleton IS 'Always true: there is one row';
COMMENT ON COLUMN ecstats.config.timezone IS 'The shop''s clock, an IANA name; refused while stored days depend on the old one';
COMMENT ON COLUMN ecstats.config.day_starts_at IS 'Local time at which a business day begins; refused while stored days depend on the old one';
COMMENT ON COLUMN ecstats.config.currency IS 'ISO 4217 code; decides the decimals of the money filter';
COMMENT ON COLUMN ecstats.config.close_grace IS 'How long after a day''s end it may be called complete';
COMMENT ON COLUMN ecstats.config.score_window_days IS 'Activity score: days that count, the last one included';
COMMENT ON COLUMN ecstats.config.score_half_life_days IS 'Activity score: age in days at which an event counts half';
COMMENT ON COLUMN ecstats.config.event_retention IS 'How long raw events are kept; NULL: for ever';
COMMENT ON COLUMN ecstats.config.order_retention IS 'How long raw order lines are kept; NULL: for ever';
COMMENT ON COLUMN ecstats.config.log_retention IS 'How long rejects, attempts, runs and settled deliveries are kept; NULL: for ever';
COMMENT ON COLUMN ecstats.config.abnormal_statuses IS 'Order statuses that count as abnormal';
COMMENT ON COLUMN ecstats.config.delivery_lease IS 'How long a claimed delivery may stay unanswered before it is put back';
COMMENT ON COLUMN ecstats.config.max_running_jobs IS 'Job runs at once';
COMMENT ON COLUMN ecstats.config.operators_channel IS 'Name of the channel that is told of failures; NULL: nobody is told';

CREATE FUNCTION ecstats.config_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_config_changed';
COMMENT ON FUNCTION ecstats.config_changed() IS
	'Trigger on ecstats.config: every backend reads the settings again at its next use.';

CREATE FUNCTION ecstats.config_keep() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF pg_catalog.current_setting('check_function_bodies')::boolean THEN
		RAISE EXCEPTION 'the row of ecstats.config cannot be deleted'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Change it with UPDATE ecstats.config SET …';
	END IF;
	RETURN OLD;
END
$$;
COMMENT ON FUNCTION ecstats.config_keep() IS 'Trigger on ecstats.config: its row stays.';

CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('singleton');
CREATE TRIGGER keep BEFORE DELETE ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.config_keep();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.config_changed();

-- The shop's clock starts as the database's; a TimeZone that is no IANA name becomes UTC.
INSERT INTO ecstats.config (timezone)
SELECT CASE WHEN ecstats.timezone_valid(current_setting('TimeZone')) THEN current_setting('TimeZone') ELSE 'UTC' END;

-- sql/11_day.sql
-- The business day, and the note of days whose raw rows changed.

-- ecstats_day: the business day that an instant belongs to, by the shop's clock (config.timezone,
-- config.day_starts_at). The only place that decides this.
-- Arguments: ts, an instant (now() if left out). Result: a date. Errors: 22008 for infinity.
CREATE FUNCTION @extschema@.ecstats_day(ts timestamptz DEFAULT now()) RETURNS date
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_day_of_instant';
COMMENT ON FUNCTION @extschema@.ecstats_day(timestamptz) IS
	'Business day of an instant (default now()) by config.timezone and config.day_starts_at. 22008 for infinity.';

CREATE FUNCTION ecstats.day_of(ts timestamptz) RETURNS date
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_day_of_instant';
COMMENT ON FUNCTION ecstats.day_of(timestamptz) IS 'What ecstats_day answers, for internal use.';

CREATE FUNCTION ecstats.day_start(day date) RETURNS timestamptz
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_day_start_of';
COMMENT ON FUNCTION ecstats.day_start(date) IS
	'First instant of a business day, which lasts until day_start(day + 1). A start that a change of clocks skips is the first instant after the gap. 22008 for infinity.';

-- Appended at commit by the sessions that wrote the rows (day_mark.c), taken by the run that computes
-- the day. No key, no index, no trigger: writers must never wait for each other here.
CREATE TABLE ecstats.day_marks (
	day	date NOT NULL
);
COMMENT ON TABLE ecstats.day_marks IS 'Ended days whose raw rows changed since they were computed last; one row a transaction and day';

CREATE FUNCTION ecstats.row_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_row_changed';
COMMENT ON FUNCTION ecstats.row_changed() IS
	'Trigger after DELETE or UPDATE of a raw row: notes the days of its old content. Arguments: the timestamptz columns that decide them.';

-- TRUNCATE does not say what was there: every day that is stored is computed again.
CREATE FUNCTION ecstats.rows_truncated() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.day_marks (day) SELECT k.day FROM ecstats.daily_kpi k;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.rows_truncated() IS 'Trigger after TRUNCATE of raw rows: marks every stored day.';

-- sql/12_intake.sql
-- What the intake of events and of orders have in common.

-- ecstats.on_error_check: the modes of an intake. Result: true for 'raise'.
CREATE FUNCTION ecstats.on_error_check(on_error text) RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF on_error IS NULL OR on_error NOT IN ('raise', 'quarantine') THEN
		RAISE EXCEPTION 'on_error is neither raise nor quarantine'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(on_error, 60)),
				  HINT = 'raise refuses the whole call, quarantine stores the good ones and keeps the others in ecstats.rejects.';
	END IF;
	RETURN on_error = 'raise';
END
$$;
COMMENT ON FUNCTION ecstats.on_error_check(text) IS 'True for raise, false for quarantine, 22023 for anything else.';

-- What could not be stored, whole, with the reason. Shared by events and orders.
CREATE TABLE ecstats.rejects (
	id			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	received_at	timestamptz NOT NULL DEFAULT now(),
	source		text NOT NULL,
	payload		jsonb NOT NULL,
	sqlstate	text NOT NULL,
	reason		text NOT NULL
);
CREATE INDEX rejects_received_at ON ecstats.rejects (received_at);
COMMENT ON TABLE ecstats.rejects IS 'Elements that broke a rule under on_error => ''quarantine''; ecstats_retry_rejects takes those that are valid now';
COMMENT ON COLUMN ecstats.rejects.source IS '''track'' or ''order''';
COMMENT ON COLUMN ecstats.rejects.payload IS 'The element as it was sent';

-- sql/20_event_c.sql
-- What an event must be, in C.

CREATE FUNCTION ecstats.event_check(event_time timestamptz, user_id text, event text, page_url text, extra jsonb)
	RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_event_check';
COMMENT ON FUNCTION ecstats.event_check(timestamptz, text, text, text, jsonb) IS
	'CHECK of ecstats.events: true, or 23514 with the column, the value in DETAIL and the cure in HINT. Notes the row''s day.';

CREATE FUNCTION ecstats.event_parse(payload jsonb, raise boolean)
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event text, event_id uuid, page_url text,
				   extra jsonb, sqlstate text, reason text, payload_element jsonb)
	LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'ecstats_event_parse';
COMMENT ON FUNCTION ecstats.event_parse(jsonb, boolean) IS
	'One row an element of an event payload (an object or an array of at most 100,000): columns of ecstats.events, or sqlstate, reason and the element. raise: the first bad element is an error.';

-- sql/21_order_c.sql
-- What an order line must be, in C.

CREATE FUNCTION ecstats.order_check(order_id text, line_no integer, order_time timestamptz, user_id text,
											   product_id text, region text, channel text, quantity integer,
											   amount numeric, status text, paid_time timestamptz, extra jsonb)
	RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_order_check';
COMMENT ON FUNCTION ecstats.order_check(text, integer, timestamptz, text, text, text, text, integer, numeric, text, timestamptz, jsonb) IS
	'CHECK of ecstats.order_lines: true, or 23514 with the column, the value in DETAIL and the cure in HINT. Notes the row''s days.';

CREATE FUNCTION ecstats.order_parse(payload jsonb, raise boolean)
	RETURNS TABLE (ord integer, order_id text, line_no integer, order_time timestamptz, user_id text, product_id text,
				   region text, channel text, quantity integer, amount numeric, status text, paid_time timestamptz,
				   extra jsonb, sqlstate text, reason text, payload_element jsonb)
	LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'ecstats_order_parse';
COMMENT ON FUNCTION ecstats.order_parse(jsonb, boolean) IS
	'One row an order line of a payload (an order or an array of at most 100,000), line_no NULL for an order without items, or one row a bad order with sqlstate, reason and the order. raise: the first bad order is an error.';

-- sql/22_rollup_c.sql

-- sql/23_cron_c.sql

-- sql/24_template_c.sql

-- sql/25_hmac_c.sql

-- sql/26_job_c.sql

-- sql/30_event_tables.sql
-- Events: append-only, partitioned by business day.

-- No key and no index here: a dump restores partitions that bring their own (an index of the parent
-- would be built twice). Whoever makes a partition makes its unique index.
CREATE TABLE ecstats.events (
	event_time	timestamptz NOT NULL DEFAULT now(),
	user_id		text COLLATE "C" NOT NULL,
	event		text COLLATE "C" NOT NULL,
	event_id	uuid,
	page_url	text,
	extra		jsonb NOT NULL DEFAULT '{}',
	CONSTRAINT events_valid CHECK (ecstats.event_check(event_time, user_id, event, page_url, extra))
) PARTITION BY RANGE (event_time);
COMMENT ON TABLE ecstats.events IS 'What users did; written by INSERT, COPY or ecstats_track; partitioned by business day';
COMMENT ON COLUMN ecstats.events.event_time IS 'When it happened; 2000-01-01 to one day ahead of the clock';
COMMENT ON COLUMN ecstats.events.user_id IS 'Who, 1 to 128 bytes';
COMMENT ON COLUMN ecstats.events.event IS 'What: a name of [a-z][a-z0-9_.:-]*, 1 to 64 bytes; its meaning is in ecstats.event_types';
COMMENT ON COLUMN ecstats.events.event_id IS 'Makes (event_time, user_id, event_id) unique; rows without one are not deduplicated';
COMMENT ON COLUMN ecstats.events.page_url IS 'Where, at most 2048 bytes';
COMMENT ON COLUMN ecstats.events.extra IS 'Everything else: an object of at most 16 kB and 64 members';

-- Rows of days that have no partition. They count in every figure at once.
CREATE TABLE ecstats.events_default PARTITION OF ecstats.events DEFAULT;
CREATE UNIQUE INDEX events_default_key ON ecstats.events_default (event_time, user_id, event_id);
COMMENT ON TABLE ecstats.events_default IS 'Events of days that have no partition yet; CALL ecstats_maintain() moves them';

CREATE TRIGGER changed AFTER DELETE OR UPDATE ON ecstats.events
	FOR EACH ROW EXECUTE FUNCTION ecstats.row_changed('event_time');
ALTER TABLE ecstats.events ENABLE ALWAYS TRIGGER changed;
CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.events
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated();
ALTER TABLE ecstats.events ENABLE ALWAYS TRIGGER truncated;
CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.events_default
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated();
ALTER TABLE ecstats.events_default ENABLE ALWAYS TRIGGER truncated;

-- The vocabulary. Unlisted events are accepted, counted and weigh 0.
CREATE TABLE ecstats.event_types (
	event			text COLLATE "C" PRIMARY KEY CHECK (event ~ '^[a-z][a-z0-9_.:-]{0,63}$'),
	weight			numeric NOT NULL DEFAULT 0,
	is_page_view	boolean NOT NULL DEFAULT false,
	funnel_step		integer UNIQUE CHECK (funnel_step BETWEEN 1 AND 100),
	description		text,
	CONSTRAINT event_types_weight_is_finite CHECK (weight BETWEEN -1e9 AND 1e9)
);
COMMENT ON TABLE ecstats.event_types IS 'What event names mean; a change holds from a day''s next computation';
COMMENT ON COLUMN ecstats.event_types.weight IS 'Points of one event in the activity score';
COMMENT ON COLUMN ecstats.event_types.is_page_view IS 'Counts in pv';
COMMENT ON COLUMN ecstats.event_types.funnel_step IS 'Position in the funnel, unique; NULL: not a step';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.event_types
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('event');

INSERT INTO ecstats.event_types (event, weight, is_page_view, funnel_step, description) VALUES
	('login',			1.0, false, NULL, 'Signed in'),
	('page_view',		0.3, true,	NULL, 'Opened a page'),
	('action_click',	0.5, false, NULL, 'Clicked something that does something'),
	('click',			0.5, false, NULL, 'Clicked'),
	('view_item',		0.3, true,	1,	  'Opened a product''s page'),
	('add_to_cart',		0.5, false, 2,	  'Put a product into the cart'),
	('begin_checkout',	0.8, false, 3,	  'Began to check out'),
	('purchase',		1.0, false, 4,	  'Bought'),
	('refund',			0,	 false, NULL, 'Got money back'),
	('remove_from_cart', 0,	 false, NULL, 'Took a product out of the cart'),
	('search',			0.3, false, NULL, 'Searched'),
	('sign_up',			1.0, false, NULL, 'Registered'),
	('share',			0.5, false, NULL, 'Shared a page or a product'),
	('favorite',		0,	 false, NULL, 'Put a product on the list of favourites');

-- sql/31_order_tables.sql
-- Orders, a row a line.

CREATE TABLE ecstats.order_lines (
	order_id	text COLLATE "C" NOT NULL,
	line_no		integer NOT NULL,
	order_time	timestamptz NOT NULL,
	user_id		text COLLATE "C",
	product_id	text COLLATE "C" NOT NULL,
	region		text COLLATE "C" NOT NULL DEFAULT 'unknown',
	channel		text COLLATE "C" NOT NULL DEFAULT 'unknown',
	quantity	integer NOT NULL,
	amount		numeric NOT NULL,
	status		text NOT NULL DEFAULT 'placed',
	paid_time	timestamptz,
	extra		jsonb NOT NULL DEFAULT '{}',
	PRIMARY KEY (order_id, line_no, order_time),
	CONSTRAINT order_lines_valid CHECK (ecstats.order_check(order_id, line_no, order_time, user_id, product_id, region,
															channel, quantity, amount, status, paid_time, extra))
);
-- A day's lines are found by these two, and so are the days that have lines.
CREATE INDEX order_lines_order_time ON ecstats.order_lines (order_time);
CREATE INDEX order_lines_paid_time ON ecstats.order_lines (paid_time) WHERE paid_time IS NOT NULL;
COMMENT ON TABLE ecstats.order_lines IS 'Order lines: sales (quantity > 0) and returns (quantity < 0); may be inserted, updated and deleted';
COMMENT ON COLUMN ecstats.order_lines.order_time IS 'When it was ordered; of a return, when goods or money went back';
COMMENT ON COLUMN ecstats.order_lines.user_id IS 'The customer; NULL: unknown';
COMMENT ON COLUMN ecstats.order_lines.amount IS 'The line''s total, not the unit price; negative on a return line';
COMMENT ON COLUMN ecstats.order_lines.paid_time IS 'When it was paid; NULL: not paid';

CREATE TRIGGER changed AFTER DELETE OR UPDATE ON ecstats.order_lines
	FOR EACH ROW EXECUTE FUNCTION ecstats.row_changed('order_time', 'paid_time');
ALTER TABLE ecstats.order_lines ENABLE ALWAYS TRIGGER changed;
CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.order_lines
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated();
ALTER TABLE ecstats.order_lines ENABLE ALWAYS TRIGGER truncated;

-- sql/32_rollup_tables.sql

-- sql/33_job_tables.sql

-- sql/34_report_tables.sql

-- sql/35_delivery_tables.sql

-- sql/36_channel_kinds.sql

-- sql/37_report_rows.sql

-- sql/40_event.sql
-- Intake of events as JSON.

-- ecstats.event_partitions_try: partitions for the days of a payload that are recent enough (last 7 days to
-- tomorrow) and have none. Cheap when all are there, which is nearly always.
CREATE FUNCTION ecstats.event_partitions_try(payload jsonb, at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	today date := ecstats.day_of(at);
	d date;
BEGIN
	IF NOT EXISTS (SELECT FROM generate_series(-7, 1) AS i WHERE NOT ecstats.event_partition_exists(today + i)) THEN
		RETURN;
	END IF;
	FOR d IN SELECT DISTINCT ecstats.day_of(p.event_time) AS day FROM ecstats.event_parse(payload, false) p
			  WHERE p.sqlstate IS NULL ORDER BY day LOOP
		IF d BETWEEN today - 7 AND today + 1 THEN
			PERFORM ecstats.event_partition_try(d);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.event_partitions_try(jsonb, timestamptz) IS
	'Makes missing partitions for the days of a payload from 7 days before at''s to the day after it.';

-- ecstats.event_conflicts: elements whose key (event_time, user_id, event_id) is stored with other
-- content. Called only when fewer rows were stored than sent.
CREATE FUNCTION ecstats.event_conflicts(payload jsonb)
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event_id uuid)
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT p.ord, p.event_time, p.user_id, p.event_id
	  FROM ecstats.event_parse(payload, false) p
	  JOIN ecstats.events e ON e.event_time = p.event_time AND e.user_id = p.user_id AND e.event_id = p.event_id
	 WHERE p.sqlstate IS NULL
	   AND (e.event, e.page_url, e.extra) IS DISTINCT FROM (p.event COLLATE "C", p.page_url, p.extra)
	 ORDER BY p.ord $$;
COMMENT ON FUNCTION ecstats.event_conflicts(jsonb) IS
	'Elements of a payload whose key is stored with other content.';

-- ecstats_track: stores one event or an array of them.
-- Arguments: payload, an object {event, timestamp, user_id, page_url?, extra?, event_id?} or an array of at
-- most 100,000; on_error 'raise' (the first bad element is an error and nothing is stored) or 'quarantine'.
-- Result: how many were stored; repeats are not. Errors: 23514, 22007, 23502, 22023 for a bad element with
-- its number and value, 23505 for a key that is stored with other content.
-- Touches ecstats.events and its partitions, ecstats.rejects.
CREATE FUNCTION @extschema@.ecstats_track(payload jsonb, on_error text DEFAULT 'raise') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	raise_errors boolean := ecstats.on_error_check(on_error);
	valid bigint;
	stored bigint;
	conflict record;
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.event_partitions_try(payload, clock_timestamp());

	WITH parsed AS MATERIALIZED (
		SELECT * FROM ecstats.event_parse(payload, raise_errors)
	), stored_rows AS (
		INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT p.event_time, p.user_id, p.event, p.event_id, p.page_url, p.extra
		  FROM parsed p WHERE p.sqlstate IS NULL
		ON CONFLICT DO NOTHING
		RETURNING 1
	), rejected AS (
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'track', p.payload_element, p.sqlstate, p.reason
		  FROM parsed p WHERE p.sqlstate IS NOT NULL ORDER BY p.ord
	)
	SELECT count(*) FILTER (WHERE p.sqlstate IS NULL), (SELECT count(*) FROM stored_rows)
	  INTO valid, stored
	  FROM parsed p;

	IF stored < valid THEN
		FOR conflict IN SELECT * FROM ecstats.event_conflicts(payload) LOOP
			IF raise_errors THEN
				RAISE EXCEPTION 'an event with this key is stored with other content'
					USING ERRCODE = 'unique_violation', SCHEMA = 'ecstats', TABLE = 'events', COLUMN = 'event_id',
						  DETAIL = format('Element %s of the payload, event_id %s.', conflict.ord, conflict.event_id),
						  HINT = 'Give every event an event_id of its own; correct a stored one with UPDATE.';
			END IF;
			INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
			VALUES ('track', CASE jsonb_typeof(payload) WHEN 'array' THEN payload -> (conflict.ord - 1) ELSE payload END,
					'23505', format('an event with this key is stored with other content. event_id %s. '
						'Give every event an event_id of its own; correct a stored one with UPDATE.', conflict.event_id));
		END LOOP;
	END IF;
	RETURN stored;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_track(jsonb, text) IS
	'Stores one event or an array of them (at most 100,000) and returns how many were stored; repeats are not. on_error: raise (default) or quarantine. Errors 23514, 23502, 22007, 22023 name element, member and value; 23505: key stored with other content.';

-- sql/41_event_partition.sql
-- One partition a business day: made ahead, by ecstats_track for recent days, by ecstats_prepare before
-- a back-fill. Rows of a day without one wait in the default partition.

CREATE FUNCTION ecstats.event_partition_name(day date) RETURNS name
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
	$$ SELECT ('events_' || pg_catalog.to_char(day::timestamp, 'YYYYMMDD'))::pg_catalog.name $$;
COMMENT ON FUNCTION ecstats.event_partition_name(date) IS 'Name of the partition of a business day, in schema ecstats.';

CREATE FUNCTION ecstats.event_partition_exists(day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
	$$ SELECT pg_catalog.to_regclass('ecstats.' || ecstats.event_partition_name(day)) IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.event_partition_exists(date) IS 'True where the business day has its partition.';

-- The new table stands apart until it is attached: CREATE … PARTITION OF would lock all writers out.
CREATE FUNCTION ecstats.event_partition_create(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part name := ecstats.event_partition_name(day);
BEGIN
	EXECUTE format('CREATE TABLE ecstats.%I (LIKE ecstats.events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
	EXECUTE format('CREATE UNIQUE INDEX %I ON ecstats.%I (event_time, user_id, event_id)', part || '_key', part);
	EXECUTE format('CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.%I FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated()', part);
	EXECUTE format('ALTER TABLE ecstats.%I ENABLE ALWAYS TRIGGER truncated', part);
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_create(date) IS 'Creates the table of a business day with its unique index, not attached yet.';

CREATE FUNCTION ecstats.event_partition_attach(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	from_time timestamptz := ecstats.day_start(day);
	to_time timestamptz := ecstats.day_start(day + 1);
	part name := ecstats.event_partition_name(day);
BEGIN
	-- With a range CHECK the ATTACH need not read the rows that were moved in.
	EXECUTE format('ALTER TABLE ecstats.%I ADD CONSTRAINT range CHECK (event_time >= %L AND event_time < %L)',
				   part, from_time, to_time);
	EXECUTE format('ALTER TABLE ecstats.events ATTACH PARTITION ecstats.%I FOR VALUES FROM (%L) TO (%L)',
				   part, from_time, to_time);
	EXECUTE format('ALTER TABLE ecstats.%I DROP CONSTRAINT range', part);
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_attach(date) IS 'Makes the table of a business day a partition of ecstats.events.';

-- ecstats.event_partition_try: for the middle of somebody's intake. Never waits long, never fails: where
-- a lock is busy or rows of the day are waiting already, the default partition takes the rows.
CREATE FUNCTION ecstats.event_partition_try(day date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
	IF ecstats.event_partition_exists(day)
		OR NOT pg_try_advisory_xact_lock(hashtext('ecstats.event_partition'), day - date '2000-01-01') THEN
		RETURN false;
	END IF;
	BEGIN
		IF EXISTS (SELECT FROM ecstats.events_default d
					WHERE d.event_time >= ecstats.day_start(day) AND d.event_time < ecstats.day_start(day + 1)) THEN
			RETURN false;
		END IF;
		PERFORM ecstats.event_partition_create(day);
		PERFORM ecstats.event_partition_attach(day);
		RETURN true;
	EXCEPTION WHEN lock_not_available OR check_violation OR duplicate_table OR unique_violation
		OR duplicate_object OR deadlock_detected THEN
		RETURN false;
	END;
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_try(date) IS
	'Makes a day''s partition if that needs no wait above 100 ms and no rows of the day are in the default partition; false otherwise.';

-- ecstats.event_partition_make: makes a day's partition and moves its waiting rows there. Writers wait
-- while rows are moved (about 2 microseconds a row); readers only while it is attached.
CREATE FUNCTION ecstats.event_partition_make(day date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	from_time timestamptz := ecstats.day_start(day);
	to_time timestamptz := ecstats.day_start(day + 1);
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('ecstats.event_partition'), day - date '2000-01-01');
	IF ecstats.event_partition_exists(day) THEN
		RETURN false;
	END IF;
	PERFORM ecstats.event_partition_create(day);
	LOCK TABLE ONLY ecstats.events IN SHARE ROW EXCLUSIVE MODE;
	LOCK TABLE ONLY ecstats.events_default IN SHARE ROW EXCLUSIVE MODE;
	-- Moved rows are not changed rows: their days need not be computed again.
	PERFORM set_config('ecstats.suppress_marks', 'on', true);
	EXECUTE format('WITH moved AS (DELETE FROM ONLY ecstats.events_default WHERE event_time >= $1 AND event_time < $2 RETURNING *)
					INSERT INTO ecstats.%I SELECT * FROM moved', ecstats.event_partition_name(day))
		USING from_time, to_time;
	PERFORM set_config('ecstats.suppress_marks', 'off', true);
	LOCK TABLE ONLY ecstats.events IN ACCESS EXCLUSIVE MODE;
	PERFORM ecstats.event_partition_attach(day);
	RETURN true;
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_make(date) IS
	'Makes a day''s partition and moves the day''s rows out of the default partition into it; false if it was there.';

-- ecstats.event_stray_days: the days that have rows in the default partition, by hops along its index.
CREATE FUNCTION ecstats.event_stray_days() RETURNS SETOF date
	LANGUAGE sql STABLE AS $$
	WITH RECURSIVE hop(day) AS (
		SELECT ecstats.day_of((SELECT d.event_time FROM ecstats.events_default d ORDER BY d.event_time LIMIT 1))
		UNION ALL
		SELECT ecstats.day_of((SELECT d.event_time FROM ecstats.events_default d
								WHERE d.event_time >= ecstats.day_start(h.day + 1) ORDER BY d.event_time LIMIT 1))
		  FROM hop h WHERE h.day IS NOT NULL
	)
	SELECT h.day FROM hop h WHERE h.day IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.event_stray_days() IS 'Business days with rows in the default partition, ascending.';

-- ecstats_prepare: makes the partitions of a range of days, for a back-fill.
-- Arguments: first and last business day. Result: how many were made. Errors: 22023 for a range that is
-- empty or longer than 1,100 days (a transaction's locks are limited). Touches ecstats.events.
CREATE FUNCTION @extschema@.ecstats_prepare(from_day date, to_day date) RETURNS integer
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '30s' AS $$
DECLARE
	made integer := 0;
	d date;
BEGIN
	IF from_day IS NULL OR to_day IS NULL OR from_day > to_day OR NOT isfinite(from_day) OR NOT isfinite(to_day) THEN
		RAISE EXCEPTION 'the range of days is empty'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('From %s to %s.', from_day, to_day),
				  HINT = 'Give the first and the last business day.';
	END IF;
	IF to_day - from_day >= 1100 THEN
		RAISE EXCEPTION 'the range has % days, the most is 1100', to_day - from_day + 1
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Prepare a few years in several calls.';
	END IF;
	FOR d IN SELECT from_day + i FROM generate_series(0, to_day - from_day) AS i LOOP
		IF ecstats.event_partition_make(d) THEN
			made := made + 1;
		END IF;
	END LOOP;
	RETURN made;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_prepare(date, date) IS
	'Makes the partitions of business days from_day to to_day (at most 1,100) and moves waiting rows there; returns how many were made. 22023 for a bad range, 55P03 if a lock stays busy for 30 s.';

-- sql/42_order.sql
-- Intake of orders as JSON.

-- ecstats.order_lock: one writer at a time for the same order, so that two replacements never mix their
-- lines. 1,024 locks for all orders: a batch must not fill the lock table.
CREATE FUNCTION ecstats.order_lock(payload jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bucket integer;
BEGIN
	FOR bucket IN SELECT DISTINCT hashtext(p.order_id) & 1023
					FROM ecstats.order_parse(payload, false) p WHERE p.sqlstate IS NULL ORDER BY 1 LOOP
		PERFORM pg_advisory_xact_lock(hashtext('ecstats.order_lines'), bucket);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.order_lock(jsonb) IS 'Waits until no other transaction replaces an order of this payload.';

-- ecstats.order_replace: the lines of each (order_id, order_time) become those of the payload.
CREATE FUNCTION ecstats.order_replace(payload jsonb, raise_errors boolean) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH parsed AS MATERIALIZED (
		SELECT p.*, max(p.ord) OVER (PARTITION BY p.order_id, p.order_time) AS last_ord
		  FROM ecstats.order_parse(payload, raise_errors) p
	), good AS (				-- an order that is sent twice: the last one holds
		SELECT * FROM parsed p WHERE p.sqlstate IS NULL AND p.ord = p.last_ord
	), removed AS (
		DELETE FROM ecstats.order_lines l
		 USING (SELECT DISTINCT g.order_id, g.order_time FROM good g) o
		 WHERE l.order_id = o.order_id AND l.order_time = o.order_time
		   AND NOT EXISTS (SELECT FROM good g WHERE g.order_id = l.order_id AND g.order_time = l.order_time
												AND g.line_no = l.line_no)
		RETURNING 1
	), written AS (
		INSERT INTO ecstats.order_lines AS l (order_id, line_no, order_time, user_id, product_id, region, channel,
											  quantity, amount, status, paid_time, extra)
		SELECT g.order_id, g.line_no, g.order_time, g.user_id, g.product_id, g.region, g.channel,
			   g.quantity, g.amount, g.status, g.paid_time, g.extra
		  FROM good g WHERE g.line_no IS NOT NULL
		ON CONFLICT (order_id, line_no, order_time) DO UPDATE
		   SET user_id = excluded.user_id, product_id = excluded.product_id, region = excluded.region,
			   channel = excluded.channel, quantity = excluded.quantity, amount = excluded.amount,
			   status = excluded.status, paid_time = excluded.paid_time, extra = excluded.extra
		 WHERE (l.user_id, l.product_id, l.region, l.channel, l.quantity, l.amount, l.status, l.paid_time, l.extra)
			   IS DISTINCT FROM
			   (excluded.user_id, excluded.product_id, excluded.region, excluded.channel, excluded.quantity,
				excluded.amount, excluded.status, excluded.paid_time, excluded.extra)
		RETURNING 1
	), rejected AS (
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'order', p.payload_element, p.sqlstate, p.reason
		  FROM parsed p WHERE p.sqlstate IS NOT NULL ORDER BY p.ord
	)
	SELECT (SELECT count(*) FROM removed) + (SELECT count(*) FROM written) $$;
COMMENT ON FUNCTION ecstats.order_replace(jsonb, boolean) IS
	'Replaces the lines of every order of a payload and returns the lines changed; bad orders go to ecstats.rejects or raise.';

-- ecstats_order: stores one order or an array of them.
-- Arguments: payload, {order_id, order_time | timestamp, user_id?, region?, channel?, status?, paid_time?,
-- items: [{line_no?, product_id, quantity, amount}]} or an array of at most 100,000; on_error as in ecstats_track.
-- It replaces the lines of (order_id, order_time). Result: lines changed; a repeat returns 0.
-- Errors: as ecstats_track. Touches ecstats.order_lines, ecstats.rejects.
CREATE FUNCTION @extschema@.ecstats_order(payload jsonb, on_error text DEFAULT 'raise') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	raise_errors boolean := ecstats.on_error_check(on_error);
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.order_lock(payload);
	RETURN ecstats.order_replace(payload, raise_errors);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_order(jsonb, text) IS
	'Stores one order or an array of them (at most 100,000): replaces the lines of (order_id, order_time) and returns the lines changed, 0 for a repeat. on_error: raise (default) or quarantine. Errors name element, item, member and value.';

-- sql/43_rollup.sql

-- sql/44_job.sql

-- sql/45_report.sql

-- sql/46_channel.sql

-- sql/47_delivery.sql

-- sql/50_pipeline.sql
-- The only place where areas meet.

-- ecstats_retry_rejects: takes those rejects that are valid now.
-- Arguments: source 'track' or 'order', NULL for both. Result: rejects taken in. Rejects that are still bad
-- stay, with today's reason. Touches ecstats.rejects and what the intake touches.
CREATE FUNCTION @extschema@.ecstats_retry_rejects(source text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r record;
	taken bigint := 0;
	code text;
	message text;
	more text;
BEGIN
	IF source IS NOT NULL AND source NOT IN ('track', 'order') THEN
		RAISE EXCEPTION 'there are no rejects of this source'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(source, 60)),
				  HINT = 'Sources are track and order; leave it out for both.';
	END IF;
	FOR r IN SELECT j.id, j.source AS origin, j.payload FROM ecstats.rejects j
			  WHERE ecstats_retry_rejects.source IS NULL OR j.source = ecstats_retry_rejects.source
			  ORDER BY j.id FOR UPDATE LOOP
		BEGIN
			IF r.origin = 'track' THEN
				PERFORM @extschema@.ecstats_track(r.payload, 'raise');
			ELSE
				PERFORM @extschema@.ecstats_order(r.payload, 'raise');
			END IF;
			DELETE FROM ecstats.rejects j WHERE j.id = r.id;
			taken := taken + 1;
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
			UPDATE ecstats.rejects j SET sqlstate = code, reason = concat_ws('. ', message, nullif(more, ''))
			 WHERE j.id = r.id AND (j.sqlstate <> code);
		END;
	END LOOP;
	RETURN taken;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_retry_rejects(text) IS
	'Takes in the rejects of a source (track, order, or NULL for both) that are valid now and returns how many; the others stay.';

-- sql/51_maintain.sql

-- sql/60_status.sql

-- sql/90_grants.sql

-- sql/91_dump.sql

