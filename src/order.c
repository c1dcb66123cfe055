/*
 * order.c
 *		What an order line must be: one check_* a rule, and the CHECK constraint that applies them all.
 *
 * A sale line has quantity > 0 and amount >= 0, a return line quantity < 0 and amount <= 0; amount is
 * the line's total.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "jsonb_get.h"
#include "order.h"

#define ID_MAX_BYTES		128
#define NAME_MAX_BYTES		128
#define STATUS_MAX_BYTES	64
#define AMOUNT_LIMIT		"1e30" /* sums of them stay far from numeric's own limit */
#define AMOUNT_MAX_DECIMALS 30

PG_FUNCTION_INFO_V1(ecstats_order_check);

/*
 * check_text: length in bytes and control characters of one text column.
 */
static bool
check_text(const char *column, const text *t, int max, EcstatsFault *fault)
{
	return ecstats_check_text(fault, column, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t), 1, max);
}

/*
 * check_line_no: not negative.
 */
static bool
check_line_no(int32 line_no, EcstatsFault *fault)
{
	if (line_no >= 0)
		return true;
	return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "line_no",
						 "Number an order's lines from 1.", psprintf("Value: %d.", line_no),
						 "line_no is negative");
}

/*
 * amount_sign returns -1, 0 or 1 of a finite number.
 */
static int
amount_sign(Numeric n)
{
	Datum zero = DirectFunctionCall1(int4_numeric, Int32GetDatum(0));

	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(n), zero));
}

/*
 * amount_exceeds tells whether a finite amount is too large or too finely divided to be money.
 */
static bool
amount_exceeds(Numeric n)
{
	Datum magnitude = DirectFunctionCall1(numeric_abs, NumericGetDatum(n));
	Datum limit = DirectFunctionCall3(numeric_in, CStringGetDatum(AMOUNT_LIMIT),
									  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

	return DatumGetBool(DirectFunctionCall2(numeric_ge, magnitude, limit)) ||
		   DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(n))) >
			   AMOUNT_MAX_DECIMALS;
}

/*
 * check_money: quantity is not 0, amount is finite and has the sign of quantity or is 0.
 */
static bool
check_money(int32 quantity, Numeric amount, EcstatsFault *fault)
{
	int sign;
	char *shown;

	if (quantity == 0)
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "quantity",
							 "Leave the line out; a return has a negative quantity.",
							 pstrdup("Value: 0."), "quantity is 0");
	shown = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(amount)));
	if (numeric_is_nan(amount) || numeric_is_inf(amount))
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "amount", "Send a finite number.",
							 ecstats_shown(shown, strlen(shown)), "amount is not a finite number");
	if (amount_exceeds(amount))
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "amount",
							 "Send the line's total in the currency's unit, as it was charged.",
							 ecstats_shown(shown, strlen(shown)),
							 "amount is 1e30 or more, or has more than %d decimals",
							 AMOUNT_MAX_DECIMALS);
	sign = amount_sign(amount);
	if (quantity > 0 && sign < 0)
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "amount",
							 "A return has a negative quantity and a negative amount.",
							 ecstats_shown(shown, strlen(shown)),
							 "amount of a sale line is negative");
	if (quantity < 0 && sign > 0)
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "amount",
							 "A return has a negative quantity and a negative amount.",
							 ecstats_shown(shown, strlen(shown)),
							 "amount of a return line is positive");
	return true;
}

/*
 * ecstats_order_check_parts applies every rule to one line; false with the fault filled at the first
 * that is broken.
 */
bool
ecstats_order_check_parts(const OrderLineParts *line, TimestampTz now, EcstatsFault *fault)
{
	return check_text("order_id", line->order_id, ID_MAX_BYTES, fault) &&
		   check_line_no(line->line_no, fault) &&
		   ecstats_check_instant(fault, "order_time", line->order_time, now) &&
		   (line->user_id == NULL || check_text("user_id", line->user_id, ID_MAX_BYTES, fault)) &&
		   check_text("product_id", line->product_id, ID_MAX_BYTES, fault) &&
		   check_text("region", line->region, NAME_MAX_BYTES, fault) &&
		   check_text("channel", line->channel, NAME_MAX_BYTES, fault) &&
		   check_money(line->quantity, line->amount, fault) &&
		   check_text("status", line->status, STATUS_MAX_BYTES, fault) &&
		   (!line->paid || ecstats_check_instant(fault, "paid_time", line->paid_time, now)) &&
		   ecstats_check_extra(fault, line->extra);
}

/*
 * ecstats_order_check is the CHECK of ecstats.order_lines, over all its columns in their order: true,
 * or an error 23514 that says which rule of which column is broken. It also notes the days, by
 * order_time and by paid_time.
 */
Datum
ecstats_order_check(PG_FUNCTION_ARGS)
{
	OrderLineParts line;
	EcstatsFault fault;
	int i;

	for (i = 0; i < 12; i++)
	{
		if (PG_ARGISNULL(i) && i != 3 && i != 10)
			PG_RETURN_BOOL(false); /* the business of NOT NULL, which comes first */
	}
	line.order_id = PG_GETARG_TEXT_PP(0);
	line.line_no = PG_GETARG_INT32(1);
	line.order_time = PG_GETARG_TIMESTAMPTZ(2);
	line.user_id = PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3);
	line.product_id = PG_GETARG_TEXT_PP(4);
	line.region = PG_GETARG_TEXT_PP(5);
	line.channel = PG_GETARG_TEXT_PP(6);
	line.quantity = PG_GETARG_INT32(7);
	line.amount = PG_GETARG_NUMERIC(8);
	line.status = PG_GETARG_TEXT_PP(9);
	line.paid = !PG_ARGISNULL(10);
	line.paid_time = line.paid ? PG_GETARG_TIMESTAMPTZ(10) : 0;
	line.extra = PG_GETARG_JSONB_P(11);

	if (!ecstats_order_check_parts(&line, GetCurrentTimestamp(), &fault))
		ecstats_fault_raise(&fault, "order_lines", "order_lines_valid");
	ecstats_day_note(line.order_time);
	if (line.paid)
		ecstats_day_note(line.paid_time);

	PG_FREE_IF_COPY(line.extra, 11);
	PG_RETURN_BOOL(true);
}
