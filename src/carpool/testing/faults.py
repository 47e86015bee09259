"""Seeded faults of the network and of the server."""

import random
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal

Fault = Literal["lost_reply", "server_error", "too_many", "reset"]


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Fix how often requests go wrong, each a rate from 0 to 1 of the requests to the routes it concerns.

    `lost_upload` and `lost_create`: the request is processed, then the connection breaks without a reply.
    `server_error` (500, 502 or 503), `too_many` (429) and `reset` (the connection breaks): nothing is processed.
    `only` limits them all to routes such as "GET /v1/batches/{id}"; None is every route.
    `nth` limits them all to some requests of each route, counted from 1 as they arrive: {1} is the first one,
    range(1, 4) the first three; None is every request.
    Raises ValueError where a rate, or the sum of those that meet on a route, is not in 0 to 1, or `nth` has a number
    below 1.
    """

    lost_upload: float = 0.0
    lost_create: float = 0.0
    server_error: float = 0.0
    too_many: float = 0.0
    reset: float = 0.0
    only: Collection[str] | None = None
    nth: Collection[int] | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type is float and not 0 <= getattr(self, entry.name) <= 1:
                raise ValueError(f"Faults.{entry.name} is a rate from 0 to 1, not {getattr(self, entry.name)}")
        if self.server_error + self.too_many + self.reset + max(self.lost_upload, self.lost_create) > 1:
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
        lost = {"POST /v1/files": self.lost_upload, "POST /v1/batches": self.lost_create}.get(route, 0.0)
        return [
            ("lost_reply", lost),
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
