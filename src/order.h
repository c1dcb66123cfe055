/*
 * order.h
 *		The rules of one order line, shared by the CHECK (order.c) and the JSON intake (order_json.c).
 */
#ifndef ECSTATS_ORDER_H
#define ECSTATS_ORDER_H

#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "errors.h"

/* The parts of an order line that the rules look at. */
typedef struct OrderLineParts
{
	text *order_id;
	int32 line_no;
	TimestampTz order_time;
	text *user_id; /* NULL: unknown customer */
	text *product_id;
	text *region;
	text *channel;
	int32 quantity;
	Numeric amount;
	text *status;
	TimestampTz paid_time;
	bool paid; /* paid_time is there */
	Jsonb *extra;
} OrderLineParts;

extern bool ecstats_order_check_parts(const OrderLineParts *line, TimestampTz now,
									  EcstatsFault *fault);

#endif /* ECSTATS_ORDER_H */
