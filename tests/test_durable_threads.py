"""Submissions from other threads and event loops: the pool lives in a thread of its own."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from virtual import CHAT, body

import carpool
from carpool.testing import Emulator, Pace

pytestmark = pytest.mark.anyio

QUICK = carpool.Timing(linger=0.02, max_linger=0.1, poll_min=0.02, poll_max=0.1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def opened(folder: Path, url: str, **settings: Any) -> AsyncIterator[carpool.Pool]:
    settings = {"thread": True, "timing": QUICK, **settings}
    async with carpool.Pool("sk-key", url, journal=folder, progress=False, **settings) as pool:
        yield pool


async def take(pool: carpool.Pool, count: int) -> dict[str | None, carpool.Outcome]:
    taken: dict[str | None, carpool.Outcome] = {}
    async with pool.outcomes() as outcomes:
        while len(taken) < count:
            outcome = await anext(outcomes)
            taken[outcome.key] = outcome
    return taken


async def test_submissions_and_outcomes_cross(tmp_path: Path) -> None:
    with Emulator(pace=Pace(running=0.02)) as served:
        async with opened(tmp_path / "journal", served.url) as pool:
            ids: dict[str | None, str] = {}

            async def submit(text: str) -> None:
                ids[text] = await pool.submit(CHAT, body(text), key=text)

            async def elsewhere() -> None:
                async with anyio.create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(submit, f"text-{number}")

            others = [threading.Thread(target=anyio.run, args=(elsewhere,)) for _ in range(2)]
            for other in others:
                other.start()
            await elsewhere()
            outcomes = await take(pool, 50)
            for other in others:
                await anyio.to_thread.run_sync(other.join)
            assert {key: outcome.custom_id for key, outcome in outcomes.items()} == ids
            with pytest.raises(carpool.ConfigurationError, match="Another request"):
                await pool.submit(CHAT, body("other"), key="text-7")
            # Acked in a thread that has no event loop.
            acks = [threading.Thread(target=outcome.ack) for outcome in outcomes.values()]
            for ack in acks:
                ack.start()
            for ack in acks:
                ack.join()
        with pytest.raises(carpool.PoolClosed):
            await pool.submit(CHAT, body("late"))
        assert [outcome async for outcome in pool.outcomes()] == []
        next(iter(outcomes.values())).ack()
        async with opened(tmp_path / "journal", served.url, thread=False) as pool:
            await pool.submit(CHAT, body("last"), key="last")
            assert (await take(pool, 1)).keys() == {"last"}
        assert {*served.books().bodies.values()} == {1}


async def test_an_iterator_in_another_loop_ends_with_the_pool(tmp_path: Path) -> None:
    with Emulator(pace=Pace(running=1_000)) as served:
        seen: list[carpool.Outcome] = []
        began = threading.Event()

        async def read() -> None:
            outcomes = pool.outcomes()
            began.set()
            seen.extend([outcome async for outcome in outcomes])

        async with opened(tmp_path / "journal", served.url) as pool:
            reader = threading.Thread(target=anyio.run, args=(read,))
            reader.start()
            await anyio.to_thread.run_sync(began.wait)
            await pool.submit(CHAT, body("a"))
        await anyio.to_thread.run_sync(reader.join)
        assert seen == []


async def test_it_belongs_to_the_loop_that_it_was_opened_in(tmp_path: Path) -> None:
    with Emulator() as served:
        async with opened(tmp_path / "journal", served.url, thread=False) as pool:
            refused: list[str] = []

            async def elsewhere() -> None:
                for what in (lambda: pool.submit(CHAT, body("a")), _outcomes):
                    try:
                        await what()
                    except carpool.ConfigurationError as exc:
                        refused.append(str(exc))

            async def _outcomes() -> None:
                pool.outcomes()

            await anyio.to_thread.run_sync(anyio.run, elsewhere)
            assert ["thread=True" in text for text in refused] == [True, True]
