"""Several pools on one account: those of one folder share its limits, others by shares; and limits set anew."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest
import tiktoken
import vocabulary
from virtual import CHAT, Site, World, body, drawn, run_here, site, world

import carpool
from carpool.engine.commands import Claim
from carpool.testing import Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

PACE = Pace(validating=2, running=150, finalizing=1)
MODEL = "gpt-5-mini"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture(autouse=True, scope="module")
def _vocabulary() -> None:
    assert vocabulary.is_there(), "tiktoken's vocabularies are missing: say `make .vocabulary/.ready`"


def texts(count: int, name: str = "Text", words: int = 12) -> list[str]:
    return [f"{name} {number}. " + "All work and no play. " * (1 + number * 7 % words) for number in range(count)]


def exact(given: dict[str, Any]) -> int:
    """Count as the Cookbook does for plain chat messages."""
    encode = tiktoken.get_encoding("o200k_base").encode_ordinary
    return 3 + sum(3 + len(encode(m["role"])) + len(encode(m["content"])) for m in given["messages"])


def work_of(asked: list[str]) -> int:
    return sum(exact(body(text)) for text in asked)


async def ask_of_all(s: Site, shares: list[list[str]], **settings: Any) -> list[World]:
    """Open as many pools as there are shares of the work, and ask each for its own at once."""
    async with AsyncExitStack() as stack:
        worlds = [await stack.enter_async_context(s.open(**settings)) for _ in shares]
        async with anyio.create_task_group() as tasks:
            for w, asked in zip(worlds, shares, strict=True):
                tasks.start_soon(w.ask_all, asked)
    return worlds


async def test_a_pool_whose_machine_slept_is_no_worse_off(tmp_path: Path) -> None:
    shares = [texts(50, f"Pool {number}") for number in range(2)]
    limit = work_of([text for share in shares for text in share]) // 5
    async with site(tmp_path, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as s, s.open() as first:
        awake = time.time  # the wall's clock, which goes on while the others stand still
        with mock.patch("time.time", side_effect=lambda: awake() + 30_000):
            async with s.open() as second, anyio.create_task_group() as tasks:
                for w, asked in zip((first, second), shares, strict=True):
                    tasks.start_soon(w.ask_all, asked)
        books = s.emulator.books()
    for w, asked in zip((first, second), shares, strict=True):
        assert w.answers() == {text: text for text in asked}, w.errors()
    assert set(books.bodies.values()) == {1}
    assert books.refusals() == 1


@pytest.mark.parametrize(("known", "refusals"), [(True, 0), (False, 1)])
async def test_pools_of_one_folder_fill_one_limit(tmp_path: Path, known: bool, refusals: int) -> None:
    shares = [texts(50, f"Pool {number}") for number in range(4)]
    limit = work_of([text for share in shares for text in share]) // 5
    settings = {"limits": {"*": limit}} if known else {}
    async with site(tmp_path, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as s:
        worlds = await ask_of_all(s, shares, **settings)
        books = s.emulator.books()
    for w, asked in zip(worlds, shares, strict=True):
        assert w.answers() == {text: text for text in asked}, w.errors()
    assert set(books.bodies.values()) == {1}
    assert books.refusals() == refusals
    assert books.utilisation(MODEL) >= 0.85  # one pool alone: 0.9


async def test_processes_that_die_leave_their_room_to_whoever_goes_on(tmp_path: Path) -> None:
    shares = [texts(60, f"Pool {number}") for number in range(3)]
    limit = work_of([text for share in shares for text in share]) // 5
    settings = {"limits": {"*": limit}}
    async with site(tmp_path, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as s:

        async def die_and_ask_again(asked: list[str], *after: float) -> None:
            for seconds in after:
                async with s.interrupted(**settings) as w:
                    with anyio.move_on_after(seconds):
                        await w.ask_all(asked)
            async with s.open(**settings) as w:
                await w.ask_all(asked)
            assert w.answers() == {text: text for text in asked}, w.errors()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(die_and_ask_again, shares[0])
            tasks.start_soon(die_and_ask_again, shares[1], 180)
            tasks.start_soon(die_and_ask_again, shares[2], 0.5, 220, 3)
        books = s.emulator.books()
    assert set(books.bodies.values()) == {1}
    assert books.refusals() == 0
    assert books.utilisation(MODEL) >= 0.7


async def test_who_comes_late_gets_its_part_soon(tmp_path: Path) -> None:
    many, few = texts(160, "Many"), texts(3, "Few")
    limit = work_of(many) // 6
    settings = {"limits": {"*": limit}}
    async with (
        site(tmp_path, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as s,
        s.open(**settings) as first,
        s.open(**settings) as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(first.ask_all, many)
        await anyio.sleep(200)
        start = anyio.current_time()
        await second.ask_all(few)
        took = anyio.current_time() - start
        left = first.pool.stats().lanes[0].waiting
    assert len(second.answers()) == len(few)
    assert took < 3 * PACE.running
    assert left > 40  # who came first is far from its end
    assert s.emulator.books().refusals() == 0


async def test_tokens_that_are_released_late_are_learned_of_by_all(tmp_path: Path) -> None:
    shares = [texts(70, f"Pool {number}") for number in range(2)]
    limit = work_of([text for share in shares for text in share]) // 6
    with drawn(0):  # names spread what is due at once: what is refused differs by them
        async with site(tmp_path, pace=PACE, enqueued_tokens={"*": limit}, count=exact, release_after=8) as s:
            worlds = await ask_of_all(s, shares, limits={"*": limit})
            books = s.emulator.books()
    assert [len(w.answers()) for w in worlds] == [70] * 2
    refused = [line.at for line in books.queue if line.change == "refused"]
    half = (books.queue[0].at + books.queue[-1].at) / 2
    assert len(refused) <= 20
    assert sum(at > half for at in refused) <= 4


async def test_a_journal_that_cannot_be_asked_is_lost(tmp_path: Path) -> None:
    def run_sync(func: Callable[..., Any], *args: Any) -> Any:
        if any(isinstance(arg, Claim) for arg in args):
            raise carpool.JournalError("The journal is gone.")
        return run_here(func, *args)

    async with site(tmp_path, pace=PACE) as s:
        async with s.interrupted(run_sync=run_sync) as w:
            await w.ask("hello")
            assert isinstance(w.errors()["hello"], carpool.JournalError)
            with pytest.raises(carpool.JournalError):
                await w.pool.request(CHAT, body("later"))
        assert s.emulator.books().batches == ()
        async with s.open() as again:
            await again.ask("hello")
        assert again.answers() == {"hello": "hello"}


async def test_pools_without_a_common_folder_keep_to_shares() -> None:
    shares = [texts(80, f"Machine {number}") for number in range(2)]
    limit = work_of([text for share in shares for text in share]) // 5
    settings: dict[str, Any] = {"limits": carpool.Limits({"*": limit}, share=0.5)}
    async with (
        world(pool=settings, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as w,
        carpool.Pool("sk-key", "http://emulator/v1", _ports=w.ports, progress=False, **settings) as pool,
    ):
        other = World(pool, w.emulator, w.transport)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, shares[0])
            tasks.start_soon(other.ask_all, shares[1])
        (lane,) = pool.stats().lanes
    assert (lane.limit, lane.limit_source) == (limit // 2, "user")
    assert len(w.answers()) == len(other.answers()) == 80
    assert w.emulator.books().refusals() == 0
    assert w.emulator.books().utilisation(MODEL) >= 0.8


@pytest.mark.parametrize("share", [0, -1, 1.5, True, "0.25", None])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="share"):
        carpool.Limits(share=share)


# --- limits set anew


async def test_limits_are_raised_lowered_and_taken_away_while_calls_wait() -> None:
    asked = texts(250)
    limit = work_of(asked) // 12
    async with (
        world(pool={"limits": {"*": limit}}, pace=PACE, enqueued_tokens={"*": 10**9}, count=exact) as w,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(w.ask_all, asked)
        levels = []
        for tokens in (limit, 2 * limit, limit // 2, None):
            await w.pool.set_limits({} if tokens is None else {MODEL: tokens})
            await anyio.sleep(1.5 * PACE.running)  # what ran before has ended
            (lane,) = w.pool.stats().lanes
            levels.append((lane.limit, lane.limit_source))
            if tokens is not None:
                assert 0.7 * tokens <= lane.enqueued <= tokens
    assert levels == [(limit, "user"), (2 * limit, "user"), (limit // 2, "user"), (None, "unknown")]
    assert len(w.answers()) == len(asked)
    assert w.emulator.books().refusals() == 0


async def test_another_tier_takes_the_place_of_what_a_refusal_said() -> None:
    asked = texts(60)
    async with (
        world(pool={"tier": "tier-2"}, pace=PACE, enqueued_tokens={"*": work_of(asked) // 2}) as w,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(w.ask_all, asked)
        await anyio.sleep(60)
        assert w.pool.stats().lanes[0].limit_source == "learned"
        w.emulator.set_limit("*", 10**9)
        await w.pool.set_limits(tier="tier-2")  # which is no news
        assert w.pool.stats().lanes[0].limit_source == "learned"
        await w.pool.set_limits(tier="tier-3")
        assert w.pool.stats().lanes[0].limit_source == "table"
    assert len(w.answers()) == len(asked)


async def test_a_share_may_be_set_anew() -> None:
    async with world(pool={"limits": carpool.Limits({"*": 1_000}, share=0.25)}) as w:
        await w.ask("hello")
        for share, limit in ((0.5, 500), (0.1, 100)):
            await w.pool.set_limits(carpool.Limits({"*": 1_000}, share=share))
            assert w.pool.stats().lanes[0].limit == limit
        await w.pool.set_limits({"*": 2_000})
        assert w.pool.stats().lanes[0].limit == 200  # the share stays


@pytest.mark.parametrize("wrong", [{"limits": {"gpt-4o": -1}}, {"limits": 90_000}, {"tier": "tier-9"}])
async def test_limits_that_make_no_sense_change_nothing(wrong: dict[str, Any]) -> None:
    async with world(pool={"limits": {"*": 1_000}}) as w:
        await w.ask("hello")
        with pytest.raises(carpool.ConfigurationError):
            await w.pool.set_limits(**wrong)
        assert w.pool.stats().lanes[0].limit == 1_000
