/*
 * log.c: writes one line an event on stderr, as text or JSON.
 *
 * What is secret never gets here: callers pass URLs through url_mask() and connection strings
 * through dsn_mask(), and never pass a body.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/time.h>

#include <jansson.h>

#include "config.h"
#include "log.h"
#include "text.h"

#define LOG_LINE_MAX 2048

const char *const log_level_names[] = {"debug", "info", "warn", "error", NULL};
const char *const log_format_names[] = {"text", "json", NULL};

/* The only global state: set at start and by a reload. */
static LogLevel log_least = LOG_INFO;
static LogFormat log_shape = LOG_TEXT;

static void log_timestamp(char *out, size_t size);

/*
 * log_setup chooses the least level that is written and the shape of the lines.
 */
void
log_setup(LogLevel level, LogFormat format)
{
	log_least = level;
	log_shape = format;
}

/*
 * log_write formats one event and writes it as a single line; line breaks become spaces.
 */
void
log_write(LogLevel level, const char *format, ...)
{
	char raw[LOG_LINE_MAX];
	char clean[LOG_LINE_MAX];
	char stamp[40];
	va_list args;
	char *p;

	if (level < log_least)
		return;

	va_start(args, format);
	vsnprintf(raw, sizeof(raw), format, args);
	va_end(args);
	utf8_clean(raw, strlen(raw), clean, sizeof(clean));
	for (p = clean; *p; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			*p = ' ';
	}
	log_timestamp(stamp, sizeof(stamp));

	if (log_shape == LOG_JSON)
	{
		json_t *line = json_pack("{s:s,s:s,s:s}", "time", stamp, "level", log_level_names[level],
								 "message", clean);
		char *text = line ? json_dumps(line, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;

		if (text)
			fprintf(stderr, "%s\n", text);
		free(text);
		json_decref(line);
	}
	else
		fprintf(stderr, "%s %-5s %s\n", stamp, log_level_names[level], clean);
}

/*
 * log_need returns memory that the program cannot start without, or ends it when there is none. What
 * belongs to one request fails with that request instead.
 */
void *
log_need(void *memory)
{
	if (memory)
		return memory;
	fprintf(stderr, "ecstats-pusher: out of memory\n");
	exit(EXIT_DATABASE);
}

/*
 * log_timestamp gives the present as RFC 3339 in UTC with milliseconds.
 */
static void
log_timestamp(char *out, size_t size)
{
	struct timeval now;
	struct tm parts;
	char seconds[24];

	gettimeofday(&now, NULL);
	gmtime_r(&now.tv_sec, &parts);
	strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(out, size, "%s.%03dZ", seconds, (int) (now.tv_usec / 1000));
}
