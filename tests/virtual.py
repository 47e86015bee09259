"""A whole pool in one thread on virtual time: the emulator's application behind an in-memory transport."""

import asyncio
import math
import random
import selectors
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import anyio.lowlevel
import httpx2

import carpool
from carpool.settings import Ports
from carpool.testing import Emulator

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


_NAMING = ("carpool.journal.sqlite.store", "carpool.session", "carpool.wire.forms")


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Draw from a seed what is named at random, and in which order trio runs what is ready.

    Nor does the emulator give way by the machine's clock.
    """
    from trio._core import _run as scheduler  # as trio's own plugin for hypothesis does: there is no public way

    names = random.Random(f"tokens/{seed}")
    with ExitStack() as stack:
        enter = stack.enter_context
        for place in _NAMING:
            enter(mock.patch(f"{place}.token_hex", lambda size: names.randbytes(size).hex()))
        enter(mock.patch("carpool.testing.reading.SLICE", math.inf))
        enter(mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True))
        enter(mock.patch.object(scheduler, "_r", random.Random(f"order/{seed}")))
        yield


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jump to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._jumped = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        return self._jumped

    def _jump(self, seconds: float) -> None:
        self._jumped += seconds

    if sys.version_info >= (3, 12):

        async def shutdown_default_executor(self, timeout: float | None = None) -> None:
            """Wait for threads as long as it takes: they take real time, and a timeout would be over at once."""
            await super().shutdown_default_executor(None)


class _Jumping(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(timeout and 0)
        if not ready and timeout:
            self._jump(timeout)
        return ready


class InMemory(httpx2.AsyncBaseTransport):
    """Answer from an ASGI application; `before` may look at each request and raise instead."""

    def __init__(self, app: Any, before: Callable[[httpx2.Request], None] | None = None) -> None:
        self._inner = httpx2.ASGITransport(app=app)
        self._before = before
        self.requests: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append((request.method, request.url.path))
        if self._before is not None:
            self._before(request)
        try:
            return await self._inner.handle_async_request(request)
        except ConnectionResetError as exc:
            raise httpx2.ReadError("connection reset") from exc


async def run_here(func: Callable[..., Any], /, *args: object) -> Any:
    """Run a blocking function in the event loop: a thread would not know of virtual time."""
    await anyio.lowlevel.checkpoint()
    return func(*args)


def body(text: str = "hi", **more: Any) -> dict[str, Any]:
    """Make a chat body."""
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}], **more}


class World:
    """Hold a pool and the emulator it talks to."""

    def __init__(self, pool: carpool.Pool, emulator: Emulator, transport: InMemory) -> None:
        self.pool = pool
        self.ports = Ports(run_sync=run_here, transport=transport)
        self.emulator = emulator
        self.transport = transport
        self.settled: dict[str, carpool.Response | BaseException] = {}

    async def ask(self, text: str) -> None:
        """Await one chat call and keep what comes of it under its text."""
        try:
            self.settled[text] = await self.pool.request(CHAT, body(text))
        except carpool.CarpoolError as exc:
            self.settled[text] = exc

    async def ask_all(self, texts: list[str]) -> None:
        """Await one call for each text, each from a task of its own."""
        async with anyio.create_task_group() as tasks:
            for text in texts:
                tasks.start_soon(self.ask, text)

    def answers(self) -> dict[str, str]:
        """Give the texts answered."""
        return {text: got.text for text, got in self.settled.items() if isinstance(got, carpool.Response)}

    def errors(self) -> dict[str, BaseException]:
        """Give the errors."""
        return {text: got for text, got in self.settled.items() if isinstance(got, BaseException)}


@asynccontextmanager
async def world(
    *, pool: dict[str, Any] | None = None, before: Callable[[httpx2.Request], None] | None = None, **emulator: Any
) -> AsyncIterator[World]:
    """Open an emulator and a pool on it."""
    async with Emulator(**emulator).inline() as served:
        transport = InMemory(served.app, before)
        ports = Ports(run_sync=run_here, transport=transport)
        # Without progress: its timer would let trio's clock jump while a client waits for a thread.
        settings = {"progress": False, **(pool or {})}
        async with carpool.Pool("sk-key", "http://emulator/v1", _ports=ports, **settings) as opened:
            yield World(opened, served, transport)


class Samples:
    """Answer equal prompts differently: each answer says how often its prompt was run before."""

    def __init__(self) -> None:
        self._runs = Counter[str]()

    def __call__(self, endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        text = given["messages"][0]["content"]
        self._runs[text] += 1
        return {"choices": [{"message": {"content": f"{text} #{self._runs[text]}"}}]}


class Interrupted(Exception):
    """Leave a pool by an exception."""


class Site:
    """Hold an emulator and a journal's folder, for pools that are opened one after another, or at once."""

    def __init__(self, emulator: Emulator, transport: InMemory, folder: Path) -> None:
        self.emulator = emulator
        self.transport = transport
        self.folder = folder

    def pool(self, key: str = "sk-key", url: str = "http://emulator/v1", **settings: Any) -> carpool.Pool:
        """Make a pool on the folder; `run_sync` replaces the port."""
        ports = Ports(run_sync=settings.pop("run_sync", run_here), transport=self.transport)
        return carpool.Pool(key, url, journal=self.folder, _ports=ports, **{"progress": False, **settings})

    @asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[World]:
        """Open a pool."""
        async with self.pool(**settings) as opened:
            yield World(opened, self.emulator, self.transport)

    @asynccontextmanager
    async def interrupted(self, **settings: Any) -> AsyncIterator[World]:
        """Open a pool, and leave it by an exception at the end of the block."""
        with suppress(Interrupted):
            async with self.open(**settings) as opened:
                yield opened
                raise Interrupted

    def files(self, pattern: str = "*") -> set[str]:
        """Name the files in the folder."""
        return {path.name for path in self.folder.glob(pattern)}

    def holds(self, content: bytes) -> bool:
        """Tell whether any file in the folder holds these bytes."""
        return any(content in path.read_bytes() for path in self.folder.iterdir())


@asynccontextmanager
async def site(
    folder: Path, *, before: Callable[[httpx2.Request], None] | None = None, **emulator: Any
) -> AsyncIterator[Site]:
    """Open an emulator, for pools on a folder; the wall's clock follows the virtual one from pool to pool."""
    with mock.patch("time.time", _virtual_time):
        async with Emulator(**emulator).inline() as served:
            yield Site(served, InMemory(served.app, before), folder / "journal")


_START = time.time()


def _virtual_time() -> float:
    try:
        return _START + anyio.current_time()
    except RuntimeError:  # no event loop here
        return _START
