#!/bin/sh
# The tests of CUDA kernels on a GPU, then the smoke cases under compute-sanitizer. A tool that cannot see a planted bug
# would pass everything, so each must catch one first.
#   gpu_test.sh BUILD RESULTS
# BUILD was built with CUDA, here or elsewhere; libraries that this machine lacks may lie in BUILD/lib.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=$(CDPATH= cd -- "$1" && pwd)
mkdir -p "$2"
results=$(CDPATH= cd -- "$2" && pwd)
most_shards=10 # processes that share the GPU; each has a context of half a gigabyte
[ ! -d "$build/lib" ] || export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
rm -rf "$results"
mkdir -p "$results/bin"

# run_tests.sh runs and counts whole folders: this one holds what belongs to GPUs, as shards that run side by side.
shards=$(getconf _NPROCESSORS_ONLN)
[ "$shards" -le $most_shards ] || shards=$most_shards
shard=0
while [ $shard -lt "$shards" ]; do
  cat >"$results/bin/test_cuda_$shard" <<SCRIPT
#!/bin/sh
GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard exec "$build/tests/test_cuda" "\$@"
SCRIPT
  shard=$((shard + 1))
done
chmod +x "$results/bin/"*
cat >"$results/sanitizer.sh" <<SCRIPT
. "$root/scripts/gpu_sanitizers.sh"
check_sanitizers "$build/tests" "$results"
SCRIPT
sh "$root/scripts/run_tests.sh" "$results/bin" "$results/tests" "$shards" "$results/sanitizer.sh"
cp "$results/tests/counts" "$results/counts"
