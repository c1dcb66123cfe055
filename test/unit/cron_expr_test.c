/*
 * cron_expr_test.c
 *		Holds the cron engine against plain tables, a slow reference and its own promises.
 *
 * cc -std=gnu99 -Wall -Wextra -Werror -Isrc test/unit/cron_expr_test.c src/cron_expr.c
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cron_expr.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int tests;
static int failures;

static void
ok(bool good, const char *what, const char *detail)
{
	tests++;
	if (!good)
		failures++;
	printf("%s %d - %s%s%s\n", good ? "ok" : "not ok", tests, what, *detail ? ": " : "", detail);
}

/* A zone of the test: offsets that change at given instants, the first one holds from the start. */
typedef struct TestZone
{
	int changes;
	CronZoneChange change[4];
	int32_t only; /* the offset of a zone without changes */
} TestZone;

static bool
test_next_change(const void *data, int64_t instant, CronZoneChange *change)
{
	const TestZone *zone = data;
	int i;

	for (i = 0; i < zone->changes; i++)
	{
		if (zone->change[i].at > instant)
		{
			*change = zone->change[i];
			return true;
		}
	}
	change->before = zone->changes > 0 ? zone->change[zone->changes - 1].after : zone->only;
	return false;
}

static const TestZone utc_rules = {0, {{0, 0, 0}}, 0};
static const CronZone utc = {test_next_change, &utc_rules};

/* New York in 2016: forward on 13 March at 02:00, back on 6 November at 02:00. */
static const TestZone new_york_rules = {
	2, {{INT64_C(1457852400), -18000, -14400}, {INT64_C(1478412000), -14400, -18000}}, 0};
static const CronZone new_york = {test_next_change, &new_york_rules};

/* Apia skipped 30 December 2011 altogether. */
static const TestZone apia_rules = {1, {{INT64_C(1325239200), -36000, 50400}}, 0};
static const CronZone apia = {test_next_change, &apia_rules};

static int64_t
instant(const char *text)
{
	struct tm tm = {0};

	if (strptime(text, "%Y-%m-%d %H:%M:%S", &tm) == NULL)
		abort();
	return timegm(&tm);
}

static const char *
shown(int64_t at)
{
	static char buffer[40];
	time_t t = at;
	struct tm tm;

	strftime(buffer, sizeof(buffer), "%Y-%m-%d %H:%M:%S", gmtime_r(&t, &tm));
	return buffer;
}

/* Instants are UTC; an empty 'next' says never. */
static const struct
{
	const char *expr;
	const CronZone *zone;
	const char *after;
	const char *next;
} nexts[] = {
	{"30 9 * * 1-5", &utc, "2026-11-20 09:30:00", "2026-11-23 09:30:00"},
	{"0 0 13 * 5", &utc, "2026-11-24 00:00:00", "2026-11-27 00:00:00"},
	{"0 0 */10 * 0", &utc, "2026-11-24 00:00:00", "2027-01-31 00:00:00"},
	{"0 0 * * 7-2", &utc, "2026-11-24 00:00:00", "2026-11-29 00:00:00"},
	{"0 0 * * 7/2", &utc, "2026-11-24 00:00:00", "2026-11-29 00:00:00"},
	{"0 0 29 2 *", &utc, "2096-03-01 00:00:00", "2104-02-29 00:00:00"},
	{"0 0 30 2 *", &utc, "2026-11-24 00:00:00", ""},
	{"0 0 0 30 2 ?", &utc, "1970-01-01 00:00:00", ""},
	{"0 0 0 30W 2 ?", &utc, "1970-01-01 00:00:00", ""},
	{"0 0 0 L-30 2,4 ?", &utc, "1970-01-01 00:00:00", ""},
	{"0 0 0 ? 2 2#5 2027", &utc, "1970-01-01 00:00:00", ""},
	{"* * * * * ?", &utc, "2199-12-31 23:59:58", "2199-12-31 23:59:59"},
	{"* * * * * ?", &utc, "2199-12-31 23:59:59", ""},
	{"* * * * * ?", &utc, "1900-01-01 00:00:00", "1970-01-01 00:00:00"},
	{"0 0 9 1 1 ? 2027,2030", &utc, "2027-01-01 09:00:00", "2030-01-01 09:00:00"},
	{"0 0 9 1 1 ? 2027/4", &utc, "2027-01-01 09:00:00", "2031-01-01 09:00:00"},
	{"0 0 0 LW * ?", &utc, "2026-10-01 00:00:00", "2026-10-30 00:00:00"},
	{"0 0 0 1W * ?", &utc, "2026-08-01 00:00:00", "2026-08-03 00:00:00"},
	{"0 0 0 31W * ?", &utc, "2020-04-01 00:00:00", "2020-05-29 00:00:00"},
	{"0 0 0 ? * L", &utc, "2026-11-24 00:00:00", "2026-11-28 00:00:00"},
	{"0 0 0 ? * 6L", &utc, "2026-11-24 00:00:00", "2026-11-27 00:00:00"},
	{"@weekly", &utc, "2026-11-24 00:00:00", "2026-11-29 00:00:00"},
	{"@Yearly", &utc, "2026-11-24 00:00:00", "2027-01-01 00:00:00"},
	/* the gap: at its end, once, also asked from the second before */
	{"30 2 * * *", &new_york, "2016-03-12 12:00:00", "2016-03-13 07:00:00"},
	{"30 2 * * *", &new_york, "2016-03-13 06:59:59", "2016-03-13 07:00:00"},
	{"30 2 * * *", &new_york, "2016-03-13 07:00:00", "2016-03-14 06:30:00"},
	{"*/30 2 * * *", &new_york, "2016-03-13 07:00:00", "2016-03-14 06:00:00"},
	/* the repeated hour: a fixed time at its first pass, an interval in both */
	{"30 1 * * *", &new_york, "2016-11-06 05:00:00", "2016-11-06 05:30:00"},
	{"30 1 * * *", &new_york, "2016-11-06 05:30:00", "2016-11-07 06:30:00"},
	{"30 1 * * *", &new_york, "2016-11-06 06:10:00", "2016-11-07 06:30:00"},
	{"30 * * * *", &new_york, "2016-11-06 05:30:00", "2016-11-06 06:30:00"},
	{"30 * * * *", &new_york, "2016-11-06 06:30:00", "2016-11-06 07:30:00"},
	{"0 2 * * *", &new_york, "2016-11-06 05:59:59", "2016-11-06 07:00:00"},
	{"0 12 30 12 *", &apia, "2011-12-29 12:00:00", "2011-12-30 10:00:00"},
	{"0 12 31 12 *", &apia, "2011-12-30 10:00:00", "2011-12-30 22:00:00"},
};

static void
test_nexts(void)
{
	size_t i;

	for (i = 0; i < COUNT(nexts); i++)
	{
		CronExpr expr;
		CronError error;
		int64_t next;
		char what[120];
		bool found;

		snprintf(what, sizeof(what), "\"%s\" after %s", nexts[i].expr, nexts[i].after);
		if (!ecstats_cron_expr_parse(nexts[i].expr, strlen(nexts[i].expr), &expr, &error))
		{
			ok(false, what, error.reason);
			continue;
		}
		found = ecstats_cron_expr_next(&expr, nexts[i].zone, instant(nexts[i].after), &next);
		if (*nexts[i].next == '\0')
			ok(!found, what, found ? shown(next) : "never");
		else
			ok(found && next == instant(nexts[i].next), what, found ? shown(next) : "never");
	}
}

static const struct
{
	const char *expr;
	CronField field;
	size_t offset;
} errors[] = {
	{"", CRON_WHOLE, 0},
	{"* * * *", CRON_WHOLE, 7},
	{"* * * * * ? * *", CRON_WHOLE, 14},
	{"@dailyy", CRON_WHOLE, 0},
	{"60 * * * *", CRON_MINUTE, 0},
	{"* 1,24 * * *", CRON_HOUR, 4},
	{"*/60 * * * *", CRON_MINUTE, 2},
	{"1/0 * * * *", CRON_MINUTE, 2},
	{"5- * * * *", CRON_MINUTE, 2},
	{",1 * * * *", CRON_MINUTE, 0},
	{"1, * * * *", CRON_MINUTE, 2},
	{"1k * * * *", CRON_MINUTE, 1},
	{"? * * * *", CRON_MINUTE, 0},
	{"99999999999999999999 9 * * *", CRON_MINUTE, 0},
	{"* * 1,2W * *", CRON_DAY, 7},
	{"* * 1-5W * *", CRON_DAY, 7},
	{"* * L-31 * *", CRON_DAY, 6},
	{"* * ?,1 * *", CRON_DAY, 5},
	{"* * * FEBR *", CRON_MONTH, 9},
	{"* * * * MONDAY", CRON_WEEKDAY, 11},
	{"* * * * L", CRON_WEEKDAY, 8},
	{"* * * * 1#6", CRON_WEEKDAY, 10},
	{"* * * * * *", CRON_WEEKDAY, 10},
	{"* * * ? * ?", CRON_WEEKDAY, 10},
	{"* * * ? * 0", CRON_WEEKDAY, 10},
	{"* * * ? * 6,7L", CRON_WEEKDAY, 13},
	{"* * * ? * MON-FRI#1", CRON_WEEKDAY, 17},
	{"* * * * * ? 1969", CRON_YEAR, 12},
	{"* * * * * ? 2030-2020", CRON_YEAR, 12},
};

static void
test_errors(void)
{
	char longest[CRON_MAX_LENGTH + 2];
	CronExpr expr;
	CronError error;
	size_t i;

	for (i = 0; i < COUNT(errors); i++)
	{
		char what[120];
		bool parsed;

		snprintf(what, sizeof(what), "\"%s\" is refused in its place", errors[i].expr);
		parsed = ecstats_cron_expr_parse(errors[i].expr, strlen(errors[i].expr), &expr, &error);
		ok(!parsed && error.field == errors[i].field && error.offset == errors[i].offset, what,
		   parsed ? "accepted" : error.reason);
	}
	memset(longest, ' ', sizeof(longest));
	memcpy(longest, "* * * * *", 9);
	ok(ecstats_cron_expr_parse(longest, CRON_MAX_LENGTH, &expr, &error), "the longest text", "");
	ok(!ecstats_cron_expr_parse(longest, CRON_MAX_LENGTH + 1, &expr, &error), "a longer one", "");
}

/* day_matches decides on one day by the definitions, with nothing from the engine but the maps. */
static bool
day_matches(const CronExpr *e, const struct tm *tm)
{
	static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int year = tm->tm_year + 1900;
	int length = lengths[tm->tm_mon] +
				 (tm->tm_mon == 1 && (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)));
	bool day = (e->values[CRON_DAY] >> tm->tm_mday & 1) != 0 ||
			   (e->last_days >> (length - tm->tm_mday) & 1) != 0;
	bool weekday = (e->values[CRON_WEEKDAY] >> tm->tm_wday & 1) != 0;
	int wanted;

	for (wanted = 1; wanted <= length; wanted++)
	{
		int wday = (tm->tm_wday + 35 + wanted - tm->tm_mday) % 7;
		int moved = wanted;

		if ((e->near_days >> wanted & 1) == 0 && (e->near_last_days >> (length - wanted) & 1) == 0)
			continue;
		if (wday == 6)
			moved = wanted == 1 ? 3 : wanted - 1;
		if (wday == 0)
			moved = wanted == length ? wanted - 2 : wanted + 1;
		day |= moved == tm->tm_mday;
	}
	if ((e->last_weekdays >> tm->tm_wday & 1) != 0 && tm->tm_mday + 7 > length)
		weekday = true;
	if ((e->nth_weekdays[tm->tm_wday] >> ((tm->tm_mday + 6) / 7) & 1) != 0)
		weekday = true;
	return e->any_day || e->any_weekday ? day && weekday : day || weekday;
}

/* The engine's days of twelve years against day_matches, one by one. */
static void
test_days(void)
{
	static const char *const exprs[] = {
		"0 0 * * *",		 "0 0 1,15 * 1",  "0 0 28-3 * *", "0 0 L * *",	  "0 0 L-3 * 2",
		"0 0 LW * *",		 "0 0 1W * *",	  "0 0 31W * *",  "0 0 L-2W * *", "0 0 * * 5L",
		"0 0 * * 1#1,3#5",	 "0 0 13 * 5#2",  "0 0 */2 * 6",  "0 0 29 2 *",	  "0 0 20-5/5 11-2 *",
		"0 0 * 2 MON-FRI#1", "0 0 L-28W * *", "0 0 15W * *",  "0 0 30 * 7L",  "0 0 L-30 * *",
	};
	size_t i;

	for (i = 0; i < COUNT(exprs); i++)
	{
		int64_t end = instant("2032-02-01 00:00:00");
		int64_t next = instant("2019-12-31 00:00:00");
		int64_t at = next;
		CronExpr expr;
		CronError error;
		char what[80];
		int days = 0;
		bool same = ecstats_cron_expr_parse(exprs[i], strlen(exprs[i]), &expr, &error);

		while (same && at < end)
		{
			same = ecstats_cron_expr_next(&expr, &utc, next, &next);
			for (at += 86400; same && at < end; at += 86400)
			{
				time_t t = at;
				struct tm tm;

				gmtime_r(&t, &tm);
				if ((expr.values[CRON_MONTH] >> (tm.tm_mon + 1) & 1) != 0 &&
					day_matches(&expr, &tm))
				{
					same = next == at;
					days++;
					break;
				}
				same = next > at;
			}
		}
		snprintf(what, sizeof(what), "\"%s\" day by day: %d days", exprs[i], days);
		ok(same && days > 0, what, "");
	}
}

/* No instant before the answer changes the answer, and answers grow, across both changes of a zone. */
static void
test_promises(void)
{
	static const char *const exprs[] = {"*/7 * * * *", "13 1-3 * * *", "15,45 1,2 * * *",
										"7/20 13 * * * ?", "0 59 1/2 ? * SUN"};
	size_t i;

	for (i = 0; i < COUNT(exprs); i++)
	{
		static const char *const starts[] = {"2016-03-12 22:00:00", "2016-11-05 22:00:00"};
		CronExpr expr;
		CronError error;
		char what[80];
		size_t s;
		bool good = ecstats_cron_expr_parse(exprs[i], strlen(exprs[i]), &expr, &error);

		for (s = 0; good && s < COUNT(starts); s++)
		{
			int64_t at = instant(starts[s]);
			int64_t end = at + 2 * 86400;
			int64_t held = 0;

			for (; good && at < end; at++)
			{
				int64_t next;

				good = ecstats_cron_expr_next(&expr, &new_york, at, &next) && next > at &&
					   (held <= at || next == held);
				held = next;
			}
		}
		snprintf(what, sizeof(what), "\"%s\" skips no instant where the clock changes", exprs[i]);
		ok(good, what, "");
	}
}

/* Random texts: whatever is refused has its place inside the text; whatever is accepted answers. */
static void
test_random(void)
{
	static const char *const words[] = {"*",   "?",	  "L",	  "W", "#",	 "/",			"-",  ",",
										"0",   "1",	  "5",	  "7", "12", "31",			"59", "60",
										"MON", "jan", "2026", "x", "LW", "\xe5\x91\xa8"};
	unsigned int seed = 20261124;
	int accepted = 0;
	bool good = true;
	char what[80];
	int i;

	for (i = 0; good && i < 200000; i++)
	{
		char text[256] = "";
		CronExpr expr;
		CronError error;
		int64_t next;
		int fields = 4 + rand_r(&seed) % 5;

		while (fields-- > 0)
		{
			int n = 1 + rand_r(&seed) % 4 * (rand_r(&seed) % 2);

			for (; n > 0; n--)
				strcat(text, rand_r(&seed) % 3 == 0 ? "*" : words[rand_r(&seed) % COUNT(words)]);
			strcat(text, " ");
		}
		if (ecstats_cron_expr_parse(text, strlen(text), &expr, &error))
		{
			accepted++;
			if (ecstats_cron_expr_next(&expr, &new_york, instant("2016-01-01 00:00:00"), &next))
				good = next > instant("2016-01-01 00:00:00");
		}
		else
			good = error.offset + error.length <= strlen(text) && error.reason[0] != '\0' &&
				   error.hint != NULL;
		if (!good)
			printf("# %s\n", text);
	}
	snprintf(what, sizeof(what), "200000 random texts, %d accepted", accepted);
	ok(good && accepted > 100, what, "");
}

int
main(void)
{
	test_nexts();
	test_errors();
	test_days();
	test_promises();
	test_random();
	printf("1..%d\n", tests);
	return failures == 0 ? 0 : 1;
}
