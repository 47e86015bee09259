"""The whole way over real sockets: pool and emulator, each with a thread of its own."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from virtual import CHAT, body

import carpool
from carpool.testing import Emulator, Faults, Pace

FAST = carpool.Timing(linger=0.05, poll_min=0.05, poll_max=0.2, lookup=0.3)
ROOT = Path(__file__).parent.parent


async def ask(pool: carpool.Pool, text: str, answers: dict[str, str]) -> None:
    answers[text] = (await pool.request(CHAT, body(text))).text


async def ask_all(pool: carpool.Pool, count: int) -> dict[str, str]:
    answers: dict[str, str] = {}
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(ask, pool, f"text {number}", answers)
    return answers


@pytest.mark.anyio
@pytest.mark.usefixtures("no_tasks_left")
async def test_thousands_of_tasks_hold_their_own_answers() -> None:
    async with Emulator(api_key="sk-1") as emulator:
        async with carpool.Pool("sk-1", emulator.url, timing=FAST) as pool:
            answers = await ask_all(pool, 5_000)
        books = emulator.books()
    assert answers == {f"text {number}": f"text {number}" for number in range(5_000)}
    assert len(books.batches) == 1
    assert books.files == ()
    assert books.live == 0


@pytest.mark.anyio
@pytest.mark.usefixtures("no_tasks_left")
async def test_leaving_by_an_exception_does_not_wait_for_a_slow_counter() -> None:
    counting = threading.Event()

    def counter(endpoint: str, model: str, given: bytes) -> int:
        counting.set()
        time.sleep(0.05)  # 2,000 of them would take 100 s
        return 1

    async def leave(url: str) -> None:
        async with (
            carpool.Pool("any", url, timing=FAST, limits={"*": 100}, counter=counter) as pool,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(partial(pool.gather, [body("text")] * 2_000, endpoint=CHAT))
            await anyio.to_thread.run_sync(counting.wait)
            raise RuntimeError

    async with Emulator() as emulator:
        start = time.perf_counter()
        with pytest.raises(ExceptionGroup):
            await leave(emulator.url)
        assert time.perf_counter() - start < 5


@pytest.mark.anyio
@pytest.mark.parametrize("seed", [0])
async def test_broken_connections_cost_nobody_an_answer_and_nothing_twice(seed: int) -> None:
    faults = Faults(lost_upload=0.1, lost_create=0.15, server_error=0.05, too_many=0.02, reset=0.1)
    async with Emulator(faults=faults, seed=seed, pace=Pace(running=0.2)) as emulator:
        async with carpool.Pool("any", emulator.url, timing=FAST) as pool:
            answers: dict[str, str] = {}
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(ask, pool, f"text {number}", answers)
                    await anyio.sleep(0.01 * (number % 8))
        books = emulator.books()
    assert len(answers) == 20
    assert set(books.bodies.values()) == {1}


def test_threads_that_all_wait_for_answers_do_not_stop_the_pool() -> None:
    async def run(url: str) -> int:
        async with carpool.Pool("any", url, timing=FAST) as pool, anyio.create_task_group() as tasks:
            for number in range(60):
                call = partial(anyio.from_thread.run, pool.request, CHAT, body(f"text {number}"))
                tasks.start_soon(anyio.to_thread.run_sync, call)
        return pool.stats().answered

    with Emulator() as emulator:
        assert anyio.run(run, emulator.url) == 60


def test_a_second_cancellation_leaves_nothing_running() -> None:
    async def run(url: str) -> set[str]:
        async def body_of_the_program() -> None:
            async with carpool.Pool("any", url, timing=FAST) as pool:
                await pool.request(CHAT, body())

        task = asyncio.create_task(body_of_the_program())
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0.3)
        return {other.get_name() for other in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]

    with Emulator(pace=Pace(running=60)) as emulator:
        assert asyncio.run(run(emulator.url)) == set()


def test_a_pool_that_is_never_closed_leaves_no_folder() -> None:
    async def run(url: str) -> None:
        pool = carpool.Pool("any", url, timing=FAST)
        await pool.start()
        await pool.request(CHAT, body())

    with Emulator() as emulator:
        asyncio.run(run(emulator.url))


def test_on_uvloop() -> None:
    import uvloop

    async def run(url: str) -> dict[str, str]:
        async with carpool.Pool("any", url, timing=FAST) as pool:
            return await ask_all(pool, 1_000)

    with Emulator() as emulator, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert len(runner.run(run(emulator.url))) == 1_000


_BIG = """
import asyncio, resource, sys, tempfile
from pathlib import Path
import carpool
SIZE = 9_400_000
PEAK = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def body(number):
    return {"model": "m", "messages": [{"role": "user", "content": str(number) + "x" * SIZE}]}

async def until_on_disk(folder, count):
    def written():
        return sum(path.stat().st_size for path in Path(folder).rglob("segment-*"))
    while written() < count * SIZE:
        await asyncio.sleep(0.01)

async def main(url, folder):
    tempfile.tempdir = folder
    timing = carpool.Timing(linger=60, max_linger=60, poll_min=0.1)
    async with carpool.Pool("any", url, timing=timing) as pool:
        async def ask(number):
            return len((await pool.request("/v1/chat/completions", body(number))).content)
        first = asyncio.create_task(ask(0))
        await until_on_disk(folder, 1)
        await pool.flush()
        await first
        before = PEAK()
        tasks = []
        for number in range(20):
            tasks.append(asyncio.create_task(ask(number)))
            del number
            await until_on_disk(folder, 1 + len(tasks))  # the first one still lies there
        await pool.flush()
        sizes = await asyncio.gather(*tasks)
        print(len(sizes), min(sizes), pool.stats().batches, PEAK() - before)

asyncio.run(main(*sys.argv[1:]))
"""


def test_memory_stays_flat_for_a_file_of_188_mb(tmp_path: Path) -> None:
    with Emulator(answer=lambda endpoint, given: b'{"x": "' + b"y" * 9_400_000 + b'"}') as emulator:
        command = [sys.executable, "-c", _BIG, emulator.url, str(tmp_path)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
        largest = max(batch.total for batch in emulator.books().batches)
    count, smallest, batches, grown = map(int, output.split())
    assert (count, batches, largest) == (20, 2, 20)
    assert smallest > 9_400_000
    assert grown < 60_000_000, f"{grown / 1e6:.0f} MB for a file of 188 MB each way"


def test_the_demo_answers_every_topic() -> None:
    command = [sys.executable, str(ROOT / "examples" / "summarise_python_docs.py")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment).stdout
    table = dict(line.rsplit(maxsplit=1) for line in output.splitlines() if line.startswith(("requests", "batches")))
    from pydoc_data.topics import topics

    assert table == {"requests": str(len(topics)), "batches": "1"}


def test_the_benchmark_runs_and_checks_every_answer() -> None:
    command = [sys.executable, "-m", "benchmarks.throughput", "--runs", "1", "--counts", "2000"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT).stdout
    assert "| 2,000 pooled journal |" in output  # every answer was checked
