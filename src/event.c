/*
 * event.c
 *		What an event must be: one check_* a rule, and the CHECK constraint that applies them all to
 *		every row, whichever way it comes in.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "event.h"
#include "intake_text.h"
#include "jsonb_get.h"

#define USER_ID_MAX_BYTES  128
#define EVENT_MAX_BYTES	   64
#define PAGE_URL_MAX_BYTES 2048

PG_FUNCTION_INFO_V1(ecstats_event_check);

/*
 * The event whose row is held against the constraints just now, where every rule was applied before: the
 * CHECK need not do it again. Set for the time of that only (event_store.c).
 */
const EventDraft *ecstats_event_judged = NULL;

/*
 * check_event_name: [a-z][a-z0-9_.:-]*, 1 to 64 bytes.
 */
static bool
check_event_name(const char *s, int len, EcstatsFault *fault)
{
	int at;

	if (!ecstats_check_text(fault, "event", s, len, 1, EVENT_MAX_BYTES))
		return false;
	at = ecstats_text_name(s, len);
	if (at < 0)
		return true;
	return ecstats_fault(
		fault, ERRCODE_CHECK_VIOLATION, "event",
		"Event names are a lower-case letter, then lower-case letters, digits and _ . : -",
		ecstats_shown(s, len), "event has a character that names may not have at byte %d", at + 1);
}

/*
 * ecstats_event_check_parts applies every rule to one event; false with the fault filled at the first
 * that is broken. now is the clock, so that this stays a function of its arguments.
 */
bool
ecstats_event_check_parts(const EventParts *parts, TimestampTz now, EcstatsFault *fault)
{
	return ecstats_check_instant(fault, "event_time", parts->event_time, now) &&
		   ecstats_check_text(fault, "user_id", parts->user_id, parts->user_id_len, 1,
							  USER_ID_MAX_BYTES) &&
		   check_event_name(parts->event, parts->event_len, fault) &&
		   (parts->page_url == NULL ||
			ecstats_check_text(fault, "page_url", parts->page_url, parts->page_url_len, 0,
							   PAGE_URL_MAX_BYTES)) &&
		   ecstats_check_extra(fault, parts->extra);
}

/*
 * judged_before tells whether the CHECK's arguments are the very values that were judged already.
 */
static bool
judged_before(FunctionCallInfo fcinfo)
{
	const EventDraft *judged = ecstats_event_judged;

	return judged != NULL && PG_GETARG_TIMESTAMPTZ(0) == judged->event_time &&
		   PG_GETARG_POINTER(1) == (const void *) judged->user_id &&
		   PG_GETARG_POINTER(2) == (const void *) judged->event &&
		   (PG_ARGISNULL(3) ? NULL : PG_GETARG_POINTER(3)) == (const void *) judged->page_url &&
		   PG_GETARG_POINTER(4) == (const void *) judged->extra;
}

/*
 * ecstats_event_check is the CHECK of ecstats.events (event_time, user_id, event, page_url, extra):
 * true, or an error 23514 that says which rule of which column is broken. It also notes the day.
 * NULLs are the business of the NOT NULL constraints, which come first.
 */
Datum
ecstats_event_check(PG_FUNCTION_ARGS)
{
	EventParts parts;
	EcstatsFault fault;
	text *user_id;
	text *event;
	text *page_url = NULL;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_ARGISNULL(4))
		PG_RETURN_BOOL(false);
	if (judged_before(fcinfo))
	{
		ecstats_day_note(PG_GETARG_TIMESTAMPTZ(0));
		PG_RETURN_BOOL(true);
	}

	parts.event_time = PG_GETARG_TIMESTAMPTZ(0);
	user_id = PG_GETARG_TEXT_PP(1);
	parts.user_id = VARDATA_ANY(user_id);
	parts.user_id_len = VARSIZE_ANY_EXHDR(user_id);
	event = PG_GETARG_TEXT_PP(2);
	parts.event = VARDATA_ANY(event);
	parts.event_len = VARSIZE_ANY_EXHDR(event);
	parts.page_url = NULL;
	parts.page_url_len = 0;
	if (!PG_ARGISNULL(3))
	{
		page_url = PG_GETARG_TEXT_PP(3);
		parts.page_url = VARDATA_ANY(page_url);
		parts.page_url_len = VARSIZE_ANY_EXHDR(page_url);
	}
	parts.extra = PG_GETARG_JSONB_P(4);

	if (!ecstats_event_check_parts(&parts, ecstats_clock_for(parts.event_time), &fault))
		ecstats_fault_raise(&fault, "events", "events_valid");
	ecstats_day_note(parts.event_time);

	PG_FREE_IF_COPY(parts.extra, 4);
	PG_RETURN_BOOL(true);
}
