"""Progress where nothing is drawn: a line now and then, or a call."""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ..stats import Stats
from . import words
from .watch import Total, Watch, figures

_MINUTE = 59.0  # seconds: a look may come a little early


@runtime_checkable
class Reporter(Protocol):
    """Take note of how things stand, every `pause` seconds or so, and at last; `now` is in seconds since the epoch."""

    @property
    def pause(self) -> float:
        """Give the seconds between two looks, once it has gone on for a while."""
        ...

    def update(self, stats: Stats, now: float) -> None:
        """Show it."""
        ...

    def close(self, stats: Stats, now: float) -> None:
        """Show what came of it."""
        ...


class Silent:
    """Show nothing."""

    pause: float = math.inf

    def update(self, stats: Stats, now: float) -> None:
        """Do nothing."""

    def close(self, stats: Stats, now: float) -> None:
        """Do nothing."""


class Calls:
    """Call a function with the figures."""

    pause: float = 0.5

    def __init__(self, function: Callable[[Stats], object]) -> None:
        self._function = function

    def update(self, stats: Stats, now: float) -> None:
        """Call it."""
        self._function(stats)

    def close(self, stats: Stats, now: float) -> None:
        """Call it."""
        self._function(stats)


class Lines:
    """Say a sentence at most once a minute, when something has changed, and at last."""

    pause: float = 60.0

    def __init__(self, say: Callable[[str], object], total: Total = None, *, journal: bool = False) -> None:
        self._say = say
        self._watch = Watch(total, journal=journal)
        self._said_at: float | None = None
        self._said: object = None

    def update(self, stats: Stats, now: float) -> None:
        """Say how things stand."""
        self._said_at = now if self._said_at is None else self._said_at
        if news := self._watch.look(stats, now):
            self._say(news)
        if now - self._said_at >= _MINUTE and stats.accepted and figures(stats) != self._said:
            self._said_at, self._said = now, figures(stats)
            total, left, _ = self._watch.glance(stats, now)
            self._say(words.line(stats, total, left))

    def close(self, stats: Stats, now: float) -> None:
        """Say what came of it."""
        if stats.accepted:
            total, _, seconds = self._watch.glance(stats, now)
            self._say(words.outcome(stats, total, seconds, journal=self._watch.journal))
