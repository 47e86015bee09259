"""A machine that sleeps: its clock stands still meanwhile, and the next process is told no untruth by it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest
from virtual import CHAT, Site, body, site

import carpool
from carpool.testing import Pace

pytestmark = pytest.mark.anyio

HOUR, DAY = 3_600.0, 86_400.0
SLOW = Pace(validating=1, running=3 * HOUR, finalizing=1)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@contextmanager
def asleep(seconds: float) -> Iterator[None]:
    """Let the wall's clock be so much further."""
    awake = time.time
    with mock.patch("time.time", side_effect=lambda: awake() + seconds):
        yield


async def outcomes(pool: carpool.Pool, count: int) -> list[carpool.Outcome]:
    got: list[carpool.Outcome] = []
    async with pool.outcomes() as taken:
        async for outcome in taken:
            outcome.ack()
            got.append(outcome)
            if len(got) == count:
                break
    return got


def posts(s: Site) -> list[str]:
    return [path for method, path in s.transport.requests if method == "POST"]


@pytest.mark.parametrize("hours", [23.5, 30, 50])
@pytest.mark.parametrize("settings", [{"timeout": DAY}, {"timeout": DAY, "escalate": "live"}, {}], ids=str)
async def test_a_batch_under_way_goes_on_in_the_next_process(
    tmp_path: Path, settings: dict[str, Any], hours: float
) -> None:
    more = {"escalate": settings["escalate"]} if "escalate" in settings else {}
    async with site(tmp_path, pace=SLOW) as s:
        async with s.interrupted(**more) as w:
            await anyio.sleep(60)
            with asleep(hours * HOUR):
                for number in range(3):
                    timeout = settings.get("timeout")
                    await w.pool.submit(carpool.Request(CHAT, body(f"{number}"), key=f"{number}", timeout=timeout))
                await anyio.sleep(600)
        made = len(posts(s))
        with asleep(hours * HOUR):
            async with s.open(**more) as w:
                got = await outcomes(w.pool, 3)
    assert [outcome.error for outcome in got] == [None] * 3
    assert posts(s)[made:] == []  # neither cancelled nor sent again
    assert set(s.emulator.books().bodies.values()) == {1}


async def test_an_answer_of_a_moment_ago_is_not_old(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        async with s.open(retention=7 * DAY) as w:
            await anyio.sleep(60)
            with asleep(8 * DAY):
                await w.ask("once")
                await anyio.sleep(60)
        with asleep(8 * DAY):
            async with s.open(retention=7 * DAY) as w:
                await w.ask("once")
    assert w.answers() == {"once": "once"}
    assert set(s.emulator.books().bodies.values()) == {1}


async def test_a_limit_that_was_heard_of_after_the_sleep_is_the_newer_one(tmp_path: Path) -> None:
    async with site(tmp_path, enqueued_tokens={"*": 3_000}, count=lambda _: 20) as s:
        counter: dict[str, Any] = {"counter": lambda endpoint, model, content: 20}
        async with s.interrupted(**counter) as w:
            await anyio.sleep(60)
            with asleep(30 * HOUR):
                await w.ask_all([f"first {number}" for number in range(400)])
        refused = s.emulator.books().refusals()
        assert refused
        with asleep(30 * HOUR):
            async with s.open(**counter) as w:
                await w.ask_all([f"second {number}" for number in range(400)])
    assert len(w.answers()) == 400
    assert s.emulator.books().refusals() == refused
