"""What the engine is told.

Facts say what has happened: fed again in their order, with the times at which they came, they bring an engine of the
same settings to the same state. The other events ask or notice; nothing is lost when they are forgotten.

A journal records the facts on which paid answers depend, and tells them again until the batch they concern is over.
"""

import math
from array import array
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from ..models import BatchStatus, Failure, Lane, Leftovers, Page, Queue, Row, Run
from .limit import Source


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """Fact: these rows joined a lane; `rich` when some may hold images or files.

    `digests` are those by which a journal knows the requests again, end to end, and empty where there is none. They
    should be packed by the time `pack_by`, as some have little time: of use to the process that took them in only.
    """

    lane: Lane
    run: Run
    rich: bool = False
    digests: bytes = b""
    pack_by: float = math.inf


class Limited(msgspec.Struct, frozen=True, gc=False):
    """Fact: the user, the table or an earlier run says that so many tokens may be enqueued, None for no limit.

    A number of the table that comes `anew` takes the place of what refusals said.
    """

    queue: Queue
    tokens: int | None
    source: Source
    anew: bool = False


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
    """Fact: the provider was asked for these batches, and knew these, and others; the listing was read at `place`."""

    remote_ids: tuple[str, ...]
    statuses: list[BatchStatus]
    place: str | None = None
    pages: tuple[Page, ...] = ()


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
    """Fact: a batch is over, and `leaves` this to be deleted; those of its rows that are not settled wait again.

    How many, `again` says to whoever looks on; no journal keeps it.
    """

    key: str
    batch_id: str | None
    leaves: Leftovers | None = None
    again: int = 0


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


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """Fact: the journal was asked for room for a batch, and has `granted` it, or others hold it.

    Other processes hold `others` tokens of the queue. A limit that one of them heard of since, and when, is `learned`:
    it is to be looked at first. Since the last time they created batches at the times `created`, and batches of theirs
    have `ended`, of so many tokens each.
    """

    key: str
    queue: Queue
    granted: bool
    others: int = 0
    learned: tuple[int, float] | None = None
    created: tuple[float, ...] = ()
    ended: tuple[tuple[Queue, float, int], ...] = ()


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """Fact: the provider took a batch into its queue."""

    key: str


class Released(msgspec.Struct, frozen=True, gc=False):
    """Fact: a batch holds no room any more: it has ended at the provider, where it `ran`, or was not created."""

    key: str
    ran: bool = False


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Fact: this process asks for rows of earlier ones again; whoever wants the same waits for what comes of them."""

    rows: Collection[int]


class GivenUp(msgspec.Struct, frozen=True, gc=False):
    """Fact: nothing comes of these rows while this process lives; whoever wants the same need not wait."""

    rows: Collection[int]


class Missing(msgspec.Struct, frozen=True, gc=False):
    """Fact: the provider has said for long that a batch, or a file of it, is not there; None where it is after all."""

    key: str
    what: Literal["batch", "file"] | None


class Shared(msgspec.Struct, frozen=True, gc=False):
    """Fact: so large a share of every limit, and of the creations an hour, is this pool's; the rest is others'."""

    share: float


class Submission(NamedTuple):
    """Name a request whose outcome is kept until it is acked; `until` is when its timeout is over, None without one."""

    row: int
    key: str | None = None
    tags: tuple[str, ...] = ()
    until: float | None = None


class Submitted(msgspec.Struct, frozen=True, gc=False):
    """Fact, for a journal only: these were submitted; recorded together with the rows."""

    submissions: tuple[Submission, ...]


class Unmet(msgspec.Struct, frozen=True, gc=False):
    """Fact, for a journal only: these submissions ended without an answer; `error` is packed, and says why."""

    rows: "array[int]"
    error: bytes


class Acked(msgspec.Struct, frozen=True, gc=False):
    """Fact, for a journal only: somebody has taken care of the outcome of this row, which was an answer, or not."""

    row: int
    answered: bool


class Unclaimed(msgspec.Struct, frozen=True, gc=False):
    """Fact, for a journal only: nothing was submitted under a key that was claimed."""

    key: str


class Outstanding(msgspec.Struct, frozen=True, gc=False):
    """Fact, told again only: these rows were submitted, and their outcomes are not acked; packed arrays.

    `ended` are those that are answered, or failed. Those that are still `open` may have tags, and timeouts.
    """

    ended: "array[int]"
    open: "array[int]"
    tags: dict[int, tuple[str, ...]] = {}
    until: dict[int, float] = {}


class Recovered(msgspec.Struct, frozen=True, gc=False):
    """Notice that all was told again: what was under way may go on."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """Notice that callers ask again for these rows of an earlier time; they should be packed by a time."""

    rows: tuple[int, ...]
    pack_by: float = math.inf


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
    """Notice that no new calls are taken: what nobody awaits is not cancelled any more for want of callers.

    Unless `submit`, nothing is packed any more: what waits is left to the next process.
    """

    submit: bool = True


class Barred(msgspec.Struct, frozen=True, gc=False):
    """Notice that nothing more may be sent, and why: what waits ends with this failure, and so does what comes."""

    failure: Failure


class Woken(msgspec.Struct, frozen=True, gc=False):
    """Notice that the provider says that these remote batches have ended, of which some may be of others."""

    remote_ids: tuple[str, ...]


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
    | Claimed
    | Admitted
    | Released
    | Wanted
    | GivenUp
    | Missing
    | Shared
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
    | Submitted
    | Unmet
    | Acked
    | Unclaimed
    | Outstanding
)
Event: TypeAlias = (
    Fact | Recovered | Asked | Abandoned | Escalate | Revoked | Barred | Closing | Woken | Flush | Leave | Tick
)
