/*
 * source_map.c
 *		From the rows of a source's query to elements of the intake: columns by their names, values by
 *		their types. A value that breaks a rule is passed on as it is; the intake says what is wrong.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "errors.h"
#include "source.h"

/* A column of the query. */
typedef struct SourceColumn
{
	const char *member; /* its name in the element */
	bool of_line;		/* stands in the order's item */
	bool instant;		/* a time without a zone is the shop's clock */
	Oid type;			/* base type */
	FmgrInfo out;
} SourceColumn;

struct SourceMap
{
	TupleDesc desc;
	bool orders;
	SourceColumn *columns;
};

static const char *const line_members[] = {"line_no", "product_id", "quantity", "amount", NULL};
static const char *const instants[] = {"order_time", "paid_time", "event_time", "timestamp", NULL};

/*
 * is_among tells whether a name is one of a NULL-terminated list.
 */
static bool
is_among(const char *name, const char *const *names)
{
	for (; *names != NULL; names++)
	{
		if (strcmp(name, *names) == 0)
			return true;
	}
	return false;
}

/*
 * member_of says which member of an element a column becomes.
 */
static const char *
member_of(const char *column, bool orders)
{
	if (!orders && strcmp(column, "event_time") == 0)
		return "timestamp";
	if (orders && strcmp(column, "timestamp") == 0)
		return "order_time";
	return column;
}

/*
 * check_member refuses columns that would get into each other's way.
 */
static void
check_member(const SourceMap *map, int n)
{
	const char *column = NameStr(TupleDescAttr(map->desc, n)->attname);
	int i;

	if (map->orders && strcmp(column, "items") == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("query of a source returns a column \"items\""),
						errhint("Return a row a line, or name the column differently.")));
	for (i = 0; i < n; i++)
	{
		if (strcmp(map->columns[i].member, map->columns[n].member) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("query of a source returns \"%s\" twice", map->columns[n].member),
					 errdetail("Columns: %s and %s.", NameStr(TupleDescAttr(map->desc, i)->attname),
							   column),
					 errhint("Name them differently; what has no column of its own goes into "
							 "extra.")));
	}
}

/*
 * ecstats_source_map looks at the columns of a query; target is 'events' or 'orders'. Missing columns
 * are an error here, once, rather than a reject a row.
 */
SourceMap *
ecstats_source_map(TupleDesc desc, const char *target)
{
	static const char *const needed[2][5] = {
		{"timestamp", "user_id", "event", NULL},
		{"order_id", "order_time", "product_id", "quantity", "amount"}};
	SourceMap *map = palloc(sizeof(SourceMap));
	int i;
	int n;

	map->desc = desc;
	map->orders = strcmp(target, "orders") == 0;
	map->columns = palloc0(sizeof(SourceColumn) * Max(desc->natts, 1));
	for (i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);
		SourceColumn *column = &map->columns[i];
		Oid out;
		bool varlena;

		column->member = member_of(name, map->orders);
		column->of_line = map->orders && is_among(name, line_members);
		column->instant = is_among(name, instants);
		column->type = getBaseType(TupleDescAttr(desc, i)->atttypid);
		getTypeOutputInfo(column->type, &out, &varlena);
		fmgr_info(out, &column->out);
		check_member(map, i);
	}
	for (n = 0; n < 5 && needed[map->orders][n] != NULL; n++)
	{
		for (i = 0; i < desc->natts; i++)
		{
			if (strcmp(map->columns[i].member, needed[map->orders][n]) == 0)
				break;
		}
		if (i == desc->natts)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("query of a source returns no column \"%s\"",
								   map->orders || n > 0 ? needed[map->orders][n] : "event_time"),
							errhint("Columns are taken by name: write SELECT ... AS %s.",
									map->orders || n > 0 ? needed[map->orders][n] : "event_time")));
	}
	return map;
}

/*
 * put_text makes a JSON string; trailing blanks of char(n) are padding.
 */
static void
put_text(JsonbValue *v, char *s, Oid type)
{
	int len = strlen(s);

	while (type == BPCHAROID && len > 0 && s[len - 1] == ' ')
		len--;
	v->type = jbvString;
	v->val.string.val = s;
	v->val.string.len = len;
}

/*
 * put_number makes a JSON number, or a string of what is none (NaN, infinity).
 */
static void
put_number(JsonbValue *v, char *s)
{
	char *digit = s + (*s == '-');

	if (!isdigit((unsigned char) *digit))
	{
		put_text(v, s, TEXTOID);
		return;
	}
	v->type = jbvNumeric;
	v->val.numeric = DatumGetNumeric(DirectFunctionCall3(
		numeric_in, CStringGetDatum(s), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * put_time makes an ISO 8601 text; where an instant is meant, what has no zone is the shop's clock,
 * which is the session's TimeZone here.
 */
static void
put_time(JsonbValue *v, const SourceColumn *column, Datum value)
{
	char *buf = palloc(MAXDATELEN + 1);
	Oid type = column->type;

	if (column->instant && type == TIMESTAMPOID)
		value = DirectFunctionCall1(timestamp_timestamptz, value);
	else if (column->instant && type == DATEOID)
		value = DirectFunctionCall1(date_timestamptz, value);
	if (column->instant)
		type = TIMESTAMPTZOID;
	JsonEncodeDateTime(buf, value, type, NULL);
	put_text(v, buf, TEXTOID);
}

/*
 * put_jsonb embeds a document.
 */
static void
put_jsonb(JsonbValue *v, Jsonb *document)
{
	if (JB_ROOT_IS_SCALAR(document))
	{
		*v = *getIthJsonbValueFromContainer(&document->root, 0);
		return;
	}
	v->type = jbvBinary;
	v->val.binary.data = &document->root;
	v->val.binary.len = VARSIZE(document) - VARHDRSZ;
}

/*
 * put_value makes the JSON of a column's value, which is not NULL.
 */
static void
put_value(JsonbValue *v, SourceColumn *column, Datum value)
{
	switch (column->type)
	{
		case BOOLOID:
			v->type = jbvBool;
			v->val.boolean = DatumGetBool(value);
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case FLOAT4OID:
		case FLOAT8OID:
			put_number(v, OutputFunctionCall(&column->out, value));
			break;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			put_time(v, column, value);
			break;
		case JSONBOID:
			put_jsonb(v, DatumGetJsonbP(value));
			break;
		case JSONOID:
			put_jsonb(v, DatumGetJsonbP(DirectFunctionCall1(
							 jsonb_in, CStringGetDatum(OutputFunctionCall(&column->out, value)))));
			break;
		default:
			put_text(v, OutputFunctionCall(&column->out, value), column->type);
			break;
	}
}

/*
 * push_members pushes the columns of the order, or those of its line; a NULL is left out.
 */
static void
push_members(EcstatsJsonbBuild *build, const SourceMap *map, HeapTuple row, bool of_line)
{
	int i;

	for (i = 0; i < map->desc->natts; i++)
	{
		SourceColumn *column = &map->columns[i];
		JsonbValue key;
		JsonbValue value;
		bool null;
		Datum datum;

		if (column->of_line != of_line)
			continue;
		datum = heap_getattr(row, i + 1, map->desc, &null);
		if (null)
			continue;
		put_text(&key, (char *) column->member, TEXTOID);
		put_value(&value, column, datum);
		ecstats_jsonb_push(build, WJB_KEY, &key);
		ecstats_jsonb_push(build, WJB_VALUE, &value);
	}
}

/*
 * ecstats_source_element makes one element of a row: an event, or an order of one line.
 */
Jsonb *
ecstats_source_element(const SourceMap *map, HeapTuple row)
{
	EcstatsJsonbBuild build = {0};
	JsonbValue key;

	ecstats_jsonb_push(&build, WJB_BEGIN_OBJECT, NULL);
	push_members(&build, map, row, false);
	if (map->orders)
	{
		put_text(&key, "items", TEXTOID);
		ecstats_jsonb_push(&build, WJB_KEY, &key);
		ecstats_jsonb_push(&build, WJB_BEGIN_ARRAY, NULL);
		ecstats_jsonb_push(&build, WJB_BEGIN_OBJECT, NULL);
		push_members(&build, map, row, true);
		ecstats_jsonb_push(&build, WJB_END_OBJECT, NULL);
		ecstats_jsonb_push(&build, WJB_END_ARRAY, NULL);
	}
	ecstats_jsonb_push(&build, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(build.result);
}
