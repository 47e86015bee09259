"""Where outcomes wait for their turn: in memory, and on disk where they are many.

Each has a key, and they are taken in the order of the keys, without a gap. Beyond a bound in memory the furthest are
written to a file without a name, in blocks of increasing keys; a block is read again when its first key is due, and the
file goes with its last block. So each is mostly written and read once, whatever order they come in, and the disk holds
little more than what waits.
"""

import logging
import pickle
import tempfile
from array import array
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import anyio

from ..errors import RequestFailed
from ..models import Response
from ..ports import RunSync
from ..spans import Entry, rows_of

log: logging.Logger = logging.getLogger("carpool.bulk")

KEPT = 128 * 2**20  # bytes in memory
BLOCK = 2**18  # bytes: blocks are about so large
_OVERHEAD = 400  # bytes that an answer takes beside its body, about
_SAMPLE = 16  # of so many outcomes that come together one is measured

_Keyed = tuple[int, Entry]


class _File:
    """Hold blocks that were written together, until the last is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.blocks = 0


class _Block(NamedTuple):
    """Name where outcomes lie, and the rows of the answers among them."""

    file: _File
    offset: int
    length: int
    rows: "array[int]"

    def read(self) -> list[_Keyed]:
        self.file.file.seek(self.offset)
        block: list[_Keyed] = pickle.loads(self.file.file.read(self.length))  # noqa: S301 - nobody else has it
        return block


class Shelf:
    """Hold outcomes by their keys; `folder` is where they go on disk, by default that for temporary files."""

    def __init__(self, run_sync: RunSync, folder: Path | None = None, kept: int = KEPT) -> None:
        self._run_sync = run_sync
        self._folder = folder
        self._most = kept
        self._entries: dict[int, Entry] = {}
        self._moved: list[_Keyed] = []  # on their way to disk
        self._blocks: dict[int, _Block] = {}  # by the first of their keys
        self._mean = _Mean()
        self._moving = anyio.Lock()
        self._closed = False
        self._appended = 0
        self.next: int = 0  # the key that is due

    def put(self, entries: Sequence[Entry]) -> None:
        """Hold outcomes, whose positions are their keys."""
        self._mean.add(entries)
        for entry in entries:
            self._entries[entry[0]] = entry

    def append(self, entries: Sequence[Entry]) -> None:
        """Hold outcomes, whose keys follow each other."""
        self._mean.add(entries)
        self._entries.update(enumerate(entries, self._appended))
        self._appended += len(entries)

    @property
    def is_due(self) -> bool:
        """Tell whether the next one is here."""
        return self.next in self._entries or self.next in self._blocks

    @property
    def is_full(self) -> bool:
        """Tell whether there is more in memory than should be."""
        return len(self._entries) > 1 and len(self._entries) * self._mean.size > self._most

    async def load(self) -> None:
        """Read what is due back into memory."""
        if self.next not in self._entries:
            async with self._using():
                block = self._blocks.get(self.next)
                if block is not None:
                    # It is forgotten when it is read, and not before: whoever waits for it may be cancelled.
                    self._take_in(block, await self._run_sync(block.read))

    def load_here(self) -> None:
        """Do the same, and block for it; where nobody else touches this any more."""
        block = self._blocks.get(self.next)
        if block is not None:
            self._take_in(block, block.read())

    def _take_in(self, block: _Block, entries: list[_Keyed]) -> None:
        if not self._closed:
            del self._blocks[entries[0][0]]
            self._entries.update(entries)
            block.file.blocks -= 1
            if not block.file.blocks:
                block.file.file.close()

    def take(self, most: int) -> list[Entry]:
        """Take out those that are due and in memory, in their order."""
        taken: list[Entry] = []
        pop = self._entries.pop
        for key in range(self.next, self.next + most):
            entry = pop(key, None)
            if entry is None:
                break
            taken.append(entry)
        self.next += len(taken)
        return taken

    def rows(self) -> list[int]:
        """Give the rows of the answers that are here."""
        here = rows_of(self._entries.values()) + rows_of(entry for _, entry in self._moved)
        return here + [row for block in self._blocks.values() for row in block.rows]

    def close(self) -> None:
        """Let go of everything, of the disk as soon as no thread uses it."""
        self._closed = True
        self._entries.clear()
        if not self._moving.locked():
            for file in {id(block.file): block.file.file for block in self._blocks.values()}.values():
                file.close()
            self._blocks.clear()

    # --- the disk

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[None]:
        try:
            async with self._moving:
                yield
        finally:
            if self._closed:
                self.close()

    async def unload(self) -> None:
        """Write the later half of what is in memory to disk, where it is too much; what cannot be written stays."""
        async with self._using():
            if self._closed or not self.is_full:
                return
            keys = sorted(self._entries)
            self._moved = [(key, self._entries.pop(key)) for key in keys[len(keys) // 2 :]]
            try:
                self._blocks |= await self._run_sync(self._write, self._moved)
                self._moved = []
            except Exception as exc:  # noqa: BLE001 - whatever it is, nothing is lost but room in memory
                log.warning("outcomes that wait for their turn stay in memory: %s", exc)
                self._most = 2 * self._most
            finally:
                self._entries.update(self._moved)
                self._moved = []

    def _write(self, moved: list[_Keyed]) -> dict[int, _Block]:
        file = _File(tempfile.TemporaryFile(prefix="carpool-", dir=self._folder))  # noqa: SIM115 - it goes with its blocks
        try:
            blocks: dict[int, _Block] = {}
            end = 0
            for entries in _parts(moved, max(1, int(BLOCK / self._mean.size))):
                content = pickle.dumps(entries, pickle.HIGHEST_PROTOCOL)
                file.file.write(content)
                rows = array("Q", rows_of(entry for _, entry in entries))
                blocks[entries[0][0]] = _Block(file, end, len(content), rows)
                end += len(content)
            file.file.flush()
        except BaseException:
            with suppress(OSError):  # what is buffered finds no room either
                file.file.close()
            raise
        file.blocks = len(blocks)
        return blocks


class _Mean:
    """Measure how many bytes an outcome takes, on average."""

    def __init__(self) -> None:
        self.size = float(_OVERHEAD)
        self._measured = self._sum = 0

    def add(self, entries: Iterable[Entry]) -> None:
        for _, ending in islice(entries, 0, None, _SAMPLE):
            if isinstance(ending, Response):
                self._sum += len(ending.content) + _OVERHEAD
            else:
                self._sum += (len(ending.body) if isinstance(ending, RequestFailed) else 0) + 4 * _OVERHEAD
            self._measured += 1
        self.size = self._sum / self._measured if self._measured else self.size


def _parts(moved: list[_Keyed], length: int) -> Iterator[list[_Keyed]]:
    for start in range(0, len(moved), length):
        yield moved[start : start + length]
