#!/usr/bin/env bash
# Holds the source against the rules of its rooms: who may include, name or write what. Prints a result
# line a rule; then plants a breach of each in a copy and sees it found.
#
#   bash test/check_layers.sh            the project
#   bash test/check_layers.sh DIR        another tree, rules alone
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

# The areas, by the first word of a file's name behind its number. template, cron and hmac are engines
# that any area may call: they own no table.
area_of()
{
	case $1 in
		event | order | source | rollup | job | report | activity) echo "$1" ;;
		channel | delivery) echo delivery ;;
	esac
}
# Area: the words that its functions begin with.
declare -A prefixes=(
	[event]="event" [order]="order" [source]="source" [rollup]="rollup" [job]="job" [report]="report" [activity]="activity|score|tag"
	[delivery]="channel|delivery|pusher"
)
# rollup_days is how areas to the right of the rollup read what it stored.
shared_headers='ecstats|errors|compat|jsonb_get|intake_text|rollup_days'

# strip FROM TO: a copy of the sources without comments. What follows looks at that.
strip()
{
	local file
	mkdir -p "$2/src" "$2/pusher" "$2/sql"
	cp "$1/Makefile" "$2"
	for file in $(cd "$1" && echo src/*.[ch] pusher/*.[ch]); do
		gcc -fpreprocessed -dD -E -P -x c "$1/$file" > "$2/$file" 2> /dev/null || cp "$1/$file" "$2/$file"
	done
	for file in $(cd "$1" && echo sql/*.sql); do
		sed -E -e 's/--.*$//' -e '/^COMMENT ON .*;[[:space:]]*$/d' -e '/^COMMENT ON /,/;[[:space:]]*$/d' "$1/$file" > "$2/$file"
	done
}

# found PATTERN FILE…: the lines that match, with their file.
found()
{
	grep -HE -- "$@"
}

rule_server_links_nothing()
{
	found '#include[[:space:]]*[<"](libpq-fe|libpq/|curl/|jansson|sys/socket|netinet/|arpa/|netdb)|\b(socket|connect|getaddrinfo)[[:space:]]*\(' src/*.[ch]
}

# A header of this project that is neither shared nor of the file's own area.
rule_own_headers()
{
	local file area header
	grep -oE '^#include[[:space:]]*"[a-z_]+\.h"' src/*.c | sed -E 's/:.*"([a-z_]+)\.h"/ \1/' |
		while read -r file header; do
			area=$(basename "$file" .c)
			[ ! -f "src/$header.h" ] || [[ $header =~ ^($shared_headers)$ ]] ||
				[ "${header%%_*}" = "${area%%_*}" ] || echo "$file includes $header.h"
		done
}

rule_one_version_place()
{
	found 'PG_VERSION_NUM|PG_MAJORVERSION' src/*.[ch] | grep -v '^src/compat\.h:'
}

rule_pure_engines()
{
	found '#include[[:space:]]*[<"](postgres|fmgr|executor|catalog|utils)|\b(GetCurrentTimestamp|SPI_[a-z]+|time|gettimeofday|clock_gettime)[[:space:]]*\(' \
		src/cron_expr.[ch] src/cron_search.c src/template.[ch] src/intake_text.[ch]
}

rule_no_clock_in_checks()
{
	found '\b(GetCurrentTimestamp|GetCurrentTransactionStartTimestamp|SPI_[a-z]+)[[:space:]]*\(' src/cron*.c src/template*.c
}

rule_pusher_carries_only()
{
	local tables
	tables=$(tables_of sql/*.sql | paste -sd '|')
	found '#include[[:space:]]*[<"]((postgres|postgres_fe|fmgr|c)\.h|(access|catalog|executor|nodes|server|storage|utils)/)' pusher/*.[ch]
	found "\\becstats\\.($tables)\\b|\"(pending|sending|sent|dead|expired|cancelled)\"" pusher/*.[ch]
}

# tables_of PIECE… prints the tables that they create.
tables_of()
{
	grep -hoE '^CREATE TABLE ecstats\.[a-z_]+' "$@" | sed 's/.*\.//'
}

# Each piece 40 to 49 against the tables and functions of every area that is not its own.
rule_areas_apart()
{
	local file word own area all list theirs
	local -A tables=()
	for file in sql/3[0-9]_*.sql; do
		word=$(basename "$file" .sql)
		word=${word#*_}
		area=$(area_of "${word%%_*}")
		[ -z "$area" ] || tables[$area]+=" $(tables_of "$file" | paste -sd ' ')"
	done
	all=$(tables_of sql/*.sql | paste -sd '|')
	for file in sql/4[0-9]_*.sql; do
		word=$(basename "$file" .sql)
		word=${word#*_}
		own=$(area_of "${word%%_*}")
		[ -n "$own" ] || { echo "$file belongs to no area"; continue; }
		for area in "${!prefixes[@]}"; do
			[ "$area" != "$own" ] || continue
			read -ra list <<< "${tables[$area]:-}"
			theirs=$(IFS='|' && echo "${list[*]}")
			found "\\b(INSERT INTO|UPDATE|DELETE FROM|MERGE INTO|TRUNCATE)( TABLE)?( ONLY)? ecstats\\.(${theirs:-no table})\\b" "$file"
			# A table before a list of columns looks like a function.
			found "\\becstats\\.(${prefixes[$area]})_[a-z_0-9]+[[:space:]]*\\(" "$file" | grep -vE "INTO ecstats\\.($all)\\b"
		done
	done
}

# What it hints at in a string, it does not do.
rule_status_reads()
{
	found "(^|[^'])\\b(INSERT INTO|UPDATE|DELETE FROM|MERGE INTO|TRUNCATE)( TABLE)?( ONLY)? ecstats\\." sql/60_status.sql
}

rule_no_wildcard()
{
	local file
	found 'wildcard[^)]*\.(sql|c)\b' Makefile
	for file in sql/*.sql src/*.c; do
		grep -qF -- "${file%.c}" Makefile || echo "$file is not in the Makefile"
	done
}

declare -A rules=(
	[server_links_nothing]="the extension includes no client library and opens no socket"
	[own_headers]="an area's C includes the shared headers and its own"
	[one_version_place]="PostgreSQL's version is looked at in compat.h alone"
	[pure_engines]="the cron and template engines and the reading of texts know no server"
	[no_clock_in_checks]="cron and template code reads neither clock nor SPI"
	[pusher_carries_only]="the pusher includes no server header and names no table and no state"
	[areas_apart]="an area's SQL writes its own tables and calls its own functions"
	[status_reads]="status writes nothing"
	[no_wildcard]="the Makefile lists every piece and source, without a wildcard"
)

# check_tree DIR prints a line a rule and fails if one is broken.
check_tree()
{
	local rule status=0
	mkdir "$work/tree"
	strip "$1" "$work/tree"
	cd "$work/tree" || return 1
	for rule in $(printf '%s\n' "${!rules[@]}" | sort); do
		"rule_$rule" > "$work/tree.$rule" 2>&1
		if [ ! -s "$work/tree.$rule" ]; then
			echo "ok - layers: ${rules[$rule]}"
		else
			echo "not ok - layers: ${rules[$rule]}"
			head -n 20 "$work/tree.$rule" | sed 's/^/#   /'
			status=1
		fi
	done
	return "$status"
}

# The breaches to find: rule, file, what is written at its end.
breaches=(
	'server_links_nothing src/event.c #include <curl/curl.h>'
	'server_links_nothing src/hmac.c #include "libpq-fe.h"'
	'server_links_nothing src/day.c int f(void) { return socket(1, 2, 3); }'
	'own_headers src/event.c #include "order.h"'
	'own_headers src/rollup_user.c #include "event.h"'
	'one_version_place src/rollup.c #if PG_VERSION_NUM >= 160000'
	'pure_engines src/cron_expr.c #include "postgres.h"'
	'pure_engines src/template.c void f(void) { SPI_connect(); }'
	'no_clock_in_checks src/template_jsonb.c TimestampTz f(void) { return GetCurrentTimestamp(); }'
	'pusher_carries_only pusher/delivery.c #include "postgres.h"'
	'pusher_carries_only pusher/pgconn.c const char *q = "SELECT id FROM ecstats.deliveries";'
	'pusher_carries_only pusher/http.c const char *state = "dead";'
	'areas_apart sql/42_order.sql INSERT INTO ecstats.daily_kpi (day) VALUES (now());'
	'areas_apart sql/42_source.sql INSERT INTO ecstats.order_lines (order_id) VALUES (1);'
	'areas_apart sql/43_rollup.sql SELECT ecstats.event_partition_make(d);'
	'areas_apart sql/44_job.sql SELECT ecstats.delivery_enqueue();'
	'areas_apart sql/47_delivery.sql UPDATE ecstats.jobs SET enabled = false;'
	'status_reads sql/60_status.sql DELETE FROM ecstats.deliveries;'
	'no_wildcard sql/99_new.sql SELECT 1;'
)

# check_checks plants them all in a copy: every rule must name the file, which it does not without.
check_checks()
{
	local breach rule file text missed=0
	cp -r "$work/tree" "$work/planted"
	for breach in "${breaches[@]}"; do
		read -r rule file text <<< "$breach"
		printf '\n%s\n' "$text" >> "$work/planted/$file"
	done
	for rule in "${!rules[@]}"; do
		(cd "$work/planted" && "rule_$rule") > "$work/found.$rule"
	done
	for breach in "${breaches[@]}"; do
		read -r rule file text <<< "$breach"
		if grep -q -- "^$file" "$work/found.$rule" && ! grep -q -- "^$file" "$work/tree.$rule"; then
			echo "ok - layers: a breach of $rule in $file is found"
		else
			echo "not ok - layers: a breach of $rule in $file is found: $text"
			missed=1
		fi
	done
	return "$missed"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(check_tree "${1:-$root}")
status=$?
if [ $# -eq 0 ]; then
	check_checks || status=1
fi
exit "$status"
