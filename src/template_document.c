/*
 * template_document.c
 *		Reads a stored template: parses every string that has tags, and the conditions.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "template_document.h"
#include "template_error.h"
#include "template_filter.h"

#define RENDER_PREFIX  "render_"
#define CONDITION_HINT "Write {\"field\": \"name\", \"value\": ..., \"render_MEMBER\": true}."

/* ---------------------------------------------------------------- parsing */

/* template_resize lends the engine palloc'd memory of the current context. */
static void *
template_resize(void *context, void *old, size_t size)
{
	return old == NULL ? palloc(size) : repalloc(old, size);
}

static TemplateErrorCode
template_filter(void *context, TemplateFilter *filter)
{
	return ecstats_template_filter_find(filter);
}

static bool
slice_is(TemplateSlice slice, const char *text)
{
	return slice.len == strlen(text) && memcmp(slice.at, text, slice.len) == 0;
}

static TemplateSlice
string_slice(const JsonbValue *json)
{
	TemplateSlice slice = {json->val.string.val, json->val.string.len};

	return slice;
}

static bool
has_tag(TemplateSlice text)
{
	const char *end = text.at + text.len;
	const char *at = text.at;

	while (end - at >= 2 && (at = memchr(at, '{', end - at - 1)) != NULL)
	{
		if (at[1] == '{')
			return true;
		at++;
	}
	return false;
}

/* read_text parses one string of the document; those without tags need no tree. */
static void
read_text(TemplateDocument *document, const TemplatePath *path, TemplateSlice source)
{
	TemplateHost host = {NULL, template_resize, template_filter};
	TemplateError error;
	TemplateText *text;

	CHECK_FOR_INTERRUPTS();
	if (!has_tag(source))
		return;
	if (document->text_count == document->text_room)
	{
		document->text_room = document->text_room == 0 ? 8 : document->text_room * 2;
		document->texts =
			template_resize(NULL, document->texts, document->text_room * sizeof(TemplateText));
	}
	text = &document->texts[document->text_count++];
	text->source = source;
	if (!ecstats_template_parse(&host, source, &text->tree, &error))
		ecstats_template_report(path, source, &error);
}

/* ---------------------------------------------------------------- conditions */

static void
condition_error(int index, const char *problem)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid template: conditions cannot be read"),
					index < 0 ? errdetail("At $.conditions: %s.", problem)
							  : errdetail("At $.conditions[%d]: %s.", index, problem),
					errhint("%s", CONDITION_HINT)));
}

static void
add_condition(TemplateDocument *document, TemplateSlice member, bool renders)
{
	if (document->condition_count == document->condition_room)
	{
		document->condition_room = document->condition_room == 0 ? 8 : document->condition_room * 2;
		document->conditions = template_resize(
			NULL, document->conditions, document->condition_room * sizeof(TemplateCondition));
	}
	document->conditions[document->condition_count].member = member;
	document->conditions[document->condition_count++].renders = renders;
}

/* read_condition reads one object of the list: all members it names share field and value. */
static void
read_condition(TemplateDocument *document, int index, JsonbContainer *object)
{
	int first = document->condition_count;
	int prefix = strlen(RENDER_PREFIX);
	JsonbIterator *it = JsonbIteratorInit(object);
	TemplateSlice field = {NULL, 0};
	JsonbValue value;
	JsonbValue key;
	JsonbValue json;
	bool has_value = false;
	int i;

	while (JsonbIteratorNext(&it, &key, true) != WJB_DONE)
	{
		TemplateSlice name = string_slice(&key);

		if (key.type != jbvString)
			continue; /* begin or end of the object */
		(void) JsonbIteratorNext(&it, &json, true);
		if (slice_is(name, "field") && json.type == jbvString && json.val.string.len > 0)
			field = string_slice(&json);
		else if (slice_is(name, "value"))
		{
			value = json;
			has_value = true;
		}
		else if (name.len > prefix && memcmp(name.at, RENDER_PREFIX, prefix) == 0 &&
				 json.type == jbvBool)
		{
			name.at += prefix;
			name.len -= prefix;
			add_condition(document, name, json.val.boolean);
		}
		else
			condition_error(index, psprintf("member %s is unknown or of a wrong type",
											ecstats_template_quote(name.at, name.len)));
		key.type = jbvNull;
	}
	if (field.len == 0)
		condition_error(index, "field is missing");
	if (!has_value)
		condition_error(index, "value is missing");
	if (document->condition_count == first)
		condition_error(index, "no render_MEMBER is in it");
	for (i = first; i < document->condition_count; i++)
	{
		document->conditions[i].field = field;
		document->conditions[i].value = value;
	}
}

static void
read_conditions(TemplateDocument *document, const JsonbValue *list)
{
	int count;
	int i;

	if (list->type != jbvBinary || !JsonContainerIsArray(list->val.binary.data))
		condition_error(-1, "an array is expected");
	document->has_conditions = true;
	count = JsonContainerSize(list->val.binary.data);
	for (i = 0; i < count; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(list->val.binary.data, i);

		CHECK_FOR_INTERRUPTS();
		if (item->type != jbvBinary || !JsonContainerIsObject(item->val.binary.data))
			condition_error(i, "an object is expected");
		read_condition(document, i, item->val.binary.data);
	}
}

static bool
same_json(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				   memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		case jbvBinary:
			return compareJsonbContainers(a->val.binary.data, b->val.binary.data) == 0;
		default:
			return false;
	}
}

/* names_member tells whether render_X speaks of a member: X itself or X_url. */
static bool
names_member(TemplateSlice named, TemplateSlice key)
{
	if (key.len == named.len + 4 && memcmp(key.at + named.len, "_url", 4) == 0)
		key.len = named.len;
	return key.len == named.len && memcmp(key.at, named.at, key.len) == 0;
}

/*
 * ecstats_template_document_keeps tells whether a member of the document is in the output: no
 * condition names it, or one that holds says true and none that holds says false. A field that the
 * data does not have counts as null.
 */
bool
ecstats_template_document_keeps(const TemplateDocument *document, const TemplateHost *host,
								const TemplateValue *data, TemplateSlice key)
{
	bool wants_true = false;
	bool has_true = false;
	int i;

	for (i = 0; i < document->condition_count; i++)
	{
		const TemplateCondition *condition = &document->conditions[i];
		TemplateValue value;
		bool holds;

		if (!names_member(condition->member, key))
			continue;
		if (ecstats_template_lookup(host, data, 0, condition->field, &value))
			holds = same_json(ecstats_template_value_get(&value), &condition->value);
		else
			holds = condition->value.type == jbvNull;
		if (holds && !condition->renders)
			return false;
		wants_true |= condition->renders;
		has_true |= holds;
	}
	return has_true || !wants_true;
}

/* ---------------------------------------------------------------- the document */

/* path_child moves on to the next element where the path stands in an array. */
static void
path_child(TemplatePath *path)
{
	if (path->depth > 0 && path->steps[path->depth - 1].key == NULL)
		path->steps[path->depth - 1].index++;
}

/*
 * ecstats_template_document_read parses a stored template into the current memory context, or raises
 * the first error. The body must live as long as the document.
 */
void
ecstats_template_document_read(TemplateDocument *document, Jsonb *body)
{
	JsonbIterator *it = JsonbIteratorInit(&body->root);
	TemplatePath path = {NULL, 0, 0};
	JsonbIteratorToken token;
	JsonbValue json;

	memset(document, 0, sizeof(TemplateDocument));
	document->body = body;
	while ((token = JsonbIteratorNext(&it, &json, false)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
			case WJB_BEGIN_OBJECT:
				path_child(&path);
				if (token == WJB_BEGIN_OBJECT || !json.val.array.rawScalar)
					ecstats_template_path_enter(&path, token == WJB_BEGIN_ARRAY);
				break;
			case WJB_END_ARRAY:
			case WJB_END_OBJECT:
				path.depth = Max(path.depth - 1, 0);
				break;
			case WJB_KEY:
				path.steps[path.depth - 1].key = json.val.string.val;
				path.steps[path.depth - 1].key_len = json.val.string.len;
				if (path.depth == 1 && slice_is(string_slice(&json), "conditions"))
				{
					(void) JsonbIteratorNext(&it, &json, true);
					read_conditions(document, &json);
				}
				break;
			default: /* WJB_VALUE, WJB_ELEM */
				path_child(&path);
				if (json.type == jbvString)
					read_text(document, &path, string_slice(&json));
				break;
		}
	}
}
