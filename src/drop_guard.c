/*
 * drop_guard.c
 *		DROP EXTENSION would take the shop's events and orders along without a word: partitions and rows
 *		are not seen as dependants. A view that is no member of the extension but depends on it makes the
 *		plain DROP refuse; CASCADE still works. It comes with the first row that is committed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "ecstats.h"

#define GUARD_NAME "drop_guard"

PG_FUNCTION_INFO_V1(ecstats_guard_wanted);

/* Something was written in this transaction that a plain DROP EXTENSION must not take along. */
static bool wanted = false;

/* The view, where it is known to be there; InvalidOid: look. Every commit of a row asks. */
static Oid guard = InvalidOid;

/* Constant text: the one statement that C runs here. */
static const char guard_sql[] = "CREATE OR REPLACE VIEW ecstats." GUARD_NAME
								" AS SELECT ecstats.day_of(pg_catalog.now()) AS today, "
								"'there are events or orders: DROP EXTENSION ecstats needs CASCADE "
								"and drops them'::pg_catalog.text AS note";

/*
 * schema_owner returns the owner of schema ecstats.
 */
static Oid
schema_owner(Oid nsp)
{
	HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(nsp));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", nsp);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * only_one_creates takes a transaction lock without waiting: where another session is making the view
 * just now, this one need not.
 */
static bool
only_one_creates(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) 0x65637374, 0,
						 3); /* no SQL function takes class 3 */
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * ecstats_drop_guard_changed is told of every change of a relation's definition, InvalidOid being any.
 */
void
ecstats_drop_guard_changed(Oid relid)
{
	if (relid == guard || relid == InvalidOid)
		guard = InvalidOid;
}

/*
 * ecstats_drop_guard_ensure makes the view if it is not there. Called at pre-commit of a transaction
 * that wrote raw rows; runs as the owner of schema ecstats, whoever wrote them.
 */
void
ecstats_drop_guard_ensure(void)
{
	Oid nsp;
	Oid save_user;
	int save_context;
	int save_guc;

	wanted = false;
	if (OidIsValid(guard) || XactReadOnly)
		return;
	nsp = get_namespace_oid("ecstats", true);
	if (!OidIsValid(nsp))
		return;
	guard = get_relname_relid(GUARD_NAME, nsp);
	if (OidIsValid(guard) || !only_one_creates())
		return;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(schema_owner(nsp), save_context | SECURITY_LOCAL_USERID_CHANGE |
												  SECURITY_RESTRICTED_OPERATION);
	/* As the owner, nothing may be found that the writer has planted. */
	save_guc = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute(guard_sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create view ecstats.%s", GUARD_NAME);
	SPI_finish();
	PopActiveSnapshot();
	CommandCounterIncrement();
	AtEOXact_GUC(false, save_guc);
	SetUserIdAndSecContext(save_user, save_context);
}

/*
 * ecstats_guard_wanted is the statement trigger of tables whose rows are somebody's work: channels,
 * templates, jobs and the like. What CREATE EXTENSION itself writes does not count.
 */
Datum
ecstats_guard_wanted(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "ecstats_guard_wanted: not called by trigger manager");
	if (!creating_extension && !ecstats_restoring())
		wanted = true;
	return PointerGetDatum(NULL);
}

/*
 * ecstats_drop_guard_wanted tells whether this transaction wrote such rows.
 */
bool
ecstats_drop_guard_wanted(void)
{
	return wanted;
}

/*
 * ecstats_drop_guard_forget is called at a transaction's end.
 */
void
ecstats_drop_guard_forget(void)
{
	wanted = false;
}
