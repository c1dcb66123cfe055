/*
 * rollup_order.c
 *		One pass over a range of ecstats.order_lines: totals, returns, abnormal orders, payments, and
 *		sales by product, region and channel. The lines come through a cursor, so that the planner
 *		picks the index; grouping and counting of distinct orders and buyers happen here, on numbers
 *		that stand for the strings.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

#define FETCH_ROWS	1000
#define FIRST_PAIRS 1024

/* The columns of both queries, in this order. */
enum
{
	COLUMN_ORDER,
	COLUMN_USER,
	COLUMN_AMOUNT,
	COLUMN_QUANTITY,
	COLUMN_STATUS,
	COLUMN_PRODUCT,
	COLUMN_REGION,
	COLUMN_CHANNEL,
	ORDERED_COLUMNS,
	PAID_COLUMNS = COLUMN_QUANTITY
};

static const char ordered_sql[] =
	"SELECT order_id, user_id, amount, quantity, status, product_id, region, channel"
	" FROM ecstats.order_lines"
	" WHERE order_time OPERATOR(pg_catalog.>=) $1 AND order_time OPERATOR(pg_catalog.<) $2";

static const char paid_sql[] =
	"SELECT order_id, user_id, amount"
	" FROM ecstats.order_lines"
	" WHERE paid_time OPERATOR(pg_catalog.>=) $1 AND paid_time OPERATOR(pg_catalog.<) $2"
	" AND quantity OPERATOR(pg_catalog.>) 0";

/* In which roles an order or a user was seen; the payload of their tables. */
typedef enum SeenAs
{
	SEEN_SALE,
	SEEN_RETURN,
	SEEN_ABNORMAL,
	SEEN_PAID,
	SEEN_KINDS
} SeenAs;

typedef struct Seen
{
	uint32 roles; /* bit of each SeenAs */
} Seen;

/* Strings with their roles, and how many there are in each. */
typedef struct SeenTable
{
	RollupTable table;
	int64 distinct[SEEN_KINDS];
} SeenTable;

/* A set of pairs of numbers. */
typedef struct PairSet
{
	RollupSpace *space;
	uint64 *slots; /* 0: free */
	uint64 mask;
	uint64 members;
} PairSet;

/* Sales of one product, region and channel. */
typedef struct SalesGroup
{
	uint32 ref; /* record in OrderScan.keys */
	int64 quantity;
	int64 orders;
	int64 buyers;
	RollupMoney amount;
	RollupMoney refund;
} SalesGroup;

typedef struct OrderScan
{
	RollupSpace space;
	Datum *abnormal;
	int nabnormal;
	SeenTable orders;
	SeenTable users;
	RollupTable
		keys; /* product, region and channel with zero bytes between; payload: group number */
	SalesGroup *groups;
	uint32 ngroups;
	uint32 max_groups;
	PairSet group_orders;
	PairSet group_users;
	StringInfoData key;
	RollupMoney paid;
} OrderScan;

typedef void (*TakeLine)(OrderScan *scan, const Datum *values, const bool *nulls);

PG_FUNCTION_INFO_V1(ecstats_rollup_scan_orders);

static void scan_init(OrderScan *scan, FunctionCallInfo fcinfo);
static void read_lines(OrderScan *scan, const char *sql, const Datum *range, TakeLine take);
static void take_line(OrderScan *scan, const Datum *values, const bool *nulls);
static void take_sale(OrderScan *scan, SalesGroup *group, uint32 group_number, const Datum *values,
					  const bool *nulls);
static void take_paid(OrderScan *scan, const Datum *values, const bool *nulls);
static uint32 group_number(OrderScan *scan, const Datum *values);
static uint32 see(SeenTable *table, Datum string, SeenAs role);
static bool is_abnormal(const OrderScan *scan, Datum status);
static void pairs_init(PairSet *pairs, RollupSpace *space);
static bool pairs_add(PairSet *pairs, uint32 left, uint32 right);
static void pairs_grow(PairSet *pairs);
static void add_quantity(int64 *sum, int64 quantity);
static void put_totals(OrderScan *scan, EcstatsRows *result);
static void put_groups(OrderScan *scan, EcstatsRows *result);

/* A row of the result, all NULL but the kind. */
typedef struct ResultRow
{
	Datum values[9];
	bool nulls[9];
} ResultRow;

static void row_init(ResultRow *row, char kind);
static void row_set(ResultRow *row, int column, Datum value);

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
	RESULT_COLUMNS
};

/*
 * ecstats_rollup_scan_orders(from_time timestamptz, to_time timestamptz, abnormal text[]) returns
 * everything that is counted from order lines, see sql/22_rollup_c.sql.
 */
Datum
ecstats_rollup_scan_orders(PG_FUNCTION_ARGS)
{
	Datum range[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	EcstatsRows result;
	OrderScan scan;

	result = ecstats_rows_begin(fcinfo);
	scan_init(&scan, fcinfo);
	read_lines(&scan, ordered_sql, range, take_line);
	read_lines(&scan, paid_sql, range, take_paid);
	put_totals(&scan, &result);
	put_groups(&scan, &result);
	MemoryContextDelete(scan.space.context);
	return (Datum) 0;
}

/*
 * scan_init makes an empty state from the arguments.
 */
static void
scan_init(OrderScan *scan, FunctionCallInfo fcinfo)
{
	MemoryContext old;

	memset(scan, 0, sizeof(*scan));
	ecstats_rollup_texts(PG_GETARG_ARRAYTYPE_P(2), "abnormal", &scan->abnormal, &scan->nabnormal);
	ecstats_rollup_space_init(&scan->space);
	ecstats_rollup_table_init(&scan->orders.table, &scan->space, sizeof(Seen));
	ecstats_rollup_table_init(&scan->users.table, &scan->space, sizeof(Seen));
	ecstats_rollup_table_init(&scan->keys, &scan->space, sizeof(uint32));
	pairs_init(&scan->group_orders, &scan->space);
	pairs_init(&scan->group_users, &scan->space);
	old = MemoryContextSwitchTo(scan->space.context);
	initStringInfo(&scan->key);
	MemoryContextSwitchTo(old);
}

/*
 * read_lines runs one of the constant queries over a range and hands on its lines. Sums that need
 * memory keep it in the scan's context, not in the one of the lines.
 */
static void
read_lines(OrderScan *scan, const char *sql, const Datum *range, TakeLine take)
{
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum arguments[2] = {range[0], range[1]};
	Datum values[ORDERED_COLUMNS];
	bool nulls[ORDERED_COLUMNS];
	MemoryContext old;
	Portal portal;
	uint64 i;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	portal =
		SPI_cursor_open_with_args(NULL, sql, 2, types, arguments, NULL, true, CURSOR_OPT_NO_SCROLL);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(scan->space.context);
		for (i = 0; i < SPI_processed; i++)
		{
			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
			take(scan, values, nulls);
		}
		MemoryContextSwitchTo(old);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_finish();
}

/*
 * take_line counts a line whose order_time is in the range.
 */
static void
take_line(OrderScan *scan, const Datum *values, const bool *nulls)
{
	int32 quantity = DatumGetInt32(values[COLUMN_QUANTITY]);
	uint32 number = group_number(scan, values);
	SalesGroup *group = &scan->groups[number];

	if (quantity > 0)
		take_sale(scan, group, number, values, nulls);
	else if (quantity < 0)
	{
		see(&scan->orders, values[COLUMN_ORDER], SEEN_RETURN);
		ecstats_rollup_money_add(&group->refund, values[COLUMN_AMOUNT]);
	}
}

/*
 * take_sale counts a sale line.
 */
static void
take_sale(OrderScan *scan, SalesGroup *group, uint32 group_number, const Datum *values,
		  const bool *nulls)
{
	uint32 order = see(&scan->orders, values[COLUMN_ORDER], SEEN_SALE);

	add_quantity(&group->quantity, DatumGetInt32(values[COLUMN_QUANTITY]));
	ecstats_rollup_money_add(&group->amount, values[COLUMN_AMOUNT]);
	if (pairs_add(&scan->group_orders, group_number, order))
		group->orders++;
	if (!nulls[COLUMN_USER])
	{
		uint32 user = see(&scan->users, values[COLUMN_USER], SEEN_SALE);

		if (pairs_add(&scan->group_users, group_number, user))
			group->buyers++;
	}
	if (!nulls[COLUMN_STATUS] && is_abnormal(scan, values[COLUMN_STATUS]))
		see(&scan->orders, values[COLUMN_ORDER], SEEN_ABNORMAL);
}

/*
 * take_paid counts a sale line whose paid_time is in the range.
 */
static void
take_paid(OrderScan *scan, const Datum *values, const bool *nulls)
{
	ecstats_rollup_money_add(&scan->paid, values[COLUMN_AMOUNT]);
	see(&scan->orders, values[COLUMN_ORDER], SEEN_PAID);
	if (!nulls[COLUMN_USER])
		see(&scan->users, values[COLUMN_USER], SEEN_PAID);
}

/*
 * group_number returns the number of the line's group, from 0. The three strings are hashed once,
 * with zero bytes, which text cannot have, between them.
 */
static uint32
group_number(OrderScan *scan, const Datum *values)
{
	RollupRecord *record;
	uint32 number;
	uint32 ref;
	bool found;
	int i;

	resetStringInfo(&scan->key);
	for (i = COLUMN_PRODUCT; i <= COLUMN_CHANNEL; i++)
	{
		struct varlena *stored = (struct varlena *) DatumGetPointer(values[i]);
		struct varlena *text = rollup_text(stored);

		if (i > COLUMN_PRODUCT)
			appendStringInfoChar(&scan->key, '\0');
		appendBinaryStringInfo(&scan->key, VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text));
		if (text != stored)
			pfree(text);
	}
	record = ecstats_rollup_table_intern(&scan->keys,
										 rollup_hash(&scan->keys, scan->key.data, scan->key.len),
										 scan->key.data, scan->key.len, &ref, &found);
	if (!found)
	{
		if (scan->ngroups == scan->max_groups)
		{
			uint32 max_groups = Max(64, scan->max_groups * 2);

			scan->groups = ecstats_rollup_grow(&scan->space, scan->groups,
											   scan->max_groups * sizeof(SalesGroup),
											   max_groups * sizeof(SalesGroup));
			scan->max_groups = max_groups;
		}
		number = scan->ngroups++;
		memcpy(record->payload, &number, sizeof(number));
		scan->groups[number].ref = ref;
	}
	memcpy(&number, record->payload, sizeof(number));
	return number;
}

/*
 * see notes an order or a user in a role, and returns the number that stands for it.
 */
static uint32
see(SeenTable *table, Datum string, SeenAs role)
{
	struct varlena *stored = (struct varlena *) DatumGetPointer(string);
	struct varlena *text = rollup_text(stored);
	uint32 length = VARSIZE_ANY_EXHDR(text);
	RollupRecord *record;
	Seen *seen;
	uint32 ref;
	bool found;

	record = ecstats_rollup_table_intern(&table->table,
										 rollup_hash(&table->table, VARDATA_ANY(text), length),
										 VARDATA_ANY(text), length, &ref, &found);
	if (text != stored)
		pfree(text);
	seen = (Seen *) record->payload;
	if ((seen->roles & (1U << role)) == 0)
	{
		seen->roles |= 1U << role;
		table->distinct[role]++;
	}
	return ref;
}

/*
 * is_abnormal tells whether a status is in the list.
 */
static bool
is_abnormal(const OrderScan *scan, Datum status)
{
	struct varlena *stored = (struct varlena *) DatumGetPointer(status);
	struct varlena *text = rollup_text(stored);
	Size length = VARSIZE_ANY_EXHDR(text);
	bool listed = false;
	int i;

	for (i = 0; i < scan->nabnormal && !listed; i++)
		listed =
			VARSIZE_ANY_EXHDR(DatumGetPointer(scan->abnormal[i])) == length &&
			memcmp(VARDATA_ANY(DatumGetPointer(scan->abnormal[i])), VARDATA_ANY(text), length) == 0;
	if (text != stored)
		pfree(text);
	return listed;
}

/*
 * pairs_init makes an empty set.
 */
static void
pairs_init(PairSet *pairs, RollupSpace *space)
{
	pairs->space = space;
	pairs->slots = ecstats_rollup_alloc(space, FIRST_PAIRS * sizeof(uint64));
	pairs->mask = FIRST_PAIRS - 1;
	pairs->members = 0;
}

/*
 * pairs_add adds a pair; false if it was there. The right number is not 0.
 */
static bool
pairs_add(PairSet *pairs, uint32 left, uint32 right)
{
	uint64 pair = ((uint64) left << 32) | right;
	uint64 at = rollup_mix(0, pair);

	Assert(right != 0);
	for (at = (at ^ (at >> 32)) & pairs->mask; pairs->slots[at] != 0; at = (at + 1) & pairs->mask)
		if (pairs->slots[at] == pair)
			return false;
	pairs->slots[at] = pair;
	if (++pairs->members > pairs->mask / 8 * 5)
		pairs_grow(pairs);
	return true;
}

/*
 * pairs_grow doubles the slots.
 */
static void
pairs_grow(PairSet *pairs)
{
	uint64 nslots = (pairs->mask + 1) * 2;
	uint64 *slots = ecstats_rollup_alloc(pairs->space, nslots * sizeof(uint64));
	uint64 i;

	for (i = 0; i <= pairs->mask; i++)
	{
		uint64 at = rollup_mix(0, pairs->slots[i]);

		if (pairs->slots[i] == 0)
			continue;
		for (at = (at ^ (at >> 32)) & (nslots - 1); slots[at] != 0; at = (at + 1) & (nslots - 1))
			continue;
		slots[at] = pairs->slots[i];
	}
	ecstats_rollup_free(pairs->space, pairs->slots, (pairs->mask + 1) * sizeof(uint64));
	pairs->slots = slots;
	pairs->mask = nslots - 1;
}

/*
 * add_quantity adds with a check.
 */
static void
add_quantity(int64 *sum, int64 quantity)
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
		add_quantity(&quantity, scan->groups[i].quantity);
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
 * put_groups returns a row 's' for each group. What a row needs is freed after it.
 */
static void
put_groups(OrderScan *scan, EcstatsRows *result)
{
	MemoryContext row_context =
		AllocSetContextCreate(scan->space.context, "ecstats rollup row", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_context);
	ResultRow row;
	uint32 i;
	int column;

	for (i = 0; i < scan->ngroups; i++)
	{
		const SalesGroup *group = &scan->groups[i];
		const RollupRecord *record = rollup_record(&scan->keys, group->ref);
		const char *at = rollup_record_bytes(&scan->keys, record);
		const char *end = at + record->length;

		CHECK_FOR_INTERRUPTS();
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
