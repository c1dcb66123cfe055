#!/usr/bin/env bash
# The fuzz targets of what is pure, with ASan and UBSan.
#
#   bash test/fuzz/run.sh check     the fixed corpus, in seconds; with gcc where there is no clang
#   bash test/fuzz/run.sh long      FUZZ_SECONDS (300) of libFuzzer for each target; FUZZ="cron" picks some.
#                                   What it finds is left in $FUZZ_OUT (.fuzz): put it into the corpus
#
# A target keeps promises about its answers too, see MUST in the sources.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 1
mode=${1:-check}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UBSAN_OPTIONS=halt_on_error=1

# The sources of a target.
sources_of()
{
	case $1 in
		cron) echo src/cron_expr.c src/cron_search.c ;;
		template) echo src/template.c ;;
		intake_text) echo src/intake_text.c ;;
	esac
}

# has_libfuzzer: whether clang is there and finds its run-time library.
has_libfuzzer()
{
	command -v clang > /dev/null &&
		clang -fsanitize=fuzzer,address -x c -o "$work/probe" - 2> /dev/null <<- C
			#include <stddef.h>
			int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n) { return d == NULL && n > 0; }
		C
}

# build TARGET: with libFuzzer, or with gcc and replay.c.
build()
{
	# shellcheck disable=SC2046
	if [ "$libfuzzer" ]; then
		clang -std=gnu99 -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
			-Isrc -Itest/fuzz -o "$work/$1" "test/fuzz/$1.c" $(sources_of "$1") -lm
	else
		cc -std=gnu99 -g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=undefined \
			-Isrc -Itest/fuzz -o "$work/$1" "test/fuzz/$1.c" test/fuzz/replay.c $(sources_of "$1") -lm
	fi > "$work/$1.build" 2>&1
}

libfuzzer=
! has_libfuzzer || libfuzzer=1
if [ "$mode" = long ] && [ -z "$libfuzzer" ]; then
	echo "the long run needs clang and its run-time library (Debian: apt-get install clang libclang-rt-dev)"
	exit 1
fi
status=0
for target in ${FUZZ:-cron template intake_text}; do
	if ! build "$target"; then
		echo "not ok - fuzz target $target is built"
		sed 's/^/# /' "$work/$target.build"
		status=1
		continue
	fi
	files=("test/fuzz/corpus/$target"/*)
	if [ "$mode" = check ]; then
		"$work/$target" "${files[@]}" > "$work/$target.log" 2>&1
	else
		out=${FUZZ_OUT:-$root/.fuzz}/$target
		mkdir -p "$out"
		"$work/$target" -max_total_time="${FUZZ_SECONDS:-300}" -max_len=2048 -timeout=5 -print_final_stats=1 \
			-artifact_prefix="$out/" "$out" "test/fuzz/corpus/$target" > "$work/$target.log" 2>&1
	fi
	if [ $? -eq 0 ]; then
		echo "ok - fuzz $target: $([ "$mode" = check ] && echo "${#files[@]} inputs${libfuzzer:+ in libFuzzer}" ||
			sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log") keep its promises"
	else
		echo "not ok - fuzz $target"
		tail -n 40 "$work/$target.log" | sed 's/^/# /'
		status=1
	fi
done
exit "$status"
