/*
 * template.c
 *		Fuzz target: any text as a template, walked over data that has every kind of value under names that
 *		the text makes up.
 */
#include "template.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#define BLOCKS_MAX 64
#define PASSES_MAX 2000
#define OUT_MAX	   (1024 * 1024)

/* What one run holds: the engine never frees, it resizes. */
typedef struct Run
{
	void *blocks[BLOCKS_MAX];
	int block_count;
	int passes;
	size_t out;
} Run;

static void *
run_resize(void *context, void *old, size_t size)
{
	Run *run = context;
	void *fresh = realloc(old, size);
	int i;

	if (fresh == NULL)
		abort();
	for (i = 0; i < run->block_count; i++)
	{
		if (run->blocks[i] == old)
			break;
	}
	if (i == run->block_count)
	{
		MUST(run->block_count < BLOCKS_MAX);
		run->block_count++;
	}
	run->blocks[i] = fresh;
	return fresh;
}

static TemplateErrorCode
run_filter(void *context, TemplateFilter *filter)
{
	(void) context;
	MUST(filter->name.len > 0);
	return filter->name.at[0] == 'x' ? TEMPLATE_UNKNOWN_FILTER : TEMPLATE_OK;
}

/* run_member gives a name the kind that its first byte says. */
static bool
run_member(void *context, const TemplateValue *container, TemplateSlice name, TemplateValue *result)
{
	(void) context;
	(void) container;
	MUST(name.len > 0);
	memset(result, 0, sizeof(*result));
	result->kind = (TemplateValueKind) ((unsigned char) name.at[0] % (TEMPLATE_ARRAY + 1));
	result->count = result->kind == TEMPLATE_ARRAY ? (unsigned char) name.at[name.len - 1] % 4 : 0;
	return result->kind != TEMPLATE_ABSENT;
}

static void
run_element(void *context, const TemplateValue *array, int index, TemplateValue *result)
{
	(void) context;
	MUST(index >= 0 && index < array->count);
	memset(result, 0, sizeof(*result));
	result->kind = index % 2 ? TEMPLATE_SCALAR : TEMPLATE_OBJECT;
}

static bool
run_text(void *context, TemplateSlice text)
{
	Run *run = context;
	volatile char touched = 0;
	size_t i;

	for (i = 0; i < text.len; i++)
		touched ^= text.at[i];
	(void) touched;
	run->out += text.len;
	return run->out < OUT_MAX;
}

static bool
run_value(void *context, const TemplateValue *value, const TemplateFilter *filters,
		  int filter_count)
{
	int i;

	(void) context;
	(void) value;
	for (i = 0; i < filter_count; i++)
		MUST(filters[i].name.len > 0);
	return true;
}

static bool
run_pass(void *context)
{
	return ++((Run *) context)->passes < PASSES_MAX;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Run run = {{NULL}, 0, 0, 0};
	TemplateHost host = {&run,		  run_resize, run_filter, run_member,
						 run_element, run_text,	  run_value,  run_pass};
	TemplateSlice source = {(const char *) data, size};
	TemplateTree tree;
	TemplateError error;
	int i;

	memset(&tree, 0, sizeof(tree));
	memset(&error, 0, sizeof(error));
	if (ecstats_template_parse(&host, source, &tree, &error))
	{
		TemplateValue root;

		memset(&root, 0, sizeof(root));
		root.kind = TEMPLATE_OBJECT;
		for (i = 0; i < tree.node_count; i++)
			MUST(tree.nodes[i].next > i && tree.nodes[i].next <= tree.node_count);
		(void) ecstats_template_walk(&host, &tree, &root);
	}
	else
		MUST(error.code != TEMPLATE_OK && error.offset <= size);
	for (i = 0; i < run.block_count; i++)
		free(run.blocks[i]);
	return 0;
}
