"""Until when calls may wait."""

import heapq
import math
from collections.abc import Callable

_FEW = 1_000


class Deadlines:
    """Hold the deadlines of calls, the earliest first; `waits` tells whether a call is still waiting."""

    def __init__(self, waits: Callable[[int], bool]) -> None:
        self._waits = waits
        self._heap: list[tuple[float, int]] = []
        self._most = _FEW

    def set(self, number: int, at: float) -> None:
        """Let a call wait until a time, in seconds on the pool's clock."""
        heapq.heappush(self._heap, (at, number))
        if len(self._heap) > self._most:  # those that were settled in time are dropped now and then
            self._heap = [entry for entry in self._heap if self._waits(entry[1])]
            heapq.heapify(self._heap)
            self._most = max(_FEW, 2 * len(self._heap))

    def next(self) -> float:
        """Give the earliest deadline; math.inf where there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> list[int]:
        """Take out the calls whose time is over."""
        due: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            _, number = heapq.heappop(self._heap)
            if self._waits(number):
                due.append(number)
        return due
