/*
 * ecstats.h
 *		What every area of the extension may use: settings, the business day, the note of changed
 *		days. An area's .c includes this, errors.h, compat.h and jsonb_get.h, never another area's.
 */
#ifndef ECSTATS_H
#define ECSTATS_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "pgtime.h"
#include "utils/date.h"

#define ECSTATS_VERSION "1.0"

/* The settings that C needs, read from ecstats.config and cached until that row changes. */
typedef struct EcstatsConfig
{
	pg_tz *timezone;	  /* the shop's clock */
	int64 day_starts_at;  /* microseconds after local midnight, 0 .. 24 h */
	char currency[4];	  /* ISO 4217 */
	int32 rollup_memory;  /* megabytes that computing a day may take */
	int32 rollup_workers; /* parallel workers that may help with it */
} EcstatsConfig;

/* A set-returning function that fills a tuplestore: srf.c */
typedef struct EcstatsRows
{
	struct Tuplestorestate *store;
	struct TupleDescData *desc;
} EcstatsRows;

extern EcstatsRows ecstats_rows_begin(FunctionCallInfo fcinfo);
extern void ecstats_rows_add(EcstatsRows *rows, Datum *values, bool *nulls);

/* encoding.c */
extern char *ecstats_native(const char *utf8, int len);
extern int ecstats_encoding_unclean(const char *s, int len);

/* day.c */
extern const EcstatsConfig *ecstats_config_get(void);
extern DateADT ecstats_day_of(TimestampTz ts);
extern TimestampTz ecstats_day_start(DateADT day);
extern pg_tz *ecstats_timezone_lookup(const char *name);
extern void ecstats_day_init(void);

/* day_mark.c */
extern void ecstats_day_note(TimestampTz ts);
extern bool ecstats_restoring(void);
extern void ecstats_day_mark_init(void);

/* drop_guard.c */
extern void ecstats_drop_guard_ensure(void);
extern void ecstats_drop_guard_changed(Oid relid);
extern bool ecstats_drop_guard_wanted(void);
extern void ecstats_drop_guard_forget(void);

#endif /* ECSTATS_H */
