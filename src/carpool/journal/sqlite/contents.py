"""What a journal holds, counted from outside: a million requests take a fraction of a second."""

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ...models import Lane
from ...naming import client_key
from .packed import array_of, unpack_lane, unpack_runs
from .peek import Reader, look

Stage: TypeAlias = Literal["packed", "uploaded", "created"]

# In no other order than that of the index: SQLite would hold the runs of all batches to sort them.
_OPEN = (
    "SELECT number, lane, runs, packed_at, uploaded_at, batch_id, created_at FROM batch WHERE done_at IS NULL"
    " ORDER BY number"
)
_KNOWN = "SELECT count(*) FROM json_each(?) JOIN request ON request.row = value"  # a third of the time of many "IN"


class OpenBatch(NamedTuple):
    """Tell of a batch that is not over; `unanswered` of its rows have not failed, nor been answered elsewhere.

    `since` is when its stage began, in seconds since the epoch; `batch_id` is None before it was created.
    """

    key: str
    batch_id: str | None
    lane: Lane
    rows: int
    unanswered: int
    stage: Stage
    since: float


class Contents(NamedTuple):
    """Count what a journal holds.

    `known` requests are `answered`, or `in_flight` in the `open` batches, the oldest of which comes first, or were sent
    `live` and have no answer yet, or wait; failed ones are not known any more. All answers but the `undelivered` were
    given to callers; `last_at` is when the last came, in seconds since the epoch. `done` batches are over, and not
    forgotten yet.
    """

    account: str
    known: int
    answered: int
    undelivered: int
    live: int
    last_at: float | None
    open: tuple[OpenBatch, ...]
    done: int

    @property
    def in_flight(self) -> int:
        """Count the requests in open batches."""
        return sum(batch.unanswered for batch in self.open)

    @property
    def waiting(self) -> int:
        """Count the requests that are in no batch."""
        return self.known - self.answered - self.in_flight - self.live


def contents(folder: Path) -> Contents | None:
    """Count what the journal in a folder holds; None while it is only being made. Raises `JournalError`."""
    return look(folder, _contents)


def _contents(reader: Reader) -> Contents:
    ((pool, account),) = reader.rows("SELECT pool, account FROM folder")
    answers = "SELECT total(answered), total(undelivered), max(at) FROM outcome"
    ((answered, undelivered, last_at),) = reader.rows(answers)
    sent = _sent_live(reader)
    open_ = sorted(_open_batches(reader, pool, sent), key=lambda batch: batch.since)
    return Contents(
        account=account,
        known=reader.value("SELECT count(*) FROM request"),
        answered=int(answered),
        undelivered=int(undelivered),
        live=_known(reader, sent),
        last_at=last_at,
        open=tuple(open_),
        done=reader.value("SELECT count(*) FROM batch WHERE done_at IS NOT NULL"),
    )


def _open_batches(reader: Reader, pool: str, sent: set[int]) -> Iterator[OpenBatch]:
    """Give the open batches, and take their rows out of those that were sent live."""
    answered: set[int] | None = None  # live: where a batch answers, it is over
    for number, lane, runs, packed_at, uploaded_at, batch_id, created_at in reader.rows(_OPEN):
        if answered is None:
            answered = set(_answers(reader, "batch_id = ''"))
        rows = list(chain.from_iterable(run.rows for run in unpack_runs(runs)))
        sent.difference_update(rows)
        unanswered = _known(reader, set(rows) - answered if answered else rows)
        stage, since = _stage(packed_at, uploaded_at, created_at)
        yield OpenBatch(client_key(pool, number), batch_id, unpack_lane(lane), len(rows), unanswered, stage, since)


def _stage(packed_at: float, uploaded_at: float | None, created_at: float | None) -> tuple[Stage, float]:
    if created_at is not None:
        return "created", created_at
    return ("packed", packed_at) if uploaded_at is None else ("uploaded", uploaded_at)


def _sent_live(reader: Reader) -> set[int]:
    """Give the rows that were sent live and are not answered."""
    found = (run.rows for (runs,) in reader.rows("SELECT runs FROM escalated") for run in unpack_runs(runs))
    sent = set(chain.from_iterable(found))
    if sent:
        sent.difference_update(_answers(reader, "last >= ? AND first <= ?", min(sent), max(sent)))
    return sent


def _answers(reader: Reader, which: str, *values: int) -> Iterator[int]:
    for (rows,) in reader.rows(f"SELECT rows FROM outcome WHERE {which}", *values):  # noqa: S608 - `which` is ours
        yield from array_of("Q", rows)


def _known(reader: Reader, rows: Collection[int]) -> int:
    """Count those of these rows that are known still: the others failed."""
    known: int = reader.value(_KNOWN, str(list(rows)))
    return known
