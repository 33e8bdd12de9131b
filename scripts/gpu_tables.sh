#!/bin/sh
# Times what README.md's GPU tables show, or writes the tables. Run it by hand on the machine with the GPU: speeds differ from machine
# to machine, so no test compares them.
#   gpu_tables.sh measure BUILD RESULTS    ops.jsonl and layers.jsonl in RESULTS; under two minutes on one H100
#   gpu_tables.sh write RESULTS            from these into README.md, between its markers
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

measure() {
  program=$1/cli/fathom
  results=$2
  [ ! -d "$1/lib" ] || export LD_LIBRARY_PATH="$1/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  mkdir -p "$results"
  rm -f "$results/ops.jsonl" "$results/layers.jsonl"
  for model in v4-flash v4-pro; do
    "$program" bench --device cuda --model-layer $model --tokens 4096 --batch 1,32,128 --context 4096,131072,1048576 --json "$results/layers.jsonl"
  done
  # What every GPU from sm_80 on runs, on this one.
  "$program" bench --device cuda --cases "$root/cases" --set serve --json "$results/ops.jsonl" \
    --force linear=cuda:sm80 --force attend=cuda:sm80 --force index=cuda:sm80 --force output=cuda:sm80
}

case "${1-} $#" in
  "measure 3") measure "$2" "$3" ;;
  "write 2") python3 "$root/scripts/gpu_tables.py" "$2" "$root/README.md" ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
