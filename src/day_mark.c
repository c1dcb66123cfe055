/*
 * day_mark.c
 *		Which days changed, without a cost on intake.
 *
 * The CHECKs and triggers only note, in this backend's memory, the days of the rows that they saw.
 * At pre-commit, when every transaction id exists that will exist, one mark is written for each noted
 * day that has ended by the clock; it commits with the rows. The running day needs none: it will be
 * computed anyway. (A mark at CHECK time would be wrong: in a long COPY rows are checked long before
 * they commit, and a close in between would take the mark without the rows.)
 *
 * What is left is a transaction that passed here before the day's end and becomes visible after the
 * close: the close remembers its snapshot for that (43_rollup.sql).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"

PG_FUNCTION_INFO_V1(ecstats_row_changed);
PG_FUNCTION_INFO_V1(ecstats_day_noted);

/* The days that this transaction saw; a set, in a context that lives as long as the transaction. */
static bool any_noted = false;
static DateADT first_noted;		/* most transactions see one day: that one needs no set */
static HTAB *noted_days = NULL; /* the others */
static DateADT last_noted;		/* the day noted last: rows come in runs */
static DateADT earliest_noted;
static bool suppressed = false; /* GUC ecstats.suppress_marks, set by the mover of strays */

/* ecstats.day_marks, where it is known to be there; InvalidOid: look. */
static Oid marks_relid = InvalidOid;

static void write_marks(void);

/*
 * noted_days_create makes the set, in TopTransactionContext.
 */
static void
noted_days_create(void)
{
	HASHCTL ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(DateADT);
	ctl.entrysize = sizeof(DateADT);
	ctl.hcxt = TopTransactionContext;
	noted_days = hash_create("ecstats noted days", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * ecstats_restoring tells whether this session loads a dump: pg_dump's scripts switch
 * check_function_bodies off and empty the search path. Anybody may set both: only a session that began
 * as superuser is believed.
 */
bool
ecstats_restoring(void)
{
	return !check_function_bodies && namespace_search_path[0] == '\0' &&
		   superuser_arg(GetSessionUserId());
}

/*
 * ecstats_day_note remembers that a row of the day of ts was written, changed or removed by this
 * transaction. Silent during a restore: the marks of the dumped database are restored as rows.
 */
void
ecstats_day_note(TimestampTz ts)
{
	DateADT day;

	if (TIMESTAMP_NOT_FINITE(ts) || suppressed || XactReadOnly || RecoveryInProgress() ||
		ecstats_restoring())
		return;
	day = ecstats_day_of(ts);
	if (any_noted && day == last_noted)
		return;
	if (!any_noted)
		first_noted = earliest_noted = day;
	else if (day != first_noted)
	{
		if (noted_days == NULL)
			noted_days_create();
		hash_search(noted_days, &day, HASH_ENTER, NULL);
	}
	any_noted = true;
	last_noted = day;
	earliest_noted = Min(earliest_noted, day);
}

/*
 * forget_days empties the set; its memory goes with the transaction.
 */
static void
forget_days(void)
{
	any_noted = false;
	noted_days = NULL;
}

/*
 * at_relation_change forgets what is known of a relation whose definition changed (InvalidOid: of all), as
 * it does where the extension is dropped.
 */
static void
at_relation_change(Datum arg, Oid relid)
{
	if (relid == marks_relid || relid == InvalidOid)
		marks_relid = InvalidOid;
	ecstats_drop_guard_changed(relid);
}

/*
 * at_xact_event writes the marks at pre-commit or pre-prepare and forgets them at the end.
 */
static void
at_xact_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (any_noted || ecstats_drop_guard_wanted())
				ecstats_drop_guard_ensure();
			if (any_noted)
				write_marks();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			forget_days();
			ecstats_drop_guard_forget();
			break;
		default:
			break;
	}
}

/*
 * ecstats_day_mark_init registers the callbacks and the switch of the mover.
 */
void
ecstats_day_mark_init(void)
{
	DefineCustomBoolVariable("ecstats.suppress_marks",
							 "Rows are moved, not changed: their days need not be computed again.",
							 NULL, &suppressed, false, PGC_SUSET,
							 GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	RegisterXactCallback(at_xact_event, NULL);
	CacheRegisterRelcacheCallback(at_relation_change, (Datum) 0);
}

/*
 * write_mark appends the row of one day.
 */
static void
write_mark(Relation rel, DateADT day)
{
	TupleDesc desc = RelationGetDescr(rel);
	Datum *values = palloc0(sizeof(Datum) * desc->natts);
	bool *nulls = palloc(sizeof(bool) * desc->natts);
	HeapTuple tuple;

	memset(nulls, true, desc->natts);
	nulls[0] = false;
	values[0] = DateADTGetDatum(day);
	tuple = heap_form_tuple(desc, values, nulls);
	CatalogTupleInsert(rel, tuple); /* a plain insert that knows of indexes */
	heap_freetuple(tuple);
	pfree(values);
	pfree(nulls);
}

/*
 * write_marks appends one row to ecstats.day_marks for each noted day that has ended, and does not even open
 * it where none has. Marks are only ever appended, so that writers never wait for each other. The table
 * has no trigger: a plain insert, whatever role the inserter is.
 */
static void
write_marks(void)
{
	HASH_SEQ_STATUS seq;
	DateADT *entry;
	DateADT today;
	Relation rel;
	Oid relid = marks_relid; /* what follows may hear of changes */

	if (!OidIsValid(relid))
		relid = get_relname_relid("day_marks", get_namespace_oid("ecstats", true));
	marks_relid = relid;
	if (!OidIsValid(relid))
	{
		forget_days(); /* the extension was dropped in this transaction */
		return;
	}
	today = ecstats_day_of(GetCurrentTimestamp());
	if (earliest_noted < today)
	{
		rel = table_open(relid, RowExclusiveLock);
		if (first_noted < today)
			write_mark(rel, first_noted);
		if (noted_days != NULL)
		{
			hash_seq_init(&seq, noted_days);
			while ((entry = (DateADT *) hash_seq_search(&seq)) != NULL)
			{
				if (*entry < today)
					write_mark(rel, *entry);
			}
		}
		table_close(rel, NoLock);
	}
	forget_days();
}

/*
 * note_column notes the day of one timestamptz column of a row, by name.
 */
static void
note_column(HeapTuple tuple, TupleDesc desc, const char *column)
{
	int attno = SPI_fnumber(desc, column);
	bool isnull = true;
	Datum value;

	if (attno <= 0)
		elog(ERROR, "column \"%s\" is missing", column);
	value = heap_getattr(tuple, attno, desc, &isnull);
	if (!isnull)
		ecstats_day_note(DatumGetTimestampTz(value));
}

/*
 * ecstats_row_changed is the row trigger after DELETE or UPDATE; its arguments name the columns that
 * decide the row's days. New rows are seen by the CHECK, old ones only here.
 */
Datum
ecstats_row_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	int i;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		elog(ERROR, "ecstats_row_changed: not called as a row trigger");
	for (i = 0; i < trigdata->tg_trigger->tgnargs; i++)
		note_column(trigdata->tg_trigtuple, RelationGetDescr(trigdata->tg_relation),
					trigdata->tg_trigger->tgargs[i]);
	return PointerGetDatum(NULL);
}

/*
 * ecstats_day_noted() returns the days whose rows this transaction wrote, changed or removed: their
 * marks are written when it commits.
 */
Datum
ecstats_day_noted(PG_FUNCTION_ARGS)
{
	EcstatsRows result = ecstats_rows_begin(fcinfo);
	HASH_SEQ_STATUS seq;
	DateADT *entry;
	Datum value;
	bool null = false;

	if (any_noted)
	{
		value = DateADTGetDatum(first_noted);
		ecstats_rows_add(&result, &value, &null);
	}
	if (any_noted && noted_days != NULL)
	{
		hash_seq_init(&seq, noted_days);
		while ((entry = (DateADT *) hash_seq_search(&seq)) != NULL)
		{
			value = DateADTGetDatum(*entry);
			ecstats_rows_add(&result, &value, &null);
		}
	}
	return (Datum) 0;
}
