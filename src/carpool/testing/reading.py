"""An input file, read line by line, slice by slice."""

import time
from collections.abc import Iterator

import anyio.lowlevel

from .store import BLOCK, Read
from .validation import Validation

SLICE = 0.01


class Pause:
    """Let others run after each slice of work, so that the server stays responsive."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE

    def due(self) -> bool:
        """Tell whether the slice is used up; by the machine's clock, as virtual time stands still meanwhile."""
        return time.perf_counter() >= self._until

    async def take(self) -> None:
        """Give way once and begin the next slice."""
        await anyio.lowlevel.checkpoint()
        self._until = time.perf_counter() + SLICE


async def read_into(validation: Validation, read: Read, size: int) -> None:
    """Validate a whole input file."""
    pause = Pause()
    for line in _lines(read, size):
        validation.read(line)
        if pause.due():
            await pause.take()
    validation.finish()


def _lines(read: Read, size: int) -> Iterator[bytes]:
    rest = b""
    for offset in range(0, size, BLOCK):
        lines = (rest + read(offset, BLOCK)).split(b"\n")
        rest = lines.pop()
        yield from lines
    if rest:
        yield rest
