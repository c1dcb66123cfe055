#!/usr/bin/env bash
# Runs every test. The last line is "N passed, N failed" (", N skipped" where something was).
#
#   bash test/run.sh                    all parts
#   TESTS="unit regress" bash test/run.sh
#   TESTS=regress REGRESS="event order" bash test/run.sh
#
# Parts: layers sql unit fuzz regress isolation oracle pusher source cron dump crash cdc clients mysql encoding. Each runs against a private
# cluster and prints lines "ok N - …", "not ok N - …" or "skip …".
#   PG_CONFIG        the PostgreSQL to test with
#   ECSTATS_SHARED   the shared data and vectors (default ../shared)
#   KEEP=1           leave the directory of the run behind
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
# shellcheck source=lib/find_pg.sh
. test/lib/find_pg.sh
# shellcheck source=lib/cluster.sh
. test/lib/cluster.sh

parts=${TESTS:-layers sql unit fuzz regress isolation oracle pusher source cron dump crash cdc clients mysql encoding}
passed=0
failed=0
skipped=0

# finish prints the sum, whatever happened before.
finish()
{
	local status=$?
	[ -z "${work:-}" ] || clean_up
	if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
		failed=1
	fi
	echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
	if [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]; then
		exit 0
	fi
	exit 1
}
trap finish EXIT
trap 'exit 130' INT TERM

clean_up()
{
	cluster_stop "$work/cluster"
	if [ -n "${KEEP:-}" ]; then
		echo "kept: $work"
	else
		rm -rf "$work"
	fi
}

# count_lines PART FILE STATUS: adds a part's result lines up. A part that fails without saying what,
# or says nothing at all, is a failure.
count_lines()
{
	local good bad left
	good=$(grep -cE '^ok\b' "$2")
	bad=$(grep -cE '^not ok\b' "$2")
	left=$(grep -ciE '^(# *)?skip' "$2")
	if [ "$3" -ne 0 ] && [ "$bad" -eq 0 ]; then
		echo "not ok - $1 ended with status $3" >> "$2"
		bad=1
	elif [ $((good + bad + left)) -eq 0 ]; then
		echo "not ok - $1 ran nothing" >> "$2"
		bad=1
	fi
	passed=$((passed + good))
	failed=$((failed + bad))
	skipped=$((skipped + left))
	echo "$1: $good passed, $bad failed$([ "$left" -eq 0 ] || echo ", $left skipped") ($((SECONDS - part_started)) s)"
	grep -iE '^(# *)?skip' "$2" | head -n 10
	if [ "$bad" -ne 0 ]; then
		# What failed, and what was said about it.
		grep -vE '^ok\b' "$2" | tail -n 400
	fi
}

part_layers()
{
	bash test/check_layers.sh
}

part_sql()
{
	if make -s check-sql; then
		echo "ok - ecstats--1.0.sql is what sql/ makes"
	else
		echo "not ok - ecstats--1.0.sql is what sql/ makes"
	fi
	# The install script loads in every encoding; an escape that nobody reads would be shown as it is.
	if ! LC_ALL=C grep -q '[^ -~	]' ecstats--1.0.sql && ! sed 's/--.*//' $(ls sql/*.sql | grep -vE '37_report_(recall_)?rows') |
		grep -v 'native_text' | LC_ALL=C grep '[^ -~	]'; then
		echo "ok - the install script is ASCII, and what is not is read by native_text"
	else
		echo "not ok - the install script is ASCII, and what is not is read by native_text"
	fi
	all_listed regress/sql sql regress
	all_listed isolation/specs spec isolation
}

# all_listed FOLDER SUFFIX PART: a test that no schedule names would never run.
all_listed()
{
	local file name missing=
	[ -f "test/$3/schedule" ] || return 0
	for file in "test/$1"/*."$2"; do
		name=$(basename "$file" ".$2")
		grep -v '^#' "test/$3/schedule" | grep -qw -- "$name" || missing="$missing $name"
	done
	echo "$([ -z "$missing" ] && echo ok || echo not ok) - every file of test/$1 is in the schedule$missing"
}

# The pure sources that a unit test is built from.
unit_sources()
{
	case $1 in
		cron_expr_test) echo src/cron_expr.c src/cron_search.c ;;
		template_test) echo src/template.c ;;
	esac
}

part_unit()
{
	local file name sources status log=$work/unit_run.log
	mkdir -p "$work/unit"
	for file in test/unit/*_test.c; do
		name=$(basename "$file" .c)
		sources=$(unit_sources "$name")
		# shellcheck disable=SC2086
		if ! cc -std=gnu99 -g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined \
			-Isrc -o "$work/unit/$name" "$file" $sources -lm > "$log" 2>&1; then
			echo "not ok - $name is built"
			sed 's/^/# /' "$log"
			continue
		fi
		(cd "$root" && UBSAN_OPTIONS=halt_on_error=1 "$work/unit/$name" > "$log" 2>&1)
		status=$?
		cat "$log"
		if [ "$status" -ne 0 ] && ! grep -q '^not ok' "$log"; then
			echo "not ok - $name ended with status $status"
		fi
	done
}

# regress_lines LOG: pg_regress's report as result lines; before 16 it is not TAP.
regress_lines()
{
	sed -nE \
		-e 's/^ *(ok|not ok) +[0-9]+ +[-+] +([A-Za-z0-9_-]+).*/\1 - \2/p' \
		-e 's/^(test| ) *([A-Za-z0-9_-]+) +\.\.\. ok .*/ok - \2/p' \
		-e 's/^(test| ) *([A-Za-z0-9_-]+) +\.\.\. FAILED.*/not ok - \2/p' "$1"
}

# run_regress PROGRAM FOLDER SUFFIX DATABASE NAMES…: the files of test/FOLDER, or the NAMES among them,
# in a copy, since results are written beside them.
run_regress()
{
	local program=$1 folder=$2 suffix=$3 database=$4 copy=$work/$2 status tests
	shift 4
	rm -rf "$copy"
	cp -r "test/$folder" "$copy"
	if [ $# -gt 0 ]; then
		tests=("$@")
	elif [ -f "$copy/schedule" ]; then
		tests=(--schedule="$copy/schedule")
	else
		# shellcheck disable=SC2207
		tests=($(cd "$copy" && ls -- */*."$suffix" 2> /dev/null | sed "s|.*/||; s|\.$suffix\$||"))
	fi
	[ ${#tests[@]} -gt 0 ] || { echo "skip $folder: there are no tests"; return 0; }
	"$program" --inputdir="$copy" --outputdir="$copy" --bindir="$bindir" --encoding=UTF8 \
		--dbname="$database" --max-concurrent-tests=2 "${tests[@]}" > "$copy/log" 2>&1
	status=$?
	regress_lines "$copy/log"
	if [ "$status" -ne 0 ]; then
		grep -qE 'FAILED|not ok' "$copy/log" || cat "$copy/log"
		[ ! -f "$copy/regression.diffs" ] || head -n 300 "$copy/regression.diffs"
	fi
	return "$status"
}

part_regress()
{
	# shellcheck disable=SC2086
	run_regress "$pgxs/src/test/regress/pg_regress" regress sql ecstats_regress ${REGRESS:-}
}

part_isolation()
{
	# shellcheck disable=SC2086
	run_regress "$pgxs/src/test/isolation/pg_isolation_regress" isolation spec ecstats_isolation ${ISOLATION:-}
}

# in_database NAME COMMAND…: runs it with PGDATABASE a new database that has the extension.
in_database()
{
	local name=$1 status
	shift
	psql -Xq -v ON_ERROR_STOP=1 -d postgres -c "CREATE DATABASE $name TEMPLATE template0 ENCODING 'UTF8'" &&
		psql -Xq -v ON_ERROR_STOP=1 -d "$name" -c "CREATE EXTENSION ecstats" || return 1
	PGDATABASE=$name "$@"
	status=$?
	psql -Xq -d postgres -c "DROP DATABASE $name"
	return "$status"
}

part_oracle()
{
	local file name status
	for file in test/oracle/*.py test/oracle/*.sh; do
		name=$(basename "$file")
		case $name in load_shared.*) continue ;; esac
		[ -f "$file" ] || continue
		[ -z "${ORACLE:-}" ] || [[ $name == $ORACLE ]] || continue
		case $name in
			*.py) in_database "ecstats_${name%.*}" /usr/bin/python3 "$file" ;;
			*.sh) in_database "ecstats_${name%.*}" bash "$file" ;;
		esac > "$work/oracle_run.log" 2>&1
		status=$?
		cat "$work/oracle_run.log"
		if [ "$status" -ne 0 ] && ! grep -q '^not ok' "$work/oracle_run.log"; then
			echo "not ok - $name ended with status $status"
		fi
	done
}

part_fuzz()
{
	bash test/fuzz/run.sh check
	in_database ecstats_fuzz /usr/bin/python3 test/fuzz/intake.py
	in_database ecstats_rules /usr/bin/python3 test/check_rules.py
}

part_pusher()
{
	bash test/pusher/run.sh
}

part_source()
{
	bash test/source/run.sh "$work/cluster/server.log"
}

part_cron()
{
	bash test/cron/pg_cron_test.sh
}

part_dump()
{
	bash test/dump/run.sh
}

part_crash()
{
	bash test/crash/run.sh
}

part_cdc()
{
	bash test/cdc/run.sh
}

part_clients()
{
	in_database ecstats_clients bash test/clients/run.sh
	in_database ecstats_files bash test/clients/files.sh
	in_database ecstats_bi bash test/clients/bi.sh
}

part_mysql()
{
	bash test/mysql/run.sh
}

part_encoding()
{
	/usr/bin/python3 test/encoding/run.py
}

# ------------------------------------------------------------------ set-up
EXTRAS=yes bash test/lib/setup.sh || exit 1
PG_CONFIG=$(find_pg) || exit 1
bindir=$("$PG_CONFIG" --bindir)
pgxs=$(dirname "$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")")
export PG_CONFIG PATH="$bindir:$PATH" PYTHONDONTWRITEBYTECODE=1
export ECSTATS_PUSHER="$root/pusher/ecstats-pusher" ECSTATS_SHARED="${ECSTATS_SHARED:-$root/../shared}"

work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/cluster"
[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$work/cluster"
# Failures are expected by the dozen: the server's log says which statement it was.
cluster_init "$work/cluster" postgres "fsync = off" "timezone = 'UTC'" "log_timezone = 'UTC'" || exit 1
cluster_start "$work/cluster" || exit 1
cluster_env "$work/cluster"

for part in $parts; do
	case $part in
		layers | sql | unit | fuzz | regress | isolation | oracle | pusher | source | cron | dump | crash | cdc | clients | mysql | encoding) ;;
		*) echo "there is no part $part"; failed=$((failed + 1)); continue ;;
	esac
	part_started=$SECONDS
	"part_$part" > "$work/$part.log" 2>&1
	count_lines "$part" "$work/$part.log" $?
done
[ "$failed" -eq 0 ]
