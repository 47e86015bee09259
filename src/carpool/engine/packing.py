"""Which rows go into the next input file."""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Protocol

from msgspec import structs

from ..models import FileLimits, Load, Run
from ..naming import shard_of

_BEFORE = 1 << 64  # more than any number of a row
_FEW = 20  # looked for one by one, so many times as few cost as much as a set of all


class Weights(Protocol):
    """Say what a counted token, and a byte that was not counted, weigh."""

    @property
    def per_token(self) -> float:
        """Give the weight of a token."""
        ...

    @property
    def per_byte(self) -> float:
        """Give the weight of a byte."""
        ...


class Waiting:
    """Hold the rows of a lane that are in no batch, in the order of their numbers, which is that of their arrival.

    Those that a process of another shard than `shard` numbered stand in front: they were there before.
    """

    def __init__(self, shard: int = 0) -> None:
        self._shard = shard
        self._runs: deque[Run] = deque()
        self._end: tuple[int, int] | None = None  # where the spool goes on behind the last run, while it may grow
        self.rows: int = 0
        self.size: int = 0
        self.inputs: int = 0
        self.load: Load = Load(0, 0)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @property
    def first(self) -> int:
        """Give the place of the row in front."""
        return self.place(self._runs[0].rows[0])

    def place(self, row: int) -> int:
        """Give the place of a row among others: the lower stands before."""
        return row if shard_of(row) == self._shard else row - _BEFORE

    def append(self, run: Run) -> None:
        """Add rows at the end, into the last run where the spool goes on from there: few runs make few ranges."""
        last = self._runs[-1] if self._runs else None
        if last is not None and last.tokens is None and self._end == (run.segment, run.offset):
            last.rows.extend(run.rows)
            last.sizes.extend(run.sizes)
            if last.inputs is not None and run.inputs is not None:
                last.inputs.extend(run.inputs)
        else:
            self._runs.append(run.part(0, len(run)))
        before = self.size
        self._count((run,), 1)
        self._end = (run.segment, run.offset + self.size - before)

    def put_back(self, runs: Sequence[Run]) -> None:
        """Add rows where they were: most of them in front, since they have waited already."""
        last = self._runs[-1] if self._runs else None
        self._runs = deque(sorted((*runs, *self._runs), key=lambda run: self.place(run.rows[0])))
        if last is None or self._runs[-1] is not last:
            self._end = None
        self._count(runs, 1)

    def uncounted(self, size: int) -> tuple[Run, ...]:
        """Give the foremost rows whose tokens are not known, so many bytes of them, but one at least."""
        chosen: list[Run] = []
        for run in self._runs:
            if run.tokens is None:
                part = run.part(0, bisect_right(list(accumulate(run.sizes)), size) or (0 if chosen else 1))
                if part.rows:
                    chosen.append(part)
                size -= part.size
                if len(part) < len(run):
                    break
        return tuple(chosen)

    def larger(self, size: int) -> tuple[Run, ...]:
        """Give the rows of more than so many bytes whose tokens are not known."""
        return tuple(part for run in self._runs for part in larger(run, size))

    def heavier(self, tokens: float) -> dict[int, int]:
        """Give the rows of more than so many tokens, and their tokens."""
        return {
            row: count
            for run in self._runs
            if run.tokens is not None and max(run.tokens) > tokens
            for row, count in zip(run.rows, run.tokens, strict=True)
            if count > tokens
        }

    def guessed(self, tokens: int, per_byte: float) -> dict[int, int]:
        """Give the rows that are not counted and would come to more than so many tokens, and how many."""
        return {
            row: round(size * per_byte)
            for run in self.larger(int(tokens / per_byte))
            for row, size in zip(run.rows, run.sizes, strict=True)
        }

    def note_tokens(self, counted: Iterable[Run]) -> None:
        """Take note of the tokens of those of these rows that still wait."""
        known = {row: tokens for run in counted for row, tokens in zip(run.rows, run.tokens or (), strict=True)}
        first, last = min(known), max(known)
        runs, self._runs = self._runs, deque()
        for run in runs:
            if run.tokens is not None or run.rows[-1] < first or run.rows[0] > last:
                self._runs.append(run)
                continue
            for is_known, part in stretches(run, (row in known for row in run.rows)):
                if is_known:
                    part = structs.replace(part, tokens=array("I", map(known.__getitem__, part.rows)))
                    self.load = self.load.plus(Load(0, part.size), -1).plus(part.load)
                self._runs.append(part)
        if self._runs and self._runs[-1].tokens is not None:
            self._end = None

    def among(self, rows: Sequence[int]) -> set[int]:
        """Say which of these rows, in order, are here."""
        return {row for run in self._runs for row in common(run.rows, rows)}

    def take(self, runs: Iterable[Run]) -> list[Run]:
        """Remove the rows of these runs, wherever they stand, and give those that were here."""
        return self._cut([(run.rows[0], run.rows[-1]) for run in runs])

    def drop(self, rows: Collection[int]) -> list[Run]:
        """Remove rows by their numbers and give those that were here."""
        return self._cut([*spans(sorted(set(rows)))])

    def full(self, limits: FileLimits) -> bool:
        """Tell whether more waits than one file takes, or just as much."""
        return self.rows >= limits.requests or self.size >= limits.bytes or self.inputs >= limits.inputs

    def _cut(self, spans: list[tuple[int, int]]) -> list[Run]:
        if not spans:
            return []
        spans.sort()
        kept: deque[Run] = deque()
        removed: list[Run] = []
        for run in self._runs:
            kept.extend(_outside(run, spans, removed))
        if not kept or (self._runs and kept[-1] is not self._runs[-1]):
            self._end = None
        self._runs = kept
        self._count(removed, -1)
        return removed

    def _count(self, runs: Sequence[Run], sign: int) -> None:
        load = sum_loads(runs)
        self.rows += sign * sum(map(len, runs))
        self.size += sign * (load.size + sum(run.size for run in runs if run.tokens is not None))
        self.inputs += sign * sum(sum(run.inputs) for run in runs if run.inputs is not None)
        self.load = self.load.plus(load, sign)


def singles(run: Run) -> Iterator[Run]:
    """Cut a run into its rows."""
    offset = run.offset
    for position, size in enumerate(run.sizes):
        yield run.part(position, position + 1, offset)
        offset += size


def between(run: Run, first: int, last: int) -> Iterator[Run]:
    """Cut out the rows whose numbers lie from `first` to `last`, if there are any."""
    start, stop = bisect_left(run.rows, first), bisect_right(run.rows, last)
    if start < stop:
        yield run.part(start, stop)


def spans(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give the first and last of each stretch of consecutive numbers in a sorted sequence without doubles."""
    start = 0
    while start < len(rows):
        stop = _stretch(rows, start)
        yield rows[start], rows[stop - 1]
        start = stop


def _stretch(rows: Sequence[int], start: int) -> int:
    """Say where the stretch of consecutive numbers ends that begins at a place: by doubling steps, then by halves."""
    known, step = start, 1
    while known + step < len(rows) and rows[known + step] == rows[start] + known + step - start:
        known += step
        step *= 2
    while step > 1:
        step //= 2
        if known + step < len(rows) and rows[known + step] == rows[start] + known + step - start:
            known += step
    return known + 1


def common(rows: Sequence[int], others: Sequence[int]) -> Sequence[int]:
    """Give what two sorted sequences have in common, of which the second is the shorter."""
    near = others[bisect_left(others, rows[0]) : bisect_right(others, rows[-1])]
    if rows[-1] - rows[0] == len(rows) - 1:
        return near  # as all numbers between them are
    if _FEW * len(near) < len(rows):
        return [row for row in near if rows[bisect_left(rows, row)] == row]
    here = set(rows)
    return [row for row in near if row in here]


def sum_loads(runs: Iterable[Run]) -> Load:
    """Add up what runs weigh."""
    tokens = size = 0
    for run in runs:
        if run.tokens is None:
            size += run.size
        else:
            tokens += sum(run.tokens)
    return Load(tokens, size)


def load_of(runs: Iterable[Run], rows: set[int]) -> Load:
    """Add up what some rows of runs weigh."""
    tokens = size = 0
    for run in runs:
        if rows.isdisjoint(run.rows):
            continue
        weights = zip(run.rows, run.sizes if run.tokens is None else run.tokens, strict=True)
        weight = sum(weight for row, weight in weights if row in rows)
        if run.tokens is None:
            size += weight
        else:
            tokens += weight
    return Load(tokens, size)


def larger(run: Run, size: int) -> Iterator[Run]:
    """Give the rows of more than so many bytes whose tokens are not known."""
    if run.tokens is None and run.size > size and max(run.sizes) > size:  # to add up takes less than to compare
        yield from (part for is_large, part in stretches(run, (bytes_ > size for bytes_ in run.sizes)) if is_large)


def stretches(run: Run, marks: Iterable[bool]) -> Iterator[tuple[bool, Run]]:
    """Cut a run where the marks of its rows change, and give each mark with its part."""
    start, offset = 0, run.offset
    for mark, group in groupby(marks):
        stop = start + sum(1 for _ in group)
        part = run.part(start, stop, offset)
        yield mark, part
        start, offset = stop, offset + part.size


def _outside(run: Run, spans: list[tuple[int, int]], removed: list[Run]) -> Iterator[Run]:
    """Give what of a run lies in none of the sorted spans of row numbers; what does goes to `removed`.

    The rows of one lane are numbered in order, so the spans of two of its runs never interleave.
    """
    nearest = bisect_left(spans, run.rows[0], key=lambda span: span[1])
    if nearest == len(spans) or spans[nearest][0] > run.rows[-1]:
        yield run
        return
    if spans[nearest][0] <= run.rows[0] and run.rows[-1] <= spans[nearest][1]:
        removed.append(run)
        return
    cuts: list[tuple[int, int]] = []
    for index in range(nearest, len(spans)):
        first, last = spans[index]
        if first > run.rows[-1]:
            break
        begin = bisect_left(run.rows, first, cuts[-1][1] if cuts else 0)
        end = bisect_right(run.rows, last, begin)
        if begin < end and cuts and cuts[-1][1] == begin:
            cuts[-1] = cuts[-1][0], end
        elif begin < end:
            cuts.append((begin, end))
    offsets = list(accumulate(run.sizes, initial=run.offset))
    start = 0
    for begin, end in cuts:
        if start < begin:
            yield run.part(start, begin, offsets[start])
        removed.append(run.part(begin, end, offsets[begin]))
        start = end
    if start < len(run):
        yield run.part(start, len(run), offsets[start]) if cuts else run


def first_fit(
    waiting: Iterable[Run], limits: FileLimits, budget: float = math.inf, weights: Weights | None = None
) -> list[Run]:
    """Choose the longest beginning of what waits that fits one file: requests, bytes and embedding inputs.

    With a `budget` it also weighs no more than that, unless it is a single row.
    """
    chosen: list[Run] = []
    rows, size, inputs = limits.requests, limits.bytes, limits.inputs
    for run in waiting:
        fit = _fit(run, rows, size, inputs)
        if weights is not None:
            fit, weight = _afford(run, fit, budget, weights)
            if not fit and not chosen:
                fit, weight = 1, math.inf  # nothing goes with it
            budget -= weight
        if fit:
            part = run.part(0, fit)
            chosen.append(part)
            rows, size, inputs = rows - fit, size - part.size, inputs - sum(part.inputs or ())
        if fit < len(run):
            break
    return chosen


def _fit(run: Run, rows: int, size: int, inputs: int) -> int:
    fit = min(len(run), rows)
    if fit < len(run) or run.size > size:
        fit = bisect_right(list(accumulate(run.sizes[:fit])), size)
    if run.inputs is not None:
        fit = min(fit, bisect_right(list(accumulate(run.inputs[:fit])), inputs))
    return fit


def _afford(run: Run, fit: int, budget: float, weights: Weights) -> tuple[int, float]:
    """Say how many of the first `fit` rows a budget buys, and for how much."""
    amounts, weight = (run.sizes, weights.per_byte) if run.tokens is None else (run.tokens, weights.per_token)
    sums = list(accumulate(amounts[:fit]))
    bought = bisect_right(sums, budget / weight)
    return bought, sums[bought - 1] * weight if bought else 0.0
