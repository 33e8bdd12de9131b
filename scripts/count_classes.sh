#!/bin/sh
# How many cases of each class of docs/guide/reliability.md passed, from the results of run_tests.sh.   count_classes.sh RESULTS
# A test counts as the cases it says it checked (tests/support/cases.h), else as one; a script counts its "ok" lines. A class
# with fewer than the page's number fails: tests that quietly check nothing must not pass.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
results=${1:-${FATHOM_RESULTS:-$root/build/test_results}}
page=${FATHOM_CLASSES:-$root/docs/guide/reliability.md}

# suite<TAB>cases of everything that passed.
{
  for xml in "$results"/*.xml; do
    [ -f "$xml" ] || continue
    awk '
      function close_case() { if (open && !bad) print suite "\t" cases; open = 0 }
      /^    <testcase / {
        close_case()
        if (!/status="run"/) next
        open = 1; cases = 1; bad = /result="skipped"/
        suite = $0; sub(/.*classname="/, "", suite); sub(/".*/, "", suite); sub(/.*\//, "", suite)
      }
      /^      <(failure|skipped) / { bad = 1 }
      /<property name="cases"/ { cases = $0; sub(/.*value="/, "", cases); sub(/".*/, "", cases) }
      END { close_case() }' "$xml"
  done
  for text in "$results"/*.log; do
    [ -f "$text" ] && [ ! -f "${text%.log}.xml" ] || continue
    awk -v suite="$(basename "$text" .log)" '/^ok / { n++ } /^skip / { s++ } END { if (n + s) print suite "\t" n + 0 }' "$text"
  done
} >"$results/cases"

# | class | at least | suites | what must happen |
awk -F'|' '
  FNR == NR { split($0, part, "\t"); count[part[1]] += part[2]; next }
  NF >= 6 && $3 ~ /^ *[0-9][0-9 ]*$/ {
    name = $2; gsub(/^ +| +$/, "", name)
    least = $3; gsub(/ /, "", least)
    n = split($4, word, "`")
    total = 0; missing = ""
    for (i = 2; i <= n; i += 2) {
      if (word[i] in count) total += count[word[i]]
      else missing = missing " " word[i]
    }
    classes++; cases += total
    if (missing != "") print "not ok " name ": no test of" missing " passed"
    else if (total == 0) print "skip " name ": its tests were skipped"
    else if (total < least + 0) print "not ok " name ": " total " cases, expected " least " or more"
    else print "ok " name ": " total " cases"
    failed += missing != "" || (total > 0 && total < least + 0)
  }
  END {
    if (classes == 0) { print "not ok classes: the page has no table of classes"; exit 1 }
    print classes " classes, " cases " cases"
    exit failed > 0
  }' "$results/cases" "$page"
