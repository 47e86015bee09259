"""The door: settings in, answers out."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from secrets import token_hex
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload

import anyio
import anyio.lowlevel
import msgspec

from .account import Key, find_account
from .collector import Collector
from .config import Timing
from .engine.engine import Engine
from .engine.lane import LaneStats
from .errors import CarpoolError, ConfigurationError, PoolClosed
from .limits import Limits, Tier
from .models import Body, Request, Response
from .providers.openai import OpenAI
from .spool import RunSync, Spool
from .tokens import Counter, Tiktoken
from .waiter import Waiter, current_runtime
from .wire import Transport, Wire

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

    `tier` ("tier-1" to "tier-5", "build", "launch", "grow") looks the enqueued-token limits up in a dated table;
    `limits` gives them by model, family or "*" for all others, in tokens, and is never exceeded. With neither, a limit
    is learned from the provider's first refusal, which costs nothing. `counter` counts prompt tokens in tiktoken's
    stead: it is given endpoint, model and body (bytes of JSON), and called in a worker thread.

    Use it as an async context manager, or with `start` and `aclose`. Leaving it normally submits what waits and waits
    for every caller; leaving by an exception settles them with `PoolClosed` and cancels the batches, best effort.
    """

    def __init__(
        self,
        api_key: Key | None = None,
        base_url: str | None = None,
        *,
        tier: Tier | None = None,
        limits: Mapping[str, int] | None = None,
        timing: Timing | None = None,
        counter: Counter | None = None,
        keep_remote_files: bool = False,
        _ports: Ports | None = None,
    ) -> None:
        self._account = find_account(api_key, base_url)
        self._limits = Limits(tier, limits)
        self._timing = timing or Timing()
        self._counter = _checked_counter(counter)
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
        wire = Wire(
            self._account,
            spool.read,
            transport=self._ports.transport,
            final=lambda reply: provider.refused(reply).kind not in ("busy", "lost"),
        )
        engine = Engine(pool, self._timing, provider.limits)
        self._collector = Collector(
            pool,
            engine,
            provider,
            wire,
            spool,
            runtime,
            self._limits,
            self._counter,
            keep_remote_files=self._keep_remote_files,
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
            return f"<Pool for {self._account.base_url}, not open>"
        return f"<Pool for {self._account.base_url}: {self._collector!r}>"

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


def _checked_counter(counter: Any) -> Counter:
    if counter is None:
        return Tiktoken()
    if not callable(counter) or any(map(iscoroutinefunction, (counter, type(counter).__call__))):
        raise ConfigurationError("counter must be a plain function (endpoint, model, body) that gives a number.")
    return counter  # type: ignore[no-any-return]  # what it gives is checked when it is called
