#!/bin/sh
# Fuzzes every parser of what others send with libFuzzer: `fuzz.sh [parser]...`. Each runs for FUZZ_SECONDS (60), as many at
# once as there are processors. Samples that reach new code are kept in the target folder for the next run; what breaks a
# promise is kept there as well, and goes to fuzz/corpus together with its repair.
set -eu

cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
case ${CARGO_TARGET_DIR:=target} in
/*) ;;
*) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR
cargo=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')

# Coverage for libFuzzer, which the stable compiler can do. With a target named, build scripts are built without it.
llvm=-Cllvm-args=-sanitizer-coverage
RUSTFLAGS="-Cpasses=sancov-module $llvm-level=4 $llvm-inline-8bit-counters $llvm-pc-table $llvm-trace-compares" \
  "$cargo" build --locked --release --manifest-path fuzz/Cargo.toml --target "$host"
program=$CARGO_TARGET_DIR/$host/release/tcoder-fuzz
# shellcheck disable=SC2046 # a list of names
[ $# -gt 0 ] || set -- $("$program" --list)

work=$CARGO_TARGET_DIR/fuzz
mkdir -p "$work"
export program seconds work
# Fuzzes one parser. Its statistics are in its log.
one='
  parser=$1
  mkdir -p "$work/$parser/corpus" "$work/$parser/found"
  FUZZ_PARSER=$parser "$program" "$work/$parser/corpus" "fuzz/corpus/$parser" \
    -artifact_prefix="$work/$parser/found/" -max_total_time="$seconds" -max_len=16384 -timeout=10 \
    -rss_limit_mb=2048 -print_final_stats=1 >"$work/$parser/log" 2>&1 </dev/null || : >"$work/$parser/failed"
'
for parser; do
  [ -d "fuzz/corpus/$parser" ] || { echo "fuzz/corpus/$parser has no samples" >&2; exit 1; }
  rm -f "$work/$parser/failed"
done
printf '%s\n' "$@" | xargs -n 1 -P "$(getconf _NPROCESSORS_ONLN)" sh -c "$one" fuzz

all=0
failed=
for parser; do
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$parser/log")
  printf 'fuzz_executions_%s %s inputs\n' "$parser" "${executions:-0}"
  all=$((all + ${executions:-0}))
  if [ -e "$work/$parser/failed" ]; then
    failed="$failed $parser"
    echo "$parser breaks a promise:" >&2
    grep -aE -A 3 'panicked at|ERROR: libFuzzer|Test unit written' "$work/$parser/log" | tail -n 12 >&2
  fi
done
printf 'fuzz_executions %s inputs\n' "$all"
[ -z "$failed" ] || { echo "Broken:$failed. The inputs are in $work" >&2; exit 1; }
