"""What the tests share: the counter of ok lines, psql, a pusher process, waiting with a deadline."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PUSHER = os.environ["ECSTATS_PUSHER"]
WORK = os.environ["ECSTATS_PUSHER_WORK"]
DB = os.environ["ECSTATS_PUSHER_DB"]
PART = os.environ.get("ECSTATS_PUSHER_PART", "pusher")

_count = 0
_failed = 0


def check(good, text, detail=""):
    """Prints one result line."""
    global _count, _failed
    _count += 1
    print("%s %d - %s: %s" % ("ok" if good else "not ok", _count, PART, text), flush=True)
    if not good:
        _failed += 1
        for line in str(detail).splitlines()[-25:]:
            print("#   " + line, flush=True)


def equal(got, want, text):
    check(got == want, text, "got  %r\nwant %r" % (got, want))


def failed():
    return _failed


def wait_until(condition, seconds=60):
    """Polls a condition until it holds or the deadline passes; returns its last value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.02)


def sql(statement, db=DB, user=None):
    """Runs SQL by psql and returns the unaligned output; raises with the error's text."""
    command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", db]
    if user:
        command += ["-U", user]
    run = subprocess.run(command, input=statement, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError("%s\n%s" % (statement, run.stderr))
    return run.stdout.strip()


class Pusher:
    """A running ecstats-pusher; its log is in .log()."""

    def __init__(self, *options, db=DB, env=None, wrapper=()):
        self.errors = tempfile.TemporaryFile(mode="w+", dir=WORK)
        options = ["--dsn", "dbname=" + db, "--poll-interval", "60s", *options]
        self.process = subprocess.Popen(
            [*wrapper, PUSHER, *options],
            stderr=self.errors,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def connected(self, times=1, seconds=60):
        """Waits until it listens (for the n-th time)."""
        return wait_until(lambda: self.log().count("connected\n") >= times, seconds)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=60):
        """Exit code, or None if it still runs at the deadline."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            if self.wait() is None:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()


def once(*options, db=DB, env=None):
    """Runs the pusher with --once; returns (exit code, log)."""
    p = Pusher("--once", *options, db=db, env=env)
    code = p.wait(120)
    if code is None:
        p.process.kill()
        p.process.wait()
    return code, p.log()


def run(*options, env=None):
    """Runs the pusher for its output; returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [PUSHER, *options], capture_output=True, text=True, timeout=30, env={**os.environ, **(env or {})}
    )
    return done.returncode, done.stdout, done.stderr


def faults(**more):
    """Environment in which the pusher meets the faults of faults.c."""
    return {"LD_PRELOAD": WORK + "/faults.so", **{"FAULT_" + k.upper(): str(v) for k, v in more.items()}}


class Cable:
    """A TCP cable to the database that can be cut, or hold its breath."""

    def __init__(self):
        self.target = os.environ.get("PGHOST", "/var/run/postgresql")
        self.target_port = int(os.environ.get("PGPORT", "5432"))
        self.frozen = False
        self.cut_after = None  # cut when the server answers a message with these bytes
        self.cuts = 0
        self.pairs = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def dsn(self):
        return "host=127.0.0.1 port=%d dbname=%s sslmode=disable gssencmode=disable" % (self.port, DB)

    def close(self):
        self.listener.close()
        self.cut()

    def cut(self):
        for pair in self.pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.target.startswith("/"):
                server = socket.socket(socket.AF_UNIX)
                server.connect("%s/.s.PGSQL.%d" % (self.target, self.target_port))
            else:
                server = socket.create_connection((self.target, self.target_port))
            self.pairs.append((client, server))
            state = {"armed": False}
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._carry, args=(source, sink, up, state), daemon=True).start()

    def _carry(self, source, sink, up, state):
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                while self.frozen:
                    time.sleep(0.02)
                if up and self.cut_after and self.cut_after in data:
                    state["armed"] = True
                    self.cut_after = None
                elif not up and state["armed"]:
                    self.cuts += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


_channels = 0


def channel(kind, url, secret=None, **options):
    """Makes a channel; unless said otherwise, it may reach 127.0.0.1 and does not retry."""
    global _channels
    _channels += 1
    name = "c%d" % _channels
    settings = {"allow_private": True, "max_retries": 0, **options}

    sql(
        "INSERT INTO ecstats.channels (name, kind, url, secret, options) VALUES (%s, %s, %s, %s, %s)"
        % tuple(quote(v) for v in (name, kind, url, secret, json.dumps(settings)))
    )
    return name


def quote(value):
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def push(name, message='{"title": "日报", "markdown": "**GMV** 1,234.50 元 ✓"}', **more):
    """Queues a message; returns the delivery's id."""
    extra = "".join(", %s => %s" % (k, quote(v)) for k, v in more.items())
    return int(sql("SELECT ecstats_push(%s, %s%s)" % (quote(name), quote(message), extra)))


def forget():
    """Cancels what earlier tests left, so that its retries do not come into the next one."""
    sql("SELECT ecstats_cancel(id) FROM ecstats.deliveries WHERE status = 'pending'")


def status(delivery):
    return sql("SELECT status FROM ecstats.deliveries WHERE id = %d" % delivery)


def sent(delivery, seconds=60):
    """Waits until a delivery is sent."""
    return wait_until(lambda: status(delivery) == "sent", seconds)


def attempt(delivery, columns, number=1):
    """Columns of one attempt, joined by '|'."""
    return sql(
        "SELECT %s FROM ecstats.delivery_attempts WHERE delivery_id = %d AND attempt = %d" % (columns, delivery, number)
    )


def attempts(delivery):
    return int(sql("SELECT count(*) FROM ecstats.delivery_attempts WHERE delivery_id = %d" % delivery))
