/*
 * check.h: --check and the comparison of versions.
 */
#ifndef PUSHER_CHECK_H
#define PUSHER_CHECK_H

#include <stdbool.h>

#include "config.h"

extern bool version_fits(const char *version, bool *older);
extern int check_run(const Config *config);

#endif
