"""A pool that lives for months: what was delivered long ago goes from its folder all the same."""

import gc
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from virtual import CHAT, Site, World, body, site

import carpool
from carpool.testing import Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

DAY = 86_400.0
RARELY = carpool.Timing(poll_max=DAY)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def keeps(at: Site, text: bytes) -> bool:
    """Tell whether a file of answers holds a text."""
    return any(text in (at.folder / name).read_bytes() for name in at.files("download*"))


async def test_what_was_delivered_long_ago_goes_though_the_folder_stays_open(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open(timing=RARELY, retention=10 * DAY) as w:
        await w.ask_all(["old", "older"])
        await anyio.sleep(9 * DAY)
        async with at.open() as other:
            await other.ask("old")
        await w.ask("new")
        assert keeps(at, b"older")
        assert at.emulator.books().times(body("old")) == 1
        await anyio.sleep(2 * DAY)
        assert keeps(at, b"new")
        assert not keeps(at, b"older")
        async with at.open() as other:
            await other.ask_all(["old", "new"])
        assert [at.emulator.books().times(body(text)) for text in ("old", "older", "new")] == [2, 1, 1]


async def test_what_cannot_be_forgotten_is_told_and_the_pool_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(tmp_path) as at, at.open(timing=RARELY, retention=DAY) as w:
        await w.ask("old")
        await anyio.sleep(1.5 * DAY)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            await anyio.sleep(DAY)
        assert "what is old in the journal stays there" in caplog.text
        assert keeps(at, b"old")
        await w.ask("new")
        await anyio.sleep(DAY)
        assert w.answers() == {"old": "old", "new": "new"}
        assert not keeps(at, b"old")


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


async def answered(w: World, text: str) -> None:
    await w.pool.request(carpool.Request(CHAT, body(text), key=text))


async def left(w: World, text: str) -> None:
    with anyio.move_on_after(0.1):
        await w.pool.request(CHAT, body(text))


@pytest.mark.parametrize(("call", "most"), [(answered, 10), (left, 40)])  # bytes a call
async def test_calls_that_are_over_take_no_memory(
    tmp_path: Path, call: Callable[[World, str], Coroutine[Any, Any, None]], most: int
) -> None:
    sizes: list[int] = []
    async with site(tmp_path, pace=Pace(running=30)) as at, at.open() as w:
        tracemalloc.start()
        try:
            for turn in range(4):
                async with anyio.create_task_group() as tasks:
                    for number in range(300):
                        tasks.start_soon(call, w, f"{turn} {number}")
                await anyio.sleep(100)
                gc.collect()
                sizes.append(ours(tracemalloc.take_snapshot()))
        finally:
            tracemalloc.stop()
    assert sizes[3] - sizes[1] < most * 600  # a number in a set takes some 85


def ours(snapshot: tracemalloc.Snapshot) -> int:
    """Add up what the emulator, which forgets nothing, did not allocate."""
    wanted = tracemalloc.Filter(True, "*/carpool/*"), tracemalloc.Filter(False, "*/carpool/testing/*")
    return sum(line.size for line in snapshot.filter_traces(wanted).statistics("filename"))
