"""The rows that are under way: what is kept of each, some thirty bytes, until its answer is written."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from .rows import Row


class _Page:
    """Keep rows that came together, of which `left` are under way."""

    __slots__ = ("_ends", "_keys", "_lines", "_names", "left", "start", "stop")

    def __init__(self, start: int, rows: Sequence[Row]) -> None:
        names = [row.name for row in rows]
        self.start, self.stop = start, start + len(rows)
        self.left = len(rows)
        self._keys = array("Q", [row.key for row in rows])
        self._lines = array("I", [row.line for row in rows])
        self._names = b"".join(names)
        self._ends = array("I", accumulate(map(len, names), initial=0))  # of each, behind that of the one before

    def take(self, index: int) -> tuple[int, bytes]:
        at = index - self.start
        self.left -= 1
        return self._keys[at], self._names[self._ends[at] : self._ends[at + 1]]

    def line(self, index: int) -> int:
        return self._lines[index - self.start]


class Flight:
    """Keep the rows that are given to the pool, by the order in which they are, from 0."""

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}  # by the first of their rows
        self._starts: list[int] = []
        self._page = _Page(0, ())
        self._stop = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows that are about to be given."""
        if rows:
            self._pages[self._stop] = _Page(self._stop, rows)
            self._starts.append(self._stop)
            self._stop += len(rows)

    def take(self, index: int) -> tuple[int, bytes]:
        """Take one out, once: its key and its name."""
        page = self._page
        if not page.start <= index < page.stop:
            page = self._turn_to(index)
        found = page.take(index)
        if not page.left:
            del self._pages[page.start]
        return found

    def line(self, index: int) -> int:
        """Say where one stands in INPUT that was not taken out."""
        return self._turn_to(index).line(index)

    def _turn_to(self, index: int) -> _Page:
        if len(self._starts) > 2 * len(self._pages):  # it is sorted, for a dict keeps the order
            self._starts = [*self._pages]
        self._page = self._pages[self._starts[bisect_right(self._starts, index) - 1]]
        return self._page
