#!/usr/bin/env bash
# Dumps a database and restores it into a new cluster, plain with psql and -Fc with two jobs; holds every
# table against the original, and sees that work goes on there. Prints "ok - …" and "not ok - …" lines.
# Needs PG_CONFIG, and a server with the extension that PG* reaches as a superuser.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"
bindir=$("$PG_CONFIG" --bindir)
source_db=ecstats_dump_source
failed=0

# What is true now and not what was: heartbeats, what a channel waits for, which tables partitions are.
# jobs.owner_id names a role of this cluster by number: a restored job has none until its next tick.
left_out="day_partitions channel_state pushers job_ticker"

result()
{
	if [ "$1" -eq 0 ]; then
		echo "ok - dump: $2"
	else
		echo "not ok - dump: $2"
		[ $# -lt 3 ] || head -n 30 <<< "$3" | sed 's/^/#   /'
		failed=1
	fi
}

sql()
{
	local database=$1 statement=$2
	psql -XAtq -v ON_ERROR_STOP=1 -d "$database" -c "SET client_min_messages = warning" -c "$statement" 2>&1
}

# fingerprints DATABASE: each table of the schema with its rows and a hash of them in order; each sequence
# with where it stands. Partitions are tables of their own here.
fingerprints()
{
	local statements
	statements=$(sql "$1" "
		SELECT format('SELECT %L, count(*), md5(coalesce(string_agg(r, E''\\n'' ORDER BY r COLLATE \"C\"), '''')) FROM (SELECT (to_jsonb(t) - ''owner_id'')::text AS r FROM ONLY %s t) x;',
				c.relname, c.oid::regclass)
		  FROM pg_class c WHERE c.relnamespace = 'ecstats'::regnamespace AND c.relkind = 'r' AND c.relname <> ALL (string_to_array('$left_out', ' '))
		UNION ALL
		SELECT format('SELECT %L, last_value, is_called FROM %s;', c.relname, c.oid::regclass)
		  FROM pg_class c WHERE c.relnamespace = 'ecstats'::regnamespace AND c.relkind = 'S'
		ORDER BY 1")
	sql "$1" "SET timezone = 'UTC'; $statements"
}

# compare_with_source DATABASE NAME, on the new cluster.
compare_with_source()
{
	local difference
	difference=$(diff <(echo "$original") <(fingerprints "$1"))
	result $? "$2 brings back $(wc -l <<< "$original") tables and sequences as they were" "$difference"
}

# goes_on DATABASE NAME: what comes next in the copy is what comes next in the original.
goes_on()
{
	local answer
	answer=$(sql "$1" "SELECT count(*) FROM ecstats.delivery_claim('copy', 10)")
	[ "$answer" = 0 ]
	result $? "$2 delivers nothing before ecstats_adopt()" "$answer"

	answer=$(sql "$1" "
		SELECT bool_and(n.id > o.id) FROM (SELECT ecstats_push('ops', '{\"text\": \"next\"}') AS id) n,
			(SELECT max(id) AS id FROM ecstats.deliveries) o")
	[ "$answer" = t ]
	result $? "$2 goes on numbering deliveries" "$answer"

	answer=$(sql "$1" "
		SELECT ecstats_track('{\"event\": \"Bad Name\", \"user_id\": \"u1\", \"timestamp\": 1772400000}', 'quarantine');
		SELECT count(*) = count(DISTINCT id) AND count(*) = 2 FROM ecstats.rejects" | tail -n 1)
	[ "$answer" = t ]
	result $? "$2 goes on numbering rejects" "$answer"

	answer=$(sql "$1" "SELECT ecstats_schedule('another', '0 5 * * *', 'SELECT 1') > (SELECT max(job_id) FROM ecstats.jobs WHERE name = 'hourly')")
	[ "$answer" = t ]
	result $? "$2 goes on numbering jobs" "$answer"

	answer=$(diff <(echo "$next_day") <(the_day_after "$1"))
	result $? "$2 computes the day after, and the day that changed before the dump, as the original does" "$answer"

	answer=$(sql "$1" "SELECT ecstats_adopt(); SELECT count(*) > 0 FROM ecstats.delivery_claim('copy', 10)" | tail -n 1)
	[ "$answer" = t ]
	result $? "$2 delivers after ecstats_adopt()" "$answer"
}

# the_day_after DATABASE: new rows, the next close, and all the figures there are.
the_day_after()
{
	sql "$1" "
		INSERT INTO ecstats.events (event_time, user_id, event)
			SELECT ecstats.day_start('2026-03-08') + n * interval '1 hour', 'v' || n % 4, 'page_view' FROM generate_series(0, 20) AS n;
		INSERT INTO ecstats.events (event_time, user_id, event) VALUES (ecstats.day_start('2026-03-08'), 'v0', 'brand_new');
		SELECT ecstats_order(jsonb_build_object('order_id', 'next', 'order_time', ecstats.day_start('2026-03-08') + interval '2 hours', 'user_id', 'v1',
			'items', '[{\"product_id\": \"p1\", \"quantity\": 3, \"amount\": 30.30}]'::jsonb));
		SELECT ecstats_daily('2026-03-08')" > /dev/null || return 1
	sql "$1" "
		SELECT to_jsonb(k) - 'closed_at' FROM ecstats.daily_kpi k ORDER BY day;
		SELECT * FROM ecstats.daily_sales ORDER BY day, product_id, region, channel;
		SELECT * FROM ecstats.daily_events ORDER BY day, event;
		SELECT * FROM ecstats.user_daily ORDER BY day, user_id, event;
		SELECT * FROM ecstats.buyer_daily ORDER BY user_id, day, region, channel;
		SELECT * FROM ecstats.buyers ORDER BY user_id;
		SELECT day, revision, column_name, old, new FROM ecstats.restatements ORDER BY 1, 2, 3"
}

restored()
{
	local log=$1 name=$2
	result "$3" "$name restores without an error" "$(cat "$log")"
}

work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/cluster"
[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$work/cluster"
finish()
{
	psql -Xq -d postgres -c "DROP DATABASE IF EXISTS $source_db" 2> /dev/null
	cluster_stop "$work/cluster"
	rm -rf "$work"
}
source_host=$PGHOST source_port=$PGPORT
trap 'PGHOST=$source_host PGPORT=$source_port; finish' EXIT

psql -Xq -d postgres -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $source_db" \
	-c "CREATE DATABASE $source_db TEMPLATE template0 ENCODING 'UTF8'"
output=$(psql -Xq -v ON_ERROR_STOP=1 -d "$source_db" -c "CREATE EXTENSION ecstats" -f "$here/fill.sql" 2>&1 > /dev/null)
status=$?
result "$status" "a database is filled" "$output"
[ "$status" -eq 0 ] || exit 1

original=$(fingerprints "$source_db")
empty=$(grep -E '\|0\|' <<< "$original" | cut -d '|' -f 1 | grep -vE '^(report_failures|source_pages|events_2.*)$' | paste -sd ' ')
[ -z "$empty" ]
result $? "every table has something to bring back" "empty: $empty"

pg_dump -d "$source_db" > "$work/plain.sql" 2> "$work/plain.log"
result $? "pg_dump writes plain SQL" "$(cat "$work/plain.log")"
pg_dump -Fc -d "$source_db" -f "$work/custom.dump" 2> "$work/custom.log"
result $? "pg_dump writes a custom archive" "$(cat "$work/custom.log")"
chmod 644 "$work/plain.sql" "$work/custom.dump"
next_day=$(the_day_after "$source_db")
result $? "the original computes the day after" "$next_day"

cluster_init "$work/cluster" postgres "fsync = off" "timezone = 'America/New_York'" && cluster_start "$work/cluster" || {
	result 1 "a new cluster is made"
	exit 1
}
cluster_env "$work/cluster"
for name in plain single custom; do
	psql -Xq -d postgres -c "CREATE DATABASE copy_$name TEMPLATE template0 ENCODING 'UTF8'"
	if [ "$name" = plain ]; then
		psql -Xq -v ON_ERROR_STOP=1 -d copy_plain -f "$work/plain.sql" > "$work/$name.log" 2>&1
	elif [ "$name" = single ]; then
		psql -1 -Xq -v ON_ERROR_STOP=1 -d copy_single -f "$work/plain.sql" > "$work/$name.log" 2>&1
	else
		pg_restore -j 2 --exit-on-error -d copy_custom "$work/custom.dump" > "$work/$name.log" 2>&1
	fi
	status=$?
	restored "$work/$name.log" "$name" "$status"
	[ "$status" -eq 0 ] || continue
	compare_with_source "copy_$name" "$name"
	goes_on "copy_$name" "$name"
done
exit "$failed"
