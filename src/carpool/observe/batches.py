"""Batches, as a hook is told of them: what the engine hears and decides, in the words of `Event`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ..engine.commands import Claim, Command, Create, Find, Record
from ..engine.events import (
    Checked,
    Claimed,
    Cleared,
    Collected,
    Created,
    Done,
    Failed,
    NotFound,
    Packed,
    Recovered,
    Returned,
    Uploaded,
)
from ..engine.events import Event as EngineEvent
from ..engine.stages import is_end, is_news
from ..event import Event, Kind
from ..models import NO_REPLY, BatchStatus, Failure, Lane, Usage
from ..naming import client_key
from .stretches import stretches_of
from .teller import Teller

_NOTHING = Usage(0, 0, 0)


class _Batch(msgspec.Struct):
    key: str
    lane: Lane
    rows: int
    numbers: tuple[tuple[int, int], ...]
    at: float  # when it was packed, later when it was created
    id: str | None = None
    status: str = ""
    tokens: int | None = None
    queued: bool = False
    lost: bool = False  # whether it was created is being looked for
    earlier: bool = False  # of an earlier process, and not told of yet
    usage: Usage | None = None
    cost: float | None = None


class BatchesSeen:
    """Tell of batches; `holds` says whether the engine knows one still."""

    def __init__(self, pool: str, teller: Teller, holds: Callable[[str], bool]) -> None:
        self._pool = pool
        self._teller = teller
        self._holds = holds
        self._batches: dict[str, _Batch] = {}
        self._keys: dict[str, str] = {}  # by remote id
        self._on: dict[type[EngineEvent], Callable[[Any, Sequence[Command], float], None]] = {
            Packed: self._packed,
            Returned: self._returned,
            Uploaded: self._uploaded,
            Claimed: self._claimed,
            Created: self._created,
            Checked: self._checked,
            NotFound: self._not_found,
            Collected: self._collected,
            Failed: self._failed,
            Done: self._done,
            Cleared: self._cleared,
            Recovered: self._recovered,
        }

    def saw(self, event: EngineEvent, commands: Sequence[Command], now: float) -> None:
        """Tell what an event means to batches, and to what commands it led."""
        for command in commands:
            if isinstance(command, Claim | Create):
                self._weigh(command)
        tell = self._on.get(type(event))
        if tell is not None:
            tell(event, commands, now)

    def _weigh(self, command: Claim | Create) -> None:
        for batch in self._known(command.keys):
            batch.tokens = command.tokens if isinstance(command, Claim) else command.batch.tokens

    def spent(self, batch_id: str, usage: Usage | None, cost: float | None) -> None:
        """Add up what the answers of a batch cost."""
        batch = self._batches.get(self._keys.get(batch_id, ""))
        if batch is not None and usage is not None:
            before = batch.usage or _NOTHING
            batch.usage = Usage(before[0] + usage[0], before[1] + usage[1], before[2] + usage[2])
        if batch is not None and cost is not None:
            batch.cost = (batch.cost or 0.0) + cost

    def cancelled(self, batch_id: str, now: float) -> None:
        """Tell of a batch that the provider is asked to cancel."""
        batch = self._batches.get(self._keys.get(batch_id, ""))
        if batch is not None:
            self._tell("cancelled", batch, now)

    # --- on the way to the provider

    def _packed(self, event: Packed, commands: Sequence[Command], now: float) -> None:
        batch = self._add(event, now)
        self._tell("packed", batch, now, numbers=batch.numbers)

    def _add(self, event: Packed, at: float) -> _Batch:
        key = client_key(self._pool, event.number)
        batch = _Batch(key, event.lane, sum(map(len, event.runs)), stretches_of(event.runs), at)
        self._batches[key] = batch
        return batch

    def _returned(self, event: Returned, commands: Sequence[Command], now: float) -> None:
        batch = self._batches.get(event.key)
        if batch is not None:
            self._tell("returned", batch, now, "It is taken apart before it was created: its requests are packed anew.")

    def _uploaded(self, event: Uploaded, commands: Sequence[Command], now: float) -> None:
        batch = self._batches.get(event.key)
        if batch is not None:
            self._tell("uploaded", batch, now)
            if not any(_is_about(command, batch.key) for command in commands):
                self._queue(batch, "It waits for room in the queue.", now)

    def _claimed(self, event: Claimed, commands: Sequence[Command], now: float) -> None:
        for batch in self._known((event.key,)):
            if event.granted:
                batch.queued = False
                self._tell("claimed", batch, now, "The other processes of the folder leave room for it.")
            else:
                self._queue(batch, f"Other processes of the folder hold {event.others:,} tokens of the queue.", now)

    def _queue(self, batch: _Batch, message: str, now: float) -> None:
        """Tell of a batch that waits, once."""
        if not batch.queued:
            batch.queued = True
            self._tell("queued", batch, now, message)

    def _created(self, event: Created, commands: Sequence[Command], now: float) -> None:
        batch, status = self._batches.get(event.key), event.status
        if batch is None or status.id in self._keys:
            return
        self._keys[status.id] = batch.key
        batch.id, batch.status = status.id, status.status
        kind: Kind = "found" if batch.lost else "created"
        self._tell(kind, batch, now, seconds=now - batch.at)
        batch.at, batch.lost = now, False
        self._look(batch, status, now)

    def _not_found(self, event: NotFound, commands: Sequence[Command], now: float) -> None:
        for key in {command.batch.key for command in commands if isinstance(command, Create)}.intersection(event.keys):
            batch = self._batches[key]
            batch.lost = False
            self._tell("retried", batch, now, "No listing shows it: it is created again.")

    def _failed(self, event: Failed, commands: Sequence[Command], now: float) -> None:
        sought = {key for command in commands if isinstance(command, Find) for key in command.keys}
        for batch in self._known(event.keys):
            if event.failure.kind == "full":
                self._refuse(batch, event.failure.limit, event.failure.message, now)
            elif batch.key in sought and not batch.lost:
                batch.lost = True
                self._trouble("lost", batch, event.failure, now)
            elif self._holds(batch.key):
                self._trouble("retried", batch, event.failure, now)

    def _trouble(self, kind: Kind, batch: _Batch, failure: Failure, now: float) -> None:
        code = failure.code or failure.kind
        self._tell(kind, batch, now, failure.message, status_code=failure.status_code, code=code)

    def _refuse(self, batch: _Batch, limit: int | None, message: str, now: float) -> None:
        self._tell("refused", batch, now, message, tokens=limit if limit is not None else batch.tokens)

    # --- at the provider, and back

    def _checked(self, event: Checked, commands: Sequence[Command], now: float) -> None:
        for status in event.statuses:
            batch = self._batches.get(self._keys.get(status.id, ""))
            if batch is None or status.status == NO_REPLY or not is_news(batch.status, status.status):
                continue
            batch.status = status.status
            if not is_end(status.status):
                self._tell("status", batch, now, seconds=now - batch.at)
            self._look(batch, status, now)

    def _look(self, batch: _Batch, status: BatchStatus, now: float) -> None:
        """Tell where a status is an end."""
        if is_end(status.status):
            first = status.problems[0] if status.problems else None
            message, code = (None, None) if first is None else (first.message, first.code)
            self._tell("ended", batch, now, message or "", code=code or None, seconds=now - batch.at)
            if status.no_room is not None:
                self._refuse(batch, status.no_room.limit, message or "", now)

    def _collected(self, event: Collected, commands: Sequence[Command], now: float) -> None:
        for batch in self._known((event.key,)):
            message = "A file ended in the middle of a line." if event.cut else ""
            self._tell("collected", batch, now, message, seconds=now - batch.at)

    def _done(self, event: Done, commands: Sequence[Command], now: float) -> None:
        batch = self._forget(event.key)
        if batch is not None:
            if event.again:
                self._tell("requeued", batch, now, rows=event.again)
            since = None if batch.id is None else now - batch.at
            self._tell("done", batch, now, seconds=since, usage=batch.usage, cost=batch.cost)

    def _cleared(self, event: Cleared, commands: Sequence[Command], now: float) -> None:
        self._teller.tell(Event("cleared", now, self._pool, batch=event.key))

    def closed(self, now: float) -> None:
        """Tell of batches that run on though the pool is closed."""
        for batch in list(self._batches.values()):
            self._forget(batch.key)
            self._tell("given_up", batch, now, "The pool is closed; with a journal the next process looks after it.")

    def _forget(self, key: str) -> _Batch | None:
        batch = self._batches.pop(key, None)
        if batch is not None and batch.id is not None:
            self._keys.pop(batch.id, None)
        return batch

    # --- of an earlier process

    def replay(self, fact: EngineEvent, at: float) -> None:
        """Take note of a fact of an earlier process."""
        match fact:
            case Packed():
                self._add(fact, at).earlier = True
            case Created(key=key, status=status) if status.id not in self._keys:
                for batch in self._known((key,)):
                    batch.id, batch.status, batch.at = status.id, status.status, at
                    self._keys[status.id] = key

    def _recovered(self, event: Recovered, commands: Sequence[Command], now: float) -> None:
        sought = {key for command in commands if isinstance(command, Find) for key in command.keys}
        for batch in [batch for batch in self._batches.values() if batch.earlier]:
            batch.earlier, batch.lost = False, batch.key in sought
            self._tell("recovered", batch, now, numbers=batch.numbers)

    # --- telling

    def _known(self, keys: Iterable[str]) -> Iterator[_Batch]:
        return (batch for key in keys if (batch := self._batches.get(key)) is not None)

    def _tell(self, kind: Kind, batch: _Batch, now: float, message: str = "", **more: object) -> None:
        known: dict[str, Any] = {"rows": batch.rows, "tokens": batch.tokens, **more}
        status = batch.status or None
        said = Event(
            kind, now, self._pool, message, batch.lane, batch=batch.key, batch_id=batch.id, status=status, **known
        )
        self._teller.tell(said)


def _is_about(command: Command, key: str) -> bool:
    if isinstance(command, Record):
        return isinstance(command.fact, Returned | Done) and command.fact.key == key
    return isinstance(command, Claim | Create) and key in command.keys
