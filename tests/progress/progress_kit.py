"""Figures of pools, as the tests of progress need them."""

from typing import Any

from carpool.engine.batch import BatchStats
from carpool.engine.lane import LaneStats
from carpool.models import Lane
from carpool.spending import Cost
from carpool.stats import Stats

CHAT, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/embeddings", "/v1/responses"
NOW = 1_800_000_000.0


def lane(
    waiting: int = 0, submitted: int = 0, model: str = "gpt-5-mini", endpoint: str = CHAT, **more: Any
) -> LaneStats:
    name = Lane(endpoint, model, more.pop("long", False), more.pop("priority", 0))
    return LaneStats(name, waiting, submitted, more.pop("batches", 0), **more)


def batch(number: int = 1, of: LaneStats | None = None, **more: Any) -> BatchStats:
    given: dict[str, Any] = {
        "key": f"0cd9bbc8-b{number}",
        "id": f"batch_{number:032x}",
        "lane": (of or lane()).lane,
        "stage": "running",
        "status": "in_progress",
        "rows": 1_000,
        "unsettled": 1_000,
        "tokens": 50_000,
        "since": NOW - 60 * number,
        "done": None,
    }
    return BatchStats(**given | more)


def stats(*lanes: LaneStats, open_: tuple[BatchStats, ...] = (), **more: Any) -> Stats:
    answered, failed = sum(one.answered for one in lanes), sum(one.failed for one in lanes)
    accepted = answered + failed + sum(one.waiting + one.submitted for one in lanes)
    given: dict[str, Any] = {"accepted": accepted, "answered": answered, "failed": failed, "batches": len(open_)}
    return Stats(lanes=lanes, open=open_, **given | more)


def busy() -> Stats:
    """Give what a pool with three lanes may look like."""
    chat = lane(
        1_502_000, 35_652, limit=2_000_000, limit_source="learned", enqueued=1_220_000, answered=12_345, failed=3
    )
    responses = lane(0, 1_000, "gpt-4o-2024-11-20", RESPONSES)
    embeddings = lane(0, 0, "text-embedding-3-small", EMBEDDINGS, priority=5, limit=20_000_000, answered=123_456)
    cost = Cost(12_345, 200, 1_000, 0, 1_000, 1.23, 2.46)
    open_ = (
        batch(9, chat, done=110),
        batch(8, chat, stage="collecting", status="completed", unsettled=230),
        batch(7, responses, status="validating", done=0),
        batch(6, chat, done=999),
        batch(5, chat, stage="queued", id=None, status=""),
        batch(4, chat),
        batch(3, chat, stage="creating", id=None, status=""),
    )
    return stats(chat, responses, embeddings, open_=open_, cost=cost, costs={chat.lane: cost})
