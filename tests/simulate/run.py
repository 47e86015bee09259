"""Run plans, and say what they broke."""

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from .invariants import broken
from .plan import Plan, draw
from .planted import PLANTED, Planted
from .room import closed_room, run_on
from .tally import Tally, tally
from .world import Seen, World

_BROKE_DOWN = "the world broke down"
_ENDLESS = "the world came to no end, and no time went by in it"
_LONGEST = 120.0  # CPU seconds: a large world takes 5 to 20
_ENOUGH = range(40)  # seeds, in which a planted bug must be found


class _Endless(KeyboardInterrupt):
    """Leave any event loop, as nothing else does."""


class Result(NamedTuple):
    """Tell what came of a plan, and which promises were broken."""

    seen: Seen
    broken: list[str]


class Found(NamedTuple):
    """Name the seed in which a planted bug was found, and by what."""

    seed: int
    small: bool
    broken: list[str]


def simulate(plan: Plan) -> Result:
    """Run a plan."""
    injected = Counter[str]()
    with closed_room(plan, injected) as folder:
        world = World(plan, folder, injected)
        try:
            with _watched():
                run_on(plan.backend, world.run)
        except _Endless:
            return Result(world.seen, [_ENDLESS])
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is a finding
            return Result(world.seen, [f"{_BROKE_DOWN}: {exc!r}"])
    return Result(world.seen, list(broken(plan, world.seen)))


@contextmanager
def _watched() -> Iterator[None]:
    """Leave a world that goes round in circles: on virtual time no clock would."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise _Endless

    before = signal.signal(signal.SIGPROF, leave)
    signal.setitimer(signal.ITIMER_PROF, _LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def promises_broken(plan: Plan) -> list[str]:
    """Run a plan, and say what it broke alone."""
    return simulate(plan).broken


def tallied(plan: Plan) -> tuple[list[str], Tally]:
    """Run a plan, and give what it broke, and the figures."""
    seen, promises = simulate(plan)
    return promises, tally(plan, seen)


def repeated(plan: Plan) -> tuple[list[str], Tally]:
    """Run a plan twice, and say too where that took another course."""
    (seen, promises), (again, _) = simulate(plan), simulate(plan)
    if (seen.trace, seen.final) != (again.trace, again.final):
        promises.append("it took another course the second time")
    return promises, tally(plan, seen)


def hunt(bug: Planted, seeds: Iterable[int] = _ENOUGH, *, small: bool = False) -> Found | None:
    """Plant a bug, and run seeds until one finds it: by what it breaks, not because it does not fit the code."""
    for seed in seeds:
        with bug.there():
            _, promises = simulate(draw(seed, small=small))
        if promises and not promises[0].startswith(_BROKE_DOWN):
            return Found(seed, small, promises)
    return None


def hunt_by_name(name: str) -> Found | None:
    """Hunt a bug, which itself is not sent to another process, first in small worlds; none finds this in `__main__`."""
    (bug,) = (bug for bug in PLANTED if bug.name == name)
    return hunt(bug, small=True) or hunt(bug)
