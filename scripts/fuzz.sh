#!/bin/sh
# Runs the fuzzers of a folder, each for some seconds from its kept corpus.   fuzz.sh BINARIES RESULTS JOBS SECONDS [TARGET...]
# What a fuzzer finds stays in RESULTS: TARGET/ holds inputs that reached something new, crash-* one that broke something; put
# the latter into tests/fuzz/corpus/TARGET when it is mended. RESULTS/counts holds "passed failed skipped", a fuzzer a test.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
binaries=$1 results=$2 jobs=$3 seconds=$4
shift 4
[ $# -gt 0 ] || set -- safetensors config problem_text pool page_tables c_abi
rm -rf "$results"
mkdir -p "$results"

cat >"$results/one.sh" <<'ONE'
binary=$1; results=$2; seconds=$3; corpus=$4; target=$5
mkdir -p "$results/$target"
code=0
"$binary" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -verbosity=0 -print_final_stats=1 \
  "-artifact_prefix=$results/$target-" "$results/$target" "$corpus" >"$results/$target.log" 2>&1 </dev/null || code=$?
echo "$code" >"$results/$target.code"
ONE
printf '%s\n' "$@" | xargs -P "$jobs" -I {} sh "$results/one.sh" "$binaries/fuzz_{}" "$results" "$seconds" "$root/tests/fuzz/corpus/{}" {}

passed=0 failed=0
for target; do
  code=$(cat "$results/$target.code")
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$results/$target.log")
  if [ "$code" -eq 0 ] && [ "${runs:-0}" -gt 0 ]; then
    echo "fuzz_$target: $runs inputs held, $(find "$results/$target" -type f | wc -l | tr -d ' ') of them new"
    passed=$((passed + 1))
  else
    echo "fuzz_$target ended with exit code $code:"
    grep -v '^stat::' "$results/$target.log" | tail -n 40 | sed 's/^/  /'
    failed=$((failed + 1))
  fi
done
echo "$passed $failed 0" >"$results/counts"
