"""The view on a terminal, drawn in place by rich, and how it lives with what else is written there."""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich import get_console
from rich.console import Console
from rich.errors import LiveError
from rich.live import Live
from rich.text import Text

from ..stats import Stats
from .columns import Frame, Picture
from .guard import Occupied
from .view import final, live
from .watch import Total, Watch

_drawing = threading.Lock()  # held by whoever draws: a terminal has one place for it


def find_console() -> Console | None:
    """Give the console to draw on, None where standard error is no terminal, or none that moves its cursor.

    Where standard output is the same terminal, it is the one that all who use rich share: so they do not disturb each
    other.
    """
    if not is_terminal(sys.stderr):
        return None
    shared = is_terminal(sys.stdout) and os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    console = get_console() if shared else Console(stderr=True)
    return console if console.is_terminal and console.is_interactive else None


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is one; rich alone would also believe FORCE_COLOR."""
    try:
        return stream is not None and stream.isatty() and stream.fileno() >= 0
    except (OSError, ValueError):  # closed, or a substitute without a descriptor
        return False


class Terminal:
    """Draw the view in place; what others write to the terminal meanwhile stands above it."""

    pause: float = 0.5

    def __init__(self, console: Console, total: Total = None, *, journal: bool = False) -> None:
        self._console = console
        self._watch = Watch(total, journal=journal)
        self._live: Live | None = None
        self._guests: Guests | None = None
        self._drawn: Picture | None = None

    def update(self, stats: Stats, now: float) -> None:
        """Draw how things stand, from the first call on."""
        news = self._watch.look(stats, now)
        if not stats.accepted:
            return
        if self._live is None:
            self._live = self._enter()
        try:
            if news:
                self._console.print(Text(news))
            total, left, _ = self._watch.glance(stats, now)
            self._draw(self._live, live(stats, left, total, now, self._frame))
        except Exception:  # whatever it is, the cursor and the streams are given back before it is told
            self._leave()
            raise

    def close(self, stats: Stats, now: float) -> None:
        """Leave a summary standing, and the terminal as it was."""
        if self._live is None:
            return
        try:
            total, _, seconds = self._watch.glance(stats, now)
            self._live.update(final(stats, total, seconds, self._frame, journal=self._watch.journal))
        finally:
            self._leave()

    @property
    def _frame(self) -> Frame:
        options = self._console.options
        return Frame(max(options.max_width, 1), max(self._console.height, 1), options.ascii_only)

    def _draw(self, view: Live, picture: Picture) -> None:
        """Draw what has changed: over hours, and a slow line, what has not would be a lot."""
        if picture != self._drawn:
            self._drawn = picture
            view.update(picture, refresh=True)

    def _enter(self) -> Live:
        if not _drawing.acquire(blocking=False):
            raise Occupied
        before = sys.stdout, sys.stderr
        # Where standard output is no terminal, it takes the user's results.
        view = Live(console=self._console, auto_refresh=False, redirect_stdout=is_terminal(sys.stdout))
        try:
            self._start(view)
        except Occupied:
            _drawing.release()
            raise
        replaced = zip(before, (sys.stdout, sys.stderr), strict=True)
        self._guests = Guests(self._console, [(old, new) for old, new in replaced if old is not new])
        return view

    def _start(self, view: Live) -> None:
        """Begin to draw; `Occupied` where another display of the user's own is there, within which it would stand."""
        try:
            view.start()
        except LiveError:  # of rich before 14.1
            raise Occupied from None
        if getattr(view, "_nested", False):
            view.transient = True  # nothing is to be left of it
            view.stop()
            raise Occupied
        self._console.show_cursor(True)  # a process that is killed cannot do it

    def _leave(self) -> None:
        view, self._live = self._live, None
        if view is None:
            return
        try:
            if self._guests is not None:
                self._guests.leave()
            view.stop()
        finally:
            _drawing.release()


class Guests:
    """Let the log's handlers that write to the terminal write above the view: each holds a stream of its own.

    Those that write to the standard streams are given rich's, and rich's own handlers this console, until `leave`.
    """

    def __init__(self, console: Console, replaced: Sequence[tuple[TextIO, TextIO]]) -> None:
        self._back = {id(new): old for old, new in replaced}
        self._consoles: list[tuple[Any, Console]] = []
        _set_streams({id(old): new for old, new in replaced})
        handler: Any  # of rich: it is not imported for the sake of its name
        for handler in _handlers():
            theirs = getattr(handler, "console", None)
            if isinstance(theirs, Console) and theirs is not console and theirs.is_terminal:
                self._consoles.append((handler, theirs))
                handler.console = console

    def leave(self) -> None:
        """Give back what was theirs, also to those that came meanwhile."""
        _set_streams(self._back)
        for handler, console in self._consoles:
            handler.console = console


def _set_streams(streams: Mapping[int, TextIO]) -> None:
    for handler in _handlers():
        if isinstance(handler, logging.StreamHandler) and id(handler.stream) in streams:
            handler.setStream(streams[id(handler.stream)])


def _handlers() -> Iterator[logging.Handler]:
    """Give all handlers of all loggers."""
    root = logging.getLogger()
    for logger in (root, *root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers
