"""The collector: accepts calls, feeds the engine, carries out its commands and settles the callers."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import anyio.abc

from .engine.commands import Cancel, Command, Count, Delete, Discard, Fail, Record, Settle
from .engine.engine import Engine
from .engine.events import Abandoned, Accepted, Event, Flush, Leave, Limited, Tick
from .engine.lane import LaneStats
from .errors import CarpoolError, PoolClosed
from .limits import LONG, Limits
from .models import Body, Queue
from .outcomes import error_of_failure, error_of_row, response_of
from .perform import Performer
from .providers import Provider
from .spool import Spool
from .tokens import Counter
from .waiter import Runtime, Waiter
from .wire import Wire

log = logging.getLogger("carpool")

_FAREWELL = 5.0  # seconds that leaving by an exception may take


class Collector:
    """Hold the callers that wait, and the background in which their calls travel.

    `pool` prefixes the custom_ids. All methods belong to the event loop that `runtime` is of.
    """

    def __init__(
        self,
        pool: str,
        engine: Engine,
        provider: Provider,
        wire: Wire,
        spool: Spool,
        runtime: Runtime,
        limits: Limits,
        counter: Counter,
        *,
        keep_remote_files: bool,
    ) -> None:
        self._pool = pool
        self._engine = engine
        self._provider = provider
        self._wire = wire
        self._spool = spool
        self._new_waiter = runtime.new_waiter
        self._limits = limits
        self._queues: set[Queue] = set()
        self._performer = Performer(provider, wire, spool, counter, self.feed, keep_remote_files=keep_remote_files)
        self._waiters: dict[int, Waiter] = {}
        self._gone: set[int] = set()
        self._accepted = self.answered = self.failed = 0
        self._refusal: CarpoolError | None = None  # what later calls are told
        self._epoch = time.time() - anyio.current_time()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._busy = 0
        self._stopped = False
        self._writing = False
        self._stirred = False
        self._stir = anyio.Event()
        self._quiet = anyio.Event()
        self._finished = anyio.Event()

    # --- accepting: the callers' path; no thread hop, no lock, no I/O

    def accept(self, endpoint: str, body: Body) -> tuple[int, Waiter]:
        """Let a call join its lane; gives its number and what to await."""
        if self._refusal is not None:
            raise _copy(self._refusal)
        model, encoded, inputs = self._provider.encode(endpoint, body)
        self._accepted = number = self._accepted + 1
        long = len(encoded) > LONG and self._limits.is_long(model, len(encoded))
        self._spool.add(endpoint, model, number, encoded, inputs, long=long)
        waiter = self._waiters[number] = self._new_waiter()
        if not self._stirred:
            self._stirred = True
            self._stir.set()
        return number, waiter

    def leave(self, numbers: Iterable[int]) -> None:
        """Note that the callers of these numbers are gone; those that were settled do not count."""
        gone = [number for number in numbers if self._waiters.pop(number, None) is not None]
        if gone:
            self._gone.update(gone)
            self._stir.set()
            self._quiet.set()

    @property
    def accepted(self) -> int:
        """Count the calls accepted."""
        return self._accepted

    @property
    def batches(self) -> int:
        """Count the batches created."""
        return self._engine.created

    def __repr__(self) -> str:
        return (
            f"{self.accepted} accepted, {self.answered} answered, {self.failed} failed, {self.batches} batches, "
            f"{'open' if self._refusal is None else 'closed'}"
        )

    def lanes(self) -> tuple[LaneStats, ...]:
        """Count what waits and what is submitted, by lane."""
        self._take_in()
        return self._engine.lanes()

    # --- feeding

    def feed(self, event: Event) -> None:
        """Tell the engine, and do what it says."""
        events: deque[Event] = deque((event,))
        now = self._now()
        while events:
            for command in self._engine.handle(events.popleft(), now):
                if isinstance(command, Record):
                    events.append(command.fact)  # nothing to record to: memory is as safe as the engine
                else:
                    self._perform(command)
        self._stir.set()

    def _perform(self, command: Command) -> None:
        match command:
            case Settle():
                self._settle(command)
            case Fail():
                self._fail(command)
            case Cancel() | Delete() | Discard():
                self._start(self._performer.chore, command)
            case Count():
                self._start(self._performer.count, command)
            case _:
                self._start(self._performer.step, command)

    def _take_in(self) -> None:
        """Tell the engine of the calls that came and of the callers that went."""
        self._stirred = False
        for lane, run, rich in self._spool.accepted():
            if lane.queue not in self._queues:
                self._limit(lane.queue)
            self.feed(Accepted(lane, run, rich))
        if self._gone:
            gone, self._gone = frozenset(self._gone), set()
            self.feed(Abandoned(gone))

    def _limit(self, queue: Queue) -> None:
        """Tell the engine what is known of a queue when its first call comes."""
        self._queues.add(queue)
        for tokens, source in self._limits.of(queue):
            self.feed(Limited(queue, tokens, source))

    def flush(self) -> None:
        """Submit what waits without lingering."""
        self._take_in()
        self.feed(Flush())

    # --- settling

    def _settle(self, command: Settle) -> None:
        for number, row in zip(command.numbers, command.rows, strict=True):
            waiter = self._waiters.pop(number, None)
            if row.ok:
                self.answered += 1
                if waiter is not None and not waiter.done():
                    waiter.set_result(response_of(row, command.batch_id))
            else:
                self.failed += 1
                if waiter is not None and not waiter.done():
                    waiter.set_exception(error_of_row(row, command.batch_id))
        self._quiet.set()

    def _fail(self, command: Fail) -> None:
        self.failed += len(command.numbers)
        for number in command.numbers:
            waiter = self._waiters.pop(number, None)
            if waiter is not None and not waiter.done():
                custom_id = f"{self._pool}-{number}"
                waiter.set_exception(error_of_failure(command.failure, custom_id, command.batch_id))
        self._quiet.set()

    def _refuse(self, error: CarpoolError) -> None:
        """Settle everybody with an error, and tell it to whoever comes later."""
        self._refusal = self._refusal or error
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_exception(_copy(error))
        self._quiet.set()

    # --- running

    async def run(self, started: anyio.Event) -> None:
        """Run the background until `stop`; a fault in it becomes the error of every caller and ends it."""
        try:
            async with anyio.create_task_group() as self._tasks:
                started.set()
                if not self._stopped:
                    await self._keep_time()
        except Exception as exc:
            log.exception("the pool broke down")
            self._refuse(CarpoolError(f"The pool broke down by a fault of carpool's own: {exc!r}"))
        finally:
            self._refuse(PoolClosed("The pool's event loop ended before the answer came."))
            self._tasks = None
            await self._clean_up()

    def over(self) -> None:
        """Note that the background has ended, also when it never began."""
        self._refuse(PoolClosed("The pool's event loop ended before the answer came."))
        self._finished.set()

    async def _clean_up(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                try:
                    await self._wire.aclose()
                finally:
                    await self._spool.aclose()
        except Exception:  # whatever it is, whoever closes the pool must not wait for ever, and trio must not crash
            log.exception("the pool could not clean up after itself")
        finally:
            self._finished.set()

    async def _keep_time(self) -> None:
        while True:
            self._take_in()
            self._stir = anyio.Event()
            if self._spool.has_chunks and not self._writing:
                self._writing = True
                self._start(self._write, None)
            pause = self._engine.deadline() - self._now()
            with anyio.move_on_after(max(0.0, pause)):
                await self._stir.wait()
            self.feed(Tick())

    async def _write(self, _: None) -> None:
        try:
            await self._spool.write()
        except OSError as exc:
            # What was not written is tried again before it is uploaded, and fails its own callers there.
            log.warning("the spool cannot be written: %s", exc)
        finally:
            self._writing = False

    def _start(self, perform: Callable[[Any], Awaitable[None]], command: Any) -> None:
        if self._tasks is not None:
            self._busy += 1
            self._tasks.start_soon(self._run_one, perform, command)

    async def _run_one(self, perform: Callable[[Any], Awaitable[None]], command: Any) -> None:
        try:
            await perform(command)
        finally:
            self._busy -= 1
            self._quiet.set()

    def _now(self) -> float:
        return self._epoch + anyio.current_time()

    # --- leaving

    async def close(self) -> None:
        """Submit what waits, settle every caller, give up what nobody awaits, and end the background.

        When this is cancelled, or the body failed, `abandon` is the way out.
        """
        self._refusal = PoolClosed("The pool is closed. Open a new one for more requests.")
        self.flush()
        await self._until(lambda: not self._waiters and not self._busy)
        self._take_in()
        self._performer.leaving = True
        self.feed(Leave())
        await self._until(lambda: not self._busy)
        await self._stop()

    async def abandon(self) -> None:
        """Settle every caller with `PoolClosed`, cancel what runs remotely, best effort, and end the background."""
        self._performer.leaving = True
        self._refuse(PoolClosed("The pool was left by an exception before the answer came."))
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_FAREWELL):
                self.feed(Leave())
                await self._until(lambda: not self._busy)
            for left in self._performer.uncancelled:
                log.warning("left before batch %s was cancelled: it runs on and is billed", left)
        finally:  # also when asyncio cancels a second time, which no shield keeps out
            self._end_background()
        await self._stop()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while self._tasks is not None and not condition():
            if self._quiet.is_set():
                self._quiet = anyio.Event()
            await self._quiet.wait()

    async def _stop(self) -> None:
        self._end_background()
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

    def _end_background(self) -> None:
        self._stopped = True
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()


def _copy(error: CarpoolError) -> CarpoolError:
    """Give everybody an error of their own: a shared one would gather the tracebacks of all."""
    return type(error)(*error.args)
