/*
 * rollup.c
 *		What the one-pass rollup is built on: memory that is counted, and arrays of names.
 */
#include "postgres.h"

#include <sys/mman.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

/* Blocks from this size on are worth huge pages: the tables are read at random. */
#define HUGE_PAGE ((Size) 2 * 1024 * 1024)

static void check_limit(RollupSpace *space, Size size);

/*
 * ecstats_rollup_space_init makes the memory of one call, a child of the current context: what the
 * call does not delete goes with its parent, also after an error.
 */
void
ecstats_rollup_space_init(RollupSpace *space)
{
	space->context =
		AllocSetContextCreate(CurrentMemoryContext, "ecstats rollup", ALLOCSET_DEFAULT_SIZES);
	space->used = 0;
	space->limit = (Size) Min((uint64) ecstats_config_get()->rollup_memory << 20, SIZE_MAX / 2);
}

/*
 * ecstats_rollup_alloc returns a zeroed block of any size, or fails with 53200 when the call would
 * take more than its limit. A large block begins on a huge page, with the address of what was
 * allocated before it.
 */
void *
ecstats_rollup_alloc(RollupSpace *space, Size size)
{
	char *block;
	char *start;

	check_limit(space, size);
	if (size < HUGE_PAGE)
		block = MemoryContextAlloc(space->context, size);
	else
	{
		start = MemoryContextAllocHuge(space->context, size + HUGE_PAGE + sizeof(char *));
		block = (char *) TYPEALIGN(HUGE_PAGE, start + sizeof(char *));
		memcpy(block - sizeof(char *), &start, sizeof(char *));
#ifdef MADV_HUGEPAGE
		/* Only a hint: the block is read at random, and its answer does not matter. */
		(void) madvise(block, TYPEALIGN_DOWN(HUGE_PAGE, size), MADV_HUGEPAGE);
#endif
	}
	space->used += size;
	memset(block, 0, size);
	return block;
}

/*
 * ecstats_rollup_free gives a block of the given size back.
 */
void
ecstats_rollup_free(RollupSpace *space, void *block, Size size)
{
	char *start = block;

	if (size >= HUGE_PAGE)
		memcpy(&start, (char *) block - sizeof(char *), sizeof(char *));
	pfree(start);
	space->used -= size;
}

/*
 * ecstats_rollup_grow makes a block larger, and zeroes what is new. The old block may be NULL.
 */
void *
ecstats_rollup_grow(RollupSpace *space, void *block, Size old_size, Size new_size)
{
	void *grown = ecstats_rollup_alloc(space, new_size);

	if (block != NULL)
	{
		memcpy(grown, block, old_size);
		ecstats_rollup_free(space, block, old_size);
	}
	return grown;
}

/*
 * check_limit fails if this many more bytes are too many.
 */
static void
check_limit(RollupSpace *space, Size size)
{
	if (size > space->limit || space->used > space->limit - size)
		ereport(
			ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("rollup needs more than %zu MB of memory", space->limit >> 20),
			 errdetail("Another %zu bytes were asked for after %zu bytes.", size, space->used),
			 errhint("Raise rollup_memory of ecstats.config if the server has the memory, or look "
					 "for ids that are different in every row.")));
}

/*
 * ecstats_rollup_texts takes a text[] argument apart; a NULL in it is refused, under the argument's
 * name.
 */
void
ecstats_rollup_texts(ArrayType *array, const char *name, Datum **texts, int *ntexts)
{
	bool *nulls;
	int i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, texts, &nulls, ntexts);
	for (i = 0; i < *ntexts; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s has a NULL element", name),
					 errdetail("Element %d is NULL.", i + 1)));
}

/*
 * ecstats_rollup_listed tells whether a string is among texts; for short lists.
 */
bool
ecstats_rollup_listed(const Datum *texts, int ntexts, const char *bytes, uint32 length)
{
	int i;

	for (i = 0; i < ntexts; i++)
	{
		const struct varlena *text = (const struct varlena *) DatumGetPointer(texts[i]);

		if (VARSIZE_ANY_EXHDR(text) == length && memcmp(VARDATA_ANY(text), bytes, length) == 0)
			return true;
	}
	return false;
}
