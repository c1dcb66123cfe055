/*
 * delivery.c: turns claimed rows into requests and their outcomes into facts for settle.
 *
 * Nothing is decided here: no state, no retry, no success. A result is kept until the database has
 * taken it, however often the connection breaks meanwhile.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "answer.h"
#include "delivery.h"
#include "log.h"
#include "row.h"
#include "text.h"

#define BATCH_MAX		100	  /* results a settle takes */
#define REFUSALS_MAX	5	  /* then a result the database cannot take is dropped */
#define DEFAULT_TIMEOUT 15000 /* ms, when the claim says none */

/* Argument: worker, rows. The array of header lines comes as JSON, so that nothing is parsed twice. */
const char delivery_claim_sql[] =
	"SELECT delivery_id, attempt, transport, method, url, pg_catalog.to_json(headers), body,"
	" timeout_ms, allow_private FROM ecstats.delivery_claim($1, $2)";

/* Argument: worker, results. */
const char delivery_settle_sql[] =
	"SELECT delivery_id, attempt, outcome FROM ecstats.delivery_settle($1, $2)";

/* What tells when to come back. */
static const HttpKeep headers_kept[HTTP_HEADERS_KEPT] = {{"retry-after", 200, false},
														 {"x-ogw-ratelimit-reset", 200, false},
														 {"x-ratelimit-reset-after", 200, false},
														 {"content-type", 200, false}};

enum
{
	COL_ID,
	COL_ATTEMPT,
	COL_TRANSPORT,
	COL_METHOD,
	COL_URL,
	COL_HEADERS,
	COL_BODY,
	COL_TIMEOUT,
	COL_PRIVATE
};

/* One claimed row: in flight until result is set, then waiting to be settled. */
typedef struct Delivery
{
	struct Delivery *next;
	Deliveries *owner;
	json_int_t id;
	json_int_t attempt;
	char target[300]; /* the URL as it may be shown */
	json_t *result;
	bool in_batch;
	int refusals;
} Delivery;

struct Deliveries
{
	Http *http;
	Delivery *unsettled; /* in the order in which they were done */
	Delivery **unsettled_tail;
	int nflight;
	int nunsettled;
	bool one_by_one; /* the database refused a batch: find out which of it */
	int dropped;	 /* outcomes that were lost */
};

static void delivery_start(Deliveries *d, const PGresult *claimed, int row);
static void delivery_done(void *arg, HttpResult *result);
static void delivery_log(const Delivery *delivery, const HttpResult *result);
static json_t *result_json(const Delivery *delivery, const HttpResult *result);
static void batch_drop(Deliveries *d);

/*
 * deliveries_create makes an empty set that sends through http.
 */
Deliveries *
deliveries_create(Http *http)
{
	Deliveries *d = log_need(calloc(1, sizeof(Deliveries)));

	d->http = http;
	d->unsettled_tail = &d->unsettled;
	return d;
}

/*
 * deliveries_free forgets everything; NULL is fine. To be called before http_free with nothing in
 * flight, or else after it.
 */
void
deliveries_free(Deliveries *d)
{
	Delivery *delivery;

	if (d == NULL)
		return;
	while ((delivery = d->unsettled) != NULL)
	{
		d->unsettled = delivery->next;
		json_decref(delivery->result);
		free(delivery);
	}
	free(d);
}

/*
 * deliveries_start sends every claimed row on its way and returns how many there were.
 */
int
deliveries_start(Deliveries *d, const PGresult *claimed)
{
	int row;

	for (row = 0; row < PQntuples(claimed); row++)
		delivery_start(d, claimed, row);
	return PQntuples(claimed);
}

/*
 * deliveries_in_flight counts the requests without an outcome.
 */
int
deliveries_in_flight(const Deliveries *d)
{
	return d->nflight;
}

/*
 * deliveries_unsettled counts the outcomes that the database has not taken yet.
 */
int
deliveries_unsettled(const Deliveries *d)
{
	return d->nunsettled;
}

/*
 * deliveries_dropped counts the outcomes that were dropped for want of memory.
 */
int
deliveries_dropped(const Deliveries *d)
{
	return d->dropped;
}

/*
 * delivery_start sends one claimed row. Without memory even for its failure the lease runs out.
 */
static void
delivery_start(Deliveries *d, const PGresult *claimed, int row)
{
	Delivery *delivery = calloc(1, sizeof(Delivery));
	const char *transport = row_text(claimed, row, COL_TRANSPORT);
	int64_t timeout = strtoll(row_text(claimed, row, COL_TIMEOUT), NULL, 10);
	HttpResult failure = {.error_kind = "other"};
	HttpRequest request = {.keep = headers_kept};
	const char *why;

	if (delivery == NULL)
	{
		d->dropped++;
		log_write(LOG_ERROR, "delivery %s: out of memory, its lease runs out",
				  row_text(claimed, row, COL_ID));
		return;
	}
	delivery->owner = d;
	delivery->id = strtoll(row_text(claimed, row, COL_ID), NULL, 10);
	delivery->attempt = strtoll(row_text(claimed, row, COL_ATTEMPT), NULL, 10);
	url_mask(row_text(claimed, row, COL_URL), delivery->target, sizeof(delivery->target));
	d->nflight++;

	request.method =
		PQgetisnull(claimed, row, COL_METHOD) ? "POST" : row_text(claimed, row, COL_METHOD);
	request.url = row_text(claimed, row, COL_URL);
	request.body = row_text(claimed, row, COL_BODY);
	request.timeout = timeout > 0 ? timeout : DEFAULT_TIMEOUT;
	request.allow_private = row_text(claimed, row, COL_PRIVATE)[0] == 't';
	request.headers = row_headers(claimed, row, COL_HEADERS, &why);

	if (strcmp(transport, "http") != 0)
		snprintf(failure.error, sizeof(failure.error), "this pusher has no transport \"%.40s\"",
				 transport);
	else if (why)
		snprintf(failure.error, sizeof(failure.error), "%s", why);
	else
	{
		http_start(d->http, &request, delivery_done, delivery);
		return;
	}
	curl_slist_free_all(request.headers);
	delivery_done(delivery, &failure);
}

/*
 * delivery_done keeps an outcome for the next settle.
 */
static void
delivery_done(void *arg, HttpResult *result)
{
	Delivery *delivery = arg;
	Deliveries *d = delivery->owner;

	delivery_log(delivery, result);
	delivery->result = result_json(delivery, result);
	d->nflight--;
	if (delivery->result == NULL)
	{
		d->dropped++;
		log_write(LOG_ERROR,
				  "delivery %" JSON_INTEGER_FORMAT " attempt %" JSON_INTEGER_FORMAT
				  ": out of memory, the outcome is lost",
				  delivery->id, delivery->attempt);
		free(delivery);
		return;
	}
	delivery->next = NULL;
	*d->unsettled_tail = delivery;
	d->unsettled_tail = &delivery->next;
	d->nunsettled++;
}

/*
 * delivery_log says what came of a request: facts only, the answer's text is for the database.
 */
static void
delivery_log(const Delivery *delivery, const HttpResult *result)
{
	if (result->error_kind)
		log_write(LOG_WARN,
				  "delivery %" JSON_INTEGER_FORMAT " attempt %" JSON_INTEGER_FORMAT
				  " to %s: %s (%s) after %" PRId64 " ms",
				  delivery->id, delivery->attempt, delivery->target, result->error_kind,
				  result->error, result->elapsed);
	else
		log_write(LOG_INFO,
				  "delivery %" JSON_INTEGER_FORMAT " attempt %" JSON_INTEGER_FORMAT
				  " to %s: HTTP %ld after %" PRId64 " ms",
				  delivery->id, delivery->attempt, delivery->target, result->status,
				  result->elapsed);
}

/*
 * result_json writes an outcome as settle takes it; NULL without memory.
 */
static json_t *
result_json(const Delivery *delivery, const HttpResult *result)
{
	json_t *headers = answer_headers(result);
	char error[sizeof(result->error)];

	if (headers == NULL)
		return NULL;
	utf8_clean(result->error, strlen(result->error), error, sizeof(error));
	return json_pack("{s:I,s:I,s:o,s:s?,s:b,s:s?,s:s,s:o,s:I}", "delivery_id", delivery->id,
					 "attempt", delivery->attempt, "http_status",
					 result->status ? json_integer(result->status) : json_null(), "error_kind",
					 result->error_kind, "request_sent", (int) result->request_sent, "error",
					 error[0] ? error : NULL, "response", result->response, "headers", headers,
					 "elapsed_ms", (json_int_t) result->elapsed);
}

/* ---------------------------------------------------------------- settling */

/*
 * deliveries_batch returns the next outcomes as settle's JSON array, which the caller frees; NULL
 * without memory. The batch is over with deliveries_settled, _unsent or _refused.
 */
char *
deliveries_batch(Deliveries *d)
{
	int most = d->one_by_one ? 1 : BATCH_MAX;
	json_t *array = json_array();
	Delivery *delivery;
	char *text;

	for (delivery = d->unsettled; delivery && most-- > 0; delivery = delivery->next)
	{
		if (json_array_append(array, delivery->result) != 0)
			break;
		delivery->in_batch = true;
	}
	text = json_array_size(array) > 0 ? json_dumps(array, JSON_COMPACT) : NULL;
	json_decref(array);
	if (text == NULL)
		deliveries_unsent(d);
	return text;
}

/*
 * deliveries_settled drops the batch: the database has it.
 */
void
deliveries_settled(Deliveries *d, const PGresult *outcome)
{
	int row;

	for (row = 0; row < PQntuples(outcome); row++)
		log_write(LOG_INFO, "delivery %s attempt %s settled: %s", row_text(outcome, row, 0),
				  row_text(outcome, row, 1), row_text(outcome, row, 2));
	batch_drop(d);
	if (d->unsettled == NULL)
		d->one_by_one = false;
}

/*
 * deliveries_unsent puts the batch back: the connection broke or the database asks to repeat.
 * Settling twice does no harm.
 */
void
deliveries_unsent(Deliveries *d)
{
	Delivery *delivery;

	for (delivery = d->unsettled; delivery; delivery = delivery->next)
		delivery->in_batch = false;
}

/*
 * plain_string puts one '?' in the place of each character beyond ASCII.
 */
static void
plain_string(json_t *string)
{
	const char *in = json_string_value(string);
	char *plain = in ? strdup(in) : NULL;
	char *out = plain;

	if (in == NULL)
		return;
	if (plain == NULL)
		abort();
	for (; *in; in++)
	{
		unsigned char c = (unsigned char) *in;

		if (c < 0x80)
			*out++ = *in;
		else if (c >= 0xC0)
			*out++ = '?';
	}
	*out = '\0';
	json_string_set(string, plain);
	free(plain);
}

/*
 * result_plain leaves ASCII of what an endpoint said: an encoding of the database other than UTF-8
 * cannot hold every answer, and the outcome matters more than its words.
 */
static void
result_plain(json_t *result)
{
	const char *name;
	json_t *value;

	plain_string(json_object_get(result, "response"));
	plain_string(json_object_get(result, "error"));
	json_object_foreach(json_object_get(result, "headers"), name, value) plain_string(value);
}

/*
 * deliveries_refused puts the batch back after the database found fault with it. From then on one
 * outcome goes at a time, and the faulty one to the end, in ASCII; it is dropped after some rounds (its lease
 * runs out in the database, which then knows that the outcome is unknown). Returns whether the next
 * batch is another than the refused one, so that there is no point in waiting.
 */
bool
deliveries_refused(Deliveries *d)
{
	Delivery *first = d->unsettled;

	if (!d->one_by_one)
	{
		d->one_by_one = true;
		deliveries_unsent(d);
		return d->nunsettled > 1;
	}
	if (first == NULL)
		return false;
	if (++first->refusals >= REFUSALS_MAX)
	{
		log_write(LOG_ERROR,
				  "delivery %" JSON_INTEGER_FORMAT " attempt %" JSON_INTEGER_FORMAT
				  ": the database does not take the outcome, given up",
				  first->id, first->attempt);
		batch_drop(d);
		return true;
	}
	first->in_batch = false;
	result_plain(first->result);
	if (first->next == NULL)
		return false;
	d->unsettled = first->next;
	first->next = NULL;
	*d->unsettled_tail = first;
	d->unsettled_tail = &first->next;
	return d->unsettled->refusals < first->refusals;
}

/*
 * batch_drop frees what the batch holds.
 */
static void
batch_drop(Deliveries *d)
{
	Delivery **link = &d->unsettled;

	while (*link)
	{
		Delivery *delivery = *link;

		if (!delivery->in_batch)
		{
			link = &delivery->next;
			continue;
		}
		*link = delivery->next;
		d->nunsettled--;
		json_decref(delivery->result);
		free(delivery);
	}
	d->unsettled_tail = link;
}
