"""A journal's folder as one process sees it: its shard, the shards of the dead, and what may be thrown away."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from secrets import token_hex

from ...errors import JournalError
from ...naming import segment_name, shard_of_file, span_of
from .. import Ending, Keyed, Known, Stamped, Summary
from .. import Intents as Declared
from .claims import Claims
from .database import Database
from .facts import Facts
from .folder import Lock, living, lock_path, prepare, untouched
from .intents import Intents
from .outcomes import Outcomes
from .requests import Requests
from .stances import Stances
from .submitted import Submissions
from .unfinished import HOUR, Unfinished, is_finished, of_the_account
from .woken import Woken

_TURN = 0.02  # seconds of a transaction in which is forgotten what is old
_FRESH = 86_400.0  # seconds for which no file of a living process is removed

# Whether anything was, or may have been, sent to the account: what only waits may go to another.
_SENT = (
    "SELECT EXISTS (SELECT 1 FROM batch WHERE done_at IS NULL OR batch_id IS NOT NULL)",
    "SELECT EXISTS (SELECT 1 FROM escalated)",
    "SELECT EXISTS (SELECT 1 FROM outcome)",
)


class Store:
    """Hold a journal's folder open; called from one thread at a time.

    `account` says whose batches are meant; `retention` is how long delivered answers are kept, in seconds.
    """

    def __init__(self, folder: Path, account: str, retention: float) -> None:
        self.folder = folder
        self.pool: str
        self.key_mark: str | None
        self.shard: int = 0
        self._lock: Lock | None = None
        self._db = Database(prepare(folder), self._alive)
        self._requests = Requests(self._db)
        self._outcomes = Outcomes(self._db)
        self.claims: Claims = Claims(self._db)
        self.woken: Woken = Woken(self._db)
        self._submissions = Submissions(self._db, self._outcomes)
        self._stances = Stances(self._db)
        self.intents: Intents = Intents(self._db)
        self._facts = Facts(
            self._db, self._requests, self._outcomes, self._submissions, self.claims, self._stances, self.intents
        )
        try:
            with self._db.transaction():
                self._db.migrate()
                self.pool, self.key_mark = self._check(account)
                self.shard = self._stances.shard = self._join()
            self.told: set[int] = {self.shard}  # shards whose unfinished work goes on here
            self._retention = retention
            for _ in self._drop_old(time.time()):
                pass
            with self._db.mapped():
                self._opening: list[Stamped] | None = of_the_account(self._db, time.time())
        except BaseException:
            self._let_go()
            raise

    def _check(self, account: str) -> tuple[str, str | None]:
        found = self._db.execute("SELECT pool, account, key_mark FROM folder").fetchone()
        if found is None:
            found = token_hex(6), account, None
            self._db.execute("INSERT INTO folder (pool, account, key_mark) VALUES (?, ?, ?)", *found)
        pool, known, key_mark = found
        if known != account and not living(self.folder, None) and not any(map(self._db.value, _SENT)):
            self._db.execute("UPDATE folder SET account = ?, key_mark = NULL", account)
            key_mark = None
        elif known != account:
            raise JournalError(
                f"The journal in {self.folder} belongs to {known}, not to {account}: its batches would not be found. "
                "Use that account, or another folder."
            )
        return pool, key_mark

    def _join(self) -> int:
        while True:
            shard = self._db.execute("INSERT INTO shard DEFAULT VALUES").lastrowid or 0
            self._lock = Lock.take(lock_path(self.folder, shard))
            if self._lock is not None:
                self._lock.sign()
                self._db.execute("UPDATE shard SET holder = id WHERE id = ?", shard)
                return shard
            # The database is an old copy that was put back, and a process that is newer lives.
            self._db.execute("DELETE FROM shard WHERE id = ?", shard)

    def note_key(self, mark: str) -> None:
        """Note which key is in use."""
        with self._db.transaction():
            self._db.execute("UPDATE folder SET key_mark = ?", mark)

    # --- facts

    def write(self, facts: Iterable[Stamped]) -> None:
        """Record facts, all or none."""
        try:
            with self._db.transaction():
                self._facts.write(facts)
        except BaseException:
            self._outcomes.forget_arrays()
            raise

    def find(self, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        """Look for requests; those of one digest come in the order of their numbers."""
        with self._db.mapped():
            rows = self._requests.find(digests)
            places = self._outcomes.find([row for row, _ in rows])
        known: dict[bytes, list[Known]] = {}
        for row, digest in rows:
            known.setdefault(digest, []).append(Known(row, places.get(row)))
        return known

    def under_way(self, rows: Collection[int]) -> set[int]:
        """Say which rows other processes, that live, have under way."""
        with self._db.mapped():
            return self._stances.under_way(rows)

    def claim_keys(self, asked: Mapping[str, bytes]) -> dict[str, Keyed]:
        """Claim keys for submissions; gives those that are taken."""
        return self._submissions.claim(asked, self.shard, self.told)

    def intend(self, digests: Collection[bytes]) -> Declared:
        """Declare calls that are about to be recorded, but for those that other processes are about to."""
        return self.intents.declare(digests, self.shard, self.told, time.time())

    def endings(self, rows: Collection[int]) -> dict[int, Ending]:
        """Say how submissions ended."""
        with self._db.mapped():
            return self._submissions.endings(sorted(rows))

    def open_batch(self) -> str | None:
        """Give the remote id of the newest batch under way, of any process."""
        query = "SELECT batch_id FROM batch WHERE done_at IS NULL AND batch_id IS NOT NULL ORDER BY created_at DESC"
        with self._db.mapped():
            batch_id: str | None = self._db.value(query)
        return batch_id

    def summary(self) -> Summary:
        """Count the answers that are kept."""
        query = "SELECT total(answered), total(undelivered), max(at) FROM outcome"
        with self._db.mapped():
            answered, undelivered, last_at = self._db.execute(query).fetchone()
        return Summary(int(answered), int(undelivered), last_at)

    def has_others(self) -> bool:
        """Tell whether answers to requests of other processes are kept: at both ends of an index."""
        query = "SELECT EXISTS (SELECT 1 FROM outcome WHERE last < ?) OR EXISTS (SELECT 1 FROM outcome WHERE last > ?)"
        with self._db.mapped():
            return bool(self._db.value(query, *span_of(self.shard)))

    # --- shards

    def take_over(self) -> Iterator[Sequence[Stamped]]:
        """Take over the shards of processes that have died, and tell what they left unfinished.

        The first time it also tells what is known of the account. What was not told to the end is told again.
        """
        with self._db.mapped():
            opening, self._opening = self._opening, None
            untold = self._adopt()
            if opening is not None:
                opening += self.claims.begin(self._held(), time.time())
            if opening:
                yield opening
            if untold:
                unfinished = Unfinished(self._db, self._requests, self._outcomes, untold)
                yield from unfinished
                yield from ([told] for told in self._submissions.outstanding(untold, time.time()))
                with self._db.transaction():
                    self._drop_settled(unfinished.settled_segments)
                    self._submissions.drop_claims(untold)
                    self.intents.forget(untold)
                    self._drop_finished(untold)
            if untold or opening is not None:
                self._tidy()
            self.told.update(untold)

    def _adopt(self) -> list[int]:
        """Take over all that a dead process held, at once: nobody else may get a part of it."""
        if not self._sees_dead():  # as nearly always: those that wait for others look every few seconds
            return [shard for shard in self._held() if shard not in self.told]
        with self._db.transaction():
            for (holder,) in self._db.execute("SELECT DISTINCT holder FROM shard").fetchall():
                lock = None if holder == self.shard else Lock.take(lock_path(self.folder, holder))
                if lock is not None:
                    with closing(lock):
                        self._db.execute("UPDATE shard SET holder = ? WHERE holder = ?", self.shard, holder)
                        self._stances.forget(holder)
                        lock.remove()
            return [shard for shard in self._held() if shard not in self.told]

    def _sees_dead(self) -> bool:
        """Tell whether a process has died that holds something; nobody has to wait for that."""
        for (holder,) in self._db.execute("SELECT DISTINCT holder FROM shard").fetchall():
            lock = None if holder == self.shard else Lock.take(lock_path(self.folder, holder))
            if lock is not None:
                lock.close()
                return True
        return False

    def _held(self) -> list[int]:
        query = "SELECT id FROM shard WHERE holder = ? ORDER BY id"
        return [shard for (shard,) in self._db.execute(query, self.shard)]

    def _alive(self) -> str:
        """Name the other processes that have the folder open."""
        return living(self.folder, lock_path(self.folder, self.shard))

    # --- what may go

    def forget_old(self) -> Iterator[None]:
        """Forget what is old, a little at a time, and remove files of answers that nothing refers to any more."""
        now = time.time()
        yield from self._drop_old(now)
        with self._db.mapped():
            kept = self._referred()
        # What is being downloaded just now nothing refers to yet.
        for path in untouched(self._files(), now - max(self._retention, _FRESH)):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _drop_old(self, now: float) -> Iterator[None]:
        """Forget answers that were delivered, and batches that are over, when they are old.

        A few at a time: others wait to write meanwhile.
        """
        retention = self._retention
        unacked = "EXISTS (SELECT 1 FROM submission WHERE row BETWEEN first AND last)"
        old = f"FROM outcome WHERE coalesce(delivered_at, at) < ? AND undelivered = 0 AND NOT {unacked}"
        with self._db.mapped():
            found = self._db.execute(f"SELECT id {old} ORDER BY id DESC", now - retention).fetchall()
        while found:
            with self._db.transaction():
                until = time.monotonic() + _TURN
                while found and time.monotonic() < until:
                    (id_,) = found.pop()
                    # It may have been taken back.
                    if self._db.value(f"SELECT 1 {old} AND id = ?", now - retention, id_):
                        self._requests.forget(self._outcomes.drop(id_))
            yield
        with self._db.transaction():
            query = "DELETE FROM batch WHERE done_at < ? AND leaves IS NULL"
            self._db.execute(query, now - max(retention, HOUR))
            self._submissions.drop_old(now - retention)

    def _drop_settled(self, segments: Iterable[int]) -> None:
        settled = [(segment,) for segment in segments]
        self._db.execute_many("DELETE FROM accepted WHERE segment = ?", settled)
        self._db.execute_many("DELETE FROM escalated WHERE segment = ?", settled)

    def _drop_finished(self, shards: Iterable[int]) -> None:
        finished = [shard for shard in shards if is_finished(self._db, shard)]
        self._db.execute_many("DELETE FROM shard WHERE id = ?", ((shard,) for shard in finished))

    def _tidy(self) -> None:
        """Remove the files of dead processes that no fact refers to: half a download, or lines never recorded."""
        files = self._files()
        # After the files: who made one since is known by now.
        alive = {shard for (shard,) in self._db.execute("SELECT id FROM shard WHERE holder != ?", self.shard)}
        alive.add(self.shard)
        kept = self._referred()
        for path in files:
            if shard_of_file(path.name) not in alive and path.name not in kept:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if shard_of_file(path.name) is not None]

    def _referred(self) -> set[str]:
        """Name the files that facts refer to."""
        kept = {name for (name,) in self._db.execute("SELECT file FROM outcome")}
        needed = self._db.execute("SELECT DISTINCT segment FROM accepted")
        return kept.union(segment_name(segment) for (segment,) in needed)

    # --- leaving

    def close(self) -> None:
        """Leave what is unfinished to others; a second time does nothing."""
        if self._lock is None:
            return
        try:
            with self._db.transaction():
                self._submissions.drop_claims(self.told)
                self.intents.forget(self.told.union(self._held()))
                self._stances.forget(self.shard)
                self._drop_finished(self._held())
                if not self._held():
                    self._lock.remove()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self._db.close()
