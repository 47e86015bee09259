"""The same work through carpool: a task for each caller, each awaiting `pool.request`.

    python -m benchmarks.pooled N URL [journal] [limit=TOKENS] [size=BYTES] [uvloop] [burn=US]

`limit` sets a limit, `journal` keeps a journal in a folder of its own; `burn` plants a slowdown, for the guard's test.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import carpool

from . import workload
from .floor import POLL
from .workload import DEFAULT, Options


@asynccontextmanager
async def opened(url: str, options: Options) -> AsyncIterator[carpool.Pool]:
    """Open a pool that looks as often as the floor does."""
    limits = None if options.limit is None else {"*": options.limit}
    timing = carpool.Timing(linger=0.2, poll_min=POLL)
    with tempfile.TemporaryDirectory() as folder:
        journal = f"{folder}/journal" if options.journal else None
        async with carpool.Pool("any", url, limits=limits, journal=journal, timing=timing) as pool:
            yield pool


def burn(us: float) -> None:
    """Use so much CPU time."""
    end = time.thread_time() + us / 1e6
    while time.thread_time() < end:
        pass


async def pooled(count: int, url: str, options: Options = DEFAULT) -> list[bytes]:
    """Answer so many calls."""
    async with opened(url, options) as pool:

        async def call(number: int) -> bytes:
            if options.burn:
                burn(options.burn)
            return (await pool.request(workload.ENDPOINT, workload.payload(number, options.size))).content

        return await asyncio.gather(*(call(number) for number in range(count)))


if __name__ == "__main__":
    workload.main(pooled)
