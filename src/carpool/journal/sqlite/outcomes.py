"""Where the answers lie: packed arrays, of which those used last are kept in memory."""

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ...engine.events import ANSWERED, DELIVERED, Settled
from .. import Place
from .database import Database
from .packed import array_of

_KEPT = 16  # outcomes whose arrays stay in memory: some 17 MB of the largest batches


class _Outcome(NamedTuple):
    batch_id: str
    file: str
    rows: "array[int]"
    offsets: "array[int]"
    sizes: "array[int]"
    marks: bytearray


class Outcomes:
    """Keep the outcomes of all processes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._version = 0
        self._arrays: OrderedDict[int, _Outcome] = OrderedDict()

    def add(self, settled: Settled, order: Sequence[int], at: float) -> None:
        """Keep where answers lie: those at the positions `order`, which is that of their rows."""
        rows, offsets = (array("Q", map(packed.__getitem__, order)) for packed in (settled.rows, settled.offsets))
        sizes = array("I", map(settled.sizes.__getitem__, order))
        marks = bytes(map(settled.marks.__getitem__, order))
        self._db.execute(
            "INSERT INTO outcome (at, batch_id, file, first, last, answered, undelivered, rows, offsets, sizes, marks)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            at,
            settled.batch_id,
            settled.file,
            rows[0],
            rows[-1],
            len(rows),
            marks.count(ANSWERED),
            rows.tobytes(),
            offsets.tobytes(),
            sizes.tobytes(),
            marks,
        )

    def deliver(self, rows: Iterable[int], at: float, *, received: bool) -> None:
        """Note whether callers received answers, at this time."""
        for id_, outcome, found in self._holding(sorted(rows)):
            is_first = any(not outcome.marks[position] & DELIVERED for position in found)
            for position in found:
                outcome.marks[position] = ANSWERED | DELIVERED * received
            undelivered = outcome.marks.count(ANSWERED)
            # What is given again is no younger for that.
            self._db.execute(
                "UPDATE outcome SET marks = ?, undelivered = ?, delivered_at = coalesce(?, delivered_at) WHERE id = ?",
                bytes(outcome.marks),
                undelivered,
                at if is_first else None,
                id_,
            )

    def find(self, rows: Sequence[int]) -> dict[int, Place]:
        """Say where the answers to these rows, in order, lie."""
        return {
            outcome.rows[i]: Place(
                outcome.file,
                outcome.batch_id,
                outcome.offsets[i],
                outcome.sizes[i],
                bool(outcome.marks[i] & DELIVERED),
            )
            for _, outcome, found in self._holding(rows)
            for i in found
        }

    def answered(self, rows: Sequence[int]) -> set[int]:
        """Say which of these rows, in order, are answered."""
        return {outcome.rows[position] for _, outcome, found in self._holding(rows) for position in found}

    def drop(self, id_: int) -> Sequence[int]:
        """Forget an outcome, and give its rows."""
        rows: bytes = self._db.value("SELECT rows FROM outcome WHERE id = ?", id_) or b""
        self._db.execute("DELETE FROM outcome WHERE id = ?", id_)
        return array_of("Q", rows)

    def forget_arrays(self) -> None:
        """Read everything anew: what was read since the transaction began may never have come to be."""
        self._arrays.clear()

    def _holding(self, rows: Sequence[int]) -> Iterator[tuple[int, _Outcome, list[int]]]:
        """Give the outcomes that hold some of these sorted rows, and at which positions."""
        if not rows:
            return
        version = self._db.value("PRAGMA data_version")
        if version != self._version:  # another process has written: it may have delivered what is kept here
            self._version = version
            self._arrays.clear()
        query = "SELECT id, first, last FROM outcome WHERE last >= ? AND first <= ? ORDER BY id"
        for id_, first, last in self._db.execute(query, rows[0], rows[-1]).fetchall():
            among = rows[bisect_left(rows, first) : bisect_right(rows, last)]
            outcome = self._outcome(id_) if among else None
            if outcome is not None:
                held = outcome.rows
                found = [at for row in among if (at := bisect_left(held, row)) < len(held) and held[at] == row]
                if found:
                    yield id_, outcome, found

    def _outcome(self, id_: int) -> _Outcome | None:
        """Give an outcome, None where another process dropped it meanwhile."""
        outcome = self._arrays.get(id_)
        if outcome is None:
            query = "SELECT batch_id, file, rows, offsets, sizes, marks FROM outcome WHERE id = ?"
            found = self._db.execute(query, id_).fetchone()
            if found is None:
                return None
            batch_id, file, rows, offsets, sizes, marks = found
            arrays = array_of("Q", rows), array_of("Q", offsets), array_of("I", sizes), bytearray(marks)
            if len(set(map(len, arrays))) > 1:
                raise ValueError("arrays of different lengths")
            outcome = self._arrays[id_] = _Outcome(batch_id or "", file, *arrays)
            if len(self._arrays) > _KEPT:
                self._arrays.popitem(last=False)
        self._arrays.move_to_end(id_)
        return outcome
