"""How often to ask, how long to back off, how fast to create.

Randomness is an argument: `jitter` lies in [0, 1).
"""

import math
from zlib import crc32

from ..config import Timing

_HOUR = 3_600.0
_NET = 900.0  # seconds


def check_pause(age: float, timing: Timing, jitter: float) -> float:
    """Give the seconds until a batch of this age is checked again, up to a tenth less so that batches drift apart."""
    pause = min(max(timing.poll_fraction * age, timing.poll_min), timing.poll_max)
    return pause * (1 - 0.1 * jitter)


def net_pause(jitter: float) -> float:
    """Give the seconds until a batch is checked again whose end will be told of, in case it is not."""
    return _NET * (0.95 + 0.1 * jitter)


def backoff(attempt: int, jitter: float, *, base: float = 1.0, cap: float = 60.0) -> float:
    """Give the seconds to wait after the failed attempt number `attempt` (from 1): doubling, half of it jitter."""
    return float(min(cap, base * 2 ** min(attempt, 16))) * (0.5 + 0.5 * jitter)


def spread(key: str, draw: int) -> float:
    """Draw a jitter for a batch: the same for the same key and draw, so that a replay takes the same decisions."""
    return crc32(f"{key}/{draw}".encode()) / 2**32


class Pace:
    """Keep below so many creations in any hour: a tenth may be had at once, the rest drips in.

    In any 3,600 s at most burst + rate x 3,600 = the hourly limit are let through. Long before none is left, a lane
    that may as well wait makes its batches further apart: see `spare_at`.
    """

    def __init__(self, per_hour: float) -> None:
        self._level = math.inf
        self._at = 0.0
        self.resize(per_hour)

    def resize(self, per_hour: float) -> None:
        """Keep below another number of creations from now on."""
        self._burst = max(1.0, per_hour / 10)
        self._rate = max(1.0, per_hour - self._burst) / _HOUR
        self._level = min(self._level, self._burst)

    def take(self, now: float) -> None:
        """Count one creation; the level may fall below zero, and is then paid back by waiting.

        One that is told late, after more than an hour, has been paid back.
        """
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
        if now > self._at - _HOUR:
            self._level -= 1

    def put_back(self) -> None:
        """Count one creation less: it was decided, and is not made."""
        self._level = min(self._burst, self._level + 1)

    def thrift(self, now: float) -> int:
        """Say how many times larger than usual batches should be: 1, 2 or 4, the fewer creations can be had at once."""
        level = self._level + max(0.0, now - self._at) * self._rate
        return 1 if level >= self._burst / 2 else 2 if level >= self._burst / 4 else 4

    def spare_at(self, last: float, decided: int = 0) -> float:
        """Give the time from which one may be created for calls that gain by waiting, since more then travel in it.

        `last` is when their lane's last one was. They are so far apart that a lane alone keeps to the rate once half of
        the burst is left, two together once a third is, and so on, also where these are in several processes: which
        made few comes to make as many as the others.
        """
        if last == -math.inf:
            return last
        left = min(self._burst, self._level + (last - self._at) * self._rate) - decided
        # After n creations' time there are left + n, and to be apart burst / (left + n) - 1: solved for n.
        apart = (math.sqrt((left - 1) ** 2 + 4 * self._burst) - 1 - left) / 2
        return last + max(0.0, apart) / self._rate

    def ready_at(self, now: float, decided: int = 0) -> float:
        """Give the time at which one more may be created, besides those `decided` that are not counted yet.

        Whoever asks between two creations is told the very same time: it then goes to who waits longest. A time that is
        still to come was given by another process, by another clock.
        """
        self._at = min(self._at, now)
        return max(now, self._at + (1 + decided - self._level) / self._rate)
