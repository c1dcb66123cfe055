-- Scores: errors that leave nothing behind, who is written and who is not, levels and ties, deleted and late rows, rights.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
SET client_min_messages = warning;

-- what a statement says when it is refused
CREATE FUNCTION pg_temp.said(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text;
	d text;
	h text;
BEGIN
	EXECUTE statement;
	RETURN 'it is taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, m, d, h);
END
$$;
-- a day's events: users in order, each with so many logins
CREATE FUNCTION pg_temp.logins(day date, who text[], times int[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO ecstats.events (event_time, user_id, event)
	SELECT day + time '12:00' AT TIME ZONE 'Asia/Shanghai' + i * interval '1 second', who[u], 'login'
	  FROM generate_subscripts(who, 1) u, generate_series(1, times[u]) i $$;
CREATE TEMP VIEW board AS
	SELECT user_id, as_of, round(score::numeric, 6) AS score, round(previous_score::numeric, 6) AS previous, level, previous_level, last_active_day AS last_active, active_days AS days,
		   first_seen, last_high_day AS last_high FROM ecstats.user_activity;
CREATE TEMP VIEW state AS SELECT as_of, stale_from, users, scored_at IS NOT NULL AS scored FROM ecstats.activity_state;
-- every row that scoring may write, by place and version
CREATE TEMP VIEW versions AS
	SELECT 'user_activity' AS relation, user_id AS key, xmin::text AS version, ctid::text AS place FROM ecstats.user_activity
	UNION ALL SELECT 'activity_state', '', xmin::text, ctid::text FROM ecstats.activity_state
	UNION ALL SELECT 'cohorts', cohort_day || '/' || age_days, xmin::text, ctid::text FROM ecstats.cohorts
	UNION ALL SELECT 'user_tags', user_id || '/' || tag || '/' || since, xmin::text, ctid::text FROM ecstats.user_tags
	UNION ALL SELECT 'tag_daily', day || '/' || tag, xmin::text, ctid::text FROM ecstats.tag_daily;
CREATE TEMP TABLE before AS TABLE versions;
CREATE FUNCTION pg_temp.remember() RETURNS void LANGUAGE sql AS $$ TRUNCATE before; INSERT INTO before TABLE versions $$;
-- rows that are others than they were remembered, by relation
CREATE TEMP VIEW written AS
	SELECT relation, count(*) FROM (
		(TABLE before EXCEPT TABLE versions) UNION ALL (TABLE versions EXCEPT TABLE before)) x GROUP BY 1 ORDER BY 1;

-- a database without anything
SELECT * FROM state;
SELECT count(*) FROM ecstats_scores('2026-03-02');
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-02')$$);
SELECT pg_temp.said($$SELECT * FROM ecstats_explain_score('nobody', '2026-03-02')$$);
SELECT uv, revision FROM ecstats_daily('2026-03-02');
SELECT ecstats_score('2026-03-02') AS users;
SELECT * FROM state;
SELECT (SELECT count(*) FROM ecstats.user_activity) AS users, (SELECT count(*) FROM ecstats.cohorts) AS cohorts, (SELECT count(*) FROM ecstats.user_tags) AS tags,
	   (SELECT coalesce(sum(user_count + entered + left_count), 0) FROM ecstats.tag_daily) AS tagged, (SELECT count(*) FROM ecstats.user_profile) AS profiles;

-- six days: who comes every day, who came once, who does what weighs nothing, who is not in the vocabulary
SELECT pg_temp.logins('2026-03-03', '{daily,once,twin1,twin2,gone}', '{2,4,1,1,3}');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-03 12:00+08', 'weightless', 'favorite'), ('2026-03-03 12:00+08', 'stranger', 'never_heard_of');
SELECT pg_temp.logins(d::date, '{daily,twin2,twin1}', '{1,1,1}') FROM generate_series(timestamp '2026-03-04', '2026-03-08', '1 day') d;
SELECT day, uv, new_user_count FROM ecstats_daily('2026-03-08');
SELECT * FROM board ORDER BY user_id;
SELECT * FROM state;
SELECT user_id, as_of, days_silent, days_known, days_since_high FROM ecstats.user_profile ORDER BY 1;
SELECT user_id, round(score::numeric, 6) AS score FROM ecstats_scores('2026-03-08') ORDER BY 1;
SELECT * FROM ecstats.cohorts ORDER BY 1, 2;
-- any day can be asked for: days without users, before anybody, after the last, not ended
SELECT user_id, round(score::numeric, 6) AS score FROM ecstats_scores('2026-03-03') ORDER BY 1;
SELECT count(*), sum(score) FROM ecstats_scores('2026-03-02');
SELECT count(*), round(sum(score)::numeric, 6) AS sum FROM ecstats_scores('2026-03-09');
SELECT count(*), sum(score) FROM ecstats_scores(ecstats_day() + 1000);
SELECT count(*), sum(score) FROM ecstats_scores('1970-01-01');

-- what a score is made of
SELECT day, event, event_count, weight, round(decay::numeric, 9) AS decay, round(points::numeric, 9) AS points FROM ecstats_explain_score('daily', '2026-03-08');
SELECT day, event, event_count, weight, decay = 0.5 ^ (5 / 7.0::float8) AS decays, points FROM ecstats_explain_score('stranger', '2026-03-08');
SELECT count(*) FROM ecstats_explain_score('once', '2026-03-02');
-- ... where almost nothing is left of it
BEGIN;
UPDATE ecstats.config SET score_half_life_days = 0.001;
SELECT day, round(decay::numeric, 9) AS decay, round(points::numeric, 9) AS points FROM ecstats_explain_score('daily', '2026-03-08');
ROLLBACK;
SELECT count(*) FROM ecstats_explain_score('once', '2026-04-30');
SELECT a.user_id, abs(a.score - (SELECT sum(points) FROM ecstats_explain_score(a.user_id, '2026-03-08'))) < 1e-12 AS sums FROM ecstats.user_activity a ORDER BY 1;
-- the same history is the same score, to the last bit
SELECT count(DISTINCT float8send(score)) AS one FROM ecstats.user_activity WHERE user_id LIKE 'twin_';

-- refused, and nothing is other than it was
SELECT pg_temp.remember();
SELECT pg_temp.said('SELECT ecstats_score(ecstats_day())') LIKE '22023 | the business day has not ended | Day % ends at %. | SELECT * FROM ecstats_today()%' AS running,
	   pg_temp.said('SELECT ecstats_score(ecstats_day() + 1)') LIKE '22023 | the business day has not ended | Day % ends at %. | SELECT * FROM ecstats_today()%' AS coming;
SELECT pg_temp.said('SELECT ecstats_score(NULL)');
SELECT pg_temp.said($$SELECT ecstats_score('infinity')$$);
SELECT pg_temp.said($$SELECT ecstats_score('1999-01-01')$$);
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-09')$$);
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-07')$$);
SELECT pg_temp.said('SELECT ecstats_scores(NULL)');
SELECT pg_temp.said($$SELECT ecstats_scores('infinity')$$);
SELECT pg_temp.said($$SELECT ecstats_scores('-infinity')$$);
SELECT pg_temp.said($$SELECT ecstats_explain_score(NULL, '2026-03-08')$$);
SELECT pg_temp.said($$SELECT ecstats_explain_score('daily', NULL)$$);
SELECT pg_temp.said($$SELECT ecstats_explain_score('daily', 'infinity')$$);
SELECT pg_temp.said($$SELECT ecstats_explain_score('nobody', '2026-03-08')$$);
SELECT pg_temp.said($$SELECT ecstats_explain_score('', '2026-03-08')$$);
SELECT pg_temp.said($$SELECT ecstats_explain_score(repeat('long', 100), '2026-03-08')$$);
-- settings that make no score cannot be set
SELECT split_part(pg_temp.said('UPDATE ecstats.event_types SET weight = ' || w || $$ WHERE event = 'login'$$), ' | Failing', 1) AS said FROM unnest('{''NaN'',''infinity'',''-infinity'',1e10,"NULL"}'::text[]) w;
SELECT pg_temp.said($$INSERT INTO ecstats.event_types (event, weight) VALUES ('custom', 'NaN')$$);
SELECT split_part(pg_temp.said('UPDATE ecstats.config SET score_half_life_days = ' || v), ' | Failing', 1) AS said FROM unnest('{0,-7,''NaN'',''infinity'',36601,"NULL"}'::text[]) v;
SELECT split_part(pg_temp.said('UPDATE ecstats.config SET score_window_days = ' || v), ' | Failing', 1) AS said FROM unnest('{0,-1,367,"NULL"}'::text[]) v;
SELECT pg_temp.said('UPDATE ecstats.activity_levels SET ' || v) FROM unnest('{top_share = 0,top_share = 1.01,top_share = ''NaN'',min_score = 1,top_share = NULL,
	"top_share = NULL, min_score = 0","top_share = NULL, min_score = ''NaN''","top_share = NULL, min_score = ''infinity''",level = ''top''}'::text[]) v;
-- ... not even by whoever takes the rules away: scoring looks itself
BEGIN;
ALTER TABLE ecstats.event_types DROP CONSTRAINT event_types_weight_is_finite;
ALTER TABLE ecstats.config DROP CONSTRAINT config_score_half_life_0_001_to_36600_days, DROP CONSTRAINT config_score_window_1_to_366_days;
UPDATE ecstats.event_types SET weight = 'NaN' WHERE event = 'login';
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-08')$$);
UPDATE ecstats.event_types SET weight = 'infinity' WHERE event = 'login';
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-08')$$);
UPDATE ecstats.event_types SET weight = 1 WHERE event = 'login';
UPDATE ecstats.config SET score_half_life_days = 0;
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-08')$$);
SELECT pg_temp.said($$SELECT ecstats_scores('2026-03-08')$$);
UPDATE ecstats.config SET score_half_life_days = -7;
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-08')$$);
UPDATE ecstats.config SET score_half_life_days = 'NaN';
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-08')$$);
UPDATE ecstats.config SET score_half_life_days = 7, score_window_days = 100000;
SELECT pg_temp.said($$SELECT ecstats_score('2026-03-08')$$);
SELECT * FROM written;
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats_score('2026-03-08');
ROLLBACK;
BEGIN READ ONLY;
SELECT ecstats_score('2026-03-08');
ROLLBACK;
BEGIN READ ONLY;
SELECT count(*) FROM ecstats_scores('2026-03-08');
SELECT count(*) FROM ecstats_explain_score('daily', '2026-03-08');
ROLLBACK;
SELECT * FROM written;

-- a failure half-way leaves nothing half-written
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
UPDATE ecstats.event_types SET weight = 2 WHERE event = 'login';
CREATE TRIGGER refuse BEFORE UPDATE ON ecstats.user_activity FOR EACH ROW WHEN (NEW.user_id = 'twin2') EXECUTE FUNCTION pg_temp.refuse();
SELECT pg_temp.remember();
SELECT ecstats_score('2026-03-08');
SELECT * FROM written;
DROP TRIGGER refuse ON ecstats.user_activity;
UPDATE ecstats.event_types SET weight = 1 WHERE event = 'login';

-- the same day again: nothing is written, nothing is left to vacuum
SELECT pg_temp.remember();
SELECT ecstats_score('2026-03-08') AS users;
SELECT ecstats_score('2026-03-08') AS users;
SELECT uv FROM ecstats_daily('2026-03-08');
SELECT uv FROM ecstats_daily('2026-03-05');
SELECT * FROM written;
BEGIN;
CREATE TEMP TABLE counters ON COMMIT DROP AS SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables WHERE schemaname = 'ecstats';
SELECT ecstats_score('2026-03-08') AS users;
SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables WHERE schemaname = 'ecstats' EXCEPT TABLE counters;
UPDATE ecstats.user_activity SET score = 0 WHERE user_id = 'daily';
SELECT ecstats_score('2026-03-08') AS users;
SELECT c.relname, s.n_tup_ins - c.n_tup_ins AS ins, s.n_tup_upd - c.n_tup_upd AS upd, s.n_tup_del - c.n_tup_del AS del FROM pg_stat_xact_user_tables s JOIN counters c USING (relname)
 WHERE s.schemaname = 'ecstats' AND (s.n_tup_ins, s.n_tup_upd, s.n_tup_del) <> (c.n_tup_ins, c.n_tup_upd, c.n_tup_del);
COMMIT;

-- a day later: who was there is written, who was not is not, though their days of silence are more
SELECT pg_temp.logins('2026-03-09', '{daily}', '{1}');
SELECT uv FROM ecstats_daily('2026-03-09');
SELECT * FROM board ORDER BY user_id;
SELECT user_id, as_of, score = 0 AS silent, days_silent, days_known FROM ecstats.user_profile ORDER BY 1;
SELECT relation, key FROM (TABLE versions EXCEPT TABLE before) x WHERE relation = 'user_activity' ORDER BY key;
-- a week without anything: all fall out of the window, get 0 and stay
SELECT uv FROM ecstats_daily('2026-03-16');
SELECT * FROM board ORDER BY user_id;
SELECT * FROM state;
SELECT user_id, as_of, days_silent, days_since_high FROM ecstats.user_profile ORDER BY 1;
SELECT count(*), sum(score) FROM ecstats_scores('2026-03-16');
-- silent: from now on they are not written, whatever day it is
SELECT uv FROM ecstats_daily('2026-03-17');
SELECT uv FROM ecstats_daily('2026-04-16');
SELECT pg_temp.remember();
SELECT uv FROM ecstats_daily('2026-04-17');
SELECT uv FROM ecstats_daily('2026-04-18');
SELECT * FROM written WHERE relation NOT IN ('activity_state', 'tag_daily');
SELECT user_id, as_of, days_silent, days_known FROM ecstats.user_profile ORDER BY 1;
SELECT * FROM state;

-- levels: ties are never parted
SELECT pg_temp.logins('2026-05-01', '{a,b,c,d,e,f,g,h,i,j}', '{9,8,8,8,5,4,4,3,2,1}');
SELECT uv FROM ecstats_daily('2026-05-01');
SELECT user_id, score, level FROM board WHERE score > 0 ORDER BY score DESC, user_id;
-- all the same: nobody has a higher score
SELECT pg_temp.logins('2026-05-10', '{a,b,c,d,e,f,g,h,i,j}', '{1,1,1,1,1,1,1,1,1,1}');
SELECT uv FROM ecstats_daily('2026-05-10');
SELECT level, previous_level, count(*) FROM ecstats.user_activity WHERE score > 0 GROUP BY 1, 2 ORDER BY 1, 2;
-- the limit itself: of ten users, a share of two higher ones is 0.2 and no longer high
SELECT pg_temp.logins('2026-05-20', '{a,b,c,d,e,f,g,h,i,j}', '{10,9,8,7,6,5,4,3,2,1}');
SELECT uv FROM ecstats_daily('2026-05-20');
SELECT level, string_agg(user_id, ' ' ORDER BY user_id) FROM ecstats.user_activity WHERE score > 0 GROUP BY 1 ORDER BY 1;
UPDATE ecstats.activity_levels SET top_share = 0.2000001 WHERE level = 'high';
SELECT ecstats_score('2026-05-20') > 0 AS scored;
SELECT level, string_agg(user_id, ' ' ORDER BY user_id) FROM ecstats.user_activity WHERE score > 0 GROUP BY 1 ORDER BY 1;
-- fixed scores, by one statement
UPDATE ecstats.activity_levels SET top_share = NULL, min_score = CASE level WHEN 'high' THEN 9 ELSE 4 END;
SELECT ecstats_score('2026-05-20') > 0 AS scored;
SELECT level, string_agg(user_id, ' ' ORDER BY user_id) FROM ecstats.user_activity WHERE score > 0 GROUP BY 1 ORDER BY 1;
-- the stricter one holds where both do; no rule, no level
UPDATE ecstats.activity_levels SET min_score = 20 WHERE level = 'mid';
SELECT ecstats_score('2026-05-20') > 0 AS scored;
SELECT level, string_agg(user_id, ' ' ORDER BY user_id) FROM ecstats.user_activity WHERE score > 0 GROUP BY 1 ORDER BY 1;
DELETE FROM ecstats.activity_levels WHERE level = 'high';
SELECT ecstats_score('2026-05-20') > 0 AS scored;
SELECT level, string_agg(user_id, ' ' ORDER BY user_id) FROM ecstats.user_activity WHERE score > 0 GROUP BY 1 ORDER BY 1;
DELETE FROM ecstats.activity_levels;
SELECT ecstats_score('2026-05-20') > 0 AS scored;
SELECT level, count(*) FROM ecstats.user_activity GROUP BY 1 ORDER BY 1;
INSERT INTO ecstats.activity_levels (level, top_share) VALUES ('high', 0.20), ('mid', 0.50);
-- weights below 0: a score of 0 or less is low, and no part of the share
INSERT INTO ecstats.event_types (event, weight) VALUES ('complaint', -3);
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2026-05-20 13:00+08', u, 'complaint' FROM unnest('{a,b,h,i,j}'::text[]) u;
SELECT uv FROM ecstats_daily('2026-05-20');
SELECT user_id, score, level FROM board WHERE days > 0 ORDER BY score DESC, user_id;
-- everybody without points
UPDATE ecstats.event_types SET weight = 0;
SELECT ecstats_score('2026-05-20') > 0 AS scored;
SELECT level, min(score), max(score), count(*) FROM ecstats.user_activity GROUP BY 1 ORDER BY 1;
UPDATE ecstats.event_types SET weight = 1 WHERE event = 'login';
SELECT ecstats_score('2026-05-20') > 0 AS scored;

-- events that are deleted after they were scored: the user stays, with nothing
SELECT pg_temp.logins('2026-06-01', '{kept,erased}', '{1,5}');
SELECT uv FROM ecstats_daily('2026-06-01');
SELECT user_id, score, level, last_active, days, first_seen, last_high FROM board WHERE user_id IN ('kept', 'erased') ORDER BY 1;
DELETE FROM ecstats.events WHERE user_id = 'erased';
SELECT uv FROM ecstats_daily('2026-06-01');
SELECT user_id, score, level, last_active, days, first_seen, last_high FROM board WHERE user_id IN ('kept', 'erased') ORDER BY 1;
SELECT user_id, days_silent, days_known, days_since_high FROM ecstats.user_profile WHERE user_id = 'erased';
SELECT count(*) FROM ecstats_explain_score('erased', '2026-06-01');
SELECT ecstats_score('2026-06-01') = (SELECT count(*) FROM ecstats.user_activity) AS all_users;
-- a user of whom a late event tells, on a day that is closed since long
SELECT pg_temp.logins('2026-03-02', '{early}', '{1}');
SELECT pg_temp.logins('2026-03-04', '{once}', '{1}');
SELECT day FROM ecstats_daily('2026-06-01');
SELECT user_id, score, last_active, days, first_seen FROM board WHERE user_id IN ('early', 'once') ORDER BY 1;
SELECT * FROM state;
SELECT * FROM ecstats.cohorts WHERE cohort_day BETWEEN '2026-03-01' AND '2026-03-03' ORDER BY 1, 2;
-- a day that is closed late, between days that are scored
SELECT pg_temp.logins('2026-06-03', '{kept,later}', '{1,1}');
SELECT uv FROM ecstats_daily('2026-06-04');
SELECT pg_temp.logins('2026-06-02', '{kept,between}', '{1,2}');
SELECT uv FROM ecstats_daily('2026-06-04');
SELECT user_id, as_of, score, previous, last_active, days, first_seen FROM board WHERE user_id IN ('kept', 'later', 'between') ORDER BY 1;
SELECT * FROM ecstats.cohorts WHERE cohort_day >= '2026-06-01' ORDER BY 1, 2;
-- one of an earlier day alone: what is stored stays of the latest day
SELECT pg_temp.logins('2026-06-01', '{kept}', '{4}');
SELECT uv FROM ecstats_daily('2026-06-01');
SELECT user_id, as_of, score, previous, days FROM board WHERE user_id = 'kept';
SELECT * FROM state;

-- a rebuild changes days: the next scoring knows, and finds what it would have found
DELETE FROM ecstats.events WHERE user_id = 'between';
CALL ecstats_rebuild('2026-06-01', '2026-06-04');
SELECT ecstats_score('2026-06-04') > 0 AS scored;
SELECT user_id, score, last_active, days, first_seen FROM board WHERE user_id IN ('kept', 'later', 'between') ORDER BY 1;
SELECT * FROM state;
SELECT pg_temp.remember();
CALL ecstats_rebuild('2026-06-01', '2026-06-04');
SELECT ecstats_score('2026-06-04') > 0 AS scored;
SELECT uv FROM ecstats_daily('2026-06-04');
SELECT * FROM written WHERE relation <> 'activity_state';
-- days that a rebuild closes for the first time
SELECT pg_temp.logins('2026-07-01', '{kept,rebuilt}', '{1,1}');
CALL ecstats_rebuild('2026-07-01', '2026-07-01');
SELECT ecstats_score('2026-07-01') > 0 AS scored;
SELECT user_id, as_of, score, last_active, days, first_seen FROM board WHERE user_id IN ('kept', 'rebuilt') ORDER BY 1;

-- who may
CREATE ROLE ecstats_score_r; CREATE ROLE ecstats_score_o; CREATE ROLE ecstats_score_w; CREATE ROLE ecstats_score_p; CREATE ROLE ecstats_score_n;
SELECT ecstats_grant('ecstats_score_r', 'reader'), ecstats_grant('ecstats_score_o', 'operator'), ecstats_grant('ecstats_score_w', 'writer'), ecstats_grant('ecstats_score_p', 'pusher');
SELECT substr(r, 15) AS profile, has_function_privilege(r, 'ecstats_score(date)', 'EXECUTE') AS score, has_function_privilege(r, 'ecstats_scores(date)', 'EXECUTE') AS scores,
	   has_function_privilege(r, 'ecstats_explain_score(text, date)', 'EXECUTE') AS explain, has_table_privilege(r, 'ecstats.user_profile', 'SELECT') AS profiles,
	   has_table_privilege(r, 'ecstats.cohorts', 'SELECT') AS cohorts, has_table_privilege(r, 'ecstats.user_activity', 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes
  FROM unnest('{ecstats_score_r,ecstats_score_o,ecstats_score_w,ecstats_score_p,ecstats_score_n}'::text[]) r;
SET ROLE ecstats_score_r;
SELECT count(*) > 10 AS reads FROM ecstats.user_profile;
SELECT count(*) > 10 AS reads FROM ecstats_scores('2026-07-01');
SELECT count(*) FROM ecstats_explain_score('rebuilt', '2026-07-01');
SELECT ecstats_score('2026-07-01');
UPDATE ecstats.user_activity SET score = 99;
UPDATE ecstats.activity_levels SET top_share = 0.3;
SELECT count(*) FROM ecstats.score_scan('2026-07-01', '2026-07-01', 7, 7, '{1}', '{0.2,0.5}', '{NULL,NULL}');
SET ROLE ecstats_score_o;
SELECT ecstats_score('2026-07-01') > 0 AS scores;
UPDATE ecstats.activity_levels SET top_share = 0.3 WHERE level = 'high';
UPDATE ecstats.user_activity SET score = 99;
UPDATE ecstats.activity_state SET as_of = '2026-01-01';
SET ROLE ecstats_score_w;
SELECT ecstats_score('2026-07-01');
SELECT count(*) FROM ecstats_scores('2026-07-01');
SET ROLE ecstats_score_n;
SELECT ecstats_score('2026-07-01');
SELECT count(*) FROM ecstats_scores('2026-07-01');
SELECT count(*) FROM ecstats_explain_score('rebuilt', '2026-07-01');
SELECT count(*) FROM ecstats.user_profile;
RESET ROLE;
DROP OWNED BY ecstats_score_r, ecstats_score_o, ecstats_score_w, ecstats_score_p;
DROP ROLE ecstats_score_r, ecstats_score_o, ecstats_score_w, ecstats_score_p, ecstats_score_n;

-- blocks that nobody of ours wrote: a first day that is none, an id that is no text
BEGIN;
TRUNCATE ecstats.user_day, ecstats.first_seen_block;
INSERT INTO ecstats.user_day SELECT max(day), 'a', 1, '\x0163000161020105' FROM ecstats.daily_kpi;
INSERT INTO ecstats.first_seen_block VALUES ('a', 1, '\x016e0001618280808008');
SELECT pg_temp.said(format('SELECT count(*) FROM ecstats.score_scan(%L, %1$L, 7, 7, ''{1}'', ''{0.2,0.5}'', ''{NULL,NULL}'')', max(day))) AS scores,
	   pg_temp.said(format('SELECT count(*) FROM ecstats.activity_cohorts(%L, %1$L)', max(day))) AS cohorts FROM ecstats.daily_kpi;
UPDATE ecstats.first_seen_block SET packed = '\x016e00016105';
UPDATE ecstats.user_day SET packed = '\x01630001610201050101ff020105';
SELECT pg_temp.said(format('SELECT count(*) FROM ecstats.score_scan(%L, %1$L, 7, 7, ''{1}'', ''{0.2,0.5}'', ''{NULL,NULL}'')', max(day))) AS scores FROM ecstats.daily_kpi;
ROLLBACK;
