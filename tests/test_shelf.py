"""Outcomes that wait for their turn: whatever order they come in, each is taken once, in the order of the keys."""

import tempfile
from collections.abc import Callable
from typing import Any

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from virtual import run_here

from carpool.bulk import Shelf
from carpool.errors import RequestRejected
from carpool.models import Response
from carpool.spans import Entry

unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def entry(key: int, size: int = 50) -> Entry:
    if key % 7 == 3:
        return key, RequestRejected(f"no {key}", body=b"x" * size)
    return key, Response(f"p-{key + 1_000}", "b", "r", 200, b"%d." % key + b"x" * size)


def told(taken: list[Entry]) -> list[tuple[int, str]]:
    """Say what entries hold, of which errors are equal to none but themselves."""
    return [(key, str(ending) if isinstance(ending, Exception) else repr(ending)) for key, ending in taken]


class Files:
    """Count the temporary files that are open; `refuses` says when none can be made."""

    def __init__(self, patch: pytest.MonkeyPatch, refuses: Callable[[], bool] = lambda: False) -> None:
        self.made: list[Any] = []
        make = tempfile.TemporaryFile

        def made(*args: Any, **more: Any) -> Any:
            if refuses():
                raise OSError(28, "No space left on device")
            self.made.append(make(*args, **more))
            return self.made[-1]

        patch.setattr("tempfile.TemporaryFile", made)

    @property
    def open(self) -> int:
        return sum(not file.closed for file in self.made)


async def take_due(shelf: Shelf, most: int) -> list[Entry]:
    taken: list[Entry] = []
    while shelf.is_due:
        await shelf.load()
        taken += shelf.take(most)
    return taken


parts = st.integers(1, 60).flatmap(lambda n: st.permutations(range(n))).flatmap(
    lambda order: st.lists(st.integers(1, 9), min_size=1).map(lambda cuts: cut(order, cuts))
)  # fmt: skip


def cut(order: list[int], sizes: list[int]) -> list[list[int]]:
    found: list[list[int]] = []
    left = list(order)
    while left:
        size = sizes[len(found) % len(sizes)]
        found.append(left[:size])
        left = left[size:]
    return found


@unhurried
@given(parts, st.integers(1, 5_000), st.integers(1, 10), st.sets(st.integers(0, 40)), st.booleans())
def test_each_is_taken_once_in_the_order_of_the_keys(
    parts: list[list[int]], kept: int, most: int, refused: set[int], ordered: bool
) -> None:
    """`refused` are the attempts to write that fail."""
    tries = [0]

    def refuses() -> bool:
        tries[0] += 1
        return tries[0] - 1 in refused

    async def run(files: Files) -> list[Entry]:
        shelf = Shelf(run_here, kept=kept)
        taken: list[Entry] = []
        held: set[int] = set()
        for part in parts:
            entries = [entry(key) for key in part]
            shelf.put(entries) if ordered else shelf.append(entries)
            held.update(part)
            while shelf.is_full and files is not None:
                before = tries[0]
                await shelf.unload()
                if tries[0] == before:
                    break
            rows = {key + 1_000 for key in held if key % 7 != 3}
            assert set(shelf.rows()) == rows
            for key, _ in await take_due(shelf, most):
                held.discard(key)
                taken.append(entry(key))
        assert not held
        assert files.open == 0
        shelf.close()
        return taken

    with pytest.MonkeyPatch.context() as patch:
        taken = anyio.run(run, Files(patch, refuses))
    order = [key for part in parts for key in part]
    assert told(taken) == told([entry(key) for key in (sorted(order) if ordered else order)])


@unhurried
@given(parts, st.integers(1, 2_000), st.integers(0, 30))
def test_a_shelf_that_is_closed_half_way_lets_go_of_the_disk(parts: list[list[int]], kept: int, steps: int) -> None:
    async def run(files: Files) -> None:
        shelf = Shelf(run_here, kept=kept)
        for part in parts[:steps]:
            shelf.put([entry(key) for key in part])
            await shelf.unload()
        shelf.close()
        assert files.open == 0
        assert shelf.rows() == []
        await shelf.unload()
        await shelf.load()
        shelf.close()

    with pytest.MonkeyPatch.context() as patch:
        anyio.run(run, Files(patch))


@pytest.mark.anyio
@pytest.mark.parametrize("during", ["unload", "load"])
async def test_what_is_closed_while_the_disk_is_used_is_let_go_of_afterwards(
    during: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(monkeypatch)
    going, go = anyio.Event(), anyio.Event()
    go.set()

    async def slow(func: Any, /, *args: object) -> Any:
        result = func(*args)
        going.set()
        await go.wait()
        return result

    shelf = Shelf(slow, kept=1_000)
    shelf.put([entry(key) for key in range(1, 20)])
    if during == "load":
        await shelf.unload()
        shelf.put([entry(0)])
        shelf.take(10)
        shelf.next = max(shelf.next, 10)
    going, go = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shelf.unload if during == "unload" else shelf.load)
        await going.wait()
        assert max(shelf.rows()) == 1_019
        shelf.close()
        assert files.open == 1
        go.set()
    assert files.open == 0
    assert shelf.rows() == []


@pytest.mark.anyio
async def test_whoever_waits_for_the_disk_may_be_cancelled_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(monkeypatch)
    delay = [0.0]

    async def slow(func: Any, /, *args: object) -> Any:
        await anyio.sleep(delay[0])
        return func(*args)

    shelf = Shelf(slow, kept=1_000)
    shelf.put([entry(key) for key in range(30)])
    delay[0] = 10
    with anyio.move_on_after(0.01):
        await shelf.unload()
    assert len(shelf.rows()) == len([key for key in range(30) if key % 7 != 3])
    delay[0] = 0
    await shelf.unload()
    first = shelf.take(30)
    delay[0] = 10
    with anyio.move_on_after(0.01):
        await shelf.load()
    delay[0] = 0
    rest = await take_due(shelf, 4)
    assert told(first + rest) == told([entry(key) for key in range(30)])
    assert files.open == 0


@pytest.mark.anyio
async def test_the_disk_holds_little_more_than_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream whose outcomes come out of order for ever, only those that wait are kept."""
    files = Files(monkeypatch)
    shelf = Shelf(run_here, kept=4_000)
    got = 0
    for start in range(0, 5_000, 50):
        shelf.put([entry(key) for key in range(start + 49, start, -1)])
        await shelf.unload()
        assert files.open <= 8
        shelf.put([entry(start)])
        got += len(await take_due(shelf, 10))
    assert got == 5_000
    assert files.open == 0
    assert len(files.made) > 50
