"""What the engine is told.

The facts are what a journal records: fed again in their order, with the times they carried, they bring an engine of
the same settings to the same state. The other events ask or notice; nothing is lost when they are forgotten.
"""

from typing import TypeAlias

import msgspec

from ..models import BatchStatus, Failure, Lane, Queue, Row, Run
from .ledger import Source


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows joined a lane; `rich` when some may hold images or files."""

    lane: Lane
    run: Run
    rich: bool = False


class Limited(msgspec.Struct, frozen=True, gc=False):
    """Fact: the user, the table or an earlier run says that so many tokens may be enqueued, None for no limit."""

    queue: Queue
    tokens: int | None
    source: Source


class Counted(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows of a lane have so many tokens."""

    lane: Lane
    runs: tuple[Run, ...]


class Uncountable(msgspec.Struct, frozen=True, gc=False):
    """Fact: the rows of a lane could not be counted."""

    lane: Lane


class Packed(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows shall travel as the pool's batch `number`; recorded before anything is uploaded."""

    number: int
    lane: Lane
    runs: tuple[Run, ...]


class Returned(msgspec.Struct, frozen=True, gc=False):
    """Fact: the rows of a batch that was never created wait again, and are packed anew."""

    key: str


class Uploaded(msgspec.Struct, frozen=True, gc=False):
    """Fact: the provider holds the input file."""

    key: str
    file_id: str


class Created(msgspec.Struct, frozen=True, gc=False):
    """Fact: the provider holds the batch, just created or found again by its client key."""

    key: str
    status: BatchStatus


class Answered(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows of a batch came back."""

    key: str
    rows: list[Row]


class Collected(msgspec.Struct, frozen=True, gc=False):
    """Fact: the files of an ended batch were read to their end.

    Where it was to be added up, `billed` rows say that they had `input_tokens` together.
    """

    key: str
    billed: int = 0
    input_tokens: int = 0


class Checked(msgspec.Struct, frozen=True, gc=False):
    """Fact: the provider was asked for these batches, and knew these."""

    remote_ids: tuple[str, ...]
    statuses: list[BatchStatus]


class NotFound(msgspec.Struct, frozen=True, gc=False):
    """Fact: the listings, searched from the time `at` on, hold no batch of these client keys."""

    keys: tuple[str, ...]
    at: float


class Failed(msgspec.Struct, frozen=True, gc=False):
    """Fact: the step that these batches were at did not succeed."""

    keys: tuple[str, ...]
    failure: Failure


class Abandoned(msgspec.Struct, frozen=True, gc=False):
    """Notice that nobody awaits these rows any more."""

    rows: frozenset[int]


class Flush(msgspec.Struct, frozen=True, gc=False):
    """Ask for what waits to be packed without lingering."""


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Ask for everything remote to be given up: nobody will be here to collect it."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Notice that time has passed."""


Fact: TypeAlias = (
    Accepted
    | Limited
    | Counted
    | Uncountable
    | Packed
    | Returned
    | Uploaded
    | Created
    | Answered
    | Collected
    | Checked
    | NotFound
    | Failed
)
Event: TypeAlias = Fact | Abandoned | Flush | Leave | Tick
