"""What a soak showed, and whether its bars are kept."""

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .clients import Tally
from .plan import RESTLESS, STEADY, Plan
from .services import Ending, Sample

GROWTH = 0.05  # share by which memory and descriptors may grow
_FLAT = 300.0  # seconds, from which on a soak is long enough to hold processes to that
_SHORT_GROWTH = 0.5  # in a shorter one they are still starting up
_FEW = 3  # descriptors: so many come and go with the connections to the provider
_FAULT = re.compile(r"Traceback|fault of carpool's own|broke down|was never retrieved|could not clean up")


@dataclass(frozen=True)
class Seen:
    """Hold what was seen: by clients, of processes, in their logs, and what the provider's books tell.

    `began` is when the requests began to come, in seconds since the epoch.
    """

    plan: Plan
    began: float
    tally: Tally
    endings: Sequence[Ending]
    last: Sequence[Ending]  # of the processes that were there at the end
    samples: Sequence[Sample]
    books: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)


class Bar(NamedTuple):
    """Name what must hold, and say whether it does."""

    name: str
    kept: bool


class Growth(NamedTuple):
    """Compare medians of a process that was not restarted: when all should be settled, and at the end."""

    memory: tuple[float, float]  # bytes
    descriptors: tuple[float, float]

    def within(self, share: float) -> bool:
        """Tell whether neither grew by more than a share."""
        (before, after), (few, more) = self.memory, self.descriptors
        return after <= before * (1 + share) and more <= max(few * (1 + share), few + _FEW)


def growth_of(samples: Sequence[Sample], settled: float, end: float) -> Growth | None:
    """Give the growth of the steady service; None where it was not seen, as without /proc."""
    width = (end - settled) / 16
    own = [sample for sample in samples if sample.name == STEADY]
    before = [sample for sample in own if abs(sample.at - settled) <= width]
    after = [sample for sample in own if end - 2 * width <= sample.at <= end]
    if not before or not after:
        return None
    memory, descriptors = (
        tuple(statistics.median(getattr(sample, what) for sample in part) for part in (before, after))
        for what in ("memory", "descriptors")
    )
    return Growth((memory[0], memory[1]), (descriptors[0], descriptors[1]))


def faults(logs: dict[str, str]) -> list[str]:
    """Give the lines of the logs that tell of faults of ours."""
    return [f"{name}: {line}" for name, log in logs.items() for line in log.splitlines() if _FAULT.search(line)]


def bars(seen: Seen) -> list[Bar]:
    """Hold a soak to its bars."""
    plan, tally, books = seen.plan, seen.tally, seen.books
    growth = growth_of(seen.samples, plan.settled, plan.seconds)
    share = GROWTH if plan.seconds >= _FLAT else _SHORT_GROWTH
    return [
        Bar("every client answered", tally.answered == tally.asked == plan.calls),
        Bar("each with its own answer", not tally.wrong),
        Bar("nothing billed twice", books["twice"] == 0),
        Bar("no refusal after the first", len(books["refused"]) <= 1),
        Bar(f"memory and descriptors flat within {share:.0%}", growth is None or growth.within(share)),
        Bar("processes end as they are told", all(ending.proper for ending in (*seen.endings, *seen.last))),
        Bar("no faults in the logs", not faults(seen.logs)),
    ]


def lines(seen: Seen) -> Iterator[str]:
    """Say what was seen."""
    plan, tally, books = seen.plan, seen.tally, seen.books
    retried = ", ".join(f"{count:,} {why}" for why, count in tally.retried.most_common())
    yield f"{tally.asked:,} requests, {plan.rate:g} a second, for {plan.seconds:g} s; seed {plan.seed}"
    yield f"answered: {tally.answered:,}; asked again: {tally.retried.total():,} ({retried or 'none'})"
    yield from _latencies(tally.latencies)
    yield f"wrong answers: {len(tally.wrong)}; lost: {tally.asked - tally.answered}; billed twice: {books['twice']}"
    refused = ", ".join(f"{at - seen.began:.0f} s" for at in books["refused"])
    yield f"refusals by the queue limit of {plan.limit:,} tokens: {len(books['refused'])} ({refused or 'none'})"
    batches = len(books["admitted"])
    yield (
        f"batches: {batches}, {batches / plan.seconds * 3600:,.0f} an hour ({books['statuses']}); "
        f"utilisation {books['utilisation']:.2f}; files left: {books['files']}"
    )
    yield from _endings(seen.endings)
    yield from _processes(seen.samples, plan)
    lost = [f"{key} was never answered" for key in tally.waiting]
    twice = [f"{custom_id}, whose body was billed twice, ran in {', '.join(runs)}" for custom_id, runs in books["runs"]]
    yield from [f"  {line}" for line in (*lost[:5], *tally.wrong[:5], *twice[:10], *faults(seen.logs)[:10])]


def _latencies(latencies: Sequence[float]) -> Iterator[str]:
    if latencies:
        ordered = sorted(latencies)
        middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        yield f"latency with all retries: median {middle:.1f} s, p99 {high:.1f} s, longest {ordered[-1]:.1f} s"


def _endings(endings: Sequence[Ending]) -> Iterator[str]:
    for signal in sorted({ending.signal for ending in endings}):
        own = [ending for ending in endings if ending.signal == signal]
        codes = sorted({str(ending.code) for ending in own})
        took = max(ending.took for ending in own)
        yield f"restarts by signal {signal}: {len(own)}; codes {', '.join(codes)}; the slowest end took {took:.1f} s"


def _processes(samples: Sequence[Sample], plan: Plan) -> Iterator[str]:
    growth = growth_of(samples, plan.settled, plan.seconds)
    if growth is None:
        yield "memory and descriptors were not measured: no /proc"
        return
    before, after = (size / 2**20 for size in growth.memory)
    yield (
        f"the {STEADY} service, from {plan.settled:.0f} s to the end: {before:.1f} MiB to {after:.1f} MiB "
        f"({after / before - 1:+.1%}), {growth.descriptors[0]:g} to {growth.descriptors[1]:g} descriptors"
    )
    ages = [sample for sample in samples if sample.name == RESTLESS and 4 <= sample.age < 6]
    if ages:
        first, last = ages[0], ages[-1]
        yield (
            f"the {RESTLESS} service at the age of 5 s: {first.memory / 2**20:.1f} MiB and {first.descriptors} "
            f"descriptors at {first.at:.0f} s, {last.memory / 2**20:.1f} MiB and {last.descriptors} at {last.at:.0f} s"
        )
