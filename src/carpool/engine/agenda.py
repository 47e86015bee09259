"""Deadlines in a heap."""

import heapq
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Agenda(Generic[K]):
    """Keep one deadline for each name; a moved or dropped one leaves a stale entry that is skipped when it surfaces."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._pushed = 0

    def set(self, name: K, at: float) -> None:
        """Note that `name` is due at `at`, whatever was noted before."""
        if self._at.get(name) != at:
            self._at[name] = at
            self._pushed += 1
            heapq.heappush(self._heap, (at, self._pushed, name))

    def drop(self, name: K) -> None:
        """Forget `name`."""
        self._at.pop(name, None)

    def next(self) -> float:
        """Give the nearest deadline, `math.inf` when there is none."""
        while self._heap:
            at, _, name = self._heap[0]
            if self._at.get(name) == at:
                return at
            heapq.heappop(self._heap)
        return math.inf

    def pop(self, now: float) -> list[K]:
        """Take out all that is due by `now`, the earliest first."""
        due = []
        while self.next() <= now:
            _, _, name = heapq.heappop(self._heap)
            del self._at[name]
            due.append(name)
        return due

    def until(self, at: float) -> list[K]:
        """Name all that is due by `at`, in no order."""
        return [name for name, due in self._at.items() if due <= at]
