"""What is promised, held against what came of a plan."""

from collections.abc import Iterator

import carpool
from carpool.testing import Books
from carpool.testing.rows import digest

from .calls import body_of, is_bad, text_of
from .plan import Plan
from .world import Seen


def broken(plan: Plan, seen: Seen) -> Iterator[str]:
    """Say which promises were broken."""
    yield from seen.faults
    yield from _settled(plan, seen)
    yield from _kept(seen)
    if seen.final is not None:
        yield from _paid(plan, seen.final)
        yield from _limits(plan, seen.final)


def _settled(plan: Plan, seen: Seen) -> Iterator[str]:
    """Every call is settled, with its own answer; a row that is refused harms no other."""
    waiting = [str(number) for number in range(plan.calls) if number not in seen.settled]
    if waiting:
        yield f"{len(waiting)} calls were not settled: {', '.join(waiting[:5])} ..."
    for number, settled in seen.settled.items():
        text = text_of(number, plan)
        if is_bad(text) != isinstance(settled, carpool.RequestRejected):
            yield f"call {number}, {text[:12]!r}, was settled with {settled!r}"
        elif isinstance(settled, carpool.Response) and settled.text.partition("#")[0] != text:
            yield f"call {number}, {text[:12]!r}, was answered with {settled.text[:20]!r}"


def _kept(seen: Seen) -> Iterator[str]:
    """What was answered is there in the next process, and costs nothing."""
    for number, settled in seen.settled.items():
        if isinstance(settled, carpool.Response) and seen.again.get(number) != settled.text:
            yield f"call {number} was answered with {settled.text[-5:]!r}, and later with {seen.again.get(number)!r}"
    if seen.books is not None and seen.final is not None:
        more = {batch.id for batch in seen.final.batches} - {batch.id for batch in seen.books.batches}
        if more:
            yield f"batches ran for what was answered: {', '.join(sorted(more))}"


def _paid(plan: Plan, books: Books) -> Iterator[str]:
    """Nothing is billed twice, but what the provider lost."""
    for number in range(plan.calls):
        name = digest(body_of(number, plan))
        if books.paid[name] > 1 + books.lost[name]:
            runs = {custom_id: batches for (custom_id, body), batches in books.runs.items() if body == name}
            yield f"call {number} was paid {books.paid[name]} times, {books.lost[name]} lost: {runs}"


def _limits(plan: Plan, books: Books) -> Iterator[str]:
    """No creation goes beyond a limit that is known: a process that dies may not have said what it was told."""
    deaths = sum(stop.how == "kill" for stop in plan.stops)
    for model in {line.model for line in books.queue}:
        allowed = 0 if plan.told else 1 + deaths
        if books.refusals(model) > allowed:
            yield f"{books.refusals(model)} batches of {model} were refused for want of room, not {allowed} at most"
