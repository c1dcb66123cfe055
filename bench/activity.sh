#!/usr/bin/env bash
# Measures how users are scored and tagged: ratios, both sides in one run. See README.md.
#
#   bash bench/activity.sh                       every part
#   BENCH="score tags" bash bench/activity.sh    some: score tags again memory growth history
#   USERS=20000 PAIRS=3 …                        fewer users; BENCH_SIZES="10000 40000" those of growth
#
# Ends with status 1 if a goal is missed.
set -uo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
USERS=${USERS:-500000}
BENCH_SIZES=${BENCH_SIZES:-50000 200000 1000000}

# load FIRST LAST USERS: the events and orders of these days, closed.
load()
{
	local d
	psql -Xq -v ON_ERROR_STOP=1 -f "$root/bench/activity.sql" && quiet "SELECT ecstats_prepare('$1', '$2')" || return 1
	for d in $(ask "SELECT date '$1' + i FROM generate_series(0, date '$2' - date '$1') i"); do
		quiet "CALL bench.load_events('$d', $3)" "CALL bench.load_lines('$d', $3)" || return 1
	done
	quiet CHECKPOINT "SELECT ecstats_daily('$2')" && settled ecstats.user_day ecstats.order_day
}

# plain_tables: what the other side needs, of the days that it has not yet.
plain_tables()
{
	quiet "INSERT INTO bench.my_event_types SELECT event, weight FROM ecstats.event_types ON CONFLICT DO NOTHING" \
		"INSERT INTO bench.my_user_daily SELECT * FROM ecstats.user_daily WHERE day NOT IN (SELECT day FROM bench.my_user_daily)" &&
		settled bench.my_event_types bench.my_user_daily
}

# keep: the day before the last is scored by both sides, its users are tagged; each run starts from there.
keep()
{
	quiet "CALL bench.forget_scores()" "TRUNCATE bench.my_score, bench.my_score_float" "$(ours "$before")" "SELECT ecstats.tag_write('$before')" \
		"$(plain "$before")" "$(plain_float "$before")" "CALL bench.keep()" "VACUUM bench.kept_activity, bench.kept_tags, bench.kept_score, bench.kept_score_float"
}

# ours DAY prints all that ecstats_score does but for the tags: scores, levels, profiles and buyers, quintiles, cohorts.
ours()
{
	echo "SELECT ecstats.activity_put_state('$1', clock_timestamp(), ecstats.pipeline_score_users('$1', ecstats.pipeline_score_since('$1'))), ecstats.activity_put_cohorts(ecstats.pipeline_score_since('$1'), '$1')"
}

# What a user of plain SQL would write, DAY: in numeric, as the weights are; and in float8.
plain()
{
	echo "INSERT INTO bench.my_score (user_id, as_of, score) SELECT d.user_id, '$1', sum(d.event_count * t.weight * power(0.5, (date '$1' - d.day) / 7.0))" \
		"FROM bench.my_user_daily d JOIN bench.my_event_types t ON t.event = d.event WHERE d.day > date '$1' - 7 AND d.day <= '$1' GROUP BY d.user_id" \
		"ON CONFLICT (user_id) DO UPDATE SET as_of = excluded.as_of, score = excluded.score"
}
plain_float()
{
	echo "INSERT INTO bench.my_score_float (user_id, as_of, score) SELECT d.user_id, '$1', sum(d.event_count * t.weight::float8 * power(0.5::float8, (date '$1' - d.day) / 7.0::float8))" \
		"FROM bench.my_user_daily d JOIN bench.my_event_types t ON t.event = d.event WHERE d.day > date '$1' - 7 AND d.day <= '$1' GROUP BY d.user_id" \
		"ON CONFLICT (user_id) DO UPDATE SET as_of = excluded.as_of, score = excluded.score"
}

# Each prints milliseconds. 'first' writes an empty table; 'next' writes where every score is of the day before.
run_ours_first()
{
	quiet "CALL bench.forget_scores()" CHECKPOINT && ours "$day" | total ecstats.user_day
}
scored_before() { quiet "CALL bench.restore()" && settled ecstats.user_activity ecstats.user_tags; }
run_ours_next()
{
	scored_before && ours "$day" | total ecstats.user_day ecstats.user_activity
}
run_whole_next()
{
	scored_before && echo "SELECT ecstats_score('$day')" | total ecstats.user_day ecstats.user_activity ecstats.user_tags
}
run_plain_first()
{
	quiet "TRUNCATE bench.my_score, bench.my_score_float" CHECKPOINT && "${1:-plain}" "$day" | total bench.my_user_daily
}
run_plain_next()
{
	local query=${1:-plain} table=bench.my_score
	[ "$query" = plain ] || table=bench.my_score_float
	quiet "CALL bench.restore_plain()" && settled "$table" || return 1
	"$query" "$day" | total bench.my_user_daily "$table"
}
run_float_first() { run_plain_first plain_float; }
run_float_next() { run_plain_next plain_float; }
run_roomy_next() { settings="-c work_mem=1GB" run_plain_next plain_float; }

# same_scores: fails unless ours are the plain ones, to a billionth. (Users without an event in the week have none there.)
same_scores()
{
	quiet "CALL bench.forget_scores()" "$(ours "$day")" "TRUNCATE bench.my_score, bench.my_score_float" "$(plain "$day")" "$(plain_float "$day")" || return 1
	local wrong
	wrong=$(ask "SELECT count(*) FROM ecstats.user_activity a FULL JOIN bench.my_score m ON m.user_id = a.user_id COLLATE \"default\"
			FULL JOIN bench.my_score_float f ON f.user_id = m.user_id
		WHERE (abs(a.score - coalesce(m.score, 0)) <= 1e-9 * greatest(a.score, 1)) IS NOT TRUE OR (abs(a.score - coalesce(f.score, 0)) <= 1e-9 * greatest(a.score, 1)) IS NOT TRUE")
	[ "$wrong" = 0 ] || { echo "not the same scores: $wrong users" >&2; return 1; }
}

part_score()
{
	same_scores || return 1
	pairs "scores of a new day, all change: plain SQL / ours, written" ">= 3" run_plain_next run_ours_next
	pairs "  into an empty table" ">= 3" run_plain_first run_ours_first
	pairs "  plain SQL in float8: all change" none run_float_next run_ours_next
	pairs "  plain SQL in float8: into an empty table" none run_float_first run_ours_first
	pairs "  plain SQL in float8, work_mem 1 GB: all change" none run_roomy_next run_ours_next
	pairs "  for comparison: plain SQL / the whole ecstats_score, tags too" none run_plain_next run_whole_next
}

# Every rule is judged for every user; who has a tag, and who has not any more, is written.
run_tags_next()
{
	scored_before && quiet "$(ours "$day")" && settled ecstats.user_activity || return 1
	echo "SELECT ecstats.tag_write('$day')" | total ecstats.user_activity ecstats.user_tags
}
run_tags_first()
{
	quiet "CALL bench.forget_scores()" "$(ours "$day")" && settled ecstats.user_activity || return 1
	echo "SELECT ecstats.tag_write('$day')" | total ecstats.user_activity
}

part_tags()
{
	local rules
	rules=$(ask "SELECT count(*) FROM ecstats.tag_rules WHERE enabled")
	[ "$rules" -eq 5 ] || { echo "$rules rules, not 5" >&2; return 1; }
	pairs "tagging all users by 5 rules / scoring: all change" "<= 2" run_tags_next run_ours_next
	pairs "  nobody had a tag or a score" "<= 2" run_tags_first run_ours_first
}

# written prints the rows that were written so far in each table of activity, and its dead ones.
written()
{
	ask "SELECT relname || ' ' || n_tup_ins || ' ' || n_tup_upd || ' ' || n_tup_del || ' ' || n_dead_tup FROM pg_stat_user_tables
		WHERE schemaname = 'ecstats' AND relname IN ('user_activity', 'user_tags', 'tag_daily', 'cohorts', 'activity_state', 'buyers', 'buyer_daily') ORDER BY 1"
}
run_again() { echo "SELECT ecstats_score('$day')" | total ecstats.user_day ecstats.user_activity ecstats.user_tags; }

part_again()
{
	quiet "CALL bench.forget_scores()" "SELECT ecstats_score('$day')" && settled ecstats.user_activity ecstats.user_tags || return 1
	# a session tells what it wrote when it ends
	written > "$work/written.before"
	run_again > /dev/null || return 1
	written > "$work/written.after"
	if [ -s "$work/written.before" ] && cmp -s "$work/written.before" "$work/written.after"; then
		printf '%-64s %6d  goal = 0  met\n' "rows written and left dead by a second run for the day" 0
	else
		printf '%-64s goal = 0  MISSED (inserted updated deleted dead)\n' "rows written and left dead by a second run for the day"
		diff "$work/written.before" "$work/written.after"
		missed=$((missed + 1))
	fi
	pairs "  its time / that of the run that changed all, tags too" none run_again_scored run_whole_next
}
run_again_scored()
{
	quiet "CALL bench.forget_scores()" "SELECT ecstats_score('$day')" && settled ecstats.user_activity ecstats.user_tags && run_again
}

part_growth()
{
	local size n
	for size in $BENCH_SIZES; do
		PGDATABASE=postgres quiet "CREATE DATABASE bench_$size" || return 1
		export PGDATABASE=bench_$size
		quiet "CREATE EXTENSION ecstats" "CREATE EXTENSION pg_prewarm" "UPDATE ecstats.config SET timezone = 'Asia/Shanghai'" &&
			load "$first" "$day" "$size" && keep || return 1
	done
	: > "$work/growth"
	: > "$work/growth_whole"
	for ((n = 0; n <= ${PAIRS:-5}; n++)); do
		for size in $BENCH_SIZES; do
			export PGDATABASE=bench_$size
			echo "$n $size $(run_ours_next)" >> "$work/growth"
			echo "$n $size $(run_whole_next)" >> "$work/growth_whole"
		done
	done
	exponent "users, scores" "<= 1.05" < "$work/growth"
	exponent "users, scores and tags" "<= 1.05" < "$work/growth_whole"
	for size in $BENCH_SIZES; do
		export PGDATABASE=bench_$size
		other
	done
}

# A score of the day needs the week, whether the level was high lately two weeks more: as in a shop that has run for long.
part_history()
{
	load "$(ask "SELECT date '$first' - 13")" "$(ask "SELECT date '$first' - 1")" "$USERS" && plain_tables && keep || return 1
	pairs "with 3 weeks stored, all change: plain SQL / ours, written" ">= 3" run_plain_next run_ours_next
	pairs "  plain SQL in float8, work_mem 1 GB" none run_roomy_next run_ours_next
	pairs "  tagging all users by 5 rules / scoring" "<= 2" run_tags_next run_ours_next
}

part_memory()
{
	local anew
	anew="CALL bench.forget_scores(); $(ours "$day")"
	/usr/bin/python3 "$root/bench/rollup_memory.py" "scoring $scored users into an empty table" "$scored" none "$anew" || missed=$((missed + 1))
	/usr/bin/python3 "$root/bench/rollup_memory.py" "the whole ecstats_score, all change" "$scored" none \
		"CALL bench.forget_scores(); $(ours "$before"); SELECT ecstats_score('$day')" || missed=$((missed + 1))
}

bench_begin "shared_buffers = 6GB" "timezone = 'Asia/Shanghai'"
export PGTZ=UTC
quiet "CREATE EXTENSION pg_prewarm" || exit 1
day=$(ask "SELECT ecstats_day() - 2")
before=$(ask "SELECT date '$day' - 1")
first=$(ask "SELECT date '$day' - 7")
load "$first" "$day" "$USERS" || exit 1
scored=$(ask "SELECT count(*) FROM ecstats.user_activity")
plain_tables && keep || exit 1
ask "SELECT format('%s users scored; in 7 days %s who came, %s days of users, %s rows of user_daily', $scored, count(DISTINCT user_id), count(DISTINCT (day, user_id)), count(*))
	FROM bench.my_user_daily WHERE day > date '$day' - 7"
for part in ${BENCH:-score tags again memory growth history}; do
	"part_$part" || { echo "$part could not be measured"; exit 1; }
done
[ "$missed" -eq 0 ]
