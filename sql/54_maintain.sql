-- sql/54_maintain.sql
-- House-keeping, hourly: partitions ahead, strays to their days, old logs.

-- ecstats.maintain_partition: one day's partition, without waiting long. False where a lock was busy.
CREATE OR REPLACE FUNCTION ecstats.maintain_partition(day date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
	RETURN ecstats.event_partition_make(day);
EXCEPTION WHEN lock_not_available OR deadlock_detected OR invalid_object_definition OR object_in_use THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION ecstats.maintain_partition(date) IS
	'Makes a day''s partition and moves its waiting rows, giving up after half a second of waiting for a lock.';

-- ecstats.maintain_days: days that want a partition: 7 back to 7 ahead, and those with strays.
CREATE OR REPLACE FUNCTION ecstats.maintain_days(at timestamptz) RETURNS SETOF date
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT d FROM (SELECT ecstats.day_of(at) + i FROM generate_series(-7, 7) AS i
				   UNION SELECT ecstats.event_stray_days()) w(d)
	 WHERE NOT ecstats.day_partition_exists(d) ORDER BY d $$;
COMMENT ON FUNCTION ecstats.maintain_days(timestamptz) IS 'Business days that should have a partition and have none.';

-- ecstats.maintain_prune: one bounded batch of what is older than config.log_retention. True while there is more.
CREATE OR REPLACE FUNCTION ecstats.maintain_prune(at timestamptz, max_rows integer) RETURNS boolean
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
	most := greatest(most, ecstats.job_prune(before, max_rows));
	n := ecstats.delivery_prune(before, max_rows);
	RETURN greatest(most, n) >= max_rows;
END
$$;
COMMENT ON FUNCTION ecstats.maintain_prune(timestamptz, integer) IS
	'Drops at most max_rows each of rejects, failures of reports, job runs and settled deliveries older than config.log_retention; true while there may be more.';

-- ecstats_maintain: makes partitions ahead, moves rows out of the default partition into their days', drops
-- logs past config.log_retention. Commits on the way, so that writers never wait long.
-- Called with CALL, outside a transaction block. Touches the partitions of ecstats.events and the logs.
CREATE OR REPLACE PROCEDURE @extschema@.ecstats_maintain()
	LANGUAGE plpgsql AS $$
DECLARE
	days pg_catalog.date[] := array(SELECT ecstats.maintain_days(pg_catalog.clock_timestamp()));
	d pg_catalog.date;
	more boolean := true;
	busy pg_catalog.int4 := 0;
BEGIN
	COMMIT;
	FOREACH d IN ARRAY days LOOP
		IF NOT ecstats.maintain_partition(d) AND NOT ecstats.day_partition_exists(d) THEN
			busy := busy + 1;
		END IF;
		COMMIT;
	END LOOP;
	WHILE more LOOP
		more := ecstats.maintain_prune(pg_catalog.clock_timestamp(), 10000);
		COMMIT;
	END LOOP;
	IF busy > 0 THEN
		RAISE NOTICE '% partitions could not be made now because a lock was busy; the next run tries again', busy;
	END IF;
END
$$;
COMMENT ON PROCEDURE @extschema@.ecstats_maintain() IS
	'Makes event partitions from 7 days back to 7 ahead, empties the default partition, drops logs past config.log_retention; commits on the way.';

