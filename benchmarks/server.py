"""The emulator in a process of its own, until standard input ends; then it says how many bodies were run how often.

    python -m benchmarks.server [running=SECONDS]

For each line of standard input it tells the requests, and the bytes of bodies to it and from it, since the line before.
"""

import json
import sys
from collections import Counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carpool.testing import Emulator, Pace

from . import workload


class Counted:
    """Count what passes to an app and from it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._counts = [0, 0, 0]

    def take(self) -> list[int]:
        """Give the counts, and begin anew."""
        counts, self._counts = self._counts, [0, 0, 0]
        return counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass all on."""

        async def received() -> Message:
            message = await receive()
            self._counts[1] += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            self._counts[2] += len(message.get("body", b""))
            await send(message)

        self._counts[0] += scope["type"] == "http"
        await self._app(scope, received, sent)


def main() -> None:
    """Print the URL and serve."""
    running = next((float(word.removeprefix("running=")) for word in sys.argv[1:]), 0.0)
    options: dict[str, Any] = {"pace": Pace(running=running)} if running else {}
    emulator = Emulator(answer=workload.answer, **options)
    emulator.app = counted = Counted(emulator.app)
    with emulator:
        print(emulator.url, flush=True)
        for _ in sys.stdin:
            print(json.dumps(counted.take()), flush=True)
        print(json.dumps(Counter(emulator.books().bodies.values())))


if __name__ == "__main__":
    main()
