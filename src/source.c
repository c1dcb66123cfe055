/*
 * source.c
 *		Running the query of a source as the role that owns it, and turning its rows into the JSON that
 *		the intake takes. Which source, which day and what becomes of the rows is decided in SQL
 *		(sql/42_source.sql, sql/55_pipeline_source.sql).
 *
 * The query is somebody else's code that runs in a session with more rights. So: its owner's rights
 * under a security-restricted context (no SET ROLE, no temporary tables, no prepared statements), a
 * read-only transaction (no rows, so no deferred trigger that would fire after the rights are given
 * back), names resolved in pg_catalog alone, a timer of its own, and no session-level advisory lock left
 * behind. It runs in a subtransaction that is always rolled back: what read-only transactions let
 * through (NOTIFY, SET, SET CONSTRAINTS, before 16 large objects) is undone. Its rows are in our hands
 * by then.
 */
#include "postgres.h"

#include <ctype.h>
#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "source.h"

/* Rows of one batch; one of wide rows ends at so many bytes. */
#define SOURCE_BATCH_ROWS  500
#define SOURCE_BATCH_BYTES (4 * 1024 * 1024)

/* A query that catches its cancellation ends the session this much later. */
#define SOURCE_KILL_DELAY_MS 10000

PG_FUNCTION_INFO_V1(ecstats_source_check_query);
PG_FUNCTION_INFO_V1(ecstats_source_rows);
PG_FUNCTION_INFO_V1(ecstats_source_instant);

/* What is run for whom. */
typedef struct SourceQuery
{
	char *source;
	Oid owner;
	char *text;		 /* a SELECT, or the name of a relation */
	Datum bounds[2]; /* timestamptz */
	char *timezone;
	int timeout_ms;
	Portal portal;
} SourceQuery;

typedef void (*SourceReader)(SourceQuery *query, void *arg);

static bool timers_registered = false;
static TimeoutId cancel_timer;
static TimeoutId die_timer;
static volatile sig_atomic_t timed_out = false;

/* ------------------------------------------------------------------ the restricted context */

/*
 * cancel_on_timeout cancels the query when its time is up.
 */
static void
cancel_on_timeout(void)
{
	timed_out = true;
	kill(MyProcPid, SIGINT);
}

/*
 * die_on_timeout ends the session when the query has outlived its cancellation.
 */
static void
die_on_timeout(void)
{
	kill(MyProcPid, SIGTERM);
}

/*
 * timers_start starts the timers of one query; a session registers them once.
 */
static void
timers_start(int timeout_ms)
{
	if (!timers_registered)
	{
		cancel_timer = RegisterTimeout(USER_TIMEOUT, cancel_on_timeout);
		die_timer = RegisterTimeout(USER_TIMEOUT, die_on_timeout);
		timers_registered = true;
	}
	timed_out = false;
	enable_timeout_after(cancel_timer, timeout_ms);
	enable_timeout_after(die_timer, timeout_ms + SOURCE_KILL_DELAY_MS);
}

/*
 * timers_stop stops them.
 */
static void
timers_stop(void)
{
	disable_timeout(cancel_timer, false);
	disable_timeout(die_timer, false);
}

/*
 * set_local sets a parameter until the subtransaction's end.
 */
static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
}

/*
 * become_owner becomes the owner, read-only, until the subtransaction is rolled back. Settings that
 * decide how values are printed are pinned: the same rows must give the same content in every session.
 */
static void
become_owner(const SourceQuery *query)
{
	Oid user;
	int security;

	set_local("search_path", "pg_catalog, pg_temp");
	set_local("TimeZone", query->timezone);
	set_local("DateStyle", "ISO, YMD");
	set_local("IntervalStyle", "postgres");
	set_local("extra_float_digits", "1");
	set_local("bytea_output", "hex");
	XactReadOnly = true;
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(query->owner,
						   security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

/*
 * query_context says in an error whose query it is from.
 */
static void
query_context(void *arg)
{
	errcontext("query of source \"%s\"", ((SourceQuery *) arg)->source);
}

/*
 * syntax_context moves the position of an error in the query's text from our caller's statement to it.
 */
static void
syntax_context(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/* ------------------------------------------------------------------ the query's text */

/*
 * is_relation_name tells whether a source's query is a name, qualified or not, rather than a statement.
 */
static bool
is_relation_name(const char *text)
{
	bool quoted = false;
	const char *s;

	for (s = text; *s; s++)
	{
		unsigned char c = (unsigned char) *s;

		if (c == '"')
			quoted = !quoted;
		else if (!quoted && !IS_HIGHBIT_SET(c) && !isalnum(c) && c != '_' && c != '$' && c != '.')
			return false;
	}
	return s > text && !quoted;
}

/*
 * check_statement raises unless the text is exactly one SELECT; names are not looked up.
 */
static void
check_statement(const char *text)
{
	ErrorContextCallback context;
	List *statements;
	Node *node;

	context.callback = syntax_context;
	context.arg = (void *) text;
	context.previous = error_context_stack;
	error_context_stack = &context;
	statements = pg_parse_query(text);
	error_context_stack = context.previous;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query of a source is not one statement"),
				 errdetail("It has %d.", list_length(statements)),
				 errhint("Give one SELECT, or the name of a table, view or foreign table.")));
	node = linitial_node(RawStmt, statements)->stmt;
	if (!IsA(node, SelectStmt) || ((SelectStmt *) node)->intoClause != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("query of a source is no SELECT"),
				 errhint("Give one SELECT, or the name of a table, view or foreign table.")));
}

/*
 * relation_query makes the SELECT of a relation's rows of the day, by its column of time: the first
 * of names that it has. A column without a zone is compared without one, so that the condition can
 * be sent to a foreign server.
 */
static char *
relation_query(const SourceQuery *query, const char *const *names)
{
	RangeVar *name = makeRangeVarFromNameList(ecstats_names_of(query->text));
	Oid relation;
	AttrNumber number = InvalidAttrNumber;
	const char *cast = "";
	const char *column = "";
	StringInfoData buf;

	if (name->schemaname == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("relation of a source is not qualified"),
						errdetail("Name: %s.", query->text), errhint("Write schema.name.")));
	relation = RangeVarGetRelid(name, NoLock, false);
	for (; *names != NULL && number == InvalidAttrNumber; names++)
	{
		column = *names;
		number = get_attnum(relation, column);
	}
	if (number == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("relation %s has no column that says when", query->text),
						errhint("Name the column %s, or give a SELECT that does.", column)));
	if (get_atttype(relation, number) == TIMESTAMPOID)
		cast = psprintf(" AT TIME ZONE %s", quote_literal_cstr(query->timezone));

	initStringInfo(&buf);
	column = quote_identifier(column);
	appendStringInfo(&buf, "SELECT * FROM %s WHERE %s >= ($1%s) AND %s < ($2%s)",
					 quote_qualified_identifier(name->schemaname, name->relname), column, cast,
					 column, cast);
	return buf.data;
}

/*
 * ecstats_source_check_query(query text) raises unless it is a relation's name or one SELECT.
 */
Datum
ecstats_source_check_query(PG_FUNCTION_ARGS)
{
	char *query = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (!is_relation_name(query))
		check_statement(query);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ running it */

/*
 * open_portal plans the query with the day's bounds as constants and opens a cursor on it. Not
 * read-only in SPI's sense: it then reads what is committed by now, and a write is refused as what it
 * is, a write in a read-only transaction.
 */
static void
open_portal(SourceQuery *query, const char *text)
{
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};

	query->portal = SPI_cursor_open_with_args(NULL, text, 2, types, query->bounds, NULL, false,
											  CURSOR_OPT_NO_SCROLL);
	if (query->portal->tupDesc == NULL)
		elog(ERROR, "the query of a source returns no rows");
}

/*
 * run_restricted runs the query as its owner and lets read take its rows, still as the owner.
 */
static void
run_restricted(SourceQuery *query, const char *const *time_columns, SourceReader read, void *arg)
{
	ErrorContextCallback context;
	char *text = query->text;

	become_owner(query);
	context.callback = query_context;
	context.arg = query;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (!is_relation_name(text))
		check_statement(text);
	else
		text = relation_query(query, time_columns);
	SPI_connect();
	open_portal(query, text);
	read(query, arg);
	SPI_cursor_close(query->portal);
	SPI_finish();

	error_context_stack = context.previous;
}

/*
 * run_undone is run_restricted in a subtransaction that is rolled back, under the query's timer.
 * Returns NULL, or the error, in the caller's memory.
 */
static ErrorData *
run_undone(SourceQuery *query, const char *const *time_columns, SourceReader read, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL; /* set after a longjmp */

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	timers_start(query->timeout_ms);
	PG_TRY();
	{
		run_restricted(query, time_columns, read, arg);
		timers_stop();
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		timers_stop();
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * source_run runs the query. One that caught its cancellation and went on has failed all the same: what
 * it returned may be a part. Session-level advisory locks outlive transactions and errors: those that
 * the query took are released.
 */
static void
source_run(SourceQuery *query, const char *const *time_columns, SourceReader read, void *arg)
{
	SourceLocks *locks;
	ErrorData *error;

	/* The functions that call this take the role from their caller. */
	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("only superusers may run the query of a source directly"),
						errhint("Call ecstats_collect.")));
	locks = ecstats_source_locks();
	error = run_undone(query, time_columns, read, arg);
	ecstats_source_unlock(locks);
	if (timed_out && (error == NULL || error->sqlerrcode == ERRCODE_QUERY_CANCELED))
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
						errmsg("query of source \"%s\" was canceled by its time-out of %d ms",
							   query->source, query->timeout_ms),
						errhint("Make it faster, or raise ecstats.sources.timeout.")));
	if (error != NULL)
		ReThrowError(error);
}

/*
 * query_from_arguments reads (source, owner, query, from, to, timezone, timeout_ms) from position at.
 */
static SourceQuery
query_from_arguments(FunctionCallInfo fcinfo, int at)
{
	SourceQuery query;

	query.source = text_to_cstring(PG_GETARG_TEXT_PP(at));
	query.owner = PG_GETARG_OID(at + 1);
	query.text = text_to_cstring(PG_GETARG_TEXT_PP(at + 2));
	query.bounds[0] = PG_GETARG_DATUM(at + 3);
	query.bounds[1] = PG_GETARG_DATUM(at + 4);
	query.timezone = text_to_cstring(PG_GETARG_TEXT_PP(at + 5));
	query.timeout_ms = PG_GETARG_INT32(at + 6);
	query.portal = NULL;
	return query;
}

/* ------------------------------------------------------------------ rows */

/* Rows on their way to batches. */
typedef struct SourceBatches
{
	EcstatsRows *rows;
	SourceMap *map;
	const char *target;
	MemoryContext context; /* of one batch */
	Jsonb *elements[SOURCE_BATCH_ROWS];
	int n_elements;
	Size bytes;
} SourceBatches;

/* Where the executor sends rows. */
typedef struct SourceReceiver
{
	DestReceiver pub;
	SourceBatches *batches;
} SourceReceiver;

/*
 * emit_batch hands the elements there are on as one array.
 */
static void
emit_batch(SourceBatches *batches)
{
	EcstatsJsonbBuild build = {0};
	Datum value;
	bool null = false;
	int i;

	if (batches->n_elements == 0)
		return;
	ecstats_jsonb_push(&build, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < batches->n_elements; i++)
	{
		JsonbValue v;

		v.type = jbvBinary;
		v.val.binary.data = &batches->elements[i]->root;
		v.val.binary.len = VARSIZE(batches->elements[i]) - VARHDRSZ;
		ecstats_jsonb_push(&build, WJB_ELEM, &v);
	}
	ecstats_jsonb_push(&build, WJB_END_ARRAY, NULL);
	value = JsonbPGetDatum(JsonbValueToJsonb(build.result));
	ecstats_rows_add(batches->rows, &value, &null);
	batches->n_elements = 0;
	batches->bytes = 0;
	MemoryContextReset(batches->context);
}

/*
 * receive_row makes an element of a row as the executor brings it, and a batch when there are enough.
 */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	SourceBatches *batches = ((SourceReceiver *) self)->batches;
	MemoryContext old = MemoryContextSwitchTo(batches->context);
	bool copied;
	HeapTuple row = ExecFetchSlotHeapTuple(slot, false, &copied);
	Jsonb *element = ecstats_source_element(batches->map, row);

	if (copied)
		heap_freetuple(row);
	batches->elements[batches->n_elements++] = element;
	batches->bytes += VARSIZE(element);
	if (batches->n_elements == SOURCE_BATCH_ROWS || batches->bytes > SOURCE_BATCH_BYTES)
		emit_batch(batches);
	MemoryContextSwitchTo(old);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/*
 * receive_startup, receive_end: nothing to do.
 */
static void
receive_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
receive_end(DestReceiver *self)
{
}

/*
 * read_batches takes the rows one by one: only a row and a batch are in memory, however wide they are.
 */
static void
read_batches(SourceQuery *query, void *arg)
{
	SourceReceiver receiver = {{receive_row, receive_startup, receive_end, receive_end, DestNone},
							   arg};

	receiver.batches->map = ecstats_source_map(query->portal->tupDesc, receiver.batches->target);
	(void) PortalRunFetch(query->portal, FETCH_FORWARD, FETCH_ALL, &receiver.pub);
	emit_batch(receiver.batches);
}

/*
 * ecstats_source_rows(target, source, owner, query, from, to, timezone, timeout_ms) returns the rows of
 * the query as elements of the intake of events or orders, arrays of some hundred.
 */
Datum
ecstats_source_rows(PG_FUNCTION_ARGS)
{
	static const char *const event_times[] = {"event_time", "timestamp", NULL};
	static const char *const order_times[] = {"order_time", "timestamp", NULL};
	EcstatsRows rows = ecstats_rows_begin(fcinfo);
	SourceQuery query = query_from_arguments(fcinfo, 1);
	SourceBatches *batches = palloc0(sizeof(SourceBatches));

	batches->rows = &rows;
	batches->target = text_to_cstring(PG_GETARG_TEXT_PP(0));
	batches->context =
		AllocSetContextCreate(CurrentMemoryContext, "ecstats source", ALLOCSET_DEFAULT_SIZES);
	source_run(&query, strcmp(batches->target, "events") == 0 ? event_times : order_times,
			   read_batches, batches);
	MemoryContextDelete(batches->context);
	return (Datum) 0;
}

/* ------------------------------------------------------------------ the watermark */

typedef struct SourceInstant
{
	TimestampTz value;
	bool found;
} SourceInstant;

/*
 * read_instant reads the one instant that a watermark query returns.
 */
static void
read_instant(SourceQuery *query, void *arg)
{
	SourceInstant *instant = arg;
	TupleDesc desc = query->portal->tupDesc;
	Datum value;
	bool null;
	Oid type;

	type = desc->natts == 1 ? TupleDescAttr(desc, 0)->atttypid : InvalidOid;
	if (type != TIMESTAMPTZOID && type != TIMESTAMPOID && type != DATEOID)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("watermark query does not return one instant"),
						errhint("Return one row of one column: timestamptz, timestamp or date.")));
	SPI_cursor_fetch(query->portal, true, 2);
	if (SPI_processed > 1)
		ereport(ERROR, (errcode(ERRCODE_CARDINALITY_VIOLATION),
						errmsg("watermark query returns more than one row"),
						errhint("Return one row of one column: timestamptz, timestamp or date.")));
	if (SPI_processed == 0)
		return;
	value = SPI_getbinval(SPI_tuptable->vals[0], desc, 1, &null);
	if (null)
		return;
	if (type == TIMESTAMPOID)
		value = DirectFunctionCall1(timestamp_timestamptz, value);
	else if (type == DATEOID)
		value = DirectFunctionCall1(date_timestamptz, value);
	instant->value = DatumGetTimestampTz(value);
	instant->found = !TIMESTAMP_NOT_FINITE(instant->value);
}

/*
 * ecstats_source_instant(source, owner, query, from, to, timezone, timeout_ms) returns what the
 * watermark query of a source says; NULL where it says nothing.
 */
Datum
ecstats_source_instant(PG_FUNCTION_ARGS)
{
	static const char *const none[] = {NULL};
	SourceQuery query = query_from_arguments(fcinfo, 0);
	SourceInstant instant = {0};

	source_run(&query, none, read_instant, &instant);
	if (!instant.found)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(instant.value);
}
