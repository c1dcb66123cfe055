/*
 * event.h
 *		The rules of one event, shared by the CHECK (event.c) and the JSON intake (event_json.c).
 */
#ifndef ECSTATS_EVENT_H
#define ECSTATS_EVENT_H

#include "utils/jsonb.h"

#include "errors.h"

/* The parts of an event that the rules look at; texts are not NUL-terminated. */
typedef struct EventParts
{
	TimestampTz event_time;
	const char *user_id;
	int user_id_len;
	const char *event;
	int event_len;
	const char *page_url; /* NULL: none */
	int page_url_len;
	Jsonb *extra;
} EventParts;

extern bool ecstats_event_check_parts(const EventParts *parts, TimestampTz now,
									  EcstatsFault *fault);

#endif /* ECSTATS_EVENT_H */
