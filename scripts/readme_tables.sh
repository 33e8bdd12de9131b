#!/bin/sh
# Measures the two tables of README.md and writes them between their markers. Run it by hand after `./run build`: speeds
# differ from machine to machine, so no test compares them.
#   readme_tables.sh [BUILD]
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
program=${1:-${FATHOM_BUILD:-$root/build/cpu}}/cli/fathom
cd "$root"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

{
  echo '| checkpoint | numerics | layer | output error | worst token | bounds |'
  echo '|---|---|---|---|---|---|'
  for folder in tiny tiny_fp8; do
    "$program" check --golden "tests/golden/$folder" | awk -v folder="$folder" '
      $4 == "output" { error = $5; bound = $7 }
      $4 == "output," { printf "| `%s` | %s | %s | %s | %s | %s, %s |\n", folder, $1, $3, error, $7, bound, $9 }'
  done
} >"$temporary/golden"

processor=$("$program" info | awk '$1 == "processor" { $1 = ""; print substr($0, 2) }')
features=$("$program" info | awk '$1 == "features" { $1 = ""; print substr($0, 2) }')
threads=$("$program" info | awk '$1 == "threads" { print $2 }')
{
  echo "\`./run fathom bench --model-layer v4-flash\` on $(date +%Y-%m-%d), $processor, $threads threads ($features):"
  echo
  echo '| stage | prefill of 256 tokens, ms | share | one decode step, ms | share |'
  echo '|---|--:|--:|--:|--:|'
  "$program" bench --model-layer v4-flash | awk '
    / %/ { n = NF; name = $1; for (i = 2; $i !~ /^cpu(:|$)/ && i < n - 5; ++i) name = name " " $i
           printf "| %s | %s | %s %% | %s | %s %% |\n", name, $(n - 5), $(n - 4), $(n - 2), $(n - 1) }'
} >"$temporary/speed"

for table in golden speed; do
  [ "$(wc -l <"$temporary/$table")" -gt 4 ] || { echo "readme_tables: the $table table came out empty" >&2; exit 1; }
  awk -v table="$table" -v file="$temporary/$table" '
    $0 == "<!-- " table ":begin -->" { print; while ((getline line < file) > 0) print line; skip = 1 }
    $0 == "<!-- " table ":end -->" { skip = 0 }
    !skip' README.md >"$temporary/README.md"
  cp "$temporary/README.md" README.md
done
