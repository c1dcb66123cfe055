/*
 * text.c: makes foreign bytes fit to be stored or shown: valid UTF-8, no secrets.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <libpq-fe.h>

#include "text.h"

static size_t utf8_length(const unsigned char *p, size_t left, bool *cut);
static bool dsn_is_name(const char *dsn);
static bool secret_keyword(const char *keyword);

/*
 * utf8_clean copies bytes as valid UTF-8 without NUL: each bad byte becomes '?', and a sequence
 * that the end of the input cuts is dropped. Returns the length; out is always terminated.
 */
size_t
utf8_clean(const char *in, size_t length, char *out, size_t size)
{
	const unsigned char *p = (const unsigned char *) in;
	size_t i = 0;
	size_t n = 0;

	while (i < length)
	{
		bool cut = false;
		size_t step = utf8_length(p + i, length - i, &cut);

		if (cut)
			break;
		if (n + (step ? step : 1) >= size)
			break;
		if (step == 0)
		{
			out[n++] = '?';
			i++;
			continue;
		}
		memcpy(out + n, p + i, step);
		n += step;
		i += step;
	}
	out[n] = '\0';
	return n;
}

/*
 * utf8_clean_in_place does the same to a buffer that has room for a terminator at text[length]. A
 * byte order mark at the beginning is taken off. Returns the new length.
 */
size_t
utf8_clean_in_place(char *text, size_t length)
{
	size_t i = 0;

	if (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
	{
		length -= 3;
		memmove(text, text + 3, length);
	}
	while (i < length)
	{
		bool cut = false;
		size_t step = utf8_length((const unsigned char *) text + i, length - i, &cut);

		if (cut)
			break;
		if (step == 0)
			text[i++] = '?';
		else
			i += step;
	}
	text[i] = '\0';
	return i;
}

/*
 * json_quote returns head, clean text as a JSON string, and tail, in a buffer of exactly that size
 * which the caller frees; NULL without memory. For long texts, of which a library would make several
 * copies.
 */
char *
json_quote(const char *head, const char *text, size_t length, const char *tail)
{
	static const char hex[] = "0123456789abcdef";
	size_t before = strlen(head);
	size_t size = before + length + strlen(tail) + 3;
	size_t i;
	char *out;
	char *p;

	for (i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) text[i];

		if (c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t')
			size += 1;
		else if (c < 0x20)
			size += 5;
	}
	out = malloc(size);
	if (out == NULL)
		return NULL;
	memcpy(out, head, before);
	p = out + before;
	*p++ = '"';
	for (i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) text[i];

		if (c >= 0x20 && c != '"' && c != '\\')
		{
			*p++ = (char) c;
			continue;
		}
		*p++ = '\\';
		if (c == '"' || c == '\\')
			*p++ = (char) c;
		else if (c == '\n' || c == '\r' || c == '\t')
			*p++ = c == '\n' ? 'n' : c == '\r' ? 'r' : 't';
		else
		{
			memcpy(p, "u00", 3);
			p[3] = hex[c >> 4];
			p[4] = hex[c & 15];
			p += 5;
		}
	}
	*p++ = '"';
	strcpy(p, tail);
	return out;
}

/*
 * utf8_length returns the length of the valid sequence at p, or 0 if there is none. *cut is set
 * when what is there is only the beginning of a sequence.
 */
static size_t
utf8_length(const unsigned char *p, size_t left, bool *cut)
{
	size_t need;
	size_t i;
	unsigned char low = 0x80;
	unsigned char high = 0xBF;

	if (p[0] == 0)
		return 0;
	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xC2 && p[0] <= 0xDF)
		need = 2;
	else if (p[0] >= 0xE0 && p[0] <= 0xEF)
		need = 3;
	else if (p[0] >= 0xF0 && p[0] <= 0xF4)
		need = 4;
	else
		return 0;

	/* The second byte excludes overlong forms, surrogates and what is past U+10FFFF. */
	if (p[0] == 0xE0)
		low = 0xA0;
	else if (p[0] == 0xED)
		high = 0x9F;
	else if (p[0] == 0xF0)
		low = 0x90;
	else if (p[0] == 0xF4)
		high = 0x8F;

	for (i = 1; i < need; i++)
	{
		if (i == left)
		{
			*cut = true;
			return 0;
		}
		if (p[i] < low || p[i] > high)
			return 0;
		low = 0x80;
		high = 0xBF;
	}
	return need;
}

/*
 * text_mask replaces each occurrence of a secret by "***", in place and whatever its case (host names
 * lose theirs). What is shorter than four bytes is no secret, and would make the text unreadable.
 */
void
text_mask(char *text, const char *secret, size_t length)
{
	char *p;

	if (length < 4)
		return;
	for (p = text; strlen(p) >= length; p++)
	{
		if (strncasecmp(p, secret, length) != 0)
			continue;
		memcpy(p, "***", 3);
		memmove(p + 3, p + length, strlen(p + length) + 1);
		p += 2;
	}
}

/*
 * url_mask reduces a URL to what may be shown: scheme, host and port. Path and query hold the key
 * of most chat robots, the part before '@' a password. Returns whether there is a host to show.
 */
bool
url_mask(const char *url, char *out, size_t size)
{
	const char *host = strstr(url, "://");
	const char *end;
	const char *at;
	const char *host_end;

	if (host == NULL || host - url > 8 ||
		(int) strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") !=
			host - url)
	{
		snprintf(out, size, "(not a URL)");
		return false;
	}
	host += 3;
	end = host + strcspn(host, "/?#\\");
	for (at = host; at < end; at++)
	{
		if (*at == '@')
			host = at + 1;
	}
	/* What is no host and port may be a piece of a password that holds a '/'. */
	host_end =
		host + strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_[]");
	if (host < end && *host == '[')
		host_end = host + 1 + strspn(host + 1, "abcdefABCDEF0123456789:.]");
	if (host_end < end && *host_end == ':')
		host_end += 1 + strspn(host_end + 1, "0123456789");
	/* So may be what looks like them, with an '@' that comes too late. */
	if (host_end != end || (host == strstr(url, "://") + 3 && strchr(end, '@')))
		end = host;
	snprintf(out, size, "%.*s://%.*s/…", (int) (strstr(url, "://") - url), url, (int) (end - host),
			 host);
	return end > host;
}

/*
 * dsn_mask returns a connection string (or URI) as keyword=value pairs with its secrets replaced.
 * The caller frees it. A string libpq cannot read is not repeated, it may hold a password.
 */
char *
dsn_mask(const char *dsn)
{
	PQconninfoOption *options;
	PQconninfoOption *o;
	char *out = NULL;
	size_t size = 0;
	FILE *stream;

	if (dsn_is_name(dsn))
		return strdup(dsn);

	options = PQconninfoParse(dsn, NULL);
	if (options == NULL)
		return strdup("(not a valid connection string)");
	stream = open_memstream(&out, &size);
	for (o = options; stream && o->keyword; o++)
	{
		if (o->val)
			fprintf(stream, "%s%s=%s", ftell(stream) > 0 ? " " : "", o->keyword,
					secret_keyword(o->keyword) ? "********" : o->val);
	}
	PQconninfoFree(options);
	if (stream)
		fclose(stream);
	return out;
}

/*
 * dsn_is_valid says whether libpq can read a connection string.
 */
bool
dsn_is_valid(const char *dsn)
{
	PQconninfoOption *options;
	bool valid;

	if (dsn_is_name(dsn))
		return true;
	options = PQconninfoParse(dsn, NULL);
	valid = options != NULL;
	PQconninfoFree(options);
	return valid;
}

/*
 * dsn_is_name says whether a connection string is a lone word: the name of a database, as for psql.
 */
static bool
dsn_is_name(const char *dsn)
{
	return strchr(dsn, '=') == NULL && strncmp(dsn, "postgres://", 11) != 0 &&
		   strncmp(dsn, "postgresql://", 13) != 0;
}

/*
 * secret_keyword says whether a connection keyword holds a secret.
 */
static bool
secret_keyword(const char *keyword)
{
	return strstr(keyword, "password") != NULL && strcmp(keyword, "passfile") != 0;
}
