/*
 * answer.h: what deliveries and fetches alike report of an answer.
 */
#ifndef PUSHER_ANSWER_H
#define PUSHER_ANSWER_H

#include <jansson.h>

#include "http.h"

extern json_t *answer_headers(const HttpResult *result);

#endif
