"""Where the suite finds things, and how it reports to scripts/run_tests.sh: `--lines` prints one line for each test."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
try:
    import fathom  # noqa: F401  an installed package, or PYTHONPATH
except ImportError:
    sys.path.insert(0, str(ROOT / "python"))


@pytest.fixture(scope="session")
def golden():
    return ROOT / "tests" / "golden"


def pytest_addoption(parser):
    parser.addoption("--lines", action="store_true", help="print ok / not ok / skip NAME for each test")


def pytest_runtest_logreport(report):
    if not _lines or report.when == "teardown" and report.passed or report.when == "setup" and report.passed:
        return
    name = report.nodeid.rpartition("/")[2].replace(" ", "_")
    if report.skipped:
        print(f"\nskip {name}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else 'skipped'}")
    elif report.passed:
        print(f"\nok {name}")
    else:
        why = str(getattr(getattr(report.longrepr, "reprcrash", None), "message", "failed")).splitlines()
        print(f"\nnot ok {name}: {why[0] if why else 'failed'}")


def pytest_collectreport(report):
    if _lines and report.skipped:
        print(f"\nskip {report.nodeid}: {report.longrepr[2]}")


_lines = False


def pytest_configure(config):
    global _lines
    _lines = config.getoption("--lines")
