-- sql/51_rebuild.sql
-- Computing stored days anew from raw rows, for years of them: a transaction a day.

-- ecstats.rollup_raw_gone: days of a range whose raw rows are not there any more, or not all of them: dropped by
-- retention or by somebody, or in a partition that is detached.
CREATE OR REPLACE FUNCTION ecstats.rollup_raw_gone(from_day date, to_day date) RETURNS SETOF date
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.day FROM ecstats.day_state s
	 WHERE s.day BETWEEN from_day AND to_day
	   AND (s.frozen OR s.orders_dropped OR s.events_dropped OR s.partitioned AND NOT ecstats.rollup_partition_own(s.day))
	 ORDER BY s.day $$;
COMMENT ON FUNCTION ecstats.rollup_raw_gone(date, date) IS 'Closed days of a range that cannot be computed anew: raw rows dropped, or their partition detached.';

-- ecstats.rollup_rebuild_refuse: 55000 where a day of the range has lost its raw rows.
CREATE OR REPLACE FUNCTION ecstats.rollup_rebuild_refuse(from_day date, to_day date) RETURNS void
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
CREATE OR REPLACE FUNCTION ecstats.rollup_rebuild_days(from_day date, to_day date) RETURNS SETOF date
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
CREATE OR REPLACE FUNCTION ecstats.rollup_rebuild_day(the_day date, OUT first boolean, OUT revision integer, OUT changed boolean)
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
CREATE OR REPLACE FUNCTION ecstats.rollup_rebuild_settle() RETURNS void
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
CREATE OR REPLACE PROCEDURE @extschema@.ecstats_rebuild(from_day date, to_day date)
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
CREATE OR REPLACE FUNCTION ecstats.rollup_first_seen_anew() RETURNS bigint
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
