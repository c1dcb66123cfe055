#!/bin/bash
# Process tests of the pusher: prints "ok N - …" and "not ok N - …" lines, exits 1 if any failed.
# Needs a server with the extension installed, reached by PG* as a superuser. Everything is on
# 127.0.0.1. ECSTATS_PUSHER names the binary (default: the one that 'make' builds).
# ECSTATS_PUSHER_TESTS="test_paging test_sizes" selects.
set -u
here=$(cd "$(dirname "$0")" && pwd)
export ECSTATS_PUSHER=${ECSTATS_PUSHER:-$here/../../pusher/ecstats-pusher}
export ECSTATS_PUSHER_DB=ecstats_pusher_test_$$
export PGAPPNAME=ecstats-pusher-test PYTHONDONTWRITEBYTECODE=1
ECSTATS_PUSHER_WORK=$(mktemp -d)
export ECSTATS_PUSHER_WORK

finish()
{
	psql -Xq -d postgres -c "DROP DATABASE IF EXISTS $ECSTATS_PUSHER_DB (FORCE)" 2> /dev/null
	psql -Xq -d postgres -c "DROP DATABASE IF EXISTS ${ECSTATS_PUSHER_DB}_contract (FORCE)" 2> /dev/null
	rm -rf "$ECSTATS_PUSHER_WORK"
}
trap finish EXIT

fail()
{
	echo "not ok 1 - pusher: $1"
	exit 1
}

[ -x "$ECSTATS_PUSHER" ] || fail "there is no program at $ECSTATS_PUSHER"

# An authority of our own and a certificate for localhost.
cd "$ECSTATS_PUSHER_WORK" || exit 1
{
	openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj "/CN=test authority" &&
	openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/CN=localhost" &&
	printf 'subjectAltName=DNS:localhost\n' > server.ext &&
	openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem
} > openssl.log 2>&1 || { sed 's/^/# /' openssl.log; fail "openssl makes certificates"; }

psql -Xq -v ON_ERROR_STOP=1 -d postgres -c "CREATE DATABASE $ECSTATS_PUSHER_DB ENCODING 'UTF8' TEMPLATE template0" &&
	psql -Xq -v ON_ERROR_STOP=1 -d "$ECSTATS_PUSHER_DB" -c "CREATE EXTENSION ecstats" ||
	fail "a database with the extension can be made"

# The pure parts; these are silent unless something is wrong.
compile="cc -D_GNU_SOURCE -std=gnu99 -Wall -Wextra -Werror $(pkg-config --cflags libpq)"
source=$here/../../pusher
$compile -o address_test "$here/address_test.c" "$source/address.c" && ./address_test ||
	fail "address_test passes"
$compile -o text_test "$here/text_test.c" "$source/text.c" $(pkg-config --libs libpq) && ./text_test ||
	fail "text_test passes"
$compile $(pkg-config --cflags libcurl jansson) -fno-builtin -shared -fPIC -o faults.so "$here/faults.c" -ldl ||
	fail "faults.so can be built"

"${PYTHON:-/usr/bin/python3}" "$here/suite.py"
