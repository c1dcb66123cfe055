"""The table of the rules in doc/collect.md against what the intake says: each is broken once, and SQLSTATE, message
and hint must stand together in a row of the table, with the column among those that the row names; no row of the
table may be left over. In the database that PG* names, which has the extension."""
import json
import os
import re
import subprocess
import sys

DOC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "doc", "collect.md")
EVENT = {"event": "click", "timestamp": 1772400000, "user_id": "u"}
ITEM = {"product_id": "p", "quantity": 1, "amount": 1}
ORDER = {"order_id": "o", "order_time": 1772400000, "items": [ITEM]}
failed = False


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def track(**more):
    return "SELECT ecstats_track(%s)" % quote(json.dumps({**EVENT, **more}))


def order(**more):
    return "SELECT ecstats_order(%s)" % quote(json.dumps({**ORDER, **more}))


def item(**more):
    return order(items=[{**ITEM, **more}])


BREACHES = [
    track(user_id=""), track(event=""), order(order_id=""), item(product_id=""), order(region=""), order(channel=""), order(status=""),
    track(user_id="x" * 129), track(event="x" * 65), track(page_url="x" * 2049), order(order_id="x" * 129), item(product_id="x" * 129),
    order(region="x" * 129), order(channel="x" * 129), order(status="x" * 65), order(user_id="x" * 129),
    track(user_id="a\tb"), track(page_url="\u0085"), order(region="a\n"), track(event="Click"), track(event="9a"),
    track(timestamp=1), order(order_time=1), order(paid_time=1), track(timestamp=4e9), order(order_time=4e9), order(paid_time=4e9),
    "INSERT INTO ecstats.events (user_id, event, extra) VALUES ('u', 'click', '[]')", track(extra={str(i): 1 for i in range(65)}),
    track(extra={"a": "x" * 16400}), "INSERT INTO ecstats.events (user_id, event, extra) VALUES ('u', 'click', '{\"a\": 1e20000}')",
    item(line_no=-1), item(quantity=0), item(amount=-1), item(quantity=-1),
    "INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('o', 1, '2026-03-02', 'p', 1, 'NaN')",
    item(amount=1e30), track(event_id="0" * 32) + "; " + track(event_id="0" * 32, event="other"),
    "SELECT ecstats_track((SELECT jsonb_agg(1) FROM generate_series(1, 100001)))", "SELECT ecstats_order((SELECT jsonb_agg(1) FROM generate_series(1, 100001)))",
    "SELECT ecstats_track('1')", "SELECT ecstats_order('1')", track(event=None), track(timestamp=None), track(user_id=None), order(order_id=None),
    order(order_time=None), order(items=None), item(product_id=None), item(quantity=None), item(amount=None),
    track(timestamp="2026-03-02"), order(order_time="soon"), order(paid_time=True), track(event=1), track(page_url=1), track(user_id=1.5),
    order(order_id=[]), item(product_id={}), order(region=True), order(channel=1.5), order(status=1.5), track(event_id="x"),
    item(line_no="1"), item(quantity=1.5), item(amount="1e5"), track(extra=1), order(extra=1), track(odd=1, extra={"odd": 2}), order(items={}),
    order(items=[1]), order(items=[ITEM] * 10001), order(items=[{**ITEM, "line_no": 1}, {**ITEM, "line_no": 1}]),
    order(odd="x" * 16000, items=[ITEM] * 1100),
]
# These are PostgreSQL's own, or of databases in other encodings (test/encoding).
ELSEWHERE = ("NOT NULL", "known to Unicode")


def rows():
    for line in open(DOC, encoding="utf-8"):
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if len(cells) >= 4 and re.fullmatch(r"[0-9A-Z]{5}", cells[2]):
            yield cells + [""] * (5 - len(cells))


def fits(row, state, column, message, hint):
    _, of, wanted, messages, hints = row
    if state != wanted or (hint not in hints and hints != "as above"):
        return False
    if column and "`" in of and "same" not in of and not re.search(r"\b%s\b" % column, of):
        return False
    for said in re.split(r"; (?:in JSON: )?", messages):
        said = re.sub(r"\bN\b", r"\\d+", re.sub(r"\bM\b", r"\\w+", re.escape(said)))
        if re.fullmatch(said, message):
            return True
    return False


def main():
    global failed
    table = list(rows())
    used = set()
    for statement in BREACHES:
        said = subprocess.run(["psql", "-XqAt", "-v", "VERBOSITY=verbose"], input=statement, capture_output=True, text=True).stderr
        error = re.search(r"^ERROR:  (\w{5}): (.*)$", said, re.M)
        hint = re.search(r"^HINT:  (.*)$", said, re.M)
        column = re.search(r"^COLUMN NAME:  (.*)$", said, re.M)
        found = error and [i for i, row in enumerate(table) if fits(row, error[1], column[1] if column else "", error[2], hint[1] if hint else "")]
        if not found:
            print("not ok - rules: %s\n#   %s" % (statement[:200], said.replace("\n", "\n#   ")[:600]))
            failed = True
        used.update(found or [])
    left = [row[3] for i, row in enumerate(table) if i not in used and row[0] not in ELSEWHERE]
    if left or len(table) < 30:
        print("not ok - rules: rows of the table that nothing says: %s" % left)
        failed = True
    if not failed:
        print("ok - rules: %d breaches are refused as the %d rows of the table in doc/collect.md say" % (len(BREACHES), len(table)))
    return failed


sys.exit(main())
