/*
 * rollup_counts.c
 *		A user's counts of a day in a bytea: version byte 1, then pairs of varints, event number and
 *		count, by ascending event number. A varint has 7 bits a byte, low ones first, the top bit set
 *		on all bytes but the last, and no more bytes than it needs. The numbers are from 1.
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"

#define COUNTS_VERSION 1

/* Where the reader of a bytea is. */
typedef struct CountsReader
{
	const unsigned char *start;
	const unsigned char *at;
	const unsigned char *end;
	uint32 last; /* event number read last, 0 before the first */
} CountsReader;

PG_FUNCTION_INFO_V1(ecstats_rollup_counts_unpack);
PG_FUNCTION_INFO_V1(ecstats_rollup_counts_total);
PG_FUNCTION_INFO_V1(ecstats_rollup_counts_translate);

static void reader_init(CountsReader *reader, const bytea *counts);
static bool reader_next(CountsReader *reader, RollupCount *count);
static uint64 read_varint(CountsReader *reader);
static void corrupt(const CountsReader *reader, const char *reason) __attribute__((noreturn));
static unsigned char *write_varint(unsigned char *at, uint64 value);
static int compare_counts(const void *a, const void *b);
static void check_map(ArrayType *map);
static int merge_equal(RollupCount *counts, int ncounts);

/*
 * ecstats_rollup_counts_unpack(counts bytea) returns a row for each pair.
 */
Datum
ecstats_rollup_counts_unpack(PG_FUNCTION_ARGS)
{
	CountsReader reader;
	EcstatsRows result;
	RollupCount count;
	bool nulls[2] = {false, false};
	Datum values[2];

	reader_init(&reader, PG_GETARG_BYTEA_PP(0));
	result = ecstats_rows_begin(fcinfo);
	while (reader_next(&reader, &count))
	{
		values[0] = Int32GetDatum((int32) count.event);
		values[1] = Int64GetDatum(count.count);
		ecstats_rows_add(&result, values, nulls);
	}
	return (Datum) 0;
}

/*
 * ecstats_rollup_counts_total(counts bytea) returns the sum of the counts.
 */
Datum
ecstats_rollup_counts_total(PG_FUNCTION_ARGS)
{
	CountsReader reader;
	RollupCount count;
	int64 total = 0;

	reader_init(&reader, PG_GETARG_BYTEA_PP(0));
	while (reader_next(&reader, &count))
		if (pg_add_s64_overflow(total, count.count, &total))
			corrupt(&reader, "the sum of the counts is out of range");
	PG_RETURN_INT64(total);
}

/*
 * ecstats_rollup_counts_translate(counts bytea, map int[]) renumbers the events: number i becomes
 * map[i]. Numbers that become the same are added up.
 */
Datum
ecstats_rollup_counts_translate(PG_FUNCTION_ARGS)
{
	bytea *counts = PG_GETARG_BYTEA_PP(0);
	ArrayType *map = PG_GETARG_ARRAYTYPE_P(1);
	const int32 *numbers = (const int32 *) ARR_DATA_PTR(map);
	RollupCount near[64];
	RollupCount *pairs = near;
	CountsReader reader;
	StringInfoData to;
	int64 index;
	int n = 0;

	check_map(map);
	reader_init(&reader, counts);
	/* A pair takes two bytes or more. */
	if (VARSIZE_ANY_EXHDR(counts) / 2 > lengthof(near))
		pairs = MemoryContextAllocHuge(CurrentMemoryContext,
									   VARSIZE_ANY_EXHDR(counts) / 2 * sizeof(RollupCount));
	while (reader_next(&reader, &pairs[n]))
	{
		index = ARR_NDIM(map) == 0 ? -1 : (int64) pairs[n].event - ARR_LBOUND(map)[0];
		if (index < 0 || index >= ARR_DIMS(map)[0] || numbers[index] <= 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("map has no number for event %u", pairs[n].event),
							errdetail("An event number is 1 or more.")));
		pairs[n].event = (uint32) numbers[index];
		n++;
	}
	ecstats_rollup_counts_sort(pairs, n);
	n = merge_equal(pairs, n);

	initStringInfo(&to);
	appendStringInfoSpaces(&to, VARHDRSZ);
	ecstats_rollup_counts_pack(&to, pairs, n);
	SET_VARSIZE(to.data, to.len);
	PG_RETURN_BYTEA_P((bytea *) to.data);
}

/*
 * check_map refuses an array that is not a list of numbers.
 */
static void
check_map(ArrayType *map)
{
	if (ARR_NDIM(map) > 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("map has %d dimensions", ARR_NDIM(map)),
						errdetail("It is a list of event numbers.")));
	if (ARR_HASNULL(map) && array_contains_nulls(map))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("map has a NULL element"),
						errdetail("It is a list of event numbers.")));
}

/*
 * merge_equal adds up neighbours of the same number, and returns how many pairs are left.
 */
static int
merge_equal(RollupCount *counts, int ncounts)
{
	int n = 0;
	int i;

	for (i = 0; i < ncounts; i++)
	{
		if (n == 0 || counts[n - 1].event != counts[i].event)
			counts[n++] = counts[i];
		else if (pg_add_s64_overflow(counts[n - 1].count, counts[i].count, &counts[n - 1].count))
			ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
							errmsg("count of event %u is out of range", counts[i].event)));
	}
	return n;
}

/*
 * ecstats_rollup_counts_pack appends the wire form of counts that are sorted and positive.
 */
void
ecstats_rollup_counts_pack(StringInfo to, const RollupCount *counts, int ncounts)
{
	unsigned char *at;
	int i;

	enlargeStringInfo(to, 1 + ncounts * 15);
	at = (unsigned char *) to->data + to->len;
	*at++ = COUNTS_VERSION;
	for (i = 0; i < ncounts; i++)
	{
		Assert(counts[i].count > 0 && (i == 0 || counts[i - 1].event < counts[i].event));
		at = write_varint(at, counts[i].event);
		at = write_varint(at, (uint64) counts[i].count);
	}
	to->len = (int) ((char *) at - to->data);
}

/*
 * ecstats_rollup_counts_sort sorts by event number; short lists, which most are, in place.
 */
void
ecstats_rollup_counts_sort(RollupCount *counts, int ncounts)
{
	RollupCount moved;
	int i;
	int j;

	if (ncounts > 32)
	{
		qsort(counts, ncounts, sizeof(RollupCount), compare_counts);
		return;
	}
	for (i = 1; i < ncounts; i++)
	{
		moved = counts[i];
		for (j = i; j > 0 && counts[j - 1].event > moved.event; j--)
			counts[j] = counts[j - 1];
		counts[j] = moved;
	}
}

/*
 * compare_counts orders by event number.
 */
static int
compare_counts(const void *a, const void *b)
{
	uint32 left = ((const RollupCount *) a)->event;
	uint32 right = ((const RollupCount *) b)->event;

	return (left > right) - (left < right);
}

/*
 * write_varint writes a number and returns the place after it; there must be ten bytes.
 */
static unsigned char *
write_varint(unsigned char *at, uint64 value)
{
	while (value >= 0x80)
	{
		*at++ = (unsigned char) (value | 0x80);
		value >>= 7;
	}
	*at++ = (unsigned char) value;
	return at;
}

/*
 * reader_init starts to read a bytea; the version is checked.
 */
static void
reader_init(CountsReader *reader, const bytea *counts)
{
	reader->start = (const unsigned char *) VARDATA_ANY(counts);
	reader->at = reader->start;
	reader->end = reader->start + VARSIZE_ANY_EXHDR(counts);
	reader->last = 0;
	if (reader->at == reader->end)
		corrupt(reader, "there is no version byte");
	if (*reader->at != COUNTS_VERSION)
		corrupt(reader, "the version is not known");
	reader->at++;
}

/*
 * reader_next reads a pair; false at the end.
 */
static bool
reader_next(CountsReader *reader, RollupCount *count)
{
	uint64 event;
	uint64 number;

	if (reader->at == reader->end)
		return false;
	event = read_varint(reader);
	if (event > PG_INT32_MAX || event <= reader->last)
		corrupt(reader, "event numbers do not ascend from 1");
	number = read_varint(reader);
	if (number == 0 || number > PG_INT64_MAX)
		corrupt(reader, "a count is out of range");
	reader->last = (uint32) event;
	count->event = (uint32) event;
	count->count = (int64) number;
	return true;
}

/*
 * read_varint reads a number of up to 63 bits, in its shortest form only.
 */
static uint64
read_varint(CountsReader *reader)
{
	uint64 value = 0;
	int shift;

	for (shift = 0; shift < 63; shift += 7)
	{
		unsigned char byte;

		if (reader->at == reader->end)
			corrupt(reader, "a number is cut off");
		byte = *reader->at++;
		value |= (uint64) (byte & 0x7F) << shift;
		if ((byte & 0x80) == 0)
		{
			if (byte == 0 && shift > 0)
				corrupt(reader, "a number is longer than it needs to be");
			return value;
		}
	}
	corrupt(reader, "a number is too long");
}

/*
 * corrupt reports a bytea that is not one of ours.
 */
static void
corrupt(const CountsReader *reader, const char *reason)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("packed counts are corrupt"),
					errdetail("At byte %d of %d: %s.", (int) (reader->at - reader->start),
							  (int) (reader->end - reader->start), reason)));
}
