"""Word that batches have ended, left for the process whose batches they are."""

from collections.abc import Collection

from .database import Database
from .unfinished import HOUR

# Only what may be of this folder: of a batch whose creation is not recorded yet, the id is not known.
_LEAVE = (
    "INSERT OR IGNORE INTO woken (batch_id, at) SELECT ?, ? WHERE EXISTS"
    " (SELECT 1 FROM batch WHERE done_at IS NULL AND (batch_id = ? OR batch_id IS NULL))"
)


class Woken:
    """Keep word for an hour."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def leave(self, batch_ids: Collection[str], at: float) -> None:
        """Leave word of batches, unless nobody here waits for any such."""
        with self._db.transaction():
            self._db.execute("DELETE FROM woken WHERE at < ?", at - HOUR)
            for batch_id in batch_ids:
                self._db.execute(_LEAVE, batch_id, at, batch_id)

    def take(self, batch_ids: Collection[str]) -> frozenset[str]:
        """Take the word that came of some of these batches."""
        with self._db.mapped():
            found = {batch_id for (batch_id,) in self._db.execute("SELECT batch_id FROM woken")}
        taken = found.intersection(batch_ids)
        if taken:
            with self._db.transaction():
                self._db.execute_many("DELETE FROM woken WHERE batch_id = ?", [(batch_id,) for batch_id in taken])
        return frozenset(taken)
