/*
 * rollup_order_buyer.c
 *		What each known user ordered and paid in each region and channel, as a part of the scan of order
 *		lines. An order counts once for a user: in the place of its lowest line.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_order.h"

/* The payload of a record that a struct is laid over. */
#define PAYLOAD_OF(type) (sizeof(type) - offsetof(RollupRecord, payload))

static void hash_pair(const RollupTable *table, LineKey *key, BuyerPair *pair, uint32 left,
					  uint32 right);
static Buyer *buyer_of(OrderScan *scan, const Line *line, uint32 *ref);

/*
 * ecstats_rollup_buyers_init makes the empty tables.
 */
void
ecstats_rollup_buyers_init(OrderScan *scan)
{
	BuyerScan *buyers = &scan->buyers;

	ecstats_rollup_table_init(&buyers->places, &scan->space, sizeof(uint32));
	ecstats_rollup_table_init(&buyers->buyers, &scan->space, PAYLOAD_OF(Buyer));
	ecstats_rollup_table_init(&buyers->orders, &scan->space, PAYLOAD_OF(BuyerOrder));
}

/*
 * ecstats_rollup_buyers_place returns the place of a group: its key without the product.
 */
uint32
ecstats_rollup_buyers_place(OrderScan *scan, const LineKey *group)
{
	RollupTable *places = &scan->buyers.places;
	uint32 skip = (uint32) strlen(group->bytes) + 1;
	const char *bytes = group->bytes + skip;
	uint32 length = group->length - skip;
	uint32 ref;
	bool found;

	(void) ecstats_rollup_table_intern(places, rollup_hash(places, bytes, length), bytes, length,
									   &ref, &found);
	return ref;
}

/*
 * ecstats_rollup_buyers_find asks for the records that lines of known users will be counted in, in
 * two rounds: slots, then records.
 */
void
ecstats_rollup_buyers_find(OrderScan *scan)
{
	BuyerScan *buyers = &scan->buyers;
	uint32 i;

	for (i = 0; i < scan->nlines; i++)
	{
		Line *line = &scan->lines[i];

		if (line->user.number == 0)
			continue;
		if (scan->grouped)
		{
			line->place.number = scan->groups[line->group.number].place;
			hash_pair(&buyers->orders, &line->buyer_order, &line->order_pair, line->order.number,
					  line->user.number);
		}
		hash_pair(&buyers->buyers, &line->buyer, &line->buyer_pair, line->user.number,
				  line->place.number);
	}
	for (i = 0; i < scan->nlines; i++)
	{
		const Line *line = &scan->lines[i];

		if (line->user.number == 0)
			continue;
		if (scan->grouped)
			ecstats_rollup_order_find(&buyers->orders, &line->buyer_order);
		ecstats_rollup_order_find(&buyers->buyers, &line->buyer);
	}
}

/*
 * hash_pair makes the key of a pair and hashes it.
 */
static void
hash_pair(const RollupTable *table, LineKey *key, BuyerPair *pair, uint32 left, uint32 right)
{
	pair->left = left;
	pair->right = right;
	key->bytes = (const char *) pair;
	key->length = sizeof(*pair);
	key->hash = rollup_hash(table, key->bytes, key->length);
	rollup_table_prefetch(table, key->hash);
}

/*
 * ecstats_rollup_buyers_ordered counts a sale line of a known user whose order_time is in the range.
 */
void
ecstats_rollup_buyers_ordered(OrderScan *scan, const Line *line)
{
	RollupTable *orders = &scan->buyers.orders;
	int32 line_no = DatumGetInt32(line->values[COLUMN_LINE_NO]);
	TimestampTz order_time = DatumGetTimestampTz(line->values[COLUMN_ORDER_TIME]);
	const LineKey *key = &line->buyer_order;
	BuyerOrder *order;
	Buyer *buyer;
	uint32 here;
	uint32 ref;
	bool found;

	buyer = buyer_of(scan, line, &here);
	ecstats_rollup_money_add(&buyer->gmv, line->values[COLUMN_AMOUNT]);

	order = (BuyerOrder *) ecstats_rollup_table_intern(orders, key->hash, key->bytes, key->length,
													   &ref, &found);
	if (found)
	{
		if (line_no > order->line_no ||
			(line_no == order->line_no && order_time >= order->order_time))
			return;
		((Buyer *) rollup_record(&scan->buyers.buyers, order->buyer))->orders--;
	}
	order->line_no = line_no;
	order->order_time = order_time;
	order->buyer = here;
	buyer->orders++;
}

/*
 * ecstats_rollup_buyers_paid counts a sale line of a known user whose paid_time is in the range.
 */
void
ecstats_rollup_buyers_paid(OrderScan *scan, const Line *line)
{
	uint32 ref;

	ecstats_rollup_money_add(&buyer_of(scan, line, &ref)->paid, line->values[COLUMN_AMOUNT]);
}

/*
 * buyer_of finds or makes the record of a line's user and place.
 */
static Buyer *
buyer_of(OrderScan *scan, const Line *line, uint32 *ref)
{
	const LineKey *key = &line->buyer;
	SeenUser *user;
	Buyer *buyer;
	bool found;

	buyer = (Buyer *) ecstats_rollup_table_intern(&scan->buyers.buyers, key->hash, key->bytes,
												  key->length, ref, &found);
	if (!found)
	{
		user = (SeenUser *) rollup_record(&scan->users.table, line->user.number)->payload;
		buyer->place = line->place.number;
		buyer->next = user->buyers;
		user->buyers = *ref;
	}
	return buyer;
}
