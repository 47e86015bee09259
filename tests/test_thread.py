"""A pool in a thread of its own, over real sockets: used from any event loop and any thread, and gone at the end."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import httpx2
import pytest
import trio
import uvloop
from virtual import CHAT, body

import carpool
from carpool.settings import Ports
from carpool.testing import Emulator, Pace

T = TypeVar("T")
Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]

FAST = carpool.Timing(linger=0.05, poll_min=0.02, poll_max=0.05, lookup=0.3)
LONG = Pace(running=600)


def run_asyncio(func: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(func())


def run_uvloop(func: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(func())


def run_trio(func: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return trio.run(func)


RUNS: list[Run] = [run_asyncio, run_uvloop, run_trio]
every_loop = pytest.mark.parametrize("run", RUNS)
both_kinds = pytest.mark.parametrize("run", [run_uvloop, run_trio])


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as served:
        yield served


def texts(count: int, of: str = "text") -> list[str]:
    return [f"{of} {number}" for number in range(count)]


def pool_at(emulator: Emulator, **settings: Any) -> carpool.Pool:
    return carpool.Pool("any", emulator.url, timing=settings.pop("timing", FAST), **settings)


async def ask_all(pool: carpool.Pool, wanted: list[str]) -> dict[str, str]:
    """Await one call for each text, each from a task of its own."""
    answers: dict[str, str] = {}

    async def ask(text: str) -> None:
        answers[text] = (await pool.request(CHAT, body(text))).text

    async with anyio.create_task_group() as tasks:
        for text in wanted:
            tasks.start_soon(ask, text)
    return answers


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - no event reaches from there into any event loop
            await anyio.sleep(0.005)


def wait_until(condition: Callable[[], object]) -> None:
    anyio.run(until, condition)


def carpool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "carpool"]


def submitted(emulator: Emulator) -> bool:
    return bool(emulator.books().batches)


# --- from event loops


@every_loop
def test_every_door_works_from_an_event_loop_of_each_kind(run: Run, emulator: Emulator) -> None:
    async def use() -> None:
        pool = pool_at(emulator, thread=True, timing=carpool.Timing(linger=100, max_linger=100, poll_min=0.05))
        async with pool:
            asked: list[carpool.Response] = []
            gathered: list[carpool.Response | carpool.CarpoolError] = []

            async def ask() -> None:
                asked.append(await pool.request(carpool.Request(CHAT, body("one"))))

            async def gather() -> None:
                bodies = [body(text) for text in texts(1_200)]
                gathered.extend(await pool.gather([*bodies, {"model": ""}], endpoint=CHAT, return_exceptions=True))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                tasks.start_soon(gather)
                await until(lambda: pool.stats().accepted == 1_201)
                assert [lane.waiting for lane in pool.stats().lanes] == [1_201]
                await pool.flush()
            assert isinstance(gathered.pop(), carpool.Unbatchable)
            assert [r.text for r in gathered if isinstance(r, carpool.Response)] == texts(1_200)
            assert [r.text for r in asked] == ["one"]
            assert pool.stats().answered == 1_201
            line = "open, 1,201 accepted, 1,201 answered, 0 failed, 0 waiting, 0 in flight, 1 batch"
            assert repr(pool) == f"<Pool for {emulator.url}: {line}>"
        assert ": closed, " in repr(pool)
        assert pool.stats().answered == 1_201
        with pytest.raises(carpool.PoolClosed):
            await pool.request(CHAT, body())

    run(use)


def test_many_loops_in_many_threads_ride_together(emulator: Emulator) -> None:
    async def use(pool: carpool.Pool, of: str, ready: threading.Barrier) -> dict[str, str]:
        ready.wait()
        return await ask_all(pool, texts(700, of))

    with pool_at(emulator, timing=carpool.Timing(linger=0.5, poll_min=0.05)) as pool, ThreadPoolExecutor(6) as threads:
        ready = threading.Barrier(6)
        runs = [run for run in RUNS for _ in range(2)]
        jobs = [threads.submit(run, partial(use, pool, f"loop {n}", ready)) for n, run in enumerate(runs)]
        answers = [job.result() for job in jobs]
    for number, given in enumerate(answers):
        assert given == {text: text for text in texts(700, f"loop {number}")}
    books = emulator.books()
    assert set(books.bodies.values()) == {1}
    assert sum(batch.total for batch in books.batches) == 4_200
    assert len(books.batches) <= 3


def test_a_pool_outlives_the_event_loops_that_use_it(emulator: Emulator) -> None:
    pool = pool_at(emulator, thread=True)
    asyncio.run(pool.start())
    for run in RUNS:
        assert run(partial(ask_all, pool, ["one", "two"])) == {"one": "one", "two": "two"}
    run_trio(pool.aclose)
    assert carpool_threads() == []


def test_loops_and_blocking_threads_ride_together(emulator: Emulator) -> None:
    with pool_at(emulator) as pool, pool.http_client(sync=True) as client, ThreadPoolExecutor(30) as threads:
        jobs = [threads.submit(post, client, emulator, text) for text in texts(30, "blocking")]
        assert asyncio.run(ask_all(pool, texts(300))) == {text: text for text in texts(300)}
        assert [job.result() for job in jobs] == texts(30, "blocking")
    assert len(emulator.books().batches) <= 3


def post(client: httpx2.Client, emulator: Emulator, text: str) -> str:
    response = client.post(f"{emulator.url}/chat/completions", json=body(text), headers={"authorization": "Bearer any"})
    if response.status_code != 200:
        error = carpool.error_of(httpx2.HTTPStatusError("no", request=response.request, response=response))
        assert error is not None, response.text
        raise error
    return str(response.json()["choices"][0]["message"]["content"])


@both_kinds
def test_an_order_of_calls_and_a_flush_is_kept(run: Run, emulator: Emulator) -> None:
    """What was asked before a flush goes with it, though both cross into another thread."""

    async def use() -> None:
        timing = carpool.Timing(linger=100, max_linger=100, poll_min=0.05)
        async with pool_at(emulator, thread=True, timing=timing) as pool, anyio.create_task_group() as tasks:
            for text in texts(3):
                tasks.start_soon(partial(pool.request, CHAT, body(text)))
                await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            await pool.flush()

    run(use)
    assert len(emulator.books().batches) == 1


def test_a_plain_context_manager_needs_no_event_loop(emulator: Emulator) -> None:
    with pool_at(emulator) as pool, pool.http_client(sync=True) as client:
        assert post(client, emulator, "hello") == "hello"
        assert pool.stats().answered == 1
        assert len(carpool_threads()) == 1
    assert carpool_threads() == []
    with pytest.raises(carpool.PoolClosed):
        post(client, emulator, "late")


def test_a_plain_context_manager_waits_for_what_is_under_way(emulator: Emulator) -> None:
    with ThreadPoolExecutor(1) as threads:
        with pool_at(emulator, timing=carpool.Timing(linger=100, max_linger=100, poll_min=0.05)) as pool:
            job = threads.submit(asyncio.run, ask_all(pool, ["one"]))
            wait_until(lambda: pool.stats().accepted)
        assert job.result() == {"one": "one"}


def test_a_pool_opens_once(emulator: Emulator) -> None:
    with pool_at(emulator) as pool:
        with pytest.raises(carpool.PoolClosed, match="once"):
            pool.__enter__()
        with pytest.raises(carpool.PoolClosed, match="once"):
            asyncio.run(pool.start())
    assert carpool_threads() == []


@pytest.mark.parametrize("thread", [False, True])
def test_closing_twice_does_no_harm(thread: bool, emulator: Emulator) -> None:
    async def use() -> None:
        pool = pool_at(emulator, thread=thread)
        await pool.start()
        await pool.request(CHAT, body())
        await pool.aclose()
        await pool.aclose()

    asyncio.run(use())
    assert carpool_threads() == []


@pytest.mark.parametrize("thread", [False, True])
def test_two_tasks_that_close_at_once_both_wait_for_every_caller(thread: bool, emulator: Emulator) -> None:
    async def use() -> None:
        pool = pool_at(emulator, thread=thread)
        await pool.start()
        async with anyio.create_task_group() as tasks:
            answers: list[carpool.Response] = []

            async def ask() -> None:
                answers.append(await pool.request(CHAT, body()))

            async def close() -> None:
                await pool.aclose()
                assert len(answers) == 1

            tasks.start_soon(ask)
            await until(lambda: pool.stats().accepted)
            tasks.start_soon(close)
            tasks.start_soon(close)

    asyncio.run(use())


# --- leaving


class Left(Exception):
    """Leave a pool by an exception."""


def collect(pool: carpool.Pool, text: str, outcomes: list[object]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Make a caller that keeps what it is given."""

    async def ask() -> None:
        try:
            outcomes.append((await pool.request(CHAT, body(text))).text)
        except carpool.CarpoolError as exc:
            outcomes.append(exc)

    return ask


@both_kinds
def test_a_body_that_raises_settles_callers_everywhere_and_cancels_batches(run: Run) -> None:
    outcomes: list[object] = []

    async def use(emulator: Emulator) -> None:
        async with anyio.create_task_group() as tasks:
            with contextlib.suppress(Left):
                async with pool_at(emulator, thread=True) as pool:
                    tasks.start_soon(collect(pool, "here", outcomes))
                    for run_elsewhere in RUNS:
                        tasks.start_soon(anyio.to_thread.run_sync, run_elsewhere, collect(pool, "there", outcomes))
                    await until(lambda: pool.stats().accepted == 4 and submitted(emulator))
                    raise Left

    with Emulator(pace=LONG) as emulator:
        run(partial(use, emulator))
        assert carpool_threads() == []
        assert {batch.status for batch in emulator.books().batches} == {"cancelled"}
    assert [type(outcome) for outcome in outcomes] == [carpool.PoolClosed] * 4


def test_a_plain_body_that_raises_settles_callers_and_cancels_batches() -> None:
    outcomes: list[object] = []
    with Emulator(pace=LONG) as emulator, ThreadPoolExecutor(3) as threads:
        with contextlib.suppress(Left), pool_at(emulator) as pool:
            jobs = [threads.submit(run, collect(pool, "text", outcomes)) for run in RUNS]
            wait_until(lambda: submitted(emulator))
            raise Left
        assert carpool_threads() == []
        assert {batch.status for batch in emulator.books().batches} == {"cancelled"}
        for job in jobs:
            job.result()
    assert [type(outcome) for outcome in outcomes] == [carpool.PoolClosed] * 3


@both_kinds
def test_closing_that_is_cancelled_half_way_leaves_as_by_an_exception(run: Run) -> None:
    outcomes: list[object] = []

    async def use(emulator: Emulator) -> None:
        pool = pool_at(emulator, thread=True)
        await pool.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect(pool, "text", outcomes))
            await until(lambda: submitted(emulator))
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel_when, scope, lambda: ": draining, " in repr(pool))
                await pool.aclose()
            assert scope.cancelled_caught

    with Emulator(pace=LONG) as emulator:
        run(partial(use, emulator))
        assert carpool_threads() == []
        assert {batch.status for batch in emulator.books().batches} == {"cancelled"}
    assert [type(outcome) for outcome in outcomes] == [carpool.PoolClosed]


async def cancel_when(scope: anyio.CancelScope, condition: Callable[[], object]) -> None:
    await until(condition)
    scope.cancel()


@both_kinds
def test_a_start_that_is_cancelled_half_way_leaves_no_thread(run: Run, emulator: Emulator) -> None:
    async def use(seconds: float) -> None:
        pool = pool_at(emulator, thread=True, mode="batch")
        with anyio.move_on_after(seconds) as scope:
            await pool.start()
        assert scope.cancelled_caught is ("not open" in repr(pool))
        if not scope.cancelled_caught:
            await pool.aclose()

    for number in range(6):
        run(partial(use, number * 0.002))
        assert carpool_threads() == []


class Silent(httpx2.AsyncBaseTransport):
    """Never answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError


@both_kinds
def test_a_start_that_waits_for_the_provider_can_be_cancelled(run: Run, tmp_path: Path) -> None:
    """With another key than the last time it is asked whether that one knows the batches that are under way."""

    async def leave(emulator: Emulator) -> None:
        with contextlib.suppress(Left):
            async with anyio.create_task_group() as tasks, pool_at(emulator, journal=tmp_path, thread=True) as pool:
                tasks.start_soon(collect(pool, "text", []))
                await until(lambda: pool.stats().batches)
                raise Left

    async def start(pool: carpool.Pool) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_when, scope, silent.asked.is_set)
                await pool.start()
        assert scope.cancelled_caught

    silent = Silent()
    with Emulator(pace=LONG) as emulator:
        with contextlib.suppress(ExceptionGroup):
            run(partial(leave, emulator))
        ports = Ports(transport=silent)
        run(partial(start, carpool.Pool("other", emulator.url, journal=tmp_path, thread=True, _ports=ports)))
    assert carpool_threads() == []


@pytest.mark.parametrize("plain", [False, True])
def test_a_journal_that_cannot_be_opened_leaves_no_thread(plain: bool, tmp_path: Path, emulator: Emulator) -> None:
    (tmp_path / "file").write_text("no folder")
    pool = pool_at(emulator, thread=True, journal=tmp_path / "file")
    with pytest.raises(carpool.JournalError):
        pool.__enter__() if plain else asyncio.run(pool.start())
    assert carpool_threads() == []
    with pytest.raises(carpool.PoolClosed):
        asyncio.run(pool.request(CHAT, body()))


def test_a_journal_that_is_in_use_elsewhere_leaves_no_thread(tmp_path: Path, emulator: Emulator) -> None:
    with pool_at(emulator, journal=tmp_path / "journal"):
        try:
            with pool_at(emulator, journal=tmp_path / "journal"):
                assert len(carpool_threads()) == 2
        except carpool.JournalError:
            pass
        assert len(carpool_threads()) == 1


@both_kinds
def test_a_callers_loop_that_ends_while_its_call_is_under_way_harms_nobody(run: Run) -> None:
    async def leave(pool: carpool.Pool) -> None:
        async with anyio.create_task_group() as tasks:
            for text in texts(20, "gone"):
                tasks.start_soon(pool.request, CHAT, body(text))
            await until(lambda: pool.stats().batches)
            tasks.cancel_scope.cancel()

    with Emulator(pace=Pace(running=0.2)) as emulator, pool_at(emulator) as pool, ThreadPoolExecutor(1) as threads:
        others = threads.submit(asyncio.run, ask_all(pool, texts(20)))
        run(partial(leave, pool))
        assert others.result() == {text: text for text in texts(20)}


@pytest.mark.parametrize("closed", [False, True])
def test_an_event_loop_that_stops_without_a_word_harms_nobody(closed: bool) -> None:
    """Its tasks are not cancelled; it may be closed then, or go on later, as in a notebook."""
    with Emulator(pace=Pace(running=0.2)) as emulator, pool_at(emulator) as pool:
        loop = asyncio.new_event_loop()
        task = loop.create_task(ask_all(pool, texts(20)))
        loop.run_until_complete(until(lambda: pool.stats().batches))
        if closed:
            loop.close()
        assert asyncio.run(ask_all(pool, ["other"])) == {"other": "other"}
        wait_until(lambda: pool.stats().answered == 21)
        if not closed:
            assert loop.run_until_complete(task) == {text: text for text in texts(20)}
            loop.close()
        else:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - that is what we do here


def test_calls_that_race_with_the_end_are_answered_or_refused(emulator: Emulator) -> None:
    """From hundreds of threads, some with an event loop and some without; and the other doors beside them."""
    outcomes: list[object] = []
    ready = threading.Barrier(241)

    def ask(number: int) -> None:
        ready.wait()
        if number % 3:
            for n in range(4):
                try:
                    outcomes.append(post(client, emulator, f"{number}-{n}") == f"{number}-{n}")
                except carpool.CarpoolError as exc:
                    outcomes.append(exc)
            return
        got: list[object] = []
        run = RUNS[number % len(RUNS)]
        for n in range(4):
            run(collect(pool, f"{number}-{n}", got))
            outcomes.append(got[-1] if isinstance(got[-1], Exception) else got[-1] == f"{number}-{n}")

    def look() -> None:
        ready.wait()
        while not over.is_set():
            pool.stats()
            repr(pool)
            try:
                run_asyncio(pool.flush)
            except carpool.PoolClosed:
                return

    over = threading.Event()
    with ThreadPoolExecutor(241) as threads, pool_at(emulator).http_client(sync=True) as client:
        with pool_at(emulator, timing=carpool.Timing(linger=0.01, poll_min=0.01)) as pool:
            client = pool.http_client(sync=True)
            jobs = [threads.submit(ask, number) for number in range(230)]
            jobs += [threads.submit(look) for _ in range(10)]
            ready.wait()
            wait_until(lambda: pool.stats().answered > 20)
        over.set()
        for job in jobs:
            job.result(timeout=20)
    assert len(outcomes) == 4 * 230
    assert {type(outcome) for outcome in outcomes} == {bool, carpool.PoolClosed}
    assert all(outcome is True for outcome in outcomes if isinstance(outcome, bool))


def test_stats_are_given_at_any_moment_of_the_end(emulator: Emulator) -> None:
    """Its thread ends in between: neither does anybody hang, nor hear of it."""

    def look(pool: carpool.Pool) -> int:
        looked = 0
        while not over.is_set():
            assert pool.stats().accepted == 0
            looked += 1
        return looked

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            over = threading.Event()
            with pool_at(emulator) as pool:
                jobs = [threads.submit(look, pool) for _ in range(4)]
                assert pool.stats().accepted == 0
            over.set()
            for job in jobs:
                job.result(timeout=5)


def test_the_key_may_be_a_function_that_looks_at_the_pool(emulator: Emulator) -> None:
    """It runs in the pool's own thread."""
    seen: list[int] = []

    def key() -> str:
        seen.append(pool.stats().accepted)
        return "any"

    pool = carpool.Pool(key, emulator.url, timing=FAST, thread=True)

    async def use() -> None:
        async with pool:
            with anyio.fail_after(5):
                await pool.request(CHAT, body())

    asyncio.run(use())
    assert seen[0] == 1


# --- programs that end


_FORGOTTEN = """
import anyio, asyncio, logging, sys, trio
import carpool

logging.disable()
kind, url = sys.argv[1:]
timing = carpool.Timing(linger=0.05, poll_min=0.05)
pool = carpool.Pool("any", url, timing=timing, thread=True)
body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

async def use():
    await pool.start()
    if kind == "busy":
        with anyio.move_on_after(0.5):
            await asyncio.gather(*(pool.request("/v1/chat/completions", body) for _ in range(100)))
    elif kind == "used":
        print((await pool.request("/v1/chat/completions", body)).text)

trio.run(pool.start) if kind == "trio" else asyncio.run(use())
print("end")
"""


@pytest.mark.parametrize("kind", ["used", "busy", "trio"])
def test_a_forgotten_pool_lets_the_program_end_and_leaves_no_folder(kind: str) -> None:
    with Emulator(pace=LONG if kind == "busy" else Pace()) as emulator:
        assert run_script(_FORGOTTEN, kind, emulator.url).split() == (["hi", "end"] if kind == "used" else ["end"])


_FORKED = """
import os, signal, sys, traceback, warnings
import carpool

warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # from Python 3.12 on: that is tried here
pool = carpool.Pool("any", sys.argv[1])
with pool:
    if os.fork() == 0:
        signal.alarm(10)  # ends the child where it would wait for ever
        try:
            pool.stats()
        except carpool.PoolClosed as exc:
            print("another process" in str(exc), flush=True)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        print(pool.http_client(sync=True).post(sys.argv[1] + "/chat/completions", json=body).status_code, flush=True)
        pool.__exit__(None, None, None)
        os._exit(0)
    os.wait()
print("end")
"""


def test_a_forked_process_is_told_that_the_pool_is_not_its_own() -> None:
    with Emulator() as emulator:
        assert run_script(_FORKED, emulator.url).split() == ["True", "410", "end"]


_FORKED_FROM_A_LOOP = """
import asyncio, os, signal, sys, threading
import carpool

pool = carpool.Pool("any", sys.argv[1])

def ask():
    try:
        asyncio.run(pool.request("/v1/chat/completions", {"model": "m", "messages": []}))
    except carpool.PoolClosed as exc:
        print("another process" in str(exc), flush=True)

async def main():
    async with pool:
        if os.fork() == 0:
            signal.alarm(10)  # ends the child where it would wait for ever
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            os._exit(0)
        os.wait()

asyncio.run(main())
print("end")
"""


def test_a_process_that_is_forked_from_an_event_loop_is_told_so_too() -> None:
    with Emulator() as emulator:
        assert run_script(_FORKED_FROM_A_LOOP, emulator.url).split() == ["True", "end"]


_INTERRUPTED = """
import logging, os, signal, sys, threading, time
import carpool

logging.disable()
kind, url = sys.argv[1:]
timing = carpool.Timing(linger=0.05, poll_min=0.05)
body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

def interrupt(pool):
    while not pool.stats().batches:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

caught = False
try:
    with carpool.Pool("any", url, timing=timing) as pool:
        client = pool.http_client(sync=True)
        killer = threading.Thread(target=interrupt, args=[pool])
        killer.start()
        if kind == "closing":
            def ask():
                print(client.post(f"{url}/chat/completions", json=body).status_code)
            other = threading.Thread(target=ask)
            other.start()
            while not pool.stats().accepted:
                time.sleep(0.01)
        else:
            try:
                client.post(f"{url}/chat/completions", json=body)
            except KeyboardInterrupt:
                print("caller")
                if kind == "body":
                    raise
except KeyboardInterrupt:
    print("pool")
killer.join()
if kind == "closing":
    other.join()
print([thread.name for thread in threading.enumerate() if thread.name.startswith("carpool")])
"""


@pytest.mark.parametrize(("kind", "said"), [("caller", "caller"), ("body", "caller pool"), ("closing", "410 pool")])
def test_a_keyboard_interrupt_ends_what_blocks_and_its_batches(kind: str, said: str) -> None:
    """While a caller blocks, whose program goes on or leaves the pool; while leaving the pool blocks."""
    with Emulator(pace=LONG) as emulator:
        output = run_script(_INTERRUPTED, kind, emulator.url).splitlines()
        assert {batch.status for batch in emulator.books().batches} <= {"cancelling", "cancelled"}
    assert sorted(output[:-1]) == said.split()
    assert output[-1] == "[]"


# --- without a thread of its own


@both_kinds
def test_from_another_loop_a_pool_without_a_thread_names_the_setting(run: Run, emulator: Emulator) -> None:
    async def use() -> None:
        async with pool_at(emulator) as pool:

            async def elsewhere() -> None:
                for call in (partial(pool.request, CHAT, body()), pool.flush):
                    with pytest.raises(carpool.ConfigurationError, match="thread=True"):
                        await call()
                (outcome,) = await pool.gather([body()], endpoint=CHAT, return_exceptions=True)
                assert isinstance(outcome, carpool.ConfigurationError)

            for run_elsewhere in RUNS:
                await anyio.to_thread.run_sync(run_elsewhere, elsewhere)
            with pytest.raises(carpool.ConfigurationError, match="thread=True"):
                await anyio.to_thread.run_sync(pool.stats)
            assert (await pool.request(CHAT, body("here"))).text == "here"

    run(use)
    assert set(emulator.books().bodies.values()) == {1}


@both_kinds
def test_from_another_loop_a_pool_without_a_thread_cannot_be_closed(run: Run, emulator: Emulator) -> None:
    errors: list[BaseException] = []

    async def use() -> None:
        async with pool_at(emulator) as pool:

            def close_elsewhere() -> None:
                try:
                    run(pool.aclose)
                except BaseException as exc:  # noqa: BLE001 - it is looked at
                    errors.append(exc)

            thread = threading.Thread(target=close_elsewhere, daemon=True)
            thread.start()
            await until(lambda: not thread.is_alive())
            assert (await pool.request(CHAT, body("here"))).text == "here"

    run(use)
    assert isinstance(errors[0], carpool.ConfigurationError)
    assert "thread=True" in str(errors[0])


@both_kinds
def test_where_its_loop_is_over_a_pool_without_a_thread_is_closed(run: Run, emulator: Emulator) -> None:
    pool = pool_at(emulator)
    run(pool.start)
    for run_elsewhere in RUNS:
        with pytest.raises(carpool.PoolClosed):
            run_elsewhere(partial(pool.request, CHAT, body()))
    with pool.http_client(sync=True) as client, pytest.raises(carpool.PoolClosed):
        post(client, emulator, "late")
    assert not emulator.books().bodies


@pytest.mark.parametrize("sync", [False, True])
def test_a_pool_that_is_not_open_says_so(sync: bool, emulator: Emulator) -> None:
    pool = pool_at(emulator, thread=True)
    ask = partial(pool.request, CHAT, body())
    with pytest.raises(carpool.PoolClosed, match="not open"):
        post(pool.http_client(sync=True), emulator, "early") if sync else asyncio.run(ask())


# --- blocking callers


@both_kinds
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_blocking_call_needs_a_pool_with_a_thread(elsewhere: bool, run: Run, emulator: Emulator) -> None:
    """On the pool's own loop it would wait for ever; in a worker thread it may hold what that loop needs."""

    async def use() -> None:
        async with pool_at(emulator) as pool:
            client = pool.http_client(sync=True)
            ask = partial(post, client, emulator, "text")
            with pytest.raises(carpool.ConfigurationError, match="thread=True"):
                await anyio.to_thread.run_sync(ask) if elsewhere else ask()

    run(use)
    assert not emulator.books().bodies


_BLOCKED = """
import anyio, asyncio, logging, sys, trio
import carpool

logging.disable()

async def use():
    kind, url = sys.argv[1:]
    in_thread = asyncio.to_thread if kind == "executor" else anyio.to_thread.run_sync
    timing = carpool.Timing(linger=0.05, poll_min=0.02)
    async with carpool.Pool("any", url, timing=timing, thread=True) as pool, anyio.create_task_group() as tasks:
        client = pool.http_client(sync=True)
        def ask(number):
            body = {"model": "m", "messages": [{"role": "user", "content": str(number)}]}
            response = client.post(f"{url}/chat/completions", json=body)
            assert response.json()["choices"][0]["message"]["content"] == str(number)
        for number in range(45):
            tasks.start_soon(in_thread, ask, number)
    print(pool.stats().answered)

if sys.argv[1] == "trio":
    trio.run(use)
else:
    asyncio.run(use())
"""


@pytest.mark.parametrize("kind", ["executor", "trio"])
def test_more_blocked_threads_than_there_are_by_default_do_not_stall_the_pool(kind: str, emulator: Emulator) -> None:
    """Also while the provider's name is still to be looked up, for which event loops take such a thread."""
    assert run_script(_BLOCKED, kind, emulator.url.replace("127.0.0.1", "localhost")) == "45"


def run_script(script: str, *args: str) -> str:
    """Run a program to its end; gives what it printed."""
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


# --- draining


@every_loop
def test_a_pool_in_a_thread_is_drained_from_any_loop(run: Run, tmp_path: Path) -> None:
    """Its callers, in other loops and in blocking threads, are told; the next one has what they did not get."""
    journal = tmp_path / "journal"
    with Emulator(pace=Pace(tokens_per_second=20)) as long, ThreadPoolExecutor(3) as threads:
        pool = pool_at(long, thread=True, journal=journal, reuse="undelivered")
        anyio.run(pool.start)
        client = pool.http_client(sync=True)
        blocking = threads.submit(post, client, long, "slow " * 400)
        gathering = threads.submit(run_asyncio, partial(gather, pool, "short", "slow " * 500))
        wait_until(lambda: pool.stats().answered == 1)
        run(partial(pool.drain, 0.1))
        assert carpool_threads() == []
        for job in (blocking, gathering):
            with pytest.raises(carpool.PoolClosed, match="drained"):
                job.result()
        run(pool.aclose)
        long_ids = {batch.id for batch in long.books().batches}

        async def again() -> list[str]:
            async with pool_at(long, journal=journal, reuse="undelivered") as next_pool:
                return [await ask(next_pool, "short")]

        assert run_asyncio(again) == ["short"]
        assert {batch.id for batch in long.books().batches} == long_ids


async def gather(pool: carpool.Pool, *wanted: str) -> None:
    """Ask for texts, each by a model of its own, and so in a batch of its own."""
    await pool.gather([body(text, model=f"model-{n}") for n, text in enumerate(wanted)], endpoint=CHAT)


async def ask(pool: carpool.Pool, text: str) -> str:
    """Ask as `gather` does for its first text."""
    return (await pool.request(CHAT, body(text, model="model-0"))).text


def test_a_plain_block_may_end_after_its_pool_was_drained(emulator: Emulator) -> None:
    with pool_at(emulator) as pool:
        with pool.http_client(sync=True) as client:
            assert post(client, emulator, "hello") == "hello"
        asyncio.run(pool.drain(5))
        assert carpool_threads() == []
        asyncio.run(pool.drain())
    with pytest.raises(carpool.PoolClosed):
        asyncio.run(pool.request(CHAT, body()))
