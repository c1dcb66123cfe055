/*
 * day.c
 *		The business day: the only place that decides which day an instant belongs to, and the
 *		cached settings that it needs.
 *
 * The cache is filled by reading the one row of ecstats.config as stored, not through SPI: the CHECK
 * of an event asks for the day of every row, whoever inserts it and whatever may read config. It is
 * dropped when that row changes (ecstats_config_changed invalidates the table's relcache entry).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"

PG_FUNCTION_INFO_V1(ecstats_day_of_instant);
PG_FUNCTION_INFO_V1(ecstats_day_start_of);
PG_FUNCTION_INFO_V1(ecstats_timezone_valid);
PG_FUNCTION_INFO_V1(ecstats_config_changed);

/* A business day that was asked for recently; events come in runs of the same few days. */
typedef struct DayRange
{
	TimestampTz start; /* first instant of the day */
	TimestampTz end;   /* first instant of the next one */
	DateADT day;
} DayRange;

#define DAY_CACHE_SIZE		  64
#define DAYS_MAX			  100000000 /* from 2000-01-01: what a timestamp can hold, roughly */
#define UNIX_TO_POSTGRES_SECS ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

static EcstatsConfig config;
static bool config_valid = false;
static uint64 config_invalidations = 0;
static Oid config_relid = InvalidOid;
static DayRange day_cache[DAY_CACHE_SIZE];

static void config_load(void);
static DayRange day_range(TimestampTz ts);

/* ------------------------------------------------------------------ settings */

/*
 * config_forget drops the cached settings when ecstats.config (or everything) is invalidated.
 */
static void
config_forget(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == config_relid)
	{
		config_valid = false;
		config_invalidations++;
	}
}

/*
 * ecstats_day_init registers the invalidation callback, once a backend.
 */
void
ecstats_day_init(void)
{
	CacheRegisterRelcacheCallback(config_forget, (Datum) 0);
}

/*
 * ecstats_config_get returns the settings, reading ecstats.config if what is cached is not current.
 * Owned by this file; valid until the next call.
 */
const EcstatsConfig *
ecstats_config_get(void)
{
	if (!config_valid)
		config_load();
	return &config;
}

/*
 * config_column returns an attribute of the settings' row by name, NULLs being impossible there.
 */
static Datum
config_column(Relation rel, HeapTuple tuple, const char *name)
{
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);
	bool isnull = true;
	Datum value = (Datum) 0;

	if (attno != InvalidAttrNumber)
		value = heap_getattr(tuple, attno, RelationGetDescr(rel), &isnull);
	if (isnull)
		elog(ERROR, "ecstats.config has no usable column \"%s\"", name);
	return value;
}

/*
 * config_read reads the one row of ecstats.config into *result, newest committed state or our own; false
 * where there is none, which is so only during a restore. The catalog snapshot that systable_beginscan
 * takes is fresh for a table like this, and allowed in a parallel worker.
 */
static bool
config_read(Oid relid, EcstatsConfig *result)
{
	Relation rel = table_open(relid, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple = systable_getnext(scan);
	bool found = HeapTupleIsValid(tuple);

	if (found)
	{
		char *name = TextDatumGetCString(config_column(rel, tuple, "timezone"));

		result->timezone = ecstats_timezone_lookup(name);
		if (result->timezone == NULL)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("the time zone of ecstats.config is unknown to this server"),
							errdetail("Value: \"%s\".", name),
							errhint("Install the server's time zone data, or set another name.")));
		result->day_starts_at = DatumGetTimeADT(config_column(rel, tuple, "day_starts_at"));
		result->rollup_memory = DatumGetInt32(config_column(rel, tuple, "rollup_memory"));
		result->rollup_workers = DatumGetInt32(config_column(rel, tuple, "rollup_workers"));
		strlcpy(result->currency, TextDatumGetCString(config_column(rel, tuple, "currency")),
				sizeof(result->currency));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * config_load fills the cache. It is valid only if nothing was invalidated while it was read, and stays
 * as it was where reading fails.
 */
static void
config_load(void)
{
	Oid relid = get_relname_relid("config", get_namespace_oid("ecstats", false));
	EcstatsConfig read = {pg_tzset("GMT"), 0, "CNY"};
	uint64 invalidations_before;
	bool found;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table ecstats.config does not exist"),
				 errhint("Run CREATE EXTENSION ecstats in this database.")));
	config_relid = relid;
	invalidations_before = config_invalidations;
	found = config_read(relid, &read);

	config = read;
	config_valid = found && config_invalidations == invalidations_before;
	memset(day_cache, 0, sizeof(day_cache));
}

/*
 * ecstats_config_changed is the row trigger on ecstats.config: it tells every backend, at commit,
 * to read the settings again.
 */
Datum
ecstats_config_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "ecstats_config_changed: not called by trigger manager");
	CacheInvalidateRelcacheByRelid(RelationGetRelid(trigdata->tg_relation));
	return PointerGetDatum(NULL);
}

/*
 * names_gmt_offset tells whether a name is Etc/GMT with an offset, the one family of zones with a slash
 * and digits.
 */
static bool
names_gmt_offset(const char *name)
{
	const char *p = name + strlen("Etc/GMT");

	if (pg_strncasecmp(name, "Etc/GMT", strlen("Etc/GMT")) != 0)
		return false;
	if (*p == '+' || *p == '-')
		p++;
	return strspn(p, "0123456789") == strlen(p) && strlen(p) <= 2;
}

/*
 * ecstats_timezone_lookup returns the zone of an IANA name, NULL where there is none. pg_tzset alone
 * would also take POSIX strings such as FOO5BAR, which name no zone that anybody means; these need a
 * digit, which few names have.
 */
pg_tz *
ecstats_timezone_lookup(const char *name)
{
	static const char *const with_digits[] = {"EST5EDT", "CST6CDT", "MST7MDT", "PST8PDT",
											  "GMT0",	 "GMT+0",	"GMT-0"};
	static const char *const no_zones[] = {"Factory", "localtime", "posixrules"};
	bool known = strpbrk(name, "0123456789") == NULL || names_gmt_offset(name);
	int i;

	for (i = 0; i < lengthof(with_digits); i++)
		known = known || pg_strcasecmp(name, with_digits[i]) == 0;
	for (i = 0; i < lengthof(no_zones); i++)
		known = known && pg_strcasecmp(name, no_zones[i]) != 0;
	if (!known || name[0] == '\0' || strlen(name) > TZ_STRLEN_MAX || strpbrk(name, "<>,:; ") ||
		pg_strncasecmp(name, "right/", 6) == 0 || pg_strncasecmp(name, "posix/", 6) == 0)
		return NULL;
	return pg_tzset(name);
}

/*
 * ecstats_timezone_valid tells whether a text is the name of a zone.
 */
Datum
ecstats_timezone_valid(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_BOOL(ecstats_timezone_lookup(name) != NULL);
}

/* ------------------------------------------------------------------ days */

/*
 * local_instant returns the instant at which the shop's clock first shows (day, time of day). A time
 * that a spring change skips is the first instant after the gap; of a repeated one, the first.
 */
static TimestampTz
local_instant(DateADT day, int64 time_of_day)
{
	struct pg_tm tm;
	fsec_t fsec;
	int64 wall;		/* Unix seconds of the wall clock, as if it were UTC */
	int64 fraction; /* microseconds on top */
	pg_time_t utc;
	pg_time_t probe;
	pg_time_t boundary;
	long before_gmtoff, after_gmtoff;
	int before_isdst, after_isdst;

	wall = (int64) day * SECS_PER_DAY + time_of_day / USECS_PER_SEC + UNIX_TO_POSTGRES_SECS;
	fraction = time_of_day % USECS_PER_SEC;
	if (day < -DAYS_MAX || day > DAYS_MAX ||
		timestamp2tm((Timestamp) day * USECS_PER_DAY + time_of_day, NULL, &tm, &fsec, NULL, NULL) !=
			0)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("day out of range")));
	utc = wall + DetermineTimeZoneOffset(&tm, config.timezone);

	/*
	 * DetermineTimeZoneOffset reads a skipped time with the offset before the change, which is an
	 * instant after it, and a repeated time as the standard one, its second. Look for a change near.
	 */
	probe = utc - SECS_PER_DAY;
	if (pg_next_dst_boundary(&probe, &before_gmtoff, &before_isdst, &boundary, &after_gmtoff,
							 &after_isdst, config.timezone) == 1 &&
		boundary <= utc + SECS_PER_DAY)
	{
		if (wall - before_gmtoff < boundary)
			utc = wall - before_gmtoff; /* the old offset holds until the boundary */
		else if (wall - after_gmtoff < boundary)
		{
			utc = boundary; /* in the gap */
			fraction = 0;
		}
		else
			utc = wall - after_gmtoff;
	}
	return (TimestampTz) (utc - UNIX_TO_POSTGRES_SECS) * USECS_PER_SEC + fraction;
}

/*
 * ecstats_day_start returns the first instant of a business day.
 */
TimestampTz
ecstats_day_start(DateADT day)
{
	(void) ecstats_config_get();
	return local_instant(day, config.day_starts_at);
}

/*
 * local_date returns the date that the shop's clock shows at an instant.
 */
static DateADT
local_date(TimestampTz ts)
{
	struct pg_tm tm;
	fsec_t fsec;
	int tz;

	if (timestamp2tm(ts, &tz, &tm, &fsec, NULL, config.timezone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	return date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) - POSTGRES_EPOCH_JDATE;
}

/*
 * day_range returns the business day that holds an instant, from the cache where it is there.
 */
static DayRange
day_range(TimestampTz ts)
{
	DayRange range;
	DayRange *slot;

	(void) ecstats_config_get();
	slot = &day_cache[(uint64) (ts / USECS_PER_HOUR) % DAY_CACHE_SIZE];
	if (ts >= slot->start && ts < slot->end)
		return *slot;

	range.day = local_date(ts);
	/* The local date may be a day off: the business day starts later, or a change of clocks. */
	while ((range.start = local_instant(range.day, config.day_starts_at)) > ts)
		range.day--;
	while ((range.end = local_instant(range.day + 1, config.day_starts_at)) <= ts)
	{
		range.day++;
		range.start = range.end;
	}
	*slot = range;
	return range;
}

/*
 * ecstats_day_of returns the business day that an instant belongs to. Infinities belong to none.
 */
DateADT
ecstats_day_of(TimestampTz ts)
{
	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("an infinite timestamp belongs to no business day")));
	return day_range(ts).day;
}

/*
 * ecstats_day_of_instant is ecstats_day_of for SQL.
 */
Datum
ecstats_day_of_instant(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATEADT(ecstats_day_of(PG_GETARG_TIMESTAMPTZ(0)));
}

/*
 * ecstats_day_start_of is ecstats_day_start for SQL.
 */
Datum
ecstats_day_start_of(PG_FUNCTION_ARGS)
{
	DateADT day = PG_GETARG_DATEADT(0);

	if (DATE_NOT_FINITE(day))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("an infinite date has no start")));
	PG_RETURN_TIMESTAMPTZ(ecstats_day_start(day));
}
