-- What each user bought, by day and in all: always what the order lines say, whatever happened to them.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

-- what plain SQL says of the raw rows, against what is stored
CREATE TEMP VIEW raw AS
	WITH l AS (SELECT * FROM ecstats.order_lines WHERE quantity > 0 AND user_id IS NOT NULL),
	parts AS (
		SELECT ecstats_day(order_time) AS day, user_id, region, channel, 0 AS orders, amount AS gmv, 0 AS paid FROM l
		UNION ALL SELECT ecstats_day(paid_time), user_id, region, channel, 0, 0, amount FROM l WHERE paid_time IS NOT NULL
		UNION ALL (SELECT DISTINCT ON (ecstats_day(order_time), user_id, order_id) ecstats_day(order_time), user_id, region, channel, 1, 0, 0
					 FROM l ORDER BY ecstats_day(order_time), user_id, order_id, line_no, order_time))
	SELECT day, user_id, region, channel, sum(orders)::bigint AS order_count, sum(gmv) AS gmv, sum(paid) AS paid_amount FROM parts GROUP BY 1, 2, 3, 4;
CREATE TEMP VIEW places AS
	SELECT DISTINCT user_id,
		   first_value(channel) OVER (PARTITION BY user_id ORDER BY channel_orders DESC, channel_gmv DESC, channel) AS channel,
		   first_value(region) OVER (PARTITION BY user_id ORDER BY region_orders DESC, region_gmv DESC, region) AS region
	  FROM (SELECT *, sum(order_count) OVER c AS channel_orders, sum(gmv) OVER c AS channel_gmv, sum(order_count) OVER r AS region_orders, sum(gmv) OVER r AS region_gmv
			  FROM ecstats.buyer_daily WINDOW c AS (PARTITION BY user_id, channel), r AS (PARTITION BY user_id, region)) p;
CREATE TEMP VIEW sums AS
	SELECT b.user_id, sum(b.order_count)::bigint AS orders, sum(b.gmv) AS gmv, sum(b.paid_amount) AS paid, min(b.day) FILTER (WHERE b.order_count > 0) AS first_day,
		   max(b.day) FILTER (WHERE b.order_count > 0) AS last_day, min(p.channel) AS channel, min(p.region) AS region
	  FROM ecstats.buyer_daily b JOIN places p ON p.user_id = b.user_id GROUP BY b.user_id;
CREATE FUNCTION pg_temp.unequal() RETURNS TABLE (side text, what text) LANGUAGE sql AS $$
	(SELECT 'stored day', d::text FROM (SELECT day, user_id, region, channel, order_count, gmv, paid_amount FROM ecstats.buyer_daily EXCEPT TABLE raw) d)
	UNION ALL (SELECT 'raw day', d::text FROM (TABLE raw EXCEPT SELECT day, user_id, region, channel, order_count, gmv, paid_amount FROM ecstats.buyer_daily) d)
	UNION ALL (SELECT 'stored', b::text FROM (TABLE ecstats.buyers EXCEPT TABLE sums) b)
	UNION ALL (SELECT 'sums', b::text FROM (TABLE sums EXCEPT TABLE ecstats.buyers) b)
	UNION ALL (SELECT 'proof', v::text FROM ecstats_verify() v) $$;
-- what a close touches: rows of both tables that were not there before
CREATE TEMP TABLE versions (kind text, of_user text, place text);
CREATE TEMP VIEW current AS
	SELECT 'day' AS kind, user_id AS of_user, format('%s %s %s', xmin, ctid, day) AS place FROM ecstats.buyer_daily UNION ALL SELECT 'sum', user_id, format('%s %s', xmin, ctid) FROM ecstats.buyers;
CREATE FUNCTION pg_temp.touched() RETURNS TABLE (kind text, users text[]) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT c.kind, array_agg(DISTINCT c.of_user ORDER BY c.of_user) FROM (TABLE current EXCEPT TABLE versions) c GROUP BY 1 ORDER BY 1;
	DELETE FROM versions;
	INSERT INTO versions TABLE current;
END
$$;
CREATE TEMP VIEW days AS SELECT day, user_id, region, channel, order_count AS orders, gmv, paid_amount AS paid FROM ecstats.buyer_daily ORDER BY user_id, day, region, channel;

INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, paid_time) VALUES
	-- lines in two channels and regions: it counts where line 1 is, whichever comes first
	('o1', 2, '2026-01-05 09:00', 'ann', 'p', 'north', 'web', 1, 20.50, '2026-01-05 09:10'),
	('o1', 1, '2026-01-05 09:30', 'ann', 'q', 'south', 'app', 1, 10, '2026-01-05 09:40'),
	('o1', 1, '2026-01-05 09:31', 'ann', 'q', 'east', 'app', 1, 1, NULL),
	-- a lower line that was returned says nothing; another one of the same day is paid on the next
	('o2', 1, '2026-01-05 10:00', 'ann', 'p', 'west', 'app', -1, -3, NULL),
	('o2', 2, '2026-01-05 10:00', 'ann', 'p', 'north', 'web', 2, 7.25, '2026-01-06 10:00'),
	-- one order of two users
	('o3', 1, '2026-01-05 11:00', 'bob', 'p', 'north', 'web', 1, 5, NULL),
	('o3', 2, '2026-01-05 11:00', 'cid', 'p', 'south', 'app', 1, 6, NULL),
	-- nobody knows who; returns alone; nothing to pay
	('o4', 1, '2026-01-05 12:00', NULL, 'p', 'north', 'web', 1, 9, '2026-01-05 12:00'),
	('o5', 1, '2026-01-05 12:00', 'dan', 'p', 'north', 'web', -1, -9, NULL),
	('o6', 1, '2026-01-05 12:00', 'eve', 'p', 'north', 'web', 1, 0, NULL),
	-- paid long after
	('o7', 1, '2026-01-05 23:59', 'fay', 'p', 'north', 'web', 1, 100, '2026-01-08 00:00'),
	-- one order, two days
	('o8', 1, '2026-01-05 13:00', 'gus', 'p', 'north', 'web', 1, 1, NULL), ('o8', 2, '2026-01-07 13:00', 'gus', 'p', 'south', 'app', 1, 2, NULL),
	('o9', 1, '2026-01-06 13:00', 'ann', 'p', 'north', 'app', 1, 30, '2026-01-06 13:00');
SELECT order_count, gmv, paid_amount FROM ecstats_daily('2026-01-05');
SELECT * FROM days;
SELECT * FROM ecstats.buyers ORDER BY user_id;
SELECT order_count, gmv, paid_amount FROM ecstats_daily('2026-01-09');
SELECT * FROM days WHERE day > '2026-01-05';
SELECT * FROM ecstats.buyers ORDER BY user_id;
SELECT * FROM pg_temp.unequal();
SELECT kind, cardinality(users) AS users FROM pg_temp.touched();

-- a close that finds nothing new touches nothing; nor does one of a day that was marked
SELECT revision FROM ecstats_daily('2026-01-09');
INSERT INTO ecstats.day_marks VALUES ('2026-01-05'), ('2026-01-06');
SELECT revision FROM ecstats_daily('2026-01-09');
SELECT * FROM pg_temp.touched();

-- late lines, one before the lowest of its order: whoever they belong to is touched, nobody else
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount) VALUES
	('o1', 0, '2026-01-05 23:00', 'ann', 'p', 'north', 'web', 1, 2), ('o10', 1, '2026-01-06 01:00', 'hal', 'p', 'north', 'web', 1, 2.5);
SELECT revision FROM ecstats_daily('2026-01-09');
SELECT * FROM pg_temp.touched();
SELECT * FROM days WHERE user_id IN ('ann', 'hal');
SELECT * FROM pg_temp.unequal();
-- a line that turns out to be somebody else's: one user's row moves to the other, one has none any more
UPDATE ecstats.order_lines SET user_id = 'cid' WHERE order_id = 'o3' AND user_id = 'bob';
SELECT revision FROM ecstats_daily('2026-01-09');
SELECT * FROM pg_temp.touched();
SELECT * FROM ecstats.buyers WHERE user_id IN ('bob', 'cid');
SELECT * FROM pg_temp.unequal();
-- a user who becomes unknown, an amount, a region, a line that becomes a return
UPDATE ecstats.order_lines SET user_id = NULL WHERE order_id = 'o6';
UPDATE ecstats.order_lines SET amount = 101 WHERE order_id = 'o7';
UPDATE ecstats.order_lines SET region = 'west' WHERE order_id = 'o9';
UPDATE ecstats.order_lines SET quantity = -1, amount = -2.5 WHERE order_id = 'o10';
SELECT revision FROM ecstats_daily('2026-01-09');
SELECT * FROM pg_temp.touched();
SELECT * FROM pg_temp.unequal();
-- a payment that moves to another day; the deletion of a day's only lines: the payment is all that is left
UPDATE ecstats.order_lines SET paid_time = '2026-01-07 09:00' WHERE order_id = 'o7';
DELETE FROM ecstats.order_lines WHERE order_id = 'o8';
SELECT revision FROM ecstats_daily('2026-01-09');
SELECT * FROM pg_temp.touched();
SELECT * FROM days WHERE user_id IN ('fay', 'gus');
SELECT * FROM pg_temp.unequal();
-- ties: as many orders, then the more gmv, then the first by bytes ('Z' is before 'a', in every language)
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount) VALUES
	('t1', 1, '2026-01-05 10:00', 'tie', 'p', 'a', 'a', 1, 5), ('t2', 1, '2026-01-06 10:00', 'tie', 'p', 'Z', 'b', 1, 5),
	('t3', 1, '2026-01-05 10:00', 'top', 'p', 'a', 'a', 1, 5), ('t4', 1, '2026-01-06 10:00', 'top', 'p', 'Z', 'b', 1, 5.01),
	('t5', 1, '2026-01-05 10:00', 'two', 'p', 'a', 'a', 1, 1), ('t6', 1, '2026-01-06 10:00', 'two', 'p', 'a', 'a', 1, 1), ('t7', 1, '2026-01-06 10:00', 'two', 'p', 'Z', 'b', 1, 9);
SELECT revision FROM ecstats_daily('2026-01-09');
SELECT user_id, order_count, favourite_channel, favourite_region FROM ecstats.buyers WHERE user_id LIKE 't%' ORDER BY user_id;
SELECT * FROM pg_temp.unequal();

-- as of an earlier day: who came later is not there, who bought since is as they were; as of the last one, the table
CREATE FUNCTION pg_temp.unequal_at(as_of date) RETURNS TABLE (side text, what text) LANGUAGE sql AS $$
	WITH b AS (SELECT * FROM ecstats.buyer_daily WHERE day <= as_of),
	s AS (SELECT user_id, sum(order_count)::bigint, sum(gmv), sum(paid_amount), min(day) FILTER (WHERE order_count > 0), max(day) FILTER (WHERE order_count > 0),
				 (SELECT channel FROM b c WHERE c.user_id = b.user_id GROUP BY 1 ORDER BY sum(order_count) DESC, sum(gmv) DESC, channel LIMIT 1),
				 (SELECT region FROM b c WHERE c.user_id = b.user_id GROUP BY 1 ORDER BY sum(order_count) DESC, sum(gmv) DESC, region LIMIT 1)
			FROM b GROUP BY user_id)
	(SELECT 'as of', a::text FROM (SELECT * FROM ecstats.rollup_buyers_at(as_of) EXCEPT TABLE s) a)
	UNION ALL (SELECT 'days', a::text FROM (TABLE s EXCEPT SELECT * FROM ecstats.rollup_buyers_at(as_of)) a) $$;
SELECT d::date AS as_of, (SELECT count(*) FROM ecstats.rollup_buyers_at(d::date)) AS buyers, (SELECT sum(paid_amount) FROM ecstats.rollup_buyers_at(d::date)) AS paid,
	   (SELECT count(*) FROM pg_temp.unequal_at(d::date)) AS unequal
  FROM generate_series('2026-01-04', '2026-01-09', interval '1 day') d;
SELECT * FROM ecstats.rollup_buyers_at('2026-01-05') WHERE user_id IN ('ann', 'fay', 'tie') ORDER BY user_id;
SELECT count(*) AS other FROM (SELECT * FROM ecstats.rollup_buyers_at('infinity') EXCEPT TABLE ecstats.buyers) o;

-- what is wrong is found and repaired: a day's rebuild makes its users anew, rollup_buyers_anew everybody
DELETE FROM ecstats.buyer_daily WHERE user_id = 'tie' AND day = '2026-01-05';
UPDATE ecstats.buyer_daily SET gmv = gmv + 1 WHERE user_id = 'top' AND day = '2026-01-05';
INSERT INTO ecstats.buyer_daily VALUES ('2026-01-05', 'ghost', 'r', 'c', 1, 2, 3);
UPDATE ecstats.buyers SET favourite_region = 'x', last_order_day = NULL WHERE user_id = 'two';
DELETE FROM ecstats.buyers WHERE user_id = 'ann';
INSERT INTO ecstats.buyers VALUES ('spook', 1, 2, 3);
SELECT * FROM ecstats_verify('2026-01-05', '2026-01-05');
CALL ecstats_rebuild('2026-01-05', '2026-01-05');
SELECT * FROM ecstats_verify();
SELECT ecstats.rollup_buyers_anew();
SELECT * FROM pg_temp.unequal();
SELECT ecstats.rollup_buyers_anew();

-- many, against plain SQL: orders of several users and places, in a random order of days and changes
SELECT setseed(0.5);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, paid_time)
SELECT 'm' || i / 3, i % 3, t.at, CASE WHEN random() < 0.9 THEN 'u' || floor(power(random(), 2) * 90)::int END, 'p' || i % 20,
	   (ARRAY['north', 'nort', '华东', 'unknown'])[1 + floor(random() * 4)::int], (ARRAY['app', 'web', 'mini'])[1 + floor(random() * 3)::int], q.n,
	   sign(q.n) * round((random() * 100)::numeric, floor(random() * 4)::int), CASE WHEN random() < 0.7 THEN t.at + random() * interval '60 hours' END
  FROM generate_series(1, 3000) i, LATERAL (SELECT timestamptz '2026-01-10' + i * interval '3 minutes' AS at) t,
	   LATERAL (SELECT CASE WHEN random() < 0.15 THEN -1 ELSE 1 + i % 7 END AS n) q;
SELECT day FROM ecstats_daily('2026-01-13');
UPDATE ecstats.order_lines SET user_id = 'u' || floor(random() * 100)::int WHERE order_id LIKE 'm%' AND random() < 0.1;
DELETE FROM ecstats.order_lines WHERE order_id LIKE 'm%' AND random() < 0.1;
SELECT day FROM ecstats_daily('2026-01-18');
SELECT count(*) AS days, count(DISTINCT user_id) AS users, max(day) FROM ecstats.buyer_daily WHERE user_id LIKE 'u%';
SELECT * FROM pg_temp.unequal();
SELECT d::date AS as_of, (SELECT count(*) FROM pg_temp.unequal_at(d::date)) AS unequal FROM generate_series('2026-01-09', '2026-01-18', interval '1 day') d;

-- a day that is frozen keeps its rows when its lines are gone, and so do the sums; a late line for it changes nothing
CREATE TEMP TABLE kept AS SELECT * FROM ecstats.buyer_daily;
CREATE TEMP TABLE kept_sums AS SELECT * FROM ecstats.buyers;
UPDATE ecstats.day_state SET frozen = true, orders_dropped = true WHERE day <= '2026-01-12';
DO $$ BEGIN PERFORM ecstats.maintain_drop_lines(ecstats.day_start('2026-01-01'), ecstats.day_start('2026-01-13')); END $$;
SELECT count(*) AS lines FROM ecstats.order_lines WHERE order_time < '2026-01-12' AND paid_time IS NULL;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('late', 1, '2026-01-06 10:00', 'late', 'p', 1, 1);
SELECT day FROM ecstats_daily('2026-01-19');
SELECT (SELECT count(*) FROM (TABLE kept EXCEPT TABLE ecstats.buyer_daily) k) AS days_lost, (SELECT count(*) FROM (TABLE kept_sums EXCEPT TABLE ecstats.buyers) k) AS sums_lost,
	   (SELECT count(*) FROM ecstats.buyers WHERE user_id = 'late') AS late;
-- a later day of the same users is computed as ever, onto the sums that are kept
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, paid_time) VALUES
	('new', 1, '2026-01-20 10:00', 'ann', 'p', 'north', 'web', 1, 1000, '2026-01-20 10:00');
SELECT day FROM ecstats_daily('2026-01-20');
SELECT b.order_count - k.order_count AS orders, b.gmv - k.gmv AS gmv, b.paid_amount - k.paid_amount AS paid, b.first_order_day, b.last_order_day
  FROM ecstats.buyers b JOIN kept_sums k USING (user_id) WHERE b.user_id = 'ann';
SELECT * FROM ecstats_verify();
SELECT day, order_count, gmv, paid_amount FROM ecstats.buyer_daily WHERE day > '2026-01-18';

-- not everybody's
CREATE ROLE ecstats_test_buyers;
SELECT ecstats_grant('ecstats_test_buyers', 'reader');
SET ROLE ecstats_test_buyers;
SELECT count(*) > 0 AS read FROM ecstats.buyers JOIN ecstats.buyer_daily USING (user_id);
\set VERBOSITY sqlstate
SELECT * FROM ecstats.rollup_buyers_at('2026-01-05');
SELECT ecstats.rollup_buyers_anew();
\set VERBOSITY default
RESET ROLE;
SELECT ecstats_revoke('ecstats_test_buyers', 'reader');
DROP ROLE ecstats_test_buyers;
DROP EXTENSION ecstats CASCADE;
