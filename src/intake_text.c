/*
 * intake_text.c
 *		Reading texts that come in: pure, so that it is fuzzed alone.
 */
#include "intake_text.h"

#include <string.h>

#define USECS_PER_SEC 1000000

/*
 * is_digit is isdigit without a locale.
 */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/*
 * ecstats_text_control returns the offset of the first control character (C0, DEL; C1 too in UTF-8), -1
 * where there is none. Every server encoding keeps ASCII bytes for ASCII characters.
 */
int
ecstats_text_control(const char *s, int len, bool utf8)
{
	int i;

	for (i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) s[i];

		if (c < 0x20 || c == 0x7f)
			return i;
		if (utf8 && c == 0xc2 && i + 1 < len && (unsigned char) s[i + 1] < 0xa0)
			return i;
	}
	return -1;
}

/*
 * ecstats_text_c1 returns the offset of the first C1 control character of a text of UTF-8, -1 where there
 * is none.
 */
int
ecstats_text_c1(const char *s, int len)
{
	int i;

	for (i = 0; i + 1 < len; i++)
	{
		if ((unsigned char) s[i] == 0xc2 && (unsigned char) s[i + 1] < 0xa0)
			return i;
	}
	return -1;
}

/*
 * ecstats_text_name returns the offset of the first byte that does not fit [a-z][a-z0-9_.:-]*, -1 where
 * all do.
 */
int
ecstats_text_name(const char *s, int len)
{
	int i;

	for (i = 0; i < len; i++)
	{
		char c = s[i];

		if (c >= 'a' && c <= 'z')
			continue;
		if (i > 0 && (is_digit(c) || c == '_' || c == '.' || c == ':' || c == '-'))
			continue;
		return i;
	}
	return -1;
}

/*
 * ecstats_text_decimal tells whether a text is [+-]digits[.digits] of bounded length: money is often sent as
 * text, so that no float touches it.
 */
bool
ecstats_text_decimal(const char *s, int len)
{
	int i = 0;
	int digits = 0;
	bool point = false;

	if (len > INTAKE_DECIMAL_MAX)
		return false;
	if (len > 0 && (s[0] == '-' || s[0] == '+'))
		i++;
	for (; i < len; i++)
	{
		if (is_digit(s[i]))
			digits++;
		else if (s[i] == '.' && !point)
			point = true;
		else
			return false;
	}
	return digits > 0;
}

/*
 * hex_digit returns the value of a hexadecimal digit, -1 where it is none.
 */
static int
hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * ecstats_text_uuid reads a UUID in the usual form, with or without hyphens.
 */
bool
ecstats_text_uuid(const char *s, int len, unsigned char uuid[16])
{
	int nibbles = 0;
	int i;

	if (len != 32 && len != 36)
		return false;
	memset(uuid, 0, 16);
	for (i = 0; i < len; i++)
	{
		int digit = hex_digit(s[i]);

		if (s[i] == '-' && len == 36 && (i == 8 || i == 13 || i == 18 || i == 23))
			continue;
		if (digit < 0 || nibbles == 32)
			return false;
		uuid[nibbles / 2] |= nibbles % 2 ? digit : digit << 4;
		nibbles++;
	}
	return nibbles == 32;
}

/*
 * days_of_month returns the number of days of a month in the Gregorian calendar.
 */
static int
days_of_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/*
 * days_since_2000 counts from 2000-01-01 in the Gregorian calendar. Years begin in March, so that the
 * leap day is their last.
 */
static int64_t
days_since_2000(int year, int month, int day)
{
	int64_t y = month > 2 ? year : year - 1;
	int64_t m = month > 2 ? month - 3 : month + 9;

	return y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 730426;
}

/*
 * digits_at reads exactly n digits at *s, advancing it; -1 where they are not there.
 */
static int
digits_at(const char **s, const char *end, int n)
{
	int value = 0;

	if (end - *s < n)
		return -1;
	for (; n > 0; n--, (*s)++)
	{
		if (!is_digit(**s))
			return -1;
		value = value * 10 + (**s - '0');
	}
	return value;
}

/*
 * take skips one expected character; false where it is not there.
 */
static bool
take(const char **s, const char *end, char c)
{
	if (*s < end && **s == c)
	{
		(*s)++;
		return true;
	}
	return false;
}

/*
 * fraction_at reads an optional fraction of a second as microseconds, rounded at the seventh digit.
 */
static int
fraction_at(const char **s, const char *end)
{
	int usec = 0;
	int n = 0;

	if (!take(s, end, '.') && !take(s, end, ','))
		return 0;
	for (; *s < end && is_digit(**s); (*s)++, n++)
	{
		if (n < 6)
			usec = usec * 10 + (**s - '0');
		else if (n == 6 && **s >= '5')
			usec++;
	}
	if (n == 0)
		return -1;
	for (; n < 6; n++)
		usec *= 10;
	return usec;
}

/*
 * offset_at reads Z or ±HH[[:]MM[[:]SS]] as seconds east of UTC; false where there is none.
 */
static bool
offset_at(const char **s, const char *end, int *seconds)
{
	int sign;
	int part[3] = {0, 0, 0};
	int i;

	*seconds = 0;
	if (take(s, end, 'Z') || take(s, end, 'z'))
		return true;
	if (take(s, end, '+'))
		sign = 1;
	else if (take(s, end, '-'))
		sign = -1;
	else
		return false;
	for (i = 0; i < 3 && (i == 0 || *s < end); i++)
	{
		if (i > 0)
			(void) take(s, end, ':');
		part[i] = digits_at(s, end, 2);
		if (part[i] < 0 || part[i] > (i == 0 ? 15 : 59))
			return false;
	}
	*seconds = sign * (part[0] * 3600 + part[1] * 60 + part[2]);
	return true;
}

/*
 * ecstats_text_instant reads an ISO 8601 instant with its offset as microseconds since 2000-01-01 00:00
 * UTC, whatever DateStyle and TimeZone say.
 */
bool
ecstats_text_instant(const char *s, int len, int64_t *usec)
{
	const char *end = s + len;
	int year, month, day, hour, minute, second = 0, fraction = 0, offset;

	year = digits_at(&s, end, 4);
	if (year < 1 || !take(&s, end, '-'))
		return false;
	month = digits_at(&s, end, 2);
	if (month < 1 || month > 12 || !take(&s, end, '-'))
		return false;
	day = digits_at(&s, end, 2);
	if (day < 1 || day > days_of_month(year, month) ||
		!(take(&s, end, 'T') || take(&s, end, 't') || take(&s, end, ' ')))
		return false;
	hour = digits_at(&s, end, 2);
	if (hour < 0 || hour > 23 || !take(&s, end, ':'))
		return false;
	minute = digits_at(&s, end, 2);
	if (minute < 0 || minute > 59)
		return false;
	if (take(&s, end, ':'))
	{
		second = digits_at(&s, end, 2);
		fraction = fraction_at(&s, end);
		if (second < 0 || second > 60 || fraction < 0)
			return false;
	}
	(void) take(&s, end, ' ');
	if (!offset_at(&s, end, &offset) || s != end)
		return false;

	*usec =
		(days_since_2000(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset) *
			USECS_PER_SEC +
		fraction;
	return true;
}
