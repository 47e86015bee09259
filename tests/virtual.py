"""A whole pool in one thread on virtual time: the emulator's application behind an in-memory transport."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio.lowlevel
import httpx2

import carpool
from carpool.pool import Ports
from carpool.testing import Emulator

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jump to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._jumped = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        return self._jumped

    def _jump(self, seconds: float) -> None:
        self._jumped += seconds


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
        async with carpool.Pool("sk-key", "http://emulator/v1", _ports=ports, **(pool or {})) as opened:
            yield World(opened, served, transport)
