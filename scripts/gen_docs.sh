#!/bin/sh
# Writes docs/ops anew from the op table. Needs a build: ./run build.   gen_docs.sh [BUILD]
set -eu
cd "$(dirname -- "$0")/.."
mkdir -p docs/ops
rm -f docs/ops/*.md
"${1:-${FATHOM_BUILD:-build/cpu}}/scripts/op_docs" docs/ops
echo "wrote $(find docs/ops -name '*.md' | wc -l) pages to docs/ops"
