#!/bin/sh
# What the documents say against what is there: op pages, the commands of README and guide, links between files.
#   check_docs.sh [BUILD]
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=${1:-${FATHOM_BUILD:-$root/build/cpu}}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
status=0
cd "$root"

failed() {
  echo "not ok $1: $2"
  status=1
}

mkdir "$temporary/ops"
if "$build/scripts/op_docs" "$temporary/ops" && diff -r docs/ops "$temporary/ops"; then
  echo "ok op_pages"
else
  failed op_pages "docs/ops differs from the op table; run scripts/gen_docs.sh"
fi

pages=$(find . -maxdepth 1 -name '*.md' && find docs -name '*.md')

# Every `./run fathom` command inside a ```sh block of README and guide must run as it stands, in a folder of its own that
# sees the tree. `# fails` at its end marks a command that shows an error.
mkdir "$temporary/commands"
for entry in tests cases docs; do [ ! -e "$root/$entry" ] || ln -s "$root/$entry" "$temporary/commands/$entry"; done
# shellcheck disable=SC2086  # a list of pages
awk '
  /^```/ { inside = /^```sh/; whole = ""; next }
  !inside { next }
  { whole = whole $0 }
  sub(/\\$/, "", whole) { next }  # the command goes on
  { line = whole; whole = ""; sub(/^\$ /, "", line) }
  sub(/^\.\/run fathom /, "", line) { print line }' \
  README.md $(find docs/guide -name '*.md' | sort) >"$temporary/list"
cd "$temporary/commands"
while IFS= read -r command; do
  expected=0
  case "$command" in *'# fails') expected=1 ;; esac
  code=0
  timeout 300 sh -c "'$build/cli/fathom' $command" >"$temporary/output" 2>&1 </dev/null || code=$?
  [ "$code" -eq 0 ] && got=0 || got=1
  if [ "$got" -eq "$expected" ]; then
    echo "ok command fathom $command"
  else
    cat "$temporary/output"
    failed "command fathom $command" "exit code $code"
  fi
done <"$temporary/list"
cd "$root"

# Relative links, without anchors, must lead to files.
broken=$(for page in $pages; do
  grep -oE '\]\([^)# ]+' "$page" | sed 's/^](//' | while IFS= read -r link; do
    case "$link" in *://* | mailto:*) continue ;; esac
    [ -e "$(dirname "$page")/$link" ] || echo "$page: $link"
  done
done)
if [ -z "$broken" ]; then echo "ok links"; else echo "$broken" && failed links "some lead nowhere"; fi
exit $status
