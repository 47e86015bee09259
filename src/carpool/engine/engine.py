"""The decisions: when to pack, what to submit, when to ask, whom to settle. No I/O, no clock, no randomness."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias

from msgspec import structs

from ..config import Timing
from ..models import NO_REPLY, BatchStatus, Failure, FileLimits, Lane, Run
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
    is_end,
    is_news,
    left_over,
    no_room,
    on_failure,
    patience,
)
from .cadence import Pace, backoff, check_pause, spread
from .commands import Cancel, Check, Collect, Command, Create, Delete, Discard, Fail, Find, Record, Settle, Upload
from .events import (
    Abandoned,
    Accepted,
    Answered,
    Checked,
    Collected,
    Created,
    Event,
    Failed,
    Flush,
    Leave,
    NotFound,
    Packed,
    Tick,
    Uploaded,
)
from .lane import LaneState, LaneStats
from .packing import Waiting, first_fit
from .segments import Segments

Name: TypeAlias = Lane | str  # on the agenda: a lane, or a batch's key

_SHORT_READS = 4  # times that files with fewer rows than they should have are fetched
_SHORT_PAUSE = 5.0  # seconds, doubling
_SILENT = Failure("lost", "The provider gives no reply about the batch.")
_NO_REPLY = Failure("failed", "The creation of the batch is never replied to, and no listing shows it.")
_TWICE = Failure("lost", "The provider gave one id to two batches.")
_VANISHED = Failure("missing", "The provider no longer knows the batch.")
_NEVER_FITS = Failure("full", "Alone, and tried many times, the request found no room under the enqueued-token limit.")


class Engine:
    """Turn events into commands.

    `pool` prefixes all custom_ids and client keys. Times are wall-clock seconds.
    """

    def __init__(self, pool: str, timing: Timing, limits: FileLimits) -> None:
        self._pool = pool
        self._timing = timing
        self._limits = limits
        self._lanes: dict[Lane, LaneState] = {}
        self._batches: dict[str, Batch] = {}
        self._keys: dict[str, str] = {}  # client keys by remote ids
        self._segments = Segments()
        self._agenda: Agenda[Name] = Agenda()
        self._pace = Pace(limits.creations_per_hour)
        self._packed_count = 0
        self._decided = 0  # packings that are being recorded
        self.created = 0  # batches
        self._leaving = False
        self._on: dict[type[Event], Callable[[Any, float], list[Command]]] = {
            Accepted: self._accepted,
            Packed: self._packed,
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
        """Count what waits and what is submitted."""
        submitted = Counter[Lane]()
        for batch in self._batches.values():
            submitted[batch.lane] += batch.unsettled
        return tuple(
            LaneStats(lane, state.waiting.rows, submitted[lane], len(state.batches))
            for lane, state in self._lanes.items()
        )

    # --- collecting and packing

    def _accepted(self, event: Accepted, now: float) -> list[Command]:
        lane, run = event.lane, event.run
        state = self._lanes.get(lane)
        if state is None:
            state = self._lanes[lane] = LaneState(self._limits)
        state.add(run, now)
        return [*map(Discard, self._segments.add(lane, run)), *self._consider(lane, now)]

    def _consider(self, lane: Lane, now: float) -> list[Command]:
        """Pack what is due, or note when it will be: later while there is no room, or creations are scarce."""
        state = self._lanes[lane]
        state.flushing = state.flushing and state.waiting.rows > 0
        due = state.due(self._timing)
        if state.packing or due == math.inf or self._leaving:
            self._agenda.drop(lane)
            return []
        due = max(due, state.held_until, self._pace.ready_at(now, self._decided))
        if due > now:
            self._agenda.set(lane, due, state.since)
            return []
        state.packing = tuple(first_fit(state.waiting, state.limits))
        self._decided += 1
        self._packed_count += 1
        return [Record(Packed(self._packed_count, lane, state.packing))]

    def _packed(self, event: Packed, now: float) -> list[Command]:
        state = self._lanes[event.lane]
        if state.packing:
            state.packing = ()
            self._decided -= 1
        state.waiting.take(event.runs)
        self._packed_count = max(self._packed_count, event.number)
        self._pace.take(now)
        batch = Batch(f"{self._pool}-b{event.number}", event.lane, event.runs)
        self._batches[batch.key] = batch
        state.batches.add(batch.key)
        return [Upload(batch.packed), *self._consider(event.lane, now)]

    def _abandoned(self, event: Abandoned, now: float) -> list[Command]:
        commands: list[Command] = []
        for lane, state in self._lanes.items():
            dropped = state.waiting.drop(event.rows.difference(*(run.rows for run in state.packing)))
            if dropped:
                commands += map(Discard, self._segments.release(dropped))
                commands += self._consider(lane, now)
        return commands

    def _flush(self, event: Flush, now: float) -> list[Command]:
        commands: list[Command] = []
        for lane, state in self._lanes.items():
            state.flushing = state.waiting.rows > 0
            commands += self._consider(lane, now)
        return commands

    # --- submitting

    def _uploaded(self, event: Uploaded, now: float) -> list[Command]:
        batch = self._batches[event.key]
        batch.step(Step.UPLOADED)
        batch.file_id = event.file_id
        return [Delete((event.file_id,))] if self._leaving else self._resume([batch], now)

    def _created(self, event: Created, now: float) -> list[Command]:
        batch = self._batches[event.key]
        if event.status.id in self._keys:
            return self._failed_step(batch, _TWICE, now)
        if batch.stage is not Stage.LOST:
            batch.opened_at = now
        batch.step(Step.CREATED)
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
                self._pace.take(now)
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
        for remote_id in event.remote_ids:
            batch = self._batches[self._keys[remote_id]]
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
        return []

    def _ended(self, batch: Batch, now: float) -> list[Command]:
        batch.step(Step.ENDED)
        return self._resume([batch], now) if has_files(batch.status) else self._finish(batch, now)

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
        if batch.falls_short and batch.reads < _SHORT_READS:
            self._agenda.set(batch.key, now + backoff(batch.reads, spread(batch.key, batch.reads), base=_SHORT_PAUSE))
            return []
        return self._finish(batch, now)

    def _finish(self, batch: Batch, now: float) -> list[Command]:
        """Settle what no file mentioned: by what the validation said, or by how the batch ended."""
        status = batch.status
        if no_room(status):
            return self._requeue(batch, now)
        if input_unseen(status):
            return self._upload_again(batch, now)
        guilty = {row: failure for row, failure in condemned(status, batch.rows).items() if row in batch.open}
        if guilty:
            failures = [Fail(status.id, (row,), failure) for row, failure in guilty.items()]
            return [*failures, *self._send_again(batch, guilty, now)]
        self._lanes[batch.lane].admit()
        # What may still be in files that fell short stays there.
        return self._end(batch, left_over(status), now, keep_files=batch.falls_short)

    def _end(
        self, batch: Batch, failure: Failure, now: float, *, keep_files: bool = False, room: bool = True
    ) -> list[Command]:
        """Settle whatever is left of a batch with one failure and drop it; its lane has `room` again."""
        commands: list[Command] = [Fail(batch.remote_id, frozenset(batch.open), failure)] if batch.open else []
        commands += self._drop(batch, batch.runs, keep_files=keep_files)
        if room:
            self._lanes[batch.lane].held_until = 0.0
        return commands + self._consider(batch.lane, now)

    def _send_again(self, batch: Batch, without: Collection[int], now: float) -> list[Command]:
        """Drop a batch and put its unsettled rows, but for some, back to the front of their lane."""
        rest = Waiting()
        rest.put_back(batch.runs)
        settled = rest.drop([row for row in batch.rows if row in without or row not in batch.open])
        lane = self._lanes[batch.lane]
        lane.waiting.put_back(list(rest))
        lane.flushing = True
        return [*self._drop(batch, settled), *self._consider(batch.lane, now)]

    def _requeue(self, batch: Batch, now: float) -> list[Command]:
        """Let the rows of a batch that found no room wait; one that was alone in its queue goes again in halves.

        The queue is a model's, whatever the endpoint (contracts A9).
        """
        same = (lane for name, lane in self._lanes.items() if name.model == batch.lane.model)
        alone = sum(len(lane.batches) for lane in same) == 1
        again_and_again = self._lanes[batch.lane].refuse(batch.total, now, spread(batch.key, 0), halve=alone)
        if again_and_again and alone and batch.total == 1:
            return self._end(batch, _NEVER_FITS, now, room=False)
        return self._send_again(batch, (), now)

    def _upload_again(self, batch: Batch, now: float) -> list[Command]:
        """Send the rows of a batch again whose input file the validation did not see yet."""
        if self._lanes[batch.lane].refuse(batch.total, now, spread(batch.key, 0), halve=False):
            return self._end(batch, left_over(batch.status), now, room=False)
        return self._send_again(batch, (), now)

    def _drop(self, batch: Batch, settled: Iterable[Run], *, keep_files: bool = False) -> list[Command]:
        """Forget a batch, the remote files it leaves and the segments that nobody needs any more."""
        batch.step(Step.DONE)
        self._agenda.drop(batch.key)
        del self._batches[batch.key]
        self._lanes[batch.lane].batches.discard(batch.key)
        if batch.remote_id is not None:
            self._keys.pop(batch.remote_id, None)
        files = () if keep_files else batch.files
        return [*map(Discard, self._segments.release(settled)), *([Delete(files)] if files else [])]

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
            return self._requeue(batch, now)
        return self._end(
            batch, for_rows(batch.stage, failure), now, keep_files=batch.stage in (Stage.OPEN, Stage.ENDED)
        )

    # --- time

    def _tick(self, event: Tick, now: float) -> list[Command]:
        commands: list[Command] = []
        batches: list[Batch] = []
        for name in self._agenda.pop(now):
            if isinstance(name, Lane):
                commands += self._consider(name, now)
            else:
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
                    commands.append(Upload(batch.packed))
                case Stage.UPLOADED:
                    commands.append(Create(batch.packed, batch.file_id or ""))
                case Stage.LOST:
                    lost[batch.key] = batch.file_id or ""
                case Stage.OPEN:
                    open_.append(batch)
                case _:
                    commands.append(Collect(batch.key, batch.status))
        if lost:
            commands.append(Find(lost, now))
        if open_:
            open_.sort(key=lambda batch: batch.opened_at, reverse=True)
            keys = tuple(batch.key for batch in open_)
            commands.append(Check(keys, tuple(batch.remote_id or "" for batch in open_)))
        return commands

    # --- leaving

    def _leave(self, event: Leave, now: float) -> list[Command]:
        self._leaving = True
        lost = [batch for batch in self._batches.values() if batch.stage is Stage.LOST]
        given_up = [command for batch in self._batches.values() for command in self._give_up(batch)]
        return [*given_up, *self._resume(lost, now)]

    def _give_up(self, batch: Batch) -> list[Command]:
        """Cancel what runs and delete its input; what is under way is given up when its outcome comes.

        The answers of an ended batch are paid for: its files stay, unless they are collected in time.
        """
        if batch.stage is not Stage.OPEN or batch.remote_id is None or batch.file_id is None:
            return []
        return [Cancel(batch.remote_id), Delete((batch.file_id,))]
