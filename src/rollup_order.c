/*
 * rollup_order.c
 *		One pass over a range of ecstats.order_lines: totals, returns, abnormal orders, payments, and
 *		sales by product, region and channel. The lines come through a cursor, so that the planner
 *		picks the index; grouping and counting of distinct orders and buyers happen here, on numbers
 *		that stand for the strings. A chunk of lines is gone through in rounds (hash, find, number,
 *		count), each of which prefetches what the next one reads. What users bought is counted in
 *		the same pass, if it is asked for (rollup_order_buyer.c).
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
#include "rollup_order.h"

#define FETCH_ROWS 1000

static const char ordered_sql[] =
	"SELECT order_id, user_id, amount, region, channel, product_id, quantity, status, line_no,"
	" order_time"
	" FROM ecstats.order_lines"
	" WHERE order_time OPERATOR(pg_catalog.>=) $1 AND order_time OPERATOR(pg_catalog.<) $2";

static const char paid_sql[] =
	"SELECT order_id, user_id, amount, region, channel"
	" FROM ecstats.order_lines"
	" WHERE paid_time OPERATOR(pg_catalog.>=) $1 AND paid_time OPERATOR(pg_catalog.<) $2"
	" AND quantity OPERATOR(pg_catalog.>) 0";

PG_FUNCTION_INFO_V1(ecstats_rollup_scan_orders);

static void scan_init(OrderScan *scan, FunctionCallInfo fcinfo);
static void read_lines(OrderScan *scan, const char *sql, const Datum *range);
static void hash_lines(OrderScan *scan, SPITupleTable *rows);
static void hash_key(const RollupTable *table, LineKey *key, Datum string);
static void hash_group(const RollupTable *table, LineKey *key, const Line *line, const int *columns,
					   int ncolumns);
static void find_lines(OrderScan *scan);
static void number_lines(OrderScan *scan);
static void number_key(RollupTable *table, LineKey *key);
static void number_group(OrderScan *scan, LineKey *key);
static void take_ordered(OrderScan *scan, const Line *line);
static void take_paid(OrderScan *scan, const Line *line);
static void see(SeenTable *table, uint32 number, SeenAs role);
static bool is_abnormal(const OrderScan *scan, Datum status);

/*
 * ecstats_rollup_scan_orders(from_time timestamptz, to_time timestamptz, abnormal text[], with_ids
 * boolean) returns everything that is counted from order lines, see sql/22_rollup_c.sql.
 */
Datum
ecstats_rollup_scan_orders(PG_FUNCTION_ARGS)
{
	Datum range[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	EcstatsRows result;
	OrderScan scan;

	result = ecstats_rows_begin(fcinfo);
	scan_init(&scan, fcinfo);
	scan.grouped = true;
	read_lines(&scan, ordered_sql, range);
	scan.grouped = false;
	read_lines(&scan, paid_sql, range);
	ecstats_rollup_order_put(&scan, &result);
	MemoryContextDelete(scan.space.context);
	return (Datum) 0;
}

/*
 * scan_init makes an empty state from the arguments.
 */
static void
scan_init(OrderScan *scan, FunctionCallInfo fcinfo)
{
	memset(scan, 0, sizeof(*scan));
	ecstats_rollup_texts(PG_GETARG_ARRAYTYPE_P(2), "abnormal", &scan->abnormal, &scan->nabnormal);
	ecstats_rollup_space_init(&scan->space);
	ecstats_rollup_table_init(&scan->orders.table, &scan->space, sizeof(uint32));
	ecstats_rollup_table_init(&scan->users.table, &scan->space, sizeof(SeenUser));
	ecstats_rollup_table_init(&scan->keys, &scan->space, sizeof(uint32));
	ecstats_rollup_pairs_init(&scan->group_orders, &scan->space);
	ecstats_rollup_pairs_init(&scan->group_users, &scan->space);
	scan->lines = ecstats_rollup_alloc(&scan->space, FETCH_ROWS * sizeof(Line));
	scan->with_ids = PG_GETARG_BOOL(3);
	if (scan->with_ids)
		ecstats_rollup_buyers_init(scan);
	scan->chunk =
		AllocSetContextCreate(scan->space.context, "ecstats rollup lines", ALLOCSET_DEFAULT_SIZES);
}

/*
 * read_lines runs one of the constant queries over a range and counts its lines.
 */
static void
read_lines(OrderScan *scan, const char *sql, const Datum *range)
{
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum arguments[2] = {range[0], range[1]};
	MemoryContext old;
	Portal portal;
	uint32 i;

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
		scan->nlines = (uint32) SPI_processed;
		old = MemoryContextSwitchTo(scan->chunk);
		hash_lines(scan, SPI_tuptable);
		find_lines(scan);
		number_lines(scan);
		if (scan->with_ids)
			ecstats_rollup_buyers_find(scan);
		/* Sums that need memory keep it. */
		MemoryContextSwitchTo(scan->space.context);
		for (i = 0; i < scan->nlines; i++)
		{
			if (scan->grouped)
				take_ordered(scan, &scan->lines[i]);
			else
				take_paid(scan, &scan->lines[i]);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(scan->chunk);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_finish();
}

/*
 * hash_lines takes the rows apart and hashes their strings.
 */
static void
hash_lines(OrderScan *scan, SPITupleTable *rows)
{
	static const int group[] = {COLUMN_PRODUCT, COLUMN_REGION, COLUMN_CHANNEL};
	static const int place[] = {COLUMN_REGION, COLUMN_CHANNEL};
	uint32 i;

	for (i = 0; i < scan->nlines; i++)
	{
		Line *line = &scan->lines[i];

		heap_deform_tuple(rows->vals[i], rows->tupdesc, line->values, line->nulls);
		hash_key(&scan->orders.table, &line->order, line->values[COLUMN_ORDER]);
		if (!line->nulls[COLUMN_USER])
			hash_key(&scan->users.table, &line->user, line->values[COLUMN_USER]);
		if (scan->grouped)
			hash_group(&scan->keys, &line->group, line, group, lengthof(group));
		else if (scan->with_ids)
			hash_group(&scan->buyers.places, &line->place, line, place, lengthof(place));
	}
}

/*
 * hash_key hashes one string.
 */
static void
hash_key(const RollupTable *table, LineKey *key, Datum string)
{
	struct varlena *text = rollup_text((struct varlena *) DatumGetPointer(string));

	key->bytes = VARDATA_ANY(text);
	key->length = VARSIZE_ANY_EXHDR(text);
	key->hash = rollup_hash(table, key->bytes, key->length);
	rollup_table_prefetch(table, key->hash);
}

/*
 * hash_group makes one key of some columns, with zero bytes, which text cannot have, between them.
 */
static void
hash_group(const RollupTable *table, LineKey *key, const Line *line, const int *columns,
		   int ncolumns)
{
	struct varlena *parts[3];
	uint32 length = ncolumns - 1;
	char *bytes;
	int i;

	Assert(ncolumns <= lengthof(parts));
	for (i = 0; i < ncolumns; i++)
	{
		parts[i] = rollup_text((struct varlena *) DatumGetPointer(line->values[columns[i]]));
		length += VARSIZE_ANY_EXHDR(parts[i]);
	}
	bytes = palloc(length + 1);
	key->bytes = bytes;
	key->length = length;
	for (i = 0; i < ncolumns; i++)
	{
		memcpy(bytes, VARDATA_ANY(parts[i]), VARSIZE_ANY_EXHDR(parts[i]));
		bytes += VARSIZE_ANY_EXHDR(parts[i]);
		*bytes++ = '\0';
	}
	key->hash = rollup_hash(table, key->bytes, length);
	rollup_table_prefetch(table, key->hash);
}

/*
 * find_lines asks for the records that the lines' strings probably have.
 */
static void
find_lines(OrderScan *scan)
{
	uint32 i;

	for (i = 0; i < scan->nlines; i++)
	{
		const Line *line = &scan->lines[i];

		ecstats_rollup_order_find(&scan->orders.table, &line->order);
		if (!line->nulls[COLUMN_USER])
			ecstats_rollup_order_find(&scan->users.table, &line->user);
		if (scan->grouped)
			ecstats_rollup_order_find(&scan->keys, &line->group);
	}
}

/*
 * ecstats_rollup_order_find asks for the record that a string probably has.
 */
void
ecstats_rollup_order_find(const RollupTable *table, const LineKey *key)
{
	uint32 ref = rollup_table_guess(table, key->hash);

	if (ref != 0)
		rollup_prefetch(rollup_record(table, ref));
}

/*
 * number_lines puts numbers in place of the lines' strings.
 */
static void
number_lines(OrderScan *scan)
{
	uint32 i;

	for (i = 0; i < scan->nlines; i++)
	{
		Line *line = &scan->lines[i];

		number_key(&scan->orders.table, &line->order);
		if (line->nulls[COLUMN_USER])
			line->user.number = 0;
		else
			number_key(&scan->users.table, &line->user);
		if (!scan->grouped)
		{
			if (scan->with_ids)
				number_key(&scan->buyers.places, &line->place);
			continue;
		}
		number_group(scan, &line->group);
		rollup_prefetch(&scan->groups[line->group.number]);
		rollup_pairs_prefetch(&scan->group_orders, line->group.number, line->order.number);
		rollup_pairs_prefetch(&scan->group_users, line->group.number, line->user.number);
	}
}

/*
 * number_key finds or makes the record of an order, a user or a place; its reference is the number.
 */
static void
number_key(RollupTable *table, LineKey *key)
{
	bool found;

	(void) ecstats_rollup_table_intern(table, key->hash, key->bytes, key->length, &key->number,
									   &found);
}

/*
 * number_group finds or makes a group; its index is the number.
 */
static void
number_group(OrderScan *scan, LineKey *key)
{
	RollupRecord *record;
	uint32 ref;
	bool found;

	record =
		ecstats_rollup_table_intern(&scan->keys, key->hash, key->bytes, key->length, &ref, &found);
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
		key->number = scan->ngroups++;
		memcpy(record->payload, &key->number, sizeof(key->number));
		if (scan->with_ids)
			scan->groups[key->number].place = ecstats_rollup_buyers_place(scan, key);
	}
	memcpy(&key->number, record->payload, sizeof(key->number));
}

/*
 * take_ordered counts a line whose order_time is in the range.
 */
static void
take_ordered(OrderScan *scan, const Line *line)
{
	int32 quantity = DatumGetInt32(line->values[COLUMN_QUANTITY]);
	SalesGroup *group = &scan->groups[line->group.number];

	if (quantity < 0)
	{
		see(&scan->orders, line->order.number, SEEN_RETURN);
		ecstats_rollup_money_add(&group->refund, line->values[COLUMN_AMOUNT]);
	}
	if (quantity <= 0)
		return;
	ecstats_rollup_order_add(&group->quantity, quantity);
	ecstats_rollup_money_add(&group->amount, line->values[COLUMN_AMOUNT]);
	see(&scan->orders, line->order.number, SEEN_SALE);
	if (ecstats_rollup_pairs_add(&scan->group_orders, line->group.number, line->order.number))
		group->orders++;
	if (line->user.number != 0)
	{
		see(&scan->users, line->user.number, SEEN_SALE);
		if (ecstats_rollup_pairs_add(&scan->group_users, line->group.number, line->user.number))
			group->buyers++;
		if (scan->with_ids)
			ecstats_rollup_buyers_ordered(scan, line);
	}
	if (!line->nulls[COLUMN_STATUS] && is_abnormal(scan, line->values[COLUMN_STATUS]))
		see(&scan->orders, line->order.number, SEEN_ABNORMAL);
}

/*
 * take_paid counts a sale line whose paid_time is in the range.
 */
static void
take_paid(OrderScan *scan, const Line *line)
{
	ecstats_rollup_money_add(&scan->paid, line->values[COLUMN_AMOUNT]);
	see(&scan->orders, line->order.number, SEEN_PAID);
	if (line->user.number == 0)
		return;
	see(&scan->users, line->user.number, SEEN_PAID);
	if (scan->with_ids)
		ecstats_rollup_buyers_paid(scan, line);
}

/*
 * see notes an order or a user in a role.
 */
static void
see(SeenTable *table, uint32 number, SeenAs role)
{
	uint32 *roles = (uint32 *) rollup_record(&table->table, number)->payload;

	if ((*roles & (1U << role)) == 0)
	{
		*roles |= 1U << role;
		table->distinct[role]++;
	}
}

/*
 * is_abnormal tells whether a status is in the list.
 */
static bool
is_abnormal(const OrderScan *scan, Datum status)
{
	text *name = DatumGetTextPP(status);

	return ecstats_rollup_listed(scan->abnormal, scan->nabnormal, VARDATA_ANY(name),
								 VARSIZE_ANY_EXHDR(name));
}
