/*
 * compat.h
 *		PostgreSQL 14 to 18 in one source: the only place that looks at PG_VERSION_NUM.
 */
#ifndef ECSTATS_COMPAT_H
#define ECSTATS_COMPAT_H

#if PG_VERSION_NUM < 140000 || PG_VERSION_NUM >= 190000
#error "ecstats is written for PostgreSQL 14 to 18"
#endif

/* check_function_bodies and other GUC variables moved to a header of their own. */
#include "utils/guc.h"

/* 14 has pg_hmac_* without the text of what went wrong. */
#if PG_VERSION_NUM >= 150000
#define ecstats_hmac_reason(ctx) pg_hmac_error(ctx)
#else
#define ecstats_hmac_reason(ctx) "the cryptographic library refused"
#endif

/* The macros on variable-length values left postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "utils/jsonb.h"

/* A jsonb value being built. After 18 its state and its result are one struct of PostgreSQL's. */
typedef struct EcstatsJsonbBuild
{
	JsonbParseState *state;
	JsonbValue *result; /* complete after the last WJB_END_* */
} EcstatsJsonbBuild;

static inline void
ecstats_jsonb_push(EcstatsJsonbBuild *build, JsonbIteratorToken token, JsonbValue *value)
{
	build->result = pushJsonbValue(&build->state, token, value);
}

/* A job's owner need not have LOGIN where the server can be told so. */
#if PG_VERSION_NUM >= 170000
#define ECSTATS_WORKER_LOGIN_FLAGS BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define ECSTATS_WORKER_LOGIN_FLAGS 0
#endif

/* Parse analysis of a raw statement without parameters. */
#if PG_VERSION_NUM >= 150000
#define ecstats_analyze_and_rewrite(statement, source) \
	pg_analyze_and_rewrite_fixedparams((statement), (source), NULL, 0, NULL)
#else
#define ecstats_analyze_and_rewrite(statement, source) \
	pg_analyze_and_rewrite((statement), (source), NULL, 0, NULL)
#endif

/* PortalRun to the end, at top level; 18 took run_once away. */
#if PG_VERSION_NUM >= 180000
#define ecstats_portal_run(portal, receiver, completion) \
	PortalRun((portal), FETCH_ALL, true, (receiver), (receiver), (completion))
#else
#define ecstats_portal_run(portal, receiver, completion) \
	PortalRun((portal), FETCH_ALL, true, true, (receiver), (receiver), (completion))
#endif

/* A qualified name as a list of its parts. */
#include "utils/regproc.h"
#if PG_VERSION_NUM >= 160000
#define ecstats_names_of(name) stringToQualifiedNameList((name), NULL)
#else
#define ecstats_names_of(name) stringToQualifiedNameList(name)
#endif

/* Rights on one object: 16 asks the same question of every kind. */
#if PG_VERSION_NUM >= 160000
#define ecstats_function_aclcheck(function, role) \
	object_aclcheck(ProcedureRelationId, (function), (role), ACL_EXECUTE)
#define ecstats_table_ownercheck(table, role) object_ownercheck(RelationRelationId, (table), (role))
#else
#define ecstats_function_aclcheck(function, role) pg_proc_aclcheck((function), (role), ACL_EXECUTE)
#define ecstats_table_ownercheck(table, role)	  pg_class_ownercheck((table), (role))
#endif

/* Takes a lock of the session, or once more, without waiting; local is set to what the session knows of it. */
#if PG_VERSION_NUM >= 180000
#define ecstats_lock_again(tag, mode, local) \
	LockAcquireExtended((tag), (mode), true, true, true, (local), false)
#else
#define ecstats_lock_again(tag, mode, local) \
	LockAcquireExtended((tag), (mode), true, true, true, (local))
#endif

/*
 * What a bulk insert needs of the executor: a range table of one relation, the map from the columns of a
 * partitioned table to those of a partition, index entries of one new row.
 */
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#endif

static inline void
ecstats_range_table_init(EState *estate, RangeTblEntry *entry)
{
#if PG_VERSION_NUM >= 160000
	List *permissions = NIL;

	addRTEPermissionInfo(&permissions, entry)->requiredPerms = ACL_INSERT;
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(entry), permissions, bms_make_singleton(1));
#else
	ExecInitRangeTable(estate, list_make1(entry), permissions);
#endif
#else
	ExecInitRangeTable(estate, list_make1(entry));
#endif
}

#if PG_VERSION_NUM >= 160000
#define ecstats_partition_map(leaf, estate) ExecGetRootToChildMap((leaf), (estate))
#define ecstats_insert_index_tuples(leaf, slot, estate) \
	ExecInsertIndexTuples((leaf), (slot), (estate), false, false, NULL, NIL, false)
#else
#define ecstats_partition_map(leaf, estate) ((leaf)->ri_RootToPartitionMap)
#define ecstats_insert_index_tuples(leaf, slot, estate) \
	ExecInsertIndexTuples((leaf), (slot), (estate), false, false, NULL, NIL)
#endif

/* Sends a message and waits for room; 15 asks whether the receiver has to see it at once. */
#if PG_VERSION_NUM >= 150000
#define ecstats_queue_send(queue, length, data, flush) \
	shm_mq_send((queue), (length), (data), false, (flush))
#else
#define ecstats_queue_send(queue, length, data, flush) shm_mq_send((queue), (length), (data), false)
#endif

/* Who reads a page himself asks whether his snapshot is too old for it; 17 has no such setting. */
#if PG_VERSION_NUM >= 170000
#define ecstats_old_snapshot_check(snapshot, heap, page) ((void) (page))
#else
#include "storage/bufmgr.h"
#define ecstats_old_snapshot_check(snapshot, heap, page) \
	TestForOldSnapshot((snapshot), (heap), (page))
#endif

#endif /* ECSTATS_COMPAT_H */
