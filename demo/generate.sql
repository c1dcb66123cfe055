-- A plausible shop: 35 ended business days and the running one so far. The figures come from hashes of
-- row numbers, so that every run makes the same ones (weekdays and the hour apart).
--
-- 34 regions, 6 channels, 2,000 products, 50,000 users; a weekly and a daily rhythm; sessions that lead
-- to orders; unpaid, cancelled and suspicious orders; returns up to a week later; clients that send an
-- event twice. What comes late is made by late.sql, when its days are closed already.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SET jit = off;

-- A number in [0, 1) that depends on a row's number and on what it is for.
CREATE FUNCTION pg_temp.r(n bigint, what int) RETURNS float8 LANGUAGE sql IMMUTABLE AS
	$$ SELECT (hashint8extended(n, what) & 1073741823) / 1073741824.0::float8 $$;

-- 34 provinces, municipalities, autonomous and special regions, with their share in 1/1000.
CREATE TEMP TABLE region AS
	SELECT row_number() OVER () AS no, name, share FROM (VALUES
		('广东', 138), ('江苏', 95), ('浙江', 92), ('山东', 72), ('河南', 58), ('四川', 56), ('上海', 52), ('北京', 50),
		('湖北', 44), ('湖南', 42), ('福建', 40), ('安徽', 38), ('河北', 37), ('陕西', 25), ('辽宁', 24), ('江西', 22),
		('重庆', 22), ('广西', 18), ('云南', 16), ('天津', 15), ('山西', 14), ('黑龙江', 10), ('贵州', 9), ('吉林', 8),
		('内蒙古', 6), ('新疆', 5), ('甘肃', 5), ('海南', 4), ('宁夏', 2), ('青海', 1), ('香港', 1), ('台湾', 1),
		('西藏', 1), ('澳门', 1)) AS v(name, share);
CREATE TEMP TABLE channel AS
	SELECT row_number() OVER () AS no, name, share FROM (VALUES
		('天猫旗舰店', 34), ('抖音直播间', 24), ('京东自营', 18), ('微信小程序', 11), ('小红书', 8), ('拼多多', 5)) AS v(name, share);

-- 50 kinds of goods in 8 styles and 5 colours or sizes.
CREATE TEMP TABLE product AS
	SELECT k.no * 40 + s.no * 5 + c.no AS no,
		   k.name || ' ' || s.name || ' ' || c.name AS name,
		   round((k.price * (0.8 + 0.06 * s.no + 0.02 * c.no))::numeric, 1) - 0.1 AS price
	  FROM (SELECT ordinality - 1 AS no, split_part(v, '|', 1) AS name, split_part(v, '|', 2)::int AS price
			  FROM unnest('{羽绒服|459,针织开衫|169,纯棉T恤|69,牛仔裤|189,风衣|329,连衣裙|239,运动鞋|299,帆布鞋|129,羊毛围巾|119,棒球帽|59,
				保温杯|79,电热水壶|149,空气炸锅|299,电饭煲|269,破壁机|399,炒锅|199,不粘煎锅|119,菜刀套装|159,餐具套装|139,玻璃饭盒|49,
				四件套|259,鹅绒被|699,乳胶枕|189,毛巾套装|59,浴室地垫|45,台灯|119,加湿器|99,吸尘器|599,扫地机器人|1999,挂烫机|169,
				蓝牙耳机|199,充电宝|99,机械键盘|249,无线鼠标|79,手机壳|35,数据线|25,智能手表|699,行车记录仪|299,平板支架|39,投影仪|1299,
				坚果礼盒|99,龙井茶叶|168,挂耳咖啡|79,燕麦片|39,蜂蜜|69,婴儿湿巾|49,纸尿裤|129,洗面奶|69,面膜|89,护手霜|39}'::text[])
				   WITH ORDINALITY AS u(v, ordinality)) k,
		   (SELECT ordinality - 1 AS no, name FROM unnest('{经典款,轻奢款,学生款,家用款,便携款,礼盒装,加大款,联名款}'::text[])
				   WITH ORDINALITY AS u(name, ordinality)) s,
		   (SELECT ordinality - 1 AS no, name FROM unnest('{米白,雾蓝,墨绿,深灰,樱粉}'::text[]) WITH ORDINALITY AS u(name, ordinality)) c;

-- Shares become arrays in which a random position finds a member.
CREATE TEMP TABLE wheel AS SELECT
	(SELECT array_agg(region.name ORDER BY no) FROM region, generate_series(1, share)) AS region,
	(SELECT array_agg(channel.name ORDER BY no) FROM channel, generate_series(1, share)) AS channel,
	(SELECT array_agg(product.name ORDER BY no) FROM product) AS product,
	(SELECT array_agg(product.price ORDER BY no) FROM product) AS price,
	(SELECT array_agg((h - 1)::int ORDER BY h) FROM unnest('{25,12,6,4,4,6,15,28,38,48,56,56,58,52,48,48,48,48,50,60,78,86,76,50}'::int[])
		WITH ORDINALITY AS hours(share, h), generate_series(1, share)) AS hour,
	'{1.15,0.92,0.90,0.93,0.95,1.05,1.22}'::float8[] AS weekday,
	'{view_item,view_item,view_item,view_item,view_item,view_item,view_item,view_item,view_item,page_view,page_view,
	  page_view,search,search,click,click,add_to_cart,add_to_cart,favorite,share}'::text[] AS step,
	'{add_to_cart,begin_checkout,purchase}'::text[] AS checkout;

-- ------------------------------------------------------------------ sessions
-- A session is a user, a start, a number of steps, and perhaps an order.
CREATE TEMP TABLE session AS
	SELECT d.i, d.i * 100000 + s AS no,
		   d.day,
		   'u' || lpad((floor((36000 + 400 * d.i) * power(pg_temp.r(d.i * 100000 + s, 1), 1.3)) + 1)::text, 6, '0') AS user_id,
		   ecstats.day_start(d.day) + make_interval(
				hours => w.hour[1 + floor(pg_temp.r(d.i * 100000 + s, 2) * cardinality(w.hour))::int],
				secs => 3600 * pg_temp.r(d.i * 100000 + s, 3)) AS start,
		   4 + floor(7 * power(pg_temp.r(d.i * 100000 + s, 4), 2))::int - 2 * (pg_temp.r(d.i * 100000 + s, 5) < 0.5)::int AS steps,
		   pg_temp.r(d.i * 100000 + s, 6) < 0.058 AS buys
	  FROM (SELECT i::bigint, ecstats_day() - 35 + i AS day FROM generate_series(0, 35) AS i) d
	 CROSS JOIN wheel w
	 CROSS JOIN LATERAL generate_series(1, (6100 * w.weekday[1 + extract(dow FROM d.day)::int] * (0.94 + 0.002 * d.i + 0.06 * pg_temp.r(d.i, 7)))::bigint) AS s;
UPDATE session SET steps = greatest(steps, 5) WHERE buys;

-- ------------------------------------------------------------------ events
SELECT ecstats_prepare(ecstats_day() - 35, ecstats_day() + 1) AS "partitions made";

INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
SELECT s.start + k * make_interval(secs => 8 + floor(80 * pg_temp.r(s.no * 16 + k, 11))), s.user_id, e.event,
	   md5('event ' || s.no || ' ' || k)::uuid,
	   CASE e.event WHEN 'page_view' THEN '/' WHEN 'search' THEN '/search' WHEN 'view_item' THEN '/item/' || p.no
					WHEN 'add_to_cart' THEN '/cart' END,
	   CASE WHEN e.event IN ('view_item', 'add_to_cart', 'favorite') THEN jsonb_build_object('product', w.product[p.no]) ELSE '{}' END
  FROM session s
 CROSS JOIN wheel w
 CROSS JOIN LATERAL generate_series(0, s.steps - 1) AS k
 CROSS JOIN LATERAL (SELECT CASE
		WHEN k = 0 THEN CASE WHEN pg_temp.r(s.no, 12) < 0.3 THEN 'login' ELSE 'page_view' END
		WHEN s.buys AND k >= s.steps - 3 THEN w.checkout[k - s.steps + 4]
		ELSE w.step[1 + floor(pg_temp.r(s.no * 16 + k, 13) * cardinality(w.step))::int] END AS event) e
 CROSS JOIN LATERAL (SELECT 1 + (floor(2000 * power(pg_temp.r(s.no * 16 + k, 14), 2.2))::int * 367) % 2000 AS no) p
 WHERE s.start + k * interval '90 seconds' < clock_timestamp();

-- One event in a hundred is sent twice: the repeat has the same event_id and is not stored.
INSERT INTO ecstats.events
SELECT * FROM ecstats.events e WHERE hashtext(e.event_id::text) % 100 = 0
ON CONFLICT DO NOTHING;

-- ------------------------------------------------------------------ orders
-- The lines of session no as orders are written: the shop has its own numbers.
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time)
SELECT to_char(s.day, 'YYMMDD') || lpad((s.no % 100000)::text, 6, '0'), l.no, s.start + interval '8 minutes', s.user_id,
	   w.product[p.no], w.region[1 + floor(pg_temp.r(hashtext(s.user_id), 21) * cardinality(w.region))::int],
	   w.channel[1 + floor(pg_temp.r(s.no, 22) * cardinality(w.channel))::int],
	   q.n, round(w.price[p.no] * q.n * (100 - 5 * floor(4 * pg_temp.r(s.no, 23)))::int / 100, 2), o.status,
	   CASE WHEN o.status NOT IN ('placed', 'cancelled')
			THEN s.start + interval '8 minutes' + make_interval(secs => 20 + 900 * power(pg_temp.r(s.no, 24), 3)
				+ CASE WHEN pg_temp.r(s.no, 25) < 0.02 THEN 36000 ELSE 0 END) END
  FROM session s
 CROSS JOIN wheel w
 CROSS JOIN LATERAL generate_series(1, 1 + floor(3 * power(pg_temp.r(s.no, 26), 2))::int) AS l(no)
 CROSS JOIN LATERAL (SELECT 1 + (floor(2000 * power(pg_temp.r(s.no * 16 + l.no, 27), 2.2))::int * 367) % 2000 AS no) p
 CROSS JOIN LATERAL (SELECT 1 + floor(3 * power(pg_temp.r(s.no * 16 + l.no, 28), 4))::int AS n) q
 CROSS JOIN LATERAL (SELECT CASE WHEN x < 0.03 THEN 'cancelled' WHEN x < 0.035 THEN 'risk' WHEN x < 0.075 THEN 'placed'
							 WHEN s.i > 33 THEN 'paid' WHEN s.i > 28 THEN 'shipped' ELSE 'completed' END AS status
					   FROM (SELECT pg_temp.r(s.no, 29) AS x) r) o
 WHERE s.buys AND s.start < clock_timestamp() - interval '8 minutes';

-- One line in twenty goes back, one to seven days later.
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status)
SELECT l.order_id, l.line_no, t.back, l.user_id, l.product_id, l.region, l.channel, -l.quantity, -l.amount, 'returned'
  FROM ecstats.order_lines l
 CROSS JOIN LATERAL (SELECT hashtext(l.order_id || '/' || l.line_no)::bigint AS n) h
 CROSS JOIN LATERAL (SELECT l.order_time + make_interval(days => 1 + floor(7 * pg_temp.r(h.n, 31))::int, mins => floor(600 * pg_temp.r(h.n, 32))::int) AS back) t
 WHERE l.paid_time IS NOT NULL AND l.status <> 'risk' AND pg_temp.r(h.n, 33) < 0.05 AND t.back < clock_timestamp();

INSERT INTO ecstats.targets (period, metric, value) VALUES (to_char(ecstats_day() - 1, 'YYYY-MM'), 'gmv', 6000000);

-- What the generator would do to the planner's idea of the tables, had it been an ordinary month.
ANALYZE ecstats.events;
ANALYZE ecstats.order_lines;
