"""Measure, print the table, and exit with 1 when a bar is missed: `python -m benchmarks.peers`."""

import argparse
import json
from pathlib import Path

from ..records import show
from ..report import plain
from . import __doc__ as purpose
from .cases import CASES
from .environments import PROGRAMS
from .measure import results
from .report import table


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(program.name for program in PROGRAMS), *(case.name for case in CASES)]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--calls", type=int, default=50_000, help="without limits; other cases have fewer")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    options = parser.parse_args()
    records = results(options.calls, options.runs, options.only)
    if options.json is not None:
        options.json.write_text(json.dumps([plain(record) for record in records], indent=2) + "\n")
    show(records, table)


if __name__ == "__main__":
    main()
