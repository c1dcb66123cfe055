/*
 * rollup_period.c
 *		Distinct ids over several days: each day's ids are stored sorted, and read side by side
 *		(rollup_days.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/date.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"
#include "rollup_days.h"

/* Roles of an id of ecstats.order_day, by bit. */
enum
{
	ROLE_SALE,
	ROLE_RETURN,
	ROLE_ABNORMAL,
	ROLE_PAID,
	ROLES
};

/* The columns of the result. */
enum
{
	RESULT_UV,
	RESULT_ORDERS,
	RESULT_RETURN_ORDERS,
	RESULT_ABNORMAL_ORDERS,
	RESULT_PAID_ORDERS,
	RESULT_BUYERS,
	RESULT_PAYERS,
	RESULT_COLUMNS
};

/* What is counted of one kind of ids. */
typedef struct PeriodCount
{
	RollupDays days;
	uint32 *roles; /* of the ids of the round */
	uint32 nroles;
	uint32 max_roles;
	int64 distinct;
	int64 by_role[ROLES];
} PeriodCount;

PG_FUNCTION_INFO_V1(ecstats_rollup_period);

static void count_ids(PeriodCount *count, const char *relation, char kind, const DateADT *days,
					  int ndays);
static void take_visitor(void *arg, uint32 id, int stream, RollupBlockReader *reader);
static void take_roles(void *arg, uint32 id, int stream, RollupBlockReader *reader);
static void end_round(void *arg, const RollupDays *days);

/*
 * ecstats_rollup_period(from_day date, to_day date) returns the distinct counts of a range of stored
 * days, see sql/22_rollup_c.sql. What it reads is what the caller's snapshot sees.
 */
Datum
ecstats_rollup_period(PG_FUNCTION_ARGS)
{
	Datum values[RESULT_COLUMNS];
	bool nulls[RESULT_COLUMNS] = {false};
	EcstatsRows result = ecstats_rows_begin(fcinfo);
	DateADT days[ROLLUP_MAX_DAYS];
	int ndays = ecstats_rollup_stored_days(PG_GETARG_DATEADT(0), PG_GETARG_DATEADT(1), days);
	PeriodCount count;

	count_ids(&count, "user_day", '\0', days, ndays);
	values[RESULT_UV] = Int64GetDatum(count.distinct);

	count_ids(&count, "order_day", 'o', days, ndays);
	values[RESULT_ORDERS] = Int64GetDatum(count.by_role[ROLE_SALE]);
	values[RESULT_RETURN_ORDERS] = Int64GetDatum(count.by_role[ROLE_RETURN]);
	values[RESULT_ABNORMAL_ORDERS] = Int64GetDatum(count.by_role[ROLE_ABNORMAL]);
	values[RESULT_PAID_ORDERS] = Int64GetDatum(count.by_role[ROLE_PAID]);

	count_ids(&count, "order_day", 'b', days, ndays);
	values[RESULT_BUYERS] = Int64GetDatum(count.by_role[ROLE_SALE]);
	values[RESULT_PAYERS] = Int64GetDatum(count.by_role[ROLE_PAID]);

	ecstats_rows_add(&result, values, nulls);
	return (Datum) 0;
}

/*
 * count_ids counts the distinct ids of a relation over some days; kind '\0' is a relation without
 * kinds. Its memory is given back, the counts stay.
 */
static void
count_ids(PeriodCount *count, const char *relation, char kind, const DateADT *days, int ndays)
{
	int i;

	memset(count, 0, sizeof(*count));
	ecstats_rollup_days_init(&count->days, ndays);
	count->days.arg = count;
	count->days.take = kind == '\0' ? take_visitor : take_roles;
	count->days.end_round = end_round;
	for (i = 0; i < ndays; i++)
		ecstats_rollup_days_add(&count->days, relation, kind, days[i]);
	ecstats_rollup_days_read(&count->days);
	ecstats_rollup_days_end(&count->days);
}

/*
 * take_visitor has nothing to add: that the id is there is what counts.
 */
static void
take_visitor(void *arg, uint32 id, int stream, RollupBlockReader *reader)
{
}

/*
 * take_roles counts the roles that are new to an id.
 */
static void
take_roles(void *arg, uint32 id, int stream, RollupBlockReader *reader)
{
	PeriodCount *count = arg;
	uint32 fresh;
	int i;

	if (reader->number == 0 || reader->number >= (1U << ROLES))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
				 errdetail("An id has the roles " UINT64_FORMAT ".", reader->number),
				 errhint("CALL ecstats_rebuild(...) makes a day's blocks anew from raw rows.")));
	if (id >= count->max_roles)
	{
		uint32 more = Max(1024, id * 2);

		count->roles =
			ecstats_rollup_grow(&count->days.space, count->roles, count->max_roles * sizeof(uint32),
								more * sizeof(uint32));
		count->max_roles = more;
	}
	/* Ids of a round are numbered as they come. */
	if (id == count->nroles)
		count->roles[count->nroles++] = 0;
	fresh = (uint32) reader->number & ~count->roles[id];
	for (i = 0; fresh != 0 && i < ROLES; i++)
		count->by_role[i] += (fresh >> i) & 1;
	count->roles[id] |= fresh;
}

/*
 * end_round counts the ids of a round.
 */
static void
end_round(void *arg, const RollupDays *days)
{
	PeriodCount *count = arg;

	count->distinct += days->nids;
	count->nroles = 0;
}
