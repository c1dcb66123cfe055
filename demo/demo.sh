#!/usr/bin/env bash
# The main job, end to end, in a private cluster under ./.demo: from rows to a message in the chat.
#
#   make demo              a shop of 35 days, made up
#   make demo DATA=DIR     the orders and events of DIR (orders_online_retail…, events_tmall…)
#
# Leaves the cluster, the pusher and the receiver running; make demo-stop ends them.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
# shellcheck source=../test/lib/find_pg.sh
. test/lib/find_pg.sh
# shellcheck source=../test/lib/cluster.sh
. test/lib/cluster.sh

zone=Asia/Shanghai
deadline=240
link=$root/.demo

step()
{
	printf '\n[%4d s] %s\n' "$SECONDS" "$*"
}

note()
{
	printf '         %s\n' "$*"
}

die()
{
	echo "demo: $*" >&2
	exit 1
}

# sql STATEMENT [OPTION…]: the answer alone.
sql()
{
	local statement=$1
	shift
	psql -XAtq -v ON_ERROR_STOP=1 "$@" <<< "$statement"
}

# show STATEMENT [OPTION…]: a table to read.
show()
{
	local statement=$1
	shift
	psql -Xq -v ON_ERROR_STOP=1 -P border=0 -P footer=off -P null=- "$@" <<< "$statement" | sed '/^ *$/d; s/^/         /'
}

# make_place: an empty directory of the cluster's user, at ./.demo or, where that user cannot get in, at
# a place that ./.demo points to.
make_place()
{
	local user
	user=$(cluster_user)
	case $(readlink "$link" || true) in
		/var/tmp/ecstats-demo.*) rm -rf "$(readlink "$link")" ;;
	esac
	rm -rf "$link"
	if as_cluster_user test -x "$root"; then
		mkdir "$link"
		dir=$link
	else
		dir=$(mktemp -d /var/tmp/ecstats-demo.XXXXXX)
		ln -s "$dir" "$link"
		note "user $user, who runs the server, cannot enter $root:"
		note "./.demo points to $dir"
	fi
	[ "$(id -u)" -ne 0 ] || chown "$user" "$dir"
	chmod 755 "$dir"
}

# start NAME COMMAND…: runs it in the background as the cluster's user, with DIR/NAME.pid and .log.
start()
{
	local name=$1 as=()
	shift
	[ "$(id -u)" -ne 0 ] || as=(runuser -u "$(cluster_user)" --)
	(
		cd /
		exec setsid "${as[@]}" sh -c 'umask 022; echo $$ > "$0.pid"; exec "$@" > "$0.log" 2>&1' "$dir/$name" "$@"
	) < /dev/null > /dev/null 2>&1 &
}

# wait_for SECONDS COMMAND…: until it succeeds.
wait_for()
{
	local until=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$until" ] || return 1
		sleep 0.2
	done
}

# A run that began before midnight and closed after it would speak of two different yesterdays.
let_midnight_pass()
{
	local left
	left=$(TZ=$zone date +%H:%M)
	case $left in
		23:5[2-9])
			note "it is $left in $zone: waiting for the day to end, so that yesterday stays yesterday"
			wait_for 600 eval "[ \"\$(TZ=$zone date +%H)\" = 00 ]"
			;;
	esac
}

# ------------------------------------------------------------------ the shop
fill_made_up()
{
	step "filling 35 days of a made-up shop (the same figures every time)"
	psql -Xq -f demo/generate.sql > /dev/null
}

fill_from_files()
{
	local yesterday
	yesterday=$(sql "SELECT ecstats_day() - 1")
	step "loading orders and events of $1"
	sql "UPDATE ecstats.config SET currency = 'GBP'"
	/usr/bin/python3 test/oracle/load_shared.py orders --data "$1" --last-day "$yesterday" | sed 's/^/         /'
	/usr/bin/python3 test/oracle/load_shared.py tmall --data "$1" --last-day "$yesterday" | sed 's/^/         /'
	note "The orders are from 2010 and 2011, the events from 2013. Each file was moved by whole days so"
	note "that its last day is yesterday ($yesterday): differences to the day and the week before stay"
	note "what they were, the names of the weekdays do not. The two shops have nothing to do with each"
	note "other, so a conversion rate over both says nothing."
}

have_late_rows()
{
	psql -XAtq -f demo/late.sql > /dev/null
	note "after that, 60 order lines and 60 events came late for days that are closed, and one event of"
	note "a thousand was refused: the other 999 are stored, it waits in ecstats.rejects"
}

counts()
{
	sql "SELECT format('%s events, %s order lines, %s users, %s products',
			to_char(e.n, 'FM999,999,999'), to_char(o.n, 'FM999,999,999'), to_char(e.users, 'FM999,999'), to_char(o.products, 'FM999,999'))
		FROM (SELECT count(*) AS n, count(DISTINCT user_id) AS users FROM ecstats.events) e,
			(SELECT count(*) AS n, count(DISTINCT product_id) AS products FROM ecstats.order_lines) o"
}

make_channels()
{
	local base
	base=http://127.0.0.1:$(cat "$dir/receiver.port")
	sql "INSERT INTO ecstats.channels (name, kind, url, secret, options) VALUES
			('operations-wecom', 'wecom', :'base' || '/cgi-bin/webhook/send?key=demo-key', NULL, '{\"allow_private\": true}'),
			('operations-dingtalk', 'dingtalk', :'base' || '/robot/send?access_token=demo-token',
			 'SECdemo0000000000000000000000000000000000', '{\"allow_private\": true}');
		UPDATE ecstats.reports SET channels = '{operations-wecom,operations-dingtalk}' WHERE name = 'daily'" -v base="$base"
}

# The shipped job is made due at the next full minute that pg_cron cannot have missed; its own time is
# put back when it has run.
make_job_due()
{
	sql "SELECT ecstats_install_cron();
		UPDATE ecstats.jobs SET schedule = to_char((clock_timestamp() + interval '65 seconds') AT TIME ZONE :'zone', 'FMMI FMHH24') || ' * * *'
		WHERE name = 'daily'" -v zone="$zone" > /dev/null
	sql "SELECT to_char(next_run_at AT TIME ZONE :'zone', 'HH24:MI:SS') FROM ecstats.jobs WHERE name = 'daily'" -v zone="$zone"
}

both_arrived()
{
	grep -q '"provider": "wecom"' "$dir/received.jsonl" 2> /dev/null &&
		grep -q '"provider": "dingtalk"' "$dir/received.jsonl"
}

both_settled()
{
	[ "$(sql "SELECT count(*) FROM ecstats.deliveries WHERE report = 'daily' AND status = 'sent'")" -ge 2 ]
}

not_arrived()
{
	echo "demo: the messages were not there and settled within $deadline s; this is how things stand:" >&2
	show "SELECT * FROM ecstats_status()"
	show "SELECT job_name, due_at, status, error FROM ecstats.job_runs ORDER BY run_id"
	show "SELECT id, report, channel, status, attempts, last_error FROM ecstats.deliveries ORDER BY id"
	tail -n 15 "$dir/server.log" "$dir/pusher.log" "$dir/receiver.log"
	exit 1
}

# ------------------------------------------------------------------ what came of it
show_figures()
{
	show "
		WITH k AS (SELECT * FROM ecstats.daily_kpi WHERE day = :'day'),
		p AS (SELECT * FROM ecstats.daily_kpi WHERE day = :'day'::date - 1)
		SELECT v.name AS \"figure\", lpad(to_char(v.now, v.form), 14) AS \"     yesterday\",
			lpad(to_char(v.before, v.form), 14) AS \"the day before\",
			lpad(to_char(100 * (v.now - v.before) / nullif(v.before, 0), 'SFM9990.0') || '%', 8) AS \"  change\"
		FROM k LEFT JOIN p ON true CROSS JOIN LATERAL (VALUES
			(1, 'gmv', k.gmv, p.gmv, 'FM999,999,990.00'),
			(2, 'orders', k.order_count, p.order_count, 'FM999,999,990'),
			(3, 'buyers', k.buyer_count, p.buyer_count, 'FM999,999,990'),
			(4, 'paid', k.paid_amount, p.paid_amount, 'FM999,999,990.00'),
			(5, 'refunds', k.refund_amount, p.refund_amount, 'FM999,999,990.00'),
			(6, 'per order', k.aov, p.aov, 'FM999,999,990.00'),
			(7, 'visitors', k.uv, p.uv, 'FM999,999,990'),
			(8, 'new visitors', k.new_user_count, p.new_user_count, 'FM999,999,990'),
			(9, 'page views', k.pv, p.pv, 'FM999,999,990'),
			(10, 'conversion %', 100 * k.conversion_rate, 100 * p.conversion_rate, 'FM990.00')) AS v(no, name, now, before, form)
		ORDER BY v.no" -v day="$1"
	sql "SELECT format('%s was corrected from gmv %s to %s by rows that came late', day, old, new)
		FROM ecstats.restatements WHERE column_name = 'gmv' ORDER BY day" | sed 's/^/         /'
}

show_message()
{
	local file
	for file in "$dir"/messages/*-wecom.md; do
		echo
		sed 's/^/    | /; s/ *$//' "$file"
	done
	echo
	/usr/bin/python3 - "$dir/received.jsonl" <<- 'END'
		import json, sys
		for line in open(sys.argv[1], encoding="utf-8"):
		    m = json.loads(line)
		    if m["provider"] == "dingtalk":
		        print("         DingTalk took the same text, signed, under the title\n    | " + m["title"])
	END
}

show_users()
{
	show "SELECT tag, user_count AS users, entered, left_count AS left FROM ecstats.tag_daily WHERE day = :'day' ORDER BY tag" -v day="$1"
	note "to call back first: among the most active of late, silent for three days or more, by what they paid"
	show "SELECT p.user_id, p.days_silent, p.order_count AS orders, p.paid_amount AS paid, p.segment, p.favourite_channel AS channel
		FROM ecstats_tag_audience('high_active_silent') a(user_id) JOIN ecstats.user_profile p USING (user_id)
		ORDER BY p.paid_amount DESC, p.user_id LIMIT 5"
}

arrived_at()
{
	sed -n "s/^{\"at\": \"\([^\"]*\)\", \"provider\": \"$1\".*/\1/p" "$dir/received.jsonl" | head -n 1
}

show_times()
{
	show "
		WITH run AS (SELECT * FROM ecstats.job_runs WHERE job_name = 'daily' AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1),
		d AS (SELECT min(d.created_at) AS queued, min(a.started_at) AS claimed, max(a.finished_at) AS settled
			FROM ecstats.deliveries d JOIN ecstats.delivery_attempts a ON a.delivery_id = d.id WHERE d.report = 'daily'),
		t(no, what, at) AS (
			SELECT 1, 'the daily job was due', due_at FROM run
			UNION ALL SELECT 2, 'pg_cron''s tick claimed it', claimed_at FROM run
			UNION ALL SELECT 3, 'its background worker began', started_at FROM run
			UNION ALL SELECT 4, 'the day was closed, the report queued', finished_at FROM run
			UNION ALL SELECT 5, 'the pusher claimed the messages', claimed FROM d
			UNION ALL SELECT 6, 'WeCom had it', :'wecom'::timestamptz
			UNION ALL SELECT 7, 'DingTalk had it', :'dingtalk'::timestamptz
			UNION ALL SELECT 8, 'both answers were settled', settled FROM d)
		SELECT to_char(at AT TIME ZONE :'zone', 'HH24:MI:SS.MS') AS \"time\",
			to_char(extract(epoch FROM at - min(at) OVER ()), 'FM990.000') || ' s' AS \"after\", what AS \"step\"
		FROM t ORDER BY no" -v zone="$zone" -v wecom="$(arrived_at wecom)" -v dingtalk="$(arrived_at dingtalk)"
}

show_way_out()
{
	local psql="psql -h $PGHOST -p $PGPORT -U postgres shop"
	cat << END

The cluster, the pusher and the receiver go on. To look around:

    $psql

    SELECT * FROM ecstats_status();
    SELECT * FROM ecstats_today();
    SELECT day, gmv, order_count, uv, revision FROM ecstats.daily_kpi ORDER BY day DESC;
    SELECT body->'markdown'->>'content' FROM ecstats_preview('daily') WHERE kind = 'wecom';
    SELECT ecstats_push('operations-wecom', '{"text": "你好"}');   -- arrives in .demo/messages
    SELECT * FROM ecstats.user_profile ORDER BY score DESC LIMIT 10;
    SELECT id, channel, status, sent_at FROM ecstats.deliveries;

Logs are in .demo: server.log, pusher.log, receiver.log. To stop it all: make demo-stop
END
}

# ------------------------------------------------------------------ the run
step "set-up"
bash test/lib/setup.sh | sed 's/^set-up: /         /'
PG_CONFIG=$(find_pg)
bindir=$("$PG_CONFIG" --bindir)
export PG_CONFIG PATH="$bindir:$PATH"
data=${DATA:-}
[ -z "$data" ] || data=$(cd "$data" && pwd) || die "there is no directory $DATA"

bash demo/stop.sh quiet
let_midnight_pass

step "a private cluster in ./.demo"
make_place
cluster_init "$dir" shop "timezone = '$zone'" "log_timezone = '$zone'" "synchronous_commit = off" "max_wal_size = 4GB"
cluster_start "$dir"
cluster_env "$dir"
export PGDATABASE=shop
note "port $PGPORT of 127.0.0.1, run by $(cluster_user), pg_cron preloaded"
sql "CREATE EXTENSION pg_cron; CREATE EXTENSION ecstats"

if [ -n "$data" ]; then
	fill_from_files "$data"
else
	fill_made_up
fi
note "$(counts)"

yesterday=$(sql "SELECT ecstats_day() - 1")
step "closing the history, up to the day before yesterday"
sql "SELECT ecstats_daily('$yesterday'::date - 1)" > /dev/null
note "$(sql "SELECT format('%s days closed, %s to %s', count(*), min(day), max(day)) FROM ecstats.daily_kpi")"
[ -n "$data" ] || have_late_rows

step "a receiver that behaves like WeCom and DingTalk, two channels, the pusher"
as_cluster_user mkdir "$dir/bin"
install -m 755 pusher/ecstats-pusher demo/receiver.py "$dir/bin"
start receiver /usr/bin/python3 "$dir/bin/receiver.py" "$dir"
wait_for 20 test -s "$dir/receiver.port" || die "the receiver did not start: $(cat "$dir/receiver.log")"
make_channels
sql "CREATE ROLE ecstats_pusher LOGIN; SELECT ecstats_grant('ecstats_pusher', 'pusher')" > /dev/null
start pusher "$dir/bin/ecstats-pusher" --dsn "host=$PGHOST port=$PGPORT dbname=shop user=ecstats_pusher"
wait_for 20 grep -qs connected "$dir/pusher.log" || die "the pusher did not connect: $(cat "$dir/pusher.log")"

due=$(make_job_due)
step "the job 'daily' is due at $due $zone; pg_cron's tick closes $yesterday and queues the report"
waited=$SECONDS
wait_for "$deadline" both_arrived && wait_for 20 both_settled || not_arrived
note "both messages arrived, after $((SECONDS - waited)) s"
sql "UPDATE ecstats.jobs SET schedule = ecstats.pipeline_daily_schedule((SELECT day_starts_at FROM ecstats.config)) WHERE name = 'daily'"

step "the figures of yesterday, $yesterday"
show_figures "$yesterday"

step "the users of $yesterday: scored, tagged"
show_users "$yesterday"

step "the message as WeCom got it"
show_message

step "what happened when"
show_times
show_way_out
