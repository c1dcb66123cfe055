/*
 * transfer.c: one request: libcurl's options, the guards on its way out, the facts of its outcome.
 *
 * Two promises are kept here. A request goes out at most once: redirects are off, and libcurl's
 * own repeat on a connection that broke is refused, because the peer may have acted on the first
 * one. And without allow_private no bytes reach an address that is not public: the address is
 * judged when the socket is opened (so a name that resolves anew changes nothing) and again before
 * a kept connection is used.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "address.h"
#include "config.h"
#include "failure.h"
#include "pgconn.h"
#include "text.h"
#include "transfer.h"

#define CONNECTION_MAX_IDLE 20L /* s; shorter than what servers commonly keep */

#define BODY_ROOM_FIRST 16384 /* bytes; doubled as more comes, whatever the answer promises */

static const char *request_fault(const HttpRequest *request);
static bool transfer_options(Transfer *t, const HttpSettings *settings, const HttpRequest *request);
static bool callbacks_set(Transfer *t);
static bool method_set(Transfer *t, const HttpRequest *request);
static bool headers_complete(Transfer *t);
static bool answer_whole(const Transfer *t);
static void body_finish(Transfer *t, CURLcode code);
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
static int on_before_request(void *arg, char *peer, char *local, int peer_port, int local_port);
static size_t on_body(char *data, size_t size, size_t count, void *arg);
static bool body_collect(Transfer *t, const char *data, size_t length);
static size_t on_header(char *data, size_t size, size_t count, void *arg);
static bool header_keep(Transfer *t, int i, const char *value, size_t length);
static void headers_forget(Transfer *t);

/* Sets an option if all before it could be set; libcurl may have no memory. */
#define SET(option, value)                                                \
	do                                                                    \
	{                                                                     \
		good = good && curl_easy_setopt(easy, option, value) == CURLE_OK; \
	} while (0)

/*
 * transfer_create makes a request that is ready to be started, and takes its header lines over. If it
 * cannot be started, easy is NULL and the result says why: the caller ends it with transfer_fail.
 * NULL, and nothing taken over, without memory.
 */
Transfer *
transfer_create(const HttpSettings *settings, const HttpRequest *request, HttpDone done, void *arg)
{
	Transfer *t = calloc(1, sizeof(Transfer));
	const char *why;

	if (t == NULL)
		return NULL;
	t->done = done;
	t->arg = arg;
	t->started = monotonic_ms();
	t->collects = request->max_body > 0;
	t->limit = t->collects ? request->max_body : settings->max_response;
	t->limit_name = t->collects ? request->limit_name : "max_response of the pusher";
	t->max_headers = settings->max_response;
	t->keep = request->keep;
	t->headers = request->headers;
	t->url = strdup(request->url);
	t->body = strdup(request->body);
	t->allow_private = request->allow_private;
	t->proxied = settings->proxy[0] != '\0';

	why = t->url && t->body ? request_fault(request) : "out of memory";
	if (why == NULL)
	{
		t->easy = curl_easy_init();
		if (t->easy && !transfer_options(t, settings, request))
		{
			curl_easy_cleanup(t->easy);
			t->easy = NULL;
		}
		if (t->easy == NULL)
			why = "libcurl refused the request";
	}
	if (why)
		snprintf(t->result.error, sizeof(t->result.error), "%s", why);
	return t;
}

/*
 * request_fault finds what could smuggle lines into the request; NULL: nothing.
 */
static const char *
request_fault(const HttpRequest *request)
{
	const struct curl_slist *h;
	const char *p;

	for (p = request->method; *p; p++)
	{
		if (!isupper((unsigned char) *p))
			break;
	}
	if (*p || p == request->method)
		return "the method is not a word of capitals";
	for (h = request->headers; h; h = h->next)
	{
		size_t name = strcspn(h->data, ":");

		if (strpbrk(h->data, "\r\n") || name == 0 || h->data[name] != ':')
			return "a header line is not of the form \"Name: value\"";
	}
	return NULL;
}

/*
 * transfer_options sets all of libcurl's options of one request; false if one that counts could not
 * be set, for without it the request would not be the one that was meant.
 */
static bool
transfer_options(Transfer *t, const HttpSettings *settings, const HttpRequest *request)
{
	CURL *easy = t->easy;
	int64_t connect = settings->connect_timeout;
	bool good = true;

	if (connect > request->timeout)
		connect = request->timeout;
#if LIBCURL_VERSION_NUM >= 0x075700
	/* A time-out must not wait for the thread that still looks a name up. */
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	/* A libcurl without HTTP/2 refuses this, and speaks HTTP/1.1. */
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	if (settings->ca_file[0])
		SET(CURLOPT_CAINFO, settings->ca_file);
	SET(CURLOPT_TIMEOUT_MS, (long) request->timeout);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) connect);
	SET(CURLOPT_MAXAGE_CONN, CONNECTION_MAX_IDLE);
	/* Set even when empty: else http_proxy and no_proxy of the environment would be asked. */
	SET(CURLOPT_PROXY, settings->proxy);
	SET(CURLOPT_NOPROXY, "");
	SET(CURLOPT_USERAGENT, "ecstats-pusher/" PUSHER_VERSION);
	/* Compressed pages are undone piece by piece; the limit is for what comes out. */
	if (t->collects)
		SET(CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
	SET(CURLOPT_URL, request->url);
	return good && callbacks_set(t) && method_set(t, request);
}

/*
 * callbacks_set names the functions that libcurl calls.
 */
static bool
callbacks_set(Transfer *t)
{
	CURL *easy = t->easy;
	bool good = true;

	SET(CURLOPT_PRIVATE, t);
	SET(CURLOPT_ERRORBUFFER, t->curl_error);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, t);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, t);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
	SET(CURLOPT_OPENSOCKETDATA, t);
	SET(CURLOPT_PREREQFUNCTION, on_before_request);
	SET(CURLOPT_PREREQDATA, t);
	return good;
}

/*
 * method_set sets method, header lines and body.
 */
static bool
method_set(Transfer *t, const HttpRequest *request)
{
	CURL *easy = t->easy;
	bool good = headers_complete(t);

	if (strcmp(request->method, "GET") == 0)
		SET(CURLOPT_HTTPGET, 1L);
	else
	{
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDS, t->body);
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) strlen(t->body));
		if (strcmp(request->method, "POST") != 0)
			SET(CURLOPT_CUSTOMREQUEST, request->method);
	}
	SET(CURLOPT_HTTPHEADER, t->headers);
	return good;
}

/*
 * headers_complete takes out the header lines that libcurl would add by itself.
 */
static bool
headers_complete(Transfer *t)
{
	static const char *const unwanted[] = {"Expect:", "Content-Type:", "Accept:"};
	struct curl_slist *h;
	size_t i;

	for (i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
	{
		for (h = t->headers; h; h = h->next)
		{
			if (strncasecmp(h->data, unwanted[i], strlen(unwanted[i])) == 0)
				break;
		}
		if (h)
			continue;
		h = curl_slist_append(t->headers, unwanted[i]);
		if (h == NULL)
			return false;
		t->headers = h;
	}
	return true;
}

/*
 * transfer_fail hands over that a request could not be started: why, or what the result says.
 */
void
transfer_fail(Transfer *t, const char *why)
{
	t->result.error_kind = "other";
	if (why)
		snprintf(t->result.error, sizeof(t->result.error), "%s", why);
	t->done(t->arg, &t->result);
}

/*
 * transfer_finish turns libcurl's outcome into facts, and hands them over.
 */
void
transfer_finish(Transfer *t, CURLcode code)
{
	HttpResult *r = &t->result;

	r->elapsed = monotonic_ms() - t->started;
	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &r->status);
	r->request_sent = t->began;
	if (code == CURLE_OK && !answer_whole(t))
	{
		snprintf(t->curl_error, sizeof(t->curl_error), "the connection ended inside the answer");
		code = CURLE_PARTIAL_FILE;
	}
	r->truncated = t->too_large;
	if (t->collects)
		body_finish(t, code);
	else
		utf8_clean(t->raw, t->kept, r->response, sizeof(r->response));
	if (code != CURLE_OK)
	{
		r->error_kind = failure_kind(t, code);
		failure_text(t, code);
	}
	t->done(t->arg, r);
}

/*
 * answer_whole says whether what libcurl takes for an answer may be one. It is content with an end
 * inside the header lines, with an empty body that only the end of the connection ends, and with a
 * compressed body of which nothing can be unpacked: each would pass for an empty page.
 */
static bool
answer_whole(const Transfer *t)
{
	long version = CURL_HTTP_VERSION_NONE;
	curl_off_t raw = 0;

	if (!t->headers_ended || t->result.status < 200)
		return false;
	if (!t->collects || t->received > 0 || t->result.status == 204 || t->result.status == 304)
		return true;
	curl_easy_getinfo(t->easy, CURLINFO_HTTP_VERSION, &version);
	curl_easy_getinfo(t->easy, CURLINFO_SIZE_DOWNLOAD_T, &raw);
	return raw == 0 && (t->framed || version >= CURL_HTTP_VERSION_2_0);
}

/*
 * body_finish makes the collected body clean text. Of an answer that broke, which nobody may take
 * for a page, only the beginning is left.
 */
static void
body_finish(Transfer *t, CURLcode code)
{
	HttpResult *r = &t->result;

	if (r->body == NULL)
		return;
	if (code != CURLE_OK && !t->too_large && t->kept > HTTP_RESPONSE_KEPT)
		t->kept = HTTP_RESPONSE_KEPT;
	r->body_length = utf8_clean_in_place(r->body, t->kept);
}

/*
 * transfer_free frees a request that the engine no longer knows.
 */
void
transfer_free(Transfer *t)
{
	if (t->easy)
		curl_easy_cleanup(t->easy);
	curl_slist_free_all(t->headers);
	headers_forget(t);
	free(t->result.body);
	free(t->url);
	free(t->body);
	free(t);
}

/*
 * on_open makes the socket, unless the address that the name resolved to is not public. Behind a
 * proxy the address is the proxy's, which the administrator chose.
 */
static curl_socket_t
on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer *t = arg;

	(void) purpose;
	if (!t->allow_private && !t->proxied && address_is_private(&address->addr))
	{
		t->refused = true;
		return CURL_SOCKET_BAD;
	}
	t->opened = true;
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/*
 * on_before_request is called when a connection, new or kept, is ready for the request. A second
 * call means that libcurl wants to repeat it after a kept connection broke.
 */
static int
on_before_request(void *arg, char *peer, char *local, int peer_port, int local_port)
{
	Transfer *t = arg;

	(void) local;
	(void) peer_port;
	(void) local_port;
	if (t->began)
	{
		t->repeated = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (!t->allow_private && !t->proxied && address_text_is_private(peer))
	{
		t->refused = true;
		t->opened = false;
		return CURL_PREREQFUNC_ABORT;
	}
	t->began = true;
	return CURL_PREREQFUNC_OK;
}

/*
 * on_body keeps the answer, or its beginning, and breaks off one that is too long.
 */
static size_t
on_body(char *data, size_t size, size_t count, void *arg)
{
	Transfer *t = arg;
	size_t length = size * count;
	size_t most = t->collects ? (size_t) t->limit : sizeof(t->raw);
	size_t keep = most - t->kept;

	t->received += length;
	if (keep > length)
		keep = length;
	if (!t->collects)
		memcpy(t->raw + t->kept, data, keep);
	else if (!body_collect(t, data, keep))
	{
		t->no_memory = true;
		return 0;
	}
	t->kept += keep;
	if (t->received > (size_t) t->limit)
	{
		t->too_large = true;
		return 0;
	}
	return length;
}

/*
 * body_collect appends to the collected body; there is always room for a terminator. The length
 * that the answer announces is not believed. False without memory.
 */
static bool
body_collect(Transfer *t, const char *data, size_t length)
{
	size_t need = t->kept + length + 1;
	size_t room = t->body_room ? t->body_room : BODY_ROOM_FIRST;
	char *body;

	while (room < need)
		room *= 2;
	if (room > (size_t) t->limit + 1)
		room = (size_t) t->limit + 1;
	if (room != t->body_room)
	{
		body = realloc(t->result.body, room);
		if (body == NULL)
			return false;
		t->result.body = body;
		t->body_room = room;
	}
	memcpy(t->result.body + t->kept, data, length);
	return true;
}

/*
 * on_header keeps the few header lines that were asked for. A status line begins anew: what a 1xx
 * answer said does not count.
 */
static size_t
on_header(char *data, size_t size, size_t count, void *arg)
{
	Transfer *t = arg;
	size_t length = size * count;
	size_t name;
	size_t begin;
	size_t end = length;
	int i;

	t->header_bytes += length;
	if (t->header_bytes > (size_t) t->max_headers)
	{
		t->long_headers = true;
		return 0;
	}
	if (length >= 5 && strncmp(data, "HTTP/", 5) == 0)
	{
		headers_forget(t);
		return length;
	}
	if (length > 0 && (data[0] == '\r' || data[0] == '\n'))
		t->headers_ended = true;
	if (strncasecmp(data, "content-length:", length < 15 ? length : 15) == 0 ||
		strncasecmp(data, "transfer-encoding:", length < 18 ? length : 18) == 0)
		t->framed = true;
	for (i = 0; i < HTTP_HEADERS_KEPT && t->keep[i].name; i++)
	{
		name = strlen(t->keep[i].name);
		if (length <= name || data[name] != ':' || strncasecmp(data, t->keep[i].name, name) != 0)
			continue;
		for (begin = name + 1; begin < end && isspace((unsigned char) data[begin]); begin++)
			;
		while (end > begin && isspace((unsigned char) data[end - 1]))
			end--;
		if (!header_keep(t, i, data + begin, end - begin))
		{
			t->no_memory = true;
			return 0;
		}
	}
	return length;
}

/*
 * header_keep stores a header line's value, behind what an earlier line of a list said. False without
 * memory.
 */
static bool
header_keep(Transfer *t, int i, const char *value, size_t length)
{
	const HttpKeep *keep = &t->keep[i];
	char *old = t->result.headers[i].value;
	size_t used = 0;
	size_t room;
	char *out;

	if (keep->list && old)
		used = strlen(old) + 2;
	if (used + 1 >= keep->size)
		return true;
	room = keep->size - used < length + 1 ? keep->size - used : length + 1;
	out = realloc(old, used + room);
	if (out == NULL)
		return false;
	if (used)
		memcpy(out + used - 2, ", ", 2);
	utf8_clean(value, length, out + used, room);
	t->result.headers[i].name = keep->name;
	t->result.headers[i].value = out;
	return true;
}

/*
 * headers_forget frees the header lines that were kept, and forgets what they said.
 */
static void
headers_forget(Transfer *t)
{
	int i;

	t->headers_ended = false;
	t->framed = false;
	for (i = 0; i < HTTP_HEADERS_KEPT; i++)
	{
		free(t->result.headers[i].value);
		t->result.headers[i].value = NULL;
		t->result.headers[i].name = NULL;
	}
}
