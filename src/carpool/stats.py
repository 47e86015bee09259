"""What a pool has done so far, and what it cost."""

from typing import Literal, TypeAlias

import msgspec

from .collector import Collector
from .engine.batch import BatchStats
from .engine.lane import LaneStats
from .models import Lane
from .spending import Cost

State: TypeAlias = Literal["open", "draining", "broken", "closed"]

_ENDS: tuple[Literal["accepted", "answered", "failed"], ...] = ("accepted", "answered", "failed")


class TagStats(msgspec.Struct, frozen=True):
    """Count the calls of one tag: accepted, answered and failed."""

    accepted: int
    answered: int
    failed: int


class Stats(msgspec.Struct, frozen=True):
    """Count calls: all that were accepted, those that were answered or failed, and what is under way in each lane.

    A call that was given up, by its caller or its timeout, counts when its row ends, and no longer under its tags.
    `tags` counts calls by each of theirs. `cost` adds up all answers that this pool paid for, `costs` those of each
    lane. `batches` counts those created, `open` tells of those that are not over, the oldest first. `pending` calls are
    awaited just now. `state` is "open", "draining" while no more calls are taken and others are still settled, "broken"
    where no more are taken since the journal cannot be written, or "closed".
    """

    accepted: int
    answered: int
    failed: int
    batches: int
    lanes: tuple[LaneStats, ...]
    tags: dict[str, TagStats] = {}
    cost: Cost = Cost()
    costs: dict[Lane, Cost] = {}
    open: tuple[BatchStats, ...] = ()
    pending: int = 0
    state: State = "open"

    @property
    def waiting(self) -> int:
        """Count the requests that are in no batch yet."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def in_flight(self) -> int:
        """Count the requests that are in batches, created or about to be, and not settled."""
        return sum(lane.submitted for lane in self.lanes)


def count(collector: Collector) -> Stats:
    """Count what a collector has done."""
    callers = collector.callers
    tags = {tag: TagStats(*(callers.by_tag[tag, end] for end in _ENDS)) for tag, _ in callers.by_tag}
    return Stats(
        collector.intake.accepted,
        callers.answered,
        callers.failed,
        collector.batches,
        collector.lanes(),
        tags,
        collector.spending.total(),
        collector.spending.by_lane(),
        collector.open_batches(),
        len(callers),
        _state(collector),
    )


def _state(collector: Collector) -> State:
    if collector.background.is_over:
        return "closed"
    if collector.recorder is not None and collector.recorder.broken is not None:
        return "broken"
    return "open" if collector.callers.refusal is None else "draining"


def line(collector: Collector) -> str:
    """Say in a line how a collector stands; from any thread, at any moment."""
    for _ in range(_LOOKS):
        try:
            return _line(count(collector))
        except RuntimeError:  # its thread has just changed what was looked through
            continue
    return _state(collector)


_LOOKS = 10


def _line(stats: Stats) -> str:
    full = sorted({batch.lane.model for batch in stats.open if batch.stage == "queued"})
    batches = "batch" if stats.batches == 1 else "batches"
    limits = f"; no room in the queue of {', '.join(full)}" if full else ""
    return (
        f"{stats.state}, {stats.accepted:,} accepted, {stats.answered:,} answered, {stats.failed:,} failed, "
        f"{stats.waiting:,} waiting, {stats.in_flight:,} in flight, {stats.batches:,} {batches}{limits}"
    )
