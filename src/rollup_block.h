/*
 * rollup_block.h
 *		Blocks: sorted ids, each with a payload, packed into a bytea.
 *
 *		rollup_block.c   writing and reading one
 *		rollup_unpack.c  what SQL asks of them
 *		rollup_sort.c    the records of a table by their strings
 *		rollup_first.c   users by the day on which they were seen first
 */
#ifndef ECSTATS_ROLLUP_BLOCK_H
#define ECSTATS_ROLLUP_BLOCK_H

#include "lib/stringinfo.h"
#include "utils/portal.h"

#include "rollup.h"

/* What the ids of a block carry. */
typedef enum RollupPayload
{
	ROLLUP_COUNTS = 'c', /* how often a user did which event */
	ROLLUP_NUMBER = 'n'	 /* one number */
} RollupPayload;

/* A first day is stored as its distance from the first one there is, 1999-12-30. */
#define ROLLUP_FIRST_DAY  (-2)
#define ROLLUP_FIRST_DAYS 100000 /* there are fewer days than that */

/* A block that is being written. */
typedef struct RollupBlockWriter
{
	RollupPayload kind;
	uint32 ids;			  /* in the block */
	StringInfoData bytes; /* the block, with its varlena header */
	StringInfoData first; /* its first id */
	StringInfoData last;  /* the id written last */
	StringInfoData pairs; /* work area of ecstats_rollup_writer_counts */
} RollupBlockWriter;

extern void ecstats_rollup_writer_init(RollupBlockWriter *writer, RollupPayload kind);
extern bool ecstats_rollup_writer_ends(const RollupBlockWriter *writer, const char *id,
									   uint32 length);
extern void ecstats_rollup_writer_counts(RollupBlockWriter *writer, const char *id, uint32 length,
										 const RollupCount *counts, int ncounts);
extern void ecstats_rollup_writer_number(RollupBlockWriter *writer, const char *id, uint32 length,
										 uint64 number);
extern bytea *ecstats_rollup_writer_block(RollupBlockWriter *writer);
extern void ecstats_rollup_writer_reset(RollupBlockWriter *writer);

/* Where the reader of a block is. */
typedef struct RollupBlockReader
{
	RollupPayload kind;
	const unsigned char *start;
	const unsigned char *at;
	const unsigned char *end;
	char *id; /* the id read last; not terminated, it moves with the next one */
	uint32 length;
	uint32 room;				  /* bytes at id */
	uint32 ids;					  /* read so far */
	uint64 number;				  /* payload of kind ROLLUP_NUMBER */
	const unsigned char *payload; /* of kind ROLLUP_COUNTS: its pairs, up to at */
	RollupCount *counts;		  /* filled in by ecstats_rollup_reader_counts */
	int max_counts;
} RollupBlockReader;

extern void ecstats_rollup_reader_init(RollupBlockReader *reader);
extern void ecstats_rollup_reader_open(RollupBlockReader *reader, const bytea *block,
									   RollupPayload kind);
extern bool ecstats_rollup_reader_next(RollupBlockReader *reader);
extern int ecstats_rollup_reader_counts(RollupBlockReader *reader);

/* The ids of several blocks, one after another. */
typedef struct RollupBlockList
{
	RollupPayload kind;
	bytea *(*fetch)(struct RollupBlockList *list); /* the next block, NULL at the end */
	Datum *blocks;								   /* of an array */
	Portal portal;								   /* or of a query */
	struct SPITupleTable *rows;					   /* what it returned last */
	int nblocks;								   /* in the array, or in rows */
	int next;									   /* in them */
	int taken;									   /* blocks so far */
	bool valid;									   /* there is an id at the reader */
	RollupBlockReader reader;					   /* at the current id */
	StringInfoData last;						   /* last id of the block before */
} RollupBlockList;

extern void ecstats_rollup_list_open_portal(RollupBlockList *list, Portal portal,
											RollupPayload kind);
extern void ecstats_rollup_list_open(RollupBlockList *list, ArrayType *blocks, RollupPayload kind);
extern bool ecstats_rollup_list_next(RollupBlockList *list);

/*
 * rollup_compare orders strings by their bytes, as collation "C" does.
 */
static inline int
rollup_compare(const char *a, uint32 a_length, const char *b, uint32 b_length)
{
	int order = memcmp(a, b, Min(a_length, b_length));

	if (order != 0)
		return order;
	return (a_length > b_length) - (a_length < b_length);
}

/* ---------------------------------------------------------------- rollup_sort.c */

/* A record, and eight bytes of its string that it is ordered by. */
typedef struct RollupSorted
{
	uint64 key;
	const RollupRecord *record;
} RollupSorted;

extern RollupSorted *ecstats_rollup_sort(const RollupTable *table);

#endif /* ECSTATS_ROLLUP_BLOCK_H */
