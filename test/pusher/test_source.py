"""Pages of HTTP sources: fetched whole, bounded, in turn with the deliveries, and never lost."""
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess

from api import TOKEN, Api, body_of, packed
from harness import *
from receiver import Answer
from test_process import contract_database

HERE = os.path.dirname(os.path.abspath(__file__))
_db = None
_id = 0


def database():
    """A fresh database with the least that a pusher needs."""
    global _db
    _db = contract_database()
    with open(HERE + "/source_contract.sql") as f:
        sql(f.read(), db=_db)


def query(statement):
    return sql(statement, db=_db)


def fetch(url, **more):
    """Queues a fetch; returns its id."""
    global _id
    _id += 1
    columns = {"id": _id, "url": url, **more}
    query("SELECT setval('tries', 1, false); INSERT INTO fetches (%s) VALUES (%s); NOTIFY ecstats_deliveries"
          % (", ".join(columns), ", ".join(quote(v) for v in columns.values())))
    return _id


def page(ident, expression, number=1):
    """Something of a page's result, r, as text."""
    return query("SELECT %s FROM (SELECT result AS r, outcome, worker FROM pages WHERE fetch_id = %d AND page = %d ORDER BY at LIMIT 1) x"
                 % (expression, ident, number))


def came(ident, count=1, seconds=60):
    return wait_until(lambda: int(query("SELECT count(*) FROM pages WHERE fetch_id = %d" % ident)) >= count, seconds)


def fetch_once(*options, env=None):
    return once(*options, db=_db, env=env)


def one(api, answer, *options, **more):
    """Fetches one scripted answer; returns the fetch's id."""
    api.script("/scripted", answer)
    ident = fetch(api.url("/scripted"), **more)
    code, log = fetch_once(*options)
    if code != 0:
        check(False, "--once exits 0 whatever the API answers", log)
    return ident


def test_paging(receiver):
    """Every way to page: all of it arrives, in order, each page once."""
    database()
    api = Api()
    ids = {way: fetch(api.url("/%s?date=2024-04-02&page=1" % way), paging=way) for way in ("jsonpath", "link", "number")}
    code, log = fetch_once("--worker", "w1")
    equal(code, 0, "--once fetches what is due, page after page, and exits 0")
    for way, ident in ids.items():
        got = query("SELECT o->>'order_id' FROM pages p, jsonb_path_query((result->>'body')::jsonb, '$.data.orders[*]') WITH ORDINALITY o(o, n)"
                    " WHERE fetch_id = %d ORDER BY page, n" % ident).split("\n")
        equal(got, [o["order_id"] for o in api.orders], "paged by %s: all 25 orders, in order" % way)
        pages = 4 if way == "number" else 3
        equal(len(api.seen("/" + way)), pages, "%s: one request a page" % way)
        equal(query("SELECT string_agg(outcome, ' ' ORDER BY page) FROM pages WHERE fetch_id = %d" % ident),
              "next " * (pages - 1) + "done", "%s: next, next, done" % way)
    r = api.seen("/jsonpath")[0]
    equal((r.method, r.body, r.headers["user-agent"]), ("GET", b"", "ecstats-pusher/1.0"), "GET without a body")
    equal(r.headers["authorization"], "Bearer " + TOKEN, "header lines arrive as they are")
    equal(page(ids["link"], "worker || ' ' || (r - 'body' - 'elapsed_ms')"),
          'w1 {"error": null, "headers": {"link": "<%s>; rel=\\"first\\", <%s>; rel=\\"next\\"", "content-type": "application/json"},'
          ' "truncated": false, "error_kind": null, "http_status": 200}'
          % (api.url("/first"), api.url("/link?date=2024-04-02&page=2")), "the facts of a page; Link lines become one")
    check(TOKEN not in log and "2024-04-02" not in log and api.url("/") in log, "the log names host and port, no path and no token", log)
    api.close()


def test_throttle(receiver):
    database()
    api = Api()
    api.script("/jsonpath", Answer(status=429, body=b"slow down", headers={"Retry-After": "1"}), Answer(status=503, headers={"Retry-After": "0"}))
    ident = fetch(api.url("/jsonpath?page=3"), paging="jsonpath")
    with Pusher("--beat-interval", "300ms", db=_db) as p:
        check(came(ident, 3), "429 and 503 are reported; the page is fetched when the database says so", p.log())
    equal(query("SELECT string_agg((result->>'http_status') || ' ' || outcome || ' ' || coalesce(result#>>'{headers,retry-after}', '-'), ', ' ORDER BY at)"
                " FROM pages WHERE fetch_id = %d" % ident), "429 retry 1, 503 retry 0, 200 done -", "with Retry-After")
    equal(query("SELECT max(at) - min(at) >= '1 s' FROM pages"), "t", "not before its time")
    api.close()


def test_failures(receiver):
    """Answers that break, lie or never end."""
    database()
    api = Api()
    whole = body_of(api.orders)
    facts = "concat_ws(' ', r->>'http_status', r->>'error_kind', r->>'truncated', outcome)"
    for kind, text in (("reset_mid", "a reset inside the body"), ("ends_early", "a Content-Length that promises more"),
                       ("chunk_break", "an end between two chunks")):
        d = one(api, Answer(kind, body=whole * 20))
        equal(page(d, facts), "200 reset false failed", "%s: reset, with the status" % text)
        check(int(page(d, "octet_length(r->>'body')")) <= 4096, "and only the beginning of the body")
    d = one(api, Answer("promises_less", body=whole))
    equal(page(d, "(r->>'body') = %s" % quote(whole.decode()[:-5])), "t", "a Content-Length that promises less: as much as it promised")
    d = one(api, Answer("reset"))
    equal(page(d, facts), "reset false failed", "no answer at all: reset")
    equal(len([r for r in api.requests if r.connection == api.connections]), 1, "and it is not asked again by itself")
    d = one(api, Answer("drip"), timeout_ms=700)
    equal(page(d, facts + " || ((r->>'elapsed_ms')::int BETWEEN 600 AND 40000)"), "200 timeout false failedtrue", "a slow drip: timeout")
    before = len(api.requests)
    d = one(api, Answer(status=302, headers={"Location": api.url("/elsewhere")}))
    equal((page(d, facts), len(api.requests) - before), ("302 false failed", 1), "a redirect is not followed")

    before = api.connections
    d = one(api, Answer(), allow_private=False)
    equal((page(d, facts), api.connections - before), ("refused_address false failed", 0), "a private address is refused")
    d = one(api, Answer(), method="POST")
    equal((page(d, facts), api.connections - before), ("other false failed", 0), "nothing but GET")
    d = one(api, Answer(), headers='{"X: a\r\nY: b"}')
    equal((page(d, facts), api.connections - before), ("other false failed", 0), "no lines are smuggled into the request")

    https = Api(certificate=(WORK + "/server.pem", WORK + "/server.key"))
    d = fetch(https.url("/jsonpath", "localhost"))
    fetch_once()
    equal(page(d, facts), "tls false failed", "an unknown authority: tls")
    d = fetch(https.url("/jsonpath", "localhost"))
    fetch_once("--ca-file", WORK + "/ca.pem")
    equal(page(d, facts), "200 false done", "HTTPS with the authority of ca_file")
    equal(len(https.requests), 1, "the first sent no request")
    https.close()
    api.close()


RAW = (  # what the peer sends before it ends the connection; status, error_kind, length of the body, outcome
    ("the end inside the header lines", b"HTTP/1.1 200 OK\r\nContent-Ty", "200 reset 0 failed"),
    ("the end after the status line", b"HTTP/1.1 200 OK\r\n", "200 reset 0 failed"),
    ("the end where a body of unknown length should be", b"HTTP/1.1 200 OK\r\n\r\n", "200 reset 0 failed"),
    ("the same in HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", "200 reset 0 failed"),
    ("the end after 100 Continue", b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n", "100 reset 0 failed"),
    ("the end after 103 and half of 200", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n", "200 reset 0 failed"),
    ("an empty body that says so", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 0 done"),
    ("an empty body in chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200 0 done"),
    ("the end before the last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 reset 0 failed"),
    ("a body in HTTP/1.0, without a length", b"HTTP/1.0 200 OK\r\n\r\n[1, 2]", "200 6 done"),
    ("204 without a length", b"HTTP/1.1 204 No Content\r\n\r\n", "204 0 failed"),
    ("a compressed body of which only the beginning came",
     b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n" + gzip.compress(b"[1]")[:10], "200 reset 0 failed"),
    ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n[1, 2]", "200 other 0 failed"),
    ("chunks without a size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[1]\r\n", "200 reset 0 failed"),
    ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n", "other 0 failed"),
    ("nothing", b"", "reset 0 failed"),
)


def test_broken_answers(receiver):
    """An answer that ends too soon is never an empty page."""
    database()
    api = Api()
    facts = "concat_ws(' ', r->>'http_status', r->>'error_kind', octet_length(r->>'body'), outcome)"
    for n, (text, raw, want) in enumerate(RAW):
        api.script("/raw%d" % n, Answer("raw", body=raw))
    ids = [fetch(api.url("/raw%d" % n)) for n in range(len(RAW))]
    code, log = fetch_once()
    equal(code, 0, "--once exits 0 whatever the API sends")
    for ident, (text, raw, want) in zip(ids, RAW):
        equal(page(ident, facts), want, "%s: %s" % (text, want))

    https = Api(certificate=(WORK + "/server.pem", WORK + "/server.key"))
    https.script("/cut", Answer("raw", body=b"HTTP/1.1 200 OK\r\n\r\n"))
    d = fetch(https.url("/cut", "localhost"))
    fetch_once("--ca-file", WORK + "/ca.pem")
    equal(page(d, "r->>'error_kind'"), "reset", "TLS that ends without its last word before a body: reset")
    https.close()

    half = gzip.compress(body_of(api.orders))
    d = one(api, Answer(body=half[:len(half) // 2], headers={"Content-Encoding": "gzip"}))
    check(not page(d, "r->>'body'").endswith("}") and page(d, "r->>'body'") != "", "half of a compressed body: no whole JSON")
    d = one(api, Answer("drip_headers"), timeout_ms=700)
    equal(page(d, facts), "200 timeout 0 failed", "header lines that never end, slowly: timeout")
    lines = b"".join(b"X-%d: y\r\n" % n for n in range(100000))
    d = one(api, Answer("raw", body=b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\n[]"))
    equal(page(d, facts + " || ': ' || (r->>'error')"),
          "200 too_large 0 failed: the answer's header lines are longer than 262144 bytes (max_response of the pusher)", "100,000 header lines: too_large")
    d = one(api, Answer("raw", body=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400000 + b"\r\nContent-Length: 2\r\n\r\n[]"))
    check(page(d, facts) in ("200 too_large 0 failed", "200 other 0 failed"), "one of 400 kB: broken off", page(d, facts))
    d = one(api, Answer(status=404, headers={"Retry-After": " Wed, 21 Oct 2026 07:28:00 GMT "}))
    equal(page(d, "r#>>'{headers,retry-after}'"), "Wed, 21 Oct 2026 07:28:00 GMT", "Retry-After as a date is handed over as it is")
    api.close()


def test_kept_connections(receiver):
    """A connection that is gone between two pages costs nothing; one that breaks under a page, that page."""
    database()
    api = Api()
    for way in ("closed", "reset"):
        body = body_of(api.orders[:10])[:-2] + b', "next": "%s"}}' % api.url("/jsonpath?page=2").encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        api.script("/" + way, Answer("raw", body=head + body))
        if way == "reset":
            api.script("/jsonpath", Answer("reset"))
        before = len(api.requests)
        ident = fetch(api.url("/" + way), paging="jsonpath")
        fetch_once()
        outcomes = query("SELECT string_agg(outcome, ' ' ORDER BY page) FROM pages WHERE fetch_id = %d" % ident)
        if way == "closed":
            equal((outcomes, len(api.requests) - before), ("next next done", 3), "a server that ends each connection without a word: each page once")
        else:
            equal((outcomes, len(api.requests) - before), ("next failed", 2), "a reset under the second page: reported, not asked again")
    api.close()


def test_limits(receiver):
    """What is too large is told with the limit that held."""
    database()
    api = Api()
    big = b'"' + b"x" * 200000 + b'"'
    error = "r->>'error'"
    equal(page(one(api, Answer(body=big), max_bytes=5000), error), "the answer is longer than 5000 bytes (max_bytes of the source)", "the source's limit")
    equal(page(one(api, Answer(body=big), "--max-fetch", "6000", max_bytes=150000), error), "the answer is longer than 6000 bytes (max_fetch of the pusher)",
          "the pusher's, where it is less")
    equal(page(one(api, Answer(body=big), "--max-fetch", "5000", max_bytes=5000), error), "the answer is longer than 5000 bytes (max_bytes of the source)",
          "the source's, where they are the same")
    api.close()


def test_secrets(receiver):
    """What a request carries as credentials is in no error text, neither logged nor handed over."""
    database()
    word = "s3cr3t-W0rd"
    gone = "http://no-such-host.invalid"
    urls = [
        "http://%s@no-such-host.invalid/x" % word,
        "https://user:%s@no-such-host.invalid/%s" % (word, word),
        "http://%s" % word,                               # a host like any other: may be shown, lower case
        "http://key=%s" % word,
        "http://key=%s.invalid/path" % word,
        "http://user:%s/more@no-such-host.invalid/" % word,
        "http://user:77%s77/more@no-such-host.invalid/" % word,
        "http://%s/more@no-such-host.invalid/" % word,
        "http://host:%s/" % word,
        "http://[%s]/" % word,
        "http://no such %s/" % word,
        "%s://host/" % word,
        "%s" % word,
        "http://%%73%s/" % word,
        gone + "?token=%s" % word,
        gone + "/?no-such-host=no-such-host&a=%s" % word,
    ]
    ids = [fetch(u, headers='{"Authorization: Bearer %s"}' % word, timeout_ms=30000) for u in urls]
    ids += [fetch("http://%s.invalid/" % word, headers='{"X-Key:%s.invalid"}' % word, timeout_ms=30000),
            fetch("http://sec.%s.invalid/" % word, headers='{"Authorization: Bearer %s.invalid"}' % word, timeout_ms=30000)]
    code, log = fetch_once("--log-level", "debug")
    equal((code, query("SELECT count(*) FROM pages")), (0, str(len(ids))), "all of them fail")
    shown = [urls.index("http://" + word), len(urls), len(urls) + 1]
    for n, ident in enumerate(ids):
        if n not in shown:
            equal(query("SELECT count(*) FROM pages WHERE fetch_id = %d AND result::text ILIKE '%%%s%%'" % (ident, word)), "0",
                  "nothing of it in the result of %s" % (urls[n].replace(word, "…")))
    lines = [line for line in log.lower().splitlines() if word.lower() in line
             and not any("fetch %d page" % ids[n] in line for n in shown)]
    equal(lines, [], "nor in the log")
    equal(page(ids[-1], "r->>'error'"), "Could not resolve host: sec.***", "what the header lines carry is masked in a host, too")
    equal(page(ids[0], "r->>'error'"), "Could not resolve host: no-such-host.invalid", "the host is told")
    code, log = fetch_once("--proxy", "user:%s@h:x" % word)
    fetch("http://127.0.0.1:1/")
    code, log = fetch_once("--proxy", "user:%s@h:x" % word)
    check(word not in log and query("SELECT count(*) FROM pages WHERE result::text LIKE '%%%s%%'" % word) == "0", "nor a proxy's password", log)


def test_sizes(receiver):
    """A page is whole up to its limit, and memory is bounded."""
    database()
    api = Api()
    size = "octet_length(r->>'body'), r->>'truncated', r->>'error_kind'"
    exact = b'"' + b"x" * 99998 + b'"'
    equal(page(one(api, Answer(body=exact), max_bytes=100000), size), "100000|false|", "a body of exactly max_bytes is whole")
    equal(page(one(api, Answer(body=exact), max_bytes=99999), size), "99999|true|too_large", "one byte more: broken off, truncated")
    equal(page(one(api, Answer(body="日".encode() * 100), max_bytes=100), size), "99|true|too_large", "not inside a character")
    equal(page(one(api, Answer(body=exact), "--max-fetch", "5000"), size), "5000|true|too_large", "max_fetch is above max_bytes")
    api.flooded = 0
    equal(page(one(api, Answer("flood", body=b"{")), size), "1048576|true|too_large", "an endless body: broken off")
    check(api.flooded < 32 << 20, "soon", api.flooded)

    text = body_of(api.orders * 400)
    equal(page(one(api, packed(text)), "md5(r->>'body'), r->>'truncated'"), hashlib.md5(text).hexdigest() + "|false", "a gzipped body is unpacked")
    equal(page(one(api, packed(b" " * (64 << 20)), max_bytes=300000), size), "300000|true|too_large", "a bomb is stopped at max_bytes")
    equal(page(one(api, Answer(body=b"no gzip", headers={"Content-Encoding": "gzip"})), "r->>'error_kind'"), "other", "what only claims to be gzip: an error")

    dirty = b'\xef\xbb\xbf{"a": "\xff\x00\x01\x1f\x7f \xe6\x97\xa5 \\u0041 \xf0\x9f\x98\x80 \xed\xa0\x80"}\r\n\t\\'
    clean = '{"a": "??\x01\x1f\x7f 日 \\u0041 😀 ???"}\r\n\t\\'
    got = json.loads(page(one(api, Answer(body=dirty)), "to_json(r->>'body')"))
    equal(got, clean, "the body is valid UTF-8 without NUL or byte order mark, and otherwise as it was")

    big = (b'{"rows": [' + b",".join(b'{"id": "%07d"}' % n for n in range(1000000)) + b"]}")[:15 << 20]
    for _ in range(6):
        api.script("/big%d" % _, Answer(body=big))
    ids = [fetch(api.url("/big%d" % n), max_bytes=16 << 20, timeout_ms=30000) for n in range(6)]
    with Pusher("--concurrency", "20", db=_db) as p:
        check(all(came(d) for d in ids), "six pages of 15 MB arrive", p.log())
        with open("/proc/%d/status" % p.process.pid) as f:
            peak = int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) // 1024
        check(peak < 160, "in less than 160 MB of memory (%d)" % peak)
    equal(query("SELECT count(DISTINCT md5(result->>'body')), min(octet_length(result->>'body')) FROM pages WHERE fetch_id >= %d" % ids[0]),
          "1|%d" % len(big), "and whole")
    api.close()


def gated(api, count):
    api.gate.clear()
    api.most_waiting = 0
    for n in range(count):
        api.script("/gated%d" % n, Answer("gate"))
    return [fetch(api.url("/gated%d" % n), timeout_ms=30000) for n in range(count)]


def deliver(receiver, ident=1):
    """Queues a delivery beside the fetches."""
    receiver.script("/hook-plain", Answer())
    query("INSERT INTO queue VALUES (%d, '%s'); NOTIFY ecstats_deliveries" % (ident, receiver.url("/hook-plain")))


def taken(ident=1):
    return wait_until(lambda: query("SELECT count(*) FROM taken WHERE result->>'delivery_id' = '%d'" % ident) == "1")


def test_share(receiver):
    """Fetches take at most half of the requests."""
    for concurrency, most in ((4, 2), (1, 1), (20, 4)):
        database()
        api = Api()
        ids = gated(api, 8)
        with Pusher("--concurrency", str(concurrency), db=_db) as p:
            check(wait_until(lambda: api.waiting >= most), "concurrency %d: %d pages at once" % (concurrency, most), p.log())
            deliver(receiver)
            check(taken(), "and a delivery goes out beside them", p.log())
            equal(query("SELECT count(*) FROM fetches WHERE state = 'claimed'"), str(most), "no more pages than that are claimed")
            api.gate.set()
            check(all(came(d) for d in ids), "all are fetched in the end", p.log())
            equal(api.most_waiting, most, "never more than %d at once" % most)
        api.close()

    # A long queue of deliveries does not keep a fetch waiting: they take turns.
    database()
    api = Api()
    query("CREATE OR REPLACE FUNCTION ecstats.delivery_claim(worker text, max_rows int) RETURNS TABLE(delivery_id bigint, attempt int,"
          " transport text, method text, url text, headers text[], body text, timeout_ms int, allow_private boolean) LANGUAGE sql AS $$"
          " WITH q AS (DELETE FROM public.queue WHERE id IN (SELECT id FROM public.queue ORDER BY id LIMIT max_rows) RETURNING id, queue.url)"
          " SELECT id, 1, 'http', 'POST', q.url, NULL::text[], 'x', 5000, true FROM q $$;"
          " CREATE FUNCTION queued() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.queue';"
          " ALTER TABLE pages ADD queued bigint DEFAULT public.queued()")
    query("INSERT INTO queue SELECT 100 + i, '%s' FROM generate_series(1, 300) i" % receiver.url("/none"))
    ident = fetch(api.url("/jsonpath"))
    code, log = fetch_once("--concurrency", "2", "--log-level", "warn")
    # A fetch that waited for the queue's end would find it empty.
    left = int(query("SELECT queued FROM pages WHERE fetch_id = %d" % ident))
    check(left > 0, "a long queue of deliveries does not keep a fetch waiting", "%d of 300 were left\n%s" % (left, log))
    print("# %d of 300 deliveries were left when the page came" % left)
    equal((code, query("SELECT count(*) FROM taken")), (0, "300"), "and all of them go out")
    api.close()


def test_slow_database(receiver):
    """While the database takes a page in, deliveries are settled as ever."""
    database()
    api = Api()
    holder = subprocess.Popen(["psql", "-XAtq", "-d", _db], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdin.write("SELECT pg_advisory_lock(1);\n\\echo locked\n")
    holder.stdin.flush()
    while "locked" not in holder.stdout.readline():
        pass
    ident = fetch(api.url("/jsonpath"), trouble="wait")
    second = fetch(api.url("/jsonpath"))
    with Pusher("--query-timeout", "1s", db=_db) as p:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = '%s' AND wait_event = 'advisory' AND query LIKE '%%source_receive%%'" % _db
        check(wait_until(lambda: query(waits) == "1"), "a page that takes long", p.log())
        deliver(receiver)
        check(taken(), "does not hold up a delivery", p.log())
        equal(query(waits), "1", "pages are handed over one at a time")
        holder.communicate("SELECT pg_advisory_unlock(1);\n")
        check(came(ident) and came(second), "and is taken in the end", p.log())
    equal(query("SELECT count(*) FROM pages"), "2", "each page once")
    api.close()


def test_refusals(receiver):
    """Pages that the database cannot take do not hold up others, nor are they tried for ever."""
    database()
    api = Api()
    bad = fetch(api.url("/jsonpath"), trouble="22000")
    good = fetch(api.url("/jsonpath"))
    code, log = fetch_once()
    equal((code, page(good, "outcome")), (0, "done"), "a page that the database refuses does not hold up the others")
    equal(page(bad, "concat_ws(' ', r->>'http_status', r->>'error_kind', r->>'body', r->>'error')"),
          "other  the database could not take the page: SQLSTATE 22000: page of %d has a private number: 555-1234" % bad,
          "after three tries the database is told that it could not")
    check("555-1234" not in log and "22000" in log, "the log has the SQLSTATE, not the data", log)
    equal(query("SELECT last_value FROM tries"), "3", "three tries")

    d = fetch(api.url("/jsonpath"), trouble="40001", trouble_times=5)
    fetch_once()
    equal(page(d, "outcome"), "done", "a serialization failure is tried again, the page is whole")
    d = fetch(api.url("/jsonpath"), trouble="die", trouble_times=2)
    code, log = fetch_once()
    equal((code, page(d, "outcome")), (0, "done"), "two sessions break under a page: it is handed over after the reconnect")
    check(len(log) < 8000 and "sources: no connection" in log, "and it is said", log)
    d = fetch(api.url("/jsonpath"), trouble="die")
    fetch_once()
    equal((page(d, "r->>'error_kind'"), query("SELECT last_value FROM tries")), ("other", "3"), "a page that breaks every session: given up after three")
    # The lock is held by nobody else here: two receivers cannot wait, so let the page wait for a cancelled sleep.
    query("CREATE OR REPLACE FUNCTION public.pg_advisory_xact_lock(int) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(20)';"
          " ALTER FUNCTION ecstats.source_receive SET search_path = public, pg_catalog")
    d = fetch(api.url("/jsonpath"), trouble="wait")
    code, log = fetch_once("--receive-timeout", "300ms")
    check(page(d, "r->>'error'").find("57014") > 0, "receive_timeout ends a page that takes too long", log)
    d = fetch(api.url("/jsonpath"), trouble="22000", trouble_times=-1)
    code, log = fetch_once()
    check("does not take the outcome" in log and query("SELECT state FROM fetches WHERE id = %d" % d) == "claimed",
          "nor even the news: dropped, its lease runs out", log)
    api.close()


def test_loss(receiver):
    """The database goes away under a request: the page is kept."""
    database()
    api = Api()
    ident, = gated(api, 1)
    with Pusher(db=_db) as p:
        wait_until(lambda: api.waiting >= 1)
        sql("ALTER DATABASE %s ALLOW_CONNECTIONS false" % _db, db="postgres")
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'" % _db, db="postgres")
        wait_until(lambda: "no connection" in p.log())
        api.gate.set()
        check(wait_until(lambda: "HTTP " in p.log()), "the request is finished without a database", p.log())
        sql("ALTER DATABASE %s ALLOW_CONNECTIONS true" % _db, db="postgres")
        check(came(ident), "and its page handed over after the reconnect", p.log())
    equal((len(api.seen("/gated0")), query("SELECT count(*) FROM pages")), (1, "1"), "with one request")

    ident, = gated(api, 1)
    with Pusher(db=_db) as p:
        wait_until(lambda: api.waiting >= 1)
        p.signal(signal.SIGTERM)
        check(wait_until(lambda: "stopping" in p.log()) and p.process.poll() is None, "SIGTERM waits for a page")
        late = fetch(api.url("/jsonpath"))
        api.gate.set()
        equal(p.wait(), 0, "then exits 0")
        equal((came(ident, 1, 0), query("SELECT state FROM fetches WHERE id = %d" % late)), (True, "due"), "that is handed over, nothing new is claimed")
    ident, = gated(api, 1)
    with Pusher(db=_db) as p:
        wait_until(lambda: api.waiting >= 1)
        p.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in p.log())
        p.signal(signal.SIGTERM)
        equal(p.wait(), 1, "a second SIGTERM stops at once, exit code 1")
    api.close()


def test_unsendable(receiver):
    """A page that libpq cannot send is not tried for ever, and is told."""
    database()
    api = Api()
    api.script("/large", Answer(body=b'"' + b"x" * 20000 + b'"'))
    large = fetch(api.url("/large"))
    good = fetch(api.url("/jsonpath"))
    code, log = fetch_once(env=faults(send=10000))
    equal((code, page(good, "outcome")), (0, "done"), "a page that cannot be sent does not hold up the others")
    equal(page(large, "concat_ws(' ', r->>'http_status', r->>'error_kind', octet_length(r->>'body'), outcome)"), "other 0 failed", "it is reported as failed")
    check(page(large, "r->>'error'").startswith("the database could not take the page: the connection broke"), "with the reason", log)
    for sqlstate, text in (("53200", "no memory"), ("53100", "a full disk"), ("54001", "a statement too complex"), ("57P03", "whatever the class")):
        d = fetch(api.url("/jsonpath"), trouble=sqlstate)
        code, log = fetch_once()
        equal((code, page(d, "outcome"), query("SELECT last_value FROM tries")), (0, "failed", "3"), "%s on the server: three tries" % text)
        check(sqlstate in page(d, "r->>'error'") and "no connection" not in log, "with its SQLSTATE, in one session", log)
    api.close()


def test_lease(receiver):
    """A page is not kept past its lease."""
    database()
    api = Api()
    later = WORK + "/later"
    ident, = gated(api, 1)
    with Pusher("--reconnect-max", "200ms", db=_db, env=faults(clock=later)) as p:
        wait_until(lambda: api.waiting >= 1)
        sql("ALTER DATABASE %s ALLOW_CONNECTIONS false" % _db, db="postgres")
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'" % _db, db="postgres")
        wait_until(lambda: "no connection" in p.log())
        api.gate.set()
        wait_until(lambda: "HTTP " in p.log())
        open(later, "w").close()
        check(wait_until(lambda: "fetch %d page 1: given up: its lease is over" % ident in p.log()), "a page whose lease ran out without a database is dropped", p.log())
        sql("ALTER DATABASE %s ALLOW_CONNECTIONS true" % _db, db="postgres")
        check(p.connected(2), "and the database's return finds it gone", p.log())
        query("UPDATE fetches SET state = 'due'; NOTIFY ecstats_deliveries")
        check(came(ident), "it is fetched when it is given out again", p.log())
    os.unlink(later)
    equal((len(api.seen("/gated0")), query("SELECT count(*) FROM pages")), (2, "1"), "twice asked for, once handed over")
    api.close()


def test_no_memory(receiver):
    """Each third allocation in turn (with ECSTATS_PUSHER_ALL=1 each) is refused: one request fails, never the
    program, and nothing is half done."""
    database()
    api = Api()
    log_file = WORK + "/refused"
    receiver.script("/hook-plain", *[Answer(body=b"ok", headers={"Retry-After": "1"})] * 1000)
    bad = []
    n = runs = 0
    while n < 1000 and len(bad) < 5:
        n += 1 if os.environ.get("ECSTATS_PUSHER_ALL") else 3
        runs += 1
        ident = fetch(api.url("/link?page=2"), paging="link", headers='{"Authorization: Bearer %s","X-More: y"}' % TOKEN)
        query("INSERT INTO queue VALUES (%d, '%s')" % (ident + 1000, receiver.url("/hook-plain")))
        code, log = fetch_once(env=faults(memory=n, memory_log=log_file))
        state, pages = query("SELECT state, (SELECT count(*) FROM pages p WHERE p.fetch_id = f.id) FROM fetches f WHERE id = %d" % ident).split("|")
        whole = state != "done" or pages == "2"
        if code not in (0, 1, 2) or not whole or (state == "due" and code == 0):
            bad.append("allocation %d: exit code %s, fetch %s after %s pages\n%s" % (n, code, state, pages, log))
        if not os.path.exists(log_file) or os.path.getsize(log_file) < runs:
            break  # there are not so many
    check(n > 60, "memory is refused at each of %d places" % (runs - 1))
    check(not bad, "each fails one request or the start, nothing else", "\n".join(bad))
    query("UPDATE fetches SET state = 'due' WHERE state <> 'done'; DELETE FROM pages p USING fetches f WHERE f.id = p.fetch_id AND f.state = 'due';"
          " UPDATE fetches SET page = 1, url = '%s' WHERE state = 'due'" % api.url("/link?page=2"))
    equal((fetch_once()[0], query("SELECT count(*) FROM fetches WHERE state <> 'done'")), (0, "0"), "with memory all are done")
    api.close()


def test_two_pushers(receiver):
    """No page is fetched by two at once, and none is left out."""
    database()
    api = Api()
    ids = gated(api, 12)
    with Pusher("--concurrency", "20", "--worker", "w1", db=_db) as one_, Pusher("--concurrency", "20", "--worker", "w2", db=_db) as other:
        check(wait_until(lambda: api.waiting >= 8), "two pushers fetch at once", one_.log() + other.log())
        api.gate.set()
        check(all(came(d) for d in ids), "all pages arrive", one_.log() + other.log())
    equal([len(api.seen("/gated%d" % n)) for n in range(12)], [1] * 12, "each was asked for once")
    equal(query("SELECT count(*), count(DISTINCT worker) FROM pages"), "12|2", "and handed over once, by both")
    api.close()


def test_reload_under_fetch(receiver):
    """SIGHUP under a fetch changes nothing for it."""
    database()
    api = Api()
    path = WORK + "/fetch.conf"
    with open(path, "w") as f:
        f.write("max_fetch = 1000000\n")
    ident, = gated(api, 1)
    with Pusher("--config", path, db=_db) as p:
        wait_until(lambda: api.waiting >= 1)
        with open(path, "w") as f:
            f.write("max_fetch = 5000\n")
        p.signal(signal.SIGHUP)
        check(wait_until(lambda: "settings reloaded" in p.log()), "SIGHUP is noticed under a fetch", p.log())
        api.gate.set()
        check(came(ident), "its page is handed over", p.log())
        api.script("/long", Answer(body=b" " * 6000))
        late = fetch(api.url("/long"))
        check(came(late) and page(late, "r->>'error_kind'") == "too_large", "and the next is under the new settings", p.log())
    equal((len(api.seen("/gated0")), query("SELECT count(*) FROM pages WHERE fetch_id = %d" % ident)), (1, "1"), "once")
    api.close()


def test_older_database(receiver):
    """A database without sources is served as ever."""
    global _db
    _db = contract_database()
    with Pusher(db=_db) as p:
        p.connected()
        deliver(receiver)
        check(taken(), "without source_claim deliveries go out", p.log())
        query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        p.connected(2)
        deliver(receiver, 5)
        taken(5)
        equal(p.log().count("fetches are off"), 1, "and it is said once that fetches are off")
    equal(fetch_once()[0], 0, "--once too")
    code, out, err = run("--check", "--dsn", "dbname=" + _db)
    check(code == 0 and "off     ecstats.source_claim" in out, "--check says so and is content", out + err)

    database()
    role = DB + "_half"
    sql("CREATE ROLE %s LOGIN" % role, db="postgres")
    query("GRANT USAGE ON SCHEMA ecstats TO {0}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {0};"
          " REVOKE EXECUTE ON FUNCTION ecstats.source_receive FROM PUBLIC".format(role))
    deliver(receiver)
    code, log = once(db=_db, env={"PGUSER": role})
    check(code == 0 and taken() and "may not call" in log, "without the right to it: said so, deliveries go out", log)
    code, out, err = run("--check", "--dsn", "dbname=" + _db, env={"PGUSER": role})
    check(code == 1 and "failed  ecstats.source_receive" in out, "--check fails", out + err)
    query("DROP OWNED BY %s" % role)
    sql("DROP ROLE %s" % role, db="postgres")


def test_fetch_valgrind(receiver):
    if subprocess.run(["sh", "-c", "command -v valgrind"], stdout=subprocess.DEVNULL).returncode:
        print("# valgrind is not installed: no memory check")
        return
    database()
    api = Api()
    api.script("/b0", packed(body_of(api.orders)))
    api.script("/b1", Answer("flood"))
    api.script("/b2", Answer("reset_mid", body=b"x" * 9000))
    for n in range(3):
        fetch(api.url("/b%d" % n), max_bytes=50000, timeout_ms=30000)
    fetch(api.url("/link?page=1"), paging="link", timeout_ms=30000)
    fetch(api.url("/jsonpath"), trouble="22000")
    p = Pusher("--once", db=_db, wrapper=["valgrind", "-q", "--leak-check=full", "--error-exitcode=99"])
    code = p.wait(120)
    check(code == 0, "valgrind finds nothing in fetches with --once", p.log())
    equal(query("SELECT count(*), count(*) FILTER (WHERE outcome = 'failed') FROM pages"), "7|3", "and they are as without it")
    api.close()


TESTS = [
    test_paging,
    test_throttle,
    test_failures,
    test_broken_answers,
    test_kept_connections,
    test_limits,
    test_secrets,
    test_sizes,
    test_share,
    test_slow_database,
    test_refusals,
    test_loss,
    test_unsendable,
    test_lease,
    test_no_memory,
    test_two_pushers,
    test_reload_under_fetch,
    test_older_database,
    test_fetch_valgrind,
]
