"""What the engine wants done.

The outcome of each `Step` comes back as an event, or as `Failed` for its `keys`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from ..models import Attempt, BatchStatus, Failure, Lane, PackedBatch, Queue, Row, Run, Sought
from .events import (
    Admitted,
    Done,
    Escalated,
    GivenUp,
    Learned,
    Missing,
    Packed,
    Released,
    Returned,
    Settled,
    Wanted,
)


class Record(msgspec.Struct, frozen=True, gc=False):
    """Record a fact that the engine decided, and feed it back."""

    fact: Packed | Returned | Done | Learned | Settled | Escalated | Admitted | Released | GivenUp | Wanted | Missing


class Count(msgspec.Struct, frozen=True, gc=False):
    """Count the tokens of rows; what comes of it is told as `Counted`, or as `Uncountable`."""

    lane: Lane
    runs: tuple[Run, ...]


class Upload(msgspec.Struct, frozen=True, gc=False):
    """Upload an input file."""

    batch: PackedBatch

    @property
    def keys(self) -> tuple[str, ...]:
        """Name the batches this is for."""
        return (self.batch.key,)


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Ask the journal for room for a batch of so many `tokens`, which is to be created; `at` is now.

    With those of others they may come to `room`, infinite where no limit is known; where it goes `first`, nobody else's
    may be validating. `heard_at` is when the limit was heard of. In `shards` are all batches that `room` allows for.
    """

    key: str
    queue: Queue
    tokens: int
    room: float
    first: bool
    heard_at: float
    shards: frozenset[int]
    at: float

    @property
    def keys(self) -> tuple[str, ...]:
        """Name the batches this is for."""
        return (self.key,)


class Create(msgspec.Struct, frozen=True, gc=False):
    """Create the batch of an uploaded file."""

    batch: PackedBatch
    file_id: str

    @property
    def keys(self) -> tuple[str, ...]:
        """Name the batches this is for."""
        return (self.batch.key,)


class Find(msgspec.Struct, frozen=True, gc=False):
    """Look for batches by their client keys: their creation may or may not have happened; `at` is now.

    `files` gives the input file of each key; none of them was created before `since`.
    """

    files: dict[str, str]
    since: float
    at: float

    @property
    def keys(self) -> tuple[str, ...]:
        """Name the batches this is for."""
        return tuple(self.files)


class Check(msgspec.Struct, frozen=True, gc=False):
    """Ask how these batches stand, the newest first, and hear of `others` what the listing shows by the way.

    It is read at `place`; where that is None they are asked for singly.
    """

    keys: tuple[str, ...]
    remote_ids: tuple[str, ...]
    place: str | None = None
    others: Collection[str] = ()


class Collect(msgspec.Struct, frozen=True, gc=False):
    """Read the files of an ended batch; with `add_up` add up what its rows say of their input tokens."""

    key: str
    status: BatchStatus
    add_up: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Name the batches this is for."""
        return (self.key,)


class SendLive(msgspec.Struct, frozen=True, gc=False):
    """Send each of these rows live, once; what comes of each is told as `LiveEnded`."""

    lane: Lane
    runs: tuple[Run, ...]


class Settle(msgspec.Struct, frozen=True, gc=False):
    """Give these rows, which lie in the downloaded file `file`, to whoever awaits their `numbers`.

    Those of no batch, whose id is "", came live. Of those that failed `attempts` tells how often.
    """

    batch_id: str
    lane: Lane
    numbers: Sequence[int]
    rows: Sequence[Row]
    file: str | None
    attempts: Mapping[int, tuple[Attempt, ...]] = {}


class Bill(msgspec.Struct, frozen=True, gc=False):
    """Add up what these rows cost, whose requests were answered already: live before their batch, or after it."""

    batch_id: str
    lane: Lane
    rows: Sequence[Row]


class Fail(msgspec.Struct, frozen=True, gc=False):
    """Tell whoever awaits these numbers why there is no answer.

    Of those that were sent, and came to nothing, `attempts` tells how often.
    """

    batch_id: str | None
    numbers: Collection[int]
    failure: Failure
    attempts: Mapping[int, tuple[Attempt, ...]] = {}


class LetGo(msgspec.Struct, frozen=True, gc=False):
    """Tell whoever awaits these numbers why there is no answer yet; their batch is looked after all the same."""

    batch_id: str | None
    numbers: Collection[int]
    failure: Failure
    attempts: Mapping[int, tuple[Attempt, ...]] = {}


class Tell(msgspec.Struct, frozen=True, gc=False):
    """Tell whoever looks after the pool of something that deserves a look; the kinds are those of `carpool.Event`."""

    kind: Literal["held", "late", "strangers"]
    message: str
    lane: Lane | None = None
    batch_id: str | None = None


class Relay(msgspec.Struct, frozen=True, gc=False):
    """Tell the other processes of the journal that these remote batches have ended, which are not known here."""

    remote_ids: tuple[str, ...]


class Anew(msgspec.Struct, frozen=True, gc=False):
    """Say that these rows, which were asked for again, are not here."""

    numbers: Collection[int]


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Cancel a remote batch."""

    remote_id: str


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete remote files, and uploads that may have arrived; with a `key` they are all that its batch left.

    Listings lag: for `pause` seconds they may not show the uploads yet.
    """

    file_ids: tuple[str, ...]
    sought: Sought | None = None
    key: str | None = None
    pause: float = 0.0


class Discard(msgspec.Struct, frozen=True, gc=False):
    """Drop a spool segment: all its rows are settled."""

    segment: int


Step: TypeAlias = Upload | Claim | Create | Find | Check | Collect
Command: TypeAlias = (
    Record | Count | Step | SendLive | Settle | Bill | Fail | LetGo | Tell | Relay | Anew | Cancel | Delete | Discard
)
