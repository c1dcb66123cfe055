#!/usr/bin/env bash
# Measures how a day is computed: ratios, both sides in one run. See README.md.
#
#   bash bench/rollup.sh                        every part
#   BENCH="naive written" bash bench/rollup.sh  some: naive written duckdb scan orders daily again growth late memory
#                                               today reads leak
#   ROWS=1000000 PAIRS=3 …                      a smaller day: USERS and LINES follow ROWS; GROWTH="1 4" million events
#
# Ends with status 1 if a goal is missed.
set -uo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=rollup_queries.sh
. "$root/bench/rollup_queries.sh"
ROWS=${ROWS:-5000000}
USERS=${USERS:-$((ROWS * 47 / 500))}
LINES=${LINES:-$((ROWS / 20))}
GROWTH=${GROWTH:-1 4 20}
LATE_ROWS=${LATE_ROWS:-$((ROWS / 5))}
MANY_USERS=${MANY_USERS:-$((ROWS))}
RUNS=${RUNS:-1000}
modules=${XDG_CACHE_HOME:-$HOME/.cache}/ecstats-bench
one_process="-c max_parallel_workers_per_gather=0"

# database NAME: makes a database that is not there yet, and makes it the current one. `other` undoes it.
database()
{
	PGDATABASE=postgres quiet "CREATE DATABASE $1" || return 1
	export PGDATABASE=$1
	quiet "CREATE EXTENSION ecstats" "CREATE EXTENSION IF NOT EXISTS pg_prewarm" "UPDATE ecstats.config SET timezone = 'Asia/Shanghai'" &&
		psql -Xq -v ON_ERROR_STOP=1 -f "$root/bench/rollup.sql"
}

# events DAY ROWS USERS: two sessions load a day; then everything of it is in memory, its hint bits set.
events()
{
	local part loaders=()
	quiet "SELECT ecstats_prepare('$1', '$1')" || return 1
	for part in 1 2; do
		quiet "CALL bench.load_events('$1', $2, $3, $part, 2)" &
		loaders+=($!)
	done
	wait "${loaders[0]}" && wait "${loaders[1]}" && settled "$(partition "$1")"
}

partition()
{
	ask "SELECT 'ecstats.' || ecstats.day_partition_name('$1')"
}

# the_day DAY: what the queries of a day need.
the_day()
{
	day=$1
	from=$(ask "SELECT quote_literal(ecstats.day_start('$1')) || '::timestamptz'")
	to=$(ask "SELECT quote_literal(ecstats.day_start(date '$1' + 1)) || '::timestamptz'")
	bounds="$from, $to"
	table=$(partition "$1")
	range="event_time >= $from AND event_time < $to"
}

# with_lines: the day's order lines are there, and those of the day before that were paid on it.
with_lines()
{
	[ "$(ask "SELECT count(*) FROM (SELECT FROM ecstats.order_lines LIMIT 1) l")" -eq 0 ] || return 0
	quiet "CALL bench.load_lines('$day', $LINES, 'o')" "CALL bench.load_lines(date '$day' - 1, $LINES, 'b')" && settled ecstats.order_lines
}

# same TEXT MINE THEIRS: fails unless the two files have the same lines, in any order.
same()
{
	if ! sort "$2" | cmp -s - <(sort "$3") || ! [ -s "$2" ]; then
		echo "$1: not the same figures" >&2
		diff <(sort "$2") <(sort "$3") | head -n 6 >&2
		return 1
	fi
}

# rows_of COMMAND… prints the rows of the statements that it prints, one a line.
rows_of()
{
	"$@" | sed 's/$/;/' | PGOPTIONS="-c client_min_messages=warning ${settings:-}" psql -XqAt -v ON_ERROR_STOP=1 -f -
}

# our_figures prints ours as the other queries print them.
our_figures()
{
	ask "SELECT r.* FROM ($(ours)) e CROSS JOIN LATERAL (VALUES ('t', 'events', NULL, a, NULL), ('t', 'pv', NULL, b, NULL), ('v', 'uv', NULL, a, NULL),
		('e', 'event', name, a, b), ('f', 'step', name, b, NULL)) r(of, what, name, a, b) WHERE r.of = e.kind::text" | cut -d'|' -f2-
}

below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }

# fastest COMMAND… prints which of them takes least, once each has run.
fastest()
{
	local command took best="" least=""
	for command in "$@"; do "run_$command" > /dev/null || return 1; done
	for command in "$@"; do
		took=$("run_$command") || return 1
		if [ -z "$best" ] || below "$took" "$least"; then
			best=$command
			least=$took
		fi
	done
	echo "$best"
}

# Each prints milliseconds.
run_ours() { ours | total "$table"; }
run_naive() { naive bench.naive | total bench.naive; }
run_naive_users()
{
	quiet "DROP TABLE IF EXISTS bench.naive_users" CHECKPOINT
	{ naive bench.naive; naive_users bench.naive; } | total bench.naive
}
run_written() { written | settings="$roomy" total "$table"; }
run_written_pairs() { written_pairs | settings="$roomy" total "$table"; }
run_compact_insert() { quiet CHECKPOINT; compact_insert | settings="$roomy" total "$table"; }
run_compact_anew() { quiet CHECKPOINT; compact_anew | settings="$roomy" total "$table"; }
run_pairs_insert() { quiet CHECKPOINT; pairs_insert | settings="$roomy" total "$table"; }
run_ours_written()
{
	quiet "CALL bench.forget()" CHECKPOINT && echo "SELECT ecstats.rollup_write('$day', true)" | total "$table"
}
run_daily()
{
	quiet "CALL bench.forget()" "SELECT ecstats_daily(date '$day' - 1)" CHECKPOINT && echo "SELECT ecstats_daily('$day')" | total "$table" ecstats.order_lines
}
run_scan_events() { echo "SELECT count(*) FROM $table" | settings="${settings:-} -c enable_indexonlyscan=off" total "$table"; }
run_one_ours() { settings=$one_process run_ours; }
run_one_scan_events() { settings=$one_process run_scan_events; }
run_worker_ours()
{
	quiet "UPDATE ecstats.config SET rollup_workers = 1" && run_ours && quiet "UPDATE ecstats.config SET rollup_workers = 0"
}
run_duckdb() { duckdb time "$work/figures.sql"; }

# Well-written SQL sees to its memory.
roomy="-c work_mem=1GB"

part_naive()
{
	quiet "CREATE TABLE bench.naive (event_time timestamptz NOT NULL, user_id text NOT NULL, event text NOT NULL, event_id uuid, page_url text, extra jsonb)" \
		"INSERT INTO bench.naive SELECT * FROM $table" "CREATE INDEX ON bench.naive (event_time)" && settled bench.naive || return 1
	rows_of naive bench.naive > "$work/theirs"
	our_figures > "$work/mine"
	same naive "$work/mine" "$work/theirs" || return 1
	pairs "figures: naive SQL / ours" ">= 35" run_naive run_ours
	pairs "figures and user_daily: naive SQL and its table of users / ours" ">= 20" run_naive_users run_ours_written
	quiet "DROP TABLE bench.naive, bench.naive_users"
}

part_written()
{
	local command best
	our_figures > "$work/mine"
	quiet "CREATE TABLE bench.pairs (day date, user_id text COLLATE \"C\", event text COLLATE \"C\", n bigint, PRIMARY KEY (day, user_id, event))" \
		"CREATE TABLE bench.compact (day date, user_id text COLLATE \"C\", $(for ((i = 1; i <= ${#names[@]}; i++)); do printf 'e%d integer NOT NULL, ' "$i"; done) PRIMARY KEY (day, user_id))"
	for command in written written_pairs compact_insert compact_anew pairs_insert; do
		settings=$roomy rows_of "$command" > "$work/theirs"
		same "$command" "$work/mine" "$work/theirs" || return 1
	done
	quiet "SELECT ecstats.rollup_write('$day', true)" || return 1
	[ "$(ask "SELECT (SELECT count(*) FROM bench.pairs) = (SELECT count(*) FROM ecstats.user_daily)
		AND NOT EXISTS (SELECT * FROM bench.pairs EXCEPT SELECT * FROM ecstats.user_daily)")" = t ] || { echo "user_daily is not the same"; return 1; }
	best=$(fastest written written_pairs) || return 1
	pairs "figures: well-written SQL ($best) / ours" ">= 5" "run_$best" run_ours
	settings=$one_process pairs "  the same, one process each" none "run_$best" run_ours
	best=$(fastest compact_insert compact_anew pairs_insert) || return 1
	pairs "figures and user_daily: well-written SQL ($best) / ours" ">= 4" "run_$best" run_ours_written
	pairs "ours: figures and user_daily / figures alone" "<= 2" run_ours_written run_ours
	quiet "DROP TABLE bench.pairs, bench.compact, bench.compact_anew"
}

# duckdb WHAT ARGUMENT: see rollup_duckdb.js.
duckdb()
{
	node "$root/bench/rollup_duckdb.js" "$modules" "$work/duckdb.db" "$@"
}

part_duckdb()
{
	if ! [ -d "$modules/node_modules/@duckdb/node-api" ]; then
		mkdir -p "$modules"
		if ! (cd "$modules" && npm install --no-audit --no-fund --no-package-lock @duckdb/node-api > "$work/npm.log" 2>&1); then
			echo "skip: DuckDB could not be had (npm install @duckdb/node-api): $(tail -n 1 "$work/npm.log")"
			return 0
		fi
	fi
	local command best least took
	quiet "COPY (SELECT event_time AT TIME ZONE 'UTC', user_id, event, event_id, page_url, extra FROM $table) TO '$work/cluster/rows.csv' (FORMAT csv)" &&
		duckdb load "$work/cluster/rows.csv" || return 1
	as_cluster_user rm -f "$work/cluster/rows.csv"
	our_figures > "$work/mine"
	for command in duckdb_users duckdb_distinct; do
		"$command" > "$work/$command.sql"
		duckdb figures "$work/$command.sql" > "$work/theirs"
		same "$command" "$work/mine" "$work/theirs" || return 1
		took=$(duckdb time "$work/$command.sql") || return 1
		if [ -z "${least:-}" ] || below "$took" "$least"; then
			least=$took
			best=$command
		fi
	done
	cp "$work/$best.sql" "$work/figures.sql"
	pairs "figures, one process: ours / DuckDB with one thread ($best)" "<= 0.8" run_one_ours run_duckdb
	rm -f "$work/duckdb.db"
}

# DuckDB's queries: per user first; and its own DISTINCT.
duckdb_users() { written | sed "s/ecstats\.events/events/; s/+00'::timestamptz/'::timestamp/g"; }
duckdb_distinct() { written_pairs | sed "s/ecstats\.events/events/; s/+00'::timestamptz/'::timestamp/g"; }

part_scan()
{
	pairs "figures, one process: ours / count(*) of the same rows" "<= 2" run_one_ours run_one_scan_events
	on_processor=1 pairs "  the same in processor time" "<= 2" run_one_ours run_one_scan_events
	pairs "  for comparison, ours: one process / with a parallel worker" none run_one_ours run_worker_ours
	pairs "  for comparison, count(*): one process / with PostgreSQL's workers" none run_one_scan_events run_scan_events
}

# whole COMMAND: every row of the statements that it prints is made, none is sent.
whole()
{
	"$1" | sed 's/^/SELECT count(x) FROM (/; s/$/) x/'
}
run_ours_orders() { whole ours_orders | total ecstats.order_lines; }
run_orders_sets() { whole orders_sets | settings="$roomy" total ecstats.order_lines; }
run_orders_split() { whole orders_split | settings="$roomy" total ecstats.order_lines; }
run_scan_lines() { echo "SELECT count(*) FROM ecstats.order_lines WHERE ${range//event_time/order_time}" | settings="$one_process -c enable_indexonlyscan=off" total ecstats.order_lines; }

part_orders()
{
	local command best
	with_lines || return 1
	# money has a scale of its own on each side where there is none
	ours_orders | sed 's/amount, orders/trim_scale(amount), orders/; s/, refund/, trim_scale(refund)/' > "$work/query"
	rows_of cat "$work/query" > "$work/mine"
	for command in orders_sets orders_split; do
		settings=$roomy rows_of "$command" |
			awk -F'|' -v OFS='|' '{ for (i = 6; i <= 9; i += 3) if ($i ~ /\./) sub(/\.?0+$/, "", $i); print }' > "$work/theirs"
		same "$command" "$work/mine" "$work/theirs" || return 1
	done
	best=$(fastest orders_sets orders_split) || return 1
	pairs "orders: well-written SQL ($best) / ours" none "run_$best" run_ours_orders
	pairs "orders: ours / count(*) of the day's lines" none run_ours_orders run_scan_lines
}

part_daily()
{
	with_lines || return 1
	pairs "the whole close, first-seen users and orders too / figures alone" none run_daily run_ours
	pairs "the whole close / rollup_write, figures and user_daily" none run_daily run_ours_written
}

one() { echo 1; }
run_again() { milliseconds "SELECT ecstats_daily('$day')"; }
run_again_warm() { milliseconds "SELECT ecstats_daily('$day')" "SELECT ecstats_daily('$day')"; }

part_again()
{
	with_lines && run_daily > /dev/null || return 1
	pairs "another close without new rows, ms, by a session that has closed" "<= 20" run_again_warm one
	pairs "  by a new session, which loads and plans everything first" "<= 20" run_again one
	pairs "the first close / the second" none run_daily run_again
}

part_growth()
{
	local size i=0 n
	local -a days=()
	database bench_growth || return 1
	for size in $GROWTH; do
		n=$(awk -v size="$size" 'BEGIN { printf "%d", size * 1000000 }')
		days+=("$(ask "SELECT date '$today' - 20 + $i")")
		events "${days[i]}" "$n" $((n * 47 / 500)) || return 1
		i=$((i + 1))
	done
	: > "$work/growth"
	for ((n = 0; n <= ${PAIRS:-5}; n++)); do
		i=0
		for size in $GROWTH; do
			the_day "${days[i]}"
			echo "$n $size $(run_one_ours)" >> "$work/growth"
			i=$((i + 1))
		done
	done
	other
	the_day "$main_day"
	exponent "million events" "<= 1.05" < "$work/growth"
}

# Three days are closed, then 1 % more rows come to each of them.
late_days() { ask "SELECT date '$today' - d FROM generate_series(4, 2, -1) d"; }
close_late()
{
	local d tables=()
	for d in $(late_days); do tables+=("$(partition "$d")"); done
	echo "SELECT ecstats_daily(date '$today' - 2)" | total "${tables[@]}" ecstats.order_lines
}
run_late()
{
	local d
	quiet "SELECT ecstats_daily(date '$today' - 2)" || return 1
	for d in $(late_days); do
		quiet "CALL bench.load_events('$d', $LATE_ROWS / 100, $LATE_ROWS / 150, 1, 1)" \
			"CALL bench.load_lines('$d', $LATE_ROWS / 2000, '$(ask "SELECT 'l' || gen_random_uuid()")')" || return 1
	done
	quiet CHECKPOINT
	close_late
}
run_anew()
{
	quiet "CALL bench.forget()" CHECKPOINT && close_late
}

part_late()
{
	local d
	database bench_late || return 1
	for d in $(late_days); do
		events "$d" "$LATE_ROWS" $((LATE_ROWS * 47 / 500)) && quiet "CALL bench.load_lines('$d', $LATE_ROWS / 20, 'o$d')" || return 1
	done
	settled ecstats.order_lines
	run_anew > /dev/null || return 1
	pairs "after 1 % late rows on 3 days / the closes of these days" "<= 1.2" run_late run_anew
	other
}

part_memory()
{
	database bench_memory || return 1
	quiet "SELECT ecstats_prepare(date '$today' - 3, date '$today' - 3)" "CALL bench.load_users(date '$today' - 3, $MANY_USERS)" || return 1
	the_day "$(ask "SELECT date '$today' - 3")"
	/usr/bin/python3 "$root/bench/rollup_memory.py" "$MANY_USERS users, 2 events each" "$MANY_USERS" 120 "$(ours)" || missed=$((missed + 1))
	other
	the_day "$main_day"
	/usr/bin/python3 "$root/bench/rollup_memory.py" "$USERS users of $ROWS events" "$USERS" 120 "$(ours)" || missed=$((missed + 1))
}

part_today()
{
	database bench_today || return 1
	events "$(ask "SELECT date '$today' - 1")" "$ROWS" "$USERS" && events "$today" "$ROWS" "$USERS" &&
		quiet "CALL bench.load_lines(date '$today' - 1, $LINES, 'o')" && settled ecstats.order_lines && quiet "SELECT ecstats_daily(date '$today' - 1)" || return 1
	a_minute() { echo 600; }
	run_today() { processor "SELECT ecstats_today()"; }
	pairs "ecstats_today() every minute, % of a core" "<= 2" run_today a_minute
	other
}

part_reads()
{
	local best
	with_lines && quiet "CALL bench.forget()" "SELECT ecstats_daily('$day')" "ANALYZE ecstats.daily_kpi" "ANALYZE ecstats.daily_sales_by" || return 1
	ask "SELECT $(ask "SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns
		WHERE table_schema = 'ecstats' AND table_name = 'daily_kpi' AND column_name NOT IN ('day', 'complete', 'closed_at', 'revision')") FROM ecstats.daily_kpi WHERE day = '$day'" > "$work/mine"
	settings=$roomy rows_of raw_kpi > "$work/theirs"
	same "daily_kpi" "$work/mine" "$work/theirs" || return 1
	echo "SELECT * FROM ecstats.daily_kpi WHERE day = '$day';" > "$work/kpi.sql"
	raw_kpi | sed 's/$/;/' > "$work/kpi_raw.sql"
	echo "SELECT product_id, total_revenue FROM ecstats.product_daily WHERE day = '$day' ORDER BY 2 DESC LIMIT 10;" > "$work/top.sql"
	echo "SELECT product_id, sum(amount) FROM ecstats.order_lines WHERE ${range//event_time/order_time} AND quantity > 0 GROUP BY product_id ORDER BY 2 DESC LIMIT 10;" > "$work/top_raw.sql"
	PAIRS=${READ_PAIRS:-3} pairs "the day's KPIs, latency: plain SQL on raw rows / daily_kpi" ">= 100" "latency kpi_raw 1" "latency kpi 500"
	PAIRS=1 pairs "  rate, 10 clients: daily_kpi / raw rows" ">= 100" "rate kpi 500" "rate kpi_raw 1"
	pairs "top 10 products of the day, latency: order_lines / product_daily" none "latency top_raw 5" "latency top 100"
	pairs "  rate, 10 clients: product_daily / order_lines" none "rate top 100" "rate top_raw 5"
	quiet "INSERT INTO ecstats.daily_kpi (day, gmv, uv) SELECT date '$day' - d, d, d FROM generate_series(2, 365) d" "ANALYZE ecstats.daily_kpi"
	echo "SELECT day, gmv, uv FROM ecstats.daily_kpi WHERE day > date '$day' - 365 ORDER BY day;" > "$work/year.sql"
	a_year_raw() { latency kpi_raw 1 | awk '{ print 365 * $1 }'; }
	PAIRS=1 pairs "a year's trend, latency: raw rows (365 x a day's) / daily_kpi" none a_year_raw "latency year 500"
}

# latency SCRIPT TIMES prints the milliseconds that one client waits; rate SCRIPT TIMES the transactions a second of 10.
latency()
{
	pgbench -n -c 1 -t "$2" -f "$work/$1.sql" 2> "$work/pgbench.log" | sed -n 's/^latency average = \([0-9.]*\) ms/\1/p'
}
rate()
{
	pgbench -n -c 10 -j 2 -t "$2" -f "$work/$1.sql" 2> "$work/pgbench.log" | sed -n 's/^tps = \([0-9.]*\) .*/\1/p'
}

# The scans again and again in one session: its private memory and its contexts, after a tenth of the runs and after all.
part_leak()
{
	local used="SELECT substring(pg_read_file('/proc/self/status') from 'RssAnon:\s+(\d+)') || ' ' || (SELECT sum(used_bytes) FROM pg_backend_memory_contexts)"
	local loop="DO \$\$ BEGIN FOR i IN 1 .. %d LOOP
		PERFORM count(*) FROM ecstats.rollup_scan_events($bounds, '{page_view}', '{view_item,add_to_cart}', true);
		PERFORM count(*) FROM ecstats.rollup_scan_orders($bounds, '{cancelled}', true); END LOOP; END \$\$"
	database bench_leak || return 1
	quiet "SELECT ecstats_prepare('$day', '$day')" "CALL bench.load_events('$day', 2000, 500, 1, 1)" "CALL bench.load_lines('$day', 500, 'o')"
	# shellcheck disable=SC2059
	psql -XqAt -v ON_ERROR_STOP=1 -c "$(printf "$loop" $((RUNS / 10)))" -c "$used" -c "$(printf "$loop" $((RUNS - RUNS / 10)))" -c "$used" > "$work/leak"
	other
	awk -v runs="$RUNS" 'NR == 1 { rss = $1; used = $2 } END { met = NR == 2 && $1 - rss <= 256 && $2 - used <= 8192
		printf "%-64s RssAnon %d -> %d kB, contexts %d -> %d bytes  goal: no growth  %s\n", "the scans, run " runs / 10 " and run " runs " of one session", rss, $1, used, $2, met ? "met" : "MISSED"
		exit !met }' "$work/leak" || missed=$((missed + 1))
}

bench_begin "shared_buffers = 6GB" "timezone = 'Asia/Shanghai'"
export PGTZ=UTC
psql -Xq -v ON_ERROR_STOP=1 -c "CREATE EXTENSION pg_prewarm" -f "$root/bench/rollup.sql" || exit 1
today=$(ask "SELECT ecstats_day()")
main_day=$(ask "SELECT date '$today' - 5")
mapfile -t names < <(ask "SELECT unnest(bench.names())")
mapfile -t views < <(ask "SELECT unnest(ecstats.rollup_page_views())")
mapfile -t steps < <(ask "SELECT unnest(ecstats.rollup_funnel())")
the_day "$main_day"
events "$day" "$ROWS" "$USERS" || exit 1
echo "$ROWS events, $(ask "SELECT count(DISTINCT user_id) FROM ecstats.events") users, $LINES order lines"
for part in ${BENCH:-naive written duckdb scan orders daily again growth late memory today reads leak}; do
	"part_$part" || { echo "$part could not be measured"; exit 1; }
done
[ "$missed" -eq 0 ]
