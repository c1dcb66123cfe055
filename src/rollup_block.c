/*
 * rollup_block.c
 *		A block is a bytea of sorted ids with a payload each: a version byte, a byte that says what the
 *		payload is, then an entry for each id: how many bytes it shares with the id before, how many
 *		follow, these bytes, the payload. Numbers are varints: 7 bits a byte, low ones first, the top
 *		bit set on all bytes but the last, and no more bytes than it needs.
 *
 *		Payload 'n' is one number. Payload 'c' is its size in bytes, then pairs of the distance to the
 *		event number before (from 0) and the count.
 *
 *		Which id begins a block is decided by the id itself, so that a user more or less changes one
 *		block, and those around it stay as they are stored.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"

#define BLOCK_VERSION 1
#define BLOCK_HEADER  2

/*
 * One id in 64 begins a block. Whatever they are, a block of the most bytes takes no more, and one of
 * fewer than the least takes another: ids are the visitors' to choose.
 */
#define BORDER_MASK 63
#define LEAST_BYTES 256
#define MOST_BYTES	4000

#define MAX_VARINT 10

#define FETCH_BLOCKS 200

static void begin_entry(RollupBlockWriter *writer, const char *id, uint32 length);
static void append_varint(StringInfo to, uint64 value);
static inline uint64 read_varint(RollupBlockReader *reader);
static uint64 read_long_varint(RollupBlockReader *reader);
static void read_id(RollupBlockReader *reader);
static void corrupt(const RollupBlockReader *reader, const char *reason) __attribute__((noreturn));
static int compare_counts(const void *a, const void *b);
static void list_begin(RollupBlockList *list);
static bytea *fetch_from_array(RollupBlockList *list);
static bytea *fetch_from_portal(RollupBlockList *list);

/* ---------------------------------------------------------------- writing */

/*
 * ecstats_rollup_writer_init makes a writer; what it needs lives in the current memory context.
 */
void
ecstats_rollup_writer_init(RollupBlockWriter *writer, RollupPayload kind)
{
	writer->kind = kind;
	initStringInfo(&writer->bytes);
	initStringInfo(&writer->first);
	initStringInfo(&writer->last);
	initStringInfo(&writer->pairs);
	ecstats_rollup_writer_reset(writer);
}

/*
 * ecstats_rollup_writer_reset begins an empty block.
 */
void
ecstats_rollup_writer_reset(RollupBlockWriter *writer)
{
	writer->ids = 0;
	resetStringInfo(&writer->bytes);
	resetStringInfo(&writer->last);
	appendStringInfoSpaces(&writer->bytes, VARHDRSZ);
	appendStringInfoChar(&writer->bytes, BLOCK_VERSION);
	appendStringInfoChar(&writer->bytes, (char) writer->kind);
}

/*
 * ecstats_rollup_writer_ends tells whether the block ends before this id: the caller takes the block
 * and resets the writer.
 */
bool
ecstats_rollup_writer_ends(const RollupBlockWriter *writer, const char *id, uint32 length)
{
	if (writer->ids == 0)
		return false;
	return writer->bytes.len >= MOST_BYTES ||
		   (writer->bytes.len >= LEAST_BYTES &&
			(rollup_hash_bytes(0, id, length) & BORDER_MASK) == 0);
}

/*
 * ecstats_rollup_writer_counts appends a user with counts that are sorted and positive. Ids come in
 * ascending order.
 */
void
ecstats_rollup_writer_counts(RollupBlockWriter *writer, const char *id, uint32 length,
							 const RollupCount *counts, int ncounts)
{
	uint32 last = 0;
	int i;

	Assert(writer->kind == ROLLUP_COUNTS);
	resetStringInfo(&writer->pairs);
	for (i = 0; i < ncounts; i++)
	{
		Assert(counts[i].count > 0 && counts[i].event > last);
		append_varint(&writer->pairs, counts[i].event - last);
		append_varint(&writer->pairs, (uint64) counts[i].count);
		last = counts[i].event;
	}
	begin_entry(writer, id, length);
	append_varint(&writer->bytes, (uint64) writer->pairs.len);
	appendBinaryStringInfo(&writer->bytes, writer->pairs.data, writer->pairs.len);
}

/*
 * ecstats_rollup_writer_number appends an id with a number. Ids come in ascending order.
 */
void
ecstats_rollup_writer_number(RollupBlockWriter *writer, const char *id, uint32 length,
							 uint64 number)
{
	Assert(writer->kind == ROLLUP_NUMBER);
	begin_entry(writer, id, length);
	append_varint(&writer->bytes, number);
}

/*
 * ecstats_rollup_writer_block returns the block as it is; it belongs to the writer and is good until
 * the writer is reset.
 */
bytea *
ecstats_rollup_writer_block(RollupBlockWriter *writer)
{
	SET_VARSIZE(writer->bytes.data, writer->bytes.len);
	return (bytea *) writer->bytes.data;
}

/*
 * begin_entry appends the id of an entry.
 */
static void
begin_entry(RollupBlockWriter *writer, const char *id, uint32 length)
{
	uint32 most = Min(length, (uint32) writer->last.len);
	uint32 shared = 0;

	Assert(writer->ids == 0 || rollup_compare(writer->last.data, writer->last.len, id, length) < 0);
	while (shared < most && writer->last.data[shared] == id[shared])
		shared++;
	append_varint(&writer->bytes, shared);
	append_varint(&writer->bytes, length - shared);
	appendBinaryStringInfo(&writer->bytes, id + shared, (int) (length - shared));
	if (writer->ids++ == 0)
	{
		resetStringInfo(&writer->first);
		appendBinaryStringInfo(&writer->first, id, (int) length);
	}
	writer->last.len = (int) shared;
	appendBinaryStringInfo(&writer->last, id + shared, (int) (length - shared));
}

/*
 * append_varint appends a number.
 */
static void
append_varint(StringInfo to, uint64 value)
{
	unsigned char *at;

	enlargeStringInfo(to, MAX_VARINT);
	at = (unsigned char *) to->data + to->len;
	while (value >= 0x80)
	{
		*at++ = (unsigned char) (value | 0x80);
		value >>= 7;
	}
	*at++ = (unsigned char) value;
	to->len = (int) ((char *) at - to->data);
}

/*
 * ecstats_rollup_counts_sort sorts by event number; short lists, which most are, in place.
 */
void
ecstats_rollup_counts_sort(RollupCount *counts, int ncounts)
{
	RollupCount moved;
	int i;
	int j;

	if (ncounts > 32)
	{
		qsort(counts, ncounts, sizeof(RollupCount), compare_counts);
		return;
	}
	for (i = 1; i < ncounts; i++)
	{
		moved = counts[i];
		for (j = i; j > 0 && counts[j - 1].event > moved.event; j--)
			counts[j] = counts[j - 1];
		counts[j] = moved;
	}
}

/*
 * compare_counts orders by event number.
 */
static int
compare_counts(const void *a, const void *b)
{
	uint32 left = ((const RollupCount *) a)->event;
	uint32 right = ((const RollupCount *) b)->event;

	return (left > right) - (left < right);
}

/* ---------------------------------------------------------------- reading */

/*
 * ecstats_rollup_reader_init makes a reader; what it needs lives in the current memory context.
 */
void
ecstats_rollup_reader_init(RollupBlockReader *reader)
{
	memset(reader, 0, sizeof(*reader));
	reader->room = 256;
	reader->id = palloc(reader->room);
}

/*
 * ecstats_rollup_reader_open starts to read a block of a kind, which must stay where it is.
 */
void
ecstats_rollup_reader_open(RollupBlockReader *reader, const bytea *block, RollupPayload kind)
{
	reader->kind = kind;
	reader->start = (const unsigned char *) VARDATA_ANY(block);
	reader->at = reader->start;
	reader->end = reader->start + VARSIZE_ANY_EXHDR(block);
	reader->length = 0;
	reader->ids = 0;
	if (reader->end - reader->start < BLOCK_HEADER)
		corrupt(reader, "there is no header");
	if (reader->at[0] != BLOCK_VERSION)
		corrupt(reader, "the version is not known");
	reader->at++;
	if (reader->at[0] != (unsigned char) kind)
		corrupt(reader, "it is a block of another kind");
	reader->at++;
}

/*
 * ecstats_rollup_reader_next reads an id and its payload; false at the end.
 */
bool
ecstats_rollup_reader_next(RollupBlockReader *reader)
{
	uint64 size;

	if (reader->at == reader->end)
		return false;
	read_id(reader);
	if (reader->kind == ROLLUP_NUMBER)
	{
		reader->number = read_varint(reader);
		return true;
	}
	size = read_varint(reader);
	if (size > (uint64) (reader->end - reader->at))
		corrupt(reader, "counts are cut off");
	reader->payload = reader->at;
	reader->at += size;
	return true;
}

/*
 * read_id reads an id. It is what it shares with the one before and what follows, and comes after it.
 */
static void
read_id(RollupBlockReader *reader)
{
	uint64 shared = read_varint(reader);
	uint64 rest = read_varint(reader);

	if (shared > reader->length)
		corrupt(reader, "an id shares more than there is");
	if (rest > (uint64) (reader->end - reader->at))
		corrupt(reader, "an id is cut off");
	if (shared + rest > ROLLUP_MAX_LENGTH)
		corrupt(reader, "an id is too long");
	if (reader->ids > 0 && (rest == 0 || (shared < reader->length &&
										  reader->at[0] <= (unsigned char) reader->id[shared])))
		corrupt(reader, "ids do not ascend");
	if (shared + rest > reader->room)
	{
		reader->room = ROLLUP_MAX_LENGTH;
		reader->id = repalloc(reader->id, reader->room);
	}
	memcpy(reader->id + shared, reader->at, rest);
	reader->length = (uint32) (shared + rest);
	reader->at += rest;
	reader->ids++;
}

/*
 * ecstats_rollup_reader_counts puts the counts of the current user into reader->counts, by ascending
 * event number, and returns how many there are.
 */
int
ecstats_rollup_reader_counts(RollupBlockReader *reader)
{
	const unsigned char *end = reader->end;
	const unsigned char *after = reader->at;
	uint64 event = 0;
	uint64 distance;
	uint64 count;
	int n = 0;

	reader->at = reader->payload;
	reader->end = after;
	while (reader->at < after)
	{
		/* A pair takes two bytes or more, so that the block bounds what is allocated. */
		if (n == reader->max_counts)
		{
			CHECK_FOR_INTERRUPTS();
			reader->max_counts = Max(32, reader->max_counts * 2);
			reader->counts =
				reader->counts == NULL
					? palloc(reader->max_counts * sizeof(RollupCount))
					: repalloc_huge(reader->counts, reader->max_counts * sizeof(RollupCount));
		}
		distance = read_varint(reader);
		count = read_varint(reader);
		event += distance;
		if (distance == 0 || distance > PG_INT32_MAX || event > PG_INT32_MAX)
			corrupt(reader, "event numbers do not ascend from 1");
		if (count == 0 || count > PG_INT64_MAX)
			corrupt(reader, "a count is out of range");
		reader->counts[n].event = (uint32) event;
		reader->counts[n++].count = (int64) count;
	}
	reader->at = after;
	reader->end = end;
	return n;
}

/*
 * read_varint reads a number; most are of one byte.
 */
static inline uint64
read_varint(RollupBlockReader *reader)
{
	if (reader->at < reader->end && *reader->at < 0x80)
		return *reader->at++;
	return read_long_varint(reader);
}

/*
 * read_long_varint reads a number of up to 63 bits, in its shortest form only.
 */
static uint64
read_long_varint(RollupBlockReader *reader)
{
	uint64 value = 0;
	int shift;

	for (shift = 0; shift < 63; shift += 7)
	{
		unsigned char byte;

		if (reader->at >= reader->end)
			corrupt(reader, "a number is cut off");
		byte = *reader->at++;
		value |= (uint64) (byte & 0x7F) << shift;
		if ((byte & 0x80) == 0)
		{
			if (byte == 0 && shift > 0)
				corrupt(reader, "a number is longer than it needs to be");
			return value;
		}
	}
	corrupt(reader, "a number is too long");
}

/*
 * corrupt reports a bytea that is not one of ours.
 */
static void
corrupt(const RollupBlockReader *reader, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
			 errdetail("At byte %d of %d: %s.", (int) (reader->at - reader->start),
					   (int) (reader->end - reader->start), reason),
			 errhint("CALL ecstats_rebuild(day, day) makes a day's blocks anew from raw rows.")));
}

/*
 * ecstats_rollup_list_open starts to read an array of blocks of a kind, which must stay where it is.
 */
void
ecstats_rollup_list_open(RollupBlockList *list, ArrayType *blocks, RollupPayload kind)
{
	bool *nulls;
	int i;

	list->kind = kind;
	deconstruct_array(blocks, BYTEAOID, -1, false, TYPALIGN_INT, &list->blocks, &nulls,
					  &list->nblocks);
	for (i = 0; i < list->nblocks; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("blocks have a NULL element"),
					 errdetail("Element %d is NULL.", i + 1)));
	list->fetch = fetch_from_array;
	list_begin(list);
}

/*
 * ecstats_rollup_list_open_portal starts to read the blocks of a kind that a portal of the current SPI
 * connection returns, in its only column. The list must be read to its end, or the connection ended.
 */
void
ecstats_rollup_list_open_portal(RollupBlockList *list, Portal portal, RollupPayload kind)
{
	list->kind = kind;
	list->portal = portal;
	list->rows = NULL;
	list->nblocks = 0;
	list->fetch = fetch_from_portal;
	list_begin(list);
}

/*
 * list_begin goes before the first id.
 */
static void
list_begin(RollupBlockList *list)
{
	list->next = 0;
	list->taken = 0;
	list->valid = false;
	ecstats_rollup_reader_init(&list->reader);
	initStringInfo(&list->last);
}

/*
 * fetch_from_array returns the next block of an array, NULL at the end.
 */
static bytea *
fetch_from_array(RollupBlockList *list)
{
	return list->next < list->nblocks ? DatumGetByteaPP(list->blocks[list->next++]) : NULL;
}

/*
 * fetch_from_portal returns the next block of a portal, NULL at the end. It stays where it is until
 * the one after is asked for.
 */
static bytea *
fetch_from_portal(RollupBlockList *list)
{
	bool null;

	if (list->next == list->nblocks)
	{
		if (list->rows != NULL)
			SPI_freetuptable(list->rows);
		SPI_cursor_fetch(list->portal, true, FETCH_BLOCKS);
		list->rows = SPI_tuptable;
		list->nblocks = (int) SPI_processed;
		list->next = 0;
		if (list->nblocks == 0)
			return NULL;
	}
	return DatumGetByteaPP(
		SPI_getbinval(list->rows->vals[list->next++], list->rows->tupdesc, 1, &null));
}

/*
 * ecstats_rollup_list_next goes to the next id, into the next block where one ends; false at the end.
 * Blocks that are not in order are refused.
 */
bool
ecstats_rollup_list_next(RollupBlockList *list)
{
	RollupBlockReader *reader = &list->reader;
	bytea *block;

	if (list->taken > 0 && ecstats_rollup_reader_next(reader))
		return list->valid = true;
	CHECK_FOR_INTERRUPTS();
	block = list->fetch(list);
	if (block == NULL)
		return list->valid = false;
	resetStringInfo(&list->last);
	appendBinaryStringInfo(&list->last, reader->id, (int) reader->length);
	ecstats_rollup_reader_open(reader, block, list->kind);
	if (!ecstats_rollup_reader_next(reader))
		corrupt(reader, "it is empty");
	if (list->taken++ > 0 &&
		rollup_compare(list->last.data, list->last.len, reader->id, reader->length) >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED), errmsg("blocks of the rollup are not in order"),
				 errdetail("Block %d begins before block %d ends.", list->taken, list->taken - 1)));
	return list->valid = true;
}
