"""The bytes of files: small ones in memory, large ones on disk."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

IN_MEMORY = 8_000_000
BLOCK = 262_144

Read = Callable[[int, int], bytes]


class Store:
    """Keep contents until `close`, which removes every one; the folder is made when the first large file needs it."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self.in_memory = in_memory
        self._folder: str | None = None
        self._contents: set[Content] = set()
        self._made = 0

    def create(self) -> "Content":
        """Give a new empty content."""
        content = Content(self)
        self._contents.add(content)
        return content

    def new_path(self) -> str:
        """Give a path in the folder that nothing has yet."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="carpool-emulator-")
        self._made += 1
        return os.path.join(self._folder, f"{self._made}.jsonl")

    def forget(self, content: "Content") -> None:
        """Drop one content from the account of what is there."""
        self._contents.discard(content)

    def close(self) -> None:
        """Remove every content and the folder."""
        for content in list(self._contents):
            content.discard()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Content:
    """Hold the bytes of one file: written once from start to end, sealed, then read anywhere."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._memory = bytearray()
        self._path: str | None = None
        self._file: BinaryIO | None = None
        self.size: int = 0

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self.size += len(chunk)
        if self._file is not None:
            self._file.write(chunk)
            return
        self._memory += chunk
        if self.size > self._store.in_memory:
            self._spill()

    def _spill(self) -> None:
        self._path = self._store.new_path()
        self._file = open(self._path, "wb")  # noqa: SIM115 - closed by seal or discard, or by the store
        self._file.write(self._memory)
        self._memory = bytearray()

    def seal(self) -> None:
        """End the writing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Remove the bytes; a reading under way keeps its own."""
        self.seal()
        if self._path is not None:
            os.unlink(self._path)
            self._path = None
        self._memory = bytearray()
        self._store.forget(self)

    @contextmanager
    def reading(self) -> Iterator[Read]:
        """Lend a function that gives the bytes at (offset, size)."""
        if self._path is None:
            memory = self._memory
            yield lambda offset, size: bytes(memory[offset : offset + size])
            return
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            yield lambda offset, size: os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def blocks(self) -> Iterator[bytes]:
        """Give the bytes from start to end, block by block."""
        with self.reading() as read:
            for offset in range(0, self.size, BLOCK):
                yield read(offset, BLOCK)
