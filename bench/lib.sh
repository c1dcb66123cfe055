# Sourced: a private cluster to measure in, pairs of runs, ratios.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../test/lib/find_pg.sh
. "$root/test/lib/find_pg.sh"
# shellcheck source=../test/lib/cluster.sh
. "$root/test/lib/cluster.sh"
PG_CONFIG=$(find_pg) || exit 1
bindir=$("$PG_CONFIG" --bindir)
export PG_CONFIG PATH="$bindir:$PATH"
missed=0

# bench_begin [SETTING…]: makes and starts the cluster, with nothing in it that would write by itself, and
# database bench with the extension. It ends with the script.
bench_begin()
{
	work=$(mktemp -d "${BENCH_DIR:-/tmp}/ecstats_bench.XXXXXX")
	chmod 755 "$work"
	trap bench_end EXIT
	trap 'exit 130' INT TERM
	mkdir "$work/cluster"
	[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$work/cluster"
	cluster_init "$work/cluster" postgres "shared_buffers = 2GB" "max_wal_size = 16GB" "min_wal_size = 8GB" "wal_level = replica" "wal_buffers = 64MB" "checkpoint_timeout = 1h" \
		"fsync = off" "autovacuum = off" "jit = off" "timezone = 'UTC'" "log_timezone = 'UTC'" \
		"max_locks_per_transaction = 512" "$@" || exit 1
	cluster_start "$work/cluster" || exit 1
	cluster_env "$work/cluster"
	psql -Xqc "CREATE DATABASE bench" || exit 1
	export PGDATABASE=bench
	quiet "CREATE EXTENSION ecstats" "UPDATE ecstats.config SET timezone = 'Asia/Shanghai'" || exit 1
	echo "$(psql -XAtc 'SHOW server_version'), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
}

bench_end()
{
	cluster_stop "$work/cluster"
	rm -rf "$work"
}

# quiet STATEMENT…: runs them, each in a transaction of its own.
quiet()
{
	local statement args=()
	for statement in "$@"; do args+=(-c "$statement"); done
	PGOPTIONS="-c client_min_messages=warning" psql -Xq -v ON_ERROR_STOP=1 "${args[@]}" > /dev/null
}

# milliseconds STATEMENT…: how long the last one takes, as psql sees it.
milliseconds()
{
	local statement args=()
	for statement in "$@"; do args+=(-c "$statement"); done
	PGOPTIONS="-c client_min_messages=warning" psql -XqAt -v ON_ERROR_STOP=1 -c '\timing on' "${args[@]}" |
		sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail -n 1
}

# total [RELATION…]: how long the statements that it reads, one a line, take together, in one session; where on_processor
# is set, of processor time of its process. Before that the session reads the relations: the kernel maps pages of
# shared memory into a process one by one, when it uses them first.
total()
{
	local relation args=() scans="enable_indexscan enable_indexonlyscan enable_bitmapscan"
	for relation in $scans; do args+=(-c "SET $relation = off"); done
	args+=(-c "SET max_parallel_workers_per_gather = 0")
	for relation in "$@"; do args+=(-c "SELECT count(*) FROM $relation"); done
	for relation in $scans max_parallel_workers_per_gather; do args+=(-c "RESET $relation"); done
	sed 's/$/;/' | PGOPTIONS="-c client_min_messages=warning ${settings:-}" psql -XqAt -v ON_ERROR_STOP=1 "${args[@]}" \
		-c "$processor_used" -c '\timing on' -f - -c '\timing off' -c "$processor_used" |
		awk -v on_processor="${on_processor:-}" '/^processor / { before = after; after = $2; next } /^Time: [0-9.]+ ms/ { sum += $2 }
			END { if (before != "") print on_processor ? (after - before) / 1e6 : sum }'
}
processor_used="SELECT 'processor ' || split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)"

# processor STATEMENT prints the milliseconds of processor time that it takes of its session's process; unlike
# the clock's, they do not count what else the machine does.
processor()
{
	local used="SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)"
	PGOPTIONS="-c client_min_messages=warning" psql -XqAt -v ON_ERROR_STOP=1 -c "$used" -c "$1" -c "$used" |
		awk 'NR == 1 { before = $1 } { after = $1 } END { if (NR > 1) print (after - before) / 1e6 }'
}

# pairs TEXT GOAL A B: runs the commands A and B, which print a number each, by turns: a warm-up, then
# $PAIRS pairs. Prints the median of A / B, its range, and whether GOAL ("<= 1.10" or ">= 4") is met.
pairs()
{
	local text=$1 goal=$2 a=$3 b=$4 i one two list=$work/pairs
	: > "$list"
	for ((i = 0; i <= ${PAIRS:-5}; i++)); do
		one=$($a) && two=$($b) || return 1
		[ -n "$one" ] && [ -n "$two" ] || return 1
		[ -n "${VERBOSE:-}" ] && echo "#   $i: $one $two" >&2
		[ "$i" -eq 0 ] || echo "$one $two" >> "$list"
	done
	verdict "$text" "$goal" < "$list" || missed=$((missed + 1))
}

# verdict TEXT GOAL reads lines "A B" and judges the median of A / B; GOAL "none" is met by everything.
verdict()
{
	/usr/bin/python3 -c '
import statistics, sys
text, goal = sys.argv[1:]
rows = [tuple(map(float, line.split())) for line in sys.stdin]
ratios = [a / b for a, b in rows]
middle = statistics.median(ratios)
sign, _, wanted = goal.partition(" ")
met = goal == "none" or (middle <= float(wanted) if sign == "<=" else middle >= float(wanted))
judged = "" if goal == "none" else "goal %s  %s" % (goal, "met" if met else "MISSED")
print("%-64s %6.2f  (%.2f - %.2f)  %s   [%.4g : %.4g]" % (text, middle, min(ratios), max(ratios), judged, statistics.median(a for a, b in rows), statistics.median(b for a, b in rows)))
sys.exit(not met)' "$@"
}

# ask STATEMENT prints its rows.
ask()
{
	PGOPTIONS="-c client_min_messages=warning ${settings:-}" psql -XqAt -v ON_ERROR_STOP=1 -c "$1"
}

# other: back to the day's database; the current one goes.
other()
{
	local gone=$PGDATABASE
	export PGDATABASE=bench
	quiet "DROP DATABASE $gone"
}

# settled TABLE…: vacuumed, analyzed and in memory.
settled()
{
	local table
	for table in "$@"; do
		quiet "VACUUM (ANALYZE) $table" "SELECT pg_prewarm('$table')" || return 1
	done
	quiet CHECKPOINT
}

# exponent OF GOAL reads lines "PAIR SIZE MILLISECONDS": the exponent of time over size, a straight line through the
# logarithms of the medians; pair 0 is the warm-up.
exponent()
{
	/usr/bin/python3 -c '
import math, statistics, sys
of, goal = sys.argv[1:]
times = {}
for line in sys.stdin:
    pair, size, took = map(float, line.split())
    if pair > 0:
        times.setdefault(size, []).append(took)
points = [(math.log(size), math.log(statistics.median(took))) for size, took in times.items()]
x = statistics.mean(p[0] for p in points)
y = statistics.mean(p[1] for p in points)
slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, b in points)
met = slope <= float(goal.split()[1])
print("%-64s %6.2f  goal %s  %s   [%s]" % ("exponent of %s %s" % (" to ".join("%g" % s for s in (min(times), max(times))), of), slope, goal,
      "met" if met else "MISSED", ", ".join("%g: %.0f ms" % (s, statistics.median(t)) for s, t in times.items())))
sys.exit(not met)' "$@" || missed=$((missed + 1))
}
