/*
 * rollup_order.h
 *		The state of the scan of order lines.
 *
 *		rollup_order.c      the scan
 *		rollup_order_put.c  what it returns
 */
#ifndef ECSTATS_ROLLUP_ORDER_H
#define ECSTATS_ROLLUP_ORDER_H

#include "rollup.h"

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

/* In which roles an order or a user was seen: bits of a uint32, the payload of their tables. */
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

/* Sales of one product, region and channel. */
typedef struct SalesGroup
{
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
	MemoryContext chunk; /* strings of the lines at hand */
	Line *lines;
	uint32 nlines;
	bool grouped; /* the lines at hand have groups: they were found by order_time */
} OrderScan;

/* rollup_order_put.c */
extern void ecstats_rollup_order_add(int64 *sum, int64 quantity);
extern void ecstats_rollup_order_put(OrderScan *scan, EcstatsRows *result, bool with_ids);

#endif /* ECSTATS_ROLLUP_ORDER_H */
