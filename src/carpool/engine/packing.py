"""Which rows go into the next input file."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate

from ..models import FileLimits, Run


class Waiting:
    """Hold the rows of a lane that are in no batch, in the order in which they shall travel."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._end: tuple[int, int] | None = None  # where the spool goes on behind the last run, while it may grow
        self.rows = 0
        self.size = 0
        self.inputs = 0

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @property
    def first(self) -> int:
        """Give the number of the row in front."""
        return self._runs[0].rows[0]

    def append(self, run: Run) -> None:
        """Add rows at the end, into the last run where the spool goes on from there: few runs make few ranges."""
        size = run.size
        if self._runs and self._end == (run.segment, run.offset):
            last = self._runs[-1]
            last.rows.extend(run.rows)
            last.sizes.extend(run.sizes)
            if last.inputs is not None and run.inputs is not None:
                last.inputs.extend(run.inputs)
        else:
            self._runs.append(run.part(0, len(run)))
        self._end = (run.segment, run.offset + size)
        self._count(run, 1)

    def put_back(self, runs: Sequence[Run]) -> None:
        """Add rows at the front: they have waited already."""
        if not self._runs:
            self._end = None
        self._runs.extendleft(reversed(runs))
        for run in runs:
            self._count(run, 1)

    def take(self, runs: Iterable[Run]) -> None:
        """Remove the rows of these runs, wherever they stand."""
        self._cut([(run.rows[0], run.rows[-1]) for run in runs])

    def drop(self, rows: Collection[int]) -> list[Run]:
        """Remove rows by their numbers and give those that were here."""
        return self._cut([(row, row) for row in rows])

    def full(self, limits: FileLimits) -> bool:
        """Tell whether more waits than one file takes, or just as much."""
        return self.rows >= limits.requests or self.size >= limits.bytes or self.inputs >= limits.inputs

    def _cut(self, spans: list[tuple[int, int]]) -> list[Run]:
        spans.sort()
        kept: deque[Run] = deque()
        removed: list[Run] = []
        for run in self._runs:
            kept.extend(_outside(run, spans, removed))
        if not kept or (self._runs and kept[-1] is not self._runs[-1]):
            self._end = None
        self._runs = kept
        for run in removed:
            self._count(run, -1)
        return removed

    def _count(self, run: Run, sign: int) -> None:
        self.rows += sign * len(run)
        self.size += sign * run.size
        self.inputs += sign * sum(run.inputs or ())


def _outside(run: Run, spans: list[tuple[int, int]], removed: list[Run]) -> Iterator[Run]:
    """Give what of a run lies in none of the sorted spans of row numbers; what does goes to `removed`.

    The rows of one lane are numbered in order, so the spans of two of its runs never interleave.
    """
    start = 0
    for first, last in spans[bisect_left(spans, run.rows[0], key=lambda span: span[1]) :]:
        if first > run.rows[-1]:
            break
        begin = bisect_left(run.rows, first, start)
        end = bisect_right(run.rows, last, begin)
        if begin == end:
            continue
        if begin > start:
            yield run.part(start, begin)
        removed.append(run.part(begin, end))
        start = end
    if start == 0:
        yield run
    elif start < len(run):
        yield run.part(start, len(run))


def first_fit(waiting: Iterable[Run], limits: FileLimits) -> list[Run]:
    """Choose the longest beginning of what waits that fits one file: requests, bytes and embedding inputs."""
    chosen: list[Run] = []
    rows, size, inputs = limits.requests, limits.bytes, limits.inputs
    for run in waiting:
        fit = _fit(run, rows, size, inputs)
        if fit:
            part = run.part(0, fit)
            chosen.append(part)
            rows, size, inputs = rows - fit, size - part.size, inputs - sum(part.inputs or ())
        if fit < len(run):
            break
    return chosen


def _fit(run: Run, rows: int, size: int, inputs: int) -> int:
    fit = min(len(run), rows)
    fit = bisect_right(list(accumulate(run.sizes[:fit])), size)
    if run.inputs is not None:
        fit = min(fit, bisect_right(list(accumulate(run.inputs[:fit])), inputs))
    return fit
