"""batchling's `batchify` under httpx: it catches what a client sends to a provider that it knows by its host name."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from ... import workload
from . import kit

batchling: Any = importlib.import_module("batchling")  # it is in its own environment alone
providers: Any = importlib.import_module("batchling.providers")
httpx: Any = importlib.import_module("httpx")


def patch(url: str) -> None:
    """Let it reach another address, and read a status on Python 3.11.

    It sends to https and the bare host name, so that no base URL can be given; and `"completed" in` an enumeration of
    strings, by which it sees the end of a batch, raises TypeError before Python 3.12 (it declares 3.11).
    """
    address = urlsplit(url)
    (provider,) = (known for known in providers.PROVIDERS if known.name == "openai")
    kind = type(provider)
    kind.hostname = address.hostname
    kind._normalize_base_url = lambda self, *, url: f"http://{address.netloc}"  # noqa: SLF001 - no public door
    kind.batch_terminal_states = frozenset(map(str, kind.batch_terminal_states))
    providers._HOSTNAME_INDEX[address.hostname] = [provider]  # noqa: SLF001 - else it asks all its providers in turn


def batched(work: kit.Work) -> Any:
    """Give the context in which calls are caught."""
    patch(work.url)
    return batchling.batchify(
        batch_size=work.rows,  # 50 by default; it sends every batch at once, whatever the limit
        batch_window_seconds=kit.LINGER,
        batch_poll_interval_seconds=kit.POLL,
        cache=False,  # else a look into SQLite for each call, in a file that outlives the run
        live_display=False,
    )


@asynccontextmanager
async def opened(work: kit.Work) -> AsyncIterator[kit.Call]:
    """Give what a caller awaits."""
    # Plain httpx, under the official client of old; today's sends through httpx2, which it does not catch.
    async with httpx.AsyncClient(headers={"Authorization": "Bearer any"}) as client, batched(work):

        async def call(number: int) -> str:
            reply = await client.post(f"{work.url}/chat/completions", json=workload.payload(number))
            reply.raise_for_status()
            text: str = reply.json()["choices"][0]["message"]["content"]
            return text

        yield call


if __name__ == "__main__":
    kit.main(kit.each(opened))
