#!/usr/bin/env bash
# Measures the intake of events: ratios, both sides in one run. See README.md.
#
#   bash bench/intake.sh                     every part
#   BENCH="copy track" bash bench/intake.sh  some: copy track single memory partitions
#   PAIRS=9 VERBOSE=1 bash bench/intake.sh   more pairs; every pair's numbers (ms, or rows a second)
#
# Ends with status 1 if a goal is missed.
set -uo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
ROWS=${ROWS:-1000000}
SECONDS_A_RUN=${SECONDS_A_RUN:-4}

# copy_into TABLE FILE [DATABASE [processor]] prints the time of a COPY into the emptied table.
copy_into()
{
	local PGDATABASE=${3:-bench}
	export PGDATABASE
	quiet "TRUNCATE $1" "CHECKPOINT" &&
		"${4:-milliseconds}" "COPY $1 (event_time, user_id, event, event_id, page_url, extra) FROM '$work/cluster/$2'"
}

# statement_of NAME: what is run for an array of events, pgbench's variable payload, which goes as a parameter.
statement_of()
{
	local insert='INSERT INTO bench.checks SELECT r.timestamp, r.user_id, r.event, r.event_id, r.page_url, r.extra
		FROM jsonb_to_recordset(:payload::jsonb)
		  AS r("timestamp" timestamptz, user_id text, event text, event_id uuid, page_url text, extra jsonb)'
	case $1 in
		track) echo 'SELECT ecstats_track(:payload::jsonb)' ;;
		insert) echo "$insert" ;;
		insert_conflict) echo "$insert ON CONFLICT DO NOTHING" ;;
	esac
}

# arrays TABLE NAME [DATABASE] prints the milliseconds of a statement for an array of bench.arrays, on average over
# all 200, each sent by a client in a transaction of its own; the table is emptied before.
arrays()
{
	local PGDATABASE=${3:-bench}
	export PGDATABASE
	quiet "TRUNCATE $1" "CHECKPOINT"
	printf '%s\n' '\set n :n + 1' 'SELECT payload FROM bench.arrays WHERE n = :n \gset' "$(statement_of "$2" | tr '\n\t' '  ');" > "$work/arrays.sql"
	pgbench -n -M prepared -c 1 -t 200 -r -D n=0 -f "$work/arrays.sql" 2> "$work/pgbench.log" |
		awk '/^ +[0-9.]+ +[0-9]+ / { last = $1 } END { print last }'
}

# arrays_processor TABLE NAME prints the processor time of the same, in milliseconds an array: the server's process
# reads the array as text and stores it, each in a transaction of its own.
arrays_processor()
{
	local statement
	quiet "TRUNCATE $1" "CHECKPOINT"
	statement=$(statement_of "$2" | sed -e 's/^SELECT ecstats/PERFORM ecstats/' -e 's/:payload/sent/')
	processor "DO \$\$ DECLARE sent text; BEGIN FOR i IN 1 .. 200 LOOP
		SELECT a.payload INTO sent FROM bench.arrays a WHERE a.n = i; $statement; COMMIT; END LOOP; END \$\$" |
		awk '{ print $1 / 200 }'
}

# single TABLE [DATABASE] prints the rate of single-row inserts by 10 clients.
single()
{
	local PGDATABASE=${2:-bench}
	export PGDATABASE
	quiet "TRUNCATE $1" "CHECKPOINT"
	cat > "$work/single.sql" <<- SQL
		\set u random(1, 100000)
		INSERT INTO $1 (event_time, user_id, event, event_id, page_url, extra) VALUES
			(clock_timestamp(), 'u' || :u, 'view_item', gen_random_uuid(), '/item/' || :u || '?from=list', '{"product_id": "p4711", "price": 129.00}');
	SQL
	pgbench -n -M prepared -c 10 -j 2 -T "$SECONDS_A_RUN" -f "$work/single.sql" 2> "$work/pgbench.log" |
		sed -n 's/^tps = \([0-9.]*\) .*/\1/p'
}

# with_arrays DATABASE: bench.arrays, 200 of 1,000 events.
with_arrays()
{
	PGDATABASE=$1 quiet "CREATE TABLE bench.arrays (n integer PRIMARY KEY, payload text)" \
		"ALTER TABLE bench.arrays ALTER payload SET STORAGE EXTERNAL" \
		"INSERT INTO bench.arrays
		 SELECT (e.n + 999) / 1000,
				jsonb_agg(jsonb_build_object('event', e.event, 'timestamp', e.event_time, 'user_id', e.user_id,
					'page_url', e.page_url, 'extra', e.extra, 'event_id', e.event_id) ORDER BY e.n)::text
		   FROM (SELECT *, row_number() OVER () AS n FROM bench.events(200000, 7)) e GROUP BY 1"
}

part_copy()
{
	pairs "COPY of $ROWS events: ecstats.events / plain table" "<= 1.10" "copy_into ecstats.events rows" "copy_into bench.plain rows"
	pairs "  the same in processor time" "<= 1.10" "copy_into ecstats.events rows bench processor" "copy_into bench.plain rows bench processor"
	pairs "COPY: PL/pgSQL trigger, an error a rule / ecstats.events" ">= 4" "copy_into bench.trigger_named rows" "copy_into ecstats.events rows"
	pairs "COPY: PL/pgSQL trigger, an error a column / ecstats.events" ">= 4" "copy_into bench.trigger rows" "copy_into ecstats.events rows"
}

part_track()
{
	with_arrays bench
	pairs "arrays of 1,000 in processor time" ">= 3" "arrays_processor bench.checks insert" "arrays_processor ecstats.events track"
	pairs "arrays of 1,000 in processor time, ON CONFLICT" ">= 3" "arrays_processor bench.checks insert_conflict" "arrays_processor ecstats.events track"
}

part_single()
{
	pairs "single rows, 10 clients, rate: ecstats.events / plain table" ">= 0.95" "single ecstats.events" "single bench.plain"
	quiet "ALTER SYSTEM SET fsync = on" "SELECT pg_reload_conf()"
	pairs "  the same, every commit waits for the disk" ">= 0.95" "single ecstats.events" "single bench.plain"
	quiet "ALTER SYSTEM RESET fsync" "SELECT pg_reload_conf()"
}

part_memory()
{
	quiet "CREATE TABLE bench.big AS
		   SELECT jsonb_agg(jsonb_build_object('event', e.event, 'timestamp', e.event_time, 'user_id', e.user_id,
					'page_url', e.page_url, 'extra', e.extra, 'event_id', e.event_id)) AS payload FROM bench.events(100000, 7) e"
	psql -XqAt -c "TRUNCATE ecstats.events" -c "COPY (SELECT payload::text FROM bench.big) TO STDOUT" > "$work/big.txt"
	/usr/bin/python3 "$root/bench/memory.py" "$work/big.txt" || missed=$((missed + 1))
}

part_partitions()
{
	PGDATABASE=postgres quiet "CREATE DATABASE bench_years"
	PGDATABASE=bench_years quiet "CREATE EXTENSION ecstats" "UPDATE ecstats.config SET timezone = 'Asia/Shanghai'" || return 1
	PGDATABASE=bench_years psql -Xq -v ON_ERROR_STOP=1 -f "$root/bench/twins.sql"
	PGDATABASE=bench_years quiet "SELECT ecstats_prepare(ecstats_day() - 1090, ecstats_day() + 5)"
	[ -n "$(psql -XAtc "SELECT to_regclass('bench.arrays')")" ] || with_arrays bench
	with_arrays bench_years
	pairs "3 years of partitions / 30 days: COPY" "<= 1.2" "copy_into ecstats.events rows bench_years" "copy_into ecstats.events rows bench"
	pairs "3 years of partitions / 30 days: arrays of 1,000" "<= 1.2" "arrays ecstats.events track bench_years" "arrays ecstats.events track bench"
	pairs "30 days / 3 years of partitions: rate of single rows" "<= 1.2" "single ecstats.events bench" "single ecstats.events bench_years"
}

bench_begin
psql -Xq -v ON_ERROR_STOP=1 -f "$root/bench/twins.sql" || exit 1
quiet "CALL bench.twins(ecstats_day() - 25, ecstats_day() + 5)" "SELECT ecstats_prepare(ecstats_day() - 25, ecstats_day() + 5)" \
	"COPY (SELECT * FROM bench.events($ROWS, 7)) TO '$work/cluster/rows'" || exit 1
for part in ${BENCH:-copy track single memory partitions}; do
	"part_$part" || { echo "$part could not be measured"; exit 1; }
done
[ "$missed" -eq 0 ]
