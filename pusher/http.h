/*
 * http.h: many requests at once over libcurl's multi socket interface, inside the caller's poll().
 */
#ifndef PUSHER_HTTP_H
#define PUSHER_HTTP_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include <curl/curl.h>

#define HTTP_RESPONSE_KEPT 4096 /* bytes of an answer that are reported */
#define HTTP_HEADERS_KEPT  4

typedef struct Http Http;

/* A header line of the answer that is reported. */
typedef struct HttpKeep
{
	const char *name; /* in lower case */
	size_t size;	  /* bytes of its value that are kept, with the terminator */
	bool list;		  /* several lines of this name are one list; else the last counts */
} HttpKeep;

/* Strings are borrowed for the call; the list of header lines is taken over. */
typedef struct HttpRequest
{
	const char *method;
	const char *url;
	const char *body;
	struct curl_slist *headers;
	int64_t timeout; /* ms, whole request */
	bool allow_private;
	int64_t max_body;		/* bytes of the answer that are wanted; 0: only its beginning */
	const char *limit_name; /* whose limit max_body is; static */
	const HttpKeep *keep;	/* HTTP_HEADERS_KEPT rows, static; those without a name are unused */
} HttpRequest;

/*
 * What happened. error_kind is one of the contract's words or NULL; the text is clean UTF-8. All is
 * borrowed for the call, but body may be taken over by setting it to NULL.
 */
typedef struct HttpResult
{
	long status; /* 0: no answer began */
	const char *error_kind;
	bool request_sent; /* at least a part of the request may have left */
	char error[512];
	char response[HTTP_RESPONSE_KEPT + 1]; /* the beginning, without max_body */
	char *body;							   /* the whole, with max_body; NULL: none came */
	size_t body_length;
	bool truncated; /* broken off because it is too long */
	struct
	{
		const char *name;
		char *value;
	} headers[HTTP_HEADERS_KEPT];
	int64_t elapsed; /* ms */
} HttpResult;

typedef void (*HttpDone)(void *arg, HttpResult *result);

/* Strings are borrowed until the next http_configure; empty means none. */
typedef struct HttpSettings
{
	const char *ca_file;
	const char *proxy;
	int64_t connect_timeout; /* ms */
	int64_t max_response;	 /* bytes */
	int64_t concurrency;
} HttpSettings;

extern Http *http_create(void);
extern void http_free(Http *http);
extern void http_configure(Http *http, const HttpSettings *settings);
extern void http_start(Http *http, const HttpRequest *request, HttpDone done, void *arg);

extern int http_sockets(const Http *http);
extern void http_pollfds(const Http *http, struct pollfd *out, int most);
extern int64_t http_deadline(const Http *http);
extern void http_expire(Http *http);
extern void http_pump(Http *http, int fd, short revents);

#endif
