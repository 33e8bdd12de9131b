#!/bin/sh
# Seeded bugs: each patch of tests/mutants, applied alone to a copy of the tree, must make a test fail.
#   check_mutants.sh JOBS [--sample N | NAME...]
# A patch names the test binaries to try first in its line "Tests:"; a bug that they let through meets all the others.
# --sample N takes N of the patches, others every day. Prints "ok NAME: caught by ..." or "not ok NAME: ..." for each; the
# last line counts. The copy and its build stay in build/mutants for the next time.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
jobs=$1
shift
work=$root/build/mutants
tree=$work/tree
built=$work/build
seconds=600

list=$(find tests/mutants -name '*.patch' | sort)
if [ "${1:-}" = --sample ]; then
  list=$(echo "$list" | awk -v n="$2" -v day="$(date +%j)" '
    { all[NR] = $0 }
    END { for (i = 0; i < n && i < NR; ++i) print all[(day * n + i) % NR + 1] }')
elif [ $# -gt 0 ]; then
  list=$(for name; do echo "tests/mutants/$(basename "$name" .patch).patch"; done)
fi

for patch in $list; do
  [ -f "$patch" ] || { echo "not ok $(basename "$patch" .patch): there is no $patch" && exit 1; }
done

# The copy keeps the files' times, so that only what a patch touched is compiled again.
mkdir -p "$work"
interrupted=no
if [ -f "$work/applied" ]; then
  interrupted=yes
  other=$(cat "$work/applied")
  if [ -n "$other" ] && kill -0 "$other" 2>/dev/null; then
    echo "not ok mutants: process $other is at work in $work" && exit 1
  fi
fi
echo $$ >"$work/applied"
rm -rf "$tree"
mkdir "$tree"
tar cf - --exclude=./build --exclude=./.git . | tar xf - -C "$tree"
# files_of PATCH: what it changes.
files_of() { sed -n 's|^+++ b/\([^[:space:]]*\).*|\1|p' "$1"; }
# shellcheck disable=SC2046  # a list of files
if [ $interrupted = yes ]; then (cd "$tree" && touch $(for patch in tests/mutants/*.patch; do files_of "$patch"; done)); fi

build() { cmake --build "$built" --target "$@" --parallel "$jobs" >"$work/build.log" 2>&1; }

launcher=
! command -v ccache >/dev/null || launcher="-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache"
# shellcheck disable=SC2086  # options
[ -f "$built/build.ninja" ] ||
  cmake -S "$tree" -B "$built" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFATHOM_CUDA=OFF $launcher >"$work/build.log" 2>&1 ||
  { tail -n 20 "$work/build.log" && echo "not ok mutants: configuring failed" && exit 1; }
build fathom_tests || { tail -n 40 "$work/build.log" && echo "not ok mutants: the unchanged tree does not build" && exit 1; }
binaries=$(find "$built/tests" -maxdepth 1 -type f -name 'test_*' -perm -u+x | sed 's|.*/||' | sort)

# first_failure BINARY: builds it and runs it up to its first failed test, which it prints; 1 if all pass, 2 if it does not build.
first_failure() {
  build "$1" || return 2
  code=0
  GTEST_FAIL_FAST=1 GTEST_COLOR=no timeout "$seconds" "$built/tests/$1" >"$work/test.log" 2>&1 </dev/null || code=$?
  [ "$code" -ne 0 ] || return 1
  test=$(sed -n 's/^\[  FAILED  \] \([^ ,]*\).*/\1/p' "$work/test.log" | head -n 1)
  echo "$1 ${test:-ended with exit code $code}"
}

caught=0 survived=0 broken=0
for patch in $list; do
  name=$(basename "$patch" .patch)
  if ! patch -d "$tree" -p1 --no-backup-if-mismatch <"$patch" >"$work/patch.log" 2>&1; then
    echo "not ok $name: the patch no longer applies"
    broken=$((broken + 1))
    continue
  fi
  hints=$(sed -n 's/^Tests: //p' "$patch")
  found=
  code=1
  for binary in $hints $(echo "$binaries" | grep -vxF "$(echo "$hints" | tr ' ' '\n')"); do
    code=0
    found=$(first_failure "$binary") || code=$?
    [ $code -eq 1 ] || break
  done
  case $code in
    0) echo "ok $name: caught by $found" && caught=$((caught + 1)) ;;
    1) echo "not ok $name: every test passes" && survived=$((survived + 1)) ;;
    *) tail -n 20 "$work/build.log" && echo "not ok $name: it does not build" && broken=$((broken + 1)) ;;
  esac
  patch -R -d "$tree" -p1 --no-backup-if-mismatch <"$patch" >"$work/patch.log" 2>&1
done
rm "$work/applied"
echo "$caught of $((caught + survived + broken)) seeded bugs caught, $survived survived, $broken broken"
[ $((survived + broken)) -eq 0 ] && [ $caught -gt 0 ]
