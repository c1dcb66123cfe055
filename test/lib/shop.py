"""A shop whose raw rows change at random, and what is in its tables, as the test believes it to be."""
import collections
import datetime
import decimal
import json
import random
import zoneinfo

ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
STARTS = datetime.time(4)
FIRST = datetime.date(2025, 3, 17)      # the clocks change on March 30
DAYS = 24
LAST = FIRST + datetime.timedelta(DAYS - 1)
FUNNEL = ["page_view", "view_item", "add_to_cart", "begin_checkout", "purchase"]
NAMES = FUNNEL + ["login", "unheard_of"]

Event = collections.namedtuple("Event", "time user name id")
Line = collections.namedtuple("Line", "order no time user product region quantity amount status paid")


def day_of(time):
    """The business day by the shop's clock on the wall."""
    local = time.astimezone(ZONE)
    return local.date() - datetime.timedelta(0 if local.time() >= STARTS else 1)


def days_of_line(line):
    return {day_of(line.time)} | ({day_of(line.paid)} if line.paid else set())


def quoted(value):
    if isinstance(value, datetime.datetime):
        value = value.isoformat()
    return "NULL" if value is None else "'%s'" % value


class Pool:
    """Rows by key, of which one can be drawn at once and always in the same way."""

    def __init__(self):
        self.rows, self.keys, self.place = {}, [], {}

    def put(self, key, row):
        if key not in self.rows:
            self.place[key] = len(self.keys)
            self.keys.append(key)
        self.rows[key] = row

    def remove(self, key):
        del self.rows[key]
        place, last = self.place.pop(key), self.keys.pop()
        if last != key:
            self.keys[place] = last
            self.place[last] = place

    def draw(self, rnd, allowed):
        """A row, NULL where a few tries find none that is allowed."""
        for _ in range(8 if self.keys else 0):
            row = self.rows[rnd.choice(self.keys)]
            if allowed(row):
                return row
        return None


class Transaction:
    """Statements, and what they will have changed once they are committed. No two transactions touch one row."""

    def __init__(self, shop):
        self.shop, self.statements, self.events, self.lines = shop, [], {}, {}
        self.days = None            # where it may write, if not everywhere

    def do(self, statement):
        self.statements.append(statement + ";")

    def event(self, key, event):
        self.events[key] = event
        self.shop.busy.add(key)

    def line(self, key, line):
        self.lines[key] = line
        self.shop.busy.add(key)

    def end(self, committed):
        self.shop.busy -= self.events.keys() | self.lines.keys()
        if committed:
            for key, event in self.events.items():
                self.shop.keep_event(key, event)
            for key, line in self.lines.items():
                self.shop.keep_line(key, line)


class Shop:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.events, self.late, self.lines = Pool(), Pool(), Pool()
        self.busy = set()           # keys of rows that a transaction under way has touched
        self.kept = {}              # day: what was stored of it when its events were dropped
        self.frozen = {}            # day: all that was stored of it when its order lines were dropped
        self.frozen_ids = {}        # day: its sets of ids, counted here at that moment
        self.orders_gone, self.detached, self.serial = set(), set(), 0
        self.hot = []
        self.warm_up()

    def warm_up(self):
        """Most changes until the next close meet the same few days."""
        self.hot = [FIRST + datetime.timedelta(self.random.randrange(DAYS)) for _ in range(5)]

    def instant(self, days=None):
        """An instant of one of the days, often at the very border of one."""
        if days:
            day = self.random.choice(days)
        else:
            day = self.random.choice(self.hot) if self.hot and self.random.random() < 0.9 else FIRST + datetime.timedelta(self.random.randrange(DAYS))
        local = datetime.datetime.combine(day, self.random.choice([STARTS, datetime.time(12), datetime.time(23, 59)]), ZONE)
        if days:
            shift = datetime.timedelta(minutes=self.random.randrange(180))
        else:
            shift = self.random.choice([datetime.timedelta(0), datetime.timedelta(seconds=-1), datetime.timedelta(minutes=self.random.randrange(180))])
        time = local.astimezone(datetime.timezone.utc) + shift
        return min(max(time, datetime.datetime.combine(FIRST, STARTS, ZONE)), datetime.datetime.combine(LAST, datetime.time(23), ZONE))

    def some_id(self, most):
        """Ids that share long beginnings, or nothing; few of them often, many of them seldom."""
        n = int(self.random.random() ** 2 * most)
        return ("u%d", "user/2025/%05d", "%d", "v" * 60 + "%d", "顾客%d")[n % 5] % n

    # Events

    def keep_event(self, key, event):
        for pool in (self.events, self.late):
            if key in pool.rows:
                pool.remove(key)
        if event is not None:
            (self.late if day_of(event.time) in self.kept else self.events).put(key, event)

    def insert_events(self, tx):
        rows = []
        for _ in range(self.random.choice([1, 1, 2, 15])):
            self.serial += 1
            event = Event(self.instant(tx.days), self.some_id(1500), self.random.choice(NAMES), "%032d" % self.serial)
            if day_of(event.time) in self.detached:
                continue
            tx.event(event.id, event)
            rows.append(event)
        if not rows:
            return
        if self.random.random() < 0.2:
            for _ in range(self.random.choice([1, 2])):         # a client that sends it again
                tx.do("SELECT ecstats_track('%s')" % json.dumps([
                    {"event": event.name, "user_id": event.user, "timestamp": event.time.isoformat(), "event_id": event.id} for event in rows]))
        else:
            tx.do("INSERT INTO ecstats.events (event_time, user_id, event, event_id) VALUES "
                  + ", ".join("(%s, %s, %s, %s)" % tuple(quoted(v) for v in event) for event in rows))

    def change_event(self, tx):
        """Deletes one, corrects its name, or moves it to another time, perhaps to another day."""
        pool = self.late if self.random.random() < 0.1 else self.events
        event = pool.draw(self.random, lambda e: e.id not in self.busy and day_of(e.time) not in self.detached)
        if event is None:
            return
        where = " WHERE event_id = '%s' AND event_time = %s" % (event.id, quoted(event.time))
        how = self.random.random()
        if how < 0.5:
            tx.event(event.id, None)
            tx.do("DELETE FROM ecstats.events" + where)
            return
        new = event._replace(name=self.random.choice(NAMES)) if how < 0.75 else event._replace(time=self.instant())
        if day_of(new.time) in self.detached:
            new = event
        tx.event(event.id, new)
        tx.do("UPDATE ecstats.events SET event = '%s', event_time = %s" % (new.name, quoted(new.time)) + where)

    # Orders

    def keep_line(self, key, line):
        if line is not None:
            self.lines.put(key, line)
        elif key in self.lines.rows:
            self.lines.remove(key)

    def new_line(self, tx):
        self.serial += 1
        back = self.random.random() < 0.2
        quantity = self.random.randrange(1, 5) * (-1 if back else 1)
        paid = None if back or self.random.random() < 0.3 else self.instant(tx.days)
        return Line(self.some_id(900), self.serial, self.instant(tx.days), self.random.choice([None] + 9 * [self.some_id(600)]),
                    "p%d" % self.random.randrange(4), self.random.choice(["north", "south"]), quantity,
                    abs(decimal.Decimal(self.random.randrange(1, 99999)) / 1000) * (-1 if back else 1),
                    self.random.choice(["placed", "cancelled", "risk", "done"]), paid)

    def insert_lines(self, tx):
        lines = [self.new_line(tx) for _ in range(self.random.choice([1, 1, 2, 10]))]
        for line in lines:
            tx.line((line.order, line.no), line)
        tx.do("INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, quantity, amount, status, paid_time) VALUES "
              + ", ".join("(" + ", ".join(quoted(v) for v in line) + ")" for line in lines))

    def change_line(self, tx):
        line, how = self.lines.draw(self.random, lambda l: (l.order, l.no) not in self.busy), self.random.random()
        if line is None:
            return
        key = (line.order, line.no)
        where = " WHERE order_id = '%s' AND line_no = %d" % key
        if how < 0.4:
            tx.line(key, None)
            tx.do("DELETE FROM ecstats.order_lines" + where)
            return
        if how < 0.6:
            new = line._replace(paid=None if line.quantity < 0 else self.random.choice([None, self.instant()]), status=self.random.choice(["placed", "failed", "done"]))
        elif how < 0.8:
            new = line._replace(time=self.instant())
        else:
            new = line._replace(amount=line.amount * 2, user=self.random.choice([None, "u1", "u2"]), region="north")
        tx.line(key, new)
        tx.do("UPDATE ecstats.order_lines SET (order_time, paid_time, status, amount, user_id, region) = (%s, %s, '%s', %s, %s, '%s')"
              % (quoted(new.time), quoted(new.paid), new.status, new.amount, quoted(new.user), new.region) + where)

    def change(self, tx):
        """One insert, update or delete."""
        how = self.random.random()
        for action, share in ((self.insert_events, 0.3), (self.change_event, 0.25), (self.insert_lines, 0.2), (self.change_line, 1)):
            if how < share:
                action(tx)
                return
            how -= share

    # What retention takes

    def forget_events(self, day):
        for key in [key for key, event in self.events.rows.items() if day_of(event.time) == day]:
            self.events.remove(key)

    def forget_lines(self, day):
        """A line goes with the later of the days that it counts on."""
        self.orders_gone.add(day)
        for key in [key for key, line in self.lines.rows.items() if day in days_of_line(line) and days_of_line(line) <= self.orders_gone]:
            self.lines.remove(key)
