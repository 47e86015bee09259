"""The growing ends of the spool: where the line of each call will lie, and what of them is to be written. No I/O.

Bodies gather until they make a slice, and become lines together; lines gather until they make a chunk.
"""

import math
from array import array
from collections.abc import Callable, Container
from typing import NamedTuple, Protocol

from ..models import Lane, Run

CHUNK = 2**20  # bytes: lines are written so many at a time
_SLICE = 2**18  # bytes: bodies become lines so many at a time, a fraction of a millisecond
_RICH = b'"type"'  # parts of a message name their type; plain text has none, and is bounded by its bytes
SEGMENT = 32 * 2**20  # bytes: a segment that has grown so large is closed, and dropped when all its rows are settled

LaneKey = tuple[str, str, bool, int]  # a lane: what is made for each call is a plain tuple, at a tenth of the cost
Frame = tuple[bytes, bytes, bytes]


class Report(NamedTuple):
    """Tell of rows that were added to a lane; `rich` when some may hold images or files.

    Some should be packed by the time `pack_by`, math.inf where there is no hurry.
    """

    lane: Lane
    run: Run
    rich: bool
    digests: bytes
    pack_by: float


class Chunk(NamedTuple):
    """Hold lines that are to be written at a place in a segment."""

    segment: int
    offset: int
    size: int
    lines: list[bytes]


class Lines(NamedTuple):
    """Hold what is appended to one lane at once; `digests` is empty where there is no journal."""

    numbers: list[int]
    bodies: list[bytes]
    inputs: list[int]
    digests: list[bytes]


class Add(Protocol):
    """Append a line, as `Tails.add` does."""

    def __call__(
        self,
        lane: LaneKey,
        number: int,
        body: bytes,
        inputs: int,
        digest: bytes | None = None,
        pack_by: float = math.inf,
    ) -> None: ...


class _Tail:
    """Hold the growing end of one lane's spool: bodies, the lines not written yet, the rows not reported yet."""

    __slots__ = (
        "bodies",
        "digests",
        "end",
        "frame",
        "held",
        "inputs",
        "lane",
        "lines",
        "pack_by",
        "rich",
        "rows",
        "segment",
        "sizes",
        "unreported",
        "unwritten",
    )

    def __init__(self, lane: Lane, frame: Frame, segment: int) -> None:
        self.lane = lane
        self.frame = frame
        self.bodies: list[bytes] = []  # of the last rows, which are no lines yet
        self.held = 0  # bytes in them
        self.begin(segment)

    def begin(self, segment: int) -> None:
        self.segment = segment
        self.end = self.unwritten = 0  # offsets: behind the last line, and of the first that is not written
        self.lines: list[bytes] = []
        self.clear()

    def clear(self) -> None:
        self.unreported = self.end  # offset of the first line that is not reported
        self.rows = array("Q")
        self.sizes = array("I")
        self.inputs = array("I")
        self.rich = False
        self.digests: list[bytes] = []
        self.pack_by = math.inf

    def lay(self) -> None:
        """Make lines of the bodies."""
        head, middle, end = self.frame
        rows = self.rows[len(self.sizes) :]
        lines = [b"".join((head, b"%d" % row, middle, body, end)) for row, body in zip(rows, self.bodies, strict=True)]
        sizes = [*map(len, lines)]
        self.sizes.extend(sizes)
        self.end += sum(sizes)
        self.lines += lines
        # From behind, and in all at once: CPython looks so in less than half the time.
        self.rich = self.rich or b"\n".join(self.bodies).rfind(_RICH) >= 0
        self.bodies, self.held = [], 0

    def report(self) -> Report:
        """Tell of the rows that were not told of yet."""
        inputs = self.inputs if self.inputs[0] else None
        run = Run(self.segment, self.unreported, self.rows, self.sizes, inputs)
        report = Report(self.lane, run, self.rich, b"".join(self.digests), self.pack_by)
        self.clear()
        return report

    def seal(self) -> list[Chunk]:
        """Take the lines out that are to be written."""
        if not self.lines:
            return []
        chunk = Chunk(self.segment, self.unwritten, self.end - self.unwritten, self.lines)
        self.lines, self.unwritten = [], self.end
        return [chunk]


class Tails:
    """Take what is added to the lanes' spools, and know where it will lie; nothing is awaited.

    `frame` gives the constant parts of a lane's lines; segments are numbered from behind `numbered`.
    """

    def __init__(self, frame: Callable[[Lane], Frame], numbered: int) -> None:
        self._frame = frame
        self._segments = numbered
        self._tails: dict[LaneKey, _Tail] = {}
        self._reports: list[Report] = []
        self.chunks: list[Chunk] = []  # that wait to be written

    def add(
        self,
        lane: LaneKey,
        number: int,
        body: bytes,
        inputs: int,
        digest: bytes | None = None,
        pack_by: float = math.inf,
    ) -> None:
        """Append a line to its lane's spool; all lanes' `inputs` are above 0, or all are 0 where nobody counts them.

        `digest` is what a journal knows the request by; all lines have one, or none has. It should be packed by a time.
        """
        tail = self._tails.get(lane) or self._new_tail(lane)
        tail.rows.append(number)
        tail.bodies.append(body)
        tail.inputs.append(inputs)
        if digest is not None:
            tail.digests.append(digest)
        if pack_by < tail.pack_by:
            tail.pack_by = pack_by
        tail.held += len(body)
        if tail.held >= _SLICE:
            self._lay(tail)

    def add_all(self, lane: LaneKey, added: Lines) -> None:
        """Append lines to the spool of a lane."""
        tail = self._tails.get(lane) or self._new_tail(lane)
        tail.rows.extend(added.numbers)
        tail.bodies += added.bodies
        tail.inputs.extend(added.inputs)
        tail.digests += added.digests
        tail.held += sum(map(len, added.bodies))
        if tail.held >= _SLICE:
            self._lay(tail)

    def _new_tail(self, lane: LaneKey) -> _Tail:
        tail = self._tails[lane] = _Tail(Lane(*lane), self._frame(Lane(*lane)), self._next_segment())
        return tail

    def _next_segment(self) -> int:
        self._segments += 1
        return self._segments

    def _lay(self, tail: _Tail) -> None:
        """Make lines of bodies; a segment that has grown so large is closed."""
        tail.lay()
        if tail.end - tail.unwritten >= CHUNK or tail.end >= SEGMENT:
            self.chunks += tail.seal()
        if tail.end >= SEGMENT:
            self._reports.append(tail.report())
            tail.begin(self._next_segment())

    def accepted(self) -> list[Report]:
        """Take out the rows that were added since the last time."""
        for tail in self._tails.values():
            if tail.bodies:
                self._lay(tail)
            if tail.rows:
                self._reports.append(tail.report())
        reports, self._reports = self._reports, []
        return reports

    @property
    def unreported(self) -> int:
        """Give the bytes of what was added since the last time."""
        return sum(tail.end - tail.unreported + tail.held for tail in self._tails.values())

    def seal(self, segments: Container[int] | None = None) -> None:
        """Have all lines there are written, or those in these segments."""
        for tail in self._tails.values():
            if segments is None or tail.segment in segments:
                self.chunks += tail.seal()
