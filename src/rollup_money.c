/*
 * rollup_money.c
 *		Exact sums of numeric. Amounts of everyday size are added as integers in units of their last
 *		decimal place; whatever does not fit goes through numeric_add. The display scale is that of
 *		sum(): the largest one seen.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

/*
 * The stored form of a short numeric, which pg_upgrade keeps as it is: a header word (two bits of
 * kind, sign, scale, weight), then digits of base 10,000.
 */
#define SHORT_KIND_MASK		0xC000
#define SHORT_KIND			0x8000
#define SHORT_NEGATIVE		0x2000
#define SHORT_SCALE(header) (((header) >> 7) & 0x3F)
#define SHORT_WEIGHT(header) \
	(((header) &0x0040) ? (int) ((header) &0x003F) - 64 : (int) ((header) &0x003F))

#define MAX_DIGITS 4 /* of base 10,000: sixteen decimal digits */
#define MAX_SCALE  12

static const int64 powers_of_ten[] = {INT64CONST(1),
									  INT64CONST(10),
									  INT64CONST(100),
									  INT64CONST(1000),
									  INT64CONST(10000),
									  INT64CONST(100000),
									  INT64CONST(1000000),
									  INT64CONST(10000000),
									  INT64CONST(100000000),
									  INT64CONST(1000000000),
									  INT64CONST(10000000000),
									  INT64CONST(100000000000),
									  INT64CONST(1000000000000),
									  INT64CONST(10000000000000),
									  INT64CONST(100000000000000),
									  INT64CONST(1000000000000000),
									  INT64CONST(10000000000000000)};

static bool small_amount(Datum amount, int64 *value, int *scale);
static bool add_integer(RollupMoney *sum, int64 value, int scale);
static void add_rest(RollupMoney *sum, Numeric amount);
static bool multiply(int64 *value, int power);

/*
 * ecstats_rollup_money_add adds a numeric datum. What the sum allocates lives in the current memory
 * context, which has to be the same one for each call.
 */
void
ecstats_rollup_money_add(RollupMoney *sum, Datum amount)
{
	Numeric large;
	int64 value;
	int scale;

	if (small_amount(amount, &value, &scale) && add_integer(sum, value, scale))
		return;
	large = DatumGetNumeric(amount);
	add_rest(sum, large);
	if ((Pointer) large != DatumGetPointer(amount))
		pfree(large);
}

/*
 * ecstats_rollup_money_merge adds one sum to another.
 */
void
ecstats_rollup_money_merge(RollupMoney *sum, const RollupMoney *more)
{
	if (!add_integer(sum, more->value, more->scale))
		add_rest(sum, int64_div_fast_to_numeric(more->value, more->scale));
	if (more->rest != NULL)
		add_rest(sum, more->rest);
}

/*
 * ecstats_rollup_money_get returns the sum, or minus the sum, as a numeric datum.
 */
Datum
ecstats_rollup_money_get(const RollupMoney *sum, bool negate)
{
	Datum total = NumericGetDatum(int64_div_fast_to_numeric(sum->value, sum->scale));

	if (sum->rest != NULL)
		total = DirectFunctionCall2(numeric_add, total, NumericGetDatum(sum->rest));
	if (negate)
		total = DirectFunctionCall1(numeric_uminus, total);
	return total;
}

/*
 * add_integer adds an amount in units of 10^-scale; false, and nothing is changed, if the sum does
 * not fit.
 */
static bool
add_integer(RollupMoney *sum, int64 value, int scale)
{
	int64 total = sum->value;

	if (scale > sum->scale)
	{
		if (!multiply(&total, scale - sum->scale))
			return false;
	}
	else if (scale < sum->scale && !multiply(&value, sum->scale - scale))
		return false;
	if (pg_add_s64_overflow(total, value, &total))
		return false;
	sum->value = total;
	sum->scale = Max(sum->scale, scale);
	return true;
}

/*
 * add_rest adds an amount of any size to the part that is a numeric.
 */
static void
add_rest(RollupMoney *sum, Numeric amount)
{
	Numeric old = sum->rest != NULL ? sum->rest : int64_to_numeric(0);

	sum->rest = DatumGetNumeric(
		DirectFunctionCall2(numeric_add, NumericGetDatum(old), NumericGetDatum(amount)));
	pfree(old);
}

/*
 * multiply multiplies by a power of ten; false if the result does not fit.
 */
static bool
multiply(int64 *value, int power)
{
	Assert(power >= 0 && power < lengthof(powers_of_ten));
	return !pg_mul_s64_overflow(*value, powers_of_ten[power], value);
}

/*
 * small_amount reads a numeric of up to 16 decimal digits as an integer in units of its last decimal
 * place; false for anything else, NaN and infinity included.
 */
static bool
small_amount(Datum amount, int64 *value, int *scale)
{
	struct varlena *stored = (struct varlena *) DatumGetPointer(amount);
	const char *at;
	uint16 header;
	uint16 digit;
	int ndigits;
	int power;
	int i;

	if (VARATT_IS_EXTERNAL(stored) || VARATT_IS_COMPRESSED(stored))
		return false;
	at = VARDATA_ANY(stored);
	memcpy(&header, at, sizeof(header));
	ndigits = (int) (VARSIZE_ANY_EXHDR(stored) / sizeof(uint16)) - 1;
	if ((header & SHORT_KIND_MASK) != SHORT_KIND || ndigits > MAX_DIGITS ||
		SHORT_SCALE(header) > MAX_SCALE)
		return false;

	*value = 0;
	for (i = 0; i < ndigits; i++)
	{
		memcpy(&digit, at + sizeof(header) + i * sizeof(digit), sizeof(digit));
		*value = *value * 10000 + digit;
	}
	*scale = SHORT_SCALE(header);
	/* The last digit is worth 10000^(weight - ndigits + 1). */
	power = ndigits == 0 ? 0 : 4 * (SHORT_WEIGHT(header) - ndigits + 1) + *scale;
	if (power >= 0)
	{
		if (power >= lengthof(powers_of_ten) || !multiply(value, power))
			return false;
	}
	else
	{
		/* At most 3: digits after the display scale are zero. */
		if (power < -MAX_SCALE || *value % powers_of_ten[-power] != 0)
			return false;
		*value /= powers_of_ten[-power];
	}
	if (header & SHORT_NEGATIVE)
		*value = -*value;
	return true;
}
