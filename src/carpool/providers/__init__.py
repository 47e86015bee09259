"""Wire formats, pure: what to send, and what came back.

A flow is a generator that yields a `Call` and receives its `Reply`; it returns its result or raises `CallFailed`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from ..config import Escalate
from ..models import (
    BatchStatus,
    Body,
    Call,
    Encoded,
    Failure,
    FileLimits,
    Flow,
    PackedBatch,
    Reply,
    Row,
    Sought,
    Standings,
    Usage,
)


class Provider(Protocol):
    """Speak one provider's Batch API; `encode`, `frame` and `limits` say what its input files are made of."""

    @property
    def limits(self) -> FileLimits:
        """Bound one input file."""
        ...

    def encode(self, endpoint: str, body: Body) -> Encoded:
        """Check a call and encode it; raises `Unbatchable` or `LimitExceeded`."""
        ...

    def frame(self, pool: str, endpoint: str) -> tuple[bytes, bytes, bytes]:
        """Give what stands before the row number, between it and the body, and behind the body on an input line."""
        ...

    def upload(self, batch: PackedBatch) -> Flow[str]:
        """Upload an input file, whose name carries the client key, and give its id."""
        ...

    def uploads(self, sought: Sought) -> Flow[list[str]]:
        """Look for the input files that were uploaded for a batch, and give their ids."""
        ...

    def create(self, batch: PackedBatch, file_id: str) -> Flow[BatchStatus]:
        """Create a batch with the client key in its metadata."""
        ...

    def find(self, keys: Mapping[str, str], since: float) -> Flow[list[BatchStatus]]:
        """Look for batches by their client keys, or by the input files, which are the values.

        `since` is a time before which none of them was created, in seconds since the epoch. Those of which nothing
        could be learned have `NO_REPLY`; those that are left out do not exist.
        """
        ...

    def check(self, remote_ids: Sequence[str]) -> Flow[list[BatchStatus]]:
        """Ask how batches stand, the newest first.

        Those that the provider does not know are left out; those it gave no usable reply about have `NO_REPLY`.
        """
        ...

    def look(self, remote_ids: Sequence[str], place: str | None, others: Collection[str]) -> Flow[Standings]:
        """Ask the same, by listing what is at a place, or singly where that is None.

        Of `others` is told what the listing shows by the way.
        """
        ...

    def collect(self, status: BatchStatus) -> list[Call]:
        """Name the files of an ended batch."""
        ...

    def refused(self, reply: Reply) -> Failure:
        """Say what a reply other than 2xx means."""
        ...

    def is_final(self, call: Call, reply: Reply) -> bool:
        """Tell whether another try of a refused call would fare no better."""
        ...

    def parse_row(self, line: bytes, offset: int = 0) -> Row:
        """Read one line of an output or error file, which begins there; ValueError when it is not a row."""
        ...

    def row_line(self, custom_id: str, row: Row) -> bytes:
        """Write an answer as the line of an output file that `parse_row` reads."""
        ...

    def usage(self, row: Row) -> Usage | None:
        """Give the tokens that an answer says it was billed, None where it does not say."""
        ...

    def total_usage(self, rows: Iterable[Row]) -> Usage:
        """Add up the tokens that answers say they were billed."""
        ...

    def live(self, call: Encoded, tier: Escalate = "live") -> Flow[Row]:
        """Send one call at once, at full price or in the "flex" tier, and give the row it would have become."""
        ...

    def cancel(self, remote_id: str) -> Call:
        """Cancel a batch."""
        ...

    def delete(self, file_id: str) -> Call:
        """Delete a file."""
        ...
