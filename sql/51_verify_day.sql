-- sql/51_verify_day.sql
-- The proof, a day at a time: what is stored against what the raw rows say. Reads only. Everything here is STABLE: it
-- sees the one snapshot of the query that asks, whatever is written meanwhile.

-- ecstats.rollup_unlike: the members of one object that another has not, or has otherwise; all of it where there is no
-- other, NULL where there is nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_unlike(a jsonb, b jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN a IS NULL OR b IS NULL THEN a
				ELSE (SELECT coalesce(jsonb_object_agg(m.key, m.value), '{}') FROM jsonb_each(a) m WHERE b -> m.key IS DISTINCT FROM m.value) END $$;
COMMENT ON FUNCTION ecstats.rollup_unlike(jsonb, jsonb) IS 'Members of a that differ in b; all of a where b is NULL.';

-- ecstats.rollup_verify_users: user_daily of a day against its events. Blocks that are byte for byte what they must be
-- are not unpacked; of the others, each user and event. A block that holds the right users under a wrong key or number
-- of users would be found by nobody: these are reported where the users themselves are right.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_users(the_day date) RETURNS TABLE (key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1), '{}', '{}', true, ecstats.rollup_names()) s
		 WHERE s.kind IN ('n', 'u')
	), unlike AS MATERIALIZED (		-- a name that has no number cannot be stored rightly, whatever the bytes are
		SELECT d.first_user AS had, d.users AS had_users, d.packed AS old, r.name AS has, r.a AS has_users, r.packed AS new
		  FROM (SELECT * FROM ecstats.user_day d WHERE d.day = the_day) d
		  FULL JOIN (SELECT * FROM e WHERE e.kind = 'u') r ON r.name = d.first_user
		 WHERE (d.users, d.packed) IS DISTINCT FROM (r.a::integer, r.packed) OR EXISTS (SELECT FROM e n WHERE n.kind = 'n')
	), pairs AS MATERIALIZED (
		SELECT coalesce(s.user_id, r.user_id) AS user_id, coalesce(s.event, r.event) AS event, s.event_count AS stored, r.event_count AS recomputed
		  FROM (SELECT c.user_id, n.event, c.event_count FROM unlike u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.old) c
				  JOIN ecstats.event_names n ON n.event_no = c.event_no) s
		  FULL JOIN (SELECT c.user_id, n.event, c.event_count FROM unlike u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.new) c
					   JOIN (SELECT e.a AS event_no, e.name COLLATE "C" AS event FROM e WHERE e.kind = 'n'
							 UNION ALL SELECT m.event_no, m.event FROM ecstats.event_names m) n ON n.event_no = c.event_no) r
				 ON r.user_id = s.user_id AND r.event = s.event
		 WHERE s.event_count IS DISTINCT FROM r.event_count
	)
	SELECT jsonb_build_object('user_id', p.user_id, 'event', p.event), CASE WHEN p.stored IS NOT NULL THEN jsonb_build_object('event_count', p.stored) END,
		   CASE WHEN p.recomputed IS NOT NULL THEN jsonb_build_object('event_count', p.recomputed) END
	  FROM pairs p
	UNION ALL
	SELECT jsonb_build_object('block', coalesce(u.had, u.has)), CASE WHEN u.had IS NOT NULL THEN jsonb_build_object('users', u.had_users) END,
		   CASE WHEN u.has IS NOT NULL THEN jsonb_build_object('users', u.has_users) END
	  FROM unlike u WHERE NOT EXISTS (SELECT FROM pairs)
	 ORDER BY 1 $$;
COMMENT ON FUNCTION ecstats.rollup_verify_users(date) IS 'Users and events of a day whose stored count is not that of the raw rows; blocks with the right users and a wrong key or number of them.';

-- ecstats.rollup_verify_orders: order_day of a day against its order lines, in the same way, and buyer_daily row by row.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_orders(the_day date) RETURNS TABLE (relation text, key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1), ecstats.rollup_abnormal(), true) s
		 WHERE s.kind IN ('o', 'b', 'u')
	), unlike AS MATERIALIZED (
		SELECT coalesce(d.kind, r.kind) AS kind, d.first_id AS had, d.ids AS had_ids, d.packed AS old, r.product_id AS has, r.quantity AS has_ids, r.packed AS new
		  FROM (SELECT * FROM ecstats.order_day d WHERE d.day = the_day) d
		  FULL JOIN (SELECT * FROM o WHERE o.kind IN ('o', 'b')) r ON r.kind = d.kind AND r.product_id = d.first_id
		 WHERE (d.ids, d.packed) IS DISTINCT FROM (r.quantity::integer, r.packed)
	), roles AS MATERIALIZED (
		SELECT coalesce(s.kind, r.kind) AS kind, coalesce(s.id, r.id) AS id, s.number AS stored, r.number AS recomputed
		  FROM (SELECT u.kind, c.* FROM unlike u CROSS JOIN LATERAL ecstats.rollup_ids_unpack(u.old) c) s
		  FULL JOIN (SELECT u.kind, c.* FROM unlike u CROSS JOIN LATERAL ecstats.rollup_ids_unpack(u.new) c) r ON r.kind = s.kind AND r.id = s.id
		 WHERE s.number IS DISTINCT FROM r.number
	), found AS (
		SELECT 'order_day' AS relation, jsonb_build_object(CASE r.kind WHEN 'o' THEN 'order_id' ELSE 'user_id' END, r.id) AS key,
			   CASE WHEN r.stored IS NOT NULL THEN jsonb_build_object('roles', r.stored) END AS stored,
			   CASE WHEN r.recomputed IS NOT NULL THEN jsonb_build_object('roles', r.recomputed) END AS recomputed
		  FROM roles r
		UNION ALL
		SELECT 'order_day', jsonb_build_object('block', coalesce(u.had, u.has), 'kind', u.kind),
			   CASE WHEN u.had IS NOT NULL THEN jsonb_build_object('ids', u.had_ids) END,
			   CASE WHEN u.has IS NOT NULL THEN jsonb_build_object('ids', u.has_ids) END
		  FROM unlike u WHERE NOT EXISTS (SELECT FROM roles)
		UNION ALL
		SELECT 'buyer_daily', jsonb_build_object('user_id', coalesce(s.user_id, r.product_id), 'region', coalesce(s.region, r.region), 'channel', coalesce(s.channel, r.channel)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,user_id,region,channel}'::text[] END,
			   CASE WHEN r.kind IS NOT NULL THEN jsonb_build_object('order_count', r.orders, 'gmv', r.amount, 'paid_amount', r.refund) END
		  FROM (SELECT * FROM ecstats.buyer_daily s WHERE s.day = the_day) s
		  FULL JOIN (SELECT * FROM o WHERE o.kind = 'u') r ON r.product_id = s.user_id AND r.region = s.region AND r.channel = s.channel
		 WHERE (s.order_count, s.gmv, s.paid_amount) IS DISTINCT FROM (r.orders, r.amount, r.refund)
	)
	SELECT f.relation, f.key, CASE f.relation WHEN 'order_day' THEN f.stored ELSE ecstats.rollup_unlike(f.stored, f.recomputed) END,
		   CASE f.relation WHEN 'order_day' THEN f.recomputed ELSE ecstats.rollup_unlike(f.recomputed, f.stored) END
	  FROM found f ORDER BY f.relation DESC, f.key $$;
COMMENT ON FUNCTION ecstats.rollup_verify_orders(date) IS
	'Orders and buyers of a day whose stored roles (1 sale, 2 return, 4 abnormal, 8 paid, added up) are not those of the raw rows; blocks as rollup_verify_users; rows of buyer_daily that are not what the raw rows say.';

-- ecstats.rollup_verify_day: one day's stored rows against its raw rows, but for user_daily, order_day and buyer_daily. with_events false: these are
-- gone, what is counted from them is left out. new_users: how many first_seen says, once it is right.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_day(the_day date, with_events boolean, new_users bigint)
	RETURNS TABLE (relation text, key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_page_views(), ecstats.rollup_funnel(), false)
		 WHERE with_events
	), o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1), ecstats.rollup_abnormal())
	), k AS MATERIALIZED (
		SELECT k.* FROM ecstats.daily_kpi k WHERE k.day = the_day
	), r AS MATERIALIZED (
		SELECT (to_jsonb(ecstats.rollup_kpi(the_day,
				CASE WHEN with_events
					 THEN (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v'))
					 ELSE (SELECT jsonb_build_object('t', jsonb_build_object('a', k.event_count, 'b', k.pv), 'v', jsonb_build_object('a', k.uv)) FROM k) END,
				(SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') FROM o WHERE o.kind IN ('t', 'r', 'a', 'p'))))
			|| jsonb_build_object('new_user_count', CASE WHEN with_events THEN new_users ELSE (SELECT k.new_user_count FROM k) END))
			- '{day,complete,closed_at,revision}'::text[] AS kpi
	), found AS (
		SELECT 'daily_kpi' AS relation, '{}'::jsonb AS key,
			   (SELECT to_jsonb(k) - '{day,complete,closed_at,revision}'::text[] FROM k) AS stored, r.kpi AS recomputed
		  FROM r
		UNION ALL
		SELECT 'daily_sales', jsonb_build_object('product_id', coalesce(s.product_id, t.product_id), 'region', coalesce(s.region, t.region),
												 'channel', coalesce(s.channel, t.channel)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,product_id,region,channel}'::text[] END,
			   CASE WHEN t.kind IS NOT NULL THEN jsonb_build_object('total_sold', t.quantity, 'total_revenue', t.amount,
					'order_count', t.orders, 'buyer_count', t.buyers, 'refund_amount', t.refund) END
		  FROM (SELECT * FROM ecstats.daily_sales s WHERE s.day = the_day) s
		  FULL JOIN (SELECT * FROM o WHERE o.kind = 's') t ON t.product_id = s.product_id AND t.region = s.region AND t.channel = s.channel
		 WHERE (s.total_sold, s.total_revenue, s.order_count, s.buyer_count, s.refund_amount)
			   IS DISTINCT FROM (t.quantity, t.amount, t.orders, t.buyers, t.refund)
		UNION ALL
		SELECT 'daily_sales_by', jsonb_build_object(coalesce(s.dimension, t.dimension), coalesce(s.value, t.value)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,dimension,value}'::text[] END,
			   CASE WHEN t.dimension IS NOT NULL THEN jsonb_build_object('total_sold', t.quantity, 'total_revenue', t.amount, 'refund_amount', t.refund) END
		  FROM (SELECT * FROM ecstats.daily_sales_by s WHERE s.day = the_day) s
		  FULL JOIN (SELECT d.dimension, d.value, sum(o.quantity)::bigint AS quantity, sum(o.amount) AS amount, sum(o.refund) AS refund
					   FROM o CROSS JOIN LATERAL (VALUES ('product', o.product_id), ('region', o.region), ('channel', o.channel)) d(dimension, value)
					  WHERE o.kind = 's' GROUP BY 1, 2) t ON t.dimension = s.dimension AND t.value = s.value
		 WHERE (s.total_sold, s.total_revenue, s.refund_amount) IS DISTINCT FROM (t.quantity, t.amount, t.refund)
		UNION ALL
		SELECT 'daily_events', jsonb_build_object('event', coalesce(s.event, t.name)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,event}'::text[] END,
			   CASE WHEN t.kind IS NOT NULL THEN jsonb_build_object('event_count', t.a, 'user_count', t.b) END
		  FROM (SELECT * FROM ecstats.daily_events s WHERE s.day = the_day AND with_events) s
		  FULL JOIN (SELECT * FROM e WHERE e.kind = 'e') t ON t.name = s.event
		 WHERE (s.event_count, s.user_count) IS DISTINCT FROM (t.a, t.b)
		UNION ALL
		SELECT 'daily_funnel', jsonb_build_object('step', coalesce(s.step, t.a)),
			   CASE WHEN s.day IS NOT NULL THEN to_jsonb(s) - '{day,step}'::text[] END,
			   CASE WHEN t.kind IS NOT NULL THEN jsonb_build_object('event', t.name, 'user_count', t.b) END
		  FROM (SELECT * FROM ecstats.daily_funnel s WHERE s.day = the_day AND with_events) s
		  FULL JOIN (SELECT * FROM e WHERE e.kind = 'f') t ON t.a = s.step
		 WHERE (s.event, s.user_count) IS DISTINCT FROM (t.name, t.b)
	)
	SELECT f.relation, f.key, ecstats.rollup_unlike(f.stored, f.recomputed), ecstats.rollup_unlike(f.recomputed, f.stored)
	  FROM found f WHERE f.stored IS DISTINCT FROM f.recomputed
	 ORDER BY f.relation, f.key $$;
COMMENT ON FUNCTION ecstats.rollup_verify_day(date, boolean, bigint) IS
	'Rows of daily_kpi, daily_sales, daily_sales_by, daily_events and daily_funnel of a day that are not what its raw rows say: of each what differs.';

