/*
 * rollup_first.c
 *		On which day a user was seen first. The users of all time are blocks in the order of their ids,
 *		as those of a day are: one walk over both says who is new and what has to be written. It costs
 *		the users of all time some nanoseconds each, without a look-up for any of them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"

#define FETCH_BLOCKS 200

/* An id that has not been written, since its block may stay as it is. */
typedef struct HeldId
{
	int offset; /* in FirstMerge.bytes */
	uint32 length;
	uint64 number;
} HeldId;

/* How many users have their first day on a day. */
typedef struct FirstDay
{
	int64 users;
	bool changed;
} FirstDay;

typedef struct FirstMerge
{
	MemoryContext context; /* of the call: what is kept from one block to the next */
	uint64 number;		   /* of the day that is merged in */
	RollupBlockList users; /* of that day */
	Datum *gone;		   /* users that the day had, ascending, and has no more */
	Datum *next;		   /* their next days */
	bool *next_nulls;
	int ngone;
	int at_gone;
	FirstDay *days;
	uint32 max_days;
	bool with_blocks; /* what has to be written is wanted */
	bool changed;	  /* the block at hand is another one than the stored one */
	RollupBlockReader reader;
	RollupBlockWriter writer;
	HeldId *held;
	uint32 nheld;
	uint32 max_held;
	StringInfoData bytes;
	EcstatsRows result;
} FirstMerge;

/* A stored block: copies of its columns. */
typedef struct StoredBlock
{
	text *first;
	bytea *packed;
} StoredBlock;

/* The columns of the result. */
enum
{
	RESULT_KIND,
	RESULT_DAY,
	RESULT_USERS,
	RESULT_FIRST,
	RESULT_PACKED,
	RESULT_COLUMNS
};

PG_FUNCTION_INFO_V1(ecstats_rollup_first_merge);
PG_FUNCTION_INFO_V1(ecstats_rollup_first_merge_stored);

static void merge_init(FirstMerge *merge, FunctionCallInfo fcinfo);
static void take_gone_users(FirstMerge *merge, ArrayType *gone, ArrayType *next);
static uint64 day_number(DateADT day);
static void merge_stored(FirstMerge *merge);
static void merge_block(FirstMerge *merge, const StoredBlock *stored, const text *upper);
static void check_place(bool in_place);
static bool day_user_before(const FirstMerge *merge, const char *id, uint32 length);
static void take_new(FirstMerge *merge);
static void take_known(FirstMerge *merge);
static void take_gone(FirstMerge *merge);
static bool is_gone(FirstMerge *merge, bool *stays, uint64 *next);
static FirstDay *day_of(FirstMerge *merge, uint64 number);
static void change(FirstMerge *merge);
static void keep(FirstMerge *merge, const char *id, uint32 length, uint64 number);
static void write_id(FirstMerge *merge, const char *id, uint32 length, uint64 number);
static void put(FirstMerge *merge, char kind, const char *first, uint32 length, int64 users,
				bytea *packed);
static void put_days(FirstMerge *merge);

/*
 * ecstats_rollup_first_merge(day date, blocks bytea[]) merges the users of a day that is not stored
 * with those of ecstats.first_seen_block and returns how many are new, see sql/22_rollup_c.sql.
 */
Datum
ecstats_rollup_first_merge(PG_FUNCTION_ARGS)
{
	FirstMerge merge;

	merge_init(&merge, fcinfo);
	ecstats_rollup_list_open(&merge.users, PG_GETARG_ARRAYTYPE_P(1), ROLLUP_COUNTS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	merge_stored(&merge);
	SPI_finish();
	put_days(&merge);
	return (Datum) 0;
}

/*
 * ecstats_rollup_first_merge_stored(day date, gone text[], next date[]) merges the users of a stored
 * day into ecstats.first_seen_block and returns what that changes, see sql/22_rollup_c.sql. It writes
 * nothing. The day's blocks are read one by one, so that it may have any number of users.
 */
Datum
ecstats_rollup_first_merge_stored(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	Datum day[1] = {PG_GETARG_DATUM(0)};
	Oid types[1] = {DATEOID};
	MemoryContext old;
	FirstMerge merge;
	Portal portal;

	merge_init(&merge, fcinfo);
	merge.with_blocks = true;
	take_gone_users(&merge, PG_GETARG_ARRAYTYPE_P(1), PG_GETARG_ARRAYTYPE_P(2));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	portal =
		SPI_cursor_open_with_args(NULL,
								  "SELECT u.packed FROM ecstats.user_day u"
								  " WHERE u.day OPERATOR(pg_catalog.=) $1 ORDER BY u.first_user",
								  1, types, day, NULL, true, CURSOR_OPT_NO_SCROLL);
	old = MemoryContextSwitchTo(context);
	ecstats_rollup_list_open_portal(&merge.users, portal, ROLLUP_COUNTS);
	MemoryContextSwitchTo(old);
	merge_stored(&merge);
	SPI_cursor_close(portal);
	SPI_finish();
	put_days(&merge);
	return (Datum) 0;
}

/*
 * merge_init makes an empty state; the day is the first argument.
 */
static void
merge_init(FirstMerge *merge, FunctionCallInfo fcinfo)
{
	memset(merge, 0, sizeof(*merge));
	merge->result = ecstats_rows_begin(fcinfo);
	merge->context = CurrentMemoryContext;
	merge->number = day_number(PG_GETARG_DATEADT(0));
	ecstats_rollup_reader_init(&merge->reader);
	ecstats_rollup_writer_init(&merge->writer, ROLLUP_NUMBER);
	initStringInfo(&merge->bytes);
	(void) day_of(merge, merge->number);
}

/*
 * take_gone_users takes the users that the day had and has not any more, and their next days.
 */
static void
take_gone_users(FirstMerge *merge, ArrayType *gone, ArrayType *next)
{
	int nnext;

	ecstats_rollup_texts(gone, "gone", &merge->gone, &merge->ngone);
	deconstruct_array(next, DATEOID, sizeof(DateADT), true, TYPALIGN_INT, &merge->next,
					  &merge->next_nulls, &nnext);
	if (nnext != merge->ngone)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("gone and next are not of the same length"),
						errdetail("They have %d and %d elements.", merge->ngone, nnext)));
}

/*
 * day_number returns how a day is stored.
 */
static uint64
day_number(DateADT day)
{
	if (day < ROLLUP_FIRST_DAY || day >= ROLLUP_FIRST_DAY + ROLLUP_FIRST_DAYS)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("no such business day"),
				 errdetail("It is %d days from 2000-01-01.", day)));
	return (uint64) (day - ROLLUP_FIRST_DAY);
}

/*
 * merge_stored walks over the stored blocks, in an SPI connection. One is merged when the next one is known, where the ids
 * that belong to it end.
 */
static void
merge_stored(FirstMerge *merge)
{
	StoredBlock block = {NULL, NULL};
	MemoryContext old = MemoryContextSwitchTo(merge->context);
	Portal portal;

	(void) ecstats_rollup_list_next(&merge->users);
	portal = SPI_cursor_open_with_args(
		NULL, "SELECT first_user, packed FROM ecstats.first_seen_block ORDER BY first_user", 0,
		NULL, NULL, NULL, true, CURSOR_OPT_NO_SCROLL);
	for (;;)
	{
		SPITupleTable *rows;
		uint64 nrows;
		uint64 i;

		SPI_cursor_fetch(portal, true, FETCH_BLOCKS);
		rows = SPI_tuptable; /* merging a block may fetch others */
		nrows = SPI_processed;
		if (nrows == 0)
			break;
		for (i = 0; i < nrows; i++)
		{
			bool null;
			text *first = DatumGetTextPCopy(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &null));

			if (block.first != NULL)
			{
				merge_block(merge, &block, first);
				pfree(block.first);
				pfree(block.packed);
			}
			block.first = first;
			block.packed =
				DatumGetByteaPCopy(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &null));
		}
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	if (block.first != NULL || merge->users.valid)
		merge_block(merge, block.first != NULL ? &block : NULL, NULL);
	MemoryContextSwitchTo(old);
}

/*
 * merge_block merges a stored block (NULL: there is none yet) with the day's users up to the next one
 * (NULL: there is none).
 */
static void
merge_block(FirstMerge *merge, const StoredBlock *stored, const text *upper)
{
	RollupBlockReader *reader = &merge->reader;
	bool more = false;

	CHECK_FOR_INTERRUPTS();
	merge->changed = false;
	merge->nheld = 0;
	resetStringInfo(&merge->bytes);
	ecstats_rollup_writer_reset(&merge->writer);
	if (stored != NULL)
	{
		ecstats_rollup_reader_open(reader, stored->packed, ROLLUP_NUMBER);
		more = ecstats_rollup_reader_next(reader);
		check_place(more && rollup_compare(reader->id, reader->length, VARDATA_ANY(stored->first),
										   VARSIZE_ANY_EXHDR(stored->first)) == 0);
	}
	while (more)
	{
		if (day_user_before(merge, reader->id, reader->length))
		{
			take_new(merge);
			continue;
		}
		if (merge->users.valid && rollup_compare(merge->users.reader.id, merge->users.reader.length,
												 reader->id, reader->length) == 0)
			take_known(merge);
		else
			take_gone(merge);
		more = ecstats_rollup_reader_next(reader);
	}
	check_place(stored == NULL || upper == NULL ||
				rollup_compare(reader->id, reader->length, VARDATA_ANY(upper),
							   VARSIZE_ANY_EXHDR(upper)) < 0);
	while (upper != NULL ? day_user_before(merge, VARDATA_ANY(upper), VARSIZE_ANY_EXHDR(upper))
						 : merge->users.valid)
		take_new(merge);

	if (!merge->changed)
		return;
	if (stored != NULL)
		put(merge, 'x', VARDATA_ANY(stored->first), VARSIZE_ANY_EXHDR(stored->first), -1, NULL);
	if (merge->writer.ids > 0)
		put(merge, 'b', merge->writer.first.data, merge->writer.first.len, merge->writer.ids,
			ecstats_rollup_writer_block(&merge->writer));
}

/*
 * check_place reports a stored block that is not where its ids belong: merged into it, a user would
 * be there twice.
 */
static void
check_place(bool in_place)
{
	if (!in_place)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a block of ecstats.first_seen_block is not where its ids belong"),
				 errdetail("Its first_user is not its first id, or it reaches beyond the next "
						   "block."),
				 errhint("SELECT ecstats.rollup_first_seen_anew() makes all of them anew from "
						 "the stored days.")));
}

/*
 * day_user_before tells whether there is a user of the day before this id.
 */
static bool
day_user_before(const FirstMerge *merge, const char *id, uint32 length)
{
	return merge->users.valid &&
		   rollup_compare(merge->users.reader.id, merge->users.reader.length, id, length) < 0;
}

/*
 * take_new takes a user of the day whom nobody knew.
 */
static void
take_new(FirstMerge *merge)
{
	change(merge);
	keep(merge, merge->users.reader.id, merge->users.reader.length, merge->number);
	day_of(merge, merge->number)->users++;
	(void) ecstats_rollup_list_next(&merge->users);
}

/*
 * take_known takes a user of the day who is known, perhaps since a later day only.
 */
static void
take_known(FirstMerge *merge)
{
	uint64 number = merge->reader.number;

	if (number > merge->number)
	{
		change(merge);
		day_of(merge, number)->changed = true;
		number = merge->number;
	}
	keep(merge, merge->reader.id, merge->reader.length, number);
	day_of(merge, number)->users++;
	(void) ecstats_rollup_list_next(&merge->users);
}

/*
 * take_gone takes a known user whom the day has not. Whose first day it was, and is no more, moves to
 * the next one, or is forgotten.
 */
static void
take_gone(FirstMerge *merge)
{
	uint64 number = merge->reader.number;
	bool stays = true;

	if (number == merge->number && is_gone(merge, &stays, &number))
	{
		change(merge);
		if (!stays)
			return;
		day_of(merge, number)->changed = true;
	}
	keep(merge, merge->reader.id, merge->reader.length, number);
	day_of(merge, number)->users++;
}

/*
 * is_gone tells whether the user at the reader is among those who are gone, and whether and where
 * there is a next day.
 */
static bool
is_gone(FirstMerge *merge, bool *stays, uint64 *next)
{
	for (; merge->at_gone < merge->ngone; merge->at_gone++)
	{
		const struct varlena *user =
			(const struct varlena *) DatumGetPointer(merge->gone[merge->at_gone]);
		int order = rollup_compare(VARDATA_ANY(user), VARSIZE_ANY_EXHDR(user), merge->reader.id,
								   merge->reader.length);

		if (order > 0)
			return false;
		if (order < 0)
			continue;
		*stays = !merge->next_nulls[merge->at_gone];
		if (*stays)
			*next = day_number(DatumGetDateADT(merge->next[merge->at_gone]));
		return true;
	}
	return false;
}

/*
 * day_of returns the count of a day.
 */
static FirstDay *
day_of(FirstMerge *merge, uint64 number)
{
	uint32 max_days;

	if (number >= ROLLUP_FIRST_DAYS)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
						errdetail("A first day is out of range.")));
	if (number >= merge->max_days)
	{
		max_days = Min(ROLLUP_FIRST_DAYS, ((uint32) number / 1024 + 1) * 1024);
		merge->days = merge->days == NULL ? palloc(max_days * sizeof(FirstDay))
										  : repalloc(merge->days, max_days * sizeof(FirstDay));
		memset(merge->days + merge->max_days, 0, (max_days - merge->max_days) * sizeof(FirstDay));
		merge->max_days = max_days;
	}
	return &merge->days[number];
}

/*
 * change notes that the block at hand is not the stored one; what was held back is written.
 */
static void
change(FirstMerge *merge)
{
	uint32 i;

	if (merge->changed || !merge->with_blocks)
		return;
	merge->changed = true;
	for (i = 0; i < merge->nheld; i++)
		write_id(merge, merge->bytes.data + merge->held[i].offset, merge->held[i].length,
				 merge->held[i].number);
}

/*
 * keep takes an id into the block at hand.
 */
static void
keep(FirstMerge *merge, const char *id, uint32 length, uint64 number)
{
	if (!merge->with_blocks)
		return;
	if (merge->changed)
	{
		write_id(merge, id, length, number);
		return;
	}
	if (merge->nheld == merge->max_held)
	{
		merge->max_held = Max(256, merge->max_held * 2);
		merge->held = merge->held == NULL ? palloc(merge->max_held * sizeof(HeldId))
										  : repalloc(merge->held, merge->max_held * sizeof(HeldId));
	}
	merge->held[merge->nheld].offset = merge->bytes.len;
	merge->held[merge->nheld].length = length;
	merge->held[merge->nheld++].number = number;
	appendBinaryStringInfo(&merge->bytes, id, (int) length);
}

/*
 * write_id writes an id, into a new block where one ends.
 */
static void
write_id(FirstMerge *merge, const char *id, uint32 length, uint64 number)
{
	RollupBlockWriter *writer = &merge->writer;

	if (ecstats_rollup_writer_ends(writer, id, length))
	{
		put(merge, 'b', writer->first.data, writer->first.len, writer->ids,
			ecstats_rollup_writer_block(writer));
		ecstats_rollup_writer_reset(writer);
	}
	ecstats_rollup_writer_number(writer, id, length, number);
}

/*
 * put returns a block that is to be stored ('b') or the key of one that is not any more ('x').
 */
static void
put(FirstMerge *merge, char kind, const char *first, uint32 length, int64 users, bytea *packed)
{
	Datum values[RESULT_COLUMNS] = {0};
	bool nulls[RESULT_COLUMNS] = {false};
	text *id = cstring_to_text_with_len(first, (int) length);

	values[RESULT_KIND] = CharGetDatum(kind);
	nulls[RESULT_DAY] = true;
	values[RESULT_USERS] = Int64GetDatum(users);
	nulls[RESULT_USERS] = users < 0;
	values[RESULT_FIRST] = PointerGetDatum(id);
	values[RESULT_PACKED] = PointerGetDatum(packed);
	nulls[RESULT_PACKED] = packed == NULL;
	ecstats_rows_add(&merge->result, values, nulls);
	pfree(id);
}

/*
 * put_days returns how many users were seen first on the merged day and on the days that it changed.
 */
static void
put_days(FirstMerge *merge)
{
	Datum values[RESULT_COLUMNS] = {0};
	bool nulls[RESULT_COLUMNS] = {false, false, false, true, true};
	uint32 i;

	merge->days[merge->number].changed = true;
	values[RESULT_KIND] = CharGetDatum('d');
	for (i = 0; i < merge->max_days; i++)
	{
		if (!merge->days[i].changed)
			continue;
		values[RESULT_DAY] = DateADTGetDatum((DateADT) i + ROLLUP_FIRST_DAY);
		values[RESULT_USERS] = Int64GetDatum(merge->days[i].users);
		ecstats_rows_add(&merge->result, values, nulls);
	}
}
