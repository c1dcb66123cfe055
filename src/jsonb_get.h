/*
 * jsonb_get.h
 *		Reading JSON intake: the values that events and orders have in common.
 */
#ifndef ECSTATS_JSONB_GET_H
#define ECSTATS_JSONB_GET_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "errors.h"

/* The elements of an intake's payload: those of an array, or the one value that is no array. */
typedef struct EcstatsElements
{
	Jsonb *payload;
	JsonbIterator *it; /* NULL: not an array */
	int ord;		   /* number of the element returned last, from 1 */
	bool in_array;
} EcstatsElements;

extern EcstatsElements ecstats_json_elements(Jsonb *payload, int max, const char *what);
extern bool ecstats_json_next_element(EcstatsElements *elements, JsonbValue *element);

extern bool ecstats_json_next_member(JsonbIterator **it, JsonbValue *key, JsonbValue *value);
extern bool ecstats_json_extra(const JsonbValue *v, JsonbContainer **object, EcstatsFault *fault);
extern bool ecstats_check_extra(EcstatsFault *fault, Jsonb *extra);
extern bool ecstats_json_string(const JsonbValue *v, const char *member, bool numbers,
								text **result, EcstatsFault *fault);
extern bool ecstats_json_instant(const JsonbValue *v, const char *member, TimestampTz *result,
								 EcstatsFault *fault);
extern bool ecstats_json_uuid(const JsonbValue *v, const char *member, pg_uuid_t *result,
							  EcstatsFault *fault);
extern bool ecstats_json_int(const JsonbValue *v, const char *member, int32 *result,
							 EcstatsFault *fault);
extern bool ecstats_json_numeric(const JsonbValue *v, const char *member, Datum *result,
								 EcstatsFault *fault);
extern bool ecstats_json_missing(const char *member, EcstatsFault *fault);
extern bool ecstats_json_is(const JsonbValue *key, const char *name);
extern char *ecstats_json_shown(const JsonbValue *v);

#endif /* ECSTATS_JSONB_GET_H */
