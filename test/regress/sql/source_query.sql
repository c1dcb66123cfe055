-- What the query of a source may not write, and what it does not leave behind in the session that it runs in.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
DROP SCHEMA IF EXISTS shop CASCADE;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'UTC';
CREATE ROLE ecstats_s1;
CREATE SCHEMA shop AUTHORIZATION ecstats_s1;
GRANT USAGE ON SCHEMA ecstats TO ecstats_s1;
GRANT SELECT (name, query), INSERT, UPDATE ON ecstats.sources TO ecstats_s1;
SET ROLE ecstats_s1;
CREATE SEQUENCE shop.numbers;
CREATE TABLE shop.written (i int);
CREATE FUNCTION shop.try(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
INSERT INTO ecstats.sources (name, target, query) VALUES ('try', 'events', $$SELECT $1 AS event_time, 1 AS user_id, 'x' AS event, c AS command, shop.try(c) AS answer FROM unnest(ARRAY[
	'SELECT nextval(''shop.numbers'')', 'SELECT setval(''shop.numbers'', 9)', 'TRUNCATE shop.written', 'COPY shop.written FROM STDIN', 'CREATE TABLE shop.more (i int)', 'DROP TABLE shop.written',
	'SELECT count(*) FROM shop.written FOR UPDATE', 'LOCK TABLE shop.written IN EXCLUSIVE MODE', 'COMMIT', 'SAVEPOINT s', 'DEALLOCATE ALL', 'UNLISTEN *', 'GRANT SELECT ON shop.written TO PUBLIC',
	'ALTER ROLE ecstats_s1 PASSWORD ''x''', 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SET LOCAL role TO DEFAULT', 'SELECT set_config(''role'', ''none'', false)', 'SELECT set_config(''session_authorization'', ''postgres'', false)']) c$$),
	('leave', 'events', $$SELECT $1 AS event_time, 1 AS user_id, 'leave' AS event, c AS command, shop.try(c) IS NOT NULL AS tried FROM unnest(ARRAY[
	'SELECT lo_from_bytea(987654, ''\x00'')', 'SELECT pg_notify(''source_test'', ''hello'')', 'NOTIFY source_test', 'SET CONSTRAINTS ALL IMMEDIATE', 'SET search_path = shop', 'SET TimeZone = ''Asia/Tokyo''',
	'SELECT set_config(''shop.left'', ''yes'', false)', 'SET LOCAL transaction_read_only = on', 'SET default_transaction_read_only = on', 'SELECT pg_advisory_lock(42)', 'SELECT pg_advisory_lock_shared(42)', 'SELECT pg_advisory_lock_shared(42) /* again */', 'SELECT pg_advisory_xact_lock(43)']) c$$);
RESET ROLE;

-- ---------------------------------------------------------------- refused
SELECT ecstats_collect('try', '2026-03-01');
SELECT extra ->> 'command' AS command, extra ->> 'answer' AS answer FROM ecstats.events WHERE event = 'x' ORDER BY extra ->> 'command' COLLATE "C";
SELECT last_value, is_called FROM shop.numbers;

-- ---------------------------------------------------------------- undone
CREATE TABLE shop.checked (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);
LISTEN source_test;
CREATE VIEW pg_temp.advisory AS SELECT classid, objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2, 3;
SELECT ecstats_collect('leave', '2026-03-01');
SELECT count(*) FROM ecstats.events WHERE event = 'leave' AND extra -> 'tried' = 'true';
SELECT current_user, current_setting('search_path') AS search_path, current_setting('timezone') AS timezone, coalesce(current_setting('shop.left', true), '') AS "left", current_setting('transaction_read_only') AS ro,
	current_setting('default_transaction_read_only') AS default_ro;
SELECT * FROM pg_temp.advisory;
SELECT count(*) FROM pg_largeobject_metadata WHERE oid = 987654;
-- the caller's own are kept: its locks, its deferred constraint
SELECT pg_advisory_lock(7), pg_advisory_lock_shared(42);
BEGIN;
SELECT pg_advisory_xact_lock(8);
INSERT INTO shop.checked VALUES (1), (1);
SELECT ecstats_collect('leave', '2026-03-01');
SELECT * FROM pg_temp.advisory;
SELECT current_setting('transaction_read_only') AS ro;
UPDATE shop.checked SET i = 2 WHERE ctid = '(0,1)';
INSERT INTO shop.checked VALUES (3), (3);
DELETE FROM shop.checked WHERE i = 3;
COMMIT;
SELECT i FROM shop.checked ORDER BY 1;
SELECT * FROM pg_temp.advisory;
-- after an error too, and none that is not there is missed
UPDATE ecstats.sources SET owner = 'ecstats_s1', query = 'SELECT $1 AS event_time, 1 AS user_id, ''x'' AS event, pg_advisory_lock(44)::text AS l, 1 / (2 - i) AS d FROM generate_series(1, 2) i' WHERE name = 'leave';
SELECT ecstats_collect('leave', '2026-03-01');
SELECT * FROM pg_temp.advisory;
SELECT pg_advisory_unlock(7), pg_advisory_unlock_shared(42);
SELECT * FROM pg_temp.advisory;
UNLISTEN source_test;

-- ---------------------------------------------------------------- the timer: what catches it has failed all the same
SET ROLE ecstats_s1;
CREATE FUNCTION shop.stubborn() RETURNS SETOF int LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT 1;
	PERFORM pg_sleep(60);
	RETURN NEXT 2;
EXCEPTION WHEN query_canceled THEN
	RETURN;
END $$;
RESET ROLE;
UPDATE ecstats.sources SET owner = 'ecstats_s1', timeout = '50 ms', query = 'SELECT $1 AS event_time, i AS user_id, ''stubborn'' AS event FROM shop.stubborn() i' WHERE name = 'leave';
SELECT ecstats_collect('leave', '2026-03-01');
SELECT count(*) FROM ecstats.events WHERE event = 'stubborn';
SELECT watermark FROM ecstats.sources WHERE name = 'leave';
-- nothing of it hits what comes after
SELECT count(*) FROM pg_sleep(0.1);

-- ---------------------------------------------------------------- more rows than memory, out of the subtransaction
SET work_mem = '64kB';
UPDATE ecstats.sources SET owner = 'ecstats_s1', timeout = '1 min', query = 'SELECT $1 + i * interval ''1 ms'' AS event_time, i AS user_id, ''many'' AS event, repeat(i::text, 20) AS filler FROM generate_series(1, 3000) i' WHERE name = 'leave';
SELECT ecstats_collect('leave', '2026-03-01');
SELECT count(*), count(DISTINCT user_id), sum(length(extra ->> 'filler')) FROM ecstats.events WHERE event = 'many';
RESET work_mem;
-- rows of 1 MB: a batch of them is in memory, not 500
CREATE FUNCTION shop.used(integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts); END $$;
UPDATE ecstats.sources SET owner = current_user, query = 'SELECT $1 + i * interval ''1 s'' AS event_time, i AS user_id, ''wide'' AS event, repeat(''x'', 1000000) AS filler, shop.used(i) AS used FROM generate_series(1, 100) i' WHERE name = 'leave';
SELECT ecstats_collect('leave', '2026-03-01');
SELECT count(*), max((payload ->> 'used')::bigint) - min((payload ->> 'used')::bigint) < 30000000 AS bounded FROM ecstats.rejects WHERE source = 'leave';

-- ---------------------------------------------------------------- a watermark speaks of what is committed by now
UPDATE ecstats.sources SET watermark = NULL WHERE name = 'leave';
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats_collect('leave', '2026-03-01');
ROLLBACK;
SELECT watermark FROM ecstats.sources WHERE name = 'leave';
DELETE FROM ecstats.sources;
TRUNCATE ecstats.rejects;
DELETE FROM ecstats.events;
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
DROP SCHEMA shop CASCADE;
DROP ROLE ecstats_s1;
