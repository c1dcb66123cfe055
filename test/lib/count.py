"""Every figure of a shop's days, weeks and months, counted from its rows without the database."""
import collections
import datetime
import decimal

from shop import day_of

ABNORMAL = {"cancelled", "failed", "risk"}
EVENT_COLUMNS = ["event_count", "pv", "uv", "new_user_count"]
RATIOS = {"aov": ("gmv", "order_count"), "amount_per_buyer": ("gmv", "buyer_count"), "conversion_rate": ("buyer_count", "uv")}
SUMS = ["gmv", "quantity", "paid_amount", "refund_amount", "net_amount", "event_count", "pv", "new_user_count"]
# The roles of orders and buyers in ecstats.order_day, as bits.
ROLES = (("o", 1, "order_count"), ("o", 2, "refund_order_count"), ("o", 4, "abnormal_order_count"), ("o", 8, "paid_order_count"),
         ("b", 1, "buyer_count"), ("b", 8, "payer_count"))
PERIODS = {"weekly_kpi": lambda day: day - datetime.timedelta(day.weekday()), "monthly_kpi": lambda day: day.replace(day=1)}


class Count:
    """What must be stored of the days that are stored."""

    def __init__(self, shop, page_views, steps):
        self.shop, self.page_views, self.steps = shop, page_views, steps
        self.users = {}             # day: {user: {name: count}}
        for event in shop.events.rows.values():
            self.users.setdefault(day_of(event.time), {}).setdefault(event.user, collections.Counter())[event.name] += 1
        for day, rows in list(shop.kept.items()) + [(day, rows) for day, rows in shop.frozen.items() if day not in shop.kept]:
            self.users[day] = {}
            for key, row in rows.items():
                if key[0] == "user_daily":
                    self.users[day].setdefault(key[2], collections.Counter())[key[3]] = row["event_count"]
        self.first = {}
        for day in sorted(self.users):
            for user in self.users[day]:
                self.first.setdefault(user, day)
        self.sold, self.back, self.paid = (collections.defaultdict(list) for _ in range(3))
        for line in shop.lines.rows.values():
            (self.sold if line.quantity > 0 else self.back)[day_of(line.time)].append(line)
            if line.quantity > 0 and line.paid:
                self.paid[day_of(line.paid)].append(line)

    def days(self):
        """Days that have rows somebody can see."""
        events = {day_of(event.time) for event in self.shop.events.rows.values()} - self.shop.detached
        return events | self.sold.keys() | self.back.keys() | self.paid.keys()

    def ids(self, day):
        """The sets of ids that a day's order figures count."""
        if day in self.shop.frozen_ids:
            return self.shop.frozen_ids[day]
        sold, back, paid = self.sold[day], self.back[day], self.paid[day]
        return {"order_count": {line.order for line in sold}, "buyer_count": {line.user for line in sold} - {None},
                "paid_order_count": {line.order for line in paid}, "payer_count": {line.user for line in paid} - {None},
                "refund_order_count": {line.order for line in back},
                "abnormal_order_count": {line.order for line in sold if line.status in ABNORMAL}}

    def of_events(self, day):
        found, date, users = {}, str(day), self.users.get(day, {})
        totals, reached = collections.Counter(), collections.Counter()
        for user, names in users.items():
            for name, count in names.items():
                totals[name] += count
                reached[name] += 1
                found["user_daily", date, user, name] = {"event_count": count}
        for name, count in totals.items():
            found["daily_events", date, name] = {"event_count": count, "user_count": reached[name]}
        for step, name in enumerate(self.steps, 1):
            found["daily_funnel", date, str(step)] = {
                "event": name, "user_count": sum(all(earlier in names for earlier in self.steps[:step]) for names in users.values())}
        return found, {"event_count": sum(totals.values()), "pv": sum(totals[name] for name in self.page_views), "uv": len(users),
                       "new_user_count": sum(self.first[user] == day for user in users)}

    def of_orders(self, day):
        def total(lines):
            return sum((line.amount for line in lines), decimal.Decimal(0))
        sold, back, paid = self.sold[day], self.back[day], self.paid[day]
        kpi = {name: len(ids) for name, ids in self.ids(day).items()}
        kpi.update(gmv=total(sold), quantity=sum(line.quantity for line in sold), paid_amount=total(paid), refund_amount=-total(back),
                   net_amount=total(paid) + total(back))
        groups = collections.defaultdict(lambda: ([], []))
        for line in sold + back:
            groups[line.product, line.region][line.quantity < 0].append(line)
        found, roles = {}, collections.Counter()
        for kind, role, name in ROLES:
            roles.update({(kind, one): role for one in self.ids(day)[name]})
        for (kind, one), role in roles.items():
            found["order_day", str(day), kind, one] = {"roles": role}
        for (product, region), (here, returned) in groups.items():
            found["daily_sales", str(day), product, region, "unknown"] = {
                "total_sold": sum(line.quantity for line in here), "total_revenue": total(here), "order_count": len({line.order for line in here}),
                "buyer_count": len({line.user for line in here} - {None}), "refund_amount": -total(returned)}
        found.update(self.of_buyers(str(day), sold, paid))
        return found, kpi

    @staticmethod
    def of_buyers(date, sold, paid):
        """What each user ordered and paid by region; an order counts for a user where its lowest line is."""
        lowest = {}
        rows = collections.defaultdict(lambda: {"order_count": 0, "gmv": decimal.Decimal(0), "paid_amount": decimal.Decimal(0)})
        for column, lines in (("gmv", sold), ("paid_amount", paid)):
            for line in lines:
                if line.user is not None:
                    rows["buyer_daily", date, line.user, line.region, "unknown"][column] += line.amount
        for line in sorted(sold, key=lambda one: (one.no, one.time)):
            if line.user is not None:
                lowest.setdefault((line.user, line.order), line.region)
        for (user, _order), region in lowest.items():
            rows["buyer_daily", date, user, region, "unknown"]["order_count"] += 1
        return rows

    def everything(self, days, periods):
        """All that must be stored, as {(relation, key): figures}, of these days and of the periods that they are in."""
        want = {}
        for day in days:
            if day in self.shop.frozen:
                want.update(self.shop.frozen[day])
                continue
            found, kpi = self.of_events(day)
            if day in self.shop.kept:
                kept = self.shop.kept[day]
                kpi = {name: kept["daily_kpi", str(day)][name] for name in EVENT_COLUMNS}
                found = {key: row for key, row in kept.items() if key[0] not in ("daily_kpi", "daily_sales", "order_day", "buyer_daily")}
            sales, orders = self.of_orders(day)
            want.update(found)
            want.update(sales)
            want["daily_kpi", str(day)] = {**orders, **kpi}
        for table in periods:
            parts = collections.defaultdict(list)
            for day in days:
                parts[PERIODS[table](day)].append(day)
            for start, inside in parts.items():
                want[table, str(start)] = self.of_period(inside, want)
        return want

    def of_period(self, days, want):
        kpi = {name: sum(want["daily_kpi", str(day)][name] for day in days) for name in SUMS}
        for name in self.ids(days[0]):
            kpi[name] = len(set().union(*(self.ids(day)[name] for day in days)))
        kpi["uv"] = len(set().union(*(self.users.get(day, {}) for day in days)))
        return kpi


def differences(want, got):
    """What is stored and was not counted so."""
    wrong = []
    for key in sorted(set(want) | set(got), key=str):
        row, stored = want.get(key), got.get(key)
        if row is None or stored is None:
            if key[0] == "daily_funnel" and (stored or row)["user_count"] == 0:
                continue
            wrong.append("%s: stored %s, counted %s" % ("/".join(key), shown(stored), shown(row)))
            continue
        parts = ["%s stored %s, counted %s" % (name, stored[name], row[name]) for name in row if stored[name] != row[name]]
        if key[0] in ("daily_kpi", *PERIODS):
            for ratio, (over, under) in RATIOS.items():
                exact = stored[over] / stored[under] if stored[under] else None
                if (stored[ratio] is None) != (exact is None) or exact is not None and abs(stored[ratio] - exact) > decimal.Decimal("1e-12"):
                    parts.append("%s stored %s, counted %s" % (ratio, stored[ratio], exact))
        if parts:
            wrong.append("%s: %s" % ("/".join(key), "; ".join(parts)))
    return wrong


def shown(row):
    return "nothing" if row is None else ", ".join("%s %s" % item for item in row.items())
