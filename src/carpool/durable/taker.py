"""What one who iterates is given, when it asks."""

from collections import deque
from collections.abc import Callable, Sequence

from ..errors import CarpoolError, JournalError
from ..models import Response
from ..outcomes import Outcome
from .kept import Kept
from .receipt import Received
from .submissions import Submissions

_AT_ONCE = 32  # outcomes read at once, so that several who iterate have their shares


class Taker:
    """Lay outcomes out in `out`, from which any thread may take them; what is not acked goes back when it leaves.

    `post` has something done in the pool's event loop, and `catch_up` all that was posted so far.
    """

    def __init__(
        self,
        submissions: Submissions,
        kept: Kept,
        catch_up: Callable[[], None],
        post: Callable[[Callable[[], object]], None],
    ) -> None:
        self._submissions = submissions
        self._kept = kept
        self._catch_up = catch_up
        self._post = post
        self.out: deque[Outcome] = deque()
        self._given: set[int] = set()
        self._count = 0
        self._left = False

    async def ready(self) -> bool:
        """Wait for outcomes, and lay some out; false when there will be none. Raises what ended the pool."""
        self._catch_up()  # others may have left
        while not self.out and not self._left:
            rows = await self._submissions.take(_AT_ONCE, lambda: self._left)
            if not rows:
                return False
            self._given.update(rows)
            try:
                outcomes = [self._outcome(*read) for read in await self._kept.read(rows)]
            except BaseException as exc:
                self._give_back(rows)
                if isinstance(exc, JournalError) and self._submissions.is_over:
                    return False
                raise
            self._give_back(rows[len(outcomes) :])
            if self._submissions.is_over:  # meanwhile
                return False
            if not self._left:  # or else all was given back
                self.out.extend(outcomes)
        return not self._left

    @property
    def is_over(self) -> bool:
        """Tell whether the pool was closed: what is laid out would be acked in vain. Raises what ended it otherwise."""
        return self._submissions.is_over

    def leave(self) -> None:
        """Let others have what is not acked."""
        self._left = True
        self.out.clear()
        self._give_back(sorted(self._given))

    def _give_back(self, rows: Sequence[int]) -> None:
        self._given.difference_update(rows)
        self._submissions.put_back(rows)

    def ack(self, row: int, answered: bool) -> None:
        """Note that somebody has taken care of an outcome; from any thread."""
        try:
            self._post(lambda: self._ack(row, answered))
        except RuntimeError:  # the event loop is over
            self._ack(row, answered)

    def _ack(self, row: int, answered: bool) -> None:
        self._given.discard(row)
        self._submissions.ack(row, answered=answered)

    def _outcome(self, row: int, key: str | None, came: Response | CarpoolError) -> Outcome:
        custom_id = self._submissions.custom_id(row)
        answered = isinstance(came, Response)
        response, error = (came, None) if isinstance(came, Response) else (None, came)
        index, self._count = self._count, self._count + 1
        return Received(index, None, response, error, key, custom_id, receipt=lambda: self.ack(row, answered))
