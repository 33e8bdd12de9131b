# Sourced by the script tests: expectations that print one line each.

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
failures=0

# expect NAME CONDITION...: runs the condition, prints "ok" or "not ok".
expect() {
  name=$1
  shift
  if "$@" >/dev/null 2>&1; then
    echo "ok $name"
  else
    echo "not ok $name: $(echo "$*" | head -n 1 | cut -c 1-120)"
    failures=$((failures + 1))
  fi
}

# code_of COMMAND...: runs it, keeps its output in $temporary/output, sets $code.
code_of() {
  code=0
  "$@" >"$temporary/output" 2>&1 </dev/null || code=$?
}
