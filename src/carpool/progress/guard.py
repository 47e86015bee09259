"""What keeps progress from doing harm: a pool goes on, whatever becomes of its view."""

import logging
from collections.abc import Callable

from ..stats import Stats
from .lines import Reporter

log: logging.Logger = logging.getLogger("carpool.progress")


class Occupied(Exception):
    """Say that something else is drawn there already."""


class Guarded:
    """Bear what a reporter raises: it is logged once, and the reporter goes on, or `otherwise` in its place."""

    def __init__(self, reporter: Reporter, otherwise: Reporter | None = None) -> None:
        self._reporter = reporter
        self._otherwise = otherwise
        self._logged = False

    @property
    def pause(self) -> float:
        """Give the seconds between two looks."""
        return self._reporter.pause

    def update(self, stats: Stats, now: float) -> None:
        """Show how things stand."""
        self._bear(self._reporter.update, stats, now)

    def close(self, stats: Stats, now: float) -> None:
        """Show what came of it."""
        self._bear(self._reporter.close, stats, now)

    def _bear(self, step: Callable[[Stats, float], None], stats: Stats, now: float) -> None:
        try:
            step(stats, now)
        except Occupied:
            self._reporter = self._otherwise or self._reporter
        except Exception:  # a view, a terminal or the user's own function: none of them may end the pool
            if not self._logged:
                self._logged = True
                log.exception("progress cannot be shown")
            self._reporter = self._otherwise or self._reporter
