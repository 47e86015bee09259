"""A look into a journal from outside: no lock of a process is taken, nothing is written, and nothing is left behind.

While its log is there, the database is read with its index as others keep it. Where there is no log it is read as a
file that does not change, for SQLite would make log and index anew; whether it did change is seen afterwards. A process
that closes the journal in the moment of a look leaves the log to the next one, as after a crash. To be called in a
process that opens no journal itself meanwhile.
"""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from ...errors import JournalError
from .database import APPLICATION, MIGRATIONS, UNREADABLE
from .folder import DATABASE

T = TypeVar("T")

_TRIES = 10
_PAUSE = 0.02  # seconds between two of them, where the index is just being made
_PATIENCE = 5.0  # seconds to wait while a process that has just opened the journal reads its log

_REASONS = {
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Is it yours to read?",
    sqlite3.SQLITE_PERM: "it cannot be opened. Is it yours to read?",
    sqlite3.SQLITE_BUSY: "it is being opened. Look again",
    sqlite3.SQLITE_LOCKED: "it is being opened. Look again",
    sqlite3.SQLITE_READONLY: "it is being opened. Look again",  # whoever opens it has not made its index yet
    sqlite3.SQLITE_PROTOCOL: "its file system keeps no locks",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_NOTADB: "it is no database",
}
_DAMAGED = "it is damaged"


class Reader:
    """Ask the database of a journal; all answers are of one moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Give what a query finds, a row at a time."""
        return self._connection.execute(query, values)

    def value(self, query: str, *values: Any) -> Any:
        """Give the one value that a query asks for, None where there is no row."""
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]


def look(folder: Path, question: Callable[[Reader], T]) -> T | None:
    """Ask the journal in a folder something, perhaps more than once; None while it is only being made.

    Raises `JournalError`, with a sentence that says why it cannot be read.
    """
    path = folder / DATABASE
    with _mapped(path):
        for tries_left in reversed(range(_TRIES)):
            before = _state(path)
            try:
                with _open(path, before) as reader:
                    answer = question(reader) if _is_made(reader, path) else None
            except (sqlite3.Error, OSError, JournalError, *UNREADABLE) as exc:
                is_being_opened = _code(exc) == sqlite3.SQLITE_READONLY and tries_left > 0
                if before == _state(path) and not is_being_opened:
                    raise
                time.sleep(_PAUSE if is_being_opened else 0)
            else:
                if before.log or before == _state(path):
                    return answer
    raise JournalError(f"The journal {path} is opened and closed all the time. Look again.")


class _State(NamedTuple):
    """Tell of a database file, of the bytes in its log, and whether there is an index to that."""

    inode: int
    size: int
    changed: int
    log: int
    indexed: bool


def _state(path: Path) -> _State:
    file = path.stat()
    try:
        log = _beside(path, "-wal").stat().st_size
    except FileNotFoundError:
        log = 0
    return _State(file.st_ino, file.st_size, file.st_mtime_ns, log, _beside(path, "-shm").exists())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@contextmanager
def _open(path: Path, state: _State) -> Iterator[Reader]:
    if state.log and not state.indexed:
        with _copied(path) as copy, _connected(copy, "mode=rw") as reader:
            yield reader
    else:
        # `readonly_shm`: as the first to come after a crash it would else write the index, and make one where none is.
        with _connected(path, "mode=ro&readonly_shm=1" if state.log else "immutable=1") as reader:
            yield reader


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """Copy a database whose index is missing, as in a folder that was put back: nobody has it open."""
    with TemporaryDirectory(prefix="carpool-") as folder:
        for name in (path.name, f"{path.name}-wal"):
            shutil.copyfile(path.with_name(name), Path(folder, name))
        yield Path(folder, path.name)


@contextmanager
def _connected(path: Path, how: str) -> Iterator[Reader]:
    uri = f"{path.absolute().as_uri()}?{how}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield Reader(connection)


def _is_made(reader: Reader, path: Path) -> bool:
    if reader.value("SELECT count(*) FROM sqlite_master") == 0:
        return False
    if reader.value("PRAGMA application_id") != APPLICATION:
        raise JournalError(f"{path} is the database of something else.")
    version = reader.value("PRAGMA user_version")
    if version != len(MIGRATIONS):
        age = "a newer" if version > len(MIGRATIONS) else "an older"
        raise JournalError(f"The journal {path} was made by {age} carpool (version {version}). Use that one.")
    return True


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise JournalError(f"There is no journal in {path.parent}.") from exc
    except OSError as exc:
        raise JournalError(f"The journal {path} cannot be read: {exc.strerror}.") from exc
    except (sqlite3.Error, *UNREADABLE) as exc:
        why = _REASONS.get(_code(exc), _DAMAGED)
        raise JournalError(f"The journal {path} cannot be read: {why} ({exc}).") from exc


def _code(exc: Exception) -> int:
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF
