"""Where calls come in, and callers go: the callers' path, on which nothing is awaited and nobody is waited for."""

import math
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from contextvars import Context, copy_context
from typing import TypeAlias

from .callers import Callers
from .config import Escalate
from .deadlines import Deadlines, margin, may_escalate, pack_by
from .durable import Submissions
from .errors import CarpoolError, RequestExpired
from .limits import LONG, KnownLimits
from .live import Live
from .models import Body, Encoded
from .options import PLAIN, Options
from .providers import Provider
from .resume import Deferred, Resumption, digest_of, digest_of_submission
from .spans import Sink
from .spool import LaneKey, Lines, Spool
from .waiter import Settled, Waiter

_TIMED_OUT = (
    "The call's timeout ended before its answer came. If it was packed into a batch, it runs on, and is billed."
)


Streamed: TypeAlias = tuple[int, Encoded, Options]  # a call of a stream, and its position there

_NO_ROOM = "The call's timeout ended while it waited in line for room, as max_pending has it. It was not sent."
_AT_ONCE = 500  # calls whose time is over: some milliseconds of the event loop
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
        limits: KnownLimits,
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
        self._seen = callers.seen
        self._now = now
        self._stir = stir
        self._deadlines = Deadlines(callers.__contains__)
        self._escalate = escalate
        self._bounded = callers.are_bounded
        self._near = Deadlines(callers.__contains__)  # from when on there is no time to wait for a batch
        self.resumption: Resumption | None = None
        self.submissions: Submissions | None = None
        self.sought: set[int] = set()  # calls that are being looked for
        self.elsewhere: Container[int] = ()  # and those that wait for rows of other processes
        self.accepted: int = 0
        self._newest = numbered  # number of the row that joined last
        self._given = numbered  # number that was given last, to a call or to a row
        self._deferred: list[Deferred] = []
        self._gone: set[int] = set()  # rows that nobody awaits any more
        self._stirred = False

    # --- coming

    def accept(self, endpoint: str, body: Body, options: Options = PLAIN) -> tuple[int, Waiter]:
        """Let a call join its lane; gives its number and what to await."""
        self._callers.admit()
        call = self._provider.encode(endpoint, body)
        waiter = self._new_waiter()
        return self.join(call, options, waiter), waiter

    def accept_encoded(self, call: Encoded, options: Options, made_at: float) -> tuple[int, Waiter]:
        """Let a call join its lane that was encoded already, and made at `made_at`; see `accept`."""
        waiter = self._new_waiter()
        return self.join(call, options, waiter, made_at=made_at), waiter

    def latest(self, endpoint: str, options: Options, made_at: float) -> float:
        """Give until when a call may wait before it joins: then it is sent live, or its time is over."""
        timeout = math.inf if options.timeout is None else options.timeout
        tier = self._tier(endpoint, live=options.live)
        return made_at + timeout - (0.0 if tier is None else margin(timeout, tier))

    def late(self, endpoint: str, options: Options) -> None:
        """Raise `RequestExpired` where a call that has waited so long is not sent live."""
        if self._tier(endpoint, live=options.live) is None:
            raise RequestExpired(_NO_ROOM)

    def _tier(self, endpoint: str, *, live: bool) -> Escalate | None:
        """Say how a call is sent when its time runs out, None where it is not, or not any more."""
        if live or self._escalate is None or not may_escalate(endpoint, self._escalate):
            return None
        return self._escalate

    def encode(self, endpoint: str, body: Body) -> Encoded:
        """Check a call and encode it; from any thread."""
        return self._provider.encode(endpoint, body)

    def join(
        self,
        call: Encoded,
        options: Options,
        waiter: Settled,
        context: Context | None = None,
        made_at: float | None = None,
    ) -> int:
        """Let a call join its lane, to be settled by `waiter`; gives its number.

        Where the caller is elsewhere, `context` is the one in which it made the call. What waited in line was made at
        `made_at`.
        """
        self._callers.admit()
        number = self._given + 1
        if self._bounded:
            self._afford(number, call, options)
        self._callers.add(number, waiter, options.tags)
        self._begin(number, call, options, made_at)
        if self._seen is not None:
            self._tell(number, call, options, context)
        return number

    def _tell(
        self, number: int, call: Encoded, options: Options, context: Context | None, *, kept: bool = False
    ) -> None:
        """Let whoever looks on know of a call."""
        if self._seen is not None:
            live = options.live or self._live.everything
            long = not live and len(call.body) > LONG and self._limits.is_long(call.model, len(call.body))
            self._seen.accepted(number, call, options, context, long=long, live=live, kept=kept)

    @property
    def context(self) -> Context | None:
        """Copy the context in force, for whoever looks on and wants to know in which one calls are made."""
        return None if self._seen is None else copy_context()

    def join_streamed(self, calls: Sequence[Streamed], sink: Sink, context: Context | None = None) -> None:
        """Let calls join their lanes, to be settled by the stream whose requests they are; it was made in `context`."""
        self._callers.admit()
        if self._bounded or self._looks or self._live.everything or not all(map(_is_plain, calls)):
            for index, call, options in calls:
                number = self._given + 1
                try:
                    if self._bounded:
                        self._afford(number, call, options)
                except CarpoolError as exc:
                    sink.settle([(index, exc)])
                else:
                    self._callers.add_streamed(number, [index], sink, options.tags)
                    self._begin(number, call, options)
                    self._tell(number, call, options, context)
        elif calls:
            first = self._given + 1
            self._join_together(calls, sink)
            self._wake()
            if self._seen is not None:
                for number, (_, call, options) in enumerate(calls, first):
                    self._tell(number, call, options, context)

    def _join_together(self, calls: Sequence[Streamed], sink: Sink) -> None:
        """Let calls join of which nothing is asked but an answer: what can be done for all at once is."""
        self._callers.add_streamed(self._given + 1, [index for index, _, _ in calls], sink)
        number = self._given
        lanes: dict[LaneKey, Lines] = {}
        for _, call, options in calls:
            number += 1
            lane = self._lane(call, options.priority)
            lines = lanes.get(lane)
            if lines is None:
                lines = lanes[lane] = Lines([], [], [], [])
            lines.numbers.append(number)
            lines.bodies.append(call.body)
            lines.inputs.append(call.inputs)
            if self.resumption is not None:
                lines.digests.append(digest_of(call.endpoint, call.body, options.key))
        self._given = self._newest = number
        self.accepted += len(calls)
        for lane, lines in lanes.items():
            self._spool.add_all(lane, lines)

    def _afford(self, number: int, call: Encoded, options: Options) -> None:
        """Make sure that there is money for a call, unless that is known only once it was looked for."""
        live = options.live or self._live.everything
        if live or not self._seeks(options):
            self._callers.afford(number, call.model, len(call.body), live=live)

    def _begin(self, number: int, call: Encoded, options: Options, made_at: float | None = None) -> None:
        """Send a call, let it join its lane, or have it looked for first: each call goes through here."""
        self.accepted += 1
        self._given = number
        key, timeout, priority, _, live = options  # at once: to read fields of a tuple by name takes its time
        by = math.inf
        if timeout is not None:
            made_at = self._now() if made_at is None else made_at
            by = pack_by(timeout, made_at)
        if live or self._live.everything:
            live = True
            self._live.begin(number, call)
        elif self.resumption is None:
            self._spool.add(self._lane(call, priority), number, call.body, call.inputs, None, by)
        else:
            self._look_for(self.resumption, number, call, self._lane(call, priority), key, by)
        if timeout is not None and made_at is not None:
            self._set_deadline(number, call.endpoint, timeout, made_at, live=live)
        if not self._stirred:
            self._wake()

    def _wake(self) -> None:
        if not self._stirred:
            self._stirred = True
            self._stir()

    def _set_deadline(self, number: int, endpoint: str, timeout: float, made_at: float, *, live: bool) -> None:
        at = made_at + timeout
        self._deadlines.set(number, at)
        tier = self._tier(endpoint, live=live)
        if tier is not None:
            self._near.set(number, at - margin(timeout, tier))

    def _look_for(
        self, resumption: Resumption, number: int, call: Encoded, lane: LaneKey, key: str | int | None, by: float
    ) -> None:
        """Have a call looked for, or let it join its lane where it cannot be one of an earlier time."""
        digest = digest_of(call.endpoint, call.body, key)
        if resumption.looks or (key is not None and resumption.seeks(key)):
            endpoint, model, long, priority = lane
            keyed = isinstance(key, str)
            self._deferred.append(
                Deferred(number, endpoint, model, call.body, call.inputs, long, priority, digest, by, keyed)
            )
        else:
            self._newest = number
            self._spool.add(lane, number, call.body, call.inputs, digest, by)

    def _lane(self, call: Encoded, priority: int) -> LaneKey:
        size = len(call.body)
        long = size > LONG and self._limits.is_long(call.model, size)
        return call.endpoint, call.model, long, priority

    @property
    def _looks(self) -> bool:
        """Tell whether a call may be one of an earlier time, which costs nothing."""
        return self.resumption is not None and self.resumption.looks

    def _seeks(self, options: Options) -> bool:
        return self.resumption is not None and self.resumption.seeks(options.key)

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
        if self._seen is not None:
            self._seen.joined(call.number, row)
        self._newest = row
        lane = call.endpoint, call.model, call.long, call.priority
        self._spool.add(lane, row, call.body, call.inputs, call.digest, call.pack_by)

    def submit(self, call: Encoded, options: Options, context: Context | None = None) -> int:
        """Let a submission join its lane, which nobody awaits, and was made in `context`; gives its row."""
        self._callers.admit()
        row = self._given + 1
        if self._bounded:
            self._callers.afford(row, call.model, len(call.body), live=False)
        self.accepted += 1
        self._given = self._newest = row
        self._callers.tag(row, options.tags)
        if self._seen is not None:
            self._tell(row, call, options, context, kept=True)
        by = math.inf if options.timeout is None else pack_by(options.timeout, self._now())
        self._spool.add(self._lane(call, options.priority), row, call.body, call.inputs, digest_of_submission(row), by)
        self._wake()
        return row

    # --- going

    def give_up(self, rows: Iterable[int]) -> None:
        """Take submissions out that have ended otherwise; their answers may still come."""
        self._gone.update(rows)
        self._stir()

    def leave(self, numbers: Iterable[int]) -> None:
        """Note that the callers of these numbers are gone; those that were settled do not count."""
        self.let_go(self._callers.leave(numbers))

    def let_go(self, numbers: Collection[int]) -> None:
        """Note that calls were settled whose rows are still under way: nobody awaits these any more."""
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
        if self._seen is not None:
            self._seen.taken_back(rows)
        if self.resumption is not None:
            self.resumption.take_back(rows)

    def expire(self) -> None:
        """Give up the calls whose timeouts are over, or some of them: others are due at once."""
        due = self._deadlines.due(self._now(), _AT_ONCE)
        for number in due:
            self._callers.expire(number, RequestExpired(_TIMED_OUT))
        self.let_go(due)
        if self.submissions is not None:
            self.submissions.expire()

    def take_hurried(self) -> frozenset[int]:
        """Take out the rows whose timeouts come so near that they are to be sent live, or some of them: others are due
        at once. What is being looked for is none of them, nor what waits for others' rows: it may join a lane yet."""
        due = self._near.due(self._now(), _AT_ONCE)
        unknown = {number for number in due if number in self.sought or number in self.elsewhere}
        for number in unknown:
            self._near.set(number, self._now() + _SOON)
        due = [number for number in due if number not in unknown]
        if self.submissions is not None:
            due += self.submissions.timeouts.hurried(self._now())
        return frozenset(due if self.resumption is None else self.resumption.rows(due))

    def is_awaited(self, row: int) -> bool:
        """Tell whether somebody waits for a row."""
        if self.submissions is not None and self.submissions.standing.is_open(row):
            return True
        return self._callers.awaits(row if self.resumption is None else self.resumption.number(row))

    @property
    def deadline(self) -> float:
        """Give the time at which the next timeout is over, or near; math.inf where there is none."""
        others = math.inf if self.submissions is None else self.submissions.timeouts.next
        return min(self._deadlines.next(), self._near.next(), others)

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
