# Sourced by rollup.sh: what the figures are measured against, as SQL. Every query of figures returns rows
# (what, name, number, number) that are the same for all, so that they can be compared.
# $range: the day's bounds; names: all event names; views: those that are page views; steps: the funnel's.

# line: makes one line of what it reads.
line()
{
	tr '\n\t' '  '
	echo
}

# ours prints our query of figures.
ours()
{
	echo "SELECT kind, name, a, b FROM ecstats.rollup_scan_events($bounds, ecstats.rollup_page_views(), ecstats.rollup_funnel(), false)"
}

# list NAME…: as members of an SQL list.
list()
{
	printf "'%s'," "$@" | sed 's/,$//'
}

# per_user [CAST [BEFORE AFTER]] prints a count of each event name, as columns e1, e2…
per_user()
{
	local i columns=()
	for i in "${!names[@]}"; do columns+=("${2:-count(*)} FILTER (WHERE event = '${names[i]}')${3:-}${1:-} AS e$((i + 1))"); done
	(IFS=,; echo "${columns[*]}")
}

# column NAME prints its column of per_user.
column()
{
	local i
	for i in "${!names[@]}"; do [ "${names[i]}" != "$1" ] || echo "e$((i + 1))"; done
}

# naive TABLE prints the naive queries, one a line: one query a figure.
naive()
{
	local step earlier=""
	echo "SELECT 'events', NULL, count(*), NULL FROM $1 WHERE $range"
	echo "SELECT 'pv', NULL, count(*), NULL FROM $1 WHERE $range AND event IN ($(list "${views[@]}"))"
	echo "SELECT 'uv', NULL, count(DISTINCT user_id), NULL FROM $1 WHERE $range"
	echo "SELECT 'event', event, count(*), count(DISTINCT user_id) FROM $1 WHERE $range GROUP BY event"
	for step in "${steps[@]}"; do
		echo "SELECT 'step', '$step', count(DISTINCT user_id), NULL FROM $1 WHERE $range AND event = '$step'$earlier"
		earlier+=" AND user_id IN (SELECT user_id FROM $1 WHERE $range AND event = '$step')"
	done
}

# naive_users TABLE prints the query of the table of users.
naive_users()
{
	echo "CREATE TABLE bench.naive_users AS SELECT user_id, $(per_user) FROM $1 WHERE $range GROUP BY user_id"
}

# figures_of ROWS prints every figure from rows with per_user's columns, one a user.
figures_of()
{
	local i sums=() rows=("('uv', NULL, s.users, NULL)") conditions="" name n
	rows+=("('events', NULL, $(for i in "${!names[@]}"; do printf 's.a%d + ' $((i + 1)); done)0, NULL)")
	rows+=("('pv', NULL, $(for name in "${views[@]}"; do printf 's.%s + ' "$(column "$name" | sed 's/e/a/')"; done)0, NULL)")
	for i in "${!names[@]}"; do
		n=$((i + 1))
		sums+=("sum(e$n)::bigint AS a$n, count(*) FILTER (WHERE e$n > 0) AS b$n")
		rows+=("('event', '${names[i]}', s.a$n, s.b$n)")
	done
	for i in "${!steps[@]}"; do
		conditions+="${conditions:+ AND }$(column "${steps[i]}") > 0"
		sums+=("count(*) FILTER (WHERE $conditions) AS f$i")
		rows+=("('step', '${steps[i]}', s.f$i, NULL)")
	done
	(IFS=,; echo "SELECT r.* FROM (SELECT count(*) AS users, ${sums[*]} FROM $1 u) s CROSS JOIN LATERAL (VALUES ${rows[*]}) r(what, name, a, b)")
}

# written prints the well-written query of figures: per user first, every figure from its rows.
written()
{
	figures_of "(SELECT user_id, $(per_user) FROM ecstats.events WHERE $range GROUP BY user_id)"
}

# written_pairs prints another: per user and event first.
written_pairs()
{
	local step conditions=() bits=() i=0
	for step in "${steps[@]}"; do bits+=("WHEN '$step' THEN $((1 << i++))"); done
	for i in "${!steps[@]}"; do conditions+=("('step', '${steps[i]}', f.f$i, NULL::bigint)"); done
	echo "WITH p AS MATERIALIZED (SELECT user_id, event, count(*) AS n FROM ecstats.events WHERE $range GROUP BY user_id, event),
		u AS MATERIALIZED (SELECT bit_or(CASE event ${bits[*]} ELSE 0 END) AS bits, count(*) AS n FROM p GROUP BY user_id)
		SELECT 'event', event, sum(n)::bigint, count(*) FROM p GROUP BY event
		UNION ALL SELECT 'events', NULL, sum(n)::bigint, NULL::bigint FROM p
		UNION ALL SELECT 'pv', NULL, sum(n)::bigint, NULL::bigint FROM p WHERE event IN ($(list "${views[@]}"))
		UNION ALL SELECT 'uv', NULL, count(*), NULL::bigint FROM u
		UNION ALL SELECT r.* FROM (SELECT $(for i in "${!steps[@]}"; do printf 'count(*) FILTER (WHERE bits & %d = %d) AS f%d,' $(((2 << i) - 1)) $(((2 << i) - 1)) "$i"; done) 0 FROM u) f
			CROSS JOIN LATERAL (VALUES $(IFS=,; echo "${conditions[*]}")) r(what, name, a, b)" | line
}

# Well-written SQL that also writes the counts of the users, one statement a line: a compact row a user inserted
# into a table that has its key; the same, the table made anew (so the query may be parallel) and the key after it;
# a row for each user and event.
compact_insert()
{
	echo "TRUNCATE bench.compact"
	echo "INSERT INTO bench.compact SELECT date '$day' AS day, user_id, $(per_user ::integer) FROM ecstats.events WHERE $range GROUP BY user_id"
	figures_of bench.compact
}

compact_anew()
{
	echo "DROP TABLE IF EXISTS bench.compact_anew"
	echo "CREATE TABLE bench.compact_anew AS SELECT date '$day' AS day, user_id, $(per_user ::integer) FROM ecstats.events WHERE $range GROUP BY user_id"
	echo "ALTER TABLE bench.compact_anew ADD PRIMARY KEY (day, user_id)"
	figures_of bench.compact_anew
}

pairs_insert()
{
	echo "TRUNCATE bench.pairs"
	echo "INSERT INTO bench.pairs SELECT date '$day', user_id, event, count(*) FROM ecstats.events WHERE $range GROUP BY user_id, event"
	figures_of "(SELECT user_id, $(per_user "" "coalesce(sum(n)" ", 0)") FROM bench.pairs GROUP BY user_id)"
}

# ours_orders prints our query of the orders' figures.
ours_orders()
{
	echo "SELECT kind, product_id, region, channel, quantity, amount, orders, buyers, refund FROM ecstats.rollup_scan_orders($bounds, ecstats.rollup_abnormal())"
}

sale="FILTER (WHERE quantity > 0)"
back="FILTER (WHERE quantity < 0)"
bad="FILTER (WHERE quantity > 0 AND status IN ('cancelled', 'failed', 'risk'))"

# orders_paid prints the query by paid_time.
orders_paid()
{
	echo "SELECT 'p', NULL, NULL, NULL, NULL, sum(amount), count(DISTINCT order_id), count(DISTINCT user_id), NULL FROM ecstats.order_lines
		WHERE ${range//event_time/paid_time} AND quantity > 0" | line
}

# orders_sets prints the well-written queries of orders, one a line: every grouping in one query.
orders_sets()
{
	echo "SELECT r.* FROM (SELECT grouping(product_id) AS total, product_id, region, channel, coalesce(sum(quantity) $sale, 0) AS quantity, coalesce(sum(amount) $sale, 0) AS amount,
		count(DISTINCT order_id) $sale AS orders, count(DISTINCT user_id) $sale AS buyers, coalesce(-sum(amount) $back, 0) AS refund,
		CASE WHEN grouping(product_id) = 1 THEN count(DISTINCT order_id) $back END AS r, CASE WHEN grouping(product_id) = 1 THEN count(DISTINCT order_id) $bad END AS a
		FROM ecstats.order_lines WHERE ${range//event_time/order_time} GROUP BY GROUPING SETS ((product_id, region, channel), ())) s
		CROSS JOIN LATERAL (VALUES (CASE total WHEN 1 THEN 't' ELSE 's' END, product_id, region, channel, quantity, amount, orders, buyers, refund),
			('r', NULL, NULL, NULL, NULL, NULL, r, NULL, NULL), ('a', NULL, NULL, NULL, NULL, NULL, a, NULL, NULL)) r WHERE total = 1 OR r.column1 = 's'" | line
	orders_paid
}

# orders_split prints others: what an order or a buyer has in a group first, no DISTINCT.
orders_split()
{
	local lines="ecstats.order_lines WHERE ${range//event_time/order_time}"
	echo "SELECT 's', o.product_id, o.region, o.channel, o.quantity, o.amount, o.orders, coalesce(b.buyers, 0), o.refund FROM (
		SELECT product_id, region, channel, sum(quantity) AS quantity, sum(amount) AS amount, count(*) FILTER (WHERE sold) AS orders, sum(refund) AS refund FROM (
			SELECT product_id, region, channel, order_id, coalesce(sum(quantity) $sale, 0) AS quantity, coalesce(sum(amount) $sale, 0) AS amount, bool_or(quantity > 0) AS sold,
				coalesce(-sum(amount) $back, 0) AS refund FROM $lines GROUP BY product_id, region, channel, order_id) l GROUP BY product_id, region, channel) o
		LEFT JOIN (SELECT product_id, region, channel, count(*) AS buyers FROM (
			SELECT DISTINCT product_id, region, channel, user_id FROM $lines AND quantity > 0 AND user_id IS NOT NULL) l GROUP BY product_id, region, channel) b
		USING (product_id, region, channel)" | line
	echo "SELECT r.* FROM (SELECT coalesce(sum(quantity) $sale, 0) AS quantity, coalesce(sum(amount) $sale, 0) AS amount, count(DISTINCT order_id) $sale AS orders,
		count(DISTINCT user_id) $sale AS buyers, coalesce(-sum(amount) $back, 0) AS refund, count(DISTINCT order_id) $back AS r, count(DISTINCT order_id) $bad AS a FROM $lines) s
		CROSS JOIN LATERAL (VALUES ('t', NULL, NULL, NULL, quantity, amount, orders, buyers, refund), ('r', NULL, NULL, NULL, NULL, NULL, r, NULL, NULL),
			('a', NULL, NULL, NULL, NULL, NULL, a, NULL, NULL)) r" | line
	orders_paid
}

# raw_kpi prints plain SQL for the day's row of daily_kpi, from raw rows.
raw_kpi()
{
	local at=${range//event_time/order_time}
	echo "SELECT o.gmv, o.order_count, o.quantity, o.buyer_count, p.paid_amount, p.paid_order_count, p.payer_count, o.refund_amount, o.refund_order_count,
		p.paid_amount - o.refund_amount AS net_amount, o.gmv / nullif(o.order_count, 0) AS aov, o.gmv / nullif(o.buyer_count, 0) AS amount_per_buyer,
		o.abnormal_order_count, e.event_count, e.pv, e.uv, o.buyer_count::numeric / nullif(e.uv, 0) AS conversion_rate, n.new_user_count
		FROM (SELECT coalesce(sum(amount) $sale, 0) AS gmv, count(DISTINCT order_id) $sale AS order_count, coalesce(sum(quantity) $sale, 0) AS quantity,
				count(DISTINCT user_id) $sale AS buyer_count, coalesce(-sum(amount) $back, 0) AS refund_amount, count(DISTINCT order_id) $back AS refund_order_count,
				count(DISTINCT order_id) $bad AS abnormal_order_count FROM ecstats.order_lines WHERE $at) o,
			(SELECT coalesce(sum(amount), 0) AS paid_amount, count(DISTINCT order_id) AS paid_order_count, count(DISTINCT user_id) AS payer_count
				FROM ecstats.order_lines WHERE ${range//event_time/paid_time} AND quantity > 0) p,
			(SELECT count(*) AS event_count, count(*) FILTER (WHERE event IN ($(list "${views[@]}"))) AS pv, count(DISTINCT user_id) AS uv
				FROM ecstats.events WHERE $range) e,
			(SELECT count(*) AS new_user_count FROM (SELECT user_id FROM ecstats.events GROUP BY user_id HAVING min(event_time) >= $from AND min(event_time) < $to) f) n" | line
}
