#!/usr/bin/env bash
# Logical replication between two clusters: a shop's orders and order items land and become order lines, its
# events go straight into a twin of ecstats.events. Prints "ok - …", "not ok - …" and "skip …" lines.
# Needs PG_CONFIG, whose tree has the extension installed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"
bindir=$("$PG_CONFIG" --bindir)
export PATH="$bindir:$PATH" PGUSER=postgres
major=$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
failed=0

# ok CONDITION TEXT: 't' is good.
ok()
{
	if [ "$1" = t ]; then
		echo "ok - cdc: $2"
	else
		echo "not ok - cdc: $2"
		head -n 20 <<< "$1" | sed 's/^/#   /'
		failed=1
	fi
}

# on CLUSTER DATABASE STATEMENT
on()
{
	PGHOST=$(cat "$work/$1/socket_dir") PGPORT=$(cat "$work/$1/port") PGOPTIONS="-c timezone=UTC -c client_min_messages=warning" \
		psql -XAtq -v ON_ERROR_STOP=1 -d "$2" -c "$3" 2>&1
}
pub() { on publisher "$@"; }
sub() { on subscriber "$@"; }

# file CLUSTER DATABASE FILE
file()
{
	PGHOST=$(cat "$work/$1/socket_dir") PGPORT=$(cat "$work/$1/port") psql -XAtq -v ON_ERROR_STOP=1 -d "$2" -f "$3" 2>&1
}

# soon DATABASE QUERY: waits until the subscriber answers t, at most a minute; prints what it answered last.
soon()
{
	local deadline=$((SECONDS + 60)) answer
	while :; do
		answer=$(sub "$1" "$2")
		[ "$answer" = t ] || [ $SECONDS -ge $deadline ] && break
		sleep 0.1
	done
	echo "$answer"
}

# logged PATTERN: waits until the subscriber's log holds a line that matches, from mark on.
logged()
{
	local deadline=$((SECONDS + 60))
	while ! tail -n "+$mark" "$work/subscriber/server.log" | grep -E -- "$1" > /dev/null; do
		if [ $SECONDS -ge $deadline ]; then
			tail -n 20 "$work/subscriber/server.log"
			return
		fi
		sleep 0.1
	done
	echo t
}

# mark_log: what is logged from here on is what logged looks at.
mark_log()
{
	mark=$(($(wc -l < "$work/subscriber/server.log") + 1))
}

# subscribe DATABASE NAME PUBLISHER'S-DATABASE PUBLICATION [OPTIONS]
subscribe()
{
	sub "$1" "CREATE SUBSCRIPTION $2 CONNECTION 'host=$(cat "$work/publisher/socket_dir") port=$(cat "$work/publisher/port") user=postgres dbname=$3'
		PUBLICATION $4 ${5:+WITH ($5)}"
}

# synced DATABASE NAME: the initial copies are done.
synced()
{
	soon "$1" "SELECT count(*) > 0 AND bool_and(r.srsubstate = 'r') FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE s.subname = '$2'"
}

# Every figure of every stored day against plain SQL over the raw rows; the same for the products.
figures_agree="
	SELECT coalesce(string_agg(format('%s: %s instead of %s', k.day, (k.gmv, k.order_count, k.quantity, k.paid_amount, k.refund_amount, k.event_count, k.uv), f), E'\n'), 't')
	  FROM ecstats.daily_kpi k
	 CROSS JOIN LATERAL (
		SELECT (SELECT coalesce(sum(amount), 0) FROM l WHERE quantity > 0), (SELECT count(DISTINCT order_id) FROM l WHERE quantity > 0),
			   (SELECT coalesce(sum(quantity), 0) FROM l WHERE quantity > 0),
			   (SELECT coalesce(sum(amount), 0) FROM ecstats.order_lines p WHERE quantity > 0 AND (p.paid_time AT TIME ZONE 'Asia/Shanghai')::date = k.day),
			   (SELECT coalesce(-sum(amount), 0) FROM l WHERE quantity < 0),
			   (SELECT count(*) FROM ecstats.events e WHERE (e.event_time AT TIME ZONE 'Asia/Shanghai')::date = k.day),
			   (SELECT count(DISTINCT user_id) FROM ecstats.events e WHERE (e.event_time AT TIME ZONE 'Asia/Shanghai')::date = k.day)
		  FROM (SELECT) one) f
	 WHERE (k.gmv, k.order_count, k.quantity, k.paid_amount, k.refund_amount, k.event_count, k.uv) IS DISTINCT FROM f"
figures_agree=${figures_agree// FROM l / FROM (SELECT * FROM ecstats.order_lines x WHERE (x.order_time AT TIME ZONE \'Asia/Shanghai\')::date = k.day) l }

# close DATABASE: closes up to 2025-03-08 and computes what changed; prints t if all figures are right.
close()
{
	sub "$1" "SELECT ecstats_daily('2025-03-08')" > /dev/null
	sub "$1" "$figures_agree"
}

# revised DATABASE: the days whose figures changed since the last call.
revised()
{
	sub "$1" "SELECT coalesce(string_agg(to_char(day, 'DD'), ' ' ORDER BY day), 'none') FROM ecstats.daily_kpi k JOIN public.seen s USING (day) WHERE k.revision > s.revision"
	sub "$1" "DELETE FROM public.seen; INSERT INTO public.seen SELECT day, revision FROM ecstats.daily_kpi"
}

# skip_transaction DATABASE SUBSCRIPTION: leaves out the transaction that the log says it stopped at.
skip_transaction()
{
	local lsn
	lsn=$(tail -n "+$mark" "$work/subscriber/server.log" | grep -oE 'finished at [0-9A-F]+/[0-9A-F]+' | tail -n 1 | cut -d ' ' -f 3)
	sub "$1" "ALTER SUBSCRIPTION $2 SKIP (lsn = '$lsn')"
}

work=$(mktemp -d)
chmod 755 "$work"
finish()
{
	cluster_stop "$work/subscriber"
	cluster_stop "$work/publisher"
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
for name in publisher subscriber; do
	mkdir "$work/$name"
	[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$work/$name"
	cluster_init "$work/$name" postgres "fsync = off" "wal_retrieve_retry_interval = '200ms'" "logical_decoding_work_mem = '64kB'" \
		"log_error_verbosity = verbose" "max_prepared_transactions = 10" "max_replication_slots = 20" "max_sync_workers_per_subscription = 2" &&
		cluster_start "$work/$name" || { ok f "cluster $name is made"; exit 1; }
done
mark=1

pub postgres "CREATE DATABASE shop TEMPLATE template0 ENCODING 'UTF8'" > /dev/null
pub postgres "CREATE DATABASE shop2 TEMPLATE template0 ENCODING 'UTF8'" > /dev/null
sub postgres "CREATE DATABASE stats TEMPLATE template0 ENCODING 'UTF8'" > /dev/null
sub postgres "CREATE DATABASE stats2 TEMPLATE template0 ENCODING 'UTF8'" > /dev/null
for name in stats stats2; do
	# A server in another zone than the shop: nothing may depend on the apply worker's own.
	sub "$name" "ALTER DATABASE $name SET timezone = 'America/New_York'; CREATE EXTENSION ecstats;
		UPDATE ecstats.config SET timezone = 'Asia/Shanghai'; SELECT ecstats_prepare('2025-03-01', '2025-03-06');
		CREATE TABLE public.seen (day date, revision integer)" > /dev/null
done
answer=$(file publisher shop "$here/publisher.sql" && file subscriber stats "$here/landing.sql")
ok "$([ $? -eq 0 ] && echo t || echo "$answer")" "a shop publishes, landing tables are attached by one line each"

# ------------------------------------------------------------------ orders: the initial copy
subscribe stats from_shop shop shop_orders > /dev/null
ok "$(synced stats from_shop)" "the initial copy of orders ends"
ok "$(sub stats "SELECT count(*) = 999 FROM ecstats.order_lines l JOIN public.orders o ON l.order_id = o.id::text AND l.order_time = o.created_at
	 AND l.line_no = 1 AND l.user_id = o.customer_id::text AND l.product_id = o.sku AND l.region = coalesce(o.city, 'unknown') AND l.channel = 'web'
	 AND l.status = o.state AND l.quantity = o.qty AND l.amount = o.total AND l.paid_time IS NOT DISTINCT FROM o.paid_at AND l.extra = o.meta")" "its rows are order lines, column by column"
ok "$(sub stats "SELECT count(*) = 1 AND min(payload->>'id') = '500' AND min(sqlstate) = '23514' AND min(reason) LIKE 'quantity is 0.%' AND min(source) = 'land:public.orders' FROM ecstats.rejects")" "a bad row of it is a reject and stops nothing"
ok "$(sub stats "SELECT count(*) = 90 AND sum(amount) = (SELECT sum(cents) / 100.0 FROM public.order_items) AND min(order_time) = '2025-03-03 00:50+08' FROM ecstats.order_lines WHERE order_id LIKE 'i%'")" "order items are lines, read by the shop's clock"
ok "$(sub stats "SELECT count(DISTINCT day) >= 6 FROM ecstats.day_marks")" "the days of the copy are marked"
ok "$(close stats)" "closed, every figure is that of the raw rows"
ok "$(sub stats "SELECT count(*) >= 7 AND count(*) FILTER (WHERE order_count > 0) = 5 FROM ecstats.daily_kpi")" "and orders are on five of them"
ok "$([[ $(sub stats "BEGIN; UPDATE ecstats.daily_kpi SET paid_amount = paid_amount + 0.01 WHERE day = '2025-03-03'; $figures_agree; ROLLBACK") == 2025-03-03:* ]] && echo t)" "and a cent too much would be seen"
revised stats > /dev/null

# ------------------------------------------------------------------ orders: changes
pub shop "INSERT INTO public.orders VALUES (2001, '2025-03-02 10:00+08', 5, 'p1', '城1', 'placed', 2, 19.90)" > /dev/null
ok "$(soon stats "SELECT count(*) = 1 FROM ecstats.order_lines WHERE order_id = '2001'")" "an insert arrives"
ok "$(close stats)" "and its day is computed again"
ok "$([ "$(revised stats)" = 02 ] && echo t)" "that day alone"
pub shop "UPDATE public.orders SET paid_at = '2025-03-04 10:00+08', state = 'cancelled' WHERE id = 2001" > /dev/null
ok "$(soon stats "SELECT status = 'cancelled' AND paid_time = '2025-03-04 10:00+08' FROM ecstats.order_lines WHERE order_id = '2001'")" "an update of status and payment arrives"
ok "$(close stats)" "and the figures follow"
ok "$([ "$(revised stats)" = '02 04' ] && echo t)" "on the days of the order and of the payment"
pub shop "UPDATE public.orders SET created_at = '2025-03-05 10:00+08', id = 2002 WHERE id = 2001" > /dev/null
ok "$(soon stats "SELECT count(*) = 1 AND min(order_id) = '2002' FROM ecstats.order_lines WHERE order_id IN ('2001', '2002')")" "a new key and a new day replace the old line"
ok "$(close stats)" "and the figures follow"
ok "$([ "$(revised stats)" = '02 05' ] && echo t)" "on the old day and on the new one"
pub shop "DELETE FROM public.orders WHERE id = 2002" > /dev/null
ok "$(soon stats "SELECT count(*) = 0 FROM ecstats.order_lines WHERE order_id = '2002'")" "a delete arrives"
ok "$(close stats)" "and the figures follow"
ok "$([ "$(revised stats)" = '04 05' ] && echo t)" "on its days"
pub shop "UPDATE public.orders SET meta = meta || '{\"seen\": true}' WHERE id <= 20; UPDATE public.orders SET total = total WHERE id BETWEEN 100 AND 200" > /dev/null
ok "$(soon stats "SELECT count(*) = 20 FROM ecstats.order_lines WHERE extra ? 'seen'")" "extra follows"
ok "$(sub stats "SELECT count(*) = 0 FROM ecstats.day_marks WHERE day > '2025-03-01'")" "rows that say what their lines say mark no day"
sub stats "ALTER SUBSCRIPTION from_shop SET (streaming = on)" > /dev/null
pub shop "BEGIN; UPDATE public.orders SET total = total + 1, meta = jsonb_build_object('long', repeat('x', 2000)); UPDATE public.orders SET city = '城9' WHERE id % 7 = 0; DELETE FROM public.orders WHERE id % 10 = 0; COMMIT" > /dev/null
ok "$(soon stats "SELECT count(*) = 900 AND count(*) FILTER (WHERE region = '城9') = 900 / 7 AND bool_and(extra ? 'long') FROM ecstats.order_lines WHERE channel = 'web'")" "a large transaction is streamed in"
ok "$(close stats)" "and the figures follow"
revised stats > /dev/null

# ------------------------------------------------------------------ orders: what breaks a rule
pub shop "INSERT INTO public.orders VALUES (3001, '2025-03-02 10:00+08', 5, 'p1', '城1', 'placed', 0, 5); UPDATE public.orders SET sku = NULL WHERE id = 1; INSERT INTO public.orders VALUES (3002, '2025-03-02 10:00+08', 5, 'p1', '城1', 'placed', 1, 5)" > /dev/null
ok "$(soon stats "SELECT count(*) = 1 FROM ecstats.order_lines WHERE order_id = '3002'")" "quarantine: good rows go on"
ok "$(sub stats "SELECT string_agg(payload->>'id' || ' ' || sqlstate, ', ' ORDER BY payload->>'id') = '1 23502, 3001 23514' FROM ecstats.rejects")" "quarantine: bad rows are kept whole, with the reason"
ok "$(sub stats "SELECT count(*) = 0 FROM ecstats.order_lines WHERE order_id IN ('1', '3001')")" "quarantine: a row that turned bad has no line"
pub shop "UPDATE public.orders SET qty = 1 WHERE id = 3001; DELETE FROM public.orders WHERE id = 1" > /dev/null
ok "$(soon stats "SELECT count(*) = 0 FROM ecstats.rejects")" "quarantine: corrected or deleted at the shop, its reject is gone"
ok "$(sub stats "SELECT count(*) = 1 FROM ecstats.order_lines WHERE order_id = '3001'")" "quarantine: the corrected one is a line"

mark_log
pub shop "INSERT INTO public.order_items VALUES ('bad', 1, '2025-03-03 10:00', 'q1', 0, 100)" > /dev/null
ok "$(logged 'ERROR:  23514: quantity is 0')" "raise: the subscription stops with our error in the log"
ok "$(logged 'DETAIL:  Value: 0\. Row of public\.order_items: \{.*"order_no": "bad"')" "raise: the log names the value and the row"
ok "$(logged 'HINT:  Leave the line out; a return has a negative quantity\. on_error=quarantine keeps')" "raise: the log says what to do"
ok "$(sub stats "SELECT count(*) = 0 FROM public.order_items WHERE order_no = 'bad'")" "raise: the row has not landed"
if [ "$major" -ge 15 ]; then
	skip_transaction stats from_shop > /dev/null
	pub shop "INSERT INTO public.order_items VALUES ('good', 1, '2025-03-03 10:00', 'q1', 1, 100)" > /dev/null
	ok "$(soon stats "SELECT count(*) = 1 FROM ecstats.order_lines WHERE order_id = 'good'")" "raise: after ALTER SUBSCRIPTION … SKIP it goes on"
else
	echo "skip cdc: ALTER SUBSCRIPTION … SKIP needs PostgreSQL 15"
	sub stats "SELECT ecstats_land_orders('public.order_items', VARIADIC array_replace(ecstats.pipeline_land_mapping('public.order_items'), 'on_error=raise', 'on_error=quarantine'))" > /dev/null
	ok "$(soon stats "SELECT count(*) = 1 FROM ecstats.rejects WHERE source = 'land:public.order_items'")" "raise: after a change to quarantine it goes on"
fi
ok "$(close stats)" "and the figures are those of the raw rows"
pub shop "TRUNCATE public.order_items" > /dev/null
ok "$(soon stats "SELECT count(*) = 0 FROM ecstats.order_lines WHERE order_id LIKE 'i%'")" "a TRUNCATE at the shop takes the lines of its table"
ok "$(sub stats "SELECT count(*) > 800 FROM ecstats.order_lines")" "and leaves those of the other"
ok "$(close stats)" "and the figures follow"

# An archive job at the shop: rows go there, sales do not go from the figures.
sub stats "SELECT ecstats_land_orders('public.order_items', VARIADIC ecstats.pipeline_land_mapping('public.order_items') || '{deletes=ignore}')" > /dev/null
pub shop "INSERT INTO public.order_items VALUES ('archived', 1, '2025-03-04 10:00', 'q1', 1, 100), ('archived', 2, '2025-03-04 10:00', 'q2', 1, 200), ('kept', 1, '2025-03-04 10:00', 'q1', 1, 300)" > /dev/null
ok "$(soon stats "SELECT count(*) = 3 FROM ecstats.order_lines WHERE order_id IN ('archived', 'kept')")" "deletes=ignore: rows arrive"
close stats > /dev/null
revised stats > /dev/null
pub shop "DELETE FROM public.order_items WHERE order_no = 'archived'; UPDATE public.order_items SET cents = 301 WHERE order_no = 'kept'" > /dev/null
ok "$(soon stats "SELECT count(*) = 1 FROM public.order_items WHERE cents = 301 AND NOT EXISTS (SELECT FROM public.order_items WHERE order_no = 'archived')")" "deletes=ignore: they go from the landing table"
ok "$(sub stats "SELECT array_agg(amount ORDER BY amount) = '{1,2,3.01}' FROM ecstats.order_lines WHERE order_id IN ('archived', 'kept')")" "deletes=ignore: their lines stay, updates come along"
pub shop "TRUNCATE public.order_items; INSERT INTO public.order_items VALUES ('last', 1, '2025-03-04 10:00', 'q1', 1, 1)" > /dev/null
ok "$(soon stats "SELECT count(*) = 4 FROM ecstats.order_lines WHERE order_id IN ('archived', 'kept', 'last')")" "deletes=ignore: a TRUNCATE leaves them too"
ok "$(close stats)" "deletes=ignore: and the figures are those of the lines"

# ------------------------------------------------------------------ events of a plain table
subscribe stats events_from_shop shop shop_events > /dev/null
ok "$(synced stats events_from_shop)" "events: the initial copy ends"
ok "$(sub stats "SELECT count(*) = 1500 FROM ecstats.events")" "events: all are there"
ok "$(sub stats "SELECT count(*) = 0 FROM ecstats.events_default")" "events: in the partitions of their days"
ok "$(close stats)" "events: the days are computed again"
revised stats > /dev/null
pub shop "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-02 10:00+08', 'late', 'page_view'), ('2025-03-07 10:00+08', 'late', 'page_view')" > /dev/null
ok "$(soon stats "SELECT count(*) = 2 FROM ecstats.events WHERE user_id = 'late'")" "events: late ones arrive, of days without a partition too"
ok "$(close stats)" "events: and count"
ok "$([ "$(revised stats)" = '02' ] && echo t)" "events: the day that was closed is restated"
pub shop "UPDATE ecstats.events SET user_id = 'moved', event_time = '2025-03-03 10:00+08' WHERE user_id = 'late' AND event_time < '2025-03-05'; DELETE FROM ecstats.events WHERE user_id = 'late'" > /dev/null
ok "$(soon stats "SELECT count(*) = 0 FROM ecstats.events WHERE user_id = 'late'")" "events: a correction and a delete arrive"
ok "$(close stats)" "events: and count"
ok "$([ "$(revised stats)" = '02 03 07' ] && echo t)" "events: on old and new days"
mark_log
pub shop "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-02 10:00+08', 'x', 'Bad Name')" > /dev/null
ok "$(logged 'ERROR:  23514: event has a character that names may not have at byte 1')" "events: a bad one stops the subscription with our error in the log"
ok "$(logged 'DETAIL:  Value: "Bad Name"\.')" "events: the log names the value"
if [ "$major" -ge 15 ]; then
	skip_transaction stats events_from_shop > /dev/null
	pub shop "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-02 10:00+08', 'x', 'page_view')" > /dev/null
	ok "$(soon stats "SELECT count(*) = 1 FROM ecstats.events WHERE user_id = 'x'")" "events: after ALTER SUBSCRIPTION … SKIP it goes on"
fi

# ------------------------------------------------------------------ events of ecstats itself: partitions, streaming, two phases
pub shop2 "CREATE EXTENSION ecstats; UPDATE ecstats.config SET timezone = 'Asia/Shanghai'; SELECT ecstats_prepare('2025-03-01', '2025-03-04');
	INSERT INTO ecstats.events (event_time, user_id, event) SELECT timestamptz '2025-03-01 00:00+08' + n * interval '9 minutes', 'u' || n % 70, 'page_view' FROM generate_series(0, 699) n;
	CREATE PUBLICATION twin FOR TABLE ecstats.events WITH (publish = 'insert', publish_via_partition_root)" > /dev/null
subscribe stats2 twin shop2 twin "streaming = on$([ "$major" -lt 15 ] || echo ', two_phase = on')" > /dev/null
ok "$(synced stats2 twin)" "twin: the initial copy ends"
ok "$(sub stats2 "SELECT count(*) = 700 AND count(DISTINCT tableoid) = 5 FROM ecstats.events")" "twin: partitions on both sides, by days of each"
ok "$(close stats2)" "twin: closed, every figure is that of the raw rows"
revised stats2 > /dev/null
pub shop2 "INSERT INTO ecstats.events (event_time, user_id, event, page_url) SELECT timestamptz '2025-03-02 00:00+08' + n * interval '30 seconds', 's' || n % 50, 'click', repeat('x', 500) FROM generate_series(0, 4999) n" > /dev/null
ok "$(soon stats2 "SELECT count(*) = 5000 FROM ecstats.events WHERE event = 'click'")" "twin: a large transaction is streamed in"
ok "$(pub shop2 "SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = 'twin'")" "twin: and was streamed indeed"
ok "$(close stats2)" "twin: its days are computed again"
ok "$([ "$(revised stats2)" = '02 03' ] && echo t)" "twin: and no other"
if [ "$major" -ge 15 ]; then
	pub shop2 "BEGIN; INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-04 10:00+08', 'prepared', 'click'); PREPARE TRANSACTION 'one';
		BEGIN; INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-03-03 10:00+08', 'given up', 'click'); PREPARE TRANSACTION 'two'" > /dev/null
	ok "$(soon stats2 "SELECT count(*) = 2 FROM pg_prepared_xacts WHERE database = 'stats2'")" "twin: two transactions arrive prepared"
	ok "$(sub stats2 "SELECT count(*) = 0 FROM ecstats.events WHERE user_id IN ('prepared', 'given up')")" "twin: nobody sees them"
	ok "$(close stats2)" "twin: a close between the two phases counts what is there"
	ok "$([ "$(revised stats2)" = none ] && echo t)" "twin: and restates nothing"
	pub shop2 "COMMIT PREPARED 'one'" > /dev/null
	pub shop2 "ROLLBACK PREPARED 'two'" > /dev/null
	ok "$(soon stats2 "SELECT count(*) = 0 FROM pg_prepared_xacts WHERE database = 'stats2'")" "twin: both end"
	ok "$(close stats2)" "twin: what was committed counts, the other does not"
	ok "$([ "$(revised stats2)" = 04 ] && echo t)" "twin: its day is restated"
else
	echo "skip cdc: subscriptions in two phases need PostgreSQL 15"
fi
ok "$(sub stats "SELECT count(*) = 0 FROM ecstats.rejects")" "nothing is left behind"
exit "$failed"
