"""A room in which nothing but a plan decides: its time, its randomness, its order of steps, its disk."""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar
from unittest import mock

import anyio
import msgspec
from virtual import VirtualLoop, drawn

from carpool.providers.openai import OpenAI

from .injected import counting
from .plan import Backend, Plan

T = TypeVar("T")

_EPOCH = 1_900_000_000.0  # seconds: any time will do, but files must not seem to be older than the beginning
_MEMORY = Path("/dev/shm")


@contextmanager
def closed_room(plan: Plan, injected: Counter[str]) -> Iterator[Path]:
    """Give a folder in a room in which all follows from the plan; what strikes it is counted."""
    limits = msgspec.structs.replace(OpenAI.limits, creations_per_hour=plan.creations)
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch("time.time", _virtual_time))
        enter(mock.patch("carpool.wire.wire.random", random.Random(f"pauses/{plan.seed}")))
        enter(mock.patch.object(OpenAI, "limits", limits))
        enter(drawn(plan.seed))
        enter(counting(injected))
        enter(mock.patch("os.fsync", return_value=None))  # no power is cut here: tests/crash does that
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        yield Path(enter(tempfile.TemporaryDirectory(prefix="simulate-", dir=memory)))


def _virtual_time() -> float:
    try:
        return _EPOCH + anyio.current_time()
    except RuntimeError:  # no event loop here
        return _EPOCH


def run_on(backend: Backend, func: Callable[[], Awaitable[T]]) -> T:
    """Run on virtual time."""
    if backend == "asyncio":
        return anyio.run(func, backend_options={"loop_factory": VirtualLoop})
    from trio.testing import MockClock

    return anyio.run(func, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
