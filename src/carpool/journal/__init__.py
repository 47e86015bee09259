"""What outlives the process: the facts that paid answers depend on, and where those answers lie.

Bodies and answers themselves are in the spool's files; facts refer only to bytes that are safe there.
"""

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import NamedTuple, Protocol, TypeAlias, get_args

from ..engine.events import (
    Accepted,
    Cleared,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalated,
    Event,
    Learned,
    Packed,
    Settled,
    Uploaded,
)

Recorded: TypeAlias = (
    Accepted | Packed | Uploaded | Created | Settled | Delivered | Done | Cleared | Learned | Discarded | Escalated
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
        """Tell whether a row is of this process, or of one whose work it took over."""
        ...

    async def find(self, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        """Look for requests of all processes; those of one digest come in the order of their numbers."""
        ...

    async def open_batch(self) -> str | None:
        """Give the remote id of the newest batch under way, of any process; None where there is none."""
        ...

    async def summary(self) -> Summary:
        """Count the answers that are kept."""
        ...

    async def aclose(self) -> None:
        """Leave what is unfinished to the next process."""
        ...
