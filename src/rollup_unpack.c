/*
 * rollup_unpack.c
 *		Blocks for SQL: as rows, and which users of some are among others.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "ecstats.h"
#include "rollup.h"
#include "rollup_block.h"

PG_FUNCTION_INFO_V1(ecstats_rollup_users_unpack);
PG_FUNCTION_INFO_V1(ecstats_rollup_ids_unpack);
PG_FUNCTION_INFO_V1(ecstats_rollup_gone);
PG_FUNCTION_INFO_V1(ecstats_rollup_among);
PG_FUNCTION_INFO_V1(ecstats_rollup_without);

static text *id_text(const RollupBlockReader *reader);
static void append_text(ArrayBuildState **to, const RollupBlockReader *reader);
static int compare_to(const RollupBlockList *list, const char *bytes, uint32 length);

/*
 * ecstats_rollup_users_unpack(packed bytea) returns a row for each user and event of a block.
 */
Datum
ecstats_rollup_users_unpack(PG_FUNCTION_ARGS)
{
	RollupBlockReader reader;
	EcstatsRows result;
	bool nulls[3] = {false, false, false};
	Datum values[3];
	text *id;
	int n;
	int i;

	ecstats_rollup_reader_init(&reader);
	ecstats_rollup_reader_open(&reader, PG_GETARG_BYTEA_PP(0), ROLLUP_COUNTS);
	result = ecstats_rows_begin(fcinfo);
	while (ecstats_rollup_reader_next(&reader))
	{
		id = id_text(&reader);
		values[0] = PointerGetDatum(id);
		n = ecstats_rollup_reader_counts(&reader);
		for (i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			values[1] = Int32GetDatum((int32) reader.counts[i].event);
			values[2] = Int64GetDatum(reader.counts[i].count);
			ecstats_rows_add(&result, values, nulls);
		}
		pfree(id);
	}
	return (Datum) 0;
}

/*
 * ecstats_rollup_ids_unpack(packed bytea) returns a row for each id of a block of numbers.
 */
Datum
ecstats_rollup_ids_unpack(PG_FUNCTION_ARGS)
{
	RollupBlockReader reader;
	EcstatsRows result;
	bool nulls[2] = {false, false};
	Datum values[2];
	text *id;

	ecstats_rollup_reader_init(&reader);
	ecstats_rollup_reader_open(&reader, PG_GETARG_BYTEA_PP(0), ROLLUP_NUMBER);
	result = ecstats_rows_begin(fcinfo);
	while (ecstats_rollup_reader_next(&reader))
	{
		CHECK_FOR_INTERRUPTS();
		id = id_text(&reader);
		values[0] = PointerGetDatum(id);
		values[1] = Int64GetDatum((int64) reader.number);
		ecstats_rows_add(&result, values, nulls);
		pfree(id);
	}
	return (Datum) 0;
}

/*
 * ecstats_rollup_gone(old bytea[], new bytea[]) returns the users of old blocks that new ones have
 * not, ascending.
 */
Datum
ecstats_rollup_gone(PG_FUNCTION_ARGS)
{
	ArrayBuildState *gone = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	RollupBlockList old;
	RollupBlockList new;

	ecstats_rollup_list_open(&old, PG_GETARG_ARRAYTYPE_P(0), ROLLUP_COUNTS);
	ecstats_rollup_list_open(&new, PG_GETARG_ARRAYTYPE_P(1), ROLLUP_COUNTS);
	(void) ecstats_rollup_list_next(&new);
	while (ecstats_rollup_list_next(&old))
	{
		while (new.valid && compare_to(&new, old.reader.id, old.reader.length) < 0)
			(void) ecstats_rollup_list_next(&new);
		if (!new.valid || compare_to(&new, old.reader.id, old.reader.length) > 0)
			append_text(&gone, &old.reader);
	}
	PG_RETURN_DATUM(makeArrayResult(gone, CurrentMemoryContext));
}

/*
 * ecstats_rollup_among(users text[], blocks bytea[]) returns those of the users that blocks have.
 * Both are ascending.
 */
Datum
ecstats_rollup_among(PG_FUNCTION_ARGS)
{
	ArrayBuildState *found = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	RollupBlockList list;
	Datum *users;
	int nusers;
	int i = 0;

	ecstats_rollup_texts(PG_GETARG_ARRAYTYPE_P(0), "users", &users, &nusers);
	ecstats_rollup_list_open(&list, PG_GETARG_ARRAYTYPE_P(1), ROLLUP_COUNTS);
	while (i < nusers && ecstats_rollup_list_next(&list))
	{
		int order = -1;

		while (i < nusers)
		{
			const struct varlena *user = (const struct varlena *) DatumGetPointer(users[i]);

			order = compare_to(&list, VARDATA_ANY(user), VARSIZE_ANY_EXHDR(user));
			if (order <= 0)
				break;
			i++;
		}
		if (i < nusers && order == 0)
			append_text(&found, &list.reader);
	}
	PG_RETURN_DATUM(makeArrayResult(found, CurrentMemoryContext));
}

/*
 * ecstats_rollup_without(users text[], found text[]) returns the users that are not among the found
 * ones. Both are ascending.
 */
Datum
ecstats_rollup_without(PG_FUNCTION_ARGS)
{
	ArrayBuildState *left = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	Datum *users;
	Datum *found;
	int nusers;
	int nfound;
	int i;
	int j = 0;

	ecstats_rollup_texts(PG_GETARG_ARRAYTYPE_P(0), "users", &users, &nusers);
	ecstats_rollup_texts(PG_GETARG_ARRAYTYPE_P(1), "found", &found, &nfound);
	for (i = 0; i < nusers; i++)
	{
		const struct varlena *user = (const struct varlena *) DatumGetPointer(users[i]);
		int order = 1;

		for (; j < nfound; j++)
		{
			const struct varlena *other = (const struct varlena *) DatumGetPointer(found[j]);

			order = rollup_compare(VARDATA_ANY(other), VARSIZE_ANY_EXHDR(other), VARDATA_ANY(user),
								   VARSIZE_ANY_EXHDR(user));
			if (order >= 0)
				break;
		}
		if (order != 0 || j == nfound)
			left = accumArrayResult(left, users[i], false, TEXTOID, CurrentMemoryContext);
	}
	PG_RETURN_DATUM(makeArrayResult(left, CurrentMemoryContext));
}

/*
 * id_text returns the id at a reader. A block is anybody's bytes here, and a text is trusted.
 */
static text *
id_text(const RollupBlockReader *reader)
{
	if (!pg_verify_mbstr(GetDatabaseEncoding(), reader->id, (int) reader->length, true))
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("a block of the rollup is corrupt"),
						errdetail("Id %u is not valid in this database's encoding.", reader->ids)));
	return cstring_to_text_with_len(reader->id, (int) reader->length);
}

/*
 * append_text appends the id at a reader to an array.
 */
static void
append_text(ArrayBuildState **to, const RollupBlockReader *reader)
{
	text *id = id_text(reader);

	*to = accumArrayResult(*to, PointerGetDatum(id), false, TEXTOID, CurrentMemoryContext);
	pfree(id);
}

/*
 * compare_to orders the id at a list to a string.
 */
static int
compare_to(const RollupBlockList *list, const char *bytes, uint32 length)
{
	return rollup_compare(list->reader.id, list->reader.length, bytes, length);
}
