/*
 * failure.h: why a request failed.
 */
#ifndef PUSHER_FAILURE_H
#define PUSHER_FAILURE_H

#include "transfer.h"

extern const char *failure_kind(const Transfer *t, CURLcode code);
extern void failure_text(Transfer *t, CURLcode code);

#endif
