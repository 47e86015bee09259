"""Any course of events: every row is settled once, whatever the provider, the network and the callers do.

Tokens: a row truly has a quarter of its bytes. The provider's queue takes `limit` of them. In an `exact` course the
user has named that limit and nobody is refused for want of room; in an `honest` one counts, limits and bills are true,
but the provider refuses whatever it likes; otherwise all of them may be anything.
"""

import math
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

import hypothesis.strategies as st
from engine_kit import FACTS, NOW, POOL, make_run, rows_of, with_tokens
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.config import Timing
from carpool.engine.commands import (
    Cancel,
    Check,
    Collect,
    Command,
    Count,
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
    Counted,
    Created,
    Done,
    Event,
    Fact,
    Failed,
    Flush,
    Learned,
    Limited,
    NotFound,
    Packed,
    Returned,
    Settled,
    Tick,
    Uncountable,
    Uploaded,
)
from carpool.engine.lane import LaneStats
from carpool.engine.ledger import Source
from carpool.models import BatchProblem, BatchStatus, Failure, FileLimits, Lane, NoRoom, PackedBatch, Queue, Row, Run

TIMING = Timing(linger=1, max_linger=3, poll_min=2, poll_max=60, poll_fraction=0.05, lookup=10)
EMBEDDINGS = "/v1/embeddings"
LANES = (
    Lane("/v1/responses", "a"),
    Lane("/v1/responses", "a", long=True),
    Lane("/v1/responses", "b"),
    Lane(EMBEDDINGS, "a"),
    Lane(EMBEDDINGS, "c"),
)
QUEUES = sorted({lane.queue for lane in LANES})
NUMBERS = st.one_of(st.none(), st.integers(0, 400))
ANY_LIMIT = st.sampled_from([None, 12, 40, 200])
UNHEARD = 600.0  # seconds
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
    tokens: int
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
    counted: bool = False

    @property
    def tokens(self) -> int:
        """Give what the row truly has."""
        return self.size // 4


class EngineMachine(RuleBasedStateMachine):
    """The test is shell and provider."""

    # --- the shell

    @initialize(
        per_hour=st.sampled_from([12, 1_000_000]),
        requests=st.integers(1, 5),
        bytes_=st.integers(80, 200),
        facts_only=st.booleans(),
        course=st.sampled_from(["exact", "honest", "honest", "wild"]),
        limit=st.sampled_from([12, 40, 200, 10**6]),
        known=st.booleans(),
    )
    def begin(
        self, per_hour: int, requests: int, bytes_: int, facts_only: bool, course: str, limit: int, known: bool
    ) -> None:
        self.limits = FileLimits(requests, bytes_, 7, per_hour)
        self.engine = Engine(POOL, TIMING, self.limits)
        self.now = NOW
        self.facts: list[tuple[Fact, float]] = []
        self.facts_only = facts_only and per_hour > 1_000  # what happens is all in the facts: replay must agree
        self.by_time = False  # something was decided that no fact tells of
        self.exact, self.honest, self.limit = course == "exact", course != "wild", limit
        self.steps: list[Step] = []  # outstanding
        self.counts: list[Count] = []  # outstanding
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
        self.kept: set[int] = set()  # segments of batches that were given up, for the next process
        self.numbers = self.remote_numbers = 0
        self.remotes: dict[str, Remote] = {}
        self.returned: set[str] = set()  # batches that stood in line and are packed anew
        self.just_told: set[str] = set()  # batches whose end is being told
        self.files: set[str] = set()  # inputs that were uploaded and not deleted
        self.packed_at: dict[str, float] = {}
        self.open: dict[str, int] = {}  # tokens of the batches that are created, or are being created, and run
        self.known: set[str] = set()  # batches whose creation was told
        self.heard: set[str] = set()  # batches that are past their validation
        self.told: set[Queue] = set()  # queues of which a limit or a refusal was heard
        self.refusals = Counter[int]()  # of rows
        self.unwanted: set[int] = set()  # rows of batches that nobody awaits
        self.statuses: dict[str, set[str]] = {}  # that were told of a batch
        self.lost_once: set[str] = set()
        if self.exact or known:
            for queue in QUEUES:
                self.tell_limit(queue, limit, "user" if self.exact else "table")

    def tell_limit(self, queue: Queue, tokens: int | None, source: Source) -> None:
        if tokens is not None:
            self.told.add(queue)
        self.feed(Limited(queue, tokens, source))

    def feed(self, event: Event) -> None:
        self.perform(self.handle(event))

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, FACTS):
            self.facts.append((event, self.now))
        reserved = self.reserved() if isinstance(event, Tick) else 0
        commands = self.engine.handle(event, self.now)
        self.by_time |= isinstance(event, Tick) and reserved != self.reserved()
        return commands

    def perform(self, commands: list[Command]) -> None:
        """Do what the engine says, then feed it what was recorded, as the collector does."""
        facts: deque[Packed | Returned | Done | Learned | Settled] = deque()
        while True:
            for command in commands:
                if isinstance(command, Record):
                    facts.append(command.fact)
                else:
                    self.see(command)
            if not facts:
                break
            fact = facts.popleft()
            if isinstance(fact, Packed):
                self.see_packed(fact)
            elif isinstance(fact, Returned):
                self.see_returned(fact.key)
            commands = self.handle(fact)
        for row in [row for row in self.unwanted if row in self.places and self.waits(row)]:
            self.forget(row)

    def reserved(self) -> int:
        return sum(lane.enqueued for lane in self.engine.lanes())

    def see(self, command: Command) -> None:
        match command:
            case Settle(numbers=numbers):
                self.see_settled(numbers)
            case Fail(numbers=numbers):
                self.see_failed(command)
                if not command.for_good:
                    self.kept.update(self.places[row].segment for row in numbers)
                self.see_settled(numbers)
            case Discard(segment=segment):
                self.see_discarded(segment)
            case Cancel(remote_id=remote_id):
                self.open.pop(self.remotes[remote_id].key, None)
            case Delete(file_ids=file_ids):
                self.files.difference_update(file_ids)
            case Count():
                self.see_count(command)
            case Upload() | Create() | Find() | Check() | Collect():
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
        waiting = [row for row, place in sorted(self.places.items()) if place.lane == fact.lane and self.waits(row)]
        waiting = [row for row in waiting if row in rows or not self.may_be_passed(row)]
        assert rows == waiting[: len(rows)], "not in order of arrival"
        assert not self.unwanted & set(rows), "sent again though nobody awaits it"
        self.packed_at[key] = self.now
        for row, place in zip(rows, places, strict=True):
            assert row not in self.abandoned
            if place.batch is not None:
                assert self.waits(row), f"{row} is still in {place.batch}"
                self.dead.add(place.batch)
            place.batch = key

    def may_be_passed(self, row: int) -> bool:
        """Tell whether others may go before a row: it is not quite back, or was refused time and again."""
        return self.places[row].batch in self.just_told or row in self.unwanted or self.refusals[row] >= 3

    def see_returned(self, key: str) -> None:
        assert key not in self.open, "a batch that may be created is packed anew"
        self.returning.add(key)
        self.returned.add(key)

    def see_count(self, count: Count) -> None:
        assert rows_of(count.runs)
        assert all(run.tokens is None for run in count.runs)
        assert not self.discarded & {run.segment for run in count.runs}
        self.counts.append(count)

    def see_failed(self, fail: Fail) -> None:
        if fail.failure.kind != "full":
            return
        (row,) = fail.numbers
        if fail.failure.message.startswith("Alone"):
            assert self.refusals[row] >= 3
            assert not self.exact
        elif self.honest:
            limit = self.stats(self.places[row].lane).limit
            assert self.places[row].tokens > (self.limit if limit is None else limit)

    def stats(self, lane: Lane) -> LaneStats:
        (stats,) = (stats for stats in self.engine.lanes() if stats.lane == lane)
        return stats

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
        assert not self.segments[segment] - self.unwanted, "rows of a discarded segment are not settled"
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
                assert batch.key not in self.known, "created twice"
                self.see_create(batch)
            case Find(keys=keys):
                self.looks.update(dict.fromkeys(keys, self.now))
            case Collect(key=key):
                self.collecting.add(key)
        self.steps.append(step)

    def see_create(self, batch: PackedBatch) -> None:
        """Check what else is in the queue when a batch is created."""
        queue = batch.lane.queue
        going = {place.batch for place in self.places.values()} - self.returning
        others = [key for key in self.open if key in going and self.batches[key].lane.queue == queue]
        others = [key for key in others if key != batch.key]
        self.open[batch.key] = sum(self.places[row].tokens for row in rows_of(batch.runs))
        assert not self.exact or self.open[batch.key] <= self.limit, "a batch that never fits"
        if self.exact and others:
            assert sum(self.open[key] for key in others) + self.open[batch.key] <= 0.99 * self.limit
        # What was packed long ago may meet another: an upload that takes so long no longer keeps others back.
        fresh = [key for key in (batch.key, *others) if self.packed_at[key] + UNHEARD > self.now]
        if queue not in self.told and batch.key in fresh:
            assert set(fresh) - self.heard <= {batch.key}, "two batches validate while no limit is known"

    # --- the callers

    @rule(
        lane=st.sampled_from(LANES),
        sizes=st.lists(st.integers(1, 20).map(lambda size: 4 * size), min_size=1, max_size=8),
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
        rows -= {row for row in rows if not self.waits(row) and self.is_taken_in(row) is None}
        for row in rows:
            if self.waits(row):
                self.forget(row)
            elif not self.is_taken_in(row):
                self.unwanted.add(row)
        self.feed(Abandoned(rows))

    def is_taken_in(self, row: int) -> bool | None:
        """Tell whether the provider runs the batch of a row, None where that cannot be said from outside."""
        key = self.places[row].batch or ""
        told = self.statuses.get(key, set())
        if told:
            return None if told & {"scheduling", *ENDS} else told != {"validating"}
        return None if key in self.lost_once else False

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

    @precondition(lambda self: not self.exact)
    @rule(queue=st.sampled_from(QUEUES), tokens=ANY_LIMIT, source=st.sampled_from(["user", "table", "learned"]))
    def hear_of_a_limit(self, queue: Queue, tokens: int | None, source: Source) -> None:
        self.tell_limit(queue, tokens, source)

    # --- counting

    @precondition(lambda self: self.counts)
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    def count(self, data: st.DataObject, fails: bool) -> None:
        count = self.counts.pop(data.draw(st.integers(0, len(self.counts) - 1)))
        if fails and not self.exact:
            self.feed(Uncountable(count.lane))
        elif self.honest:
            self.count_exactly(count)
        else:
            runs = [with_tokens(run, [data.draw(st.integers(0, 100)) for _ in run.rows]) for run in count.runs]
            self.feed(Counted(count.lane, tuple(runs)))

    def count_exactly(self, count: Count) -> None:
        for row in rows_of(count.runs):
            if row in self.places and self.waits(row):
                self.places[row].counted = True
        self.feed(Counted(count.lane, tuple(map(truly_counted, count.runs))))

    def count_all(self) -> None:
        while self.counts:
            self.count_exactly(self.counts.pop(0))

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
        kinds = [kind for kind in FAILURES[type(step)] if kind != "full" or not self.exact]
        kind, limit = data.draw(st.sampled_from(kinds)), None
        if isinstance(step, Create) and kind == "lost":
            if data.draw(st.booleans()):
                self.create_remotely(step.batch)
            self.lost_at[step.batch.key] = self.now
            self.lost_once.add(step.batch.key)
        if isinstance(step, Create) and kind == "full":
            limit = self.refuse(step.batch.key, data)
        if isinstance(step, Collect) and data.draw(st.booleans()):
            self.answer(step, data)
        failed = Failed(step.keys, Failure(kind, "no", 400, limit=limit))  # type: ignore[arg-type]
        if isinstance(step, Upload) and step.batch.key in self.returned:
            commands = self.engine.handle(failed, self.now)
            assert commands == [Delete((), step.batch.sought, step.batch.key, TIMING.lookup)]
        else:
            self.feed(failed)

    def refuse(self, key: str, data: st.DataObject) -> int | None:
        """Let a batch find no room, and give the limit that is stated."""
        stated = data.draw(st.sampled_from([None, self.limit]) if self.honest else ANY_LIMIT)
        self.returning.add(key)
        self.note_refusal(key)
        return stated

    def note_refusal(self, key: str) -> None:
        self.told.add(self.batches[key].lane.queue)
        self.refusals.update(rows_of(self.batches[key].runs))

    @rule(data=st.data(), rounds=st.integers(1, 8))
    def go_on(self, data: st.DataObject, rounds: int) -> None:
        """Let every step succeed and time pass, several times: batches get old only so."""
        for _ in range(rounds):
            for _ in range(len(self.steps)):
                self.succeed(data)
            self.count_all()
            self.tick(0.0)

    @precondition(lambda self: self.steps)
    @rule(data=st.data())
    def succeed_once(self, data: st.DataObject) -> None:
        self.succeed(data)

    def succeed(self, data: st.DataObject) -> None:
        step = self.draw_step(data)
        match step:
            case Upload(batch=batch):
                self.uploaded(batch)
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
                self.collected(step, *self.bill(step, data))

    def uploaded(self, batch: PackedBatch) -> None:
        file_id = f"file-{batch.key}"
        self.files.add(file_id)
        if batch.key in self.returned:
            commands = self.engine.handle(Uploaded(batch.key, file_id), self.now)
            assert commands == [Delete((file_id,), batch.sought, batch.key, TIMING.lookup)]
            self.files.remove(file_id)
        else:
            self.feed(Uploaded(batch.key, file_id))

    def draw_step(self, data: st.DataObject) -> Step:
        return self.steps.pop(data.draw(st.integers(0, len(self.steps) - 1)))

    def create_remotely(self, batch: PackedBatch) -> Remote:
        self.remote_numbers += 1
        remote_id = f"batch_{self.remote_numbers}"
        rows = rows_of(batch.runs)
        tokens = sum(self.places[row].tokens for row in rows)
        remote = Remote(batch.key, rows, BatchStatus(remote_id, batch.key, "validating"), tokens)
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
            code = data.draw(st.sampled_from(["invalid_url", "empty_file", ""]))
            lines = st.sampled_from([None, *range(1, len(remote.rows) + 2)])
            if code:
                problems = [BatchProblem(code, "no", line) for line in data.draw(st.lists(lines, min_size=1))]
        full = seen == "failed" and not self.exact and data.draw(st.booleans())
        no_room = NoRoom(self.refuse(remote.key, data)) if full else None
        files = data.draw(st.booleans())
        if files:
            remote.answered = data.draw(st.lists(st.sampled_from(remote.rows), unique=True))
        succeeded, input_tokens = data.draw(st.sampled_from([(None, None), (len(remote.rows), remote.tokens)]))
        if not self.honest:
            succeeded, input_tokens = data.draw(NUMBERS), data.draw(NUMBERS)
        remote.status = BatchStatus(
            remote.status.id,
            remote.key,
            seen,
            output_file_id="out" if files else None,
            answered=len(remote.answered) if seen == "completed" and data.draw(st.booleans()) else None,
            problems=tuple(problems),
            no_room=no_room,
            succeeded=succeeded,
            input_tokens=input_tokens,
        )

    def note_status(self, status: BatchStatus) -> None:
        key = self.remotes[status.id].key
        self.statuses.setdefault(key, set()).add(status.status)
        if status.status in ENDS:
            self.open.pop(key, None)
        if status.status != "validating":
            self.heard.add(key)
        if status.status == "failed":
            self.returning.add(key)

    def tell_created(self, remote: Remote) -> None:
        self.lost_at.pop(remote.key, None)
        self.known.add(remote.key)
        self.note_status(remote.status)
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
        self.checked(step, statuses)

    def checked(self, step: Check, statuses: list[BatchStatus]) -> None:
        for status in statuses:
            self.note_status(status)
        self.just_told = {self.remotes[status.id].key for status in statuses}
        self.feed(Checked(step.remote_ids, statuses))
        self.just_told = set()

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

    def collected(self, step: Collect, billed: int = 0, input_tokens: int = 0) -> None:
        self.collecting.discard(step.key)
        self.feed(Collected(step.key, billed, input_tokens))

    def bill(self, step: Collect, data: st.DataObject) -> tuple[int, int]:
        """Say what rows were billed, where it was to be added up."""
        remote = self.remotes[step.status.id]
        if not step.add_up:
            return 0, 0
        if self.honest:
            return data.draw(st.sampled_from([(0, 0), (len(remote.rows), remote.tokens)]))
        return data.draw(st.tuples(st.integers(0, 9), st.integers(0, 500)))

    # --- what must hold

    @invariant()
    def something_is_due_while_rows_wait(self) -> None:
        if self.places and not self.steps and not self.counts:
            assert self.engine.deadline() < math.inf

    @invariant()
    def the_lanes_count_every_row_that_is_not_settled(self) -> None:
        counted = {lane.lane: lane.waiting + lane.submitted for lane in self.engine.lanes()}
        model = Counter(place.lane for place in self.places.values())
        assert counted == {lane: model[lane] for lane in counted}

    @invariant()
    def nobody_waits_who_is_known_to_be_above_the_limit(self) -> None:
        if self.exact:
            assert not [row for row, place in self.places.items() if place.counted and place.tokens > self.limit]

    @invariant()
    def the_users_limit_is_in_force(self) -> None:
        if self.exact:
            assert {(lane.limit, lane.limit_source) for lane in self.engine.lanes()} <= {(self.limit, "user")}

    @precondition(lambda self: self.facts_only)
    @rule(data=st.data(), flush=st.booleans())
    def replay(self, data: st.DataObject, flush: bool) -> None:
        """An engine that is told the facts alone stands where this one stands, and goes on alike.

        A reservation that mere time brought about is told by the next fact about its batch: until then, and in what was
        learned from time itself, the two may differ. The figures still agree.
        """
        while self.steps or self.counts:
            self.count_all()
            if self.steps:
                self.succeed(data)
        replica = Engine(POOL, TIMING, self.limits)
        for fact, at in self.facts:
            replica.handle(fact, at)
        assert replica.created == self.engine.created
        assert [figures(lane) for lane in replica.lanes()] == [figures(lane) for lane in self.engine.lanes()]
        if self.by_time or not self.honest:
            return
        assert replica.lanes() == self.engine.lanes()
        commands: list[Command] = []
        if replica.deadline() < self.engine.deadline():
            # No fact tells of a deadline that came to nothing. What the last flush came upon may be due here as well.
            commands = self.handle(Tick())
            assert in_no_order(replica.handle(Tick(), self.now)) == in_no_order(commands)
        assert replica.deadline() == self.engine.deadline()
        assert replica.created == self.engine.created
        if commands:
            self.perform(commands)
            return
        event = Flush() if flush else Tick()
        if self.engine.deadline() < math.inf:
            self.now = max(self.now, self.engine.deadline())
        commands = self.handle(event)
        assert in_no_order(replica.handle(event, self.now)) == in_no_order(commands)
        self.perform(commands)
        # A flush that found no room is no fact: what follows from it is not replayed.
        self.facts_only &= not flush or not any(lane.waiting for lane in self.engine.lanes())

    def teardown(self) -> None:
        """With a provider that behaves from now on, everybody is settled."""
        if not hasattr(self, "engine"):
            return
        for _ in range(6_000):
            if self.counts:
                self.count_exactly(self.counts.pop(0))
            elif self.steps:
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
        assert self.discarded == set(self.segments) - self.kept - {segment for segment, _ in self.growing.values()}
        assert all(figures(lane)[1:] == (0, 0, 0) and lane.enqueued == 0 for lane in self.engine.lanes())
        assert not self.files & {f"file-{key}" for key in self.returned}

    def behave(self, step: Step) -> None:
        match step:
            case Upload(batch=batch):
                self.uploaded(batch)
            case Create(batch=batch):
                self.tell_created(self.create_remotely(batch))
            case Find():
                self.find(step, lags=False)
            case Check(remote_ids=remote_ids):
                remotes = [self.remotes[remote_id] for remote_id in remote_ids]
                for remote in remotes:
                    self.end(remote)
                self.checked(step, [remote.status for remote in remotes])
            case Collect(key=key, status=status):
                rows = self.remotes[status.id].answered
                self.feed(Answered(key, [Row(f"{POOL}-{row}", 200, "", b"{}") for row in rows]))
                self.collected(step)

    def end(self, remote: Remote) -> None:
        """Let a batch be completed, or refused if it can never fit."""
        if remote.status.status in ENDS:
            return
        if self.honest and remote.tokens > self.limit:
            self.note_refusal(remote.key)
            remote.status = BatchStatus(remote.status.id, remote.key, "failed", no_room=NoRoom(self.limit))
        else:
            remote.answered = list(remote.rows)
            remote.status = BatchStatus(remote.status.id, remote.key, "completed", output_file_id="out")


def truly_counted(run: Run) -> Run:
    """Give a run with its tokens."""
    return with_tokens(run, (size // 4 for size in run.sizes))


def figures(stats: LaneStats) -> tuple[Lane, int, int, int]:
    """Give the figures that follow from the facts alone."""
    return stats.lane, stats.waiting, stats.submitted, stats.batches


def in_no_order(commands: list[Command]) -> list[str]:
    """Forget the order, and so the numbering, of what is due at the same instant."""
    return sorted(repr(_without_order(command)) for command in commands)


def _without_order(command: Command) -> object:
    match command:
        case Record(fact=Packed() as fact):
            return fact.lane, fact.runs
        case Check(keys=keys) | Find(keys=keys):
            return type(command), sorted(keys)
    return command


EngineMachine.TestCase.settings = settings(
    max_examples=600,
    stateful_step_count=35,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestEngineMachine = EngineMachine.TestCase
