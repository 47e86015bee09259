"""One lane: what waits in it, when it is due, and what goes into its next file."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import structs

from ..config import Canary, Timing
from ..models import Failure, FileLimits, Lane, Load, Run
from .arrivals import Arrivals
from .cadence import backoff
from .ledger import Ledger
from .limit import Source
from .packing import Waiting, between, first_fit
from .trial import Trial

# How long a lane pauses whose input file the provider does not see, or to whose rows it has no answer: times
# `poll_min`, and times `poll_max` at most.
_HOLD, _HOLD_MAX = 15.0, 10.0
_UNSEEN = 6  # times in a row, some twenty minutes
_TIMES = 3  # that a request is refused alone before others go first, or before it is given up
_ASIDE, _DAY = 600.0, 86_400.0  # seconds: for how long others go first, and how long such a request is tried
_SPLITS = 7  # as many as tell that three rows in a batch of which each quarter was refused are not to blame
_RENEW = 60.0  # seconds
_COUNT = 2 * 2**20  # bytes: what is counted at once


class LaneStats(msgspec.Struct, frozen=True, gc=False):
    """Count one lane: requests waiting, requests in batches, batches; and how its queue stands.

    `dormant` requests are those of an earlier process that nobody has asked for again: they are kept, and not sent.

    The queue is that of the lane's model, whatever the endpoint. `limit` is in tokens, None while it is unknown;
    `limit_source` says where it comes from: "user", "learned" (the provider's own refusal), "table" or "unknown".
    `enqueued` tokens are reserved; `utilisation` is their mean as a share of the limit so far, while there were any,
    None before a limit was known; `refusals` are those for lack of room. `answered` and `failed` requests have ended
    since the pool was opened.
    """

    lane: Lane
    waiting: int
    submitted: int
    batches: int
    limit: int | None = None
    limit_source: Source = "unknown"
    enqueued: int = 0
    utilisation: float | None = None
    refusals: int = 0
    dormant: int = 0
    answered: int = 0
    failed: int = 0


class Pack(NamedTuple):
    """Put these rows into a file."""

    runs: tuple[Run, ...]


class Measure(NamedTuple):
    """Count the tokens of these rows first."""

    runs: tuple[Run, ...]


class Wait(NamedTuple):
    """Do nothing before the time `until`, unless something happens."""

    until: float


class Bar(NamedTuple):
    """Say why a lane takes no requests, and until when."""

    failure: Failure
    until: float


def later(one: Bar | None, other: Bar) -> Bar:
    """Give the bar that lasts longer."""
    return other if one is None or one.until <= other.until else one


def is_new(before: Bar | None, failure: Failure) -> bool:
    """Tell whether a failure is another than what bars the way already."""
    return before is None or (before.failure.kind, before.failure.code) != (failure.kind, failure.code)


class _Lone(NamedTuple):
    """Note how often a request was refused alone, since when, and until when others go first."""

    times: int
    since: float
    until: float


Plan: TypeAlias = Pack | Measure | Wait


class LaneState:
    """Hold what is known of one lane; `limits` are those of a file, `ledger` that of its queue."""

    def __init__(
        self, timing: Timing, limits: FileLimits, ledger: Ledger, canary: Canary | None = None, *, shard: int = 0
    ) -> None:
        self.waiting: Waiting = Waiting(shard)
        self.arrivals: Arrivals = Arrivals(timing)
        self.dormant: Waiting = Waiting()  # rows of an earlier time that nobody has asked for again
        self.ledger = ledger
        self.flushing: bool = False
        self.packing: tuple[Run, ...] = ()  # a decision that is being recorded
        self.ahead: str | None = None  # a batch that is packed and waits for room
        self.rich: bool = False  # some rows hold images or files, which weigh more than their bytes
        self.counting: int = 0  # counts that are under way
        self.measuring: bool = False  # the first of them is of what is to be packed next
        self.batches: set[str] = set()
        self.packed_at: float = -math.inf  # the last of them, by this process
        self.answered = self.failed = 0  # requests that have ended
        self._limits = limits
        self._held_until = 0.0
        self._lone: dict[int, _Lone] = {}  # requests that were refused though they were alone
        self._unseen = self._failing = 0
        self._suspects: deque[tuple[int, int]] = deque()  # first and last rows of what goes in files of their own
        self._refused_whole = 0  # batches in a row
        self._renewed_at = -math.inf
        self.trial: Trial = Trial(canary)
        self._barred: Bar | None = None

    def add(self, run: Run, now: float, *, rich: bool = False, pack_by: float = math.inf) -> None:
        """Let rows join; `rich` ones hold images or files, and some should be packed by a time."""
        self.rich = self.rich or rich
        if not self.waiting.rows:
            self.arrivals.clear()
        self.arrivals.came(self.waiting.place(run.rows[-1]), now, pack_by)
        self.waiting.append(run)

    def recall(self, rows: Sequence[int], now: float, pack_by: float = math.inf) -> set[int]:
        """Let those of these rows, in order, join that are dormant, and say which of them wait now."""
        runs = self.dormant.drop(rows) if self.dormant.rows else []
        here = self.waiting.among(rows).union(row for run in runs for row in run.rows)
        if here:
            if not self.waiting.rows:
                self.arrivals.clear()
            self.arrivals.came(max(map(self.waiting.place, here)), now, pack_by)
            self.waiting.put_back(runs)
        return here

    def put_back(self, runs: Sequence[Run], since: float) -> None:
        """Let rows wait again that came at a time, without lingering."""
        if not self.waiting.rows:
            self.arrivals.clear()
        self.arrivals.came_back(max(self.waiting.place(run.rows[-1]) for run in runs), since)
        self.waiting.put_back(runs)
        self.flushing = True

    @property
    def since(self) -> float:
        """Give the time at which the longest waiting row came; math.inf where none waits."""
        return self.arrivals.since(self.waiting.first) if self.waiting.rows else math.inf

    # --- what to do next

    @property
    def is_choosing(self) -> bool:
        """Tell whether its next batch is being counted or recorded; not so where others are: that may take for ever."""
        return self.measuring or bool(self.packing)

    def counted(self) -> None:
        """Note that the first of the counts that are under way has ended."""
        self.counting = max(0, self.counting - 1)
        self.measuring = False

    def plan(self, now: float, ready_at: float, spare_at: float, *, first: bool, countable: bool) -> Plan:
        """Say what to do; at most one batch of the lane waits for room.

        `ready_at` is when one more batch may be created, `spare_at` when one that is not full; `first` says that nobody
        stands in line for the queue's room, `countable` that tokens can be counted.
        """
        if self.packing or self.counting or self.ahead is not None or self.trial.is_under_way or not self.waiting.rows:
            return Wait(math.inf)
        ledger = self.ledger
        weight = ledger.scale.weigh(self.waiting.load)
        unsure = (weight >= ledger.share or (self.rich and ledger.cap < math.inf)) and not ledger.scale.calibrated
        if unsure and countable and self.waiting.load.size:  # an earlier process may have counted them
            return Measure(self.waiting.uncounted(_COUNT))
        full = weight >= ledger.share or self.trial.is_full(self.waiting.rows)
        due = max(self._due(spare_at, full=full), self._held_until, ready_at)
        if due > now:
            return Wait(due)
        room = ledger.room(now) if first else 0.0
        if weight <= max(room, ledger.share):
            return Pack(tuple(first_fit(self._in_turn(now), self._file)))
        return self._share_out(room, now, countable=countable)

    def _due(self, spare_at: float, *, full: bool) -> float:
        if self.flushing or full or self.waiting.full(self._limits):
            return -math.inf
        return self.arrivals.due(self.waiting.first, spare_at)

    def refused_alone(self, row: int, load: Load, now: float) -> bool:
        """Tell whether a request that was refused though it was alone is hopeless; let others go before it for a while.

        Others may fill the queue for hours: it is tried for a day, unless it most likely is above the limit.
        """
        self._lone = {other: lone for other, lone in self._lone.items() if now - lone.since <= 2 * _DAY}
        times, since, _ = self._lone.get(row, _Lone(0, now, now))
        self._lone[row] = _Lone(times + 1, since, now + _ASIDE if times + 1 >= _TIMES else now)
        limit = self.ledger.limit.tokens
        too_large = load.size > 0 and limit is not None and self.ledger.scale.guess(load) > 2 * limit
        return times + 1 >= _TIMES and (too_large or now - since >= _DAY)

    @property
    def _file(self) -> FileLimits:
        bounds = (self.ledger.most_rows, self.trial.left, self._limits.requests)
        return structs.replace(self._limits, requests=min(bound for bound in bounds if bound is not None))

    def _in_turn(self, now: float) -> Iterable[Run]:
        """Give what waits, without the rows that were set aside unless there is nothing else."""
        aside = {row for row, lone in self._lone.items() if lone.until > now}
        others = [run for run in self.waiting if len(run) > 1 or run.rows[0] not in aside] if aside else []
        while self._suspects:
            first, last = self._suspects[0]
            group = [part for run in others or self.waiting for part in between(run, first, last)]
            if group:
                return group
            self._suspects.popleft()
        return others or self.waiting

    def _share_out(self, room: float, now: float, *, countable: bool) -> Pack | Measure:
        """Choose a share of what waits: so much that several batches fill the queue, or what is left of it."""
        share = self.ledger.share
        budget = room if share / 2 <= room < share else share
        runs = tuple(first_fit(self._in_turn(now), self._file, budget, self.ledger.scale))
        if countable and any(run.tokens is None for run in runs):
            return Measure(self.waiting.uncounted(_COUNT))
        return Pack(runs)

    def stats(self, lane: Lane, submitted: int) -> LaneStats:
        """Give the figures."""
        ledger = self.ledger
        limit, source, _ = ledger.limit
        return LaneStats(
            lane,
            self.waiting.rows,
            submitted,
            len(self.batches),
            limit,
            source,
            ledger.scale.guess(ledger.load),
            ledger.utilisation,
            ledger.refusals,
            self.dormant.rows,
            self.answered,
            self.failed,
        )

    # --- an input file that the provider does not see

    def hold(self, now: float, timing: Timing, jitter: float) -> bool:
        """Pause because a validation did not see its input file; gives whether this has happened time and again.

        Batches that fail so during one pause count once.
        """
        if now >= self._held_until:
            self._unseen += 1
        self._held_until = now + _hold(self._unseen, timing, jitter)
        return self._unseen > _UNSEEN

    # --- one row that a whole batch is refused for

    def suspect(self, rows: Sequence[int]) -> bool:
        """Halve a batch that was refused and no row named, to find the one to blame; gives whether that is of use.

        It is not where one batch after another is refused, whatever is in it; and a canary is small, and judged whole.
        """
        self._refused_whole += 1
        if len(rows) < 2 or self.trial or self._refused_whole > _SPLITS:
            return False
        middle = len(rows) // 2
        self._suspects.extendleft(((rows[middle], rows[-1]), (rows[0], rows[middle - 1])))
        return True

    def admitted(self) -> None:
        """Note that a batch was found valid."""
        self._refused_whole = 0

    # --- an input file that the provider does not see, or rows that it has no answer to

    def go_on(self) -> None:
        """Note that input files are seen."""
        self._unseen = self._failing = 0
        self._held_until = 0.0

    def rest(self, now: float, timing: Timing, jitter: float) -> None:
        """Pause because the server had no answer to what it ran, the longer the more often."""
        self._failing += 1
        self._held_until = now + _hold(self._failing, timing, jitter)

    def may_renew(self, now: float) -> bool:
        """Tell whether a batch in line may be chosen anew; so it is, then, and for a minute no other."""
        if self._renewed_at <= now < self._renewed_at + _RENEW:
            return self._renewed_at == now
        self._renewed_at = now
        return True

    # --- what has no hope

    def bar(self, failure: Failure, until: float) -> bool:
        """Take no requests before the time `until`: they end with this failure; gives whether that is news."""
        before, self._barred = self._barred, later(self._barred, Bar(failure, until))
        return is_new(before, failure)

    def barred(self, now: float) -> Failure | None:
        """Give why no requests are taken, None where they are."""
        if self._barred is not None and self._barred.until <= now:
            self._barred = None
        return None if self._barred is None else self._barred.failure

    def packed(self, key: str, now: float) -> None:
        """Note that a batch was packed: the first of a lane may be its canary, which goes alone."""
        self.packed_at = now
        self.batches.add(key)
        self.ahead = key
        self.trial.packed(key)

    def dropped(self, key: str) -> None:
        """Forget a batch."""
        self.batches.discard(key)
        if self.ahead == key:
            self.ahead = None
        self.trial.dropped(key)


def _hold(times: int, timing: Timing, jitter: float) -> float:
    return backoff(times, jitter, base=_HOLD * timing.poll_min, cap=_HOLD_MAX * timing.poll_max)
