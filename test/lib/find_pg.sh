# Sourced: which PostgreSQL to build against and to test with.

# find_pg prints the pg_config to use and fails if there is none: PG_CONFIG where it is set, else the
# newest major from 14 on in Debian's layout that has both a server and what extensions build with,
# rather one with pg_cron.
find_pg()
{
	local candidate found=
	if [ -n "${PG_CONFIG:-}" ]; then
		command -v "$PG_CONFIG"
		return
	fi
	for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -t/ -k5,5nr); do
		pg_usable "$candidate" || continue
		if pg_has_cron "$candidate"; then
			echo "$candidate"
			return
		fi
		found=${found:-$candidate}
	done
	[ -n "$found" ] && echo "$found"
}

# pg_usable PG_CONFIG: a server from 14 on with its headers and PGXS.
pg_usable()
{
	[ -x "$1" ] && [ "$(pg_major "$1")" -ge 14 ] && [ -x "$("$1" --bindir)/postgres" ] &&
		[ -f "$("$1" --pgxs)" ] && [ -f "$("$1" --includedir-server)/postgres.h" ]
}

# pg_has_cron PG_CONFIG: whether that server has pg_cron.
pg_has_cron()
{
	[ -f "$("$1" --sharedir)/extension/pg_cron.control" ]
}

# pg_major PG_CONFIG prints 15 for "PostgreSQL 15.8 (Debian …)".
pg_major()
{
	"$1" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/'
}
