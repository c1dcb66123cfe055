/*
 * template_jsonb.c
 *		Templates over Jsonb: the engine's host, and the SQL functions.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "template_document.h"
#include "template_filter.h"

#define MAX_OUTPUT	 (1024 * 1024) /* bytes of all rendered strings of a document */
#define MAX_FILTERED (64 * 1024 * 1024)
#define MAX_PASSES	 1000000 /* through sections, likewise */

/* What a call site keeps between calls: the last template it saw, parsed. */
typedef struct RenderCache
{
	MemoryContext memory;  /* of the document */
	MemoryContext scratch; /* of one filtered value */
	bool valid;
	TemplateDocument document;
} RenderCache;

/* One rendering. */
typedef struct Render
{
	MemoryContext scratch;
	StringInfoData out; /* the string that is being rendered */
	size_t finished;	/* bytes of those before it */
	size_t filtered;	/* bytes that went into filters */
	long passes;
	int currency_decimals;
} Render;

PG_FUNCTION_INFO_V1(ecstats_template_render);
PG_FUNCTION_INFO_V1(ecstats_template_check);

/* ---------------------------------------------------------------- the engine's host */

/* host_element returns an element of an array. */
static void
host_element(void *context, const TemplateValue *array, int index, TemplateValue *result)
{
	const JsonbValue *json = ecstats_template_value_get(array);
	JsonbValue *element = getIthJsonbValueFromContainer(json->val.binary.data, index);

	ecstats_template_value_set(result, element);
	pfree(element);
}

/* host_member finds a member of an object, or an element of an array by its number from 0. */
static bool
host_member(void *context, const TemplateValue *container, TemplateSlice name,
			TemplateValue *result)
{
	const JsonbValue *json = ecstats_template_value_get(container);
	JsonbValue member;
	int index = 0;
	size_t i;

	if (container->kind == TEMPLATE_OBJECT)
	{
		if (getKeyJsonValueFromContainer(json->val.binary.data, name.at, name.len, &member) == NULL)
			return false;
		ecstats_template_value_set(result, &member);
		return true;
	}
	if (name.len > 8)
		return false;
	for (i = 0; i < name.len; i++)
	{
		if (name.at[i] < '0' || name.at[i] > '9')
			return false;
		index = index * 10 + (name.at[i] - '0');
	}
	if (index >= container->count)
		return false;
	host_element(context, container, index, result);
	return true;
}

/* render_grown raises an error once the output is over its limit. */
static void
render_grown(const Render *render, size_t more)
{
	if (render->finished + render->out.len + more > MAX_OUTPUT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("rendered template is too long"),
				 errdetail("Its texts together exceed %d bytes.", MAX_OUTPUT),
				 errhint("Shorten the lists in the data, or what the template shows of "
						 "each element.")));
}

static void
render_append(Render *render, const char *text, size_t len)
{
	render_grown(render, len);
	appendBinaryStringInfo(&render->out, text, len);
}

static bool
host_text(void *context, TemplateSlice text)
{
	render_append(context, text.at, text.len);
	return true;
}

static bool
host_pass(void *context)
{
	Render *render = context;

	CHECK_FOR_INTERRUPTS();
	if (++render->passes > MAX_PASSES)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("template repeats its sections too often"),
						errdetail("A document may pass through sections %d times.", MAX_PASSES),
						errhint("Shorten the lists in the data, or nest fewer of them.")));
	return true;
}

/* render_json writes a value as it is; objects and arrays as their JSON text. */
static void
render_json(StringInfo out, const JsonbValue *json)
{
	switch (json->type)
	{
		case jbvString:
			appendBinaryStringInfo(out, json->val.string.val, json->val.string.len);
			break;
		case jbvNumeric:
		{
			char *text = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(json->val.numeric)));

			appendStringInfoString(out, text);
			pfree(text);
			break;
		}
		case jbvBool:
			appendStringInfoString(out, json->val.boolean ? "true" : "false");
			break;
		case jbvBinary:
			(void) JsonbToCString(out, json->val.binary.data, json->val.binary.len);
			break;
		default:
			break;
	}
}

/* render_filtered puts a value through its filters in memory that is freed right after. */
static void
render_filtered(Render *render, const TemplateValue *value, const TemplateFilter *filters,
				int filter_count)
{
	MemoryContext before = MemoryContextSwitchTo(render->scratch);
	TemplateFiltered filtered = {FILTERED_ABSENT};
	int i;

	if (value->kind > TEMPLATE_NULL)
	{
		const JsonbValue *json = ecstats_template_value_get(value);

		if (json->type == jbvNumeric)
		{
			filtered.kind = FILTERED_NUMBER;
			filtered.number = json->val.numeric;
		}
		else
		{
			StringInfoData text;

			initStringInfo(&text);
			render_json(&text, json);
			filtered.kind = FILTERED_TEXT;
			filtered.text = text.data;
			filtered.len = text.len;
			render->filtered += text.len;
		}
	}
	for (i = 0; i < filter_count; i++)
		ecstats_template_filter_apply(&filters[i], render->currency_decimals, &filtered);
	if (filtered.kind == FILTERED_NUMBER)
	{
		filtered.text =
			DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(filtered.number)));
		filtered.len = strlen(filtered.text);
	}
	MemoryContextSwitchTo(before);
	if (render->filtered > MAX_FILTERED)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("template puts too much text through filters"),
						errdetail("The values together exceed %d bytes.", MAX_FILTERED),
						errhint("Shorten long values in the data, or name them less often.")));
	if (filtered.kind != FILTERED_ABSENT)
		render_append(render, filtered.text, filtered.len);
	MemoryContextReset(render->scratch);
}

static bool
host_value(void *context, const TemplateValue *value, const TemplateFilter *filters,
		   int filter_count)
{
	Render *render = context;

	CHECK_FOR_INTERRUPTS();
	if (filter_count > 0)
		render_filtered(render, value, filters, filter_count);
	else if (value->kind > TEMPLATE_NULL)
	{
		render_json(&render->out, ecstats_template_value_get(value));
		render_grown(render, 0);
	}
	return true;
}

/* ---------------------------------------------------------------- rendering */

/* data_root makes the data's root a value, be it object, array or scalar. */
static void
data_root(Jsonb *data, TemplateValue *root)
{
	JsonbValue json;

	if (JB_ROOT_IS_SCALAR(data))
		(void) JsonbExtractScalar(&data->root, &json);
	else
	{
		json.type = jbvBinary;
		json.val.binary.data = &data->root;
		json.val.binary.len = VARSIZE(data) - VARHDRSZ;
	}
	ecstats_template_value_set(root, &json);
}

/*
 * data_currency looks up how many decimals the filter money writes: those of the data's currency, at the
 * top, or of the shop's.
 */
static int
data_currency(const TemplateValue *root)
{
	TemplateSlice name = {"currency", strlen("currency")};
	TemplateValue value;
	const JsonbValue *json;
	const char *shops;

	if (root->kind == TEMPLATE_OBJECT && host_member(NULL, root, name, &value))
	{
		json = ecstats_template_value_get(&value);
		if (json->type == jbvString)
			return ecstats_template_currency_decimals(json->val.string.val, json->val.string.len);
	}
	shops = ecstats_config_get()->currency;
	return ecstats_template_currency_decimals(shops, strlen(shops));
}

/*
 * render_string replaces a string of the body by its rendering. *text goes along with the body: texts
 * are in its order, but members left out are passed over.
 */
static void
render_string(const TemplateDocument *document, const TemplateHost *host, const TemplateValue *data,
			  int *text, JsonbValue *json)
{
	Render *render = host->context;

	/* Texts are told apart by their place, which an empty one shares with the next. */
	if (json->val.string.len == 0)
		return;
	while (*text < document->text_count && document->texts[*text].source.at < json->val.string.val)
		(*text)++;
	if (*text == document->text_count || document->texts[*text].source.at != json->val.string.val)
		return;
	resetStringInfo(&render->out);
	(void) ecstats_template_walk(host, &document->texts[*text].tree, data);
	json->val.string.val = pnstrdup(render->out.data, render->out.len);
	json->val.string.len = render->out.len;
	render->finished += render->out.len;
	resetStringInfo(&render->out);
}

/* left_out tells whether a member of the outermost object is not in the output. */
static bool
left_out(const TemplateDocument *document, const TemplateHost *host, const TemplateValue *data,
		 const JsonbValue *key)
{
	TemplateSlice name = {key->val.string.val, key->val.string.len};

	return document->has_conditions &&
		   ((name.len == strlen("conditions") && memcmp(name.at, "conditions", name.len) == 0) ||
			!ecstats_template_document_keeps(document, host, data, name));
}

/* render_body copies the body, strings rendered, members left out that a condition keeps back. */
static Jsonb *
render_body(const TemplateDocument *document, const TemplateHost *host, const TemplateValue *data)
{
	JsonbIterator *it = JsonbIteratorInit(&document->body->root);
	EcstatsJsonbBuild build = {NULL, NULL};
	JsonbIteratorToken token;
	JsonbValue json;
	int depth = 0;
	int text = 0;

	if (JB_ROOT_IS_SCALAR(document->body))
	{
		(void) JsonbExtractScalar(&document->body->root, &json);
		if (json.type == jbvString)
			render_string(document, host, data, &text, &json);
		return JsonbValueToJsonb(&json);
	}
	while ((token = JsonbIteratorNext(&it, &json, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY && depth == 1 && left_out(document, host, data, &json))
		{
			(void) JsonbIteratorNext(&it, &json, true);
			continue;
		}
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
			depth++;
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
		else if (token != WJB_KEY && json.type == jbvString)
			render_string(document, host, data, &text, &json);
		ecstats_jsonb_push(&build, token, token < WJB_BEGIN_ARRAY ? &json : NULL);
	}
	return JsonbValueToJsonb(build.result);
}

/* ---------------------------------------------------------------- SQL */

/* cached_document returns the parsed template, read anew unless it is the one of the last call. */
static RenderCache *
cached_document(FunctionCallInfo fcinfo, Jsonb *body)
{
	RenderCache *cache = fcinfo->flinfo->fn_extra;
	MemoryContext before;
	Jsonb *copy;

	if (cache == NULL)
	{
		cache = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(RenderCache));
		cache->memory = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "ecstats template",
											  ALLOCSET_SMALL_SIZES);
		cache->scratch =
			AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "ecstats filter", ALLOCSET_SMALL_SIZES);
		fcinfo->flinfo->fn_extra = cache;
	}
	if (cache->valid && VARSIZE(cache->document.body) == VARSIZE(body) &&
		memcmp(cache->document.body, body, VARSIZE(body)) == 0)
		return cache;
	cache->valid = false;
	MemoryContextReset(cache->memory);
	before = MemoryContextSwitchTo(cache->memory);
	copy = palloc(VARSIZE(body));
	memcpy(copy, body, VARSIZE(body));
	ecstats_template_document_read(&cache->document, copy);
	MemoryContextSwitchTo(before);
	cache->valid = true;
	return cache;
}

/*
 * ecstats_template_render is SQL's ecstats_render(template, data) and its twin
 * ecstats.template_render.
 */
Datum
ecstats_template_render(PG_FUNCTION_ARGS)
{
	Jsonb *body = PG_GETARG_JSONB_P(0);
	Jsonb *data = PG_GETARG_JSONB_P(1);
	RenderCache *cache = cached_document(fcinfo, body);
	TemplateHost host = {.member = host_member,
						 .element = host_element,
						 .text = host_text,
						 .value = host_value,
						 .pass = host_pass};
	Render render = {cache->scratch};
	TemplateValue root;

	if (cache->document.text_count == 0 && !cache->document.has_conditions)
		PG_RETURN_JSONB_P(body);
	data_root(data, &root);
	initStringInfo(&render.out);
	render.currency_decimals = data_currency(&root);
	host.context = &render;
	PG_RETURN_JSONB_P(render_body(&cache->document, &host, &root));
}

/* ecstats_template_check is SQL's ecstats.template_check(template): an error, or nothing. */
Datum
ecstats_template_check(PG_FUNCTION_ARGS)
{
	TemplateDocument document;

	ecstats_template_document_read(&document, PG_GETARG_JSONB_P(0));
	PG_RETURN_VOID();
}
