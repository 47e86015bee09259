"""When the calls of a lane come, and for how long it pays to wait for more of them.

Calls that follow one another within `Timing.linger` are a burst, and a longer pause ends it: that is all that is known
of a first one. Where the last pauses were short, calls trickle, and waiting for a few such pauses gathers more; never
beyond `Timing.max_linger` after the first call. Where they were longer than that, waiting would be in vain.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from ..config import Timing

_PAUSES = 4  # that must be short, on average: fewer are no trickle, and more forget a change too slowly
_PATIENCE = 3.0  # pauses: of exponential ones a twentieth is longer


class Earliest:
    """Know the earliest of the times that were noted for rows, as long as those rows wait.

    Places and times both rise from entry to entry: what is noted for rows that go no sooner, and is no later, says
    more.
    """

    def __init__(self) -> None:
        self._noted: deque[tuple[int, float]] = deque()  # places in line of the last rows, and their times

    def __bool__(self) -> bool:
        return bool(self._noted)

    def note(self, last: int, at: float) -> None:
        """Note a time for rows, the last of which has this place."""
        noted = self._noted
        index = len(noted)
        if noted and noted[-1][0] > last:
            index = bisect_right(noted, last, key=_place)
            if noted[index][1] <= at:
                return
        while index and noted[index - 1][1] >= at:
            index -= 1
            del noted[index]
        noted.insert(index, (last, at))

    def among(self, first: int) -> float:
        """Give the earliest time of what waits from the place `first` on; math.inf where there is none."""
        noted = self._noted
        while noted and noted[0][0] < first:
            noted.popleft()
        return noted[0][1] if noted else math.inf

    def clear(self) -> None:
        """Forget all."""
        self._noted.clear()


def _place(entry: tuple[int, float]) -> int:
    return entry[0]


def patience(pauses: Sequence[float], timing: Timing) -> float:
    """Give for how many seconds to wait for the next call, after such pauses."""
    mean = sum(pauses) / len(pauses)
    return timing.linger if mean > timing.max_linger else _PATIENCE * mean


class Arrivals:
    """Note when rows join a lane, and say until when they wait for others; rows are named by their places in line."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._came = Earliest()
        self._hurried = Earliest()
        self._last_at = -math.inf
        self._pauses = deque([math.inf] * _PAUSES, maxlen=_PAUSES)
        self._patience = timing.linger
        self._freed = False

    def clear(self) -> None:
        """Note that nothing waits."""
        self._came.clear()
        self._hurried.clear()

    def came(self, last: int, now: float, pack_by: float = math.inf) -> None:
        """Note that rows joined, up to the place `last`; some should be packed by a time, after `linger`."""
        pause = now - self._last_at
        if pause > self._timing.linger:
            self._note_pause(pause)
        self._freed = False
        self._last_at = now
        self._came.note(last, now)
        if pack_by < math.inf:
            self._hurried.note(last, max(pack_by, now + self._timing.linger))

    def _note_pause(self, pause: float) -> None:
        """Learn from a pause, unless whoever calls now may just have got an answer: calls that wait bring no others."""
        if not self._freed or pause > self._timing.max_linger:
            self._pauses.append(pause)
            self._patience = patience(self._pauses, self._timing)

    def came_back(self, last: int, since: float) -> None:
        """Note that rows wait again, up to the place `last`, which came at a time."""
        self._came.note(last, since)

    def freed(self) -> None:
        """Note that callers were answered, who may call again."""
        self._freed = True

    def since(self, first: int) -> float:
        """Give the time at which the longest waiting row came, of those from the place `first` on."""
        return self._came.among(first)

    def due(self, first: int, spare_at: float = -math.inf) -> float:
        """Give the time at which what waits, from the place `first` on, is packed though no file is full.

        Not before `spare_at`, unless it should be packed by a time.
        """
        due = max(spare_at, min(self._last_at + self._patience, self.since(first) + self._timing.max_linger))
        return min(due, self._hurried.among(first)) if self._hurried else due
