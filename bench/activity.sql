-- bench/activity.sql
-- Users to score: a week of events of which most users have some, a few many; orders; the table that a user of
-- plain SQL would have; and how to forget what was scored.
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS bench;

CREATE OR REPLACE FUNCTION bench.names() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
	SELECT '{view_item,page_view,search,click,add_to_cart,login,begin_checkout,purchase,favorite,action_click,share,remove_from_cart}'::text[] $$;

-- A number in [0, 1) that is a user's own.
CREATE OR REPLACE FUNCTION bench.share(n bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
	SELECT (hashint8extended(n, 1) & 1073741823) / 1073741824.0::float8 $$;

-- A day's events of `users` users: half of them come on a day, by a chance of their own between 1/4 (most) and 1,
-- which leaves 4 of 100 out of a week; who comes does 1 event or more, 3 on average, of 12 names, the first ones most.
CREATE OR REPLACE PROCEDURE bench.load_events(day date, users bigint) LANGUAGE sql AS $$
	INSERT INTO ecstats.events (event_time, user_id, event)
	SELECT ecstats.day_start(day) + random() * interval '86398 seconds', 'u' || u.no,
		   (bench.names())[1 + least(floor(12 * power(random(), 1.7)), 11)::int]
	  FROM (SELECT i AS no FROM generate_series(0, users - 1) i WHERE random() < 0.25 + 0.75 * power(bench.share(i), 2) OFFSET 0) u
	 CROSS JOIN LATERAL generate_series(1, 1 + floor(-2.4 * ln(1 - random()) + u.no * 0)::int) e $$;

-- A day's orders: every 20th user has one, of one or two lines, most of them paid.
CREATE OR REPLACE PROCEDURE bench.load_lines(day date, users bigint) LANGUAGE sql AS $$
	INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time)
	SELECT to_char(day, 'YYYYMMDD-') || o.no, l, o.order_time, o.user_id, 'p' || floor(5000 * random() + o.no * 0)::int,
		   'r' || o.no % 30, ('{web,app,mini_program,store,partner}'::text[])[1 + o.no % 5], 1, round((5 + 400 * random() + l * 0)::numeric, 2),
		   'paid', CASE WHEN o.no % 10 > 0 THEN o.order_time + interval '4 minutes' END
	  FROM (SELECT i AS no, ecstats.day_start(day) + i::float8 / users * 20 * interval '86000 seconds' AS order_time,
				   'u' || floor(users * random() * random())::int AS user_id
			  FROM generate_series(1, greatest(users / 20, 1)) i) o
	 CROSS JOIN generate_series(1, 2) l
	 WHERE l = 1 OR o.no % 2 = 0 $$;

-- What a user of plain SQL has, but for the rows: the same counts, weights, and tables for the scores.
CREATE TABLE IF NOT EXISTS bench.my_user_daily (day date, user_id text, event text, event_count bigint NOT NULL, PRIMARY KEY (day, user_id, event));
CREATE TABLE IF NOT EXISTS bench.my_event_types (event text PRIMARY KEY, weight numeric NOT NULL);
CREATE TABLE IF NOT EXISTS bench.my_score (user_id text PRIMARY KEY, as_of date NOT NULL, score numeric NOT NULL);
CREATE TABLE IF NOT EXISTS bench.my_score_float (user_id text PRIMARY KEY, as_of date NOT NULL, score float8 NOT NULL);

-- Forgets every score; days stay closed.
CREATE OR REPLACE PROCEDURE bench.forget_scores() LANGUAGE sql AS $$
	TRUNCATE ecstats.user_activity, ecstats.user_tags, ecstats.tag_daily, ecstats.cohorts;
	UPDATE ecstats.activity_state SET as_of = NULL, stale_from = NULL, scored_at = NULL, users = NULL,
		   recency = '{}', frequency = '{}', monetary = '{}' $$;

-- What there was when a day had been scored, to start from again.
CREATE TABLE IF NOT EXISTS bench.kept_activity (LIKE ecstats.user_activity);
CREATE TABLE IF NOT EXISTS bench.kept_state (LIKE ecstats.activity_state);
CREATE TABLE IF NOT EXISTS bench.kept_cohorts (LIKE ecstats.cohorts);
CREATE TABLE IF NOT EXISTS bench.kept_tags (LIKE ecstats.user_tags);
CREATE TABLE IF NOT EXISTS bench.kept_tag_daily (LIKE ecstats.tag_daily);
CREATE TABLE IF NOT EXISTS bench.kept_score (LIKE bench.my_score);
CREATE TABLE IF NOT EXISTS bench.kept_score_float (LIKE bench.my_score_float);

CREATE OR REPLACE PROCEDURE bench.keep() LANGUAGE sql AS $$
	TRUNCATE bench.kept_activity, bench.kept_state, bench.kept_cohorts, bench.kept_tags, bench.kept_tag_daily, bench.kept_score, bench.kept_score_float;
	INSERT INTO bench.kept_activity SELECT * FROM ecstats.user_activity;
	INSERT INTO bench.kept_state SELECT * FROM ecstats.activity_state;
	INSERT INTO bench.kept_cohorts SELECT * FROM ecstats.cohorts;
	INSERT INTO bench.kept_tags SELECT * FROM ecstats.user_tags;
	INSERT INTO bench.kept_tag_daily SELECT * FROM ecstats.tag_daily;
	INSERT INTO bench.kept_score SELECT * FROM bench.my_score;
	INSERT INTO bench.kept_score_float SELECT * FROM bench.my_score_float $$;

CREATE OR REPLACE PROCEDURE bench.restore() LANGUAGE sql AS $$
	CALL bench.forget_scores();
	INSERT INTO ecstats.user_activity SELECT * FROM bench.kept_activity;
	UPDATE ecstats.activity_state s SET as_of = k.as_of, stale_from = k.stale_from, scored_at = k.scored_at, users = k.users,
		   recency = k.recency, frequency = k.frequency, monetary = k.monetary FROM bench.kept_state k;
	INSERT INTO ecstats.cohorts SELECT * FROM bench.kept_cohorts;
	INSERT INTO ecstats.user_tags SELECT * FROM bench.kept_tags;
	INSERT INTO ecstats.tag_daily SELECT * FROM bench.kept_tag_daily $$;

CREATE OR REPLACE PROCEDURE bench.restore_plain() LANGUAGE sql AS $$
	TRUNCATE bench.my_score, bench.my_score_float;
	INSERT INTO bench.my_score SELECT * FROM bench.kept_score;
	INSERT INTO bench.my_score_float SELECT * FROM bench.kept_score_float $$;
