"""What all programs share: callers that come, how long they wait, and what their answers cost the process.

It needs the standard library alone, as it runs in environments that hold a peer and nothing of carpool.
"""

import asyncio
import json
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, NamedTuple, NoReturn

from ... import workload

LINGER = 0.2  # seconds in which no call came, after which a batch is sent: all callers of a burst are there by then
POLL = 0.2  # seconds between two looks at a batch, where a library can look so often
ROWS = 50_000  # of a batch at most: the provider's own limit

_IDS = re.compile(
    r"[0-9a-f-]{12,}|(?<=:)\d{4,5}(?=/)"
)  # of batches, calls and ports: a failure is the same wherever it struck
Outcome = str | BaseException | None  # the answer's text, the caller's error, or none yet when patience ended
Call = Callable[[int], Coroutine[Any, Any, str]]


class Work(NamedTuple):
    """Say which calls are made of which server, so many at once, with so many seconds between such bursts.

    `fits` is how many of them fit into the enqueued-token limit, 0 where there is none: for libraries that can be told.
    After `patience` seconds a caller who still waits counts as unanswered.
    """

    url: str
    first: int
    calls: int
    burst: int
    pause: float
    fits: int
    patience: float

    @property
    def rows(self) -> int:
        """Give how many calls a batch may hold, for libraries that must be told."""
        return self.fits or ROWS


Ask = Callable[[Work], Awaitable[list[Outcome]]]
Opened = Callable[[Work], AbstractAsyncContextManager[Call]]


def each(opened: Opened) -> Ask:
    """Let each caller await a call of its own through a client that is open meanwhile."""

    async def ask(work: Work) -> list[Outcome]:
        async with AsyncExitStack() as stack:
            outcomes = await callers(work, await stack.enter_async_context(opened(work)))
            if None in outcomes:
                stack.pop_all()  # whoever still waits waits for ever, and so might who closes the client
        return outcomes

    return ask


async def callers(work: Work, call: Call) -> list[Outcome]:
    """Await each call in a task of its own."""
    until = time.monotonic() + work.patience
    tasks: list[asyncio.Task[str]] = []
    numbers = range(work.first, work.first + work.calls)
    for start in range(0, work.calls, work.burst):
        if start:
            await asyncio.sleep(work.pause)
        tasks += [asyncio.create_task(call(number)) for number in numbers[start : start + work.burst]]
    await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
    return [_outcome(task) for task in tasks]


def _outcome(task: "asyncio.Task[str]") -> Outcome:
    if not task.done():
        return None
    return asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()


def main(ask: Ask) -> NoReturn:
    """Warm up, do the work named on the command line, and print what it took as JSON."""
    warm, work = (Work(*fields) for fields in json.loads(sys.argv[1]))
    asyncio.run(_warmed(ask, warm))
    before = _cpu()
    began = time.perf_counter()
    asyncio.run(_measured(ask, work, before, began))
    raise AssertionError("it ends when it has told")


async def _warmed(ask: Ask, warm: Work) -> None:
    """Have imports and caches of the first call behind: a hundred calls, on a server of their own."""
    outcomes = await ask(warm)
    if right(warm, outcomes) != warm.calls:
        raise AssertionError(f"the warm-up failed: {failures(warm, outcomes)}")


async def _measured(ask: Ask, work: Work, before: float, began: float) -> NoReturn:
    _tell(work, await ask(work), before, began)  # within the event loop: what a client left behind is not waited for


def _tell(work: Work, outcomes: list[Outcome], before: float, began: float) -> NoReturn:
    wall, cpu = time.perf_counter() - began, _cpu() - before
    seen: dict[str, Any] = {
        "answered": right(work, outcomes),
        "failures": failures(work, outcomes),
        "cpu_us": cpu / work.calls * 1e6,
        "wall_s": wall,
        "peak_bytes": _peak(),
    }
    print("\n" + json.dumps(seen), flush=True)
    os._exit(0)


def right(work: Work, outcomes: list[Outcome]) -> int:
    """Count the callers who hold their own right answer."""
    return sum(_is_right(work.first + place, outcome) for place, outcome in enumerate(outcomes))


def _is_right(number: int, outcome: Outcome) -> bool:
    return isinstance(outcome, str) and outcome.startswith(f"{number} ")


def failures(work: Work, outcomes: list[Outcome]) -> dict[str, int]:
    """Count what the others hold instead."""
    counts = Counter(
        _named(outcome) for place, outcome in enumerate(outcomes) if not _is_right(work.first + place, outcome)
    )
    return dict(counts.most_common(8))


def _named(outcome: Outcome) -> str:
    match outcome:
        case None:
            return "still waiting"
        case str():
            return "a wrong answer"
        case _:
            words = _IDS.sub("...", " ".join(str(outcome).split()))
            return f"{type(outcome).__name__}: {words[:120]}"


def _cpu() -> float:
    """Give the CPU time of this process and of the children it has waited for, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak() -> int:
    """Give the peak resident memory in bytes: of this process, or of a larger child."""
    unit = 1 if sys.platform == "darwin" else 1024
    # Not the sum: a child counts what it shared with its parent before it became another program.
    return max(workload.peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
