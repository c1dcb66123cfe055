/*
 * rollup_days.c
 *		Stored sets of ids, read side by side. Each is stored sorted, in blocks: they are read in rounds.
 *		A round takes all ids below the nearest beginning of a next block, of any set; there are some
 *		hundred, so that the table that they go into stays in the nearest cache, and the memory that
 *		this takes depends on the number of sets and not on how many ids there are.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup_days.h"

#define FIRST_SLOTS 1024
#define FIRST_BYTES 8192

/* The blocks of one set, by ascending ids. */
struct RollupStream
{
	Relation heap;
	Relation index;
	SysScanDesc blocks;
	RollupPayload payload;
	AttrNumber first_column;
	AttrNumber packed_column;
	RollupBlockReader reader; /* at an id that no round has taken yet */
	bool valid;				  /* there is one */
	char *block;			  /* what the reader reads */
	Size room;				  /* bytes at block */
	HeapTuple next;			  /* the block after, good until the scan moves on; NULL at the end */
	const char *first;		  /* the first id of next, in it */
	uint32 first_length;
};

static void fetch_block(RollupStream *stream);
static void next_block(RollupDays *days, RollupStream *stream);
static bool find_border(RollupDays *days);
static void out_of_place(void) __attribute__((noreturn));
static void take_round(RollupDays *days, bool bounded);
static uint32 find_id(RollupDays *days, const char *bytes, uint32 length);
static void grow_slots(RollupDays *days);
static void end_round(RollupDays *days);

/*
 * ecstats_rollup_stored_days puts the days from from_day to before to_day that are stored into days, which
 * has room for ROLLUP_MAX_DAYS, and returns how many there are; they ascend.
 */
int
ecstats_rollup_stored_days(DateADT from_day, DateADT to_day, DateADT *days)
{
	Oid types[2] = {DATEOID, DATEOID};
	Datum arguments[2] = {DateADTGetDatum(from_day), DateADTGetDatum(to_day)};
	int ndays;
	int i;
	bool null;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT k.day FROM ecstats.daily_kpi k"
							  " WHERE k.day OPERATOR(pg_catalog.>=) $1"
							  " AND k.day OPERATOR(pg_catalog.<) $2 ORDER BY k.day",
							  2, types, arguments, NULL, true,
							  ROLLUP_MAX_DAYS + 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read ecstats.daily_kpi");
	if (SPI_processed > ROLLUP_MAX_DAYS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a period has more than %d stored days", ROLLUP_MAX_DAYS),
						errhint("Give a shorter range of days.")));
	ndays = (int) SPI_processed;
	for (i = 0; i < ndays; i++)
		days[i] =
			DatumGetDateADT(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	return ndays;
}

/*
 * ecstats_rollup_days_init makes a reading without sets yet; take, end_round and arg are the caller's to
 * set. Its memory is a child of the current context.
 */
void
ecstats_rollup_days_init(RollupDays *days, int max_streams)
{
	memset(days, 0, sizeof(*days));
	ecstats_rollup_space_init(&days->space);
	days->max_streams = max_streams;
	days->streams = ecstats_rollup_alloc(&days->space, Max(max_streams, 1) * sizeof(RollupStream));
	days->border = ecstats_rollup_alloc(&days->space, ROLLUP_MAX_LENGTH);
	days->slots = ecstats_rollup_alloc(&days->space, FIRST_SLOTS * sizeof(uint32));
	days->mask = FIRST_SLOTS - 1;
	days->ids = ecstats_rollup_alloc(&days->space, FIRST_SLOTS / 2 * sizeof(RollupDayId));
	days->bytes = ecstats_rollup_alloc(&days->space, FIRST_BYTES);
	days->max_bytes = FIRST_BYTES;
	/* The seed only has to be unknown to whoever chooses the ids. */
	if (!pg_strong_random(&days->seed, sizeof(days->seed)))
		elog(ERROR, "could not draw a random seed");
}

/*
 * ecstats_rollup_days_add adds a set and returns its number, from 0: the blocks of a relation of schema
 * ecstats along its primary key. kind is that of its rows, '\0' for a relation without kinds, whose
 * blocks are of counts if it has days, else of numbers, and of all time.
 */
int
ecstats_rollup_days_add(RollupDays *days, const char *relation, char kind, DateADT day)
{
	RollupStream *stream = &days->streams[days->nstreams];
	MemoryContext old = MemoryContextSwitchTo(days->space.context);
	AclResult acl;
	ScanKeyData keys[2];
	AttrNumber day_column;
	Oid relid;
	int nkeys = 0;

	Assert(days->nstreams < days->max_streams);
	stream->heap = table_openrv(makeRangeVar("ecstats", pstrdup(relation), -1), AccessShareLock);
	relid = RelationGetRelid(stream->heap);
	/* The executor is not asked here. */
	acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, RelationGetRelationName(stream->heap));
	day_column = get_attnum(relid, "day");
	stream->payload =
		kind == '\0' && day_column != InvalidAttrNumber ? ROLLUP_COUNTS : ROLLUP_NUMBER;
	stream->first_column = get_attnum(relid, kind == '\0' ? "first_user" : "first_id");
	stream->packed_column = get_attnum(relid, "packed");
	ecstats_rollup_reader_init(&stream->reader);

	list_free(RelationGetIndexList(stream->heap));
	if (!OidIsValid(stream->heap->rd_pkindex))
		elog(ERROR, "table \"%s\" has no primary key", RelationGetRelationName(stream->heap));
	stream->index = index_open(stream->heap->rd_pkindex, AccessShareLock);
	if (day_column != InvalidAttrNumber)
		ScanKeyInit(&keys[nkeys++], day_column, BTEqualStrategyNumber, F_DATE_EQ,
					DateADTGetDatum(day));
	if (kind != '\0')
		ScanKeyInit(&keys[nkeys++], get_attnum(relid, "kind"), BTEqualStrategyNumber, F_CHAREQ,
					CharGetDatum(kind));
	stream->blocks =
		systable_beginscan_ordered(stream->heap, stream->index, GetActiveSnapshot(), nkeys, keys);
	MemoryContextSwitchTo(old);
	return days->nstreams++;
}

/*
 * ecstats_rollup_days_read reads the sets to their end. What it reads is what the active snapshot sees.
 */
void
ecstats_rollup_days_read(RollupDays *days)
{
	bool bounded;
	int i;

	for (i = 0; i < days->nstreams; i++)
	{
		fetch_block(&days->streams[i]);
		next_block(days, &days->streams[i]);
	}
	do
	{
		CHECK_FOR_INTERRUPTS();
		bounded = find_border(days);
		take_round(days, bounded);
		end_round(days);
	} while (bounded);
}

/*
 * ecstats_rollup_days_end closes what was opened and gives the memory back.
 */
void
ecstats_rollup_days_end(RollupDays *days)
{
	int i;

	for (i = 0; i < days->nstreams; i++)
	{
		systable_endscan_ordered(days->streams[i].blocks);
		index_close(days->streams[i].index, NoLock);
		table_close(days->streams[i].heap, NoLock);
	}
	MemoryContextDelete(days->space.context);
}

/*
 * ecstats_rollup_first_day returns the day of the user that a reader of ecstats.first_seen_block is at.
 */
DateADT
ecstats_rollup_first_day(const RollupBlockReader *reader)
{
	if (reader->number >= ROLLUP_FIRST_DAYS)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
						errdetail("A first day is out of range.")));
	return (DateADT) reader->number + ROLLUP_FIRST_DAY;
}

/*
 * fetch_block moves the scan of a day to the next block, which only its first id is asked of yet.
 */
static void
fetch_block(RollupStream *stream)
{
	struct varlena *first;
	bool null;

	stream->next = systable_getnext_ordered(stream->blocks, ForwardScanDirection);
	if (stream->next == NULL)
		return;
	/* An id is far too short to be stored elsewhere or compressed. */
	first = (struct varlena *) DatumGetPointer(
		heap_getattr(stream->next, stream->first_column, RelationGetDescr(stream->heap), &null));
	if (null || VARATT_IS_EXTERNAL(first) || VARATT_IS_COMPRESSED(first) ||
		VARSIZE_ANY_EXHDR(first) > ROLLUP_MAX_LENGTH)
		elog(ERROR, "first id of a block is not where it should be");
	stream->first = VARDATA_ANY(first);
	stream->first_length = VARSIZE_ANY_EXHDR(first);
}

/*
 * next_block begins to read the block that was fetched, and fetches the one after.
 */
static void
next_block(RollupDays *days, RollupStream *stream)
{
	struct varlena *packed;
	struct varlena *block;
	Size size;
	bool in_place;
	bool null;

	stream->valid = false;
	if (stream->next != NULL)
	{
		packed = (struct varlena *) DatumGetPointer(heap_getattr(
			stream->next, stream->packed_column, RelationGetDescr(stream->heap), &null));
		if (null)
			elog(ERROR, "a block is NULL");
		block = rollup_text(packed);
		size = VARSIZE_ANY(block);
		if (size > stream->room)
		{
			stream->block =
				ecstats_rollup_grow(&days->space, stream->block, stream->room, size * 2);
			stream->room = size * 2;
		}
		memcpy(stream->block, block, size);
		if (block != packed)
			pfree(block);
		ecstats_rollup_reader_open(&stream->reader, (bytea *) stream->block, stream->payload);
		stream->valid = ecstats_rollup_reader_next(&stream->reader);
		in_place = stream->valid && rollup_compare(stream->reader.id, stream->reader.length,
												   stream->first, stream->first_length) == 0;
		if (!in_place)
			out_of_place();
		fetch_block(stream);
	}
}

/*
 * find_border finds where the next block begins first; false if every day is in its last one.
 */
static bool
find_border(RollupDays *days)
{
	const RollupStream *nearest = NULL;
	int i;

	for (i = 0; i < days->nstreams; i++)
	{
		const RollupStream *stream = &days->streams[i];

		if (stream->next != NULL &&
			(nearest == NULL || rollup_compare(stream->first, stream->first_length, nearest->first,
											   nearest->first_length) < 0))
			nearest = stream;
	}
	if (nearest == NULL)
		return false;
	/* A copy: the block is gone once the scan of its day moves on. */
	memcpy(days->border, nearest->first, nearest->first_length);
	days->border_length = nearest->first_length;
	return true;
}

/*
 * take_round takes the ids of every day up to the border, or all that are left. None of them is in a
 * later block than the current one of its day.
 */
static void
take_round(RollupDays *days, bool bounded)
{
	int i;

	for (i = 0; i < days->nstreams; i++)
	{
		RollupStream *stream = &days->streams[i];
		RollupBlockReader *reader = &stream->reader;

		while (stream->valid && (!bounded || rollup_compare(reader->id, reader->length,
															days->border, days->border_length) < 0))
		{
			days->take(days->arg, find_id(days, reader->id, reader->length),
					   (int) (stream - days->streams), reader);
			if (!ecstats_rollup_reader_next(reader))
				next_block(days, stream);
		}
		/* Such an id would never be below a border: the rounds would not end. */
		if (stream->valid && stream->next != NULL &&
			rollup_compare(reader->id, reader->length, stream->first, stream->first_length) >= 0)
			out_of_place();
	}
}

/*
 * out_of_place reports a block that is not where its ids belong.
 */
static void
out_of_place(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a block of the rollup is not where its ids belong"),
			 errdetail("Its key is not its first id, or it reaches beyond the next block."),
			 errhint("CALL ecstats_rebuild(day, day) makes a day's blocks anew from raw rows.")));
}

/*
 * find_id returns the number of an id of the round, that of a new one if it was not there.
 */
static uint32
find_id(RollupDays *days, const char *bytes, uint32 length)
{
	uint32 hash = rollup_hash_bytes(days->seed, bytes, length);
	RollupDayId *id;
	uint32 at;

	for (at = hash & days->mask; days->slots[at] != 0; at = (at + 1) & days->mask)
	{
		id = &days->ids[days->slots[at] - 1];
		if (id->hash == hash && id->length == length &&
			rollup_equal(days->bytes + id->at, bytes, length))
			return (uint32) (id - days->ids);
	}
	if (days->nids > days->mask / 2)
	{
		grow_slots(days);
		for (at = hash & days->mask; days->slots[at] != 0;)
			at = (at + 1) & days->mask;
	}
	if (days->max_bytes - days->nbytes < length)
	{
		Size max_bytes = days->max_bytes * 2 + length;

		if (max_bytes > PG_UINT32_MAX)
			out_of_place(); /* a round has some hundred ids */
		days->bytes = ecstats_rollup_grow(&days->space, days->bytes, days->max_bytes, max_bytes);
		days->max_bytes = max_bytes;
	}
	id = &days->ids[days->nids++];
	id->hash = hash;
	id->slot = at;
	id->at = (uint32) days->nbytes;
	id->length = length;
	memcpy(days->bytes + days->nbytes, bytes, length);
	days->nbytes += length;
	days->slots[at] = days->nids;
	return days->nids - 1;
}

/*
 * grow_slots doubles the room for ids of a round: that of some hundred days, of very short ids.
 */
static void
grow_slots(RollupDays *days)
{
	uint32 nslots = days->mask + 1;
	uint32 i;

	ecstats_rollup_free(&days->space, days->slots, nslots * sizeof(uint32));
	days->slots = ecstats_rollup_alloc(&days->space, nslots * 2 * sizeof(uint32));
	days->ids = ecstats_rollup_grow(&days->space, days->ids, nslots / 2 * sizeof(RollupDayId),
									nslots * sizeof(RollupDayId));
	days->mask = nslots * 2 - 1;
	for (i = 0; i < days->nids; i++)
	{
		RollupDayId *id = &days->ids[i];

		for (id->slot = id->hash & days->mask; days->slots[id->slot] != 0;)
			id->slot = (id->slot + 1) & days->mask;
		days->slots[id->slot] = i + 1;
	}
}

/*
 * end_round hands the ids of the round to the caller and forgets them: no later one has any of them.
 */
static void
end_round(RollupDays *days)
{
	uint32 i;

	days->end_round(days->arg, days);
	for (i = 0; i < days->nids; i++)
		days->slots[days->ids[i].slot] = 0;
	days->nids = 0;
	days->nbytes = 0;
}
