"""One lane: what waits in it, when it is due, and how much of it finds room."""

import math
from collections import deque

import msgspec
from msgspec import structs

from ..config import Timing
from ..models import FileLimits, Lane, Run
from .cadence import backoff
from .packing import Waiting

_HOLD, _HOLD_MAX = 30.0, 600.0  # seconds: how long a lane pauses for room, unless one of its batches ends before
_REFUSALS = 6  # in a row, some twenty minutes: others on the account may have filled the queue for a while


class LaneStats(msgspec.Struct, frozen=True, gc=False):
    """Count one lane: requests waiting, requests in batches, batches."""

    lane: Lane
    waiting: int
    submitted: int
    batches: int


class LaneState:
    """Hold what is known of one lane; `limits` are those of a file."""

    def __init__(self, limits: FileLimits) -> None:
        self.waiting = Waiting()
        self.limits = limits  # smaller than a file's after refusals for lack of room
        self.held_until = 0.0
        self.flushing = False
        self.packing: tuple[Run, ...] = ()  # a decision that is being recorded
        self.batches: set[str] = set()
        self._file_limits = limits
        self._arrivals: deque[tuple[int, float]] = deque()  # first rows of groups that came together, and when
        self._last_at = 0.0
        self._refusals = 0

    def add(self, run: Run, now: float) -> None:
        """Let rows join."""
        if not self.waiting.rows:
            self._arrivals.clear()
        self._arrivals.append((run.rows[0], now))
        self._last_at = now
        self.waiting.append(run)

    def due(self, timing: Timing) -> float:
        """Give the time at which what waits is to be packed, whatever the room."""
        if not self.waiting.rows:
            return math.inf
        if self.flushing or self.waiting.full(self.limits):
            return -math.inf
        return min(self._last_at + timing.linger, self.since + timing.max_linger)

    @property
    def since(self) -> float:
        """Give the time at which the longest waiting row came."""
        while len(self._arrivals) > 1 and self._arrivals[1][0] <= self.waiting.first:
            self._arrivals.popleft()
        return self._arrivals[0][1]

    def refuse(self, total: int, now: float, jitter: float, *, halve: bool) -> bool:
        """Pause after a batch of `total` rows was refused for now, and send half as much when told so.

        Gives whether this has happened time and again; batches refused during one pause count once.
        """
        if now >= self.held_until:
            self._refusals += 1
        self.held_until = now + backoff(self._refusals, jitter, base=_HOLD, cap=_HOLD_MAX)
        if halve:
            self.limits = structs.replace(self.limits, requests=max(1, total // 2))
        return self._refusals > _REFUSALS

    def admit(self) -> None:
        """Note that a batch found room: the next may be a little larger."""
        self._refusals = 0
        rows = min(self.limits.requests + self.limits.requests // 4 + 1, self._file_limits.requests)
        self.limits = structs.replace(self.limits, requests=rows)
