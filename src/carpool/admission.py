"""How many calls may be under way: whoever finds no room waits in line, in the order of coming, or is refused.

A stream waits for a slice of its requests, a `gather` for its next call: each holds one place in the line, so that
nobody's millions keep a single call waiting.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Sized
from itertools import count

import anyio

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
        self._line = OrderedDict[Place, None]()
        self._late: list[tuple[float, int, Place]] = []  # until when places may be held, the earliest first
        self._order = count()
        self._looking = False
        self._coming = 0  # that were asked to come, and have not joined yet
        self.overloaded: bool = False  # too many bytes waited to be packed when that was looked at last
        self._for_bytes = False  # there has been a line since

    @property
    def length(self) -> int:
        """Count those in line; from any thread."""
        return len(self._line)

    @property
    def room(self) -> int:
        """Count the calls that may still join, none below 0."""
        return 0 if self.overloaded else max(0, self._most - len(self._pending) - self._coming)

    @property
    def is_full(self) -> bool:
        """Tell whether as many calls are under way as may be."""
        return len(self._pending) + self._coming >= self._most

    @property
    def is_crowded(self) -> bool:
        """Tell whether a call that comes now has to wait; asked for each call, so nothing else is called here."""
        return len(self._pending) + self._coming >= self._most or self.overloaded or len(self._line) > 0

    def enter(self, place: Place, by: float = math.inf) -> None:
        """Have `come` called when there is room, which it holds until it is `joined`, or `late` at the time `by`.

        Raises `PoolFull` where nobody may wait.
        """
        if self.refuses and not self._is_over():
            raise PoolFull(_FULL)
        self._line[place] = None
        if by < math.inf:
            heapq.heappush(self._late, (by, next(self._order), place))
            self._stir()
        self.look()

    def measure(self) -> None:
        """Look at the bytes that wait to be packed."""
        self.overloaded = self._is_heavy()
        self._for_bytes = self.overloaded or (self._for_bytes and len(self._line) > 0)

    def joined(self) -> None:
        """Note that somebody who was asked to come has joined, or went away."""
        self._coming -= 1
        self.look()

    def look(self) -> None:
        """Ask those in line to come for whom there is room."""
        if self._looking:  # whoever was asked has joined already
            return
        self._looking = True
        try:
            while self._line and (self._may_come() or self._is_over()):
                place, _ = self._line.popitem(last=False)
                self._coming += 1
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
            del self._line[place]
        else:
            self.joined()

    @property
    def deadline(self) -> float:
        """Give the time at which somebody in line may wait no longer; math.inf where nobody does."""
        while self._late and self._late[0][2] not in self._line:
            heapq.heappop(self._late)
        return self._late[0][0] if self._late else math.inf

    def expire(self, now: float) -> None:
        """Tell those in line who may wait no longer, or some of them: others are due at once."""
        for _ in range(_AT_ONCE):
            if self.deadline > now:
                return
            _, _, place = heapq.heappop(self._late)
            del self._line[place]
            if place.late is not None:
                place.late()

    def turn_away(self, error: CarpoolError) -> None:
        """Have the calls in line wait no longer."""
        for place in list(self._line):
            if place.turn_away is not None:
                del self._line[place]
                place.turn_away(error)

    async def turn(self, by: float = math.inf) -> bool:
        """Wait for room, which is held until `joined`, at once when this returns; False where the time `by` came first.

        Raises the error by which it is turned away.
        """
        turn = _Turn()
        self.enter(turn, by)
        try:
            await turn.over.wait()
        except BaseException:
            if turn in self._line or turn.has_room:
                self.leave(turn)
            raise
        if turn.error is not None:
            raise turn.error
        return turn.has_room


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
