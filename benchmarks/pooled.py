"""The same work through carpool: a task for each caller, each awaiting `pool.request`."""

import asyncio

import carpool

from . import workload
from .floor import POLL


async def pooled(count: int, url: str) -> list[bytes]:
    """Answer so many calls."""
    async with carpool.Pool("any", url, timing=carpool.Timing(linger=0.2, poll_min=POLL)) as pool:

        async def call(number: int) -> bytes:
            return (await pool.request(workload.ENDPOINT, workload.payload(number))).content

        return await asyncio.gather(*(call(number) for number in range(count)))


if __name__ == "__main__":
    workload.main(pooled)
