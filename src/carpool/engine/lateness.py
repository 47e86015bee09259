"""Tokens that the provider goes on counting for a while after their batch has ended (traps 16)."""

import math
from collections import deque

_MOST = 0.25  # of the time a batch takes: longer is not believed
_FADES = 0.98  # with each admission, so that a lag that has passed is forgotten
_FIRST = 4.0  # seconds


class Lateness:
    """Hold the tokens of ended batches for the `lag` that refusals have shown."""

    def __init__(self) -> None:
        self.lag: float = 0.0
        self._ended: deque[tuple[float, float]] = deque()  # when, and how many tokens
        self._before: float | None = None  # the lag before longer ones were tried
        self._blamed_at = -math.inf
        self._cleared_until = -math.inf

    def end(self, tokens: float, now: float, turn: float) -> None:
        """Note the end of a batch; `turn` is the time that one takes, in seconds."""
        self._ended.append((now, tokens))
        while self._ended[0][0] + max(turn, self.lag) < now:
            self._ended.popleft()

    def held(self, now: float) -> float:
        """Give the tokens that may still be counted."""
        return sum(tokens for at, tokens in self._ended if at + self.lag > now)

    def wake(self, now: float) -> float:
        """Give the time at which the next of them are free."""
        return min((at + self.lag for at, _ in self._ended if at + self.lag > now), default=math.inf)

    def admit(self) -> None:
        """Note that a batch found room: the lag is long enough, or no longer that long."""
        self._before = None
        self.lag *= _FADES

    def blame(self, missing: float, since: float, now: float, turn: float) -> bool:
        """Tell whether late tokens would explain a refusal, for which so many more must be counted; lengthens the lag.

        `since` is when the refused batch was created: of several in a row, one that did not know the lag proves nothing
        against it. A lag that grows too long is none: then somebody else is in the queue, and for a turn nothing is put
        down to lateness.
        """
        age = self._age(missing, now)
        if age is None or now < self._cleared_until:
            return False
        if since < self._blamed_at:
            return True
        self._blamed_at = now
        self._before = self.lag if self._before is None else self._before
        self.lag = max(1.5 * self.lag, 2 * age, _FIRST)
        if self.lag <= _MOST * turn:
            return True
        self.lag, self._before = self._before, None
        self._cleared_until = now + turn
        return False

    def _age(self, missing: float, now: float) -> float | None:
        """Give the seconds since so many tokens, besides those held, came free; None when they never were there."""
        for at, tokens in reversed(self._ended):
            missing -= tokens if at + self.lag <= now else 0.0
            if missing < 0:
                return now - at
        return None
