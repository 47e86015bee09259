"""The same work by `pool.gather`, which needs no task for each call; words as in `pooled`."""

import carpool

from . import workload
from .pooled import opened
from .workload import DEFAULT, Options


async def gathered(count: int, url: str, options: Options = DEFAULT) -> list[bytes]:
    """Answer so many calls."""
    bodies = (workload.payload(number, options.size) for number in range(count))
    async with opened(url, options) as pool:
        answers: list[carpool.Response] = await pool.gather(bodies, endpoint=workload.ENDPOINT)
        return [answer.content for answer in answers]


if __name__ == "__main__":
    workload.main(gathered)
