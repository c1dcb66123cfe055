-- sql/27_activity_c.sql
-- Scores and cohorts from stored days. Nothing here writes, and settings are arguments.

-- Purpose:   the decayed score of users, in one pass over the stored days.
-- Arguments: as_of: the day of the scores; since (not later): first day of the range; window: days that count, as_of
--            included; half_life, in days; weights by event number (ecstats.event_names) from 1, NULL is 0; shares and
--            limits of the levels high and mid: the share of users with a higher score that there must be fewer of, or
--            the least score; NULL where the other one holds.
-- Result:    a row for each user with an event on a stored day from since, or from 14 days before the window of as_of,
--            to as_of: score (sum over the window of count x weight x 0.5 ^ (age in days / half_life)), the score of the
--            day before, both levels by ecstats.activity_levels' rule, last day with an event, days of the window with an
--            event, first day ever, last of the 15 days up to as_of on which the level was high, and whether an event is
--            on a day from since. By ascending ranges of users, in no particular order in them.
--            Equal histories have equal scores to the last bit.
-- Errors:    22003 counts that cannot be; 22023 a window, half-life or weight that cannot be, more than 400 stored days;
--            42501; 53200 more than config.rollup_memory; XX001 a corrupt block.
-- Touches:   reads ecstats.daily_kpi, user_day and first_seen_block, never raw rows.
CREATE OR REPLACE FUNCTION ecstats.score_scan(as_of date, since date, window_days int, half_life float8, weights numeric[], shares numeric[], limits float8[])
	RETURNS TABLE (user_id text, score float8, previous_score float8, level text, previous_level text, last_active_day date,
		active_days int, first_seen date, last_high_day date, in_range boolean)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000000 ROWS 100000
	AS 'MODULE_PATHNAME', 'ecstats_activity_scan';
COMMENT ON FUNCTION ecstats.score_scan(date, date, int, float8, numeric[], numeric[], float8[]) IS
	'Scores, levels and days of users as of a day, in one pass over stored days; settings are arguments. Errors: 22003, 22023, 42501, 53200 above config.rollup_memory, XX001.';

-- Purpose:   who came back.
-- Arguments: from_day, to_day (both inclusive).
-- Result:    for each stored day of the range and each age of 1, 7 and 30 days, the day that many days before it, if
--            users were first seen on it: how many, and how many of these have an event on the day of the range.
-- Errors:    22023 no such range, more than 400 stored days; 42501; 53200; XX001.
-- Touches:   reads ecstats.daily_kpi, user_day and first_seen_block.
CREATE OR REPLACE FUNCTION ecstats.activity_cohorts(from_day date, to_day date)
	RETURNS TABLE (cohort_day date, age_days int, cohort_size bigint, retained bigint)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 30
	AS 'MODULE_PATHNAME', 'ecstats_activity_cohorts';
COMMENT ON FUNCTION ecstats.activity_cohorts(date, date) IS
	'Users first seen 1, 7 and 30 days before the stored days of a range, and how many of them came back on it. Errors: 22023, 42501, 53200, XX001.';

