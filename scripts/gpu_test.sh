#!/bin/sh
# The tests of CUDA kernels on a GPU, then the smoke cases under compute-sanitizer. A tool that cannot see a planted bug
# would pass everything, so each must catch one first.
#   gpu_test.sh BUILD RESULTS
# BUILD was built with CUDA, here or elsewhere; libraries that this machine lacks may lie in BUILD/lib.
set -eu
build=$1
results=$2
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
[ ! -d "$build/lib" ] || export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
rm -rf "$results"
mkdir -p "$results/bin"

# run_tests.sh runs whole folders: this one holds what belongs to GPUs.
cp "$build/tests/test_cuda" "$results/bin/"
cat >"$results/sanitizer.sh" <<SCRIPT
. "$root/scripts/gpu_sanitizers.sh"
check_sanitizers "$build/tests" "$results"
SCRIPT
sh "$root/scripts/run_tests.sh" "$results/bin" "$results/tests" 1 "$results/sanitizer.sh"
cp "$results/tests/counts" "$results/counts"
