"""The collector: accepts calls, feeds the engine, carries out its commands and settles the callers."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import anyio
import anyio.lowlevel

from .admission import Admission
from .adoption import Adoption
from .answers import Answers
from .background import Background
from .callers import Callers
from .clock import Clock
from .durable import Heirloom, Kept, Submissions
from .elsewhere import Elsewhere
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
    LetGo,
    Record,
    Relay,
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
    GivenUp,
    Outstanding,
    Packed,
    Revoked,
    Settled,
    Spent,
)
from .engine.lane import LaneStats
from .errors import JournalError, RequestCancelled
from .escalation import Escalation
from .intake import Intake
from .journal import RECORDED, Journal, Stamped
from .limiting import Limiting
from .limits import KnownLimits
from .live import Live
from .models import Failure, Run
from .naming import client_key, shard_of
from .observe import Observer, begin
from .parts import is_long, parts, taken_apart
from .perform import Performer
from .providers import Provider
from .recorder import DEPENDENT, Recorder, implied
from .resume import Deferred, Resumption
from .settings import Settings
from .settling import Settling
from .small import SmallBatches
from .spending import Budget, Spending, dollars
from .spool import Spool
from .waiter import Runtime
from .wakes import Wakes
from .wire import Wire

log: logging.Logger = logging.getLogger("carpool.collector")

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
        runtime: Runtime,
        journal: Journal | None,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._engine = engine
        self._spool = spool
        self._clock = Clock(runtime.time)
        self.now: Callable[[], float] = self._clock.now
        self.limiting: Limiting = Limiting(settings.limits)
        self.background: Background = Background()
        self.spending: Spending = Spending(settings.prices)
        limit = settings.budget
        self._budget = None if limit is None else Budget(limit, self.spending, settings.prices)
        numbered = 0 if journal is None else journal.numbered
        flexible = settings.escalate == "flex"
        self.observer: Observer | None = begin(
            settings.on_event, pool, engine, provider, settings.prices, self.now, flexible=flexible
        )
        seen = None if self.observer is None else self.observer.calls
        self.callers: Callers = Callers(self.background.changed, self._budget, shard_of(numbered), seen)
        self.admission: Admission = Admission(
            self.callers,
            settings.max_pending,
            lambda: self.backlog >= settings.max_spool,
            lambda: self.callers.refusal is not None,
            lambda: self._stir.set(),
            refuses=settings.when_full == "refuse",
        )
        self.background.listen(self.admission.look)
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
        self.intake: Intake = Intake(
            provider,
            runtime.new_waiter,
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
        self.recorder: Recorder | None = None if journal is None else Recorder(journal, spool.secure, self._clock, self)
        self._answers = Answers()
        recorder = self.recorder
        self.adoption: Adoption | None = None if journal is None else Adoption(self, journal)
        self.elsewhere: Elsewhere = Elsewhere(self._look_up_again, settings.timing.poll_min)
        self.intake.elsewhere = self.elsewhere
        self._resumption = self.intake.resumption = (
            None
            if journal is None or recorder is None
            else Resumption(
                journal,
                spool,
                provider,
                self._answers,
                self.callers,
                self.intake.accept_unknown,
                self.feed,
                engine.far,
                self._adopt,
                self.elsewhere.wait,
                recorder.caught_up,
                settings.reuse,
            )
        )
        self.submissions: Submissions | None = None
        self._heirloom: Heirloom | None = None
        self.kept: Kept = Kept(journal, spool, provider, pool)
        if journal is not None and self.recorder is not None:
            self.submissions = self.intake.submissions = Submissions(
                pool,
                journal,
                self.intake,
                self.callers,
                partial(self.recorder.submit, then=()),
                self.background.start,
                self._clock,
                settings.escalate,
            )
            self._heirloom = Heirloom(self.submissions, self.callers, self.feed, engine.running, self._clock)
        self._settling = Settling(
            pool,
            self.callers,
            self._answers,
            self._resumption,
            self.spending,
            provider.total_usage,
            flexible=flexible,
            standing=None if self.submissions is None else self.submissions.standing,
        )
        self.performer: Performer = Performer(
            provider,
            wire,
            spool,
            settings.counter,
            self.feed,
            self._lose,
            self._tags_of,
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
            self._afford_live,
            self._landed,
            at_once,
        )
        pause = settings.timing.poll_min
        self.wakes: Wakes | None = (
            None if journal is None else Wakes(journal, self.feed, engine.remote_ids, self._clock.wall, pause)
        )
        self.submits = True  # or what waits stays in the journal
        self._barred = False
        self._looking = anyio.Lock()
        self._gathering: list[Deferred] = []  # what is looked up next
        self._flushed = 0  # how often, when the first of these came
        self._flushes = 0

    @property
    def batches(self) -> int:
        """Count the batches created."""
        return self._engine.created

    @property
    def waiting(self) -> list[Run]:
        """Give the rows that wait to be packed, also those whose packing is being recorded."""
        return self._engine.waiting()

    @property
    def has_batches(self) -> bool:
        """Tell whether any batch is not over."""
        return self._engine.has_batches

    @property
    def backlog(self) -> int:
        """Give the bytes of what waits to be packed."""
        return self._engine.backlog + self._spool.unreported

    @property
    def saves(self) -> bool:
        """Tell whether answers that came live are being saved."""
        return bool(self._escalation.in_hand)

    @property
    def live_calls(self) -> int:
        """Count the calls that are sent at once."""
        return len(self._live)

    def lanes(self) -> tuple[LaneStats, ...]:
        """Count what waits and what is submitted, by lane."""
        return self._engine.lanes()

    def open_batches(self) -> tuple[BatchStats, ...]:
        """Tell of the batches that are not over."""
        return self._engine.batches()

    # --- feeding

    def feed(self, event: Event) -> None:
        """Tell the engine, and do what it says; what depends on facts waits until these are recorded."""
        if self.observer is None:
            self._feed(event)
            return
        self.observer.hold()  # a hook may call the pool, which is in the middle of a step now
        try:
            self._feed(event)
        finally:
            self.observer.let_go()

    def _feed(self, event: Event) -> None:
        events: deque[Event] = deque((event,))
        now = self.now()
        facts: list[Event] = []
        dependent: list[Command] = []
        if isinstance(event, Asked):  # somebody awaits them again before the engine heard that nobody did
            self.intake.awaited(event.rows)
        while events:
            event = events.popleft()
            facts += [*self._what_came(event), event]
            commands = self._engine.handle(event, now)
            if self.observer is not None:
                self.observer.saw(event, commands, now)
            for command in commands:
                if isinstance(command, Record):
                    events.append(command.fact)
                elif isinstance(command, DEPENDENT):
                    dependent.append(command)
                else:
                    self.perform(command)
                facts += self._implied(command)
            if hint := self._look_at_size(event, now):
                self._hint(hint)
        if self.recorder is None:
            for command in dependent:
                self.perform(command)
        else:
            self.recorder.submit([(now, fact) for fact in facts if isinstance(fact, RECORDED)], dependent)
        self._stir.set()

    def _implied(self, command: Command) -> list[Event]:
        """Give the facts that a command implies."""
        if isinstance(command, LetGo) and command.batch_id is not None:  # what came of it need not wait for the rest
            return [*self._answers.take(command.batch_id)]
        if self.submissions and isinstance(command, Settle | Fail):
            return [*implied(command), *self.submissions.ended_by(command)]
        return implied(command)

    def _what_came(self, event: Event) -> list[Settled]:
        """Give what came of a batch that is over, to be recorded before that."""
        if isinstance(event, Settled) and event.batch_id is None:
            self.callers.release(event.rows)
            if self._resumption is not None:
                self._resumption.forget(event.rows)
        if not isinstance(event, Done):
            return []
        self.performer.forget(event.key, event.batch_id)
        if self.callers.copies:
            self.callers.keep_copies(self._engine.billing(self.callers.copies))
        if doubt := self._settling.over(event.batch_id):
            self._hint(doubt)
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
            case Settle() | Fail() | LetGo():
                self._end(command)
            case Bill():
                self._settling.bill(command.batch_id, command.lane, command.rows)
                self._look_at_budget()
            case Tell():
                log.warning(command.message)
            case Anew() if self._resumption is not None:
                self._resumption.anew(command.numbers)
                if self._heirloom is not None:
                    self._heirloom.anew(command.numbers)
            case _:
                self._start(command)

    def _start(self, command: Command) -> None:
        """Begin to carry out a command that takes its time."""
        start = self.background.start
        match command:
            case SendLive():
                start(self._escalation.send, command)
            case Relay() if self.wakes is not None:
                start(self.wakes.leave, command.remote_ids)
            case Cancel() | Delete() | Discard():
                start(self.performer.chore, command)
            case Count():
                start(self.performer.count, command)
            case _:
                if isinstance(command, Collect):
                    self._settling.state(command.status.id, command.status.input_tokens)
                start(self.performer.step, command)

    def _end(self, command: Settle | Fail | LetGo) -> None:
        """Tell callers what came of their calls, a part of them at a time."""
        if is_long(command):
            self.background.start(self._end_parts, command)
        elif isinstance(command, Settle):
            self._settle(command)
        elif isinstance(command, LetGo):
            self.intake.let_go(self._settling.let_go(command))
            self.background.changed()
        else:
            self._settling.fail(command)
            self.background.changed()

    async def _end_parts(self, command: Settle | Fail | LetGo) -> None:
        for part in parts(command):
            self._end(part)
            await anyio.lowlevel.checkpoint()

    def _settle(self, command: Settle) -> None:
        if command.file is not None and command.numbers and command.batch_id:
            self.performer.keep(command.file)
        self._settling.settle(command)
        if not command.batch_id:  # no batch will be over by which its answers were recorded
            for settled in self._answers.take(""):
                self.feed(settled)
        self.background.changed()
        self._look_at_budget()

    def _afford_live(self, row: int, model: str, size: int) -> bool:
        number = row if self._resumption is None else self._resumption.number(row)
        rides, flexible = self._engine.rides(row), self._settings.escalate == "flex"
        return self.callers.afford_live(number, row, model, size, rides=rides, flexible=flexible)

    def _landed(self, row: int) -> None:
        self.callers.landed(row, rides=row in self._engine.billing((row,)))

    def _look_at_budget(self) -> None:
        if self._budget is not None and self.callers.are_out_of_money and not self._barred:
            self._barred = True
            message = f"The budget of {dollars(self._budget.limit)} is spent. Raise it to go on."
            self.feed(Barred(Failure("budget", message)))

    def _hint(self, message: str) -> None:
        log.warning(message)
        if self.observer is not None:
            self.observer.hint(message)

    def take_in(self) -> None:
        """Tell the engine of the calls that came and of the callers that went."""
        calls = self.intake.take_deferred()
        if calls:
            if not self._gathering:
                self._flushed = self._flushes
                self.background.start(self._look_up_gathered)
            self._gathering += calls
        if self.submissions is not None:
            self.submissions.tell()
        for accepted in self._spool.accepted():
            for limited in self.limiting.of(accepted.lane.queue):
                self.feed(limited)
            self.feed(Accepted(*accepted))
        gone = self.intake.take_gone()
        if gone:
            self.feed(Abandoned(gone))
            self.background.changed()  # there may be room now
        self.admission.measure()
        if self.admission.length:
            self.background.changed()

    def leave_to_the_next(self, rows: Sequence[int], why: Failure) -> None:
        """Tell callers that their rows, which wait, stay in the journal."""
        self._settling.stay(rows, why)
        self.background.changed()
        self.feed(GivenUp(rows))

    def set_limits(self, limits: KnownLimits) -> None:
        """Take other limits from now on."""
        self.take_in()
        for event in self.limiting.set(limits):
            self.feed(event)

    async def _look_up_gathered(self) -> None:
        """Look up together what came while others were looked up: one by one, calls would wait for all before them."""
        async with self._looking:  # in their order
            calls, self._gathering = self._gathering, []
            await self._look_up(calls, self._flushed)

    async def _look_up_again(self, calls: list[Deferred]) -> None:
        self.intake.sought.update(call.number for call in calls)
        async with self._looking:
            await self._look_up(calls, self._flushes)
        self.background.changed()  # whoever leaves waits until nothing is sought

    async def _look_up(self, calls: list[Deferred], flushes: int) -> None:
        assert self._resumption is not None  # noqa: S101 - it deferred them
        for some in taken_apart(calls):
            await self._resumption.look_up(some)
            self.intake.sought.difference_update(call.number for call in some)
            self.take_in()
        if self._flushes > flushes:  # one came meanwhile, which is meant for these calls too
            self.feed(Flush())

    async def _adopt(self) -> None:
        """Take over what processes left that have died, as long as calls are answered here. Raises `JournalError`."""
        if self.adoption is not None and self.adopts:
            await self.adoption.look()

    @property
    def adopts(self) -> bool:
        """Tell whether what others leave goes on here: also while the pool is closed, for calls may wait for it."""
        broken = self.recorder is not None and self.recorder.broken is not None
        return self.submits and not (broken or self.performer.leaving)

    def flush(self) -> None:
        """Submit what waits without lingering, also what is still being looked for."""
        self.take_in()
        self._flushes += 1
        self.feed(Flush())

    def cancel(self, batch_ids: frozenset[str] | None) -> frozenset[str]:
        """Cancel batches on purpose, or all there is, and all that waits; gives the ids of which there is no batch."""
        self.take_in()
        unknown = frozenset() if batch_ids is None else batch_ids - self._engine.remote_ids()
        if batch_ids is None:
            self.admission.turn_away(RequestCancelled(ON_PURPOSE.message))  # first: there will be room
        if not unknown:
            self.feed(Revoked(batch_ids))
        if batch_ids is None:
            self._live.cancel()
            sought = self.intake.sought.union(call.number for call in self.elsewhere)
            for number in list(filter(self.callers.__contains__, sought)):
                if self._resumption is None or not self._resumption.awaits_earlier(number):
                    self.callers.refuse(number, RequestCancelled(ON_PURPOSE.message))
        return unknown

    # --- the journal

    def replay(self, told: Sequence[Stamped], *, others: bool) -> None:
        """Take over what processes left that have died, of all that is told of it; it goes on with `Recovered`.

        `others` says whether the journal keeps answers of other processes.
        """
        assert self._resumption is not None  # noqa: S101 - where there is a journal
        for written_at, fact in told:  # at once: nothing may happen to a batch of which half is told
            at = self._clock.read(written_at)
            if isinstance(fact, Accepted | Packed):
                for limited in self.limiting.of(fact.lane.queue):
                    self._engine.replay(limited, self.now())
            if isinstance(fact, Outstanding):
                continue
            if isinstance(fact, Spent):
                fact = Spent(tuple(map(self._clock.read, fact.times)))
            self._engine.replay(fact, at)
            if self.observer is not None:
                self.observer.replay(fact, at)
        if others or any(isinstance(fact, Accepted | Packed) for _, fact in told):
            self._resumption.begin()
        if self._heirloom is not None:
            self._heirloom.remember(told)

    def ask_again(self) -> None:
        """Have sent what was submitted to processes that have died, now that all is told."""
        if self._heirloom is not None:
            self._heirloom.ask_again()

    def begin(self, write: Callable[[], Awaitable[None]]) -> None:
        """Let the journal be written."""
        self.background.start(write)

    def recorded(self, facts: Iterable[Stamped]) -> None:
        """Note that facts are safe."""
        self._answers.recorded(facts)
        if self.submissions is not None and self.recorder is not None and self.recorder.broken is None:
            self.submissions.recorded(facts)

    def lost(self, error: JournalError) -> None:
        """Take no more calls: they could not be kept."""
        if self.observer is not None:
            self.observer.broken(str(error))
        self.callers.refusal = self.callers.refusal or error
        self.background.changed()
        if self.submissions is not None:
            self.submissions.close(error)

    def _tags_of(self, runs: Sequence[Run]) -> tuple[str, ...]:
        """Name the tags of the calls in rows, as far as anybody awaits these."""
        if not self.callers.are_tagged:
            return ()
        rows = [row for run in runs for row in run.rows]
        return self.callers.tags_of(rows if self._resumption is None else map(self._resumption.number, rows))

    def _lose(self, exc: OSError) -> None:
        if self.recorder is not None:
            self.recorder.lose(JournalError(f"Answers cannot be kept: {exc}. Free some room, and start again."))

    # --- time

    async def wait(self) -> None:
        """Wait until something has happened, or is due."""
        self._stir = anyio.Event()
        due = min(self._engine.deadline(), self.intake.deadline, self.admission.deadline)
        pause = due - self.now()
        with anyio.move_on_after(max(0.0, pause)):
            await self._stir.wait()
