"""Callers that go, and batches that are cancelled on purpose: whole pools on virtual time, on both backends."""

import asyncio
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import anyio
import pytest
from virtual import CHAT, World, body, site, world

import carpool
from carpool.journal import Known
from carpool.journal.sqlite import Sqlite
from carpool.testing import Emulator, Faults, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=100, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)
TIGHT: dict[str, Any] = {"limits": {"*": 20}, "counter": lambda *_: 10}  # two requests fill the queue


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def statuses(w: World) -> list[str]:
    return [batch.status for batch in w.emulator.books().batches]


def kinds(w: World) -> set[type[BaseException]]:
    return {type(error) for error in w.errors().values()}


async def goes_after(w: World, seconds: float, wanted: list[str]) -> None:
    with anyio.move_on_after(seconds):
        await w.ask_all(wanted)


# --- callers that go


async def test_those_that_go_while_they_wait_are_never_sent() -> None:
    async with world(pool={"timing": PATIENT}) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(goes_after, w, 10, texts(5))
        tasks.start_soon(w.ask_all, ["stays"])
        await anyio.sleep(20)
        assert w.pool.stats().lanes[0].waiting == 1
        await w.pool.flush()
    assert w.answers() == {"stays": "stays"}
    assert w.emulator.books().bodies.total() == 1


async def test_those_that_go_while_their_batch_stands_in_line_are_never_sent() -> None:
    async with world(pool=TIGHT, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(2))
        await anyio.sleep(10)
        tasks.start_soon(goes_after, w, 30, ["goes", "goes too"])
        await anyio.sleep(2)
        tasks.start_soon(w.ask_all, ["stays", "stays too"])
    assert len(w.answers()) == 4
    books = w.emulator.books()
    assert books.times(body("goes")) == books.times(body("goes too")) == 0
    assert books.bodies.total() == 4
    assert books.files == ()


async def test_one_that_goes_out_of_a_batch_in_line_does_not_take_the_other_along() -> None:
    async with world(pool=TIGHT, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(2))
        await anyio.sleep(10)
        tasks.start_soon(goes_after, w, 30, ["goes"])
        tasks.start_soon(w.ask_all, ["stays"])
    assert len(w.answers()) == 3
    assert w.emulator.books().times(body("goes")) == 0


@pytest.mark.parametrize("abandon", [0, 10, 40])
async def test_a_batch_that_nobody_awaits_is_cancelled_after_a_while(abandon: float) -> None:
    pool = {"timing": carpool.Timing(abandon=abandon, poll_max=5)}
    async with world(pool=pool, pace=Pace(running=10_000)) as w:
        await goes_after(w, 30, texts(3))
        await anyio.sleep(max(0.0, abandon - 1))
        assert statuses(w) == ["in_progress"]
        await anyio.sleep(10)
        assert statuses(w) == ["cancelled"]
        await anyio.sleep(100)
        assert w.pool.stats().lanes[0].batches == 0
    assert w.transport.requests.count(("POST", f"/v1/batches/{w.emulator.books().batches[0].id}/cancel")) == 1


async def test_a_batch_that_one_caller_awaits_still_runs_on() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "stays")
        tasks.start_soon(goes_after, w, 20, texts(20))
    assert w.answers() == {"stays": "stays"}
    assert statuses(w) == ["completed"]
    assert w.emulator.books().bodies.total() == 21


async def test_with_a_journal_a_batch_that_nobody_awaits_runs_on(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open() as w:
        await goes_after(w, 30, texts(3))
        await anyio.sleep(500)
        assert statuses(w) == ["completed"]
        start = anyio.current_time()
        await w.ask_all(texts(3))
        assert anyio.current_time() == start
        assert len(w.answers()) == 3
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_callers_that_go_while_the_pool_is_closed_do_not_keep_it_open() -> None:
    async with anyio.create_task_group() as tasks:
        async with world(pace=Pace(running=10_000)) as w:
            tasks.start_soon(goes_after, w, 50, texts(3))
            await anyio.sleep(30)
        assert anyio.current_time() < 70
    assert statuses(w)[0] in ("cancelling", "cancelled")


async def test_closing_does_not_cancel_a_batch_of_which_one_is_awaited() -> None:
    settings = {"timing": carpool.Timing(abandon=0)}
    async with anyio.create_task_group() as tasks, world(pool=settings, pace=SLOW) as w:
        tasks.start_soon(goes_after, w, 50, texts(3))
        tasks.start_soon(w.ask, "stays")
        await anyio.sleep(30)
    assert w.answers() == {"stays": "stays"}


# --- cancelling on purpose


async def test_cancelling_all_ends_what_waits_what_stands_in_line_and_what_runs() -> None:
    async with world(pool=TIGHT, pace=SLOW) as w, anyio.create_task_group() as tasks:
        for text in texts(9):
            tasks.start_soon(w.ask, text)
        await anyio.sleep(57)
        start = anyio.current_time()
        await w.pool.cancel()
        assert anyio.current_time() == start
        await anyio.sleep(70)
        assert len(w.settled) == 9
        stats = w.pool.stats()
        assert (stats.lanes[0].waiting, stats.lanes[0].submitted, stats.lanes[0].batches) == (0, 0, 0)
        assert (stats.answered, stats.failed) == (len(w.answers()), len(w.errors()))
        await anyio.sleep(5_000)
    assert kinds(w) == {carpool.RequestCancelled}
    books = w.emulator.books()
    assert statuses(w) == ["cancelled"]
    assert books.bodies.total() == len(w.answers()) <= 1  # what ran was given
    assert books.files == ()


async def test_cancelling_one_batch_leaves_the_others_alone() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, ["a", "b"])
        await anyio.sleep(10)
        tasks.start_soon(w.ask_all, ["c", "d"])
        await anyio.sleep(10)
        tasks.start_soon(w.ask, "waits")
        await anyio.sleep(0.1)
        first, _ = w.emulator.books().batches
        await w.pool.cancel(first.id)
    assert set(w.errors()) == {"a", "b"}
    assert kinds(w) == {carpool.RequestCancelled}
    assert sorted(w.answers()) == ["c", "d", "waits"]
    assert statuses(w) == ["cancelled", "completed", "completed"]


async def test_rows_that_have_run_are_given() -> None:
    async with world(pace=Pace(running=100)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(100))
        await anyio.sleep(51)
        await w.pool.cancel()
    books = w.emulator.books()
    assert 40 < len(w.answers()) < 60
    assert len(w.answers()) == books.bodies.total()
    assert len(w.errors()) == 100 - len(w.answers())
    for error in w.errors().values():
        assert isinstance(error, carpool.RequestCancelled)
        assert error.batch_id == books.batches[0].id


async def test_an_unknown_id_cancels_nothing() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "text")
        await anyio.sleep(10)
        (batch,) = w.emulator.books().batches
        with pytest.raises(carpool.ConfigurationError, match="batch_other"):
            await w.pool.cancel(batch.id, "batch_other")
        await anyio.sleep(200)
        with pytest.raises(carpool.ConfigurationError, match=batch.id):  # it is over
            await w.pool.cancel(batch.id)
    assert w.answers() == {"text": "text"}
    assert statuses(w) == ["completed"]


async def test_cancelling_twice_or_nothing_does_no_harm() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        await w.pool.cancel()
        tasks.start_soon(w.ask, "one")
        await anyio.sleep(10)
        await w.pool.cancel()
        await w.pool.cancel()
        await anyio.sleep(60)
        await w.pool.cancel()
        await w.ask("two")
    assert kinds(w) == {carpool.RequestCancelled}
    assert w.answers() == {"two": "two"}


@pytest.mark.parametrize("after", [0.5, 1.0, 1.5, 3.0, 3.5, 60, 104, 106, 109, 112])
async def test_cancelling_at_any_moment_settles_everybody_and_sends_nothing_again(after: float) -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(5))
        await anyio.sleep(after)
        await w.pool.cancel()
        await anyio.sleep(1_000)
        assert len(w.settled) == 5
    assert kinds(w) <= {carpool.RequestCancelled}
    assert len(statuses(w)) <= 1
    assert w.emulator.books().bodies.total() == len(w.answers())


async def test_a_batch_whose_creation_was_lost_is_cancelled_when_it_is_found() -> None:
    faults = Faults(lost_create=1.0, nth={1})
    async with world(pace=SLOW, faults=faults, listing_lag=5) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(3))
        await anyio.sleep(2)
        await w.pool.cancel()
    assert kinds(w) == {carpool.RequestCancelled}
    assert statuses(w) == ["cancelled"]


@pytest.mark.parametrize("at", ["validation", "creation"])
async def test_what_is_cancelled_does_not_wait_again_when_it_finds_no_room(at: Any) -> None:
    others = [10_000]
    settings: dict[str, Any] = {"enqueued_tokens": {"*": 10_000}, "other_tokens": lambda model, now: others[0]}
    deaf = Faults(reset=1.0, only={"POST /v1/batches/{id}/cancel"})
    pace = Pace(validating=60)
    async with world(pace=pace, refuse_at=at, faults=deaf, **settings) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "text")
        await anyio.sleep(10)
        await w.pool.cancel()
        await anyio.sleep(100)
        others[0] = 0
        await anyio.sleep(5_000)
        assert kinds(w) == {carpool.RequestCancelled}
    assert w.emulator.books().bodies.total() == 0


async def test_rows_that_failed_in_passing_are_not_sent_again_once_they_are_cancelled() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        raise ValueError("a fault of the server")

    async with world(pace=SLOW, answer=answer) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(4))
        await anyio.sleep(80)
        await w.pool.cancel()
    assert len(w.errors()) == 4
    assert len(statuses(w)) == 1


async def test_calls_that_come_after_it_are_sent() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(3))
        await anyio.sleep(30)
        await w.pool.cancel()
        tasks.start_soon(w.ask, "later")
    assert w.answers() == {"later": "later"}


async def test_what_was_cancelled_is_not_reused_and_what_ran_is(tmp_path: Path) -> None:
    async with site(tmp_path, pace=Pace(running=100)) as at:
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(10))
            await anyio.sleep(50)
            await w.pool.cancel()
        ran = set(w.answers())
        assert 3 < len(ran) < 7
        async with at.open() as w:
            assert w.pool.stats().lanes == ()
            await w.ask_all(texts(10))
        assert len(w.answers()) == 10
        assert at.files("segment*") == at.files("shard*") == set()
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_calls_that_are_being_looked_up_are_cancelled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Sqlite.find

    async def slowly(journal: Sqlite, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        await anyio.sleep(5)
        return await find(journal, digests)

    monkeypatch.setattr(Sqlite, "find", slowly)
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask("something to be looked for")
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "text")
            await anyio.sleep(1)
            await w.pool.cancel()
        assert kinds(w) == {carpool.RequestCancelled}
    assert at.emulator.books().times(body("text")) == 0


# --- from elsewhere


async def test_a_closed_pool_and_one_that_is_not_open_cancel_nothing() -> None:
    with pytest.raises(carpool.PoolClosed):
        await carpool.Pool("sk", "http://emulator/v1").cancel()
    with pytest.raises(carpool.PoolClosed):
        carpool.Pool("sk", "http://emulator/v1").stats()


async def test_an_event_loop_that_is_not_the_pools_is_told_so() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "text")
        await anyio.sleep(10)

        def elsewhere() -> None:
            async def call() -> None:
                with pytest.raises(carpool.ConfigurationError, match="another event loop"):
                    await w.pool.cancel()
                with pytest.raises(carpool.ConfigurationError, match="another event loop"):
                    w.pool.stats()
                assert (await w.pool.estimate([body()], endpoint=CHAT)).requests == 1

            asyncio.run(call())

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert w.answers() == {"text": "text"}
    assert statuses(w) == ["completed"]


class TestInAThread:
    """On real time."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    async def test_a_pool_in_a_thread_of_its_own_cancels(self, no_certificates: None) -> None:
        timing = carpool.Timing(linger=0.02, poll_min=0.02, poll_max=0.05)
        async with (
            Emulator(pace=Pace(running=60)) as emulator,
            carpool.Pool("sk", emulator.url, thread=True, timing=timing) as pool,
            anyio.create_task_group() as tasks,
        ):
            outcomes: list[Any] = []
            settled = anyio.Event()

            async def ask() -> None:
                outcomes.extend(await pool.gather([body(), body()], endpoint=CHAT, return_exceptions=True))
                settled.set()

            tasks.start_soon(ask)
            while not emulator.books().batches:  # noqa: ASYNC110 - no event comes out of the emulator
                await anyio.sleep(0.02)
            with pytest.raises(carpool.ConfigurationError, match="nonsense"):
                await pool.cancel("nonsense")
            await pool.cancel()
            with anyio.fail_after(20):
                await settled.wait()
            assert pool.stats().failed == 2
        assert {type(outcome) for outcome in outcomes} == {carpool.RequestCancelled}
