"""How many calls may be under way: whoever finds no room waits in line, in the order of coming, or is refused.

A stream waits for a slice of its requests, a `gather` for its next call: each holds one place in the line, so that
nobody's millions keep a single call waiting.
"""

from collections import OrderedDict
from collections.abc import Callable, Sized

import anyio

from .errors import PoolFull

_FULL = "As many calls are under way as max_pending and max_spool allow. Ask again later, or raise these."


class Admission:
    """Let calls in while fewer than `most` are `pending`, and not too many bytes wait to be packed, as `is_heavy` says.

    Those in line are asked to come in their order, one by one where it is for the bytes that they wait. With `refuses`
    nobody waits. `is_over` says that nothing is let in any more: whoever waits is asked to come, and to hear why. All
    methods belong to the pool's event loop, but for `length`.
    """

    def __init__(
        self,
        pending: Sized,
        most: int,
        is_heavy: Callable[[], bool],
        is_over: Callable[[], bool],
        *,
        refuses: bool,
    ) -> None:
        self._pending = pending
        self._most = most
        self._is_heavy = is_heavy
        self._is_over = is_over
        self.refuses = refuses
        self._line = OrderedDict[Callable[[], object], None]()
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

    def enter(self, come: Callable[[], object]) -> None:
        """Have `come` called when there is room, which it holds until it is `joined`; raises `PoolFull` if refused."""
        if self.refuses and not self._is_over():
            raise PoolFull(_FULL)
        self._line[come] = None
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
                come, _ = self._line.popitem(last=False)
                self._coming += 1
                come()
        finally:
            self._looking = False

    def _may_come(self) -> bool:
        """Tell whether there is room for one more; what one brings is weighed before another is asked."""
        if self._for_bytes:
            if self._coming:
                return False
            self.measure()
        return self.room > 0

    def leave(self, come: Callable[[], object]) -> None:
        """Take somebody out who went away, asked to come already or not."""
        if come in self._line:
            del self._line[come]
        else:
            self.joined()

    async def turn(self) -> None:
        """Wait for room, which is held until `joined`, at once when this returns."""
        asked = anyio.Event()
        come = asked.set
        self.enter(come)
        try:
            await asked.wait()
        except BaseException:
            self.leave(come)
            raise
