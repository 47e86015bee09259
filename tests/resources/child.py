"""A program with a pool whose memory, descriptors and files are looked at: `python -m resources.child JSON`.

It prints what it took, as JSON; bytes are those of the peak above the peak with one call.
"""

import asyncio
import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import carpool
from benchmarks.workload import peak

from .provider import parsed

CHAT = "/v1/chat/completions"
_AT_ONCE = 2**20  # bytes of bodies that are asked for in one turn of the event loop, in which they are in memory
_SPOOLED = 0.02  # seconds, in which they are written
TIMING = carpool.Timing(linger=1.0, max_linger=300, poll_min=0.05, poll_max=0.5)


def body(number: int, size: int) -> bytes:
    """Make a chat body of so many bytes, about."""
    return b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"%b"}]}' % (b"%d" % number).ljust(size, b".")


class Disk:
    """Look at what lies in the folder of temporary files; `peak` is the most that was seen there."""

    def __init__(self) -> None:
        self.peak = 0
        self._folder = Path(tempfile.gettempdir())

    def used(self) -> int:
        """Give the bytes there now."""
        total = 0
        for path in self._folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
        return total

    async def watch(self) -> None:
        """Look often, until cancelled."""
        while True:
            self.peak = max(self.peak, self.used())
            await asyncio.sleep(0.1)


def check(number: int, response: carpool.Response, answer: int) -> None:
    """Make sure that an answer is whole, and that of its own call."""
    text = parsed(response.content)
    if not text.startswith(response.custom_id) or len(text) != max(answer, len(response.custom_id)):
        raise AssertionError(f"{response.custom_id} was given {len(text)} bytes: {text[:40]}")


async def streamed(pool: carpool.Pool, calls: int, size: int, answer: int) -> int:
    """Make all calls by a stream that keeps nothing."""
    answered = 0
    bodies: Iterator[bytes] = (body(number, size) for number in range(calls))
    async for outcome in pool.map(bodies, endpoint=CHAT, keep_requests=False):
        if answered % 97 == 0 or answer > 1_000:
            check(answered, outcome.result(), answer)
        answered += outcome.ok
    return answered


def all_run(stats: carpool.Stats, calls: int) -> bool:
    """Tell whether so many calls are in batches that run."""
    return stats.in_flight == calls and all(batch.stage == "running" for batch in stats.open)


async def gathered(pool: carpool.Pool, calls: int, size: int, answer: int) -> int:
    """Make each call from a task of its own; once all are in batches, stdout says so."""
    answered = 0

    async def call(number: int) -> None:
        nonlocal answered
        response = await pool.request(CHAT, body(number, size))
        check(number, response, answer)
        answered += 1

    waiting: list[asyncio.Task[None]] = []
    for number in range(calls):
        waiting.append(asyncio.create_task(call(number)))
        if number % (_AT_ONCE // size) == 0:
            await asyncio.sleep(_SPOOLED)
    while not all_run(pool.stats(), calls - answered):  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.05)
    print(json.dumps({"pending": peak()}), flush=True)
    await asyncio.gather(*waiting)
    return answered


WAYS = {"streamed": streamed, "gathered": gathered}


async def main(url: str, way: str, calls: int, size: int, answer: int, journal: bool) -> None:
    """Make one call, look, make all the others, and look again."""
    descriptors, disk = len(os.listdir("/dev/fd")), Disk()
    with tempfile.TemporaryDirectory(prefix="journal-") as folder:
        kept: dict[str, Any] = {"journal": f"{folder}/journal"} if journal else {}
        async with carpool.Pool("any", url, timing=TIMING, progress=False, **kept) as pool:
            check(-1, await pool.request(CHAT, body(-1, 10)), answer)
            gc.collect()
            before = peak()
            watch = asyncio.create_task(disk.watch())
            answered = await WAYS[way](pool, calls, size, answer)
            watch.cancel()
            taken = peak() - before
    tasks = len(asyncio.all_tasks()) - 1 - (not watch.done())
    await asyncio.gather(watch, return_exceptions=True)
    left = len(os.listdir("/dev/fd")) - descriptors
    told = {"answered": answered, "before": before, "taken": taken, "disk": disk.peak, "left_on_disk": disk.used()}
    print(json.dumps({**told, "descriptors": left, "tasks": tasks}))


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
