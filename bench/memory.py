"""What ecstats_track takes for an array of 100,000 events, against the array's size as text.

memory.py FILE: the array as text. Private memory (RssAnon) of the session's process is looked at all the
while; its most, less what it was before, counts. Connects with psql as the environment says."""
import subprocess
import sys
import threading
import time

GOAL = 4


def private_kb(pid):
    with open("/proc/%s/status" % pid) as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


def most(statement):
    """The most private memory that the statement took, in bytes."""
    session = subprocess.Popen(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(text):
        session.stdin.write(text + "\n\\echo done\n")
        session.stdin.flush()
        answer = []
        while (line := session.stdout.readline()) != "done\n":
            if line == "":
                sys.exit("psql ended: " + text[:60])
            answer.append(line.strip())
        return answer

    pid = ask("SELECT pg_backend_pid();")[0]
    # what a session holds anyway: plans, caches, the library
    ask("SELECT ecstats_track(jsonb_build_object('event', 'login', 'user_id', 'warm', 'timestamp', now()));")
    before = private_kb(pid)
    peak = [before]
    over = threading.Event()

    def watch():
        while not over.is_set():
            peak[0] = max(peak[0], private_kb(pid))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ask(statement)
    over.set()
    watcher.join()
    session.stdin.close()
    session.wait()
    return (peak[0] - before) * 1024


def main():
    with open(sys.argv[1]) as source:
        size = len(source.read().encode())
    stored = "SELECT %s FROM bench.big;"
    empty = "TRUNCATE ecstats.events;"
    sides = {
        "ecstats_track of a jsonb value": (empty + stored % "ecstats_track(payload)", True),
        "  of it, the value alone, read from its table": (stored % "jsonb_array_length(payload)", False),
        "text to jsonb (PostgreSQL's own), then ecstats_track": (empty + stored % "ecstats_track(payload::text::jsonb)", False),
        "  of it, text to jsonb alone": (stored % "jsonb_array_length(payload::text::jsonb)", False),
    }
    missed = False
    print("memory of an array of 100,000 events, of %.1f MB as text, against that size" % (size / 1e6))
    for text, (statement, judged) in sides.items():
        ratios = sorted(most(statement) / size for _ in range(3))
        verdict = ""
        if judged:
            met = ratios[1] <= GOAL
            missed = missed or not met
            verdict = "goal <= %d  %s" % (GOAL, "met" if met else "MISSED")
        print("%-64s %6.2f  (%.2f - %.2f)  %s" % ("  " + text, ratios[1], ratios[0], ratios[2], verdict))
    return missed


if __name__ == "__main__":
    sys.exit(main())
