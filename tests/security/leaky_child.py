"""Run into failures of many kinds with the key in OPENAI_API_KEY, say all that can be said of it, and die."""

import asyncio
import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import openai

import carpool
from carpool.account import find_account
from carpool.testing import Emulator, Faults, Troubles

CHAT = "/v1/chat/completions"
TIMING = carpool.Timing(linger=0.01, max_linger=0.05, poll_min=0.01, poll_max=0.05, lookup=0.3, abandon=0.2)
FAULTS = Faults(server_error=0.05, lost_reply=0.05, reset=0.05, truncated=0.05, cut=0.05)
TROUBLES = Troubles(failing={400: 0.2, 401: 0.1, 500: 0.2}, missing=0.1, foreign=0.2, torn=0.1, expiring=0.2)


def show(thing: object, *, locals_: bool = True) -> None:
    """Print all that a thing says of itself, and an exception with what its frames hold."""
    print(f"{thing} {thing!r}")
    if isinstance(thing, BaseException):
        told = traceback.TracebackException.from_exception(thing, capture_locals=locals_)
        print("".join(told.format()))


def body(text: str) -> dict[str, Any]:
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]}


async def attempt(ask: Callable[[], Awaitable[object]]) -> str:
    """Show what comes of a call; gives its kind."""
    try:
        came = await ask()
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is to be seen
        show(exc)
        return type(exc).__name__
    show(came)
    return type(came).__name__


async def calls(pool: carpool.Pool, count: int) -> set[str]:
    """Make calls of a pool."""
    asked = (attempt(lambda n=n: pool.request(CHAT, body(f"text {n}"))) for n in range(count))  # type: ignore[misc]
    return set(await asyncio.gather(*asked))


async def storm(folder: Path) -> set[str]:
    """Meet a provider with all faults, with a journal, and leave in a hurry; then open the journal again."""
    seen: set[str] = set()
    with Emulator(api_key=os.environ["OPENAI_API_KEY"], faults=FAULTS, troubles=TROUBLES, seed=3) as emulator:
        settings: dict[str, Any] = {
            "base_url": emulator.url,
            "journal": folder,
            "timing": TIMING,
            "on_event": show,
            "retry": carpool.Retry(max_attempts=1, max_expiries=1),
        }
        async with carpool.Pool(**settings) as pool:
            show(pool)
            seen |= await calls(pool, 16)
            show(pool.stats())
            await attempt(lambda: pool.submit(carpool.Request(CHAT, body("later")), key="later"))
            await attempt(lambda: pool.drain(0.01))
        async with carpool.Pool(**settings, reuse="never") as pool:
            client = pool.wrap(openai.AsyncOpenAI(base_url=emulator.url, max_retries=0))
            seen.add(await attempt(lambda: client.chat.completions.create(**body("sdk"))))
            seen.add(await attempt(lambda: client.models.retrieve("nothing")))
            async with pool.http_client() as http:
                seen.add(await attempt(lambda: http.get("http://localhost:1/v1/models")))  # where nobody listens
    return seen


async def refusals() -> set[str]:
    """Meet a provider that refuses the key, and callables that cannot give it."""
    key, seen = os.environ["OPENAI_API_KEY"], set[str]()

    def quoting(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(401, text=f"Incorrect API key provided: {request.headers['authorization']}.")

    with Emulator(api_key="another") as emulator:
        async with carpool.Pool(base_url=emulator.url, timing=TIMING, on_event=show, progress=False) as pool:
            seen |= await calls(pool, 2)
        for wrong in (f"{key} {key}", f"{key}\u2028", f'"{key}"'):
            os.environ["OPENAI_API_KEY"] = wrong
            seen.add(await attempt(lambda: _one(emulator.url)))
        os.environ["OPENAI_API_KEY"] = key
        del key, wrong
    from carpool.settings import Ports

    ports = Ports(transport=httpx2.MockTransport(quoting))
    async with carpool.Pool(base_url="http://h/v1", timing=TIMING, on_event=show, progress=False, _ports=ports) as pool:
        seen |= await calls(pool, 1)
    for url in ("http://user:pw@h/v1", "odd"):
        try:
            carpool.Pool(base_url=url)
        except carpool.ConfigurationError as exc:
            show(exc, locals_=False)
            seen.add(type(exc).__name__)
    return seen


async def _one(url: str) -> object:
    async with carpool.Pool(base_url=url, timing=TIMING, progress=False) as pool:
        return await pool.request(CHAT, body("hi"))


def main(folder: Path) -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s %(message)s %(args)s")
    faulthandler.enable()
    show(find_account(None, None))
    with mock.patch("random.uniform", return_value=0.01):  # the wire's pauses
        seen = asyncio.run(storm(folder)) | asyncio.run(refusals(), debug=True)
    print("seen:", *sorted(seen), flush=True)
    faulthandler.dump_traceback(all_threads=True)
    os.abort()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
