/*
 * activity_points.c
 *		What a day of a user is worth, and what is left of it later. Points of a day are summed as
 *		integers: whoever did the same has the same score to the last bit, in whatever order it was
 *		stored and under whatever numbers its events are.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "compat.h"
#include "ecstats.h"
#include "activity.h"

#ifndef HAVE_INT128
#error "ecstats needs a compiler with 128-bit integers"
#endif

#define MOST_DECIMALS 18
#define MOST_SCALED	  9e18 /* below 2^63 */

static int decimals_of(const Datum *numerics, const bool *nulls, int n);

/*
 * ecstats_activity_weights makes weights of a numeric[]: by the number of the event, NULL is 0. Weights
 * have 18 digits between them: the largest one decides how many decimals are left.
 */
void
ecstats_activity_weights(ActivityWeights *weights, ArrayType *array)
{
	Datum *numerics;
	Datum power;
	bool *nulls;
	int decimals;
	int i;

	deconstruct_array(array, NUMERICOID, -1, false, TYPALIGN_INT, &numerics, &nulls,
					  &weights->nweights);
	decimals = decimals_of(numerics, nulls, weights->nweights);
	weights->scaled = palloc0(Max(weights->nweights, 1) * sizeof(int64));
	weights->unit = pow(10, decimals);
	power = DirectFunctionCall1(int8_numeric, Int64GetDatum((int64) weights->unit));
	for (i = 0; i < weights->nweights; i++)
		if (!nulls[i])
			weights->scaled[i] = DatumGetInt64(DirectFunctionCall1(
				numeric_int8, DirectFunctionCall2(numeric_mul, numerics[i], power)));
}

/*
 * decimals_of returns how many decimals weights can keep. What is no number is refused.
 */
static int
decimals_of(const Datum *numerics, const bool *nulls, int n)
{
	double most = 0;
	int decimals = 0;
	int i;

	for (i = 0; i < n; i++)
	{
		double weight;

		if (nulls[i])
			continue;
		weight = DatumGetFloat8(DirectFunctionCall1(numeric_float8, numerics[i]));
		if (isnan(weight) || fabs(weight) >= MOST_SCALED)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("a weight is not a number that can be counted with"),
							errdetail("The weight of event number %d is %g.", i + 1, weight),
							errhint("Set weights of ecstats.event_types to finite numbers.")));
		most = Max(most, fabs(weight));
		decimals =
			Max(decimals, DatumGetInt32(DirectFunctionCall1(numeric_min_scale, numerics[i])));
	}
	decimals = Min(decimals, MOST_DECIMALS);
	while (most * pow(10, decimals) >= MOST_SCALED)
		decimals--;
	return decimals;
}

/*
 * ecstats_activity_points returns what the counts of a user on a day are worth on that day.
 */
double
ecstats_activity_points(const ActivityWeights *weights, const RollupCount *counts, int ncounts)
{
	int128 points = 0;
	int i;

	for (i = 0; i < ncounts; i++)
	{
		int64 weight = counts[i].event <= (uint32) weights->nweights
						   ? weights->scaled[counts[i].event - 1]
						   : 0;

		/* Two factors of 63 bits fit; a sum of them need not. */
		if (__builtin_add_overflow(points, (int128) weight * counts[i].count, &points))
			ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
							errmsg("the points of a user's day are out of range"),
							errhint("Look for counts that cannot be true in ecstats.user_daily.")));
	}
	return (double) points / weights->unit;
}

/*
 * ecstats_activity_decay returns what is left of a point by its age in days, below the window.
 */
double *
ecstats_activity_decay(int window, double half_life)
{
	double *decay = palloc(window * sizeof(double));
	int age;

	for (age = 0; age < window; age++)
		decay[age] = pow(0.5, age / half_life);
	return decay;
}
