"""Whoever is accepted is settled once: with an answer, or with an error of its own."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice, repeat
from typing import Literal, TypeAlias

from .errors import BudgetExceeded, CarpoolError
from .models import Lane, Response
from .naming import shard_of
from .observe import CallsSeen
from .spans import Sink, Spans
from .spending import Budget
from .waiter import Settled

log: logging.Logger = logging.getLogger("carpool.callers")


Delivery: TypeAlias = Literal[True, False, "going"]
_AT_ONCE = 1_000  # a millisecond or two of the event loop
_TOLD = 200  # calls that a hook is told of at once, which takes ten times as long
GOING: Literal["going"] = "going"  # the caller of an answer that came just when it left


class Callers:
    """Hold the callers that wait, by the numbers of their calls, and what they may cost together.

    `changed` hears of those that go unsettled. Their numbers are of the `shard`; what ends of another process's counts
    only where somebody waits for it here. `seen` is told of each, where somebody looks on.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        budget: Budget | None = None,
        shard: int = 0,
        seen: CallsSeen | None = None,
    ) -> None:
        self.seen = seen
        self._changed = changed
        self._budget = budget
        self._shard = shard
        self._waiters: dict[int, Settled] = {}
        self._spans = Spans()  # of the calls that streams made
        self._tags: dict[int, tuple[str, ...]] = {}
        self._let_go: set[int] = set()  # rows whose callers were told that they are out of reach
        self.answered: int = 0
        self.failed: int = 0
        self.by_tag: Counter[tuple[str, Literal["accepted", "answered", "failed"]]] = Counter()
        self._refusal: CarpoolError | None = None

    def __len__(self) -> int:
        return len(self._waiters) + self._spans.waiting

    def __contains__(self, number: int) -> bool:
        return number in self._waiters or (self._spans.waiting > 0 and number in self._spans)

    def awaits(self, number: int) -> bool:
        """Tell whether somebody waits for a call, and is not just going."""
        waiter = self._waiters.get(number)
        return number in self._spans if waiter is None else not waiter.done()

    @property
    def are_tagged(self) -> bool:
        """Tell whether any call that waits has tags."""
        return len(self._tags) > 0

    def tags_of(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Name the tags of calls that wait, each once, in the order of the calls."""
        return tuple(dict.fromkeys(tag for number in numbers for tag in self._tags.get(number, ())))

    @property
    def are_bounded(self) -> bool:
        """Tell whether there is a budget."""
        return self._budget is not None

    @property
    def refusal(self) -> CarpoolError | None:
        """Give what later calls are told, None while calls are taken."""
        return self._refusal

    @refusal.setter
    def refusal(self, error: CarpoolError | None) -> None:
        self._refusal = error
        self._changed()  # whoever waits for room is to hear of it

    def admit(self) -> None:
        """Raise what later calls are told."""
        if self._refusal is not None:
            raise _copy(self._refusal)

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

    def afford_live(self, number: int, row: int, model: str, size: int, *, rides: bool, flexible: bool) -> bool:
        """Reserve what it costs to send the row of a call live, until it has `landed`; False where that is too much."""
        if self._budget is None:
            return True
        return self._budget.escalate(number, row, model, size, rides=rides, flexible=flexible)

    def landed(self, row: int, *, rides: bool) -> None:
        """Note that a live call came to its end, whose batch may yet bill its row too where it `rides`."""
        if self._budget is not None:
            self._budget.landed(row, rides=rides)

    @property
    def copies(self) -> Collection[int]:
        """Give the rows that were answered live, and that their batches may bill too, where there is a budget."""
        return () if self._budget is None else self._budget.copies

    def keep_copies(self, rows: Collection[int]) -> None:
        """Note that of these rows those alone are still in batches."""
        if self._budget is not None:
            self._budget.keep_copies(rows)

    @property
    def are_out_of_money(self) -> bool:
        """Tell whether the whole budget is spent."""
        return self._budget is not None and self._budget.exceeded

    def add(self, number: int, waiter: Settled, tags: tuple[str, ...] = ()) -> None:
        """Remember what is to take the answer to a call, and the names under which it is counted."""
        self._waiters[number] = waiter
        if tags:
            self.tag(number, tags)

    def add_streamed(self, first: int, indices: Sequence[int], sink: Sink, tags: tuple[str, ...] = ()) -> None:
        """Remember which stream is to take the answers to calls, and the positions of their requests there."""
        if indices[-1] - indices[0] == len(indices) - 1:
            self._spans.add(first, indices[0], sink, len(indices))
        else:
            for number, index in enumerate(indices, first):
                self._spans.add(number, index, sink)
        self.tag(first, tags)

    def untag(self, numbers: Iterable[int]) -> None:
        """Note that calls have ended that are not counted under their names any more."""
        for number in numbers:
            self._tags.pop(number, None)

    def tag(self, number: int, tags: tuple[str, ...]) -> None:
        """Remember the names under which a call is counted."""
        if tags:
            self._tags[number] = tags
            for tag in tags:
                self.by_tag[tag, "accepted"] += 1

    def give_all(
        self, numbers: Sequence[int], responses: Sequence[Response], lane: Lane | None = None
    ) -> Sequence[Delivery]:
        """Settle calls with answers; see `give`."""
        if self._tags or self._budget is not None or self.seen is not None:
            return [*map(self.give, numbers, responses, repeat(lane))]
        given: Sequence[Delivery] = (
            [*map(self._give, numbers, responses)] if self._waiters else self._spans.settle(numbers, responses)
        )
        self.answered += len(numbers) if all(given) else sum(map(self._counts, numbers, given))
        return given

    def give(self, number: int, response: Response, lane: Lane | None = None) -> Delivery:
        """Settle a call with an answer, in a row of the lane; gives whether its caller was still there, or is going."""
        if self._tags:
            self._count(number, "answered")
        self._release(number)
        given = self._give(number, response)
        self.answered += self._counts(number, given)
        if self.seen is not None:
            self.seen.answered(number, response, lane)
        return given

    def _give(self, number: int, response: Response) -> Delivery:
        waiter = self._waiters.pop(number, None)
        if waiter is None:
            return self._spans.settle((number,), (response,))[0]
        if waiter.done():
            return GOING
        waiter.set_result(response)
        return True

    def _counts(self, number: int, given: Delivery) -> bool:
        if given is not False:
            return True
        if number in self._let_go:  # it was counted
            self._let_go.discard(number)
            return False
        return shard_of(number) == self._shard

    def refuse(self, number: int, error: CarpoolError, lane: Lane | None = None) -> Delivery:
        """Settle a call with an error; gives whether its caller was still there, or is going."""
        self._count(number, "failed")
        self._release(number)
        told = self._tell(number, error)
        self.failed += self._counts(number, told)
        if self.seen is not None:
            self.seen.failed(number, error, lane)
        return told

    def expire(self, number: int, error: CarpoolError) -> None:
        """Settle a call that waits no longer; it is counted when its row ends."""
        self._tags.pop(number, None)
        self._tell(number, error)
        if self.seen is not None:
            self.seen.failed(number, error, None, "expired")

    def let_go(self, number: int, row: int, error: CarpoolError) -> None:
        """Settle a call with an error whose row may be answered yet; what it may cost is reserved until then."""
        self._count(number, "failed")
        self._tell(number, error)
        self.failed += 1
        self._let_go.add(row)
        if self.seen is not None:
            self.seen.failed(number, error, None)

    def _tell(self, number: int, error: CarpoolError) -> Delivery:
        waiter = self._waiters.pop(number, None)
        if waiter is None:
            return self._spans.settle((number,), (error,))[0]
        if waiter.done():
            return GOING
        waiter.set_exception(error)
        return True

    def release(self, numbers: Iterable[int]) -> None:
        """Note that calls came to their end, and cost nothing any more; their callers had gone."""
        if self._let_go:
            numbers = [*numbers]
            self._let_go.difference_update(numbers)
        if self._budget is not None:
            for number in numbers:
                self._budget.settled(number)

    def _release(self, number: int) -> None:
        if self._budget is not None:
            self._budget.settled(number)

    def rename(self, number: int, row: int) -> None:
        """Note that a call whose caller has gone is known by its row alone from now on; or by another that takes it."""
        if row != number:
            self._let_go.discard(number)
            if self._budget is not None:
                self._budget.rename(number, row)

    def is_paid_for(self, row: int) -> bool:
        """Tell whether money is reserved for a row, or none has to be."""
        return self._budget is None or row in self._budget

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
        self._end_streams(error)
        if self.seen is not None:
            self.seen.failed_all(error)
        self._changed()

    def _end_streams(self, error: CarpoolError) -> None:
        for sink in self._spans.clear():
            sink.end(_copy(error))

    def refuse_some(self, error: CarpoolError) -> bool:
        """Settle some with an error, and tell it to whoever comes later; gives whether `refuse_all` has much to do."""
        self.refusal = self.refusal or error
        self._end_streams(error)  # before they leave by themselves, all at once
        for number in [*islice(self._waiters, _AT_ONCE if self.seen is None else _TOLD)]:
            waiter = self._waiters.pop(number, None)
            if waiter is None:  # a hook that looked at the pool had it settled
                continue
            if not waiter.done():
                waiter.set_exception(_copy(error))
            if self.seen is not None:
                self.seen.failed(number, error, None)
        if self.seen is None:
            return len(self._waiters) > _AT_ONCE
        return len(self._waiters) > 0 or self.seen.failed_some(error, _TOLD)

    def leave(self, numbers: Iterable[int]) -> list[int]:
        """Note that callers have gone, and give those that were not settled."""
        gone = [number for number in numbers if self._forget(number)]
        self.untag(gone)
        if self.seen is not None:
            self.seen.left(gone)
        if gone:
            self._changed()
        return gone

    def _forget(self, number: int) -> bool:
        return self._waiters.pop(number, None) is not None or self._spans.forget(number)

    def numbers_of(self, sink: Sink) -> list[int]:
        """Give the numbers of the calls that a stream waits for."""
        return self._spans.numbers_of(sink)


def _copy(error: CarpoolError) -> CarpoolError:
    """Give everybody an error of their own: a shared one would gather the tracebacks of all."""
    return type(error)(*error.args)
