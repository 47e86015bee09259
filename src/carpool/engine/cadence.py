"""How often to ask, how long to back off, how fast to create.

Randomness is an argument: `jitter` lies in [0, 1).
"""

from zlib import crc32

from ..config import Timing

_HOUR = 3_600.0


def check_pause(age: float, timing: Timing, jitter: float) -> float:
    """Give the seconds until a batch of this age is checked again, spread by a tenth so that batches drift apart."""
    pause = min(max(timing.poll_fraction * age, timing.poll_min), timing.poll_max)
    return pause * (0.95 + 0.1 * jitter)


def backoff(attempt: int, jitter: float, *, base: float = 1.0, cap: float = 60.0) -> float:
    """Give the seconds to wait after the failed attempt number `attempt` (from 1): doubling, half of it jitter."""
    return float(min(cap, base * 2 ** min(attempt, 16))) * (0.5 + 0.5 * jitter)


def spread(key: str, draw: int) -> float:
    """Draw a jitter for a batch: the same for the same key and draw, so that a replay takes the same decisions."""
    return crc32(f"{key}/{draw}".encode()) / 2**32


class Pace:
    """Keep below so many creations in any hour: a tenth may be had at once, the rest drips in.

    In any 3,600 s at most burst + rate x 3,600 = the hourly limit are let through.
    """

    def __init__(self, per_hour: int) -> None:
        self._burst = max(1.0, per_hour / 10)
        self._rate = max(1.0, per_hour - self._burst) / _HOUR
        self._level = self._burst
        self._at = 0.0

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now

    def take(self, now: float) -> None:
        """Count one creation; the level may fall below zero, and is then paid back by waiting.

        One that is told late, after more than an hour, has been paid back.
        """
        self._refill(now)
        if now > self._at - _HOUR:
            self._level -= 1

    def ready_at(self, now: float, decided: int = 0) -> float:
        """Give the time at which one more may be created, besides those `decided` that are not counted yet."""
        self._refill(now)
        missing = 1 + decided - self._level
        # The millionth is the error of the refill's own arithmetic: without it the last step would be asked for twice.
        return now if missing <= 1e-6 else now + missing / self._rate
