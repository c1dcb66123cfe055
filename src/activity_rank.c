/*
 * activity_rank.c
 *		The score from which on a user belongs to the top share of those with a score above 0.
 *		Positive doubles order as the integers of their bits do: four counts of 16 bits each find the
 *		score of a rank, whatever the scores are and without moving them.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/numeric.h"

#include "compat.h"
#include "ecstats.h"
#include "activity.h"

#define DIGIT_BITS 16
#define DIGITS	   (64 / DIGIT_BITS)
#define BUCKETS	   (1 << DIGIT_BITS)

static uint64 ranks_in(Datum share, uint64 n);

/*
 * ecstats_activity_cutoff returns the least score that fewer than a share (numeric) of the positive
 * scores are above; infinity where no score is positive.
 */
double
ecstats_activity_cutoff(const double *scores, uint32 nscores, Datum share)
{
	uint32 *buckets = palloc(BUCKETS * sizeof(uint32));
	uint64 prefix = 0;
	uint64 left = 0;
	double cutoff;
	int digit;

	for (digit = 0; digit < DIGITS; digit++)
	{
		int shift = 64 - DIGIT_BITS * (digit + 1);
		uint32 bucket = BUCKETS;
		uint32 i;

		CHECK_FOR_INTERRUPTS();
		memset(buckets, 0, BUCKETS * sizeof(uint32));
		for (i = 0; i < nscores; i++)
		{
			uint64 bits;

			memcpy(&bits, &scores[i], sizeof(bits));
			if (scores[i] > 0 && (digit == 0 || bits >> (shift + DIGIT_BITS) == prefix))
				buckets[(bits >> shift) & (BUCKETS - 1)]++;
		}
		if (digit == 0)
		{
			uint64 positive = 0;

			for (i = 0; i < BUCKETS; i++)
				positive += buckets[i];
			left = ranks_in(share, positive);
			if (left == 0)
			{
				pfree(buckets);
				return get_float8_infinity();
			}
		}
		/* From the top: the score of rank `left` is in the first bucket that reaches it. */
		while (buckets[--bucket] < left)
			left -= buckets[bucket];
		prefix = (prefix << DIGIT_BITS) | bucket;
	}
	memcpy(&cutoff, &prefix, sizeof(cutoff));
	pfree(buckets);
	return cutoff;
}

/*
 * ranks_in returns how many ranks of n the share has: the first of which fewer than that share is
 * above. In decimals: 0.07 of 100 is 7.
 */
static uint64
ranks_in(Datum share, uint64 n)
{
	Datum count = DirectFunctionCall1(int8_numeric, Int64GetDatum((int64) n));
	Datum ranks = DirectFunctionCall1(numeric_ceil, DirectFunctionCall2(numeric_mul, share, count));

	return Min((uint64) Max(DatumGetInt64(DirectFunctionCall1(numeric_int8, ranks)), 0), n);
}
