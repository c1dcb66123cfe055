/*
 * rollup_pairs.c
 *		A set of pairs of numbers: what was seen with what, for counts of distinct things in a group.
 */
#include "postgres.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

#define FIRST_PAIRS 1024

static void pairs_grow(RollupPairs *pairs);

/*
 * ecstats_rollup_pairs_init makes an empty set.
 */
void
ecstats_rollup_pairs_init(RollupPairs *pairs, RollupSpace *space)
{
	pairs->space = space;
	pairs->slots = ecstats_rollup_alloc(space, FIRST_PAIRS * sizeof(uint64));
	pairs->mask = FIRST_PAIRS - 1;
	pairs->members = 0;
}

/*
 * ecstats_rollup_pairs_add adds a pair; false if it was there. The right number is not 0.
 */
bool
ecstats_rollup_pairs_add(RollupPairs *pairs, uint32 left, uint32 right)
{
	uint64 pair = ((uint64) left << 32) | right;
	uint64 at;

	Assert(right != 0);
	for (at = rollup_pair_hash(left, right) & pairs->mask; pairs->slots[at] != 0;
		 at = (at + 1) & pairs->mask)
		if (pairs->slots[at] == pair)
			return false;
	pairs->slots[at] = pair;
	if (++pairs->members > pairs->mask / 8 * 5)
		pairs_grow(pairs);
	return true;
}

/*
 * pairs_grow doubles the slots.
 */
static void
pairs_grow(RollupPairs *pairs)
{
	uint64 nslots = (pairs->mask + 1) * 2;
	uint64 *slots = ecstats_rollup_alloc(pairs->space, nslots * sizeof(uint64));
	uint64 i;

	for (i = 0; i <= pairs->mask; i++)
	{
		uint64 pair = pairs->slots[i];
		uint64 at = rollup_pair_hash((uint32) (pair >> 32), (uint32) pair) & (nslots - 1);

		if (pair == 0)
			continue;
		while (slots[at] != 0)
			at = (at + 1) & (nslots - 1);
		slots[at] = pair;
	}
	ecstats_rollup_free(pairs->space, pairs->slots, (pairs->mask + 1) * sizeof(uint64));
	pairs->slots = slots;
	pairs->mask = nslots - 1;
}
