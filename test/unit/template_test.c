/*
 * template_test.c
 *		The template engine alone, over data in plain C structs.
 *
 *		cc -std=gnu99 -Wall -Wextra -Werror -Isrc test/unit/template_test.c src/template.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template.h"

#define OUT_BYTES 4096

/* A value of the test's data: kids of an object have names, those of an array have none. */
typedef struct Datum
{
	const char *name;
	TemplateValueKind kind;
	const char *text;
	const struct Datum *kids;
	int kid_count;
} Datum;

typedef struct Out
{
	char text[OUT_BYTES];
	size_t len;
	int passes_left;
} Out;

static int tests = 0;
static int failures = 0;

/* ---------------------------------------------------------------- host */

static void *
test_resize(void *context, void *old, size_t size)
{
	void *fresh = realloc(old, size);

	(void) context;
	if (fresh == NULL)
		abort();
	return fresh;
}

static bool
slice_is(TemplateSlice slice, const char *text)
{
	return slice.len == strlen(text) && memcmp(slice.at, text, slice.len) == 0;
}

/* test_filter knows wrap:TEXT (puts TEXT on both sides) and shout (puts a ! behind). */
static TemplateErrorCode
test_filter(void *context, TemplateFilter *filter)
{
	(void) context;
	if (slice_is(filter->name, "shout"))
		return filter->has_argument ? TEMPLATE_NEEDLESS_ARGUMENT : TEMPLATE_OK;
	if (!slice_is(filter->name, "wrap"))
		return TEMPLATE_UNKNOWN_FILTER;
	filter->id = 1;
	return filter->has_argument ? TEMPLATE_OK : TEMPLATE_MISSING_ARGUMENT;
}

static const Datum *
datum_of(const TemplateValue *value)
{
	const Datum *datum;

	memcpy(&datum, value->opaque, sizeof(datum));
	return datum;
}

static void
value_set(TemplateValue *value, const Datum *datum)
{
	memcpy(value->opaque, &datum, sizeof(datum));
	value->kind = datum->kind;
	value->count = datum->kid_count;
}

static bool
test_member(void *context, const TemplateValue *container, TemplateSlice name,
			TemplateValue *result)
{
	const Datum *datum = datum_of(container);
	int i;

	(void) context;
	for (i = 0; i < datum->kid_count; i++)
	{
		if (datum->kids[i].name != NULL && slice_is(name, datum->kids[i].name))
		{
			value_set(result, &datum->kids[i]);
			return true;
		}
	}
	return false;
}

static void
test_element(void *context, const TemplateValue *array, int index, TemplateValue *result)
{
	(void) context;
	value_set(result, &datum_of(array)->kids[index]);
}

static bool
test_text(void *context, TemplateSlice text)
{
	Out *out = context;

	if (out->len + text.len >= OUT_BYTES)
		return false;
	memcpy(out->text + out->len, text.at, text.len);
	out->len += text.len;
	out->text[out->len] = '\0';
	return true;
}

static bool
test_value(void *context, const TemplateValue *value, const TemplateFilter *filters,
		   int filter_count)
{
	TemplateSlice text = {"", 0};
	TemplateSlice shout = {"!", 1};
	bool going = true;
	int i;

	if (value->kind > TEMPLATE_NULL && datum_of(value)->text != NULL)
	{
		text.at = datum_of(value)->text;
		text.len = strlen(text.at);
	}
	for (i = filter_count - 1; i >= 0; i--)
		going = going && (filters[i].id == 0 || test_text(context, filters[i].argument));
	going = going && test_text(context, text);
	for (i = 0; i < filter_count; i++)
		going = going && test_text(context, filters[i].id == 0 ? shout : filters[i].argument);
	return going;
}

static bool
test_pass(void *context)
{
	Out *out = context;

	return out->passes_left-- > 0;
}

static const TemplateHost host = {NULL,			test_resize, test_filter, test_member,
								  test_element, test_text,	 test_value,  test_pass};

/* ---------------------------------------------------------------- data */

static const Datum letters[] = {{NULL, TEMPLATE_SCALAR, "a", NULL, 0},
								{NULL, TEMPLATE_SCALAR, "b", NULL, 0}};
static const Datum rows[] = {{NULL, TEMPLATE_ARRAY, NULL, letters, 2},
							 {NULL, TEMPLATE_ARRAY, NULL, letters, 1}};
static const Datum inner[] = {{"name", TEMPLATE_SCALAR, "inner", NULL, 0},
							  {"none", TEMPLATE_NULL, NULL, NULL, 0}};
static const Datum other[] = {{"deep", TEMPLATE_SCALAR, "found", NULL, 0}};
static const Datum members[] = {
	{"name", TEMPLATE_SCALAR, "outer", NULL, 0}, {"none", TEMPLATE_SCALAR, "some", NULL, 0},
	{"no", TEMPLATE_FALSE, "false", NULL, 0},	 {"empty", TEMPLATE_EMPTY, "", NULL, 0},
	{"nil", TEMPLATE_ARRAY, NULL, NULL, 0},		 {"list", TEMPLATE_ARRAY, NULL, letters, 2},
	{"rows", TEMPLATE_ARRAY, NULL, rows, 2},	 {"in", TEMPLATE_OBJECT, NULL, inner, 2},
	{"x", TEMPLATE_OBJECT, NULL, other, 1},		 {"成交额", TEMPLATE_SCALAR, "128.6万", NULL, 0}};
static const Datum root = {NULL, TEMPLATE_OBJECT, NULL, members, 10};

/* ---------------------------------------------------------------- cases */

static void
report(bool passed, const char *what, const char *got)
{
	printf("%s %d - ", passed ? "ok" : "not ok", ++tests);
	for (; *what != '\0'; what++)
	{
		if (*what == '\n' || *what == '\r')
			printf(*what == '\n' ? "\\n" : "\\r");
		else
			putchar(*what);
	}
	putchar('\n');
	if (!passed)
	{
		printf("# got %s\n", got);
		failures++;
	}
}

static void
tree_free(TemplateTree *tree)
{
	free(tree->nodes);
	free(tree->filters);
}

/* renders checks what a template makes of the data. */
static void
renders(const char *template, const char *expected)
{
	TemplateSlice source = {template, strlen(template)};
	TemplateHost mine = host;
	TemplateTree tree;
	TemplateError error;
	TemplateValue value;
	Out out = {"", 0, 100};

	mine.context = &out;
	value_set(&value, &root);
	if (!ecstats_template_parse(&mine, source, &tree, &error))
		snprintf(out.text, OUT_BYTES, "error %d at %zu", (int) error.code, error.offset);
	else
		ecstats_template_walk(&mine, &tree, &value);
	report(strcmp(out.text, expected) == 0, template, out.text);
	tree_free(&tree);
}

/* fails checks that a template is refused, why, and at which byte. */
static void
fails(const char *template, TemplateErrorCode code, size_t offset)
{
	TemplateSlice source = {template, strlen(template)};
	TemplateTree tree;
	TemplateError error;
	char got[80];
	bool parsed = ecstats_template_parse(&host, source, &tree, &error);

	snprintf(got, sizeof(got), "error %d at %zu", (int) error.code, error.offset);
	report(!parsed && error.code == code && error.offset == offset, template, got);
	tree_free(&tree);
}

static void
test_rendering(void)
{
	renders("", "");
	renders("no tags, { } alone", "no tags, { } alone");
	renders("{{name}} {{{name}}} {{&name}} {{ name }} {{ & name }}",
			"outer outer outer outer outer");
	renders("{{成交额}}", "128.6万");
	renders("[{{missing}}{{no.more}}{{name.more}}]", "[]");
	renders("{{#in}}{{name}} {{x.deep}}{{/in}}", "inner found");
	renders("{{#in}}[{{none}}]{{/in}}", "[]");
	renders("{{#list}}({{.}}{{name}}){{/list}}", "(aouter)(bouter)");
	renders("{{#rows}}<{{#.}}{{.}}{{/.}}>{{/rows}}", "<ab><a>");
	renders("{{#no}}1{{/no}}{{#nil}}2{{/nil}}{{#empty}}3{{/empty}}{{#gone}}4{{/gone}}", "");
	renders("{{^no}}1{{/no}}{{^nil}}2{{/nil}}{{^empty}}3{{/empty}}{{^gone}}4{{/gone}}", "1234");
	renders("{{#name}}{{.}}{{/name}}{{^name}}no{{/name}}", "outer");
	renders("{{! a {{ b }}c", "c");
	renders("{{=<% %>=}}<%name%>{{name}}<%={{ }}=%>{{name}}", "outer{{name}}outer");
	renders("{{=<% %>=}}<%{name}%>", "outer");
	renders("{{= | | =}}|name|", "outer");
}

static void
test_standalone(void)
{
	renders("a\n  {{#name}}  \nb\n{{/name}}\nc", "a\nb\nc");
	renders("a\r\n{{! x }}\r\nb", "a\r\nb");
	renders("  {{! x }}", "");
	renders("a {{! x }}\nb", "a \nb");
	renders("{{#name}}{{/name}}\nb", "\nb");
	renders("{{! one }} {{! two }}\nb", " \nb");
	renders("  {{name}}\n", "  outer\n");
	renders("\t{{!\n}}\n\t{{!\n}}\nz", "z");
}

static void
test_filters(void)
{
	renders("{{name | shout}}", "outer!");
	renders("{{name|shout|shout}}", "outer!!");
	renders("{{name | wrap:* | shout}}", "*outer*!");
	renders("{{name | wrap: a b }}", "a boutera b");
	renders("{{name | wrap:' | ' | shout}}", " | outer | !");
	renders("{{name | wrap:\"it's\"}}", "it'souterit's");
	renders("{{name | wrap:HH:MI}}", "HH:MIouterHH:MI");
	renders("{{name | wrap:}}", "outer");
	renders("{{{name | shout}}}{{&name | shout}}", "outer!outer!");
	fails("{{name | shot}}", TEMPLATE_UNKNOWN_FILTER, 9);
	fails("{{name | shout | }}", TEMPLATE_EMPTY_FILTER, 17);
	fails("{{name |}}", TEMPLATE_EMPTY_FILTER, 8);
	fails("{{name || shout}}", TEMPLATE_EMPTY_FILTER, 8);
	fails("{{name | wrap}}", TEMPLATE_MISSING_ARGUMENT, 9);
	fails("{{name | shout:x}}", TEMPLATE_NEEDLESS_ARGUMENT, 9);
	fails("{{name | wrap:'x}}", TEMPLATE_UNCLOSED_QUOTE, 0);
	fails("{{name | wrap:'x' y}}", TEMPLATE_UNCLOSED_QUOTE, 0);
	fails("{{#name | shout}}{{/name}}", TEMPLATE_FILTERED_SECTION, 0);
}

static void
test_errors(void)
{
	fails("ab{{name", TEMPLATE_UNCLOSED_TAG, 2);
	fails("{{{name}}", TEMPLATE_UNCLOSED_TAG, 0);
	fails("{{! x", TEMPLATE_UNCLOSED_TAG, 0);
	fails("{{", TEMPLATE_UNCLOSED_TAG, 0);
	fails("{{}}", TEMPLATE_EMPTY_NAME, 0);
	fails("{{# }}{{/ }}", TEMPLATE_EMPTY_NAME, 0);
	fails("{{| shout}}", TEMPLATE_EMPTY_NAME, 0);
	fails("x{{a..b}}", TEMPLATE_BAD_NAME, 1);
	fails("{{.a}}", TEMPLATE_BAD_NAME, 0);
	fails("{{a.}}", TEMPLATE_BAD_NAME, 0);
	fails("{{a} and {{b}}", TEMPLATE_BAD_NAME, 0);
	fails("{{#a}}\n {{#b}}{{/b}}", TEMPLATE_UNCLOSED_SECTION, 0);
	fails("{{#a}}{{^b}}", TEMPLATE_UNCLOSED_SECTION, 6);
	fails("x{{/a}}", TEMPLATE_STRAY_CLOSE, 1);
	fails("{{#a}}{{#b}}{{/a}}{{/b}}", TEMPLATE_WRONG_CLOSE, 12);
	fails("{{=<% %> %%=}}", TEMPLATE_BAD_DELIMITERS, 0);
	fails("{{=<%=}}", TEMPLATE_BAD_DELIMITERS, 0);
	fails("{{=%= =%=}}", TEMPLATE_BAD_DELIMITERS, 0);
	fails("{{=<<<<<<<<<<<<<<<<< >=}}", TEMPLATE_BAD_DELIMITERS, 0);
	fails("{{=<% %>}}", TEMPLATE_UNCLOSED_TAG, 0);
	fails("{{>part}}", TEMPLATE_NO_PARTIALS, 0);
	fails("{{<parent}}{{/parent}}", TEMPLATE_NO_INHERITANCE, 0);
	fails("{{$block}}{{/block}}", TEMPLATE_NO_INHERITANCE, 0);
}

/* test_limits nests to the limit and beyond, is too long by a byte, and lets the host stop a walk. */
static void
test_limits(void)
{
	static char text[TEMPLATE_MAX_SOURCE + 2];
	TemplateHost mine = host;
	TemplateSlice source = {text, 0};
	TemplateTree tree;
	TemplateError error;
	TemplateValue value;
	Out out = {"", 0, 1};
	int i;

	for (i = 0; i < TEMPLATE_MAX_DEPTH; i++)
		strcat(text, "{{#in}}");
	for (i = 0; i < TEMPLATE_MAX_DEPTH; i++)
		strcat(text, "{{/in}}");
	source.len = strlen(text);
	report(ecstats_template_parse(&host, source, &tree, &error), "64 sections deep", "an error");
	tree_free(&tree);

	memset(text, 0, sizeof(text));
	for (i = 0; i <= TEMPLATE_MAX_DEPTH; i++)
		strcat(text, "{{#in}}");
	fails(text, TEMPLATE_TOO_DEEP, (size_t) TEMPLATE_MAX_DEPTH * 7);

	memset(text, 'x', sizeof(text));
	source.len = TEMPLATE_MAX_SOURCE + 1;
	report(!ecstats_template_parse(&host, source, &tree, &error) && error.code == TEMPLATE_TOO_LONG,
		   "longer than a template may be", "no such error");
	tree_free(&tree);

	mine.context = &out;
	value_set(&value, &root);
	source.at = "{{#list}}x{{/list}}";
	source.len = strlen(source.at);
	if (!ecstats_template_parse(&mine, source, &tree, &error))
		abort();
	report(!ecstats_template_walk(&mine, &tree, &value) && strcmp(out.text, "x") == 0,
		   "the host stops a walk", out.text);
	tree_free(&tree);
}

int
main(void)
{
	test_rendering();
	test_standalone();
	test_filters();
	test_errors();
	test_limits();
	printf("1..%d\n", tests);
	return failures == 0 ? 0 : 1;
}
