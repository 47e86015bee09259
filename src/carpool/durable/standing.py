"""Where each submission stands that is not acked: some bytes each, and no objects."""

from collections import deque
from collections.abc import Iterable, Sequence

from ..numbers import NumberMap

_UNKNOWN = 0
_OPEN, _CLOSING, _ENDED, _GIVEN = range(1, 5)


class Standing:
    """Hold rows that are open, that are closing until their end is recorded, that have ended, or were given away."""

    def __init__(self) -> None:
        self._states = NumberMap()
        self._ended: deque[int] = deque()  # in their order; some may be gone

    def __bool__(self) -> bool:
        return bool(self._states)

    def __contains__(self, row: int) -> bool:
        return row in self._states

    def is_open(self, row: int) -> bool:
        """Tell whether nothing has come of a row yet."""
        return self._states.get(row, _UNKNOWN) == _OPEN

    def add(self, row: int) -> None:
        """Follow a row from now on."""
        self._states[row] = _OPEN

    def close(self, rows: Iterable[int]) -> list[int]:
        """Note that something came of rows; gives those for which it is the first, and so counts."""
        closed = [row for row in rows if self._states.get(row, _UNKNOWN) == _OPEN]
        for row in closed:
            self._states[row] = _CLOSING
        return closed

    def end(self, rows: Iterable[int]) -> bool:
        """Note that what came of rows is recorded; gives whether any was closing."""
        ended = [row for row in rows if self._states.get(row, _UNKNOWN) == _CLOSING]
        for row in ended:
            self._states[row] = _ENDED
        self._ended.extend(ended)
        return bool(ended)

    @property
    def has_ended(self) -> bool:
        """Tell whether there is something to be taken."""
        ended = self._ended
        while ended and self._states.get(ended[0], _UNKNOWN) != _ENDED:
            ended.popleft()
        return bool(ended)

    def take(self, most: int) -> list[int]:
        """Take out so many rows at most that have ended, those first that ended first."""
        taken: list[int] = []
        while len(taken) < most and self.has_ended:
            row = self._ended.popleft()
            self._states[row] = _GIVEN
            taken.append(row)
        return taken

    def put_back(self, rows: Sequence[int]) -> None:
        """Let rows be taken again, before the others."""
        back = [row for row in rows if self._states.get(row, _UNKNOWN) == _GIVEN]
        for row in back:
            self._states[row] = _ENDED
        self._ended.extendleft(reversed(back))

    def drop(self, row: int) -> bool:
        """Follow a row no longer; gives whether it was followed."""
        return self._states.pop(row, _UNKNOWN) != _UNKNOWN
