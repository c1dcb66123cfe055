/*
 * rollup_sort.c
 *		The records of a table in the order of their strings, by bytes, as collation "C" does. What all
 *		strings begin with is left out, the next eight bytes are a number to sort by, and only strings
 *		that agree in them are looked at again, from there on.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bswap.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"

#define KEY_BYTES	8
#define DIGITS		256
#define RADIX_ITEMS 512 /* from here on counting digits is faster than comparing */

/* What is being sorted. */
typedef struct Sorting
{
	const RollupTable *table;
	RollupSorted *spare; /* room for all items */
} Sorting;

static void sort_from(const Sorting *sorting, RollupSorted *items, uint32 nitems, uint32 depth);
static uint32 shared_depth(const Sorting *sorting, const RollupSorted *items, uint32 nitems,
						   uint32 depth);
static uint64 key_at(const RollupTable *table, const RollupRecord *record, uint32 depth);
static void sort_by_key(const Sorting *sorting, RollupSorted *items, uint32 nitems);
static int compare_keys(const void *a, const void *b);

/*
 * ecstats_rollup_sort returns the records of a table, table->members of them, in ascending order. The
 * array is taken from the table's space.
 */
RollupSorted *
ecstats_rollup_sort(const RollupTable *table)
{
	Size size = Max(table->members, 1) * sizeof(RollupSorted);
	RollupSorted *items = ecstats_rollup_alloc(table->space, size);
	Sorting sorting = {table, ecstats_rollup_alloc(table->space, size)};
	uint32 chunk = 0;
	uint32 at = 0;
	uint32 n = 0;
	RollupRecord *record;

	while ((record = ecstats_rollup_table_next(table, &chunk, &at)) != NULL)
		items[n++].record = record;
	Assert(n == table->members);
	sort_from(&sorting, items, n, 0);
	ecstats_rollup_free(table->space, sorting.spare, size);
	return items;
}

/*
 * sort_from sorts items that agree in their first depth bytes.
 */
static void
sort_from(const Sorting *sorting, RollupSorted *items, uint32 nitems, uint32 depth)
{
	uint32 from;
	uint32 to;
	uint32 i;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	depth = shared_depth(sorting, items, nitems, depth);
	for (i = 0; i < nitems; i++)
		items[i].key = key_at(sorting->table, items[i].record, depth);
	sort_by_key(sorting, items, nitems);

	/*
	 * Strings have no zero byte, or keys of parts always as many: those of one key go on, all of
	 * them, after its eight bytes.
	 */
	for (from = 0; from < nitems; from = to)
	{
		for (to = from + 1; to < nitems && items[to].key == items[from].key; to++)
			continue;
		if (to - from > 1)
			sort_from(sorting, items + from, to - from, depth + KEY_BYTES);
	}
}

/*
 * shared_depth returns in how many of their first bytes all items agree; at least the depth given.
 */
static uint32
shared_depth(const Sorting *sorting, const RollupSorted *items, uint32 nitems, uint32 depth)
{
	const char *bytes;
	uint32 shared;
	uint32 i;

	if (nitems == 0)
		return depth;
	bytes = rollup_record_bytes(sorting->table, items[0].record);
	shared = items[0].record->length;
	for (i = 1; i < nitems && shared > depth; i++)
	{
		const RollupRecord *record = items[i].record;
		const char *other = rollup_record_bytes(sorting->table, record);
		uint32 at = depth;

		if (i + 8 < nitems)
			rollup_prefetch(rollup_record_bytes(sorting->table, items[i + 8].record));
		while (at < shared && at < record->length && bytes[at] == other[at])
			at++;
		shared = at;
	}
	return Max(shared, depth);
}

/*
 * key_at returns the eight bytes of a string from a depth on as a number of the same order; zeros
 * follow a string that ends before.
 */
static uint64
key_at(const RollupTable *table, const RollupRecord *record, uint32 depth)
{
	uint64 key = 0;

	if (record->length > depth)
		memcpy(&key, rollup_record_bytes(table, record) + depth,
			   Min(KEY_BYTES, record->length - depth));
	return pg_ntoh64(key);
}

/*
 * sort_by_key sorts items by their keys: long lists by counting, digit by digit from the last one,
 * without the digits that are the same in all of them.
 */
static void
sort_by_key(const Sorting *sorting, RollupSorted *items, uint32 nitems)
{
	uint32 counts[KEY_BYTES][DIGITS];
	RollupSorted *from = items;
	RollupSorted *to = sorting->spare;
	uint32 i;
	int digit;

	if (nitems < RADIX_ITEMS)
	{
		qsort(items, nitems, sizeof(RollupSorted), compare_keys);
		return;
	}
	memset(counts, 0, sizeof(counts));
	for (i = 0; i < nitems; i++)
		for (digit = 0; digit < KEY_BYTES; digit++)
			counts[digit][(items[i].key >> (8 * digit)) & 0xFF]++;
	for (digit = 0; digit < KEY_BYTES; digit++)
	{
		uint32 *place = counts[digit];
		RollupSorted *swap;
		uint32 sum = 0;
		int value;

		if (place[(items[0].key >> (8 * digit)) & 0xFF] == nitems)
			continue;
		CHECK_FOR_INTERRUPTS();
		for (value = 0; value < DIGITS; value++)
		{
			uint32 here = place[value];

			place[value] = sum;
			sum += here;
		}
		for (i = 0; i < nitems; i++)
			to[place[(from[i].key >> (8 * digit)) & 0xFF]++] = from[i];
		swap = from;
		from = to;
		to = swap;
	}
	if (from != items)
		memcpy(items, from, nitems * sizeof(RollupSorted));
}

/*
 * compare_keys orders by key.
 */
static int
compare_keys(const void *a, const void *b)
{
	uint64 left = ((const RollupSorted *) a)->key;
	uint64 right = ((const RollupSorted *) b)->key;

	return (left > right) - (left < right);
}
