/*
 * transfer.h: one request, between the engine (http.c) and its options and outcome (transfer.c).
 */
#ifndef PUSHER_TRANSFER_H
#define PUSHER_TRANSFER_H

#include "http.h"

typedef struct Transfer
{
	struct Transfer *next;
	CURL *easy;
	struct curl_slist *headers;
	char *url;
	char *body;
	HttpDone done;
	void *arg;
	int64_t started; /* monotonic ms */
	int64_t limit;	 /* bytes of the answer's body */
	const char *limit_name;
	int64_t max_headers; /* bytes of its header lines */
	const HttpKeep *keep;
	bool allow_private;
	bool proxied;
	bool opened;	   /* a socket to an allowed address was made */
	bool refused;	   /* an address was refused */
	bool began;		   /* the request was about to be written */
	bool repeated;	   /* libcurl wanted to write it once more */
	bool too_large;	   /* the answer passed its limit */
	bool long_headers; /* its header lines did */
	bool headers_ended;
	bool framed; /* the answer said how its end is known */
	bool no_memory;
	bool collects;	 /* the whole body is wanted */
	size_t received; /* bytes of the body, decoded */
	size_t header_bytes;
	size_t kept; /* bytes in raw, or else in result.body */
	size_t body_room;
	char raw[HTTP_RESPONSE_KEPT];
	char curl_error[CURL_ERROR_SIZE];
	HttpResult result;
} Transfer;

extern Transfer *transfer_create(const HttpSettings *settings, const HttpRequest *request,
								 HttpDone done, void *arg);
extern void transfer_free(Transfer *t);
extern void transfer_fail(Transfer *t, const char *why);
extern void transfer_finish(Transfer *t, CURLcode code);

#endif
