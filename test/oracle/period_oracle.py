#!/usr/bin/python3
"""Holds weekly_kpi and monthly_kpi against the figures of the shared orders and events, to the last digit; and, where
days are cut otherwise, against plain SQL over the raw rows."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from oracle import Database, check, compare, expected, finish, skip_without_data  # noqa: E402

# Paid at once, every sale counts as paid as well.
ORDERS = {
    "gmv": "gmv_exact", "order_count": "orders_positive", "quantity": "qty_positive", "buyer_count": "paying_users",
    "aov": "aov", "refund_amount": "refund_exact", "refund_order_count": "cancel_invoices",
    "paid_amount": "gmv_exact", "paid_order_count": "orders_positive", "payer_count": "paying_users", "net_amount": "net_gmv",
}
EVENTS = {"event_count": "events", "pv": "pv", "uv": "uv"}

KPI = """
SELECT day, gmv, order_count, quantity, buyer_count, round(aov, 2) AS aov, refund_amount, refund_order_count, paid_amount,
       paid_order_count, payer_count, net_amount, event_count, pv, uv
  FROM ecstats.%s"""

# By period: what is counted over it, from raw rows.
RAW = """
WITH kinds(kind) AS (VALUES ('week'), ('month')),
l AS (SELECT kind, date_trunc(kind, ecstats_day(order_time)::timestamp)::date AS day, l.* FROM ecstats.order_lines l, kinds),
p AS (SELECT kind, date_trunc(kind, ecstats_day(paid_time)::timestamp)::date AS day, l.* FROM ecstats.order_lines l, kinds
       WHERE paid_time IS NOT NULL AND quantity > 0),
e AS (SELECT kind, date_trunc(kind, ecstats_day(event_time)::timestamp)::date AS day, e.* FROM ecstats.events e, kinds)
SELECT kind, day, coalesce(gmv, 0) AS gmv, coalesce(orders, 0) AS orders, coalesce(pieces, 0) AS pieces, coalesce(buyers, 0) AS buyers,
       coalesce(refund, 0) AS refund, coalesce(returns, 0) AS returns, coalesce(abnormal, 0) AS abnormal, coalesce(paid, 0) AS paid,
       coalesce(paid_orders, 0) AS paid_orders, coalesce(payers, 0) AS payers, coalesce(events, 0) AS events, coalesce(uv, 0) AS uv
  FROM (SELECT kind, day, sum(amount) FILTER (WHERE quantity > 0) AS gmv, sum(quantity) FILTER (WHERE quantity > 0) AS pieces,
               count(DISTINCT order_id) FILTER (WHERE quantity > 0) AS orders, count(DISTINCT user_id) FILTER (WHERE quantity > 0) AS buyers,
               -sum(amount) FILTER (WHERE quantity < 0) AS refund, count(DISTINCT order_id) FILTER (WHERE quantity < 0) AS returns,
               count(DISTINCT order_id) FILTER (WHERE quantity > 0 AND status = ANY (SELECT unnest(abnormal_statuses) FROM ecstats.config)) AS abnormal
          FROM l GROUP BY kind, day) o
  FULL JOIN (SELECT kind, day, sum(amount) AS paid, count(DISTINCT order_id) AS paid_orders, count(DISTINCT user_id) AS payers
               FROM p GROUP BY kind, day) q USING (kind, day)
  FULL JOIN (SELECT kind, day, count(*) AS events, count(DISTINCT user_id) AS uv FROM e GROUP BY kind, day) v USING (kind, day)"""
STORED = """
SELECT * FROM (SELECT 'week' AS kind, * FROM ecstats.weekly_kpi UNION ALL SELECT 'month', * FROM ecstats.monthly_kpi) s"""
SAME = {"gmv": "gmv", "order_count": "orders", "quantity": "pieces", "buyer_count": "buyers", "refund_amount": "refund",
        "refund_order_count": "returns", "abnormal_order_count": "abnormal", "paid_amount": "paid", "paid_order_count": "paid_orders",
        "payer_count": "payers", "event_count": "events", "uv": "uv"}


# Closes the last day, and with it every earlier one.
CLOSE = """
SELECT ecstats_daily((SELECT max(d) FROM (SELECT ecstats_day(greatest(max(order_time), max(paid_time))) AS d FROM ecstats.order_lines
                                          UNION ALL SELECT ecstats_day(max(event_time)) FROM ecstats.events) m))"""


def close_all(db, text):
    """Closes every day; a second time touches no week and no month."""
    versions = "SELECT day, xmin::text || ctid::text AS version FROM ecstats.%s ORDER BY day"
    db.run(CLOSE)
    before = [db.rows(versions % table) for table in ("weekly_kpi", "monthly_kpi")]
    db.run(CLOSE)
    check([db.rows(versions % table) for table in ("weekly_kpi", "monthly_kpi")] == before, text + ": closing again touches nothing")
    check(not db.rows(STORED + " WHERE revision <> 1 OR NOT complete OR closed_at IS NULL"), text + ": every period is closed and complete")


def orders():
    with Database("period_orders", "Europe/London") as db:
        db.load("orders")
        close_all(db, "online_retail")
        want = [{**row, "day": row["week_start"]} for row in expected("online_retail__weekly_monday.csv")]
        compare("online_retail__weekly_monday.csv", want, db.rows(KPI % "weekly_kpi"), ["day"], ORDERS)
        want = [{**row, "day": row["month"] + "-01"} for row in expected("online_retail__monthly.csv")]
        compare("online_retail__monthly.csv", want, db.rows(KPI % "monthly_kpi"), ["day"], ORDERS)


def events():
    with Database("period_events", "Asia/Shanghai") as db:
        db.load("tmall")
        close_all(db, "tmall")
        want = [{**row, "day": row["week_start"]} for row in expected("tmall__weekly_monday.csv")]
        compare("tmall__weekly_monday.csv", want, db.rows(KPI % "weekly_kpi"), ["day"], EVENTS)
        compare("tmall by plain SQL", db.rows(RAW), db.rows(STORED), ["kind", "day"], SAME)


def days_from_four():
    """Orders in another zone than their stamps, with days that begin at 04:00, and late changes."""
    with Database("period_four", "America/New_York") as db:
        db.run("UPDATE ecstats.config SET day_starts_at = '04:00'")
        db.load("orders", read_zone="Europe/London")
        close_all(db, "online_retail from 04:00 in America/New_York")
        compare("online_retail from 04:00 in America/New_York by plain SQL", db.rows(RAW), db.rows(STORED), ["kind", "day"], SAME)
        # Customers who lose an order, orders that move by 20 days, payments that come late, statuses that change.
        db.run("""
            DELETE FROM ecstats.order_lines WHERE hashtext(order_id) % 97 = 0;
            UPDATE ecstats.order_lines SET order_time = order_time - interval '20 days' WHERE hashtext(order_id) % 89 = 0;
            UPDATE ecstats.order_lines SET paid_time = paid_time + interval '9 days' WHERE hashtext(order_id) % 83 = 0;
            UPDATE ecstats.order_lines SET status = 'cancelled' WHERE hashtext(order_id) % 79 = 0;""" + CLOSE)
        compare("the same after late changes", db.rows(RAW), db.rows(STORED), ["kind", "day"], SAME)
        check(db.rows(STORED + " WHERE revision > 1"), "late changes are revisions")


skip_without_data("period_oracle")
orders()
events()
days_from_four()
finish()
