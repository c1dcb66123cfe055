/*
 * config_keys.h: the table of settings, for config.c and options.c alone.
 */
#ifndef PUSHER_CONFIG_KEYS_H
#define PUSHER_CONFIG_KEYS_H

#include <stddef.h>

#include "config.h"

typedef enum KeyType
{
	KEY_STRING,
	KEY_NUMBER,
	KEY_DURATION, /* ms; written as a number with ms, s, min or h; bare numbers are seconds */
	KEY_SWITCH,
	KEY_CHOICE
} KeyType;

typedef struct ConfigKey
{
	const char *name;
	KeyType type;
	size_t offset;
	const char *initial;
	int64_t least;
	int64_t most;
	const char *const *choices;
	bool reloadable;
	const char *help;
} ConfigKey;

extern const ConfigKey config_keys[];
extern const int config_nkeys;

#define CONFIG_KEYS_MAX 32 /* room for option tables; config.c checks it */

#endif
