"""Journals to try: in memory and on disk, with processes that die; and facts to be recorded."""

from array import array
from collections.abc import Collection, Iterable, Sequence
from contextlib import aclosing
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread

from carpool.engine.events import ANSWERED, DELIVERED, Accepted, Created, Done, Event, Packed, Settled, Uploaded
from carpool.journal import DIGEST, Journal, Known, Stamped
from carpool.journal.memory import Folder, Memory
from carpool.journal.sqlite import Sqlite
from carpool.models import BatchStatus, Lane, Run
from carpool.naming import download_name
from carpool.ports import RunSync

LANE = Lane("/v1/chat/completions", "gpt-5-mini")
EMBEDDINGS = Lane("/v1/embeddings", "text-embedding-3-small")
ACCOUNT = "https://api.example/v1"
MONTH = 30 * 86_400.0
NOW = 1_790_000_000.0  # a time that is long ago: what happened then is old, and counts towards no hour


class Home(Protocol):
    """Open journals on one folder, each as a process of its own, and let them die."""

    async def open(self) -> Journal:
        """Open one."""
        ...

    def kill(self, journal: Any) -> None:
        """Let its process die: nothing of it is closed in good order."""
        ...


class MemoryHome:
    """Keep journals in memory."""

    def __init__(self, pool: str = "pool") -> None:
        self._folder = Folder(pool)

    async def open(self) -> Journal:
        """Open one."""
        return Memory(self._folder)

    def kill(self, journal: Any) -> None:
        """Let its process die."""
        journal.die()


class DiskHome:
    """Keep journals in a folder on disk."""

    def __init__(self, folder: Path, run_sync: RunSync = anyio.to_thread.run_sync) -> None:
        self._folder = folder
        self._run_sync = run_sync

    async def open(self) -> Journal:
        """Open one."""
        return await open_sqlite(self._folder, run_sync=self._run_sync)

    def kill(self, journal: Any) -> None:
        """Do what a death does: the kernel closes whatever the process had open."""
        journal._store._let_go()  # noqa: SLF001 - no public door leads out like this


async def open_sqlite(folder: Path, retention: float = 1e9, run_sync: RunSync = anyio.to_thread.run_sync) -> Sqlite:
    """Open a journal on disk; nothing in it is old, unless the test says so."""
    return await Sqlite.open(folder, ACCOUNT, retention, run_sync)


async def run_inline(func: Any, /, *args: object) -> Any:
    """Run a blocking function where it is called."""
    return func(*args)


# --- facts


def digest_of(row: int) -> bytes:
    """Give the digest of a row."""
    return blake2b(b"%d" % row, digest_size=DIGEST).digest()


def digests_of(rows: Iterable[int]) -> bytes:
    """Give the digests of rows, end to end."""
    return b"".join(map(digest_of, rows))


def make_run(
    rows: Iterable[int],
    segment: int,
    offset: int = 0,
    *,
    size: int = 10,
    inputs: int | None = None,
    tokens: int | None = None,
) -> Run:
    """Make a run of lines of one size."""
    numbers = array("Q", rows)

    def each(value: int | None) -> "array[int] | None":
        return None if value is None else array("I", [value]) * len(numbers)

    return Run(segment, offset, numbers, array("I", [size]) * len(numbers), each(inputs), each(tokens))


def accepted(run: Run, lane: Lane = LANE, *, rich: bool = False, digests: bytes | None = None) -> Accepted:
    """Let rows join a lane, each with a digest of its own unless some are given."""
    return Accepted(lane, run, rich, digests_of(run.rows) if digests is None else digests)


def settled(
    batch_id: str | None, file: str | None, rows: Collection[int], *, failed: Iterable[int] = (), given: bool = False
) -> Settled:
    """Let rows come to an end, in the order given: those of a file 100 bytes long each, one behind the other."""
    failures = frozenset(failed)
    marks = bytearray(DELIVERED * given | (ANSWERED if row not in failures else 0) for row in rows)
    offsets = array("Q", range(0, 100 * len(rows), 100))
    return Settled(batch_id, file, array("Q", rows), offsets, array("I", [100]) * len(rows), marks)


def stamped(*facts: Event, at: float = NOW) -> list[Stamped]:
    """Let facts happen one second after the other."""
    return [(at + seconds, fact) for seconds, fact in enumerate(facts)]


class Course:
    """Name what one process makes: rows, segments, downloads and batches."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.first = journal.numbered + 1

    def rows(self, *numbers: int) -> list[int]:
        """Give row numbers."""
        return [self.journal.numbered + number for number in numbers]

    def run(self, *numbers: int, segment: int = 1, **more: Any) -> Run:
        """Make a run."""
        return make_run(self.rows(*numbers), self.journal.numbered + segment, **more)

    def key(self, number: int) -> str:
        """Give the client key of a batch."""
        return f"{self.journal.pool}-b{self.journal.numbered + number}"

    def file(self, number: int) -> str:
        """Name a download."""
        return download_name(self.journal.numbered + number)

    def packed(self, number: int, *runs: Run, lane: Lane = LANE) -> Packed:
        """Pack a batch."""
        return Packed(self.journal.numbered + number, lane, runs)

    def opened(self, number: int, *runs: Run, lane: Lane = LANE) -> list[Event]:
        """Pack, upload and create a batch."""
        key = self.key(number)
        uploaded = Uploaded(key, f"file-{number}")
        return [self.packed(number, *runs, lane=lane), uploaded, Created(key, status_of(number, key))]

    def answered(self, number: int, *rows: int, failed: Sequence[int] = (), given: bool = False) -> list[Event]:
        """End a batch whose rows came back in this order."""
        fact = settled(f"batch_{number}", self.file(number), self.rows(*rows), failed=self.rows(*failed), given=given)
        return [fact, Done(self.key(number), f"batch_{number}")]


def status_of(number: int, key: str, name: str = "validating") -> BatchStatus:
    """Make a status."""
    return BatchStatus(f"batch_{number}", key, name, f"file-{number}")


# --- what is there


async def load(journal: Journal) -> list[Stamped]:
    """Load to the end."""
    told: list[Stamped] = []
    async with aclosing(journal.load()) as chunks:
        async for chunk in chunks:
            told += chunk
    return told


async def find(journal: Journal, *rows: int) -> dict[int, list[Known]]:
    """Look for requests by the digests that `accepted` gives rows."""
    asked = {digest_of(row): row for row in rows}
    return {asked[digest]: known for digest, known in (await journal.find(asked)).items()}


def without_digests(facts: Iterable[Stamped]) -> list[Stamped]:
    """Give facts as they are told again."""
    return [
        (at, Accepted(fact.lane, fact.run, fact.rich) if isinstance(fact, Accepted) else fact) for at, fact in facts
    ]
