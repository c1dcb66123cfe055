-- sql/43_rollup_partition.sql
-- Whether what a closed day was counted from is still there: partitions are anybody's to detach and to drop.

-- ecstats.rollup_partition_own: the day has its partition, attached, and it is the one that the day was counted from.
CREATE OR REPLACE FUNCTION ecstats.rollup_partition_own(the_day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.day_partition_exists(the_day) AND NOT EXISTS (
		SELECT FROM ecstats.day_partitions p
		 WHERE p.day = the_day AND p.partition <> to_regclass('ecstats.' || ecstats.day_partition_name(the_day))) $$;
COMMENT ON FUNCTION ecstats.rollup_partition_own(date) IS
	'True where a business day has its partition attached, and not another one of that name than it was counted from.';

-- ecstats.rollup_partition_lost: the partition of a day that had one is no more. By its number where that is known
-- (a new one has its name, or somebody renamed it), else by its name.
CREATE OR REPLACE FUNCTION ecstats.rollup_partition_lost(the_day date) RETURNS boolean
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce((SELECT NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.partition) FROM ecstats.day_partitions p WHERE p.day = the_day),
					NOT ecstats.day_partition_taken(the_day)) $$;
COMMENT ON FUNCTION ecstats.rollup_partition_lost(date) IS 'True where the partition that a business day was counted from does not exist any more.';

-- ecstats.rollup_partition_note: notes the partitions of a range of closed days, those too that were closed out of
-- the default partition and have got their own since.
CREATE OR REPLACE FUNCTION ecstats.rollup_partition_note(from_day date, to_day date) RETURNS void
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
CREATE OR REPLACE FUNCTION ecstats.rollup_partitioned() RETURNS void
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
CREATE OR REPLACE FUNCTION ecstats.rollup_late_events() RETURNS SETOF date
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
