"""Two clocks: one by which waits and ages are measured, and the wall's, by which processes tell each other times."""

import time
from collections.abc import Callable

_STEP = 1.0  # seconds: less is what reading two clocks one after the other comes to


class Clock:
    """Tell the time by `ticks`, in seconds, which nobody sets, and which stand still while the machine sleeps.

    What is written down is read by other processes, and by later ones: those times are the wall's.
    """

    def __init__(self, ticks: Callable[[], float]) -> None:
        self._ticks = ticks
        self._epoch = time.time() - ticks()
        self._lag = 0.0

    def now(self) -> float:
        """Give the time, in seconds since the epoch, less what the machine has slept since this clock was made."""
        return self._epoch + self._ticks()

    def wall(self) -> float:
        """Give the wall's time, in seconds since the epoch."""
        return self.written(self.now())

    def written(self, at: float) -> float:
        """Give the wall's time for one of this clock."""
        return at + self._measure()

    def read(self, at: float) -> float:
        """Give this clock's time for one of the wall's; there and back it is the same, to the last bit."""
        return at - self._measure()

    def _measure(self) -> float:
        lag = time.time() - self.now()
        if abs(lag - self._lag) > _STEP:
            self._lag = float(round(lag))
        return self._lag
