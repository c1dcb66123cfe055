/*
 * rollup_parallel.c
 *		The pass over events by several processes: the leader and its workers share the blocks of the
 *		tables, each counts into tables of its own, and the leader adds the workers' tables to its
 *		own. What a worker found comes as messages through a queue of fixed size, so that shared
 *		memory does not grow with the users. Nothing is written in between: parallel mode begins and
 *		ends here, and the caller may be in the middle of an INSERT.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "storage/bufmgr.h"
#include "storage/shm_mq.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

/* What the processes share, by key. */
#define KEY_SHARED UINT64CONST(1)	 /* RollupShared */
#define KEY_QUEUES UINT64CONST(2)	 /* a queue of QUEUE_SIZE for each worker */
#define KEY_USAGE  UINT64CONST(3)	 /* a RollupUsage for each worker */
#define KEY_QUERY  UINT64CONST(4)	 /* the text of the query, if there is one */
#define KEY_HEAPS  UINT64CONST(1000) /* and following: the parallel scan of each table */

#define QUEUE_SIZE	 ((Size) 256 * 1024)
#define MESSAGE_FULL ((Size) 32 * 1024) /* a message of this size is sent */
#define FAR_AT_ONCE	 64					/* entries of the overflow that follow a user */
#define MERGE_ROWS	 128

/* Tables from this many times min_parallel_table_scan_size on are worth a first worker. */
#define WORTH_A_WORKER 8

typedef struct RollupShared
{
	TimestampTz from_time;
	TimestampTz to_time;
	uint32 nheaps;
	Oid heaps[FLEXIBLE_ARRAY_MEMBER];
} RollupShared;

typedef struct RollupUsage
{
	BufferUsage buffers;
	WalUsage wal;
} RollupUsage;

/* In this order: all names come before the users that refer to them by their numbers. */
typedef enum MessageKind
{
	MESSAGE_NAMES, /* RollupName, in the order of the worker's numbers */
	MESSAGE_USERS, /* RollupRecord of the worker, far being the number of RollupCount behind it */
	MESSAGE_END
} MessageKind;

typedef struct Message
{
	uint32 kind;
	uint32 items;
	char data[FLEXIBLE_ARRAY_MEMBER]; /* each item begins at a multiple of 8 bytes */
} Message;

typedef struct RollupName
{
	int64 events;
	uint32 length;
	char bytes[FLEXIBLE_ARRAY_MEMBER];
} RollupName;

/* Room for a message that is not yet full, and the longest item. */
#define LONGEST_USER (offsetof(RollupRecord, payload) + sizeof(RollupUser) + ROLLUP_MAX_LENGTH + 8)
#define MESSAGE_ROOM \
	(offsetof(Message, data) + MESSAGE_FULL + LONGEST_USER + FAR_AT_ONCE * sizeof(RollupCount))

/* The worker's end of its queue. */
typedef struct Sender
{
	shm_mq_handle *queue;
	Message *message;
	Size length;
} Sender;

/* A worker's number of an event -> the leader's. */
typedef struct NumberMap
{
	uint32 *to;
	uint32 n;
} NumberMap;

/* A user of a message that is being added. */
typedef struct MergeRow
{
	const RollupRecord *record;
	uint32 hash;
	uint32 ref;
} MergeRow;

PG_FUNCTION_INFO_V1(ecstats_rollup_scan_workers);

static int workers_for(const List *heaps);
static void estimate(ParallelContext *context, const List *heaps, Snapshot snapshot);
static void *put_chunk(ParallelContext *context, uint64 key, Size size);
static void share(ParallelContext *context, const RollupEventScan *scan, const List *heaps,
				  Snapshot snapshot);
static shm_mq_handle **open_queues(ParallelContext *context);
static void scan_share(RollupEventScan *scan, shm_toc *toc, LOCKMODE lock);
static void merge_worker(RollupEventScan *scan, ParallelContext *context, shm_mq_handle *queue);
static void merge_names(RollupEventScan *scan, const Message *message, NumberMap *map);
static void merge_users(RollupEventScan *scan, const Message *message, const NumberMap *map);
static void merge_user(RollupUsers *users, const MergeRow *row, RollupUser *user,
					   const NumberMap *map);
static void send_all(Sender *to, RollupEventScan *scan);
static void send_user(Sender *to, const RollupUsers *users, const RollupRecord *record);
static void *add_item(Sender *to, MessageKind kind, Size size);
static void send_message(Sender *to, bool flush);

/* Workers of the session's last scan of events. */
static int last_workers = 0;

/*
 * ecstats_rollup_scan_workers() returns how many workers took part in the session's last scan of
 * events, 0 if it ran in one process.
 */
Datum
ecstats_rollup_scan_workers(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(last_workers);
}

/*
 * ecstats_rollup_parallel_scan takes the rows of the tables (whose locks the caller holds) with
 * workers, where that pays and there are any. False: nothing was done, the caller is alone.
 */
bool
ecstats_rollup_parallel_scan(RollupEventScan *scan, const List *heaps, Snapshot snapshot)
{
	int nworkers = workers_for(heaps);
	ParallelContext *context;
	shm_mq_handle **queues;
	RollupUsage *usage;
	int i;

	last_workers = 0;
	if (nworkers == 0)
		return false;
	EnterParallelMode();
	/* As in CREATE FUNCTION: a bare name would depend on dynamic_library_path. */
	context = CreateParallelContext("$libdir/ecstats", "ecstats_rollup_parallel_main", nworkers);
	estimate(context, heaps, snapshot);
	InitializeParallelDSM(context);
	if (context->seg == NULL)
	{
		/* There are no more segments of shared memory to be had. */
		DestroyParallelContext(context);
		ExitParallelMode();
		return false;
	}
	share(context, scan, heaps, snapshot);
	queues = open_queues(context);
	/* As below a Gather: a leader that is to stay out of it works only if nobody else does. */
	if (parallel_leader_participation || context->nworkers_launched == 0)
		scan_share(scan, context->toc, NoLock);
	for (i = 0; i < context->nworkers_launched; i++)
		merge_worker(scan, context, queues[i]);

	WaitForParallelWorkersToFinish(context);
	usage = shm_toc_lookup(context->toc, KEY_USAGE, false);
	for (i = 0; i < context->nworkers_launched; i++)
		InstrAccumParallelQuery(&usage[i].buffers, &usage[i].wal);
	last_workers = context->nworkers_launched;
	pfree(queues);
	DestroyParallelContext(context);
	ExitParallelMode();
	return true;
}

/*
 * workers_for returns how many workers to ask for, at most config.rollup_workers: one where the tables are large enough, and one
 * more for each time that they are three times as large, as the planner does. It begins later than
 * the planner: this scan reads a block in a fraction of the time that the executor takes. None where
 * another one is the leader.
 */
static int
workers_for(const List *heaps)
{
	uint64 threshold = Max((uint64) min_parallel_table_scan_size * WORTH_A_WORKER, 1);
	int most = ecstats_config_get()->rollup_workers;
	uint64 blocks = 0;
	int nworkers = 0;
	const ListCell *cell;

	if (most == 0 || IsInParallelMode() || IsParallelWorker() || !IsUnderPostmaster)
		return 0;
	foreach (cell, heaps)
	{
		Relation heap = table_open(lfirst_oid(cell), NoLock);

		blocks += RelationGetNumberOfBlocks(heap);
		table_close(heap, NoLock);
	}
	for (; blocks >= threshold && nworkers < most; threshold *= 3)
		nworkers++;
	return nworkers;
}

/*
 * estimate tells how much the processes will share; share() puts the same chunks.
 */
static void
estimate(ParallelContext *context, const List *heaps, Snapshot snapshot)
{
	shm_toc_estimator *estimator = &context->estimator;
	const ListCell *cell;

	shm_toc_estimate_chunk(estimator,
						   offsetof(RollupShared, heaps) + list_length(heaps) * sizeof(Oid));
	shm_toc_estimate_chunk(estimator, mul_size(QUEUE_SIZE, context->nworkers));
	shm_toc_estimate_chunk(estimator, mul_size(sizeof(RollupUsage), context->nworkers));
	if (debug_query_string != NULL)
		shm_toc_estimate_chunk(estimator, strlen(debug_query_string) + 1);
	shm_toc_estimate_keys(estimator, 4 + list_length(heaps));
	foreach (cell, heaps)
	{
		Relation heap = table_open(lfirst_oid(cell), NoLock);

		shm_toc_estimate_chunk(estimator, table_parallelscan_estimate(heap, snapshot));
		table_close(heap, NoLock);
	}
}

/*
 * put_chunk takes a chunk of shared memory that is found under a key.
 */
static void *
put_chunk(ParallelContext *context, uint64 key, Size size)
{
	void *chunk = shm_toc_allocate(context->toc, size);

	shm_toc_insert(context->toc, key, chunk);
	return chunk;
}

/*
 * share fills shared memory with what the workers have to know.
 */
static void
share(ParallelContext *context, const RollupEventScan *scan, const List *heaps, Snapshot snapshot)
{
	RollupShared *shared = put_chunk(
		context, KEY_SHARED, offsetof(RollupShared, heaps) + list_length(heaps) * sizeof(Oid));
	const ListCell *cell;

	shared->from_time = scan->from_time;
	shared->to_time = scan->to_time;
	shared->nheaps = 0;
	put_chunk(context, KEY_USAGE, mul_size(sizeof(RollupUsage), context->nworkers));
	if (debug_query_string != NULL)
		strcpy(put_chunk(context, KEY_QUERY, strlen(debug_query_string) + 1), debug_query_string);
	foreach (cell, heaps)
	{
		Relation heap = table_open(lfirst_oid(cell), NoLock);

		table_parallelscan_initialize(heap,
									  put_chunk(context, KEY_HEAPS + shared->nheaps,
												table_parallelscan_estimate(heap, snapshot)),
									  snapshot);
		shared->heaps[shared->nheaps++] = RelationGetRelid(heap);
		table_close(heap, NoLock);
	}
}

/*
 * open_queues makes the queues, launches the workers and returns the leader's ends, of which those of
 * the workers that were launched are of use.
 */
static shm_mq_handle **
open_queues(ParallelContext *context)
{
	char *room = put_chunk(context, KEY_QUEUES, mul_size(QUEUE_SIZE, context->nworkers));
	shm_mq_handle **queues = palloc(context->nworkers * sizeof(shm_mq_handle *));
	int i;

	for (i = 0; i < context->nworkers; i++)
	{
		shm_mq *queue = shm_mq_create(room + i * QUEUE_SIZE, QUEUE_SIZE);

		shm_mq_set_receiver(queue, MyProc);
		queues[i] = shm_mq_attach(queue, context->seg, NULL);
	}
	LaunchParallelWorkers(context);
	for (i = 0; i < context->nworkers; i++)
	{
		/* By the handle, waiting ends also if the worker never comes to attach. */
		if (i < context->nworkers_launched)
			shm_mq_set_handle(queues[i], context->worker[i].bgwhandle);
		else
			shm_mq_detach(queues[i]);
	}
	return queues;
}

/*
 * scan_share takes the rows of the blocks that this process gets. A worker takes the locks that its
 * leader has; they are in one group.
 */
static void
scan_share(RollupEventScan *scan, shm_toc *toc, LOCKMODE lock)
{
	const RollupShared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	uint32 i;

	for (i = 0; i < shared->nheaps; i++)
	{
		Relation heap = table_open(shared->heaps[i], lock);
		ParallelTableScanDesc blocks = shm_toc_lookup(toc, KEY_HEAPS + i, false);

		ecstats_rollup_event_scan(scan, heap, table_beginscan_parallel(heap, blocks));
		table_close(heap, NoLock);
	}
	ecstats_rollup_event_flush(scan);
}

/*
 * merge_worker adds what one worker counted, and closes its queue. An error of the worker comes out
 * of the waiting.
 */
static void
merge_worker(RollupEventScan *scan, ParallelContext *context, shm_mq_handle *queue)
{
	NumberMap map = {NULL, 0};
	const Message *message;
	void *data;
	Size length;

	do
	{
		if (shm_mq_receive(queue, &length, &data, false) != SHM_MQ_SUCCESS)
		{
			WaitForParallelWorkersToFinish(context);
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
							errmsg("a parallel worker of rollup ended without its result")));
		}
		message = data;
		if (message->kind == MESSAGE_NAMES)
			merge_names(scan, message, &map);
		else if (message->kind == MESSAGE_USERS)
			merge_users(scan, message, &map);
	} while (message->kind != MESSAGE_END);
	shm_mq_detach(queue);
	if (map.to != NULL)
		ecstats_rollup_free(&scan->space, map.to, map.n * sizeof(uint32));
}

/*
 * merge_names adds a worker's counts of events and maps its numbers.
 */
static void
merge_names(RollupEventScan *scan, const Message *message, NumberMap *map)
{
	const char *at = message->data;
	uint32 i;

	map->to = ecstats_rollup_grow(&scan->space, map->to, map->n * sizeof(uint32),
								  (map->n + message->items) * sizeof(uint32));
	for (i = 0; i < message->items; i++)
	{
		const RollupName *name = (const RollupName *) at;
		uint32 hash = rollup_hash(&scan->names, name->bytes, name->length);
		uint32 number = ecstats_rollup_event_number(scan, hash, name->bytes, name->length);

		scan->events[number].events += name->events;
		map->to[map->n++] = number;
		at += TYPEALIGN(8, offsetof(RollupName, bytes) + name->length);
	}
}

/*
 * merge_users adds a worker's users, in the rounds of ecstats_rollup_event_flush. The ids are hashed
 * here again: they are short and come one behind the other, a hash in the message would cost as much.
 */
static void
merge_users(RollupEventScan *scan, const Message *message, const NumberMap *map)
{
	RollupTable *table = &scan->users.table;
	const char *at = message->data;
	uint32 left = message->items;
	MergeRow rows[MERGE_ROWS];
	RollupRecord *record;
	uint32 n;
	uint32 i;
	bool found;

	for (; left > 0; left -= n)
	{
		CHECK_FOR_INTERRUPTS();
		n = Min(left, MERGE_ROWS);
		ecstats_rollup_table_reserve(table, n);
		for (i = 0; i < n; i++)
		{
			const RollupRecord *from = (const RollupRecord *) at;

			rows[i].record = from;
			rows[i].hash = rollup_hash(table, rollup_record_bytes(table, from), from->length);
			rollup_table_prefetch(table, rows[i].hash);
			at += rollup_record_size(table, from->length) +
				  ((const RollupUser *) from->payload)->far * sizeof(RollupCount);
		}
		for (i = 0; i < n; i++)
		{
			rows[i].ref = rollup_table_guess(table, rows[i].hash);
			if (rows[i].ref == 0)
				continue;
			record = rollup_record(table, rows[i].ref);
			rollup_prefetch(record);
			rollup_prefetch((const char *) record + 63);
		}
		for (i = 0; i < n; i++)
		{
			record = ecstats_rollup_table_intern(table, rows[i].hash,
												 rollup_record_bytes(table, rows[i].record),
												 rows[i].record->length, &rows[i].ref, &found);
			merge_user(&scan->users, &rows[i], (RollupUser *) record->payload, map);
		}
	}
}

/*
 * merge_user adds a worker's counts of a user to those of the leader.
 */
static void
merge_user(RollupUsers *users, const MergeRow *row, RollupUser *user, const NumberMap *map)
{
	const RollupUser *from = (const RollupUser *) row->record->payload;
	const RollupCount *far =
		(const RollupCount *) ((const char *) row->record +
							   rollup_record_size(&users->table, row->record->length));
	uint32 near = Min(map->n, ROLLUP_NEAR);
	uint32 i;

	for (i = 0; i < near; i++)
		if (from->near[i] != 0)
			rollup_user_add_many(users, row->ref, user, map->to[i], from->near[i]);
	for (i = 0; i < from->far; i++)
		rollup_user_add_many(users, row->ref, user, map->to[far[i].event], far[i].count);
}

/*
 * ecstats_rollup_parallel_main is a worker: it takes its share of the rows and sends what it counted.
 * Its memory has the leader's limit, by config; all of it goes with the process.
 */
void
ecstats_rollup_parallel_main(dsm_segment *segment, shm_toc *toc)
{
	const RollupShared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	char *queues = shm_toc_lookup(toc, KEY_QUEUES, false);
	RollupUsage *usage = shm_toc_lookup(toc, KEY_USAGE, false);
	shm_mq *queue = (shm_mq *) (queues + ParallelWorkerNumber * QUEUE_SIZE);
	RollupEventScan scan;
	Sender to;

	debug_query_string = shm_toc_lookup(toc, KEY_QUERY, true);
	pgstat_report_activity(STATE_RUNNING, debug_query_string);
	shm_mq_set_sender(queue, MyProc);
	to.queue = shm_mq_attach(queue, segment, NULL);
	usage += ParallelWorkerNumber;

	InstrStartParallelQuery();
	ecstats_rollup_event_init(&scan, shared->from_time, shared->to_time);
	scan_share(&scan, toc, AccessShareLock);
	send_all(&to, &scan);
	InstrEndParallelQuery(&usage->buffers, &usage->wal);
	shm_mq_detach(to.queue);
}

/*
 * send_all sends names, users and the end.
 */
static void
send_all(Sender *to, RollupEventScan *scan)
{
	RollupRecord *record;
	uint32 chunk = 0;
	uint32 at = 0;
	uint32 i;

	to->message = palloc(MESSAGE_ROOM);
	to->message->kind = MESSAGE_NAMES;
	to->message->items = 0;
	to->length = offsetof(Message, data);
	for (i = 0; i < scan->nevents; i++)
	{
		RollupName *name;

		record = rollup_record(&scan->names, scan->events[i].ref);
		name = add_item(to, MESSAGE_NAMES, offsetof(RollupName, bytes) + record->length);
		name->events = scan->events[i].events;
		name->length = record->length;
		memcpy(name->bytes, rollup_record_bytes(&scan->names, record), record->length);
	}
	while ((record = ecstats_rollup_table_next(&scan->users.table, &chunk, &at)) != NULL)
		send_user(to, &scan->users, record);
	(void) add_item(to, MESSAGE_END, 0);
	send_message(to, true);
}

/*
 * send_user sends a user, again without near counts as long as there is more in the overflow.
 */
static void
send_user(Sender *to, const RollupUsers *users, const RollupRecord *record)
{
	uint32 size = rollup_record_size(&users->table, record->length);
	uint32 next = ((const RollupUser *) record->payload)->far;
	bool again = false;

	do
	{
		RollupRecord *copy;
		RollupUser *user;
		RollupCount *counts;
		uint32 n = 0;
		uint32 i;

		for (i = next; i != 0 && n < FAR_AT_ONCE; i = users->far[i].next)
			n++;
		copy = add_item(to, MESSAGE_USERS, size + n * sizeof(RollupCount));
		memcpy(copy, record, size);
		user = (RollupUser *) copy->payload;
		user->far = n;
		if (again)
			memset(user->near, 0, sizeof(user->near));
		counts = (RollupCount *) ((char *) copy + size);
		for (i = 0; i < n; i++)
		{
			counts[i].event = users->far[next].event;
			counts[i].count = users->far[next].count;
			next = users->far[next].next;
		}
		again = true;
	} while (next != 0);
}

/*
 * add_item returns the room of one more item in the message at hand; what was full, or of another
 * kind, goes off before.
 */
static void *
add_item(Sender *to, MessageKind kind, Size size)
{
	void *item;

	if (to->length >= MESSAGE_FULL || to->message->kind != kind)
	{
		send_message(to, false);
		to->message->kind = kind;
		to->message->items = 0;
		to->length = offsetof(Message, data);
	}
	item = (char *) to->message + to->length;
	to->length += TYPEALIGN(8, size);
	to->message->items++;
	return item;
}

/*
 * send_message sends the message at hand and waits for room. A leader that is gone will not miss it:
 * the worker is told to end by then.
 */
static void
send_message(Sender *to, bool flush)
{
	CHECK_FOR_INTERRUPTS();
	if (ecstats_queue_send(to->queue, to->length, to->message, flush) != SHM_MQ_SUCCESS)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the leader of a parallel rollup is gone")));
}
