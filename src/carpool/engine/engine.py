"""The decisions: what to submit, when to ask, whom to settle. No I/O, no clock, no randomness."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from msgspec import structs

from ..config import Timing
from ..models import NO_REPLY, BatchStatus, Failure, FileLimits, Lane, Queue, Run
from .agenda import Agenda
from .batch import (
    OVERDUE,
    VANISHED,
    Batch,
    Do,
    Stage,
    Step,
    condemned,
    for_rows,
    has_files,
    input_unseen,
    is_admitted,
    is_end,
    is_news,
    left_over,
    on_failure,
    patience,
)
from .cadence import backoff, check_pause, spread
from .commands import Cancel, Check, Collect, Command, Create, Delete, Fail, Find, Settle, Upload
from .events import (
    Abandoned,
    Accepted,
    Answered,
    Checked,
    Collected,
    Counted,
    Created,
    Event,
    Failed,
    Flush,
    Leave,
    Limited,
    NotFound,
    Packed,
    Returned,
    Tick,
    Uncountable,
    Uploaded,
)
from .lane import LaneStats
from .lanes import Lanes, Name
from .packing import Waiting

_SHORT_READS = 4  # times that files with fewer rows than they should have are fetched
_SHORT_PAUSE = 5.0  # seconds, doubling
_SILENT = Failure("lost", "The provider gives no reply about the batch.")
_NO_REPLY = Failure("failed", "The creation of the batch is never replied to, and no listing shows it.")
_TWICE = Failure("lost", "The provider gave one id to two batches.")
_VANISHED = Failure("missing", "The provider no longer knows the batch.")
_NEVER_FITS = Failure(
    "full",
    "Alone, and tried many times, the request found no room: the provider counts it above its enqueued-token limit. "
    "Shorten it, or use another model.",
)


class Engine:
    """Turn events into commands.

    `pool` prefixes all custom_ids and client keys. Times are wall-clock seconds.
    """

    def __init__(self, pool: str, timing: Timing, limits: FileLimits) -> None:
        self._pool = pool
        self._timing = timing
        self._agenda: Agenda[Name] = Agenda()
        self._lanes = Lanes(timing, limits, self._agenda)
        self._batches: dict[str, Batch] = {}
        self._keys: dict[str, str] = {}  # client keys by remote ids
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
            Abandoned: self._abandoned,
            Flush: self._flush,
            Leave: self._leave,
            Tick: self._tick,
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of an event and say what is to be done."""
        return self._on[type(event)](event, now)

    def deadline(self) -> float:
        """Give the time at which a `Tick` is due, `math.inf` when nothing is."""
        return self._agenda.next()

    def lanes(self) -> tuple[LaneStats, ...]:
        """Count what waits and what is submitted, and say how the queues stand."""
        submitted = Counter[Lane]()
        for batch in self._batches.values():
            submitted[batch.lane] += batch.unsettled
        return tuple(state.stats(lane, submitted[lane]) for lane, state in self._lanes.items())

    # --- limits, counting and packing

    def _limited(self, event: Limited, now: float) -> list[Command]:
        return self._lanes.limited(event, now) + self._make_room(event.queue, now)

    def _counted(self, event: Counted, now: float) -> list[Command]:
        return self._lanes.counted(event) + self._make_room(event.lane.queue, now)

    def _uncountable(self, event: Uncountable, now: float) -> list[Command]:
        return self._lanes.uncountable(event, now) + self._make_room(event.lane.queue, now)

    def _packed(self, event: Packed, now: float) -> list[Command]:
        batch = Batch(f"{self._pool}-b{event.number}", event.lane, event.runs)
        self._batches[batch.key] = batch
        self._lanes.packed(event, batch.key, batch.load, now)
        return [Upload(batch.packed()), *self._make_room(batch.lane.queue, now)]

    def _returned(self, event: Returned, now: float) -> list[Command]:
        batch = self._batches.get(event.key)
        return [] if batch is None else self._send_again(batch, (), now)  # it may have failed meanwhile

    def _make_room(self, queue: Queue, now: float) -> list[Command]:
        """Create the batches for which there is room, and choose the next ones."""
        let_in = [self._batches[key] for key in self._lanes.let_in(queue, now)]
        uploaded = [batch for batch in let_in if batch.stage is Stage.UPLOADED]
        forbidden = self._lanes.forbidden(queue)
        return [*self._resume(uploaded, now), *forbidden, *self._lanes.consider_all(queue, now)]

    def _abandoned(self, event: Abandoned, now: float) -> list[Command]:
        """Take out what nobody awaits: at once where it waits, and from a batch when its rows come back."""
        commands = self._lanes.abandoned(event, now)
        for batch in self._batches.values():
            if batch.stage in (Stage.PACKED, Stage.UPLOADED) or not is_admitted(batch.status.status):
                batch.abandoned |= event.rows.intersection(batch.rows)
                if len(batch.abandoned) == batch.total and batch.key in self._lanes[batch.lane].ledger.line:
                    commands += self._lanes.take_back([batch.key])
        return commands

    def _flush(self, event: Flush, now: float) -> list[Command]:
        return self._lanes.flush(now)

    # --- submitting

    def _uploaded(self, event: Uploaded, now: float) -> list[Command]:
        batch = self._batches.get(event.key)
        if batch is None:  # its rows were packed anew meanwhile
            return [Delete((event.file_id,))]
        batch.step(Step.UPLOADED)
        self._agenda.drop(batch.key)
        batch.file_id = event.file_id
        return [Delete((event.file_id,))] if self._leaving else self._resume([batch], now)

    def _created(self, event: Created, now: float) -> list[Command]:
        batch = self._batches[event.key]
        if event.status.id in self._keys:
            return self._failed_step(batch, _TWICE, now)
        if batch.stage is not Stage.LOST:
            batch.opened_at = now
        batch.step(Step.CREATED)
        self._lanes.created(batch.lane, batch.key, batch.load, now)
        self.created += 1
        batch.status = event.status
        self._keys[event.status.id] = batch.key
        return self._give_up(batch) if self._leaving else self._heard(batch, event.status, now)

    def _not_found(self, event: NotFound, now: float) -> list[Command]:
        commands: list[Command] = []
        for batch in map(self._batches.__getitem__, event.keys):
            searched = event.at - batch.opened_at >= self._timing.lookup
            if searched and now - (batch.failing_since or now) >= patience(batch.stage, "lost"):
                commands += self._end(batch, _NO_REPLY, now)
            elif searched and not self._leaving:
                batch.step(Step.NOT_FOUND)
                self._lanes.repeated(now)
                commands += self._resume([batch], now)
            else:
                batch.attempts += 1
                pause = backoff(batch.attempts, spread(batch.key, batch.attempts), base=0.5)
                last_look = max(now, batch.opened_at + self._timing.lookup)
                self._agenda.set(batch.key, min(now + pause, last_look))
        return commands

    # --- checking

    def _checked(self, event: Checked, now: float) -> list[Command]:
        commands: list[Command] = []
        seen = {status.id: status for status in event.statuses}
        # In the order of arrival: those that were refused together go out again in it.
        for batch in sorted((self._batches[self._keys[remote_id]] for remote_id in event.remote_ids), key=_first_row):
            remote_id = batch.status.id
            if remote_id in seen and seen[remote_id].status == NO_REPLY:
                commands += self._failed_step(batch, _SILENT, now)
            elif remote_id in seen:
                commands += self._heard(batch, seen[remote_id], now)
            elif now - (batch.denied_since or now) >= VANISHED:
                commands += self._end(batch, _VANISHED, now, keep_files=True)
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
        return self._make_room(batch.lane.queue, now) if news else []

    def _ended(self, batch: Batch, now: float) -> list[Command]:
        """Give the room of a batch to others, and read its files."""
        batch.step(Step.ENDED)
        if is_admitted(batch.status.status):
            self._lanes[batch.lane].ledger.release(batch.key, now)
        if not has_files(batch.status):
            return self._finish(batch, now)
        return [*self._resume([batch], now), *self._make_room(batch.lane.queue, now)]

    def _pause(self, batch: Batch, now: float) -> float:
        batch.checks += 1
        return check_pause(now - batch.opened_at, self._timing, spread(batch.key, batch.checks))

    # --- collecting and settling

    def _answered(self, event: Answered, now: float) -> list[Command]:
        batch = self._batches[event.key]
        numbers, rows = batch.claim(self._pool, event.rows)
        return [Settle(batch.remote_id or "", numbers, rows)]

    def _collected(self, event: Collected, now: float) -> list[Command]:
        batch = self._batches[event.key]
        batch.reads += 1
        batch.billed, batch.input_tokens = event.billed, event.input_tokens
        if batch.falls_short and batch.reads < _SHORT_READS:
            self._agenda.set(batch.key, now + backoff(batch.reads, spread(batch.key, batch.reads), base=_SHORT_PAUSE))
            return []
        return self._finish(batch, now)

    def _finish(self, batch: Batch, now: float) -> list[Command]:
        """Settle what no file mentioned: by what the validation said, or by how the batch ended."""
        status = batch.status
        if status.no_room is not None:
            return self._refused(batch, status.no_room.limit, now)
        if input_unseen(status):
            return self._upload_again(batch, now)
        guilty = {row: failure for row, failure in condemned(status, batch.rows).items() if row in batch.open}
        if guilty:
            failures = [Fail(status.id, (row,), failure) for row, failure in guilty.items()]
            return [*failures, *self._send_again(batch, guilty, now)]
        lane = self._lanes[batch.lane]
        lane.go_on()
        lane.ledger.report(*batch.bill, now)
        # What may still be in files that fell short stays there.
        return self._end(batch, left_over(status), now, keep_files=batch.falls_short)

    def _end(self, batch: Batch, failure: Failure, now: float, *, keep_files: bool = False) -> list[Command]:
        """Settle whatever is left of a batch with one failure and drop it."""
        commands: list[Command] = [Fail(batch.remote_id, frozenset(batch.open), failure)] if batch.open else []
        commands += self._drop(batch, batch.runs, now, keep_files=keep_files)
        return [*commands, *self._make_room(batch.lane.queue, now)]

    def _send_again(self, batch: Batch, without: Collection[int], now: float) -> list[Command]:
        """Drop a batch and let its unsettled rows wait again, but for some, and for those that nobody awaits."""
        rest = Waiting()
        rest.put_back(batch.runs)
        gone = batch.abandoned
        settled = rest.drop([row for row in batch.rows if row in without or row in gone or row not in batch.open])
        self._lanes.put_back(batch.lane, list(rest))
        dropped = self._drop(batch, settled, now)
        heavy = self._lanes.measure_up(batch.lane.queue, now)
        return [*dropped, *heavy, *self._make_room(batch.lane.queue, now)]

    def _refused(self, batch: Batch, limit: int | None, now: float) -> list[Command]:
        """Let the rows of a batch that found no room wait; what stands in line behind it is chosen anew."""
        ledger = self._lanes[batch.lane].ledger
        ledger.refuse(batch.key, limit, now, spread(batch.key, 0))
        if ledger.is_empty and batch.total > 1:
            ledger.split(batch.total)
        elif ledger.is_empty and self._lanes[batch.lane].refused_alone(_first_row(batch), batch.load, now):
            return self._end(batch, _NEVER_FITS, now)
        return [*self._lanes.take_back(ledger.line), *self._send_again(batch, (), now)]

    def _upload_again(self, batch: Batch, now: float) -> list[Command]:
        """Send the rows of a batch again whose input file the validation did not see yet."""
        if self._lanes[batch.lane].hold(now, spread(batch.key, 0)):
            return self._end(batch, left_over(batch.status), now)
        return self._send_again(batch, (), now)

    def _drop(self, batch: Batch, settled: Iterable[Run], now: float, *, keep_files: bool = False) -> list[Command]:
        """Forget a batch, the remote files it leaves and the segments that nobody needs any more."""
        batch.step(Step.DONE)
        self._agenda.drop(batch.key)
        del self._batches[batch.key]
        self._lanes.drop(batch.lane, batch.key, now)
        if batch.remote_id is not None:
            self._keys.pop(batch.remote_id, None)
        files = () if keep_files else batch.files
        return [*self._lanes.settled(settled), *([Delete(files)] if files else [])]

    # --- what goes wrong

    def _failed(self, event: Failed, now: float) -> list[Command]:
        # A step that fails after its outcome was told may name a batch that is done.
        batches = [self._batches[key] for key in event.keys if key in self._batches]
        return [command for batch in batches for command in self._failed_step(batch, event.failure, now)]

    def _failed_step(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        if batch.stage is Stage.ENDED and not batch.unsettled:
            return self._finish(batch, now)
        do = on_failure(batch.stage, failure.kind)
        batch.note_failure(failure.kind, now)
        if do is Do.AGAIN and now - (batch.failing_since or now) < patience(batch.stage, failure.kind):
            batch.attempts += 1
            batch.again = batch.again or (batch.stage is Stage.PACKED and failure.kind == "lost")
            self._agenda.set(batch.key, now + backoff(batch.attempts, spread(batch.key, batch.attempts)))
            return []
        if do is Do.LOOK:
            batch.step(Step.LOST)
            batch.opened_at = now
            return self._resume([batch], now)
        if do is Do.REQUEUE:
            return self._refused(batch, failure.limit, now)
        return self._end(
            batch, for_rows(batch.stage, failure), now, keep_files=batch.stage in (Stage.OPEN, Stage.ENDED)
        )

    # --- time

    def _tick(self, event: Tick, now: float) -> list[Command]:
        commands: list[Command] = []
        batches: list[Batch] = []
        for name in self._agenda.pop(now):
            match name:
                case Lane():
                    commands += self._lanes.consider(name, now)
                case Queue():
                    commands += self._make_room(name, now)
                case _:
                    batches.append(self._batches[name])
        if any(batch.stage is Stage.OPEN for batch in batches):
            batches += self._due_soon(now)
        return commands if self._leaving else commands + self._resume(batches, now)

    def _due_soon(self, now: float) -> list[Batch]:
        """Take out the open batches that would be asked for in a moment: one listing answers for all."""
        soon = now + self._timing.poll_min / 2
        keys = [name for name in self._agenda.until(soon) if isinstance(name, str)]
        batches = [batch for batch in map(self._batches.__getitem__, keys) if batch.stage is Stage.OPEN]
        for batch in batches:
            self._agenda.drop(batch.key)
        return batches

    def _resume(self, batches: list[Batch], now: float) -> list[Command]:
        """Give the commands that the stages of these batches call for."""
        commands: list[Command] = []
        lost: dict[str, str] = {}
        open_: list[Batch] = []
        for batch in batches:
            match batch.stage:
                case Stage.PACKED:
                    commands.append(Upload(batch.packed()))
                case Stage.UPLOADED:
                    commands += self._create(batch)
                case Stage.LOST:
                    lost[batch.key] = batch.file_id or ""
                case Stage.OPEN:
                    open_.append(batch)
                case _:
                    add_up = batch.status.input_tokens is None and self._lanes[batch.lane].ledger.cap < math.inf
                    commands.append(Collect(batch.key, batch.status, add_up))
        if lost:
            commands.append(Find(lost, now))
        if open_:
            open_.sort(key=lambda batch: batch.opened_at, reverse=True)
            keys = tuple(batch.key for batch in open_)
            commands.append(Check(keys, tuple(batch.remote_id or "" for batch in open_)))
        return commands

    def _create(self, batch: Batch) -> list[Command]:
        ledger = self._lanes[batch.lane].ledger
        if batch.key in ledger.line:
            return []
        return [Create(batch.packed(ledger.scale.guess(batch.load)), batch.file_id or "")]

    # --- leaving

    def _leave(self, event: Leave, now: float) -> list[Command]:
        self._leaving = self._lanes.leaving = True
        lost = [batch for batch in self._batches.values() if batch.stage is Stage.LOST]
        given_up = [command for batch in self._batches.values() for command in self._give_up(batch)]
        return [*given_up, *self._resume(lost, now)]

    def _give_up(self, batch: Batch) -> list[Command]:
        """Cancel what runs and delete its input; what is under way is given up when its outcome comes.

        The answers of an ended batch are paid for: its files stay, unless they are collected in time.
        """
        if batch.file_id is not None and batch.key in self._lanes[batch.lane].ledger.line:
            return [Delete((batch.file_id,))]
        if batch.stage is not Stage.OPEN or batch.remote_id is None or batch.file_id is None:
            return []
        return [Cancel(batch.remote_id), Delete((batch.file_id,))]


def _first_row(batch: Batch) -> int:
    return batch.runs[0].rows[0]
