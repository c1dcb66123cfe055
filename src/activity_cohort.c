/*
 * activity_cohort.c
 *		Of the users who were seen first on a day, how many have an event 1, 7 and 30 days later.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "ecstats.h"
#include "activity.h"

#define AGES	   3
#define OLDEST	   30
#define MOST_RANGE 36600

static const int ages[AGES] = {1, 7, OLDEST};

/* The columns of the result. */
enum
{
	RESULT_COHORT_DAY,
	RESULT_AGE_DAYS,
	RESULT_COHORT_SIZE,
	RESULT_RETAINED,
	RESULT_COLUMNS
};

typedef struct CohortScan
{
	RollupDays days;
	DateADT day[ROLLUP_MAX_DAYS]; /* of each stream; the one after is of all time */
	int ndays;
	DateADT first_cohort;
	int ncohorts;
	int64 *sizes; /* of the cohort of each day from first_cohort on */
	int64 retained[ROLLUP_MAX_DAYS][AGES];

	/* The users of the round, by number. */
	DateADT *first; /* DATEVAL_NOEND: not known */
	bool *active;	/* on each day */
	uint32 nround;
	uint32 max_round;
} CohortScan;

PG_FUNCTION_INFO_V1(ecstats_activity_cohorts);

static void scan_init(CohortScan *scan, DateADT from_day, DateADT to_day);
static void take_id(void *arg, uint32 id, int stream, RollupBlockReader *reader);
static void grow_round(CohortScan *scan);
static void end_round(void *arg, const RollupDays *days);
static void put_cohorts(const CohortScan *scan, EcstatsRows *result);

/*
 * ecstats_activity_cohorts(from_day date, to_day date) returns the cohorts that come back on stored days
 * of a range, see sql/27_activity_c.sql. What it reads is what the caller's snapshot sees.
 */
Datum
ecstats_activity_cohorts(PG_FUNCTION_ARGS)
{
	EcstatsRows result = ecstats_rows_begin(fcinfo);
	CohortScan *scan = palloc0(sizeof(CohortScan));

	scan_init(scan, PG_GETARG_DATEADT(0), PG_GETARG_DATEADT(1));
	ecstats_rollup_days_read(&scan->days);
	put_cohorts(scan, &result);
	ecstats_rollup_days_end(&scan->days);
	return (Datum) 0;
}

/*
 * scan_init makes an empty state and begins to read the days, and who was seen first when.
 */
static void
scan_init(CohortScan *scan, DateADT from_day, DateADT to_day)
{
	int i;

	if (DATE_NOT_FINITE(from_day) || DATE_NOT_FINITE(to_day) || from_day > to_day ||
		to_day - from_day > MOST_RANGE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there is no such range of days"),
				 errhint("Give two dates, the earlier one first.")));
	scan->ndays = ecstats_rollup_stored_days(from_day, to_day + 1, scan->day);
	scan->first_cohort = from_day - OLDEST;
	scan->ncohorts = to_day - scan->first_cohort + 1;
	ecstats_rollup_days_init(&scan->days, scan->ndays + 1);
	scan->sizes = ecstats_rollup_alloc(&scan->days.space, scan->ncohorts * sizeof(int64));
	scan->days.arg = scan;
	scan->days.take = take_id;
	scan->days.end_round = end_round;
	for (i = 0; i < scan->ndays; i++)
		ecstats_rollup_days_add(&scan->days, "user_day", '\0', scan->day[i]);
	ecstats_rollup_days_add(&scan->days, "first_seen_block", '\0', 0);
}

/*
 * take_id notes that a user of the round has an event on a day, or was seen first on one.
 */
static void
take_id(void *arg, uint32 id, int stream, RollupBlockReader *reader)
{
	CohortScan *scan = arg;

	if (id >= scan->max_round)
		grow_round(scan);
	/* Ids of a round are numbered as they come. */
	if (id == scan->nround)
	{
		scan->nround++;
		scan->first[id] = DATEVAL_NOEND;
		memset(scan->active + (Size) id * scan->ndays, 0, scan->ndays);
	}
	if (stream < scan->ndays)
		scan->active[(Size) id * scan->ndays + stream] = true;
	else
		scan->first[id] = ecstats_rollup_first_day(reader);
}

/*
 * grow_round doubles the room for users of a round.
 */
static void
grow_round(CohortScan *scan)
{
	RollupSpace *space = &scan->days.space;
	Size ndays = Max(scan->ndays, 1);
	uint32 more = Max(512, scan->max_round * 2);

	scan->active = ecstats_rollup_grow(space, scan->active, scan->max_round * ndays, more * ndays);
	scan->first = ecstats_rollup_grow(space, scan->first, scan->max_round * sizeof(DateADT),
									  more * sizeof(DateADT));
	scan->max_round = more;
}

/*
 * end_round counts the users of a round.
 */
static void
end_round(void *arg, const RollupDays *days)
{
	CohortScan *scan = arg;
	uint32 i;
	int day;
	int age;

	for (i = 0; i < days->nids; i++)
	{
		int cohort = scan->first[i] - scan->first_cohort;

		if (scan->first[i] == DATEVAL_NOEND || cohort < 0 || cohort >= scan->ncohorts)
			continue;
		scan->sizes[cohort]++;
		for (day = 0; day < scan->ndays; day++)
			for (age = 0; age < AGES && scan->active[(Size) i * scan->ndays + day]; age++)
				if (scan->day[day] - scan->first[i] == ages[age])
					scan->retained[day][age]++;
	}
	scan->nround = 0;
}

/*
 * put_cohorts returns a row for each day and age that a cohort is behind.
 */
static void
put_cohorts(const CohortScan *scan, EcstatsRows *result)
{
	Datum values[RESULT_COLUMNS];
	bool nulls[RESULT_COLUMNS] = {false};
	int day;
	int age;

	for (day = 0; day < scan->ndays; day++)
		for (age = 0; age < AGES; age++)
		{
			DateADT cohort_day = scan->day[day] - ages[age];
			int64 size = scan->sizes[cohort_day - scan->first_cohort];

			if (size == 0)
				continue;
			values[RESULT_COHORT_DAY] = DateADTGetDatum(cohort_day);
			values[RESULT_AGE_DAYS] = Int32GetDatum(ages[age]);
			values[RESULT_COHORT_SIZE] = Int64GetDatum(size);
			values[RESULT_RETAINED] = Int64GetDatum(scan->retained[day][age]);
			ecstats_rows_add(result, values, nulls);
		}
}
