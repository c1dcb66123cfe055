"""The walk of a day from a platform's API into the figures, with the real pusher and the real extension; see run.sh."""
import base64
import json
import os
import sys
import traceback
from urllib.parse import quote as percent

from harness import DB, Pusher, check, equal, failed, once, quote, sql, wait_until
from receiver import Answer
from shop import DAY, KEY, TOKEN, Shop

OPERATOR = DB + "_operator"
AS_PUSHER = {"PGUSER": DB + "_pusher"}
ROWS = ("SELECT concat_ws('|', order_id, line_no, to_char(order_time AT TIME ZONE 'Asia/Shanghai', 'MM-DD HH24:MI:SS.US'), coalesce(user_id, '-'), product_id, region,"
        " channel, quantity, amount, status, coalesce(to_char(paid_time AT TIME ZONE 'Asia/Shanghai', 'MM-DD HH24:MI:SS.US'), '-'), coalesce(extra->>'note', '-'))"
        " FROM ecstats.order_lines WHERE order_id %s 'w-%%' ORDER BY order_id COLLATE \"C\", line_no")
STORED = "SELECT md5(string_agg(l::text || l.xmin || l.ctid, ',' ORDER BY order_id, line_no, order_time)) FROM ecstats.order_lines l"
FIRST = {"items": "$.data.orders", "next": "$.data.next", "timezone": "Asia/Shanghai", "allow_private": True,
         "fields": {"order_id": "$.id", "order_time": "$.created", "user_id": "$.buyer.id", "status": "$.state", "paid_time": "$.paid",
                    "region": "$.province", "note": "$.note", "items": "$.lines"},
         "item_fields": {"line_no": "$.no", "product_id": "$.sku", "quantity": "$.n", "amount": "$.total"}}


def make_source(name, url, **options):
    sql("INSERT INTO ecstats.sources (name, kind, target, url, secret, options) VALUES (%s, 'http', 'orders', %s, %s, %s)"
        % tuple(quote(v) for v in (name, url, TOKEN, json.dumps(options))))


def collect(name, day=DAY):
    return int(sql("SELECT ecstats_collect(%s, %s)" % (quote(name), quote(day)), user=OPERATOR))


def fetch(ident, columns):
    return sql("SELECT concat_ws(' ', %s) FROM ecstats.source_fetches WHERE fetch_id = %d" % (columns, ident))


def attempt_again(ident, attempts, reason, text):
    """Waits until a page was put back, checks for how long and why, and makes it due: nobody waits for minutes here."""
    check(wait_until(lambda: fetch(ident, "state, attempts") == "pending %d" % attempts), text, fetch(ident, "state, page, attempts, error"))
    check(reason in fetch(ident, "error"), "with the reason", fetch(ident, "error"))
    equal(sql("SELECT round(extract(epoch FROM next_attempt_at - clock_timestamp()) / 60) FROM ecstats.source_fetches WHERE fetch_id = %d" % ident),
          str(2 ** (attempts - 1)), "put off for %d min" % 2 ** (attempts - 1))
    sql("UPDATE ecstats.source_fetches SET next_attempt_at = clock_timestamp() WHERE fetch_id = %d; NOTIFY ecstats_deliveries" % ident)


def daily():
    return sql("SELECT complete, revision, order_count, quantity, trim_scale(gmv), trim_scale(refund_amount) FROM ecstats_daily('%s')" % DAY)


def local(text):
    """A time of the API, which has a fraction or none at all, as ROWS shows it."""
    return "-" if text is None else text.replace("T", " ")[5:].ljust(21, "0")


def served_first(api):
    rows = []
    for o in api.first:
        for i in o["lines"]:
            rows.append("|".join(str(v) for v in (
                o["id"], i["no"], local(o["created"]), o["buyer"]["id"] if o["buyer"] else "-", i["sku"], o["province"] or "unknown", "unknown", i["n"],
                i["total"].strip("@"), o["state"], local(o["paid"]), o["note"])))
    return sorted(rows)


def served_second(api):
    rows = []
    for o in api.second:
        for n, i in enumerate(o["items"], 1):
            rows.append("|".join(str(v) for v in (
                o["order_id"], n, "03-01 %02d:00:00.000000" % (int(o["order_time"][11:13]) + 8), o["user_id"], i["product_id"], "unknown", "web",
                i["quantity"], i["amount"].strip("@"), "placed", "-", "-")))
    return sorted(rows)


def test_arrival(api, pusher):
    """All kinds of trouble on the way; then everything is there, once, and the day is complete."""
    equal(daily(), "f|1|0|0|0|0", "a day whose sources have not come is closed, not complete")
    api.trouble = {
        ("/v1/orders", 1): [Answer(status=429, body=b"slow down", headers={"Retry-After": "1"})],
        ("/v1/orders", 2): [Answer(status=500, body=b"oops"), "reset_mid", "ends_early"],
        ("/v1/orders", 3): ["promises_less"],
        ("/v2/orders", 2): [Answer(status=503, body=b"", headers={"Retry-After": "1"})],
    }
    first = collect("maps")
    check(wait_until(lambda: fetch(first, "page, attempts") == "2 1", 20), "429 waits as long as Retry-After says, by itself", pusher.log())
    equal(sql("SELECT last_rows IS NULL AND watermark IS NULL FROM ecstats.sources WHERE name = 'maps'"), "t", "a fetch under way moves no watermark")
    attempt_again(first, 1, "page 2: HTTP 500: oops", "500: the page is put back")
    attempt_again(first, 2, "page 2: HTTP 200: reset", "broken off in the middle: put back")
    attempt_again(first, 3, "page 2: HTTP 200: reset", "a length of more than there is: put back")
    attempt_again(first, 1, "page 3: the answer is no JSON", "a length of less than there is: put back")
    check(wait_until(lambda: fetch(first, "state") == "done"), "then the last page ends it", fetch(first, "state, page, error") + pusher.log())
    equal(fetch(first, "page, pages, rows, coalesce(error, '-'), finished_at IS NOT NULL"), "3 3 38 - t", "three pages, 38 lines, no error left")
    got = sql(ROWS % "NOT LIKE").split("\n")
    equal(sorted(got), served_first(api), "order lines exactly as served")
    equal(sql("SELECT watermark = ecstats.day_start('%s'::date + 1) FROM ecstats.sources WHERE name = 'maps'" % DAY), "t", "the watermark is at the day's end")
    equal(daily().split("|")[0], "f", "the other source is late: not complete")

    second = collect("links")
    check(wait_until(lambda: fetch(second, "state") == "done"), "paged by Link, after a 503 with Retry-After", fetch(second, "state, page, error") + pusher.log())
    equal(sorted(sql(ROWS % "LIKE").split("\n")), served_second(api), "order lines exactly as served")
    lines = [(int(r.split("|")[7]), r.split("|")[8]) for r in served_first(api) + served_second(api)]
    cents = sum(int(a.replace(".", "")) for q, a in lines if q > 0)
    equal(daily(), "t|3|31|%d|%d.%02d|9.9" % (sum(q for q, a in lines if q > 0), cents // 100, cents % 100), "the day is complete, its figures are the API's to the cent")
    asked = api.seen("/v1/orders")
    equal([r.query["page"] for r in asked], list("1122223" + "3"), "each page was asked for until it came, no other")
    check(all(r.headers.get("authorization") == "Bearer " + TOKEN and r.headers.get("accept") == "application/json" and r.method == "GET" for r in asked),
          "each time with the bearer token")
    check(all(r.headers.get("x-api-key") == TOKEN and "authorization" not in r.headers for r in api.seen("/v2/orders")), "or in the header that the source names")


def test_again(api, pusher):
    """The same day again changes nothing; what changed at the platform arrives."""
    before = sql(STORED)
    for name in ("maps", "links"):
        ident = collect(name)
        check(wait_until(lambda: fetch(ident, "state") == "done"), "%s: the same day again" % name, fetch(ident, "state, error"))
    equal((sql(STORED), sql("SELECT count(*) FROM ecstats.day_marks"), sql("SELECT count(*) FROM ecstats.rejects")), (before, "0", "0"),
          "no row is written, no day is marked, nothing rejected")
    figures = daily()
    equal(figures.split("|")[:2], ["t", "3"], "the day stays complete, at its revision")

    api.second[0]["items"].pop()
    api.second[1]["items"][0]["amount"] = "@-1@"
    ident = collect("links")
    check(wait_until(lambda: fetch(ident, "state") == "done"), "a changed day", fetch(ident, "state, error"))
    equal(sql("SELECT string_agg(order_id || ' ' || line_no || ' ' || amount, ', ' ORDER BY order_id, line_no) FROM ecstats.order_lines WHERE order_id IN ('w-01', 'w-02')"),
          "w-01 1 1.99, w-02 1 2.99, w-02 2 0.01", "a line that is gone goes, an order that is wrong stays as it was")
    equal(sql("SELECT source, day, sqlstate, payload->>'order_id' FROM ecstats.rejects"), "links|%s|23514|w-02" % DAY, "and is kept as a reject of the day")
    api.second[1]["items"][0]["amount"] = "@5@"
    ident = collect("links")
    check(wait_until(lambda: fetch(ident, "state") == "done"), "the platform mends it", fetch(ident, "state, error"))
    equal(sql("SELECT (SELECT count(*) FROM ecstats.rejects), (SELECT amount FROM ecstats.order_lines WHERE order_id = 'w-02' AND line_no = 1)"), "0|5", "the reject is taken back")
    equal(daily().split("|")[:2], ["t", "4"], "the day is restated")


def test_no(api, pusher):
    """A clear no: failed at once, with the reason, and the operators are told, by the same pusher."""
    before = sql(STORED), sql("SELECT watermark FROM ecstats.sources WHERE name = 'maps'")
    ident = collect("maps", "2026-03-02")
    check(wait_until(lambda: fetch(ident, "state") == "failed"), "404: failed", fetch(ident, "state, error"))
    equal(fetch(ident, "attempts, rows"), "0 0", "without a second try")
    error = fetch(ident, "error")
    check(error.startswith("page 1: HTTP 404: {\"error\": \"nothing for 2026-03-02 of"), "with the status and what the API said", error)
    equal(sql("SELECT last_error FROM ecstats.sources WHERE name = 'maps'"), error, "in the source's last_error too")
    equal((sql(STORED), sql("SELECT watermark FROM ecstats.sources WHERE name = 'maps'")), before, "no row and no watermark moved")
    check(wait_until(lambda: sql("SELECT count(*) FROM ecstats.deliveries WHERE channel = 'ops' AND status = 'sent'") == "1"), "the operators' channel is told",
          sql("SELECT channel, status, last_error FROM ecstats.deliveries"))
    told = api.seen("/cgi-bin/webhook/send")
    check(len(told) == 1 and "maps" in told[0].body.decode() and "404" in told[0].body.decode() and "2026-03-02" in told[0].body.decode(),
          "once: which source, which day, why", "\n".join(r.body.decode() for r in told))
    status = sql("SELECT status, detail, hint FROM ecstats_status() WHERE component LIKE 'source%maps%'", user=OPERATOR)
    check("404" in status and not status.startswith("ok"), "the status shows it", status)
    sql("UPDATE ecstats.sources SET enabled = false WHERE name = 'maps'")


def test_secrets(api, pusher):
    """Credentials are with the API alone."""
    forms = [TOKEN, KEY, percent(TOKEN, safe=""), percent(TOKEN), TOKEN.replace("/", "\\/"), base64.b64encode(TOKEN.encode()).decode()]
    places = {"the pusher's log": pusher.log(), "the status": sql("SELECT s::text FROM ecstats_status() s"),
              "the operators' messages": "".join(r.body.decode() for r in api.seen("/cgi-bin/webhook/send"))}
    for table in ("deliveries", "delivery_attempts", "rejects", "order_lines", "source_pages", "restatements", "job_runs"):
        places[table] = sql("SELECT t::text FROM ecstats.%s t" % table)
    columns = sql("SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'ecstats.source_fetches'::regclass AND attnum > 0"
                  " AND has_column_privilege('%s', attrelid, attnum, 'SELECT')" % OPERATOR)
    check("error" in columns and "next_url" not in columns, "an operator reads a fetch, not where its next page is", columns)
    places["source_fetches"] = sql("SELECT %s FROM ecstats.source_fetches" % columns, user=OPERATOR)
    places["sources, but for the source's own columns"] = sql("SELECT to_jsonb(s) - '{url,secret,headers}'::text[] FROM ecstats.sources s")
    if os.environ.get("ECSTATS_SERVER_LOG"):
        with open(os.environ["ECSTATS_SERVER_LOG"], encoding="utf-8", errors="replace") as f:
            places["the server's log"] = f.read()
    for place, content in places.items():
        check(not any(f in content for f in forms), "no credential in %s" % place, content)
    check("***" in places["source_fetches"], "where the API repeated them there are asterisks", places["source_fetches"])
    for user in (OPERATOR, AS_PUSHER["PGUSER"]):
        try:
            got = sql("SELECT secret FROM ecstats.sources", user=user)
        except RuntimeError as e:
            got = str(e)
        check("permission denied" in got, "%s may not read the secret" % user.rpartition("_")[2], got)


def test_once(api, pusher):
    """Without a daemon: --once fetches what is due."""
    pusher.stop()
    api.first.append({**api.first[0], "id": 99, "note": "late"})
    sql("UPDATE ecstats.sources SET enabled = true WHERE name = 'maps'")
    ident = collect("maps")
    equal(collect("maps"), ident, "a day that waits already is queued once")
    code, log = once(env=AS_PUSHER)
    equal((code, fetch(ident, "state, rows")), (0, "done 40"), "--once takes all pages and exits 0")
    equal(sql("SELECT count(*) FROM ecstats.order_lines WHERE order_id = '99'"), "2", "what came late at the platform is there")


def main():
    api = Shop()
    sql("UPDATE ecstats.config SET timezone = 'Asia/Shanghai'")
    sql("INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('ops', 'wecom', %s, '{\"allow_private\": true}');"
        " UPDATE ecstats.config SET operators_channel = 'ops'" % quote(api.url("/cgi-bin/webhook/send?key=ops-key")))
    make_source("maps", api.url("/v1/orders?date={{date}}&page={{page}}&key=" + KEY), **FIRST)
    make_source("links", api.url("/v2/orders?date={{date}}&page={{page}}"), secret_header="X-Api-Key", allow_private=True)
    with Pusher(env=AS_PUSHER) as pusher:
        check(pusher.connected(), "a pusher of the profile pusher is connected", pusher.log())
        for test in (test_arrival, test_again, test_no, test_secrets, test_once):
            try:
                test(api, pusher)
            except Exception:
                check(False, "%s runs to its end" % test.__name__, traceback.format_exc())
    api.close()
    sys.exit(1 if failed() else 0)


main()
