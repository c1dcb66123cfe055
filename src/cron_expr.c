/*
 * cron_expr.c
 *		The cron expression: from text to bitmaps. What the two dialects define, and what was decided
 *		where implementations differ, is told in doc/cron.md. The search is in cron_search.c.
 */
#include "cron_expr.h"

#include <stdio.h>
#include <string.h>

/* What one field holds. */
typedef struct CronRule
{
	const char *name;
	int first;
	int last;
	const char *names; /* three letters each, the first one meaning 'names_from' */
	int names_from;
	const char *hint;
} CronRule;

static const char month_names[] = "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC";
static const char weekday_names[] = "SUNMONTUEWEDTHUFRISAT";

static const CronRule rules[] = {
	[CRON_SECOND] =
		{"second", 0, 59, NULL, 0,
		 "Seconds are 0 to 59: a number, *, a range a-b, a step a/n or */n, or a list of these."},
	[CRON_MINUTE] =
		{"minute", 0, 59, NULL, 0,
		 "Minutes are 0 to 59: a number, *, a range a-b, a step a/n or */n, or a list of these."},
	[CRON_HOUR] =
		{"hour", 0, 23, NULL, 0,
		 "Hours are 0 to 23: a number, *, a range a-b, a step a/n or */n, or a list of these."},
	[CRON_DAY] =
		{"day of month", 1, 31, NULL, 0,
		 "Days of the month are 1 to 31, *, ?, ranges, steps, lists, L, L-n, LW, L-nW or nW."},
	[CRON_MONTH] = {"month", 1, 12, month_names, 1,
					"Months are 1 to 12 or JAN to DEC: one, *, ranges, steps or lists."},
	[CRON_WEEKDAY] =
		{"day of week", 0, 7, weekday_names, 0,
		 "With five fields, days of the week are 0 to 7 (0 and 7 are Sunday) or SUN to SAT: "
		 "one, *, ?, ranges, steps, lists, nL or n#k."},
	[CRON_YEAR] = {"year", CRON_FIRST_YEAR, CRON_LAST_YEAR, NULL, 0,
				   "Years are 1970 to 2199: one, *, ranges, steps or lists."},
};

/* Quartz counts the days of the week from 1. */
static const CronRule quartz_weekday = {
	"day of week",
	1,
	7,
	weekday_names,
	1,
	"With six or seven fields, days of the week are 1 to 7 (1 is Sunday) or SUN to SAT: "
	"one, *, ?, ranges, steps, lists, L, nL or n#k."};

/* The names that stand for a whole unix expression. */
static const struct
{
	const char *name;
	const char *text;
} macros[] = {
	{"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
	{"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},	  {"@midnight", "0 0 * * *"},
	{"@hourly", "0 * * * *"},
};

/* The field that is being read. */
typedef struct CronCursor
{
	const char *text; /* start of the expression */
	const char *start;
	const char *at;
	const char *end; /* of the field */
	CronField field;
	int field_number;
	const CronRule *rule;
	CronExpr *expr;
	CronError *error;
} CronCursor;

static bool expand_macro(const char *text, size_t length, CronExpr *expr, CronError *error);
static bool check_days(CronCursor *fields, CronExpr *expr);
static bool parse_field(CronCursor *c);
static bool parse_item(CronCursor *c);
static bool parse_last_day(CronCursor *c);
static bool parse_weekday_suffix(CronCursor *c, int low, int high);
static bool parse_value(CronCursor *c, int *value);
static bool parse_number(CronCursor *c, int low, int high, const char *what, int *value);
static void put_range(CronCursor *c, int low, int high, int step);
static bool fail_at(CronCursor *c, const char *at, const char *reason);
static bool fail_whole(CronError *error, size_t offset, const char *reason);

/*
 * ecstats_cron_field_name names a field for a message.
 */
const char *
ecstats_cron_field_name(CronField field)
{
	return field == CRON_WHOLE ? "expression" : rules[field].name;
}

static bool
is_blank(char ch)
{
	return ch == ' ' || ch == '\t';
}

static bool
is_digit(char ch)
{
	return ch >= '0' && ch <= '9';
}

static char
to_upper(char ch)
{
	return ch >= 'a' && ch <= 'z' ? (char) (ch - 'a' + 'A') : ch;
}

/*
 * ecstats_cron_expr_parse reads 'length' bytes of text into *expr, or says in *error what is wrong
 * and where. The number of fields decides the dialect: five are unix, six or seven are Quartz.
 */
bool
ecstats_cron_expr_parse(const char *text, size_t length, CronExpr *expr, CronError *error)
{
	CronCursor fields[7];
	const char *p = text;
	const char *end = text + length;
	int count = 0;
	int i;

	memset(expr, 0, sizeof(*expr));
	if (length > CRON_MAX_LENGTH)
		return fail_whole(error, CRON_MAX_LENGTH, "the expression is longer than 1024 bytes");
	for (;;)
	{
		while (p < end && is_blank(*p))
			p++;
		if (p == end)
			break;
		if (count == 7)
			return fail_whole(error, (size_t) (p - text), "there are more than seven fields");
		fields[count].start = p;
		while (p < end && !is_blank(*p))
			p++;
		fields[count++].end = p;
	}
	if (count == 1 && *fields[0].start == '@')
		return expand_macro(fields[0].start, (size_t) (fields[0].end - fields[0].start), expr,
							error);
	if (count < 5)
		return fail_whole(error, length,
						  count == 0 ? "the expression is empty"
									 : "there are fewer than five fields");
	expr->dialect = count == 5 ? CRON_UNIX : CRON_QUARTZ;
	if (count == 5)
		expr->values[CRON_SECOND] = 1;
	if (count < 7)
		memset(expr->years, 0xff, sizeof(expr->years));
	for (i = 0; i < count; i++)
	{
		CronCursor *c = &fields[i];

		c->text = text;
		c->at = c->start;
		c->field = (CronField) (count == 5 ? i + 1 : i);
		c->field_number = i + 1;
		c->rule = c->field == CRON_WEEKDAY && count > 5 ? &quartz_weekday : &rules[c->field];
		c->expr = expr;
		c->error = error;
		if (!parse_field(c))
			return false;
	}
	return check_days(&fields[count == 5 ? 2 : 3], expr);
}

/*
 * expand_macro parses what one of the @names stands for. Names are written in any case.
 */
static bool
expand_macro(const char *text, size_t length, CronExpr *expr, CronError *error)
{
	size_t i;
	size_t n;

	for (i = 0; i < sizeof(macros) / sizeof(macros[0]); i++)
	{
		if (strlen(macros[i].name) != length)
			continue;
		for (n = 0; n < length && to_upper(text[n]) == to_upper(macros[i].name[n]); n++)
			;
		if (n == length)
			return ecstats_cron_expr_parse(macros[i].text, strlen(macros[i].text), expr, error);
	}
	fail_whole(error, 0, "there is no such name");
	error->length = length;
	error->hint =
		"The names are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.";
	return false;
}

/*
 * check_days holds day of month (fields[0]) and day of week (fields[2]) against each other: Quartz
 * wants exactly one of them to be '?', so that nobody has to know how the two would combine.
 */
static bool
check_days(CronCursor *fields, CronExpr *expr)
{
	bool day_open = *fields[0].start == '?';
	bool weekday_open = *fields[2].start == '?';

	if (expr->dialect == CRON_UNIX || day_open != weekday_open)
		return true;
	fail_at(&fields[2], fields[2].start,
			day_open ? "day of month and day of week are both \"?\""
					 : "neither day of month nor day of week is \"?\"");
	fields[2].error->hint =
		"With six or seven fields (Quartz), exactly one of day of month and day "
		"of week must be \"?\"; unix cron has five fields.";
	return false;
}

/*
 * parse_field reads one field: '?', or a list of items.
 */
static bool
parse_field(CronCursor *c)
{
	bool open = c->field == CRON_DAY || c->field == CRON_WEEKDAY;

	if (c->field == CRON_DAY)
		c->expr->any_day = *c->start == '*' || *c->start == '?';
	if (c->field == CRON_WEEKDAY)
		c->expr->any_weekday = *c->start == '*' || *c->start == '?';
	if (open && *c->at == '?')
	{
		put_range(c, c->rule->first, c->rule->last, 1);
		c->at++;
		return c->at == c->end || fail_at(c, c->at, "\"?\" must stand alone");
	}
	for (;;)
	{
		if (!parse_item(c))
			return false;
		if (c->at == c->end)
			return true;
		if (*c->at != ',')
			return fail_at(c, c->at, "unexpected character");
		c->at++;
	}
}

/*
 * parse_item reads one item of a list: '*', a value, a range, each with an optional step, or one of
 * the forms that only days know.
 */
static bool
parse_item(CronCursor *c)
{
	const char *start = c->at;
	int low = c->rule->first;
	int high = c->rule->last;
	int step = 1;
	bool plain = false; /* a single value so far */
	bool star = c->at < c->end && *c->at == '*';

	if (star)
		c->at++;
	else if (c->field == CRON_DAY && c->at < c->end && to_upper(*c->at) == 'L')
		return parse_last_day(c);
	else if (c->field == CRON_WEEKDAY && c->at < c->end && to_upper(*c->at) == 'L')
		return parse_weekday_suffix(c, -1, -1);
	else
	{
		if (!parse_value(c, &low))
			return false;
		high = low;
		plain = true;
		if (c->at < c->end && *c->at == '-')
		{
			c->at++;
			if (!parse_value(c, &high))
				return false;
			plain = false;
			if (c->field == CRON_YEAR && high < low)
				return fail_at(c, start, "the range of years ends before it starts");
		}
		if (c->at < c->end && c->field == CRON_DAY && plain && to_upper(*c->at) == 'W')
		{
			if (c->expr->dialect == CRON_UNIX && memchr(c->start, ',', c->end - c->start) != NULL)
				return fail_at(c, c->at, "\"W\" does not go into a list");
			c->at++;
			c->expr->near_days |= UINT64_C(1) << low;
			return true;
		}
		if (c->at < c->end && c->field == CRON_WEEKDAY &&
			(*c->at == '#' || (plain && to_upper(*c->at) == 'L')))
			return parse_weekday_suffix(c, low, high);
	}
	if (c->at < c->end && *c->at == '/')
	{
		int most = c->field == CRON_YEAR ? CRON_LAST_YEAR - CRON_FIRST_YEAR : c->rule->last;

		c->at++;
		if (!parse_number(c, 1, most, "step", &step))
			return false;
		if (plain)
			high = c->rule->last;
		plain = false;
	}
	if (c->field <= CRON_HOUR && !plain)
		c->expr->interval = true;
	put_range(c, low, high, step);
	return true;
}

/*
 * parse_last_day reads the forms of day of month that count from its end: L, L-n, LW, L-nW.
 */
static bool
parse_last_day(CronCursor *c)
{
	int back = 0;

	c->at++;
	if (c->at < c->end && *c->at == '-')
	{
		c->at++;
		if (!parse_number(c, 0, 30, "distance from the last day", &back))
			return false;
	}
	if (c->at == c->end || to_upper(*c->at) != 'W')
	{
		c->expr->last_days |= UINT64_C(1) << back;
		return true;
	}
	if (c->expr->dialect == CRON_UNIX && memchr(c->start, ',', c->end - c->start) != NULL)
		return fail_at(c, c->at, "\"W\" does not go into a list");
	c->at++;
	c->expr->near_last_days |= UINT64_C(1) << back;
	return true;
}

/*
 * parse_weekday_suffix reads what may follow a day of the week: 'L', the last one of the month, or
 * '#k', its k-th. A lone 'L' (low < 0) is Quartz's word for Saturday. Quartz allows none of them in
 * a list; the unix dialect, which has them as extensions, also takes "MON-FRI#1".
 */
static bool
parse_weekday_suffix(CronCursor *c, int low, int high)
{
	CronExpr *expr = c->expr;
	uint64_t before = expr->values[CRON_WEEKDAY];
	uint64_t given;
	int k;
	int day;

	if (expr->dialect == CRON_QUARTZ && memchr(c->start, ',', c->end - c->start) != NULL)
		return fail_at(c, c->at, "\"L\" and \"#\" do not go into a list");
	if (low < 0)
	{
		if (expr->dialect == CRON_UNIX)
			return fail_at(c, c->at, "\"L\" must follow a day of the week");
		c->at++;
		put_range(c, c->rule->last, c->rule->last, 1);
		return true;
	}
	if (*c->at == '#' && expr->dialect == CRON_QUARTZ && memchr(c->start, '-', c->at - c->start))
		return fail_at(c, c->at, "\"#\" must follow a single day");

	/* put_range knows how a range wraps and how the dialect counts: borrow the map. */
	expr->values[CRON_WEEKDAY] = 0;
	put_range(c, low, high, 1);
	given = expr->values[CRON_WEEKDAY];
	expr->values[CRON_WEEKDAY] = before;
	if (*c->at++ != '#')
	{
		expr->last_weekdays |= given;
		return true;
	}
	if (!parse_number(c, 1, 5, "week of the month", &k))
		return false;
	expr->has_nth_weekdays |= (uint8_t) given;
	for (day = 0; day < 7; day++)
		if ((given >> day & 1) != 0)
			expr->nth_weekdays[day] |= (uint8_t) (1 << k);
	return true;
}

/*
 * parse_value reads a number or, where the field has them, a name of exactly three letters.
 */
static bool
parse_value(CronCursor *c, int *value)
{
	const CronRule *rule = c->rule;
	size_t i;

	if (c->at == c->end || *c->at == ',')
		return fail_at(c, c->at, "a value is missing");
	if (is_digit(*c->at) || rule->names == NULL)
		return parse_number(c, rule->first, rule->last, "value", value);
	for (i = 0; c->end - c->at >= 3 && rule->names[i] != '\0'; i += 3)
	{
		if (to_upper(c->at[0]) == rule->names[i] && to_upper(c->at[1]) == rule->names[i + 1] &&
			to_upper(c->at[2]) == rule->names[i + 2])
		{
			c->at += 3;
			*value = rule->names_from + (int) (i / 3);
			return true;
		}
	}
	return fail_at(c, c->at, "neither a number nor a name of three letters");
}

/*
 * parse_number reads a decimal number between low and high; 'what' names it in the message.
 */
static bool
parse_number(CronCursor *c, int low, int high, const char *what, int *value)
{
	const char *start = c->at;
	char reason[96];
	int n = 0;

	if (c->at == c->end || !is_digit(*c->at))
	{
		snprintf(reason, sizeof(reason), "the %s is not a number", what);
		return fail_at(c, c->at, reason);
	}
	for (; c->at < c->end && is_digit(*c->at); c->at++)
		n = n > 99999 ? n : n * 10 + (*c->at - '0');
	if (n < low || n > high)
	{
		snprintf(reason, sizeof(reason), "the %s is not between %d and %d", what, low, high);
		return fail_at(c, start, reason);
	}
	*value = n;
	return true;
}

/*
 * put_range adds low to high, by step, to the map of the field. A range whose end is smaller than
 * its start goes over the end of the field and on from its first value.
 */
static void
put_range(CronCursor *c, int low, int high, int step)
{
	CronExpr *expr = c->expr;
	int first = c->rule->first;
	int span = c->rule->last - first + 1;
	int n;

	if (c->field == CRON_YEAR)
	{
		for (n = low - first; n <= high - first; n += step)
			expr->years[n / 64] |= UINT64_C(1) << (n % 64);
		return;
	}
	if (c->field == CRON_WEEKDAY)
	{
		/* Sunday has two numbers in unix: "7-2" starts from 0, "5-7" ends at 7, "0-7" is all. */
		span = 7;
		if (first == 0 && low == 7 && high < 7)
			low = 0;
	}
	if (high < low)
		high += span;
	for (n = low; n <= high; n += step)
	{
		int bit = n > c->rule->last ? n - span : n;

		if (c->field == CRON_WEEKDAY)
			bit = (n - first) % 7;
		expr->values[c->field] |= UINT64_C(1) << bit;
	}
}

/*
 * fail_at fills the error for a place in a field and returns false.
 */
static bool
fail_at(CronCursor *c, const char *at, const char *reason)
{
	CronError *error = c->error;

	error->field = c->field;
	error->field_number = c->field_number;
	error->offset = (size_t) (at - c->text);
	error->length = (size_t) (c->end - at);
	snprintf(error->reason, sizeof(error->reason), "%s", reason);
	error->hint = c->rule->hint;
	return false;
}

/*
 * fail_whole fills the error for an expression that does not even have the shape of one.
 */
static bool
fail_whole(CronError *error, size_t offset, const char *reason)
{
	error->field = CRON_WHOLE;
	error->field_number = 0;
	error->offset = offset;
	error->length = 0;
	snprintf(error->reason, sizeof(error->reason), "%s", reason);
	error->hint = "An expression has five fields (minute hour day month weekday) or, as in Quartz, "
				  "six or seven (second minute hour day month weekday [year]).";
	return false;
}
