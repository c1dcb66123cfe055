/*
 * failure.c: why a request failed, in the contract's words and in some for people, without secrets.
 */
#include <stdio.h>
#include <string.h>

#include "failure.h"
#include "text.h"

static void error_mask(const Transfer *t, char *text);
static void word_mask(const Transfer *t, char *text, const char *word, size_t length);

/*
 * failure_kind names the class of a failure in the contract's words.
 */
const char *
failure_kind(const Transfer *t, CURLcode code)
{
	if (t->too_large || t->long_headers)
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
 * failure_text writes why a request failed, for people; never with a part of the URL's path, which
 * holds the key of most targets, nor with what only stands where a host should.
 */
void
failure_text(Transfer *t, CURLcode code)
{
	char raw[sizeof(t->result.error)];
	char shown[300];

	if (t->long_headers)
		snprintf(
			raw, sizeof(raw),
			"the answer's header lines are longer than %lld bytes (max_response of the pusher)",
			(long long) t->max_headers);
	else if (t->too_large)
		snprintf(raw, sizeof(raw), "the answer is longer than %lld bytes (%s)",
				 (long long) t->limit, t->limit_name);
	else if (t->no_memory)
		snprintf(raw, sizeof(raw), "out of memory");
	else if (t->repeated)
		snprintf(raw, sizeof(raw), "the connection broke before an answer began");
	else if (t->refused && !t->opened)
		snprintf(raw, sizeof(raw), "the address is private or reserved: allow_private is off");
	else if (t->curl_error[0] && strpbrk(t->curl_error, "/?@") == NULL &&
			 url_mask(t->url, shown, sizeof(shown)))
		snprintf(raw, sizeof(raw), "%s", t->curl_error);
	else
		snprintf(raw, sizeof(raw), "%s", curl_easy_strerror(code));
	error_mask(t, raw);
	utf8_clean(raw, strlen(raw), t->result.error, sizeof(t->result.error));
}

/*
 * error_mask takes out what the request carries as credentials: what stands before '@' in the URL,
 * the values of its query, those of the header lines.
 */
static void
error_mask(const Transfer *t, char *text)
{
	const struct curl_slist *h;
	const char *p = strstr(t->url, "://");
	const char *end;
	size_t length;

	p = p ? p + 3 : t->url;
	end = p + strcspn(p, "/?#");
	while (end > p && *end != '@')
		end--;
	for (; p < end; p += length + 1)
	{
		length = strcspn(p, ":@");
		word_mask(t, text, p, length);
	}
	for (p = strchr(t->url, '?'); p; p = p[length] ? p + length : NULL)
	{
		p++;
		length = strcspn(p, "=&");
		if (p[length] == '=')
			p += length + 1;
		length = strcspn(p, "&#");
		word_mask(t, text, p, length);
	}
	for (h = t->headers; h; h = h->next)
	{
		for (p = strchr(h->data, ':'); p && *p; p += length)
		{
			p += 1 + strspn(p + 1, " \t");
			length = strcspn(p, " \t");
			word_mask(t, text, p, length);
		}
	}
}

/*
 * word_mask takes a word of the request out of a text, as it stands and with its %xx undone.
 */
static void
word_mask(const Transfer *t, char *text, const char *word, size_t length)
{
	int decoded_length = 0;
	char *decoded = curl_easy_unescape(t->easy, word, (int) length, &decoded_length);

	text_mask(text, word, length);
	if (decoded)
		text_mask(text, decoded, (size_t) decoded_length);
	else
		text[0] = '\0'; /* better no reason than a secret */
	curl_free(decoded);
}
