"""Streams of pools that live in a thread of their own, and `carpool.run`: over real sockets, from every event loop."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from streams_kit import Feed, collect, take, text_of, texts, ways
from test_thread import FAST, LONG, RUNS, Left, Run, both_kinds, carpool_threads, every_loop, pool_at, until, wait_until
from virtual import CHAT, body

import carpool
from carpool.bulk import Shelf
from carpool.testing import Answer, Emulator, Pace

QUICK = carpool.Timing(linger=0.02, max_linger=0.05, poll_min=0.02, poll_max=0.05)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000, poll_min=0.05)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as served:
        yield served


def waiting(pool: carpool.Pool) -> int:
    return sum(lane.waiting + lane.submitted for lane in pool.stats().lanes)


def bad_first(text: str) -> Any:
    return {} if text.endswith(" 0") else body(text)


# --- from event loops


@every_loop
@ways
def test_streams_work_from_an_event_loop_of_each_kind(run: Run, way: str, emulator: Emulator) -> None:
    async def use() -> None:
        async with pool_at(emulator, thread=True) as pool:
            for kind in ("plain", "async"):
                feed = Feed(1_200, of=kind)
                outcomes = await collect(getattr(pool, way)(feed.requests(kind), endpoint=CHAT))
                order = [outcome.index for outcome in outcomes]
                assert sorted(order) == list(range(1_200))
                assert way == "as_completed" or order == sorted(order)
                assert all(text_of(outcome) == f"{kind} {outcome.index}" for outcome in outcomes)
                assert all(outcome.request == body(text_of(outcome)) for outcome in outcomes)
        with pytest.raises(carpool.PoolClosed):
            await collect(getattr(pool, way)([], endpoint=CHAT))

    run(use)
    assert set(emulator.books().bodies.values()) == {1}


@every_loop
def test_requests_travel_as_they_say_from_every_event_loop(run: Run) -> None:
    async def use(emulator: Emulator) -> None:
        asked = [
            carpool.Request(CHAT, body("short"), timeout=0.2, tags=("own",)),
            carpool.Request(CHAT, body("urgent"), priority=3),
            carpool.Request(CHAT, {}),
            carpool.Request("/v1/nowhere", body()),
        ]
        async with pool_at(emulator, thread=True) as pool:
            with carpool.options(tags=["block"], live=True):
                live = pool.map(Feed(30, pause=0).asynchronous(), endpoint=CHAT)
            assert [text_of(outcome) for outcome in await collect(live)] == texts(30)
            async with pool.as_completed(asked) as outcomes:
                first = await take(outcomes, 3)
                assert sorted(outcome.index for outcome in first) == [0, 2, 3]
                by_index = {outcome.index: outcome for outcome in first}
                assert isinstance(by_index[0].error, carpool.RequestExpired)
                assert isinstance(by_index[2].error, carpool.Unbatchable)
                assert {tag: counts.accepted for tag, counts in pool.stats().tags.items()} == {"block": 30, "own": 1}

    with Emulator(pace=LONG) as emulator:
        run(partial(use, emulator))


def test_many_event_loops_stream_through_one_pool(emulator: Emulator) -> None:
    async def use(pool: carpool.Pool, of: str, ready: threading.Barrier) -> list[str]:
        ready.wait()
        feed = Feed(600, of=of, pause=0)
        kind = "async" if of.endswith("1") else "plain"
        return [text_of(outcome) async for outcome in pool.map(feed.requests(kind), endpoint=CHAT)]

    with pool_at(emulator, timing=carpool.Timing(linger=0.5, poll_min=0.05)) as pool, ThreadPoolExecutor(6) as threads:
        ready = threading.Barrier(6)
        runs = [run for run in RUNS for _ in range(2)]
        given = [threads.submit(run, partial(use, pool, f"loop {n}", ready)) for n, run in enumerate(runs)]
        assert [one.result() for one in given] == [[f"loop {n} {m}" for m in range(600)] for n in range(6)]
    assert set(emulator.books().bodies.values()) == {1}


@both_kinds
def test_a_stream_may_be_made_where_no_event_loop_runs(run: Run, emulator: Emulator) -> None:
    with pool_at(emulator) as pool:
        outcomes = pool.map(Feed(5).plain(), endpoint=CHAT)
        assert [text_of(outcome) for outcome in run(partial(collect, outcomes))] == texts(5)
        pool.map(Feed(5).plain(), endpoint=CHAT)  # and forgotten


@both_kinds
def test_whoever_waits_in_vain_loses_nothing(run: Run, emulator: Emulator) -> None:
    got: list[str] = []

    async def use() -> None:
        async with pool_at(emulator, thread=True) as pool:
            outcomes = pool.as_completed(Feed(30, pause=0.01).asynchronous(), endpoint=CHAT)
            while len(got) < 30:
                with anyio.move_on_after(0.004):
                    got.append(text_of(await anext(outcomes)))
            assert await collect(outcomes) == []

    run(use)
    assert sorted(got) == sorted(texts(30))


# --- leaving


@both_kinds
@pytest.mark.parametrize("how", ["block", "break", "cancelled", "forgotten"])
def test_a_stream_that_is_left_leaves_nothing_behind(run: Run, how: str, emulator: Emulator) -> None:
    async def use() -> None:
        feed = Feed(form=bad_first, pause=0.001)
        async with pool_at(emulator, thread=True, timing=PATIENT) as pool:
            outcomes = pool.map(feed.asynchronous(), endpoint=CHAT)
            assert isinstance((await anext(outcomes)).error, carpool.Unbatchable)
            await until(lambda: waiting(pool) > 3)
            if how == "block":
                async with outcomes:
                    pass
            elif how == "cancelled":
                with anyio.move_on_after(0.01):
                    async with outcomes:
                        await collect(outcomes)
            elif how == "break":
                async for _ in pool.map([{}, body()], endpoint=CHAT):
                    break
            del outcomes
            await until(lambda: waiting(pool) == 0 and feed.over)
            await pool.flush()

    run(use)
    assert emulator.books().runs == {}
    assert carpool_threads() == []


def test_a_stream_that_is_forgotten_when_its_event_loop_is_over_is_left(emulator: Emulator) -> None:
    held: list[Any] = []

    async def use(pool: carpool.Pool) -> None:
        held.append(pool.map(Feed(form=bad_first, pause=0.001).asynchronous(), endpoint=CHAT))
        await anext(held[0])
        await until(lambda: waiting(pool) > 3)

    for run in RUNS:
        with pool_at(emulator, timing=PATIENT) as pool:
            run(partial(use, pool))
            held.clear()
            wait_until(lambda: waiting(pool) == 0)
    assert emulator.books().runs == {}


# --- pools that go


async def consume(outcomes: Any, got: list[str], pause: float = 0.0) -> None:
    """Take what there is until the pool ends it."""
    with suppress(carpool.PoolClosed):
        async for outcome in outcomes:
            got.append(text_of(outcome))
            await anyio.sleep(pause)
        raise AssertionError("it came to its end")


@both_kinds
def test_a_pool_that_is_closed_elsewhere_ends_its_streams_with_what_they_gave(run: Run, emulator: Emulator) -> None:
    got: list[str] = []
    feed = Feed(pause=0.002)
    with ThreadPoolExecutor(1) as threads:
        with pool_at(emulator, timing=QUICK) as pool:
            consumer = threads.submit(run, partial(consume, pool.map(feed.asynchronous(), endpoint=CHAT), got, 0.003))
            wait_until(lambda: len(got) > 20)
        consumer.result()
    assert got == texts(len(got))
    assert len(got) == emulator.books().bodies.total()
    assert feed.over
    assert carpool_threads() == []


@pytest.mark.parametrize("keep", [10_000, 10**9], ids=["on disk", "in memory"])
@ways
def test_what_came_before_a_pool_was_closed_can_be_taken_afterwards(
    way: str, keep: int, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf.__init__, "__defaults__", (None, keep))

    async def use() -> tuple[list[str], Any]:
        async with pool_at(emulator, thread=True) as pool:
            outcomes = getattr(pool, way)(Feed(1_500).plain(), endpoint=CHAT)
            left = getattr(pool, way)(Feed(1_500, of="left").plain(), endpoint=CHAT)
            got = [text_of(await anext(outcomes)), text_of(await anext(left))]
            del got[1]
        return got + [text_of(outcome) for outcome in await collect(outcomes)], left

    got, left = asyncio.run(use())
    assert sorted(got) == sorted(texts(1_500))
    del left  # what is on disk goes with it


@both_kinds
def test_a_pool_that_is_left_by_an_exception_ends_its_streams(run: Run, tmp_path: Path) -> None:
    """What they did not give is given again, though only undelivered answers are."""
    taken: list[str] = []
    feed = Feed(pause=0.0001)
    with Emulator() as emulator, ThreadPoolExecutor(1) as threads:
        with suppress(Left), pool_at(emulator, journal=tmp_path / "j", reuse="undelivered", timing=QUICK) as pool:
            outcomes = pool.map(feed.asynchronous(), endpoint=CHAT)
            consumer = threads.submit(run, partial(consume, outcomes, taken, 0.01))
            wait_until(lambda: len(taken) >= 10)
            raise Left
        consumer.result()
        assert feed.over
        number = feed.given
        again = carpool.run(
            Feed(number).plain(), endpoint=CHAT, api_key="any", base_url=emulator.url, journal=tmp_path / "j",
            reuse="undelivered", timing=FAST,
        )  # fmt: skip
        assert [text_of(outcome) for outcome in again] == texts(number)
        books = emulator.books()
    assert {text for text in texts(number) if books.times(body(text)) == 2} == set(taken)
    assert books.bodies.total() == number + len(taken)


# --- carpool.run


def run_at(emulator: Emulator, requests: Any, **settings: Any) -> list[carpool.Outcome]:
    return carpool.run(requests, api_key="any", base_url=emulator.url, timing=FAST, **settings)


def test_run_gives_all_outcomes_in_their_order(emulator: Emulator) -> None:
    outcomes = run_at(emulator, Feed(1_100).plain(), endpoint=CHAT)
    assert [text_of(outcome) for outcome in outcomes] == texts(1_100)
    assert [outcome.request for outcome in outcomes] == [body(text) for text in texts(1_100)]
    assert carpool_threads() == []
    assert run_at(emulator, []) == []


def test_run_blocks_whatever_runs_where_it_is_called(emulator: Emulator) -> None:
    async def use() -> list[carpool.Outcome]:
        return run_at(emulator, Feed(5).plain(), endpoint=CHAT)

    for run in RUNS:
        assert [text_of(outcome) for outcome in run(use)] == texts(5)
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(run_at, emulator, Feed(5, of=f"{n}").plain(), endpoint=CHAT) for n in range(4)]
        for number, given in enumerate(runs):
            assert [text_of(outcome) for outcome in given.result()] == [f"{number} {n}" for n in range(5)]
    assert carpool_threads() == []


@pytest.mark.parametrize("thread", [False, True])
def test_run_takes_an_async_source_and_any_setting(thread: bool, emulator: Emulator) -> None:
    async def requests() -> AsyncIterator[Any]:
        for text in texts(3):
            await asyncio.sleep(0.01)
            yield carpool.Request(CHAT, body(text))

    outcomes = run_at(emulator, requests(), thread=thread, max_pending=1, limits={"*": 1_000})
    assert [text_of(outcome) for outcome in outcomes] == texts(3)


def test_run_gives_failures_as_outcomes() -> None:
    with Emulator(answer=lambda endpoint, given: Answer(400, {"error": {"message": "no"}})) as emulator:
        (outcome,) = run_at(emulator, [body()], endpoint=CHAT)
    assert isinstance(outcome.error, carpool.RequestRejected)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_run_raises_what_the_source_raises(error: type[BaseException], kind: str, emulator: Emulator) -> None:
    with pytest.raises(error):
        run_at(emulator, Feed(5, error=error("the source")).requests(kind), endpoint=CHAT)
    assert carpool_threads() == []
    assert emulator.books().bodies.total() == 5


def test_run_refuses_what_makes_no_sense_and_leaves_nothing(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(carpool.ConfigurationError):
        run_at(emulator, [], max_pending=0)
    with pytest.raises(TypeError):
        run_at(emulator, [], unknown=1)
    with pytest.raises(carpool.ConfigurationError, match="iterable"):
        run_at(emulator, 5)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(carpool.JournalError):
        run_at(emulator, [], journal=tmp_path / "file")
    assert carpool_threads() == []


def test_ctrl_c_ends_run_and_cancels_what_is_under_way() -> None:
    """It is heard where `run` was called, which is where signals come to."""
    with Emulator(pace=Pace(running=600)) as emulator:

        def interrupt() -> None:
            wait_until(lambda: emulator.books().batches)
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        feed = Feed(10)
        with pytest.raises(KeyboardInterrupt):
            run_at(emulator, feed.plain(), endpoint=CHAT)
        interrupting.join()
        assert carpool_threads() == []
        assert {batch.status for batch in emulator.books().batches} <= {"cancelled", "cancelling"}


def test_run_resumes_with_a_journal(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_at(emulator, Feed(500, error=ZeroDivisionError()).plain(), endpoint=CHAT, journal=tmp_path / "j")
    outcomes = run_at(emulator, Feed(600).plain(), endpoint=CHAT, journal=tmp_path / "j")
    assert [text_of(outcome) for outcome in outcomes] == texts(600)
    assert set(emulator.books().bodies.values()) == {1}


def test_run_makes_answers_up_where_it_is_to() -> None:
    (outcome,) = carpool.run([body("made up")], endpoint=CHAT, mode="emulate", timing=FAST)
    assert text_of(outcome) == "made up"
