/*
 * event.h
 *		The rules of one event, shared by the CHECK (event.c) and the JSON intake (event_json.c,
 *		event_store.c).
 */
#ifndef ECSTATS_EVENT_H
#define ECSTATS_EVENT_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "errors.h"

#define EVENT_PAYLOAD_MAX 100000 /* elements of one call */

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

/* One element of the JSON intake on its way to a row. */
typedef struct EventDraft
{
	TimestampTz event_time;
	text *user_id;
	text *event;
	text *page_url; /* NULL: none */
	Jsonb *extra;
	pg_uuid_t event_id;
	bool has_time;
	bool has_event_id;
	JsonbContainer *sent_extra; /* member "extra" as sent; NULL: none */
	int sent_extra_len;
	int unknown; /* members that belong into extra */
} EventDraft;

/* event.c */
extern const EventDraft *ecstats_event_judged;
extern bool ecstats_event_check_parts(const EventParts *parts, TimestampTz now,
									  EcstatsFault *fault);

/* event_json.c */
extern bool ecstats_event_draft(EventDraft *draft, const JsonbValue *element, TimestampTz now,
								EcstatsFault *fault);
extern void ecstats_event_raise(EcstatsFault *fault, int ord, bool in_array)
	__attribute__((noreturn));

#endif /* ECSTATS_EVENT_H */
