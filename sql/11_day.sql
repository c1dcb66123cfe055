-- sql/11_day.sql
-- The business day, and the note of days whose raw rows changed.

-- ecstats_day: the business day that an instant belongs to, by the shop's clock (config.timezone,
-- config.day_starts_at). The only place that decides this.
-- Arguments: ts, an instant (now() if left out). Result: a date. Errors: 22008 for infinity.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_day(ts timestamptz DEFAULT now()) RETURNS date
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_day_of_instant';
COMMENT ON FUNCTION @extschema@.ecstats_day(timestamptz) IS
	'Business day of an instant (default now()) by config.timezone and config.day_starts_at. 22008 for infinity.';

CREATE OR REPLACE FUNCTION ecstats.day_of(ts timestamptz) RETURNS date
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_day_of_instant';
COMMENT ON FUNCTION ecstats.day_of(timestamptz) IS 'What ecstats_day answers, for internal use.';

CREATE OR REPLACE FUNCTION ecstats.day_start(day date) RETURNS timestamptz
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_day_start_of';
COMMENT ON FUNCTION ecstats.day_start(date) IS
	'First instant of a business day, which lasts until day_start(day + 1). A start that a change of clocks skips is the first instant after the gap. 22008 for infinity.';

-- Partitions are named by their day. (ecstats.events comes later: it is looked up by name.)
CREATE OR REPLACE FUNCTION ecstats.day_partition_name(day date) RETURNS name
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
	$$ SELECT ('events_' || pg_catalog.to_char(day::timestamp, 'YYYYMMDD'))::pg_catalog.name $$;
COMMENT ON FUNCTION ecstats.day_partition_name(date) IS 'Name of the partition of a business day, in schema ecstats.';

CREATE OR REPLACE FUNCTION ecstats.day_partition_exists(day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
	$$ SELECT EXISTS (SELECT FROM pg_catalog.pg_inherits i
					   WHERE i.inhrelid = pg_catalog.to_regclass('ecstats.' || ecstats.day_partition_name(day))
						 AND i.inhparent = pg_catalog.to_regclass('ecstats.events')) $$;
COMMENT ON FUNCTION ecstats.day_partition_exists(date) IS 'True where the business day has its partition, attached.';

-- ecstats.day_partition_taken: the name is in use, be it by a partition that was detached.
CREATE OR REPLACE FUNCTION ecstats.day_partition_taken(day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
	$$ SELECT pg_catalog.to_regclass('ecstats.' || ecstats.day_partition_name(day)) IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.day_partition_taken(date) IS 'True where a table has the name of the business day''s partition, attached or not.';

CREATE OR REPLACE FUNCTION ecstats.day_noted() RETURNS SETOF date
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

CREATE OR REPLACE FUNCTION ecstats.row_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_row_changed';
COMMENT ON FUNCTION ecstats.row_changed() IS
	'Trigger after DELETE or UPDATE of a raw row: notes the days of its old content. Arguments: the timestamptz columns that decide them.';

-- What looks before and after it locks, or asks who is under way, must not have a snapshot from before.
CREATE OR REPLACE FUNCTION ecstats.must_be_read_committed(what text) RETURNS void
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

CREATE OR REPLACE FUNCTION ecstats.guard_wanted() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'ecstats_guard_wanted';
COMMENT ON FUNCTION ecstats.guard_wanted() IS
	'Statement trigger: from the commit on, DROP EXTENSION ecstats needs CASCADE.';

-- TRUNCATE does not say what was there: every day that is stored is computed again.
CREATE OR REPLACE FUNCTION ecstats.rows_truncated() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.day_marks (day) SELECT k.day FROM ecstats.daily_kpi k EXCEPT SELECT m.day FROM ecstats.day_marks m;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.rows_truncated() IS 'Trigger after TRUNCATE of raw rows: marks every stored day.';

