"""Streams that are left before their end, and pools that are left before their streams: nothing goes on."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from streams_kit import Feed, Taken, collect, kinds, quiet, take, text_of, texts, ways
from virtual import CHAT, Interrupted, World, body, world

import carpool
from carpool.bulk import Shelf
from carpool.testing import Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def waiting(w: World) -> int:
    return sum(lane.waiting + lane.submitted for lane in w.pool.stats().lanes)


def bad_first(text: str) -> Any:
    """Make the first request one whose outcome comes at once."""
    return {} if text == "text 0" else body(text)


# --- leaving early: the first outcome is there, and all others wait

Leave = Callable[[Any], Awaitable[None]]


async def by_the_end_of_a_block(outcomes: Any) -> None:
    async with outcomes:
        await anext(outcomes)


async def by_break(outcomes: Any) -> None:
    async for _ in outcomes:
        break


async def by_an_exception(outcomes: Any) -> None:
    with suppress(Interrupted):
        async for _ in outcomes:
            raise Interrupted


async def by_an_exception_in_a_block(outcomes: Any) -> None:
    with suppress(Interrupted):
        async with outcomes:
            async for _ in outcomes:
                raise Interrupted


async def by_cancellation(outcomes: Any) -> None:
    with anyio.move_on_after(5) as scope:
        await collect(outcomes)
    assert scope.cancelled_caught


async def by_cancellation_in_a_block(outcomes: Any) -> None:
    with anyio.move_on_after(5) as scope:
        async with outcomes:
            await collect(outcomes)
    assert scope.cancelled_caught


async def by_closing_it(outcomes: Any) -> None:
    await anext(outcomes)
    await outcomes.aclose()
    await outcomes.aclose()
    assert await collect(outcomes) == []


every_way_out = pytest.mark.parametrize(
    "leave",
    [
        by_the_end_of_a_block,
        by_break,
        by_an_exception,
        by_an_exception_in_a_block,
        by_cancellation,
        by_cancellation_in_a_block,
        by_closing_it,
    ],
    ids=lambda leave: leave.__name__,
)


@every_way_out
@kinds
async def test_what_waits_when_a_stream_is_left_is_not_sent(kind: str, leave: Leave) -> None:
    feed = Feed(700, form=bad_first)
    async with world(pool={"timing": PATIENT}) as w:
        await leave(w.pool.map(feed.requests(kind), endpoint=CHAT))
        await w.pool.flush()
    assert w.emulator.books().runs == {}
    assert feed.over


@every_way_out
async def test_closing_the_pool_at_once_does_not_send_what_was_left(leave: Leave) -> None:
    feed = Feed(700, form=bad_first)
    async with world(pool={"timing": PATIENT}) as w:
        await leave(w.pool.as_completed(feed.plain(), endpoint=CHAT))
    assert w.emulator.books().runs == {}


@every_way_out
@kinds
async def test_a_source_that_is_left_is_not_read_any_further(kind: str, leave: Leave) -> None:
    feed = Feed(form=bad_first, pause=0.1)
    async with world(pool={"timing": PATIENT, "max_pending": 1_000}) as w:
        await leave(w.pool.as_completed(feed.requests(kind), endpoint=CHAT))
        await quiet()
        given = feed.given
        assert feed.over
        await anyio.sleep(100)
        assert feed.given == given <= 1_001
        assert waiting(w) == 0


async def test_batches_of_a_stream_that_was_left_are_cancelled_as_those_of_other_callers_that_went() -> None:
    settings = {"timing": carpool.Timing(abandon=50)}
    async with world(pool=settings, pace=Pace(running=5_000, cancelling=1)) as w, anyio.create_task_group() as tasks:
        async with w.pool.map(Feed(10).plain(), endpoint=CHAT):
            await anyio.sleep(30)
        tasks.start_soon(w.ask, "another keeps its own batch running")
        await anyio.sleep(40)
        assert [batch.status for batch in w.emulator.books().batches] == ["in_progress", "in_progress"]
        await anyio.sleep(60)
        assert sorted(batch.status for batch in w.emulator.books().batches) == ["cancelled", "in_progress"]
        tasks.cancel_scope.cancel()


async def test_a_batch_in_which_others_ride_runs_on() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "stays")
        async with w.pool.map(Feed(10).plain(), endpoint=CHAT):
            await anyio.sleep(30)
    assert w.answers() == {"stays": "stays"}
    assert [batch.status for batch in w.emulator.books().batches] == ["completed"]


async def test_streams_that_stay_are_not_disturbed_by_one_that_goes() -> None:
    taken = [Taken(), Taken()]
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(taken[0].take, w.pool.map(Feed(600, of="first").plain(), endpoint=CHAT))
        async with w.pool.map(Feed(600, of="gone").plain(), endpoint=CHAT):
            tasks.start_soon(taken[1].take, w.pool.as_completed(Feed(600, of="second").plain(), endpoint=CHAT))
            await quiet()
    assert taken[0].texts == [f"first {number}" for number in range(600)]
    assert sorted(taken[1].texts) == sorted(f"second {number}" for number in range(600))
    assert w.emulator.books().bodies.total() == 1_200


@pytest.mark.parametrize("steps", [*range(12), *range(12, 60, 7)])
async def test_a_stream_may_be_cancelled_at_any_step(steps: int) -> None:
    kind = "async" if steps % 2 else "plain"
    feed = Feed(30, pause=0.001)
    async with world() as w:
        async with anyio.create_task_group() as tasks:

            async def consume() -> None:
                async with w.pool.map(feed.requests(kind), endpoint=CHAT) as outcomes:
                    await collect(outcomes)

            tasks.start_soon(consume)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert feed.over or not feed.given
        assert waiting(w) == 0
        await w.ask("still open")
    assert w.answers() == {"still open": "still open"}


@pytest.mark.parametrize("after", [0.3, 1.01, 30, 69, 75])
@ways
async def test_a_stream_may_be_left_at_any_time(way: str, after: float) -> None:
    async with world(pace=SLOW) as w:
        with anyio.move_on_after(after):
            async with getattr(w.pool, way)(Feed(2_000).plain(), endpoint=CHAT) as outcomes:
                async for _ in outcomes:
                    await anyio.sleep(0.01)
        await w.ask("still open")
        assert w.answers() == {"still open": "still open"}
    assert set(w.emulator.books().bodies.values()) <= {1}


# --- the source that is left


async def test_a_generator_may_clean_up_after_itself_and_is_waited_for() -> None:
    cleaned = []

    async def requests() -> AsyncIterator[Any]:
        try:
            while True:
                yield {}
        finally:
            await anyio.sleep(3)
            cleaned.append(anyio.current_time())

    async with world() as w:
        async with w.pool.map(requests(), endpoint=CHAT) as outcomes:
            await anext(outcomes)
            start = anyio.current_time()
        assert cleaned == [start + 3]


@pytest.mark.parametrize("where", ["at its end", "while it waits"])
async def test_a_generator_that_fails_when_it_is_left_is_told_of(where: str, caplog: pytest.LogCaptureFixture) -> None:
    async def requests() -> AsyncIterator[Any]:
        try:
            yield {}
            while True:
                await anyio.sleep(0 if where == "at its end" else 100)
                yield {}
        finally:
            raise ZeroDivisionError("secret of its own")

    async with world(pool={"max_pending": 1}) as w, w.pool.map(requests(), endpoint=CHAT) as outcomes:
        await anext(outcomes)
        await quiet()
    assert "secret of its own" in caplog.text


async def test_a_class_whose_iterator_is_a_generator_is_let_go_of_too() -> None:
    class Source:
        over = 0

        async def __aiter__(self) -> AsyncIterator[Any]:
            try:
                while True:
                    yield {}
            finally:
                self.over += 1

    class Plain:
        over = 0

        def __iter__(self) -> Iterator[Any]:
            try:
                while True:
                    yield {}
            finally:
                self.over += 1

    sources = Source(), Plain()
    async with world() as w:
        for source in sources:
            async with w.pool.map(source, endpoint=CHAT) as outcomes:
                await anext(outcomes)
            assert source.over == 1


async def test_a_stream_that_nobody_began_to_take_from_reads_nothing() -> None:
    feed = Feed(5)
    async with world() as w:
        outcomes = w.pool.map(feed.plain(), endpoint=CHAT)
        await anyio.sleep(10)
        del outcomes
        closed = w.pool.map(feed.plain(), endpoint=CHAT)
        await closed.aclose()
        assert await collect(closed) == []
    assert feed.given == 0


# --- streams that are forgotten


async def test_a_stream_that_is_forgotten_in_another_thread_is_left() -> None:
    feed = Feed(form=bad_first, pause=1)
    held: list[Any] = []
    async with world(pool={"timing": PATIENT}) as w:
        held.append(w.pool.map(feed.asynchronous(), endpoint=CHAT))
        await anext(held[0])
        await anyio.sleep(3)
        assert waiting(w) > 0
        await anyio.to_thread.run_sync(held.clear)
        await anyio.sleep(1)
        assert waiting(w) == 0
        assert feed.over


async def test_a_stream_that_the_collection_finds_while_another_is_settled_disturbs_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finalizer may run wherever something is allocated."""
    put = Shelf.put

    def collecting(shelf: Shelf, entries: Any) -> None:
        gc.collect()
        put(shelf, entries)

    feed = Feed(of="forgotten", form=lambda text: {} if text == "forgotten 0" else body(text))
    async with world(pool={"timing": carpool.Timing(linger=10), "max_pending": 1_000}) as w:
        cycle: list[Any] = [w.pool.map(feed.plain(), endpoint=CHAT)]
        await anext(cycle[0])
        await quiet()
        cycle.append(cycle)
        monkeypatch.setattr(Shelf, "put", collecting)
        gc.disable()
        try:
            del cycle
            outcomes = await collect(w.pool.map(Feed(500).plain(), endpoint=CHAT))
        finally:
            gc.enable()
        assert [text_of(outcome) for outcome in outcomes] == texts(500)
        assert waiting(w) == 0
        assert feed.over


# --- pools that are left before their streams


@ways
async def test_a_pool_that_is_closed_takes_no_more_of_a_stream_and_gives_what_it_took(way: str) -> None:
    feed = Feed(pause=1)
    taken = Taken()
    async with anyio.create_task_group() as tasks:
        async with world(pace=SLOW) as w:
            tasks.start_soon(taken.take, getattr(w.pool, way)(feed.asynchronous(), endpoint=CHAT))
            await anyio.sleep(10.5)
        with anyio.fail_after(1):
            await taken.until_ended()
    assert sorted(taken.texts) == sorted(texts(10))
    assert isinstance(taken.error, carpool.PoolClosed)
    assert feed.over
    assert set(w.emulator.books().bodies.values()) == {1}


@ways
@pytest.mark.parametrize("until", [0.5, 30, 100])
async def test_a_source_that_came_to_its_end_is_answered_whenever_the_pool_is_closed(way: str, until: float) -> None:
    taken = Taken()
    async with anyio.create_task_group() as tasks, world(pace=SLOW) as w:
        tasks.start_soon(taken.take, getattr(w.pool, way)(Feed(700).plain(), endpoint=CHAT), 0.1)
        await anyio.sleep(until)
    assert sorted(taken.texts) == sorted(texts(700))
    assert taken.error is None


async def test_what_came_before_a_pool_was_closed_can_be_taken_afterwards() -> None:
    async with world() as w:
        outcomes = w.pool.map(Feed(700).plain(), endpoint=CHAT)
        await take(outcomes, 5)
        endless = w.pool.as_completed(Feed(form=bad_first, pause=1).asynchronous(), endpoint=CHAT)
        await anext(endless)
        await anyio.sleep(3)
    assert [text_of(outcome) for outcome in await collect(outcomes)] == texts(700)[5:]
    left = Taken()
    await left.take(endless)
    assert len(left.outcomes) >= 1
    assert isinstance(left.error, carpool.PoolClosed)
    assert await collect(endless) == []


@ways
@pytest.mark.parametrize("until", [0.5, 30, 66])
async def test_a_pool_that_is_left_by_an_exception_ends_its_streams_at_once(way: str, until: float) -> None:
    feed = Feed(pause=1)
    taken = [Taken(), Taken()]
    async with anyio.create_task_group() as tasks:
        with suppress(Interrupted):
            async with world(pace=SLOW) as w:
                tasks.start_soon(taken[0].take, getattr(w.pool, way)(feed.asynchronous(), endpoint=CHAT))
                tasks.start_soon(taken[1].take, getattr(w.pool, way)(Feed(700).plain(), endpoint=CHAT), 1)
                await anyio.sleep(until)
                raise Interrupted
        start = anyio.current_time()
        for one in taken:
            await one.until_ended()
        assert anyio.current_time() - start <= 1
    assert [type(one.error) for one in taken] == [carpool.PoolClosed] * 2
    assert feed.over


async def test_a_stream_whose_pool_is_closed_says_so() -> None:
    async with world() as w:
        begun = w.pool.map(Feed(5, error=ZeroDivisionError()).plain(), endpoint=CHAT)
        await take(begun, 5)
    with pytest.raises(ZeroDivisionError):  # it was over before
        await anext(begun)
    for source in ([], [body()]):
        with pytest.raises(carpool.PoolClosed):
            await collect(w.pool.map(source, endpoint=CHAT))
        with pytest.raises(carpool.PoolClosed):
            async with w.pool.map(source, endpoint=CHAT):
                pass


async def test_a_pool_that_breaks_down_tells_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: Any) -> Any:
        raise ZeroDivisionError("a fault")

    taken = Taken()
    feed = Feed(pause=1)
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(taken.take, w.pool.map(feed.asynchronous(), endpoint=CHAT))
        await anyio.sleep(20.5)
        with monkeypatch.context() as patch, anyio.fail_after(100):
            patch.setattr("carpool.engine.engine.Engine.handle", breaks)
            await taken.until_ended()
    assert type(taken.error) is carpool.CarpoolError
    assert "a fault" in str(taken.error)
    assert feed.over


async def test_an_event_loop_that_is_not_the_pools_is_told_so() -> None:
    async def elsewhere(pool: carpool.Pool) -> None:
        with pytest.raises(carpool.ConfigurationError, match="thread=True"):
            await collect(pool.map([body()], endpoint=CHAT))

    async with world() as w:
        await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere(w.pool)))


async def test_streams_leave_nothing_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Of a stream that was read to its end, or left, nothing stays behind in a pool that goes on."""
    from carpool.bulk.stream import Stream

    caplog.set_level(logging.WARNING)
    async with world() as w:
        for leave in (collect, partial(take, number=3), by_break):
            await leave(w.pool.map(Feed(600).plain(), endpoint=CHAT))
            await anyio.sleep(10)
        gc.collect()
        assert [kept for kept in gc.get_objects() if isinstance(kept, Stream)] == []
        assert caplog.text == "" or "failed" not in caplog.text
