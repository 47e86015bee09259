"""The same work as a stream: bodies from a generator go in, outcomes come out in order; `journal` as in `pooled`."""

import sys
import tempfile

import carpool

from . import workload
from .floor import POLL


async def streamed(count: int, url: str) -> list[bytes]:
    """Answer so many requests."""
    timing = carpool.Timing(linger=0.2, poll_min=POLL)
    bodies = (workload.payload(number) for number in range(count))
    with tempfile.TemporaryDirectory() as folder:
        journal = f"{folder}/journal" if "journal" in sys.argv[3:] else None
        async with (
            carpool.Pool("any", url, journal=journal, timing=timing) as pool,
            pool.map(bodies, endpoint=workload.ENDPOINT, keep_requests=False) as outcomes,
        ):
            return [outcome.result().content async for outcome in outcomes]


if __name__ == "__main__":
    workload.main(streamed)
