"""How soon an end is seen, and how many calls that takes: the benchmark in a short form, and a whole pool."""

from typing import Any

import anyio
import httpx2
import pytest
from virtual import CHAT, InMemory, body, run_here, world

import carpool
from benchmarks import latency
from benchmarks.latency import HOUR, Case
from carpool.settings import Ports
from carpool.testing import Emulator, Pace


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


@pytest.mark.parametrize("opened", ["at once", "in 2 hours"])
def test_where_one_page_shows_all_there_is_one_call_a_round(opened: str) -> None:
    """Also where a listing has told nothing new for so long that one batch is asked for singly."""
    figures = latency.measure(Case(10, opened, lives=200)).figures
    assert figures["calls"] == figures["rounds"]


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


class Far(InMemory):
    """Answer after a round trip, and count how many calls for batches are under way at the same time."""

    def __init__(self, app: Any, trip: float) -> None:
        super().__init__(app)
        self.most = 0
        self._trip = trip
        self._under_way = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        asks = request.method == "GET" and "/batches" in request.url.path
        self._under_way += asks
        self.most = max(self.most, self._under_way)
        try:
            await anyio.sleep(self._trip / 2)
            reply = await super().handle_async_request(request)
            await anyio.sleep(self._trip / 2)
        finally:
            self._under_way -= asks
        return reply


@pytest.mark.anyio
@pytest.mark.parametrize("trip", [0.2, 1.5])
async def test_one_call_at_a_time_tells_of_batches_that_come_one_after_the_other(trip: float) -> None:
    async with Emulator(pace=Pace(validating=3, running=200)).inline() as served:
        far = Far(served.app, trip)
        settings: Any = {"progress": False, "counter": lambda *_: 1, "_ports": Ports(run_sync=run_here, transport=far)}
        async with (
            carpool.Pool("sk-key", "http://emulator/v1", **settings) as pool,
            anyio.create_task_group() as tasks,
        ):
            for number in range(20):
                tasks.start_soon(pool.request, CHAT, body(model=f"model-{number}"))
                await anyio.sleep(7.3)
    assert len(served.books().batches) == 20
    assert far.most == 1
