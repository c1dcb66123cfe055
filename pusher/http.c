/*
 * http.c: many requests at once over libcurl's multi socket interface, inside the caller's poll().
 */
#include <stdlib.h>

#include "http.h"
#include "log.h"
#include "pgconn.h"
#include "transfer.h"

#define SOCKETS_EACH 8 /* addresses tried at once, a lookup's pair; more only if memory allows */

typedef struct HttpSocket
{
	curl_socket_t fd;
	short events;
} HttpSocket;

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

static void http_remove(Http *http, Transfer *t);
static void http_reap(Http *http);
static bool sockets_reserve(Http *http, int room);
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg);
static int on_timer(CURLM *multi, long timeout_ms, void *arg);

/*
 * http_create makes the engine; curl_global_init must have been called.
 */
Http *
http_create(void)
{
	Http *http = log_need(calloc(1, sizeof(Http)));

	http->multi = log_need(curl_multi_init());
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
		http_remove(http, http->transfers);
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

/*
 * http_start begins a request; done is called once, perhaps before this returns.
 */
void
http_start(Http *http, const HttpRequest *request, HttpDone done, void *arg)
{
	int room = SOCKETS_EACH;
	Transfer *t;

	for (t = http->transfers; t; t = t->next)
		room += SOCKETS_EACH;
	t = NULL;
	if (sockets_reserve(http, room))
		t = transfer_create(&http->settings, request, done, arg);
	if (t == NULL)
	{
		HttpResult failure = {.error_kind = "other", .error = "out of memory"};

		curl_slist_free_all(request->headers);
		done(arg, &failure);
		return;
	}
	t->next = http->transfers;
	http->transfers = t;
	if (t->easy && curl_multi_add_handle(http->multi, t->easy) == CURLM_OK)
		return;
	transfer_fail(t, t->easy ? "libcurl could not start the request" : NULL);
	http_remove(http, t);
}

/*
 * http_remove takes a request out of the engine and frees it.
 */
static void
http_remove(Http *http, Transfer *t)
{
	Transfer **link;

	for (link = &http->transfers; *link; link = &(*link)->next)
	{
		if (*link == t)
		{
			*link = t->next;
			break;
		}
	}
	if (t->easy)
		curl_multi_remove_handle(http->multi, t->easy);
	transfer_free(t);
}

/*
 * http_sockets counts the sockets to poll.
 */
int
http_sockets(const Http *http)
{
	return http->nsockets;
}

/*
 * http_pollfds fills the first entries of http_sockets(), so many at most.
 */
void
http_pollfds(const Http *http, struct pollfd *out, int most)
{
	int i;

	for (i = 0; i < http->nsockets && i < most; i++)
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
		http_remove(http, t);
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
	/* What it is refused libcurl takes as the failure of all requests: they fail, none is lost. */
	if (!sockets_reserve(http, i + 1))
		return -1;
	if (i == http->nsockets)
		http->nsockets++;
	http->sockets[i].fd = fd;
	http->sockets[i].events =
		(what & CURL_POLL_IN ? POLLIN : 0) | (what & CURL_POLL_OUT ? POLLOUT : 0);
	return 0;
}

/*
 * sockets_reserve makes room for so many sockets; false without memory.
 */
static bool
sockets_reserve(Http *http, int room)
{
	HttpSocket *sockets;

	if (room <= http->sockets_room)
		return true;
	room *= 2;
	sockets = realloc(http->sockets, room * sizeof(HttpSocket));
	if (sockets == NULL)
		return false;
	http->sockets = sockets;
	http->sockets_room = room;
	return true;
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
