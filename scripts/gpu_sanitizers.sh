# Sourced by the script test that gpu_test.sh writes: compute-sanitizer's four tools, each on its planted bug and on the
# smoke cases, side by side. One line for each: "ok NAME", "not ok NAME: why" or "skip NAME: why".

# find_sanitizer: prints its path. The toolkit's folder is often not on PATH.
find_sanitizer() {
  for candidate in "$(command -v compute-sanitizer || :)" "${CUDA_HOME:-/nowhere}/bin/compute-sanitizer" \
    /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda/compute-sanitizer/compute-sanitizer; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# What a tool says of its planted bug.
complaint_of() {
  case "$1" in
    memcheck) echo 'Invalid __global__ write' ;;
    racecheck) echo 'hazard' ;;
    initcheck) echo 'Uninitialized __global__ memory read' ;;
    synccheck) echo 'Barrier error' ;;
  esac
}

# run_planted TOOL BINARIES NAME LOG: the planted kernel under the tool.
run_planted() {
  timeout 60 "$sanitizer" --tool "$1" --error-exitcode $error_code "$2/planted_bugs" "$3" >"$4" 2>&1 || :
}

# watch TOOL PIECES FILTER BINARIES RESULTS: the tests of a filter under a tool, in as many pieces side by side.
watch() {
  piece=0
  while [ $piece -lt "$2" ]; do
    (
      code=0
      GTEST_TOTAL_SHARDS=$2 GTEST_SHARD_INDEX=$piece timeout 240 "$sanitizer" --tool "$1" --error-exitcode $error_code \
        "$4/test_cuda" "--gtest_filter=$3" >"$5/$1.$piece.log" 2>&1 || code=$?
      echo $code >"$5/$1.$piece.code"
    ) &
    piece=$((piece + 1))
  done
  wait
  cat "$5/$1".*.log >"$5/$1.log"
  code=$(sort -n "$5/$1".*.code | tail -n 1)
  ran=$(grep -c '^\[       OK \]' "$5/$1.log" || :)
  if [ "$code" -eq 0 ] && [ "$ran" -gt 0 ]; then
    echo "ok ${1}_is_clean"
  else
    grep -E '^=========' "$5/$1.log" | head -n 40 || :
    echo "not ok ${1}_is_clean: exit code $code, $ran tests ran"
  fi
}

# check_tool TOOL BINARIES RESULTS
check_tool() {
  run_planted "$1" "$2" "$1" "$3/planted_$1.log"
  if grep -q "$(complaint_of "$1")" "$3/planted_$1.log"; then
    echo "ok ${1}_sees_the_planted_bug"
  else
    tail -n 20 "$3/planted_$1.log"
    echo "not ok ${1}_sees_the_planted_bug: it did not say \"$(complaint_of "$1")\""
    return
  fi
  case "$1" in
    initcheck) watch "$1" 1 '*UnwrittenMemory*' "$2" "$3" ;; # poison counts as written
    racecheck)
      tests='*SmokeCases*'
      # It does not see that __syncwarp stands between a warp's accesses and its one arrival: then a hand-over without a bug is
      # a race to it, and its word on kernels made of them is worth nothing. A build with FATHOM_EVERY_LANE_ARRIVES is for it.
      run_planted "$1" "$2" hand_over "$3/planted_hand_over.log"
      if grep -q 'Race reported' "$3/planted_hand_over.log"; then
        tests='*SmokeCases*-*/attend_cuda_sm90'
        grep -E 'Race reported|SUMMARY|arrived' "$3/planted_hand_over.log"
        echo "skip racecheck_on_attend_cuda_sm90: it takes a correct hand-over between two warps (planted_bugs hand_over) for a race;" \
          "a build with -DFATHOM_EVERY_LANE_ARRIVES=ON has it checked"
      fi
      watch "$1" 4 "$tests" "$2" "$3"
      ;;
    *) watch "$1" 1 '*SmokeCases*' "$2" "$3" ;;
  esac
}

# check_sanitizers BINARIES RESULTS
check_sanitizers() {
  error_code=77
  tools='memcheck racecheck initcheck synccheck'
  if ! sanitizer=$(find_sanitizer); then
    for tool in $tools; do
      echo "skip $tool: compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"
    done
    return
  fi
  for tool in $tools; do
    check_tool "$tool" "$1" "$2" >"$2/$tool.verdict" 2>&1 &
  done
  wait
  for tool in $tools; do cat "$2/$tool.verdict"; done
}
