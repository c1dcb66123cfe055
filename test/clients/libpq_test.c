/*
 * libpq_test.c
 *		An app in C: binary COPY, prepared statements and transactions through libpq alone.
 *
 * PGHOST, PGPORT, PGUSER and PGDATABASE say where. Prints "ok - …" and "not ok - …" lines.
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

#define N_EVENTS			2000
#define POSTGRES_EPOCH_UNIX INT64_C(946684800)
#define NOON				((INT64_C(1740801600) - POSTGRES_EPOCH_UNIX) * 1000000) /* 2025-03-01 12:00 +08 */
#define TEXT_MAX			256

static int failed = 0;

/* The bytes of one COPY. */
typedef struct Wire
{
	char *data;
	size_t used;
	size_t size;
} Wire;

/*
 * ok prints a result line.
 */
static void
ok(bool good, const char *text, const char *got)
{
	printf("%s - clients: libpq: %s\n", good ? "ok" : "not ok", text);
	if (!good)
	{
		failed = 1;
		printf("#   got: %s\n", got ? got : "nothing");
	}
}

/*
 * put_bytes appends bytes.
 */
static void
put_bytes(Wire *wire, const void *bytes, size_t n)
{
	if (wire->used + n > wire->size)
	{
		wire->size = (wire->used + n) * 2;
		wire->data = realloc(wire->data, wire->size);
		if (wire->data == NULL)
			exit(2);
	}
	memcpy(wire->data + wire->used, bytes, n);
	wire->used += n;
}

/*
 * put_int16 and its like append a number in network order; put_field a length and its bytes.
 */
static void
put_int16(Wire *wire, int value)
{
	uint16_t n = htons((uint16_t) value);

	put_bytes(wire, &n, sizeof(n));
}

static void
put_int32(Wire *wire, int32_t value)
{
	uint32_t n = htonl((uint32_t) value);

	put_bytes(wire, &n, sizeof(n));
}

static void
put_field(Wire *wire, const void *bytes, size_t n)
{
	put_int32(wire, (int32_t) n);
	put_bytes(wire, bytes, n);
}

static void
put_text(Wire *wire, const char *s)
{
	put_field(wire, s, strlen(s));
}

static void
put_time(Wire *wire, int64_t microseconds)
{
	put_int32(wire, 8);
	put_int32(wire, (int32_t) (microseconds >> 32));
	put_int32(wire, (int32_t) (microseconds & 0xffffffff));
}

/*
 * put_jsonb appends a document: version 1, then its text.
 */
static void
put_jsonb(Wire *wire, const char *s)
{
	put_int32(wire, (int32_t) strlen(s) + 1);
	put_bytes(wire, "\x01", 1);
	put_bytes(wire, s, strlen(s));
}

/*
 * put_money appends a numeric of two decimals: digits of base 10000, their weight, sign and scale.
 */
static void
put_money(Wire *wire, int whole, int cents, bool negative)
{
	put_int32(wire, 12);
	put_int16(wire, 2);
	put_int16(wire, 0);
	put_int16(wire, negative ? 0x4000 : 0);
	put_int16(wire, 2);
	put_int16(wire, whole);
	put_int16(wire, cents * 100);
}

/*
 * put_event appends the row of an event; its id is made of n.
 */
static void
put_event(Wire *wire, const char *user, const char *event, int n)
{
	char id[16] = {0};
	char extra[TEXT_MAX];
	uint32_t number = htonl((uint32_t) n);

	memcpy(id + 12, &number, sizeof(number));
	snprintf(extra, sizeof(extra), "{\"n\": %d, \"词\": \"😀\"}", n);
	put_int16(wire, 6);
	put_time(wire, NOON + n * INT64_C(1000));
	put_text(wire, user);
	put_text(wire, event);
	put_field(wire, id, sizeof(id));
	put_int32(wire, -1);
	put_jsonb(wire, extra);
}

/*
 * copy_begin and copy_end send a COPY in binary; copy_end returns the server's answer, which the caller clears.
 */
static void
copy_begin(PGconn *conn, const char *statement, Wire *wire)
{
	PGresult *result = PQexec(conn, statement);

	if (PQresultStatus(result) != PGRES_COPY_IN)
		ok(false, statement, PQerrorMessage(conn));
	PQclear(result);
	wire->used = 0;
	put_bytes(wire, "PGCOPY\n\377\r\n\0", 11);
	put_int32(wire, 0);
	put_int32(wire, 0);
}

static PGresult *
copy_end(PGconn *conn, Wire *wire)
{
	PGresult *result;
	PGresult *next;

	put_int16(wire, -1);
	if (PQputCopyData(conn, wire->data, (int) wire->used) != 1 || PQputCopyEnd(conn, NULL) != 1)
		ok(false, "COPY is sent", PQerrorMessage(conn));
	result = PQgetResult(conn);
	while ((next = PQgetResult(conn)) != NULL)
		PQclear(next);
	return result;
}

/*
 * answers tells whether a query's first value is what is expected.
 */
static void
answers(PGconn *conn, const char *query, const char *expected, const char *text)
{
	PGresult *result = PQexec(conn, query);

	ok(PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), expected) == 0, text,
	   PQntuples(result) == 1 ? PQgetvalue(result, 0, 0) : PQerrorMessage(conn));
	PQclear(result);
}

/*
 * done runs a statement that must succeed.
 */
static void
done(PGconn *conn, const char *statement)
{
	PGresult *result = PQexec(conn, statement);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		ok(false, statement, PQerrorMessage(conn));
	PQclear(result);
}

/*
 * field_is holds one field of an error against what is expected, or its beginning.
 */
static void
field_is(const PGresult *result, int field, const char *expected, const char *text)
{
	const char *value = PQresultErrorField(result, field);

	ok(value != NULL && strncmp(value, expected, strlen(expected)) == 0, text, value);
}

/*
 * copy_events: a binary COPY of events, and what it leaves.
 */
static void
copy_events(PGconn *conn, Wire *wire)
{
	PGresult *result;
	int n;

	copy_begin(conn,
			   "COPY ecstats.events (event_time, user_id, event, event_id, page_url, extra) FROM "
			   "STDIN (FORMAT binary)",
			   wire);
	for (n = 0; n < N_EVENTS; n++)
		put_event(wire, "libpq 用户 🛒", "view_item", n);
	result = copy_end(conn, wire);
	ok(PQresultStatus(result) == PGRES_COMMAND_OK && strcmp(PQcmdTuples(result), "2000") == 0,
	   "a binary COPY of 2,000 events", PQresultErrorMessage(result));
	PQclear(result);
	answers(conn,
			"SELECT count(*) = 2000 AND sum((extra->>'n')::int) = 1999000 AND "
			"bool_and(extra->>'词' = '😀' AND page_url IS NULL)"
			" AND min(event_time) = '2025-03-01 12:00+08' AND max(event_time) = '2025-03-01 "
			"12:00:01.999+08' AND count(DISTINCT event_id) = 2000"
			" FROM ecstats.events WHERE user_id = 'libpq 用户 🛒'",
			"t", "they read back as they were written");
}

/*
 * copy_bad: one bad row of three, and every field of its error.
 */
static void
copy_bad(PGconn *conn, Wire *wire)
{
	PGresult *result;

	copy_begin(conn,
			   "COPY ecstats.events (event_time, user_id, event, event_id, page_url, extra) FROM "
			   "STDIN (FORMAT binary)",
			   wire);
	put_event(wire, "libpq bad", "click", 1);
	put_event(wire, "libpq bad", "cl\tick", 2);
	put_event(wire, "libpq bad", "click", 3);
	result = copy_end(conn, wire);
	field_is(result, PG_DIAG_SQLSTATE, "23514", "a bad row of a COPY is SQLSTATE 23514");
	field_is(result, PG_DIAG_SCHEMA_NAME, "ecstats", "its schema is named");
	field_is(result, PG_DIAG_TABLE_NAME, "events", "its table is named");
	field_is(result, PG_DIAG_COLUMN_NAME, "event", "its column is named");
	field_is(result, PG_DIAG_CONSTRAINT_NAME, "events_valid", "its constraint is named");
	field_is(result, PG_DIAG_MESSAGE_PRIMARY, "event has a control character at byte 3",
			 "the message says what is wrong");
	field_is(result, PG_DIAG_MESSAGE_DETAIL, "Value: \"cl\\x09ick\".",
			 "the value is in DETAIL, escaped");
	field_is(result, PG_DIAG_MESSAGE_HINT, "Remove control characters", "what to do is in HINT");
	field_is(result, PG_DIAG_CONTEXT, "COPY events, line 2", "the row's number is in CONTEXT");
	PQclear(result);
	answers(conn, "SELECT count(*) FROM ecstats.events WHERE user_id = 'libpq bad'", "0",
			"nothing of it is stored");
}

/*
 * put_line appends the row of an order line.
 */
static void
put_line(Wire *wire, const char *order, int line, int quantity, int whole, int cents)
{
	put_int16(wire, 8);
	put_text(wire, order);
	put_int32(wire, 4);
	put_int32(wire, line);
	put_time(wire, NOON);
	put_text(wire, "p1");
	put_int32(wire, 4);
	put_int32(wire, quantity);
	put_money(wire, whole, cents, quantity < 0);
	put_time(wire, NOON + 1);
	put_jsonb(wire, "{}");
}

/*
 * copy_lines: a binary COPY of order lines within a transaction, rolled back and again.
 */
static void
copy_lines(PGconn *conn, Wire *wire)
{
	const char *statement = "COPY ecstats.order_lines (order_id, line_no, order_time, product_id, "
							"quantity, amount, paid_time, extra) FROM STDIN (FORMAT binary)";
	PGresult *result;
	int round;

	for (round = 0; round < 2; round++)
	{
		done(conn, "BEGIN");
		copy_begin(conn, statement, wire);
		put_line(wire, "libpq", 1, 2, 1999, 5);
		put_line(wire, "libpq", 2, -1, 4, 50);
		result = copy_end(conn, wire);
		ok(PQresultStatus(result) == PGRES_COMMAND_OK,
		   "a binary COPY of order lines in a transaction", PQresultErrorMessage(result));
		PQclear(result);
		done(conn, round == 0 ? "ROLLBACK" : "COMMIT");
		answers(conn,
				"SELECT coalesce(string_agg(format('%s %s %s %s %s', line_no, quantity, amount, "
				"paid_time - order_time, region), ', ' ORDER BY line_no), 'none')"
				" FROM ecstats.order_lines WHERE order_id = 'libpq'",
				round == 0
					? "none"
					: "1 2 1999.05 00:00:00.000001 unknown, 2 -1 -4.50 00:00:00.000001 unknown",
				round == 0 ? "a rollback leaves nothing" : "they read back as they were written");
	}
	copy_begin(conn, statement, wire);
	put_line(wire, "libpq bad", 1, 0, 1, 0);
	result = copy_end(conn, wire);
	field_is(result, PG_DIAG_SQLSTATE, "23514", "a bad order line is SQLSTATE 23514");
	field_is(result, PG_DIAG_COLUMN_NAME, "quantity", "its column is named");
	PQclear(result);
}

/*
 * prepared: a prepared INSERT … ON CONFLICT DO NOTHING, with binary results of a query.
 */
static void
prepared(PGconn *conn)
{
	const char *values[] = {"2025-03-01 13:00+08", "libpq prepared", "click",
							"00000000-0000-0000-0000-00000000000a", "{\"a\": 1}"};
	PGresult *result;
	int round;

	result = PQprepare(conn, "put",
					   "INSERT INTO ecstats.events (event_time, user_id, event, event_id, extra) "
					   "VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
					   0, NULL);
	ok(PQresultStatus(result) == PGRES_COMMAND_OK, "an INSERT is prepared", PQerrorMessage(conn));
	PQclear(result);
	for (round = 0; round < 2; round++)
	{
		result = PQexecPrepared(conn, "put", 5, values, NULL, NULL, 0);
		ok(strcmp(PQcmdTuples(result), round == 0 ? "1" : "0") == 0,
		   round == 0 ? "it stores an event" : "ON CONFLICT DO NOTHING drops the repeat",
		   PQcmdTuples(result));
		PQclear(result);
	}
	values[2] = "";
	result = PQexecPrepared(conn, "put", 5, values, NULL, NULL, 0);
	field_is(result, PG_DIAG_COLUMN_NAME, "event", "its errors name the column");
	field_is(result, PG_DIAG_MESSAGE_PRIMARY, "event is empty", "and what is wrong");
	PQclear(result);

	result = PQexecParams(conn, "SELECT event_time, event FROM ecstats.events WHERE user_id = $1",
						  1, NULL, &values[1], NULL, NULL, 1);
	ok(PQntuples(result) == 1 && PQgetlength(result, 0, 0) == 8 &&
		   strcmp(PQgetvalue(result, 0, 1), "click") == 0 &&
		   ((int64_t) ntohl(*(uint32_t *) PQgetvalue(result, 0, 0)) << 32 |
			ntohl(*(uint32_t *) (PQgetvalue(result, 0, 0) + 4))) == NOON + INT64_C(3600000000),
	   "a binary result reads back", PQerrorMessage(conn));
	PQclear(result);
}

int
main(void)
{
	PGconn *conn = PQconnectdb("");
	Wire wire = {NULL, 0, 0};

	if (PQstatus(conn) != CONNECTION_OK)
	{
		ok(false, "it connects", PQerrorMessage(conn));
		return 1;
	}
	copy_events(conn, &wire);
	copy_bad(conn, &wire);
	copy_lines(conn, &wire);
	prepared(conn);
	free(wire.data);
	PQfinish(conn);
	return failed;
}
