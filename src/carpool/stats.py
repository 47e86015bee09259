"""What a pool has done so far, and what it cost."""

from typing import Literal

import msgspec

from .collector import Collector
from .engine.batch import BatchStats
from .engine.lane import LaneStats
from .models import Lane
from .spending import Cost

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
    lane. `batches` counts those created, `open` tells of those that are not over, the oldest first.
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
    )
