#!/usr/bin/python3
"""Holds daily_kpi, daily_sales and buyers against the figures of the shared orders, every day to the last digit."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lib"))
from oracle import Database, check, compare, expected, finish, skip_without_data  # noqa: E402

# Paid at once, every sale counts as paid as well.
DAILY = {
    "gmv": "gmv_exact", "order_count": "orders_positive", "quantity": "qty_positive", "buyer_count": "paying_users",
    "aov": "aov", "refund_amount": "refund_exact", "refund_order_count": "cancel_invoices",
    "paid_amount": "gmv_exact", "paid_order_count": "orders_positive", "payer_count": "paying_users",
    "net_amount": "net_gmv", "rejects": "other_nonpositive_lines",
}

KPI = """
SELECT k.day, k.gmv, k.order_count, k.quantity, k.buyer_count, round(k.aov, 2) AS aov, k.refund_amount, k.refund_order_count,
       k.paid_amount, k.paid_order_count, k.payer_count, k.net_amount,
       (SELECT count(*) FROM ecstats.rejects r
         WHERE ecstats_day((r.payload->>'InvoiceDate')::timestamp AT TIME ZONE 'Europe/London') = k.day) AS rejects
  FROM ecstats.daily_kpi k"""

SALES = {"total_sold": "qty_positive", "total_revenue": "gmv_exact", "order_count": "orders_positive",
         "buyer_count": "paying_users", "refund_amount": "refund_exact"}


def close_all(db, text):
    """Closes the last day, and with it every earlier one that has data; a second time changes nothing."""
    db.run("SELECT ecstats_daily((SELECT max(ecstats_day(order_time)) FROM ecstats.order_lines))")
    before = db.rows("SELECT * FROM ecstats.daily_kpi ORDER BY day")
    db.run("SELECT ecstats_daily((SELECT max(day) FROM ecstats.daily_kpi))")
    check(db.rows("SELECT * FROM ecstats.daily_kpi ORDER BY day") == before, text + ": closing again changes nothing")


def sums_agree(db, text):
    wrong = db.rows("""
        SELECT k.day FROM ecstats.daily_kpi k
          LEFT JOIN (SELECT day, sum(total_sold) AS sold, sum(total_revenue) AS revenue, sum(refund_amount) AS refund
                       FROM ecstats.daily_sales GROUP BY day) s ON s.day = k.day
         WHERE (k.quantity, k.gmv, k.refund_amount) IS DISTINCT FROM (coalesce(s.sold, 0), coalesce(s.revenue, 0), coalesce(s.refund, 0))""")
    check(not wrong, text + ": daily_sales adds up to daily_kpi", [row["day"] for row in wrong])


def buyers_agree(db, text):
    """Every customer's orders, money and first and last day. Paid at once: what was ordered was paid."""
    want = [{**row, "user_id": row["customer_id"][:-len(".0")]} for row in expected("online_retail__customers.csv")]
    for row in want:
        row.update(first=row["first_ts"][:10].replace("-", ""), last=row["last_ts"][:10].replace("-", ""))
    got = db.rows("SELECT user_id, order_count, gmv, paid_amount, to_char(first_order_day, 'YYYYMMDD') AS first,"
                  " to_char(last_order_day, 'YYYYMMDD') AS last FROM ecstats.buyers")
    compare(text, want, got, ["user_id"], {"order_count": "orders", "gmv": "gmv", "paid_amount": "gmv", "first": "first", "last": "last"})
    # In plain SQL: a customer with orders of two regions has the one of the most.
    wrong = db.rows("""
        SELECT b.user_id FROM ecstats.buyers b JOIN (
                SELECT DISTINCT ON (user_id) user_id, region, channel FROM (
                    SELECT user_id, region, channel, count(DISTINCT order_id) AS orders, sum(amount) AS gmv
                      FROM ecstats.order_lines WHERE quantity > 0 GROUP BY 1, 2, 3) p
                 ORDER BY user_id, orders DESC, gmv DESC, region) p ON p.user_id = b.user_id
         WHERE (b.favourite_region, b.favourite_channel) IS DISTINCT FROM (p.region, p.channel)""")
    check(not wrong, text + ": favourite region and channel", [row["user_id"] for row in wrong])
    check(not db.rows("SELECT * FROM ecstats_verify()"), "online_retail: ecstats_verify finds nothing")


def in_london():
    with Database("london", "Europe/London") as db:
        db.load("orders")
        close_all(db, "online_retail")
        compare("online_retail__daily.csv", expected("online_retail__daily.csv"), db.rows(KPI), ["day"], DAILY)
        sums_agree(db, "online_retail")
        buyers_agree(db, "online_retail__customers.csv")

        # A group without a sale or a return has no row.
        want = [row for row in expected("online_retail__product_country_5days.csv")
                if row["lines_positive"] != "0" or row["cancel_lines"] != "0"]
        days = ", ".join("'%s'" % day for day in sorted({row["day"] for row in want}))
        got = db.rows("SELECT day, product_id AS product, region, channel, total_sold, total_revenue, order_count, buyer_count,"
                      " refund_amount FROM ecstats.daily_sales WHERE day IN (%s)" % days)
        check({row["channel"] for row in got} == {"online"}, "online_retail: there is one channel")
        compare("online_retail__product_country_5days.csv", want, got, ["day", "product", "region"], SALES)

        want = [{**row, "region": row["country"]} for row in expected("online_retail__daily_country.csv")
                if row["lines_positive"] != "0" or row["cancel_lines"] != "0"]
        got = db.rows("SELECT day, region, sum(total_sold) AS total_sold, sum(total_revenue) AS total_revenue,"
                      " sum(refund_amount) AS refund_amount FROM ecstats.daily_sales GROUP BY day, region")
        compare("online_retail__daily_country.csv", want, got, ["day", "region"],
                {key: SALES[key] for key in ("total_sold", "total_revenue", "refund_amount")})


def in_shanghai():
    with Database("shanghai", "Asia/Shanghai") as db:
        db.load("orders", read_zone="Europe/London")
        close_all(db, "online_retail in Asia/Shanghai")
        compare("online_retail__daily_tz_asia_shanghai.csv", expected("online_retail__daily_tz_asia_shanghai.csv"),
                db.rows(KPI), ["day"], DAILY)
        sums_agree(db, "online_retail in Asia/Shanghai")


skip_without_data("orders_oracle")
in_london()
in_shanghai()
finish()
