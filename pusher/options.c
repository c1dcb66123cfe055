/*
 * options.c: the command line, and what is printed about settings.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "config_keys.h"
#include "log.h"
#include "text.h"

#define OPTION_KEY 1000 /* getopt value of config_keys[0]; options of settings follow */

enum
{
	OPTION_ONCE = 500,
	OPTION_CHECK,
	OPTION_SHOW_CONFIG,
	OPTION_VERSION
};

static void value_print(FILE *out, const Config *config, const ConfigKey *key);
static void duration_print(FILE *out, int64_t ms);
static void options_build(struct option *options, char (*names)[40]);
static bool option_take(CommandLine *cmd, int option, char *value);
static void command_line_set(CommandLine *cmd, const char *key, const char *value);

/*
 * command_line_parse reads the options; false after it has said on stderr what is wrong.
 */
bool
command_line_parse(CommandLine *cmd, int argc, char **argv)
{
	struct option options[CONFIG_KEYS_MAX + 8];
	char names[CONFIG_KEYS_MAX][40];
	int option;

	memset(cmd, 0, sizeof(*cmd));
	options_build(options, names);
	while ((option = getopt_long(argc, argv, "d:c:h", options, NULL)) != -1)
	{
		if (!option_take(cmd, option, optarg))
		{
			fprintf(stderr, "Try \"ecstats-pusher --help\" for more information.\n");
			return false;
		}
	}
	if (optind < argc)
	{
		fprintf(stderr, "ecstats-pusher: unexpected argument \"%s\"\n", argv[optind]);
		return false;
	}
	return true;
}

/*
 * options_build makes getopt's table: the fixed options, then one of each setting.
 */
static void
options_build(struct option *options, char (*names)[40])
{
	static const struct option fixed[] = {
		{"config", required_argument, NULL, 'c'},
		{"once", no_argument, NULL, OPTION_ONCE},
		{"check", no_argument, NULL, OPTION_CHECK},
		{"show-config", optional_argument, NULL, OPTION_SHOW_CONFIG},
		{"version", no_argument, NULL, OPTION_VERSION},
		{"help", no_argument, NULL, 'h'},
	};
	int nfixed = (int) (sizeof(fixed) / sizeof(fixed[0]));
	int i;

	memcpy(options, fixed, sizeof(fixed));
	for (i = 0; i < config_nkeys; i++)
	{
		char *p;

		snprintf(names[i], sizeof(names[i]), "%s", config_keys[i].name);
		for (p = names[i]; *p; p++)
		{
			if (*p == '_')
				*p = '-';
		}
		options[nfixed + i] = (struct option){
			names[i], config_keys[i].type == KEY_SWITCH ? optional_argument : required_argument,
			NULL, OPTION_KEY + i};
	}
	options[nfixed + config_nkeys] = (struct option){NULL, 0, NULL, 0};
}

/*
 * option_take stores one option; false if getopt found it wrong.
 */
static bool
option_take(CommandLine *cmd, int option, char *value)
{
	if (option >= OPTION_KEY)
	{
		command_line_set(cmd, config_keys[option - OPTION_KEY].name, value ? value : "on");
		return true;
	}
	switch (option)
	{
		case 'd':
			command_line_set(cmd, "dsn", value);
			break;
		case 'c':
			free(cmd->config_file);
			cmd->config_file = log_need(strdup(value));
			break;
		case OPTION_ONCE:
			cmd->mode = MODE_ONCE;
			break;
		case OPTION_CHECK:
			cmd->mode = MODE_CHECK;
			break;
		case OPTION_SHOW_CONFIG:
			if (value && strcmp(value, "markdown") != 0)
			{
				fprintf(stderr, "ecstats-pusher: --show-config knows no form \"%s\"\n", value);
				return false;
			}
			cmd->mode = value ? MODE_SHOW_MARKDOWN : MODE_SHOW_CONFIG;
			break;
		case OPTION_VERSION:
			cmd->mode = MODE_VERSION;
			break;
		case 'h':
			cmd->mode = MODE_HELP;
			break;
		default:
			return false;
	}
	return true;
}

/*
 * command_line_set remembers a setting of the command line; the last of a name wins.
 */
static void
command_line_set(CommandLine *cmd, const char *key, const char *value)
{
	int i;

	for (i = 0; i < cmd->nsettings; i++)
	{
		if (strcmp(cmd->settings[i].key, key) == 0)
		{
			free(cmd->settings[i].value);
			cmd->settings[i].value = log_need(strdup(value));
			return;
		}
	}
	cmd->settings[cmd->nsettings].key = key;
	cmd->settings[cmd->nsettings].value = log_need(strdup(value));
	cmd->nsettings++;
}

/*
 * command_line_free frees what command_line_parse stored.
 */
void
command_line_free(CommandLine *cmd)
{
	int i;

	for (i = 0; i < cmd->nsettings; i++)
		free(cmd->settings[i].value);
	free(cmd->config_file);
}

/*
 * config_print writes the settings in force in the form of the file, secrets masked.
 */
void
config_print(const Config *config)
{
	int i;

	for (i = 0; i < config_nkeys; i++)
	{
		printf("# %s\n%s = ", config_keys[i].help, config_keys[i].name);
		value_print(stdout, config, &config_keys[i]);
		printf("\n");
	}
}

/*
 * config_print_markdown writes the table of README.md.
 */
void
config_print_markdown(void)
{
	int i;

	printf("| setting | default | reload | meaning |\n|---|---|---|---|\n");
	for (i = 0; i < config_nkeys; i++)
		printf("| `%s` | %s | %s | %s |\n", config_keys[i].name, config_keys[i].initial,
			   config_keys[i].reloadable ? "yes" : "no", config_keys[i].help);
}

/*
 * config_print_help writes --help.
 */
void
config_print_help(void)
{
	int i;

	printf("ecstats-pusher carries the messages of ecstats from the database to their targets,\n"
		   "and the pages of HTTP sources into it.\n\n"
		   "Usage: ecstats-pusher [OPTION]...\n\n"
		   "  -d, --dsn STRING       connection string or URI\n"
		   "  -c, --config FILE      settings, one \"key = value\" a line; SIGHUP reads it again\n"
		   "      --once             send all that is due, then exit\n"
		   "      --check            connect, check version and privileges, exit\n"
		   "      --show-config      print the settings in force, exit\n"
		   "      --version, --help\n\n"
		   "Settings, of the file or as options (--poll-interval 5s):\n\n");
	for (i = 0; i < config_nkeys; i++)
		printf("  %-16s %-7s %s\n", config_keys[i].name,
			   config_keys[i].initial[0] ? config_keys[i].initial : "-", config_keys[i].help);
	printf("\nlibpq's PG* variables hold for what dsn leaves out.\n"
		   "Exit: 0 done, 1 the database failed or results were lost, 2 wrong option or setting,\n"
		   "3 the extension's version does not fit.\n");
}

/*
 * value_print writes one value as the file would have it.
 */
static void
value_print(FILE *out, const Config *config, const ConfigKey *key)
{
	const void *place = (const char *) config + key->offset;
	char *masked;

	switch (key->type)
	{
		case KEY_STRING:
			if (place == (const void *) &config->dsn)
			{
				masked = dsn_mask(config->dsn);
				fputs(masked ? masked : "", out);
				free(masked);
			}
			else if (place == (const void *) &config->proxy && config->proxy[0])
			{
				char shown[512];

				url_mask(config->proxy, shown, sizeof(shown));
				fputs(shown, out);
			}
			else
				fputs(*(char *const *) place, out);
			break;
		case KEY_NUMBER:
			fprintf(out, "%lld", (long long) *(const int64_t *) place);
			break;
		case KEY_DURATION:
			duration_print(out, *(const int64_t *) place);
			break;
		case KEY_SWITCH:
			fputs(*(const int64_t *) place ? "on" : "off", out);
			break;
		case KEY_CHOICE:
			fputs(key->choices[*(const int64_t *) place], out);
			break;
	}
}

/*
 * duration_print writes ms in the largest unit that divides them.
 */
static void
duration_print(FILE *out, int64_t ms)
{
	if (ms % 1000)
		fprintf(out, "%lldms", (long long) ms);
	else
		fprintf(out, "%llds", (long long) ms / 1000);
}
