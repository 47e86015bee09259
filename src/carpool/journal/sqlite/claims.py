"""The room that batches of all processes have in the queues; whoever asks for some is answered in one transaction.

What was created, and what has ended, of that each process hears with its next answer.
"""

from collections.abc import Collection, Iterator
from typing import Any

from ...engine.claims import PATIENCE, Stand, State, decide
from ...engine.commands import Claim
from ...engine.events import Admitted, Claimed, Released, Spent
from ...models import Queue
from ...naming import number_of, shard_of, span_of
from .. import Stamped
from .database import Database
from .unfinished import HOUR

_STANDS = (
    "SELECT number / ? AS part, ifnull(holder, 0), state, sum(tokens), max(at), min(room)"
    " FROM claim LEFT JOIN shard ON shard.id = number / ? WHERE model = ? AND long = ? AND number != ?"
    " GROUP BY part, state"
)
_LEARNED = "SELECT tokens, at FROM learned WHERE model = ? AND long = ? AND at > ?"
_CREATED = (
    "SELECT number, at FROM turnover WHERE NOT ended AND at > ?"
    " AND number IN (SELECT number FROM batch WHERE done_at IS NULL)"
)
_NOTE = "INSERT OR REPLACE INTO claim (number, model, long, tokens, at, room, state) VALUES (?, ?, ?, ?, ?, ?, ?)"
_IS_OPEN = "SELECT EXISTS (SELECT 1 FROM batch WHERE number = ? AND done_at IS NULL)"
_TURN = "INSERT INTO turnover (number, model, long, tokens, at, ended) VALUES (?, ?, ?, ?, ?, ?)"


class Claims:
    """Keep who holds how much of which queue."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._heard = 0  # of the turnover

    def begin(self, shards: Collection[int], now: float) -> list[Stamped]:
        """Tell when processes other than that of these shards created the batches that are open, of the last hour."""
        self._heard = self._db.value("SELECT ifnull(max(id), 0) FROM turnover")
        created = self._db.execute(_CREATED, now - HOUR).fetchall()
        times = tuple(sorted(at for number, at in created if shard_of(number) not in shards))
        return [(now, Spent(times))] if times else []

    def claim(self, claim: Claim) -> Claimed:
        """Give room to a batch, if there is some, and tell what others did since the last time."""
        with self._db.transaction():
            number = number_of(claim.key)
            learned = self._db.execute(_LEARNED, *claim.queue, claim.heard_at).fetchone()
            stands = self._stands(claim.queue, number)
            verdict = decide(claim, stands)
            held = self._holds(number)
            granted = held or (verdict.granted and learned is None and bool(self._db.value(_IS_OPEN, number)))
            if granted and not held:
                self._grant(claim, number)
            elif not granted and not verdict.granted and learned is None:
                self._mark(claim, number)
            heard, created, ended = self._news(claim.shards)
        self._heard = heard
        return Claimed(claim.key, claim.queue, granted, verdict.others, learned, created, ended)

    def _holds(self, number: int) -> bool:
        query = "SELECT EXISTS (SELECT 1 FROM claim WHERE number = ? AND state != ?)"
        return bool(self._db.value(query, number, State.WAITS))

    def _stands(self, queue: Queue, number: int) -> Iterator[Stand]:
        shard = span_of(1)[0]
        return map(Stand._make, self._db.execute(_STANDS, shard, shard, *queue, number))

    def _grant(self, claim: Claim, number: int) -> None:
        self._note(claim, number, State.HOLDS)
        self._db.execute("DELETE FROM turnover WHERE at < ?", claim.at - HOUR)
        self._db.execute(_TURN, number, *claim.queue, claim.tokens, claim.at, False)

    def _mark(self, claim: Claim, number: int) -> None:
        """Mark that so much is waited for, once for each process; a mark that is fresh is left as it is."""
        where = "FROM claim WHERE model = ? AND long = ? AND state = ? AND number BETWEEN ? AND ?"
        fresh = f"SELECT EXISTS (SELECT 1 {where} AND tokens >= ? AND room <= ? AND at > ?)"
        since = claim.at - PATIENCE / 2
        marks = [(*claim.queue, State.WAITS, *span_of(shard)) for shard in claim.shards]
        if not any(self._db.value(fresh, *mark, claim.tokens, claim.room, since) for mark in marks):
            self._db.execute_many(f"DELETE {where}", marks)
            self._note(claim, number, State.WAITS)

    def _note(self, claim: Claim, number: int, state: State) -> None:
        self._db.execute(_NOTE, number, *claim.queue, claim.tokens, claim.at, claim.room, state)

    def _news(self, shards: Collection[int]) -> tuple[int, tuple[float, ...], tuple[tuple[Queue, float, int], ...]]:
        """Tell what others did since the last time: up to which entry, what was created when, and what has ended."""
        query = "SELECT id, number, model, long, tokens, at, ended FROM turnover WHERE id > ? ORDER BY id"
        rows: list[tuple[Any, ...]] = self._db.execute(query, self._heard).fetchall()
        heard = rows[-1][0] if rows else self._heard
        turns = [row[2:] for row in rows if shard_of(row[1]) not in shards]
        created = tuple(at for *_, at, is_end in turns if not is_end)
        ended = tuple((Queue(model, bool(long)), at, tokens) for model, long, tokens, at, is_end in turns if is_end)
        return heard, created, ended

    # --- facts

    def admit(self, fact: Admitted, at: float) -> None:
        """Note that a batch does not validate any more."""
        admit = "UPDATE claim SET state = ? WHERE number = ? AND state = ?"
        self._db.execute(admit, State.ADMITTED, number_of(fact.key), State.HOLDS)

    def release(self, fact: Released, at: float) -> None:
        """Give back the room of a batch; that it has ended others are told."""
        number = number_of(fact.key)
        if fact.ran:
            ended = "INSERT INTO turnover (number, model, long, tokens, at, ended)"
            ended += " SELECT number, model, long, tokens, ?, TRUE FROM claim WHERE number = ?"
            self._db.execute(ended, at, number)
        self.drop(number)

    def drop(self, number: int) -> None:
        """Forget what is noted of a batch."""
        self._db.execute("DELETE FROM claim WHERE number = ?", number)
