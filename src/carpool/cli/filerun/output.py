"""OUTPUT: held by one process at a time, cut back to whole rows, and written in chunks of these."""

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import aiofiles
import anyio
import anyio.to_thread

from .beside import has_journal, read_seen
from .endings import Refused, Stopped, unwritable
from .reading import apart
from .resuming import Begun, scan_rows, scan_texts
from .rows import ASKED

_CHUNK = 2**20
PAUSE = 1.0  # seconds after which rows are written though they make no chunk


class Output:
    """Hold OUTPUT locked: rows whose ids begin with the `mark`, or `texts`.

    `rows` counts those that it has written, and `failed` those of them that are no answers.
    """

    def __init__(self, path: Path, descriptor: int, mark: bytes = ASKED, *, texts: bool, made: bool) -> None:
        self.path = path
        self.mark = mark
        self.rows: int = 0
        self.failed: int = 0
        self._descriptor = descriptor
        self._texts = texts
        self._made = made  # and empty so far
        self._rows: list[bytes] = []
        self._failed = 0  # of these
        self._held = 0  # bytes
        self._whole = 0  # bytes on disk
        self._gap = b""  # what the last row on disk lacks
        self._broken: Stopped | None = None
        self._writing = anyio.Lock()
        self._file: Any = None

    @classmethod
    def take(cls, path: Path, mark: bytes = ASKED, *, texts: bool) -> Self:
        """Lock it, and make it if need be; `Refused` or `Stopped` where that cannot be, or another process holds it."""
        made = not os.path.exists(path)  # unlike that of Path it never raises
        try:
            return cls(path, _locked(path), mark, texts=texts, made=made)
        except BlockingIOError:
            raise Refused(f"OUTPUT {path} is being written by another process: let it go on, or stop it") from None
        except OSError as exc:
            raise unwritable(f"OUTPUT {path}", exc) from None

    # --- what it holds

    async def begun(self) -> Begun:
        """Read what it holds; raises `Refused` for what carpool did not write."""
        return await apart(self._scan)  # of a long one nobody waits for the end who wants to stop

    def _scan(self) -> Begun:
        return _scan(os.dup(self._descriptor), self.path, self.mark, texts=self._texts)

    async def open(self, begun: Begun) -> None:
        """Cut off what is torn, and begin to write behind the rest; `Refused` or `Stopped` where that fails."""
        try:
            if begun.size < os.fstat(self._descriptor).st_size:
                os.truncate(self._descriptor, begun.size)
            # Not by its name, under which another file may stand by now.
            self._file = await aiofiles.open(self._descriptor, "ab", buffering=0, closefd=False)
        except OSError as exc:
            raise unwritable(f"OUTPUT {self.path}", exc) from None
        self._made = False
        self._whole = begun.size
        self._gap = b"" if begun.ended else b"\n"

    # --- writing

    def add(self, row: bytes, *, failed: bool = False) -> None:
        """Take a row that is to be written."""
        self._rows.append(row)
        self._failed += failed
        self._held += len(row)

    @property
    def is_full(self) -> bool:
        """Tell whether it is time to write."""
        return self._held >= _CHUNK

    async def flush(self) -> None:
        """Write the rows that were taken, to the end though it is cancelled; `Stopped` where the disk refuses."""
        with anyio.CancelScope(shield=True):
            async with self._writing:
                if self._broken is not None:
                    raise self._broken  # behind rows that are missing none may stand
                try:
                    await self._write()
                except OSError as exc:
                    self._broken = Stopped(f"OUTPUT {self.path} cannot be written: {exc.strerror}. Free some room.")
                    with suppress(OSError):
                        os.truncate(self._descriptor, self._whole)
                    raise self._broken from None

    async def _write(self) -> None:
        rows, failed = self._rows, self._failed
        self._rows, self._failed, self._held = [], 0, 0
        gap, self._gap = self._gap, b""
        rest = memoryview(gap + b"".join(rows))
        size = len(rest)
        while rest:
            rest = rest[await self._file.write(rest) :]
        self._whole += size
        self.rows += len(rows)
        self.failed += failed

    async def keep_writing(self, broken: Callable[[Stopped], object]) -> None:
        """Write from time to time what has come, until the disk refuses."""
        try:
            while True:
                await anyio.sleep(PAUSE)
                if self._rows:
                    await self.flush()
        except Stopped as exc:
            broken(exc)

    async def finish(self) -> None:
        """Write what is left, so that it outlives a power cut."""
        await self.flush()
        try:
            await anyio.to_thread.run_sync(os.fsync, self._descriptor)
        except OSError as exc:
            raise Stopped(f"OUTPUT {self.path} cannot be written: {exc.strerror}.") from None
        if not _is_at(self._descriptor, self.path):
            raise Stopped(f"OUTPUT {self.path} was moved or removed while it was written.")

    async def close(self) -> None:
        """Let go of it; what was made for nothing is removed."""
        if self._file is not None:
            with anyio.CancelScope(shield=True):
                await self._file.close()
        if self._made:
            self._remove_if_empty()
        os.close(self._descriptor)

    def _remove_if_empty(self) -> None:
        """Leave what another process has written meanwhile, and remove no link that the user made."""
        if not os.fstat(self._descriptor).st_size:
            Path(os.path.realpath(self.path)).unlink(missing_ok=True)


def scan(path: Path, mark: bytes = ASKED, *, texts: bool) -> Begun:
    """Read what OUTPUT holds, if there is one, and change nothing; raises `Refused` for what carpool did not write."""
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return Begun(read_seen(path, mark))
    except OSError as exc:
        raise Refused(f"OUTPUT {path} cannot be read: {exc.strerror}.") from None
    return _scan(descriptor, path, mark, texts=texts)


def _scan(descriptor: int, path: Path, mark: bytes, *, texts: bool) -> Begun:
    try:
        with open(descriptor, "rb", buffering=0) as file:
            seen = read_seen(path, mark)
            return scan_texts(file, seen) if texts else scan_rows(file, seen, mark=mark, ours=has_journal(path))
    except OSError as exc:
        raise Refused(f"OUTPUT {path} cannot be read: {exc.strerror}.") from None


def _opened(path: Path, flags: int) -> int:
    """Open a regular file, and wait for nothing."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file, and a run goes on by what stands in one")
    return descriptor


def _locked(path: Path) -> int:
    """Open a file, and lock it; BlockingIOError where another process has."""
    with ExitStack() as clean_up:
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
        clean_up.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(descriptor, path):  # its last holder removed it just now
            raise BlockingIOError
        clean_up.pop_all()
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
