"""A journal's folder: who may read it, and which processes are alive in it.

A lock dies with the process that holds it, however that ends, and so tells the living from the dead. It needs a file
system that is local: over a network a lock may be lost, or never be seen.
"""

import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from ...errors import JournalError

DATABASE = "journal.sqlite"
_UNKNOWN = "another process"


def prepare(path: Path) -> Path:
    """Make a folder that its owner alone may read, or take one that is empty or holds a journal; gives the database."""
    database = path / DATABASE
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In this order: the database is made first, so whoever sees files of another process sees that too.
        if any(path.iterdir()) and not database.exists():
            raise JournalError(f"The folder {path} holds other files, and no journal. Name a new or an empty one.")
        # SQLite would leave the mode to the umask, and gives its other files the mode of this one. What exists is not
        # touched: to close it would end the locks that SQLite holds on it for another pool of this process.
        with suppress(FileExistsError):
            os.close(os.open(database, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise JournalError(f"The journal folder {path} cannot be used: {exc.strerror}. Name a writable one.") from exc
    return database


class Lock:
    """Hold a lock file; it may say who holds it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Lock a file, which is made where there is none; None where a living process holds it."""
        with ExitStack() as clean_up:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            clean_up.callback(os.close, descriptor)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # or else its last holder removed it
                    clean_up.pop_all()
                    return cls(path, descriptor)
        return None

    def sign(self) -> None:
        """Write down who holds it."""
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def remove(self) -> None:
        """Remove the lock file; it stays locked for those who have it open."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a forked child may have it open as well
        os.close(self._descriptor)


def lock_path(folder: Path, shard: int) -> Path:
    """Name the lock file of a shard."""
    return folder / f"shard-{shard}.lock"


def living(folder: Path, but: Path | None) -> str:
    """Name the processes that hold locks in a folder, other than that of one file."""
    paths = sorted(folder.glob("shard-*.lock"))
    return ", ".join(_holder(path) for path in paths if path != but and _is_held(path))


def _is_held(path: Path) -> bool:
    lock = Lock.take(path)
    if lock is not None:
        lock.close()
    return lock is None


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text() or _UNKNOWN
    return _UNKNOWN


def untouched(paths: Iterable[Path], since: float) -> Iterator[Path]:
    """Give the files among these that were not written since a time."""
    for path in paths:
        with suppress(FileNotFoundError):  # another process removed it
            if path.stat().st_mtime < since:
                yield path
