/*
 * activity_tag_match.c
 *		Which rules hold for a user. Called once a user with those columns of his profile that the rules ask
 *		for. Most users share their few values with many others (a level, days of silence), so each rule
 *		remembers its answers to what it was asked last; only where one has none the columns become JSON.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "activity_tag.h"
#include "compat.h"
#include "ecstats.h"
#include "errors.h"

#define SLOT_KEY	   54	/* bytes of values that an answer is remembered for */
#define SLOTS_MAX	   4096 /* answers of a rule */
#define SLOTS_MIN	   64
#define REMEMBERED_MAX (8 * 1024 * 1024) /* bytes of all rules' answers, but for SLOTS_MIN each */
#define TRIAL		   8192				 /* look-ups after which a rule's memory must have paid */

/* An answer, in the place that its key's hash gives; what comes to the same place replaces it. */
typedef struct TagSlot
{
	uint32 hash;
	uint8 used; /* bytes of key, and one: 0 is an empty slot */
	bool holds;
	char key[SLOT_KEY];
} TagSlot;

/* A rule, and where the columns that it asks for stand among those that are given. */
typedef struct TagRule
{
	JsonPath *path;
	char *tag;
	Datum tag_text;
	int asked[TAG_MAX_COLUMNS];
	int asked_count;
	TagSlot *slots; /* NULL: it remembers nothing */
	uint32 slot_mask;
	int64 looked;
	int64 found;
} TagRule;

/* A given column, its value for the user at hand, and its member of the JSON object. */
typedef struct TagColumn
{
	Oid type;
	Datum value;
	bool isnull;
	JsonbPair *pair;
} TagColumn;

/* What a call site keeps between calls. */
typedef struct TagMatcher
{
	MemoryContext memory; /* of all below */
	MemoryContext user;	  /* reset for each */
	ArrayType *given[3];  /* the arguments that it was made of: columns, tags, rules */
	TagColumn columns[TAG_MAX_COLUMNS];
	int column_count;
	JsonbPair pairs[TAG_MAX_COLUMNS]; /* in the order of an object's keys */
	TagRule *rules;
	int rule_count;
	Datum *matches;
	Jsonb *no_variables;
} TagMatcher;

PG_FUNCTION_INFO_V1(ecstats_tag_matches);
PG_FUNCTION_INFO_V1(ecstats_tag_seen);

/* ---------------------------------------------------------------- columns to JSON */

/* pair_compare orders members as jsonb does: by length, then by bytes. */
static int
pair_compare(const void *a, const void *b)
{
	const JsonbValue *left = &((const JsonbPair *) a)->key;
	const JsonbValue *right = &((const JsonbPair *) b)->key;

	if (left->val.string.len != right->val.string.len)
		return left->val.string.len < right->val.string.len ? -1 : 1;
	return memcmp(left->val.string.val, right->val.string.val, left->val.string.len);
}

/* float8_exact returns the shortest number that is read back as the same, whatever extra_float_digits. */
static Numeric
float8_exact(float8 number)
{
	char digits[DOUBLE_SHORTEST_DECIMAL_LEN];

	double_to_shortest_decimal_buf(number, digits);
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* value_json makes a column's value JSON, in the current context. */
static void
value_json(const TagColumn *column, JsonbValue *json)
{
	json->type = jbvNumeric;
	if (column->isnull || (column->type == FLOAT8OID && !isfinite(DatumGetFloat8(column->value))))
		json->type = jbvNull;
	else if (column->type == INT4OID)
		json->val.numeric = int64_to_numeric(DatumGetInt32(column->value));
	else if (column->type == INT8OID)
		json->val.numeric = int64_to_numeric(DatumGetInt64(column->value));
	else if (column->type == FLOAT8OID)
		json->val.numeric = float8_exact(DatumGetFloat8(column->value));
	else if (column->type == NUMERICOID)
	{
		json->val.numeric = DatumGetNumeric(column->value);
		if (numeric_is_nan(json->val.numeric) || numeric_is_inf(json->val.numeric))
			json->type = jbvNull;
	}
	else
	{
		json->type = jbvString;
		if (column->type == DATEOID)
		{
			json->val.string.val = palloc(MAXDATELEN + 1);
			JsonEncodeDateTime(json->val.string.val, column->value, DATEOID, NULL);
			json->val.string.len = strlen(json->val.string.val);
		}
		else
		{
			text *value = DatumGetTextPP(column->value);

			json->val.string.val = VARDATA_ANY(value);
			json->val.string.len = VARSIZE_ANY_EXHDR(value);
		}
	}
}

/* profile_json makes an object of the columns, in the current context. */
static Jsonb *
profile_json(TagMatcher *matcher)
{
	JsonbValue object = {jbvObject};
	int i;

	for (i = 0; i < matcher->column_count; i++)
		value_json(&matcher->columns[i], &matcher->columns[i].pair->value);
	object.val.object.nPairs = matcher->column_count;
	object.val.object.pairs = matcher->pairs;
	return JsonbValueToJsonb(&object);
}

/* ---------------------------------------------------------------- answers remembered */

/*
 * remember_key writes down the values that a rule asks for and returns how many bytes they take; -1: too
 * many to be remembered.
 */
static int
remember_key(const TagMatcher *matcher, const TagRule *rule, char *key)
{
	int used = 0;
	int i;

	for (i = 0; i < rule->asked_count; i++)
	{
		const TagColumn *column = &matcher->columns[rule->asked[i]];
		const char *bytes = (const char *) &column->value;
		int length = sizeof(Datum);

		if (column->isnull)
			length = 0;
		else if (column->type == TEXTOID || column->type == NUMERICOID)
		{
			const struct varlena *value = (const struct varlena *) DatumGetPointer(column->value);

			bytes = VARDATA_ANY(value);
			length = VARSIZE_ANY_EXHDR(value);
		}
		if (length + 1 > SLOT_KEY - used)
			return -1;
		key[used++] = column->isnull ? -1 : length;
		memcpy(key + used, bytes, length);
		used += length;
	}
	return used;
}

/* remember_slot returns where a key's answer is, or is to be put. */
static TagSlot *
remember_slot(TagRule *rule, const char *key, int used, uint32 *hash)
{
	*hash = hash_bytes((const unsigned char *) key, used);
	rule->looked++;
	return &rule->slots[*hash & rule->slot_mask];
}

/* remember_pays gives a rule's memory up where next to nobody is like somebody before. */
static void
remember_pays(TagRule *rule)
{
	if (rule->looked < TRIAL)
		return;
	if (rule->found < rule->looked / 8)
	{
		pfree(rule->slots);
		rule->slots = NULL;
	}
	rule->looked = 0;
	rule->found = 0;
}

/* remember_create gives each rule its slots. */
static void
remember_create(TagMatcher *matcher)
{
	uint32 slots = SLOTS_MAX;
	int i;

	while (slots > SLOTS_MIN &&
		   (uint64) slots * sizeof(TagSlot) * matcher->rule_count > REMEMBERED_MAX)
		slots /= 2;
	for (i = 0; i < matcher->rule_count; i++)
	{
		matcher->rules[i].slots = palloc0(slots * sizeof(TagSlot));
		matcher->rules[i].slot_mask = slots - 1;
	}
}

/* ---------------------------------------------------------------- matching */

/* rule_context names the tag whose rule an error is in. */
static void
rule_context(void *rule)
{
	errcontext("rule of tag %s", ((const TagRule *) rule)->tag);
}

/* rule_ask asks PostgreSQL. *profile is made at the first need of it. */
static bool
rule_ask(TagMatcher *matcher, TagRule *rule, Jsonb **profile)
{
	ErrorContextCallback context = {error_context_stack, rule_context, rule};
	MemoryContext before = MemoryContextSwitchTo(matcher->user);
	bool holds;

	error_context_stack = &context;
	if (*profile == NULL)
		*profile = profile_json(matcher);
	holds = ecstats_tag_rule_holds(*profile, rule->path, matcher->no_variables);
	error_context_stack = context.previous;
	MemoryContextSwitchTo(before);
	return holds;
}

/* rule_holds answers from memory where it can. */
static bool
rule_holds(TagMatcher *matcher, TagRule *rule, Jsonb **profile)
{
	char key[SLOT_KEY];
	TagSlot *slot;
	uint32 hash;
	int used = rule->slots != NULL ? remember_key(matcher, rule, key) : -1;

	if (used < 0)
		return rule_ask(matcher, rule, profile);
	remember_pays(rule);
	if (rule->slots == NULL)
		return rule_ask(matcher, rule, profile);
	slot = remember_slot(rule, key, used, &hash);
	if (slot->used == used + 1 && slot->hash == hash && memcmp(slot->key, key, used) == 0)
	{
		rule->found++;
		return slot->holds;
	}
	slot->holds = rule_ask(matcher, rule, profile);
	slot->hash = hash;
	slot->used = used + 1;
	memcpy(slot->key, key, used);
	return slot->holds;
}

/* ---------------------------------------------------------------- a call site's matcher */

/* text_elements returns the elements of a text[] without NULLs. */
static Datum *
text_elements(ArrayType *array, int *count)
{
	Datum *elements;

	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("names of tags and columns cannot be null")));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, count);
	return elements;
}

/* matcher_columns reads which columns are given, of which types, from argument first on. */
static void
matcher_columns(TagMatcher *matcher, FunctionCallInfo fcinfo, int first)
{
	Datum *names = text_elements(matcher->given[0], &matcher->column_count);
	int i;
	int j;

	if (matcher->column_count != PG_NARGS() - first || matcher->column_count > TAG_MAX_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there must be a value for each column"),
				 errdetail("Columns: %d, values: %d.", matcher->column_count, PG_NARGS() - first)));
	for (i = 0; i < matcher->column_count; i++)
	{
		JsonbValue *key = &matcher->pairs[i].key;
		Oid type = get_fn_expr_argtype(fcinfo->flinfo, first + i);

		key->type = jbvString;
		key->val.string.val = VARDATA_ANY(DatumGetPointer(names[i]));
		key->val.string.len = VARSIZE_ANY_EXHDR(DatumGetPointer(names[i]));
		if (ecstats_tag_column_find(key->val.string.val, key->val.string.len) < 0 ||
			(type != TEXTOID && type != DATEOID && type != INT4OID && type != INT8OID &&
			 type != FLOAT8OID && type != NUMERICOID))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a column is not one of a profile, or not of its type"),
					 errdetail("%s", ecstats_shown(key->val.string.val, key->val.string.len))));
		matcher->columns[i].type = type;
	}
	qsort(matcher->pairs, matcher->column_count, sizeof(JsonbPair), pair_compare);
	for (i = 0; i < matcher->column_count; i++)
		for (j = 0; j < matcher->column_count; j++)
			if (matcher->pairs[j].key.val.string.val == VARDATA_ANY(DatumGetPointer(names[i])))
				matcher->columns[i].pair = &matcher->pairs[j];
}

/* rule_columns finds what a rule asks for among what is given. */
static void
rule_columns(TagMatcher *matcher, TagRule *rule)
{
	TagColumns asked;
	int i;

	ecstats_tag_rule_walk(rule->path, &asked);
	for (i = 0; i < matcher->column_count; i++)
	{
		const JsonbValue *name = &matcher->columns[i].pair->key;
		int column = ecstats_tag_column_find(name->val.string.val, name->val.string.len);

		if (asked.has[column])
			rule->asked[rule->asked_count++] = i;
		asked.has[column] = false;
	}
	for (i = 0; i < ecstats_tag_column_count(); i++)
		if (asked.has[i])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a column that the rule of tag %s asks for is not given", rule->tag)));
}

/* matcher_rules reads the rules. */
static void
matcher_rules(TagMatcher *matcher)
{
	Datum *paths;
	Datum *tags = text_elements(matcher->given[1], &matcher->rule_count);
	int count;
	int i;

	if (array_contains_nulls(matcher->given[2]))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a rule cannot be null")));
	deconstruct_array(matcher->given[2], JSONPATHOID, -1, false, TYPALIGN_INT, &paths, NULL,
					  &count);
	if (count != matcher->rule_count)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("there must be a rule for each tag")));
	matcher->rules = palloc0(Max(count, 1) * sizeof(TagRule));
	matcher->matches = palloc(Max(count, 1) * sizeof(Datum));
	for (i = 0; i < count; i++)
	{
		TagRule *rule = &matcher->rules[i];

		rule->path = DatumGetJsonPathPCopy(paths[i]);
		rule->tag = TextDatumGetCString(tags[i]);
		rule->tag_text = tags[i];
		rule_columns(matcher, rule);
	}
	matcher->no_variables = ecstats_tag_empty_object();
	remember_create(matcher);
}

/* same_array tells whether two arrays have the same bytes. */
static bool
same_array(const ArrayType *a, const ArrayType *b)
{
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

/*
 * matcher_get returns the call site's matcher, made anew unless it is that of the last call. arrays is how
 * many of the arguments say what it is; the others are values of columns.
 */
static TagMatcher *
matcher_get(FunctionCallInfo fcinfo, int arrays)
{
	TagMatcher *matcher = fcinfo->flinfo->fn_extra;
	ArrayType *given[3];
	MemoryContext memory;
	MemoryContext before;
	bool same = matcher != NULL;
	int i;

	for (i = 0; i < arrays; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("columns, tags and rules cannot be null")));
		given[i] = PG_GETARG_ARRAYTYPE_P(i);
		same = same && same_array(matcher->given[i], given[i]);
	}
	if (same)
		return matcher;
	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("values of columns are given one by one, not as an array")));
	fcinfo->flinfo->fn_extra = NULL;
	if (matcher != NULL)
		MemoryContextDelete(matcher->memory);
	memory =
		AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "ecstats tag rules", ALLOCSET_SMALL_SIZES);
	before = MemoryContextSwitchTo(memory);
	matcher = palloc0(sizeof(TagMatcher));
	matcher->memory = memory;
	matcher->user = AllocSetContextCreate(memory, "ecstats tag user", ALLOCSET_DEFAULT_SIZES);
	for (i = 0; i < arrays; i++)
		matcher->given[i] =
			(ArrayType *) DatumGetPointer(datumCopy(PointerGetDatum(given[i]), false, -1));
	matcher_columns(matcher, fcinfo, arrays);
	if (arrays == lengthof(given))
		matcher_rules(matcher);
	MemoryContextSwitchTo(before);
	fcinfo->flinfo->fn_extra = matcher;
	return matcher;
}

/* matcher_load takes the values of one user, from argument first on. */
static void
matcher_load(TagMatcher *matcher, FunctionCallInfo fcinfo, int first)
{
	MemoryContext before = MemoryContextSwitchTo(matcher->user);
	int i;

	for (i = 0; i < matcher->column_count; i++)
	{
		TagColumn *column = &matcher->columns[i];

		column->isnull = PG_ARGISNULL(first + i);
		if (column->isnull)
			continue;
		column->value = PG_GETARG_DATUM(first + i);
		if (column->type == NUMERICOID)
			column->value = PointerGetDatum(PG_DETOAST_DATUM(column->value));
		else if (column->type == TEXTOID)
			column->value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(column->value));
	}
	MemoryContextSwitchTo(before);
}

/*
 * ecstats_tag_matches is SQL's ecstats.tag_matches(columns, tags, rules, value of each column ...): the
 * tags whose rule holds, in their order; NULL where none does.
 */
Datum
ecstats_tag_matches(PG_FUNCTION_ARGS)
{
	TagMatcher *matcher = matcher_get(fcinfo, 3);
	Jsonb *profile = NULL;
	int count = 0;
	int i;

	matcher_load(matcher, fcinfo, 3);
	for (i = 0; i < matcher->rule_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (rule_holds(matcher, &matcher->rules[i], &profile))
			matcher->matches[count++] = matcher->rules[i].tag_text;
	}
	MemoryContextReset(matcher->user);
	if (count == 0)
		PG_RETURN_NULL();
	PG_RETURN_ARRAYTYPE_P(
		construct_array(matcher->matches, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* ecstats_tag_seen is SQL's ecstats.tag_seen(columns, value of each ...): what a rule sees of a user. */
Datum
ecstats_tag_seen(PG_FUNCTION_ARGS)
{
	TagMatcher *matcher = matcher_get(fcinfo, 1);
	Jsonb *profile;

	matcher_load(matcher, fcinfo, 1);
	profile = profile_json(matcher);
	MemoryContextReset(matcher->user);
	PG_RETURN_JSONB_P(profile);
}
