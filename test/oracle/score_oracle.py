#!/usr/bin/python3
"""Holds scores against the shared files' figures, every user of every day that they have; and levels, days, previous scores
and cohorts of every day against what is counted here from the raw rows. Closed day by day, at once, and with rows that
come late, it must be the same."""
import datetime
import decimal
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from activity import AGES, Activity, near, profile_differences  # noqa: E402
from oracle import Database, Session, check, expected, finish, skip_without_data  # noqa: E402

ONE = datetime.timedelta(1)
COUNTS = {"n_view": "view_item", "n_cart": "add_to_cart", "n_buy": "purchase", "n_fav": "favorite"}
STORED = "SELECT user_id, score, previous_score, level, previous_level, last_active_day, active_days, first_seen, last_high_day FROM ecstats.user_activity"
COHORTS = "SELECT cohort_day, age_days, cohort_size, retained FROM ecstats.cohorts"


def date(text):
    return datetime.date.fromisoformat(text)


def zozo_user(user):
    """As load_shared.py makes it: four whole hashes are too long."""
    return "|".join(part[:31] for part in user.split("|"))


def raw_rows(session):
    return [(date(row["day"]), row["user_id"], row["event"]) for row in session.rows(
        "SELECT (event_time AT TIME ZONE (SELECT timezone FROM ecstats.config))::date AS day, user_id, event FROM ecstats.events")]


def by_user(session, query):
    return {row["user_id"]: row for row in session.rows(query)}


def hold(text, want, got, zero_may_be_missing=True):
    """want: {user: score}, got: {user: score as text}. Whoever has no event that counts may be left out."""
    wrong = []
    for user in sorted(want.keys() | got.keys()):
        have = got.get(user, "0" if zero_may_be_missing and want.get(user) == 0 else None)
        if have is None or user not in want and decimal.Decimal(have) != 0 or not near(have, want.get(user, 0)):
            wrong.append("%s: %s, expected %s" % (user, have, want.get(user)))
    check(want and not wrong, "%s: %d users" % (text, len(want)), wrong)


def column(rows, name):
    return {user: decimal.Decimal(row[name]) for user, row in rows.items()}


def scores(session, as_of):
    return {row["user_id"]: row["score"] for row in session.rows("SELECT user_id, score FROM ecstats_scores('%s')" % as_of)}


def written(session, as_of):
    """Scores that ecstats_score writes."""
    session.run("SELECT ecstats_score('%s')" % as_of)
    return {row["user_id"]: row["score"] for row in session.rows("SELECT user_id, score FROM ecstats.user_activity")}


def hold_day(session, text, as_of, want):
    """want: the file's rows of a day, by user. The day is closed and no later one."""
    text += " as of %s" % as_of
    before = session.rows(STORED + " ORDER BY user_id")
    hold(text + ", user_activity at the close", column(want, "score"), {row["user_id"]: row["score"] for row in before}, False)
    hold(text + ", ecstats_scores", column(want, "score"), scores(session, as_of))
    counted = {user: {name: 0 for name in COUNTS} for user in want}
    points, stray = {user: decimal.Decimal(0) for user in want}, []
    kinds = {event: name for name, event in COUNTS.items()}
    for row in session.rows("SELECT a.user_id, e.event, sum(e.event_count) AS n, sum(e.points) AS points FROM ecstats.user_activity a "
                            "CROSS JOIN LATERAL ecstats_explain_score(a.user_id, '%s') e GROUP BY 1, 2" % as_of):
        if row["user_id"] not in want or row["event"] not in kinds:
            stray.append(str(row))
            continue
        counted[row["user_id"]][kinds[row["event"]]] += int(row["n"])
        points[row["user_id"]] += decimal.Decimal(row["points"])
    wrong = ["%s: %s, expected %s" % (user, counted[user], {name: row[name] for name in COUNTS}) for user, row in want.items()
             if any(counted[user][name] != int(row[name]) for name in COUNTS)]
    check(not wrong and not stray, "%s, ecstats_explain_score counts what the file does" % text, stray + wrong)
    hold(text + ", ecstats_explain_score's points", column(want, "score"), points)
    for setting, back, name in (("UPDATE ecstats.config SET score_window_days = 8", "UPDATE ecstats.config SET score_window_days = 7", "score_incl_day7"),
                                ("UPDATE ecstats.event_types SET weight = 0.3 WHERE event = 'favorite'",
                                 "UPDATE ecstats.event_types SET weight = 0 WHERE event = 'favorite'", "score_fav03")):
        session.run(setting)
        hold("%s, %s of ecstats_scores" % (text, name), column(want, name), scores(session, as_of))
        hold("%s, %s of ecstats_score" % (text, name), column(want, name), written(session, as_of), False)
        session.run(back)
    hold(text + ", ecstats_score", column(want, "score"), written(session, as_of), False)
    check(session.rows(STORED + " ORDER BY user_id") == before, text + ": with the settings as they were, the rows are as they were")


def hold_stored(session, activity, as_of):
    """What is wrong with user_activity and cohorts after a day's close."""
    wrong = profile_differences(activity, as_of, by_user(session, STORED))
    state = session.rows("SELECT as_of, users, stale_from FROM ecstats.activity_state")[0]
    if state["as_of"] != str(as_of) or int(state["users"]) != len(activity.known(as_of)) or state["stale_from"] != "":
        wrong.append("as of %s: activity_state is %s, there are %d users" % (as_of, state, len(activity.known(as_of))))
    want = activity.cohorts(as_of)
    got = {(date(row["cohort_day"]), int(row["age_days"])): (int(row["cohort_size"]), int(row["retained"])) for row in session.rows(COHORTS)}
    wrong += ["cohort %s/%s as of %s: stored %s, counted %s" % (*key, as_of, got.get(key), want.get(key))
              for key in sorted(want.keys() | got.keys()) if got.get(key) != want.get(key)]
    return wrong


def stored(session):
    return session.rows(STORED + " ORDER BY user_id"), session.rows(COHORTS + " ORDER BY 1, 2")


def file_by_day(name, user_of):
    days = {}
    for row in expected(name):
        days.setdefault(date(row["as_of"]), {})[user_of(row["user_id"])] = row
    return days


def day_by_day(name, kind, zone, until, user_of=str):
    """Closes each day by itself; returns what is stored at the end."""
    want = file_by_day(name, user_of)
    with Database("score", zone) as db:
        db.load(kind)
        session = Session(db.name)
        activity = Activity(raw_rows(session))
        wrong, day, closed = [], min(min(days) for days in activity.counts.values()), 0
        while day <= until:
            session.run("SELECT ecstats_daily('%s')" % day)
            wrong += hold_stored(session, activity, day)
            if day in want:
                hold_day(session, name, day, want[day])
            day, closed = day + ONE, closed + 1
        check(not wrong and closed and not want.keys() - {day - back * ONE for back in range(1, closed + 1)},
              "%s: scores, levels, days and cohorts (%s days) of %d users after each of %d closes" % (
                  name, "/".join(map(str, AGES)), len(activity.counts), closed), wrong)
        earlier = [d for d in want if d < until]
        for as_of in earlier:
            hold("%s as of %s, ecstats_scores after later days were closed" % (name, as_of), column(want[as_of], "score"), scores(session, as_of))
        end = stored(session)
        session.close()
        return end


def in_one_go(name, kind, zone, until, end):
    with Database("score", zone) as db:
        db.load(kind)
        session = Session(db.name)
        session.run("SELECT ecstats_daily('%s')" % until)
        check(stored(session) == end, name + ": every day closed at once leaves the same rows as one after the other")
        session.close()


def late_rows(name, kind, zone, until, end):
    with Database("score", zone) as db:
        db.load(kind)
        session = Session(db.name)
        session.run("""
            CREATE TABLE held AS SELECT * FROM ecstats.events WHERE hashtext(user_id || extra::text || event || event_time::text) % 2 = 0;
            DELETE FROM ecstats.events WHERE hashtext(user_id || extra::text || event || event_time::text) % 2 = 0;
            SELECT ecstats_daily('{0}')""".format(until))
        half = stored(session)
        session.run("INSERT INTO ecstats.events SELECT * FROM held; SELECT ecstats_daily('%s')" % until)
        check(half != end and stored(session) == end, name + ": with half of the rows late, the rows are the same in the end")
        # Whole days late, and whole users.
        session.run("TRUNCATE held; INSERT INTO held SELECT * FROM ecstats.events WHERE ecstats_day(event_time) IN ('{0}'::date - 40, '{0}'::date - 3) "
                    "OR hashtext(user_id) % 5 = 0; DELETE FROM ecstats.events e WHERE ecstats_day(event_time) IN ('{0}'::date - 40, '{0}'::date - 3) "
                    "OR hashtext(user_id) % 5 = 0; SELECT ecstats_daily('{0}')".format(until))
        activity = Activity(raw_rows(session))
        left = {row["user_id"] for row in session.rows("SELECT user_id FROM ecstats.user_activity WHERE (score, previous_score) = (0, 0) AND "
                                                       "(level, previous_level, active_days) = ('low', 'low', 0)")}
        rows = by_user(session, STORED)
        gone = rows.keys() - activity.known(until)
        check(gone <= left, name + ": users whose events are all deleted keep a row, with a score of 0", sorted(gone - left))
        wrong = profile_differences(activity, until, {user: row for user, row in rows.items() if user not in gone})
        check(not wrong, name + ": after whole days and users were deleted, the others are as counted", wrong)
        session.run("INSERT INTO ecstats.events SELECT * FROM held; SELECT ecstats_daily('%s')" % until)
        check(stored(session) == end, name + ": and once they are back, the rows are the same again")
        session.close()


skip_without_data("score_oracle")
TMALL = ("tmall__score.csv", "tmall", "Asia/Shanghai", date("2013-06-14"))
final = day_by_day(*TMALL)
in_one_go(*TMALL, final)
late_rows(*TMALL, final)
day_by_day("rees46__score_utc.csv.gz", "rees46", "UTC", date("2019-10-07"))
day_by_day("zozo_random__score_asia_tokyo_click_as_cart.csv", "zozo", "Asia/Tokyo", date("2019-12-01"), zozo_user)
finish()
