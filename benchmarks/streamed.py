"""The same work as a stream: bodies from a generator go in, outcomes come out in order; words as in `pooled`."""

from . import workload
from .pooled import opened
from .workload import DEFAULT, Options


async def streamed(count: int, url: str, options: Options = DEFAULT) -> list[bytes]:
    """Answer so many requests."""
    bodies = (workload.payload(number, options.size) for number in range(count))
    async with (
        opened(url, options) as pool,
        pool.map(bodies, endpoint=workload.ENDPOINT, keep_requests=False) as outcomes,
    ):
        return [outcome.result().content async for outcome in outcomes]


if __name__ == "__main__":
    workload.main(streamed)
