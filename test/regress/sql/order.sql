-- Orders: the rules, the JSON intake, replacing, marks.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';

SELECT ecstats_order('{"order_id":"o1","order_time":"2026-11-20T10:00:00+08:00","user_id":"u1","region":"上海","channel":"app","status":"paid",
	"paid_time":"2026-11-20T10:01:00+08:00","coupon":"C9","items":[{"product_id":"p1","quantity":2,"amount":19.90},{"product_id":"p2","quantity":1,"amount":"5.005","gift":true}]}');
SELECT * FROM ecstats.order_lines ORDER BY order_id, line_no;
-- a repeat changes nothing; another set of lines replaces
SELECT ecstats_order('{"order_id":"o1","order_time":"2026-11-20T10:00:00+08:00","user_id":"u1","region":"上海","channel":"app","status":"paid",
	"paid_time":"2026-11-20T10:01:00+08:00","coupon":"C9","items":[{"product_id":"p1","quantity":2,"amount":19.90},{"product_id":"p2","quantity":1,"amount":"5.005","gift":true}]}');
SELECT ecstats_order('{"order_id":"o1","timestamp":1795140000,"user_id":null,"region":null,"channel":null,"items":[{"line_no":2,"product_id":"p2","quantity":1,"amount":5}]}');
SELECT * FROM ecstats.order_lines ORDER BY order_id, line_no;
-- a return is the same order at its own time
SELECT ecstats_order('{"order_id":"o1","order_time":"2026-11-21T10:00:00+08:00","items":[{"product_id":"p2","quantity":-1,"amount":-5}]}');
SELECT order_id, line_no, order_time, quantity, amount FROM ecstats.order_lines ORDER BY order_time, line_no;
-- no items: its lines go
SELECT ecstats_order('{"order_id":"o1","order_time":"2026-11-21T10:00:00+08:00","items":[]}');
SELECT count(*) FROM ecstats.order_lines;
-- sent twice in one call: the last one holds
SELECT ecstats_order('[{"order_id":"o2","timestamp":1795140000,"items":[{"product_id":"a","quantity":1,"amount":1},{"product_id":"b","quantity":1,"amount":1}]},
					   {"order_id":"o2","timestamp":1795140000,"items":[{"product_id":"c","quantity":1,"amount":1}]}]');
SELECT order_id, line_no, product_id FROM ecstats.order_lines WHERE order_id = 'o2';

-- each rule, its error
CREATE FUNCTION pg_temp.try(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text; d text; h text; c text;
BEGIN
	PERFORM ecstats_order(payload);
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, c = COLUMN_NAME;
	RETURN concat_ws(' | ', SQLSTATE, c, m, d, h);
END
$$;
SELECT n, pg_temp.try('{"order_id":"o","timestamp":1795140000,"items":[{"product_id":"p","quantity":1,"amount":1}]}'::jsonb || patch) FROM (VALUES
	(1, '{"order_id":null}'::jsonb), (2, '{"order_id":""}'), (3, jsonb_build_object('order_id', repeat('x', 129))), (4, '{"timestamp":null}'),
	(5, '{"order_time":"2026-11-20"}'), (6, '{"items":null}'), (7, '{"items":{}}'), (8, '{"items":[1]}'), (9, '{"items":[{"quantity":1,"amount":1}]}'),
	(10, '{"items":[{"product_id":"p","amount":1}]}'), (11, '{"items":[{"product_id":"p","quantity":0,"amount":1}]}'),
	(12, '{"items":[{"product_id":"p","quantity":1.5,"amount":1}]}'), (13, '{"items":[{"product_id":"p","quantity":3000000000,"amount":1}]}'),
	(14, '{"items":[{"product_id":"p","quantity":1}]}'), (15, '{"items":[{"product_id":"p","quantity":1,"amount":-1}]}'),
	(16, '{"items":[{"product_id":"p","quantity":-1,"amount":1}]}'), (17, '{"items":[{"product_id":"p","quantity":1,"amount":"NaN"}]}'),
	(18, '{"items":[{"product_id":"p","quantity":1,"amount":"1e5"}]}'), (19, '{"items":[{"line_no":-1,"product_id":"p","quantity":1,"amount":1}]}'),
	(20, '{"items":[{"line_no":1,"product_id":"p","quantity":1,"amount":1},{"line_no":1,"product_id":"q","quantity":1,"amount":1}]}'),
	(21, '{"region":"a\tb"}'), (22, '{"channel":""}'), (23, '{"status":5.5}'), (24, '{"paid_time":"soon"}'), (25, '{"user_id":""}'), (26, '{"extra":1}')) v(n, patch) ORDER BY n;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('i', 1, '2026-11-20', 'p', 1, 'NaN');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('i', 1, '2026-11-20', 'p', 1, 'Infinity');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('i', 1, 'infinity', 'p', 1, 1);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('i', 1, '2026-11-20', 'p', 1, 0), ('i', 2, '2026-11-20', 'p', -1, 0);

-- a bad order is kept whole, the good ones are stored
SELECT ecstats_order('[{"order_id":"g","timestamp":1795140000,"items":[{"product_id":"p","quantity":1,"amount":1}]},
					   {"order_id":"b","timestamp":1795140000,"items":[{"product_id":"p","quantity":1,"amount":1},{"product_id":"p","quantity":0,"amount":1}]}]', 'quarantine');
SELECT source, payload, sqlstate, reason FROM ecstats.rejects;
SELECT order_id, count(*) FROM ecstats.order_lines WHERE order_id IN ('g', 'b') GROUP BY 1;

-- marks: old and new day, by order and by payment
DELETE FROM ecstats.day_marks;
UPDATE ecstats.order_lines SET order_time = '2026-11-01', paid_time = '2026-11-03' WHERE order_id = 'g';
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY day;
DELETE FROM ecstats.day_marks;
DELETE FROM ecstats.order_lines WHERE order_id = 'g';
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY day;
SELECT ecstats_order('{}', NULL);
