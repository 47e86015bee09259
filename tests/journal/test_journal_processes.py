"""Processes that share a folder, and are killed at any instant."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from journal_kit import NOW, Course, accepted, find, load, open_sqlite

from carpool import JournalError
from carpool.engine.events import Accepted, Packed
from carpool.journal.sqlite import database

pytestmark = pytest.mark.anyio

# Prints a line for each fact that is safe, and waits for its end where there are no more to come.
SCRIPT = f"""
import asyncio, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from journal_kit import *
async def main(folder, facts, leaves):
    journal = await open_sqlite(Path(folder))
    await load(journal)
    mine = Course(journal)
    print(journal.numbered, flush=True)
    for number in range(1, int(facts) + 1):
        run = mine.run(number, offset=10 * number)
        await journal.record((NOW, accepted(run)), (NOW, mine.packed(number, run)))
        print(number, flush=True)
    if leaves == "stays":
        sys.stdin.read()
    await journal.aclose()
asyncio.run(main(*sys.argv[1:]))
"""

LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
"""


class Child:
    """A process on the folder."""

    def __init__(self, folder: Path, facts: int, leaves: str = "stays") -> None:
        command = [sys.executable, "-c", SCRIPT, str(folder), str(facts), leaves]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.numbered = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def wait_for(self, fact: int) -> None:
        """Wait until a fact is safe."""
        while int(self._line()) < fact:
            pass

    def stop(self) -> None:
        """Let it stand still, whatever it is at."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def kill(self) -> int:
        """Kill it; gives the last fact that it knew to be safe."""
        self._process.kill()
        rest, _ = self._process.communicate()
        return max(map(int, rest.split()), default=0)

    def leave(self) -> None:
        """Let it leave in good order."""
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start processes on one folder; whatever happens, none stays."""
    children: list[Child] = []

    def start(facts: int = 0, leaves: str = "stays") -> Child:
        children.append(Child(tmp_path / "journal", facts, leaves))
        return children[-1]

    yield start
    for child in children:
        child.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


async def test_a_living_process_keeps_its_shard_and_a_killed_one_frees_it(
    folder: Path, start: Callable[..., Child]
) -> None:
    child = start(3)
    child.wait_for(3)
    journal = await open_sqlite(folder)
    assert journal.numbered > child.numbered
    assert await load(journal) == []
    assert not journal.holds(child.numbered + 1)
    child.kill()
    told = await load(journal)
    assert [type(fact) for _, fact in told] == [Accepted] * 3 + [Packed] * 3
    assert journal.holds(child.numbered + 1)
    await journal.aclose()


async def test_whatever_was_safe_when_it_was_killed_is_told(folder: Path, start: Callable[..., Child]) -> None:
    safe = 0
    for fact in (1, 2, 17, 40, 41):
        child = start(100_000)
        child.wait_for(fact)
        last = max(fact, child.kill())
        safe += last
        journal = await open_sqlite(folder)
        told = await load(journal)
        rows = {fact.run.rows[0] for _, fact in told if isinstance(fact, Accepted)}
        assert set(range(child.numbered + 1, child.numbered + last + 1)) <= rows
        assert rows == {fact.runs[0].rows[0] for _, fact in told if isinstance(fact, Packed)}  # each with its own
        assert len(await find(journal, *rows)) == len(rows) >= safe
        await journal.aclose()


async def test_another_may_come_and_go_while_one_records(folder: Path, start: Callable[..., Child]) -> None:
    """Also in one process: to close one journal must not end the locks of the other."""
    one, two = await open_sqlite(folder), await open_sqlite(folder)
    await two.aclose()
    mine = Course(one)
    for number in range(1, 4):
        start(1, "leaves").leave()
        await one.record((NOW, accepted(mine.run(number, offset=10 * number))))
    two = await open_sqlite(folder)
    rows = mine.rows(1, 2, 3)
    assert set(await find(two, *rows)) == set(rows)
    await two.aclose()
    await one.aclose()


async def test_the_process_that_holds_the_database_is_named(
    folder: Path, start: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.1)
    journal = await open_sqlite(folder)
    child = start(1_000_000)
    child.wait_for(10)
    with pytest.raises(JournalError, match=rf"is held by process {child.pid} on [^,\s]+\. Stop that"):
        await stop_amidst(child, Course(journal))
    child.kill()
    await journal.record((NOW, accepted(Course(journal).run(1))))
    await journal.aclose()


async def stop_amidst(child: Child, course: Course) -> None:
    """Stop a process again and again, until it is amidst a transaction.

    In between it goes on, and what it says is read: else it waits in the end for a reader of its full pipe.
    """
    for number in range(2, 10_000):
        child.stop()
        await course.journal.record((NOW, accepted(course.run(number))))
        os.kill(child.pid, signal.SIGCONT)
        child.wait_for(0)


async def test_a_disk_that_takes_no_more_loses_nothing_that_was_safe(folder: Path) -> None:
    """A limit on the size of files stands in for a disk that fails amidst a write."""
    child = run(folder, 10_000, before=LIMITED)
    numbered, *facts = map(int, child.stdout.split())
    assert child.returncode == 1
    assert "JournalError: The journal" in child.stderr
    assert "the disk fails. Start again when it does not" in child.stderr
    journal = await open_sqlite(folder)
    told = [fact.run.rows[0] - numbered for _, fact in await load(journal) if isinstance(fact, Accepted)]
    assert told == facts
    await journal.aclose()


async def test_many_processes_open_a_new_folder_at_once(folder: Path) -> None:
    with ThreadPoolExecutor(6) as threads:
        children = list(threads.map(lambda _: run(folder, 20), range(6)))
    assert [child.returncode for child in children] == [0] * 6
    numbered = {int(child.stdout.split()[0]) for child in children}
    assert len(numbered) == 6
    journal = await open_sqlite(folder)
    told = await load(journal)
    rows = [first + row for first in numbered for row in range(1, 21)]
    assert len(await find(journal, *rows)) == len(rows) == len(told) / 2
    await journal.aclose()


def run(folder: Path, facts: int, before: str = "") -> subprocess.CompletedProcess[str]:
    """Let a process record facts and leave."""
    command = [sys.executable, "-c", before + SCRIPT, str(folder), str(facts), "leaves"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
