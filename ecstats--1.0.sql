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
-- The one-pass rollup. Nothing here writes: the pipeline stores what these functions return.

-- Purpose:   everything that is counted from the events of a range, in one pass.
-- Arguments: from_time (inclusive), to_time (exclusive); page_views: names that are page views; funnel:
--            names of the steps, in order; with_users: also a row for each user.
-- Result:    kind 't' a = events, b = page views; 'v' a = distinct users; 'e' name = event, a = events,
--            b = distinct users; 'f' name = funnel[a], b = users with this and every earlier step, in
--            any order; and with users: 'n' name = event, a = its number in this call's counts; 'u'
--            name = user_id, a = events, b = different events, counts = packed counts. What is not
--            named is NULL. In no particular order.
-- Errors:    0A000 a partition that is not an ordinary table, or row-level security; 22004 a NULL in an
--            array; 42501; 53200 more than 4 GB of users; 54000.
-- Touches:   reads ecstats.events (the partitions that meet the range, and the default one).
CREATE FUNCTION ecstats.rollup_scan_events(from_time timestamptz, to_time timestamptz, page_views text[], funnel text[],
		with_users boolean)
	RETURNS TABLE (kind "char", name text, a bigint, b bigint, counts bytea)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_events';
COMMENT ON FUNCTION ecstats.rollup_scan_events(timestamptz, timestamptz, text[], text[], boolean) IS
	'One pass over the events of [from_time, to_time): rows of kind t (events, page views), v (users), e (by event), f (funnel steps), with_users also n (numbers of events in counts) and u (by user). Errors: 0A000, 22004, 42501, 53200 above 4 GB of users.';

-- Purpose:   everything that is counted from the order lines of a range.
-- Arguments: from_time (inclusive), to_time (exclusive); abnormal: statuses that make a sale line abnormal.
-- Result:    by order_time: kind 't' quantity, amount, orders (distinct order_id), buyers (distinct user_id
--            that is not NULL) of sale lines, refund = minus the amount of return lines; 'r' orders of
--            return lines; 'a' orders of sale lines with an abnormal status; 's' as 't', for each
--            product_id, region and channel. By paid_time: 'p' amount, orders, buyers of sale lines.
--            Money has the largest display scale that was put in; what is not named is NULL.
-- Errors:    22003 a sum of quantities out of range; 22004 a NULL in abnormal; 53200 more than 4 GB.
-- Touches:   reads ecstats.order_lines.
CREATE FUNCTION ecstats.rollup_scan_orders(from_time timestamptz, to_time timestamptz, abnormal text[])
	RETURNS TABLE (kind "char", product_id text, region text, channel text, quantity bigint, amount numeric, orders bigint,
		buyers bigint, refund numeric)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_orders';
COMMENT ON FUNCTION ecstats.rollup_scan_orders(timestamptz, timestamptz, text[]) IS
	'One pass over the order lines of [from_time, to_time): rows of kind t (totals), r (returns), a (abnormal), p (paid in the range), s (by product_id, region, channel). Errors: 22003, 22004, 53200 above 4 GB.';

-- Purpose:   the pairs of packed counts.
-- Arguments: counts: version byte 1, then varints, event number and count, by ascending event number.
-- Result:    a row for each pair.
-- Errors:    XX001 not packed counts, with the place.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_counts_unpack(counts bytea)
	RETURNS TABLE (event_no int, event_count bigint)
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 4
	AS 'MODULE_PATHNAME', 'ecstats_rollup_counts_unpack';
COMMENT ON FUNCTION ecstats.rollup_counts_unpack(bytea) IS
	'Rows (event_no, event_count) of packed counts, by ascending event_no. Error: XX001 if counts are corrupt.';

-- Purpose:   how many events packed counts stand for.
-- Arguments: counts: packed counts.
-- Result:    the sum, 0 if there are none.
-- Errors:    XX001 not packed counts, with the place.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_counts_total(counts bytea) RETURNS bigint
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_counts_total';
COMMENT ON FUNCTION ecstats.rollup_counts_total(bytea) IS
	'Sum of packed counts. Error: XX001 if counts are corrupt.';

-- Purpose:   packed counts under other event numbers.
-- Arguments: counts: packed counts; map: event number i becomes map[i], 1 or more.
-- Result:    packed counts, sorted by the new numbers; numbers that become equal are added up.
-- Errors:    22023 no number for an event; 22004 a NULL in map; 2202E map is not a list; XX001.
-- Touches:   nothing.
CREATE FUNCTION ecstats.rollup_counts_translate(counts bytea, map int[]) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_counts_translate';
COMMENT ON FUNCTION ecstats.rollup_counts_translate(bytea, int[]) IS
	'Packed counts with event number i replaced by map[i]. Errors: 22023 no number for an event, 22004, 2202E, XX001 if counts are corrupt.';

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
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_render';
COMMENT ON FUNCTION @extschema@.ecstats_render(jsonb, jsonb) IS
	'Renders every string of a JSON document over data: Mustache (variables, sections, inverted sections, comments, set-delimiter) and filters ({{gmv | money}}). Keys and other values are copied; a member "conditions" picks members. Null for a null argument. Errors: 22023 the template is wrong, with JSON path and character; 54000 output over 1 MB or over a million passes through sections.';

-- Internal twin of ecstats_render.
CREATE FUNCTION ecstats.template_render(template jsonb, data jsonb) RETURNS jsonb
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_render';
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
COMMENT ON COLUMN ecstats.daily_kpi.complete IS 'The grace has passed and nobody who began before the day''s end is still writing';
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
COMMENT ON COLUMN ecstats.daily_sales.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.daily_sales.total_revenue IS 'Amount of sale lines';

CREATE TABLE ecstats.daily_events (
	day			date NOT NULL,
	event		text COLLATE "C" NOT NULL,
	event_count	bigint NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, event)
);
COMMENT ON TABLE ecstats.daily_events IS 'Events and their distinct users of a closed day, by name';

CREATE TABLE ecstats.daily_funnel (
	day			date NOT NULL,
	step		integer NOT NULL,
	event		text COLLATE "C" NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, step)
);
COMMENT ON TABLE ecstats.daily_funnel IS 'Users of a closed day with events of this step and of every earlier one, in any order';

-- One compact row a user and day; a row for each event name would be three times as much to write.
CREATE TABLE ecstats.event_names (
	event_no	integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	event		text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE ecstats.event_names IS 'Numbers of the event names in ecstats.user_day';
CREATE TABLE ecstats.user_day (
	day		date NOT NULL,
	user_id	text COLLATE "C" NOT NULL,
	counts	bytea NOT NULL,
	PRIMARY KEY (day, user_id)
);
COMMENT ON TABLE ecstats.user_day IS 'Events of a user on a closed day, packed; read it through the view ecstats.user_daily';
COMMENT ON COLUMN ecstats.user_day.counts IS 'Pairs of event number and count, see ecstats.rollup_counts_unpack';
CREATE VIEW ecstats.user_daily AS
	SELECT d.day, d.user_id, n.event, c.event_count
	  FROM ecstats.user_day d
	 CROSS JOIN LATERAL ecstats.rollup_counts_unpack(d.counts) c
	  JOIN ecstats.event_names n ON n.event_no = c.event_no;
COMMENT ON VIEW ecstats.user_daily IS 'Events of a user on a closed day, by name';

-- Outlives the raw rows.
CREATE TABLE ecstats.first_seen (
	user_id	text COLLATE "C" PRIMARY KEY,
	day		date NOT NULL
);
CREATE INDEX first_seen_day ON ecstats.first_seen (day);
COMMENT ON TABLE ecstats.first_seen IS 'The first closed day on which a user has an event';

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

-- What a close has to remember. A transaction that had passed its pre-commit before the day's end and was
-- not visible to the close left no mark: its number is kept, and the day is computed again when it is over.
CREATE TABLE ecstats.day_state (
	day			date PRIMARY KEY,
	unseen		xid8[] NOT NULL DEFAULT '{}',
	cluster		bigint NOT NULL,
	frozen		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE ecstats.day_state IS 'State of closed days that is no figure';
COMMENT ON COLUMN ecstats.day_state.unseen IS 'Transactions that were under way when the day was computed and may hold rows of it';
COMMENT ON COLUMN ecstats.day_state.cluster IS 'System identifier of the cluster whose transaction numbers these are';
COMMENT ON COLUMN ecstats.day_state.frozen IS 'Its raw rows are gone: never computed again';

-- sql/33_job_tables.sql

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
	'Message templates (ecstats_render). INSERT without a version makes the next one and activates it; UPDATE … SET active = true on an old version rolls back to it; bodies never change';
COMMENT ON COLUMN ecstats.templates.version IS 'left out at INSERT: the highest version of the name plus 1';
COMMENT ON COLUMN ecstats.templates.body IS
	'a JSON object whose strings are templates: a neutral message (title, markdown, text) that each channel puts into its own form, or a provider''s own form as it is';
COMMENT ON COLUMN ecstats.templates.active IS 'the version that is rendered; at most one a name';
COMMENT ON COLUMN ecstats.templates.note IS 'what changed, for people';

CREATE TABLE ecstats.reports (
	name text NOT NULL,
	owner text NOT NULL DEFAULT CURRENT_USER,
	dataset text NOT NULL DEFAULT 'daily',
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
	CONSTRAINT reports_channels_list
		CHECK (array_position(channels, NULL) IS NULL AND coalesce(array_ndims(channels), 1) = 1
			AND cardinality(channels) <= 100),
	CONSTRAINT reports_timezone_with_schedule CHECK (timezone IS NULL OR schedule IS NOT NULL),
	CONSTRAINT reports_priority_range CHECK (priority BETWEEN 1 AND 9),
	CONSTRAINT reports_ttl_positive CHECK (ttl > interval '0')
);
COMMENT ON TABLE ecstats.reports IS
	'What is sent, when and where. An enabled report of dataset daily without a schedule goes out at the first close of each day';
COMMENT ON COLUMN ecstats.reports.owner IS 'the role that wrote the row (forced; a superuser may set another)';
COMMENT ON COLUMN ecstats.reports.dataset IS 'what ecstats_report_data gives to the template: daily';
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
COMMENT ON COLUMN ecstats.targets.period IS 'business days: 2026 (year), 2026-11 (month) or 2026-11-23 (day)';
COMMENT ON COLUMN ecstats.targets.metric IS 'a column of ecstats.daily_kpi that adds up over days';
-- sql/35_delivery_tables.sql

-- sql/36_channel_kinds.sql

-- sql/37_report_rows.sql
-- What ships: a Chinese and an English daily report. They are neutral messages (title, markdown,
-- text), so the same template suits every kind of channel. Lines end in two blanks, the line break
-- that every chat's Markdown knows; they are put in by replace(), not typed. Change a text by
-- inserting a new version, not here.

INSERT INTO ecstats.templates (name, version, note, body)
VALUES ('daily_cn', 1, 'shipped: 经营日报', jsonb_build_object(
	'type', 'report.daily',
	'title', '{{day_cn}}日报 成交额{{gmv | cn}} 环比{{dod.gmv | signed_percent:持平}}',
	'text', '{{day_cn}}({{weekday_cn}})日报:成交额 {{gmv | cn}},环比 {{dod.gmv | signed_percent:持平}},'
		'周同比 {{wow.gmv | signed_percent:持平}};订单 {{order_count | int}} 单,支付 {{payer_count | int}} 人,'
		'客单价 {{amount_per_buyer | money}},访客 {{uv | int}},转化率 {{conversion_rate | percent:2}},'
		'退款 {{refund_amount | cn}}。{{^complete}}数据尚未收齐,以更正为准。{{/complete}}',
	'markdown', replace(btrim($md$
**{{day_cn}}({{weekday_cn}})经营日报**
{{#restated}}
> **更正**(第 {{revision}} 版)
{{#columns.gmv}}
> 成交额由 {{old | money}} 更正为 {{new | money}}
{{/columns.gmv}}
{{#columns.paid_amount}}
> 支付金额由 {{old | money}} 更正为 {{new | money}}
{{/columns.paid_amount}}
{{#columns.refund_amount}}
> 退款由 {{old | money}} 更正为 {{new | money}}
{{/columns.refund_amount}}
{{#columns.uv}}
> 访客由 {{old | int}} 更正为 {{new | int}}
{{/columns.uv}}
{{/restated}}
{{^complete}}
> **数据尚未收齐**,以更正为准
{{/complete}}
{{^reconciles}}
> **渠道合计与成交额不符**,请先核对再引用
{{/reconciles}}
> 成交额 **{{gmv | cn}}** 环比 {{dod.gmv | signed_percent:持平}} 周同比 {{wow.gmv | signed_percent:持平}}
> 订单 {{order_count | int}} 单 支付 {{payer_count | int}} 人 支付金额 {{paid_amount | cn}}
> 客单价 {{amount_per_buyer | money}} 笔单价 {{aov | money}}
> 访客 {{uv | int}} 转化率 {{conversion_rate | percent:2}}{{#dod_points.conversion_rate_text}}(较前一日 {{dod_points.conversion_rate_text}} 百分点){{/dod_points.conversion_rate_text}}
> 退款 {{refund_amount | cn}} 退款率 {{refund_rate | percent}}
{{#targets.gmv}}

**本月累计** {{achieved | cn}} / 目标 {{value | cn}} 达成 {{rate | percent}} 时间进度 {{time_progress | percent}}({{lead_points_text}} 百分点)
{{#daily_needed}}
剩余 {{days_left}} 天,日均需 {{daily_needed | cn}}
{{/daily_needed}}
{{/targets.gmv}}
{{#has_sales}}

**商品 TOP5**
{{#top_products}}
{{#top5}}
{{rank}}. {{label | truncate:18}} {{total_revenue | cn}}({{total_sold | int}} 件)
{{/top5}}
{{/top_products}}

**渠道** {{#by_channel}}{{#top10}}{{^first}} · {{/first}}{{label | truncate:10}} {{total_revenue | cn}}({{revenue_change | signed_percent:持平}}){{/top10}}{{/by_channel}}

**区域 TOP5** {{#by_region}}{{#top5}}{{^first}} · {{/first}}{{label | truncate:10}} {{total_revenue | cn}}({{share | percent}}){{/top5}}{{/by_region}}
{{/has_sales}}

统计口径:下单成交额,未扣退款;{{currency}};渠道括号内为环比,区域括号内为占比
$md$, E'\n'), E'\n', E'  \n')));

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
	'markdown', replace(btrim($md$
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

**Channels** {{#by_channel}}{{#top10}}{{^first}} · {{/first}}{{label | truncate:16}} {{total_revenue | money}} ({{revenue_change | signed_percent:unchanged}}){{/top10}}{{/by_channel}}

**Top 5 regions** {{#by_region}}{{#top5}}{{^first}} · {{/first}}{{label | truncate:16}} {{total_revenue | money}} ({{share | percent}}){{/top5}}{{/by_region}}
{{/has_sales}}
$md$, E'\n'), E'\n', E'  \n')));

INSERT INTO ecstats.reports (name, template) VALUES ('daily', 'daily_cn'), ('daily_en', 'daily_en');
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

-- ecstats.rollup_figures: the figures of a range of time, writing nothing.
CREATE FUNCTION ecstats.rollup_figures(day date, from_time timestamptz, to_time timestamptz)
	RETURNS ecstats.daily_kpi
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.rollup_kpi(day,
		(SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b))
		   FROM ecstats.rollup_scan_events(from_time, to_time, ecstats.rollup_page_views(), '{}', false) e
		  WHERE e.kind IN ('t', 'v')),
		(SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind')
		   FROM ecstats.rollup_scan_orders(from_time, to_time, ecstats.rollup_abnormal()) o
		  WHERE o.kind IN ('t', 'r', 'a', 'p'))) $$;
COMMENT ON FUNCTION ecstats.rollup_figures(date, timestamptz, timestamptz) IS
	'Figures of the instants from_time to before to_time as a row of daily_kpi (new_user_count 0), computed from raw rows; writes nothing.';

-- ecstats.rollup_write: computes a day and makes its stored rows (all but daily_kpi) what they must be,
-- touching only those that differ. One statement: every figure sees the same snapshot, which is returned.
CREATE FUNCTION ecstats.rollup_write(the_day date, OUT kpi ecstats.daily_kpi, OUT seen pg_snapshot)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	event_totals jsonb;
	order_totals jsonb;
BEGIN
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_page_views(), ecstats.rollup_funnel(), true)
	), o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_abnormal())
	), new_names AS (
		INSERT INTO ecstats.event_names (event)
		SELECT e.name FROM e WHERE e.kind = 'n' AND NOT EXISTS (SELECT FROM ecstats.event_names n WHERE n.event = e.name)
		 ORDER BY e.name COLLATE "C"
		RETURNING event_no, event
	), numbers AS MATERIALIZED (	-- of this scan's numbers, those that are stored
		SELECT coalesce(array_agg(n.event_no ORDER BY e.a), '{}') AS map
		  FROM e JOIN (SELECT event_no, event FROM ecstats.event_names UNION ALL SELECT event_no, event FROM new_names) n
				 ON n.event = e.name
		 WHERE e.kind = 'n'
	), users AS MATERIALIZED (
		SELECT e.name AS user_id, ecstats.rollup_counts_translate(e.counts, m.map) AS counts
		  FROM e CROSS JOIN numbers m WHERE e.kind = 'u'
	), users_gone AS (
		DELETE FROM ecstats.user_day d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = d.user_id)
	), users_written AS (
		INSERT INTO ecstats.user_day AS d (day, user_id, counts) SELECT the_day, u.user_id, u.counts FROM users u
		ON CONFLICT (day, user_id) DO UPDATE SET counts = excluded.counts WHERE d.counts <> excluded.counts
	), events_gone AS (
		DELETE FROM ecstats.daily_events d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'e' AND e.name = d.event)
	), events_written AS (
		INSERT INTO ecstats.daily_events AS d (day, event, event_count, user_count)
		SELECT the_day, e.name, e.a, e.b FROM e WHERE e.kind = 'e'
		ON CONFLICT (day, event) DO UPDATE SET event_count = excluded.event_count, user_count = excluded.user_count
		 WHERE (d.event_count, d.user_count) <> (excluded.event_count, excluded.user_count)
	), funnel_gone AS (
		DELETE FROM ecstats.daily_funnel d WHERE d.day = the_day
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
	)
	SELECT (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v')),
		   (SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') FROM o WHERE o.kind IN ('t', 'r', 'a', 'p')),
		   pg_current_snapshot()
	  INTO event_totals, order_totals, seen;

	kpi := ecstats.rollup_kpi(the_day, event_totals, order_totals);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_write(date) IS
	'Computes a day from raw rows and brings daily_events, daily_funnel, daily_sales and user_day to it, touching only rows that differ; returns the figures and the snapshot they were seen with.';

-- ecstats.rollup_first_seen: the day's users are stored: who is new, and which other days' counts of new
-- users changed because of it.
CREATE FUNCTION ecstats.rollup_first_seen(the_day date) RETURNS SETOF date
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH earlier AS (			-- seen today, known since a later day
		SELECT f.user_id, f.day AS old_day FROM ecstats.first_seen f
		  JOIN ecstats.user_day d ON d.day = the_day AND d.user_id = f.user_id
		 WHERE f.day > the_day
	), written AS (
		INSERT INTO ecstats.first_seen AS f (user_id, day)
		SELECT d.user_id, d.day FROM ecstats.user_day d
		 WHERE d.day = the_day AND NOT EXISTS (SELECT FROM ecstats.first_seen f WHERE f.user_id = d.user_id AND f.day <= the_day)
		ON CONFLICT (user_id) DO UPDATE SET day = excluded.day
	), gone AS (				-- known since today, not seen today any more: the next day, if any
		SELECT f.user_id,
			   (SELECT k.day FROM ecstats.daily_kpi k
				 WHERE k.day > the_day AND EXISTS (SELECT FROM ecstats.user_day u WHERE u.day = k.day AND u.user_id = f.user_id)
				 ORDER BY k.day LIMIT 1) AS new_day
		  FROM ecstats.first_seen f
		 WHERE f.day = the_day
		   AND NOT EXISTS (SELECT FROM ecstats.user_day d WHERE d.day = the_day AND d.user_id = f.user_id)
	), moved AS (
		UPDATE ecstats.first_seen f SET day = g.new_day FROM gone g WHERE f.user_id = g.user_id AND g.new_day IS NOT NULL
	), forgotten AS (
		DELETE FROM ecstats.first_seen f USING gone g WHERE f.user_id = g.user_id AND g.new_day IS NULL
	)
	SELECT old_day FROM earlier UNION SELECT new_day FROM gone WHERE new_day IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.rollup_first_seen(date) IS
	'Brings first_seen to the stored users of a day; returns the other days whose number of new users changed.';

-- sql/43_rollup_close.sql
-- Closing and restating: which days are due, and the one place that writes daily_kpi.

-- ecstats.rollup_lock: one run at a time closes days; the others wait and then see what it did.
CREATE FUNCTION ecstats.rollup_lock() RETURNS void
	LANGUAGE sql VOLATILE AS $$ SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('ecstats.rollup'), 0) $$;
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
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT h FROM ecstats.rollup_gaps(before) g CROSS JOIN LATERAL (
		SELECT ecstats.rollup_hop('ecstats.order_lines', 'order_time', g.from_day, g.to_day)
		UNION SELECT ecstats.rollup_hop('ecstats.order_lines', 'paid_time', g.from_day, g.to_day)
		UNION SELECT ecstats.rollup_hop('ecstats.events_default', 'event_time', g.from_day, g.to_day)) d(h)
	UNION
	SELECT h
	  FROM pg_partition_tree('ecstats.events') p
	  JOIN pg_class c ON c.oid = p.relid
	 CROSS JOIN LATERAL ecstats.rollup_hop(p.relid, 'event_time', date '1999-12-30', before) h
	 WHERE p.isleaf AND p.relid <> 'ecstats.events_default'::regclass
	   -- a partition whose name is a closed day need not be opened
	   AND NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE c.relname = ecstats.event_partition_name(k.day))
	   AND NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = h)
	 ORDER BY 1 $$;
COMMENT ON FUNCTION ecstats.rollup_open_days(date) IS 'Ended business days before a day that have raw rows and are not closed, ascending.';

-- ecstats.rollup_stale_days: closed days whose raw rows changed since they were computed.
CREATE FUNCTION ecstats.rollup_stale_days() RETURNS SETOF date
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.day FROM ecstats.day_state s
	 WHERE NOT s.frozen
	   AND (EXISTS (SELECT FROM ecstats.day_marks m WHERE m.day = s.day)
			OR s.unseen <> '{}' AND
			(s.cluster <> (SELECT system_identifier FROM pg_control_system())
			 OR EXISTS (SELECT FROM unnest(s.unseen) x
						 WHERE NOT EXISTS (SELECT FROM pg_snapshot_xip(pg_current_snapshot()) r WHERE r = x))))
	 ORDER BY s.day $$;
COMMENT ON FUNCTION ecstats.rollup_stale_days() IS
	'Closed days that were marked by a later transaction, or that a transaction under way at their close may have changed and which is over.';

-- ecstats.rollup_complete: may a day be called complete?
CREATE FUNCTION ecstats.rollup_complete(day date, at timestamptz) RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT at >= ecstats.day_start(day + 1) + (SELECT c.close_grace FROM ecstats.config c)
	   AND NOT EXISTS (
		SELECT FROM pg_locks l
		  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		 WHERE l.locktype = 'relation' AND l.granted
		   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		   AND l.pid IS DISTINCT FROM pg_backend_pid()
		   -- a prepared transaction has no backend and does not say when it began: it counts
		   AND (l.pid IS NULL OR a.xact_start < ecstats.day_start(day + 1))
		   AND (l.relation = 'ecstats.order_lines'::regclass
				OR l.relation IN (SELECT p.relid FROM pg_partition_tree('ecstats.events') p))) $$;
COMMENT ON FUNCTION ecstats.rollup_complete(date, timestamptz) IS
	'True when close_grace has passed since the day''s end and no transaction that began before it, prepared ones included, holds a write lock on events or order_lines.';

-- ecstats.rollup_put: the only writer of daily_kpi. A first close is revision 1; a change of figures adds one
-- and leaves its restatements; becoming complete is no revision. Result: true at the first close.
CREATE FUNCTION ecstats.rollup_put(kpi ecstats.daily_kpi, at timestamptz) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state_columns text[] := '{day,complete,closed_at,revision}';
	stored ecstats.daily_kpi;
BEGIN
	SELECT * INTO stored FROM ecstats.daily_kpi k WHERE k.day = kpi.day;
	IF NOT FOUND THEN
		kpi.revision := 1;
		kpi.closed_at := at;
		kpi.complete := ecstats.rollup_complete(kpi.day, at);
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
COMMENT ON FUNCTION ecstats.rollup_put(ecstats.daily_kpi, timestamptz) IS
	'Stores a day''s figures: revision 1 at the first close (true), one more and restatements when they differ from the stored ones.';

-- ecstats.rollup_close: computes one day from raw rows and stores everything of it. Result: true at its
-- first close. The marks are taken before the scan's snapshot: a row that commits later leaves a new one.
CREATE FUNCTION ecstats.rollup_close(the_day date, at timestamptz) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	computed record;
	kpi ecstats.daily_kpi;
	other date;
	others date[];
	first boolean;
	this_cluster bigint := (SELECT system_identifier FROM pg_control_system());
BEGIN
	DELETE FROM ecstats.day_marks m WHERE m.day = the_day;
	SELECT * INTO computed FROM ecstats.rollup_write(the_day) w;
	kpi := computed.kpi;

	others := array(SELECT ecstats.rollup_first_seen(the_day));
	kpi.new_user_count := (SELECT count(*) FROM ecstats.first_seen f WHERE f.day = the_day);
	first := ecstats.rollup_put(kpi, at);
	FOREACH other IN ARRAY others LOOP
		SELECT * INTO kpi FROM ecstats.daily_kpi k WHERE k.day = other;
		kpi.new_user_count := (SELECT count(*) FROM ecstats.first_seen f WHERE f.day = other);
		PERFORM ecstats.rollup_put(kpi, at);
	END LOOP;

	-- At a first close, everybody who is under way may hold rows without a mark; later only those of them
	-- that still are: whoever began since then has marked the day.
	INSERT INTO ecstats.day_state AS s (day, unseen, cluster)
	VALUES (the_day, array(SELECT pg_snapshot_xip(computed.seen)), this_cluster)
	ON CONFLICT (day) DO UPDATE
	   SET cluster = this_cluster,
		   unseen = CASE WHEN s.cluster <> this_cluster THEN '{}'
						 ELSE array(SELECT unnest(s.unseen) INTERSECT SELECT unnest(excluded.unseen)) END
	 WHERE s.unseen <> '{}' OR s.cluster <> this_cluster;
	RETURN first;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_close(date, timestamptz) IS
	'Computes one ended day from raw rows and stores its figures; true at its first close.';

-- sql/44_job.sql

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
-- twins, control characters blanks. The name itself is in the facts, too.
CREATE FUNCTION ecstats.report_label(name text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT pg_catalog.translate(pg_catalog.regexp_replace(name, '[[:cntrl:]]+', ' ', 'g'), '*_`<>|[]#~\@', '＊＿｀＜＞｜［］＃～＼＠')
	$$;
COMMENT ON FUNCTION ecstats.report_label(text) IS
	'a name with Markdown''s active characters replaced by their full-width twins';

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

-- report_products lists a day's first 10 products by revenue, then pieces, then id (bytewise), so that
-- a repeat gives the same ranks. Products are many and an aggregate state of numeric is large: sorting
-- beats hashing here (measured: 16 ms against 40 ms with 10,000 products).
CREATE FUNCTION ecstats.report_products(at_day date, base_day date, gmv numeric) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET enable_hashagg = off
	AS $$
	SELECT coalesce(jsonb_agg(ecstats.report_item('product_id', t.product_id, t.rank, t.sold, t.revenue, gmv,
							(SELECT sum(b.total_revenue) FROM ecstats.daily_sales b
							  WHERE b.day = base_day AND b.product_id = t.product_id)) ORDER BY t.rank), '[]')
	  FROM (SELECT s.product_id, sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue,
				   row_number() OVER (ORDER BY sum(s.total_revenue) DESC, sum(s.total_sold) DESC,
											   s.product_id COLLATE "C") AS rank
			  FROM ecstats.daily_sales s
			 WHERE s.day = at_day
			 GROUP BY s.product_id
			HAVING sum(s.total_sold) > 0
			 ORDER BY rank LIMIT 10) t
	$$;
COMMENT ON FUNCTION ecstats.report_products(date, date, numeric) IS
	'the first 10 products of a day by revenue; gmv is the day''s, base_day the one to compare with';

-- report_split divides a day's gmv by region and by channel: 50 each, and one element `others` (named
-- null, standing for `members` names) for the rest, so that a list adds up to gmv. Order as products.
CREATE FUNCTION ecstats.report_split(at_day date, base_day date, gmv numeric) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH cells AS MATERIALIZED (
		SELECT s.day, s.region, s.channel, sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue,
			   sum(s.refund_amount) AS refunds
		  FROM ecstats.daily_sales s
		 WHERE s.day IN (at_day, base_day)
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
COMMENT ON FUNCTION ecstats.report_split(date, date, numeric) IS
	'by_region and by_channel of a day with share of gmv and change against base_day; reconciles: they add up to gmv';

-- report_funnel lists a day's funnel; rate is against the step before, null at the first.
CREATE FUNCTION ecstats.report_funnel(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('step', f.step, 'event', f.event,
				'user_count', f.user_count, 'rate', f.rate) ORDER BY f.step), '[]')
	  FROM (SELECT d.step, d.event, d.user_count,
				   d.user_count::numeric / nullif(lag(d.user_count) OVER (ORDER BY d.step), 0) AS rate
			  FROM ecstats.daily_funnel d
			 WHERE d.day = at_day) f
	$$;
COMMENT ON FUNCTION ecstats.report_funnel(date) IS
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
-- sql/45_report.sql
-- Rules of templates and reports, the facts of a report, and the message made of them. Rendering and
-- checking a template is C (24); queueing the message is the pipeline's (50).

-- While pg_dump's output is loaded a restored row replaces the shipped row of its key. pg_dump turns
-- check_function_bodies off, which is how it is told; anybody may do that, so nothing else depends on it.

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
	ELSIF current_setting('check_function_bodies') = 'off' THEN
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
		IF current_setting('check_function_bodies') = 'off' THEN
			DELETE FROM ecstats.reports r WHERE r.name = NEW.name;
		END IF;
	ELSIF NEW.owner IS DISTINCT FROM OLD.owner AND NOT is_super THEN
		RAISE EXCEPTION 'permission denied to change the owner of report "%"', OLD.name
			USING ERRCODE = 'insufficient_privilege', HINT = 'A superuser may set another owner.';
	END IF;

	IF NEW.dataset IN ('weekly', 'monthly', 'activity', 'custom') THEN
		RAISE EXCEPTION 'reports of dataset "%" are not supported yet', NEW.dataset
			USING ERRCODE = 'feature_not_supported', COLUMN = 'dataset', HINT = 'Use dataset daily.';
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

-- report_data: what a template and a condition see of one closed day.
--   report: name in ecstats.reports; day: a closed business day.
-- Result: a JSON object (interface: "Template and report"; members in doc/report.md).
-- Errors: 42704 unknown report, P0002 no stored row of the day, 22004 an argument is NULL.
-- Reads: reports, config, daily_kpi, daily_sales, daily_funnel, restatements, targets.
CREATE FUNCTION ecstats.report_data(report text, day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	definition ecstats.reports;
	zone text := (SELECT c.timezone FROM ecstats.config c);
	iso text := to_char(day, 'YYYY-MM-DD');		-- whatever DateStyle is
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
	facts := ecstats.report_kpi(day, zone);
	IF facts IS NULL THEN
		RAISE EXCEPTION 'there are no figures of % yet', iso
			USING ERRCODE = 'no_data_found', DETAIL = 'ecstats.daily_kpi has no row of this day.',
				  HINT = format('SELECT ecstats_daily(%L) closes an ended day.', iso);
	END IF;
	yesterday := ecstats.report_kpi(day - 1, zone);
	last_week := ecstats.report_kpi(day - 7, zone);
	last_year := ecstats.report_kpi((day - interval '1 year')::date, zone);

	restated := ecstats.report_restated(day, zone);
	products := ecstats.report_products(day, day - 1, (facts -> 'gmv')::numeric);

	RETURN facts
		|| ecstats.report_split(day, day - 1, (facts -> 'gmv')::numeric)
		|| ecstats.report_targets(day)
		|| jsonb_build_object(
			'top_products', products, 'has_sales', products <> '[]',
			'report', definition.name,
			'report_id', format('%s:%s', definition.name, iso),
			'dataset', definition.dataset,
			'weekday', to_char(day, 'FMDay'),
			'weekday_cn', '周' || substr('一二三四五六日', extract(isodow FROM day)::int, 1),
			'day_cn', to_char(day, 'FMMM"月"FMDD"日"'),
			'currency', (SELECT c.currency FROM ecstats.config c),
			'data_as_of', coalesce(restated -> 'at', facts -> 'closed_at'),
			'previous', yesterday, 'last_week', last_week, 'last_year', last_year,
			'dod', ecstats.report_change(facts, yesterday),
			'wow', ecstats.report_change(facts, last_week),
			'yoy', ecstats.report_change(facts, last_year),
			'dod_points', ecstats.report_points(facts, yesterday),
			'wow_points', ecstats.report_points(facts, last_week),
			'yoy_points', ecstats.report_points(facts, last_year),
			'funnel', ecstats.report_funnel(day),
			'restated', restated,
			'levels', '[]'::jsonb, 'alerts', '[]'::jsonb);
END
$$;
COMMENT ON FUNCTION ecstats.report_data(text, date) IS
	'facts of a closed day as JSON for a report''s template and condition; internal twin of ecstats_report_data';

-- ecstats_report_data(report, day): the JSON that a report's template and condition see.
--   report: name in ecstats.reports; day: a closed business day.
-- Result: one object: figures of the day, comparisons, splits, funnel, targets (doc/report.md).
-- Errors: 42704 unknown report, P0002 day without figures, 22004 NULL. Reads rollups, writes nothing.
CREATE FUNCTION @extschema@.ecstats_report_data(report text, day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$ SELECT ecstats.report_data(report, day) $$;
COMMENT ON FUNCTION @extschema@.ecstats_report_data(text, date) IS
	'What a template sees. Arguments: report name, closed business day. Result: JSON object of exact, unrounded numbers. Errors: 42704 unknown report, P0002 day without figures, 22004 NULL argument';
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
--   report: name in ecstats.reports; day: a closed business day.
-- Result: one row. The message is rendered also where it would not be sent, for previews; reason is
--   NULL exactly where would_send is true.
-- Errors: those of report_data; 42704 the template does not exist; 55000 no version of it is active.
-- Reads: reports, templates, rollups. Writes nothing.
CREATE FUNCTION ecstats.report_message(report text, day date)
	RETURNS TABLE (would_send boolean, reason text, template_version int, message jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	facts jsonb := ecstats.report_data(report, day);
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
					  HINT = format('UPDATE ecstats.templates SET active = true WHERE name = %L AND version = …;',
									definition.template);
		END IF;
		RAISE EXCEPTION 'template "%" of report "%" does not exist', definition.template, definition.name
			USING ERRCODE = 'undefined_object',
				  HINT = 'INSERT it into ecstats.templates, or set another one in ecstats.reports.';
	END IF;
	message := ecstats.template_render(body, facts);

	SELECT c.holds, c.reason INTO would_send, reason
	  FROM ecstats.report_condition(definition.condition, facts) c;
	IF NOT definition.enabled THEN
		would_send := false;
		reason := 'report is disabled';
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.report_message(text, date) IS
	'rendered neutral or native message of a report for a closed day, whether it would be sent, and why not';

-- report_status: what keeps reports from going out, for ecstats_status().
-- Result: one row a finding, or one row ok. Reads: reports, templates, channels.
CREATE FUNCTION ecstats.report_status()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH enabled AS (
		SELECT r.name, r.template, r.channels FROM ecstats.reports r WHERE r.enabled
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
	)
	SELECT 'reports', f.status, f.detail, f.hint
	  FROM (SELECT ord, name, status, detail, hint FROM findings
			UNION ALL
			SELECT 3, NULL, 'ok',
				   format('%s enabled, %s with a channel', count(*), count(*) FILTER (WHERE cardinality(e.channels) > 0)),
				   CASE WHEN bool_and(cardinality(e.channels) = 0)
						THEN format('nothing is sent yet: UPDATE ecstats.reports SET channels = ''{my-channel}'' WHERE name = %L',
									min(e.name)) END
			  FROM enabled e
			HAVING NOT EXISTS (SELECT FROM findings)) f
	 ORDER BY f.ord, f.name
	$$;
COMMENT ON FUNCTION ecstats.report_status() IS
	'reports whose template or channels are missing, one row each; one row ok where all is there';
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


-- ecstats_daily: closes a business day.
-- First closes, in order, every ended day before it that has data and is not closed, and computes every
-- closed day whose rows changed since. Its reports are queued at its first close.
-- Arguments: day (default: yesterday). Result: its row of ecstats.daily_kpi. Errors: 22023 for a day that has
-- not ended. Touches the rollup tables, and the deliveries of its reports.
CREATE FUNCTION @extschema@.ecstats_daily(day date DEFAULT @extschema@.ecstats_day() - 1) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	at timestamptz := clock_timestamp();
	due date[];
	d date;
	first boolean;
	result ecstats.daily_kpi;
BEGIN
	PERFORM ecstats.day_must_have_ended(day, at);
	PERFORM ecstats.rollup_lock();

	due := array(SELECT ecstats.rollup_open_days(day)
				 UNION SELECT ecstats.rollup_stale_days()
				 UNION SELECT day WHERE NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = ecstats_daily.day)
				 ORDER BY 1);
	FOREACH d IN ARRAY due LOOP
		first := ecstats.rollup_close(d, at);
		IF first AND d = day THEN
			PERFORM ecstats.pipeline_queue_reports(d);
		END IF;
	END LOOP;

	-- Becoming complete is no revision.
	UPDATE ecstats.daily_kpi k SET complete = true WHERE NOT k.complete AND ecstats.rollup_complete(k.day, at);

	SELECT * INTO STRICT result FROM ecstats.daily_kpi k WHERE k.day = ecstats_daily.day;
	RETURN result;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_daily(date) IS
	'Closes a business day (default yesterday) after every earlier one that is open and has data, computes again what changed, queues its reports at the first close; returns its row. 22023 for a day that has not ended.';

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
		RAISE EXCEPTION 'business day % has not ended', day
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('It ends at %s.', ecstats.day_start(day + 1)),
				  HINT = 'SELECT * FROM ecstats_today() computes the running day and writes nothing.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.day_must_have_ended(date, timestamptz) IS '22023 unless the business day is over at an instant.';

-- ecstats_today: the running business day so far.
-- Result: a row like those of ecstats.daily_kpi, revision 0, not complete. Writes nothing.
CREATE FUNCTION @extschema@.ecstats_today() RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	today date := ecstats.day_of(clock_timestamp());
	k ecstats.daily_kpi;
	open_days date[];
BEGIN
	k := ecstats.rollup_figures(today, ecstats.day_start(today), ecstats.day_start(today + 1));
	-- Days that have ended and are not closed yet know their users only as raw rows.
	open_days := array(SELECT ecstats.rollup_open_days(today));
	k.new_user_count := (
		SELECT count(*)
		  FROM (SELECT u.name FROM ecstats.rollup_scan_events(ecstats.day_start(today), ecstats.day_start(today + 1), '{}', '{}', true) u
				 WHERE u.kind = 'u'
				EXCEPT
				SELECT u.name FROM unnest(open_days) d
				 CROSS JOIN LATERAL ecstats.rollup_scan_events(ecstats.day_start(d), ecstats.day_start(d + 1), '{}', '{}', true) u
				 WHERE u.kind = 'u') new
		 WHERE NOT EXISTS (SELECT FROM ecstats.first_seen f WHERE f.user_id = new.name AND f.day < today));
	RETURN k;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_today() IS
	'Figures of the running business day so far, as a row of daily_kpi with revision 0; writes nothing.';

-- sql/51_maintain.sql

-- sql/60_status.sql

-- sql/90_grants.sql

-- sql/91_dump.sql

