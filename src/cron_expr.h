/*
 * cron_expr.h
 *		What a cron expression means: from text to bitmaps, from an instant to the next one.
 *
 * Plain C without a line of PostgreSQL's, so that a unit test and a fuzzer can link it alone. No
 * allocation, no clock: a CronExpr lives wherever the caller puts it, time is an argument, and the
 * zone is a callback. Instants are seconds since 1970-01-01 00:00 UTC; local times are counted in
 * the same way on the wall clock of the zone.
 */
#ifndef ECSTATS_CRON_EXPR_H
#define ECSTATS_CRON_EXPR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRON_MAX_LENGTH 1024 /* bytes; all sixty minutes written out take 170 */
#define CRON_FIRST_YEAR 1970
#define CRON_LAST_YEAR	2199
#define CRON_YEAR_WORDS ((CRON_LAST_YEAR - CRON_FIRST_YEAR) / 64 + 1)

typedef enum CronDialect
{
	CRON_UNIX,	/* five fields, or one of the @names */
	CRON_QUARTZ /* six or seven fields */
} CronDialect;

typedef enum CronField
{
	CRON_SECOND,
	CRON_MINUTE,
	CRON_HOUR,
	CRON_DAY,
	CRON_MONTH,
	CRON_WEEKDAY,
	CRON_YEAR,
	CRON_WHOLE /* an error that belongs to no single field */
} CronField;

/* A parsed expression. Bit n of a map stands for the value n unless it says otherwise. */
typedef struct CronExpr
{
	CronDialect dialect;
	bool any_day;					 /* day of month unrestricted: '*' (a step may follow) or '?' */
	bool any_weekday;				 /* the same for day of week */
	bool interval;					 /* seconds, minutes or hours hold a '*', a range or a step */
	uint64_t values[CRON_YEAR];		 /* of each field; weekdays are 0 .. 6, 0 is Sunday */
	uint64_t last_weekdays;			 /* 0 .. 6: the last one of its month, "5L" */
	uint64_t near_days;				 /* 1 .. 31: the weekday nearest to it, "15W" */
	uint64_t last_days;				 /* n of "L-n", 0 is "L" */
	uint64_t near_last_days;		 /* n of "L-nW", 0 is "LW" */
	uint8_t nth_weekdays[7];		 /* per weekday: bit k for "#k" */
	uint8_t has_nth_weekdays;		 /* weekdays with an entry there */
	uint64_t years[CRON_YEAR_WORDS]; /* bit n: CRON_FIRST_YEAR + n */
} CronExpr;

/* Why a text is no expression. The caller owns it; the strings live as long as it does. */
typedef struct CronError
{
	CronField field;
	int field_number; /* 1 is the leftmost; 0 with CRON_WHOLE */
	size_t offset;	  /* bytes before the offending character */
	size_t length;	  /* bytes from there to the end of the field */
	char reason[160]; /* a clause without a full stop */
	const char *hint; /* a sentence */
} CronError;

/* The zone's next change of its offset from UTC (local minus UTC, seconds). */
typedef struct CronZoneChange
{
	int64_t at;		/* first instant of the new offset */
	int32_t before; /* the offset until then */
	int32_t after;	/* the offset from then on */
} CronZoneChange;

/*
 * A zone. next_change() finds the first change after an instant; it returns false when there is
 * none any more, and sets 'before' to the offset that holds at the instant in either case.
 */
typedef struct CronZone
{
	bool (*next_change)(const void *data, int64_t instant, CronZoneChange *change);
	const void *data;
} CronZone;

extern bool ecstats_cron_expr_parse(const char *text, size_t length, CronExpr *expr,
									CronError *error);
extern bool ecstats_cron_expr_next(const CronExpr *expr, const CronZone *zone, int64_t after,
								   int64_t *next);
extern const char *ecstats_cron_field_name(CronField field);

#endif /* ECSTATS_CRON_EXPR_H */
