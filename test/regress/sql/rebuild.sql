-- Computing days anew from raw rows: what a rebuild repairs, what it leaves alone, what it refuses.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
\pset format unaligned
\set SHOW_CONTEXT never

SELECT ecstats_prepare('2026-03-02', '2026-03-02');
INSERT INTO ecstats.events (event_time, user_id, event) SELECT t::timestamptz, u, e FROM (VALUES
	('2026-03-02 04:00+00', 'a', 'view_item'), ('2026-03-02 04:00+00', 'a', 'add_to_cart'), ('2026-03-02 05:00+00', 'b', 'login'),
	('2026-03-03 04:00+00', 'a', 'view_item'), ('2026-03-03 05:00+00', 'c', 'login'), ('2026-03-09 05:00+00', 'd', 'login')) v(t, u, e);
SELECT ecstats_order('[{"order_id":"1","order_time":"2026-03-02T10:00:00+08:00","paid_time":"2026-03-03T10:05:00+08:00","user_id":"a","region":"r","channel":"app",
		"items":[{"product_id":"p1","quantity":2,"amount":10.10},{"product_id":"p2","quantity":1,"amount":0.005}]}]');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('hook', 'webhook', 'https://shop.example/hook');
UPDATE ecstats.reports SET channels = '{hook}' WHERE name = 'daily';

-- days that have data are closed, those that have none are not invented; no report of an old day
\set VERBOSITY terse
CALL ecstats_rebuild('2026-02-01', '2026-03-05');
SELECT day, gmv, paid_amount, event_count, new_user_count, revision, complete FROM ecstats.daily_kpi ORDER BY day;
SELECT count(*) AS deliveries FROM ecstats.deliveries;
SELECT day, revision FROM ecstats_daily('2026-03-09');

-- nothing changed: no revision, no restatement, not one row touched
CREATE TEMP VIEW versions AS
	SELECT 'kpi' AS t, xmin::text AS version, ctid::text AS place FROM ecstats.daily_kpi UNION ALL SELECT 'sales', xmin::text, ctid::text FROM ecstats.daily_sales
	UNION ALL SELECT 'events', xmin::text, ctid::text FROM ecstats.daily_events UNION ALL SELECT 'funnel', xmin::text, ctid::text FROM ecstats.daily_funnel
	UNION ALL SELECT 'user', xmin::text, ctid::text FROM ecstats.user_day UNION ALL SELECT 'state', xmin::text, ctid::text FROM ecstats.day_state;
CREATE TEMP TABLE before AS TABLE versions;
CALL ecstats_rebuild('2026-03-01', '2026-03-09');
SELECT count(*) AS touched FROM ((TABLE versions EXCEPT TABLE before) UNION ALL (TABLE before EXCEPT TABLE versions)) x;
SELECT count(*) AS restatements FROM ecstats.restatements;

-- what somebody did to the stored rows is undone, where it was; other days keep their revision
UPDATE ecstats.daily_kpi SET gmv = 1, closed_at = '2026-03-04' WHERE day = '2026-03-02';
DELETE FROM ecstats.daily_sales WHERE product_id = 'p1';
UPDATE ecstats.daily_events SET event_count = 99 WHERE day = '2026-03-03';
DELETE FROM ecstats.daily_funnel WHERE day = '2026-03-03' AND step = 1;
DELETE FROM ecstats.user_day WHERE day = '2026-03-02';
SELECT day, revision FROM ecstats_daily('2026-03-09');		-- no mark, no change
CALL ecstats_rebuild('2026-03-02', '2026-03-03');
SELECT day, gmv, revision, closed_at FROM ecstats.daily_kpi WHERE day = '2026-03-02';
SELECT day, revision, column_name, old, new FROM ecstats.restatements ORDER BY 1, 2, 3;
SELECT * FROM ecstats_verify();

-- who was seen first when: a day too early, a day too late, not at all
CREATE FUNCTION pg_temp.first_seen_merge(the_day date, gone text[], next date[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE aside AS SELECT * FROM ecstats.user_day WHERE day = the_day;
	DELETE FROM ecstats.user_day WHERE day = the_day;
	WITH m AS MATERIALIZED (SELECT * FROM ecstats.rollup_first_merge_stored(the_day, gone, next)),
	dropped AS (DELETE FROM ecstats.first_seen_block f USING m WHERE m.kind = 'x' AND f.first_user = m.first_user
				AND NOT EXISTS (SELECT FROM m b WHERE b.kind = 'b' AND b.first_user = m.first_user))
	INSERT INTO ecstats.first_seen_block SELECT m.first_user, m.users, m.packed FROM m WHERE m.kind = 'b'
	ON CONFLICT (first_user) DO UPDATE SET users = excluded.users, packed = excluded.packed;
	INSERT INTO ecstats.user_day SELECT * FROM aside;
	DROP TABLE aside;
END
$$;
SELECT pg_temp.first_seen_merge('2026-03-03', '{c}', '{2026-03-02}'), pg_temp.first_seen_merge('2026-03-02', '{a}', '{2026-03-03}'),
	   pg_temp.first_seen_merge('2026-03-02', '{b}', '{NULL}'), pg_temp.first_seen_merge('2026-03-09', '{d}', '{NULL}');
SELECT day, relation, key, stored, recomputed FROM ecstats_verify();
CALL ecstats_rebuild('2026-03-02', '2026-03-09');
SELECT * FROM ecstats_verify();

-- weeks and months
UPDATE ecstats.weekly_kpi SET gmv = 1, uv = 77;
DELETE FROM ecstats.monthly_kpi;
CALL ecstats_rebuild('2026-03-02', '2026-03-09');
SELECT * FROM ecstats_verify();

-- a late row, and its mark with it
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-03 06:00+00', 'e', 'login');
CALL ecstats_rebuild('2026-03-03', '2026-03-03');
SELECT count(*) AS marks FROM ecstats.day_marks;
-- ... and a row that somebody deleted, of a day with data and of one without
SELECT day FROM ecstats_daily('2026-03-08');
DELETE FROM ecstats.daily_kpi WHERE day >= '2026-03-08';
SELECT day, relation, stored IS NULL AS is_gone FROM ecstats_verify();
CALL ecstats_rebuild('2026-03-08', '2026-03-09');
SELECT * FROM ecstats_verify();

-- all of first_seen anew: a user of a day that is not stored, one twice, a block under another key
INSERT INTO ecstats.first_seen_block VALUES ('zz', 1, '\x016e00027a7a00');
INSERT INTO ecstats.first_seen_block SELECT 'zzz', 2, packed FROM ecstats.first_seen_block LIMIT 1;
SELECT day, relation, key ? 'block' AS block, stored, recomputed FROM ecstats_verify() ORDER BY key::text;
SELECT ecstats.rollup_first_seen_anew() = count(DISTINCT user_id) AS users FROM ecstats.user_daily;
SELECT * FROM ecstats_verify();
SELECT sum(new_user_count) = (SELECT count(*) FROM ecstats.first_seen) AS adds_up FROM ecstats.daily_kpi;
-- a day without its state: nobody would find it changed
DELETE FROM ecstats.day_state WHERE day = '2026-03-03';
SELECT * FROM ecstats_verify();
CALL ecstats_rebuild('2026-03-03', '2026-03-03');
SELECT * FROM ecstats_verify();

-- the day that ended last, before an earlier one that is open: both are closed, as ecstats_daily does it
BEGIN;
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT ecstats.day_start(ecstats_day() - d) + interval '1 hour', 'again' || i, 'login' FROM generate_series(1, 2) d, generate_series(1, 10) i;
COMMIT;
SET client_min_messages = error;
CALL ecstats_rebuild(ecstats_day() - 1, ecstats_day() - 1);
RESET client_min_messages;
SELECT ecstats_day() - day AS days_ago, uv, new_user_count, revision FROM ecstats.daily_kpi WHERE day > ecstats_day() - 3 ORDER BY 1;
DELETE FROM ecstats.events WHERE user_id LIKE 'again%';
SELECT count(*) FROM ecstats_daily();
DELETE FROM ecstats.daily_kpi WHERE day > ecstats_day() - 3;

-- an operator may, a reader may not
CREATE ROLE ecstats_rebuild_o; CREATE ROLE ecstats_rebuild_r;
SELECT ecstats_grant('ecstats_rebuild_o', 'operator'), ecstats_grant('ecstats_rebuild_r', 'reader');
SET ROLE ecstats_rebuild_o;
CALL ecstats_rebuild('2026-03-03', '2026-03-03');
SELECT count(*) FROM ecstats_verify();
-- ... but not close a day that has not ended, by a clock of his own
SELECT ecstats.rollup_rebuild_day(ecstats_day() + 3);
SET ROLE ecstats_rebuild_r;
CALL ecstats_rebuild('2026-03-03', '2026-03-03');
SELECT count(*) FROM ecstats_verify();
RESET ROLE;
SELECT ecstats_revoke('ecstats_rebuild_o', 'operator'), ecstats_revoke('ecstats_rebuild_r', 'reader');
DROP ROLE ecstats_rebuild_o; DROP ROLE ecstats_rebuild_r;

-- no such range
\set VERBOSITY default
CALL ecstats_rebuild('2026-03-03', '2026-03-02');
CALL ecstats_rebuild(NULL, '2026-03-02');
CALL ecstats_rebuild('2026-03-02', NULL);
CALL ecstats_rebuild('-infinity', '2026-03-02');
CALL ecstats_rebuild('2026-03-02', 'infinity');
CALL ecstats_rebuild('1999-12-01', '2026-03-02');
\set VERBOSITY terse
CALL ecstats_rebuild('2026-03-02', ecstats_day());
SELECT ecstats_verify('2026-03-03', '2026-03-02');

-- in a transaction it cannot commit
BEGIN;
CALL ecstats_rebuild('2026-03-03', '2026-03-03');
ROLLBACK;
-- whatever the session's isolation level is
SET default_transaction_isolation = 'serializable';
CALL ecstats_rebuild('2026-03-03', '2026-03-03');
RESET default_transaction_isolation;

-- progress: application_name names the day while it is computed, and is as it was when it is over
SET application_name = 'the shell';
CREATE FUNCTION pg_temp.seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	RAISE NOTICE '%', (SELECT a.application_name FROM pg_stat_activity a WHERE a.pid = pg_backend_pid());
	RETURN NULL;
END $$;
CREATE TRIGGER seen AFTER DELETE ON ecstats.day_marks FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.seen();
CALL ecstats_rebuild('2026-03-02', '2026-03-09');
DROP TRIGGER seen ON ecstats.day_marks;
SHOW application_name;

-- the last day that ended: its report is queued at its first close, whoever closes it
INSERT INTO ecstats.events (event_time, user_id, event) VALUES (ecstats.day_start(ecstats_day() - 1) + interval '1 second', 'a', 'login'),
	(ecstats.day_start(ecstats_day() - 2), 'a', 'login');
SET client_min_messages = warning;
CALL ecstats_rebuild(ecstats_day() - 2, ecstats_day() - 1);
SELECT report, ecstats_day() - day AS days_ago, revision FROM ecstats.deliveries WHERE day > ecstats_day() - 3 ORDER BY id;

-- days whose raw rows are gone, all or some: refused, and nothing is done before
SELECT gmv, revision FROM ecstats_daily('2026-03-02');
RESET client_min_messages;
\set VERBOSITY default
UPDATE ecstats.daily_kpi SET gmv = 5 WHERE day = '2026-03-03';
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20260302;
CALL ecstats_rebuild('2026-03-01', '2026-03-09');
SELECT gmv FROM ecstats.daily_kpi WHERE day = '2026-03-03';
DROP TABLE ecstats.events_20260302;
UPDATE ecstats.day_state SET frozen = true, orders_dropped = true WHERE day = '2026-03-09';
CALL ecstats_rebuild('2026-03-01', '2026-03-09');
SELECT count(*) FILTER (WHERE events_dropped) AS noted FROM ecstats.day_state;
SELECT gmv FROM ecstats.daily_kpi WHERE day = '2026-03-03';
\set VERBOSITY terse
CALL ecstats_rebuild('2026-03-03', '2026-03-08');
SELECT gmv, revision FROM ecstats.daily_kpi WHERE day = '2026-03-03';
