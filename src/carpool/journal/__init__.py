"""What outlives the process: the facts that paid answers depend on, and where those answers lie.

Bodies and answers themselves are in the spool's files; facts refer only to bytes that are safe there.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, get_args

from ..engine import commands
from ..engine.events import (
    Accepted,
    Acked,
    Admitted,
    Claimed,
    Cleared,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalated,
    Event,
    GivenUp,
    Learned,
    Missing,
    Packed,
    Released,
    Settled,
    Submitted,
    Unclaimed,
    Unmet,
    Uploaded,
    Wanted,
)

Recorded: TypeAlias = (
    Accepted
    | Packed
    | Uploaded
    | Created
    | Settled
    | Delivered
    | Done
    | Cleared
    | Learned
    | Discarded
    | Escalated
    | Admitted
    | Released
    | Wanted
    | GivenUp
    | Missing
    | Submitted
    | Unmet
    | Acked
    | Unclaimed
)
RECORDED: tuple[type[Recorded], ...] = get_args(Recorded)
Stamped: TypeAlias = tuple[float, Event]  # what happened, and when

DIGEST = 16  # bytes by which a request is known again


class Place(NamedTuple):
    """Say where an answer lies, which batch it came with, and whether a caller has been given it."""

    file: str
    batch_id: str
    offset: int
    size: int
    delivered: bool


class Known(NamedTuple):
    """Name a request of an earlier time; `place` is None where it was not answered yet."""

    row: int
    place: Place | None


class Keyed(NamedTuple):
    """Say what was submitted under a key; `row` is None where another process is about to record it.

    `digest` is that of its endpoint and body.
    """

    row: int | None
    digest: bytes


class Intents(NamedTuple):
    """Say which calls other processes are about to record, and which of the rest this one was before."""

    others: frozenset[bytes]
    known: frozenset[bytes]


class Ending(NamedTuple):
    """Say how a submission that is not acked ended: its answer is at `place`, or the packed `error` says why not."""

    key: str | None
    place: Place | None
    error: bytes | None


class Summary(NamedTuple):
    """Count the answers that are kept; `last_at` is when the last of them came, None before the first."""

    answered: int
    undelivered: int
    last_at: float | None


class Journal(Protocol):
    """Keep facts; all methods raise `JournalError` when that cannot be done."""

    @property
    def place(self) -> str:
        """Name it for people to read."""
        ...

    @property
    def pool(self) -> str:
        """Give what custom_ids and client keys begin with: the same for all who share the journal."""
        ...

    @property
    def key_mark(self) -> str | None:
        """Give the mark of the key that was used last, None before the first."""
        ...

    async def note_key(self, mark: str) -> None:
        """Note the mark of the key in use."""
        ...

    @property
    def numbered(self) -> int:
        """Give the number behind which this process numbers whatever it makes."""
        ...

    async def record(self, *facts: Stamped) -> None:
        """Record facts, all or none; they are safe when this returns."""
        ...

    def load(self) -> AsyncGenerator[Sequence[Stamped], None]:
        """Take over what processes left that have died since the last time, and tell it again, in chunks.

        Their numbers are this process's from then on. To be iterated to the end: until then nothing counts as told. The
        first time it also tells what limits were learned, and when the batches of the last hour were packed.
        """
        ...

    def holds(self, row: int) -> bool:
        """Tell whether a row that is not settled is of this process, or of one whose work it took over."""
        ...

    async def find(self, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        """Look for requests of all processes; those of one digest come in the order of their numbers."""
        ...

    async def under_way(self, rows: Collection[int]) -> set[int]:
        """Say which of these rows, that are not answered, other living processes have under way, or will have.

        Each has what it accepted itself, what is in its batches, and what it said is `Wanted`; not what it said is
        `GivenUp`.
        """
        ...

    async def open_batch(self) -> str | None:
        """Give the remote id of the newest batch under way, of any process; None where there is none."""
        ...

    async def summary(self) -> Summary:
        """Count the answers that are kept."""
        ...

    async def claim_room(self, claim: commands.Claim) -> Claimed:
        """Give room to a batch, if other processes leave some, and tell what they did since the last time.

        What it is given it holds until `Released`, or `Done`, is recorded.
        """
        ...

    async def claim_keys(self, asked: Mapping[str, bytes]) -> dict[str, Keyed]:
        """Claim keys for submissions, whose digests are given; gives those under which something was submitted before.

        The others are this process's, until it dies: it records what is submitted under them, or that nothing is.
        """
        ...

    async def intend(self, digests: Collection[bytes]) -> Intents:
        """Declare calls with keys that are about to be recorded, but for those that other processes are about to.

        They are this process's, until it dies, records them, or withdraws: to be looked for again after this.
        """
        ...

    async def withdraw(self, digests: Collection[bytes]) -> None:
        """Leave to others what was declared, and is not going to be recorded."""
        ...

    async def endings(self, rows: Collection[int]) -> dict[int, Ending]:
        """Say how submissions ended; of those that are acked, or have not ended, nothing."""
        ...

    async def leave_word(self, batch_ids: Collection[str], at: float) -> None:
        """Leave word that batches have ended, for whatever process waits for them; none does for others' batches."""
        ...

    async def take_word(self, batch_ids: Collection[str]) -> frozenset[str]:
        """Take the word that was left of some of these batches; what is older than an hour may be gone."""
        ...

    async def has_others(self) -> bool:
        """Tell whether answers to requests of other processes are kept; it takes no longer where there are many."""
        ...

    async def forget_old(self) -> None:
        """Forget what was delivered longer ago than it is kept, as when the journal was opened."""
        ...

    async def aclose(self) -> None:
        """Leave what is unfinished to the next process."""
        ...
