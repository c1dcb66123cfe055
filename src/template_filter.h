/*
 * template_filter.h
 *		What may stand behind a bar: {{gmv | money}}.
 */
#ifndef ECSTATS_TEMPLATE_FILTER_H
#define ECSTATS_TEMPLATE_FILTER_H

#include "utils/numeric.h"

#include "template.h"

#define ECSTATS_TEMPLATE_FILTER_HINT                                                             \
	"Filters are money, int, percent, signed_percent, cn, date:FORMAT, default:TEXT, upper and " \
	"truncate:N."
#define ECSTATS_TEMPLATE_ARGUMENT_HINT                                                          \
	"Write truncate:20 (1 to 100000 characters), percent:2 (0 to 6 decimals), date:YYYY-MM-DD " \
	"HH24:MI (patterns as of to_char)."

typedef enum TemplateFilteredKind
{
	FILTERED_ABSENT, /* null or missing */
	FILTERED_NUMBER,
	FILTERED_TEXT
} TemplateFilteredKind;

/* A value on its way through a chain of filters. */
typedef struct TemplateFiltered
{
	TemplateFilteredKind kind;
	Numeric number;
	const char *text;
	int len;
	bool is_dash; /* text stands for nothing: a number filter found none */
} TemplateFiltered;

extern TemplateErrorCode ecstats_template_filter_find(TemplateFilter *filter);
extern void ecstats_template_filter_apply(const TemplateFilter *filter, int currency_decimals,
										  TemplateFiltered *value);
extern int ecstats_template_currency_decimals(const char *code, int len);

/* template_date.c */
extern bool ecstats_template_date_check(const char *format, int len);
extern bool ecstats_template_date_apply(const char *format, int format_len,
										TemplateFiltered *value);

#endif /* ECSTATS_TEMPLATE_FILTER_H */
