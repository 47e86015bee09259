"""Calls with keys that processes are about to record: while one does, no other begins with the same."""

from collections.abc import Collection, Iterable, Iterator

from .. import DIGEST
from .. import Intents as Declared
from .database import Database

_ASKED = 500  # digests looked up by one statement
_STALE = 600.0  # seconds, after which whoever declared something has failed to record it, and to withdraw


class Intents:
    """Keep what living processes are about to record, by digests, until that is recorded."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._own: set[bytes] = set()  # of this process
        self._shard = 0

    def declare(self, digests: Collection[bytes], shard: int, ours: Collection[int], now: float) -> Declared:
        """Declare what a shard is about to record, but for what shards are that are none of `ours`."""
        with self._db.transaction():
            declared = dict(self._declared(list(digests), now))
            others = frozenset(digest for digest, holder in declared.items() if holder not in ours)
            own = set(digests) - others
            values = [(digest, shard, now) for digest in own]
            self._db.execute_many("INSERT OR REPLACE INTO intent (digest, shard, at) VALUES (?, ?, ?)", values)
        self._own |= own
        self._shard = shard
        return Declared(others, frozenset(declared) - others)

    def _declared(self, digests: list[bytes], now: float) -> Iterator[tuple[bytes, int]]:
        for start in range(0, len(digests), _ASKED):
            asked = digests[start : start + _ASKED]
            holes = ",".join("?" * len(asked))
            query = f"SELECT digest, shard FROM intent WHERE digest IN ({holes}) AND at > ?"  # noqa: S608
            yield from self._db.execute(query, *asked, now - _STALE).fetchall()

    def withdraw(self, digests: Collection[bytes]) -> None:
        """Leave to others what is not going to be recorded."""
        with self._db.transaction():
            self._drop(digests)

    def recorded(self, digests: bytes) -> None:
        """Note what is being recorded, end to end: others find it from now on."""
        if self._own:
            self._drop(self._own.intersection(digests[i : i + DIGEST] for i in range(0, len(digests), DIGEST)))

    def _drop(self, digests: Collection[bytes]) -> None:
        own = [(digest, self._shard) for digest in digests]
        self._db.execute_many("DELETE FROM intent WHERE digest = ? AND shard = ?", own)
        self._own.difference_update(digests)

    def forget(self, shards: Iterable[int]) -> None:
        """Forget what processes were about to record that are gone."""
        self._db.execute_many("DELETE FROM intent WHERE shard = ?", [(shard,) for shard in shards])
