-- Orders change after their days were closed: by order_time and by paid_time, old and new. A random walk (fixed
-- seed) of inserts, updates, upserts and deletes over ten days with closes in between; after each close every
-- stored row of daily_kpi and daily_sales is what plain SQL makes of the raw rows.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai', day_starts_at = '04:00', abnormal_statuses = '{cancelled,risk}';
SELECT ecstats_prepare('2025-03-01', '2025-03-10');

-- The business day without the extension's help; the shop's zone has no daylight saving in 2025.
CREATE FUNCTION pg_temp.day(ts timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS
	$$ SELECT ((ts AT TIME ZONE INTERVAL '8 hours') - interval '4 hours')::date $$;

-- What daily_kpi should hold of orders, a row a day that has any, or is stored.
CREATE VIEW pg_temp.kpi_expected AS
	SELECT d.day, coalesce(s.gmv, 0) AS gmv, coalesce(s.order_count, 0) AS order_count, coalesce(s.quantity, 0) AS quantity,
		   coalesce(s.buyer_count, 0) AS buyer_count, coalesce(p.paid_amount, 0) AS paid_amount,
		   coalesce(p.paid_order_count, 0) AS paid_order_count, coalesce(p.payer_count, 0) AS payer_count,
		   coalesce(r.refund_amount, 0) AS refund_amount, coalesce(r.refund_order_count, 0) AS refund_order_count,
		   coalesce(p.paid_amount, 0) - coalesce(r.refund_amount, 0) AS net_amount,
		   s.gmv / nullif(s.order_count, 0) AS aov, s.gmv / nullif(s.buyer_count, 0) AS amount_per_buyer,
		   coalesce(s.abnormal_order_count, 0) AS abnormal_order_count
	  FROM (SELECT day FROM ecstats.daily_kpi) d
	  LEFT JOIN (
		SELECT pg_temp.day(order_time) AS day, sum(amount) AS gmv, count(DISTINCT order_id) AS order_count, sum(quantity) AS quantity,
			   count(DISTINCT user_id) AS buyer_count,
			   count(DISTINCT order_id) FILTER (WHERE status IN ('cancelled', 'risk')) AS abnormal_order_count
		  FROM ecstats.order_lines WHERE quantity > 0 GROUP BY 1) s USING (day)
	  LEFT JOIN (
		SELECT pg_temp.day(paid_time) AS day, sum(amount) AS paid_amount, count(DISTINCT order_id) AS paid_order_count,
			   count(DISTINCT user_id) AS payer_count
		  FROM ecstats.order_lines WHERE quantity > 0 AND paid_time IS NOT NULL GROUP BY 1) p USING (day)
	  LEFT JOIN (
		SELECT pg_temp.day(order_time) AS day, -sum(amount) AS refund_amount, count(DISTINCT order_id) AS refund_order_count
		  FROM ecstats.order_lines WHERE quantity < 0 GROUP BY 1) r USING (day);

CREATE VIEW pg_temp.sales_expected AS
	SELECT pg_temp.day(order_time) AS day, product_id, region, channel,
		   coalesce(sum(quantity) FILTER (WHERE quantity > 0), 0) AS total_sold,
		   coalesce(sum(amount) FILTER (WHERE quantity > 0), 0) AS total_revenue,
		   count(DISTINCT order_id) FILTER (WHERE quantity > 0) AS order_count,
		   count(DISTINCT user_id) FILTER (WHERE quantity > 0) AS buyer_count,
		   coalesce(-sum(amount) FILTER (WHERE quantity < 0), 0) AS refund_amount
	  FROM ecstats.order_lines
	 WHERE pg_temp.day(order_time) IN (SELECT day FROM ecstats.daily_kpi)
	 GROUP BY 1, 2, 3, 4;

-- Rows of either side that the other does not have.
CREATE FUNCTION pg_temp.differences() RETURNS TABLE (relation text, the_row text) LANGUAGE sql AS $$
	WITH kpi AS (
		SELECT day, gmv, order_count, quantity, buyer_count, paid_amount, paid_order_count, payer_count, refund_amount,
			   refund_order_count, net_amount, round(aov, 10) AS aov, round(amount_per_buyer, 10) AS amount_per_buyer, abnormal_order_count
		  FROM ecstats.daily_kpi
	), kpi_should AS (
		SELECT day, gmv, order_count, quantity, buyer_count, paid_amount, paid_order_count, payer_count, refund_amount,
			   refund_order_count, net_amount, round(aov, 10), round(amount_per_buyer, 10), abnormal_order_count
		  FROM pg_temp.kpi_expected
	)
	SELECT 'daily_kpi', format('stored %s', k) FROM (TABLE kpi EXCEPT TABLE kpi_should) k
	UNION ALL SELECT 'daily_kpi', format('should be %s', k) FROM (TABLE kpi_should EXCEPT TABLE kpi) k
	UNION ALL SELECT 'daily_sales', format('stored %s', s) FROM (TABLE ecstats.daily_sales EXCEPT TABLE pg_temp.sales_expected) s
	UNION ALL SELECT 'daily_sales', format('should be %s', s) FROM (TABLE pg_temp.sales_expected EXCEPT TABLE ecstats.daily_sales) s
$$;

-- A generator of one's own: random() is another one in every major version.
CREATE SEQUENCE pg_temp.seed MINVALUE 0 START 1;
CREATE FUNCTION pg_temp.pick(n int) RETURNS int LANGUAGE sql VOLATILE AS
	$$ SELECT ('x' || substr(md5('order_change' || nextval('pg_temp.seed')), 1, 7))::bit(28)::int % n $$;
-- An instant of the ten days, often at a day's very edge.
CREATE FUNCTION pg_temp.pick_time() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
	SELECT timestamptz '2025-03-01 04:00+08' + pg_temp.pick(10) * interval '1 day'
		   + CASE pg_temp.pick(4) WHEN 0 THEN interval '0' WHEN 1 THEN interval '23:59:59.999999' ELSE pg_temp.pick(86400) * interval '1 second' END $$;

-- One change of one line or of one order; says which, for the count below.
CREATE FUNCTION pg_temp.change() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	id text := 'o' || pg_temp.pick(60);
	line int := pg_temp.pick(3);
	sale boolean := pg_temp.pick(5) > 0;
	paid timestamptz := CASE WHEN pg_temp.pick(3) > 0 THEN pg_temp.pick_time() END;
	ordered timestamptz := pg_temp.pick_time();
	cents numeric := pg_temp.pick(100000) / 100.0;
	what text := (array['insert', 'insert', 'insert', 'status', 'paid', 'unpaid', 'amount', 'time', 'return', 'user', 'group', 'delete', 'order', 'upsert'])[1 + pg_temp.pick(14)];
	state text := (array['placed', 'paid', 'cancelled', 'risk'])[1 + pg_temp.pick(4)];
	n bigint;
BEGIN
	CASE what
		WHEN 'insert' THEN
			INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time)
			VALUES (id, line, ordered, CASE WHEN pg_temp.pick(6) > 0 THEN 'u' || pg_temp.pick(15) END, 'p' || pg_temp.pick(4), 'r' || pg_temp.pick(2), 'c' || pg_temp.pick(2),
					(1 + pg_temp.pick(4)) * CASE WHEN sale THEN 1 ELSE -1 END, cents * CASE WHEN sale THEN 1 ELSE -1 END, state, paid)
			ON CONFLICT DO NOTHING;
		WHEN 'status' THEN
			UPDATE ecstats.order_lines l SET status = state WHERE l.order_id = id;
		WHEN 'paid' THEN
			UPDATE ecstats.order_lines l SET paid_time = coalesce(paid, ordered) WHERE l.order_id = id;
		WHEN 'unpaid' THEN
			UPDATE ecstats.order_lines l SET paid_time = NULL WHERE l.order_id = id AND l.paid_time IS NOT NULL;
		WHEN 'amount' THEN
			UPDATE ecstats.order_lines l SET amount = sign(l.quantity) * cents, quantity = l.quantity + sign(l.quantity)::int WHERE l.order_id = id AND l.line_no <= line;
		WHEN 'time' THEN
			UPDATE ecstats.order_lines l SET order_time = ordered WHERE l.ctid = (SELECT x.ctid FROM ecstats.order_lines x WHERE x.order_id = id ORDER BY x.line_no, x.order_time LIMIT 1)
				AND NOT EXISTS (SELECT FROM ecstats.order_lines x WHERE x.order_id = id AND x.order_time = ordered);
		WHEN 'return' THEN
			UPDATE ecstats.order_lines l SET quantity = -l.quantity, amount = -l.amount WHERE l.order_id = id;
		WHEN 'user' THEN
			UPDATE ecstats.order_lines l SET user_id = CASE WHEN line > 0 THEN 'u' || line END WHERE l.order_id = id;
		WHEN 'group' THEN
			UPDATE ecstats.order_lines l SET product_id = 'p' || line, region = 'r0', channel = 'c0' WHERE l.order_id = id;
		WHEN 'delete' THEN
			DELETE FROM ecstats.order_lines l WHERE l.order_id = id;
		WHEN 'upsert' THEN
			INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount)
			SELECT x.order_id, x.line_no, x.order_time, 'p0', 7, cents FROM ecstats.order_lines x WHERE x.order_id = id
			ON CONFLICT (order_id, line_no, order_time) DO UPDATE SET quantity = excluded.quantity, amount = excluded.amount, product_id = excluded.product_id;
		WHEN 'order' THEN
			PERFORM ecstats_order(jsonb_build_object('order_id', id, 'user_id', 'u' || line, 'status', state, 'paid_time', paid,
				'order_time', coalesce((SELECT min(x.order_time) FROM ecstats.order_lines x WHERE x.order_id = id), ordered),
				'items', jsonb_build_array(jsonb_build_object('line_no', line, 'product_id', 'p' || line, 'quantity', 1, 'amount', cents),
										   jsonb_build_object('line_no', 5, 'product_id', 'p1', 'quantity', -1, 'amount', -cents / 2))));
			RETURN what;
	END CASE;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN CASE WHEN n > 0 THEN what ELSE 'nothing' END;
END
$$;

CREATE TEMP TABLE changes (n int, what text);
-- Rounds of changes, each a few transactions, some rolled back; then a close. The day that is closed moves on by
-- and by: days before it are closed, those after it are open for a while, and all of them keep changing.
CREATE PROCEDURE pg_temp.walk(rounds int) LANGUAGE plpgsql AS $$
DECLARE
	wrong text;
BEGIN
	FOR round IN 1 .. rounds LOOP
		FOR i IN 1 .. 1 + pg_temp.pick(12) LOOP
			INSERT INTO changes SELECT round, pg_temp.change();
			IF pg_temp.pick(3) = 0 THEN
				COMMIT;
			ELSIF pg_temp.pick(8) = 0 THEN
				ROLLBACK;
			END IF;
		END LOOP;
		COMMIT;
		PERFORM ecstats_daily(date '2025-03-01' + least(9, pg_temp.pick(4) + round / 4));
		COMMIT;
		SELECT string_agg(format('round %s: %s %s', round, d.relation, d.the_row), E'\n' ORDER BY d.relation, d.the_row) INTO wrong FROM pg_temp.differences() d;
		IF wrong IS NOT NULL THEN
			RAISE EXCEPTION 'stored figures are not those of the raw rows' USING DETAIL = wrong;
		END IF;
	END LOOP;
END
$$;
SET client_min_messages = warning;
CALL pg_temp.walk(80);
SELECT min(day), max(day) FROM ecstats.daily_kpi;
-- each kind of change happened, often enough to mean something
SELECT what, count(*) > 5 AS often FROM changes GROUP BY what ORDER BY what;
SELECT count(*) > 20 AS restated, count(DISTINCT day) = 10 AS every_day FROM ecstats.restatements;
-- a wrong figure would be seen
BEGIN;
UPDATE ecstats.daily_kpi SET paid_amount = paid_amount + 0.01 WHERE day = '2025-03-04';
UPDATE ecstats.daily_sales SET buyer_count = buyer_count + 1 WHERE ctid = (SELECT min(ctid) FROM ecstats.daily_sales WHERE day = '2025-03-05');
SELECT relation, count(*) FROM pg_temp.differences() GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- the same for an apply worker: only what is ENABLE ALWAYS fires
SET session_replication_role = replica;
TRUNCATE changes;
CALL pg_temp.walk(80);
SELECT what, count(*) > 5 AS often FROM changes GROUP BY what ORDER BY what;
-- closing once more changes nothing
CREATE TEMP TABLE before AS SELECT * FROM ecstats.daily_kpi;
SELECT day FROM ecstats_daily('2025-03-10');
SELECT count(*) FROM (TABLE before EXCEPT TABLE ecstats.daily_kpi) d;

-- which days, to the day: order and payment, before and after
RESET session_replication_role;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount, paid_time) VALUES ('x', 1, '2025-03-02 12:00+08', 'p', 1, 1, '2025-03-03 12:00+08');
SELECT day FROM ecstats_daily('2025-03-10');
CREATE TEMP TABLE revisions AS SELECT day, revision FROM ecstats.daily_kpi;
CREATE FUNCTION pg_temp.restated() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	days text;
BEGIN
	PERFORM ecstats_daily('2025-03-10');
	SELECT string_agg(to_char(k.day, 'DD'), ' ' ORDER BY k.day) INTO days FROM ecstats.daily_kpi k JOIN revisions r USING (day) WHERE k.revision <> r.revision;
	TRUNCATE revisions;
	INSERT INTO revisions SELECT day, revision FROM ecstats.daily_kpi;
	RETURN days;
END
$$;
UPDATE ecstats.order_lines SET status = 'risk' WHERE order_id = 'x';
SELECT pg_temp.restated();
UPDATE ecstats.order_lines SET paid_time = '2025-03-05 03:59:59+08' WHERE order_id = 'x';
SELECT pg_temp.restated();
UPDATE ecstats.order_lines SET amount = 2 WHERE order_id = 'x';
SELECT pg_temp.restated();
UPDATE ecstats.order_lines SET order_time = '2025-03-06 04:00+08' WHERE order_id = 'x';
SELECT pg_temp.restated();
UPDATE ecstats.order_lines SET paid_time = NULL WHERE order_id = 'x';
SELECT pg_temp.restated();
UPDATE ecstats.order_lines SET extra = '{"a": 1}' WHERE order_id = 'x';
SELECT pg_temp.restated();
UPDATE ecstats.order_lines SET paid_time = '2025-03-07 12:00+08', order_time = '2025-03-08 12:00+08', amount = 3 WHERE order_id = 'x';
SELECT pg_temp.restated();
DELETE FROM ecstats.order_lines WHERE order_id = 'x';
SELECT pg_temp.restated();
SELECT * FROM pg_temp.differences();
