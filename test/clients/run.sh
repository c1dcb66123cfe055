#!/usr/bin/env bash
# Apps as they are: psycopg2, psycopg 3, node's pg and libpq write events and orders and read them back, with
# nothing installed at their side. Prints "ok - …", "not ok - …" and "skip …" lines.
# Runs in the database of PGDATABASE, which has the extension, on the server that PG* reaches as a superuser.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'clean_up' EXIT
trap 'exit 130' INT TERM
status=0
superuser=${PGUSER:-postgres}

clean_up()
{
	PGUSER=$superuser psql -Xq -c "SET client_min_messages = warning" -c "DROP OWNED BY ecstats_app" -c "DROP ROLE ecstats_app" > /dev/null 2>&1
	rm -rf "$work"
}

# run NAME COMMAND…: an app, whose lines are results; one that ends otherwise than it should is a failure.
run()
{
	local name=$1 log=$work/log ended=0
	shift
	PGUSER=ecstats_app "$@" > "$log" 2>&1 || ended=1
	cat "$log"
	if ! grep -qE '^(ok|not ok)' "$log" || { [ "$ended" -ne 0 ] && ! grep -q '^not ok' "$log"; }; then
		echo "not ok - clients: $name ran to its end"
		ended=1
	fi
	[ "$ended" -eq 0 ] || status=1
}

# find_node_pg: NODE_PATH is where node finds pg: Debian's package, or npm's.
find_node_pg()
{
	command -v node > /dev/null || return 1
	export NODE_PATH=/usr/share/nodejs
	node -e 'require("pg")' 2> /dev/null && return
	command -v npm > /dev/null || return 1
	timeout 120 npm install --prefix "$work/node" --prefer-offline --no-audit --no-fund --no-save --loglevel=error 'pg@8' > "$work/npm.log" 2>&1 || return 1
	NODE_PATH=$work/node/node_modules
}

if ! psql -Xq -v ON_ERROR_STOP=1 -f "$here/clients.sql" > "$work/log" 2>&1; then
	echo "not ok - clients: the database is made ready"
	sed 's/^/#   /' "$work/log"
	exit 1
fi

for name in psycopg2 psycopg; do
	if /usr/bin/python3 -c "import $name" 2> /dev/null; then
		run "$name" /usr/bin/python3 "$here/psycopg_test.py" "$name"
	else
		echo "skip clients: there is no $name (python3-$name)"
	fi
done

if find_node_pg; then
	run "node pg" node "$here/node_test.js"
else
	echo "skip clients: there is no node with pg, and npm could not bring it"
fi

# shellcheck disable=SC2046
if cc -std=gnu99 -Wall -Wextra -Werror -O1 -g -fsanitize=address,undefined $(pkg-config --cflags libpq) -o "$work/libpq_test" "$here/libpq_test.c" \
	$(pkg-config --libs libpq) > "$work/log" 2>&1; then
	run libpq env ASAN_OPTIONS=detect_leaks=0 "$work/libpq_test"
else
	echo "not ok - clients: libpq_test is built"
	sed 's/^/#   /' "$work/log"
	status=1
fi
exit "$status"
