#!/usr/bin/python3
"""An app in Python: events and orders through psycopg2 or psycopg 3, as their manuals show it, nothing else.

    psycopg_test.py psycopg2 | psycopg      PGHOST, PGPORT, PGUSER and PGDATABASE say where
"""
import datetime
import decimal
import importlib
import json
import sys
import uuid

NAME = sys.argv[1]
driver = importlib.import_module(NAME)
THREE = NAME == "psycopg"
SHOP = datetime.timezone(datetime.timedelta(hours=8))
NOON = datetime.datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=SHOP)
USER = NAME + " 用户 🛒"
ORDER = NAME + " order "
EVENT = "INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra) VALUES (%s, %s, %s, %s, %s, %s)"
LINE = ("INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, quantity, amount, paid_time)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)")
failed = 0


def ok(good, text, got=""):
    global failed
    print("%s - clients: %s: %s" % ("ok" if good else "not ok", NAME, text))
    if not good:
        failed = 1
        print("#   got: %r" % (got,))


def rows(connection, query, arguments=()):
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall()


def event(number, **change):
    values = {"event_time": NOON, "user_id": USER, "event": "view_item", "event_id": str(uuid.UUID(int=number)),
              "page_url": "/p?q=%s", "extra": json.dumps({"n": number, "词": "😀"})}
    values.update(change)
    return list(values.values())


def error_of(connection, query, arguments):
    """The error that a statement ends with; the transaction is rolled back."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, arguments)
    except driver.Error as error:
        if not connection.autocommit:
            connection.rollback()
        return error
    return None


def seen(error):
    """The fields that an app can branch on."""
    state = error.sqlstate if THREE else error.pgcode
    return (state, error.diag.schema_name, error.diag.table_name, error.diag.column_name, error.diag.constraint_name)


def in_transactions(connection):
    with connection.cursor() as cursor:
        cursor.execute(EVENT, event(1))
        cursor.execute(LINE, (ORDER + "t1", 1, NOON, USER, "p1", "上海", 2, decimal.Decimal("19.90"), NOON))
    connection.rollback()
    ok(rows(connection, "SELECT count(*) FROM ecstats.events WHERE user_id = %s", (USER,)) == [(0,)], "a rollback leaves nothing")
    with connection.cursor() as cursor:
        cursor.execute(EVENT, event(1))
        cursor.execute(LINE, (ORDER + "t1", 1, NOON, USER, "p1", "上海", 2, decimal.Decimal("19.90"), NOON))
    connection.commit()
    got = rows(connection, "SELECT event_time, event, event_id::text, page_url, extra FROM ecstats.events WHERE user_id = %s", (USER,))
    ok(got == [(NOON, "view_item", str(uuid.UUID(int=1)), "/p?q=%s", {"n": 1, "词": "😀"})], "an event reads back as it was written", got)
    got = rows(connection, "SELECT order_time, user_id, region, channel, quantity, amount, status, paid_time, extra FROM ecstats.order_lines WHERE order_id = %s", (ORDER + "t1",))
    ok(got == [(NOON, USER, "上海", "unknown", 2, decimal.Decimal("19.90"), "placed", NOON, {})], "an order line reads back, with its defaults", got)
    connection.rollback()


def errors(connection, mode):
    error = error_of(connection, EVENT, event(2, event="Bad Name"))
    ok(error is not None and isinstance(error, driver.errors.CheckViolation), mode + ": a bad event is a CheckViolation", error)
    ok(seen(error) == ("23514", "ecstats", "events", "event", "events_valid"), mode + ": SQLSTATE, table, column and constraint are there", seen(error))
    ok(error.diag.message_detail == 'Value: "Bad Name".', mode + ": the value is in DETAIL", error.diag.message_detail)
    ok((error.diag.message_hint or "").startswith("Event names are"), mode + ": what to do is in HINT", error.diag.message_hint)
    error = error_of(connection, LINE, (ORDER + "t2", 1, NOON, USER, "p1", "x", 1, decimal.Decimal("-5"), None))
    ok(error is not None and seen(error) == ("23514", "ecstats", "order_lines", "amount", "order_lines_valid"), mode + ": a bad order line names its column", error)
    error = error_of(connection, LINE, (ORDER + "t1", 1, NOON, USER, "p1", "x", 1, decimal.Decimal("5"), None))
    ok(isinstance(error, driver.errors.UniqueViolation), mode + ": a line that is there already is a UniqueViolation", error)
    got = rows(connection, "SELECT count(*) FROM ecstats.events WHERE user_id = %s", (USER,))
    ok(got == [(1,)], mode + ": the connection works on", got)


def savepoint(connection):
    with connection.cursor() as cursor:
        cursor.execute(LINE, (ORDER + "t3", 1, NOON, None, "p1", "x", 1, 1, None))
        cursor.execute("SAVEPOINT s")
        try:
            cursor.execute(LINE, (ORDER + "t3", 2, NOON, None, "p1", "x", 0, 1, None))
        except driver.errors.CheckViolation:
            cursor.execute("ROLLBACK TO s")
        cursor.execute(LINE, (ORDER + "t3", 3, NOON, None, "p1", "x", -1, -1, None))
    connection.commit()
    got = rows(connection, "SELECT line_no, user_id FROM ecstats.order_lines WHERE order_id = %s ORDER BY 1", (ORDER + "t3",))
    ok(got == [(1, None), (3, None)], "a savepoint survives a bad line", got)
    connection.rollback()


def many(connection):
    with connection.cursor() as cursor:
        cursor.executemany(EVENT + " ON CONFLICT DO NOTHING", [event(n) for n in range(1, 101)])
        cursor.executemany(EVENT + " ON CONFLICT DO NOTHING", [event(n) for n in range(1, 101)])
        again = cursor.rowcount
    ok(again == 0, "ON CONFLICT DO NOTHING drops repeats", again)
    got = rows(connection, "SELECT count(*), count(DISTINCT event_id) FROM ecstats.events WHERE user_id = %s", (USER,))
    ok(got == [(100, 100)], "a hundred events are there once", got)


def copied(connection):
    lines = "".join("%s\t%s\tclick\t{\"n\": %d}\n" % (NOON.isoformat(), USER + " copy", n) for n in range(1000))
    statement = "COPY ecstats.events (event_time, user_id, event, extra) FROM STDIN"
    with connection.cursor() as cursor:
        if THREE:
            with cursor.copy(statement) as copy:
                copy.write(lines)
        else:
            import io
            cursor.copy_expert(statement, io.StringIO(lines))
    got = rows(connection, "SELECT count(*), sum((extra->>'n')::int) FROM ecstats.events WHERE user_id = %s", (USER + " copy",))
    ok(got == [(1000, 499500)], "COPY from the app", got)


def prepared(connection):
    """psycopg 3 prepares by itself; with psycopg2 an app says PREPARE."""
    with connection.cursor() as cursor:
        if THREE:
            for n in range(200, 220):
                cursor.execute(EVENT, event(n), prepare=True)
            count = rows(connection, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT INTO ecstats.events%%'")
        else:
            cursor.execute("PREPARE put (timestamptz, text, text, uuid, text, jsonb) AS INSERT INTO ecstats.events"
                           " (event_time, user_id, event, event_id, page_url, extra) VALUES ($1, $2, $3, $4, $5, $6)")
            for n in range(200, 220):
                cursor.execute("EXECUTE put (%s, %s, %s, %s, %s, %s)", event(n))
            count = rows(connection, "SELECT count(*) FROM pg_prepared_statements WHERE name = 'put'")
    ok(count[0][0] >= 1, "the statement is prepared", count)
    got = rows(connection, "SELECT count(*) FROM ecstats.events WHERE user_id = %s AND event_id >= %s", (USER, str(uuid.UUID(int=200))))
    ok(got == [(20,)], "a prepared statement stores twenty events", got)


def typed(connection):
    """Values as the driver itself adapts them, sent in binary where it can."""
    if not THREE:
        return
    from psycopg.types.json import Jsonb
    with connection.cursor(binary=True) as cursor:
        cursor.execute(EVENT.replace("%s", "%b"), [NOON, USER, "click", uuid.UUID(int=300), None, Jsonb({"b": [1, None]})])
        cursor.execute(LINE.replace("%s", "%b"), (ORDER + "b1", 1, NOON, USER, "p1", "x", 3, decimal.Decimal("0.30"), None))
        cursor.execute("SELECT e.event_time, e.event_id, e.extra, l.amount FROM ecstats.events e, ecstats.order_lines l WHERE e.event_id = %b AND l.order_id = %b", (uuid.UUID(int=300), ORDER + "b1"))
        got = cursor.fetchall()
    ok(got == [(NOON, uuid.UUID(int=300), {"b": [1, None]}, decimal.Decimal("0.30"))], "binary parameters and results", got)
    with connection.pipeline():
        for n in range(310, 320):
            connection.execute(EVENT, event(n))
    got = rows(connection, "SELECT count(*) FROM ecstats.events WHERE user_id = %s AND event_id >= %s", (USER, str(uuid.UUID(int=310))))
    ok(got == [(10,)], "a pipeline of ten", got)


with_transactions = driver.connect("")
in_transactions(with_transactions)
errors(with_transactions, "in a transaction")
with_transactions.rollback()
savepoint(with_transactions)
with_transactions.close()
autocommit = driver.connect("")
autocommit.autocommit = True
errors(autocommit, "autocommit")
many(autocommit)
copied(autocommit)
prepared(autocommit)
typed(autocommit)
autocommit.close()
sys.exit(failed)
