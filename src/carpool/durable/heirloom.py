"""What was submitted to processes that have died: followed from now on, and asked for again."""

import logging
from collections.abc import Callable, Collection, Container, Iterable, Sequence

from ..callers import Callers
from ..clock import Clock
from ..engine.events import Accepted, Asked, Event, Outstanding
from ..errors import ResultMissing
from ..journal import Stamped
from .submissions import Submissions

log: logging.Logger = logging.getLogger("carpool")

_GONE = "The journal tells of the submission, and no longer of its request. Submit it again."


class Heirloom:
    """Ask again for submissions that were taken over; `feed` tells the engine of it.

    `running` says which rows are in batches that were created. What there is no money for waits, and is tried again.
    """

    def __init__(
        self,
        submissions: Submissions,
        callers: Callers,
        feed: Callable[[Event], None],
        running: Callable[[Collection[int]], Collection[int]],
        clock: Clock,
    ) -> None:
        self._submissions = submissions
        self._standing = submissions.standing
        self._callers = callers
        self._feed = feed
        self._running = running
        self._clock = clock
        self._rows: list[int] = []
        self._weights: dict[int, tuple[str, int]] = {}  # models and bytes, where there is a budget
        self._missing: Collection[int] = ()

    def remember(self, told: Sequence[Stamped]) -> None:
        """Follow submissions of an earlier time, from all that is told of it."""
        accepted = [fact for _, fact in told if isinstance(fact, Accepted)]
        for _, fact in told:
            if isinstance(fact, Outstanding):
                self._submissions.follow(fact.ended, fact.open)
                self._rows += fact.open
                for row, tags in fact.tags.items():
                    self._callers.tag(row, tags)
                self._set_timeouts(fact, accepted)
        if self._callers.are_bounded:
            rows = frozenset(self._rows)
            self._weights |= {row: (fact.lane.model, size) for fact, row, size in _among(accepted, rows)}

    def _set_timeouts(self, outstanding: Outstanding, accepted: Iterable[Accepted]) -> None:
        endpoints = {row: fact.lane.endpoint for fact, row, _ in _among(accepted, outstanding.until)}
        for row, written_until in outstanding.until.items():
            until = self._clock.read(written_until)
            self._submissions.timeouts.set(row, endpoints.get(row, ""), until, until - self._clock.now())

    def ask_again(self) -> None:
        """Have what is not answered sent, now that all is told; what is under way goes on by itself."""
        if not self._rows:
            return
        rows = [row for row in self._rows if self._standing.is_open(row)]
        asked = self._affordable(rows)
        self._rows = [] if len(asked) == len(rows) else sorted({*rows}.difference(asked))
        if asked:
            self._missing = ()
            self._feed(Asked(tuple(asked)))
            self._submissions.fail([*self._missing], ResultMissing(_GONE))

    def anew(self, rows: Collection[int]) -> None:
        """Hear from the engine that it has no such rows."""
        self._missing = rows

    def _affordable(self, rows: list[int]) -> list[int]:
        if not self._callers.are_bounded:
            return rows
        running = self._running(rows)
        paid = [row for row in rows if row in running or self._afford(row)]
        if len(paid) < len(rows):
            log.warning(
                "%d submissions of an earlier time wait: the budget does not allow for them", len(rows) - len(paid)
            )
        return paid

    def _afford(self, row: int) -> bool:
        model, size = self._weights.get(row, ("", 0))
        return self._callers.cannot_afford(row, model, size) is None


def _among(accepted: Iterable[Accepted], rows: Container[int]) -> "Iterable[tuple[Accepted, int, int]]":
    """Give those rows of facts that are among these, each with its fact and its bytes."""
    return (
        (fact, row, size)
        for fact in accepted
        for row, size in zip(fact.run.rows, fact.run.sizes, strict=True)
        if row in rows
    )
