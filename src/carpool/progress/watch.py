"""What all reporters know of a pool: since when it runs, how many requests there are, and how long they will take."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ..stats import Stats
from . import words
from .forecast import Forecast, Left, pending

Total: TypeAlias = int | Callable[[], int | None] | None  # how many requests there are in all

_SETTLED = 5.0  # seconds after which it is told how much was submitted, though more is on its way


class Glance(NamedTuple):
    """Say what is known besides the figures: `total` requests in all, and `seconds` since the first look."""

    total: int | None
    left: Left | None
    seconds: float


class Watch:
    """Follow one pool."""

    def __init__(self, total: Total, *, journal: bool) -> None:
        self.journal = journal
        self._total = total
        self._forecast = Forecast()
        self._began: float | None = None
        self._submitted_at = math.inf
        self._told = False

    def look(self, stats: Stats, now: float) -> str:
        """Take note of how things stand; gives a sentence that is to be told, "" where there is none."""
        self._began = now if self._began is None else self._began
        self._forecast.look(stats, now)
        return self._news(stats, now)

    def glance(self, stats: Stats, now: float) -> Glance:
        """Say what is known."""
        total = self._total() if callable(self._total) else self._total
        left = self._forecast.left(stats, now, max((total or 0) - stats.accepted, 0))
        return Glance(total, left, now - (now if self._began is None else self._began))

    def _news(self, stats: Stats, now: float) -> str:
        """Say once what is to be expected: when all is submitted that finds room, or some seconds on."""
        if self._told or all(batch.id is None for batch in stats.open):
            return ""
        self._submitted_at = min(self._submitted_at, now)
        under_way = any(batch.stage in ("uploading", "creating") for batch in stats.open)
        full = any(batch.stage == "queued" for batch in stats.open)
        more = under_way or (not full and any(lane.waiting for lane in stats.lanes))
        if more and now - self._submitted_at < _SETTLED:
            return ""
        self._told = True
        return words.expectation(stats, journal=self.journal)


def figures(stats: Stats) -> object:
    """Give what is to differ before it is told again."""
    statuses = tuple(batch.status for batch in stats.open)
    return stats.accepted, stats.answered, stats.failed, pending(stats), stats.batches, statuses
