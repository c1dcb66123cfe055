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
#include "pgconn.h"
#include "text.h"
#include "transfer.h"

#define CONNECTION_MAX_IDLE 20L /* s; shorter than what servers commonly keep */

#define BODY_ROOM_FIRST 16384 /* bytes; doubled as more comes, whatever the answer promises */

static bool transfer_options(Transfer *t, const HttpSettings *settings, const HttpRequest *request);
static bool request_check(const HttpRequest *request, char *why, size_t size);
static void method_set(Transfer *t, const HttpRequest *request);
static const char *error_kind(const Transfer *t, CURLcode code);
static void error_text(Transfer *t, CURLcode code);
static void body_finish(Transfer *t, CURLcode code);
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
static int on_before_request(void *arg, char *peer, char *local, int peer_port, int local_port);
static size_t on_body(char *data, size_t size, size_t count, void *arg);
static bool body_collect(Transfer *t, const char *data, size_t length);
static size_t on_header(char *data, size_t size, size_t count, void *arg);
static void header_keep(Transfer *t, int i, const char *value, size_t length);
static void headers_forget(Transfer *t);

/*
 * transfer_create makes a request that is ready to be started. If it cannot be, easy is NULL and
 * the result says why: the caller ends it with transfer_fail.
 */
Transfer *
transfer_create(const HttpSettings *settings, const HttpRequest *request, HttpDone done, void *arg)
{
	Transfer *t = calloc(1, sizeof(Transfer));

	t->done = done;
	t->arg = arg;
	t->started = monotonic_ms();
	t->collects = request->max_body > 0;
	t->limit = t->collects ? request->max_body : settings->max_response;
	t->max_headers = settings->max_response;
	t->keep = request->keep;
	t->headers = request->headers;
	t->body = strdup(request->body);
	t->allow_private = request->allow_private;
	t->proxied = settings->proxy[0] != '\0';

	if (!request_check(request, t->result.error, sizeof(t->result.error)))
		return t;
	t->easy = curl_easy_init();
	if (t->easy && !transfer_options(t, settings, request))
	{
		curl_easy_cleanup(t->easy);
		t->easy = NULL;
	}
	if (t->easy == NULL)
		snprintf(t->result.error, sizeof(t->result.error), "libcurl refused the request");
	return t;
}

/*
 * request_check refuses what could smuggle lines into the request.
 */
static bool
request_check(const HttpRequest *request, char *why, size_t size)
{
	const struct curl_slist *h;
	const char *p;

	for (p = request->method; *p; p++)
	{
		if (!isupper((unsigned char) *p))
			break;
	}
	if (*p || p == request->method)
	{
		snprintf(why, size, "the method is not a word of capitals");
		return false;
	}
	for (h = request->headers; h; h = h->next)
	{
		size_t name = strcspn(h->data, ":");

		if (strpbrk(h->data, "\r\n") || name == 0 || h->data[name] != ':')
		{
			snprintf(why, size, "a header line is not of the form \"Name: value\"");
			return false;
		}
	}
	return true;
}

/*
 * transfer_options sets all of libcurl's options of one request.
 */
static bool
transfer_options(Transfer *t, const HttpSettings *settings, const HttpRequest *request)
{
	CURL *easy = t->easy;
	int64_t connect = settings->connect_timeout;

	if (connect > request->timeout)
		connect = request->timeout;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->curl_error);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* A time-out must not wait for the thread that still looks a name up. */
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "ecstats-pusher/" PUSHER_VERSION);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) request->timeout);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) connect);
	curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, CONNECTION_MAX_IDLE);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, t);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_before_request);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, t);
	/* Compressed pages are undone piece by piece; the limit is for what comes out. */
	if (t->collects)
		curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
	/* Set even when empty: else http_proxy and no_proxy of the environment would be asked. */
	curl_easy_setopt(easy, CURLOPT_PROXY, settings->proxy);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "");
	if (settings->ca_file[0])
		curl_easy_setopt(easy, CURLOPT_CAINFO, settings->ca_file);
	method_set(t, request);
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK;
}

/*
 * method_set sets method, header lines and body; what libcurl would add by itself is taken out.
 */
static void
method_set(Transfer *t, const HttpRequest *request)
{
	static const char *const unwanted[] = {"Expect:", "Content-Type:", "Accept:"};
	struct curl_slist *h;
	size_t i;

	if (strcmp(request->method, "GET") == 0)
		curl_easy_setopt(t->easy, CURLOPT_HTTPGET, 1L);
	else
	{
		curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
		curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->body);
		curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) strlen(t->body));
		if (strcmp(request->method, "POST") != 0)
			curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, request->method);
	}
	for (i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
	{
		for (h = t->headers; h; h = h->next)
		{
			if (strncasecmp(h->data, unwanted[i], strlen(unwanted[i])) == 0)
				break;
		}
		if (h == NULL)
			t->headers = curl_slist_append(t->headers, unwanted[i]);
	}
	curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
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
	r->truncated = t->too_large;
	if (t->collects)
		body_finish(t, code);
	else
		utf8_clean(t->raw, t->kept, r->response, sizeof(r->response));
	if (code != CURLE_OK)
	{
		r->error_kind = error_kind(t, code);
		error_text(t, code);
	}
	t->done(t->arg, r);
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
 * error_kind names the class of a failure in the contract's words.
 */
static const char *
error_kind(const Transfer *t, CURLcode code)
{
	if (t->too_large)
		return "too_large";
	if (t->no_memory)
		return "other";
	if (t->repeated)
		return "reset";
	if (t->refused && !t->began && !t->opened)
		return "refused_address";

	switch (code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_RESOLVE_PROXY:
			return "dns";
		case CURLE_COULDNT_CONNECT:
			return "connect";
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
		case CURLE_SSL_CLIENTCERT:
		case CURLE_SSL_SHUTDOWN_FAILED:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_USE_SSL_FAILED:
			return "tls";
		case CURLE_OPERATION_TIMEDOUT:
			return "timeout";
		case CURLE_GOT_NOTHING:
		case CURLE_SEND_ERROR:
		case CURLE_RECV_ERROR:
		case CURLE_PARTIAL_FILE:
		case CURLE_HTTP2:
		case CURLE_HTTP2_STREAM:
			return "reset";
		default:
			return "other";
	}
}

/*
 * error_text writes why a request failed, for people; never with a part of the URL's path, which
 * holds the key of most targets.
 */
static void
error_text(Transfer *t, CURLcode code)
{
	char raw[sizeof(t->result.error)];

	if (t->too_large)
		snprintf(raw, sizeof(raw), "the answer is longer than %lld bytes", (long long) t->limit);
	else if (t->no_memory)
		snprintf(raw, sizeof(raw), "out of memory");
	else if (t->repeated)
		snprintf(raw, sizeof(raw), "the connection broke before an answer began");
	else if (t->refused && !t->opened)
		snprintf(raw, sizeof(raw), "the address is private or reserved: allow_private is off");
	else if (t->curl_error[0] && strpbrk(t->curl_error, "/?") == NULL)
		snprintf(raw, sizeof(raw), "%s", t->curl_error);
	else
		snprintf(raw, sizeof(raw), "%s", curl_easy_strerror(code));
	utf8_clean(raw, strlen(raw), t->result.error, sizeof(t->result.error));
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
		t->too_large = true;
		return 0;
	}
	if (length >= 5 && strncmp(data, "HTTP/", 5) == 0)
	{
		headers_forget(t);
		return length;
	}
	for (i = 0; i < HTTP_HEADERS_KEPT && t->keep[i].name; i++)
	{
		name = strlen(t->keep[i].name);
		if (length <= name || data[name] != ':' || strncasecmp(data, t->keep[i].name, name) != 0)
			continue;
		for (begin = name + 1; begin < end && isspace((unsigned char) data[begin]); begin++)
			;
		while (end > begin && isspace((unsigned char) data[end - 1]))
			end--;
		header_keep(t, i, data + begin, end - begin);
	}
	return length;
}

/*
 * header_keep stores a header line's value, behind what an earlier line of a list said.
 */
static void
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
		return;
	room = keep->size - used < length + 1 ? keep->size - used : length + 1;
	out = realloc(old, used + room);
	if (out == NULL)
		abort();
	if (used)
		memcpy(out + used - 2, ", ", 2);
	utf8_clean(value, length, out + used, room);
	t->result.headers[i].name = keep->name;
	t->result.headers[i].value = out;
}

/*
 * headers_forget frees the header lines that were kept.
 */
static void
headers_forget(Transfer *t)
{
	int i;

	for (i = 0; i < HTTP_HEADERS_KEPT; i++)
	{
		free(t->result.headers[i].value);
		t->result.headers[i].value = NULL;
		t->result.headers[i].name = NULL;
	}
}
