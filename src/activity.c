/*
 * activity.c
 *		The decayed score of every user, in one pass over the stored days: they are read side by side,
 *		so that all days of a user come together. Scores are made for the last HISTORY days at once:
 *		what a level was on each of them is then known from the days alone, also after an outage.
 *		What depends on settings is an argument; nothing here reads them, or the clock.
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"

#include "compat.h"
#include "ecstats.h"
#include "activity.h"

/* Days up to and including as_of whose scores are made. */
#define HISTORY		15
#define MOST_WINDOW 366

#define FIRST_USERS 1024
#define FIRST_IDS	512
#define ID_CHUNK	((Size) 1024 * 1024)

/* Levels that have a limit, from the top. */
enum
{
	LEVEL_HIGH,
	LEVEL_MID,
	LEVELS
};

/* The columns of the result. */
enum
{
	RESULT_USER,
	RESULT_SCORE,
	RESULT_PREVIOUS_SCORE,
	RESULT_LEVEL,
	RESULT_PREVIOUS_LEVEL,
	RESULT_LAST_ACTIVE_DAY,
	RESULT_ACTIVE_DAYS,
	RESULT_FIRST_SEEN,
	RESULT_LAST_HIGH_DAY,
	RESULT_IN_RANGE,
	RESULT_COLUMNS
};

/* A user who has an event on one of the days. */
typedef struct ActivityUser
{
	const char *id;
	uint32 length;
	DateADT last_active;
	DateADT first_seen;
	uint16 active_days;
	bool has_first;
	bool in_range;
} ActivityUser;

typedef struct ActivityScan
{
	RollupDays days;
	DateADT day[ROLLUP_MAX_DAYS]; /* of each stream; the one after is of all time */
	int ndays;
	DateADT as_of;
	DateADT since;
	int window;
	double *decay;
	ActivityWeights weights;

	/* The users of the round, by number. */
	double *points; /* of each day, NaN: no event */
	DateADT *first; /* DATEVAL_NOEND: not known */
	uint32 nround;
	uint32 max_round;

	/* All users. */
	ActivityUser *users;
	double *scores[HISTORY]; /* by age */
	uint32 nusers;
	uint32 max_users;
	char *ids; /* the chunk that ids go into */
	Size ids_left;

	double cutoffs[LEVELS][HISTORY];
} ActivityScan;

PG_FUNCTION_INFO_V1(ecstats_activity_scan);

static void scan_init(ActivityScan *scan, FunctionCallInfo fcinfo);
static void add_days(ActivityScan *scan);
static void take_id(void *arg, uint32 id, int stream, RollupBlockReader *reader);
static void grow_round(ActivityScan *scan);
static void end_round(void *arg, const RollupDays *days);
static void add_user(ActivityScan *scan, const char *id, uint32 length, const double *points,
					 DateADT first);
static void add_points(ActivityScan *scan, DateADT day, double points);
static void grow_users(ActivityScan *scan);
static const char *keep_id(ActivityScan *scan, const char *id, uint32 length);
static void find_cutoffs(ActivityScan *scan, ArrayType *shares, ArrayType *limits);
static void put_users(ActivityScan *scan, EcstatsRows *result);
static int level_of(const ActivityScan *scan, uint32 user, int age);

/*
 * ecstats_activity_scan(as_of date, since date, window int, half_life float8, weights numeric[], shares
 * numeric[], limits float8[]) returns what stored days say of users, see sql/27_activity_c.sql. What it
 * reads is what the caller's snapshot sees.
 */
Datum
ecstats_activity_scan(PG_FUNCTION_ARGS)
{
	EcstatsRows result = ecstats_rows_begin(fcinfo);
	ActivityScan *scan = palloc0(sizeof(ActivityScan));

	scan_init(scan, fcinfo);
	add_days(scan);
	ecstats_rollup_days_read(&scan->days);
	find_cutoffs(scan, PG_GETARG_ARRAYTYPE_P(5), PG_GETARG_ARRAYTYPE_P(6));
	put_users(scan, &result);
	ecstats_rollup_days_end(&scan->days);
	return (Datum) 0;
}

/*
 * scan_init makes an empty state from the arguments.
 */
static void
scan_init(ActivityScan *scan, FunctionCallInfo fcinfo)
{
	double half_life = PG_GETARG_FLOAT8(3);

	scan->as_of = PG_GETARG_DATEADT(0);
	scan->since = PG_GETARG_DATEADT(1);
	scan->window = PG_GETARG_INT32(2);
	if (DATE_NOT_FINITE(scan->as_of) || DATE_NOT_FINITE(scan->since) || scan->since > scan->as_of)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there is no such range of days"),
				 errhint("Give two dates, the later one first.")));
	if (scan->window < 1 || scan->window > MOST_WINDOW)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the window of a score is 1 to %d days", MOST_WINDOW),
						errdetail("Value: %d.", scan->window),
						errhint("Set score_window_days of ecstats.config.")));
	if (!(half_life > 0) || isinf(half_life))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the half-life of a score must be above 0"),
						errdetail("Value: %g.", half_life),
						errhint("Set score_half_life_days of ecstats.config.")));
	scan->decay = ecstats_activity_decay(scan->window, half_life);
	ecstats_activity_weights(&scan->weights, PG_GETARG_ARRAYTYPE_P(4));
}

/*
 * add_days begins to read the days that scores and the range need, and who was seen first when.
 */
static void
add_days(ActivityScan *scan)
{
	DateADT from_day = Min(scan->since, scan->as_of - (scan->window - 1) - (HISTORY - 1));
	int i;

	scan->ndays = ecstats_rollup_stored_days(from_day, scan->as_of + 1, scan->day);
	ecstats_rollup_days_init(&scan->days, scan->ndays + 1);
	scan->days.arg = scan;
	scan->days.take = take_id;
	scan->days.end_round = end_round;
	for (i = 0; i < scan->ndays; i++)
		ecstats_rollup_days_add(&scan->days, "user_day", '\0', scan->day[i]);
	ecstats_rollup_days_add(&scan->days, "first_seen_block", '\0', 0);
}

/*
 * take_id notes what a day, or the first days of all users, say of a user of the round.
 */
static void
take_id(void *arg, uint32 id, int stream, RollupBlockReader *reader)
{
	ActivityScan *scan = arg;
	double *points;
	int ncounts;
	int i;

	if (id >= scan->max_round)
		grow_round(scan);
	points = scan->points + (Size) id * scan->ndays;
	/* Ids of a round are numbered as they come. */
	if (id == scan->nround)
	{
		scan->nround++;
		scan->first[id] = DATEVAL_NOEND;
		for (i = 0; i < scan->ndays; i++)
			points[i] = get_float8_nan();
	}
	if (stream == scan->ndays)
	{
		scan->first[id] = ecstats_rollup_first_day(reader);
		return;
	}
	ncounts = ecstats_rollup_reader_counts(reader);
	points[stream] = ecstats_activity_points(&scan->weights, reader->counts, ncounts);
}

/*
 * grow_round doubles the room for users of a round.
 */
static void
grow_round(ActivityScan *scan)
{
	RollupSpace *space = &scan->days.space;
	Size day_bytes = (Size) Max(scan->ndays, 1) * sizeof(double);
	uint32 more = Max(FIRST_IDS, scan->max_round * 2);

	scan->points =
		ecstats_rollup_grow(space, scan->points, scan->max_round * day_bytes, more * day_bytes);
	scan->first = ecstats_rollup_grow(space, scan->first, scan->max_round * sizeof(DateADT),
									  more * sizeof(DateADT));
	scan->max_round = more;
}

/*
 * end_round makes users of the ids of a round that have an event on one of the days.
 */
static void
end_round(void *arg, const RollupDays *days)
{
	ActivityScan *scan = arg;
	uint32 i;

	for (i = 0; i < days->nids; i++)
		add_user(scan, days->bytes + days->ids[i].at, days->ids[i].length,
				 scan->points + (Size) i * scan->ndays, scan->first[i]);
	scan->nround = 0;
}

/*
 * add_user keeps a user: what his days add up to, on each day that is scored.
 */
static void
add_user(ActivityScan *scan, const char *id, uint32 length, const double *points, DateADT first)
{
	DateADT window_begin = scan->as_of - (scan->window - 1);
	ActivityUser *user;
	int last = -1;
	int i;

	for (i = 0; i < scan->ndays; i++)
		if (!isnan(points[i]))
			last = i;
	if (last < 0)
		return;
	if (scan->nusers == scan->max_users)
		grow_users(scan);
	user = &scan->users[scan->nusers];
	user->id = keep_id(scan, id, length);
	user->length = length;
	user->last_active = scan->day[last];
	user->in_range = user->last_active >= scan->since;
	user->has_first = first != DATEVAL_NOEND;
	user->first_seen = first;
	user->active_days = 0;
	/* From the oldest day on: what is small is added first, and the order is always the same. */
	for (i = 0; i <= last; i++)
	{
		if (isnan(points[i]))
			continue;
		if (scan->day[i] >= window_begin)
			user->active_days++;
		if (points[i] != 0)
			add_points(scan, scan->day[i], points[i]);
	}
	scan->nusers++;
}

/*
 * add_points adds what a day of the last user is worth to the scores of the days that it counts on.
 */
static void
add_points(ActivityScan *scan, DateADT day, double points)
{
	int oldest = Min(scan->as_of - day, HISTORY - 1);
	int age;

	for (age = oldest; age >= 0; age--)
	{
		int then = scan->as_of - age - day; /* how old the points are on the day of that age */

		if (then >= scan->window)
			break;
		scan->scores[age][scan->nusers] += points * scan->decay[then];
	}
}

/*
 * grow_users doubles the room for users.
 */
static void
grow_users(ActivityScan *scan)
{
	RollupSpace *space = &scan->days.space;
	uint32 more = Max(FIRST_USERS, scan->max_users * 2);
	int i;

	/* Of twice as many, numbers would not do any more. */
	if (scan->max_users > PG_UINT32_MAX / 4)
		elog(ERROR, "too many users");
	scan->users =
		ecstats_rollup_grow(space, scan->users, (Size) scan->max_users * sizeof(ActivityUser),
							(Size) more * sizeof(ActivityUser));
	for (i = 0; i < HISTORY; i++)
		scan->scores[i] =
			ecstats_rollup_grow(space, scan->scores[i], (Size) scan->max_users * sizeof(double),
								(Size) more * sizeof(double));
	scan->max_users = more;
}

/*
 * keep_id copies an id to where it stays.
 */
static const char *
keep_id(ActivityScan *scan, const char *id, uint32 length)
{
	char *kept;

	if (length > scan->ids_left)
	{
		scan->ids = ecstats_rollup_alloc(&scan->days.space, ID_CHUNK);
		scan->ids_left = ID_CHUNK;
	}
	kept = scan->ids;
	memcpy(kept, id, length);
	scan->ids += length;
	scan->ids_left -= length;
	return kept;
}

/*
 * find_cutoffs finds the least score of a level on each scored day: by its share of users, or its limit.
 * A level that has neither is nobody's.
 */
static void
find_cutoffs(ActivityScan *scan, ArrayType *shares, ArrayType *limits)
{
	Datum *share;
	Datum *limit;
	bool *no_share;
	bool *no_limit;
	int nshares;
	int nlimits;
	int level;
	int age;

	deconstruct_array(shares, NUMERICOID, -1, false, TYPALIGN_INT, &share, &no_share, &nshares);
	deconstruct_array(limits, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &limit,
					  &no_limit, &nlimits);
	if (nshares != LEVELS || nlimits != LEVELS)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("shares and limits have %d elements each", LEVELS)));
	for (level = 0; level < LEVELS; level++)
		for (age = 0; age < HISTORY; age++)
		{
			double *cutoff = &scan->cutoffs[level][age];

			if (!no_share[level])
				*cutoff = ecstats_activity_cutoff(scan->scores[age], scan->nusers, share[level]);
			else if (!no_limit[level])
				*cutoff = DatumGetFloat8(limit[level]);
			else
				*cutoff = get_float8_infinity();
		}
}

/*
 * put_users returns a row for each user.
 */
static void
put_users(ActivityScan *scan, EcstatsRows *result)
{
	static const char *const names[] = {"high", "mid", "low"};
	Datum levels[LEVELS + 1];
	Datum values[RESULT_COLUMNS];
	bool nulls[RESULT_COLUMNS] = {false};
	text *id = palloc(VARHDRSZ + ROLLUP_MAX_LENGTH);
	int encoding = GetDatabaseEncoding();
	uint32 i;
	int age;

	for (i = 0; i <= LEVELS; i++)
		levels[i] = CStringGetTextDatum(names[i]);
	values[RESULT_USER] = PointerGetDatum(id);
	for (i = 0; i < scan->nusers; i++)
	{
		const ActivityUser *user = &scan->users[i];

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		/* A block is bytes, and a text is trusted. */
		if (!pg_verify_mbstr(encoding, user->id, (int) user->length, true))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
					 errdetail("An id is not valid in this database's encoding.")));
		SET_VARSIZE(id, VARHDRSZ + user->length);
		memcpy(VARDATA(id), user->id, user->length);
		values[RESULT_SCORE] = Float8GetDatum(scan->scores[0][i]);
		values[RESULT_PREVIOUS_SCORE] = Float8GetDatum(scan->scores[1][i]);
		values[RESULT_LEVEL] = levels[level_of(scan, i, 0)];
		values[RESULT_PREVIOUS_LEVEL] = levels[level_of(scan, i, 1)];
		values[RESULT_LAST_ACTIVE_DAY] = DateADTGetDatum(user->last_active);
		values[RESULT_ACTIVE_DAYS] = Int32GetDatum(user->active_days);
		values[RESULT_FIRST_SEEN] = DateADTGetDatum(user->first_seen);
		nulls[RESULT_FIRST_SEEN] = !user->has_first;
		for (age = 0; age < HISTORY && level_of(scan, i, age) != LEVEL_HIGH; age++)
			;
		values[RESULT_LAST_HIGH_DAY] = DateADTGetDatum(scan->as_of - age);
		nulls[RESULT_LAST_HIGH_DAY] = age == HISTORY;
		values[RESULT_IN_RANGE] = BoolGetDatum(user->in_range);
		ecstats_rows_add(result, values, nulls);
	}
}

/*
 * level_of returns the level of a user on the day of an age; LEVELS is low.
 */
static int
level_of(const ActivityScan *scan, uint32 user, int age)
{
	double score = scan->scores[age][user];
	int level = 0;

	if (!(score > 0))
		return LEVELS;
	while (level < LEVELS && score < scan->cutoffs[level][age])
		level++;
	return level;
}
