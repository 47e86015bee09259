"""Any course of events: every row is settled once, whatever the provider, the network and the callers do."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import hypothesis.strategies as st
from engine_kit import FACTS, NOW, POOL, make_run, rows_of
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.config import Timing
from carpool.engine.commands import (
    Cancel,
    Check,
    Collect,
    Command,
    Create,
    Delete,
    Discard,
    Fail,
    Find,
    Record,
    Settle,
    Step,
    Upload,
)
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Checked,
    Collected,
    Created,
    Event,
    Fact,
    Failed,
    Flush,
    NotFound,
    Packed,
    Tick,
    Uploaded,
)
from carpool.models import BatchProblem, BatchStatus, Failure, FileLimits, Lane, PackedBatch, Row

TIMING = Timing(linger=1, max_linger=3, poll_min=2, poll_max=60, poll_fraction=0.05, lookup=10)
EMBEDDINGS = "/v1/embeddings"
LANES = (Lane("/v1/responses", "a"), Lane("/v1/responses", "b"), Lane(EMBEDDINGS, "c"), Lane(EMBEDDINGS, "d"))
COURSE = ["validating", "scheduling", "in_progress", "finalizing", "cancelling"]
ENDS = ["completed", "expired", "cancelled", "failed"]
FAILURES: dict[type[Step], list[str]] = {
    Upload: ["busy", "lost", "gone", "rejected", "auth", "disk", "failed"],
    Create: ["busy", "lost", "gone", "full", "rejected", "auth", "failed"],
    Find: ["busy", "lost", "auth", "failed"],
    Check: ["busy", "lost", "auth", "failed"],
    Collect: ["busy", "lost", "gone", "auth", "disk", "failed"],
}


@dataclass
class Remote:
    """A batch at the provider."""

    key: str
    rows: list[int]
    status: BatchStatus
    past: list[str] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)


@dataclass
class Place:
    """Where a row is, as far as commands tell."""

    lane: Lane
    segment: int
    size: int
    inputs: int
    batch: str | None = None


class EngineMachine(RuleBasedStateMachine):
    """The test is shell and provider."""

    # --- the shell

    @initialize(
        per_hour=st.sampled_from([12, 1_000_000]),
        requests=st.integers(1, 5),
        bytes_=st.integers(80, 200),
        facts_only=st.booleans(),
    )
    def begin(self, per_hour: int, requests: int, bytes_: int, facts_only: bool) -> None:
        self.limits = FileLimits(requests, bytes_, 7, per_hour)
        self.engine = Engine(POOL, TIMING, self.limits)
        self.now = NOW
        self.facts: list[tuple[Fact, float]] = []
        self.facts_only = facts_only and per_hour > 1_000  # what happens is all in the facts: replay must agree
        self.steps: list[Step] = []  # outstanding
        self.places: dict[int, Place] = {}  # rows that are not settled
        self.ended_rows = Counter[int]()
        self.abandoned: set[int] = set()
        self.batches: dict[str, PackedBatch] = {}
        self.dead: set[str] = set()  # batches whose rows travel in another
        self.returning: set[str] = set()  # batches whose rows may travel again, once their files are read
        self.collecting: set[str] = set()
        self.lost_at: dict[str, float] = {}  # creations that may have happened and were not looked for long enough
        self.looks: dict[str, float] = {}
        self.segments: dict[int, set[int]] = {}
        self.growing: dict[Lane, tuple[int, int]] = {}
        self.discarded: set[int] = set()
        self.numbers = self.remote_numbers = 0
        self.remotes: dict[str, Remote] = {}

    def feed(self, event: Event) -> None:
        if isinstance(event, FACTS):
            self.facts.append((event, self.now))
        self.perform(self.engine.handle(event, self.now))

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Record(fact=fact):
                    self.see_packed(fact)
                    self.feed(fact)
                case Settle(numbers=numbers):
                    self.see_settled(numbers)
                case Fail(numbers=numbers):
                    self.see_settled(numbers)
                case Discard(segment=segment):
                    self.see_discarded(segment)
                case Cancel() | Delete():
                    pass
                case _:
                    self.see_step(command)

    def see_packed(self, fact: Packed) -> None:
        rows = rows_of(fact.runs)
        places = [self.places[row] for row in rows]  # a settled row is a KeyError
        assert rows
        assert len(set(rows)) == len(rows)
        assert {place.lane for place in places} == {fact.lane}
        assert len(rows) <= self.limits.requests
        assert sum(place.size for place in places) <= self.limits.bytes
        assert sum(place.inputs for place in places) <= self.limits.inputs
        key = f"{POOL}-b{fact.number}"
        assert key not in self.batches
        for row, place in zip(rows, places, strict=True):
            assert row not in self.abandoned
            if place.batch is not None:
                assert self.waits(row), f"{row} is still in {place.batch}"
                self.dead.add(place.batch)
            place.batch = key

    def see_settled(self, numbers: Collection[int]) -> None:
        for row in numbers:
            self.ended_rows[row] += 1
            assert self.ended_rows[row] == 1, f"{row} is settled twice"
            assert row not in self.abandoned
            del self.places[row]
            for rows in self.segments.values():
                rows.discard(row)

    def see_discarded(self, segment: int) -> None:
        assert segment not in self.discarded
        assert not self.segments[segment], "rows of a discarded segment are not settled"
        assert segment not in {segment for segment, _ in self.growing.values()}
        self.discarded.add(segment)

    def see_step(self, step: Step) -> None:
        for key in step.keys:
            assert key not in self.dead, "a batch goes on though its rows travel in another"
            assert all(key not in other.keys for other in self.steps), "two steps of a batch at once"
        match step:
            case Upload(batch=batch):
                self.batches[batch.key] = batch
                assert not self.discarded & {run.segment for run in batch.runs}
            case Create(batch=batch):
                assert batch.key not in self.lost_at, "created again without a look after the lookup's end"
                assert batch.key not in {remote.key for remote in self.remotes.values() if self.known(remote)}
            case Find(keys=keys):
                self.looks.update(dict.fromkeys(keys, self.now))
            case Collect(key=key):
                self.collecting.add(key)
        self.steps.append(step)

    def known(self, remote: Remote) -> bool:
        return any(isinstance(fact, Created) and fact.key == remote.key for fact, _ in self.facts)

    # --- the callers

    @rule(
        lane=st.sampled_from(LANES),
        sizes=st.lists(st.integers(1, 80), min_size=1, max_size=8),
        data=st.data(),
        new_segment=st.sampled_from([False, False, True]),
    )
    def accept(self, lane: Lane, sizes: list[int], data: st.DataObject, new_segment: bool) -> None:
        if lane not in self.growing or new_segment:
            self.segments[len(self.segments)] = set()
            self.growing[lane] = (len(self.segments) - 1, 0)
        segment, offset = self.growing[lane]
        rows = range(self.numbers + 1, self.numbers + 1 + len(sizes))
        self.numbers += len(sizes)
        inputs = None
        if lane.endpoint == EMBEDDINGS:
            inputs = data.draw(st.lists(st.integers(1, 7), min_size=len(sizes), max_size=len(sizes)))
        for row, size, count in zip(rows, sizes, inputs or [0] * len(sizes), strict=True):
            self.places[row] = Place(lane, segment, size, count)
            self.segments[segment].add(row)
        self.growing[lane] = (segment, offset + sum(sizes))
        self.feed(Accepted(lane, make_run(rows, segment=segment, offset=offset, size=sizes, inputs=inputs)))

    @precondition(lambda self: self.places and not self.facts_only)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        rows = data.draw(st.frozensets(st.sampled_from(sorted(self.places)), min_size=1))
        for row in rows:
            if self.waits(row):
                self.forget(row)
        self.feed(Abandoned(rows))

    def waits(self, row: int) -> bool:
        """Tell whether a row is in no batch, or in one that gave it back."""
        batch = self.places[row].batch
        return batch is None or (batch in self.returning and batch not in self.collecting)

    def forget(self, row: int) -> None:
        self.abandoned.add(row)
        place = self.places.pop(row)
        self.segments[place.segment].discard(row)

    @precondition(lambda self: not self.facts_only)
    @rule()
    def flush(self) -> None:
        self.feed(Flush())

    # --- time

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 5.0, 30.0, 700.0, 8_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now = min(self.now + seconds, max(self.now, self.engine.deadline()))
        self.feed(Tick())

    @rule(late=st.sampled_from([0.0, 0.0, 0.0, 0.2, 20.0]))
    def tick(self, late: float) -> None:
        if self.engine.deadline() < math.inf:
            self.now = max(self.now, self.engine.deadline()) + late
        self.feed(Tick())

    # --- the provider

    @precondition(lambda self: self.steps)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        step = self.draw_step(data)
        kind = data.draw(st.sampled_from(FAILURES[type(step)]))
        if isinstance(step, Create) and kind == "lost":
            if data.draw(st.booleans()):
                self.create_remotely(step.batch)
            self.lost_at[step.batch.key] = self.now
        if isinstance(step, Create) and kind == "full":
            self.returning.add(step.batch.key)
        if isinstance(step, Collect) and data.draw(st.booleans()):
            self.answer(step, data)
        self.feed(Failed(step.keys, Failure(kind, "no", 400)))  # type: ignore[arg-type]

    @rule(data=st.data(), rounds=st.integers(1, 8))
    def go_on(self, data: st.DataObject, rounds: int) -> None:
        """Let every step succeed and time pass, several times: batches get old only so."""
        for _ in range(rounds):
            for _ in range(len(self.steps)):
                self.succeed(data)
            self.tick(0.0)

    @precondition(lambda self: self.steps)
    @rule(data=st.data())
    def succeed_once(self, data: st.DataObject) -> None:
        self.succeed(data)

    def succeed(self, data: st.DataObject) -> None:
        step = self.draw_step(data)
        match step:
            case Upload(batch=batch):
                self.feed(Uploaded(batch.key, f"file-{batch.key}"))
            case Create(batch=batch):
                remote = self.create_remotely(batch)
                self.advance(remote, data)
                self.tell_created(remote)
            case Find():
                self.find(step, lags=data.draw(st.booleans()))
            case Check():
                self.check(step, data)
            case Collect():
                self.answer(step, data)
                self.collected(step)

    def draw_step(self, data: st.DataObject) -> Step:
        return self.steps.pop(data.draw(st.integers(0, len(self.steps) - 1)))

    def create_remotely(self, batch: PackedBatch) -> Remote:
        self.remote_numbers += 1
        remote_id = f"batch_{self.remote_numbers}"
        remote = Remote(batch.key, rows_of(batch.runs), BatchStatus(remote_id, batch.key, "validating"))
        self.remotes[remote_id] = remote
        return remote

    def advance(self, remote: Remote, data: st.DataObject) -> None:
        """Let a batch go on by any forward jump."""
        now = remote.status.status
        if now in ENDS:
            return
        later = COURSE[COURSE.index(now) :]
        seen = data.draw(st.sampled_from([*later, *ENDS, "completed", "failed"]))
        remote.past.append(now)
        if seen not in ENDS:
            remote.status = BatchStatus(remote.status.id, remote.key, seen)
            return
        problems: list[BatchProblem] = []
        if seen == "failed":
            code = data.draw(st.sampled_from(["token_limit_exceeded", "invalid_url", "empty_file", ""]))
            lines = st.sampled_from([None, *range(1, len(remote.rows) + 2)])
            if code:
                problems = [BatchProblem(code, "no", line) for line in data.draw(st.lists(lines, min_size=1))]
        files = data.draw(st.booleans())
        if files:
            remote.answered = data.draw(st.lists(st.sampled_from(remote.rows), unique=True))
        remote.status = BatchStatus(
            remote.status.id,
            remote.key,
            seen,
            output_file_id="out" if files else None,
            answered=len(remote.answered) if seen == "completed" and data.draw(st.booleans()) else None,
            problems=tuple(problems),
        )

    def note_end(self, status: BatchStatus) -> None:
        if status.status == "failed":
            self.returning.add(self.remotes[status.id].key)

    def tell_created(self, remote: Remote) -> None:
        self.lost_at.pop(remote.key, None)
        self.note_end(remote.status)
        self.feed(Created(remote.key, remote.status))

    def find(self, step: Find, *, lags: bool) -> None:
        missing = list(step.keys)
        if not lags:
            for remote in list(self.remotes.values()):
                if remote.key in missing:
                    missing.remove(remote.key)
                    self.tell_created(remote)
        for key in missing:
            if self.looks[key] >= self.lost_at[key] + TIMING.lookup:
                del self.lost_at[key]
        if missing:
            self.feed(NotFound(tuple(missing), step.at))

    def check(self, step: Check, data: st.DataObject) -> None:
        statuses = []
        for remote_id in step.remote_ids:
            remote = self.remotes[remote_id]
            match data.draw(st.sampled_from(["news", "news", "same", "stale", "denied"])):
                case "news":
                    self.advance(remote, data)
                    statuses.append(remote.status)
                case "same":
                    statuses.append(remote.status)
                case "stale":
                    past = data.draw(st.sampled_from([*remote.past, "validating"]))
                    statuses.append(BatchStatus(remote_id, remote.key, past))
        for status in statuses:
            self.note_end(status)
        self.feed(Checked(step.remote_ids, statuses))

    def answer(self, step: Collect, data: st.DataObject) -> None:
        remote = self.remotes[step.status.id]
        mine = [f"{POOL}-{row}" for row in remote.answered] or [""]
        strange = [
            "",
            "x-1",
            "p-",
            "p-x",
            *(f"{POOL}-{row}" for row in list(self.places)[:3] if row not in remote.rows),
        ]
        ids = data.draw(st.lists(st.sampled_from(mine * 4 + strange), max_size=8))
        self.feed(Answered(step.key, [Row(custom_id, 200, "", b"{}") for custom_id in ids]))

    def collected(self, step: Collect) -> None:
        self.collecting.discard(step.key)
        self.feed(Collected(step.key))

    # --- what must hold

    @invariant()
    def something_is_due_while_rows_wait(self) -> None:
        if self.places and not self.steps:
            assert self.engine.deadline() < math.inf

    @invariant()
    def the_lanes_count_every_row_that_is_not_settled(self) -> None:
        counted = {lane.lane: lane.waiting + lane.submitted for lane in self.engine.lanes()}
        model = Counter(place.lane for place in self.places.values())
        assert counted == {lane: model[lane] for lane in counted}

    @precondition(lambda self: self.facts_only)
    @rule(data=st.data(), flush=st.booleans())
    def replay(self, data: st.DataObject, flush: bool) -> None:
        """An engine that is told the facts alone stands where this one stands, and goes on alike."""
        while self.steps:
            self.succeed(data)
        replica = Engine(POOL, TIMING, self.limits)
        for fact, at in self.facts:
            replica.handle(fact, at)
        assert replica.lanes() == self.engine.lanes()
        assert replica.deadline() == self.engine.deadline()
        assert replica.created == self.engine.created
        event = Flush() if flush else Tick()
        if self.engine.deadline() < math.inf:
            self.now = max(self.now, self.engine.deadline())
        commands = self.engine.handle(event, self.now)
        assert in_no_order(replica.handle(event, self.now)) == in_no_order(commands)
        self.perform(commands)
        # A flush that found no room is no fact: what follows from it is not replayed.
        self.facts_only &= not flush or not any(lane.waiting for lane in self.engine.lanes())

    def teardown(self) -> None:
        """With a provider that behaves from now on, everybody is settled."""
        if not hasattr(self, "engine"):
            return
        for _ in range(3_000):
            if self.steps:
                self.behave(self.steps.pop(0))
            elif self.places:
                self.now = max(self.now, self.engine.deadline())
                assert self.now < math.inf
                self.feed(Tick())
            else:
                break
        assert not self.places
        accepted = set(range(1, self.numbers + 1))
        assert set(self.ended_rows) == accepted - self.abandoned
        assert set(self.ended_rows.values()) <= {1}
        assert self.discarded == set(self.segments) - {segment for segment, _ in self.growing.values()}
        assert all((lane.waiting, lane.submitted, lane.batches) == (0, 0, 0) for lane in self.engine.lanes())

    def behave(self, step: Step) -> None:
        match step:
            case Upload(batch=batch):
                self.feed(Uploaded(batch.key, "file"))
            case Create(batch=batch):
                self.tell_created(self.create_remotely(batch))
            case Find():
                self.find(step, lags=False)
            case Check(remote_ids=remote_ids):
                for remote_id in remote_ids:
                    remote = self.remotes[remote_id]
                    if remote.status.status not in ENDS:
                        remote.answered = list(remote.rows)
                        remote.status = BatchStatus(remote_id, remote.key, "completed", output_file_id="out")
                    self.note_end(remote.status)
                self.feed(Checked(remote_ids, [self.remotes[remote_id].status for remote_id in remote_ids]))
            case Collect(key=key, status=status):
                rows = self.remotes[status.id].answered
                self.feed(Answered(key, [Row(f"{POOL}-{row}", 200, "", b"{}") for row in rows]))
                self.collected(step)


def in_no_order(commands: list[Command]) -> list[str]:
    """Forget the order, and so the numbering, of what is due at the same instant."""
    return sorted(repr(_without_order(command)) for command in commands)


def _without_order(command: Command) -> object:
    match command:
        case Record(fact=fact):
            return fact.lane, fact.runs
        case Check(keys=keys) | Find(keys=keys):
            return type(command), sorted(keys)
    return command


EngineMachine.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestEngineMachine = EngineMachine.TestCase
