/*
 * main.c: options, signals, and which way to run.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

#include "check.h"
#include "config.h"
#include "log.h"
#include "loop.h"

static Signals signals = {.fd = -1};
static int signals_write_fd = -1;

static void signals_install(void);
static void on_signal(int number);
static int run(const CommandLine *cmd, Config *config);

int
main(int argc, char **argv)
{
	CommandLine cmd;
	Config *config;
	char error[600];
	int code;

	if (!command_line_parse(&cmd, argc, argv))
		return EXIT_USAGE;
	if (cmd.mode == MODE_VERSION)
	{
		printf("ecstats-pusher %s (%s)\n", PUSHER_VERSION, curl_version());
		return EXIT_SUCCESS;
	}
	if (cmd.mode == MODE_HELP || cmd.mode == MODE_SHOW_MARKDOWN)
	{
		cmd.mode == MODE_HELP ? config_print_help() : config_print_markdown();
		return EXIT_SUCCESS;
	}
	config = config_create(&cmd, error, sizeof(error));
	if (config == NULL)
	{
		fprintf(stderr, "ecstats-pusher: %s\n", error);
		command_line_free(&cmd);
		return EXIT_USAGE;
	}
	code = run(&cmd, config);
	config_free(config);
	command_line_free(&cmd);
	return code;
}

/*
 * run does what the command line asks for, with valid settings.
 */
static int
run(const CommandLine *cmd, Config *config)
{
	int code;

	if (cmd->mode == MODE_SHOW_CONFIG)
	{
		config_print(config);
		return EXIT_SUCCESS;
	}
	if (cmd->mode == MODE_CHECK)
		return check_run(config);

	log_setup((LogLevel) config->log_level, (LogFormat) config->log_format);
	srandom((unsigned) (time(NULL) ^ (getpid() << 12)));
	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
	{
		log_write(LOG_ERROR, "libcurl could not be initialised");
		return EXIT_DATABASE;
	}
	signals_install();
	code = loop_run(config, cmd, &signals);
	curl_global_cleanup();
	return code;
}

/*
 * signals_install makes the pipe that wakes poll(), and the handlers.
 */
static void
signals_install(void)
{
	struct sigaction action;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
	{
		log_write(LOG_ERROR, "no pipe: %s", strerror(errno));
		exit(EXIT_DATABASE);
	}
	signals.fd = ends[0];
	signals_write_fd = ends[1];

	memset(&action, 0, sizeof(action));
	sigemptyset(&action.sa_mask);
	action.sa_flags = SA_RESTART;
	action.sa_handler = on_signal;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
}

/*
 * on_signal only sets a flag and wakes the loop.
 */
static void
on_signal(int number)
{
	int saved = errno;

	if (number == SIGHUP)
		signals.reload = 1;
	else if (signals.stops < 2)
		signals.stops++;
	(void) !write(signals_write_fd, "", 1);
	errno = saved;
}
