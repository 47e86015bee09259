"""What a pool is made of while it is open, in the event loop it runs in."""

import logging
import math
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Self
from weakref import WeakSet

import anyio

from . import limits, prices, progress
from .account import Account
from .admission import Place
from .bridge import Bridge
from .bulk import Errands, Reader, Shelf, Stream
from .collector import Collector
from .durable import Entry as Submission
from .durable import Submissions, Taker, copies
from .engine.engine import Engine
from .engine.events import Shared, Woken
from .errors import ConfigurationError, PoolClosed, PoolFull
from .journal import Journal
from .journal.sqlite import Sqlite
from .ports import RunSync
from .providers.openai import OpenAI
from .recover import recover
from .running import LEFT, Running
from .settings import Settings
from .spool import Spool
from .stats import Stats, count
from .streams import StreamPort
from .waiter import Runtime, current_runtime
from .wire import Read, Wire

log: logging.Logger = logging.getLogger("carpool.session")

_REPORT = 0.5  # seconds between looks at how things stand


class Session:
    """Run a collector until it is closed; `bridge` is for those who call from elsewhere.

    `account` is whose batches these are: in the mode "emulate" the emulator's, which lives as long as the session.
    """

    def __init__(
        self,
        collector: Collector,
        running: Running,
        settings: Settings,
        run_sync: RunSync,
        runtime: Runtime,
        account: Account,
        stack: AsyncExitStack,
    ) -> None:
        self.collector = collector
        self._running = running
        self.runtime = runtime
        self.account = account
        self._settings = settings
        self._run_sync = run_sync
        self._reporter = progress.start(settings.progress, journal=_folder(settings) is not None)
        self.bridge: Bridge = Bridge(collector.intake, collector.admission, runtime.post, collector.now)
        running.let_go = self.bridge.let_go
        self.errands: Errands = Errands(runtime.post)
        self._streams: WeakSet[Stream] = WeakSet()
        self._stack = stack
        self._task: object = None  # the event loop keeps only a weak reference to it
        self._closing: list[anyio.CancelScope] = []
        self._ended = False

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Open it in the running event loop."""
        async with AsyncExitStack() as stack:
            account = settings.account
            if settings.mode == "emulate":
                account = await _emulate(stack)
            elif settings.mode == "live":
                log.warning("the mode is live: each call is sent at once, at full price, and kept in no journal")
            runtime = current_runtime()
            # Threads of its own: those of the default limiter may all be waiting for answers of this pool.
            run_sync = settings.ports.run_sync or partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(4))
            collector, running = await _collector(settings, account, runtime, run_sync)
            session = cls(collector, running, settings, run_sync, runtime, account, stack.pop_all())
            await session._start()
        return session

    def stream(self, reader: Reader, *, ordered: bool) -> Stream:
        """Begin a stream, whose outcomes come in the order of its requests, or as they come."""
        self.collector.callers.admit()
        shelf = Shelf(self._run_sync, _folder(self._settings))
        port = StreamPort(self.collector, self._settings.max_spool, reader.context)
        stream = Stream(port, shelf, reader, self._settings.max_pending, ordered=ordered)
        self._streams.add(stream)
        return stream

    async def _start(self) -> None:
        started = anyio.Event()
        self._task = self.runtime.spawn(lambda: self._running.run(started), self._over)
        try:
            await started.wait()
        except BaseException:
            await self.abandon()
            raise
        self._running.watch(self.bridge.run)
        self._running.watch(self.errands.run)
        if self._reporter.pause < math.inf:
            self._running.watch(self._report)
        if self.collector.observer is not None:
            self.collector.observer.opened(self.account.base_url)
        if self.collector.wakes is not None:
            self._running.watch(self.collector.wakes.run)

    @property
    def submissions(self) -> Submissions:
        """Give what follows submissions; `ConfigurationError` where there is no journal."""
        if self.collector.submissions is None:
            raise ConfigurationError(
                "What is submitted is kept in a journal: Pool(journal=FOLDER), and not in the modes live and emulate."
            )
        return self.collector.submissions

    def taker(self) -> Taker:
        """Give somebody a share of the outcomes of what was submitted."""
        return Taker(self.submissions, self.collector.kept, self.errands.catch_up, self.errands.put)

    def submit(self, entry: Submission) -> None:
        """Take a submission in, when the disk has room for it; whoever waits is told `PoolFull` where nobody may."""
        try:
            if self.collector.admission.overloaded:
                place = Place(lambda: self._submit_in_turn(entry, place), lambda error: entry.refuse(copies(error)))
                self.collector.admission.enter(place)
            else:
                self.submissions.begin(entry)
        except PoolFull as exc:
            entry.refuse(copies(exc))

    def _submit_in_turn(self, entry: Submission, place: Place) -> None:
        self.submissions.begin(entry)
        self.collector.admission.joined(place)

    def stats(self) -> Stats:
        """Count, also what has come just now."""
        self.collector.take_in()
        return count(self.collector)

    def listen(self) -> None:
        """Take note that word of batches may come, perhaps to other processes of the journal; from any thread."""
        if self.collector.wakes is not None:
            with suppress(RuntimeError):  # the event loop is over
                self.errands.put(self.collector.wakes.begin)

    def wake(self, batch_id: str) -> None:
        """Take note that the provider says that a batch has ended; from any thread."""
        try:
            self.errands.put(lambda: self.collector.feed(Woken((batch_id,))))
        except RuntimeError:
            raise PoolClosed("The pool is closed.") from None

    async def _report(self) -> None:
        """Say how things stand; the more rarely the longer it takes, where nobody watches."""
        pause = _REPORT
        try:
            while True:
                self._reporter.update(count(self.collector), time.time())
                await anyio.sleep(pause)
                pause = max(_REPORT, min(2 * pause, self._reporter.pause))
        finally:  # also where the event loop ends before the pool is left
            self._reporter.close(count(self.collector), time.time())

    def _over(self) -> None:
        self._running.over()
        closed = self._running.why_over
        self.bridge.close(closed)
        for stream in list(self._streams):
            stream.outlive(closed)
        if self.collector.submissions is not None:
            self.collector.submissions.close(closed)
        self.errands.close()
        if self.collector.observer is not None:
            self.collector.observer.closed()

    async def close(self) -> None:
        """Submit what waits, settle every caller, and close; when cancelled, leave as by an exception."""
        if self._ended:
            return
        try:
            with anyio.CancelScope() as scope:
                self._closing.append(scope)
                self.errands.catch_up()  # what was left is not sent any more
                await self._running.close()
        except BaseException:
            await self.abandon()
            raise
        if not scope.cancel_called:
            await self._end()

    async def drain(self, timeout: float | None, *, submit: bool) -> None:
        """Close within `timeout` seconds, and leave what is not settled by then; when cancelled, as by an exception.

        Unless `submit`, what waits is left at once.
        """
        if self._ended:
            return
        why: str | None = None
        try:
            with anyio.CancelScope() as scope:
                self._closing.append(scope)
                self.errands.catch_up()
                why = await self._running.drain(timeout, submit=submit)
        except BaseException:
            await self.abandon()
            raise
        if scope.cancel_called:
            await self._running.ended()
        elif why is None:
            await self._end()
        else:
            await self.abandon(why, drop=_folder(self._settings) is not None)

    async def abandon(self, why: str = LEFT, *, drop: bool = True) -> None:
        """Settle every caller with `PoolClosed`, and close; whoever was closing it does not wait any longer.

        Unless `drop`, outcomes that came can still be taken from their streams.
        """
        if self._ended:
            return
        for scope in self._closing:
            scope.cancel()
        self.errands.catch_up()
        for stream in list(self._streams) if drop else ():
            stream.abandon(PoolClosed(why))
        try:
            await self._running.abandon(why)
        finally:
            await self._end()

    async def _end(self) -> None:
        self._ended = True
        self._over()
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()


async def _emulate(stack: AsyncExitStack) -> Account:
    try:
        from .testing import Emulator
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f'The mode "emulate" needs {exc.name}, which is not installed: install carpool with its extra emulator.'
        ) from None
    emulator = await stack.enter_async_context(Emulator())
    log.warning("the mode is emulate: answers are made up at %s, and kept in no journal", emulator.url)
    return Account(emulator.url, "emulated", {})


async def _collector(
    settings: Settings, account: Account, runtime: Runtime, run_sync: RunSync
) -> tuple[Collector, Running]:
    provider = OpenAI(keep_files=settings.keep_remote_files)
    spool: Spool
    # Before the journal is open: this may fail.
    wire: Wire = await run_sync(_wire, settings, account, provider, lambda runs: spool.read(runs))
    journal = await _open_journal(settings, run_sync)
    pool = token_hex(6) if journal is None else journal.pool
    numbered = 0 if journal is None else journal.numbered
    spool = Spool(lambda lane: provider.frame(pool, lane.endpoint), run_sync, _folder(settings), numbered)
    engine = Engine(
        pool,
        settings.timing,
        provider.limits,
        numbered,
        retry=settings.retry,
        canary=settings.canary,
        keeps=journal is not None,
    )
    collector = Collector(pool, engine, provider, wire, spool, runtime, journal, settings)
    running = Running(collector, provider, wire, spool, journal, settings.timing.poll_max)
    try:
        if settings.limits.share < 1:
            collector.feed(Shared(settings.limits.share))
        if journal is not None:
            await recover(collector, journal, provider, wire)
    except BaseException:
        await running.clean_up()
        raise
    return collector, running


def _wire(settings: Settings, account: Account, provider: OpenAI, read: Read) -> Wire:
    """Make it, and read the tables; in a thread, as certificates alone take a tenth of a second."""
    limits.table()
    prices.table()
    return Wire(
        account,
        read,
        transport=settings.ports.transport,
        final=provider.is_final,
        trust_env=settings.mode != "emulate",
    )


def _folder(settings: Settings) -> Path | None:
    return settings.folder if settings.mode == "batch" else None


async def _open_journal(settings: Settings, run_sync: RunSync) -> Journal | None:
    folder = _folder(settings)
    if folder is None or settings.ports.journal is not None:
        return settings.ports.journal
    return await Sqlite.open(folder, settings.account.name, settings.retention, run_sync)
