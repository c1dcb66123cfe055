/*
 * fuzz.h
 *		What the fuzz targets share: a promise that is broken ends the process, so that it is found.
 */
#ifndef ECSTATS_FUZZ_H
#define ECSTATS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST(promise) \
	((promise) ? (void) 0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #promise), abort()))

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* ECSTATS_FUZZ_H */
