-- sql/10_config.sql
-- Settings: one typed row. And the two helpers that every table with shipped rows uses.

-- Whether a dump is being restored (or the extension created): pg_dump's scripts switch check_function_bodies
-- off. Anybody may: only a session that began as superuser is believed. Written out wherever it is asked,
-- because these triggers run as the writer, who need not be allowed any function.

-- A restore loads rows over those that CREATE EXTENSION ships: the restored row replaces the one of
-- its key.
-- Trigger arguments: the key's columns.
CREATE OR REPLACE FUNCTION ecstats.restore_replace() RETURNS trigger
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
CREATE OR REPLACE FUNCTION ecstats.restore_clear() RETURNS trigger
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

CREATE OR REPLACE FUNCTION ecstats.timezone_valid(name text) RETURNS boolean
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

CREATE OR REPLACE FUNCTION ecstats.config_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_config_changed';
COMMENT ON FUNCTION ecstats.config_changed() IS
	'Trigger on ecstats.config: every backend reads the settings again at its next use.';

CREATE OR REPLACE FUNCTION ecstats.config_keep() RETURNS trigger
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

