"""Random JSON payloads through ecstats_track and ecstats_order, by SQL.

intake.py [SEED [ROUNDS]]: a fixed seed and 150 rounds in the tests. Whatever is sent, under quarantine every
element is stored, a repeat, or a reject, and nothing but a documented SQLSTATE comes back; under raise an error
stores nothing. The database (as PG* say) has the extension; its rows are emptied."""
import json
import random
import subprocess
import sys

STATES = {"23514", "22007", "23502", "22023", "23505", "54000", "22003"}
TEXTS = ["", "a", "page_view", "u1", "é你好🎉", "x" * 70, "y" * 2100, "tab\there", "\x01", "Ünï", "9a", "login", "a b", "\\", "\"",
         "2026-11-24T09:30:00+08:00", "2026-11-24T09:30:00", "2024-02-30T00:00:00Z", "0001-01-01T00:00:00Z", "12.50", "-0", "NaN",
         "01234567-89ab-cdef-0123-456789abcdef", "0123456789abcdef0123456789abcdef", "unknown", "placed", "cancelled"]
NUMBERS = [0, 1, -1, 2, 1.5, 1e11, 99999999999, 1712050800, 1712050800123, 1712050800.123456, 1e308, -1e308, 1e-300, 2147483647, 2147483648,
           -2147483649, 9223372036854775808, 10 ** 60, 4e15, 1e22]
EVENT = ["event", "timestamp", "user_id", "page_url", "extra", "event_id", "odd", "Event", ""]
ORDER = ["order_id", "order_time", "timestamp", "user_id", "region", "channel", "status", "paid_time", "items", "extra", "odd"]
ITEM = ["line_no", "product_id", "quantity", "amount", "extra", "odd"]


class Psql:
    """One session of psql."""

    def __init__(self):
        self.process = subprocess.Popen(["psql", "-XqAt", "-v", "VERBOSITY=sqlstate", "-v", "ON_ERROR_STOP=0"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, encoding="utf-8")

    def ask(self, statement):
        self.process.stdin.write(statement + ";\n\\echo =done=\n")
        self.process.stdin.flush()
        lines = []
        while (line := self.process.stdout.readline()) != "=done=\n":
            if line == "":
                raise EOFError("the server or psql ended: " + statement[:300])
            lines.append(line.rstrip("\n"))
        return lines


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind in (2, 3):
        return rng.choice(NUMBERS)
    if kind in (4, 5):
        return rng.choice(TEXTS)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7 and rng.random() < 0.1:
        return {"k%d" % i: i for i in range(rng.choice([64, 65]))}
    return {rng.choice(TEXTS[:8]) + str(i): value(rng, depth + 1) for i in range(rng.randrange(4))}


def event(rng):
    good = {"event": rng.choice(["page_view", "click", "a.b:c-d"]), "timestamp": rng.choice([1712050800, 1712050800500, "2024-04-02T10:00:00+08:00"]),
            "user_id": rng.choice(["u%d" % rng.randrange(50), rng.randrange(50)])}
    return spoiled(rng, good, EVENT)


def order(rng):
    items = [(spoiled if rng.random() < 0.3 else lambda _, good, names: good)(rng, {"product_id": "p%d" % rng.randrange(9), "quantity": rng.choice([1, 2, -1]), "amount": rng.choice([1, "2.50", -3, 0])}, ITEM)
             for _ in range(rng.randrange(4))]
    good = {"order_id": "o%d" % rng.randrange(60), "order_time": rng.choice([1712050800, "2024-04-02T10:00:00+08:00"]), "items": items}
    return spoiled(rng, good, ORDER)


def spoiled(rng, good, names):
    """Mostly with one or two members that are anything, or missing; now and then something else."""
    if rng.random() < 0.03:
        return value(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        name = rng.choice(names)
        if rng.random() < 0.15:
            good.pop(name, None)
        else:
            good[name] = value(rng)
    return good


def count(psql, what):
    lines = psql.ask("SELECT " + what)
    return int(lines[0])


def state_of(lines):
    """The SQLSTATE of an answer, or None."""
    for line in lines:
        if line.startswith(("ERROR:", "FATAL:", "PANIC:")):
            return line.split(":")[1].strip()
    return None


def run(psql, rng, name, make, rounds):
    """A line a kind of intake: what was found, if anything."""
    stored = "count(*) FROM ecstats.events" if name == "track" else "count(DISTINCT (order_id, order_time)) FROM ecstats.order_lines"
    seen = {"stored": 0, "rejects": 0, "errors": 0}
    for number in range(rounds):
        elements = [make(rng) for _ in range(rng.choice([0, 1, 1, 2, 5, 20]))]
        payload = elements[0] if len(elements) == 1 and rng.random() < 0.5 and not isinstance(elements[0], list) else elements
        sent = len(payload) if isinstance(payload, list) else 1
        text = quoted(json.dumps(payload, ensure_ascii=rng.random() < 0.5))
        psql.ask("TRUNCATE ecstats.events, ecstats.order_lines, ecstats.rejects, ecstats.day_marks")
        lines = psql.ask("SELECT ecstats_%s(%s, 'quarantine')" % (name, text))
        state = state_of(lines)
        if state is not None:
            return "round %d, quarantine: SQLSTATE %s for %s" % (number, state, text[:2000])
        rejects = count(psql, "count(*) FROM ecstats.rejects")
        rows = count(psql, stored)
        odd = psql.ask("SELECT DISTINCT sqlstate FROM ecstats.rejects")
        seen["stored"] += rows
        seen["rejects"] += rejects
        if not set(odd) <= STATES:
            return "round %d: rejects with SQLSTATE %s for %s" % (number, odd, text[:2000])
        if name == "track":
            repeats = sent - rejects - int(lines[0])
            distinct = count(psql, "count(DISTINCT (event_time, user_id, event_id)) FROM ecstats.event_parse(%s, false) WHERE sqlstate IS NULL" % text)
            conflicts = count(psql, "count(*) FROM ecstats.rejects WHERE sqlstate = '23505'")
            if rows != int(lines[0]) or rows != distinct or repeats < 0 or rejects - conflicts + count(
                    psql, "count(*) FROM ecstats.event_parse(%s, false) WHERE sqlstate IS NULL" % text) != sent:
                return "round %d: %d sent, %d stored, %d rejects for %s" % (number, sent, rows, rejects, text[:2000])
        else:
            good = count(psql, "count(DISTINCT (order_id, order_time)) FROM ecstats.order_parse(%s, false) WHERE sqlstate IS NULL AND line_no IS NOT NULL" % text)
            bad = count(psql, "count(*) FROM ecstats.order_parse(%s, false) WHERE sqlstate IS NOT NULL" % text)
            elements_seen = count(psql, "count(DISTINCT ord) FROM ecstats.order_parse(%s, false)" % text)
            if rejects != bad or elements_seen != sent or rows > good:
                return "round %d: %d sent, %d seen, %d stored of %d, %d rejects of %d for %s" % (
                    number, sent, elements_seen, rows, good, rejects, bad, text[:2000])
        if rejects > 0:
            psql.ask("TRUNCATE ecstats.events, ecstats.order_lines, ecstats.rejects")
            state = state_of(psql.ask("SELECT ecstats_%s(%s)" % (name, text)))
            if state not in STATES or count(psql, stored) != 0:
                return "round %d, raise: SQLSTATE %s for %s" % (number, state, text[:2000])
            seen["errors"] += 1
    if 0 in seen.values():
        return "too little happened: %s" % seen
    print("ok - fuzz ecstats_%s: %d payloads: %s" % (name, rounds, ", ".join("%d %s" % (n, w) for w, n in seen.items())))
    return None


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 150
    psql = Psql()
    psql.ask("SET client_min_messages = error")
    failed = False
    for name, make in (("track", event), ("order", order)):
        try:
            wrong = run(psql, random.Random(seed), name, make, rounds)
        except EOFError as end:
            wrong = str(end)
        if wrong:
            print("not ok - fuzz ecstats_%s, seed %d: %s" % (name, seed, wrong))
            failed = True
    return failed


sys.exit(main())
