"""The collector: accepts calls, feeds the engine, carries out its commands and settles the callers."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import anyio

from .answers import Answers
from .background import Background
from .callers import Callers
from .config import Mode
from .engine.commands import Anew, Cancel, Command, Count, Delete, Discard, Fail, Record, Settle
from .engine.engine import Engine
from .engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Asked,
    Done,
    Event,
    Flush,
    Leave,
    Limited,
    Packed,
    Recovered,
    Tick,
)
from .engine.lane import LaneStats
from .errors import CarpoolError, JournalError, PoolClosed
from .intake import Intake
from .journal import RECORDED, Journal, Stamped
from .limits import Limits
from .live import Live
from .models import Queue
from .naming import client_key
from .outcomes import error_of_failure, error_of_row, response_of
from .perform import Performer
from .providers import Provider
from .recorder import DEPENDENT, Recorder, implied
from .resume import Deferred, Resumption, Reuse
from .small import SmallBatches
from .spool import Spool
from .tokens import Counter
from .waiter import Waiter
from .wire import Wire

log = logging.getLogger("carpool")

_FAREWELL = 5.0  # seconds that leaving by an exception may take


class Collector:
    """Hold the callers that wait, and the background in which their calls travel.

    `pool` prefixes the custom_ids. Every `adopt_every` seconds it is looked whether processes have died that share the
    journal. In the mode "live" nothing is collected: each call is sent at once. All methods belong to one event loop.
    """

    def __init__(
        self,
        pool: str,
        engine: Engine,
        provider: Provider,
        wire: Wire,
        spool: Spool,
        new_waiter: Callable[[], Waiter],
        limits: Limits,
        counter: Counter,
        journal: Journal | None,
        *,
        reuse: Reuse,
        linger: float,
        adopt_every: float,
        keep_remote_files: bool,
        mode: Mode,
    ) -> None:
        self._pool = pool
        self._adopt_every = adopt_every
        self._engine = engine
        self._provider = provider
        self._wire = wire
        self._spool = spool
        self._limits = limits
        self._queues: set[Queue] = set()
        self._background = Background()
        self.callers = Callers(self._background.changed)
        self._epoch = time.time() - anyio.current_time()
        self._stir = anyio.Event()
        live = Live(provider, wire, self.callers, self._background.start, everything=mode == "live")
        numbered = 0 if journal is None else journal.numbered
        self.intake = Intake(
            provider, new_waiter, self.callers, spool, limits, live, numbered, self._now, lambda: self._stir.set()
        )
        self._small = SmallBatches(linger)
        self._journal = journal
        self._recorder = None if journal is None else Recorder(journal, spool.secure, self)
        self._answers = Answers()
        self._resumption = (
            None
            if journal is None
            else Resumption(
                journal, spool, provider, self._answers, self.callers, self.intake.accept_anew, self.feed, reuse
            )
        )
        self.intake.resumption = self._resumption
        self._performer = Performer(
            provider,
            wire,
            spool,
            counter,
            self.feed,
            self._lose,
            keep_remote_files=keep_remote_files,
            paid=mode == "batch",
        )
        self._flushes = 0
        self._writing = False

    @property
    def batches(self) -> int:
        """Count the batches created."""
        return self._engine.created

    def __repr__(self) -> str:
        return (
            f"{self.intake.accepted} accepted, {self.callers.answered} answered, {self.callers.failed} failed, "
            f"{self.batches} batches, {'open' if self.callers.refusal is None else 'closed'}"
        )

    def lanes(self) -> tuple[LaneStats, ...]:
        """Count what waits and what is submitted, by lane."""
        self._take_in()
        return self._engine.lanes()

    # --- feeding

    def feed(self, event: Event) -> None:
        """Tell the engine, and do what it says; what depends on facts waits until these are recorded."""
        events: deque[Event] = deque((event,))
        now = self._now()
        facts: list[Event] = []
        dependent: list[Command] = []
        if isinstance(event, Asked):  # somebody awaits them again before the engine heard that nobody did
            self.intake.awaited(event.rows)
        while events:
            event = events.popleft()
            if isinstance(event, Done):
                facts += self._answers.take(event.batch_id)
            facts.append(event)
            for command in self._engine.handle(event, now):
                if isinstance(command, Record):
                    events.append(command.fact)
                elif isinstance(command, DEPENDENT):
                    dependent.append(command)
                else:
                    self.perform(command)
                facts += implied(command)
            if hint := self._look_at_size(event, now):
                log.warning(hint)
        if self._recorder is None:
            for command in dependent:
                self.perform(command)
        else:
            self._recorder.submit([(now, fact) for fact in facts if isinstance(fact, RECORDED)], dependent)
        self._stir.set()

    def _look_at_size(self, event: Event, now: float) -> str | None:
        match event:
            case Packed():
                (lane,) = (lane for lane in self._engine.lanes() if lane.lane == event.lane)
                key = client_key(self._pool, event.number)
                pending = lane.waiting + lane.submitted
                return self._small.packed(key, event.lane, sum(map(len, event.runs)), pending, now)
            case Answered():
                self._small.answered(event.key, now)
            case Done():
                self._small.done(event.key)
        return None

    def perform(self, command: Command) -> None:
        """Carry out a command."""
        match command:
            case Settle():
                self._settle(command)
            case Fail():
                self._fail(command)
            case Anew() if self._resumption is not None:
                self._resumption.anew(command.numbers)
            case Cancel() | Delete() | Discard():
                self._background.start(self._performer.chore, command)
            case Count():
                self._background.start(self._performer.count, command)
            case _:
                self._background.start(self._performer.step, command)

    def _take_in(self) -> None:
        """Tell the engine of the calls that came and of the callers that went."""
        calls = self.intake.take_deferred()
        if calls:
            self._background.start(self._look_up, calls, self._flushes)
        for accepted in self._spool.accepted():
            for limited in self._limits_of(accepted.lane.queue):
                self.feed(limited)
            self.feed(Accepted(*accepted))
        gone = self.intake.take_gone()
        if gone:
            self.feed(Abandoned(gone))

    def _limits_of(self, queue: Queue) -> list[Limited]:
        """Say what is known of a queue when it is heard of first."""
        if queue in self._queues:
            return []
        self._queues.add(queue)
        return [Limited(queue, tokens, source) for tokens, source in self._limits.of(queue)]

    async def _look_up(self, calls: list[Deferred], flushes: int) -> None:
        assert self._resumption is not None  # noqa: S101 - it deferred them
        await self._resumption.look_up(calls)
        self._take_in()
        if self._flushes > flushes:  # one came meanwhile, which is meant for these calls too
            self.feed(Flush())

    def flush(self) -> None:
        """Submit what waits without lingering, also what is still being looked for."""
        self._take_in()
        self._flushes += 1
        self.feed(Flush())

    # --- settling

    def _settle(self, command: Settle) -> None:
        numbers = command.numbers if self._resumption is None else self._resumption.numbers(command.numbers)
        delivered = []
        missed = []  # rows whose callers are going just now
        for row_number, number, row in zip(command.numbers, numbers, command.rows, strict=True):
            awaited = number in self.callers
            if row.ok:
                delivered.append(self.callers.give(number, response_of(row, command.batch_id)))
            else:
                delivered.append(self.callers.refuse(number, error_of_row(row, command.batch_id)))
            if awaited and not delivered[-1]:
                missed.append(row_number)
        if missed and self._resumption is not None:
            self._resumption.miss(missed)
        self._answers.add(command, delivered)
        self._background.changed()

    def _fail(self, command: Fail) -> None:
        rows = list(command.numbers)
        numbers = rows if self._resumption is None else self._resumption.numbers(rows)
        for number, row in zip(numbers, rows, strict=True):
            self.callers.refuse(number, error_of_failure(command.failure, f"{self._pool}-{row}", command.batch_id))
        self._background.changed()

    # --- the journal

    async def recover(self) -> None:
        """Take over what processes left that have died; it goes on with `Recovered`."""
        assert self._journal is not None  # noqa: S101 - asked for where there is one
        assert self._resumption is not None  # noqa: S101 - likewise
        told = [entry async for chunk in self._journal.load() for entry in chunk]
        for at, fact in told:  # at once: nothing may happen to a batch of which half is told
            if isinstance(fact, Accepted | Packed):
                for limited in self._limits_of(fact.lane.queue):
                    self._engine.replay(limited, self._now())
            self._engine.replay(fact, at)
        left = any(isinstance(fact, Accepted | Packed) for _, fact in told)
        if left or (await self._journal.summary()).answered:
            self._resumption.begin()

    async def _adopt(self, recorder: Recorder) -> None:
        """Look from time to time for processes that have died since."""
        while recorder.broken is None:
            await anyio.sleep(self._adopt_every)
            try:
                await self.recover()
            except JournalError as exc:
                recorder.lose(exc)  # what was taken over is told in part, and nobody else will tell it
            else:
                self.feed(Recovered())

    def begin(self, write: Callable[[], Awaitable[None]]) -> None:
        """Let the journal be written."""
        self._background.start(write)

    def recorded(self, facts: Iterable[Stamped]) -> None:
        """Note that facts are safe."""
        self._answers.recorded(facts)

    def lost(self, error: JournalError) -> None:
        """Take no more calls: they could not be kept."""
        self.callers.refusal = self.callers.refusal or error

    def _lose(self, exc: OSError) -> None:
        if self._recorder is not None:
            self._recorder.lose(JournalError(f"Answers cannot be kept: {exc}. Free some room, and start again."))

    # --- running

    async def run(self, started: anyio.Event) -> None:
        """Run the background until `stop`; a fault in it becomes the error of every caller and ends it."""
        try:
            await self._background.run(self._run, started)
        except Exception as exc:
            log.exception("the pool broke down")
            self.callers.refuse_all(CarpoolError(f"The pool broke down by a fault of carpool's own: {exc!r}"))
        finally:
            self.callers.refuse_all(PoolClosed("The pool's event loop ended before the answer came."))
            await self.clean_up()

    async def _run(self) -> None:
        self.feed(Recovered())
        if self._recorder is not None:
            self._background.watch(self._adopt, self._recorder)
        await self._keep_time()

    def watch(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the callers, as long as the pool is open."""
        self._background.watch(step)

    def over(self) -> None:
        """Note that the background has ended, also when it never began."""
        self.callers.refuse_all(PoolClosed("The pool's event loop ended before the answer came."))
        self._background.finish()

    async def clean_up(self) -> None:
        """Let go of connections, files and journal."""
        try:
            with anyio.CancelScope(shield=True):
                try:
                    await self._wire.aclose()
                finally:
                    await self._spool.aclose()
                    if self._journal is not None:
                        await self._journal.aclose()
        except Exception:  # whatever it is, whoever closes the pool must not wait for ever, and trio must not crash
            log.exception("the pool could not clean up after itself")
        finally:
            self._background.finish()

    async def _keep_time(self) -> None:
        while True:
            self._take_in()
            self._stir = anyio.Event()
            if self._spool.has_chunks and not self._writing:
                self._writing = True
                self._background.start(self._write)
            pause = min(self._engine.deadline(), self.intake.deadline) - self._now()
            with anyio.move_on_after(max(0.0, pause)):
                await self._stir.wait()
            self.intake.expire()
            self.feed(Tick())

    async def _write(self) -> None:
        try:
            await self._spool.write()
        except OSError as exc:
            # What was not written is tried again before it is uploaded, and fails its own callers there.
            log.warning("the spool cannot be written: %s", exc)
        finally:
            self._writing = False

    def _now(self) -> float:
        return self._epoch + anyio.current_time()

    # --- leaving

    async def close(self) -> None:
        """Submit what waits, settle every caller, give up what nobody awaits, and end the background.

        When this is cancelled, or the body failed, `abandon` is the way out.
        """
        self.callers.refusal = PoolClosed("The pool is closed. Open a new one for more requests.")
        self.flush()
        await self._background.until(lambda: not self.callers and not self._background.busy)
        self._take_in()
        self._performer.leaving = True
        self.feed(Leave(keep=self._journal is not None))
        await self._background.until(lambda: not self._background.busy)
        await self._background.stop()

    async def abandon(self) -> None:
        """Settle every caller with `PoolClosed`, cancel what runs remotely, best effort, and end the background."""
        self._performer.leaving = True
        self.callers.refuse_all(PoolClosed("The pool was left by an exception before the answer came."))
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_FAREWELL):
                await self._say_farewell()
            for left in self._performer.uncancelled:
                log.warning("left before batch %s was cancelled: it runs on and is billed", left)
        finally:  # also when asyncio cancels a second time, which no shield keeps out
            self._background.end()
        await self._background.stop()

    async def _say_farewell(self) -> None:
        if self._recorder is not None:
            self._take_in()
            await self._background.until(lambda: self._recorder is None or self._recorder.idle)
        else:
            self.feed(Leave())
            await self._background.until(lambda: not self._background.busy)
