-- sql/41_event_partition.sql
-- One partition a business day: made ahead, by ecstats_track for recent days, by ecstats_prepare before
-- a back-fill. Rows of a day without one wait in the default partition.

-- The new table stands apart until it is attached: CREATE … PARTITION OF would lock all writers out.
CREATE OR REPLACE FUNCTION ecstats.event_partition_create(day date) RETURNS void
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

CREATE OR REPLACE FUNCTION ecstats.event_partition_attach(day date) RETURNS void
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
CREATE OR REPLACE FUNCTION ecstats.event_partition_try(day date) RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.event_partition_make(day date) RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.event_day_apart(day date) RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.event_partitions_dissolve() RETURNS void
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
CREATE OR REPLACE FUNCTION ecstats.event_stray_days() RETURNS SETOF date
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
CREATE OR REPLACE FUNCTION ecstats.event_partitions_lock(from_day date, to_day date) RETURNS void
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
CREATE OR REPLACE FUNCTION @extschema@.ecstats_prepare(from_day date, to_day date) RETURNS integer
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

