"""Submissions on their way: recorded with their requests, followed to their ends, and forgotten when acked."""

import logging
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from typing import Protocol

import anyio

from ..callers import Callers
from ..clock import Clock
from ..config import Escalate
from ..engine.commands import Fail, Settle
from ..engine.events import Acked, Event, Settled, Submission, Submitted, Unclaimed, Unmet
from ..errors import CarpoolError, PoolClosed, RequestExpired
from ..journal import Journal, Stamped
from ..models import Encoded
from ..options import Options
from .entry import Entry, copies
from .failures import pack, unmet_by
from .keys import Keys
from .standing import Standing
from .timeouts import Timeouts

log: logging.Logger = logging.getLogger("carpool")

_TIMED_OUT = (
    "The submission's timeout ended before its answer came. If it was packed into a batch, it runs on, and is billed."
)


class Lanes(Protocol):
    """Let submissions join their lanes."""

    def submit(self, call: Encoded, options: Options, context: Context | None) -> int:
        """Let one join that was made in `context`; gives its row."""
        ...

    def give_up(self, rows: Iterable[int]) -> None:
        """Take rows out that nobody awaits any more."""
        ...


class Submissions:
    """Follow what was submitted; all methods belong to the pool's event loop.

    `pool` prefixes the custom_ids; `record` has facts written down, `start` runs a step.
    """

    def __init__(
        self,
        pool: str,
        journal: Journal,
        lanes: Lanes,
        callers: Callers,
        record: Callable[[Iterable[Stamped]], None],
        start: Callable[[Callable[[], Awaitable[None]]], None],
        clock: Clock,
        escalate: Escalate | None,
    ) -> None:
        self._pool = pool
        self._lanes = lanes
        self._callers = callers
        self._record_all = record
        self._clock = clock
        self.standing: Standing = Standing()
        self.timeouts: Timeouts = Timeouts(self.standing.is_open, escalate)
        self._keys = Keys(
            journal, start, self._join, self._known, lambda: callers.refusal is not None, self._refuse_late, self._free
        )
        self._joined: list[tuple[int, Entry]] = []
        self._recording: dict[int, list[tuple[int, Entry]]] = {}  # by the first row of the fact
        self._answered: dict[str, array[int]] = {}  # rows of batches whose answers are not recorded yet
        self._news = anyio.Event()
        self._freeing = 0  # keys that will be free once that is recorded
        self._over: CarpoolError | None = None

    def __bool__(self) -> bool:
        return bool(self.standing)

    def custom_id(self, row: int) -> str:
        """Name the request in a row."""
        return f"{self._pool}-{row}"

    # --- coming

    def admit(self) -> None:
        """Raise why nothing is submitted any more, where that is so."""
        self._callers.admit()

    def begin(self, entry: Entry) -> None:
        """Take a submission in; whoever waits for it is told when it is recorded, or why it is not."""
        if self._callers.refusal is not None:
            entry.refuse(copies(self._callers.refusal))
        elif entry.key is None:
            self._join(entry)
        else:
            self._keys.ask(entry)

    def _join(self, entry: Entry) -> None:
        try:
            row = self._lanes.submit(entry.call, entry.options, entry.context)
        except CarpoolError as exc:
            self._keys.over(entry)
            entry.refuse(copies(exc))
            if entry.key is not None:
                self._freeing += 1
                self._record(Unclaimed(entry.key))
            return
        self.standing.add(row)
        timeout = entry.options.timeout
        if timeout is not None:
            until = self._clock.now() + timeout
            self.timeouts.set(row, entry.call.endpoint, until, timeout)
            entry.until = self._clock.written(until)
        self._joined.append((row, entry))

    def _known(self, entry: Entry, row: int) -> None:
        entry.settle(self.custom_id(row))

    def _refuse_late(self, entry: Entry) -> None:
        entry.refuse(copies(self._callers.refusal or PoolClosed("The pool is closed.")))

    async def _free(self) -> None:
        """Wait until the keys are free that are going to be."""
        while self._freeing and self._over is None:
            await self._wait_for_news()

    def tell(self) -> None:
        """Record what joined, together with the rows that are told of next."""
        joined, self._joined = self._joined, []
        if joined:
            self._recording[joined[0][0]] = joined
            self._record(Submitted(tuple(Submission(row, one.key, one.options.tags, one.until) for row, one in joined)))

    def _recorded(self, fact: Submitted) -> None:
        for row, entry in self._recording.pop(fact.submissions[0].row):
            self._keys.over(entry)
            entry.settle(self.custom_id(row))

    # --- what comes of them

    def ended_by(self, command: Settle | Fail) -> list[Unmet]:
        """Hear of rows that come to their ends; gives what is to be recorded of those that have no answer."""
        if isinstance(command, Settle):
            answered = [number for number, row in zip(command.numbers, command.rows, strict=True) if row.ok]
            closed = self.standing.close(answered)
            if closed and command.batch_id:
                self._answered.setdefault(command.batch_id, array("Q")).extend(closed)
        return unmet_by(command, self.standing.close)

    def fail(self, rows: Sequence[int], error: CarpoolError) -> None:
        """End submissions without an answer."""
        closed = self.standing.close(rows)
        if closed:
            self._callers.untag(closed)
            self._record(Unmet(array("Q", closed), pack(error)))

    def expire(self) -> None:
        """End the submissions whose timeouts are over."""
        due = self.timeouts.expired(self._clock.now())
        if due:
            error = RequestExpired(_TIMED_OUT)
            self.fail(due, error)
            self._lanes.give_up(due)
            if self._callers.seen is not None:
                for row in due:
                    self._callers.seen.failed(row, error, None, "expired")

    def recorded(self, facts: Iterable[Stamped]) -> None:
        """Note that facts are safe: what they tell of may be given away."""
        for _, fact in facts:
            match fact:
                case Submitted():
                    self._recorded(fact)
                case Unmet():
                    self._end(fact.rows)
                case Unclaimed() | Acked(answered=False):
                    self._freeing -= 1
                    self._news.set()
                case Settled(file=str()):
                    # Live answers come one by one, and of others all that came with a batch is recorded at once.
                    self._end(self._answered.pop(fact.batch_id, ()) if fact.batch_id else fact.rows)

    def follow(self, ended: Iterable[int], open_: Iterable[int]) -> None:
        """Follow submissions of an earlier time."""
        for row in (*ended, *open_):
            self.standing.add(row)
        self._end(self.standing.close(ended))

    def _end(self, rows: Iterable[int]) -> None:
        if self.standing and self.standing.end(rows):
            self._news.set()

    # --- giving them away

    async def take(self, most: int, is_left: Callable[[], bool]) -> list[int]:
        """Wait for rows that have ended, and take so many of them at most; none when the pool is over, or it `is_left`.

        Raises what ended the pool, unless it was closed.
        """
        while not self.is_over and not is_left():
            if self.standing.has_ended:
                return self.standing.take(most)
            await self._wait_for_news()
        return []

    @property
    def is_over(self) -> bool:
        """Tell whether the pool was closed, and nothing is given away any more; raises what ended it otherwise."""
        if self._over is None or isinstance(self._over, PoolClosed):
            return self._over is not None
        raise type(self._over)(*self._over.args)

    async def _wait_for_news(self) -> None:
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    def put_back(self, rows: Sequence[int]) -> None:
        """Let others take rows that nobody has taken care of."""
        self.standing.put_back(rows)
        self._news.set()

    def ack(self, row: int, *, answered: bool) -> None:
        """Note that somebody has taken care of an outcome."""
        if self._over is not None:
            log.warning("%s was acked when its pool was over, and will be given again", self.custom_id(row))
        elif self.standing.drop(row):
            self._freeing += not answered
            self._record(Acked(row, answered))

    def _record(self, fact: Event) -> None:
        self._record_all([(self._clock.now(), fact)])

    # --- the end

    def close(self, error: CarpoolError) -> None:
        """Tell whoever waits that nothing is recorded, or given away, any more."""
        self._over = self._over or error
        waiting = [entry for joined in (self._joined, *self._recording.values()) for _, entry in joined]
        for entry in (*self._keys.entries(), *waiting):
            entry.refuse(copies(self._over))
        self._joined.clear()
        self._recording.clear()
        self._news.set()
