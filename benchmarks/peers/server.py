"""Two emulators in a process of their own, one to warm up on and one for a case; at the end the latter's books.

python -m benchmarks.peers.server "a limit" 2000 0
"""

import json
import sys
from typing import Any

from carpool.testing import Books, Emulator

from .. import workload
from .cases import CASES


def tell(books: Books) -> dict[str, Any]:
    """Say what the books hold: `billed` answers, of them `twice` those of calls that had one in a file already.

    Others the provider `lost`: they reached no file, and whoever was not answered is not to blame.
    """
    again = [times - 1 - books.lost[name] for name, times in books.paid.items()]
    twice = sum(more for more in again if more > 0)
    lost = (books.paid & books.lost).total()
    calls = books.routes.total()
    return {"billed": books.paid.total(), "twice": twice, "lost": lost, "http_calls": calls, "books": str(books)}


def main() -> None:
    """Print both URLs, serve until standard input ends, and print what the books tell."""
    name, calls, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    (case,) = (known for known in CASES if known.name == name)
    with Emulator(answer=workload.answer) as warm, case.emulator(calls, seed) as emulator:
        print(json.dumps([warm.url, emulator.url]), flush=True)
        sys.stdin.read()
        print(json.dumps(tell(emulator.books())))


if __name__ == "__main__":
    main()
