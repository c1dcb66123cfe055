/*
 * template_document.h
 *		A template as it is stored: a JSON document whose strings are template texts, and its
 *		conditions.
 */
#ifndef ECSTATS_TEMPLATE_DOCUMENT_H
#define ECSTATS_TEMPLATE_DOCUMENT_H

#include "utils/jsonb.h"

#include "template.h"

/* A string of the document that has tags; known again by where it lies in the body. */
typedef struct TemplateText
{
	TemplateSlice source;
	TemplateTree tree;
} TemplateText;

/* {"field": F, "value": V, "render_X": true}: one for each X that is named. */
typedef struct TemplateCondition
{
	TemplateSlice field;
	TemplateSlice member;
	JsonbValue value;
	bool renders;
} TemplateCondition;

typedef struct TemplateDocument
{
	Jsonb *body;		 /* everything else points into it */
	TemplateText *texts; /* in the order of the body */
	int text_count;
	int text_room;
	bool has_conditions;
	TemplateCondition *conditions;
	int condition_count;
	int condition_room;
} TemplateDocument;

extern void ecstats_template_document_read(TemplateDocument *document, Jsonb *body);
extern bool ecstats_template_document_keeps(const TemplateDocument *document,
											const TemplateHost *host, const TemplateValue *data,
											TemplateSlice key);

/* ecstats_template_value_set hands a value of the data to the engine. */
static inline void
ecstats_template_value_set(TemplateValue *value, const JsonbValue *json)
{
	StaticAssertStmt(sizeof(JsonbValue) <= sizeof(value->opaque), "opaque holds a JsonbValue");
	memcpy(value->opaque, json, sizeof(JsonbValue));
	value->count = 0;
	if (json->type == jbvNull)
		value->kind = TEMPLATE_NULL;
	else if (json->type == jbvBool && !json->val.boolean)
		value->kind = TEMPLATE_FALSE;
	else if (json->type == jbvString && json->val.string.len == 0)
		value->kind = TEMPLATE_EMPTY;
	else if (json->type != jbvBinary)
		value->kind = TEMPLATE_SCALAR;
	else if (JsonContainerIsObject(json->val.binary.data))
		value->kind = TEMPLATE_OBJECT;
	else
	{
		value->kind = TEMPLATE_ARRAY;
		value->count = JsonContainerSize(json->val.binary.data);
	}
}

/* ecstats_template_value_get takes it back; not for TEMPLATE_ABSENT. */
static inline const JsonbValue *
ecstats_template_value_get(const TemplateValue *value)
{
	return (const JsonbValue *) value->opaque;
}

#endif /* ECSTATS_TEMPLATE_DOCUMENT_H */
