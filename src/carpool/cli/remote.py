"""The provider, asked over HTTP."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

import anyio

from ..account import Account, find_account
from ..errors import ConfigurationError
from ..models import Call, CallFailed, Failure, Flow, Reply, Run
from ..perform import drive
from ..providers.openai import OpenAI, Recent
from ..wire import Receive, Wire
from .ending import ended

T = TypeVar("T")

PAGES = 50  # of 100 batches: a minute of reading; an account may create 48,000 batches a day (contracts A3)
THOROUGH = 300  # and where none may be overlooked
LIFE = 8 * 86_400.0  # seconds: the longest window of those who speak this API is a week (contracts D0)
_REPEATS = 3  # of a call that finds no answer: somebody sits and waits
_PATIENCE = 60.0  # seconds for one page, whatever pause the server asks for


def key() -> str | None:
    """Give the key, which comes from OPENAI_API_KEY alone: a command line is seen by everybody on the machine."""
    return os.environ.get("OPENAI_API_KEY", "").strip() or None


def needed_key() -> str:
    """Give the key; without one the command ends."""
    given = key()
    if given is None:
        raise ended(2, "OPENAI_API_KEY is not set.")
    return given


def recent(base_url: str | None, key: str, since: float, pages: int) -> tuple[str, Recent]:
    """Give the server's name and the batches created since `since`; otherwise end the command."""
    return ask(base_url, key, OpenAI().recent(since, pages))


def ask(base_url: str | None, key: str, flow: Flow[T]) -> tuple[str, T]:
    """Give the server's name and what comes of a flow; otherwise end the command."""
    return meet(base_url, key, lambda server: server.ask(flow))


def meet(base_url: str | None, key: str, talk: "Callable[[Server], Awaitable[T]]") -> tuple[str, T]:
    """Give the server's name and what comes of a talk with it; otherwise end the command."""
    try:
        server = Server(find_account(key, base_url))
    except ConfigurationError as exc:
        raise ended(2, str(exc)) from None
    try:
        return server.name, anyio.run(_meet, server, talk)
    except CallFailed as exc:
        raise ended(1, sentence(server.name, exc.failure)) from None


async def _meet(server: "Server", talk: "Callable[[Server], Awaitable[T]]") -> T:
    try:
        return await talk(server)
    finally:
        await server.aclose()


class Server:
    """Ask one provider, each call a few times, and for so many seconds in all.

    Its clock is ahead of ours by `skew` seconds, None while it has not told the time. Raises `ConfigurationError` where
    the environment says something that no connection can be made with.
    """

    def __init__(self, account: Account, *, repeats: int | None = None, patience: float | None = None) -> None:
        self.name: str = urlsplit(account.base_url).netloc
        self.skew: float | None = None
        self._repeats = _REPEATS if repeats is None else repeats
        self._patience = _PATIENCE if patience is None else patience
        self._left: dict[int, int] = {}  # repeats of the calls under way
        self._wire = Wire(account, _nothing, final=self._is_final, hear=self._hear)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._wire.aclose()

    async def ask(self, flow: Flow[T]) -> T:
        """Run a flow to its result; `CallFailed` when it fails."""
        return await drive(flow, self.send)

    async def send(self, call: Call) -> Reply:
        """Exchange a call for its reply."""
        with anyio.move_on_after(self._patience):
            return await self.fetch(call)
        return Reply(0, f"no answer within {self._patience:g} seconds".encode())

    async def fetch(self, call: Call, receive: Receive | None = None) -> Reply:
        """Exchange a call for its reply, of which the body goes to `receive`, however long it takes to come."""
        self._left[id(call)] = self._repeats
        try:
            return await self._wire.send(call, receive)
        finally:
            del self._left[id(call)]

    def _is_final(self, call: Call, reply: Reply) -> bool:
        """Take one of a call's repeats, or tell that there are no more, or that another is of no use."""
        self._left[id(call)] -= 1
        return self._left[id(call)] < 0 or OpenAI().is_final(call, reply)

    def _hear(self, headers: Mapping[str, str]) -> None:
        try:
            self.skew = parsedate_to_datetime(headers["date"]).timestamp() - time.time()
        except (KeyError, ValueError, OverflowError):
            return


def _nothing(_runs: tuple[Run, ...]) -> AsyncIterator[bytes]:
    raise AssertionError("nothing is uploaded here")


def sentence(server: str, failure: Failure) -> str:
    """Say why a server did not do what it was asked to."""
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
