"""The door: settings in, answers out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args, overload

import anyio
import anyio.lowlevel
import msgspec

from .account import Key, find_account
from .collector import Collector
from .config import Timing
from .engine.engine import Engine
from .engine.lane import LaneStats
from .errors import CarpoolError, ConfigurationError, PoolClosed
from .journal import Journal
from .journal.sqlite import Sqlite
from .limits import Limits, Tier
from .models import Body, Request, Response
from .ports import RunSync
from .providers.openai import OpenAI
from .recover import recover
from .resume import Reuse
from .spool import Spool
from .tokens import Counter, Tiktoken
from .waiter import Waiter, current_runtime
from .wire import Transport, Wire

_BREATH = 500  # calls accepted by `gather` before others get the event loop: a few milliseconds


class Ports(NamedTuple):
    """Replace what touches the world: threads, sockets, and the journal's database."""

    run_sync: RunSync | None = None
    transport: Transport | None = None
    journal: Journal | None = None


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

    `journal` is a folder in which requests and answers outlive the process: started again with the same folder, the
    same program pays for nothing twice, and gets each request the answer that was paid for. `reuse` says which of those
    a call may be given: "always" any that no other call of this process was given, "undelivered" only what no caller
    ever received, "never" none. Delivered answers go after `retention` seconds, when the folder is opened.

    `tier` ("tier-1" to "tier-5", "build", "launch", "grow") looks the enqueued-token limits up in a dated table;
    `limits` gives them by model, family or "*" for all others, in tokens, and is never exceeded. With neither, a limit
    is learned from the provider's first refusal, which costs nothing. `counter` counts prompt tokens in tiktoken's
    stead: it is given endpoint, model and body (bytes of JSON), and called in a worker thread.

    Use it as an async context manager, or with `start` and `aclose`. Leaving it normally submits what waits and waits
    for every caller; leaving by an exception settles them with `PoolClosed` and, unless there is a journal, cancels the
    batches, best effort.
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
        journal: str | os.PathLike[str] | None = None,
        reuse: Reuse = "always",
        retention: float = 30 * 86_400.0,
        keep_remote_files: bool = False,
        _ports: Ports | None = None,
    ) -> None:
        self._account = find_account(api_key, base_url)
        self._limits = Limits(tier, limits)
        self._timing = timing or Timing()
        self._counter = _checked_counter(counter)
        self._folder = None if journal is None else Path(journal)
        self._reuse = _checked_reuse(reuse)
        self._retention = _checked_retention(retention)
        self._keep_remote_files = keep_remote_files
        self._ports = _ports or Ports()
        self._started = False
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
        if self._started:
            raise PoolClosed("A pool opens once. Make a new one.")
        self._started = True
        runtime = current_runtime()
        provider = OpenAI(keep_files=self._keep_remote_files)
        # Before the journal is open: this may fail.
        wire = Wire(
            self._account,
            lambda runs: spool.read(runs),
            transport=self._ports.transport,
            final=lambda reply: provider.refused(reply).kind not in ("busy", "lost"),
        )
        # Threads of its own: those of the default limiter may all be waiting for answers of this pool.
        run_sync = self._ports.run_sync or partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(4))
        journal = await self._open_journal(run_sync)
        pool = token_hex(6) if journal is None else journal.pool
        numbered = 0 if journal is None else journal.numbered
        spool = Spool(lambda lane: provider.frame(pool, lane.endpoint), run_sync, self._folder, numbered)
        engine = Engine(pool, self._timing, provider.limits, numbered)
        collector = Collector(
            pool,
            engine,
            provider,
            wire,
            spool,
            runtime,
            self._limits,
            self._counter,
            journal,
            reuse=self._reuse,
            adopt_every=self._timing.poll_max,
            keep_remote_files=self._keep_remote_files,
        )
        try:
            if journal is not None:
                await recover(collector, journal, provider, wire)
        except BaseException:
            await collector.clean_up()
            raise
        self._collector = collector
        started = anyio.Event()
        self._task = runtime.spawn(lambda: collector.run(started), collector.over)
        try:
            await started.wait()
        except BaseException:
            await collector.abandon()
            raise

    async def _open_journal(self, run_sync: RunSync) -> Journal | None:
        if self._folder is None or self._ports.journal is not None:
            return self._ports.journal
        return await Sqlite.open(self._folder, self._account.name, self._retention, run_sync)

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
            self._leave_all([(number, waiter)])
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
            self._open().take_back([outcome.custom_id for outcome in outcomes if isinstance(outcome, Response)])
            raise failed
        return outcomes

    async def flush(self) -> None:
        """Submit what waits without lingering; returns before it is submitted."""
        self._open().flush()

    def stats(self) -> Stats:
        """Count what was accepted, answered and failed, and what is under way in each lane."""
        collector = self._open()
        return Stats(
            collector.accepted,
            collector.callers.answered,
            collector.callers.failed,
            collector.batches,
            collector.lanes(),
        )

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
            return collector.accept(endpoint.endpoint, endpoint.body, endpoint.key)
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
        settled = [waiter for _, waiter in accepted if waiter.done() and not waiter.cancelled()]
        # Looked at in any case: asyncio would complain about an error that nobody saw.
        self._open().take_back([waiter.result().custom_id for waiter in settled if waiter.exception() is None])


async def _outcome(entry: tuple[int, Waiter] | CarpoolError) -> Response | CarpoolError:
    if isinstance(entry, CarpoolError):
        return entry
    try:
        return await entry[1]
    except CarpoolError as exc:
        return exc


def _checked_reuse(reuse: Any) -> Reuse:
    if reuse not in get_args(Reuse):
        raise ConfigurationError(f'reuse must be "always", "undelivered" or "never"; got {reuse!r}.')
    return reuse  # type: ignore[no-any-return]


def _checked_retention(retention: Any) -> float:
    if not isinstance(retention, int | float) or not retention >= 0:
        raise ConfigurationError(f"retention must be a number of seconds, 0 or more; got {retention!r}.")
    return retention


def _checked_counter(counter: Any) -> Counter:
    if counter is None:
        return Tiktoken()
    if not callable(counter) or any(map(iscoroutinefunction, (counter, type(counter).__call__))):
        raise ConfigurationError("counter must be a plain function (endpoint, model, body) that gives a number.")
    return counter  # type: ignore[no-any-return]  # what it gives is checked when it is called
