#!/usr/bin/env bash
# HTTP sources from end to end: ecstats_collect queues, the real pusher asks an API on 127.0.0.1 that pages,
# throttles, breaks off and lies about its length, the real ecstats.source_receive takes the answers in.
#
#   bash test/source/run.sh [SERVER_LOG]     SERVER_LOG: looked through for credentials
#
# Runs against the server of PGHOST, PGPORT, PGUSER (a superuser); ECSTATS_PUSHER names the binary. Prints "ok N - …"
# and "not ok N - …" lines, exits 1 if any failed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
export ECSTATS_PUSHER=${ECSTATS_PUSHER:-$here/../../pusher/ecstats-pusher}
export ECSTATS_PUSHER_DB=ecstats_source_test_$$ ECSTATS_PUSHER_PART=source ECSTATS_SERVER_LOG=${1:-}
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here/../pusher
ECSTATS_PUSHER_WORK=$(mktemp -d)
export ECSTATS_PUSHER_WORK

finish()
{
	psql -Xq -d postgres -c "DROP DATABASE IF EXISTS $ECSTATS_PUSHER_DB (FORCE)" \
		-c "DROP ROLE IF EXISTS ${ECSTATS_PUSHER_DB}_pusher, ${ECSTATS_PUSHER_DB}_operator" 2> /dev/null
	rm -rf "$ECSTATS_PUSHER_WORK"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ ! -x "$ECSTATS_PUSHER" ]; then
	echo "not ok 1 - source: there is no program at $ECSTATS_PUSHER"
	exit 1
fi
psql -Xq -v ON_ERROR_STOP=1 -d postgres -c "CREATE DATABASE $ECSTATS_PUSHER_DB ENCODING 'UTF8' TEMPLATE template0" &&
	psql -Xq -v ON_ERROR_STOP=1 -d "$ECSTATS_PUSHER_DB" -c "CREATE EXTENSION ecstats" \
		-c "CREATE ROLE ${ECSTATS_PUSHER_DB}_pusher LOGIN; CREATE ROLE ${ECSTATS_PUSHER_DB}_operator LOGIN" \
		-c "SELECT ecstats_grant('${ECSTATS_PUSHER_DB}_pusher', 'pusher'), ecstats_grant('${ECSTATS_PUSHER_DB}_operator', 'operator')" \
		> /dev/null ||
	{ echo "not ok 1 - source: a database with the extension and its roles can be made"; exit 1; }
"${PYTHON:-/usr/bin/python3}" "$here/suite.py"
