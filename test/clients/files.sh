#!/usr/bin/env bash
# The lines of psql that doc/collect.md shows for files, run as they stand there, against files with everything
# that a format can mangle. In the database of PGDATABASE, which has the extension.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

ask()
{
	psql -XqAt -c "SET timezone = 'UTC'" -c "SET datestyle = 'ISO, YMD'" -c "$1"
}

# line FILE runs the documented line that names the file.
line()
{
	(cd "$work" && PGTZ=UTC bash -c "$(grep "^psql .*'$1'" "$root/doc/collect.md" | sed "s/-d shop/-d $PGDATABASE/")") 2>&1
}

is()
{
	if [ "$2" = "$3" ]; then
		echo "ok - files: $1"
	else
		printf 'not ok - files: %s\n#   got:  %s\n#   want: %s\n' "$1" "$2" "$3"
		status=1
	fi
}

cat > "$work/events.ndjson" << 'JSON'
{"event": "click", "timestamp": 1772400000, "user_id": "a\\b", "page_url": "/x?q=\"1\",2", "extra": {"path": "C:\\new\\tab", "uni": "\u00e9\u4e0a\ud83c\udf89", "raw": "é上🎉", "nl": "a\nb"}}
{"event": "click", "timestamp": "2026-03-02T10:00:00+08:00", "user_id": "o'neil \\N \\. $$"}
{"event": "Bad Name", "timestamp": 1772400000, "user_id": "c"}
{"event": "click", "timestamp": 1772400000, "user_id": "a\\b", "page_url": "/x?q=\"1\",2", "extra": {"path": "C:\\new\\tab", "uni": "\u00e9\u4e0a\ud83c\udf89", "raw": "é上🎉", "nl": "a\nb"}}
JSON
printf '\n' >> "$work/events.ndjson"
is "NDJSON of events: two stored; a repeat, a bad one and an empty line not" "$(line events.ndjson | tail -n 3 | tr -d ' \n')" "2(1row)"
is "NDJSON again: nothing new" "$(line events.ndjson | tail -n 3 | tr -d ' \n')" "0(1row)"
is "backslashes, quotes and Unicode arrive as they were sent" "$(ask "SELECT user_id, page_url, extra ->> 'path', extra ->> 'uni' = extra ->> 'raw', length(extra ->> 'nl') FROM ecstats.events WHERE event = 'click' ORDER BY user_id")" \
	'a\b|/x?q="1",2|C:\new\tab|t|3
o'"'"'neil \N \. $$||||'
is "the bad one waits among the rejects" "$(ask "SELECT DISTINCT payload ->> 'event' FROM ecstats.rejects")" "Bad Name"
printf '{"event": "login", "timestamp": %d, "user_id": "crlf"}\r\n' 1772400000 1772400001 > "$work/events.ndjson"
is "lines may end as Windows ends them" "$(line events.ndjson | tail -n 3 | tr -d ' \n')" "2(1row)"
printf '{"event": "click"\n' > "$work/events.ndjson"
is "a line that is no JSON is named" "$(line events.ndjson | grep -oE 'CONTEXT.*|COPY j, line 1' | grep -o 'COPY j, line 1')" "COPY j, line 1"

printf '{"event": "click", "timestamp": %d, "user_id": "now"}\n' "$(date +%s)" > "$work/events.ndjson"
line events.ndjson > /dev/null
is "a file makes no partition, for which everybody would wait until its end" \
	"$(ask "SELECT tableoid::regclass FROM ecstats.events WHERE user_id = 'now'")" "ecstats.events_default"

cat > "$work/orders.ndjson" << 'JSON'
{"order_id": "o\\1", "order_time": "2026-03-02T10:00:00+08:00", "region": "\u4e0a\u6d77", "items": [{"product_id": "p\"1\"", "quantity": 2, "amount": "10.10"}, {"product_id": "p2", "quantity": 1, "amount": 1}]}
{"order_id": "o2", "order_time": 1772400000, "items": [{"product_id": "p", "quantity": 0, "amount": 1}]}
JSON
is "NDJSON of orders" "$(line orders.ndjson | tail -n 3 | tr -d ' \n')" "2(1row)"
is "an order as it was sent" "$(ask "SELECT order_id, region, product_id, amount FROM ecstats.order_lines ORDER BY line_no")" 'o\1|上海|p"1"|10.10
o\1|上海|p2|1'

cat > "$work/events.csv" << 'CSV'
event_time,user_id,event,page_url,extra
2026-03-02 10:00:00+08,csv1,click,"/a,b?q=""x""","{""path"": ""C:\\new"", ""k"": ""é上🎉""}"
2026-03-02 02:00:00,csv2,click,,{}
"2026-03-02T10:00:00+08:00","csv3, jr.",click,"",{}
CSV
is "CSV with header, quotes and commas" "$(line events.csv)" "COPY 3"
is "each field as it was sent" "$(ask "SELECT user_id, event_time, page_url, extra ->> 'path', extra ->> 'k' FROM ecstats.events WHERE user_id LIKE 'csv%' ORDER BY user_id")" \
	'csv1|2026-03-02 02:00:00+00|/a,b?q="x"|C:\new|é上🎉
csv2|2026-03-02 02:00:00+00|||
csv3, jr.|2026-03-02 02:00:00+00|||'
printf 'event_time,user_id,event,page_url,extra\n2026-03-02 10:00:00+08,good,click,,{}\n2026-03-02 10:00:00+08,bad,CLICK,,{}\n' > "$work/events.csv"
is "a bad row refuses the file and is named" "$(line events.csv | grep -cE 'event has a character|COPY events, line 3') $(ask "SELECT count(*) FROM ecstats.events WHERE user_id = 'good'")" "2 0"

cat > "$work/events_with_ids.csv" << 'CSV'
event_time,user_id,event,event_id
2026-03-02 10:00:00+08,ids,click,00000000-0000-0000-0000-000000000001
2026-03-02 10:00:00+08,ids,click,00000000-0000-0000-0000-000000000002
2026-03-02 10:00:00+08,ids,click,00000000-0000-0000-0000-000000000001
CSV
line events_with_ids.csv > /dev/null
is "CSV with repeats, twice" "$(line events_with_ids.csv | tail -n 1) $(ask "SELECT count(*) FROM ecstats.events WHERE user_id = 'ids'")" "INSERT 0 0 2"

cat > "$work/order_lines.csv" << 'CSV'
order_id,line_no,order_time,user_id,product_id,region,channel,quantity,amount,status,paid_time
c1,1,2026-03-02 10:00:00+08,,p1,"上海, 浦东",app,1,9.90,paid,2026-03-02 10:01:00+08
c1,2,2026-03-02 10:00:00+08,u1,p2,unknown,unknown,1,0,placed,
CSV
is "CSV of order lines" "$(line order_lines.csv) $(ask "SELECT string_agg(coalesce(user_id, '-') || region || (paid_time IS NULL), ';' ORDER BY line_no) FROM ecstats.order_lines WHERE order_id = 'c1'")" "COPY 2 -上海, 浦东false;u1unknowntrue"
exit "$status"
