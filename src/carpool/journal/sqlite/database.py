"""The database file: opened, checked, brought to this version; one transaction a verb; errors that say what to do."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from ...errors import JournalError

APPLICATION = 0x63617270  # what SQLite's header says that the file is of
MIGRATIONS = (
    "schema.sql",
    "services.sql",
    "intents.sql",
    "missing.sql",
    "ages.sql",
)  # each brings the database from the version that is its position to the next
BUSY = 30.0  # seconds to wait for other processes: their transactions take milliseconds

SETTINGS = (
    # Digests are random: a commit changes about as many pages of their index as it adds requests. Small pages, and
    # rarely copied from the log into the file, a third of its cost (measured).
    "page_size = 2048",
    "wal_autocheckpoint = 16384",  # pages
    # KiB. Sixteen times as much makes nothing faster, up to a million requests (measured), and would fill for hours: a
    # service's memory would seem to leak.
    "cache_size = -2048",
    "synchronous = FULL",
    "fullfsync = ON",  # macOS: an ordinary fsync may leave the bytes in the disk's cache
)

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full. Free some room, and start again: what was submitted is not lost",
    sqlite3.SQLITE_READONLY: "it cannot be written. Give yourself the right to, and start again",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Give yourself the right to, and start again",
    sqlite3.SQLITE_PERM: "it cannot be opened. Give yourself the right to, and start again",
    sqlite3.SQLITE_IOERR: "the disk fails. Start again when it does not",
    sqlite3.SQLITE_PROTOCOL: "its file system keeps no locks. Name a folder on a local disk",
    sqlite3.SQLITE_NOTADB: "it is no database. Put the right one back, or name another folder",
}
UNREADABLE = (msgspec.DecodeError, ValueError, TypeError, OverflowError)  # what damage leads to that SQLite overlooks
_DAMAGED = "it is damaged. Put a copy back, or name another folder"


class Database:
    """Hold the connection to a journal's database; `alive` names the other processes that use it."""

    def __init__(self, path: Path, alive: Callable[[], str]) -> None:
        self._path = path
        self._alive = alive
        with self.mapped():
            self._connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            try:
                self._set_up()
            except BaseException:
                self._connection.close()
                raise

    def _set_up(self) -> None:
        new = self.value("SELECT count(*) FROM sqlite_master") == 0
        if not new and self.value("PRAGMA application_id") != APPLICATION:
            raise JournalError(f"{self._path} is the database of something else. Name another folder.")
        for setting in SETTINGS:
            self.execute(f"PRAGMA {setting}")
        until = time.monotonic() + BUSY
        while not self._writes_ahead(until):
            time.sleep(0.01)

    def _writes_ahead(self, until: float) -> bool:
        """Turn the log on; where two processes make the database together, this is refused without a wait."""
        try:
            self.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if not _is_busy(exc) or time.monotonic() >= until:
                raise
            return False
        return True

    def migrate(self) -> None:
        """Bring the database to this version, in the transaction by which this process comes to be known to others."""
        version = int(self.value("PRAGMA user_version"))
        if version > len(MIGRATIONS):
            raise JournalError(f"{self._path} was made by a newer carpool (version {version}). Use that one.")
        if 0 < version < len(MIGRATIONS) and (alive := self._alive()):
            raise JournalError(f"{self._path} must be brought to a new version, and is in use by {alive}. Stop it.")
        for name in MIGRATIONS[version:]:
            for statement in _statements(files(__package__).joinpath(name).read_text()):
                self.execute(statement)
        if version < len(MIGRATIONS):
            self.execute(f"PRAGMA application_id = {APPLICATION}")
            self.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute a statement."""
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, values: Any) -> None:
        """Execute a statement for each of many tuples."""
        self._connection.executemany(statement, values)

    def value(self, statement: str, *values: Any) -> Any:
        """Give the one value that a query asks for, None where there is no row."""
        row = self.execute(statement, *values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of what follows, or nothing of it."""
        with self.mapped():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Turn SQLite's errors, and those of what it gives and cannot be read, into `JournalError`."""
        try:
            yield
        except (sqlite3.Error, *UNREADABLE) as exc:
            raise JournalError(f"The journal {self._path} cannot be used: {self._remedy(exc)} ({exc}).") from exc

    def _remedy(self, exc: Exception) -> str:
        if _is_busy(exc):
            return f"it is held by {self._alive() or 'another program'}. Stop that, and start again"
        if isinstance(exc, sqlite3.ProgrammingError):
            return "it is closed: nothing could be recorded in it any more. Start again"
        return _REMEDIES.get(_code(exc), _DAMAGED)

    def close(self) -> None:
        """Close the connection."""
        with self.mapped():
            self._connection.close()


def _code(exc: Exception) -> int:
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest says more than anybody can act upon


def _is_busy(exc: Exception) -> bool:
    return _code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _statements(script: str) -> Iterator[str]:
    """Cut a script: sqlite3 itself would commit before it runs one."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
