"""An emulator with an enqueued-token limit in a process of its own, until standard input ends; then it tells its books.

    python -m benchmarks.limited_server '{"limit": 60000, "running": 4, "counts": 1.0}'

It counts with tiktoken, by the Cookbook's rules for plain chat messages and by nothing of carpool's, times `counts`.
"""

import json
import sys
from functools import cache
from typing import Any

import tiktoken

from carpool.testing import Emulator, Pace

from . import workload


@cache
def _tokens(text: str) -> int:
    return len(tiktoken.get_encoding("o200k_base").encode_ordinary(text))


def count(body: dict[str, Any]) -> int:
    """Count the prompt tokens of a chat body: 3 for each message, 3 for the answer's beginning."""
    messages = body["messages"]
    return 3 + sum(3 + _tokens(message["role"]) + _tokens(message["content"]) for message in messages)


def main() -> None:
    """Print the URL, serve, and print what was admitted and refused when."""
    setting = json.loads(sys.argv[1])
    factor = setting.get("counts", 1.0)
    emulator = Emulator(
        pace=Pace(validating=setting.get("validating", 0.05), running=setting["running"]),
        enqueued_tokens={"*": setting["limit"]},
        count=lambda body: int(count(body) * factor),
    )
    with emulator:
        print(emulator.url, flush=True)
        sys.stdin.read()
        books = emulator.books()
    times = {name: [line.at for line in books.queue if line.change == name] for name in ("admitted", "refused")}
    answered = len(books.bodies)
    print(json.dumps({**times, "utilisation": books.utilisation(workload.MODEL), "answered": answered}))


if __name__ == "__main__":
    main()
