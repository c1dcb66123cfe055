/*
 * cron_search.c
 *		The next time a cron expression fires: a search that jumps from field to field. It runs on the
 *		wall clock; only its ends are translated.
 */
#include "cron_expr.h"

#define SECS_PER_DAY 86400

/* No zone is a day away from UTC: a local time lies less than this from its instant. */
#define ZONE_REACH 90000

static bool find_local(const CronExpr *expr, int64_t from, int64_t end, int64_t *found);
static bool find_day(const CronExpr *expr, int *day_number);
static bool find_time(const CronExpr *expr, int *second_of_day);
static uint32_t days_of_month(const CronExpr *expr, int year, int month);
static uint32_t weekday_days(const CronExpr *expr, int weekday_of_first, int length);
static int nearest_weekday(int day, int weekday_of_first, int length);
static int64_t local_to_instant(const CronZone *zone, int64_t local);
static int year_start(int year);
static int month_start(int year, int month);
static int next_bit(uint64_t bits, int from);

/*
 * ecstats_cron_expr_next finds the first instant strictly after 'after' at which the expression
 * fires in the zone. It returns false when there is none before the end of CRON_LAST_YEAR.
 *
 * Where the clock is put forward, a time in the gap fires at the first instant behind it. Where it is
 * put back, the repeated local times belong to the first pass; an expression with an interval in its
 * seconds, minutes or hours fires in the second pass too.
 */
bool
ecstats_cron_expr_next(const CronExpr *expr, const CronZone *zone, int64_t after, int64_t *next)
{
	const int64_t end = (int64_t) year_start(CRON_LAST_YEAR + 1) * SECS_PER_DAY;
	CronZoneChange before = {INT64_MIN, 0, 0}; /* the last change up to 'after' */
	CronZoneChange coming;
	int64_t from;
	int64_t found;
	bool more;

	if (after >= end + ZONE_REACH)
		return false;
	if (after < -ZONE_REACH)
		after = -ZONE_REACH;
	more = zone->next_change(zone->data, after - ZONE_REACH, &coming);
	while (more && coming.at <= after)
	{
		before = coming;
		more = zone->next_change(zone->data, coming.at, &coming);
	}
	from = after + coming.before + 1;

	if (before.at != INT64_MIN && from - 1 < before.at + before.before)
	{
		/* The second pass of a repeated time, for it was put back at most ZONE_REACH ago. */
		if (expr->interval && find_local(expr, from, before.at + before.before, &found))
		{
			*next = found - before.after;
			return true;
		}
		from = before.at + before.before;
	}
	else if (more && from - 1 >= coming.at + coming.after)
	{
		/* The first pass: its rest, then the second one from its start. */
		if (find_local(expr, from, coming.at + coming.before, &found))
		{
			*next = found - coming.before;
			return true;
		}
		from = coming.at + coming.after;
		if (expr->interval && find_local(expr, from, coming.at + coming.before, &found))
		{
			*next = found - coming.after;
			return true;
		}
		from = coming.at + coming.before;
	}
	if (!find_local(expr, from, end, &found))
		return false;
	if (from == after + coming.before + 1 && (!more || found - coming.before < coming.at))
		*next = found - coming.before; /* no change of the clock in between */
	else
		*next = local_to_instant(zone, found);
	return true;
}

/*
 * local_to_instant translates a local time: the first of two instants where the clock was put back,
 * the end of the gap where it was put forward.
 */
static int64_t
local_to_instant(const CronZone *zone, int64_t local)
{
	CronZoneChange change;
	int64_t at = local - ZONE_REACH;

	while (zone->next_change(zone->data, at, &change))
	{
		if (local - change.before < change.at)
			break;
		if (local - change.after < change.at)
			return change.at;
		at = change.at;
	}
	return local - change.before;
}

/*
 * find_local searches the wall clock from 'from' (inclusive) to 'end' (exclusive).
 */
static bool
find_local(const CronExpr *expr, int64_t from, int64_t end, int64_t *found)
{
	int day_number;
	int second = 0;

	if (from < 0)
		from = 0;
	if (from >= end)
		return false;
	day_number = (int) (from / SECS_PER_DAY);
	if (find_day(expr, &day_number))
	{
		if (day_number == from / SECS_PER_DAY)
		{
			second = (int) (from % SECS_PER_DAY);
			if (find_time(expr, &second))
			{
				*found = (int64_t) day_number * SECS_PER_DAY + second;
				return *found < end;
			}
			second = 0;
			day_number++;
			if (!find_day(expr, &day_number))
				return false;
		}
		find_time(expr, &second);
		*found = (int64_t) day_number * SECS_PER_DAY + second;
		return *found < end;
	}
	return false;
}

/*
 * find_day moves *day_number (days since 1970-01-01) to the first matching day from there on. It
 * visits only the months of the expression: at most 230 x 12 of them, each a few operations.
 */
static bool
find_day(const CronExpr *expr, int *day_number)
{
	int year = CRON_FIRST_YEAR + *day_number / 366;
	int month = 12;
	int day;

	if (*day_number >= year_start(year + 1))
		year++;
	if (year > CRON_LAST_YEAR)
		return false;
	while (month_start(year, month) > *day_number)
		month--;
	day = *day_number - month_start(year, month) + 1;
	for (; year <= CRON_LAST_YEAR; year++, month = 1, day = 1)
	{
		int n = year - CRON_FIRST_YEAR;
		int this_month;

		if ((expr->years[n / 64] >> (n % 64) & 1) == 0)
			continue;
		while ((this_month = next_bit(expr->values[CRON_MONTH], month)) >= 0)
		{
			int match;

			if (this_month > month)
				day = 1;
			match = next_bit(days_of_month(expr, year, this_month), day);
			if (match >= 0)
			{
				*day_number = month_start(year, this_month) + match - 1;
				return true;
			}
			month = this_month + 1;
			day = 1;
		}
	}
	return false;
}

/*
 * find_time moves *second_of_day to the first matching time from there on, or returns false when the
 * day has none left.
 */
static bool
find_time(const CronExpr *expr, int *second_of_day)
{
	const uint64_t *values = expr->values;
	int from_hour = *second_of_day / 3600;
	int from_minute = *second_of_day / 60 % 60;
	int hour = next_bit(values[CRON_HOUR], from_hour);
	int minute = -1;
	int second = -1;

	if (hour == from_hour)
	{
		minute = next_bit(values[CRON_MINUTE], from_minute);
		if (minute == from_minute)
		{
			second = next_bit(values[CRON_SECOND], *second_of_day % 60);
			if (second < 0)
				minute = next_bit(values[CRON_MINUTE], from_minute + 1);
		}
		if (minute < 0)
			hour = next_bit(values[CRON_HOUR], from_hour + 1);
	}
	if (hour < 0)
		return false;
	if (minute < 0)
		minute = next_bit(values[CRON_MINUTE], 0);
	if (second < 0)
		second = next_bit(values[CRON_SECOND], 0);
	*second_of_day = hour * 3600 + minute * 60 + second;
	return true;
}

/*
 * days_of_month makes the map of the days (bit 1 .. 31) on which the expression fires in a month.
 */
static uint32_t
days_of_month(const CronExpr *expr, int year, int month)
{
	int start = month_start(year, month);
	int length = (month == 12 ? year_start(year + 1) : month_start(year, month + 1)) - start;
	int weekday_of_first = (start + 4) % 7; /* 1970-01-01 was a Thursday */
	uint64_t all = (UINT64_C(2) << length) - 2;
	uint64_t days = expr->values[CRON_DAY] & all;
	uint64_t rest;
	uint32_t weekdays;

	for (rest = expr->last_days; rest != 0; rest &= rest - 1)
		if (__builtin_ctzll(rest) < length)
			days |= UINT64_C(1) << (length - __builtin_ctzll(rest));
	for (rest = expr->near_days & all; rest != 0; rest &= rest - 1)
		days |= UINT64_C(1) << nearest_weekday(__builtin_ctzll(rest), weekday_of_first, length);
	for (rest = expr->near_last_days; rest != 0; rest &= rest - 1)
		if (__builtin_ctzll(rest) < length)
			days |= UINT64_C(1) << nearest_weekday(length - __builtin_ctzll(rest), weekday_of_first,
												   length);
	weekdays = weekday_days(expr, weekday_of_first, length);
	if (expr->any_day || expr->any_weekday)
		return (uint32_t) days & weekdays;
	return (uint32_t) days | weekdays;
}

/*
 * weekday_days makes the map of the days (bit 1 .. length) that day of week alone selects.
 */
static uint32_t
weekday_days(const CronExpr *expr, int weekday_of_first, int length)
{
	uint64_t weekdays = expr->values[CRON_WEEKDAY];
	uint64_t special = expr->last_weekdays | expr->has_nth_weekdays;
	uint64_t week = (weekdays >> weekday_of_first | weekdays << (7 - weekday_of_first)) & 0x7f;
	uint64_t days = (week * UINT64_C(0x10204081)) << 1; /* five copies of the week */

	for (; special != 0; special &= special - 1)
	{
		int weekday = __builtin_ctzll(special);
		int day = 1 + (weekday - weekday_of_first + 7) % 7;
		int k;

		for (k = 1; day <= length; day += 7, k++)
		{
			if ((expr->nth_weekdays[weekday] >> k & 1) != 0)
				days |= UINT64_C(1) << day;
			if (day + 7 > length && (expr->last_weekdays >> weekday & 1) != 0)
				days |= UINT64_C(1) << day;
		}
	}
	return (uint32_t) (days & ((UINT64_C(2) << length) - 2));
}

/*
 * nearest_weekday moves a day that is a Saturday or Sunday to the weekday nearest to it in its month.
 */
static int
nearest_weekday(int day, int weekday_of_first, int length)
{
	switch ((weekday_of_first + day - 1) % 7)
	{
		case 0:
			return day < length ? day + 1 : day - 2;
		case 6:
			return day > 1 ? day - 1 : day + 2;
		default:
			return day;
	}
}

/*
 * year_start counts the days from 1970-01-01 to the first day of a year.
 */
static int
year_start(int year)
{
	int y = year - 1;

	return 365 * (year - 1970) + (y / 4 - y / 100 + y / 400) - 477;
}

/*
 * month_start counts the days from 1970-01-01 to the first day of a month.
 */
static int
month_start(int year, int month)
{
	static const short before[] = {0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return year_start(year) + before[month] + (leap && month > 2);
}

/*
 * next_bit returns the lowest bit that is set at or above 'from' (at most 63), or -1.
 */
static int
next_bit(uint64_t bits, int from)
{
	bits &= ~UINT64_C(0) << from;
	return bits == 0 ? -1 : __builtin_ctzll(bits);
}
