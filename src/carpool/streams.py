"""Streams meet the collector."""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from .admission import Place
from .collector import Collector
from .errors import CarpoolError
from .formats import body_of
from .intake import Streamed
from .models import Encoded, Request
from .spans import Bound, Entry, Sink

_SOUGHT = 2_000  # requests of which each is in memory until it is known whether the journal has an answer
_LIVE = 1_000  # calls that are sent live: each has a task
_UNWRITTEN = 16 * 2**20  # bytes of lines that the disk has not taken yet


class StreamPort:
    """Let the requests of a stream, which was made in a `context`, join a collector.

    In all lanes together `max_spool` bytes may wait for a batch.
    """

    def __init__(self, collector: Collector, max_spool: int, context: Context) -> None:
        self._context = context
        self._collector = collector
        self._intake = collector.intake
        self._callers = collector.callers
        self._admission = collector.admission
        self._max_spool = max_spool
        self._place: Place | None = None  # in line, or before it joins

    def encode(self, request: Request) -> Encoded:
        """Check a request, and encode it; from any thread."""
        return self._intake.encode(request.endpoint, body_of(request))

    def join(self, asked: Sequence[Bound], index: int, sink: Sink) -> None:
        """Let requests join their lanes, and settle those with which something is wrong; raises what ends the pool."""
        self._callers.admit()
        calls: list[Streamed] = []
        wrong: list[Entry] = []
        for place, (call, options) in enumerate(asked, index):
            if isinstance(call, CarpoolError):
                wrong.append((place, call))
            else:
                calls.append((place, call, options))
        if wrong:
            sink.settle(wrong)
        self._intake.join_streamed(calls, sink, self._context)

    @property
    def refusal(self) -> CarpoolError | None:
        """Say why nothing is let in any more."""
        try:
            self._callers.admit()
        except CarpoolError as exc:
            return exc
        return None

    @property
    def has_room(self) -> bool:
        """Tell whether the look-ahead may grow: in memory, and on disk."""
        few = self._intake.unknown < _SOUGHT and self._collector.live_calls < _LIVE
        return few and self._intake.unwritten < _UNWRITTEN and self._collector.backlog < self._max_spool

    @property
    def left(self) -> int:
        """Count the calls that may still join the pool."""
        return self._admission.room

    def waits(self, under_way: int) -> bool:
        """Tell whether a stream, with so many under way, is to wait in line; for bytes not with none."""
        admission = self._admission
        return not admission.refuses and (admission.is_crowded if under_way else admission.is_full)

    async def turn(self, is_over: Callable[[], bool]) -> bool:
        """Wait in line; gives whether room for a call is held now, until `joined`, or it was over before."""
        asked = False

        def come() -> None:
            nonlocal asked
            asked = True
            self.changed()

        place = self._place = Place(come)
        self._admission.enter(place)
        try:
            await self.until(lambda: asked or is_over())
        except BaseException:
            self._admission.leave(place)
            raise
        if not asked:
            self._admission.leave(place)
        return asked

    def joined(self) -> None:
        """Let go of the room that was held."""
        if self._place is not None:
            self._admission.joined(self._place)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, or the pool is over."""
        await self._collector.background.until(condition)

    def changed(self) -> None:
        """Let those who wait look again."""
        self._collector.background.changed()

    def start(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do something beside."""
        self._collector.background.start(step)

    def leave(self, sink: Sink) -> None:
        """Give up the calls of a stream that are not settled."""
        self._intake.leave(self._callers.numbers_of(sink))

    def take_back(self, rows: Sequence[int]) -> None:
        """Note that answers in these rows reached nobody."""
        self._intake.take_back_rows(rows)
