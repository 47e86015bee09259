"""How long a call may wait for its answer: on virtual time, on both backends; and the list of deadlines by itself."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import CHAT, Samples, World, body, site, world

import carpool
from carpool.deadlines import Deadlines
from carpool.testing import Pace

pytestmark = pytest.mark.anyio

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = {"timing": carpool.Timing(linger=1_000, max_linger=1_000)}


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


async def expires_after(call: Any) -> float:
    """Give how long a call waited before it expired."""
    start = anyio.current_time()
    with pytest.raises(carpool.RequestExpired, match="timeout"):
        await call()
    return anyio.current_time() - start


def asking(w: World, text: str = "hi", timeout: float | None = None) -> Any:
    return partial(w.pool.request, carpool.Request(CHAT, body(text), timeout=timeout))


# --- when


@pytest.mark.parametrize("seconds", [0.25, 40, 900.5])
async def test_a_call_that_waits_expires_at_its_time_and_is_never_submitted(seconds: float) -> None:
    async with world(pool=PATIENT) as w:
        assert await expires_after(asking(w, timeout=seconds)) == pytest.approx(seconds, abs=1e-5)
        assert [lane.waiting for lane in w.pool.stats().lanes] in ([], [0])
        await w.pool.flush()
        await anyio.sleep(100)
    assert not w.emulator.books().uploads


@pytest.mark.parametrize("seconds", [3, 30, 67.125])
async def test_a_call_that_was_submitted_expires_at_its_time_and_its_row_runs_on(seconds: float) -> None:
    async with world(pace=SLOW) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(5))
            assert await expires_after(asking(w, timeout=seconds)) == pytest.approx(seconds, abs=1e-5)
        assert len(w.answers()) == 5
    assert w.emulator.books().times(body()) == 1


async def test_an_answer_that_comes_before_the_deadline_wins() -> None:
    async with world(pace=SLOW) as w:
        start = anyio.current_time()
        assert (await asking(w, "first", 1_000)()).text == "first"
        took = anyio.current_time() - start
        assert (await asking(w, "second", took + 10)()).text == "second"  # looks at a batch are some seconds apart
        await anyio.sleep(2_000)
    assert w.pool.stats().failed == 0


async def test_each_call_has_a_deadline_of_its_own() -> None:
    async with world(pace=SLOW) as w:
        took: dict[int, float] = {}

        async def ask(seconds: int) -> None:
            took[seconds] = await expires_after(asking(w, f"{seconds}", seconds))

        async with anyio.create_task_group() as tasks:
            for seconds in (50, 2, 30, 7, 60, 1):
                tasks.start_soon(ask, seconds)
            tasks.start_soon(w.ask, "patient")
        assert took == pytest.approx({seconds: seconds for seconds in took}, abs=1e-5)
        assert len(took) == 6
        assert list(w.answers()) == ["patient"]


async def test_a_shorter_deadline_that_comes_later_is_kept() -> None:
    async with world(pool=PATIENT) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(expires_after, asking(w, "long", 500))
        await anyio.sleep(10)
        assert await expires_after(asking(w, "short", 5)) == pytest.approx(5, abs=1e-5)


async def test_leaving_does_not_wait_for_what_expired_and_not_longer_than_a_deadline() -> None:
    async with anyio.create_task_group() as tasks:
        async with world(pace=Pace(running=5_000)) as w:
            tasks.start_soon(expires_after, asking(w, "one", 40))
            await expires_after(asking(w, "two", 20))
            start = anyio.current_time()
        assert anyio.current_time() - start == pytest.approx(20, abs=10)
    assert w.emulator.books().batches[0].status in ("cancelling", "cancelled")


async def test_a_deadline_is_kept_while_the_provider_does_not_answer() -> None:
    class Silent(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await anyio.sleep_forever()
            raise AssertionError

    async with world() as outer, anyio.create_task_group() as tasks:
        pool = carpool.Pool("sk", "http://emulator/v1", timeout=20, _ports=outer.ports._replace(transport=Silent()))
        await pool.start()
        assert await expires_after(partial(pool.request, CHAT, body())) == pytest.approx(20, abs=1e-5)
        with anyio.move_on_after(10):
            await pool.aclose()
        tasks.cancel_scope.cancel()


async def test_a_live_call_is_given_up_at_its_deadline() -> None:
    async def slow(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(100)
        return {}

    async with world(answer=slow) as w:
        with carpool.options(live=True, timeout=30):
            assert await expires_after(asking(w)) == pytest.approx(30, abs=1e-5)
            with pytest.raises(carpool.RequestExpired):
                await w.pool.gather([body(text) for text in texts(50)], endpoint=CHAT)
        start = anyio.current_time()
    assert anyio.current_time() - start < 5


# --- who says so


async def test_a_call_says_so_itself_else_the_block_around_it_else_the_pool() -> None:
    async with world(pool={**PATIENT, "timeout": 300}) as w:
        assert await expires_after(asking(w)) == pytest.approx(300, abs=1e-5)
        with carpool.options(timeout=200):
            assert await expires_after(asking(w)) == pytest.approx(200, abs=1e-5)
            assert await expires_after(asking(w, timeout=400)) == pytest.approx(400, abs=1e-5)
            with carpool.options(timeout=100):
                assert await expires_after(asking(w)) == pytest.approx(100, abs=1e-5)
            with carpool.options(live=False):
                assert await expires_after(asking(w)) == pytest.approx(200, abs=1e-5)
        assert await expires_after(partial(w.pool.request, CHAT, body())) == pytest.approx(300, abs=1e-5)


async def test_a_block_counts_for_its_own_task_only() -> None:
    async with world(pool=PATIENT) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "patient")
        with carpool.options(timeout=20):
            tasks.start_soon(expires_after, asking(w))
        with carpool.options(timeout=10):
            await expires_after(asking(w))
    assert list(w.answers()) == ["patient"]


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "5", True])
async def test_a_timeout_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="timeout"):
        carpool.Pool("any", timeout=wrong)
    with pytest.raises(carpool.ConfigurationError, match="timeout"), carpool.options(timeout=wrong):
        raise AssertionError
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="timeout"):
            await asking(w, timeout=wrong)()
        (outcome,) = await w.pool.gather([carpool.Request(CHAT, body(), timeout=wrong)], return_exceptions=True)
        assert isinstance(outcome, carpool.ConfigurationError)
        assert w.pool.stats().accepted == 0


# --- many


async def test_a_gather_may_expire_in_part() -> None:
    async with world(pace=SLOW) as w:
        requests = [
            carpool.Request(CHAT, body(text), timeout=20 if n % 2 else None) for n, text in enumerate(texts(40))
        ]
        start = anyio.current_time()
        outcomes = await w.pool.gather(requests, return_exceptions=True)
        assert anyio.current_time() - start > 60
        with pytest.raises(carpool.RequestExpired):
            await w.pool.gather(requests)
    assert [r.text for r in outcomes if isinstance(r, carpool.Response)] == texts(40)[::2]
    assert sum(isinstance(outcome, carpool.RequestExpired) for outcome in outcomes) == 20


async def test_each_that_expires_has_an_error_of_its_own() -> None:
    async with world(pool={"timeout": 5}, pace=SLOW) as w:
        outcomes = await w.pool.gather([body(text) for text in texts(50)], endpoint=CHAT, return_exceptions=True)
    assert len({id(outcome) for outcome in outcomes}) == 50
    assert {type(outcome) for outcome in outcomes} == {carpool.RequestExpired}


async def test_what_expired_is_counted_once_when_its_row_ends() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(5))
        await expires_after(asking(w, timeout=20))
        await anyio.sleep(200)
        stats = w.pool.stats()
        assert (stats.accepted, stats.answered, stats.failed) == (6, 6, 0)


async def test_tens_of_thousands_of_deadlines_end_in_time() -> None:
    count = 30_000
    async with world(pool={**PATIENT, "timeout": 100}) as w:
        start, took = anyio.current_time(), time.perf_counter()
        outcomes = await w.pool.gather([body("same")] * count, endpoint=CHAT, return_exceptions=True)
        assert anyio.current_time() - start == pytest.approx(100, abs=1e-3)
        took = time.perf_counter() - took
        assert [lane.waiting for lane in w.pool.stats().lanes] in ([], [0])
    assert {type(outcome) for outcome in outcomes} == {carpool.RequestExpired}
    assert took < 6  # real seconds
    assert not w.emulator.books().uploads


async def test_a_deadline_far_away_costs_a_call_that_is_answered_nothing() -> None:
    async with world(pool={"timeout": 86_400}) as w:
        for _ in range(5):
            await w.pool.gather([body("same")] * 2_000, endpoint=CHAT)
        start = anyio.current_time()
    assert anyio.current_time() - start < 10


# --- with a journal


async def test_the_answer_to_what_expired_is_there_for_an_equal_call(tmp_path: Path) -> None:
    """While its row is under way, when it has come, and in the next process."""
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        async with at.open() as w:
            await expires_after(asking(w, "under way", 20))
            await expires_after(asking(w, "come", 20))
            await expires_after(asking(w, "next time", 20))
            assert (await asking(w, "under way")()).text == "under way #1"
            await anyio.sleep(300)
            start = anyio.current_time()
            assert (await asking(w, "come", 1)()).text == "come #1"
            assert anyio.current_time() == start
        async with at.open(reuse="undelivered") as w:
            assert (await asking(w, "next time", 1)()).text == "next time #1"
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_what_expired_while_it_waited_is_not_sent_by_the_next_process(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open(**PATIENT) as w:
            await expires_after(asking(w, "waits", 20))
        async with at.open() as w:
            await w.ask("other")
            await anyio.sleep(200)
        assert at.emulator.books().times(body("waits")) == 0
        async with at.open() as w:
            await w.ask("waits")
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_a_call_may_expire_over_and_over_and_is_paid_once(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open(timeout=9) as w:
        tries = 1
        while "text" not in w.answers():
            await w.ask("text")
            tries += 1
    assert tries > 5
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_deadlines_on_every_moment_cost_nobody_anything(tmp_path: Path) -> None:
    """Whatever is being done for a call when its time is over: it is run once, and its answer is found."""

    async def ask(w: World, number: int) -> None:
        await anyio.sleep(number % 7 / 10)
        text = f"text {number}"
        try:
            w.settled[text] = await asking(w, text, 0.01 + number / 50)()
        except carpool.RequestExpired as exc:
            w.settled[text] = exc

    timing = carpool.Timing(linger=0.5, poll_min=0.5)
    async with site(tmp_path, pace=Pace(validating=1, running=5)) as at, at.open(timing=timing) as w:
        async with anyio.create_task_group() as tasks:
            for number in range(600):
                tasks.start_soon(ask, w, number)
        assert 100 < len(w.errors()) < 590
        left = list(w.errors())
        await w.ask_all(left[::2])
        await w.ask_all(left[1::2])
        assert len(w.answers()) == 600
    assert set(at.emulator.books().bodies.values()) == {1}


# --- the list by itself


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 50)),
        st.tuples(st.just("settle"), st.integers(0, 200)),
        st.tuples(st.just("pass"), st.floats(0, 20)),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(steps=Steps)
def test_deadlines_agree_with_a_list(steps: list[tuple[str, Any]]) -> None:
    waiting: dict[int, float] = {}
    known: set[float] = set()
    deadlines = Deadlines(waiting.__contains__)
    now, number = 0.0, 0
    for what, value in steps:
        if what == "set":
            number += 1
            waiting[number] = now + value
            deadlines.set(number, now + value)
            known.add(now + value)
        elif what == "settle":
            waiting.pop(value % (number + 1), None)
        else:
            now += value
            due = deadlines.due(now)
            assert sorted(due) == sorted(n for n, at in waiting.items() if at <= now)
            assert [waiting[n] for n in due] == sorted(waiting[n] for n in due)
            for n in due:
                del waiting[n]
            known = {at for at in known if at > now}
        assert deadlines.next() <= min(waiting.values(), default=math.inf)
        assert deadlines.next() in {*known, math.inf}


def test_deadlines_that_are_settled_in_time_do_not_accumulate() -> None:
    waiting: set[int] = set()
    deadlines = Deadlines(waiting.__contains__)
    start = time.perf_counter()
    for number in range(200_000):
        waiting.add(number)
        deadlines.set(number, 1e9 + number % 97)
        waiting.discard(number - 500)
    assert len(deadlines._heap) < 3_000  # noqa: SLF001 - what it holds is seen nowhere else
    assert time.perf_counter() - start < 2
    waiting.clear()
    assert deadlines.due(2e9) == []
    assert deadlines.next() == math.inf


def test_many_deadlines_that_wait_are_taken_in_time() -> None:
    deadlines = Deadlines(lambda number: True)
    start = time.thread_time()
    for number in range(200_000):
        deadlines.set(number, float(number * 7_919 % 200_003))
    assert len(deadlines.due(1e9)) == 200_000
    assert time.thread_time() - start < 3
