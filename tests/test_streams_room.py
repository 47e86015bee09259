"""How far a stream reads ahead: in memory, and on disk; on virtual time, on both backends."""

import logging
import math
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from streams_kit import Feed, Taken, collect, quiet, take, text_of, texts, ways
from virtual import CHAT, InMemory, World, body, run_here, site, world

import carpool
from carpool.bulk import Shelf
from carpool.settings import Ports
from carpool.streams import StreamPort
from carpool.testing import Emulator, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


# --- max_pending


@pytest.mark.parametrize(("way", "kind"), [("map", "plain"), ("as_completed", "async")])
@pytest.mark.parametrize("most", [1, 7, 501])
async def test_no_more_are_under_way_than_may_be(way: str, kind: str, most: int) -> None:
    """Under way is what was read of the source, and not yet given as an outcome."""
    number = min(3 * most + 10, 1_200)
    feed = Feed(number)
    got = 0
    async with (
        world(pool={"max_pending": most}) as w,
        getattr(w.pool, way)(feed.requests(kind), endpoint=CHAT) as outcomes,
    ):
        await anyio.sleep(100)
        assert feed.given == most
        async for _ in outcomes:
            got += 1
            assert feed.given - got < most
            if got % 50 == 0:
                await anyio.sleep(30)
    assert got == number
    assert set(w.emulator.books().bodies.values()) == {1}


@ways
async def test_a_slow_consumer_holds_the_source_back(way: str) -> None:
    feed = Feed()
    got = 0
    async with world(pool={"max_pending": 100}) as w:
        async for _ in getattr(w.pool, way)(feed.plain(), endpoint=CHAT):
            got += 1
            await anyio.sleep(10)
            assert got <= feed.given <= got + 100
            if got == 150:
                break
        assert len(w.emulator.books().bodies) <= 250


@ways
async def test_outcomes_that_come_at_once_are_under_way_until_they_are_given(way: str) -> None:
    feed = Feed(form=lambda text: {})
    async with world(pool={"max_pending": 10}) as w, getattr(w.pool, way)(feed.plain(), endpoint=CHAT) as outcomes:
        await quiet()
        assert feed.given == 10
        await take(outcomes, 25)
        await quiet()
        assert 25 < feed.given <= 35


async def test_streams_share_the_room_and_take_turns() -> None:
    feeds = [Feed(100, of=f"stream {number}") for number in range(3)]
    taken = [Taken() for _ in feeds]
    async with world(pool={"max_pending": 5}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        for feed, one in zip(feeds, taken, strict=True):
            tasks.start_soon(one.take, w.pool.as_completed(feed.plain(), endpoint=CHAT))
        await anyio.sleep(30)
        assert sum(feed.given for feed in feeds) == 5
        await anyio.sleep(500)
        assert min(feed.given for feed in feeds) >= 5
    assert [len(one.outcomes) for one in taken] == [100, 100, 100]


async def test_streams_whose_sources_are_slow_share_the_room_too() -> None:
    """Room that a source does not use at once is not its own: other streams have taken it meanwhile."""
    most = 0

    async def slowly(name: int) -> AsyncIterator[dict[str, Any]]:
        for number in range(12):
            await anyio.sleep(0.05)
            yield body(f"{name}.{number}")

    async with world(pool={"max_pending": 10}, pace=SLOW) as w, anyio.create_task_group() as watching:

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, w.pool.stats().pending)
                await anyio.sleep(0.05)

        async def stream(name: int) -> None:
            async with w.pool.map(slowly(name), endpoint=CHAT) as outcomes:
                assert [outcome.result().text async for outcome in outcomes] == [f"{name}.{n}" for n in range(12)]

        watching.start_soon(watch)
        async with anyio.create_task_group() as streams:
            for name in range(8):
                streams.start_soon(stream, name)
        watching.cancel_scope.cancel()
    assert 10 <= most <= 18  # one more for each stream, which may be what brings others forward


async def test_a_stream_that_is_read_further_after_a_pause_is_not_asked_too_much() -> None:
    """Whoever takes with a timeout leaves outcomes lying that are under way still."""
    feed = Feed(200)
    got = 0
    async with world(pool={"max_pending": 20}, pace=SLOW) as w:
        outcomes = w.pool.map(feed.plain(), endpoint=CHAT)
        while got < 200:
            with anyio.move_on_after(0.5):
                await anext(outcomes)
                got += 1
            assert feed.given - got <= 20


# --- max_spool


def sized(text: str, model: str = "gpt-5-mini") -> dict[str, Any]:
    """Make a body whose line is about a kilobyte."""
    return body(f"{text} ".ljust(900, "."), model=model)


TIGHT: dict[str, Any] = {"limits": {"a": 20}, "counter": lambda *_: 10}  # two requests fill the queue of model a


@pytest.mark.parametrize(("way", "kind"), [("map", "plain"), ("as_completed", "async")])
async def test_what_waits_on_disk_is_bounded(way: str, kind: str) -> None:
    feed = Feed(form=lambda text: sized(text, "a"))
    async with (
        world(pool={**TIGHT, "max_spool": 300_000}, pace=SLOW) as w,
        getattr(w.pool, way)(feed.requests(kind), endpoint=CHAT),
    ):
        for _ in range(10):
            await anyio.sleep(100)
            assert 250 < feed.given < 300 + 2 * 11 + 500  # what waits, what ran, and what is handed over at once
            waiting = sum(lane.waiting for lane in w.pool.stats().lanes)
            assert 250 < waiting <= 300 + 500


async def test_a_lane_at_its_limit_does_not_stop_the_others() -> None:
    async def requests() -> AsyncIterator[Any]:
        for number in range(300):
            yield sized(f"slow {number}", "a")
            yield sized(f"quick {number}", "b")

    quick: list[float] = []
    async with world(pool=TIGHT, pace=SLOW) as w:
        start = anyio.current_time()
        async for outcome in w.pool.as_completed(requests(), endpoint=CHAT):
            if text_of(outcome).startswith("quick"):
                quick.append(anyio.current_time() - start)
            if len(quick) == 300:
                break
    assert max(quick) < 200


@pytest.mark.parametrize("settings", [{"max_spool": 1}, {"max_spool": 1, "max_pending": 1}, {"max_pending": 3}])
@ways
async def test_the_smallest_bounds_stop_nothing(way: str, settings: dict[str, Any]) -> None:
    number = 20 if "max_pending" in settings else 1_200
    async with world(pool=settings) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(10))
        outcomes = await collect(getattr(w.pool, way)(Feed(number, of="stream").plain(), endpoint=CHAT))
    assert len(outcomes) == number
    assert len(w.answers()) == 10


async def test_what_an_earlier_process_left_does_not_count(tmp_path: Path) -> None:
    """Its rows wait until somebody asks for them, which they may do by a stream."""
    async with site(tmp_path) as at:
        async with at.interrupted(timing=PATIENT) as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(600))
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks, at.interrupted(timing=PATIENT) as w:
            tasks.start_soon(w.ask_all, texts(600))
            await anyio.sleep(10)
        async with at.open(max_spool=1) as w:
            assert w.pool.stats().lanes[0].dormant > 0
            outcomes = await collect(w.pool.map(Feed(700).plain(), endpoint=CHAT))
        assert [text_of(outcome) for outcome in outcomes] == texts(700)
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_room_that_a_stream_leaves_is_taken_by_another_at_once() -> None:
    full = Feed(form=lambda text: sized(text, "a"))
    feed = Feed(1_000, of="other")
    taken = Taken()
    async with world(pool={**TIGHT, "max_spool": 100_000}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        async with w.pool.map(full.plain(), endpoint=CHAT):
            await anyio.sleep(20)
            tasks.start_soon(taken.take, w.pool.map(feed.plain(), endpoint=CHAT))
            await anyio.sleep(10)
            assert 1 <= feed.given <= 500
        with anyio.fail_after(5):  # much sooner than any batch ends
            while feed.given < 1_000:  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(0.1)
    assert len(taken.outcomes) == 1_000


# --- memory


async def test_large_bodies_are_not_gathered() -> None:
    """Also such as are mappings, whose size shows when they are encoded."""
    feed = Feed(form=lambda text: body(text + 300_000 * "."))
    async with world(pool={"timing": PATIENT, "max_spool": 1}) as w, w.pool.map(feed.plain(), endpoint=CHAT):
        await quiet()
        assert 1 <= feed.given <= 5


class SlowDisk:
    """Take a second for each write, and count the bytes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.written = 0
        self.refuses: Callable[[], bool] = lambda: False
        pwrite = os.pwrite

        def write(file: int, content: Any, offset: int) -> int:
            if self.refuses():
                raise OSError(28, "No space left on device")
            self.written += len(content)
            return pwrite(file, content, offset)

        patch.setattr("os.pwrite", write)

    async def run_sync(self, func: Callable[..., Any], /, *args: object) -> Any:
        """Stand in for a worker thread."""
        if getattr(func, "__name__", "") == "_write":
            await anyio.sleep(1)
        return await run_here(func, *args)

    @asynccontextmanager
    async def world(self, **settings: Any) -> AsyncIterator[World]:
        """Open a pool on this disk."""
        async with Emulator().inline() as served:
            transport = InMemory(served.app)
            ports = Ports(run_sync=self.run_sync, transport=transport)
            async with carpool.Pool("sk-key", "http://emulator/v1", _ports=ports, **settings) as opened:
                yield World(opened, served, transport)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


async def test_a_source_that_is_faster_than_the_disk_waits_for_it(disk: SlowDisk) -> None:
    size = 100_000
    feed = Feed(1_500, form=lambda text: body(text.ljust(size)))
    async with disk.world(timing=PATIENT) as w, w.pool.map(feed.plain(), endpoint=CHAT, keep_requests=False):
        start = anyio.current_time()
        while feed.given < 1_500:
            await anyio.sleep(0.25)
            assert feed.given * size - disk.written < 30e6
        assert anyio.current_time() - start < 30  # it does not wait to be stirred by something else


async def test_a_disk_that_refuses_for_a_while_fails_what_it_refused_and_nothing_else(
    disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carpool.streams._UNWRITTEN", 2**20)
    feed = Feed(300, form=lambda text: body(text.ljust(100_000)))
    async with disk.world(max_pending=50) as w:
        until = anyio.current_time() + 20
        disk.refuses = lambda: anyio.current_time() < until
        outcomes = await collect(w.pool.map(feed.plain(), endpoint=CHAT))
    failed = [outcome for outcome in outcomes if not outcome.ok]
    assert len(outcomes) == 300
    assert {type(outcome.error) for outcome in failed} == {carpool.JournalError}
    assert 0 < len(failed) < 300
    assert outcomes[-1].ok


async def test_nothing_is_done_while_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [0]
    has_room: Any = vars(StreamPort)["has_room"].fget

    def counted(port: StreamPort) -> bool:
        looks[0] += 1
        return bool(has_room(port))

    monkeypatch.setattr(StreamPort, "has_room", property(counted))
    settings = {"max_pending": 50}
    async with world(pool=settings, pace=Pace(running=80_000)) as w, w.pool.map(Feed().plain(), endpoint=CHAT):
        await anyio.sleep(100)
        before, steps = looks[0], len(w.transport.requests)
        await anyio.sleep(70_000)
        assert looks[0] - before <= 5 * (len(w.transport.requests) - steps) + 10


# --- outcomes that wait for their turn


class Blocked:
    """Answer the first request late, so that all others wait for it."""

    async def __call__(self, endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        text = given["messages"][0]["content"]
        await anyio.sleep(300 if given["model"] == "slow" else 0)
        return {"choices": [{"message": {"content": text}}], "padding": 1_000 * "."}


def blocked(number: int) -> list[dict[str, Any]]:
    return [body(text, model="quick" if n else "slow") for n, text in enumerate(texts(number))]


def let_keep(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr(Shelf.__init__, "__defaults__", (None, size))


@pytest.mark.parametrize("keep", [True, False])
async def test_outcomes_that_are_many_wait_on_disk(monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    let_keep(monkeypatch, 100_000)
    made: list[Any] = []
    temporary_file = tempfile.TemporaryFile

    def counted(*args: Any, **settings: Any) -> Any:
        made.append(temporary_file(*args, **settings))
        return made[-1]

    monkeypatch.setattr("tempfile.TemporaryFile", counted)
    async with world(answer=Blocked()) as w:
        outcomes = w.pool.map(blocked(2_000), endpoint=CHAT, keep_requests=keep)
        assert [text_of(outcome) for outcome in await collect(outcomes)] == texts(2_000)
    assert made
    assert all(file.closed for file in made)


@pytest.mark.parametrize("after", [200, 310])
async def test_outcomes_on_disk_go_with_a_stream_that_is_left(monkeypatch: pytest.MonkeyPatch, after: float) -> None:
    let_keep(monkeypatch, 100_000)
    async with world(answer=Blocked()) as w:
        with anyio.move_on_after(after):
            async with w.pool.map(blocked(1_000), endpoint=CHAT) as outcomes:
                async for _ in outcomes:
                    await anyio.sleep(1)
        assert w.pool.stats().answered >= 999


async def test_outcomes_that_the_disk_does_not_take_wait_in_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    let_keep(monkeypatch, 100_000)
    caplog.set_level(logging.WARNING)

    def refused(*args: Any, **settings: Any) -> Any:
        raise OSError(28, "No space left on device")

    async with world(answer=Blocked()) as w:
        monkeypatch.setattr("tempfile.TemporaryFile", refused)
        outcomes = await collect(w.pool.map(blocked(2_000), endpoint=CHAT))
    assert [text_of(outcome) for outcome in outcomes] == texts(2_000)
    assert 1 <= caplog.text.count("stay in memory") <= math.log2(2_000)


async def test_outcomes_on_disk_outlive_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    let_keep(monkeypatch, 100_000)
    async with world(answer=Blocked()) as w:
        outcomes = w.pool.map(blocked(1_000), endpoint=CHAT)
        assert text_of(await anext(outcomes)) == "text 0"
    assert [text_of(outcome) for outcome in await collect(outcomes)] == texts(1_000)[1:]
