"""python -m fathom doctor | info: what works here, for people and, as JSON, for programs."""

import json
import sys

from . import doctor, info


def main(arguments):
    if arguments == ["doctor"]:
        return 0 if doctor() else 1
    if arguments == ["info"]:
        print(json.dumps(info(), indent=2))
        return 0
    print("usage: python -m fathom doctor | info", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
