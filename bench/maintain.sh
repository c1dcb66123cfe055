#!/usr/bin/env bash
# Measures how long writers and readers wait while ecstats_maintain moves rows out of the default partition and
# drops what is past retention. See README.md.
#
#   bash bench/maintain.sh            STRAYS=200000 rows to move, LINES=250000 order lines of a day to drop
set -uo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
STRAYS=${STRAYS:-200000}
LINES=${LINES:-250000}

# while_writing TEXT GOAL STATEMENT: runs it four seconds into ten seconds of 4 writers of events, 1 of order lines
# and 2 readers; prints their longest waits and judges those of the writers, in milliseconds. (Moving: 20
# microseconds a row at most, since writers wait for the rows of one day.)
while_writing()
{
	local name worst=() log
	rm -f "$work"/log.*
	for name in events lines reads; do
		log=$work/log.$name
		pgbench -n -M prepared -c "${clients[$name]}" -T 10 -l --log-prefix="$log" -f "$work/$name.sql" > /dev/null 2>> "$work/pgbench.log" &
	done
	sleep 4
	local took
	took=$(milliseconds "$3")
	wait
	for name in events lines reads; do
		worst+=("$(cat "$work/log.$name".* | awk '$3 > most { most = $3 } END { printf "%.0f", most / 1000 }')")
	done
	printf '%-52s took %5.0f ms; longest wait: writers of events %4s ms, of order lines %4s ms, readers %4s ms  goal <= %s  ' \
		"$1" "$took" "${worst[@]}" "$2"
	if [ "${worst[0]}" -le "$2" ] && [ "${worst[1]}" -le "$2" ]; then
		echo met
	else
		echo MISSED
		missed=$((missed + 1))
	fi
}

bench_begin
psql -Xq -v ON_ERROR_STOP=1 -f "$root/bench/twins.sql" || exit 1
quiet "CALL ecstats_maintain()" || exit 1
declare -A clients=([events]=4 [lines]=1 [reads]=2)
cat > "$work/events.sql" << 'SQL'
\sleep 1 ms
INSERT INTO ecstats.events (event_time, user_id, event, event_id) VALUES (clock_timestamp(), 'w', 'view_item', gen_random_uuid());
SQL
cat > "$work/lines.sql" << 'SQL'
\sleep 1 ms
\set n random(1, 2000000000)
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('w' || :n, 1, clock_timestamp(), 'p', 1, 10) ON CONFLICT DO NOTHING;
SQL
cat > "$work/reads.sql" << 'SQL'
\sleep 5 ms
SELECT count(*) FROM ecstats.events WHERE event_time > now() - interval '1 second' AND user_id = 'w';
SQL
old="ecstats.day_start(date '2024-05-07')"
while_writing "nothing to do" 200 "CALL ecstats_maintain()"
for round in 1 2 3; do
	quiet "INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		   SELECT ecstats.day_start(date '2024-05-06' + $round) + (e.event_time - min(e.event_time) OVER ()) / 8, e.user_id, e.event, e.event_id, e.page_url, e.extra
			 FROM bench.events($STRAYS, 7) e"
	while_writing "moving $STRAYS rows to their day ($round)" $((STRAYS / 50)) "CALL ecstats_maintain()"
done
quiet "INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount)
	   SELECT 'o' || i, 1, $old + i * interval '1 ms', 'p' || i % 100, 1, 10 FROM generate_series(1, $LINES) i" \
	"SELECT ecstats_daily('2024-05-09')" "UPDATE ecstats.config SET event_retention = '400 days', order_retention = '400 days'"
while_writing "dropping 3 days, one with $LINES order lines" 2000 "CALL ecstats_maintain()"
[ "$(psql -XAtc "SELECT count(*) FROM ecstats.day_state WHERE events_dropped AND orders_dropped")" -ge 3 ] || { echo "nothing was dropped"; exit 1; }
[ "$missed" -eq 0 ]
