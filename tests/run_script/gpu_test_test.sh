# scripts/gpu_test.sh without a GPU: planted tests and a planted compute-sanitizer that sees, is blind, or finds something.
. "$(dirname -- "$0")/check.sh"
mkdir -p "$temporary/build/tests" "$temporary/tools"

# A test binary of one test for each shard, which passes, and is seen to run by its output.
cat >"$temporary/build/tests/test_cuda" <<'BINARY'
#!/bin/sh
for argument; do
  case "$argument" in
    --gtest_output=xml:*)
      printf '%s\n' '<testsuites>' '    <testcase name="runs_'"$GTEST_SHARD_INDEX"'" file="a.cpp" status="run" result="completed" time="0." classname="Cuda" />' \
        '</testsuites>' >"${argument#--gtest_output=xml:}"
      ;;
    --gtest_filter=*) echo "$argument" ;;
  esac
done
echo '[       OK ] Cuda.runs (0 ms)'
BINARY
printf '#!/bin/sh\n' >"$temporary/build/tests/planted_bugs"

# compute-sanitizer --tool TOOL --error-exitcode CODE PROGRAM ARGS...: $SEES lists the tools that see their planted bug,
# $FINDS those that complain of the tests, and the hand-overs that racecheck takes for races.
cat >"$temporary/tools/compute-sanitizer" <<'TOOL'
#!/bin/sh
tool=$2 code=$4 program=$5
shift 5
case "$program $1" in
  *planted_bugs\ hand_over)
    case " $FINDS " in *" $1 "*) echo '========= Error: Race reported' && exit "$code" ;; esac
    exit 0
    ;;
  *planted_bugs*)
    case " $SEES " in *" $tool "*) echo 'Invalid __global__ write; hazard; Uninitialized __global__ memory read; Barrier error' ;; esac
    exit 0
    ;;
esac
"$program" "$@"
case " $FINDS " in *" $tool "*) echo '========= an error' && exit "$code" ;; esac
TOOL
chmod +x "$temporary/build/tests/"* "$temporary/tools/compute-sanitizer"
run_gpu_test() {
  code_of env "SEES=$1" "FINDS=$2" "PATH=$temporary/tools:$PATH" sh "$root/scripts/gpu_test.sh" "$temporary/build" "$temporary/results"
  counts=$(cat "$temporary/results/counts")
}

all='memcheck racecheck initcheck synccheck'
shards=$(getconf _NPROCESSORS_ONLN)
[ "$shards" -le 10 ] || shards=10
run_gpu_test "$all" ''
expect all_is_well [ "$counts" = "$((shards + 8)) 0 0" ]
expect every_shard_runs_once [ "$(cat "$temporary"/results/tests/test_cuda_*.xml | grep -o 'runs_[0-9]*' | sort -u | wc -l)" -eq "$shards" ]
expect attend_is_raced_too [ -z "$(grep -F -- '-*/attend_cuda_sm90' "$temporary/results/racecheck.log")" ]
run_gpu_test "$all" hand_over
expect a_hand_over_called_a_race_leaves_attend_out grep -qF -- 'SmokeCases*-*/attend_cuda_sm90' "$temporary/results/racecheck.log"
expect what_is_left_out_is_counted [ "$counts" = "$((shards + 8)) 0 1" ]
expect initcheck_runs_without_poison grep -qF 'UnwrittenMemory' "$temporary/results/initcheck.log"
expect memcheck_runs_the_smoke_cases grep -qF 'SmokeCases' "$temporary/results/memcheck.log"
run_gpu_test 'memcheck initcheck synccheck' ''
expect a_blind_tool_is_a_failure [ "$counts" = "$((shards + 6)) 1 0" ]
expect a_blind_tool_is_named grep -q 'racecheck_sees_the_planted_bug' "$temporary/output"
run_gpu_test "$all" 'racecheck synccheck'
expect findings_are_failures [ "$counts" = "$((shards + 6)) 2 0" ]
expect findings_are_shown grep -q '========= an error' "$temporary/output"

. "$root/scripts/gpu_sanitizers.sh"
if ! find_sanitizer >/dev/null; then
  rm "$temporary/tools/compute-sanitizer"
  run_gpu_test "$all" ''
  expect a_missing_tool_is_skipped [ "$counts" = "$shards 0 4" ]
  expect a_missing_tool_has_its_reason grep -q 'compute-sanitizer is neither on PATH' "$temporary/output"
else
  echo "skip a_missing_tool_is_skipped: compute-sanitizer is installed here"
fi
exit $((failures > 0))
