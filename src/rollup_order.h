/*
 * rollup_order.h
 *		The state of the scan of order lines.
 *
 *		rollup_order.c        the scan
 *		rollup_order_buyer.c  who bought and paid how much where
 *		rollup_order_put.c    what it returns
 */
#ifndef ECSTATS_ROLLUP_ORDER_H
#define ECSTATS_ROLLUP_ORDER_H

#include "rollup.h"

/* The columns of both queries, in this order; that for what was paid has the first ones. */
enum
{
	COLUMN_ORDER,
	COLUMN_USER,
	COLUMN_AMOUNT,
	COLUMN_REGION,
	COLUMN_CHANNEL,
	PAID_COLUMNS,
	COLUMN_PRODUCT = PAID_COLUMNS,
	COLUMN_QUANTITY,
	COLUMN_STATUS,
	COLUMN_LINE_NO,
	COLUMN_ORDER_TIME,
	ORDERED_COLUMNS
};

/* In which roles an order or a user was seen: bits of a uint32, with which their payload begins. */
typedef enum SeenAs
{
	SEEN_SALE,
	SEEN_RETURN,
	SEEN_ABNORMAL,
	SEEN_PAID,
	SEEN_KINDS
} SeenAs;

/* Strings with their roles, and how many there are in each. */
typedef struct SeenTable
{
	RollupTable table;
	int64 distinct[SEEN_KINDS];
} SeenTable;

/* The payload of a user. */
typedef struct SeenUser
{
	uint32 roles;
	uint32 buyers; /* newest of the user's records in BuyerScan.buyers, 0 if there is none */
} SeenUser;

/*
 * What a user ordered and paid in one place (region and channel): a record of BuyerScan.buyers, laid
 * over RollupRecord, so that the eight-byte fields are aligned. Its string is a BuyerPair.
 */
typedef struct Buyer
{
	uint32 length; /* the record's own */
	uint32 next;   /* the user's record that was made before, 0 at the end */
	uint32 place;  /* reference in BuyerScan.places */
	int64 orders;
	RollupMoney gmv;
	RollupMoney paid;
} Buyer;

/* Where a user's order counts: a record of BuyerScan.orders, laid over RollupRecord. */
typedef struct BuyerOrder
{
	uint32 length; /* the record's own */
	int32 line_no; /* the lowest one, and of several the first by time */
	TimestampTz order_time;
	uint32 buyer; /* where that line counts */
} BuyerOrder;

/* What is looked for in these two tables: (user, place), or (order, user). */
typedef struct BuyerPair
{
	uint32 left;
	uint32 right;
} BuyerPair;

typedef struct BuyerScan
{
	RollupTable places; /* region, zero byte, channel; payload: uint32, rank after the pass */
	RollupTable buyers;
	RollupTable orders;
} BuyerScan;

/* Sales of one product, region and channel. */
typedef struct SalesGroup
{
	uint32 place; /* reference in BuyerScan.places */
	int64 quantity;
	int64 orders;
	int64 buyers;
	RollupMoney amount;
	RollupMoney refund;
} SalesGroup;

/* A string of a line, and the number that stands for it. */
typedef struct LineKey
{
	const char *bytes;
	uint32 length;
	uint32 hash;
	uint32 number; /* 0: NULL; of a group, its index */
} LineKey;

typedef struct Line
{
	Datum values[ORDERED_COLUMNS];
	bool nulls[ORDERED_COLUMNS];
	LineKey order;
	LineKey user;
	LineKey group;
	LineKey place; /* its number is known of every line, its string of paid ones alone */
	LineKey buyer;
	LineKey buyer_order;
	BuyerPair buyer_pair; /* the string of buyer */
	BuyerPair order_pair; /* the string of buyer_order */
} Line;

typedef struct OrderScan
{
	RollupSpace space;
	Datum *abnormal;
	int nabnormal;
	SeenTable orders;
	SeenTable users;
	RollupTable keys; /* see hash_group; payload: uint32, index in groups */
	SalesGroup *groups;
	uint32 ngroups;
	uint32 max_groups;
	RollupPairs group_orders;
	RollupPairs group_users;
	RollupMoney paid;
	bool with_ids;		 /* orders and buyers are asked for, too */
	BuyerScan buyers;	 /* only then */
	MemoryContext chunk; /* strings of the lines at hand */
	Line *lines;
	uint32 nlines;
	bool grouped; /* the lines at hand have groups: they were found by order_time */
} OrderScan;

/* rollup_order.c */
extern void ecstats_rollup_order_find(const RollupTable *table, const LineKey *key);

/* rollup_order_buyer.c */
extern void ecstats_rollup_buyers_init(OrderScan *scan);
extern uint32 ecstats_rollup_buyers_place(OrderScan *scan, const LineKey *group);
extern void ecstats_rollup_buyers_find(OrderScan *scan);
extern void ecstats_rollup_buyers_ordered(OrderScan *scan, const Line *line);
extern void ecstats_rollup_buyers_paid(OrderScan *scan, const Line *line);

/* rollup_order_put.c */
extern void ecstats_rollup_order_add(int64 *sum, int64 quantity);
extern void ecstats_rollup_order_put(OrderScan *scan, EcstatsRows *result);

#endif /* ECSTATS_ROLLUP_ORDER_H */
