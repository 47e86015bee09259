"""Word between the processes of a journal, where the journal fails or is slow."""

import logging
from collections.abc import Callable, Collection
from typing import Any, cast

import anyio
import pytest

from carpool.engine.events import Woken
from carpool.errors import JournalError
from carpool.journal import Journal
from carpool.wakes import Wakes

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Words:
    """Stand for a journal: it keeps what is left, and fails while `broken`."""

    def __init__(self) -> None:
        self.left: list[set[str]] = []
        self.asked: list[float] = []
        self.word = frozenset[str]()
        self.broken = False
        self.takes = 0.0

    async def leave_word(self, batch_ids: Collection[str], at: float) -> None:
        await anyio.sleep(self.takes)
        self._check()
        self.left.append(set(batch_ids))

    async def take_word(self, batch_ids: Collection[str]) -> frozenset[str]:
        self.asked.append(anyio.current_time())
        self._check()
        taken, self.word = self.word.intersection(batch_ids), self.word.difference(batch_ids)
        return taken

    def _check(self) -> None:
        if self.broken:
            raise JournalError("The disk is full.")


class Bench:
    """Hold what is tried."""

    def __init__(self, *open_: str) -> None:
        self.words = Words()
        self.fed: list[Woken] = []
        self.open = frozenset(open_)
        clock: Callable[[], float] = anyio.current_time
        self.wakes = Wakes(cast("Journal", self.words), self.fed.append, lambda: self.open, clock, 2.0)


async def test_nobody_looks_before_it_is_wanted_or_while_nothing_is_open() -> None:
    bench = Bench()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.wakes.run)
        await anyio.sleep(10)
        bench.open = frozenset({"a"})
        await anyio.sleep(10)
        assert bench.words.asked == []
        bench.wakes.begin()
        bench.wakes.begin()
        began = anyio.current_time()
        await anyio.sleep(5)
        assert [at - began for at in bench.words.asked] == pytest.approx([0, 2, 4])
        bench.open = frozenset()
        await anyio.sleep(10)
        assert len(bench.words.asked) == 3
        tasks.cancel_scope.cancel()


async def test_word_is_passed_on_once() -> None:
    bench = Bench("a", "b", "c")
    bench.words.word = frozenset({"b", "a", "x"})
    bench.wakes.begin()
    with anyio.move_on_after(7):
        await bench.wakes.run()
    assert bench.fed == [Woken(("a", "b"))]


async def test_while_the_journal_fails_it_is_said_once_and_looked_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a")
    bench.words.broken = True
    bench.words.word = frozenset({"a"})
    bench.wakes.begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.wakes.run)
        with caplog.at_level(logging.WARNING, "carpool"):
            await anyio.sleep(9)
            assert [record.getMessage() for record in caplog.records] == [
                "word of batches that have ended is not found: The disk is full."
            ]
            bench.words.broken = False
            await anyio.sleep(2)
            assert bench.fed == [Woken(("a",))]
            bench.words.broken = True
            await anyio.sleep(2)
            assert len(caplog.records) == 2
        tasks.cancel_scope.cancel()


async def test_what_comes_while_word_is_written_is_written_together_after_it() -> None:
    bench = Bench()
    bench.words.takes = 1.0
    async with anyio.create_task_group() as tasks:
        for batch_id in "abcbd":
            tasks.start_soon(bench.wakes.leave, (batch_id,))
            await anyio.sleep(0.1)
    assert bench.words.left == [{"a"}, {"b", "c", "d"}]


async def test_word_that_cannot_be_left_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.words.broken = True
    with caplog.at_level(logging.WARNING, "carpool"):
        await bench.wakes.leave({"a"})
    assert "The disk is full." in caplog.text
    bench.words.broken = False
    await bench.wakes.leave({"b"})
    assert bench.words.left == [{"b"}]
