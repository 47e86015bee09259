"""Whose turn it is, where not all find room: priority, which grows with waiting, so that nobody starves.

A lane waits since its oldest row came, or since its last turn: what waits for hours behind others of its own lane is no
reason to go before others. So lanes of one priority take turns, and a step of priority is worth a while of waiting.
"""

import math
from typing import NamedTuple

from ..models import Lane, Load

_STEP = 600.0  # seconds


def step_of(usual: float | None) -> float:
    """Give the seconds of waiting that are worth a step of priority: as many as a batch takes, where these are more.

    A slow queue has few turns to give: of `SHARES` batches in it, one is of those that go a step behind.
    """
    return max(_STEP, usual or 0.0)


def rank(since: float, priority: int, step: float) -> float:
    """Give the place of what waits: who has less goes first, however late it is, as all grow older alike."""
    return since - step * priority


class _Stand(NamedTuple):
    lane: Lane
    since: float


class Turns:
    """Know since when lanes, and batches, wait for their turn."""

    def __init__(self) -> None:
        self._had: dict[Lane, float] = {}  # when a lane had its last turn
        self._stands: dict[str, _Stand] = {}  # of batches, by their keys

    def since(self, lane: Lane, came: float) -> float:
        """Say since when a lane waits whose oldest row came at a time."""
        return max(came, self._had.get(lane, -math.inf))

    def stand(self, key: str, lane: Lane, since: float) -> None:
        """Note since when the rows of a batch wait for their turn."""
        self._stands[key] = _Stand(lane, since)

    def stood(self, key: str) -> float:
        """Say since when the rows of a batch waited."""
        return self._stands[key].since

    def line_up(self, line: dict[str, Load], key: str, load: Load, step: float) -> None:
        """Let a batch wait in line: behind those that came before it, by their ranks."""
        mine = self.rank(key, step)
        behind = [other for other in line if self.rank(other, step) > mine]
        line[key] = load
        for other in behind:
            line[other] = line.pop(other)

    def rank(self, key: str, step: float) -> float:
        """Give the place of a batch among others: the lower goes first."""
        lane, since = self._stands[key]
        return rank(since, lane.priority, step)

    def take(self, key: str, now: float) -> Lane:
        """Note that a batch has its turn, and give its lane."""
        lane = self._stands[key].lane
        self._had[lane] = now
        return lane

    def give_back(self, key: str) -> None:
        """Note that a batch found no room: it is its lane's turn as it was before."""
        lane, since = self._stands[key]
        self._had[lane] = min(since, self._had.get(lane, since))

    def drop(self, key: str) -> None:
        """Forget a batch."""
        self._stands.pop(key, None)
