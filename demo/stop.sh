#!/usr/bin/env bash
# Stops what make demo left running: its pusher, its receiver, its cluster, and nothing else. The
# directory ./.demo stays.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=../test/lib/find_pg.sh
. "$root/test/lib/find_pg.sh"
# shellcheck source=../test/lib/cluster.sh
. "$root/test/lib/cluster.sh"
quiet=${1:-}
status=0

say()
{
	[ -n "$quiet" ] || echo "$@"
}

# ours PID: whether that process still is what was started from this directory.
ours()
{
	[ -r "/proc/$1/cmdline" ] && grep -qaF -- "$dir/bin/" "/proc/$1/cmdline" 2> /dev/null
}

# stop_process NAME: asks it to end, and makes it end after 15 s.
stop_process()
{
	local pid tries
	pid=$(cat "$dir/$1.pid" 2> /dev/null) && ours "$pid" || return 0
	kill "$pid" 2> /dev/null
	for ((tries = 0; tries < 150; tries++)); do
		if ! ours "$pid"; then
			say "stopped the $1 ($pid)"
			return
		fi
		sleep 0.1
	done
	kill -KILL "$pid" 2> /dev/null
	say "killed the $1 ($pid), which did not end by itself"
}

if [ ! -d "$root/.demo" ]; then
	say "there is no ./.demo"
	exit 0
fi
dir=$(readlink -f "$root/.demo")
stop_process pusher
stop_process receiver
if cluster_runs "$dir"; then
	pg=$(find_pg) && bindir=$("$pg" --bindir)
	if cluster_stop "$dir"; then
		say "stopped the cluster"
	else
		echo "the cluster in $dir could not be stopped; see $dir/server.log" >&2
		status=1
	fi
fi
say "./.demo stays: rm -rf $(if [ "$dir" = "$root/.demo" ]; then echo .demo; else echo ".demo $dir"; fi) removes it"
exit "$status"
