"""Seeded faults of the network and of the server."""

import random
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal

Fault = Literal["lost_reply", "truncated", "cut", "server_error", "too_many", "reset"]

UPLOAD, CREATION, DOWNLOAD = "POST /v1/files", "POST /v1/batches", "GET /v1/files/{id}/content"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Fix how often requests go wrong, each a rate from 0 to 1 of the requests to the routes it concerns.

    `lost_reply`, and `lost_upload` and `lost_create` on their routes alone: the request is processed, then the
    connection breaks without a reply.
    `truncated` and `cut`: a download ends early, at any byte, with status 200; a truncated one has fewer bytes than its
    Content-Length, a cut one says nothing of it, as its Content-Length is as short, or is left out.
    `server_error` (500, 502 or 503), `too_many` (429; a quarter of them with Retry-After, a quarter with
    retry-after-ms, half with neither) and `reset` (the connection breaks): nothing is processed.
    `only` limits them all to routes such as "GET /v1/batches/{id}"; None is every route.
    `nth` limits them all to some requests of each route, counted from 1 as they arrive: {1} is the first one,
    range(1, 4) the first three; None is every request.
    Raises ValueError where a rate, or the sum of those that meet on a route, is not in 0 to 1, or `nth` has a number
    below 1.
    """

    lost_reply: float = 0.0
    lost_upload: float = 0.0
    lost_create: float = 0.0
    truncated: float = 0.0
    cut: float = 0.0
    server_error: float = 0.0
    too_many: float = 0.0
    reset: float = 0.0
    only: Collection[str] | None = None
    nth: Collection[int] | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type is float and not 0 <= getattr(self, entry.name) <= 1:
                raise ValueError(f"Faults.{entry.name} is a rate from 0 to 1, not {getattr(self, entry.name)}")
        if any(sum(rate for _, rate in self._rates(route)) > 1 for route in (UPLOAD, CREATION, DOWNLOAD)):
            raise ValueError("the rates of the faults that meet on one route add up to more than 1")
        if isinstance(self.only, str):
            raise ValueError("Faults.only is a collection of routes, not one string")
        if self.nth is not None and min(self.nth, default=1) < 1:
            raise ValueError(f"Faults.nth counts the requests of a route from 1, not from {min(self.nth)}")

    def on(self, route: str, number: int) -> list[tuple[Fault, float]]:
        """Give the faults that concern request `number` of a route, with their rates."""
        if self.only is not None and route not in self.only:
            return []
        if self.nth is not None and number not in self.nth:
            return []
        return self._rates(route)

    def _rates(self, route: str) -> list[tuple[Fault, float]]:
        lost = {UPLOAD: self.lost_upload, CREATION: self.lost_create}.get(route, 0.0)
        cut: list[tuple[Fault, float]] = [("truncated", self.truncated), ("cut", self.cut)]
        return [
            ("lost_reply", lost + self.lost_reply),
            *(cut if route == DOWNLOAD else []),
            ("server_error", self.server_error),
            ("too_many", self.too_many),
            ("reset", self.reset),
        ]


class Dice:
    """Decide over each request in its order of arrival: the same seed and the same requests, the same faults."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._chance = random.Random(f"faults/{seed}")  # noqa: S311 - no secret

    def roll(self, route: str, number: int) -> tuple[Fault | None, float]:
        """Give the fault of the next request, if any, and a number in [0, 1) that chooses its kind.

        `number` is its place among the requests of its route, from 1.
        """
        # Two draws for every request, so that a rate that changes moves no other request's luck.
        drawn, kind = self._chance.random(), self._chance.random()
        for fault, rate in self._faults.on(route, number):
            if drawn < rate:
                return fault, kind
            drawn -= rate
        return None, kind
