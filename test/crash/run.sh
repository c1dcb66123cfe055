#!/usr/bin/env bash
# A server that is killed in the middle of a close, of a rebuild and of a write, and one that is down for three nights.
# Whatever had committed is there, nothing is half-written, and the next close makes it right. Prints "ok - …" and
# "not ok - …" lines. Needs PG_CONFIG, and the extension installed there; makes a cluster of its own.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"
bindir=$("$PG_CONFIG" --bindir)
database=ecstats_crash
deadline=60			# seconds that anything is waited for
failed=0

result()
{
	if [ "$1" -eq 0 ]; then
		echo "ok - crash: $2"
	else
		echo "not ok - crash: $2"
		[ $# -lt 3 ] || head -n 30 <<< "$3" | sed 's/^/#   /'
		failed=1
	fi
}

sql()
{
	psql -XAtq -v ON_ERROR_STOP=1 -d "$database" -c "SET client_min_messages = warning" -c "$1" 2>&1
}

# is STATEMENT EXPECTED NAME: what a statement answers.
is()
{
	local answer
	answer=$(sql "$1")
	[ "$answer" = "$2" ]
	result $? "$3" "expected: $2
answer: $answer"
}

# wait_until CONDITION: asks a query until it says t.
wait_until()
{
	local end=$((SECONDS + deadline))
	until [ "$(sql "SELECT $1")" = t ]; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# background NAME STATEMENT…: a session of its own; each STATEMENT is a transaction unless one says BEGIN.
background()
{
	local name=$1 statement
	local -a arguments=()
	shift
	for statement in "$@"; do
		arguments+=(-c "$statement")
	done
	PGAPPNAME=$name psql -Xq -v ON_ERROR_STOP=1 -d "$database" "${arguments[@]}" > "$work/$name.log" 2>&1 &
	pids+=($!)
}

# hold TABLE: a session that keeps whoever writes the table waiting, until the server is killed.
hold()
{
	background holder "BEGIN" "LOCK TABLE $1 IN SHARE MODE" "SELECT pg_sleep(600)"
	wait_until "EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE a.application_name = 'holder' AND l.relation = '$1'::regclass AND l.granted)"
}

# has_written NAME: a session waits for that lock within a transaction that has written.
has_written()
{
	wait_until "EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name LIKE '$1' AND a.wait_event_type = 'Lock' AND a.backend_xid IS NOT NULL)"
}

# kill_server: as if the machine had stopped; its sessions end with it.
kill_server()
{
	local pid
	as_cluster_user "$bindir/pg_ctl" -D "$work/cluster/data" -m immediate -t 60 -w stop > /dev/null 2>&1
	for pid in "${pids[@]}"; do
		wait "$pid" 2> /dev/null
	done
	pids=()
}

# stored prints all that is stored of closed days, without when it was closed.
stored()
{
	sql "SELECT to_jsonb(k) - 'closed_at' FROM ecstats.daily_kpi k ORDER BY k.day" &&
		sql "SELECT * FROM ecstats.daily_sales ORDER BY day, product_id, region, channel" &&
		sql "SELECT * FROM ecstats.daily_events ORDER BY day, event" &&
		sql "SELECT * FROM ecstats.daily_funnel ORDER BY day, step" &&
		sql "SELECT * FROM ecstats.user_daily ORDER BY day, user_id, event" &&
		sql "SELECT * FROM ecstats.first_seen ORDER BY user_id" &&
		sql "SELECT * FROM ecstats.buyer_daily ORDER BY user_id, day, region, channel" &&
		sql "SELECT * FROM ecstats.buyers ORDER BY user_id" &&
		sql "SELECT day, revision, column_name, old, new FROM ecstats.restatements ORDER BY 1, 2, 3" &&
		sql "SELECT report, day, revision, channel FROM ecstats.deliveries ORDER BY id"
}

# rows DAY HOURS: some of everything on a day.
rows()
{
	sql "INSERT INTO ecstats.events (event_time, user_id, event)
			SELECT ecstats.day_start('$1') + n * interval '10 minutes', 'u' || n % 7 + extract(day FROM date '$1'), (ARRAY['login', 'view_item', 'page_view'])[1 + n % 3]
			  FROM generate_series(0, $2 * 6 - 1) n;
		INSERT INTO ecstats.order_lines (order_id, line_no, order_time, paid_time, user_id, product_id, quantity, amount)
			SELECT '$1-' || n, 1, ecstats.day_start('$1') + n * interval '1 hour', ecstats.day_start('$1') + n * interval '2 hours', 'u' || n, 'p' || n % 3, 1, n / 4.0
			  FROM generate_series(0, $2 - 1) n"
}

# crash_in_first_close: the close waits for the table that it writes last, with everything else written.
crash_in_first_close()
{
	hold ecstats.daily_kpi || { result 1 "a session holds daily_kpi"; return; }
	background closer "SELECT ecstats_daily('2026-03-02')"
	has_written closer
	result $? "a first close is caught after it has written" "$(cat "$work/closer.log")"
	# Committed before the crash, and never heard of by the close.
	sql "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 10:00+00', 'late', 'login')" > /dev/null
	kill_server
	cluster_start "$work/cluster"
	result $? "the server starts after it was killed"
	is "SELECT count(*) FROM (SELECT day FROM ecstats.daily_kpi UNION ALL SELECT day FROM ecstats.daily_sales UNION ALL SELECT day FROM ecstats.daily_events
			UNION ALL SELECT day FROM ecstats.daily_funnel UNION ALL SELECT day FROM ecstats.user_day UNION ALL SELECT day FROM ecstats.day_state
			UNION ALL SELECT day FROM ecstats.first_seen) x" 0 "nothing of the close is there"
	is "SELECT count(*) FROM ecstats.deliveries" 0 "no report of a day that was not closed"
	is "SELECT count(*) FROM ecstats.day_marks" 3 "the marks that were committed are there"
	is "SELECT day, event_count, revision FROM ecstats_daily('2026-03-02')" "2026-03-02|145|1" "the next close closes the day, with the row that came meanwhile"
	is "SELECT * FROM ecstats_verify()" "" "all of it verifies"
	is "SELECT count(*) FROM ecstats.deliveries" 1 "its report is queued, once"
}

# crash_in_restatement: a stored day that is computed again stays as it was stored.
crash_in_restatement()
{
	local before marks
	rows 2026-03-03 5 > /dev/null
	sql "SELECT ecstats_daily('2026-03-03')" > /dev/null
	before=$(stored)
	sql "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 11:00+00', 'later', 'page_view');
		UPDATE ecstats.order_lines SET amount = 77 WHERE order_id = '2026-03-03-1';
		DELETE FROM ecstats.events WHERE user_id = 'late'" > /dev/null
	marks=$(sql "SELECT array_agg(day ORDER BY day) FROM ecstats.day_marks")
	hold ecstats.restatements || { result 1 "a session holds restatements"; return; }
	background closer "SELECT ecstats_daily('2026-03-03')"
	has_written closer
	result $? "a restatement is caught after it has written" "$(cat "$work/closer.log")"
	kill_server
	cluster_start "$work/cluster"
	diff <(echo "$before") <(stored) > "$work/difference"
	result $? "every stored figure is as it was" "$(cat "$work/difference")"
	is "SELECT array_agg(day ORDER BY day) FROM ecstats.day_marks" "$marks" "the marks wait for the next close"
	is "SELECT count(*) > 0 FROM ecstats_verify()" t "a proof finds what waits"
	is "SELECT day, revision FROM ecstats_daily('2026-03-03')" "2026-03-03|2" "the next close takes them"
	is "SELECT * FROM ecstats_verify()" "" "all of it verifies then"
	is "SELECT count(*) FROM ecstats.day_marks" 0 "and no mark is left"
}

# crash_in_rebuild: days before are done, the one it was in is as it was, the same call again ends it.
crash_in_rebuild()
{
	sql "UPDATE ecstats.daily_sales SET total_sold = 99; UPDATE ecstats.daily_kpi SET gmv = gmv + 1 WHERE day = '2026-03-03'" > /dev/null
	hold ecstats.restatements || { result 1 "a session holds restatements"; return; }
	background rebuild "CALL ecstats_rebuild('2026-03-02', '2026-03-03')"
	has_written 'ecstats_rebuild 2/2 2026-03-03'
	result $? "a rebuild is caught on its second day" "$(cat "$work/rebuild.log")"
	kill_server
	cluster_start "$work/cluster"
	is "SELECT DISTINCT day FROM ecstats_verify() ORDER BY 1" "2026-03-03" "its first day is done, its second is as it was"
	sql "CALL ecstats_rebuild('2026-03-02', '2026-03-03')" > /dev/null
	result $? "it is called again"
	is "SELECT * FROM ecstats_verify()" "" "all of it verifies then"
	is "SELECT day, revision FROM ecstats.daily_kpi ORDER BY day" "2026-03-02|2
2026-03-03|3" "only the day whose figures differed has a new revision"
}

# crash_in_write: prepared transactions outlive the server, others do not.
crash_in_write()
{
	sql "BEGIN; INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 12:00+00', 'prepared', 'login'); PREPARE TRANSACTION 'kept'" > /dev/null
	background writer "BEGIN" "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 12:00+00', 'lost', 'login')" "SELECT pg_sleep(600)"
	wait_until "EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name = 'writer' AND a.wait_event = 'PgSleep' AND a.backend_xid IS NOT NULL)"
	result $? "a writer is caught before it commits" "$(cat "$work/writer.log")"
	sql "SELECT ecstats_daily('2026-03-03')" > /dev/null
	kill_server
	cluster_start "$work/cluster"
	is "SELECT event_count, revision FROM ecstats_daily('2026-03-02')" "145|2" "neither counts"
	sql "COMMIT PREPARED 'kept'" > /dev/null
	is "SELECT event_count, revision FROM ecstats_daily('2026-03-02')" "146|3" "the prepared one does, once it is committed"
	is "SELECT * FROM ecstats_verify()" "" "all of it verifies"
}

# outage: nobody closes for three nights, rows of the days before still come; one run closes all, in order.
outage()
{
	local day
	sql "CREATE TABLE closed (n bigint GENERATED ALWAYS AS IDENTITY, day date);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.closed (day) VALUES (NEW.day); RETURN NULL; END';
		CREATE TRIGGER note AFTER INSERT ON ecstats.daily_kpi FOR EACH ROW EXECUTE FUNCTION note()" > /dev/null
	for day in 2026-03-06 2026-03-04 2026-03-05; do		# as queues of apps empty after an outage: in any order
		rows $day 4 > /dev/null
	done
	kill_server
	cluster_start "$work/cluster"
	sql "INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-03 12:00+00', 'u1', 'login')" > /dev/null
	is "SELECT day, event_count, revision FROM ecstats_daily('2026-03-06')" "2026-03-06|24|1" "one run after three nights closes the last day"
	is "SELECT day FROM closed WHERE day > '2026-03-03' ORDER BY n" "2026-03-04
2026-03-05
2026-03-06" "and those before it, in order"
	is "SELECT revision FROM ecstats.daily_kpi WHERE day = '2026-03-03'" 4 "and computes the one that changed again"
	is "SELECT * FROM ecstats_verify()" "" "all of it verifies"
	is "SELECT sum(new_user_count) = (SELECT count(*) FROM ecstats.first_seen) FROM ecstats.daily_kpi" t "every user is new once"
	is "SELECT count(*) FROM ecstats.deliveries WHERE day BETWEEN '2026-03-04' AND '2026-03-05' AND report = 'daily'" 0 "old days' reports are not sent by themselves"
	is "SELECT count(*) FROM ecstats.deliveries WHERE day = '2026-03-06' AND report = 'daily'" 1 "the day's own is"
}

pids=()
work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/cluster"
[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$work/cluster"
finish()
{
	cluster_stop "$work/cluster"
	rm -rf "$work"
}
trap finish EXIT

# Durable as in production: what is committed must survive. Nobody else closes days here.
cluster_init "$work/cluster" postgres "timezone = 'UTC'" "autovacuum = off" && cluster_start "$work/cluster" || {
	result 1 "a cluster is made"
	exit 1
}
cluster_env "$work/cluster"
psql -Xq -d postgres -c "CREATE DATABASE $database TEMPLATE template0 ENCODING 'UTF8'" &&
	sql "CREATE EXTENSION ecstats; UPDATE ecstats.config SET timezone = 'UTC'; UPDATE ecstats.jobs SET enabled = false;
		INSERT INTO ecstats.channels (name, kind, url) VALUES ('hook', 'webhook', 'https://shop.example/hook');
		UPDATE ecstats.reports SET channels = '{hook}' WHERE name = 'daily'" > /dev/null || {
	result 1 "a database is made"
	exit 1
}
rows 2026-03-02 24 > /dev/null
crash_in_first_close
crash_in_restatement
crash_in_rebuild
crash_in_write
outage
exit "$failed"
