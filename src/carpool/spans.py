"""Calls of a stream: millions may wait, so that those accepted side by side are held together, a byte each."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias

from .errors import CarpoolError
from .models import Encoded, Response
from .options import Options

Ending: TypeAlias = Response | CarpoolError
Entry: TypeAlias = tuple[int, Ending]  # what came of the request at a position of the source
Bound: TypeAlias = tuple[Encoded | CarpoolError, Options]  # a call and how it travels, or what is wrong with it


def rows_of(entries: Iterable[Entry]) -> list[int]:
    """Give the rows in which the answers among these came."""
    answers = (ending for _, ending in entries if isinstance(ending, Response))
    return [int(answer.custom_id.rpartition("-")[2]) for answer in answers if answer.custom_id]


class Sink(Protocol):
    """Take what comes of the requests of a stream."""

    def settle(self, entries: Sequence[Entry]) -> None:
        """Take what came of requests."""
        ...

    def end(self, error: CarpoolError) -> None:
        """Hear that nothing comes any more."""
        ...


class Span:
    """Hold calls of consecutive numbers from `first` on, of requests at consecutive positions from `index` on.

    `waiting` has a byte for each, 1 until it is settled, or its caller gone.
    """

    __slots__ = ("first", "index", "left", "sink", "waiting")

    def __init__(self, first: int, index: int, sink: Sink) -> None:
        self.first: int = first
        self.index: int = index
        self.sink: Sink = sink
        self.waiting: bytearray = bytearray()
        self.left: int = 0

    @property
    def numbers(self) -> Iterator[int]:
        """Give the numbers of the calls that wait."""
        return (self.first + place for place, waits in enumerate(self.waiting) if waits)


class Spans:
    """Hold the spans whose calls wait, in the order of their numbers."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._firsts: list[int] = []
        self._over = 0  # spans of which no call waits
        self.waiting: int = 0

    def __len__(self) -> int:
        return self.waiting

    def __iter__(self) -> Iterator[int]:
        return (number for span in self._spans for number in span.numbers)

    def __contains__(self, number: int) -> bool:
        span = self._of(number)
        return span is not None and bool(span.waiting[number - span.first])

    def add(self, number: int, index: int, sink: Sink, count: int = 1) -> None:
        """Let so many calls wait, the first of which has this number and this position; numbers only grow."""
        span = self._spans[-1] if self._spans else None
        if span is None or span.sink is not sink or not self._goes_on(span, number, index):
            span = Span(number, index, sink)
            self._spans.append(span)
            self._firsts.append(number)
        span.waiting += b"\1" * count
        span.left += count
        self.waiting += count

    def _goes_on(self, span: Span, number: int, index: int) -> bool:
        place = len(span.waiting)
        return span.left > 0 and place < _LONGEST and span.first + place == number and span.index + place == index

    def settle(self, numbers: Sequence[int], endings: Sequence[Ending]) -> list[bool]:
        """Tell streams what came of calls, and take these out; gives which of them waited."""
        told: dict[Sink, list[Entry]] = {}
        waited = []
        for number, ending in zip(numbers, endings, strict=True):
            span = self._of(number)
            waits = span is not None and span.waiting[number - span.first] > 0
            waited.append(waits)
            if span is not None and waits:
                told.setdefault(span.sink, []).append((span.index + number - span.first, ending))
                self._take(span, number)
        for sink, entries in told.items():
            sink.settle(entries)
        return waited

    def forget(self, number: int) -> bool:
        """Take a call out whose caller goes; gives whether it waited."""
        span = self._of(number)
        if span is None or not span.waiting[number - span.first]:
            return False
        self._take(span, number)
        return True

    def _take(self, span: Span, number: int) -> None:
        span.waiting[number - span.first] = 0
        span.left -= 1
        self.waiting -= 1
        if not span.left:
            self._note_over()

    def numbers_of(self, sink: Sink) -> list[int]:
        """Give the numbers of a stream's calls that wait."""
        return [number for span in self._spans if span.sink is sink for number in span.numbers]

    def clear(self) -> set[Sink]:
        """Take all calls out, and give whom to tell."""
        sinks = {span.sink for span in self._spans if span.left}
        self._spans, self._firsts, self._over, self.waiting = [], [], 0, 0
        return sinks

    def _of(self, number: int) -> Span | None:
        position = bisect_right(self._firsts, number) - 1
        if position < 0:
            return None
        span = self._spans[position]
        return span if number - span.first < len(span.waiting) else None

    def _note_over(self) -> None:
        """Drop what is over, when it is half of all; the last may still grow."""
        self._over += 1
        if 2 * self._over > len(self._spans):
            self._spans = [span for span in self._spans if span.left]
            self._firsts = [span.first for span in self._spans]
            self._over = 0


_LONGEST = 4_096  # calls: what is over goes in pieces of this size
