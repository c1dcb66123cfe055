#!/usr/bin/python3
"""Holds daily_kpi and daily_events against the figures of the shared events, every day to the last digit."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from oracle import Database, check, compare, expected, finish, skip_without_data  # noqa: E402

NAMES = ("view_item", "add_to_cart", "favorite", "purchase")

KPI = "SELECT k.day, k.event_count, k.pv, k.uv, k.new_user_count" + "".join(
    ", coalesce((SELECT e.%s FROM ecstats.daily_events e WHERE e.day = k.day AND e.event = '%s'), 0) AS %s" % (
        column, name, name + suffix)
    for name in NAMES for column, suffix in (("event_count", ""), ("user_count", "_users"))) + " FROM ecstats.daily_kpi k"

SHOP = {"event_count": "events", "pv": "pv", "uv": "uv", "view_item": "pv", "view_item_users": "uv_view", "add_to_cart": "cart",
        "favorite": "fav", "purchase": "buy", "add_to_cart_users": "cart_users", "purchase_users": "buyers"}
CLICKS = {"pv": "impressions", "view_item": "impressions", "uv": "uv", "add_to_cart": "clicks", "add_to_cart_users": "clickers"}

# File, kind, the shop's zone. Where the zone is not that of the stamps, days are cut anew.
FILES = (
    ("tmall__daily.csv", "tmall", "Asia/Shanghai", SHOP),
    ("rees46__daily_utc.csv", "rees46", "UTC", SHOP),
    ("rees46__daily_asia_shanghai.csv", "rees46", "Asia/Shanghai", SHOP),
    ("rees46__daily_america_new_york.csv", "rees46", "America/New_York", SHOP),
    ("rees46__daily_south_georgia_utc-2.csv", "rees46", "Atlantic/South_Georgia", SHOP),
    ("zozo_random__daily_utc.csv", "zozo", "UTC", CLICKS),
    ("zozo_random__daily_asia_tokyo.csv", "zozo", "Asia/Tokyo", CLICKS),
    ("zozo_random__daily_america_new_york.csv", "zozo", "America/New_York", CLICKS),
)


def hold(name, kind, zone, columns):
    with Database("events", zone) as db:
        db.load(kind)
        db.run("SELECT ecstats_daily((SELECT max(ecstats_day(event_time)) FROM ecstats.events))")
        compare(name, expected(name), db.rows(KPI), ["day"], columns)
        users = db.rows("SELECT (SELECT count(DISTINCT user_id) FROM ecstats.events) AS users, sum(new_user_count) AS new FROM ecstats.daily_kpi")[0]
        check(users["users"] == users["new"], name + ": every user is new once", [str(users)])
        wrong = db.rows("""
            SELECT e.day FROM (SELECT day, sum(event_count) AS n FROM ecstats.daily_events GROUP BY day) e
              FULL JOIN (SELECT day, sum(event_count) AS n FROM ecstats.user_daily GROUP BY day) u USING (day)
              FULL JOIN ecstats.daily_kpi k USING (day) WHERE (e.n, u.n) IS DISTINCT FROM (k.event_count, k.event_count)""")
        check(not wrong, name + ": daily_events and user_daily add up to daily_kpi", [row["day"] for row in wrong])


skip_without_data("events_oracle")
for file in FILES:
    hold(*file)
finish()
