"""All lanes and their queues: what is packed when, and which batch finds room."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from ..config import Canary, Timing
from ..models import Failure, FileLimits, Lane, Load, Notice, Queue, Run
from .agenda import Agenda
from .batch import Batch
from .cadence import Pace
from .commands import Command, Count, Discard, Fail, Record, Tell
from .events import Abandoned, Accepted, Counted, Limited, Packed, Returned, Spent, Uncountable, unanswered
from .lane import Bar, LaneState, Measure, Plan, Wait, is_new, later
from .ledger import Ledger
from .packing import common, larger, sum_loads
from .segments import Segments

Name: TypeAlias = Lane | Queue | str  # on the agenda: a lane, a queue, or a batch's key

_COUNT_AGAIN = 60.0  # seconds for which a queue is estimated after counting was out of reach


class Lanes:
    """Decide what is packed, and let batches into their queues; `agenda` is told when to look again."""

    def __init__(
        self, timing: Timing, limits: FileLimits, agenda: Agenda[Name], packed_count: int, canary: Canary | None
    ) -> None:
        self._timing = timing
        self._limits = limits
        self._agenda = agenda
        self._canary = canary
        self._barred: Bar | None = None  # all of them
        self._lanes: dict[Lane, LaneState] = {}
        self._by_queue: dict[Queue, list[Lane]] = {}
        self._ledgers: dict[Queue, Ledger] = {}
        self._countable_from: dict[Queue, float] = {}
        self._segments = Segments()
        self._pace = Pace(limits.creations_per_hour)
        self._packed_count = packed_count
        self._decided = Counter[Queue]()  # packings that are being recorded
        self._returning: set[str] = set()  # batches whose return to their lane is being recorded
        self.leaving = False

    def __getitem__(self, lane: Lane) -> LaneState:
        state = self._lanes.get(lane)
        if state is None:
            state = self._lanes[lane] = LaneState(self._limits, self.ledger(lane.queue), self._canary)
            self._by_queue[lane.queue] = sorted((*self._of(lane.queue), lane), key=lambda one: -one.priority)
        return state

    def items(self) -> Iterable[tuple[Lane, LaneState]]:
        """Give all lanes."""
        return self._lanes.items()

    def ledger(self, queue: Queue) -> Ledger:
        """Give the ledger of a queue."""
        ledger = self._ledgers.get(queue)
        if ledger is None:
            ledger = self._ledgers[queue] = Ledger(self._timing.poll_max / 2)
        return ledger

    def _of(self, queue: Queue) -> list[Lane]:
        """Give the lanes of a queue, those first that go first."""
        return self._by_queue.get(queue, [])

    def _line_up(self, lane: Lane, key: str, load: Load) -> None:
        """Let a batch wait for room: behind those that came before it, and before those of lower priority."""
        line = self._lanes[lane].ledger.line
        line[key] = load
        lower = [self._lanes[other].batches for other in self._of(lane.queue) if other.priority < lane.priority]
        for other in [other for other in line if any(other in batches for batches in lower)]:
            line[other] = line.pop(other)

    # --- collecting

    def accepted(self, event: Accepted, now: float) -> list[Command]:
        """Let rows join a lane; those that might be above the whole limit are counted at once."""
        lane, run = event.lane, event.run
        state = self[lane]
        state.add(run, now, rich=event.rich)
        commands: list[Command] = [*map(Discard, self._segments.add(lane, run))]
        limit = state.ledger.limit.tokens
        if limit is not None and (large := tuple(larger(run, limit))):
            countable = self._countable(lane.queue, now)
            commands += [self._count(lane, large)] if countable else self._refuse_heavy(lane)
        return commands + self.consider(lane, now)

    def abandoned(self, event: Abandoned, now: float) -> list[Command]:
        """Drop rows that nobody awaits."""
        commands: list[Command] = []
        for lane, state in self._lanes.items():
            dropped = state.waiting.drop(event.rows.difference(*(run.rows for run in state.packing)))
            if dropped:
                commands += self.taken_out(dropped)
                commands += self.consider(lane, now)
        return commands

    def flush(self, now: float) -> list[Command]:
        """Pack what waits without lingering."""
        commands: list[Command] = []
        for lane, state in self._lanes.items():
            state.flushing = state.waiting.rows > 0
            commands += self.consider(lane, now)
        return commands

    def taken_out(self, runs: Sequence[Run]) -> list[Command]:
        """Give up rows that nobody awaits: an equal call that comes again is another."""
        rows = [row for run in runs for row in run.rows]
        return [Record(unanswered(rows)), *self.settled(runs)] if rows else []

    def settled(self, runs: Iterable[Run]) -> list[Command]:
        """Give up the segments that nobody needs once these rows are settled."""
        return [*map(Discard, self._segments.release(runs))]

    def take_out(self, rows: Sequence[int]) -> tuple[list[tuple[Lane, Run]], set[int]]:
        """Take rows that wait out of the queue, unsettled, and give them; and say which are just being packed."""
        taken: list[tuple[Lane, Run]] = []
        packing: set[int] = set()
        for lane, state in self._lanes.items():
            packing |= {row for run in state.packing for row in common(run.rows, rows)}
            taken += [(lane, run) for run in state.waiting.drop(set(rows) - packing)]
            state.flushing = state.flushing and state.waiting.rows > 0
        return taken, packing

    # --- what an earlier process left

    def remember(self, event: Accepted) -> None:
        """Keep rows of an earlier time until somebody asks for them."""
        self._segments.remember(event.run)
        self[event.lane].dormant.append(event.run)
        self[event.lane].rich |= event.rich

    def forget_dormant(self, rows: Collection[int]) -> list[tuple[Lane, list[Run]]]:
        """Take rows of an earlier time out that are not to be sent."""
        return [(lane, list(state.dormant.drop(rows))) for lane, state in self._lanes.items()] if rows else []

    def remember_packed(self, event: Packed, key: str, at: float) -> Iterator[int]:
        """Take note of a batch of an earlier time, whose number may be of another's span; gives its unsettled rows."""
        state = self[event.lane]
        state.batches.add(key)
        self._pace.take(at)
        return (row for run in state.dormant.take(event.runs) for row in run.rows)

    def remember_spent(self, event: Spent) -> None:
        """Count creations of an earlier time."""
        for at in event.times:
            self._pace.take(at)

    def remember_created(self, lane: Lane, key: str, load: Load, at: float | None, now: float) -> None:
        """Hold room for a batch of an earlier time that was created `at` a time, or may have been."""
        self._lanes[lane].ledger.remember(key, load, at, now)

    def stand_in_line(self, lane: Lane, key: str, load: Load, now: float) -> None:
        """Let a batch of an earlier time wait for room, that was not created."""
        self._lanes[lane].ledger.forget(key, now)
        self._line_up(lane, key, load)

    def recall(self, rows: Collection[int], now: float) -> tuple[set[int], list[Command]]:
        """Let dormant rows wait again, and say which of these rows wait now: some may have waited without a caller."""
        recalled: set[int] = set()
        commands: list[Command] = []
        wanted = sorted(rows)
        for lane, state in self._lanes.items():
            recalled |= state.waiting.among(wanted)
            if state.dormant.rows:
                here = state.recall(rows, now)
                recalled |= here
                commands += self.consider(lane, now) if here else []
        return recalled, commands

    def close(self) -> list[Command]:
        """Give up the segments that were kept for rows still to come."""
        return [*map(Discard, self._segments.close())]

    # --- limits and counts

    def limited(self, event: Limited, now: float) -> list[Command]:
        """Take what the user or the table says of a queue's limit."""
        self.ledger(event.queue).learn(event.tokens, event.source, now)
        return self.measure_up(event.queue, now)

    def counted(self, event: Counted) -> list[Command]:
        """Take the tokens of rows that were counted."""
        state = self[event.lane]
        state.counting = max(0, state.counting - 1)
        self._countable_from.pop(event.lane.queue, None)
        load = sum_loads(event.runs)
        state.ledger.scale.sample(load.tokens, sum(run.size for run in event.runs))
        state.waiting.note_tokens(event.runs)
        return self._refuse_heavy(event.lane)

    def uncountable(self, event: Uncountable, now: float) -> list[Command]:
        """Estimate for a while: counting is out of reach."""
        state = self[event.lane]
        state.counting = max(0, state.counting - 1)
        state.ledger.scale.blind = True
        self._countable_from[event.lane.queue] = now + _COUNT_AGAIN
        return self._refuse_heavy(event.lane)

    def measure_up(self, queue: Queue, now: float) -> list[Command]:
        """Look, when a limit is heard of, for rows that are above it: they are refused, once they are counted."""
        commands: list[Command] = []
        limit = self.ledger(queue).limit.tokens
        if limit is None:
            return []
        for lane in self._of(queue):
            large = self._lanes[lane].waiting.larger(limit)
            if large and self._countable(queue, now):
                commands.append(self._count(lane, large))
            commands += self._refuse_heavy(lane)
        return commands

    def _count(self, lane: Lane, runs: tuple[Run, ...]) -> Count:
        self._lanes[lane].counting += 1
        return Count(lane, runs)

    def _countable(self, queue: Queue, now: float) -> bool:
        return now >= self._countable_from.get(queue, 0.0)

    def _refuse_heavy(self, lane: Lane) -> list[Command]:
        """Fail the rows that are above the whole limit: they would never find room."""
        state = self._lanes[lane]
        ledger = state.ledger
        limit, source, _ = ledger.limit
        failures: dict[int, Failure] = {}
        if limit is not None:
            heavy = state.waiting.heavier(limit)
            failures = {row: _above(f"{tokens:,}", limit, lane.model, source) for row, tokens in heavy.items()}
        if ledger.user is not None and ledger.scale.blind:  # nothing above it is tried: what cannot be counted ends
            guessed = state.waiting.guessed(ledger.user, ledger.scale.likely_per_byte)
            failures |= {
                row: _above(f"about {tokens:,}", ledger.user, lane.model, "user") for row, tokens in guessed.items()
            }
        failures = {row: failures[row] for row in failures.keys() - {row for run in state.packing for row in run.rows}}
        failed: list[Command] = [Fail(None, (row,), failures[row]) for row in sorted(failures)]
        state.failed += len(failed)
        return failed + self.settled(state.waiting.drop(failures))

    def ended(self, lane: Lane, *, answered: int = 0, failed: int = 0) -> None:
        """Count requests that have ended."""
        state = self._lanes[lane]
        state.answered += answered
        state.failed += failed

    # --- what has no hope

    def bar(self, lane: Lane, failure: Failure, until: float) -> list[Command]:
        """End what waits in a lane with one failure, and whatever comes before the time `until`."""
        state = self._lanes[lane]
        news = state.bar(failure, until)
        return [*([_held(failure, lane)] if news else []), *self._clear(lane, failure)]

    def bar_all(self, failure: Failure, until: float) -> list[Command]:
        """End what waits anywhere with one failure, and whatever comes before the time `until`."""
        before = self._barred
        self._barred = later(before, Bar(failure, until))
        return [*([_held(failure)] if is_new(before, failure) else []), *self.clear(failure)]

    def clear(self, failure: Failure) -> list[Command]:
        """End what waits, in all lanes, with one failure."""
        return [command for lane in self._lanes for command in self._clear(lane, failure)]

    def _clear(self, lane: Lane, failure: Failure) -> list[Command]:
        """End what waits in a lane; what stands in line comes back to it."""
        state = self._lanes[lane]
        lined_up = [key for key in state.ledger.line if key in state.batches]
        return [*self._refuse_waiting(lane, failure), *self.take_back(lined_up)]

    def why_barred(self, lane: Lane, now: float) -> Failure | None:
        """Give why a lane takes nothing, None where it does."""
        if self._barred is not None and self._barred.until > now:
            return self._barred.failure
        return self._lanes[lane].barred(now)

    def _refuse_waiting(self, lane: Lane, failure: Failure) -> list[Command]:
        state = self._lanes[lane]
        packing = {row for run in state.packing for row in run.rows}
        state.flushing = False
        refused = state.waiting.drop([row for run in state.waiting for row in run.rows if row not in packing])
        rows = [row for run in refused for row in run.rows]
        state.failed += len(rows)
        return [Fail(None, rows, failure), *self.settled(refused)] if rows else []

    def judge(self, batch: Batch, others: int, *, ran: bool) -> list[Command]:
        """Hear what became of a batch: a lane whose canary was refused takes nothing any more."""
        lane = batch.lane
        if not self._lanes[lane].judge(batch.key, batch.refused, others, ran=ran):
            return []
        quoted = "; ".join(dict.fromkeys(batch.refusals))
        message = (
            f"{batch.refused} of the first {batch.refused + others} requests to {lane.model} were refused, so that no "
            f"others are sent: {quoted}. Mend them, and open a new pool."
        )
        return self.bar(lane, Failure("rejected", message, code="canary_refused"), math.inf)

    # --- packing

    def consider(self, lane: Lane, now: float) -> list[Command]:
        """Pack what is due, or note when it will be: later while there is no room, or creations are scarce."""
        state = self._lanes[lane]
        failure = self.why_barred(lane, now)
        if failure is not None:
            return self._refuse_waiting(lane, failure)
        state.flushing = state.flushing and state.waiting.rows > 0
        plan: Plan = Wait(math.inf)
        if not self.leaving:
            ready_at = self._pace.ready_at(now, self._decided.total())
            first = not state.ledger.line and not self._decided[lane.queue]
            plan = state.plan(self._timing, now, ready_at, first=first, countable=self._countable(lane.queue, now))
        self._agenda.drop(lane)
        if isinstance(plan, Wait):
            if plan.until < math.inf:
                self._agenda.set(lane, plan.until, state.since)
            return []
        if isinstance(plan, Measure):
            return [self._count(lane, plan.runs)]
        state.packing = plan.runs
        self._decided[lane.queue] += 1
        self._packed_count += 1
        return [Record(Packed(self._packed_count, lane, plan.runs))]

    def packed(self, event: Packed, key: str, load: Load, now: float) -> None:
        """Take packed rows out of their lane; their batch stands in line for room."""
        state = self[event.lane]
        if state.packing:
            state.packing = ()
            self._decided[event.lane.queue] -= 1
        state.waiting.take(event.runs)
        self._packed_count = max(self._packed_count, event.number)
        self._pace.take(now)
        state.packed(key)
        self._line_up(event.lane, key, load)

    def put_back(self, lane: Lane, runs: Sequence[Run]) -> None:
        """Let rows that are in no batch any more wait again, without lingering."""
        if runs:
            state = self._lanes[lane]
            state.waiting.put_back(runs)
            state.flushing = True

    def repeated(self, now: float) -> None:
        """Count a creation that is repeated."""
        self._pace.take(now)

    # --- room

    def let_in(self, queue: Queue, now: float, is_stale: Callable[[str], bool]) -> list[str]:
        """Reserve room for the batches that stand in line, as far as it goes, and name them; not for stale ones."""
        ledger = self.ledger(queue)
        let_in: list[str] = []
        while ledger.line and not self.leaving:
            key, load = next(iter(ledger.line.items()))
            if key in self._returning or not ledger.fits(load, now) or is_stale(key):
                break
            ledger.reserve(key, load, now)
            let_in.append(key)
        for lane in self._of(queue):
            if self._lanes[lane].ahead in let_in:
                self._lanes[lane].ahead = None
        wake = ledger.wake(now) if ledger.line and not self.leaving else math.inf
        if wake < math.inf:
            self._agenda.set(queue, wake)
        else:
            self._agenda.drop(queue)
        return let_in

    def forbidden(self, queue: Queue, now: float, is_stale: Callable[[str], bool]) -> list[Command]:
        """Take back the batch that is next in line, where it is above what the user allows, or there is room but it is
        stale: rows have left it."""
        ledger = self.ledger(queue)
        first = [*ledger.line.items()][:1]
        return self.take_back(
            [key for key, load in first if ledger.forbids(load) or (ledger.fits(load, now) and is_stale(key))]
        )

    def take_back(self, keys: Iterable[str]) -> list[Command]:
        """Let batches that stand in line give their rows back; none of them is let in meanwhile."""
        new = [key for key in keys if key not in self._returning]
        self._returning.update(new)
        return [Record(Returned(key)) for key in new]

    def consider_all(self, queue: Queue, now: float) -> list[Command]:
        """Say what the lanes of a queue are to do."""
        return [command for lane in self._of(queue) for command in self.consider(lane, now)]

    def created(self, lane: Lane, key: str, load: Load, now: float) -> None:
        """Hold room for a batch that was created, whatever there is."""
        state = self._lanes[lane]
        state.ledger.create(key, load, now)
        if state.ahead == key:
            state.ahead = None

    def drop(self, lane: Lane, key: str, now: float) -> None:
        """Forget a batch."""
        self._returning.discard(key)
        state = self._lanes[lane]
        state.ledger.forget(key, now)
        state.dropped(key)


def _held(failure: Failure, lane: Lane | None = None) -> Tell:
    what = "Nothing is sent" if lane is None else f"Nothing is sent to {lane.model} at {lane.endpoint}"
    return Tell(Notice("held", f"{what}: {failure.message}", lane))


def _above(tokens: str, limit: int, model: str, source: str) -> Failure:
    return Failure(
        "full",
        f"The request has {tokens} prompt tokens, and no more than {limit:,} may be enqueued for {model} ({source} "
        "limit). Shorten it, or use another model.",
    )
