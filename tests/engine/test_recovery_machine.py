"""Processes that die at any moment, and others that take over what they left: nothing is lost, nothing is paid twice.

The test is the journal, the shell of each process, and the provider. A process records the facts of one event together;
what depends on them is done afterwards. It may die before or after either: of what was under way anything may have
happened at the provider, whose listings lag by less than the lookup. What no file has answered goes again, but nothing
that was sent live.
"""

import math
import os
from array import array
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

import hypothesis.strategies as st
from engine_kit import NOW, POOL, make_run, rows_of, with_tokens
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.config import Retry, Timing
from carpool.engine.claims import State
from carpool.engine.commands import (
    Anew,
    Cancel,
    Check,
    Claim,
    Collect,
    Command,
    Count,
    Create,
    Delete,
    Discard,
    Fail,
    Find,
    LetGo,
    Record,
    SendLive,
    Settle,
    Step,
    Upload,
)
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Admitted,
    Answered,
    Asked,
    Checked,
    Claimed,
    Cleared,
    Collected,
    Counted,
    Created,
    Discarded,
    Done,
    Escalate,
    Escalated,
    Event,
    Failed,
    Flush,
    Learned,
    Leave,
    Limited,
    LiveEnded,
    NotFound,
    Packed,
    Recovered,
    Released,
    Settled,
    Spent,
    Tick,
    Uncountable,
    Uploaded,
)
from carpool.engine.limit import Source
from carpool.engine.packing import stretches
from carpool.engine.stages import OVERDUE
from carpool.journal.claims import Claims
from carpool.models import BatchProblem, BatchStatus, Failure, FileLimits, Lane, NoRoom, PackedBatch, Queue, Row, Run
from carpool.naming import shard_of, span_of

Stamped: TypeAlias = tuple[float, Event]

TIMING = Timing(linger=1, max_linger=3, poll_min=2, poll_max=60, poll_fraction=0.05, lookup=10)
LANES = (Lane("/v1/responses", "a"), Lane("/v1/embeddings", "a"))  # of one queue
RECORDED = (
    Accepted,
    Packed,
    Uploaded,
    Created,
    Settled,
    Done,
    Cleared,
    Learned,
    Discarded,
    Escalated,
    Admitted,
    Released,
)
ODD = [(500, ""), (0, "batch_expired"), (400, "")]
RETRY = Retry(max_attempts=2, max_expiries=2)
COURSE = ["validating", "scheduling", "in_progress", "finalizing", "cancelling"]
ENDS = ["completed", "expired", "cancelled", "failed"]
FAILURES: dict[type[Step], list[str]] = {
    Upload: ["busy", "lost", "rejected", "disk"],
    Claim: ["disk"],
    Create: ["busy", "lost", "gone", "full", "rejected"],
    Find: ["busy", "lost", "auth"],
    Check: ["busy", "lost"],
    Collect: ["busy", "lost", "disk"],
}


# --- the provider


@dataclass
class Remote:
    """A batch at the provider; listings show it from `visible_at` on."""

    key: str
    rows: list[int]
    file_id: str
    status: BatchStatus
    visible_at: float
    created_at: float
    past: list[str] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self.status.status in ENDS

    def complete(self) -> None:
        """Let all its rows be answered."""
        self.answered = list(self.rows)
        self.status = BatchStatus(self.status.id, self.key, "completed", output_file_id="out")


class Provider:
    """What outlives all processes."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}  # client keys of the inputs that are there
        self.remotes: dict[str, Remote] = {}
        self.of_row: dict[int, list[Remote]] = {}
        self._keys: set[str] = set()
        self._uploads = 0

    def upload(self, batch: PackedBatch) -> str:
        """Take a file; one that is looked for first is found."""
        found = [file_id for file_id, key in self.files.items() if key == batch.key]
        if batch.again and found:
            return found[0]
        self._uploads += 1
        file_id = f"file-{self._uploads}"
        self.files[file_id] = batch.key
        return file_id

    def create(self, step: Create, now: float, lag: float, over: Collection[str]) -> Remote:
        """Create a batch: what is in one that may run, or whose files may hold answers yet, is paid twice."""
        batch, rows = step.batch, rows_of(step.batch.runs)
        assert self.files.get(step.file_id) == batch.key, "the input of another batch, or a deleted one"
        assert batch.key not in self._keys, "created twice"
        self._keys.add(batch.key)
        others = {other.status.id: other for row in rows for other in self.of_row.get(row, ())}
        for other in others.values():
            assert other.key in over, "rows are sent again before their batch is over"
            assert other.is_over or now - other.created_at >= OVERDUE, "rows are paid twice"
        id_ = f"batch_{len(self.remotes) + 1}"
        remote = Remote(batch.key, rows, step.file_id, BatchStatus(id_, batch.key, "validating"), now + lag, now)
        self.remotes[id_] = remote
        for row in rows:
            self.of_row.setdefault(row, []).append(remote)
        return remote

    def delete(self, command: Delete) -> None:
        """Delete files, and those of a batch of which one may have been uploaded without a reply."""
        sought = [] if command.sought is None else [command.sought.key]
        gone = [file_id for file_id, key in self.files.items() if file_id in command.file_ids or key in sought]
        for file_id in gone:
            del self.files[file_id]


# --- the journal


def number_of(key: str) -> int:
    return int(key.rpartition("-b")[2])


class Journal:
    """Keep what a journal keeps."""

    def __init__(self) -> None:
        self.accepted: list[tuple[float, Accepted]] = []
        self.batches: dict[int, list[Stamped]] = {}
        self.settled: set[int] = set()
        self.done: list[float] = []  # when batches were packed that are over
        self.leftovers: dict[int, Stamped] = {}  # what batches that are over left at the provider
        self.kept: set[str] = set()  # batches whose files may hold answers yet
        self.learned: dict[Queue, tuple[float, Learned]] = {}
        self.claims = Claims({})
        self.discarded: set[int] = set()
        self.escalated: list[tuple[float, Escalated]] = []
        self.over: set[str] = set()  # batches
        self._numbers: set[int] = set()

    def record(self, facts: Iterable[Stamped]) -> None:
        """Take facts, all of them."""
        for at, fact in facts:
            self._take(fact, at)
        runs = [run for runs in self.runs.values() for run in runs]
        needed = {run.segment for run in runs if not self.settled.issuperset(run.rows)}
        assert needed.isdisjoint(self.discarded), "a batch needs a segment that was discarded"
        assert self.claims.held.keys() <= self.batches.keys(), "room is held by a batch that is over"

    def _take(self, fact: Event, at: float) -> None:
        match fact:
            case Accepted(run=run):
                self.accepted.append((at, Accepted(fact.lane, run.part(0, len(run)), fact.rich)))
            case Packed():
                self._packed(fact, at)
            case Uploaded(key=key) | Created(key=key):
                self.batches.get(number_of(key), []).append((at, fact))
            case Settled(rows=rows):
                self.settled.update(rows)
            case Done():
                self._done(fact, at)
            case Cleared(key=key):
                self.leftovers.pop(number_of(key), None)
            case Learned(queue=queue):
                self.learned[queue] = at, fact
            case Discarded(segment=segment):
                self._discard(segment)
            case Escalated(runs=runs):
                self.escalated += [(at, Escalated(fact.lane, (run,))) for run in runs]
            case _:
                self._take_room(fact, at)

    def _take_room(self, fact: Event, at: float) -> None:
        match fact:
            case Admitted():
                self.claims.admit(fact, at)
            case Released():
                self.claims.release(fact, at)

    @property
    def lived(self) -> set[int]:
        """Give the rows that were sent live, or may have been."""
        return {row for _, fact in self.escalated for row in rows_of(fact.runs)}

    def _packed(self, fact: Packed, at: float) -> None:
        assert fact.number not in self._numbers, "a batch number was given twice"
        self._numbers.add(fact.number)
        self.batches[fact.number] = [(at, fact)]

    def _done(self, fact: Done, at: float) -> None:
        self.over.add(fact.key)
        self.claims.held.pop(number_of(fact.key), None)
        ((packed_at, _), *_) = self.batches.pop(number_of(fact.key))
        self.done.append(packed_at)
        if fact.leaves is not None:
            self.leftovers[number_of(fact.key)] = at, fact
        elif fact.batch_id is not None:
            self.kept.add(fact.key)

    def _discard(self, segment: int) -> None:
        assert segment not in self.discarded
        self.discarded.add(segment)
        self.accepted = [entry for entry in self.accepted if entry[1].run.segment != segment]
        self.escalated = [entry for entry in self.escalated if entry[1].runs[0].segment != segment]

    @property
    def runs(self) -> dict[int, tuple[Run, ...]]:
        """Give the rows of the batches that are not over."""
        return {number: fact.runs for number, ((_, fact), *_) in self.batches.items() if isinstance(fact, Packed)}

    def claim(self, claim: Claim, heard: int = 0) -> Claimed:
        """Give room to a batch, if there is some."""
        return self.claims.claim(claim, self.batches, self.learned, heard)

    def holds_room(self, key: str) -> bool:
        """Tell whether a batch has room."""
        held = self.claims.held.get(number_of(key))
        return held is not None and held.state != State.WAITS

    def unsettled(self, shards: Collection[int]) -> list[int]:
        """Give the rows that have not come to an end, of segments of these shards."""
        runs = [fact.run for _, fact in self.accepted if shard_of(fact.run.segment) in shards]
        return [row for run in runs for row in run.rows if row not in self.settled]

    def load(self, shards: Collection[int], now: float) -> list[Stamped]:
        """Tell again what is unfinished; segments of which all rows are settled are dropped."""
        told: list[Stamped] = [*self.learned.values()]
        told.append((now, Spent(tuple(sorted(at for at in self.done if at > now - 3_600)))))
        told += self._accepted_again(shards)
        needed = {fact.run.segment for _, fact in told if isinstance(fact, Accepted)}
        needed |= {run.segment for runs in self.runs.values() for run in runs}
        for segment in {fact.run.segment for _, fact in self.accepted if shard_of(fact.run.segment) in shards} - needed:
            self._discard(segment)
        batches = (facts for number, facts in sorted(self.batches.items()) if shard_of(number) in shards)
        leftovers = (left for number, left in sorted(self.leftovers.items()) if shard_of(number) in shards)
        escalated = (entry for entry in self.escalated if shard_of(entry[1].runs[0].segment) in shards)
        return [*told, *chain.from_iterable(batches), *escalated, *leftovers]

    def _accepted_again(self, shards: Collection[int]) -> Iterator[tuple[float, Accepted]]:
        for at, fact in self.accepted:
            if shard_of(fact.run.segment) in shards:
                for is_settled, part in stretches(fact.run, (row in self.settled for row in fact.run.rows)):
                    if not is_settled:
                        yield at, Accepted(fact.lane, part, fact.rich)


# --- one process


@dataclass
class Group:
    """Facts that are recorded together, and what is done then."""

    facts: list[Stamped]
    then: list[Command]


@dataclass
class Place:
    """Where a row lies."""

    lane: Lane
    segment: int


class Process:
    """Feed an engine as the collector does, and look at all that it says."""

    def __init__(self, machine: "RecoveryMachine", shard: int) -> None:
        self.machine = machine
        self.shard = shard
        self.shards = {shard}
        self.engine = machine.new_engine(shard)
        self.groups: deque[Group] = deque()  # not recorded yet
        self.steps: list[Step] = []  # outstanding
        self.counts: list[Count] = []  # outstanding
        self.places: dict[int, Place] = {}  # rows that are known and have not come to an end
        self.awaited: set[int] = set()
        self.wanted: set[int] = set()  # that somebody awaited at any time
        self.left: set[int] = set()  # of which the caller went
        self.nowhere: set[int] = set()  # that are said to be nowhere: they are paid anew
        self.ended: set[int] = set()
        self.batches: dict[str, list[int]] = {}
        self.calls: list[int] = []  # rows whose live calls are under way
        self.flying: set[int] = set()  # these, and those whose calls wait for the journal
        self.lived: set[int] = set()  # rows that were ever sent live
        self.lost: set[int] = set()  # that an earlier process sent live in vain, and that are in no batch
        self.ends: dict[str, str] = {}  # how batches ended, as far as was told
        self.tries = Counter[int]()  # of rows, in batches that ran, in this process
        self.growing: dict[Lane, tuple[int, int]] = {}
        self.queues: set[Queue] = set()
        self._heard = 0  # of what other processes did
        self._gathered: dict[str, list[int]] = {}
        self._numbers = self._segments = span_of(shard)[0]

    @property
    def now(self) -> float:
        """Give the time."""
        return self.machine.now

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is under way."""
        return not (self.steps or self.counts or self.groups or self.calls)

    # --- feeding

    def feed(self, event: Event) -> list[Command]:
        """Tell the engine; gives what it says."""
        events, group, said = deque((event,)), Group([], []), list[Command]()
        while events:
            event = events.popleft()
            self._note(event, group)
            commands = self.engine.handle(event, self.now)
            said += commands
            for command in commands:
                self._take(command, group, events)
        self.groups.append(group)
        return said

    def _note(self, event: Event, group: Group) -> None:
        match event:
            case Packed():
                self._see_packed(event)
            case Created(key=key, status=status):
                self._see_status(key, status)
            case Checked(statuses=statuses):
                for status in statuses:
                    self._see_status(self.machine.provider.remotes[status.id].key, status)
            case Done(key=key, batch_id=batch_id):
                if self.ends.get(key) in ("completed", "expired", "cancelled"):
                    self.tries.update(row for row in self.batches[key] if row in self.places)
                del self.batches[key]
                group.facts.append((self.now, settled(self._gathered.pop(batch_id or "", []))))
        if isinstance(event, RECORDED):
            group.facts.append((self.now, event))

    def _see_settled(self, settle: Settle, group: Group) -> None:
        self._see_ended(settle.numbers)
        if settle.batch_id:
            self._gathered.setdefault(settle.batch_id, []).extend(settle.numbers)
        else:  # it came live: that is recorded at once
            group.facts.append((self.now, settled(settle.numbers)))

    def _see_status(self, key: str, status: BatchStatus) -> None:
        if status.status in ENDS:
            self.ends[key] = status.status

    def _take(self, command: Command, group: Group, events: deque[Event]) -> None:
        match command:
            case Record(fact=fact):
                events.append(fact)
            case Settle():
                self._see_settled(command, group)
            case Fail(numbers=numbers):
                self._see_ended(numbers)
                group.facts.append((self.now, settled(numbers)))
            case LetGo():
                pass
            case Anew(numbers=numbers):
                self._see_anew(numbers)
            case SendLive():
                self._see_sent_live(command)
                group.then.append(command)
            case Count():
                self._see_count(command)
            case Find() | Check() | Collect():
                self._see_step(command)
            case _:
                group.then.append(command)
        if isinstance(command, Discard):
            self._see_discard(command.segment)
            group.facts.append((self.now, Discarded(command.segment)))

    def commit(self, count: int | None = None, *, perform: bool = True) -> None:
        """Record the facts of so many events, and do what depends on them."""
        for _ in range(len(self.groups) if count is None else count):
            group = self.groups.popleft()
            self.machine.journal.record(group.facts)
            for command in group.then if perform else ():
                self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Upload() | Claim() | Create():
                self._see_step(command)
            case SendLive():
                rows = rows_of(command.runs)
                assert self.machine.paid_live.isdisjoint(rows), "sent live twice"
                assert self.machine.journal.lived.issuperset(rows), "sent live before it was recorded"
                self.machine.paid_live.update(rows)
                self.calls += rows
            case Cancel(remote_id=remote_id):
                remote = self.machine.provider.remotes[remote_id]
                if not remote.is_over:
                    remote.status = BatchStatus(remote_id, remote.key, "cancelled")
            case Delete(key=key):
                self.machine.provider.delete(command)
                if key is not None:
                    self.feed(Cleared(key))

    # --- what must hold

    def _see_packed(self, fact: Packed) -> None:
        rows = rows_of(fact.runs)
        assert shard_of(fact.number) == self.shard, "numbered like a batch of another process"
        assert len(set(rows)) == len(rows) > 0
        assert {self.places[row].lane for row in rows} == {fact.lane}  # a row that has come to an end is a KeyError
        assert self.wanted.issuperset(rows), "sent though nobody asked for it"
        assert self.nowhere.isdisjoint(rows), "sent though it was said to be nowhere"
        assert self.lived.isdisjoint(rows), "sent again though it was sent live"
        assert self.machine.journal.lived.isdisjoint(rows), "sent again though an earlier process sent it live"
        most = RETRY.max_attempts - 1 + RETRY.max_expiries - 1
        assert max(self.tries[row] for row in rows) <= most, "sent too often"
        for key, others in self.batches.items():
            assert set(others).isdisjoint(rows), f"still in {key}"
        assert [line for run in fact.runs for line in lines_of(run)] == [self.machine.lines[row] for row in rows]
        limits = self.machine.limits
        assert len(rows) <= limits.requests
        assert sum(run.size for run in fact.runs) <= limits.bytes
        self.batches[f"{POOL}-b{fact.number}"] = rows

    def claim(self, step: Claim) -> None:
        """Ask the journal for room."""
        claimed = self.machine.journal.claim(step, self._heard)
        self._heard = self.machine.journal.claims.newest
        self.feed(claimed)

    def _see_ended(self, numbers: Collection[int]) -> None:
        for row in numbers:
            assert row not in self.ended, "settled twice"
            assert row not in self.nowhere, "settled though it was said to be nowhere"
            self.ended.add(row)
            del self.places[row]
        self.lost.difference_update(numbers)
        self.awaited.difference_update(numbers)
        self.left.difference_update(numbers)

    def _see_sent_live(self, command: SendLive) -> None:
        rows = rows_of(command.runs)
        assert {self.places[row].lane for row in rows} == {command.lane}
        assert self.lived.isdisjoint(rows), "sent live twice"
        assert not self.machine.journal.discarded & {run.segment for run in command.runs}
        self.lived.update(rows)
        self.flying.update(rows)

    def _see_count(self, command: Count) -> None:
        assert rows_of(command.runs)
        assert not self.machine.journal.discarded & {run.segment for run in command.runs}
        self.counts.append(command)

    def _see_anew(self, numbers: Collection[int]) -> None:
        held = {row for rows in self.batches.values() for row in rows if row in self.places}
        assert held.isdisjoint(numbers), "they are in a batch"
        known = self.places.keys() & numbers
        assert known <= self.left, "they are lost"
        self.nowhere |= known
        self.awaited -= known
        for row in known:
            del self.places[row]

    def _see_discard(self, segment: int) -> None:
        assert segment not in {segment for segment, _ in self.growing.values()}
        rows = {row for row, place in self.places.items() if place.segment == segment}
        assert rows <= self.left, f"{rows - self.left} are not settled"

    def _see_step(self, step: Step) -> None:
        for key in step.keys:
            # An upload that waited for the journal may come to nothing.
            assert key in self.batches or isinstance(step, Upload), "a batch goes on that is over"
            assert all(key not in other.keys for other in self.steps), "two steps of a batch at once"
        if isinstance(step, Upload) and step.batch.key in self.batches:
            assert not self.machine.journal.discarded & {run.segment for run in step.batch.runs}
        if isinstance(step, Find):
            for key in step.keys:
                (packed_at, _), *_ = self.machine.journal.batches[number_of(key)]
                assert step.since <= packed_at <= step.at == self.now
        self.steps.append(step)

    def check(self) -> None:
        """Look at the figures."""
        for stats in self.engine.lanes():
            assert stats.enqueued >= 0
            assert stats.utilisation is None or 0 <= stats.utilisation <= 1.001
            assert min(stats.waiting, stats.submitted, stats.batches, stats.dormant) >= 0
        self.lost &= self.places.keys()
        if not self.left:
            counted = {stats.lane: stats.waiting + stats.submitted + stats.dormant for stats in self.engine.lanes()}
            apart = self.lost | self.alone | self.sent_in_vain
            known = Counter(place.lane for row, place in self.places.items() if row not in apart)
            assert counted == {lane: known[lane] for lane in counted}
        if self.awaited and self.is_idle:
            assert self.engine.deadline() < math.inf, "callers wait for nothing"

    @property
    def alone(self) -> set[int]:
        """Give the rows that are in no batch, and whose live calls are under way."""
        held = self.engine._batches  # noqa: SLF001 - of one that is left to the next process no command may tell
        batches = [rows for key, rows in self.batches.items() if held.get(key) is not None]
        return self.flying.intersection(self.places).difference(*batches)

    @property
    def sent_in_vain(self) -> set[int]:
        """Give the rows that an earlier process sent live, and that are in no batch: they are kept to be asked for."""
        held = self.engine._batches  # noqa: SLF001 - as above
        batches = [rows for key, rows in self.batches.items() if held.get(key) is not None]
        lived = self.machine.journal.lived - self.flying
        return lived.intersection(self.places).difference(*batches)

    # --- callers

    def escalate(self, rows: frozenset[int]) -> None:
        """Send rows live, wherever they are, but for those that were."""
        self.feed(Escalate(rows))
        assert rows <= self.lived | self.machine.journal.lived

    def end_live(self, row: int, end: int | None) -> None:
        """Let a live call come to its end."""
        self.calls.remove(row)
        alone = row in self.alone
        self.flying.discard(row)
        answer = None if end is None else Row(f"{POOL}-{row}", end, "", b"{}")
        self.feed(LiveEnded(row, answer))
        if alone or end == 200:
            assert row not in self.places, "not settled by what its live call came to"

    def accept(self, lane: Lane, sizes: list[int], *, new_segment: bool) -> None:
        """Let rows join a lane."""
        if lane not in self.growing or new_segment:
            self._segments += 1
            self.growing[lane] = self._segments, 0
        segment, offset = self.growing[lane]
        self.growing[lane] = segment, offset + sum(sizes)
        rows = range(self._numbers + 1, self._numbers + 1 + len(sizes))
        self._numbers += len(sizes)
        self.places.update((row, Place(lane, segment)) for row in rows)
        self.awaited.update(rows)
        self.wanted.update(rows)
        for limited in self.limits_of(lane.queue):
            self.feed(limited)
        run = make_run(rows, segment=segment, offset=offset, size=sizes)
        self.machine.lines.update(zip(rows, lines_of(run), strict=True))
        self.feed(Accepted(lane, run))

    def limits_of(self, queue: Queue) -> list[Limited]:
        """Say what the user or the table says of a queue that is heard of first."""
        if queue in self.queues or self.machine.limit is None:
            return []
        self.queues.add(queue)
        return [Limited(queue, self.machine.limit, self.machine.source)]

    def ask(self, rows: Collection[int]) -> None:
        """Let callers ask again for rows."""
        self.wanted.update(rows)
        self.awaited.update(row for row in rows if row in self.places)
        self.feed(Asked(tuple(rows)))
        self.left.difference_update(rows)

    def abandon(self, rows: frozenset[int]) -> None:
        """Let callers go."""
        self.awaited -= rows
        self.left |= rows
        self.feed(Abandoned(rows))

    def leave(self) -> None:
        """End in good order."""
        self.commit()
        self.growing = {}
        self.feed(Leave(keep=True))

    # --- recovery

    def take_over(self, shards: set[int]) -> list[Stamped]:
        """Hear what dead processes left, and give it; it goes on with `Recovered`."""
        self.shards |= shards
        told = self._told_again(self.machine.journal.load(shards, self.now))
        lanes, deadline = self.engine.lanes(), self.engine.deadline()
        for at, fact in told:
            self.engine.replay(fact, at)
        assert self.engine.deadline() == deadline
        for before, after in zip(lanes, self.engine.lanes(), strict=False):
            assert (before.lane, before.waiting, before.refusals) == (after.lane, after.waiting, after.refusals)
            assert (before.submitted, before.batches, before.dormant) <= (after.submitted, after.batches, after.dormant)
        for _, fact in told:
            match fact:
                case Accepted(lane=lane, run=run):
                    self.places.update((row, Place(lane, run.segment)) for row in run.rows)
                case Packed(number=number, runs=runs):
                    self.batches[f"{POOL}-b{number}"] = rows_of(runs)
        lived = {row for _, fact in told if isinstance(fact, Escalated) for row in rows_of(fact.runs)}
        lived &= self.places.keys()
        self.lost |= lived.difference(*self.batches.values())
        return told

    def _told_again(self, facts: list[Stamped]) -> list[Stamped]:
        """Put what the user or the table says before the lanes it is about."""
        told: list[Stamped] = []
        for at, fact in facts:
            if isinstance(fact, Accepted | Packed):
                told += [(at, limited) for limited in self.limits_of(fact.lane.queue)]
            told.append((at, fact))
        return told


def said(engine: Engine, event: Event, now: float) -> list[Command]:
    """Tell an engine, and of what it wants recorded; gives all that it says."""
    commands = engine.handle(event, now)
    follow = [more for command in commands if isinstance(command, Record) for more in said(engine, command.fact, now)]
    return [*commands, *follow]


def lines_of(run: Run) -> Iterator[tuple[int, int, int]]:
    """Say where the rows of a run lie: segment, offset and size."""
    offset = run.offset
    for size in run.sizes:
        yield run.segment, offset, size
        offset += size


def settled(rows: Iterable[int]) -> Settled:
    """Make the fact that rows came to an end."""
    return Settled(None, None, array("Q", rows), array("Q"), array("I"), bytearray())


def answers(rows: Iterable[int]) -> list[Row]:
    return [Row(f"{POOL}-{row}", 200, "", b"{}") for row in rows]


class RecoveryMachine(RuleBasedStateMachine):
    """Two processes at most are alive at a time."""

    @initialize(
        requests=st.integers(1, 5),
        per_hour=st.sampled_from([12, 1_000_000, 1_000_000]),
        limit=st.sampled_from([None, 12, 40, 40, 10**6]),
        source=st.sampled_from(["user", "table"]),
        lazy=st.booleans(),
        contested=st.sampled_from([False, False, False, True]),
    )
    def begin(
        self, requests: int, per_hour: int, limit: int | None, source: Source, lazy: bool, contested: bool
    ) -> None:
        self.limits = FileLimits(requests, 200, 7, per_hour)
        self.limit, self.source, self.lazy, self.contested = limit, source, lazy, contested
        self.now = NOW
        self.paid_live: set[int] = set()  # rows
        self.journal = Journal()
        self.provider = Provider()
        self.alive: list[Process] = []
        self.dead: set[int] = set()  # shards that nobody has taken over
        self.shards = 0
        self.lines: dict[int, tuple[int, int, int]] = {}  # where rows lie
        self.start()

    def new_engine(self, shard: int) -> Engine:
        return Engine(POOL, TIMING, self.limits, span_of(shard)[0], retry=RETRY, keeps=True)

    # --- processes

    @precondition(lambda self: len(self.alive) < 2)
    @rule()
    def start(self) -> None:
        """Start a process, which takes over what the dead left; told twice, it comes to the same."""
        self.shards += 1
        process = Process(self, self.shards)
        shards, self.dead = self.dead, set()
        told = process.take_over(shards)
        one, other = (self.new_engine(self.shards) for _ in range(2))
        for at, fact in told:
            one.replay(fact, at)
            other.replay(fact, at)
        assert one.lanes() == other.lanes() == process.engine.lanes()
        assert said(one, Recovered(), self.now) == said(other, Recovered(), self.now)
        process.feed(Recovered())
        assert one.deadline() == other.deadline() == process.engine.deadline()
        later = min(self.now + 600, max(self.now, one.deadline()))
        assert said(one, Tick(), later) == said(other, Tick(), later)
        assert one.lanes() == other.lanes()
        self.alive.append(process)
        self.go_ahead(process)

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        tidy=st.sampled_from([False, False, True]),
        then=st.sampled_from(["", "start", "start and ask", "start and ask"]),
    )
    def die(self, data: st.DataObject, tidy: bool, then: str) -> None:
        """Let a process die at any point, or end in good order; the same program may be run again."""
        process = self.draw_process(data)
        if tidy:
            process.leave()
        count = data.draw(st.integers(0, len(process.groups)))
        process.commit(count, perform=data.draw(st.booleans()))
        under_way = [step for step in process.steps if isinstance(step, Upload | Claim | Create)]
        for step in data.draw(st.lists(st.sampled_from(under_way), unique_by=id)) if under_way else ():
            self.happen(step, data)
        self.bury(process)
        if then:
            self.start()
        if then == "start and ask":
            process = self.alive[-1]
            process.ask(self.journal.unsettled(process.shards))
            self.go_ahead(process)

    def bury(self, process: Process) -> None:
        self.alive.remove(process)
        self.dead |= process.shards

    @precondition(lambda self: self.alive and self.dead)
    @rule(data=st.data(), between=st.sampled_from([None, Flush(), Tick()]))
    def adopt(self, data: st.DataObject, between: Event | None) -> None:
        """Let a process that is alive take over what the dead left, whatever it is told of meanwhile."""
        process = self.draw_process(data)
        shards, self.dead = self.dead, set()
        process.take_over(shards)
        if between is not None:
            process.feed(between)
        process.feed(Recovered())
        self.go_ahead(process)

    @precondition(lambda self: self.lazy and any(process.groups for process in self.alive))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        process.commit(data.draw(st.integers(0, len(process.groups))))

    def go_ahead(self, process: Process) -> None:
        if not self.lazy:
            process.commit()

    def draw_process(self, data: st.DataObject) -> Process:
        return self.alive[data.draw(st.integers(0, len(self.alive) - 1))]

    # --- callers

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        lane=st.sampled_from(LANES),
        sizes=st.lists(st.integers(1, 20).map(lambda size: 4 * size), min_size=1, max_size=8),
        new_segment=st.sampled_from([False, False, True]),
        flush=st.booleans(),
    )
    def accept(self, data: st.DataObject, lane: Lane, sizes: list[int], new_segment: bool, flush: bool) -> None:
        process = self.draw_process(data)
        process.accept(lane, sizes, new_segment=new_segment)
        if flush:
            process.feed(Flush())
        self.go_ahead(process)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), which=st.sampled_from(["all", "some", "left"]))
    def ask(self, data: st.DataObject, which: str) -> None:
        """Ask again for rows that the journal does not know to be settled, and perhaps for one that it does."""
        process = self.draw_process(data)
        rows = [row for row in self.journal.unsettled(process.shards) if row not in process.awaited | process.nowhere]
        if which == "left":
            rows = [row for row in rows if row in process.left]
        elif which == "some" and rows:
            rows = data.draw(st.lists(st.sampled_from(rows), unique=True, min_size=1))
        if data.draw(st.booleans()) and self.journal.settled:
            rows.append(min(self.journal.settled))
        process.ask(rows)
        self.go_ahead(process)

    @precondition(lambda self: any(process.awaited for process in self.alive))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        if process.awaited:
            process.abandon(data.draw(st.frozensets(st.sampled_from(sorted(process.awaited)), min_size=1)))
            self.go_ahead(process)

    @precondition(lambda self: any(process.awaited for process in self.alive))
    @rule(data=st.data())
    def escalate(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        rows = process.awaited - process.lost
        if rows:
            process.escalate(data.draw(st.frozensets(st.sampled_from(sorted(rows)), min_size=1)))
            self.go_ahead(process)

    @precondition(lambda self: any(process.calls for process in self.alive))
    @rule(data=st.data(), end=st.sampled_from([200, 200, 400, None]))
    def end_live(self, data: st.DataObject, end: int | None) -> None:
        process = self.draw_process(data)
        if process.calls:
            process.end_live(data.draw(st.sampled_from(process.calls)), end)
            self.go_ahead(process)

    # --- time

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), late=st.sampled_from([0.0, 0.0, 0.2, 20.0]))
    def tick(self, data: st.DataObject, late: float) -> None:
        process = self.draw_process(data)
        if process.engine.deadline() < math.inf:
            self.now = max(self.now, process.engine.deadline()) + late
        process.feed(Tick())
        self.go_ahead(process)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0, 700.0, 80_000.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass, of which a process that is alive notices what it waits for."""
        deadlines = [process.engine.deadline() for process in self.alive]
        self.now = min(self.now + seconds, max(self.now, min(deadlines, default=math.inf)))

    # --- what comes of the steps

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), rounds=st.integers(1, 8))
    def go_on(self, data: st.DataObject, rounds: int) -> None:
        """Let every step of a process succeed and time pass, several times."""
        process = self.draw_process(data)
        for _ in range(rounds):
            process.commit()
            for _ in range(len(process.steps)):
                self.succeed(process, data)
            for _ in range(len(process.counts)):
                self.count(process)
            self.now = max(self.now, min(process.engine.deadline(), self.now + 100.0))
            process.feed(Tick())
        self.go_ahead(process)

    @precondition(lambda self: self.contested)
    @rule(data=st.data(), sizes=st.lists(st.integers(5, 20).map(lambda size: 4 * size), min_size=1, max_size=3))
    def compete(self, data: st.DataObject, sizes: list[int]) -> None:
        """Let two processes submit to one queue at once."""
        while len(self.alive) < 2:
            self.start()
        for process in self.alive:
            process.accept(LANES[0], sizes, new_segment=False)
            process.feed(Flush())
        for _ in range(4):
            for process in self.alive:
                process.commit()
                self.submit(process, data)

    def submit(self, process: Process, data: st.DataObject) -> None:
        """Let what leads to a creation succeed, and nothing else."""
        for _ in range(len(process.counts)):
            self.count(process)
        steps, process.steps = process.steps, []
        for step in steps:
            others, process.steps = process.steps, [step]
            if isinstance(step, Upload | Claim | Create):
                self.succeed(process, data)
            process.steps += others

    @precondition(lambda self: any(process.counts for process in self.alive))
    @rule(data=st.data(), fails=st.booleans())
    def count_once(self, data: st.DataObject, fails: bool) -> None:
        process = self.draw_process(data)
        if process.counts:
            self.count(process, fails=fails)
            self.go_ahead(process)

    def count(self, process: Process, *, fails: bool = False) -> None:
        count = process.counts.pop(0)
        runs = tuple(with_tokens(run, (size // 4 for size in run.sizes)) for run in count.runs)
        process.feed(Uncountable(count.lane) if fails else Counted(count.lane, runs))

    @precondition(lambda self: any(process.steps for process in self.alive))
    @rule(data=st.data())
    def succeed_once(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        if process.steps:
            self.succeed(process, data)
            self.go_ahead(process)

    @precondition(lambda self: any(process.steps for process in self.alive))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """Let a step fail; without a reply it may have happened."""
        process = self.draw_process(data)
        if not process.steps:
            return
        step = self.draw_step(process, data)
        kind = data.draw(st.sampled_from(FAILURES[type(step)]))
        if kind == "lost" and isinstance(step, Upload | Create) and data.draw(st.booleans()):
            self.happen(step, data)
        if isinstance(step, Collect) and data.draw(st.booleans()):
            self.answer(process, step, data)
        limit = data.draw(st.sampled_from([None, 40])) if kind == "full" else None
        process.feed(Failed(step.keys, Failure(kind, "no", 400, limit=limit)))  # type: ignore[arg-type]
        self.go_ahead(process)

    def draw_step(self, process: Process, data: st.DataObject) -> Step:
        return process.steps.pop(data.draw(st.integers(0, len(process.steps) - 1)))

    def happen(self, step: Upload | Claim | Create, data: st.DataObject) -> str | Claimed | Remote:
        """Let a step come to pass at the provider, or in the journal."""
        if isinstance(step, Upload):
            return self.provider.upload(step.batch)
        if isinstance(step, Claim):
            return self.journal.claim(step)
        return self.create(step, data.draw(st.sampled_from([0.0, 5.0, TIMING.lookup - 0.1])))

    def create(self, step: Create, lag: float = 0.0) -> Remote:
        assert self.journal.holds_room(step.batch.key), "created without room"
        remote = self.provider.create(step, self.now, lag, self.journal.over)
        self.look_at_limit()
        return remote

    def look_at_limit(self) -> None:
        """What all processes hold in the queue is below what the user allows."""
        running = [remote for remote in self.provider.remotes.values() if not remote.is_over]
        running = [remote for remote in running if self.journal.holds_room(remote.key)]
        tokens = sum(self.lines[row][2] // 4 for remote in running for row in remote.rows)
        if self.source == "user" and self.limit is not None:
            assert tokens <= self.limit, "two processes overfill the queue"

    def succeed(self, process: Process, data: st.DataObject) -> None:
        step = self.draw_step(process, data)
        match step:
            case Upload(batch=batch):
                process.feed(Uploaded(batch.key, self.provider.upload(batch)))
            case Claim():
                process.claim(step)
            case Create(batch=batch):
                remote = self.create(step, data.draw(st.sampled_from([0.0, 5.0])))
                if data.draw(st.booleans()):
                    self.advance(remote, data)
                process.feed(Created(batch.key, remote.status))
            case Find():
                self.find(process, step)
            case Check(remote_ids=remote_ids):
                statuses = [self.look(self.provider.remotes[id_], data) for id_ in remote_ids]
                process.feed(Checked(remote_ids, [status for status in statuses if status is not None]))
            case Collect():
                self.answer(process, step, data)
                process.feed(Collected(step.key))

    def find(self, process: Process, step: Find) -> None:
        """Look through the listing as it was when the look began."""
        missing = list(step.keys)
        for remote in list(self.provider.remotes.values()):
            if remote.key in missing and remote.visible_at <= step.at:
                missing.remove(remote.key)
                process.feed(Created(remote.key, remote.status))
        if missing:
            process.feed(NotFound(tuple(missing), step.at))

    def look(self, remote: Remote, data: st.DataObject) -> BatchStatus | None:
        match data.draw(st.sampled_from(["news", "news", "same", "stale", "denied"])):
            case "denied":
                return None
            case "stale":
                past = data.draw(st.sampled_from([*remote.past, "validating"]))
                return BatchStatus(remote.status.id, remote.key, past)
            case "news":
                self.advance(remote, data)
        return remote.status

    def advance(self, remote: Remote, data: st.DataObject) -> None:
        """Let a batch go on by any forward jump."""
        if remote.is_over:
            return
        seen = data.draw(
            st.sampled_from([*COURSE[COURSE.index(remote.status.status) :], *ENDS, "completed", "failed", "failed"])
        )
        remote.past.append(remote.status.status)
        problems: tuple[BatchProblem, ...] = ()
        no_room: NoRoom | None = None
        if seen == "failed":
            match data.draw(st.sampled_from(["room", "room", "unseen", "line", "none"])):
                case "room":
                    no_room = NoRoom(data.draw(st.sampled_from([None, 40])))
                case "unseen":
                    problems = (BatchProblem("", "Cannot find file.", None),)
                case "line":
                    problems = (BatchProblem("", "no", data.draw(st.integers(1, len(remote.rows)))),)
        elif seen in ENDS:
            remote.answered = data.draw(st.lists(st.sampled_from(remote.rows), unique=True))
        remote.status = BatchStatus(
            remote.status.id,
            remote.key,
            seen,
            output_file_id="out" if remote.answered else None,
            problems=problems,
            no_room=no_room,
        )

    def answer(self, process: Process, step: Collect, data: st.DataObject) -> None:
        """Let all or some of the answers come."""
        remote = self.provider.remotes[step.status.id]
        rows = answers(remote.answered[: data.draw(st.integers(0, len(remote.answered)))])
        others = data.draw(st.lists(st.sampled_from(remote.rows), max_size=3))
        for row in others:
            status_code, code = data.draw(st.sampled_from(ODD))
            rows.append(Row(f"{POOL}-{row}", status_code, "", b"{}", code))
        process.feed(Answered(step.key, rows))
        ids = {row.custom_id for row in rows if row.ok}
        well = [row for row in process.batches[step.key] if f"{POOL}-{row}" in ids]
        assert process.places.keys().isdisjoint(well), "answered by a file, and not settled"

    # --- what must hold

    @invariant()
    def the_figures_agree(self) -> None:
        for process in getattr(self, "alive", ()):
            process.check()

    def teardown(self) -> None:
        """With a provider that behaves from now on, whoever asks is answered, and nobody else's rows are sent."""
        if not hasattr(self, "alive"):
            return
        for process in list(self.alive):
            process.commit(len(process.groups) // 2)
            self.bury(process)
        for share in (2, 1):
            self.start()
            (process,) = self.alive
            process.ask(self.journal.unsettled(process.shards)[::share])
            self.run_out(process)
            unsettled = self.journal.unsettled(process.shards)
            assert sorted(unsettled) == sorted(process.places)
            assert sum(stats.dormant for stats in process.engine.lanes()) == len(unsettled) - len(
                process.lost | process.sent_in_vain
            )
            self.bury(process)
        assert not self.journal.batches
        assert not self.journal.leftovers
        assert self.journal.kept.issuperset(self.provider.files.values()), "inputs stay at the provider"
        assert not self.journal.accepted, "segments stay of which all rows are settled"

    def run_out(self, process: Process) -> None:
        for _ in range(6_000):
            process.commit()
            if process.counts:
                self.count(process)
            elif process.calls:
                process.end_live(process.calls[0], 200)
            elif process.steps:
                self.behave(process, process.steps.pop(0))
            elif process.groups:
                continue
            elif process.batches or process.awaited:
                self.now = max(self.now, process.engine.deadline())
                assert self.now < math.inf
                process.feed(Tick())
            else:
                break
        process.check()
        assert not process.awaited
        assert all(stats.waiting == stats.submitted == stats.enqueued == 0 for stats in process.engine.lanes())

    def behave(self, process: Process, step: Step) -> None:
        match step:
            case Upload(batch=batch):
                process.feed(Uploaded(batch.key, self.provider.upload(batch)))
            case Claim():
                process.claim(step)
            case Create(batch=batch):
                process.feed(Created(batch.key, self.create(step).status))
            case Find():
                self.find(process, step)
            case Check(remote_ids=remote_ids):
                remotes = [self.provider.remotes[id_] for id_ in remote_ids]
                for remote in remotes:
                    if not remote.is_over:
                        remote.complete()
                process.feed(Checked(remote_ids, [remote.status for remote in remotes]))
            case Collect(key=key, status=status):
                process.feed(Answered(key, answers(self.provider.remotes[status.id].answered)))
                process.feed(Collected(key))


RecoveryMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("CARPOOL_MACHINES", "60")),
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestRecoveryMachine = RecoveryMachine.TestCase
