"""inspect_ai's batch mode: `model.generate` with a batch configuration, outside of an evaluation."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ... import workload
from . import kit

model: Any = importlib.import_module("inspect_ai.model")  # it is in its own environment alone

SEND_DELAY = 2.0  # seconds: its callers take milliseconds each to get in line, so that a shorter one cuts batches small


@asynccontextmanager
async def opened(work: kit.Work) -> AsyncIterator[kit.Call]:
    """Give what a caller awaits."""
    batch = model.BatchConfig(
        size=min(work.rows, work.burst),  # at least so many in a batch, unless `send_delay` is over; 100 by default
        max_size=work.rows,
        send_delay=SEND_DELAY,
        tick=kit.POLL,
        max_batches=1 if work.fits else None,  # the one way in which it can be kept below a limit; 50 by default
    )
    # So many callers are let in at a time, and a batch holds no more of them; the first number given stays in force.
    config = model.GenerateConfig(batch=batch, max_connections=10**6)
    async with model.get_model(
        f"openai/{workload.MODEL}",
        config=config,
        base_url=work.url,
        api_key="any",
        responses_api=False,  # the same endpoint as all others; by default it is another for this model
        memoize=False,
    ) as client:

        async def call(number: int) -> str:
            system, user = workload.payload(number)["messages"]
            messages = [
                model.ChatMessageSystem(content=system["content"]),
                model.ChatMessageUser(content=user["content"]),
            ]
            answer: str = (await client.generate(messages)).completion
            return answer

        yield call


if __name__ == "__main__":
    kit.main(kit.each(opened))
