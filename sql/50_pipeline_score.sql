-- sql/50_pipeline_score.sql
-- Scoring: from the stored days, and from what users bought, to a row a user. Part of each close.

-- ecstats.pipeline_score_span: days that one pass looks at.
CREATE OR REPLACE FUNCTION ecstats.pipeline_score_span() RETURNS integer
	LANGUAGE sql IMMUTABLE AS $$ SELECT 380 $$;		-- the longest window, and the days before it whose levels are asked for
COMMENT ON FUNCTION ecstats.pipeline_score_span() IS 'Days that one pass over stored days looks at, at most.';

-- ecstats.pipeline_score_old: days that are too old to count in a score: who was there, and when last. After a back-fill
-- of years, or where such days were computed again.
CREATE OR REPLACE FUNCTION ecstats.pipeline_score_old(as_of date, from_day date, to_day date) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	span CONSTANT integer := ecstats.pipeline_score_span();
	part_begin date := greatest(from_day, (SELECT min(k.day) FROM ecstats.daily_kpi k));
	part_end date;
BEGIN
	WHILE part_begin <= to_day LOOP
		part_end := least(part_begin + span - 1, to_day);
		INSERT INTO ecstats.user_activity AS a (user_id, as_of, last_active_day, first_seen)
		SELECT s.user_id, pipeline_score_old.as_of, s.last_active_day, s.first_seen
		  FROM ecstats.score_scan(part_end, part_begin, 1, 1, '{}', '{NULL,NULL}', '{NULL,NULL}') s WHERE s.in_range
		ON CONFLICT (user_id) DO UPDATE SET as_of = excluded.as_of, first_seen = excluded.first_seen,
			   last_active_day = greatest(a.last_active_day, excluded.last_active_day)
		 WHERE a.last_active_day IS NULL OR a.last_active_day < excluded.last_active_day OR a.first_seen IS DISTINCT FROM excluded.first_seen;
		-- Of those whose last day it was, that day may be gone. Each row is the last thing that is known of a user.
		UPDATE ecstats.user_activity a
		   SET as_of = pipeline_score_old.as_of, last_active_day = l.last_day, first_seen = l.first_day
		  FROM (SELECT u.user_id, e.last_day, e.first_day FROM ecstats.user_activity u
				  LEFT JOIN ecstats.score_scan(part_end, part_begin, 1, 1, '{}', '{NULL,NULL}', '{NULL,NULL}') s ON s.user_id = u.user_id AND s.in_range
				 CROSS JOIN LATERAL (SELECT max(x.day) AS last_day, min(x.day) AS first_day FROM ecstats.user_events(u.user_id) x) e
				 WHERE u.last_active_day BETWEEN part_begin AND part_end AND s.user_id IS NULL) l
		 WHERE a.user_id = l.user_id;
		PERFORM ecstats.activity_put_cohorts(part_begin, part_end);
		part_begin := part_end + 1;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score_old(date, date, date) IS 'Brings last and first days of users, and cohorts, to stored days that are too old to count in a score.';

-- ecstats.pipeline_score_users: a row a user as of a day, where something in it differs: of everybody with an event since a
-- day, of every buyer, whenever that was, and of everybody who has a row. Result: how many users there are.
CREATE OR REPLACE FUNCTION ecstats.pipeline_score_users(the_day date, since date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET enable_mergejoin = off SET jit = off SET work_mem = '128MB' AS $$
DECLARE
	seen_from date := least(since, the_day - (SELECT c.score_window_days FROM ecstats.config c) - 13);	-- what the scan reads
BEGIN
	INSERT INTO ecstats.user_activity AS u (user_id, as_of, score, previous_score, level, previous_level, last_active_day, active_days,
		first_seen, last_high_day, order_count, paid_amount, last_order_day, favourite_channel, favourite_region)
	SELECT n.user_id, the_day, n.score, n.previous_score, n.level, n.previous_level, n.last_active_day, n.active_days,
		   n.first_seen, n.last_high_day, n.order_count, n.paid_amount, n.last_order_day, n.favourite_channel, n.favourite_region
	  FROM (SELECT coalesce(s.user_id, a.user_id, b.user_id) AS user_id,
				   coalesce(s.score, 0) AS score, coalesce(s.previous_score, 0) AS previous_score,
				   coalesce(s.level, 'low') AS level, coalesce(s.previous_level, 'low') AS previous_level,
				   coalesce(s.active_days, 0) AS active_days, s.last_high_day,
				   -- Somebody of whom the scan should have seen an event and has not: it was deleted.
				   CASE WHEN s.user_id IS NOT NULL THEN s.last_active_day
						WHEN a.last_active_day < seen_from THEN a.last_active_day
						WHEN a.last_active_day IS NOT NULL THEN (SELECT max(x.day) FROM ecstats.user_events(a.user_id, '-infinity', the_day) x) END AS last_active_day,
				   CASE WHEN s.user_id IS NOT NULL THEN s.first_seen
						WHEN a.last_active_day < seen_from THEN a.first_seen
						WHEN a.last_active_day IS NOT NULL THEN (SELECT min(x.day) FROM ecstats.user_events(a.user_id, '-infinity', the_day) x) END AS first_seen,
				   coalesce(b.order_count, 0) AS order_count, coalesce(b.paid_amount, 0) AS paid_amount,
				   b.last_order_day, b.favourite_channel, b.favourite_region,
				   a.user_id AS had, a.score AS had_score, a.previous_score AS had_previous_score, a.level AS had_level,
				   a.previous_level AS had_previous_level, a.last_active_day AS had_last_active_day, a.active_days AS had_active_days,
				   a.first_seen AS had_first_seen, a.last_high_day AS had_last_high_day, a.order_count AS had_order_count,
				   a.paid_amount AS had_paid_amount, a.last_order_day AS had_last_order_day,
				   a.favourite_channel AS had_favourite_channel, a.favourite_region AS had_favourite_region
			  FROM ecstats.activity_scan(the_day, since) s
			  FULL JOIN ecstats.user_activity a ON a.user_id = s.user_id COLLATE "C"
			  FULL JOIN ecstats.rollup_buyers_at(the_day) b ON b.user_id = coalesce(s.user_id, a.user_id) COLLATE "C"
			 WHERE a.user_id IS NOT NULL OR s.in_range OR b.last_order_day IS NOT NULL) n
	 WHERE n.had IS NULL OR n.score <> n.had_score OR n.previous_score <> n.had_previous_score OR n.level <> n.had_level
		OR n.previous_level <> n.had_previous_level OR n.active_days <> n.had_active_days
		OR n.order_count <> n.had_order_count OR n.paid_amount <> n.had_paid_amount
		OR (n.last_active_day, n.first_seen, n.last_high_day, n.last_order_day, n.favourite_channel, n.favourite_region)
		   IS DISTINCT FROM (n.had_last_active_day, n.had_first_seen, n.had_last_high_day, n.had_last_order_day, n.had_favourite_channel, n.had_favourite_region)
	ON CONFLICT (user_id) DO UPDATE
	   SET as_of = excluded.as_of, score = excluded.score, previous_score = excluded.previous_score, level = excluded.level,
		   previous_level = excluded.previous_level, last_active_day = excluded.last_active_day, active_days = excluded.active_days,
		   first_seen = excluded.first_seen, last_high_day = excluded.last_high_day, order_count = excluded.order_count,
		   paid_amount = excluded.paid_amount, last_order_day = excluded.last_order_day,
		   favourite_channel = excluded.favourite_channel, favourite_region = excluded.favourite_region;
	RETURN (SELECT count(*) FROM ecstats.user_activity);
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score_users(date, date) IS
	'Brings ecstats.user_activity to a day, touching only rows that differ; returns how many users there are.';

-- ecstats.pipeline_score_write: all that follows from the users of stored days, as of one of them: scores, profiles,
-- quintiles, cohorts, tags. since: the first day whose users may have changed. Under ecstats.rollup_lock. Result: users scored.
CREATE OR REPLACE FUNCTION ecstats.pipeline_score_write(the_day date, since date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	near date := greatest(since, the_day - ecstats.pipeline_score_span() + 1);
	users bigint;
BEGIN
	PERFORM ecstats.pipeline_score_old(the_day, since, near - 1);
	users := ecstats.pipeline_score_users(the_day, near);
	PERFORM ecstats.activity_put_state(the_day, clock_timestamp(), users);
	PERFORM ecstats.activity_put_cohorts(near, the_day);
	PERFORM ecstats.tag_write(the_day);
	RETURN users;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score_write(date, date) IS
	'Writes scores, profiles, quintiles, cohorts and tags as of a stored day, whose users and those of the days from since on may have changed; returns how many users there are.';

-- ecstats.pipeline_score: scoring as a part of a close. changed: days whose users may have changed. What fails here is told
-- and does not stop the close: the scores stay as they were, and the next run makes up for it.
CREATE OR REPLACE FUNCTION ecstats.pipeline_score(the_day date, changed date[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state ecstats.activity_state;
	since date;
BEGIN
	INSERT INTO ecstats.activity_state DEFAULT VALUES ON CONFLICT DO NOTHING;	-- somebody has deleted it
	SELECT * INTO STRICT state FROM ecstats.activity_state;
	IF changed = '{}' AND state.stale_from IS NULL AND state.as_of >= the_day THEN
		RETURN;
	END IF;
	the_day := greatest(the_day, state.as_of);
	since := least((SELECT min(c) FROM unnest(changed) c), state.stale_from, ecstats.pipeline_score_since(the_day));
	BEGIN
		PERFORM ecstats.pipeline_score_write(the_day, since);
	EXCEPTION WHEN OTHERS THEN
		PERFORM ecstats.activity_stale(since);
		PERFORM ecstats.delivery_tell_operators('score', the_day::text, format('Users were not scored as of %s', the_day),
			format('%s: %s. The figures of the day are stored; the next close tries again, and SELECT ecstats_score(%L) does.', SQLSTATE, SQLERRM, the_day));
		RAISE WARNING 'users were not scored as of %: %', the_day, SQLERRM
			USING HINT = format('SELECT ecstats_score(%L) tries again.', the_day);
	END;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_score(date, date[]) IS
	'Scores users as of a closed day, or of the latest day that was scored; a failure is told to the operators and warned of, never raised.';

-- ecstats.pipeline_score_since: the first day of the window of a score.
CREATE OR REPLACE FUNCTION ecstats.pipeline_score_since(as_of date) RETURNS date
	LANGUAGE sql STABLE AS $$ SELECT as_of OPERATOR(pg_catalog.-) (c.score_window_days OPERATOR(pg_catalog.-) 1) FROM ecstats.config c $$;
COMMENT ON FUNCTION ecstats.pipeline_score_since(date) IS 'First day that counts in the score of a day.';

-- ecstats_score: scores users as of a closed day and writes ecstats.user_activity, cohorts and tags.
-- Argument: as_of (default: yesterday), not earlier than the last one. Result: how many users there are. A run that
-- finds nothing changed writes nothing. Errors: 22023 a day that has not ended, or before the last one; 55000 a day that is
-- not closed; 25000 unless READ COMMITTED; 53200 more users than config.rollup_memory has room for.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_score(as_of date DEFAULT @extschema@.ecstats_day() - 1) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state ecstats.activity_state;
BEGIN
	PERFORM ecstats.day_must_have_ended(as_of, clock_timestamp());
	PERFORM ecstats.must_be_read_committed('ecstats_score scores users');
	PERFORM ecstats.rollup_lock();
	INSERT INTO ecstats.activity_state DEFAULT VALUES ON CONFLICT DO NOTHING;	-- somebody has deleted it
	SELECT * INTO STRICT state FROM ecstats.activity_state;
	IF as_of < state.as_of THEN
		RAISE EXCEPTION 'users are scored as of a later day already'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Asked for %s, stored is %s.', as_of, state.as_of),
				  HINT = format('SELECT * FROM ecstats_scores(%L) computes the scores of any day and writes nothing.', as_of);
	END IF;
	IF NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = as_of) THEN
		RAISE EXCEPTION 'the business day is not closed'
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('Day: %s.', as_of),
				  HINT = format('SELECT ecstats_daily(%L) closes it, and scores users.', as_of);
	END IF;
	RETURN ecstats.pipeline_score_write(as_of, least(state.stale_from, ecstats.pipeline_score_since(as_of)));
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_score(date) IS
	'Scores users as of a closed day (default yesterday), writes ecstats.user_activity, cohorts and tags where something changed, returns how many users there are. 22023 a day that has not ended or before the last one, 55000 not closed, 25000 unless READ COMMITTED.';

-- ecstats_scores: the score of each user as of any day, from stored days. Writes nothing.
-- Argument: as_of. Result: users with an event in its window, and, with 0, all others of ecstats.user_activity. Errors: 22023.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_scores(as_of date) RETURNS TABLE (user_id text, score double precision)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET jit = off SET work_mem = '64MB' ROWS 100000 AS $$
BEGIN
	IF as_of IS NULL OR NOT isfinite(as_of) THEN
		RAISE EXCEPTION 'no such business day'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Day: %s.', coalesce(as_of::text, 'NULL')), HINT = 'Give a date.';
	END IF;
	RETURN QUERY
	SELECT coalesce(s.user_id, a.user_id), coalesce(s.score, 0)
	  FROM (SELECT * FROM ecstats.activity_scan(as_of, ecstats.pipeline_score_since(as_of)) x WHERE x.in_range) s
	  FULL JOIN ecstats.user_activity a ON a.user_id = s.user_id COLLATE "C";
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_scores(date) IS
	'Activity score of each user as of any day, from stored days; writes nothing. Users of ecstats.user_activity without an event in the window have 0. 22023 no date.';

-- ecstats_explain_score: what a user's score is made of.
-- Arguments: user_id; as_of. Result: a row for each day and event of the window: points = event_count x weight x decay, and
-- they sum to the score. Errors: 22004 NULL; P0002 a user without an event or an order. Writes nothing.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_explain_score(user_id text, as_of date DEFAULT @extschema@.ecstats_day() - 1)
	RETURNS TABLE (day date, event text, event_count bigint, weight numeric, decay double precision, points double precision)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 20 AS $$
DECLARE
	half_life double precision := (SELECT c.score_half_life_days FROM ecstats.config c);
BEGIN
	IF user_id IS NULL OR as_of IS NULL OR NOT isfinite(as_of) THEN
		RAISE EXCEPTION 'a user and a day are needed'
			USING ERRCODE = 'null_value_not_allowed', DETAIL = format('user_id is %s, as_of %s.', CASE WHEN user_id IS NULL THEN 'NULL' ELSE 'given' END, coalesce(as_of::text, 'NULL')),
				  HINT = 'SELECT * FROM ecstats_explain_score(user_id, day).';
	END IF;
	IF NOT EXISTS (SELECT FROM ecstats.user_activity a WHERE a.user_id = ecstats_explain_score.user_id COLLATE "C")
		AND NOT EXISTS (SELECT FROM ecstats.user_events(ecstats_explain_score.user_id)) THEN
		RAISE EXCEPTION 'there is no such user'
			USING ERRCODE = 'no_data_found', DETAIL = format('User: %L.', left(user_id, 60)),
				  HINT = 'Users are known from the first day that was closed with an event or an order of theirs.';
	END IF;
	RETURN QUERY
	SELECT e.day, e.event, e.event_count, w.weight, d.decay, (e.event_count * w.weight)::double precision * d.decay
	  FROM ecstats.user_events(ecstats_explain_score.user_id, ecstats.pipeline_score_since(as_of), as_of) e
	  LEFT JOIN ecstats.event_types t ON t.event = e.event COLLATE "C"
	 CROSS JOIN LATERAL (SELECT coalesce(t.weight, 0) AS weight) w
	 CROSS JOIN LATERAL (SELECT (as_of - e.day) / half_life AS halves) h
	 -- what is left of anything after that many is no number that a double has
	 CROSS JOIN LATERAL (SELECT CASE WHEN h.halves < 900 THEN 0.5::double precision ^ h.halves ELSE 0 END AS decay) d
	 ORDER BY e.day DESC, 6 DESC, e.event COLLATE "C";
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_explain_score(text, date) IS
	'What a user''s score as of a day is made of: days, events, counts, weights, decay and points, which sum to it. 22004 NULL, P0002 unknown user.';

