"""batchling's `batchify` under aiohttp: it costs callers less than httpx, and no official client sends through it."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ... import workload
from . import kit
from .batchling import batched

aiohttp: Any = importlib.import_module("aiohttp")  # it is in its own environment alone


@asynccontextmanager
async def opened(work: kit.Work) -> AsyncIterator[kit.Call]:
    """Give what a caller awaits."""
    headers = {"Authorization": "Bearer any"}  # with each call: those of a session are not seen
    async with aiohttp.ClientSession() as client, batched(work):

        async def call(number: int) -> str:
            url = f"{work.url}/chat/completions"
            reply = await client.post(url, json=workload.payload(number), headers=headers)
            reply.raise_for_status()
            text: str = (await reply.json())["choices"][0]["message"]["content"]
            return text

        yield call


if __name__ == "__main__":
    kit.main(kit.each(opened))
