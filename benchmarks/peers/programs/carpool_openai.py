"""carpool under the official client, `carpool.batched(AsyncOpenAI())`: its callers hold the client's own answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai

import carpool

from ... import workload
from . import kit


@asynccontextmanager
async def opened(work: kit.Work) -> AsyncIterator[kit.Call]:
    """Give what a caller awaits."""
    timing = carpool.Timing(linger=kit.LINGER, poll_min=kit.POLL, poll_max=5 * kit.POLL, lookup=2.0)
    client = openai.AsyncOpenAI(api_key="any", base_url=work.url)
    async with carpool.batched(client, timing=timing) as batched:

        async def call(number: int) -> str:
            answer = await batched.chat.completions.create(**workload.payload(number))
            return answer.choices[0].message.content or ""

        yield call


if __name__ == "__main__":
    kit.main(kit.each(opened))
