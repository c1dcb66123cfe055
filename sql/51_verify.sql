-- sql/51_verify.sql
-- The proof of a range of days.

-- ecstats.rollup_stored_days: days of a range of which anything is stored, by hops along the keys.
CREATE OR REPLACE FUNCTION ecstats.rollup_stored_days(from_day date, to_day date) RETURNS SETOF date
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
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_notice(what text, days date[], cure text) RETURNS void
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
CREATE OR REPLACE FUNCTION @extschema@.ecstats_verify(from_day date DEFAULT NULL, to_day date DEFAULT NULL)
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

