"""The decisions: what to submit, when to ask, whom to settle. No I/O, no clock, no randomness."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import structs

from ..config import Timing
from ..models import NO_REPLY, BatchStatus, Failure, FileLimits, Lane, Queue
from ..naming import client_key
from .agenda import Agenda
from .batch import (
    OVERDUE,
    VANISHED,
    Batch,
    Do,
    Stage,
    Step,
    for_rows,
    has_files,
    is_admitted,
    is_end,
    is_news,
    on_failure,
    patience,
)
from .batches import Batches
from .cadence import backoff, check_pause, spread
from .commands import Anew, Cancel, Command, Delete, Settle, Upload
from .events import (
    Abandoned,
    Accepted,
    Answered,
    Asked,
    Checked,
    Cleared,
    Collected,
    Counted,
    Created,
    Delivered,
    Discarded,
    Done,
    Event,
    Failed,
    Flush,
    Learned,
    Leave,
    Limited,
    NotFound,
    Packed,
    Recovered,
    Returned,
    Settled,
    Spent,
    Tick,
    Uncountable,
    Uploaded,
)
from .lane import LaneStats
from .lanes import Lanes, Name
from .recovery import Recovery

_SHORT_READS = 4  # times that files with fewer rows than they should have are fetched
_SHORT_PAUSE = 5.0  # seconds, doubling
_SILENT = Failure("lost", "The provider gives no reply about the batch.")
_NO_REPLY = Failure("failed", "The creation of the batch is never replied to, and no listing shows it.")
_TWICE = Failure("lost", "The provider gave one id to two batches.")
_VANISHED = Failure("missing", "The provider no longer knows the batch.")


class Engine:
    """Turn events into commands.

    `pool` prefixes all custom_ids and client keys; batches are numbered from behind `numbered`. Times are wall-clock
    seconds.
    """

    def __init__(self, pool: str, timing: Timing, limits: FileLimits, numbered: int = 0) -> None:
        self._pool = pool
        self._timing = timing
        self._agenda: Agenda[Name] = Agenda()
        self._lanes = Lanes(timing, limits, self._agenda, numbered)
        self._batches = Batches(self._lanes, self._agenda, timing.lookup)
        self._recovery = Recovery(pool, self._lanes, self._batches)
        self.created = 0  # batches
        self._leaving = False
        self._on: dict[type[Event], Callable[[Any, float], list[Command]]] = {
            Accepted: self._lanes.accepted,
            Limited: self._limited,
            Counted: self._counted,
            Uncountable: self._uncountable,
            Packed: self._packed,
            Returned: self._returned,
            Uploaded: self._uploaded,
            Created: self._created,
            Checked: self._checked,
            NotFound: self._not_found,
            Answered: self._answered,
            Collected: self._collected,
            Failed: self._failed,
            Recovered: self._recovered,
            Asked: self._asked,
            Abandoned: self._abandoned,
            Flush: self._flush,
            Leave: self._leave,
            Tick: self._tick,
            # Told by the engine itself, and of use to a journal only.
            **dict.fromkeys((Settled, Delivered, Done, Cleared, Learned, Discarded, Spent), lambda event, now: []),
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of an event and say what is to be done."""
        return self._on[type(event)](event, now)

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

    # --- limits, counting and packing

    def _limited(self, event: Limited, now: float) -> list[Command]:
        return self._lanes.limited(event, now) + self._batches.make_room(event.queue, now)

    def _counted(self, event: Counted, now: float) -> list[Command]:
        return self._lanes.counted(event) + self._batches.make_room(event.lane.queue, now)

    def _uncountable(self, event: Uncountable, now: float) -> list[Command]:
        return self._lanes.uncountable(event, now) + self._batches.make_room(event.lane.queue, now)

    def _packed(self, event: Packed, now: float) -> list[Command]:
        batch = Batch(client_key(self._pool, event.number), event.lane, event.runs, now)
        self._batches.add(batch)
        self._lanes.packed(event, batch.key, batch.load, now)
        return [Upload(batch.packed()), *self._batches.make_room(batch.lane.queue, now)]

    def _returned(self, event: Returned, now: float) -> list[Command]:
        batch = self._batches.get(event.key)
        return [] if batch is None else self._batches.give_back(batch, now)  # it may have failed meanwhile

    def _abandoned(self, event: Abandoned, now: float) -> list[Command]:
        """Take out what nobody awaits: at once where it waits, and from a batch when its rows come back."""
        commands = self._lanes.abandoned(event, now)
        for batch in self._batches:
            if batch.stage in (Stage.PACKED, Stage.UPLOADED) or not is_admitted(batch.status.status):
                batch.abandoned |= event.rows.intersection(batch.rows)
                if len(batch.abandoned) == batch.total and batch.key in self._lanes[batch.lane].ledger.line:
                    commands += self._lanes.take_back([batch.key])
        return commands

    def _flush(self, event: Flush, now: float) -> list[Command]:
        return self._lanes.flush(now)

    # --- what an earlier process left

    def _recovered(self, event: Recovered, now: float) -> list[Command]:
        """Go on with the batches of an earlier process: from where each was recorded to stand."""
        batches = self._recovery.finish(now)
        commands = [*self._recovery.leftovers(), *self._batches.next_steps(batches, now)]
        for queue in dict.fromkeys(batch.lane.queue for batch in batches):
            commands += self._batches.make_room(queue, now)
        return commands

    def _asked(self, event: Asked, now: float) -> list[Command]:
        recalled, commands = self._lanes.recall(event.rows, now)
        rows = sorted(event.rows)
        for batch in self._batches:
            recalled |= batch.recall(rows)
        missing = [row for row in rows if row not in recalled]
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
            return self._failed_step(batch, _TWICE, now)
        if batch.stage is not Stage.LOST:
            batch.opened_at = now
        batch.step(Step.CREATED)
        self._lanes.created(batch.lane, batch.key, batch.load, now)
        self.created += 1
        self._batches.created(batch, event.status)
        return self._give_up(batch) if self._leaving else self._heard(batch, event.status, now)

    def _not_found(self, event: NotFound, now: float) -> list[Command]:
        commands: list[Command] = []
        for batch in map(self._batches.__getitem__, event.keys):
            searched = event.at - batch.opened_at >= self._timing.lookup
            if searched and now - (batch.failing_since or now) >= patience(Stage.UPLOADED, "lost"):
                commands += self._batches.give_up(batch, _NO_REPLY, now)
            elif searched and not self._leaving:
                batch.step(Step.NOT_FOUND)
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
        batch.failing_since = None  # it may stand there for hours
        self._lanes.stand_in_line(batch.lane, batch.key, batch.load, now)
        return self._batches.make_room(batch.lane.queue, now)

    # --- checking

    def _checked(self, event: Checked, now: float) -> list[Command]:
        commands: list[Command] = []
        seen = {status.id: status for status in event.statuses}
        # In the order of arrival: those that were refused together go out again in it.
        for batch in sorted(map(self._batches.of_remote, event.remote_ids), key=lambda batch: batch.first_row):
            remote_id = batch.status.id
            if remote_id in seen and seen[remote_id].status == NO_REPLY:
                commands += self._failed_step(batch, _SILENT, now)
            elif remote_id in seen:
                commands += self._heard(batch, seen[remote_id], now)
            elif now - (batch.denied_since or now) >= VANISHED:
                commands += self._batches.give_up(batch, _VANISHED, now)
            else:
                batch.denied_since = batch.denied_since or now
                self._agenda.set(batch.key, now + self._pause(batch, now))
        return commands

    def _heard(self, batch: Batch, status: BatchStatus, now: float) -> list[Command]:
        batch.denied_since = batch.failing_since = None
        batch.attempts = 0
        if is_end(status.status) and status.answered and not has_files(status) and batch.reads < _SHORT_READS:
            batch.reads += 1  # its files are named a moment later
            self._agenda.set(batch.key, now + backoff(batch.reads, spread(batch.key, batch.reads), base=_SHORT_PAUSE))
            return []
        if status.status == batch.status.status or is_news(batch.status.status, status.status):
            batch.status = status
        if is_end(batch.status.status):
            return self._ended(batch, now)
        if now - batch.opened_at >= OVERDUE:
            batch.status = structs.replace(batch.status, status="expired")
            return [Cancel(batch.status.id), *self._ended(batch, now)]
        self._agenda.set(batch.key, now + self._pause(batch, now))
        return self._admitted(batch, now) if is_admitted(batch.status.status) else []

    def _admitted(self, batch: Batch, now: float) -> list[Command]:
        """Note that the provider took the batch into its queue: the next may be let in."""
        news = self._lanes[batch.lane].ledger.admit(batch.key, now)
        return self._batches.make_room(batch.lane.queue, now) if news else []

    def _ended(self, batch: Batch, now: float) -> list[Command]:
        """Give the room of a batch to others, and read its files."""
        batch.step(Step.ENDED)
        if is_admitted(batch.status.status):
            self._lanes[batch.lane].ledger.release(batch.key, now)
        if not has_files(batch.status):
            return self._batches.finish(batch, now)
        return [*self._batches.next_steps([batch], now), *self._batches.make_room(batch.lane.queue, now)]

    def _pause(self, batch: Batch, now: float) -> float:
        batch.checks += 1
        return check_pause(now - batch.opened_at, self._timing, spread(batch.key, batch.checks))

    # --- collecting

    def _answered(self, event: Answered, now: float) -> list[Command]:
        batch = self._batches[event.key]
        numbers, rows = batch.claim(self._pool, event.rows)
        return [Settle(batch.remote_id or "", numbers, rows, event.file)]

    def _collected(self, event: Collected, now: float) -> list[Command]:
        batch = self._batches[event.key]
        batch.reads += 1
        batch.billed, batch.input_tokens = event.billed, event.input_tokens
        if batch.falls_short and batch.reads < _SHORT_READS:
            self._agenda.set(batch.key, now + backoff(batch.reads, spread(batch.key, batch.reads), base=_SHORT_PAUSE))
            return []
        return self._batches.finish(batch, now)

    # --- what goes wrong

    def _failed(self, event: Failed, now: float) -> list[Command]:
        # A step that fails after its outcome was told may name a batch that is done.
        commands: list[Command] = []
        for key in event.keys:
            batch = self._batches.get(key)
            if batch is None:
                commands += self._batches.uploaded_in_vain(key, ())
            else:
                commands += self._failed_step(batch, event.failure, now)
        return commands

    def _failed_step(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        if batch.stage is Stage.ENDED and not batch.unsettled:
            return self._batches.finish(batch, now)
        do = on_failure(batch.stage, failure.kind)
        batch.note_failure(failure.kind, now)
        if do is Do.AGAIN and now - (batch.failing_since or now) < patience(batch.stage, failure.kind):
            batch.attempts += 1
            if batch.stage is Stage.PACKED and failure.kind == "lost":
                batch.again, batch.unsure_until = True, now + self._timing.lookup
            self._agenda.set(batch.key, now + backoff(batch.attempts, spread(batch.key, batch.attempts)))
            return []
        if do is Do.LOOK:
            batch.step(Step.LOST)
            batch.opened_at = now
            return self._batches.next_steps([batch], now)
        if do is Do.REQUEUE:
            return self._batches.refused(batch, failure.limit, now)
        if batch.stage in (Stage.PACKED, Stage.UPLOADED):
            return self._batches.end(batch, for_rows(batch.stage, failure), now)
        return self._batches.give_up(batch, for_rows(batch.stage, failure), now)

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
        if any(batch.stage is Stage.OPEN for batch in batches):
            batches += self._due_soon(now)
        return commands if self._leaving else commands + self._batches.next_steps(batches, now)

    def _due_soon(self, now: float) -> list[Batch]:
        """Take out the open batches that would be asked for in a moment: one listing answers for all."""
        soon = now + self._timing.poll_min / 2
        keys = [name for name in self._agenda.until(soon) if isinstance(name, str)]
        batches = [batch for batch in map(self._batches.__getitem__, keys) if batch.stage is Stage.OPEN]
        for batch in batches:
            self._agenda.drop(batch.key)
        return batches

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
