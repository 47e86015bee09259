"""Streams with a journal: stopped anywhere and begun again, they are answered, and nothing is paid twice."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from streams_kit import Feed, Taken, collect, take, text_of, texts, ways
from test_pool_journal import Disk, LookUps
from virtual import CHAT, Interrupted, Samples, Site, World, body, site

import carpool
from carpool.bulk import Shelf
from carpool.testing import Answer, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> LookUps:
    return LookUps(monkeypatch)


def runs(at: Site) -> set[int]:
    return set(at.emulator.books().bodies.values())


def plain(text: str) -> Any:
    return body(text)


def named(text: str) -> Any:
    return carpool.Request(CHAT, body(text), key=f"name of {text}")


def numbered(text: str) -> Any:
    return carpool.Request(CHAT, body(text), key=int(text.split()[1]) << 32 | 7)


every_key = pytest.mark.parametrize(
    ("way", "form"), [("as_completed", plain), ("map", named), ("map", numbered)], ids=["content", "text", "number"]
)


async def stream(w: World, way: str, feed: Feed, kind: str = "plain") -> list[carpool.Outcome]:
    outcomes = await collect(getattr(w.pool, way)(feed.requests(kind), endpoint=CHAT))
    return sorted(outcomes, key=lambda outcome: outcome.index)


# --- resuming


@every_key
@pytest.mark.parametrize("after", [0.5, 30, 71, 73])
async def test_a_stream_that_is_stopped_half_way_goes_on_and_pays_nothing_twice(
    tmp_path: Path, way: str, form: Callable[[str], Any], after: float
) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        with anyio.move_on_after(after):
            async with at.open() as w:
                async for _ in getattr(w.pool, way)(Feed(300, form=form, pause=0).asynchronous(), endpoint=CHAT):
                    await anyio.sleep(0.01)
        async with at.open() as w:
            outcomes = await stream(w, way, Feed(400, form=form))
        assert [text_of(outcome) for outcome in outcomes] == texts(400)
        assert at.emulator.books().files == ()
        assert at.files("segment*") == at.files("shard*") == set()
    assert runs(at) == {1}


@ways
async def test_a_stream_that_is_stopped_again_and_again_comes_to_its_end(tmp_path: Path, way: str) -> None:
    outcomes: list[carpool.Outcome] = []
    async with site(tmp_path, pace=Pace(running=40), enqueued_tokens={"*": 20_000}) as at:
        for number in range(1, 30):
            with suppress(Interrupted):
                async with at.open(max_pending=100) as w:
                    outcomes = []
                    async for outcome in getattr(w.pool, way)(Feed(600).plain(), endpoint=CHAT):
                        outcomes.append(outcome)
                        if len(outcomes) == 30 * number:
                            raise Interrupted
                    break
        assert sorted(map(text_of, outcomes)) == sorted(texts(600))
    assert runs(at) == {1}


@ways
async def test_the_same_stream_is_answered_from_disk(tmp_path: Path, way: str) -> None:
    async with site(tmp_path) as at:
        given = []
        for _ in range(3):
            async with at.open() as w:
                given.append(await stream(w, way, Feed(600)))
        asked = len(at.transport.requests)
        async with at.open() as w:
            start = anyio.current_time()
            await stream(w, way, Feed(600))
            assert anyio.current_time() == start
        assert len(at.transport.requests) == asked
    assert given[0] == given[1] == given[2]
    assert runs(at) == {1}


async def test_equal_requests_of_a_stream_stay_separate_samples(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:
        seen = []
        for _ in range(2):
            async with at.open() as w:
                outcomes = await collect(w.pool.map([body("same")] * 600, endpoint=CHAT))
                seen.append(sorted(map(text_of, outcomes)))
    assert seen[0] == seen[1] == sorted(f"same #{number}" for number in range(1, 601))


async def test_a_number_is_another_key_than_the_text_that_reads_like_it(tmp_path: Path) -> None:
    keys: list[Any] = [5, "5", 0, "", 2**63 - 1]
    async with site(tmp_path, answer=Samples()) as at:
        seen = []
        for text in ("one", "two"):
            asked = [carpool.Request(CHAT, body(text), key=key) for key in keys]
            async with at.open() as w:
                seen.append([text_of(outcome) for outcome in await collect(w.pool.map(asked))])
    assert sorted(seen[0]) == [f"one #{number}" for number in range(1, 6)]
    assert seen[1] == seen[0]


@pytest.mark.parametrize("key", [-1, 2**63, True, 1.5, b"bytes"])
async def test_a_key_that_is_none_is_the_outcome_of_its_request(tmp_path: Path, key: Any) -> None:
    async with site(tmp_path) as at, at.open() as w:
        outcomes = await collect(w.pool.map([carpool.Request(CHAT, body("bad"), key=key), body("good")], endpoint=CHAT))
    assert [type(outcome.error) for outcome in outcomes] == [carpool.ConfigurationError, type(None)]


@ways
async def test_failures_are_asked_for_again(tmp_path: Path, way: str) -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        text = given["messages"][0]["content"]
        return Answer(400, {"error": {"message": "no"}}) if text.endswith("3") else {"choices": []}

    async with site(tmp_path, answer=answer) as at:
        for _ in range(2):
            async with at.open() as w:
                outcomes = await stream(w, way, Feed(20))
                assert [outcome.index for outcome in outcomes if not outcome.ok] == [3, 13]
    books = at.emulator.books()
    assert [books.times(body(text)) for text in texts(5)] == [1, 1, 1, 2, 1]


@pytest.mark.parametrize(("way", "kind"), [("map", "plain"), ("as_completed", "async")])
async def test_a_budget_is_not_spent_on_what_was_answered(tmp_path: Path, way: str, kind: str) -> None:
    prices = {"gpt-5-mini": {"input": 1e6, "output": 0}}
    async with site(tmp_path) as at:
        async with at.open() as w:
            await stream(w, way, Feed(30), kind)
        async with at.open(budget=2.0, prices=prices) as w:
            outcomes = await stream(w, way, Feed(60), kind)
    assert all(outcome.ok for outcome in outcomes[:30])
    assert {type(outcome.error) for outcome in outcomes if not outcome.ok} == {carpool.BudgetExceeded}


# --- what nobody was given


@pytest.mark.parametrize("reuse", ["always", "undelivered", "never"])
@pytest.mark.parametrize("leave", ["stream", "pool", "forgotten"])
@pytest.mark.parametrize(("way", "keep"), [("map", 10_000), ("as_completed", 10**9)], ids=["on disk", "in memory"])
async def test_outcomes_that_nobody_took_are_not_paid_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, leave: str, keep: int, reuse: Any
) -> None:
    """They were settled, and waited for their turn; those that were taken are new requests with "undelivered"."""
    monkeypatch.setattr(Shelf.__init__, "__defaults__", (None, keep))
    taken: list[carpool.Outcome] = []
    async with site(tmp_path) as at:
        with suppress(Interrupted):
            async with at.open(reuse=reuse) as w:
                outcomes = getattr(w.pool, way)(Feed(700).plain(), endpoint=CHAT)
                taken += await take(outcomes, 20)
                if leave == "stream":
                    await outcomes.aclose()
                elif leave == "pool":
                    raise Interrupted
                del outcomes
        async with at.open(reuse=reuse) as w:
            assert len(await stream(w, way, Feed(700))) == 700
        books = at.emulator.books()
    received = {text_of(outcome) for outcome in taken}
    again = {"always": set(), "undelivered": received, "never": set(texts(700))}[reuse]
    assert {text for text in texts(700) if books.times(body(text)) == 2} == again
    assert books.bodies.total() == 700 + len(again)


@ways
async def test_outcomes_that_nobody_took_are_for_equal_calls_of_the_same_pool(tmp_path: Path, way: str) -> None:
    async with site(tmp_path) as at, at.open() as w:
        async with getattr(w.pool, way)(Feed(700).plain(), endpoint=CHAT) as outcomes:
            taken = {text_of(outcome) for outcome in await take(outcomes, 20)}
        start = anyio.current_time()
        rest = [text for text in texts(700) if text not in taken]
        assert len(await w.pool.gather([body(text) for text in rest], endpoint=CHAT)) == 680
        assert anyio.current_time() == start
    assert runs(at) == {1}


async def test_what_was_under_way_when_a_stream_was_left_is_for_equal_calls(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open() as w:
        async with w.pool.map(Feed(50).plain(), endpoint=CHAT):
            await anyio.sleep(30)
        outcomes = await stream(w, "as_completed", Feed(60))
        assert [text_of(outcome) for outcome in outcomes] == texts(60)
    assert runs(at) == {1}


# --- looking up


async def test_few_requests_are_in_memory_while_they_are_looked_up(tmp_path: Path, look_ups: LookUps) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await stream(w, "map", Feed(3_500))
        look_ups.seconds = 1
        feed = Feed(3_500)
        got = 0
        async with at.open() as w:
            async for _ in w.pool.map(feed.plain(), endpoint=CHAT):
                got += 1
                assert feed.given - got <= 3_500
        assert sum(look_ups.asked) == 3_500
        assert max(look_ups.asked) <= 2_500
    assert runs(at) == {1}


@ways
async def test_a_pool_that_is_open_for_long_does_not_look_for_its_own_answers(
    tmp_path: Path, look_ups: LookUps, way: str
) -> None:
    """It looks from time to time for processes that died; its own answers are none of theirs."""
    async with site(tmp_path) as at, at.open() as w:
        await stream(w, way, Feed(30))
        await w.ask_all(["one", "two"])
        await anyio.sleep(200)
        await stream(w, way, Feed(30, of="another"))
        await w.ask_all(["three"])
        await anyio.sleep(200)
        await w.ask_all(["four"])
        assert look_ups.asked == []
        with anyio.move_on_after(0.5):
            await w.pool.request(CHAT, body("gone"))
        await w.ask_all(["five"])
        assert look_ups.asked == [1]


async def test_a_pool_finds_what_another_answered_while_it_was_open(tmp_path: Path, look_ups: LookUps) -> None:
    async with site(tmp_path) as at, at.open() as w:
        await stream(w, "map", Feed(30, of="own"))
        async with at.open() as other:
            await stream(other, "map", Feed(30))
        await anyio.sleep(200)
        await stream(w, "map", Feed(40))
        assert sum(look_ups.asked) >= 30
    assert runs(at) == {1}


# --- the disk


@ways
@pytest.mark.parametrize("after", [0.5, 1.01, 30, 69, 71])
async def test_a_disk_that_is_full_from_some_moment_on_ends_a_stream_and_loses_nothing(
    tmp_path: Path, disk: Disk, way: str, after: float
) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        taken = Taken()
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(taken.take, getattr(w.pool, way)(Feed(60, pause=2).asynchronous(), endpoint=CHAT))
            await anyio.sleep(after)
            disk.full = True
            await anyio.sleep(300)
            assert taken.ended
        assert isinstance(taken.error, carpool.JournalError)
        assert "Free some room" in str(taken.error)
        assert {type(outcome.error) for outcome in taken.outcomes if not outcome.ok} <= {carpool.JournalError}
        disk.full = False
        async with at.open() as w:
            outcomes = await stream(w, way, Feed(60))
        assert [text_of(outcome) for outcome in outcomes] == texts(60)
    assert runs(at) == {1}


@ways
async def test_a_full_disk_does_not_keep_outcomes_from_those_who_wait(tmp_path: Path, disk: Disk, way: str) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        taken = Taken()
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(taken.take, getattr(w.pool, way)(Feed(700).plain(), endpoint=CHAT))
            await anyio.sleep(30)
            disk.full = True
        assert sorted(taken.texts) == sorted(texts(700))
        assert taken.error is None
        disk.full = False


async def test_outcomes_wait_in_the_journals_folder_and_leave_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(Shelf.__init__, "__defaults__", (None, 10_000))
    folders = set()
    temporary_file = tempfile.TemporaryFile

    def seen(*args: Any, **settings: Any) -> Any:
        folders.add(settings.get("dir"))
        return temporary_file(*args, **settings)

    monkeypatch.setattr("tempfile.TemporaryFile", seen)
    async with site(tmp_path) as at, at.open() as w:
        outcomes = w.pool.map(Feed(700).plain(), endpoint=CHAT)
        await anext(outcomes)
        assert at.files("carpool-*") == set()
        await collect(outcomes)
    assert folders == {at.folder}
