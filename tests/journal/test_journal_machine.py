"""Any course of facts and deaths: the journal on disk tells and finds what the one in memory does."""

import asyncio
import math
import os
import shutil
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from journal_kit import EMBEDDINGS, LANE, NOW, DiskHome, MemoryHome, accepted, digest_of, load, run_inline, settled

from carpool.config import Timing
from carpool.engine.commands import Claim, Command
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Accepted,
    Admitted,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalated,
    Event,
    Learned,
    Missing,
    Packed,
    Recovered,
    Released,
    Spent,
    Uploaded,
)
from carpool.engine.lane import LaneStats
from carpool.journal import Journal, Stamped
from carpool.models import BatchStatus, FileLimits, Lane, Queue, Run
from carpool.naming import download_name, number_of, shard_of

T = TypeVar("T")

LANES = (LANE, EMBEDDINGS, Lane("/v1/responses", LANE.model, long=True))
LIMITS = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=10)
HOUR_AGO = time.time() - 1_800  # what happened then counts
PROCESSES = 3


@dataclass
class Process:
    """One process: its two journals, and what it goes on with."""

    memory: Journal
    disk: Journal
    rows: int = 0
    segments: int = 0
    batches: int = 0
    downloads: int = 0
    growing: dict[Lane, tuple[int, int]] = field(default_factory=dict)  # segment, and where it ends
    waiting: dict[Lane, list[Run]] = field(default_factory=lambda: defaultdict(list))
    open: dict[str, tuple[Lane, tuple[Run, ...], str]] = field(default_factory=dict)  # by key; the last is the stage

    def of(self, number: int) -> int:
        """Make a number one of its shard."""
        return self.memory.numbered + number


class JournalMachine(RuleBasedStateMachine):
    """The test is the shell of each process, and loses what a death loses."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.disk = DiskHome(self.folder / "journal", run_inline)
        first = self.run(self.disk.open())
        self.memory = MemoryHome(first.pool)
        self.now = 0.0
        self.living = [Process(self.run(self.memory.open()), first)]
        self.digests: dict[int, bytes] = {}
        self.segment_of: dict[int, int] = {}
        self.answered: set[int] = set()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def process(self, index: int) -> Process:
        return self.living[index % len(self.living)]

    def record(self, process: Process, *facts: Event, recent: bool = False) -> None:
        self.now += 1
        stamped = [((HOUR_AGO if recent else NOW) + self.now, fact) for fact in facts]
        self.run(process.memory.record(*stamped))
        self.run(process.disk.record(*stamped))

    # --- processes

    @precondition(lambda self: len(self.living) < PROCESSES)
    @rule()
    def open(self) -> None:
        self.living.append(Process(self.run(self.memory.open()), self.run(self.disk.open())))
        assert self.living[-1].memory.numbered == self.living[-1].disk.numbered

    @precondition(lambda self: len(self.living) > 1)
    @rule(index=st.integers(0, 9), in_order=st.booleans())
    def end(self, index: int, in_order: bool) -> None:
        self.finish(self.living.pop(index % len(self.living)), in_order=in_order)

    def finish(self, process: Process, *, in_order: bool) -> None:
        if in_order:
            self.run(process.memory.aclose())
            self.run(process.disk.aclose())
        else:
            self.memory.kill(process.memory)
            self.disk.kill(process.disk)

    @rule(index=st.integers(0, 9))
    def load(self, index: int) -> None:
        self.take_over(self.process(index))

    def take_over(self, process: Process) -> list[Stamped]:
        """Load both, and go on with what they tell."""
        told, on_disk = (in_no_order(self.run(load(journal))) for journal in (process.memory, process.disk))
        assert on_disk == told
        assert replayed(process, on_disk) == replayed(process, told)
        for _, fact in told:
            match fact:
                case Accepted():
                    process.waiting[fact.lane].append(fact.run)
                case Packed():
                    taken = {row for run in fact.runs for row in run.rows}
                    waiting = process.waiting[fact.lane]
                    waiting[:] = [part for run in waiting for part in without(run, taken)]
                    process.open[f"{process.memory.pool}-b{fact.number}"] = fact.lane, fact.runs, "packed"
                case Uploaded() | Created():
                    lane, runs, _ = process.open[fact.key]
                    process.open[fact.key] = lane, runs, type(fact).__name__
        return told

    # --- facts

    @rule(
        index=st.integers(0, 9),
        lane=st.sampled_from(LANES),
        sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
        twins=st.booleans(),
        new_segment=st.booleans(),
    )
    def accept(self, index: int, lane: Lane, sizes: list[int], twins: bool, new_segment: bool) -> None:
        process = self.process(index)
        if new_segment or lane not in process.growing:
            process.segments += 1
            process.growing[lane] = process.of(process.segments), 0
        segment, offset = process.growing[lane]
        rows = array("Q", [process.of(process.rows + number) for number in range(1, len(sizes) + 1)])
        process.rows += len(sizes)
        inputs = array("I", [2] * len(sizes)) if lane is EMBEDDINGS else None
        run = Run(segment, offset, rows, array("I", sizes), inputs)
        process.growing[lane] = segment, offset + run.size
        process.waiting[lane].append(run)
        digests = [digest_of(position if twins else row) for position, row in enumerate(rows)]
        self.digests.update(zip(rows, digests, strict=True))
        self.segment_of.update(dict.fromkeys(rows, segment))
        self.record(process, accepted(run, lane, rich=twins, digests=b"".join(digests)))

    @rule(index=st.integers(0, 9), lane=st.sampled_from(LANES), data=st.data(), recent=st.booleans())
    def pack(self, index: int, lane: Lane, data: st.DataObject, recent: bool) -> None:
        process = self.process(index)
        waiting = process.waiting[lane]
        rows = [row for run in waiting for row in run.rows]
        chosen = set(data.draw(st.lists(st.sampled_from(rows), min_size=1))) if rows else set()
        runs = tuple(part for run in waiting for part in without(run, set(rows) - chosen))
        if runs:
            waiting[:] = [part for run in waiting for part in without(run, chosen)]
            process.batches += 1
            number = process.of(process.batches)
            process.open[f"{process.memory.pool}-b{number}"] = lane, runs, "packed"
            self.record(process, Packed(number, lane, runs), recent=recent)

    @rule(index=st.integers(0, 9), which=st.integers(0, 9))
    def go_on(self, index: int, which: int) -> None:
        """Upload, create, or hear more of a batch."""
        process = self.process(index)
        if process.open:
            key = list(process.open)[which % len(process.open)]
            lane, runs, stage = process.open[key]
            fact: Event = Uploaded(key, f"file-{key}")
            if stage != "packed":
                fact = Created(key, BatchStatus(f"batch-{key}", key, "in_progress", f"file-{key}"))
            process.open[key] = lane, runs, type(fact).__name__
            self.record(process, fact)

    @rule(index=st.integers(0, 9), which=st.integers(0, 9), what=st.sampled_from(["batch", "file", None]))
    def deny(self, index: int, which: int, what: Any) -> None:
        """Say that a batch, or a file of it, is not there, or is after all."""
        process = self.process(index)
        if process.open:
            self.record(process, Missing(list(process.open)[which % len(process.open)], what))

    @rule(index=st.integers(0, 9), which=st.integers(0, 9), data=st.data(), given=st.booleans())
    def end_batch(self, index: int, which: int, data: st.DataObject, given: bool) -> None:
        """Settle some rows of a batch; the others wait again."""
        process = self.process(index)
        if not process.open:
            return
        key = list(process.open)[which % len(process.open)]
        lane, runs, _ = process.open.pop(key)
        rows = [row for run in runs for row in run.rows]
        came = data.draw(st.lists(st.sampled_from(rows), unique=True))
        failed = came[: data.draw(st.integers(0, len(came)))]
        process.downloads += 1
        facts: list[Event] = []
        if came:
            file = download_name(process.of(process.downloads))
            facts.append(settled(f"batch-{key}", file, came, failed=failed, given=given))
        self.record(process, *facts, Done(key, f"batch-{key}" if came else None))
        self.answered |= set(came) - set(failed)
        waiting = process.waiting[lane]
        waiting += [part for run in runs for part in without(run, set(came))]
        waiting.sort(key=lambda run: run.rows[0])

    @rule(index=st.integers(0, 9), lane=st.sampled_from(LANES), data=st.data())
    def escalate(self, index: int, lane: Lane, data: st.DataObject) -> None:
        """Send rows live, whether they wait or travel."""
        process = self.process(index)
        runs = [*process.waiting[lane], *(run for of, runs, _ in process.open.values() if of == lane for run in runs)]
        singles = [part for run in runs for part in without(run, set())]
        if singles:
            chosen = data.draw(
                st.lists(st.sampled_from(singles), min_size=1, max_size=4, unique_by=lambda run: run.rows[0])
            )
            self.record(process, *(Escalated(lane, (run,)) for run in chosen))

    @rule(index=st.integers(0, 9), lane=st.sampled_from(LANES))
    def fail(self, index: int, lane: Lane) -> None:
        """Let the first row that waits fail."""
        process = self.process(index)
        if waiting := process.waiting[lane]:
            row = waiting[0].rows[0]
            waiting[:1] = without(waiting[0], {row})
            self.record(process, settled(None, None, [row], failed=[row]))

    @precondition(lambda self: self.answered)
    @rule(index=st.integers(0, 9), data=st.data())
    def deliver(self, index: int, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.sampled_from(sorted(self.answered)), min_size=1, max_size=4, unique=True))
        self.record(self.process(index), Delivered(tuple(rows)))

    @rule(index=st.integers(0, 9))
    def discard(self, index: int) -> None:
        """Discard the segments that nobody needs."""
        process = self.process(index)
        runs = [run for runs in process.waiting.values() for run in runs]
        runs += [run for _, runs_, _ in process.open.values() for run in runs_]
        needed = {run.segment for run in runs}
        own = {segment for segment in self.segment_of.values() if shard_of(segment) == shard_of(process.of(1))}
        process.growing.clear()
        self.record(process, *map(Discarded, sorted(own - needed)))

    @rule(index=st.integers(0, 9), tokens=st.integers(1, 9), long=st.booleans())
    def learn(self, index: int, tokens: int, long: bool) -> None:
        self.record(self.process(index), Learned(Queue(LANE.model, long), tokens))

    # --- room

    @rule(
        index=st.integers(0, 9),
        which=st.integers(0, 9),
        long=st.booleans(),
        asked=st.tuples(st.integers(1, 60), st.sampled_from([50.0, 100.0, math.inf]), st.booleans()),
        heard=st.booleans(),
        recent=st.booleans(),
        late=st.sampled_from([0.0, 100.0]),
    )
    def claim(
        self,
        index: int,
        which: int,
        long: bool,
        asked: tuple[int, float, bool],
        heard: bool,
        recent: bool,
        late: float,
    ) -> None:
        """Ask for room for a batch that is open."""
        process = self.process(index)
        if process.open:
            self.now += late
            now = (HOUR_AGO if recent else NOW) + self.now
            shards = {shard_of(process.of(1)), *(shard_of(number_of(key)) for key in process.open)}
            key = list(process.open)[which % len(process.open)]
            claim = Claim(key, Queue(LANE.model, long), *asked, now if heard else 0.0, frozenset(shards), now)
            said = self.run(process.memory.claim_room(claim))
            assert self.run(process.disk.claim_room(claim)) == said

    @rule(index=st.integers(0, 9), which=st.integers(0, 9), ends=st.sampled_from([None, False, True]))
    def tell_of_room(self, index: int, which: int, ends: bool | None) -> None:
        """Let a batch be taken in, or give its room back."""
        process = self.process(index)
        if process.open:
            key = list(process.open)[which % len(process.open)]
            self.record(process, Admitted(key) if ends is None else Released(key, ran=ends))

    # --- what is there

    @invariant()
    def both_find_the_same(self) -> None:
        asked = {digest_of(1_000_000), *self.digests.values()}
        for process in self.living:
            known = self.run(process.memory.find(asked))
            assert self.run(process.disk.find(asked)) == known
            answered = {request.row for requests in known.values() for request in requests if request.place is not None}
            assert answered == self.answered
            assert self.run(process.disk.open_batch()) == self.run(process.memory.open_batch())
            summary = self.run(process.memory.summary())
            assert self.run(process.disk.summary()) == summary
            assert summary.answered == len(self.answered)
            assert [*map(process.memory.holds, self.digests)] == [*map(process.disk.holds, self.digests)]

    def teardown(self) -> None:
        try:
            self.succeed_twice()
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    def succeed_twice(self) -> None:
        """Let all die: the next is told the same as the one after it."""
        for process in self.living:
            self.finish(process, in_order=False)
        told = []
        for _ in range(2):
            process = Process(self.run(self.memory.open()), self.run(self.disk.open()))
            told.append([fact for fact in self.take_over(process) if not isinstance(fact[1], Spent)])
            self.finish(process, in_order=False)
        assert told[0] == told[1]
        assert replayed(process, told[0]) == replayed(process, told[1])
        waiting = {row for _, fact in told[0] if isinstance(fact, Accepted) for row in fact.run.rows}
        assert not waiting & self.answered


def in_no_order(told: list[Stamped]) -> list[Stamped]:
    """Forget what has no order, when it was that the past hour was looked at, and what was sent live and is over."""
    learned = [fact for fact in told if isinstance(fact[1], Learned)]
    learned.sort(key=lambda fact: fact[0])
    spent: list[Stamped] = [(0.0, fact) for _, fact in told if isinstance(fact, Spent)]
    rest = [fact for fact in told if not isinstance(fact[1], Learned | Spent | Escalated)]
    there = {row for _, fact in rest if isinstance(fact, Accepted) for row in fact.run.rows}
    there |= {row for _, fact in rest if isinstance(fact, Packed) for run in fact.runs for row in run.rows}
    live = {
        (at, row): Escalated(fact.lane, (part,))
        for at, fact in told
        if isinstance(fact, Escalated)
        for run in fact.runs
        for part in without(run, set())
        for row in part.rows
        if row in there
    }
    return [*learned, *spent, *rest, *((at, live[at, row]) for at, row in sorted(live))]


def replayed(process: Process, told: Iterable[Stamped]) -> tuple[list[Command], tuple[LaneStats, ...], float]:
    """Give what an engine comes to that is told."""
    engine = Engine(process.memory.pool, Timing(), LIMITS, process.memory.numbered)
    for at, fact in told:
        engine.replay(fact, at)
    commands = engine.handle(Recovered(), HOUR_AGO + 3_600)
    return commands, engine.lanes(), engine.deadline()


def without(run: Run, rows: set[int]) -> list[Run]:
    """Give what is left of a run, row by row."""
    return [run.part(position, position + 1) for position, row in enumerate(run.rows) if row not in rows]


JournalMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("CARPOOL_MACHINES", "25")),
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestJournalMachine = JournalMachine.TestCase
