/*
 * srf.c
 *		Set-returning functions in materialize mode, the same for PostgreSQL 14 to 18.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/tuplestore.h"

#include "ecstats.h"

/*
 * ecstats_rows_begin checks that the caller takes a set and returns a tuplestore for it, bounded by
 * work_mem and spilling to disk. It lives in the caller's per-query context.
 */
EcstatsRows
ecstats_rows_begin(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EcstatsRows rows;
	TupleDesc desc;
	MemoryContext old;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		(rsinfo->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("set-valued function called in context that cannot accept a set")));
	/* The executor knows the row type; finding it in the catalogs would double a short call. */
	desc = rsinfo->expectedDesc;
	if (desc == NULL && get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	rows.desc = CreateTupleDescCopy(desc);
	rows.store = tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0, false,
									   work_mem);
	MemoryContextSwitchTo(old);

	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = rows.store;
	rsinfo->setDesc = rows.desc;
	return rows;
}

/*
 * ecstats_rows_add appends one row.
 */
void
ecstats_rows_add(EcstatsRows *rows, Datum *values, bool *nulls)
{
	tuplestore_putvalues(rows->store, rows->desc, values, nulls);
}
