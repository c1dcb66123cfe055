/*
 * event_json.c
 *		From the JSON that apps send to rows of ecstats.events: one pass over the binary document, every
 *		rule applied, so that a batch is stored by one plain INSERT and a bad element costs no
 *		subtransaction.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat.h"
#include "ecstats.h"
#include "event.h"
#include "jsonb_get.h"

PG_FUNCTION_INFO_V1(ecstats_event_parse);

enum EventColumns
{
	COL_ORD,
	COL_TIME,
	COL_USER,
	COL_EVENT,
	COL_ID,
	COL_URL,
	COL_EXTRA,
	COL_SQLSTATE,
	COL_REASON,
	COL_PAYLOAD,
	N_COLS
};

/* Whether a member's key is a name; the length, known here, decides nearly always. */
#define KEY_IS(key, name)                           \
	((key)->val.string.len == (int) strlen(name) && \
	 memcmp((key)->val.string.val, (name), strlen(name)) == 0)

/*
 * has_column tells whether a member has a column of its own; the others go into extra.
 */
static bool
has_column(const JsonbValue *key)
{
	return KEY_IS(key, "event") || KEY_IS(key, "extra") || KEY_IS(key, "user_id") ||
		   KEY_IS(key, "event_id") || KEY_IS(key, "page_url") || KEY_IS(key, "timestamp");
}

/*
 * read_member reads one member into the draft; one that has no column is only counted.
 */
static bool
read_member(EventDraft *draft, const JsonbValue *key, const JsonbValue *v, EcstatsFault *fault)
{
	if (KEY_IS(key, "timestamp"))
	{
		if (v->type == jbvNull)
			return true;
		draft->has_time = true;
		return ecstats_json_instant(v, "timestamp", &draft->event_time, fault);
	}
	if (KEY_IS(key, "user_id"))
		return v->type == jbvNull ||
			   ecstats_json_string(v, "user_id", true, &draft->user_id, fault);
	if (KEY_IS(key, "event"))
		return v->type == jbvNull || ecstats_json_string(v, "event", false, &draft->event, fault);
	if (KEY_IS(key, "page_url"))
		return v->type == jbvNull ||
			   ecstats_json_string(v, "page_url", false, &draft->page_url, fault);
	if (KEY_IS(key, "event_id"))
	{
		draft->has_event_id = v->type != jbvNull;
		return v->type == jbvNull || ecstats_json_uuid(v, "event_id", &draft->event_id, fault);
	}
	if (KEY_IS(key, "extra"))
	{
		if (v->type == jbvNull)
			return true;
		if (!ecstats_json_extra(v, &draft->sent_extra, fault))
			return false;
		draft->sent_extra_len = v->val.binary.len;
		return true;
	}
	draft->unknown++;
	return true;
}

/*
 * read_members walks an element's members into the draft.
 */
static bool
read_members(EventDraft *draft, JsonbContainer *element, EcstatsFault *fault)
{
	JsonbIterator *it = JsonbIteratorInit(element);
	JsonbValue key;
	JsonbValue value;

	while (ecstats_json_next_member(&it, &key, &value))
	{
		if (!read_member(draft, &key, &value, fault))
			return false;
	}
	if (draft->event == NULL)
		return ecstats_json_missing("event", fault);
	if (!draft->has_time)
		return ecstats_json_missing("timestamp", fault);
	if (draft->user_id == NULL)
		return ecstats_json_missing("user_id", fault);
	return true;
}

/*
 * push_members copies the members of an object into the one that is being built; with unknown_only,
 * those that have no column. A member that is in extra too would be lost: a fault.
 */
static bool
push_members(JsonbParseState **state, JsonbContainer *object, bool unknown_only,
			 JsonbContainer *taken, EcstatsFault *fault)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue key;
	JsonbValue value;

	while (ecstats_json_next_member(&it, &key, &value))
	{
		if (unknown_only && has_column(&key))
			continue;
		if (taken != NULL && findJsonbValueFromContainer(taken, JB_FOBJECT, &key) != NULL)
			return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, "extra",
								 "Unknown members go into extra: send it in one of the two places.",
								 ecstats_shown(key.val.string.val, key.val.string.len),
								 "a member stands both at top level and in \"extra\"");
		(void) pushJsonbValue(state, WJB_KEY, &key);
		(void) pushJsonbValue(state, WJB_VALUE, &value);
	}
	return true;
}

/*
 * build_extra makes the column extra of what was sent as extra and of unknown members.
 */
static bool
build_extra(EventDraft *draft, JsonbContainer *element, EcstatsFault *fault)
{
	JsonbParseState *state = NULL;
	JsonbValue *result;
	JsonbValue whole;

	if (draft->unknown == 0 && draft->sent_extra != NULL)
	{
		/* The usual case: nothing to merge, a container is copied as it is. */
		whole.type = jbvBinary;
		whole.val.binary.data = draft->sent_extra;
		whole.val.binary.len = draft->sent_extra_len;
		draft->extra = JsonbValueToJsonb(&whole);
		return true;
	}
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (draft->sent_extra != NULL && !push_members(&state, draft->sent_extra, false, NULL, fault))
		return false;
	if (draft->unknown > 0 && !push_members(&state, element, true, draft->sent_extra, fault))
		return false;
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	draft->extra = JsonbValueToJsonb(result);
	return true;
}

/*
 * append_text appends a length and the bytes, so that different contents never join alike.
 */
static void
append_text(StringInfo buf, const text *t)
{
	int32 len = t ? (int32) VARSIZE_ANY_EXHDR(t) : -1;

	appendBinaryStringInfo(buf, (char *) &len, sizeof(len));
	if (t)
		appendBinaryStringInfo(buf, VARDATA_ANY(t), len);
}

/*
 * derive_event_id names an event by its content (SHA-256 in the form of a version 8 UUID), so that a
 * client that sends the same call again stores it once.
 */
static void
derive_event_id(EventDraft *draft)
{
	StringInfoData buf;
	bytea *digest;

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendBinaryStringInfo(&buf, (char *) &draft->event_time, sizeof(draft->event_time));
	append_text(&buf, draft->user_id);
	append_text(&buf, draft->event);
	append_text(&buf, draft->page_url);
	append_text(&buf, (text *) draft->extra);
	SET_VARSIZE(buf.data, buf.len);

	digest = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(buf.data)));
	memcpy(draft->event_id.data, VARDATA_ANY(digest), UUID_LEN);
	draft->event_id.data[6] = (draft->event_id.data[6] & 0x0f) | 0x80;
	draft->event_id.data[8] = (draft->event_id.data[8] & 0x3f) | 0x80;
}

/*
 * ecstats_event_draft turns one element into a draft that keeps every rule; false with the fault
 * filled. now is the clock. What the draft points to is in the current memory context.
 */
bool
ecstats_event_draft(EventDraft *draft, const JsonbValue *element, TimestampTz now,
					EcstatsFault *fault)
{
	EventParts parts;

	memset(draft, 0, sizeof(*draft));
	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
							 "An event is an object with event, timestamp and user_id.",
							 ecstats_json_shown(element), "an event is not a JSON object");
	if (!read_members(draft, element->val.binary.data, fault) ||
		!build_extra(draft, element->val.binary.data, fault))
		return false;

	parts.event_time = draft->event_time;
	parts.user_id = VARDATA_ANY(draft->user_id);
	parts.user_id_len = VARSIZE_ANY_EXHDR(draft->user_id);
	parts.event = VARDATA_ANY(draft->event);
	parts.event_len = VARSIZE_ANY_EXHDR(draft->event);
	parts.page_url = draft->page_url ? VARDATA_ANY(draft->page_url) : NULL;
	parts.page_url_len = draft->page_url ? VARSIZE_ANY_EXHDR(draft->page_url) : 0;
	parts.extra = draft->extra;
	if (!ecstats_event_check_parts(&parts, now, fault))
		return false;
	if (!draft->has_event_id)
		derive_event_id(draft);
	return true;
}

/*
 * ecstats_event_raise raises what is wrong with the element of number ord.
 */
void
ecstats_event_raise(EcstatsFault *fault, int ord, bool in_array)
{
	if (in_array)
		fault->detail =
			psprintf("Element %d of the payload. %s", ord, fault->detail ? fault->detail : "");
	ecstats_fault_raise(fault, "events", NULL);
}

/*
 * emit_event adds the row of one element: the event, or what is wrong with it.
 */
static void
emit_event(EcstatsRows *rows, int ord, EventDraft *draft, const EcstatsFault *fault,
		   const JsonbValue *element)
{
	Datum values[N_COLS] = {0};
	bool nulls[N_COLS];

	memset(nulls, true, sizeof(nulls));
	values[COL_ORD] = Int32GetDatum(ord);
	nulls[COL_ORD] = false;
	if (fault->sqlstate == 0)
	{
		values[COL_TIME] = TimestampTzGetDatum(draft->event_time);
		values[COL_USER] = PointerGetDatum(draft->user_id);
		values[COL_EVENT] = PointerGetDatum(draft->event);
		values[COL_ID] = UUIDPGetDatum(&draft->event_id);
		values[COL_URL] = PointerGetDatum(draft->page_url);
		values[COL_EXTRA] = JsonbPGetDatum(draft->extra);
		memset(&nulls[COL_TIME], false, COL_EXTRA - COL_TIME + 1);
		nulls[COL_URL] = draft->page_url == NULL;
	}
	else
	{
		values[COL_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(fault->sqlstate));
		values[COL_REASON] = CStringGetTextDatum(ecstats_fault_text(fault));
		values[COL_PAYLOAD] = JsonbPGetDatum(JsonbValueToJsonb((JsonbValue *) element));
		memset(&nulls[COL_SQLSTATE], false, COL_PAYLOAD - COL_SQLSTATE + 1);
	}
	ecstats_rows_add(rows, values, nulls);
}

/*
 * parse_element drafts and emits one element, or raises what is wrong with it.
 */
static void
parse_element(EcstatsRows *rows, int ord, bool in_array, const JsonbValue *element, bool raise,
			  TimestampTz now)
{
	EventDraft draft;
	EcstatsFault fault = {0};

	if (!ecstats_event_draft(&draft, element, now, &fault) && raise)
		ecstats_event_raise(&fault, ord, in_array);
	emit_event(rows, ord, &draft, &fault, element);
}

/*
 * ecstats_event_parse(payload jsonb, raise boolean, at timestamptz) returns one row an element: the
 * columns of ecstats.events, or sqlstate, reason and the element itself. With raise, the first bad
 * element is an error. at is the clock: who asks twice gives the same one, so that the answer is the
 * same. Memory: one element at a time; the rows spill past work_mem.
 */
Datum
ecstats_event_parse(PG_FUNCTION_ARGS)
{
	Jsonb *payload = PG_GETARG_JSONB_P(0);
	bool raise = PG_GETARG_BOOL(1);
	EcstatsRows rows = ecstats_rows_begin(fcinfo);
	TimestampTz now = PG_GETARG_TIMESTAMPTZ(2);
	MemoryContext per_element =
		AllocSetContextCreate(CurrentMemoryContext, "ecstats event", ALLOCSET_DEFAULT_SIZES);
	EcstatsElements elements = ecstats_json_elements(payload, EVENT_PAYLOAD_MAX, "events");
	JsonbValue element;
	MemoryContext old;

	while (ecstats_json_next_element(&elements, &element))
	{
		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(per_element);
		parse_element(&rows, elements.ord, elements.in_array, &element, raise, now);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_element);
	}
	MemoryContextDelete(per_element);
	return (Datum) 0;
}
