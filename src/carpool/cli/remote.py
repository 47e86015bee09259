"""The provider, asked over HTTP."""

import os
from collections.abc import AsyncIterator
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import anyio

from ..account import find_account
from ..errors import ConfigurationError
from ..models import Call, CallFailed, Failure, Flow, Reply, Run
from ..perform import drive
from ..providers.openai import OpenAI, Recent
from ..wire import Wire
from .ending import ended

T = TypeVar("T")

_PAGES = 50  # of 100 batches: a minute of reading; an account may create 48,000 batches a day (contracts A3)
_REPEATS = 3  # of a call that finds no answer: somebody sits and waits
_PATIENCE = 60.0  # seconds for one page, whatever pause the server asks for


def key() -> str | None:
    """Give the key, which comes from OPENAI_API_KEY alone: a command line is seen by everybody on the machine."""
    return os.environ.get("OPENAI_API_KEY", "").strip() or None


def recent(base_url: str | None, key: str, since: float) -> tuple[str, Recent]:
    """Give the server's name and the batches created since `since`; otherwise end the command."""
    return ask(base_url, key, OpenAI().recent(since, _PAGES))


def ask(base_url: str | None, key: str, flow: Flow[T]) -> tuple[str, T]:
    """Give the server's name and what comes of a flow; otherwise end the command."""
    try:
        account = find_account(key, base_url)
        server = urlsplit(account.base_url).netloc
        repeats = _Repeats()
        wire = Wire(account, _nothing, final=repeats.spent)
    except ConfigurationError as exc:
        raise ended(2, str(exc)) from None
    try:
        return server, anyio.run(_drive, wire, repeats, flow)
    except CallFailed as exc:
        raise ended(1, _sentence(server, exc.failure)) from None


class _Repeats:
    """Bound the repeats of each call."""

    def __init__(self) -> None:
        self.left = 0

    def spent(self, call: Call, reply: Reply) -> bool:
        """Take one, or tell that there are no more, or that another is of no use."""
        self.left -= 1
        return self.left < 0 or OpenAI().is_final(call, reply)


async def _drive(wire: Wire, repeats: _Repeats, flow: Flow[T]) -> T:
    try:
        return await drive(flow, partial(_send, wire, repeats))
    finally:
        await wire.aclose()


async def _send(wire: Wire, repeats: _Repeats, call: Call) -> Reply:
    repeats.left = _REPEATS
    with anyio.move_on_after(_PATIENCE):
        return await wire.send(call)
    return Reply(0, f"no answer within {_PATIENCE:g} seconds".encode())


def _nothing(_runs: tuple[Run, ...]) -> AsyncIterator[bytes]:
    raise AssertionError("nothing is uploaded here")


def _sentence(server: str, failure: Failure) -> str:
    message = failure.message[:300]
    if failure.kind == "auth" and failure.status_code is None:
        return message  # the key was not even sent
    if failure.status_code == 401:
        return f"{server} refuses the key. Check OPENAI_API_KEY."  # what it says quotes parts of the key
    if failure.kind == "auth":
        return f"{server} does not let this key do that: {message}"
    if failure.status_code is None:
        return f"cannot reach {server}: {message}"
    return f"{server} refuses (HTTP {failure.status_code}): {message}"
