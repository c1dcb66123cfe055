-- sql/54_maintain.sql
-- House-keeping, hourly: partitions ahead, strays to their days, what is past retention.

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

-- ecstats.maintain_days: days that want a partition: 7 back to 7 ahead but for those dropped by retention, and
-- those with strays. Not those whose name another table has, as a partition does that somebody detached: their
-- rows wait in the default partition, ecstats_status says so.
CREATE OR REPLACE FUNCTION ecstats.maintain_days(at timestamptz) RETURNS SETOF date
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT d FROM (SELECT ecstats.day_of(at) + i FROM generate_series(-7, 7) AS i
					WHERE NOT EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(at) + i AND s.events_dropped)
				   UNION SELECT ecstats.event_stray_days()) w(d)
	 WHERE NOT ecstats.day_partition_taken(d) ORDER BY d $$;
COMMENT ON FUNCTION ecstats.maintain_days(timestamptz) IS 'Business days that should have a partition and can get one.';

-- ecstats.maintain_lost: a stored day whose partition somebody dropped keeps what was counted from it, also once
-- late rows give it a new one. False where a lock was busy: then no partition is made.
CREATE OR REPLACE FUNCTION ecstats.maintain_lost() RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.maintain_droppable(at timestamptz, only_day date DEFAULT NULL)
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
CREATE OR REPLACE FUNCTION ecstats.maintain_drop(the_day date, at timestamptz) RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.maintain_drop_lines(from_time timestamptz, to_time timestamptz) RETURNS void
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
CREATE OR REPLACE PROCEDURE @extschema@.ecstats_maintain()
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

