"""The rate of live calls, and the headers that tell of it."""

import math
from collections import deque

MINUTE = 60.0
# What is told where nothing is limited.
REQUESTS, TOKENS = 10_000, 2_000_000


class Rate:
    """Let in so many requests within any minute, None for all that come; times are any clock's seconds."""

    def __init__(self, per_minute: int | None) -> None:
        self._most = per_minute
        self._taken: deque[float] = deque()

    def take(self, now: float) -> tuple[float, dict[str, str]]:
        """Give the seconds after which to come again, 0 where the request is let in, and the headers of the reply."""
        if self._most is None:
            return 0.0, rate_headers(REQUESTS, REQUESTS - 1, 0.0)
        while self._taken and self._taken[0] <= now - MINUTE:
            self._taken.popleft()
        wait = 0.0
        if len(self._taken) < self._most:
            self._taken.append(now)
        else:
            wait = self._taken[0] + MINUTE - now
        headers = rate_headers(self._most, self._most - len(self._taken), self._taken[-1] + MINUTE - now)
        return wait, headers | ({"retry-after": str(math.ceil(wait))} if wait else {})


def rate_headers(limit: int, remaining: int, reset: float) -> dict[str, str]:
    """Give the headers of a live reply; `reset` is the seconds until all of the limit is free again."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": _span(reset),
        "x-ratelimit-limit-tokens": str(TOKENS),
        "x-ratelimit-remaining-tokens": str(TOKENS),
        "x-ratelimit-reset-tokens": _span(0.0),
    }


def _span(seconds: float) -> str:
    """Write a span as the API does: 6m0s, 8.64s, 120ms."""
    whole = math.ceil(seconds * 1000)
    minutes, rest = divmod(whole, 60_000)
    if minutes:
        return f"{minutes}m{rest / 1000:g}s"
    return f"{rest / 1000:g}s" if rest >= 1000 or not rest else f"{rest}ms"
