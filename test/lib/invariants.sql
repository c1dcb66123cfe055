-- What holds between the stored figures at any time: a row of text for each that does not.
WITH state AS (
	SELECT k.day, coalesce(s.frozen OR s.events_dropped, false) AS events_gone FROM ecstats.daily_kpi k LEFT JOIN ecstats.day_state s ON s.day = k.day
), sales AS (
	SELECT day, sum(total_sold) AS quantity, sum(total_revenue) AS gmv, sum(refund_amount) AS refund FROM ecstats.daily_sales GROUP BY day
), events AS (
	SELECT day, sum(event_count) AS n FROM ecstats.daily_events GROUP BY day
), by_user AS MATERIALIZED (
	SELECT day, user_id, event, event_count FROM ecstats.user_daily
), by_name AS (
	SELECT day, event, sum(event_count) AS n, count(DISTINCT user_id) AS users FROM by_user GROUP BY day, event
), visitors AS (
	SELECT day, count(DISTINCT user_id) AS n FROM by_user GROUP BY day
), first_days AS (
	SELECT user_id, min(day) AS day FROM by_user GROUP BY user_id
), known AS MATERIALIZED (
	SELECT user_id, day FROM ecstats.first_seen
), new_users AS (
	SELECT day, count(*) AS n FROM known GROUP BY day
), bought AS (
	SELECT day, sum(order_count) AS orders, sum(gmv) AS gmv, sum(paid_amount) AS paid, count(DISTINCT user_id) FILTER (WHERE order_count > 0) AS buyers
	  FROM ecstats.buyer_daily GROUP BY day
), known_gmv AS (		-- of days whose lines are there
	SELECT ecstats_day(order_time) AS day, sum(amount) AS gmv FROM ecstats.order_lines WHERE quantity > 0 AND user_id IS NOT NULL GROUP BY 1
), bought_in_all AS (
	SELECT user_id, sum(order_count) AS orders, sum(gmv) AS gmv, sum(paid_amount) AS paid, min(day) FILTER (WHERE order_count > 0) AS first_day,
		   max(day) FILTER (WHERE order_count > 0) AS last_day, array_agg(channel) AS channels, array_agg(region) AS regions
	  FROM ecstats.buyer_daily GROUP BY user_id
), chain AS (
	SELECT r.*, lag(r.new) OVER w AS before, row_number() OVER w AS place, lead(r.revision) OVER w IS NULL AS is_last
	  FROM ecstats.restatements r WINDOW w AS (PARTITION BY r.day, r.column_name ORDER BY r.revision)
)
SELECT format('%s: daily_sales adds up to %s, daily_kpi says %s', k.day, (s.quantity, s.gmv, s.refund), (k.quantity, k.gmv, k.refund_amount))
  FROM ecstats.daily_kpi k LEFT JOIN sales s ON s.day = k.day
 WHERE (k.quantity, k.gmv, k.refund_amount) IS DISTINCT FROM (coalesce(s.quantity, 0), coalesce(s.gmv, 0), coalesce(s.refund, 0))
UNION ALL
SELECT format('%s %s: daily_sales adds up to %s, daily_sales_by says %s', coalesce(d.day, b.day), coalesce(d.what, b.what), d.sums, b.sums)
  FROM (SELECT day, v.what, (sum(total_sold), sum(total_revenue), sum(refund_amount)) AS sums
		  FROM ecstats.daily_sales CROSS JOIN LATERAL (VALUES ('product ' || product_id), ('region ' || region), ('channel ' || channel)) v(what) GROUP BY 1, 2) d
  FULL JOIN (SELECT day, dimension || ' ' || value AS what, (total_sold::numeric, total_revenue, refund_amount) AS sums FROM ecstats.daily_sales_by) b
		 ON b.day = d.day AND b.what = d.what
 WHERE d.sums IS DISTINCT FROM b.sums
UNION ALL
SELECT format('%s: revisions %s in one run', r.day, array_agg(DISTINCT r.revision))
  FROM ecstats.restatements r GROUP BY r.day, r.at HAVING count(DISTINCT r.revision) > 1
UNION ALL
SELECT format('%s: daily_events adds up to %s, daily_kpi says %s', k.day, e.n, k.event_count)
  FROM ecstats.daily_kpi k LEFT JOIN events e ON e.day = k.day WHERE k.event_count <> coalesce(e.n, 0)
UNION ALL
SELECT format('%s %s: user_daily makes %s, daily_events says %s', coalesce(u.day, e.day), coalesce(u.event, e.event), (u.n, u.users), (e.event_count, e.user_count))
  FROM by_name u FULL JOIN ecstats.daily_events e ON e.day = u.day AND e.event = u.event
 WHERE (u.n, u.users) IS DISTINCT FROM (e.event_count::numeric, e.user_count)
UNION ALL
SELECT format('%s: user_daily has %s users, daily_kpi says %s', k.day, v.n, k.uv)
  FROM ecstats.daily_kpi k LEFT JOIN visitors v ON v.day = k.day WHERE k.uv <> coalesce(v.n, 0)
UNION ALL
SELECT format('%s: the blocks of user_day have %s users, daily_kpi says %s', k.day, sum(u.users), k.uv)
  FROM ecstats.daily_kpi k LEFT JOIN ecstats.user_day u ON u.day = k.day GROUP BY k.day HAVING k.uv <> coalesce(sum(u.users), 0)
UNION ALL
SELECT format('%s: first_seen has %s users, daily_kpi says %s', k.day, n.n, k.new_user_count)
  FROM ecstats.daily_kpi k JOIN state s ON s.day = k.day LEFT JOIN new_users n ON n.day = k.day
 WHERE NOT s.events_gone AND k.new_user_count <> coalesce(n.n, 0)
UNION ALL
SELECT format('%s: first_seen says %s, user_daily %s', coalesce(k.user_id, f.user_id), k.day, f.day)
  FROM known k FULL JOIN first_days f ON f.user_id = k.user_id WHERE k.day IS DISTINCT FROM f.day
UNION ALL
SELECT format('%s: step %s of the funnel has %s users, the one before %s', f.day, f.step, f.user_count, f.before)
  FROM (SELECT *, lag(user_count) OVER (PARTITION BY day ORDER BY step) AS before FROM ecstats.daily_funnel) f WHERE f.user_count > f.before
UNION ALL
SELECT format('%s: %s is %s by its last restatement, daily_kpi says %s', c.day, c.column_name, c.new, to_jsonb(k) ->> c.column_name)
  FROM chain c LEFT JOIN ecstats.daily_kpi k ON k.day = c.day
 WHERE c.is_last AND (k.day IS NULL OR c.new IS DISTINCT FROM (to_jsonb(k) ->> c.column_name)::numeric)
UNION ALL
SELECT format('%s: revision %s restates %s from %s, it was %s', c.day, c.revision, c.column_name, c.old, c.before)
  FROM chain c WHERE c.place > 1 AND c.old IS DISTINCT FROM c.before
UNION ALL
SELECT format('%s: revision %s, restated %s times, last at %s', k.day, k.revision, count(DISTINCT r.revision), max(r.revision))
  FROM ecstats.daily_kpi k LEFT JOIN ecstats.restatements r ON r.day = k.day
 GROUP BY k.day, k.revision HAVING k.revision <> 1 + count(DISTINCT r.revision) OR k.revision <> coalesce(max(r.revision), 1)
UNION ALL
SELECT format('%s: buyer_daily adds up to %s, daily_kpi says %s', k.day, (b.orders, b.gmv, b.paid, b.buyers), (k.order_count, k.gmv, k.paid_amount, k.buyer_count))
  FROM ecstats.daily_kpi k LEFT JOIN bought b ON b.day = k.day
 WHERE coalesce(b.gmv, 0) > k.gmv OR coalesce(b.paid, 0) > k.paid_amount OR k.buyer_count <> coalesce(b.buyers, 0)
UNION ALL
SELECT format('%s: buyer_daily adds up to %s, the lines of known users to %s', k.day, b.gmv, l.gmv)
  FROM ecstats.daily_kpi k LEFT JOIN bought b ON b.day = k.day LEFT JOIN known_gmv l ON l.day = k.day
 WHERE NOT EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = k.day AND s.frozen) AND k.day NOT IN (SELECT ecstats.rollup_stale_days())
   AND coalesce(b.gmv, 0) <> coalesce(l.gmv, 0)
UNION ALL
SELECT format('%s: buyers says %s, buyer_daily %s', coalesce(b.user_id, s.user_id), b, s)
  FROM ecstats.buyers b FULL JOIN bought_in_all s ON s.user_id = b.user_id
 WHERE (b.order_count, b.gmv, b.paid_amount, b.first_order_day, b.last_order_day) IS DISTINCT FROM (s.orders::bigint, s.gmv, s.paid, s.first_day, s.last_day)
	OR (b.favourite_channel = ANY (s.channels) AND b.favourite_region = ANY (s.regions)) IS NOT TRUE
