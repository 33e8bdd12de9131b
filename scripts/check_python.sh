#!/bin/sh
# The Python package: installed beside its library and imported by a bare python3; its pytest suite; its wheel.
#   check_python.sh [BUILD]
# FATHOM_PYTHON names the interpreter of the suite (default python3); FATHOM_TEST_WHEEL=1 builds and installs the wheel.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=${1:-${FATHOM_BUILD:-$root/build/cpu}}
python=${FATHOM_PYTHON:-python3}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
status=0
unset FATHOM_LIBRARY PYTHONPATH

if ! command -v "$python" >/dev/null; then
  echo "skip python: there is no $python"
  exit 0
fi

# A run without NumPy, torch or anything else, from the layout of a wheel.
cat >"$temporary/bare.py" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
sys.modules.update(numpy=None, torch=None, ml_dtypes=None)
import array
import fathom
assert fathom.info()["library"].startswith(sys.argv[1]), fathom.info()
scores, picks = array.array("f", [1, 4, 4, 2, -1, -3, -2, -4]), array.array("i", [77] * 4)
fathom.plan("select_topk", num_tokens=2, num_scores=4, topk=2)(
    scores=fathom.view(scores, shape=(2, 4)), topk_entries=fathom.view(picks, shape=(2, 2)))
assert list(picks) == [1, 2, 0, 2], picks
PYTHON
# bare NAME PYTHON FOLDER: imports the package that lies in FOLDER.
bare() {
  if "$2" -B "$temporary/bare.py" "$3" >"$temporary/output" 2>&1; then
    echo "ok $1"
  else
    cat "$temporary/output"
    echo "not ok $1: the package does not run"
    status=1
  fi
}
if cmake --install "$build" --component python --prefix "$temporary/layout" >"$temporary/output" 2>&1 &&
  cp -R "$root"/python/fathom/*.py "$root/python/fathom/compat" "$temporary/layout/fathom"; then
  bare python_without_numpy "$python" "$temporary/layout"
else
  cat "$temporary/output"
  echo "not ok python_without_numpy: the component python does not install"
  status=1
fi

lacks=
for module in numpy ml_dtypes pytest; do
  "$python" -c "import $module" 2>/dev/null || lacks="$lacks $module"
done
if [ -n "$lacks" ]; then
  echo "skip python suite: $python lacks$lacks (FATHOM_PYTHON names another)"
else
  code=0
  (cd "$root" && FATHOM_LIBRARY="$build/src/libfathom.so" timeout 600 "$python" -B -m pytest -q --lines -p no:cacheprovider tests/python) || code=$?
  if [ "$code" -ne 0 ]; then
    echo "not ok python_suite: pytest ended with exit code $code"
    status=1
  fi
fi

if [ "${FATHOM_TEST_WHEEL:-0}" = 1 ]; then
  # The first command of docs/guide/python.md, in an empty environment.
  "$python" -m venv "$temporary/venv"
  if (cd "$root" && "$temporary/venv/bin/pip" install . -C build-dir="$temporary/wheel") >"$temporary/pip.log" 2>&1; then
    bare python_wheel "$temporary/venv/bin/python" "$("$temporary/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
    if "$temporary/venv/bin/fathom" doctor >"$temporary/output" 2>&1; then
      echo "ok python_wheel_command"
    else
      cat "$temporary/output"
      echo "not ok python_wheel_command: fathom doctor fails"
      status=1
    fi
  else
    tail -n 40 "$temporary/pip.log"
    echo "not ok python_wheel: pip install . failed"
    status=1
  fi
else
  echo "skip python_wheel: it takes minutes and the package index; FATHOM_TEST_WHEEL=1 runs it"
fi
exit $status
