#!/bin/sh
# What this machine has and lacks, in words. Changes nothing; always ends with code 0.
set -eu
cd "$(dirname -- "$0")/.."
. scripts/shell.sh
. scripts/setup.sh

line() { printf '  %-12s %s\n' "$1" "$2"; }
first_line() { "$@" 2>/dev/null | head -n 1; }

echo "Machine"
line system "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release 2>/dev/null || uname -s)"
line processors "$(getconf _NPROCESSORS_ONLN), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
line memory "$(awk '/^MemTotal:/ { t = $2 } /^MemAvailable:/ { a = $2 } END { printf "%.1f GiB, %.1f free", t / 1048576, a / 1048576 }' /proc/meminfo)"
flags=$(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1)
found=
for flag in avx2 avx512f avx512_bf16 amx_bf16; do
  case " $flags " in *" $flag "*) found="$found${found:+ }$flag" ;; esac
done
line vectors "${found:-none of avx2, avx512f, avx512_bf16, amx_bf16}"
line disk "$(df -Ph . | awk 'NR == 2 { print $4 " free here" }')"
line jobs "$(default_jobs)"

echo "Needed to build"
for package in $packages; do
  if is_missing "$package"; then line missing "$package"; else line found "$package"; fi
done
missing=$(missing_packages)
[ -z "$missing" ] || echo "  ./run deps installs what is missing, or type: apt-get update && apt-get install -y $missing"
if command -v cmake >/dev/null; then
  line cmake "$(first_line cmake --version)$(cmake_is_old && echo '; 3.25 or newer is needed' || :)"
fi
if command -v g++ >/dev/null; then line g++ "$(first_line g++ --version)"; fi

echo "Optional"
for tool in clang++ pkg-config ccache; do
  line $tool "$(command -v $tool || echo 'not found (only switches a suite off)')"
done

echo "GPU"
if nvcc=$(find_nvcc); then
  line nvcc "$nvcc, $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/CUDA \1/p')"
else
  line nvcc "not found: CUDACXX, PATH, CUDA_HOME and /usr/local/cuda were looked at"
fi
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then line GPU "$(first_line nvidia-smi -L)"; else line GPU "none found"; fi
if find_nvcc >/dev/null; then
  line kernels "./run builds CUDA kernels for sm_80 and sm_90a; --cpu leaves them out"
else
  line kernels "no CUDA compiler: every build is CPU only"
fi
if ! has_gpu; then line tests "./run gpu-test and gpu-bench need a GPU; the tests of kernels are built and skipped"; fi
