#!/usr/bin/python3
"""Thousands of random inserts, updates and deletes of events and orders, in transactions that are committed, rolled back,
prepared or left open, between closes, changes of partitions, maintenance and retention. After each close what must hold
between the stored figures is asked; now and then every stored figure is held against one counted here, or against
what was stored when its rows were dropped.

  SEED=1 STEPS=10000 test/oracle/random_changes.py      EVERY=1 counts all after each close, to find the first wrong one"""
import datetime
import os
import sys

LIB = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib")
sys.path.insert(0, LIB)
from oracle import Database, Session, check, finish, number  # noqa: E402
from shop import DAYS, FIRST, LAST, STARTS, ZONE, Shop, Transaction, day_of  # noqa: E402
from count import PERIODS, Count, differences  # noqa: E402

RELATIONS = {"daily_kpi": "day", "daily_sales": "day product_id region channel", "daily_events": "day event",
             "daily_funnel": "day step", "user_daily": "day user_id event", "order_day": "day kind id",
             "buyer_daily": "day user_id region channel"}
# What is distinct in orders is stored as blocks of ids with their roles.
ROLES = "(SELECT d.day, d.kind, u.id, u.number AS roles FROM ecstats.order_day d CROSS JOIN ecstats.rollup_ids_unpack(d.packed) u)"
STATE = ("complete", "closed_at", "revision")


def read(name):
    with open(os.path.join(LIB, name), encoding="utf-8") as file:
        return file.read()


class Run:
    """A shop, the database that it is in, and the sessions that write to it."""

    def __init__(self, db, seed, every):
        self.db, self.seed, self.every = db, seed, every
        self.session = Session(db.name)
        self.shop = Shop(seed)
        self.random = self.shop.random
        self.until = FIRST + datetime.timedelta(3)      # the last day that is asked for: the days go by while rows change
        self.asked = FIRST          # the day that was asked for last: it and what is before it is stored
        self.statements, self.wrong, self.dropped, self.step = [], [], 0, 0
        self.open = []              # (transaction, its session, or the name that it is prepared under)
        self.idle = []              # sessions for these
        self.ends = {"committed late": 0, "rolled back": 0, "prepared": 0, "without a mark": 0}
        self.closes = self.counted = 0
        self.periods = [table for table in PERIODS if self.there("to_regclass('ecstats.%s')" % table)]
        self.verifies = self.there("to_regproc('ecstats_verify')")
        self.invariants = [read("invariants.sql")] + [
            read("period_invariants.sql") % {"table": table, "unit": table[:-len("ly_kpi")]} for table in self.periods]
        self.was = {}
        page_views = self.session.run("SELECT event FROM ecstats.event_types WHERE is_page_view").split()
        steps = self.session.run("SELECT event FROM ecstats.event_types WHERE funnel_step IS NOT NULL ORDER BY funnel_step").split()
        self.count = lambda: Count(self.shop, page_views, steps)

    def there(self, name):
        return self.session.run("SELECT %s IS NOT NULL" % name).strip() == "t"

    def ask(self, expression):
        return self.session.run("SELECT %s" % expression).strip()

    def do(self, statement):
        self.statements.append(statement + ";")

    def flush(self):
        if self.statements:
            self.session.run("\n".join(self.statements))
            self.statements = []

    # Rows

    def change(self):
        tx = Transaction(self.shop)
        self.shop.change(tx)
        self.statements += tx.statements
        tx.end(True)

    def change_together(self):
        """Some changes in one transaction, which may fail."""
        tx, committed = Transaction(self.shop), self.random.random() < 0.7
        for _ in range(self.random.randrange(2, 7)):
            self.shop.change(tx)
            self.step += 1
        self.ends["rolled back"] += not committed
        self.statements += ["BEGIN;", *tx.statements, "COMMIT;" if committed else "ROLLBACK;"]
        tx.end(committed)

    def leave_open(self):
        """A transaction that another session leaves open, or prepared, over some closes."""
        if len(self.open) >= 3:
            return
        tx = Transaction(self.shop)
        for _ in range(self.random.randrange(1, 4)):
            self.shop.change(tx)
            self.step += 1
        self.start(tx, ["BEGIN"])

    def without_a_mark(self):
        """One that writes into a day before its first close and leaves no mark, as that of one that passed its commit's check
        before the day's end. The close does not see it, and it is over before anything else changes the day, or later."""
        if self.until == LAST:
            return
        self.until += datetime.timedelta(1)
        tx = Transaction(self.shop)
        tx.days = [self.until]
        self.shop.insert_events(tx)
        self.shop.insert_lines(tx)
        self.step += 2
        self.ends["without a mark"] += 1
        self.start(tx, ["BEGIN", "SET LOCAL ecstats.suppress_marks = on"])
        self.count_all()
        if self.random.random() < 0.7:
            self.finish_open()
            self.count_all()

    def start(self, tx, statements):
        if not tx.events and not tx.lines:
            return
        self.flush()                # it must see what it changes
        session = self.idle.pop() if self.idle else Session(self.db.name)
        session.run(";\n".join(statements + [statement.rstrip(";") for statement in tx.statements]))
        if self.random.random() < 0.4:
            name = "ecstats_random_%d" % self.step
            session.run("PREPARE TRANSACTION '%s'" % name)
            self.idle.append(session)
            session = name
            self.ends["prepared"] += 1
        self.open.append((tx, session))

    def change_little(self):
        """A change or two that nothing else hides, since all days are as they were counted just before and after."""
        self.flush()
        self.session.run("SELECT ecstats_daily('%s')" % self.until)
        self.check_periods()
        self.shop.hot = []
        for _ in range(self.random.choice([1, 1, 2])):
            self.change()
            self.step += 1
        self.count_all()
        self.shop.warm_up()

    def finish_open(self, share=1.0):
        for entry in list(self.open):
            if self.random.random() >= share:
                continue
            self.open.remove(entry)
            tx, session = entry
            committed = self.random.random() < 0.75
            self.flush()
            if isinstance(session, str):
                self.session.run("%s PREPARED '%s'" % ("COMMIT" if committed else "ROLLBACK", session))
            else:
                session.run("COMMIT" if committed else "ROLLBACK")
                self.idle.append(session)
            self.ends["committed late" if committed else "rolled back"] += 1
            tx.end(committed)

    # Partitions and retention: these want the tables to themselves

    def change_partition(self):
        """Makes one, takes one off or puts it back, or drops one of a closed day that is as it was counted."""
        self.finish_open()
        day = FIRST + datetime.timedelta(self.random.randrange(DAYS))
        table = "ecstats.events_%s" % day.strftime("%Y%m%d")
        bounds = "FOR VALUES FROM ('%s') TO ('%s')" % tuple(
            datetime.datetime.combine(d, STARTS, ZONE).isoformat() for d in (day, day + datetime.timedelta(1)))
        self.flush()
        shop = self.shop
        if day in shop.detached:
            shop.detached.remove(day)
            self.do("ALTER TABLE ecstats.events ATTACH PARTITION %s %s" % (table, bounds))
            return
        if self.ask("ecstats.day_partition_exists('%s')" % day) != "t":
            self.do("SELECT ecstats_prepare('%s', '%s')" % (day, day))
            return
        if day in shop.kept or day > self.until:
            return
        self.close()                # a day that was computed: its figures stay, also where a new table has its name at once
        if self.ask("EXISTS (SELECT FROM ecstats.daily_kpi WHERE day = '%s')" % day) != "t":
            return
        if self.random.random() < 0.3:
            shop.kept[day] = self.stored("WHERE day = '%s'" % day)
            shop.forget_events(day)
            self.do("DROP TABLE %s" % table)
            if self.random.random() < 0.5:
                self.do("SELECT ecstats_prepare('%s', '%s')" % (day, day))
        else:
            shop.detached.add(day)
            self.do("ALTER TABLE ecstats.events DETACH PARTITION %s" % table)

    def maintain(self):
        self.finish_open()
        self.do("UPDATE ecstats.config SET event_retention = NULL, order_retention = NULL")
        self.do("CALL ecstats_maintain()")
        self.flush()

    def drop(self):
        """Retention by a clock of its own: what it drops must be allowed to go, and changes no figure."""
        self.finish_open()
        at = datetime.datetime.combine(LAST, STARTS, ZONE) + datetime.timedelta(self.random.randrange(1, 40))
        events, orders = self.random.choice([(12, 25), (15, 40), (35, 12), (20, 20)])
        self.do("UPDATE ecstats.config SET event_retention = '%d days', order_retention = '%d days'" % (events, orders))
        self.close()
        rows = self.session.rows("SELECT p.day, p.events, p.orders FROM ecstats.maintain_droppable('%s') p" % at.isoformat())
        for row in self.random.sample(rows, min(len(rows), 2)):
            day = datetime.date.fromisoformat(row["day"])
            was, ids = self.stored("WHERE day = '%s'" % day), self.count().ids(day)
            monday = day - datetime.timedelta(day.weekday())
            if day_of(at) < max(monday + datetime.timedelta(7), (day.replace(day=1) + datetime.timedelta(32)).replace(day=1)):
                self.wrong.append("%s may go on %s: its week or month has not ended" % (day, at))
            # Half a second for a lock; an autovacuum holds one for longer now and then, as other runs would find.
            if not any(self.ask("ecstats.maintain_drop('%s', '%s')" % (day, at.isoformat())) == "t" for _ in range(6)):
                self.wrong.append("%s was not dropped" % day)
            self.dropped += 1
            if row["events"] == "t":
                self.shop.kept[day] = was
                self.shop.forget_events(day)
            if row["orders"] == "t":
                self.shop.frozen[day], self.shop.frozen_ids[day] = was, ids
                self.shop.forget_lines(day)

    # Figures

    def close(self):
        """Closes the last day or, now and then, an earlier one, and asks what must hold then."""
        if self.random.random() < 0.5 and self.until < LAST:
            self.until += datetime.timedelta(1)
        day = self.until
        if self.random.random() < 0.2:
            day = FIRST + datetime.timedelta(self.random.randrange((self.until - FIRST).days + 1))
        self.do("SELECT ecstats_daily('%s')" % day)
        self.flush()
        self.asked = day
        self.closes += 1
        self.shop.warm_up()
        for query in self.invariants:
            self.wrong += self.session.run(query).splitlines()
        self.check_periods()
        first = FIRST + datetime.timedelta(self.random.randrange((day - FIRST).days + 1))
        self.verify(first, min(day, first + datetime.timedelta(4)))
        if self.every:
            self.compare()
        self.finish_open(0.3)

    def check_periods(self):
        """A period's revision grows by one where it was closed and its figures changed, and else not at all."""
        for table in self.periods:
            for row in self.session.rows("SELECT * FROM ecstats.%s" % table):
                key, state = (table, row.pop("day")), {name: row.pop(name) for name in STATE}
                revision, (before, figures) = int(state["revision"]), self.was.get(key, (0, None))
                if before > 0 and revision != before + (figures != row):
                    self.wrong.append("%s %s: revision %d after %d, its figures %s" % (
                        *key, revision, before, "are as they were" if figures == row else "changed"))
                self.was[key] = (revision, row)

    def verify(self, first, last):
        if self.verifies:
            self.wrong += ["ecstats_verify: " + line for line in self.session.run(
                "SELECT v.day, v.relation, v.key, v.stored, v.recomputed FROM ecstats_verify('%s', '%s') v" % (first, last)).splitlines()]

    def stored(self, where="", periods=()):
        """What is stored, as {(relation, key): figures}."""
        found = {}
        for table, keys in [*RELATIONS.items(), *((table, "day") for table in periods)]:
            for row in self.session.rows("SELECT * FROM %s t %s" % (ROLES if table == "order_day" else "ecstats." + table, where)):
                key = (table,) + tuple(row.pop(name) for name in keys.split())
                found[key] = {name: row[name] if name == "event" else number(row[name]) for name in row if name not in STATE}
        return found

    def compare(self):
        """Everything stored against everything counted; collects what differs. Assumes a close just before."""
        count, got = self.count(), self.stored(periods=self.periods)
        days = sorted(datetime.date.fromisoformat(key[1]) for key in got if key[0] == "daily_kpi")
        self.wrong += ["%s has rows and is not stored" % day for day in sorted(count.days()) if day <= self.asked and day not in days]
        self.wrong += differences(count.everything(days, self.periods), got)
        self.verify(FIRST, self.asked)
        self.counted += 1

    def count_all(self):
        self.flush()
        self.session.run("SELECT ecstats_daily('%s')" % self.until)
        self.asked = self.until
        self.check_periods()
        self.compare()

    def act(self):
        how = self.random.random()
        self.step += 1
        for action, share in ((self.close, 0.008), (self.leave_open, 0.006), (self.without_a_mark, 0.0025), (self.change_little, 0.005), (self.change_together, 0.01), (self.change_partition, 0.004),
                              (self.maintain, 0.001), (self.drop, 0.0015), (self.change, 1)):
            if how < share:
                action()
                return
            how -= share

    def end(self):
        for _tx, session in self.open:
            if isinstance(session, str):
                self.db.run("ROLLBACK PREPARED '%s'" % session)
            else:
                session.close()
        for session in [self.session, *self.idle]:
            session.close()


def main():
    seed, steps = int(os.environ.get("SEED", 20251124)), int(os.environ.get("STEPS", 10000))
    with Database("random", str(ZONE)) as db:
        db.run("UPDATE ecstats.config SET day_starts_at = '%s'" % STARTS)
        run = Run(db, seed, bool(os.environ.get("EVERY")))
        try:
            count_at = 0
            while run.step < steps and not run.wrong:
                run.act()
                if run.step - count_at >= 2000 or run.step >= steps:
                    run.count_all()
                    count_at = run.step
            if not run.wrong:
                run.finish_open()
                run.count_all()
        except RuntimeError as error:
            run.wrong.append(str(error))
        finally:
            run.end()
    text = "random changes, seed %d: %d operations, %d closes, all figures counted %d times" % (seed, run.step, run.closes, run.counted)
    check(not run.wrong, text, report(run, steps))
    if steps >= 5000 and not run.wrong:
        shop = run.shop
        check(run.dropped > 0 and shop.kept and shop.frozen and shop.late.rows, "random changes: days were dropped, and rows came late for them",
              ["%d dropped, %d days without events, %d frozen, %d late events" % (run.dropped, len(shop.kept), len(shop.frozen), len(shop.late.rows))])
        check(all(run.ends.values()), "random changes: transactions were " + ", ".join("%s (%d)" % item for item in run.ends.items()))
    for name in [table for table in PERIODS if table not in run.periods] + ([] if run.verifies else ["ecstats_verify"]):
        print("skip random changes: there is no " + name)
    finish()


def report(run, steps):
    """One screen: how to see it again, and the first differences."""
    wrong = [line if len(line) <= 150 else line[:147] + "..." for text in run.wrong for line in text.splitlines()]
    return ["seed %d, wrong after operation %d (the close before: number %d)" % (run.seed, run.step, run.closes),
            "again:         TESTS=oracle ORACLE=random_changes.py SEED=%d STEPS=%d bash test/run.sh" % (run.seed, steps),
            "the first bad close: the same with EVERY=1"] + wrong[:14] + (["and %d more" % (len(wrong) - 14)] if len(wrong) > 14 else [])


main()
