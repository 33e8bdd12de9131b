#!/bin/sh
# What users of an installed Fathom meet: `cmake --install`, find_package, pkg-config, the C header, the exported symbols.
#   check_package.sh [BUILD]
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=${1:-${FATHOM_BUILD:-$root/build/cpu}}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
prefix=$temporary/prefix
version=$(cat "$root/VERSION")
status=0

# expect NAME COMMAND ARGS...: one test; its output is shown when it fails.
expect() {
  name=$1
  shift
  if "$@" >"$temporary/output" 2>&1; then
    echo "ok $name"
  else
    tail -n 40 "$temporary/output"
    echo "not ok $name: $*"
    status=1
  fi
}

expect install cmake --install "$build" --prefix "$temporary/staged"
# A prefix must survive being moved.
mv "$temporary/staged" "$prefix"
libdir=$(dirname "$(find "$prefix" -name 'libfathom.so' | head -n 1)")
expect installed_program sh -c "[ \"\$('$prefix/bin/fathom' --version | grep -cF '$version')\" = 1 ]"
# Its cases come with it: a file that only the prefix has is the one that is read.
echo 'in_dim=8 out_dim=8' >"$prefix/share/fathom/cases/linear/ci.txt"
expect installed_cases sh -c "'$prefix/bin/fathom' check linear --force linear=cpu | grep -q '^1 runs compared'"

for language in c cpp; do
  expect "configure_$language" cmake -G Ninja -S "$root/tests/package/$language" -B "$temporary/$language" \
    -DCMAKE_PREFIX_PATH="$prefix" -DFATHOM_EXPECTED_VERSION="$version"
  expect "build_$language" cmake --build "$temporary/$language"
  expect "run_$language" "$temporary/$language/consumer" "$version"
done

if command -v pkg-config >/dev/null; then
  flags=$(PKG_CONFIG_PATH="$libdir/pkgconfig" pkg-config --cflags --libs fathom || :)
  # shellcheck disable=SC2086  # flags are meant to split
  expect pkg_config ${CC:-cc} -std=c99 "$root/tests/package/c/consumer.c" -o "$temporary/by_pkg_config" $flags "-Wl,-rpath,$libdir"
  expect pkg_config_run "$temporary/by_pkg_config" "$version"
else
  echo "skip pkg_config: pkg-config is not installed"
fi

# Each public header compiles alone, the C header as strict C99 too.
alone() {
  find "$prefix/include" -name '*.h' | while read -r header; do
    echo "#include \"$header\"" | ${CXX:-g++} -std=c++20 -Wall -Wextra -Wshadow -Werror -fsyntax-only -I"$prefix/include" -x c++ - || exit 1
  done
}
expect headers_compile_alone alone
expect c_header_is_c99 ${CC:-cc} -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c "$prefix/include/fathom/c/fathom.h"

# Only our own names leave the library, and every C function of the header does.
nm -D --defined-only "$libdir/libfathom.so" | awk '{ print $NF }' >"$temporary/symbols"
strangers() { # Mangled names of namespace fathom start with _ZN6fathom, _ZNK6fathom, _ZT[VIS]N6fathom.
  ! grep -vE '^(fathom_[a-z0-9_]+|_ZN?K?6fathom.*|_ZNK?6fathom.*|_ZT[VISTh]N?6fathom.*)(@.*)?$' "$temporary/symbols"
}
c_functions() {
  grep -oE '\bfathom_[a-z0-9_]+\(' "$prefix/include/fathom/c/fathom.h" | tr -d '(' | sort -u | while read -r function; do
    grep -qx "$function" "$temporary/symbols" || { echo "$function is not exported" && exit 1; }
  done
}
expect exports_only_fathom strangers
expect exports_no_insides sh -c "! grep Impl '$temporary/symbols'"
expect exports_the_c_interface c_functions
expect needs_no_driver sh -c "! readelf -d '$libdir/libfathom.so' | grep NEEDED | grep -E 'libcuda|libpython|libtorch'"
exit $status
