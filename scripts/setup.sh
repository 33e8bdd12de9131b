# Sourced by ./run: what the build needs, where CUDA is, and the build itself.

packages="g++ cmake ninja-build libgtest-dev libhwy-dev libtbb-dev nlohmann-json3-dev libcli11-dev libfmt-dev"

# has_header NAME: whether the compiler finds <NAME>.
has_header() {
  printf '#if !__has_include(<%s>)\n#error missing\n#endif\n' "$1" | ${CXX:-g++} -std=c++20 -E -x c++ - >/dev/null 2>&1
}

# is_missing PACKAGE: looks for what the package brings, not for the package: it may come from elsewhere.
is_missing() {
  case "$1" in
    g++) ! command -v "${CXX:-g++}" >/dev/null ;;
    cmake) ! command -v cmake >/dev/null ;;
    ninja-build) ! command -v ninja >/dev/null ;;
    libgtest-dev) ! has_header gtest/gtest.h ;;
    libhwy-dev) ! has_header hwy/highway.h ;;
    libtbb-dev) ! has_header oneapi/tbb/task_arena.h ;;
    nlohmann-json3-dev) ! has_header nlohmann/json.hpp ;;
    libcli11-dev) ! has_header CLI/CLI.hpp ;;
    libfmt-dev) ! has_header fmt/format.h ;;
  esac
}

missing_packages() {
  list=
  for package in $packages; do
    if is_missing "$package"; then list="$list $package"; fi
  done
  echo "${list# }"
}

# cmake_is_old: presets of schema 6 and C++20 need 3.25.
cmake_is_old() {
  cmake --version | awk 'NR == 1 { split($3, v, "."); exit !(v[1] < 3 || (v[1] == 3 && v[2] < 25)) }'
}

# install_missing: leaves a machine that can build, or stops with code 3 and the line to type.
install_missing() {
  missing=$(missing_packages)
  if [ -n "$missing" ]; then
    say "missing: $missing"
    line="apt-get update && apt-get install -y --no-install-recommends $missing"
    command -v apt-get >/dev/null || stop 3 "no apt-get here; please install what these Debian packages hold: $missing"
    [ "$install" = yes ] || stop 3 "not installing anything; please type: sudo sh -c '$line'"
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
      command -v sudo >/dev/null || stop 3 "neither root nor sudo; please type as root: $line"
      sudo=sudo
      [ "${CI:-}" != true ] || sudo="sudo -n"
    fi
    # shellcheck disable=SC2086  # the lists are meant to split
    logged $sudo apt-get update || stop 3 "apt-get update failed; please type: sudo sh -c '$line'"
    # shellcheck disable=SC2086
    logged $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing ||
      stop 3 "apt-get install failed; please type: sudo sh -c '$line'"
    still=$(missing_packages)
    [ -z "$still" ] || stop 3 "installed, but the compiler still does not find: $still"
  fi
  ! cmake_is_old || stop 3 "cmake is $(cmake --version | awk 'NR == 1 { print $3 }'), expected 3.25 or newer"
}

# find_nvcc: prints its path. Toolkits are often installed without being on PATH.
find_nvcc() {
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || :)" "${CUDA_HOME:-/nowhere}/bin/nvcc" /usr/local/cuda/bin/nvcc; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# choose_preset: sets $preset to what this machine can build, cuda or cpu, and says why.
choose_preset() {
  preset=cpu
  if [ "$force_cpu" = yes ]; then
    say "CPU only, as --cpu asks"
  elif nvcc=$(find_nvcc); then
    preset=cuda
    say "CUDA compiler found ($nvcc) -> kernels for sm_80 and sm_90a"
    export CUDACXX="$nvcc"
  else
    say "CUDA compiler not found -> CPU only (./run doctor explains)"
  fi
  # What the scripts that look at a build look at.
  FATHOM_BUILD=$(pwd)/build/$preset
  export FATHOM_BUILD
}

# has_gpu: whether an NVIDIA GPU shows; what it can do is the program's to find out.
has_gpu() {
  [ -e /dev/nvidia0 ] || [ -e /dev/dxg ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }
}

# default_jobs: one per processor, but 1.5 GiB of memory each.
default_jobs() {
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
  memory=$(awk '/^MemAvailable:/ { print int($2 / 1572864) }' /proc/meminfo 2>/dev/null || :)
  [ -n "$memory" ] && [ "$memory" -lt "$cores" ] && cores=$memory
  [ "$cores" -ge 1 ] || cores=1
  echo "$cores"
}

# build_preset PRESET TARGET [CMAKE OPTIONS...]: configures build/PRESET if that has not happened here, and builds.
build_preset() {
  preset=$1
  target=$2
  shift 2
  cache=build/$preset/CMakeCache.txt
  # A tree that was moved or copied carries a cache of its old place, which CMake refuses.
  if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$(pwd)" "$cache"; then rm -rf "build/$preset"; fi
  if [ ! -f "build/$preset/build.ninja" ]; then
    logged cmake --preset "$preset" "$@" || stop 1 "configuring failed; the log is $log"
  fi
  logged cmake --build "build/$preset" --target "$target" --parallel "$jobs" || stop 1 "the build failed; the log is $log"
}
