-- Sources: queries run as their owner, days taken again as a whole, watermarks; fetches of HTTP sources by hand.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
DROP SCHEMA IF EXISTS shop CASCADE;
RESET client_min_messages;
\set VERBOSITY default
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
CREATE ROLE ecstats_s1;
CREATE ROLE ecstats_s2;
GRANT USAGE ON SCHEMA ecstats TO ecstats_s1, ecstats_s2;
GRANT SELECT (name, kind, target, owner, enabled, query, watermark), INSERT, UPDATE, DELETE ON ecstats.sources TO ecstats_s1, ecstats_s2;
CREATE SCHEMA shop AUTHORIZATION ecstats_s1;

-- ---------------------------------------------------------------- who and what
SET ROLE ecstats_s1;
CREATE TABLE shop.orders (order_id bigint, line_no smallint, order_time timestamp, user_id int, product_id text, region text, channel char(8), quantity numeric(5),
	amount numeric(10,2), status text, paid_time timestamptz, coupon text, gift boolean, more jsonb);
INSERT INTO ecstats.sources (name, target, query, owner) VALUES ('shop', 'orders', 'shop.orders', 'postgres');
INSERT INTO ecstats.sources (name, target, query) VALUES ('bad', 'orders', 'DELETE FROM shop.orders');
INSERT INTO ecstats.sources (name, target, query) VALUES ('bad', 'orders', 'SELECT 1; SELECT 2');
INSERT INTO ecstats.sources (name, target, query) VALUES ('bad', 'orders', 'SELEC 1');
INSERT INTO ecstats.sources (name, target, query) VALUES ('bad', 'orders', 'SELECT 1 INTO x');
INSERT INTO ecstats.sources (name, target, query) VALUES ('bad', 'order', 'shop.orders');
INSERT INTO ecstats.sources (name, target) VALUES ('bad', 'orders');
INSERT INTO ecstats.sources (name, target, query) VALUES ('track', 'events', 'shop.orders');
INSERT INTO ecstats.sources (name, target, query, options) VALUES ('bad', 'orders', 'shop.orders', '{"items": "$"}');
INSERT INTO ecstats.sources (name, target, query, options) VALUES ('bad', 'orders', 'shop.orders', '{"replace": "yes"}');
INSERT INTO ecstats.sources (name, target, query, options) VALUES ('bad', 'events', 'shop.orders', '{"replace": true}');
INSERT INTO ecstats.sources (name, target, query, timeout) VALUES ('bad', 'orders', 'shop.orders', '-1 s');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', 'ftp://x/y');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', 'https://x/y?d={{day}}');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', 'https://{{date}}/y');
INSERT INTO ecstats.sources (name, kind, target, url, headers) VALUES ('bad', 'http', 'orders', 'https://x/y', ARRAY[E'X: y\r\nEvil: z']);
INSERT INTO ecstats.sources (name, kind, target, url, secret) VALUES ('bad', 'http', 'orders', 'https://x/y', E'a\nb');
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('bad', 'http', 'orders', 'https://x/y', '{"items": "data.orders"}');
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('bad', 'http', 'orders', 'https://x/y', '{"fields": {"order_id": "$.["}}');
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('bad', 'http', 'orders', 'https://x/y', '{"max_pages": 1.5}');
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('bad', 'http', 'orders', 'https://x/y', '{"timezone": "Mars/Olympus"}');
INSERT INTO ecstats.sources (name, kind, target, url, query) VALUES ('bad', 'http', 'orders', 'https://x/y', 'shop.orders');
SELECT secret FROM ecstats.sources;
RESET ROLE;
SET ROLE ecstats_s2;
UPDATE ecstats.sources SET query = 'public.other' WHERE name = 'shop';
DELETE FROM ecstats.sources WHERE name = 'shop';
RESET ROLE;
SELECT name, kind, target, owner, watermark FROM ecstats.sources;

-- ---------------------------------------------------------------- a day of a table
INSERT INTO shop.orders VALUES
	(1, 1, '2026-03-01 00:00:00', 7, 'p1', '上海', 'app', 2, 19.90, 'paid', '2026-03-01 00:01+08', 'C😀', true, '{"a": [1]}'),
	(1, 2, '2026-03-01 00:00:00', 7, 'p2', '上海', 'app', 1, 5, 'paid', '2026-03-01 00:01+08', NULL, false, NULL),
	(2, 1, '2026-03-01 23:59:59.5', NULL, 'p1', NULL, NULL, 1, 9.95, NULL, NULL, NULL, NULL, NULL),
	(3, 1, '2026-03-02 00:00:00', 8, 'p1', NULL, NULL, 1, 9.95, NULL, NULL, NULL, NULL, NULL);
SELECT ecstats_collect('shop', '2026-03-01');
SELECT * FROM ecstats.order_lines ORDER BY order_id, line_no;
SELECT name, watermark, last_day, last_rows, last_error FROM ecstats.sources;
-- again: nothing changes
CREATE TEMP TABLE before AS SELECT xmin AS x, ctid AS c FROM ecstats.order_lines;
SELECT ecstats_collect('shop', '2026-03-01');
SELECT count(*) FROM ecstats.order_lines l JOIN before b ON b.x = l.xmin AND b.c = l.ctid;
-- late commits and corrections; bad rows are kept, once, and taken back when they are good
INSERT INTO shop.orders VALUES (4, 1, '2026-03-01 12:00:00', 9, 'p3', 'x', 'y', 1, 'NaN', 'paid', NULL), (5, 1, '2026-03-01 12:00:00', 9, 'p3', 'x', 'y', -1, 1, 'paid', NULL);
UPDATE shop.orders SET amount = 6 WHERE order_id = 1 AND line_no = 2;
SELECT ecstats_collect('shop', '2026-03-01');
SELECT ecstats_collect('shop', '2026-03-01');
SELECT id, source, day, payload, sqlstate, reason FROM ecstats.rejects ORDER BY id;
SELECT ecstats_retry_rejects();
UPDATE shop.orders SET amount = 1 WHERE order_id = 4;
SELECT ecstats_collect('shop', '2026-03-01');
SELECT id, source, day, payload -> 'order_id' AS order_id, sqlstate FROM ecstats.rejects ORDER BY id;
SELECT order_id, line_no, amount FROM ecstats.order_lines ORDER BY 1, 2;
-- the only source may drop what is gone; not while a row is bad
UPDATE ecstats.sources SET options = '{"replace": true}';
DELETE FROM shop.orders WHERE order_id = 2;
SELECT ecstats_collect('shop', '2026-03-01');
SELECT count(*) FROM ecstats.order_lines WHERE order_id = '2';
DELETE FROM shop.orders WHERE order_id = 5;
SELECT ecstats_collect('shop', '2026-03-01');
SELECT order_id, line_no, amount FROM ecstats.order_lines ORDER BY 1, 2;
SELECT count(*) FROM ecstats.rejects;
-- on_error raise; a row given twice
INSERT INTO shop.orders VALUES (6, 1, '2026-03-01 12:00:00', 9, 'p3', 'x', 'y', 1, -1, 'paid', NULL);
UPDATE ecstats.sources SET on_error = 'raise';
SELECT ecstats_collect('shop', '2026-03-01');
UPDATE shop.orders SET amount = 1, line_no = 1, order_id = 4 WHERE order_id = 6;
SELECT ecstats_collect('shop', '2026-03-01');
DELETE FROM shop.orders WHERE order_id = 4;
SELECT ecstats_collect('none', '2026-03-01');
SELECT ecstats_collect('shop', NULL);
SELECT ecstats_collect('shop', '9999-01-01');
UPDATE ecstats.sources SET enabled = false;
SELECT ecstats_collect('shop', '2026-03-01');
UPDATE ecstats.sources SET enabled = true, on_error = 'quarantine', options = '{}';

-- ---------------------------------------------------------------- watermarks
-- a run over a gap does not move it, the next day does
SELECT ecstats_collect('shop', '2026-03-03'), watermark FROM ecstats.sources;
SELECT watermark FROM ecstats.sources;
SELECT ecstats_collect('shop', '2026-03-02');
SELECT watermark FROM ecstats.sources;
SELECT * FROM ecstats.source_behind(ecstats.day_start('2026-03-03'));
SELECT * FROM ecstats.source_behind(ecstats.day_start('2026-03-03') + interval '1 us');
SELECT status, detail ~ 'behind' AS behind, hint FROM ecstats.source_status('2026-03-04 12:00+08');
SELECT status, detail ~ 'behind' AS behind, hint FROM ecstats.source_status('2026-03-03 12:00+08');
-- the running day: only as far as the run itself saw
SELECT ecstats_collect('shop', ecstats_day()) IS NOT NULL AS taken;
UPDATE ecstats.sources SET watermark = ecstats.day_start(ecstats_day());
SELECT ecstats_collect('shop', ecstats_day()) IS NOT NULL AS taken;
SELECT watermark > ecstats.day_start(ecstats_day()) AND watermark <= clock_timestamp() AS as_far_as_seen FROM ecstats.sources;
-- the source says so itself
CREATE TABLE shop.progress (at timestamp);
ALTER TABLE shop.progress OWNER TO ecstats_s1;
UPDATE ecstats.sources SET watermark_query = 'SELECT max(at) FROM shop.progress WHERE at >= $1::timestamp';
INSERT INTO shop.progress VALUES ('2026-03-05 06:00');
SELECT ecstats_collect('shop', '2026-03-02');
SELECT watermark FROM ecstats.sources;
SELECT ecstats_collect('shop', '2026-03-09');
SELECT watermark FROM ecstats.sources;
UPDATE ecstats.sources SET watermark_query = 'SELECT 1';
SELECT ecstats_collect('shop', '2026-03-02');
UPDATE ecstats.sources SET watermark_query = 'SELECT now() FROM generate_series(1, 2)';
SELECT ecstats_collect('shop', '2026-03-02');
DELETE FROM ecstats.sources;

-- ---------------------------------------------------------------- events, columns by name
TRUNCATE ecstats.rejects;
SET ROLE ecstats_s1;
INSERT INTO ecstats.sources (name, target, query) VALUES ('web', 'events',
	$$SELECT t AS event_time, u AS user_id, e AS event, id AS event_id, p AS page_url, n AS score, d AS born, f AS ratio
		FROM (VALUES (timestamp '2026-03-01 10:00', 5, 'login', '11111111-1111-1111-1111-111111111111'::uuid, '/a', 1.50, date '2000-01-02', 0.5::float8),
					 (timestamp '2026-03-01 11:00', 6, 'LOGIN', NULL, NULL, NULL, NULL, 'NaN'),
					 (timestamp '2026-03-01 12:00', 7, 'click', NULL, NULL, NULL, NULL, 'NaN')) v(t, u, e, id, p, n, d, f)
	   WHERE t >= $1 AND t < $2$$);
RESET ROLE;
SELECT ecstats_collect('web', '2026-03-01'), ecstats_collect('web', '2026-03-02');
SELECT ecstats_collect('web', '2026-03-01');
SELECT event_time, user_id, event, event_id, page_url, extra FROM ecstats.events ORDER BY 1;
SELECT source, day, payload, sqlstate, reason FROM ecstats.rejects;
-- the same key with other content
UPDATE ecstats.sources SET query = replace(query, '''/a''', '''/b''');
SELECT ecstats_collect('web', '2026-03-01');
SELECT payload, sqlstate, reason FROM ecstats.rejects WHERE sqlstate = '23505';
UPDATE ecstats.sources SET query = 'SELECT now() AS event_time, now() AS timestamp, 1 AS user_id, ''x'' AS event';
SELECT ecstats_collect('web', '2026-03-01');
UPDATE ecstats.sources SET query = 'SELECT now() AS event_time, 1 AS user_id';
SELECT ecstats_collect('web', '2026-03-01');
UPDATE ecstats.sources SET query = 'shop.progress';
SELECT ecstats_collect('web', '2026-03-01');
UPDATE ecstats.sources SET query = 'orders';
SELECT ecstats_collect('web', '2026-03-01');

-- ---------------------------------------------------------------- what a query may not do
SET ROLE ecstats_s1;
CREATE FUNCTION shop.try(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
CREATE TABLE shop.deferred (i int);
CREATE FUNCTION shop.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'deferred trigger as %', current_user; END $$;
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON shop.deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.fired();
UPDATE ecstats.sources SET query = $$SELECT $1 AS event_time, 1 AS user_id, 'x' AS event, c AS command, shop.try(c) AS answer, current_user::text AS who,
	current_setting('search_path') AS path FROM unnest(ARRAY['RESET ROLE', 'SET ROLE postgres', 'SET SESSION AUTHORIZATION DEFAULT', 'SET SESSION AUTHORIZATION postgres',
	'INSERT INTO shop.deferred VALUES (1)', 'SET transaction_read_only = off', 'SELECT set_config(''transaction_read_only'', ''off'', false)',
	'CREATE TEMP TABLE t (i int)', 'LISTEN x', 'PREPARE p AS SELECT 1', 'DISCARD ALL', 'SELECT pg_advisory_lock(42)', 'SET work_mem = ''1MB''',
	'SELECT count(*) FROM ecstats.order_lines', 'DELETE FROM ecstats.sources']) c$$;
RESET ROLE;
SET work_mem = '7MB';
BEGIN;
SELECT ecstats_collect('web', '2026-03-01');
SELECT extra ->> 'command' AS command, extra ->> 'answer' AS answer, extra ->> 'who' AS who, extra ->> 'path' AS path FROM ecstats.events WHERE event = 'x' ORDER BY extra ->> 'command' COLLATE "C";
SELECT current_user, current_setting('work_mem') AS work_mem, current_setting('transaction_read_only') AS read_only, current_setting('timezone') AS timezone;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND pid = pg_backend_pid();
COMMIT;
RESET work_mem;
-- an error gives everything back, advisory locks too
UPDATE ecstats.sources SET query = 'SELECT $1 AS event_time, 1 AS user_id, ''x'' AS event, pg_advisory_lock(43), shop.none()', owner = 'ecstats_s1';
SELECT ecstats_collect('web', '2026-03-01');
UPDATE ecstats.sources SET query = 'SELECT $1 AS event_time, 1 AS user_id, ''x'' AS event, pg_advisory_lock(43)::text AS l, 1 / (2 - i) FROM generate_series(1, 2) i';
SELECT ecstats_collect('web', '2026-03-01');
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
UPDATE ecstats.sources SET query = 'WITH d AS (DELETE FROM shop.orders RETURNING *) SELECT $1 AS event_time, user_id, ''x'' AS event FROM d';
SELECT ecstats_collect('web', '2026-03-01');
UPDATE ecstats.sources SET query = 'SELECT $1 AS event_time, user_id, ''x'' AS event FROM shop.orders FOR UPDATE';
SELECT ecstats_collect('web', '2026-03-01');
-- the timer, and nothing of it afterwards
UPDATE ecstats.sources SET query = 'SELECT $1 AS event_time, 1 AS user_id, ''x'' AS event, pg_sleep(60)', timeout = '50 ms';
SELECT ecstats_collect('web', '2026-03-01');
DO $$ BEGIN PERFORM ecstats_collect('web', '2026-03-01'); EXCEPTION WHEN query_canceled THEN RAISE NOTICE 'caught as %', current_user; INSERT INTO shop.progress VALUES (NULL); END $$;
SELECT current_user, current_setting('transaction_read_only') AS read_only;
-- another role's table; a role that is gone; not directly
UPDATE ecstats.sources SET query = 'SELECT $1 AS event_time, user_id, event FROM ecstats.events', timeout = '1 min';
SELECT ecstats_collect('web', '2026-03-01');
UPDATE ecstats.sources SET owner = 'nobody_there';
UPDATE ecstats.sources SET owner_id = 1;
SELECT ecstats_collect('web', '2026-03-01');
SET ROLE ecstats_s1;
SELECT * FROM ecstats.source_rows('events', 'x', 10, 'SELECT 1', now(), now(), 'UTC', 1000);
RESET ROLE;
GRANT EXECUTE ON FUNCTION ecstats.source_rows(text, text, oid, text, timestamptz, timestamptz, text, int) TO ecstats_s1;
SET ROLE ecstats_s1;
SELECT * FROM ecstats.source_rows('events', 'x', 10, 'SELECT 1', now(), now(), 'UTC', 1000);
RESET ROLE;
DELETE FROM ecstats.sources;
TRUNCATE ecstats.rejects, ecstats.order_lines;
DELETE FROM ecstats.events;
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
DROP SCHEMA shop CASCADE;
DROP ROLE ecstats_s1, ecstats_s2;
