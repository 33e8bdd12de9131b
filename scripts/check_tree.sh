#!/bin/sh
# The tree against the habits of CONTRIBUTING.md.   check_tree.sh [ROOT]
# Each check prints its findings and ends with "ok NAME" or "not ok NAME: ...".
set -eu
cd "${1:-$(dirname -- "$0")/..}"
status=0

# verdict NAME FINDINGS: FINDINGS holds one line for each.
verdict() {
  if [ -z "$2" ]; then
    echo "ok $1"
  else
    echo "$2"
    echo "not ok $1: $(echo "$2" | wc -l | tr -d ' ') findings"
    status=1
  fi
}

# Sources without a test of their own name, each with its reason.
untested='
src/*/*_list.cpp            only an ordered array; conformance_test.cpp walks it
src/*/*_reference.cpp       the definition; conformance_test.cpp, golden_test.cpp and the spec examples run it
src/*/*_cpu.cpp             conformance_test.cpp runs it on every case against the definition
src/device/*.cpp            what the core asks of CUDA, or its absence; tests/cuda and memory_test.cpp run it
src/device/*.cpp            what core/memory.cpp and core/device.cpp ask of CUDA: memory_test.cpp, tests/cuda
src/core/op_table.cpp       only an array; c_api_test.cpp walks it
'

has_reason() {
  echo "$untested" | while read -r pattern _; do
    # shellcheck disable=SC2254  # the pattern is meant to match as one
    case "$1" in $pattern) [ -n "$pattern" ] && echo yes && break ;; esac
  done | grep -q yes
}

# src/attend/attend.cpp has tests/attend/attend_test.cpp.
twins() {
  find src -name '*.cpp' | sort | while read -r source; do
    name=${source#src/}
    [ -f "tests/${name%.cpp}_test.cpp" ] || has_reason "$source" ||
      echo "$source: no test tests/${name%.cpp}_test.cpp, and no reason in scripts/check_tree.sh"
  done
}

code_files() {
  for folder in include src harness cli tests examples scripts cmake; do
    [ ! -d "$folder" ] || find "$folder" -type f \( -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \
      -o -name '*.sh' -o -name '*.cmake' -o -name CMakeLists.txt \)
  done | sort
}

long_files() { code_files | xargs wc -l | awk '$2 != "total" && $1 > 500 { print $2 ": " $1 " lines, expected at most 500" }'; }

# The words that say nothing, as parts of file names.
vague_names() {
  find . -path ./.git -prune -o -path './build*' -prune -o -type f -print | awk -F/ '
    { n = split(tolower($NF), part, /[^a-z0-9]+/)
      for (i = 1; i <= n; ++i)
        if (part[i] ~ /^(extra|orig|meta|misc|utils?|handle|process|model1|smxx|v2|do)$/) print $0 ": the word \"" part[i] "\" says nothing" }'
}

# The library never prints, aborts, or reads the environment.
side_effects() {
  grep -rnE '(^|[^a-z_:.>])(std::)?(getenv|abort|exit|_Exit|terminate|printf|puts|system)[[:space:]]*\(|std::(cout|cerr|clog)|fprintf' \
    src include --include='*.cpp' --include='*.h' | grep -vE '^[^:]*:[0-9]*:[[:space:]]*(//|\*)|gnu::format' || :
}

unmentioned_folders() {
  for folder in src/*/; do
    name=$(basename "$folder")
    [ -z "$(find "$folder" -type f)" ] || grep -q "\`$name\`\|$name/" ARCHITECTURE.md || echo "$folder: ARCHITECTURE.md does not mention it"
  done
}

missing_headers() { # Every file says at its top what it is for.
  find include src harness cli -name '*.h' | sort | while read -r header; do
    head -n 1 "$header" | grep -qE '^(//|/\*)' || echo "$header: no comment at the top"
  done
}

verdict test_twins "$(twins)"
verdict file_lengths "$(long_files)"
verdict file_names "$(vague_names)"
verdict no_side_effects "$(side_effects)"
verdict folders_in_architecture "$(unmentioned_folders)"
verdict header_comments "$(missing_headers)"
exit $status
