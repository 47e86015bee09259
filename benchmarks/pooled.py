"""The same work through carpool: a task for each caller, each awaiting `pool.request`.

`limit=TOKENS` sets a limit, `journal` keeps a journal in a folder of its own.
"""

import asyncio
import sys
import tempfile

import carpool

from . import workload
from .floor import POLL


async def pooled(count: int, url: str) -> list[bytes]:
    """Answer so many calls."""
    limit = next((option.removeprefix("limit=") for option in sys.argv[3:] if option.startswith("limit=")), None)
    limits = None if limit is None else {"*": int(limit)}
    timing = carpool.Timing(linger=0.2, poll_min=POLL)
    with tempfile.TemporaryDirectory() as folder:
        journal = f"{folder}/journal" if "journal" in sys.argv[3:] else None
        async with carpool.Pool("any", url, limits=limits, journal=journal, timing=timing) as pool:

            async def call(number: int) -> bytes:
                return (await pool.request(workload.ENDPOINT, workload.payload(number))).content

            return await asyncio.gather(*(call(number) for number in range(count)))


if __name__ == "__main__":
    workload.main(pooled)
