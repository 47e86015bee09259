"""What a call keeps in memory: while it waits, while its batch runs, and when it was answered.

    python -m benchmarks.memory [--counts 10000 100000 1000000]

Each state is reached in a process of its own, with a task for each call, and looked at when its bodies are spooled: the
bytes that Python's allocator has given out and not taken back (`tracemalloc`), after a collection, less those from
before, when the pool had come as far with one call: what is there once is not counted. Beside it stands the same number
of tasks that await a bare future each. `resident` is what the system says of a second process, without tracemalloc: its
peak less what it began with, freed memory included.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import carpool

from . import charts, workload
from .records import Bar, Record, markdown, say, show
from .serving import serve

BAR = 512  # bytes of a call in flight, above those of a task that waits
COUNTS = (10_000, 100_000, 1_000_000)
TASK, PENDING, IN_FLIGHT, AT_REST = "a task that waits", "pending", "in flight", "at rest"
STATES = (TASK, PENDING, IN_FLIGHT, f"{IN_FLIGHT}, journal", AT_REST, f"{AT_REST}, journal")
COST = 100  # tokens of a call, as the counter has it
RUNNING = 3_600  # seconds that a batch takes, where it is not to end
SETTLED = 2.0  # seconds in which all comes to rest
PATIENCE = 1_800.0  # seconds for a state: what is traced takes many times as long


class Look:
    """Look at memory before and after; gives bytes."""

    def __init__(self, traced: bool) -> None:
        gc.collect()
        self._traced = traced
        if traced:
            tracemalloc.start()
        self._before = self._now()

    def taken(self) -> int:
        """Give what was taken since."""
        gc.collect()
        return self._now() - self._before

    def _now(self) -> int:
        return tracemalloc.get_traced_memory()[0] if self._traced else workload.peak()


async def task(count: int, url: str, state: str, traced: bool) -> int:
    """Let tasks wait that do nothing else."""
    loop, look = asyncio.get_running_loop(), Look(traced)

    async def wait(number: int) -> None:
        await loop.create_future()

    waiting = [asyncio.create_task(wait(number)) for number in range(count)]
    await asyncio.sleep(0)
    taken = look.taken()
    await leave(waiting)
    return taken


async def call(pool: carpool.Pool, number: int) -> None:
    """Make one call, and drop its answer."""
    await pool.request(workload.ENDPOINT, workload.payload(number))


async def pooled(count: int, url: str, state: str, traced: bool) -> int:
    """Let calls come as far as the state says: behind a full queue, into batches that run, or to their end."""
    name, _, more = state.partition(", ")
    limits = {"*": COST * 100} if name == PENDING else None
    timing = carpool.Timing(linger=0.2, poll_min=0.2, poll_max=2.0)
    with tempfile.TemporaryDirectory() as folder:
        journal = f"{folder}/journal" if more else None
        pool = carpool.Pool(
            "any", url, limits=limits, counter=lambda *_: COST, journal=journal, timing=timing, max_pending=count + 1
        )
        await pool.start()
        asked = [asyncio.create_task(call(pool, -1))]
        await until(pool, _CONDITIONS[name], 1)
        look = Look(traced)
        asked += [asyncio.create_task(call(pool, number)) for number in range(count)]
        await until(pool, _CONDITIONS[name], count + 1)
        if name == AT_REST:
            await asyncio.gather(*asked)
            asked.clear()
        await asyncio.sleep(SETTLED)
        taken = look.taken()
        await pool.__aexit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        await leave(asked)
    return taken


_CONDITIONS: dict[str, Callable[[carpool.Stats, int], bool]] = {
    PENDING: lambda stats, count: stats.accepted == count and bool(stats.batches),
    IN_FLIGHT: lambda stats, count: (
        stats.in_flight == count and all(batch.stage == "running" for batch in stats.open) and bool(stats.open)
    ),
    AT_REST: lambda stats, count: stats.answered == count,
}


async def until(pool: carpool.Pool, condition: Callable[[carpool.Stats, int], bool], count: int) -> None:
    """Wait until the pool is so far; TimeoutError where it never is."""
    async with asyncio.timeout(PATIENCE):
        while not condition(pool.stats(), count):
            await asyncio.sleep(0.1)


async def leave(waiting: Sequence["asyncio.Task[None]"]) -> None:
    """End what waits."""
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def look_at(state: str, count: int, url: str, traced: bool) -> int:
    """Reach a state in this process; gives bytes."""
    reach: Callable[..., Coroutine[Any, Any, int]] = task if state == TASK else pooled

    return asyncio.run(reach(count, url, state, traced))


def measure(state: str, count: int, traced: bool) -> float:
    """Reach a state in a process of its own, with a fresh server; gives bytes a call."""
    with serve(*([] if AT_REST in state else [f"running={RUNNING}"])) as server:
        command = [sys.executable, "-m", "benchmarks.memory", "--child", state, str(count), server.url]
        command += ["traced"] if traced else []
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    taken: int = json.loads(result.stdout)
    say(f"{count:,} {state}: {taken / count:.0f} bytes {'held' if traced else 'resident'}")
    return taken / count


def results(*, counts: Sequence[int] = COUNTS, quick: bool = False) -> list[Record]:
    """Measure each state once, at each number of calls: the bytes held repeat to a few."""
    records = []
    for count in counts[:1] if quick else counts:
        bare = 0.0
        for state in STATES:
            held, resident = measure(state, count, True), measure(state, count, False)
            bare = held if state == TASK else bare
            bars = (Bar("bytes a call above a task", held - bare, most=BAR),) if state.startswith(IN_FLIGHT) else ()
            figures = {"held": held, "above_task": held - bare, "resident": resident, "calls": float(count)}
            records.append(Record(f"{count:,} {state}", figures, bars))
    return records


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    rows = [
        (
            record.case,
            f"{record.number('held'):,.0f}",
            f"{record.number('above_task'):,.0f}",
            f"{record.number('resident'):,.0f}",
        )
        for record in records
    ]
    return markdown(("calls", "bytes held a call", "above a task that waits", "resident at the peak"), rows)


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw what a call holds in each state."""
    path = folder / "memory.png"
    charts.bars(path, "bytes held a call", [(record.case, record.number("held"), "") for record in records])
    return [path]


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        state, count, url, *more = options.child
        print(look_at(state, int(count), url, bool(more)))
        return
    show(results(counts=options.counts), table)


if __name__ == "__main__":
    main()
