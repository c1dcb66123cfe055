#!/usr/bin/python3
"""Business days that are not the clock's days: the shared files by days that begin at 04:00, in three zones each, and
made-up rows around London's days of 23 and 25 hours. Every figure is counted here, from the instants of the rows."""
import collections
import csv
import datetime
import decimal
import io
import os
import sys
import zoneinfo

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from oracle import DATA, Database, check, finish, number  # noqa: E402
import load_shared  # noqa: E402

UTC = datetime.timezone.utc
MINUTE, HOUR, DAY = datetime.timedelta(minutes=1), datetime.timedelta(hours=1), datetime.timedelta(days=1)
EVENT_COLUMNS = ("event_count", "pv", "uv", "new_user_count")
ORDER_COLUMNS = ("gmv", "order_count", "quantity", "buyer_count", "paid_amount", "paid_order_count", "payer_count", "refund_amount",
                 "refund_order_count", "net_amount")
FUNNEL = ("view_item", "add_to_cart", "begin_checkout", "purchase")


class Days:
    """Business days as ranges of instants. Where a day begins is looked for minute by minute, on the clock of the wall: the
    first instant at which it shows the start or, where it skips that, anything later."""

    def __init__(self, zone, starts):
        self.zone, self.starts, self.begins, self.cache = zoneinfo.ZoneInfo(zone), starts, {}, {}

    def start(self, day):
        if day not in self.begins:
            wall = datetime.datetime.combine(day, self.starts)
            instant = wall.replace(tzinfo=UTC) - 15 * HOUR
            while instant.astimezone(self.zone).replace(tzinfo=None) < wall:
                instant += MINUTE
            self.begins[day] = instant
        return self.begins[day]

    def of(self, instant):
        key = instant.replace(second=0, microsecond=0)
        if key not in self.cache:
            day = instant.astimezone(self.zone).date() + DAY
            while self.start(day) > instant:
                day -= DAY
            self.cache[key] = str(day)
        return self.cache[key]


def count_events(days, rows):
    """rows: (instant, user, event). {day: figures}, {(day, event): (events, users)}, {(day, step): users}"""
    users, names = collections.defaultdict(lambda: collections.defaultdict(set)), collections.Counter()
    first = {}
    for instant, user, event in rows:
        day = days.of(instant)
        users[day][user].add(event)
        names[day, event] += 1
        first[user] = min(first.get(user, day), day)
    kpi = {day: {"event_count": sum(n for (d, _), n in names.items() if d == day),
                 "pv": sum(names[day, name] for name in ("page_view", "view_item")), "uv": len(seen),
                 "new_user_count": sum(first[user] == day for user in seen)} for day, seen in users.items()}
    by_name = {key: (n, sum(key[1] in did for did in users[key[0]].values())) for key, n in names.items()}
    funnel = {(day, str(step + 1)): sum(all(name in did for name in FUNNEL[:step + 1]) for did in seen.values())
              for day, seen in users.items() for step in range(len(FUNNEL))}
    return kpi, by_name, funnel


def count_orders(days, rows):
    """rows: dictionaries of order lines with instants. {day: figures}, {(day, product, region, channel): figures}"""
    lines, paid = collections.defaultdict(list), collections.defaultdict(list)
    for row in rows:
        lines[days.of(row["order_time"])].append(row)
        if row["paid_time"] and row["quantity"] > 0:
            paid[days.of(row["paid_time"])].append(row)

    def total(rows):
        return sum((row["amount"] for row in rows), decimal.Decimal(0))

    def distinct(rows, column):
        return len({row[column] for row in rows} - {None})
    kpi, sales = {}, {}
    for day in set(lines) | set(paid):
        sold, back = [row for row in lines[day] if row["quantity"] > 0], [row for row in lines[day] if row["quantity"] < 0]
        kpi[day] = {"gmv": total(sold), "order_count": distinct(sold, "order_id"), "quantity": sum(row["quantity"] for row in sold),
                    "buyer_count": distinct(sold, "user_id"), "paid_amount": total(paid[day]), "paid_order_count": distinct(paid[day], "order_id"),
                    "payer_count": distinct(paid[day], "user_id"), "refund_amount": -total(back), "refund_order_count": distinct(back, "order_id"),
                    "net_amount": total(paid[day]) + total(back)}
        groups = collections.defaultdict(list)
        for row in lines[day]:
            groups[day, row["product_id"], row["region"], row["channel"]].append(row)
        for key, group in groups.items():
            here = [row for row in group if row["quantity"] > 0]
            sales[key] = {"total_sold": sum(row["quantity"] for row in here), "total_revenue": total(here), "order_count": distinct(here, "order_id"),
                          "buyer_count": distinct(here, "user_id"), "refund_amount": total(here) - total(group)}
    return kpi, sales


def hold(text, want, got):
    """{key: figures} against {key: figures}: what is stored is what was counted."""
    wrong = ["%s: stored %s, counted %s" % (key, got.get(key), want.get(key)) for key in sorted(set(want) | set(got), key=str) if want.get(key) != got.get(key)]
    check(want and not wrong, "%s: %d rows" % (text, len(want)), wrong)


def stored(db, query, keys, columns):
    return {row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys): {column: number(row[column]) for column in columns} for row in db.rows(query)}


def hold_events(db, text, days, rows):
    kpi, by_name, funnel = count_events(days, rows)
    hold(text + ", daily_kpi", kpi, stored(db, "SELECT * FROM ecstats.daily_kpi WHERE event_count > 0", ["day"], EVENT_COLUMNS))
    hold(text + ", daily_events", by_name, {key: tuple(row.values()) for key, row in stored(
        db, "SELECT * FROM ecstats.daily_events", ["day", "event"], ["event_count", "user_count"]).items()})
    hold(text + ", daily_funnel", funnel, {key: row["user_count"] for key, row in stored(
        db, "SELECT f.* FROM ecstats.daily_funnel f JOIN ecstats.daily_kpi k USING (day) WHERE k.event_count > 0", ["day", "step"], ["user_count"]).items()})


def hold_orders(db, text, days, rows):
    kpi, sales = count_orders(days, rows)
    hold(text + ", daily_kpi", kpi, stored(db, "SELECT * FROM ecstats.daily_kpi WHERE gmv > 0 OR paid_amount > 0 OR refund_order_count > 0", ["day"], ORDER_COLUMNS))
    hold(text + ", daily_sales", sales, stored(db, "SELECT * FROM ecstats.daily_sales", ["day", "product_id", "region", "channel"],
                                               ["total_sold", "total_revenue", "order_count", "buyer_count", "refund_amount"]))


def close(db):
    db.run("""SELECT ecstats_daily((SELECT max(ecstats_day(t)) FROM (SELECT max(event_time) FROM ecstats.events
               UNION ALL SELECT max(order_time) FROM ecstats.order_lines UNION ALL SELECT max(paid_time) FROM ecstats.order_lines) m(t)))""")


def instants():
    """Reads the files' stamps: "2011-03-27 01:30:00 Europe/London", or with an offset or UTC, as instants."""
    known = {}

    def instant(stamp):
        if stamp not in known:
            local, _, zone = stamp.rpartition(" ") if stamp.count(" ") == 2 else (stamp, "", "")
            at = datetime.datetime.fromisoformat(local)
            if at.tzinfo is None:
                at = at.replace(tzinfo=zoneinfo.ZoneInfo(zone or "UTC"))
            known[stamp] = at.astimezone(UTC)
        return known[stamp]
    return instant


# The shared files

def made_rows(kind, zone):
    pattern, _column, make = load_shared.KINDS[kind]
    return make(load_shared.rows_of(DATA, pattern), 0, zone)[0][2]


def shared(kind, zones, read_zone):
    rows, instant = made_rows(kind, read_zone), instants()
    if kind == "orders":
        rows = [dict(zip(load_shared.ORDER_COLUMNS, row)) for row in rows]
        for row in rows:
            row["order_time"], row["paid_time"] = instant(row["order_time"]), row["paid_time"] and instant(row["paid_time"])
    else:
        rows = [(instant(row[0]), row[1], row[2]) for row in rows]
    for zone in zones:
        with Database("day", zone) as db:
            db.run("UPDATE ecstats.config SET day_starts_at = '04:00'; SET timezone = 'UTC'")
            db.load(kind, read_zone=read_zone)
            close(db)
            (hold_orders if kind == "orders" else hold_events)(db, "%s in %s, days from 04:00" % (kind, zone), Days(zone, datetime.time(4)), rows)


# Days of 23 and 25 hours

def made_up(day):
    """Rows every ten minutes, and a second to each side of whole hours, for two days to each side of one."""
    at = datetime.datetime.combine(day, datetime.time(0), UTC) - 2 * DAY
    events, lines, n = [], [], 0
    while at < datetime.datetime.combine(day, datetime.time(0), UTC) + 3 * DAY:
        for shift in (-1, 0, 1) if at.minute == 0 else (0,):
            n += 1
            time = at + datetime.timedelta(seconds=shift)
            events.append((time, "u%d" % (n * n % 37), (FUNNEL + ("page_view", "login"))[n % 6]))
            lines.append({"order_id": "o%d" % (n // 3), "line_no": n, "order_time": time, "user_id": None if n % 7 == 0 else "u%d" % (n % 23), "product_id": "p%d" % (n % 3),
                          "region": "north" if n % 2 else "south", "channel": "web", "quantity": -1 if n % 5 == 0 else n % 4 + 1,
                          "amount": decimal.Decimal(n * (-1 if n % 5 == 0 else 1)) / 100, "status": "placed",
                          "paid_time": None if n % 5 == 0 else time + (n % 30) * HOUR})
        at += 10 * MINUTE
    return events, lines


def copied(table, columns, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return "COPY %s (%s) FROM STDIN (FORMAT csv);\n%s\\.\n" % (table, columns, text.getvalue())


def london(day, hours):
    events, lines = made_up(day)
    for starts in (datetime.time(0), datetime.time(1, 30), datetime.time(4)):
        days = Days("Europe/London", starts)
        text = "London's %s, from %s" % (day, starts.strftime("%H:%M"))
        with Database("london_day", "Europe/London") as db:
            db.run("UPDATE ecstats.config SET day_starts_at = '%s'" % starts)
            db.run("SELECT ecstats_prepare('%s', '%s');" % (day - DAY, day + DAY)        # the others in the default partition
                   + copied("ecstats.events", "event_time, user_id, event", events)
                   + copied("ecstats.order_lines", ", ".join(lines[0]), [line.values() for line in lines]))
            got = {row["day"]: number(row["minutes"]) for row in db.rows("""
                SELECT d::date AS day, extract(epoch FROM ecstats.day_start(d::date + 1) - ecstats.day_start(d::date)) / 60 AS minutes
                  FROM generate_series(date '%s', '%s', '1 day') d""" % (day - DAY, day + DAY))}
            want = {str(d): (days.start(d + DAY) - days.start(d)) // MINUTE for d in (day - DAY, day, day + DAY)}
            # From 04:00 on it is the day before that has an hour less or more; where 01:30 is skipped, both have half of it.
            short = {datetime.time(1, 30): [23 * 60 + 30] * 2}.get(starts) if hours == 23 else None
            check(got == want and sorted(m for m in want.values() if m != 24 * 60) == (short or [hours * 60]), text + ": as long as it is on the wall",
                  ["%s, expected %s" % (got, want)])
            close(db)
            hold_events(db, text + ": events", days, events)
            hold_orders(db, text + ": orders", days, lines)


london(datetime.date(2011, 3, 27), 23)
london(datetime.date(2011, 10, 30), 25)
if os.path.isdir(DATA):
    shared("orders", ("Europe/London", "Asia/Shanghai", "America/New_York"), "Europe/London")
    shared("rees46", ("UTC", "America/New_York", "Atlantic/South_Georgia"), "UTC")
    shared("zozo", ("UTC", "Asia/Tokyo", "America/New_York"), "UTC")
    shared("tmall", ("America/Los_Angeles",), "Asia/Shanghai")     # its stamps have a day alone, loaded as noon
else:
    print("skip day_oracle: there are no shared data at " + DATA)
finish()
