"""The collector: accepts calls, feeds the engine, carries out its commands and settles the callers."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import anyio

from .answers import Answers
from .background import Background
from .callers import Callers
from .engine.batch import BatchStats
from .engine.commands import (
    Anew,
    Bill,
    Cancel,
    Collect,
    Command,
    Count,
    Delete,
    Discard,
    Fail,
    Record,
    SendLive,
    Settle,
    Tell,
)
from .engine.endings import ON_PURPOSE
from .engine.engine import Engine
from .engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Asked,
    Barred,
    Done,
    Event,
    Flush,
    Limited,
    Packed,
    Revoked,
    Settled,
)
from .engine.lane import LaneStats
from .errors import JournalError, RequestCancelled
from .escalation import Escalation
from .intake import Intake
from .journal import RECORDED, Journal, Stamped
from .live import Live
from .models import Failure, Notice, Queue
from .naming import client_key, shard_of
from .perform import Performer
from .providers import Provider
from .recorder import DEPENDENT, Recorder, implied
from .resume import Deferred, Resumption
from .settings import Settings
from .settling import Settling
from .small import SmallBatches
from .spending import Budget, Spending, dollars
from .spool import Spool
from .waiter import Waiter
from .wire import Wire

log = logging.getLogger("carpool")

_LIVE_AT_ONCE = 20  # less than the wire's connections: batches go on meanwhile


class Collector:
    """Hold the callers that wait, and the background in which their calls travel, while it is `Running`.

    `pool` prefixes the custom_ids. In the mode "live" nothing is collected: each call is sent at once. All methods
    belong to one event loop.
    """

    def __init__(
        self,
        pool: str,
        engine: Engine,
        provider: Provider,
        wire: Wire,
        spool: Spool,
        new_waiter: Callable[[], Waiter],
        journal: Journal | None,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._engine = engine
        self._spool = spool
        self._queues: set[Queue] = set()
        self.background = Background()
        self.spending = Spending(settings.prices)
        limit = settings.budget
        self._budget = None if limit is None else Budget(limit, self.spending, settings.prices)
        numbered = 0 if journal is None else journal.numbered
        self.callers = Callers(self.background.changed, self._budget, shard_of(numbered))
        self._epoch = time.time() - anyio.current_time()
        self._stir = anyio.Event()
        at_once = anyio.CapacityLimiter(_LIVE_AT_ONCE)
        self._live = Live(
            provider,
            wire,
            self.callers,
            self.background.start,
            self.spending,
            self._look_at_budget,
            at_once,
            everything=settings.mode == "live",
        )
        self.intake = Intake(
            provider,
            new_waiter,
            self.callers,
            spool,
            settings.limits,
            self._live,
            numbered,
            self.now,
            lambda: self._stir.set(),
            settings.escalate,
        )
        self._small = SmallBatches(settings.timing.linger)
        self.recorder = None if journal is None else Recorder(journal, spool.secure, self)
        self._answers = Answers()
        self._resumption = self.intake.resumption = (
            None
            if journal is None
            else Resumption(
                journal,
                spool,
                provider,
                self._answers,
                self.callers,
                self.intake.accept_unknown,
                self.feed,
                engine.running,
                settings.reuse,
            )
        )
        self._settling = Settling(
            pool,
            self.callers,
            self._answers,
            self._resumption,
            self.spending,
            provider.total_usage,
            flexible=settings.escalate == "flex",
        )
        self.performer = Performer(
            provider,
            wire,
            spool,
            settings.counter,
            self.feed,
            self._lose,
            keep_remote_files=settings.keep_remote_files,
            paid=settings.mode == "batch",
        )
        self._escalation = Escalation(
            pool,
            settings.escalate or "live",
            provider,
            partial(wire.send, heed=True),
            spool,
            self.feed,
            self.intake.is_awaited,
            self._lose,
            lambda: self.callers.are_out_of_money,
            at_once,
        )
        self._barred = False
        self._flushes = 0

    @property
    def batches(self) -> int:
        """Count the batches created."""
        return self._engine.created

    @property
    def backlog(self) -> int:
        """Give the bytes of what waits to be packed."""
        return self._engine.backlog + self._spool.unreported

    @property
    def live_calls(self) -> int:
        """Count the calls that are sent at once."""
        return len(self._live)

    def __repr__(self) -> str:
        return (
            f"{self.intake.accepted} accepted, {self.callers.answered} answered, {self.callers.failed} failed, "
            f"{self.batches} batches, {'open' if self.callers.refusal is None else 'closed'}"
        )

    def lanes(self) -> tuple[LaneStats, ...]:
        """Count what waits and what is submitted, by lane."""
        return self._engine.lanes()

    def open_batches(self) -> tuple[BatchStats, ...]:
        """Tell of the batches that are not over."""
        return self._engine.batches()

    # --- feeding

    def feed(self, event: Event) -> None:
        """Tell the engine, and do what it says; what depends on facts waits until these are recorded."""
        events: deque[Event] = deque((event,))
        now = self.now()
        facts: list[Event] = []
        dependent: list[Command] = []
        if isinstance(event, Asked):  # somebody awaits them again before the engine heard that nobody did
            self.intake.awaited(event.rows)
        while events:
            event = events.popleft()
            facts += [*self._what_came(event), event]
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
        if self.recorder is None:
            for command in dependent:
                self.perform(command)
        else:
            self.recorder.submit([(now, fact) for fact in facts if isinstance(fact, RECORDED)], dependent)
        self._stir.set()

    def _what_came(self, event: Event) -> list[Settled]:
        """Give what came of a batch that is over, to be recorded before that."""
        if isinstance(event, Settled) and event.batch_id is None:
            self.callers.release(event.rows)
        if not isinstance(event, Done):
            return []
        if doubt := self._settling.over(event.batch_id):
            log.warning(doubt)
        return self._answers.take(event.batch_id)

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
                self._settling.fail(command)
                self.background.changed()
            case Bill():
                self._settling.bill(command.batch_id, command.lane, command.rows)
                self._look_at_budget()
            case Tell():
                self._tell(command.notice)
            case SendLive():
                self.background.start(self._escalation.send, command)
            case Anew() if self._resumption is not None:
                self._resumption.anew(command.numbers)
            case Cancel() | Delete() | Discard():
                self.background.start(self.performer.chore, command)
            case Count():
                self.background.start(self.performer.count, command)
            case _:
                if isinstance(command, Collect):
                    self._settling.state(command.status.id, command.status.input_tokens)
                self.background.start(self.performer.step, command)

    def _settle(self, command: Settle) -> None:
        self._settling.settle(command)
        if not command.batch_id:  # no batch will be over by which its answers were recorded
            for settled in self._answers.take(""):
                self.feed(settled)
        self.background.changed()
        self._look_at_budget()

    def _look_at_budget(self) -> None:
        if self._budget is not None and self.callers.are_out_of_money and not self._barred:
            self._barred = True
            message = f"The budget of {dollars(self._budget.limit)} is spent. Raise it to go on."
            self.feed(Barred(Failure("budget", message)))

    def _tell(self, notice: Notice) -> None:
        log.warning(notice.message)
        if self._settings.on_event is not None:
            try:
                self._settings.on_event(notice)
            except Exception:  # the user's own: it must not end the pool
                log.exception("on_event failed")

    def take_in(self) -> None:
        """Tell the engine of the calls that came and of the callers that went."""
        calls = self.intake.take_deferred()
        if calls:
            self.background.start(self._look_up, calls, self._flushes)
        for accepted in self._spool.accepted():
            for limited in self._limits_of(accepted.lane.queue):
                self.feed(limited)
            self.feed(Accepted(*accepted))
        gone = self.intake.take_gone()
        if gone:
            self.feed(Abandoned(gone))
            self.background.changed()  # there may be room now

    def _limits_of(self, queue: Queue) -> list[Limited]:
        """Say what is known of a queue when it is heard of first."""
        if queue in self._queues:
            return []
        self._queues.add(queue)
        return [Limited(queue, tokens, source) for tokens, source in self._settings.limits.of(queue)]

    async def _look_up(self, calls: list[Deferred], flushes: int) -> None:
        assert self._resumption is not None  # noqa: S101 - it deferred them
        await self._resumption.look_up(calls)
        self.intake.sought.difference_update(call.number for call in calls)
        self.take_in()
        if self._flushes > flushes:  # one came meanwhile, which is meant for these calls too
            self.feed(Flush())

    def flush(self) -> None:
        """Submit what waits without lingering, also what is still being looked for."""
        self.take_in()
        self._flushes += 1
        self.feed(Flush())

    def cancel(self, batch_ids: frozenset[str] | None) -> frozenset[str]:
        """Cancel batches on purpose, or all there is, and all that waits; gives the ids of which there is no batch."""
        self.take_in()
        unknown = frozenset() if batch_ids is None else batch_ids - self._engine.remote_ids()
        if not unknown:
            self.feed(Revoked(batch_ids))
        if batch_ids is None:
            self._live.cancel()
            for number in list(filter(self.callers.__contains__, self.intake.sought)):
                if self._resumption is None or not self._resumption.awaits_earlier(number):
                    self.callers.refuse(number, RequestCancelled(ON_PURPOSE.message))
        return unknown

    # --- the journal

    def replay(self, told: Sequence[Stamped], *, answered: int) -> None:
        """Take over what processes left that have died, of all that is told of it; it goes on with `Recovered`.

        `answered` are the answers that the journal keeps, of all processes.
        """
        assert self._resumption is not None  # noqa: S101 - where there is a journal
        for at, fact in told:  # at once: nothing may happen to a batch of which half is told
            if isinstance(fact, Accepted | Packed):
                for limited in self._limits_of(fact.lane.queue):
                    self._engine.replay(limited, self.now())
            self._engine.replay(fact, at)
        if answered > self._answers.kept or any(isinstance(fact, Accepted | Packed) for _, fact in told):
            self._resumption.begin()

    def begin(self, write: Callable[[], Awaitable[None]]) -> None:
        """Let the journal be written."""
        self.background.start(write)

    def recorded(self, facts: Iterable[Stamped]) -> None:
        """Note that facts are safe."""
        self._answers.recorded(facts)

    def lost(self, error: JournalError) -> None:
        """Take no more calls: they could not be kept."""
        self.callers.refusal = self.callers.refusal or error

    def _lose(self, exc: OSError) -> None:
        if self.recorder is not None:
            self.recorder.lose(JournalError(f"Answers cannot be kept: {exc}. Free some room, and start again."))

    # --- time

    def now(self) -> float:
        """Give the time, in seconds since the epoch."""
        return self._epoch + anyio.current_time()

    async def wait(self) -> None:
        """Wait until something has happened, or is due."""
        self._stir = anyio.Event()
        pause = min(self._engine.deadline(), self.intake.deadline) - self.now()
        with anyio.move_on_after(max(0.0, pause)):
            await self._stir.wait()
