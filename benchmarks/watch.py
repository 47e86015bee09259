"""How long each step of an event loop takes, in CPU time of its thread: a callback, or a task up to its next await.

A step that is longer than a few milliseconds is looked into by a timer, which tells whose code ran, and which. On
asyncio each step is one `Handle._run`, on trio an instrument is told of it.
"""

import asyncio
import heapq
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self
from unittest import mock

import trio.abc

import carpool

_ROOT = str(Path(carpool.__file__).parent)
_TICK = 0.001  # seconds of CPU between looks; the system's clock may be coarser
_KEPT = 40
_LONG = 0.002  # seconds: what is shorter is not described
# What a caller's own step calls once a request: how many of them it makes without awaiting is the caller's affair.
_SINGLE = frozenset({"Pool.request", "Pool._accept"})


class Step(NamedTuple):
    """Tell of one step: seconds, what the loop ran, where it was found, and whether it is the caller's own."""

    seconds: float
    what: str
    where: str
    foreign: bool

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:7.1f} ms  {self.what}{'  (the caller) ' if self.foreign else '  '}{self.where}"


class Watch(trio.abc.Instrument):
    """Keep the longest steps of the event loops of this process; made and entered in the main thread."""

    def __init__(self) -> None:
        self._longest: list[tuple[float, int, Step]] = []
        self._steps = 0
        self._seen: list[tuple[str, str]] = []  # in the step that runs: innermost and outermost function of carpool's
        self._begun = 0.0

    def __enter__(self) -> Self:
        run = asyncio.events.Handle._run  # noqa: SLF001 - there is no other place to see each step
        watch = self

        def _run(handle: Any) -> None:
            began = time.thread_time()
            if watch._seen:
                watch._seen = []
            run(handle)
            seconds = time.thread_time() - began
            if seconds > _LONG:
                watch._note(seconds, lambda: _of_handle(handle))

        self._patch = mock.patch.object(asyncio.events.Handle, "_run", _run)
        self._patch.start()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, _TICK, _TICK)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, lambda signum, frame: None)  # one may be on its way
        self._patch.stop()

    def longest(self, *, foreign: bool) -> list[Step]:
        """Give the longest steps of carpool's, or those of its caller, the longest first."""
        steps = (step for _, _, step in sorted(self._longest, reverse=True))
        return [step for step in steps if step.foreign is foreign]

    # --- trio

    def before_task_step(self, task: Any) -> None:
        """Hear from trio that a step begins."""
        self._seen = []
        self._begun = time.thread_time()

    def after_task_step(self, task: Any) -> None:
        """Hear from trio that it ended."""
        seconds = time.thread_time() - self._begun
        if seconds > _LONG:
            self._note(seconds, lambda: _of_coroutine(task.coro))

    # --- what it was

    def _note(self, seconds: float, describe: Callable[[], tuple[str, bool]]) -> None:
        what, foreign = describe()
        if self._seen:
            votes = Counter(outer in _SINGLE or not outer for _, outer in self._seen)
            foreign = votes[True] > votes[False]
        found = Counter(inner for inner, _ in self._seen).most_common(3)
        where = ", ".join(f"{name} {count}" for name, count in found)
        self._steps += 1
        heapq.heappush(self._longest, (seconds, self._steps, Step(seconds, what, where, foreign)))
        if len(self._longest) > _KEPT:
            heapq.heappop(self._longest)

    def _look(self, signum: int, frame: FrameType | None) -> None:
        inner = outer = ""
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(_ROOT):
                outer = code.co_qualname
                inner = inner or f"{code.co_filename[len(_ROOT) + 1 : -3]}.{outer}:{frame.f_lineno}"
            frame = frame.f_back
        self._seen.append((inner, outer))


def _of_handle(handle: Any) -> tuple[str, bool]:
    callback = handle._callback  # noqa: SLF001
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return _of_coroutine(owner.get_coro())
    return getattr(callback, "__qualname__", repr(callback)), False


def _of_coroutine(coro: Any) -> tuple[str, bool]:
    with suppress(AttributeError):
        return f"task {coro.__qualname__}", not coro.cr_code.co_filename.startswith(_ROOT)
    return f"task {coro!r}", False
