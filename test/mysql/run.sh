#!/usr/bin/env bash
# A source in MySQL: a private MariaDB on 127.0.0.1, mysql_fdw, and orders in MySQL's own types.
#
# Runs against the server of PGHOST, PGPORT, PGUSER (a superuser). Prints "ok …" lines and exits 1 on a
# failure; one line "skip …" where MariaDB or mysql_fdw are not there.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=../lib/cluster.sh
. "$root/test/lib/cluster.sh"
bindir=${bindir:-$("${PG_CONFIG:-pg_config}" --bindir)}
database=ecstats_mysql
failed=0

for program in mariadbd mariadb mariadb-install-db; do
	if ! PATH=$PATH:/usr/sbin command -v $program > /dev/null; then
		echo "skip mysql: there is no $program (Debian: mariadb-server-core, mariadb-client-core)"
		exit 0
	fi
done
if [ "$(psql -XAtq -c "SELECT count(*) FROM pg_available_extensions WHERE name = 'mysql_fdw'")" != 1 ]; then
	echo "skip mysql: this PostgreSQL has no mysql_fdw (Debian: postgresql-$(psql -XAtq -c "SELECT current_setting('server_version_num')::int / 10000")-mysql-fdw)"
	exit 0
fi

# ------------------------------------------------------------------ the guide's examples, as a newcomer types them
psql -Xq -d postgres -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $database" -c "CREATE DATABASE $database TEMPLATE template0 ENCODING 'UTF8'"
output=$(awk '/^```sql$/ { p = 1; next } /^```$/ { p = 0 } p' "$root/doc/source.md" |
	psql -Xq -v ON_ERROR_STOP=1 -d "$database" -c "CREATE EXTENSION ecstats" -f - 2>&1)
if [ $? -eq 0 ] && [ "$(psql -XAtq -d "$database" -c "SELECT count(*) FROM ecstats.order_lines")" = 2 ]; then
	echo "ok - mysql: the examples of doc/source.md run as they stand"
else
	echo "not ok - mysql: the examples of doc/source.md run as they stand"
	printf '%s\n' "$output" | tail -n 5 | sed 's/^/#   /'
	failed=1
fi
psql -Xq -d postgres -c "DROP DATABASE $database" -c "DROP ROLE IF EXISTS collector"

dir=$(mktemp -d /tmp/ecstats.XXXXXX)
[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$dir"
chmod 700 "$dir"
port=$(free_port)
password=$(/usr/bin/python3 -c 'import secrets; print(secrets.token_hex(16))')
maria_pid=

clean_up()
{
	[ -z "$maria_pid" ] || kill "$maria_pid" 2> /dev/null
	[ -z "$maria_pid" ] || wait "$maria_pid" 2> /dev/null
	psql -Xq -d postgres -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" -c "DROP ROLE IF EXISTS ecstats_mysql_owner" > /dev/null 2>&1
	rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# ok DESCRIPTION ACTUAL EXPECTED
ok()
{
	if [ "$2" = "$3" ]; then
		echo "ok - mysql: $1"
	else
		echo "not ok - mysql: $1"
		printf '%s\n' "$2" | sed 's/^/#   got:      /'
		printf '%s\n' "$3" | sed 's/^/#   expected: /'
		failed=1
	fi
}

q()
{
	psql -XAtq -v ON_ERROR_STOP=1 -d "$database" -c "$1" 2>&1
}

# m STATEMENT: in MariaDB, as its root over the private socket.
m()
{
	as_cluster_user mariadb --no-defaults --default-character-set=utf8mb4 --socket="$dir/s" --user=root -N -B -e "$1" 2>&1
}

# ------------------------------------------------------------------ the private server
PATH=$PATH:/usr/sbin
if ! as_cluster_user mariadb-install-db --no-defaults --datadir="$dir/data" --auth-root-authentication-method=normal \
	--skip-test-db > "$dir/install.log" 2>&1; then
	echo "not ok - mysql: a private MariaDB is made"
	tail -n 5 "$dir/install.log" | sed 's/^/#   /'
	exit 1
fi
# exec, so that the process that is waited for and stopped is the server's own
if [ "$(id -u)" -ne 0 ]; then
	(cd / && exec mariadbd --no-defaults --datadir="$dir/data" --socket="$dir/s" --port="$port" --bind-address=127.0.0.1 \
		--pid-file="$dir/pid" --innodb-flush-log-at-trx-commit=0 --default-time-zone=+00:00 > "$dir/log" 2>&1) &
else
	(cd / && exec setpriv --reuid="$(cluster_user)" --regid="$(id -g "$(cluster_user)")" --clear-groups mariadbd --no-defaults \
		--datadir="$dir/data" --socket="$dir/s" --port="$port" --bind-address=127.0.0.1 --pid-file="$dir/pid" \
		--innodb-flush-log-at-trx-commit=0 --default-time-zone=+00:00 > "$dir/log" 2>&1) &
fi
maria_pid=$!
deadline=$((SECONDS + 60))
until [ "$(m 'SELECT 1')" = 1 ]; do
	if [ $SECONDS -ge $deadline ] || ! kill -0 "$maria_pid" 2> /dev/null; then
		echo "not ok - mysql: a private MariaDB starts"
		tail -n 5 "$dir/log" | sed 's/^/#   /'
		exit 1
	fi
	sleep 0.2
done

# The clock of the server is UTC, the shop's is Shanghai's: a DATETIME says what the shop's clock said.
m "CREATE DATABASE shop CHARACTER SET utf8mb4;
   CREATE TABLE shop.orders (id BIGINT UNSIGNED NOT NULL, line TINYINT UNSIGNED NOT NULL, created_at DATETIME(3) NOT NULL, buyer INT UNSIGNED NULL,
	sku VARCHAR(64) NOT NULL, province VARCHAR(32) NULL, channel CHAR(10) NULL, qty TINYINT NOT NULL, total DECIMAL(12,2) NOT NULL,
	status ENUM('placed', 'paid', 'cancelled') NOT NULL, is_gift TINYINT(1) NOT NULL DEFAULT 0, paid_at DATETIME NULL, note VARCHAR(200) NULL, fee DOUBLE NULL,
	updated TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (id, line));
   INSERT INTO shop.orders (id, line, created_at, buyer, sku, province, channel, qty, total, status, is_gift, paid_at, note, fee, updated) VALUES
	(18446744073709551615, 1, '2026-03-01 00:00:00.000', 7, 'p1', '上海', 'app', 2, 19.90, 'paid', 1, '2026-03-01 00:00:01', 'for 👩‍👩‍👧 🎉 \"quoted\"', 0.1, '2026-03-01 01:00:00'),
	(18446744073709551615, 2, '2026-03-01 00:00:00.000', 7, 'p2', '上海', 'app', 1, 0.01, 'paid', 0, '2026-03-02 10:00:00', NULL, NULL, '2026-03-01 01:00:00'),
	(2, 1, '2026-03-01 23:59:59.999', NULL, 'p1', NULL, NULL, 1, 9999999999.99, 'placed', 0, NULL, '', NULL, '2026-03-01 01:00:00'),
	(3, 1, '2026-03-01 12:00:00.000', 8, 'p3', '北京', 'web', -1, -5.00, 'placed', 0, NULL, NULL, NULL, '2026-03-01 01:00:00'),
	(4, 1, '2026-02-28 23:59:59.999', 9, 'p1', NULL, NULL, 1, 1.00, 'placed', 0, NULL, NULL, NULL, '2026-03-01 01:00:00'),
	(5, 1, '2026-03-02 00:00:00.000', 9, 'p1', NULL, NULL, 1, 1.00, 'placed', 0, NULL, NULL, NULL, '2026-03-01 01:00:00');
   CREATE USER reader@'127.0.0.1' IDENTIFIED BY '$password';
   GRANT SELECT ON shop.* TO reader@'127.0.0.1';"

psql -Xq -v ON_ERROR_STOP=1 -d postgres -c "CREATE DATABASE $database TEMPLATE template0 ENCODING 'UTF8'" -c "CREATE ROLE ecstats_mysql_owner" || exit 1
q "CREATE EXTENSION ecstats; CREATE EXTENSION mysql_fdw;
   UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
   CREATE SCHEMA shop;
   CREATE SERVER shop FOREIGN DATA WRAPPER mysql_fdw OPTIONS (host '127.0.0.1', port '$port', init_command 'SET NAMES utf8mb4');
   CREATE USER MAPPING FOR ecstats_mysql_owner SERVER shop OPTIONS (username 'reader', password '$password');
   CREATE FOREIGN TABLE shop.orders (id numeric(20), line smallint, created_at timestamp, buyer bigint, sku text, province text, channel text, qty smallint,
	total numeric(12,2), status text, is_gift smallint, paid_at timestamp, note text, fee double precision, updated timestamp) SERVER shop OPTIONS (dbname 'shop', table_name 'orders');
   GRANT USAGE ON SCHEMA shop TO ecstats_mysql_owner; GRANT SELECT ON shop.orders TO ecstats_mysql_owner;
   CREATE VIEW shop.order_rows AS SELECT id AS order_id, line AS line_no, created_at AS order_time, buyer AS user_id, sku AS product_id, province AS region, channel,
	qty AS quantity, total AS amount, status, paid_at AS paid_time, is_gift, note, fee FROM shop.orders;
   ALTER VIEW shop.order_rows OWNER TO ecstats_mysql_owner;
   INSERT INTO ecstats.sources (name, target, owner, query) VALUES ('shop', 'orders', 'ecstats_mysql_owner', 'shop.order_rows');"

# ------------------------------------------------------------------ what is to be seen
ok "a day of a MySQL table is taken" "$(q "SELECT ecstats_collect('shop', '2026-03-01')")" 4
ok "BIGINT UNSIGNED, TINYINT, DECIMAL, CHAR, ENUM, NULLs and DATETIME by the shop's clock" \
	"$(q "SET timezone = 'Asia/Shanghai'; SELECT order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time FROM ecstats.order_lines ORDER BY 1, 2")" \
	"18446744073709551615|1|2026-03-01 00:00:00+08|7|p1|上海|app|2|19.90|paid|2026-03-01 00:00:01+08
18446744073709551615|2|2026-03-01 00:00:00+08|7|p2|上海|app|1|0.01|paid|2026-03-02 10:00:00+08
2|1|2026-03-01 23:59:59.999+08||p1|unknown|unknown|1|9999999999.99|placed|
3|1|2026-03-01 12:00:00+08|8|p3|北京|web|-1|-5.00|placed|"
ok "utf8mb4 with emoji, TINYINT(1), DOUBLE and an empty text are in extra" \
	"$(q "SELECT extra FROM ecstats.order_lines WHERE order_id IN ('2', '18446744073709551615') ORDER BY order_id, line_no")" \
	'{"fee": 0.1, "note": "for 👩‍👩‍👧 🎉 \"quoted\"", "is_gift": 1}
{"is_gift": 0}
{"note": "", "is_gift": 0}'
before=$(q "SELECT md5(string_agg(l::text || xmin::text, ',' ORDER BY order_id, line_no)) FROM ecstats.order_lines l")
ok "the same day again: as many rows" "$(q "SELECT ecstats_collect('shop', '2026-03-01')")" 4
ok "the same day again: nothing changed" "$(q "SELECT md5(string_agg(l::text || xmin::text, ',' ORDER BY order_id, line_no)) FROM ecstats.order_lines l")" "$before"

m "SET NAMES utf8mb4; INSERT INTO shop.orders (id, line, created_at, buyer, sku, qty, total, status) VALUES (6, 1, '2026-03-01 08:00:00', 7, 'p1', 1, 3.33, 'placed'), (7, 1, '2026-03-01 08:00:00', 7, 'p1', 0, 3.33, 'placed');
   UPDATE shop.orders SET status = 'cancelled' WHERE id = 2"
ok "late rows and changes arrive; a bad row is kept aside" "$(q "SELECT ecstats_collect('shop', '2026-03-01')")" 5
ok "the reject says why" "$(q "SELECT source, day, sqlstate, payload ->> 'order_id', reason FROM ecstats.rejects")" \
	"shop|2026-03-01|23514|7|quantity is 0. Item 1. Value: 0. Leave the line out; a return has a negative quantity."
ok "the changed status is here" "$(q "SELECT status FROM ecstats.order_lines WHERE order_id = '2'")" cancelled

q "UPDATE ecstats.sources SET watermark = NULL" > /dev/null
q "SELECT ecstats_collect('shop', d::date) FROM generate_series(date '2026-02-28', '2026-03-02', '1 day') d" > /dev/null
q "SELECT ecstats_daily('2026-03-02')" > /dev/null
ok "every day's figures are MySQL's own" \
	"$(q "SELECT day, trim_scale(gmv), order_count, quantity, trim_scale(paid_amount), trim_scale(refund_amount) FROM ecstats.daily_kpi WHERE day BETWEEN '2026-02-28' AND '2026-03-02' ORDER BY day" | tr '|' '\t')" \
	"$(m "SELECT d.day, TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM IFNULL(SUM(CASE WHEN qty > 0 AND DATE(created_at) = d.day THEN total END), 0.0))),
		COUNT(DISTINCT CASE WHEN qty > 0 AND DATE(created_at) = d.day THEN id END), IFNULL(SUM(CASE WHEN qty > 0 AND DATE(created_at) = d.day THEN qty END), 0),
		TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM IFNULL(SUM(CASE WHEN qty > 0 AND DATE(paid_at) = d.day THEN total END), 0.0))),
		TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM IFNULL(-SUM(CASE WHEN qty < 0 AND DATE(created_at) = d.day THEN total END), 0.0)))
		FROM (SELECT DATE('2026-02-28') AS day UNION ALL SELECT '2026-03-01' UNION ALL SELECT '2026-03-02') d LEFT JOIN shop.orders ON qty <> 0 GROUP BY d.day ORDER BY d.day")"
ok "the watermark has come to the last day's end" "$(q "SELECT watermark = ecstats.day_start('2026-03-03') FROM ecstats.sources")" t

q "UPDATE ecstats.sources SET query = 'SELECT id AS order_id, line AS line_no, created_at AS order_time, sku AS product_id, qty AS quantity, total AS amount FROM shop.orders WHERE created_at >= \$1 AND created_at < \$2 AND qty <> 0'"
ok "a SELECT with the day's bounds reads them by the shop's clock" "$(q "SELECT ecstats_collect('shop', '2026-03-02')")" 1
ok "the bounds of a relation are sent to MySQL" \
	"$(q "SET ROLE ecstats_mysql_owner; SET timezone = 'UTC'; EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM shop.orders WHERE created_at >= ('2026-03-01 00:00+08'::timestamptz AT TIME ZONE 'Asia/Shanghai')" | grep -c 'Remote query: .*WHERE.*created_at.*2026-03-01 00:00:00')" 1
q "UPDATE ecstats.sources SET query = 'SELECT id AS order_id, created_at AS order_time, sku AS product_id, qty AS quantity, total AS amount, sleep FROM shop.orders, LATERAL (SELECT pg_sleep(20)::text AS sleep) s', timeout = '200 ms'" > /dev/null
ok "the time-out holds for a foreign table too" "$(q "SELECT ecstats_collect('shop', '2026-03-01')" | head -n 1)" 'ERROR:  query of source "shop" was canceled by its time-out of 200 ms'
q "UPDATE ecstats.sources SET query = 'shop.order_rows', timeout = '1 min'; DROP USER MAPPING FOR ecstats_mysql_owner SERVER shop" > /dev/null
ok "without the owner's user mapping nothing is read" "$(q "SELECT ecstats_collect('shop', '2026-03-01')" | grep -c 'user mapping not found')" 1
exit $failed
