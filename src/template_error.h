/*
 * template_error.h
 *		How a broken template is told to its author: JSON path, character, what was found.
 */
#ifndef ECSTATS_TEMPLATE_ERROR_H
#define ECSTATS_TEMPLATE_ERROR_H

#include "lib/stringinfo.h"

#include "template.h"

/* Where a walk through a JSON document stands, one step a level. */
typedef struct TemplatePathStep
{
	const char *key; /* NULL in an array */
	int key_len;
	int index;
} TemplatePathStep;

typedef struct TemplatePath
{
	TemplatePathStep *steps;
	int depth;
	int room;
} TemplatePath;

extern void ecstats_template_path_enter(TemplatePath *path, bool is_array);
extern char *ecstats_template_path_text(const TemplatePath *path);
extern char *ecstats_template_quote(const char *text, size_t len);
extern void ecstats_template_report(const TemplatePath *path, TemplateSlice source,
									const TemplateError *error);

#endif /* ECSTATS_TEMPLATE_ERROR_H */
