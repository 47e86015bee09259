"""The provider of a soak in a process of its own, until standard input ends; then it tells its books.

python -m benchmarks.soak.provider '{"minutes": 1}'
"""

import json
import sys
from collections import Counter
from typing import Any

from carpool.testing import Books

from .plan import Plan


def tell(books: Books) -> dict[str, Any]:
    """Say what the books hold against a client: what was billed twice, and when there was no room."""
    twice = {name for name, count in books.paid.items() if count > 1 + books.lost[name]}
    return {
        "paid": len(books.paid),
        "twice": sum(books.paid[name] - 1 - books.lost[name] for name in twice),
        "runs": sorted((custom_id, runs) for (custom_id, name), runs in books.runs.items() if name in twice),
        "refused": [line.at for line in books.queue if line.change == "refused"],
        "admitted": [line.at for line in books.queue if line.change == "admitted"],
        "utilisation": max(map(books.utilisation, {line.model for line in books.queue}), default=0.0),
        "statuses": Counter(batch.status for batch in books.batches),
        "files": len(books.files),
    }


def main() -> None:
    """Print the URL, serve, and print what the books tell."""
    with Plan.read(sys.argv[1]).emulator() as emulator:
        print(emulator.url, flush=True)
        sys.stdin.read()
        print(json.dumps(tell(emulator.books())))


if __name__ == "__main__":
    main()
