"""Callers that go, on the other side of a bridge between threads: what they leave is not sent, or not paid twice."""

import asyncio
import contextlib
import gc
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
import trio
from virtual import CHAT, Samples, body, run_here, site

import carpool
from carpool.testing import Answer, Emulator, Pace

T = TypeVar("T")
Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]

FAST = carpool.Timing(linger=0.05, poll_min=0.02, poll_max=0.05)
PATIENT = carpool.Timing(linger=100, max_linger=100, poll_min=0.02, poll_max=0.05)


def run_asyncio(func: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(func())


def run_trio(func: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return trio.run(func)


from_trio = pytest.mark.parametrize("run", [run_trio])
both_kinds = pytest.mark.parametrize("run", [run_asyncio, run_trio])


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as served:
        yield served


def texts(count: int, of: str = "text") -> list[str]:
    return [f"{of} {number}" for number in range(count)]


def pool_at(emulator: Emulator, timing: carpool.Timing = FAST, **settings: Any) -> carpool.Pool:
    return carpool.Pool("any", emulator.url, timing=timing, **settings)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - no event reaches from there into any event loop
            await anyio.sleep(0.002)


async def cancel_when(scope: anyio.CancelScope, condition: Callable[[], object]) -> None:
    await until(condition)
    scope.cancel()


async def gather_texts(pool: carpool.Pool, wanted: list[str]) -> list[str]:
    return [response.text for response in await pool.gather([body(text) for text in wanted], endpoint=CHAT)]


def idle(pool: carpool.Pool) -> bool:
    return not any(lane.waiting or lane.submitted for lane in pool.stats().lanes)


def batches(emulator: Emulator) -> list[str]:
    return [batch.status for batch in emulator.books().batches]


# --- a call that waits


@both_kinds
def test_callers_that_go_while_their_calls_wait_take_them_out_of_the_queue(run: Run, emulator: Emulator) -> None:
    async def leave(pool: carpool.Pool) -> None:
        async with anyio.create_task_group() as tasks:
            for text in texts(20, "gone"):
                tasks.start_soon(pool.request, CHAT, body(text))
            tasks.start_soon(gather_texts, pool, texts(20, "gathered"))
            await until(lambda: pool.stats().accepted == 41)
            tasks.cancel_scope.cancel()

    with ThreadPoolExecutor(1) as threads, pool_at(emulator, PATIENT) as pool:
        other = threads.submit(asyncio.run, gather_texts(pool, ["other"]))
        run(partial(leave, pool))
        asyncio.run(until(lambda: [lane.waiting for lane in pool.stats().lanes] == [1]))
        run(pool.flush)
        assert other.result() == ["other"]
    assert emulator.books().bodies.total() == emulator.books().times(body("other")) == 1


@both_kinds
def test_a_caller_that_goes_at_once_leaves_no_call(run: Run, emulator: Emulator) -> None:
    """Before its call has reached the other side, or just then."""

    async def leave(pool: carpool.Pool) -> None:
        for _ in range(50):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await pool.request(CHAT, body("gone"))
            with anyio.move_on_after(0):
                await gather_texts(pool, ["gone"])

    with pool_at(emulator, PATIENT) as pool:
        run(partial(leave, pool))
    assert not emulator.books().bodies


@both_kinds
def test_calls_that_wait_live_are_given_up_when_their_callers_go(run: Run) -> None:
    async def leave(pool: carpool.Pool) -> None:
        with carpool.options(live=True), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for text in texts(100):  # more than are sent at once
                    tasks.start_soon(pool.request, CHAT, body(text))
                tasks.start_soon(cancel_when, scope, lambda: pool.stats().accepted == 100)

    async def slow(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(0.1)
        return {}

    with Emulator(answer=slow) as emulator, pool_at(emulator) as pool:
        run(partial(leave, pool))
        assert run(partial(pool.request, CHAT, body("other"))).status_code == 200
    assert emulator.books().live <= 30


# --- a call that was submitted


@from_trio
def test_callers_that_go_after_submission_disturb_nobody(run: Run) -> None:
    async def leave(pool: carpool.Pool) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for text in texts(20, "gone"):
                    tasks.start_soon(pool.request, CHAT, body(text))
                tasks.start_soon(cancel_when, scope, lambda: batches(served))

    with Emulator(pace=Pace(running=0.3)) as served, pool_at(served) as pool, ThreadPoolExecutor(1) as threads:
        others = threads.submit(asyncio.run, gather_texts(pool, texts(20)))
        run(partial(leave, pool))
        assert others.result() == texts(20)
        assert pool.stats().accepted == 40


@both_kinds
def test_an_answer_that_never_reached_its_caller_is_given_to_an_equal_call(run: Run, tmp_path: Path) -> None:
    """In the same process, and nothing is paid twice."""

    async def leave(pool: carpool.Pool) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for text in texts(20):
                    tasks.start_soon(pool.request, CHAT, body(text))
                before = len(batches(served))
                tasks.start_soon(cancel_when, scope, lambda: len(batches(served)) > before)

    with Emulator(pace=Pace(running=0.2), answer=Samples()) as served, pool_at(served, journal=tmp_path) as pool:
        run(partial(leave, pool))
        assert run(partial(gather_texts, pool, texts(20))) == [f"{text} #1" for text in texts(20)]  # under way
        assert run(partial(gather_texts, pool, texts(20))) == [f"{text} #2" for text in texts(20)]  # another sample
        run(partial(leave, pool))
        asyncio.run(until(lambda: served.books().bodies.total() == 60 and idle(pool)))
        assert run(partial(gather_texts, pool, texts(20))) == [f"{text} #3" for text in texts(20)]  # on disk
    assert set(served.books().bodies.values()) == {3}


@both_kinds
def test_callers_that_go_just_when_their_answers_come_lose_none(run: Run, tmp_path: Path) -> None:
    """Whether these have left the pool's thread, wait in the caller's, or were about to be given to who had gone."""
    count = 600
    dice = random.Random(7)

    async def leave(pool: carpool.Pool) -> set[str]:
        got: set[str] = set()

        async def ask(text: str) -> None:
            with scopes[text]:
                got.add((await pool.request(CHAT, body(text))).text)

        scopes = {text: anyio.CancelScope() for text in texts(count)}
        async with anyio.create_task_group() as tasks:
            for text in scopes:
                tasks.start_soon(ask, text)
            await until(lambda: pool.stats().accepted == count)
            while not got and ", 0 answered" in repr(pool):
                await anyio.lowlevel.checkpoint()
            for text in dice.sample(texts(count), count):
                scopes[text].cancel()
                if dice.random() < 0.02:
                    await anyio.lowlevel.checkpoint()
        return got

    with Emulator() as emulator, pool_at(emulator, journal=tmp_path) as pool:
        reached = run(partial(leave, pool))
        missed = [text for text in texts(count) if text not in reached]
        asyncio.run(until(lambda: emulator.books().bodies.total() == count and idle(pool)))
        assert run(partial(gather_texts, pool, missed)) == missed
    assert set(emulator.books().bodies.values()) == {1}


@pytest.mark.anyio
async def test_a_caller_that_goes_just_before_its_answer_comes_leaves_it_to_an_equal_call(
    tmp_path: Path,
) -> None:
    """Here in the pool's own event loop; one goes at each step of the download."""
    got: list[str] = []
    scopes = [anyio.CancelScope() for _ in range(200)]
    leaving = iter(scopes)

    async def goes(func: Any, /, *args: object) -> Any:
        result = await run_here(func, *args)
        if any(route.endswith("/content") for _, route in at.transport.requests):
            next(leaving).cancel()
        return result

    async def ask(number: int) -> None:
        with scopes[number]:
            got.append((await w.pool.request(CHAT, body(f"text {number}"))).text)

    async with site(tmp_path) as at, at.open(run_sync=goes) as w:
        async with anyio.create_task_group() as tasks:
            for number in range(len(scopes)):
                tasks.start_soon(ask, number)
        missed = [text for text in texts(len(scopes)) if text not in got]
        assert 0 < len(missed) < len(scopes)
        await gather_texts(w.pool, missed)
    assert set(at.emulator.books().bodies.values()) == {1}


def test_an_answer_for_an_event_loop_that_is_over_is_given_to_an_equal_call(tmp_path: Path) -> None:
    """It stopped without a word: nobody cancelled its tasks."""
    with Emulator(pace=Pace(running=0.3)) as emulator, pool_at(emulator, journal=tmp_path) as pool:
        loop = asyncio.new_event_loop()
        task = loop.create_task(gather_texts(pool, texts(20)))
        loop.run_until_complete(until(lambda: pool.stats().batches))
        loop.close()
        asyncio.run(until(lambda: pool.stats().answered == 20))
        assert asyncio.run(gather_texts(pool, texts(20))) == texts(20)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - that is what we do here
        del task
    assert set(emulator.books().bodies.values()) == {1}


def test_an_answer_for_an_event_loop_that_is_closed_before_it_looks_is_given_to_an_equal_call(tmp_path: Path) -> None:
    with Emulator(pace=Pace(running=0.3)) as emulator, pool_at(emulator, journal=tmp_path) as pool:
        loop = asyncio.new_event_loop()
        task = loop.create_task(gather_texts(pool, texts(20)))
        loop.run_until_complete(until(lambda: pool.stats().batches))
        asyncio.run(until(lambda: pool.stats().answered == 20))
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - that is what we do here
        with contextlib.suppress(RuntimeError):
            task.get_coro().close()
        assert asyncio.run(gather_texts(pool, texts(20))) == texts(20)
    assert set(emulator.books().bodies.values()) == {1}


# --- nobody complains


@pytest.mark.parametrize("thread", [False, True])
def test_errors_that_a_cancelled_gather_never_saw_are_not_complained_about(
    thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(endpoint: str, given: dict[str, Any]) -> Any:
        if given["model"] == "bad":
            return Answer(400, {"error": {"message": "no"}})
        await anyio.sleep_forever()
        return b""

    async def use(emulator: Emulator) -> None:
        async with pool_at(emulator, thread=thread) as pool:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel_when, scope, lambda: pool.stats().failed == 10)
                    await pool.gather([body(model="slow"), *[body(model="bad")] * 10], endpoint=CHAT)
            gc.collect()
            await anyio.lowlevel.checkpoint()

    with Emulator(answer=answer) as emulator:
        asyncio.run(use(emulator))
        gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("thread", [False, True])
def test_callers_that_are_refused_after_they_went_are_not_complained_about(
    thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(emulator: Emulator) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with pool_at(emulator, thread=thread) as pool:
                waiting = [asyncio.ensure_future(gather_texts(pool, texts(50, f"{number}"))) for number in range(10)]
                await until(lambda: pool.stats().accepted == 500)
                for task in waiting:
                    task.cancel()
                raise ZeroDivisionError
        await asyncio.wait(waiting)
        gc.collect()

    with Emulator() as emulator:
        asyncio.run(use(emulator))
        gc.collect()
    assert "never retrieved" not in caplog.text


# --- errors cross too


@from_trio
def test_each_caller_gets_an_error_of_its_own_from_the_other_side(run: Run) -> None:
    async def ask(pool: carpool.Pool) -> list[BaseException]:
        errors: list[BaseException] = []

        async def one(text: str) -> None:
            with pytest.raises(carpool.RequestRejected) as caught:
                await pool.request(CHAT, body(text))
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for text in texts(50):
                tasks.start_soon(one, text)
        return errors

    refusing = Emulator(answer=lambda endpoint, given: Answer(400, {"error": {"message": "no"}}))
    with refusing as emulator, pool_at(emulator) as pool:
        errors = run(partial(ask, pool))
        with pytest.raises(carpool.Unbatchable):
            run(partial(pool.request, CHAT, {"model": "m", "stream": True}))
    assert len({id(error) for error in errors}) == 50
    assert {getattr(error, "status_code", None) for error in errors} == {400}


@from_trio
def test_the_settings_of_the_block_around_a_call_cross_with_it(run: Run, tmp_path: Path) -> None:
    async def use(pool: carpool.Pool) -> None:
        with carpool.options(timeout=0.2), pytest.raises(carpool.RequestExpired):
            await pool.request(CHAT, body("waits"))
        with carpool.options(live=True):
            assert (await pool.request(CHAT, body("live"))).batch_id == ""

    with Emulator() as emulator, pool_at(emulator, PATIENT) as pool:
        run(partial(use, pool))
    assert emulator.books().live == 1
    assert not emulator.books().bodies


@both_kinds
def test_answers_that_were_given_are_kept_by_nobody(run: Run, emulator: Emulator) -> None:
    async def main() -> None:
        async with pool_at(emulator, thread=True) as pool:
            (response,) = await pool.gather([body("text")], endpoint=CHAT)
            alone = sys.getrefcount(object()) + 1  # this name, and the question itself
            await until(lambda: sys.getrefcount(response) <= alone + 1)  # and the question's own closure

    run(main)
