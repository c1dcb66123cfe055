#!/usr/bin/python3
"""Hold ecstats_cron_next and ecstats_cron_list against the shared cron vectors and notes.

Prints one TAP-like line a case and exits non-zero when one fails. The vectors are looked for in
$ECSTATS_SHARED, or in ../shared from the root of the project; without them there is nothing to do.
The database is the one that psql connects to by itself; ecstats must be installed in it.
"""
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARED = os.environ.get("ECSTATS_SHARED", os.path.join(ROOT, os.pardir, "shared"))
CRON = os.path.join(SHARED, "contracts", "cron")

# Two of the cronos results were asked for at the instant at which a gap ends, and are recorded as
# asked one second before it, from where the policy says that this very instant is the answer (and
# the suite they come from says so itself). They hold from the instant they were asked for.
ASKED_AT_END_OF_GAP = {"quartz-dst-0200", "quartz-dst-0202"}

# One vector reads "*/2" in day of month as a restriction, which unix5_star_step.json and the
# interface decide the other way: every other day AND a Saturday.
STAR_STEP = {"unix5-valid-0008": ["2023-05-13T16:00:00+00:00", "2023-05-27T16:00:00+00:00",
                                  "2023-06-03T16:00:00+00:00", "2023-06-17T16:00:00+00:00"]}

# What doc/cron.md decides about notes/: accepted of the lenient ones, all others are refused.
ACCEPTED = {"* * * ? * L", "* * * ? * l", "0 0 0 1W,15W * ?", "* * * 1,2W * ?", "* * * 1,2w * ?"}

HELPERS = """
\\set ON_ERROR_STOP on
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE FUNCTION pg_temp.ask(expr text, after timestamptz, tz text, n int) RETURNS text
LANGUAGE plpgsql AS $f$
DECLARE
	found text;
	first timestamptz;
	detail text;
	hint text;
BEGIN
	SELECT coalesce(string_agg(extract(epoch FROM t)::bigint::text, ' ' ORDER BY o), '') INTO found
	FROM ecstats_cron_list(expr, after, n, tz) WITH ORDINALITY AS l (t, o);
	first := ecstats_cron_next(expr, after, tz);
	IF n > 0 AND coalesce(extract(epoch FROM first)::bigint::text, '') <> split_part(found, ' ', 1) THEN
		RETURN 'cron_next and cron_list differ';
	END IF;
	RETURN 'ok ' || ecstats.cron_dialect(expr) || ' ' || found;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	IF detail !~ 'osition [0-9]+' OR hint = '' THEN
		RETURN 'error without place or hint: ' || SQLERRM;
	END IF;
	RETURN 'error ' || SQLSTATE;
END
$f$;
"""


def seconds(stamp):
    return int(datetime.fromisoformat(stamp).timestamp())


def load(*names):
    with open(os.path.join(CRON, *names), encoding="utf-8") as f:
        return json.load(f)


class Case:
    """One question to the database and the test of its answer (None: right, else what is wrong)."""

    def __init__(self, name, expr, after, tz, n, judge):
        self.name = name
        self.expr = expr
        self.after = after
        self.tz = tz
        self.n = n
        self.judge = judge


def expect(dialect, instants):
    wanted = "ok " + dialect + " " + " ".join(str(seconds(i)) for i in instants)

    def judge(answer):
        return None if answer == wanted else "wanted %s, got %s" % (wanted, answer)

    return judge


def refuse(answer):
    return None if answer == "error 22023" else "wanted error 22023, got " + answer


def not_quartz(answer):
    """An expression that is no Quartz may still be the other dialect."""
    return None if answer.startswith("ok unix ") else refuse(answer)


def accept(answer):
    return None if answer.startswith("ok ") else "wanted it accepted, got " + answer


def one_second_before(stamp):
    return (datetime.fromisoformat(stamp) - timedelta(seconds=1)).isoformat()


def dst_case(v, name, dialect):
    policies = v["policies"]
    after = v["after"]
    if "cronos" in policies:
        wanted = policies["cronos"]
        if v["id"] in ASKED_AT_END_OF_GAP:
            after = (datetime.fromisoformat(after) + timedelta(seconds=1)).isoformat()
        elif seconds(wanted[0]) == seconds(after):
            # The suite also asks for the first instant at or after; ours is strictly after.
            after = one_second_before(after)
        return Case(name + " cronos", v["expr"], after, v["tz"], len(wanted),
                    expect(dialect, wanted))
    firsts = {seconds(p[0]) for p in policies.values()}
    if len(firsts) == 1:
        return Case(name + " all policies agree", v["expr"], after, v["tz"], 1,
                    expect(dialect, next(iter(policies.values()))[:1]))

    def judge(answer):
        ok = answer.startswith("ok " + dialect + " ") and int(answer.split()[2]) > seconds(after)
        return None if ok else "wanted an instant after, got " + answer

    return Case(name + " policies differ, cronos not listed", v["expr"], after, v["tz"], 1, judge)


def vector_case(v):
    dialect = "unix" if v["dialect"] == "unix5" else v["dialect"]
    name = "%s %s" % (v["id"], json.dumps(v["expr"], ensure_ascii=False))
    if v["kind"] == "invalid":
        return Case(name, v["expr"], "2024-01-01T00:00:00+00:00", "UTC", 1,
                    not_quartz if dialect == "quartz" else refuse)
    if v["kind"] == "dst":
        return dst_case(v, name, dialect)
    wanted = STAR_STEP.get(v["id"], v["next"])
    ends = not wanted or len(v["expr"].split()) == 7 and v.get("exhausted")
    return Case(name, v["expr"], v["after"], v["tz"], len(wanted) + (1 if ends else 0),
                expect(dialect, wanted))


def note_cases():
    for file, dialect in (("quartz_disputes.json", "quartz"), ("unix5_disputes.json", "unix")):
        for v in load("notes", file):
            # Years start in 1970, in which the reference differs from Quartz.
            wanted = v["reference"] if v["after"] >= "1970" else v["quartz_head"]
            yield Case("%s %s" % (file, v["expr"]), v["expr"], v["after"], v["tz"], len(wanted),
                       expect(dialect, wanted))
    for v in load("notes", "unix5_star_step.json"):
        yield Case("unix5_star_step.json " + v["expr"], v["expr"], v["after"], v["tz"],
                   len(v["and_reading"]), expect("unix", v["and_reading"]))
    for file in ("quartz_lenient.json", "unix5_lenient.json"):
        for v in load("notes", file):
            yield Case("%s %s" % (file, v["expr"]), v["expr"], "2024-01-01T00:00:00+00:00", "UTC", 1,
                       accept if v["expr"] in ACCEPTED else refuse)


def quote(text):
    return "$vector$" + text + "$vector$"


def ask(cases):
    script = [HELPERS]
    for c in cases:
        script.append("SELECT pg_temp.ask(%s, %s, %s, %d);" %
                      (quote(c.expr), quote(c.after), quote(c.tz), c.n))
    run = subprocess.run(["psql", "-XqAt"], input="\n".join(script), stdout=subprocess.PIPE,
                         universal_newlines=True, check=False)
    answers = run.stdout.splitlines()
    if run.returncode != 0 or len(answers) != len(cases):
        sys.exit("psql answered %d of %d questions" % (len(answers), len(cases)))
    return answers


def main():
    if not os.path.isfile(os.path.join(CRON, "cron_vectors.json")):
        print("ok 1 - cron vectors # SKIP %s is not there" % CRON)
        return 0
    cases = [vector_case(v) for v in load("cron_vectors.json")]
    cases.extend(note_cases())
    failed = 0
    for i, (case, answer) in enumerate(zip(cases, ask(cases)), 1):
        wrong = case.judge(answer)
        print("%s %d - %s" % ("not ok" if wrong else "ok", i, case.name))
        if wrong:
            failed += 1
            print("#   after %s in %s: %s" % (case.after, case.tz, wrong))
    print("# %d cases, %d failed" % (len(cases), failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
