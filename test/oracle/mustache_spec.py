#!/usr/bin/python3
"""Holds ecstats_render against the published Mustache cases, through SQL.

Usage: mustache_spec.py [FILE]   (default: contracts/mustache/mustache_spec.json of the shared
directory, ECSTATS_SHARED or ../shared from the project's root)

Connects with psql and its usual variables; the database must have the extension. Cases with
partials and the optional modules (lambdas, inheritance, dynamic names) do not apply. A JSON string
needs no HTML escaping, so the escaping cases expect the text itself.
"""
import html
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def cases_file():
    if len(sys.argv) > 1:
        return sys.argv[1]
    shared = os.environ.get("ECSTATS_SHARED", os.path.join(ROOT, "..", "shared"))
    return os.path.join(shared, "contracts", "mustache", "mustache_spec.json")


def reason_to_skip(case):
    if case.get("optional") or case["module"].startswith("~"):
        return "optional module"
    if "partials" in case or case["module"] == "partials":
        return "partials are not supported"
    return None


def expected_text(case):
    escaping = "HTML Escaping" in case["name"]
    return html.unescape(case["expected"]) if escaping else case["expected"]


def literal(value):
    text = json.dumps(value, ensure_ascii=False)
    return "'" + text.replace("'", "''") + "'::jsonb"


def render_all(cases):
    """One statement a case, so that an error is that case's alone; one JSON string a line comes back."""
    script = ["\\set ON_ERROR_STOP 0", "SET standard_conforming_strings = on;",
              "SET client_encoding = 'UTF8';"]
    for number, case in enumerate(cases):
        script.append("\\echo case %d" % number)
        script.append("SELECT ecstats.template_render(%s, %s)::text;"
                      % (literal(case["template"]), literal(case["data"])))
    run = subprocess.run(["psql", "-X", "-q", "-A", "-t"], input="\n".join(script),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    results = {}
    number = None
    for line in run.stdout.splitlines():
        if line.startswith("case "):
            number = int(line[5:])
        elif number is not None:
            results[number] = json.loads(line)
    return results, run.stderr


def main():
    path = cases_file()
    if not os.path.exists(path):
        print("ok 1 - mustache spec # skip no cases at %s" % path)
        return 0
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    if isinstance(cases, dict):
        cases = cases["tests"]
    results, errors = render_all([c for c in cases if not reason_to_skip(c)])
    failed = 0
    number = 0
    print("1..%d" % len(cases))
    for line, case in enumerate(cases, 1):
        name = "%s %s" % (case.get("id", case["module"]), case["name"])
        reason = reason_to_skip(case)
        if reason:
            print("ok %d - %s # skip %s" % (line, name, reason))
            continue
        got = results.get(number)
        number += 1
        if got == expected_text(case):
            print("ok %d - %s" % (line, name))
        else:
            failed += 1
            print("not ok %d - %s" % (line, name))
            print("# template %r\n# expected %r\n# got      %r"
                  % (case["template"], expected_text(case), got))
    if failed and errors:
        print("# " + errors.strip().replace("\n", "\n# "))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
