"""What stands beside OUTPUT: the folder of the journal, and in it what is remembered of INPUT."""

import os
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import anyio.to_thread

from ...journal.sqlite.folder import DATABASE, prepare
from .endings import Refused, Stopped
from .rows import ASKED, MADE_UP, Bad, Row

_SIZE = array("I").itemsize


def folder_of(path: Path) -> Path:
    """Name the folder of the journal: beside what the path leads to, whatever link is followed."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.carpool")


def has_journal(path: Path) -> bool:
    """Tell whether a journal stands beside OUTPUT."""
    return (folder_of(path) / DATABASE).exists()


def read_seen(path: Path, mark: bytes) -> "array[int] | None":
    """Read the signs of the rows that were given to a pool, from the first on, None where nothing tells that any were.

    A power cut may have taken some of the last.
    """
    seen = array("I")
    try:
        content = _seen_path(path, mark).read_bytes()
    except FileNotFoundError:
        return None
    seen.frombytes(content[: len(content) // _SIZE * _SIZE])
    with suppress(ValueError):
        del seen[seen.index(0) :]  # zeros that a disk never had written over
    return seen


def _private(path: str, flags: int) -> int:
    """Open a file, which its owner alone may read where it is made."""
    return os.open(path, flags, 0o600)


def _seen_path(path: Path, mark: bytes) -> Path:
    return folder_of(path) / f"{mark.decode()}.seen"


class Seen:
    """Remember the rows of INPUT that are given to a pool, of which the first are `known`: four bytes each.

    An OUTPUT of texts shows no rows, and what is under way stands in none.
    """

    def __init__(self, path: Path, mark: bytes, known: int) -> None:
        self._folder = folder_of(path)
        self._path = _seen_path(path, mark)
        self._made_up, self._asked = _seen_path(path, MADE_UP), _seen_path(path, ASKED)
        self._known = known
        self._new = array("I")

    def begin(self) -> None:
        """Go on behind what is known; raises `Refused`, `JournalError` where other files stand, OSError."""
        prepare(self._folder)  # where other files stand, it takes a folder for a journal's no more
        if self._path == self._asked:
            self._made_up.unlink(missing_ok=True)
        elif self._asked.exists():
            raise Refused(
                f"{self._folder} tells of answers that were asked for: with --mode emulate, name another OUTPUT."
            )
        with open(self._path, "ab", opener=_private) as file:
            file.truncate(self._known * _SIZE)
            os.fsync(file.fileno())  # a power cut may take what is in it, and not that it was there

    def add(self, rows: Iterable[Row | Bad]) -> None:
        """Take the next rows of INPUT."""
        self._new.extend([row.sign for row in rows if row.number > self._known])

    async def write(self) -> None:
        """Write down those that were taken; raises `Stopped`."""
        if self._new:
            new, self._new = self._new, array("I")
            try:
                await anyio.to_thread.run_sync(self._write, new.tobytes())
            except OSError as exc:
                raise Stopped(f"{self._path} cannot be written: {exc.strerror}. Free some room.") from None

    def _write(self, signs: bytes) -> None:
        with open(self._path, "ab", opener=_private) as file:
            file.write(signs)
