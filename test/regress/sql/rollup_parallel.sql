-- The scan of events with parallel workers: the same rows as in one process, whatever goes on around it.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
UPDATE ecstats.config SET timezone = 'UTC';
SET search_path = pg_catalog, public, pg_temp;
SET min_parallel_table_scan_size = 0;

-- ---------------------------------------------------------------- helpers
-- What a scan says. Numbers of events go by their names and users by their ids, so that blocks are the same, too.
CREATE FUNCTION pg_temp.answer(from_time timestamptz, to_time timestamptz)
	RETURNS TABLE (kind text, name text, a bigint, b bigint, packed bytea)
	LANGUAGE sql VOLATILE AS $$
	SELECT r.kind::text, r.name, r.a, r.b, r.packed
	  FROM ecstats.rollup_scan_events(from_time, to_time, '{click,e1,nobody}', '{page_view,click,e1,e40}', true) r
$$;

-- The rows in which scans with this many workers (asked for) differ from those of one process; whether there were
-- workers; whether the leader scans too.
CREATE FUNCTION pg_temp.differences(from_time timestamptz, to_time timestamptz, workers int, leader bool DEFAULT true)
	RETURNS TABLE (side text, kind text, name text, a bigint, b bigint, packed bytea)
	LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	launched int;
BEGIN
	UPDATE ecstats.config SET rollup_workers = 0;
	CREATE TEMP TABLE alone AS SELECT * FROM pg_temp.answer(from_time, to_time);
	IF ecstats.rollup_scan_workers() <> 0 THEN
		RAISE EXCEPTION 'workers were not asked for';
	END IF;
	UPDATE ecstats.config SET rollup_workers = workers;
	PERFORM set_config('parallel_leader_participation', leader::text, true);
	CREATE TEMP TABLE together AS SELECT * FROM pg_temp.answer(from_time, to_time);
	launched := ecstats.rollup_scan_workers();
	PERFORM set_config('parallel_leader_participation', 'on', true);
	IF launched NOT BETWEEN 1 AND workers THEN
		RAISE EXCEPTION '% workers of %', launched, workers;
	END IF;
	RETURN QUERY
		(SELECT 'alone', x.* FROM alone x EXCEPT ALL SELECT 'alone', x.* FROM together x)
		UNION ALL
		(SELECT 'together', x.* FROM together x EXCEPT ALL SELECT 'together', x.* FROM alone x);
	DROP TABLE alone, together;
END
$$;

-- ---------------------------------------------------------------- data
CREATE TABLE ecstats.parallel_d1 PARTITION OF ecstats.events FOR VALUES FROM ('2024-05-01') TO ('2024-05-02');
CREATE TABLE ecstats.parallel_d2 PARTITION OF ecstats.events FOR VALUES FROM ('2024-05-02') TO ('2024-05-03');
-- Day 3 is in the default partition.
SELECT setseed(0.25);
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2024-05-01' + random() * interval '3 days',
	(ARRAY['u', 'user-of-a-longer-kind-', '用户', 'é'])[1 + floor(random() * 4)::int] || floor(power(random(), 2) * 1500)::int,
	(ARRAY['page_view', 'page_view', 'click', 'e' || floor(random() * 50)::int])[1 + floor(random() * 4)::int]
FROM generate_series(1, 30000) i;
-- More than a byte counts, and exactly what it counts, of early and of late names, all over the tables.
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2024-05-01' + random() * interval '3 days', 'robot', e.event
FROM (VALUES ('page_view', 2560), ('click', 255), ('e0', 257), ('e1', 1024), ('e48', 256), ('e49', 700), ('e40', 1)) e (event, n),
	generate_series(1, e.n) i
ORDER BY random();
-- A user with more names than follow a user at once, thrice each.
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2024-05-01' + random() * interval '3 days', 'curious', 'name' || i % 300 FROM generate_series(1, 900) i;

-- ---------------------------------------------------------------- the same rows
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-02', 1);
SELECT * FROM pg_temp.differences('2024-05-02', '2024-05-03', 2);
SELECT * FROM pg_temp.differences('2024-05-03', '2024-05-04', 2);	-- default partition alone
SELECT * FROM pg_temp.differences('2024-05-01 03:30', '2024-05-02 02:30', 3);
SELECT * FROM pg_temp.differences('-infinity', 'infinity', 4);
-- All of it comes from the workers.
SELECT * FROM pg_temp.differences('-infinity', 'infinity', 1, leader => false);
SELECT * FROM pg_temp.differences('-infinity', 'infinity', 3, leader => false);
-- No rows, and ids that are compressed or out of line.
SELECT * FROM pg_temp.differences('2023-01-01', '2023-01-02', 1, leader => false);
BEGIN;
ALTER TABLE ecstats.events DROP CONSTRAINT events_valid;
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT '2024-05-01 12:00', u.id, e.name
FROM (SELECT repeat('long', 16383) UNION ALL SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i UNION ALL SELECT '') u (id),
	(SELECT 'name' || i FROM generate_series(1, 300) i UNION ALL SELECT repeat('n', 9000)) e (name);
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-02', 1, leader => false);
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-05-01 12:00', repeat('long', 20000), 'click');
\set VERBOSITY terse
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-02', 1, leader => false);
\set VERBOSITY default
ROLLBACK;

-- ---------------------------------------------------------------- when there are workers
CREATE FUNCTION pg_temp.workers(setting text DEFAULT 'application_name', value text DEFAULT 'x') RETURNS int
	LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM set_config(setting, value, true);
	PERFORM FROM ecstats.rollup_scan_events('-infinity', 'infinity', '{}', '{}', false);
	RETURN ecstats.rollup_scan_workers();
END
$$;
UPDATE ecstats.config SET rollup_workers = 2;
SELECT pg_temp.workers() BETWEEN 1 AND 2 AS helped;
UPDATE ecstats.config SET rollup_workers = 0;
SELECT pg_temp.workers() AS not_wanted;
UPDATE ecstats.config SET rollup_workers = 2;
SELECT pg_temp.workers('max_parallel_workers', '0') AS none_to_be_had;
SELECT pg_temp.workers('min_parallel_table_scan_size', '1GB') AS too_small;
SELECT pg_temp.workers('min_parallel_table_scan_size', '256kB') AS one_for_the_size;
-- Below a Gather: in a worker, alone.
SELECT string_agg(proname, ',' ORDER BY proname) AS safe FROM pg_proc
 WHERE proname IN ('rollup_scan_events', 'rollup_scan_orders') AND proparallel = 's';
SELECT set_config(CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'force_parallel_mode' ELSE 'debug_parallel_query' END,
				  'regress', false) AS debug;
CREATE TEMP TABLE debugged AS SELECT * FROM pg_temp.answer('-infinity', 'infinity');
SELECT kind, a, b FROM ecstats.rollup_scan_events('2024-05-01', '2024-05-02', '{click}', '{}', false) WHERE kind IN ('t', 'v')
EXCEPT ALL
SELECT kind::"char", a, b FROM (SELECT 't' AS kind, count(*) AS a, count(*) FILTER (WHERE event = 'click') AS b FROM ecstats.parallel_d1
	UNION ALL SELECT 'v', count(DISTINCT user_id), NULL FROM ecstats.parallel_d1) x;
SELECT kind, quantity, amount FROM ecstats.rollup_scan_orders('2024-05-01', '2024-05-02', '{}');
SELECT set_config(CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'force_parallel_mode' ELSE 'debug_parallel_query' END,
				  'off', false) AS debug;
SELECT count(*) AS differ FROM (TABLE debugged EXCEPT ALL SELECT * FROM pg_temp.answer('-infinity', 'infinity')) x;

-- ---------------------------------------------------------------- in a transaction that writes
-- Its own rows, those of subtransactions, rows that it changed twice; not what it took back.
BEGIN;
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-05-01 05:00', 'own', 'own' || i % 5 FROM generate_series(1, 500) i;
SAVEPOINT a;
UPDATE ecstats.events SET user_id = 'changed' WHERE user_id = 'own' AND event = 'own1';
SAVEPOINT b;
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-05-01 06:00', 'taken-back', 'click' FROM generate_series(1, 500) i;
ROLLBACK TO b;
DELETE FROM ecstats.events WHERE user_id = 'changed' AND random() < 0.5;
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-02', 2, leader => false);
SELECT u.user_id, sum(u.event_count) > 0 AS rows FROM pg_temp.answer('2024-05-01', '2024-05-02') r CROSS JOIN LATERAL ecstats.rollup_users_unpack(r.packed) u
 WHERE r.kind = 'u' AND u.user_id IN ('own', 'changed', 'taken-back') GROUP BY 1 ORDER BY 1;
SELECT ecstats.rollup_scan_workers() > 0 AS helped;
-- A table of the same transaction.
CREATE TABLE ecstats.parallel_d4 PARTITION OF ecstats.events FOR VALUES FROM ('2024-05-04') TO ('2024-05-05');
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-05-04 05:00', 'u' || i, 'click' FROM generate_series(1, 500) i;
SELECT * FROM pg_temp.differences('2024-05-04', '2024-05-05', 2, leader => false);
ROLLBACK;
-- Where the result is written at once.
CREATE TEMP TABLE written (kind text, name text, a bigint);
WITH w AS (
	INSERT INTO written SELECT kind::text, name, a FROM ecstats.rollup_scan_events('2024-05-01', '2024-05-03', '{}', '{}', true)
	RETURNING kind
)
SELECT count(*) > 100 AS written FROM w;
SELECT ecstats.rollup_scan_workers() > 0 AS helped;
SELECT count(*) AS differ FROM (SELECT kind, name, a FROM pg_temp.answer('2024-05-01', '2024-05-03') WHERE kind <> 'f' EXCEPT ALL TABLE written) x;
-- At every level; in a cursor.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-03', 2, leader => false);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
DELETE FROM ecstats.events WHERE user_id = 'u1';
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-03', 2, leader => false);
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-05-01 05:00', 'after', 'click';
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT a > 0 AS rows FROM ecstats.rollup_scan_events('2024-05-01', '2024-05-03', '{}', '{}', false) WHERE kind = 't';
SELECT ecstats.rollup_scan_workers() > 0 AS helped;
DECLARE scan NO SCROLL CURSOR FOR SELECT kind, b FROM ecstats.rollup_scan_events('2024-05-01', '2024-05-03', '{}', '{}', false) WHERE kind IN ('t', 'v') ORDER BY kind;
FETCH 1 FROM scan;
SELECT ecstats.rollup_scan_workers() > 0 AS helped;
FETCH 1 FROM scan;
COMMIT;
-- The close of a day.
SELECT event_count = (SELECT count(*) FROM ecstats.parallel_d1) AS all_events, revision FROM ecstats_daily('2024-05-01');
SELECT ecstats.rollup_scan_workers() > 0 AS helped;
SELECT count(*) = (SELECT uv FROM ecstats.daily_kpi WHERE day = '2024-05-01') AS users
  FROM (SELECT DISTINCT user_id FROM ecstats.user_daily WHERE day = '2024-05-01') u;

-- ---------------------------------------------------------------- errors
-- A worker's users take too much: its error is the leader's, and an EXCEPTION block goes on behind it.
CREATE FUNCTION pg_temp.too_small(leader bool) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	context text;
BEGIN
	UPDATE ecstats.config SET rollup_memory = 1;
	PERFORM set_config('parallel_leader_participation', leader::text, true);
	PERFORM FROM ecstats.rollup_scan_events('-infinity', 'infinity', '{}', '{}', true);
	RETURN 'it was enough';
EXCEPTION WHEN out_of_memory THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
	RETURN format('%s: %s%s', SQLSTATE, SQLERRM, CASE WHEN context LIKE '%parallel worker%' THEN ', in a worker' END);
END
$$;
BEGIN;
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-05-01 05:00', 'many' || i, 'click' FROM generate_series(1, 20000) i;
SELECT pg_temp.too_small(false);
SELECT pg_temp.too_small(false);
SELECT left(pg_temp.too_small(true), 46) AS too_small;
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-03', 2);
ROLLBACK;
UPDATE ecstats.config SET rollup_memory = 0;
-- Cancelled at some moment, four times over; the session goes on.
SET statement_timeout = '60ms';
SELECT count(*) FROM generate_series(1, 100000) i, ecstats.rollup_scan_events('-infinity', timestamptz '2024-05-04' + i * interval '1 s', '{}', '{}', true);
SET statement_timeout = '83ms';
SELECT count(*) FROM generate_series(1, 100000) i, ecstats.rollup_scan_events('-infinity', timestamptz '2024-05-04' + i * interval '1 s', '{}', '{}', true);
SET statement_timeout = '97ms';
SELECT count(*) FROM generate_series(1, 100000) i, ecstats.rollup_scan_events('-infinity', timestamptz '2024-05-04' + i * interval '1 s', '{}', '{}', true);
SET statement_timeout = '111ms';
SELECT count(*) FROM generate_series(1, 100000) i, ecstats.rollup_scan_events('-infinity', timestamptz '2024-05-04' + i * interval '1 s', '{}', '{}', true);
RESET statement_timeout;
SELECT * FROM pg_temp.differences('2024-05-01', '2024-05-03', 2);

-- ---------------------------------------------------------------- a session that calls often
UPDATE ecstats.config SET rollup_workers = 1;
DO $$
DECLARE
	before bigint;
	grown bigint;
	helped int := 0;
BEGIN
	FOR i IN 1 .. 60 LOOP
		PERFORM FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-02 01:00', '{click}', '{page_view,click}', true);
		helped := helped + (ecstats.rollup_scan_workers() > 0)::int;
		IF i = 20 THEN
			SELECT sum(used_bytes) INTO before FROM pg_backend_memory_contexts;
		END IF;
	END LOOP;
	SELECT sum(used_bytes) - before INTO grown FROM pg_backend_memory_contexts;
	IF grown > 100000 THEN
		RAISE EXCEPTION '40 calls left % bytes', grown;
	END IF;
	IF helped < 40 THEN
		RAISE EXCEPTION 'workers in % of 60 calls', helped;
	END IF;
END
$$;
SELECT count(*) AS contexts_left FROM pg_backend_memory_contexts WHERE name LIKE 'ecstats rollup%';

SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
