"""What carpool has left at the provider, and what of it may go: pure, and times are seconds since the epoch.

The one mistake that cannot be mended is to delete answers that are paid for and that nobody has: whatever could be that
stays. That a file is still there says as much, for pools delete files once they have them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..providers.overview import RemoteFile
from ..providers.replies import Listed
from .batch_words import Kind, files_of
from .ownership import key_of, pool_of

DAY = 86_400.0
HOUR = 3_600.0


class Account(NamedTuple):
    """Hold what is there: `batches` reach back beyond all files, unless `complete` is false."""

    inputs: Sequence[RemoteFile]
    outputs: Sequence[RemoteFile]
    batches: Sequence[Listed]
    complete: bool


class Known(NamedTuple):
    """Hold what journals know: ids of batches and files that are awaited, and of files that are on disk."""

    awaited: frozenset[str] = frozenset()
    on_disk: frozenset[str] = frozenset()


class Leftover(NamedTuple):
    """Tell of a file: the batches that it is of, and the client key it was made under, None where others made it."""

    file: RemoteFile
    kind: Kind
    batches: tuple[Listed, ...]
    key: str | None


class Verdict(NamedTuple):
    """Say why a file stays; "" where it may go. What is `forcible` may go all the same, if somebody says so."""

    reason: str
    forcible: bool = False


GOES = Verdict("")


def leftovers(account: Account) -> list[Leftover]:
    """Tell of each file what is known of it, the newest first."""
    batches: dict[str, list[Listed]] = {}
    rows: dict[str, Kind] = {}  # which stay rows where somebody has made an input file of them
    for batch in account.batches:
        for kind, file_id in files_of(batch).items():
            if file_id is not None:
                batches.setdefault(file_id, []).append(batch)
                if kind != "input":
                    rows[file_id] = kind
    inputs, outputs = ({file.id: file for file in files} for files in (account.inputs, account.outputs))
    found = [
        _leftover(file, rows.get(id_) or _kind(file, id_ in inputs, id_ in outputs), batches.get(id_, ()))
        for id_, file in (inputs | outputs).items()
    ]
    return sorted(found, key=lambda left: -(left.file.created_at or 0.0))


def _kind(file: RemoteFile, among_inputs: bool, among_outputs: bool) -> Kind:
    """Go by the lists that a file stands in: in both, where a server knows no purposes, it may be rows."""
    return "input" if among_inputs and (not among_outputs or key_of(file.name)) else "output"


def _leftover(file: RemoteFile, kind: Kind, batches: Iterable[Listed]) -> Leftover:
    keys = [batch.status.key for batch in batches if batch.status.key is not None]
    named = key_of(file.name) if kind == "input" else None
    return Leftover(file, kind, tuple(batches), next(iter(keys), named))


def verdicts(found: Sequence[Leftover], account: Account, known: Known, now: float) -> Iterator[Verdict]:
    """Say of each file whether it may go."""
    busy = {pool_of(batch.status.key) for batch in account.batches if batch.open and batch.status.key is not None}
    for left in found:
        yield _kept(left, account, known, now) or (GOES if left.file.id in known.on_disk else _doubted(left, busy, now))


def _kept(left: Leftover, account: Account, known: Known, now: float) -> Verdict | None:
    """Say why a file must stay."""
    if any(batch.open for batch in left.batches):
        return Verdict("its batch is not over")
    names = {left.file.id, left.key, *(batch.status.id for batch in left.batches)}
    if not names.isdisjoint(known.awaited):
        return Verdict("the journal awaits it")
    # Of an input file more batches may have been made than were read, and one of those may run.
    if not account.complete and (left.kind == "input" or not left.batches):
        return Verdict("more batches than were read")
    # Listings lag: its batch may run and not be shown yet.
    if not left.batches and (left.file.created_at is None or left.file.created_at > now - HOUR):
        return Verdict("made within the hour")
    return None


def _doubted(left: Leftover, busy: set[str], now: float) -> Verdict:
    """Say why a file stays unless somebody knows better."""
    if left.kind != "input" and not left.batches:
        return Verdict("its batch is unknown", forcible=True)
    if not left.batches and left.key is not None and pool_of(left.key) in busy:
        return Verdict("its pool is at work", forcible=True)
    ended = [batch.ended_at for batch in left.batches] or [left.file.created_at]
    if any(at is None or at > now - DAY for at in ended):
        return Verdict(f"{'ended' if left.batches else 'uploaded'} within a day", forcible=True)
    if left.kind != "input":
        return Verdict("nobody is known to have fetched it", forcible=True)
    return GOES
