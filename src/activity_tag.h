/*
 * activity_tag.h
 *		Rules of tags: what a user's profile has, and what a rule asks of it.
 */
#ifndef ECSTATS_ACTIVITY_TAG_H
#define ECSTATS_ACTIVITY_TAG_H

#include "utils/jsonpath.h"

/* More than the columns of ecstats.user_profile. */
#define TAG_MAX_COLUMNS 32

/* Columns of the profile, by their place in it. */
typedef struct TagColumns
{
	bool has[TAG_MAX_COLUMNS];
} TagColumns;

extern int ecstats_tag_column_count(void);
extern int ecstats_tag_column_find(const char *name, int len);
extern void ecstats_tag_rule_walk(JsonPath *rule, TagColumns *asked);
extern bool ecstats_tag_rule_holds(Jsonb *profile, JsonPath *rule, Jsonb *no_variables);
extern Jsonb *ecstats_tag_empty_object(void);

#endif /* ECSTATS_ACTIVITY_TAG_H */
