-- sql/43_rollup_close.sql
-- Closing and restating: which days are due, and the one place that writes daily_kpi.

-- ecstats.rollup_lock: one run at a time closes days; the others wait and then see what it did.
CREATE OR REPLACE FUNCTION ecstats.rollup_lock() RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- A table's lock, not an advisory one: those are anybody's to take.
	LOCK TABLE ecstats.day_state IN SHARE ROW EXCLUSIVE MODE;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_lock() IS 'Waits until no other transaction closes days; held until commit.';

-- ecstats.rollup_gaps: ranges of days before a day that are not stored.
CREATE OR REPLACE FUNCTION ecstats.rollup_gaps(before date, OUT from_day date, OUT to_day date) RETURNS SETOF record
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT g.from_day, g.to_day
	  FROM (SELECT lag(k.day + 1, 1, date '1999-12-30') OVER (ORDER BY k.day) AS from_day, least(k.day, before) AS to_day
			  FROM (SELECT d.day FROM ecstats.daily_kpi d UNION SELECT date '9999-01-01') k) g
	 WHERE g.from_day < g.to_day $$;
COMMENT ON FUNCTION ecstats.rollup_gaps(date) IS 'Ranges [from_day, to_day) of business days before a day that are not closed.';

-- ecstats.rollup_hop: the days of a range that have a row in one table, by hops along the index of a
-- timestamptz column.
CREATE OR REPLACE FUNCTION ecstats.rollup_hop(relation regclass, time_column name, from_day date, to_day date) RETURNS SETOF date
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
CREATE OR REPLACE FUNCTION ecstats.rollup_open_days(before date) RETURNS SETOF date
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
CREATE OR REPLACE FUNCTION ecstats.rollup_under_way() RETURNS xid[]
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(l.transactionid), '{}')
	  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	 WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
	   AND l.pid IS DISTINCT FROM pg_backend_pid()
	   AND a.backend_type IS DISTINCT FROM 'autovacuum worker'		-- it writes no rows of a day
	   AND coalesce(a.datname, current_database()) = current_database() $$;
COMMENT ON FUNCTION ecstats.rollup_under_way() IS 'Numbers of transactions that are under way or prepared, but for this one.';

-- ecstats.rollup_stale_days: closed days whose raw rows changed since they were computed.
CREATE OR REPLACE FUNCTION ecstats.rollup_stale_days() RETURNS SETOF date
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
CREATE OR REPLACE FUNCTION ecstats.rollup_complete(day date, at timestamptz) RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.rollup_put(kpi ecstats.daily_kpi, at timestamptz, gate boolean) RETURNS boolean
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
CREATE OR REPLACE FUNCTION ecstats.rollup_close(the_day date, at timestamptz, anew boolean DEFAULT false, OUT first boolean, OUT moved date[], OUT moved_users bigint[])
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
CREATE OR REPLACE FUNCTION ecstats.rollup_settle(at timestamptz) RETURNS void
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

