"""What the oracle tests share: the expected files, databases of their own, and the comparison."""
import csv
import decimal
import gzip
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "test", "oracle"))
import load_shared  # noqa: E402

DATA = load_shared.default_data()
_failed = 0


def skip_without_data(name):
    """Ends the test with a plain line where the shared data are absent."""
    if not os.path.isdir(os.path.join(DATA, "oracle")):
        print("skip %s: there are no shared data at %s" % (name, DATA))
        sys.exit(0)


def check(good, text, details=()):
    """Prints one result line, and at most 20 details of a failure."""
    global _failed
    print("%s - %s" % ("ok" if good else "not ok", text), flush=True)
    if not good:
        _failed += 1
        for detail in list(details)[:20]:
            print("#   " + detail)


def finish():
    sys.exit(1 if _failed else 0)


def expected(name):
    """The rows of an oracle file as dictionaries."""
    path = os.path.join(DATA, "oracle", name)
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text):
    """An exact number; None for what is undefined."""
    return None if text in (None, "") else decimal.Decimal(text)


class Database:
    """A database of its own with the extension and a time zone; dropped at the end."""

    def __init__(self, name, zone):
        self.name = "ecstats_oracle_" + name
        self.run('DROP DATABASE IF EXISTS "%s"' % self.name, database="postgres")
        self.run("CREATE DATABASE \"%s\" TEMPLATE template0 ENCODING 'UTF8'" % self.name, database="postgres")
        self.run("CREATE EXTENSION ecstats; UPDATE ecstats.config SET timezone = '%s'" % zone)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run('DROP DATABASE "%s"' % self.name, database="postgres")

    def run(self, statement, database=None):
        done = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database or self.name],
                              input="SET client_min_messages = warning;\n" + statement,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError("%s\n%s" % (statement, done.stderr))
        return done.stdout

    def load(self, kind, read_zone=None):
        """Loads a shared file; prints nothing."""
        os.environ["PGDATABASE"] = self.name
        stdout, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="utf-8")
        try:
            load_shared.load(kind, DATA, read_zone)
        finally:
            sys.stdout.close()
            sys.stdout = stdout

    def rows(self, query):
        """The result as dictionaries of text, NULL as the empty text."""
        return list(csv.DictReader(self.run("COPY (%s) TO STDOUT (FORMAT csv, HEADER)" % query).splitlines()))


class Session:
    """A psql that stays: one session of a database. The first error ends it."""

    END = "end of what was asked"

    def __init__(self, database):
        self.said = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.psql = subprocess.Popen(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.said, encoding="utf-8", env=dict(os.environ, PGCLIENTENCODING="UTF8"))
        self.run("SET client_min_messages = warning; SET statement_timeout = '120s'")

    def run(self, statement):
        """Runs statements and returns what they print."""
        try:
            self.psql.stdin.write(statement + "\n;\n\\echo " + self.END + "\n")
            self.psql.stdin.flush()
        except BrokenPipeError:
            pass
        lines = []
        for line in self.psql.stdout:
            if line == self.END + "\n":
                return "".join(lines)
            lines.append(line)
        self.psql.wait()
        self.said.seek(0)
        raise RuntimeError(self.said.read().strip() or "psql ended with status %d" % self.psql.returncode)

    def rows(self, query):
        """The result as dictionaries of text, NULL as the empty text."""
        return list(csv.DictReader(self.run("COPY (%s) TO STDOUT (FORMAT csv, HEADER)" % query).splitlines()))

    def close(self):
        self.psql.stdin.close()
        self.psql.stdout.close()
        self.psql.wait()
        self.said.close()


def compare(text, want, got, keys, columns):
    """Compares two lists of dictionaries by key: the same keys, the same exact numbers.

    columns maps a column of got to the column of want."""
    def keyed(rows):
        return {tuple(row[key] for key in keys): row for row in rows}
    want, got = keyed(want), keyed(got)
    differing = ["%s: missing" % "/".join(key) for key in sorted(want.keys() - got.keys())]
    differing += ["%s: not expected" % "/".join(key) for key in sorted(got.keys() - want.keys())]
    for key in sorted(want.keys() & got.keys()):
        wrong = ["%s %s, expected %s" % (ours, got[key][ours], want[key][theirs])
                 for ours, theirs in columns.items() if number(got[key][ours]) != number(want[key][theirs])]
        if wrong:
            differing.append("%s: %s" % ("/".join(key), "; ".join(wrong)))
    check(not differing and want, "%s: %d rows, %d columns%s" % (
        text, len(want), len(columns), ", %d differ" % len(differing) if differing else ""), differing)
