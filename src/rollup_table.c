/*
 * rollup_table.c
 *		From a byte string to a record: open addressing over slots of 8 bytes (hash and reference),
 *		records in chunks that never move. Growing reads the slots alone, never the records.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

#define FIRST_SLOTS 1024
#define FIRST_CHUNK ((Size) 16 * 1024)
#define MAX_SLOTS	((uint64) 1 << 31)

static uint32 new_record(RollupTable *table, uint32 length);
static void new_chunk(RollupTable *table, uint32 need);
static uint32 room_of(uint64 slots);

/*
 * ecstats_rollup_table_init makes an empty table whose records carry this many bytes of payload.
 */
void
ecstats_rollup_table_init(RollupTable *table, RollupSpace *space, uint32 payload)
{
	memset(table, 0, sizeof(*table));
	table->space = space;
	table->payload = TYPEALIGN(4, payload);
	/* The seed only has to be unknown to whoever chooses the ids. */
	if (!pg_strong_random(&table->seed, sizeof(table->seed)))
		elog(ERROR, "could not draw a random seed");
	table->slots = ecstats_rollup_alloc(space, FIRST_SLOTS * sizeof(RollupSlot));
	table->mask = FIRST_SLOTS - 1;
	table->room = room_of(FIRST_SLOTS);
}

/*
 * room_of returns how many members a number of slots takes: five eighths, where a look-up still ends
 * in the first cache line most of the time.
 */
static uint32
room_of(uint64 slots)
{
	return (uint32) (slots / 8 * 5);
}

/*
 * ecstats_rollup_table_reserve makes sure that this many more members fit without the slots moving,
 * so that what was prefetched stays good.
 */
void
ecstats_rollup_table_reserve(RollupTable *table, uint32 more)
{
	uint64 nslots = (uint64) table->mask + 1;
	uint64 old_nslots = nslots;
	RollupSlot *slots;
	uint64 i;

	if ((uint64) table->members + more <= table->room)
		return;
	while ((uint64) table->members + more > room_of(nslots))
		nslots *= 2;
	if (nslots > MAX_SLOTS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("rollup has too many different ids")));

	slots = ecstats_rollup_alloc(table->space, nslots * sizeof(RollupSlot));
	for (i = 0; i < old_nslots; i++)
	{
		uint32 at = table->slots[i].hash & (uint32) (nslots - 1);

		if ((i & 0xFFFFF) == 0)
			CHECK_FOR_INTERRUPTS();
		if (table->slots[i].ref == 0)
			continue;
		while (slots[at].ref != 0)
			at = (at + 1) & (uint32) (nslots - 1);
		slots[at] = table->slots[i];
	}
	ecstats_rollup_free(table->space, table->slots, old_nslots * sizeof(RollupSlot));
	table->slots = slots;
	table->mask = (uint32) (nslots - 1);
	table->room = room_of(nslots);
}

/*
 * ecstats_rollup_table_intern returns the record of a string and its reference, a new one (payload
 * zeroed, *found false) if it was not there.
 */
RollupRecord *
ecstats_rollup_table_intern(RollupTable *table, uint32 hash, const char *bytes, uint32 length,
							uint32 *ref, bool *found)
{
	RollupRecord *record;
	uint32 at;

	if (table->members >= table->room)
		ecstats_rollup_table_reserve(table, 1);

	for (at = hash & table->mask; table->slots[at].ref != 0; at = (at + 1) & table->mask)
	{
		if (table->slots[at].hash != hash)
			continue;
		record = rollup_record(table, table->slots[at].ref);
		if (rollup_record_is(table, record, bytes, length))
		{
			*ref = table->slots[at].ref;
			*found = true;
			return record;
		}
	}

	*ref = new_record(table, length);
	*found = false;
	record = rollup_record(table, *ref);
	record->length = length;
	memcpy(record->payload + table->payload, bytes, length);
	table->slots[at].hash = hash;
	table->slots[at].ref = *ref;
	table->members++;
	return record;
}

/*
 * new_record takes the room of one record from the last chunk; chunks are zeroed when made.
 */
static uint32
new_record(RollupTable *table, uint32 length)
{
	RollupChunk *chunk = table->nchunks > 0 ? table->chunks[table->nchunks - 1] : NULL;
	uint32 size;
	uint32 ref;

	if (length > ROLLUP_MAX_LENGTH)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("rollup takes ids of up to %d bytes", ROLLUP_MAX_LENGTH),
						errdetail("An id has %u bytes.", length)));
	size = rollup_record_size(table, length);
	if (chunk == NULL || chunk->size - chunk->fill < size)
	{
		new_chunk(table, size);
		chunk = table->chunks[table->nchunks - 1];
	}
	ref = ((table->nchunks - 1) << ROLLUP_CHUNK_BITS) | (chunk->fill >> 3);
	chunk->fill += size;
	return ref;
}

/*
 * new_chunk appends a chunk; the first ones are small, so that a small day costs little.
 */
static void
new_chunk(RollupTable *table, uint32 need)
{
	Size size = ROLLUP_CHUNK_SIZE;

	if (table->nchunks < 8)
		size = Min(ROLLUP_CHUNK_SIZE, FIRST_CHUNK << (table->nchunks * 2));
	size = Max(size, MAXALIGN(sizeof(RollupChunk)) + need);

	if (table->nchunks >= (1U << (32 - ROLLUP_CHUNK_BITS)))
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("rollup has too many different ids")));
	if (table->nchunks == table->max_chunks)
	{
		uint32 max_chunks = Max(16, table->max_chunks * 2);

		table->chunks = ecstats_rollup_grow(table->space, table->chunks,
											table->max_chunks * sizeof(RollupChunk *),
											max_chunks * sizeof(RollupChunk *));
		table->max_chunks = max_chunks;
	}
	table->chunks[table->nchunks] = ecstats_rollup_alloc(table->space, size);
	table->chunks[table->nchunks]->size = (uint32) size;
	table->chunks[table->nchunks]->fill = MAXALIGN(sizeof(RollupChunk));
	table->nchunks++;
}

/*
 * ecstats_rollup_table_find returns the record of a string, NULL if it is not there.
 */
RollupRecord *
ecstats_rollup_table_find(const RollupTable *table, const char *bytes, uint32 length)
{
	uint32 hash = rollup_hash(table, bytes, length);
	RollupRecord *record;
	uint32 at;

	for (at = hash & table->mask; table->slots[at].ref != 0; at = (at + 1) & table->mask)
	{
		if (table->slots[at].hash != hash)
			continue;
		record = rollup_record(table, table->slots[at].ref);
		if (rollup_record_is(table, record, bytes, length))
			return record;
	}
	return NULL;
}

/*
 * ecstats_rollup_table_next walks the records in the order in which they were made. The caller
 * starts with *chunk and *at 0; NULL is the end.
 */
RollupRecord *
ecstats_rollup_table_next(const RollupTable *table, uint32 *chunk, uint32 *at)
{
	RollupRecord *record;

	while (*chunk < table->nchunks)
	{
		CHECK_FOR_INTERRUPTS();
		if (*at == 0)
			*at = MAXALIGN(sizeof(RollupChunk));
		if (*at < table->chunks[*chunk]->fill)
		{
			record = (RollupRecord *) ((char *) table->chunks[*chunk] + *at);
			*at += rollup_record_size(table, record->length);
			return record;
		}
		(*chunk)++;
		*at = 0;
	}
	return NULL;
}

/*
 * ecstats_rollup_table_seal gives the slots back: the records stay, but none is found or added any
 * more.
 */
void
ecstats_rollup_table_seal(RollupTable *table)
{
	ecstats_rollup_free(table->space, table->slots, ((Size) table->mask + 1) * sizeof(RollupSlot));
	table->slots = NULL;
}
