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

/* 14 has pg_hmac_* without the text of what went wrong. */
#if PG_VERSION_NUM >= 150000
#define ecstats_hmac_reason(ctx) pg_hmac_error(ctx)
#else
#define ecstats_hmac_reason(ctx) "the cryptographic library refused"
#endif

/* The macros on variable-length values left postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#endif							/* ECSTATS_COMPAT_H */
