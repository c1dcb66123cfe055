/*
 * template_date.c
 *		The filter date:FORMAT. Patterns are those of to_char that need no locale; a date or timestamp
 *		is shown as it is written, its offset is not applied, so that the result depends on nothing
 *		but the arguments.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "template_filter.h"

typedef struct DateParts
{
	int year;
	int month;
	int day;
	int hour;
	int minute;
	int second;
} DateParts;

typedef enum DateField
{
	DATE_YEAR,
	DATE_YEAR2,
	DATE_ISO_YEAR,
	DATE_QUARTER,
	DATE_MONTH,
	DATE_MONTH_NAME,
	DATE_MONTH_SHORT,
	DATE_ISO_WEEK,
	DATE_DAY_OF_YEAR,
	DATE_DAY,
	DATE_WEEKDAY_NAME,
	DATE_WEEKDAY_SHORT,
	DATE_WEEKDAY_NAME_CN,
	DATE_WEEKDAY_SHORT_CN,
	DATE_WEEKDAY,
	DATE_ISO_WEEKDAY,
	DATE_HOUR24,
	DATE_HOUR12,
	DATE_MINUTE,
	DATE_SECOND,
	DATE_MERIDIEM
} DateField;

/* Longer patterns before those they begin with. Upper case is asked only of single letters. */
static const struct
{
	const char *text;
	DateField field;
} patterns[] = {
	{"TMDay", DATE_WEEKDAY_NAME_CN},
	{"TMDy", DATE_WEEKDAY_SHORT_CN},
	{"YYYY", DATE_YEAR},
	{"YY", DATE_YEAR2},
	{"IYYY", DATE_ISO_YEAR},
	{"IW", DATE_ISO_WEEK},
	{"ID", DATE_ISO_WEEKDAY},
	{"Month", DATE_MONTH_NAME},
	{"Mon", DATE_MONTH_SHORT},
	{"MM", DATE_MONTH},
	{"MI", DATE_MINUTE},
	{"DDD", DATE_DAY_OF_YEAR},
	{"DD", DATE_DAY},
	{"Day", DATE_WEEKDAY_NAME},
	{"Dy", DATE_WEEKDAY_SHORT},
	{"D", DATE_WEEKDAY},
	{"HH24", DATE_HOUR24},
	{"HH12", DATE_HOUR12},
	{"HH", DATE_HOUR12},
	{"SS", DATE_SECOND},
	{"AM", DATE_MERIDIEM},
	{"PM", DATE_MERIDIEM},
	{"Q", DATE_QUARTER},
};

static const char *const month_names[] = {"January",   "February", "March",	   "April",
										  "May",	   "June",	   "July",	   "August",
										  "September", "October",  "November", "December"};
static const char *const day_names[] = {"Sunday",	"Monday", "Tuesday", "Wednesday",
										"Thursday", "Friday", "Saturday"};
static const char *const day_names_cn[] = {"日", "一", "二", "三", "四", "五", "六"};

/* ---------------------------------------------------------------- reading */

/* take_digits reads exactly count digits and moves on; false where there are fewer. */
static bool
take_digits(const char **at, const char *end, int count, int *number)
{
	*number = 0;
	for (; count > 0; count--, (*at)++)
	{
		if (*at == end || **at < '0' || **at > '9')
			return false;
		*number = *number * 10 + (**at - '0');
	}
	return true;
}

static bool
take_char(const char **at, const char *end, char c)
{
	if (*at == end || **at != c)
		return false;
	(*at)++;
	return true;
}

/* take_offset reads what may follow a time of day: Z, +08, +08:00, +0800; or nothing. */
static bool
take_offset(const char **at, const char *end)
{
	int number;

	(void) take_char(at, end, ' ');
	if (*at == end || take_char(at, end, 'Z') || take_char(at, end, 'z'))
		return true;
	if (!take_char(at, end, '+') && !take_char(at, end, '-'))
		return false;
	if (!take_digits(at, end, 2, &number))
		return false;
	if (*at == end)
		return true;
	(void) take_char(at, end, ':');
	return take_digits(at, end, 2, &number);
}

static bool
take_time(const char **at, const char *end, DateParts *parts)
{
	if (!take_digits(at, end, 2, &parts->hour) || !take_char(at, end, ':') ||
		!take_digits(at, end, 2, &parts->minute))
		return false;
	if (take_char(at, end, ':'))
	{
		if (!take_digits(at, end, 2, &parts->second))
			return false;
		if (take_char(at, end, '.'))
		{
			while (*at < end && **at >= '0' && **at <= '9')
				(*at)++;
		}
	}
	return take_offset(at, end);
}

/* read_date takes an ISO 8601 date or timestamp, as JSON has it; false for anything else. */
static bool
read_date(const char *text, int len, DateParts *parts)
{
	const char *at = text;
	const char *end = text + len;
	int year;
	int month;
	int day;

	memset(parts, 0, sizeof(DateParts));
	if (!take_digits(&at, end, 4, &parts->year) || !take_char(&at, end, '-') ||
		!take_digits(&at, end, 2, &parts->month) || !take_char(&at, end, '-') ||
		!take_digits(&at, end, 2, &parts->day))
		return false;
	if (at < end &&
		((!take_char(&at, end, 'T') && !take_char(&at, end, ' ')) || !take_time(&at, end, parts)))
		return false;
	if (at != end || parts->year < 1 || parts->month < 1 || parts->month > 12 || parts->day < 1)
		return false;
	if (parts->hour > 24 || parts->minute > 59 || parts->second > 60)
		return false;
	j2date(date2j(parts->year, parts->month, parts->day), &year, &month, &day);
	return day == parts->day;
}

/* ---------------------------------------------------------------- writing */

/* next_pattern recognises a pattern at the start of a text; 0 where there is none, else its length. */
static int
next_pattern(const char *text, int len, DateField *field)
{
	int i;

	for (i = 0; i < lengthof(patterns); i++)
	{
		int pattern_len = strlen(patterns[i].text);

		if (pattern_len > len || pg_strncasecmp(patterns[i].text, text, pattern_len) != 0)
			continue;
		if (pattern_len == 1 && text[0] != patterns[i].text[0])
			continue;
		*field = patterns[i].field;
		return pattern_len;
	}
	return 0;
}

/* append_name writes an English name, whole or its first letters, in the case of the pattern. */
static void
append_name(StringInfo out, const char *name, int letters, const char *pattern)
{
	bool all_upper = pattern[1] >= 'A' && pattern[1] <= 'Z';
	bool all_lower = pattern[0] >= 'a' && pattern[0] <= 'z';
	int i;

	for (i = 0; name[i] != '\0' && i < letters; i++)
		appendStringInfoChar(out, all_lower	  ? pg_ascii_tolower(name[i])
								  : all_upper ? pg_ascii_toupper(name[i])
											  : name[i]);
}

/*
 * append_name_cn writes a Chinese name of a weekday, from UTF-8; the first letters of the English one in an
 * encoding without Chinese.
 */
static void
append_name_cn(StringInfo out, const char *prefix, int weekday, int letters)
{
	char *utf8 = psprintf("%s%s", prefix, day_names_cn[weekday]);
	char *native = ecstats_native(utf8, strlen(utf8));

	if (native != NULL)
		appendStringInfoString(out, native);
	else
		append_name(out, day_names[weekday], letters, "Ab");
}

/* append_name_field writes the fields that are words; false for those that are numbers. */
static bool
append_name_field(StringInfo out, const DateParts *parts, DateField field, const char *pattern)
{
	int weekday = j2day(date2j(parts->year, parts->month, parts->day));

	switch (field)
	{
		case DATE_MONTH_NAME:
			append_name(out, month_names[parts->month - 1], 9, pattern);
			return true;
		case DATE_MONTH_SHORT:
			append_name(out, month_names[parts->month - 1], 3, pattern);
			return true;
		case DATE_WEEKDAY_NAME:
			append_name(out, day_names[weekday], 9, pattern);
			return true;
		case DATE_WEEKDAY_SHORT:
			append_name(out, day_names[weekday], 3, pattern);
			return true;
		case DATE_WEEKDAY_NAME_CN:
			append_name_cn(out, "星期", weekday, 9);
			return true;
		case DATE_WEEKDAY_SHORT_CN:
			append_name_cn(out, "周", weekday, 3);
			return true;
		case DATE_MERIDIEM:
			append_name(out, parts->hour % 24 < 12 ? "AM" : "PM", 2, pattern);
			return true;
		default:
			return false;
	}
}

/* number_field returns a field's number and how many digits it is padded to. */
static int
number_field(const DateParts *parts, DateField field, int *width)
{
	int julian = date2j(parts->year, parts->month, parts->day);
	int weekday = j2day(julian);

	*width = 2;
	switch (field)
	{
		case DATE_YEAR:
			*width = 4;
			return parts->year;
		case DATE_YEAR2:
			return parts->year % 100;
		case DATE_ISO_YEAR:
			*width = 4;
			return date2isoyear(parts->year, parts->month, parts->day);
		case DATE_QUARTER:
			*width = 1;
			return (parts->month + 2) / 3;
		case DATE_MONTH:
			return parts->month;
		case DATE_ISO_WEEK:
			return date2isoweek(parts->year, parts->month, parts->day);
		case DATE_DAY_OF_YEAR:
			*width = 3;
			return julian - date2j(parts->year, 1, 1) + 1;
		case DATE_DAY:
			return parts->day;
		case DATE_WEEKDAY:
			*width = 1;
			return weekday + 1;
		case DATE_ISO_WEEKDAY:
			*width = 1;
			return weekday == 0 ? 7 : weekday;
		case DATE_HOUR24:
			return parts->hour;
		case DATE_HOUR12:
			return parts->hour % 12 == 0 ? 12 : parts->hour % 12;
		case DATE_MINUTE:
			return parts->minute;
		case DATE_SECOND:
			return parts->second;
		default:
			elog(ERROR, "unexpected date field: %d", (int) field);
	}
}

/*
 * write_date writes a date by a format, or with out NULL only looks through it. It returns how many
 * patterns the format has. Text between double quotes, and what is no pattern, stands for itself;
 * FM before a number drops its leading zeros.
 */
static int
write_date(StringInfo out, const char *format, int len, const DateParts *parts)
{
	bool quoted = false;
	int found = 0;
	int i = 0;

	while (i < len)
	{
		bool fill = true;
		int pattern_len = 0;
		int width;
		DateField field;

		if (format[i] == '"')
		{
			quoted = !quoted;
			i++;
			continue;
		}
		if (!quoted && len - i > 2 && strncmp(format + i, "FM", 2) == 0 &&
			next_pattern(format + i + 2, len - i - 2, &field) > 0)
		{
			fill = false;
			i += 2;
		}
		if (!quoted)
			pattern_len = next_pattern(format + i, len - i, &field);
		if (pattern_len > 0)
			found++;
		if (out != NULL && pattern_len == 0)
			appendStringInfoChar(out, format[i]);
		else if (out != NULL && !append_name_field(out, parts, field, format + i))
		{
			int number = number_field(parts, field, &width);

			appendStringInfo(out, "%0*d", fill ? width : 1, number);
		}
		i += Max(pattern_len, 1);
	}
	return found;
}

/* ecstats_template_date_check tells whether a format has any pattern (%Y-%m-%d has none). */
bool
ecstats_template_date_check(const char *format, int len)
{
	return write_date(NULL, format, len, NULL) > 0;
}

/* ecstats_template_date_apply turns an ISO date into its text; false, and the value stays. */
bool
ecstats_template_date_apply(const char *format, int format_len, TemplateFiltered *value)
{
	DateParts parts;
	StringInfoData out;

	if (!read_date(value->text, value->len, &parts))
		return false;
	initStringInfo(&out);
	(void) write_date(&out, format, format_len, &parts);
	value->text = out.data;
	value->len = out.len;
	return true;
}
