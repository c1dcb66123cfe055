-- Scoring as a part of each close: one day, several at once, a failure that does not stop the close, what reports see.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
INSERT INTO ecstats.channels (name, kind, url) VALUES ('hook', 'webhook', 'https://shop.example/hook'), ('ops', 'webhook', 'https://shop.example/ops');
UPDATE ecstats.config SET operators_channel = 'ops';
CREATE FUNCTION pg_temp.logins(day date, who text[], times int[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO ecstats.events (event_time, user_id, event)
	SELECT day + time '12:00' AT TIME ZONE 'Asia/Shanghai' + i * interval '1 second', who[u], 'login'
	  FROM generate_subscripts(who, 1) u, generate_series(1, times[u]) i $$;
CREATE TEMP VIEW board AS
	SELECT user_id, as_of, round(score::numeric, 6) AS score, level, previous_level, last_active_day AS last_active, active_days AS days, first_seen FROM ecstats.user_activity;
CREATE TEMP VIEW state AS SELECT as_of, stale_from, users, scored_at IS NOT NULL AS scored FROM ecstats.activity_state;
CREATE TEMP VIEW told AS SELECT source, occasion, channel FROM ecstats.deliveries WHERE source = 'score' ORDER BY id;

-- what a report made at a close sees is of that close
INSERT INTO ecstats.templates (name, body) VALUES ('levels', '{"levels": "{{#levels}}{{level}} {{user_count}} {{/levels}}"}');
INSERT INTO ecstats.reports (name, dataset, template, channels) VALUES ('levels', 'daily', 'levels', '{hook}');

-- a close scores
SELECT pg_temp.logins('2026-03-02', '{a,b,c,d,e}', '{5,4,3,2,1}');
SELECT day, uv FROM ecstats_daily('2026-03-02');
SELECT * FROM board ORDER BY user_id;
SELECT * FROM state;
SELECT day, tag, user_count, entered FROM ecstats.tag_daily WHERE tag = 'high_active';
SELECT user_id, since, until FROM ecstats.user_tags WHERE tag = 'high_active' ORDER BY 1;
SELECT day, revision, body #>> '{data,levels}' AS levels FROM ecstats.deliveries WHERE report = 'levels' ORDER BY id;
-- days after an outage are closed one by one and scored once, as of the last of them
SELECT pg_temp.logins('2026-03-03', '{b,f}', '{3,9}');
SELECT pg_temp.logins('2026-03-05', '{c}', '{1}');
SELECT pg_temp.logins('2026-03-06', '{b,d}', '{1,1}');
SELECT day, uv FROM ecstats_daily('2026-03-06');
SELECT * FROM board ORDER BY user_id;
SELECT * FROM state;
SELECT * FROM ecstats.cohorts ORDER BY 1, 2;
SELECT count(DISTINCT xmin::text) AS runs FROM ecstats.user_activity;
-- a late row of an earlier day, whichever day is asked for: scores stay as of the last one
SELECT pg_temp.logins('2026-03-03', '{e}', '{8}');
SELECT day, uv FROM ecstats_daily('2026-03-02');
SELECT day, uv FROM ecstats.daily_kpi WHERE day = '2026-03-03';
SELECT * FROM board WHERE user_id = 'e';
SELECT * FROM state;

-- a failure does not stop the close; it is told; the scores stay as they were
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no room for %', NEW.user_id USING ERRCODE = '53100'; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON ecstats.user_activity FOR EACH ROW WHEN (NEW.user_id = 'c') EXECUTE FUNCTION pg_temp.refuse();
CREATE TEMP TABLE before AS SELECT user_id, xmin::text AS version, ctid::text AS place FROM ecstats.user_activity;
SELECT pg_temp.logins('2026-03-07', '{newcomer,a}', '{1,1}');
SELECT day, uv, new_user_count FROM ecstats_daily('2026-03-07');
SELECT day, uv FROM ecstats.daily_kpi WHERE day >= '2026-03-07';
SELECT count(*) AS written FROM ((SELECT user_id, xmin::text, ctid::text FROM ecstats.user_activity) EXCEPT TABLE before) x;
SELECT * FROM state;
SELECT * FROM told;
SELECT d.body::text LIKE '%Users were not scored as of 2026-03-07%' AS says_what, d.body::text LIKE '%no room for %' AS says_why, d.body::text LIKE '%ecstats_score(%2026-03-07%' AS says_how
  FROM ecstats.deliveries d WHERE source = 'score';
-- by hand, it is an error, and nothing is written
SELECT ecstats_score('2026-03-07');
SELECT * FROM state;
-- again and again while it lasts: each close, once a day is told
SELECT day, uv FROM ecstats_daily('2026-03-07');
SELECT pg_temp.logins('2026-03-08', '{a}', '{1}');
SELECT day, uv FROM ecstats_daily('2026-03-08');
SELECT * FROM state;
SELECT * FROM told;
-- the next run makes up for it, though no row changed since
DROP TRIGGER refuse ON ecstats.user_activity;
SELECT day, uv FROM ecstats_daily('2026-03-08');
SELECT * FROM board ORDER BY user_id;
SELECT * FROM state;
SELECT * FROM told;
-- ... and finds what it would have found
CREATE TEMP TABLE found AS TABLE board;
TRUNCATE ecstats.user_activity;
UPDATE ecstats.activity_state SET as_of = NULL, stale_from = '2026-03-02';
SELECT ecstats_score('2026-03-08') AS users;
SELECT * FROM found EXCEPT TABLE board;

-- too many users for the memory that computing may take: the day is closed first, with room, and scored without
CREATE FUNCTION pg_temp.shrink() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE ecstats.config SET rollup_memory = 1; RETURN NULL; END $$;
CREATE TRIGGER shrink AFTER INSERT ON ecstats.daily_kpi FOR EACH ROW EXECUTE FUNCTION pg_temp.shrink();
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2026-03-09 12:00+08', 'many' || i, 'login' FROM generate_series(1, 30000) i;
\set VERBOSITY terse
SELECT day, uv FROM ecstats_daily('2026-03-09');
\set VERBOSITY default
SELECT * FROM state;
SELECT * FROM told;
SELECT count(*) FROM ecstats.user_activity;
DROP TRIGGER shrink ON ecstats.daily_kpi;
UPDATE ecstats.config SET rollup_memory = 4096;
SELECT pg_temp.logins('2026-03-10', '{a}', '{1}');
SELECT day, uv FROM ecstats_daily('2026-03-10');
SELECT count(*), count(*) FILTER (WHERE score > 0.9) AS high FROM ecstats.user_activity;
SELECT * FROM state;
SELECT cohort_day, age_days, cohort_size, retained FROM ecstats.cohorts WHERE cohort_day + age_days = '2026-03-10' ORDER BY 1, 2;

-- a cancel is no failure to go on from: nothing of the close stays
SELECT pg_temp.logins('2026-03-11', '{a}', '{1}');
CREATE FUNCTION pg_temp.give_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_cancel_backend(pg_backend_pid()); RETURN NEW; END $$;
CREATE TRIGGER give_up BEFORE INSERT OR UPDATE ON ecstats.user_activity FOR EACH ROW WHEN (NEW.user_id = 'a') EXECUTE FUNCTION pg_temp.give_up();
SELECT day, uv FROM ecstats_daily('2026-03-11');
SELECT count(*) AS closed FROM ecstats.daily_kpi WHERE day = '2026-03-11';
SELECT * FROM state;
DROP TRIGGER give_up ON ecstats.user_activity;
SELECT day, uv FROM ecstats_daily('2026-03-11');
SELECT * FROM board WHERE user_id = 'a';
SELECT * FROM state;
-- what the reports of all these closes saw: the levels of their day, or none where users were not scored
SELECT day, revision, body #>> '{data,levels}' AS levels FROM ecstats.deliveries WHERE report = 'levels' ORDER BY id;
SELECT count(*) FROM ecstats_verify('2026-03-02', '2026-03-11');
