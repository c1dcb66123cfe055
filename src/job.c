/*
 * job.c
 *		Launching the background worker of a run and waiting for it. What is due, who may and what
 *		happens next is decided in SQL (sql/44_job*.sql).
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "job.h"

PG_FUNCTION_INFO_V1(ecstats_job_check_command);
PG_FUNCTION_INFO_V1(ecstats_job_start_worker);
PG_FUNCTION_INFO_V1(ecstats_job_wait);

/* Workers that this backend launched and means to wait for; lives in TopMemoryContext. */
static List *launched = NIL;

/*
 * parse_error_context moves the position of a syntax error from the query that called us to the
 * command that we parsed.
 */
static void
parse_error_context(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/*
 * ecstats_job_parse parses a job's command into its statements, raw, in the current memory context.
 * Refused: nothing at all, and COPY with a client, which a background worker does not have.
 */
List *
ecstats_job_parse(const char *command)
{
	List *statements = pg_parse_query(command);
	ListCell *cell;

	if (statements == NIL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("job command is empty"),
						errhint("Give at least one SQL statement.")));
	foreach (cell, statements)
	{
		Node *node = lfirst_node(RawStmt, cell)->stmt;

		if (IsA(node, CopyStmt) && ((CopyStmt *) node)->filename == NULL)
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("a job cannot COPY from stdin or to stdout"),
							errdetail("A job runs in a background worker, which has no client."),
							errhint("Use a file, a program, or INSERT ... SELECT.")));
	}
	return statements;
}

/*
 * ecstats_job_check_command raises when a job's command does not parse; names are not looked up,
 * since what the command works on may be created later.
 */
Datum
ecstats_job_check_command(PG_FUNCTION_ARGS)
{
	char *command = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ErrorContextCallback context;

	context.callback = parse_error_context;
	context.arg = command;
	context.previous = error_context_stack;
	error_context_stack = &context;
	ecstats_job_parse(command);
	error_context_stack = context.previous;
	PG_RETURN_VOID();
}

/*
 * keep_handle remembers a launched worker for ecstats_job_wait.
 */
static void
keep_handle(BackgroundWorkerHandle *handle)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	launched = lappend(launched, handle);
	MemoryContextSwitchTo(caller);
}

/*
 * ecstats_job_start_worker(run_id, claimed_at, role, name, keep, chain) launches the worker of a
 * claimed run and returns false when no worker slot is free. It trusts its caller with the role, so
 * only a superuser (ecstats.job_launch, which runs as the extension's owner) gets in; the worker for
 * its part does nothing unless the run is claimed and its job belongs to that role.
 */
Datum
ecstats_job_start_worker(PG_FUNCTION_ARGS)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	JobWorkerArg arg;
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(3));
	bool keep = PG_GETARG_BOOL(4);
	MemoryContext caller;
	bool started;

	StaticAssertStmt(sizeof(JobWorkerArg) <= BGW_EXTRALEN, "JobWorkerArg does not fit bgw_extra");
	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to launch a job's worker"),
						errhint("Use ecstats_tick().")));

	memset(&arg, 0, sizeof(arg));
	arg.run_id = PG_GETARG_INT64(0);
	arg.claimed_at = PG_GETARG_TIMESTAMPTZ(1);
	arg.database = MyDatabaseId;
	arg.role = PG_GETARG_OID(2);
	arg.chain = PG_GETARG_BOOL(5);

	memset(&worker, 0, sizeof(worker));
	snprintf(worker.bgw_name, BGW_MAXLEN, "ecstats job %s", name);
	snprintf(worker.bgw_type, BGW_MAXLEN, "ecstats job");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "ecstats");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "ecstats_job_worker_main");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = keep ? MyProcPid : 0;
	memcpy(worker.bgw_extra, &arg, sizeof(arg));

	/* The handle is allocated in the current context and must outlive this call. */
	caller = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &handle);
	MemoryContextSwitchTo(caller);
	if (!started)
		PG_RETURN_BOOL(false);
	if (keep)
		keep_handle(handle);
	else
		pfree(handle);
	PG_RETURN_BOOL(true);
}

/*
 * forget_ended drops the workers that have ended from the list and says whether there was one.
 */
static bool
forget_ended(void)
{
	ListCell *cell;
	bool any = false;

	foreach (cell, launched)
	{
		BackgroundWorkerHandle *handle = lfirst(cell);
		pid_t pid;

		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
		{
			launched = foreach_delete_current(launched, cell);
			pfree(handle);
			any = true;
		}
	}
	return any;
}

/*
 * ecstats_job_wait(milliseconds) waits until one of the workers that this backend launched with
 * keep ends, or the time is up, and returns how many are still going.
 */
Datum
ecstats_job_wait(PG_FUNCTION_ARGS)
{
	int32 limit = PG_GETARG_INT32(0);
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), limit);

	while (!forget_ended() && launched != NIL)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	PG_RETURN_INT32(list_length(launched));
}
