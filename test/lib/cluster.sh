# Sourced: private PostgreSQL clusters, each in a directory of its own.
# Needs bindir, the directory of the server's programs.
#
#   DIR/data  DIR/server.log  DIR/port  DIR/socket_dir  DIR/pgpass
#
# The superuser is postgres. Who may enter the socket's directory connects without a password; over
# 127.0.0.1 the password in DIR/pgpass is asked for.

# cluster_user prints whom the server runs as: never root.
cluster_user()
{
	local user
	if [ "$(id -u)" -ne 0 ]; then
		id -un
		return
	fi
	for user in postgres nobody; do
		if id "$user" > /dev/null 2>&1; then
			echo "$user"
			return
		fi
	done
	echo "there is no unprivileged user to run PostgreSQL as (postgres or nobody)" >&2
	return 1
}

# as_cluster_user COMMAND…: runs it as that user, from a directory that everybody may enter.
as_cluster_user()
{
	if [ "$(id -u)" -ne 0 ]; then
		"$@"
	else
		(cd / && runuser -u "$(cluster_user)" -- "$@")
	fi
}

# free_port prints a TCP port of 127.0.0.1 that nobody uses.
free_port()
{
	/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# cluster_init DIR DATABASE [SETTING…]: makes a cluster in DIR, which exists and belongs to
# cluster_user; pg_cron lives in DATABASE. A SETTING is a line of postgresql.conf.
cluster_init()
{
	local dir=$1 database=$2 port socket password
	shift 2
	port=$(free_port) || return 1
	socket=$dir/socket
	# The path of a Unix socket has at most 107 bytes.
	if [ "$(printf '%s/.s.PGSQL.%s' "$socket" "$port" | wc -c)" -gt 100 ]; then
		socket=$(as_cluster_user mktemp -d /tmp/ecstats.XXXXXX) || return 1
	else
		as_cluster_user mkdir -p "$socket" || return 1
	fi
	as_cluster_user chmod 700 "$socket"
	password=$(/usr/bin/python3 -c 'import secrets; print(secrets.token_hex(16))')

	as_cluster_user sh -c 'umask 077
		echo "$2" > "$1/port"; echo "$3" > "$1/socket_dir"; echo "127.0.0.1:$2:*:postgres:$4" > "$1/pgpass"
		echo "$4" > "$1/pwfile"' sh "$dir" "$port" "$socket" "$password" || return 1
	as_cluster_user "$bindir/initdb" -D "$dir/data" -U postgres --pwfile="$dir/pwfile" --auth-local=trust \
		--auth-host=scram-sha-256 -E UTF8 --locale=C.UTF-8 -N > "$dir/initdb.log" 2>&1 ||
		{ cat "$dir/initdb.log" >&2; return 1; }
	as_cluster_user rm -f "$dir/pwfile"
	{
		echo "listen_addresses = '127.0.0.1'"
		echo "port = $port"
		echo "unix_socket_directories = '$socket'"
		echo "unix_socket_permissions = 0700"
		echo "shared_preload_libraries = 'pg_cron'"
		echo "cron.database_name = '$database'"
		echo "cron.use_background_workers = on"
		echo "max_worker_processes = 32"
		echo "max_prepared_transactions = 10"
		echo "wal_level = logical"
		printf '%s\n' "$@"
	} | as_cluster_user tee -a "$dir/data/postgresql.conf" > /dev/null || return 1
	# The launcher of pg_cron would fail again and again before its database is there.
	if [ "$database" != postgres ]; then
		echo "CREATE DATABASE $database" |
			as_cluster_user "$bindir/postgres" --single -D "$dir/data" postgres > "$dir/initdb.log" 2>&1 ||
			{ cat "$dir/initdb.log" >&2; return 1; }
	fi
	rm -f "$dir/initdb.log"
}

# cluster_start DIR: starts it and waits until it answers.
cluster_start()
{
	as_cluster_user "$bindir/pg_ctl" -D "$1/data" -l "$1/server.log" -t 60 -w start > /dev/null < /dev/null ||
		{ tail -n 20 "$1/server.log" >&2; return 1; }
}

# cluster_runs DIR: whether the process that its pid file names is a server in that very directory; after a
# crash of the machine the number may be somebody else's.
cluster_runs()
{
	local pid
	pid=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null) &&
		[ "$(readlink "/proc/$pid/cwd")" = "$(readlink -f "$1/data")" ]
}

# cluster_stop DIR: stops the server that runs in it, and no other.
cluster_stop()
{
	local socket
	if cluster_runs "$1"; then
		as_cluster_user "$bindir/pg_ctl" -D "$1/data" -m fast -t 60 -w stop > /dev/null 2>&1 || return 1
	fi
	socket=$(cat "$1/socket_dir" 2> /dev/null) || return 0
	case $socket in
		/tmp/ecstats.*) rmdir "$socket" 2> /dev/null ;;
	esac
	return 0
}

# cluster_env DIR: psql and its like connect to that cluster from now on.
cluster_env()
{
	PGHOST=$(cat "$1/socket_dir") PGPORT=$(cat "$1/port") PGUSER=postgres PGDATABASE=postgres
	export PGHOST PGPORT PGUSER PGDATABASE
}
