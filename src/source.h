/*
 * source.h
 *		From the rows of a source's query to elements of the intake: source_map.c
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

#endif /* ECSTATS_SOURCE_H */
