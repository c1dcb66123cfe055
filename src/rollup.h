/*
 * rollup.h
 *		What the files of the rollup share: counted memory, the table that interns byte strings,
 *		the packed counts of a user, exact money.
 *
 *		rollup.c         memory, text arrays
 *		rollup_table.c   byte string -> record, open addressing
 *		rollup_pairs.c   set of pairs of numbers
 *		rollup_block.c   sorted ids, packed (rollup_block.h)
 *		rollup_money.c   exact sums of numeric
 *		rollup_user.c    per-user counters of events
 *		rollup_event.c   the scan of events
 *		rollup_heap.c    the pages of a table
 *		rollup_event_put.c  what the scan of events returns
 *		rollup_order.c   the scan of order lines (rollup_order.h)
 *		rollup_days.c    stored sets of ids, read side by side (rollup_days.h)
 *		rollup_period.c  distinct ids over several days
 *		rollup_parallel.c   the scan of events by several processes
 */
#ifndef ECSTATS_ROLLUP_H
#define ECSTATS_ROLLUP_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "storage/dsm.h"
#include "storage/shm_toc.h"
#include "utils/array.h"
#include "utils/numeric.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "compat.h"
#include "ecstats.h"

/* ---------------------------------------------------------------- rollup.c */

/* Memory of one call: every long-lived block is taken here, so that the limit can be kept. */
typedef struct RollupSpace
{
	MemoryContext context;
	Size used;	/* bytes handed out and not given back */
	Size limit; /* above this the call fails with 53200 */
} RollupSpace;

extern void ecstats_rollup_space_init(RollupSpace *space);
extern void *ecstats_rollup_alloc(RollupSpace *space, Size size);
extern void ecstats_rollup_free(RollupSpace *space, void *block, Size size);
extern void *ecstats_rollup_grow(RollupSpace *space, void *block, Size old_size, Size new_size);
extern bool ecstats_rollup_listed(const Datum *texts, int ntexts, const char *bytes, uint32 length);
extern void ecstats_rollup_texts(ArrayType *array, const char *name, Datum **texts, int *ntexts);

/* ---------------------------------------------------------------- rollup_table.c */

/* Records are addressed by chunk and by unit of 8 bytes in it; reference 0 is never used. */
#define ROLLUP_CHUNK_BITS 19
#define ROLLUP_CHUNK_SIZE ((Size) 8 << ROLLUP_CHUNK_BITS)
#define ROLLUP_MAX_LENGTH 65535 /* bytes of an interned string */

typedef struct RollupSlot
{
	uint32 hash;
	uint32 ref; /* 0: free */
} RollupSlot;

/* A record: the payload (zeroed when made), then the string, in chunks that never move. */
typedef struct RollupRecord
{
	uint32 length;						 /* bytes of the string */
	char payload[FLEXIBLE_ARRAY_MEMBER]; /* RollupTable.payload bytes, 4-byte aligned */
} RollupRecord;

/* The head of a chunk. */
typedef struct RollupChunk
{
	uint32 fill; /* bytes used, this head included */
	uint32 size; /* bytes there are */
} RollupChunk;

typedef struct RollupTable
{
	RollupSpace *space;
	uint64 seed; /* of the hash, drawn for each table */
	RollupSlot *slots;
	uint32 mask; /* number of slots - 1 */
	uint32 members;
	uint32 room;	/* members that fit before the slots grow */
	uint32 payload; /* bytes of a record's payload, a multiple of 4 */
	RollupChunk **chunks;
	uint32 nchunks;
	uint32 max_chunks;
} RollupTable;

extern void ecstats_rollup_table_init(RollupTable *table, RollupSpace *space, uint32 payload);
extern void ecstats_rollup_table_reserve(RollupTable *table, uint32 more);
extern RollupRecord *ecstats_rollup_table_intern(RollupTable *table, uint32 hash, const char *bytes,
												 uint32 length, uint32 *ref, bool *found);
extern RollupRecord *ecstats_rollup_table_find(const RollupTable *table, const char *bytes,
											   uint32 length);
extern void ecstats_rollup_table_seal(RollupTable *table);
extern RollupRecord *ecstats_rollup_table_next(const RollupTable *table, uint32 *chunk, uint32 *at);

/*
 * rollup_record returns the record of a reference.
 */
static inline RollupRecord *
rollup_record(const RollupTable *table, uint32 ref)
{
	char *chunk = (char *) table->chunks[ref >> ROLLUP_CHUNK_BITS];

	return (RollupRecord *) (chunk + ((Size) (ref & ((1U << ROLLUP_CHUNK_BITS) - 1)) << 3));
}

/*
 * rollup_record_bytes returns the string of a record; it is not terminated.
 */
static inline const char *
rollup_record_bytes(const RollupTable *table, const RollupRecord *record)
{
	return record->payload + table->payload;
}

/*
 * rollup_record_size returns the bytes that a record with a string of this length takes.
 */
static inline uint32
rollup_record_size(const RollupTable *table, uint32 length)
{
	return (uint32) TYPEALIGN(8, offsetof(RollupRecord, payload) + table->payload + length);
}

/*
 * rollup_mix folds one word into a hash. Two multiplications with a rotation between them, so that
 * no difference of the input survives unchanged whatever the seed is.
 */
static inline uint64
rollup_mix(uint64 hash, uint64 word)
{
	hash = (hash ^ word) * UINT64CONST(0x9E3779B97F4A7C15);
	hash = (hash << 29) | (hash >> 35);
	return hash * UINT64CONST(0xD6E8FEB86659FD93);
}

/*
 * rollup_word makes a number of up to three bytes.
 */
static inline uint64
rollup_word(const char *bytes, uint32 length)
{
	if (length == 0)
		return 0;
	return ((uint64) (unsigned char) bytes[0] << 16) |
		   ((uint64) (unsigned char) bytes[length >> 1] << 8) | (unsigned char) bytes[length - 1];
}

/*
 * rollup_hash_bytes hashes a byte string. The tail is read by loads that overlap, which is cheaper
 * than a loop over bytes.
 */
static inline uint32
rollup_hash_bytes(uint64 seed, const char *bytes, uint32 length)
{
	uint64 hash = seed ^ length;
	uint64 word;
	uint32 low;
	uint32 high;

	if (length >= 8)
	{
		uint32 at = 0;

		for (; at + 8 < length; at += 8)
		{
			memcpy(&word, bytes + at, 8);
			hash = rollup_mix(hash, word);
		}
		memcpy(&word, bytes + length - 8, 8);
	}
	else if (length >= 4)
	{
		memcpy(&low, bytes, 4);
		memcpy(&high, bytes + length - 4, 4);
		word = ((uint64) high << 32) | low;
	}
	else
		word = rollup_word(bytes, length);
	hash = rollup_mix(hash, word);
	hash ^= hash >> 32;
	return (uint32) hash;
}

/*
 * rollup_hash hashes a byte string with the table's seed.
 */
static inline uint32
rollup_hash(const RollupTable *table, const char *bytes, uint32 length)
{
	return rollup_hash_bytes(table->seed, bytes, length);
}

/*
 * rollup_equal compares two strings of the same length: ids are short, a call would cost more.
 */
static inline bool
rollup_equal(const char *a, const char *b, uint32 length)
{
	uint64 left;
	uint64 right;
	uint32 at;

	if (length < 4)
		return rollup_word(a, length) == rollup_word(b, length);
	if (length < 8)
	{
		uint32 heads[2];
		uint32 tails[2];

		memcpy(&heads[0], a, 4);
		memcpy(&heads[1], b, 4);
		memcpy(&tails[0], a + length - 4, 4);
		memcpy(&tails[1], b + length - 4, 4);
		return heads[0] == heads[1] && tails[0] == tails[1];
	}
	for (at = 0; at + 8 < length; at += 8)
	{
		memcpy(&left, a + at, 8);
		memcpy(&right, b + at, 8);
		if (left != right)
			return false;
	}
	memcpy(&left, a + length - 8, 8);
	memcpy(&right, b + length - 8, 8);
	return left == right;
}

/*
 * rollup_record_is tells whether a record's string is this one.
 */
static inline bool
rollup_record_is(const RollupTable *table, const RollupRecord *record, const char *bytes,
				 uint32 length)
{
	return record->length == length &&
		   rollup_equal(rollup_record_bytes(table, record), bytes, length);
}

/*
 * Ask for the cache line of an address; any address will do. A macro: gcc takes an inline function
 * that only prefetches for one without effect, and drops its calls.
 */
#if defined(__GNUC__)
#define rollup_prefetch(address) __builtin_prefetch(address)
#else
#define rollup_prefetch(address) ((void) (address))
#endif

/* The slot that a hash starts at. */
#define rollup_table_prefetch(table, hash) rollup_prefetch(&(table)->slots[(hash) & (table)->mask])

/*
 * rollup_table_guess returns the first reference stored under the same hash, 0 if there is none. The
 * caller still has to compare the string.
 */
static inline uint32
rollup_table_guess(const RollupTable *table, uint32 hash)
{
	uint32 at = hash & table->mask;

	while (table->slots[at].ref != 0 && table->slots[at].hash != hash)
		at = (at + 1) & table->mask;
	return table->slots[at].ref;
}

/*
 * rollup_text returns a text datum in a form whose bytes can be read; if that is another one than
 * what was given, the caller frees it.
 */
static inline struct varlena *
rollup_text(struct varlena *stored)
{
	if (VARATT_IS_EXTERNAL(stored) || VARATT_IS_COMPRESSED(stored))
		return pg_detoast_datum_packed(stored);
	return stored;
}

/* ---------------------------------------------------------------- rollup_pairs.c */

/* A set of pairs of numbers. */
typedef struct RollupPairs
{
	RollupSpace *space;
	uint64 *slots; /* 0: free */
	uint64 mask;
	uint64 members;
} RollupPairs;

extern void ecstats_rollup_pairs_init(RollupPairs *pairs, RollupSpace *space);
extern bool ecstats_rollup_pairs_add(RollupPairs *pairs, uint32 left, uint32 right);

/*
 * rollup_pair_hash hashes a pair.
 */
static inline uint64
rollup_pair_hash(uint32 left, uint32 right)
{
	uint64 hash = rollup_mix(0, ((uint64) left << 32) | right);

	return hash ^ (hash >> 32);
}

/* The slot that a pair starts at. */
#define rollup_pairs_prefetch(pairs, left, right) \
	rollup_prefetch(&(pairs)->slots[rollup_pair_hash(left, right) & (pairs)->mask])

/* ---------------------------------------------------------------- rollup_block.c, see rollup_block.h */

/* How often a user did one event. */
typedef struct RollupCount
{
	uint32 event; /* number of the event, from 1 */
	int64 count;
} RollupCount;

extern void ecstats_rollup_counts_sort(RollupCount *counts, int ncounts);

/* ---------------------------------------------------------------- rollup_money.c */

/* An exact sum of numerics: an integer at a decimal scale, and what did not fit. */
typedef struct RollupMoney
{
	int64 value;  /* in units of 10^-scale */
	int scale;	  /* the largest display scale seen */
	Numeric rest; /* palloc'ed sum of what the integer could not take, or NULL */
} RollupMoney;

extern void ecstats_rollup_money_add(RollupMoney *sum, Datum amount);
extern void ecstats_rollup_money_merge(RollupMoney *sum, const RollupMoney *more);
extern Datum ecstats_rollup_money_get(const RollupMoney *sum, bool negate);

/* ---------------------------------------------------------------- rollup_user.c */

/* Events with a lower number are counted in the user's record, others in the overflow. */
#define ROLLUP_NEAR 32

/* The payload of a user's record. */
typedef struct RollupUser
{
	uint32 far;				 /* newest entry of the overflow, 0 if there is none */
	uint8 near[ROLLUP_NEAR]; /* counts by event number, modulo 256 */
} RollupUser;

/* An entry of the overflow: what one user did of one event, beyond the record. */
typedef struct RollupFar
{
	uint32 user;  /* reference of the user's record */
	uint32 event; /* from 0 */
	uint32 next;  /* next entry of the same user, 0 at the end */
	int64 count;
} RollupFar;

typedef struct RollupUsers
{
	RollupTable table;
	RollupFar *far; /* entry 0 is not used */
	uint32 nfar;
	uint32 max_far;
	uint32 *far_slots;
	uint32 far_mask;
	RollupCount *counts; /* work area of ecstats_rollup_user_counts */
	uint32 max_counts;
} RollupUsers;

extern void ecstats_rollup_users_init(RollupUsers *users, RollupSpace *space);
extern void ecstats_rollup_user_add_far(RollupUsers *users, uint32 ref, RollupUser *user,
										uint32 event, int64 count);
extern bool ecstats_rollup_user_did(const RollupUsers *users, const RollupUser *user, uint32 event);
extern int ecstats_rollup_user_counts(RollupUsers *users, const RollupUser *user);
extern void ecstats_rollup_users_by_event(const RollupUsers *users, int64 *by_event);

/*
 * rollup_user_add counts one event (number from 0) of a user.
 */
static inline void
rollup_user_add(RollupUsers *users, uint32 ref, RollupUser *user, uint32 event)
{
	if (event >= ROLLUP_NEAR)
		ecstats_rollup_user_add_far(users, ref, user, event, 1);
	else if (++user->near[event] == 0)
		ecstats_rollup_user_add_far(users, ref, user, event, 256);
}

/*
 * rollup_user_add_many counts events (of one number from 0) of a user that somebody has counted before.
 */
static inline void
rollup_user_add_many(RollupUsers *users, uint32 ref, RollupUser *user, uint32 event, int64 count)
{
	int64 carry = count;

	if (event < ROLLUP_NEAR)
	{
		carry += user->near[event];
		user->near[event] = (uint8) (carry & 0xFF);
		carry &= ~INT64CONST(0xFF);
	}
	if (carry != 0)
		ecstats_rollup_user_add_far(users, ref, user, event, carry);
}

/* ---------------------------------------------------------------- rollup_event.c, rollup_event_put.c */

/* What is known of an event name. */
typedef struct RollupEvent
{
	int64 events;
	int64 users; /* filled in after the pass */
	uint32 ref;	 /* record in RollupEventScan.names */
	bool page_view;
} RollupEvent;

/* A short name, with zeros to sixteen bytes, and its number plus one. */
typedef struct RollupKnown
{
	uint64 low;
	uint64 high;
	uint32 number;
} RollupKnown;

/* One row of a batch. */
typedef struct RollupBatchRow
{
	const char *id; /* in RollupEventScan.bytes */
	uint32 length;
	uint32 hash;
	uint32 ref;	  /* a record that is probably this user's */
	uint32 event; /* number from 0 */
} RollupBatchRow;

typedef struct RollupEventScan
{
	RollupSpace space;
	TimestampTz from_time;
	TimestampTz to_time;
	Datum *page_views;
	int npage_views;
	RollupTable names;	/* payload: number of the event, from 0 */
	RollupKnown *known; /* of short names, for a look without a branch that depends on them */
	RollupEvent *events;
	uint32 nevents;
	uint32 max_events;
	RollupUsers users;
	RollupBatchRow *rows;
	uint32 nrows;
	char *bytes; /* the ids of the batch */
	uint32 nbytes;
} RollupEventScan;

/* ---------------------------------------------------------------- rollup_heap.c */

/* How many rows ahead the first bytes of one are asked for. */
#define ROLLUP_ROWS_AHEAD 6

struct TableScanDescData;

/* Takes the visible rows of a page, which ends at end. */
typedef void (*RollupTakeRows)(void *state, HeapTupleHeader *rows, int nrows, const char *end);

extern bool ecstats_rollup_heap_can(Relation heap);
extern void ecstats_rollup_heap_scan(struct TableScanDescData *reader, RollupTakeRows take,
									 void *state);

/* ---------------------------------------------------------------- rollup_event.c again */

extern void ecstats_rollup_event_init(RollupEventScan *scan, TimestampTz from_time,
									  TimestampTz to_time);
extern void ecstats_rollup_event_scan(RollupEventScan *scan, Relation heap,
									  struct TableScanDescData *reader);
extern void ecstats_rollup_event_flush(RollupEventScan *scan);
extern uint32 ecstats_rollup_event_number(RollupEventScan *scan, uint32 hash, const char *name,
										  uint32 length);
extern void ecstats_rollup_event_put(RollupEventScan *scan, EcstatsRows *result, ArrayType *funnel,
									 ArrayType *names);

/* ---------------------------------------------------------------- rollup_parallel.c */

extern bool ecstats_rollup_parallel_scan(RollupEventScan *scan, const List *heaps,
										 Snapshot snapshot);
extern PGDLLEXPORT void ecstats_rollup_parallel_main(dsm_segment *segment, shm_toc *toc);

#endif /* ECSTATS_ROLLUP_H */
