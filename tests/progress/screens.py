"""Terminals as people see them: a program in a pseudo-terminal, and what stands on its screen from moment to moment."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyte

_STILL = 0.15  # seconds without a sign: what was written is a whole, for it is drawn every half second
_BETWEEN = 0.35  # seconds since it was read, for which the next drawing is some way off


class Seen(NamedTuple):
    """Hold what stands on a screen, and whether its cursor is hidden."""

    lines: list[str]
    hidden: bool


class Terminal:
    """Run a program in a terminal of this size, until it has ended; `screens` are all that were seen."""

    def __init__(
        self,
        command: Sequence[str],
        width: int,
        height: int,
        environment: Mapping[str, str],
        *,
        output: int | None = None,
    ) -> None:
        self._here, there = pty.openpty()
        self.screen = pyte.HistoryScreen(width, height, history=1_000)
        self._stream = pyte.ByteStream(self.screen)
        self._resize(width, height)
        outer = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI")}
        self.process = subprocess.Popen(
            command,
            stdin=there,
            stdout=there if output is None else output,
            stderr=there,
            env={**outer, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment},
        )
        os.close(there)
        self.raw = b""
        self._read_at = 0.0
        self.screens: list[Seen] = []
        self._open = True

    def _resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._here, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> bool:
        """Give the window another size, between two drawings: one for the old size would not fit; tells whether it did.

        The program is held meanwhile. Where it has written since it was read, or is about to, the size stays.
        """
        self.process.send_signal(signal.SIGSTOP)
        between = time.monotonic() - self._read_at < _BETWEEN and not select.select([self._here], [], [], 0)[0]
        if between:
            self._resize(width, height)
            self.screen.resize(height, width)
        self.process.send_signal(signal.SIGCONT)
        return between

    def interrupt(self) -> None:
        """Do as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def read(self) -> bool:
        """Read on until nothing more comes for the moment; gives whether the program still runs."""
        while self._open and select.select([self._here], [], [], _STILL)[0]:
            try:
                written = os.read(self._here, 65_536)
            except OSError:  # what Linux says when the program has closed its end
                written = b""
            if not written:
                os.close(self._here)
                self._open = False
            self.raw += written
            self._read_at = time.monotonic()
            self._stream.feed(written)
        if not self.screens or self.lines != self.screens[-1].lines:
            self.screens.append(Seen(self.lines, self.screen.cursor.hidden))
        return self._open

    def read_all(self) -> None:
        """Read until the program has ended."""
        while self.read():
            pass

    @property
    def lines(self) -> list[str]:
        """Give what stands on the screen."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def transcript(self) -> list[str]:
        """Give all that is left, with what was scrolled away."""
        width = self.screen.columns
        gone: list[Any] = list(self.screen.history.top)
        return ["".join(line[at].data for at in range(width)).rstrip() for line in gone] + self.lines

    def kill(self) -> None:
        """End it, however it stands."""
        self.process.kill()
        self.process.wait()
        if self._open:
            os.close(self._here)
            self._open = False
