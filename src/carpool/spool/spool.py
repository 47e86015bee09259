"""The spool: accepted lines on disk, in append-only segments, and the files that come back.

Lines are written in a worker thread, when they make a chunk or are about to be uploaded. Where a line will lie is known
before that, so nobody waits for the disk. For a journal, all is made to survive a crash of the machine before a fact
refers to it.
"""

import fcntl
import os
import shutil
import tempfile
from array import array
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import anyio
from msgspec import structs

from ..models import Lane, Run
from ..naming import download_name, segment_name
from ..ports import RunSync
from .tails import CHUNK, Add, Chunk, Frame, LaneKey, Lines, Report, Tails

Range = tuple[int, int, int]  # segment, offset, length


class Spool:
    """Keep lines until they are settled, in a journal's folder, or in a temporary one that goes with `aclose`.

    `frame` gives the constant parts of a lane's lines; segments and downloads are numbered from behind `numbered`.
    """

    def __init__(
        self, frame: Callable[[Lane], Frame], run_sync: RunSync, folder: Path | None = None, numbered: int = 0
    ) -> None:
        self._frame = frame
        self._run_sync = run_sync
        self._tails = Tails(frame, numbered)
        self.add: Add = self._tails.add
        self.add_all: Callable[[LaneKey, Lines], None] = self._tails.add_all
        self.accepted: Callable[[], list[Report]] = self._tails.accepted
        self._downloads = numbered
        self._folder = folder
        self.keeps: bool = folder is not None
        self._unsafe: SimpleQueue[str] = SimpleQueue()  # files of which not all would survive a crash
        self._writing = anyio.Lock()

    @property
    def unreported(self) -> int:
        """Give the bytes of what was added since `accepted` was asked last."""
        return self._tails.unreported

    @property
    def unwritten(self) -> int:
        """Give the bytes of the whole chunks that wait to be written."""
        return sum(chunk.size for chunk in self._tails.chunks)

    @property
    def has_chunks(self) -> bool:
        """Tell whether a whole chunk waits to be written."""
        return len(self._tails.chunks) > 0

    @property
    def remedy(self) -> str:
        """Say what to do when the disk refuses."""
        return "Free some room and start again: nothing is lost." if self.keeps else "Free some room or set TMPDIR."

    async def write(self, runs: Iterable[Run] = ()) -> None:
        """Write whole chunks, and what these runs lie in; after an OSError what was not written is tried again."""
        wanted = {run.segment for run in runs}
        self._tails.seal(wanted)
        async with self._writing:
            await self._write_sealed()
            while self._tails.chunks and not wanted:  # others came meanwhile, and nobody else would write them soon
                await self._write_sealed()

    async def secure(self) -> None:
        """Write all lines there are, and make them, and the downloads, survive a crash of the machine."""
        self._tails.seal()
        async with self._writing:
            await self._write_sealed()
            if not self._unsafe.empty():
                await self._run_sync(self._sync)

    async def _write_sealed(self) -> None:
        chunks = self._tails.chunks[:]
        if chunks:
            await self._run_sync(self._write, chunks)
            del self._tails.chunks[: len(chunks)]

    def read(self, runs: Collection[Run]) -> AsyncIterator[bytes]:
        """Stream the lines of these runs in chunks; they must have been written."""
        return _Reading(_chunks(runs), self._read, self._run_sync)

    async def measure(self, lane: Lane, runs: Sequence[Run], measure: Callable[[bytes], int]) -> tuple[Run, ...]:
        """Count the tokens of the bodies in these runs, in a worker thread, and give the runs with them.

        Whatever `measure` raises is raised; so are TypeError and OverflowError when it gives no sensible number.
        """
        await self.write(runs)
        counted: tuple[Run, ...] = await self._run_sync(self._measure, self._frame(lane), runs, measure)
        return counted

    async def bodies(self, lane: Lane, run: Run) -> list[bytes]:
        """Read the bodies of a run, which must have been written."""
        bodies: list[bytes] = await self._run_sync(lambda: list(self._bodies(self._frame(lane), run)))
        return bodies

    def new_download(self) -> str:
        """Name a file for what is downloaded next; none is written twice."""
        self._downloads += 1
        return download_name(self._downloads)

    async def save(self, name: str, offset: int, content: bytes) -> None:
        """Write a part of a downloaded file."""
        await self._run_sync(self._save, name, offset, content)

    async def read_lines(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read lines of a downloaded file, by offset and size."""
        lines: list[bytes] = await self._run_sync(self._read_lines, name, spans)
        return lines

    async def discard(self, segment: int) -> None:
        """Remove a segment."""
        await self._run_sync(self._remove, segment_name(segment))

    async def discard_download(self, name: str) -> None:
        """Remove a downloaded file."""
        await self._run_sync(self._remove, name)

    async def aclose(self) -> None:
        """Remove everything, unless it is a journal's."""
        async with self._writing:
            if self._folder is not None and not self.keeps:
                await self._run_sync(shutil.rmtree, self._folder, True)
                self._folder = None

    def _path(self, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="carpool-"))
        return self._folder / name

    def _write(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._save(segment_name(chunk.segment), chunk.offset, b"".join(chunk.lines))
            chunk.lines.clear()  # here: to let go of tens of thousands takes the event loop as many microseconds

    def _save(self, name: str, offset: int, content: bytes) -> None:
        # At its own offset: what a failed try left behind is written over.
        file = os.open(self._path(name), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(content)
            while view:
                written = os.pwrite(file, view, offset)
                view, offset = view[written:], offset + written
        finally:
            os.close(file)
            if self.keeps:
                self._unsafe.put(name)

    def _read(self, ranges: list[Range]) -> bytes:
        return b"".join(self._read_range(*range_) for range_ in ranges)

    def _read_range(self, segment: int, offset: int, length: int) -> bytes:
        (content,) = self._read_lines(segment_name(segment), ((offset, length),))
        return content

    def _read_lines(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        lines = []
        with self._path(name).open("rb", buffering=0) as file:
            for offset, size in spans:
                content = os.pread(file.fileno(), size, offset)
                if len(content) != size:
                    raise OSError(f"{file.name} holds {len(content)} of {size} bytes at {offset}")
                lines.append(content)
        return lines

    def _sync(self) -> None:
        unsafe = set()
        with suppress(Empty):
            while True:
                unsafe.add(self._unsafe.get_nowait())
        try:
            for name in unsafe:
                _sync(self._path(name))
            _sync(self._path(""))  # a new file's name is a fact of its folder
        except BaseException:
            for name in unsafe:
                self._unsafe.put(name)
            raise

    def _measure(self, frame: Frame, runs: Sequence[Run], measure: Callable[[bytes], int]) -> tuple[Run, ...]:
        return tuple(structs.replace(run, tokens=array("I", map(measure, self._bodies(frame, run)))) for run in runs)

    def _bodies(self, frame: Frame, run: Run) -> Iterator[bytes]:
        head, middle, end = map(len, frame)
        content = self._read_range(run.segment, run.offset, run.size)
        offset = 0
        for row, size in zip(run.rows, run.sizes, strict=True):
            start = offset + head + len(b"%d" % row) + middle
            offset += size
            yield content[start : offset - end]

    def _remove(self, name: str) -> None:
        if self._folder is not None:
            self._path(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # discarded meanwhile
    try:
        # macOS: an ordinary fsync may leave the bytes in the disk's own cache.
        full = getattr(fcntl, "F_FULLFSYNC", None)
        os.fsync(file) if full is None else fcntl.fcntl(file, full)
    finally:
        os.close(file)


def _chunks(runs: Iterable[Run]) -> Iterator[list[Range]]:
    """Cut runs into ranges that together make a chunk, so that many small ones cost one thread hop."""
    ranges: list[Range] = []
    room = CHUNK
    for run in runs:
        offset, left = run.offset, run.size
        while left:
            length = min(left, room)
            ranges.append((run.segment, offset, length))
            offset, left, room = offset + length, left - length, room - length
            if not room:
                yield ranges
                ranges, room = [], CHUNK
    if ranges:
        yield ranges


class _Reading:
    """Iterate over chunks: no async generator, which a broken upload would leave half run."""

    def __init__(self, chunks: Iterator[list[Range]], read: Callable[[list[Range]], bytes], run_sync: RunSync) -> None:
        self._chunks = chunks
        self._read = read
        self._run_sync = run_sync

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for ranges in self._chunks:
            content: bytes = await self._run_sync(self._read, ranges)
            return content
        raise StopAsyncIteration
