"""The door: settings in, answers out."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from secrets import token_hex
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import msgspec

from .collector import Collector
from .config import Timing
from .engine.engine import Engine
from .engine.lane import LaneStats
from .errors import CarpoolError, ConfigurationError, PoolClosed
from .models import Body, Request, Response
from .providers.openai import OpenAI
from .spool import RunSync, Spool
from .waiter import Waiter, current_runtime
from .wire import Key, Transport, Wire

_BASE_URL = "https://api.openai.com/v1"
_BREATH = 500  # calls accepted by `gather` before others get the event loop: a few milliseconds


class Ports(NamedTuple):
    """Replace what touches the world: threads and sockets."""

    run_sync: RunSync | None = None
    transport: Transport | None = None


class Stats(msgspec.Struct, frozen=True):
    """Count calls: all that were accepted, those that were answered or failed, and what is under way in each lane."""

    accepted: int
    answered: int
    failed: int
    batches: int
    lanes: tuple[LaneStats, ...]


class Pool:
    """Collect single calls into batches, and give each caller its own answer.

    `api_key` and `base_url` are taken from OPENAI_API_KEY and OPENAI_BASE_URL when None, as by the official SDK; the
    key may be a callable, also an async one. `keep_remote_files` leaves input, output and error files at the provider.

    Use it as an async context manager, or with `start` and `aclose`. Leaving it normally submits what waits and waits
    for every caller; leaving by an exception settles them with `PoolClosed` and cancels the batches, best effort.
    """

    def __init__(
        self,
        api_key: Key | None = None,
        base_url: str | None = None,
        *,
        timing: Timing | None = None,
        keep_remote_files: bool = False,
        _ports: Ports | None = None,
    ) -> None:
        self._key = _checked_key(api_key if api_key is not None else os.environ.get("OPENAI_API_KEY"))
        self._base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or _BASE_URL)
        self._timing = timing or Timing()
        self._keep_remote_files = keep_remote_files
        self._ports = _ports or Ports()
        self._collector: Collector | None = None
        self._task: object = None  # the event loop keeps only a weak reference to it

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.aclose()
        elif self._collector is not None:
            await self._collector.abandon()

    async def start(self) -> None:
        """Open the pool in the running event loop; `async with` does it by itself."""
        if self._collector is not None:
            raise PoolClosed("A pool opens once. Make a new one.")
        runtime = current_runtime()
        pool = token_hex(6)
        provider = OpenAI()
        # Threads of its own: those of the default limiter may all be waiting for answers of this pool.
        threads = partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(4))
        spool = Spool(lambda lane: provider.frame(pool, lane.endpoint), self._ports.run_sync or threads)
        wire = Wire(self._base_url, self._key, spool.read, headers=_account(), transport=self._ports.transport)
        engine = Engine(pool, self._timing, provider.limits)
        self._collector = Collector(
            pool, engine, provider, wire, spool, runtime, keep_remote_files=self._keep_remote_files
        )
        started = anyio.Event()
        collector = self._collector
        self._task = runtime.spawn(lambda: collector.run(started), collector.over)
        try:
            await started.wait()
        except BaseException:
            await collector.abandon()
            raise

    async def aclose(self) -> None:
        """Submit what waits, wait for every caller, and close; when cancelled, leave as by an exception."""
        collector = self._open()
        try:
            await collector.close()
        except BaseException:
            await collector.abandon()
            raise

    @overload
    async def request(self, endpoint: Request) -> Response: ...

    @overload
    async def request(self, endpoint: str, body: Body) -> Response: ...

    async def request(self, endpoint: str | Request, body: Body | None = None) -> Response:
        """Await the answer to one call, a `Request` or an endpoint and a body, which travels in a batch.

        Raises `Unbatchable` or `LimitExceeded` at once, `RequestFailed` when the answer is an error, `PoolClosed`
        outside the pool's life. A caller that is cancelled while its call waits takes it out of the queue; one whose
        call was submitted leaves it to run.
        """
        number, waiter = self._accept(endpoint, body)
        del endpoint, body  # the spool has it: the frame would keep it until the answer comes
        try:
            return await waiter
        except BaseException:
            self._open().leave((number,))
            raise

    @overload
    async def gather(
        self,
        requests: Iterable[Request | Body],
        *,
        endpoint: str | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[Response]: ...

    @overload
    async def gather(
        self, requests: Iterable[Request | Body], *, endpoint: str | None = None, return_exceptions: bool
    ) -> list[Response | CarpoolError]: ...

    async def gather(
        self, requests: Iterable[Request | Body], *, endpoint: str | None = None, return_exceptions: bool = False
    ) -> Sequence[Response | CarpoolError]:
        """Await the answers to many calls, in their order; bodies need an `endpoint`, a `Request` names its own.

        Raises the first error after all have settled, or gives errors in their places with `return_exceptions`.
        """
        entries: list[tuple[int, Waiter] | CarpoolError] = []
        try:
            for request in requests:
                entries.append(self._try_accept(request, endpoint))
                if len(entries) % _BREATH == 0:
                    await anyio.lowlevel.checkpoint()
            outcomes = [await _outcome(entry) for entry in entries]
        except BaseException:
            self._leave_all(entries)
            raise
        failed = next((outcome for outcome in outcomes if isinstance(outcome, CarpoolError)), None)
        if failed is not None and not return_exceptions:
            raise failed
        return outcomes

    async def flush(self) -> None:
        """Submit what waits without lingering; returns before it is submitted."""
        self._open().flush()

    def stats(self) -> Stats:
        """Count what was accepted, answered and failed, and what is under way in each lane."""
        collector = self._open()
        return Stats(collector.accepted, collector.answered, collector.failed, collector.batches, collector.lanes())

    def __repr__(self) -> str:
        if self._collector is None:
            return f"<Pool for {self._base_url}, not open>"
        return f"<Pool for {self._base_url}: {self._collector!r}>"

    def _open(self) -> Collector:
        if self._collector is None:
            raise PoolClosed("The pool is not open. Use `async with Pool(...) as pool:`.")
        return self._collector

    def _accept(self, endpoint: str | Request, body: Body | None) -> tuple[int, Waiter]:
        collector = self._collector or self._open()
        if isinstance(endpoint, Request):
            return collector.accept(endpoint.endpoint, endpoint.body)
        return collector.accept(endpoint, body)  # type: ignore[arg-type]  # None is refused with the other non-objects

    def _try_accept(self, request: Request | Body, endpoint: str | None) -> tuple[int, Waiter] | CarpoolError:
        try:
            if isinstance(request, Request):
                return self._accept(request, None)
            if endpoint is None:
                raise ConfigurationError("Bare bodies need endpoint=...; or pass Request objects.")
            return self._accept(endpoint, request)
        except CarpoolError as exc:
            return exc

    def _leave_all(self, entries: Iterable[tuple[int, Waiter] | CarpoolError]) -> None:
        accepted = [entry for entry in entries if not isinstance(entry, CarpoolError)]
        self._open().leave(number for number, _ in accepted)
        for _, waiter in accepted:
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # seen: asyncio would complain about an error that nobody looked at


async def _outcome(entry: tuple[int, Waiter] | CarpoolError) -> Response | CarpoolError:
    if isinstance(entry, CarpoolError):
        return entry
    try:
        return await entry[1]
    except CarpoolError as exc:
        return exc


def _checked_key(key: Any) -> Key:
    if callable(key):
        return key  # type: ignore[no-any-return]  # what it gives is checked when it is called
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("No API key. Pass api_key=... or set OPENAI_API_KEY.")
    return key.strip()


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is not None:
        raise ConfigurationError("base_url must hold no user name or password: they would show in logs.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("base_url must be an http or https address such as https://api.openai.com/v1.")
    return url.rstrip("/")


def _account() -> dict[str, str]:
    """Name organisation and project as the official SDK does."""
    named = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    return {header: os.environ[name] for header, name in named.items() if os.environ.get(name)}
