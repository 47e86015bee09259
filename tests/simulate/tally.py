"""What was done to worlds, and what came of it, in figures."""

from collections import Counter
from typing import NamedTuple, Self

import carpool
from carpool.testing.rows import digest

from .calls import body_of
from .invariants import unsettled
from .plan import Plan
from .world import Seen


class Tally(NamedTuple):
    """Count what came of worlds, and by its kind what was injected."""

    came: Counter[str]
    injected: Counter[str]

    @classmethod
    def none(cls) -> Self:
        """Count nothing."""
        return cls(Counter(), Counter())

    def plus(self, other: "Tally") -> "Tally":
        """Add up."""
        return Tally(self.came + other.came, self.injected + other.injected)

    def lines(self) -> list[str]:
        """Say it."""
        came = self.came
        faults = ", ".join(f"{kind.replace('_', ' ')} {times:,}" for kind, times in sorted(self.injected.items()))
        return [
            f"worlds: {came['worlds']:,}, {came['asyncio']:,} of them on asyncio, {came['trio']:,} on trio",
            f"calls: {came['calls']:,} made, {came['answered']:,} answered, {came['refused']:,} refused",
            f"tries: {came['asked again']:,} more, {came['batches']:,} batches, {came['live']:,} live calls, "
            f"{came['paid again']:,} answers paid again that the provider had lost",
            f"injected: {sum(self.injected.values()):,} ({faults})",
            f"billed twice: {came['billed twice']:,}, lost: {came['lost']:,}",
        ]


def tally(plan: Plan, seen: Seen) -> Tally:
    """Count what came of a plan."""
    came = Counter[str]()
    came["worlds"] = came[plan.backend] = 1
    came["calls"] = plan.calls
    came["answered"] = sum(isinstance(settled, carpool.Response) for settled in seen.settled.values())
    came["refused"] = len(seen.settled) - came["answered"]
    came["lost"] = len(seen.lost) + len(unsettled(plan, seen))
    came["asked again"] = seen.retried
    if seen.final is not None:
        books = seen.final
        came["batches"], came["live"] = len(books.batches), books.live
        for number in range(plan.calls):
            name = digest(body_of(number, plan))
            paid, lost = books.paid[name], books.lost[name]
            came["paid again"] += max(0, min(paid - 1, lost))
            came["billed twice"] += max(0, paid - 1 - lost)
    return Tally(came, seen.injected)
