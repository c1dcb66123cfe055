/*
 * config.h: settings of the pusher: defaults, file, command line, in this order.
 */
#ifndef PUSHER_CONFIG_H
#define PUSHER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define PUSHER_VERSION "1.0"
#define PUSHER_MAJOR   1
#define PUSHER_MINOR   0

/* Exit codes, also listed in --help. */
#define EXIT_DATABASE 1
#define EXIT_USAGE	  2
#define EXIT_VERSION  3

/* Every number is an int64_t so that config_keys[] can reach it by offset; durations are ms. */
typedef struct Config
{
	char *dsn;
	char *worker;
	char *ca_file;
	char *proxy;
	int64_t concurrency;
	int64_t poll_interval;
	int64_t beat_interval;
	int64_t connect_timeout;
	int64_t query_timeout;
	int64_t reconnect_max;
	int64_t drain_timeout;
	int64_t max_response;
	int64_t max_fetch;
	int64_t receive_timeout;
	int64_t tick;
	int64_t log_level;
	int64_t log_format;
} Config;

typedef enum RunMode
{
	MODE_DAEMON,
	MODE_ONCE,
	MODE_CHECK,
	MODE_SHOW_CONFIG,
	MODE_SHOW_MARKDOWN,
	MODE_VERSION,
	MODE_HELP
} RunMode;

/* The command line as it was given; kept so that a reload can put it over the file again. */
typedef struct CommandLine
{
	RunMode mode;
	char *config_file;
	int nsettings;
	struct
	{
		const char *key;
		char *value;
	} settings[32];
} CommandLine;

extern bool command_line_parse(CommandLine *cmd, int argc, char **argv);
extern void command_line_free(CommandLine *cmd);

extern Config *config_create(const CommandLine *cmd, char *error, int error_size);
extern void config_free(Config *config);
extern void config_reload(Config *config, Config *fresh);
extern void config_print(const Config *config);
extern void config_print_markdown(void);
extern void config_print_help(void);

#endif
