/*
 * errors.h
 *		The fault: what is wrong with one row, before anybody has decided to raise it. A CHECK raises it,
 *		an intake with on_error => 'quarantine' stores it beside the row.
 */
#ifndef ECSTATS_ERRORS_H
#define ECSTATS_ERRORS_H

#include "datatype/timestamp.h"
#include "utils/elog.h"

/* Between this library's C and its SQL, never seen by a client: INSERT has to do it. */
#define ERRCODE_ECSTATS_USE_INSERT MAKE_SQLSTATE('Z', 'E', '0', '0', '1')

typedef struct EcstatsFault
{
	int sqlstate;		/* 0: there is none */
	const char *column; /* the column or member concerned */
	char *message;		/* what is wrong: lower case, no full stop */
	char *detail;		/* the value, shortened and escaped, or where it stands */
	const char *hint;	/* what to do */
} EcstatsFault;

/* errors.c */
extern bool ecstats_fault(EcstatsFault *fault, int sqlstate, const char *column, const char *hint,
						  char *detail, const char *fmt, ...) pg_attribute_printf(6, 7);
extern void ecstats_fault_raise(const EcstatsFault *fault, const char *table,
								const char *constraint) __attribute__((noreturn));
extern char *ecstats_fault_text(const EcstatsFault *fault);
extern char *ecstats_shown(const char *value, int length);
extern bool ecstats_check_text(EcstatsFault *fault, const char *column, const char *s, int len,
							   int min, int max);
extern TimestampTz ecstats_clock_for(TimestampTz ts);
extern bool ecstats_check_instant(EcstatsFault *fault, const char *column, TimestampTz ts,
								  TimestampTz now);

#endif /* ECSTATS_ERRORS_H */
