/*
 * landing.c
 *		From a landing table of logical replication to ecstats.pipeline_land (56_pipeline_cdc.sql).
 *
 * Two rights meet here. A row becomes JSON with the rights of whoever applies it, since that may call
 * casts of the table's owner. What is done with the JSON needs the rights of the extension's owner,
 * and must not be anybody's to call: whoever could, could speak for a table that is not theirs. So
 * nobody is granted ecstats.pipeline_land. It is called from here alone, where the row and the
 * table's name are those of the trigger or of a table that the caller owns; being SECURITY DEFINER,
 * it changes the user by itself.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "ecstats.h"

#define FETCH_ROWS 1000

/* The functions that every row is handed to, looked up once a statement. */
typedef struct Lander
{
	FmgrInfo land;
	FmgrInfo to_json; /* of rows of the trigger's table */
} Lander;

/* A mapping or a row that may be absent. */
typedef struct Argument
{
	Datum value;
	bool isnull;
} Argument;

static const Argument absent = {(Datum) 0, true};

PG_FUNCTION_INFO_V1(ecstats_land_order);
PG_FUNCTION_INFO_V1(ecstats_land_rows);

static Lander *lander_get(FmgrInfo *flinfo, Oid row_type);
static int64 land(Lander *lander, const char *table, Argument old_mapping, Argument old_row,
				  Argument new_mapping, Argument new_row);
static int64 land_rows(Lander *lander, Oid relid, Argument old_mapping, Argument new_mapping);
static char *table_name(Oid relid);
static Argument trigger_mapping(const Trigger *trigger);
static bool ignores_deletes(const Trigger *trigger);
static Argument row_json(Lander *lander, HeapTuple tuple, TupleDesc desc);
static Argument argument_get(FunctionCallInfo fcinfo, int number);

/*
 * ecstats_land_order is the trigger of a landing table, AFTER INSERT OR UPDATE OR DELETE for each row
 * and BEFORE TRUNCATE for the statement. Its arguments are the mapping. Whoever fires it needs
 * EXECUTE on it (profile writer), so that taking the profile away stops what was attached with it.
 */
Datum
ecstats_land_order(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	AclResult acl;
	Relation rel;
	TupleDesc desc;
	Argument mapping;
	Argument old_row = absent;
	Argument new_row = absent;
	Lander *lander;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("pipeline_land_order is a trigger of landing tables"),
						errhint("SELECT ecstats_land_orders('the_table', …) attaches it.")));
	acl = ecstats_function_aclcheck(fcinfo->flinfo->fn_oid, GetUserId());
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FUNCTION, get_func_name(fcinfo->flinfo->fn_oid));

	rel = data->tg_relation;
	desc = RelationGetDescr(rel);
	mapping = trigger_mapping(data->tg_trigger);
	lander = lander_get(fcinfo->flinfo, rel->rd_rel->reltype);
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
	{
		if (!ignores_deletes(data->tg_trigger))
			(void) land_rows(lander, RelationGetRelid(rel), mapping, absent);
		return PointerGetDatum(NULL);
	}
	if (!TRIGGER_FIRED_FOR_ROW(data->tg_event) || !TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("pipeline_land_order fires after each row"),
						errhint("SELECT ecstats_land_orders('the_table', …) attaches it.")));

	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		new_row = row_json(lander, data->tg_trigtuple, desc);
	else if (!TRIGGER_FIRED_BY_DELETE(data->tg_event) || !ignores_deletes(data->tg_trigger))
		old_row = row_json(lander, data->tg_trigtuple, desc);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		new_row = row_json(lander, data->tg_newtuple, desc);
	if (!old_row.isnull || !new_row.isnull)
		(void) land(lander, table_name(RelationGetRelid(rel)), mapping, old_row, mapping, new_row);
	return PointerGetDatum(NULL);
}

/*
 * ecstats_land_rows(landing regclass, old_mapping text[], new_mapping text[]) returns bigint: takes
 * every row of a table of the caller's from one mapping to another, and returns how many lines changed.
 */
Datum
ecstats_land_rows(PG_FUNCTION_ARGS)
{
	Oid relid;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a landing table and its mappings are needed")));
	relid = PG_GETARG_OID(0);
	if (get_rel_name(relid) == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("there is no such table"),
						errdetail("OID: %u.", relid)));
	if (!ecstats_table_ownercheck(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
	PG_RETURN_INT64(land_rows(lander_get(fcinfo->flinfo, get_rel_type_id(relid)), relid,
							  argument_get(fcinfo, 1), argument_get(fcinfo, 2)));
}

/*
 * lander_get looks the functions up, or returns what it found for this call's statement.
 */
static Lander *
lander_get(FmgrInfo *flinfo, Oid row_type)
{
	Oid types[] = {TEXTOID, TEXTARRAYOID, JSONBOID, TEXTARRAYOID, JSONBOID};
	Lander *lander = (Lander *) flinfo->fn_extra;
	MemoryContext old;
	Node *row;

	if (lander != NULL)
		return lander;
	old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	lander = palloc0(sizeof(Lander));
	fmgr_info_cxt(LookupFuncName(list_make2(makeString("ecstats"), makeString("pipeline_land")),
								 lengthof(types), types, false),
				  &lander->land, flinfo->fn_mcxt);
	fmgr_info_cxt(F_TO_JSONB, &lander->to_json, flinfo->fn_mcxt);
	/* It asks its call what type it is given. */
	row = (Node *) makeNullConst(row_type, -1, InvalidOid);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(row), InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL),
					   &lander->to_json);
	MemoryContextSwitchTo(old);
	flinfo->fn_extra = lander;
	return lander;
}

/*
 * land calls ecstats.pipeline_land; returns lines changed.
 */
static int64
land(Lander *lander, const char *table, Argument old_mapping, Argument old_row,
	 Argument new_mapping, Argument new_row)
{
	LOCAL_FCINFO(call, 5);
	Argument arguments[5];
	Datum lines;
	int i;

	arguments[0].value = CStringGetTextDatum(table);
	arguments[0].isnull = false;
	arguments[1] = old_mapping;
	arguments[2] = old_row;
	arguments[3] = new_mapping;
	arguments[4] = new_row;
	InitFunctionCallInfoData(*call, &lander->land, lengthof(arguments), InvalidOid, NULL, NULL);
	for (i = 0; i < lengthof(arguments); i++)
	{
		call->args[i].value = arguments[i].value;
		call->args[i].isnull = arguments[i].isnull;
	}
	lines = FunctionCallInvoke(call);
	return call->isnull ? 0 : DatumGetInt64(lines);
}

/*
 * land_rows takes every row of a table from one mapping to another; without a new one, the rows are no
 * more. The rows are read with the caller's rights.
 */
static int64
land_rows(Lander *lander, Oid relid, Argument old_mapping, Argument new_mapping)
{
	char *table = table_name(relid);
	MemoryContext chunk;
	MemoryContext old;
	int64 lines = 0;
	Portal portal;
	uint64 i;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	chunk = AllocSetContextCreate(CurrentMemoryContext, "ecstats landing", ALLOCSET_DEFAULT_SIZES);
	/* t.*: a table may have a column t. */
	portal = SPI_cursor_open_with_args(
		NULL, psprintf("SELECT pg_catalog.to_jsonb(t.*) FROM ONLY %s t", table), 0, NULL, NULL,
		NULL, true, CURSOR_OPT_NO_SCROLL);
	for (;;)
	{
		SPITupleTable *rows;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		rows = SPI_tuptable;
		old = MemoryContextSwitchTo(chunk);
		for (i = 0; i < rows->numvals; i++)
		{
			Argument row;

			row.value = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &row.isnull);
			lines += land(lander, table, old_mapping, row, new_mapping,
						  new_mapping.isnull ? absent : row);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	return lines;
}

/*
 * table_name returns the qualified name of a table, quoted as format's %I does.
 */
static char *
table_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/*
 * trigger_mapping returns the arguments of a trigger as text[].
 */
static Argument
trigger_mapping(const Trigger *trigger)
{
	Datum *entries = palloc(sizeof(Datum) * Max(trigger->tgnargs, 1));
	Argument mapping;
	int i;

	for (i = 0; i < trigger->tgnargs; i++)
		entries[i] = CStringGetTextDatum(trigger->tgargs[i]);
	mapping.value = PointerGetDatum(
		construct_array(entries, trigger->tgnargs, TEXTOID, -1, false, TYPALIGN_INT));
	mapping.isnull = false;
	return mapping;
}

/*
 * ignores_deletes tells whether what is deleted from the table keeps its line.
 */
static bool
ignores_deletes(const Trigger *trigger)
{
	int i;

	for (i = 0; i < trigger->tgnargs; i++)
		if (strcmp(trigger->tgargs[i], "deletes=ignore") == 0)
			return true;
	return false;
}

/*
 * row_json returns a row of the trigger's table as jsonb.
 */
static Argument
row_json(Lander *lander, HeapTuple tuple, TupleDesc desc)
{
	Argument json;

	json.value = FunctionCall1(&lander->to_json, heap_copy_tuple_as_datum(tuple, desc));
	json.isnull = false;
	return json;
}

/*
 * argument_get returns an argument of a call, NULL or not.
 */
static Argument
argument_get(FunctionCallInfo fcinfo, int number)
{
	Argument argument;

	argument.isnull = PG_ARGISNULL(number);
	argument.value = argument.isnull ? (Datum) 0 : PG_GETARG_DATUM(number);
	return argument;
}
