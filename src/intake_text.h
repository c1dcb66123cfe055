/*
 * intake_text.h
 *		The rules and forms of texts that come in: control characters, names, decimals, UUIDs, instants.
 *
 * Plain C without a line of PostgreSQL's, so that a fuzzer can link it alone. Texts are not
 * terminated; nothing is allocated, nothing is raised.
 */
#ifndef ECSTATS_INTAKE_TEXT_H
#define ECSTATS_INTAKE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#define INTAKE_DECIMAL_MAX 60 /* bytes of a decimal that is sent as text */

extern int ecstats_text_control(const char *s, int len, bool utf8);
extern int ecstats_text_c1(const char *s, int len);
extern int ecstats_text_name(const char *s, int len);
extern bool ecstats_text_decimal(const char *s, int len);
extern bool ecstats_text_uuid(const char *s, int len, unsigned char uuid[16]);
extern bool ecstats_text_instant(const char *s, int len, int64_t *usec);

#endif /* ECSTATS_INTAKE_TEXT_H */
