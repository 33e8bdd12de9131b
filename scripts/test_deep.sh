#!/bin/sh
# What takes a compiler's help or more time: the tests under AddressSanitizer with UndefinedBehaviorSanitizer, the fuzzers, the
# tests under ThreadSanitizer, all cases on all instruction sets.   test_deep.sh JOBS
# A sanitizer that cannot see a planted bug would pass everything, so each must catch one first.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
. scripts/shell.sh
. scripts/setup.sh
jobs=$1
results=build/deep_results
rm -rf "$results"
mkdir -p "$results"
: >"$results/tally"

# pick_compiler SANITIZERS BUG: the first of clang++ and g++ whose sanitizer catches the planted bug.
pick_compiler() {
  for compiler in clang++ g++; do
    command -v $compiler >/dev/null || continue
    $compiler -std=c++20 -g -O1 "-fsanitize=$1" -pthread "tests/run_script/$2.cpp" -o "$results/planted" 2>/dev/null || continue
    code=0
    "$results/planted" >"$results/planted.log" 2>&1 || code=$?
    if [ $code -ne 0 ] && grep -q 'Sanitizer' "$results/planted.log"; then
      echo $compiler
      return
    fi
  done
}

# has_fuzzer: whether clang++ comes with libFuzzer.
has_fuzzer() {
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    clang++ -x c++ -fsanitize=fuzzer - -o "$results/fuzzer" 2>/dev/null
}

export ASAN_OPTIONS="detect_stack_use_after_return=1:allocator_may_return_null=1" UBSAN_OPTIONS="print_stacktrace=1"
# oneTBB is not instrumented; our own tasks run on plain threads in this build (cmake/FathomSanitize.cmake).
export TSAN_OPTIONS="halt_on_error=1:ignore_noninstrumented_modules=1"

for preset in asan tsan; do
  case $preset in
    asan) sanitizers=address,undefined bug=planted_overflow ;;
    tsan) sanitizers=thread bug=planted_race ;;
  esac
  compiler=$(pick_compiler $sanitizers $bug)
  if [ -z "$compiler" ]; then
    echo "skipped $preset: no compiler here whose $sanitizers sanitizer catches a planted bug"
    echo "0 0 1" >>"$results/tally"
    continue
  fi
  echo "$preset: $compiler caught the planted bug"
  fuzz=OFF
  if [ $preset = asan ] && [ "$compiler" = clang++ ] && has_fuzzer; then fuzz=ON; fi
  build_preset $preset fathom_tests "-DCMAKE_CXX_COMPILER=$compiler" "-DFATHOM_FUZZ=$fuzz"
  # Thousands of small problems and large shapes say nothing of threads that the others do not.
  filter='*'
  [ $preset = asan ] || filter='-*Random*:*OfficialShapes*:*InstructionSets*:*reference*'
  GTEST_FILTER=$filter sh scripts/run_tests.sh "build/$preset/tests" "$results/$preset" "$jobs" -
  cat "$results/$preset/counts" >>"$results/tally"
  if [ $fuzz = ON ]; then
    build_preset $preset fathom_fuzzers
    sh scripts/fuzz.sh "build/$preset/fuzz" "$results/fuzz" "$jobs" 60
    cat "$results/fuzz/counts" >>"$results/tally"
  elif [ $preset = asan ]; then
    echo "skipped fuzzers: they need clang++ with libFuzzer"
    echo "0 0 1" >>"$results/tally"
  fi
done

build_preset cpu fathom_tests
mkdir "$results/binaries"
ln "build/cpu/tests/test_whole" "$results/binaries/test_whole"
FATHOM_DEEP=1 GTEST_FILTER='*InstructionSets*:*Random*' sh scripts/run_tests.sh "$results/binaries" "$results/all_cases" "$jobs" -
cat "$results/all_cases/counts" >>"$results/tally"
awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$results/tally" >"$results/counts"
