"""What an earlier process left unfinished, as facts that are told again."""

from collections.abc import Iterator, Sequence

from ...engine.events import Accepted, Created, Done, Escalated, Learned, Missing, Packed, Spent, Uploaded
from ...engine.packing import stretches
from ...models import Queue
from ...naming import client_key, span_of
from .. import Stamped
from .database import Database
from .outcomes import Outcomes
from .packed import unpack_lane, unpack_leftovers, unpack_runs, unpack_status
from .requests import Requests

HOUR = 3_600.0
_TURNS = 200  # of the event loop, whose calls are told again at once
_BATCHES = 4  # told again at once: of 50,000 requests each

_ACCEPTED = "FROM accepted WHERE segment BETWEEN ? AND ?"
_ESCALATED = "FROM escalated WHERE segment BETWEEN ? AND ?"
_BATCH = "FROM batch WHERE number BETWEEN ? AND ? AND done_at IS NULL"
_LEFT = "FROM batch WHERE number BETWEEN ? AND ? AND leaves IS NOT NULL"
_SUBMITTED = "FROM submission WHERE row BETWEEN ? AND ?"


def of_the_account(db: Database, now: float) -> list[Stamped]:
    """Tell of the limits that refusals have stated, and of the batches of the last hour that are over."""
    limits = db.execute("SELECT at, model, long, tokens FROM learned").fetchall()
    query = "SELECT packed_at FROM batch WHERE done_at IS NOT NULL AND packed_at > ? ORDER BY packed_at"
    times = tuple(at for (at,) in db.execute(query, now - HOUR))
    learned: list[Stamped] = [(at, Learned(Queue(model, bool(long)), tokens)) for at, model, long, tokens in limits]
    return [*learned, (now, Spent(times))] if times else learned


def is_finished(db: Database, shard: int) -> bool:
    """Tell whether nothing of a shard is unfinished."""
    unfinished = _ACCEPTED, _BATCH, _LEFT, _SUBMITTED
    return not any(db.value(f"SELECT EXISTS (SELECT 1 {rows})", *span_of(shard)) for rows in unfinished)


class Unfinished:
    """Tell of what is in some shards: the rows that are not settled, the batches, which may mix rows of all, and what
    batches that are over have left at the provider.

    Segments of which all rows are settled gather in `settled_segments`.
    """

    def __init__(self, db: Database, requests: Requests, outcomes: Outcomes, shards: Sequence[int]) -> None:
        self._db = db
        self._requests = requests
        self._outcomes = outcomes
        self._shards = shards
        self.settled_segments: set[int] = set()

    def __iter__(self) -> Iterator[Sequence[Stamped]]:
        accepted = self._rows(f"SELECT segment, rowid {_ACCEPTED} ORDER BY segment, rowid")
        needed: set[int] = set()
        for start in range(0, len(accepted), _TURNS):
            facts = self._accepted([rowid for _, rowid in accepted[start : start + _TURNS]])
            needed.update(fact.run.segment for _, fact in facts)
            yield facts
        batches = self._rows(f"SELECT number {_BATCH} ORDER BY number")
        for start in range(0, len(batches), _BATCHES):
            told = [fact for (number,) in batches[start : start + _BATCHES] for fact in self._batch(number)]
            needed.update(run.segment for _, fact in told if isinstance(fact, Packed) for run in fact.runs)
            yield told
        self.settled_segments = {segment for segment, _ in accepted} - needed
        if escalated := self._rows(f"SELECT rowid {_ESCALATED} ORDER BY rowid"):
            yield [self._escalated(rowid) for (rowid,) in escalated]
        if left := self._rows(f"SELECT number {_LEFT} ORDER BY number"):
            yield [self._left(number) for (number,) in left]

    def _rows(self, query: str) -> list[tuple[int, ...]]:
        return [row for shard in self._shards for row in self._db.execute(query, *span_of(shard))]

    def _accepted(self, rowids: Sequence[int]) -> list[tuple[float, Accepted]]:
        """Tell what is left of what joined; of all of it the outcomes are looked through once."""
        query = "SELECT at, lane, rich, run FROM accepted WHERE rowid = ?"
        found = [self._db.execute(query, rowid).fetchone() for rowid in rowids]
        runs = [unpack_runs(packed)[0] for *_, packed in found]
        over = self._outcomes.answered(sorted(row for run in runs for row in run.rows))
        told: list[tuple[float, Accepted]] = []
        for (at, lane, rich, _), run in zip(found, runs, strict=True):
            ended = over | self._requests.gone(run.rows)
            parts = stretches(run, (row in ended for row in run.rows))
            told += [(at, Accepted(unpack_lane(lane), part, bool(rich))) for is_over, part in parts if not is_over]
        return told

    def _batch(self, number: int) -> Iterator[Stamped]:
        query = (
            "SELECT (SELECT pool FROM folder), lane, runs, packed_at, file_id, uploaded_at, status, created_at,"
            " missing, missing_at FROM batch WHERE number = ?"
        )
        found = self._db.execute(query, number).fetchone()
        pool, lane, runs, packed_at, file_id, uploaded_at, status, created_at, missing, missing_at = found
        key = client_key(pool, number)
        yield packed_at, Packed(number, unpack_lane(lane), unpack_runs(runs))
        if file_id is not None:
            yield uploaded_at, Uploaded(key, file_id)
        if status is not None:
            yield created_at, Created(key, unpack_status(status))
        if missing is not None:
            yield missing_at, Missing(key, missing)

    def _escalated(self, rowid: int) -> Stamped:
        at, lane, runs = self._db.execute("SELECT at, lane, runs FROM escalated WHERE rowid = ?", rowid).fetchone()
        return at, Escalated(unpack_lane(lane), unpack_runs(runs))

    def _left(self, number: int) -> Stamped:
        query = "SELECT (SELECT pool FROM folder), batch_id, done_at, leaves FROM batch WHERE number = ?"
        pool, batch_id, done_at, leaves = self._db.execute(query, number).fetchone()
        return done_at, Done(client_key(pool, number), batch_id, unpack_leftovers(leaves))
