/*
 * rollup_event_put.c
 *		What one pass over events returns: totals, events, funnel, users.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

static void put_row(EcstatsRows *result, char kind, Datum name, int64 a, int64 b, Datum counts);
static void put_totals(RollupEventScan *scan, EcstatsRows *result);
static void put_events(RollupEventScan *scan, EcstatsRows *result, bool numbers);
static void put_funnel(RollupEventScan *scan, EcstatsRows *result, ArrayType *funnel);
static int funnel_numbers(RollupEventScan *scan, const Datum *steps, int nsteps, uint32 *numbers);
static void put_users(RollupEventScan *scan, EcstatsRows *result);

/*
 * ecstats_rollup_event_put returns the rows of a finished pass.
 */
void
ecstats_rollup_event_put(RollupEventScan *scan, EcstatsRows *result, ArrayType *funnel,
						 bool with_users)
{
	put_totals(scan, result);
	put_events(scan, result, with_users);
	put_funnel(scan, result, funnel);
	if (with_users)
		put_users(scan, result);
}

/*
 * put_row returns one row; name and counts may be 0 for NULL, b negative.
 */
static void
put_row(EcstatsRows *result, char kind, Datum name, int64 a, int64 b, Datum counts)
{
	Datum values[5];
	bool nulls[5];

	values[0] = CharGetDatum(kind);
	values[1] = name;
	values[2] = Int64GetDatum(a);
	values[3] = Int64GetDatum(b);
	values[4] = counts;
	nulls[0] = nulls[2] = false;
	nulls[1] = name == (Datum) 0;
	nulls[3] = b < 0;
	nulls[4] = counts == (Datum) 0;
	ecstats_rows_add(result, values, nulls);
}

/*
 * put_totals returns rows 't' (events, page views) and 'v' (users).
 */
static void
put_totals(RollupEventScan *scan, EcstatsRows *result)
{
	int64 events = 0;
	int64 page_views = 0;
	uint32 i;

	for (i = 0; i < scan->nevents; i++)
	{
		events += scan->events[i].events;
		if (scan->events[i].page_view)
			page_views += scan->events[i].events;
	}
	put_row(result, 't', (Datum) 0, events, page_views, (Datum) 0);
	put_row(result, 'v', (Datum) 0, scan->users.table.members, -1, (Datum) 0);
}

/*
 * put_events returns a row 'e' for each event and, if wanted, a row 'n' with its number.
 */
static void
put_events(RollupEventScan *scan, EcstatsRows *result, bool numbers)
{
	uint32 i;

	for (i = 0; i < scan->nevents; i++)
	{
		RollupRecord *record = rollup_record(&scan->names, scan->events[i].ref);
		text *name = cstring_to_text_with_len(rollup_record_bytes(&scan->names, record),
											  (int) record->length);

		put_row(result, 'e', PointerGetDatum(name), scan->events[i].events, scan->events[i].users,
				(Datum) 0);
		if (numbers)
			put_row(result, 'n', PointerGetDatum(name), (int64) i + 1, -1, (Datum) 0);
		pfree(name);
	}
}

/*
 * put_funnel returns a row 'f' for each step: the users who have it and all earlier ones.
 */
static void
put_funnel(RollupEventScan *scan, EcstatsRows *result, ArrayType *funnel)
{
	Datum *steps;
	uint32 *numbers;
	int64 *users;
	int nsteps;
	int known;
	uint32 chunk = 0;
	uint32 at = 0;
	RollupRecord *record;
	int i;

	ecstats_rollup_texts(funnel, "funnel", &steps, &nsteps);
	numbers = ecstats_rollup_alloc(&scan->space, (nsteps + 1) * sizeof(uint32));
	users = ecstats_rollup_alloc(&scan->space, (nsteps + 1) * sizeof(int64));
	known = funnel_numbers(scan, steps, nsteps, numbers);
	while (known > 0 && (record = ecstats_rollup_users_next(&scan->users, &chunk, &at)) != NULL)
	{
		const RollupUser *user = (const RollupUser *) record->payload;

		for (i = 0; i < known && ecstats_rollup_user_did(&scan->users, user, numbers[i]); i++)
			users[i]++;
	}
	for (i = 0; i < nsteps; i++)
		put_row(result, 'f', steps[i], i + 1, users[i], (Datum) 0);
}

/*
 * funnel_numbers finds the event numbers of the steps, up to the first step that nobody has, and
 * returns how many they are: nobody has a later one together with that.
 */
static int
funnel_numbers(RollupEventScan *scan, const Datum *steps, int nsteps, uint32 *numbers)
{
	int known = 0;
	uint32 n = 0;

	while (known < nsteps && n < scan->nevents)
	{
		struct varlena *step = (struct varlena *) DatumGetPointer(steps[known]);

		if (rollup_record_is(&scan->names, rollup_record(&scan->names, scan->events[n].ref),
							 VARDATA_ANY(step), VARSIZE_ANY_EXHDR(step)))
		{
			numbers[known++] = n;
			n = 0;
		}
		else
			n++;
	}
	return known;
}

/*
 * put_users returns a row 'u' for each user: events, different names, packed counts.
 */
static void
put_users(RollupEventScan *scan, EcstatsRows *result)
{
	char *id = ecstats_rollup_alloc(&scan->space, VARHDRSZ + ROLLUP_MAX_LENGTH);
	StringInfoData packed;
	uint32 chunk = 0;
	uint32 at = 0;
	RollupRecord *record;

	initStringInfo(&packed);
	while ((record = ecstats_rollup_users_next(&scan->users, &chunk, &at)) != NULL)
	{
		int ncounts =
			ecstats_rollup_user_counts(&scan->users, (const RollupUser *) record->payload);
		int64 events = 0;
		int i;

		for (i = 0; i < ncounts; i++)
			events += scan->users.counts[i].count;
		memcpy(id + VARHDRSZ, rollup_record_bytes(&scan->users.table, record), record->length);
		SET_VARSIZE(id, VARHDRSZ + record->length);
		resetStringInfo(&packed);
		appendStringInfoSpaces(&packed, VARHDRSZ);
		ecstats_rollup_counts_pack(&packed, scan->users.counts, ncounts);
		SET_VARSIZE(packed.data, packed.len);
		put_row(result, 'u', PointerGetDatum(id), events, ncounts, PointerGetDatum(packed.data));
	}
}
