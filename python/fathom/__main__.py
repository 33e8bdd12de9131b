"""python -m fathom (installed: fathom) doctor | info | report | stubs: what works here, bench results as a page, type stubs."""

import argparse
import json
import sys


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m fathom", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("doctor", help="print what works here, what is missing, and its remedy")
    verbs.add_parser("info", help="print the same as JSON")
    report = verbs.add_parser("report", help="write results of `fathom bench --json` as one HTML page")
    report.add_argument("results", nargs="+", help="files of JSON lines, of Fathom and of peers")
    report.add_argument("-o", "--output", default="report.html")
    report.add_argument("--title", default="Fathom bench")
    stubs = verbs.add_parser("stubs", help="write type stubs of the ops, for editors and type checkers")
    stubs.add_argument("-o", "--output", help="__init__.pyi beside the package, if left out")
    given = parser.parse_args(arguments)
    if given.verb == "report":
        from .report import write

        try:
            count = write(given.results, given.output, given.title)
        except (OSError, ValueError) as slip:
            print(f"report: {slip}", file=sys.stderr)
            return 1
        print(f"{given.output}: {count} measurements")
        return 0
    if given.verb == "stubs":
        from .stubs import write

        print(write(given.output))
        return 0
    from . import doctor, info

    if given.verb == "doctor":
        return 0 if doctor() else 1
    print(json.dumps(info(), indent=2))
    return 0


def program():
    """The command `fathom` of an installed package."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    program()
