"""How many calls may be under way, and who comes next where there is no room: on virtual time, on both backends."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import openai
import pytest
from virtual import CHAT, World, body, site, world

import carpool
from carpool.admission import Admission, Place
from carpool.testing import Emulator, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int, name: str = "text") -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def under_way(pool: carpool.Pool) -> int:
    stats = pool.stats()
    return stats.accepted - stats.answered - stats.failed


async def settled(count: int) -> None:
    """Let whatever can happen at this instant happen."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


# --- waiting


async def test_no_more_calls_are_under_way_than_may_be_and_all_are_answered() -> None:
    async with world(pool={"max_pending": 10}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(35))
        seen = []
        while len(w.settled) < 35:
            await anyio.sleep(1)
            seen.append(under_way(w.pool))
        assert max(seen) == 10
        assert len(w.answers()) == 35
        assert [batch.total for batch in w.emulator.books().batches] == [10, 10, 10, 5]


async def test_calls_join_in_the_order_in_which_they_came() -> None:
    async with world(pool={"max_pending": 5}, pace=SLOW) as w:
        async with anyio.create_task_group() as tasks:
            for text in texts(12):
                tasks.start_soon(w.ask, text)
                await settled(3)
        order = list(w.settled)  # of a batch in any order
        assert [set(order[:5]), set(order[5:10]), set(order[10:])] == [
            set(texts(12)[start : start + 5]) for start in (0, 5, 10)
        ]


async def test_a_gather_of_many_does_not_keep_a_single_call_waiting() -> None:
    async with world(pool={"max_pending": 10}, pace=SLOW) as w, anyio.create_task_group() as tasks:

        async def many() -> None:
            await w.pool.gather([body(text) for text in texts(200)], endpoint=CHAT)

        tasks.start_soon(many)
        await anyio.sleep(10)
        start = anyio.current_time()
        await w.ask("single")
        assert anyio.current_time() - start < 300  # of the 1,500 that the others take
        assert w.pool.stats().accepted < 50


@pytest.mark.parametrize("way", ["map", "as_completed"])
async def test_a_stream_and_single_calls_take_turns(way: str) -> None:
    async with world(pool={"max_pending": 10}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        taken = 0

        async def stream() -> None:
            nonlocal taken
            async for outcome in getattr(w.pool, way)((body(text) for text in texts(100)), endpoint=CHAT):
                assert outcome.ok
                taken += 1

        tasks.start_soon(stream)
        await anyio.sleep(10)
        most = []
        for text in texts(5, "single"):
            start = anyio.current_time()
            await w.ask(text)
            most.append(anyio.current_time() - start)
            assert under_way(w.pool) <= 21  # a slice beside those that were asked to come
        assert max(most) < 300
        assert 0 < taken < 100
    assert taken == 100


async def test_single_calls_without_end_do_not_keep_a_stream_waiting() -> None:
    async with world(pool={"max_pending": 4}, pace=SLOW) as w, anyio.create_task_group() as tasks:

        async def again_and_again(name: str) -> None:
            for text in texts(1_000, name):
                await w.ask(text)

        for name in texts(12, "caller"):
            tasks.start_soon(again_and_again, name)
        await anyio.sleep(10)
        start = anyio.current_time()
        outcomes = [outcome async for outcome in w.pool.map([body("a"), body("b")], endpoint=CHAT)]
        assert [outcome.result().text for outcome in outcomes] == ["a", "b"]
        assert anyio.current_time() - start < 1_000
        tasks.cancel_scope.cancel()


async def test_who_streams_may_ask_single_calls_between_the_outcomes() -> None:
    """What was read and not taken is no room that a single call could wait for in vain."""
    async with world(pool={"max_pending": 1}, pace=SLOW) as w:
        got = []
        async for outcome in w.pool.map([body(text) for text in texts(5)], endpoint=CHAT):
            await w.ask(f"beside {outcome.index}")
            got.append(outcome.result().text)
        assert got == texts(5)
        assert len(w.answers()) == 5


async def test_bytes_that_wait_to_be_packed_are_bounded() -> None:
    """Also when there is room again: those in line come one by one."""
    text = "x" * 10_000
    settings = {"max_spool": 200_000, "limits": {"*": 60_000}, "counter": lambda *_: 10_000}
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, [f"{number}{text}" for number in range(15)])
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(w.ask_all, [f"later {number}{text}" for number in range(60)])
        most = 0
        while len(w.answers()) < 75:
            await anyio.sleep(5)
            most = max(most, sum(lane.waiting for lane in w.pool.stats().lanes))
            assert anyio.current_time() < 10_000
        assert 15 <= most <= 21 + 60  # the first burst is seen when it is there


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_leaves_the_line_is_taken_out_of_it(thread: bool) -> None:
    timing = carpool.Timing(linger=1_000, max_linger=1_000)
    async with Emulator() as emulator:
        pool = carpool.Pool("sk", emulator.url, max_pending=1, timing=timing, thread=thread, progress=False)
        await pool.start()
        async with anyio.create_task_group() as tasks:
            for text in texts(2_000):
                tasks.start_soon(pool.request, CHAT, body(text))
            while pool.stats().accepted < 1:
                await anyio.lowlevel.checkpoint()
            started = time.process_time()
            tasks.cancel_scope.cancel()
        assert pool.stats().accepted < 20  # who left in the pool may have let somebody in meanwhile
        assert time.process_time() - started < 5
        await pool.__aexit__(ValueError, ValueError(), None)


# --- in line


async def test_what_is_wrong_with_a_call_is_said_before_it_waits() -> None:
    async with world(pool={"max_pending": 1, "timing": PATIENT}) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "first")
        await anyio.sleep(1)
        with pytest.raises(carpool.Unbatchable), anyio.fail_after(0):
            await w.pool.request(CHAT, body(stream=True))
        await w.pool.flush()


@pytest.mark.parametrize("at_the_last_moment", [False, True])
async def test_who_leaves_the_line_leaves_no_hole(at_the_last_moment: bool) -> None:
    cancelling: list[Callable[[], None]] = []

    async def ask_first(w: World) -> None:
        await w.ask("first")
        for cancel in cancelling:  # whoever waits in line was just asked to come
            cancel()

    async with world(pool={"max_pending": 1}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(ask_first, w)
        await anyio.sleep(1)
        scope = anyio.CancelScope()

        async def leaves() -> None:
            with scope:
                await w.ask("leaves")

        tasks.start_soon(leaves)
        await anyio.sleep(1)
        tasks.start_soon(w.ask, "last")
        await anyio.sleep(1)
        if at_the_last_moment:
            cancelling.append(scope.cancel)
        else:
            scope.cancel()
    assert w.answers().keys() >= {"first", "last"}


@pytest.mark.parametrize("virtual_backend", ["asyncio"], indirect=True)
async def test_who_is_cancelled_when_just_asked_to_come_leaves_no_hole() -> None:
    """As by asyncio.TaskGroup and wait_for: anyio lets go on who is woken already."""
    async with world(pool={"max_pending": 1}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        going: list[asyncio.Task[None]] = []

        async def ask_first() -> None:
            await w.ask("first")
            going[0].cancel()

        tasks.start_soon(ask_first)
        await anyio.sleep(1)
        going.append(asyncio.create_task(w.ask("leaves")))
        await anyio.sleep(1)
        tasks.start_soon(w.ask, "last")
        await anyio.sleep(1_000)
        assert w.answers() == {"first": "first", "last": "last"}
        assert going[0].cancelled()


async def test_a_call_that_may_not_be_paid_leaves_its_room_to_the_next() -> None:
    prices = {"gpt-5-mini": {"input": 1e6, "output": 0}}
    settings = {"max_pending": 1, "budget": 10_000, "prices": prices, "counter": lambda *_: 1}
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "first")
        await anyio.sleep(1)
        tasks.start_soon(w.ask, "x" * 1_000_000)
        await anyio.sleep(1)
        tasks.start_soon(w.ask, "last")
        await anyio.sleep(1_000)
        assert w.answers().keys() == {"first", "last"}
        assert {type(error) for error in w.errors().values()} == {carpool.BudgetExceeded}


@pytest.mark.parametrize("leaving", ["normally", "by an exception"])
async def test_who_waits_when_the_pool_is_left_is_told(leaving: str) -> None:
    async with world(pool={"max_pending": 1}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(3))
        await anyio.sleep(1)
        if leaving == "normally":
            await w.pool.aclose()
        else:
            await w.pool.__aexit__(ValueError, ValueError(), None)
        await anyio.sleep(1)
        assert len(w.settled) == 3
        assert len(w.answers()) == (1 if leaving == "normally" else 0)
        assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}


async def test_calls_of_an_earlier_process_need_room_too(tmp_path: Any) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        for _ in range(2):
            async with at.open(max_pending=3) as w:
                await w.ask_all(texts(10))
                assert len(w.answers()) == 10
        assert set(at.emulator.books().bodies.values()) == {1}


@pytest.mark.parametrize(("escalate", "after"), [(None, 40), ("live", 30), ("flex", 20)])
async def test_a_call_in_line_has_its_time(escalate: Any, after: float) -> None:
    """It ends, or is sent live, as it would if it had not waited in line."""
    settings = {"max_pending": 1, "escalate": escalate}
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "first")
        await anyio.sleep(1)
        begin = anyio.current_time()
        with carpool.options(timeout=40):
            await w.ask("second")
        assert anyio.current_time() - begin == pytest.approx(after, abs=2)
    if escalate is None:
        error = w.errors()["second"]
        assert isinstance(error, carpool.RequestExpired)
        assert "in line" in str(error)
    else:
        assert w.answers() == {"first": "first", "second": "second"}


async def test_who_is_late_in_line_goes_and_others_stay_in_their_order() -> None:
    async with world(pool={"max_pending": 1}, pace=SLOW) as w, anyio.create_task_group() as tasks:

        async def hurry(text: str, timeout: float) -> None:
            with carpool.options(timeout=timeout):
                await w.ask(text)

        tasks.start_soon(w.ask, "first")
        await anyio.sleep(1)
        for text, timeout in (("a", 1_000), ("b", 20), ("c", 1_000), ("d", 10)):
            tasks.start_soon(hurry, text, timeout)
            await anyio.sleep(1)
        await anyio.sleep(30)
        assert list(w.errors()) == ["d", "b"]
        await anyio.sleep(300)
        assert list(w.answers()) == ["first", "a", "c"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("escalate", [None, "live"])
async def test_a_call_of_another_thread_in_line_has_its_time(escalate: Any) -> None:
    timing = carpool.Timing(linger=0.02, max_linger=0.1, poll_min=0.02, poll_max=0.05)
    settings: dict[str, Any] = {"max_pending": 1, "escalate": escalate, "timing": timing, "progress": False}
    async with Emulator(pace=Pace(running=600)) as emulator:
        pool = carpool.Pool("sk", emulator.url, thread=True, **settings)
        await pool.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.request, CHAT, body("first"))
            while pool.stats().accepted < 1:
                await anyio.lowlevel.checkpoint()
            asked = carpool.Request(CHAT, body("second"), timeout=1)
            with anyio.fail_after(20):
                if escalate:
                    assert (await pool.request(asked)).batch_id == ""
                else:
                    with pytest.raises(carpool.RequestExpired, match="in line"):
                        await pool.request(asked)
            tasks.cancel_scope.cancel()
        await pool.drain(0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("thread", [False, True])
async def test_what_waits_in_line_is_cancelled_too(thread: bool) -> None:
    outcomes: list[type] = []
    async with Emulator(pace=Pace(running=600)) as emulator:
        settings: dict[str, Any] = {"max_pending": 2, "timing": PATIENT, "progress": False, "thread": thread}
        async with carpool.Pool("sk", emulator.url, **settings) as pool:

            async def ask(text: str) -> None:
                try:
                    await pool.request(CHAT, body(text))
                except carpool.RequestCancelled as exc:
                    outcomes.append(type(exc))

            async with anyio.create_task_group() as tasks:
                for text in texts(20):
                    tasks.start_soon(ask, text)
                while pool.stats().accepted < 2:
                    await anyio.lowlevel.checkpoint()
                await settled(20)
                await pool.cancel()
            assert len(outcomes) == 20
            assert pool.stats().accepted == 2


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_was_just_asked_to_come_is_cancelled_too(thread: bool) -> None:
    """As where the rest is cancelled at the first answer."""
    timing = carpool.Timing(linger=0.02, max_linger=0.1, poll_min=0.02, poll_max=0.05)
    settings: dict[str, Any] = {"max_pending": 2, "timing": timing, "progress": False, "thread": thread}
    outcomes: list[object] = []
    async with Emulator() as emulator, carpool.Pool("sk", emulator.url, **settings) as pool:

        async def ask(text: str) -> None:
            try:
                outcomes.append((await pool.request(CHAT, body(text))).text)
            except carpool.RequestCancelled as exc:
                outcomes.append(type(exc))
            else:
                await pool.cancel()

        async with anyio.create_task_group() as tasks:
            for text in texts(6):
                tasks.start_soon(ask, text)
        assert sum(isinstance(outcome, str) for outcome in outcomes) <= 2
        assert len(outcomes) == 6
        assert sum(batch.total for batch in emulator.books().batches) == 2


def test_places_that_were_given_up_are_not_held() -> None:
    pending: list[int] = [0]
    admission = Admission(pending, 1, lambda: False, lambda: False, lambda: None, refuses=False)
    admission.enter(Place(lambda: None), by=10.0)
    for _ in range(5_000):
        place = Place(lambda: None)
        admission.enter(place, by=1e6)
        admission.leave(place)
    assert sum(isinstance(one, Place) for one in gc.get_objects()) < 100
    assert admission.deadline == 10.0


async def test_a_submission_in_line_is_cancelled_too(tmp_path: Any) -> None:
    cancelled: list[str] = []
    async with site(tmp_path, pace=SLOW) as at, at.open(max_spool=20_000, timing=PATIENT) as w:

        async def submit(text: str) -> None:
            try:
                await w.pool.submit(CHAT, body(text * 1_000), key=text)
            except carpool.RequestCancelled:
                cancelled.append(text)

        async with anyio.create_task_group() as tasks:
            for text in texts(30):
                tasks.start_soon(submit, text)
                await anyio.sleep(0.1)
            await w.pool.cancel()
        assert 0 < len(cancelled) < 30
        assert set(cancelled) == set(texts(30)[-len(cancelled) :])


# --- refusing


async def test_a_call_for_which_there_is_no_room_is_refused() -> None:
    async with world(pool={"max_pending": 3, "when_full": "refuse"}, pace=SLOW) as w:
        await w.ask_all(texts(5))
        assert len(w.answers()) == 3
        assert {type(error) for error in w.errors().values()} == {carpool.PoolFull}
        await w.ask("later")
        assert w.answers()["later"] == "later"
        got = await w.pool.gather([body(text) for text in texts(4)], endpoint=CHAT, return_exceptions=True)
        assert [type(one).__name__ for one in got] == ["Response"] * 3 + ["PoolFull"]
        outcomes = [outcome async for outcome in w.pool.map([body(text) for text in texts(10)], endpoint=CHAT)]
        assert all(outcome.ok for outcome in outcomes)  # a stream reads no further meanwhile


async def test_a_closed_pool_says_so_though_it_is_full() -> None:
    settings = {"max_pending": 1, "when_full": "refuse"}
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "text")
        await anyio.sleep(1)
        tasks.start_soon(w.pool.aclose)
        await anyio.sleep(1)
        with pytest.raises(carpool.PoolClosed):
            await w.pool.request(CHAT, body())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_is_told_to_ask_again() -> None:
    async with Emulator() as emulator:
        timing = carpool.Timing(linger=0.5, max_linger=0.5, poll_min=0.05, poll_max=0.1)
        settings: dict[str, Any] = {"max_pending": 1, "when_full": "refuse", "timing": timing, "progress": False}
        async with carpool.Pool("sk", emulator.url, **settings) as pool:
            client = pool.wrap(openai.AsyncOpenAI(api_key="sk", base_url=emulator.url, max_retries=0))
            asked = body()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.request, CHAT, body())
                await anyio.lowlevel.checkpoint()
                with pytest.raises(openai.RateLimitError) as caught:
                    await client.chat.completions.create(**asked)
            assert caught.value.response.headers["x-should-retry"] == "true"
            assert isinstance(carpool.error_of(caught.value), carpool.PoolFull)
            await client.with_options(max_retries=5).chat.completions.create(**asked)


@pytest.mark.parametrize("wrong", ["", None, "block", 1])
def test_what_becomes_of_calls_without_room_is_one_of_two(wrong: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="when_full"):
        carpool.Pool("sk", when_full=wrong)


# --- from other threads


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_refusals_make_no_room_for_calls_of_other_threads() -> None:
    timing = carpool.Timing(linger=1_000, max_linger=1_000)
    settings: dict[str, Any] = {"max_pending": 3, "when_full": "refuse", "timing": timing, "progress": False}
    refused = 0
    async with Emulator() as emulator:
        pool = carpool.Pool("sk", emulator.url, thread=True, **settings)
        await pool.start()

        async def ask(text: str) -> None:
            nonlocal refused
            try:
                await pool.request(CHAT, body(text))
            except carpool.PoolFull:
                refused += 1

        async with anyio.create_task_group() as tasks:
            for turn in range(1, 6):
                for text in texts(10, f"{turn}"):
                    tasks.start_soon(ask, text)
                while refused < 10 * turn - 3:
                    await anyio.lowlevel.checkpoint()
                assert pool.stats().accepted == 3
            tasks.cancel_scope.cancel()
        await pool.drain(0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("when_full", ["wait", "refuse"])
async def test_calls_of_other_threads_wait_or_are_refused(when_full: Any) -> None:
    outcomes: list[object] = []
    timing = carpool.Timing(linger=0.05, max_linger=0.1, poll_min=0.02, poll_max=0.05)
    settings: dict[str, Any] = {"max_pending": 2, "when_full": when_full, "timing": timing, "progress": False}
    async with Emulator() as emulator:
        with carpool.Pool("sk", emulator.url, **settings) as pool:
            client = pool.wrap(openai.OpenAI(api_key="sk", base_url=emulator.url, max_retries=0))

            def ask(text: str) -> None:
                try:
                    outcomes.append(client.chat.completions.create(**body(text)).choices[0].message.content)
                except openai.APIStatusError as exc:
                    outcomes.append(type(carpool.error_of(exc)))

            threads = [threading.Thread(target=ask, args=(text,)) for text in texts(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await anyio.to_thread.run_sync(thread.join)
            if when_full == "wait":
                assert sorted(map(str, outcomes)) == sorted(texts(12))
            else:
                assert set(map(type, outcomes)) == {str, type}
                assert {one for one in outcomes if not isinstance(one, str)} == {carpool.PoolFull}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_thread_is_told_when_the_pool_is_left() -> None:
    """See `test_who_waits_when_the_pool_is_left_is_told`; here over the bridge."""
    async with Emulator(pace=Pace(running=30)) as emulator:
        pool = carpool.Pool("sk", emulator.url, max_pending=1, thread=True, progress=False)
        await pool.start()
        errors: list[BaseException] = []

        async def ask(text: str) -> None:
            try:
                await pool.request(CHAT, body(text))
            except carpool.PoolClosed as exc:
                errors.append(exc)

        async with anyio.create_task_group() as tasks:
            for text in texts(5):
                tasks.start_soon(ask, text)
            while pool.stats().accepted < 1:
                await anyio.lowlevel.checkpoint()
            await pool.__aexit__(ValueError, ValueError(), None)
        assert len(errors) == 5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_gather_of_another_loop_is_bounded_and_none_costs_a_thread() -> None:
    timing = carpool.Timing(linger=0.05, max_linger=0.1, poll_min=0.02, poll_max=0.05)
    settings: dict[str, Any] = {"max_pending": 500, "timing": timing, "progress": False, "thread": True}
    async with Emulator() as emulator, carpool.Pool("sk", emulator.url, **settings) as pool:
        made, before = 0, threading.active_count()

        def bodies() -> Iterator[dict[str, Any]]:
            nonlocal made
            for text in texts(6_000):
                made += 1
                assert made <= pool.stats().answered + 500 + 1_000 + 1_500  # in the pool, in line, and on the way
                yield body(text)

        responses = await pool.gather(bodies(), endpoint=CHAT)
        assert [response.text for response in responses] == texts(6_000)
        assert threading.active_count() <= before + 8


@pytest.mark.parametrize("when_full", ["wait", "refuse"])
async def test_what_is_submitted_waits_for_room_on_disk(tmp_path: Any, when_full: Any) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open(max_spool=20_000, when_full=when_full, timing=PATIENT) as w:
        ids, refused = [], 0
        async with anyio.create_task_group() as tasks:

            async def submit(text: str) -> None:
                nonlocal refused
                try:
                    ids.append(await w.pool.submit(CHAT, body(text * 1_000), key=text))
                except carpool.PoolFull:
                    refused += 1

            for text in texts(30):
                tasks.start_soon(submit, text)
                await anyio.sleep(0.1)
            assert 0 < len(ids) < 30
            await w.pool.flush()
            while len(ids) + refused < 30:
                await anyio.sleep(10)
                await w.pool.flush()
        assert (refused == 0) == (when_full == "wait")
        assert len(set(ids)) + refused == 30
