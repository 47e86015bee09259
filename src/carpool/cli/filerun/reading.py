"""INPUT as lines: a file or a pipe, plain or gzipped."""

import gzip
import io
import os
import shutil
import stat
import tempfile
import threading
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import anyio.to_thread

from ...providers.jsonl import Lines
from ...waiter import current_runtime
from .endings import Refused

T = TypeVar("T")

CHUNK = 2**20
_GZIP = b"\x1f\x8b"
_BROKEN = (OSError, EOFError, zlib.error)


class Input:
    """Read INPUT; `name` is what messages call it, and `rereadable` tells whether it can be read twice."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self.rereadable: bool = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._start = file.tell() if self.rereadable else 0  # of the standard input others may have read some
        self._busy = self._closed = False

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a file, or the standard input for "-"; OSError where that cannot be."""
        # Not sys.stdin: a thread that waits for it would keep the process from ending.
        file = open(0, "rb", buffering=0, closefd=False) if path == "-" else open(path, "rb", buffering=0)  # noqa: SIM115
        return cls(file, "<stdin>" if path == "-" else path)

    def is_at(self, path: Path) -> bool:
        """Tell whether a path leads to this very file."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except OSError:  # what is wrong with it is told by who opens it
            return False

    async def keep(self, folder: Path) -> None:
        """Make it readable twice: what comes through a pipe is kept in a file without a name, in a folder."""
        if not self.rereadable:
            try:
                kept = await self._await(partial(self._copy, folder))
            except OSError as exc:
                raise Refused(f"{self.name} cannot be kept in {folder}: {exc.strerror}.") from None
            self._file.close()
            self._file, self.rereadable, self._start = kept, True, 0

    def _copy(self, folder: Path) -> BinaryIO:
        with ExitStack() as clean_up:
            kept = clean_up.enter_context(tempfile.TemporaryFile(dir=folder))
            shutil.copyfileobj(self._file, kept, CHUNK)
            kept.flush()
            clean_up.pop_all()
        return kept

    async def lines(self) -> AsyncGenerator[list[bytes], None]:
        """Give the lines from the beginning, many at a time, without their line breaks; raises `Refused`."""
        blocks = self.blocks()
        while (lines := await self._await(lambda: next(blocks, None))) is not None:
            yield lines

    def blocks(self) -> Iterator[list[bytes]]:
        """Give the same, and wait for them."""
        cut = Lines()
        try:
            read = self._begin()
            while chunk := read(CHUNK):
                if lines := cut.feed(chunk):
                    yield lines
        except _BROKEN as exc:
            raise Refused(f"{self.name} cannot be read to its end: {exc}") from exc
        if lines := cut.close():
            yield lines

    def _begin(self) -> Callable[[int], bytes]:
        """Look at the first bytes, and give what reads the plain ones."""
        if self.rereadable:
            os.lseek(self._file.fileno(), self._start, os.SEEK_SET)
        # Of a descriptor that it does not own: it closes its file when it goes, which is to be read twice.
        plain = io.BufferedReader(io.FileIO(self._file.fileno(), closefd=False), CHUNK)
        first = plain.read(len(_GZIP))  # for which a pipe may take its time
        begun = _Begun(first, plain.read if self.rereadable else plain.read1)  # of a pipe what is there
        if first != _GZIP:
            return begun.read
        file: gzip.GzipFile = gzip.GzipFile(fileobj=begun)  # type: ignore[call-overload]  # it never seeks
        return file.read if self.rereadable else file.read1

    async def _await(self, func: Callable[[], T]) -> T:
        """Do something in a thread; nobody waits for one that waits for a pipe."""
        do = partial(self._do, func)
        return await (anyio.to_thread.run_sync(do) if self.rereadable else apart(do))

    def _do(self, func: Callable[[], T]) -> T:
        self._busy = True
        try:
            return func()
        finally:
            self._busy = False
            if self._closed:
                self._file.close()

    def close(self) -> None:
        """Close it; where a thread waits for it still, that will."""
        self._closed = True
        if not self._busy:
            self._file.close()


class _Begun:
    """Read what was read already, and then the rest."""

    def __init__(self, first: bytes, rest: Callable[[int], bytes]) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int) -> bytes:
        first, self._first = self._first[:size], self._first[size:]
        return first or self._rest(size)


async def apart(func: Callable[[], T]) -> T:
    """Do something in a thread that the process does not wait for when it ends, as it does for those of anyio."""
    done, result = anyio.Event(), Future[T]()
    post = current_runtime().post

    def do() -> None:
        try:
            result.set_result(func())
        except BaseException as exc:  # noqa: BLE001 - it is raised where it is awaited
            result.set_exception(exc)
        with suppress(RuntimeError):  # the event loop is over
            post(done.set)

    thread = threading.Thread(target=do, name="carpool input", daemon=True)
    thread.start()
    await done.wait()
    thread.join()
    return result.result()
