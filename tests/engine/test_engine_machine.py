"""Any course of events: every row is settled once, whatever the provider, the network and the callers do.

Rows go again as often as `Retry` allows, and only while no file has answered them; a row that is sent live is so once.

Tokens: a row truly has a quarter of its bytes. The provider's queue takes `limit` of them. In an `exact` course the
user has named that limit and nobody is refused for want of room; in an `honest` one counts, limits and bills are true,
but the provider refuses whatever it likes; otherwise all of them may be anything.
"""

import math
import os
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import hypothesis.strategies as st
from engine_kit import FACTS, NOW, POOL, make_run, rows_of, with_tokens
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.config import Canary, Retry, Timing
from carpool.engine.commands import (
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
    Record,
    SendLive,
    Settle,
    Step,
    Tell,
    Upload,
)
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Barred,
    Checked,
    Claimed,
    Closing,
    Collected,
    Counted,
    Created,
    Done,
    Escalate,
    Event,
    Fact,
    Failed,
    Flush,
    Limited,
    LiveEnded,
    NotFound,
    Packed,
    Released,
    Returned,
    Revoked,
    Settled,
    Shared,
    Tick,
    Uncountable,
    Uploaded,
    Woken,
)
from carpool.engine.lane import LaneStats
from carpool.engine.limit import Source
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
UNLISTED = 900.0  # seconds, for which batches are asked for singly at most, after listings that could not be read
COURSE = ["validating", "scheduling", "in_progress", "finalizing", "cancelling"]
ENDS = ["completed", "expired", "cancelled", "failed"]
GOOD = (200, "")
ROWS = [GOOD, GOOD, GOOD, GOOD, (500, ""), (429, ""), (0, "batch_expired"), (0, "request_timeout"), (400, "")]
MILD = ["invalid_url", "invalid_url", "empty_file", "server_error", ""]
CODES = [*MILD, "model_not_found", "insufficient_quota"]
FAILURES: dict[type[Step], list[str]] = {
    Upload: ["busy", "lost", "gone", "rejected", "auth", "disk", "failed", "budget"],
    Claim: ["disk"],
    Create: ["busy", "lost", "gone", "full", "rejected", "auth", "failed", "budget"],
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
        retry=st.builds(Retry, max_attempts=st.integers(1, 3), max_expiries=st.integers(1, 3)),
        canary=st.sampled_from([None, None, None, Canary(1, 0.0), Canary(2, 0.5)]),
        keeps=st.booleans(),
        frail=st.sampled_from([False, False, False, True]),
    )
    def begin(
        self,
        per_hour: int,
        requests: int,
        bytes_: int,
        facts_only: bool,
        course: str,
        limit: int,
        known: bool,
        retry: Retry,
        canary: Canary | None,
        keeps: bool,
        frail: bool,
    ) -> None:
        self.limits = FileLimits(requests, bytes_, 7, per_hour)
        self.retry, self.canary, self.keeps = retry, canary, keeps
        self.frail = frail  # what ends everything may happen
        self.engine = self.new_engine()
        self.now = NOW
        self.facts: list[tuple[Fact, float]] = []
        self.facts_only = facts_only and per_hour > 1_000  # what happens is all in the facts: replay must agree
        self.listed_at: list[float] = []  # when calls for listings were over, all in vain: no answer here shows a page
        self.by_time = False  # something was decided that no fact tells of
        self.exact, self.honest, self.limit = course == "exact", course != "wild", limit
        self.steps: list[Step] = []  # outstanding
        self.counts: list[Count] = []  # outstanding
        self.places: dict[int, Place] = {}  # rows that are not settled
        self.ended_rows = Counter[int]()
        self.left: set[int] = set()  # rows that nobody awaits any more
        self.abandoned: set[int] = set()  # of these, those that came to an end so
        self.batches: dict[str, PackedBatch] = {}
        self.over: set[str] = set()  # batches that are done: what is left of them waits again
        self.returned: set[str] = set()  # batches that stood in line and are packed anew
        self.ends: dict[str, str] = {}  # how batches ended, as far as was told
        self.suspects: set[int] = set()  # rows of batches that failed as a whole
        self.tries = Counter[int]()  # of rows, in batches that ran
        self.calls: set[int] = set()  # rows whose live calls are under way
        self.lived: set[int] = set()  # that ever were sent live
        self.revoked: set[str] = set()  # batches
        self.barred = False
        self.notices = Counter[tuple[str, str | None]]()
        self.tokens: dict[int, int] = {}  # of rows, truly
        self.lost_at: dict[str, float] = {}  # creations that may have happened and were not looked for long enough
        self.looks: dict[str, float] = {}
        self.claimed: set[str] = set()  # batches for which the journal had room
        self.segments: dict[int, set[int]] = {}
        self.growing: dict[Lane, tuple[int, int]] = {}
        self.discarded: set[int] = set()
        self.kept: set[int] = set()  # segments of rows that somebody may ask for yet
        self.unheard: set[int] = set()  # these rows
        self.numbers = self.remote_numbers = 0
        self.remotes: dict[str, Remote] = {}
        self.files: set[str] = set()  # inputs that were uploaded and not deleted
        self.packed_at: dict[str, float] = {}
        self.open: dict[str, int] = {}  # tokens of the batches that are created, or are being created, and run
        self.known: set[str] = set()  # batches whose creation was told
        self.heard: set[str] = set()  # batches that are past their validation
        self.told: set[Queue] = set()  # queues of which a limit or a refusal was heard
        self.refusals = Counter[int]()  # of rows
        if self.exact or known:
            for queue in QUEUES:
                self.tell_limit(queue, limit, "user" if self.exact else "table")

    def new_engine(self) -> Engine:
        return Engine(POOL, TIMING, self.limits, retry=self.retry, canary=self.canary, keeps=self.keeps)

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
        facts: deque[Fact] = deque()
        while True:
            said: list[Fact] = [command.fact for command in commands if isinstance(command, Record)]
            for fact in said:  # they are recorded together with what is discarded
                if isinstance(fact, Settled) and fact.batch_id is None:
                    self.see_taken_out(fact)
            for command in commands:
                if not isinstance(command, Record):
                    self.see(command)
            facts += said
            if not facts:
                break
            fact = facts.popleft()
            self.see_fact(fact)
            commands = self.handle(fact)
        assert all(self.engine.holds(key) for key in self.batches.keys() - self.over), "nobody looks after it"
        self.look_for_kept()

    def see_fact(self, fact: Fact) -> None:
        match fact:
            case Packed():
                self.see_packed(fact)
            case Returned(key=key):
                assert not self.may_be_created(key), "a batch that may be created is packed anew"
                self.open.pop(key, None)  # a creation that was refused for now was to be tried again
                self.returned.add(key)
            case Done():
                self.see_done(fact)
            case Released(key=key):
                assert self.keeps
                self.claimed.discard(key)

    def may_be_created(self, key: str) -> bool:
        """Tell whether a batch is created, or being created."""
        under_way = any(isinstance(step, Create | Find) and key in step.keys for step in self.steps)
        return under_way or key in self.lost_at or any(remote.key == key for remote in self.remotes.values())

    def look_for_kept(self) -> None:
        """Take note of rows that were sent live in vain, and are kept for a day, or until somebody asks."""
        for row in sorted(self.places.keys() & self.engine._escalations._lost.keys()):  # noqa: SLF001 - as below
            assert self.keeps
            assert row in self.lived & self.left
            self.kept.add(self.places[row].segment)
            self.unheard.add(row)
            self.abandoned.add(row)
            self.drop(row)

    def reserved(self) -> int:
        return sum(lane.enqueued for lane in self.engine.lanes())

    def see(self, command: Command) -> None:
        match command:
            case Settle(numbers=numbers):
                self.see_settled(numbers)
            case Fail(numbers=numbers):
                self.see_failed(command)
                self.see_settled(numbers)
            case SendLive():
                self.see_sent_live(command)
            case Tell(kind=kind, batch_id=batch_id):
                self.notices[kind, batch_id] += 1
            case Discard(segment=segment):
                self.see_discarded(segment)
            case Cancel(remote_id=remote_id):
                assert self.remotes[remote_id].key not in self.over
            case Delete(file_ids=file_ids):
                self.files.difference_update(file_ids)
            case Count():
                self.see_count(command)
            case Upload() | Claim() | Create() | Find() | Check() | Collect():
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
        # What was sent live in vain is not sent again: once its batch is over, it is kept until somebody asks.
        waiting = [row for row in waiting if row in rows or (self.refusals[row] < 3 and row not in self.lived)]
        # What a validation refused as a whole, and may be to blame, is tried in parts before anything else.
        assert rows == waiting[: len(rows)] or self.suspects.issuperset(rows), "not in order of arrival"
        assert not self.left & set(rows), "sent again though nobody awaits it"
        assert not self.lived & set(rows), "sent again though it was sent live"
        assert not self.barred, "packed though nothing may be sent"
        most = self.retry.max_attempts - 1 + self.retry.max_expiries - 1
        assert max(self.tries[row] for row in rows) <= most, "sent too often"
        self.packed_at[key] = self.now
        for row, place in zip(rows, places, strict=True):
            assert self.waits(row), f"{row} is still in {place.batch}"
            assert place.batch not in self.revoked, "sent again though it was cancelled"
            place.batch = key

    def see_done(self, fact: Done) -> None:
        assert fact.key not in self.over
        self.over.add(fact.key)
        self.open.pop(fact.key, None)
        self.claimed.discard(fact.key)
        if self.ends.get(fact.key) == "failed":
            self.suspects.update(rows_of(self.batches[fact.key].runs))
        if self.ends.get(fact.key) in ("completed", "expired", "cancelled"):
            self.tries.update(row for row, place in self.places.items() if place.batch == fact.key)

    def see_taken_out(self, fact: Settled) -> None:
        """Rows that nobody awaits end so; those that failed in the end are told of by their batch."""
        for row in self.places.keys() & set(fact.rows):
            assert row in self.left, "taken out though somebody awaits it"
            self.abandoned.add(row)
            self.drop(row)

    def see_sent_live(self, command: SendLive) -> None:
        rows = set(rows_of(command.runs))
        assert rows <= self.places.keys()
        assert {self.places[row].lane for row in rows} == {command.lane}
        assert not rows & self.lived, "sent live twice"
        assert not self.discarded & {run.segment for run in command.runs}
        self.lived |= rows
        self.calls |= rows

    def see_count(self, count: Count) -> None:
        assert rows_of(count.runs)
        assert all(run.tokens is None for run in count.runs)
        assert not self.discarded & {run.segment for run in count.runs}
        self.counts.append(count)

    def see_failed(self, fail: Fail) -> None:
        for attempts in fail.attempts.values():
            expiries = sum(attempt.code == "batch_expired" for attempt in attempts)
            assert expiries <= self.retry.max_expiries
            assert len(attempts) - expiries <= self.retry.max_attempts
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
            if row in self.unheard:
                continue
            assert row not in self.abandoned
            self.drop(row)

    def drop(self, row: int) -> None:
        place = self.places.pop(row)
        self.segments[place.segment].discard(row)

    def see_discarded(self, segment: int) -> None:
        assert segment not in self.discarded
        assert not self.segments[segment], "rows of a discarded segment are not settled"
        assert segment not in {segment for segment, _ in self.growing.values()}
        self.discarded.add(segment)

    def see_step(self, step: Step) -> None:
        for key in step.keys:
            assert key not in self.over or isinstance(step, Upload), "a batch goes on that is over"
            assert all(key not in other.keys for other in self.steps), "two steps of a batch at once"
        match step:
            case Upload(batch=batch):
                self.batches[batch.key] = batch
                assert not self.discarded & {run.segment for run in batch.runs}
            case Claim(key=key):
                assert self.keeps
                assert key not in self.claimed, "there is room for it already"
            case Create(batch=batch):
                assert batch.key in self.claimed or not self.keeps, "created without room"
                assert batch.key not in self.lost_at, "created again without a look after the lookup's end"
                assert batch.key not in self.known, "created twice"
                self.see_create(batch)
            case Find(keys=keys):
                self.looks.update(dict.fromkeys(keys, self.now))
            case Collect(key=key):
                self.open.pop(key, None)
        self.steps.append(step)

    def see_create(self, batch: PackedBatch) -> None:
        """Check what else is in the queue when a batch is created."""
        queue = batch.lane.queue
        others = [key for key in self.open if self.batches[key].lane.queue == queue and key != batch.key]
        others = [key for key in others if self.engine.holds(key)]
        self.open[batch.key] = sum(self.tokens[row] for row in rows_of(batch.runs))
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
            self.tokens[row] = size // 4
            self.segments[segment].add(row)
        self.growing[lane] = (segment, offset + sum(sizes))
        self.feed(Accepted(lane, make_run(rows, segment=segment, offset=offset, size=sizes, inputs=inputs)))

    @precondition(lambda self: self.places and not self.facts_only)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        rows = data.draw(st.frozensets(st.sampled_from(sorted(self.places)), min_size=1))
        self.left |= rows
        self.feed(Abandoned(rows))

    def waits(self, row: int) -> bool:
        """Tell whether a row is in no batch and not on its way alone."""
        batch = self.places[row].batch
        return row not in self.calls and (batch is None or batch in self.over)

    # --- what callers and their pool may want besides

    @precondition(lambda self: self.places and not self.facts_only)
    @rule(data=st.data())
    def escalate(self, data: st.DataObject) -> None:
        rows = data.draw(st.frozensets(st.sampled_from(sorted(self.places)), min_size=1))
        before = set(self.lived)
        self.feed(Escalate(rows))
        if not self.frail:
            assert rows <= self.lived
        sent = self.lived - before
        assert not (sent and self.barred), "sent live though nothing is to be paid for"
        assert not any(self.places[row].batch in self.revoked for row in sent), "sent live though it was cancelled"

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), end=st.sampled_from([200, 200, 400, None, "failed"]))
    def end_live(self, data: st.DataObject, end: int | str | None) -> None:
        self.live_ends(data.draw(st.sampled_from(sorted(self.calls))), end)

    def live_ends(self, row: int, end: int | str | None) -> None:
        self.calls.remove(row)
        alone = row in self.places and self.is_alone(row)
        match end:
            case int(status_code):
                event = LiveEnded(row, Row(f"{POOL}-{row}", status_code, "", b"{}"))
            case None:
                event = LiveEnded(row)
            case _:
                event = LiveEnded(row, failure=Failure("failed", "no"))
        self.feed(event)
        if alone or end == 200:
            assert row not in self.places, "not settled by what its live call came to"

    @precondition(lambda self: self.frail and not self.facts_only)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        remote_id = data.draw(st.sampled_from([None, *sorted(self.engine.remote_ids())]))
        if remote_id is not None:
            self.revoked.add(self.remotes[remote_id].key)
            self.feed(Revoked(frozenset((remote_id,))))
            return
        self.revoked |= self.batches.keys() - self.over
        self.feed(Revoked())
        assert not any(map(self.waits, self.places)), "not cancelled though it waited"

    @precondition(lambda self: self.frail and not self.facts_only)
    @rule(closing=st.booleans())
    def bar(self, closing: bool) -> None:
        if closing:
            self.feed(Closing())
            return
        self.barred = True
        self.feed(Barred(Failure("budget", "spent")))
        assert not any(map(self.waits, self.places)), "still waits though nothing may be sent"

    @precondition(lambda self: not self.facts_only)
    @rule()
    def flush(self) -> None:
        self.feed(Flush())

    @precondition(lambda self: self.remotes and not self.facts_only)
    @rule(data=st.data())
    def hear_of_an_end(self, data: st.DataObject) -> None:
        """Let word come of any batches, whether they have ended or not, and whether their creation was told of."""
        remote_ids = data.draw(st.lists(st.sampled_from(["batch_of_others", *sorted(self.remotes)]), min_size=1))
        self.feed(Woken(tuple(remote_ids)))

    @precondition(lambda self: not self.exact)
    @rule(queue=st.sampled_from(QUEUES), tokens=ANY_LIMIT, source=st.sampled_from(["user", "table", "learned"]))
    def hear_of_a_limit(self, queue: Queue, tokens: int | None, source: Source) -> None:
        self.tell_limit(queue, tokens, source)

    @precondition(lambda self: not self.exact)
    @rule(share=st.sampled_from([0.25, 0.5, 1.0]))
    def hear_of_a_share(self, share: float) -> None:
        self.feed(Shared(share))

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
        kinds = [kind for kind in kinds if kind != "budget" or self.frail]
        kind, limit = data.draw(st.sampled_from(kinds)), None
        if isinstance(step, Create) and kind == "lost":
            if data.draw(st.booleans()):
                self.create_remotely(step.batch)
            self.lost_at[step.batch.key] = self.now
        if isinstance(step, Create) and kind == "full":
            limit = self.refuse(step.batch.key, data)
        if isinstance(step, Collect) and data.draw(st.booleans()):
            self.answer(step, data)
        if isinstance(step, Create) and kind in ("rejected", "auth", "failed", "budget"):
            self.open.pop(step.batch.key, None)  # it ends before the next is created
        failed = Failed(step.keys, Failure(kind, "no", 400, limit=limit))  # type: ignore[arg-type]
        if isinstance(step, Upload) and step.batch.key in self.over:
            commands = self.engine.handle(failed, self.now)
            assert commands == [Delete((), step.batch.sought, step.batch.key, TIMING.lookup)]
        else:
            self.feed(failed)

    def refuse(self, key: str, data: st.DataObject) -> int | None:
        """Let a batch find no room, and give the limit that is stated."""
        stated = data.draw(st.sampled_from([None, self.limit]) if self.honest else ANY_LIMIT)
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
            case Claim():
                self.claim(step, data)
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

    def claim(self, step: Claim, data: st.DataObject) -> None:
        """Let the journal say whether other processes leave room, and what they did meanwhile."""
        granted = data.draw(st.sampled_from([True, True, False]))
        others = data.draw(st.sampled_from([0, 0, 5, 300]))
        learned = None if granted or self.exact or data.draw(st.booleans()) else (self.limit, self.now)
        if learned is not None:
            self.told.add(step.queue)
        created, ended = data.draw(st.sampled_from([((), ()), ((self.now,), ((step.queue, self.now, 7),))]))
        self.tell_claimed(Claimed(step.key, step.queue, granted, others, learned, created, ended))

    def tell_claimed(self, claimed: Claimed) -> None:
        if claimed.granted:
            self.claimed.add(claimed.key)
        self.feed(claimed)

    def uploaded(self, batch: PackedBatch) -> None:
        file_id = f"file-{batch.key}"
        self.files.add(file_id)
        if batch.key in self.over:
            commands = self.engine.handle(Uploaded(batch.key, file_id), self.now)
            assert commands == [Delete((file_id,), batch.sought, batch.key, TIMING.lookup)]
            self.files.remove(file_id)
        else:
            self.feed(Uploaded(batch.key, file_id))

    def draw_step(self, data: st.DataObject) -> Step:
        step = self.steps.pop(data.draw(st.integers(0, len(self.steps) - 1)))
        if isinstance(step, Check) and step.place is not None:
            self.listed_at.append(self.now)
        return step

    def create_remotely(self, batch: PackedBatch) -> Remote:
        self.remote_numbers += 1
        remote_id = f"batch_{self.remote_numbers}"
        rows = rows_of(batch.runs)
        tokens = sum(self.tokens[row] for row in rows)
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
            code = data.draw(st.sampled_from(CODES if self.frail else MILD))
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
        if status.status in ENDS:
            self.ends[key] = status.status
            self.open.pop(key, None)
        if status.status != "validating":
            self.heard.add(key)

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
        outcomes = data.draw(st.lists(st.sampled_from(ROWS), min_size=len(ids), max_size=len(ids)))
        rows = [Row(id_, status, "", b"{}", code) for id_, (status, code) in zip(ids, outcomes, strict=True)]
        self.tell_rows(step.key, rows)

    def tell_rows(self, key: str, rows: list[Row]) -> None:
        """Tell of rows: of whoever was answered the course is over."""
        self.feed(Answered(key, rows))
        own = rows_of(self.batches[key].runs)
        well = [row for row in own if any(one.custom_id == f"{POOL}-{row}" and one.ok for one in rows)]
        assert not [row for row in well if row in self.places], "answered by a file, and not settled"

    def collected(self, step: Collect, billed: int = 0, input_tokens: int = 0) -> None:
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
        if self.places and not (self.steps or self.counts or self.calls):
            assert self.engine.deadline() < math.inf

    @invariant()
    def the_lanes_count_every_row_that_is_not_settled(self) -> None:
        counted = {lane.lane: lane.waiting + lane.submitted for lane in self.engine.lanes()}
        alone = {row for row in self.calls & self.places.keys() if self.is_alone(row)}
        model = Counter(place.lane for row, place in self.places.items() if row not in alone)
        assert counted == {lane: model[lane] for lane in counted}

    def is_alone(self, row: int) -> bool:
        """Tell whether a row whose live call is under way is in no batch."""
        batch = self.places[row].batch
        return batch is None or batch in self.over

    @invariant()
    def a_batch_is_told_of_once(self) -> None:
        assert all(count == 1 for (kind, _), count in self.notices.items() if kind != "held")

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
        replica = self.new_engine()
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
            assert self.is_as_by(replica, Tick(), commands)
        assert replica.deadline() == self.engine.deadline()
        assert replica.created == self.engine.created
        if commands:
            self.perform(commands)
            return
        event = Flush() if flush else Tick()
        if self.engine.deadline() < math.inf:
            self.now = max(self.now, self.engine.deadline())
        commands = self.handle(event)
        assert self.is_as_by(replica, event, commands)
        self.perform(commands)
        # A flush that found no room is no fact: what follows from it is not replayed.
        self.facts_only &= not flush or not any(lane.waiting for lane in self.engine.lanes())

    def is_as_by(self, replica: Engine, event: Event, commands: list[Command]) -> bool:
        """Tell whether another engine answers an event with the same commands.

        No fact tells of listings that could not be read. After two of them batches are asked for singly for a while.
        """
        grouped = len(self.listed_at) < 2 or self.now > self.listed_at[-1] + UNLISTED
        return in_no_order(replica.handle(event, self.now), grouped=grouped) == in_no_order(commands, grouped=grouped)

    def teardown(self) -> None:
        """With a provider that behaves from now on, everybody is settled."""
        if not hasattr(self, "engine"):
            return
        for _ in range(6_000):
            if self.counts:
                self.count_exactly(self.counts.pop(0))
            elif self.calls:
                self.live_ends(min(self.calls), 200)
            elif self.steps:
                self.behave(self.steps.pop(0))
            elif self.places or any(lane.batches for lane in self.engine.lanes()):
                self.now = max(self.now, self.engine.deadline())
                assert self.now < math.inf
                self.feed(Tick())
            else:
                break
        assert not self.places
        accepted = set(range(1, self.numbers + 1))
        assert set(self.ended_rows) == accepted - self.abandoned
        assert set(self.ended_rows.values()) <= {1}
        stay = set(self.segments) - self.discarded
        growing = {segment for segment, _ in self.growing.values()}
        assert growing <= stay <= growing | self.kept
        assert all(figures(lane)[1:] == (0, 0, 0) and lane.enqueued == 0 for lane in self.engine.lanes())
        assert not self.files & {f"file-{key}" for key in self.returned}

    def behave(self, step: Step) -> None:
        match step:
            case Upload(batch=batch):
                self.uploaded(batch)
            case Claim(key=key, queue=queue):
                self.tell_claimed(Claimed(key, queue, granted=True))
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
                self.tell_rows(key, [Row(f"{POOL}-{row}", 200, "", b"{}") for row in rows])
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


def in_no_order(commands: list[Command], *, grouped: bool) -> list[str]:
    """Forget the order, and so the numbering, of what is due at the same instant; and who is asked for with whom."""
    return sorted(repr(part) for command in commands for part in _without_order(command, grouped=grouped))


def _without_order(command: Command, *, grouped: bool) -> Iterable[object]:
    match command:
        case Record(fact=Packed() as fact):
            return [(fact.lane, fact.runs)]
        case Check(keys=keys) if not grouped:
            return [(type(command), key) for key in keys]
        case Check(keys=keys) | Find(keys=keys):
            return [(type(command), sorted(keys))]
    return [command]


EngineMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("CARPOOL_MACHINES", "100")),
    stateful_step_count=35,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestEngineMachine = EngineMachine.TestCase
