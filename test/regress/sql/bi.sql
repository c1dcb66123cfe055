-- What BI tools read: the views' figures, the comments they show, and that a range of days is read by the primary key.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
\pset format unaligned

INSERT INTO ecstats.events (event_time, user_id, event)
SELECT d + interval '4 hours', u, e FROM (VALUES
	('2026-03-02'::timestamptz, 'a', 'page_view'), ('2026-03-02', 'a', 'view_item'), ('2026-03-02', 'b', 'page_view'), ('2026-03-02', 'c', 'page_view'),
	('2026-03-02', 'c', 'view_item'), ('2026-03-02', 'c', 'add_to_cart'), ('2026-03-02', 'd', 'purchase'),
	('2026-03-08', 'a', 'login'), ('2026-03-09', 'a', 'login'), ('2026-03-09', 'b', 'login')) v(d, u, e);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount) VALUES
	('1', 1, '2026-03-02 04:00+00', 'a', 'p1', 'north', 'app', 2, 10.10), ('1', 2, '2026-03-02 04:00+00', 'a', 'p2', 'north', 'app', 1, 0.005),
	('2', 1, '2026-03-02 05:00+00', 'b', 'p1', 'south', 'web', 3, 30), ('3', 1, '2026-03-02 06:00+00', 'a', 'p1', 'south', 'app', 1, 5),
	('0', 1, '2026-03-02 06:00+00', 'a', 'p3', 'south', 'web', -1, -4.5), ('0', 2, '2026-03-02 06:00+00', 'a', 'p1', 'south', 'web', -1, -0.5),
	('4', 1, '2026-03-08 04:00+00', 'a', 'p1', 'north', 'app', 1, 20), ('5', 1, '2026-03-09 04:00+00', 'a', 'p1', 'north', 'app', 1, 15);
SELECT day, gmv FROM ecstats_daily('2026-03-09');

SELECT * FROM ecstats.product_daily WHERE day = '2026-03-02' ORDER BY product_id;
SELECT * FROM ecstats.region_daily WHERE day = '2026-03-02' ORDER BY region;
SELECT * FROM ecstats.channel_daily WHERE day = '2026-03-02' ORDER BY channel;
SELECT day, step, event, user_count, round(of_first, 4) AS of_first, round(of_previous, 4) AS of_previous FROM ecstats.funnel_daily WHERE day = '2026-03-02' ORDER BY step;
-- nobody takes the first step: there is nothing to take a share of
SELECT count(*), count(of_first), count(of_previous) FROM ecstats.funnel_daily WHERE day = '2026-03-09';
\x on
SELECT day, gmv, gmv_day_before, gmv_week_before, round(gmv_day_change, 6) AS gmv_day_change, round(gmv_week_change, 6) AS gmv_week_change,
	   order_count, order_count_day_before, order_count_week_before, round(order_count_day_change, 6) AS order_count_day_change, round(order_count_week_change, 6) AS order_count_week_change,
	   uv, uv_day_before, uv_week_before, round(uv_day_change, 6) AS uv_day_change, round(uv_week_change, 6) AS uv_week_change, complete
  FROM ecstats.kpi_trend ORDER BY day;
\x off

-- the views add up to what they are made of
SELECT day FROM ecstats.daily_kpi k
 WHERE (k.quantity, k.gmv, k.refund_amount) <> ALL (
	SELECT sum(total_sold), sum(total_revenue), sum(refund_amount) FROM ecstats.product_daily v WHERE v.day = k.day
	UNION ALL SELECT sum(total_sold), sum(total_revenue), sum(refund_amount) FROM ecstats.region_daily v WHERE v.day = k.day
	UNION ALL SELECT sum(total_sold), sum(total_revenue), sum(refund_amount) FROM ecstats.channel_daily v WHERE v.day = k.day);

-- a condition on the day reaches the primary key of the table below
CREATE FUNCTION pg_temp.conditions(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		CONTINUE WHEN line !~ 'Index (Only )?Scan|Index Cond|Seq Scan';
		RETURN NEXT regexp_replace(btrim(line), '^-> *', '');
	END LOOP;
END
$$;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SELECT v, pg_temp.conditions(format('SELECT * FROM ecstats.%I WHERE day BETWEEN ''2026-03-02'' AND ''2026-03-08''', v)) AS plan
  FROM unnest('{daily_kpi,daily_sales,daily_events,daily_funnel,product_daily,region_daily,channel_daily,funnel_daily,kpi_trend}'::text[]) v;
RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_hashjoin; RESET enable_mergejoin;

-- whatever a reader may read says what it is, each column too
SELECT c.oid::regclass AS relation, a.attname AS without_comment
  FROM ecstats.profile_privileges() p
  JOIN pg_class c ON c.oid = to_regclass('ecstats.' || p.object)
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE p.profile = 'reader' AND p.kind = 'relation' AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)
   AND (p.columns IS NULL OR a.attname = ANY (string_to_array(p.columns, ', ')))
 ORDER BY c.relname, a.attnum;

-- and may read it
CREATE ROLE ecstats_bi;
SELECT ecstats_grant('ecstats_bi', 'reader');
SET ROLE ecstats_bi;
SELECT (SELECT count(*) FROM ecstats.product_daily) AS products, (SELECT count(*) FROM ecstats.region_daily) AS regions, (SELECT count(*) FROM ecstats.channel_daily) AS channels,
	   (SELECT count(*) FROM ecstats.funnel_daily) AS steps, (SELECT count(*) FROM ecstats.kpi_trend) AS days, (SELECT count(*) FROM ecstats.user_daily) AS users;
SELECT count(*) FROM ecstats.events;
RESET ROLE;
SELECT ecstats_revoke('ecstats_bi', 'reader');
DROP ROLE ecstats_bi;
