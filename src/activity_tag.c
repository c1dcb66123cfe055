/*
 * activity_tag.c
 *		What a tag's rule may be: a jsonpath predicate over columns of ecstats.user_profile. A rule is
 *		walked before it is stored: one that asks for a name that no profile has would never hold, and
 *		nobody would be told.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"

#include "activity_tag.h"
#include "compat.h"
#include "ecstats.h"
#include "errors.h"

#define MAX_RULE_BYTES 4096 /* of a rule as it is stored */

/* What a profile's columns are in JSON. */
typedef enum ColumnKind
{
	COLUMN_TEXT,
	COLUMN_DATE,
	COLUMN_NUMBER
} ColumnKind;

typedef struct Column
{
	const char *name;
	ColumnKind kind;
} Column;

/* The columns of ecstats.user_profile in its order; the regress test tags holds them against the view. */
static const Column columns[] = {{"user_id", COLUMN_TEXT},
								 {"as_of", COLUMN_DATE},
								 {"score", COLUMN_NUMBER},
								 {"previous_score", COLUMN_NUMBER},
								 {"level", COLUMN_TEXT},
								 {"previous_level", COLUMN_TEXT},
								 {"last_active_day", COLUMN_DATE},
								 {"days_silent", COLUMN_NUMBER},
								 {"active_days", COLUMN_NUMBER},
								 {"first_seen", COLUMN_DATE},
								 {"days_known", COLUMN_NUMBER},
								 {"last_high_day", COLUMN_DATE},
								 {"days_since_high", COLUMN_NUMBER},
								 {"order_count", COLUMN_NUMBER},
								 {"paid_amount", COLUMN_NUMBER},
								 {"last_order_day", COLUMN_DATE},
								 {"days_since_order", COLUMN_NUMBER},
								 {"r", COLUMN_NUMBER},
								 {"f", COLUMN_NUMBER},
								 {"m", COLUMN_NUMBER},
								 {"favourite_channel", COLUMN_TEXT},
								 {"favourite_region", COLUMN_TEXT},
								 {"segment", COLUMN_TEXT}};

/* What a part of a path can stand for, as a set. */
#define IS_PROFILE 1 /* the whole of it */
#define IS_VALUE   2 /* a column's, or anything else that has no members */
#define IS_PAIR	   4 /* what .keyvalue() makes of each member */
#define IS_UNKNOWN 8 /* what a later PostgreSQL may make of it */

/* One walk through a rule. */
typedef struct Walk
{
	TagColumns *asked;
	bool try_templates;
	const char *last; /* the name that the path has just asked for; NULL: none */
	int last_len;
} Walk;

PG_FUNCTION_INFO_V1(ecstats_tag_check);
PG_FUNCTION_INFO_V1(ecstats_tag_columns);
PG_FUNCTION_INFO_V1(ecstats_tag_columns_all);

static int walk_path(Walk *walk, JsonPathItem *item, int current);
static void try_template(JsonPathItem *item);

/* ecstats_tag_column_count returns how many columns a profile has. */
int
ecstats_tag_column_count(void)
{
	StaticAssertStmt(lengthof(columns) <= TAG_MAX_COLUMNS, "too many columns");
	return lengthof(columns);
}

/* ecstats_tag_column_find returns the place of a column, or -1. */
int
ecstats_tag_column_find(const char *name, int len)
{
	int i;

	for (i = 0; i < (int) lengthof(columns); i++)
		if (strlen(columns[i].name) == (size_t) len && memcmp(columns[i].name, name, len) == 0)
			return i;
	return -1;
}

/* ---------------------------------------------------------------- refusals */

static void refuse(int sqlstate, const char *message, char *detail, const char *hint)
	pg_attribute_noreturn();

static void
refuse(int sqlstate, const char *message, char *detail, const char *hint)
{
	EcstatsFault fault = {sqlstate, "rule", pstrdup(message), detail, hint};

	ecstats_fault_raise(&fault, "tag_rules", "tag_rules_rule_valid");
}

/* refuse_name says that a profile has no such column, and which it has. */
static void
refuse_name(const char *name, int len)
{
	StringInfoData known;
	int i;

	initStringInfo(&known);
	appendStringInfoString(&known, "A profile has ");
	for (i = 0; i < (int) lengthof(columns); i++)
		appendStringInfo(&known, "%s%s", i > 0 ? ", " : "", columns[i].name);
	appendStringInfoChar(&known, '.');
	refuse(ERRCODE_UNDEFINED_COLUMN, "the rule asks for a column that no profile has",
		   ecstats_shown(name, len), known.data);
}

/* refuse_below says that what the path has come to has nothing below it. */
static void
refuse_below(const Walk *walk, const char *name, int len)
{
	char *detail = ecstats_shown(name, len);

	if (walk->last != NULL)
		detail = psprintf("%s Asked of \"%s\".", detail, pnstrdup(walk->last, walk->last_len));
	refuse(ERRCODE_UNDEFINED_COLUMN, "the rule asks for a member of a value that has none", detail,
		   "A column of a profile is a string, a number or null: compare it itself, as in "
		   "$.level == \"high\".");
}

static void
refuse_variable(JsonPathItem *item)
{
	int32 len;
	char *name = jspGetString(item, &len);

	refuse(ERRCODE_UNDEFINED_OBJECT, "the rule has a variable", ecstats_shown(name, len),
		   "Rules are given no variables: write the value itself.");
}

/* ---------------------------------------------------------------- the walk */

static void
ask_all(Walk *walk)
{
	int i;

	for (i = 0; i < (int) lengthof(columns); i++)
		walk->asked->has[i] = true;
}

/* walk_key takes note of a name that is asked of what the path has come to. */
static int
walk_key(Walk *walk, JsonPathItem *item, int what)
{
	int32 len;
	char *name = jspGetString(item, &len);
	bool found = (what & IS_UNKNOWN) != 0;

	if (what & (IS_PROFILE | IS_UNKNOWN))
	{
		int column = ecstats_tag_column_find(name, len);

		if (column >= 0)
			walk->asked->has[column] = found = true;
	}
	if (what & IS_PAIR)
		found = found || (len == 3 && memcmp(name, "key", 3) == 0) ||
				(len == 5 && memcmp(name, "value", 5) == 0) ||
				(len == 2 && memcmp(name, "id", 2) == 0);
	if (!found)
	{
		if (what & (IS_PROFILE | IS_PAIR))
			refuse_name(name, len);
		refuse_below(walk, name, len);
	}
	walk->last = name;
	walk->last_len = len;
	return IS_VALUE | (what & IS_UNKNOWN);
}

/* walk_any_key does so for .* and .**: every member, and with .** what they are members of. */
static int
walk_any_key(Walk *walk, JsonPathItem *item, int what)
{
	int result = IS_VALUE | (what & IS_UNKNOWN);

	if (item->type == jpiAny)
	{
		if (item->content.anybounds.first == 0)
			result |= what;
	}
	else if ((what & ~IS_VALUE) == 0)
		refuse_below(walk, "*", 1);
	ask_all(walk);
	walk->last = NULL;
	return result;
}

/* walk_subscripts looks at what is between brackets. Without strict, a value is an array of itself. */
static void
walk_subscripts(Walk *walk, JsonPathItem *item, int what)
{
	int i;

	for (i = 0; i < item->content.array.nelems; i++)
	{
		JsonPathItem from;
		JsonPathItem to;
		bool range = jspGetArraySubscript(item, &from, &to, i);

		(void) walk_path(walk, &from, what);
		if (range)
			(void) walk_path(walk, &to, what);
	}
}

/* walk_operands looks at both sides of an operator. */
static void
walk_operands(Walk *walk, JsonPathItem *item, int current)
{
	JsonPathItem side;

	jspGetLeftArg(item, &side);
	(void) walk_path(walk, &side, current);
	jspGetRightArg(item, &side);
	(void) walk_path(walk, &side, current);
}

/* is_value tells whether an item is a value by itself, or makes one of whatever stands before it. */
static bool
is_value(JsonPathItemType type)
{
	switch (type)
	{
		case jpiNull:
		case jpiString:
		case jpiNumeric:
		case jpiBool:
		case jpiLast:
		case jpiType:
		case jpiSize:
		case jpiAbs:
		case jpiFloor:
		case jpiCeiling:
		case jpiDouble:
		case jpiDatetime:
			return true;
		default:
			return false;
	}
}

/*
 * walk_item returns what one item makes of what stands before it in its path (what; of a path's first
 * item, nothing). current is what @ stands for.
 */
static int
walk_item(Walk *walk, JsonPathItem *item, int what, int current)
{
	JsonPathItem part;

	switch (item->type)
	{
		case jpiRoot:
			return IS_PROFILE;
		case jpiCurrent:
			return current;
		case jpiKey:
			return walk_key(walk, item, what);
		case jpiAnyKey:
		case jpiAny:
			return walk_any_key(walk, item, what);
		case jpiVariable:
			refuse_variable(item);
			return IS_UNKNOWN;
		case jpiFilter:
			jspGetArg(item, &part);
			(void) walk_path(walk, &part, what);
			return what;
		case jpiAnyArray:
			return what;
		case jpiIndexArray:
			walk_subscripts(walk, item, what);
			return what;
		case jpiKeyValue:
			ask_all(walk);
			return IS_PAIR;
		case jpiAnd:
		case jpiOr:
		case jpiEqual:
		case jpiNotEqual:
		case jpiLess:
		case jpiGreater:
		case jpiLessOrEqual:
		case jpiGreaterOrEqual:
		case jpiAdd:
		case jpiSub:
		case jpiMul:
		case jpiDiv:
		case jpiMod:
		case jpiStartsWith:
			walk_operands(walk, item, current);
			return IS_VALUE;
		case jpiNot:
		case jpiIsUnknown:
		case jpiExists:
		case jpiPlus:
		case jpiMinus:
			jspGetArg(item, &part);
			(void) walk_path(walk, &part, current);
			return IS_VALUE;
		case jpiLikeRegex:
			jspInitByBuffer(&part, item->base, item->content.like_regex.expr);
			(void) walk_path(walk, &part, current);
			return IS_VALUE;
		case jpiDatetime:
			if (walk->try_templates && item->content.arg != 0)
				try_template(item);
			return IS_VALUE;
		default:
			if (is_value(item->type))
				return IS_VALUE;
			/* Of a later PostgreSQL: it may look at anything. */
			ask_all(walk);
			return IS_UNKNOWN;
	}
}

/* walk_path walks along a path and returns what it comes to. */
static int
walk_path(Walk *walk, JsonPathItem *item, int current)
{
	const Walk before = *walk;
	JsonPathItem at = *item;
	JsonPathItem next;
	int what = 0;

	check_stack_depth();
	walk->last = NULL;
	what = walk_item(walk, &at, what, current);
	while (jspGetNext(&at, &next))
	{
		at = next;
		what = walk_item(walk, &at, what, current);
	}
	/* The path that this one stands in goes on. */
	*walk = before;
	return what;
}

/* is_predicate tells whether an item is either true or false, and nothing is made of that. */
static bool
is_predicate(JsonPathItem *item)
{
	if (jspHasNext(item))
		return false;
	switch (item->type)
	{
		case jpiAnd:
		case jpiOr:
		case jpiNot:
		case jpiIsUnknown:
		case jpiEqual:
		case jpiNotEqual:
		case jpiLess:
		case jpiGreater:
		case jpiLessOrEqual:
		case jpiGreaterOrEqual:
		case jpiExists:
		case jpiStartsWith:
		case jpiLikeRegex:
			return true;
		default:
			return false;
	}
}

/*
 * walk_rule sets the columns that a rule asks for, or raises what is wrong with it; with try_templates
 * also what is wrong with templates of .datetime().
 */
static void
walk_rule(JsonPath *rule, TagColumns *asked, bool try_templates)
{
	Walk walk = {asked, try_templates};
	JsonPathItem root;

	memset(asked, 0, sizeof(*asked));
	if (VARSIZE(rule) > MAX_RULE_BYTES)
		refuse(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the rule is too long",
			   psprintf("It takes %u bytes as it is stored; the most is %d.", VARSIZE(rule),
						MAX_RULE_BYTES),
			   "Make several tags of it.");
	jspInit(&root, rule);
	(void) walk_path(&walk, &root, IS_PROFILE);
	if (!is_predicate(&root))
	{
		char *text = DatumGetCString(DirectFunctionCall1(jsonpath_out, PointerGetDatum(rule)));

		refuse(ERRCODE_INVALID_PARAMETER_VALUE,
			   "the rule gives values, and does not say whether something holds",
			   ecstats_shown(text, strlen(text)),
			   "Compare, as in $.level == \"high\", or ask whether there is something, as in "
			   "exists($ ? (@.score > 1)).");
	}
}

/* ecstats_tag_rule_walk sets the columns that a rule asks for, or raises what is wrong with it. */
void
ecstats_tag_rule_walk(JsonPath *rule, TagColumns *asked)
{
	walk_rule(rule, asked, false);
}

/* ---------------------------------------------------------------- a trial */

/* ecstats_tag_empty_object returns the variables of a rule: none. */
Jsonb *
ecstats_tag_empty_object(void)
{
	JsonbValue object = {jbvObject};

	return JsonbValueToJsonb(&object);
}

/*
 * ecstats_tag_rule_holds tells whether a rule holds for a profile. Where it has no answer, or one that is
 * an error of SQL/JSON (a number divided by zero, a text that is no date), it does not. Times with a zone
 * are compared with dates in the session's zone.
 */
bool
ecstats_tag_rule_holds(Jsonb *profile, JsonPath *rule, Jsonb *no_variables)
{
	LOCAL_FCINFO(call, 4);
	Datum result;

	InitFunctionCallInfoData(*call, NULL, 4, InvalidOid, NULL, NULL);
	call->args[0].value = JsonbPGetDatum(profile);
	call->args[0].isnull = false;
	call->args[1].value = PointerGetDatum(rule);
	call->args[1].isnull = false;
	call->args[2].value = JsonbPGetDatum(no_variables);
	call->args[2].isnull = false;
	call->args[3].value = BoolGetDatum(true); /* silent */
	call->args[3].isnull = false;
	result = jsonb_path_match_tz(call);
	return !call->isnull && DatumGetBool(result);
}

/*
 * try_template raises what PostgreSQL has against the template of a .datetime(): it says so where it
 * comes to it alone, which may be with one user in a million.
 */
static void
try_template(JsonPathItem *item)
{
	JsonbValue day = {jbvString};
	JsonPathItem template;
	StringInfoData path;
	Datum rule;

	jspGetArg(item, &template);
	initStringInfo(&path);
	appendStringInfoString(&path, "exists($.datetime(");
	escape_json(&path, jspGetString(&template, NULL));
	appendStringInfoString(&path, "))");
	rule = DirectFunctionCall1(jsonpath_in, CStringGetDatum(path.data));
	day.val.string.val = "2026-01-01";
	day.val.string.len = strlen(day.val.string.val);
	(void) ecstats_tag_rule_holds(JsonbValueToJsonb(&day), DatumGetJsonPathP(rule),
								  ecstats_tag_empty_object());
}

/* sample_profile returns a profile that could be somebody's. */
static Jsonb *
sample_profile(void)
{
	EcstatsJsonbBuild build = {NULL, NULL};
	JsonbValue value;
	int i;

	ecstats_jsonb_push(&build, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < (int) lengthof(columns); i++)
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, columns[i].name);
		value.val.string.len = strlen(columns[i].name);
		ecstats_jsonb_push(&build, WJB_KEY, &value);
		if (columns[i].kind == COLUMN_NUMBER)
		{
			value.type = jbvNumeric;
			value.val.numeric = int64_to_numeric(1);
		}
		else
		{
			value.val.string.val = columns[i].kind == COLUMN_DATE ? "2026-01-01" : "x";
			value.val.string.len = strlen(value.val.string.val);
		}
		ecstats_jsonb_push(&build, WJB_VALUE, &value);
	}
	ecstats_jsonb_push(&build, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(build.result);
}

/* ---------------------------------------------------------------- SQL */

/*
 * ecstats_tag_check is SQL's ecstats.tag_check(rule), the CHECK of ecstats.tag_rules. The rule is tried
 * once: some mistakes are errors of PostgreSQL only when they are come to, and one that takes for ever
 * does so here and not at night. Templates of .datetime() are tried wherever they stand: one that is
 * wrong would leave everybody without tags and scores. Not what a dump brings back.
 */
Datum
ecstats_tag_check(PG_FUNCTION_ARGS)
{
	JsonPath *rule = PG_GETARG_JSONPATH_P(0);
	TagColumns asked;
	bool trying = !ecstats_restoring();

	walk_rule(rule, &asked, trying);
	if (trying)
		(void) ecstats_tag_rule_holds(sample_profile(), rule, ecstats_tag_empty_object());
	PG_RETURN_BOOL(true);
}

/* column_names returns the names of columns that are in a set, in their order; NULL: of all. */
static ArrayType *
column_names(const TagColumns *some)
{
	Datum names[TAG_MAX_COLUMNS];
	int count = 0;
	int i;

	for (i = 0; i < (int) lengthof(columns); i++)
		if (some == NULL || some->has[i])
			names[count++] = CStringGetTextDatum(columns[i].name);
	return construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT);
}

/* ecstats_tag_columns is SQL's ecstats.tag_columns(rule): what it asks for. */
Datum
ecstats_tag_columns(PG_FUNCTION_ARGS)
{
	TagColumns asked;

	ecstats_tag_rule_walk(PG_GETARG_JSONPATH_P(0), &asked);
	PG_RETURN_ARRAYTYPE_P(column_names(&asked));
}

/* ecstats_tag_columns_all is SQL's ecstats.tag_columns(): what a rule may ask for. */
Datum
ecstats_tag_columns_all(PG_FUNCTION_ARGS)
{
	PG_RETURN_ARRAYTYPE_P(column_names(NULL));
}
