"""How many calls may be under way: whoever finds no room waits in line, in the order of coming, or is refused.

A stream waits for a slice of its requests, a `gather` for its next call: each holds one place in the line, so that
nobody's millions keep a single call waiting.
"""

import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sized
from contextlib import asynccontextmanager
from itertools import count

import anyio

from .deadlines import Deadlines
from .errors import CarpoolError, PoolFull

_FULL = "As many calls are under way as max_pending and max_spool allow. Ask again later, or raise these."
_AT_ONCE = 500  # whose time is over: some milliseconds of the event loop


class Place:
    """Hold a place in the line: `come` is called when there is room, and `late` when it may wait no longer.

    `turn_away` is called with an error that ends the waiting otherwise; whoever has none is no call, and stays.
    """

    __slots__ = ("come", "late", "turn_away")

    def __init__(
        self,
        come: Callable[[], object],
        turn_away: Callable[[CarpoolError], object] | None = None,
        late: Callable[[], object] | None = None,
    ) -> None:
        self.come: Callable[[], object] = come
        self.turn_away: Callable[[CarpoolError], object] | None = turn_away
        self.late: Callable[[], object] | None = late


class Admission:
    """Let calls in while fewer than `most` are `pending`, and not too many bytes wait to be packed, as `is_heavy` says.

    Those in line are asked to come in their order, one by one where it is for the bytes that they wait. With `refuses`
    nobody waits. `is_over` says that nothing is let in any more: whoever waits is asked to come, and to hear why.
    `stir` is called when `deadline` has come nearer. All methods belong to the pool's event loop, but for `length`.
    """

    def __init__(
        self,
        pending: Sized,
        most: int,
        is_heavy: Callable[[], bool],
        is_over: Callable[[], bool],
        stir: Callable[[], object],
        *,
        refuses: bool,
    ) -> None:
        self._pending = pending
        self._most = most
        self._is_heavy = is_heavy
        self._is_over = is_over
        self._stir = stir
        self.refuses = refuses
        self._line = OrderedDict[Place, int]()  # in the order of coming
        self._coming: dict[Place, None] = {}  # that were asked to come, and have not joined yet
        self._order = count()
        self._hurried: dict[int, Place] = {}  # by their order, those in line that may not be held for ever
        self._deadlines = Deadlines(self._hurried.__contains__)
        self._looking = False
        self.overloaded: bool = False  # too many bytes waited to be packed when that was looked at last
        self._for_bytes = False  # there has been a line since

    @property
    def length(self) -> int:
        """Count those in line; from any thread."""
        return len(self._line)

    @property
    def room(self) -> int:
        """Count the calls that may still join, none below 0."""
        return 0 if self.overloaded else max(0, self._most - len(self._pending) - len(self._coming))

    @property
    def is_full(self) -> bool:
        """Tell whether as many calls are under way as may be."""
        return len(self._pending) + len(self._coming) >= self._most

    @property
    def is_crowded(self) -> bool:
        """Tell whether a call that comes now has to wait; asked for each call, so nothing else is called here."""
        return len(self._pending) + len(self._coming) >= self._most or self.overloaded or len(self._line) > 0

    def enter(self, place: Place, by: float = math.inf) -> None:
        """Have `come` called when there is room, which it holds until it is `joined`, or `late` at the time `by`.

        Raises `PoolFull` where nobody may wait.
        """
        if self.refuses and not self._is_over():
            raise PoolFull(_FULL)
        self._line[place] = order = next(self._order)
        if by < math.inf:
            self._hurried[order] = place
            self._deadlines.set(order, by)
            self._stir()
        self.look()

    def measure(self) -> None:
        """Look at the bytes that wait to be packed."""
        self.overloaded = self._is_heavy()
        self._for_bytes = self.overloaded or (self._for_bytes and len(self._line) > 0)

    def joined(self, place: Place) -> None:
        """Note that somebody who was asked to come has joined, or went away."""
        self._coming.pop(place, None)
        self.look()

    def look(self) -> None:
        """Ask those in line to come for whom there is room."""
        if self._looking:  # whoever was asked has joined already
            return
        self._looking = True
        try:
            while self._line and (self._may_come() or self._is_over()):
                place = next(iter(self._line))
                self._take_out(place)
                self._coming[place] = None
                place.come()
        finally:
            self._looking = False

    def _may_come(self) -> bool:
        """Tell whether there is room for one more; what one brings is weighed before another is asked."""
        if self._for_bytes:
            if self._coming:
                return False
            self.measure()
        return self.room > 0

    def leave(self, place: Place) -> None:
        """Take somebody out who went away, asked to come already or not."""
        if place in self._line:
            self._take_out(place)
        else:
            self.joined(place)

    def _take_out(self, place: Place) -> None:
        self._hurried.pop(self._line.pop(place), None)

    @property
    def deadline(self) -> float:
        """Give the time at which somebody in line may wait no longer; math.inf where nobody does."""
        return self._deadlines.next()

    def expire(self, now: float) -> None:
        """Tell those in line who may wait no longer, or some of them: others are due at once."""
        for order in self._deadlines.due(now, _AT_ONCE):
            place = self._hurried.get(order)  # one that goes may have let another come
            if place is not None:
                self._take_out(place)
                if place.late is not None:
                    place.late()

    def turn_away(self, error: CarpoolError) -> None:
        """Have the calls in line wait no longer, nor those join that were just asked to come."""
        for place in (*self._line, *self._coming):
            if place.turn_away is not None:
                if place in self._line:
                    self._take_out(place)
                self._coming.pop(place, None)
                place.turn_away(error)
        self.look()

    @asynccontextmanager
    async def turn(self, by: float = math.inf) -> AsyncGenerator[bool, None]:
        """Wait for room, and hold it in the block; False where the time `by` came first, and there is none.

        Raises the error by which it is turned away.
        """
        turn = _Turn()
        self.enter(turn, by)
        try:
            await turn.over.wait()
            if turn.error is not None:
                raise turn.error
            yield turn.has_room
        finally:
            self.leave(turn)


class _Turn(Place):
    """Hold the place of somebody who waits here."""

    __slots__ = ("error", "has_room", "over")

    def __init__(self) -> None:
        super().__init__(self._come, self._turn_away, self._go)
        self.over = anyio.Event()
        self.has_room = False
        self.error: CarpoolError | None = None

    def _come(self) -> None:
        self.has_room = True
        self._go()

    def _turn_away(self, error: CarpoolError) -> None:
        self.error = type(error)(*error.args)  # each has its own: a shared one would gather the tracebacks of all
        self._go()

    def _go(self) -> None:
        self.over.set()
