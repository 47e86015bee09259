"""What the engine is told.

Facts say what has happened: fed again in their order, with the times at which they came, they bring an engine of the
same settings to the same state. The other events ask or notice; nothing is lost when they are forgotten.

A journal records the facts on which paid answers depend, and tells them again until the batch they concern is over.
"""

from array import array
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from ..models import BatchStatus, Failure, Lane, Leftovers, Queue, Row, Run
from .ledger import Source


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows joined a lane; `rich` when some may hold images or files.

    `digests` are those by which a journal knows the requests again, end to end, and empty where there is none.
    """

    lane: Lane
    run: Run
    rich: bool = False
    digests: bytes = b""


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
    """Fact: these rows of a batch came back, and lie in the downloaded file `file`, None where it is not kept."""

    key: str
    rows: list[Row]
    file: str | None = None


class Collected(msgspec.Struct, frozen=True, gc=False):
    """Fact: the files of an ended batch were read to their end.

    Where it was to be added up, `billed` rows say that they had `input_tokens` together. `cut` says that a file ended
    in the middle of a line: what stands behind it was not seen.
    """

    key: str
    billed: int = 0
    input_tokens: int = 0
    cut: bool = False


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


class Settled(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows came to an end; packed arrays, as in a `Run`.

    `offsets` ('Q') and `sizes` ('I') say where the answers lie in the downloaded file `file`, None where rows failed
    without one; `marks` hold `ANSWERED` and `DELIVERED`, a byte a row.
    """

    batch_id: str | None
    file: str | None
    rows: "array[int]"
    offsets: "array[int]"
    sizes: "array[int]"
    marks: bytearray


ANSWERED, DELIVERED = 1, 2


def unanswered(rows: Iterable[int], batch_id: str | None = None) -> Settled:
    """Say that rows came to an end without an answer: they failed, or were taken out of the queue."""
    numbers = array("Q", rows)
    count = len(numbers)
    return Settled(
        batch_id, None, numbers, array("Q", bytes(8 * count)), array("I", bytes(4 * count)), bytearray(count)
    )


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """Fact: callers were given the answers of these rows, which had been settled earlier.

    Not `received`: they were given them, and went before they looked.
    """

    rows: tuple[int, ...]
    received: bool = True


class Done(msgspec.Struct, frozen=True, gc=False):
    """Fact: a batch is over, and `leaves` this to be deleted; those of its rows that are not settled wait again."""

    key: str
    batch_id: str | None
    leaves: Leftovers | None = None


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """Fact: nothing of a batch that is over is left at the provider."""

    key: str


class Learned(msgspec.Struct, frozen=True, gc=False):
    """Fact: a refusal stated that so many tokens may be enqueued."""

    queue: Queue
    tokens: int


class Discarded(msgspec.Struct, frozen=True, gc=False):
    """Fact: nobody needs the rows of a spool segment any more."""

    segment: int


class Escalated(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows of a lane are sent live; recorded before any is."""

    lane: Lane
    runs: tuple[Run, ...]


class LiveEnded(msgspec.Struct, frozen=True, gc=False):
    """Fact: the live call of a row came to an answer, which lies in the file `file`, or to a failure.

    `awaited` says whether a caller was still there to hear of it.
    """

    row: int
    answer: Row | None = None
    file: str | None = None
    failure: Failure | None = None
    awaited: bool = True


class Spent(msgspec.Struct, frozen=True, gc=False):
    """Fact, told again only: batches that are over were packed at these times, and count towards the hour."""

    times: tuple[float, ...]


class Recovered(msgspec.Struct, frozen=True, gc=False):
    """Notice that all was told again: what was under way may go on."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """Notice that callers ask again for these rows of an earlier time."""

    rows: tuple[int, ...]


class Abandoned(msgspec.Struct, frozen=True, gc=False):
    """Notice that nobody awaits these rows any more."""

    rows: frozenset[int]


class Escalate(msgspec.Struct, frozen=True, gc=False):
    """Ask for these rows to be sent live: their time runs out."""

    rows: frozenset[int]


class Revoked(msgspec.Struct, frozen=True, gc=False):
    """Ask for these remote batches to be cancelled, and not sent again; None for all there is, and all that waits."""

    remote_ids: frozenset[str] | None = None


class Closing(msgspec.Struct, frozen=True, gc=False):
    """Notice that no new calls are taken: what nobody awaits is not cancelled any more for want of callers."""


class Barred(msgspec.Struct, frozen=True, gc=False):
    """Notice that nothing more may be sent, and why: what waits ends with this failure, and so does what comes."""

    failure: Failure


class Flush(msgspec.Struct, frozen=True, gc=False):
    """Ask for what waits to be packed without lingering."""


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Notice that no more calls will come; unless `keep`, everything remote is given up: nobody will collect it."""

    keep: bool = False


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
    | Settled
    | Delivered
    | Done
    | Cleared
    | Learned
    | Discarded
    | Escalated
    | LiveEnded
    | Spent
)
Event: TypeAlias = Fact | Recovered | Asked | Abandoned | Escalate | Revoked | Barred | Closing | Flush | Leave | Tick
