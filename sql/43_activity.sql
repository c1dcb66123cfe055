-- sql/43_activity.sql
-- Scores with the settings that hold, the limits of quintiles, cohorts.

-- ecstats.activity_weights: weights by event number, for the scan.
CREATE OR REPLACE FUNCTION ecstats.activity_weights() RETURNS numeric[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(t.weight ORDER BY i), '{}')
	  FROM generate_series(1, (SELECT max(m.event_no) FROM ecstats.event_names m)) i
	  LEFT JOIN ecstats.event_names n ON n.event_no = i LEFT JOIN ecstats.event_types t ON t.event = n.event $$;
COMMENT ON FUNCTION ecstats.activity_weights() IS 'Weights of ecstats.event_types by the numbers of ecstats.event_names, from 1; NULL for an event that weighs nothing.';

-- ecstats.activity_scan: ecstats.score_scan with the settings that hold.
CREATE OR REPLACE FUNCTION ecstats.activity_scan(as_of date, since date)
	RETURNS TABLE (user_id text, score float8, previous_score float8, level text, previous_level text, last_active_day date,
		active_days int, first_seen date, last_high_day date, in_range boolean)
	LANGUAGE sql STABLE ROWS 100000 AS $$
	SELECT s.* FROM (SELECT * FROM ecstats.config LIMIT 1) c CROSS JOIN LATERAL ecstats.score_scan(as_of, since, c.score_window_days, c.score_half_life_days::pg_catalog.float8,
		ecstats.activity_weights(),
		ARRAY[(SELECT l.top_share FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'high'),
			  (SELECT l.top_share FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'mid')],
		ARRAY[(SELECT l.min_score FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'high'),
			  (SELECT l.min_score FROM ecstats.activity_levels l WHERE l.level OPERATOR(pg_catalog.=) 'mid')]) s $$;
COMMENT ON FUNCTION ecstats.activity_scan(date, date) IS
	'Scores, levels and days of users as of a day with an event since another one, or in the last weeks before as_of, by the settings that hold. Errors: those of ecstats.score_scan.';

-- ecstats.activity_stale: users of a day changed, or of all days from it on: the next scoring has to look from there.
CREATE OR REPLACE FUNCTION ecstats.activity_stale(from_day date) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.activity_state s SET stale_from = from_day WHERE s.stale_from IS NULL OR s.stale_from > from_day $$;
COMMENT ON FUNCTION ecstats.activity_stale(date) IS 'Notes that users of a day changed since they were scored.';

-- ecstats.activity_quintiles: values at which quintiles 2 to 5 of a column of ecstats.user_activity begin, among users who
-- have ordered: a user is in quintile 1 + floor(5 x share of those with a lower value), so that equal values stay
-- together. Without those that nobody is in: they are the last ones.
CREATE OR REPLACE FUNCTION ecstats.activity_quintiles(OUT recency date[], OUT frequency bigint[], OUT monetary numeric[])
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' AS $$
	WITH b AS MATERIALIZED (
		SELECT a.last_order_day, a.order_count, a.paid_amount FROM ecstats.user_activity a WHERE a.last_order_day IS NOT NULL
	), n AS (SELECT count(*) AS users FROM b),
	r AS (SELECT v, sum(c) OVER (ORDER BY v) - c AS lower FROM (SELECT b.last_order_day AS v, count(*) AS c FROM b GROUP BY 1) x),
	f AS (SELECT v, sum(c) OVER (ORDER BY v) - c AS lower FROM (SELECT b.order_count AS v, count(*) AS c FROM b GROUP BY 1) x),
	m AS (SELECT b.paid_amount AS v, rank() OVER (ORDER BY b.paid_amount) - 1 AS lower FROM b)
	SELECT (SELECT array_remove(ARRAY[min(v) FILTER (WHERE 5 * lower >= users), min(v) FILTER (WHERE 5 * lower >= 2 * users),
						 min(v) FILTER (WHERE 5 * lower >= 3 * users), min(v) FILTER (WHERE 5 * lower >= 4 * users)], NULL) FROM r, n),
		   (SELECT array_remove(ARRAY[min(v) FILTER (WHERE 5 * lower >= users), min(v) FILTER (WHERE 5 * lower >= 2 * users),
						 min(v) FILTER (WHERE 5 * lower >= 3 * users), min(v) FILTER (WHERE 5 * lower >= 4 * users)], NULL) FROM f, n),
		   (SELECT array_remove(ARRAY[min(v) FILTER (WHERE 5 * lower >= users), min(v) FILTER (WHERE 5 * lower >= 2 * users),
						 min(v) FILTER (WHERE 5 * lower >= 3 * users), min(v) FILTER (WHERE 5 * lower >= 4 * users)], NULL) FROM m, n) $$;
COMMENT ON FUNCTION ecstats.activity_quintiles() IS 'Values of last_order_day, order_count and paid_amount at which quintiles 2 to 5 of buyers begin; equal values are never parted.';

-- ecstats.activity_put_state: what the scores are of, from now on. Stored days after that one are still to be looked at,
-- as after failures, where an earlier day than the last one is scored first. Written only where it differs.
CREATE OR REPLACE FUNCTION ecstats.activity_put_state(the_day date, at timestamptz, users bigint) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.activity_state s
	   SET as_of = the_day, stale_from = n.day, scored_at = at, users = activity_put_state.users,
		   recency = q.recency, frequency = q.frequency, monetary = q.monetary
	  FROM ecstats.activity_quintiles() q, (SELECT min(k.day) AS day FROM ecstats.daily_kpi k WHERE k.day > the_day) n
	 WHERE (s.as_of, s.stale_from, s.users, s.recency, s.frequency, s.monetary)
		   IS DISTINCT FROM (the_day, n.day, activity_put_state.users, q.recency, q.frequency, q.monetary) $$;
COMMENT ON FUNCTION ecstats.activity_put_state(date, timestamptz, bigint) IS 'Notes which day the scores are of, how many users there are, and where their quintiles begin.';

-- ecstats.activity_put_cohorts: brings the cohorts that come back on days of a range to the stored days; a cohort that is
-- behind a day that is not stored is not known.
CREATE OR REPLACE FUNCTION ecstats.activity_put_cohorts(from_day date, to_day date) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH c AS MATERIALIZED (
		SELECT * FROM ecstats.activity_cohorts(from_day, to_day)
	), gone AS (
		DELETE FROM ecstats.cohorts d WHERE d.cohort_day + d.age_days BETWEEN from_day AND to_day
		   AND NOT EXISTS (SELECT FROM c WHERE (c.cohort_day, c.age_days) = (d.cohort_day, d.age_days))
	)
	INSERT INTO ecstats.cohorts AS d (cohort_day, age_days, cohort_size, retained)
	SELECT c.cohort_day, c.age_days, c.cohort_size, c.retained FROM c
	ON CONFLICT (cohort_day, age_days) DO UPDATE SET cohort_size = excluded.cohort_size, retained = excluded.retained
	 WHERE (d.cohort_size, d.retained) <> (excluded.cohort_size, excluded.retained) $$;
COMMENT ON FUNCTION ecstats.activity_put_cohorts(date, date) IS 'Brings ecstats.cohorts to what stored days of a range say, touching only rows that differ.';

