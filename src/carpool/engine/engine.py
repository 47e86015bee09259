"""The decisions: what to submit, when to ask, whom to settle. No I/O, no clock, no randomness."""

import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from ..config import DEFAULT_RETRY, Canary, Retry, Timing
from ..models import Failure, FileLimits, Lane, Queue, Run
from ..naming import client_key
from .agenda import Agenda
from .batch import Batch, BatchStats
from .batches import Batches
from .cadence import backoff, spread
from .checking import Checking
from .claiming import Claiming
from .commands import Anew, Cancel, Command, Delete, Upload
from .endings import ON_PURPOSE, Endings
from .escalations import Escalations
from .events import (
    Abandoned,
    Accepted,
    Admitted,
    Answered,
    Asked,
    Barred,
    Checked,
    Claimed,
    Cleared,
    Closing,
    Collected,
    Counted,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalate,
    Escalated,
    Event,
    Failed,
    Flush,
    GivenUp,
    Learned,
    Leave,
    Limited,
    LiveEnded,
    Missing,
    NotFound,
    Packed,
    Recovered,
    Released,
    Returned,
    Revoked,
    Settled,
    Shared,
    Spent,
    Tick,
    Uncountable,
    Uploaded,
    Wanted,
    Woken,
)
from .lane import LaneStats
from .lanes import Lanes, Name
from .nudges import Nudges
from .packing import common
from .recovery import Recovery
from .retries import Retries
from .rounds import Rounds
from .stages import Stage, Step, patience

_TOLD = (Settled, Delivered, Done, Cleared, Learned, Discarded, Spent, Admitted, Released, Wanted, GivenUp, Missing)
_NO_REPLY = Failure("failed", "The creation of the batch is never replied to, and no listing shows it.")
_TWICE = Failure("lost", "The provider gave one id to two batches.")


class Engine:
    """Turn events into commands.

    `pool` prefixes all custom_ids and client keys; batches are numbered from behind `numbered`. `keeps` says that what
    comes back is of use though nobody awaits it. Times are wall-clock seconds.
    """

    def __init__(
        self,
        pool: str,
        timing: Timing,
        limits: FileLimits,
        numbered: int = 0,
        *,
        retry: Retry = DEFAULT_RETRY,
        canary: Canary | None = None,
        keeps: bool = False,
    ) -> None:
        self._pool = pool
        self._timing = timing
        self._abandon = math.inf if keeps else timing.abandon
        self._agenda: Agenda[Name] = Agenda()
        self._lanes = Lanes(timing, limits, self._agenda, numbered, canary)
        self._rounds = Rounds(timing, self._agenda)
        self._batches = Batches(self._lanes, self._agenda, self._rounds, timing.lookup, claims=keeps)
        self._retries = Retries(retry)
        self._escalations = Escalations(self._lanes, self._batches, keeps=keeps)
        self._endings = Endings(
            pool, timing, self._batches, self._lanes, self._retries, self._escalations, self._agenda
        )
        self._claiming = Claiming(timing, self._batches, self._lanes, self._endings)
        self._nudges = Nudges(timing, self._batches, self._agenda, keeps=keeps)
        self._checking = Checking(
            timing, self._abandon, self._batches, self._lanes, self._endings, self._agenda, self._nudges, self._rounds
        )
        self._recovery = Recovery(pool, self._lanes, self._batches, self._escalations)
        self.created: int = 0  # batches
        self._leaving = False
        self._on: dict[type[Event], Callable[[Any, float], list[Command]]] = {
            Accepted: self._lanes.accepted,
            Limited: self._limited,
            Shared: self._shared,
            Claimed: self._claiming.claimed,
            Counted: self._counted,
            Uncountable: self._uncountable,
            Packed: self._packed,
            Returned: self._returned,
            Uploaded: self._uploaded,
            Created: self._created,
            Checked: self._checking.checked,
            NotFound: self._not_found,
            Answered: self._endings.answered,
            Collected: self._checking.collected,
            Failed: self._checking.failed,
            Recovered: self._recovered,
            Asked: self._asked,
            Abandoned: self._abandoned,
            Escalate: self._escalations.begin,
            Escalated: self._escalations.recorded,
            LiveEnded: self._escalations.ended,
            Revoked: self._revoked,
            Barred: lambda event, now: self._lanes.bar_all(event.failure, math.inf),
            Closing: self._close,
            Woken: self._nudges.woken,
            Flush: self._flush,
            Leave: self._leave,
            Tick: self._tick,
            # Told by the engine itself, and of use to a journal only.
            **dict.fromkeys(_TOLD, lambda event, now: []),
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of an event and say what is to be done."""
        return self._escalations.close(self._retries.close(self._on[type(event)](event, now)))

    def replay(self, fact: Event, at: float) -> None:
        """Take note of a fact that an earlier process recorded at `at`; what it leads to waits for `Recovered`."""
        self._recovery.take(fact, at)

    def deadline(self) -> float:
        """Give the time at which a `Tick` is due, `math.inf` when nothing is."""
        return self._agenda.next()

    def lanes(self) -> tuple[LaneStats, ...]:
        """Count what waits and what is submitted, and say how the queues stand."""
        submitted = Counter[Lane]()
        for batch in self._batches:
            submitted[batch.lane] += batch.unsettled
        return tuple(state.stats(lane, submitted[lane]) for lane, state in self._lanes.items())

    def waiting(self) -> list[Run]:
        """Give the rows that wait to be packed, also those whose packing is being recorded."""
        return [run for _, state in self._lanes.items() for run in state.waiting]

    @property
    def has_batches(self) -> bool:
        """Tell whether any batch is not over."""
        return next(iter(self._batches), None) is not None

    @property
    def backlog(self) -> int:
        """Give the bytes of the lines that wait to be packed."""
        return sum(state.waiting.size for _, state in self._lanes.items())

    def batches(self) -> tuple[BatchStats, ...]:
        """Tell of the batches that are not over, those packed first before the others."""
        return tuple(map(self._batches.stats, self._batches))

    def running(self, rows: Collection[int]) -> set[int]:
        """Say which of these rows are in batches that were created."""
        wanted = sorted(rows)
        return {row for batch in self._batches if batch.remote_id is not None for row in batch.holds(wanted)}

    def rides(self, row: int) -> bool:
        """Tell whether a row that is not settled is in a batch that may have been created."""
        batches = [batch for batch in self._batches if batch.stage is not Stage.PACKED]
        return any(batch.holds((row,)) - batch.escaped for batch in batches)

    def billing(self, rows: Collection[int]) -> set[int]:
        """Say which of these rows are answered, but in batches that may have been created, and are not over."""
        batches = [batch for batch in self._batches if batch.lived and batch.stage is not Stage.PACKED]
        return {row for batch in batches for row in batch.lived.difference(batch.escaped).intersection(rows)}

    def far(self, rows: Collection[int]) -> dict[int, int]:
        """Say how far those of these rows have come that are sent whether or not anybody asks for them.

        3 is in a batch that was created, or being sent live; 2 in a batch that may have been created; 1 in another, or
        just being packed into one.
        """
        wanted = sorted(rows)
        packing = (run for _, state in self._lanes.items() for run in state.packing)
        far = {row: 1 for run in packing for row in common(run.rows, wanted)}
        for batch in self._batches:
            in_line = batch.key in self._lanes[batch.lane].ledger.line
            may_run = batch.stage is Stage.LOST or (batch.stage is Stage.UPLOADED and not in_line)
            far |= dict.fromkeys(batch.holds(wanted), 3 if batch.remote_id is not None else 1 + may_run)
        return far | dict.fromkeys(self._escalations.flying(wanted), 3)

    def holds(self, key: str) -> bool:
        """Tell whether a batch is known, and not over."""
        return self._batches.get(key) is not None

    def remote_ids(self) -> frozenset[str]:
        """Name the batches that run."""
        return frozenset(batch.remote_id for batch in self._batches if batch.remote_id is not None)

    # --- limits, counting and packing

    def _limited(self, event: Limited, now: float) -> list[Command]:
        before = self._lanes.ledger(event.queue).cap
        commands = self._lanes.limited(event, now) + self._lanes.choose_smaller(event.queue, before)
        return commands + self._batches.make_room(event.queue, now)

    def _shared(self, event: Shared, now: float) -> list[Command]:
        commands: list[Command] = []
        for queue, before in self._lanes.share(event.share):
            commands += self._lanes.measure_up(queue, now) + self._lanes.choose_smaller(queue, before)
            commands += self._batches.make_room(queue, now)
        return commands

    def _counted(self, event: Counted, now: float) -> list[Command]:
        return self._lanes.counted(event) + self._batches.make_room(event.lane.queue, now)

    def _uncountable(self, event: Uncountable, now: float) -> list[Command]:
        return self._lanes.uncountable(event, now) + self._batches.make_room(event.lane.queue, now)

    def _packed(self, event: Packed, now: float) -> list[Command]:
        batch = Batch(client_key(self._pool, event.number), event.lane, event.runs, now)
        self._batches.add(batch)
        self._lanes.packed(event, batch.key, batch.load, now)
        escalated = self._escalations.packed(batch)
        return [Upload(batch.packed()), *escalated, *self._batches.make_room(batch.lane.queue, now)]

    def _returned(self, event: Returned, now: float) -> list[Command]:
        batch = self._batches.get(event.key)
        return [] if batch is None else self._endings.give_back(batch, now)  # it may have failed meanwhile

    def _abandoned(self, event: Abandoned, now: float) -> list[Command]:
        """Take out what nobody awaits: at once where it waits, and from a batch when its rows come back."""
        commands = self._lanes.abandoned(event, now)
        rows = sorted(event.rows)
        for batch in self._batches:
            gone = batch.holds(rows)
            if gone:
                batch.abandon(gone, now)
                commands += self._let_go(batch, now)
        return commands

    def _let_go(self, batch: Batch, now: float) -> list[Command]:
        """Take a batch out of the line that nobody awaits, or look at it when it is time to cancel it."""
        if batch.unawaited_since is None:
            return []
        if batch.key in self._lanes[batch.lane].ledger.line:
            return self._lanes.take_back([batch.key])
        if batch.stage is Stage.OPEN:
            self._agenda.advance(batch.key, now + self._abandon)
        return []

    def _revoked(self, event: Revoked, now: float) -> list[Command]:
        """Cancel on purpose, first what waits: the end of a batch would make room for it."""
        everything = event.remote_ids is None
        commands = self._lanes.clear(ON_PURPOSE) if everything else []
        for batch in list(self._batches):
            if everything or batch.remote_id in (event.remote_ids or ()):
                commands += self._endings.revoke(batch, now)
        return commands

    def _close(self, event: Closing, now: float) -> list[Command]:
        self._checking.closing = True
        self._lanes.packs = event.submit
        return []

    def _flush(self, event: Flush, now: float) -> list[Command]:
        return self._lanes.flush(now)

    # --- what an earlier process left

    def _recovered(self, event: Recovered, now: float) -> list[Command]:
        """Go on with the batches of an earlier process: from where each was recorded to stand."""
        batches = self._recovery.finish(now)
        commands = self._recovery.leftovers()
        # Of rows that ended meanwhile nothing is kept that could be uploaded: the others are packed anew.
        for batch in [batch for batch in batches if batch.stage is Stage.PACKED and batch.gone]:
            batches.remove(batch)
            commands += self._endings.send_again(batch, now)
        commands += self._batches.next_steps(batches, now)
        for queue in dict.fromkeys(batch.lane.queue for batch in batches):
            commands += self._batches.make_room(queue, now)
        return commands

    def _asked(self, event: Asked, now: float) -> list[Command]:
        recalled, commands = self._lanes.recall(event.rows, now, event.pack_by)
        rows = sorted(event.rows)
        for batch in self._batches:
            recalled |= batch.recall(rows)
        here, failed = self._escalations.asked(rows)
        commands += failed
        missing = [row for row in rows if row not in recalled and row not in here]
        return [*commands, Anew(missing)] if missing else commands

    # --- submitting

    def _uploaded(self, event: Uploaded, now: float) -> list[Command]:
        batch = self._batches.get(event.key)
        if batch is None:  # its rows were packed anew meanwhile
            return self._batches.uploaded_in_vain(event.key, (event.file_id,))
        batch.step(Step.UPLOADED)
        self._agenda.drop(batch.key)
        batch.file_id = event.file_id
        return [Delete((event.file_id,))] if self._leaving else self._batches.next_steps([batch], now)

    def _created(self, event: Created, now: float) -> list[Command]:
        batch = self._batches[event.key]
        if self._batches.is_known(event.status.id):
            return self._checking.failed_step(batch, _TWICE, now)
        if batch.stage is not Stage.LOST:
            batch.opened_at = now
        batch.step(Step.CREATED)
        self._lanes.created(batch.lane, batch.key, batch.load, now)
        self.created += 1
        self._batches.created(batch, event.status)
        self._nudges.created(batch, now)
        if self._leaving:
            return self._give_up(batch)
        cancelled = self._batches.cancel(batch, now) if batch.revoked else []
        return [*cancelled, *self._checking.heard(batch, event.status, now)]

    def _not_found(self, event: NotFound, now: float) -> list[Command]:
        commands: list[Command] = []
        for batch in map(self._batches.__getitem__, event.keys):
            searched = event.at - batch.opened_at >= self._timing.lookup
            batch.looked(now)
            for_long = now - (batch.unreplied_since or now) >= patience(Stage.UPLOADED, "lost")
            if searched and batch.revoked and not self._leaving:
                batch.step(Step.NOT_FOUND)
                commands += self._endings.stop(batch, now)
            elif searched and batch.unawaited_since is not None and self._abandon < math.inf:
                commands += self._endings.end(batch, _NO_REPLY, now)  # nobody could be given its answers
            elif searched and for_long and not batch.may_be_repeated(now):
                commands += self._endings.let_go(batch, _NO_REPLY, now)
            elif searched and not self._leaving:
                batch.step(Step.NOT_FOUND)
                batch.let_go_at = batch.let_go_at if for_long else None
                batch.repeated_at = now
                self._lanes.repeated(now)
                commands += (
                    self._stand_in_line(batch, now) if batch.recovered else self._batches.next_steps([batch], now)
                )
            else:
                batch.attempts += 1
                pause = backoff(batch.attempts, spread(batch.key, batch.attempts), base=0.5)
                last_look = max(now, batch.opened_at + self._timing.lookup)
                self._agenda.set(batch.key, min(now + pause, last_look))
        return commands

    def _stand_in_line(self, batch: Batch, now: float) -> list[Command]:
        """Let a batch of an earlier process wait for room, which it may never have had."""
        batch.recovered = False
        self._escalations.leave(batch)
        batch.unreplied_since = None  # it may stand there for hours
        self._lanes.stand_in_line(batch.lane, batch.key, batch.load, now)
        return [*self._batches.released(batch), *self._batches.make_room(batch.lane.queue, now)]

    # --- time

    def _tick(self, event: Tick, now: float) -> list[Command]:
        commands: list[Command] = []
        batches: list[Batch] = []
        for name in self._agenda.pop(now):
            match name:
                case Lane():
                    commands += self._lanes.consider(name, now)
                case Queue():
                    commands += self._batches.make_room(name, now)
                case _:
                    batches.append(self._batches[name])
        if self._leaving:
            return commands
        return commands + self._batches.next_steps(self._rounds.choose(batches, self._batches, now), now)

    # --- leaving

    def _leave(self, event: Leave, now: float) -> list[Command]:
        if event.keep:
            return self._lanes.close()
        self._leaving = self._lanes.leaving = True
        lost = [batch for batch in self._batches if batch.stage is Stage.LOST]
        given_up = [command for batch in self._batches for command in self._give_up(batch)]
        return [*given_up, *self._batches.next_steps(lost, now)]

    def _give_up(self, batch: Batch) -> list[Command]:
        """Cancel what runs and delete its input; what is under way is given up when its outcome comes.

        The answers of an ended batch are paid for: its files stay, unless they are collected in time.
        """
        if batch.file_id is not None and batch.key in self._lanes[batch.lane].ledger.line:
            return [Delete((batch.file_id,))]
        if batch.stage is not Stage.OPEN or batch.remote_id is None or batch.file_id is None:
            return []
        return [Cancel(batch.remote_id), Delete((batch.file_id,))]
