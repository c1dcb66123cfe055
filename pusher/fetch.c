/*
 * fetch.c: turns claimed pages into GET requests and their answers into facts for source_receive.
 *
 * As with deliveries nothing is decided here: what the page holds, whether there is a next one, when
 * to come back is SQL. A page is kept until the database has taken it. Memory is bounded by the
 * number of pages (PAGES_MOST) and the size of one (the claim's max_bytes, at most max_fetch).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "answer.h"
#include "fetch.h"
#include "log.h"
#include "pgconn.h"
#include "row.h"
#include "text.h"

#define REFUSALS_MAX	3	   /* then the database is told that it cannot take the page */
#define DEFAULT_TIMEOUT 30000  /* ms, when the claim says none */
#define LEASE_SLACK		600000 /* ms that a lease lasts beyond the request's time */

/* Argument: worker, rows. */
const char fetch_claim_sql[] =
	"SELECT fetch_id, page, method, url, pg_catalog.to_json(headers), timeout_ms, allow_private,"
	" max_bytes FROM ecstats.source_claim($1, $2)";

/* Argument: worker, fetch, page, result. */
const char fetch_receive_sql[] = "SELECT ecstats.source_receive($1, $2, $3, $4)";

/* The next page, when to come back, what it is. A link may be long, and on several lines. */
static const HttpKeep headers_kept[HTTP_HEADERS_KEPT] = {
	{"link", 16384, true}, {"retry-after", 200, false}, {"content-type", 200, false}};

enum
{
	COL_ID,
	COL_PAGE,
	COL_METHOD,
	COL_URL,
	COL_HEADERS,
	COL_TIMEOUT,
	COL_PRIVATE,
	COL_MAX_BYTES
};

/* One claimed page: in flight until held, for the database then. */
typedef struct Page
{
	struct Page *next;
	Fetches *owner;
	json_int_t fetch_id;
	json_int_t page;
	char target[300]; /* the URL as it may be shown */
	bool held;
	char *facts; /* the result up to its body */
	char *body;	 /* clean text; NULL: empty */
	size_t body_length;
	int refusals;
	int64_t expires; /* monotonic ms: another may have claimed it since */
	bool hopeless;	 /* what is held is that the database could not take it */
} Page;

struct Fetches
{
	Http *http;
	int64_t max_fetch; /* bytes */
	Page *pages;	   /* in flight and held, a handful, in turn */
	Page *offered;	   /* the one that the database has been given */
	int nflight;
	int nheld;
	int dropped; /* outcomes that were lost */
};

static void page_start(Fetches *f, const PGresult *claimed, int row);
static void page_limit(const Fetches *f, const PGresult *claimed, int row, HttpRequest *request);
static void page_done(void *arg, HttpResult *result);
static void page_log(const Page *page, const HttpResult *result);
static char *page_facts(const HttpResult *result);
static void page_retry(Fetches *f, Page *page, const char *why);
static void page_drop(Fetches *f, Page *page, const char *why);
static void page_append(Fetches *f, Page *page);
static void page_unlink(Fetches *f, Page *page);
static void page_free(Page *page);

/*
 * fetches_create makes an empty set that sends through http.
 */
Fetches *
fetches_create(Http *http)
{
	Fetches *f = log_need(calloc(1, sizeof(Fetches)));

	f->http = http;
	return f;
}

/*
 * fetches_free forgets everything; NULL is fine. To be called after http_free.
 */
void
fetches_free(Fetches *f)
{
	if (f == NULL)
		return;
	while (f->pages)
	{
		Page *page = f->pages;

		page_unlink(f, page);
		page_free(page);
	}
	free(f);
}

/*
 * fetches_configure takes the size of a page for those claimed from now on.
 */
void
fetches_configure(Fetches *f, int64_t max_fetch)
{
	f->max_fetch = max_fetch;
}

/*
 * fetches_start sends every claimed row on its way and returns how many there were.
 */
int
fetches_start(Fetches *f, const PGresult *claimed)
{
	int row;

	for (row = 0; row < PQntuples(claimed); row++)
		page_start(f, claimed, row);
	return PQntuples(claimed);
}

/*
 * fetches_in_flight counts the requests without an outcome.
 */
int
fetches_in_flight(const Fetches *f)
{
	return f->nflight;
}

/*
 * fetches_held counts the pages that the database has not taken yet.
 */
int
fetches_held(const Fetches *f)
{
	return f->nheld;
}

/*
 * fetches_dropped counts the outcomes that were dropped for want of memory or because the database did
 * not take it.
 */
int
fetches_dropped(const Fetches *f)
{
	return f->dropped;
}

/*
 * page_start requests one claimed page. Without memory even for its failure the lease runs out.
 */
static void
page_start(Fetches *f, const PGresult *claimed, int row)
{
	Page *page = calloc(1, sizeof(Page));
	int64_t timeout = strtoll(row_text(claimed, row, COL_TIMEOUT), NULL, 10);
	HttpResult failure = {.error_kind = "other"};
	HttpRequest request = {.keep = headers_kept, .method = "GET", .body = ""};
	const char *why;

	if (page == NULL)
	{
		f->dropped++;
		log_write(LOG_ERROR, "fetch %s: out of memory, its lease runs out",
				  row_text(claimed, row, COL_ID));
		return;
	}
	page->owner = f;
	page->fetch_id = strtoll(row_text(claimed, row, COL_ID), NULL, 10);
	page->page = strtoll(row_text(claimed, row, COL_PAGE), NULL, 10);
	url_mask(row_text(claimed, row, COL_URL), page->target, sizeof(page->target));
	page_append(f, page);
	f->nflight++;

	request.url = row_text(claimed, row, COL_URL);
	request.timeout = timeout > 0 ? timeout : DEFAULT_TIMEOUT;
	request.allow_private = row_text(claimed, row, COL_PRIVATE)[0] == 't';
	page_limit(f, claimed, row, &request);
	page->expires = monotonic_ms() + request.timeout + LEASE_SLACK;
	request.headers = row_headers(claimed, row, COL_HEADERS, &why);

	if (strcmp(row_text(claimed, row, COL_METHOD), "GET") != 0)
		snprintf(failure.error, sizeof(failure.error), "a page is fetched by GET only");
	else if (why)
		snprintf(failure.error, sizeof(failure.error), "%s", why);
	else
	{
		http_start(f->http, &request, page_done, page);
		return;
	}
	curl_slist_free_all(request.headers);
	page_done(page, &failure);
}

/*
 * page_limit sets how many bytes of a page are collected, and whose limit that is.
 */
static void
page_limit(const Fetches *f, const PGresult *claimed, int row, HttpRequest *request)
{
	int64_t limit = strtoll(row_text(claimed, row, COL_MAX_BYTES), NULL, 10);
	bool of_source = limit > 0 && limit <= f->max_fetch;

	request->max_body = of_source ? limit : f->max_fetch;
	request->limit_name = of_source ? "max_bytes of the source" : "max_fetch of the pusher";
}

/*
 * page_done keeps an answer for the database.
 */
static void
page_done(void *arg, HttpResult *result)
{
	Page *page = arg;
	Fetches *f = page->owner;
	char *fitting;

	page_log(page, result);
	page->facts = page_facts(result);
	page->body_length = result->body_length;
	page->body = result->body;
	result->body = NULL;
	/* It was collected with room to grow. */
	if (page->body && (fitting = realloc(page->body, page->body_length + 1)) != NULL)
		page->body = fitting;
	page->held = true;
	f->nflight--;
	f->nheld++;
	if (page->facts == NULL)
		page_drop(f, page, "out of memory");
}

/*
 * page_log says what came of a request: facts only.
 */
static void
page_log(const Page *page, const HttpResult *result)
{
	if (result->error_kind)
		log_write(LOG_WARN,
				  "fetch %" JSON_INTEGER_FORMAT " page %" JSON_INTEGER_FORMAT
				  " from %s: %s (%s) after %" PRId64 " ms",
				  page->fetch_id, page->page, page->target, result->error_kind, result->error,
				  result->elapsed);
	else
		log_write(LOG_INFO,
				  "fetch %" JSON_INTEGER_FORMAT " page %" JSON_INTEGER_FORMAT
				  " from %s: HTTP %ld, %zu bytes after %" PRId64 " ms",
				  page->fetch_id, page->page, page->target, result->status, result->body_length,
				  result->elapsed);
}

/*
 * page_facts writes what source_receive takes up to the text of the body: {…,"body": so that the body,
 * which may be long, is copied once only. The caller frees it; NULL without memory.
 */
static char *
page_facts(const HttpResult *result)
{
	json_t *headers = answer_headers(result);
	json_t *all;
	char *text;
	size_t length;
	char *out = NULL;

	if (headers == NULL)
		return NULL;
	all = json_pack("{s:o,s:s?,s:s?,s:o,s:b,s:I}", "http_status",
					result->status ? json_integer(result->status) : json_null(), "error_kind",
					result->error_kind, "error", result->error[0] ? result->error : NULL, "headers",
					headers, "truncated", (int) result->truncated, "elapsed_ms",
					(json_int_t) result->elapsed);
	text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	length = text ? strlen(text) - 1 : 0;
	if (text && (out = malloc(length + sizeof(",\"body\":"))) != NULL)
	{
		memcpy(out, text, length);
		strcpy(out + length, ",\"body\":");
	}
	free(text);
	return out;
}

/* ---------------------------------------------------------------- handing over */

/*
 * fetches_offer writes the arguments for the next held page; false when there is none, or no memory.
 * It ends with fetches_received, _refused or _lost, or with another offer of the same page: to hand a
 * page over twice does no harm.
 */
bool
fetches_offer(Fetches *f, PageOffer *offer)
{
	f->offered = f->pages;
	while (f->offered && !f->offered->held)
		f->offered = f->offered->next;
	if (f->offered == NULL)
		return false;
	snprintf(offer->fetch_id, sizeof(offer->fetch_id), "%" JSON_INTEGER_FORMAT,
			 f->offered->fetch_id);
	snprintf(offer->page, sizeof(offer->page), "%" JSON_INTEGER_FORMAT, f->offered->page);
	offer->result = json_quote(f->offered->facts, f->offered->body ? f->offered->body : "",
							   f->offered->body_length, "}");
	return offer->result != NULL;
}

/*
 * fetches_received forgets the offered page: the database has it.
 */
void
fetches_received(Fetches *f, const char *outcome)
{
	Page *page = f->offered;

	if (page == NULL)
		return;
	log_write(LOG_INFO, "fetch %" JSON_INTEGER_FORMAT " page %" JSON_INTEGER_FORMAT ": %s",
			  page->fetch_id, page->page, outcome);
	page_unlink(f, page);
	page_free(page);
	f->offered = NULL;
	f->nheld--;
}

/*
 * fetches_refused notes that the database found fault with the offered page. When it does not even
 * take the news of that, the page is dropped, and its lease runs out.
 */
void
fetches_refused(Fetches *f, const char *why)
{
	Page *page = f->offered;

	f->offered = NULL;
	if (page && page->hopeless)
		page_drop(f, page, "the database does not take the outcome");
	else if (page)
		page_retry(f, page, why);
}

/*
 * fetches_lost notes that the session broke under the offered page.
 */
void
fetches_lost(Fetches *f, const char *why)
{
	Page *page = f->offered;

	f->offered = NULL;
	if (page)
		page_retry(f, page, why);
}

/*
 * fetches_expire drops the pages whose leases are over: the database gives them out again. Not to be
 * called while it has been given one.
 */
void
fetches_expire(Fetches *f, int64_t now)
{
	Page *page;
	Page *next;

	f->offered = NULL;
	for (page = f->pages; page; page = next)
	{
		next = page->next;
		if (page->held && page->expires <= now)
			page_drop(f, page, "its lease is over");
	}
}

/*
 * page_retry puts a page behind the others. After some rounds it is replaced by the news that it
 * could not be taken, which leaves it to the database what to do.
 */
static void
page_retry(Fetches *f, Page *page, const char *why)
{
	HttpResult failure = {.error_kind = "other"};
	char text[400];

	page_unlink(f, page);
	page_append(f, page);
	if (++page->refusals < REFUSALS_MAX || page->hopeless)
		return;
	page->hopeless = true;
	utf8_clean(why, strlen(why), text, sizeof(text));
	snprintf(failure.error, sizeof(failure.error), "the database could not take the page: %s",
			 text);
	free(page->facts);
	free(page->body);
	page->body = NULL;
	page->body_length = 0;
	page->facts = page_facts(&failure);
	if (page->facts == NULL)
		page_drop(f, page, "out of memory");
}

/*
 * page_drop gives a held page up.
 */
static void
page_drop(Fetches *f, Page *page, const char *why)
{
	log_write(LOG_ERROR,
			  "fetch %" JSON_INTEGER_FORMAT " page %" JSON_INTEGER_FORMAT ": given up: %s",
			  page->fetch_id, page->page, why);
	page_unlink(f, page);
	page_free(page);
	f->nheld--;
	f->dropped++;
}

/*
 * page_append puts a page at the end of the set.
 */
static void
page_append(Fetches *f, Page *page)
{
	Page **link = &f->pages;

	while (*link)
		link = &(*link)->next;
	*link = page;
	page->next = NULL;
}

/*
 * page_unlink takes a page out of the set.
 */
static void
page_unlink(Fetches *f, Page *page)
{
	Page **link;

	for (link = &f->pages; *link; link = &(*link)->next)
	{
		if (*link == page)
		{
			*link = page->next;
			return;
		}
	}
}

/*
 * page_free frees a page that is in no set.
 */
static void
page_free(Page *page)
{
	free(page->facts);
	free(page->body);
	free(page);
}
