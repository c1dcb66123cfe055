-- What the intake of events and orders promises beyond the single row: repeats, plans, bounds, the shop's clock.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';

-- ------------------------------------------------------------------ the same again
-- events by ecstats_track, with an event_id and without; INSERT; COPY
SELECT ecstats_track('[{"event":"click","timestamp":1772400000,"user_id":"u"},{"event":"click","timestamp":1772400000,"user_id":"u"},
	{"event":"click","timestamp":1772400000,"user_id":"u","event_id":"00000000-0000-0000-0000-000000000001"}]');
SELECT ecstats_track('[{"event":"click","timestamp":1772400000,"user_id":"u"},{"event":"click","timestamp":1772400000.0,"user_id":"u","extra":{}},
	{"event":"click","timestamp":1772400000000,"user_id":"u","event_id":"00000000000000000000000000000001"}]');
SELECT ecstats_track('{"event":"other","timestamp":1772400000,"user_id":"u","event_id":"00000000-0000-0000-0000-000000000001"}');
SELECT ecstats_track('{"event":"other","timestamp":1772400000,"user_id":"u","event_id":"00000000-0000-0000-0000-000000000001"}', 'quarantine');
SELECT source, sqlstate, reason FROM ecstats.rejects;
INSERT INTO ecstats.events (event_time, user_id, event, event_id) VALUES (to_timestamp(1772400000), 'u', 'click', '00000000-0000-0000-0000-000000000001') ON CONFLICT DO NOTHING;
INSERT INTO ecstats.events (event_time, user_id, event, event_id) VALUES (to_timestamp(1772400000), 'u', 'click', '00000000-0000-0000-0000-000000000001');
\set ON_ERROR_ROLLBACK on
COPY ecstats.events (event_time, user_id, event, event_id) FROM stdin (FORMAT csv);
2026-03-01 21:20:00+00,v,click,00000000-0000-0000-0000-000000000002
2026-03-01 21:20:00+00,u,click,00000000-0000-0000-0000-000000000001
\.
-- rows without an event_id are not deduplicated
COPY ecstats.events (event_time, user_id, event) FROM stdin (FORMAT csv);
2026-03-01 21:20:00+00,w,click
2026-03-01 21:20:00+00,w,click
\.
SELECT user_id, event, event_id IS NULL AS without_id, count(*) FROM ecstats.events GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- orders by ecstats_order, INSERT and COPY
SELECT ecstats_order('{"order_id":"o1","timestamp":1772400000,"items":[{"product_id":"a","quantity":1,"amount":5},{"product_id":"b","quantity":1,"amount":5}]}');
SELECT ecstats_order('{"order_id":"o1","timestamp":1772400000.0,"status":"placed","items":[{"product_id":"a","quantity":1,"amount":"5.00"},{"product_id":"b","quantity":1,"amount":5.0}]}');
SELECT ecstats_order('{"order_id":"o1","timestamp":1772400000,"items":[{"product_id":"a","quantity":1,"amount":5},{"product_id":"b","quantity":2,"amount":5}]}');
SELECT line_no, product_id, quantity, amount FROM ecstats.order_lines ORDER BY 1;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('o1', 1, to_timestamp(1772400000), 'a', 1, 5);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('o1', 1, to_timestamp(1772400000), 'a', 1, 5) ON CONFLICT DO NOTHING;
COPY ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) FROM stdin (FORMAT csv);
o1,1,2026-03-01 21:20:00+00,a,1,5
\.
\set ON_ERROR_ROLLBACK off

-- a repeat says nothing new: a closed day is not computed again for it
SELECT event_count, order_count, revision FROM ecstats_daily('2026-03-02');
SELECT ecstats_order('[{"order_id":"o1","timestamp":1772400000,"items":[{"product_id":"a","quantity":1,"amount":5},{"product_id":"b","quantity":2,"amount":5}]}]');
SELECT count(*) AS marks FROM ecstats.day_marks;
-- one of two lines differs: that one is written, and the day is marked
SELECT ecstats_order('[{"order_id":"o1","timestamp":1772400000,"items":[{"product_id":"a","quantity":1,"amount":5},{"product_id":"b","quantity":3,"amount":5}]}]');
SELECT day FROM ecstats.day_marks;
SELECT quantity, revision FROM ecstats_daily('2026-03-02');

-- ------------------------------------------------------------------ plans that hold
-- A batch and its repeat, all orders of one instant, in a session whose plans were made for an empty table: a
-- join of the payload with itself or with the table would not be over in this time.
TRUNCATE ecstats.order_lines;
SELECT count(*) AS calls, sum(ecstats_order(jsonb_build_object('order_id', 'w' || i, 'timestamp', 1772400000, 'items', '[]'::jsonb))) FROM generate_series(1, 8) i;
CREATE TEMP TABLE batch AS SELECT jsonb_agg(jsonb_build_object('order_id', 'n' || i, 'timestamp', 1772400000, 'items', (SELECT jsonb_agg(jsonb_build_object('product_id', 'p' || j,
	'quantity', 1, 'amount', i)) FROM generate_series(1, 3) j))) AS payload FROM generate_series(1, 10000) i;
SET statement_timeout = '20s';
SELECT ecstats_order(payload) FROM batch;
SELECT ecstats_order(payload) FROM batch;
SELECT ecstats_order(payload || jsonb_build_array(payload -> 0 || '{"items": []}')) FROM batch;
SELECT ecstats_order('[{"order_id":"bad","timestamp":1}]', 'quarantine'), ecstats_order('{"order_id":"bad2","timestamp":1772400000}', 'quarantine');
RESET statement_timeout;
-- a single order and a retry look into the key's index alone
BEGIN;
SELECT ecstats_order('{"order_id":"n77","timestamp":1772400000,"items":[{"product_id":"p1","quantity":1,"amount":1}]}');
SELECT ecstats_retry_rejects('order');
SELECT seq_scan AS scans_of_order_lines FROM pg_stat_xact_user_tables WHERE relid = 'ecstats.order_lines'::regclass;
COMMIT;

-- of two rejects of one order the later one holds; what was no element stays one that is not, and ends no retry
DELETE FROM ecstats.rejects;
INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
SELECT 'order', jsonb_build_object('order_id', 'twice', 'timestamp', 1772400000, 'items', jsonb_build_array(jsonb_build_object('product_id', 'p', 'quantity', 1, 'amount', n))), '23514', 'version ' || n
  FROM generate_series(1, 3) n;
SELECT ecstats_track('[[{"event": "nested", "user_id": "n", "timestamp": 1772400000}], 5]', 'quarantine') AS track,
	   ecstats_order(jsonb_build_array((SELECT jsonb_agg(1) FROM generate_series(1, 100001))), 'quarantine') AS orders;
SELECT ecstats_retry_rejects();
SELECT amount FROM ecstats.order_lines WHERE order_id = 'twice';
SELECT source, reason FROM ecstats.rejects ORDER BY id;
SELECT count(*) AS nested FROM ecstats.events WHERE event = 'nested';
DELETE FROM ecstats.rejects;

-- ------------------------------------------------------------------ an extra is at most 16 kB as it prints
-- a number of 8 stored bytes may print as 131 kB
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text; d text; h text; c text;
BEGIN
	EXECUTE statement;
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, c = COLUMN_NAME;
	RETURN concat_ws(' | ', SQLSTATE, c, m, d, h);
END
$$;
SELECT n, pg_temp.try(format('INSERT INTO ecstats.events (user_id, event, extra) VALUES (''x'', ''click'', %L)', extra)) AS events,
	   pg_temp.try(format('INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount, extra) VALUES (%L, 1, ''2026-03-01'', ''p'', 1, 1, %L)', 'x' || n, extra)) = 'stored' AS orders
  FROM (VALUES (1, '{"a": 1e131071}'), (2, '{"a": 1e-16383}'), (3, '{"a": {"b": [1, [1e16000]]}}'), (4, '{"a": [1e8000, {"b": 1e8400}]}'), (5, '{"a": -1.5, "b": [0.25, 1e20]}'),
		(6, jsonb_build_object('a', ('[' || repeat('1e250,', 66) || '1]')::jsonb)::text),
		(7, (SELECT jsonb_object_agg('k' || i, 1e131071::numeric) FROM generate_series(1, 65) i)::text)) v(n, extra) ORDER BY n;
-- more digits than memory holds, stored in 1 MB: a reject, no failure
SELECT ecstats_track(jsonb_build_object('event', 'click', 'timestamp', 1772400000, 'user_id', 'x', 'extra', jsonb_build_object('a', (SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 20000)))), 'quarantine');
SELECT reason FROM ecstats.rejects ORDER BY id DESC LIMIT 1;
-- ids of a few bytes that are long as a text, many of them: one at a time is in memory (kB, the most that this session ever took)
CREATE FUNCTION pg_temp.most() RETURNS int LANGUAGE sql AS $$ SELECT (regexp_match(pg_read_file('/proc/self/status'), 'VmHWM:\s+(\d+)'))[1]::int $$;
CREATE TEMP TABLE long_ids AS SELECT jsonb_agg(jsonb_build_object('order_id', 1e131071::numeric)) AS payload FROM generate_series(1, 2000);
SELECT pg_temp.most() AS before \gset
SELECT ecstats_order(payload, 'quarantine') FROM long_ids;
SELECT pg_temp.most() - :before < 100000 AS few;
DELETE FROM ecstats.rejects;

-- ------------------------------------------------------------------ the shop's clock, with data
UPDATE ecstats.config SET day_starts_at = '04:00';
UPDATE ecstats.config SET timezone = 'UTC';
-- before the first close: only rows of the default partition, only orders, only a source
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
UPDATE ecstats.config SET timezone = 'UTC';
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2020-03-01 20:00+00', 'u', 'click');
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
SELECT event_count FROM ecstats_daily('2020-03-02');
UPDATE ecstats.config SET timezone = 'UTC';
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
UPDATE ecstats.config SET timezone = 'UTC';
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('o', 1, '2020-03-01 20:00+00', 'p', 1, 1);
UPDATE ecstats.config SET day_starts_at = '21:00';
SELECT count(*) AS marks FROM ecstats.day_marks;
SELECT order_count FROM ecstats_daily('2020-02-29');
UPDATE ecstats.config SET day_starts_at = '00:00';
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
UPDATE ecstats.config SET timezone = 'UTC';
CREATE TABLE shop AS SELECT '2020-03-01 20:00+00'::timestamptz AS event_time, 'u'::text AS user_id, 'click'::text AS event, 'a'::text AS k;
INSERT INTO ecstats.sources (name, kind, target, query) VALUES ('s', 'query', 'events', 'SELECT event_time, user_id, event FROM public.shop WHERE event_time >= $1 AND event_time < $2');
SELECT ecstats_collect('s', '2020-03-01');
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
SELECT ecstats_collect('s', '2020-03-01') AS first, ecstats_collect('s', '2020-03-02') AS second;
SELECT day, event_count FROM ecstats_daily('2020-03-02');
SELECT day, event_count FROM ecstats.daily_kpi ORDER BY day;
DROP TABLE shop;
