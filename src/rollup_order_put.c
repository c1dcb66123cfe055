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
static void put_ids(EcstatsRows *result, char kind, const SeenTable *seen);
static void put_block(EcstatsRows *result, char kind, RollupBlockWriter *writer);
static void row_init(ResultRow *row, char kind);
static void row_set(ResultRow *row, int column, Datum value);

/*
 * ecstats_rollup_order_put returns the rows of a finished pass; with_ids: the orders and buyers, too.
 */
void
ecstats_rollup_order_put(OrderScan *scan, EcstatsRows *result, bool with_ids)
{
	put_totals(scan, result);
	put_groups(scan, result);
	if (!with_ids)
		return;
	put_ids(result, 'o', &scan->orders);
	put_ids(result, 'b', &scan->users);
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
	int column;

	for (i = 0; i < scan->ngroups; i++)
	{
		const RollupRecord *record = sorted[i].record;
		const SalesGroup *group;
		const char *at = rollup_record_bytes(&scan->keys, record);
		const char *end = at + record->length;

		CHECK_FOR_INTERRUPTS();
		memcpy(&number, record->payload, sizeof(number));
		group = &scan->groups[number];
		row_init(&row, 's');
		for (column = RESULT_PRODUCT; column <= RESULT_CHANNEL; column++)
		{
			const char *zero = memchr(at, '\0', end - at);
			int length = (int) ((zero != NULL ? zero : end) - at);

			row_set(&row, column, PointerGetDatum(cstring_to_text_with_len(at, length)));
			at += length + 1;
		}
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
put_ids(EcstatsRows *result, char kind, const SeenTable *seen)
{
	const RollupTable *table = &seen->table;
	RollupSorted *sorted = ecstats_rollup_sort(table);
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
