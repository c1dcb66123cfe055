/*
 * rollup_event.c
 *		One pass over a range of ecstats.events: totals, events, funnel and users. Rows come from the
 *		table access method, not from the executor. They are taken in batches: the slots and then the
 *		records of a batch's users are prefetched, since nearly every user is a cache miss.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupmacs.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

#define BATCH_ROWS	 256
#define BATCH_BYTES	 (ROLLUP_MAX_LENGTH + 1)
#define SHORT_BYTES	 16	 /* ids and names up to here are taken whole, with what follows them */
#define KNOWN_NAMES	 512 /* places of short names, a power of two */
#define SCAN_COLUMNS 3

/* The three columns of a row, as they lie in the tuple. */
typedef struct EventRow
{
	TimestampTz event_time;
	Datum user_id;
	Datum event;
	const char *end; /* so far may be read beyond the columns */
} EventRow;

/* A table that is read, and where its columns are. */
typedef struct EventTable
{
	RollupEventScan *scan;
	TupleDesc desc;
	Oid relid;
	AttrNumber columns[SCAN_COLUMNS];
	bool in_place; /* they are the first ones */
} EventTable;

/* What is left of sixteen bytes where a string has fewer; filled in when the first scan begins. */
static uint64 short_masks[SHORT_BYTES + 1][2];

PG_FUNCTION_INFO_V1(ecstats_rollup_scan_events);

static void check_parent(Relation parent);
static List *find_heaps(RollupEventScan *scan, List *heaps, Oid relid);
static List *find_partitions(RollupEventScan *scan, List *heaps, Relation parent);
static bool bounds_meet_range(RollupEventScan *scan, PartitionBoundInfo bounds, int index);
static void scan_heaps(RollupEventScan *scan, const List *heaps, Snapshot snapshot);
static void take_page(void *state, HeapTupleHeader *rows, int nrows, const char *end);
static void scan_slots(const EventTable *table, Relation heap, TableScanDesc reader);
static bool get_row_in_place(HeapTupleHeader header, EventRow *row);
static void get_row(const EventTable *table, HeapTupleHeader header, EventRow *row);
static void set_row(const EventTable *table, const Datum *values, const bool *nulls, EventRow *row);
static void take_row(RollupEventScan *scan, const EventRow *row);
static uint32 event_of(RollupEventScan *scan, const EventRow *row);
static uint32 find_event(RollupEventScan *scan, Datum event);

/*
 * ecstats_rollup_scan_events(from_time timestamptz, to_time timestamptz, page_views text[],
 * funnel text[], with_users boolean, names text[]) returns everything that is counted from events,
 * see sql/22_rollup_c.sql. The rows are those of the caller's snapshot.
 */
Datum
ecstats_rollup_scan_events(PG_FUNCTION_ARGS)
{
	ArrayType *funnel = PG_GETARG_ARRAYTYPE_P(3);
	ArrayType *names = PG_GETARG_BOOL(4) ? PG_GETARG_ARRAYTYPE_P(5) : NULL;
	EcstatsRows result;
	RollupEventScan scan;
	Relation parent;
	List *heaps = NIL;
	Snapshot snapshot;
	int64 *by_event;
	uint32 i;

	result = ecstats_rows_begin(fcinfo);
	ecstats_rollup_event_init(&scan, PG_GETARG_TIMESTAMPTZ(0), PG_GETARG_TIMESTAMPTZ(1));
	ecstats_rollup_texts(PG_GETARG_ARRAYTYPE_P(2), "page_views", &scan.page_views,
						 &scan.npage_views);

	parent = table_openrv(makeRangeVar("ecstats", "events", -1), AccessShareLock);
	check_parent(parent);
	snapshot = RegisterSnapshot(GetActiveSnapshot());
	if (scan.from_time < scan.to_time)
		heaps = find_heaps(&scan, NIL, RelationGetRelid(parent));
	if (!ecstats_rollup_parallel_scan(&scan, heaps, snapshot))
		scan_heaps(&scan, heaps, snapshot);
	list_free(heaps);
	UnregisterSnapshot(snapshot);
	table_close(parent, NoLock);

	by_event = ecstats_rollup_alloc(&scan.space, (scan.nevents + ROLLUP_NEAR) * sizeof(int64));
	ecstats_rollup_users_by_event(&scan.users, by_event);
	for (i = 0; i < scan.nevents; i++)
		scan.events[i].users = by_event[i];

	ecstats_rollup_event_put(&scan, &result, funnel, names);
	MemoryContextDelete(scan.space.context);
	return (Datum) 0;
}

/*
 * ecstats_rollup_event_init makes an empty state; page_views is left to whoever returns rows.
 */
void
ecstats_rollup_event_init(RollupEventScan *scan, TimestampTz from_time, TimestampTz to_time)
{
	int i;

	for (i = 0; i <= SHORT_BYTES; i++)
	{
		memset(short_masks[i], 0, sizeof(short_masks[i]));
		memset(short_masks[i], 0xFF, i);
	}
	memset(scan, 0, sizeof(*scan));
	scan->from_time = from_time;
	scan->to_time = to_time;
	ecstats_rollup_space_init(&scan->space);
	ecstats_rollup_table_init(&scan->names, &scan->space, sizeof(uint32));
	ecstats_rollup_users_init(&scan->users, &scan->space);
	scan->rows = ecstats_rollup_alloc(&scan->space, BATCH_ROWS * sizeof(RollupBatchRow));
	scan->bytes = ecstats_rollup_alloc(&scan->space, BATCH_BYTES + SHORT_BYTES);
	scan->known = ecstats_rollup_alloc(&scan->space, KNOWN_NAMES * sizeof(RollupKnown));
}

/*
 * check_parent refuses what the executor would refuse: it is not asked here.
 */
static void
check_parent(Relation parent)
{
	Oid relid = RelationGetRelid(parent);
	AclResult acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	static const char *const names[] = {"event_time", "user_id", "event"};
	static const Oid types[] = {TIMESTAMPTZOID, TEXTOID, TEXTOID};
	int i;

	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, RelationGetRelationName(parent));
	if (check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("rollup cannot read events under row-level security"),
						errhint("Run it as the owner of the table, or as a role with BYPASSRLS.")));
	for (i = 0; i < SCAN_COLUMNS; i++)
		if (get_atttype(relid, get_attnum(relid, names[i])) != types[i])
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of ecstats.events is not what rollup reads", names[i]),
					 errdetail("It has to be of type %s.", format_type_be(types[i]))));
}

/*
 * find_heaps appends a table, or what is below a partitioned one. The locks are kept until the
 * transaction ends, as a query would.
 */
static List *
find_heaps(RollupEventScan *scan, List *heaps, Oid relid)
{
	Relation rel;

	check_stack_depth();
	rel = table_open(relid, AccessShareLock);
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_PARTITIONED_TABLE:
			heaps = find_partitions(scan, heaps, rel);
			break;
		case RELKIND_RELATION:
			heaps = lappend_oid(heaps, relid);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("rollup cannot read partition \"%s\"", RelationGetRelationName(rel)),
					 errdetail("It is not an ordinary table."),
					 errhint("Attach only ordinary tables to ecstats.events.")));
	}
	table_close(rel, NoLock);
	return heaps;
}

/*
 * find_partitions appends the partitions that can have rows of the range: those whose bounds meet it
 * and the default one; all of them if the table is not partitioned by event_time.
 */
static List *
find_partitions(RollupEventScan *scan, List *heaps, Relation parent)
{
	PartitionDesc desc = RelationGetPartitionDesc(parent, true);
	PartitionKey key = RelationGetPartitionKey(parent);
	PartitionBoundInfo bounds = desc->boundinfo;
	AttrNumber event_time = get_attnum(RelationGetRelid(parent), "event_time");
	int i;

	if (desc->nparts == 0)
		return heaps;
	if (key->strategy != PARTITION_STRATEGY_RANGE || key->partnatts != 1 ||
		key->partattrs[0] != event_time)
	{
		for (i = 0; i < desc->nparts; i++)
			heaps = find_heaps(scan, heaps, desc->oids[i]);
		return heaps;
	}
	for (i = 0; i <= bounds->ndatums; i++)
		if (bounds->indexes[i] >= 0 && bounds_meet_range(scan, bounds, i))
			heaps = find_heaps(scan, heaps, desc->oids[bounds->indexes[i]]);
	if (partition_bound_has_default(bounds))
		heaps = find_heaps(scan, heaps, desc->oids[bounds->default_index]);
	return heaps;
}

/*
 * bounds_meet_range tells whether the partition between bound index - 1 (inclusive) and bound index
 * (exclusive) can have rows of the range.
 */
static bool
bounds_meet_range(RollupEventScan *scan, PartitionBoundInfo bounds, int index)
{
	if (index > 0 && bounds->kind[index - 1][0] == PARTITION_RANGE_DATUM_VALUE &&
		DatumGetTimestampTz(bounds->datums[index - 1][0]) >= scan->to_time)
		return false;
	if (index < bounds->ndatums && bounds->kind[index][0] == PARTITION_RANGE_DATUM_VALUE &&
		DatumGetTimestampTz(bounds->datums[index][0]) <= scan->from_time)
		return false;
	return true;
}

/*
 * scan_heaps takes the rows of the tables, in this process alone.
 */
static void
scan_heaps(RollupEventScan *scan, const List *heaps, Snapshot snapshot)
{
	const ListCell *cell;
	Relation heap;

	foreach (cell, heaps)
	{
		heap = table_open(lfirst_oid(cell), NoLock);
		ecstats_rollup_event_scan(scan, heap, table_beginscan(heap, snapshot, 0, NULL));
		table_close(heap, NoLock);
	}
	ecstats_rollup_event_flush(scan);
}

/*
 * ecstats_rollup_event_scan takes what the reader finds in one table, as far as it is in the range,
 * and ends the reader. The last rows may wait in the batch.
 */
void
ecstats_rollup_event_scan(RollupEventScan *scan, Relation heap, TableScanDesc reader)
{
	Oid relid = RelationGetRelid(heap);
	EventTable table;

	table.scan = scan;
	table.desc = RelationGetDescr(heap);
	table.relid = relid;
	table.columns[0] = get_attnum(relid, "event_time");
	table.columns[1] = get_attnum(relid, "user_id");
	table.columns[2] = get_attnum(relid, "event");
	table.in_place = table.columns[0] == 1 && table.columns[1] == 2 && table.columns[2] == 3;
	if (ecstats_rollup_heap_can(heap))
		ecstats_rollup_heap_scan(reader, take_page, &table);
	else
		scan_slots(&table, heap, reader);
	table_endscan(reader);
}

/*
 * take_page takes the rows of a page of a heap.
 */
static void
take_page(void *state, HeapTupleHeader *rows, int nrows, const char *end)
{
	const EventTable *table = state;
	EventRow row;
	int i;

	row.end = end;

	for (i = 0; i < nrows; i++)
	{
		/* A tuple's header and the three columns after it take one cache line, or two. */
		if (i + ROLLUP_ROWS_AHEAD < nrows)
		{
			rollup_prefetch(rows[i + ROLLUP_ROWS_AHEAD]);
			rollup_prefetch((const char *) rows[i + ROLLUP_ROWS_AHEAD] + 63);
		}
		if (!table->in_place || !get_row_in_place(rows[i], &row))
			get_row(table, rows[i], &row);
		take_row(table->scan, &row);
	}
}

/*
 * scan_slots takes the rows of a table of another kind.
 */
static void
scan_slots(const EventTable *table, Relation heap, TableScanDesc reader)
{
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	Datum values[SCAN_COLUMNS];
	bool nulls[SCAN_COLUMNS];
	EventRow row;
	int i;

	row.end = NULL; /* nothing */
	while (table_scan_getnextslot(reader, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		for (i = 0; i < SCAN_COLUMNS; i++)
			values[i] = slot_getattr(slot, table->columns[i], &nulls[i]);
		set_row(table, values, nulls, &row);
		take_row(table->scan, &row);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * get_row_in_place reads the columns where they are first in the tuple and none of them is NULL: a
 * third of the work of deforming it. False if the tuple is another one.
 */
static bool
get_row_in_place(HeapTupleHeader header, EventRow *row)
{
	const char *data = (const char *) header + header->t_hoff;
	const bits8 first = (1 << SCAN_COLUMNS) - 1;
	uint32 at = sizeof(TimestampTz);

	if (HeapTupleHeaderGetNatts(header) < SCAN_COLUMNS ||
		((header->t_infomask & HEAP_HASNULL) != 0 && (header->t_bits[0] & first) != first))
		return false;
	memcpy(&row->event_time, data, sizeof(TimestampTz));
	at = att_align_pointer(at, TYPALIGN_INT, -1, data + at);
	row->user_id = PointerGetDatum(data + at);
	at = att_addlength_pointer(at, -1, data + at);
	at = att_align_pointer(at, TYPALIGN_INT, -1, data + at);
	row->event = PointerGetDatum(data + at);
	return true;
}

/*
 * get_row reads the columns wherever they are.
 */
static void
get_row(const EventTable *table, HeapTupleHeader header, EventRow *row)
{
	HeapTupleData tuple;
	Datum values[SCAN_COLUMNS];
	bool nulls[SCAN_COLUMNS];
	int i;

	tuple.t_data = header;
	for (i = 0; i < SCAN_COLUMNS; i++)
		values[i] = heap_getattr(&tuple, table->columns[i], table->desc, &nulls[i]);
	set_row(table, values, nulls, row);
}

/*
 * set_row takes the values of the columns, which cannot be NULL.
 */
static void
set_row(const EventTable *table, const Datum *values, const bool *nulls, EventRow *row)
{
	int i;

	for (i = 0; i < SCAN_COLUMNS; i++)
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("rollup found a NULL in ecstats.events"),
							errdetail("It is in column %d of a row of partition %u.",
									  table->columns[i], table->relid)));
	row->event_time = DatumGetTimestampTz(values[0]);
	row->user_id = values[1];
	row->event = values[2];
}

/*
 * take_row counts the event of a row in the range and puts its user into the batch. The id is copied,
 * since the row is gone with its page.
 */
static void
take_row(RollupEventScan *scan, const EventRow *row)
{
	struct varlena *stored = (struct varlena *) DatumGetPointer(row->user_id);
	RollupBatchRow *entry;
	struct varlena *id;
	uint32 length;

	if (row->event_time < scan->from_time || row->event_time >= scan->to_time)
		return;
	id = rollup_text(stored);
	length = VARSIZE_ANY_EXHDR(id);
	if (length > ROLLUP_MAX_LENGTH)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("rollup takes ids of up to %d bytes", ROLLUP_MAX_LENGTH),
						errdetail("A user_id has %u bytes.", length)));
	if (scan->nrows == BATCH_ROWS || scan->nbytes + length > BATCH_BYTES)
		ecstats_rollup_event_flush(scan);

	entry = &scan->rows[scan->nrows++];
	entry->id = scan->bytes + scan->nbytes;
	entry->length = length;
	if (length <= SHORT_BYTES && VARDATA_ANY(id) + SHORT_BYTES <= row->end && id == stored)
		memcpy(scan->bytes + scan->nbytes, VARDATA_ANY(id), SHORT_BYTES);
	else
		memcpy(scan->bytes + scan->nbytes, VARDATA_ANY(id), length);
	scan->nbytes += length;
	entry->hash = rollup_hash(&scan->users.table, VARDATA_ANY(id), length);
	rollup_table_prefetch(&scan->users.table, entry->hash);
	entry->event = event_of(scan, row);
	scan->events[entry->event].events++;
	if (id != stored)
		pfree(id);
}

/*
 * event_of returns the number of a row's event. A short name is looked for as a number of sixteen
 * bytes, always in the same steps: names come in no order that a processor could foresee.
 */
static uint32
event_of(RollupEventScan *scan, const EventRow *row)
{
	const struct varlena *name = (const struct varlena *) DatumGetPointer(row->event);
	uint32 length = VARSIZE_ANY_EXHDR(name);
	RollupKnown *known;
	uint64 low;
	uint64 high;

	if (!VARATT_IS_SHORT(name) || VARATT_IS_EXTERNAL(name) || length > SHORT_BYTES ||
		VARDATA_ANY(name) + SHORT_BYTES > row->end)
		return find_event(scan, row->event);
	memcpy(&low, VARDATA_ANY(name), 8);
	memcpy(&high, VARDATA_ANY(name) + 8, 8);
	low &= short_masks[length][0];
	high &= short_masks[length][1];
	known = &scan->known[(rollup_mix(low, high) >> 32) & (KNOWN_NAMES - 1)];
	if (known->low != low || known->high != high || known->number == 0)
	{
		known->number = find_event(scan, row->event) + 1;
		known->low = low;
		known->high = high;
	}
	return known->number - 1;
}

/*
 * find_event returns the number of a name, whatever form it is in.
 */
static uint32
find_event(RollupEventScan *scan, Datum event)
{
	struct varlena *stored = (struct varlena *) DatumGetPointer(event);
	struct varlena *name = rollup_text(stored);
	uint32 length = VARSIZE_ANY_EXHDR(name);
	uint32 hash = rollup_hash(&scan->names, VARDATA_ANY(name), length);
	uint32 number = ecstats_rollup_event_number(scan, hash, VARDATA_ANY(name), length);

	if (name != stored)
		pfree(name);
	return number;
}

/*
 * ecstats_rollup_event_number returns the number of a name (hashed for scan->names), a new one for a
 * new name.
 */
uint32
ecstats_rollup_event_number(RollupEventScan *scan, uint32 hash, const char *name, uint32 length)
{
	uint32 ref;
	uint32 number;
	bool found;
	RollupRecord *record =
		ecstats_rollup_table_intern(&scan->names, hash, name, length, &ref, &found);

	if (!found)
	{
		if (scan->nevents == scan->max_events)
		{
			uint32 max_events = Max(64, scan->max_events * 2);

			scan->events = ecstats_rollup_grow(&scan->space, scan->events,
											   scan->max_events * sizeof(RollupEvent),
											   max_events * sizeof(RollupEvent));
			scan->max_events = max_events;
		}
		number = scan->nevents++;
		memcpy(record->payload, &number, sizeof(number));
		scan->events[number].ref = ref;
		scan->events[number].page_view =
			ecstats_rollup_listed(scan->page_views, scan->npage_views, name, length);
	}
	memcpy(&number, record->payload, sizeof(number));
	return number;
}

/*
 * ecstats_rollup_event_flush counts the batch's rows for their users. Three rounds, so that each one finds in the
 * cache what the round before asked for: slots, records, counters.
 */
void
ecstats_rollup_event_flush(RollupEventScan *scan)
{
	RollupTable *table = &scan->users.table;
	RollupRecord *record;
	RollupBatchRow *row;
	uint32 i;
	bool found;

	CHECK_FOR_INTERRUPTS();
	ecstats_rollup_table_reserve(table, scan->nrows);
	for (i = 0; i < scan->nrows; i++)
	{
		row = &scan->rows[i];
		row->ref = rollup_table_guess(table, row->hash);
		if (row->ref == 0)
			continue;
		record = rollup_record(table, row->ref);
		rollup_prefetch(record);
		rollup_prefetch((const char *) record + 63);
	}
	for (i = 0; i < scan->nrows; i++)
	{
		row = &scan->rows[i];
		record = row->ref != 0 ? rollup_record(table, row->ref) : NULL;
		if (record == NULL || !rollup_record_is(table, record, row->id, row->length))
			record = ecstats_rollup_table_intern(table, row->hash, row->id, row->length, &row->ref,
												 &found);
		rollup_user_add(&scan->users, row->ref, (RollupUser *) record->payload, row->event);
	}
	scan->nrows = 0;
	scan->nbytes = 0;
}
