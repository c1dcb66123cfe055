/*
 * config.c: the table of settings, their defaults, the file, and the reload.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config.h"
#include "config_keys.h"
#include "log.h"
#include "text.h"

#define AT(member) offsetof(Config, member)
#define DAY_MS	   (24 * 3600 * INT64_C(1000))

/* One row a setting: drives the file, the options, --help, --show-config and README.md. */
const ConfigKey config_keys[] = {
	{"dsn", KEY_STRING, AT(dsn), "", 0, 0, NULL, false,
	 "connection string or URI; libpq's PG* variables fill what it leaves out"},
	{"worker", KEY_STRING, AT(worker), "", 0, 0, NULL, false,
	 "name of this pusher in the database (empty: host/pid)"},
	{"concurrency", KEY_NUMBER, AT(concurrency), "10", 1, 100, NULL, true, "requests at once"},
	{"poll_interval", KEY_DURATION, AT(poll_interval), "10s", 100, DAY_MS, NULL, true,
	 "look for due deliveries at least this often, notified or not"},
	{"beat_interval", KEY_DURATION, AT(beat_interval), "15s", 100, DAY_MS, NULL, true,
	 "sign of life to the database, which answers when to look next"},
	{"connect_timeout", KEY_DURATION, AT(connect_timeout), "10s", 100, DAY_MS, NULL, true,
	 "longest wait for a connection, to the database or to a target"},
	{"query_timeout", KEY_DURATION, AT(query_timeout), "30s", 100, DAY_MS, NULL, true,
	 "longest statement; past it the connection counts as dead"},
	{"reconnect_max", KEY_DURATION, AT(reconnect_max), "30s", 100, DAY_MS, NULL, true,
	 "longest pause between two attempts to reach the database"},
	{"drain_timeout", KEY_DURATION, AT(drain_timeout), "60s", 100, DAY_MS, NULL, true,
	 "after SIGTERM, longest wait for answers and for the database"},
	{"max_response", KEY_NUMBER, AT(max_response), "262144", 4096, 1 << 30, NULL, true,
	 "bytes of an answer after which the transfer is broken off"},
	{"max_fetch", KEY_NUMBER, AT(max_fetch), "16777216", 4096, 1 << 27, NULL, true,
	 "bytes of a source's page that are collected at most; up to 4 pages are in memory"},
	{"receive_timeout", KEY_DURATION, AT(receive_timeout), "5min", 100, DAY_MS, NULL, true,
	 "longest statement in which the database takes a page in"},
	{"ca_file", KEY_STRING, AT(ca_file), "", 0, 0, NULL, true,
	 "PEM file of the certificate authorities to trust (empty: the system's)"},
	{"proxy", KEY_STRING, AT(proxy), "", 0, 0, NULL, true,
	 "proxy URL (empty: none, the environment is not asked); it then decides what is reachable"},
	{"tick", KEY_SWITCH, AT(tick), "off", 0, 1, NULL, false,
	 "also run the scheduler's tick each minute, where there is no pg_cron"},
	{"log_level", KEY_CHOICE, AT(log_level), "info", 0, 0, log_level_names, true,
	 "debug, info, warn or error"},
	{"log_format", KEY_CHOICE, AT(log_format), "text", 0, 0, log_format_names, true,
	 "text or json, a line an event on stderr"},
};

#define NKEYS ((int) (sizeof(config_keys) / sizeof(config_keys[0])))

const int config_nkeys = NKEYS;
_Static_assert(NKEYS <= CONFIG_KEYS_MAX, "config_keys.h: CONFIG_KEYS_MAX is too small");

static const ConfigKey *key_find(const char *name);
static bool key_set(Config *config, const ConfigKey *key, const char *value, char *error, int size);
static bool parse_number(const ConfigKey *key, const char *value, int64_t *out);
static bool parse_duration(const ConfigKey *key, const char *value, int64_t *out);
static bool parse_switch(const char *value, int64_t *out);
static bool parse_choice(const ConfigKey *key, const char *value, int64_t *out);
static bool file_read(Config *config, const char *path, char *error, int size);
static bool file_line(Config *config, char *line, char *error, int size);
static char *trim(char *text);

/*
 * config_create makes the settings: defaults, then the file, then the command line. NULL with a
 * message in error if a value or the file is wrong.
 */
Config *
config_create(const CommandLine *cmd, char *error, int error_size)
{
	Config *config = calloc(1, sizeof(Config));
	char host[128];
	int i;

	if (config == NULL)
	{
		snprintf(error, error_size, "out of memory");
		return NULL;
	}
	for (i = 0; i < NKEYS; i++)
	{
		if (!key_set(config, &config_keys[i], config_keys[i].initial, error, error_size))
			goto fail;
	}

	if (cmd->config_file && !file_read(config, cmd->config_file, error, error_size))
		goto fail;
	for (i = 0; i < cmd->nsettings; i++)
	{
		if (!key_set(config, key_find(cmd->settings[i].key), cmd->settings[i].value, error,
					 error_size))
			goto fail;
	}
	if (config->ca_file[0] && access(config->ca_file, R_OK) != 0)
	{
		snprintf(error, error_size, "ca_file: cannot read \"%s\": %m", config->ca_file);
		goto fail;
	}
	if (!dsn_is_valid(config->dsn))
	{
		/* libpq's message repeats pieces of the string, which may be the password. */
		snprintf(error, error_size, "dsn: not a valid connection string or URI");
		goto fail;
	}
	if (config->worker[0] == '\0')
	{
		free(config->worker);
		if (gethostname(host, sizeof(host)) != 0)
			strcpy(host, "localhost");
		host[sizeof(host) - 1] = '\0';
		if (asprintf(&config->worker, "%s/%d", host, (int) getpid()) < 0)
		{
			config->worker = NULL;
			snprintf(error, error_size, "out of memory");
			goto fail;
		}
	}
	return config;

fail:
	config_free(config);
	return NULL;
}

/*
 * config_free frees settings; NULL is fine.
 */
void
config_free(Config *config)
{
	int i;

	if (config == NULL)
		return;
	for (i = 0; i < NKEYS; i++)
	{
		if (config_keys[i].type == KEY_STRING)
			free(*(char **) ((char *) config + config_keys[i].offset));
	}
	free(config);
}

/*
 * config_reload moves the reloadable settings of fresh into config, names those that need a
 * restart, and frees fresh.
 */
void
config_reload(Config *config, Config *fresh)
{
	int i;

	for (i = 0; i < NKEYS; i++)
	{
		const ConfigKey *key = &config_keys[i];
		void *old = (char *) config + key->offset;
		void *new = (char *) fresh + key->offset;
		bool same = key->type == KEY_STRING ? strcmp(*(char **) old, *(char **) new) == 0
											: *(int64_t *) old == *(int64_t *) new;

		if (same)
			continue;
		if (!key->reloadable)
		{
			log_write(LOG_WARN, "setting \"%s\" changed in the file: needs a restart", key->name);
			continue;
		}
		log_write(LOG_INFO, "setting \"%s\" changed", key->name);
		if (key->type == KEY_STRING)
		{
			char *swap = *(char **) old;

			*(char **) old = *(char **) new;
			*(char **) new = swap;
		}
		else
			*(int64_t *) old = *(int64_t *) new;
	}
	config_free(fresh);
}

/*
 * key_find returns the setting of a name, or NULL.
 */
static const ConfigKey *
key_find(const char *name)
{
	int i;

	for (i = 0; i < NKEYS; i++)
	{
		if (strcmp(config_keys[i].name, name) == 0)
			return &config_keys[i];
	}
	return NULL;
}

/*
 * key_set parses a value into its place; false with a message in error. The value itself is
 * repeated only for settings that cannot hold a secret.
 */
static bool
key_set(Config *config, const ConfigKey *key, const char *value, char *error, int size)
{
	void *place = (char *) config + key->offset;
	bool valid = true;

	switch (key->type)
	{
		case KEY_STRING:
			free(*(char **) place);
			*(char **) place = strdup(value);
			valid = *(char **) place != NULL;
			if (!valid)
				snprintf(error, size, "%s: out of memory", key->name);
			break;
		case KEY_NUMBER:
			valid = parse_number(key, value, place);
			if (!valid)
				snprintf(error, size, "%s: \"%.40s\" is not a whole number from %lld to %lld",
						 key->name, value, (long long) key->least, (long long) key->most);
			break;
		case KEY_DURATION:
			valid = parse_duration(key, value, place);
			if (!valid)
				snprintf(error, size,
						 "%s: \"%.40s\" is not a duration from 100ms to 24h (units: ms, s, min, h)",
						 key->name, value);
			break;
		case KEY_SWITCH:
			valid = parse_switch(value, place);
			if (!valid)
				snprintf(error, size, "%s: \"%.40s\" is neither on nor off", key->name, value);
			break;
		case KEY_CHOICE:
			valid = parse_choice(key, value, place);
			if (!valid)
				snprintf(error, size, "%s: \"%.40s\" is not one of: %s", key->name, value,
						 key->help);
			break;
	}
	return valid;
}

/*
 * parse_number reads a whole number within the setting's bounds.
 */
static bool
parse_number(const ConfigKey *key, const char *value, int64_t *out)
{
	char *end;
	long long n;

	errno = 0;
	n = strtoll(value, &end, 10);
	if (errno || end == value || *end || n < key->least || n > key->most)
		return false;
	*out = n;
	return true;
}

/*
 * parse_duration reads a number with an optional unit as ms.
 */
static bool
parse_duration(const ConfigKey *key, const char *value, int64_t *out)
{
	static const struct
	{
		const char *unit;
		int64_t ms;
	} units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}};
	char *end;
	long long n;
	size_t i;

	errno = 0;
	n = strtoll(value, &end, 10);
	if (errno || end == value || n < 0 || n > DAY_MS)
		return false;
	while (*end == ' ')
		end++;
	for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
	{
		if (strcmp(end, units[i].unit) == 0)
		{
			n *= units[i].ms;
			if (n < key->least || n > key->most)
				return false;
			*out = n;
			return true;
		}
	}
	return false;
}

/*
 * parse_switch reads on or off in the words PostgreSQL takes.
 */
static bool
parse_switch(const char *value, int64_t *out)
{
	static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		if (strcasecmp(value, words[i]) == 0)
		{
			*out = i % 2;
			return true;
		}
	}
	return false;
}

/*
 * parse_choice reads one of the setting's words as its index.
 */
static bool
parse_choice(const ConfigKey *key, const char *value, int64_t *out)
{
	int i;

	for (i = 0; key->choices[i]; i++)
	{
		if (strcmp(value, key->choices[i]) == 0)
		{
			*out = i;
			return true;
		}
	}
	return false;
}

/*
 * file_read reads "key = value" lines; '#' begins a comment line. False with a message that names
 * file and line.
 */
static bool
file_read(Config *config, const char *path, char *error, int size)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	int number = 0;
	bool valid = true;
	char why[256];

	if (file == NULL)
	{
		snprintf(error, size, "cannot open \"%s\": %m", path);
		return false;
	}
	while (valid && getline(&line, &room, file) != -1)
	{
		number++;
		valid = file_line(config, line, why, sizeof(why));
		if (!valid)
			snprintf(error, size, "%s:%d: %s", path, number, why);
	}
	if (valid && ferror(file))
	{
		snprintf(error, size, "cannot read \"%s\": %m", path);
		valid = false;
	}
	free(line);
	fclose(file);
	return valid;
}

/*
 * file_line takes one line of the file.
 */
static bool
file_line(Config *config, char *line, char *error, int size)
{
	char *name = trim(line);
	char *equals = strchr(name, '=');
	const ConfigKey *key;

	if (name[0] == '\0' || name[0] == '#')
		return true;
	if (equals == NULL)
	{
		snprintf(error, size, "expected \"key = value\"");
		return false;
	}
	*equals = '\0';
	name = trim(name);
	key = key_find(name);
	if (key == NULL)
	{
		snprintf(error, size, "unknown setting \"%.60s\"", name);
		return false;
	}
	return key_set(config, key, trim(equals + 1), error, size);
}

/*
 * trim cuts white space off both ends, in place.
 */
static char *
trim(char *text)
{
	char *end;

	while (isspace((unsigned char) *text))
		text++;
	end = text + strlen(text);
	while (end > text && isspace((unsigned char) end[-1]))
		end--;
	*end = '\0';
	return text;
}
