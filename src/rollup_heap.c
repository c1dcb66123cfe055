/*
 * rollup_heap.c
 *		The visible rows of a heap, a page at a time. The executor's way, a call and a slot for each
 *		row, would be a good part of the whole pass, and the first bytes of a row are nearly always a
 *		cache miss: here they are asked for some rows ahead.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/rel.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

/* Which blocks this process reads. */
typedef struct BlockRange
{
	HeapScanDesc reader;
	BlockNumber taken;						  /* alone: blocks read so far */
	ParallelBlockTableScanWorkerData *worker; /* with others: this process's share, else NULL */
} BlockRange;

static BlockNumber next_block(BlockRange *range);
static int visible_rows(HeapScanDesc reader, Buffer buffer, HeapTupleHeader *rows);

/*
 * ecstats_rollup_heap_can tells whether the pages of a table can be read here.
 */
bool
ecstats_rollup_heap_can(Relation heap)
{
	return heap->rd_tableam == GetHeapamTableAmRoutine();
}

/*
 * ecstats_rollup_heap_scan hands the rows of each page of a table that the reader's snapshot sees to
 * take, which finds them where they are until it returns. The reader has not read anything yet; it
 * says which blocks there are and whether other processes share them.
 */
void
ecstats_rollup_heap_scan(TableScanDesc reader, RollupTakeRows take, void *state)
{
	ParallelBlockTableScanWorkerData worker;
	BlockRange range = {(HeapScanDesc) reader, 0, NULL};
	HeapTupleHeader rows[MaxHeapTuplesPerPage];
	BlockNumber block;
	int nrows;

	if (reader->rs_parallel != NULL)
	{
		memset(&worker, 0, sizeof(worker));
		range.worker = &worker;
		table_block_parallelscan_startblock_init(reader->rs_rd, &worker,
												 (ParallelBlockTableScanDesc) reader->rs_parallel);
	}
	while ((block = next_block(&range)) != InvalidBlockNumber)
	{
		Buffer buffer;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(reader->rs_rd, MAIN_FORKNUM, block, RBM_NORMAL,
									range.reader->rs_strategy);
		nrows = visible_rows(range.reader, buffer, rows);
		take(state, rows, nrows, (const char *) BufferGetPage(buffer) + BLCKSZ);
		ReleaseBuffer(buffer);
	}
}

/*
 * next_block returns the next block to read, InvalidBlockNumber at the end. Alone it begins where
 * other scans of the table are at the moment.
 */
static BlockNumber
next_block(BlockRange *range)
{
	HeapScanDesc reader = range->reader;

	if (range->worker != NULL)
		return table_block_parallelscan_nextpage(
			reader->rs_base.rs_rd, range->worker,
			(ParallelBlockTableScanDesc) reader->rs_base.rs_parallel);
	if (range->taken >= reader->rs_nblocks)
		return InvalidBlockNumber;
	return (BlockNumber) (((uint64) reader->rs_startblock + range->taken++) % reader->rs_nblocks);
}

/*
 * visible_rows fills rows with what the snapshot sees of a page and returns how many these are. Once
 * that is known they may be read without the page's lock: as long as it is pinned nothing moves.
 */
static int
visible_rows(HeapScanDesc reader, Buffer buffer, HeapTupleHeader *rows)
{
	Relation heap = reader->rs_base.rs_rd;
	Snapshot snapshot = reader->rs_base.rs_snapshot;
	bool check = CheckForSerializableConflictOutNeeded(heap, snapshot);
	HeapTupleData row;
	OffsetNumber last;
	OffsetNumber line;
	bool all_visible;
	Page page;
	int n = 0;

	row.t_tableOid = RelationGetRelid(heap);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	ecstats_old_snapshot_check(snapshot, heap, page);
	last = PageGetMaxOffsetNumber(page);
	/* A page that is visible to all on a primary need not be so to a snapshot of a standby. */
	all_visible = PageIsAllVisible(page) && !snapshot->takenDuringRecovery;
	for (line = FirstOffsetNumber; line <= last; line++)
	{
		ItemId id = PageGetItemId(page, line);
		bool visible;

		if (!ItemIdIsNormal(id))
			continue;
		row.t_data = (HeapTupleHeader) PageGetItem(page, id);
		if (all_visible && !check)
		{
			rollup_prefetch(row.t_data);
			rows[n++] = row.t_data;
			continue;
		}
		if (line + ROLLUP_ROWS_AHEAD <= last)
			rollup_prefetch((char *) page +
							ItemIdGetOffset(PageGetItemId(page, line + ROLLUP_ROWS_AHEAD)));
		row.t_len = ItemIdGetLength(id);
		ItemPointerSet(&row.t_self, BufferGetBlockNumber(buffer), line);
		visible = all_visible || HeapTupleSatisfiesVisibility(&row, snapshot, buffer);
		if (check)
			HeapCheckForSerializableConflictOut(visible, heap, &row, buffer, snapshot);
		if (visible)
			rows[n++] = row.t_data;
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return n;
}
