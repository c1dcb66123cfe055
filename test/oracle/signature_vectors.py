"""Every signature vector of the shared contracts against the SQL functions.

Runs psql (the PG* variables say where; the extension must be in that database). Prints one line per
vector as `ok N - text` or `not ok N - text` and exits non-zero on a failure. ECSTATS_SHARED names the
shared directory, else ../shared of the project; without it the test says so and is skipped.
"""
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARED = os.environ.get("ECSTATS_SHARED", os.path.join(ROOT, "..", "shared"))
FOLDER = os.path.join(SHARED, "contracts", "webhooks")


def quote(value):
    return "'" + str(value).replace("'", "''") + "'"


def statement(expression):
    """One line of output a vector: the value, or the SQLSTATE of the error."""
    return ("DO $do$ BEGIN PERFORM set_config('t.r', coalesce((%s)::text, 'NULL'), false);"
            " EXCEPTION WHEN OTHERS THEN PERFORM set_config('t.r', 'error ' || SQLSTATE, false); END $do$;\n"
            "SELECT current_setting('t.r');\n" % expression)


def provider_cases(vectors):
    for v in vectors:
        if v["provider"] == "dingtalk":
            yield ("dingtalk %s" % v["timestamp_ms"],
                   "ecstats.sign_dingtalk(%s, %d)" % (quote(v["secret"]), v["timestamp_ms"]), v["sign_url_encoded"])
        elif v["provider"] == "feishu":
            yield ("feishu %s" % v["timestamp_s"],
                   "ecstats.sign_feishu(%s, %d)" % (quote(v["secret"]), v["timestamp_s"]), v["sign"])


def sign(secret, message_id, timestamp, body):
    return "ecstats.sign_standard_webhook(%s, %s, %d, %s)" % (quote(secret), quote(message_id), timestamp, quote(body))


def standard_cases(vectors):
    for v in vectors:
        if v["kind"] == "sign":
            yield v["name"], sign(v["secret"], v["msg_id"], v["timestamp"], v["body"]), v["expected"]
        elif v["kind"] == "construct":
            yield (v["name"], "ecstats.webhook_keys(%s)" % quote(v["secret"]),
                   None if v["ok"] else "error 22023")
        elif v["kind"] == "verify" and v["reason"] in (None, "no match"):
            # a receiver accepts when one of the listed signatures is ours
            h = v["headers"]
            made = sign(v["secret"], h["webhook-id"], int(h["webhook-timestamp"]), v["body"])
            yield ("verify: " + v["name"],
                   "%s = ANY (string_to_array(%s, ' '))" % (made, quote(h["webhook-signature"])),
                   "true" if v["accept"] else "false")


def main():
    if not os.path.isdir(FOLDER):
        print("skip signature vectors: no %s" % FOLDER)
        return 0
    with open(os.path.join(FOLDER, "provider_signature_vectors.json"), encoding="utf-8") as f:
        cases = list(provider_cases(json.load(f)))
    with open(os.path.join(FOLDER, "standard_webhooks_vectors.json"), encoding="utf-8") as f:
        cases += list(standard_cases(json.load(f)["vectors"]))
    run = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1"], input="".join(statement(c[1]) for c in cases),
                         capture_output=True, text=True, encoding="utf-8",
                         env=dict(os.environ, PGCLIENTENCODING="UTF8"))
    got = run.stdout.splitlines()
    if run.returncode != 0 or len(got) != len(cases):
        print("not ok 1 - psql: " + run.stderr.strip())
        return 1
    bad = 0
    for number, ((name, _, expected), value) in enumerate(zip(cases, got), 1):
        ok = value == expected if expected is not None else not value.startswith("error")
        bad += not ok
        print("%s %d - %s%s" % ("ok" if ok else "not ok", number, name, "" if ok else ": got %s, expected %s" % (value, expected)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
