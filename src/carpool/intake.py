"""Where calls come in, and callers go: the callers' path, on which nothing is awaited and nobody is waited for."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

from .callers import Callers
from .config import Escalate
from .deadlines import Deadlines, margin, may_escalate
from .errors import CarpoolError, RequestExpired
from .limits import LONG, Limits
from .live import Live
from .models import Body, Encoded
from .options import PLAIN, Options
from .providers import Provider
from .resume import Deferred, Resumption, digest_of
from .spans import Sink
from .spool import Lines, Spool
from .waiter import Settled, Waiter

_TIMED_OUT = (
    "The call's timeout ended before its answer came. If it was packed into a batch, it runs on, and is billed."
)


Streamed: TypeAlias = tuple[int, Encoded, Options]  # a call of a stream, and its position there

_SOON = 1.0  # seconds, in which a call is found in the journal, or not


class Intake:
    """Take calls in; what has gathered is taken further by the collector, which `stir` wakes.

    Calls are numbered from behind `numbered`; `now` tells the time, in seconds on the pool's clock. Where there is a
    journal, a `resumption` says which calls are of an earlier time.
    """

    def __init__(
        self,
        provider: Provider,
        new_waiter: Callable[[], Waiter],
        callers: Callers,
        spool: Spool,
        limits: Limits,
        live: Live,
        numbered: int,
        now: Callable[[], float],
        stir: Callable[[], None],
        escalate: Escalate | None,
    ) -> None:
        self._provider = provider
        self._new_waiter = new_waiter
        self._callers = callers
        self._spool = spool
        self._limits = limits
        self._live = live
        self._now = now
        self._stir = stir
        self._deadlines = Deadlines(callers.__contains__)
        self._escalate = escalate
        self._bounded = callers.are_bounded
        self._near = Deadlines(callers.__contains__)  # from when on there is no time to wait for a batch
        self.resumption: Resumption | None = None
        self.sought: set[int] = set()  # calls that are being looked for
        self.accepted = 0
        self._newest = numbered  # number of the row that joined last
        self._given = numbered  # number that was given last, to a call or to a row
        self._deferred: list[Deferred] = []
        self._gone: set[int] = set()  # rows that nobody awaits any more
        self._stirred = False

    # --- coming

    def accept(self, endpoint: str, body: Body, options: Options = PLAIN) -> tuple[int, Waiter]:
        """Let a call join its lane; gives its number and what to await."""
        self._callers.admit()
        call = self.encode(endpoint, body)
        waiter = self._new_waiter()
        return self.join(call, options, waiter), waiter

    def encode(self, endpoint: str, body: Body) -> Encoded:
        """Check a call and encode it; from any thread."""
        return self._provider.encode(endpoint, body)

    def join(self, call: Encoded, options: Options, waiter: Settled) -> int:
        """Let a call join its lane, to be settled by `waiter`; gives its number."""
        self._callers.admit()
        number = self._number(call, options)
        self._callers.add(number, waiter, options.tags)
        self._begin(number, call, options)
        return number

    def join_streamed(self, calls: Sequence[Streamed], sink: Sink) -> None:
        """Let calls join their lanes, to be settled by the stream whose requests they are."""
        self._callers.admit()
        if self._bounded or self._looks or self._live.everything or not all(map(_is_plain, calls)):
            for index, call, options in calls:
                try:
                    number = self._number(call, options)
                except CarpoolError as exc:
                    sink.settle([(index, exc)])
                else:
                    self._callers.add_streamed(number, [index], sink, options.tags)
                    self._begin(number, call, options)
        elif calls:
            self._join_together(calls, sink)
            self._wake()

    def _join_together(self, calls: Sequence[Streamed], sink: Sink) -> None:
        """Let calls join of which nothing is asked but an answer: what can be done for all at once is."""
        self._callers.add_streamed(self._given + 1, [index for index, _, _ in calls], sink)
        number = self._given
        lanes: dict[tuple[str, str, bool, int], Lines] = {}
        for _, call, options in calls:
            number += 1
            endpoint, model, body = call.endpoint, call.model, call.body
            long = len(body) > LONG and self._limits.is_long(model, len(body))
            lane = endpoint, model, long, options.priority
            lines = lanes.get(lane)
            if lines is None:
                lines = lanes[lane] = Lines([], [], [], [])
            lines.numbers.append(number)
            lines.bodies.append(body)
            lines.inputs.append(call.inputs)
            if self.resumption is not None:
                lines.digests.append(digest_of(endpoint, body, options.key))
        self._given = self._newest = number
        self.accepted += len(calls)
        for lane, lines in lanes.items():
            self._spool.add_all(lane, lines)

    def _number(self, call: Encoded, options: Options) -> int:
        """Give a call its number, if there is money for it."""
        number = self._given + 1
        live = options.live or self._live.everything
        if self._bounded and (live or not self._looks):
            self._callers.afford(number, call.model, len(call.body), live=live)
        self.accepted += 1
        self._given = number
        return number

    def _begin(self, number: int, call: Encoded, options: Options) -> None:
        live = options.live or self._live.everything
        if live:
            self._live.begin(number, call)
        else:
            self._collect(number, call, options)
        if options.timeout is not None:
            self._set_deadline(number, call.endpoint, options.timeout, live=live)
        self._wake()

    def _wake(self) -> None:
        if not self._stirred:
            self._stirred = True
            self._stir()

    def _set_deadline(self, number: int, endpoint: str, timeout: float, *, live: bool) -> None:
        at = self._now() + timeout
        self._deadlines.set(number, at)
        if not live and self._escalate is not None and may_escalate(endpoint, self._escalate):
            self._near.set(number, at - margin(timeout, self._escalate))

    def _collect(self, number: int, call: Encoded, options: Options) -> None:
        endpoint, model, body, inputs = call.endpoint, call.model, call.body, call.inputs
        long = len(body) > LONG and self._limits.is_long(model, len(body))
        priority = options.priority
        if self.resumption is None:
            self._spool.add(endpoint, model, number, body, inputs, long=long, priority=priority)
            return
        digest = digest_of(endpoint, body, options.key)
        if self.resumption.looks:
            self._deferred.append(Deferred(number, endpoint, model, body, inputs, long, priority, digest))
        else:
            self._newest = number
            self._spool.add(endpoint, model, number, body, inputs, long=long, priority=priority, digest=digest)

    @property
    def _looks(self) -> bool:
        """Tell whether a call may be one of an earlier time, which costs nothing."""
        return self.resumption is not None and self.resumption.looks

    def accept_unknown(self, call: Deferred) -> None:
        """Let a call join that was looked for in vain, if there is money for it."""
        self.sought.discard(call.number)
        error = self._callers.cannot_afford(call.number, call.model, len(call.body))
        if error is None:
            self.accept_anew(call)
        else:
            self._callers.refuse(call.number, error)

    def accept_anew(self, call: Deferred) -> None:
        """Let a call join its lane that is none of an earlier time; its row is numbered behind those before it."""
        row = call.number
        if row < self._newest:
            assert self.resumption is not None  # noqa: S101 - it looked for the call, while later ones joined
            self._given += 1
            row = self._given
            self.resumption.attach(call.number, row)
        self._newest = row
        self._spool.add(
            call.endpoint,
            call.model,
            row,
            call.body,
            call.inputs,
            long=call.long,
            priority=call.priority,
            digest=call.digest,
        )

    # --- going

    def leave(self, numbers: Iterable[int]) -> None:
        """Note that the callers of these numbers are gone; those that were settled do not count."""
        self._give_up(self._callers.leave(numbers))

    def _give_up(self, numbers: Collection[int]) -> None:
        gone = self._live.leave(numbers)
        if gone:
            rows = gone if self.resumption is None else self.resumption.leave(gone)
            for number, row in zip(gone, rows, strict=True):
                self._callers.rename(number, row)
            self._gone.update(rows)
            self._stir()

    def take_back(self, custom_ids: Iterable[str]) -> None:
        """Note that answers never reached the callers that they were given to."""
        self.take_back_rows([int(custom_id.rpartition("-")[2]) for custom_id in custom_ids if custom_id])

    def take_back_rows(self, rows: Sequence[int]) -> None:
        """Note that answers in these rows never reached the callers that they were given to."""
        if self.resumption is not None:
            self.resumption.take_back(rows)

    def expire(self) -> None:
        """Give up the calls whose timeouts are over."""
        due = self._deadlines.due(self._now())
        for number in due:
            self._callers.expire(number, RequestExpired(_TIMED_OUT))
        self._give_up(due)

    def take_hurried(self) -> frozenset[int]:
        """Take out the rows whose timeouts come so near that they are to be sent live; not what is being looked for."""
        due = self._near.due(self._now())
        for number in self.sought.intersection(due):
            self._near.set(number, self._now() + _SOON)
        due = [number for number in due if number not in self.sought]
        return frozenset(due if self.resumption is None else self.resumption.rows(due))

    def is_awaited(self, row: int) -> bool:
        """Tell whether somebody waits for a row."""
        return self._callers.awaits(row if self.resumption is None else self.resumption.number(row))

    @property
    def deadline(self) -> float:
        """Give the time at which the next timeout is over, or near; math.inf where there is none."""
        return min(self._deadlines.next(), self._near.next())

    @property
    def unknown(self) -> int:
        """Count the calls of which it is not known yet whether they are of an earlier time."""
        return len(self._deferred) + len(self.sought)

    @property
    def unwritten(self) -> int:
        """Give the bytes of the lines that are to be written."""
        return self._spool.unwritten

    # --- what has gathered

    def take_deferred(self) -> list[Deferred]:
        """Take out the calls that are to be looked for; what comes from now on wakes the collector again."""
        self._stirred = False
        deferred, self._deferred = self._deferred, []
        self.sought.update(call.number for call in deferred)
        return deferred

    def take_gone(self) -> frozenset[int]:
        """Take out the rows whose callers went."""
        gone, self._gone = frozenset(self._gone), set()
        return gone

    def awaited(self, rows: Iterable[int]) -> None:
        """Note that somebody awaits these again, before the engine heard that nobody did."""
        self._gone.difference_update(rows)


def _is_plain(call: Streamed) -> bool:
    options = call[2]
    return options.timeout is None and not options.tags and not options.live
