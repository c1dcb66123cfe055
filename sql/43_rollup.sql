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

-- ecstats.rollup_write: computes a day and makes its stored rows (all but daily_kpi) what they must be,
-- touching only those that differ. One statement: every figure sees the same snapshot. with_events false: what is
-- counted from events stays as it is stored, here and in the figures returned.
CREATE OR REPLACE FUNCTION ecstats.rollup_write(the_day date, with_events boolean) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	SET enable_nestloop = off SET enable_mergejoin = off AS $$	-- statistics do not know a day that is new
DECLARE
	event_totals jsonb;
	order_totals jsonb;
BEGIN
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_page_views(), ecstats.rollup_funnel(), true)
		 WHERE with_events
	), o AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_orders(ecstats.day_start(the_day), ecstats.day_start(the_day + 1),
												 ecstats.rollup_abnormal())
	), new_names AS (
		INSERT INTO ecstats.event_names (event)
		SELECT e.name FROM e WHERE e.kind = 'n' AND NOT EXISTS (SELECT FROM ecstats.event_names n WHERE n.event = e.name)
		 ORDER BY e.name COLLATE "C"
		RETURNING event_no, event
	), numbers AS MATERIALIZED (	-- of this scan's numbers, those that are stored
		SELECT coalesce(array_agg(n.event_no ORDER BY e.a), '{}') AS map
		  FROM e JOIN (SELECT event_no, event FROM ecstats.event_names UNION ALL SELECT event_no, event FROM new_names) n
				 ON n.event = e.name
		 WHERE e.kind = 'n'
	), users AS MATERIALIZED (
		SELECT e.name AS user_id, ecstats.rollup_counts_translate(e.counts, m.map) AS counts
		  FROM e CROSS JOIN numbers m WHERE e.kind = 'u'
	), users_gone AS (
		DELETE FROM ecstats.user_day d WHERE d.day = the_day AND with_events
		   AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = d.user_id)
	), users_written AS (
		INSERT INTO ecstats.user_day AS d (day, user_id, counts) SELECT the_day, u.user_id, u.counts FROM users u
		ON CONFLICT (day, user_id) DO UPDATE SET counts = excluded.counts WHERE d.counts <> excluded.counts
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
	)
	SELECT (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v')),
		   (SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') FROM o WHERE o.kind IN ('t', 'r', 'a', 'p'))
	  INTO event_totals, order_totals;
	IF NOT with_events THEN
		SELECT jsonb_build_object('t', jsonb_build_object('a', k.event_count, 'b', k.pv), 'v', jsonb_build_object('a', k.uv))
		  INTO STRICT event_totals FROM ecstats.daily_kpi k WHERE k.day = the_day;
	END IF;
	RETURN ecstats.rollup_kpi(the_day, event_totals, order_totals);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_write(date, boolean) IS
	'Computes a day from raw rows and brings daily_events, daily_funnel, daily_sales and user_day to it, touching only rows that differ; returns the figures. with_events false: from order lines alone, what events make stays as stored.';

-- ecstats.rollup_first_seen: the day's users are stored: who is new, and which other days' counts of new
-- users changed because of it.
CREATE OR REPLACE FUNCTION ecstats.rollup_first_seen(the_day date) RETURNS SETOF date
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_mergejoin = off AS $$
	WITH earlier AS (			-- seen today, known since a later day
		SELECT f.user_id, f.day AS old_day FROM ecstats.first_seen f
		  JOIN ecstats.user_day d ON d.day = the_day AND d.user_id = f.user_id
		 WHERE f.day > the_day
	), written AS (
		INSERT INTO ecstats.first_seen AS f (user_id, day)
		SELECT d.user_id, d.day FROM ecstats.user_day d
		 WHERE d.day = the_day AND NOT EXISTS (SELECT FROM ecstats.first_seen f WHERE f.user_id = d.user_id AND f.day <= the_day)
		ON CONFLICT (user_id) DO UPDATE SET day = excluded.day
	), gone AS (				-- known since today, not seen today any more: the next day, if any
		SELECT f.user_id,
			   (SELECT k.day FROM ecstats.daily_kpi k
				 WHERE k.day > the_day AND EXISTS (SELECT FROM ecstats.user_day u WHERE u.day = k.day AND u.user_id = f.user_id)
				 ORDER BY k.day LIMIT 1) AS new_day
		  FROM ecstats.first_seen f
		 WHERE f.day = the_day
		   AND NOT EXISTS (SELECT FROM ecstats.user_day d WHERE d.day = the_day AND d.user_id = f.user_id)
	), moved AS (
		UPDATE ecstats.first_seen f SET day = g.new_day FROM gone g WHERE f.user_id = g.user_id AND g.new_day IS NOT NULL
	), forgotten AS (
		DELETE FROM ecstats.first_seen f USING gone g WHERE f.user_id = g.user_id AND g.new_day IS NULL
	)
	SELECT old_day FROM earlier UNION SELECT new_day FROM gone WHERE new_day IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.rollup_first_seen(date) IS
	'Brings first_seen to the stored users of a day; returns the other days whose number of new users changed.';

