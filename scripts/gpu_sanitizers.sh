# Sourced by the script test that gpu_test.sh writes: compute-sanitizer's four tools, each on its planted bug and on the
# smoke cases. One line for each: "ok NAME", "not ok NAME: why" or "skip NAME: why".

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

# check_sanitizers BINARIES RESULTS
check_sanitizers() {
  error_code=77
  if ! sanitizer=$(find_sanitizer); then
    for tool in memcheck racecheck initcheck synccheck; do
      echo "skip $tool: compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"
    done
    return
  fi
  for tool in memcheck racecheck initcheck synccheck; do
    log=$2/$tool.log
    timeout 60 "$sanitizer" --tool "$tool" --error-exitcode $error_code "$1/planted_bugs" "$tool" >"$log" 2>&1 || :
    if grep -q "$(complaint_of "$tool")" "$log"; then
      echo "ok ${tool}_sees_the_planted_bug"
    else
      tail -n 20 "$log"
      echo "not ok ${tool}_sees_the_planted_bug: it did not say \"$(complaint_of "$tool")\""
      continue
    fi
    # Poison counts as written, so initcheck gets runs without any.
    tests='*SmokeCases*'
    [ "$tool" != initcheck ] || tests='*UnwrittenMemory*'
    code=0
    timeout 240 "$sanitizer" --tool "$tool" --error-exitcode $error_code "$1/test_cuda" "--gtest_filter=$tests" >"$log" 2>&1 || code=$?
    ran=$(grep -c '^\[       OK \]' "$log" || :)
    if [ $code -eq 0 ] && [ "$ran" -gt 0 ]; then
      echo "ok ${tool}_is_clean"
    else
      grep -E '^=========' "$log" | head -n 40 || :
      echo "not ok ${tool}_is_clean: exit code $code, $ran tests ran"
    fi
  done
}
