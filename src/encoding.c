/*
 * encoding.c
 *		Text in any server encoding. What comes in must be known to Unicode, since messages leave in UTF-8;
 *		what ships beyond ASCII is written in UTF-8 and put into the database's encoding where that has it.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "ecstats.h"
#include "intake_text.h"

#define ESCAPE_LENGTH 6 /* of \u4eba */

PG_FUNCTION_INFO_V1(ecstats_native_text);

/*
 * convert converts a text, whole or not at all: NULL where it has a character that the other encoding
 * has not. The result is palloc'd and terminated.
 */
static char *
convert(const char *s, int len, int from, int to)
{
	Oid procedure = FindDefaultConversionProc(from, to);
	Size size = (Size) len * MAX_CONVERSION_GROWTH + 1;
	char *result;
	int done;

	if (!OidIsValid(procedure))
		return NULL;
	result = palloc(size);
	done = pg_do_encoding_conversion_buf(procedure, from, to, (unsigned char *) s, len,
										 (unsigned char *) result, size, true);
	if (done == len)
		return result;
	pfree(result);
	return NULL;
}

/*
 * ecstats_native returns a text of UTF-8 in the database's encoding; NULL where that cannot hold it.
 */
char *
ecstats_native(const char *utf8, int len)
{
	int i = 0;

	while (i < len && !IS_HIGHBIT_SET(utf8[i]))
		i++;
	if (i == len || GetDatabaseEncoding() == PG_UTF8)
		return pnstrdup(utf8, len);
	return convert(utf8, len, PG_UTF8, GetDatabaseEncoding());
}

/*
 * is_clean tells whether a text of the database's encoding is known to Unicode and has no control
 * character beyond ASCII.
 */
static bool
is_clean(const char *s, int len)
{
	char *utf8 = convert(s, len, GetDatabaseEncoding(), PG_UTF8);
	bool clean = utf8 != NULL && ecstats_text_control(utf8, strlen(utf8), true) < 0;

	if (utf8 != NULL)
		pfree(utf8);
	return clean;
}

/*
 * ecstats_encoding_unclean returns the offset of the first character beyond ASCII that is a control
 * character or that Unicode does not know, -1 where there is none. The text is whole: no character is cut.
 */
int
ecstats_encoding_unclean(const char *s, int len)
{
	int i = 0;
	int n;

	if (GetDatabaseEncoding() == PG_UTF8)
		return ecstats_text_c1(s, len);
	while (i < len && !IS_HIGHBIT_SET(s[i]))
		i++;
	if (i == len || is_clean(s + i, len - i))
		return -1;
	for (; i < len; i += n)
	{
		n = Min(pg_mblen(s + i), len - i);
		if (IS_HIGHBIT_SET(s[i]) && !is_clean(s + i, n))
			return i;
	}
	return -1;
}

/*
 * escape_at reads \u4eba at the beginning of a text; 0 where there is no such escape of a character (half a
 * pair of surrogates is none).
 */
static pg_wchar
escape_at(const char *s, int len)
{
	pg_wchar code = 0;
	int i;

	if (len < ESCAPE_LENGTH || s[0] != '\\' || s[1] != 'u')
		return 0;
	for (i = 2; i < ESCAPE_LENGTH; i++)
	{
		if (s[i] >= '0' && s[i] <= '9')
			code = code << 4 | (s[i] - '0');
		else if (s[i] >= 'a' && s[i] <= 'f')
			code = code << 4 | (s[i] - 'a' + 10);
		else
			return 0;
	}
	return code >= 0xd800 && code <= 0xdfff ? 0 : code;
}

/*
 * ecstats_native_text(escaped text) returns the text that \u escapes stand for; NULL where the database's
 * encoding cannot hold it. The install script writes so what is not ASCII.
 */
Datum
ecstats_native_text(PG_FUNCTION_ARGS)
{
	text *escaped = PG_GETARG_TEXT_PP(0);
	const char *s = VARDATA_ANY(escaped);
	int len = VARSIZE_ANY_EXHDR(escaped);
	unsigned char c[MAX_MULTIBYTE_CHAR_LEN];
	StringInfoData utf8;
	char *native;
	pg_wchar code;
	int i;

	initStringInfo(&utf8);
	for (i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(s[i]) && GetDatabaseEncoding() != PG_UTF8)
			PG_RETURN_TEXT_P(escaped); /* of a piece that was loaded as it is */
		code = escape_at(s + i, len - i);
		if (code != 0)
		{
			unicode_to_utf8(code, c);
			appendBinaryStringInfo(&utf8, (char *) c, pg_utf_mblen(c));
			i += ESCAPE_LENGTH - 1;
		}
		else
			appendStringInfoChar(&utf8, s[i]);
	}
	native = ecstats_native(utf8.data, utf8.len);
	if (native == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(native));
}
