"""One request: the right bytes, once, and a truthful report of what came back."""
import json
import socket

from harness import *
from receiver import Answer, Receiver

WECOM = "/cgi-bin/webhook/send"
SECRETS = {
    "wecom": "693a91f6-secret-key",
    "dingtalk": "SECabcdef0123456789",
    "feishu": "feishu-Secret+1",
    "webhook": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def wecom(receiver, **options):
    return channel("wecom", receiver.url(WECOM + "?key=" + SECRETS["wecom"]), **options)


def test_providers(receiver):
    """Every kind: accepted by a receiver that checks the signature."""
    message = '{"title": "日报", "markdown": "**GMV** 1,234.50 元 ✓"}'
    made = {
        WECOM: wecom(receiver),
        "/robot/send": channel(
            "dingtalk", receiver.url("/robot/send?access_token=tok-secret"), SECRETS["dingtalk"]
        ),
        "/open-apis/bot/v2/hook/feishu-token": channel(
            "feishu", receiver.url("/open-apis/bot/v2/hook/feishu-token"), SECRETS["feishu"]
        ),
        "/hook/std": channel("webhook", receiver.url("/hook/std"), SECRETS["webhook"]),
    }
    ids = {path: push(name, message) for path, name in made.items()}
    code, log = once()
    equal(code, 0, "--once sends what is due and exits 0")
    for path, ident in ids.items():
        got = receiver.seen(path)
        good = status(ident) == "sent" and len(got) == 1
        check(good, "%s: one request, accepted, sent" % path, status(ident) + "\n" + log)
        if path == WECOM and got:
            want = json.loads(sql("SELECT body FROM ecstats.deliveries WHERE id = %d" % ident))
            equal(got[0].json(), want, "the body arrives as it is in the database")
            check("1,234.50 元 ✓" in got[0].body.decode(), "UTF-8 arrives unharmed", got[0].body)
            check(got[0].headers["content-type"].startswith("application/json"), "Content-Type is JSON")
            equal(got[0].headers["user-agent"], "ecstats-pusher/1.0", "User-Agent names the pusher")
            equal(got[0].method, "POST", "the method is POST")
            check("expect" not in got[0].headers, "no Expect header")
    equal(once()[0], 0, "--once with nothing due exits 0")
    equal(len(receiver.seen(WECOM)), 1, "what is sent does not go out again")


def test_audience(receiver):
    """A report's audience arrives in signed pages: every user on exactly one, hostile ids unharmed."""
    users = ['a"b\\c', "two\nlines", "{{gmv}}", "\u202eright to left", "😀", "客", "B", "b", "u1", "u2", "u3"]
    crm = channel("webhook", receiver.url("/hook/crm"), SECRETS["webhook"], audience_page=4)
    listed = ", ".join("(%s)" % quote(u) for u in users)
    sql(
        "INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('high_active_silent', '$.days_silent >= 3') ON CONFLICT DO NOTHING;"
        "UPDATE ecstats.activity_state SET as_of = '2026-11-22', users = %d;"
        "INSERT INTO ecstats.user_activity (user_id, as_of, last_active_day) SELECT u, '2026-11-22', '2026-11-18' FROM (VALUES %s) v(u);"
        "INSERT INTO ecstats.user_tags SELECT u, 'high_active_silent', '2026-11-21' FROM (VALUES %s) v(u);"
        "UPDATE ecstats.reports SET channels = '{%s}' WHERE name = 'recall_en'" % (len(users), listed, listed, crm)
    )
    queued = [int(i) for i in sql("SELECT ecstats_report('recall_en', '2026-11-22')").split()]
    code, log = once()
    equal((code, {status(i) for i in queued}), (0, {"sent"}), "a report and its audience are taken by a receiver that checks signatures")
    bodies = [r.json() for r in receiver.seen("/hook/crm")]
    pages = sorted((b["data"] for b in bodies if b["type"] == "ecstats.audience"), key=lambda d: d["page"])
    equal([b["type"] for b in bodies].count("report.recall"), 1, "the message goes out beside the pages")
    equal([(d["page"], d["pages"], d["total"], len(d["user_ids"])) for d in pages], [(1, 3, 11, 4), (2, 3, 11, 4), (3, 3, 11, 3)],
          "pages say which they are, of how many")
    equal([u for d in pages for u in d["user_ids"]], sorted(users, key=lambda u: u.encode()), "every user arrives once, in order, as the id is")
    equal({(d["report"], d["tag"], d["as_of"]) for d in pages}, {("recall_en", "high_active_silent", "2026-11-22")}, "pages say what they are of")
    check(not any(u in log for u in users if len(u) > 1), "the pusher's log names no user", log)
    sql("UPDATE ecstats.reports SET channels = '{}' WHERE name = 'recall_en'")


def one(receiver, answer, path=WECOM, **options):
    """Sends one WeCom message that gets a scripted answer; returns its id."""
    receiver.script(path, answer)
    ident = push(wecom(receiver, **options))
    code, log = once()
    if code != 0:
        check(False, "--once exits 0 whatever the target answers", log)
    return ident


def test_answers(receiver):
    """Failures of the target are reported as they were."""
    d = one(receiver, Answer(body={"errcode": 93000, "errmsg": "invalid webhook url"}))
    check(status(d) != "sent", "HTTP 200 with errcode 93000 is not sent")
    equal(attempt(d, "http_status, provider_code"), "200|93000", "status and provider's code are recorded")

    d = one(receiver, Answer(status=429, body=b"slow down", headers={"Retry-After": "30"}))
    equal(attempt(d, "http_status"), "429", "429 is recorded")
    wait = "extract(epoch FROM next_attempt_at - answered_at) BETWEEN 20 AND 60, attempts"
    equal(sql("SELECT %s FROM ecstats.deliveries JOIN ecstats.delivery_attempts ON delivery_id = id WHERE id = %d" % (wait, d)), "t|0", "Retry-After is obeyed, no attempt used")

    d = one(receiver, Answer(status=503, body=b"<html>busy</html>", headers={"Content-Type": "text/html"}), max_retries=3)
    equal((status(d), attempt(d, "http_status, response")), ("pending", "503|<html>busy</html>"), "503 is tried again later")

    d = one(receiver, Answer(body=b"<html>login</html>"))
    check(status(d) != "sent", "HTTP 200 that is not JSON is not sent")

    before = len(receiver.requests)
    d = one(receiver, Answer(status=302, body=b"", headers={"Location": receiver.url("/elsewhere")}))
    equal((attempt(d, "http_status, error_kind"), len(receiver.requests) - before), ("302|", 1), "a redirect is not followed")

    d = one(receiver, Answer(status=500, body=b"a\x00b\xff\xe6\x97c \xe6\x97\xa5"))
    equal(attempt(d, "response"), "a?b???c 日", "NUL and bad UTF-8 of an answer are made harmless")

    d = one(receiver, Answer(status=500, body="é".encode() * 4000))
    equal(attempt(d, "octet_length(response), rtrim(response, 'é') = ''"), "4096|t", "4 kB of a long answer are kept")


def test_transport_failures(receiver):
    """Failures of the transport: kind, and whether the request had left."""
    path = WECOM
    before = len(receiver.seen(path))
    d = one(receiver, Answer("reset"))
    equal(attempt(d, "error_kind, http_status"), "reset|", "reset before an answer: reset")
    equal(len(receiver.seen(path)) - before, 1, "and the request went out once")

    # A kept connection breaks under the second request: libcurl would send it again by itself.
    name = wecom(receiver)
    first, second = push(name, priority=1), push(name, priority=2)
    receiver.script(path, Answer(), Answer("reset"), Answer())
    before = len(receiver.seen(path))
    once("--concurrency", "1")
    got = receiver.seen(path)[before:]
    equal((status(first), attempt(second, "error_kind")), ("sent", "reset"), "reset on a kept connection: reset")
    equal(len(got), 2, "and that request, too, went out once")
    check(len({r.connection for r in got}) == 1, "the connection was used again")

    d = one(receiver, Answer("reset_mid"))
    equal(attempt(d, "error_kind, http_status"), "reset|200", "reset inside the body: reset, with the status")

    d = one(receiver, Answer("hang"), timeout_seconds=1)
    equal(attempt(d, "error_kind, elapsed_ms BETWEEN 900 AND 50000"), "timeout|t", "no answer: timeout")

    receiver.flooded = 0
    d = one(receiver, Answer("flood", body=b"{"))
    equal(attempt(d, "error_kind"), "too_large", "an endless answer: too_large")
    check(receiver.flooded < 64 << 20, "and it is broken off", receiver.flooded)

    free = socket.create_server(("127.0.0.1", 0))
    url = "http://127.0.0.1:%d/hook?key=k" % free.getsockname()[1]
    free.close()
    d = push(channel("wecom", url))
    once()
    equal(attempt(d, "error_kind, http_status"), "connect|", "nobody listens: connect")

    d = push(channel("wecom", "http://no-such-host.invalid/hook", timeout_seconds=30))
    once()
    equal(attempt(d, "error_kind"), "dns", "unknown host: dns")


def test_private_addresses(receiver):
    """Without allow_private nothing reaches the machine's own network."""
    before = receiver.connections
    target = WECOM + "?key=" + SECRETS["wecom"]
    hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"]
    ids = [push(channel("wecom", receiver.url(target, host), allow_private=False)) for host in hosts]
    code, log = once()
    for host, d in zip(hosts, ids):
        equal(attempt(d, "error_kind"), "refused_address", "%s is refused" % host)
    equal(receiver.connections, before, "and no connection was made")

    # The kept connection of a channel that may does not help one that may not.
    receiver.script(WECOM, Answer(), Answer())
    may = push(wecom(receiver), priority=1)
    not_ = push(channel("wecom", receiver.url(target), allow_private=False), priority=2)
    once("--concurrency", "1")
    equal((status(may), attempt(not_, "error_kind")), ("sent", "refused_address"), "nor over a kept connection")


def test_tls(receiver):
    """Certificates are verified, with an authority of one's own too."""
    https = Receiver((WORK + "/server.pem", WORK + "/server.key"), SECRETS)
    target = WECOM + "?key=" + SECRETS["wecom"]
    d = push(channel("wecom", https.url(target, "localhost")))
    once("--ca-file", WORK + "/ca.pem")
    equal((status(d), len(https.requests)), ("sent", 1), "HTTPS with the authority of ca_file is sent")

    d = push(channel("wecom", https.url(target, "localhost")))
    once()
    equal(attempt(d, "error_kind"), "tls", "an unknown authority: tls")
    d = push(channel("wecom", https.url(target, "127.0.0.1")))
    once("--ca-file", WORK + "/ca.pem")
    equal(attempt(d, "error_kind"), "tls", "a certificate for another name: tls")
    equal(len(https.requests), 1, "and no request was sent")
    https.close()


def test_environment_proxy(receiver):
    """A proxy of the environment is not used."""
    d = push(wecom(receiver))
    env = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"}
    once(env=env)
    equal(status(d), "sent", "http_proxy of the environment is not used")


TESTS = [
    test_providers,
    test_audience,
    test_answers,
    test_transport_failures,
    test_private_addresses,
    test_tls,
    test_environment_proxy,
]
