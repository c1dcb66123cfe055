-- bench/rollup.sql
-- A business day to compute: events as a shop's clients send them, order lines, and how to forget what was computed.
CREATE SCHEMA IF NOT EXISTS bench;

-- The names of events, the frequent ones first.
CREATE OR REPLACE FUNCTION bench.names() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
	SELECT '{view_item,page_view,search,click,add_to_cart,login,begin_checkout,purchase,favorite,action_click,share,remove_from_cart}'::text[] $$;

-- n events of a day by very nearly `users` distinct users, a few of them busy: share `part` of `parts` of them, so that
-- several sessions may load one day. Wide rows: client's UUIDs, a URL, extra of three members.
CREATE OR REPLACE PROCEDURE bench.load_events(day date, n bigint, users bigint, part integer, parts integer) LANGUAGE sql AS $$
	INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
	SELECT ecstats.day_start(day) + (i::float8 / n) * interval '86398 seconds' + random() * interval '1 second',
		   -- of p ids with this skew n events reach p n / (p + n)
		   'u' || floor(users::float8 * n / (n - users) * random() * random())::int,
		   (bench.names())[1 + least(floor(12 * power(random(), 1.7)), 11)::int],
		   gen_random_uuid(),
		   '/item/' || (5000 * random())::int || '?from=list&page=' || (i % 40),
		   jsonb_build_object('product_id', 'p' || (5000 * random())::int, 'price', round((900 * random())::numeric, 2),
							  'category', 'c' || i % 80)
	  FROM generate_series(n * (part - 1) / parts, n * part / parts - 1) i $$;

-- Of each user two events and nothing else: many users for the memory of a scan.
CREATE OR REPLACE PROCEDURE bench.load_users(day date, users bigint) LANGUAGE sql AS $$
	INSERT INTO ecstats.events (event_time, user_id, event)
	SELECT ecstats.day_start(day) + (i::float8 / users / 2) * interval '86398 seconds', 'u' || i % users,
		   (bench.names())[1 + (i / users)::int]
	  FROM generate_series(0, 2 * users - 1) i $$;

-- n order lines of a day: 5 lines in 2 orders, 5,000 products, 30 regions, 5 channels; 80 % paid on the day, 12 % on the
-- next, 3 % are returns.
CREATE OR REPLACE PROCEDURE bench.load_lines(day date, n bigint, prefix text) LANGUAGE sql AS $$
	INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time, extra)
	SELECT prefix || o.no, l.line_no, o.order_time, o.user_id, 'p' || floor(5000 * random() * random() + o.no * 0)::int, o.region, o.channel,
		   l.quantity * o.sign, l.quantity * o.sign * round((5 + 400 * random() * random())::numeric, 2), o.status, o.paid_time,
		   jsonb_build_object('sku', 's' || o.no % 1000)
	  FROM (SELECT i AS no, day_start + (i::float8 / n * 2.5) * interval '86398 seconds' AS order_time,
				   CASE WHEN i % 20 > 0 THEN 'u' || floor(500000 * random() * random())::int END AS user_id,
				   'r' || floor(30 * random() * random())::int AS region,
				   ('{web,app,mini_program,store,partner}'::text[])[1 + floor(5 * random() * random())::int] AS channel,
				   CASE WHEN i % 33 = 7 THEN -1 ELSE 1 END AS sign,
				   CASE i % 25 WHEN 1 THEN 'cancelled' WHEN 2 THEN 'risk' WHEN 3 THEN 'placed' ELSE 'paid' END AS status,
				   CASE WHEN i % 33 = 7 OR i % 25 IN (1, 2) THEN NULL
						WHEN i % 8 = 1 THEN day_start + interval '86400 seconds' + i::float8 / n * interval '20 hours'
						ELSE least(day_start + (i::float8 / n * 2.5) * interval '86398 seconds' + interval '4 minutes', day_start + interval '86399 seconds')
				   END AS paid_time
			  FROM (SELECT ecstats.day_start(day) AS day_start) d, generate_series(1, n * 2 / 5) i) o
	 CROSS JOIN LATERAL (SELECT l AS line_no, 1 + (o.no + l) % 3 AS quantity FROM generate_series(1, 2 + o.no % 2) l) l $$;

-- Forgets everything that was computed; raw rows stay.
CREATE OR REPLACE PROCEDURE bench.forget() LANGUAGE plpgsql AS $$
DECLARE
	tables text;
BEGIN
	SELECT string_agg('ecstats.' || c.relname, ', ') INTO tables
	  FROM pg_class c
	 WHERE c.relnamespace = 'ecstats'::regnamespace AND c.relkind = 'r'
	   AND c.relname IN ('daily_kpi', 'daily_sales', 'daily_events', 'daily_funnel', 'weekly_kpi', 'monthly_kpi', 'user_day', 'order_day',
						 'first_seen', 'first_seen_block', 'restatements', 'day_state', 'day_marks', 'day_partitions');
	EXECUTE 'TRUNCATE ' || tables;
END
$$;
