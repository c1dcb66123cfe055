"""Scores, levels and cohorts, counted from raw rows without the database, in decimal numbers of 60 digits."""
import collections
import datetime
import decimal
import fractions

ONE = datetime.timedelta(1)
EXACT = decimal.Context(prec=60)
# Equal scores of other events agree to far more digits than this, and unequal ones do not.
TIE = decimal.Decimal(10) ** -40
LOG2 = decimal.Decimal(2).ln(EXACT)
SHIPPED = {"login": "1", "page_view": "0.3", "action_click": "0.5", "click": "0.5", "view_item": "0.3", "add_to_cart": "0.5",
           "begin_checkout": "0.8", "purchase": "1", "search": "0.3", "sign_up": "1", "share": "0.5"}
LAST_HIGH = 15          # days that last_high_day looks back, as_of included
AGES = (1, 7, 30)


class Activity:
    """rows: (day, user, event). What is known of everybody who has a row, as of any day."""

    def __init__(self, rows, weights=None, window=7, half_life="7", shares=("0.20", "0.50")):
        self.weights = {name: decimal.Decimal(w) for name, w in (SHIPPED if weights is None else weights).items()}
        self.window, self.half_life = window, decimal.Decimal(half_life)
        self.shares = [fractions.Fraction(share) for share in shares]
        self.counts = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))     # user, day, event
        for day, user, event in rows:
            self.counts[user][day][event] += 1
        self.points = {user: {day: sum((n * self.weights.get(event, 0) for event, n in names.items()), decimal.Decimal(0))
                              for day, names in days.items()} for user, days in self.counts.items()}
        self.decay = [EXACT.exp(EXACT.multiply(EXACT.divide(decimal.Decimal(-age), self.half_life), LOG2)) for age in range(window)]
        self.score_cache, self.level_cache = {}, {}

    def scores(self, as_of):
        """{user: score} of whoever has an event in the window."""
        if as_of not in self.score_cache:
            found = {}
            for user, days in self.points.items():
                inside = [(age, days[as_of - age * ONE]) for age in range(self.window) if as_of - age * ONE in days]
                if inside:
                    score = decimal.Decimal(0)
                    for age, points in inside:
                        score = EXACT.add(score, EXACT.multiply(points, self.decay[age]))
                    found[user] = score
            self.score_cache[as_of] = found
        return self.score_cache[as_of]

    def score(self, user, as_of):
        return self.scores(as_of).get(user, decimal.Decimal(0))

    def levels(self, as_of):
        """{user: level} of whoever is not low."""
        if as_of not in self.level_cache:
            ranked = sorted(((score.quantize(TIE, context=EXACT), user) for user, score in self.scores(as_of).items() if score > 0), reverse=True)
            found, higher, of_last = {}, 0, None
            for place, (score, user) in enumerate(ranked):
                if score != of_last:
                    higher, of_last = place, score
                share = fractions.Fraction(higher, len(ranked))
                if share < self.shares[0]:
                    found[user] = "high"
                elif share < self.shares[1]:
                    found[user] = "mid"
            self.level_cache[as_of] = found
        return self.level_cache[as_of]

    def level(self, user, as_of):
        return self.levels(as_of).get(user, "low")

    def known(self, as_of):
        """Whoever has an event up to a day."""
        return {user for user, days in self.counts.items() if min(days) <= as_of}

    def profile(self, user, as_of):
        """A row of user_activity, but for what comes of orders; days are dates or None."""
        before = [day for day in self.counts[user] if day <= as_of]
        high = [as_of - back * ONE for back in range(LAST_HIGH) if self.level(user, as_of - back * ONE) == "high"]
        return {"score": self.score(user, as_of), "previous_score": self.score(user, as_of - ONE),
                "level": self.level(user, as_of), "previous_level": self.level(user, as_of - ONE),
                "last_active_day": max(before), "first_seen": min(before),
                "active_days": sum(as_of - day < self.window * ONE for day in before), "last_high_day": max(high, default=None)}

    def cohorts(self, as_of):
        """{(cohort_day, age): (size, retained)} as far as the days have gone by."""
        first = collections.defaultdict(set)
        for user in self.known(as_of):
            first[min(self.counts[user])].add(user)
        return {(day, age): (len(users), sum(day + age * ONE in self.counts[user] for user in users))
                for day, users in first.items() for age in AGES if day + age * ONE <= as_of}


NUMBERS = ("score", "previous_score")
TEXTS = ("level", "previous_level", "last_active_day", "first_seen", "active_days", "last_high_day")


def near(got, want, tolerance=decimal.Decimal("1e-9")):
    return abs(decimal.Decimal(got) - want) <= tolerance


def profile_differences(activity, as_of, stored):
    """stored: {user: row of user_activity as text}. What is stored and was not counted so, of everybody."""
    wrong = ["%s: not there" % user for user in sorted(activity.known(as_of) - stored.keys())]
    for user, row in sorted(stored.items()):
        if user not in activity.counts:
            wrong.append("%s: stored, without an event" % user)
            continue
        want = activity.profile(user, as_of)
        parts = ["%s stored %s, counted %s" % (name, row[name], want[name]) for name in NUMBERS if not near(row[name], want[name])]
        parts += ["%s stored %s, counted %s" % (name, row[name], want[name]) for name in TEXTS
                  if row[name] != ("" if want[name] is None else str(want[name]))]
        if parts:
            wrong.append("%s as of %s: %s" % (user, as_of, "; ".join(parts)))
    return wrong
