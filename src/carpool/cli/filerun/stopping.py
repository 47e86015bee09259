"""How a run is stopped from outside: in an orderly way the first time, at once the second."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Hear Ctrl-C and SIGTERM; `signal` is the first that came, 0 before."""

    def __init__(self) -> None:
        self.signal: int = 0
        self._wake: Callable[[], object] | None = None

    @property
    def code(self) -> int:
        """Give the exit code that a shell would give."""
        return 128 + self.signal

    @property
    def name(self) -> str:
        """Say what came."""
        return f"{signal.Signals(self.signal).name} came." if self.signal else ""

    def then(self, wake: Callable[[], object]) -> None:
        """Have something called when one comes, or at once where one came; it is called in a signal handler."""
        self._wake = wake
        if self.signal:
            wake()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear them for a while; in the main thread."""
        former = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            yield
        finally:
            for number, before in former.items():
                signal.signal(number, before)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            _show_cursor()
            os._exit(128 + number)
        self.signal = number
        if self._wake is not None:
            self._wake()


def _show_cursor() -> None:
    """Give back what the live view hides: nothing else will do so any more."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")
