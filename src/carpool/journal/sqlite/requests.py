"""By what requests are known again: those that wait, are under way or are answered."""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain

from .database import Database
from .packed import array_of

_ADDED = 900  # values that one statement adds: row by row it takes half as long again (measured)
_ASKED = 500  # digests looked up by one statement


class Requests:
    """Keep the digests of all processes, as two numbers each: an index of numbers costs a third less than of BLOBs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, rows: Sequence[int], digests: bytes) -> None:
        """Keep the digests of rows, which lie end to end."""
        halves = array_of("q", digests)
        values = list(chain.from_iterable(zip(rows, halves[::2], halves[1::2], strict=True)))
        for start in range(0, len(values), _ADDED):
            added = values[start : start + _ADDED]
            holes = ",".join(["(?, ?, ?)"] * (len(added) // 3))
            self._db.execute(f"INSERT INTO request (row, head, tail) VALUES {holes}", *added)  # noqa: S608 - holes alone

    def forget(self, rows: Iterable[int]) -> None:
        """Let rows never be known again."""
        self._db.execute_many("DELETE FROM request WHERE row = ?", ((row,) for row in rows))

    def find(self, digests: Collection[bytes]) -> list[tuple[int, bytes]]:
        """Give the rows that bear these digests, in order, each with its own."""
        halves = array_of("q", b"".join(digests))
        heads = halves[::2]
        digest_of = dict(zip(zip(heads, halves[1::2], strict=True), digests, strict=True))
        found: list[tuple[int, bytes]] = []
        for start in range(0, len(heads), _ASKED):
            asked = heads[start : start + _ASKED]
            query = f"SELECT row, head, tail FROM request WHERE head IN ({','.join('?' * len(asked))})"  # noqa: S608
            for row, head, tail in self._db.execute(query, *asked):
                if digest := digest_of.get((head, tail)):
                    found.append((row, digest))
        found.sort()
        return found

    def gone(self, rows: Sequence[int]) -> set[int]:
        """Say which of these rows, in order, are not known any more: they failed, or were answered long ago."""
        first, last = rows[0], rows[-1]
        known = self._db.value("SELECT count(*) FROM request WHERE row BETWEEN ? AND ?", first, last)
        if known == last - first + 1:
            return set()
        query = "SELECT row FROM request WHERE row BETWEEN ? AND ?"
        return set(rows).difference(row for (row,) in self._db.execute(query, first, last))
