-- sql/00_header.sql
-- The install script runs as superuser: only pg_catalog is searched, so that no planted operator or
-- function is picked up. Callable functions go to @extschema@, everything else to schema ecstats.

\echo Use "CREATE EXTENSION ecstats" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_conversion c
					WHERE c.condefault AND pg_encoding_to_char(c.conforencoding) = getdatabaseencoding()
					  AND pg_encoding_to_char(c.contoencoding) = 'UTF8')
		AND getdatabaseencoding() <> 'UTF8' THEN
		RAISE EXCEPTION 'ecstats needs a database whose text can be converted to UTF-8'
			USING ERRCODE = 'feature_not_supported',
				  DETAIL = format('Messages leave in UTF-8, and there is no conversion from this one''s encoding, %s.', getdatabaseencoding()),
				  HINT = 'CREATE DATABASE name TEMPLATE template0 ENCODING ''UTF8'', or any other encoding than SQL_ASCII and MULE_INTERNAL.';
	END IF;
END
$$;

CREATE SCHEMA ecstats;
COMMENT ON SCHEMA ecstats IS 'ecstats: tables, views and internal functions; what users call is ecstats_* in the schema of the extension';

CREATE FUNCTION @extschema@.ecstats_version() RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_version';
COMMENT ON FUNCTION @extschema@.ecstats_version() IS
	'Version of the loaded ecstats library, major.minor. The pusher refuses another major version.';

-- What ships beyond ASCII: pieces are in UTF-8, the install script is ASCII so that it loads in every
-- encoding. The assembly writes \u escapes, and this reads them.
CREATE FUNCTION ecstats.native_text(escaped text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_native_text';
COMMENT ON FUNCTION ecstats.native_text(text) IS
	'The text that \u escapes of four hexadecimal digits stand for; NULL where the encoding of the database cannot hold it.';
-- sql/10_config.sql
-- Settings: one typed row. And the two helpers that every table with shipped rows uses.

-- Whether a dump is being restored (or the extension created): pg_dump's scripts switch check_function_bodies
-- off. Anybody may: only a session that began as superuser is believed. Written out wherever it is asked,
-- because these triggers run as the writer, who need not be allowed any function.

-- A restore loads rows over those that CREATE EXTENSION ships: the restored row replaces the one of
-- its key.
-- Trigger arguments: the key's columns.
CREATE FUNCTION ecstats.restore_replace() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
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

-- Where users may delete shipped rows, or give their place in another unique column to their own: the first
-- statement of a restore clears what CREATE EXTENSION shipped. These rows and the extension's own catalog row
-- were written by one transaction. (A restore in a single transaction makes no difference between shipped and
-- restored rows: the setting does.)
CREATE FUNCTION ecstats.restore_clear() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	flag text := 'ecstats.restored_' || TG_TABLE_NAME;
BEGIN
	IF (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) AND coalesce(current_setting(flag, true), '') <> 'yes' THEN
		PERFORM set_config(flag, 'yes', true);
		EXECUTE format('DELETE FROM %I.%I t WHERE t.xmin = (SELECT e.xmin FROM pg_extension e WHERE e.extname = ''ecstats'')',
					   TG_TABLE_SCHEMA, TG_TABLE_NAME);
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.restore_clear() IS
	'Statement trigger: while a dump is restored, the rows that CREATE EXTENSION shipped make room for the dumped ones.';

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
	rollup_memory			integer NOT NULL DEFAULT 4096,
	rollup_workers			integer NOT NULL DEFAULT 0,
	CONSTRAINT config_is_one_row CHECK (singleton),
	CONSTRAINT config_timezone_is_an_iana_name CHECK (ecstats.timezone_valid(timezone)),
	CONSTRAINT config_day_starts_at_before_24_00 CHECK (day_starts_at < '24:00'),
	CONSTRAINT config_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
	CONSTRAINT config_close_grace_0_to_7_days CHECK (close_grace BETWEEN interval '0' AND interval '7 days'),
	CONSTRAINT config_score_window_1_to_366_days CHECK (score_window_days BETWEEN 1 AND 366),
	CONSTRAINT config_score_half_life_0_001_to_36600_days CHECK (score_half_life_days BETWEEN 0.001 AND 36600),
	CONSTRAINT config_retention_at_least_1_day CHECK (event_retention >= interval '1 day'
		AND order_retention >= interval '1 day' AND log_retention >= interval '1 day'),
	CONSTRAINT config_abnormal_statuses_without_null CHECK (array_position(abnormal_statuses, NULL) IS NULL),
	CONSTRAINT config_delivery_lease_5_seconds_to_1_hour CHECK (delivery_lease BETWEEN interval '5 seconds' AND interval '1 hour'),
	CONSTRAINT config_max_running_jobs_1_to_1000 CHECK (max_running_jobs BETWEEN 1 AND 1000),
	CONSTRAINT config_rollup_memory_1_mb_to_1_tb CHECK (rollup_memory BETWEEN 1 AND 1048576),
	CONSTRAINT config_rollup_workers_0_to_64 CHECK (rollup_workers BETWEEN 0 AND 64)
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
COMMENT ON COLUMN ecstats.config.rollup_memory IS 'Megabytes that computing a day may take, some 100 bytes a user of the day; above it, in any of its processes, it fails with 53200';
COMMENT ON COLUMN ecstats.config.rollup_workers IS 'Parallel workers that may help to scan a large day''s events; they pay where processors are idle and shared memory is in huge pages';

CREATE FUNCTION ecstats.config_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_config_changed';
COMMENT ON FUNCTION ecstats.config_changed() IS
	'Trigger on ecstats.config: every backend reads the settings again at its next use.';

CREATE FUNCTION ecstats.config_keep() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		RAISE EXCEPTION 'the row of ecstats.config cannot be deleted'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Change it with UPDATE ecstats.config SET ...';
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
ALTER TABLE ecstats.config ENABLE ALWAYS TRIGGER changed;

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

-- Partitions are named by their day. (ecstats.events comes later: it is looked up by name.)
CREATE FUNCTION ecstats.day_partition_name(day date) RETURNS name
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
	$$ SELECT ('events_' || pg_catalog.to_char(day::timestamp, 'YYYYMMDD'))::pg_catalog.name $$;
COMMENT ON FUNCTION ecstats.day_partition_name(date) IS 'Name of the partition of a business day, in schema ecstats.';

CREATE FUNCTION ecstats.day_partition_exists(day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
	$$ SELECT EXISTS (SELECT FROM pg_catalog.pg_inherits i
					   WHERE i.inhrelid = pg_catalog.to_regclass('ecstats.' || ecstats.day_partition_name(day))
						 AND i.inhparent = pg_catalog.to_regclass('ecstats.events')) $$;
COMMENT ON FUNCTION ecstats.day_partition_exists(date) IS 'True where the business day has its partition, attached.';

-- ecstats.day_partition_taken: the name is in use, be it by a partition that was detached.
CREATE FUNCTION ecstats.day_partition_taken(day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
	$$ SELECT pg_catalog.to_regclass('ecstats.' || ecstats.day_partition_name(day)) IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.day_partition_taken(date) IS 'True where a table has the name of the business day''s partition, attached or not.';

CREATE FUNCTION ecstats.day_noted() RETURNS SETOF date
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'ecstats_day_noted';
COMMENT ON FUNCTION ecstats.day_noted() IS
	'Business days whose raw rows this transaction wrote, changed or removed: their marks are written when it commits.';

-- Appended at commit by the sessions that wrote the rows (day_mark.c), taken by the run that computes
-- the day. No key, no index, no trigger: writers must never wait for each other here.
CREATE TABLE ecstats.day_marks (
	day	date NOT NULL
);
COMMENT ON TABLE ecstats.day_marks IS 'Ended days whose raw rows changed since they were computed last; one row a transaction and day';
COMMENT ON COLUMN ecstats.day_marks.day IS 'Business day';

CREATE FUNCTION ecstats.row_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_row_changed';
COMMENT ON FUNCTION ecstats.row_changed() IS
	'Trigger after DELETE or UPDATE of a raw row: notes the days of its old content. Arguments: the timestamptz columns that decide them.';

-- What looks before and after it locks, or asks who is under way, must not have a snapshot from before.
CREATE FUNCTION ecstats.must_be_read_committed(what text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
		RAISE EXCEPTION '% under READ COMMITTED only', what
			USING ERRCODE = 'invalid_transaction_state',
				  DETAIL = format('The transaction is %s: it does not see what was committed since it began.',
								  upper(current_setting('transaction_isolation'))),
				  HINT = 'SET TRANSACTION ISOLATION LEVEL READ COMMITTED first.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.must_be_read_committed(text) IS '25000 unless the transaction is READ COMMITTED; what names what is refused.';

CREATE FUNCTION ecstats.guard_wanted() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_guard_wanted';
COMMENT ON FUNCTION ecstats.guard_wanted() IS
	'Statement trigger: from the commit on, DROP EXTENSION ecstats needs CASCADE.';

-- TRUNCATE does not say what was there: every day that is stored is computed again.
CREATE FUNCTION ecstats.rows_truncated() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.day_marks (day) SELECT k.day FROM ecstats.daily_kpi k EXCEPT SELECT m.day FROM ecstats.day_marks m;
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

CREATE FUNCTION ecstats.in_transaction_block() RETURNS boolean
	LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'ecstats_in_transaction_block';
COMMENT ON FUNCTION ecstats.in_transaction_block() IS 'True between BEGIN and COMMIT: what this statement locks stays locked after it.';

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
-- A landed row (56_pipeline_cdc.sql) is found again by what it was.
CREATE INDEX rejects_landed ON ecstats.rejects USING hash (payload) WHERE left(source, 5) = 'land:';
COMMENT ON TABLE ecstats.rejects IS 'Elements that broke a rule under on_error => ''quarantine''; ecstats_retry_rejects takes those that are valid now, a landed row comes again with its next change';
COMMENT ON COLUMN ecstats.rejects.id IS 'Number of the reject, in the order of their coming';
COMMENT ON COLUMN ecstats.rejects.received_at IS 'When it came';
COMMENT ON COLUMN ecstats.rejects.sqlstate IS 'SQLSTATE of the rule that it broke';
COMMENT ON COLUMN ecstats.rejects.reason IS 'The rule in words, with the value and the cure';
COMMENT ON COLUMN ecstats.rejects.source IS '''track'', ''order'', or ''land:'' and a table that replication fills';
COMMENT ON COLUMN ecstats.rejects.payload IS 'The element as it was sent';

-- sql/20_event_c.sql
-- What an event must be, in C.

CREATE FUNCTION ecstats.event_check(event_time timestamptz, user_id text, event text, page_url text, extra jsonb)
	RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_event_check';
COMMENT ON FUNCTION ecstats.event_check(timestamptz, text, text, text, jsonb) IS
	'CHECK of ecstats.events: true, or 23514 with the column, the value in DETAIL and the cure in HINT. Notes the row''s day.';

CREATE FUNCTION ecstats.event_parse(payload jsonb, raise boolean, at timestamptz DEFAULT clock_timestamp())
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event text, event_id uuid, page_url text,
				   extra jsonb, sqlstate text, reason text, payload_element jsonb)
	LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'ecstats_event_parse';
COMMENT ON FUNCTION ecstats.event_parse(jsonb, boolean, timestamptz) IS
	'One row an element of an event payload (an object or an array of at most 100,000): columns of ecstats.events, or sqlstate, reason and the element. raise: the first bad element is an error. at: the clock to judge by.';

CREATE FUNCTION ecstats.event_store(payload jsonb, raise boolean, at timestamptz) RETURNS bigint
	LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'ecstats_event_store';
COMMENT ON FUNCTION ecstats.event_store(jsonb, boolean, timestamptz) IS
	'Stores the valid elements of an event payload in batches and returns how many there were; NULL, or SQLSTATE ZE001 after some rows were stored, where INSERT has to do it. 23505 for a key that is there. raise: the first bad element is an error.';

CREATE FUNCTION ecstats.event_days_wanted(payload jsonb, at timestamptz) RETURNS date[]
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_event_days_wanted';
COMMENT ON FUNCTION ecstats.event_days_wanted(jsonb, timestamptz) IS
	'Business days of a payload''s elements, from 7 before at''s to the day after it, whose partition is to be made; NULL where there are none.';
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

CREATE FUNCTION ecstats.order_buckets(payload jsonb) RETURNS integer[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_order_buckets';
COMMENT ON FUNCTION ecstats.order_buckets(jsonb) IS
	'Numbers from 0 to 1023 of the orders of a payload, by order_id, sorted, each once; without reading the rest of an order.';
-- sql/22_rollup_c.sql
-- The one-pass rollup. Nothing here writes: the pipeline stores what these functions return.

-- Purpose:   everything that is counted from the events of a range, in one pass.
-- Arguments: from_time (inclusive), to_time (exclusive); page_views: names that are page views; funnel:
--            names of the steps, in order; with_users: also who did what; names: event names that have a
--            number, in the order of these, from 1 ('' for a number without a name).
-- Result:    kind 't' a = events, b = page views; 'v' a = distinct users; 'e' name = event, a = events,
--            b = distinct users; 'f' name = funnel[a], b = users with this and every earlier step, in
--            any order; and with users: 'n' name = an event that is not in names, a = the number that it
--            has in this result; 'u' packed = a block of a users, the first of them name. What is not
--            named is NULL. In no particular order.
-- Errors:    0A000 a partition that is not an ordinary table, or row-level security; 22004 a NULL in an
--            array; 42501; 53200 more than config.rollup_memory of users; 54000.
-- Touches:   reads ecstats.events (the partitions that meet the range, and the default one).
CREATE FUNCTION ecstats.rollup_scan_events(from_time timestamptz, to_time timestamptz, page_views text[], funnel text[],
		with_users boolean, names text[] DEFAULT '{}')
	RETURNS TABLE (kind "char", name text, a bigint, b bigint, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 1000000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_events';
COMMENT ON FUNCTION ecstats.rollup_scan_events(timestamptz, timestamptz, text[], text[], boolean, text[]) IS
	'One pass over the events of [from_time, to_time): rows of kind t (events, page views), v (users), e (by event), f (funnel steps), with_users also n (numbers of events that names has not) and u (blocks of users). Errors: 0A000, 22004, 42501, 53200 above config.rollup_memory.';

-- Purpose:   whether the scan of events got help.
-- Arguments: none.
-- Result:    parallel workers that took part in this session's last rollup_scan_events; 0 if it ran in one process
--            (config.rollup_workers = 0, tables below 8 x min_parallel_table_scan_size, no worker to be had).
-- Errors:    none.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_scan_workers() RETURNS int
	LANGUAGE c VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_workers';
COMMENT ON FUNCTION ecstats.rollup_scan_workers() IS
	'Parallel workers that took part in the last rollup_scan_events of this session; 0 if it ran in one process.';

-- Purpose:   everything that is counted from the order lines of a range.
-- Arguments: from_time (inclusive), to_time (exclusive); abnormal: statuses that make a sale line abnormal;
--            with_ids: also which orders and buyers there are, and what each buyer ordered and paid.
-- Result:    by order_time: kind 't' quantity, amount, orders (distinct order_id), buyers (distinct user_id
--            that is not NULL) of sale lines, refund = minus the amount of return lines; 'r' orders of
--            return lines; 'a' orders of sale lines with an abnormal status; 's' as 't', for each
--            product_id, region and channel. By paid_time: 'p' amount, orders, buyers of sale lines.
--            With ids: 'o' packed = a block of quantity orders, 'b' of buyers, the first of them product_id;
--            each has its roles as a number: 1 sale, 2 return, 4 abnormal, 8 paid, added up. And 'u' for each known
--            user_id (product_id), region and channel of sale lines: orders and amount by order_time, refund = the
--            amount by paid_time; an order counts once for a user, where the lowest line_no of its sale lines is.
--            Money has the largest display scale that was put in; what is not named is NULL.
-- Errors:    22003 a sum of quantities out of range; 22004 a NULL in abnormal; 53200 more than config.rollup_memory.
-- Touches:   reads ecstats.order_lines.
CREATE FUNCTION ecstats.rollup_scan_orders(from_time timestamptz, to_time timestamptz, abnormal text[], with_ids boolean DEFAULT false)
	RETURNS TABLE (kind "char", product_id text, region text, channel text, quantity bigint, amount numeric, orders bigint,
		buyers bigint, refund numeric, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_orders';
COMMENT ON FUNCTION ecstats.rollup_scan_orders(timestamptz, timestamptz, text[], boolean) IS
	'One pass over the order lines of [from_time, to_time): rows of kind t (totals), r (returns), a (abnormal), p (paid in the range), s (by product_id, region, channel), with_ids also o and b (blocks of orders and buyers with their roles) and u (by user, region and channel). Errors: 22003, 22004, 53200 above config.rollup_memory.';

-- Purpose:   the distinct users, orders and buyers of a week or a month.
-- Arguments: from_day (inclusive), to_day (exclusive).
-- Result:    one row, over the days of the range that are stored in daily_kpi: uv distinct visitors; distinct order_id
--            of sale lines (orders), return lines, sale lines with an abnormal status, and sale lines paid on one of the
--            days; distinct known user_id of the first (buyers) and the last (payers). An id that is on several days
--            counts once.
-- Errors:    22023 more than 400 stored days; 42501; 53200 more than config.rollup_memory, which takes days and not ids; XX001 a
--            corrupt block.
-- Touches:   reads ecstats.daily_kpi, user_day and order_day, never raw rows.
CREATE FUNCTION ecstats.rollup_period(from_day date, to_day date)
	RETURNS TABLE (uv bigint, orders bigint, return_orders bigint, abnormal_orders bigint, paid_orders bigint, buyers bigint, payers bigint)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000000 ROWS 1
	AS 'MODULE_PATHNAME', 'ecstats_rollup_period';
COMMENT ON FUNCTION ecstats.rollup_period(date, date) IS
	'Distinct visitors, orders and buyers by role over the stored days of [from_day, to_day), from the ids that closes left behind. Errors: 22023 above 400 stored days, 53200 above config.rollup_memory, XX001 if a block is corrupt.';

-- Purpose:   the users of a block, with their counts.
-- Arguments: packed: a block of ecstats.user_day.
-- Result:    a row for each user and event, by ascending user_id and event number (ecstats.event_names).
-- Errors:    XX001 no such block, with the place.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_users_unpack(packed bytea)
	RETURNS TABLE (user_id text, event_no int, event_count bigint)
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 250
	AS 'MODULE_PATHNAME', 'ecstats_rollup_users_unpack';
COMMENT ON FUNCTION ecstats.rollup_users_unpack(bytea) IS
	'Rows (user_id, event_no, event_count) of a block of ecstats.user_day. Error: XX001 if it is corrupt.';

-- Purpose:   the ids of a block, with their numbers.
-- Arguments: packed: a block of ecstats.order_day or ecstats.first_seen_block.
-- Result:    a row for each id, ascending.
-- Errors:    XX001 no such block, with the place.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_ids_unpack(packed bytea)
	RETURNS TABLE (id text, number bigint)
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 64
	AS 'MODULE_PATHNAME', 'ecstats_rollup_ids_unpack';
COMMENT ON FUNCTION ecstats.rollup_ids_unpack(bytea) IS
	'Rows (id, number) of a block of ecstats.order_day or ecstats.first_seen_block. Error: XX001 if it is corrupt.';

-- Purpose:   who is in some blocks and not in others.
-- Arguments: old, new: blocks of ecstats.user_day, in order.
-- Result:    the user_ids that only old has, ascending.
-- Errors:    22004 a NULL; XX001 a corrupt block, or one that is not in order.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_gone(old bytea[], new bytea[]) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_gone';
COMMENT ON FUNCTION ecstats.rollup_gone(bytea[], bytea[]) IS
	'Ascending user_ids of old blocks of ecstats.user_day that new ones have not. Errors: 22004, XX001.';

-- Purpose:   which of some users are in blocks.
-- Arguments: users: user_ids, ascending in collation "C"; blocks of ecstats.user_day, in order.
-- Result:    those that the blocks have, ascending.
-- Errors:    22004 a NULL; XX001 a corrupt block, or one that is not in order.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_among(users text[], blocks bytea[]) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_among';
COMMENT ON FUNCTION ecstats.rollup_among(text[], bytea[]) IS
	'Those of ascending user_ids that blocks of ecstats.user_day have. Errors: 22004, XX001.';

-- Purpose:   which of some users were not found.
-- Arguments: users, found: user_ids, ascending in collation "C".
-- Result:    the users that are not among found, ascending.
-- Errors:    22004 a NULL.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_without(users text[], found text[]) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_without';
COMMENT ON FUNCTION ecstats.rollup_without(text[], text[]) IS 'Those of ascending user_ids that are not among others, ascending too. Error: 22004.';

-- Purpose:   how many users of a day that is not stored are new on it.
-- Arguments: day; blocks: its users, as in ecstats.user_day, in order.
-- Result:    users first seen on day, for the day itself and each other day that has them now.
-- Errors:    22004 a NULL; 22008 a day before 1999-12-30; XX001 a corrupt block, or one that is not where its ids belong.
-- Touches:   reads ecstats.first_seen_block.
CREATE FUNCTION ecstats.rollup_first_merge(day date, blocks bytea[])
	RETURNS TABLE (kind "char", of_day date, users bigint, first_user text, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 10
	AS 'MODULE_PATHNAME', 'ecstats_rollup_first_merge';
COMMENT ON FUNCTION ecstats.rollup_first_merge(date, bytea[]) IS
	'Rows of kind d: users first seen by day, were the users of these blocks seen on a day. Errors: 22004, 22008, XX001.';

-- Purpose:   what a stored day's users change in who was seen first when.
-- Arguments: day; gone: users that it had and has not any more, ascending, and next: for each of them the next day with
--            an event (NULL: none).
-- Result:    kind 'd' users = how many were first seen on day, for the day itself and each other day that
--            this changed; 'b' a block to be stored (first_user, users, packed), 'x' first_user = key of a stored one
--            that is not any more, unless it is a 'b' too.
-- Errors:    as above; 2202E gone and next are not of the same length.
-- Touches:   reads ecstats.user_day and ecstats.first_seen_block.
CREATE FUNCTION ecstats.rollup_first_merge_stored(day date, gone text[], next date[])
	RETURNS TABLE (kind "char", of_day date, users bigint, first_user text, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_first_merge_stored';
COMMENT ON FUNCTION ecstats.rollup_first_merge_stored(date, text[], date[]) IS
	'Merges a stored day''s users into ecstats.first_seen_block and returns, without writing: d users first seen by day, b blocks to store, x keys of blocks to drop. Errors: 22004, 22008, 2202E, XX001.';
-- Cron expressions (src/cron.c). They depend on the server's zone data, which may be updated: STABLE.

-- ecstats.cron_next: first occurrence after an instant, zone given.
CREATE FUNCTION ecstats.cron_next(expr text, after timestamptz, timezone text)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'ecstats_cron_next'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ecstats.cron_next(text, timestamptz, text) IS
'First occurrence of a cron expression strictly after an instant in a zone; NULL when never again (years 1970 to 2199). 22023: bad expression or unknown zone.';

-- ecstats.cron_check: raises what is wrong with an expression.
CREATE FUNCTION ecstats.cron_check(expr text)
RETURNS void
AS 'MODULE_PATHNAME', 'ecstats_cron_check'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ecstats.cron_check(text) IS
'Raises 22023 with field and position in DETAIL when the cron expression is wrong; returns nothing when it is right.';

-- ecstats.cron_dialect: how an expression is read.
CREATE FUNCTION ecstats.cron_dialect(expr text)
RETURNS text
AS 'MODULE_PATHNAME', 'ecstats_cron_dialect'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ecstats.cron_dialect(text) IS
'unix for five fields and the @names, quartz for six or seven fields. 22023: bad expression.';

-- ecstats_cron_next
-- Purpose:   when a cron expression fires next.
-- Arguments: expr      five fields (unix) or six or seven (Quartz)
--            after     the occurrence lies strictly after this instant
--            timezone  IANA name; NULL is the zone of ecstats.config
-- Result:    an instant of whole seconds, or NULL when never again (years 1970 to 2199).
-- Errors:    22023 with field and position for a bad expression, with the name for an unknown zone.
-- Tables:    ecstats.config (read, when timezone is NULL).
CREATE FUNCTION @extschema@.ecstats_cron_next(expr text,
	after timestamptz DEFAULT pg_catalog.now(), timezone text DEFAULT NULL)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'ecstats_cron_next'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ecstats_cron_next(text, timestamptz, text) IS
'First occurrence of a cron expression strictly after an instant. Arguments: expr (five fields are unix, six or seven are Quartz), after (default now), timezone (IANA name, default the zone of the configuration). NULL when never again (years 1970 to 2199). Errors: 22023 for a bad expression, with field and position, and for an unknown zone.';

-- ecstats_cron_list
-- Purpose:   preview a schedule.
-- Arguments: expr, after, timezone  as in ecstats_cron_next
--            n                      how many occurrences, 0 to 10000
-- Result:    the next n occurrences in order, fewer when there are no more.
-- Errors:    22023 as in ecstats_cron_next, and for n out of range.
-- Tables:    ecstats.config (read, when timezone is NULL).
CREATE FUNCTION @extschema@.ecstats_cron_list(expr text,
	after timestamptz DEFAULT pg_catalog.now(), n int DEFAULT 10, timezone text DEFAULT NULL)
RETURNS SETOF timestamptz
AS 'MODULE_PATHNAME', 'ecstats_cron_list'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION @extschema@.ecstats_cron_list(text, timestamptz, int, text) IS
'The next n (0 to 10000, default 10) occurrences of a cron expression strictly after an instant, in order. Arguments and errors as in ecstats_cron_next.';
-- sql/24_template_c.sql
-- Templates: Mustache without HTML escaping, and filters. doc/template.md is the user's page.

-- ecstats_render(template, data)
-- Purpose:   render every string of a JSON document
-- Arguments: template  any JSON; its strings are Mustache texts, `conditions` picks members
--            data      what the texts see
-- Result:    the document with its strings rendered; null for a null argument
-- Errors:    22023 the template is wrong (JSON path, character, what to write); 54000 output over 1 MB
-- Tables:    none
CREATE FUNCTION @extschema@.ecstats_render(template jsonb, data jsonb) RETURNS jsonb
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_render';
COMMENT ON FUNCTION @extschema@.ecstats_render(jsonb, jsonb) IS
	'Renders every string of a JSON document over data: Mustache (variables, sections, inverted sections, comments, set-delimiter) and filters ({{gmv | money}}). Keys and other values are copied; a member "conditions" picks members. Null for a null argument. Errors: 22023 the template is wrong, with JSON path and character; 54000 output over 1 MB or over a million passes through sections.';

-- Internal twin of ecstats_render.
CREATE FUNCTION ecstats.template_render(template jsonb, data jsonb) RETURNS jsonb
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_render';
COMMENT ON FUNCTION ecstats.template_render(jsonb, jsonb) IS
	'Internal twin of ecstats_render(template, data): same arguments, result and errors.';

-- ecstats.template_check(template)
-- Purpose:   refuse a wrong template when it is stored, not when it is sent
-- Arguments: template  as for ecstats_render
-- Result:    nothing
-- Errors:    22023 with JSON path, character and what was found
-- Tables:    none
CREATE FUNCTION ecstats.template_check(template jsonb) RETURNS void
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_check';
COMMENT ON FUNCTION ecstats.template_check(jsonb) IS
	'Parses every text of a template without rendering it. Returns nothing; raises 22023 with JSON path and character for the first error (unknown filter, unclosed section, bad argument, too deep ...).';
-- sql/25_hmac_c.sql
-- HMAC-SHA256 (C) and the three ways in which providers use it. Instants are arguments.

CREATE FUNCTION ecstats.hmac_sha256(key bytea, message bytea) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_hmac_sha256';
COMMENT ON FUNCTION ecstats.hmac_sha256(bytea, bytea) IS
	'HMAC-SHA256 of message under key, 32 bytes; either may be empty.';

-- DingTalk: the secret is the key, "<ms>\n<secret>" the message. Base64 is percent-encoded exactly
-- once: of its alphabet only + / = need it.
CREATE FUNCTION ecstats.sign_dingtalk(secret text, ms bigint) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
	pg_catalog.encode(ecstats.hmac_sha256(pg_catalog.convert_to(secret, 'UTF8'),
		pg_catalog.convert_to(ms::text || E'\n' || secret, 'UTF8')), 'base64'),
	'+', '%2B'), '/', '%2F'), '=', '%3D');
COMMENT ON FUNCTION ecstats.sign_dingtalk(text, bigint) IS
	'Value of the query parameter sign for timestamp = ms (milliseconds since 1970), percent-encoded once.';

-- Feishu: "<s>\n<secret>" is the key and the message is empty.
CREATE FUNCTION ecstats.sign_feishu(secret text, s bigint) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.encode(ecstats.hmac_sha256(
	pg_catalog.convert_to(s::text || E'\n' || secret, 'UTF8'), ''::bytea), 'base64');
COMMENT ON FUNCTION ecstats.sign_feishu(text, bigint) IS
	'Value of the body member sign for timestamp = s (seconds since 1970).';

-- The keys of a Standard Webhooks secret: several secrets, separated by blanks, while one is being
-- rotated out. An error never shows the secret.
CREATE FUNCTION ecstats.webhook_keys(secret text) RETURNS bytea[]
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part text;
	digits text;
	keys bytea[] := '{}';
BEGIN
	FOREACH part IN ARRAY regexp_split_to_array(btrim(secret, E' \t\r\n'), '\s+') LOOP
		digits := rtrim(regexp_replace(part, '^whsec_', ''), '=');
		IF digits = '' OR digits !~ '^[A-Za-z0-9+/]+$' OR length(digits) % 4 = 1 THEN
			RAISE EXCEPTION 'secret number % is not a Standard Webhooks secret', cardinality(keys) + 1
				USING ERRCODE = '22023',
					DETAIL = 'A secret is base64, with or without whsec_ before it; it is not shown here.',
					HINT = 'Set channels.secret to the value that the receiver gave you; separate several by a blank.';
		END IF;
		keys := keys || decode(rpad(digits, (length(digits) + 3) / 4 * 4, '='), 'base64');
	END LOOP;
	RETURN keys;
END $$;
COMMENT ON FUNCTION ecstats.webhook_keys(text) IS
	'Keys of a Standard Webhooks secret: base64, whsec_ and padding optional, several separated by blanks. 22023 when it is none.';

CREATE FUNCTION ecstats.sign_standard_webhook(secret text, id text, ts bigint, body text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT pg_catalog.string_agg('v1,' || pg_catalog.encode(ecstats.hmac_sha256(k.key,
		pg_catalog.convert_to(id || '.' || ts::text || '.' || body, 'UTF8')), 'base64'), ' ' ORDER BY k.n)
	FROM pg_catalog.unnest(ecstats.webhook_keys(secret)) WITH ORDINALITY AS k(key, n));
COMMENT ON FUNCTION ecstats.sign_standard_webhook(text, text, bigint, text) IS
	'Value of the header webhook-signature: one v1 signature per secret. ts is in seconds; body is signed as it is sent (UTF-8).';
-- sql/26_job_c.sql
-- What the job area has in C: a look at the command, the worker of a run, the wait for it.

CREATE FUNCTION ecstats.job_check_command(command text) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_job_check_command';
COMMENT ON FUNCTION ecstats.job_check_command(text) IS
	'Raises when a job''s command does not parse (42601), is empty (22023) or copies from or to a client (0A000). Names are not looked up.';

CREATE FUNCTION ecstats.job_start_worker(run_id bigint, claimed_at timestamptz, role oid, name text,
	keep boolean, chain boolean) RETURNS boolean
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ecstats_job_start_worker';
COMMENT ON FUNCTION ecstats.job_start_worker(bigint, timestamptz, oid, text, boolean, boolean) IS
	'Launches the background worker of a claimed run, logged in as role; false: no worker slot is free. keep: job_wait waits for it. chain: it launches a waiting run when it ends. Superusers only: use job_launch.';

CREATE FUNCTION ecstats.job_wait(milliseconds int) RETURNS int
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ecstats_job_wait';
COMMENT ON FUNCTION ecstats.job_wait(int) IS
	'Waits until a worker that this session launched with keep ends, at most that many milliseconds; returns how many are still going.';
-- sql/26_source_c.sql
-- What the source area has in C: the query of a source, run as its owner under a security-restricted context.

CREATE FUNCTION ecstats.source_check_query(query text) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_source_check_query';
COMMENT ON FUNCTION ecstats.source_check_query(text) IS
	'Raises unless query is the name of a relation or one SELECT (42601, 22023). Names are not looked up.';

CREATE FUNCTION ecstats.source_rows(target text, source text, owner oid, query text, from_time timestamptz,
											   to_time timestamptz, timezone text, timeout_ms integer)
	RETURNS TABLE (batch jsonb)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'ecstats_source_rows';
COMMENT ON FUNCTION ecstats.source_rows(text, text, oid, text, timestamptz, timestamptz, text, integer) IS
	'Runs the query of a source as owner, read-only, with from_time and to_time as $1 and $2, and returns its rows as arrays of elements of the intake. Times without a zone are of timezone. Superusers only: use ecstats_collect. 57014 past timeout_ms.';

CREATE FUNCTION ecstats.source_instant(source text, owner oid, query text, from_time timestamptz, to_time timestamptz,
												  timezone text, timeout_ms integer)
	RETURNS timestamptz
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ecstats_source_instant';
COMMENT ON FUNCTION ecstats.source_instant(text, oid, text, timestamptz, timestamptz, text, integer) IS
	'Runs the watermark query of a source as ecstats.source_rows runs its query, and returns its one instant; NULL where it says nothing. Superusers only.';
-- sql/27_activity_c.sql
-- Scores and cohorts from stored days. Nothing here writes, and settings are arguments.

-- Purpose:   the decayed score of users, in one pass over the stored days.
-- Arguments: as_of: the day of the scores; since (not later): first day of the range; window: days that count, as_of
--            included; half_life, in days; weights by event number (ecstats.event_names) from 1, NULL is 0; shares and
--            limits of the levels high and mid: the share of users with a higher score that there must be fewer of, or
--            the least score; NULL where the other one holds.
-- Result:    a row for each user with an event on a stored day from since, or from 14 days before the window of as_of,
--            to as_of: score (sum over the window of count x weight x 0.5 ^ (age in days / half_life)), the score of the
--            day before, both levels by ecstats.activity_levels' rule, last day with an event, days of the window with an
--            event, first day ever, last of the 15 days up to as_of on which the level was high, and whether an event is
--            on a day from since. By ascending ranges of users, in no particular order in them.
--            Equal histories have equal scores to the last bit.
-- Errors:    22003 counts that cannot be; 22023 a window, half-life or weight that cannot be, more than 400 stored days;
--            42501; 53200 more than config.rollup_memory; XX001 a corrupt block.
-- Touches:   reads ecstats.daily_kpi, user_day and first_seen_block, never raw rows.
CREATE FUNCTION ecstats.score_scan(as_of date, since date, window_days int, half_life float8, weights numeric[], shares numeric[], limits float8[])
	RETURNS TABLE (user_id text, score float8, previous_score float8, level text, previous_level text, last_active_day date,
		active_days int, first_seen date, last_high_day date, in_range boolean)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000000 ROWS 100000
	AS 'MODULE_PATHNAME', 'ecstats_activity_scan';
COMMENT ON FUNCTION ecstats.score_scan(date, date, int, float8, numeric[], numeric[], float8[]) IS
	'Scores, levels and days of users as of a day, in one pass over stored days; settings are arguments. Errors: 22003, 22023, 42501, 53200 above config.rollup_memory, XX001.';

-- Purpose:   who came back.
-- Arguments: from_day, to_day (both inclusive).
-- Result:    for each stored day of the range and each age of 1, 7 and 30 days, the day that many days before it, if
--            users were first seen on it: how many, and how many of these have an event on the day of the range.
-- Errors:    22023 no such range, more than 400 stored days; 42501; 53200; XX001.
-- Touches:   reads ecstats.daily_kpi, user_day and first_seen_block.
CREATE FUNCTION ecstats.activity_cohorts(from_day date, to_day date)
	RETURNS TABLE (cohort_day date, age_days int, cohort_size bigint, retained bigint)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 30
	AS 'MODULE_PATHNAME', 'ecstats_activity_cohorts';
COMMENT ON FUNCTION ecstats.activity_cohorts(date, date) IS
	'Users first seen 1, 7 and 30 days before the stored days of a range, and how many of them came back on it. Errors: 22023, 42501, 53200, XX001.';

-- sql/27_activity_tag_c.sql
-- Rules of tags, in C: what one may be, what it asks for, and for whom it holds.

-- The CHECK of ecstats.tag_rules: called in the name of whoever writes a rule.
CREATE FUNCTION ecstats.tag_check(rule jsonpath) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_check';
COMMENT ON FUNCTION ecstats.tag_check(jsonpath) IS
	'CHECK of ecstats.tag_rules: true, or 42703 the rule asks for what no column of ecstats.user_profile is, 42704 it has a variable, 22023 it is no predicate, 54000 it is too long.';

CREATE FUNCTION ecstats.tag_columns() RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_columns_all';
COMMENT ON FUNCTION ecstats.tag_columns() IS 'Columns that the rule of a tag may ask for: those of ecstats.user_profile.';

CREATE FUNCTION ecstats.tag_columns(rule jsonpath) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_columns';
COMMENT ON FUNCTION ecstats.tag_columns(jsonpath) IS 'Columns that a rule asks for, in the order of ecstats.user_profile. Errors: as ecstats.tag_check.';

-- Stable and not immutable: times with a zone are compared with dates in the session's.
CREATE FUNCTION ecstats.tag_matches(columns text[], tags text[], rules jsonpath[], VARIADIC "any") RETURNS text[]
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_matches';
COMMENT ON FUNCTION ecstats.tag_matches(text[], text[], jsonpath[], "any") IS
	'Those of the tags whose rule holds for a user: columns names what the rules ask for, and a value for each follows. NULL where none holds.';

CREATE FUNCTION ecstats.tag_seen(columns text[], VARIADIC "any") RETURNS jsonb
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_seen';
COMMENT ON FUNCTION ecstats.tag_seen(text[], "any") IS
	'Columns of a profile as the rules see them: numbers exact, days as YYYY-MM-DD.';
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
-- TRUNCATE of the whole fires the trigger of each partition: the table itself needs none.
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
	CONSTRAINT event_types_weight_is_finite CHECK (weight BETWEEN -1e9 AND 1e9),
	CONSTRAINT event_types_weight_0_or_from_1e_18 CHECK (weight = 0 OR abs(weight) >= 1e-18)
);
COMMENT ON TABLE ecstats.event_types IS 'What event names mean; a change holds from a day''s next computation';
COMMENT ON COLUMN ecstats.event_types.event IS 'Event name';
COMMENT ON COLUMN ecstats.event_types.description IS 'What it means, for people';
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
-- After the shipped rows: they are what it clears.
CREATE TRIGGER restore_clear BEFORE INSERT ON ecstats.event_types
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.restore_clear();

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

-- sql/31_source_tables.sql
-- Where rows are taken from: tables, views and foreign tables of this database, and HTTP APIs.

CREATE TABLE ecstats.sources (
	name			text COLLATE "C" PRIMARY KEY,
	kind			text NOT NULL DEFAULT 'query',
	target			text NOT NULL,
	owner			text NOT NULL DEFAULT current_user,
	owner_id		oid,
	enabled			boolean NOT NULL DEFAULT true,
	query			text,
	watermark_query	text,
	url				text,
	headers			text[] NOT NULL DEFAULT '{}',
	secret			text,
	timeout			interval NOT NULL DEFAULT '1 minute',
	on_error		text NOT NULL DEFAULT 'quarantine',
	options			jsonb NOT NULL DEFAULT '{}',
	watermark		timestamptz,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	asks_since		timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_run_at		timestamptz,
	last_day		date,
	last_rows		bigint,
	last_error		text,
	CONSTRAINT sources_name_1_to_100_bytes_without_control CHECK (octet_length(name) BETWEEN 1 AND 100 AND name !~ '[[:cntrl:]]'),
	CONSTRAINT sources_name_is_not_an_intake CHECK (name NOT IN ('track', 'order') AND left(name, 5) <> 'land:'),
	CONSTRAINT sources_kind_is_query_or_http CHECK (kind IN ('query', 'http')),
	CONSTRAINT sources_target_is_events_or_orders CHECK (target IN ('events', 'orders')),
	CONSTRAINT sources_on_error_is_quarantine_or_raise CHECK (on_error IN ('quarantine', 'raise')),
	CONSTRAINT sources_of_kind_query_have_a_query CHECK (kind <> 'query' OR query IS NOT NULL),
	CONSTRAINT sources_of_kind_query_have_no_url CHECK (kind <> 'query' OR url IS NULL AND secret IS NULL AND headers = '{}'),
	CONSTRAINT sources_of_kind_http_have_a_url CHECK (kind <> 'http' OR url IS NOT NULL),
	CONSTRAINT sources_of_kind_http_have_no_query CHECK (kind <> 'http' OR query IS NULL AND watermark_query IS NULL),
	CONSTRAINT sources_query_at_most_1_mb CHECK (octet_length(query) <= 1000000 AND octet_length(watermark_query) <= 1000000),
	CONSTRAINT sources_url_is_http_without_spaces CHECK (octet_length(url) <= 4000 AND url ~ '^https?://[^/?#\s[:cntrl:]]+[^\s[:cntrl:]]*$'),
	CONSTRAINT sources_secret_without_control CHECK (octet_length(secret) BETWEEN 1 AND 8000 AND secret !~ '[[:cntrl:]]'),
	CONSTRAINT sources_timeout_1_ms_to_1_day CHECK (timeout BETWEEN interval '1 millisecond' AND interval '1 day'),
	CONSTRAINT sources_timeout_of_a_request_1_s_to_10_min CHECK (kind <> 'http' OR timeout BETWEEN interval '1 second' AND interval '10 minutes'),
	CONSTRAINT sources_options_is_an_object CHECK (jsonb_typeof(options) = 'object'),
	CONSTRAINT sources_watermark_is_finite CHECK (isfinite(watermark))
);
COMMENT ON TABLE ecstats.sources IS 'Where ecstats_collect takes events and orders from; the owner is the current user, whatever is written (a superuser may set another)';
COMMENT ON COLUMN ecstats.sources.name IS 'Name that ecstats_collect gives';
COMMENT ON COLUMN ecstats.sources.target IS 'events or orders';
COMMENT ON COLUMN ecstats.sources.enabled IS 'false: not asked, and complete does not wait for it';
COMMENT ON COLUMN ecstats.sources.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.sources.last_run_at IS 'When it was asked last';
COMMENT ON COLUMN ecstats.sources.last_day IS 'Business day that it was asked for last';
COMMENT ON COLUMN ecstats.sources.kind IS 'query: a SELECT or a relation of this database; http: an API that the pusher asks';
COMMENT ON COLUMN ecstats.sources.owner IS 'The role that the query is run as';
COMMENT ON COLUMN ecstats.sources.owner_id IS 'Which role that name was when the row was written: a role made later under the same name inherits no source. NULL after a restore, until it is used';
COMMENT ON COLUMN ecstats.sources.query IS 'One SELECT, $1 and $2 (timestamptz) being where the day begins and ends, or schema.name of a relation; columns are taken by their names';
COMMENT ON COLUMN ecstats.sources.watermark_query IS 'One SELECT of one instant up to which the source is complete; without it a run says so itself';
COMMENT ON COLUMN ecstats.sources.url IS 'With {{date}}, {{from}}, {{to}} and {{page}}';
COMMENT ON COLUMN ecstats.sources.headers IS 'Lines "Name: value" sent along; may hold credentials';
COMMENT ON COLUMN ecstats.sources.secret IS 'Sent as "Authorization: Bearer ...", or in the header that options.secret_header names';
COMMENT ON COLUMN ecstats.sources.timeout IS 'Of the query, or of one request';
COMMENT ON COLUMN ecstats.sources.on_error IS 'A row that breaks a rule: quarantine keeps it in ecstats.rejects, raise fails the run';
COMMENT ON COLUMN ecstats.sources.asks_since IS 'When name, kind, target or url were last written: a fetch that began before fails rather than go on elsewhere';
COMMENT ON COLUMN ecstats.sources.options IS 'query: replace, replace_empty; http: items, fields, item_fields, next, first_page, max_pages, max_bytes, max_retries, timezone, secret_header, allow_private';
COMMENT ON COLUMN ecstats.sources.watermark IS 'Everything before it has been taken in; a day is complete when it has passed the day''s end. NULL: nothing yet';
COMMENT ON COLUMN ecstats.sources.last_rows IS 'Rows taken by the last run that succeeded';
COMMENT ON COLUMN ecstats.sources.last_error IS 'Why the last fetch failed (kind http); a failed query is an error of ecstats_collect';

CREATE TABLE ecstats.source_fetches (
	fetch_id		bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source			text COLLATE "C" NOT NULL,
	day				date NOT NULL,
	state			text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'fetching', 'done', 'failed')),
	page			integer NOT NULL DEFAULT 1 CHECK (page >= 1),
	pages			integer NOT NULL DEFAULT 0,
	rows			bigint NOT NULL DEFAULT 0,
	attempts		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz NOT NULL,
	lease_until		timestamptz,
	worker			text,
	error			text,
	created_at		timestamptz NOT NULL,
	finished_at		timestamptz,
	next_url		text,
	next_value		text,
	rejects			bigint[] NOT NULL DEFAULT '{}',
	asks_since		timestamptz
);
CREATE INDEX source_fetches_active ON ecstats.source_fetches (source, fetch_id) WHERE state IN ('pending', 'fetching');
CREATE INDEX source_fetches_finished ON ecstats.source_fetches (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE ecstats.source_fetches IS 'Days asked of HTTP sources, a row a fetch: pending, fetching, pending (next page, or again), then done or failed';
COMMENT ON COLUMN ecstats.source_fetches.fetch_id IS 'Number of the fetch, as ecstats_collect returned it';
COMMENT ON COLUMN ecstats.source_fetches.source IS 'Name in ecstats.sources';
COMMENT ON COLUMN ecstats.source_fetches.day IS 'Business day that is asked for';
COMMENT ON COLUMN ecstats.source_fetches.state IS 'pending, fetching, done or failed';
COMMENT ON COLUMN ecstats.source_fetches.next_attempt_at IS 'Not asked before';
COMMENT ON COLUMN ecstats.source_fetches.lease_until IS 'Until when the pusher may be silent';
COMMENT ON COLUMN ecstats.source_fetches.worker IS 'Pusher that asks now';
COMMENT ON COLUMN ecstats.source_fetches.error IS 'Why it failed, or the latest attempt did';
COMMENT ON COLUMN ecstats.source_fetches.created_at IS 'When it was queued';
COMMENT ON COLUMN ecstats.source_fetches.finished_at IS 'When it was done or failed';
COMMENT ON COLUMN ecstats.source_fetches.page IS 'The page that is asked for next, from 1';
COMMENT ON COLUMN ecstats.source_fetches.pages IS 'Pages taken';
COMMENT ON COLUMN ecstats.source_fetches.rows IS 'Rows taken';
COMMENT ON COLUMN ecstats.source_fetches.attempts IS 'Failed attempts at this page';
COMMENT ON COLUMN ecstats.source_fetches.next_url IS 'Where the answer said that the next page is; may hold credentials';
COMMENT ON COLUMN ecstats.source_fetches.next_value IS 'What the answer said that {{page}} is next';
COMMENT ON COLUMN ecstats.source_fetches.rejects IS 'Rejects that this fetch met so far';

COMMENT ON COLUMN ecstats.source_fetches.asks_since IS 'The source''s asks_since when page 1 was claimed';

-- What the pages of a fetch under way brought, a row a page: an order may go on on another page, so what it no longer
-- has is known at the last page only. Not dumped: a fetch that misses its pages begins anew.
CREATE TABLE ecstats.source_pages (
	fetch_id	bigint NOT NULL,
	page		integer NOT NULL,
	order_ids	text[] NOT NULL,
	order_times	timestamptz[] NOT NULL,
	keys		bigint[] NOT NULL,
	PRIMARY KEY (fetch_id, page)
);
COMMENT ON TABLE ecstats.source_pages IS 'Orders that the pages of a fetch under way brought; gone when it ends';
COMMENT ON COLUMN ecstats.source_pages.order_ids IS 'Whole orders of the page, with order_times';
COMMENT ON COLUMN ecstats.source_pages.keys IS 'A hash of (order_id, line_no, order_time) of each of its lines';

-- Rejects of a source belong to the day that was asked for: its next run takes them back or confirms them.
ALTER TABLE ecstats.rejects ADD COLUMN day date;
CREATE INDEX rejects_source_day ON ecstats.rejects (source, day, jsonb_hash(payload)) WHERE day IS NOT NULL;
COMMENT ON COLUMN ecstats.rejects.source IS '''track'', ''order'', or the name of a source';
COMMENT ON COLUMN ecstats.rejects.day IS 'The business day that the source was asked for; NULL: sent by a client';
-- sql/32_rollup_tables.sql
-- What a closed day leaves behind.

CREATE TABLE ecstats.daily_kpi (
	day						date PRIMARY KEY,
	gmv						numeric NOT NULL DEFAULT 0,
	order_count				bigint NOT NULL DEFAULT 0,
	quantity				bigint NOT NULL DEFAULT 0,
	buyer_count				bigint NOT NULL DEFAULT 0,
	paid_amount				numeric NOT NULL DEFAULT 0,
	paid_order_count		bigint NOT NULL DEFAULT 0,
	payer_count				bigint NOT NULL DEFAULT 0,
	refund_amount			numeric NOT NULL DEFAULT 0,
	refund_order_count		bigint NOT NULL DEFAULT 0,
	net_amount				numeric NOT NULL DEFAULT 0,
	aov						numeric,
	amount_per_buyer		numeric,
	abnormal_order_count	bigint NOT NULL DEFAULT 0,
	event_count				bigint NOT NULL DEFAULT 0,
	pv						bigint NOT NULL DEFAULT 0,
	uv						bigint NOT NULL DEFAULT 0,
	conversion_rate			numeric,
	new_user_count			bigint NOT NULL DEFAULT 0,
	complete				boolean NOT NULL DEFAULT false,
	closed_at				timestamptz,
	revision				integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE ecstats.daily_kpi IS 'Figures of a closed business day, one row a day; written by ecstats_daily';
COMMENT ON COLUMN ecstats.daily_kpi.day IS 'Business day, by config.timezone and config.day_starts_at';
COMMENT ON COLUMN ecstats.daily_kpi.gmv IS 'Amount of sale lines by order_time, every status';
COMMENT ON COLUMN ecstats.daily_kpi.order_count IS 'Distinct order_id of the day''s sale lines';
COMMENT ON COLUMN ecstats.daily_kpi.quantity IS 'Pieces sold';
COMMENT ON COLUMN ecstats.daily_kpi.buyer_count IS 'Distinct known user_id of the day''s sale lines';
COMMENT ON COLUMN ecstats.daily_kpi.paid_amount IS 'Amount of sale lines whose paid_time falls on the day; refunds are not taken off';
COMMENT ON COLUMN ecstats.daily_kpi.paid_order_count IS 'Distinct order_id of these';
COMMENT ON COLUMN ecstats.daily_kpi.payer_count IS 'Distinct known user_id of these';
COMMENT ON COLUMN ecstats.daily_kpi.refund_amount IS 'What went back: minus the amount of return lines by their order_time';
COMMENT ON COLUMN ecstats.daily_kpi.refund_order_count IS 'Distinct order_id of return lines';
COMMENT ON COLUMN ecstats.daily_kpi.net_amount IS 'paid_amount - refund_amount';
COMMENT ON COLUMN ecstats.daily_kpi.aov IS 'gmv / order_count; NULL without orders';
COMMENT ON COLUMN ecstats.daily_kpi.amount_per_buyer IS 'gmv / buyer_count; NULL without buyers';
COMMENT ON COLUMN ecstats.daily_kpi.abnormal_order_count IS 'Distinct order_id of sale lines with a status in config.abnormal_statuses';
COMMENT ON COLUMN ecstats.daily_kpi.event_count IS 'Events of every name';
COMMENT ON COLUMN ecstats.daily_kpi.pv IS 'Events that are page views by ecstats.event_types';
COMMENT ON COLUMN ecstats.daily_kpi.uv IS 'Distinct user_id of all events';
COMMENT ON COLUMN ecstats.daily_kpi.conversion_rate IS 'buyer_count / uv; NULL without visitors';
COMMENT ON COLUMN ecstats.daily_kpi.new_user_count IS 'Users whose first event ever is on this day';
COMMENT ON COLUMN ecstats.daily_kpi.complete IS 'The grace has passed, every enabled source''s watermark is past the day, and nobody who began before its end is still writing';
COMMENT ON COLUMN ecstats.daily_kpi.closed_at IS 'When it was closed first';
COMMENT ON COLUMN ecstats.daily_kpi.revision IS '1 at the first close, one more each time its figures changed';

CREATE TABLE ecstats.daily_sales (
	day				date NOT NULL,
	product_id		text COLLATE "C" NOT NULL,
	region			text COLLATE "C" NOT NULL,
	channel			text COLLATE "C" NOT NULL,
	total_sold		bigint NOT NULL,
	total_revenue	numeric NOT NULL,
	order_count		bigint NOT NULL,
	buyer_count		bigint NOT NULL,
	refund_amount	numeric NOT NULL,
	PRIMARY KEY (day, product_id, region, channel)
);
COMMENT ON TABLE ecstats.daily_sales IS 'Sales and returns of a closed day by product, region and channel; sums equal daily_kpi, distinct counts do not add up';
COMMENT ON COLUMN ecstats.daily_sales.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_sales.product_id IS 'Product, as in order lines';
COMMENT ON COLUMN ecstats.daily_sales.region IS 'Region, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.daily_sales.channel IS 'Channel, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.daily_sales.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.daily_sales.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.daily_sales.order_count IS 'Distinct order_id of the group''s sale lines; does not add up over groups';
COMMENT ON COLUMN ecstats.daily_sales.buyer_count IS 'Distinct known user_id of the group''s sale lines; does not add up over groups';
COMMENT ON COLUMN ecstats.daily_sales.refund_amount IS 'What went back: minus the amount of the group''s return lines';

-- A day has about as many groups as order lines: the ten best products of a day are to be found without them.
CREATE TABLE ecstats.daily_sales_by (
	day				date NOT NULL,
	dimension		text COLLATE "C" NOT NULL CHECK (dimension IN ('product', 'region', 'channel')),
	value			text COLLATE "C" NOT NULL,
	total_sold		bigint NOT NULL,
	total_revenue	numeric NOT NULL,
	refund_amount	numeric NOT NULL,
	PRIMARY KEY (day, dimension, value)
);
COMMENT ON TABLE ecstats.daily_sales_by IS 'daily_sales added up by product, by region and by channel; read it through the views product_daily, region_daily and channel_daily';
COMMENT ON COLUMN ecstats.daily_sales_by.value IS 'The product_id, region or channel';
COMMENT ON COLUMN ecstats.daily_sales_by.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_sales_by.dimension IS 'product, region or channel';
COMMENT ON COLUMN ecstats.daily_sales_by.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.daily_sales_by.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.daily_sales_by.refund_amount IS 'What went back: minus the amount of return lines';

CREATE TABLE ecstats.daily_events (
	day			date NOT NULL,
	event		text COLLATE "C" NOT NULL,
	event_count	bigint NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, event)
);
COMMENT ON TABLE ecstats.daily_events IS 'Events and their distinct users of a closed day, by name';
COMMENT ON COLUMN ecstats.daily_events.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_events.event IS 'Event name';
COMMENT ON COLUMN ecstats.daily_events.event_count IS 'Events of that name';
COMMENT ON COLUMN ecstats.daily_events.user_count IS 'Distinct user_id of these; does not add up over names';

CREATE TABLE ecstats.daily_funnel (
	day			date NOT NULL,
	step		integer NOT NULL,
	event		text COLLATE "C" NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, step)
);
COMMENT ON TABLE ecstats.daily_funnel IS 'Users of a closed day with events of this step and of every earlier one, in any order';
COMMENT ON COLUMN ecstats.daily_funnel.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_funnel.step IS 'Place in the funnel, from 1';
COMMENT ON COLUMN ecstats.daily_funnel.event IS 'Event name of the step';
COMMENT ON COLUMN ecstats.daily_funnel.user_count IS 'Users with events of this step and of every earlier one that day, in any order';

-- Sets of ids are kept as blocks: some 64 of them, sorted and packed, in a row (src/rollup_block.c). A row a user
-- would be five times as much to write, and a row a user and event three times that. Blocks are stored as they are:
-- they do not get smaller by PostgreSQL's compression.
CREATE TABLE ecstats.event_names (
	event_no	integer PRIMARY KEY CHECK (event_no > 0),
	event		text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE ecstats.event_names IS 'Numbers of the event names in ecstats.user_day; given by whoever closes days';
COMMENT ON COLUMN ecstats.event_names.event_no IS 'Number, from 1; never given to another name';
COMMENT ON COLUMN ecstats.event_names.event IS 'Event name';
CREATE TABLE ecstats.user_day (
	day			date NOT NULL,
	first_user	text COLLATE "C" NOT NULL,
	users		integer NOT NULL,
	packed		bytea NOT NULL,
	PRIMARY KEY (day, first_user)
) WITH (toast_tuple_target = 8160);
ALTER TABLE ecstats.user_day ALTER packed SET STORAGE EXTERNAL;
COMMENT ON TABLE ecstats.user_day IS 'Users of a closed day with their events, in blocks; read it through the view ecstats.user_daily';
COMMENT ON COLUMN ecstats.user_day.day IS 'Business day';
COMMENT ON COLUMN ecstats.user_day.first_user IS 'The least user_id of the block';
COMMENT ON COLUMN ecstats.user_day.users IS 'How many users the block has';
COMMENT ON COLUMN ecstats.user_day.packed IS 'The block, see ecstats.rollup_users_unpack';
CREATE VIEW ecstats.user_daily AS
	SELECT d.day, c.user_id COLLATE "C" AS user_id, n.event, c.event_count
	  FROM ecstats.user_day d
	 CROSS JOIN LATERAL ecstats.rollup_users_unpack(d.packed) c
	  JOIN ecstats.event_names n ON n.event_no = c.event_no;
COMMENT ON VIEW ecstats.user_daily IS 'Events of a user on a closed day, by name; for one user ecstats.user_events is faster';

CREATE TABLE ecstats.order_day (
	day			date NOT NULL,
	kind		"char" NOT NULL CHECK (kind IN ('o', 'b')),
	first_id	text COLLATE "C" NOT NULL,
	ids			integer NOT NULL,
	packed		bytea NOT NULL,
	PRIMARY KEY (day, kind, first_id)
) WITH (toast_tuple_target = 8160);
ALTER TABLE ecstats.order_day ALTER packed SET STORAGE EXTERNAL;
COMMENT ON TABLE ecstats.order_day IS 'Which orders and buyers a closed day has, in blocks: what is distinct over a week or a month is counted from them';
COMMENT ON COLUMN ecstats.order_day.day IS 'Business day';
COMMENT ON COLUMN ecstats.order_day.first_id IS 'The least id of the block';
COMMENT ON COLUMN ecstats.order_day.ids IS 'How many ids the block has';
COMMENT ON COLUMN ecstats.order_day.kind IS 'o: order_ids, b: user_ids';
COMMENT ON COLUMN ecstats.order_day.packed IS 'The block, see ecstats.rollup_ids_unpack; numbers are roles: 1 sale, 2 return, 4 abnormal, 8 paid, added up';

-- Outlives the raw rows.
CREATE TABLE ecstats.first_seen_block (
	first_user	text COLLATE "C" PRIMARY KEY,
	users		integer NOT NULL,
	packed		bytea NOT NULL
) WITH (toast_tuple_target = 8160);
ALTER TABLE ecstats.first_seen_block ALTER packed SET STORAGE EXTERNAL;
COMMENT ON TABLE ecstats.first_seen_block IS 'All users with the first closed day on which they have an event, in blocks; read it through the view ecstats.first_seen';
COMMENT ON COLUMN ecstats.first_seen_block.first_user IS 'The least user_id of the block';
COMMENT ON COLUMN ecstats.first_seen_block.users IS 'How many users the block has';
COMMENT ON COLUMN ecstats.first_seen_block.packed IS 'The block, see ecstats.rollup_ids_unpack; numbers are days since 1999-12-30';
CREATE VIEW ecstats.first_seen AS
	SELECT c.id COLLATE "C" AS user_id, date '1999-12-30' + c.number::integer AS day
	  FROM ecstats.first_seen_block b CROSS JOIN LATERAL ecstats.rollup_ids_unpack(b.packed) c;
COMMENT ON VIEW ecstats.first_seen IS 'The first closed day on which a user has an event';

CREATE TABLE ecstats.restatements (
	day			date NOT NULL,
	revision	integer NOT NULL,
	column_name	name NOT NULL,
	old			numeric,
	new			numeric,
	at			timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (day, revision, column_name)
);
COMMENT ON TABLE ecstats.restatements IS 'What changed in a closed day, by revision and column of daily_kpi';
COMMENT ON COLUMN ecstats.restatements.day IS 'Business day whose figure changed';
COMMENT ON COLUMN ecstats.restatements.revision IS 'Revision of daily_kpi that brought the new figure';
COMMENT ON COLUMN ecstats.restatements.column_name IS 'Column of daily_kpi';
COMMENT ON COLUMN ecstats.restatements.old IS 'Figure before; NULL for a ratio that was undefined';
COMMENT ON COLUMN ecstats.restatements.new IS 'Figure since; NULL for a ratio that became undefined';
COMMENT ON COLUMN ecstats.restatements.at IS 'When it was found';

-- What a close has to remember. A transaction that had passed its pre-commit before the day's end and was
-- not visible to the close left no mark: its number is kept, and the day is computed again when it is over.
CREATE TABLE ecstats.day_state (
	day			date PRIMARY KEY,
	unseen		xid[] NOT NULL DEFAULT '{}',
	cluster		bigint NOT NULL,
	partitioned	boolean NOT NULL DEFAULT false,
	frozen		boolean NOT NULL DEFAULT false,
	events_dropped	boolean NOT NULL DEFAULT false,
	orders_dropped	boolean NOT NULL DEFAULT false
);
-- Not dumped: a table that is restored is another one by number, and no less the day's.
CREATE TABLE ecstats.day_partitions (
	day			date PRIMARY KEY,
	partition	oid NOT NULL
);
COMMENT ON TABLE ecstats.day_partitions IS 'Which table held a closed day''s events when the day was looked at: another one of that name has other rows';
COMMENT ON COLUMN ecstats.day_partitions.day IS 'Business day';
COMMENT ON COLUMN ecstats.day_partitions.partition IS 'Its partition, as a row of pg_class';

COMMENT ON TABLE ecstats.day_state IS 'State of closed days that is no figure';
COMMENT ON COLUMN ecstats.day_state.day IS 'Business day';
COMMENT ON COLUMN ecstats.day_state.unseen IS 'Transactions that were under way when the day was computed and may hold rows of it';
COMMENT ON COLUMN ecstats.day_state.cluster IS 'System identifier of the cluster whose transaction numbers these are';
COMMENT ON COLUMN ecstats.day_state.partitioned IS 'The day had a partition of its own when it was computed';
COMMENT ON COLUMN ecstats.day_state.frozen IS 'Its order lines are gone: never computed again';
COMMENT ON COLUMN ecstats.day_state.events_dropped IS 'Its events were dropped by config.event_retention, or its partition by somebody: what is counted from them stays as it is, orders are still computed';
COMMENT ON COLUMN ecstats.day_state.orders_dropped IS 'Its order lines were dropped by config.order_retention; what came since then stays';

-- sql/32_rollup_period_tables.sql
-- The same figures over a week and over a month. The columns are those of daily_kpi, whatever they are.

CREATE TABLE ecstats.weekly_kpi (
	LIKE ecstats.daily_kpi INCLUDING DEFAULTS,
	PRIMARY KEY (day),
	CONSTRAINT weekly_kpi_monday CHECK (extract(isodow FROM day) = 1)
);
COMMENT ON TABLE ecstats.weekly_kpi IS 'Figures of a week, one row for each that has a stored day, the running one to date; written by ecstats_daily';
COMMENT ON COLUMN ecstats.weekly_kpi.day IS 'Monday of the week';
COMMENT ON COLUMN ecstats.weekly_kpi.gmv IS 'Sum over the stored days of daily_kpi';
COMMENT ON COLUMN ecstats.weekly_kpi.order_count IS 'Distinct order_id of the week''s sale lines: an order with lines on two days counts once';
COMMENT ON COLUMN ecstats.weekly_kpi.quantity IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.buyer_count IS 'Distinct known user_id of the week''s sale lines';
COMMENT ON COLUMN ecstats.weekly_kpi.paid_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.paid_order_count IS 'Distinct order_id of sale lines whose paid_time falls on the week';
COMMENT ON COLUMN ecstats.weekly_kpi.payer_count IS 'Distinct known user_id of these';
COMMENT ON COLUMN ecstats.weekly_kpi.refund_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.refund_order_count IS 'Distinct order_id of the week''s return lines';
COMMENT ON COLUMN ecstats.weekly_kpi.net_amount IS 'paid_amount - refund_amount';
COMMENT ON COLUMN ecstats.weekly_kpi.aov IS 'gmv / order_count; NULL without orders';
COMMENT ON COLUMN ecstats.weekly_kpi.amount_per_buyer IS 'gmv / buyer_count; NULL without buyers';
COMMENT ON COLUMN ecstats.weekly_kpi.abnormal_order_count IS 'Distinct order_id of the week''s abnormal sale lines';
COMMENT ON COLUMN ecstats.weekly_kpi.event_count IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.pv IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.uv IS 'Distinct user_id of all events of the week';
COMMENT ON COLUMN ecstats.weekly_kpi.conversion_rate IS 'buyer_count / uv; NULL without visitors';
COMMENT ON COLUMN ecstats.weekly_kpi.new_user_count IS 'Users whose first event ever is in the week';
COMMENT ON COLUMN ecstats.weekly_kpi.complete IS 'The week is closed and each of its stored days is complete';
COMMENT ON COLUMN ecstats.weekly_kpi.closed_at IS 'When it was closed first; NULL while it runs';
COMMENT ON COLUMN ecstats.weekly_kpi.revision IS '0 while the week runs or an ended day of it waits to be closed, 1 when it is closed, one more each time its figures changed';

CREATE TABLE ecstats.monthly_kpi (
	LIKE ecstats.daily_kpi INCLUDING DEFAULTS,
	PRIMARY KEY (day),
	CONSTRAINT monthly_kpi_first CHECK (extract(day FROM day) = 1)
);
COMMENT ON TABLE ecstats.monthly_kpi IS 'Figures of a calendar month of business days, one row for each that has a stored day, the running one to date; written by ecstats_daily';
COMMENT ON COLUMN ecstats.monthly_kpi.day IS 'First day of the month';
COMMENT ON COLUMN ecstats.monthly_kpi.gmv IS 'Sum over the stored days of daily_kpi';
COMMENT ON COLUMN ecstats.monthly_kpi.order_count IS 'Distinct order_id of the month''s sale lines: an order with lines on two days counts once';
COMMENT ON COLUMN ecstats.monthly_kpi.quantity IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.buyer_count IS 'Distinct known user_id of the month''s sale lines';
COMMENT ON COLUMN ecstats.monthly_kpi.paid_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.paid_order_count IS 'Distinct order_id of sale lines whose paid_time falls on the month';
COMMENT ON COLUMN ecstats.monthly_kpi.payer_count IS 'Distinct known user_id of these';
COMMENT ON COLUMN ecstats.monthly_kpi.refund_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.refund_order_count IS 'Distinct order_id of the month''s return lines';
COMMENT ON COLUMN ecstats.monthly_kpi.net_amount IS 'paid_amount - refund_amount';
COMMENT ON COLUMN ecstats.monthly_kpi.aov IS 'gmv / order_count; NULL without orders';
COMMENT ON COLUMN ecstats.monthly_kpi.amount_per_buyer IS 'gmv / buyer_count; NULL without buyers';
COMMENT ON COLUMN ecstats.monthly_kpi.abnormal_order_count IS 'Distinct order_id of the month''s abnormal sale lines';
COMMENT ON COLUMN ecstats.monthly_kpi.event_count IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.pv IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.uv IS 'Distinct user_id of all events of the month';
COMMENT ON COLUMN ecstats.monthly_kpi.conversion_rate IS 'buyer_count / uv; NULL without visitors';
COMMENT ON COLUMN ecstats.monthly_kpi.new_user_count IS 'Users whose first event ever is in the month';
COMMENT ON COLUMN ecstats.monthly_kpi.complete IS 'The month is closed and each of its stored days is complete';
COMMENT ON COLUMN ecstats.monthly_kpi.closed_at IS 'When it was closed first; NULL while it runs';
COMMENT ON COLUMN ecstats.monthly_kpi.revision IS '0 while the month runs or an ended day of it waits to be closed, 1 when it is closed, one more each time its figures changed';
-- sql/32_rollup_buyer_tables.sql
-- Who bought what on a closed day, and in all: the order side of user profiles. Both outlive the order lines.

-- By user first: what is asked is one user's days. An order counts at one place alone, so that sums over regions and
-- channels are numbers of orders.
CREATE TABLE ecstats.buyer_daily (
	day				date NOT NULL,
	user_id			text COLLATE "C" NOT NULL,
	region			text COLLATE "C" NOT NULL,
	channel			text COLLATE "C" NOT NULL,
	order_count		bigint NOT NULL,
	gmv				numeric NOT NULL,
	paid_amount		numeric NOT NULL,
	PRIMARY KEY (user_id, day, region, channel)
);
CREATE INDEX buyer_daily_day ON ecstats.buyer_daily (day);
COMMENT ON TABLE ecstats.buyer_daily IS 'What each known user ordered and paid on a closed day, by region and channel; sums over these are exact';
COMMENT ON COLUMN ecstats.buyer_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.buyer_daily.user_id IS 'The customer';
COMMENT ON COLUMN ecstats.buyer_daily.region IS 'Region, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.buyer_daily.channel IS 'Channel, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.buyer_daily.order_count IS
	'Distinct order_id of the user''s sale lines of the day; an order with lines of several regions or channels counts where its lowest line_no is';
COMMENT ON COLUMN ecstats.buyer_daily.gmv IS 'Amount of the user''s sale lines by order_time';
COMMENT ON COLUMN ecstats.buyer_daily.paid_amount IS 'Amount of the user''s sale lines whose paid_time falls on the day; refunds are not taken off';

-- A fifth of a page stays free: of a million buyers some return every day, and no index has to know.
CREATE TABLE ecstats.buyers (
	user_id				text COLLATE "C" PRIMARY KEY,
	order_count			bigint NOT NULL,
	gmv					numeric NOT NULL,
	paid_amount			numeric NOT NULL,
	first_order_day		date,
	last_order_day		date,
	favourite_channel	text COLLATE "C",
	favourite_region	text COLLATE "C"
) WITH (fillfactor = 80);
COMMENT ON TABLE ecstats.buyers IS 'ecstats.buyer_daily added up over all stored days, one row a user';
COMMENT ON COLUMN ecstats.buyers.user_id IS 'The customer';
COMMENT ON COLUMN ecstats.buyers.order_count IS 'Orders of all stored days; one with lines on two days counts on both';
COMMENT ON COLUMN ecstats.buyers.gmv IS 'Amount of sale lines by order_time';
COMMENT ON COLUMN ecstats.buyers.paid_amount IS 'Amount of sale lines paid on stored days; refunds are not taken off';
COMMENT ON COLUMN ecstats.buyers.first_order_day IS 'First stored day with an order; NULL: only payments';
COMMENT ON COLUMN ecstats.buyers.last_order_day IS 'Last stored day with an order; NULL: only payments';
COMMENT ON COLUMN ecstats.buyers.favourite_channel IS 'Channel of the most orders; of several, that of more gmv, then the first by bytes';
COMMENT ON COLUMN ecstats.buyers.favourite_region IS 'Region of the most orders; of several, that of more gmv, then the first by bytes';

-- sql/32_activity_tables.sql
-- Who is active: a row a user, what makes a level, and the view that people and rules read.

-- Levels: the strictest rule that holds gives it, the rest is low. Each has one kind of limit.
CREATE TABLE ecstats.activity_levels (
	level		text PRIMARY KEY CHECK (level IN ('high', 'mid')),
	top_share	numeric CHECK (top_share > 0 AND top_share <= 1),
	min_score	double precision CHECK (min_score > 0 AND min_score < 'Infinity'),
	CONSTRAINT activity_levels_one_limit CHECK (num_nonnulls(top_share, min_score) = 1)
);
COMMENT ON TABLE ecstats.activity_levels IS
	'What makes a user''s level: a share of the users with a score above 0, or a score. UPDATE ecstats.activity_levels SET top_share = NULL, min_score = CASE level WHEN ''high'' THEN 10 ELSE 3 END turns to fixed scores';
COMMENT ON COLUMN ecstats.activity_levels.level IS 'high or mid; whoever is neither is low, and so is a score of 0 or less';
COMMENT ON COLUMN ecstats.activity_levels.top_share IS
	'A user has the level if fewer than this share of the users with a score above 0 have a higher one; equal scores are never parted';
COMMENT ON COLUMN ecstats.activity_levels.min_score IS 'A user has the level from this score on';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.activity_levels
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('level');
INSERT INTO ecstats.activity_levels (level, top_share) VALUES ('high', 0.20), ('mid', 0.50);
-- After the shipped rows: they are what it clears.
CREATE TRIGGER restore_clear BEFORE INSERT ON ecstats.activity_levels
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.restore_clear();

-- A row changes where something in it does: a user who has been silent for long is not written every night. What
-- passes with time alone (days_silent and the like) is made by the view. Half of a page stays free, so that a new
-- version of a row finds room beside the old one and no index has to know.
CREATE TABLE ecstats.user_activity (
	user_id				text COLLATE "C" PRIMARY KEY,
	as_of				date NOT NULL,
	score				double precision NOT NULL DEFAULT 0,
	previous_score		double precision NOT NULL DEFAULT 0,
	level				text NOT NULL DEFAULT 'low' CHECK (level IN ('high', 'mid', 'low')),
	previous_level		text NOT NULL DEFAULT 'low' CHECK (previous_level IN ('high', 'mid', 'low')),
	last_active_day		date,
	active_days			integer NOT NULL DEFAULT 0,
	first_seen			date,
	last_high_day		date,
	order_count			bigint NOT NULL DEFAULT 0,
	paid_amount			numeric NOT NULL DEFAULT 0,
	last_order_day		date,
	favourite_channel	text COLLATE "C",
	favourite_region	text COLLATE "C"
) WITH (fillfactor = 50);
COMMENT ON TABLE ecstats.user_activity IS 'Activity of every user who was scored, one row a user; written by ecstats_score. Read it through ecstats.user_profile, which adds what passes with time';
COMMENT ON COLUMN ecstats.user_activity.user_id IS 'Who';
COMMENT ON COLUMN ecstats.user_activity.as_of IS 'Business day that the row was written for; a row in which nothing changed since stays as it is';
COMMENT ON COLUMN ecstats.user_activity.score IS 'Weighted events of the last config.score_window_days days, each counting half after config.score_half_life_days';
COMMENT ON COLUMN ecstats.user_activity.previous_score IS 'The score one day before';
COMMENT ON COLUMN ecstats.user_activity.level IS 'high, mid or low by ecstats.activity_levels';
COMMENT ON COLUMN ecstats.user_activity.previous_level IS 'The level one day before';
COMMENT ON COLUMN ecstats.user_activity.last_active_day IS 'Last business day with an event';
COMMENT ON COLUMN ecstats.user_activity.active_days IS 'Days of the window with an event';
COMMENT ON COLUMN ecstats.user_activity.first_seen IS 'First business day with an event';
COMMENT ON COLUMN ecstats.user_activity.last_high_day IS 'Last day of the last 15 (as_of included) on which the level was high; NULL: none';
COMMENT ON COLUMN ecstats.user_activity.order_count IS 'Orders in all';
COMMENT ON COLUMN ecstats.user_activity.paid_amount IS 'Amount of paid sale lines in all; refunds are not taken off';
COMMENT ON COLUMN ecstats.user_activity.last_order_day IS 'Business day of the last order; NULL: never ordered';
COMMENT ON COLUMN ecstats.user_activity.favourite_channel IS 'Channel of the most orders';
COMMENT ON COLUMN ecstats.user_activity.favourite_region IS 'Region of the most orders';

-- Quintiles of buyers are limits, so that nobody is rewritten because of what others bought.
CREATE TABLE ecstats.activity_state (
	singleton	boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	as_of		date,
	stale_from	date,
	scored_at	timestamptz,
	users		bigint,
	recency		date[] NOT NULL DEFAULT '{}',
	frequency	bigint[] NOT NULL DEFAULT '{}',
	monetary	numeric[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE ecstats.activity_state IS 'What the scores are of: one row';
COMMENT ON COLUMN ecstats.activity_state.singleton IS 'Always true: there is one row';
COMMENT ON COLUMN ecstats.activity_state.as_of IS 'Latest business day that was scored; NULL: none yet';
COMMENT ON COLUMN ecstats.activity_state.stale_from IS 'First day whose users changed since; NULL: the scores are up to date';
COMMENT ON COLUMN ecstats.activity_state.scored_at IS 'When they were written';
COMMENT ON COLUMN ecstats.activity_state.users IS 'How many users there were';
COMMENT ON COLUMN ecstats.activity_state.recency IS 'Last order days at which quintiles 2 to 5 of buyers begin, without those that nobody is in';
COMMENT ON COLUMN ecstats.activity_state.frequency IS 'Numbers of orders at which quintiles 2 to 5 begin';
COMMENT ON COLUMN ecstats.activity_state.monetary IS 'Paid amounts at which quintiles 2 to 5 begin';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.activity_state
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('singleton');
INSERT INTO ecstats.activity_state DEFAULT VALUES;

CREATE TABLE ecstats.cohorts (
	cohort_day	date NOT NULL,
	age_days	integer NOT NULL,
	cohort_size	bigint NOT NULL,
	retained	bigint NOT NULL,
	PRIMARY KEY (cohort_day, age_days)
);
COMMENT ON TABLE ecstats.cohorts IS 'Retention: of the users first seen on a day, how many came back 1, 7 and 30 days later';
COMMENT ON COLUMN ecstats.cohorts.cohort_day IS 'Business day on which the users were first seen';
COMMENT ON COLUMN ecstats.cohorts.age_days IS '1, 7 or 30 days later';
COMMENT ON COLUMN ecstats.cohorts.cohort_size IS 'Users first seen on cohort_day';
COMMENT ON COLUMN ecstats.cohorts.retained IS 'Those of them with an event on cohort_day + age_days';

-- Everything that is known of a user, a column each: what tag rules see.
CREATE VIEW ecstats.user_profile AS
	SELECT p.*, CASE
			WHEN p.r IS NULL THEN NULL
			WHEN p.r >= 4 AND p.f >= 4 THEN 'champion'
			WHEN p.r >= 3 AND p.f >= 3 THEN 'loyal'
			WHEN p.r >= 4 THEN 'recent'
			WHEN p.r = 3 THEN 'promising'
			WHEN p.f >= 4 THEN 'cannot_lose'
			WHEN p.f = 3 THEN 'at_risk'
			ELSE 'hibernating' END AS segment
	  FROM (SELECT a.user_id, s.as_of, a.score, a.previous_score, a.level, a.previous_level,
				   a.last_active_day, s.as_of - a.last_active_day AS days_silent, a.active_days,
				   a.first_seen, s.as_of - a.first_seen AS days_known,
				   a.last_high_day, s.as_of - a.last_high_day AS days_since_high,
				   a.order_count, a.paid_amount, a.last_order_day, s.as_of - a.last_order_day AS days_since_order,
				   1 + width_bucket(a.last_order_day, s.recency) AS r,
				   CASE WHEN a.last_order_day IS NOT NULL THEN 1 + width_bucket(a.order_count, s.frequency) END AS f,
				   CASE WHEN a.last_order_day IS NOT NULL THEN 1 + width_bucket(a.paid_amount, s.monetary) END AS m,
				   a.favourite_channel, a.favourite_region
			  FROM ecstats.user_activity a CROSS JOIN ecstats.activity_state s) p;
COMMENT ON VIEW ecstats.user_profile IS 'What is known of a user as of the latest day that was scored; tag rules are predicates over a row of it as JSON';
COMMENT ON COLUMN ecstats.user_profile.user_id IS 'Who';
COMMENT ON COLUMN ecstats.user_profile.as_of IS 'Latest business day that was scored';
COMMENT ON COLUMN ecstats.user_profile.score IS 'Activity score as of that day';
COMMENT ON COLUMN ecstats.user_profile.previous_score IS 'The score one day before';
COMMENT ON COLUMN ecstats.user_profile.level IS 'high, mid or low';
COMMENT ON COLUMN ecstats.user_profile.previous_level IS 'The level one day before';
COMMENT ON COLUMN ecstats.user_profile.last_active_day IS 'Last business day with an event';
COMMENT ON COLUMN ecstats.user_profile.days_silent IS 'Days since then; 0: active on as_of';
COMMENT ON COLUMN ecstats.user_profile.active_days IS 'Days of the score''s window with an event';
COMMENT ON COLUMN ecstats.user_profile.first_seen IS 'First business day with an event';
COMMENT ON COLUMN ecstats.user_profile.days_known IS 'Days since then; 0: new on as_of';
COMMENT ON COLUMN ecstats.user_profile.last_high_day IS 'Last of the last 15 days on which the level was high';
COMMENT ON COLUMN ecstats.user_profile.days_since_high IS 'Days since then: 0 to 14; NULL: none of these days';
COMMENT ON COLUMN ecstats.user_profile.order_count IS 'Orders in all';
COMMENT ON COLUMN ecstats.user_profile.paid_amount IS 'Amount of paid sale lines in all';
COMMENT ON COLUMN ecstats.user_profile.last_order_day IS 'Business day of the last order';
COMMENT ON COLUMN ecstats.user_profile.days_since_order IS 'Days since then';
COMMENT ON COLUMN ecstats.user_profile.r IS 'Recency: 1 to 5 by last_order_day among buyers, 5 the latest fifth; equal values are never parted; NULL: no buyer';
COMMENT ON COLUMN ecstats.user_profile.f IS 'Frequency: 1 to 5 by order_count among buyers';
COMMENT ON COLUMN ecstats.user_profile.m IS 'Monetary: 1 to 5 by paid_amount among buyers';
COMMENT ON COLUMN ecstats.user_profile.favourite_channel IS 'Channel of the most orders';
COMMENT ON COLUMN ecstats.user_profile.favourite_region IS 'Region of the most orders';
COMMENT ON COLUMN ecstats.user_profile.segment IS
	'By r and f: champion, loyal, recent, promising, cannot_lose, at_risk, hibernating; NULL: no buyer';

-- sql/32_activity_tag_tables.sql
-- Tags: rules as rows, who has which tag since when, and how many a day.

CREATE TABLE ecstats.tag_rules (
	tag			text COLLATE "C" PRIMARY KEY CHECK (tag ~ '^[a-z][a-z0-9_]{0,62}$'),
	rule		jsonpath NOT NULL,
	enabled		boolean NOT NULL DEFAULT true,
	description	text,
	CONSTRAINT tag_rules_rule_valid CHECK (ecstats.tag_check(rule))
);
COMMENT ON TABLE ecstats.tag_rules IS 'Tags and their rules; a change holds from the next ecstats_score. A rule that is disabled or deleted takes its tag from everybody';
COMMENT ON COLUMN ecstats.tag_rules.tag IS 'Name of the tag';
COMMENT ON COLUMN ecstats.tag_rules.rule IS 'jsonpath predicate over a row of ecstats.user_profile as JSON, for example $.level == "high" && $.days_silent >= 3';
COMMENT ON COLUMN ecstats.tag_rules.enabled IS 'false: nobody has the tag';
COMMENT ON COLUMN ecstats.tag_rules.description IS 'What it means, for people';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.tag_rules
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('tag');
INSERT INTO ecstats.tag_rules (tag, rule, description) VALUES
	('high_active', '$.level == "high"', 'Among the most active: level high'),
	('new_user', '$.days_known < 7', 'New: first seen within the last 7 days, the scored day among them'),
	('high_active_silent', '$.days_since_high <= 14 && $.days_silent >= 3',
	 'To be called back: level high within the last 14 days, and no event for 3 days or more'),
	('churn_risk', '$.days_silent >= 7 && $.days_silent <= 30 && !($.days_since_order < 7) && ($.order_count > 0 || $.days_since_high <= 14)',
	 'About to be lost: a buyer, or lately very active, without event and order for a week; past 30 days of silence the chance is gone'),
	('big_spender', '$.m == 5', 'Among the fifth of buyers who paid most');
-- After the shipped rows: they are what it clears.
CREATE TRIGGER restore_clear BEFORE INSERT ON ecstats.tag_rules
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.restore_clear();

CREATE TABLE ecstats.user_tags (
	user_id	text COLLATE "C" NOT NULL,
	tag		text COLLATE "C" NOT NULL,
	since	date NOT NULL,
	until	date,
	PRIMARY KEY (user_id, tag, since),
	CONSTRAINT user_tags_until_after_since CHECK (until > since)
);
CREATE UNIQUE INDEX user_tags_open ON ecstats.user_tags (tag, user_id) WHERE until IS NULL;
-- Who lost a tag on a day, among all who ever had one.
CREATE INDEX user_tags_ended ON ecstats.user_tags (until) WHERE until IS NOT NULL;
COMMENT ON TABLE ecstats.user_tags IS 'Which user has, or had, which tag; a row is open (until IS NULL) while the rule holds';
COMMENT ON COLUMN ecstats.user_tags.user_id IS 'Who';
COMMENT ON COLUMN ecstats.user_tags.tag IS 'Name of the tag';
COMMENT ON COLUMN ecstats.user_tags.since IS 'First scored day on which the rule held';
COMMENT ON COLUMN ecstats.user_tags.until IS 'First scored day on which it held no longer; NULL: it holds';

CREATE TABLE ecstats.tag_daily (
	day			date NOT NULL,
	tag			text COLLATE "C" NOT NULL,
	user_count	bigint NOT NULL,
	entered		bigint NOT NULL,
	left_count	bigint NOT NULL,
	PRIMARY KEY (day, tag)
);
COMMENT ON TABLE ecstats.tag_daily IS 'How many users had a tag on a scored day';
COMMENT ON COLUMN ecstats.tag_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.tag_daily.tag IS 'Name of the tag';
COMMENT ON COLUMN ecstats.tag_daily.user_count IS 'Users who have it';
COMMENT ON COLUMN ecstats.tag_daily.entered IS 'Users whose row began on this day';
COMMENT ON COLUMN ecstats.tag_daily.left_count IS 'Users whose row ended on this day';

-- sql/33_job_tables.sql
-- The ledger: what is to run and when, and every run there was.

CREATE TABLE ecstats.jobs (
	job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE
		CHECK (octet_length(name) BETWEEN 1 AND 128 AND name !~ '[[:cntrl:]]'),
	owner text NOT NULL DEFAULT current_user,
	owner_id oid,
	schedule text NOT NULL CHECK (octet_length(schedule) BETWEEN 1 AND 1000),
	command text NOT NULL CHECK (octet_length(command) BETWEEN 1 AND 1000000),
	timezone text,
	max_attempts int NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 20),
	overlap text NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'queue')),
	catch_up text NOT NULL DEFAULT 'last' CHECK (catch_up IN ('last', 'all', 'none')),
	timeout interval NOT NULL DEFAULT '1 hour'
		CHECK (timeout >= '1 millisecond' AND timeout <= '20 days'),
	enabled boolean NOT NULL DEFAULT true,
	next_run_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	shipped boolean NOT NULL DEFAULT false
);
CREATE INDEX jobs_due ON ecstats.jobs (next_run_at) WHERE enabled;
COMMENT ON TABLE ecstats.jobs IS 'What is run on a schedule. Written by ecstats_schedule and ecstats_unschedule, or directly; the owner is the current user, whatever is written (a superuser may set another).';
COMMENT ON COLUMN ecstats.jobs.job_id IS 'Number of the job';
COMMENT ON COLUMN ecstats.jobs.name IS 'Name, unique';
COMMENT ON COLUMN ecstats.jobs.command IS 'What is run';
COMMENT ON COLUMN ecstats.jobs.enabled IS 'false: no due time is claimed';
COMMENT ON COLUMN ecstats.jobs.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.jobs.updated_at IS 'When it was changed last';
COMMENT ON COLUMN ecstats.jobs.owner IS 'The role that runs of this job log in as, by name.';
COMMENT ON COLUMN ecstats.jobs.owner_id IS 'Which role that name was when the job was written: a role made later under the same name inherits no jobs. NULL after a restore, until the next tick.';
COMMENT ON COLUMN ecstats.jobs.schedule IS 'Cron expression: five fields unix, six or seven Quartz.';
COMMENT ON COLUMN ecstats.jobs.timezone IS 'IANA zone of the schedule; NULL follows config.timezone.';
COMMENT ON COLUMN ecstats.jobs.max_attempts IS 'Attempts in all, at each due time.';
COMMENT ON COLUMN ecstats.jobs.overlap IS 'A due time while a run of the job is going on: skip it, or queue it until that run has ended.';
COMMENT ON COLUMN ecstats.jobs.catch_up IS 'Due times missed while nobody ticked: run the last one, all of them, or none.';
COMMENT ON COLUMN ecstats.jobs.timeout IS 'How long one attempt may take before it is canceled.';
COMMENT ON COLUMN ecstats.jobs.next_run_at IS 'The next due time that no tick has claimed; NULL: never again, or not enabled.';
COMMENT ON COLUMN ecstats.jobs.shipped IS 'Came with the extension: ecstats_unschedule disables it, since a dropped one would be back after a restore.';

CREATE TABLE ecstats.job_runs (
	run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	job_id bigint NOT NULL,
	job_name text,
	owner text,
	due_at timestamptz NOT NULL,
	replay int NOT NULL CHECK (replay >= 0),
	attempt int NOT NULL DEFAULT 1 CHECK (attempt >= 1),
	status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'claimed', 'running',
		'succeeded', 'retry', 'failed', 'skipped', 'cancelled')),
	launch_after timestamptz NOT NULL DEFAULT '-infinity',
	tick_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	claimed_at timestamptz,
	started_at timestamptz,
	finished_at timestamptz,
	duration interval GENERATED ALWAYS AS (finished_at - started_at) STORED,
	worker_pid int,
	worker_started timestamptz,
	rows bigint,
	error text,
	sqlstate text,
	detail text,
	context text,
	UNIQUE (job_id, due_at, replay, attempt)
);
CREATE INDEX job_runs_queued ON ecstats.job_runs (launch_after, due_at, run_id) WHERE status = 'queued';
CREATE INDEX job_runs_active ON ecstats.job_runs (job_id) WHERE status IN ('claimed', 'running');
CREATE INDEX job_runs_finished ON ecstats.job_runs (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE ecstats.job_runs IS 'Every attempt at every due time: one row an attempt, so that what went wrong before it went well stays visible. Outlives its job; pruned by config.log_retention.';
COMMENT ON COLUMN ecstats.job_runs.run_id IS 'Number of the attempt';
COMMENT ON COLUMN ecstats.job_runs.job_id IS 'Number in ecstats.jobs, also of a job that is gone';
COMMENT ON COLUMN ecstats.job_runs.job_name IS 'Name of the job';
COMMENT ON COLUMN ecstats.job_runs.owner IS 'Role that the command ran as';
COMMENT ON COLUMN ecstats.job_runs.attempt IS 'Number of the attempt, from 1';
COMMENT ON COLUMN ecstats.job_runs.created_at IS 'When the row was made';
COMMENT ON COLUMN ecstats.job_runs.claimed_at IS 'When a tick claimed it';
COMMENT ON COLUMN ecstats.job_runs.started_at IS 'When the worker began';
COMMENT ON COLUMN ecstats.job_runs.finished_at IS 'When it ended';
COMMENT ON COLUMN ecstats.job_runs.duration IS 'finished_at - started_at';
COMMENT ON COLUMN ecstats.job_runs.worker_pid IS 'Process of the worker';
COMMENT ON COLUMN ecstats.job_runs.error IS 'Message of the failure';
COMMENT ON COLUMN ecstats.job_runs.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN ecstats.job_runs.detail IS 'Detail of the failure';
COMMENT ON COLUMN ecstats.job_runs.context IS 'Context of the failure';
COMMENT ON COLUMN ecstats.job_runs.due_at IS 'The due time that the run is for; it sees it as current_setting(''ecstats.due_at'').';
COMMENT ON COLUMN ecstats.job_runs.replay IS '0: the run of the due time; n: its n-th replay, with attempts of its own.';
COMMENT ON COLUMN ecstats.job_runs.status IS 'queued (waits for its turn), claimed (a worker is being launched), running, succeeded, retry (this attempt failed, the next one is a row of its own), failed (the last attempt failed), skipped (overlap or catch_up said so), cancelled (the job was disabled or unscheduled).';
COMMENT ON COLUMN ecstats.job_runs.launch_after IS 'Not launched by a tick of an earlier time: the due time, or the end of the back-off; -infinity: by the next tick.';
COMMENT ON COLUMN ecstats.job_runs.tick_at IS 'The time of the tick that claimed it.';
COMMENT ON COLUMN ecstats.job_runs.worker_started IS 'backend_start of the worker: with worker_pid it is the worker, in this or any other cluster.';
COMMENT ON COLUMN ecstats.job_runs.rows IS 'Rows processed by the command''s statements in all, returned ones too.';

-- One row. Locking it is what makes takers of places queue up; a beat of the ticker is written to it.
CREATE TABLE ecstats.job_ticker (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	last_tick_at timestamptz,
	ticked_for timestamptz,
	no_worker_at timestamptz
);
INSERT INTO ecstats.job_ticker DEFAULT VALUES;
COMMENT ON TABLE ecstats.job_ticker IS 'When ecstats_tick last ran, by the clock, which time it went by, and when it last found no free background worker.';
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
-- sql/35_delivery_tables.sql
-- What a provider is (channel_kinds), where messages go (channels), what is sent (deliveries, one
-- row per message and channel; delivery_attempts, one row per request), and who carries (pushers).
-- No foreign keys between the tables that a dump holds: pg_restore -j loads them in any order, and an
-- extension's keys are there from the start. Triggers do their work, and are silent in a restore.

CREATE TABLE ecstats.channel_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_-]{0,31}$'),
	description text NOT NULL DEFAULT '',
	transport text NOT NULL DEFAULT 'http' CHECK (transport IN ('http', 'smtp')),
	method text NOT NULL DEFAULT 'POST' CHECK (method IN ('POST', 'PUT')),
	content_type text NOT NULL DEFAULT 'application/json; charset=utf-8',
	signature text CHECK (signature IN ('dingtalk', 'feishu', 'standard-webhooks')),
	native jsonpath NOT NULL,
	envelopes jsonb NOT NULL CHECK (jsonb_typeof(envelopes) = 'object'),
	default_envelope text NOT NULL,
	text_paths jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(text_paths) = 'array'),
	mentions jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(mentions) = 'array'),
	limits jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(limits) = 'array'),
	options jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(options) = 'object'),
	code_paths jsonpath[] NOT NULL DEFAULT '{}',
	message_path jsonpath,
	success jsonpath NOT NULL,
	warning jsonpath,
	throttle jsonpath,
	wait_path jsonpath,
	wait_headers text[] NOT NULL DEFAULT '{retry-after}',
	retry_once jsonpath,
	permanent jsonpath,
	retryable jsonpath,
	CONSTRAINT channel_kinds_default_envelope_exists CHECK (envelopes ? default_envelope)
);
COMMENT ON TABLE ecstats.channel_kinds IS
	'Providers as rows. Rules are jsonpath predicates over {"http_status", "body", "headers", "error_kind"} of an answer; body is parsed JSON or the text. They are tried in the order success, throttle, retry_once, permanent, retryable.';
COMMENT ON COLUMN ecstats.channel_kinds.kind IS 'Name of the kind, as in ecstats.channels.kind';
COMMENT ON COLUMN ecstats.channel_kinds.description IS 'What it is, for people';
COMMENT ON COLUMN ecstats.channel_kinds.transport IS 'http, or smtp';
COMMENT ON COLUMN ecstats.channel_kinds.method IS 'HTTP method of a request';
COMMENT ON COLUMN ecstats.channel_kinds.content_type IS 'Content-Type of a request';
COMMENT ON COLUMN ecstats.channel_kinds.signature IS 'How requests are signed with the channel''s secret; NULL: not at all';
COMMENT ON COLUMN ecstats.channel_kinds.default_envelope IS 'The envelope taken where the message and the channel name none';
COMMENT ON COLUMN ecstats.channel_kinds.message_path IS 'Where the provider''s own words stand in an answer';
COMMENT ON COLUMN ecstats.channel_kinds.success IS 'Holds for an answer that means: taken';
COMMENT ON COLUMN ecstats.channel_kinds.wait_path IS 'Where an answer says how many seconds to wait';
COMMENT ON COLUMN ecstats.channel_kinds.wait_headers IS 'Headers of an answer that say how long to wait';
COMMENT ON COLUMN ecstats.channel_kinds.permanent IS 'Holds for an answer after which the same message need not be tried again';
COMMENT ON COLUMN ecstats.channel_kinds.retryable IS 'Holds for an answer after which it is tried again';
COMMENT ON COLUMN ecstats.channel_kinds.native IS 'Holds for a message that is in the provider''s own form and passes as it is';
COMMENT ON COLUMN ecstats.channel_kinds.envelopes IS 'Name: template of the request body for a neutral message (title, markdown, text, ...); a member that is exactly {{name}} takes an object or array whole';
COMMENT ON COLUMN ecstats.channel_kinds.text_paths IS 'Where the provider looks for its keyword: paths as arrays, e.g. [["text","content"]]';
COMMENT ON COLUMN ecstats.channel_kinds.mentions IS 'Where options.mention goes: [{"when": jsonpath, "users_at", "mobiles_at", "all_at": path, "all_value": "@all", "append_to": path, "user", "mobile", "all": text with %s}]';
COMMENT ON COLUMN ecstats.channel_kinds.limits IS '[{"path": jsonpath or absent for the whole body, "max_bytes" | "max_chars" | "max_items": n, "base64": true to count decoded bytes}]';
COMMENT ON COLUMN ecstats.channel_kinds.options IS 'Defaults of channels.options; a kind that names audience_page here, null as a rule, lets its channels have it';
COMMENT ON COLUMN ecstats.channel_kinds.code_paths IS 'Where the provider''s own code stands; the first that yields. An answer 2xx without any is unconfirmed, unless success says otherwise';
COMMENT ON COLUMN ecstats.channel_kinds.warning IS 'Holds for a success that lost something on the way';
COMMENT ON COLUMN ecstats.channel_kinds.throttle IS 'The channel waits (wait_path, else wait_headers, else options.throttle_seconds); no attempt is used';
COMMENT ON COLUMN ecstats.channel_kinds.retry_once IS 'Retried once, permanent the second time (a signature that was too old)';

CREATE TABLE ecstats.channels (
	name text PRIMARY KEY,
	kind text NOT NULL,
	url text NOT NULL,
	secret text,
	options jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ecstats.channels IS 'Where messages go. url and secret are credentials: no profile reads them; a trigger checks them, because a CHECK would print them';
COMMENT ON COLUMN ecstats.channels.name IS 'Name that reports and ecstats_push give';
COMMENT ON COLUMN ecstats.channels.kind IS 'What it is: a row of ecstats.channel_kinds';
COMMENT ON COLUMN ecstats.channels.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.channels.options IS 'Overrides the kind''s options: rate, throttle_seconds, lane, max_retries, timeout_seconds, allow_private, on_unconfirmed, breaker, keyword, mention, envelope, audience_page';
COMMENT ON COLUMN ecstats.channels.enabled IS 'false: takes no new messages, and what is pending stays pending';

CREATE TABLE ecstats.channel_state (
	channel text PRIMARY KEY REFERENCES ecstats.channels ON UPDATE CASCADE ON DELETE CASCADE,
	throttled_until timestamptz,
	paused_until timestamptz,
	rate_until timestamptz,
	failures int NOT NULL DEFAULT 0,
	last_claim_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE ecstats.channel_state IS 'What happens to a channel, apart from its settings; its row is the lock under which the channel''s deliveries are claimed. Not dumped';
COMMENT ON COLUMN ecstats.channel_state.throttled_until IS 'The provider asked to wait';
COMMENT ON COLUMN ecstats.channel_state.paused_until IS 'The breaker is open; after it one request at a time until one succeeds';
COMMENT ON COLUMN ecstats.channel_state.rate_until IS 'options.rate is used up until then';
COMMENT ON COLUMN ecstats.channel_state.failures IS 'Failures since the last success';

CREATE TABLE ecstats.deliveries (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	report text,
	day date,
	revision int NOT NULL DEFAULT 0,
	occasion text NOT NULL DEFAULT '',
	channel text NOT NULL,
	priority int NOT NULL DEFAULT 5 CHECK (priority BETWEEN 1 AND 9),
	status text NOT NULL DEFAULT 'pending'
		CHECK (status IN ('pending', 'sending', 'sent', 'dead', 'expired', 'cancelled')),
	attempts int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
	requests int NOT NULL DEFAULT 0 CHECK (requests >= 0),
	moves int NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL DEFAULT now(),
	expires_at timestamptz,
	worker text,
	lease_until timestamptz,
	body jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'),
	source text,
	created_at timestamptz NOT NULL DEFAULT now(),
	sent_at timestamptz,
	settled_at timestamptz,
	last_error text,
	UNIQUE (report, day, revision, occasion, channel),
	CHECK (report IS NULL OR day IS NOT NULL),
	CHECK (report IS NULL OR source IS NULL),
	CHECK ((status = 'sending') = (lease_until IS NOT NULL)),
	CHECK ((status = 'sent') = (sent_at IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE ecstats.deliveries IS 'One row per message and channel; ecstats.delivery_move is the only writer of status';
COMMENT ON COLUMN ecstats.deliveries.id IS 'Number of the message';
COMMENT ON COLUMN ecstats.deliveries.day IS 'Business day that the message is about; NULL where it is about none';
COMMENT ON COLUMN ecstats.deliveries.revision IS 'Revision of daily_kpi that the message was made from; 0 where the day was not closed, or where it is about activity';
COMMENT ON COLUMN ecstats.deliveries.occasion IS 'What else tells messages of one report and day apart; empty as a rule, "audience 2/5" for a page of an audience';
COMMENT ON COLUMN ecstats.deliveries.channel IS 'Name in ecstats.channels';
COMMENT ON COLUMN ecstats.deliveries.priority IS '1 (first) to 9';
COMMENT ON COLUMN ecstats.deliveries.status IS 'pending, sending, sent, dead, expired or cancelled';
COMMENT ON COLUMN ecstats.deliveries.next_attempt_at IS 'Not sent before';
COMMENT ON COLUMN ecstats.deliveries.expires_at IS 'Not sent after; NULL: whenever';
COMMENT ON COLUMN ecstats.deliveries.worker IS 'Pusher that sends it now';
COMMENT ON COLUMN ecstats.deliveries.lease_until IS 'Until when that pusher may be silent';
COMMENT ON COLUMN ecstats.deliveries.created_at IS 'When it was queued';
COMMENT ON COLUMN ecstats.deliveries.sent_at IS 'When the provider took it';
COMMENT ON COLUMN ecstats.deliveries.report IS 'NULL for what ecstats_push and the operators'' messages send';
COMMENT ON COLUMN ecstats.deliveries.attempts IS 'Attempts that count against max_retries; a throttle answer uses none, a replay starts again';
COMMENT ON COLUMN ecstats.deliveries.requests IS 'Number of the latest row in delivery_attempts';
COMMENT ON COLUMN ecstats.deliveries.moves IS 'How often delivery_move has moved the row; by it the guard knows a replay or a late success from a stray UPDATE';
COMMENT ON COLUMN ecstats.deliveries.body IS 'What is sent, without URL, time stamp and signature: these are added at each claim';
COMMENT ON COLUMN ecstats.deliveries.source IS 'Who tells the operators; (source, occasion) is told once, and its failure is not told in turn';
COMMENT ON COLUMN ecstats.deliveries.settled_at IS 'When it became sent, dead, expired or cancelled';
COMMENT ON COLUMN ecstats.deliveries.last_error IS 'The latest failure, kept when a later attempt succeeds';

CREATE UNIQUE INDEX deliveries_source_key ON ecstats.deliveries (source, occasion) WHERE source IS NOT NULL;
CREATE INDEX deliveries_claim_idx ON ecstats.deliveries (channel, priority, next_attempt_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_due_idx ON ecstats.deliveries (channel, next_attempt_at) WHERE status = 'pending';
CREATE INDEX deliveries_expiry_idx ON ecstats.deliveries (expires_at) WHERE status = 'pending' AND expires_at IS NOT NULL;
CREATE INDEX deliveries_lease_idx ON ecstats.deliveries (channel, lease_until) WHERE status = 'sending';
CREATE INDEX deliveries_channel_idx ON ecstats.deliveries (channel, created_at);
CREATE INDEX deliveries_settled_idx ON ecstats.deliveries (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE ecstats.delivery_attempts (
	delivery_id bigint NOT NULL,
	attempt int NOT NULL CHECK (attempt > 0),
	channel text NOT NULL,
	started_at timestamptz NOT NULL,
	finished_at timestamptz,
	answered_at timestamptz,
	worker text NOT NULL,
	result text CHECK (result IN ('sent', 'retryable', 'once', 'permanent', 'throttled', 'unconfirmed')),
	http_status int,
	provider_code text,
	error_kind text,
	elapsed_ms int,
	response text,
	error text,
	PRIMARY KEY (delivery_id, attempt)
);
COMMENT ON TABLE ecstats.delivery_attempts IS 'One row per request, committed before the request leaves';
COMMENT ON COLUMN ecstats.delivery_attempts.delivery_id IS 'Number in ecstats.deliveries';
COMMENT ON COLUMN ecstats.delivery_attempts.attempt IS 'Number of the request, from 1';
COMMENT ON COLUMN ecstats.delivery_attempts.channel IS 'Name in ecstats.channels';
COMMENT ON COLUMN ecstats.delivery_attempts.started_at IS 'When it was claimed';
COMMENT ON COLUMN ecstats.delivery_attempts.finished_at IS 'When it was settled; NULL while it is under way';
COMMENT ON COLUMN ecstats.delivery_attempts.worker IS 'Pusher that made it';
COMMENT ON COLUMN ecstats.delivery_attempts.http_status IS 'Status of the answer; NULL without one';
COMMENT ON COLUMN ecstats.delivery_attempts.provider_code IS 'The provider''s own code in the answer';
COMMENT ON COLUMN ecstats.delivery_attempts.error_kind IS 'What kind of failure, where there was no answer';
COMMENT ON COLUMN ecstats.delivery_attempts.elapsed_ms IS 'Milliseconds from request to answer';
COMMENT ON COLUMN ecstats.delivery_attempts.error IS 'What went wrong, in words';
COMMENT ON COLUMN ecstats.delivery_attempts.answered_at IS 'When the pusher told; NULL with finished_at set: the lease ran out and the answer is unknown';
COMMENT ON COLUMN ecstats.delivery_attempts.result IS 'What the answer meant; NULL while it is awaited';
COMMENT ON COLUMN ecstats.delivery_attempts.response IS 'First 4 kB of the answer, credentials masked';

CREATE INDEX delivery_attempts_rate_idx ON ecstats.delivery_attempts (channel, started_at);

CREATE FUNCTION ecstats.deliveries_deleted() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM ecstats.delivery_attempts a USING gone g WHERE a.delivery_id = g.id;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.deliveries_deleted() IS 'Trigger: the attempts go with their deliveries';
CREATE TRIGGER deliveries_deleted AFTER DELETE ON ecstats.deliveries REFERENCING OLD TABLE AS gone
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.deliveries_deleted();

CREATE TABLE ecstats.pushers (
	worker text PRIMARY KEY,
	version text,
	started_at timestamptz NOT NULL,
	last_beat timestamptz NOT NULL
);
COMMENT ON TABLE ecstats.pushers IS 'Heartbeats of the pushers; version is read from application_name. Not dumped';

CREATE TABLE ecstats.home (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	system_identifier bigint NOT NULL,
	database name NOT NULL,
	adopted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ecstats.home IS 'The database whose messages may leave. A restored copy brings the row of its origin and sends nothing before ecstats_adopt()';
INSERT INTO ecstats.home (system_identifier, database)
	SELECT s.system_identifier, current_database() FROM pg_control_system() s;

CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.home
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('singleton');

-- The transitions that exist; whoever else writes status meets them too. What leaves a final state
-- (a replay, a late success) only delivery_move does, which counts its moves.
CREATE FUNCTION ecstats.delivery_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (OLD.status, NEW.status) IN (
		('pending', 'sending'), ('pending', 'sent'), ('pending', 'expired'), ('pending', 'cancelled'),
		('sending', 'sent'), ('sending', 'pending'), ('sending', 'dead'), ('sending', 'expired'))
		OR NEW.moves = OLD.moves + 1 AND OLD.status IN ('sent', 'dead', 'expired', 'cancelled') AND NEW.status IN ('pending', 'sent')
	THEN
		RETURN NEW;
	END IF;
	RAISE EXCEPTION 'delivery % cannot go from % to %', OLD.id, OLD.status, NEW.status
		USING ERRCODE = '55000', SCHEMA = 'ecstats', TABLE = 'deliveries', COLUMN = 'status',
			DETAIL = 'The states and their successors are in doc/delivery.md.',
			HINT = 'Use ecstats_replay or ecstats_cancel.';
END $$;
COMMENT ON FUNCTION ecstats.delivery_guard() IS 'Trigger: refuses a transition that is not in the diagram (55000)';
CREATE TRIGGER delivery_guard BEFORE UPDATE OF status ON ecstats.deliveries FOR EACH ROW
	WHEN (OLD.status IS DISTINCT FROM NEW.status)
	EXECUTE FUNCTION ecstats.delivery_guard();
-- sql/36_channel_kinds.sql
-- Checks of channel_kinds and channels (triggers with the owner's rights: who may write a channel may not
-- call what checks it), and the providers that ship. A new provider is an INSERT
-- like these (doc/delivery.md).

-- Options of a channel or the defaults of its kind. Raises 22023; an unknown member is only warned
-- of, so that a dump of a newer version loads.
CREATE FUNCTION ecstats.channel_options_check(options jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	o record;
	ok boolean;
BEGIN
	FOR o IN SELECT e.key, e.value, jsonb_typeof(e.value) AS type FROM jsonb_each(options) e LOOP
		ok := CASE o.key
			WHEN 'rate' THEN o.type = 'null' OR (o.type IN ('object', 'array')
				AND NOT jsonb_path_exists(o.value, '$[*] ? (!(@.count >= 1 && @.count <= 1000 && @.count == @.count.floor() && @.per_seconds > 0 && @.per_seconds <= 86400)
					|| (@.count >= 1 && @.count <= 1000 && @.count == @.count.floor() && @.per_seconds > 0 && @.per_seconds <= 86400) is unknown)'))
			WHEN 'throttle_seconds' THEN o.value @@ '$.type() == "number" && $ >= 1 && $ <= 3600'
			WHEN 'lane' THEN o.value @@ '$.type() == "number" && $ >= 1 && $ <= 100 && $ == $.floor()'
			WHEN 'max_retries' THEN o.value @@ '$.type() == "number" && $ >= 0 && $ <= 20 && $ == $.floor()'
			WHEN 'timeout_seconds' THEN o.value @@ '$.type() == "number" && $ >= 1 && $ <= 300'
			WHEN 'allow_private' THEN o.type = 'boolean'
			WHEN 'on_unconfirmed' THEN o.value IN ('"retry"', '"hold"')
			WHEN 'breaker' THEN o.type = 'null' OR (o.type = 'object'
				AND o.value @@ '$.failures >= 1 && $.pause_seconds >= 1 && $.pause_seconds <= 86400')
			WHEN 'keyword' THEN o.type = 'null' OR (o.type = 'string' AND o.value <> '""')
			WHEN 'envelope' THEN o.type = 'string'
			WHEN 'audience_page' THEN o.type = 'null' OR o.value @@ '$.type() == "number" && $ >= 1 && $ <= 10000 && $ == $.floor()'
			WHEN 'mention' THEN o.type = 'null' OR (o.type = 'object'
				AND coalesce(jsonb_typeof(o.value -> 'users'), 'array') = 'array'
				AND coalesce(jsonb_typeof(o.value -> 'mobiles'), 'array') = 'array'
				AND coalesce(jsonb_typeof(o.value -> 'all'), 'boolean') = 'boolean'
				AND NOT jsonb_path_exists(o.value, '$.users[*] ? (@.type() != "string")')
				AND NOT jsonb_path_exists(o.value, '$.mobiles[*] ? (@.type() != "string")'))
		END;
		IF ok IS NULL AND o.key IN ('rate', 'throttle_seconds', 'lane', 'max_retries', 'timeout_seconds', 'allow_private',
			'on_unconfirmed', 'breaker', 'keyword', 'envelope', 'mention', 'audience_page') OR NOT ok THEN
			RAISE EXCEPTION 'option "%" is not valid', o.key
				USING ERRCODE = '22023', DETAIL = format('The value is %s.', left(o.value::text, 100)),
					HINT = 'rate {"count", "per_seconds"} or an array of them, throttle_seconds 1-3600, lane 1-100, max_retries 0-20, timeout_seconds 1-300, allow_private boolean, '
						'on_unconfirmed "retry" or "hold", breaker {"failures", "pause_seconds"} or null, keyword and envelope text, mention {"users", "mobiles", "all"}, audience_page 1-10000.';
		ELSIF ok IS NULL AND NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
			RAISE WARNING 'option "%" is unknown and has no effect', o.key;
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION ecstats.channel_options_check(jsonb) IS 'Raises 22023 with the member when channel options are not valid; warns of an unknown member';

-- A kind: every template parses, every path in JSON is a path.
CREATE FUNCTION ecstats.channel_kinds_check() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	path text;
BEGIN
	PERFORM ecstats.channel_options_check(NEW.options);
	PERFORM ecstats.template_check(NEW.envelopes);
	FOR path IN SELECT e ->> p FROM jsonb_array_elements(NEW.limits || NEW.mentions) e, unnest('{path,when}'::text[]) p
		WHERE e ->> p IS NOT NULL
	LOOP
		PERFORM path::jsonpath;
	END LOOP;
	IF NEW.wait_headers <> lower(NEW.wait_headers::text)::text[] THEN
		RAISE EXCEPTION 'wait_headers of channel kind "%" must be lower case', NEW.kind USING ERRCODE = '22023';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.channel_kinds_check() IS 'Trigger: checks templates, paths and options of a kind (22023, 42601)';
CREATE TRIGGER channel_kinds_check BEFORE INSERT OR UPDATE ON ecstats.channel_kinds
	FOR EACH ROW EXECUTE FUNCTION ecstats.channel_kinds_check();

CREATE FUNCTION ecstats.channel_kinds_used() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) AND EXISTS (SELECT FROM ecstats.channels c WHERE c.kind = OLD.kind) THEN
		RAISE EXCEPTION 'channel kind "%" is in use', OLD.kind
			USING ERRCODE = '23503', SCHEMA = 'ecstats', TABLE = 'channel_kinds', COLUMN = 'kind',
				DETAIL = format('Channel "%s" is of this kind.', (SELECT min(c.name) FROM ecstats.channels c WHERE c.kind = OLD.kind));
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
COMMENT ON FUNCTION ecstats.channel_kinds_used() IS 'Trigger: a kind that channels are of stays (23503)';
CREATE TRIGGER channel_kinds_deleted BEFORE DELETE ON ecstats.channel_kinds
	FOR EACH ROW EXECUTE FUNCTION ecstats.channel_kinds_used();
CREATE TRIGGER channel_kinds_renamed BEFORE UPDATE OF kind ON ecstats.channel_kinds
	FOR EACH ROW WHEN (OLD.kind <> NEW.kind) EXECUTE FUNCTION ecstats.channel_kinds_used();

CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.channel_kinds
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('kind');

-- A channel. Done here and not by CHECK or NOT NULL, whose DETAIL prints the row with its secrets.
CREATE FUNCTION ecstats.channels_check() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	wrong text;
BEGIN
	NEW.options := coalesce(NEW.options, '{}');
	NEW.enabled := coalesce(NEW.enabled, true);
	NEW.created_at := coalesce(NEW.created_at, now());
	wrong := CASE
		WHEN NEW.name IS NULL OR NEW.name !~ '^[^[:space:][:cntrl:]"''\\,{}]{1,63}$' THEN 'name'
		WHEN NEW.kind IS NULL THEN 'kind'
		WHEN NEW.url IS NULL OR NEW.url !~ '^(https?|smtps?)://[!-~]+$' OR length(NEW.url) > 2048 THEN 'url'
		WHEN NEW.secret ~ '^\s*$' OR NEW.secret ~ '[\n\r]' OR length(NEW.secret) > 2048 THEN 'secret'
		WHEN jsonb_typeof(NEW.options) <> 'object' THEN 'options'
	END;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'column "%" of a channel is not valid', wrong
			USING ERRCODE = '23514', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = wrong,
				DETAIL = 'The values are not shown: url and secret are credentials.',
				HINT = 'name: 1 to 63 characters without blanks, quotes, commas and braces; kind: a row of ecstats.channel_kinds; url: http:// or https:// in printable ASCII, '
					'at most 2048; secret: NULL or one line; options: an object.';
	END IF;
	PERFORM ecstats.channel_options_check(NEW.options);
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		PERFORM FROM ecstats.channel_kinds k WHERE k.kind = NEW.kind FOR KEY SHARE;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'channel kind "%" does not exist', left(NEW.kind, 63)
				USING ERRCODE = '23503', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = 'kind',
					HINT = format('There are %s.', (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM ecstats.channel_kinds k));
		ELSIF NEW.options ->> 'audience_page' IS NOT NULL
			AND NOT EXISTS (SELECT FROM ecstats.channel_kinds k WHERE k.kind = NEW.kind AND k.options ? 'audience_page') THEN
			RAISE EXCEPTION 'channels of kind "%" take no audience', NEW.kind
				USING ERRCODE = '22023', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = 'options',
					DETAIL = 'Option "audience_page" is for receivers that read lists of users.',
					HINT = format('Kinds that take it: %s.', (SELECT string_agg(k.kind, ', ' ORDER BY k.kind)
						FROM ecstats.channel_kinds k WHERE k.options ? 'audience_page'));
		END IF;
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.channels_check() IS 'Trigger: checks a channel (23514, 22023) without ever printing its url or secret';
CREATE TRIGGER channels_check BEFORE INSERT OR UPDATE ON ecstats.channels
	FOR EACH ROW EXECUTE FUNCTION ecstats.channels_check();

-- A channel with messages on their way stays; a renamed one takes its deliveries along.
CREATE FUNCTION ecstats.channels_used() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'UPDATE' THEN
		UPDATE ecstats.deliveries d SET channel = NEW.name WHERE d.channel = OLD.name;
		UPDATE ecstats.delivery_attempts a SET channel = NEW.name WHERE a.channel = OLD.name;
		RETURN NULL;
	ELSIF EXISTS (SELECT FROM ecstats.deliveries d WHERE d.channel = OLD.name AND d.status IN ('pending', 'sending')) THEN
		RAISE EXCEPTION 'channel "%" has deliveries that are not settled', OLD.name
			USING ERRCODE = '23503', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = 'name',
				HINT = 'Cancel them with ecstats_cancel, or disable the channel instead.';
	END IF;
	RETURN OLD;
END $$;
COMMENT ON FUNCTION ecstats.channels_used() IS 'Trigger: keeps a channel that has unsettled deliveries (23503); renames the channel in deliveries and attempts';
CREATE TRIGGER channels_deleted BEFORE DELETE ON ecstats.channels
	FOR EACH ROW EXECUTE FUNCTION ecstats.channels_used();
CREATE TRIGGER channels_renamed AFTER UPDATE OF name ON ecstats.channels
	FOR EACH ROW WHEN (OLD.name <> NEW.name) EXECUTE FUNCTION ecstats.channels_used();

-- ------------------------------------------------------------------ WeCom
INSERT INTO ecstats.channel_kinds (kind, description, native, default_envelope, envelopes, mentions, limits, options,
	code_paths, message_path, success, warning, throttle, permanent, retryable)
VALUES ('wecom', concat('WeCom', ecstats.native_text(' \u4f01\u4e1a\u5fae\u4fe1'), ' group robot'), 'exists($.msgtype)', 'markdown',
	'{"markdown": {"msgtype": "markdown", "markdown": {"content": "{{markdown}}"}},
	  "markdown_v2": {"msgtype": "markdown_v2", "markdown_v2": {"content": "{{markdown}}"}},
	  "text": {"msgtype": "text", "text": {"content": "{{text}}"}}}',
	'[{"when": "$.msgtype == \"text\"", "users_at": ["text", "mentioned_list"], "mobiles_at": ["text", "mentioned_mobile_list"], "all_value": "@all"},
	  {"when": "$.msgtype == \"markdown\"", "append_to": ["markdown", "content"], "user": "<@%s>"}]',
	'[{"path": "$.text.content", "max_bytes": 2048}, {"path": "$.markdown.content", "max_bytes": 4096},
	  {"path": "$.markdown_v2.content", "max_bytes": 4096}, {"path": "$.image.base64", "max_bytes": 2097152, "base64": true},
	  {"path": "$.news.articles", "max_items": 8}, {"path": "$.template_card.horizontal_content_list", "max_items": 6},
	  {"path": "$.template_card.jump_list", "max_items": 3}]',
	'{"rate": {"count": 20, "per_seconds": 60}, "throttle_seconds": 60, "lane": 1}',
	'{$.body.errcode}', '$.body.errmsg', '$.http_status >= 200 && $.http_status < 300 && $.body.type() == "object" && $.body.errcode == 0',
	'$.body.errmsg like_regex "wrong json format" flag "i"',
	'$.http_status == 429 || $.body.errcode == 45009',
	'$.body.errcode == 40001 || $.body.errcode == 40003 || $.body.errcode == 40004 || $.body.errcode == 40006 || $.body.errcode == 40007
	 || $.body.errcode == 40008 || $.body.errcode == 40009 || $.body.errcode == 40033 || $.body.errcode == 40035 || $.body.errcode == 40058
	 || $.body.errcode == 40063 || $.body.errcode == 44001 || $.body.errcode == 44004 || $.body.errcode == 45001 || $.body.errcode == 45002
	 || $.body.errcode == 45008 || $.body.errcode == 93000 || $.body.errcode == 93004 || $.body.errcode == 93008',
	'$.body.errcode == -1 || $.body.errcode == 6000 || $.body.errcode == 45033');

-- ------------------------------------------------------------------ DingTalk
-- 310000 has several meanings that only the text tells apart. 1111 comes from a gate in front, with
-- the seconds to wait. Past its rate a robot is shut out for ten minutes.
INSERT INTO ecstats.channel_kinds (kind, description, signature, native, default_envelope, envelopes, text_paths, mentions, limits, options,
	code_paths, message_path, success, throttle, wait_path, retry_once, permanent, retryable)
VALUES ('dingtalk', concat('DingTalk', ecstats.native_text(' \u9489\u9489'), ' group robot'), 'dingtalk', 'exists($.msgtype)', 'markdown',
	'{"markdown": {"msgtype": "markdown", "markdown": {"title": "{{title}}", "text": "{{markdown}}"}},
	  "text": {"msgtype": "text", "text": {"content": "{{text}}"}},
	  "link": {"msgtype": "link", "link": {"title": "{{title}}", "text": "{{text}}", "messageUrl": "{{url}}", "picUrl": ""}},
	  "actionCard": {"msgtype": "actionCard", "actionCard": {"title": "{{title}}", "text": "{{markdown}}", "btnOrientation": "0",
		"singleTitle": "{{button}}", "singleURL": "{{url}}"}}}',
	'[["text", "content"], ["markdown", "title"], ["markdown", "text"], ["link", "title"], ["link", "text"], ["actionCard", "title"], ["actionCard", "text"]]',
	'[{"when": "$.msgtype == \"text\"", "users_at": ["at", "atUserIds"], "mobiles_at": ["at", "atMobiles"], "all_at": ["at", "isAtAll"],
	   "append_to": ["text", "content"], "user": "@%s", "mobile": "@%s"},
	  {"when": "$.msgtype == \"markdown\"", "users_at": ["at", "atUserIds"], "mobiles_at": ["at", "atMobiles"], "all_at": ["at", "isAtAll"],
	   "append_to": ["markdown", "text"], "user": "@%s", "mobile": "@%s"}]',
	'[{"max_bytes": 20000}]',
	'{"rate": {"count": 20, "per_seconds": 60}, "throttle_seconds": 600, "lane": 1}',
	'{$.body.errcode,"$.body.status ? (@ == 1111)"}', '$.body.errmsg',
	'$.http_status >= 200 && $.http_status < 300 && $.body.type() == "object" && $.body.errcode == 0 && !($.body.status == 1111)',
	'$.http_status == 429 || $.body.errcode == 130101 || $.body.errcode == 410100 || ($.body.status == 1111 && exists($.body.punish))',
	'$.body ? (@.status == 1111).wait',
	'$.body.errcode == 310000 && $.body.errmsg like_regex "timestamp" flag "i"',
	'$.body.errcode == 310000 || $.body.errcode == 300001 || $.body.errcode == 300005 || $.body.errcode == 400013 || $.body.errcode == 400101
	 || $.body.errcode == 400102 || $.body.errcode == 400105 || $.body.errcode == 400106 || $.body.errcode == 40035 || $.body.errcode == 43002
	 || $.body.errcode == 43004 || $.body.errcode == 430101 || $.body.errcode == 430102 || $.body.errcode == 430103 || $.body.errcode == 430104
	 || $.body.errcode == 460101 || $.body.errcode == 88 || $.body.errcode == 404',
	'$.body.errcode == -1');

-- ------------------------------------------------------------------ Feishu
-- 9499 is a bad body, or the gateway's "too many request". 19021 (sign or clock) is signed anew once.
INSERT INTO ecstats.channel_kinds (kind, description, signature, native, default_envelope, envelopes, text_paths, mentions, limits, options,
	code_paths, message_path, success, throttle, wait_headers, retry_once, permanent)
VALUES ('feishu', concat('Feishu / Lark', ecstats.native_text(' \u98de\u4e66'), ' group robot'), 'feishu', 'exists($.msg_type)', 'interactive',
	'{"interactive": {"msg_type": "interactive", "card": {"header": {"template": "blue", "title": {"tag": "plain_text", "content": "{{title}}"}},
		"elements": [{"tag": "markdown", "content": "{{markdown}}"}]}},
	  "text": {"msg_type": "text", "content": {"text": "{{text}}"}},
	  "post": {"msg_type": "post", "content": {"post": {"zh_cn": {"title": "{{title}}", "content": [[{"tag": "text", "text": "{{text}}"}]]}}}}}',
	'[["content", "text"], ["card", "header", "title", "content"], ["card", "elements", "0", "content"], ["card", "elements", "0", "text", "content"],
	  ["content", "post", "zh_cn", "title"], ["content", "post", "zh_cn", "content", "0", "0", "text"]]',
	'[{"when": "$.msg_type == \"text\"", "append_to": ["content", "text"], "user": "<at user_id=\"%s\"></at>", "all": "<at user_id=\"all\"></at>"},
	  {"when": "$.msg_type == \"interactive\"", "append_to": ["card", "elements", "0", "content"], "user": "<at id=%s></at>", "all": "<at id=all></at>"}]',
	'[{"max_bytes": 20000}]',
	'{"rate": [{"count": 100, "per_seconds": 60}, {"count": 5, "per_seconds": 1}], "throttle_seconds": 60, "lane": 1}',
	'{$.body.code,$.body.StatusCode}', '$.body.msg',
	'$.http_status >= 200 && $.http_status < 300 && $.body.type() == "object" && ($.body.code == 0 || (!exists($.body.code) && $.body.StatusCode == 0))',
	'$.http_status == 429 || $.body.code == 11232 || $.body.code == 99991400 || ($.body.code == 9499 && $.body.msg like_regex "too many|(^|[^a-z])rate([^a-z]|$)" flag "i")',
	'{x-ogw-ratelimit-reset,retry-after}',
	'$.body.code == 19021',
	'$.body.code == 9499 || $.body.code == 19001 || $.body.code == 19002 || $.body.code == 19022 || $.body.code == 19024 || $.body.code == 11246');

-- ------------------------------------------------------------------ webhook (Standard Webhooks)
-- Any 2xx is success and a redirect is a failure. A gateway's 502, 503 or 504 is a throttle where it
-- says how long; without that it is an ordinary failure, so that a dead target does end in dead.
INSERT INTO ecstats.channel_kinds (kind, description, content_type, signature, native, default_envelope, envelopes, limits, options,
	success, throttle, permanent)
VALUES ('webhook', 'Any HTTP receiver (Standard Webhooks 1.0.0)', 'application/json', 'standard-webhooks',
	'exists($.type) && exists($.data)', 'event',
	'{"event": {"type": "{{type}}", "timestamp": "{{timestamp}}", "data": "{{message}}"}}',
	'[{"max_bytes": 262144}]',
	'{"throttle_seconds": 60, "lane": 4, "timeout_seconds": 20, "audience_page": null}',
	'$.http_status >= 200 && $.http_status < 300',
	'$.http_status == 429 || (($.http_status == 502 || $.http_status == 503 || $.http_status == 504) && exists($.headers."retry-after"))',
	'$.http_status == 410');

-- ------------------------------------------------------------------ Slack
INSERT INTO ecstats.channel_kinds (kind, description, native, default_envelope, envelopes, limits, options,
	code_paths, success, throttle, permanent)
VALUES ('slack', 'Slack incoming webhook', 'exists($.blocks) || exists($.attachments)', 'text',
	'{"text": {"text": "{{text}}"},
	  "blocks": {"text": "{{title}}", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "{{text}}"}}]}}',
	'[{"path": "$.text", "max_chars": 40000}, {"path": "$.blocks", "max_items": 50}, {"path": "$.blocks[*].text.text", "max_chars": 3000},
	  {"path": "$.attachments", "max_items": 100}]',
	'{"rate": {"count": 1, "per_seconds": 1}, "throttle_seconds": 30, "lane": 1}',
	'{"$.body ? (@.type() == \"string\" && @ != \"\")"}', '$.http_status == 200 && $.body == "ok"',
	'$.http_status == 429',
	'$.http_status == 400 || $.http_status == 403 || $.http_status == 404 || $.http_status == 410');
-- sql/37_report_rows.sql
-- What ships: a Chinese and an English daily report. They are neutral messages (title, markdown,
-- text), so the same template suits every kind of channel. Lines end in two blanks, the line break
-- that every chat's Markdown knows; they are put in by replace(), not typed. Change a text by
-- inserting a new version, not here.

-- The Chinese one ships where the database's encoding can hold it.
INSERT INTO ecstats.templates (name, version, note, body)
SELECT 'daily_cn', 1, t.note, jsonb_build_object('type', 'report.daily', 'title', t.title, 'text', t.text, 'markdown', t.markdown)
  FROM (SELECT ecstats.native_text('shipped: \u7ecf\u8425\u65e5\u62a5') AS note,
	ecstats.native_text('{{day_cn}}\u65e5\u62a5 \u6210\u4ea4\u989d{{gmv | cn}} \u73af\u6bd4{{dod.gmv | signed_percent:\u6301\u5e73}}') AS title,
	ecstats.native_text('{{day_cn}}({{weekday_cn}})\u65e5\u62a5:\u6210\u4ea4\u989d {{gmv | cn}},\u73af\u6bd4 {{dod.gmv | signed_percent:\u6301\u5e73}},'
		'\u5468\u540c\u6bd4 {{wow.gmv | signed_percent:\u6301\u5e73}};\u8ba2\u5355 {{order_count | int}} \u5355,\u652f\u4ed8 {{payer_count | int}} \u4eba,'
		'\u5ba2\u5355\u4ef7 {{amount_per_buyer | money}},\u8bbf\u5ba2 {{uv | int}},\u8f6c\u5316\u7387 {{conversion_rate | percent:2}},'
		'\u9000\u6b3e {{refund_amount | cn}}\u3002{{^complete}}\u6570\u636e\u5c1a\u672a\u6536\u9f50,\u4ee5\u66f4\u6b63\u4e3a\u51c6\u3002{{/complete}}') AS text,
	replace(ecstats.native_text(replace(btrim($md$
**{{day_cn}}({{weekday_cn}})\u7ecf\u8425\u65e5\u62a5**
{{#restated}}
> **\u66f4\u6b63**(\u7b2c {{revision}} \u7248)
{{#columns.gmv}}
> \u6210\u4ea4\u989d\u7531 {{old | money}} \u66f4\u6b63\u4e3a {{new | money}}
{{/columns.gmv}}
{{#columns.paid_amount}}
> \u652f\u4ed8\u91d1\u989d\u7531 {{old | money}} \u66f4\u6b63\u4e3a {{new | money}}
{{/columns.paid_amount}}
{{#columns.refund_amount}}
> \u9000\u6b3e\u7531 {{old | money}} \u66f4\u6b63\u4e3a {{new | money}}
{{/columns.refund_amount}}
{{#columns.uv}}
> \u8bbf\u5ba2\u7531 {{old | int}} \u66f4\u6b63\u4e3a {{new | int}}
{{/columns.uv}}
{{/restated}}
{{^complete}}
> **\u6570\u636e\u5c1a\u672a\u6536\u9f50**,\u4ee5\u66f4\u6b63\u4e3a\u51c6
{{/complete}}
{{^reconciles}}
> **\u6e20\u9053\u5408\u8ba1\u4e0e\u6210\u4ea4\u989d\u4e0d\u7b26**,\u8bf7\u5148\u6838\u5bf9\u518d\u5f15\u7528
{{/reconciles}}
> \u6210\u4ea4\u989d **{{gmv | cn}}** \u73af\u6bd4 {{dod.gmv | signed_percent:\u6301\u5e73}} \u5468\u540c\u6bd4 {{wow.gmv | signed_percent:\u6301\u5e73}}
> \u8ba2\u5355 {{order_count | int}} \u5355 \u652f\u4ed8 {{payer_count | int}} \u4eba \u652f\u4ed8\u91d1\u989d {{paid_amount | cn}}
> \u5ba2\u5355\u4ef7 {{amount_per_buyer | money}} \u7b14\u5355\u4ef7 {{aov | money}}
> \u8bbf\u5ba2 {{uv | int}} \u8f6c\u5316\u7387 {{conversion_rate | percent:2}}{{#dod_points.conversion_rate_text}}(\u8f83\u524d\u4e00\u65e5 {{dod_points.conversion_rate_text}} \u767e\u5206\u70b9){{/dod_points.conversion_rate_text}}
> \u9000\u6b3e {{refund_amount | cn}} \u9000\u6b3e\u7387 {{refund_rate | percent}}
{{#targets.gmv}}

**\u672c\u6708\u7d2f\u8ba1** {{achieved | cn}} / \u76ee\u6807 {{value | cn}} \u8fbe\u6210 {{rate | percent}} \u65f6\u95f4\u8fdb\u5ea6 {{time_progress | percent}}({{lead_points_text}} \u767e\u5206\u70b9)
{{#daily_needed}}
\u5269\u4f59 {{days_left}} \u5929,\u65e5\u5747\u9700 {{daily_needed | cn}}
{{/daily_needed}}
{{/targets.gmv}}
{{#has_sales}}

**\u5546\u54c1 TOP5**
{{#top_products}}
{{#top5}}
{{rank}}. {{label | truncate:18}} {{total_revenue | cn}}({{total_sold | int}} \u4ef6)
{{/top5}}
{{/top_products}}

**\u6e20\u9053** {{#by_channel}}{{#top10}}{{^first}} <dot> {{/first}}{{label | truncate:10}} {{total_revenue | cn}}({{revenue_change | signed_percent:\u6301\u5e73}}){{/top10}}{{/by_channel}}

**\u533a\u57df TOP5** {{#by_region}}{{#top5}}{{^first}} <dot> {{/first}}{{label | truncate:10}} {{total_revenue | cn}}({{share | percent}}){{/top5}}{{/by_region}}
{{/has_sales}}

\u7edf\u8ba1\u53e3\u5f84:\u4e0b\u5355\u6210\u4ea4\u989d,\u672a\u6263\u9000\u6b3e;{{currency}};\u6e20\u9053\u62ec\u53f7\u5185\u4e3a\u73af\u6bd4,\u533a\u57df\u62ec\u53f7\u5185\u4e3a\u5360\u6bd4
$md$, E'\n'), E'\n', E'  \n')), '<dot>', coalesce(ecstats.native_text('\u00b7'), ecstats.native_text('\u30fb'), '|')) AS markdown) t
 WHERE num_nulls(t.note, t.title, t.text, t.markdown) = 0;

INSERT INTO ecstats.templates (name, version, note, body)
VALUES ('daily_en', 1, 'shipped: daily report in English', jsonb_build_object(
	'type', 'report.daily',
	'title', 'Daily report {{day}}: GMV {{gmv | money}} {{currency}}, {{dod.gmv | signed_percent:unchanged}} on the day before',
	'text', btrim($txt$
Daily report, {{weekday}} {{day}}
{{#restated}}
Corrected, revision {{revision}}.
{{/restated}}
{{^complete}}
Not complete yet: late data will be reported as a correction.
{{/complete}}
GMV {{gmv | money}} {{currency}} (day before {{dod.gmv | signed_percent:unchanged}}, week before {{wow.gmv | signed_percent:unchanged}})
Orders {{order_count | int}}, buyers {{buyer_count | int}}, per order {{aov | money}}
Paid {{paid_amount | money}} by {{payer_count | int}} customers, refunds {{refund_amount | money}} ({{refund_rate | percent}})
Visitors {{uv | int}}, conversion {{conversion_rate | percent:2}}
{{#top_products}}
{{#top3}}
{{rank}}. {{label | truncate:40}}: {{total_revenue | money}} ({{total_sold | int}} pcs)
{{/top3}}
{{/top_products}}
$txt$, E'\n'),
	'markdown', replace(replace(btrim($md$
**Daily report, {{weekday}} {{day}}**
{{#restated}}
> **Corrected** (revision {{revision}}){{#columns.gmv}}: GMV {{old | money}} is now {{new | money}}{{/columns.gmv}}
{{/restated}}
{{^complete}}
> **Not complete yet**: late data will be reported as a correction
{{/complete}}
{{^reconciles}}
> **Channels do not add up to GMV**: check before use
{{/reconciles}}
> GMV **{{gmv | money}}** {{currency}}, {{dod.gmv | signed_percent:unchanged}} on the day before, {{wow.gmv | signed_percent:unchanged}} on the week before
> Orders {{order_count | int}}, buyers {{buyer_count | int}}, per order {{aov | money}}
> Paid {{paid_amount | money}} by {{payer_count | int}} customers
> Visitors {{uv | int}}, conversion {{conversion_rate | percent:2}}{{#dod_points.conversion_rate_text}} ({{dod_points.conversion_rate_text}} points){{/dod_points.conversion_rate_text}}
> Refunds {{refund_amount | money}}, {{refund_rate | percent}} of what was paid
{{#targets.gmv}}

**Month to date** {{achieved | money}} of {{value | money}}: {{rate | percent}} with {{time_progress | percent}} of the time gone
{{/targets.gmv}}
{{#has_sales}}

**Top 5 products**
{{#top_products}}
{{#top5}}
{{rank}}. {{label | truncate:32}} {{total_revenue | money}} ({{total_sold | int}} pcs)
{{/top5}}
{{/top_products}}

**Channels** {{#by_channel}}{{#top10}}{{^first}} <dot> {{/first}}{{label | truncate:16}} {{total_revenue | money}} ({{revenue_change | signed_percent:unchanged}}){{/top10}}{{/by_channel}}

**Top 5 regions** {{#by_region}}{{#top5}}{{^first}} <dot> {{/first}}{{label | truncate:16}} {{total_revenue | money}} ({{share | percent}}){{/top5}}{{/by_region}}
{{/has_sales}}
$md$, E'\n'), E'\n', E'  \n'), '<dot>', coalesce(ecstats.native_text('\u00b7'), ecstats.native_text('\u30fb'), '|'))));

INSERT INTO ecstats.reports (name, template)
VALUES ('daily', coalesce((SELECT t.name FROM ecstats.templates t WHERE t.name = 'daily_cn'), 'daily_en')), ('daily_en', 'daily_en');
-- sql/37_report_recall_rows.sql
-- The recall reports that ship, in Chinese and in English: who was highly active and went silent. Made as the daily
-- ones are (37_report_rows.sql); the audience is the report's, so that another tag needs no other template.

INSERT INTO ecstats.templates (name, version, note, body)
SELECT 'recall_cn', 1, t.note, jsonb_build_object('type', 'report.recall', 'title', t.title, 'text', t.text, 'markdown', t.markdown)
  FROM (SELECT ecstats.native_text('shipped: \u53ec\u56de\u5468\u62a5') AS note,
	ecstats.native_text('{{day_cn}}\u53ec\u56de\u5468\u62a5 \u5f85\u53ec\u56de{{audience.user_count | int}}\u4eba \u8fd17\u5929\u65b0\u589e{{audience.new_count | int}}\u4eba') AS title,
	ecstats.native_text('\u622a\u81f3{{day_cn}}({{weekday_cn}}):\u5f85\u53ec\u56de {{audience.user_count | int}} \u4eba,\u5360\u5168\u90e8\u7528\u6237 {{audience.share | percent}},'
		'\u8fd17\u5929\u65b0\u589e {{audience.new_count | int}} \u4eba;\u8f83\u524d\u4e00\u65e5\u7b49\u7ea7\u4e0a\u5347 {{up | int}} \u4eba,\u4e0b\u964d {{down | int}} \u4eba;'
		'\u6d3b\u8dc3\u7528\u6237 {{active_users | int}} \u4eba,\u9ad8\u6d3b\u8dc3 {{levels_by.high.user_count | int}} \u4eba\u3002') AS text,
	replace(ecstats.native_text(replace(btrim($md$
**{{day_cn}}({{weekday_cn}})\u53ec\u56de\u5468\u62a5**
> \u5f85\u53ec\u56de **{{audience.user_count | int}}** \u4eba,\u5360\u5168\u90e8\u7528\u6237 {{audience.share | percent}}
> \u8fd17\u5929\u65b0\u589e {{audience.new_count | int}} \u4eba{{#audience.week}} \u79bb\u5f00 {{left_count | int}} \u4eba{{#change_text}} \u8f83\u4e00\u5468\u524d {{change_text}} \u4eba{{/change_text}}{{/audience.week}}

**\u6d3b\u8dc3\u7b49\u7ea7** {{#levels}}{{^first}} <dot> {{/first}}{{level_cn}} {{user_count | int}} \u4eba({{change_text}}){{/levels}}
**\u8f83\u524d\u4e00\u65e5** \u4e0a\u5347 {{up | int}} \u4eba,\u4e0b\u964d {{down | int}} \u4eba{{#has_movements}}:{{#movements}}{{^first}} <dot> {{/first}}{{from_cn}}\u8f6c{{to_cn}} {{user_count | int}} \u4eba{{/movements}}{{/has_movements}}
{{#cohorts.d7.rate}}
**\u65b0\u5ba2\u7559\u5b58** \u6b21\u65e5 {{cohorts.d1.rate | percent}} 7\u65e5 {{cohorts.d7.rate | percent}} 30\u65e5 {{cohorts.d30.rate | percent}}
{{/cohorts.d7.rate}}
{{#audience.has_sample}}

**\u4f18\u5148\u8054\u7cfb**(\u6309\u7d2f\u8ba1\u652f\u4ed8\u91d1\u989d)
{{#audience.sample}}
{{rank}}. {{label | truncate:24}} \u6c89\u9ed8 {{days_silent | int}} \u5929,\u652f\u4ed8 {{paid_amount | money}},{{order_count | int}} \u5355
{{/audience.sample}}
{{#audience.has_more}}
\u53e6\u6709 {{audience.sample_left | int}} \u4eba\u672a\u5217\u51fa
{{/audience.has_more}}
{{/audience.has_sample}}

\u7edf\u8ba1\u53e3\u5f84:\u4eba\u7fa4 {{audience.tag}};\u5171 {{users | int}} \u540d\u7528\u6237;{{currency}};\u7b49\u7ea7\u62ec\u53f7\u5185\u4e3a\u8f83\u524d\u4e00\u65e5\u4eba\u6570\u53d8\u5316
$md$, E'\n'), E'\n', E'  \n')), '<dot>', coalesce(ecstats.native_text('\u00b7'), ecstats.native_text('\u30fb'), '|')) AS markdown) t
 WHERE num_nulls(t.note, t.title, t.text, t.markdown) = 0;

INSERT INTO ecstats.templates (name, version, note, body)
VALUES ('recall_en', 1, 'shipped: recall report in English', jsonb_build_object(
	'type', 'report.recall',
	'title', 'Recall report {{day}}: {{audience.user_count | int}} users to win back, {{audience.new_count | int}} new in 7 days',
	'text', btrim($txt$
Recall report, {{weekday}} {{day}}
To win back {{audience.user_count | int}} users ({{audience.share | percent}} of {{users | int}}), {{audience.new_count | int}} new in the last 7 days
Active users {{active_users | int}}, of them highly active {{levels_by.high.user_count | int}}
Since the day before {{up | int}} moved up, {{down | int}} moved down
$txt$, E'\n'),
	'markdown', replace(replace(btrim($md$
**Recall report, {{weekday}} {{day}}**
> **{{audience.user_count | int}}** users to win back, {{audience.share | percent}} of {{users | int}}
> {{audience.new_count | int}} new in the last 7 days{{#audience.week}}, {{left_count | int}} left{{#change_text}}, {{change_text}} on the week before{{/change_text}}{{/audience.week}}

**Levels** {{#levels}}{{^first}} <dot> {{/first}}{{level}} {{user_count | int}} ({{change_text}}){{/levels}}
**Since the day before** {{up | int}} up, {{down | int}} down{{#has_movements}}: {{#movements}}{{^first}} <dot> {{/first}}{{from}} to {{to}} {{user_count | int}}{{/movements}}{{/has_movements}}
{{#cohorts.d7.rate}}
**Retention of new users** day 1 {{cohorts.d1.rate | percent}}, day 7 {{cohorts.d7.rate | percent}}, day 30 {{cohorts.d30.rate | percent}}
{{/cohorts.d7.rate}}
{{#audience.has_sample}}

**First to call** (by amount paid in all)
{{#audience.sample}}
{{rank}}. {{label | truncate:24}}: silent for {{days_silent | int}} days, paid {{paid_amount | money}} in {{order_count | int}} orders
{{/audience.sample}}
{{#audience.has_more}}
and {{audience.sample_left | int}} more
{{/audience.has_more}}
{{/audience.has_sample}}

Audience {{audience.tag}}; amounts in {{currency}}; in brackets the change of users on the day before
$md$, E'\n'), E'\n', E'  \n'), '<dot>', coalesce(ecstats.native_text('\u00b7'), ecstats.native_text('\u30fb'), '|'))));

INSERT INTO ecstats.reports (name, dataset, audience, template)
VALUES ('recall', 'activity', 'high_active_silent', coalesce((SELECT t.name FROM ecstats.templates t WHERE t.name = 'recall_cn'), 'recall_en')),
	   ('recall_en', 'activity', 'high_active_silent', 'recall_en');
-- sql/40_event.sql
-- Intake of events as JSON.

-- ecstats.event_partitions_try: makes the partitions that ecstats.event_days_wanted found wanting. Where one cannot be
-- made (a lock was busy, rows wait in the default partition), this session does not try again for a
-- minute: a long COPY of somebody's must not cost every call 100 ms. Within a transaction block none are made:
-- everybody would wait for its end.
CREATE FUNCTION ecstats.event_partitions_try(days date[], at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d date;
BEGIN
	IF ecstats.in_transaction_block()
		OR extract(epoch FROM at) < nullif(current_setting('ecstats.next_partition_try', true), '')::numeric THEN
		RETURN;
	END IF;
	FOREACH d IN ARRAY days LOOP
		IF NOT ecstats.day_partition_exists(d) AND NOT ecstats.event_partition_try(d) THEN
			PERFORM set_config('ecstats.next_partition_try', (extract(epoch FROM at) + 60)::text, false);
			RETURN;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.event_partitions_try(date[], timestamptz) IS
	'Makes the missing partitions of recent days, NULL being none, or leaves it for a minute where one cannot be made at once.';

-- ecstats.event_conflicts: elements whose key (event_time, user_id, event_id) is stored with other
-- content. Called only when fewer rows were stored than sent. Key by key, by the index: another join would read
-- all that is stored for the sake of a few elements. The bounds are written out, so that the days outside are left
-- out when it is planned: years of partitions cost a second otherwise. at is the clock that the elements were judged by.
CREATE FUNCTION ecstats.event_conflicts(payload jsonb, at timestamptz DEFAULT clock_timestamp())
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event_id uuid)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
	SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
	from_time timestamptz;
	to_time timestamptz;
BEGIN
	SELECT min(p.event_time), max(p.event_time) INTO from_time, to_time
	  FROM ecstats.event_parse(payload, false, at) p WHERE p.sqlstate IS NULL;
	IF from_time IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format('SELECT p.ord, p.event_time, p.user_id, p.event_id
		  FROM ecstats.event_parse($1, false, $2) p
		  JOIN ecstats.events e ON e.event_time = p.event_time AND e.user_id = p.user_id AND e.event_id = p.event_id
		 WHERE p.sqlstate IS NULL AND e.event_time BETWEEN %L AND %L
		   AND (e.event, e.page_url, e.extra) IS DISTINCT FROM (p.event COLLATE "C", p.page_url, p.extra)
		 ORDER BY p.ord', from_time, to_time) USING payload, at;
END
$$;
COMMENT ON FUNCTION ecstats.event_conflicts(jsonb, timestamptz) IS
	'Elements of a payload whose key is stored with other content.';

-- ecstats.event_quarantine: stores the valid elements and keeps the others as rejects. One statement, so that
-- every element is judged once.
CREATE FUNCTION ecstats.event_quarantine(payload jsonb, at timestamptz, OUT valid bigint, OUT stored bigint)
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH parsed AS MATERIALIZED (
		SELECT * FROM ecstats.event_parse(payload, false, at)
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
	SELECT (SELECT count(*) FROM parsed p WHERE p.sqlstate IS NULL), (SELECT count(*) FROM stored_rows) $$;
COMMENT ON FUNCTION ecstats.event_quarantine(jsonb, timestamptz) IS
	'Stores the valid elements of a payload and puts the others into ecstats.rejects; how many are valid, and how many of these were stored.';

-- ecstats.event_insert: stores the valid elements of a payload; the others are an error (raise) or rejects. Looking
-- for a key before each row, and row by row at all, costs more than twice a COPY's insert, and batches are seldom
-- repeats: a larger one is stored in bulk first. Where that meets a key that is there (a repeated call does so at
-- its first rows), it is undone and repeats are looked for.
CREATE FUNCTION ecstats.event_insert(payload jsonb, elements bigint, raise_errors boolean, at timestamptz,
												OUT valid bigint, OUT stored bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF elements >= 20 THEN
		BEGIN
			stored := ecstats.event_store(payload, raise_errors, at);
			valid := stored;
		EXCEPTION WHEN unique_violation OR SQLSTATE 'ZE001' THEN
			NULL;
		END;
	END IF;
	IF stored IS NULL AND NOT raise_errors THEN
		SELECT q.valid, q.stored INTO valid, stored FROM ecstats.event_quarantine(payload, at) q;
	ELSIF stored IS NULL THEN
		INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT p.event_time, p.user_id, p.event, p.event_id, p.page_url, p.extra
		  FROM ecstats.event_parse(payload, true, at) p
		ON CONFLICT DO NOTHING;
		GET DIAGNOSTICS stored = ROW_COUNT;
		valid := elements;		-- or it would not have come here
	ELSIF valid < elements THEN
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'track', p.payload_element, p.sqlstate, p.reason
		  FROM ecstats.event_parse(payload, false, at) p WHERE p.sqlstate IS NOT NULL ORDER BY p.ord;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.event_insert(jsonb, bigint, boolean, timestamptz) IS
	'Stores the valid elements of a payload that has so many elements: how many are valid, and how many of these were stored; repeats are not. The others are an error (raise_errors) or go to ecstats.rejects.';

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
	at timestamptz := clock_timestamp();		-- every element is judged by this
	elements bigint;
	valid bigint;
	stored bigint;
	conflict record;
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.event_partitions_try(ecstats.event_days_wanted(payload, at), at);
	-- A statement of its own: what it unpacks of a large payload is freed at its end.
	elements := CASE jsonb_typeof(payload) WHEN 'array' THEN jsonb_array_length(payload) ELSE 1 END;
	SELECT i.valid, i.stored INTO valid, stored FROM ecstats.event_insert(payload, elements, raise_errors, at) i;
	IF stored < valid THEN
		FOR conflict IN SELECT * FROM ecstats.event_conflicts(payload, at) LOOP
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

-- The new table stands apart until it is attached: CREATE \u2026 PARTITION OF would lock all writers out.
CREATE FUNCTION ecstats.event_partition_create(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part name := ecstats.day_partition_name(day);
BEGIN
	EXECUTE format('CREATE TABLE ecstats.%I (LIKE ecstats.events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
	-- A partition that was detached and renamed keeps its index: then any free name will do.
	EXECUTE format('CREATE UNIQUE INDEX %s ON ecstats.%I (event_time, user_id, event_id)',
				   CASE WHEN to_regclass('ecstats.' || part || '_key') IS NULL THEN part || '_key' ELSE '' END, part);
	EXECUTE format('CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.%I FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated()', part);
	EXECUTE format('ALTER TABLE ecstats.%I ENABLE ALWAYS TRIGGER truncated', part);
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_create(date) IS 'Creates the table of a business day with its unique index, not attached yet.';

CREATE FUNCTION ecstats.event_partition_attach(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET datestyle = 'ISO, YMD' SET timezone = 'UTC' AS $$	-- the bounds are written as text
DECLARE
	from_time timestamptz := ecstats.day_start(day);
	to_time timestamptz := ecstats.day_start(day + 1);
	part name := ecstats.day_partition_name(day);
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
-- a lock is busy or rows of the day are waiting already, the default partition takes the rows. Writers are
-- held off the parent: one that had chosen the default partition already would fail on its new constraint.
CREATE FUNCTION ecstats.event_partition_try(day date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
	IF ecstats.day_partition_taken(day)
		OR NOT pg_try_advisory_xact_lock(hashtext('ecstats.event_partition'), day - date '2000-01-01') THEN
		RETURN false;
	END IF;
	BEGIN
		LOCK TABLE ONLY ecstats.events IN SHARE ROW EXCLUSIVE MODE;
		LOCK TABLE ONLY ecstats.events_default IN ACCESS EXCLUSIVE MODE;
		-- The attach reads the default partition: a large one is left to maintenance.
		IF pg_relation_size('ecstats.events_default') > 32 * 1024 * 1024 OR EXISTS (SELECT FROM ecstats.events_default d
					WHERE d.event_time >= ecstats.day_start(day) AND d.event_time < ecstats.day_start(day + 1)) THEN
			RETURN false;
		END IF;
		PERFORM ecstats.event_partition_create(day);
		PERFORM ecstats.event_partition_attach(day);
		RETURN true;
	EXCEPTION WHEN lock_not_available OR check_violation OR duplicate_table OR unique_violation
		OR duplicate_object OR deadlock_detected OR invalid_object_definition OR object_in_use THEN
		RETURN false;
	END;
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_try(date) IS
	'Makes a day''s partition if that needs no wait above 100 ms and no rows of the day are in the default partition; false otherwise.';

-- ecstats.event_partition_make: makes a day's partition and moves its waiting rows there. Writers wait
-- while rows are moved (4 to 10 microseconds a row; an index built afterwards gained nothing measurable); readers
-- only while it is attached.
CREATE FUNCTION ecstats.event_partition_make(day date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	from_time timestamptz := ecstats.day_start(day);
	to_time timestamptz := ecstats.day_start(day + 1);
	moved bigint;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('ecstats.event_partition'), day - date '2000-01-01');
	IF ecstats.day_partition_taken(day) OR from_time >= to_time THEN	-- or a day that the zone skipped
		RETURN false;
	END IF;
	PERFORM ecstats.event_partition_create(day);
	LOCK TABLE ONLY ecstats.events IN SHARE ROW EXCLUSIVE MODE;
	LOCK TABLE ONLY ecstats.events_default IN SHARE ROW EXCLUSIVE MODE;
	-- Moved rows are not changed rows: their days need not be computed again.
	PERFORM set_config('ecstats.suppress_marks', 'on', true);
	EXECUTE format('WITH moved AS (DELETE FROM ONLY ecstats.events_default WHERE event_time >= $1 AND event_time < $2 RETURNING *)
					INSERT INTO ecstats.%I SELECT * FROM moved', ecstats.day_partition_name(day))
		USING from_time, to_time;
	GET DIAGNOSTICS moved = ROW_COUNT;
	PERFORM set_config('ecstats.suppress_marks', 'off', true);
	IF moved > 0 THEN			-- no reader may look in between
		LOCK TABLE ONLY ecstats.events IN ACCESS EXCLUSIVE MODE;
	END IF;
	PERFORM ecstats.event_partition_attach(day);
	RETURN true;
END
$$;
COMMENT ON FUNCTION ecstats.event_partition_make(date) IS
	'Makes a day''s partition and moves the day''s rows out of the default partition into it; false if it was there.';

-- ecstats.event_day_apart: are all events of a day in a partition of its own, one with its name and its bounds? Also
-- where it has no events. (Somebody may have attached another table, whose bounds hold other days too.)
CREATE FUNCTION ecstats.event_day_apart(day date) RETURNS boolean
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
	SET datestyle = 'ISO, YMD' SET timezone = 'UTC' AS $$	-- as the bounds are read as text
DECLARE
	from_time timestamptz := ecstats.day_start(day);
	to_time timestamptz := ecstats.day_start(day + 1);
	part regclass := CASE WHEN ecstats.day_partition_exists(day) THEN to_regclass('ecstats.' || ecstats.day_partition_name(day)) END;
	bounds text := (SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.oid = part);
BEGIN
	IF part IS NOT NULL AND bounds <> format('FOR VALUES FROM (%L) TO (%L)', from_time, to_time) THEN
		RETURN false;
	END IF;
	RETURN NOT EXISTS (SELECT FROM ecstats.events_default e WHERE e.event_time >= from_time AND e.event_time < to_time)
	   AND (part IS NOT NULL OR NOT EXISTS (SELECT FROM ecstats.events e WHERE e.event_time >= from_time AND e.event_time < to_time));
END
$$;
COMMENT ON FUNCTION ecstats.event_day_apart(date) IS
	'True where no event of a business day is anywhere but in the partition with the day''s name and bounds.';

-- ecstats.event_partitions_dissolve: every row to the default partition, every other partition away. Under locks
-- that nobody gets past; every column by its name, those that somebody has added too.
CREATE FUNCTION ecstats.event_partitions_dissolve() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part regclass;
	columns text := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
					  WHERE a.attrelid = 'ecstats.events'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
BEGIN
	LOCK TABLE ecstats.events IN ACCESS EXCLUSIVE MODE;
	PERFORM set_config('ecstats.suppress_marks', 'on', true);	-- moved rows are not changed rows
	FOR part IN SELECT p.relid FROM pg_partition_tree('ecstats.events') p
				 WHERE p.relid <> 'ecstats.events_default'::regclass AND p.level = 1 LOOP
		EXECUTE format('ALTER TABLE ecstats.events DETACH PARTITION %s', part);
		EXECUTE format('INSERT INTO ecstats.events_default (%1$s) SELECT %1$s FROM %2$s', columns, part);
		EXECUTE format('DROP TABLE %s', part);
	END LOOP;
	PERFORM set_config('ecstats.suppress_marks', 'off', true);
END
$$;
COMMENT ON FUNCTION ecstats.event_partitions_dissolve() IS
	'Moves every event to the default partition and drops the others. 55P03 by the caller''s lock_timeout.';

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

-- ecstats.event_partitions_lock: the locks that making a range of partitions needs, all at once, in attempts that
-- wait at most 200 ms for each and hold nothing in between: nobody queues for long behind a long reader.
CREATE FUNCTION ecstats.event_partitions_lock(from_day date, to_day date) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
	attempts integer := 0;
BEGIN
	LOOP
		BEGIN
			LOCK TABLE ONLY ecstats.events IN SHARE ROW EXCLUSIVE MODE;
			LOCK TABLE ONLY ecstats.events_default IN ACCESS EXCLUSIVE MODE;
			IF EXISTS (SELECT FROM ecstats.events_default d
						WHERE d.event_time >= ecstats.day_start(from_day) AND d.event_time < ecstats.day_start(to_day + 1)) THEN
				LOCK TABLE ONLY ecstats.events IN ACCESS EXCLUSIVE MODE;	-- rows will move
			END IF;
			RETURN;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			attempts := attempts + 1;
			IF attempts >= 20 THEN
				RAISE EXCEPTION 'partitions cannot be made now: ecstats.events is in use'
					USING ERRCODE = 'lock_not_available',
						  DETAIL = 'A transaction that reads or writes it has been open all the time.',
						  HINT = 'Try again when it is over, pg_stat_activity shows it; meanwhile rows wait in the default partition.';
			END IF;
			PERFORM pg_sleep(0.1);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.event_partitions_lock(date, date) IS
	'Takes the locks that making the partitions of a range of days needs, in up to 20 short attempts; 55P03 if none succeeds.';

-- ecstats_prepare: makes the partitions of a range of days, for a back-fill. Writers wait until it is done, about
-- 6 ms a day: while the shop is busy, prepare a month at a time.
-- Arguments: first and last business day. Result: how many were made. Errors: 22023 for a range that is
-- empty or longer than 1,100 days (a transaction's locks are limited). Touches ecstats.events.
CREATE FUNCTION @extschema@.ecstats_prepare(from_day date, to_day date) RETURNS integer
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	made integer := 0;
	d date;
BEGIN
	IF from_day IS NULL OR to_day IS NULL OR from_day > to_day OR from_day < date '1999-12-30' OR to_day > date '2199-12-31' THEN
		RAISE EXCEPTION 'the range of days is empty or out of range'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('From %s to %s.', from_day, to_day),
				  HINT = 'Give the first and the last business day, 2000 to 2199.';
	END IF;
	IF to_day - from_day >= 1100 THEN
		RAISE EXCEPTION 'the range has % days, the most is 1100', to_day - from_day + 1
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Prepare a few years in several calls.';
	END IF;
	PERFORM ecstats.event_partitions_lock(from_day, to_day);
	FOR d IN SELECT from_day + i FROM generate_series(0, to_day - from_day) AS i LOOP
		IF ecstats.event_partition_make(d) THEN
			made := made + 1;
		END IF;
	END LOOP;
	RETURN made;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_prepare(date, date) IS
	'Makes the partitions of business days from_day to to_day (at most 1,100) and moves waiting rows there; returns how many were made. 22023 for a bad range, 55P03 if a lock stays busy for some seconds.';

-- sql/42_order.sql
-- Intake of orders as JSON.

-- ecstats.order_lock: one writer at a time for the same order, so that two replacements never mix their
-- lines. 1,024 locks for all orders: a batch must not fill the lock table.
CREATE FUNCTION ecstats.order_lock_buckets(buckets integer[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bucket integer;
BEGIN
	FOREACH bucket IN ARRAY buckets LOOP		-- sorted: no deadlock
		PERFORM pg_advisory_xact_lock(hashtext('ecstats.order_lines'), bucket);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.order_lock_buckets(integer[]) IS 'Waits until no other transaction replaces an order of these sorted buckets.';

CREATE FUNCTION ecstats.order_lock(payload jsonb) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.order_lock_buckets(ecstats.order_buckets(payload)) $$;
COMMENT ON FUNCTION ecstats.order_lock(jsonb) IS 'Waits until no other transaction replaces an order of this payload.';

-- ecstats.order_line_key: a hash of a line's key, to remember which lines a run has met.
CREATE FUNCTION ecstats.order_line_key(order_id text, line_no integer, order_time timestamptz) RETURNS bigint
	LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.hash_record_extended(ROW(order_id, line_no, order_time), 0) $$;
COMMENT ON FUNCTION ecstats.order_line_key(text, integer, timestamptz) IS 'A 64-bit hash of the key of an order line.';

-- ecstats.order_store: the lines of each (order_id, order_time) become those of the payload.
-- Arguments: payload as of ecstats_order; raise_errors; whole: unlisted lines go. Result: lines changed; lines
-- taken (changed or not); bad elements as [{payload, sqlstate, reason}]; where wanted, a key of each line, and the orders.
-- Touches ecstats.order_lines, and there only what differs: a repeat writes nothing and marks no day.
-- The plan is made once a session and must hold for any payload and any table: what is stored is found by the
-- key's index alone (LATERAL \u2026 OFFSET 0 and unnest() are nested loops; an instant that is compared by IS NOT
-- DISTINCT FROM tempts no other index), and old and new meet in one sort, not in a join.
CREATE FUNCTION ecstats.order_store(payload jsonb, raise_errors boolean, whole boolean, want_keys boolean,
											   OUT changed bigint, OUT taken bigint, OUT bad jsonb, OUT keys bigint[],
											   OUT order_ids text[], OUT order_times timestamptz[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
	WITH parsed AS MATERIALIZED (		-- an order (a line, where not whole) that is sent twice: the last one holds
		SELECT p.*, max(p.ord) OVER (PARTITION BY p.order_id, p.order_time, CASE WHEN NOT whole THEN p.line_no END) AS last_ord
		  FROM ecstats.order_parse(payload, raise_errors) p
	), good AS (
		SELECT p.order_id COLLATE "C" AS order_id, p.line_no, p.order_time, p.user_id COLLATE "C" AS user_id,
			   p.product_id COLLATE "C" AS product_id, p.region COLLATE "C" AS region, p.channel COLLATE "C" AS channel,
			   p.quantity, p.amount, p.status, p.paid_time, p.extra
		  FROM parsed p WHERE p.sqlstate IS NULL AND p.ord = p.last_ord
	), stored AS MATERIALIZED (
		SELECT l.*
		  FROM (SELECT DISTINCT g.order_id, g.order_time FROM good g) o
		 CROSS JOIN LATERAL (SELECT * FROM ecstats.order_lines l
							  WHERE l.order_id = o.order_id AND l.order_time IS NOT DISTINCT FROM o.order_time OFFSET 0) l
	), compared AS MATERIALIZED (
		SELECT b.*, lead(b.sent) OVER line AS next_is_sent, lag(b.content) OVER line AS old_content
		  FROM (SELECT g.order_id, g.line_no, g.order_time, true AS sent,
					   ROW(g.user_id, g.product_id, g.region, g.channel, g.quantity, g.amount, g.status, g.paid_time, g.extra) AS content,
					   g.user_id, g.product_id, g.region, g.channel, g.quantity, g.amount, g.status, g.paid_time, g.extra
				  FROM good g WHERE g.line_no IS NOT NULL
				UNION ALL
				SELECT s.order_id, s.line_no, s.order_time, false,
					   ROW(s.user_id, s.product_id, s.region, s.channel, s.quantity, s.amount, s.status, s.paid_time, s.extra),
					   s.user_id, s.product_id, s.region, s.channel, s.quantity, s.amount, s.status, s.paid_time, s.extra
				  FROM stored s) b
		WINDOW line AS (PARTITION BY b.order_id, b.line_no, b.order_time ORDER BY b.sent)
	), gone AS (
		SELECT array_agg(c.order_id) AS order_ids, array_agg(c.line_no) AS line_nos, array_agg(c.order_time) AS order_times
		  FROM compared c WHERE whole AND NOT c.sent AND c.next_is_sent IS NULL
	), removed AS (
		DELETE FROM ecstats.order_lines l
		 USING unnest((SELECT x.order_ids FROM gone x), (SELECT x.line_nos FROM gone x), (SELECT x.order_times FROM gone x)) d(order_id, line_no, order_time)
		 WHERE l.order_id = d.order_id AND l.line_no = d.line_no AND l.order_time IS NOT DISTINCT FROM d.order_time
		RETURNING 1
	), written AS (
		INSERT INTO ecstats.order_lines AS l (order_id, line_no, order_time, user_id, product_id, region, channel,
											  quantity, amount, status, paid_time, extra)
		SELECT c.order_id, c.line_no, c.order_time, c.user_id, c.product_id, c.region, c.channel,
			   c.quantity, c.amount, c.status, c.paid_time, c.extra
		  FROM compared c WHERE c.sent AND c.content IS DISTINCT FROM c.old_content
		 ORDER BY c.order_id, c.line_no, c.order_time
		ON CONFLICT (order_id, line_no, order_time) DO UPDATE
		   SET user_id = excluded.user_id, product_id = excluded.product_id, region = excluded.region,
			   channel = excluded.channel, quantity = excluded.quantity, amount = excluded.amount,
			   status = excluded.status, paid_time = excluded.paid_time, extra = excluded.extra
		 WHERE (l.user_id, l.product_id, l.region, l.channel, l.quantity, l.amount, l.status, l.paid_time, l.extra)
			   IS DISTINCT FROM
			   (excluded.user_id, excluded.product_id, excluded.region, excluded.channel, excluded.quantity,
				excluded.amount, excluded.status, excluded.paid_time, excluded.extra)
		RETURNING 1
	), orders AS (
		SELECT DISTINCT p.order_id, p.order_time FROM parsed p WHERE want_keys AND p.sqlstate IS NULL
	)
	SELECT (SELECT count(*) FROM removed) + (SELECT count(*) FROM written),
		   count(*) FILTER (WHERE p.line_no IS NOT NULL AND p.ord = p.last_ord),
		   coalesce(jsonb_agg(jsonb_build_object('payload', p.payload_element, 'sqlstate', p.sqlstate, 'reason', p.reason) ORDER BY p.ord)
					FILTER (WHERE p.sqlstate IS NOT NULL), '[]'),
		   coalesce(array_agg(ecstats.order_line_key(p.order_id, p.line_no, p.order_time))
					FILTER (WHERE want_keys AND p.line_no IS NOT NULL), '{}'),
		   (SELECT coalesce(array_agg(o.order_id ORDER BY o.order_id, o.order_time), '{}') FROM orders o),
		   (SELECT coalesce(array_agg(o.order_time ORDER BY o.order_id, o.order_time), '{}') FROM orders o)
	  INTO changed, taken, bad, keys, order_ids, order_times
	  FROM parsed p;
END
$$;
COMMENT ON FUNCTION ecstats.order_store(jsonb, boolean, boolean, boolean) IS
	'Makes the lines of every order of a payload what it says, writing only what differs; lines changed and taken, bad elements, and a key of each line and the orders if wanted.';

-- ecstats_order: stores one order or an array of them.
-- Arguments: payload, {order_id, order_time | timestamp, user_id?, region?, channel?, status?, paid_time?,
-- items: [{line_no?, product_id, quantity, amount}]} or an array of at most 100,000; on_error as in ecstats_track.
-- It replaces the lines of (order_id, order_time). Result: lines changed; a repeat returns 0.
-- Errors: as ecstats_track. Touches ecstats.order_lines, ecstats.rejects.
CREATE FUNCTION @extschema@.ecstats_order(payload jsonb, on_error text DEFAULT 'raise') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	raise_errors boolean := ecstats.on_error_check(on_error);
	result record;
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats_order replaces orders');
	PERFORM ecstats.order_lock(payload);
	SELECT * INTO result FROM ecstats.order_store(payload, raise_errors, true, false);
	IF result.bad <> '[]' THEN
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'order', e.value -> 'payload', e.value ->> 'sqlstate', e.value ->> 'reason'
		  FROM jsonb_array_elements(result.bad) WITH ORDINALITY e(value, n) ORDER BY e.n;
	END IF;
	RETURN result.changed;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_order(jsonb, text) IS
	'Stores one order or an array of them (at most 100,000): replaces the lines of (order_id, order_time) and returns the lines changed, 0 for a repeat. on_error: raise (default) or quarantine. Errors name element, item, member and value.';

-- sql/42_source_check.sql
-- What the settings of a source may be.

-- ecstats.source_wrong: raises that a setting of a source is wrong.
CREATE FUNCTION ecstats.source_wrong(source text, what text, hint text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE EXCEPTION 'invalid setting of source "%"', source USING ERRCODE = 'invalid_parameter_value', DETAIL = what || '.', HINT = hint;
END
$$;
COMMENT ON FUNCTION ecstats.source_wrong(text, text, text) IS 'Raises 22023: what is wrong with a source, and the cure.';

-- ecstats.source_options_check: the options that its kind knows, each of its type.
CREATE FUNCTION ecstats.source_options_check(s ecstats.sources) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known jsonb := CASE s.kind WHEN 'query' THEN '{"replace": "boolean", "replace_empty": "boolean"}'
		ELSE '{"items": "jsonpath", "next": "jsonpath", "fields": "jsonpaths", "item_fields": "jsonpaths", "first_page": "number", "max_pages": "number",
			   "max_bytes": "number", "max_retries": "number", "timezone": "string", "secret_header": "string", "allow_private": "boolean"}' END::jsonb;
	low jsonb := '{"first_page": 0, "max_pages": 1, "max_bytes": 1, "max_retries": 0}';
	most jsonb := '{"first_page": 1000000000, "max_pages": 100000, "max_bytes": 100000000, "max_retries": 20}';
	o record;
	path text;
BEGIN
	FOR o IN SELECT e.key, e.value, known ->> e.key AS type, jsonb_typeof(e.value) AS given FROM jsonb_each(s.options) e ORDER BY e.key LOOP
		IF o.type IS NULL THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is unknown for kind %s', left(o.key, 60), s.kind),
				'It knows ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(known) k) || '.');
		ELSIF o.given <> (CASE o.type WHEN 'jsonpath' THEN 'string' WHEN 'jsonpaths' THEN 'object' ELSE o.type END) THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is of JSON type %s', o.key, o.given), format('It is %s.', CASE o.type WHEN 'jsonpaths' THEN 'an object of jsonpaths' ELSE 'a ' || o.type END));
		END IF;
		IF o.type IN ('jsonpath', 'jsonpaths') THEN
			FOR path IN SELECT CASE o.type WHEN 'jsonpath' THEN o.value #>> '{}' END WHERE o.type = 'jsonpath'
						UNION ALL SELECT f.value #>> '{}' FROM jsonb_each(CASE o.type WHEN 'jsonpaths' THEN o.value END) f LOOP
				BEGIN
					PERFORM path::jsonpath;
				EXCEPTION WHEN syntax_error OR invalid_text_representation THEN
					PERFORM ecstats.source_wrong(s.name, format('options.%s: %L is no jsonpath', o.key, left(path, 60)), 'A path begins with $, such as $.data.orders.');
				END;
			END LOOP;
		ELSIF most ? o.key AND NOT (o.value::numeric BETWEEN (low ->> o.key)::numeric AND (most ->> o.key)::numeric AND o.value::numeric % 1 = 0) THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is %s', o.key, left(o.value::text, 60)), format('It is a whole number from %s to %s.', low ->> o.key, most ->> o.key));
		END IF;
	END LOOP;
	IF NOT ecstats.timezone_valid(coalesce(s.options ->> 'timezone', 'UTC')) THEN
		PERFORM ecstats.source_wrong(s.name, format('options.timezone is %L', left(s.options ->> 'timezone', 60)), 'Use an IANA name such as Asia/Shanghai.');
	ELSIF s.options ->> 'secret_header' !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+$' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.secret_header is no name of a header', 'Such as X-Api-Key.');
	ELSIF s.options ? 'replace_empty' AND (s.options -> 'replace') IS DISTINCT FROM 'true' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.replace_empty without options.replace', 'It says what replace does on a day without rows.');
	ELSIF s.kind = 'query' AND s.target = 'events' AND s.options -> 'replace' = 'true' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.replace is for orders', 'Events are append-only.');
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.source_options_check(ecstats.sources) IS 'Raises 22023 for an option that the source''s kind does not know, or of a wrong type.';

-- ecstats.source_check: everything that a CHECK cannot say clearly.
CREATE FUNCTION ecstats.source_check(s ecstats.sources) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	PERFORM ecstats.source_check_query(s.query), ecstats.source_check_query(s.watermark_query);
	IF s.kind = 'http' AND s.url IS NOT NULL THEN
		bad := (SELECT m[1] FROM regexp_matches(s.url, '\{\{(.*?)\}\}', 'g') m WHERE m[1] NOT IN ('date', 'page', 'from', 'to') LIMIT 1);
		IF bad IS NOT NULL THEN
			PERFORM ecstats.source_wrong(s.name, format('the URL has {{%s}}', left(bad, 60)), 'It knows {{date}}, {{from}}, {{to}} and {{page}}.');
		ELSIF substring(s.url FROM '^https?://([^/?#]*)') ~ '\{\{' THEN
			PERFORM ecstats.source_wrong(s.name, 'the URL''s host has a placeholder', 'Put placeholders into path and query.');
		ELSIF substring(s.url FROM '^https?://([^/?#]*)') ~ '\\' THEN
			PERFORM ecstats.source_wrong(s.name, 'the URL''s host has a backslash', 'Write https://host/path.');
		END IF;
	END IF;
	bad := (SELECT h FROM unnest(s.headers) h WHERE (h !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+: [^[:cntrl:]]*$') IS NOT FALSE OR octet_length(h) > 8000 LIMIT 1);
	IF bad IS NOT NULL OR array_position(s.headers, NULL) IS NOT NULL THEN
		PERFORM ecstats.source_wrong(s.name, format('the header %L is no header', left(split_part(bad, ':', 1), 60)), 'Write "Name: value" in one line.');
	END IF;
	PERFORM ecstats.source_options_check(s);
END
$$;
COMMENT ON FUNCTION ecstats.source_check(ecstats.sources) IS
	'Raises when a source''s query (42601, 22023), URL, headers or options (22023) are wrong.';

-- ecstats.source_problem: why nothing may be fetched for a source: one that was not written through its checks, as by a
-- restore, fails alone and does not stop the others. Result: NULL when all is well.
CREATE FUNCTION ecstats.source_problem(s ecstats.sources) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	what text;
	more text;
BEGIN
	IF s.kind <> 'http' THEN
		RETURN format('the source is of kind %s', s.kind);
	ELSIF s.url ~ '[[:cntrl:]]' OR s.secret ~ '[[:cntrl:]]' THEN
		RETURN 'url or secret has a control character';
	END IF;
	PERFORM ecstats.source_check(s);
	RETURN NULL;
EXCEPTION WHEN data_exception OR syntax_error OR program_limit_exceeded THEN
	GET STACKED DIAGNOSTICS what = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(': ', what, nullif(more, ''));
END
$$;
COMMENT ON FUNCTION ecstats.source_problem(ecstats.sources) IS 'What is wrong with the settings of an HTTP source, as source_check says it; NULL when nothing is.';

-- ecstats.source_number: an option that is a number, or what holds without it.
CREATE FUNCTION ecstats.source_number(options jsonb, name text, otherwise integer) RETURNS integer
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN jsonb_typeof(options -> name) = 'number' AND abs((options ->> name)::numeric) < 2e9
				THEN trunc((options ->> name)::numeric)::integer ELSE otherwise END $$;
COMMENT ON FUNCTION ecstats.source_number(jsonb, text, integer) IS 'A numeric option of a source, otherwise where it is missing or no number. Never raises.';

-- A broken CHECK or NOT NULL prints its row, to the client and into the server's log, credentials included: so what the
-- table says is asked here before, of a row that has some.
CREATE FUNCTION ecstats.source_shape() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wrong text := (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = 'ecstats.sources'::regclass AND a.attnotnull AND a.attnum > 0
				   AND (SELECT count(*) FROM jsonb_each(to_jsonb(NEW)) e WHERE e.key = a.attname AND e.value <> 'null') = 0 ORDER BY a.attnum LIMIT 1);
	hidden text := 'The row is not shown: url, headers and secret are credentials.';
BEGIN
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'null value in column "%" of relation "sources" violates not-null constraint', wrong
			USING ERRCODE = 'not_null_violation', SCHEMA = 'ecstats', TABLE = 'sources', COLUMN = wrong, DETAIL = hidden, HINT = 'Give it a value.';
	END IF;
	EXECUTE (SELECT format('SELECT c.rule FROM (SELECT ($1).*) AS s, LATERAL (VALUES %s) c(rule, holds) WHERE NOT c.holds ORDER BY c.rule LIMIT 1',
						   string_agg(format('(%L, %s)', c.conname, pg_get_expr(c.conbin, c.conrelid)), ', '))
			   FROM pg_constraint c WHERE c.conrelid = 'ecstats.sources'::regclass AND c.contype = 'c') INTO wrong USING NEW;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'new row for relation "sources" violates check constraint "%"', wrong
			USING ERRCODE = 'check_violation', SCHEMA = 'ecstats', TABLE = 'sources', CONSTRAINT = wrong, DETAIL = hidden,
				  HINT = 'The name of the constraint says what holds.';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.source_shape() IS
	'Trigger of ecstats.sources: the table''s CHECKs (23514) and NOT NULLs (23502) for a row with credentials, without showing it.';
CREATE TRIGGER source_shape BEFORE INSERT OR UPDATE ON ecstats.sources
	FOR EACH ROW WHEN (NEW.url IS NOT NULL OR NEW.secret IS NOT NULL OR NEW.headers <> '{}') EXECUTE FUNCTION ecstats.source_shape();
-- sql/42_source.sql
-- Sources: who may write which, what is accepted, how far each has come.

-- The guard runs as the writer: current_user in a plain trigger cannot be claimed by a caller.
CREATE FUNCTION ecstats.source_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	super boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
	me oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);
	-- Anybody may set the switch that dumps set: only a session that began as superuser is believed.
	restoring boolean := (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user));
	private boolean := NEW.options -> 'allow_private' = 'true';		-- NULL of a deleted row
BEGIN
	IF TG_OP <> 'INSERT' AND NOT super AND (OLD.owner <> current_user OR coalesce(OLD.owner_id, me) <> me) THEN
		RAISE EXCEPTION 'source "%" belongs to another role', OLD.name
			USING ERRCODE = 'insufficient_privilege', DETAIL = format('Its owner is "%s".', OLD.owner),
				  HINT = 'Take another name, or ask its owner or a superuser.';
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	IF NOT super OR NEW.owner IS NULL THEN
		NEW.owner := current_user;
	END IF;
	IF TG_OP = 'INSERT' OR (NEW.owner, NEW.query, NEW.watermark_query) IS DISTINCT FROM (OLD.owner, OLD.query, OLD.watermark_query) THEN
		NEW.owner_id := CASE WHEN NOT restoring THEN (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.owner) END;
	ELSIF NOT super THEN
		NEW.owner_id := OLD.owner_id;
	END IF;
	IF NOT restoring AND (TG_OP = 'INSERT' OR (NEW.name, NEW.kind, NEW.target, NEW.url) IS DISTINCT FROM (OLD.name, OLD.kind, OLD.target, OLD.url)) THEN
		NEW.asks_since := clock_timestamp();
	END IF;
	-- What may ask the machine's own network is not chosen by whoever may write sources.
	IF private AND NOT super AND NOT restoring
	   AND (TG_OP = 'INSERT' OR (NEW.kind, NEW.url, NEW.headers, NEW.options -> 'allow_private', NEW.options -> 'secret_header')
			IS DISTINCT FROM (OLD.kind, OLD.url, OLD.headers, OLD.options -> 'allow_private', OLD.options -> 'secret_header'))
	   AND NOT pg_has_role(current_user, (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'ecstats'), 'MEMBER') THEN
		RAISE EXCEPTION 'source "%" may not be made to ask private addresses', NEW.name
			USING ERRCODE = 'insufficient_privilege', DETAIL = 'Its options have allow_private.',
				  HINT = 'Leave allow_private out, or ask a superuser or the extension''s owner to write url, headers and allow_private.';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.source_guard() IS
	'Trigger of ecstats.sources that runs as the writer: forces the owner; refuses another role''s source, and private addresses but of the extension''s owner (42501).';

-- Runs as the extension's owner: a writer of sources need not be able to call the checks.
CREATE FUNCTION ecstats.source_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = NEW.owner) THEN
			RAISE EXCEPTION 'role "%" of source "%" does not exist', NEW.owner, NEW.name USING ERRCODE = 'undefined_object', HINT = 'CREATE ROLE first.';
		END IF;
		PERFORM ecstats.source_check(NEW);
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.source_settle() IS 'Trigger of ecstats.sources: checks the row, after its CHECKs.';

CREATE TRIGGER source_guard BEFORE INSERT OR UPDATE OR DELETE ON ecstats.sources
	FOR EACH ROW EXECUTE FUNCTION ecstats.source_guard();
CREATE TRIGGER source_settle AFTER INSERT OR UPDATE OF name, kind, target, owner, query, watermark_query, url, headers, options ON ecstats.sources
	FOR EACH ROW EXECUTE FUNCTION ecstats.source_settle();

-- ecstats.source_lock: the source, locked: its runs come one after another.
CREATE FUNCTION ecstats.source_lock(source text) RETURNS ecstats.sources
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s ecstats.sources;
BEGIN
	SELECT * INTO s FROM ecstats.sources r WHERE r.name = source FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" does not exist', source USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM ecstats.sources lists them.';
	ELSIF NOT s.enabled THEN
		RAISE EXCEPTION 'source "%" is disabled', source USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'UPDATE ecstats.sources SET enabled = true WHERE name = ...';
	END IF;
	RETURN s;
END
$$;
COMMENT ON FUNCTION ecstats.source_lock(text) IS 'The source, locked until the transaction ends: 42704 where there is none, 55000 where it is disabled.';

-- ecstats.source_role: whom the query is run as. A role that was made later under the owner's name is another one.
CREATE FUNCTION ecstats.source_role(s ecstats.sources) RETURNS oid
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	role oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = s.owner);
BEGIN
	IF role IS NULL OR role <> coalesce(s.owner_id, role) THEN
		RAISE EXCEPTION 'the owner of source "%" is gone', s.name USING ERRCODE = 'undefined_object',
			DETAIL = format('Its owner was a role "%s".', s.owner), HINT = 'Delete the source and make it again as the role that its query is to run as.';
	END IF;
	RETURN role;
END
$$;
COMMENT ON FUNCTION ecstats.source_role(ecstats.sources) IS 'The role that a source''s query runs as; 42704 when it is gone, or another role has its name by now.';

-- ecstats.source_pin: writes down who the owner is, where a restore left that open: a role made later under the
-- same name is another one. 0 where a source that needs no role has an owner that is not there.
CREATE FUNCTION ecstats.source_pin(s ecstats.sources) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.sources t SET owner_id = coalesce((SELECT r.oid FROM pg_roles r WHERE r.rolname = t.owner), 0)
	 WHERE t.name = s.name AND t.owner_id IS NULL $$;
COMMENT ON FUNCTION ecstats.source_pin(ecstats.sources) IS 'Pins the owner of a source that was restored to the role that has its name now; at its first run.';

-- ecstats.source_watermark: how far a source has come after a run for a day that read what was there at an instant.
-- A run over a gap does not move it: the days between were not taken.
CREATE FUNCTION ecstats.source_watermark(s ecstats.sources, day date, at timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF s.watermark < ecstats.day_start(day) THEN
		RETURN s.watermark;
	END IF;
	RETURN greatest(s.watermark, least(ecstats.day_start(day + 1), at));
END
$$;
COMMENT ON FUNCTION ecstats.source_watermark(ecstats.sources, date, timestamptz) IS
	'Watermark after a run for a day that began to read at an instant: the day''s end, or that instant if it is earlier; unchanged where the day does not join on.';

-- ecstats.source_ran: notes a run that succeeded.
CREATE FUNCTION ecstats.source_ran(source text, day date, rows bigint, watermark timestamptz, at timestamptz) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.sources s SET watermark = $4, last_run_at = $5, last_day = $2, last_rows = $3, last_error = NULL WHERE s.name = $1 $$;
COMMENT ON FUNCTION ecstats.source_ran(text, date, bigint, timestamptz, timestamptz) IS 'Notes a run of a source that succeeded.';

-- ecstats.source_behind: the enabled sources that have not come as far as an instant.
CREATE FUNCTION ecstats.source_behind(at timestamptz) RETURNS SETOF text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.name FROM ecstats.sources s WHERE s.enabled AND (s.watermark >= at) IS NOT TRUE ORDER BY s.name $$;
COMMENT ON FUNCTION ecstats.source_behind(timestamptz) IS 'Enabled sources whose watermark has not reached an instant: a day that ends then is not complete.';

-- ecstats.source_status: part of ecstats_status, a row a source.
CREATE FUNCTION ecstats.source_status(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	today date := ecstats.day_of(at);
	s ecstats.sources;
	f ecstats.source_fetches;
	late boolean;
BEGIN
	FOR s IN SELECT * FROM ecstats.sources r ORDER BY r.name LOOP
		component := 'source ' || s.name;
		status := 'ok';
		hint := NULL;
		detail := format('%s of kind %s, watermark %s', s.target, s.kind, coalesce(s.watermark::text, 'none'))
			|| CASE WHEN s.last_run_at IS NULL THEN ', never run'
					WHEN s.last_error IS NOT NULL THEN format(', last run %s for %s', s.last_run_at, s.last_day)
					ELSE format(', last run %s took %s rows of %s', s.last_run_at, s.last_rows, s.last_day) END;
		SELECT * INTO f FROM ecstats.source_fetches t WHERE t.source = s.name AND t.state IN ('pending', 'fetching') ORDER BY t.fetch_id LIMIT 1;
		IF FOUND THEN
			detail := detail || format(', fetching %s, page %s', f.day, f.page) || coalesce(': ' || f.error, '');
		END IF;
		-- yesterday's run comes with the daily job, two hours after the day's start
		late := (s.watermark >= ecstats.day_start(today - 1)) IS NOT TRUE
			OR s.watermark < ecstats.day_start(today) AND at > ecstats.day_start(today) + interval '3 hours';
		IF NOT s.enabled THEN
			detail := detail || ', disabled';
		ELSIF s.last_error IS NOT NULL THEN
			status := 'error';
			detail := detail || ', last error: ' || s.last_error;
			hint := format('Cure it, then SELECT ecstats_collect(%L, %L)', s.name, coalesce(s.last_day, today - 1));
		ELSIF late THEN
			status := 'warn';
			detail := detail || ', behind: days from there on are not complete';
			hint := format('SELECT ecstats_collect(%L, %L), and a job that does so every day', s.name, coalesce(ecstats.day_of(s.watermark), today - 1));
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.source_status(timestamptz) IS 'Part of ecstats_status: how far each source has come, and its last error.';

CREATE FUNCTION ecstats.source_prune(before timestamptz, max_rows integer) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	n bigint;
BEGIN
	DELETE FROM ecstats.source_fetches f
	 WHERE f.fetch_id IN (SELECT o.fetch_id FROM ecstats.source_fetches o WHERE o.finished_at < before ORDER BY o.finished_at LIMIT max_rows);
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END
$$;
COMMENT ON FUNCTION ecstats.source_prune(timestamptz, integer) IS 'Drops at most max_rows fetches that finished before an instant; how many.';
-- sql/42_source_mask.sql
-- What of an answer may be shown: excerpts without the credentials of the source.

-- ecstats.source_percent: text as it stands in a URL.
CREATE FUNCTION ecstats.source_percent(value text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(string_agg(CASE WHEN c ~ '^[A-Za-z0-9._~-]$' THEN c
		ELSE (SELECT string_agg('%' || upper(lpad(to_hex(get_byte(b, i)), 2, '0')), '' ORDER BY i)
				FROM convert_to(c, 'UTF8') b, generate_series(0, length(b) - 1) i) END, '' ORDER BY n), '')
	  FROM regexp_split_to_table(value, '') WITH ORDINALITY AS t(c, n) $$;
COMMENT ON FUNCTION ecstats.source_percent(text) IS 'Percent-encodes everything but unreserved characters.';

-- ecstats.source_unpercent: what a percent-encoded text says; NULL where it is no text.
CREATE FUNCTION ecstats.source_unpercent(value text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT convert_from(decode(string_agg(CASE WHEN m[1] ~ '^%..$' THEN substr(m[1], 2) ELSE encode(convert_to(m[1], 'UTF8'), 'hex') END, '' ORDER BY n), 'hex'), 'UTF8')
			  FROM regexp_matches(value, '%[0-9A-Fa-f]{2}|.', 'g') WITH ORDINALITY AS t(m, n));
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.source_unpercent(text) IS 'A percent-encoded text decoded; NULL where that is no text.';

-- ecstats.source_secrets: what must not be shown of a source, in the forms in which an answer or an error may repeat it:
-- as it is, percent-encoded either way, in base64, inside a JSON string. The longest first.
CREATE FUNCTION ecstats.source_secrets(s ecstats.sources) RETURNS SETOF text
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH written(w) AS (
		SELECT s.secret
		UNION ALL SELECT regexp_replace(h, '^[^:]*:\s*((Bearer|Basic|Token)\s+)?', '', 'i') FROM unnest(s.headers) h
		UNION ALL SELECT u FROM substring(s.url FROM '^\w+://([^/?#]+)@') u
		UNION ALL SELECT substring(u FROM ':(.*)$') FROM substring(s.url FROM '^\w+://([^/?#]+)@') u
		UNION ALL SELECT substring(q FROM '=(.*)$') FROM regexp_split_to_table(substring(s.url FROM '\?([^#]*)'), '&') q WHERE q !~ '\{\{'
	), words AS (
		SELECT w FROM written UNION SELECT ecstats.source_unpercent(w) FROM written WHERE w ~ '%'
	)
	SELECT v FROM (
		SELECT DISTINCT f.v FROM words CROSS JOIN LATERAL (SELECT ecstats.source_percent(w) AS p, translate(encode(convert_to(w, 'UTF8'), 'base64'), E'\n', '') AS b,
																   to_json(w)::text AS j) e
		 CROSS JOIN LATERAL (VALUES (w), (e.p), (replace(e.p, '%20', '+')),
			((SELECT string_agg(CASE WHEN m[1] ~ '^%..$' THEN lower(m[1]) ELSE m[1] END, '' ORDER BY n) FROM regexp_matches(e.p, '%..|.', 'g') WITH ORDINALITY AS t(m, n))),
			(e.b), (rtrim(e.b, '=')), (translate(e.b, '+/=', '-_')), (substring(e.j FROM 2 FOR length(e.j) - 2)),
			(replace(substring(e.j FROM 2 FOR length(e.j) - 2), '/', '\/'))) f(v)
		 WHERE length(w) >= 4) a
	 WHERE length(v) >= 4 ORDER BY length(v) DESC, v $$;
COMMENT ON FUNCTION ecstats.source_secrets(ecstats.sources) IS
	'The secret, header values and keys in the URL of a source, of 4 characters and more, in the forms in which they may be repeated; the longest first.';

-- ecstats.source_excerpt: the beginning of a text that came from outside, without credentials. What a cut may have
-- left of a credential goes with it: first masked, then cut.
CREATE FUNCTION ecstats.source_excerpt(content text, s ecstats.sources, most integer) RETURNS text
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	words text[] := ARRAY(SELECT ecstats.source_secrets(s));
	longest integer := coalesce(length(words[1]), 0);		-- nothing longer is left of one at the end of part
	part text := left(content, most + 4 * longest + 1000);
	word text;
BEGIN
	FOREACH word IN ARRAY words LOOP
		part := replace(part, word, '***');
	END LOOP;
	IF length(content) > most + 4 * longest + 1000 THEN
		part := left(part, greatest(length(part) - longest, 0));
	END IF;
	part := regexp_replace(part, '(\m(?:sign|sig|key|api_?key|token|access_token|secret|password)=)[^&\s"''<>]+', '\1***', 'gi');
	RETURN left(part, most);
END
$$;
COMMENT ON FUNCTION ecstats.source_excerpt(text, ecstats.sources, integer) IS
	'At most so many characters of content, with the source''s secret, header values and keys in its URL replaced by ***.';
-- sql/42_source_http.sql
-- Fetches of HTTP sources: requests, leases, what an answer means. The pusher carries, nothing more.

-- ecstats.source_url: the URL of a fetch's next page.
CREATE FUNCTION ecstats.source_url(s ecstats.sources, f ecstats.source_fetches) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	page text := coalesce(f.next_value, (ecstats.source_number(s.options, 'first_page', 1) + f.page - 1)::text);
	iso text := 'YYYY-MM-DD"T"HH24:MI:SS"Z"';
	url text := s.url;
BEGIN
	IF f.next_url IS NOT NULL THEN
		RETURN f.next_url;
	END IF;
	url := replace(url, '{{date}}', to_char(f.day, 'YYYY-MM-DD'));
	url := replace(url, '{{from}}', ecstats.source_percent(to_char(ecstats.day_start(f.day) AT TIME ZONE 'UTC', iso)));
	url := replace(url, '{{to}}', ecstats.source_percent(to_char(ecstats.day_start(f.day + 1) AT TIME ZONE 'UTC', iso)));
	RETURN replace(url, '{{page}}', ecstats.source_percent(page));
END
$$;
COMMENT ON FUNCTION ecstats.source_url(ecstats.sources, ecstats.source_fetches) IS 'The URL of the next page of a fetch, placeholders filled in and percent-encoded.';

-- ecstats.source_move: the only writer of a fetch's state.
CREATE FUNCTION ecstats.source_move(f ecstats.source_fetches, to_state text, at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.source_fetches t
	   SET state = to_state, page = f.page, pages = f.pages, rows = f.rows, attempts = f.attempts, next_attempt_at = f.next_attempt_at,
		   error = f.error, next_url = f.next_url, next_value = f.next_value, rejects = f.rejects,
		   asks_since = f.asks_since, lease_until = CASE to_state WHEN 'fetching' THEN f.lease_until END,
		   worker = CASE to_state WHEN 'fetching' THEN f.worker ELSE t.worker END,
		   finished_at = CASE WHEN to_state IN ('done', 'failed') THEN at END
	 WHERE t.fetch_id = f.fetch_id AND t.state = f.state
	   AND (t.state, to_state) IN (('pending', 'fetching'), ('pending', 'failed'), ('fetching', 'pending'), ('fetching', 'done'), ('fetching', 'failed'));
	IF NOT FOUND THEN
		RAISE EXCEPTION 'fetch % cannot go from % to %', f.fetch_id, f.state, to_state USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	IF to_state IN ('done', 'failed') THEN
		DELETE FROM ecstats.source_pages p WHERE p.fetch_id = f.fetch_id;
	END IF;
	IF to_state = 'failed' THEN
		UPDATE ecstats.sources s SET last_error = left(f.error, 1000), last_day = f.day, last_run_at = at WHERE s.name = f.source;
	END IF;
	IF to_state = 'pending' THEN
		NOTIFY ecstats_deliveries;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.source_move(ecstats.source_fetches, text, timestamptz) IS
	'Moves a fetch from the state in f to another one, writing what else f says; 55000 for a step that does not exist.';

-- ecstats.source_queue: queues the fetch of a day, or finds the one that has not begun yet.
CREATE FUNCTION ecstats.source_queue(source text, day date, at timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	-- What has not begun yet reads what is there from now on. A pusher that just claims it was there first.
	SELECT f.fetch_id INTO id FROM ecstats.source_fetches f
	 WHERE f.source = source_queue.source AND f.day = source_queue.day AND f.state = 'pending' AND f.page = 1 AND f.attempts = 0
	 ORDER BY f.fetch_id LIMIT 1 FOR UPDATE SKIP LOCKED;
	UPDATE ecstats.source_fetches f SET created_at = at WHERE f.fetch_id = id;
	IF id IS NULL THEN
		INSERT INTO ecstats.source_fetches (source, day, next_attempt_at, created_at) VALUES (source, day, at, at) RETURNING fetch_id INTO id;
	END IF;
	NOTIFY ecstats_deliveries;
	RETURN id;
END
$$;
COMMENT ON FUNCTION ecstats.source_queue(text, date, timestamptz) IS 'Queues the fetch of a day of an HTTP source, whose row is locked, and returns its id.';

-- ecstats.source_back: puts a fetch back for another attempt, or fails it after the last one.
-- Back-off 1, 2, 4 \u2026 minutes; wait (the server's own word) instead, 1 second to 1 hour. Result: retry or failed.
CREATE FUNCTION ecstats.source_back(f ecstats.source_fetches, max_retries integer, reason text, wait interval, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	f.attempts := f.attempts + 1;
	f.error := reason;
	IF f.attempts > max_retries THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	END IF;
	f.next_attempt_at := at + least(greatest(coalesce(wait, interval '1 minute' * 2 ^ (f.attempts - 1)), interval '1 second'), interval '1 hour');
	PERFORM ecstats.source_move(f, 'pending', at);
	RETURN 'retry';
END
$$;
COMMENT ON FUNCTION ecstats.source_back(ecstats.source_fetches, integer, text, interval, timestamptz) IS
	'After a failed attempt: pending again, after wait or 1, 2, 4 ... minutes (retry), or failed after the last.';

-- ecstats.source_obstacle: why the next page of a fetch may not be asked for; NULL: it may. It is where the URL of
-- page 1 led: with the secret of another URL nobody goes there.
CREATE FUNCTION ecstats.source_obstacle(f ecstats.source_fetches, s ecstats.sources) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN s.name IS NULL THEN 'the source was deleted'
				WHEN f.page > 1 AND f.asks_since IS DISTINCT FROM s.asks_since THEN 'the source was changed while it was fetched'
				ELSE ecstats.source_problem(s) END $$;
COMMENT ON FUNCTION ecstats.source_obstacle(ecstats.source_fetches, ecstats.sources) IS
	'Why the next page of a fetch may not be asked for: the source is gone, another one by now, or wrong; NULL: it may.';

-- ecstats.source_resume: a fetch as its next page is claimed. Without what its pages brought (a dump does not take that
-- along) it begins anew, which changes nothing.
CREATE FUNCTION ecstats.source_resume(f ecstats.source_fetches, s ecstats.sources) RETURNS ecstats.source_fetches
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF s.target = 'orders' AND (SELECT count(*) FROM ecstats.source_pages p WHERE p.fetch_id = f.fetch_id) < f.pages THEN
		f.page := 1;
		f.pages := 0;
		f.rows := 0;
		f.rejects := '{}';
		f.next_url := NULL;
		f.next_value := NULL;
	END IF;
	f.asks_since := s.asks_since;
	RETURN f;
END
$$;
COMMENT ON FUNCTION ecstats.source_resume(ecstats.source_fetches, ecstats.sources) IS
	'A fetch as its next page is claimed: from page 1 again where what its pages brought is not there.';

-- ecstats.source_claim_at: leases pages that are due. One fetch of a source at a time, in their order.
CREATE FUNCTION ecstats.source_claim_at(worker text, max_rows integer, at timestamptz)
	RETURNS TABLE (fetch_id bigint, page integer, method text, url text, headers text[], timeout_ms integer, allow_private boolean, max_bytes bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f ecstats.source_fetches;
	s ecstats.sources;
	wrong text;
	first bigint;
BEGIN
	IF worker IS NULL OR worker = '' OR length(worker) > 200 THEN
		RAISE EXCEPTION 'worker must be a name of 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR f IN SELECT * FROM ecstats.source_fetches t WHERE t.state = 'fetching' AND t.lease_until <= at ORDER BY t.fetch_id FOR UPDATE SKIP LOCKED LOOP
		PERFORM ecstats.source_back(f, ecstats.source_number((SELECT r.options FROM ecstats.sources r WHERE r.name = f.source), 'max_retries', 3),
									format('page %s: no answer before the lease ran out', f.page), interval '1 second', at);
	END LOOP;
	FOR first IN SELECT min(t.fetch_id) FROM ecstats.source_fetches t WHERE t.state IN ('pending', 'fetching') GROUP BY t.source ORDER BY 1 LOOP
		EXIT WHEN coalesce(max_rows, 0) < 1;
		SELECT * INTO f FROM ecstats.source_fetches t
		 WHERE t.fetch_id = first AND t.state = 'pending' AND t.next_attempt_at <= at FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		SELECT * INTO s FROM ecstats.sources r WHERE r.name = f.source;
		CONTINUE WHEN FOUND AND NOT s.enabled;
		wrong := ecstats.source_obstacle(f, s);
		IF wrong IS NOT NULL THEN
			f.error := wrong;
			PERFORM ecstats.source_move(f, 'failed', at);
			CONTINUE;
		END IF;
		PERFORM ecstats.source_pin(s);
		f := ecstats.source_resume(f, s);
		f.worker := worker;
		f.lease_until := at + s.timeout + interval '10 minutes';
		PERFORM ecstats.source_move(f, 'fetching', at);
		max_rows := max_rows - 1;

		fetch_id := f.fetch_id;
		page := f.page;
		method := 'GET';
		url := ecstats.source_url(s, f);
		headers := s.headers || CASE WHEN s.secret IS NULL THEN '{}'
			WHEN s.options ? 'secret_header' THEN ARRAY[(s.options ->> 'secret_header') || ': ' || s.secret]
			ELSE ARRAY['Authorization: Bearer ' || s.secret] END;
		IF NOT EXISTS (SELECT FROM unnest(headers) h WHERE h ~* '^accept:') THEN
			headers := ARRAY['Accept: application/json'] || headers;
		END IF;
		timeout_ms := extract(epoch FROM s.timeout) * 1000;
		allow_private := coalesce((s.options ->> 'allow_private')::boolean, false);
		max_bytes := ecstats.source_number(s.options, 'max_bytes', 10000000);
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.source_claim_at(text, integer, timestamptz) IS 'ecstats.source_claim at the instant at. Returns credentials: for the pusher alone.';

-- ecstats.source_next_due: when a claim may next find something; NULL: nothing is waiting.
CREATE FUNCTION ecstats.source_next_due(at timestamptz) RETURNS timestamptz
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT min(CASE f.state WHEN 'fetching' THEN f.lease_until ELSE f.next_attempt_at END)
	  FROM ecstats.source_fetches f
	  JOIN ecstats.sources s ON s.name = f.source AND s.enabled
	 WHERE f.fetch_id IN (SELECT min(t.fetch_id) FROM ecstats.source_fetches t WHERE t.state IN ('pending', 'fetching') GROUP BY t.source) $$;
COMMENT ON FUNCTION ecstats.source_next_due(timestamptz) IS 'When ecstats.source_claim may next find something (past: now); NULL when nothing waits.';
-- sql/43_rollup.sql
-- Computing a day: the same two scans for a close, for today, for a rebuild and for a proof.

-- ecstats.rollup_kpi: the figures of any range of time from two scans, as a row of daily_kpi that is not
-- closed. new_user_count is left to the caller, who knows which days count.
CREATE FUNCTION ecstats.rollup_kpi(day date, events jsonb, orders jsonb) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k ecstats.daily_kpi;
BEGIN
	k.day := day;
	k.gmv := orders -> 't' -> 'amount';
	k.order_count := orders -> 't' -> 'orders';
	k.quantity := orders -> 't' -> 'quantity';
	k.buyer_count := orders -> 't' -> 'buyers';
	k.paid_amount := orders -> 'p' -> 'amount';
	k.paid_order_count := orders -> 'p' -> 'orders';
	k.payer_count := orders -> 'p' -> 'buyers';
	k.refund_amount := orders -> 't' -> 'refund';
	k.refund_order_count := orders -> 'r' -> 'orders';
	k.net_amount := k.paid_amount - k.refund_amount;
	k.aov := k.gmv / nullif(k.order_count, 0);
	k.amount_per_buyer := k.gmv / nullif(k.buyer_count, 0);
	k.abnormal_order_count := orders -> 'a' -> 'orders';
	k.event_count := events -> 't' -> 'a';
	k.pv := events -> 't' -> 'b';
	k.uv := events -> 'v' -> 'a';
	k.conversion_rate := k.buyer_count::numeric / nullif(k.uv, 0);
	k.new_user_count := 0;
	k.complete := false;
	k.revision := 0;
	RETURN k;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_kpi(date, jsonb, jsonb) IS
	'A row of daily_kpi from the totals of rollup_scan_events and rollup_scan_orders, keyed by their kind.';

CREATE FUNCTION ecstats.rollup_page_views() RETURNS text[]
	LANGUAGE sql STABLE AS
	$$ SELECT coalesce(pg_catalog.array_agg(t.event::text), '{}') FROM ecstats.event_types t WHERE t.is_page_view $$;
COMMENT ON FUNCTION ecstats.rollup_page_views() IS 'Event names that count in pv.';

CREATE FUNCTION ecstats.rollup_funnel() RETURNS text[]
	LANGUAGE sql STABLE AS
	$$ SELECT coalesce(pg_catalog.array_agg(t.event::text ORDER BY t.funnel_step), '{}') FROM ecstats.event_types t WHERE t.funnel_step IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.rollup_funnel() IS 'Event names of the funnel''s steps, in order.';

CREATE FUNCTION ecstats.rollup_abnormal() RETURNS text[]
	LANGUAGE sql STABLE AS $$ SELECT c.abnormal_statuses FROM ecstats.config c $$;
COMMENT ON FUNCTION ecstats.rollup_abnormal() IS 'Order statuses that count as abnormal.';

-- ecstats.rollup_names: for the scan, the event names that have a number, in the order of these.
CREATE FUNCTION ecstats.rollup_names() RETURNS text[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(coalesce(n.event, '') ORDER BY i), '{}')
	  FROM generate_series(1, (SELECT max(m.event_no) FROM ecstats.event_names m)) i LEFT JOIN ecstats.event_names n ON n.event_no = i $$;
COMMENT ON FUNCTION ecstats.rollup_names() IS 'Event names by their number from 1, an empty one where a number has none.';

-- ecstats.rollup_write: computes a day and makes its stored rows (all but daily_kpi) what they must be,
-- touching only those that differ. One statement: every figure sees the same snapshot. with_events false: what is
-- counted from events stays as it is stored, here and in the figures returned. changed_buyers: users whose rows of
-- buyer_daily were not what they are now. Under ecstats.rollup_lock.
CREATE FUNCTION ecstats.rollup_write(the_day date, with_events boolean, OUT kpi ecstats.daily_kpi, OUT changed_buyers text[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET enable_mergejoin = off AS $$	-- statistics do not know a day that is new
DECLARE
	event_totals jsonb;
	order_totals jsonb;
BEGIN
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_page_views(), ecstats.rollup_funnel(), true, ecstats.rollup_names())
		 WHERE with_events
	), o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_abnormal(), true)
	), new_names AS (
		INSERT INTO ecstats.event_names (event_no, event) SELECT e.a, e.name FROM e WHERE e.kind = 'n'
	), users_gone AS (
		DELETE FROM ecstats.user_day d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'u' AND e.name = d.first_user)
	), users_written AS (
		INSERT INTO ecstats.user_day AS d (day, first_user, users, packed) SELECT the_day, e.name, e.a, e.packed FROM e WHERE e.kind = 'u'
		ON CONFLICT (day, first_user) DO UPDATE SET users = excluded.users, packed = excluded.packed WHERE (d.users, d.packed) <> (excluded.users, excluded.packed)
	), events_gone AS (
		DELETE FROM ecstats.daily_events d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'e' AND e.name = d.event)
	), events_written AS (
		INSERT INTO ecstats.daily_events AS d (day, event, event_count, user_count)
		SELECT the_day, e.name, e.a, e.b FROM e WHERE e.kind = 'e'
		ON CONFLICT (day, event) DO UPDATE SET event_count = excluded.event_count, user_count = excluded.user_count
		 WHERE (d.event_count, d.user_count) <> (excluded.event_count, excluded.user_count)
	), funnel_gone AS (
		DELETE FROM ecstats.daily_funnel d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'f' AND e.a = d.step)
	), funnel_written AS (
		INSERT INTO ecstats.daily_funnel AS d (day, step, event, user_count)
		SELECT the_day, e.a, e.name, e.b FROM e WHERE e.kind = 'f'
		ON CONFLICT (day, step) DO UPDATE SET event = excluded.event, user_count = excluded.user_count
		 WHERE (d.event, d.user_count) <> (excluded.event, excluded.user_count)
	), sales_gone AS (
		DELETE FROM ecstats.daily_sales d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM o WHERE o.kind = 's' AND (o.product_id, o.region, o.channel) = (d.product_id, d.region, d.channel))
	), sales_written AS (
		INSERT INTO ecstats.daily_sales AS d (day, product_id, region, channel, total_sold, total_revenue,
											  order_count, buyer_count, refund_amount)
		SELECT the_day, o.product_id, o.region, o.channel, o.quantity, o.amount, o.orders, o.buyers, o.refund
		  FROM o WHERE o.kind = 's'
		ON CONFLICT (day, product_id, region, channel) DO UPDATE
		   SET total_sold = excluded.total_sold, total_revenue = excluded.total_revenue,
			   order_count = excluded.order_count, buyer_count = excluded.buyer_count,
			   refund_amount = excluded.refund_amount
		 WHERE (d.total_sold, d.total_revenue, d.order_count, d.buyer_count, d.refund_amount)
			   <> (excluded.total_sold, excluded.total_revenue, excluded.order_count, excluded.buyer_count, excluded.refund_amount)
	), sums AS MATERIALIZED (
		SELECT CASE WHEN grouping(o.product_id) = 0 THEN 'product' WHEN grouping(o.region) = 0 THEN 'region' ELSE 'channel' END AS dimension,
			   coalesce(o.product_id, o.region, o.channel) AS value,
			   sum(o.quantity)::bigint AS quantity, sum(o.amount) AS amount, sum(o.refund) AS refund
		  FROM o WHERE o.kind = 's' GROUP BY GROUPING SETS ((o.product_id), (o.region), (o.channel))
	), sums_gone AS (
		DELETE FROM ecstats.daily_sales_by d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM sums s WHERE (s.dimension, s.value) = (d.dimension, d.value))
	), sums_written AS (
		INSERT INTO ecstats.daily_sales_by AS d (day, dimension, value, total_sold, total_revenue, refund_amount)
		SELECT the_day, s.dimension, s.value, s.quantity, s.amount, s.refund FROM sums s
		ON CONFLICT (day, dimension, value) DO UPDATE
		   SET total_sold = excluded.total_sold, total_revenue = excluded.total_revenue, refund_amount = excluded.refund_amount
		 WHERE (d.total_sold, d.total_revenue, d.refund_amount) <> (excluded.total_sold, excluded.total_revenue, excluded.refund_amount)
	), ids_gone AS (
		DELETE FROM ecstats.order_day d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM o WHERE o.kind = d.kind AND o.product_id = d.first_id)
	), ids_written AS (
		INSERT INTO ecstats.order_day AS d (day, kind, first_id, ids, packed)
		SELECT the_day, o.kind, o.product_id, o.quantity, o.packed FROM o WHERE o.kind IN ('o', 'b')
		ON CONFLICT (day, kind, first_id) DO UPDATE SET ids = excluded.ids, packed = excluded.packed WHERE (d.ids, d.packed) <> (excluded.ids, excluded.packed)
	), buyers AS MATERIALIZED (
		SELECT d.user_id AS stored_user, d.region AS stored_region, d.channel AS stored_channel, n.*
		  FROM (SELECT * FROM ecstats.buyer_daily d WHERE d.day = the_day) d
		  FULL JOIN (SELECT o.product_id AS user_id, o.region, o.channel, o.orders, o.amount, o.refund AS paid FROM o WHERE o.kind = 'u') n
				 ON n.user_id = d.user_id AND n.region = d.region AND n.channel = d.channel
		 WHERE (d.order_count, d.gmv, d.paid_amount) IS DISTINCT FROM (n.orders, n.amount, n.paid)
	), buyers_gone AS (
		DELETE FROM ecstats.buyer_daily d WHERE d.day = the_day
		   AND (d.user_id, d.region, d.channel) IN (SELECT b.stored_user, b.stored_region, b.stored_channel FROM buyers b WHERE b.user_id IS NULL)
	), buyers_written AS (
		INSERT INTO ecstats.buyer_daily (day, user_id, region, channel, order_count, gmv, paid_amount)
		SELECT the_day, b.user_id, b.region, b.channel, b.orders, b.amount, b.paid FROM buyers b WHERE b.user_id IS NOT NULL
		 ORDER BY b.user_id COLLATE "C"		-- the key is filled from one end to the other
		ON CONFLICT (user_id, day, region, channel) DO UPDATE SET order_count = excluded.order_count, gmv = excluded.gmv, paid_amount = excluded.paid_amount
	)
	SELECT (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v')),
		   (SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') FROM o WHERE o.kind IN ('t', 'r', 'a', 'p')),
		   array(SELECT DISTINCT coalesce(b.user_id, b.stored_user) FROM buyers b)
	  INTO event_totals, order_totals, changed_buyers;
	IF NOT with_events THEN
		SELECT jsonb_build_object('t', jsonb_build_object('a', k.event_count, 'b', k.pv), 'v', jsonb_build_object('a', k.uv))
		  INTO STRICT event_totals FROM ecstats.daily_kpi k WHERE k.day = the_day;
	END IF;
	kpi := ecstats.rollup_kpi(the_day, event_totals, order_totals);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_write(date, boolean) IS
	'Computes a day from raw rows and brings daily_events, daily_funnel, daily_sales, daily_sales_by, user_day, order_day and buyer_daily to it, touching only rows that differ; returns the figures, and whose rows of buyer_daily changed. with_events false: from order lines alone, what events make stays as stored.';
-- sql/43_rollup_users.sql
-- Users of stored days: who was seen first when, and one user's days.

-- ecstats.rollup_users: the blocks of a stored day, in order.
CREATE FUNCTION ecstats.rollup_users(the_day date) RETURNS bytea[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(u.packed ORDER BY u.first_user), '{}') FROM ecstats.user_day u WHERE u.day = the_day $$;
COMMENT ON FUNCTION ecstats.rollup_users(date) IS 'Blocks of ecstats.user_day of a day, in order.';

-- ecstats.rollup_users_at: those blocks of a stored day that can have one of some users, in order.
CREATE FUNCTION ecstats.rollup_users_at(the_day date, user_ids text[]) RETURNS bytea[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(u.packed ORDER BY u.first_user), '{}')
	  FROM ecstats.user_day u
	 WHERE u.day = the_day AND u.first_user IN (
		SELECT (SELECT f.first_user FROM ecstats.user_day f
				 WHERE f.day = the_day AND f.first_user <= w.user_id COLLATE "C" ORDER BY f.first_user DESC LIMIT 1)
		  FROM unnest(user_ids) w(user_id)) $$;
COMMENT ON FUNCTION ecstats.rollup_users_at(date, text[]) IS 'Blocks of ecstats.user_day of a day that can have one of some users, in order.';

-- ecstats.rollup_next_days: for users (ascending) the next stored day after a day on which each has an event, NULL
-- where there is none. A day is read once for all users who have not been found yet.
CREATE FUNCTION ecstats.rollup_next_days(the_day date, user_ids text[]) RETURNS date[]
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off AS $$
DECLARE
	few CONSTANT integer := 500;		-- look-ups that cost less than a whole day's blocks
	wanted text[] := user_ids;
	found_there text[];
	found text[] := '{}';
	found_on date[] := '{}';
	later date;
BEGIN
	FOR later IN SELECT k.day FROM ecstats.daily_kpi k WHERE k.day > the_day ORDER BY k.day LOOP
		EXIT WHEN wanted = '{}';
		found_there := ecstats.rollup_among(wanted,
			CASE WHEN cardinality(wanted) <= few THEN ecstats.rollup_users_at(later, wanted) ELSE ecstats.rollup_users(later) END);
		CONTINUE WHEN found_there = '{}';
		wanted := ecstats.rollup_without(wanted, found_there);
		found := found || found_there;
		found_on := found_on || array_fill(later, ARRAY[cardinality(found_there)]);
	END LOOP;
	RETURN array(SELECT f.day FROM unnest(user_ids) WITH ORDINALITY x(u, n) LEFT JOIN unnest(found, found_on) f(u, day) ON f.u = x.u ORDER BY x.n);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_next_days(date, text[]) IS 'For each of some users, ascending, the next stored day after a day with an event of theirs, or NULL.';

-- ecstats.rollup_first_seen: brings first_seen to the stored users of a day; had: the blocks of users that the day
-- had before; NULL: whoever is first seen on the day is looked for among its users, as a rebuild does. Result: how many users were first seen on the day, and on each other day that this changed.
CREATE FUNCTION ecstats.rollup_first_seen(the_day date, had bytea[]) RETURNS TABLE (of_day date, users bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off AS $$
DECLARE
	seen text[];
	gone text[] := '{}';
BEGIN
	IF had IS NULL THEN
		seen := array(SELECT f.user_id FROM ecstats.first_seen f WHERE f.day = the_day ORDER BY f.user_id COLLATE "C");
		gone := ecstats.rollup_without(seen, ecstats.rollup_among(seen, ecstats.rollup_users(the_day)));
	ELSIF had <> '{}' THEN
		gone := ecstats.rollup_gone(had, ecstats.rollup_users(the_day));
	END IF;
	RETURN QUERY
	WITH m AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_first_merge_stored(the_day, gone, ecstats.rollup_next_days(the_day, gone))
	), dropped AS (
		DELETE FROM ecstats.first_seen_block f USING m
		 WHERE m.kind = 'x' AND f.first_user = m.first_user
		   AND NOT EXISTS (SELECT FROM m b WHERE b.kind = 'b' AND b.first_user = m.first_user)
	), written AS (
		INSERT INTO ecstats.first_seen_block (first_user, users, packed)
		SELECT m.first_user, m.users, m.packed FROM m WHERE m.kind = 'b'
		ON CONFLICT (first_user) DO UPDATE SET users = excluded.users, packed = excluded.packed
	)
	SELECT m.of_day, m.users FROM m WHERE m.kind = 'd';
END
$$;
COMMENT ON FUNCTION ecstats.rollup_first_seen(date, bytea[]) IS
	'Brings first_seen to the stored users of a day, which had other blocks before; returns the number of new users of it and of the days that this changed.';

-- ecstats.rollup_put_new_users: writes new numbers of new users into stored days, the last one given for a day. Not into
-- those whose events are gone: what was counted from these stays. Nor into computed: a day's own close knew its number.
CREATE FUNCTION ecstats.rollup_put_new_users(days date[], new_users bigint[], computed date[], at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kpi ecstats.daily_kpi;
	d record;
BEGIN
	FOR d IN SELECT DISTINCT ON (x.day) x.day, x.users FROM unnest(days, new_users) WITH ORDINALITY x(day, users, n)
			  WHERE x.day <> ALL (computed) ORDER BY x.day, x.n DESC LOOP
		CONTINUE WHEN EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = d.day AND (s.frozen OR s.events_dropped));
		SELECT * INTO kpi FROM ecstats.daily_kpi k WHERE k.day = d.day;
		CONTINUE WHEN NOT FOUND;	-- somebody has deleted it
		kpi.new_user_count := d.users;
		PERFORM ecstats.rollup_put(kpi, at, kpi.complete);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_put_new_users(date[], bigint[], date[], timestamptz) IS
	'Restates new_user_count of stored days whose events are there, but for those that were computed.';

-- ecstats.user_events: what one user did on stored days.
-- Arguments: user_id; from_day, to_day (both inclusive; by default all days). Result: as the view user_daily has it,
-- found by the key of the blocks. Touches nothing.
CREATE FUNCTION ecstats.user_events(user_id text, from_day date DEFAULT '-infinity', to_day date DEFAULT 'infinity')
	RETURNS TABLE (day date, event text, event_count bigint)
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT k.day, n.event, c.event_count
	  FROM ecstats.daily_kpi k
	 CROSS JOIN LATERAL (SELECT u.packed FROM ecstats.user_day u
						  WHERE u.day = k.day AND u.first_user <= user_events.user_id COLLATE "C" ORDER BY u.first_user DESC LIMIT 1) b
	 CROSS JOIN LATERAL ecstats.rollup_users_unpack(b.packed) c
	  JOIN ecstats.event_names n ON n.event_no = c.event_no
	 WHERE k.day BETWEEN from_day AND to_day AND c.user_id = user_events.user_id COLLATE "C"
	 ORDER BY k.day, n.event $$;
COMMENT ON FUNCTION ecstats.user_events(text, date, date) IS
	'Events of one user on stored days from from_day to to_day (both inclusive, by default all), by name, as in ecstats.user_daily.';
-- sql/43_rollup_buyers.sql
-- Buyers: ecstats.buyer_daily added up. A user's row is made anew from all of their days, never added to: it is right
-- whatever was restated, and it stays when retention has dropped the order lines.

-- ecstats.rollup_buyers_of: some users' rows of ecstats.buyers, made from their days up to one. Each user is found by the
-- key, whatever statistics say of days that are new (day + 0: the index on day would be no help); those without a day have
-- no row.
CREATE FUNCTION ecstats.rollup_buyers_of(users text[], last_day date) RETURNS SETOF ecstats.buyers
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
	SELECT u.user_id, t.order_count, t.gmv, t.paid_amount, t.first_order_day, t.last_order_day,
		   CASE WHEN t.channel = t.other_channel THEN t.channel
				ELSE (SELECT d.channel FROM ecstats.buyer_daily d WHERE d.user_id = u.user_id AND d.day + 0 <= last_day
					   GROUP BY d.channel ORDER BY sum(d.order_count) DESC, sum(d.gmv) DESC, d.channel LIMIT 1) END,
		   CASE WHEN t.region = t.other_region THEN t.region
				ELSE (SELECT d.region FROM ecstats.buyer_daily d WHERE d.user_id = u.user_id AND d.day + 0 <= last_day
					   GROUP BY d.region ORDER BY sum(d.order_count) DESC, sum(d.gmv) DESC, d.region LIMIT 1) END
	  FROM (SELECT DISTINCT x COLLATE "C" AS user_id FROM unnest(users) x ORDER BY 1) u
	 CROSS JOIN LATERAL (
		SELECT sum(d.order_count)::bigint AS order_count, sum(d.gmv) AS gmv, sum(d.paid_amount) AS paid_amount,
			   min(d.day) FILTER (WHERE d.order_count > 0) AS first_order_day, max(d.day) FILTER (WHERE d.order_count > 0) AS last_order_day,
			   min(d.channel) AS channel, max(d.channel) AS other_channel, min(d.region) AS region, max(d.region) AS other_region
		  FROM ecstats.buyer_daily d WHERE d.user_id = u.user_id AND d.day + 0 <= last_day HAVING count(*) > 0) t $$;
COMMENT ON FUNCTION ecstats.rollup_buyers_of(text[], date) IS
	'Rows of ecstats.buyers of some users over the days of ecstats.buyer_daily up to last_day; none for a user without such a day.';

-- ecstats.rollup_buyers: brings ecstats.buyers to the days of some users; returns how many rows that changed. A row that
-- comes out as it was is not touched. Under ecstats.rollup_lock.
CREATE FUNCTION ecstats.rollup_buyers(users text[]) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
	WITH changed AS MATERIALIZED (
		SELECT b.user_id AS stored_user, n.*
		  FROM (SELECT s.* FROM ecstats.buyers s WHERE s.user_id = ANY (users COLLATE "C")) b
		  FULL JOIN ecstats.rollup_buyers_of(users, 'infinity') n ON n.user_id = b.user_id
		 WHERE (b.user_id, b.order_count, b.gmv, b.paid_amount, b.first_order_day, b.last_order_day, b.favourite_channel, b.favourite_region)
			   IS DISTINCT FROM
			   (n.user_id, n.order_count, n.gmv, n.paid_amount, n.first_order_day, n.last_order_day, n.favourite_channel, n.favourite_region)
	), gone AS (
		DELETE FROM ecstats.buyers b WHERE b.user_id = ANY (array(SELECT c.stored_user FROM changed c WHERE c.user_id IS NULL))
	), written AS (
		INSERT INTO ecstats.buyers (user_id, order_count, gmv, paid_amount, first_order_day, last_order_day, favourite_channel, favourite_region)
		SELECT c.user_id, c.order_count, c.gmv, c.paid_amount, c.first_order_day, c.last_order_day, c.favourite_channel, c.favourite_region
		  FROM changed c WHERE c.user_id IS NOT NULL ORDER BY c.user_id
		ON CONFLICT (user_id) DO UPDATE
		   SET order_count = excluded.order_count, gmv = excluded.gmv, paid_amount = excluded.paid_amount,
			   first_order_day = excluded.first_order_day, last_order_day = excluded.last_order_day,
			   favourite_channel = excluded.favourite_channel, favourite_region = excluded.favourite_region
	)
	SELECT count(*) FROM changed $$;
COMMENT ON FUNCTION ecstats.rollup_buyers(text[]) IS
	'Brings the rows of ecstats.buyers of some users to their days in ecstats.buyer_daily, touching only those that differ, and returns how many did.';

-- ecstats.rollup_buyers_anew: makes buyers anew from all stored days, which outlive raw rows as they do. For an operator,
-- where verify shows them wrong: a rebuild of days looks at the users that these have.
CREATE FUNCTION ecstats.rollup_buyers_anew() RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats.rollup_buyers_anew makes buyers anew');
	PERFORM ecstats.rollup_lock();
	RETURN ecstats.rollup_buyers(array(SELECT b.user_id FROM ecstats.buyers b UNION SELECT d.user_id FROM ecstats.buyer_daily d));
END
$$;
COMMENT ON FUNCTION ecstats.rollup_buyers_anew() IS
	'Makes ecstats.buyers anew from all stored days and returns how many rows changed. 25000 unless READ COMMITTED.';

-- ecstats.rollup_buyers_at: ecstats.buyers as of a day: of those who bought since, what they had bought until then. Not
-- pinned by a SET clause, so that a query reads the table itself; and where nobody bought since, nothing is made anew.
CREATE FUNCTION ecstats.rollup_buyers_at(as_of date) RETURNS SETOF ecstats.buyers
	LANGUAGE sql STABLE AS $$
	SELECT b.* FROM ecstats.buyers b
	 WHERE NOT EXISTS (SELECT FROM ecstats.buyer_daily d WHERE d.user_id OPERATOR(pg_catalog.=) b.user_id AND d.day OPERATOR(pg_catalog.>) as_of)
	UNION ALL
	SELECT o.* FROM ecstats.rollup_buyers_of(array(SELECT d.user_id FROM ecstats.buyer_daily d WHERE d.day OPERATOR(pg_catalog.>) as_of), as_of) o $$;
COMMENT ON FUNCTION ecstats.rollup_buyers_at(date) IS
	'ecstats.buyers as of a day: rows of users with a later day in ecstats.buyer_daily are made from their days up to as_of, and left out where there is none.';

-- sql/43_rollup_close.sql
-- Closing and restating: which days are due, and the one place that writes daily_kpi.

-- ecstats.rollup_lock: one run at a time closes days; the others wait and then see what it did.
CREATE FUNCTION ecstats.rollup_lock() RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- A table's lock, not an advisory one: those are anybody's to take.
	LOCK TABLE ecstats.day_state IN SHARE ROW EXCLUSIVE MODE;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_lock() IS 'Waits until no other transaction closes days; held until commit.';

-- ecstats.rollup_gaps: ranges of days before a day that are not stored.
CREATE FUNCTION ecstats.rollup_gaps(before date, OUT from_day date, OUT to_day date) RETURNS SETOF record
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT g.from_day, g.to_day
	  FROM (SELECT lag(k.day + 1, 1, date '1999-12-30') OVER (ORDER BY k.day) AS from_day, least(k.day, before) AS to_day
			  FROM (SELECT d.day FROM ecstats.daily_kpi d UNION SELECT date '9999-01-01') k) g
	 WHERE g.from_day < g.to_day $$;
COMMENT ON FUNCTION ecstats.rollup_gaps(date) IS 'Ranges [from_day, to_day) of business days before a day that are not closed.';

-- ecstats.rollup_hop: the days of a range that have a row in one table, by hops along the index of a
-- timestamptz column.
CREATE FUNCTION ecstats.rollup_hop(relation regclass, time_column name, from_day date, to_day date) RETURNS SETOF date
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	query text := format('SELECT %1$I FROM %2$s WHERE %1$I >= $1 AND %1$I < $2 ORDER BY %1$I LIMIT 1', time_column, relation);
	until timestamptz := ecstats.day_start(to_day);
	at timestamptz := ecstats.day_start(from_day);
	found_at timestamptz;
	day date;
BEGIN
	LOOP
		EXECUTE query INTO found_at USING at, until;
		EXIT WHEN found_at IS NULL;
		day := ecstats.day_of(found_at);
		RETURN NEXT day;
		at := ecstats.day_start(day + 1);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_hop(regclass, name, date, date) IS
	'Business days from from_day to before to_day with a row in relation, by its indexed time column.';

-- ecstats.rollup_open_days: ended days before a day that have data and are not closed.
CREATE FUNCTION ecstats.rollup_open_days(before date) RETURNS SETOF date
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT h FROM ecstats.rollup_gaps(before) g CROSS JOIN LATERAL (
		SELECT ecstats.rollup_hop('ecstats.order_lines', 'order_time', g.from_day, g.to_day)
		UNION SELECT ecstats.rollup_hop('ecstats.order_lines', 'paid_time', g.from_day, g.to_day)
		UNION SELECT ecstats.rollup_hop('ecstats.events_default', 'event_time', g.from_day, g.to_day)) d(h)
	UNION
	SELECT h
	  FROM (SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			 WHERE i.inhparent = 'ecstats.events'::regclass AND i.inhrelid <> 'ecstats.events_default'::regclass
			   -- a partition whose name is a closed day need not be opened
			   AND NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE c.relname = ecstats.day_partition_name(k.day)) OFFSET 0) o
	 CROSS JOIN LATERAL pg_partition_tree(o.inhrelid) p
	 CROSS JOIN LATERAL ecstats.rollup_hop(p.relid, 'event_time', date '1999-12-30', before) h
	 WHERE p.isleaf AND NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = h)
	 ORDER BY 1 $$;
COMMENT ON FUNCTION ecstats.rollup_open_days(date) IS 'Ended business days before a day that have raw rows and are not closed, ascending.';

-- ecstats.rollup_under_way: transactions of this database, prepared ones included, that are not over. A
-- transaction keeps its lock until after everybody can see it: one that is not listed is seen by every later
-- snapshot. (A snapshot's own list would not do: it ends at the latest finished number, not at the latest
-- given.)
CREATE FUNCTION ecstats.rollup_under_way() RETURNS xid[]
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(l.transactionid), '{}')
	  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	 WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
	   AND l.pid IS DISTINCT FROM pg_backend_pid()
	   AND a.backend_type IS DISTINCT FROM 'autovacuum worker'		-- it writes no rows of a day
	   AND coalesce(a.datname, current_database()) = current_database() $$;
COMMENT ON FUNCTION ecstats.rollup_under_way() IS 'Numbers of transactions that are under way or prepared, but for this one.';

-- ecstats.rollup_stale_days: closed days whose raw rows changed since they were computed.
CREATE FUNCTION ecstats.rollup_stale_days() RETURNS SETOF date
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.day FROM ecstats.day_state s
	 WHERE NOT s.frozen AND s.day IN (SELECT m.day FROM ecstats.day_marks m UNION ALL SELECT ecstats.day_noted())
	UNION
	SELECT s.day FROM ecstats.day_state s
	 WHERE NOT s.frozen AND s.unseen <> '{}'
	   AND (s.cluster <> (SELECT system_identifier FROM pg_control_system())
			OR EXISTS (SELECT FROM unnest(s.unseen) x WHERE x <> ALL (ecstats.rollup_under_way())))
	 ORDER BY 1 $$;
COMMENT ON FUNCTION ecstats.rollup_stale_days() IS
	'Closed days that were marked by a later transaction, that this one changed, or that a transaction under way at their close may have changed and which is over.';

-- ecstats.rollup_complete: may a day be called complete?
CREATE FUNCTION ecstats.rollup_complete(day date, at timestamptz) RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT at >= ecstats.day_start(day + 1) + (SELECT c.close_grace FROM ecstats.config c)
	   AND NOT EXISTS (SELECT FROM ecstats.sources s WHERE s.enabled AND (s.watermark >= ecstats.day_start(day + 1)) IS NOT TRUE)
	   AND NOT EXISTS (
		SELECT FROM pg_locks l
		  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		 WHERE l.locktype = 'relation' AND l.granted
		   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		   AND l.pid IS DISTINCT FROM pg_backend_pid()
		   -- a prepared transaction has no backend, another may not say when it began: they count
		   AND (l.pid IS NULL OR coalesce(a.xact_start, '-infinity') < ecstats.day_start(day + 1))
		   AND (l.relation = 'ecstats.order_lines'::regclass
				OR l.relation IN (SELECT p.relid FROM pg_partition_tree('ecstats.events') p))) $$;
COMMENT ON FUNCTION ecstats.rollup_complete(date, timestamptz) IS
	'True when close_grace has passed since the day''s end, every enabled source''s watermark is past it and no transaction that began before it, prepared ones included, holds a write lock on events or order_lines.';

-- ecstats.rollup_put: the only writer of daily_kpi. A first close is revision 1; a change of figures adds one
-- and leaves its restatements; becoming complete is no revision. Result: true at the first close.
CREATE FUNCTION ecstats.rollup_put(kpi ecstats.daily_kpi, at timestamptz, gate boolean) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state_columns text[] := '{day,complete,closed_at,revision}';
	stored ecstats.daily_kpi;
BEGIN
	SELECT * INTO stored FROM ecstats.daily_kpi k WHERE k.day = kpi.day;
	IF NOT FOUND THEN
		DELETE FROM ecstats.restatements r WHERE r.day = kpi.day;	-- of a row that somebody has deleted
		kpi.revision := 1;
		kpi.closed_at := at;
		kpi.complete := gate;
		INSERT INTO ecstats.daily_kpi SELECT kpi.*;
		RETURN true;
	END IF;
	IF to_jsonb(stored) - state_columns <> to_jsonb(kpi) - state_columns THEN
		kpi.revision := stored.revision + 1;
		kpi.closed_at := stored.closed_at;
		kpi.complete := stored.complete;
		DELETE FROM ecstats.daily_kpi k WHERE k.day = kpi.day;
		INSERT INTO ecstats.daily_kpi SELECT kpi.*;
		INSERT INTO ecstats.restatements (day, revision, column_name, old, new, at)
		SELECT kpi.day, kpi.revision, n.key, (o.value #>> '{}')::numeric, (n.value #>> '{}')::numeric, rollup_put.at
		  FROM jsonb_each(to_jsonb(kpi) - state_columns) n
		  JOIN jsonb_each(to_jsonb(stored)) o ON o.key = n.key AND o.value <> n.value;
	END IF;
	RETURN false;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_put(ecstats.daily_kpi, timestamptz, boolean) IS
	'Stores a day''s figures (gate: whether it is complete at its first close): revision 1 at the first close (true), one more and restatements when they differ from the stored ones.';

-- ecstats.rollup_close: computes one day from raw rows and stores everything of it. anew: first_seen and buyers, too, are taken
-- for possibly wrong. Result: first: true at its first close; moved, moved_users: later days whose number of new users this
-- changed, and what it is now, for the caller to store (ecstats.rollup_put_new_users) when he has computed them all. A day
-- whose events are gone, by retention or with a partition that somebody took away, keeps what was counted from them; its
-- order figures follow its order lines, as long as these are there.
CREATE FUNCTION ecstats.rollup_close(the_day date, at timestamptz, anew boolean DEFAULT false, OUT first boolean, OUT moved date[], OUT moved_users bigint[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kpi ecstats.daily_kpi;
	written record;
	had bytea[];
	this_cluster bigint := (SELECT system_identifier FROM pg_control_system());
	has_partition boolean;
	is_stored boolean := EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = the_day);
	state ecstats.day_state;
	with_events boolean;
	under_way xid[];
	gate boolean;
BEGIN
	-- No partition goes between this look and the scan.
	LOCK TABLE ONLY ecstats.events IN ACCESS SHARE MODE;
	has_partition := ecstats.rollup_partition_own(the_day);
	-- A partition that is detached may come back; one that is no more does not, whatever a new one of its name holds.
	UPDATE ecstats.day_state s SET events_dropped = true
	 WHERE s.day = the_day AND s.partitioned AND NOT s.events_dropped AND ecstats.rollup_partition_lost(the_day);
	IF NOT is_stored THEN		-- of a row that somebody has deleted
		DELETE FROM ecstats.day_state s WHERE s.day = the_day;
		DELETE FROM ecstats.day_partitions p WHERE p.day = the_day;
		has_partition := ecstats.day_partition_exists(the_day);
	END IF;
	SELECT * INTO state FROM ecstats.day_state s WHERE s.day = the_day;
	first := false;
	moved := '{}';
	moved_users := '{}';
	IF is_stored AND state.frozen THEN
		RETURN;
	END IF;
	with_events := NOT (is_stored AND coalesce(state.events_dropped OR state.partitioned AND NOT has_partition, false));

	-- In this order: who is under way, whether somebody who began before the day's end still writes, the
	-- marks, then the scan with a snapshot of its own.
	under_way := ecstats.rollup_under_way();
	gate := ecstats.rollup_complete(the_day, at);
	DELETE FROM ecstats.day_marks m WHERE m.day = the_day;
	had := CASE WHEN with_events AND NOT anew THEN ecstats.rollup_users(the_day) END;
	SELECT * INTO STRICT written FROM ecstats.rollup_write(the_day, with_events);
	kpi := written.kpi;
	PERFORM ecstats.rollup_buyers(written.changed_buyers || CASE WHEN anew THEN array(SELECT b.user_id FROM ecstats.buyer_daily b WHERE b.day = the_day) END);

	IF with_events THEN
		SELECT array_agg(f.of_day), array_agg(f.users) INTO STRICT moved, moved_users FROM ecstats.rollup_first_seen(the_day, had) f;
		kpi.new_user_count := moved_users[array_position(moved, the_day)];
	ELSIF state.events_dropped THEN
		kpi.new_user_count := (SELECT k.new_user_count FROM ecstats.daily_kpi k WHERE k.day = the_day);
	ELSE		-- a partition that may come back: others may have moved users to the day, or from it
		kpi.new_user_count := (SELECT count(*) FROM ecstats.first_seen f WHERE f.day = the_day);
	END IF;
	first := ecstats.rollup_put(kpi, at, gate);

	-- At a first close, everybody who is under way may hold rows without a mark; later only those of them
	-- that still are: whoever began since then has marked the day.
	INSERT INTO ecstats.day_state AS s (day, unseen, cluster, partitioned)
	VALUES (the_day, under_way, this_cluster, has_partition)
	ON CONFLICT (day) DO UPDATE
	   SET cluster = this_cluster, partitioned = s.partitioned OR has_partition,
		   unseen = CASE WHEN s.cluster <> this_cluster THEN '{}'
						 ELSE array(SELECT x FROM unnest(s.unseen) x WHERE x = ANY (under_way)) END
	 WHERE s.unseen <> '{}' OR s.cluster <> this_cluster OR has_partition AND NOT s.partitioned;
	PERFORM ecstats.rollup_partition_note(the_day, the_day);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_close(date, timestamptz, boolean) IS
	'Computes one ended day from raw rows and stores its figures; first: whether this was its first close, moved and moved_users: later days whose number of new users changed. What is counted from events stays where these were dropped, or their partition taken away.';

-- ecstats.rollup_settle: days that may be called complete by now, and marks that nobody waits for (a day that
-- is not closed is found by its rows).
CREATE FUNCTION ecstats.rollup_settle(at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	passed date[] := array(SELECT k.day FROM ecstats.daily_kpi k WHERE NOT k.complete AND ecstats.rollup_complete(k.day, at));
BEGIN
	-- The gate first, then a new snapshot: whoever it waited for has left its mark by then.
	UPDATE ecstats.daily_kpi k SET complete = true
	 WHERE k.day = ANY (passed) AND k.day NOT IN (SELECT ecstats.rollup_stale_days());
	IF FOUND THEN				-- so may their weeks and months be
		PERFORM ecstats.rollup_periods('{}', at);
	END IF;
	DELETE FROM ecstats.day_marks m WHERE NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = m.day);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_settle(timestamptz) IS 'Calls days, and their weeks and months, complete that passed the gate and are not stale; drops marks of days that are not closed.';

-- sql/43_rollup_views.sql
-- What BI tools point at beyond the tables: sums over fewer columns, rates, changes. Every view can be asked for
-- some days alone (the condition reaches the primary key below), names its columns one by one, so that a new column
-- of a table changes nothing here, and only divides, adds and compares: what is stored stays the one truth.

-- Sums of daily_sales, which are stored. Distinct orders and buyers of groups do not add up, so they are not here.
CREATE VIEW ecstats.product_daily AS
	SELECT s.day, s.value AS product_id, s.total_sold, s.total_revenue, s.refund_amount
	  FROM ecstats.daily_sales_by s WHERE s.dimension = 'product';
COMMENT ON VIEW ecstats.product_daily IS 'Sales and returns of a closed day by product, over all regions and channels; exact sums';
COMMENT ON COLUMN ecstats.product_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.product_daily.product_id IS 'Product, as in order lines';
COMMENT ON COLUMN ecstats.product_daily.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.product_daily.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.product_daily.refund_amount IS 'What went back: minus the amount of return lines';

CREATE VIEW ecstats.region_daily AS
	SELECT s.day, s.value AS region, s.total_sold, s.total_revenue, s.refund_amount
	  FROM ecstats.daily_sales_by s WHERE s.dimension = 'region';
COMMENT ON VIEW ecstats.region_daily IS 'Sales and returns of a closed day by region, over all products and channels; exact sums';
COMMENT ON COLUMN ecstats.region_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.region_daily.region IS 'Region, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.region_daily.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.region_daily.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.region_daily.refund_amount IS 'What went back: minus the amount of return lines';

CREATE VIEW ecstats.channel_daily AS
	SELECT s.day, s.value AS channel, s.total_sold, s.total_revenue, s.refund_amount
	  FROM ecstats.daily_sales_by s WHERE s.dimension = 'channel';
COMMENT ON VIEW ecstats.channel_daily IS 'Sales and returns of a closed day by channel, over all products and regions; exact sums';
COMMENT ON COLUMN ecstats.channel_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.channel_daily.channel IS 'Channel, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.channel_daily.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.channel_daily.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.channel_daily.refund_amount IS 'What went back: minus the amount of return lines';

CREATE VIEW ecstats.funnel_daily AS
	SELECT f.day, f.step, f.event, f.user_count,
		   f.user_count::numeric / nullif(first_value(f.user_count) OVER w, 0) AS of_first,
		   f.user_count::numeric / nullif(lag(f.user_count) OVER w, 0) AS of_previous
	  FROM ecstats.daily_funnel f
	WINDOW w AS (PARTITION BY f.day ORDER BY f.step);
COMMENT ON VIEW ecstats.funnel_daily IS 'The funnel of a closed day with its rates';
COMMENT ON COLUMN ecstats.funnel_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.funnel_daily.step IS 'Place in the funnel, from 1';
COMMENT ON COLUMN ecstats.funnel_daily.event IS 'Event name of the step';
COMMENT ON COLUMN ecstats.funnel_daily.user_count IS 'Users with events of this step and of every earlier one, in any order';
COMMENT ON COLUMN ecstats.funnel_daily.of_first IS 'user_count / that of the first step; NULL where that is 0';
COMMENT ON COLUMN ecstats.funnel_daily.of_previous IS 'user_count / that of the step before; NULL at the first step and where that is 0';

-- A day that is not stored has no figures to compare with: NULL.
CREATE VIEW ecstats.kpi_trend AS
	SELECT k.day,
		   k.gmv, d.gmv AS gmv_day_before, w.gmv AS gmv_week_before,
		   (k.gmv - d.gmv) / nullif(d.gmv, 0) AS gmv_day_change, (k.gmv - w.gmv) / nullif(w.gmv, 0) AS gmv_week_change,
		   k.order_count, d.order_count AS order_count_day_before, w.order_count AS order_count_week_before,
		   (k.order_count - d.order_count)::numeric / nullif(d.order_count, 0) AS order_count_day_change,
		   (k.order_count - w.order_count)::numeric / nullif(w.order_count, 0) AS order_count_week_change,
		   k.uv, d.uv AS uv_day_before, w.uv AS uv_week_before,
		   (k.uv - d.uv)::numeric / nullif(d.uv, 0) AS uv_day_change, (k.uv - w.uv)::numeric / nullif(w.uv, 0) AS uv_week_change,
		   k.complete
	  FROM ecstats.daily_kpi k
	  LEFT JOIN ecstats.daily_kpi d ON d.day = k.day - 1
	  LEFT JOIN ecstats.daily_kpi w ON w.day = k.day - 7;
COMMENT ON VIEW ecstats.kpi_trend IS 'gmv, orders and visitors of a closed day beside the day before and the same day of the week before';
COMMENT ON COLUMN ecstats.kpi_trend.day IS 'Business day';
COMMENT ON COLUMN ecstats.kpi_trend.gmv IS 'Amount of sale lines, as in daily_kpi';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_day_before IS 'gmv of the day before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_week_before IS 'gmv seven days before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_day_change IS '(gmv - gmv_day_before) / gmv_day_before; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_week_change IS '(gmv - gmv_week_before) / gmv_week_before; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count IS 'Distinct orders, as in daily_kpi';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_day_before IS 'order_count of the day before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_week_before IS 'order_count seven days before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_day_change IS 'Change of order_count against the day before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_week_change IS 'Change of order_count against seven days before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv IS 'Distinct users with events, as in daily_kpi';
COMMENT ON COLUMN ecstats.kpi_trend.uv_day_before IS 'uv of the day before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv_week_before IS 'uv seven days before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv_day_change IS 'Change of uv against the day before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv_week_change IS 'Change of uv against seven days before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.complete IS 'The day''s own gate, as in daily_kpi: while it is false, rows may still be missing';

COMMENT ON COLUMN ecstats.user_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.user_daily.user_id IS 'Whose events';
COMMENT ON COLUMN ecstats.user_daily.event IS 'Event name';
COMMENT ON COLUMN ecstats.user_daily.event_count IS 'How many of that name';
COMMENT ON COLUMN ecstats.first_seen.user_id IS 'Who';
COMMENT ON COLUMN ecstats.first_seen.day IS 'The first closed day with an event of theirs';
-- sql/43_rollup_partition.sql
-- Whether what a closed day was counted from is still there: partitions are anybody's to detach and to drop.

-- ecstats.rollup_partition_own: the day has its partition, attached, and it is the one that the day was counted from.
CREATE FUNCTION ecstats.rollup_partition_own(the_day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.day_partition_exists(the_day) AND NOT EXISTS (
		SELECT FROM ecstats.day_partitions p
		 WHERE p.day = the_day AND p.partition <> to_regclass('ecstats.' || ecstats.day_partition_name(the_day))) $$;
COMMENT ON FUNCTION ecstats.rollup_partition_own(date) IS
	'True where a business day has its partition attached, and not another one of that name than it was counted from.';

-- ecstats.rollup_partition_lost: the partition of a day that had one is no more. By its number where that is known
-- (a new one has its name, or somebody renamed it), else by its name.
CREATE FUNCTION ecstats.rollup_partition_lost(the_day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce((SELECT NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.partition) FROM ecstats.day_partitions p WHERE p.day = the_day),
					NOT ecstats.day_partition_taken(the_day)) $$;
COMMENT ON FUNCTION ecstats.rollup_partition_lost(date) IS 'True where the partition that a business day was counted from does not exist any more.';

-- ecstats.rollup_partition_note: notes the partitions of a range of closed days, those too that were closed out of
-- the default partition and have got their own since.
CREATE FUNCTION ecstats.rollup_partition_note(from_day date, to_day date) RETURNS void
	LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.day_state s SET partitioned = true
	 WHERE s.day BETWEEN from_day AND to_day AND NOT s.partitioned AND ecstats.day_partition_exists(s.day);
	INSERT INTO ecstats.day_partitions (day, partition)
	SELECT s.day, to_regclass('ecstats.' || ecstats.day_partition_name(s.day))
	  FROM (SELECT s.day FROM ecstats.day_state s		-- first those that are to be looked at, then the looks
			 WHERE s.day BETWEEN from_day AND to_day AND s.partitioned AND NOT s.events_dropped
			   AND NOT EXISTS (SELECT FROM ecstats.day_partitions p WHERE p.day = s.day) OFFSET 0) s
	 WHERE ecstats.day_partition_exists(s.day) $$;
COMMENT ON FUNCTION ecstats.rollup_partition_note(date, date) IS 'Notes which partition each closed day of a range has, where none is noted yet.';

-- ecstats.rollup_partitioned: what became of the partitions of closed days. A day whose partition was dropped keeps
-- what was counted from it, also once late rows give it a new one. Under ecstats.rollup_lock.
CREATE FUNCTION ecstats.rollup_partitioned() RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	-- as rollup_partition_lost says, of all days at once
	UPDATE ecstats.day_state s SET events_dropped = true
	 WHERE s.partitioned AND NOT s.events_dropped
	   AND CASE WHEN s.day IN (SELECT p.day FROM ecstats.day_partitions p)
				THEN s.day IN (SELECT p.day FROM ecstats.day_partitions p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.partition))
				ELSE NOT ecstats.day_partition_taken(s.day) END;
	DELETE FROM ecstats.day_partitions p USING ecstats.day_state s WHERE s.day = p.day AND s.events_dropped;
	SELECT ecstats.rollup_partition_note(date '-infinity', date 'infinity') $$;
COMMENT ON FUNCTION ecstats.rollup_partitioned() IS 'Notes the closed days whose partition is gone, and which partition the others have.';

-- ecstats.rollup_late_events: days whose events were dropped, or detached, and that have events: they came since.
CREATE FUNCTION ecstats.rollup_late_events() RETURNS SETOF date
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH gone AS MATERIALIZED (
		SELECT s.day, s.events_dropped OR NOT ecstats.rollup_partition_own(s.day) AS not_counted, ecstats.day_partition_exists(s.day) AS has_partition
		  FROM ecstats.day_state s WHERE s.events_dropped OR s.partitioned
	)
	SELECT g.day FROM gone g
	 WHERE g.has_partition AND g.not_counted AND EXISTS (
		SELECT FROM ecstats.rollup_hop(to_regclass('ecstats.' || ecstats.day_partition_name(g.day)), 'event_time', g.day, g.day + 1))
	UNION
	SELECT h FROM (SELECT min(g.day) AS from_day, max(g.day) AS to_day FROM gone g) r
	 CROSS JOIN LATERAL ecstats.rollup_hop('ecstats.events_default', 'event_time', r.from_day, r.to_day + 1) h
	  JOIN gone g ON g.day = h AND NOT g.has_partition
	 WHERE r.from_day IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.rollup_late_events() IS 'Days whose events were dropped, or detached, and that have some again.';
-- sql/43_rollup_period.sql
-- Weeks and months. What adds up is added up over the stored days; what is distinct is counted anew over the ids that
-- each stored day left behind, never over raw rows: days whose raw rows are gone count as before. All under
-- ecstats.rollup_lock.

-- ecstats.rollup_period_start: the Monday of a day's week, the 1st of its month.
CREATE FUNCTION ecstats.rollup_period_start(kind text, day date) RETURNS date
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS
	$$ SELECT CASE WHEN kind IN ('week', 'month') THEN date_trunc(kind, day::timestamp)::date END $$;
COMMENT ON FUNCTION ecstats.rollup_period_start(text, date) IS 'First day of the week (kind week, a Monday) or month (kind month) that a business day is in.';

-- ecstats.rollup_period_end: the day after the last one of the period that begins on a day.
CREATE FUNCTION ecstats.rollup_period_end(kind text, start date) RETURNS date
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS
	$$ SELECT CASE kind WHEN 'week' THEN start + 7 WHEN 'month' THEN (start::timestamp + interval '1 month')::date END $$;
COMMENT ON FUNCTION ecstats.rollup_period_end(text, date) IS 'The day after a week or month that begins on a day.';

-- ecstats.rollup_period_sums: every period with a stored day: what adds up over these days, and whether each of them is
-- complete. One pass over daily_kpi, a few milliseconds for years of days.
CREATE FUNCTION ecstats.rollup_period_sums()
	RETURNS TABLE (kind text, day date, gmv numeric, quantity bigint, paid_amount numeric, refund_amount numeric,
		event_count bigint, pv bigint, new_user_count bigint, complete boolean)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN grouping(p.month) = 1 THEN 'week' ELSE 'month' END, coalesce(p.week, p.month), sum(p.gmv), sum(p.quantity)::bigint,
		   sum(p.paid_amount), sum(p.refund_amount), sum(p.event_count)::bigint, sum(p.pv)::bigint, sum(p.new_user_count)::bigint,
		   bool_and(p.complete)
	  FROM (SELECT date_trunc('week', k.day::timestamp)::date AS week, date_trunc('month', k.day::timestamp)::date AS month, k.*
			  FROM ecstats.daily_kpi k) p
	 GROUP BY GROUPING SETS ((p.week), (p.month)) $$;
COMMENT ON FUNCTION ecstats.rollup_period_sums() IS
	'Each week and month with a stored day: sums over its stored days, and whether all of them are complete.';

-- ecstats.rollup_period_stored: both tables as one.
CREATE FUNCTION ecstats.rollup_period_stored(OUT kind text, OUT kpi ecstats.daily_kpi) RETURNS SETOF record
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'week', ROW(w.*)::ecstats.daily_kpi FROM ecstats.weekly_kpi w
	UNION ALL SELECT 'month', ROW(m.*)::ecstats.daily_kpi FROM ecstats.monthly_kpi m $$;
COMMENT ON FUNCTION ecstats.rollup_period_stored() IS 'The rows of weekly_kpi and monthly_kpi, with their kind, as rows of daily_kpi.';

-- ecstats.rollup_period_kpi: the figures of a period from its stored days, as a row that is not closed; NULL where no
-- day of it is stored. known: a row of the period whose distinct counts still hold, NULL to count them.
CREATE FUNCTION ecstats.rollup_period_kpi(kind text, start date, known ecstats.daily_kpi DEFAULT NULL) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k ecstats.daily_kpi := known;
	stop date := ecstats.rollup_period_end(kind, start);
BEGIN
	SELECT sum(d.gmv), sum(d.quantity), sum(d.paid_amount), sum(d.refund_amount), sum(d.net_amount), sum(d.event_count), sum(d.pv),
		   sum(d.new_user_count), bool_and(d.complete)
	  INTO k.gmv, k.quantity, k.paid_amount, k.refund_amount, k.net_amount, k.event_count, k.pv, k.new_user_count, k.complete
	  FROM ecstats.daily_kpi d WHERE d.day >= start AND d.day < stop;
	IF k.gmv IS NULL THEN
		RETURN NULL;
	END IF;
	IF known.day IS NULL THEN
		SELECT p.uv, p.orders, p.return_orders, p.abnormal_orders, p.paid_orders, p.buyers, p.payers
		  INTO k.uv, k.order_count, k.refund_order_count, k.abnormal_order_count, k.paid_order_count, k.buyer_count, k.payer_count
		  FROM ecstats.rollup_period(start, stop) p;
	END IF;
	k.day := start;
	k.aov := k.gmv / nullif(k.order_count, 0);
	k.amount_per_buyer := k.gmv / nullif(k.buyer_count, 0);
	k.conversion_rate := k.buyer_count::numeric / nullif(k.uv, 0);
	k.closed_at := NULL;
	k.revision := 0;
	RETURN k;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_period_kpi(text, date, ecstats.daily_kpi) IS
	'Figures of the week or month that begins on a day, from its stored days: a row with revision 0, complete where every stored day is; NULL where none is stored. Distinct counts are taken from known where it is given.';

-- ecstats.rollup_period_put: the only writer of weekly_kpi and monthly_kpi. open: the period has not ended, or an ended
-- day of it has data and is not closed. A first close is revision 1; a change of figures adds one; a row that says what
-- it has to is not touched. recount: the ids of its days may have changed.
CREATE FUNCTION ecstats.rollup_period_put(kind text, start date, at timestamptz, open boolean, recount boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	relation regclass := CASE kind WHEN 'week' THEN 'ecstats.weekly_kpi' ELSE 'ecstats.monthly_kpi' END;
	state_columns text[] := '{day,complete,closed_at,revision}';
	stored ecstats.daily_kpi;
	kpi ecstats.daily_kpi;
BEGIN
	EXECUTE format('SELECT * FROM %s k WHERE k.day = $1', relation) INTO stored USING start;
	kpi := ecstats.rollup_period_kpi(kind, start, CASE WHEN NOT recount THEN stored END);
	IF stored.revision > 0 THEN
		kpi.closed_at := stored.closed_at;
		kpi.revision := stored.revision + (to_jsonb(stored) - state_columns <> to_jsonb(kpi) - state_columns)::int;
	ELSIF NOT open THEN
		kpi.closed_at := at;
		kpi.revision := 1;
	END IF;
	-- Its last day may have had no rows: somebody who began before its end may still bring some.
	kpi.complete := kpi.complete AND kpi.revision > 0
		AND (coalesce(stored.complete, false) OR ecstats.rollup_complete(ecstats.rollup_period_end(kind, start) - 1, at));
	IF kpi IS NOT DISTINCT FROM stored THEN
		RETURN;
	END IF;
	EXECUTE format('DELETE FROM %s k WHERE k.day = $1', relation) USING start;
	IF kpi.day IS NOT NULL THEN			-- else no day of it is stored any more
		EXECUTE format('INSERT INTO %s SELECT ($1).*', relation) USING kpi;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_period_put(text, date, timestamptz, boolean, boolean) IS
	'Brings the row of a week or month to its stored days: revision 0 while it is open, 1 at its close, one more when the figures of a closed one changed; touches nothing that is right. recount false: distinct counts stay as stored.';

-- ecstats.rollup_periods: brings weeks and months up to date. Distinct counts are made anew for those of the given days
-- (what a close computed: a day's ids can change where its figures do not) and those that are not stored; any other
-- that is not what its stored days say gets its sums, as where a first-seen user moved to another day, a day became
-- complete or the period's end has passed.
CREATE FUNCTION ecstats.rollup_periods(days date[], at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	p record;
	open_days date[];
BEGIN
	FOR p IN
		WITH wanted AS MATERIALIZED (
			SELECT coalesce(s.kind, t.kind) AS kind, coalesce(s.day, (t.kpi).day) AS day, t.kpi IS NULL AS missing, (t.kpi).revision,
				   (s.gmv, s.quantity, s.paid_amount, s.refund_amount, s.event_count, s.pv, s.new_user_count, s.complete AND (t.kpi).revision > 0)
				   IS DISTINCT FROM ((t.kpi).gmv, (t.kpi).quantity, (t.kpi).paid_amount, (t.kpi).refund_amount, (t.kpi).event_count, (t.kpi).pv,
									 (t.kpi).new_user_count, (t.kpi).complete) AS differs
			  FROM ecstats.rollup_period_sums() s
			  FULL JOIN ecstats.rollup_period_stored() t ON t.kind = s.kind AND (t.kpi).day = s.day
		), changed AS MATERIALIZED (
			SELECT DISTINCT k AS kind, ecstats.rollup_period_start(k, d) AS day FROM unnest(days) d, unnest('{week,month}'::text[]) k
		)
		SELECT w.kind, w.day, w.missing OR c.day IS NOT NULL AS recount, coalesce(w.revision, 0) AS revision, e.stop,
			   ecstats.day_start(e.stop) <= at AS ended
		  FROM wanted w LEFT JOIN changed c ON c.kind = w.kind AND c.day = w.day
		 CROSS JOIN LATERAL (SELECT ecstats.rollup_period_end(w.kind, w.day) AS stop) e
		 WHERE w.missing OR w.differs OR c.day IS NOT NULL OR w.revision = 0 AND ecstats.day_start(e.stop) <= at
		 ORDER BY w.day, w.kind
	LOOP
		IF p.revision = 0 AND p.ended AND open_days IS NULL THEN
			open_days := array(SELECT ecstats.rollup_open_days(ecstats.day_of(at)));
		END IF;
		PERFORM ecstats.rollup_period_put(p.kind, p.day, at,
			NOT p.ended OR EXISTS (SELECT FROM unnest(open_days) o WHERE o >= p.day AND o < p.stop), p.recount);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_periods(date[], timestamptz) IS
	'Brings weekly_kpi and monthly_kpi up to date: distinct counts of the periods of the given days, sums, state and missing rows of all.';
-- sql/43_activity.sql
-- Scores with the settings that hold, the limits of quintiles, cohorts.

-- ecstats.activity_weights: weights by event number, for the scan.
CREATE FUNCTION ecstats.activity_weights() RETURNS numeric[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(t.weight ORDER BY i), '{}')
	  FROM generate_series(1, (SELECT max(m.event_no) FROM ecstats.event_names m)) i
	  LEFT JOIN ecstats.event_names n ON n.event_no = i LEFT JOIN ecstats.event_types t ON t.event = n.event $$;
COMMENT ON FUNCTION ecstats.activity_weights() IS 'Weights of ecstats.event_types by the numbers of ecstats.event_names, from 1; NULL for an event that weighs nothing.';

-- ecstats.activity_scan: ecstats.score_scan with the settings that hold.
CREATE FUNCTION ecstats.activity_scan(as_of date, since date)
	RETURNS TABLE (user_id text, score float8, previous_score float8, level text, previous_level text, last_active_day date,
		active_days int, first_seen date, last_high_day date, in_range boolean)
	LANGUAGE sql STABLE ROWS 100000 AS $$
	SELECT s.* FROM (SELECT * FROM ecstats.config LIMIT 1) c CROSS JOIN LATERAL ecstats.score_scan(as_of, since, c.score_window_days, c.score_half_life_days::pg_catalog.float8,
		ecstats.activity_weights(),
		ARRAY[(SELECT l.top_share FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'high'),
			  (SELECT l.top_share FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'mid')],
		ARRAY[(SELECT l.min_score FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'high'),
			  (SELECT l.min_score FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'mid')]) s $$;
COMMENT ON FUNCTION ecstats.activity_scan(date, date) IS
	'Scores, levels and days of users as of a day with an event since another one, or in the last weeks before as_of, by the settings that hold. Errors: those of ecstats.score_scan.';

-- ecstats.activity_stale: users of a day changed, or of all days from it on: the next scoring has to look from there.
CREATE FUNCTION ecstats.activity_stale(from_day date) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.activity_state s SET stale_from = from_day WHERE s.stale_from IS NULL OR s.stale_from > from_day $$;
COMMENT ON FUNCTION ecstats.activity_stale(date) IS 'Notes that users of a day changed since they were scored.';

-- ecstats.activity_quintiles: values at which quintiles 2 to 5 of a column of ecstats.user_activity begin, among users who
-- have ordered: a user is in quintile 1 + floor(5 x share of those with a lower value), so that equal values stay
-- together. Without those that nobody is in: they are the last ones.
CREATE FUNCTION ecstats.activity_quintiles(OUT recency date[], OUT frequency bigint[], OUT monetary numeric[])
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
	WITH b AS MATERIALIZED (
		SELECT a.last_order_day, a.order_count, a.paid_amount FROM ecstats.user_activity a WHERE a.last_order_day IS NOT NULL
	), n AS (SELECT count(*) AS users FROM b),
	r AS (SELECT v, sum(c) OVER (ORDER BY v) - c AS lower FROM (SELECT b.last_order_day AS v, count(*) AS c FROM b GROUP BY 1) x),
	f AS (SELECT v, sum(c) OVER (ORDER BY v) - c AS lower FROM (SELECT b.order_count AS v, count(*) AS c FROM b GROUP BY 1) x),
	m AS (SELECT b.paid_amount AS v, rank() OVER (ORDER BY b.paid_amount) - 1 AS lower FROM b)
	SELECT (SELECT array_remove(ARRAY[min(v) FILTER (WHERE 5 * lower >= users), min(v) FILTER (WHERE 5 * lower >= 2 * users),
						 min(v) FILTER (WHERE 5 * lower >= 3 * users), min(v) FILTER (WHERE 5 * lower >= 4 * users)], NULL) FROM r, n),
		   (SELECT array_remove(ARRAY[min(v) FILTER (WHERE 5 * lower >= users), min(v) FILTER (WHERE 5 * lower >= 2 * users),
						 min(v) FILTER (WHERE 5 * lower >= 3 * users), min(v) FILTER (WHERE 5 * lower >= 4 * users)], NULL) FROM f, n),
		   (SELECT array_remove(ARRAY[min(v) FILTER (WHERE 5 * lower >= users), min(v) FILTER (WHERE 5 * lower >= 2 * users),
						 min(v) FILTER (WHERE 5 * lower >= 3 * users), min(v) FILTER (WHERE 5 * lower >= 4 * users)], NULL) FROM m, n) $$;
COMMENT ON FUNCTION ecstats.activity_quintiles() IS 'Values of last_order_day, order_count and paid_amount at which quintiles 2 to 5 of buyers begin; equal values are never parted.';

-- ecstats.activity_put_state: what the scores are of, from now on. Stored days after that one are still to be looked at,
-- as after failures, where an earlier day than the last one is scored first. Written only where it differs.
CREATE FUNCTION ecstats.activity_put_state(the_day date, at timestamptz, users bigint) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.activity_state s
	   SET as_of = the_day, stale_from = n.day, scored_at = at, users = activity_put_state.users,
		   recency = q.recency, frequency = q.frequency, monetary = q.monetary
	  FROM ecstats.activity_quintiles() q, (SELECT min(k.day) AS day FROM ecstats.daily_kpi k WHERE k.day > the_day) n
	 WHERE (s.as_of, s.stale_from, s.users, s.recency, s.frequency, s.monetary)
		   IS DISTINCT FROM (the_day, n.day, activity_put_state.users, q.recency, q.frequency, q.monetary) $$;
COMMENT ON FUNCTION ecstats.activity_put_state(date, timestamptz, bigint) IS 'Notes which day the scores are of, how many users there are, and where their quintiles begin.';

-- ecstats.activity_put_cohorts: brings the cohorts that come back on days of a range to the stored days; a cohort that is
-- behind a day that is not stored is not known.
CREATE FUNCTION ecstats.activity_put_cohorts(from_day date, to_day date) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH c AS MATERIALIZED (
		SELECT * FROM ecstats.activity_cohorts(from_day, to_day)
	), gone AS (
		DELETE FROM ecstats.cohorts d WHERE d.cohort_day + d.age_days BETWEEN from_day AND to_day
		   AND NOT EXISTS (SELECT FROM c WHERE (c.cohort_day, c.age_days) = (d.cohort_day, d.age_days))
	)
	INSERT INTO ecstats.cohorts AS d (cohort_day, age_days, cohort_size, retained)
	SELECT c.cohort_day, c.age_days, c.cohort_size, c.retained FROM c
	ON CONFLICT (cohort_day, age_days) DO UPDATE SET cohort_size = excluded.cohort_size, retained = excluded.retained
	 WHERE (d.cohort_size, d.retained) <> (excluded.cohort_size, excluded.retained) $$;
COMMENT ON FUNCTION ecstats.activity_put_cohorts(date, date) IS 'Brings ecstats.cohorts to what stored days of a range say, touching only rows that differ.';

-- sql/43_activity_tag.sql
-- Tags: whom the rules hold for, since when, and how many a day. doc/activity.md is the user's page.

-- ecstats.tag_values: the columns of ecstats.user_profile p, as a list of arguments.
CREATE FUNCTION ecstats.tag_values(columns text[]) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(format('p.%I', c.name), ', ' ORDER BY c.n) FROM unnest(columns) WITH ORDINALITY c(name, n) $$;
COMMENT ON FUNCTION ecstats.tag_values(text[]) IS 'Columns of ecstats.user_profile p, as a list of arguments.';

-- ecstats.tag_each: the elements of an array, of which the planner expects one: a user has few tags, if any.
CREATE FUNCTION ecstats.tag_each(tags text[]) RETURNS SETOF text
	LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE ROWS 1 AS 'array_unnest';
COMMENT ON FUNCTION ecstats.tag_each(text[]) IS 'The elements of an array of tags.';

-- ecstats.tag_asked: what some rules ask for together; a column at least, since each user is called with one.
CREATE FUNCTION ecstats.tag_asked(rules jsonpath[]) RETURNS text[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(c.name ORDER BY c.n), '{as_of}')
	  FROM unnest(ecstats.tag_columns()) WITH ORDINALITY c(name, n)
	 WHERE EXISTS (SELECT FROM unnest(rules) r(rule) WHERE c.name = ANY (ecstats.tag_columns(r.rule))) $$;
COMMENT ON FUNCTION ecstats.tag_asked(jsonpath[]) IS 'Columns that some rules ask for together; as_of where they ask for none.';

-- ecstats.tag_in_zone: from here on times with a zone are compared with days of the shop. The caller has
-- SET timezone, which puts back at its end what was before.
CREATE FUNCTION ecstats.tag_in_zone() RETURNS void
	LANGUAGE sql VOLATILE AS $$
	SELECT pg_catalog.set_config('timezone', (SELECT c.timezone FROM ecstats.config c), true) $$;
COMMENT ON FUNCTION ecstats.tag_in_zone() IS 'Sets the shop''s time zone until the end of the calling function, which must have SET timezone.';

-- ecstats.tag_put: brings user_tags to what the rules say as of a day; rows written. A tag that a run for this very day
-- gave and another takes back was never there; one that it took and another gives back has gone on. Rows are found by
-- where they stand: nobody else writes here (ecstats.tag_write has the lock).
CREATE FUNCTION ecstats.tag_put(as_of date, tags text[], rules jsonpath[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	columns text[] := ecstats.tag_asked(rules);
	written bigint;
BEGIN
	EXECUTE format($query$
		WITH change AS MATERIALIZED (
			SELECT f.user_id, f.tag, h.at, h.since
			  FROM (SELECT p.who AS user_id, ecstats.tag_each(ecstats.tag_matches(%1$L, %2$L, %3$L, %4$s)) AS tag
					  FROM (SELECT p.user_id AS who, %4$s FROM ecstats.user_profile p LIMIT %5$s) p) f
			  FULL JOIN (SELECT t.user_id, t.tag, t.since, t.until, t.ctid AS at FROM ecstats.user_tags t
						  WHERE t.until IS NULL OR t.until = $1) h ON h.user_id = f.user_id AND h.tag = f.tag
			 WHERE CASE WHEN f.user_id IS NULL THEN h.until IS NULL ELSE h.at IS NULL OR h.until IS NOT NULL END
		), begun AS (
			INSERT INTO ecstats.user_tags (user_id, tag, since)
			SELECT c.user_id, c.tag, $1 FROM change c WHERE c.at IS NULL ORDER BY c.user_id, c.tag RETURNING 1
		), dropped AS (
			DELETE FROM ecstats.user_tags t
			 WHERE t.ctid = ANY (ARRAY(SELECT c.at FROM change c WHERE c.user_id IS NULL AND c.since = $1)) RETURNING 1
		), moved AS (
			UPDATE ecstats.user_tags t SET until = CASE WHEN t.until IS NULL THEN $1 END
			 WHERE t.ctid = ANY (ARRAY(SELECT c.at FROM change c WHERE c.at IS NOT NULL AND (c.user_id IS NOT NULL OR c.since < $1))) RETURNING 1
		)
		SELECT (SELECT count(*) FROM begun) + (SELECT count(*) FROM dropped) + (SELECT count(*) FROM moved)
		$query$, columns, tags, rules, ecstats.tag_values(columns), (SELECT 2 * count(*) + 1000 FROM ecstats.user_activity)) INTO written USING as_of;
	RETURN written;
END
$$;
COMMENT ON FUNCTION ecstats.tag_put(date, text[], jsonpath[]) IS
	'Brings ecstats.user_tags to what rules say of every user as of a day, where it is not; returns how many rows it wrote.';

-- ecstats.tag_count: brings tag_daily of a day to user_tags, where it is not.
CREATE FUNCTION ecstats.tag_count(as_of date, tags text[]) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH counted AS MATERIALIZED (
		SELECT u.tag, sum(u.users) AS user_count, sum(u.entered) AS entered, sum(u.gone) AS left_count
		  FROM (SELECT t.tag, count(*) AS users, count(*) FILTER (WHERE t.since = as_of) AS entered, 0 AS gone
				  FROM ecstats.user_tags t WHERE t.until IS NULL GROUP BY t.tag
				UNION ALL SELECT t.tag, 0, 0, count(*) FROM ecstats.user_tags t WHERE t.until = as_of GROUP BY t.tag
				UNION ALL SELECT e.tag, 0, 0, 0 FROM unnest(tags) e(tag)) u
		 GROUP BY u.tag
	), dropped AS (
		DELETE FROM ecstats.tag_daily d WHERE d.day = as_of AND NOT EXISTS (SELECT FROM counted c WHERE c.tag = d.tag)
	)
	INSERT INTO ecstats.tag_daily AS d (day, tag, user_count, entered, left_count)
	SELECT as_of, c.tag, c.user_count, c.entered, c.left_count FROM counted c
	 WHERE NOT EXISTS (SELECT FROM ecstats.tag_daily o WHERE o.day = as_of AND o.tag = c.tag
						  AND (o.user_count, o.entered, o.left_count) = (c.user_count, c.entered, c.left_count))
	ON CONFLICT (day, tag) DO UPDATE
	   SET user_count = excluded.user_count, entered = excluded.entered, left_count = excluded.left_count $$;
COMMENT ON FUNCTION ecstats.tag_count(date, text[]) IS
	'Brings ecstats.tag_daily of a day to ecstats.user_tags, where it is not; tags: those that have a row even if nobody has them.';

-- ecstats.tag_write: tags every user by the enabled rules.
-- Arguments: as_of, the scored day, not before any that was written. Result: rows of user_tags written. The rules are
-- those committed when it begins; one that is written meanwhile holds from the next run. Errors: 22004 without a day;
-- 25000 unless READ COMMITTED. Writes user_tags and tag_daily; waits for another run.
CREATE FUNCTION ecstats.tag_write(as_of date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
	tags text[];
	rules jsonpath[];
	written bigint;
BEGIN
	IF as_of IS NULL THEN
		RAISE EXCEPTION 'tags are written as of a day' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the day that was scored.';
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats.tag_write writes tags');
	LOCK TABLE ecstats.user_tags IN SHARE ROW EXCLUSIVE MODE;
	PERFORM ecstats.tag_in_zone();
	SELECT coalesce(array_agg(r.tag ORDER BY r.tag), '{}'), coalesce(array_agg(r.rule ORDER BY r.tag), '{}') INTO tags, rules
	  FROM ecstats.tag_rules r WHERE r.enabled;
	written := ecstats.tag_put(as_of, tags, rules);
	PERFORM ecstats.tag_count(as_of, tags);
	RETURN written;
END
$$;
COMMENT ON FUNCTION ecstats.tag_write(date) IS
	'Gives and takes the tags of every user as of a scored day by the enabled rules, counts them in ecstats.tag_daily, and returns how many rows of ecstats.user_tags it wrote. Where nothing changes it writes nothing.';

-- ecstats_tag_audience(tag)
-- Purpose:   who has a tag now, for whoever wants to talk to them
-- Arguments: tag  one of ecstats.tag_rules, or one that is gone from there and was given once
-- Result:    user_ids, ascending
-- Errors:    42704 unknown tag; 22004 no tag
-- Tables:    reads ecstats.user_tags, tag_rules, tag_daily
CREATE FUNCTION @extschema@.ecstats_tag_audience(tag text) RETURNS SETOF text
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF tag IS NULL THEN
		RAISE EXCEPTION 'the audience is that of a tag' USING ERRCODE = 'null_value_not_allowed', HINT = 'Tags are listed in ecstats.tag_rules.';
	END IF;
	RETURN QUERY SELECT t.user_id::text FROM ecstats.user_tags t WHERE t.tag = ecstats_tag_audience.tag AND t.until IS NULL ORDER BY t.user_id COLLATE "C";
	IF NOT FOUND AND NOT EXISTS (SELECT FROM ecstats.tag_rules r WHERE r.tag = ecstats_tag_audience.tag)
		AND NOT EXISTS (SELECT FROM ecstats.tag_daily d WHERE d.tag = ecstats_tag_audience.tag) THEN
		RAISE EXCEPTION 'there is no such tag' USING ERRCODE = 'undefined_object', DETAIL = format('Value: %L.', left(tag, 60)),
			HINT = 'Tags are listed in ecstats.tag_rules.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_tag_audience(text) IS
	'Users who have a tag now, ascending. Errors: 42704 for a tag that has no rule and never was given; 22004.';

-- ecstats_explain_tag(user_id, tag)
-- Purpose:   why a user has a tag, or has not
-- Arguments: user_id  who; tag  one of ecstats.tag_rules, enabled or not
-- Result:    one row: tag, rule, holds (asked now), since (NULL: the user has not got the tag), seen (each column that
--            the rule asks for with its value)
-- Errors:    42704 a tag without a rule; P0002 a user without a profile; 22004 a null argument
-- Tables:    reads ecstats.tag_rules, user_profile, user_tags
CREATE FUNCTION @extschema@.ecstats_explain_tag(user_id text, INOUT tag text, OUT rule jsonpath, OUT holds boolean, OUT since date, OUT seen jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET jit = off AS $$
DECLARE
	columns text[];
BEGIN
	IF user_id IS NULL OR tag IS NULL THEN
		RAISE EXCEPTION 'a tag is explained for a user' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name both the user and the tag.';
	END IF;
	SELECT r.rule INTO rule FROM ecstats.tag_rules r WHERE r.tag = ecstats_explain_tag.tag;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such tag' USING ERRCODE = 'undefined_object', DETAIL = format('Value: %L.', left(tag, 60)),
			HINT = 'Tags are listed in ecstats.tag_rules.';
	END IF;
	PERFORM ecstats.tag_in_zone();
	columns := ecstats.tag_asked(ARRAY[rule]);
	EXECUTE format('SELECT ecstats.tag_matches(%1$L, %2$L, %3$L, %4$s) IS NOT NULL, ecstats.tag_seen(%1$L, %4$s) FROM ecstats.user_profile p WHERE p.user_id = $1',
				   columns, ARRAY[tag], ARRAY[rule], ecstats.tag_values(columns)) INTO holds, seen USING user_id;
	IF holds IS NULL THEN
		RAISE EXCEPTION 'there is no such user' USING ERRCODE = 'no_data_found', DETAIL = format('Value: %L.', left(user_id, 60)),
			HINT = 'Users who were scored are listed in ecstats.user_activity.';
	END IF;
	IF ecstats.tag_columns(rule) = '{}' THEN
		seen := '{}';
	END IF;
	SELECT t.since INTO since FROM ecstats.user_tags t
	 WHERE t.user_id = ecstats_explain_tag.user_id AND t.tag = ecstats_explain_tag.tag AND t.until IS NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_explain_tag(text, text) IS
	'Why a user has a tag, or has not: its rule, whether it holds now, since when the user has the tag (NULL: not), and the values that the rule saw. Errors: 42704 no such rule; P0002 no such user; 22004.';
-- sql/44_job.sql
-- Jobs: who may write which, what is accepted, and the functions to do it with.
--
-- Who writes is decided by a trigger that runs as the writer, not by a function that runs as the
-- extension's owner and is told: current_user in a plain trigger cannot be claimed by a caller, and
-- inside somebody's SECURITY DEFINER function it is that function's owner, as it should be.

CREATE FUNCTION ecstats.job_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	super boolean := (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);
	me oid := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user);
BEGIN
	IF TG_OP <> 'INSERT' AND NOT super AND (OLD.owner <> current_user OR coalesce(OLD.owner_id, me) <> me) THEN
		RAISE insufficient_privilege USING
			MESSAGE = format('job "%s" belongs to another role', OLD.name),
			DETAIL = format('Its owner is "%s".', OLD.owner),
			HINT = 'Take another name, or ask its owner or a superuser.';
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	IF TG_OP = 'UPDATE' THEN
		NEW.job_id := OLD.job_id;
	END IF;
	IF NOT super OR NEW.owner IS NULL THEN
		NEW.owner := current_user;
	END IF;
	-- The tick moves next_run_at alone, which says nothing about the owner.
	IF TG_OP = 'INSERT' OR (NEW.owner, NEW.schedule, NEW.command) IS DISTINCT FROM (OLD.owner, OLD.schedule, OLD.command) THEN
		NEW.owner_id := CASE WHEN NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user))
							 THEN (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = NEW.owner) END;
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_guard() IS
	'Trigger of ecstats.jobs that runs as the writer: forces the owner, refuses another role''s job (42501).';

CREATE FUNCTION ecstats.job_check(j ecstats.jobs) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wrong text;
	hint text;
BEGIN
	IF j.name IS NULL OR octet_length(j.name) NOT BETWEEN 1 AND 128 OR j.name ~ '[[:cntrl:]]' THEN
		wrong := format('the name is %L', left(j.name, 60));
		hint := 'A name has 1 to 128 bytes and no control character.';
	ELSIF j.max_attempts NOT BETWEEN 1 AND 20 THEN
		wrong := format('max_attempts is %s', j.max_attempts);
		hint := 'It counts the first try as well: 1 to 20.';
	ELSIF j.overlap NOT IN ('skip', 'queue') THEN
		wrong := format('overlap is "%s"', left(j.overlap, 60));
		hint := 'Use skip or queue.';
	ELSIF j.catch_up NOT IN ('last', 'all', 'none') THEN
		wrong := format('catch_up is "%s"', left(j.catch_up, 60));
		hint := 'Use last, all or none.';
	ELSIF j.timeout < '1 millisecond' OR j.timeout > '20 days' THEN
		wrong := format('timeout is %s', j.timeout);
		hint := 'Use 1 millisecond to 20 days.';
	END IF;
	IF wrong IS NOT NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('invalid setting of job "%s"', j.name), DETAIL = wrong || '.', HINT = hint;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = j.owner) THEN
		RAISE undefined_object USING MESSAGE = format('role "%s" of job "%s" does not exist', j.owner, j.name);
	END IF;
	PERFORM ecstats.cron_check(j.schedule);
	PERFORM ecstats.job_check_command(j.command);
END $$;
COMMENT ON FUNCTION ecstats.job_check(ecstats.jobs) IS
	'Raises when a job''s settings (22023), owner (42704), schedule (22023) or command (42601) is wrong.';

CREATE FUNCTION ecstats.job_next(j ecstats.jobs, after timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN ecstats.cron_next(j.schedule, after,
		coalesce(j.timezone, (SELECT c.timezone FROM ecstats.config c)));
END $$;
COMMENT ON FUNCTION ecstats.job_next(ecstats.jobs, timestamptz) IS
	'First due time of a job after an instant, in the job''s zone or config''s; NULL: never again.';

-- Runs as the extension's owner: it reads config, which a writer of jobs need not be able to.
CREATE FUNCTION ecstats.job_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	moved boolean := true;
BEGIN
	-- A restore: what was accepted once is not asked about again, and keeps its due time.
	IF TG_OP = 'INSERT' AND (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		RETURN NEW;
	END IF;
	PERFORM ecstats.job_check(NEW);
	IF TG_OP = 'UPDATE' THEN
		NEW.updated_at := clock_timestamp();
		moved := (NEW.schedule, NEW.timezone, NEW.enabled)
			IS DISTINCT FROM (OLD.schedule, OLD.timezone, OLD.enabled);
	END IF;
	IF NOT NEW.enabled THEN
		PERFORM ecstats.job_next(NEW, clock_timestamp());	-- raises for an unknown zone
		NEW.next_run_at := NULL;
	ELSIF moved THEN
		NEW.next_run_at := ecstats.job_next(NEW, clock_timestamp());
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_settle() IS
	'Trigger of ecstats.jobs: checks the row, and computes next_run_at anew where schedule, zone or enabled changed; a job that is replaced by the same keeps its due time.';

CREATE FUNCTION ecstats.job_dropped() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'DELETE' OR NOT NEW.enabled THEN
		PERFORM ecstats.job_run_move(r.run_id, 'cancelled', clock_timestamp())
			FROM ecstats.job_runs r
			WHERE r.job_id = OLD.job_id
				AND (r.status = 'queued' OR (r.status = 'claimed' AND TG_OP = 'DELETE'));
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.job_dropped() IS
	'Trigger of ecstats.jobs: what still waits of a job that was dropped or disabled is cancelled.';

-- In the order of their names. The guard runs as the writer.
CREATE TRIGGER job_0_restore_replace BEFORE INSERT ON ecstats.jobs
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('name');
CREATE TRIGGER job_1_guard BEFORE INSERT OR UPDATE OR DELETE ON ecstats.jobs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_guard();
CREATE TRIGGER job_2_settle BEFORE INSERT
	OR UPDATE OF name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled
	ON ecstats.jobs FOR EACH ROW EXECUTE FUNCTION ecstats.job_settle();
CREATE TRIGGER job_3_dropped AFTER DELETE OR UPDATE OF enabled ON ecstats.jobs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_dropped();

-- ecstats_schedule: makes a job, or replaces one's own of that name, and enables it.
-- Arguments: as the columns of ecstats.jobs; timezone NULL follows config.timezone.
-- Result: the job's id. A job whose schedule and zone stay the same keeps its next due time.
-- Errors: 22023 schedule, zone or setting; 42601 command; 42501 the name is another role's.
-- Writes: ecstats.jobs.
CREATE FUNCTION @extschema@.ecstats_schedule(name text, schedule text, command text,
	timezone text DEFAULT NULL, max_attempts int DEFAULT 3, overlap text DEFAULT 'skip',
	catch_up text DEFAULT 'last', timeout interval DEFAULT '1 hour') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO ecstats.jobs AS j (name, schedule, command, timezone, max_attempts, overlap, catch_up,
			timeout)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT ON CONSTRAINT jobs_name_key DO UPDATE SET schedule = excluded.schedule,
			command = excluded.command, timezone = excluded.timezone,
			max_attempts = excluded.max_attempts, overlap = excluded.overlap,
			catch_up = excluded.catch_up, timeout = excluded.timeout, enabled = true
			WHERE j.owner = current_user
		RETURNING j.job_id INTO id;
	IF id IS NULL THEN
		RAISE insufficient_privilege USING
			MESSAGE = format('job "%s" belongs to another role', $1),
			HINT = 'Take another name, or ask its owner.';
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_schedule(text, text, text, text, int, text, text, interval) IS
	'Makes the job name, or replaces one''s own: cron expression, command (run as the current user), zone (NULL: config''s), attempts in all, overlap skip|queue, catch_up last|all|none, time-out of an attempt. Returns its id. Errors: 22023, 42601, 42501.';

-- ecstats_unschedule: drops a job; one that came with the extension is disabled instead.
-- Arguments: the job's name. Result: whether something changed.
-- Errors: 42501 another role's job. What has run stays in ecstats.job_runs; what waits is cancelled.
-- Writes: ecstats.jobs, ecstats.job_runs.
CREATE FUNCTION @extschema@.ecstats_unschedule(name text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM ecstats.jobs j WHERE j.name = $1 AND NOT j.shipped;
	IF NOT FOUND THEN
		UPDATE ecstats.jobs j SET enabled = false WHERE j.name = $1 AND j.enabled;
	END IF;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_unschedule(text) IS
	'Drops a job (disables it if it came with the extension); false if there was none. A run that is going on ends by itself. Errors: 42501 another role''s job.';

CREATE FUNCTION ecstats.job_put(name text, owner text, schedule text, command text,
	timezone text DEFAULT NULL, max_attempts int DEFAULT 3, overlap text DEFAULT 'skip',
	catch_up text DEFAULT 'last', timeout interval DEFAULT '1 hour') RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO ecstats.jobs (job_id, name, owner, schedule, command, timezone, max_attempts, overlap,
			catch_up, timeout, shipped)
		OVERRIDING SYSTEM VALUE
		SELECT least(min(j.job_id), 0) - 1, $1, $2, $3, $4, $5, $6, $7, $8, $9, true
		FROM ecstats.jobs j
		ON CONFLICT ON CONSTRAINT jobs_name_key DO NOTHING
		RETURNING job_id
$$;
COMMENT ON FUNCTION ecstats.job_put(text, text, text, text, text, int, text, text, interval) IS
	'Adds a job that comes with the extension; NULL if the name is taken. Its id is negative: users'' jobs of a dump never meet one that a newer version brings.';

CREATE FUNCTION ecstats.job_reschedule(name text, schedule text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.jobs j SET schedule = $2 WHERE j.name = $1 AND j.shipped AND j.schedule <> $2;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION ecstats.job_reschedule(text, text) IS
	'Gives a job that came with the extension another schedule; whether it changed.';

CREATE FUNCTION ecstats.job_timezone_changed() RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.jobs j SET next_run_at = ecstats.job_next(j, clock_timestamp())
		WHERE j.timezone IS NULL AND j.enabled
$$;
COMMENT ON FUNCTION ecstats.job_timezone_changed() IS
	'Computes next_run_at anew for the jobs that follow config.timezone; called when that changes.';
-- sql/44_job_run.sql
-- One run, from the ledger's side: its states, its begin and end as its worker reports them, and runs
-- that somebody asks for.
--
--   queued \u2500\u2500\u25ba claimed \u2500\u2500\u25ba running \u2500\u2500\u25ba succeeded
--     \u2502  \u25b2\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2524           \u251c\u2500\u2500\u2500\u2500\u2500\u2500\u25ba retry      (and the next attempt is queued)
--     \u2502           \u251c\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2534\u2500\u2500\u2500\u2500\u2500\u2500\u25ba failed     (and the operators are told)
--     \u2514\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2534\u2500\u2500\u25ba cancelled                  skipped is written as such

CREATE FUNCTION ecstats.job_run_step() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF OLD.status || '>' || NEW.status NOT IN ('queued>claimed', 'queued>cancelled', 'queued>failed',
		'claimed>running', 'claimed>queued', 'claimed>retry', 'claimed>failed', 'claimed>cancelled',
		'running>succeeded', 'running>retry', 'running>failed')
	THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('run %s cannot go from %s to %s', OLD.run_id, OLD.status, NEW.status);
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_run_step() IS
	'Trigger of ecstats.job_runs: refuses a step that is not in the diagram (55000).';

CREATE FUNCTION ecstats.job_run_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
		AND NOT EXISTS (SELECT FROM ecstats.jobs j
			WHERE j.job_id = NEW.job_id AND j.owner = current_user)
	THEN
		RAISE insufficient_privilege USING
			MESSAGE = format('job %s belongs to another role', NEW.job_id),
			HINT = 'Ask its owner or a superuser to run it.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_run_guard() IS
	'Trigger of ecstats.job_runs that runs as the writer: only a job''s owner may ask for a run (42501).';

-- Runs as the extension's owner. replay NULL: number it, with the job locked so that two get two.
CREATE FUNCTION ecstats.job_run_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NEW.replay IS NULL THEN
		PERFORM FROM ecstats.jobs j WHERE j.job_id = NEW.job_id FOR UPDATE;
		NEW.replay := (SELECT coalesce(max(r.replay) + 1, 0) FROM ecstats.job_runs r
			WHERE r.job_id = NEW.job_id AND r.due_at = NEW.due_at);
	END IF;
	IF NEW.job_name IS NULL THEN
		SELECT j.name, j.owner INTO NEW.job_name, NEW.owner FROM ecstats.jobs j WHERE j.job_id = NEW.job_id;
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_run_settle() IS
	'Trigger of ecstats.job_runs: fills in the job''s name and owner, and numbers a replay.';

CREATE TRIGGER job_run_1_guard BEFORE INSERT ON ecstats.job_runs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_run_guard();
CREATE TRIGGER job_run_2_settle BEFORE INSERT ON ecstats.job_runs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_run_settle();
CREATE TRIGGER job_run_3_step BEFORE UPDATE OF status ON ecstats.job_runs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_run_step();

CREATE FUNCTION ecstats.job_run_move(run_id bigint, to_status text, at timestamptz)
	RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.job_runs r SET status = $2,
		claimed_at = CASE $2 WHEN 'claimed' THEN $3 WHEN 'queued' THEN NULL ELSE r.claimed_at END,
		started_at = CASE $2 WHEN 'running' THEN $3 ELSE r.started_at END,
		finished_at = CASE WHEN $2 IN ('queued', 'claimed', 'running') THEN NULL ELSE $3 END
		WHERE r.run_id = $1
$$;
COMMENT ON FUNCTION ecstats.job_run_move(bigint, text, timestamptz) IS
	'The only writer of a run''s status, and of the time that goes with it.';

-- now: the ticker's time from which the back-off counts.
CREATE FUNCTION ecstats.job_run_end(run_id bigint, now timestamptz, rows bigint, error text,
	sqlstate text, detail text, context text) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	attempts int;
	outcome text;
BEGIN
	SELECT * INTO STRICT r FROM ecstats.job_runs x WHERE x.run_id = $1 FOR UPDATE;
	SELECT j.max_attempts INTO attempts FROM ecstats.jobs j
		WHERE j.job_id = r.job_id AND (j.enabled OR r.replay > 0);
	outcome := CASE WHEN $4 IS NULL THEN 'succeeded' WHEN r.attempt < attempts THEN 'retry' ELSE 'failed' END;
	UPDATE ecstats.job_runs x SET rows = $3, error = $4, sqlstate = $5, detail = $6, context = $7
		WHERE x.run_id = $1;
	PERFORM ecstats.job_run_move($1, outcome, clock_timestamp());
	IF outcome = 'retry' THEN
		INSERT INTO ecstats.job_runs (job_id, due_at, replay, attempt, launch_after)
			VALUES (r.job_id, r.due_at, r.replay, r.attempt + 1,
				now + interval '1 minute' * 2 ^ (r.attempt - 1));
	ELSIF outcome = 'failed' THEN
		BEGIN
			PERFORM ecstats.job_failed(r.job_name, $1, r.attempt, $4);
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'nobody was told that run % of job "%" failed: %', $1, r.job_name, SQLERRM;
		END;
	END IF;
	RETURN outcome;
END $$;
COMMENT ON FUNCTION ecstats.job_run_end(bigint, timestamptz, bigint, text, text, text, text) IS
	'Ends a run: succeeded without an error; else retry, with the next attempt queued after 2^(attempt-1) minutes; else failed, and ecstats.job_failed tells the operators. Returns the status.';

-- Called by the worker's C code as the extension's owner; session_user is whom it logged in as.
CREATE FUNCTION ecstats.job_run_begin(run_id bigint, claimed_at timestamptz,
	worker_started timestamptz)
	RETURNS TABLE (name text, command text, due_at text, timeout_ms int)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	SELECT j.name, j.command,
			to_char(r.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
			greatest(extract(epoch FROM j.timeout) * 1000, 1)::int
		INTO name, command, due_at, timeout_ms
		FROM ecstats.job_runs r JOIN ecstats.jobs j USING (job_id)
		WHERE r.run_id = $1 AND r.status = 'claimed' AND r.claimed_at = $2 AND j.owner = session_user
		FOR UPDATE OF r;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	UPDATE ecstats.job_runs r SET owner = session_user, worker_pid = pg_backend_pid(),
		worker_started = $3 WHERE r.run_id = $1;
	PERFORM ecstats.job_run_move($1, 'running', clock_timestamp());
	RETURN NEXT;
END $$;
COMMENT ON FUNCTION ecstats.job_run_begin(bigint, timestamptz, timestamptz) IS
	'What the worker of a claimed run is to do; no row unless the run is under this claim and its job belongs to the session''s user. The run is then running.';

CREATE FUNCTION ecstats.job_run_finish(run_id bigint, rows bigint, error text, sqlstate text,
	detail text, context text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
BEGIN
	SELECT * INTO r FROM ecstats.job_runs x
		WHERE x.run_id = $1 AND x.status = 'running' AND x.worker_pid = pg_backend_pid()
		FOR UPDATE;
	IF FOUND THEN
		PERFORM ecstats.job_run_end($1, r.tick_at + date_trunc('second', clock_timestamp() - r.started_at),
			$2, $3, $4, $5, $6);
	END IF;
END $$;
COMMENT ON FUNCTION ecstats.job_run_finish(bigint, bigint, text, text, text, text) IS
	'The report of a run''s own worker; anybody else''s is ignored.';

-- ecstats_run_job: asks for a run of a job now; the next tick launches it, after a run that goes on.
-- Arguments: the job's name. Result: the run's id. It is due at the time of the call.
-- Errors: 42704 no such job; 42501 another role's. Writes: ecstats.job_runs.
CREATE FUNCTION @extschema@.ecstats_run_job(name text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO ecstats.job_runs AS r (job_id, due_at)
		SELECT j.job_id, clock_timestamp() FROM ecstats.jobs j WHERE j.name = $1
		RETURNING r.run_id INTO id;
	IF id IS NULL THEN
		RAISE undefined_object USING MESSAGE = format('job "%s" does not exist', $1),
			HINT = 'SELECT name FROM ecstats.jobs lists them.';
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_run_job(text) IS
	'Queues a run of a job, due now; the next tick launches it, never beside another run of the job. Returns the run''s id. Errors: 42704 no such job, 42501 another role''s.';

-- ecstats_replay_job: runs a due time again, under its own due_at, with all its attempts.
-- Arguments: a run that has ended for good. Result: the new run's id; the next tick launches it.
-- Errors: 42704 no such run or its job is gone; 55000 it has not ended; 42501 another role's.
-- Writes: ecstats.job_runs.
CREATE FUNCTION @extschema@.ecstats_replay_job(run_id bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	id bigint;
BEGIN
	SELECT * INTO r FROM ecstats.job_runs x WHERE x.run_id = $1;
	IF NOT FOUND THEN
		RAISE undefined_object USING MESSAGE = format('run %s does not exist', $1),
			HINT = 'ecstats.job_runs lists them.';
	ELSIF r.status NOT IN ('succeeded', 'failed', 'skipped', 'cancelled') THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('run %s has not ended', $1),
			DETAIL = format('Its status is %s.', r.status),
			HINT = 'Replay the last attempt when it has failed.';
	ELSIF NOT EXISTS (SELECT FROM ecstats.jobs j WHERE j.job_id = r.job_id) THEN
		RAISE undefined_object USING MESSAGE = format('job "%s" of run %s does not exist any more', r.job_name, $1);
	END IF;
	INSERT INTO ecstats.job_runs AS x (job_id, due_at) VALUES (r.job_id, r.due_at)
		RETURNING x.run_id INTO id;
	RETURN id;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_replay_job(bigint) IS
	'Queues a due time once more, with attempts of its own; the next tick launches it. Returns the new run''s id. Errors: 42704, 55000 not ended, 42501 another role''s.';

CREATE FUNCTION ecstats.job_prune(before timestamptz, max_rows int DEFAULT 10000) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH gone AS (DELETE FROM ecstats.job_runs r WHERE r.run_id IN (
			SELECT o.run_id FROM ecstats.job_runs o WHERE o.finished_at < $1
			ORDER BY o.finished_at LIMIT $2) RETURNING 1)
	SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION ecstats.job_prune(timestamptz, int) IS
	'Deletes at most max_rows runs that ended before an instant; returns how many.';
-- sql/44_job_claim.sql
-- The ticker's first half: find the runs whose worker is gone, record what is due.
--
-- These functions look before and after they lock, so they want READ COMMITTED, where each statement
-- sees what has been committed; ecstats_tick sets it whatever the session's default is.

-- Called with runs whose workers are known to have ended; others that never began get a minute.
CREATE FUNCTION ecstats.job_reap(now timestamptz, ended bigint[] DEFAULT '{}') RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	n int := 0;
BEGIN
	-- The list of backends is read after the rows: a worker commits its report before it goes.
	PERFORM pg_stat_clear_snapshot();
	FOR r IN SELECT * FROM ecstats.job_runs x
		WHERE x.status IN ('claimed', 'running') AND CASE x.status
			WHEN 'claimed' THEN x.run_id = ANY (ended)
				OR x.claimed_at < clock_timestamp() - interval '1 minute'
			ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
				WHERE a.pid = x.worker_pid AND a.backend_start = x.worker_started) END
		ORDER BY x.run_id FOR UPDATE SKIP LOCKED
	LOOP
		PERFORM ecstats.job_run_end(r.run_id, now, NULL,
			CASE r.status WHEN 'claimed' THEN 'the worker ended before it began'
				ELSE 'the worker ended without a report' END, '57P01',
			'It was terminated, crashed or could not log in; the server''s log says more.', NULL);
		n := n + 1;
	END LOOP;
	-- The worker cancels itself in time; this is for one that cannot.
	PERFORM pg_terminate_backend(a.pid)
		FROM ecstats.job_runs x JOIN ecstats.jobs j USING (job_id)
			JOIN pg_catalog.pg_stat_activity a ON a.pid = x.worker_pid AND a.backend_start = x.worker_started
		WHERE x.status = 'running' AND x.started_at + j.timeout < clock_timestamp() - interval '1 minute';
	RETURN n;
END $$;
COMMENT ON FUNCTION ecstats.job_reap(timestamptz, bigint[]) IS
	'Ends the runs whose worker is gone (retry or failed) and terminates workers a minute past their time-out; returns how many it ended.';

-- By halving, so that an outage of a year costs a job that is due each second no more than another.
CREATE FUNCTION ecstats.job_last_due(j ecstats.jobs, now timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	due timestamptz := j.next_run_at;		-- a due time, not after now
	later timestamptz := now;				-- none after this one and not after now is left
	middle timestamptz;
	next timestamptz;
BEGIN
	LOOP
		next := ecstats.job_next(j, due);
		EXIT WHEN next IS NULL OR next > now;
		due := next;
		CONTINUE WHEN due >= later;
		middle := due + (later - due) / 2;
		next := ecstats.job_next(j, middle);
		IF next IS NULL OR next > now THEN
			later := middle;
		ELSE
			due := next;
		END IF;
	END LOOP;
	RETURN due;
END $$;
COMMENT ON FUNCTION ecstats.job_last_due(ecstats.jobs, timestamptz) IS
	'The last due time of a job that is not after now, where next_run_at is one.';

CREATE FUNCTION ecstats.job_queue(j ecstats.jobs, due timestamptz, now timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	reason text;
	other bigint;
BEGIN
	IF j.catch_up = 'none' AND due < now - interval '2 minutes' THEN
		reason := 'missed, and catch_up is none';
	ELSIF j.overlap = 'skip' THEN
		SELECT min(r.run_id) INTO other FROM ecstats.job_runs r
			WHERE r.job_id = j.job_id AND (r.status IN ('claimed', 'running')
				-- One that only waits for a place; not a retry, nor one that somebody asked for.
				OR (r.status = 'queued' AND r.attempt = 1 AND j.catch_up <> 'all'
					AND r.launch_after > '-infinity' AND r.launch_after <= now));
		reason := format('run %s of the job had not ended', other);
		IF other IS NULL THEN
			reason := NULL;
		END IF;
	END IF;
	INSERT INTO ecstats.job_runs (job_id, due_at, replay, launch_after, tick_at, status, error, finished_at)
		VALUES (j.job_id, due, 0, due, now, CASE WHEN reason IS NULL THEN 'queued' ELSE 'skipped' END,
			reason, CASE WHEN reason IS NOT NULL THEN clock_timestamp() END)
		ON CONFLICT ON CONSTRAINT job_runs_job_id_due_at_replay_attempt_key DO NOTHING;
END $$;
COMMENT ON FUNCTION ecstats.job_queue(ecstats.jobs, timestamptz, timestamptz) IS
	'Records a due time of a job, as queued or, by overlap and catch_up, as skipped; once.';

CREATE FUNCTION ecstats.job_claim(now timestamptz, max_jobs int DEFAULT 100) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	j ecstats.jobs;
	due timestamptz;
	n int := 0;
	catches int;
BEGIN
	IF now > clock_timestamp() + interval '1 minute'
		AND NOT coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user), false)
	THEN
		RAISE invalid_parameter_value USING MESSAGE = 'only a superuser ticks ahead of the clock',
			DETAIL = format('now is %s.', now), HINT = 'Leave the argument now out.';
	END IF;
	FOR j IN SELECT * FROM ecstats.jobs x WHERE x.enabled AND x.next_run_at <= now
		ORDER BY x.next_run_at LIMIT max_jobs FOR UPDATE SKIP LOCKED
	LOOP
		n := n + 1;
		BEGIN
			due := CASE j.catch_up WHEN 'all' THEN j.next_run_at ELSE ecstats.job_last_due(j, now) END;
			catches := 0;
			-- More than that many missed times are left to the next round.
			WHILE due <= now AND catches < 1000 LOOP
				PERFORM ecstats.job_queue(j, due, now);
				due := ecstats.job_next(j, due);
				catches := catches + 1;
			END LOOP;
			UPDATE ecstats.jobs x SET next_run_at = due,
					owner_id = coalesce(x.owner_id, (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname = x.owner))
				WHERE x.job_id = j.job_id;
		EXCEPTION WHEN OTHERS THEN
			-- One job's trouble (a zone that an update of the zone data took away) is not the others'.
			UPDATE ecstats.jobs x SET next_run_at = NULL WHERE x.job_id = j.job_id;
			PERFORM ecstats.job_claim_failed(j, SQLERRM, SQLSTATE);
		END;
	END LOOP;
	RETURN n;
END $$;
COMMENT ON FUNCTION ecstats.job_claim(timestamptz, int) IS
	'Records the due times of at most max_jobs jobs and moves their next_run_at on; returns how many jobs it took. Jobs that another ticker has locked are left to that one.';

CREATE FUNCTION ecstats.job_claim_failed(j ecstats.jobs, error text, sqlstate text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO ecstats.job_runs AS r (job_id, due_at, error, sqlstate, detail)
		VALUES (j.job_id, j.next_run_at, $2, $3, 'The job has no next due time until it is scheduled again.')
		RETURNING r.run_id INTO id;
	PERFORM ecstats.job_run_move(id, 'failed', clock_timestamp());
	PERFORM ecstats.job_failed(j.name, id, 1, error);
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'due time % of job "%" could not be claimed: %', j.next_run_at, j.name, error;
END $$;
COMMENT ON FUNCTION ecstats.job_claim_failed(ecstats.jobs, text, text) IS
	'Records that a due time of a job could not be claimed.';
-- sql/44_job_tick.sql
-- The ticker's second half: give places to runs that wait, launch them, and the procedure itself.

CREATE FUNCTION ecstats.job_take(now timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE invalid_transaction_state USING MESSAGE = 'places of jobs are taken under READ COMMITTED only';
	END IF;
	PERFORM FROM ecstats.job_ticker FOR UPDATE;		-- one taker at a time, until it commits
	IF (SELECT count(*) FROM ecstats.job_runs r WHERE r.status IN ('claimed', 'running'))
		>= (SELECT c.max_running_jobs FROM ecstats.config c)
	THEN
		RETURN NULL;
	END IF;
	SELECT r.run_id INTO id FROM ecstats.job_runs r
		WHERE r.status = 'queued' AND r.launch_after <= now
			AND NOT EXISTS (SELECT FROM ecstats.job_runs a
				WHERE a.job_id = r.job_id AND a.status IN ('claimed', 'running'))
		ORDER BY r.launch_after, r.due_at, r.run_id LIMIT 1 FOR UPDATE OF r SKIP LOCKED;
	IF id IS NOT NULL THEN
		UPDATE ecstats.job_runs r SET tick_at = now WHERE r.run_id = id;
		PERFORM ecstats.job_run_move(id, 'claimed', clock_timestamp());
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION ecstats.job_take(timestamptz) IS
	'Takes a place for the next run that waits and returns the run, claimed; NULL: none waits, its job has one going on, or all places (config.max_running_jobs) are taken. Commit, then job_launch.';

CREATE FUNCTION ecstats.job_launch(run_id bigint, keep boolean, chain boolean) RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	j ecstats.jobs;
	role record;
	refused text;
BEGIN
	SELECT * INTO r FROM ecstats.job_runs x WHERE x.run_id = $1 AND x.status = 'claimed';
	SELECT * INTO j FROM ecstats.jobs x WHERE x.job_id = r.job_id;
	IF NOT FOUND THEN
		RETURN 'gone';
	END IF;
	SELECT a.oid, a.rolcanlogin INTO role FROM pg_catalog.pg_roles a WHERE a.rolname = j.owner;
	IF NOT FOUND THEN
		refused := format('role "%s" does not exist', j.owner);
	ELSIF j.owner_id <> role.oid THEN
		refused := format('role "%s" is not the one that wrote the job; it was made later under that name', j.owner);
	ELSIF NOT role.rolcanlogin AND current_setting('server_version_num')::int < 170000 THEN
		refused := format('role "%s" is not permitted to log in', j.owner);
	ELSIF NOT has_database_privilege(role.oid, current_database(), 'CONNECT') THEN
		refused := format('role "%s" may not connect to this database', j.owner);
	END IF;
	IF refused IS NOT NULL THEN
		PERFORM ecstats.job_run_end($1, r.tick_at, NULL, refused, '28000',
			'A run logs in as its job''s owner, who needs LOGIN and CONNECT.', NULL);
		RETURN 'refused';
	END IF;
	IF NOT ecstats.job_start_worker($1, r.claimed_at, role.oid, j.name, keep, chain) THEN
		PERFORM ecstats.job_run_move($1, 'queued', clock_timestamp());
		UPDATE ecstats.job_ticker SET no_worker_at = clock_timestamp();
		RETURN 'no worker';
	END IF;
	RETURN 'launched';
END $$;
COMMENT ON FUNCTION ecstats.job_launch(bigint, boolean, boolean) IS
	'Launches the worker of a claimed run whose claim is committed: launched, refused (the owner cannot log in; the attempt has failed), no worker (no slot is free; the run waits on), gone.';

CREATE FUNCTION ecstats.job_beat(now timestamptz) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.job_ticker SET last_tick_at = clock_timestamp(), ticked_for = $1
$$;
COMMENT ON FUNCTION ecstats.job_beat(timestamptz) IS 'Notes that a tick goes on, and the time it goes by.';

-- ecstats_tick: claims what is due and launches it; what a minute's ticker calls.
-- Arguments: now, the time to go by; wait: return when the runs have ended, launching those that wait
--   for a place on the way. Without wait, a run that ends hands its place on.
-- Result: none; see ecstats.job_runs. Any number of tickers may run at once.
-- Errors: 2D000 within a transaction block: it commits on the way.
-- Writes: ecstats.jobs, ecstats.job_runs, ecstats.job_ticker.
CREATE PROCEDURE @extschema@.ecstats_tick(now timestamptz DEFAULT now(), wait boolean DEFAULT true)
	LANGUAGE plpgsql AS $$
DECLARE
	run bigint;
	mine bigint[] := '{}';
	going int := 0;
	outcome pg_catalog.text;
BEGIN
	COMMIT;
	SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
	PERFORM ecstats.job_beat(now);
	PERFORM ecstats.job_reap(now);
	LOOP
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		EXIT WHEN ecstats.job_claim(now, 100) OPERATOR(pg_catalog.<) 100;
	END LOOP;
	LOOP
		LOOP
			COMMIT;
			SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
			run := ecstats.job_take(now);
			EXIT WHEN run IS NULL;
			COMMIT;
			SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
			outcome := ecstats.job_launch(run, wait, NOT wait);
			IF wait AND outcome OPERATOR(pg_catalog.=) 'launched' THEN
				mine := pg_catalog.array_append(mine, run);
				going := going OPERATOR(pg_catalog.+) 1;
			END IF;
			EXIT WHEN outcome OPERATOR(pg_catalog.=) 'no worker';
		END LOOP;
		EXIT WHEN NOT wait OR going OPERATOR(pg_catalog.=) 0;
		COMMIT;
		going := ecstats.job_wait(1000);
	END LOOP;
	IF wait THEN
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		PERFORM ecstats.job_reap(now, mine);
	END IF;
END $$;
COMMENT ON PROCEDURE @extschema@.ecstats_tick(timestamptz, boolean) IS
	'Claims the jobs that are due at now and launches each run as a background worker of the job''s owner, each due time once however many tick; wait: returns when they have ended. Commits on the way: CALL it outside a transaction block.';
-- sql/44_job_cron.sql
-- Who ticks: the registration with pg_cron, which may be absent, so its names appear in dynamic SQL
-- alone; and how the schedule is doing, for ecstats_status.

-- Its setting is shown to superusers alone; where it lives is no secret to who may install a ticker.
CREATE FUNCTION ecstats.job_cron_home() RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT current_setting('cron.database_name', true) $$;
COMMENT ON FUNCTION ecstats.job_cron_home() IS 'The database that pg_cron lives in; NULL where it is not loaded.';

-- ecstats_install_cron: has pg_cron call ecstats_tick every minute in this database.
-- Result: pg_cron's job id; NULL when pg_cron is not in this database, with a notice of the exact
--   statement to run where it is. A second call changes nothing.
-- Errors: pg_cron's own. Writes: cron.job, through cron.schedule.
CREATE FUNCTION @extschema@.ecstats_install_cron() RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- pg_cron wants exactly one CALL: with a second statement the procedure could not commit.
	command constant text := 'CALL @extschema@.ecstats_tick(wait => false)';
	home text;
	id bigint;
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_cron') THEN
		EXECUTE 'SELECT min(jobid) FROM cron.job WHERE active AND database = current_database()
			AND command = $1 AND schedule = ''* * * * *''' INTO id USING command;
		IF id IS NULL THEN
			EXECUTE 'SELECT cron.schedule(''ecstats_tick'', ''* * * * *'', $1)' INTO id USING command;
		END IF;
		RETURN id;
	END IF;
	home := ecstats.job_cron_home();
	IF home IS NULL THEN
		RAISE NOTICE 'pg_cron is not loaded in this server: nothing was registered' USING
			HINT = 'Add pg_cron to shared_preload_libraries and restart, then CREATE EXTENSION pg_cron here; or let ecstats-pusher --tick do it.';
	ELSIF home = current_database() THEN
		RAISE NOTICE 'pg_cron is not installed in this database yet: nothing was registered' USING
			HINT = 'CREATE EXTENSION pg_cron; SELECT @extschema@.ecstats_install_cron();';
	ELSE
		RAISE NOTICE 'pg_cron lives in database "%": run this line there: %', home,
			format('SELECT cron.schedule_in_database(%L, %L, %L, %L);',
				'ecstats_tick_' || current_database(), '* * * * *', command, current_database());
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_install_cron() IS
	'Registers the ticker with pg_cron, once, and returns pg_cron''s job id; NULL and a notice of what to run, and where, when pg_cron is not in this database.';

-- ecstats_uninstall_cron: takes the ticker of this database out of pg_cron.
-- Result: whether there was one. Writes: cron.job, through cron.unschedule.
CREATE FUNCTION @extschema@.ecstats_uninstall_cron() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	there boolean;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_cron') THEN
		RETURN false;
	END IF;
	EXECUTE 'SELECT coalesce(bool_or(cron.unschedule(jobid)), false) FROM cron.job
		WHERE database = current_database() AND command = $1'
		INTO there USING 'CALL @extschema@.ecstats_tick(wait => false)';
	RETURN there;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_uninstall_cron() IS
	'Takes the ticker of this database out of pg_cron; false if it was not there.';

CREATE FUNCTION ecstats.job_status(now timestamptz DEFAULT clock_timestamp())
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	t ecstats.job_ticker;
	names text;
BEGIN
	SELECT * INTO t FROM ecstats.job_ticker;
	component := 'ticker';
	status := CASE WHEN t.last_tick_at IS NULL THEN 'warn'
		WHEN t.last_tick_at < now - interval '5 minutes' THEN 'error' ELSE 'ok' END;
	detail := coalesce('last tick at ' || t.last_tick_at::text, 'nobody has ticked yet');
	hint := CASE WHEN status <> 'ok' THEN 'SELECT ecstats_install_cron(); or run ecstats-pusher --tick.' END;
	RETURN NEXT;

	component := 'jobs';
	SELECT string_agg(format('%s (%s)', j.name, f.error), '; ' ORDER BY j.name) INTO names
		FROM ecstats.jobs j CROSS JOIN LATERAL (
			SELECT r.status, left(r.error, 80) AS error FROM ecstats.job_runs r
			WHERE r.job_id = j.job_id AND r.status IN ('succeeded', 'failed')
			ORDER BY r.due_at DESC, r.run_id DESC LIMIT 1) f
		WHERE f.status = 'failed' AND j.enabled;
	status := CASE WHEN names IS NULL THEN 'ok' ELSE 'error' END;
	detail := coalesce('last run failed: ' || names, (SELECT format('%s enabled, %s runs going on, %s waiting',
		(SELECT count(*) FROM ecstats.jobs j WHERE j.enabled),
		count(*) FILTER (WHERE r.status <> 'queued'), count(*) FILTER (WHERE r.status = 'queued'))
		FROM ecstats.job_runs r WHERE r.status IN ('queued', 'claimed', 'running')));
	hint := CASE WHEN names IS NOT NULL THEN 'See ecstats.job_runs; SELECT ecstats_replay_job(run_id) runs it again.' END;
	RETURN NEXT;

	component := 'job runs';
	SELECT string_agg(format('run %s of %s', r.run_id, r.job_name), ', ' ORDER BY r.run_id) INTO names
		FROM ecstats.job_runs r LEFT JOIN ecstats.jobs j USING (job_id)
		WHERE (r.status = 'running' AND (r.started_at + coalesce(j.timeout, '0') < now - interval '2 minutes'
				OR NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
					WHERE a.pid = r.worker_pid AND a.backend_start = r.worker_started)))
			OR (r.status = 'claimed' AND r.claimed_at < now - interval '2 minutes');
	status := CASE WHEN names IS NULL THEN 'ok' ELSE 'warn' END;
	detail := coalesce('without a worker or past the time-out: ' || names, 'none is stuck');
	hint := CASE WHEN names IS NOT NULL THEN 'The next tick finds them: CALL ecstats_tick(wait => false);' END;
	RETURN NEXT;

	component := 'job workers';
	status := CASE WHEN t.no_worker_at > now - interval '5 minutes' THEN 'warn' ELSE 'ok' END;
	detail := CASE WHEN status = 'ok' THEN 'a place was free whenever one was needed'
		ELSE format('no free background worker at %s: runs wait', t.no_worker_at) END;
	hint := CASE WHEN status <> 'ok' THEN 'Raise max_worker_processes and restart, or lower config.max_running_jobs.' END;
	RETURN NEXT;
END $$;
COMMENT ON FUNCTION ecstats.job_status(timestamptz) IS
	'The schedule''s rows of ecstats_status: ticker, jobs, job runs, job workers; now is by the clock.';
-- sql/45_report_data.sql
-- The facts of a day as JSON, from the rollups alone: what a template and a condition see. Numbers
-- stay numerics, unrounded; the few *_text and label members exist because no filter can make them.
-- Functions called for each element take no SET, so that they are inlined.

-- report_timestamp gives an instant as ISO 8601 in `zone`, whatever the session's time zone is.
CREATE FUNCTION ecstats.report_timestamp(at timestamptz, zone text) RETURNS text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT to_char(t.local, 'YYYY-MM-DD"T"HH24:MI:SS') || CASE WHEN t.local < t.utc THEN '-' ELSE '+' END
		|| to_char(greatest(t.local - t.utc, t.utc - t.local), 'HH24:MI')
	  FROM (SELECT at AT TIME ZONE zone AS local, at AT TIME ZONE 'UTC' AS utc) t
	$$;
COMMENT ON FUNCTION ecstats.report_timestamp(timestamptz, text) IS
	'ISO 8601 text of an instant in the given IANA zone, with its offset';

-- report_points_text writes a difference in percentage points with its sign; what rounds to 0 has none.
CREATE FUNCTION ecstats.report_points_text(points numeric, digits int) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT CASE WHEN pg_catalog.round(points, digits) > 0 THEN '+' ELSE '' END || pg_catalog.round(points, digits)::text
	$$;
COMMENT ON FUNCTION ecstats.report_points_text(numeric, int) IS
	'percentage points as signed text, rounded half away from zero to the given digits';

-- report_label makes a name harmless inside Markdown: active characters become their full-width
-- twins (blanks in an encoding without these), control characters blanks ([[:cntrl:]] would take letters of
-- WIN1252 for some). The name itself is in the facts, too.
CREATE FUNCTION ecstats.report_label(name text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT pg_catalog.translate(pg_catalog.regexp_replace(name, '[\u0001-\u001f\u007f]+', ' ', 'g'), E'*_`<>|[]#~\\@',
		COALESCE(ecstats.native_text('\uff0a\uff3f\uff40\uff1c\uff1e\uff5c\uff3b\uff3d\uff03\uff5e\uff3c\uff20'), '            '))
	$$;
COMMENT ON FUNCTION ecstats.report_label(text) IS
	'a name with Markdown''s active characters replaced by their full-width twins, or by blanks where the encoding has none';

-- report_kpi gives one day's row as facts: every column of daily_kpi, and refund_rate. NULL: no row.
CREATE FUNCTION ecstats.report_kpi(at_day date, zone text) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT to_jsonb(k) || jsonb_build_object(
			'closed_at', ecstats.report_timestamp(k.closed_at, zone),
			'refund_rate', k.refund_amount / nullif(k.paid_amount, 0))
	  FROM ecstats.daily_kpi k
	 WHERE k.day = at_day
	$$;
COMMENT ON FUNCTION ecstats.report_kpi(date, text) IS
	'daily_kpi of one day as a JSON object, with refund_rate (refund_amount / paid_amount); NULL where there is no row';

-- report_day gives what names a report and its day, the same for every dataset.
CREATE FUNCTION ecstats.report_day(definition ecstats.reports, day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object(
			'report', definition.name,
			'report_id', format('%s:%s', definition.name, to_char(day, 'YYYY-MM-DD')),		-- whatever DateStyle is
			'dataset', definition.dataset,
			'weekday', to_char(day, 'FMDay'),
			'weekday_cn', coalesce(ecstats.native_text('\u5468') || substr(ecstats.native_text('\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u65e5'), extract(isodow FROM day)::int, 1), to_char(day, 'FMDay')),
			'day_cn', coalesce(to_char(day, 'FMMM') || ecstats.native_text('\u6708') || to_char(day, 'FMDD') || ecstats.native_text('\u65e5'), to_char(day, 'YYYY-MM-DD')),
			'currency', (SELECT c.currency FROM ecstats.config c))
	$$;
COMMENT ON FUNCTION ecstats.report_day(ecstats.reports, date) IS
	'report, report_id, dataset, weekday, weekday_cn, day_cn, currency of a report''s facts';

-- report_change gives (x - base) / |base| of each figure; null where there is no base or it is 0.
CREATE FUNCTION ecstats.report_change(facts jsonb, base jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_object_agg(x.key,
			CASE WHEN jsonb_typeof(x.value) = 'number' AND jsonb_typeof(base -> x.key) = 'number'
				 THEN (x.value::numeric - (base -> x.key)::numeric) / nullif(abs((base -> x.key)::numeric), 0)
			END)
	  FROM jsonb_each(facts) x
	 WHERE x.key NOT IN ('day', 'complete', 'closed_at', 'revision')
	$$;
COMMENT ON FUNCTION ecstats.report_change(jsonb, jsonb) IS
	'relative change per figure against the same figures of another day (NULL: no such day)';

-- report_points gives what a ratio's change is called in: percentage points, as number and as text.
CREATE FUNCTION ecstats.report_points(facts jsonb, base jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_object_agg(r.name, p.points)
		|| jsonb_object_agg(r.name || '_text', ecstats.report_points_text(p.points, 2))
	  FROM (VALUES ('conversion_rate'), ('refund_rate')) r(name),
		   LATERAL (SELECT 100 * ((facts ->> r.name)::numeric - (base ->> r.name)::numeric)) p(points)
	$$;
COMMENT ON FUNCTION ecstats.report_points(jsonb, jsonb) IS
	'change of conversion_rate and refund_rate in percentage points (x - base) * 100; the _text members are signed, 2 decimals';

-- report_item makes one element of a split. `first`, `top3`, `top5`, `top10` let a template cut a
-- list: it cannot count. share is of the day's gmv, revenue_change against the same name's base.
CREATE FUNCTION ecstats.report_item(kind text, name text, rank bigint, sold numeric, revenue numeric,
											   gmv numeric, base numeric) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT pg_catalog.jsonb_build_object(
			kind, name, 'label', ecstats.report_label(name), 'rank', rank,
			'total_sold', sold, 'total_revenue', revenue, 'share', revenue / nullif(gmv, 0),
			'revenue_change', (revenue - base) / nullif(pg_catalog.abs(base), 0),
			'first', rank = 1, 'top3', rank <= 3, 'top5', rank <= 5, 'top10', rank <= 10)
	$$;
COMMENT ON FUNCTION ecstats.report_item(text, text, bigint, numeric, numeric, numeric, numeric) IS
	'one element of top_products, by_region or by_channel';

-- report_sales gives a day's rows of daily_sales: the stored ones or, for a day that is not closed, those that
-- the pipeline has computed (live, see report_data).
CREATE FUNCTION ecstats.report_sales(at_day date, live jsonb) RETURNS SETOF ecstats.daily_sales
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT * FROM ecstats.daily_sales s WHERE s.day = at_day
	UNION ALL
	SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::ecstats.daily_sales, live -> 'sales')
	$$;
COMMENT ON FUNCTION ecstats.report_sales(date, jsonb) IS 'daily_sales of a day, or the live rows of one that is not closed';

-- report_products lists a day's first 10 products by revenue, then pieces, then id (bytewise), so that
-- a repeat gives the same ranks. Products are many and an aggregate state of numeric is large: sorting
-- beats hashing here (measured: 16 ms against 40 ms with 10,000 products).
CREATE FUNCTION ecstats.report_products(at_day date, base_day date, gmv numeric, live jsonb) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET enable_hashagg = off
	AS $$
	SELECT coalesce(jsonb_agg(ecstats.report_item('product_id', t.product_id, t.rank, t.sold, t.revenue, gmv,
							(SELECT sum(b.total_revenue) FROM ecstats.daily_sales b
							  WHERE b.day = base_day AND b.product_id = t.product_id)) ORDER BY t.rank), '[]')
	  FROM (SELECT s.product_id, sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue,
				   row_number() OVER (ORDER BY sum(s.total_revenue) DESC, sum(s.total_sold) DESC,
											   s.product_id COLLATE "C") AS rank
			  FROM ecstats.report_sales(at_day, live) s
			 GROUP BY s.product_id
			HAVING sum(s.total_sold) > 0
			 ORDER BY rank LIMIT 10) t
	$$;
COMMENT ON FUNCTION ecstats.report_products(date, date, numeric, jsonb) IS
	'the first 10 products of a day by revenue; gmv is the day''s, base_day the one to compare with';

-- report_split divides a day's gmv by region and by channel: 50 each, and one element `others` (named
-- null, standing for `members` names) for the rest, so that a list adds up to gmv. Order as products.
CREATE FUNCTION ecstats.report_split(at_day date, base_day date, gmv numeric, live jsonb) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH cells AS MATERIALIZED (
		SELECT s.day, s.region, s.channel, sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue,
			   sum(s.refund_amount) AS refunds
		  FROM (SELECT * FROM ecstats.report_sales(at_day, live)
				UNION ALL SELECT * FROM ecstats.report_sales(base_day, NULL)) s
		 GROUP BY s.day, s.region, s.channel
	), sums AS (
		SELECT c.day, CASE WHEN grouping(c.region) = 0 THEN 'region' ELSE 'channel' END AS kind,
			   coalesce(c.region, c.channel) AS name,
			   sum(c.sold) AS sold, sum(c.revenue) AS revenue, sum(c.refunds) AS refunds
		  FROM cells c
		 GROUP BY GROUPING SETS ((c.day, c.region), (c.day, c.channel))
	), ranked AS (
		SELECT d.*, b.revenue AS base,
			   row_number() OVER (PARTITION BY d.kind
				ORDER BY d.revenue DESC, d.sold DESC, d.name COLLATE "C") AS rank
		  FROM sums d
		  LEFT JOIN sums b ON b.day = base_day AND b.kind = d.kind AND b.name = d.name
		 WHERE d.day = at_day
	), items AS (
		SELECT r.kind, least(r.rank, 51) AS rank,
			   ecstats.report_item(r.kind, min(r.name) FILTER (WHERE r.rank <= 50), least(r.rank, 51),
								   sum(r.sold), sum(r.revenue), gmv, sum(r.base) FILTER (WHERE r.rank <= 50))
			   || jsonb_build_object('refund_amount', sum(r.refunds), 'others', least(r.rank, 51) = 51,
									 'members', count(*)) AS item
		  FROM ranked r
		 GROUP BY r.kind, least(r.rank, 51)
	)
	SELECT jsonb_build_object(
			'by_region', coalesce(jsonb_agg(i.item ORDER BY i.rank) FILTER (WHERE i.kind = 'region'), '[]'),
			'by_channel', coalesce(jsonb_agg(i.item ORDER BY i.rank) FILTER (WHERE i.kind = 'channel'), '[]'),
			'reconciles', (SELECT coalesce(sum(c.revenue), 0) FROM cells c WHERE c.day = at_day)
				IS NOT DISTINCT FROM gmv)
	  FROM items i
	$$;
COMMENT ON FUNCTION ecstats.report_split(date, date, numeric, jsonb) IS
	'by_region and by_channel of a day with share of gmv and change against base_day; reconciles: they add up to gmv';

-- report_funnel lists a day's funnel; rate is against the step before, null at the first.
CREATE FUNCTION ecstats.report_funnel(at_day date, live jsonb) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('step', f.step, 'event', f.event,
				'user_count', f.user_count, 'rate', f.rate) ORDER BY f.step), '[]')
	  FROM (SELECT d.step, d.event, d.user_count,
				   d.user_count::numeric / nullif(lag(d.user_count) OVER (ORDER BY d.step), 0) AS rate
			  FROM (SELECT * FROM ecstats.daily_funnel s WHERE s.day = at_day
					UNION ALL
					SELECT * FROM jsonb_populate_recordset(NULL::ecstats.daily_funnel, live -> 'funnel')) d) f
	$$;
COMMENT ON FUNCTION ecstats.report_funnel(date, jsonb) IS
	'daily_funnel of a day in order of its steps, with the rate from the step before';

-- report_targets compares what is reached so far with the targets of the day's month (targets), of
-- the day itself (targets_day) and of its year (targets_year): from the period's first day to at_day.
CREATE FUNCTION ecstats.report_targets(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH span AS (
		SELECT u.member, to_char(at_day, u.form) AS period, date_trunc(u.unit, at_day::timestamp)::date AS first_day,
			   (date_trunc(u.unit, at_day::timestamp) + u.step)::date AS next_first
		  FROM (VALUES ('targets', 'month', 'YYYY-MM', interval '1 month'),
					   ('targets_day', 'day', 'YYYY-MM-DD', interval '1 day'),
					   ('targets_year', 'year', 'YYYY', interval '1 year')) u(member, unit, form, step)
	), reached AS (
		SELECT s.member, t.metric, t.value, a.achieved, s.next_first - at_day - 1 AS days_left,
			   (at_day - s.first_day + 1)::numeric / (s.next_first - s.first_day) AS time_progress
		  FROM span s
		  JOIN ecstats.targets t ON t.period = s.period,
			   LATERAL (SELECT sum((to_jsonb(k) ->> t.metric)::numeric) AS achieved
						  FROM ecstats.daily_kpi k
						 WHERE k.day BETWEEN s.first_day AND at_day) a
	), members AS (
		SELECT r.member, jsonb_object_agg(r.metric, jsonb_build_object(
				'value', r.value, 'achieved', r.achieved, 'rate', r.achieved / r.value,
				'time_progress', r.time_progress, 'lead_points', p.points,
				'lead_points_text', ecstats.report_points_text(p.points, 1), 'ahead', p.points >= 0,
				'days_left', r.days_left,
				'daily_needed', greatest(r.value - r.achieved, 0) / nullif(r.days_left, 0))) AS metrics
		  FROM reached r, LATERAL (SELECT 100 * (r.achieved / r.value - r.time_progress)) p(points)
		 GROUP BY r.member
	)
	SELECT '{"targets": {}, "targets_day": {}, "targets_year": {}}'
		|| coalesce(jsonb_object_agg(m.member, m.metrics), '{}')
	  FROM members m
	$$;
COMMENT ON FUNCTION ecstats.report_targets(date) IS
	'targets, targets_day, targets_year: {metric: {value, achieved, rate, time_progress, lead_points, lead_points_text, ahead, days_left, daily_needed}} up to and including a day';

-- report_restated gives the latest correction of a closed day, as a list and by column; NULL: none.
CREATE FUNCTION ecstats.report_restated(at_day date, zone text) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object(
			'revision', r.revision, 'at', ecstats.report_timestamp(max(r.at), zone),
			'changes', jsonb_agg(jsonb_build_object('column', r.column_name, 'old', r.old, 'new', r.new)
								 ORDER BY r.column_name),
			'columns', jsonb_object_agg(r.column_name, jsonb_build_object('old', r.old, 'new', r.new)))
	  FROM ecstats.restatements r
	 WHERE r.day = at_day
	   AND r.revision = (SELECT max(l.revision) FROM ecstats.restatements l WHERE l.day = at_day)
	 GROUP BY r.revision
	$$;
COMMENT ON FUNCTION ecstats.report_restated(date, text) IS
	'latest restatement of a day: revision, at, changes [{column, old, new}], columns {column: {old, new}}; NULL where there is none';
-- sql/45_report_activity.sql
-- The facts of a report about activity as JSON: levels and who moved between them, tags, an audience, segments,
-- retention. All of the latest day that was scored: where a user was before, and who has a tag, is known of no other.
-- Passes over all users do without JIT, which takes several times as long as they do.

-- report_scored_day refuses a day that the scores are not of.
CREATE FUNCTION ecstats.report_scored_day(day date) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	scored date := (SELECT s.as_of FROM ecstats.activity_state s);
BEGIN
	IF day IS DISTINCT FROM scored THEN
		RAISE EXCEPTION 'there are no facts of activity of this day'
			USING ERRCODE = 'no_data_found',
				  DETAIL = format('Day %s; %s.', to_char(day, 'YYYY-MM-DD'),
								  coalesce('users were scored as of ' || to_char(scored, 'YYYY-MM-DD'), 'no day was scored yet')),
				  HINT = CASE WHEN scored IS NULL THEN 'SELECT ecstats_daily() closes a day and scores it.'
							  ELSE 'Movements and audiences are known of the latest scored day alone: give that one.' END;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.report_scored_day(date) IS
	'P0002, with the day that there is, unless the activity tables are of this day';

-- report_person_label makes a user's id harmless inside Markdown, and takes the characters out that turn the
-- direction of what follows them.
CREATE FUNCTION ecstats.report_person_label(user_id text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT ecstats.report_label(pg_catalog.translate(user_id,
		COALESCE(ecstats.native_text('\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'), ''), ''))
	$$;
COMMENT ON FUNCTION ecstats.report_person_label(text) IS
	'a user''s id for people to read: Markdown''s active characters and marks of writing direction made harmless';

-- report_level_cn names a level in Chinese; in an encoding that has none it stays as it is.
CREATE FUNCTION ecstats.report_level_cn(level text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT COALESCE(CASE level WHEN 'high' THEN ecstats.native_text('\u9ad8\u6d3b\u8dc3') WHEN 'mid' THEN ecstats.native_text('\u4e2d\u6d3b\u8dc3')
		WHEN 'low' THEN ecstats.native_text('\u4f4e\u6d3b\u8dc3') END, level)
	$$;
COMMENT ON FUNCTION ecstats.report_level_cn(text) IS 'a level in Chinese where the encoding can hold it';

-- report_levels counts users by level, now and one day before, in one pass.
CREATE FUNCTION ecstats.report_levels() RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
	WITH cells AS MATERIALIZED (
		SELECT a.level, a.previous_level, a.score > 0 AS active, count(*) AS n
		  FROM ecstats.user_activity a
		 GROUP BY a.level, a.previous_level, a.score > 0
	), names(level, rank) AS (
		VALUES ('high', 1), ('mid', 2), ('low', 3)
	), counts AS (
		SELECT l.level, l.rank, coalesce(sum(c.n) FILTER (WHERE c.level = l.level), 0) AS now,
			   coalesce(sum(c.n) FILTER (WHERE c.previous_level = l.level), 0) AS before, coalesce(sum(c.n), 0) AS users
		  FROM names l LEFT JOIN cells c ON true
		 GROUP BY l.level, l.rank
	), levels AS (
		SELECT c.rank, c.level, jsonb_build_object(
				'level', c.level, 'level_cn', ecstats.report_level_cn(c.level), 'first', c.rank = 1,
				'user_count', c.now, 'share', c.now / nullif(c.users, 0), 'previous_count', c.before,
				'change', c.now - c.before, 'change_text', ecstats.report_points_text(c.now - c.before, 0)) AS item
		  FROM counts c
	), moved AS (
		SELECT p.level AS from_level, n.level AS to_level, n.rank < p.rank AS up, sum(c.n) AS users,
			   row_number() OVER (ORDER BY p.rank, n.rank) AS rank
		  FROM cells c JOIN names p ON p.level = c.previous_level JOIN names n ON n.level = c.level
		 WHERE c.level <> c.previous_level
		 GROUP BY p.level, p.rank, n.level, n.rank
	)
	SELECT jsonb_build_object(
			'users', (SELECT coalesce(sum(c.n), 0) FROM cells c),
			'active_users', (SELECT coalesce(sum(c.n), 0) FROM cells c WHERE c.active),
			'levels', (SELECT jsonb_agg(l.item ORDER BY l.rank) FROM levels l),
			'levels_by', (SELECT jsonb_object_agg(l.level, l.item) FROM levels l),
			'movements', coalesce(jsonb_agg(jsonb_build_object(
				'from', m.from_level, 'to', m.to_level, 'from_cn', ecstats.report_level_cn(m.from_level),
				'to_cn', ecstats.report_level_cn(m.to_level), 'up', m.up, 'user_count', m.users, 'first', m.rank = 1) ORDER BY m.rank), '[]'),
			'has_movements', count(*) > 0,
			'up', coalesce(sum(m.users) FILTER (WHERE m.up), 0),
			'down', coalesce(sum(m.users) FILTER (WHERE NOT m.up), 0))
	  FROM moved m
	$$;
COMMENT ON FUNCTION ecstats.report_levels() IS
	'users, active_users, levels, levels_by, movements (of users whose level changed since the day before), has_movements, up, down';

-- report_tags lists the tags that are in force, and those that somebody had or lost on the day: how many have it, who
-- came and who went on the day and in the week up to it.
CREATE FUNCTION ecstats.report_tags(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH week AS (
		SELECT d.tag, sum(d.entered) AS entered, sum(d.left_count) AS left_count
		  FROM ecstats.tag_daily d
		 WHERE d.day BETWEEN at_day - 6 AND at_day
		 GROUP BY d.tag
	), tags AS (
		SELECT coalesce(r.tag, d.tag) AS tag, r.description, coalesce(d.user_count, 0) AS users,
			   coalesce(d.entered, 0) AS entered, coalesce(d.left_count, 0) AS left_count
		  FROM (SELECT * FROM ecstats.tag_daily t WHERE t.day = at_day) d
		  FULL JOIN ecstats.tag_rules r ON r.tag = d.tag
		 WHERE r.enabled OR d.user_count + d.entered + d.left_count > 0
	), items AS (
		SELECT t.tag, jsonb_build_object(
				'tag', t.tag, 'description', t.description, 'user_count', t.users, 'entered', t.entered, 'left_count', t.left_count,
				'first', row_number() OVER (ORDER BY t.tag COLLATE "C") = 1,
				'week', jsonb_build_object(
					'entered', coalesce(w.entered, 0), 'left_count', coalesce(w.left_count, 0), 'previous_count', b.user_count,
					'change', t.users - b.user_count, 'change_text', ecstats.report_points_text(t.users - b.user_count, 0))) AS item
		  FROM tags t
		  LEFT JOIN week w ON w.tag = t.tag
		  LEFT JOIN ecstats.tag_daily b ON b.day = at_day - 7 AND b.tag = t.tag
	)
	SELECT jsonb_build_object('tags', coalesce(jsonb_agg(i.item ORDER BY i.tag COLLATE "C"), '[]'),
							  'tags_by', coalesce(jsonb_object_agg(i.tag, i.item), '{}'))
	  FROM items i
	$$;
COMMENT ON FUNCTION ecstats.report_tags(date) IS
	'tags and tags_by of a scored day: user_count, entered, left_count, and week {entered, left_count, previous_count, change, change_text} (7 days up to and including the day)';

-- report_audience describes who has a tag, and shows ten of them: those who paid most first. NULL for no tag.
CREATE FUNCTION ecstats.report_audience(report text, audience text, at_day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	about text;
	users bigint;
	fresh bigint;
	profiles bigint;
	shown jsonb;
BEGIN
	IF audience IS NULL THEN
		RETURN NULL;
	END IF;
	SELECT coalesce(r.description, '') INTO about FROM ecstats.tag_rules r WHERE r.tag = audience;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tag "%" of report "%" does not exist', left(audience, 64), report
			USING ERRCODE = 'undefined_object', HINT = 'INSERT it into ecstats.tag_rules, or set another audience in ecstats.reports.';
	END IF;
	SELECT count(*), count(*) FILTER (WHERE t.since > at_day - 7) INTO users, fresh
	  FROM ecstats.user_tags t
	 WHERE t.tag = audience AND t.until IS NULL;
	profiles := (SELECT count(*) FROM ecstats.user_activity);

	SELECT coalesce(jsonb_agg(jsonb_build_object(
			'rank', s.rank, 'first', s.rank = 1, 'user_id', s.user_id, 'label', ecstats.report_person_label(s.user_id),
			'days_silent', s.days_silent, 'last_active_day', s.last_active_day, 'level', s.level,
			'paid_amount', s.paid_amount, 'order_count', s.order_count, 'days_since_order', s.days_since_order,
			'favourite_channel', s.favourite_channel, 'favourite_region', s.favourite_region, 'segment', s.segment)
			ORDER BY s.rank), '[]') INTO shown
	  FROM (SELECT p.*, row_number() OVER (ORDER BY p.paid_amount DESC, p.user_id COLLATE "C") AS rank
			  FROM (SELECT a.user_id FROM ecstats.user_tags t JOIN ecstats.user_activity a ON a.user_id = t.user_id
					 WHERE t.tag = audience AND t.until IS NULL
					 ORDER BY a.paid_amount DESC, a.user_id COLLATE "C" LIMIT 10) f
			  JOIN ecstats.user_profile p ON p.user_id = f.user_id) s;
	RETURN jsonb_build_object(
		'tag', audience, 'description', nullif(about, ''), 'user_count', users, 'new_count', fresh,
		'share', users::numeric / nullif(profiles, 0), 'sample', shown, 'has_sample', shown <> '[]',
		'sample_left', users - jsonb_array_length(shown), 'has_more', users > jsonb_array_length(shown));
END
$$;
COMMENT ON FUNCTION ecstats.report_audience(text, text, date) IS
	'who has a tag: tag, description, user_count, new_count (of the last 7 days), share, sample of 10 at most, has_sample, sample_left, has_more; NULL for no tag, 42704 for an unknown one';

-- report_segments counts buyers by segment, and what they paid in all.
CREATE FUNCTION ecstats.report_segments() RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('segment', s.segment, 'user_count', s.users, 'paid_amount', s.paid)
							  ORDER BY s.paid DESC, s.segment COLLATE "C"), '[]')
	  FROM (SELECT p.segment, count(*) AS users, sum(p.paid_amount) AS paid
			  FROM ecstats.user_profile p
			 WHERE p.last_order_day IS NOT NULL
			 GROUP BY p.segment) s
	$$;
COMMENT ON FUNCTION ecstats.report_segments() IS 'segments of buyers [{segment, user_count, paid_amount}], the one that paid most first';

-- report_cohorts gives the newest retention that is known after 1, 7 and 30 days; null where there is none yet.
CREATE FUNCTION ecstats.report_cohorts(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_object_agg('d' || a.age, (
			SELECT jsonb_build_object('cohort_day', c.cohort_day, 'cohort_size', c.cohort_size, 'retained', c.retained,
									  'rate', c.retained::numeric / nullif(c.cohort_size, 0))
			  FROM ecstats.cohorts c
			 WHERE c.age_days = a.age AND c.cohort_day <= at_day - a.age
			 ORDER BY c.cohort_day DESC LIMIT 1))
	  FROM (VALUES (1), (7), (30)) a(age)
	$$;
COMMENT ON FUNCTION ecstats.report_cohorts(date) IS
	'd1, d7, d30: {cohort_day, cohort_size, retained, rate} of the newest users whose 1st, 7th, 30th day is over; null: none';

-- report_activity: what a template and a condition see of the latest scored day.
-- Result: a JSON object (members in doc/report.md). Errors: P0002 another day, 42704 the audience's tag is unknown.
-- Reads: the activity tables, daily_kpi, config.
CREATE FUNCTION ecstats.report_activity(definition ecstats.reports, day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
DECLARE
	zone text := (SELECT c.timezone FROM ecstats.config c);
	tags jsonb;
BEGIN
	PERFORM ecstats.report_scored_day(day);
	tags := ecstats.report_tags(day);
	RETURN jsonb_build_object('day', day)
		|| coalesce(ecstats.report_kpi(day, zone), '{}')
		|| ecstats.report_day(definition, day)
		|| ecstats.report_levels()
		|| tags
		|| jsonb_build_object(
			'as_of', day,
			'data_as_of', (SELECT ecstats.report_timestamp(s.scored_at, zone) FROM ecstats.activity_state s),
			'audience', ecstats.report_audience(definition.name, definition.audience, day)
				|| jsonb_build_object('week', tags -> 'tags_by' -> definition.audience -> 'week'),
			'segments', ecstats.report_segments(),
			'cohorts', ecstats.report_cohorts(day));
END
$$;
COMMENT ON FUNCTION ecstats.report_activity(ecstats.reports, date) IS
	'facts of dataset activity of the latest scored day as JSON; P0002 for another day, 42704 where the report''s audience is no tag';
-- sql/45_report.sql
-- Rules of templates and reports, the facts of a report, and the message made of them. Rendering and
-- checking a template is C (24); queueing the message is the pipeline's (50).

-- While pg_dump's output is loaded a restored row replaces the shipped row of its key. pg_dump turns
-- check_function_bodies off, which is how it is told.

-- report_template_insert: trigger. Checks the template, numbers a new version, retires the active one.
-- Runs with the owner's rights, so that INSERT alone is enough to publish a new version. It reads the
-- table only to number a version that has none and to retire others, which holds in any restore order.
CREATE FUNCTION ecstats.report_template_insert() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NEW.body IS NOT NULL THEN
		PERFORM ecstats.template_check(NEW.body);
	END IF;
	PERFORM pg_advisory_xact_lock(hashtextextended('ecstats.templates:' || NEW.name, 0));
	IF NEW.version IS NULL THEN
		SELECT coalesce(max(t.version), 0) + 1 INTO NEW.version
		  FROM ecstats.templates t WHERE t.name = NEW.name;
	ELSIF (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		DELETE FROM ecstats.templates t WHERE t.name = NEW.name AND t.version = NEW.version;
	ELSIF EXISTS (SELECT FROM ecstats.templates t WHERE t.name = NEW.name AND t.version = NEW.version) THEN
		RETURN NEW;		-- the key refuses it, or ON CONFLICT decides; the active version stays
	END IF;
	IF NEW.active THEN
		UPDATE ecstats.templates t SET active = false WHERE t.name = NEW.name AND t.active;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.report_template_insert() IS
	'trigger of ecstats.templates: 22023 with the position for a wrong template; numbers and activates a new version';

-- report_template_update: trigger. A version is what was sent with it: only active and note may change.
CREATE FUNCTION ecstats.report_template_update() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF (NEW.name, NEW.version, NEW.body, NEW.created_at)
		IS DISTINCT FROM (OLD.name, OLD.version, OLD.body, OLD.created_at) THEN
		RAISE EXCEPTION 'version % of template "%" cannot be changed', OLD.version, OLD.name
			USING ERRCODE = 'object_not_in_prerequisite_state', COLUMN = 'body',
				  DETAIL = 'Only active and note of a stored version may be updated.',
				  HINT = 'INSERT the template without a version: it becomes the next one and is active at once.';
	END IF;
	IF NEW.active AND NOT OLD.active THEN
		PERFORM pg_advisory_xact_lock(hashtextextended('ecstats.templates:' || NEW.name, 0));
		UPDATE ecstats.templates t SET active = false WHERE t.name = NEW.name AND t.active;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.report_template_update() IS
	'trigger of ecstats.templates: bodies are immutable (55000); activating a version retires the other one';

CREATE TRIGGER template_insert BEFORE INSERT ON ecstats.templates
	FOR EACH ROW EXECUTE FUNCTION ecstats.report_template_insert();
CREATE TRIGGER template_update BEFORE UPDATE ON ecstats.templates
	FOR EACH ROW EXECUTE FUNCTION ecstats.report_template_update();

-- report_write: trigger. Forces the owner, refuses what this version does not serve. Runs with the
-- writer's rights: it asks who that is.
CREATE FUNCTION ecstats.report_write() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	is_super boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
BEGIN
	IF TG_OP = 'INSERT' THEN
		IF NOT is_super OR NEW.owner IS NULL THEN
			NEW.owner := current_user;
		END IF;
		IF (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
			DELETE FROM ecstats.reports r WHERE r.name = NEW.name;
		END IF;
	ELSIF NEW.owner IS DISTINCT FROM OLD.owner AND NOT is_super THEN
		RAISE EXCEPTION 'permission denied to change the owner of report "%"', OLD.name
			USING ERRCODE = 'insufficient_privilege', HINT = 'A superuser may set another owner.';
	END IF;

	IF NEW.dataset IN ('weekly', 'monthly', 'custom') THEN
		RAISE EXCEPTION 'reports of dataset "%" are not supported yet', NEW.dataset
			USING ERRCODE = 'feature_not_supported', COLUMN = 'dataset', HINT = 'Use dataset daily or activity.';
	END IF;
	IF NEW.schedule IS NOT NULL THEN
		RAISE EXCEPTION 'a schedule of a report''s own is not supported yet'
			USING ERRCODE = 'feature_not_supported', COLUMN = 'schedule',
				  HINT = 'Leave schedule NULL: the report goes out when its day is closed, at the time of job daily.';
	END IF;

	-- array_append of a channel that is there already changes nothing
	IF cardinality(NEW.channels) > 1 THEN
		NEW.channels := ARRAY(SELECT c.name FROM unnest(NEW.channels) WITH ORDINALITY c(name, n)
							   GROUP BY c.name ORDER BY min(c.n));
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.report_write() IS
	'trigger of ecstats.reports: owner is the writer, unserved datasets and schedules are 0A000, channels are listed once';

CREATE TRIGGER report_write BEFORE INSERT OR UPDATE ON ecstats.reports
	FOR EACH ROW EXECUTE FUNCTION ecstats.report_write();

-- report_row: the definition of a report, or 42704 with what there is.
CREATE FUNCTION ecstats.report_row(report text) RETURNS ecstats.reports
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	definition ecstats.reports;
BEGIN
	SELECT * INTO definition FROM ecstats.reports r WHERE r.name = report_row.report;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'report "%" does not exist', left(report, 64)
			USING ERRCODE = 'undefined_object',
				  DETAIL = format('Stored: %s.', coalesce(
					(SELECT string_agg(quote_ident(r.name), ', ' ORDER BY r.name) FROM ecstats.reports r), 'none')),
				  HINT = 'Reports are the rows of ecstats.reports.';
	END IF;
	RETURN definition;
END
$$;
COMMENT ON FUNCTION ecstats.report_row(text) IS 'row of ecstats.reports by name; 42704 where there is none';

-- report_data: what a template and a condition see of one day.
--   report: name in ecstats.reports; day: a business day; live: its figures where it is not closed.
-- Result: a JSON object (interface: "Template and report"; members in doc/report.md).
-- Errors: 42704 unknown report, P0002 no stored row of the day, 22004 an argument is NULL.
-- Reads: reports, config, daily_kpi, daily_sales, daily_funnel, restatements, targets, activity_state, user_activity.
CREATE FUNCTION ecstats.report_data(report text, day date, live jsonb DEFAULT NULL) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	definition ecstats.reports;
	zone text := (SELECT c.timezone FROM ecstats.config c);
	facts jsonb;
	yesterday jsonb;
	last_week jsonb;
	last_year jsonb;
	products jsonb;
	restated jsonb;
BEGIN
	IF report IS NULL OR day IS NULL THEN
		RAISE EXCEPTION 'report and day must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	definition := ecstats.report_row(report);
	IF definition.dataset = 'activity' THEN
		RETURN ecstats.report_activity(definition, day);
	END IF;
	facts := coalesce(ecstats.report_kpi(day, zone), live -> 'kpi' || jsonb_build_object(
		'refund_rate', (live -> 'kpi' ->> 'refund_amount')::numeric / nullif((live -> 'kpi' ->> 'paid_amount')::numeric, 0)));
	IF facts IS NULL THEN
		RAISE EXCEPTION 'there are no figures of this day yet'
			USING ERRCODE = 'no_data_found', DETAIL = format('Day %s has not begun.', to_char(day, 'YYYY-MM-DD')),
				  HINT = 'Give a day up to the running one.';
	END IF;
	yesterday := ecstats.report_kpi(day - 1, zone);
	last_week := ecstats.report_kpi(day - 7, zone);
	last_year := ecstats.report_kpi((day - interval '1 year')::date, zone);

	restated := ecstats.report_restated(day, zone);
	products := ecstats.report_products(day, day - 1, (facts -> 'gmv')::numeric, live);

	RETURN facts
		|| ecstats.report_split(day, day - 1, (facts -> 'gmv')::numeric, live)
		|| ecstats.report_targets(day)
		|| ecstats.report_day(definition, day)
		|| jsonb_build_object(
			'top_products', products, 'has_sales', products <> '[]',
			'data_as_of', coalesce(restated -> 'at', nullif(facts -> 'closed_at', 'null'), live -> 'at'),
			'previous', yesterday, 'last_week', last_week, 'last_year', last_year,
			'dod', ecstats.report_change(facts, yesterday),
			'wow', ecstats.report_change(facts, last_week),
			'yoy', ecstats.report_change(facts, last_year),
			'dod_points', ecstats.report_points(facts, yesterday),
			'wow_points', ecstats.report_points(facts, last_week),
			'yoy_points', ecstats.report_points(facts, last_year),
			'funnel', ecstats.report_funnel(day, live),
			'restated', restated,
			-- known of the latest scored day alone
			'levels', CASE WHEN day = (SELECT s.as_of FROM ecstats.activity_state s)
						   THEN ecstats.report_levels() -> 'levels' ELSE '[]' END,
			'alerts', '[]'::jsonb);
END
$$;
COMMENT ON FUNCTION ecstats.report_data(text, date, jsonb) IS
	'facts of a day as JSON for a report''s template and condition; live is {kpi, sales, funnel, at} of a day that is not closed, NULL of one that is';
-- sql/45_report_message.sql
-- From facts to a neutral message, and what the doctor says about reports.

-- report_condition: whether a report's condition holds for the facts, and why not.
--   A condition decides about a message, so it never stops the report run: an error is a reason.
CREATE FUNCTION ecstats.report_condition(condition jsonpath, facts jsonb,
													OUT holds boolean, OUT reason text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	shown text := left(condition::text, 200);
BEGIN
	holds := condition IS NULL;
	IF holds THEN
		RETURN;
	END IF;
	holds := jsonb_path_match(facts, condition);
	IF holds IS NULL THEN
		reason := format('condition is unknown for this day: %s', shown);
	ELSIF NOT holds THEN
		reason := format('condition is false: %s', shown);
	END IF;
	holds := coalesce(holds, false);
EXCEPTION
	WHEN data_exception THEN
		holds := false;
		reason := format('condition failed: %s: %s', SQLERRM, shown);
		IF SQLSTATE = '22038' THEN		-- no single true or false came out
			reason := reason || ' (write a predicate such as $.gmv > 10000)';
		END IF;
END
$$;
COMMENT ON FUNCTION ecstats.report_condition(jsonpath, jsonb) IS
	'whether a jsonpath predicate is true for the facts; reason says why not (false, unknown, error). NULL condition: true';

-- report_message: the message of a report for a day, and whether it is to be sent.
--   report: name in ecstats.reports; day: a business day; live: its figures where it is not closed.
-- Result: one row. The message is rendered also where it would not be sent, for previews; reason is
--   NULL exactly where would_send is true.
-- Errors: those of report_data; 42704 the template does not exist; 55000 no version of it is active.
-- Reads: reports, templates, rollups. Writes nothing.
CREATE FUNCTION ecstats.report_message(report text, day date, live jsonb DEFAULT NULL)
	RETURNS TABLE (would_send boolean, reason text, template_version int, message jsonb, revision int)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	facts jsonb := ecstats.report_data(report, day, live);
	definition ecstats.reports := ecstats.report_row(report);
	body jsonb;
BEGIN
	SELECT t.version, t.body INTO template_version, body
	  FROM ecstats.templates t
	 WHERE t.name = definition.template AND t.active;
	IF NOT FOUND THEN
		IF EXISTS (SELECT FROM ecstats.templates t WHERE t.name = definition.template) THEN
			RAISE EXCEPTION 'template "%" of report "%" has no active version', definition.template, definition.name
				USING ERRCODE = 'object_not_in_prerequisite_state',
					  HINT = format('UPDATE ecstats.templates SET active = true WHERE name = %L AND version = ...;',
									definition.template);
		END IF;
		RAISE EXCEPTION 'template "%" of report "%" does not exist', definition.template, definition.name
			USING ERRCODE = 'undefined_object',
				  HINT = 'INSERT it into ecstats.templates, or set another one in ecstats.reports.';
	END IF;
	message := ecstats.template_render(body, facts);
	-- scores have no revisions: what is made of them goes out once a day
	revision := CASE definition.dataset WHEN 'activity' THEN 0 ELSE (facts -> 'revision')::int END;

	SELECT c.holds, c.reason INTO would_send, reason
	  FROM ecstats.report_condition(definition.condition, facts) c;
	IF NOT definition.enabled THEN
		would_send := false;
		reason := 'report is disabled';
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.report_message(text, date, jsonb) IS
	'rendered neutral or native message of a report for a closed day, whether it would be sent, and why not';

-- report_status: what keeps reports from going out, for ecstats_status().
-- Result: one row a finding, or one row ok. Reads: reports, templates, channels, tag_rules.
CREATE FUNCTION ecstats.report_status()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH enabled AS (
		SELECT r.name, r.template, r.channels, r.audience FROM ecstats.reports r WHERE r.enabled
	), findings AS (
		SELECT 1 AS ord, e.name, 'error' AS status,
			   format('report %I: template %I %s', e.name, e.template,
					  CASE WHEN EXISTS (SELECT FROM ecstats.templates t WHERE t.name = e.template)
						   THEN 'has no active version' ELSE 'does not exist' END) AS detail,
			   'INSERT it into ecstats.templates, activate a version, or set enabled = false in ecstats.reports' AS hint
		  FROM enabled e
		 WHERE NOT EXISTS (SELECT FROM ecstats.templates t WHERE t.name = e.template AND t.active)
		UNION ALL
		SELECT 2, e.name, 'error',
			   format('report %I: no such channel: %s', e.name, string_agg(quote_ident(c.name), ', ' ORDER BY c.name)),
			   'INSERT the channel into ecstats.channels, or take it out of ecstats.reports.channels'
		  FROM enabled e, unnest(e.channels) c(name)
		 WHERE NOT EXISTS (SELECT FROM ecstats.channels h WHERE h.name = c.name)
		 GROUP BY e.name
		UNION ALL
		SELECT 3, e.name, CASE WHEN t.tag IS NULL THEN 'error' ELSE 'warn' END,
			   format('report %I: tag %I %s', e.name, e.audience, CASE WHEN t.tag IS NULL THEN 'does not exist' ELSE 'is disabled: nobody has it' END),
			   'INSERT or enable it in ecstats.tag_rules, or set another audience in ecstats.reports'
		  FROM enabled e
		  LEFT JOIN ecstats.tag_rules t ON t.tag = e.audience
		 WHERE e.audience IS NOT NULL AND t.enabled IS NOT TRUE
		   AND cardinality(e.channels) > 0		-- else nobody misses it
	)
	SELECT 'reports', f.status, f.detail, f.hint
	  FROM (SELECT ord, name, status, detail, hint FROM findings
			UNION ALL
			SELECT 4, NULL, 'ok',
				   format('%s enabled, %s with a channel', count(*), count(*) FILTER (WHERE cardinality(e.channels) > 0)),
				   CASE WHEN bool_and(cardinality(e.channels) = 0)
						THEN format('nothing is sent yet: UPDATE ecstats.reports SET channels = ''{my-channel}'' WHERE name = %L',
									min(e.name)) END
			  FROM enabled e
			HAVING NOT EXISTS (SELECT FROM findings)) f
	 ORDER BY f.ord, f.name
	$$;
COMMENT ON FUNCTION ecstats.report_status() IS
	'reports whose template, channels or audience are missing, one row each; one row ok where all is there';
-- sql/46_channel.sql
-- From a message to the body that a channel's provider takes. Nothing here sends or reads the clock.

-- What holds for a channel: its options over its kind's over these. PL/pgSQL, here and below, where a
-- query runs at every claim: an SQL function that is not inlined plans it each time.
CREATE FUNCTION ecstats.channel_settings(channel text) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT '{"rate": null, "throttle_seconds": 60, "lane": 1, "max_retries": 3, "timeout_seconds": 15, "allow_private": false,
		"on_unconfirmed": "retry", "breaker": null, "keyword": null, "mention": null}'::jsonb || k.options || c.options
		FROM ecstats.channels c JOIN ecstats.channel_kinds k ON k.kind = c.kind WHERE c.name = channel);
END $$;
COMMENT ON FUNCTION ecstats.channel_settings(text) IS
	'Options in force of a channel: channels.options over channel_kinds.options over built-in defaults. NULL for an unknown channel.';

-- Adds a provider's keyword to every text the provider looks at that lacks it: before a title, after
-- anything longer (a prefix would break a Markdown heading).
CREATE FUNCTION ecstats.channel_keyword(text_paths jsonb, keyword text, body jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	entry jsonb;
	path text[];
	old text;
BEGIN
	FOR entry IN SELECT e FROM jsonb_array_elements(text_paths) e WHERE keyword IS NOT NULL LOOP
		path := ARRAY(SELECT p FROM jsonb_array_elements_text(entry) WITH ORDINALITY AS t(p, n) ORDER BY n);
		old := body #>> path;
		IF jsonb_typeof(body #> path) = 'string' AND strpos(old, keyword) = 0 THEN
			body := jsonb_set(body, path, to_jsonb(CASE WHEN 'title' = ANY (path) THEN keyword || ' ' || old
				ELSE old || E'\n\n' || keyword END));
		END IF;
	END LOOP;
	RETURN body;
END $$;
COMMENT ON FUNCTION ecstats.channel_keyword(jsonb, text, jsonb) IS 'Body with the keyword in each text of text_paths; unchanged for a NULL keyword.';

-- Puts {"users", "mobiles", "all"} where the kind's mentions say.
CREATE FUNCTION ecstats.channel_mention(mentions jsonb, mention jsonb, body jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule jsonb;
	part record;
	path text[];
	suffix text;
BEGIN
	FOR rule IN SELECT r FROM jsonb_array_elements(mentions) r
		WHERE jsonb_typeof(mention) = 'object' AND body @@ (r ->> 'when')::jsonpath
	LOOP
		FOR part IN
			SELECT rule -> 'users_at' AS at,
				coalesce(mention -> 'users', '[]') || CASE WHEN mention -> 'all' = 'true' THEN coalesce(rule -> 'all_value', '[]') ELSE '[]' END AS value
			UNION ALL SELECT rule -> 'mobiles_at', mention -> 'mobiles'
			UNION ALL SELECT rule -> 'all_at', nullif(mention -> 'all', 'false')
		LOOP
			CONTINUE WHEN part.at IS NULL OR coalesce(part.value, '[]') = '[]';
			path := ARRAY[part.at ->> 0, part.at ->> 1];
			body := jsonb_set(body, path[1:1], coalesce(body -> path[1], '{}'));
			body := jsonb_set(body, path, CASE jsonb_typeof(body #> path) WHEN 'array' THEN (body #> path) || part.value ELSE part.value END);
		END LOOP;

		path := ARRAY(SELECT p FROM jsonb_array_elements_text(rule -> 'append_to') WITH ORDINALITY AS t(p, n) ORDER BY n);
		CONTINUE WHEN path = '{}' OR jsonb_typeof(body #> path) IS DISTINCT FROM 'string';
		SELECT string_agg(m.word, ' ' ORDER BY m.kind, m.n) INTO suffix
			FROM (SELECT 1 AS kind, n, replace(rule ->> 'user', '%s', u) AS word
					FROM jsonb_array_elements_text(mention -> 'users') WITH ORDINALITY AS t(u, n)
				UNION ALL SELECT 2, n, replace(rule ->> 'mobile', '%s', u)
					FROM jsonb_array_elements_text(mention -> 'mobiles') WITH ORDINALITY AS t(u, n)
				UNION ALL SELECT 3, 1, rule ->> 'all' WHERE mention -> 'all' = 'true') m
			WHERE strpos(body #>> path, m.word) = 0;
		IF suffix IS NOT NULL THEN
			body := jsonb_set(body, path, to_jsonb((body #>> path) || E'\n' || suffix));
		END IF;
	END LOOP;
	RETURN body;
END $$;
COMMENT ON FUNCTION ecstats.channel_mention(jsonb, jsonb, jsonb) IS 'Body with the people of mention where the kind''s mentions say; unchanged for NULL.';

-- What the templates of a neutral message see: the message, with what it left out filled in.
CREATE FUNCTION ecstats.channel_message_data(message jsonb, at timestamptz) RETURNS jsonb
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN (SELECT pg_catalog.jsonb_build_object(
		'title', pg_catalog.left(pg_catalog.regexp_replace(pg_catalog.split_part(COALESCE(m.markdown, m.text), E'\n', 1), '^[#>*\s]+|\*+', '', 'g'), 64),
		'text', COALESCE(m.text, m.markdown, m.title),
		'markdown', COALESCE(m.markdown, m.text, m.title),
		'type', 'ecstats.message',
		'timestamp', pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
		|| pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('title', m.title))
		|| (message - '{title,text,markdown}'::text[])
		|| pg_catalog.jsonb_build_object('message', message - 'envelope'::text)
	FROM (SELECT NULLIF(message ->> 'title', '') AS title, NULLIF(message ->> 'text', '') AS text,
		NULLIF(message ->> 'markdown', '') AS markdown) m);
COMMENT ON FUNCTION ecstats.channel_message_data(jsonb, timestamptz) IS
	'A neutral message as template data: title, text and markdown stand in for each other; type, timestamp and message (the whole) are added.';

CREATE FUNCTION ecstats.channel_envelope_at(channel text, message jsonb, at timestamptz) RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	k ecstats.channel_kinds;
	settings jsonb := ecstats.channel_settings(channel);
	data jsonb;
	name text;
	template jsonb;
	whole jsonb;
	body jsonb;
BEGIN
	IF settings IS NULL THEN
		RAISE EXCEPTION 'channel "%" does not exist', channel USING ERRCODE = '42704',
			HINT = 'SELECT name, kind, enabled FROM ecstats.channels lists the channels.';
	ELSIF jsonb_typeof(message) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'message must be a JSON object' USING ERRCODE = '22023',
			DETAIL = format('It is %s.', coalesce(jsonb_typeof(message), 'NULL')),
			HINT = 'For example {"title": "...", "markdown": "..."}, or the provider''s own form.';
	END IF;
	SELECT ck.* INTO k FROM ecstats.channel_kinds ck JOIN ecstats.channels c ON c.kind = ck.kind WHERE c.name = channel_envelope_at.channel;

	IF message @@ k.native THEN
		body := message;
	ELSE
		name := coalesce(message ->> 'envelope', settings ->> 'envelope', k.default_envelope);
		template := k.envelopes -> name;
		IF template IS NULL THEN
			RAISE EXCEPTION 'channel kind "%" has no envelope "%"', k.kind, left(name, 63) USING ERRCODE = '22023',
				HINT = format('It has %s.', (SELECT string_agg(e, ', ' ORDER BY e) FROM jsonb_object_keys(k.envelopes) e));
		END IF;
		data := ecstats.channel_message_data(message, at);
		IF data -> 'text' = 'null' AND template::text ~ '\{\{[{&]?\s*(text|markdown)' THEN
			RAISE EXCEPTION 'message has neither text nor markdown nor title' USING ERRCODE = '22023',
				DETAIL = format('Envelope "%s" of kind "%s" needs one of them.', name, k.kind);
		END IF;
		-- a member that is exactly {{name}} takes an object or array as it is
		SELECT coalesce(jsonb_object_agg(e.key, data -> e.member), '{}') INTO whole
			FROM (SELECT t.key, substring(t.value #>> '{}' FROM '^\{\{\s*(\w+)\s*\}\}$') AS member FROM jsonb_each(template) t) e
			WHERE jsonb_typeof(data -> e.member) IN ('object', 'array');
		body := ecstats.template_render(template - ARRAY(SELECT jsonb_object_keys(whole)), data) || whole;
	END IF;
	body := ecstats.channel_mention(k.mentions, settings -> 'mention', body);
	RETURN ecstats.channel_keyword(k.text_paths, settings ->> 'keyword', body);
END $$;
COMMENT ON FUNCTION ecstats.channel_envelope_at(text, jsonb, timestamptz) IS
	'Request body of a message for a channel, unsigned: a native message as it is, a neutral one in the envelope that message.envelope, options.envelope or the kind names; '
	'keyword and mention added. 42704 unknown channel, 22023 no object, no such envelope, nothing to say.';

CREATE FUNCTION ecstats.channel_envelope(channel text, message jsonb) RETURNS jsonb
	LANGUAGE sql STABLE RETURN ecstats.channel_envelope_at(channel, message, pg_catalog.now());
COMMENT ON FUNCTION ecstats.channel_envelope(text, jsonb) IS 'ecstats.channel_envelope_at at the transaction''s time.';

-- Which limit of the kind a body breaks, as a sentence; NULL when it fits.
CREATE FUNCTION ecstats.channel_oversize(channel text, body jsonb) RETURNS text
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	l record;
	item jsonb;
	content text;
	size bigint;
BEGIN
	FOR l IN SELECT e ->> 'path' AS path, u.unit, (e ->> ('max_' || u.unit))::bigint AS most, coalesce((e ->> 'base64')::boolean, false) AS base64
		FROM ecstats.channels c JOIN ecstats.channel_kinds k ON k.kind = c.kind, jsonb_array_elements(k.limits) e,
			unnest('{bytes,chars,items}'::text[]) u(unit)
		WHERE c.name = channel_oversize.channel AND e ? ('max_' || u.unit)
	LOOP
		FOR item IN SELECT q FROM jsonb_path_query(body, coalesce(l.path, '$')::jsonpath, '{}', true) q LOOP
			content := item #>> '{}';
			size := CASE l.unit
				WHEN 'items' THEN CASE jsonb_typeof(item) WHEN 'array' THEN jsonb_array_length(item) END
				WHEN 'chars' THEN length(content)
				ELSE octet_length(convert_to(content, 'UTF8')) END;
			IF l.base64 THEN
				size := length(rtrim(content, '=')) * 3 / 4;
			END IF;
			IF size > l.most THEN
				RETURN format('%s has %s %s; the limit is %s %s.',
					CASE WHEN l.path IS NULL THEN 'The request body' ELSE ltrim(l.path, '$.') END, size, l.unit, l.most, l.unit);
			END IF;
		END LOOP;
	END LOOP;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.channel_oversize(text, jsonb) IS
	'Names the limit of the channel''s kind that body breaks, with both sizes; NULL when it fits. Bytes are of UTF-8.';
-- sql/47_delivery.sql
-- A delivery's states and how it gets into the queue: enqueue, tell the operators, push, replay,
-- cancel; and the home check. Answers are judged in 48, requests are made in 49.

-- The only writer of deliveries.status. Asserts where the row comes from; NULL arguments keep the column.
CREATE FUNCTION ecstats.delivery_move(delivery bigint, from_status text[], to_status text, at timestamptz,
	next_attempt_at timestamptz DEFAULT NULL, attempts int DEFAULT NULL, error text DEFAULT NULL,
	worker text DEFAULT NULL, lease_until timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.deliveries d SET
		status = to_status,
		moves = d.moves + 1,
		requests = d.requests + (to_status = 'sending')::int,
		attempts = coalesce(delivery_move.attempts, d.attempts),
		next_attempt_at = coalesce(delivery_move.next_attempt_at, d.next_attempt_at),
		expires_at = coalesce(delivery_move.expires_at, d.expires_at),
		worker = coalesce(delivery_move.worker, d.worker),
		lease_until = CASE WHEN to_status = 'sending' THEN delivery_move.lease_until END,
		sent_at = CASE WHEN to_status = 'sent' THEN at END,
		settled_at = CASE WHEN to_status NOT IN ('pending', 'sending') THEN at END,
		last_error = coalesce(delivery_move.error, d.last_error)
	WHERE d.id = delivery AND d.status = ANY (from_status);
	IF NOT FOUND THEN
		RAISE EXCEPTION 'delivery % cannot become %', delivery, to_status
			USING ERRCODE = '55000',
				DETAIL = coalesce((SELECT format('It is %s; it would have to be %s.', d.status, array_to_string(from_status, ' or '))
					FROM ecstats.deliveries d WHERE d.id = delivery), 'There is no such delivery.');
	END IF;
END $$;
COMMENT ON FUNCTION ecstats.delivery_move(bigint, text[], text, timestamptz, timestamptz, int, text, text, timestamptz, timestamptz) IS
	'Moves a delivery from one of from_status to to_status at the instant at. 55000 when it is in another state or absent.';

CREATE FUNCTION ecstats.delivery_enqueue(report text, day date, revision int, occasion text, channel text,
	priority int, ttl interval, body jsonb, due timestamptz, source text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	open boolean;
	oversize text;
	id bigint;
BEGIN
	due := coalesce(due, now());
	SELECT c.enabled INTO open FROM ecstats.channels c WHERE c.name = delivery_enqueue.channel FOR KEY SHARE;
	IF open IS NULL THEN
		RAISE EXCEPTION 'channel "%" does not exist', channel USING ERRCODE = '42704',
			HINT = 'SELECT name, kind, enabled FROM ecstats.channels lists the channels.';
	ELSIF NOT open THEN
		RAISE EXCEPTION 'channel "%" is disabled', channel USING ERRCODE = '22023',
			HINT = 'Set ecstats.channels.enabled, or send to another channel.';
	ELSIF priority IS NULL OR priority NOT BETWEEN 1 AND 9 THEN
		RAISE EXCEPTION 'priority must be 1 to 9' USING ERRCODE = '22023', DETAIL = format('It is %s.', coalesce(priority::text, 'NULL')),
			HINT = '1 goes first, 5 is usual.';
	ELSIF ttl <= interval '0' THEN
		RAISE EXCEPTION 'ttl must be longer than 0' USING ERRCODE = '22023', DETAIL = format('It is %s.', ttl),
			HINT = 'NULL never expires.';
	ELSIF jsonb_typeof(body) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'the body of a delivery must be a JSON object' USING ERRCODE = '22023',
			DETAIL = format('It is %s.', coalesce(jsonb_typeof(body), 'NULL'));
	END IF;
	oversize := ecstats.channel_oversize(channel, body);
	IF oversize IS NOT NULL THEN
		RAISE EXCEPTION 'message is too long for channel "%"', channel USING ERRCODE = '22001', DETAIL = oversize,
			HINT = 'Shorten it, for example with the template filter truncate.';
	END IF;

	INSERT INTO ecstats.deliveries AS d (report, day, revision, occasion, channel, priority, next_attempt_at, expires_at, body, source)
		VALUES (delivery_enqueue.report, delivery_enqueue.day, coalesce(delivery_enqueue.revision, 0), coalesce(delivery_enqueue.occasion, ''),
			delivery_enqueue.channel, delivery_enqueue.priority, due, due + ttl, delivery_enqueue.body, delivery_enqueue.source)
		ON CONFLICT DO NOTHING
		RETURNING d.id INTO id;
	IF id IS NOT NULL THEN
		PERFORM pg_notify('ecstats_deliveries', '');
	ELSIF NOT EXISTS (SELECT FROM ecstats.deliveries d WHERE (d.source, d.occasion) = (delivery_enqueue.source, delivery_enqueue.occasion)
		OR (d.report, d.day, d.revision, d.occasion, d.channel) = (delivery_enqueue.report, delivery_enqueue.day,
			coalesce(delivery_enqueue.revision, 0), coalesce(delivery_enqueue.occasion, ''), delivery_enqueue.channel))
	THEN
		-- not this message: a message is never lost in silence
		RAISE EXCEPTION 'the next id of ecstats.deliveries is taken' USING ERRCODE = '23505', TABLE = 'deliveries', SCHEMA = 'ecstats',
			HINT = 'SELECT setval(''ecstats.deliveries_id_seq'', (SELECT max(id) FROM ecstats.deliveries)) after a restore without sequences.';
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION ecstats.delivery_enqueue(text, date, int, text, text, int, interval, jsonb, timestamptz, text) IS
	'Queues a finished, unsigned body for a channel, due at due (NULL: now), expiring ttl later (NULL: never). Returns the id, or NULL when (report, day, revision, occasion, channel) '
	'or (source, occasion) is there. 42704 unknown channel, 22023 disabled channel, priority, ttl or body, 22001 too long. NOTIFY ecstats_deliveries.';

-- Telling must not break what it tells of: whatever goes wrong here is a warning.
CREATE FUNCTION ecstats.delivery_tell_operators(source text, occasion text, subject text, detail text) RETURNS bigint
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	operators text := (SELECT c.operators_channel FROM ecstats.config c);
	body jsonb;
BEGIN
	IF operators IS NULL THEN
		RETURN NULL;
	END IF;
	subject := left(subject, 100);
	detail := left(coalesce(detail, ''), 500);
	body := ecstats.channel_envelope(operators, jsonb_build_object('type', 'ecstats.alert', 'source', source, 'occasion', occasion,
		'title', subject, 'text', rtrim(subject || E'\n' || detail, E'\n'), 'markdown', rtrim('**' || subject || E'**\n\n' || detail, E'\n')));
	RETURN ecstats.delivery_enqueue(NULL, NULL, 0, occasion, operators, 2, interval '1 day', body, NULL, coalesce(source, 'ecstats'));
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'the operators could not be told: %', SQLERRM USING ERRCODE = SQLSTATE;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.delivery_tell_operators(text, text, text, text) IS
	'Queues a message to config.operators_channel, once per (source, occasion), for a day. Returns its id; NULL when no channel is set, it was told before, or it cannot be told (a warning).';

CREATE FUNCTION ecstats.delivery_replay(delivery bigint, at timestamptz) RETURNS bigint
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = delivery FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'delivery % does not exist', delivery USING ERRCODE = 'P0002',
			HINT = 'Settled deliveries are dropped after config.log_retention.';
	END IF;
	PERFORM FROM ecstats.channels c WHERE c.name = d.channel FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'channel "%" does not exist', d.channel USING ERRCODE = '42704',
			DETAIL = format('Delivery %s went there.', delivery);
	END IF;
	PERFORM ecstats.delivery_move(delivery, '{dead,expired,cancelled,sent}', 'pending', at, next_attempt_at => at, attempts => 0,
		expires_at => at + (d.expires_at - d.created_at));
	PERFORM pg_notify('ecstats_deliveries', '');
	RETURN delivery;
END $$;
COMMENT ON FUNCTION ecstats.delivery_replay(bigint, timestamptz) IS
	'Puts a settled delivery back to pending with all its attempts and its ttl anew. P0002 no such delivery, 42704 its channel is gone, 55000 it is not settled.';

CREATE FUNCTION ecstats.delivery_is_home() RETURNS boolean
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (SELECT FROM ecstats.home h, pg_control_system() s
		WHERE h.system_identifier = s.system_identifier AND h.database = current_database());
END $$;
COMMENT ON FUNCTION ecstats.delivery_is_home() IS 'Whether this is the database that was created or adopted, not a copy of it elsewhere.';

-- ecstats_push(channel, message, priority, ttl)
-- Purpose: send anything. Arguments: a channel; a neutral message ({"title", "text", "markdown", ...})
-- or one in the provider's own form; 1 (first) to 9; how long it is worth sending, NULL for ever.
-- Result: the delivery's id. Errors: 42704, 22023, 22001. Tables: deliveries.
CREATE FUNCTION @extschema@.ecstats_push(channel text, message jsonb, priority int DEFAULT 5, ttl interval DEFAULT NULL) RETURNS bigint
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.delivery_enqueue(NULL, NULL, 0, '', channel, priority, ttl, ecstats.channel_envelope(channel, message), now()) $$;
COMMENT ON FUNCTION @extschema@.ecstats_push(text, jsonb, int, interval) IS
	'Queues message for channel; priority 1 (first) to 9; ttl NULL never expires. Returns the delivery''s id. 42704 unknown channel, 22023 bad argument, 22001 too long for the provider.';

-- ecstats_replay(delivery_id): send a settled delivery again, with all its attempts.
-- Result: the id. Errors: P0002, 55000. Tables: deliveries.
CREATE FUNCTION @extschema@.ecstats_replay(delivery_id bigint) RETURNS bigint
	LANGUAGE sql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.delivery_replay(delivery_id, now()) $$;
COMMENT ON FUNCTION @extschema@.ecstats_replay(bigint) IS
	'Sends a dead, expired, cancelled or sent delivery again. Returns its id. P0002 no such delivery, 55000 it is still pending or being sent.';

-- ecstats_replay(channel, since, until): send again what failed of a time.
-- Arguments: deliveries created in [since, until). Result: how many. Errors: 42704. Tables: deliveries.
CREATE FUNCTION @extschema@.ecstats_replay(channel text, since timestamptz, until timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM ecstats.channels c WHERE c.name = ecstats_replay.channel) THEN
		RAISE EXCEPTION 'channel "%" does not exist', channel USING ERRCODE = '42704';
	END IF;
	RETURN (SELECT count(ecstats.delivery_replay(f.id, now())) FROM (
		SELECT d.id FROM ecstats.deliveries d
		WHERE d.channel = ecstats_replay.channel AND d.status IN ('dead', 'expired') AND d.created_at >= since AND d.created_at < until
		ORDER BY d.id FOR UPDATE) f);
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_replay(text, timestamptz, timestamptz) IS
	'Sends the dead and expired deliveries of channel that were created in [since, until) again. Returns how many. 42704 unknown channel.';

-- ecstats_cancel(delivery_id): take back what is pending.
-- Result: true when it was pending, false when it is too late or absent. Tables: deliveries.
CREATE FUNCTION @extschema@.ecstats_cancel(delivery_id bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM FROM ecstats.deliveries d WHERE d.id = delivery_id AND d.status = 'pending' FOR UPDATE;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM ecstats.delivery_move(delivery_id, '{pending}', 'cancelled', now());
	RETURN true;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_cancel(bigint) IS 'Cancels a pending delivery. true when done, false when it is not pending (any more) or does not exist.';

-- ecstats_channel_test(channel): send a short test message, first in the queue, for an hour.
-- Result: the delivery's id. Errors: 42704, 22023. Tables: deliveries.
CREATE FUNCTION @extschema@.ecstats_channel_test(channel text) RETURNS bigint
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.delivery_enqueue(NULL, NULL, 0, '', channel, 1, interval '1 hour', ecstats.channel_envelope(channel,
		jsonb_build_object('type', 'ecstats.test', 'title', 'ecstats', 'text', format('ecstats test: channel %s of database %s', channel, current_database()))), now()) $$;
COMMENT ON FUNCTION @extschema@.ecstats_channel_test(text) IS 'Queues a test message for channel. Returns the delivery''s id; ecstats.deliveries and delivery_attempts say how it went.';

-- ecstats_adopt(): let a copied or restored database deliver. What is pending then leaves: cancel first
-- what its origin sends already. Result: true when it was a copy. Tables: home.
CREATE FUNCTION @extschema@.ecstats_adopt() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	was_home boolean := ecstats.delivery_is_home();
BEGIN
	INSERT INTO ecstats.home AS h (system_identifier, database) SELECT s.system_identifier, current_database() FROM pg_control_system() s
		ON CONFLICT (singleton) DO UPDATE SET system_identifier = excluded.system_identifier, database = excluded.database, adopted_at = now()
		WHERE NOT was_home;
	PERFORM pg_notify('ecstats_deliveries', '');
	RETURN NOT was_home;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_adopt() IS 'Makes this database the one whose messages leave. true when it was a copy of another, false when nothing changed.';

-- What is settled and old goes, with its attempts (a trigger takes them along).
CREATE FUNCTION ecstats.delivery_prune(before timestamptz, max_rows int) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone bigint;
BEGIN
	DELETE FROM ecstats.deliveries d WHERE d.id IN (
		SELECT o.id FROM ecstats.deliveries o WHERE o.settled_at < before ORDER BY o.settled_at LIMIT max_rows FOR UPDATE SKIP LOCKED);
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END $$;
COMMENT ON FUNCTION ecstats.delivery_prune(timestamptz, int) IS
	'Deletes at most max_rows deliveries that were settled before an instant; returns how many.';
-- sql/48_delivery_answer.sql
-- What an answer means, by the rules of the channel's kind. Nothing here writes.

-- Hides a channel's credentials: its secrets, its URL, and of the URL what can be a key.
CREATE FUNCTION ecstats.delivery_mask(content text, url text, secret text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	tail text := substring(url FROM '^\w+://[^/?#]*(.+)$');
	word text;
BEGIN
	IF content IS NULL THEN
		RETURN NULL;
	END IF;
	FOR word IN
		SELECT w FROM (
			SELECT unnest(ARRAY[secret, url, tail, substring(url FROM '^\w+://([^/@]+)@')]) AS w
			UNION ALL SELECT regexp_replace(s, '^whsec_', '') FROM regexp_split_to_table(secret, '\s+') s
			UNION ALL SELECT s FROM regexp_split_to_table(split_part(tail, '?', 1), '/') s WHERE length(s) >= 8 OR length(s) >= 4 AND s ~ '\d'
			UNION ALL SELECT substring(s FROM '=(.*)$') FROM regexp_split_to_table(substring(tail FROM '\?(.*)$'), '&') s) c
		WHERE length(w) >= 4 ORDER BY length(w) DESC, w
	LOOP
		content := replace(content, word, '***');
	END LOOP;
	RETURN regexp_replace(content, '(\m(?:sign|sig|key|token|access_token)=)[^&\s"''<>]+', '\1***', 'g');
END $$;
COMMENT ON FUNCTION ecstats.delivery_mask(text, text, text) IS 'content without the secrets, the URL and the keys in it (each becomes ***).';

CREATE FUNCTION ecstats.delivery_cut(content text, bytes int) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	content := left(content, bytes);
	WHILE octet_length(content) > bytes LOOP
		content := left(content, -greatest(1, (octet_length(content) - bytes) / 4));
	END LOOP;
	RETURN content;
END $$;
COMMENT ON FUNCTION ecstats.delivery_cut(text, int) IS 'The first characters of content that fit into bytes.';

-- The document that the kinds' rules look at. Not parallel safe: parsing what may not be JSON takes a
-- subtransaction.
CREATE FUNCTION ecstats.delivery_answer(fact jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	response text := fact ->> 'response';
	body jsonb := to_jsonb(response);
BEGIN
	IF response ~ '^\s*[\[{"0-9ntf-]' THEN
		BEGIN
			body := response::jsonb;
		EXCEPTION WHEN OTHERS THEN
			NULL;			-- then it is text
		END;
	END IF;
	RETURN jsonb_build_object('http_status', fact -> 'http_status', 'error_kind', fact -> 'error_kind', 'body', body, 'headers',
		coalesce((SELECT jsonb_object_agg(lower(h.key), h.value) FROM jsonb_each(CASE jsonb_typeof(fact -> 'headers') WHEN 'object' THEN fact -> 'headers' END) h), '{}'));
END $$;
COMMENT ON FUNCTION ecstats.delivery_answer(jsonb) IS 'A result of the pusher as {"http_status", "error_kind", "body", "headers"}; body is parsed where it is JSON, header names are lower case.';

CREATE FUNCTION ecstats.delivery_code(kind ecstats.channel_kinds, answer jsonb) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	path jsonpath;
	code jsonb;
BEGIN
	FOREACH path IN ARRAY coalesce(kind.code_paths, '{}') LOOP
		code := jsonb_path_query_first(answer, path, '{}', true);
		EXIT WHEN code IS NOT NULL;
	END LOOP;
	RETURN left(code #>> '{}', 64);
END $$;
COMMENT ON FUNCTION ecstats.delivery_code(ecstats.channel_kinds, jsonb) IS 'The provider''s own code in an answer, as text; NULL when there is none.';

-- What an answer means. A transport failure before the request was sent is harmless, after it the
-- message may have been shown. 2xx without the provider's own word is never success.
CREATE FUNCTION ecstats.delivery_classify(kind ecstats.channel_kinds, answer jsonb, request_sent boolean) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN answer ->> 'error_kind' = 'refused_address' THEN 'permanent'
	WHEN answer ->> 'http_status' IS NULL AND NOT COALESCE(request_sent, true) THEN 'retryable'
	WHEN answer ->> 'http_status' IS NULL THEN 'unconfirmed'
	WHEN answer @@ (kind).success THEN 'sent'
	WHEN answer @@ (kind).throttle THEN 'throttled'
	WHEN answer @@ (kind).retry_once THEN 'once'
	WHEN answer @@ (kind).permanent THEN 'permanent'
	WHEN answer @@ (kind).retryable THEN 'retryable'
	WHEN (answer ->> 'http_status')::int BETWEEN 200 AND 299 AND ecstats.delivery_code(kind, answer) IS NULL THEN 'unconfirmed'
	ELSE 'retryable' END;
COMMENT ON FUNCTION ecstats.delivery_classify(ecstats.channel_kinds, jsonb, boolean) IS
	'sent, throttled, once, permanent, retryable or unconfirmed, by the kind''s rules. An unknown code is retryable; 2xx without a code is unconfirmed.';

-- Seconds (a fraction is allowed) or an HTTP date.
CREATE FUNCTION ecstats.delivery_wait(kind ecstats.channel_kinds, answer jsonb, at timestamptz) RETURNS interval
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET timezone = 'UTC' AS $$
DECLARE
	said text;
	seconds float8;
BEGIN
	FOR said IN
		SELECT jsonb_path_query_first(answer, kind.wait_path, '{}', true) #>> '{}'
		UNION ALL SELECT btrim(answer -> 'headers' ->> h) FROM unnest(kind.wait_headers) h
	LOOP
		IF said ~ '^\d{1,9}(\.\d{1,9})?$' THEN
			seconds := said::float8;
		ELSIF said ~ '^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$' THEN
			BEGIN
				seconds := extract(epoch FROM to_timestamp(substr(said, 6, 20), 'DD Mon YYYY HH24:MI:SS') - at);
			EXCEPTION WHEN data_exception THEN
				NULL;		-- no such date: as if it said nothing
			END;
		END IF;
		EXIT WHEN seconds IS NOT NULL;
	END LOOP;
	RETURN CASE WHEN seconds IS NOT NULL THEN make_interval(secs => least(greatest(seconds, 1), 3600)) END;
END $$;
COMMENT ON FUNCTION ecstats.delivery_wait(ecstats.channel_kinds, jsonb, timestamptz) IS
	'How long the provider asks to wait (wait_path, then wait_headers: seconds or an HTTP date), within 1 second to 1 hour; NULL when it does not say.';

CREATE FUNCTION ecstats.delivery_backoff(attempts int, jitter float8) RETURNS interval
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.make_interval(secs => 60 * 2 ^ (LEAST(attempts, 7) - 1) * (0.8 + 0.4 * jitter));
COMMENT ON FUNCTION ecstats.delivery_backoff(int, float8) IS
	'Wait after the attempts-th failure: 1, 2, 4, ... minutes (at most 64), less or more by 20 % as jitter goes from 0 to 1.';
-- sql/49_delivery_claim.sql
-- What the pusher takes: finished requests, a lease on each, the attempt recorded before it leaves.

-- The request of a claimed delivery at an instant. It holds credentials and is never stored.
CREATE FUNCTION ecstats.delivery_request(delivery bigint, at timestamptz,
	OUT transport text, OUT method text, OUT url text, OUT headers text[], OUT body text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	c ecstats.channels;
	k ecstats.channel_kinds;
	seconds bigint := floor(extract(epoch FROM at));
	ms bigint := floor(extract(epoch FROM at) * 1000);
	message_id text;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = delivery;
	SELECT * INTO c FROM ecstats.channels r WHERE r.name = d.channel;
	SELECT * INTO k FROM ecstats.channel_kinds r WHERE r.kind = c.kind;
	transport := k.transport;
	method := k.method;
	url := c.url;
	headers := ARRAY['Content-Type: ' || k.content_type];
	body := d.body::text;
	CASE k.signature
		WHEN 'dingtalk' THEN
			IF c.secret IS NOT NULL THEN
				url := format('%s%stimestamp=%s&sign=%s', url, CASE WHEN strpos(url, '?') > 0 THEN '&' ELSE '?' END,
					ms, ecstats.sign_dingtalk(c.secret, ms));
			END IF;
		WHEN 'feishu' THEN
			IF c.secret IS NOT NULL THEN
				body := (d.body || jsonb_build_object('timestamp', seconds::text, 'sign', ecstats.sign_feishu(c.secret, seconds)))::text;
			END IF;
		WHEN 'standard-webhooks' THEN
			-- the same at every attempt, and another one in a database that continues from a copy
			message_id := format('msg_%s_%s', d.id, to_hex((extract(epoch FROM d.created_at) * 1000000)::bigint));
			headers := headers || ARRAY['webhook-id: ' || message_id, 'webhook-timestamp: ' || seconds];
			IF c.secret IS NOT NULL THEN
				headers := headers || ('webhook-signature: ' || ecstats.sign_standard_webhook(c.secret, message_id, seconds, body));
			END IF;
		ELSE NULL;
	END CASE;
END $$;
COMMENT ON FUNCTION ecstats.delivery_request(bigint, timestamptz) IS
	'URL, headers and body of a delivery, signed for the instant at. Holds credentials: for the pusher alone.';

-- How many deliveries of a channel may be claimed now. Takes the channel's state row, which nobody
-- waits for: who meets it locked leaves the channel to the other claimer.
CREATE FUNCTION ecstats.delivery_room(channel text, at timestamptz) RETURNS int
	LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	settings jsonb := ecstats.channel_settings(channel);
	s ecstats.channel_state;
	r record;
	used int;
	oldest timestamptz;
	room int;
	full_until timestamptz;
BEGIN
	SELECT * INTO s FROM ecstats.channel_state t WHERE t.channel = delivery_room.channel FOR UPDATE SKIP LOCKED;
	IF NOT FOUND OR s.throttled_until > at OR s.paused_until > at THEN
		RETURN 0;
	END IF;
	room := CASE WHEN s.paused_until IS NULL THEN (settings ->> 'lane')::numeric ELSE 1 END
		- (SELECT count(*) FROM ecstats.deliveries d WHERE d.channel = delivery_room.channel AND d.status = 'sending');
	-- the tokens of a rate are the requests of its last per_seconds, whichever pusher made them
	FOR r IN SELECT (e ->> 'count')::numeric::int AS count, make_interval(secs => (e ->> 'per_seconds')::float8) AS per
		FROM jsonb_path_query(settings, '$.rate[*] ? (@ != null)') e
	LOOP
		SELECT count(*), min(a.started_at) INTO used, oldest FROM (
			SELECT t.started_at FROM ecstats.delivery_attempts t
			WHERE t.channel = delivery_room.channel AND t.started_at > at - r.per
			ORDER BY t.started_at DESC LIMIT r.count) a;
		room := least(room, r.count - used);
		IF used >= r.count THEN
			full_until := greatest(full_until, oldest + r.per);
		END IF;
	END LOOP;
	-- written even if nothing changes: under REPEATABLE READ the second claimer then fails instead of
	-- counting by an old snapshot
	UPDATE ecstats.channel_state t SET rate_until = full_until, last_claim_at = at WHERE t.channel = delivery_room.channel;
	RETURN greatest(room, 0);
END $$;
COMMENT ON FUNCTION ecstats.delivery_room(text, timestamptz) IS
	'How many more deliveries of a channel may leave at the instant at, by lane, rate, throttle and breaker; 0 while another transaction claims it. Locks the channel''s state row.';

CREATE FUNCTION ecstats.delivery_expire(at timestamptz) RETURNS int
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	e record;
	expired int := 0;
BEGIN
	FOR e IN SELECT d.id, d.last_error FROM ecstats.deliveries d WHERE d.status = 'pending' AND d.expires_at <= at
		ORDER BY d.expires_at LIMIT 500 FOR UPDATE SKIP LOCKED
	LOOP
		PERFORM ecstats.delivery_move(e.id, '{pending}', 'expired', at, error => coalesce(e.last_error, 'expired before it could be sent'));
		expired := expired + 1;
	END LOOP;
	RETURN expired;
END $$;
COMMENT ON FUNCTION ecstats.delivery_expire(timestamptz) IS 'Moves pending deliveries whose time is over by at to expired. Returns how many.';

-- Due deliveries in order of priority, then age, over all channels. Each channel is locked when its
-- first row comes up, and its rows are read again under that lock.
CREATE FUNCTION ecstats.delivery_claim_at(worker text, max_rows int, at timestamptz, jitter float8 DEFAULT NULL)
	RETURNS TABLE (delivery_id bigint, attempt int, transport text, method text, url text, headers text[], body text, timeout_ms int, allow_private boolean)
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	lease interval := coalesce((SELECT f.delivery_lease FROM ecstats.config f), interval '1 minute');
	cand record;
	d ecstats.deliveries;
	settings jsonb;
	room jsonb := '{}';
	why text;
	claimed int := 0;
BEGIN
	IF worker IS NULL OR worker = '' OR length(worker) > 200 THEN
		RAISE EXCEPTION 'worker must be a name of 1 to 200 characters' USING ERRCODE = '22023';
	ELSIF max_rows IS NULL OR max_rows < 1 OR NOT ecstats.delivery_is_home() THEN
		RETURN;
	END IF;
	INSERT INTO ecstats.channel_state (channel) SELECT c.name FROM ecstats.channels c
		WHERE NOT EXISTS (SELECT FROM ecstats.channel_state s WHERE s.channel = c.name) ORDER BY c.name
		ON CONFLICT DO NOTHING;
	PERFORM ecstats.delivery_lapse(at, jitter);
	PERFORM ecstats.delivery_expire(at);

	FOR cand IN
		SELECT w.id, c.name AS channel
		FROM ecstats.channels c
		JOIN ecstats.channel_kinds k ON k.kind = c.kind
		JOIN ecstats.channel_state s ON s.channel = c.name
		CROSS JOIN LATERAL (SELECT q.id, q.priority, q.next_attempt_at FROM ecstats.deliveries q
			WHERE q.channel = c.name AND q.status = 'pending' AND q.next_attempt_at <= at
			ORDER BY q.priority, q.next_attempt_at, q.id
			LIMIT least(coalesce(((k.options || c.options) ->> 'lane')::numeric, 1), max_rows)) w
		WHERE c.enabled AND coalesce(s.throttled_until <= at, true) AND coalesce(s.paused_until <= at, true)
		ORDER BY w.priority, w.next_attempt_at, w.id
	LOOP
		EXIT WHEN claimed >= max_rows;
		IF NOT room ? cand.channel THEN
			room := room || jsonb_build_object(cand.channel, ecstats.delivery_room(cand.channel, at));
		END IF;
		CONTINUE WHEN (room ->> cand.channel)::int < 1;
		SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = cand.id AND r.status = 'pending' FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		room := room || jsonb_build_object(cand.channel, (room ->> cand.channel)::int - 1);

		delivery_id := d.id;
		attempt := d.requests + 1;
		PERFORM ecstats.delivery_move(d.id, '{pending}', 'sending', at, attempts => d.attempts + 1, worker => worker, lease_until => at + lease);
		INSERT INTO ecstats.delivery_attempts (delivery_id, attempt, channel, started_at, worker) VALUES (d.id, d.requests + 1, d.channel, at, worker);
		settings := ecstats.channel_settings(d.channel);
		allow_private := (settings ->> 'allow_private')::boolean;
		timeout_ms := 1000 * least((settings ->> 'timeout_seconds')::float8, 0.9 * extract(epoch FROM lease)::float8);
		BEGIN
			SELECT q.transport, q.method, q.url, q.headers, q.body INTO transport, method, url, headers, body FROM ecstats.delivery_request(d.id, at) q;
		EXCEPTION WHEN OTHERS THEN
			-- one channel's bad secret must not stop the others
			why := 'the request cannot be made: ' || SQLERRM;
			UPDATE ecstats.delivery_attempts a SET finished_at = at, answered_at = at, result = 'permanent', error = why
				WHERE a.delivery_id = d.id AND a.attempt = d.requests + 1;
			PERFORM ecstats.delivery_conclude(d.id, 'permanent', NULL, why, at, jitter);
			CONTINUE;
		END;
		claimed := claimed + 1;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION ecstats.delivery_claim_at(text, int, timestamptz, float8) IS
	'ecstats.delivery_claim at the instant at; jitter 0..1 for the back-off of leases that ran out, NULL random.';

CREATE FUNCTION ecstats.delivery_claim(worker text, max_rows int)
	RETURNS TABLE (delivery_id bigint, attempt int, transport text, method text, url text, headers text[], body text, timeout_ms int, allow_private boolean)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT * FROM ecstats.delivery_claim_at(worker, max_rows, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.delivery_claim(text, int) IS
	'Leases up to max_rows due deliveries to worker, priority first, then age, and returns their requests, ready to send. Commit before sending. '
	'Nothing in a database that is a copy (ecstats_adopt). 22023 when worker is empty.';

-- When a claim may next find something: due rows of open channels, leases and expiries.
CREATE FUNCTION ecstats.pusher_beat_at(worker text, at timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.pushers (worker, version, started_at, last_beat)
		VALUES (pusher_beat_at.worker, substring(current_setting('application_name') FROM '^ecstats-pusher[ /]([0-9][0-9.]{0,20})'), at, at)
		ON CONFLICT ON CONSTRAINT pushers_pkey DO UPDATE SET version = excluded.version, last_beat = excluded.last_beat;
	RETURN CASE WHEN ecstats.delivery_is_home() THEN least(
		(SELECT min(greatest(h.due, s.throttled_until, s.paused_until, s.rate_until, busy.until))
			FROM ecstats.channels c
			JOIN ecstats.channel_kinds k ON k.kind = c.kind
			LEFT JOIN ecstats.channel_state s ON s.channel = c.name
			CROSS JOIN LATERAL (SELECT min(d.next_attempt_at) AS due FROM ecstats.deliveries d WHERE d.channel = c.name AND d.status = 'pending') h
			LEFT JOIN LATERAL (SELECT min(d.lease_until) AS until FROM ecstats.deliveries d WHERE d.channel = c.name AND d.status = 'sending'
				HAVING count(*) >= CASE WHEN s.paused_until IS NULL THEN coalesce(((k.options || c.options) ->> 'lane')::numeric, 1) ELSE 1 END) busy ON true
			WHERE c.enabled AND h.due IS NOT NULL),
		(SELECT min(d.lease_until) FROM ecstats.deliveries d WHERE d.status = 'sending'),
		(SELECT min(d.expires_at) FROM ecstats.deliveries d WHERE d.status = 'pending'),
		ecstats.pipeline_next_due(at)) END;
END $$;
COMMENT ON FUNCTION ecstats.pusher_beat_at(text, timestamptz) IS 'ecstats.pusher_beat at the instant at.';

CREATE FUNCTION ecstats.pusher_beat(worker text) RETURNS timestamptz
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.pusher_beat_at(worker, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.pusher_beat(text) IS
	'Heartbeat of a pusher. Returns when a claim will next find something (past: now), NULL when nothing is known to come.';
-- sql/49_delivery_settle.sql
-- From what an answer means to the delivery's next state. The pusher reports facts and decides nothing.

-- Counts a failure against the channel. With a breaker the failures-th one in a row pauses it, and
-- so does each failed probe after the pause.
CREATE FUNCTION ecstats.channel_failed(channel text, breaker jsonb, at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.channel_state s SET failures = s.failures + 1,
		paused_until = CASE WHEN s.failures + 1 >= (breaker ->> 'failures')::numeric
			THEN at + make_interval(secs => (breaker ->> 'pause_seconds')::float8) ELSE s.paused_until END
	WHERE s.channel = channel_failed.channel;
END $$;
COMMENT ON FUNCTION ecstats.channel_failed(text, jsonb, timestamptz) IS 'Counts a failure of a channel and opens its breaker, if it has one.';

-- What follows from a result of the attempt that a delivery is in. Returns the outcome.
CREATE FUNCTION ecstats.delivery_conclude(delivery bigint, result text, wait interval, error text, at timestamptz, jitter float8) RETURNS text
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	settings jsonb;
	next_at timestamptz;
	final boolean;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = delivery FOR UPDATE;
	settings := ecstats.channel_settings(d.channel);
	IF result = 'sent' THEN
		PERFORM ecstats.delivery_move(d.id, '{sending,pending,dead,expired,cancelled}', 'sent', at, error => error);
		UPDATE ecstats.channel_state s SET failures = 0, paused_until = NULL
			WHERE s.channel = d.channel AND (s.failures > 0 OR s.paused_until IS NOT NULL);
		RETURN 'sent';
	ELSIF result = 'throttled' THEN
		next_at := at + coalesce(wait, make_interval(secs => (settings ->> 'throttle_seconds')::float8));
		UPDATE ecstats.channel_state s SET throttled_until = greatest(s.throttled_until, next_at) WHERE s.channel = d.channel;
		PERFORM ecstats.delivery_move(d.id, '{sending}', 'pending', at, next_attempt_at => next_at, attempts => d.attempts - 1, error => error);
		RETURN 'throttled';
	END IF;

	IF result <> 'permanent' THEN
		PERFORM ecstats.channel_failed(d.channel, settings -> 'breaker', at);
	END IF;
	final := result = 'permanent'
		OR result = 'unconfirmed' AND settings ->> 'on_unconfirmed' = 'hold'
		OR result = 'once' AND EXISTS (SELECT FROM ecstats.delivery_attempts a WHERE a.delivery_id = d.id AND a.result = 'once'
			AND a.attempt < d.requests AND a.attempt > d.requests - d.attempts)
		OR d.attempts > (settings ->> 'max_retries')::numeric;
	IF final THEN
		PERFORM ecstats.delivery_move(d.id, '{sending}', 'dead', at, error => error);
		IF d.source IS NULL THEN
			PERFORM ecstats.delivery_tell_operators('delivery', format('dead:%s:%s', d.id, d.requests),
				format('Delivery %s to channel %s is dead', d.id, d.channel),
				format('%s (attempt %s). After the cause is gone: SELECT ecstats_replay(%s)', error, d.attempts, d.id));
		END IF;
		RETURN 'dead';
	ELSIF d.expires_at <= at THEN
		PERFORM ecstats.delivery_move(d.id, '{sending}', 'expired', at, error => error);
		RETURN 'expired';
	END IF;
	next_at := at + greatest(ecstats.delivery_backoff(d.attempts, coalesce(jitter, random())), wait);
	PERFORM ecstats.delivery_move(d.id, '{sending}', 'pending', at, next_attempt_at => next_at, error => error);
	RETURN 'retry';
END $$;
COMMENT ON FUNCTION ecstats.delivery_conclude(bigint, text, interval, text, timestamptz, float8) IS
	'Moves a delivery by the result of its attempt: sent, throttled, retry, dead or expired. wait is the provider''s; jitter 0..1, NULL random.';

-- Leases that ran out: the answer is unknown. Never waits for a row that somebody settles.
CREATE FUNCTION ecstats.delivery_lapse(at timestamptz, jitter float8) RETURNS int
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	why text;
	lapsed int := 0;
BEGIN
	FOR d IN SELECT * FROM ecstats.deliveries r WHERE r.status = 'sending' AND r.lease_until <= at
		ORDER BY r.channel, r.id LIMIT 200 FOR UPDATE SKIP LOCKED
	LOOP
		why := format('attempt %s: no answer from worker %s before its lease ran out; it may have been delivered', d.requests, d.worker);
		UPDATE ecstats.delivery_attempts a SET finished_at = at, result = 'unconfirmed', error = why
			WHERE a.delivery_id = d.id AND a.attempt = d.requests;
		PERFORM ecstats.delivery_conclude(d.id, 'unconfirmed', NULL, why, at, jitter);
		lapsed := lapsed + 1;
	END LOOP;
	RETURN lapsed;
END $$;
COMMENT ON FUNCTION ecstats.delivery_lapse(timestamptz, float8) IS 'Puts back (or holds) deliveries whose lease ended by at. Returns how many.';

-- One result: records the answer, then moves the delivery. An answer that comes after its lease moves
-- it only when it says sent (or, for the channel, to wait).
CREATE FUNCTION ecstats.delivery_settle_one(fact jsonb, at timestamptz, jitter float8) RETURNS text
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	c ecstats.channels;
	k ecstats.channel_kinds;
	answer jsonb := ecstats.delivery_answer(fact);
	code text;
	verdict text;
	said text;
	problem text;
	wait interval;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = (fact ->> 'delivery_id')::bigint FOR UPDATE;
	PERFORM FROM ecstats.delivery_attempts a
		WHERE a.delivery_id = d.id AND a.attempt = (fact ->> 'attempt')::int AND a.answered_at IS NULL FOR UPDATE;
	IF NOT FOUND THEN
		RETURN 'ignored';
	END IF;
	SELECT * INTO c FROM ecstats.channels r WHERE r.name = d.channel;
	SELECT * INTO k FROM ecstats.channel_kinds r WHERE r.kind = c.kind;
	code := ecstats.delivery_code(k, answer);
	verdict := ecstats.delivery_classify(k, answer, (fact ->> 'request_sent')::boolean);
	wait := ecstats.delivery_wait(k, answer, at);
	said := coalesce(jsonb_path_query_first(answer, k.message_path, '{}', true) #>> '{}', fact ->> 'error');
	IF verdict <> 'sent' OR answer @@ k.warning THEN
		problem := concat_ws(': ', concat_ws(', ', CASE verdict WHEN 'sent' THEN 'sent with a warning' WHEN 'unconfirmed' THEN 'it may have been delivered' END,
			'HTTP ' || (answer ->> 'http_status'), answer ->> 'error_kind', 'code ' || code), nullif(said, code));
		problem := left(ecstats.delivery_mask(problem, c.url, c.secret), 500);
	END IF;
	UPDATE ecstats.delivery_attempts a SET
			answered_at = at, finished_at = at, result = verdict,
			http_status = (answer ->> 'http_status')::int, provider_code = ecstats.delivery_mask(code, c.url, c.secret),
			error_kind = answer ->> 'error_kind', elapsed_ms = (fact ->> 'elapsed_ms')::numeric::int, error = problem,
			response = ecstats.delivery_cut(ecstats.delivery_mask(fact ->> 'response', c.url, c.secret), 4096)
		WHERE a.delivery_id = d.id AND a.attempt = (fact ->> 'attempt')::int;

	IF d.status = 'sending' AND d.requests = (fact ->> 'attempt')::int OR verdict = 'sent' AND d.status <> 'sent' THEN
		RETURN ecstats.delivery_conclude(d.id, verdict, wait, problem, at, jitter);
	ELSIF verdict = 'throttled' THEN
		UPDATE ecstats.channel_state s SET throttled_until = greatest(s.throttled_until,
			at + coalesce(wait, make_interval(secs => (ecstats.channel_settings(d.channel) ->> 'throttle_seconds')::float8)))
			WHERE s.channel = d.channel;
	END IF;
	RETURN 'ignored';
END $$;
COMMENT ON FUNCTION ecstats.delivery_settle_one(jsonb, timestamptz, float8) IS
	'Records one result of the pusher and moves its delivery. Returns sent, retry, throttled, dead, expired, or ignored (settled before, unknown, or too late to matter).';

-- Locks the deliveries first, then goes channel by channel: two settles and a claim never wait in a circle.
CREATE FUNCTION ecstats.delivery_settle_at(worker text, results jsonb, at timestamptz, jitter float8 DEFAULT NULL)
	RETURNS TABLE (delivery_id bigint, attempt int, outcome text)
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	fact jsonb;
BEGIN
	IF jsonb_typeof(results) IS DISTINCT FROM 'array' OR results @? '$[*] ? (!(@.delivery_id.type() == "number" && @.attempt.type() == "number"))' THEN
		RAISE EXCEPTION 'results must be an array of objects with delivery_id and attempt' USING ERRCODE = '22023',
			HINT = 'doc/delivery.md has the members of a result.';
	END IF;
	PERFORM FROM ecstats.deliveries d WHERE d.id IN (SELECT (r ->> 'delivery_id')::bigint FROM jsonb_array_elements(results) r)
		ORDER BY d.id FOR UPDATE;
	FOR fact IN SELECT r FROM jsonb_array_elements(results) WITH ORDINALITY AS t(r, n)
		LEFT JOIN ecstats.deliveries d ON d.id = (r ->> 'delivery_id')::bigint ORDER BY d.channel, n
	LOOP
		delivery_id := (fact ->> 'delivery_id')::bigint;
		attempt := (fact ->> 'attempt')::int;
		outcome := ecstats.delivery_settle_one(fact, at, jitter);
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION ecstats.delivery_settle_at(text, jsonb, timestamptz, float8) IS
	'ecstats.delivery_settle at the instant at; jitter 0..1 for the back-off, NULL random. 22023 when results is no array of results.';

CREATE FUNCTION ecstats.delivery_settle(worker text, results jsonb) RETURNS TABLE (delivery_id bigint, attempt int, outcome text)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT * FROM ecstats.delivery_settle_at(worker, results, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.delivery_settle(text, jsonb) IS
	'The pusher''s answers: an array of {"delivery_id", "attempt", "http_status", "error_kind", "request_sent", "error", "response", "headers", "elapsed_ms"}. '
	'Returns an outcome each; settling twice is ignored.';
-- sql/50_pipeline.sql
-- The only place where areas meet.

-- ecstats_retry_rejects: takes those rejects that are valid now.
-- Arguments: source 'track' or 'order', NULL for both. Result: rejects taken in. Rejects that are still bad
-- stay, with today's reason, and so do orders that were sent again since. Touches ecstats.rejects and what the intake touches.
CREATE FUNCTION @extschema@.ecstats_retry_rejects(source text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	r record;
	taken bigint := 0;
	code text;
	message text;
	more text;
	cure text;
BEGIN
	IF source IS NOT NULL AND source NOT IN ('track', 'order') THEN
		RAISE EXCEPTION 'rejects of this source are not retried'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(source, 60)),
				  HINT = 'Sources are track and order; leave it out for both. Rejects of a source are taken by its next run (ecstats_collect), of a landed table by themselves.';
	END IF;
	-- All the locks of orders at once, as an intake takes them: one by one they would meet it in a deadlock.
	PERFORM ecstats.order_lock_buckets(array(
		SELECT DISTINCT b FROM ecstats.rejects j, unnest(ecstats.order_buckets(j.payload)) AS b
		 WHERE j.source = 'order' AND j.day IS NULL AND jsonb_typeof(j.payload) = 'object'
		   AND (ecstats_retry_rejects.source IS NULL OR ecstats_retry_rejects.source = 'order')
		 ORDER BY b));
	FOR r IN SELECT j.id, j.source AS origin, j.payload FROM ecstats.rejects j
			  WHERE j.source IN ('track', 'order') AND j.day IS NULL	-- those of a source belong to its next run
				AND (ecstats_retry_rejects.source IS NULL OR j.source = ecstats_retry_rejects.source)
				AND jsonb_typeof(j.payload) = 'object'		-- else it was no element and is none now
			  ORDER BY j.source, CASE j.source WHEN 'order' THEN -j.id ELSE j.id END FOR UPDATE LOOP
		-- An order that was stored since is newer than its reject, and so is a reject of it that came later.
		IF r.origin = 'order' THEN
			PERFORM ecstats.order_lock(r.payload);		-- of one that came since, too: before the look
		END IF;
		CONTINUE WHEN r.origin = 'order' AND EXISTS (
			SELECT FROM ecstats.order_parse(r.payload, false) p
			 WHERE p.sqlstate IS NULL AND EXISTS (		-- one look into the key's index, see ecstats.order_store
				SELECT FROM ecstats.order_lines l
				 WHERE l.order_id = p.order_id AND l.order_time IS NOT DISTINCT FROM p.order_time OFFSET 0));
		BEGIN
			IF r.origin = 'track' THEN
				PERFORM @extschema@.ecstats_track(r.payload, 'raise');
			ELSE
				PERFORM @extschema@.ecstats_order(r.payload, 'raise');
			END IF;
			DELETE FROM ecstats.rejects j WHERE j.id = r.id;
			taken := taken + 1;
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL, cure = PG_EXCEPTION_HINT;
			message := concat_ws(' ', message || '.', nullif(more, ''), nullif(cure, ''));
			UPDATE ecstats.rejects j SET sqlstate = code, reason = message WHERE j.id = r.id AND (j.sqlstate, j.reason) <> (code, message);
		END;
	END LOOP;
	RETURN taken;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_retry_rejects(text) IS
	'Takes in the rejects of a source (track, order, or NULL for both) that are valid now and returns how many; the others stay.';


-- ecstats_daily: closes a business day.
-- First closes, in order, every ended day before it that has data and is not closed, and computes every
-- closed day whose rows changed since; then their weeks and months; then users are scored. Its reports are queued at its first close.
-- Arguments: day (default: yesterday). Result: its row of ecstats.daily_kpi. Errors: 22023 for a day that has
-- not ended. Touches the rollup tables, and the deliveries of its reports.
CREATE FUNCTION @extschema@.ecstats_daily(day date DEFAULT @extschema@.ecstats_day() - 1) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	at timestamptz := clock_timestamp();
	due date[];
	d date;
	closed record;
	moved date[] := '{}';			-- days whose number of new users changed by what happened to others
	moved_users bigint[] := '{}';
	is_new boolean := false;
	caught_up date[] := '{}';
	result ecstats.daily_kpi;
BEGIN
	PERFORM ecstats.day_must_have_ended(day, at);
	PERFORM ecstats.must_be_read_committed('ecstats_daily closes days');
	PERFORM ecstats.rollup_lock();
	PERFORM ecstats.rollup_partitioned();

	due := array(SELECT ecstats.rollup_open_days(day)
				 UNION SELECT ecstats.rollup_stale_days()
				 UNION SELECT day WHERE NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = ecstats_daily.day)
				 ORDER BY 1);
	FOREACH d IN ARRAY due LOOP
		SELECT * INTO STRICT closed FROM ecstats.rollup_close(d, at);
		moved := moved || closed.moved;
		moved_users := moved_users || closed.moved_users;
		IF closed.first AND d = day THEN
			is_new := true;
		ELSIF closed.first THEN
			caught_up := caught_up || d;
		END IF;
	END LOOP;
	PERFORM ecstats.rollup_put_new_users(moved, moved_users, due, at);
	PERFORM ecstats.rollup_periods(due, at);
	PERFORM ecstats.rollup_settle(at);
	PERFORM ecstats.pipeline_score(day, due || moved);
	-- What is told comes last: it may speak of the week and the month.
	IF is_new THEN
		PERFORM ecstats.pipeline_queue_reports(day);
	END IF;
	IF caught_up <> '{}' THEN
		PERFORM ecstats.pipeline_caught_up(day, caught_up);
	END IF;

	SELECT * INTO STRICT result FROM ecstats.daily_kpi k WHERE k.day = ecstats_daily.day;
	RETURN result;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_daily(date) IS
	'Closes a business day (default yesterday) after every earlier one that is open and has data, computes again what changed, scores users, queues its reports at the first close; returns its row. 22023 for a day that has not ended, 25000 unless READ COMMITTED.';

-- ecstats.day_must_have_ended: 22023 unless the day is over.
CREATE FUNCTION ecstats.day_must_have_ended(day date, at timestamptz) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF day IS NULL OR NOT isfinite(day) OR day < date '1999-12-30' THEN
		RAISE EXCEPTION 'no such business day'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Day: %s.', coalesce(day::text, 'NULL')),
				  HINT = 'Give a date from 2000 on.';
	END IF;
	IF ecstats.day_start(day + 1) > at THEN
		RAISE EXCEPTION 'the business day has not ended'
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('Day %s ends at %s.', day, ecstats.day_start(day + 1)),
				  HINT = 'SELECT * FROM ecstats_today() computes the running day and writes nothing.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.day_must_have_ended(date, timestamptz) IS '22023 unless the business day is over at an instant.';

-- ecstats.pipeline_figures: the figures of a day that is not closed, with its new users, from one scan of its
-- events. Writes nothing.
CREATE FUNCTION ecstats.pipeline_figures(the_day date) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	k ecstats.daily_kpi;
	from_time timestamptz := ecstats.day_start(the_day);
	to_time timestamptz := ecstats.day_start(the_day + 1);
	-- Days that have ended and are not closed yet know their users only as raw rows.
	open_days date[] := array(SELECT ecstats.rollup_open_days(the_day));
	event_totals jsonb;
	order_totals jsonb;
	users bytea[];
	new_users bigint;
BEGIN
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(from_time, to_time, ecstats.rollup_page_views(), '{}', true)
	)
	SELECT (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v')),
		   (SELECT coalesce(array_agg(e.packed ORDER BY e.name COLLATE "C"), '{}') FROM e WHERE e.kind = 'u')
	  INTO event_totals, users;
	SELECT m.users INTO STRICT new_users FROM ecstats.rollup_first_merge(the_day, users) m WHERE m.of_day = the_day;
	IF open_days <> '{}' THEN
		new_users := new_users - (SELECT count(*) FROM (
			SELECT u.user_id FROM unnest(users) b CROSS JOIN LATERAL ecstats.rollup_users_unpack(b) u
			INTERSECT
			SELECT u.user_id FROM unnest(open_days) d
			 CROSS JOIN LATERAL ecstats.rollup_scan_events(ecstats.day_start(d), ecstats.day_start(d + 1), '{}', '{}', true) e
			 CROSS JOIN LATERAL ecstats.rollup_users_unpack(e.packed) u WHERE e.kind = 'u') known
		 WHERE NOT EXISTS (SELECT FROM ecstats.first_seen f WHERE f.user_id = known.user_id AND f.day < the_day));
	END IF;
	SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') INTO order_totals
	  FROM ecstats.rollup_scan_orders(from_time, to_time, ecstats.rollup_abnormal()) o
	 WHERE o.kind IN ('t', 'r', 'a', 'p');

	k := ecstats.rollup_kpi(the_day, event_totals, order_totals);
	k.new_user_count := new_users;
	RETURN k;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_figures(date) IS 'Figures of a day that is not closed, as a row of daily_kpi with revision 0; writes nothing.';

-- ecstats_today: the running business day so far.
-- Result: a row like those of ecstats.daily_kpi, revision 0, not complete. Writes nothing.
CREATE FUNCTION @extschema@.ecstats_today() RETURNS ecstats.daily_kpi
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
	$$ SELECT ecstats.pipeline_figures(ecstats.day_of(clock_timestamp())) $$;
COMMENT ON FUNCTION @extschema@.ecstats_today() IS
	'Figures of the running business day so far, as a row of daily_kpi with revision 0; writes nothing.';

-- ecstats.pipeline_live: what a report needs of a day that has begun and is not closed; NULL for others.
CREATE FUNCTION ecstats.pipeline_live(the_day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	from_time timestamptz;
	to_time timestamptz;
BEGIN
	IF the_day IS NULL OR NOT the_day BETWEEN date '1999-12-30' AND ecstats.day_of(clock_timestamp())
		OR EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = the_day) THEN
		RETURN NULL;
	END IF;
	from_time := ecstats.day_start(the_day);
	to_time := ecstats.day_start(the_day + 1);
	RETURN jsonb_build_object(
		'kpi', to_jsonb(ecstats.pipeline_figures(the_day)),
		'at', ecstats.report_timestamp(clock_timestamp(), (SELECT c.timezone FROM ecstats.config c)),
		'sales', (SELECT coalesce(jsonb_agg(jsonb_build_object('day', the_day, 'product_id', o.product_id, 'region', o.region,
							'channel', o.channel, 'total_sold', o.quantity, 'total_revenue', o.amount, 'order_count', o.orders,
							'buyer_count', o.buyers, 'refund_amount', o.refund)), '[]')
					FROM ecstats.rollup_scan_orders(from_time, to_time, '{}') o WHERE o.kind = 's'),
		'funnel', (SELECT coalesce(jsonb_agg(jsonb_build_object('day', the_day, 'step', e.a, 'event', e.name, 'user_count', e.b)), '[]')
					 FROM ecstats.rollup_scan_events(from_time, to_time, '{}', ecstats.rollup_funnel(), false) e WHERE e.kind = 'f'));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_live(date) IS
	'{kpi, sales, funnel, at} of a business day that has begun and is not closed, from raw rows; NULL for a closed or a coming one. Writes nothing.';

-- sql/50_pipeline_score.sql
-- Scoring: from the stored days, and from what users bought, to a row a user. Part of each close.

-- ecstats.pipeline_score_span: days that one pass looks at.
CREATE FUNCTION ecstats.pipeline_score_span() RETURNS integer
	LANGUAGE sql IMMUTABLE AS $$ SELECT 380 $$;		-- the longest window, and the days before it whose levels are asked for
COMMENT ON FUNCTION ecstats.pipeline_score_span() IS 'Days that one pass over stored days looks at, at most.';

-- ecstats.pipeline_score_old: days that are too old to count in a score: who was there, and when last. After a back-fill
-- of years, or where such days were computed again.
CREATE FUNCTION ecstats.pipeline_score_old(as_of date, from_day date, to_day date) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	span CONSTANT integer := ecstats.pipeline_score_span();
	part_begin date := greatest(from_day, (SELECT min(k.day) FROM ecstats.daily_kpi k));
	part_end date;
BEGIN
	WHILE part_begin <= to_day LOOP
		part_end := least(part_begin + span - 1, to_day);
		INSERT INTO ecstats.user_activity AS a (user_id, as_of, last_active_day, first_seen)
		SELECT s.user_id, pipeline_score_old.as_of, s.last_active_day, s.first_seen
		  FROM ecstats.score_scan(part_end, part_begin, 1, 1, '{}', '{NULL,NULL}', '{NULL,NULL}') s WHERE s.in_range
		ON CONFLICT (user_id) DO UPDATE SET as_of = excluded.as_of, first_seen = excluded.first_seen,
			   last_active_day = greatest(a.last_active_day, excluded.last_active_day)
		 WHERE a.last_active_day IS NULL OR a.last_active_day < excluded.last_active_day OR a.first_seen IS DISTINCT FROM excluded.first_seen;
		-- Of those whose last day it was, that day may be gone. Each row is the last thing that is known of a user.
		UPDATE ecstats.user_activity a
		   SET as_of = pipeline_score_old.as_of, last_active_day = l.last_day, first_seen = l.first_day
		  FROM (SELECT u.user_id, e.last_day, e.first_day FROM ecstats.user_activity u
				  LEFT JOIN ecstats.score_scan(part_end, part_begin, 1, 1, '{}', '{NULL,NULL}', '{NULL,NULL}') s ON s.user_id = u.user_id AND s.in_range
				 CROSS JOIN LATERAL (SELECT max(x.day) AS last_day, min(x.day) AS first_day FROM ecstats.user_events(u.user_id) x) e
				 WHERE u.last_active_day BETWEEN part_begin AND part_end AND s.user_id IS NULL) l
		 WHERE a.user_id = l.user_id;
		PERFORM ecstats.activity_put_cohorts(part_begin, part_end);
		part_begin := part_end + 1;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score_old(date, date, date) IS 'Brings last and first days of users, and cohorts, to stored days that are too old to count in a score.';

-- ecstats.pipeline_score_users: a row a user as of a day, where something in it differs: of everybody with an event since a
-- day, of every buyer, whenever that was, and of everybody who has a row. Result: how many users there are.
CREATE FUNCTION ecstats.pipeline_score_users(the_day date, since date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET enable_mergejoin = off SET jit = off SET work_mem = '128MB' AS $$
DECLARE
	seen_from date := least(since, the_day - (SELECT c.score_window_days FROM ecstats.config c) - 13);	-- what the scan reads
BEGIN
	INSERT INTO ecstats.user_activity AS u (user_id, as_of, score, previous_score, level, previous_level, last_active_day, active_days,
		first_seen, last_high_day, order_count, paid_amount, last_order_day, favourite_channel, favourite_region)
	SELECT n.user_id, the_day, n.score, n.previous_score, n.level, n.previous_level, n.last_active_day, n.active_days,
		   n.first_seen, n.last_high_day, n.order_count, n.paid_amount, n.last_order_day, n.favourite_channel, n.favourite_region
	  FROM (SELECT coalesce(s.user_id, a.user_id, b.user_id) AS user_id,
				   coalesce(s.score, 0) AS score, coalesce(s.previous_score, 0) AS previous_score,
				   coalesce(s.level, 'low') AS level, coalesce(s.previous_level, 'low') AS previous_level,
				   coalesce(s.active_days, 0) AS active_days, s.last_high_day,
				   -- Somebody of whom the scan should have seen an event and has not: it was deleted.
				   CASE WHEN s.user_id IS NOT NULL THEN s.last_active_day
						WHEN a.last_active_day < seen_from THEN a.last_active_day
						WHEN a.last_active_day IS NOT NULL THEN (SELECT max(x.day) FROM ecstats.user_events(a.user_id, '-infinity', the_day) x) END AS last_active_day,
				   CASE WHEN s.user_id IS NOT NULL THEN s.first_seen
						WHEN a.last_active_day < seen_from THEN a.first_seen
						WHEN a.last_active_day IS NOT NULL THEN (SELECT min(x.day) FROM ecstats.user_events(a.user_id, '-infinity', the_day) x) END AS first_seen,
				   coalesce(b.order_count, 0) AS order_count, coalesce(b.paid_amount, 0) AS paid_amount,
				   b.last_order_day, b.favourite_channel, b.favourite_region,
				   a.user_id AS had, a.score AS had_score, a.previous_score AS had_previous_score, a.level AS had_level,
				   a.previous_level AS had_previous_level, a.last_active_day AS had_last_active_day, a.active_days AS had_active_days,
				   a.first_seen AS had_first_seen, a.last_high_day AS had_last_high_day, a.order_count AS had_order_count,
				   a.paid_amount AS had_paid_amount, a.last_order_day AS had_last_order_day,
				   a.favourite_channel AS had_favourite_channel, a.favourite_region AS had_favourite_region
			  FROM ecstats.activity_scan(the_day, since) s
			  FULL JOIN ecstats.user_activity a ON a.user_id = s.user_id COLLATE "C"
			  FULL JOIN ecstats.rollup_buyers_at(the_day) b ON b.user_id = coalesce(s.user_id, a.user_id) COLLATE "C"
			 WHERE a.user_id IS NOT NULL OR s.in_range OR b.last_order_day IS NOT NULL) n
	 WHERE n.had IS NULL OR n.score <> n.had_score OR n.previous_score <> n.had_previous_score OR n.level <> n.had_level
		OR n.previous_level <> n.had_previous_level OR n.active_days <> n.had_active_days
		OR n.order_count <> n.had_order_count OR n.paid_amount <> n.had_paid_amount
		OR (n.last_active_day, n.first_seen, n.last_high_day, n.last_order_day, n.favourite_channel, n.favourite_region)
		   IS DISTINCT FROM (n.had_last_active_day, n.had_first_seen, n.had_last_high_day, n.had_last_order_day, n.had_favourite_channel, n.had_favourite_region)
	ON CONFLICT (user_id) DO UPDATE
	   SET as_of = excluded.as_of, score = excluded.score, previous_score = excluded.previous_score, level = excluded.level,
		   previous_level = excluded.previous_level, last_active_day = excluded.last_active_day, active_days = excluded.active_days,
		   first_seen = excluded.first_seen, last_high_day = excluded.last_high_day, order_count = excluded.order_count,
		   paid_amount = excluded.paid_amount, last_order_day = excluded.last_order_day,
		   favourite_channel = excluded.favourite_channel, favourite_region = excluded.favourite_region;
	RETURN (SELECT count(*) FROM ecstats.user_activity);
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score_users(date, date) IS
	'Brings ecstats.user_activity to a day, touching only rows that differ; returns how many users there are.';

-- ecstats.pipeline_score_write: all that follows from the users of stored days, as of one of them: scores, profiles,
-- quintiles, cohorts, tags. since: the first day whose users may have changed. Under ecstats.rollup_lock. Result: users scored.
CREATE FUNCTION ecstats.pipeline_score_write(the_day date, since date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	near date := greatest(since, the_day - ecstats.pipeline_score_span() + 1);
	users bigint;
BEGIN
	PERFORM ecstats.pipeline_score_old(the_day, since, near - 1);
	users := ecstats.pipeline_score_users(the_day, near);
	PERFORM ecstats.activity_put_state(the_day, clock_timestamp(), users);
	PERFORM ecstats.activity_put_cohorts(near, the_day);
	PERFORM ecstats.tag_write(the_day);
	RETURN users;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score_write(date, date) IS
	'Writes scores, profiles, quintiles, cohorts and tags as of a stored day, whose users and those of the days from since on may have changed; returns how many users there are.';

-- ecstats.pipeline_score: scoring as a part of a close. changed: days whose users may have changed. What fails here is told
-- and does not stop the close: the scores stay as they were, and the next run makes up for it.
CREATE FUNCTION ecstats.pipeline_score(the_day date, changed date[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state ecstats.activity_state;
	since date;
BEGIN
	INSERT INTO ecstats.activity_state DEFAULT VALUES ON CONFLICT DO NOTHING;	-- somebody has deleted it
	SELECT * INTO STRICT state FROM ecstats.activity_state;
	IF changed = '{}' AND state.stale_from IS NULL AND state.as_of >= the_day THEN
		RETURN;
	END IF;
	the_day := greatest(the_day, state.as_of);
	since := least((SELECT min(c) FROM unnest(changed) c), state.stale_from, ecstats.pipeline_score_since(the_day));
	BEGIN
		PERFORM ecstats.pipeline_score_write(the_day, since);
	EXCEPTION WHEN OTHERS THEN
		PERFORM ecstats.activity_stale(since);
		PERFORM ecstats.delivery_tell_operators('score', the_day::text, format('Users were not scored as of %s', the_day),
			format('%s: %s. The figures of the day are stored; the next close tries again, and SELECT ecstats_score(%L) does.', SQLSTATE, SQLERRM, the_day));
		RAISE WARNING 'users were not scored as of %: %', the_day, SQLERRM
			USING HINT = format('SELECT ecstats_score(%L) tries again.', the_day);
	END;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score(date, date[]) IS
	'Scores users as of a closed day, or of the latest day that was scored; a failure is told to the operators and warned of, never raised.';

-- ecstats.pipeline_score_since: the first day of the window of a score.
CREATE FUNCTION ecstats.pipeline_score_since(as_of date) RETURNS date
	LANGUAGE sql STABLE AS $$ SELECT as_of OPERATOR(pg_catalog.-) (c.score_window_days OPERATOR(pg_catalog.-) 1) FROM ecstats.config c $$;
COMMENT ON FUNCTION ecstats.pipeline_score_since(date) IS 'First day that counts in the score of a day.';

-- ecstats_score: scores users as of a closed day and writes ecstats.user_activity, cohorts and tags.
-- Argument: as_of (default: yesterday), not earlier than the last one. Result: how many users there are. A run that
-- finds nothing changed writes nothing. Errors: 22023 a day that has not ended, or before the last one; 55000 a day that is
-- not closed; 25000 unless READ COMMITTED; 53200 more users than config.rollup_memory has room for.
CREATE FUNCTION @extschema@.ecstats_score(as_of date DEFAULT @extschema@.ecstats_day() - 1) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state ecstats.activity_state;
BEGIN
	PERFORM ecstats.day_must_have_ended(as_of, clock_timestamp());
	PERFORM ecstats.must_be_read_committed('ecstats_score scores users');
	PERFORM ecstats.rollup_lock();
	INSERT INTO ecstats.activity_state DEFAULT VALUES ON CONFLICT DO NOTHING;	-- somebody has deleted it
	SELECT * INTO STRICT state FROM ecstats.activity_state;
	IF as_of < state.as_of THEN
		RAISE EXCEPTION 'users are scored as of a later day already'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Asked for %s, stored is %s.', as_of, state.as_of),
				  HINT = format('SELECT * FROM ecstats_scores(%L) computes the scores of any day and writes nothing.', as_of);
	END IF;
	IF NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = as_of) THEN
		RAISE EXCEPTION 'the business day is not closed'
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('Day: %s.', as_of),
				  HINT = format('SELECT ecstats_daily(%L) closes it, and scores users.', as_of);
	END IF;
	RETURN ecstats.pipeline_score_write(as_of, least(state.stale_from, ecstats.pipeline_score_since(as_of)));
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_score(date) IS
	'Scores users as of a closed day (default yesterday), writes ecstats.user_activity, cohorts and tags where something changed, returns how many users there are. 22023 a day that has not ended or before the last one, 55000 not closed, 25000 unless READ COMMITTED.';

-- ecstats_scores: the score of each user as of any day, from stored days. Writes nothing.
-- Argument: as_of. Result: users with an event in its window, and, with 0, all others of ecstats.user_activity. Errors: 22023.
CREATE FUNCTION @extschema@.ecstats_scores(as_of date) RETURNS TABLE (user_id text, score double precision)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET jit = off SET work_mem = '64MB' ROWS 100000 AS $$
BEGIN
	IF as_of IS NULL OR NOT isfinite(as_of) THEN
		RAISE EXCEPTION 'no such business day'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Day: %s.', coalesce(as_of::text, 'NULL')), HINT = 'Give a date.';
	END IF;
	RETURN QUERY
	SELECT coalesce(s.user_id, a.user_id), coalesce(s.score, 0)
	  FROM (SELECT * FROM ecstats.activity_scan(as_of, ecstats.pipeline_score_since(as_of)) x WHERE x.in_range) s
	  FULL JOIN ecstats.user_activity a ON a.user_id = s.user_id COLLATE "C";
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_scores(date) IS
	'Activity score of each user as of any day, from stored days; writes nothing. Users of ecstats.user_activity without an event in the window have 0. 22023 no date.';

-- ecstats_explain_score: what a user's score is made of.
-- Arguments: user_id; as_of. Result: a row for each day and event of the window: points = event_count x weight x decay, and
-- they sum to the score. Errors: 22004 NULL; P0002 a user without an event or an order. Writes nothing.
CREATE FUNCTION @extschema@.ecstats_explain_score(user_id text, as_of date DEFAULT @extschema@.ecstats_day() - 1)
	RETURNS TABLE (day date, event text, event_count bigint, weight numeric, decay double precision, points double precision)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 20 AS $$
DECLARE
	half_life double precision := (SELECT c.score_half_life_days FROM ecstats.config c);
BEGIN
	IF user_id IS NULL OR as_of IS NULL OR NOT isfinite(as_of) THEN
		RAISE EXCEPTION 'a user and a day are needed'
			USING ERRCODE = 'null_value_not_allowed', DETAIL = format('user_id is %s, as_of %s.', CASE WHEN user_id IS NULL THEN 'NULL' ELSE 'given' END, coalesce(as_of::text, 'NULL')),
				  HINT = 'SELECT * FROM ecstats_explain_score(user_id, day).';
	END IF;
	IF NOT EXISTS (SELECT FROM ecstats.user_activity a WHERE a.user_id = ecstats_explain_score.user_id COLLATE "C")
		AND NOT EXISTS (SELECT FROM ecstats.user_events(ecstats_explain_score.user_id)) THEN
		RAISE EXCEPTION 'there is no such user'
			USING ERRCODE = 'no_data_found', DETAIL = format('User: %L.', left(user_id, 60)),
				  HINT = 'Users are known from the first day that was closed with an event or an order of theirs.';
	END IF;
	RETURN QUERY
	SELECT e.day, e.event, e.event_count, w.weight, d.decay, (e.event_count * w.weight)::double precision * d.decay
	  FROM ecstats.user_events(ecstats_explain_score.user_id, ecstats.pipeline_score_since(as_of), as_of) e
	  LEFT JOIN ecstats.event_types t ON t.event = e.event COLLATE "C"
	 CROSS JOIN LATERAL (SELECT coalesce(t.weight, 0) AS weight) w
	 CROSS JOIN LATERAL (SELECT (as_of - e.day) / half_life AS halves) h
	 -- what is left of anything after that many is no number that a double has
	 CROSS JOIN LATERAL (SELECT CASE WHEN h.halves < 900 THEN 0.5::double precision ^ h.halves ELSE 0 END AS decay) d
	 ORDER BY e.day DESC, 6 DESC, e.event COLLATE "C";
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_explain_score(text, date) IS
	'What a user''s score as of a day is made of: days, events, counts, weights, decay and points, which sum to it. 22004 NULL, P0002 unknown user.';

-- sql/51_rebuild.sql
-- Computing stored days anew from raw rows, for years of them: a transaction a day.

-- ecstats.rollup_raw_gone: days of a range whose raw rows are not there any more, or not all of them: dropped by
-- retention or by somebody, or in a partition that is detached.
CREATE FUNCTION ecstats.rollup_raw_gone(from_day date, to_day date) RETURNS SETOF date
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.day FROM ecstats.day_state s
	 WHERE s.day BETWEEN from_day AND to_day
	   AND (s.frozen OR s.orders_dropped OR s.events_dropped OR s.partitioned AND NOT ecstats.rollup_partition_own(s.day))
	 ORDER BY s.day $$;
COMMENT ON FUNCTION ecstats.rollup_raw_gone(date, date) IS 'Closed days of a range that cannot be computed anew: raw rows dropped, or their partition detached.';

-- ecstats.rollup_rebuild_refuse: 55000 where a day of the range has lost its raw rows.
CREATE FUNCTION ecstats.rollup_rebuild_refuse(from_day date, to_day date) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone date[] := array(SELECT ecstats.rollup_raw_gone(from_day, to_day));
BEGIN
	IF gone <> '{}' THEN
		RAISE EXCEPTION 'days whose raw rows are gone cannot be rebuilt'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  DETAIL = format('Days: %s, the first is %s, the last %s.', cardinality(gone), gone[1], gone[cardinality(gone)]),
				  HINT = 'Their figures stay as they are: leave these days out. A partition of events that was detached can be attached again.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_rebuild_refuse(date, date) IS '55000 where a day of a range cannot be computed anew from raw rows.';

-- ecstats.rollup_rebuild_days: what a rebuild of a range has to do: its days that are stored, and those that have data.
-- Days that have neither cost nothing. Refuses before anything is changed.
CREATE FUNCTION ecstats.rollup_rebuild_days(from_day date, to_day date) RETURNS SETOF date
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM ecstats.day_must_have_ended(from_day, clock_timestamp());
	PERFORM ecstats.day_must_have_ended(to_day, clock_timestamp());
	IF from_day > to_day THEN
		RAISE EXCEPTION 'the range of days is upside down'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('From %s to %s.', from_day, to_day),
				  HINT = 'Give the earlier day first; both days are part of the range.';
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats_rebuild computes days');
	PERFORM ecstats.rollup_lock();
	PERFORM ecstats.rollup_rebuild_refuse(from_day, to_day);
	PERFORM ecstats.rollup_partitioned();
	RETURN QUERY SELECT s.day FROM ecstats.rollup_stored_days(from_day, to_day) s(day)
				 UNION SELECT o.day FROM ecstats.rollup_open_days(to_day + 1) o(day) WHERE o.day >= from_day
				 ORDER BY 1;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_rebuild_days(date, date) IS
	'Days of a range that are stored or have data, ascending. 22023 unless it is a range of days that have ended, 55000 where raw rows of one are gone, 25000 unless READ COMMITTED.';

-- ecstats.rollup_rebuild_day: one day, as ecstats_daily computes it, and in its order of locks. Result: at its first
-- close true, and the revision that it is at. The first close of the day that ended last is left to ecstats_daily: with
-- the open days before it, and with its reports.
CREATE FUNCTION ecstats.rollup_rebuild_day(the_day date, OUT first boolean, OUT revision integer, OUT changed boolean)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	at timestamptz := clock_timestamp();
	before integer;
	closed record;
BEGIN
	PERFORM ecstats.day_must_have_ended(the_day, at);
	PERFORM ecstats.must_be_read_committed('ecstats_rebuild computes days');
	PERFORM ecstats.rollup_lock();
	PERFORM ecstats.rollup_rebuild_refuse(the_day, the_day);	-- a run that was waited for may have dropped them
	before := (SELECT k.revision FROM ecstats.daily_kpi k WHERE k.day = the_day);
	IF before IS NULL AND the_day = ecstats.day_of(at) - 1 THEN
		PERFORM @extschema@.ecstats_daily(the_day);
		first := true;
	ELSE
		SELECT * INTO STRICT closed FROM ecstats.rollup_close(the_day, at, true);
		first := closed.first;
		PERFORM ecstats.rollup_put_new_users(closed.moved, closed.moved_users, ARRAY[the_day], at);
		PERFORM ecstats.rollup_periods(ARRAY[the_day], at);
		PERFORM ecstats.activity_stale(least(the_day, (SELECT min(m) FROM unnest(closed.moved) m)));
	END IF;
	SELECT k.revision INTO STRICT rollup_rebuild_day.revision FROM ecstats.daily_kpi k WHERE k.day = the_day;
	changed := NOT first AND rollup_rebuild_day.revision <> before;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_rebuild_day(date) IS
	'Computes one ended day anew from raw rows: whether this closed it first, the revision it is at now and whether that is a new one. 22023, 55000, 25000 as ecstats_rebuild.';

-- ecstats.rollup_rebuild_settle: the end of a rebuild: days that may be called complete by now.
CREATE FUNCTION ecstats.rollup_rebuild_settle() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats_rebuild computes days');
	PERFORM ecstats.rollup_lock();
	PERFORM ecstats.rollup_periods('{}', clock_timestamp());		-- of a week or month without a stored day, too
	PERFORM ecstats.rollup_settle(clock_timestamp());
	PERFORM ecstats.pipeline_score(k.day, '{}') FROM (SELECT max(d.day) AS day FROM ecstats.daily_kpi d) k WHERE k.day IS NOT NULL;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_rebuild_settle() IS 'Calls days complete that may be, brings weeks and months to the stored days, and scores users.';

-- ecstats_rebuild: computes each day of a range anew from raw rows, stored or not, marked or not. A day whose figures
-- come out as they were keeps its revision and its rows. Commits each day: interrupted, what is done stays done, and the
-- same call again ends it. application_name (pg_stat_activity) says where it is: "ecstats_rebuild 3/365 2026-01-03".
-- Arguments: from_day, to_day (both inclusive), days that have ended. Errors, before anything is changed: 22023 no such
-- range, 55000 a day whose raw rows are gone. Called with CALL, outside a transaction block. Touches the rollup tables.
CREATE PROCEDURE @extschema@.ecstats_rebuild(from_day date, to_day date)
	LANGUAGE plpgsql AS $$
DECLARE
	days pg_catalog.date[];
	n pg_catalog.int4;
	done pg_catalog.record;
	began pg_catalog.timestamptz;
	took pg_catalog.int8;
	late pg_catalog.date[] := '{}';
BEGIN
	-- COMMIT, and at once SET TRANSACTION, before anything takes a snapshot: one from before its locks misses rows.
	COMMIT;
	SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
	days := array(SELECT ecstats.rollup_rebuild_days(from_day, to_day));
	n := pg_catalog.cardinality(days);
	FOR i IN 1 .. n LOOP
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		began := pg_catalog.clock_timestamp();
		-- Of this transaction alone: it goes with its end, whichever that is.
		PERFORM pg_catalog.set_config('application_name', pg_catalog.format('ecstats_rebuild %s/%s %s', i, n, pg_catalog.to_char(days[i], 'YYYY-MM-DD')), true);
		SELECT * INTO done FROM ecstats.rollup_rebuild_day(days[i]);
		took := pg_catalog.round(pg_catalog.extract('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began) OPERATOR(pg_catalog.*) 1000::pg_catalog.numeric);
		IF done.first AND days[i] OPERATOR(pg_catalog.<) (ecstats.day_of(began) OPERATOR(pg_catalog.-) 1) THEN
			late := pg_catalog.array_append(late, days[i]);
		END IF;
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		RAISE NOTICE 'day %: %, revision %', days[i], CASE WHEN done.first THEN 'closed' WHEN done.changed THEN 'changed' ELSE 'unchanged' END, done.revision
			USING DETAIL = pg_catalog.format('Day %s of %s, %s ms.', i, n, took);
	END LOOP;
	COMMIT;
	SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
	PERFORM ecstats.rollup_rebuild_settle();
	COMMIT;
	IF pg_catalog.cardinality(late) OPERATOR(pg_catalog.>) 0 THEN
		RAISE NOTICE 'days that were not closed before: %, from % to %; their reports are not sent by themselves',
			pg_catalog.cardinality(late), late[1], late[pg_catalog.cardinality(late)]
			USING HINT = pg_catalog.format('SELECT ecstats_report(''daily'', %L) sends one.', late[pg_catalog.cardinality(late)]);
	END IF;
END
$$;
COMMENT ON PROCEDURE @extschema@.ecstats_rebuild(date, date) IS
	'Computes each ended day of a range (stored, or with data) anew from raw rows, a transaction and a NOTICE a day, progress in application_name; figures that are as they were keep their revision. 22023 no range of ended days, 55000 raw rows of a day are gone: nothing is changed then.';

-- ecstats.rollup_first_seen_anew: makes first_seen anew from the users of all stored days, which outlive raw rows as it
-- does, and restates the days whose number of new users comes out otherwise; the next scoring looks at all users. For an operator, where verify shows it wrong.
CREATE FUNCTION ecstats.rollup_first_seen_anew() RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	at timestamptz := clock_timestamp();
	days date[];
	new_users bigint[];
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats.rollup_first_seen_anew computes days');
	PERFORM ecstats.rollup_lock();
	DELETE FROM ecstats.first_seen_block;
	-- Each day in its order: a user is new on the first one that has him, and no other day changes.
	SELECT array_agg(k.day), array_agg(f.users) INTO days, new_users
	  FROM (SELECT d.day FROM ecstats.daily_kpi d ORDER BY d.day OFFSET 0) k CROSS JOIN LATERAL ecstats.rollup_first_seen(k.day, '{}') f;
	PERFORM ecstats.rollup_put_new_users(days, new_users, '{}', at);
	PERFORM ecstats.rollup_periods('{}', at);
	PERFORM ecstats.activity_stale(min(k.day)) FROM ecstats.daily_kpi k HAVING min(k.day) IS NOT NULL;
	RETURN (SELECT coalesce(sum(b.users), 0) FROM ecstats.first_seen_block b);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_first_seen_anew() IS
	'Makes first_seen anew from the users of all stored days, restates what comes out otherwise, and returns how many users there are. 25000 unless READ COMMITTED.';
-- sql/51_verify_day.sql
-- The proof, a day at a time: what is stored against what the raw rows say. Reads only. Everything here is STABLE: it
-- sees the one snapshot of the query that asks, whatever is written meanwhile.

-- ecstats.rollup_unlike: the members of one object that another has not, or has otherwise; all of it where there is no
-- other, NULL where there is nothing.
CREATE FUNCTION ecstats.rollup_unlike(a jsonb, b jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN a IS NULL OR b IS NULL THEN a
				ELSE (SELECT coalesce(jsonb_object_agg(m.key, m.value), '{}') FROM jsonb_each(a) m WHERE b -> m.key IS DISTINCT FROM m.value) END $$;
COMMENT ON FUNCTION ecstats.rollup_unlike(jsonb, jsonb) IS 'Members of a that differ in b; all of a where b is NULL.';

-- ecstats.rollup_verify_users: user_daily of a day against its events. Blocks that are byte for byte what they must be
-- are not unpacked; of the others, each user and event. A block that holds the right users under a wrong key or number
-- of users would be found by nobody: these are reported where the users themselves are right.
CREATE FUNCTION ecstats.rollup_verify_users(the_day date) RETURNS TABLE (key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1), '{}', '{}', true, ecstats.rollup_names()) s
		 WHERE s.kind IN ('n', 'u')
	), unlike AS MATERIALIZED (		-- a name that has no number cannot be stored rightly, whatever the bytes are
		SELECT d.first_user AS had, d.users AS had_users, d.packed AS old, r.name AS has, r.a AS has_users, r.packed AS new
		  FROM (SELECT * FROM ecstats.user_day d WHERE d.day = the_day) d
		  FULL JOIN (SELECT * FROM e WHERE e.kind = 'u') r ON r.name = d.first_user
		 WHERE (d.users, d.packed) IS DISTINCT FROM (r.a::integer, r.packed) OR EXISTS (SELECT FROM e n WHERE n.kind = 'n')
	), pairs AS MATERIALIZED (
		SELECT coalesce(s.user_id, r.user_id) AS user_id, coalesce(s.event, r.event) AS event, s.event_count AS stored, r.event_count AS recomputed
		  FROM (SELECT c.user_id, n.event, c.event_count FROM unlike u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.old) c
				  JOIN ecstats.event_names n ON n.event_no = c.event_no) s
		  FULL JOIN (SELECT c.user_id, n.event, c.event_count FROM unlike u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.new) c
					   JOIN (SELECT e.a AS event_no, e.name COLLATE "C" AS event FROM e WHERE e.kind = 'n'
							 UNION ALL SELECT m.event_no, m.event FROM ecstats.event_names m) n ON n.event_no = c.event_no) r
				 ON r.user_id = s.user_id AND r.event = s.event
		 WHERE s.event_count IS DISTINCT FROM r.event_count
	)
	SELECT jsonb_build_object('user_id', p.user_id, 'event', p.event), CASE WHEN p.stored IS NOT NULL THEN jsonb_build_object('event_count', p.stored) END,
		   CASE WHEN p.recomputed IS NOT NULL THEN jsonb_build_object('event_count', p.recomputed) END
	  FROM pairs p
	UNION ALL
	SELECT jsonb_build_object('block', coalesce(u.had, u.has)), CASE WHEN u.had IS NOT NULL THEN jsonb_build_object('users', u.had_users) END,
		   CASE WHEN u.has IS NOT NULL THEN jsonb_build_object('users', u.has_users) END
	  FROM unlike u WHERE NOT EXISTS (SELECT FROM pairs)
	 ORDER BY 1 $$;
COMMENT ON FUNCTION ecstats.rollup_verify_users(date) IS 'Users and events of a day whose stored count is not that of the raw rows; blocks with the right users and a wrong key or number of them.';

-- ecstats.rollup_verify_orders: order_day of a day against its order lines, in the same way, and buyer_daily row by row.
CREATE FUNCTION ecstats.rollup_verify_orders(the_day date) RETURNS TABLE (relation text, key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1), ecstats.rollup_abnormal(), true) s
		 WHERE s.kind IN ('o', 'b', 'u')
	), unlike AS MATERIALIZED (
		SELECT coalesce(d.kind, r.kind) AS kind, d.first_id AS had, d.ids AS had_ids, d.packed AS old, r.product_id AS has, r.quantity AS has_ids, r.packed AS new
		  FROM (SELECT * FROM ecstats.order_day d WHERE d.day = the_day) d
		  FULL JOIN (SELECT * FROM o WHERE o.kind IN ('o', 'b')) r ON r.kind = d.kind AND r.product_id = d.first_id
		 WHERE (d.ids, d.packed) IS DISTINCT FROM (r.quantity::integer, r.packed)
	), roles AS MATERIALIZED (
		SELECT coalesce(s.kind, r.kind) AS kind, coalesce(s.id, r.id) AS id, s.number AS stored, r.number AS recomputed
		  FROM (SELECT u.kind, c.* FROM unlike u CROSS JOIN LATERAL ecstats.rollup_ids_unpack(u.old) c) s
		  FULL JOIN (SELECT u.kind, c.* FROM unlike u CROSS JOIN LATERAL ecstats.rollup_ids_unpack(u.new) c) r ON r.kind = s.kind AND r.id = s.id
		 WHERE s.number IS DISTINCT FROM r.number
	), found AS (
		SELECT 'order_day' AS relation, jsonb_build_object(CASE r.kind WHEN 'o' THEN 'order_id' ELSE 'user_id' END, r.id) AS key,
			   CASE WHEN r.stored IS NOT NULL THEN jsonb_build_object('roles', r.stored) END AS stored,
			   CASE WHEN r.recomputed IS NOT NULL THEN jsonb_build_object('roles', r.recomputed) END AS recomputed
		  FROM roles r
		UNION ALL
		SELECT 'order_day', jsonb_build_object('block', coalesce(u.had, u.has), 'kind', u.kind),
			   CASE WHEN u.had IS NOT NULL THEN jsonb_build_object('ids', u.had_ids) END,
			   CASE WHEN u.has IS NOT NULL THEN jsonb_build_object('ids', u.has_ids) END
		  FROM unlike u WHERE NOT EXISTS (SELECT FROM roles)
		UNION ALL
		SELECT 'buyer_daily', jsonb_build_object('user_id', coalesce(s.user_id, r.product_id), 'region', coalesce(s.region, r.region), 'channel', coalesce(s.channel, r.channel)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,user_id,region,channel}'::text[] END,
			   CASE WHEN r.kind IS NOT NULL THEN jsonb_build_object('order_count', r.orders, 'gmv', r.amount, 'paid_amount', r.refund) END
		  FROM (SELECT * FROM ecstats.buyer_daily s WHERE s.day = the_day) s
		  FULL JOIN (SELECT * FROM o WHERE o.kind = 'u') r ON r.product_id = s.user_id AND r.region = s.region AND r.channel = s.channel
		 WHERE (s.order_count, s.gmv, s.paid_amount) IS DISTINCT FROM (r.orders, r.amount, r.refund)
	)
	SELECT f.relation, f.key, CASE f.relation WHEN 'order_day' THEN f.stored ELSE ecstats.rollup_unlike(f.stored, f.recomputed) END,
		   CASE f.relation WHEN 'order_day' THEN f.recomputed ELSE ecstats.rollup_unlike(f.recomputed, f.stored) END
	  FROM found f ORDER BY f.relation DESC, f.key $$;
COMMENT ON FUNCTION ecstats.rollup_verify_orders(date) IS
	'Orders and buyers of a day whose stored roles (1 sale, 2 return, 4 abnormal, 8 paid, added up) are not those of the raw rows; blocks as rollup_verify_users; rows of buyer_daily that are not what the raw rows say.';

-- ecstats.rollup_verify_day: one day's stored rows against its raw rows, but for user_daily, order_day and buyer_daily. with_events false: these are
-- gone, what is counted from them is left out. new_users: how many first_seen says, once it is right.
CREATE FUNCTION ecstats.rollup_verify_day(the_day date, with_events boolean, new_users bigint)
	RETURNS TABLE (relation text, key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_page_views(), ecstats.rollup_funnel(), false)
		 WHERE with_events
	), o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1), ecstats.rollup_abnormal())
	), k AS MATERIALIZED (
		SELECT k.* FROM ecstats.daily_kpi k WHERE k.day = the_day
	), r AS MATERIALIZED (
		SELECT (to_jsonb(ecstats.rollup_kpi(the_day,
				CASE WHEN with_events
					 THEN (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v'))
					 ELSE (SELECT jsonb_build_object('t', jsonb_build_object('a', k.event_count, 'b', k.pv), 'v', jsonb_build_object('a', k.uv)) FROM k) END,
				(SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') FROM o WHERE o.kind IN ('t', 'r', 'a', 'p'))))
			|| jsonb_build_object('new_user_count', CASE WHEN with_events THEN new_users ELSE (SELECT k.new_user_count FROM k) END))
			- '{day,complete,closed_at,revision}'::text[] AS kpi
	), found AS (
		SELECT 'daily_kpi' AS relation, '{}'::jsonb AS key,
			   (SELECT to_jsonb(k) - '{day,complete,closed_at,revision}'::text[] FROM k) AS stored, r.kpi AS recomputed
		  FROM r
		UNION ALL
		SELECT 'daily_sales', jsonb_build_object('product_id', coalesce(s.product_id, t.product_id), 'region', coalesce(s.region, t.region),
												 'channel', coalesce(s.channel, t.channel)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,product_id,region,channel}'::text[] END,
			   CASE WHEN t.kind IS NOT NULL THEN jsonb_build_object('total_sold', t.quantity, 'total_revenue', t.amount,
					'order_count', t.orders, 'buyer_count', t.buyers, 'refund_amount', t.refund) END
		  FROM (SELECT * FROM ecstats.daily_sales s WHERE s.day = the_day) s
		  FULL JOIN (SELECT * FROM o WHERE o.kind = 's') t ON t.product_id = s.product_id AND t.region = s.region AND t.channel = s.channel
		 WHERE (s.total_sold, s.total_revenue, s.order_count, s.buyer_count, s.refund_amount)
			   IS DISTINCT FROM (t.quantity, t.amount, t.orders, t.buyers, t.refund)
		UNION ALL
		SELECT 'daily_sales_by', jsonb_build_object(coalesce(s.dimension, t.dimension), coalesce(s.value, t.value)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,dimension,value}'::text[] END,
			   CASE WHEN t.dimension IS NOT NULL THEN jsonb_build_object('total_sold', t.quantity, 'total_revenue', t.amount, 'refund_amount', t.refund) END
		  FROM (SELECT * FROM ecstats.daily_sales_by s WHERE s.day = the_day) s
		  FULL JOIN (SELECT d.dimension, d.value, sum(o.quantity)::bigint AS quantity, sum(o.amount) AS amount, sum(o.refund) AS refund
					   FROM o CROSS JOIN LATERAL (VALUES ('product', o.product_id), ('region', o.region), ('channel', o.channel)) d(dimension, value)
					  WHERE o.kind = 's' GROUP BY 1, 2) t ON t.dimension = s.dimension AND t.value = s.value
		 WHERE (s.total_sold, s.total_revenue, s.refund_amount) IS DISTINCT FROM (t.quantity, t.amount, t.refund)
		UNION ALL
		SELECT 'daily_events', jsonb_build_object('event', coalesce(s.event, t.name)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,event}'::text[] END,
			   CASE WHEN t.kind IS NOT NULL THEN jsonb_build_object('event_count', t.a, 'user_count', t.b) END
		  FROM (SELECT * FROM ecstats.daily_events s WHERE s.day = the_day AND with_events) s
		  FULL JOIN (SELECT * FROM e WHERE e.kind = 'e') t ON t.name = s.event
		 WHERE (s.event_count, s.user_count) IS DISTINCT FROM (t.a, t.b)
		UNION ALL
		SELECT 'daily_funnel', jsonb_build_object('step', coalesce(s.step, t.a)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,step}'::text[] END,
			   CASE WHEN t.kind IS NOT NULL THEN jsonb_build_object('event', t.name, 'user_count', t.b) END
		  FROM (SELECT * FROM ecstats.daily_funnel s WHERE s.day = the_day AND with_events) s
		  FULL JOIN (SELECT * FROM e WHERE e.kind = 'f') t ON t.a = s.step
		 WHERE (s.event, s.user_count) IS DISTINCT FROM (t.name, t.b)
	)
	SELECT f.relation, f.key, ecstats.rollup_unlike(f.stored, f.recomputed), ecstats.rollup_unlike(f.recomputed, f.stored)
	  FROM found f WHERE f.stored IS DISTINCT FROM f.recomputed
	 ORDER BY f.relation, f.key $$;
COMMENT ON FUNCTION ecstats.rollup_verify_day(date, boolean, bigint) IS
	'Rows of daily_kpi, daily_sales, daily_sales_by, daily_events and daily_funnel of a day that are not what its raw rows say: of each what differs.';

-- sql/51_verify_range.sql
-- The proof of what spans days: who was seen first when, buyers, weeks and months. Held against what is stored of the days, which
-- is held against raw rows day by day.

-- ecstats.rollup_verify_first_seen: users of a range of days whose first day is not the first stored day that has them.
-- Nothing but stored days counts, here as in first_seen.
CREATE FUNCTION ecstats.rollup_verify_first_seen(from_day date, to_day date)
	RETURNS TABLE (user_id text, stored date, recomputed date)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE
	users text[];
	stored_days date[];
	days date[];
BEGIN
	SELECT array_agg(x.user_id), array_agg(x.stored), array_agg(x.day) INTO users, stored_days, days
	  FROM (SELECT coalesce(u.user_id, f.user_id) AS user_id, f.day AS stored, u.day
			  FROM (SELECT c.user_id COLLATE "C" AS user_id, min(d.day) AS day
					  FROM ecstats.user_day d CROSS JOIN LATERAL ecstats.rollup_users_unpack(d.packed) c
					 WHERE d.day BETWEEN from_day AND to_day GROUP BY 1) u
			  FULL JOIN ecstats.first_seen f ON f.user_id = u.user_id
			 WHERE u.day < f.day OR f.day IS NULL
				OR f.day BETWEEN from_day AND to_day AND u.day IS DISTINCT FROM f.day) x;
	IF users IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
		SELECT v.user_id, v.stored, least(v.day, o.day)
		  FROM unnest(users, stored_days, days) v(user_id, stored, day)
		  LEFT JOIN (SELECT d.user_id, min(d.day) AS day
					   FROM (SELECT u.day, c.user_id COLLATE "C" AS user_id		-- unpacked before it is joined, not a block at a time
							   FROM ecstats.user_day u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.packed) c
							  WHERE u.day < from_day OR u.day > to_day OFFSET 0) d
					  WHERE d.user_id IN (SELECT unnest(users)) GROUP BY d.user_id) o ON o.user_id = v.user_id
		 ORDER BY v.user_id COLLATE "C";
END
$$;
COMMENT ON FUNCTION ecstats.rollup_verify_first_seen(date, date) IS
	'Users of the stored days of a range, or first seen on one of them, whose first day is not the first stored day with an event of theirs; recomputed is that day, NULL where there is none.';

-- ecstats.rollup_verify_buyers: buyers against buyer_daily. Those with a day in the range, and those without any day at
-- all; NULL: no bound.
CREATE FUNCTION ecstats.rollup_verify_buyers(from_day date, to_day date) RETURNS TABLE (key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH here AS MATERIALIZED (
		SELECT DISTINCT d.user_id FROM ecstats.buyer_daily d WHERE (from_day IS NULL OR d.day >= from_day) AND (to_day IS NULL OR d.day <= to_day)
	)
	SELECT jsonb_build_object('user_id', coalesce(s.user_id, r.user_id)), ecstats.rollup_unlike(s.what, r.what), ecstats.rollup_unlike(r.what, s.what)
	  FROM (SELECT b.user_id, to_jsonb(b) - 'user_id' AS what FROM ecstats.buyers b
			 WHERE EXISTS (SELECT FROM here h WHERE h.user_id = b.user_id) OR NOT EXISTS (SELECT FROM ecstats.buyer_daily d WHERE d.user_id = b.user_id)) s
	  FULL JOIN (SELECT n.user_id, to_jsonb(n) - 'user_id' AS what
				   FROM ecstats.rollup_buyers_of(array(SELECT h.user_id FROM here h), 'infinity') n) r ON r.user_id = s.user_id
	 WHERE s.what IS DISTINCT FROM r.what
	 ORDER BY coalesce(s.user_id, r.user_id) $$;
COMMENT ON FUNCTION ecstats.rollup_verify_buyers(date, date) IS
	'Rows of buyers that are not what buyer_daily adds up to, of users with a day in a range (NULL: no bound) or without any: of each what differs.';

-- ecstats.rollup_verify_period: a week or month against the stored days of it: what adds up is added up, what is
-- distinct is counted in plain SQL over the users, orders and buyers of these days.
CREATE FUNCTION ecstats.rollup_verify_period(first_day date, next_day date) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH k AS MATERIALIZED (
		SELECT k.* FROM ecstats.daily_kpi k WHERE k.day >= first_day AND k.day < next_day
	), ids AS MATERIALIZED (
		SELECT o.kind, c.id COLLATE "C" AS id, bit_or(c.number) AS roles
		  FROM ecstats.order_day o CROSS JOIN LATERAL ecstats.rollup_ids_unpack(o.packed) c
		 WHERE o.day IN (SELECT k.day FROM k) GROUP BY 1, 2
	), sums AS (
		SELECT sum(k.gmv) AS gmv, sum(k.quantity) AS quantity, sum(k.paid_amount) AS paid_amount, sum(k.refund_amount) AS refund_amount,
			   sum(k.net_amount) AS net_amount, sum(k.event_count) AS event_count, sum(k.pv) AS pv, sum(k.new_user_count) AS new_user_count FROM k
	), counts AS (
		SELECT count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 1 > 0) AS order_count, count(*) FILTER (WHERE i.kind = 'b' AND i.roles & 1 > 0) AS buyer_count,
			   count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 8 > 0) AS paid_order_count, count(*) FILTER (WHERE i.kind = 'b' AND i.roles & 8 > 0) AS payer_count,
			   count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 2 > 0) AS refund_order_count, count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 4 > 0) AS abnormal_order_count,
			   (SELECT count(*) FROM (SELECT c.user_id COLLATE "C" FROM ecstats.user_day u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.packed) c
									  WHERE u.day IN (SELECT k.day FROM k) GROUP BY 1) v) AS uv
		  FROM ids i
	)
	SELECT CASE WHEN s.gmv IS NOT NULL THEN to_jsonb(s) || to_jsonb(c) || jsonb_build_object('aov', s.gmv / nullif(c.order_count, 0),
			'amount_per_buyer', s.gmv / nullif(c.buyer_count, 0), 'conversion_rate', c.buyer_count::numeric / nullif(c.uv, 0)) END
	  FROM sums s CROSS JOIN counts c $$;
COMMENT ON FUNCTION ecstats.rollup_verify_period(date, date) IS 'Figures of the stored days from first_day to before next_day as an object of daily_kpi''s columns; NULL where no day is stored.';

-- ecstats.rollup_verify_periods: the weeks and months that a range of days meets.
CREATE FUNCTION ecstats.rollup_verify_periods(from_day date, to_day date) RETURNS TABLE (day date, relation text, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT p.day, p.relation, ecstats.rollup_unlike(p.stored, r.kpi), ecstats.rollup_unlike(r.kpi, p.stored)
	  FROM (SELECT w.day, 'weekly_kpi' AS relation, (w.day + interval '7 days')::date AS next_day, to_jsonb(k) - '{day,complete,closed_at,revision}'::text[] AS stored
			  FROM (SELECT date_trunc('week', d.day::timestamp)::date FROM ecstats.daily_kpi d UNION SELECT d.day FROM ecstats.weekly_kpi d) w(day)
			  LEFT JOIN ecstats.weekly_kpi k ON k.day = w.day
			UNION ALL
			SELECT m.day, 'monthly_kpi', (m.day + interval '1 month')::date, to_jsonb(k) - '{day,complete,closed_at,revision}'::text[]
			  FROM (SELECT date_trunc('month', d.day::timestamp)::date FROM ecstats.daily_kpi d UNION SELECT d.day FROM ecstats.monthly_kpi d) m(day)
			  LEFT JOIN ecstats.monthly_kpi k ON k.day = m.day) p
	 CROSS JOIN LATERAL (SELECT ecstats.rollup_verify_period(p.day, p.next_day) AS kpi OFFSET 0) r
	 WHERE p.day <= to_day AND p.next_day > from_day AND p.stored IS DISTINCT FROM r.kpi
	 ORDER BY p.day, p.relation DESC $$;
COMMENT ON FUNCTION ecstats.rollup_verify_periods(date, date) IS 'Rows of weekly_kpi and monthly_kpi of a range of days that are not what the stored days say: of each what differs.';

-- sql/51_verify.sql
-- The proof of a range of days.

-- ecstats.rollup_stored_days: days of a range of which anything is stored, by hops along the keys.
CREATE FUNCTION ecstats.rollup_stored_days(from_day date, to_day date) RETURNS SETOF date
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	days date[] := '{}';
	relation regclass;
	d date;
BEGIN
	FOREACH relation IN ARRAY '{ecstats.daily_kpi,ecstats.day_state,ecstats.daily_sales,ecstats.daily_sales_by,ecstats.daily_events,ecstats.daily_funnel,ecstats.user_day,ecstats.order_day,ecstats.buyer_daily}'::regclass[] LOOP
		EXECUTE format('SELECT min(day) FROM %s WHERE day >= $1', relation) INTO d USING from_day;
		WHILE d <= to_day LOOP
			days := days || d;
			EXECUTE format('SELECT min(day) FROM %s WHERE day > $1', relation) INTO d USING d;
		END LOOP;
	END LOOP;
	RETURN QUERY SELECT DISTINCT x FROM unnest(days) x ORDER BY 1;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_stored_days(date, date) IS 'Business days of a range of which something is stored, ascending.';

-- ecstats.rollup_verify_notice: says what a proof could not hold against anything.
CREATE FUNCTION ecstats.rollup_verify_notice(what text, days date[], cure text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF cardinality(days) > 0 THEN
		RAISE NOTICE '%: %', what, cardinality(days)
			USING DETAIL = format('From %s to %s.', days[1], days[cardinality(days)]), HINT = cure;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_verify_notice(text, date[], text) IS 'A NOTICE of days, with their number, the first and the last; none where there are no days.';

-- ecstats_verify: holds every stored figure of a range of days against what the raw rows say, computed by the same
-- scans. Writes nothing, changes nothing, and sees one snapshot, whatever is written meanwhile.
-- Arguments: from_day, to_day (both inclusive; NULL or left out: no bound). Result: a row for each stored row that is
-- not what it must be, with what differs in it (stored NULL: it is not there; recomputed NULL: it must not be); none
-- where all is right. first_seen is held against user_daily, buyers against buyer_daily, weeks and months against the stored days. NOTICEs
-- name the days that could not be held against anything (raw rows gone, not closed yet) and those that changed since
-- they were computed. Errors: 22023 a range that is upside down.
CREATE FUNCTION @extschema@.ecstats_verify(from_day date DEFAULT NULL, to_day date DEFAULT NULL)
	RETURNS TABLE (day date, relation text, key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	first_day date := coalesce(from_day, '-infinity');
	last_day date := coalesce(to_day, 'infinity');
	d date;
	state ecstats.day_state;
	with_events boolean;
	days date[];
	frozen date[] := '{}';
	no_events date[] := '{}';
	users text[];
	wrong date[];
	right_days date[];
	new_users jsonb;
BEGIN
	IF first_day > last_day THEN
		RAISE EXCEPTION 'the range of days is upside down'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('From %s to %s.', from_day, to_day),
				  HINT = 'Give the earlier day first; both days are part of the range.';
	END IF;
	days := array(SELECT ecstats.rollup_stored_days(first_day, last_day));

	-- Who was seen first when; then how many new users a day must have.
	SELECT array_agg(v.user_id), array_agg(v.stored), array_agg(v.recomputed) INTO users, wrong, right_days
	  FROM ecstats.rollup_verify_first_seen(first_day, last_day) v;
	SELECT jsonb_object_agg(to_char(n.day, 'YYYY-MM-DD'), n.users) INTO new_users
	  FROM (SELECT c.day, sum(c.users) AS users
			  FROM (SELECT f.day, count(*) AS users FROM (SELECT min(s.day) AS day FROM ecstats.first_seen s GROUP BY s.user_id) f
					 WHERE f.day BETWEEN first_day AND last_day GROUP BY f.day
					UNION ALL SELECT w, -1 FROM unnest(wrong) w
					UNION ALL SELECT r, 1 FROM unnest(right_days) r) c
			 WHERE c.day IS NOT NULL GROUP BY c.day) n;

	FOREACH d IN ARRAY days LOOP
		SELECT * INTO state FROM ecstats.day_state s WHERE s.day = d;
		IF NOT FOUND THEN		-- nobody would find the day changed
			RETURN QUERY SELECT d, 'day_state', '{}'::jsonb, NULL::jsonb, '{}'::jsonb;
		END IF;
		IF state.frozen OR state.orders_dropped THEN
			frozen := frozen || d;
			CONTINUE;
		END IF;
		with_events := NOT coalesce(state.events_dropped OR state.partitioned AND NOT ecstats.rollup_partition_own(d), false);
		RETURN QUERY SELECT d, v.* FROM ecstats.rollup_verify_day(d, with_events, coalesce((new_users ->> to_char(d, 'YYYY-MM-DD'))::bigint, 0)) v;
		RETURN QUERY SELECT d, v.* FROM ecstats.rollup_verify_orders(d) v;
		IF with_events THEN
			RETURN QUERY SELECT d, 'user_daily', v.* FROM ecstats.rollup_verify_users(d) v;
		ELSE
			no_events := no_events || d;
		END IF;
	END LOOP;
	-- At the day where it must be, if that is in the range.
	RETURN QUERY SELECT CASE WHEN v.recomputed BETWEEN first_day AND last_day THEN v.recomputed ELSE coalesce(v.stored, v.recomputed) END, 'first_seen',
						jsonb_build_object('user_id', v.user_id),
						CASE WHEN v.stored IS NOT NULL THEN jsonb_build_object('day', v.stored) END,
						CASE WHEN v.recomputed IS NOT NULL THEN jsonb_build_object('day', v.recomputed) END
				   FROM unnest(users, wrong, right_days) v(user_id, stored, recomputed);

	RETURN QUERY SELECT NULL::date, 'first_seen', jsonb_build_object('block', b.first_user), jsonb_build_object('users', b.users),
						jsonb_build_object('users', c.users, 'block', c.first_user)
				   FROM ecstats.first_seen_block b
				  CROSS JOIN LATERAL (SELECT count(*) AS users, min(i.id COLLATE "C") AS first_user FROM ecstats.rollup_ids_unpack(b.packed) i) c
				  WHERE (b.users, b.first_user) IS DISTINCT FROM (c.users::integer, c.first_user);
	RETURN QUERY SELECT NULL::date, 'first_seen', jsonb_build_object('user_id', f.user_id), jsonb_build_object('times', count(*)), jsonb_build_object('times', 1)
				   FROM ecstats.first_seen f GROUP BY f.user_id HAVING count(*) > 1;
	RETURN QUERY SELECT NULL::date, 'buyers', v.* FROM ecstats.rollup_verify_buyers(from_day, to_day) v;
	RETURN QUERY SELECT v.day, v.relation, '{}'::jsonb, v.stored, v.recomputed FROM ecstats.rollup_verify_periods(first_day, last_day) v;

	PERFORM ecstats.rollup_verify_notice('days left out because their order lines were dropped', frozen, 'Their figures are final: nothing is left to hold them against.');
	PERFORM ecstats.rollup_verify_notice('days of which what is counted from events was left out because these are gone', no_events,
										 'A partition that was detached can be attached again.');
	PERFORM ecstats.rollup_verify_notice('days that changed since they were computed', array(
		SELECT s FROM ecstats.rollup_stale_days() s WHERE s BETWEEN first_day AND last_day ORDER BY s), 'SELECT ecstats_daily() computes them again.');
	PERFORM ecstats.rollup_verify_notice('days with data that are not closed yet', array(
		SELECT o FROM ecstats.rollup_open_days(least(last_day + 1, ecstats.day_of(clock_timestamp()))) o WHERE o >= first_day ORDER BY o),
		'SELECT ecstats_daily() closes them.');
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_verify(date, date) IS
	'Stored figures of a range of days (NULL: no bound) that are not what the raw rows say: a row each, with what differs; none where all is right. Writes nothing. NOTICEs name what cannot be recomputed and what waits for ecstats_daily. 22023 for a range that is upside down.';

-- sql/52_pipeline_audience.sql
-- The users of a tag, in pages, to the channels that ask for them (option audience_page): where tags, channels and the
-- queue meet. No error and no log line names a user.

-- ecstats.pipeline_audience_size: how many ids a page of a channel holds.
--   audience_page, or fewer where a page of so many would break the kind's limit of bytes: then as many of the
--   longest id as fit. NULL: the channel takes no pages. frame: the body of a page without ids.
CREATE FUNCTION ecstats.pipeline_audience_size(tag text, channel text, frame jsonb, OUT total bigint, OUT size bigint)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	room bigint;
	longest bigint;
	fullest bigint;
BEGIN
	size := (ecstats.channel_settings(channel) ->> 'audience_page')::numeric;
	SELECT min((l ->> 'max_bytes')::bigint) - octet_length(convert_to(frame::text, 'UTF8')) INTO room
	  FROM ecstats.channels c JOIN ecstats.channel_kinds k ON k.kind = c.kind, jsonb_array_elements(k.limits) l
	 WHERE c.name = pipeline_audience_size.channel AND NOT l ? 'path';
	-- of each id: its JSON text, a comma and a blank
	SELECT count(*), max(octet_length(convert_to(to_jsonb(t.user_id)::text, 'UTF8')) + 2) INTO total, longest
	  FROM ecstats.user_tags t
	 WHERE t.tag = pipeline_audience_size.tag AND t.until IS NULL;
	IF least(size, total) * longest > room THEN
		SELECT max(p.bytes) INTO fullest
		  FROM (SELECT sum(i.bytes) AS bytes
				  FROM (SELECT octet_length(convert_to(to_jsonb(t.user_id)::text, 'UTF8')) + 2 AS bytes,
							   (row_number() OVER (ORDER BY t.user_id COLLATE "C") - 1) / pipeline_audience_size.size AS page
						  FROM ecstats.user_tags t
						 WHERE t.tag = pipeline_audience_size.tag AND t.until IS NULL) i
				 GROUP BY i.page) p;
		IF fullest > room THEN
			size := greatest(room / longest, 1);	-- one that does not fit alone is refused as too long
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_audience_size(text, text, jsonb) IS
	'How many users have a tag, and how many of their ids a page of the channel holds: audience_page, or what its kind''s limit of bytes leaves.';

-- ecstats.pipeline_audience_body: one page in the envelope of the channel's kind.
CREATE FUNCTION ecstats.pipeline_audience_body(report text, tag text, channel text, as_of date, page bigint, pages bigint, total bigint, user_ids jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.channel_envelope(channel, jsonb_build_object('type', 'ecstats.audience', 'report', report, 'tag', tag,
		'as_of', as_of, 'page', page, 'pages', pages, 'total', total, 'user_ids', user_ids)) $$;
COMMENT ON FUNCTION ecstats.pipeline_audience_body(text, text, text, date, bigint, bigint, bigint, jsonb) IS
	'Body of a page of an audience, as a channel gets it.';

-- ecstats.pipeline_audience_pages: the pages of a tag for a channel, from the caller's snapshot: every id is on
-- exactly one, ids ascend. An audience of nobody is one page.
--   only_page: that page alone; NULL: all.
CREATE FUNCTION ecstats.pipeline_audience_pages(report text, tag text, channel text, only_page bigint DEFAULT NULL)
	RETURNS TABLE (as_of date, page bigint, pages bigint, body jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	total bigint;
	size bigint;
	most bigint := 1000000000000;
BEGIN
	as_of := (SELECT s.as_of FROM ecstats.activity_state s);
	SELECT s.total, s.size INTO total, size FROM ecstats.pipeline_audience_size(tag, channel,
		ecstats.pipeline_audience_body(report, tag, channel, as_of, most, most, most, '[]')) s;
	pages := greatest((total + size - 1) / size, 1);
	IF total = 0 THEN
		page := 1;
		body := ecstats.pipeline_audience_body(report, tag, channel, as_of, 1, 1, 0, '[]');
		RETURN NEXT;
		RETURN;
	END IF;
	RETURN QUERY
		SELECT pipeline_audience_pages.as_of, p.page, pipeline_audience_pages.pages,
			   ecstats.pipeline_audience_body(report, pipeline_audience_pages.tag, channel, pipeline_audience_pages.as_of,
											  p.page, pipeline_audience_pages.pages, total, p.user_ids)
		  FROM (SELECT i.page, jsonb_agg(i.user_id ORDER BY i.user_id COLLATE "C") AS user_ids
				  FROM (SELECT t.user_id, (row_number() OVER (ORDER BY t.user_id COLLATE "C") - 1) / size + 1 AS page
						  FROM ecstats.user_tags t
						 WHERE t.tag = pipeline_audience_pages.tag AND t.until IS NULL) i
				 WHERE only_page IS NULL OR i.page = only_page
				 GROUP BY i.page) p
		 ORDER BY p.page;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_audience_pages(text, text, text, bigint) IS
	'Pages of the users who have a tag, as a channel gets them, from one snapshot; one page where nobody has it.';

-- ecstats.pipeline_queue_audience: queues the pages of a tag for a channel. None where the channel takes none, or
-- where they are queued for this report and day. report NULL: pushed by hand, always queued.
CREATE FUNCTION ecstats.pipeline_queue_audience(report text, day date, tag text, channel text, priority integer, ttl interval) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	open boolean;
	oversize text;
	scored date;
	first_id bigint;
BEGIN
	SELECT c.enabled INTO open FROM ecstats.channels c WHERE c.name = pipeline_queue_audience.channel FOR KEY SHARE;
	IF tag IS NULL OR open IS NOT TRUE OR ecstats.channel_settings(channel) ->> 'audience_page' IS NULL THEN
		RETURN;		-- of an unknown or disabled channel the report's message told
	END IF;
	IF report IS NOT NULL THEN
		-- A second caller waits for the first and then sees what is there: the number of pages may have changed since.
		PERFORM pg_advisory_xact_lock(hashtextextended(format('ecstats.audience:%L,%s,%L', report, to_char(day, 'YYYYMMDD'), channel), 0));
		IF EXISTS (SELECT FROM ecstats.deliveries d
					WHERE d.report = pipeline_queue_audience.report AND d.day = pipeline_queue_audience.day
					  AND d.occasion LIKE 'audience %' AND d.channel = pipeline_queue_audience.channel) THEN
			RETURN;
		END IF;
	END IF;
	FOR first_id, scored, oversize IN
		WITH queued AS (
			INSERT INTO ecstats.deliveries AS d (report, day, revision, occasion, channel, priority, next_attempt_at, expires_at, body)
			SELECT pipeline_queue_audience.report, p.as_of, 0, format('audience %s/%s', p.page, p.pages),
				   pipeline_queue_audience.channel, pipeline_queue_audience.priority, now(), now() + ttl, p.body
			  FROM ecstats.pipeline_audience_pages(pipeline_queue_audience.report, pipeline_queue_audience.tag, pipeline_queue_audience.channel) p
			RETURNING d.id, d.day, d.body)
		SELECT q.id, q.day, ecstats.channel_oversize(pipeline_queue_audience.channel, q.body) FROM queued q
	LOOP
		IF oversize IS NOT NULL THEN
			RAISE EXCEPTION 'a page of tag "%" is too long for channel "%"', tag, channel
				USING ERRCODE = 'string_data_right_truncation', DETAIL = oversize,
					  HINT = 'Lower audience_page in the options of the channel, or raise the limit of its kind.';
		ELSIF scored IS DISTINCT FROM coalesce(pipeline_queue_audience.day, scored) THEN
			RAISE EXCEPTION 'users were scored anew while the pages were made'
				USING ERRCODE = 'no_data_found', HINT = 'Send the report of the latest scored day.';
		END IF;
		RETURN NEXT first_id;
	END LOOP;
	PERFORM pg_notify('ecstats_deliveries', '');
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_audience(text, date, text, text, integer, interval) IS
	'Queues the users of a tag, in pages, for a channel that takes them; ids of the deliveries. Once for a report, day and channel. 22001 where one user''s id is too long for a page.';

-- ecstats_push_audience: sends the users of a tag now, in pages.
-- Arguments: tag, a name in ecstats.tag_rules; channel, one with the option audience_page. Result: ids of the
-- deliveries, a page each. Sent again it is queued again. Errors: 42704 unknown tag or channel, 22023 a channel that
-- takes no pages or is disabled, P0002 nobody was scored yet, 22001 a page is too long. Touches ecstats.deliveries.
CREATE FUNCTION @extschema@.ecstats_push_audience(tag text, channel text) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	open boolean := (SELECT c.enabled FROM ecstats.channels c WHERE c.name = ecstats_push_audience.channel);
BEGIN
	IF tag IS NULL OR NOT EXISTS (SELECT FROM ecstats.tag_rules r WHERE r.tag = ecstats_push_audience.tag) THEN
		RAISE EXCEPTION 'tag "%" does not exist', left(tag, 64) USING ERRCODE = 'undefined_object',
			HINT = 'SELECT tag, enabled, description FROM ecstats.tag_rules lists the tags.';
	ELSIF open IS NULL THEN
		RAISE EXCEPTION 'channel "%" does not exist', left(channel, 64) USING ERRCODE = 'undefined_object',
			HINT = 'SELECT name, kind, enabled FROM ecstats.channels lists the channels.';
	ELSIF NOT open THEN
		RAISE EXCEPTION 'channel "%" is disabled', channel USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Set ecstats.channels.enabled, or send to another channel.';
	ELSIF ecstats.channel_settings(channel) ->> 'audience_page' IS NULL THEN
		RAISE EXCEPTION 'channel "%" takes no audience', channel USING ERRCODE = 'invalid_parameter_value',
			HINT = 'A channel of kind webhook does with, for example, options {"audience_page": 1000}.';
	ELSIF (SELECT s.as_of FROM ecstats.activity_state s) IS NULL THEN
		RAISE EXCEPTION 'nobody was scored yet' USING ERRCODE = 'no_data_found',
			HINT = 'SELECT ecstats_daily() closes a day and scores it.';
	END IF;
	RETURN QUERY SELECT ecstats.pipeline_queue_audience(NULL, NULL, tag, channel, 5, NULL);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_push_audience(text, text) IS
	'Queues the users who have a tag, in pages, for a channel with the option audience_page; returns the ids of the deliveries. 42704 unknown tag or channel, 22023 a channel that takes none or is disabled, P0002 nobody was scored yet.';
-- sql/52_pipeline_report.sql
-- From a message to deliveries: where reports, channels and the queue meet.

-- ecstats_report_data: the JSON that a report's template and condition see.
-- Arguments: report, a name in ecstats.reports; day, a business day; of one that is not closed, the figures so
-- far; for a report of dataset activity the latest day that was scored. Result: one object: figures of the day,
-- comparisons, splits, funnel, targets, or levels, tags, an audience (doc/report.md).
-- Errors: 42704 unknown report or tag, P0002 a day that has not begun or that users were not scored of, 22004 NULL. Writes nothing.
CREATE FUNCTION @extschema@.ecstats_report_data(report text, day date) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.report_data(report, day, ecstats.pipeline_live(day)) $$;
COMMENT ON FUNCTION @extschema@.ecstats_report_data(text, date) IS
	'What a template sees. Arguments: report name, business day (of one that is not closed, the figures so far; for dataset activity the latest scored day). Result: JSON object of exact, unrounded numbers. Errors: 42704 unknown report or tag, P0002 day not begun or not the scored one, 22004 NULL argument';

-- ecstats.pipeline_enqueue: one report to one of its channels. NULL where it is queued already.
CREATE FUNCTION ecstats.pipeline_enqueue(definition ecstats.reports, day date, revision integer, channel text, message jsonb) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_enqueue(definition.name, day, revision, '', channel, definition.priority, definition.ttl,
									ecstats.channel_envelope(channel, message), NULL) $$;
COMMENT ON FUNCTION ecstats.pipeline_enqueue(ecstats.reports, date, integer, text, jsonb) IS
	'Queues a report''s message for one channel at the revision that it was made from; NULL if that is queued already.';

-- ecstats_preview: what ecstats_report would do. Arguments and errors: as there.
-- Result: a row a channel (one row with channel NULL for a report without any): the body as it would be sent,
-- its bytes, whether it would be sent and why not. Where the channel takes the report's audience, a second row shows
-- the first page, which says how many there are. Writes nothing.
CREATE FUNCTION @extschema@.ecstats_preview(report text, day date DEFAULT @extschema@.ecstats_day() - 1)
	RETURNS TABLE (channel text, kind text, body jsonb, bytes integer, would_send boolean, reason text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports := ecstats.report_row(report);
	made record;
	enabled boolean;
	queued bigint;
BEGIN
	SELECT * INTO made FROM ecstats.report_message(report, day, ecstats.pipeline_live(day)) m;
	FOREACH channel IN ARRAY CASE definition.channels WHEN '{}' THEN '{NULL}' ELSE definition.channels END LOOP
		body := made.message;
		would_send := made.would_send;
		reason := made.reason;
		SELECT c.kind, c.enabled INTO kind, enabled FROM ecstats.channels c WHERE c.name = ecstats_preview.channel;
		IF channel IS NULL OR kind IS NULL THEN
			would_send := false;
			reason := coalesce(reason, CASE WHEN channel IS NULL THEN 'the report has no channel' ELSE 'there is no such channel' END);
		ELSE
			body := ecstats.channel_envelope(channel, made.message);
			SELECT d.id INTO queued FROM ecstats.deliveries d
			 WHERE d.report = definition.name AND d.day = ecstats_preview.day AND d.occasion = '' AND d.channel = ecstats_preview.channel
			   AND d.revision = made.revision;
			reason := coalesce(reason, CASE WHEN NOT enabled THEN 'the channel is disabled' END,
							   ecstats.channel_oversize(channel, body),
							   format('it is queued already: delivery %s', queued));
			reason := CASE WHEN made.would_send AND enabled AND queued IS NULL AND ecstats.channel_oversize(channel, body) IS NULL
						   THEN NULL ELSE reason END;
			would_send := reason IS NULL;
		END IF;
		bytes := octet_length(convert_to(body::text, 'UTF8'));
		RETURN NEXT;

		CONTINUE WHEN definition.audience IS NULL OR ecstats.channel_settings(channel) ->> 'audience_page' IS NULL;
		SELECT p.body INTO body FROM ecstats.pipeline_audience_pages(definition.name, definition.audience, ecstats_preview.channel, 1) p;
		SELECT min(d.id) INTO queued FROM ecstats.deliveries d
		 WHERE d.report = definition.name AND d.day = ecstats_preview.day AND d.occasion LIKE 'audience %' AND d.channel = ecstats_preview.channel;
		reason := CASE WHEN NOT made.would_send THEN made.reason WHEN NOT enabled THEN 'the channel is disabled'
					   WHEN queued IS NOT NULL THEN format('it is queued already: from delivery %s on', queued)
					   ELSE ecstats.channel_oversize(channel, body) END;
		would_send := reason IS NULL;
		bytes := octet_length(convert_to(body::text, 'UTF8'));
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_preview(text, date) IS
	'What ecstats_report(report, day) would queue, a row a channel: body, bytes, would_send and the reason if not; and a second row with the first page of an audience (its pages says how many) where the channel takes it. Writes nothing. 42704, P0002.';

-- ecstats.pipeline_report_failed: a failed report is recorded and told.
CREATE FUNCTION ecstats.pipeline_report_failed(report text, day date, channel text, code text, message text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.report_failures (report, day, channel, sqlstate, reason) VALUES (report, day, channel, code, message);
	PERFORM ecstats.delivery_tell_operators('report:' || report, concat_ws('/', day, channel),
		format('Report %s of %s was not queued', report, day), concat_ws(': ', 'channel ' || channel, message));
	RAISE WARNING 'report "%" of % was not queued: %', report, day, message;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_report_failed(text, date, text, text, text) IS
	'Records in report_failures that a report could not be queued, and tells the operators.';

-- ecstats.pipeline_queue_channels: a message, and the report's audience where the channel takes it, to each of a
-- report's channels. One that fails is recorded and told and does not stop the others.
CREATE FUNCTION ecstats.pipeline_queue_channels(definition ecstats.reports, day date, revision integer, message jsonb) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	channel text;
	id bigint;
BEGIN
	FOREACH channel IN ARRAY definition.channels LOOP
		BEGIN
			id := ecstats.pipeline_enqueue(definition, day, revision, channel, message);
			IF id IS NOT NULL THEN
				RETURN NEXT id;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, channel, SQLSTATE, SQLERRM);
		END;
		CONTINUE WHEN definition.audience IS NULL;
		BEGIN
			RETURN QUERY SELECT ecstats.pipeline_queue_audience(definition.name, day, definition.audience, channel, definition.priority, definition.ttl);
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, channel, SQLSTATE, 'audience: ' || SQLERRM);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_channels(ecstats.reports, date, integer, jsonb) IS
	'Queues a message, and the audience where it is taken, for every channel of a report; ids of those that were queued. Failures are recorded, told and warned of.';

-- ecstats_report: makes a report of a day and queues it.
-- Arguments: report, a name in ecstats.reports; day (default yesterday); of one that is not closed, the figures so
-- far, at revision 0. Result: ids of the deliveries that were queued: none where the condition does not hold, the
-- report is disabled, has no channel, or was queued for this revision before. A channel that is disabled, unknown
-- or too small for the message is a warning and a row of ecstats.report_failures; the others get theirs.
-- A report of dataset activity is made of the latest scored day alone, once; its audience follows the message, in
-- pages, where a channel has the option audience_page.
-- Errors: 42704 report, template or audience unknown, P0002 day not begun or not the scored one. Touches ecstats.deliveries.
CREATE FUNCTION @extschema@.ecstats_report(report text, day date DEFAULT @extschema@.ecstats_day() - 1) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports := ecstats.report_row(report);
	made record;
BEGIN
	SELECT * INTO made FROM ecstats.report_message(report, day, ecstats.pipeline_live(day)) m;
	IF made.would_send THEN
		RETURN QUERY SELECT ecstats.pipeline_queue_channels(definition, day, made.revision, made.message);
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_report(text, date) IS
	'Evaluates a report''s condition for a day, renders it and queues a delivery a channel; returns their ids, none if the condition does not hold or it is queued already. A channel that cannot take it is a warning. 42704, P0002.';

-- ecstats.pipeline_queue_reports: the reports that hang on the first close of a day. One that fails does not
-- stop the others nor the close.
CREATE FUNCTION ecstats.pipeline_queue_reports(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports;
	made record;
BEGIN
	FOR definition IN SELECT * FROM ecstats.reports r
					   WHERE r.enabled AND r.dataset = 'daily' AND r.schedule IS NULL AND r.channels <> '{}'
					   ORDER BY r.priority, r.name LOOP
		BEGIN
			SELECT * INTO made FROM ecstats.report_message(definition.name, day, NULL) m;
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, NULL, SQLSTATE, SQLERRM);
			CONTINUE;
		END;
		IF made.would_send THEN
			PERFORM ecstats.pipeline_queue_channels(definition, day, made.revision, made.message);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_reports(date) IS
	'Queues the enabled daily reports without a schedule of their own for a day; failures are recorded and told, never raised.';

-- ecstats.pipeline_caught_up: days were closed on the way to another one, after an outage or a back-fill: their
-- reports are not sent by themselves.
CREATE FUNCTION ecstats.pipeline_caught_up(day date, days date[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE NOTICE 'earlier days were closed too: %, from % to %; their reports are not sent by themselves',
		cardinality(days), days[1], days[cardinality(days)]
		USING HINT = format('SELECT ecstats_report(''daily'', %L) sends one.', days[cardinality(days)]);
	PERFORM ecstats.delivery_tell_operators('daily', day::text, format('Earlier days were closed late: %s', cardinality(days)),
		format('%s to %s were open when %s was closed. Their reports were not sent; SELECT ecstats_report(report, day) sends one.',
			   days[1], days[cardinality(days)], day));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_caught_up(date, date[]) IS 'Says, also to the operators, that days were closed late and that their reports were not sent.';

-- sql/53_pipeline_job.sql
-- The jobs that come with the extension, what a failed one sets off, and what a change of clock means.

-- ecstats.job_failed: called by the schedule when a run has failed for good.
CREATE FUNCTION ecstats.job_failed(job text, run_id bigint, attempt integer, error text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_tell_operators('job:' || job, run_id::text, format('Job %s failed', job),
										   format('Run %s, attempt %s: %s', run_id, attempt, error)) $$;
COMMENT ON FUNCTION ecstats.job_failed(text, bigint, integer, text) IS 'Tells the operators once that a run failed for good.';

-- ecstats.pipeline_daily_schedule: two hours after the business day begins, as a cron expression.
CREATE FUNCTION ecstats.pipeline_daily_schedule(day_starts_at time) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN extract(second FROM t) = 0 THEN to_char(t, 'FMMI FMHH24') || ' * * *'
				ELSE to_char(t, 'FMSS FMMI FMHH24') || ' * * ?' END
	  FROM (SELECT ('2000-01-01'::date + day_starts_at + interval '2 hours') AS t) x $$;
COMMENT ON FUNCTION ecstats.pipeline_daily_schedule(time) IS 'Cron expression of the daily job: two hours after day_starts_at.';

SELECT ecstats.job_put('daily', current_user::text, ecstats.pipeline_daily_schedule(c.day_starts_at),
	'SELECT @extschema@.ecstats_daily(@extschema@.ecstats_day(current_setting(''ecstats.due_at'')::timestamptz) - 1)')
  FROM ecstats.config c;
SELECT ecstats.job_put('maintain', current_user::text, '17 * * * *', 'CALL @extschema@.ecstats_maintain()');
-- ecstats.pipeline_recall: the shipped recall reports of the latest day that was scored; nothing while no channel is named or
-- nobody was scored. One that fails is told and does not stop the other. Result: deliveries that were queued.
CREATE FUNCTION ecstats.pipeline_recall() RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT d.name, s.as_of FROM ecstats.reports d CROSS JOIN ecstats.activity_state s
			  WHERE d.name IN ('recall', 'recall_en') AND d.enabled AND d.channels <> '{}' AND s.as_of IS NOT NULL ORDER BY d.name LOOP
		BEGIN
			RETURN QUERY SELECT @extschema@.ecstats_report(r.name, r.as_of);
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(r.name, r.as_of, NULL, SQLSTATE, SQLERRM);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_recall() IS
	'Queues the recall reports of the latest day that was scored, if they have channels, and returns the deliveries; failures are recorded and told, never raised.';
-- Mondays at nine.
SELECT ecstats.job_put('recall', current_user::text, '0 9 * * 1', 'SELECT ecstats.pipeline_recall()');

-- ecstats.pipeline_clock_guard: another time zone or day start would mis-date what is stored. Refused once days are
-- closed. Before that, partitions that were cut by the old clock are dissolved: their rows go to the default
-- partition, which belongs to no day, and maintenance deals them out anew.
CREATE FUNCTION ecstats.pipeline_clock_guard() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
	IF (NEW.timezone, NEW.day_starts_at) = (OLD.timezone, OLD.day_starts_at) THEN
		RETURN NEW;
	END IF;
	PERFORM ecstats.must_be_read_committed('the shop''s clock changes');
	PERFORM ecstats.rollup_lock();
	IF EXISTS (SELECT FROM ecstats.daily_kpi) THEN
		RAISE EXCEPTION 'the shop''s clock cannot change: days are closed by the old one'
			USING ERRCODE = 'object_not_in_prerequisite_state', SCHEMA = 'ecstats', TABLE = 'config',
				  DETAIL = format('%s days are stored.', (SELECT count(*) FROM ecstats.daily_kpi)),
				  HINT = 'Set timezone and day_starts_at before the first close, or load the raw rows into a new database.';
	END IF;
	PERFORM ecstats.event_partitions_dissolve();
	-- Marks of open days mean nothing; they were dated by the old clock.
	DELETE FROM ecstats.day_marks;
	RETURN NEW;
EXCEPTION WHEN lock_not_available THEN
	RAISE EXCEPTION 'the shop''s clock cannot change now: ecstats.events is in use'
		USING ERRCODE = 'lock_not_available', SCHEMA = 'ecstats', TABLE = 'config',
			  DETAIL = 'A transaction that reads or writes events stayed open for 2 seconds.',
			  HINT = 'Try again when it is over; pg_stat_activity shows it.';
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_clock_guard() IS
	'Trigger on ecstats.config: 55000 once days are closed by the old timezone or day_starts_at; before that, day partitions are dissolved.';
CREATE TRIGGER clock_guard BEFORE UPDATE OF timezone, day_starts_at ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_clock_guard();

CREATE FUNCTION ecstats.pipeline_clock_changed() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (NEW.timezone, NEW.day_starts_at) <> (OLD.timezone, OLD.day_starts_at) THEN
		PERFORM ecstats.job_reschedule('daily', ecstats.pipeline_daily_schedule(NEW.day_starts_at))
		  FROM ecstats.jobs j
		 WHERE j.name = 'daily' AND j.schedule = ecstats.pipeline_daily_schedule(OLD.day_starts_at);
		PERFORM ecstats.job_timezone_changed();
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_clock_changed() IS
	'Trigger on ecstats.config: the daily job follows day_starts_at unless somebody gave it another time, and jobs without a zone follow timezone.';
CREATE TRIGGER clock_changed AFTER UPDATE OF timezone, day_starts_at ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_clock_changed();

-- These rows are somebody's work: a plain DROP EXTENSION must not take them along. (Raw rows see to it themselves.)
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.channels
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.templates
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.targets
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.jobs
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.rejects
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.deliveries
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();

-- sql/54_maintain.sql
-- House-keeping, hourly: partitions ahead, strays to their days, what is past retention.

-- ecstats.maintain_partition: one day's partition, without waiting long. False where a lock was busy.
CREATE FUNCTION ecstats.maintain_partition(day date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
	RETURN ecstats.event_partition_make(day);
EXCEPTION WHEN lock_not_available OR deadlock_detected OR invalid_object_definition OR object_in_use THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION ecstats.maintain_partition(date) IS
	'Makes a day''s partition and moves its waiting rows, giving up after half a second of waiting for a lock.';

-- ecstats.maintain_days: days that want a partition: 7 back to 7 ahead but for those dropped by retention, and
-- those with strays. Not those whose name another table has, as a partition does that somebody detached: their
-- rows wait in the default partition, ecstats_status says so.
CREATE FUNCTION ecstats.maintain_days(at timestamptz) RETURNS SETOF date
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT d FROM (SELECT ecstats.day_of(at) + i FROM generate_series(-7, 7) AS i
					WHERE NOT EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(at) + i AND s.events_dropped)
				   UNION SELECT ecstats.event_stray_days()) w(d)
	 WHERE NOT ecstats.day_partition_taken(d) ORDER BY d $$;
COMMENT ON FUNCTION ecstats.maintain_days(timestamptz) IS 'Business days that should have a partition and can get one.';

-- ecstats.maintain_lost: a stored day whose partition somebody dropped keeps what was counted from it, also once
-- late rows give it a new one. False where a lock was busy: then no partition is made.
CREATE FUNCTION ecstats.maintain_lost() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
	PERFORM ecstats.rollup_lock();
	PERFORM ecstats.rollup_partitioned();
	RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION ecstats.maintain_lost() IS 'Notes which partitions stored days have, and those that were dropped by hand; false where a lock was busy.';

-- ecstats.maintain_droppable: the rule of retention. Whole days only, whose end is past config's retention; a day
-- that is closed and complete and did not change since, and so are all days with data of its week (Monday to
-- Sunday) and of its month, both of which have ended. Events only where the day has them in a partition of its
-- own, with its bounds: one that somebody attached otherwise holds other days too. Nor before the
-- day's week and month are stored and closed: they are counted from what a close left behind, but a close it must be.
CREATE FUNCTION ecstats.maintain_droppable(at timestamptz, only_day date DEFAULT NULL)
	RETURNS TABLE (day date, events boolean, orders boolean)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH past AS MATERIALIZED (
		SELECT s.day, coalesce(NOT s.events_dropped AND ecstats.day_start(s.day + 1) <= at - c.event_retention, false) AS events,
			   coalesce(NOT s.orders_dropped AND ecstats.day_start(s.day + 1) <= at - c.order_retention, false) AS orders,
			   least(date_trunc('week', s.day), date_trunc('month', s.day))::date AS from_day,
			   greatest(date_trunc('week', s.day) + interval '1 week', date_trunc('month', s.day) + interval '1 month')::date AS to_day
		  FROM ecstats.day_state s JOIN ecstats.daily_kpi k ON k.day = s.day CROSS JOIN ecstats.config c
		 WHERE only_day IS NULL OR s.day = only_day
	), unsettled AS MATERIALIZED (		-- nothing is asked where nothing is past retention
		SELECT u.day FROM (SELECT max(p.to_day) AS day FROM past p WHERE p.events OR p.orders) until
		 CROSS JOIN LATERAL (
			SELECT ecstats.rollup_open_days(until.day)
			UNION SELECT ecstats.rollup_stale_days()
			UNION SELECT k.day FROM ecstats.daily_kpi k LEFT JOIN ecstats.day_state s ON s.day = k.day
				   WHERE NOT coalesce(s.frozen, false) AND (s.day IS NULL OR NOT k.complete OR s.unseen <> '{}')) u(day)
		 WHERE until.day IS NOT NULL
	)
	SELECT p.day, p.events, p.orders
	  FROM (SELECT p.day, CASE WHEN p.events THEN ecstats.event_day_apart(p.day) ELSE false END AS events, p.orders FROM past p
			 WHERE (p.events OR p.orders) AND p.to_day <= ecstats.day_of(at)
			   AND NOT EXISTS (SELECT FROM unsettled u WHERE u.day >= p.from_day AND u.day < p.to_day)
			   AND EXISTS (SELECT FROM ecstats.weekly_kpi w WHERE w.day = ecstats.rollup_period_start('week', p.day) AND w.revision > 0)
			   AND EXISTS (SELECT FROM ecstats.monthly_kpi m WHERE m.day = ecstats.rollup_period_start('month', p.day) AND m.revision > 0)) p
	 WHERE p.events OR p.orders
	 ORDER BY p.day $$;
COMMENT ON FUNCTION ecstats.maintain_droppable(timestamptz, date) IS
	'Days (or one day alone) whose raw events or order lines retention may drop at an instant: past config''s retention, closed, complete and unchanged, as all of their ended week and month, which are stored and closed too.';

-- ecstats.maintain_drop: drops the raw rows of one such day. Without its events, what was counted from them stays as
-- it is, and order figures still follow order lines; without its order lines the day is frozen. False where a lock
-- was busy for half a second, or the day turned out to have changed: the next run tries again. Held meanwhile: no
-- writer may add a row between the last look at the day's marks and the end.
CREATE FUNCTION ecstats.maintain_drop(the_day date, at timestamptz) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
	from_time timestamptz := ecstats.day_start(the_day);
	to_time timestamptz := ecstats.day_start(the_day + 1);
	was_frozen boolean := coalesce((SELECT s.frozen FROM ecstats.day_state s WHERE s.day = the_day), false);
	what record;
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats.maintain_drop drops a day');
	PERFORM ecstats.rollup_lock();
	-- Nobody drops by a clock that is ahead.
	SELECT * INTO what FROM ecstats.maintain_droppable(least(at, clock_timestamp()), the_day) p WHERE p.day = the_day;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	IF what.events THEN
		LOCK TABLE ONLY ecstats.events, ONLY ecstats.events_default IN ACCESS EXCLUSIVE MODE;
		IF ecstats.day_partition_exists(the_day) THEN
			EXECUTE format('LOCK TABLE ecstats.%I IN ACCESS EXCLUSIVE MODE', ecstats.day_partition_name(the_day));
		END IF;
	END IF;
	IF what.orders THEN
		LOCK TABLE ecstats.order_lines IN SHARE ROW EXCLUSIVE MODE;
	END IF;
	-- Only now is it certain what was committed. (The marks of a day that is frozen already are of late rows.)
	IF NOT was_frozen AND EXISTS (SELECT FROM ecstats.day_marks m WHERE m.day = the_day)
		OR what.events AND NOT ecstats.event_day_apart(the_day) THEN
		RETURN false;
	END IF;
	UPDATE ecstats.day_state s
	   SET frozen = s.frozen OR what.orders, events_dropped = s.events_dropped OR what.events, orders_dropped = s.orders_dropped OR what.orders
	 WHERE s.day = the_day;
	IF what.events AND ecstats.day_partition_exists(the_day) THEN
		EXECUTE format('DROP TABLE ecstats.%I', ecstats.day_partition_name(the_day));
	END IF;
	IF what.orders THEN
		PERFORM ecstats.maintain_drop_lines(from_time, to_time);
	END IF;
	RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected OR object_in_use OR dependent_objects_still_exist THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION ecstats.maintain_drop(date, timestamptz) IS
	'Drops the raw rows of a day that ecstats.maintain_droppable names; false where that must wait. 25000 unless READ COMMITTED.';

-- ecstats.maintain_drop_lines: drops a day's order lines. A line counts on two days, the one of its order and the
-- one of its payment: it goes with the later of them.
CREATE FUNCTION ecstats.maintain_drop_lines(from_time timestamptz, to_time timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- Figures stay as they are: the days are not marked as changed.
	PERFORM set_config('ecstats.suppress_marks', 'on', true);
	DELETE FROM ecstats.order_lines l
	 WHERE l.order_time >= from_time AND l.order_time < to_time
	   AND (l.paid_time IS NULL
			OR EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(l.paid_time) AND s.orders_dropped));
	DELETE FROM ecstats.order_lines l
	 WHERE l.paid_time >= from_time AND l.paid_time < to_time
	   AND EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(l.order_time) AND s.orders_dropped);
	PERFORM set_config('ecstats.suppress_marks', 'off', true);
END
$$;
COMMENT ON FUNCTION ecstats.maintain_drop_lines(timestamptz, timestamptz) IS
	'Deletes the order lines of a range of time all of whose days (order and payment) are dropped.';

-- ecstats.maintain_prune: one bounded batch of what is older than config.log_retention. True while there is more.
CREATE FUNCTION ecstats.maintain_prune(at timestamptz, max_rows integer) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	before timestamptz := at - (SELECT c.log_retention FROM ecstats.config c);
	n bigint;
	most bigint;
BEGIN
	IF before IS NULL THEN
		RETURN false;
	END IF;
	DELETE FROM ecstats.rejects r WHERE r.id IN (SELECT o.id FROM ecstats.rejects o WHERE o.received_at < before ORDER BY o.received_at LIMIT max_rows);
	GET DIAGNOSTICS most = ROW_COUNT;
	DELETE FROM ecstats.report_failures r WHERE r.id IN (SELECT o.id FROM ecstats.report_failures o WHERE o.at < before ORDER BY o.at LIMIT max_rows);
	most := greatest(most, ecstats.job_prune(before, max_rows), ecstats.source_prune(before, max_rows));
	n := ecstats.delivery_prune(before, max_rows);
	RETURN greatest(most, n) >= max_rows;
END
$$;
COMMENT ON FUNCTION ecstats.maintain_prune(timestamptz, integer) IS
	'Drops at most max_rows each of rejects, failures of reports, job runs and settled deliveries older than config.log_retention; true while there may be more.';

-- ecstats_maintain: makes partitions ahead, moves rows out of the default partition into their days', drops
-- raw rows past config.event_retention and order_retention (ecstats.maintain_droppable is the rule) and logs past
-- log_retention. Commits on the way, so that writers never wait long.
-- Called with CALL, outside a transaction block. Touches the partitions of ecstats.events, ecstats.order_lines,
-- ecstats.day_state and the logs.
CREATE PROCEDURE @extschema@.ecstats_maintain()
	LANGUAGE plpgsql AS $$
DECLARE
	days pg_catalog.date[];
	d pg_catalog.date;
	more boolean := true;
	busy pg_catalog.int4 := 0;
	waiting pg_catalog.int4 := 0;
BEGIN
	-- COMMIT, and at once SET TRANSACTION, before anything takes a snapshot: one from before its locks misses rows.
	COMMIT;
	SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
	days := CASE WHEN ecstats.maintain_lost() THEN array(SELECT ecstats.maintain_days(pg_catalog.clock_timestamp())) END;
	FOREACH d IN ARRAY coalesce(days, '{}') LOOP
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		IF NOT ecstats.maintain_partition(d) AND NOT ecstats.day_partition_exists(d) THEN
			busy := busy OPERATOR(pg_catalog.+) 1;
		END IF;
	END LOOP;
	IF days OPERATOR(pg_catalog.<>) '{}'::pg_catalog.date[] THEN			-- days that were closed out of the default partition have their own now
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		PERFORM ecstats.maintain_lost();
	END IF;
	COMMIT;
	FOREACH d IN ARRAY array(SELECT p.day FROM ecstats.maintain_droppable(pg_catalog.clock_timestamp()) p) LOOP
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		IF NOT ecstats.maintain_drop(d, pg_catalog.clock_timestamp()) THEN
			waiting := waiting OPERATOR(pg_catalog.+) 1;
		END IF;
	END LOOP;
	COMMIT;
	WHILE more LOOP
		more := ecstats.maintain_prune(pg_catalog.clock_timestamp(), 10000);
		COMMIT;
	END LOOP;
	IF days IS NULL THEN
		RAISE NOTICE 'no partitions were made because a lock was busy; the next run tries again';
	ELSIF busy OPERATOR(pg_catalog.>) 0 THEN
		RAISE NOTICE '% partitions could not be made now because a lock was busy; the next run tries again', busy;
	END IF;
	IF waiting OPERATOR(pg_catalog.>) 0 THEN
		RAISE NOTICE 'days past retention that could not be dropped now because they are in use: %; the next run tries again', waiting;
	END IF;
END
$$;
COMMENT ON PROCEDURE @extschema@.ecstats_maintain() IS
	'Makes event partitions from 7 days back to 7 ahead, empties the default partition, drops raw rows and logs past config''s retention (a day only when it, its week and its month are closed); commits on the way.';

-- sql/55_pipeline_source.sql
-- From sources to events and orders: the intake's own rules, the day as a whole.

-- ecstats.pipeline_reject: keeps what a run could not take; what is kept already stays as it is.
-- Result: the ids of all of them.
CREATE FUNCTION ecstats.pipeline_reject(the_source text, the_day date, bad jsonb) RETURNS bigint[]
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	ids bigint[];
BEGIN
	WITH b AS MATERIALIZED (
		SELECT DISTINCT ON (e -> 'payload') e -> 'payload' AS payload, e ->> 'sqlstate' AS sqlstate, e ->> 'reason' AS reason
		  FROM jsonb_array_elements(bad) e
	), known AS MATERIALIZED (			-- each by the index, which is in the column's collation, not the caller's
		SELECT b.*, k.ids
		  FROM b
		 CROSS JOIN LATERAL (SELECT array_agg(r.id) AS ids FROM ecstats.rejects r
							  WHERE r.source = the_source COLLATE "default" AND r.day = the_day AND jsonb_hash(r.payload) = jsonb_hash(b.payload)
								AND r.payload = b.payload AND r.sqlstate = b.sqlstate) k
	), added AS (
		INSERT INTO ecstats.rejects (source, day, payload, sqlstate, reason)
		SELECT the_source, the_day, k.payload, k.sqlstate, k.reason FROM known k WHERE k.ids IS NULL
		RETURNING id
	)
	SELECT coalesce(array_agg(i.id), '{}') INTO ids
	  FROM (SELECT a.id FROM added a UNION ALL SELECT unnest(k.ids) FROM known k) i;
	RETURN ids;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_reject(text, date, jsonb) IS
	'Keeps bad elements [{payload, sqlstate, reason}] of a source''s day in ecstats.rejects, each once, and returns their ids.';

-- ecstats.pipeline_unreject: a run has seen the whole day; what it did not meet again is no reject any more.
CREATE FUNCTION ecstats.pipeline_unreject(the_source text, the_day date, met bigint[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone bigint[] := ARRAY(SELECT r.id FROM ecstats.rejects r WHERE r.source = the_source COLLATE "default" AND r.day = the_day EXCEPT SELECT unnest(met));
BEGIN
	DELETE FROM ecstats.rejects r USING unnest(gone) g(id) WHERE r.id = g.id;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_unreject(text, date, bigint[]) IS 'Drops the rejects of a source''s day that its latest run did not meet.';

-- ecstats.pipeline_take_events: stores events of a source. Result: events taken (stored before or not); bad elements.
CREATE FUNCTION ecstats.pipeline_take_events(payload jsonb, raise_errors boolean, at timestamptz, OUT taken bigint, OUT bad jsonb)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	stored bigint;
	conflicts jsonb;
	clock timestamptz := clock_timestamp();		-- every element is judged by this
BEGIN
	PERFORM ecstats.event_partitions_try(ecstats.event_days_wanted(payload, at), at);
	WITH parsed AS MATERIALIZED (
		SELECT * FROM ecstats.event_parse(payload, raise_errors, clock)
	), stored_rows AS (
		INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT p.event_time, p.user_id, p.event, p.event_id, p.page_url, p.extra FROM parsed p WHERE p.sqlstate IS NULL
		ON CONFLICT DO NOTHING
		RETURNING 1
	)
	SELECT count(*) FILTER (WHERE p.sqlstate IS NULL), (SELECT count(*) FROM stored_rows),
		   coalesce(jsonb_agg(jsonb_build_object('payload', p.payload_element, 'sqlstate', p.sqlstate, 'reason', p.reason) ORDER BY p.ord)
					FILTER (WHERE p.sqlstate IS NOT NULL), '[]')
	  INTO taken, stored, bad
	  FROM parsed p;
	IF stored = taken THEN
		RETURN;
	END IF;
	SELECT coalesce(jsonb_agg(jsonb_build_object('payload', payload -> (c.ord - 1), 'sqlstate', '23505',
			'reason', format('an event with this key is stored with other content. event_id %s. Give every event an event_id of its own; correct a stored one with UPDATE.', c.event_id))
			ORDER BY c.ord), '[]') INTO conflicts
	  FROM ecstats.event_conflicts(payload, clock) c;
	IF raise_errors AND conflicts <> '[]' THEN
		RAISE EXCEPTION 'an event with this key is stored with other content'
			USING ERRCODE = 'unique_violation', SCHEMA = 'ecstats', TABLE = 'events', COLUMN = 'event_id',
				  DETAIL = format('Element: %s.', left(conflicts -> 0 ->> 'payload', 200)),
				  HINT = 'Give every event an event_id of its own; correct a stored one with UPDATE.';
	END IF;
	bad := bad || conflicts;
	taken := taken - jsonb_array_length(conflicts);
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_events(jsonb, boolean, timestamptz) IS
	'Stores events of a source: how many were taken (stored before or not), and the bad elements, those whose key is stored with other content among them.';

-- ecstats.pipeline_collect_query: takes a day of a source of kind query, whose row is locked. Result: rows taken.
CREATE FUNCTION ecstats.pipeline_collect_query(s ecstats.sources, the_day date, at timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	role oid := ecstats.source_role(s);
	from_time timestamptz := ecstats.day_start(the_day);
	to_time timestamptz := ecstats.day_start(the_day + 1);
	zone text := (SELECT c.timezone FROM ecstats.config c);
	timeout_ms integer := greatest(extract(epoch FROM s.timeout) * 1000, 1);
	mark timestamptz := ecstats.source_watermark(s, the_day, at);
	said timestamptz;
	taken bigint := 0;
	met bigint[] := '{}';
	keys bigint[] := '{}';
	part record;
	b jsonb;
BEGIN
	PERFORM ecstats.source_pin(s);
	-- First how far the source is, then its rows: what commits in between is not claimed to be here.
	-- No farther than has been taken, whatever the source says of days that nobody asked for.
	IF s.watermark_query IS NOT NULL THEN
		said := ecstats.source_instant(s.name, role, s.watermark_query, from_time, to_time, zone, timeout_ms);
		mark := CASE WHEN said IS NULL THEN s.watermark ELSE least(said, mark) END;
	END IF;
	FOR b IN SELECT r.batch FROM ecstats.source_rows(s.target, s.name, role, s.query, from_time, to_time, zone, timeout_ms) r LOOP
		IF s.target = 'orders' THEN
			SELECT * INTO part FROM ecstats.pipeline_take_orders(b, s.on_error = 'raise');
			keys := keys || part.keys;
		ELSE
			SELECT * INTO part FROM ecstats.pipeline_take_events(b, s.on_error = 'raise', at);
		END IF;
		taken := taken + part.taken;
		IF part.bad <> '[]' THEN
			met := met || ecstats.pipeline_reject(s.name, the_day, part.bad);
		END IF;
	END LOOP;
	PERFORM ecstats.pipeline_keys_once(s.name, keys);
	-- A row that could not be read may be a line that is stored: then nothing goes.
	IF s.options -> 'replace' = 'true' AND met = '{}' THEN
		PERFORM ecstats.pipeline_replace(s, the_day, keys);
	END IF;
	PERFORM ecstats.pipeline_unreject(s.name, the_day, met);
	PERFORM ecstats.source_ran(s.name, the_day, taken, mark, at);
	RETURN taken;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_collect_query(ecstats.sources, date, timestamptz) IS
	'Runs the query of a source for a day and takes its rows in: how many. The source''s row is locked.';

-- ecstats_collect: takes a business day of a source again, as a whole.
-- Arguments: source, a name in ecstats.sources; day. Result: kind query: rows taken (stored before or not); kind
-- http: the id of the fetch that was queued for the pusher. Errors: 25000 not READ COMMITTED, 42704 no such source, 55000 disabled, 22023 no
-- such day, 57014 time-out, P0002 nothing came where options.replace would empty the day; what the query raises; with on_error 'raise' what is wrong with a row.
-- Touches ecstats.sources, source_fetches, events, order_lines, rejects.
CREATE FUNCTION @extschema@.ecstats_collect(source text, day date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s ecstats.sources;
	at timestamptz;
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats_collect takes a day of a source');		-- the watermark speaks of now
	s := ecstats.source_lock(source);
	at := clock_timestamp();
	IF day IS NULL OR NOT isfinite(day) OR day < date '1999-12-30' OR ecstats.day_start(day) > at THEN
		RAISE EXCEPTION 'no such business day, or it has not begun'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Day: %s.', coalesce(day::text, 'NULL')), HINT = 'Give a date from 2000 to today.';
	END IF;
	IF s.kind = 'http' THEN
		PERFORM ecstats.source_pin(s);
		RETURN ecstats.source_queue(source, day, at);
	END IF;
	RETURN ecstats.pipeline_collect_query(s, day, at);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_collect(text, date) IS
	'Takes a business day of a source again and upserts it. Kind query: returns rows taken; kind http: queues a fetch for the pusher and returns its id. 25000, 42704, 55000, 22023, 57014.';
-- sql/55_pipeline_order.sql
-- Order lines of sources: stored, told apart, and taken away again.

-- ecstats.pipeline_take_orders: stores orders of a source, line by line; none goes.
-- Arguments: payload, an array as of ecstats_order; raise_errors. Result: lines taken (stored before or not); bad
-- elements; a key of each line; the orders, with their times.
CREATE FUNCTION ecstats.pipeline_take_orders(payload jsonb, raise_errors boolean, OUT taken bigint, OUT bad jsonb, OUT keys bigint[],
														OUT order_ids text[], OUT order_times timestamptz[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	SELECT t.taken, t.bad, t.keys, t.order_ids, t.order_times INTO taken, bad, keys, order_ids, order_times
	  FROM ecstats.order_store(payload, raise_errors, false, true) t;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_orders(jsonb, boolean) IS
	'Upserts order lines of a source: lines taken, bad elements, a hash of each line''s key (one sent twice has two), the orders.';

-- ecstats.pipeline_keys_once: a source that gives one line twice contradicts itself: which one would hold?
CREATE FUNCTION ecstats.pipeline_keys_once(the_source text, keys bigint[]) RETURNS void
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	twice bigint := cardinality(keys) - (SELECT count(DISTINCT k) FROM unnest(keys) k);
BEGIN
	IF twice > 0 THEN
		RAISE EXCEPTION 'source "%" gives order lines twice', the_source
			USING ERRCODE = 'unique_violation', DETAIL = format('%s of %s rows repeat order_id, line_no and order_time.', twice, cardinality(keys)),
				  HINT = 'Return line_no where an order has several lines; a join may multiply rows.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_keys_once(text, bigint[]) IS '23505 where a run of a source met a line''s key twice.';

-- ecstats.pipeline_orders_once: an order on several pages, or twice on one, is one order, if its lines can be told apart:
-- items that have a line_no add up. Without one they are numbered by position, so that an order must be the same
-- whenever it is met: the rest of an order would take the place of its beginning.
-- Arguments: payload, an array of orders; the_fetch, whose earlier pages count. Error: 23505.
CREATE FUNCTION ecstats.pipeline_orders_once(the_source text, payload jsonb, the_fetch bigint) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	bad record;
BEGIN
	-- One sort of the page and no join of it to itself: the plan must hold for any page and any table.
	WITH page AS MATERIALIZED (
		SELECT p.order_id, p.order_time, p.ord, p.line_no, p.product_id, p.quantity, p.amount
		  FROM ecstats.order_parse(payload, false) p WHERE p.sqlstate IS NULL
	), before AS MATERIALIZED (
		SELECT l.*
		  FROM (SELECT DISTINCT p.order_id, p.order_time FROM page p WHERE EXISTS (SELECT FROM ecstats.source_pages g WHERE g.fetch_id = the_fetch)) o
		 CROSS JOIN LATERAL (SELECT * FROM ecstats.order_lines l
							  WHERE l.order_id = o.order_id AND l.order_time IS NOT DISTINCT FROM o.order_time OFFSET 0) l
	), parts AS (
		SELECT p.*, NOT jsonb_path_exists(payload -> (p.ord - 1), '$.items[*] ? (!exists(@.line_no) || @.line_no == null)') AS numbered FROM page p
		UNION ALL
		SELECT l.order_id, l.order_time, 0, l.line_no, l.product_id, l.quantity, l.amount, NULL
		  FROM before l
		 WHERE ecstats.order_line_key(l.order_id, l.line_no, l.order_time) IN (SELECT unnest(p.keys) FROM ecstats.source_pages p WHERE p.fetch_id = the_fetch)
	), lines AS (
		SELECT p.*, min(p.product_id) OVER line <> max(p.product_id) OVER line AS two_products
		  FROM parts p WINDOW line AS (PARTITION BY p.order_id, p.order_time, p.line_no)
	), elements AS (
		SELECT l.order_id, l.order_time, bool_and(l.numbered) AS numbered, bool_or(l.two_products) AS two_products,
			   array_agg(ROW(l.line_no, l.product_id, l.quantity, trim_scale(l.amount)) ORDER BY l.line_no)::text AS content
		  FROM lines l GROUP BY l.order_id, l.order_time, l.ord
	)
	SELECT e.order_id, e.order_time, bool_and(e.numbered) AS numbered INTO bad
	  FROM elements e GROUP BY e.order_id, e.order_time
	HAVING CASE WHEN bool_and(e.numbered) THEN bool_or(e.two_products) ELSE count(DISTINCT e.content) > 1 END
	 ORDER BY e.order_id, e.order_time LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'source "%" gives an order twice, with different lines', the_source
			USING ERRCODE = 'unique_violation', DETAIL = format('order_id %s, order_time %s UTC. %s', left(bad.order_id, 128), bad.order_time AT TIME ZONE 'UTC',
								  CASE WHEN bad.numbered THEN 'One line_no has two products.' ELSE 'Items without a line_no of their own cannot go on in another element.' END),
				  HINT = 'Map a number of each item, unique in its order, to line_no (options.item_fields, fields).';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_orders_once(text, jsonb, bigint) IS
	'23505 where orders of a page contradict each other, or what earlier pages of the fetch brought of them.';

-- ecstats.pipeline_orders_end: a fetch has seen all its pages: lines that its whole orders do not have any more go.
-- Stored lines are found by the key's index, and those to go in one aggregate, whatever a planner makes of the arrays.
CREATE FUNCTION ecstats.pipeline_orders_end(the_fetch bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
	WITH orders AS (
		SELECT DISTINCT o.order_id, o.order_time
		  FROM ecstats.source_pages p, unnest(p.order_ids, p.order_times) o(order_id, order_time) WHERE p.fetch_id = the_fetch
	), stored AS MATERIALIZED (
		SELECT l.*
		  FROM orders o
		 CROSS JOIN LATERAL (SELECT l.order_id, l.line_no, l.order_time FROM ecstats.order_lines l
							  WHERE l.order_id = o.order_id AND l.order_time IS NOT DISTINCT FROM o.order_time OFFSET 0) l
	), gone AS MATERIALIZED (
		SELECT max(k.order_id) AS order_id, max(k.line_no) AS line_no, max(k.order_time) AS order_time
		  FROM (SELECT ecstats.order_line_key(s.order_id, s.line_no, s.order_time) AS key, s.order_id, s.line_no, s.order_time FROM stored s
				UNION ALL SELECT unnest(p.keys), NULL, NULL, NULL FROM ecstats.source_pages p WHERE p.fetch_id = the_fetch) k
		 GROUP BY k.key HAVING count(*) = count(k.order_id)
	)
	DELETE FROM ecstats.order_lines l
	 USING unnest(ARRAY(SELECT g.order_id FROM gone g), ARRAY(SELECT g.line_no FROM gone g), ARRAY(SELECT g.order_time FROM gone g)) d(order_id, line_no, order_time)
	 WHERE l.order_id = d.order_id AND l.line_no = d.line_no AND l.order_time IS NOT DISTINCT FROM d.order_time;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_orders_end(bigint) IS 'Drops stored lines of the whole orders of a fetch that none of its pages had.';

-- ecstats.pipeline_replace: drops the order lines of a day that a run of its only source did not return.
-- Errors: 55000 where something else writes orders too; P0002 where nothing came, and the day is not empty.
CREATE FUNCTION ecstats.pipeline_replace(s ecstats.sources, the_day date, keys bigint[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	others text := (SELECT string_agg(o.who, ', ' ORDER BY o.who)
					  FROM (SELECT 'source ' || r.name AS who FROM ecstats.sources r WHERE r.name <> s.name AND r.enabled AND r.target = 'orders'
							UNION ALL SELECT DISTINCT 'landing table ' || t.tgrelid::regclass FROM pg_trigger t
							 WHERE t.tgfoid = to_regprocedure('ecstats.pipeline_land_order()')) o);
BEGIN
	IF others IS NOT NULL THEN
		RAISE EXCEPTION 'source "%" is not the only one that brings orders', s.name
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('So do: %s. options.replace would drop their lines.', left(others, 300)),
				  HINT = 'Take replace out of its options, or disable the others.';
	ELSIF keys = '{}' AND (s.options -> 'replace_empty') IS DISTINCT FROM 'true'
		  AND EXISTS (SELECT FROM ecstats.order_lines l WHERE l.order_time >= ecstats.day_start(the_day) AND l.order_time < ecstats.day_start(the_day + 1)) THEN
		RAISE EXCEPTION 'source "%" returns nothing for a day that has order lines', s.name
			USING ERRCODE = 'no_data_found', DETAIL = format('Day: %s. options.replace would drop them all.', the_day),
				  HINT = 'Look at the source. If the day is empty there, set options.replace_empty and collect it again.';
	END IF;
	WITH gone AS MATERIALIZED (			-- one aggregate, whatever a planner makes of the array
		SELECT max(k.order_id) AS order_id, max(k.line_no) AS line_no, max(k.order_time) AS order_time
		  FROM (SELECT ecstats.order_line_key(l.order_id, l.line_no, l.order_time) AS key, l.order_id, l.line_no, l.order_time
				  FROM ecstats.order_lines l WHERE l.order_time >= ecstats.day_start(the_day) AND l.order_time < ecstats.day_start(the_day + 1)
				UNION ALL SELECT unnest(keys), NULL, NULL, NULL) k
		 GROUP BY k.key HAVING count(*) = count(k.order_id)
	)
	DELETE FROM ecstats.order_lines l
	 USING unnest(ARRAY(SELECT g.order_id FROM gone g), ARRAY(SELECT g.line_no FROM gone g), ARRAY(SELECT g.order_time FROM gone g)) d(order_id, line_no, order_time)
	 WHERE l.order_id = d.order_id AND l.line_no = d.line_no AND l.order_time IS NOT DISTINCT FROM d.order_time;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_replace(ecstats.sources, date, bigint[]) IS
	'Drops order lines of a business day whose key is not among keys; 55000 where the source is not the only one, P0002 where it returned nothing.';
-- sql/55_pipeline_page.sql
-- A page of an HTTP source: its elements, what becomes of them, where the next one is.

-- ecstats.pipeline_elements: the elements in the body of an answer, as the intake takes them.
-- Result: an array; NULL where the body has no such list.
CREATE FUNCTION ecstats.pipeline_elements(s ecstats.sources, body jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- the list itself, not its elements: an empty list is one, a missing one is an error
	path jsonpath := regexp_replace(coalesce(s.options ->> 'items', '$'), '\s*\[\s*\*\s*\]\s*$', '');
	found jsonb := jsonb_path_query_array(body, path, '{}', true);
	list jsonb;
BEGIN
	IF found = '[]' THEN
		RETURN NULL;
	END IF;
	list := coalesce((SELECT jsonb_agg(i ORDER BY n, m)
						FROM jsonb_array_elements(found) WITH ORDINALITY AS f(v, n),
							 jsonb_array_elements(CASE jsonb_typeof(f.v) WHEN 'array' THEN f.v WHEN 'null' THEN '[]' ELSE jsonb_build_array(f.v) END)
								WITH ORDINALITY AS e(i, m)), '[]');
	IF s.options ? 'fields' THEN
		list := coalesce((SELECT jsonb_agg(ecstats.pipeline_fields(i, s.options -> 'fields') ORDER BY n)
							FROM jsonb_array_elements(list) WITH ORDINALITY AS e(i, n)), '[]');
	END IF;
	IF s.target = 'orders' THEN
		list := coalesce((SELECT jsonb_agg(ecstats.pipeline_order_items(i, s.options -> 'item_fields') ORDER BY n)
							FROM jsonb_array_elements(list) WITH ORDINALITY AS e(i, n)), '[]');
	END IF;
	IF s.options ? 'timezone' THEN
		list := coalesce((SELECT jsonb_agg(ecstats.pipeline_local_times(i, s.options ->> 'timezone') ORDER BY n)
							FROM jsonb_array_elements(list) WITH ORDINALITY AS e(i, n)), '[]');
	END IF;
	RETURN list;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_elements(ecstats.sources, jsonb) IS
	'Elements of the intake in the body of an answer, mapped by the source''s options; NULL where options.items finds nothing.';

-- ecstats.pipeline_fields: an object made of the jsonpaths in fields; what they do not find is left out.
CREATE FUNCTION ecstats.pipeline_fields(element jsonb, fields jsonb) RETURNS jsonb
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(f.key, v.value), '{}')
	  FROM jsonb_each_text(fields) f
	 CROSS JOIN LATERAL (SELECT jsonb_path_query_first(element, f.value::jsonpath, '{}', true) AS value) v
	 WHERE v.value IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.pipeline_fields(jsonb, jsonb) IS 'An object with a member for each {name: jsonpath} that finds something in element.';

-- ecstats.pipeline_order_items: the items of an order, mapped; an element that is a line gets itself as its item.
CREATE FUNCTION ecstats.pipeline_order_items(element jsonb, item_fields jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN jsonb_typeof(element) <> 'object' THEN element
		WHEN jsonb_typeof(element -> 'items') = 'array' AND item_fields IS NOT NULL THEN
			jsonb_set(element, '{items}', coalesce((SELECT jsonb_agg(ecstats.pipeline_fields(i, item_fields) ORDER BY n)
				FROM jsonb_array_elements(element -> 'items') WITH ORDINALITY AS e(i, n)), '[]'))
		WHEN element ? 'items' OR NOT element ? 'product_id' THEN element
		ELSE element - '{line_no,product_id,quantity,amount}'::text[] || jsonb_build_object('items', jsonb_build_array(
			coalesce((SELECT jsonb_object_agg(m.key, m.value) FROM jsonb_each(element) m
					   WHERE m.key IN ('line_no', 'product_id', 'quantity', 'amount')), '{}')), 'ecstats.line', true) END $$;
COMMENT ON FUNCTION ecstats.pipeline_order_items(jsonb, jsonb) IS
	'An order with its items mapped by item_fields; an element that is a line becomes an order of one, with member ecstats.line.';

-- ecstats.pipeline_local_times: times without an offset are of a zone.
CREATE FUNCTION ecstats.pipeline_local_times(element jsonb, zone text) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC' AS $$
DECLARE
	m record;
BEGIN
	IF jsonb_typeof(element) <> 'object' THEN
		RETURN element;
	END IF;
	FOR m IN SELECT e.key, e.value FROM jsonb_each_text(element) e WHERE e.key IN ('timestamp', 'order_time', 'paid_time')
			   AND e.value ~ '^\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?$' LOOP
		BEGIN
			element := jsonb_set(element, ARRAY[m.key], to_jsonb(to_char(m.value::timestamp AT TIME ZONE zone, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
		EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
			NULL;		-- the intake says what is wrong with it
		END;
	END LOOP;
	RETURN element;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_local_times(jsonb, text) IS 'An element whose times without an offset are read by the clock of zone.';

-- ecstats.pipeline_take_page: takes the elements of a page in. Result: rows taken, ids of rejects.
CREATE FUNCTION ecstats.pipeline_take_page(s ecstats.sources, f ecstats.source_fetches, list jsonb, at timestamptz, OUT taken bigint, OUT rejects bigint[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	whole jsonb;
	single jsonb;
	orders record;
	lines record;
	bad jsonb;
BEGIN
	IF s.target = 'events' THEN
		SELECT t.taken, t.bad INTO taken, bad FROM ecstats.pipeline_take_events(list, s.on_error = 'raise', at) t;
	ELSE
		DELETE FROM ecstats.source_pages p WHERE p.fetch_id = f.fetch_id AND p.page >= f.page;
		SELECT coalesce(jsonb_agg(e ORDER BY n) FILTER (WHERE (e -> 'ecstats.line') IS DISTINCT FROM 'true'), '[]'),
			   coalesce(jsonb_agg(e - 'ecstats.line' ORDER BY n) FILTER (WHERE e -> 'ecstats.line' = 'true'), '[]')
		  INTO whole, single FROM jsonb_array_elements(list) WITH ORDINALITY AS t(e, n);
		PERFORM ecstats.order_lock(whole);
		PERFORM ecstats.pipeline_orders_once(s.name, whole || single, f.fetch_id);
		SELECT * INTO orders FROM ecstats.pipeline_take_orders(whole, s.on_error = 'raise');
		SELECT * INTO lines FROM ecstats.pipeline_take_orders(single, s.on_error = 'raise');
		PERFORM ecstats.pipeline_keys_once(s.name, lines.keys);
		INSERT INTO ecstats.source_pages (fetch_id, page, order_ids, order_times, keys)
		VALUES (f.fetch_id, f.page, orders.order_ids, orders.order_times, orders.keys || lines.keys);
		taken := orders.taken + lines.taken;
		bad := orders.bad || lines.bad;
	END IF;
	rejects := CASE WHEN bad = '[]' THEN '{}' ELSE ecstats.pipeline_reject(s.name, f.day, bad) END;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_page(ecstats.sources, ecstats.source_fetches, jsonb, timestamptz) IS
	'Takes the elements of a page in and notes its orders: rows taken, ids of rejects.';

-- ecstats.pipeline_next_page: where the next page is, by options.next, the Link header, or the page's number.
-- Result: more, whether there is one, and the URL or the value of {{page}} where the answer names one; reason: why it cannot be followed.
CREATE FUNCTION ecstats.pipeline_next_page(s ecstats.sources, f ecstats.source_fetches, body jsonb, link text, elements integer,
													  OUT more boolean, OUT url text, OUT value text, OUT reason text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	here text := ecstats.source_url(s, f);
	origin text := lower(substring(here FROM '^https?://[^/?#]+'));
	next jsonb := CASE WHEN s.options ? 'next' THEN jsonb_path_query_first(body, (s.options ->> 'next')::jsonpath, '{}', true) END;
BEGIN
	more := false;
	IF s.options ? 'next' THEN
		CASE coalesce(jsonb_typeof(next), 'null')
			WHEN 'boolean' THEN more := next = 'true';
			WHEN 'number' THEN value := next #>> '{}';
			WHEN 'string' THEN
				url := nullif(next #>> '{}', '');
				IF url !~ '^(https?://|[/?])' THEN
					value := url;
					url := NULL;
				END IF;
			ELSE NULL;
		END CASE;
	ELSIF link IS NOT NULL THEN
		url := (SELECT m[1] FROM regexp_matches(link, '<([^<>]*)>((?:\s*;\s*[^\s;,=]+\s*(?:=\s*(?:"[^"]*"|[^\s;,"]+))?)*)', 'g') m
				 WHERE m[2] ~* ';\s*rel\s*=\s*("([^"]*\s)?next(\s[^"]*)?"|next\s*(;|$))' LIMIT 1);
	ELSE
		more := s.url LIKE '%{{page}}%' AND elements > 0;
	END IF;
	IF url IS NOT NULL THEN
		url := CASE WHEN url ~* '^https?://' THEN url
					WHEN url ~ '^//' THEN split_part(here, '//', 1) || url
					WHEN url ~ '^/' THEN substring(here FROM '^https?://[^/?#]+') || url
					WHEN url ~ '^\?' THEN regexp_replace(here, '[?#].*$', '') || url
					ELSE regexp_replace(regexp_replace(here, '[?#].*$', ''), '(^https?://[^/]+.*/)[^/]*$', '\1') || url END;
		IF lower(substring(url FROM '^https?://[^/?#]+')) IS DISTINCT FROM origin OR url ~ '[[:cntrl:]\s]' OR octet_length(url) > 8000 THEN
			reason := format('the next page is not at the same scheme and host: %s', ecstats.source_excerpt(url, s, 200));
		ELSIF url = here THEN
			reason := 'the next page is the same page';
		END IF;
		more := reason IS NULL;
	ELSIF value IS NOT NULL THEN
		more := s.url LIKE '%{{page}}%';
		IF NOT more THEN
			reason := 'options.next finds a page, but the URL has no {{page}}';
		ELSIF value = f.next_value OR octet_length(value) > 2000 THEN
			more := false;
			reason := 'the next page is the same page';
		END IF;
	END IF;
	IF more AND f.page >= ecstats.source_number(s.options, 'max_pages', 1000) THEN
		more := false;
		reason := format('there are more than %s pages', f.page);
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_next_page(ecstats.sources, ecstats.source_fetches, jsonb, text, integer) IS
	'Where the next page of a fetch is: by options.next (URL, value of {{page}}, true), the Link header (same scheme and host), or one more until an empty page; reason: why it cannot be followed.';

-- sql/55_pipeline_fetch.sql
-- What the pusher brings from HTTP sources.

-- ecstats.pipeline_failed_fetch: gives up, with the reason, and tells the operators.
CREATE FUNCTION ecstats.pipeline_failed_fetch(the_source text, f ecstats.source_fetches) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_tell_operators('source ' || the_source, 'fetch ' || f.fetch_id,
		format('Source %s: the fetch of %s failed', the_source, f.day), t.error)
	  FROM ecstats.source_fetches t WHERE t.fetch_id = f.fetch_id $$;
COMMENT ON FUNCTION ecstats.pipeline_failed_fetch(text, ecstats.source_fetches) IS 'Tells the operators'' channel of a fetch that failed.';

-- ecstats.pipeline_wait: the Retry-After header, seconds or an HTTP date, as an interval; NULL where there is none.
CREATE FUNCTION ecstats.pipeline_wait(header text, at timestamptz) RETURNS interval
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'GMT' SET datestyle = 'ISO, DMY' AS $$
BEGIN
	IF header ~ '^\s*\d{1,9}\s*$' THEN
		RETURN make_interval(secs => header::numeric);
	ELSIF header ~ '^\s*\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\s*$' THEN
		RETURN header::timestamptz - at;
	END IF;
	RETURN NULL;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_wait(text, timestamptz) IS 'How long a Retry-After header asks to wait; NULL where it says nothing.';

-- ecstats.pipeline_limit: which limit an answer passed, as words: the one of options.max_bytes, or the pusher's, which
-- keeps no more than that of a page. A broken off answer ends at a character.
CREATE FUNCTION ecstats.pipeline_limit(body text, max_bytes integer) RETURNS text
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN octet_length(convert_to(body, 'UTF8')) < max_bytes - 3
				THEN format('the pusher''s max_fetch, of which it kept %s bytes (options.max_bytes is %s)', octet_length(convert_to(body, 'UTF8')), max_bytes)
				ELSE format('%s bytes (options.max_bytes)', max_bytes) END $$;
COMMENT ON FUNCTION ecstats.pipeline_limit(text, integer) IS 'Which limit of bytes an answer passed of which body was kept.';

-- ecstats.pipeline_received: takes an answer with status 2xx in. Result: next, done, retry or failed.
CREATE FUNCTION ecstats.pipeline_received(s ecstats.sources, f ecstats.source_fetches, result jsonb, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	content text := coalesce(result ->> 'body', '');
	status integer := (result ->> 'http_status')::numeric;
	link text := (SELECT h.value FROM jsonb_each_text(CASE jsonb_typeof(result -> 'headers') WHEN 'object' THEN result -> 'headers' END) h WHERE lower(h.key) = 'link');
	body jsonb;
	list jsonb;
	part record;
	next record;
BEGIN
	BEGIN
		-- No content is a page without rows only where the answer says so (204): an empty 200 is no JSON.
		body := CASE WHEN status = 204 AND content ~ '^\s*$' THEN '[]' ELSE content::jsonb END;
	EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
		RETURN ecstats.source_back(f, ecstats.source_number(s.options, 'max_retries', 3),
			format('page %s: the answer is no JSON: %s', f.page, coalesce(nullif(ecstats.source_excerpt(content, s, 200), ''), 'it is empty')), NULL, at);
	END;
	list := CASE WHEN status = 204 AND content ~ '^\s*$' THEN '[]' ELSE ecstats.pipeline_elements(s, body) END;
	IF list IS NULL AND f.page > 1 THEN
		-- Page 1 had it: an error in an answer with status 200 is not the end of the pages.
		RETURN ecstats.source_back(f, ecstats.source_number(s.options, 'max_retries', 3),
			format('page %s: options.items (%s) finds nothing in the answer: %s', f.page, coalesce(s.options ->> 'items', '$'), ecstats.source_excerpt(content, s, 200)), NULL, at);
	ELSIF list IS NULL THEN
		f.error := format('options.items (%s) finds nothing in the answer: %s', coalesce(s.options ->> 'items', '$'), ecstats.source_excerpt(content, s, 200));
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	END IF;
	SELECT * INTO part FROM ecstats.pipeline_take_page(s, f, list, at);
	SELECT * INTO next FROM ecstats.pipeline_next_page(s, f, body, link, jsonb_array_length(list));

	f.pages := f.pages + 1;
	f.rows := f.rows + part.taken;
	f.rejects := f.rejects || part.rejects;
	f.attempts := 0;
	f.error := next.reason;
	IF next.reason IS NOT NULL THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	ELSIF next.more THEN
		f.page := f.page + 1;
		f.next_url := next.url;
		f.next_value := next.value;
		f.next_attempt_at := at;
		PERFORM ecstats.source_move(f, 'pending', at);
		RETURN 'next';
	END IF;
	PERFORM ecstats.pipeline_orders_end(f.fetch_id);
	PERFORM ecstats.source_move(f, 'done', at);
	PERFORM ecstats.pipeline_unreject(s.name, f.day, f.rejects);
	PERFORM ecstats.source_ran(s.name, f.day, f.rows, ecstats.source_watermark(s, f.day, f.created_at), at);
	RETURN 'done';
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_received(ecstats.sources, ecstats.source_fetches, jsonb, timestamptz) IS
	'Takes the body of a page in and decides what is next: next, done, retry (no JSON, a later page without a list) or failed.';

-- ecstats.pipeline_receive: ecstats.source_receive at an instant.
CREATE FUNCTION ecstats.pipeline_receive(the_worker text, the_fetch bigint, the_page integer, result jsonb, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f ecstats.source_fetches;
	s ecstats.sources;
	status integer := (result ->> 'http_status')::numeric;
	kind text := result ->> 'error_kind';
	told text;
	wrong text;
	outcome text;
	more text;
	wait text := (SELECT h.value FROM jsonb_each_text(CASE jsonb_typeof(result -> 'headers') WHEN 'object' THEN result -> 'headers' END) h WHERE lower(h.key) = 'retry-after');
BEGIN
	SELECT * INTO f FROM ecstats.source_fetches t WHERE t.fetch_id = the_fetch FOR UPDATE;
	IF NOT FOUND OR f.state <> 'fetching' OR f.worker IS DISTINCT FROM the_worker OR f.page IS DISTINCT FROM the_page THEN
		RETURN 'ignored';
	END IF;
	SELECT * INTO s FROM ecstats.sources r WHERE r.name = f.source FOR NO KEY UPDATE;
	told := concat_ws(': ', format('page %s', f.page), 'HTTP ' || status, kind, nullif(ecstats.source_excerpt(result ->> 'error', s, 300), ''),
					  CASE WHEN status NOT BETWEEN 200 AND 299 THEN nullif(ecstats.source_excerpt(result ->> 'body', s, 200), '') END);
	wrong := CASE WHEN s.name IS NULL THEN 'the source was deleted'
				  WHEN f.asks_since IS DISTINCT FROM s.asks_since THEN 'the source was changed while it was fetched'
				  WHEN kind IS NULL AND status BETWEEN 200 AND 299 THEN ecstats.source_problem(s) END;
	IF wrong IS NOT NULL THEN
		f.error := wrong;
	ELSIF coalesce((result ->> 'truncated')::boolean, false) OR kind = 'too_large' THEN
		f.error := format('page %s: the answer has more than %s', f.page, ecstats.pipeline_limit(result ->> 'body', ecstats.source_number(s.options, 'max_bytes', 10000000)));
	ELSIF kind IS NULL AND status BETWEEN 200 AND 299 THEN
		BEGIN
			outcome := ecstats.pipeline_received(s, f, result, at);
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS told = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
			f.error := ecstats.source_excerpt(concat_ws('. ', format('page %s: %s', f.page, told), nullif(more, '')), s, 1000);
		END;
	ELSIF kind = 'refused_address' OR (kind IS NULL AND status BETWEEN 100 AND 499 AND status NOT IN (408, 425, 429)) THEN
		f.error := told;
	ELSE
		outcome := ecstats.source_back(f, ecstats.source_number(s.options, 'max_retries', 3), told, ecstats.pipeline_wait(wait, at), at);
	END IF;
	IF outcome IS NULL THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		outcome := 'failed';
	END IF;
	IF outcome = 'failed' THEN
		PERFORM ecstats.pipeline_failed_fetch(f.source, f);
	END IF;
	RETURN outcome;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_receive(text, bigint, integer, jsonb, timestamptz) IS 'ecstats.source_receive at the instant at.';

-- ecstats.source_claim: leases pages that are due to a pusher. Commit before asking.
-- Arguments: worker, the pusher's name; max_rows. Result: complete requests; headers are "Name: value" lines.
-- Nothing in a database that is a copy (ecstats_adopt). Errors: 22023 worker is empty. Touches source_fetches.
CREATE FUNCTION ecstats.source_claim(worker text, max_rows integer)
	RETURNS TABLE (fetch_id bigint, page integer, method text, url text, headers text[], timeout_ms integer, allow_private boolean, max_bytes bigint)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at timestamptz := clock_timestamp();
BEGIN
	RETURN QUERY SELECT c.* FROM ecstats.source_claim_at(worker, CASE WHEN ecstats.delivery_is_home() THEN max_rows ELSE 0 END, at) c;
	PERFORM ecstats.pipeline_failed_fetch(f.source, f) FROM ecstats.source_fetches f WHERE f.finished_at = at AND f.state = 'failed';
END
$$;
COMMENT ON FUNCTION ecstats.source_claim(text, integer) IS
	'Leases up to max_rows pages of HTTP sources that are due to worker and returns their requests. Commit before asking.';

-- ecstats.source_receive: takes in what a request of source_claim brought.
-- Arguments: worker, fetch_id and page as claimed; result {http_status, error_kind, error, headers, body, truncated,
-- elapsed_ms}. Result: next (another page is due), done, retry (put back), failed, ignored (not this worker's any more,
-- or received before). Touches source_fetches, sources, events, order_lines, rejects, deliveries.
CREATE FUNCTION ecstats.source_receive(worker text, fetch_id bigint, page integer, result jsonb) RETURNS text
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.pipeline_receive(worker, fetch_id, page, result, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.source_receive(text, bigint, integer, jsonb) IS
	'Takes the answer to a request of ecstats.source_claim in: next, done, retry, failed or ignored.';

-- ecstats.pipeline_next_due: what else the pusher is to wake up for: source_next_due, for its heartbeat.
CREATE FUNCTION ecstats.pipeline_next_due(at timestamptz) RETURNS timestamptz
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT ecstats.source_next_due(at) $$;
COMMENT ON FUNCTION ecstats.pipeline_next_due(timestamptz) IS 'When a page of an HTTP source is due next; NULL when none waits.';
-- sql/56_pipeline_cdc.sql
-- Orders that arrive by logical replication. It matches tables by qualified name, so a publisher's orders land
-- in a table of that very name; a trigger that also fires for an apply worker brings them to ecstats.order_lines.
--
-- What holds after every transaction: a row of the landing table has either its line, or a row of
-- ecstats.rejects (source 'land:' and the table's name) that is the row as it landed. A row that turns bad
-- loses its line: the publisher no longer says what the line said.
--
-- Whose rights: the trigger's function (src/landing.c) turns the row into JSON as whoever applies, because that
-- may call casts of the table's owner, and hands it to ecstats.pipeline_land, which runs as the extension's owner
-- and which nobody else may call: it believes what it is told of the table. Firing the trigger wants the profile
-- writer, as ecstats_order does of an app.

-- ecstats.pipeline_land_payload: a landed row as ecstats_order's payload, by a mapping of entries
-- 'column=landed column' and 'column:=constant'. key_only: the line's key, the rest harmless.
CREATE FUNCTION ecstats.pipeline_land_payload(mapping text[], landed jsonb, key_only boolean) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	head jsonb;
	item jsonb;
	zone text;
	entry text;
	skipped record;
	local_time constant text := '^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?$';
BEGIN
	FOREACH entry IN ARRAY mapping LOOP
		IF starts_with(entry, 'timezone=') THEN
			zone := substr(entry, 10);
		END IF;
	END LOOP;
	-- A time that the clock skips is no instant. Moved to one, it could be another row's: two rows, one line.
	IF zone IS NOT NULL THEN
		SELECT m[1] AS target, t.at INTO skipped
		  FROM unnest(mapping) u
		 CROSS JOIN LATERAL regexp_match(u, '^(order_time|paid_time)(:?)=(.*)$') m
		 CROSS JOIN LATERAL (SELECT CASE WHEN m[2] = ':' THEN m[3] ELSE landed ->> m[3] END AS at) t
		 WHERE (m[1] = 'order_time' OR NOT key_only) AND CASE WHEN t.at ~ local_time THEN t.at::timestamp AT TIME ZONE zone AT TIME ZONE zone <> t.at::timestamp END
		 LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION '% does not exist: the clock skips it', skipped.target
				USING ERRCODE = 'invalid_datetime_format', SCHEMA = 'ecstats', TABLE = 'order_lines', COLUMN = skipped.target,
					  DETAIL = format('Value: "%s" in %s.', skipped.at, zone),
					  HINT = 'Let times land with their offset, or correct the row; timezone= must name the clock that wrote them.';
		END IF;
	END IF;
	WITH entries AS (			-- what stands before and behind the first =, and whether that is :=
		SELECT rtrim(left(m, eq - 1), ':') AS target,
			   CASE WHEN substr(m, eq - 1, 1) = ':' THEN to_jsonb(substr(m, eq + 1)) ELSE landed -> substr(m, eq + 1) END AS value
		  FROM (SELECT u AS m, strpos(u, '=') AS eq FROM unnest(mapping) u) x
	), sent AS (
		SELECT e.target,
			   CASE WHEN e.target IN ('line_no', 'quantity') AND jsonb_typeof(e.value) = 'string' AND e.value #>> '{}' ~ '^(0|-?[1-9][0-9]{0,9})$'		-- 01 beside 1 would be two rows, one line
						THEN to_jsonb((e.value #>> '{}')::bigint)
					WHEN e.target IN ('order_time', 'paid_time') AND zone IS NOT NULL
						 AND e.value #>> '{}' ~ local_time
						THEN to_jsonb((e.value #>> '{}')::timestamp AT TIME ZONE zone)
					WHEN e.target = 'extra' AND jsonb_typeof(e.value) = 'string' THEN (e.value #>> '{}')::jsonb
					ELSE e.value END AS value
		  FROM entries e
		 WHERE e.value <> 'null' AND e.target NOT IN ('on_error', 'timezone', 'deletes')
		   AND (NOT key_only OR e.target IN ('order_id', 'line_no', 'order_time'))
	)
	SELECT jsonb_object_agg(s.target, s.value) FILTER (WHERE s.target NOT IN ('line_no', 'product_id', 'quantity', 'amount')),
		   jsonb_object_agg(s.target, s.value) FILTER (WHERE s.target IN ('line_no', 'product_id', 'quantity', 'amount'))
	  INTO head, item
	  FROM sent s;
	item := '{"line_no": 1}' || coalesce(item, '{}');
	IF key_only THEN
		item := item || '{"product_id": "-", "quantity": 1, "amount": 0}';
	END IF;
	RETURN coalesce(head, '{}') || jsonb_build_object('items', jsonb_build_array(item));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_payload(text[], jsonb, boolean) IS
	'A landed row as a payload of ecstats_order with one item, by a mapping; key_only: for the key of its line alone. Class 22 for a text that is no time or no JSON, or a time that the clock skips.';

-- ecstats.pipeline_land_forget: the landed row is no more: its line goes, or what was kept of it as a reject.
CREATE FUNCTION ecstats.pipeline_land_forget(landing text, mapping text[], landed jsonb) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	line record;
	lines bigint := 0;
BEGIN
	DELETE FROM ecstats.rejects r
	 WHERE left(r.source, 5) = 'land:' AND r.source = 'land:' || landing AND r.payload = landed;
	IF FOUND THEN
		RETURN 0;				-- a line of that key is somebody else's
	END IF;
	BEGIN
		SELECT p.* INTO line FROM ecstats.order_parse(ecstats.pipeline_land_payload(mapping, landed, true), false) p;
		DELETE FROM ecstats.order_lines l
		 WHERE l.order_id = line.order_id AND l.line_no = line.line_no AND l.order_time IS NOT DISTINCT FROM line.order_time;
		GET DIAGNOSTICS lines = ROW_COUNT;
	EXCEPTION WHEN data_exception THEN
		NULL;					-- it has no key: it never had a line
	END;
	RETURN lines;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_forget(text, text[], jsonb) IS
	'Deletes the reject of a landed row, or its line where it has none; returns lines deleted.';

-- ecstats.pipeline_land_over: were the order lines of all days of a line, of its order and of its payment, dropped?
CREATE FUNCTION ecstats.pipeline_land_over(order_time timestamptz, paid_time timestamptz) RETURNS boolean
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
	RETURN EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(order_time) AND s.orders_dropped)
	   AND (paid_time IS NULL OR EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(paid_time) AND s.orders_dropped));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_over(timestamptz, timestamptz) IS
	'True where retention has dropped the order lines of the day of an order and of that of its payment, if any.';

-- ecstats.pipeline_land: takes a row of a landing table from what it was to what it is; NULL: it was not, or is
-- no more. Result: lines changed. Errors, with on_error=raise (the default): as ecstats_order, the row named.
-- Called by src/landing.c alone, and granted to nobody. A row of days whose order lines were dropped by
-- retention gets no line: whether it is touched at the publisher once more, or copied anew, it has had its time.
-- No sequential scan: an initial copy is one transaction, and its plans are those of a table that was empty. An
-- instant compared by IS NOT DISTINCT FROM tempts no index of times: a thousand orders may share one.
CREATE FUNCTION ecstats.pipeline_land(landing text, old_mapping text[], old_row jsonb, new_mapping text[], new_row jsonb)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	lines bigint := 0;
	same_key boolean := false;
	line record;
	was ecstats.order_lines;
	is_new boolean;
	code text;
	message text;
	more text;
	advice text;
	of_column text;
	of_constraint text;
BEGIN
	IF landing IS NULL OR (old_row IS NOT NULL AND old_mapping IS NULL) OR (new_row IS NOT NULL AND new_mapping IS NULL) THEN
		RAISE EXCEPTION 'a landed row needs its table and its mapping' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	-- Before any look: retention drops lines under a lock that this one waits for.
	LOCK TABLE ecstats.order_lines IN ROW EXCLUSIVE MODE;
	IF old_row IS NOT NULL THEN
		BEGIN
			same_key := ecstats.pipeline_land_payload(old_mapping, old_row, true) = ecstats.pipeline_land_payload(new_mapping, new_row, true);
		EXCEPTION WHEN data_exception THEN
			NULL;				-- one of the two has no key
		END;
		IF same_key IS NOT TRUE THEN
			lines := ecstats.pipeline_land_forget(landing, old_mapping, old_row);
		END IF;
	END IF;
	IF new_row IS NULL THEN
		RETURN lines;
	END IF;

	BEGIN
		SELECT p.* INTO line FROM ecstats.order_parse(ecstats.pipeline_land_payload(new_mapping, new_row, false), true) p;
		SELECT * INTO was FROM ecstats.order_lines l
		 WHERE l.order_id = line.order_id AND l.line_no = line.line_no AND l.order_time IS NOT DISTINCT FROM line.order_time;
		is_new := NOT FOUND;
		IF is_new AND ecstats.pipeline_land_over(line.order_time, line.paid_time) THEN
			IF same_key THEN
				PERFORM ecstats.pipeline_land_forget(landing, old_mapping, old_row);	-- what it may have left as a reject
			END IF;
			RETURN lines;
		END IF;
		-- A line that says it already is not even proposed: the CHECK would mark its days.
		IF is_new OR (was.user_id, was.product_id, was.region, was.channel, was.quantity, was.amount, was.status, was.paid_time, was.extra)
			IS DISTINCT FROM
			(line.user_id, line.product_id, line.region, line.channel, line.quantity, line.amount, line.status, line.paid_time, line.extra) THEN
			INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel,
											 quantity, amount, status, paid_time, extra)
			VALUES (line.order_id, line.line_no, line.order_time, line.user_id, line.product_id, line.region, line.channel,
					line.quantity, line.amount, line.status, line.paid_time, line.extra)
			ON CONFLICT (order_id, line_no, order_time) DO UPDATE
			   SET user_id = excluded.user_id, product_id = excluded.product_id, region = excluded.region,
				   channel = excluded.channel, quantity = excluded.quantity, amount = excluded.amount,
				   status = excluded.status, paid_time = excluded.paid_time, extra = excluded.extra;
			lines := lines + 1;
		END IF;
		IF same_key THEN						-- it may have been bad so far
			DELETE FROM ecstats.rejects r
			 WHERE left(r.source, 5) = 'land:' AND r.source = 'land:' || landing AND r.payload = old_row;
		END IF;
		RETURN lines;
	EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
		GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL,
			advice = PG_EXCEPTION_HINT, of_column = COLUMN_NAME, of_constraint = CONSTRAINT_NAME;
	END;
	more := regexp_replace(more, '^Item 1\. ', '');
	IF 'on_error=quarantine' <> ALL (new_mapping) THEN
		RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, SCHEMA = 'ecstats', TABLE = 'order_lines',
			COLUMN = of_column, CONSTRAINT = of_constraint,
			DETAIL = concat_ws(' ', nullif(more, ''), format('Row of %s: %s.', landing,
				CASE WHEN length(new_row::text) > 300 THEN left(new_row::text, 300) || '...' ELSE new_row::text END)),
			HINT = concat_ws(' ', nullif(advice, ''),
				'on_error=quarantine keeps such rows in ecstats.rejects; ALTER SUBSCRIPTION ... SKIP leaves this transaction out.');
	END IF;
	IF same_key THEN
		lines := lines + ecstats.pipeline_land_forget(landing, old_mapping, old_row);
	END IF;
	INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
	VALUES ('land:' || landing, new_row, code, concat_ws(' ', message || '.', nullif(more, ''), nullif(advice, '')));
	RETURN lines;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land(text, text[], jsonb, text[], jsonb) IS
	'Takes a row of a landing table from its old to its new state (NULL: none) into ecstats.order_lines or ecstats.rejects; returns lines changed.';

-- The trigger of a landing table, AFTER INSERT OR UPDATE OR DELETE for each row and BEFORE TRUNCATE for the
-- statement; ecstats_land_orders makes both.
CREATE FUNCTION ecstats.pipeline_land_order() RETURNS trigger
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ecstats_land_order';
COMMENT ON FUNCTION ecstats.pipeline_land_order() IS
	'Trigger of a landing table, made by ecstats_land_orders: brings its rows to ecstats.order_lines. Arguments: the mapping.';

CREATE FUNCTION ecstats.pipeline_land_rows(landing regclass, old_mapping text[], new_mapping text[]) RETURNS bigint
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ecstats_land_rows';
COMMENT ON FUNCTION ecstats.pipeline_land_rows(regclass, text[], text[]) IS
	'Takes every row of a landing table of the caller''s from one mapping to another; returns lines changed. 42501 unless the caller owns the table.';
-- sql/57_pipeline_landing.sql
-- Attaching a landing table: the mapping is held against the table once, not at every row.

-- ecstats.pipeline_land_types: the type of each mapped column of a landing table, NULL for a constant and for a
-- column that is not there.
CREATE FUNCTION ecstats.pipeline_land_types(landing regclass, mapping text[])
	RETURNS TABLE (target text, source text, attnum smallint, type regtype)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT m[1], CASE WHEN m[2] = '=' THEN m[3] END, a.attnum, coalesce(nullif(t.typbasetype, 0), a.atttypid)::regtype
	  FROM unnest(mapping) WITH ORDINALITY AS u(entry, n)
	 CROSS JOIN LATERAL regexp_match(u.entry, '^([a-z_]+)(:?=)(.*)$') AS m
	  LEFT JOIN pg_attribute a ON a.attrelid = landing AND a.attname = m[3] AND m[2] = '=' AND a.attnum > 0 AND NOT a.attisdropped
	  LEFT JOIN pg_type t ON t.oid = a.atttypid
	 ORDER BY u.n $$;
COMMENT ON FUNCTION ecstats.pipeline_land_types(regclass, text[]) IS
	'Entries of a mapping: the column of order_lines or the option, the landed column (NULL: a constant), its number and its type.';

-- ecstats.pipeline_land_check: 22023 unless every landed row can become one line of its own.
CREATE FUNCTION ecstats.pipeline_land_check(landing regclass, mapping text[]) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wrong text;
	advice text;
	zone text := (SELECT substr(m, 10) FROM unnest(mapping) m WHERE starts_with(m, 'timezone=') LIMIT 1);
	error_mode text := (SELECT substr(m, 10) FROM unnest(mapping) m WHERE starts_with(m, 'on_error=') LIMIT 1);
	constant_option text := (SELECT m FROM unnest(mapping) m WHERE m ~ '^(on_error|timezone|deletes):=' LIMIT 1);
	deletes text := (SELECT substr(m, 9) FROM unnest(mapping) m WHERE starts_with(m, 'deletes=') LIMIT 1);
	columns text[] := '{order_id,line_no,order_time,user_id,product_id,region,channel,quantity,amount,status,paid_time,extra}';
BEGIN
	IF error_mode IS NOT NULL THEN
		PERFORM ecstats.on_error_check(error_mode);
	END IF;
	IF (SELECT c.relkind FROM pg_class c WHERE c.oid = landing) <> 'r' THEN
		wrong := format('%s is not an ordinary table', landing);
		advice := 'Let the publisher''s rows land in a plain table (publish_via_partition_root makes one table of its partitions).';
	ELSIF EXISTS (SELECT FROM unnest(mapping) m WHERE m IS NULL OR m !~ '^[a-z_]+:?=.') THEN
		wrong := 'an entry of the mapping is neither ''column=landed column'' nor ''column:=constant''';
		advice := format('Value: %s.', (SELECT coalesce(quote_literal(m), 'NULL') FROM unnest(mapping) m WHERE m IS NULL OR m !~ '^[a-z_]+:?=.' LIMIT 1));
	ELSIF constant_option IS NOT NULL THEN
		wrong := format('%s is an option, not a column', split_part(constant_option, ':', 1));
		advice := format('Write %s.', replace(constant_option, ':=', '='));
	ELSIF deletes NOT IN ('follow', 'ignore') THEN
		wrong := 'deletes is neither follow nor ignore';
		advice := format('Value: %L. follow (the default) deletes the line of a row that is deleted at the publisher, ignore keeps it.', left(deletes, 60));
	ELSIF zone IS NOT NULL AND NOT ecstats.timezone_valid(zone) THEN
		wrong := format('timezone %L is no IANA time zone', zone);
		advice := 'Write it like timezone=Asia/Shanghai.';
	END IF;
	IF wrong IS NULL THEN
		SELECT CASE WHEN t.target <> ALL (columns || '{on_error,timezone,deletes}'::text[]) THEN format('order_lines has no column %I', t.target)
					WHEN count(*) OVER (PARTITION BY t.target) > 1 THEN format('%s is mapped twice', t.target)
					WHEN t.target = ANY (columns) AND t.source IS NOT NULL AND t.attnum IS NULL THEN format('%s has no column %I', landing, t.source)
					WHEN t.target IN ('order_time', 'paid_time') AND t.type IN ('timestamp', 'date') AND zone IS NULL
						THEN format('%I is a %s: nobody can say which instant it means', t.source, t.type)
			   END,
			   CASE WHEN t.target IN ('order_time', 'paid_time') THEN 'Say whose clock it shows: timezone=Asia/Shanghai.'
					ELSE format('Columns are %s; options on_error, timezone and deletes.', array_to_string(columns, ', ')) END
		  INTO wrong, advice
		  FROM ecstats.pipeline_land_types(landing, mapping) t
		 ORDER BY 1 NULLS LAST LIMIT 1;
	END IF;
	IF wrong IS NULL THEN
		SELECT format('%s is not mapped', string_agg(c, ', ')), 'Map it to a column (amount=total) or set a constant (quantity:=1).'
		  INTO wrong, advice
		  FROM unnest('{order_id,order_time,product_id,quantity,amount}'::text[]) c
		 WHERE c NOT IN (SELECT t.target FROM ecstats.pipeline_land_types(landing, mapping) t)
		HAVING count(*) > 0;
	END IF;
	-- Two rows must never be one line: some key of the table is within what makes the line's key. (Not by a time
	-- in a text or a number: 09:00+08 is 01:00Z, and 1712050800 is 1712050800000.)
	IF wrong IS NULL AND NOT EXISTS (
		SELECT FROM pg_index i
		 WHERE i.indrelid = landing AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
		   AND (i.indkey::smallint[])[0 : i.indnkeyatts - 1] <@ array(
				SELECT t.attnum FROM ecstats.pipeline_land_types(landing, mapping) t
				  JOIN pg_attribute a ON a.attrelid = landing AND a.attnum = t.attnum AND a.attnotnull
				 WHERE t.target IN ('order_id', 'line_no')
					OR t.target = 'order_time' AND t.type IN ('timestamptz', 'timestamp', 'date'))) THEN
		wrong := 'two landed rows could become the same line';
		advice := 'Map order_id, line_no and order_time so that they hold a primary key (or an immediate unique key without nulls) of the landing table; order_time counts if it is a timestamptz, timestamp or date.';
	END IF;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION '%', wrong USING ERRCODE = 'invalid_parameter_value', HINT = advice;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_check(regclass, text[]) IS '22023 unless a mapping fits a landing table and gives every row a line of its own.';

-- ecstats.pipeline_land_mapping: the arguments of the landing trigger that a table has, NULL without one.
CREATE FUNCTION ecstats.pipeline_land_mapping(landing regclass) RETURNS text[]
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rest bytea := (SELECT t.tgargs FROM pg_trigger t WHERE t.tgrelid = landing AND t.tgname = 'ecstats_land');
	mapping text[] := CASE WHEN rest IS NOT NULL THEN '{}'::text[] END;
	stop integer;
BEGIN
	LOOP						-- each argument ends with a zero byte
		stop := position('\x00'::bytea IN rest);
		EXIT WHEN stop IS NULL OR stop = 0;
		mapping := mapping || convert_from(substring(rest FROM 1 FOR stop - 1), getdatabaseencoding());
		rest := substring(rest FROM stop + 1);
	END LOOP;
	RETURN mapping;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_mapping(regclass) IS 'The mapping of a table''s landing trigger; NULL where it has none.';

-- ecstats_land_orders: attaches a landing table of logical replication to ecstats.order_lines, and takes the rows
-- that it holds already. Again, with the same or another mapping: takes all its rows anew.
-- Arguments: the table; entries 'column=landed column' and 'column:=constant' for columns of order_lines (needed:
-- order_id, order_time, product_id, quantity, amount), 'on_error=raise' (default) or 'on_error=quarantine',
-- 'timezone=\u2026' for times without a zone, 'deletes=ignore' keeps the lines of rows that are deleted. Result: lines changed. Errors: 22023 for a mapping that does not fit,
-- with on_error=raise those of ecstats_order. Touches ecstats.order_lines, ecstats.rejects, the table's triggers.
CREATE FUNCTION @extschema@.ecstats_land_orders(landing regclass, VARIADIC mapping text[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	before text[];
	arguments text;
	landing_name text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = landing);
BEGIN
	IF landing IS NULL OR mapping IS NULL THEN
		RAISE EXCEPTION 'a landing table and its mapping are needed' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats_land_orders takes what has landed');
	IF landing_name IS NULL THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table', DETAIL = format('Value: %s.', landing);
	END IF;
	-- From here on nobody changes the table that the mapping is held against, nor lands a row.
	EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', landing_name);
	IF to_regclass(landing_name) IS DISTINCT FROM landing THEN
		RAISE EXCEPTION 'table % was renamed or dropped meanwhile', landing_name USING ERRCODE = 'undefined_table', HINT = 'Try again.';
	END IF;
	PERFORM ecstats.pipeline_land_check(landing, mapping);
	before := ecstats.pipeline_land_mapping(landing);
	arguments := (SELECT string_agg(quote_literal(m), ', ' ORDER BY n) FROM unnest(mapping) WITH ORDINALITY AS u(m, n));
	EXECUTE format('CREATE OR REPLACE TRIGGER ecstats_land AFTER INSERT OR UPDATE OR DELETE ON %s
						FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_land_order(%s)', landing_name, arguments);
	EXECUTE format('CREATE OR REPLACE TRIGGER ecstats_land_truncate BEFORE TRUNCATE ON %s
						FOR EACH STATEMENT EXECUTE FUNCTION ecstats.pipeline_land_order(%s)', landing_name, arguments);
	EXECUTE format('ALTER TABLE %1$s ENABLE ALWAYS TRIGGER ecstats_land, ENABLE ALWAYS TRIGGER ecstats_land_truncate', landing_name);
	RETURN ecstats.pipeline_land_rows(landing, coalesce(before, mapping), mapping);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_land_orders(regclass, text[]) IS
	'Attaches a landing table of logical replication to ecstats.order_lines by a mapping (order_id=id, amount=total, line_no:=1, on_error=quarantine, timezone=...) and takes the rows it holds; returns lines changed. 22023: the mapping does not fit.';
-- sql/60_status.sql
-- One screen for psql: how every part is, and the cure where it is not well. Read-only.

-- ecstats.status_intake: the clock, the partitions, what was refused.
CREATE FUNCTION ecstats.status_intake(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	zone text;
	starts time;
	today date := ecstats.day_of(at);
	n bigint;
	strays date[];
	lost date[];
BEGIN
	SELECT c.timezone, c.day_starts_at INTO zone, starts FROM ecstats.config c;
	component := 'clock';
	detail := format('%s, business day %s, days start at %s', zone, today, starts);
	IF zone IN ('UTC', 'Etc/UTC', 'GMT', 'Etc/GMT', 'Zulu', 'Universal', 'Etc/Universal', 'Etc/Zulu', 'UCT', 'Etc/UCT') THEN
		status := 'warn';
		hint := 'UPDATE ecstats.config SET timezone = ''Asia/Shanghai'' (the shop''s zone), before the first close';
	ELSE
		status := 'ok';
	END IF;
	RETURN NEXT;

	component := 'events';
	SELECT coalesce(array_agg(d ORDER BY d) FILTER (WHERE NOT ecstats.day_partition_taken(d)), '{}'),
		   coalesce(array_agg(d ORDER BY d) FILTER (WHERE ecstats.day_partition_taken(d)), '{}')
	  INTO strays, lost
	  FROM ecstats.event_stray_days() d;
	n := (SELECT count(*) FROM pg_partition_tree('ecstats.events') p WHERE p.isleaf) - 1;
	detail := format('%s day partitions', n);
	status := 'ok';
	hint := NULL;
	IF cardinality(lost) > 0 THEN
		status := 'warn';
		detail := detail || format(', rows of %s days whose partition was detached wait in the default partition', cardinality(lost));
		hint := format('ALTER TABLE ecstats.events ATTACH PARTITION ecstats.%I ..., or rename or drop that table', ecstats.day_partition_name(lost[1]));
	ELSIF cardinality(strays) > 0 THEN
		status := 'warn';
		detail := detail || format(', rows of %s days in the default partition', cardinality(strays));
		hint := 'CALL ecstats_maintain() moves them; the job maintain does it every hour';
	ELSIF NOT (ecstats.day_partition_exists(today) AND ecstats.day_partition_exists(today + 1)) THEN
		status := 'warn';
		detail := detail || ', none for today or tomorrow';
		hint := 'CALL ecstats_maintain() makes them; the job maintain does it every hour';
	END IF;
	RETURN NEXT;

	component := 'rejects';
	n := (SELECT count(*) FROM ecstats.rejects);
	status := CASE WHEN n = 0 THEN 'ok' ELSE 'warn' END;
	detail := format('%s kept', n);
	hint := CASE WHEN n > 0 THEN 'SELECT source, day, reason, payload FROM ecstats.rejects; then SELECT ecstats_retry_rejects(), or ecstats_collect(source, day) for those of a source' END;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.status_intake(timestamptz) IS 'Part of ecstats_status: clock, events, rejects.';

-- ecstats.status_days: what is open, stale, not complete, frozen.
CREATE FUNCTION ecstats.status_days(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	today date := ecstats.day_of(at);
	open_days date[] := array(SELECT ecstats.rollup_open_days(today));
	stale_days date[] := array(SELECT ecstats.rollup_stale_days());
	last date := (SELECT max(k.day) FROM ecstats.daily_kpi k);
	incomplete bigint := (SELECT count(*) FROM ecstats.daily_kpi k WHERE NOT k.complete);
	late date[] := array(SELECT DISTINCT m.day FROM ecstats.day_marks m JOIN ecstats.day_state s ON s.day = m.day AND s.frozen
						  UNION SELECT ecstats.rollup_late_events() ORDER BY 1);
	n integer := cardinality(open_days);
BEGIN
	component := 'days';
	detail := format('last closed: %s', coalesce(last::text, 'none'))
		|| CASE WHEN n > 0 THEN format('; %s ended and open, first %s', n, open_days[1]) ELSE '' END
		|| CASE WHEN cardinality(stale_days) > 0 THEN format('; %s changed since their close', cardinality(stale_days)) ELSE '' END
		|| CASE WHEN incomplete > 0 THEN format('; %s not complete', incomplete) ELSE '' END;
	-- yesterday is open until the daily job has run: two hours after the day's start, and some grace
	IF n > 1 OR (n = 1 AND (open_days[1] < today - 1 OR at > ecstats.day_start(today) + interval '3 hours')) THEN
		status := 'error';
		hint := 'SELECT * FROM ecstats_daily(); the job daily does it: see the rows ticker and jobs';
	ELSIF cardinality(stale_days) > 0 OR incomplete > 0 THEN
		status := 'warn';
		hint := 'SELECT * FROM ecstats_daily() computes changed days again and looks whether days are complete now';
	ELSE
		status := 'ok';
	END IF;
	RETURN NEXT;

	IF cardinality(late) > 0 THEN
		component := 'frozen days';
		status := 'warn';
		detail := format('late rows for %s days whose raw rows were dropped: %s', cardinality(late), array_to_string(late[1:5], ', '));
		hint := 'These days keep their figures; raise config.event_retention and order_retention if rows come this late';
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.status_days(timestamptz) IS 'Part of ecstats_status: open, changed, incomplete and frozen days.';

-- ecstats.status_activity: are the scores those of the latest closed day?
CREATE FUNCTION ecstats.status_activity()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last date := (SELECT max(k.day) FROM ecstats.daily_kpi k);
	state ecstats.activity_state := (SELECT s FROM ecstats.activity_state s);
BEGIN
	component := 'activity';
	detail := CASE WHEN state.as_of IS NULL THEN 'nothing scored yet' ELSE format('%s users scored as of %s', state.users, state.as_of) END
		|| CASE WHEN state.as_of < last THEN format(', last closed: %s', last) ELSE '' END
		|| CASE WHEN state.stale_from <= state.as_of THEN format('; users of %s and later changed since', state.stale_from) ELSE '' END;
	IF last > coalesce(state.as_of, '-infinity') OR state.stale_from IS NOT NULL THEN
		status := 'warn';
		hint := format('SELECT ecstats_score(%L); the next ecstats_daily does it too', greatest(last, state.as_of));
	ELSE
		status := 'ok';
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.status_activity() IS 'Part of ecstats_status: whether the scores are those of the latest closed day.';

-- ecstats.status_deliveries: the queue, the channels, the pushers.
CREATE FUNCTION ecstats.status_deliveries(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	pending bigint;
	sending bigint;
	dead bigint;
	failed bigint;
	oldest interval;
	operators text;
	fault text;
	beat timestamptz := (SELECT max(p.last_beat) FROM ecstats.pushers p);
	held text;
BEGIN
	SELECT count(*) FILTER (WHERE d.status = 'pending'), count(*) FILTER (WHERE d.status = 'sending'),
		   at - min(d.next_attempt_at) FILTER (WHERE d.status = 'pending' AND d.next_attempt_at <= at)
	  INTO pending, sending, oldest
	  FROM ecstats.deliveries d WHERE d.status IN ('pending', 'sending');
	SELECT count(*) INTO dead FROM ecstats.deliveries d
	 WHERE d.status IN ('dead', 'expired') AND d.settled_at > at - interval '7 days';
	SELECT count(*) INTO failed FROM ecstats.report_failures f WHERE f.at > status_deliveries.at - interval '7 days';

	component := 'deliveries';
	detail := format('%s pending, %s being sent, %s dead or expired in 7 days', pending, sending, dead)
		|| CASE WHEN failed > 0 THEN format(', %s not queued', failed) ELSE '' END;
	status := CASE WHEN dead > 0 OR failed > 0 OR oldest > interval '1 hour' THEN 'error'
				   WHEN oldest > interval '5 minutes' THEN 'warn' ELSE 'ok' END;
	hint := CASE WHEN dead > 0 THEN 'SELECT id, channel, last_error FROM ecstats.deliveries WHERE status IN (''dead'', ''expired''); cure it, then SELECT ecstats_replay(id)'
				 WHEN failed > 0 THEN 'SELECT * FROM ecstats.report_failures; cure it, then SELECT ecstats_report(report, day)'
				 WHEN oldest > interval '5 minutes' THEN format('the oldest waits for %s: see the rows pusher and channels', date_trunc('second', oldest)) END;
	RETURN NEXT;

	component := 'channels';
	SELECT string_agg(format('%s until %s', s.channel, greatest(s.paused_until, s.throttled_until)), ', ' ORDER BY s.channel) INTO held
	  FROM ecstats.channel_state s WHERE greatest(s.paused_until, s.throttled_until) > at;
	SELECT format('%s enabled of %s', count(*) FILTER (WHERE c.enabled), count(*)) INTO detail FROM ecstats.channels c;
	detail := detail || coalesce(', held: ' || held, '');
	status := CASE WHEN held IS NULL THEN 'ok' ELSE 'warn' END;
	hint := CASE WHEN held IS NOT NULL THEN 'SELECT channel, error, response FROM ecstats.delivery_attempts ORDER BY started_at DESC LIMIT 10 says why' END;
	RETURN NEXT;

	SELECT f.operators_channel, CASE WHEN c.name IS NULL THEN 'does not exist' WHEN NOT c.enabled THEN 'is disabled' END
	  INTO operators, fault
	  FROM ecstats.config f LEFT JOIN ecstats.channels c ON c.name = f.operators_channel;
	IF operators IS NULL OR fault IS NOT NULL THEN
		component := 'operators';
		status := CASE WHEN operators IS NULL THEN 'warn' ELSE 'error' END;
		detail := CASE WHEN operators IS NULL THEN 'nobody is told of failures'
					   ELSE format('the operators'' channel "%s" %s', operators, fault) END;
		hint := 'UPDATE ecstats.config SET operators_channel = a name in ecstats.channels';
		RETURN NEXT;
	END IF;

	component := 'pusher';
	detail := CASE WHEN beat IS NULL THEN 'never heard' ELSE format('last heard %s ago', date_trunc('second', at - beat)) END;
	status := CASE WHEN beat > at - interval '1 minute' THEN 'ok' WHEN pending > 0 THEN 'error' ELSE 'warn' END;
	hint := CASE WHEN status <> 'ok' THEN 'start ecstats-pusher -d DSN (or systemctl start ecstats-pusher) as a role with ecstats_grant(role, ''pusher'')' END;
	RETURN NEXT;

	IF NOT ecstats.delivery_is_home() THEN
		component := 'home';
		status := 'error';
		detail := 'this database is a copy of another one: nothing is delivered';
		hint := 'SELECT ecstats_adopt() if this copy is to deliver; cancel first what the original sends';
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.status_deliveries(timestamptz) IS 'Part of ecstats_status: deliveries, channels, pusher, and whether this is a copy.';

-- ecstats_status: every part, its state, and the cure.
-- Result: rows (component, status ok | warn | error, detail, hint). Writes nothing.
CREATE FUNCTION @extschema@.ecstats_status()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at timestamptz := clock_timestamp();
	installed text := (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'ecstats');
	loaded text := @extschema@.ecstats_version();
BEGIN
	RETURN QUERY SELECT 'version', CASE WHEN installed = loaded THEN 'ok' ELSE 'error' END,
		format('%s, PostgreSQL %s', installed, current_setting('server_version')),
		CASE WHEN installed <> loaded THEN format('the library is %s: ALTER EXTENSION ecstats UPDATE', loaded) END;
	RETURN QUERY SELECT * FROM ecstats.status_intake(at);
	RETURN QUERY SELECT * FROM ecstats.source_status(at);
	RETURN QUERY SELECT * FROM ecstats.status_days(at);
	RETURN QUERY SELECT * FROM ecstats.status_activity();
	RETURN QUERY SELECT * FROM ecstats.report_status();
	RETURN QUERY SELECT * FROM ecstats.status_deliveries(at);
	RETURN QUERY SELECT * FROM ecstats.job_status(at);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_status() IS
	'How every part is: component, status (ok, warn, error), detail, and in hint the cure. Writes nothing.';

-- sql/90_grants.sql
-- Who may do what. Nothing to PUBLIC; four profiles, as data; two functions that grant and revoke them.

-- ecstats.profile_privileges: what a profile is allowed, a row a relation (columns NULL: all of them) or
-- function name (every overload). A profile's rows are all it gets: profiles add up, none contains another.
CREATE FUNCTION ecstats.profile_privileges()
	RETURNS TABLE (profile text, kind text, object text, privileges text, columns text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH reads(object) AS (VALUES
		('config'), ('event_types'), ('daily_kpi'), ('weekly_kpi'), ('monthly_kpi'), ('daily_sales'), ('daily_events'), ('daily_funnel'), ('user_daily'), ('first_seen'),
		('buyer_daily'), ('buyers'),
		('restatements'), ('day_state'), ('day_marks'), ('rejects'), ('jobs'), ('job_runs'), ('templates'), ('reports'), ('targets'),
		('report_failures'), ('channel_kinds'), ('deliveries'), ('delivery_attempts'),
		('activity_levels'), ('user_activity'), ('user_profile'), ('activity_state'), ('cohorts'), ('tag_rules'), ('user_tags'), ('tag_daily'),
		('product_daily'), ('region_daily'), ('channel_daily'), ('funnel_daily'), ('kpi_trend')),
	read_functions(object) AS (VALUES
		('ecstats_version'), ('ecstats_day'), ('day_of'), ('day_start'), ('timezone_valid'), ('ecstats_today'), ('ecstats_cron_next'), ('ecstats_cron_list'),
		('cron_next'), ('cron_check'), ('cron_dialect'), ('ecstats_render'), ('template_render'), ('template_check'), ('ecstats_report_data'), ('ecstats_preview'), ('ecstats_status'),
		('ecstats_scores'), ('ecstats_explain_score'), ('ecstats_tag_audience'), ('ecstats_explain_tag'), ('rollup_users_unpack'), ('rollup_ids_unpack'), ('user_events'), ('report_data'), ('report_row'), ('report_kpi'), ('report_change'),
		('report_points'), ('report_points_text'), ('report_timestamp'), ('report_label'), ('native_text'), ('report_item'), ('report_products'),
		('report_split'), ('report_sales'), ('pipeline_live'), ('report_funnel'), ('report_targets'), ('report_restated'),
		('report_day'), ('report_scored_day'), ('report_person_label'), ('report_level_cn'), ('report_levels'), ('report_tags'), ('report_audience'),
		('report_segments'), ('report_cohorts'), ('report_activity'), ('source_behind'), ('source_status'), ('report_condition'), ('report_message'), ('report_status'))
	-- writer: puts raw rows in; the CHECKs' functions are called in its name
	SELECT 'writer', 'relation', * FROM (VALUES ('events', 'INSERT', NULL), ('order_lines', 'SELECT, INSERT, UPDATE, DELETE', NULL), ('event_types', 'SELECT', NULL)) v
	UNION ALL SELECT 'writer', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_version,ecstats_day,day_of,event_check,order_check,ecstats_track,ecstats_order,ecstats_prepare}'::text[]) v
	-- ... and attaches tables of logical replication, or applies into them
	UNION ALL SELECT 'writer', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_land_orders,pipeline_land_order,pipeline_land_rows,must_be_read_committed,pipeline_land_check,pipeline_land_types,pipeline_land_mapping,on_error_check,timezone_valid}'::text[]) v
	-- reader: figures and how things stand; no raw rows, no credentials
	UNION ALL SELECT p, 'relation', r.object, 'SELECT', NULL FROM reads r, unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'relation', 'channels', 'SELECT', 'name, kind, options, enabled, created_at' FROM unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'function', f.object, 'EXECUTE', NULL FROM read_functions f, unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'relation', 'sources', 'SELECT', 'name, kind, target, owner, enabled, query, watermark_query, timeout, on_error, options, watermark, created_at, last_run_at, last_day, last_rows, last_error'
	  FROM unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'relation', 'source_fetches', 'SELECT',
		   (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute a
			 WHERE a.attrelid = to_regclass('ecstats.source_fetches') AND a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT IN ('next_url', 'next_value'))
	  FROM unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT 'operator', 'relation', 'sources', p, 'name, kind, target, owner, enabled, query, watermark_query, url, headers, secret, timeout, on_error, options, watermark'
	  FROM unnest('{INSERT,UPDATE}'::text[]) p
	UNION ALL SELECT 'operator', 'relation', 'sources', 'DELETE', NULL
	-- operator: closes days, writes reports and jobs, sets channels without reading their credentials
	UNION ALL SELECT 'operator', 'relation', * FROM (VALUES ('config', 'UPDATE', NULL), ('event_types', 'INSERT, UPDATE, DELETE', NULL),
		('rejects', 'DELETE', NULL), ('templates', 'INSERT, UPDATE, DELETE', NULL), ('reports', 'INSERT, UPDATE, DELETE', NULL),
		('targets', 'INSERT, UPDATE, DELETE', NULL), ('activity_levels', 'INSERT, UPDATE, DELETE', NULL), ('tag_rules', 'INSERT, UPDATE, DELETE', NULL), ('channels', 'INSERT, UPDATE, DELETE', NULL), ('jobs', 'DELETE', NULL), ('job_ticker', 'SELECT', NULL)) v
	UNION ALL SELECT 'operator', 'relation', 'jobs', p, 'name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled'
	  FROM unnest('{INSERT,UPDATE}'::text[]) p
	UNION ALL SELECT 'operator', 'relation', 'job_runs', 'INSERT', 'job_id, due_at'
	UNION ALL SELECT 'operator', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_daily,ecstats_score,ecstats_collect,ecstats_report,ecstats_retry_rejects,ecstats_prepare,ecstats_push,ecstats_push_audience,ecstats_replay,ecstats_cancel,ecstats_channel_test,
		ecstats_adopt,ecstats_schedule,ecstats_unschedule,ecstats_run_job,ecstats_replay_job,ecstats_install_cron,ecstats_uninstall_cron,job_cron_home,
		ecstats_maintain,maintain_lost,maintain_days,maintain_partition,maintain_droppable,maintain_drop,maintain_prune,day_partition_exists,day_partition_name,
		ecstats_rebuild,rollup_rebuild_days,rollup_rebuild_day,rollup_rebuild_settle,rollup_first_seen_anew,rollup_buyers_anew,ecstats_verify}'::text[]) v
	-- ... and writes rules of tags, whose CHECK is called in its name
	UNION ALL SELECT 'operator', 'function', 'tag_check', 'EXECUTE', NULL
	-- pusher: the functions of its contract
	UNION ALL SELECT 'pusher', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_version,delivery_claim,delivery_settle,pusher_beat,source_claim,source_receive}'::text[]) v
	-- a tick launches what is due, each run as its job's owner
	UNION ALL SELECT p, 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_tick,job_beat,job_reap,job_claim,job_take,job_launch,job_wait}'::text[]) v, unnest('{operator,pusher}'::text[]) p
	$$;
COMMENT ON FUNCTION ecstats.profile_privileges() IS 'What the profiles writer, reader, operator and pusher are allowed.';

-- ecstats.profile_holds: has a role been granted anything in schema ecstats?
CREATE FUNCTION ecstats.profile_holds(role name) RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (
		SELECT FROM (SELECT c.relacl AS acl FROM pg_class c WHERE c.relnamespace = 'ecstats'::regnamespace
					 UNION ALL SELECT a.attacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
								WHERE c.relnamespace = 'ecstats'::regnamespace AND a.attacl IS NOT NULL
					 UNION ALL SELECT p.proacl FROM pg_proc p WHERE p.pronamespace = 'ecstats'::regnamespace) o
		 CROSS JOIN LATERAL aclexplode(o.acl) g
		 WHERE g.grantee = (SELECT r.oid FROM pg_roles r WHERE r.rolname = role)) $$;
COMMENT ON FUNCTION ecstats.profile_holds(name) IS 'True where a role has been granted something in schema ecstats.';

-- ecstats.profile_apply: grants or revokes every privilege of a profile.
CREATE FUNCTION ecstats.profile_apply(role name, the_profile text, revoke boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	owner oid := (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'ecstats');
	verb text := CASE WHEN revoke THEN 'REVOKE %s ON %s %s FROM %I' ELSE 'GRANT %s ON %s %s TO %I' END;
	p record;
	f regprocedure;
BEGIN
	IF NOT pg_has_role(current_user, owner, 'MEMBER') THEN
		RAISE EXCEPTION 'only the owner of extension ecstats grants its profiles'
			USING ERRCODE = 'insufficient_privilege', HINT = format('Ask %s, or a superuser.', owner::regrole);
	END IF;
	IF the_profile IS NULL OR the_profile NOT IN ('writer', 'reader', 'operator', 'pusher') THEN
		RAISE EXCEPTION 'there is no such profile'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(the_profile, 60)),
				  HINT = 'Profiles are writer, reader, operator and pusher.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'undefined_object', HINT = 'CREATE ROLE ... LOGIN first.';
	END IF;
	IF NOT revoke THEN
		EXECUTE format('GRANT USAGE ON SCHEMA ecstats TO %I', role);
		IF NOT has_schema_privilege(role, '@extschema@', 'USAGE') THEN
			EXECUTE format('GRANT USAGE ON SCHEMA @extschema@ TO %I', role);
		END IF;
	END IF;
	FOR p IN SELECT * FROM ecstats.profile_privileges() g WHERE g.profile = the_profile LOOP
		IF p.kind = 'relation' THEN
			EXECUTE format(verb, p.privileges || coalesce('(' || p.columns || ')', ''), 'TABLE', format('ecstats.%I', p.object), role);
		ELSE
			FOR f IN SELECT d.objid::regprocedure FROM pg_depend d JOIN pg_proc c ON c.oid = d.objid
					  WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
						AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'ecstats') AND c.proname = p.object LOOP
				EXECUTE format(verb, p.privileges, 'ROUTINE', f, role);
			END LOOP;
		END IF;
	END LOOP;
	IF revoke AND NOT ecstats.profile_holds(role) THEN
		EXECUTE format('REVOKE USAGE ON SCHEMA ecstats FROM %I', role);
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.profile_apply(name, text, boolean) IS 'Grants (or revokes) every privilege of a profile; 42501, 22023, 42704.';

-- ecstats_grant: gives a role the privileges of a profile. Profiles add up.
-- Arguments: role; profile writer | reader | operator | pusher. Errors: 42501 for anybody but the extension's
-- owner, 22023 unknown profile, 42704 unknown role.
CREATE FUNCTION @extschema@.ecstats_grant(role name, profile text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$ SELECT ecstats.profile_apply(role, profile, false) $$;
COMMENT ON FUNCTION @extschema@.ecstats_grant(name, text) IS
	'Gives a role the privileges of profile writer, reader, operator or pusher. Only for the extension''s owner (42501); 22023, 42704.';

-- ecstats_revoke: takes the privileges of a profile away; what another profile of the role gives too goes with
-- them: grant that again. Arguments and errors: as ecstats_grant.
CREATE FUNCTION @extschema@.ecstats_revoke(role name, profile text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$ SELECT ecstats.profile_apply(role, profile, true) $$;
COMMENT ON FUNCTION @extschema@.ecstats_revoke(name, text) IS
	'Takes the privileges of a profile from a role (also those that another profile of it gives: grant that one again). Only for the extension''s owner.';

DO $$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT d.objid::regprocedure FROM pg_depend d
			  WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
				AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'ecstats') LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', f);
	END LOOP;
END
$$;

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
