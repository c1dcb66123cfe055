/*
 * rollup_days.h
 *		Stored sets of ids, read side by side: the users of several days, and who was seen first when.
 *		Of the rollup, this is what an area to its right may include.
 */
#ifndef ECSTATS_ROLLUP_DAYS_H
#define ECSTATS_ROLLUP_DAYS_H

#include "utils/date.h"

#include "rollup.h"
#include "rollup_block.h"

#define ROLLUP_MAX_DAYS 400

/* One sorted set of ids. */
typedef struct RollupStream RollupStream;

/* A distinct id of a round. */
typedef struct RollupDayId
{
	uint32 hash;
	uint32 slot;
	uint32 at; /* of its bytes */
	uint32 length;
} RollupDayId;

/*
 * The reading of several sets. It goes in rounds: each has all ids of a narrow range, numbered from 0
 * in no particular order, and no later round has any of them; the ranges ascend.
 */
typedef struct RollupDays
{
	RollupSpace space;
	RollupStream *streams;
	int nstreams;
	int max_streams;
	char *border; /* the round ends below this id */
	uint32 border_length;
	uint64 seed;
	uint32 *slots; /* number of an id, from 1; 0: free */
	uint32 mask;
	RollupDayId *ids; /* of the round; room for half as many as there are slots */
	uint32 nids;
	char *bytes;
	Size nbytes;
	Size max_bytes;

	/* What the caller does with an id of a stream, and with the ids of a round. */
	void *arg;
	void (*take)(void *arg, uint32 id, int stream, RollupBlockReader *reader);
	void (*end_round)(void *arg, const struct RollupDays *days);
} RollupDays;

extern int ecstats_rollup_stored_days(DateADT from_day, DateADT to_day, DateADT *days);
extern void ecstats_rollup_days_init(RollupDays *days, int max_streams);
extern int ecstats_rollup_days_add(RollupDays *days, const char *relation, char kind, DateADT day);
extern void ecstats_rollup_days_read(RollupDays *days);
extern void ecstats_rollup_days_end(RollupDays *days);
extern DateADT ecstats_rollup_first_day(const RollupBlockReader *reader);

#endif /* ECSTATS_ROLLUP_DAYS_H */
