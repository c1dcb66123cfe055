#!/usr/bin/python3
"""Some hundred random inserts, updates and deletes of events and orders, between closes, maintenance and retention; then
every stored figure is held against one counted here, or against what was stored when its rows were dropped.

  SEED=1 STEPS=300 test/oracle/random_changes.py"""
import collections
import datetime
import decimal
import os
import random
import sys
import zoneinfo

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from oracle import Database, check, finish, number  # noqa: E402

ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
STARTS = datetime.time(4)
FIRST = datetime.date(2025, 3, 17)      # the clocks change on March 30
DAYS = 24
LAST = FIRST + datetime.timedelta(DAYS - 1)
FUNNEL = ["page_view", "view_item", "add_to_cart", "begin_checkout", "purchase"]
NAMES = FUNNEL + ["login", "unheard_of"]
ABNORMAL = {"cancelled", "failed", "risk"}
EVENT_COLUMNS = ["event_count", "pv", "uv", "new_user_count"]

Event = collections.namedtuple("Event", "time user name id")
Line = collections.namedtuple("Line", "order no time user product region quantity amount status paid")


def day_of(time):
    """The business day by the shop's clock on the wall."""
    local = time.astimezone(ZONE)
    return local.date() - datetime.timedelta(0 if local.time() >= STARTS else 1)


def quoted(value):
    return "NULL" if value is None else "'%s'" % value


class Shop:
    """What is in the tables, as this test believes it to be."""

    def __init__(self, db, seed):
        self.db, self.random = db, random.Random(seed)
        self.events, self.late, self.lines = [], [], {}
        self.kept = {}              # day: what was counted from events when they were dropped
        self.frozen = {}            # day: its whole row
        self.orders_gone, self.detached, self.serial = set(), set(), 0
        self.statements, self.wrong, self.dropped = [], [], 0
        self.page_views = db.run("SELECT event FROM ecstats.event_types WHERE is_page_view").split()

    def do(self, statement):
        self.statements.append(statement + ";")

    def flush(self):
        self.db.run("\n".join(self.statements))
        self.statements = []

    def instant(self):
        """An instant of one of the days, often at the very border of one."""
        day = FIRST + datetime.timedelta(self.random.randrange(DAYS))
        local = datetime.datetime.combine(day, self.random.choice([STARTS, datetime.time(12), datetime.time(23, 59)]), ZONE)
        shift = self.random.choice([datetime.timedelta(0), datetime.timedelta(seconds=-1), datetime.timedelta(minutes=self.random.randrange(180))])
        time = local.astimezone(datetime.timezone.utc) + shift
        return min(max(time, datetime.datetime.combine(FIRST, STARTS, ZONE)), datetime.datetime.combine(LAST, datetime.time(23), ZONE))

    # Events

    def keep_event(self, event):
        (self.late if day_of(event.time) in self.kept else self.events).append(event)

    def new_event(self):
        self.serial += 1
        return Event(self.instant(), "u%d" % self.random.randrange(40), self.random.choice(NAMES), "%032d" % self.serial)

    def insert_events(self):
        for _ in range(self.random.randrange(1, 12)):
            event = self.new_event()
            if day_of(event.time) in self.detached:
                continue
            self.keep_event(event)
            if self.random.random() < 0.3:
                twice = self.random.choice([1, 2])
                for _ in range(twice):
                    self.do("SELECT ecstats_track('{\"event\": \"%s\", \"user_id\": \"%s\", \"timestamp\": \"%s\", \"event_id\": \"%s\"}')"
                            % (event.name, event.user, event.time.isoformat(), event.id))
            else:
                self.do("INSERT INTO ecstats.events (event_time, user_id, event, event_id) VALUES ('%s', '%s', '%s', '%s')"
                        % (event.time.isoformat(), event.user, event.name, event.id))

    def change_event(self):
        """Deletes one, corrects its name, or moves it to another time, perhaps to another day."""
        pool = self.events if self.events and self.random.random() < 0.8 else self.late
        pool = [event for event in pool if day_of(event.time) not in self.detached]
        if not pool:
            return
        event = self.random.choice(pool)
        (self.events if event in self.events else self.late).remove(event)
        how = self.random.random()
        if how < 0.4:
            self.do("DELETE FROM ecstats.events WHERE event_id = '%s'" % event.id)
            return
        new = event._replace(name=self.random.choice(NAMES)) if how < 0.7 else event._replace(time=self.instant())
        if day_of(new.time) in self.detached:
            new = event
        self.keep_event(new)
        self.do("UPDATE ecstats.events SET event = '%s', event_time = '%s' WHERE event_id = '%s'" % (new.name, new.time.isoformat(), event.id))

    # Orders

    def new_line(self):
        self.serial += 1
        back = self.random.random() < 0.2
        quantity = self.random.randrange(1, 5) * (-1 if back else 1)
        paid = None if back or self.random.random() < 0.3 else self.instant()
        return Line("o%d" % self.random.randrange(60), self.serial, self.instant(), self.random.choice([None] + ["u%d" % i for i in range(30)]),
                    "p%d" % self.random.randrange(4), self.random.choice(["north", "south"]), quantity,
                    abs(decimal.Decimal(self.random.randrange(1, 99999)) / 1000) * (-1 if back else 1),
                    self.random.choice(["placed", "cancelled", "risk", "done"]), paid)

    def insert_lines(self):
        for _ in range(self.random.randrange(1, 6)):
            line = self.new_line()
            self.lines[(line.order, line.no)] = line
            self.do("INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, quantity, amount, status, paid_time) VALUES ("
                    + ", ".join(quoted(v.isoformat() if isinstance(v, datetime.datetime) else v) for v in line) + ")")

    def change_line(self):
        if not self.lines:
            return
        key = self.random.choice(sorted(self.lines))
        line, how = self.lines[key], self.random.random()
        where = " WHERE order_id = '%s' AND line_no = %d" % key
        if how < 0.25:
            del self.lines[key]
            self.do("DELETE FROM ecstats.order_lines" + where)
            return
        if how < 0.5:
            new = line._replace(paid=None if line.quantity < 0 else self.random.choice([None, self.instant()]), status=self.random.choice(["placed", "failed", "done"]))
        elif how < 0.75:
            new = line._replace(time=self.instant())
        else:
            new = line._replace(amount=line.amount * 2, user=self.random.choice([None, "u1", "u2"]), region="north")
        self.lines[key] = new
        self.do("UPDATE ecstats.order_lines SET (order_time, paid_time, status, amount, user_id, region) = ('%s', %s, '%s', %s, %s, '%s')"
                % (new.time.isoformat(), quoted(new.paid and new.paid.isoformat()), new.status, new.amount, quoted(new.user), new.region) + where)

    # Partitions

    def change_partition(self):
        """Makes one, takes one off or puts it back, or drops one of a closed day that is as it was counted."""
        day = FIRST + datetime.timedelta(self.random.randrange(DAYS))
        table = "ecstats.events_%s" % day.strftime("%Y%m%d")
        bounds = "FOR VALUES FROM ('%s') TO ('%s')" % tuple(
            datetime.datetime.combine(d, STARTS, ZONE).isoformat() for d in (day, day + datetime.timedelta(1)))
        self.flush()
        there = self.db.run("SELECT ecstats.day_partition_exists('%s')" % day).strip() == "t"
        if day in self.detached:
            self.detached.remove(day)
            self.do("ALTER TABLE ecstats.events ATTACH PARTITION %s %s" % (table, bounds))
        elif not there:
            self.do("SELECT ecstats_prepare('%s', '%s')" % (day, day))
        elif day not in self.kept and self.random.random() < 0.3:
            self.close()            # a day that was computed: its figures stay, also where a new table has its name at once
            self.kept[day] = self.stored(day)
            self.events = [event for event in self.events if day_of(event.time) != day]
            self.do("DROP TABLE %s" % table)
            if self.random.random() < 0.5:
                self.do("SELECT ecstats_prepare('%s', '%s')" % (day, day))
        elif day not in self.kept:
            self.close()
            self.detached.add(day)
            self.do("ALTER TABLE ecstats.events DETACH PARTITION %s" % table)

    def maintain(self):
        self.do("UPDATE ecstats.config SET event_retention = NULL, order_retention = NULL")
        self.do("CALL ecstats_maintain()")

    def drop(self):
        """Retention by a clock of its own: what it drops must be allowed to go, and changes no figure."""
        self.flush()
        at = datetime.datetime.combine(LAST, STARTS, ZONE) + datetime.timedelta(self.random.randrange(1, 40))
        events, orders = self.random.choice([(12, 25), (15, 40), (35, 12), (20, 20)])
        self.do("UPDATE ecstats.config SET event_retention = '%d days', order_retention = '%d days'" % (events, orders))
        self.close()
        rows = self.db.rows("SELECT p.day, p.events, p.orders FROM ecstats.maintain_droppable('%s') p" % at.isoformat())
        for row in self.random.sample(rows, min(len(rows), 3)):
            day = datetime.date.fromisoformat(row["day"])
            was = self.stored(day)
            monday = day - datetime.timedelta(day.weekday())
            if day_of(at) < max(monday + datetime.timedelta(7), (day.replace(day=1) + datetime.timedelta(32)).replace(day=1)):
                self.wrong.append("%s may go on %s: its week or month has not ended" % (day, at))
            if self.db.run("SELECT ecstats.maintain_drop('%s', '%s')" % (day, at.isoformat())).strip() != "t":
                self.wrong.append("%s was not dropped" % day)
            self.dropped += 1
            if row["events"] == "t":
                self.kept[day] = was
                self.events = [event for event in self.events if day_of(event.time) != day]
            if row["orders"] == "t":
                self.frozen[day] = was
                self.orders_gone.add(day)
                self.lines = {key: line for key, line in self.lines.items() if not (
                    day in (day_of(line.time), line.paid and day_of(line.paid))
                    and day_of(line.time) in self.orders_gone and (line.paid is None or day_of(line.paid) in self.orders_gone))}

    # Figures

    def close(self):
        self.do("SELECT ecstats_daily('%s')" % LAST)
        self.flush()

    def stored(self, day):
        """All that is stored of a day, as {(relation, key): figures}."""
        return self.everything("WHERE day = '%s'" % day)

    def everything(self, where=""):
        found = {}
        for table, keys in (("daily_kpi", "day"), ("daily_sales", "day product_id region channel"), ("daily_events", "day event"),
                            ("daily_funnel", "day step"), ("user_daily", "day user_id event")):
            for row in self.db.rows("SELECT * FROM ecstats.%s %s" % (table, where)):
                key = (table,) + tuple(row.pop(name) for name in keys.split())
                found[key] = {name: row[name] if name == "event" else number(row[name]) for name in row if name not in ("complete", "closed_at", "revision")}
        return found

    def expect_events(self, day, users):
        """The rows that come from a day's events; users: {user: {name: count}}."""
        found, date = {}, str(day)
        totals = collections.Counter()
        for user, names in users.items():
            for name, count in names.items():
                totals[name] += count
                found["user_daily", date, user, name] = {"event_count": count}
        for name, count in totals.items():
            found["daily_events", date, name] = {"event_count": count, "user_count": sum(name in names for names in users.values())}
        return found, {"event_count": sum(totals.values()), "pv": sum(totals[name] for name in self.page_views), "uv": len(users)}

    def expect_orders(self, day):
        sold = [line for line in self.lines.values() if day_of(line.time) == day and line.quantity > 0]
        back = [line for line in self.lines.values() if day_of(line.time) == day and line.quantity < 0]
        paid = [line for line in self.lines.values() if line.quantity > 0 and line.paid and day_of(line.paid) == day]

        def total(lines):
            return sum((line.amount for line in lines), decimal.Decimal(0))

        def buyers(lines):
            return len({line.user for line in lines} - {None})
        kpi = {"gmv": total(sold), "order_count": len({line.order for line in sold}), "quantity": sum(line.quantity for line in sold),
               "buyer_count": buyers(sold), "paid_amount": total(paid), "paid_order_count": len({line.order for line in paid}), "payer_count": buyers(paid),
               "refund_amount": -total(back), "refund_order_count": len({line.order for line in back}), "net_amount": total(paid) + total(back),
               "abnormal_order_count": len({line.order for line in sold if line.status in ABNORMAL})}
        found = {}
        for product, region in {(line.product, line.region) for line in sold + back}:
            here = [line for line in sold if (line.product, line.region) == (product, region)]
            found["daily_sales", str(day), product, region, "unknown"] = {
                "total_sold": sum(line.quantity for line in here), "total_revenue": total(here), "order_count": len({line.order for line in here}),
                "buyer_count": buyers(here), "refund_amount": -total(line for line in back if (line.product, line.region) == (product, region))}
        return found, kpi

    def compare(self):
        """Everything stored against everything counted; collects what differs."""
        self.close()
        got = self.everything()
        days = sorted(datetime.date.fromisoformat(key[1]) for key in got if key[0] == "daily_kpi")
        users, want = {}, {}
        for event in self.events:
            users.setdefault(day_of(event.time), {}).setdefault(event.user, collections.Counter())[event.name] += 1
        for day, rows in list(self.kept.items()) + [(day, rows) for day, rows in self.frozen.items() if day not in self.kept]:
            users[day] = {}
            for key, row in rows.items():
                if key[0] == "user_daily":
                    users[day].setdefault(key[2], collections.Counter())[key[3]] = row["event_count"]
        first = {}
        for day in sorted(users):
            for user in users[day]:
                first.setdefault(user, day)
        steps = self.db.rows("SELECT event, row_number() OVER (ORDER BY funnel_step) AS step FROM ecstats.event_types WHERE funnel_step IS NOT NULL")
        steps = [row["event"] for row in sorted(steps, key=lambda row: int(row["step"]))]
        for day in days:
            if day in self.frozen:
                want.update(self.frozen[day])
                continue
            found, kpi = self.expect_events(day, users.get(day, {}))
            kpi["new_user_count"] = sum(first[user] == day for user in users.get(day, {}))
            for step, name in enumerate(steps, 1):
                reached = sum(all(earlier in names for earlier in steps[:step]) for names in users.get(day, {}).values())
                found["daily_funnel", str(day), str(step)] = {"event": name, "user_count": reached}
            if day in self.kept:
                kept = self.kept[day]
                kpi.update({name: kept["daily_kpi", str(day)][name] for name in EVENT_COLUMNS})
                found = {key: row for key, row in kept.items() if key[0] not in ("daily_kpi", "daily_sales")}
            sales, orders = self.expect_orders(day)
            want.update(found)
            want.update(sales)
            want["daily_kpi", str(day)] = {**orders, **kpi}
        self.differ(want, got)

    def differ(self, want, got):
        for key in sorted(set(want) | set(got), key=str):
            row, stored = want.get(key), got.get(key)
            if row is None or stored is None:
                if key[0] == "daily_funnel" and (stored or row)["user_count"] == 0:
                    continue
                self.wrong.append("%s: %s, expected %s" % (key, stored, row))
                continue
            wrong = ["%s %s, expected %s" % (name, stored[name], row[name]) for name in row if stored[name] != row[name]]
            if key[0] == "daily_kpi":
                for ratio, over, under in (("aov", "gmv", "order_count"), ("amount_per_buyer", "gmv", "buyer_count"), ("conversion_rate", "buyer_count", "uv")):
                    exact = stored[over] / stored[under] if stored[under] else None
                    if (stored[ratio] is None) != (exact is None) or exact is not None and abs(stored[ratio] - exact) > decimal.Decimal("1e-12"):
                        wrong.append("%s %s, expected %s" % (ratio, stored[ratio], exact))
            if wrong:
                self.wrong.append("%s: %s" % (key, "; ".join(wrong)))
        restated = self.db.rows("""
            SELECT k.day FROM ecstats.daily_kpi k LEFT JOIN ecstats.restatements r ON r.day = k.day
             GROUP BY k.day, k.revision HAVING k.revision - 1 <> count(DISTINCT r.revision)""")
        self.wrong += ["%s: a revision without its restatements" % row["day"] for row in restated]

    def step(self):
        how = self.random.random()
        for action, share in ((self.insert_events, 0.3), (self.change_event, 0.2), (self.insert_lines, 0.2), (self.change_line, 0.2),
                              (self.change_partition, 0.04), (self.close, 0.03), (self.maintain, 0.02), (self.drop, 0.01)):
            if how < share:
                action()
                return
            how -= share


def main():
    seed, steps = int(os.environ.get("SEED", 20251124)), int(os.environ.get("STEPS", 300))
    with Database("random", "Europe/Berlin") as db:
        db.run("UPDATE ecstats.config SET day_starts_at = '%s'" % STARTS)
        shop = Shop(db, seed)
        for number_of_step in range(1, steps + 1):
            shop.step()
            if number_of_step % 50 == 0:
                shop.compare()
                if shop.wrong:
                    break
        check(not shop.wrong, "random changes, seed %d: after %d steps every stored figure is as counted" % (seed, number_of_step), shop.wrong)
        check(shop.dropped > 0 and shop.kept and shop.frozen and shop.late, "random changes: days were dropped, and rows came late for them",
              ["%d dropped, %d days without events, %d frozen, %d late events" % (shop.dropped, len(shop.kept), len(shop.frozen), len(shop.late))])
    finish()


main()
