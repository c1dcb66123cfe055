"""The daemon: waking, stopping, crashing, losing the database, settings, rights."""
import json
import os
import re
import signal
import socket
import subprocess

from harness import *
from receiver import Answer, Receiver
from test_transport import SECRETS, WECOM, wecom

GATE = Answer("gate")


def waiting(receiver, count, seconds=60):
    return wait_until(lambda: receiver.waiting >= count, seconds)


def gated(receiver, count):
    """Scripts count answers that wait for the gate, which is shut."""
    receiver.gate.clear()
    receiver.most_waiting = 0
    receiver.script(WECOM, *[GATE] * count)


def test_concurrency(receiver):
    gated(receiver, 12)
    name = wecom(receiver, lane=20)
    ids = [push(name) for _ in range(12)]
    with Pusher() as p:
        check(waiting(receiver, 10), "ten requests are in flight at once", receiver.most_waiting)
        equal(int(sql("SELECT count(*) FROM ecstats.deliveries WHERE status = 'sending'")), 10, "no more than ten are claimed")
        receiver.gate.set()
        check(all(sent(d) for d in ids), "all twelve are sent", p.log())
        equal(receiver.most_waiting, 10, "never more than ten at once")
    receiver.gate.set()


def test_waking(receiver):
    name = wecom(receiver)
    queued = push(name)
    # Nothing but the notification can be what wakes it.
    with Pusher("--poll-interval", "1h", "--beat-interval", "1h") as p:
        check(sent(queued), "what was queued before the start is found without a notification", p.log())
        started = time.monotonic()
        fresh = push(name)
        good = sent(fresh)
        check(good, "a notification wakes it", p.log())
        print("# it took %.0f ms" % ((time.monotonic() - started) * 1000))
        check(sql("SELECT count(*) FROM ecstats.pushers WHERE last_beat > now() - interval '1 min'") != "0", "it gives signs of life")
        later = int(
            sql(
                "BEGIN; SELECT ecstats_push('%s', '{\"text\": \"later\"}'); UPDATE ecstats.deliveries SET"
                " next_attempt_at = clock_timestamp() + interval '3 s' WHERE id = (SELECT max(id) FROM ecstats.deliveries);"
                " COMMIT" % name
            )
        )
        check(sent(later), "the beat's answer wakes it for what becomes due later", p.log())
        late = "extract(epoch FROM started_at - (SELECT created_at FROM ecstats.deliveries WHERE id = %d)) >= 2.9" % later
        equal(attempt(later, late), "t", "at its time")
    with Pusher("--poll-interval", "200ms", "--beat-interval", "1h") as p:
        p.connected()
        d = push(name)
        sent(d)
        quiet = "UPDATE ecstats.deliveries SET status = 'pending', next_attempt_at = now(), moves = moves + 1, sent_at = NULL WHERE id = %d"
        sql(quiet % d)
        check(wait_until(lambda: attempts(d) == 2), "without a notification polling finds what is due", p.log())


def test_sigterm(receiver):
    gated(receiver, 1)
    name = wecom(receiver)
    first = push(name)
    with Pusher() as p:
        waiting(receiver, 1)
        p.signal(signal.SIGTERM)
        check(wait_until(lambda: "stopping" in p.log()), "SIGTERM is noticed")
        second = push(name)
        check(p.process.poll() is None, "it waits for what is in flight")
        receiver.gate.set()
        equal(p.wait(), 0, "then exits 0")
        equal((status(first), status(second)), ("sent", "pending"), "that is settled, nothing new is claimed")

        gated(receiver, 1)
    with Pusher() as p:
        waiting(receiver, 1)
        p.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in p.log())
        p.signal(signal.SIGTERM)
        equal(p.wait(), 1, "a second SIGTERM stops at once, exit code 1")
    receiver.gate.set()
    sql("UPDATE ecstats.deliveries SET lease_until = now() WHERE status = 'sending'")
    once()


def test_kill(receiver):
    """kill -9 between claim and settle: once more after the lease, and the row says so."""
    gated(receiver, 1)
    before = len(receiver.seen(WECOM))
    d = push(wecom(receiver, max_retries=3))
    p = Pusher()
    waiting(receiver, 1)
    p.signal(signal.SIGKILL)
    p.wait()
    equal(status(d), "sending", "after kill -9 the delivery is still claimed")
    once()
    equal(len(receiver.seen(WECOM)) - before, 1, "and does not go out before its lease is over")
    sql("UPDATE ecstats.deliveries SET lease_until = clock_timestamp() WHERE id = %d" % d)
    sql("SELECT ecstats.pusher_beat('test')")
    once()
    if status(d) != "sent":  # the lost attempt counts: its successor is due after the back-off
        sql("UPDATE ecstats.deliveries SET next_attempt_at = clock_timestamp() WHERE id = %d AND status = 'pending'" % d)
        once()
    equal(status(d), "sent", "after its lease it goes out again")
    equal(len(receiver.seen(WECOM)) - before, 2, "once more, not oftener")
    equal(attempt(d, "result, answered_at IS NULL", 1), "unconfirmed|t", "the first attempt is on record as unconfirmed")
    equal(attempt(d, "result", 2), "sent", "the second as sent")
    receiver.gate.set()


def backends():
    return "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def test_database_loss(receiver):
    gated(receiver, 1)
    name = wecom(receiver)
    before = len(receiver.seen(WECOM))
    d = push(name)
    with Pusher() as p:
        waiting(receiver, 1)
        sql("SELECT pg_terminate_backend(pid) " + backends())
        check(wait_until(lambda: "no connection" in p.log()), "the loss of the database is noticed")
        receiver.gate.set()
        check(sent(d), "the outcome is settled after the reconnect", p.log())
        equal((len(receiver.seen(WECOM)) - before, attempts(d)), (1, 1), "with one request and one attempt")
        check(p.connected(2), "it has connected anew")
        check(sent(push(name)), "and listens again", p.log())
        # Refused while nobody may connect; what is queued meanwhile is found afterwards.
        sql("ALTER DATABASE %s ALLOW_CONNECTIONS false" % DB, db="postgres")
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'" % DB, db="postgres")
        wait_until(lambda: p.log().count("no connection") >= 2)
        sql("ALTER DATABASE %s ALLOW_CONNECTIONS true" % DB, db="postgres")
        check(p.connected(3), "it comes back after an outage", p.log())
        check(sent(push(name)), "and delivers", p.log())


def test_cable(receiver):
    """A session that dies without a word, and one that dies at the worst moment."""
    cable = Cable()
    gated(receiver, 1)
    name = wecom(receiver)
    before = len(receiver.seen(WECOM))
    d = push(name)
    with Pusher("--dsn", cable.dsn()) as p:
        waiting(receiver, 1)
        cable.cut_after = b"delivery_settle"
        receiver.gate.set()
        check(wait_until(lambda: cable.cuts == 1 and p.connected(2)), "the session is cut before settle's answer comes", p.log())
        check(wait_until(lambda: "delivery %d attempt 1 settled: ignored" % d in p.log()), "it settles again, which changes nothing", p.log())
        equal((status(d), len(receiver.seen(WECOM)) - before, attempts(d)), ("sent", 1, 1), "one request, one attempt, sent")
    with Pusher("--dsn", cable.dsn(), "--beat-interval", "300ms", "--query-timeout", "300ms", "--connect-timeout", "500ms") as p:
        p.connected()
        cable.frozen = True
        check(wait_until(lambda: "no answer to a statement in time" in p.log()), "a session without a sign of life is given up", p.log())
        check(wait_until(lambda: len(cable.pairs) >= 4), "attempts to connect that hang are given up, too", p.log())
        cable.frozen = False
        d = push(name)
        check(p.connected(2) and sent(d), "and it comes back when the network does", p.log())
    cable.close()


def test_unreachable(receiver):
    p = Pusher("--once", "--dsn", "host=127.0.0.1 port=1 dbname=x")
    equal(p.wait(), 1, "--once without a database exits 1")
    equal(p.log().count("no connection"), 1, "without a second attempt")


def test_logs(receiver):
    """Neither keys nor bodies nor passwords."""
    secret = "dingtalk-token-secret"
    d = [
        push(wecom(receiver)),
        push(channel("dingtalk", receiver.url("/robot/send?access_token=" + secret), SECRETS["dingtalk"])),
        push(channel("webhook", "http://user:pass-secret@127.0.0.1:1/hook/" + secret, SECRETS["webhook"])),
    ]
    p = Pusher("--once", "--log-level", "debug", "--dsn", "dbname=%s password=dsn-secret" % DB)
    p.wait()
    log = p.log()
    check("delivery %d" % d[0] in log, "deliveries are in the log", log)
    check(receiver.url("/…") in log, "URLs are cut after the host", log)
    found = [w for w in ("secret", "GMV", "日报", SECRETS["dingtalk"], WECOM) if w in log]
    equal(found, [], "no key, password or body is in the log")
    p = Pusher("--once", "--log-format", "json")
    p.wait()
    lines = [json.loads(line) for line in p.log().splitlines()]
    check(lines and all({"time", "level", "message"} <= set(line) for line in lines), "JSON lines parse", p.log())


def test_settings(receiver):
    cases = [
        (["--concurrency", "0"], "concurrency"),
        (["--concurrency", "ten"], "concurrency"),
        (["--poll-interval", "5 fortnights"], "poll_interval"),
        (["--log-level", "loud"], "log_level"),
        (["--config", WORK + "/none.conf"], "none.conf"),
        (["--dsn", "host=h hidden-secret"], "dsn"),
        (["--ca-file", WORK + "/none.pem"], "ca_file"),
        (["--frequency"], "frequency"),
        (["stray"], "stray"),
    ]
    for options, word in cases:
        code, _, err = run("--once", *options)
        shown = " ".join(options).replace(WORK + "/", "")
        check(code == 2 and word in err and "secret" not in err, "%s: exit code 2 and said why" % shown, err)
    path = WORK + "/bad.conf"
    for text, word in (("# c\n\nspeed = 9\n", "bad.conf:3"), ("concurrency\n", "bad.conf:1")):
        with open(path, "w") as f:
            f.write(text)
        code, _, err = run("--once", "--config", path)
        check(code == 2 and word in err, "a wrong line of the file is named (%s)" % word, err)
    with open(path, "w") as f:
        f.write("dsn = dbname=x password='p-secret q'\n  concurrency=7\npoll_interval = 250 ms\ntick = on\n")
    code, out, err = run("--show-config", "--config", path, "--concurrency", "8")
    check("concurrency = 8\n" in out and "poll_interval = 250ms\n" in out and "tick = on\n" in out, "file and options: options win", out)
    check("secret" not in out and "password=********" in out, "--show-config masks the password", out)
    equal(run("--version")[1].split()[:2], ["ecstats-pusher", "1.0"], "--version")

    names = re.findall(r"^(\w+) = ", out, re.M)
    root = os.path.dirname(os.path.abspath(__file__)) + "/../../pusher/"
    sample = open(root + "ecstats-pusher.conf.sample").read()
    help_ = run("--help")[1]
    check(len(names) > 10 and all(re.search(r"^#?%s = ?" % n, sample, re.M) for n in names), "the sample file has every setting")
    check(all("  %s " % n in help_ for n in names), "--help has every setting")
    check(run("--show-config=markdown")[1].strip() in open(root + "README.md").read(), "README.md has the table of settings")


def test_reload(receiver):
    path = WORK + "/reload.conf"

    def write(text):
        with open(path, "w") as f:
            f.write(text)

    write("concurrency = 1\n")
    gated(receiver, 4)
    name = wecom(receiver, lane=5)
    ids = [push(name) for _ in range(4)]
    with Pusher("--config", path) as p:
        waiting(receiver, 1)
        write("concurrency = 99999\n")
        p.signal(signal.SIGHUP)
        check(wait_until(lambda: "not reloaded" in p.log()), "SIGHUP with a wrong file: said so")
        equal(receiver.waiting, 1, "and the old settings hold")
        write("concurrency = 3\n")
        p.signal(signal.SIGHUP)
        check(waiting(receiver, 3), "SIGHUP: the file is read again", p.log())
        receiver.gate.set()
        check(all(sent(d) for d in ids), "nothing is lost by it")


def test_rights(receiver):
    role = DB + "_role"
    sql("DROP ROLE IF EXISTS %s; CREATE ROLE %s LOGIN" % (role, role))
    dsn = "dbname=%s user=%s" % (DB, role)
    code, out, _ = run("--check", "--dsn", dsn)
    check(code == 1 and "failed" in out, "--check without rights: exit code 1", out)
    granted = sql("SELECT count(*) FROM pg_proc WHERE proname = 'ecstats_grant'") != "0"
    if granted:
        sql("SELECT ecstats_grant('%s', 'pusher')" % role)
        code, out, err = run("--check", "--dsn", dsn)
        check(code == 0 and "failed" not in out, "--check with profile pusher: exit code 0", out + err)
        d = push(wecom(receiver))
        p = Pusher("--once", "--dsn", dsn)
        equal((p.wait(), status(d)), (0, "sent"), "profile pusher is enough to deliver")
        sql("SELECT ecstats_revoke('%s', 'pusher')" % role)
    else:
        code, out, err = run("--check", "--dsn", "dbname=" + DB)
        check(code == 0 and "failed" not in out, "--check as owner: exit code 0", out + err)
    sql("DROP OWNED BY %s; DROP ROLE %s" % (role, role))


CONTRACT = """
-- What a pusher needs of a database, in its smallest form, to be able to misbehave.
CREATE SCHEMA ecstats;
CREATE TABLE queue (id bigint, url text);
CREATE TABLE taken (worker text, result jsonb);
CREATE TABLE ticks (at timestamptz);
CREATE FUNCTION ecstats_version() RETURNS text LANGUAGE sql AS $$ SELECT '%s' $$;
CREATE FUNCTION ecstats.delivery_claim(worker text, max_rows int) RETURNS TABLE(delivery_id bigint, attempt int,
	transport text, method text, url text, headers text[], body text, timeout_ms int, allow_private boolean)
	LANGUAGE sql AS $$
	WITH q AS (DELETE FROM public.queue RETURNING id, queue.url)
	SELECT id, 1, CASE id WHEN 3 THEN 'pigeon' ELSE 'http' END, 'POST', q.url,
		CASE id WHEN 4 THEN ARRAY[E'X: a\r\nY: b'] ELSE ARRAY['Content-Type: text/plain', 'X-A: {"q",1}'] END,
		'x', 5000, true FROM q ORDER BY id $$;
CREATE FUNCTION ecstats.delivery_settle(worker text, results jsonb) RETURNS TABLE(delivery_id bigint, attempt int, outcome text)
	LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM jsonb_array_elements(results) r WHERE r->>'delivery_id' = '2') THEN
		RAISE EXCEPTION 'cannot take 2' USING ERRCODE = %s;
	END IF;
	INSERT INTO public.taken SELECT worker, r FROM jsonb_array_elements(results) r;
	RETURN QUERY SELECT (r->>'delivery_id')::bigint, 1, 'x' FROM jsonb_array_elements(results) r;
END $$;
CREATE FUNCTION ecstats.pusher_beat(worker text) RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz $$;
CREATE PROCEDURE ecstats_tick(wait boolean DEFAULT true) LANGUAGE sql AS $$ INSERT INTO public.ticks VALUES (now()) $$;
"""


def contract_database(version="1.7", sqlstate="'22000'"):
    name = DB + "_contract"
    sql("DROP DATABASE IF EXISTS %s (FORCE)" % name, db="postgres")
    sql("CREATE DATABASE %s" % name, db="postgres")
    sql(CONTRACT % (version, sqlstate), db=name)
    return name


def test_contract(receiver):
    name = contract_database("2.0")
    code, log = once(db=name)
    check(code == 3 and "2.0" in log, "another major version: exit code 3 and said so", log)
    equal(run("--check", "--dsn", "dbname=" + name)[0], 3, "--check says the same")

    name = contract_database()
    sql("INSERT INTO queue SELECT i, '%s' FROM generate_series(1, 5) i" % receiver.url("/hook-plain"), db=name)
    free = socket.create_server(("127.0.0.1", 0))
    refused = "http://127.0.0.1:%d/" % free.getsockname()[1]
    free.close()
    for row in [(6, "file:///etc/hostname"), (7, "no url"), (8, refused), (9, receiver.url("/hook-reset")), (10, receiver.url("/hook-hang"))]:
        sql("INSERT INTO queue VALUES (%d, '%s')" % row, db=name)
    receiver.script("/hook-reset", Answer("reset"))
    receiver.script("/hook-hang", Answer("hang"))
    receiver.script("/hook-plain", *[Answer(body=b"ok", headers={"X-Ogw-Ratelimit-Reset": " 5 ", "X-Other": "n"})] * 5)
    code, log = once("--tick", db=name)
    got = sql("SELECT r->>'delivery_id' || ' ' || coalesce(r->>'http_status', r->>'error_kind') || ' ' || (r->>'request_sent')"
              " FROM taken, LATERAL (SELECT result AS r) x ORDER BY result->'delivery_id'", db=name)
    equal(got.split("\n"), ["1 200 true", "3 other false", "4 other false", "5 200 true", "6 other false", "7 other false",
                            "8 connect false", "9 reset true", "10 timeout true"],
          "status or error kind, and whether the request had left; an outcome that the database refuses does not hold up the others")
    check(code == 1 and "cannot take 2" in log, "it is given up in the end, and --once exits 1", log)
    equal(sql("SELECT count(*) FROM ticks", db=name), "1", "--once --tick runs the tick once")
    equal(json.loads(sql("SELECT result->'headers' FROM taken WHERE result->>'delivery_id' = '1'", db=name)),
          {"content-type": "application/json", "x-ogw-ratelimit-reset": "5"}, "the headers that count are reported, no others")
    r = receiver.seen("/hook-plain")[0]
    equal((r.headers["x-a"], r.headers["content-type"]), ('{"q",1}', "text/plain"), "header lines arrive as they are")

    name = contract_database(sqlstate="CASE WHEN (SELECT count(*) FROM public.ticks) < 2 THEN '40001' ELSE '22000' END")
    sql("INSERT INTO queue VALUES (2, '%s')" % receiver.url("/hook-plain"), db=name)
    with Pusher("--drain-timeout", "300ms", db=name) as p:
        check(wait_until(lambda: p.log().count("40001") >= 2), "a serialization failure is tried again soon", p.log())
    sql("DROP DATABASE %s (FORCE)" % name, db="postgres")


def test_notify_socket(receiver):
    path = WORK + "/notify.sock"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(path)
    manager.settimeout(60)
    got = []
    with Pusher(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}) as p:
        while got.count("WATCHDOG=1") < 3:
            got.append(manager.recv(200).decode())
        p.stop()
    manager.setblocking(False)
    try:
        while True:
            got.append(manager.recv(200).decode())
    except BlockingIOError:
        pass
    check("READY=1" in got and "STOPPING=1" in got, "the service manager is told READY, WATCHDOG, STOPPING", got)
    manager.close()


def test_valgrind(receiver):
    if subprocess.run(["sh", "-c", "command -v valgrind"], stdout=subprocess.DEVNULL).returncode:
        print("# valgrind is not installed: no memory check")
        return
    ids = [push(wecom(receiver)) for _ in range(3)]
    receiver.script(WECOM, Answer(), Answer("reset"), Answer(status=500))
    p = Pusher("--once", wrapper=["valgrind", "-q", "--leak-check=full", "--error-exitcode=99"])
    code = p.wait(120)
    check(code == 0 and all(attempts(d) == 1 for d in ids), "valgrind finds nothing in a run with --once", p.log())


TESTS = [
    test_concurrency,
    test_waking,
    test_sigterm,
    test_kill,
    test_database_loss,
    test_cable,
    test_unreachable,
    test_logs,
    test_settings,
    test_reload,
    test_rights,
    test_contract,
    test_notify_socket,
    test_valgrind,
]
