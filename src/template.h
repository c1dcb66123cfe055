/*
 * template.h
 *		The template engine: Mustache without HTML escaping, plus filters after a bar. Pure: it knows
 *		neither PostgreSQL nor JSON. Text is parsed into a flat tree, and the tree is walked over data
 *		that only the host's callbacks can see, so both sides are tested alone.
 */
#ifndef ECSTATS_TEMPLATE_H
#define ECSTATS_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEMPLATE_MAX_DEPTH	   64			 /* sections within sections */
#define TEMPLATE_MAX_SOURCE	   (1024 * 1024) /* bytes of one template text */
#define TEMPLATE_MAX_DELIMITER 16			 /* bytes of one delimiter */

/* A piece of text that belongs to somebody else; not terminated. */
typedef struct TemplateSlice
{
	const char *at;
	size_t len;
} TemplateSlice;

typedef enum TemplateErrorCode
{
	TEMPLATE_OK,
	TEMPLATE_UNCLOSED_TAG,
	TEMPLATE_UNCLOSED_SECTION,
	TEMPLATE_STRAY_CLOSE,
	TEMPLATE_WRONG_CLOSE,
	TEMPLATE_EMPTY_NAME,
	TEMPLATE_BAD_NAME,
	TEMPLATE_BAD_DELIMITERS,
	TEMPLATE_NO_PARTIALS,
	TEMPLATE_NO_INHERITANCE,
	TEMPLATE_FILTERED_SECTION,
	TEMPLATE_EMPTY_FILTER,
	TEMPLATE_UNKNOWN_FILTER,
	TEMPLATE_MISSING_ARGUMENT,
	TEMPLATE_NEEDLESS_ARGUMENT,
	TEMPLATE_BAD_ARGUMENT,
	TEMPLATE_UNCLOSED_QUOTE,
	TEMPLATE_TOO_DEEP,
	TEMPLATE_TOO_LONG
} TemplateErrorCode;

/* What is wrong and where; the slices point into the source. */
typedef struct TemplateError
{
	TemplateErrorCode code;
	size_t offset;		 /* bytes before the place */
	TemplateSlice found; /* the tag, as written */
	TemplateSlice other; /* the filter, or the open section that a close does not match */
} TemplateError;

typedef struct TemplateFilter
{
	TemplateSlice name;
	TemplateSlice argument; /* trimmed, without its quotes */
	bool has_argument;
	int id;		 /* the host's, set by its filter callback */
	long number; /* likewise: the argument as a number, where it is one */
} TemplateFilter;

typedef enum TemplateNodeKind
{
	TEMPLATE_TEXT,
	TEMPLATE_VARIABLE,
	TEMPLATE_SECTION,
	TEMPLATE_INVERTED
} TemplateNodeKind;

/* A node of the tree; the nodes of a section lie between it and its 'next'. */
typedef struct TemplateNode
{
	TemplateNodeKind kind;
	int next;		  /* index of the first node behind this one and what it holds */
	int first_filter; /* index into the tree's filters */
	int filter_count;
	TemplateSlice text; /* the literal text, or the name */
} TemplateNode;

/* A parsed template. Memory is the host's; the source must live as long as the tree. */
typedef struct TemplateTree
{
	TemplateNode *nodes;
	int node_count;
	int node_room;
	TemplateFilter *filters;
	int filter_count;
	int filter_room;
} TemplateTree;

typedef enum TemplateValueKind
{
	TEMPLATE_ABSENT,
	TEMPLATE_NULL,
	TEMPLATE_FALSE,
	TEMPLATE_EMPTY,	 /* the empty string */
	TEMPLATE_SCALAR, /* any other string, any number, true */
	TEMPLATE_OBJECT,
	TEMPLATE_ARRAY
} TemplateValueKind;

/* A value of the data: its kind is the engine's, the rest is the host's. */
typedef struct TemplateValue
{
	TemplateValueKind kind;
	int count; /* elements of an array */
	uint64_t opaque[5];
} TemplateValue;

/*
 * TemplateHost lends the engine memory, data and an outlet. Callbacks that return bool stop the walk
 * with false. resize may fail only by not returning.
 */
typedef struct TemplateHost
{
	void *context;
	void *(*resize)(void *context, void *old, size_t size);
	TemplateErrorCode (*filter)(void *context, TemplateFilter *filter);
	bool (*member)(void *context, const TemplateValue *container, TemplateSlice name,
				   TemplateValue *result);
	void (*element)(void *context, const TemplateValue *array, int index, TemplateValue *result);
	bool (*text)(void *context, TemplateSlice text);
	bool (*value)(void *context, const TemplateValue *value, const TemplateFilter *filters,
				  int filter_count);
	bool (*pass)(void *context); /* before each pass through a section */
} TemplateHost;

extern bool ecstats_template_parse(const TemplateHost *host, TemplateSlice source,
								   TemplateTree *tree, TemplateError *error);
extern bool ecstats_template_walk(const TemplateHost *host, const TemplateTree *tree,
								  const TemplateValue *data);
extern bool ecstats_template_lookup(const TemplateHost *host, const TemplateValue *stack, int depth,
									TemplateSlice name, TemplateValue *result);

#endif /* ECSTATS_TEMPLATE_H */
