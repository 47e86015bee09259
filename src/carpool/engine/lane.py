"""One lane: what waits in it, when it is due, and what goes into its next file."""

import math
from collections import deque
from collections.abc import Collection, Iterable
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import structs

from ..config import Timing
from ..models import FileLimits, Lane, Load, Run
from ..naming import shard_of
from .cadence import backoff
from .ledger import Ledger, Source
from .packing import Waiting, first_fit

_HOLD, _HOLD_MAX = 30.0, 600.0  # seconds: how long a lane pauses whose input file the provider does not see
_UNSEEN = 6  # times in a row, some twenty minutes
_TIMES = 3  # that a request is refused alone before others go first, or before it is given up
_ASIDE, _DAY = 600.0, 86_400.0  # seconds: for how long others go first, and how long such a request is tried
_COUNT = 2 * 2**20  # bytes: what is counted at once


class LaneStats(msgspec.Struct, frozen=True, gc=False):
    """Count one lane: requests waiting, requests in batches, batches; and how its queue stands.

    `dormant` requests are those of an earlier process that nobody has asked for again: they are kept, and not sent.

    The queue is that of the lane's model, whatever the endpoint. `limit` is in tokens, None while it is unknown;
    `limit_source` says where it comes from: "user", "learned" (the provider's own refusal), "table" or "unknown".
    `enqueued` tokens are reserved; `utilisation` is their mean as a share of the limit so far, while there were any,
    None before a limit was known; `refusals` are those for lack of room.
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


class Pack(NamedTuple):
    """Put these rows into a file."""

    runs: tuple[Run, ...]


class Measure(NamedTuple):
    """Count the tokens of these rows first."""

    runs: tuple[Run, ...]


class Wait(NamedTuple):
    """Do nothing before the time `until`, unless something happens."""

    until: float


class _Lone(NamedTuple):
    """Note how often a request was refused alone, since when, and until when others go first."""

    times: int
    since: float
    until: float


Plan: TypeAlias = Pack | Measure | Wait


class LaneState:
    """Hold what is known of one lane; `limits` are those of a file, `ledger` that of its queue."""

    def __init__(self, limits: FileLimits, ledger: Ledger) -> None:
        self.waiting = Waiting()
        self.dormant = Waiting()  # rows of an earlier time that nobody has asked for again
        self.ledger = ledger
        self.flushing = False
        self.packing: tuple[Run, ...] = ()  # a decision that is being recorded
        self.ahead: str | None = None  # a batch that is packed and waits for room
        self.rich = False  # some rows hold images or files, which weigh more than their bytes
        self.counting = 0  # counts that are under way
        self.batches: set[str] = set()
        self._limits = limits
        self._held_until = 0.0
        self._lone: dict[int, _Lone] = {}  # requests that were refused though they were alone
        # First rows of groups that came together, and when. What a recovered batch gives back came before.
        self._arrivals: deque[tuple[int, float]] = deque(((0, 0.0),))
        self._last_at = 0.0
        self._unseen = 0

    def add(self, run: Run, now: float, *, rich: bool = False) -> None:
        """Let rows join; `rich` ones hold images or files."""
        self.rich = self.rich or rich
        if not self.waiting.rows:
            self._arrivals.clear()
        self._arrivals.append((run.rows[0], now))
        self._last_at = now
        self.waiting.append(run)

    def recall(self, rows: Collection[int], now: float) -> set[int]:
        """Let those of these rows that are dormant join, and say which they are."""
        runs = self.dormant.drop(rows)
        if runs:
            if not self.waiting.rows:
                self._arrivals.clear()
                self._arrivals.append((runs[0].rows[0], now))
            self._last_at = now
            self.waiting.put_back(runs)
        return {row for run in runs for row in run.rows}

    @property
    def since(self) -> float:
        """Give the time at which the longest waiting row came."""
        while len(self._arrivals) > 1 and self._is_gone(self._arrivals[1][0]):
            self._arrivals.popleft()
        return self._arrivals[0][1]

    def _is_gone(self, behind: int) -> bool:
        """Tell whether nothing waits that came before the row `behind`; another process numbers its rows apart."""
        return behind <= self.waiting.first and shard_of(behind) == shard_of(self.waiting.first)

    # --- what to do next

    def plan(self, timing: Timing, now: float, ready_at: float, *, first: bool, countable: bool) -> Plan:
        """Say what to do; at most one batch of the lane waits for room.

        `ready_at` is when one more batch may be created; `first` says that nobody stands in line for the queue's room,
        `countable` that tokens can be counted.
        """
        if self.packing or self.counting or self.ahead is not None or not self.waiting.rows:
            return Wait(math.inf)
        ledger = self.ledger
        weight = ledger.scale.weigh(self.waiting.load)
        unsure = (weight >= ledger.share or (self.rich and ledger.cap < math.inf)) and not ledger.scale.calibrated
        if unsure and countable and self.waiting.load.size:  # an earlier process may have counted them
            return Measure(self.waiting.uncounted(_COUNT))
        due = max(self._due(timing, full=weight >= ledger.share), self._held_until, ready_at)
        if due > now:
            return Wait(due)
        room = ledger.room(now) if first else 0.0
        if weight <= max(room, ledger.share):
            return Pack(tuple(first_fit(self._in_turn(now), self._file)))
        return self._share_out(room, now, countable=countable)

    def _due(self, timing: Timing, *, full: bool) -> float:
        if self.flushing or full or self.waiting.full(self._limits):
            return -math.inf
        return min(self._last_at + timing.linger, self.since + timing.max_linger)

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
        most = self.ledger.most_rows
        return self._limits if most is None else structs.replace(self._limits, requests=most)

    def _in_turn(self, now: float) -> Iterable[Run]:
        """Give what waits, without the rows that were set aside unless there is nothing else."""
        aside = {row for row, lone in self._lone.items() if lone.until > now}
        others = [run for run in self.waiting if len(run) > 1 or run.rows[0] not in aside] if aside else []
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
        )

    # --- an input file that the provider does not see

    def hold(self, now: float, jitter: float) -> bool:
        """Pause because a validation did not see its input file; gives whether this has happened time and again.

        Batches that fail so during one pause count once.
        """
        if now >= self._held_until:
            self._unseen += 1
        self._held_until = now + backoff(self._unseen, jitter, base=_HOLD, cap=_HOLD_MAX)
        return self._unseen > _UNSEEN

    def go_on(self) -> None:
        """Note that input files are seen."""
        self._unseen = 0
        self._held_until = 0.0
