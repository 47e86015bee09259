"""How soon an end is seen, and how many calls that takes: the benchmark in a short form, and a whole pool."""

from typing import Any

import anyio
import pytest
from virtual import CHAT, body, world

from benchmarks import latency
from benchmarks.latency import HOUR, Case
from carpool.testing import Pace


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


CASES = (
    Case(1, lives=1_000, longest=HOUR),
    Case(10, "in 2 hours", "among", lives=500, longest=HOUR),
    Case(100, lives=1_000, longest=HOUR),
    Case(100, "at once", "above", lives=300, longest=HOUR),
    Case(1_000, "at once", "among", lives=1_000, longest=HOUR / 2),
    Case(10, "in 2 hours", "among", webhooks=True, lives=500, longest=HOUR),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ends_are_seen_soon_and_with_few_calls(case: Case) -> None:
    record = latency.measure(case)
    assert all(bar.kept for bar in record.bars), [str(bar) for bar in record.bars]


def test_webhooks_save_most_of_the_calls_and_of_the_wait() -> None:
    polled, told = (latency.measure(Case(10, webhooks=webhooks, lives=100, longest=HOUR)) for webhooks in (False, True))
    assert told.number("calls") < polled.number("calls") / 2
    assert told.number("lag above s") < 1 < polled.number("lag above s") / 10


def test_the_table_has_a_line_for_each_case() -> None:
    records = [latency.measure(Case(number, lives=20, longest=HOUR)) for number in (1, 10)]
    lines = latency.table(records).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1 at once, others: none", "| 10 at once, others: none"]


async def calls_made(models: int) -> int:
    """Let so many batches run for ten minutes at the same time; gives how often the emulator was asked for them."""
    async with world(pool={"counter": lambda *_: 1}, pace=Pace(validating=5, running=600)) as w:
        async with anyio.create_task_group() as tasks:
            for number in range(models):
                tasks.start_soon(w.pool.request, CHAT, body(model=f"model-{number}"))
        books = w.emulator.books()
    assert len(books.batches) == models
    return books.routes["GET /v1/batches"] + books.routes["GET /v1/batches/{id}"]


@pytest.mark.anyio
async def test_a_pool_asks_for_many_batches_as_often_as_for_one() -> None:
    assert await calls_made(30) <= 1.1 * await calls_made(1)
