"""The emulator in a process of its own, as a benchmark sees it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple


class Traffic(NamedTuple):
    """Count HTTP requests, and the bytes of their bodies, to the server and from it."""

    requests: int
    received: int
    sent: int


class Server:
    """Know a running emulator; `bodies` tells how many bodies were run how often, once it has ended."""

    def __init__(self, url: str, orders: IO[str], replies: IO[str]) -> None:
        self.url = url
        self.bodies: dict[str, int] = {}
        self._orders = orders
        self._replies = replies

    def traffic(self) -> Traffic:
        """Give what came and went since this was asked before."""
        self._orders.write("\n")
        self._orders.flush()
        return Traffic(*json.loads(self._replies.readline()))


@contextmanager
def serve(*words: str) -> Iterator[Server]:
    """Run the emulator; the words are those of `benchmarks.server`."""
    command = [sys.executable, "-m", "benchmarks.server", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = Server(process.stdout.readline().strip(), process.stdin, process.stdout)
        try:
            yield server
        finally:
            told, _ = process.communicate()
            server.bodies = json.loads(told or "{}")


@contextmanager
def served() -> Iterator[str]:
    """Run the emulator and give its URL."""
    with serve() as server:
        yield server.url
