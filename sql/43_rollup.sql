-- sql/43_rollup.sql
-- Computing a day: the same two scans for a close, for today, for a rebuild and for a proof.

-- ecstats.rollup_kpi: the figures of any range of time from two scans, as a row of daily_kpi that is not
-- closed. new_user_count is left to the caller, who knows which days count.
CREATE OR REPLACE FUNCTION ecstats.rollup_kpi(day date, events jsonb, orders jsonb) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k ecstats.daily_kpi;
BEGIN
	k.day := day;
	k.gmv := orders -> 't' -> 'amount';
	k.order_count := orders -> 't' -> 'orders';
	k.quantity := orders -> 't' -> 'quantity';
	k.buyer_count := orders -> 't' -> 'buyers';
	k.paid_amount := orders -> 'p' -> 'amount';
	k.paid_order_count := orders -> 'p' -> 'orders';
	k.payer_count := orders -> 'p' -> 'buyers';
	k.refund_amount := orders -> 't' -> 'refund';
	k.refund_order_count := orders -> 'r' -> 'orders';
	k.net_amount := k.paid_amount - k.refund_amount;
	k.aov := k.gmv / nullif(k.order_count, 0);
	k.amount_per_buyer := k.gmv / nullif(k.buyer_count, 0);
	k.abnormal_order_count := orders -> 'a' -> 'orders';
	k.event_count := events -> 't' -> 'a';
	k.pv := events -> 't' -> 'b';
	k.uv := events -> 'v' -> 'a';
	k.conversion_rate := k.buyer_count::numeric / nullif(k.uv, 0);
	k.new_user_count := 0;
	k.complete := false;
	k.revision := 0;
	RETURN k;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_kpi(date, jsonb, jsonb) IS
	'A row of daily_kpi from the totals of rollup_scan_events and rollup_scan_orders, keyed by their kind.';

CREATE OR REPLACE FUNCTION ecstats.rollup_page_views() RETURNS text[]
	LANGUAGE sql STABLE AS
	$$ SELECT coalesce(pg_catalog.array_agg(t.event::text), '{}') FROM ecstats.event_types t WHERE t.is_page_view $$;
COMMENT ON FUNCTION ecstats.rollup_page_views() IS 'Event names that count in pv.';

CREATE OR REPLACE FUNCTION ecstats.rollup_funnel() RETURNS text[]
	LANGUAGE sql STABLE AS
	$$ SELECT coalesce(pg_catalog.array_agg(t.event::text ORDER BY t.funnel_step), '{}') FROM ecstats.event_types t WHERE t.funnel_step IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.rollup_funnel() IS 'Event names of the funnel''s steps, in order.';

CREATE OR REPLACE FUNCTION ecstats.rollup_abnormal() RETURNS text[]
	LANGUAGE sql STABLE AS $$ SELECT c.abnormal_statuses FROM ecstats.config c $$;
COMMENT ON FUNCTION ecstats.rollup_abnormal() IS 'Order statuses that count as abnormal.';

-- ecstats.rollup_names: for the scan, the event names that have a number, in the order of these.
CREATE OR REPLACE FUNCTION ecstats.rollup_names() RETURNS text[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(coalesce(n.event, '') ORDER BY i), '{}')
	  FROM generate_series(1, (SELECT max(m.event_no) FROM ecstats.event_names m)) i LEFT JOIN ecstats.event_names n ON n.event_no = i $$;
COMMENT ON FUNCTION ecstats.rollup_names() IS 'Event names by their number from 1, an empty one where a number has none.';

-- ecstats.rollup_write: computes a day and makes its stored rows (all but daily_kpi) what they must be,
-- touching only those that differ. One statement: every figure sees the same snapshot. with_events false: what is
-- counted from events stays as it is stored, here and in the figures returned. changed_buyers: users whose rows of
-- buyer_daily were not what they are now. Under ecstats.rollup_lock.
CREATE OR REPLACE FUNCTION ecstats.rollup_write(the_day date, with_events boolean, OUT kpi ecstats.daily_kpi, OUT changed_buyers text[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET enable_mergejoin = off AS $$	-- statistics do not know a day that is new
DECLARE
	event_totals jsonb;
	order_totals jsonb;
BEGIN
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_page_views(), ecstats.rollup_funnel(), true, ecstats.rollup_names())
		 WHERE with_events
	), o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_abnormal(), true)
	), new_names AS (
		INSERT INTO ecstats.event_names (event_no, event) SELECT e.a, e.name FROM e WHERE e.kind = 'n'
	), users_gone AS (
		DELETE FROM ecstats.user_day d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'u' AND e.name = d.first_user)
	), users_written AS (
		INSERT INTO ecstats.user_day AS d (day, first_user, users, packed) SELECT the_day, e.name, e.a, e.packed FROM e WHERE e.kind = 'u'
		ON CONFLICT (day, first_user) DO UPDATE SET users = excluded.users, packed = excluded.packed WHERE (d.users, d.packed) <> (excluded.users, excluded.packed)
	), events_gone AS (
		DELETE FROM ecstats.daily_events d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'e' AND e.name = d.event)
	), events_written AS (
		INSERT INTO ecstats.daily_events AS d (day, event, event_count, user_count)
		SELECT the_day, e.name, e.a, e.b FROM e WHERE e.kind = 'e'
		ON CONFLICT (day, event) DO UPDATE SET event_count = excluded.event_count, user_count = excluded.user_count
		 WHERE (d.event_count, d.user_count) <> (excluded.event_count, excluded.user_count)
	), funnel_gone AS (
		DELETE FROM ecstats.daily_funnel d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM e WHERE e.kind = 'f' AND e.a = d.step)
	), funnel_written AS (
		INSERT INTO ecstats.daily_funnel AS d (day, step, event, user_count)
		SELECT the_day, e.a, e.name, e.b FROM e WHERE e.kind = 'f'
		ON CONFLICT (day, step) DO UPDATE SET event = excluded.event, user_count = excluded.user_count
		 WHERE (d.event, d.user_count) <> (excluded.event, excluded.user_count)
	), sales_gone AS (
		DELETE FROM ecstats.daily_sales d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM o WHERE o.kind = 's' AND (o.product_id, o.region, o.channel) = (d.product_id, d.region, d.channel))
	), sales_written AS (
		INSERT INTO ecstats.daily_sales AS d (day, product_id, region, channel, total_sold, total_revenue,
											  order_count, buyer_count, refund_amount)
		SELECT the_day, o.product_id, o.region, o.channel, o.quantity, o.amount, o.orders, o.buyers, o.refund
		  FROM o WHERE o.kind = 's'
		ON CONFLICT (day, product_id, region, channel) DO UPDATE
		   SET total_sold = excluded.total_sold, total_revenue = excluded.total_revenue,
			   order_count = excluded.order_count, buyer_count = excluded.buyer_count,
			   refund_amount = excluded.refund_amount
		 WHERE (d.total_sold, d.total_revenue, d.order_count, d.buyer_count, d.refund_amount)
			   <> (excluded.total_sold, excluded.total_revenue, excluded.order_count, excluded.buyer_count, excluded.refund_amount)
	), sums AS MATERIALIZED (
		SELECT CASE WHEN grouping(o.product_id) = 0 THEN 'product' WHEN grouping(o.region) = 0 THEN 'region' ELSE 'channel' END AS dimension,
			   coalesce(o.product_id, o.region, o.channel) AS value,
			   sum(o.quantity)::bigint AS quantity, sum(o.amount) AS amount, sum(o.refund) AS refund
		  FROM o WHERE o.kind = 's' GROUP BY GROUPING SETS ((o.product_id), (o.region), (o.channel))
	), sums_gone AS (
		DELETE FROM ecstats.daily_sales_by d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM sums s WHERE (s.dimension, s.value) = (d.dimension, d.value))
	), sums_written AS (
		INSERT INTO ecstats.daily_sales_by AS d (day, dimension, value, total_sold, total_revenue, refund_amount)
		SELECT the_day, s.dimension, s.value, s.quantity, s.amount, s.refund FROM sums s
		ON CONFLICT (day, dimension, value) DO UPDATE
		   SET total_sold = excluded.total_sold, total_revenue = excluded.total_revenue, refund_amount = excluded.refund_amount
		 WHERE (d.total_sold, d.total_revenue, d.refund_amount) <> (excluded.total_sold, excluded.total_revenue, excluded.refund_amount)
	), ids_gone AS (
		DELETE FROM ecstats.order_day d WHERE d.day = the_day
		   AND NOT EXISTS (SELECT FROM o WHERE o.kind = d.kind AND o.product_id = d.first_id)
	), ids_written AS (
		INSERT INTO ecstats.order_day AS d (day, kind, first_id, ids, packed)
		SELECT the_day, o.kind, o.product_id, o.quantity, o.packed FROM o WHERE o.kind IN ('o', 'b')
		ON CONFLICT (day, kind, first_id) DO UPDATE SET ids = excluded.ids, packed = excluded.packed WHERE (d.ids, d.packed) <> (excluded.ids, excluded.packed)
	), buyers AS MATERIALIZED (
		SELECT d.user_id AS stored_user, d.region AS stored_region, d.channel AS stored_channel, n.*
		  FROM (SELECT * FROM ecstats.buyer_daily d WHERE d.day = the_day) d
		  FULL JOIN (SELECT o.product_id AS user_id, o.region, o.channel, o.orders, o.amount, o.refund AS paid FROM o WHERE o.kind = 'u') n
				 ON n.user_id = d.user_id AND n.region = d.region AND n.channel = d.channel
		 WHERE (d.order_count, d.gmv, d.paid_amount) IS DISTINCT FROM (n.orders, n.amount, n.paid)
	), buyers_gone AS (
		DELETE FROM ecstats.buyer_daily d WHERE d.day = the_day
		   AND (d.user_id, d.region, d.channel) IN (SELECT b.stored_user, b.stored_region, b.stored_channel FROM buyers b WHERE b.user_id IS NULL)
	), buyers_written AS (
		INSERT INTO ecstats.buyer_daily (day, user_id, region, channel, order_count, gmv, paid_amount)
		SELECT the_day, b.user_id, b.region, b.channel, b.orders, b.amount, b.paid FROM buyers b WHERE b.user_id IS NOT NULL
		 ORDER BY b.user_id COLLATE "C"		-- the key is filled from one end to the other
		ON CONFLICT (user_id, day, region, channel) DO UPDATE SET order_count = excluded.order_count, gmv = excluded.gmv, paid_amount = excluded.paid_amount
	)
	SELECT (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v')),
		   (SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') FROM o WHERE o.kind IN ('t', 'r', 'a', 'p')),
		   array(SELECT DISTINCT coalesce(b.user_id, b.stored_user) FROM buyers b)
	  INTO event_totals, order_totals, changed_buyers;
	IF NOT with_events THEN
		SELECT jsonb_build_object('t', jsonb_build_object('a', k.event_count, 'b', k.pv), 'v', jsonb_build_object('a', k.uv))
		  INTO STRICT event_totals FROM ecstats.daily_kpi k WHERE k.day = the_day;
	END IF;
	kpi := ecstats.rollup_kpi(the_day, event_totals, order_totals);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_write(date, boolean) IS
	'Computes a day from raw rows and brings daily_events, daily_funnel, daily_sales, daily_sales_by, user_day, order_day and buyer_daily to it, touching only rows that differ; returns the figures, and whose rows of buyer_daily changed. with_events false: from order lines alone, what events make stays as stored.';
