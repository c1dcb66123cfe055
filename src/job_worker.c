/*
 * job_worker.c
 *		The background worker of one run: log in as the job's owner, run the command, report.
 *
 * The command's transactions and the ledger's are strangers. The command runs with nothing but its
 * owner's login, so there is nobody that RESET ROLE, SET SESSION AUTHORIZATION or a deferred trigger
 * could lead back to. The ledger is written before and after, in transactions that hold none of the
 * owner's code, as the owner of schema ecstats; no SQL function that an owner may call does it.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "job.h"

/* A command that catches its cancellation is terminated this much later. */
#define JOB_KILL_DELAY_MS 10000

/* What of an error is kept, in bytes. */
#define JOB_ERROR_BYTES 8192

/* What the ledger says is to be run. */
typedef struct JobRun
{
	char *name;
	char *command;
	char *due_at; /* ISO 8601, UTC */
	int timeout_ms;
} JobRun;

/* How it ended; error NULL says well. */
typedef struct JobOutcome
{
	int64 rows;
	char *error;
	char *sqlstate;
	char *detail;
	char *context;
} JobOutcome;

/* Who to turn back into after a transaction of the ledger. */
typedef struct LedgerScope
{
	Oid user;
	int security;
	int settings;
} LedgerScope;

PGDLLEXPORT void ecstats_job_worker_main(Datum main_arg);

static volatile sig_atomic_t timed_out = false;

static JobRun *ledger_begin(const JobWorkerArg *arg);
static void run_command(const JobRun *run, JobOutcome *outcome);
static void ledger_finish(const JobWorkerArg *arg, const JobOutcome *outcome);
static void ledger_chain(void);

/*
 * cancel_on_timeout cancels the command when the job's time is up.
 */
static void
cancel_on_timeout(void)
{
	timed_out = true;
	kill(MyProcPid, SIGINT);
}

/*
 * die_on_timeout ends the worker when the command has outlived its cancellation; the next tick finds
 * the run without a worker.
 */
static void
die_on_timeout(void)
{
	kill(MyProcPid, SIGTERM);
}

/*
 * set_session makes what the command sees: its due time, its name in pg_stat_activity. The source
 * makes them defaults of the session, so that RESET ALL brings them back.
 */
static void
set_session(const JobWorkerArg *arg, const JobRun *run)
{
	char *application = psprintf("ecstats job %s", run->name);
	char *run_id = psprintf(INT64_FORMAT, arg->run_id);

	SetConfigOption("ecstats.due_at", run->due_at, PGC_USERSET, PGC_S_CLIENT);
	/* What the database or role sets otherwise would make ecstats_daily refuse. */
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_CLIENT);
	SetConfigOption("ecstats.run_id", run_id, PGC_USERSET, PGC_S_CLIENT);
	SetConfigOption("application_name", application, PGC_USERSET, PGC_S_CLIENT);
}

/*
 * ecstats_job_worker_main runs one run from login to report.
 */
void
ecstats_job_worker_main(Datum main_arg)
{
	JobWorkerArg arg;
	JobRun *run;
	JobOutcome outcome;
	TimeoutId cancel_timeout;
	TimeoutId die_timeout;
	MemoryContext context;

	memcpy(&arg, MyBgworkerEntry->bgw_extra, sizeof(arg));
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(arg.database, arg.role, ECSTATS_WORKER_LOGIN_FLAGS);

	context = AllocSetContextCreate(TopMemoryContext, "ecstats job", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	run = ledger_begin(&arg);
	if (run == NULL)
		proc_exit(0);
	set_session(&arg, run);

	memset(&outcome, 0, sizeof(outcome));
	cancel_timeout = RegisterTimeout(USER_TIMEOUT, cancel_on_timeout);
	die_timeout = RegisterTimeout(USER_TIMEOUT, die_on_timeout);
	enable_timeout_after(cancel_timeout, run->timeout_ms);
	enable_timeout_after(die_timeout, run->timeout_ms + JOB_KILL_DELAY_MS);
	run_command(run, &outcome);
	disable_all_timeouts(false);
	QueryCancelPending = false;

	ledger_finish(&arg, &outcome);
	if (arg.chain)
		ledger_chain();
	proc_exit(0);
}

/* ------------------------------------------------------------------ the command */

/*
 * statement_context adds to an error which statement of the command it is from.
 */
static void
statement_context(void *arg)
{
	errcontext("statement %d of the job's command", *(int *) arg);
}

/*
 * run_portal plans and runs one statement and returns the rows it processed. A portal rather than
 * SPI, so that a procedure may commit.
 */
static uint64
run_portal(RawStmt *statement, const char *command)
{
	bool snapshot = analyze_requires_snapshot(statement);
	List *plans;
	Portal portal;
	QueryCompletion completion;

	if (snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	plans = ecstats_analyze_and_rewrite(statement, command);
	plans = pg_plan_queries(plans, command, CURSOR_OPT_PARALLEL_OK, NULL);
	if (snapshot)
		PopActiveSnapshot();

	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, command, CreateCommandTag(statement->stmt), plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	InitializeQueryCompletion(&completion);
	(void) ecstats_portal_run(portal, None_Receiver, &completion);
	PortalDrop(portal, false);
	return completion.nprocessed;
}

/*
 * run_statement runs one statement as psql would: in a transaction of its own, unless the command
 * has opened one with BEGIN.
 */
static uint64
run_statement(RawStmt *statement, const char *command)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext plan_context;
	uint64 rows;

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();

	/* Not the transaction's context: a procedure commits while its own plan is being run. */
	plan_context = AllocSetContextCreate(caller, "ecstats job statement", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(plan_context);
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
	rows = run_portal(statement, command);
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(plan_context);
	return rows;
}

/*
 * run_statements runs the command's statements one after another; the first error ends it.
 */
static void
run_statements(const char *command, JobOutcome *outcome)
{
	ErrorContextCallback context;
	int number = 0;
	List *statements;
	ListCell *cell;

	statements = ecstats_job_parse(command);
	context.callback = statement_context;
	context.arg = &number;
	context.previous = error_context_stack;
	error_context_stack = &context;
	foreach (cell, statements)
	{
		number++;
		outcome->rows += run_statement(lfirst_node(RawStmt, cell), command);
	}
	error_context_stack = context.previous;
	if (IsTransactionBlock())
		ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
						errmsg("job command left a transaction open"),
						errdetail("What it did since BEGIN is rolled back."),
						errhint("End with COMMIT.")));
}

/*
 * clip copies a text, cut to what the ledger keeps at a whole character; NULL stays NULL.
 */
static char *
clip(const char *text)
{
	if (text == NULL)
		return NULL;
	return pnstrdup(text, pg_mbcliplen(text, strlen(text), JOB_ERROR_BYTES));
}

/*
 * note_error keeps an error's facts in the current memory context.
 */
static void
note_error(const JobRun *run, const ErrorData *error, JobOutcome *outcome)
{
	StringInfoData detail;

	initStringInfo(&detail);
	if (error->detail != NULL)
		appendStringInfoString(&detail, error->detail);
	if (error->cursorpos > 0)
		appendStringInfo(&detail, "%sIt is at character %d of the command.",
						 detail.len > 0 ? " " : "", error->cursorpos);
	outcome->sqlstate = pstrdup(unpack_sql_state(error->sqlerrcode));
	outcome->error = clip(error->message != NULL ? error->message : "error without a message");
	if (timed_out && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		outcome->error = psprintf("canceled by the job's time-out of %d ms", run->timeout_ms);
	outcome->detail = detail.len > 0 ? clip(detail.data) : NULL;
	outcome->context = clip(error->context);
}

/*
 * run_command runs the command and catches what it raises; afterwards no transaction is open.
 */
static void
run_command(const JobRun *run, JobOutcome *outcome)
{
	MemoryContext caller = CurrentMemoryContext;

	debug_query_string = run->command;
	pgstat_report_activity(STATE_RUNNING, run->command);
	PG_TRY();
	{
		run_statements(run->command, outcome);
	}
	PG_CATCH();
	{
		ErrorData *error;

		HOLD_INTERRUPTS();
		disable_all_timeouts(false);
		QueryCancelPending = false;
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		PortalErrorCleanup();
		MemoryContextSwitchTo(caller);
		note_error(run, error, outcome);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* ------------------------------------------------------------------ the ledger */

/*
 * ledger_owner returns the owner of schema ecstats, who is the extension's.
 */
static Oid
ledger_owner(void)
{
	HeapTuple tuple;
	Oid owner;

	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(get_namespace_oid("ecstats", false)));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema ecstats");
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * ledger_open starts a transaction as the ledger's owner with SPI connected. What the role's or the
 * command's settings would make of it (read only, serializable, a short lock_timeout) does not hold.
 */
static void
ledger_open(LedgerScope *scope)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = false;
	XactIsoLevel = XACT_READ_COMMITTED;
	XactDeferrable = false;
	scope->settings = NewGUCNestLevel();
	(void) set_config_option("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
							 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	GetUserIdAndSecContext(&scope->user, &scope->security);
	SetUserIdAndSecContext(ledger_owner(), scope->security | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
}

/*
 * ledger_close commits what ledger_open began.
 */
static void
ledger_close(const LedgerScope *scope)
{
	SPI_finish();
	SetUserIdAndSecContext(scope->user, scope->security);
	PopActiveSnapshot();
	AtEOXact_GUC(true, scope->settings);
	CommitTransactionCommand();
}

/*
 * ledger_query runs one statement that returns at most one row and says whether it did.
 */
static bool
ledger_query(const char *query, int nargs, Oid *types, Datum *values, const char *nulls)
{
	if (SPI_execute_with_args(query, nargs, types, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "the job ledger did not answer: %s", query);
	return SPI_processed == 1;
}

/*
 * ledger_begin moves the run to running and returns what to run, in the caller's memory context; NULL
 * when the run is not under this claim any more, or its job not this role's.
 */
static JobRun *
ledger_begin(const JobWorkerArg *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid types[3] = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum values[3] = {Int64GetDatum(arg->run_id), TimestampTzGetDatum(arg->claimed_at),
					   TimestampTzGetDatum(MyStartTimestamp)};
	LedgerScope scope;
	JobRun *run = NULL;

	ledger_open(&scope);
	if (ledger_query("SELECT name, command, due_at, timeout_ms"
					 " FROM ecstats.job_run_begin($1, $2, $3)",
					 3, types, values, NULL))
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		run = MemoryContextAlloc(caller, sizeof(JobRun));
		run->name = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 1));
		run->command = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 2));
		run->due_at = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 3));
		run->timeout_ms = DatumGetInt32(SPI_getbinval(row, desc, 4, &isnull));
	}
	ledger_close(&scope);
	MemoryContextSwitchTo(caller);
	return run;
}

/*
 * set_text makes a text parameter of a string that may be NULL.
 */
static void
set_text(Datum *value, char *null, const char *text)
{
	*null = text == NULL ? 'n' : ' ';
	*value = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/*
 * ledger_finish reports the outcome. The command's settings go first: the ledger's functions run
 * under the session's defaults.
 */
static void
ledger_finish(const JobWorkerArg *arg, const JobOutcome *outcome)
{
	Oid types[6] = {INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[6] = {Int64GetDatum(arg->run_id), Int64GetDatum(outcome->rows)};
	char nulls[6] = {' ', ' '};
	LedgerScope scope;

	set_text(&values[2], &nulls[2], outcome->error);
	set_text(&values[3], &nulls[3], outcome->sqlstate);
	set_text(&values[4], &nulls[4], outcome->detail);
	set_text(&values[5], &nulls[5], outcome->context);
	ResetAllOptions();
	ledger_open(&scope);
	(void) ledger_query("SELECT ecstats.job_run_finish($1, $2, $3, $4, $5, $6)", 6, types, values,
						nulls);
	ledger_close(&scope);
}

/*
 * ledger_chain hands the place that this run leaves to the next one that waits, by the time of
 * the latest tick; the claim is committed before its worker starts. Without a free worker slot the run waits for the next tick.
 */
static void
ledger_chain(void)
{
	Oid types[1] = {INT8OID};
	Datum values[1];
	LedgerScope scope;
	int64 run_id = 0;
	bool isnull = true;

	ledger_open(&scope);
	if (ledger_query("SELECT ecstats.job_take(t.ticked_for) FROM ecstats.job_ticker t", 0, NULL,
					 NULL, NULL))
		run_id =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	ledger_close(&scope);
	if (isnull)
		return;

	values[0] = Int64GetDatum(run_id);
	ledger_open(&scope);
	(void) ledger_query("SELECT ecstats.job_launch($1, false, true)", 1, types, values, NULL);
	ledger_close(&scope);
}
