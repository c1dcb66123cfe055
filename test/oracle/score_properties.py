#!/usr/bin/python3
"""What must hold of scores whatever the shop: linear in the weights, half at the half-life, the same bits whatever the order
of the rows and the numbers of the names, explained to the last point, and never further from the truth than a double is.

  SEED=1 test/oracle/score_properties.py"""
import datetime
import decimal
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from activity import SHIPPED, Activity, near, profile_differences  # noqa: E402
from oracle import Database, Session, check, finish  # noqa: E402

SEED = int(os.environ.get("SEED", "5"))
ONE = datetime.timedelta(1)
AS_OF = datetime.date(2026, 3, 31)
NAMES = ("view_item", "add_to_cart", "purchase", "login", "favorite", "unlisted", "x:y.z-1")
STORED = "SELECT user_id, score, previous_score, level, previous_level, last_active_day, active_days, first_seen, last_high_day FROM ecstats.user_activity"
BITS = """SELECT user_id, encode(float8send(score), 'hex') AS score, encode(float8send(previous_score), 'hex') AS previous_score, level, previous_level,
                 last_active_day, active_days, first_seen, last_high_day FROM ecstats.user_activity ORDER BY user_id"""
RELATIVE = decimal.Decimal("1e-12")
LEAST = decimal.Decimal("1e-300")       # what a double has no room for


def shop(rnd, users, days):
    """Users with few and with many events, gaps, ids that share long beginnings; every one has a twin far away in the
    order of ids who did the same."""
    rows = []
    for i in range(users):
        user = ("u%d", "user/2026/%06d", "%d", "v" * 100 + "%d", "顾客%d")[i % 5] % i
        for back in range(days):
            if rnd.random() < 0.35:
                for _ in range(rnd.choice([1, 1, 2, 5, 40])):
                    name = rnd.choice(NAMES)
                    rows += [(AS_OF - back * ONE, user, name), (AS_OF - back * ONE, "~twin" + user, name)]
    return rows


def array(values):
    return "'{%s}'" % ",".join('"%s"' % value for value in values)


def fill(session, rows):
    """Each of a day's rows at another time."""
    session.run("INSERT INTO ecstats.events (event_time, user_id, event) SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::text[])" % (
        array("%s 12:%02d:%02d+00" % (row[0], i // 60 % 60, i % 60) for i, row in enumerate(rows)), array(row[1] for row in rows), array(row[2] for row in rows)))


def set_weights(session, weights):
    session.run("UPDATE ecstats.event_types SET weight = 0; INSERT INTO ecstats.event_types (event, weight) VALUES "
                + ", ".join("('%s', %s)" % (name, weight) for name, weight in weights.items())
                + " ON CONFLICT (event) DO UPDATE SET weight = excluded.weight")


def settings(session, window, half_life):
    session.run("UPDATE ecstats.config SET score_window_days = %s, score_half_life_days = %s" % (window, half_life))


def scores(session, as_of=AS_OF):
    """{user: exact value of the double}"""
    return {row["user_id"]: decimal.Decimal(float(row["score"])) for row in session.rows("SELECT user_id, score FROM ecstats_scores('%s')" % as_of)}


def bits(session, as_of=AS_OF):
    return {row["user_id"]: row["b"] for row in session.rows("SELECT user_id, encode(float8send(score), 'hex') AS b FROM ecstats_scores('%s')" % as_of)}


def against_model(session, text, activity, as_of=AS_OF):
    """As near as a double can be: relative to the size of what was added up."""
    size = Activity([], {name: abs(weight) for name, weight in activity.weights.items()}, activity.window, activity.half_life)
    size.points = {user: {day: sum(abs(size.weights.get(name, 0)) * n for name, n in names.items()) for day, names in days.items()}
                   for user, days in activity.counts.items()}
    size.counts = activity.counts
    got = scores(session, as_of)
    wrong = ["%s: %s, counted %s" % (user, value, activity.score(user, as_of)) for user, value in got.items()
             if abs(value - activity.score(user, as_of)) > RELATIVE * size.score(user, as_of) + LEAST]
    wrong += ["%s: not there, counted %s" % (user, activity.score(user, as_of)) for user in activity.scores(as_of).keys() - got.keys()]
    check(not wrong and got, "%s: %d scores within 1e-12 of the size of their parts" % (text, len(got)), wrong)
    return got


def random_weight(rnd):
    return decimal.Decimal(rnd.uniform(-5, 5))


def linear(session, rnd, rows):
    for turn in range(5):
        first, second = ({name: random_weight(rnd) for name in NAMES} for _ in range(2))
        a, b = random_weight(rnd), random_weight(rnd)
        both = {name: decimal.Decimal(float(a * first[name] + b * second[name])) for name in NAMES}
        got = []
        for weights in (first, second, both):
            set_weights(session, weights)
            got.append(scores(session))
        size = Activity(rows, {name: abs(a * first[name]) + abs(b * second[name]) for name in NAMES})
        wrong = ["%s: %s and %s make %s" % (user, x, got[1][user], got[2][user]) for user, x in got[0].items()
                 if abs(a * x + b * got[1][user] - got[2][user]) > RELATIVE * size.score(user, AS_OF)]
        check(got[0] and got[0].keys() == got[1].keys() == got[2].keys() and not wrong, "linear in the weights, turn %d of 5" % (turn + 1), wrong)


def extremes(session, rnd, rows):
    long = {name: decimal.Decimal(rnd.choice((-1, 1)) * rnd.randrange(10 ** 29, 10 ** 30)).scaleb(-30) for name in NAMES}
    small = {name: decimal.Decimal(rnd.randrange(1, 10 ** 9)).scaleb(-18) for name in NAMES}
    negative = {name: decimal.Decimal(-rnd.randrange(1, 100)) / 10 for name in NAMES}
    large = {name: decimal.Decimal(rnd.choice((-1, 1)) * 10 ** 9) - (i % 2) * decimal.Decimal("0.001") for i, name in enumerate(NAMES)}
    large = {name: max(min(weight, decimal.Decimal(10 ** 9)), decimal.Decimal(-10 ** 9)) for name, weight in large.items()}
    shipped = {name: decimal.Decimal(SHIPPED.get(name, "0")) for name in NAMES}
    for text, weights, window, half_life in (
            ("shipped weights", shipped, 7, "7"), ("weights of 30 decimals", long, 7, "7"), ("weights of 18 decimals, below 1e-9", small, 7, "7"),
            ("negative weights", negative, 7, "7"), ("weights of a thousand million", large, 7, "7"),
            ("half-life 0.001", long, 7, "0.001"), ("half-life 36600", long, 7, "36600"), ("a half-life of a third", long, 9, "0.333333333333"),
            ("window 1", long, 1, "7"), ("window 366", long, 366, "7"), ("window 366, half-life 36600", shipped, 366, "36600")):
        set_weights(session, weights)
        settings(session, window, half_life)
        activity = Activity(rows, weights, window, half_life)
        for as_of in (AS_OF, AS_OF - 5 * ONE):
            got = against_model(session, "%s as of %s" % (text, as_of), activity, as_of)
            wrong = session.rows("SELECT s.user_id, s.score, e.points FROM (SELECT * FROM ecstats_scores('{0}') LIMIT 100) s CROSS JOIN LATERAL ("
                                 "SELECT sum(x.points) AS points, sum(abs(x.points)) AS size FROM ecstats_explain_score(s.user_id, '{0}') x) e "
                                 "WHERE abs(s.score - e.points) > 1e-12 * e.size + 1e-270".format(as_of))
            check(not wrong, "%s as of %s: explanations of 100 users add up" % (text, as_of), map(str, wrong))
            if window == 366:
                check(len(got) == len(activity.scores(as_of)), "%s as of %s: %d users, those with an event" % (text, as_of, len(got)))
    # What is written with negative weights: nobody below or at 0 has a level, and shares are of those above it.
    mixed = {name: decimal.Decimal(i - 3) for i, name in enumerate(NAMES)}
    set_weights(session, mixed)
    settings(session, 7, "7")
    session.run("SELECT ecstats_score('%s')" % AS_OF)
    activity = Activity(rows, mixed)
    wrong = profile_differences(activity, AS_OF, {row["user_id"]: row for row in session.rows(STORED)})
    below = sum(score < 0 for score in activity.scores(AS_OF).values())
    check(not wrong and below > 50, "weights of both signs: what ecstats_score writes of %d users, %d of them below 0" % (len(activity.counts), below), wrong)
    set_weights(session, SHIPPED)
    session.run("SELECT ecstats_score('%s')" % AS_OF)


def halves(session):
    """Users with one event each, at ages from 0 to 366, from a day that nothing else is on."""
    as_of = datetime.date(2025, 12, 31)
    rows = [(as_of - age * ONE, "age%03d" % age, "login") for age in range(367)]
    fill(session, rows)
    session.run("SELECT ecstats_daily('%s')" % AS_OF)
    for weight in ("1", "0.3", "0.123456789012345678901234567890", "-7.7"):
        set_weights(session, {"login": weight})
        wrong = []
        for half_life in (1, 2, 3, 7, 30, 91, 365):
            settings(session, 366, half_life)
            got = scores(session, as_of)
            # At its half-life half, at the double of it a quarter: to the bit.
            wrong += ["half-life %d, age %d: %s of %s" % (half_life, age, got["age%03d" % age], got["age000"])
                      for times in range(1, 366 // half_life + 1) for age in [times * half_life]
                      if age < 366 and times <= 60 and float(got["age%03d" % age]) != float(got["age000"]) * 0.5 ** times]
            if float(got["age000"]) != float(decimal.Decimal(weight)):
                wrong.append("an event of the day counts %s" % got["age000"])
        check(not wrong, "at age = half-life an event of weight %s counts half, to the bit" % weight, wrong)
    set_weights(session, {"login": "1"})
    for window in (1, 2, 7, 8, 30, 365, 366):
        settings(session, window, 7)
        got = scores(session, as_of)
        inside = {user for user, score in got.items() if score > 0}
        check(inside == {"age%03d" % age for age in range(window)}, "a window of %d days: age %d counts, age %d does not" % (window, window - 1, window),
              ["first differing: %s" % min(inside ^ {"age%03d" % age for age in range(window)}, default=None)])
    wrong = []
    settings(session, 366, "3.5")
    short = scores(session, as_of)
    settings(session, 366, "7")
    double = scores(session, as_of)
    wrong = ["age %d: %s, age %d: %s" % (age, short["age%03d" % age], 2 * age, double["age%03d" % (2 * age)]) for age in range(183)
             if abs(short["age%03d" % age] - double["age%03d" % (2 * age)]) > RELATIVE * short["age%03d" % age]]
    check(not wrong, "twice the half-life at twice the age is the same", wrong)
    settings(session, 7, 7)


def explained(session, rnd, rows):
    weights = {name: random_weight(rnd) for name in NAMES}
    set_weights(session, weights)
    settings(session, 30, "4.5")
    session.run("SELECT ecstats_score('%s')" % AS_OF)
    users = sorted({user for _day, user, _name in rows})
    users = rnd.sample(users, 1000)
    session.run("CREATE TABLE sample AS SELECT unnest(%s::text[]) AS user_id" % array(users))
    got = session.rows("""
        SELECT s.user_id, a.score, coalesce(e.points, 0) AS points, coalesce(e.size, 0) AS size, coalesce(e.wrong, 0) AS wrong
          FROM sample s LEFT JOIN ecstats.user_activity a USING (user_id) LEFT JOIN LATERAL (
            SELECT sum(x.points) AS points, sum(abs(x.points)) AS size,
                   count(*) FILTER (WHERE abs(x.points - x.event_count * x.weight * x.decay) > 1e-9 * abs(x.points)) AS wrong
              FROM ecstats_explain_score(s.user_id, '%s') x) e ON true""" % AS_OF)
    wrong = [str(row) for row in got if row["score"] == "" or row["wrong"] != "0"
             or abs(decimal.Decimal(row["score"]) - decimal.Decimal(row["points"])) > decimal.Decimal("1e-9") * decimal.Decimal(row["size"])]
    check(len(got) == 1000 and not wrong, "explanations of 1000 users add up to their scores", wrong)
    activity, wrong = Activity(rows, weights, 30, "4.5"), []
    for user in users[:100]:
        lines = {(row["day"], row["event"]): row for row in session.rows("SELECT * FROM ecstats_explain_score($u$%s$u$, '%s')" % (user, AS_OF))}
        want = {(str(day), name): n for day, names in activity.counts[user].items() if 0 <= (AS_OF - day).days < 30 for name, n in names.items()}
        if {key: int(row["event_count"]) for key, row in lines.items()} != want:
            wrong.append("%s: %s, counted %s" % (user, lines, want))
        wrong += ["%s: %s" % (user, row) for (day, name), row in lines.items()
                  if not near(row["decay"], activity.decay[(AS_OF - datetime.date.fromisoformat(day)).days], decimal.Decimal("1e-14"))
                  or decimal.Decimal(row["weight"]) != weights.get(name, 0) and not near(row["weight"], weights.get(name, 0), decimal.Decimal("1e-14"))]
    check(not wrong, "explanations of 100 users have a line for each day and event of the window, as counted", wrong)
    settings(session, 7, 7)
    set_weights(session, SHIPPED)


def written_bits(db, rows, order, names):
    """Bits of everything that is written of the rows when they come in this order and their names have these numbers."""
    session = Session(db.name)
    set_weights(session, {name: decimal.Decimal(i * 37 + 1) / 7 for i, name in enumerate(NAMES)})
    session.run("INSERT INTO ecstats.event_names VALUES " + ", ".join("(%d, '%s')" % (i + 1, name) for i, name in enumerate(names)))
    fill(session, order(rows))
    session.run("SELECT ecstats_daily('%s')" % AS_OF)
    got = session.rows(BITS), sorted(bits(session).items())
    session.close()
    return got


def permuted(rnd, rows):
    def shuffled(rows):
        rows = list(rows)
        rnd.shuffle(rows)
        return rows
    found = []
    for order, names in ((list, NAMES), (lambda rows: rows[::-1], NAMES[::-1]), (shuffled, shuffled(NAMES))):
        with Database("score_bits", "UTC") as db:
            found.append(written_bits(db, rows, order, names))
    check(found[0][0] and found[0] == found[1] == found[2], "rows in another order and names by other numbers: the same bits, %d users" % len(found[0][0]),
          [str(pair) for other in found[1:] for pair in zip(found[0][0], other[0]) if pair[0] != pair[1]])


def twins(session, text):
    rows = {row["user_id"]: [row[name] for name in row if name != "user_id"] for row in session.rows(BITS)}
    wrong = ["%s: %s, %s" % (user, rows[user], rows.get("~twin" + user)) for user in rows if "~twin" + user in rows and rows[user] != rows["~twin" + user]]
    pairs = sum("~twin" + user in rows for user in rows)
    check(pairs > 500 and not wrong, "%s: %d pairs of users with the same history have the same bits" % (text, pairs), wrong)


def years(rnd):
    """Users of three years, more days than one pass looks at: closed at once, and after changes of old days."""
    first = AS_OF - 1100 * ONE
    rows = [(first + rnd.randrange(1101) * ONE, "y%02d" % rnd.randrange(60), "login") for _ in range(700)]
    rows += [(first + (i * 83 % 700) * ONE, "long gone %d" % i, "click") for i in range(30)]
    with Database("score_years", "UTC") as db:
        session = Session(db.name)

        def hold(text, rows):
            session.run("SELECT ecstats_daily('%s')" % AS_OF)
            activity = Activity(rows)
            wrong = profile_differences(activity, AS_OF, {row["user_id"]: row for row in session.rows(STORED) if row["first_seen"] or row["user_id"] in activity.counts})
            closed = {row["day"] for row in session.rows("SELECT day FROM ecstats.daily_kpi")}
            want = {(str(day), str(age)): (str(size), str(back)) for (day, age), (size, back) in activity.cohorts(AS_OF).items() if str(day + age * ONE) in closed}
            got = {(row["cohort_day"], row["age_days"]): (row["cohort_size"], row["retained"]) for row in session.rows("SELECT * FROM ecstats.cohorts")}
            wrong += ["cohort %s: stored %s, counted %s" % (key, got.get(key), want.get(key)) for key in sorted(want.keys() | got.keys()) if want.get(key) != got.get(key)]
            check(not wrong, "three years: %s, %d users and %d cohorts" % (text, len(activity.counts), len(want)), wrong)
        fill(session, rows)
        hold("closed at once", rows)
        more = [(first - 3 * ONE, "y01", "login"), (first + 50 * ONE, "y02", "login"), (first + 400 * ONE, "new of old", "login"), (first, "long gone 3", "click")]
        fill(session, more)
        rows = rows + more
        hold("old days with more rows", rows)
        gone = {"y03", "long gone 5", "new of old"}
        session.run("DELETE FROM ecstats.events WHERE user_id IN (%s)" % ", ".join("'%s'" % user for user in gone))
        session.run("DELETE FROM ecstats.events WHERE event_time < '%s'" % (first + 200 * ONE))
        rows = [row for row in rows if row[1] not in gone and row[0] >= first + 200 * ONE]
        hold("old days with fewer rows", rows)
        session.run("SELECT ecstats_daily('%s')" % (AS_OF + 20 * ONE))
        wrong = profile_differences(Activity(rows), AS_OF + 20 * ONE, {row["user_id"]: row for row in session.rows(STORED) if row["first_seen"]})
        check(not wrong, "three years: twenty days later", wrong)
        session.close()


def again(session):
    versions = "SELECT user_id, xmin, ctid FROM ecstats.user_activity ORDER BY 1"
    before, was = session.rows(versions), bits(session)
    session.run("SELECT ecstats_score('%s')" % AS_OF)
    check(bits(session) == was, "asked again: the same bits")
    check(session.rows(versions) == before, "scored again: no row is written")


def main():
    rnd = random.Random(SEED)
    with Database("score_properties", "UTC") as db:
        session = Session(db.name)
        rows = shop(rnd, 700, 24)
        fill(session, rnd.sample(rows, len(rows)))
        session.run("SELECT ecstats_daily('%s')" % AS_OF)
        wrong = profile_differences(Activity(rows), AS_OF, {row["user_id"]: row for row in session.rows(STORED)})
        check(not wrong, "seed %d: %d events; what the close writes is what was counted" % (SEED, len(rows)), wrong)
        twins(session, "shipped weights")
        linear(session, rnd, rows)
        extremes(session, rnd, rows)
        explained(session, rnd, rows)
        set_weights(session, {name: random_weight(rnd) for name in NAMES})
        session.run("SELECT ecstats_score('%s')" % AS_OF)
        twins(session, "random weights")
        again(session)
        halves(session)
        session.close()
    permuted(rnd, rows[:20000])
    years(rnd)


main()
finish()
