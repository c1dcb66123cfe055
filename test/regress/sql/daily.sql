-- Closing days: the figures, late rows, restatements, an outage, the running day.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
\pset format unaligned
\x on

-- a day with everything in it
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2026-03-02 04:00+00', u, e FROM (VALUES
	('a', 'view_item'), ('a', 'view_item'), ('a', 'add_to_cart'), ('a', 'begin_checkout'), ('a', 'purchase'),
	('b', 'page_view'), ('b', 'add_to_cart'), ('c', 'view_item'), ('d', 'unlisted')) v(u, e);
SELECT ecstats_order('[{"order_id":"1","order_time":"2026-03-02T10:00:00+08:00","paid_time":"2026-03-02T10:05:00+08:00","user_id":"a","region":"上海","channel":"app",
		"items":[{"product_id":"p1","quantity":2,"amount":10.10},{"product_id":"p2","quantity":1,"amount":0.005}]},
	{"order_id":"2","order_time":"2026-03-02T11:00:00+08:00","user_id":"b","region":"北京","channel":"web","status":"cancelled","items":[{"product_id":"p1","quantity":1,"amount":5}]},
	{"order_id":"3","order_time":"2026-03-02T12:00:00+08:00","paid_time":"2026-03-03T00:00:00+08:00","items":[{"product_id":"p3","quantity":1,"amount":7}]},
	{"order_id":"0","order_time":"2026-03-01T12:00:00+08:00","paid_time":"2026-03-02T00:00:00+08:00","user_id":"a","items":[{"product_id":"p1","quantity":1,"amount":1}]},
	{"order_id":"0","order_time":"2026-03-02T13:00:00+08:00","items":[{"product_id":"p1","quantity":-1,"amount":-1},{"product_id":"p9","quantity":-1,"amount":-0.5}]}]');
SELECT day, gmv, order_count, quantity, buyer_count, paid_amount, paid_order_count, payer_count, refund_amount, refund_order_count, net_amount,
	   round(aov, 4) AS aov, round(amount_per_buyer, 4) AS amount_per_buyer, abnormal_order_count, event_count, pv, uv, conversion_rate::numeric(6,4), new_user_count, complete, revision
  FROM ecstats_daily('2026-03-02');
\x off
SELECT day, gmv, paid_amount, revision FROM ecstats.daily_kpi ORDER BY day;
SELECT * FROM ecstats.daily_sales ORDER BY day, product_id, region, channel;
SELECT * FROM ecstats.daily_events ORDER BY day, event COLLATE "C";
SELECT * FROM ecstats.daily_funnel ORDER BY day, step;
SELECT * FROM ecstats.user_daily ORDER BY day, user_id COLLATE "C", event COLLATE "C";

-- running it again changes nothing, not even a row's version
CREATE TEMP TABLE versions AS
	SELECT 'kpi' AS t, xmin::text AS version, ctid::text AS place FROM ecstats.daily_kpi UNION ALL SELECT 'sales', xmin::text, ctid::text FROM ecstats.daily_sales
	UNION ALL SELECT 'user', xmin::text, ctid::text FROM ecstats.user_day UNION ALL SELECT 'events', xmin::text, ctid::text FROM ecstats.daily_events;
INSERT INTO ecstats.day_marks VALUES ('2026-03-02');
SELECT revision FROM ecstats_daily('2026-03-02');
SELECT count(*) AS rewritten FROM (TABLE versions EXCEPT
	(SELECT 'kpi', xmin::text, ctid::text FROM ecstats.daily_kpi UNION ALL SELECT 'sales', xmin::text, ctid::text FROM ecstats.daily_sales
	 UNION ALL SELECT 'user', xmin::text, ctid::text FROM ecstats.user_day UNION ALL SELECT 'events', xmin::text, ctid::text FROM ecstats.daily_events)) x;

-- late rows are in after the next run, whichever day it is for; what changed is written down
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 05:00+00', 'e', 'view_item');
UPDATE ecstats.order_lines SET amount = 10.20 WHERE order_id = '1' AND line_no = 1;
SELECT day, gmv, revision FROM ecstats_daily('2026-03-03');
SELECT day, gmv, pv, uv, new_user_count, revision FROM ecstats.daily_kpi ORDER BY day;
SELECT day, revision, column_name, round(old, 4) AS old, round(new, 4) AS new FROM ecstats.restatements ORDER BY day, revision, column_name;

-- a late event can make a user new on an earlier day: both days change
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-01 05:00+00', 'c', 'login');
SELECT day FROM ecstats_daily('2026-03-03');
SELECT day, event_count, new_user_count, revision FROM ecstats.daily_kpi ORDER BY day;
-- and its removal too
DELETE FROM ecstats.events WHERE event_time = '2026-03-01 05:00+00';
SELECT day FROM ecstats_daily('2026-03-03');
SELECT day, event_count, new_user_count, revision FROM ecstats.daily_kpi ORDER BY day;

-- a deleted order, a truncated table
DELETE FROM ecstats.order_lines WHERE order_id = '2';
SELECT day FROM ecstats_daily('2026-03-03');
SELECT gmv, abnormal_order_count, revision FROM ecstats.daily_kpi WHERE day = '2026-03-02';
TRUNCATE ecstats.order_lines;
SELECT day FROM ecstats_daily('2026-03-03');
SELECT day, gmv, paid_amount FROM ecstats.daily_kpi ORDER BY day;
SELECT count(*) FROM ecstats.daily_sales;

-- an outage: days that have data are closed in order, days without are not invented
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT d, 'o' || i, 'login' FROM unnest('{2026-03-05 12:00+00,2026-03-06 12:00+00,2026-03-09 12:00+00}'::timestamptz[]) d, generate_series(1, 3) i;
SELECT day FROM ecstats_daily('2026-03-10');
SELECT day, event_count, new_user_count, revision FROM ecstats.daily_kpi WHERE day > '2026-03-03' ORDER BY day;
SELECT bool_and(a.closed_at <= b.closed_at) AS in_order FROM ecstats.daily_kpi a, ecstats.daily_kpi b WHERE a.day < b.day AND a.day > '2026-03-03';

-- strays and day partitions are one to the figures
SELECT ecstats_prepare('2026-03-09', '2026-03-09');
INSERT INTO ecstats.day_marks VALUES ('2026-03-09');
SELECT event_count, revision FROM ecstats_daily('2026-03-09');

-- the vocabulary and the status list hold from the next computation
UPDATE ecstats.event_types SET is_page_view = true WHERE event = 'login';
INSERT INTO ecstats.day_marks VALUES ('2026-03-09');
SELECT pv, revision FROM ecstats_daily('2026-03-09');

-- days that have not ended, or are none
\set VERBOSITY terse
SELECT ecstats_daily(ecstats_day());
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT ecstats_daily(NULL);
SELECT ecstats_daily('infinity');

-- the running day: all of it, nothing written
INSERT INTO ecstats.events (event_time, user_id, event) VALUES (now(), 'a', 'view_item'), (now(), 'new one', 'view_item');
SELECT day = ecstats_day() AS today, event_count, pv, uv, new_user_count, complete, revision FROM ecstats_today();
SELECT count(*) FROM ecstats.daily_kpi WHERE day >= ecstats_day();
-- a user of an ended day that is not closed yet is not new today
INSERT INTO ecstats.events (event_time, user_id, event) VALUES (ecstats.day_start(ecstats_day()) - interval '1 hour', 'new one', 'view_item');
SELECT new_user_count FROM ecstats_today();

-- sums of the parts are the whole
SELECT ecstats_order((SELECT jsonb_agg(jsonb_build_object('order_id', i, 'timestamp', 1772400000 + i * 700, 'user_id', i % 37, 'region', 'r' || i % 5, 'channel', 'c' || i % 3,
	'items', jsonb_build_array(jsonb_build_object('product_id', i % 11, 'quantity', CASE WHEN i % 9 = 0 THEN -1 ELSE i % 4 + 1 END, 'amount', CASE WHEN i % 9 = 0 THEN -1 ELSE 1 END * (i % 100) / 8.0))))
	FROM generate_series(1, 2000) i));
SELECT day FROM ecstats_daily('2026-04-01');
SELECT count(*) FILTER (WHERE (k.gmv, k.quantity, k.refund_amount) IS DISTINCT FROM (s.gmv, s.quantity, s.refund)) AS unequal, count(*) > 10 AS enough
  FROM ecstats.daily_kpi k JOIN (SELECT day, sum(total_revenue) AS gmv, sum(total_sold) AS quantity, sum(refund_amount) AS refund FROM ecstats.daily_sales GROUP BY day) s USING (day);
SELECT count(*) AS unequal FROM ecstats.daily_kpi k
 WHERE k.event_count <> (SELECT coalesce(sum(event_count), 0) FROM ecstats.daily_events e WHERE e.day = k.day)
	OR k.uv <> (SELECT sum(u.users) FROM ecstats.user_day u WHERE u.day = k.day)
	OR k.new_user_count <> (SELECT count(*) FROM ecstats.first_seen f WHERE f.day = k.day);
-- and a day is what plain SQL says of the raw rows
SELECT count(*) AS unequal FROM ecstats.daily_kpi k CROSS JOIN LATERAL (
	SELECT coalesce(sum(amount) FILTER (WHERE quantity > 0), 0) AS gmv, count(DISTINCT order_id) FILTER (WHERE quantity > 0) AS orders,
		   count(DISTINCT user_id) FILTER (WHERE quantity > 0) AS buyers, coalesce(-sum(amount) FILTER (WHERE quantity < 0), 0) AS refund
	  FROM ecstats.order_lines l WHERE (l.order_time AT TIME ZONE 'Asia/Shanghai')::date = k.day) r
 WHERE (k.gmv, k.order_count, k.buyer_count, k.refund_amount) IS DISTINCT FROM (r.gmv, r.orders, r.buyers, r.refund);
SELECT count(*) AS marks FROM ecstats.day_marks;

-- One run is one revision at most, whoever disappears from however many days; and none where figures are as they were.
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2026-01-10 12:00+08' + d * interval '1 day', u, 'view_item' FROM generate_series(0, 4) d, unnest('{x1,x2}'::text[]) u;
SELECT uv, new_user_count FROM ecstats_daily('2026-01-14');
DELETE FROM ecstats.events WHERE user_id = 'x1';
SELECT uv, new_user_count, revision FROM ecstats_daily('2026-01-14');
UPDATE ecstats.events SET user_id = 'x3' WHERE user_id = 'x2';
SELECT uv, new_user_count, revision FROM ecstats_daily('2026-01-14');
SELECT day, revision, column_name, old, new FROM ecstats.restatements WHERE day BETWEEN '2026-01-10' AND '2026-01-14' ORDER BY 1, 2, 3;
-- What the same transaction changed is seen, though its mark is not written yet; and if that is taken back, nothing is lost.
BEGIN;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('own', 1, '2026-01-14 12:00+08', 'p', 1, 100);
SAVEPOINT a;
SELECT gmv, revision FROM ecstats_daily('2026-01-14');
ROLLBACK TO a;
COMMIT;
SELECT gmv, revision FROM ecstats_daily('2026-01-14');
BEGIN;
DELETE FROM ecstats.order_lines WHERE order_id = 'own';
SELECT gmv, revision FROM ecstats_daily('2026-01-14');
COMMIT;
SELECT gmv, revision FROM ecstats_daily('2026-01-14');
SELECT count(*) FROM ecstats_verify('2026-01-10', '2026-01-14');
