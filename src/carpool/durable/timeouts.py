"""Until when submissions may wait, and from when on they are sent live."""

from collections.abc import Callable

from ..config import Escalate
from ..deadlines import Deadlines, margin, may_escalate


class Timeouts:
    """Hold the timeouts of submissions; `is_open` tells whether one is still waiting."""

    def __init__(self, is_open: Callable[[int], bool], escalate: Escalate | None) -> None:
        self._over = Deadlines(is_open)
        self._near = Deadlines(is_open)
        self._escalate = escalate

    def set(self, row: int, endpoint: str, at: float, left: float) -> None:
        """Let a row wait until a time, so many seconds from now."""
        self._over.set(row, at)
        if self._escalate is not None and may_escalate(endpoint, self._escalate):
            self._near.set(row, at - margin(max(0.0, left), self._escalate))

    @property
    def next(self) -> float:
        """Give the time at which the next one is over, or near; math.inf where there is none."""
        return min(self._over.next(), self._near.next())

    def hurried(self, now: float) -> list[int]:
        """Take out the rows that are to be sent live."""
        return self._near.due(now)

    def expired(self, now: float) -> list[int]:
        """Take out the rows whose time is over."""
        return self._over.due(now)
