/*
 * event_store.c
 *		Storing an array of events as COPY would: rows go to their partitions in batches, their index
 *		entries after them. What INSERT would do beyond that (triggers, rewritten columns, row security,
 *		foreign tables) is left to INSERT: the caller is told so, before or while rows are stored.
 *
 * NOT NULL, every CHECK (events_valid notes the rows' days), routing by the partitions' bounds and every
 * index are the executor's own.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/execPartition.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "compat.h"
#include "ecstats.h"
#include "event.h"
#include "jsonb_get.h"

#define BATCH_ROWS			1000
#define BATCH_BYTES			65536
#define FAULT_BYTES			1024 /* what a bad element leaves in the batch's memory, about */
#define SUBTRANSACTIONS_MAX 32	 /* a snapshot lists 64 a session, more cost everybody a look-up */

PG_FUNCTION_INFO_V1(ecstats_event_store);

enum EventColumns
{
	COL_TIME,
	COL_USER,
	COL_EVENT,
	COL_ID,
	COL_URL,
	COL_EXTRA,
	N_COLS
};

/* A store in progress. Slots and what the executor needs live in the executor's context. */
typedef struct EventStore
{
	TupleDesc desc; /* of ecstats.events, not counted: a slot more costs nothing */
	EState *estate;
	ModifyTableState *mtstate;
	PartitionTupleRouting *routing;
	CommandId command;
	MemoryContext batch; /* the contents of the slots in use */
	int rows;			 /* slots in use */
	Size bytes;			 /* what they hold, roughly */
	int64 stored;
	TupleTableSlot *slots[BATCH_ROWS];
	ResultRelInfo *leaves[BATCH_ROWS]; /* where each row goes; NULL once it is there */
} EventStore;

/*
 * plain_columns tells whether ecstats.events has its six columns and no others, none of them computed.
 */
static bool
plain_columns(TupleDesc desc)
{
	static const struct
	{
		const char *name;
		Oid type;
	} columns[N_COLS] = {
		{"event_time", TIMESTAMPTZOID}, {"user_id", TEXTOID},  {"event", TEXTOID},
		{"event_id", UUIDOID},			{"page_url", TEXTOID}, {"extra", JSONBOID}};
	int i;

	if (desc->natts != N_COLS)
		return false;
	for (i = 0; i < N_COLS; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attisdropped || attr->attgenerated || attr->attidentity ||
			attr->atttypid != columns[i].type ||
			strcmp(NameStr(attr->attname), columns[i].name) != 0)
			return false;
	}
	return true;
}

/*
 * plain_triggers tells whether INSERT fires no trigger. (Those of DELETE, UPDATE and TRUNCATE are no
 * matter; foreign keys and deferred keys have triggers too.)
 */
static bool
plain_triggers(const TriggerDesc *triggers)
{
	return triggers == NULL ||
		   !(triggers->trig_insert_before_row || triggers->trig_insert_after_row ||
			 triggers->trig_insert_instead_row || triggers->trig_insert_before_statement ||
			 triggers->trig_insert_after_statement || triggers->trig_insert_new_table);
}

/*
 * citus_present tells whether Citus is installed here. Of a table that it distributes it keeps an empty
 * shell, whose rows nobody would see: only its planner knows where they go.
 */
static bool
citus_present(void)
{
	return OidIsValid(get_relname_relid("pg_dist_partition", PG_CATALOG_NAMESPACE));
}

/*
 * plain_table tells whether storing a row in ecstats.events is no more than routing, checking and
 * indexing it.
 */
static bool
plain_table(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE && rel->rd_rules == NULL &&
		   plain_triggers(rel->trigdesc) && plain_columns(RelationGetDescr(rel)) &&
		   !citus_present() &&
		   check_enable_rls(RelationGetRelid(rel), InvalidOid, true) != RLS_ENABLED;
}

/*
 * require_plain_leaf raises the error that tells the caller to use INSERT, where a partition needs more
 * than a table that is as ecstats makes it. (COPY converts and fires; here nobody has such a partition.)
 */
static void
require_plain_leaf(ResultRelInfo *leaf, EState *estate)
{
	if (leaf->ri_FdwRoutine == NULL && plain_triggers(leaf->ri_TrigDesc) &&
		ecstats_partition_map(leaf, estate) == NULL &&
		(RelationGetDescr(leaf->ri_RelationDesc)->constr == NULL ||
		 !RelationGetDescr(leaf->ri_RelationDesc)->constr->has_generated_stored))
		return;
	ereport(ERROR, (errcode(ERRCODE_ECSTATS_USE_INSERT),
					errmsg("partition \"%s\" cannot be filled in bulk",
						   RelationGetRelationName(leaf->ri_RelationDesc))));
}

/*
 * store_begin prepares the executor's state for rel, which is locked and stays open until the end.
 */
static void
store_begin(EventStore *store, Relation rel)
{
	EState *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	ResultRelInfo *root = makeNode(ResultRelInfo);
	ModifyTableState *mtstate = makeNode(ModifyTableState);

	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(rel);
	entry->relkind = rel->rd_rel->relkind;
	entry->rellockmode = RowExclusiveLock;
	ecstats_range_table_init(estate, entry);
	ExecInitResultRelation(estate, root, 1);
	mtstate->ps.state = estate;
	mtstate->operation = CMD_INSERT;
	mtstate->mt_nrels = 1;
	mtstate->resultRelInfo = root;
	mtstate->rootResultRelInfo = root;

	store->desc = CreateTupleDescCopy(RelationGetDescr(rel));
	store->estate = estate;
	store->mtstate = mtstate;
	store->routing = ExecSetupPartitionTupleRouting(estate, rel);
	store->command = GetCurrentCommandId(true);
	store->batch =
		AllocSetContextCreate(estate->es_query_cxt, "ecstats events", ALLOCSET_DEFAULT_SIZES);
	store->rows = 0;
	store->bytes = 0;
	store->stored = 0;
	memset(store->slots, 0, sizeof(store->slots));
	MemoryContextSwitchTo(old);
}

/*
 * store_end releases what store_begin and the rows took; locks stay until the transaction's end.
 */
static void
store_end(EventStore *store)
{
	ExecCleanupTupleRouting(store->mtstate, store->routing);
	ExecResetTupleTable(store->estate->es_tupleTable, false);
	ExecCloseResultRelations(store->estate);
	ExecCloseRangeTableRelations(store->estate);
	FreeExecutorState(store->estate);
}

/*
 * flush_leaf stores the rows of the batch that belong to one partition, and indexes them.
 */
static void
flush_leaf(EventStore *store, ResultRelInfo *leaf, int from)
{
	TupleTableSlot *slots[BATCH_ROWS];
	int n = 0;
	int i;

	for (i = from; i < store->rows; i++)
	{
		if (store->leaves[i] == leaf)
		{
			slots[n++] = store->slots[i];
			store->leaves[i] = NULL;
		}
	}
	table_multi_insert(leaf->ri_RelationDesc, slots, n, store->command, 0, NULL);
	if (leaf->ri_NumIndices == 0)
		return;
	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(store->estate);
		(void) ecstats_insert_index_tuples(leaf, slots[i], store->estate);
	}
}

/*
 * flush stores the rows of the batch, partition by partition, and empties it.
 */
static void
flush(EventStore *store)
{
	MemoryContext old = MemoryContextSwitchTo(store->batch); /* table_multi_insert leaves some */
	int i;

	for (i = 0; i < store->rows; i++)
	{
		if (store->leaves[i] != NULL)
			flush_leaf(store, store->leaves[i], i);
	}
	for (i = 0; i < store->rows; i++)
		(void) ExecClearTuple(store->slots[i]);
	store->stored += store->rows;
	store->rows = 0;
	store->bytes = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(store->batch);
}

/*
 * next_slot returns an empty slot for the next row. Slots are made as they are needed: a short call
 * needs few.
 */
static TupleTableSlot *
next_slot(EventStore *store)
{
	MemoryContext old;

	if (store->slots[store->rows] == NULL)
	{
		old = MemoryContextSwitchTo(store->estate->es_query_cxt);
		store->slots[store->rows] =
			ExecInitExtraTupleSlot(store->estate, store->desc, &TTSOpsVirtual);
		MemoryContextSwitchTo(old);
	}
	return store->slots[store->rows];
}

/*
 * add_row puts a draft into the batch: routed, and held against the constraints of its partition.
 */
static void
add_row(EventStore *store, const EventDraft *draft)
{
	TupleTableSlot *slot = next_slot(store);
	pg_uuid_t *event_id = palloc(sizeof(pg_uuid_t));
	ResultRelInfo *leaf;

	*event_id = draft->event_id;
	slot->tts_values[COL_TIME] = TimestampTzGetDatum(draft->event_time);
	slot->tts_values[COL_USER] = PointerGetDatum(draft->user_id);
	slot->tts_values[COL_EVENT] = PointerGetDatum(draft->event);
	slot->tts_values[COL_ID] = UUIDPGetDatum(event_id);
	slot->tts_values[COL_URL] = PointerGetDatum(draft->page_url);
	slot->tts_values[COL_EXTRA] = JsonbPGetDatum(draft->extra);
	memset(slot->tts_isnull, false, N_COLS);
	slot->tts_isnull[COL_URL] = draft->page_url == NULL;
	(void) ExecStoreVirtualTuple(slot);

	ResetPerTupleExprContext(store->estate);
	leaf = ExecFindPartition(store->mtstate, store->mtstate->rootResultRelInfo, store->routing,
							 slot, store->estate);
	if (store->rows == 0 || leaf != store->leaves[store->rows - 1])
		require_plain_leaf(leaf, store->estate);
	slot->tts_tableOid = RelationGetRelid(leaf->ri_RelationDesc);
	if (RelationGetDescr(leaf->ri_RelationDesc)->constr)
	{
		ecstats_event_judged = draft;
		ExecConstraints(leaf, slot, store->estate);
		ecstats_event_judged = NULL;
	}

	store->leaves[store->rows++] = leaf;
	store->bytes += VARSIZE_ANY(draft->user_id) + VARSIZE_ANY(draft->event) +
					VARSIZE_ANY(draft->extra) +
					(draft->page_url ? VARSIZE_ANY(draft->page_url) : 0);
}

/*
 * store_elements stores the valid elements of a payload; with raise, a bad one is an error.
 */
static int64
store_elements(EventStore *store, Jsonb *payload, bool raise, TimestampTz now)
{
	EcstatsElements elements = ecstats_json_elements(payload, EVENT_PAYLOAD_MAX, "events");
	JsonbValue element;

	while (ecstats_json_next_element(&elements, &element))
	{
		MemoryContext old = MemoryContextSwitchTo(store->batch);
		EcstatsFault fault = {0};
		EventDraft draft;

		CHECK_FOR_INTERRUPTS();
		if (ecstats_event_draft(&draft, &element, now, &fault))
			add_row(store, &draft);
		else if (raise)
			ecstats_event_raise(&fault, elements.ord, elements.in_array);
		else
			store->bytes += FAULT_BYTES;
		MemoryContextSwitchTo(old);
		if (store->rows == BATCH_ROWS || store->bytes >= BATCH_BYTES)
			flush(store);
	}
	flush(store);
	return store->stored;
}

/*
 * subtransaction_room tells whether this transaction may have one more subtransaction without cost to
 * others: the caller runs a store in one, so that it can undo it.
 */
static bool
subtransaction_room(void)
{
	return !MyProc->subxidStatus.overflowed && MyProc->subxidStatus.count < SUBTRANSACTIONS_MAX;
}

/*
 * ecstats_event_store(payload jsonb, raise boolean, at timestamptz) stores the valid elements of a
 * payload and returns how many there were, NULL where INSERT has to do it. With raise, the first bad
 * element is an error; without, it is left out. at is the clock. A key that is stored already is
 * 23505, a partition for INSERT alone is ERRCODE_ECSTATS_USE_INSERT: both after some rows may have been
 * stored, so the caller has a subtransaction around this.
 */
Datum
ecstats_event_store(PG_FUNCTION_ARGS)
{
	Jsonb *payload = PG_GETARG_JSONB_P(0);
	Oid relid = get_relname_relid("events", get_namespace_oid("ecstats", false));
	Relation rel;
	EventStore *store;
	int64 stored;

	PreventCommandIfReadOnly("INSERT");
	rel = table_open(relid, RowExclusiveLock);
	if (!plain_table(rel) || !subtransaction_room())
	{
		table_close(rel, NoLock);
		PG_RETURN_NULL();
	}
	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(rel));

	store = palloc(sizeof(EventStore));
	store_begin(store, rel);
	PG_TRY();
	{
		stored = store_elements(store, payload, PG_GETARG_BOOL(1), PG_GETARG_TIMESTAMPTZ(2));
	}
	PG_FINALLY();
	{
		ecstats_event_judged = NULL;
	}
	PG_END_TRY();
	store_end(store);
	table_close(rel, NoLock);
	pfree(store);
	PG_RETURN_INT64(stored);
}
