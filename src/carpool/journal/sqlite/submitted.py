"""What was submitted: each submission until it is acked, and its key as long as its answer is kept."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from ...engine.events import Acked, Outstanding, Submission, Submitted, Unclaimed, Unmet
from ...naming import span_of
from .. import Ending, Keyed, Stamped
from .database import Database
from .outcomes import Outcomes

_ASKED = 500  # keys, or rows, looked up by one statement
_TOLD = 10_000  # submissions told of at once

_encode = msgspec.msgpack.Encoder().encode
_tags = msgspec.msgpack.Decoder(tuple[str, ...])


class Submissions:
    """Keep the submissions of all processes."""

    def __init__(self, db: Database, outcomes: Outcomes) -> None:
        self._db = db
        self._outcomes = outcomes

    # --- keys

    def claim(self, asked: Mapping[str, bytes], shard: int, ours: Collection[int]) -> dict[str, Keyed]:
        """Claim keys for a shard; gives those that are taken, but not what was claimed in vain in shards of `ours`."""
        with self._db.transaction():
            taken = {
                key: Keyed(row, digest)
                for key, digest, row, holder in self._claims(list(asked))
                if row is not None or holder not in ours
            }
            free = [(key, digest, shard) for key, digest in asked.items() if key not in taken]
            self._db.execute_many("INSERT OR REPLACE INTO submission_key (key, digest, shard) VALUES (?, ?, ?)", free)
        return taken

    def _claims(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes, int | None, int]]:
        for start in range(0, len(keys), _ASKED):
            asked = keys[start : start + _ASKED]
            holes = ",".join("?" * len(asked))
            query = f"SELECT key, digest, row, shard FROM submission_key WHERE key IN ({holes})"  # noqa: S608
            yield from self._db.execute(query, *asked).fetchall()

    def unclaim(self, fact: Unclaimed, at: float) -> None:
        """Let a key be claimed anew under which nothing was submitted."""
        self._db.execute("DELETE FROM submission_key WHERE key = ? AND row IS NULL", fact.key)

    def drop_claims(self, shards: Iterable[int]) -> None:
        """Forget what processes claimed that are gone, and never recorded."""
        self._db.execute_many(
            "DELETE FROM submission_key WHERE shard = ? AND row IS NULL", [(shard,) for shard in shards]
        )

    def drop_old(self, before: float) -> None:
        """Forget keys whose answers were taken care of before a time."""
        self._db.execute("DELETE FROM submission_key WHERE acked_at < ?", before)

    # --- facts

    def add(self, fact: Submitted, at: float) -> None:
        """Keep submissions."""
        kept = map(_packed, fact.submissions)
        self._db.execute_many("INSERT INTO submission (row, key, tags, until) VALUES (?, ?, ?, ?)", kept)
        keyed = [(one.row, one.key) for one in fact.submissions if one.key is not None]
        self._db.execute_many("UPDATE submission_key SET row = ? WHERE key = ?", keyed)

    def fail(self, fact: Unmet, at: float) -> None:
        """Keep why submissions have no answer; what was said first holds."""
        said = [(fact.error, row) for row in fact.rows]
        self._db.execute_many("UPDATE submission SET error = ? WHERE row = ? AND error IS NULL", said)

    def ack(self, fact: Acked, at: float) -> None:
        """Forget a submission; what failed may be submitted anew under its key."""
        key = self._db.value("SELECT key FROM submission WHERE row = ?", fact.row)
        self._db.execute("DELETE FROM submission WHERE row = ?", fact.row)
        if key is None:
            return
        if fact.answered:
            self._db.execute("UPDATE submission_key SET acked_at = ? WHERE key = ?", at, key)
        else:
            self._db.execute("DELETE FROM submission_key WHERE key = ?", key)

    # --- what is there

    def endings(self, rows: Sequence[int]) -> dict[int, Ending]:
        """Say how submissions, in the order of their rows, ended."""
        places = self._outcomes.find(rows)
        found = ((row, key, error) for row, key, error in self._kept(rows) if error is not None or row in places)
        return {row: Ending(key, places.get(row) if error is None else None, error) for row, key, error in found}

    def _kept(self, rows: Sequence[int]) -> Iterator[tuple[int, str | None, bytes | None]]:
        for start in range(0, len(rows), _ASKED):
            asked = rows[start : start + _ASKED]
            query = f"SELECT row, key, error FROM submission WHERE row IN ({','.join('?' * len(asked))})"  # noqa: S608
            yield from self._db.execute(query, *asked).fetchall()

    def outstanding(self, shards: Iterable[int], now: float) -> Iterator[Stamped]:
        """Tell of the submissions in some shards, in chunks."""
        query = "SELECT row, tags, until, error IS NULL FROM submission WHERE row BETWEEN ? AND ? ORDER BY row LIMIT ?"
        for shard in shards:
            first, last = span_of(shard)
            while found := self._db.execute(query, first, last, _TOLD).fetchall():
                yield now, self._told(found)
                first = found[-1][0] + 1

    def _told(self, found: list[tuple[int, bytes | None, float | None, int]]) -> Outstanding:
        answered = self._outcomes.answered([row for row, *_ in found])
        open_ = [one for one in found if one[3] and one[0] not in answered]
        rows = {row for row, *_ in open_}
        return Outstanding(
            array("Q", (row for row, *_ in found if row not in rows)),
            array("Q", (row for row, *_ in open_)),
            {row: _tags.decode(tags) for row, tags, _, _ in open_ if tags is not None},
            {row: until for row, _, until, _ in open_ if until is not None},
        )


def _packed(one: Submission) -> tuple[int, str | None, bytes | None, float | None]:
    return one.row, one.key, _encode(one.tags) if one.tags else None, one.until
