"""How long carpool keeps the event loop: the longest steps, in CPU time of the thread, while many calls pass through.

    python -m benchmarks.steps [--count 50000] [--only tasks journal]

Each case runs in a process of its own, the server in another. Steps of the caller's own code, who creates fifty
thousand tasks at once, or begins as many calls without awaiting, are listed apart. The garbage collector is off, and
tiktoken's vocabulary, where tokens are counted, is loaded before: it holds the interpreter for half a second, whatever
thread it is loaded in.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from itertools import product
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import tiktoken
import trio

import carpool

from . import workload
from .counting import FAR, TOKENS
from .floor import POLL
from .records import Bar, Record, markdown, say, show
from .serving import served
from .watch import Step, Watch

BAR = 0.020  # seconds
SHOWN = 10
T = TypeVar("T")
Way = Callable[[carpool.Pool, int], Awaitable[None]]


async def call(pool: carpool.Pool, number: int, **options: Any) -> None:
    """Ask one question, and see that the answer is to it."""
    request = carpool.Request(workload.ENDPOINT, workload.payload(number), **options)
    workload.check(number, (await pool.request(request)).content)


# --- coming


async def tasks(pool: carpool.Pool, count: int) -> None:
    """Await each call in a task of its own."""
    await asyncio.gather(*(call(pool, number) for number in range(count)))


async def group(pool: carpool.Pool, count: int) -> None:
    """Await each call in a task of its own, in any event loop."""
    async with anyio.create_task_group() as calls:
        for number in range(count):
            calls.start_soon(call, pool, number)


async def gather(pool: carpool.Pool, count: int) -> None:
    """Let the pool await them."""
    answers = await pool.gather(map(workload.payload, range(count)), endpoint=workload.ENDPOINT)
    for number, answer in enumerate(answers):
        if number % 100 == 0:
            await anyio.lowlevel.checkpoint()
        workload.check(number, answer.content)


async def stream(pool: carpool.Pool, count: int) -> None:
    """Let them pass as a stream."""
    async for outcome in pool.map(map(workload.payload, range(count)), endpoint=workload.ENDPOINT):
        workload.check(outcome.index, outcome.result().content)


class Begun(Generic[T]):
    """Begin a coroutine at once, as an eager task is, and await the rest of it later."""

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro
        self._first = coro.send(None)

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for its result."""
        yield self._first
        try:
            while True:
                yield self._coro.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result


async def burst(pool: carpool.Pool, count: int) -> None:
    """Begin all calls before anything is awaited."""
    begun = [Begun(call(pool, number)) for number in range(count)]
    for each in begun:
        await each


# --- going


async def abandoned(pool: carpool.Pool, count: int) -> None:
    """Cancel every caller, while their calls wait and while they run."""
    asked = [asyncio.create_task(call(pool, number)) for number in range(count)]
    await until(pool, lambda stats: stats.accepted == count)
    await give_up(asked)
    asked = [asyncio.create_task(call(pool, number)) for number in range(count)]
    await until(pool, lambda stats: any(batch.stage == "running" for batch in stats.open))
    await give_up(asked)


async def give_up(asked: list[asyncio.Task[None]]) -> None:
    """Cancel callers at once."""
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0.1)


async def cancelled(pool: carpool.Pool, count: int) -> None:
    """Cancel what waits, and what runs, with callers who wait for it."""
    asked = [asyncio.create_task(call(pool, number)) for number in range(count)]
    await until(pool, lambda stats: stats.accepted == count)
    await pool.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    asked = [asyncio.create_task(call(pool, number)) for number in range(count)]
    await until(pool, lambda stats: any(batch.stage == "running" for batch in stats.open))
    await pool.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def expired(pool: carpool.Pool, count: int) -> None:
    """Let the time of all calls run out at once, while they wait."""
    await asyncio.gather(*(call(pool, number, timeout=2.0) for number in range(count)), return_exceptions=True)


async def left(pool: carpool.Pool, count: int) -> None:
    """Leave by an exception while everybody waits."""
    asked = [asyncio.create_task(call(pool, number)) for number in range(count)]
    await until(pool, lambda stats: any(batch.stage == "running" for batch in stats.open))
    await pool.__aexit__(ValueError, ValueError(), None)
    await asyncio.gather(*asked, return_exceptions=True)


async def until(pool: carpool.Pool, condition: Callable[[carpool.Stats], bool]) -> None:
    """Wait until the pool is so far."""
    while not condition(pool.stats()):
        await asyncio.sleep(0.05)


COMING: tuple[Way, ...] = (tasks, gather, stream, burst)
GOING: tuple[Way, ...] = (abandoned, cancelled, expired, left)
WAYS = {way.__name__: way for way in (*COMING, *GOING, group)}


def cases() -> list[tuple[str, ...]]:
    """Name all cases: a way, and options."""
    found: list[tuple[str, ...]] = []
    for way, limit, journal in product(COMING, ("none", "far", "near"), ("", "journal")):
        found.append((way.__name__, limit, journal))
    for way, journal in product(GOING, ("", "journal")):
        found.append((way.__name__, "none", journal))
    found += [("tasks", "none", "again"), ("gather", "none", "again"), ("stream", "none", "again")]
    found += [("tasks", "none", "thread"), ("stream", "none", "thread")]
    found += [("group", "none", "trio"), ("gather", "none", "journal", "trio"), ("stream", "none", "trio")]
    return [tuple(filter(None, case)) for case in found]


async def run(url: str, count: int, way: str, limit: str, options: list[str], folder: str) -> None:
    """Run a case; "again" asks for what an earlier pool was answered."""
    tokens = {"none": None, "far": {"*": FAR}, "near": {"*": TOKENS * count // 2}}[limit]
    timing = carpool.Timing(linger=60.0 if way == "expired" else 0.2, max_linger=60.0, poll_min=POLL)
    journal = f"{folder}/journal" if {"journal", "again"} & set(options) else None
    async with carpool.Pool(
        "any", url, limits=tokens, journal=journal, timing=timing, thread="thread" in options
    ) as pool:
        await WAYS[way](pool, count)
        await anyio.lowlevel.checkpoint()  # what it held is let go of in a step of its own


def watched(url: str, count: int, case: list[str]) -> list[Step]:
    """Run a case in this process, and give its longest steps."""
    way, limit, *options = case
    if limit == "near":
        tiktoken.get_encoding("o200k_base")
    asyncio.run(anyio.lowlevel.checkpoint())  # which imports what anyio needs
    with tempfile.TemporaryDirectory() as folder:
        if "again" in options:
            asyncio.run(run(url, count, way, limit, options, folder))
        gc.collect()
        gc.freeze()
        gc.disable()
        with Watch() as watch, suppress(carpool.PoolClosed):
            if "trio" in options:
                trio.run(run, url, count, way, limit, options, folder, instruments=[watch])
            else:
                asyncio.run(run(url, count, way, limit, options, folder))
    return [*watch.longest(foreign=False)[:SHOWN], *watch.longest(foreign=True)[:3]]


def measure(count: int, case: tuple[str, ...]) -> list[Step]:
    """Run a case in a process of its own, against a fresh server."""
    with served() as url:
        command = [sys.executable, "-m", "benchmarks.steps", "--count", str(count), "--case", url, *case]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Step(*step) for step in json.loads(result.stdout)]


def results(*, count: int = 50_000, quick: bool = False, only: Sequence[str] = ()) -> list[Record]:
    """Give the longest step of each case whose name has these words."""
    chosen = [case for case in cases() if set(only) <= set(case)]
    records = []
    for case in QUICK if quick else chosen:
        steps = measure(count, case)
        longest = max((step.seconds for step in steps if not step.foreign), default=0.0)
        name = " ".join(case)
        say("\n  ".join((f"{name}: {longest * 1e3:.1f} ms", *map(str, steps))))
        bar = Bar("longest step, ms", longest * 1e3, most=BAR * 1e3)
        where = next((f"{step.what} {step.where}".rstrip() for step in steps if not step.foreign), "")
        records.append(Record(name, {"longest_ms": longest * 1e3, "where": where}, (bar,)))
    return records


QUICK = (("tasks", "far", "journal"), ("stream", "none"))


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    rows = [(record.case, f"{record.number('longest_ms'):.1f}", f"`{record.figures['where']}`") for record in records]
    return markdown(("case", "longest step, ms", "where"), rows)


def main() -> None:
    """Print the longest steps of each case; exit 1 when one of carpool's is too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--only", nargs="+", default=[], help="words that name cases")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        url, *case = options.case
        print(json.dumps(watched(url, options.count, case)))
        return
    show(results(count=options.count, only=options.only), table)


if __name__ == "__main__":
    main()
