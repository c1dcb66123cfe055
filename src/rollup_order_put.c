/*
 * rollup_order_put.c
 *		What one pass over order lines returns: totals, sales, and which orders and buyers there are.
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"
#include "rollup_order.h"

/* The columns of the result. */
enum
{
	RESULT_KIND,
	RESULT_PRODUCT,
	RESULT_REGION,
	RESULT_CHANNEL,
	RESULT_QUANTITY,
	RESULT_AMOUNT,
	RESULT_ORDERS,
	RESULT_BUYERS,
	RESULT_REFUND,
	RESULT_PACKED,
	RESULT_COLUMNS
};

/* A row of the result, all NULL but the kind. */
typedef struct ResultRow
{
	Datum values[RESULT_COLUMNS];
	bool nulls[RESULT_COLUMNS];
} ResultRow;

static void put_totals(OrderScan *scan, EcstatsRows *result);
static void put_groups(OrderScan *scan, EcstatsRows *result);
static void put_ids(EcstatsRows *result, char kind, const SeenTable *seen,
					const RollupSorted *sorted);
static void put_block(EcstatsRows *result, char kind, RollupBlockWriter *writer);
static void rank_places(BuyerScan *buyers);
static void put_buyers(OrderScan *scan, EcstatsRows *result, const RollupSorted *users);
static uint32 places_of(OrderScan *scan, uint32 newest, const Buyer ***places, uint32 *max_places);
static int compare_places(const void *a, const void *b, void *places);
static void put_buyer(EcstatsRows *result, Datum user, const RollupTable *places,
					  const Buyer *buyer);
static void row_init(ResultRow *row, char kind);
static void row_set(ResultRow *row, int column, Datum value);
static void row_set_parts(ResultRow *row, int column, const RollupTable *table,
						  const RollupRecord *record);

/*
 * ecstats_rollup_order_put returns the rows of a finished pass.
 */
void
ecstats_rollup_order_put(OrderScan *scan, EcstatsRows *result)
{
	const RollupSorted *users;

	put_totals(scan, result);
	put_groups(scan, result);
	if (!scan->with_ids)
		return;
	put_ids(result, 'o', &scan->orders, ecstats_rollup_sort(&scan->orders.table));
	users = ecstats_rollup_sort(&scan->users.table);
	put_ids(result, 'b', &scan->users, users);
	put_buyers(scan, result, users);
}

/*
 * ecstats_rollup_order_add adds with a check.
 */
void
ecstats_rollup_order_add(int64 *sum, int64 quantity)
{
	if (pg_add_s64_overflow(*sum, quantity, sum))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("sum of quantities is out of range")));
}

/*
 * put_totals returns rows 't', 'r', 'a' and 'p'. The totals of sums are those of the groups.
 */
static void
put_totals(OrderScan *scan, EcstatsRows *result)
{
	static const struct
	{
		char kind;
		SeenAs role;
	} kinds[] = {{'t', SEEN_SALE}, {'r', SEEN_RETURN}, {'a', SEEN_ABNORMAL}, {'p', SEEN_PAID}};
	RollupMoney amount = {0};
	RollupMoney refund = {0};
	int64 quantity = 0;
	ResultRow row;
	uint32 i;

	for (i = 0; i < scan->ngroups; i++)
	{
		ecstats_rollup_order_add(&quantity, scan->groups[i].quantity);
		ecstats_rollup_money_merge(&amount, &scan->groups[i].amount);
		ecstats_rollup_money_merge(&refund, &scan->groups[i].refund);
	}
	for (i = 0; i < lengthof(kinds); i++)
	{
		SeenAs role = kinds[i].role;

		row_init(&row, kinds[i].kind);
		row_set(&row, RESULT_ORDERS, Int64GetDatum(scan->orders.distinct[role]));
		if (role == SEEN_SALE || role == SEEN_PAID)
		{
			row_set(&row, RESULT_AMOUNT,
					ecstats_rollup_money_get(role == SEEN_SALE ? &amount : &scan->paid, false));
			row_set(&row, RESULT_BUYERS, Int64GetDatum(scan->users.distinct[role]));
		}
		if (role == SEEN_SALE)
		{
			row_set(&row, RESULT_QUANTITY, Int64GetDatum(quantity));
			row_set(&row, RESULT_REFUND, ecstats_rollup_money_get(&refund, true));
		}
		ecstats_rows_add(result, row.values, row.nulls);
	}
}

/*
 * put_groups returns a row 's' for each group, in the order of their keys, so that whoever stores them
 * fills the index from one end to the other. What a row needs is freed after it.
 */
static void
put_groups(OrderScan *scan, EcstatsRows *result)
{
	MemoryContext row_context =
		AllocSetContextCreate(scan->space.context, "ecstats rollup row", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_context);
	RollupSorted *sorted = ecstats_rollup_sort(&scan->keys);
	ResultRow row;
	uint32 number;
	uint32 i;

	for (i = 0; i < scan->ngroups; i++)
	{
		const RollupRecord *record = sorted[i].record;
		const SalesGroup *group;

		CHECK_FOR_INTERRUPTS();
		memcpy(&number, record->payload, sizeof(number));
		group = &scan->groups[number];
		row_init(&row, 's');
		row_set_parts(&row, RESULT_PRODUCT, &scan->keys, record);
		row_set(&row, RESULT_QUANTITY, Int64GetDatum(group->quantity));
		row_set(&row, RESULT_AMOUNT, ecstats_rollup_money_get(&group->amount, false));
		row_set(&row, RESULT_ORDERS, Int64GetDatum(group->orders));
		row_set(&row, RESULT_BUYERS, Int64GetDatum(group->buyers));
		row_set(&row, RESULT_REFUND, ecstats_rollup_money_get(&group->refund, true));
		ecstats_rows_add(result, row.values, row.nulls);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old);
}

/*
 * put_ids returns a row for each block of ids with their roles. A user of return lines alone, who has
 * none, is no buyer.
 */
static void
put_ids(EcstatsRows *result, char kind, const SeenTable *seen, const RollupSorted *sorted)
{
	const RollupTable *table = &seen->table;
	RollupBlockWriter writer;
	uint32 roles;
	uint32 i;

	ecstats_rollup_writer_init(&writer, ROLLUP_NUMBER);
	for (i = 0; i < table->members; i++)
	{
		const RollupRecord *record = sorted[i].record;
		const char *id = rollup_record_bytes(table, record);

		memcpy(&roles, record->payload, sizeof(roles));
		if (roles == 0)
			continue;
		if (ecstats_rollup_writer_ends(&writer, id, record->length))
			put_block(result, kind, &writer);
		ecstats_rollup_writer_number(&writer, id, record->length, roles);
	}
	if (writer.ids > 0)
		put_block(result, kind, &writer);
}

/*
 * put_block returns the block of a writer, and begins another one.
 */
static void
put_block(EcstatsRows *result, char kind, RollupBlockWriter *writer)
{
	text *first = cstring_to_text_with_len(writer->first.data, writer->first.len);
	ResultRow row;

	CHECK_FOR_INTERRUPTS();
	row_init(&row, kind);
	row_set(&row, RESULT_PRODUCT, PointerGetDatum(first));
	row_set(&row, RESULT_QUANTITY, Int64GetDatum(writer->ids));
	row_set(&row, RESULT_PACKED, PointerGetDatum(ecstats_rollup_writer_block(writer)));
	ecstats_rows_add(result, row.values, row.nulls);
	pfree(first);
	ecstats_rollup_writer_reset(writer);
}

/*
 * rank_places numbers the places in the order of their region and channel.
 */
static void
rank_places(BuyerScan *buyers)
{
	RollupSorted *sorted = ecstats_rollup_sort(&buyers->places);
	uint32 i;

	for (i = 0; i < buyers->places.members; i++)
		memcpy(((RollupRecord *) sorted[i].record)->payload, &i, sizeof(i));
}

/*
 * put_buyers returns a row 'u' for each user and place, in the order of user_id, region and channel,
 * for the sake of the index that they go into. What a row needs is freed after it.
 */
static void
put_buyers(OrderScan *scan, EcstatsRows *result, const RollupSorted *users)
{
	const RollupTable *table = &scan->users.table;
	MemoryContext row_context =
		AllocSetContextCreate(scan->space.context, "ecstats rollup row", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_context);
	const Buyer **places = NULL;
	uint32 max_places = 0;
	uint32 nplaces;
	uint32 i;
	uint32 n;
	SeenUser user;

	rank_places(&scan->buyers);
	for (i = 0; i < table->members; i++)
	{
		const RollupRecord *record = users[i].record;
		Datum id;

		CHECK_FOR_INTERRUPTS();
		memcpy(&user, record->payload, sizeof(user));
		nplaces = places_of(scan, user.buyers, &places, &max_places);
		if (nplaces == 0)
			continue;
		id = PointerGetDatum(
			cstring_to_text_with_len(rollup_record_bytes(table, record), record->length));
		for (n = 0; n < nplaces; n++)
			put_buyer(result, id, &scan->buyers.places, places[n]);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old);
}

/*
 * places_of makes a sorted array of what a user bought in each place, in a room that grows, and
 * returns how many there are.
 */
static uint32
places_of(OrderScan *scan, uint32 newest, const Buyer ***places, uint32 *max_places)
{
	uint32 nplaces = 0;
	uint32 ref;

	for (ref = newest; ref != 0; ref = (*places)[nplaces - 1]->next)
	{
		if (nplaces == *max_places)
		{
			*max_places = Max(64, nplaces * 2);
			*places = ecstats_rollup_grow(&scan->space, *places, nplaces * sizeof(Buyer *),
										  *max_places * sizeof(Buyer *));
		}
		(*places)[nplaces++] = (const Buyer *) rollup_record(&scan->buyers.buyers, ref);
	}
	if (nplaces > 1)
		qsort_arg(*places, nplaces, sizeof(Buyer *), compare_places, &scan->buyers.places);
	return nplaces;
}

/*
 * compare_places orders by the rank of the place.
 */
static int
compare_places(const void *a, const void *b, void *places)
{
	uint32 left;
	uint32 right;

	memcpy(&left, rollup_record(places, (*(const Buyer *const *) a)->place)->payload, sizeof(left));
	memcpy(&right, rollup_record(places, (*(const Buyer *const *) b)->place)->payload,
		   sizeof(right));
	return (left > right) - (left < right);
}

/*
 * put_buyer returns the row of what a user bought in one place.
 */
static void
put_buyer(EcstatsRows *result, Datum user, const RollupTable *places, const Buyer *buyer)
{
	ResultRow row;

	row_init(&row, 'u');
	row_set(&row, RESULT_PRODUCT, user);
	row_set_parts(&row, RESULT_REGION, places, rollup_record(places, buyer->place));
	row_set(&row, RESULT_ORDERS, Int64GetDatum(buyer->orders));
	row_set(&row, RESULT_AMOUNT, ecstats_rollup_money_get(&buyer->gmv, false));
	row_set(&row, RESULT_REFUND, ecstats_rollup_money_get(&buyer->paid, false));
	ecstats_rows_add(result, row.values, row.nulls);
}

/*
 * row_init makes a row of NULLs.
 */
static void
row_init(ResultRow *row, char kind)
{
	memset(row->nulls, true, sizeof(row->nulls));
	memset(row->values, 0, sizeof(row->values));
	row_set(row, RESULT_KIND, CharGetDatum(kind));
}

/*
 * row_set gives a column a value.
 */
static void
row_set(ResultRow *row, int column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

/*
 * row_set_parts gives the columns from this one to the channel the parts of a record's string, which
 * zero bytes part.
 */
static void
row_set_parts(ResultRow *row, int column, const RollupTable *table, const RollupRecord *record)
{
	const char *at = rollup_record_bytes(table, record);
	const char *end = at + record->length;

	for (; column <= RESULT_CHANNEL; column++)
	{
		const char *zero = memchr(at, '\0', end - at);
		int length = (int) ((zero != NULL ? zero : end) - at);

		row_set(row, column, PointerGetDatum(cstring_to_text_with_len(at, length)));
		at += length + 1;
	}
}
