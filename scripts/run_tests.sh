#!/bin/sh
# Runs every test binary of a folder and every test that is a script, and adds them up.
#   run_tests.sh BINARIES RESULTS JOBS [SCRIPT...]
# BINARIES holds GoogleTest executables test_*; RESULTS receives their logs, XML and `counts` ("passed failed skipped").
# Without SCRIPTs, all of this repository's; "-" means none. A binary that crashes, or runs no test, is one failure.
# A script prints one line for each of its tests: "ok NAME", "not ok NAME: why" or "skip NAME: why".
set -eu

binaries=$1
results=$2
jobs=$3
shift 3
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
most_seconds=900
if [ $# -eq 0 ]; then
  set -- "$root"/scripts/check_tree.sh "$root"/scripts/check_includes.sh "$root"/scripts/check_docs.sh \
    "$root"/scripts/check_package.sh "$root"/scripts/check_python.sh "$root"/tests/run_script/*_test.sh "$root"/scripts/count_classes.sh
elif [ "$1" = - ]; then
  set --
fi

rm -rf "$results"
mkdir -p "$results"
# Where scripts/count_classes.sh, the last of them, finds what the others have said.
FATHOM_RESULTS=$results
export FATHOM_RESULTS
: >"$results/tally"

# One binary: its output, its XML and its exit code.
cat >"$results/one.sh" <<'ONE'
binary=$1; results=$2; seconds=$3
name=$(basename "$binary")
code=0
GTEST_COLOR=no timeout "$seconds" "$binary" "--gtest_output=xml:$results/$name.xml" >"$results/$name.log" 2>&1 || code=$?
echo "$code" >"$results/$name.code"
ONE

# test_whole holds the longest tests, so it starts first.
find "$binaries" -maxdepth 1 -type f -name 'test_*' -perm -u+x 2>/dev/null |
  awk '{ print (/test_whole$/ ? 0 : 1) "\t" $0 }' | sort | cut -f2 >"$results/binaries"
xargs -P "$jobs" -I {} sh "$results/one.sh" {} "$results" "$most_seconds" <"$results/binaries"

# passed, failed, skipped of one GoogleTest XML file; skipped tests and their reasons go to a list.
count_xml() {
  awk -v list="$results/skips" '
    function close_case() { if (open) { if (bad) failed++; else if (skip) skipped++; else passed++ } open = 0 }
    /^    <testcase / && /status="run"/ {
      close_case(); open = 1; bad = 0; skip = /result="skipped"/
      name = $0; sub(/.*classname="/, "", name); sub(/".*/, "", name)
      part = $0; sub(/^ *<testcase name="/, "", part); sub(/".*/, "", part)
    }
    /^      <failure / { bad = 1 }
    /^      <skipped / {
      why = $0; sub(/.*message="[^"&]*(&#x0A;)?/, "", why); sub(/".*/, "", why); gsub(/&#x0A;/, " ", why)
      gsub(/&quot;/, "\"", why); gsub(/&apos;/, "\047", why); gsub(/&lt;/, "<", why); gsub(/&gt;/, ">", why); gsub(/&amp;/, "\\&", why)
      print "skipped " name "." part ": " why >>list
    }
    END { close_case(); print passed + 0, failed + 0, skipped + 0 }' "$1"
}

# The part of a log that belongs to failed tests, at most 60 lines of each.
show_failures() {
  awk '
    /^\[ RUN      \]/ { n = 0 }
    { if (n < 60) line[n++] = $0 }
    /^\[  FAILED  \] .* \([0-9]+ ms\)$/ { for (i = 0; i < n; ++i) print "  " line[i]; if (n == 60) print "  " $0; n = 0 }' "$1"
}

while read -r binary; do
  name=$(basename "$binary")
  code=$(cat "$results/$name.code")
  passed=0 failed=0 skipped=0
  if [ -f "$results/$name.xml" ]; then
    counts=$(count_xml "$results/$name.xml")
    read -r passed failed skipped <<COUNTS
$counts
COUNTS
  fi
  why=
  if [ "$code" -ne 0 ] && [ "$failed" -eq 0 ]; then why="ended with exit code $code"; fi
  [ "$code" -ne 124 ] || why="did not end within $most_seconds s"
  [ $((passed + failed + skipped)) -gt 0 ] || why="${why:-ran no test}"
  [ -z "$why" ] || failed=$((failed + 1))
  echo "$name: $passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] || show_failures "$results/$name.log"
  if [ -n "$why" ]; then
    echo "  $name $why; the end of its output:"
    tail -n 30 "$results/$name.log" | sed 's/^/  /'
  fi
  echo "$passed $failed $skipped" >>"$results/tally"
done <"$results/binaries"

for script; do
  name=$(basename "$script" .sh)
  code=0
  timeout "$most_seconds" sh "$script" >"$results/$name.log" 2>&1 </dev/null || code=$?
  counts=$(awk '/^ok /{ p++ } /^not ok /{ f++ } /^skip /{ s++ } END { print p + 0, f + 0, s + 0 }' "$results/$name.log")
  read -r passed failed skipped <<COUNTS
$counts
COUNTS
  if [ "$failed" -eq 0 ] && { [ "$code" -ne 0 ] || [ $((passed + skipped)) -eq 0 ]; }; then
    failed=1
    echo "$name ended with exit code $code"
  fi
  echo "$name: $passed passed, $failed failed, $skipped skipped"
  if [ "$failed" -ne 0 ]; then
    tail -n 60 "$results/$name.log" | sed 's/^/  /'
  elif [ "$name" = count_classes ]; then
    sed 's/^ok /  /' "$results/$name.log"
  fi
  sed -n 's/^skip /skipped /p' "$results/$name.log" >>"$results/skips"
  echo "$passed $failed $skipped" >>"$results/tally"
done

# Many skips for one reason, such as a missing GPU, are one line; their number counts.
[ ! -f "$results/skips" ] || awk '
  { why = $0; sub(/^skipped [^:]*: /, "", why)
    if (!(why in count)) order[++reasons] = why
    line[why, ++count[why]] = $0 }
  END {
    for (i = 1; i <= reasons; ++i) {
      why = order[i]
      if (count[why] > 3) print "skipped " count[why] " tests: " why
      else for (k = 1; k <= count[why]; ++k) print line[why, k]
    }
  }' "$results/skips"
awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$results/tally" >"$results/counts"
