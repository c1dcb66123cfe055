/*
 * rollup_period.c
 *		Distinct ids over several days. Each day's ids are stored sorted, in blocks: the days are read side
 *		by side, in rounds. A round takes all ids below the nearest beginning of a next block, of any
 *		day; there are some hundred, so that the set that they go into stays in the nearest cache, and
 *		what the call takes depends on the number of days and not on how many ids there are.
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
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"

#define MAX_DAYS	400
#define FIRST_SLOTS 1024
#define FIRST_BYTES 8192

/* Roles of an id of ecstats.order_day, by bit. */
enum
{
	ROLE_SALE,
	ROLE_RETURN,
	ROLE_ABNORMAL,
	ROLE_PAID,
	ROLES
};

/* The columns of the result. */
enum
{
	RESULT_UV,
	RESULT_ORDERS,
	RESULT_RETURN_ORDERS,
	RESULT_ABNORMAL_ORDERS,
	RESULT_PAID_ORDERS,
	RESULT_BUYERS,
	RESULT_PAYERS,
	RESULT_COLUMNS
};

/* The blocks of one day, by ascending ids. */
typedef struct DayStream
{
	SysScanDesc blocks;
	RollupBlockReader reader; /* at an id that no round has taken yet */
	bool valid;				  /* there is one */
	char *block;			  /* what the reader reads */
	Size room;				  /* bytes at block */
	HeapTuple next;			  /* the block after, good until the scan moves on; NULL at the end */
	const char *first;		  /* the first id of next, in it */
	uint32 first_length;
} DayStream;

/* A distinct id of a round. */
typedef struct PeriodId
{
	uint32 hash;
	uint32 slot;
	uint32 at; /* of its bytes */
	uint32 length;
	uint32 roles;
} PeriodId;

/* What is counted of one kind of ids. */
typedef struct PeriodScan
{
	RollupSpace space;
	RollupPayload payload;
	AttrNumber first_column;
	AttrNumber packed_column;
	TupleDesc desc;
	DayStream *streams;
	int nstreams;
	char *border; /* the round ends below this id */
	uint32 border_length;
	uint64 seed;
	uint32 *slots; /* number of an id, from 1; 0: free */
	uint32 mask;
	PeriodId *ids; /* of the round; room for half as many as there are slots */
	uint32 nids;
	char *bytes;
	Size nbytes;
	Size max_bytes;
	int64 distinct;
	int64 by_role[ROLES];
} PeriodScan;

PG_FUNCTION_INFO_V1(ecstats_rollup_period);

static int stored_days(const Datum *range, DateADT *days);
static void count_ids(PeriodScan *scan, const char *relation, char kind, const DateADT *days,
					  int ndays);
static void scan_init(PeriodScan *scan, Relation heap, char kind, int ndays);
static void read_blocks(PeriodScan *scan, Relation heap, char kind, const DateADT *days);
static void fetch_block(PeriodScan *scan, DayStream *stream);
static void next_block(PeriodScan *scan, DayStream *stream);
static bool find_border(PeriodScan *scan);
static void out_of_place(void) __attribute__((noreturn));
static void take_round(PeriodScan *scan, bool bounded);
static void add_id(PeriodScan *scan, const RollupBlockReader *reader);
static PeriodId *find_id(PeriodScan *scan, const char *bytes, uint32 length);
static void grow_slots(PeriodScan *scan);
static void end_round(PeriodScan *scan);

/*
 * ecstats_rollup_period(from_day date, to_day date) returns the distinct counts of a range of stored
 * days, see sql/22_rollup_c.sql. What it reads is what the caller's snapshot sees.
 */
Datum
ecstats_rollup_period(PG_FUNCTION_ARGS)
{
	Datum range[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	Datum values[RESULT_COLUMNS];
	bool nulls[RESULT_COLUMNS] = {false};
	EcstatsRows result = ecstats_rows_begin(fcinfo);
	DateADT days[MAX_DAYS];
	int ndays = stored_days(range, days);
	PeriodScan scan;

	count_ids(&scan, "user_day", '\0', days, ndays);
	values[RESULT_UV] = Int64GetDatum(scan.distinct);

	count_ids(&scan, "order_day", 'o', days, ndays);
	values[RESULT_ORDERS] = Int64GetDatum(scan.by_role[ROLE_SALE]);
	values[RESULT_RETURN_ORDERS] = Int64GetDatum(scan.by_role[ROLE_RETURN]);
	values[RESULT_ABNORMAL_ORDERS] = Int64GetDatum(scan.by_role[ROLE_ABNORMAL]);
	values[RESULT_PAID_ORDERS] = Int64GetDatum(scan.by_role[ROLE_PAID]);

	count_ids(&scan, "order_day", 'b', days, ndays);
	values[RESULT_BUYERS] = Int64GetDatum(scan.by_role[ROLE_SALE]);
	values[RESULT_PAYERS] = Int64GetDatum(scan.by_role[ROLE_PAID]);

	ecstats_rows_add(&result, values, nulls);
	return (Datum) 0;
}

/*
 * stored_days puts the days of the range that are stored into days, at most MAX_DAYS, and returns how
 * many there are.
 */
static int
stored_days(const Datum *range, DateADT *days)
{
	Oid types[2] = {DATEOID, DATEOID};
	Datum arguments[2] = {range[0], range[1]};
	int ndays;
	int i;
	bool null;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT k.day FROM ecstats.daily_kpi k"
							  " WHERE k.day OPERATOR(pg_catalog.>=) $1"
							  " AND k.day OPERATOR(pg_catalog.<) $2",
							  2, types, arguments, NULL, true, MAX_DAYS + 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read ecstats.daily_kpi");
	if (SPI_processed > MAX_DAYS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a period has more than %d stored days", MAX_DAYS),
						errhint("Give a shorter range of days.")));
	ndays = (int) SPI_processed;
	for (i = 0; i < ndays; i++)
		days[i] =
			DatumGetDateADT(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	return ndays;
}

/*
 * count_ids counts the distinct ids of a relation over some days; kind '\0' is a relation without
 * kinds. Its memory is given back, the counts stay in scan.
 */
static void
count_ids(PeriodScan *scan, const char *relation, char kind, const DateADT *days, int ndays)
{
	Relation heap = table_openrv(makeRangeVar("ecstats", pstrdup(relation), -1), AccessShareLock);
	AclResult acl = pg_class_aclcheck(RelationGetRelid(heap), GetUserId(), ACL_SELECT);

	/* The executor is not asked here. */
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, RelationGetRelationName(heap));
	scan_init(scan, heap, kind, ndays);
	read_blocks(scan, heap, kind, days);
	MemoryContextDelete(scan->space.context);
	table_close(heap, NoLock);
}

/*
 * scan_init makes an empty state.
 */
static void
scan_init(PeriodScan *scan, Relation heap, char kind, int ndays)
{
	Oid relid = RelationGetRelid(heap);
	MemoryContext old;
	int i;

	memset(scan, 0, sizeof(*scan));
	ecstats_rollup_space_init(&scan->space);
	scan->payload = kind == '\0' ? ROLLUP_COUNTS : ROLLUP_NUMBER;
	scan->first_column = get_attnum(relid, kind == '\0' ? "first_user" : "first_id");
	scan->packed_column = get_attnum(relid, "packed");
	scan->desc = RelationGetDescr(heap);
	scan->nstreams = ndays;
	scan->streams = ecstats_rollup_alloc(&scan->space, Max(ndays, 1) * sizeof(DayStream));
	scan->border = ecstats_rollup_alloc(&scan->space, ROLLUP_MAX_LENGTH);
	scan->slots = ecstats_rollup_alloc(&scan->space, FIRST_SLOTS * sizeof(uint32));
	scan->mask = FIRST_SLOTS - 1;
	scan->ids = ecstats_rollup_alloc(&scan->space, FIRST_SLOTS / 2 * sizeof(PeriodId));
	scan->bytes = ecstats_rollup_alloc(&scan->space, FIRST_BYTES);
	scan->max_bytes = FIRST_BYTES;
	/* The seed only has to be unknown to whoever chooses the ids. */
	if (!pg_strong_random(&scan->seed, sizeof(scan->seed)))
		elog(ERROR, "could not draw a random seed");
	old = MemoryContextSwitchTo(scan->space.context);
	for (i = 0; i < ndays; i++)
		ecstats_rollup_reader_init(&scan->streams[i].reader);
	MemoryContextSwitchTo(old);
}

/*
 * read_blocks reads the days side by side, along the primary key: by day, kind and first id.
 */
static void
read_blocks(PeriodScan *scan, Relation heap, char kind, const DateADT *days)
{
	Oid relid = RelationGetRelid(heap);
	Snapshot snapshot = RegisterSnapshot(GetActiveSnapshot());
	Relation index;
	ScanKeyData keys[2];
	int nkeys;
	int i;

	list_free(RelationGetIndexList(heap));
	if (!OidIsValid(heap->rd_pkindex))
		elog(ERROR, "table \"%s\" has no primary key", RelationGetRelationName(heap));
	index = index_open(heap->rd_pkindex, AccessShareLock);
	for (i = 0; i < scan->nstreams; i++)
	{
		/* Beginning a scan may turn the numbers of the columns into those of the index. */
		nkeys = 1;
		if (kind != '\0')
			ScanKeyInit(&keys[nkeys++], get_attnum(relid, "kind"), BTEqualStrategyNumber, F_CHAREQ,
						CharGetDatum(kind));
		ScanKeyInit(&keys[0], get_attnum(relid, "day"), BTEqualStrategyNumber, F_DATE_EQ,
					DateADTGetDatum(days[i]));
		scan->streams[i].blocks = systable_beginscan_ordered(heap, index, snapshot, nkeys, keys);
		fetch_block(scan, &scan->streams[i]);
		next_block(scan, &scan->streams[i]);
	}
	for (;;)
	{
		bool bounded = find_border(scan);

		CHECK_FOR_INTERRUPTS();
		take_round(scan, bounded);
		end_round(scan);
		if (!bounded)
			break;
	}
	for (i = 0; i < scan->nstreams; i++)
		systable_endscan_ordered(scan->streams[i].blocks);
	index_close(index, NoLock);
	UnregisterSnapshot(snapshot);
}

/*
 * fetch_block moves the scan of a day to the next block, which only its first id is asked of yet.
 */
static void
fetch_block(PeriodScan *scan, DayStream *stream)
{
	struct varlena *first;
	bool null;

	stream->next = systable_getnext_ordered(stream->blocks, ForwardScanDirection);
	if (stream->next == NULL)
		return;
	/* An id is far too short to be stored elsewhere or compressed. */
	first = (struct varlena *) DatumGetPointer(
		heap_getattr(stream->next, scan->first_column, scan->desc, &null));
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
next_block(PeriodScan *scan, DayStream *stream)
{
	struct varlena *packed;
	struct varlena *block;
	Size size;
	bool in_place;
	bool null;

	stream->valid = false;
	if (stream->next != NULL)
	{
		packed = (struct varlena *) DatumGetPointer(
			heap_getattr(stream->next, scan->packed_column, scan->desc, &null));
		if (null)
			elog(ERROR, "a block is NULL");
		block = rollup_text(packed);
		size = VARSIZE_ANY(block);
		if (size > stream->room)
		{
			stream->block =
				ecstats_rollup_grow(&scan->space, stream->block, stream->room, size * 2);
			stream->room = size * 2;
		}
		memcpy(stream->block, block, size);
		if (block != packed)
			pfree(block);
		ecstats_rollup_reader_open(&stream->reader, (bytea *) stream->block, scan->payload);
		stream->valid = ecstats_rollup_reader_next(&stream->reader);
		in_place = stream->valid && rollup_compare(stream->reader.id, stream->reader.length,
												   stream->first, stream->first_length) == 0;
		if (!in_place)
			out_of_place();
		fetch_block(scan, stream);
	}
}

/*
 * find_border finds where the next block begins first; false if every day is in its last one.
 */
static bool
find_border(PeriodScan *scan)
{
	const DayStream *nearest = NULL;
	int i;

	for (i = 0; i < scan->nstreams; i++)
	{
		const DayStream *stream = &scan->streams[i];

		if (stream->next != NULL &&
			(nearest == NULL || rollup_compare(stream->first, stream->first_length, nearest->first,
											   nearest->first_length) < 0))
			nearest = stream;
	}
	if (nearest == NULL)
		return false;
	/* A copy: the block is gone once the scan of its day moves on. */
	memcpy(scan->border, nearest->first, nearest->first_length);
	scan->border_length = nearest->first_length;
	return true;
}

/*
 * take_round takes the ids of every day up to the border, or all that are left. None of them is in a
 * later block than the current one of its day.
 */
static void
take_round(PeriodScan *scan, bool bounded)
{
	int i;

	for (i = 0; i < scan->nstreams; i++)
	{
		DayStream *stream = &scan->streams[i];
		RollupBlockReader *reader = &stream->reader;

		while (stream->valid && (!bounded || rollup_compare(reader->id, reader->length,
															scan->border, scan->border_length) < 0))
		{
			add_id(scan, reader);
			if (!ecstats_rollup_reader_next(reader))
				next_block(scan, stream);
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
 * add_id adds the id that a reader is at, and counts the roles that are new to it.
 */
static void
add_id(PeriodScan *scan, const RollupBlockReader *reader)
{
	PeriodId *id = find_id(scan, reader->id, reader->length);
	uint32 fresh;
	int i;

	if (scan->payload != ROLLUP_NUMBER)
		return;
	if (reader->number == 0 || reader->number >= (1U << ROLES))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
				 errdetail("An id has the roles " UINT64_FORMAT ".", reader->number),
				 errhint("CALL ecstats_rebuild(...) makes a day's blocks anew from raw rows.")));
	fresh = (uint32) reader->number & ~id->roles;
	if (fresh == 0)
		return;
	for (i = 0; i < ROLES; i++)
		scan->by_role[i] += (fresh >> i) & 1;
	id->roles |= fresh;
}

/*
 * find_id returns an id of the round, a new one without roles if it was not there.
 */
static PeriodId *
find_id(PeriodScan *scan, const char *bytes, uint32 length)
{
	uint32 hash = rollup_hash_bytes(scan->seed, bytes, length);
	PeriodId *id;
	uint32 at;

	for (at = hash & scan->mask; scan->slots[at] != 0; at = (at + 1) & scan->mask)
	{
		id = &scan->ids[scan->slots[at] - 1];
		if (id->hash == hash && id->length == length &&
			rollup_equal(scan->bytes + id->at, bytes, length))
			return id;
	}
	if (scan->nids > scan->mask / 2)
	{
		grow_slots(scan);
		for (at = hash & scan->mask; scan->slots[at] != 0;)
			at = (at + 1) & scan->mask;
	}
	if (scan->max_bytes - scan->nbytes < length)
	{
		Size max_bytes = scan->max_bytes * 2 + length;

		if (max_bytes > PG_UINT32_MAX)
			out_of_place(); /* a round has some hundred ids */
		scan->bytes = ecstats_rollup_grow(&scan->space, scan->bytes, scan->max_bytes, max_bytes);
		scan->max_bytes = max_bytes;
	}
	id = &scan->ids[scan->nids++];
	id->hash = hash;
	id->slot = at;
	id->at = (uint32) scan->nbytes;
	id->length = length;
	id->roles = 0;
	memcpy(scan->bytes + scan->nbytes, bytes, length);
	scan->nbytes += length;
	scan->slots[at] = scan->nids;
	return id;
}

/*
 * grow_slots doubles the room for ids of a round: that of some hundred days, of very short ids.
 */
static void
grow_slots(PeriodScan *scan)
{
	uint32 nslots = scan->mask + 1;
	uint32 i;

	ecstats_rollup_free(&scan->space, scan->slots, nslots * sizeof(uint32));
	scan->slots = ecstats_rollup_alloc(&scan->space, nslots * 2 * sizeof(uint32));
	scan->ids = ecstats_rollup_grow(&scan->space, scan->ids, nslots / 2 * sizeof(PeriodId),
									nslots * sizeof(PeriodId));
	scan->mask = nslots * 2 - 1;
	for (i = 0; i < scan->nids; i++)
	{
		PeriodId *id = &scan->ids[i];

		for (id->slot = id->hash & scan->mask; scan->slots[id->slot] != 0;)
			id->slot = (id->slot + 1) & scan->mask;
		scan->slots[id->slot] = i + 1;
	}
}

/*
 * end_round counts the ids of the round and forgets them: no later one has any of them.
 */
static void
end_round(PeriodScan *scan)
{
	uint32 i;

	scan->distinct += scan->nids;
	for (i = 0; i < scan->nids; i++)
		scan->slots[scan->ids[i].slot] = 0;
	scan->nids = 0;
	scan->nbytes = 0;
}
