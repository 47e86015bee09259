"""The clock of the emulator: that of the event loop which runs its batches, virtual where the loop's is."""

import asyncio
import threading
import time
from collections.abc import Callable

import anyio


class Clock:
    """Tell the seconds since the epoch, from any thread; 0 before `start`, and the last instant after `stop`."""

    def __init__(self) -> None:
        self._read: Callable[[], float] = lambda: 0.0

    def __call__(self) -> float:
        return self._read()

    def start(self) -> None:
        """Run from now on with the current event loop."""
        try:
            ticks = asyncio.get_running_loop().time
        except RuntimeError:
            ticks = _here_alone(anyio.current_time)
        epoch = time.time() - ticks()
        self._read = lambda: epoch + ticks()

    def stop(self) -> None:
        """Stand still: a loop that has ended need not tell its time."""
        last = self._read()
        self._read = lambda: last


def _here_alone(ticks: Callable[[], float]) -> Callable[[], float]:
    """Look at a clock in this thread alone, as trio's demands; elsewhere give what was seen last."""
    home, seen = threading.get_ident(), ticks()

    def look() -> float:
        nonlocal seen
        if threading.get_ident() == home:
            seen = ticks()
        return seen

    return look
