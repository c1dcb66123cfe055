/*
 * rollup_user.c
 *		What each user did. A record counts the first 32 event names in a byte each; what a byte
 *		cannot hold (its carry) and all later names go to an overflow, a hash of (user, event).
 *		Shops use some dozen names, so that a user costs 40 bytes, the id and the slot.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

#define FIRST_FAR 1024

static void grow_far(RollupUsers *users);
static uint32 far_hash(uint32 ref, uint32 event);

/*
 * ecstats_rollup_users_init makes an empty table of users.
 */
void
ecstats_rollup_users_init(RollupUsers *users, RollupSpace *space)
{
	memset(users, 0, sizeof(*users));
	ecstats_rollup_table_init(&users->table, space, sizeof(RollupUser));
	users->nfar = 1;
}

/*
 * ecstats_rollup_user_add_far counts in the overflow.
 */
void
ecstats_rollup_user_add_far(RollupUsers *users, uint32 ref, RollupUser *user, uint32 event,
							int64 count)
{
	RollupFar *entry;
	uint32 at;

	if (users->nfar >= users->max_far)
		grow_far(users);
	at = far_hash(ref, event) & users->far_mask;
	while (users->far_slots[at] != 0)
	{
		entry = &users->far[users->far_slots[at]];
		if (entry->user == ref && entry->event == event)
		{
			entry->count += count;
			return;
		}
		at = (at + 1) & users->far_mask;
	}
	users->far_slots[at] = users->nfar;
	entry = &users->far[users->nfar];
	entry->user = ref;
	entry->event = event;
	entry->count = count;
	entry->next = user->far;
	user->far = users->nfar++;
}

/*
 * grow_far doubles the overflow; there are always two slots for an entry.
 */
static void
grow_far(RollupUsers *users)
{
	RollupSpace *space = users->table.space;
	uint32 max_far = Max(FIRST_FAR, users->max_far * 2);
	uint32 i;

	if (users->max_far >= (1U << 30))
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("rollup has too many different events of users")));
	users->far = ecstats_rollup_grow(space, users->far, (Size) users->max_far * sizeof(RollupFar),
									 (Size) max_far * sizeof(RollupFar));
	if (users->far_slots != NULL)
		ecstats_rollup_free(space, users->far_slots, (Size) users->max_far * 2 * sizeof(uint32));
	users->far_slots = ecstats_rollup_alloc(space, (Size) max_far * 2 * sizeof(uint32));
	users->max_far = max_far;
	users->far_mask = max_far * 2 - 1;
	for (i = 1; i < users->nfar; i++)
	{
		uint32 at = far_hash(users->far[i].user, users->far[i].event) & users->far_mask;

		while (users->far_slots[at] != 0)
			at = (at + 1) & users->far_mask;
		users->far_slots[at] = i;
	}
}

/*
 * far_hash hashes a pair of user and event.
 */
static uint32
far_hash(uint32 ref, uint32 event)
{
	uint64 hash = rollup_mix(0, ((uint64) event << 32) | ref);

	return (uint32) (hash ^ (hash >> 32));
}

/*
 * ecstats_rollup_user_did tells whether a user has an event of this number (from 0).
 */
bool
ecstats_rollup_user_did(const RollupUsers *users, const RollupUser *user, uint32 event)
{
	uint32 i;

	if (event < ROLLUP_NEAR && user->near[event] != 0)
		return true;
	for (i = user->far; i != 0; i = users->far[i].next)
		if (users->far[i].event == event)
			return true;
	return false;
}

/*
 * ecstats_rollup_user_counts puts a user's counts into users->counts, by ascending event number
 * (from 1), and returns how many there are.
 */
int
ecstats_rollup_user_counts(RollupUsers *users, const RollupUser *user)
{
	uint32 n = 0;
	uint32 room = ROLLUP_NEAR;
	int64 carry[ROLLUP_NEAR] = {0};
	uint32 i;

	for (i = user->far; i != 0; i = users->far[i].next)
		room++;
	if (room > users->max_counts)
	{
		room = Max(room, users->max_counts * 2);
		users->counts = ecstats_rollup_grow(users->table.space, users->counts,
											users->max_counts * sizeof(RollupCount),
											room * sizeof(RollupCount));
		users->max_counts = room;
	}
	for (i = user->far; i != 0; i = users->far[i].next)
		if (users->far[i].event < ROLLUP_NEAR)
			carry[users->far[i].event] = users->far[i].count;
	for (i = 0; i < ROLLUP_NEAR; i++)
	{
		if (user->near[i] == 0 && carry[i] == 0)
			continue;
		users->counts[n].event = i + 1;
		users->counts[n++].count = carry[i] + user->near[i];
	}
	room = n;
	for (i = user->far; i != 0; i = users->far[i].next)
	{
		if (users->far[i].event < ROLLUP_NEAR)
			continue;
		users->counts[n].event = users->far[i].event + 1;
		users->counts[n++].count = users->far[i].count;
	}
	ecstats_rollup_counts_sort(users->counts + room, (int) (n - room));
	return (int) n;
}

/*
 * ecstats_rollup_users_by_event adds to by_event[event number from 0] the users that have the event.
 */
void
ecstats_rollup_users_by_event(const RollupUsers *users, int64 *by_event)
{
	uint32 near[ROLLUP_NEAR] = {0};
	uint32 chunk = 0;
	uint32 at = 0;
	RollupRecord *record;
	uint32 i;

	while ((record = ecstats_rollup_table_next(&users->table, &chunk, &at)) != NULL)
	{
		const RollupUser *user = (const RollupUser *) record->payload;

		for (i = 0; i < ROLLUP_NEAR; i++)
			near[i] += user->near[i] != 0;
		for (i = user->far; i != 0; i = users->far[i].next)
			if (users->far[i].event >= ROLLUP_NEAR || user->near[users->far[i].event] == 0)
				by_event[users->far[i].event]++;
	}
	for (i = 0; i < ROLLUP_NEAR; i++)
		if (near[i] != 0)
			by_event[i] += near[i];
}
