"""Group commit: facts are recorded together, in their order, and what depends on them is done afterwards.

While one group is written the next gathers, so a fast disk makes small groups and a slow one large ones.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol

import anyio
from msgspec import structs

from .clock import Clock
from .engine.commands import Cancel, Claim, Command, Create, Delete, Discard, Fail, SendLive, Upload
from .engine.events import Accepted, Discarded, Event, Failed, LiveEnded, Settled, unanswered
from .errors import JournalError
from .journal import Journal, Stamped
from .models import Failure

log: logging.Logger = logging.getLogger("carpool.recorder")

# What would be wrong, or lost, if the facts before it were forgotten. Whatever else is commanded asks or settles.
DEPENDENT = (Upload, Claim, Create, Cancel, Delete, Discard, SendLive)


def implied(command: Command) -> list[Event]:
    """Give the facts that a command implies."""
    match command:
        case Fail():
            return [unanswered(command.numbers, command.batch_id)]
        case Discard():
            return [Discarded(command.segment)]
    return []


class Host(Protocol):
    """Carry out what a recorder lets go."""

    def begin(self, write: Callable[[], Awaitable[None]]) -> None:
        """Run a task."""
        ...

    def perform(self, command: Command) -> None:
        """Carry out a command."""
        ...

    def recorded(self, facts: Iterable[Stamped]) -> None:
        """Note that facts are safe."""
        ...

    def lost(self, error: JournalError) -> None:
        """Hear that facts cannot be kept any more."""
        ...

    def feed(self, event: Event) -> None:
        """Tell the engine."""
        ...


class Recorder:
    """Record facts in a journal, by the clock of the wall; `secure` makes the bytes safe that they refer to.

    When that fails nothing is recorded any more, nothing new is submitted and nothing is deleted; what is under way is
    still answered. The next process finds everything as it was recorded last.
    """

    def __init__(self, journal: Journal, secure: Callable[[], Awaitable[None]], clock: Clock, host: Host) -> None:
        self._journal = journal
        self._clock = clock
        self._secure = secure
        self._host = host
        self._facts: list[Stamped] = []
        self._then: list[Command] = []
        self._writing = False
        self._gathered = self._written = anyio.Event()  # of the group that gathers, and of the one that is written
        self.broken: JournalError | None = None

    @property
    def idle(self) -> bool:
        """Tell whether all facts are recorded."""
        return not self._writing and not self._facts

    def submit(self, facts: Iterable[Stamped], then: Iterable[Command]) -> None:
        """Record facts, then let commands be carried out; all in the order in which they are submitted."""
        self._facts += facts
        self._then += then
        if not self._writing and (self._facts or self._then):
            self._writing = True
            self._host.begin(self._write)

    async def caught_up(self) -> None:
        """Wait until what was submitted up to now is recorded, or lost; whoever waits is cancelled with the writing."""
        if not self.idle:
            await (self._gathered if self._facts else self._written).wait()

    async def _write(self) -> None:
        try:
            while self._facts or self._then:
                facts, self._facts = self._facts, []
                then, self._then = self._then, []
                self._written, self._gathered = self._gathered, anyio.Event()
                if facts and self.broken is None:
                    await self._record(facts)
                self._host.recorded(facts)
                self._written.set()
                for command in then:
                    self._go_on(command)
        finally:
            self._writing = False

    async def _record(self, facts: list[Stamped]) -> None:
        try:
            if any(isinstance(fact, Accepted | Settled) for _, fact in facts):
                await self._secure()
            await self._journal.record(*[(self._clock.written(at), fact) for at, fact in facts])
        except JournalError as exc:
            self.lose(exc)
        except OSError as exc:
            self.lose(
                JournalError(f"Requests cannot be kept: {exc}. Free some room, and start again: nothing is lost.")
            )

    async def _claim(self, command: Claim) -> None:
        """Ask for room for a batch."""
        read = self._clock.read
        heard_at = self._clock.written(command.heard_at)
        try:
            claimed = await self._journal.claim_room(structs.replace(command, at=self._clock.wall(), heard_at=heard_at))
        except JournalError as exc:
            self.lose(exc)
            self._host.feed(Failed(command.keys, Failure("disk", str(exc))))
        else:
            learned = None if claimed.learned is None else (claimed.learned[0], read(claimed.learned[1]))
            created = tuple(map(read, claimed.created))
            ended = tuple((queue, read(at), tokens) for queue, at, tokens in claimed.ended)
            self._host.feed(structs.replace(claimed, learned=learned, created=created, ended=ended))

    def lose(self, error: JournalError) -> None:
        """Take note that facts cannot be kept any more."""
        if self.broken is None:
            log.error("%s Until then nothing is submitted; what is under way is still answered.", error)
            self.broken = error
            self._host.lost(error)

    def _go_on(self, command: Command) -> None:
        if self.broken is None and isinstance(command, Claim):
            self._host.begin(partial(self._claim, command))
        elif self.broken is None:
            self._host.perform(command)
        elif isinstance(command, Upload | Claim | Create):
            self._host.feed(Failed(command.keys, Failure("disk", str(self.broken))))
        elif isinstance(command, SendLive):
            for row in (row for run in command.runs for row in run.rows):
                self._host.feed(LiveEnded(row, failure=Failure("disk", str(self.broken))))
