"""All lanes and their queues: what is packed when, and which batch finds room."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from ..config import Canary, Timing
from ..models import Failure, FileLimits, Lane, Load, Queue, Run
from ..naming import number_of, shard_of
from .agenda import Agenda
from .batch import Batch
from .cadence import Pace
from .commands import Command, Count, Discard, Fail, Record, Tell
from .events import Abandoned, Accepted, Counted, Limited, Packed, Returned, Spent, Uncountable, unanswered
from .lane import Bar, LaneState, Measure, Plan, Wait, is_new, later
from .ledger import Ledger
from .packing import common, larger, sum_loads
from .segments import Segments
from .turns import Turns, rank, step_of

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
        self._turns = Turns()
        self._pace = Pace(limits.creations_per_hour)
        self._heard_at = -math.inf  # when it was last told what other processes created
        self._share = 1.0  # of every limit, that is ours
        self._packed_count = packed_count
        self._shard = shard_of(packed_count)
        self._decided = Counter[Queue]()  # packings that are being recorded
        self._returning: set[str] = set()  # batches whose return to their lane is being recorded
        self.leaving = False
        self.packs = True

    def __getitem__(self, lane: Lane) -> LaneState:
        state = self._lanes.get(lane)
        if state is None:
            ledger = self.ledger(lane.queue)
            state = LaneState(self._timing, self._limits, ledger, self._canary, shard=self._shard)
            self._lanes[lane] = state
            self._by_queue.setdefault(lane.queue, []).append(lane)
        return state

    def items(self) -> Iterable[tuple[Lane, LaneState]]:
        """Give all lanes."""
        return self._lanes.items()

    def ledger(self, queue: Queue) -> Ledger:
        """Give the ledger of a queue."""
        ledger = self._ledgers.get(queue)
        if ledger is None:
            ledger = self._ledgers[queue] = Ledger(self._timing.poll_max / 2)
            ledger.hearsay.part = self._share
        return ledger

    def _of(self, queue: Queue) -> list[Lane]:
        """Give the lanes of a queue."""
        return self._by_queue.get(queue, [])

    def _rank(self, lane: Lane) -> float:
        """Give the place of a lane among others: the lower goes first."""
        state = self._lanes[lane]
        return rank(self._turns.since(lane, state.since), lane.priority, step_of(state.ledger.usual))

    def _line_up(self, lane: Lane, key: str, load: Load) -> None:
        """Let a batch wait for room."""
        ledger = self._lanes[lane].ledger
        self._turns.line_up(ledger.line, key, load, step_of(ledger.usual))

    # --- collecting

    def accepted(self, event: Accepted, now: float) -> list[Command]:
        """Let rows join a lane; those that might be above the whole limit are counted at once."""
        lane, run = event.lane, event.run
        state = self[lane]
        state.add(run, now, rich=event.rich, pack_by=event.pack_by)
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
            if not state.waiting.rows:
                continue
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
        self._turns.stand(key, event.lane, at)
        if at > self._heard_at:
            self._pace.take(at)
        return (row for run in state.dormant.take(event.runs) for row in run.rows)

    def remember_spent(self, event: Spent) -> None:
        """Count creations of an earlier time."""
        for at in event.times:
            self._pace.take(at)

    def opened(self, now: float) -> None:
        """Note that all is told that was created before the pool was opened."""
        if self._heard_at == -math.inf:
            self._heard_at = now

    def hear_spent(self, times: Iterable[float], now: float) -> None:
        """Count what other processes created since it was last told."""
        self.remember_spent(Spent(tuple(times)))
        self._heard_at = now

    def remember_created(self, lane: Lane, key: str, load: Load, at: float | None, now: float) -> None:
        """Hold room for a batch of an earlier time that was created `at` a time, or may have been."""
        self._lanes[lane].ledger.remember(key, load, at, now)

    def stand_in_line(self, lane: Lane, key: str, load: Load, now: float) -> None:
        """Let a batch of an earlier time wait for room, that was not created."""
        self._lanes[lane].ledger.forget(key, now)
        self._line_up(lane, key, load)

    def recall(self, rows: Collection[int], now: float, pack_by: float) -> tuple[set[int], list[Command]]:
        """Let dormant rows wait again, and say which of these rows wait now: some may have waited without a caller."""
        recalled: set[int] = set()
        commands: list[Command] = []
        wanted = sorted(rows)
        for lane, state in self._lanes.items():
            here = state.recall(wanted, now, pack_by)
            recalled |= here
            commands += self.consider(lane, now) if here else []
        return recalled, commands

    def close(self) -> list[Command]:
        """Give up the segments that were kept for rows still to come."""
        return [*map(Discard, self._segments.close())]

    # --- limits and counts

    def limited(self, event: Limited, now: float) -> list[Command]:
        """Take what the user or the table says of a queue's limit."""
        self.ledger(event.queue).learn(event.tokens, event.source, now, anew=event.anew)
        return self.measure_up(event.queue, now)

    def share(self, share: float) -> list[tuple[Queue, float]]:
        """Keep to a share of every limit, and of the creations an hour; gives the queues, and what their caps were."""
        before = [(queue, ledger.cap) for queue, ledger in self._ledgers.items()]
        self._share = share
        self._pace.resize(share * self._limits.creations_per_hour)
        for ledger in self._ledgers.values():
            ledger.hearsay.part = share
        return before

    def choose_smaller(self, queue: Queue, before: float) -> list[Command]:
        """Choose what stands in line anew, where it is more than a share and the cap is lower than `before`."""
        ledger = self.ledger(queue)
        if ledger.cap >= before:
            return []
        return self.take_back([key for key, load in ledger.line.items() if ledger.scale.weigh(load) > ledger.share])

    def counted(self, event: Counted) -> list[Command]:
        """Take the tokens of rows that were counted."""
        state = self[event.lane]
        state.counted()
        self._countable_from.pop(event.lane.queue, None)
        load = sum_loads(event.runs)
        state.ledger.scale.sample(load.tokens, sum(run.size for run in event.runs))
        state.waiting.note_tokens(event.runs)
        return self._refuse_heavy(event.lane)

    def uncountable(self, event: Uncountable, now: float) -> list[Command]:
        """Estimate for a while: counting is out of reach."""
        state = self[event.lane]
        state.counted()
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
        if answered or failed:
            state.arrivals.freed()

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
        if not self._lanes[lane].trial.judge(batch.key, batch.refused, others, ran=ran):
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
        if self.packs and not self.leaving:
            decided = self._decided.total()
            ready_at, spare_at = self._pace.ready_at(now, decided), self._pace.spare_at(state.packed_at, decided)
            state.ledger.thrift = self._pace.thrift(now)
            first = not state.ledger.line and not self._decided[lane.queue]
            plan = state.plan(now, ready_at, spare_at, first=first, countable=self._countable(lane.queue, now))
        self._agenda.drop(lane)
        if isinstance(plan, Wait):
            if plan.until < math.inf:
                self._agenda.set(lane, plan.until, self._rank(lane))
            return []
        if isinstance(plan, Measure):
            state.measuring = True
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
        self._turns.stand(key, event.lane, self._turns.since(event.lane, state.since))
        state.waiting.take(event.runs)
        self._packed_count = max(self._packed_count, event.number)
        self._pace.take(now)
        state.packed(key, now)
        self._line_up(event.lane, key, load)

    def put_back(self, lane: Lane, runs: Sequence[Run], key: str) -> None:
        """Let rows of a batch wait again, without lingering, as they waited before."""
        if runs:
            self._lanes[lane].put_back(runs, self._turns.stood(key))

    def found_no_room(self, key: str) -> None:
        """Note that a batch was refused for lack of room: its lane had its turn in vain."""
        self._turns.give_back(key)

    def not_created(self) -> None:
        """Count a creation less: its batch was packed, and gave its rows back."""
        self._pace.put_back()

    def repeated(self, now: float) -> None:
        """Count a creation that is repeated."""
        self._pace.take(now)

    # --- room

    def let_in(
        self, queue: Queue, now: float, is_stale: Callable[[str], bool], asks: Callable[[str], bool]
    ) -> tuple[list[str], list[Command]]:
        """Reserve room for the batches that stand in line, as far as it goes, and name them; not for stale ones.

        A lane that goes before the first in line chooses its next batch before. Behind one that `asks` the journal
        next, the others wait for what it says.
        """
        ledger = self.ledger(queue)
        let_in: list[str] = []
        commands: list[Command] = []
        while ledger.line and not self.leaving:
            key, load = next(iter(ledger.line.items()))
            if key in self._returning or not ledger.fits(load, now) or is_stale(key):
                break
            before = self._before(queue, key)
            commands += [command for lane in before for command in self.consider(lane, now)]
            if any(self._lanes[lane].is_choosing for lane in before):
                break
            ledger.reserve(key, load, now)
            self._take_turn(key, now)
            let_in.append(key)
            if asks(key):
                ledger.others.asking.add(key)
        wake = ledger.wake(now) if ledger.line and not self.leaving else math.inf
        if wake < math.inf:
            self._agenda.set(queue, wake)
        else:
            self._agenda.drop(queue)
        return let_in, commands

    def _take_turn(self, key: str, now: float) -> None:
        """Note that a batch has its turn, so that its lane may choose the next one."""
        state = self._lanes[self._turns.take(key, now)]
        if state.ahead == key:
            state.ahead = None

    def _before(self, queue: Queue, key: str) -> list[Lane]:
        """Give the lanes whose next batch goes before one that stands in line, those first whose turn it is."""
        lanes = self._of(queue)
        if len(lanes) < 2:
            return []
        mine = self._turns.rank(key, step_of(self.ledger(queue).usual))
        return sorted((lane for lane in lanes if self._rank(lane) < mine), key=self._rank)

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
        """Say what the lanes of a queue are to do, those first whose turn it is."""
        lanes = self._of(queue)
        ranked = sorted(lanes, key=self._rank) if len(lanes) > 1 else lanes
        return [command for lane in ranked for command in self.consider(lane, now)]

    def granted(self, lane: Lane, key: str, load: Load, others: int, now: float) -> None:
        """Hold room for a batch, beside the tokens of other processes."""
        state = self._lanes[lane]
        state.ledger.grant(key, load, others, now)
        if state.ahead == key:
            state.ahead = None

    def denied(self, lane: Lane, key: str, load: Load, others: int, now: float, pause: float) -> None:
        """Let a batch stand in line again, as other processes hold the room; nothing is asked for a while."""
        self._lanes[lane].ledger.deny(key, others, now, pause)
        self._line_up_again(lane, key, load)

    def wait_for_answer(self, lane: Lane, key: str, load: Load, now: float) -> None:
        """Let a batch stand in line again, as the journal is being asked for another."""
        self._lanes[lane].ledger.forget(key, now)
        self._line_up_again(lane, key, load)

    def _line_up_again(self, lane: Lane, key: str, load: Load) -> None:
        """Let a batch stand where it stood: of those of one rank, in the order in which they were packed."""
        state, step = self._lanes[lane], step_of(self._lanes[lane].ledger.usual)
        self._turns.give_back(key)
        state.ledger.line[key] = load
        line = sorted(state.ledger.line.items(), key=lambda entry: number_of(entry[0]))
        state.ledger.line.clear()
        for other, others in line:
            self._turns.line_up(state.ledger.line, other, others, step)
        state.ahead = state.ahead or key

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
        self._turns.drop(key)


def _held(failure: Failure, lane: Lane | None = None) -> Tell:
    what = "Nothing is sent" if lane is None else f"Nothing is sent to {lane.model} at {lane.endpoint}"
    return Tell("held", f"{what}: {failure.message}", lane)


def _above(tokens: str, limit: int, model: str, source: str) -> Failure:
    return Failure(
        "full",
        f"The request has {tokens} prompt tokens, and no more than {limit:,} may be enqueued for {model} ({source} "
        "limit). Shorten it, or use another model.",
    )
