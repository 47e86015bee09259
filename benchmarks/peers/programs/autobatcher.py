"""autobatcher's `BatchOpenAI`: an `AsyncOpenAI` whose `create` waits for a batch."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ... import workload
from . import kit

autobatcher: Any = importlib.import_module("autobatcher")  # it is in its own environment alone
logger: Any = importlib.import_module("loguru").logger


@asynccontextmanager
async def opened(work: kit.Work) -> AsyncIterator[kit.Call]:
    """Give what a caller awaits."""
    logger.remove()  # it writes to standard error at DEBUG, several lines a batch
    client = autobatcher.BatchOpenAI(
        api_key="any",  # in hand: one from the environment does not reach its downloads, and every result is lost
        base_url=work.url,
        completion_window="24h",  # else every call is a background response of its own, in no batch
        batch_size=work.rows,  # 1,000 by default; it sends every batch at once, whatever the limit
        batch_window_seconds=kit.LINGER,
        poll_interval_seconds=kit.POLL,
    )
    async with client:

        async def call(number: int) -> str:
            answer = await client.chat.completions.create(**workload.payload(number))
            return answer.choices[0].message.content or ""

        yield call


if __name__ == "__main__":
    kit.main(kit.each(opened))
