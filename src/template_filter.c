/*
 * template_filter.c
 *		Filters of a template. Numbers stay numeric from the data to the text; halves round away from
 *		zero. No filter fails on a value: what it cannot read passes as it is.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/formatting.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "template_filter.h"

/* In UTF-8, and what stands for them where the database's encoding has them not. */
#define DASH			"—"
#define DASH_OTHER		"―" /* EUC_CN knows the bar alone */
#define DASH_ASCII		"-"
#define ELLIPSIS		"…"
#define ELLIPSIS_ASCII	"..."
#define MAX_NUMBER_TEXT 300 /* a longer string is no number to us */

typedef enum FilterId
{
	FILTER_MONEY,
	FILTER_INT,
	FILTER_PERCENT,
	FILTER_SIGNED_PERCENT,
	FILTER_CN,
	FILTER_DATE,
	FILTER_DEFAULT,
	FILTER_UPPER,
	FILTER_TRUNCATE
} FilterId;

typedef enum ArgumentNeed
{
	ARGUMENT_NONE,
	ARGUMENT_MAY,
	ARGUMENT_MUST
} ArgumentNeed;

typedef struct FilterKind
{
	const char *name;
	FilterId id;
	ArgumentNeed argument;
	int least; /* limits of an argument that is a number; none where both are 0 */
	int most;
} FilterKind;

static const FilterKind filter_kinds[] = {
	{"money", FILTER_MONEY, ARGUMENT_NONE, 0, 0},
	{"int", FILTER_INT, ARGUMENT_NONE, 0, 0},
	{"percent", FILTER_PERCENT, ARGUMENT_MAY, 0, 6},
	{"signed_percent", FILTER_SIGNED_PERCENT, ARGUMENT_MAY, 0, 0},
	{"cn", FILTER_CN, ARGUMENT_NONE, 0, 0},
	{"date", FILTER_DATE, ARGUMENT_MUST, 0, 0},
	{"default", FILTER_DEFAULT, ARGUMENT_MUST, 0, 0},
	{"upper", FILTER_UPPER, ARGUMENT_NONE, 0, 0},
	{"truncate", FILTER_TRUNCATE, ARGUMENT_MUST, 1, 100000},
};

/* Currencies of ISO 4217 whose minor unit is not the hundredth. */
static const struct
{
	int decimals;
	const char *codes;
} currency_kinds[] = {
	{0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"},
	{3, "BHD IQD JOD KWD LYD OMR TND"},
	{4, "CLF UYW"},
};

/* argument_number reads an argument of digits alone; false outside the limits. */
static bool
argument_number(const TemplateFilter *filter, long least, long most, long *number)
{
	long result = 0;
	size_t i;

	if (filter->argument.len == 0 || filter->argument.len > 6)
		return false;
	for (i = 0; i < filter->argument.len; i++)
	{
		char c = filter->argument.at[i];

		if (c < '0' || c > '9')
			return false;
		result = result * 10 + (c - '0');
	}
	*number = result;
	return result >= least && result <= most;
}

/* ecstats_template_filter_find names the filter and checks its argument, when a text is parsed. */
TemplateErrorCode
ecstats_template_filter_find(TemplateFilter *filter)
{
	const FilterKind *kind = NULL;
	int i;

	for (i = 0; i < lengthof(filter_kinds) && kind == NULL; i++)
	{
		if (strlen(filter_kinds[i].name) == filter->name.len &&
			memcmp(filter_kinds[i].name, filter->name.at, filter->name.len) == 0)
			kind = &filter_kinds[i];
	}
	if (kind == NULL)
		return TEMPLATE_UNKNOWN_FILTER;
	filter->id = kind->id;
	filter->number = 1;
	if (!filter->has_argument)
		return kind->argument == ARGUMENT_MUST ? TEMPLATE_MISSING_ARGUMENT : TEMPLATE_OK;
	if (kind->argument == ARGUMENT_NONE)
		return TEMPLATE_NEEDLESS_ARGUMENT;
	if (kind->most > 0 && !argument_number(filter, kind->least, kind->most, &filter->number))
		return TEMPLATE_BAD_ARGUMENT;
	if (kind->id == FILTER_DATE &&
		!ecstats_template_date_check(filter->argument.at, filter->argument.len))
		return TEMPLATE_BAD_ARGUMENT;
	return TEMPLATE_OK;
}

/* ecstats_template_currency_decimals looks up a currency's minor unit; 2 for those not listed. */
int
ecstats_template_currency_decimals(const char *code, int len)
{
	int i;
	const char *at;

	if (len != 3)
		return 2;
	for (i = 0; i < lengthof(currency_kinds); i++)
	{
		for (at = currency_kinds[i].codes; *at != '\0'; at += at[3] == '\0' ? 3 : 4)
		{
			if (pg_strncasecmp(at, code, 3) == 0)
				return currency_kinds[i].decimals;
		}
	}
	return 2;
}

/* ---------------------------------------------------------------- numbers */

/* set_text ends a filter; the text is palloc'd or constant. */
static void
set_text(TemplateFiltered *value, const char *text)
{
	value->kind = FILTERED_TEXT;
	value->text = text;
	value->len = strlen(text);
	value->is_dash = false;
}

/* native returns a constant of UTF-8 in the database's encoding, or its ASCII stand-in. */
static const char *
native(const char *utf8, const char *ascii)
{
	const char *text = ecstats_native(utf8, strlen(utf8));

	return text ? text : ascii;
}

static void
set_dash(TemplateFiltered *value)
{
	set_text(value, native(DASH, native(DASH_OTHER, DASH_ASCII)));
	value->is_dash = true;
}

static bool
is_number_text(const char *text, int len)
{
	int digits = 0;
	int i = 0;

	if (len > MAX_NUMBER_TEXT)
		return false;
	if (i < len && (text[i] == '-' || text[i] == '+'))
		i++;
	for (; i < len && text[i] >= '0' && text[i] <= '9'; i++)
		digits++;
	if (digits > 0 && i + 1 < len && text[i] == '.')
	{
		for (i++; i < len && text[i] >= '0' && text[i] <= '9';)
			i++;
	}
	return digits > 0 && i == len;
}

static bool
is_text(const TemplateFiltered *value, const char *text)
{
	return value->kind == FILTERED_TEXT && value->len == strlen(text) &&
		   memcmp(value->text, text, value->len) == 0;
}

/*
 * to_number makes ready for a number filter: true where there is a number (a string of digits is
 * one). Nothing, and numeric's NaN and infinities, which JSON holds as strings, become a dash.
 */
static bool
to_number(TemplateFiltered *value)
{
	if (value->kind == FILTERED_NUMBER)
		return true;
	if (value->kind == FILTERED_ABSENT || value->len == 0 || is_text(value, "NaN") ||
		is_text(value, "Infinity") || is_text(value, "-Infinity"))
	{
		set_dash(value);
		return false;
	}
	if (!is_number_text(value->text, value->len))
		return false;
	value->number = DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(pnstrdup(value->text, value->len)),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	value->kind = FILTERED_NUMBER;
	return true;
}

/* rounded_text spells a number with a fixed count of decimals, halves rounded away from zero. */
static char *
rounded_text(Numeric number, int decimals)
{
	Datum rounded =
		DirectFunctionCall2(numeric_round, NumericGetDatum(number), Int32GetDatum(decimals));

	return DatumGetCString(DirectFunctionCall1(numeric_out, rounded));
}

static Numeric
multiply(Numeric a, Numeric b)
{
	return DatumGetNumeric(
		DirectFunctionCall2(numeric_mul, NumericGetDatum(a), NumericGetDatum(b)));
}

static int
whole_digits(const char *text)
{
	return strspn(text[0] == '-' ? text + 1 : text, "0123456789");
}

static bool
is_zero(const char *text)
{
	return text[strspn(text, "-0.")] == '\0';
}

/* strip_zeros cuts trailing zeros of the decimals, in place. */
static void
strip_zeros(char *text)
{
	char *end = text + strlen(text);

	if (strchr(text, '.') == NULL)
		return;
	while (end[-1] == '0')
		end--;
	if (end[-1] == '.')
		end--;
	*end = '\0';
}

/* grouped puts commas between thousands and hangs a suffix on. */
static char *
grouped(const char *text, const char *suffix)
{
	int whole = whole_digits(text);
	size_t len = strlen(text);
	char *result = palloc(len + whole / 3 + strlen(suffix) + 1);
	char *out = result;

	if (text[0] == '-')
		*out++ = *text++;
	while (whole > 0)
	{
		*out++ = *text++;
		if (--whole > 0 && whole % 3 == 0)
			*out++ = ',';
	}
	strcpy(out, text);
	strcat(out, suffix);
	return result;
}

static char *
percent_text(Numeric number, int decimals)
{
	return grouped(rounded_text(multiply(number, int64_to_numeric(100)), decimals), "%");
}

static void
apply_signed_percent(const TemplateFilter *filter, TemplateFiltered *value)
{
	char *text = percent_text(value->number, 1);

	if (strspn(text, "-0.%") != strlen(text))
		set_text(value, text[0] == '-' ? text : psprintf("+%s", text));
	else if (filter->has_argument)
	{
		set_text(value, "");
		value->text = filter->argument.at;
		value->len = filter->argument.len;
	}
	else
		set_text(value, "0.0%");
}

/*
 * cn_text writes 8,642 below 1万, 128.6万 below 1亿, 1.28亿 from there on. In an encoding without these
 * characters it writes the number.
 */
static char *
cn_text(Numeric number)
{
	const char *unit = "";
	const char *tens_of_thousands = native("万", "");
	const char *hundreds_of_millions = native("亿", "");
	char *text = rounded_text(number, 2);

	if (whole_digits(text) > 4 && *tens_of_thousands && *hundreds_of_millions)
	{
		unit = tens_of_thousands;
		text = rounded_text(multiply(number, int64_div_fast_to_numeric(1, 4)), 1);
		if (whole_digits(text) > 4)
		{
			unit = hundreds_of_millions;
			text = rounded_text(multiply(number, int64_div_fast_to_numeric(1, 8)), 2);
		}
	}
	strip_zeros(text);
	return grouped(is_zero(text) ? "0" : text, unit);
}

/* ---------------------------------------------------------------- text */

/* to_text makes ready for a text filter: false where there is nothing. */
static bool
to_text(TemplateFiltered *value)
{
	if (value->kind == FILTERED_NUMBER)
		set_text(value,
				 DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->number))));
	return value->kind == FILTERED_TEXT;
}

static void
apply_truncate(long most, TemplateFiltered *value)
{
	const char *ellipsis;
	int kept;

	if (pg_mbstrlen_with_len(value->text, value->len) <= most)
		return;
	ellipsis = native(ELLIPSIS, ELLIPSIS_ASCII);
	if (pg_mbstrlen(ellipsis) > most)
		ellipsis = "";
	kept = pg_mbcharcliplen(value->text, value->len, most - pg_mbstrlen(ellipsis));
	set_text(value, psprintf("%.*s%s", kept, value->text, ellipsis));
}

/* ecstats_template_filter_apply puts a value through one filter, in the current memory context. */
void
ecstats_template_filter_apply(const TemplateFilter *filter, int currency_decimals,
							  TemplateFiltered *value)
{
	switch ((FilterId) filter->id)
	{
		case FILTER_MONEY:
			if (to_number(value))
				set_text(value, grouped(rounded_text(value->number, currency_decimals), ""));
			break;
		case FILTER_INT:
			if (to_number(value))
				set_text(value, grouped(rounded_text(value->number, 0), ""));
			break;
		case FILTER_PERCENT:
			if (to_number(value))
				set_text(value, percent_text(value->number, filter->number));
			break;
		case FILTER_SIGNED_PERCENT:
			if (to_number(value))
				apply_signed_percent(filter, value);
			break;
		case FILTER_CN:
			if (to_number(value))
				set_text(value, cn_text(value->number));
			break;
		case FILTER_DATE:
			if (value->kind == FILTERED_TEXT)
				(void) ecstats_template_date_apply(filter->argument.at, filter->argument.len,
												   value);
			break;
		case FILTER_DEFAULT:
			if (value->kind == FILTERED_ABSENT || value->is_dash ||
				(value->kind == FILTERED_TEXT && value->len == 0))
			{
				set_text(value, "");
				value->text = filter->argument.at;
				value->len = filter->argument.len;
			}
			break;
		case FILTER_UPPER:
			if (to_text(value))
				set_text(value, str_toupper(value->text, value->len, DEFAULT_COLLATION_OID));
			break;
		case FILTER_TRUNCATE:
			if (to_text(value))
				apply_truncate(filter->number, value);
			break;
	}
}
