"""Batches that stay small because their callers are few: most frameworks bound the calls under way at once."""

import math
from collections import Counter

from .models import Lane

_SMALL = 1_000  # requests; a batch takes fifty times as many
_ALIKE = 0.1  # share by which sizes differ that are the same but for the end of the work
_FEW = 5  # requests: so many come together by chance
_IN_A_ROW, _FEW_IN_A_ROW = 3, 10
_PROMPT = 2.0  # seconds, and twice the linger: who calls later than this after an answer did not wait for it


class SmallBatches:
    """Notice when a lane's batches hold, one after another, the same few calls: all that are made at a time."""

    def __init__(self, linger: float) -> None:
        self._prompt = _PROMPT + 2 * linger
        self._sizes: dict[Lane, int] = {}
        self._alike = Counter[Lane]()
        self._lane_of: dict[str, Lane] = {}  # of the batches under way, by their keys
        self._answered_at: dict[Lane, float] = {}
        self._said = False

    def answered(self, key: str, now: float) -> None:
        """Hear that calls of a batch were answered."""
        lane = self._lane_of.get(key)
        if lane is not None:
            self._answered_at[lane] = now

    def done(self, key: str) -> None:
        """Hear that a batch is over."""
        self._lane_of.pop(key, None)

    def packed(self, key: str, lane: Lane, size: int, pending: int, now: float) -> str | None:
        """Hear of a batch, and of all calls pending in its lane; gives what there is to be said, once."""
        self._lane_of[key] = lane
        last = self._sizes.get(lane, 0)
        self._sizes[lane] = size
        alike = abs(size - last) <= last * _ALIKE and now - self._answered_at.get(lane, -math.inf) <= self._prompt
        if size != pending or size > _SMALL:
            self._alike[lane] = 0
        else:
            self._alike[lane] = self._alike[lane] + 1 if alike else 1
        enough = _IN_A_ROW if size >= _FEW else _FEW_IN_A_ROW
        if self._said or self._alike[lane] < enough:
            return None
        self._said = True
        if size == 1:
            return (
                f"{enough} batches in a row held one call to {lane.model}, made when the one before was answered. "
                "Await many at once (asyncio.gather), or raise your framework's max_connections or max_concurrency."
            )
        return (
            f"{enough} batches in a row held about {size} calls to {lane.model}, and nobody else waited: whoever "
            "makes them lets no more be under way at a time, and waits for a batch after each few. Raise that limit to "
            "some thousands (max_connections, max_concurrency, a semaphore); a batch takes 50,000."
        )
