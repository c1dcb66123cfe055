"""What a scan of events takes a user: the most private memory (RssAnon) of its session, see memory.py.

rollup_memory.py TEXT USERS GOAL STATEMENT: at most GOAL bytes a user; "none" is met by everything."""
import sys

from memory import most


def main():
    text, users, goal, statement = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    taken = sorted(most(statement + ";") / users for _ in range(3))
    met = goal == "none" or taken[1] <= float(goal)
    judged = "" if goal == "none" else "goal <= %s  %s" % (goal, "met" if met else "MISSED")
    print("%-64s %6.1f  (%.1f - %.1f)  %s" % ("memory, bytes a user: " + text, taken[1], taken[0], taken[2], judged))
    return not met


sys.exit(main())
