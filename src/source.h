/*
 * source.h
 *		What source.c needs beside it: from the rows of a source's query to elements of the intake
 *		(source_map.c), and which advisory locks the query took (source_lock.c).
 */
#ifndef ECSTATS_SOURCE_H
#define ECSTATS_SOURCE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/jsonb.h"

/* Which member each column becomes. */
typedef struct SourceMap SourceMap;

extern SourceMap *ecstats_source_map(TupleDesc desc, const char *target);
extern Jsonb *ecstats_source_element(const SourceMap *map, HeapTuple row);

/* Advisory locks that the session held before the query. */
typedef struct SourceLocks SourceLocks;

extern SourceLocks *ecstats_source_locks(void);
extern void ecstats_source_unlock(SourceLocks *before);

#endif /* ECSTATS_SOURCE_H */
