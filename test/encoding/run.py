"""ecstats in databases of other encodings than UTF-8: what ships, what comes in, what is refused, what goes out.

Makes its databases on the server that PG* name. Clients speak UTF-8 unless a test says otherwise."""
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pusher"))
from receiver import Answer, Receiver  # noqa: E402

DB = "ecstats_encoding_%d" % os.getpid()
PUSHER = os.environ.get("ECSTATS_PUSHER", "pusher/ecstats-pusher")
KEY = b"0123456789abcdef01234567"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
failures = 0

# encoding: region, product (as an app would send them), a word of the encoding that Unicode has not or that is a
# control character, as SQL; what cn and the dash of a missing figure become; the language of the report "daily"
SAMPLES = {
    "EUC_CN": ("上海", "手机（黑）", "convert_from('\\xaaa1', 'EUC_CN')", "\\xaa\\xa1", "128.6万 ―", "daily_cn"),
    "LATIN1": ("Île-de-France", "Müller*ß", "convert_from('\\x85', 'LATIN1')", "\\x85", "1,286,000 -", "daily_en"),
    "WIN1252": ("Köln – Straße", "5 € “Café”", "convert_from('\\x81', 'WIN1252')", "\\x81", "1,286,000 —", "daily_en"),
    "EUC_KR": ("서울", "휴대폰", "convert_from('\\xc9a1', 'EUC_KR')", "\\xc9\\xa1", "1,286,000 ―", "daily_en"),
}


def check(good, text, detail=""):
    global failures
    print("%s - encoding: %s" % ("ok" if good else "not ok", text))
    if not good:
        failures += 1
        print("# " + str(detail).replace("\n", "\n# "))


def equal(got, want, text):
    check(got == want, text, "got %r, want %r" % (got, want))


def sql(statement, db=DB, encoding="UTF8"):
    """The answer of psql as it is, errors included."""
    done = subprocess.run(["psql", "-XqAt", "-v", "VERBOSITY=default", "-d", db], input=statement.encode("utf-8"), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "PGCLIENTENCODING": encoding, "PGOPTIONS": "-c client_min_messages=warning"})
    return done.stdout.decode("utf-8").rstrip("\n")


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def database(encoding):
    sql("DROP DATABASE IF EXISTS %s WITH (FORCE)" % DB, "postgres")
    made = sql("CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LOCALE 'C'" % (DB, encoding), "postgres")
    return made + sql("CREATE EXTENSION ecstats")


def intake(encoding, region, product):
    order = {"order_id": "o1", "order_time": "2026-03-02T10:00:00+08:00", "paid_time": "2026-03-02T10:05:00+08:00", "user_id": product,
             "region": region, "channel": "app", "items": [{"product_id": product, "quantity": 2, "amount": 1286000}]}
    event = {"event": "view_item", "timestamp": 1772416800, "user_id": product, "page_url": "/" + region, "extra": {region: product}}
    for name, payload in (("track", event), ("order", order)):
        for ascii in (True, False):
            sent = quote(json.dumps(payload, ensure_ascii=ascii))
            equal(sql("SELECT ecstats_%s(%s)" % (name, sent)), "1" if ascii else "0",
                  "%s: ecstats_%s %s" % (encoding, name, "stores native characters" if ascii else "knows them again without escapes"))
    equal(sql("SELECT user_id, page_url, extra FROM ecstats.events; SELECT user_id, region, product_id FROM ecstats.order_lines"),
          '%s|/%s|{"%s": "%s"}\n%s|%s|%s' % (product, region, region, product, product, region, product), "%s: they are read as they were sent" % encoding)


def refusals(encoding, region, strange, shown):
    long = region * 60
    size = len(long.encode({"EUC_CN": "gb2312", "LATIN1": "latin-1", "WIN1252": "cp1252", "EUC_KR": "euc_kr"}[encoding]))
    answer = sql("INSERT INTO ecstats.events (user_id, event) VALUES (%s, 'click')" % quote(long))
    lines = answer.split("\n")
    detail = lines[1] if len(lines) > 1 else ""
    cut = detail[len('DETAIL:  Value: "'):-len('..." (%d bytes in all).' % size)]
    check(lines[0].endswith("user_id has %d bytes, the most is 128" % size) and detail.endswith('..." (%d bytes in all).' % size)
          and len(cut) > 20 and long.startswith(cut), "%s: an error shows the beginning of a long value in whole characters" % encoding, answer)
    answer = sql("INSERT INTO ecstats.events (user_id, event) VALUES (%s || E'\\t', 'click')" % quote(region))
    check("control character" in answer and 'Value: "%s\\x09".' % region in answer, "%s: a control character behind others is refused" % encoding, answer)
    for table, statement in (("events", "INSERT INTO ecstats.events (user_id, event) VALUES ('a' || %s, 'click')"),
                             ("order_lines", "INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('a' || %s, 1, '2026-03-02', 'p', 1, 1)")):
        answer = sql(statement % strange)
        check("one that Unicode does not know, at byte 2" in answer and 'Value: "a%s".' % shown in answer,
              "%s: what no client could be shown is refused in %s, escaped" % (encoding, table), answer)
    answer = sql("SELECT ecstats_track(%s, 'quarantine'), (SELECT count(*) FROM ecstats.rejects)" % quote(json.dumps(
        {"event": "click", "timestamp": 1772416800, "user_id": long}, ensure_ascii=False)))
    equal((answer, cut in sql("SELECT reason FROM ecstats.rejects")), ("0|0", True), "%s: and kept with its reason under quarantine" % encoding)


def outgoing(encoding, region, product, cn, daily, receiver):
    equal(sql("SELECT ecstats_render('\"{{a | cn}} {{b | percent}}\"', '{\"a\": 1286000}') #>> '{}'"), cn, "%s: cn and the dash of nothing" % encoding)
    equal(sql("SELECT template FROM ecstats.reports WHERE name = 'daily'"), daily, "%s: the report daily speaks %s" % (encoding, daily))
    equal(sql("SELECT gmv FROM ecstats_daily('2026-03-02')"), "1286000", "%s: a day is closed" % encoding)
    label = product.replace("*", " ") if encoding == "LATIN1" else product
    for report in ("daily", "daily_en"):
        body = json.loads(sql("SELECT body FROM ecstats_preview('%s', '2026-03-02') WHERE channel = 'hook'" % report))
        text = body["markdown"] if "markdown" in body else body["data"]["markdown"]
        check(region in text and label in text and ("成交额 **128.6万**" if report == "daily" and daily == "daily_cn" else "GMV **1,286,000.00**") in text,
              "%s: report %s is written" % (encoding, report), text)
    claimed = sql("SELECT row_to_json(c) FROM ecstats.delivery_claim('w', 10) c").split("\n")
    rows = [json.loads(line) for line in claimed]
    equal(len(rows), 2, "%s: a close queued both reports" % encoding)
    for row in rows:
        headers = dict(h.split(": ", 1) for h in row["headers"])
        signed = "%s.%s.%s" % (headers["webhook-id"], headers["webhook-timestamp"], row["body"])
        right = "v1," + base64.b64encode(hmac.new(KEY, signed.encode("utf-8"), hashlib.sha256).digest()).decode()
        check(headers["webhook-signature"] == right and region in json.loads(row["body"])["data"]["markdown"],
              "%s: a body leaves in UTF-8 and is signed as it leaves" % encoding, row)
    sql("UPDATE ecstats.deliveries SET lease_until = lease_until - interval '1 hour' WHERE status = 'sending'")


def audience(encoding, product, daily):
    """The recall report, and its audience in pages: ids of the encoding leave in UTF-8."""
    equal(sql("SELECT template FROM ecstats.reports WHERE name = 'recall'"), daily.replace("daily", "recall"),
          "%s: the report recall speaks the language of the daily one" % encoding)
    sql("INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('high_active_silent', '$.days_silent >= 3') ON CONFLICT DO NOTHING;"
        "TRUNCATE ecstats.user_activity, ecstats.user_tags;"
        "UPDATE ecstats.activity_state SET as_of = '2026-03-02', users = 2;"
        "INSERT INTO ecstats.user_activity (user_id, as_of, last_active_day) SELECT u, '2026-03-02', '2026-02-20' FROM unnest(ARRAY[%s, 'u1']) u;"
        "INSERT INTO ecstats.user_tags SELECT user_id, 'high_active_silent', '2026-03-01' FROM ecstats.user_activity" % quote(product))
    for report in ("recall", "recall_en"):
        text = json.loads(sql("SELECT body FROM ecstats_preview('%s', '2026-03-02') WHERE channel = 'hook'" % report))["data"]["markdown"]
        label = product.replace("*", " ") if encoding == "LATIN1" else product
        check(label in text and ("待召回 **2** 人" if report == "recall" and daily == "daily_cn" else "**2** users to win back") in text,
              "%s: report %s is written" % (encoding, report), text)
    sql("UPDATE ecstats.channels SET options = '{\"audience_page\": 1}' WHERE name = 'hook'")
    equal(sql("SELECT count(*) FROM ecstats_push_audience('high_active_silent', 'hook')"), "2", "%s: an audience is queued in pages" % encoding)
    rows = [json.loads(line) for line in sql("SELECT row_to_json(c) FROM ecstats.delivery_claim('w', 10) c").split("\n")]
    pages = [json.loads(r["body"])["data"] for r in rows]
    ids = [u for p in pages if p.get("type") == "ecstats.audience" for u in p["user_ids"]]
    equal(sorted(ids), sorted([product, "u1"]), "%s: the users of an audience leave in UTF-8" % encoding)
    sql("UPDATE ecstats.deliveries SET lease_until = lease_until - interval '1 hour' WHERE status = 'sending'")


def over_the_wire(encoding, region, receiver):
    """What the endpoint says may be beyond the encoding: the outcome counts all the same."""
    path = "/" + encoding
    receiver.script(path, Answer(body='{"errcode": 0, "errmsg": "好的 добрый ✓"}'.encode("utf-8")))
    sql("INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('robot', 'wecom', %s, '{\"allow_private\": true}')" % quote(receiver.url(path)))
    push = sql("SELECT ecstats_push('robot', %s)" % quote(json.dumps({"text": region, "markdown": region})))
    done = subprocess.run([PUSHER, "--once", "--dsn", "dbname=" + DB], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    requests = receiver.seen(path)
    equal([r.json()["markdown"]["content"] for r in requests], [region], "%s: the pusher sends UTF-8" % encoding)
    status = sql("SELECT status FROM ecstats.deliveries WHERE id = %s" % push)
    check(status == "sent" and '"errcode": 0' in sql("SELECT response FROM ecstats.delivery_attempts WHERE delivery_id = %s" % push),
          "%s: an answer beyond the encoding is settled, its letters as ?" % encoding, status + "\n" + done.stdout.decode())


def main():
    receiver = Receiver()
    for encoding, (region, product, strange, shown, cn, daily) in SAMPLES.items():
        problem = database(encoding)
        if problem:
            check(False, "%s: the extension is created" % encoding, problem)
            continue
        check(True, "%s: the extension is created" % encoding)
        sql("UPDATE ecstats.config SET timezone = 'Asia/Shanghai'; UPDATE ecstats.reports SET channels = '{hook}';"
            "INSERT INTO ecstats.channels (name, kind, url, secret) VALUES ('hook', 'webhook', 'https://shop.example/hook', '%s')" % SECRET)
        intake(encoding, region, product)
        refusals(encoding, region, strange, shown)
        outgoing(encoding, region, product, cn, daily, receiver)
        audience(encoding, product, daily)
        sql("UPDATE ecstats.channels SET enabled = false WHERE name = 'hook'")
        over_the_wire(encoding, region, receiver)
    receiver.close()
    answer = database("SQL_ASCII")
    check("text can be converted to UTF-8" in answer and "HINT" in answer and "SQL_ASCII" in answer,
          "SQL_ASCII, whose bytes mean nothing, is refused and says what to do", answer)
    sql("DROP DATABASE IF EXISTS %s WITH (FORCE)" % DB, "postgres")
    return failures > 0


sys.exit(main())
