"""What is promised, held against what came of a plan."""

from collections.abc import Iterator

import carpool
from carpool.testing import Books
from carpool.testing.ledger import QueueLine
from carpool.testing.rows import digest

from .calls import body_of, is_bad, text_of
from .plan import Plan
from .world import Seen

_MOST = 10  # of one kind that are told
# What was under way comes to the queue after its limit is known to be another: in so many seconds, half of the time
# that a batch runs, and so many slow steps.
_GRACE, _STEPS = 2.0, 10


def broken(plan: Plan, seen: Seen) -> Iterator[str]:
    """Say which promises were broken."""
    yield from seen.faults[:_MOST]
    yield from _settled(plan, seen)
    yield from _kept(plan, seen)
    if seen.final is not None:
        yield from _paid(plan, seen, seen.final)
        yield from _live(plan, seen, seen.final)
        yield from _limits(plan, seen.final)


def _settled(plan: Plan, seen: Seen) -> Iterator[str]:
    """Every call is settled, with its own answer; a row that is refused harms no other."""
    waiting = unsettled(plan, seen)
    if waiting:
        yield f"{len(waiting)} calls were not settled: {', '.join(map(str, waiting[:5]))} ..."
    for number, settled in seen.settled.items():
        text = text_of(number, plan)
        if is_bad(text) != isinstance(settled, carpool.RequestRejected):
            yield f"call {number}, {text[:12]!r}, was settled with {settled!r}"
        elif isinstance(settled, carpool.Response) and settled.text.partition("#")[0] != text:
            yield f"call {number}, {text[:12]!r}, was answered with {settled.text[:20]!r}"


def unsettled(plan: Plan, seen: Seen) -> list[int]:
    """Name the calls that nothing came of, and should have."""
    return [number for number in range(plan.calls) if number not in seen.settled and not _outlasts(number, plan)]


def _outlasts(number: int, plan: Plan) -> bool:
    """Tell whether a call may be over each time before it is refused: a refusal, unlike an answer, is not kept."""
    return is_bad(text_of(number, plan)) and 0 < plan.timeout < 2 * plan.running


def _kept(plan: Plan, seen: Seen) -> Iterator[str]:
    """What was answered is there in the next process, and costs nothing."""
    for number, text in [*seen.lost.items()][:_MOST]:
        settled = seen.settled[number]
        assert isinstance(settled, carpool.Response)
        yield f"call {number} was answered with {settled.text[-5:]!r}, and later with {text!r}"
    if seen.books is not None and seen.final is not None:
        # Others than these may run: what was packed goes on, though nobody asks for it again.
        answered = {number for number, came in seen.settled.items() if isinstance(came, carpool.Response)}
        bodies = {digest(body_of(number, plan)) for number in answered}
        more = {batch.id for batch in seen.final.batches} - {batch.id for batch in seen.books.batches}
        ran = {batch for (_, body), batches in seen.final.runs.items() if body in bodies for batch in batches}
        if more & ran:
            yield f"batches ran for what was answered: {', '.join(sorted(more & ran))}"


def _paid(plan: Plan, seen: Seen, books: Books) -> Iterator[str]:
    """Nothing is billed twice but what the provider lost; what was refused runs again if it is asked for again."""
    for number in range(plan.calls):
        name = digest(body_of(number, plan))
        times, most = books.paid[name], 1 + books.lost[name]
        if is_bad(text_of(number, plan)):
            times, most = books.bodies[name], max(1, seen.asked[number]) + books.lost[name]
        if times > most:
            runs = {custom_id: batches for (custom_id, body), batches in books.runs.items() if body == name}
            yield f"call {number} ran {times} times, {books.lost[name]} lost, asked {seen.asked[number]} times: {runs}"


def _live(plan: Plan, seen: Seen, books: Books) -> Iterator[str]:
    """Nothing goes live that was not to, and what was to goes once for each time that its caller is told of a failure.

    With several services it goes live once more for each time that it was in vain: that no answer came is known to the
    process that sent it, and to none that is asked then (test_what_another_process_sent_live_in_vain_is_sent_here). So
    it does for each time that an answer came to a process that died before it had recorded it.
    """
    for number in range(plan.calls):
        times = books.live_bodies[digest(body_of(number, plan))]
        in_vain = seen.unkept[number] + (times - seen.lived[number] if plan.services > 1 else 0)
        most = seen.asked[number] if is_bad(text_of(number, plan)) else 1 + seen.failed[number] + in_vain
        if times > (most if plan.escalate else 0):
            yield f"call {number} went live {times} times, not {most} at most"


def _limits(plan: Plan, books: Books) -> Iterator[str]:
    """No batch goes beyond a limit that is known: a process that dies may not have said what it was told."""
    deaths = sum(stop.how == "kill" for stop in plan.stops)
    for model in sorted({line.model for line in books.queue}):
        lines = [*_known(plan, books, model)]
        refused = sum(line.change == "refused" for line in lines)
        allowed = 0 if plan.told else 1 + deaths
        if refused > allowed:
            yield f"{refused} batches of {model} were refused for want of room, not {allowed} at most"
        if plan.told:
            high = [line for line in lines if line.change == "admitted" and line.tokens > plan.told * (line.limit or 0)]
            if high:
                yield f"{high[0].tokens} tokens of {model} were enqueued, of {plan.told} times {high[0].limit}"


def _known(plan: Plan, books: Books, model: str) -> Iterator[QueueLine]:
    """Give what happened in a queue, but for what was under way when the limit became another."""
    lines = [line for line in books.queue if line.model == model]
    changed = known = books.limits[-1].at
    if not plan.told:  # before that, nobody knows
        known = next((line.at for line in lines if line.change == "refused" and line.at >= changed), changed)
    until = known + _GRACE + plan.running / 2 + _STEPS * (plan.disk + plan.net)
    yield from (line for line in lines if not changed <= line.at < until)
