/*
 * order_json.c
 *		From the JSON of orders to rows of ecstats.order_lines. An order is good or bad as a whole: one
 *		row a line, or one row that says what is wrong.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "jsonb_get.h"
#include "order.h"

#define PAYLOAD_MAX_ELEMENTS 100000
#define ORDER_MAX_ITEMS		 10000
#define ORDER_MAX_EXTRA		 (16 * 1024 * 1024)

#define N_BUCKETS 1024

PG_FUNCTION_INFO_V1(ecstats_order_parse);
PG_FUNCTION_INFO_V1(ecstats_order_buckets);

/* One order on its way to rows. */
typedef struct OrderDraft
{
	OrderLineParts head; /* what the lines have in common */
	bool has_time;
	JsonbContainer *items; /* an array; NULL: none */
	JsonbContainer *sent;  /* the order itself, for its unknown members */
	OrderLineParts *lines;
	int n_lines;
} OrderDraft;

enum OrderColumns
{
	COL_ORD,
	COL_ORDER,
	COL_LINE,
	COL_TIME,
	COL_USER,
	COL_PRODUCT,
	COL_REGION,
	COL_CHANNEL,
	COL_QUANTITY,
	COL_AMOUNT,
	COL_STATUS,
	COL_PAID,
	COL_EXTRA,
	COL_SQLSTATE,
	COL_REASON,
	COL_PAYLOAD,
	N_COLS
};

static const char *const order_members[] = {"order_id", "order_time", "timestamp", "user_id",
											"region",	"channel",	  "status",	   "paid_time",
											"items",	"extra",	  NULL};
static const char *const item_members[] = {"line_no", "product_id", "quantity",
										   "amount",  "extra",		NULL};

/*
 * is_among tells whether a member is one of a NULL-terminated list.
 */
static bool
is_among(const JsonbValue *key, const char *const *names)
{
	for (; *names; names++)
	{
		if (ecstats_json_is(key, *names))
			return true;
	}
	return false;
}

/*
 * get returns a member of an object, NULL where it is missing or null.
 */
static JsonbValue *
get(JsonbContainer *object, const char *name)
{
	JsonbValue key;
	JsonbValue *v;

	key.type = jbvString;
	key.val.string.val = (char *) name;
	key.val.string.len = strlen(name);
	v = findJsonbValueFromContainer(object, JB_FOBJECT, &key);
	return v == NULL || v->type == jbvNull ? NULL : v;
}

/*
 * text_or reads a member that has a default.
 */
static bool
text_or(JsonbContainer *object, const char *name, const char *otherwise, text **result,
		EcstatsFault *fault)
{
	JsonbValue *v = get(object, name);

	if (v != NULL)
		return ecstats_json_string(v, name, true, result, fault);
	*result = otherwise ? cstring_to_text(otherwise) : NULL;
	return true;
}

/*
 * read_head reads the members that an order's lines have in common.
 */
static bool
read_head(OrderDraft *draft, JsonbContainer *order, EcstatsFault *fault)
{
	OrderLineParts *head = &draft->head;
	JsonbValue *v;
	const char *time_name = "order_time";

	if (!text_or(order, "order_id", NULL, &head->order_id, fault) ||
		!text_or(order, "user_id", NULL, &head->user_id, fault) ||
		!text_or(order, "region", "unknown", &head->region, fault) ||
		!text_or(order, "channel", "unknown", &head->channel, fault) ||
		!text_or(order, "status", "placed", &head->status, fault))
		return false;
	if (head->order_id == NULL)
		return ecstats_json_missing("order_id", fault);

	v = get(order, time_name);
	if (v == NULL)
		v = get(order, time_name = "timestamp");
	if (v == NULL)
		return ecstats_json_missing("order_time", fault);
	if (!ecstats_json_instant(v, time_name, &head->order_time, fault))
		return false;

	v = get(order, "paid_time");
	head->paid = v != NULL;
	if (v != NULL && !ecstats_json_instant(v, "paid_time", &head->paid_time, fault))
		return false;

	v = get(order, "items");
	if (v == NULL)
		return ecstats_json_missing("items", fault);
	if (v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data))
		return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, "items",
							 "Send an array of items.", ecstats_json_shown(v),
							 "member \"items\" is not an array");
	draft->items = v->val.binary.data;
	if (JsonContainerSize(draft->items) > ORDER_MAX_ITEMS)
		return ecstats_fault(fault, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "items", "Send several orders.",
							 NULL, "an order has %u items, the most is %d",
							 JsonContainerSize(draft->items), ORDER_MAX_ITEMS);
	return true;
}

/*
 * push_others copies the members of an object that are not among known; NULL: all of them.
 */
static void
push_others(JsonbParseState **state, JsonbContainer *object, const char *const *known)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue key;
	JsonbValue value;

	while (ecstats_json_next_member(&it, &key, &value))
	{
		if (known != NULL && is_among(&key, known))
			continue;
		(void) pushJsonbValue(state, WJB_KEY, &key);
		(void) pushJsonbValue(state, WJB_VALUE, &value);
	}
}

/*
 * push_unknown copies the members of an object that have no column, and those of its "extra".
 */
static bool
push_unknown(JsonbParseState **state, JsonbContainer *object, const char *const *known,
			 EcstatsFault *fault)
{
	JsonbValue *extra = get(object, "extra");
	JsonbContainer *members;

	push_others(state, object, known);
	if (extra == NULL)
		return true;
	if (!ecstats_json_extra(extra, &members, fault))
		return false;
	push_others(state, members, NULL);
	return true;
}

/*
 * build_extra makes a line's extra: what the order says beyond its columns, then what the item says,
 * which wins where both say something.
 */
static bool
build_extra(OrderDraft *draft, JsonbContainer *item, OrderLineParts *line, EcstatsFault *fault)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (!push_unknown(&state, draft->sent, order_members, fault) ||
		!push_unknown(&state, item, item_members, fault))
		return false;
	line->extra = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return true;
}

/*
 * read_item reads one item into a line that keeps every rule.
 */
static bool
read_item(OrderDraft *draft, const JsonbValue *item, int position, TimestampTz now,
		  OrderLineParts *line, EcstatsFault *fault)
{
	JsonbContainer *object;
	JsonbValue *v;
	Datum amount = (Datum) 0; /* for compilers that do not see that it is set */

	if (item->type != jbvBinary || !JsonContainerIsObject(item->val.binary.data))
		return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, "items",
							 "An item is an object with product_id, quantity and amount.",
							 ecstats_json_shown(item), "an item is not a JSON object");
	object = item->val.binary.data;
	*line = draft->head;

	line->line_no = position;
	v = get(object, "line_no");
	if (v != NULL && !ecstats_json_int(v, "line_no", &line->line_no, fault))
		return false;
	if (!text_or(object, "product_id", NULL, &line->product_id, fault))
		return false;
	if (line->product_id == NULL)
		return ecstats_json_missing("product_id", fault);
	v = get(object, "quantity");
	if (v == NULL)
		return ecstats_json_missing("quantity", fault);
	if (!ecstats_json_int(v, "quantity", &line->quantity, fault))
		return false;
	v = get(object, "amount");
	if (v == NULL)
		return ecstats_json_missing("amount", fault);
	if (!ecstats_json_numeric(v, "amount", &amount, fault))
		return false;
	line->amount = DatumGetNumeric(amount);
	return build_extra(draft, object, line, fault) && ecstats_order_check_parts(line, now, fault);
}

/*
 * compare_line_no sorts line numbers.
 */
static int
compare_line_no(const void *a, const void *b)
{
	int32 x = *(const int32 *) a;
	int32 y = *(const int32 *) b;

	return x < y ? -1 : x > y;
}

/*
 * check_line_nos refuses an order that gives one line number to two items.
 */
static bool
check_line_nos(OrderDraft *draft, EcstatsFault *fault)
{
	int32 *numbers = palloc(sizeof(int32) * Max(draft->n_lines, 1));
	int i;

	for (i = 0; i < draft->n_lines; i++)
		numbers[i] = draft->lines[i].line_no;
	qsort(numbers, draft->n_lines, sizeof(int32), compare_line_no);
	for (i = 1; i < draft->n_lines; i++)
	{
		if (numbers[i] == numbers[i - 1])
			return ecstats_fault(
				fault, ERRCODE_UNIQUE_VIOLATION, "line_no",
				"Number an order's items differently, or leave line_no out everywhere.",
				psprintf("Value: %d.", numbers[i]), "two items have the same line_no");
	}
	return true;
}

/*
 * draft_order turns one order into lines that keep every rule; false with the fault filled.
 */
static bool
draft_order(OrderDraft *draft, const JsonbValue *order, TimestampTz now, EcstatsFault *fault)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue item;
	int position = 0;
	Size extra_bytes = 0;

	memset(draft, 0, sizeof(*draft));
	if (order->type != jbvBinary || !JsonContainerIsObject(order->val.binary.data))
		return ecstats_fault(fault, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
							 "An order is an object with order_id, order_time and items.",
							 ecstats_json_shown(order), "an order is not a JSON object");
	draft->sent = order->val.binary.data;
	if (!read_head(draft, draft->sent, fault))
		return false;

	draft->n_lines = JsonContainerSize(draft->items);
	draft->lines = palloc(sizeof(OrderLineParts) * Max(draft->n_lines, 1));
	it = JsonbIteratorInit(draft->items);
	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		position++;
		if (!read_item(draft, &item, position, now, &draft->lines[position - 1], fault))
		{
			fault->detail = psprintf("Item %d.%s%s", position, fault->detail ? " " : "",
									 fault->detail ? fault->detail : "");
			return false;
		}
		/* What the order says beyond its columns is in every line. */
		extra_bytes += VARSIZE(draft->lines[position - 1].extra);
		if (extra_bytes > ORDER_MAX_EXTRA)
			return ecstats_fault(fault, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "extra",
								 "Leave members out that no line needs, or send several orders.",
								 NULL, "the lines of an order have more than %d bytes of extra",
								 ORDER_MAX_EXTRA);
	}
	return check_line_nos(draft, fault);
}

/*
 * emit_line adds the row of one line; line NULL: an order without items, whose lines all go.
 */
static void
emit_line(EcstatsRows *rows, int ord, const OrderDraft *draft, const OrderLineParts *line)
{
	const OrderLineParts *p = line ? line : &draft->head;
	Datum values[N_COLS] = {0};
	bool nulls[N_COLS];

	memset(nulls, true, sizeof(nulls));
	values[COL_ORD] = Int32GetDatum(ord);
	values[COL_ORDER] = PointerGetDatum(p->order_id);
	values[COL_TIME] = TimestampTzGetDatum(p->order_time);
	nulls[COL_ORD] = nulls[COL_ORDER] = nulls[COL_TIME] = false;
	if (line != NULL)
	{
		values[COL_LINE] = Int32GetDatum(p->line_no);
		values[COL_USER] = PointerGetDatum(p->user_id);
		values[COL_PRODUCT] = PointerGetDatum(p->product_id);
		values[COL_REGION] = PointerGetDatum(p->region);
		values[COL_CHANNEL] = PointerGetDatum(p->channel);
		values[COL_QUANTITY] = Int32GetDatum(p->quantity);
		values[COL_AMOUNT] = NumericGetDatum(p->amount);
		values[COL_STATUS] = PointerGetDatum(p->status);
		values[COL_PAID] = TimestampTzGetDatum(p->paid_time);
		values[COL_EXTRA] = JsonbPGetDatum(p->extra);
		memset(&nulls[COL_ORDER], false, COL_EXTRA - COL_ORDER + 1);
		nulls[COL_USER] = p->user_id == NULL;
		nulls[COL_PAID] = !p->paid;
	}
	ecstats_rows_add(rows, values, nulls);
}

/*
 * emit_fault adds the row that says what is wrong with an order.
 */
static void
emit_fault(EcstatsRows *rows, int ord, const EcstatsFault *fault, const JsonbValue *order)
{
	Datum values[N_COLS] = {0};
	bool nulls[N_COLS];

	memset(nulls, true, sizeof(nulls));
	values[COL_ORD] = Int32GetDatum(ord);
	values[COL_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(fault->sqlstate));
	values[COL_REASON] = CStringGetTextDatum(ecstats_fault_text(fault));
	values[COL_PAYLOAD] = JsonbPGetDatum(JsonbValueToJsonb((JsonbValue *) order));
	nulls[COL_ORD] = nulls[COL_SQLSTATE] = nulls[COL_REASON] = nulls[COL_PAYLOAD] = false;
	ecstats_rows_add(rows, values, nulls);
}

/*
 * parse_order drafts and emits one order, or raises what is wrong with it.
 */
static void
parse_order(EcstatsRows *rows, int ord, bool in_array, const JsonbValue *order, bool raise,
			TimestampTz now)
{
	OrderDraft draft;
	EcstatsFault fault = {0};
	int i;

	if (!draft_order(&draft, order, now, &fault))
	{
		if (raise && in_array)
			fault.detail =
				psprintf("Element %d of the payload. %s", ord, fault.detail ? fault.detail : "");
		if (raise)
			ecstats_fault_raise(&fault, "order_lines", NULL);
		emit_fault(rows, ord, &fault, order);
		return;
	}
	for (i = 0; i < draft.n_lines; i++)
		emit_line(rows, ord, &draft, &draft.lines[i]);
	if (draft.n_lines == 0)
		emit_line(rows, ord, &draft, NULL);
}

/*
 * ecstats_order_parse(payload jsonb, raise boolean) returns one row a line: the columns of
 * ecstats.order_lines (line_no NULL: an order without items), or one row a bad order with sqlstate,
 * reason and the order itself. With raise, the first bad order is an error.
 */
Datum
ecstats_order_parse(PG_FUNCTION_ARGS)
{
	Jsonb *payload = PG_GETARG_JSONB_P(0);
	bool raise = PG_GETARG_BOOL(1);
	EcstatsRows rows = ecstats_rows_begin(fcinfo);
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext per_order =
		AllocSetContextCreate(CurrentMemoryContext, "ecstats order", ALLOCSET_DEFAULT_SIZES);
	EcstatsElements elements = ecstats_json_elements(payload, PAYLOAD_MAX_ELEMENTS, "orders");
	JsonbValue order;
	MemoryContext old;

	while (ecstats_json_next_element(&elements, &order))
	{
		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(per_order);
		parse_order(&rows, elements.ord, elements.in_array, &order, raise, now);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_order);
	}
	MemoryContextDelete(per_order);
	return (Datum) 0;
}

/*
 * order_bucket returns which lock stands for an order, -1 where it has no order_id: it will not be stored.
 */
static int
order_bucket(const JsonbValue *order)
{
	EcstatsFault fault = {0};
	JsonbValue *v;
	text *id;

	if (order->type != jbvBinary || !JsonContainerIsObject(order->val.binary.data))
		return -1;
	v = get(order->val.binary.data, "order_id");
	if (v == NULL || !ecstats_json_string(v, "order_id", true, &id, &fault))
		return -1;
	return hash_bytes((unsigned char *) VARDATA(id), VARSIZE(id) - VARHDRSZ) % N_BUCKETS;
}

/*
 * ecstats_order_buckets(payload) returns which of 1,024 locks stand for the orders of a payload, in order.
 * Memory: one order at a time (a number of 8 bytes, as an order_id, is a text of 131 kB).
 */
Datum
ecstats_order_buckets(PG_FUNCTION_ARGS)
{
	EcstatsElements elements =
		ecstats_json_elements(PG_GETARG_JSONB_P(0), PAYLOAD_MAX_ELEMENTS, "orders");
	MemoryContext per_order =
		AllocSetContextCreate(CurrentMemoryContext, "ecstats order", ALLOCSET_DEFAULT_SIZES);
	bool taken[N_BUCKETS] = {0};
	Datum buckets[N_BUCKETS];
	JsonbValue order;
	int n = 0;
	int i;

	while (ecstats_json_next_element(&elements, &order))
	{
		MemoryContext old = MemoryContextSwitchTo(per_order);

		CHECK_FOR_INTERRUPTS();
		i = order_bucket(&order);
		if (i >= 0)
			taken[i] = true;
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_order);
	}
	MemoryContextDelete(per_order);
	for (i = 0; i < N_BUCKETS; i++)
	{
		if (taken[i])
			buckets[n++] = Int32GetDatum(i);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(buckets, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}
