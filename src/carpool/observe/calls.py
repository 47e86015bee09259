"""Calls, as a hook is told of them: each is accepted once, and comes to one end."""

from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from itertools import islice

import msgspec

from ..errors import CarpoolError
from ..event import Event, Kind, Source
from ..models import Encoded, Lane, Response, Row, Usage
from ..options import Options
from ..prices import Prices
from .teller import Teller

_KEPT = "The submission is kept: the next process goes on with it."
_MOST = 1_000  # characters of a message: a provider's may quote what it was sent


class _Call(msgspec.Struct, gc=False):
    lane: Lane
    at: float
    tags: tuple[str, ...]
    row: int
    source: Source
    kept: bool  # a submission: it outlives the pool


class Money:
    """Say what answers cost; what was sent live is paid for in full, unless it is `flexible`."""

    def __init__(self, usage: Callable[[Row], Usage | None], prices: Prices, *, flexible: bool) -> None:
        self._usage = usage
        self._prices = prices
        self._flexible = flexible

    def usage(self, content: bytes) -> Usage | None:
        """Give the tokens that a body says."""
        return self._usage(Row("", 0, "", content))

    def cost(self, model: str, usage: Usage | None, source: Source) -> float | None:
        """Give the price in USD; None where it is not known, 0 for what was paid for at an earlier time."""
        if source == "journal":
            return 0.0
        price = None if usage is None else self._prices.of(model)
        if usage is None or price is None:
            return None
        return price.of(usage, live=source == "live" and not self._flexible)


class CallsSeen:
    """Tell of calls; `pool` prefixes their custom_ids, `spent` hears what the answers of a batch cost."""

    def __init__(
        self,
        pool: str,
        teller: Teller,
        now: Callable[[], float],
        money: Money,
        spent: Callable[[str, Usage | None, float | None], None],
    ) -> None:
        self._pool = pool
        self._teller = teller
        self._now = now
        self._money = money
        self._spent = spent
        self._calls: dict[int, _Call] = {}  # that have come to no end
        self._lanes: dict[Lane, Lane] = {}  # one of each: there may be a million calls

    # --- coming

    def accepted(
        self,
        number: int,
        call: Encoded,
        options: Options,
        context: Context | None,
        *,
        long: bool,
        live: bool,
        kept: bool = False,
    ) -> None:
        """Tell of a call that was accepted, where its caller's context is in force, or is `context`.

        One that is `kept` is a submission, which goes on after the pool.
        """
        lane = Lane(call.endpoint, call.model, long, options.priority)
        lane = self._lanes.setdefault(lane, lane)
        now, tags = self._now(), options.tags
        self._calls[number] = _Call(lane, now, tags, number, "live" if live else "batch", kept)
        event = Event("accepted", now, self._pool, lane=lane, call=number, custom_id=self._id(number), tags=tags)
        self._teller.tell(event, context)

    def resumed(self, number: int, row: int, batch_id: str | None, *, answered: bool) -> None:
        """Tell of a call that takes a request of an earlier time, which is answered, or under way."""
        source: Source = "journal" if answered else "batch"
        self._follow("resumed", number, row, batch_id=batch_id, source=source)

    def joined(self, number: int, row: int) -> None:
        """Tell of a call that was looked for in vain, and joins its lane."""
        self._follow("joined", number, row, source="batch")

    def _follow(self, kind: Kind, number: int, row: int, *, source: Source, batch_id: str | None = None) -> None:
        call = self._calls.get(number)
        if call is not None:
            call.row, call.source = row, source
            said = source if kind == "resumed" else None
            self._tell(kind, number, call, custom_id=self._id(row), batch_id=batch_id or None, source=said)

    # --- going

    def answered(self, number: int, response: Response, lane: Lane | None) -> None:
        """Tell of an answer; `lane` is that of the row it came in, None where it is only its caller's."""
        call = self._calls.pop(number, None)
        lane = lane if call is None else call.lane
        if lane is None:
            return
        source: Source = "batch" if response.batch_id else "live"
        source = "journal" if call is not None and call.source == "journal" else source
        usage = self._money.usage(response.content)
        cost = self._money.cost(lane.model, usage, source)
        if source == "batch":
            self._spent(response.batch_id, usage, cost)
        self._tell(
            "answered",
            number,
            call,
            lane=lane,
            custom_id=response.custom_id or self._id(number),
            batch_id=response.batch_id or None,
            status_code=response.status_code,
            source=source,
            usage=usage,
            cost=cost,
        )

    def failed(self, number: int, error: CarpoolError, lane: Lane | None, kind: Kind = "failed") -> None:
        """Tell of a call, or of a row that nobody awaits, that ends with an error."""
        call = self._calls.pop(number, None)
        lane = lane if call is None else call.lane
        custom_id: str | None = getattr(error, "custom_id", None)
        if lane is None and custom_id is None:  # it had ended
            return
        self._tell(
            kind,
            number,
            call,
            str(getattr(error, "message", None) or error)[:_MOST],
            lane=lane,
            custom_id=custom_id or self._id(number if call is None else call.row),
            batch_id=getattr(error, "batch_id", None),
            status_code=getattr(error, "status_code", None),
            code=getattr(error, "code", None),
            error=type(error).__name__,
        )

    def failed_all(self, error: CarpoolError) -> None:
        """Tell of all calls that they end with an error, but for submissions, which the next process goes on with."""
        while self._calls:
            self.failed_some(error, len(self._calls))

    def failed_some(self, error: CarpoolError, most: int) -> bool:
        """Tell it of so many at most; gives whether there are others."""
        for number in [*islice(self._calls, most)]:
            call = self._calls.get(number)
            if call is not None and call.kept:
                self.left((number,), _KEPT)
            elif call is not None:  # or a hook that looked at the pool had it told
                self.failed(number, error, None)
        return bool(self._calls)

    def left(self, numbers: Iterable[int], message: str = "") -> None:
        """Tell of callers that went, or of a pool that leaves what it was to keep."""
        for number in numbers:
            call = self._calls.pop(number, None)
            if call is not None:
                self._tell("left", number, call, message, custom_id=self._id(call.row))

    def taken_back(self, rows: Iterable[int]) -> None:
        """Tell of answers that reached nobody."""
        for row in rows:
            self._teller.tell(Event("taken_back", self._now(), self._pool, custom_id=self._id(row)))

    def billed(self, batch_id: str, lane: Lane, rows: Sequence[Row]) -> None:
        """Tell of answers that were paid for, and that nobody needed any more."""
        source: Source = "batch" if batch_id else "live"
        for row in rows:
            usage = self._money.usage(row.body)
            cost = self._money.cost(lane.model, usage, source)
            if batch_id:
                self._spent(batch_id, usage, cost)
            event = Event(
                "billed",
                self._now(),
                self._pool,
                lane=lane,
                custom_id=row.custom_id,
                batch_id=batch_id or None,
                source=source,
                usage=usage,
                cost=cost,
            )
            self._teller.tell(event)

    # --- telling

    def _id(self, row: int) -> str:
        return f"{self._pool}-{row}"

    def _tell(self, kind: Kind, number: int, call: _Call | None, message: str = "", **more: object) -> None:
        now = self._now()
        if call is not None:
            more = {"lane": call.lane, "call": number, "tags": call.tags, **more}
            if kind not in ("resumed", "joined"):
                more["seconds"] = now - call.at
        self._teller.tell(Event(kind, now, self._pool, message, **more))  # type: ignore[arg-type]  # by their names
