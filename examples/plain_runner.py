"""Answer the lines of a text through a pool, in a plain `asyncio.Runner`; signals leave it in good order.

    carpool emulate --port 8000                                            # a provider for trying it out
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=any     # leave the first out for the real one
    python examples/plain_runner.py lines.txt

On Ctrl-C and SIGTERM what ends within GRACE seconds is printed still, and the exit status is 75: not all was done. The
same command again goes on, and pays for nothing twice: answers that were not printed are in the journal.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import carpool

MODEL = "gpt-5-mini"
GRACE = 20.0  # seconds: less than whoever sent the signal will wait
NOT_ALL = 75  # EX_TEMPFAIL of sysexits.h: try again


def requests(lines: Iterable[str]) -> Iterable[carpool.Request]:
    """Ask for something about each line; its number is what it is known again by."""
    for number, line in enumerate(lines):
        body = {"model": MODEL, "messages": [{"role": "user", "content": line}]}
        yield carpool.Request("/v1/chat/completions", body, key=number)


async def answer(pool: carpool.Pool, lines: Iterable[str], grace: float) -> int:
    """Print the answers; gives the exit status."""
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    def leave() -> None:
        draining.append(loop.create_task(pool.drain(grace)))

    async with pool:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, leave)
        try:
            async for outcome in pool.map(requests(lines)):
                print(outcome.index, outcome.result().text if outcome.ok else f"failed: {outcome.error}", flush=True)
        except carpool.PoolClosed as exc:
            print(exc, file=sys.stderr)
            return NOT_ALL
        finally:
            await asyncio.gather(*draining)
    return 0


def main() -> int:
    """Answer the lines of a file; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path)
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds for what is under way at a signal")
    given = parser.parse_args()
    with asyncio.Runner() as runner:
        pool = carpool.Pool(journal=given.lines.with_suffix(".journal"))
        return runner.run(answer(pool, given.lines.read_text().splitlines(), given.grace))


if __name__ == "__main__":
    sys.exit(main())
