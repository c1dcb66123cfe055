/*
 * cron.c
 *		Fuzz target: any text as a cron expression, and what comes next in a zone that changes its clocks.
 */
#include <stdlib.h>

#include "cron_expr.h"
#include "fuzz.h"

static const CronZoneChange changes[] = {
	{1774746000, 3600, 7200},	/* forward, 2026-03-29 01:00 UTC */
	{1792890000, 7200, 3600},	/* back, 2026-10-25 01:00 UTC */
	{1806195600, 3600, 7200},	/* forward, 2027-03-28 */
	{1850000000, 7200, 5400},	/* half an hour back, at an odd second */
	{1900000000, 5400, -36000}, /* a day is lost */
};

static bool
next_change(const void *data, int64_t instant, CronZoneChange *change)
{
	size_t i;

	(void) data;
	for (i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
	{
		if (changes[i].at > instant)
		{
			*change = changes[i];
			return true;
		}
	}
	change->before = changes[i - 1].after;
	return false;
}

/*
 * Promised: an error lies within the text; the next time is later, and the same from anywhere in between.
 */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int64_t starts[] = {0,			 1774740000, 1774745999, 1792886400,
									 1806190000, 1849999000, 1899990000, 7258118399};
	CronZone zone = {next_change, NULL};
	CronExpr expr;
	CronError error;
	size_t i;

	if (!ecstats_cron_expr_parse((const char *) data, size, &expr, &error))
	{
		MUST(error.offset <= size && error.length <= size - error.offset);
		MUST(error.reason[0] != '\0');
		return 0;
	}
	for (i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
	{
		int64_t next;
		int64_t same;

		if (!ecstats_cron_expr_next(&expr, &zone, starts[i], &next))
			continue;
		MUST(next > starts[i]);
		MUST(ecstats_cron_expr_next(&expr, &zone, next - 1, &same) && same == next);
		MUST(!ecstats_cron_expr_next(&expr, &zone, next, &same) || same > next);
	}
	return 0;
}
