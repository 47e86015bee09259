"""Make a failing plan smaller: what is left is what the failure needs."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from .plan import Plan

_CALM: dict[str, Any] = {
    "faults": {},
    "troubles": {},
    "failing": {},
    "twice": 0.0,
    "bad": 0.0,
    "net": 0.0,
    "disk": 0.0,
    "lanes": 1,
    "lowered": 0.0,
    "submitted": 0.0,
    "twins": 0.0,
    "stale": False,
    "full": (),
    "locked": (),
    "timeout": 0.0,
    "patience": 90.0,
}


def shrink(plan: Plan, fails: Callable[[Plan], bool], tries: int = 60) -> Plan:
    """Give the smallest plan found, in so many tries, that still `fails`."""
    left = tries
    while True:
        for smaller in _smaller(plan):
            if not left:
                return plan
            left -= 1
            if fails(smaller):
                plan = smaller
                break
        else:
            return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Give plans in which less happens, those with much less first."""
    if plan.calls > 1:
        yield _but(plan, calls=plan.calls // 2)
    count = len(plan.stops)
    size = (count + 1) // 2
    while size:
        for start in range(0, count, size):
            yield _but(plan, stops=plan.stops[:start] + plan.stops[start + size :])
        size //= 2
    for name, calm in _CALM.items():
        if getattr(plan, name) != calm:
            yield _but(plan, **{name: calm})
    for kind in ("faults", "troubles"):
        rates = getattr(plan, kind)
        if len(rates) > 1:
            yield from (_but(plan, **{kind: {name: rates[name]}}) for name in rates)
    if plan.services > 1 and all(stop.service < plan.services - 1 for stop in plan.stops):
        yield _but(plan, services=plan.services - 1)


def _but(plan: Plan, **changes: Any) -> Plan:
    return msgspec.structs.replace(plan, **changes)
