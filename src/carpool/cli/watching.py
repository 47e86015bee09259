"""A screen that is drawn again and again."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..progress.terminal import is_terminal
from .ending import ended
from .show import Screen

_SHARE = 4  # of the time, at most a fourth goes into drawing


class Sheet(Screen):
    """Gather what is to be seen at once."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[RenderableType] = []

    def table(self, *tables: Table) -> None:
        """Add the first of these tables that is no wider than the screen, or else the last, folded."""
        self._parts.append(next(filter(self.fits, tables), tables[-1]))

    def lines(self, *lines: str) -> None:
        """Add lines, each a sentence or so."""
        self._parts.extend(map(Text, lines))

    def gap(self) -> None:
        """Leave a line empty."""
        self._parts.append(Text())

    def whole(self) -> Group:
        """Give everything."""
        return Group(*self._parts)


def watch(draw: Callable[[Screen], None], every: float) -> None:
    """Draw on a terminal every so many seconds, until Ctrl-C or SIGTERM; elsewhere the command ends."""
    console = Console(highlight=False)
    if not is_terminal(sys.stdout) or console.is_dumb_terminal:
        raise ended(2, "--watch needs a terminal; without it, the command tells once")
    with _until_told(), Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            sheet = Sheet()
            draw(sheet)
            live.update(sheet.whole(), refresh=True)
            time.sleep(max(every, _SHARE * (time.monotonic() - began)))


@contextmanager
def _until_told() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, and both for the end: the terminal is to be left in order."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.write("\n")
    finally:
        signal.signal(signal.SIGTERM, former)
