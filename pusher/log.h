/*
 * log.h: one line an event on stderr, as text or JSON.
 */
#ifndef PUSHER_LOG_H
#define PUSHER_LOG_H

typedef enum LogLevel
{
	LOG_DEBUG,
	LOG_INFO,
	LOG_WARN,
	LOG_ERROR
} LogLevel;

typedef enum LogFormat
{
	LOG_TEXT,
	LOG_JSON
} LogFormat;

extern const char *const log_level_names[];
extern const char *const log_format_names[];

extern void log_setup(LogLevel level, LogFormat format);
extern void *log_need(void *memory);
extern void log_write(LogLevel level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
