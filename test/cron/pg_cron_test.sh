#!/bin/bash
# pg_cron_test.sh: the ticker with the real pg_cron. Two databases, one where pg_cron lives and one
# where it does not; in each a job that is due every minute runs without anybody calling ecstats_tick.
#
# Runs against the server of PGHOST, PGPORT, PGUSER (a superuser), which has pg_cron preloaded; takes up
# to two minutes, since a minute is the finest that pg_cron knows. Prints TAP; exits 1 on a failure.
set -u

n=0
failed=0
other=ecstats_cron_test_other
home=$(psql -XAtq -d postgres -c "SELECT current_setting('cron.database_name', true)")

ok() # condition ('t' is good), description
{
	n=$((n + 1))
	if [ "$1" = t ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2 (got: $1)"
		failed=1
	fi
}

q() # database, statement
{
	psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2" 2>&1
}

until_true() # database, query, seconds: waits until the query answers t, prints t or what it answered last
{
	local deadline=$((SECONDS + $3)) answer
	while :; do
		answer=$(q "$1" "$2")
		[ "$answer" = t ] || [ $SECONDS -ge $deadline ] && break
		sleep 0.5
	done
	echo "$answer"
}

clean_up()
{
	q "$home" "SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname LIKE 'ecstats_tick%'" > /dev/null
	q "$home" "SET client_min_messages = warning; DROP EXTENSION IF EXISTS ecstats CASCADE; DROP TABLE IF EXISTS public.cron_test_log" > /dev/null
	q "$home" "DROP DATABASE IF EXISTS $other WITH (FORCE)" > /dev/null
}

make_job() # database: a job that is due every minute and writes down what it is told
{
	q "$1" "CREATE TABLE public.cron_test_log (due timestamptz, pid int);
		SELECT ecstats_schedule('each minute', '* * * * *',
			'INSERT INTO public.cron_test_log VALUES (current_setting(''ecstats.due_at'')::timestamptz, pg_backend_pid())')" > /dev/null
}

if [ -z "$home" ]; then
	echo "ok 1 # skip pg_cron is not preloaded in this server"
	echo "1..1"
	exit 0
fi

clean_up
q "$home" "SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_cron; CREATE EXTENSION ecstats" > /dev/null
q "$home" "CREATE DATABASE $other" > /dev/null
q "$other" "SET client_min_messages = warning; CREATE EXTENSION ecstats" > /dev/null
make_job "$home"
make_job "$other"

first=$(q "$home" "SELECT ecstats_install_cron()")
again=$(q "$home" "SELECT ecstats_install_cron()")
ok "$([ -n "$first" ] && [ "$first" = "$again" ] && echo t || echo "$first, $again")" "the second registration answers with the first"
ok "$(q "$home" "SELECT count(*) = 1 AND min(command) = 'CALL public.ecstats_tick(wait => false)' AND min(schedule) = '* * * * *'
	FROM cron.job WHERE jobname = 'ecstats_tick'")" "one ticker, exactly one CALL, qualified, every minute"

# Where pg_cron is not: the answer holds the line to run where it is.
answer=$(q "$other" "SELECT ecstats_install_cron()")
line=$(grep -o "SELECT cron.schedule_in_database(.*);" <<< "$answer")
ok "$(grep -q "database \"$home\"" <<< "$answer" && [ -n "$line" ] && echo t || echo "$answer")" "elsewhere it names pg_cron's database and a line to run there"
q "$home" "$line" > /dev/null
q "$home" "$line" > /dev/null
ok "$(q "$home" "SELECT count(*) = 1 FROM cron.job WHERE database = '$other'")" "the line registers the other database, twice without doubling"
ok "$(q "$home" "SELECT count(*) = 2 FROM cron.job WHERE jobname LIKE 'ecstats_tick%'")" "and leaves the first ticker alone"

ran="SELECT count(*) >= 1 FROM public.cron_test_log"
ok "$(until_true "$home" "$ran" 130)" "a job of pg_cron's database runs without anybody calling tick"
ok "$(until_true "$other" "$ran" 70)" "a job of the other database too"
for db in "$home" "$other"; do
	ok "$(q "$db" "SELECT bool_and(r.status IN ('succeeded', 'running', 'claimed')) AND count(*) = count(DISTINCT r.due_at)
		AND bool_and(date_trunc('minute', r.due_at) = r.due_at) FROM ecstats.job_runs r WHERE r.job_name = 'each minute'")" "its runs in $db are one a due time"
	ok "$(q "$db" "SELECT status = 'ok' FROM ecstats.job_status() WHERE component = 'ticker'")" "the ticker of $db is well"
done
ok "$(q "$home" "SELECT count(*) = 0 FROM cron.job_run_details d JOIN cron.job j USING (jobid)
	WHERE j.jobname LIKE 'ecstats_tick%' AND d.status = 'failed'")" "pg_cron saw no tick fail"

ok "$(q "$home" "SELECT ecstats_uninstall_cron()")" "the ticker is taken out"
ok "$(q "$home" "SELECT NOT ecstats_uninstall_cron()")" "once"
ok "$(q "$home" "SELECT count(*) = 1 FROM cron.job WHERE jobname LIKE 'ecstats_tick%'")" "and the other database's ticker is left"
clean_up
echo "1..$n"
exit $failed
