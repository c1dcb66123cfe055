/*
 * rollup_event_put.c
 *		What one pass over events returns: totals, events, funnel, users.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"

/* How many users ahead the record of one is asked for. */
#define AHEAD 8

static void put_row(EcstatsRows *result, char kind, Datum name, int64 a, int64 b, Datum counts);
static void put_totals(RollupEventScan *scan, EcstatsRows *result);
static void put_events(RollupEventScan *scan, EcstatsRows *result);
static void put_name(RollupEventScan *scan, EcstatsRows *result, char kind, uint32 event, int64 a,
					 int64 b);
static void put_funnel(RollupEventScan *scan, EcstatsRows *result, ArrayType *funnel);
static int funnel_numbers(RollupEventScan *scan, const Datum *steps, int nsteps, uint32 *numbers);
static uint32 *number_events(RollupEventScan *scan, EcstatsRows *result, ArrayType *names);
static void put_users(RollupEventScan *scan, EcstatsRows *result, const uint32 *numbers);
static void put_block(EcstatsRows *result, RollupBlockWriter *writer);

/*
 * ecstats_rollup_event_put returns the rows of a finished pass. names: the event names that have a
 * number, in the order of these; NULL: users are not wanted.
 */
void
ecstats_rollup_event_put(RollupEventScan *scan, EcstatsRows *result, ArrayType *funnel,
						 ArrayType *names)
{
	put_totals(scan, result);
	put_events(scan, result);
	put_funnel(scan, result, funnel);
	if (names != NULL)
		put_users(scan, result, number_events(scan, result, names));
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
 * put_events returns a row 'e' for each event.
 */
static void
put_events(RollupEventScan *scan, EcstatsRows *result)
{
	uint32 i;

	for (i = 0; i < scan->nevents; i++)
		put_name(scan, result, 'e', i, scan->events[i].events, scan->events[i].users);
}

/*
 * put_name returns a row about an event.
 */
static void
put_name(RollupEventScan *scan, EcstatsRows *result, char kind, uint32 event, int64 a, int64 b)
{
	RollupRecord *record = rollup_record(&scan->names, scan->events[event].ref);
	text *name =
		cstring_to_text_with_len(rollup_record_bytes(&scan->names, record), (int) record->length);

	put_row(result, kind, PointerGetDatum(name), a, b, (Datum) 0);
	pfree(name);
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
	while (known > 0 &&
		   (record = ecstats_rollup_table_next(&scan->users.table, &chunk, &at)) != NULL)
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
 * number_events returns the stored number of each event of the scan. New names get the numbers after
 * those there are, in the order of the names, and a row 'n'.
 */
static uint32 *
number_events(RollupEventScan *scan, EcstatsRows *result, ArrayType *names)
{
	uint32 *numbers = ecstats_rollup_alloc(&scan->space, (scan->nevents + 1) * sizeof(uint32));
	RollupSorted *sorted;
	Datum *known;
	int nknown;
	uint32 event;
	uint32 i;

	ecstats_rollup_texts(names, "names", &known, &nknown);
	for (i = 0; i < nknown; i++)
	{
		const struct varlena *name = (const struct varlena *) DatumGetPointer(known[i]);
		const RollupRecord *record =
			ecstats_rollup_table_find(&scan->names, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

		if (record == NULL)
			continue;
		memcpy(&event, record->payload, sizeof(event));
		numbers[event] = i + 1;
	}
	sorted = ecstats_rollup_sort(&scan->names);
	for (i = 0; i < scan->nevents; i++)
	{
		memcpy(&event, sorted[i].record->payload, sizeof(event));
		if (numbers[event] != 0)
			continue;
		numbers[event] = (uint32) ++nknown;
		put_name(scan, result, 'n', event, nknown, -1);
	}
	return numbers;
}

/*
 * put_users returns a row 'u' for each block of users.
 */
static void
put_users(RollupEventScan *scan, EcstatsRows *result, const uint32 *numbers)
{
	RollupTable *table = &scan->users.table;
	RollupSorted *sorted;
	RollupBlockWriter writer;
	uint32 i;
	int n;
	int j;

	/* Nobody is looked up any more: sorting takes the room. */
	ecstats_rollup_table_seal(table);
	sorted = ecstats_rollup_sort(table);
	ecstats_rollup_writer_init(&writer, ROLLUP_COUNTS);
	for (i = 0; i < table->members; i++)
	{
		const RollupRecord *record = sorted[i].record;
		const char *id = rollup_record_bytes(table, record);

		if (i + AHEAD < table->members)
			rollup_prefetch(sorted[i + AHEAD].record);
		if (ecstats_rollup_writer_ends(&writer, id, record->length))
			put_block(result, &writer);
		n = ecstats_rollup_user_counts(&scan->users, (const RollupUser *) record->payload);
		for (j = 0; j < n; j++)
			scan->users.counts[j].event = numbers[scan->users.counts[j].event - 1];
		ecstats_rollup_counts_sort(scan->users.counts, n);
		ecstats_rollup_writer_counts(&writer, id, record->length, scan->users.counts, n);
	}
	if (writer.ids > 0)
		put_block(result, &writer);
}

/*
 * put_block returns the block of a writer, and begins another one.
 */
static void
put_block(EcstatsRows *result, RollupBlockWriter *writer)
{
	text *first = cstring_to_text_with_len(writer->first.data, writer->first.len);

	CHECK_FOR_INTERRUPTS();
	put_row(result, 'u', PointerGetDatum(first), writer->ids, -1,
			PointerGetDatum(ecstats_rollup_writer_block(writer)));
	pfree(first);
	ecstats_rollup_writer_reset(writer);
}
