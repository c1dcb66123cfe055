/*
 * errors.h
 *		SQLSTATEs of our own (class ZE; everything that has a standard code uses that one).
 */
#ifndef ECSTATS_ERRORS_H
#define ECSTATS_ERRORS_H

#include "utils/elog.h"

/* The database is a copy of another one: nothing leaves it before ecstats_adopt(). */
#define ERRCODE_ECSTATS_NOT_ADOPTED MAKE_SQLSTATE('Z', 'E', '0', '0', '1')

#endif							/* ECSTATS_ERRORS_H */
