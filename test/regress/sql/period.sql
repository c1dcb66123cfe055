-- Weeks and months: what adds up, what is distinct, when they are closed, and what restates them.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
-- March 30, 2025 is a Sunday of 23 hours; the week from March 31 on ends in April.
UPDATE ecstats.config SET timezone = 'Europe/London';

-- the columns are those of daily_kpi, each with a comment
SELECT c.relname, count(*) AS columns, count(*) FILTER (WHERE (a.attnum, a.atttypid, a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
		IS DISTINCT FROM (k.attnum, k.atttypid, k.attnotnull, pg_get_expr(e.adbin, e.adrelid))) AS other,
	   count(*) FILTER (WHERE col_description(a.attrelid, a.attnum) IS NULL) AS silent
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
  FULL JOIN (pg_attribute k LEFT JOIN pg_attrdef e ON (e.adrelid, e.adnum) = (k.attrelid, k.attnum))
	ON k.attrelid = 'ecstats.daily_kpi'::regclass AND k.attname = a.attname
 WHERE c.oid IN ('ecstats.weekly_kpi'::regclass, 'ecstats.monthly_kpi'::regclass) GROUP BY c.relname ORDER BY 1;
\set VERBOSITY terse
INSERT INTO ecstats.weekly_kpi (day) VALUES ('2025-03-25');
INSERT INTO ecstats.monthly_kpi (day) VALUES ('2025-03-02');
\set VERBOSITY default

-- what plain SQL says of the raw rows of each period, against what is stored
CREATE TEMP VIEW raw AS
	SELECT kind, day, coalesce(gmv, 0) AS gmv, coalesce(orders, 0) AS orders, coalesce(buyers, 0) AS buyers, coalesce(refund, 0) AS refund,
		   coalesce(returns, 0) AS returns, coalesce(abnormal, 0) AS abnormal, coalesce(paid, 0) AS paid, coalesce(paid_orders, 0) AS paid_orders,
		   coalesce(payers, 0) AS payers, coalesce(events, 0) AS events, coalesce(uv, 0) AS uv
	  FROM (SELECT kind, date_trunc(kind, ecstats_day(order_time)::timestamp)::date AS day, sum(amount) FILTER (WHERE quantity > 0) AS gmv,
				   count(DISTINCT order_id) FILTER (WHERE quantity > 0) AS orders, count(DISTINCT user_id) FILTER (WHERE quantity > 0) AS buyers,
				   -sum(amount) FILTER (WHERE quantity < 0) AS refund, count(DISTINCT order_id) FILTER (WHERE quantity < 0) AS returns,
				   count(DISTINCT order_id) FILTER (WHERE quantity > 0 AND status = 'cancelled') AS abnormal
			  FROM ecstats.order_lines, unnest('{week,month}'::text[]) kind GROUP BY 1, 2) o
	  FULL JOIN (SELECT kind, date_trunc(kind, ecstats_day(paid_time)::timestamp)::date AS day, sum(amount) AS paid, count(DISTINCT order_id) AS paid_orders,
						count(DISTINCT user_id) AS payers
				   FROM ecstats.order_lines, unnest('{week,month}'::text[]) kind WHERE quantity > 0 AND paid_time IS NOT NULL GROUP BY 1, 2) p USING (kind, day)
	  FULL JOIN (SELECT kind, date_trunc(kind, ecstats_day(event_time)::timestamp)::date AS day, count(*) AS events, count(DISTINCT user_id) AS uv
				   FROM ecstats.events, unnest('{week,month}'::text[]) kind GROUP BY 1, 2) e USING (kind, day);
CREATE TEMP VIEW stored AS SELECT 'week' AS kind, * FROM ecstats.weekly_kpi UNION ALL SELECT 'month', * FROM ecstats.monthly_kpi;
CREATE TEMP VIEW unequal AS
	SELECT s.kind, s.day, r.day IS NULL AS without_rows FROM stored s FULL JOIN raw r USING (kind, day)
	 WHERE (s.gmv, s.order_count, s.buyer_count, s.refund_amount, s.refund_order_count, s.abnormal_order_count, s.paid_amount, s.paid_order_count,
			s.payer_count, s.event_count, s.uv, s.net_amount, s.aov, s.amount_per_buyer, s.conversion_rate)
		   IS DISTINCT FROM
		   (r.gmv, r.orders, r.buyers, r.refund, r.returns, r.abnormal, r.paid, r.paid_orders, r.payers, r.events, r.uv, r.paid - r.refund,
			r.gmv / nullif(r.orders, 0), r.gmv / nullif(r.buyers, 0), r.buyers::numeric / nullif(r.uv, 0))
		OR s.new_user_count <> (SELECT count(*) FROM (SELECT min(ecstats_day(event_time)) AS first FROM ecstats.events GROUP BY user_id) f
								 WHERE date_trunc(s.kind, f.first::timestamp)::date = s.day);
CREATE TEMP VIEW short AS
	SELECT kind, day, gmv, order_count AS orders, buyer_count AS buyers, paid_amount AS paid, refund_amount AS refund, refund_order_count AS returns,
		   event_count AS events, uv, new_user_count AS new, complete, revision AS rev FROM stored ORDER BY day, kind;

-- by a clock that the test sets: the days are closed, then their periods brought up to date
CREATE FUNCTION pg_temp.close_at(days date[], at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	d date;
BEGIN
	PERFORM ecstats.rollup_lock();
	FOREACH d IN ARRAY days LOOP
		PERFORM ecstats.rollup_close(d, at);
	END LOOP;
	PERFORM ecstats.rollup_periods(days, at);
	PERFORM ecstats.rollup_settle(at);
END
$$;

INSERT INTO ecstats.events (event_time, user_id, event) VALUES
	('2025-03-24 10:00+00', 'a', 'view_item'), ('2025-03-24 11:00+00', 'b', 'view_item'),
	('2025-03-26 10:00+00', 'a', 'add_to_cart'), ('2025-03-26 10:00+00', 'c', 'view_item'),
	('2025-03-30 00:30+00', 'd', 'view_item'), ('2025-03-30 22:59:59.999999+00', 'a', 'view_item'),
	('2025-03-30 23:00+00', 'e', 'view_item'), ('2025-03-31 09:00+00', 'a', 'login'),
	('2025-04-01 09:00+00', 'a', 'view_item'), ('2025-04-01 09:00+00', 'f', 'view_item'), ('2025-04-06 22:30+00', 'g', 'view_item');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount, status, paid_time) VALUES
	('o1', 1, '2025-03-24 12:00+00', 'a', 'p', 1, 10.10, 'placed', '2025-03-24 12:05+00'),
	('o1', 2, '2025-03-26 12:00+00', 'a', 'p', 2, 20.005, 'placed', '2025-03-26 12:05+00'),
	('o1', 1, '2025-03-27 12:00+00', 'a', 'p', -1, -10.10, 'placed', NULL),
	('o2', 1, '2025-03-31 12:00+00', 'b', 'p', 1, 40, 'placed', '2025-04-01 08:00+00'),
	('o2', 1, '2025-04-02 12:00+00', 'b', 'p', -1, -15, 'placed', NULL),
	('o2', 2, '2025-04-03 12:00+00', 'b', 'p', -1, -25, 'placed', NULL),
	('o3', 1, '2025-03-30 12:00+00', 'c', 'p', 1, 7, 'placed', '2025-03-31 12:00+00'),
	('o4', 1, '2025-04-01 12:00+00', NULL, 'p', 1, 3, 'cancelled', NULL);

-- a running period has revision 0, whatever its days are
SELECT pg_temp.close_at('{2025-03-24}', '2025-03-25 02:00+00');
SELECT kind, day, order_count, uv, complete, closed_at, revision FROM stored ORDER BY kind;
SELECT complete, revision FROM ecstats.daily_kpi;
SELECT pg_temp.close_at('{2025-03-26,2025-03-27}', '2025-03-28 02:00+00');
SELECT * FROM short;
-- an ended week waits for its days: Sunday is not closed
SELECT pg_temp.close_at('{}', '2025-03-31 02:00+00');
SELECT kind, day, closed_at, revision FROM stored ORDER BY kind;
-- it ends with Sunday, an hour earlier than a week of 168 hours would
SELECT pg_temp.close_at('{2025-03-30}', '2025-03-30 22:59:59+00');
SELECT kind, day, complete, closed_at, revision FROM stored ORDER BY kind;
SELECT pg_temp.close_at('{}', '2025-03-30 23:00+00');
SELECT kind, day, complete, closed_at, revision FROM stored ORDER BY kind;
-- complete when all of its days are, which is no revision
SELECT day, complete FROM ecstats.daily_kpi ORDER BY day;
SELECT pg_temp.close_at('{}', '2025-03-30 23:10+00');
SELECT * FROM short;

-- the rest, and every period, by ecstats_daily
SELECT day, revision FROM ecstats_daily('2025-04-06');
SELECT * FROM short;
SELECT day, abnormal_order_count, paid_order_count, payer_count, quantity, pv, net_amount, round(aov, 4) AS aov, round(amount_per_buyer, 4) AS per_buyer, round(conversion_rate, 4) AS conversion
  FROM stored ORDER BY day, kind;
SELECT * FROM unequal;

-- running it again touches nothing
CREATE TEMP TABLE versions AS
	SELECT day, xmin::text AS version, ctid::text AS place FROM ecstats.weekly_kpi UNION ALL SELECT day, xmin::text, ctid::text FROM ecstats.monthly_kpi;
SELECT revision FROM ecstats_daily('2025-04-06');
INSERT INTO ecstats.day_marks VALUES ('2025-03-24'), ('2025-04-01');
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT count(*), count(*) FILTER (WHERE v IS NULL) AS rewritten FROM (
	SELECT day, xmin::text AS version, ctid::text AS place FROM ecstats.weekly_kpi UNION ALL SELECT day, xmin::text, ctid::text FROM ecstats.monthly_kpi) n
  LEFT JOIN versions v USING (day, version, place);

-- late rows: of a day that is stored, and of one that had none (the period stays closed, and counts it once it is)
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-24 13:00+00', 'a', 'view_item');
SELECT revision FROM ecstats_daily('2025-04-06');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-25 13:00+00', 'h', 'view_item');
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT kind, day, event_count, uv, complete, revision FROM stored ORDER BY day, kind;
-- a day whose figures stay while its users change: the week's change
BEGIN;
DELETE FROM ecstats.events WHERE event_time = '2025-04-01 09:00+00' AND user_id = 'a';
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-04-01 09:00+00', 'd', 'view_item');
COMMIT;
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT day, uv, revision FROM ecstats.daily_kpi WHERE day = '2025-04-01';
SELECT kind, day, uv, revision FROM stored ORDER BY day, kind;
-- a user who turns out to be older: two weeks and two months change, one of each only in its sum
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-27 13:00+00', 'f', 'view_item');
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT kind, day, event_count, uv, new_user_count, revision FROM stored ORDER BY day, kind;
SELECT * FROM unequal;
-- deletes: one line of an order on two days, then the other one; a payment that moves into the other month
DELETE FROM ecstats.order_lines WHERE order_id = 'o1' AND order_time = '2025-03-26 12:00+00';
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT kind, day, order_count, buyer_count, gmv, revision FROM stored ORDER BY day, kind LIMIT 2;
DELETE FROM ecstats.order_lines WHERE order_id = 'o1' AND quantity > 0;
UPDATE ecstats.order_lines SET paid_time = '2025-04-04 09:00+00' WHERE order_id = 'o3';
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT kind, day, order_count, buyer_count, gmv, paid_order_count, paid_amount, refund_order_count, aov, amount_per_buyer, revision FROM stored ORDER BY day, kind;
SELECT * FROM unequal;

-- a day without data: zeros, no ratios; the row goes when no day of it is stored any more
SELECT gmv FROM ecstats_daily('2025-06-10');
SELECT kind, day, gmv, order_count, uv, aov, conversion_rate, complete, revision FROM stored WHERE day >= '2025-06-01' ORDER BY kind;
DELETE FROM ecstats.daily_kpi WHERE day = '2025-06-10';
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT kind, day FROM stored WHERE day >= '2025-06-01';
-- what somebody deleted or changed is put right again
DELETE FROM ecstats.daily_kpi WHERE day = '2025-03-24';
DELETE FROM ecstats.monthly_kpi WHERE day = '2025-04-01';
UPDATE ecstats.weekly_kpi SET pv = pv + 1 WHERE day = '2025-03-31';
SELECT revision FROM ecstats_daily('2025-04-06');
SELECT * FROM unequal;
SELECT kind, day, complete, revision FROM stored ORDER BY day, kind;

-- a source that is behind: the days are closed and not complete, and so are the periods
INSERT INTO ecstats.sources (name, kind, target, query) VALUES ('erp', 'query', 'orders', 'SELECT 1');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-05-13 09:00+00', 'a', 'view_item'), ('2025-04-04 13:00+00', 'k', 'view_item');
SELECT complete FROM ecstats_daily('2025-05-13');
SELECT kind, day, uv, complete, revision FROM stored WHERE day > '2025-03-30' ORDER BY day, kind;
UPDATE ecstats.sources SET watermark = '2025-05-14 00:00+00';
SELECT complete FROM ecstats_daily('2025-05-13');
SELECT kind, day, uv, complete, revision FROM stored WHERE day > '2025-03-30' ORDER BY day, kind;
-- ... whose last day may still get rows, until the source is past its end, too
UPDATE ecstats.sources SET watermark = '2025-05-19 00:00+00';
SELECT complete FROM ecstats_daily('2025-05-13');
SELECT kind, day, complete, revision FROM stored WHERE day > '2025-04-30' ORDER BY day, kind;
UPDATE ecstats.sources SET watermark = '2025-06-01 00:00+00';
SELECT complete FROM ecstats_daily('2025-05-13');
SELECT kind, day, complete, revision FROM stored WHERE day > '2025-04-30' ORDER BY day, kind;
SELECT * FROM unequal;
DELETE FROM ecstats.sources;

-- retention: raw rows stay until the week and the month of their day are stored and closed
UPDATE ecstats.config SET event_retention = '30 days';
SELECT ecstats_prepare('2025-03-24', '2025-05-13') > 0 AS made;
SELECT count(*) AS droppable FROM ecstats.maintain_droppable('2025-08-01 00:00+00');
UPDATE ecstats.weekly_kpi SET revision = 0 WHERE day = '2025-03-31';
SELECT day FROM ecstats.maintain_droppable('2025-08-01 00:00+00');
UPDATE ecstats.weekly_kpi SET revision = 2 WHERE day = '2025-03-31';
DELETE FROM ecstats.monthly_kpi WHERE day = '2025-03-01';
SELECT day FROM ecstats.maintain_droppable('2025-08-01 00:00+00');
SELECT revision FROM ecstats_daily('2025-05-13');
SELECT count(*) AS droppable FROM ecstats.maintain_droppable('2025-08-01 00:00+00');
CREATE TEMP TABLE before AS SELECT * FROM stored;
CALL ecstats_maintain();
SELECT count(*) AS events FROM ecstats.events;
-- days whose events are gone still count, whatever restates the period: orders here, and events of a day that is new
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('o9', 1, '2025-03-25 15:00+00', 'z', 'p', 1, 5);
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-29 12:00+00', 'a', 'view_item'), ('2025-03-29 12:00+00', 'new', 'view_item');
SELECT revision FROM ecstats_daily('2025-05-13');
SELECT s.kind, s.day, s.order_count - b.order_count AS orders, s.buyer_count - b.buyer_count AS buyers, s.gmv - b.gmv AS gmv, s.event_count - b.event_count AS events,
	   s.uv - b.uv AS uv, s.revision - b.revision AS revisions
  FROM stored s JOIN before b USING (kind, day) ORDER BY day, kind;
SELECT revision FROM ecstats_daily('2025-05-13');
-- and so do frozen ones
UPDATE ecstats.config SET order_retention = '30 days';
CALL ecstats_maintain();
SELECT count(*) AS lines FROM ecstats.order_lines;
CREATE TEMP TABLE frozen AS SELECT * FROM stored;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('o9', 2, '2025-03-26 15:00+00', 'z', 'p', 1, 5);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('o9', 2, '2025-03-28 15:00+00', 'z', 'p', 1, 100);
SELECT revision FROM ecstats_daily('2025-05-13');
SELECT s.kind, s.day, s.order_count - b.order_count AS orders, s.buyer_count - b.buyer_count AS buyers, s.gmv - b.gmv AS gmv, s.event_count - b.event_count AS events,
	   s.uv - b.uv AS uv, s.revision - b.revision AS revisions
  FROM stored s JOIN frozen b USING (kind, day) ORDER BY day, kind;

-- many blocks a day, ids that begin alike and of many lengths, half of them on each day: over two weeks and two months
UPDATE ecstats.config SET event_retention = NULL, order_retention = NULL;
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2025-08-30 12:00+00' + d * interval '1 day', repeat(chr(97 + i % 3), i % 120) || i / 7, 'view_item'
  FROM generate_series(0, 4) d, generate_series(1, 3000) i WHERE hashint8(i * 31 + d) % 2 = 0;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount, status, paid_time)
SELECT 'o' || i % (4000 - d), d, timestamptz '2025-08-30 12:00+00' + d * interval '1 day', nullif('u' || i % 777, 'u7'), 'p', q, q, CASE WHEN i % 11 = d THEN 'cancelled' ELSE 'placed' END,
	   CASE WHEN i % 5 > d THEN timestamptz '2025-08-30 14:00+00' + (d + i % 3) * interval '1 day' END
  FROM generate_series(0, 4) d, generate_series(1, 3000) i CROSS JOIN LATERAL (SELECT CASE WHEN hashint8(i + d) % 10 = 0 THEN -1 ELSE 1 END AS q) l
 WHERE hashint8(i * 37 + d) % 2 = 0 ON CONFLICT DO NOTHING;
SELECT revision FROM ecstats_daily('2025-09-05');
SELECT kind, day, uv > 1000 AND order_count > 1000 AND buyer_count > 500 AND refund_order_count > 50 AND abnormal_order_count > 50 AND payer_count > 200 AS many
  FROM stored WHERE day >= '2025-08-01' ORDER BY day, kind;
SELECT * FROM unequal WHERE day >= '2025-08-01';
-- and some of them change
DELETE FROM ecstats.events WHERE event_time > '2025-08-01' AND hashtext(user_id || event_time) % 5 = 0;
DELETE FROM ecstats.order_lines WHERE order_time > '2025-08-01' AND hashtext(order_id || order_time) % 5 = 0;
SELECT revision FROM ecstats_daily('2025-09-05');
SELECT * FROM unequal WHERE day >= '2025-08-01';
SELECT kind, day, revision FROM stored WHERE day >= '2025-08-01' ORDER BY day, kind;

-- the counts alone
SELECT * FROM ecstats.rollup_period('2030-01-01', '2030-02-01');
SELECT * FROM ecstats.rollup_period('2025-04-01', '2025-03-01');
SELECT uv, orders FROM ecstats.rollup_period('-infinity', '2025-08-01');
-- a block that is none of ours
\set ON_ERROR_ROLLBACK on
\set VERBOSITY terse
BEGIN;
UPDATE ecstats.order_day SET packed = '\x016e000161ff01' WHERE kind = 'o' AND day = '2025-04-01';
SELECT * FROM ecstats.rollup_period('2025-04-01', '2025-05-01');
UPDATE ecstats.user_day SET packed = '\x0163000161' WHERE day = '2025-04-01';
SELECT * FROM ecstats.rollup_period('2025-04-01', '2025-05-01');
ROLLBACK;
-- and too many days for a period
BEGIN;
INSERT INTO ecstats.daily_kpi (day) SELECT date '2020-01-01' + i FROM generate_series(0, 400) i;
SELECT uv FROM ecstats.rollup_period('2020-01-01', '2021-02-04');
SELECT uv FROM ecstats.rollup_period('2020-01-01', '2022-01-01');
ROLLBACK;
