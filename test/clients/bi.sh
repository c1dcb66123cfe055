#!/usr/bin/env bash
# What doc/bi.md says, against the server: every name in it is there, every column of what it describes is described,
# every line of CSV and every query runs as it stands. In the database of PGDATABASE, which has the extension.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
doc=$root/doc/bi.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

ask()
{
	psql -XqAt -v ON_ERROR_STOP=1 "$@"
}

is()
{
	if [ "$2" = "$3" ]; then
		echo "ok - bi: $1"
	else
		printf 'not ok - bi: %s\n#   got:  %s\n#   want: %s\n' "$1" "$2" "$3"
		status=1
	fi
}

ask > /dev/null << 'SQL'
INSERT INTO ecstats.events (event_time, user_id, event) VALUES
	('2026-01-31 12:00+00', 'a', 'view_item'), ('2026-01-31 12:00+00', 'a', 'add_to_cart'), ('2026-01-31 12:00+00', 'b', 'view_item'), ('2026-02-01 12:00+00', 'b', 'view_item');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount)
	VALUES ('1', 1, '2026-01-31 12:00+00', 'a', 'p1', 2, 10.50), ('2', 1, '2026-02-01 12:00+00', 'a', 'p2', 1, 3);
SELECT ecstats_daily('2026-02-01');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-01-31 13:00+00', 'c', 'view_item');
SELECT ecstats_daily('2026-02-01');
SQL

names=$(grep -oE 'ecstats\.[a-z_]+' "$doc" | sort -u)
missing=
for name in $names; do
	# config and event_types are named with a column as well
	[ "$(ask -c "SELECT to_regclass('$name') IS NOT NULL")" = t ] || missing="$missing $name"
done
is "every relation that is named is there" "$missing" ""

missing=
for name in $(grep '^## ecstats\.' "$doc" | grep -oE 'ecstats\.[a-z_]+'); do
	[ "$(ask -c "SELECT to_regclass('$name') IS NOT NULL")" = t ] || continue
	for column in $(ask -c "SELECT attname FROM pg_attribute WHERE attrelid = '$name'::regclass AND attnum > 0 AND NOT attisdropped"); do
		grep -q "\`$column\`" "$doc" || missing="$missing $name.$column"
	done
	grep -q "FROM $name .*TO '${name#ecstats.}.csv'" "$doc" || missing="$missing $name's-CSV-line"
done
is "every column of what is described is described, and each has a line of CSV" "$missing" ""

undescribed=$(ask -c "SELECT string_agg(p.object, ' ') FROM ecstats.profile_privileges() p
	 WHERE p.profile = 'reader' AND p.kind = 'relation' AND p.object ~ '(^daily_|_daily\$|_kpi\$|^kpi_|^restatements\$)'
	   AND 'ecstats.' || p.object <> ALL ('{$(grep '^## ecstats\.' "$doc" | grep -oE 'ecstats\.[a-z_]+' | paste -sd,)}'::text[])")
is "every relation of figures that a reader may read is described" "$undescribed" ""

while IFS= read -r line; do
	file=$(sed -nE "s/.*TO '([a-z_]+)\.csv'.*/\1/p" <<< "$line")
	said=$(cd "$work" && bash -c "${line/-d shop/-X -v ON_ERROR_STOP=1 -d $PGDATABASE}" 2>&1)
	rows=$(tail -n +2 "$work/$file.csv" 2> /dev/null | wc -l)
	is "the line of CSV for $file writes what it says it copied" "$said, $([ "$rows" -gt 0 ] && echo some)" "COPY $rows, some"
done < <(grep '^psql .*\\copy' "$doc")
is "a CSV has a header and the figures" "$(sed -n 1,2p "$work/product_daily.csv" 2> /dev/null | tr '\n' ' ')" \
	"day,product_id,total_sold,total_revenue,refund_amount 2026-01-31,p1,2,10.50,0 "

# The queries, with Grafana's macros replaced as Grafana does; the roles are the lines before.
awk '/^```sql/ { inside = 1; next } /^```/ { inside = 0; print ";" } inside' "$doc" |
	sed "s/\\\$__timeFrom()/'2026-01-31T00:00:00Z'/; s/\\\$__timeTo()/'2026-02-01T23:00:00Z'/; s/grafana/ecstats_grafana/g" > "$work/queries.sql"
said=$(ask -c "SET timezone = 'UTC'" -f "$work/queries.sql" 2>&1)
is "the queries run" "$(grep -c 'ERROR' <<< "$said") errors, $(grep -cE '^2026-0[12]-[0-9]+ 00:00:00\+00' <<< "$said") days" "0 errors, 2 days"
ask -c "SELECT ecstats_revoke('ecstats_grafana', 'reader')" -c "DROP ROLE ecstats_grafana" > /dev/null
exit "$status"
