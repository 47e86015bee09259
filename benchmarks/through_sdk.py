"""The same work through the official SDK: its client batched, or (`alone`) on a transport that answers from memory.

    python -m benchmarks.through_sdk N URL [alone] [journal]

Alone, nothing is answered before all calls wait, as beside a pool: so many tasks are alive in both.
"""

import asyncio
import re
import tempfile

import httpx2
from openai import AsyncOpenAI

import carpool

from . import workload
from .floor import POLL
from .workload import DEFAULT, Options

_NUMBER = re.compile(rb'"content": ?"(\d+) ')


class Memory(httpx2.AsyncBaseTransport):
    """Answer from memory, once so many requests wait."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._complete = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer as the emulator does."""
        found = _NUMBER.search(await request.aread())
        assert found is not None
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()
        body = {"messages": [{"content": f"{found[1].decode()} "}]}
        content = workload.answer(workload.ENDPOINT, body)
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=content)


async def asked(client: AsyncOpenAI, count: int) -> list[bytes]:
    """Make so many calls; the answers that are looked at as JSON, the others are left out of account."""

    async def call(number: int) -> bytes:
        completion = await client.chat.completions.create(**workload.payload(number))
        return completion.to_json().encode() if number % 97 == 0 else b""

    return await asyncio.gather(*(call(number) for number in range(count)))


async def through_sdk(count: int, url: str, options: Options = DEFAULT) -> list[bytes]:
    """Answer so many calls."""
    if options.alone:
        async with httpx2.AsyncClient(transport=Memory(count)) as http:
            return await asked(AsyncOpenAI(api_key="any", base_url=url, http_client=http), count)
    timing = carpool.Timing(linger=0.2, poll_min=POLL)
    with tempfile.TemporaryDirectory() as folder:
        journal = f"{folder}/journal" if options.journal else None
        batched = carpool.batched(AsyncOpenAI(api_key="any", base_url=url), journal=journal, timing=timing)
        async with batched as client:
            return await asked(client, count)


if __name__ == "__main__":
    workload.main(through_sdk)
