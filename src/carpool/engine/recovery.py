"""What an earlier process left: its facts are told again, and nothing is decided before all of them are."""

from collections.abc import Callable
from typing import Any

from ..naming import client_key
from .batch import Batch
from .batches import Batches
from .commands import Command, Delete
from .escalations import Escalations
from .events import Accepted, Created, Done, Escalated, Event, Learned, Limited, Missing, Packed, Spent, Uploaded
from .lanes import Lanes
from .stages import Stage, Step


class Recovery:
    """Take facts of an earlier time into `lanes` and `batches`."""

    def __init__(self, pool: str, lanes: Lanes, batches: Batches, escalations: Escalations) -> None:
        self._pool = pool
        self._lanes = lanes
        self._batches = batches
        self._escalations = escalations
        self._recovered: list[str] = []
        self._leftovers: list[Command] = []
        self._on: dict[type[Event], Callable[[Any, float], None]] = {
            Accepted: lambda event, at: lanes.remember(event),
            Limited: lambda event, at: lanes.ledger(event.queue).learn(event.tokens, event.source, at),
            Learned: lambda event, at: lanes.ledger(event.queue).learn(event.tokens, "learned", at),
            Spent: lambda event, at: lanes.remember_spent(event),
            Packed: self._packed,
            Uploaded: self._uploaded,
            Created: self._created,
            Missing: self._missing,
            Done: self._done,
            Escalated: lambda event, at: escalations.remember(event),
        }

    def take(self, fact: Event, at: float) -> None:
        """Take note of a fact; `at` is when it came."""
        self._on[type(fact)](fact, at)

    def _packed(self, event: Packed, at: float) -> None:
        batch = Batch(client_key(self._pool, event.number), event.lane, event.runs, at)
        batch.again = True
        batch.asked = set()
        self._batches.add(batch)
        batch.forget_ended(self._lanes.remember_packed(event, batch.key, at))
        self._recovered.append(batch.key)

    def _uploaded(self, event: Uploaded, at: float) -> None:
        batch = self._batches[event.key]
        batch.step(Step.UPLOADED)
        batch.file_id = event.file_id  # `again` stays: whether a copy was uploaded before is not recorded

    def _created(self, event: Created, at: float) -> None:
        batch = self._batches[event.key]
        if self._batches.is_known(event.status.id):
            return  # the provider gave one id to two: this one is still to be found
        batch.step(Step.CREATED)
        batch.opened_at = at
        self._batches.created(batch, event.status)
        self._lanes.remember_created(batch.lane, batch.key, batch.load, at, at)

    def _missing(self, event: Missing, at: float) -> None:
        batch = self._batches[event.key]
        batch.missing, batch.missing_at = event.what, at

    def _done(self, event: Done, at: float) -> None:
        if event.leaves is not None:
            pause = self._batches.lookup if event.leaves.sought else 0.0
            self._leftovers.append(Delete(event.leaves.file_ids, event.leaves.sought, event.key, pause))

    def leftovers(self) -> list[Command]:
        """Say what is to be deleted of batches that are over."""
        leftovers, self._leftovers = self._leftovers, []
        return leftovers

    def finish(self, now: float) -> list[Batch]:
        """Give the batches that were recovered; what may have been created unrecorded is to be looked for.

        Before, none of them stands in line: nothing that happens meanwhile may let it in.
        """
        self._lanes.opened(now)
        batches = [self._batches[key] for key in self._recovered]
        self._recovered.clear()
        self._escalations.recover(batches, now)
        for batch in batches:
            batch.unsure_until = now + self._batches.lookup
            if batch.stage is Stage.UPLOADED:
                batch.step(Step.LOST)
                batch.recovered = True
                # It may have been created up to this moment, and listings lag.
                batch.opened_at = now
                self._lanes.remember_created(batch.lane, batch.key, batch.load, None, now)
            elif batch.stage is Stage.PACKED:
                self._lanes.stand_in_line(batch.lane, batch.key, batch.load, now)
        return batches
