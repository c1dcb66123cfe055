#!/usr/bin/python3
"""Loads one of the shared files into the database that psql connects to by itself.

    load_shared.py orders|tmall|rees46|zozo [--data DIR] [--read-zone ZONE] [--last-day DATE]

DIR is $ECSTATS_SHARED/data, or ../shared/data from the root of the project. Local times are read in
ZONE, config.timezone if left out. With --last-day all of it is moved by whole days so that the file's
last day is DATE. What becomes which row is in MAPPING.md beside the data; all of a file comes in or
nothing. Prints how many rows it wrote.
"""
import argparse
import csv
import datetime
import decimal
import glob
import gzip
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

ORDER_COLUMNS = ("order_id", "line_no", "order_time", "user_id", "product_id", "region", "channel",
                 "quantity", "amount", "status", "paid_time")
EVENT_COLUMNS = ("event_time", "user_id", "event", "extra")
REJECT_COLUMNS = ("source", "payload", "sqlstate", "reason")


def default_data():
    return os.path.join(os.environ.get("ECSTATS_SHARED", os.path.join(ROOT, os.pardir, "shared")), "data")


def rows_of(data, pattern):
    """The rows of the one file that fits, as dictionaries in file order."""
    found = sorted(glob.glob(os.path.join(data, pattern)))
    if len(found) != 1:
        sys.exit("load_shared: %d files %s in %s" % (len(found), pattern, data))
    with gzip.open(found[0], "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def moved(stamp, days):
    """A local time "YYYY-MM-DD…" so many days later."""
    if days == 0:
        return stamp
    return (datetime.date.fromisoformat(stamp[:10]) + datetime.timedelta(days)).isoformat() + stamp[10:]


def orders(rows, days, zone):
    """Sale and return lines, and what is neither as a reject."""
    lines, rejects, position = [], [], {}
    for row in rows:
        invoice = row["InvoiceNo"]
        position[invoice] = position.get(invoice, 0) + 1
        quantity, price = int(row["Quantity"]), decimal.Decimal(row["UnitPrice"])
        cancelled = invoice.startswith("C")
        if not cancelled and (quantity <= 0 or price <= 0):
            reason = "neither a sale nor a return: quantity %d at price %s" % (quantity, price)
            rejects.append(("order", json.dumps(row, ensure_ascii=False), "23514", reason))
            continue
        time = moved(row["InvoiceDate"], days) + " " + zone
        user = row["CustomerID"]
        lines.append((invoice, position[invoice], time, user[:-2] if user.endswith(".0") else user or None,
                      row["StockCode"], row["Country"], "online", quantity, quantity * price,
                      "returned" if cancelled else "paid", None if cancelled else time))
    return [("ecstats.order_lines", ORDER_COLUMNS, lines), ("ecstats.rejects", REJECT_COLUMNS, rejects)]


def tmall(rows, days, zone):
    names = {"0": "view_item", "1": "purchase", "2": "favorite", "3": "add_to_cart"}
    return [("ecstats.events", EVENT_COLUMNS,
             [(moved(row["event_date"], days) + " 12:00:00 " + zone, row["user_id"], names[row["type"]],
               json.dumps({"brand": row["brand_id"]})) for row in rows])]


def rees46(rows, days, _zone):
    names = {"view": "view_item", "cart": "add_to_cart", "purchase": "purchase"}
    kept = ("product_id", "category_id", "category_code", "brand", "price", "user_session")
    return [("ecstats.events", EVENT_COLUMNS,
             [(moved(row["event_time"], days), row["user_id"], names[row["event_type"]],
               json.dumps({key: row[key] for key in kept if row[key] != ""}, ensure_ascii=False))
              for row in rows])]


def zozo(rows, days, _zone):
    events = []
    for row in rows:
        time = moved(row["timestamp"], days)
        # Four whole hashes are 131 bytes, three more than a user_id may have.
        user = "|".join(row["user_feature_%d" % i][:31] for i in range(4))
        extra = json.dumps({"campaign": row["campaign"], "item": row["item_id"], "position": row["position"]})
        events.append((time, user, "view_item", extra))
        if row["click"] == "1":
            events.append((time, user, "add_to_cart", extra))
    return [("ecstats.events", EVENT_COLUMNS, events)]


# Kind: file, the column that says when, what makes rows of it.
KINDS = {
    "orders": ("orders_online_retail*.csv.gz", "InvoiceDate", orders),
    "tmall": ("events_tmall2013*.csv.gz", "event_date", tmall),
    "rees46": ("events_rees46*.csv.gz", "event_time", rees46),
    "zozo": ("events_zozo*.csv.gz", "timestamp", zozo),
}


def field(value):
    """A value in COPY's text format."""
    if value is None:
        return "\\N"
    text = str(value)
    for raw, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(raw, escaped)
    return text


def psql(script, *options):
    run = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *options], input=script,
                         capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit("load_shared: " + run.stderr.strip())
    return run.stdout.strip()


def copy(table, columns, rows):
    yield "COPY %s (%s) FROM STDIN;" % (table, ", ".join(columns))
    for row in rows:
        yield "\t".join(map(field, row))
    yield "\\."


def load(kind, data=None, read_zone=None, last_day=None):
    """Loads a kind and returns the first and the last day of the file, moved as asked."""
    pattern, column, make = KINDS[kind]
    rows = rows_of(data or default_data(), pattern)
    zone = read_zone or psql("SELECT timezone FROM ecstats.config")
    first, last = (edge(row[column][:10] for row in rows) for edge in (min, max))
    days = 0
    if last_day:
        days = (datetime.date.fromisoformat(last_day) - datetime.date.fromisoformat(last)).days
    tables = make(rows, days, zone)
    script = ["BEGIN;"]
    if tables[0][0] == "ecstats.events":
        script.append("SELECT ecstats_prepare('%s', '%s');" % (moved(first, days), moved(last, days)))
    for table in tables:
        script.extend(copy(*table))
    script.append("COMMIT;")
    psql("\n".join(script) + "\n")
    for table, _columns, made in tables:
        print("%s: %d rows into %s, %s to %s" % (kind, len(made), table, moved(first, days), moved(last, days)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--data")
    parser.add_argument("--read-zone")
    parser.add_argument("--last-day")
    options = parser.parse_args()
    load(options.kind, options.data, options.read_zone, options.last_day)


if __name__ == "__main__":
    main()
