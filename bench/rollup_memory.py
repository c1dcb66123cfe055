"""What a scan of events takes a user: the most private memory (RssAnon) of its session, see memory.py.

rollup_memory.py TEXT USERS GOAL STATEMENT: at most GOAL bytes a user."""
import sys

from memory import most


def main():
    text, users, goal, statement = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    taken = sorted(most(statement + ";") / users for _ in range(3))
    met = taken[1] <= goal
    print("%-64s %6.1f  (%.1f - %.1f)  goal <= %g  %s" % ("memory, bytes a user: " + text, taken[1], taken[0], taken[2], goal,
                                                        "met" if met else "MISSED"))
    return not met


sys.exit(main())
