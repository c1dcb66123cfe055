#!/usr/bin/env bash
# Random changes with random seeds, for SOAK_MINUTES (30): test/oracle/random_changes.py again and again, STEPS (10000)
# operations each. Stops at the first failure, which says how to repeat it; what failed is a seed.
#
#   SOAK_MINUTES=600 make soak        SEED=7 make soak: seeds 7, 8, 9 …
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
# shellcheck source=lib/find_pg.sh
. test/lib/find_pg.sh
# shellcheck source=lib/cluster.sh
. test/lib/cluster.sh

bash test/lib/setup.sh || exit 1
PG_CONFIG=$(find_pg) || exit 1
bindir=$("$PG_CONFIG" --bindir)
export PG_CONFIG PATH="$bindir:$PATH" PYTHONDONTWRITEBYTECODE=1
work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/cluster"
[ "$(id -u)" -ne 0 ] || chown "$(cluster_user)" "$work/cluster"
trap 'cluster_stop "$work/cluster"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cluster_init "$work/cluster" postgres "fsync = off" "timezone = 'UTC'" "log_timezone = 'UTC'" || exit 1
cluster_start "$work/cluster" || exit 1
cluster_env "$work/cluster"

minutes=${SOAK_MINUTES:-30}
export STEPS="${STEPS:-10000}"
seed=${SEED:-}
runs=0
while [ "$runs" -eq 0 ] || [ "$SECONDS" -lt $((minutes * 60)) ]; do
	export SEED="${seed:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}"
	if ! /usr/bin/python3 test/oracle/random_changes.py; then
		echo "failed with seed $SEED, after $runs good runs and $SECONDS s"
		exit 1
	fi
	runs=$((runs + 1))
	[ -z "$seed" ] || seed=$((seed + 1))
done
echo "$runs runs of $STEPS operations in $SECONDS s, no failure"
