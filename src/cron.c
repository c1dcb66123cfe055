/*
 * cron.c
 *		Cron expressions for SQL: the functions, PostgreSQL's zones behind the engine's callback, the
 *		errors. What an expression means is in cron_expr.c.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "cron_expr.h"
#include "ecstats.h"

#define MAX_LIST	 10000 /* occurrences that one call lists */
#define SHOWN_LENGTH 80	   /* bytes of a user's text in a message */

/* From PostgreSQL's epoch to that of the engine, in seconds. */
#define EPOCH_SHIFT ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* What ecstats_cron_list keeps between two of its rows. */
typedef struct CronList
{
	CronExpr expr;
	CronZone zone;
	int64 after;
	bool done;
} CronList;

PG_FUNCTION_INFO_V1(ecstats_cron_next);
PG_FUNCTION_INFO_V1(ecstats_cron_list);
PG_FUNCTION_INFO_V1(ecstats_cron_check);
PG_FUNCTION_INFO_V1(ecstats_cron_dialect);

static void expr_from_text(const text *given, CronExpr *expr);
static void report_error(const char *string, int length, const CronError *error);
static char *shown(const char *string, int length);
static CronZone zone_from_text(const text *name);
static bool zone_next_change(const void *data, int64_t instant, CronZoneChange *change);
static bool seconds_from_timestamp(TimestampTz ts, int64 *seconds);
static TimestampTz timestamp_from_seconds(int64 seconds);

/*
 * ecstats_cron_next(expr text, after timestamptz, timezone text) returns the first occurrence after
 * an instant, or NULL. A NULL zone is the shop's; another NULL gives NULL.
 */
Datum
ecstats_cron_next(PG_FUNCTION_ARGS)
{
	CronExpr expr;
	CronZone zone;
	int64 after;
	int64_t next;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	expr_from_text(PG_GETARG_TEXT_PP(0), &expr);
	zone = zone_from_text(PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2));
	if (!seconds_from_timestamp(PG_GETARG_TIMESTAMPTZ(1), &after) ||
		!ecstats_cron_expr_next(&expr, &zone, after, &next))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(timestamp_from_seconds(next));
}

/*
 * ecstats_cron_list(expr text, after timestamptz, n int, timezone text) returns the next n
 * occurrences, fewer when there are no more. NULLs are as in ecstats_cron_next.
 */
Datum
ecstats_cron_list(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	CronList *list;
	int64_t next;

	if (SRF_IS_FIRSTCALL())
	{
		int n = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);

		context = SRF_FIRSTCALL_INIT();
		if (n < 0 || n > MAX_LIST)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("number of occurrences is out of range"),
							errdetail("%d is not between 0 and %d.", n, MAX_LIST),
							errhint("Ask for fewer, then again after the last one.")));
		list = MemoryContextAllocZero(context->multi_call_memory_ctx, sizeof(CronList));
		list->done = PG_ARGISNULL(0) || PG_ARGISNULL(1);
		if (!list->done)
		{
			expr_from_text(PG_GETARG_TEXT_PP(0), &list->expr);
			list->zone = zone_from_text(PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3));
			list->done = !seconds_from_timestamp(PG_GETARG_TIMESTAMPTZ(1), &list->after);
		}
		context->max_calls = n;
		context->user_fctx = list;
	}
	context = SRF_PERCALL_SETUP();
	list = context->user_fctx;
	if (list->done || context->call_cntr >= context->max_calls ||
		!ecstats_cron_expr_next(&list->expr, &list->zone, list->after, &next))
		SRF_RETURN_DONE(context);
	list->after = next;
	SRF_RETURN_NEXT(context, TimestampTzGetDatum(timestamp_from_seconds(next)));
}

/*
 * ecstats_cron_check(expr text) returns nothing, or raises what is wrong with the expression.
 */
Datum
ecstats_cron_check(PG_FUNCTION_ARGS)
{
	CronExpr expr;

	expr_from_text(PG_GETARG_TEXT_PP(0), &expr);
	PG_RETURN_VOID();
}

/*
 * ecstats_cron_dialect(expr text) tells as which dialect an expression is read: 'unix' or 'quartz'.
 */
Datum
ecstats_cron_dialect(PG_FUNCTION_ARGS)
{
	CronExpr expr;

	expr_from_text(PG_GETARG_TEXT_PP(0), &expr);
	PG_RETURN_TEXT_P(cstring_to_text(expr.dialect == CRON_UNIX ? "unix" : "quartz"));
}

/*
 * expr_from_text parses the expression or raises.
 */
static void
expr_from_text(const text *given, CronExpr *expr)
{
	const char *string = VARDATA_ANY(given);
	int length = VARSIZE_ANY_EXHDR(given);
	CronError error;

	if (!ecstats_cron_expr_parse(string, length, expr, &error))
		report_error(string, length, &error);
}

/*
 * report_error raises what the parser found, with the field and the position in characters.
 */
static void
report_error(const char *string, int length, const CronError *error)
{
	int position = pg_mbstrlen_with_len(string, (int) error->offset) + 1;
	const char *whole = shown(string, length);
	const char *part = shown(string + error->offset, (int) error->length);

	if (error->field == CRON_WHOLE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid cron expression \"%s\"", whole),
						errdetail("At position %d: %s.", position, error->reason),
						errhint("%s", error->hint)));
	else if (error->length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid cron expression \"%s\"", whole),
				 errdetail("Field %d (%s), position %d, at its end: %s.", error->field_number,
						   ecstats_cron_field_name(error->field), position, error->reason),
				 errhint("%s", error->hint)));
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid cron expression \"%s\"", whole),
				 errdetail("Field %d (%s), position %d, at \"%s\": %s.", error->field_number,
						   ecstats_cron_field_name(error->field), position, part, error->reason),
				 errhint("%s", error->hint)));
}

/*
 * shown makes a user's text fit for a message: shortened at a character's end, control characters
 * replaced. The result is palloc'ed.
 */
static char *
shown(const char *string, int length)
{
	int kept = pg_mbcliplen(string, length, SHOWN_LENGTH);
	char *result = palloc(kept + 4);
	int i;

	for (i = 0; i < kept; i++)
		result[i] = (unsigned char) string[i] < ' ' || string[i] == 0x7f ? '?' : string[i];
	strcpy(result + kept, kept < length ? "..." : "");
	return result;
}

/*
 * zone_from_text looks up a zone by its IANA name; NULL is the shop's zone.
 */
static CronZone
zone_from_text(const text *name)
{
	CronZone zone;
	const pg_tz *tz;

	if (name == NULL)
		tz = ecstats_config_get()->timezone;
	else
	{
		char *string = text_to_cstring(name);

		tz = ecstats_timezone_lookup(string);
		if (tz == NULL)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("time zone \"%s\" is not known", shown(string, strlen(string))),
							errhint("Use a name of the IANA database, such as Asia/Shanghai; "
									"pg_timezone_names lists them.")));
		pfree(string);
	}
	zone.next_change = zone_next_change;
	zone.data = tz;
	return zone;
}

/*
 * zone_next_change answers the engine from PostgreSQL's zone data. Boundaries at which the offset
 * stays (only the abbreviation or the flag changes) are passed over.
 */
static bool
zone_next_change(const void *data, int64_t instant, CronZoneChange *change)
{
	pg_time_t at = instant;

	for (;;)
	{
		pg_time_t boundary;
		long before;
		long after;
		int before_isdst;
		int after_isdst;
		int found = pg_next_dst_boundary(&at, &before, &before_isdst, &boundary, &after,
										 &after_isdst, data);

		if (found < 0)
			elog(ERROR, "no time zone offset for " INT64_FORMAT, (int64) at);
		change->before = (int32_t) before;
		if (found == 0)
			return false;
		change->after = (int32_t) after;
		change->at = boundary;
		if (before != after)
			return true;
		at = boundary;
	}
}

/*
 * seconds_from_timestamp rounds down to the engine's seconds: what comes after the second comes
 * after the instant, for occurrences are whole seconds. It returns false for infinity, after which
 * there is nothing; -infinity is before everything.
 */
static bool
seconds_from_timestamp(TimestampTz ts, int64 *seconds)
{
	if (TIMESTAMP_IS_NOEND(ts))
		return false;
	if (TIMESTAMP_IS_NOBEGIN(ts))
		ts = -EPOCH_SHIFT * USECS_PER_SEC - USECS_PER_DAY;
	*seconds = ts / USECS_PER_SEC - (ts % USECS_PER_SEC < 0) + EPOCH_SHIFT;
	return true;
}

/*
 * timestamp_from_seconds translates back.
 */
static TimestampTz
timestamp_from_seconds(int64 seconds)
{
	return (seconds - EPOCH_SHIFT) * USECS_PER_SEC;
}
