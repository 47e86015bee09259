"""carpool's own pool, in memory. It is told no limit, and finds it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import carpool

from ... import workload
from . import kit


@asynccontextmanager
async def opened(work: kit.Work) -> AsyncIterator[kit.Call]:
    """Give what a caller awaits."""
    # The pace of a test: with the defaults a batch is looked at after 2 s, and a lost reply is looked up for 10 s.
    timing = carpool.Timing(linger=kit.LINGER, poll_min=kit.POLL, poll_max=5 * kit.POLL, lookup=2.0)
    async with carpool.Pool("any", work.url, timing=timing) as pool:

        async def call(number: int) -> str:
            return (await pool.request(workload.ENDPOINT, workload.payload(number))).text

        yield call


if __name__ == "__main__":
    kit.main(kit.each(opened))
