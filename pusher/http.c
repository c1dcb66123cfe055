/*
 * http.c: many requests at once over libcurl's multi socket interface, inside the caller's poll().
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
#include <unistd.h>

#include "address.h"
#include "config.h"
#include "http.h"
#include "pgconn.h"
#include "text.h"

#define CONNECTION_MAX_IDLE 20L /* s; shorter than what servers commonly keep */

typedef struct HttpSocket
{
	curl_socket_t fd;
	short events;
} HttpSocket;

typedef struct Transfer
{
	struct Transfer *next;
	Http *http;
	CURL *easy;
	struct curl_slist *headers;
	char *body;
	HttpDone done;
	void *arg;
	int64_t started;
	bool allow_private;
	bool proxied;
	bool opened;	/* a socket to an allowed address was made */
	bool refused;	/* an address was refused */
	bool began;		/* the request was about to be written */
	bool repeated;	/* libcurl wanted to write it once more */
	bool too_large; /* the answer passed max_response */
	size_t received;
	size_t kept;
	char raw[HTTP_RESPONSE_KEPT];
	char curl_error[CURL_ERROR_SIZE];
	HttpResult result;
} Transfer;

struct Http
{
	CURLM *multi;
	HttpSettings settings;
	Transfer *transfers;
	HttpSocket *sockets;
	int nsockets;
	int sockets_room;
	int64_t timer; /* monotonic ms, 0 none */
};

static const char *const headers_kept[HTTP_HEADERS_KEPT] = {
	"retry-after", "x-ogw-ratelimit-reset", "x-ratelimit-reset-after", "content-type"};

static bool transfer_options(Transfer *t, const HttpRequest *request);
static bool request_check(const HttpRequest *request, char *why, size_t size);
static void method_set(Transfer *t, const HttpRequest *request);
static void transfer_fail(Transfer *t, const char *why);
static void transfer_finish(Transfer *t, CURLcode code);
static void transfer_free(Transfer *t);
static const char *error_kind(const Transfer *t, CURLcode code);
static void error_text(Transfer *t, CURLcode code);
static void http_reap(Http *http);
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg);
static int on_timer(CURLM *multi, long timeout_ms, void *arg);
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
static int on_before_request(void *arg, char *peer, char *local, int peer_port, int local_port);
static size_t on_body(char *data, size_t size, size_t count, void *arg);
static size_t on_header(char *data, size_t size, size_t count, void *arg);

/*
 * http_create makes the engine; curl_global_init must have been called.
 */
Http *
http_create(void)
{
	Http *http = calloc(1, sizeof(Http));

	http->multi = curl_multi_init();
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
	return http;
}

/*
 * http_free breaks off what is under way, without a word to its owner; NULL is fine.
 */
void
http_free(Http *http)
{
	if (http == NULL)
		return;
	while (http->transfers)
		transfer_free(http->transfers);
	curl_multi_cleanup(http->multi);
	free(http->sockets);
	free(http);
}

/*
 * http_configure takes settings for the requests started from now on.
 */
void
http_configure(Http *http, const HttpSettings *settings)
{
	http->settings = *settings;
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long) settings->concurrency);
}

/* ---------------------------------------------------------------- one request */

/*
 * http_start begins a request; done is called once, perhaps before this returns.
 */
void
http_start(Http *http, const HttpRequest *request, HttpDone done, void *arg)
{
	Transfer *t = calloc(1, sizeof(Transfer));
	char why[200];

	t->http = http;
	t->done = done;
	t->arg = arg;
	t->started = monotonic_ms();
	t->headers = request->headers;
	t->body = strdup(request->body);
	t->allow_private = request->allow_private;
	t->proxied = http->settings.proxy[0] != '\0';
	t->next = http->transfers;
	http->transfers = t;

	if (!request_check(request, why, sizeof(why)))
		transfer_fail(t, why);
	else if ((t->easy = curl_easy_init()) == NULL || !transfer_options(t, request))
		transfer_fail(t, "libcurl refused the request");
	else if (curl_multi_add_handle(http->multi, t->easy) != CURLM_OK)
		transfer_fail(t, "libcurl could not start the request");
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
transfer_options(Transfer *t, const HttpRequest *request)
{
	CURL *easy = t->easy;
	const HttpSettings *settings = &t->http->settings;
	int64_t connect = settings->connect_timeout;

	if (connect > request->timeout)
		connect = request->timeout;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->curl_error);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
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
 * transfer_fail ends a request that could not be started.
 */
static void
transfer_fail(Transfer *t, const char *why)
{
	t->result.error_kind = "other";
	snprintf(t->result.error, sizeof(t->result.error), "%s", why);
	t->done(t->arg, &t->result);
	transfer_free(t);
}

/*
 * transfer_finish turns libcurl's outcome into facts, hands them over and frees the request.
 */
static void
transfer_finish(Transfer *t, CURLcode code)
{
	HttpResult *r = &t->result;

	r->elapsed = monotonic_ms() - t->started;
	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &r->status);
	r->request_sent = t->began;
	utf8_clean(t->raw, t->kept, r->response, sizeof(r->response));
	if (code != CURLE_OK)
	{
		r->error_kind = error_kind(t, code);
		error_text(t, code);
	}
	t->done(t->arg, r);
	transfer_free(t);
}

/*
 * error_kind names the class of a failure in the contract's words.
 */
static const char *
error_kind(const Transfer *t, CURLcode code)
{
	if (t->too_large)
		return "too_large";
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
		snprintf(raw, sizeof(raw), "the answer is longer than %lld bytes",
				 (long long) t->http->settings.max_response);
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
 * transfer_free takes a request out of the engine and frees it.
 */
static void
transfer_free(Transfer *t)
{
	Transfer **link;

	for (link = &t->http->transfers; *link; link = &(*link)->next)
	{
		if (*link == t)
		{
			*link = t->next;
			break;
		}
	}
	if (t->easy)
	{
		curl_multi_remove_handle(t->http->multi, t->easy);
		curl_easy_cleanup(t->easy);
	}
	curl_slist_free_all(t->headers);
	free(t->body);
	free(t);
}

/* ---------------------------------------------------------------- events */

/*
 * http_sockets counts the sockets to poll.
 */
int
http_sockets(const Http *http)
{
	return http->nsockets;
}

/*
 * http_pollfds fills http_sockets() entries.
 */
void
http_pollfds(const Http *http, struct pollfd *out)
{
	int i;

	for (i = 0; i < http->nsockets; i++)
	{
		out[i].fd = http->sockets[i].fd;
		out[i].events = http->sockets[i].events;
		out[i].revents = 0;
	}
}

/*
 * http_deadline returns when http_expire has to be called (monotonic ms), 0 for never.
 */
int64_t
http_deadline(const Http *http)
{
	return http->timer;
}

/*
 * http_expire lets libcurl see to its time-outs.
 */
void
http_expire(Http *http)
{
	int running;

	http->timer = 0;
	curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	http_reap(http);
}

/*
 * http_pump tells libcurl what poll() found about one socket.
 */
void
http_pump(Http *http, int fd, short revents)
{
	int mask = 0;
	int running;

	if (revents & POLLIN)
		mask |= CURL_CSELECT_IN;
	if (revents & POLLOUT)
		mask |= CURL_CSELECT_OUT;
	if (revents & (POLLERR | POLLHUP | POLLNVAL))
		mask |= CURL_CSELECT_ERR;
	if (mask == 0)
		return;
	curl_multi_socket_action(http->multi, fd, mask, &running);
	http_reap(http);
}

/*
 * http_reap finishes the requests that are done.
 */
static void
http_reap(Http *http)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		Transfer *t;
		CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &t);
		transfer_finish(t, code);
	}
}

/*
 * on_socket notes which sockets libcurl wants to be polled, and for what.
 */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	Http *http = arg;
	int i;

	(void) easy;
	(void) socket_arg;
	for (i = 0; i < http->nsockets && http->sockets[i].fd != fd; i++)
		;
	if (what == CURL_POLL_REMOVE)
	{
		if (i < http->nsockets)
			http->sockets[i] = http->sockets[--http->nsockets];
		return 0;
	}
	if (i == http->sockets_room)
	{
		http->sockets_room = http->sockets_room ? http->sockets_room * 2 : 16;
		http->sockets = realloc(http->sockets, http->sockets_room * sizeof(HttpSocket));
		if (http->sockets == NULL)
			abort();
	}
	if (i == http->nsockets)
		http->nsockets++;
	http->sockets[i].fd = fd;
	http->sockets[i].events =
		(what & CURL_POLL_IN ? POLLIN : 0) | (what & CURL_POLL_OUT ? POLLOUT : 0);
	return 0;
}

/*
 * on_timer notes when libcurl wants to be called.
 */
static int
on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	Http *http = arg;

	(void) multi;
	http->timer = timeout_ms < 0 ? 0 : monotonic_ms() + timeout_ms;
	return 0;
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
 * on_body keeps the beginning of the answer and breaks off an endless one.
 */
static size_t
on_body(char *data, size_t size, size_t count, void *arg)
{
	Transfer *t = arg;
	size_t length = size * count;
	size_t keep = sizeof(t->raw) - t->kept;

	t->received += length;
	if (keep > length)
		keep = length;
	memcpy(t->raw + t->kept, data, keep);
	t->kept += keep;
	if (t->received > (size_t) t->http->settings.max_response)
	{
		t->too_large = true;
		return 0;
	}
	return length;
}

/*
 * on_header keeps the few header lines that tell when to come back. A status line begins anew:
 * what a 1xx answer said does not count.
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

	t->received += length;
	if (t->received > (size_t) t->http->settings.max_response)
	{
		t->too_large = true;
		return 0;
	}
	if (length >= 5 && strncmp(data, "HTTP/", 5) == 0)
	{
		memset(t->result.headers, 0, sizeof(t->result.headers));
		return length;
	}
	for (i = 0; i < HTTP_HEADERS_KEPT; i++)
	{
		name = strlen(headers_kept[i]);
		if (length <= name || data[name] != ':' || strncasecmp(data, headers_kept[i], name) != 0)
			continue;
		for (begin = name + 1; begin < end && isspace((unsigned char) data[begin]); begin++)
			;
		while (end > begin && isspace((unsigned char) data[end - 1]))
			end--;
		t->result.headers[i].name = headers_kept[i];
		utf8_clean(data + begin, end - begin, t->result.headers[i].value, HTTP_HEADER_SIZE);
	}
	return length;
}
