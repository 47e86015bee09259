"""Batches that stay small because their callers are few: what is said about them, and when nothing is."""

import logging
import math
import random
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from virtual import CHAT, EMBEDDINGS, World, body, world

import carpool
from carpool.models import Lane
from carpool.small import SmallBatches
from carpool.testing import Pace

pytestmark = pytest.mark.anyio

LANE = Lane(CHAT, "gpt-5-mini")
OTHER = Lane(EMBEDDINGS, "text-embedding-3-small")
LINGER = 1.0
SLOW = Pace(validating=5, running=30, finalizing=5)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def said_of(
    sizes: Iterable[int],
    *,
    pause: float = LINGER,
    others: int = 0,
    lane: Lane = LANE,
    small: SmallBatches | None = None,
) -> list[int]:
    """Tell of batches, each answered a minute later and followed by the next; gives after which of them it spoke."""
    small = small or SmallBatches(LINGER)
    said = []
    now = 1e9
    for number, size in enumerate(sizes, 1):
        if small.packed(f"b{number}", lane, size, size + others, now) is not None:
            said.append(number)
        now += 60
        small.answered(f"b{number}", now)
        now += pause
    return said


# --- the rule by itself


@pytest.mark.parametrize("size", [5, 20, 100, 1_000])
def test_it_speaks_once_after_three_alike(size: int) -> None:
    assert said_of([size] * 20) == [3]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_it_waits_longer_where_they_are_so_few_that_they_may_be_alike_by_chance(size: int) -> None:
    assert said_of([size] * 9) == []
    assert said_of([size] * 20) == [10]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([100, 95, 104], [3]),
        ([100, 110, 121], [3]),
        ([100, 111, 100], []),
        ([100, 89, 100], []),
        ([20, 7, 20, 20, 20], [5]),
        ([20, 20, 7, 20, 20, 20], [6]),
        ([20, 20, 1], []),
        ([5, 10, 20, 40, 80], []),
        ([3, 20, 20, 20], [4]),
    ],
)
def test_sizes_are_alike_within_a_tenth(sizes: list[int], said: list[int]) -> None:
    assert said_of(sizes) == said


def test_large_batches_are_not_spoken_of() -> None:
    assert said_of([1_001] * 20) == []
    assert said_of([50_000] * 20) == []


def test_it_is_silent_while_others_wait_in_the_lane() -> None:
    assert said_of([20] * 20, others=1) == []


def test_it_is_silent_where_calls_come_long_after_the_answers() -> None:
    assert said_of([20] * 20, pause=2 + 2 * LINGER) == [3]
    assert said_of([20] * 20, pause=2 + 2 * LINGER + 0.1) == []


def test_it_is_silent_where_nothing_was_answered_yet() -> None:
    small = SmallBatches(LINGER)
    assert [small.packed(f"b{number}", LANE, 20, 20, 1e9 + number) for number in range(10)] == [None] * 10


def test_each_lane_is_counted_by_itself_and_it_speaks_once_in_all() -> None:
    small = SmallBatches(LINGER)
    now = 1e9
    said = []
    for number in range(20):
        for lane, size in ((LANE, 20), (OTHER, 30 + 10 * number)):
            key = f"{lane.model} {number}"
            if small.packed(key, lane, size, size, now + 1):
                said.append((number, lane.model))
            small.answered(key, now + 59)
            small.done(key)
        now += 60
    assert said == [(2, "gpt-5-mini")]
    assert said_of([30] * 5, lane=OTHER, small=small) == []


def test_answers_of_other_lanes_do_not_matter() -> None:
    """Calls that come by the clock are no few at a time, though another model is answered all the while."""
    small = SmallBatches(LINGER)
    for number in range(20):
        now = 1e9 + 600 * number
        small.packed(f"busy {number}", OTHER, 2_000, 4_000, now - 2)
        small.answered(f"busy {number}", now - 1)
        assert small.packed(f"clock {number}", LANE, 100, 100, now) is None
        small.answered(f"clock {number}", now + 60)
        small.answered("of an earlier process", now + 60)


def test_what_it_says_names_size_model_and_what_to_change() -> None:
    said = None
    small = SmallBatches(LINGER)
    for number in range(3):
        said = small.packed(f"b{number}", LANE, 20, 20, number)
        small.answered(f"b{number}", number)
    assert said is not None
    for part in ("20", "gpt-5-mini", "max_connections", "max_concurrency", "semaphore"):
        assert part in said


# --- the pool


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in found if "in a row" in text]


async def work(w: World, count: int, at_once: float) -> None:
    """Make so many calls, so many at once, as frameworks do."""
    slots = anyio.Semaphore(int(min(at_once, count)))

    async def ask(number: int) -> None:
        async with slots:
            await w.ask(f"text {number}")

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(ask, number)
    assert len(w.answers()) == count


@pytest.mark.parametrize("pace", [Pace(), SLOW])
@pytest.mark.parametrize("at_once", [1, 20])
async def test_callers_that_are_few_at_a_time_are_told_once(
    at_once: int, pace: Pace, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(pace=pace) as w:
        await work(w, at_once * (12 if at_once == 1 else 5), at_once)
    (warning,) = warnings(caplog)
    assert ("held one call" if at_once == 1 else f"about {at_once} calls") in warning
    assert "max_connections" in warning


@pytest.mark.parametrize("pace", [Pace(), SLOW])
async def test_a_run_of_a_thousand_callers_is_told_nothing(pace: Pace, caplog: pytest.LogCaptureFixture) -> None:
    async with world(pace=pace) as w:
        await work(w, 1_000, math.inf)
    assert warnings(caplog) == []


async def test_rounds_of_all_callers_that_grow_or_shrink_are_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pace=Pace(running=10)) as w:
        for count in (1_000, 700, 500, 300, 100, 40, 300, 1_000):
            await w.pool.gather([body(f"{number}") for number in range(count)], endpoint=CHAT)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("every", "pace"),
    [(0.3, Pace()), (2, Pace()), (5, Pace()), (20, Pace(running=10)), (60, Pace(running=20))],
)
async def test_a_trickle_of_independent_callers_is_told_nothing(
    every: float, pace: Pace, caplog: pytest.LogCaptureFixture
) -> None:
    """They come at random times, whether answers have come or not."""
    dice = random.Random(3)
    async with world(pace=pace) as w, anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(w.ask, f"text {number}")
            await anyio.sleep(dice.expovariate(1 / every))
    assert len(w.answers()) == 30
    assert warnings(caplog) == []


async def test_a_job_that_is_run_every_hour_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pace=SLOW) as w:
        for _ in range(5):
            await w.pool.gather([body()] * 50, endpoint=CHAT)
            await anyio.sleep(3_600)
    assert warnings(caplog) == []


async def test_batches_that_a_limit_keeps_small_are_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pace=SLOW, pool={"limits": {"*": 4_000}}) as w:
        await w.pool.gather([body("word " * 150)] * 60, endpoint=CHAT)
        assert w.pool.stats().batches > 3
    assert warnings(caplog) == []


async def test_what_is_flushed_by_hand_is_told_once_too(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pool={"timing": carpool.Timing(linger=1_000, max_linger=1_000)}) as w:
        for number in range(6):
            async with anyio.create_task_group() as tasks:
                for text in range(20):
                    tasks.start_soon(w.ask, f"{number} {text}")
                await anyio.wait_all_tasks_blocked()
                await w.pool.flush()
    assert len(warnings(caplog)) == 1
