"""Whoever is accepted is settled once: with an answer, or with an error of its own."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Literal

from .errors import BudgetExceeded, CarpoolError
from .models import Response
from .spending import Budget
from .waiter import Settled

log = logging.getLogger("carpool")


class Callers:
    """Hold the callers that wait, by the numbers of their calls, and what they may cost together.

    `changed` hears of those that go unsettled.
    """

    def __init__(self, changed: Callable[[], None], budget: Budget | None = None) -> None:
        self._changed = changed
        self._budget = budget
        self._waiters: dict[int, Settled] = {}
        self._tags: dict[int, tuple[str, ...]] = {}
        self.answered = self.failed = 0
        self.by_tag = Counter[tuple[str, Literal["accepted", "answered", "failed"]]]()
        self.refusal: CarpoolError | None = None  # what later calls are told

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, number: int) -> bool:
        return number in self._waiters

    @property
    def are_bounded(self) -> bool:
        """Tell whether there is a budget."""
        return self._budget is not None

    def numbers(self) -> AbstractSet[int]:
        """Give the numbers of the calls that wait."""
        return self._waiters.keys()

    def admit(self) -> None:
        """Raise what later calls are told."""
        if self.refusal is not None:
            raise _copy(self.refusal)

    def afford(self, number: int, model: str, size: int, *, live: bool) -> None:
        """Reserve what a call may cost, or raise `BudgetExceeded`."""
        if self._budget is not None and (warning := self._budget.admit(number, model, size, live=live)):
            log.warning(warning)

    def cannot_afford(self, number: int, model: str, size: int, *, live: bool = False) -> BudgetExceeded | None:
        """Reserve what a call may cost, or say why it cannot be made."""
        try:
            self.afford(number, model, size, live=live)
        except BudgetExceeded as exc:
            return exc
        return None

    @property
    def are_out_of_money(self) -> bool:
        """Tell whether the whole budget is spent."""
        return self._budget is not None and self._budget.exceeded

    def add(self, number: int, waiter: Settled, tags: tuple[str, ...] = ()) -> None:
        """Remember what is to take the answer to a call, and the names under which it is counted."""
        self._waiters[number] = waiter
        if tags:
            self._tags[number] = tags
            for tag in tags:
                self.by_tag[tag, "accepted"] += 1

    def give(self, number: int, response: Response) -> bool:
        """Settle a call with an answer; gives whether its caller was still there."""
        self.answered += 1
        if self._tags:
            self._count(number, "answered")
        waiter = self._waiters.pop(number, None) if self._budget is None else self._take(number)
        if waiter is None or waiter.done():
            return False
        waiter.set_result(response)
        return True

    def refuse(self, number: int, error: CarpoolError) -> bool:
        """Settle a call with an error; gives whether its caller was still there."""
        self.failed += 1
        self._count(number, "failed")
        waiter = self._take(number)
        if waiter is None or waiter.done():
            return False
        waiter.set_exception(error)
        return True

    def expire(self, number: int, error: CarpoolError) -> None:
        """Settle a call that waits no longer; it is counted when its row ends."""
        self._tags.pop(number, None)
        waiter = self._waiters.pop(number)
        if not waiter.done():
            waiter.set_exception(error)

    def release(self, numbers: Iterable[int]) -> None:
        """Note that calls came to their end, and cost nothing any more; their callers had gone."""
        if self._budget is not None:
            for number in numbers:
                self._budget.settled(number)

    def rename(self, number: int, row: int) -> None:
        """Note that a call whose caller has gone is known by its row alone from now on."""
        if self._budget is not None and row != number:
            self._budget.rename(number, row)

    def _take(self, number: int) -> Settled | None:
        self.release((number,))
        return self._waiters.pop(number, None)

    def _count(self, number: int, end: Literal["answered", "failed"]) -> None:
        for tag in self._tags.pop(number, ()):
            self.by_tag[tag, end] += 1

    def refuse_all(self, error: CarpoolError) -> None:
        """Settle everybody with an error, and tell it to whoever comes later."""
        self.refusal = self.refusal or error
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_exception(_copy(error))
        self._changed()

    def leave(self, numbers: Iterable[int]) -> list[int]:
        """Note that callers have gone, and give those that were not settled."""
        gone = [number for number in numbers if self._waiters.pop(number, None) is not None]
        for number in gone:
            self._tags.pop(number, None)
        if gone:
            self._changed()
        return gone


def _copy(error: CarpoolError) -> CarpoolError:
    """Give everybody an error of their own: a shared one would gather the tracebacks of all."""
    return type(error)(*error.args)
