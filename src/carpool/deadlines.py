"""Until when calls may wait, and from when on they are sent live."""

import heapq
import math
from collections.abc import Callable

from .config import Escalate

_FEW = 1_000
# How much of a timeout is kept for the live call, and how many seconds at most: most answers take some, those of the
# flex tier minutes (contracts A8).
_MARGINS: dict[Escalate, tuple[float, float]] = {"live": (0.25, 120.0), "flex": (0.5, 900.0)}
_FLEXIBLE = frozenset({"/v1/chat/completions", "/v1/responses"})
_LINGER = 0.1  # the share of a timeout that a call may wait for others, to travel with them


def margin(timeout: float, tier: Escalate) -> float:
    """Give how many seconds before its timeout is over a call is sent live."""
    share, most = _MARGINS[tier]
    return min(share * timeout, most)


def pack_by(timeout: float, now: float) -> float:
    """Give the time by which a call should be packed, so that its timeout is left for the batch."""
    return now + _LINGER * timeout


def may_escalate(endpoint: str, tier: Escalate) -> bool:
    """Tell whether an endpoint has the tier (contracts A8)."""
    return tier == "live" or endpoint in _FLEXIBLE


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

    def due(self, now: float, most: float = math.inf) -> list[int]:
        """Take out the calls whose time is over, no more than so many."""
        due: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(due) < most:
            _, number = heapq.heappop(self._heap)
            if self._waits(number):
                due.append(number)
        return due
