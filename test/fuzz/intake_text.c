/*
 * intake_text.c
 *		Fuzz target: the rules and forms of texts that come in.
 */
#define _DEFAULT_SOURCE
#include "intake_text.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz.h"

#define EPOCH_2000 946684800

/* instant_again reads what the target took for an instant by other means, whole seconds without offset. */
static int64_t
instant_again(const char *s, int len)
{
	char copy[20] = {0};
	struct tm tm = {0};
	int fields;

	memcpy(copy, s, len < 19 ? len : 19);
	fields = sscanf(copy, "%4d-%2d-%2d%*c%2d:%2d:%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
					&tm.tm_hour, &tm.tm_min, &tm.tm_sec);
	MUST(fields >= 5);
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return timegm(&tm) - EPOCH_2000;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *s = (const char *) data;
	int len = (int) size;
	unsigned char uuid[16];
	int64_t usec;
	int at;

	at = ecstats_text_control(s, len, true);
	MUST(at >= -1 && at < len);
	at = ecstats_text_control(s, len, false);
	MUST(at == -1 || s[at] == 0x7f || (unsigned char) s[at] < 0x20);
	at = ecstats_text_name(s, len);
	MUST(at >= -1 && at < len);
	MUST(at != -1 || ecstats_text_control(s, len, true) == -1);

	if (ecstats_text_decimal(s, len))
	{
		char copy[INTAKE_DECIMAL_MAX + 1] = {0};
		char *end;

		MUST(len <= INTAKE_DECIMAL_MAX);
		memcpy(copy, s, len);
		(void) strtod(copy, &end);
		MUST(end == copy + len);
	}
	if (ecstats_text_uuid(s, len, uuid))
	{
		char hex[33];
		int i;
		int j = 0;

		for (i = 0; i < 16; i++)
			snprintf(hex + 2 * i, 3, "%02x", uuid[i]);
		for (i = 0; i < len; i++)
		{
			if (s[i] != '-')
				MUST(j < 32 && (s[i] | 0x20) == (hex[j] | 0x20) && ++j > 0);
		}
		MUST(j == 32);
	}
	if (ecstats_text_instant(s, len, &usec))
	{
		/* the offset is at most 15:59:59 */
		int64_t apart = usec / 1000000 - instant_again(s, len);

		MUST(apart >= -16 * 3600 && apart <= 16 * 3600);
		if (s[len - 1] == 'Z' || s[len - 1] == 'z')
			MUST(apart >= -1 && apart <= 1);
	}
	return 0;
}
