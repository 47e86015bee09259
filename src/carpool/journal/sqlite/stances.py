"""What living processes say of rows, where it is not what others would take for granted."""

from collections.abc import Collection

from ...engine.events import GivenUp, Settled, Wanted
from ...engine.packing import common
from ...naming import shard_of
from .database import Database
from .packed import unpack_runs

_SAY = "INSERT OR REPLACE INTO stance (row, shard, wanted) VALUES (?, ?, ?)"


class Stances:
    """Keep what processes say of rows, until these have ended, or the process has."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.shard = 0  # this process's

    def say(self, fact: Wanted | GivenUp, at: float) -> None:
        """Say that others wait for rows, or need not."""
        wanted = isinstance(fact, Wanted)
        self._db.execute_many(_SAY, [(row, self.shard, wanted) for row in fact.rows])

    def settle(self, fact: Settled) -> None:
        """Forget what was said of rows that have ended."""
        if self._is_silent or not fact.rows:
            return
        query = "SELECT row FROM stance WHERE row BETWEEN ? AND ?"
        said = self._db.execute(query, min(fact.rows), max(fact.rows)).fetchall()
        ended = set(said).intersection((row,) for row in fact.rows)
        self._db.execute_many("DELETE FROM stance WHERE row = ?", ended)

    @property
    def _is_silent(self) -> bool:
        """Tell whether nothing is said of any row, as nearly always."""
        return not self._db.value("SELECT EXISTS (SELECT 1 FROM stance)")

    def forget(self, shard: int) -> None:
        """Forget what a process said."""
        self._db.execute("DELETE FROM stance WHERE shard = ?", shard)

    def under_way(self, rows: Collection[int]) -> set[int]:
        """Say which rows are under way: those that a process accepted itself that lives, and those in any batch, unless
        their process says something else."""
        query = "SELECT holder FROM shard WHERE id = ?"
        holders = {shard: self._db.value(query, shard) for shard in set(map(shard_of, rows))}
        held = {row: holder for row in rows if (holder := holders[shard_of(row)]) is not None}
        said = self._said(held)
        found = {row for row, holder in held.items() if said.get(row, holder == shard_of(row))}
        return found | self._batched(sorted(held.keys() - found - said.keys()))

    def _said(self, held: dict[int, int]) -> dict[int, bool]:
        """Give what is said of rows by those who hold them: what others said before is nothing any more."""
        if self._is_silent:
            return {}
        query = "SELECT wanted FROM stance WHERE row = ? AND shard = ?"
        said = {row: self._db.value(query, row, holder) for row, holder in held.items()}
        return {row: bool(wanted) for row, wanted in said.items() if wanted is not None}

    def _batched(self, rows: list[int]) -> set[int]:
        if not rows:
            return set()
        packed = self._db.execute("SELECT runs FROM batch WHERE done_at IS NULL").fetchall()
        return {row for (runs,) in packed for run in unpack_runs(runs) for row in common(run.rows, rows)}
