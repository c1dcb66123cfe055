/*
 * compat.h
 *		PostgreSQL 14 to 18 in one source: the only place that looks at PG_VERSION_NUM.
 */
#ifndef ECSTATS_COMPAT_H
#define ECSTATS_COMPAT_H

#if PG_VERSION_NUM < 140000 || PG_VERSION_NUM >= 190000
#error "ecstats is written for PostgreSQL 14 to 18"
#endif

/* check_function_bodies and other GUC variables moved to a header of their own. */
#include "utils/guc.h"

/* The macros on variable-length values left postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "utils/jsonb.h"

/* A jsonb value being built. After 18 its state and its result are one struct of PostgreSQL's. */
typedef struct EcstatsJsonbBuild
{
	JsonbParseState *state;
	JsonbValue *result;			/* complete after the last WJB_END_* */
} EcstatsJsonbBuild;

static inline void
ecstats_jsonb_push(EcstatsJsonbBuild *build, JsonbIteratorToken token, JsonbValue *value)
{
	build->result = pushJsonbValue(&build->state, token, value);
}

#endif							/* ECSTATS_COMPAT_H */
