/*
 * errors.c
 *		Faults of one row: made by a rule, then raised or stored.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/timestamp.h"

#include "ecstats.h"
#include "errors.h"
#include "intake_text.h"

#define SHOWN_BYTES 60			  /* of an offending value in DETAIL */
#define EARLIEST	INT64CONST(0) /* 2000-01-01 00:00 UTC, PostgreSQL's epoch */
#define FUTURE_MAX	USECS_PER_DAY

/*
 * ecstats_fault fills a fault and returns false, so that a rule ends with "return ecstats_fault(…)".
 * detail is palloc'd by the caller or NULL; column and hint are constants.
 */
bool
ecstats_fault(EcstatsFault *fault, int sqlstate, const char *column, const char *hint, char *detail,
			  const char *fmt, ...)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (;;)
	{
		va_list args;
		int needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&buf, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&buf, needed);
	}
	fault->sqlstate = sqlstate;
	fault->column = column;
	fault->message = buf.data;
	fault->detail = detail;
	fault->hint = hint;
	return false;
}

/*
 * ecstats_fault_raise raises a fault as an error that names table, column and constraint.
 */
void
ecstats_fault_raise(const EcstatsFault *fault, const char *table, const char *constraint)
{
	ereport(ERROR, (errcode(fault->sqlstate), errmsg("%s", fault->message),
					fault->detail ? errdetail("%s", fault->detail) : 0,
					fault->hint ? errhint("%s", fault->hint) : 0,
					err_generic_string(PG_DIAG_SCHEMA_NAME, "ecstats"),
					err_generic_string(PG_DIAG_TABLE_NAME, table),
					fault->column ? err_generic_string(PG_DIAG_COLUMN_NAME, fault->column) : 0,
					constraint ? err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint) : 0));
	pg_unreachable();
}

/*
 * ecstats_fault_text returns message, detail and hint in one line, for ecstats.rejects.
 */
char *
ecstats_fault_text(const EcstatsFault *fault)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, fault->message);
	if (fault->detail)
		appendStringInfo(&buf, ". %s", fault->detail);
	if (fault->hint)
		appendStringInfo(&buf, "%s %s", fault->detail ? "" : ".", fault->hint);
	return buf.data;
}

/*
 * show_wide appends one character beyond ASCII, as its bytes where it is a control character or one that
 * the client could not be shown.
 */
static void
show_wide(StringInfo buf, const char *s, int len)
{
	int i;

	if (ecstats_encoding_unclean(s, len) < 0)
		appendBinaryStringInfo(buf, s, len);
	else if (GetDatabaseEncoding() == PG_UTF8)
		appendStringInfo(buf, "\\u%04x", (unsigned char) s[1]); /* C1 */
	else
	{
		for (i = 0; i < len; i++)
			appendStringInfo(buf, "\\x%02x", (unsigned char) s[i]);
	}
}

/*
 * ecstats_shown returns "Value: …." with the value quoted, escaped and cut to a bounded length on a
 * character boundary, so that it can stand in DETAIL and in a log whatever it holds.
 */
char *
ecstats_shown(const char *value, int length)
{
	StringInfoData buf;
	int cut = length > SHOWN_BYTES ? pg_mbcliplen(value, length, SHOWN_BYTES) : length;
	int i;
	int end;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "Value: \"");
	for (i = 0; i < cut; i++)
	{
		unsigned char c = (unsigned char) value[i];

		if (c == '"' || c == '\\')
			appendStringInfo(&buf, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			appendStringInfo(&buf, "\\x%02x", c);
		else if (!IS_HIGHBIT_SET(c))
			appendStringInfoChar(&buf, (char) c);
		else
		{
			end = Min(i + pg_mblen(value + i), cut);
			show_wide(&buf, value + i, end - i);
			i = end - 1;
		}
	}
	if (cut < length)
		appendStringInfo(&buf, "...\" (%d bytes in all).", length);
	else
		appendStringInfoString(&buf, "\".");
	return buf.data;
}

/*
 * check_unicode wants, in a database that is not in UTF-8, characters that UTF-8 has: one that it has not
 * could be stored, and no message or client could ever show it.
 */
static bool
check_unicode(EcstatsFault *fault, const char *column, const char *s, int len)
{
	int at = ecstats_encoding_unclean(s, len);

	if (at < 0)
		return true;
	return ecstats_fault(
		fault, ERRCODE_CHECK_VIOLATION, column,
		"Send text in the encoding that client_encoding names, without control characters.",
		ecstats_shown(s, len),
		"%s has a control character, or one that Unicode does not know, at byte %d", column,
		at + 1);
}

/*
 * ecstats_check_text holds a text against its length in bytes and forbids control characters.
 */
bool
ecstats_check_text(EcstatsFault *fault, const char *column, const char *s, int len, int min,
				   int max)
{
	int at;

	if (len < min)
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, column,
							 "Send a value, or leave the row out.", ecstats_shown(s, len),
							 "%s is empty", column);
	if (len > max)
		return ecstats_fault(fault, ERRCODE_CHECK_VIOLATION, column, "Shorten it at the source.",
							 ecstats_shown(s, len), "%s has %d bytes, the most is %d", column, len,
							 max);
	at = ecstats_text_control(s, len, GetDatabaseEncoding() == PG_UTF8);
	if (at >= 0)
		return ecstats_fault(
			fault, ERRCODE_CHECK_VIOLATION, column,
			"Remove control characters (line ends and tabs are some) at the source.",
			ecstats_shown(s, len), "%s has a control character at byte %d", column, at + 1);
	return GetDatabaseEncoding() == PG_UTF8 || check_unicode(fault, column, s, len);
}

/*
 * ecstats_clock_for returns a time of the clock that is good enough to judge an instant by. Reading the
 * clock for every row would cost as much as a rule, so an instant that is not ahead by the transaction's
 * start, which the clock has passed, is judged by that.
 */
TimestampTz
ecstats_clock_for(TimestampTz ts)
{
	TimestampTz start = GetCurrentTransactionStartTimestamp();

	return ts > start + FUTURE_MAX ? GetCurrentTimestamp() : start;
}

/*
 * ecstats_check_instant wants an instant of a plausible year, not more than a day ahead of the clock. now
 * is the clock, so that the rule stays a function of its arguments.
 */
bool
ecstats_check_instant(EcstatsFault *fault, const char *column, TimestampTz ts, TimestampTz now)
{
	if (ts >= EARLIEST && ts <= now + FUTURE_MAX)
		return true;
	return ecstats_fault(
		fault, ERRCODE_CHECK_VIOLATION, column,
		"Timestamps are seconds, or milliseconds from 1e11 on; check the unit and the sender's "
		"clock.",
		psprintf("Value: %s.", TIMESTAMP_NOT_FINITE(ts) ? "infinity" : timestamptz_to_str(ts)),
		"%s is %s", column,
		ts < EARLIEST ? "before 2000-01-01" : "more than 1 day ahead of the clock");
}
