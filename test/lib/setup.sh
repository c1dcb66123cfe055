#!/usr/bin/env bash
# Brings what ecstats is built and tested with on Debian 12 or Ubuntu, then builds and installs it.
# Run it as root or as somebody who may sudo; where nothing is missing it installs no package.
#
#   PG_CONFIG   use this PostgreSQL and install no server packages
#   PREFIX      where the pusher goes (default /usr/local)
#   EXTRAS      set: also what only some tests need; they are skipped where it cannot be had
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=find_pg.sh
. "$root/test/lib/find_pg.sh"
given=${PG_CONFIG:-}
# What was said to a make around this one (make demo DATA=DIR) is not meant for the build.
unset DATA MAKEFLAGS MAKEOVERRIDES MFLAGS MAKELEVEL

say()
{
	echo "set-up: $*"
}

die()
{
	echo "set-up: $*" >&2
	exit 1
}

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo > /dev/null; then
		sudo "$@"
	else
		die "'$*' needs root: run this as root, or install sudo"
	fi
}

# missing_tools prints the packages of the tools and libraries that are not there.
missing_tools()
{
	local libraries
	command -v make > /dev/null || echo make
	echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2> /dev/null || echo gcc libc6-dev
	command -v openssl > /dev/null || echo openssl
	[ -x /usr/bin/python3 ] || echo python3
	if ! command -v pkg-config > /dev/null; then
		libraries="pkg-config libpq-dev libcurl4-openssl-dev libjansson-dev"
	else
		libraries="$(pkg-config --exists libpq || echo libpq-dev)
			$(pkg-config --exists libcurl || echo libcurl4-openssl-dev)
			$(pkg-config --exists jansson || echo libjansson-dev)"
	fi
	echo $libraries
}

# missing_server prints the packages of the server that are not there; candidate_major says which.
missing_server()
{
	local pg major
	[ -z "$given" ] || return 0
	if pg=$(find_pg) && pg_has_cron "$pg"; then
		return
	fi
	major=$(candidate_major)
	if [ -z "$major" ]; then
		echo postgresql-15 postgresql-server-dev-15 postgresql-15-cron
		return
	fi
	for package in "postgresql-$major" "postgresql-server-dev-$major" "postgresql-$major-cron"; do
		dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || echo "$package"
	done
}

# candidate_major prints the newest server that is installed, else the one that the distribution has.
candidate_major()
{
	local major
	major=$(ls /usr/lib/postgresql/*/bin/postgres 2> /dev/null | cut -d/ -f5 | sort -n | tail -n 1)
	if [ -z "$major" ] || [ "$major" -lt 14 ]; then
		major=$(apt-cache depends postgresql 2> /dev/null |
			sed -nE 's/^ *Depends: postgresql-([0-9]+)$/\1/p' | sort -n | tail -n 1)
	fi
	if [ -n "$major" ] && [ "$major" -ge 14 ]; then
		echo "$major"
	fi
}

# Debian's server package makes and starts a cluster of its own; nobody asked for that. The setting
# is put back as it was.
conf=/etc/postgresql-common/createcluster.conf
saved=
restore_conf()
{
	if [ -n "$saved" ]; then
		as_root cp -p "$saved" "$conf" && as_root rm -f "$saved"
		saved=
	fi
}
trap restore_conf EXIT

# apt_get ARGUMENT…: quiet, unless it fails.
apt_get()
{
	local log status=0
	log=$(mktemp)
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" > "$log" 2>&1 || status=$?
	[ "$status" -eq 0 ] || tail -n 30 "$log" >&2
	rm -f "$log"
	return "$status"
}

install_packages()
{
	if [[ " $* " == *" postgresql-"[0-9]* ]]; then
		apt_get install --no-install-recommends postgresql-common || return 1
		if [ -f "$conf" ]; then
			saved=$(as_root mktemp)
			as_root cp -p "$conf" "$saved"
			as_root sed -i -E '/^ *create_main_cluster/d; $a create_main_cluster = false' "$conf" ||
				say "(a cluster 'main' may be made by the server package)"
		fi
	fi
	apt_get install --no-install-recommends "$@" || return 1
	restore_conf
}

# missing_extras MAJOR: the packages of what only some tests need: MariaDB behind a foreign table, and clients that
# write into ecstats.
missing_extras()
{
	PATH=$PATH:/usr/sbin command -v mariadbd > /dev/null || echo mariadb-server-core
	command -v mariadb > /dev/null || echo mariadb-client-core
	[ -f "/usr/share/postgresql/$1/extension/mysql_fdw.control" ] || echo "postgresql-$1-mysql-fdw"
	/usr/bin/python3 -c 'import psycopg2' 2> /dev/null || echo python3-psycopg2
	/usr/bin/python3 -c 'import psycopg' 2> /dev/null || echo python3-psycopg
	command -v node > /dev/null || echo nodejs node-pg
}

missing=$(missing_tools; missing_server)
missing=$(echo $missing)
if [ -n "$missing" ]; then
	command -v apt-get > /dev/null && command -v dpkg-query > /dev/null ||
		die "this is neither Debian nor Ubuntu; install what the packages [$missing] bring: a C compiler, make, pkg-config, PostgreSQL 14 to 18 with its server headers and pg_cron, the headers of libpq, libcurl and jansson, python3 and openssl. If pg_config is in an unusual place, set PG_CONFIG."
	say "missing: $missing"
	apt_get update || say "(apt-get update failed; trying with the package lists there are)"
	# The lists may have brought another server than the one guessed without them.
	missing=$(missing_tools; missing_server)
	missing=$(echo $missing)
	install_packages $missing || die "the packages could not be installed: $missing"
fi

pg=$(find_pg) || die "there is no PostgreSQL from 14 on with server headers (set PG_CONFIG to its pg_config)"
pg_usable "$pg" || die "$pg is not usable: PostgreSQL from 14 on with server, headers and PGXS is needed"
pg_has_cron "$pg" || die "PostgreSQL at $("$pg" --sharedir) has no pg_cron; install postgresql-$(pg_major "$pg")-cron"

if [ -n "${EXTRAS:-}" ] && command -v apt-get > /dev/null; then
	extras=$(echo $(missing_extras "$(pg_major "$pg")"))
	if [ -n "$extras" ]; then
		say "missing, for tests alone: $extras"
		# Without the lists nothing is found; once is enough.
		[ -n "$missing" ] || apt_get update 2> /dev/null || true
		for package in $extras; do
			install_packages "$package" 2> /dev/null || say "($package is not to be had: what needs it is skipped)"
		done
	fi
fi

cd "$root"
say "building with $("$pg" --version)"
prefix=${PREFIX:-/usr/local}
make -s PG_CONFIG="$pg"
install=(make -s install "PG_CONFIG=$pg" "prefix=$prefix")
# A tree of one's own needs no root.
if [ -w "$("$pg" --pkglibdir)" ] && [ -w "$("$pg" --sharedir)/extension" ] && mkdir -p "$prefix/bin" 2> /dev/null && [ -w "$prefix/bin" ]; then
	"${install[@]}" > /dev/null
else
	as_root "${install[@]}" > /dev/null
fi
say "installed in $("$pg" --pkglibdir) and $prefix/bin"
