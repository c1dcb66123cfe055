/*
 * ecstats.c
 *		The module: magic block, hooks that are set once, the version.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "ecstats.h"

PG_MODULE_MAGIC;

void _PG_init(void);

PG_FUNCTION_INFO_V1(ecstats_version);
PG_FUNCTION_INFO_V1(ecstats_in_transaction_block);

/*
 * _PG_init registers the invalidation and transaction callbacks; it reads no catalog, so that the
 * library may be preloaded.
 */
void
_PG_init(void)
{
	ecstats_day_init();
	ecstats_day_mark_init();
}

/*
 * ecstats_version returns the version of the library, major.minor, as text.
 */
Datum
ecstats_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ECSTATS_VERSION));
}

/*
 * ecstats_in_transaction_block tells whether the transaction outlives this statement.
 */
Datum
ecstats_in_transaction_block(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(IsTransactionBlock());
}
