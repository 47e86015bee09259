"""Deadlines in a heap."""

import heapq
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FEW = 1_000  # entries, of which any number may be stale


class Agenda(Generic[K]):
    """Keep one deadline for each name; a moved or dropped one leaves a stale entry that is skipped when it surfaces.

    Some would surface in a day: where they are many they are dropped before.
    """

    def __init__(self) -> None:
        self._at: dict[K, tuple[float, float]] = {}
        self._heap: list[tuple[float, float, str, K]] = []

    def __contains__(self, name: K) -> bool:
        return name in self._at

    def set(self, name: K, at: float, since: float = 0.0) -> None:
        """Note that `name` is due at `at`, whatever was noted before; of those due together the longest wait is first.

        The order depends on these arguments alone, so that a replay comes to the same.
        """
        if self._at.get(name) != (at, since):
            self._at[name] = at, since
            heapq.heappush(self._heap, (at, since, str(name), name))
            if len(self._heap) > 2 * len(self._at) + _FEW:
                self._heap = [(*due, str(name), name) for name, due in self._at.items()]
                heapq.heapify(self._heap)

    def advance(self, name: K, at: float) -> None:
        """Let `name`, which is due some time, be due at `at` at the latest."""
        due, since = self._at.get(name, (-math.inf, 0.0))
        if due > at:
            self.set(name, at, since)

    def delay(self, name: K, at: float) -> None:
        """Let `name`, which is due some time, be due at `at` at the earliest."""
        due, since = self._at[name]
        self.set(name, max(due, at), since)

    def drop(self, name: K) -> None:
        """Forget `name`."""
        self._at.pop(name, None)

    def next(self) -> float:
        """Give the nearest deadline, `math.inf` when there is none."""
        while self._heap:
            at, since, _, name = self._heap[0]
            if self._at.get(name) == (at, since):
                return at
            heapq.heappop(self._heap)
        return math.inf

    def pop(self, now: float) -> list[K]:
        """Take out all that is due by `now`, the earliest first."""
        due = []
        while self.next() <= now:
            *_, name = heapq.heappop(self._heap)
            del self._at[name]
            due.append(name)
        return due

    def is_due(self, name: K, by: float) -> bool:
        """Tell whether `name` is due by a time."""
        return name in self._at and self._at[name][0] <= by
