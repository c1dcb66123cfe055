/*
 * activity.h
 *		The decayed score of users, and what is found on the way.
 *
 *		activity_points.c  weights, points of a day, decay: arithmetic alone
 *		activity_rank.c    the score from which on a user belongs to the top
 *		activity.c         the pass over stored days
 *		activity_cohort.c  who came back
 */
#ifndef ECSTATS_ACTIVITY_H
#define ECSTATS_ACTIVITY_H

#include "utils/array.h"
#include "utils/date.h"

#include "rollup_days.h"

/* ---------------------------------------------------------------- activity_points.c */

/* Weights as integers of a common decimal scale, so that a sum does not depend on its order. */
typedef struct ActivityWeights
{
	int64 *scaled; /* by number of the event - 1 */
	int nweights;
	double unit; /* what one point is of them */
} ActivityWeights;

extern void ecstats_activity_weights(ActivityWeights *weights, ArrayType *array);
extern double ecstats_activity_points(const ActivityWeights *weights, const RollupCount *counts,
									  int ncounts);
extern double *ecstats_activity_decay(int window, double half_life);

/* ---------------------------------------------------------------- activity_rank.c */

extern double ecstats_activity_cutoff(const double *scores, uint32 nscores, Datum share);

#endif /* ECSTATS_ACTIVITY_H */
