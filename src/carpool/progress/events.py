"""Progress for programs: JSON objects, one a line."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import structs

from ..stats import Stats
from .forecast import Left
from .watch import Total, Watch, figures


class JsonEvents:
    """Write a JSON object a line: at once, then at most every `every` seconds when something has changed, and at last.

    `write` is given a line with its end.
    """

    pause: float = 1.0

    def __init__(self, write: Callable[[str], object], total: Total = None, *, every: float = 5.0) -> None:
        self._write = write
        self._watch = Watch(total, journal=False)
        self._every = every
        self._wrote_at = -math.inf
        self._wrote: object = None

    def update(self, stats: Stats, now: float) -> None:
        """Write how things stand."""
        self._watch.look(stats, now)
        if now - self._wrote_at >= self._every and figures(stats) != self._wrote:
            self._wrote_at, self._wrote = now, figures(stats)
            total, left, _ = self._watch.glance(stats, now)
            self._write(event("progress", stats, now, total, left))

    def close(self, stats: Stats, now: float) -> None:
        """Write what came of it."""
        self._write(event("end", stats, now, self._watch.glance(stats, now).total))


def event(name: str, stats: Stats, now: float, total: int | None = None, left: Left | None = None) -> str:
    """Give one line: the figures, and between how many seconds and how many are left."""
    content: dict[str, Any] = msgspec.to_builtins(structs.replace(stats, costs={}))
    content["lanes"] = [
        {**_named(lane), "cost": stats.costs.get(known.lane)}
        for lane, known in zip(content["lanes"], stats.lanes, strict=True)
    ]
    content["open"] = list(map(_named, content["open"]))
    del content["costs"]  # JSON has no lanes for keys
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    seconds = None if left is None else [round(left.low), round(left.high)]
    return msgspec.json.encode({"event": name, "at": at, "total": total, "left": seconds, **content}).decode() + "\n"


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """Say what names a lane in words, not by its place."""
    endpoint, model, long, priority = entry.pop("lane")
    return {"endpoint": endpoint, "model": model, "long": long, "priority": priority, **entry}
