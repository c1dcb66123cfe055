/*
 * jsonb_get.c
 *		Reading JSON intake. Nothing here raises because of what was sent: the fault is filled and the
 *		caller decides.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/numeric.h"

#include "compat.h"
#include "intake_text.h"
#include "jsonb_get.h"

#define LARGE_PAYLOAD 16384	  /* bytes of jsonb */
#define KEPT_BLOCK	  8388608 /* bytes */

#define EXTRA_MAX_BYTES	  (16 * 1024)
#define EXTRA_MAX_KEYS	  64
#define NUMBER_SLACK	  8				 /* bytes of a number that number_length leaves out */
#define SHOWN_MAX_BYTES	  (1 << 20)		 /* digits that are printed for DETAIL */
#define MILLISECONDS_FROM 100000000000.0 /* 1e11: numbers from here on are milliseconds */

static const char uuid_hint[] =
	"Send 32 hexadecimal digits, or leave it out: one is derived from the content.";
static const char instant_hint[] =
	"Send a Unix number (seconds, or milliseconds from 1e11 on) or an ISO 8601 text with its "
	"offset, such as 2026-11-24T09:30:00+08:00.";

/*
 * ecstats_json_is tells whether a member's key is name.
 */
bool
ecstats_json_is(const JsonbValue *key, const char *name)
{
	int len = strlen(name);

	return key->val.string.len == len && memcmp(key->val.string.val, name, len) == 0;
}

/*
 * ecstats_json_shown returns a JSON value for DETAIL, shortened and escaped.
 */
char *
ecstats_json_shown(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvNull:
			return pstrdup("Value: null.");
		case jbvBool:
			return psprintf("Value: %s.", v->val.boolean ? "true" : "false");
		case jbvString:
			return ecstats_shown(v->val.string.val, v->val.string.len);
		case jbvNumeric:
		{
			char *s =
				DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));

			/* without quotes, or it would look like the text that was asked for */
			if (strlen(s) <= 60)
				return psprintf("Value: %s.", s);
			return psprintf("Value: %.60s... (%d bytes in all).", s, (int) strlen(s));
		}
		default:
			return pstrdup("Value: an object or an array.");
	}
}

/*
 * ecstats_json_missing fills the fault of a member that must be there.
 */
bool
ecstats_json_missing(const char *member, EcstatsFault *fault)
{
	return ecstats_fault(fault, ERRCODE_NOT_NULL_VIOLATION, member, "Send it with every element.",
						 NULL, "member \"%s\" is missing or null", member);
}

/*
 * wrong_type fills the fault of a member of the wrong JSON type.
 */
static bool
wrong_type(const JsonbValue *v, const char *member, const char *wanted, const char *hint,
		   EcstatsFault *fault)
{
	return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, member, hint,
						 ecstats_json_shown(v), "member \"%s\" is not %s", member, wanted);
}

/*
 * whole_number tells whether a numeric has no fraction (and is finite).
 */
static bool
whole_number(Numeric n)
{
	Datum d = NumericGetDatum(n);

	if (numeric_is_nan(n) || numeric_is_inf(n))
		return false;
	return DatumGetBool(DirectFunctionCall2(
		numeric_eq, d, DirectFunctionCall2(numeric_trunc, d, Int32GetDatum(0))));
}

/*
 * ecstats_json_string reads a text; with numbers, a whole number is taken as its digits (ids often
 * come so).
 */
bool
ecstats_json_string(const JsonbValue *v, const char *member, bool numbers, text **result,
					EcstatsFault *fault)
{
	if (v->type == jbvString)
	{
		*result = cstring_to_text_with_len(v->val.string.val, v->val.string.len);
		return true;
	}
	if (numbers && v->type == jbvNumeric && whole_number(v->val.numeric))
	{
		/* 1.0 is 1: the same id, however the sender's language prints it */
		Datum whole =
			DirectFunctionCall2(numeric_trunc, NumericGetDatum(v->val.numeric), Int32GetDatum(0));

		*result = cstring_to_text(DatumGetCString(DirectFunctionCall1(numeric_out, whole)));
		return true;
	}
	return wrong_type(v, member, numbers ? "a text or a whole number" : "a text",
					  "Send it in double quotes.", fault);
}

/*
 * ecstats_json_int reads a whole number of 32 bits.
 */
bool
ecstats_json_int(const JsonbValue *v, const char *member, int32 *result, EcstatsFault *fault)
{
	static const char *const range = "a whole number of 32 bits";
	int64 i;

	if (v->type != jbvNumeric || !whole_number(v->val.numeric))
		return wrong_type(v, member, range, "Send it as a bare JSON number.", fault);

	/* numeric_int8 raises when out of range: compare before */
	if (DatumGetBool(
			DirectFunctionCall2(numeric_gt, NumericGetDatum(v->val.numeric),
								DirectFunctionCall1(int4_numeric, Int32GetDatum(PG_INT32_MAX)))) ||
		DatumGetBool(
			DirectFunctionCall2(numeric_lt, NumericGetDatum(v->val.numeric),
								DirectFunctionCall1(int4_numeric, Int32GetDatum(PG_INT32_MIN)))))
		return wrong_type(v, member, range, "Send it as a bare JSON number.", fault);
	i = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v->val.numeric)));
	*result = (int32) i;
	return true;
}

/*
 * ecstats_json_numeric reads a number, or a text that is a plain decimal.
 */
bool
ecstats_json_numeric(const JsonbValue *v, const char *member, Datum *result, EcstatsFault *fault)
{
	if (v->type == jbvNumeric)
	{
		*result = NumericGetDatum(v->val.numeric);
		return true;
	}
	if (v->type == jbvString && ecstats_text_decimal(v->val.string.val, v->val.string.len))
	{
		*result = DirectFunctionCall3(
			numeric_in, CStringGetDatum(pnstrdup(v->val.string.val, v->val.string.len)),
			ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		return true;
	}
	return wrong_type(v, member, "a number",
					  "Send a JSON number, or a decimal such as \"12.50\" in double quotes.",
					  fault);
}

/*
 * ecstats_json_uuid reads a UUID in the usual form, with or without hyphens.
 */
bool
ecstats_json_uuid(const JsonbValue *v, const char *member, pg_uuid_t *result, EcstatsFault *fault)
{
	if (v->type == jbvString &&
		ecstats_text_uuid(v->val.string.val, v->val.string.len, result->data))
		return true;
	return wrong_type(v, member, "a UUID", uuid_hint, fault);
}

/*
 * unix_instant reads a Unix number, seconds or milliseconds, fractions included, exactly.
 */
static bool
unix_instant(Numeric n, TimestampTz *result)
{
	Datum d = NumericGetDatum(n);
	double approx;
	Datum unit;
	int64 usec;

	if (numeric_is_nan(n) || numeric_is_inf(n))
		return false;
	approx = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, d));
	if (approx > 4e15 || approx < -4e12) /* far outside anything that a timestamp holds */
		return false;
	unit = DirectFunctionCall1(int8_numeric,
							   Int64GetDatum(approx >= MILLISECONDS_FROM ? 1000 : USECS_PER_SEC));
	usec =
		DatumGetInt64(DirectFunctionCall1(numeric_int8, DirectFunctionCall2(numeric_mul, d, unit)));
	*result = usec - (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	return IS_VALID_TIMESTAMP(*result);
}

/*
 * ecstats_json_instant reads an instant: a Unix number or an ISO 8601 text with offset.
 */
bool
ecstats_json_instant(const JsonbValue *v, const char *member, TimestampTz *result,
					 EcstatsFault *fault)
{
	if (v->type == jbvNumeric && unix_instant(v->val.numeric, result))
		return true;
	if (v->type == jbvString && ecstats_text_instant(v->val.string.val, v->val.string.len, result))
		return true;
	return ecstats_fault(fault, ERRCODE_INVALID_DATETIME_FORMAT, member, instant_hint,
						 ecstats_json_shown(v), "member \"%s\" is no instant", member);
}

/*
 * keep_memory tells the allocator, once a session, that arrays will come again. PostgreSQL takes some 17
 * times an array's text to read it; glibc would give that back to the kernel after every call, and the
 * page faults of the next call cost more than its reading. A freed block makes glibc keep up to twice as
 * much as the block had, as it does by itself after a large query. The block is never touched.
 */
static void
keep_memory(void)
{
	static bool told = false;
	void *volatile block;

	if (told)
		return;
	told = true;
	block = malloc(KEPT_BLOCK);
	free(block);
}

/*
 * ecstats_json_elements begins to walk a payload; more than max elements are an error that calls them
 * what.
 */
EcstatsElements
ecstats_json_elements(Jsonb *payload, int max, const char *what)
{
	EcstatsElements elements = {0};

	elements.payload = payload;
	elements.in_array = JB_ROOT_IS_ARRAY(payload) && !JB_ROOT_IS_SCALAR(payload);
	if (elements.in_array && JB_ROOT_COUNT(payload) > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the payload has %u %s, the most is %d", JB_ROOT_COUNT(payload), what, max),
				 errhint("Send several arrays.")));
	if (elements.in_array)
		elements.it = JsonbIteratorInit(&payload->root);
	if (VARSIZE(payload) >= LARGE_PAYLOAD)
		keep_memory();
	return elements;
}

/*
 * ecstats_json_next_element returns the next element, not deeper than itself; false at the end.
 */
bool
ecstats_json_next_element(EcstatsElements *elements, JsonbValue *element)
{
	Jsonb *payload = elements->payload;
	JsonbIteratorToken token;

	if (elements->in_array)
	{
		while ((token = JsonbIteratorNext(&elements->it, element, true)) != WJB_DONE)
		{
			if (token == WJB_ELEM)
			{
				elements->ord++;
				return true;
			}
		}
		return false;
	}
	if (elements->ord++ > 0)
		return false;
	if (JB_ROOT_IS_SCALAR(payload))
		(void) JsonbExtractScalar(&payload->root, element);
	else
	{
		element->type = jbvBinary;
		element->val.binary.data = &payload->root;
		element->val.binary.len = VARSIZE_ANY_EXHDR(payload);
	}
	return true;
}

/*
 * ecstats_json_next_member returns the next member of the object that an iterator walks, its value not
 * deeper than itself; false at the end.
 */
bool
ecstats_json_next_member(JsonbIterator **it, JsonbValue *key, JsonbValue *value)
{
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(it, key, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			(void) JsonbIteratorNext(it, value, true);
			return true;
		}
	}
	return false;
}

/*
 * ecstats_json_extra reads the member "extra", which must be an object.
 */
bool
ecstats_json_extra(const JsonbValue *v, JsonbContainer **object, EcstatsFault *fault)
{
	if (v->type != jbvBinary || !JsonContainerIsObject(v->val.binary.data))
		return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, "extra",
							 "Send an object, {} if there is nothing to say.",
							 ecstats_json_shown(v), "member \"extra\" is not an object");
	*object = v->val.binary.data;
	return true;
}

/*
 * json_text returns a document as jsonb prints it.
 */
static void
json_text(Jsonb *document, StringInfo text)
{
	initStringInfo(text);
	(void) JsonbToCString(text, &document->root, VARSIZE(document) - VARHDRSZ);
}

/*
 * number_length returns how long a number's text is, less at most NUMBER_SLACK: digits before the point by
 * its weight, digits behind it by its scale. 1e131071 takes 8 bytes to store and 131,072 to print.
 */
static int
number_length(Numeric number)
{
	/* The header of a packed or of a long numeric on disk, which no upgrade has changed. */
	const uint16 *head = (const uint16 *) VARDATA(number);
	int weight;
	int scale;

	if ((head[0] & 0xC000) == 0x8000)
	{
		weight = (head[0] & 0x0040 ? ~0x003F : 0) | (head[0] & 0x003F);
		scale = (head[0] & 0x1F80) >> 7;
	}
	else
	{
		weight = (int16) head[1];
		scale = head[0] & 0x3FFF;
	}
	return Max(weight, 0) * 4 + 1 + scale;
}

/*
 * numbers_length sums number_length over the numbers of a container and of those within it. Containers are
 * as large as they are deep, so that a small one is not deep; stops where more than most is sure.
 */
static int64
numbers_length(JsonbContainer *container, int64 most, int *count)
{
	int n = JsonContainerSize(container) * (JsonContainerIsObject(container) ? 2 : 1);
	char *base = (char *) &container->children[n];
	uint32 offset = 0;
	int64 length = 0;
	int i;

	check_stack_depth();
	for (i = 0; i < n && length <= most; i++)
	{
		JEntry entry = container->children[i];

		if (JBE_ISNUMERIC(entry))
		{
			length += number_length((Numeric) (base + INTALIGN(offset)));
			(*count)++;
		}
		else if (JBE_ISCONTAINER(entry))
			length +=
				numbers_length((JsonbContainer *) (base + INTALIGN(offset)), most - length, count);
		JBE_ADVANCE_OFFSET(offset, entry);
	}
	return length;
}

/*
 * extra_fault fills the fault of an "extra" that breaks a rule, with the beginning of its text where that can
 * be printed.
 */
static bool
extra_fault(EcstatsFault *fault, Jsonb *extra, const char *hint, const char *message)
{
	StringInfoData text;
	int count = 0;
	char *detail;

	if (numbers_length(&extra->root, SHOWN_MAX_BYTES, &count) > SHOWN_MAX_BYTES)
		detail = pstrdup("It has numbers with very many digits.");
	else
	{
		json_text(extra, &text);
		detail = ecstats_shown(text.data, text.len);
	}
	return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, "extra", hint, detail, "%s", message);
}

/*
 * ecstats_check_extra holds the column extra against its rules: an object, of bounded size as JSON text
 * and of a bounded number of members.
 */
bool
ecstats_check_extra(EcstatsFault *fault, Jsonb *extra)
{
	int64 numbers;
	int count = 0;

	if (!JB_ROOT_IS_OBJECT(extra))
		return extra_fault(fault, extra, "Send an object, {} if there is nothing to say.",
						   "extra is not a JSON object");
	if (JB_ROOT_COUNT(extra) > EXTRA_MAX_KEYS)
		return extra_fault(
			fault, extra, "Group members into objects, or leave some out.",
			psprintf("extra has %u members, the most is %d", JB_ROOT_COUNT(extra), EXTRA_MAX_KEYS));
	numbers = numbers_length(&extra->root, EXTRA_MAX_BYTES, &count);
	if (numbers > EXTRA_MAX_BYTES)
		return extra_fault(fault, extra, "Send numbers of a usual length.",
						   psprintf("extra has more than %d bytes as JSON text", EXTRA_MAX_BYTES));
	/*
	 * Text is at most six times as long as what is stored (a control character is \u0001), but for
	 * numbers.
	 */
	if ((int64) VARSIZE(extra) * 6 + numbers + (int64) count * NUMBER_SLACK > EXTRA_MAX_BYTES)
	{
		StringInfoData text;
		int len;

		json_text(extra, &text);
		len = text.len;
		pfree(text.data);
		if (len > EXTRA_MAX_BYTES)
			return extra_fault(
				fault, extra, "Keep large values elsewhere and send their key.",
				psprintf("extra has %d bytes as JSON text, the most is %d", len, EXTRA_MAX_BYTES));
	}
	return true;
}
