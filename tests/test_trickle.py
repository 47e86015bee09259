"""Calls that come one by one, through a whole pool: on virtual time, on both backends."""

import random
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from virtual import CHAT, World, body, site, world

import carpool
from carpool.testing import Pace

pytestmark = pytest.mark.anyio

SETTINGS = carpool.Timing()


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Uploads:
    """Note when input files are uploaded."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, request: httpx2.Request) -> None:
        if (request.method, request.url.path) == ("POST", "/v1/files"):
            self.at.append(anyio.current_time())

    def after(self, came: float) -> float:
        """Give how long after a time the next file was uploaded."""
        return min(at for at in self.at if at >= came) - came


async def trickle(w: World, calls: int, *, rate: float = 0.2) -> list[float]:
    """Let calls come by chance, and await all; gives when they came."""
    chance = random.Random(7)
    came = []
    async with anyio.create_task_group() as tasks:
        for call in range(calls):
            came.append(anyio.current_time())
            tasks.start_soon(w.ask, f"call {call}")
            await anyio.sleep(chance.expovariate(rate))
    assert len(w.answers()) == calls
    return came


async def test_a_trickle_travels_in_few_batches_and_nobody_waits_longer_than_the_settings_say() -> None:
    uploads = Uploads()
    async with world(before=uploads, pace=Pace(running=60)) as w:
        came = await trickle(w, 250)
        hours = (came[-1] - came[0]) / 3_600
    assert len(uploads.at) / hours < 150  # a batch each half minute, where each call by itself would make 600
    assert max(map(uploads.after, came)) <= SETTINGS.max_linger + 0.01


async def test_one_caller_who_awaits_each_answer_is_not_kept_waiting() -> None:
    uploads = Uploads()
    async with world(before=uploads, pace=Pace(running=3)) as w:
        for call in range(12):
            start = anyio.current_time()
            await w.ask(f"call {call}")
            assert uploads.after(start) == pytest.approx(SETTINGS.linger, abs=0.01)


async def lingers_for_a_tenth(w: World, uploads: Uploads) -> None:
    """Make calls with a timeout of a minute while others trickle."""
    async with anyio.create_task_group() as tasks:
        waited = []
        tasks.start_soon(trickle_on, w)
        await anyio.sleep(62)
        for call in range(3):
            start = anyio.current_time()
            await w.pool.request(carpool.Request(CHAT, body(f"soon {call}"), timeout=60))
            waited.append(uploads.after(start))
            await anyio.sleep(36.5)
        tasks.cancel_scope.cancel()
    assert SETTINGS.linger < max(waited) <= 6.01


async def test_a_call_whose_timeout_is_a_minute_lingers_for_a_tenth_of_it() -> None:
    uploads = Uploads()
    async with world(before=uploads, pace=Pace(running=20)) as w:
        await lingers_for_a_tenth(w, uploads)


async def test_so_does_one_that_is_looked_up_in_a_journal_first(tmp_path: Path) -> None:
    uploads = Uploads()
    async with site(tmp_path, before=uploads, pace=Pace(running=20)) as at:
        async with at.open() as w:
            await w.ask("earlier")
        async with at.open() as w:
            await lingers_for_a_tenth(w, uploads)


async def trickle_on(w: World) -> None:
    """Ask for ever, each five seconds."""
    async with anyio.create_task_group() as tasks:
        call = 0
        while True:
            call += 1
            tasks.start_soon(w.ask, f"call {call}")
            await anyio.sleep(5)


async def test_what_can_wait_is_answered_though_an_urgent_stream_never_ends() -> None:
    pool = {"counter": lambda *_: 100, "limits": {"*": 1_000}}
    async with world(pool=pool, pace=Pace(running=600), count=lambda _: 100) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(urge, w)
        await anyio.sleep(600)
        start = anyio.current_time()
        with carpool.options(priority=-1):
            await w.ask("no hurry")
        took = anyio.current_time() - start
        assert any(lane.waiting for lane in w.pool.stats().lanes)  # there was no room for all meanwhile
        tasks.cancel_scope.cancel()
    assert "no hurry" in w.answers()
    assert 1_200 < took < 3 * 3_600


async def urge(w: World) -> None:
    """Ask for ever, more than there is room for."""
    async with anyio.create_task_group() as tasks:
        call = 0
        with carpool.options(priority=1):
            while True:
                call += 1
                tasks.start_soon(w.ask, f"urgent {call}")
                await anyio.sleep(30)
