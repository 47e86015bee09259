"""Leaving in time, on virtual time: what ends is settled, what waits is submitted or left, and the next one goes on."""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from virtual import CHAT, Site, World, body, site, world

import carpool
from carpool.testing import Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=600, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def runs(at: Site) -> set[int]:
    """Give how often bodies were run: {1} where each was run once."""
    return set(at.emulator.books().bodies.values())


def states(w: World) -> list[str]:
    return [batch.status for batch in w.emulator.books().batches]


async def slowly(func: Callable[..., Any], /, *args: object) -> Any:
    """Use a disk on which everything takes half a second."""
    await anyio.sleep(0.5)
    return func(*args)


async def read(outcomes: AsyncIterator[carpool.Outcome], seen: list[str]) -> None:
    """Take answers from a stream."""
    while True:
        seen.append((await anext(outcomes)).result().text)


async def read_until_closed(outcomes: AsyncIterator[carpool.Outcome], seen: list[str]) -> None:
    """Take the answers of a stream that ends because its pool does."""
    with pytest.raises(carpool.PoolClosed):
        await read(outcomes, seen)


async def drained_after(w: World, pause: float, timeout: float | None, *, submit: bool = True) -> float:
    """Drain a pool after a pause; gives how many seconds that took."""
    await anyio.sleep(pause)
    start = anyio.current_time()
    await w.pool.drain(timeout, submit=submit)
    return anyio.current_time() - start


# --- with a journal


async def test_what_ends_in_time_is_settled(tmp_path: Path) -> None:
    async with site(tmp_path, pace=Pace(running=20)) as at, at.open(timing=PATIENT) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(3))
            took = await drained_after(w, 1, 60)
        assert 20 < took < 60
        assert w.answers() == {text: text for text in texts(3)}
        with pytest.raises(carpool.PoolClosed, match="closed"):
            await w.pool.request(CHAT, body("late"))
    assert at.emulator.books().files == ()


@pytest.mark.parametrize("timeout", [0, 0.0001, 3, 30])
async def test_what_does_not_end_in_time_is_left_to_the_next_process(tmp_path: Path, timeout: float) -> None:
    """Before it is uploaded, before it is created, while it runs: nothing is cancelled, and nothing paid twice."""
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open(timing=PATIENT) as w:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask_all, texts(3))
                took = await drained_after(w, 1, timeout)
            assert took < timeout + 1
            assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
            assert str(at.folder) in str(w.errors()["text 0"])
            assert "cancel" not in str(states(w))
        async with at.open() as w:  # what was packed goes on by itself
            await anyio.sleep(700)
            start = anyio.current_time()
            await w.ask_all(texts(3))
            assert anyio.current_time() == start
        assert w.answers() == {text: text for text in texts(3)}
        assert at.emulator.books().files == ()
    assert runs(at) == {1}


async def test_what_waits_is_not_submitted_where_it_is_to_be_left(tmp_path: Path) -> None:
    """Its callers are told at once, and those of batches under way when their answers are here."""
    told: dict[str, float] = {}
    async with site(tmp_path, pace=Pace(running=60)) as at:

        async def ask(w: World, text: str) -> None:
            await w.ask(text)
            told[text] = anyio.current_time()

        async with at.open() as w:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, w, "runs")
                await anyio.sleep(10)
                tasks.start_soon(ask, w, "waits")
                await anyio.sleep(0.1)
                start = anyio.current_time()
                await w.pool.drain(submit=False)
                end = anyio.current_time()
            assert w.answers() == {"runs": "runs"}
            assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
            assert told["waits"] == start
            assert told["runs"] <= end < start + 70
        assert len(at.emulator.books().batches) == 1
        async with at.open() as w:
            assert [lane.dormant for lane in w.pool.stats().lanes] == [1]
            await w.ask_all(["runs", "waits"])
        assert len(w.answers()) == 2
        assert at.files("segment*") == set()
    assert runs(at) == {1}


async def test_rows_that_are_not_on_disk_yet_are_there_when_drain_returns(tmp_path: Path) -> None:
    """A process may be killed right afterwards: the lines are fsynced, and the database tells of them."""
    async with site(tmp_path) as at:
        async with at.open(timing=PATIENT, run_sync=slowly) as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(20))
            await anyio.sleep(0.1)
            assert not at.holds(b'"text 19"')
            await w.pool.drain(0, submit=False)
            assert at.holds(b'"text 19"')
        async with at.open(timing=PATIENT) as w:
            assert [lane.dormant for lane in w.pool.stats().lanes] == [20]
    assert at.emulator.books().uploads == ()


async def test_calls_that_are_being_looked_for_are_given_what_there_is(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask("known")
        async with at.open(timing=PATIENT, run_sync=slowly) as w:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask_all, ["known", "unknown"])
                await drained_after(w, 0.1, None, submit=False)
            assert w.answers() == {"known": "known"}
            assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
        async with at.open() as w:
            assert [lane.dormant for lane in w.pool.stats().lanes] == [1]
    assert len(at.emulator.books().batches) == 1


async def test_rows_that_come_back_unanswered_are_left_too(tmp_path: Path) -> None:
    """With a batch refused for want of room nothing is under way any more, though a caller waits."""
    full: dict[str, Any] = {"enqueued_tokens": {"gpt-5-mini": 15}, "count": lambda _: 10}
    async with site(tmp_path, pace=Pace(validating=20), **full) as at, at.open(counter=lambda *_: 10) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(2))
            assert await drained_after(w, 10, None, submit=False) < 60
        assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
        assert at.emulator.books().refusals() == 1
    assert at.emulator.books().runs == {}


async def test_an_upload_that_is_cut_off_is_made_good(tmp_path: Path) -> None:
    uploads: list[str] = []

    def before(request: httpx2.Request) -> None:
        uploads.append(request.url.path)

    class Stuck(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            before(request)
            await anyio.sleep_forever()
            raise AssertionError

    async with site(tmp_path) as at:
        at_once, at.transport = at.transport, Stuck()  # type: ignore[assignment]  # it is one
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "one")
            assert await drained_after(w, 5, 2) == 2
        assert uploads == ["/v1/files"]
        at.transport = at_once
        async with at.open() as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert runs(at) == {1}


# --- without a journal


async def test_without_a_journal_what_does_not_end_in_time_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with world(pace=SLOW) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(2))
            assert 30 <= await drained_after(w, 5, 30) <= 35
        assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
        assert "drained" in str(w.errors()["text 0"])
    assert states(w) in (["cancelling"], ["cancelled"])
    assert "cancelled batch" in caplog.text


async def test_without_a_journal_everything_may_end_in_time_and_nothing_is_left() -> None:
    async with world(pace=Pace(running=20), pool={"timing": PATIENT}) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(2))
            await drained_after(w, 5, 100)
        assert len(w.answers()) == 2
        assert w.emulator.books().files == ()


async def test_what_waits_cannot_be_left_without_a_journal() -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="journal"):
            await w.pool.drain(submit=False)
        await w.ask("still open")
    assert w.answers() == {"still open": "still open"}


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
async def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="timeout"):
            await w.pool.drain(timeout)
        await w.ask("still open")
    assert w.answers() == {"still open": "still open"}


async def test_a_pool_that_is_not_open_cannot_be_drained() -> None:
    with pytest.raises(carpool.PoolClosed):
        await carpool.Pool("key", "http://emulator/v1").drain(1)


# --- at once, again, cancelled

Way = Callable[[carpool.Pool], Coroutine[Any, Any, None]]


async def close(pool: carpool.Pool) -> None:
    await pool.aclose()


async def drain(timeout: float, pool: carpool.Pool) -> None:
    await pool.drain(timeout)


@pytest.mark.parametrize("first", [close, partial(drain, 1_000), partial(drain, 7)])
@pytest.mark.parametrize("second", [close, partial(drain, 5), partial(drain, 0)])
async def test_ways_of_leaving_may_be_gone_at_once(tmp_path: Path, first: Way, second: Way) -> None:
    """Whoever has the least time says when it is over, for all."""
    limits = [way.args[0] for way in (first, second) if isinstance(way, partial)]
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as w:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask, "one")
                await anyio.sleep(5)
                start = anyio.current_time()
                async with anyio.create_task_group() as leaving:
                    leaving.start_soon(first, w.pool)
                    await anyio.lowlevel.checkpoint()
                    leaving.start_soon(second, w.pool)
                took = anyio.current_time() - start
            await w.pool.drain(3)  # and nothing is left to be done
            await w.pool.aclose()
        limit = min(limits, default=1_000)
        assert took == limit if limit < 500 else 500 < took < limit
        assert bool(w.answers()) == (limit > 500)
        async with at.open() as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert runs(at) == {1}


async def test_a_body_that_fails_after_drain_changes_nothing(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask, "one")
            await drained_after(w, 5, 1)
        assert "drained" in str(w.errors()["one"])
        assert "cancel" not in str(states(w))


async def test_drain_that_is_cancelled_leaves_as_by_an_exception(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(5)
            with anyio.move_on_after(3) as scope:
                await w.pool.drain(100)
            assert scope.cancelled_caught
            await anyio.lowlevel.checkpoint()
            assert isinstance(w.errors()["one"], carpool.PoolClosed)
        async with at.open() as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert runs(at) == {1}


# --- while other things are under way

UNEVEN = Pace(tokens_per_second=1)  # a batch takes as long as its prompts are


def two_lanes() -> list[dict[str, Any]]:
    """Make two calls of which one takes seconds and the other an hour."""
    return [body("short"), body("long " * 4_000, model="gpt-5-nano")]


async def test_answers_that_a_gather_never_gave_are_given_by_the_next_process(tmp_path: Path) -> None:
    """One of its two calls was answered in time; it raised for the other, and nobody saw the answer."""
    async with site(tmp_path, pace=UNEVEN) as at:
        async with at.open(reuse="undelivered") as w:
            async with anyio.create_task_group() as tasks:

                async def gather() -> None:
                    with pytest.raises(carpool.PoolClosed):
                        await w.pool.gather(two_lanes(), endpoint=CHAT)

                tasks.start_soon(gather)
                await drained_after(w, 5, 100)
            assert w.pool.stats().answered == 1
        async with at.open(reuse="undelivered") as w:
            responses = await w.pool.gather(two_lanes(), endpoint=CHAT)
        assert [response.text[:5] for response in responses] == ["short", "long "]
    assert runs(at) == {1}


async def test_a_gather_may_keep_what_came_in_time(tmp_path: Path) -> None:
    outcomes: list[carpool.Response | carpool.CarpoolError] = []
    async with site(tmp_path, pace=UNEVEN) as at, at.open() as w, anyio.create_task_group() as tasks:

        async def gather() -> None:
            outcomes.extend(await w.pool.gather(two_lanes(), endpoint=CHAT, return_exceptions=True))

        tasks.start_soon(gather)
        await drained_after(w, 5, 100)
    answered, failed = outcomes
    assert isinstance(answered, carpool.Response)
    assert isinstance(failed, carpool.PoolClosed)


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_stream_ends_with_what_came_and_the_next_process_has_the_rest(tmp_path: Path, ordered: bool) -> None:
    asked = two_lanes()[:: -1 if ordered else 1]  # in order, the answer that came is behind one that did not
    async with site(tmp_path, pace=UNEVEN) as at:
        async with at.open(reuse="undelivered") as w:
            seen: list[str] = []
            outcomes = (w.pool.map if ordered else w.pool.as_completed)(asked, endpoint=CHAT)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_until_closed, outcomes, seen)
                await drained_after(w, 5, 100)
            assert seen == ([] if ordered else ["short"])
        async with at.open(reuse="undelivered") as w:
            left = asked if ordered else asked[1:]
            responses = await w.pool.gather(left, endpoint=CHAT)
        assert [response.text[:5] for response in responses] == [text["messages"][0]["content"][:5] for text in left]
    assert runs(at) == {1}


async def test_a_stream_that_is_still_read_takes_no_more(tmp_path: Path) -> None:
    """What it asked for by then is submitted, and settled in time."""

    async def source() -> Any:
        for number in range(100):
            yield body(f"text {number}")
            await anyio.sleep(1)

    seen: list[str] = []
    async with (
        site(tmp_path, pace=Pace(running=20)) as at,
        at.open(timing=PATIENT) as w,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(read_until_closed, w.pool.map(source(), endpoint=CHAT), seen)
        await drained_after(w, 4.5, 100)
    assert seen == texts(5)


async def test_without_a_journal_what_came_can_still_be_taken_from_a_stream() -> None:
    async with world(pace=UNEVEN) as w:
        outcomes = w.pool.as_completed(two_lanes(), endpoint=CHAT)
        async with outcomes:
            await drained_after(w, 100, 1)
            assert (await anext(outcomes)).result().text == "short"
            with pytest.raises(carpool.PoolClosed):
                await anext(outcomes)


async def test_live_calls_under_way_are_given_the_time(tmp_path: Path) -> None:
    """One takes five seconds, the other longer than there is."""

    async def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        text = given["messages"][0]["content"]
        await anyio.sleep(5 if text == "quick" else 500)
        return {"choices": [{"message": {"content": text}}]}

    async with site(tmp_path, answer=answer) as at, at.open() as w, anyio.create_task_group() as tasks:
        with carpool.options(live=True):
            tasks.start_soon(w.ask_all, ["quick", "slow"])
        assert await drained_after(w, 1, 30) == 30
    assert w.answers() == {"quick": "quick"}
    assert isinstance(w.errors()["slow"], carpool.PoolClosed)


@pytest.mark.parametrize("submit", [True, False])
async def test_calls_whose_time_runs_out_while_it_is_drained_are_still_sent_live(tmp_path: Path, submit: bool) -> None:
    """They are in a batch that takes longer than they have."""
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open(escalate="live", timeout=300) as w:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask, "urgent")
                took = await drained_after(w, 30, 400, submit=submit)
            assert w.answers() == {"urgent": "urgent"}
            assert took < 300
        assert at.emulator.books().live == 1


async def test_a_blocking_or_an_other_client_is_told_so_too(tmp_path: Path) -> None:
    """Through a client it is an HTTP response that says the same."""
    async with site(tmp_path, pace=SLOW) as at, at.open() as w:
        replies: list[httpx2.Response] = []

        async def post() -> None:
            headers = {"authorization": "Bearer sk-key"}
            async with w.pool.http_client() as client:
                replies.append(
                    await client.post("http://emulator/v1/chat/completions", json=body("one"), headers=headers)
                )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post)
            await drained_after(w, 5, 5)
            tasks.start_soon(post)
    assert [reply.headers["x-carpool-error"] for reply in replies] == ["PoolClosed"] * 2
    assert "drained" in replies[0].text


async def test_one_pool_drains_while_another_of_the_folder_goes_on(tmp_path: Path) -> None:
    """As in a deployment: the new process is up before the old one has gone, and takes over what that left."""
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as new:
            async with at.open() as old, anyio.create_task_group() as tasks:
                tasks.start_soon(old.ask_all, texts(3))
                await drained_after(old, 30, 10)
            assert len(old.errors()) == 3
            await anyio.sleep(70)  # it looks for the dead once a minute
            await new.ask_all(texts(3))
        assert new.answers() == {text: text for text in texts(3)}
        assert len(at.emulator.books().batches) == 1
    assert runs(at) == {1}


async def test_what_is_being_submitted_is_recorded_and_those_who_take_outcomes_come_to_an_end(tmp_path: Path) -> None:
    ids: list[str] = []
    async with site(tmp_path) as at:
        async with at.open(run_sync=slowly) as w:

            async def submit() -> None:
                ids.append(await w.pool.submit(CHAT, body("one")))

            async def take() -> None:
                assert [outcome async for outcome in w.pool.outcomes()] == []

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                tasks.start_soon(submit)
                await anyio.sleep(0.1)
                await w.pool.drain(0)
            assert len(ids) == 1
        async with at.open() as w, w.pool.outcomes() as outcomes:
            outcome = await anext(outcomes)
            assert (outcome.custom_id, outcome.result().text) == (ids[0], "one")
            outcome.ack()
    assert runs(at) == {1}
