"""The database: transactions that are whole, migrations, and errors that say what to do."""

import asyncio
import random
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from journal_kit import (
    LANE,
    NOW,
    Course,
    DiskHome,
    accepted,
    find,
    load,
    make_run,
    open_sqlite,
    stamped,
    without_digests,
)

from carpool import JournalError
from carpool.engine.events import Accepted, Delivered, Discarded, GivenUp, Learned
from carpool.journal import Summary
from carpool.journal.sqlite import database
from carpool.journal.sqlite.folder import living, prepare
from carpool.models import Queue

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@contextmanager
def looking_at(folder: Path) -> Iterator[sqlite3.Connection]:
    """Connect to the database as another program does."""
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        yield connection


def change(folder: Path, *statements: str) -> None:
    with looking_at(folder) as connection:
        for statement in statements:
            connection.execute(statement)


def count(folder: Path) -> dict[str, int]:
    """Count the rows of all tables."""
    with looking_at(folder) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in names.fetchall()}


# --- transactions


async def test_of_facts_that_cannot_be_recorded_together_none_is(folder: Path) -> None:
    home = DiskHome(folder)
    journal = await home.open()
    mine = Course(journal)
    rows = mine.rows(1, 2, 3)
    await journal.record(*stamped(accepted(mine.run(1, 2, 3)), *mine.answered(1, 1)))
    before = await find(journal, *rows)
    with pytest.raises(JournalError):
        await journal.record(
            *stamped(
                accepted(mine.run(4, offset=30)),
                *mine.answered(2, 2, 3, failed=[3]),
                Delivered(tuple(rows)),
                Learned(Queue("m", long=False), 5),
                Discarded(mine.first),
                accepted(mine.run(1)),  # which is there
            )
        )
    assert await find(journal, *mine.rows(1, 2, 3, 4)) == before
    assert await journal.summary() == Summary(1, 1, NOW + 1)
    await journal.record(*stamped(*mine.answered(3, 2), at=NOW + 50))
    await journal.record((NOW, Delivered((rows[1],))))
    assert [known[0].place and known[0].place.delivered for known in (await find(journal, *rows)).values()] == [
        False,
        True,
        None,
    ]
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [(NOW, Accepted(LANE, mine.run(3, offset=20)))]
    await heir.aclose()


async def test_nothing_grows_with_the_history_but_what_requests_are_known_by(folder: Path) -> None:
    journal = await open_sqlite(folder)
    mine = Course(journal)
    for number in range(1, 41):
        rows = range(10 * number, 10 * number + 10)
        run = mine.run(*rows, segment=number)
        await journal.record(*stamped(accepted(run), Learned(Queue("m", long=False), number)))
        await journal.record(*stamped(*mine.opened(number, run), GivenUp(mine.rows(*rows[:5]))))
        await journal.record(*stamped(*mine.answered(number, *rows, failed=rows[:2]), Discarded(run.segment)))
    assert count(folder) == {
        "folder": 1,
        "shard": 1,
        "request": 40 * 8,
        "accepted": 0,
        "escalated": 0,
        "batch": 40,
        "outcome": 40,
        "learned": 1,
        "woken": 0,
        "submission": 0,
        "submission_key": 0,
        "claim": 0,
        "turnover": 0,
        "intent": 0,
        "stance": 0,
    }
    await journal.aclose()
    assert count(folder)["shard"] == 0


async def test_shards_of_the_dead_do_not_gather(folder: Path) -> None:
    home = DiskHome(folder)
    first = await home.open()
    await first.record((NOW, accepted(Course(first).run(1))))
    home.kill(first)
    for _ in range(10):
        journal = await home.open()
        await load(journal)
        home.kill(journal)
    assert count(folder)["shard"] == 2  # the last one's, and the first, in which something waits


# --- errors


async def test_an_old_carpool_refuses_a_newer_database(folder: Path) -> None:
    await (await open_sqlite(folder)).aclose()
    change(folder, "PRAGMA user_version = 1000")
    with pytest.raises(JournalError, match=r"newer carpool \(version 1000\)\. Use that one"):
        await open_sqlite(folder)
    assert {path.name for path in folder.iterdir()} == {"journal.sqlite"}


@pytest.mark.parametrize("statement", ["PRAGMA application_id = 7", "PRAGMA application_id = 0"])
async def test_the_database_of_another_program_is_left_alone(folder: Path, statement: str) -> None:
    folder.mkdir()
    change(folder, "CREATE TABLE batch (number INTEGER)", statement)
    before = (folder / "journal.sqlite").read_bytes()
    with pytest.raises(JournalError, match=r"something else\. Name another folder"):
        await open_sqlite(folder)
    assert (folder / "journal.sqlite").read_bytes() == before


async def test_what_is_no_database_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "journal.sqlite").write_text("Dear diary, " * 500)
    with pytest.raises(JournalError, match=r"no database.*or name another folder"):
        await open_sqlite(folder)
    assert (folder / "journal.sqlite").read_text() == "Dear diary, " * 500


async def test_a_database_that_was_never_finished_is_taken(folder: Path) -> None:
    """Its maker was killed in between."""
    folder.mkdir()
    (folder / "journal.sqlite").touch()
    await (await open_sqlite(folder)).aclose()
    (folder / "journal.sqlite").unlink()
    change(folder, "PRAGMA journal_mode = WAL")
    await (await open_sqlite(folder)).aclose()


async def fill(folder: Path) -> list[int]:
    """Make a journal in which there is something of every kind; gives its rows."""
    home = DiskHome(folder)
    journal = await home.open()
    mine = Course(journal)
    numbers = range(1, 2_001)
    await journal.record(*stamped(accepted(mine.run(*numbers)), *mine.opened(1, mine.run(*numbers[:1_500]))))
    await journal.record(*stamped(*mine.opened(2, mine.run(*numbers[1_000:])), *mine.answered(1, *numbers[:1_000])))
    home.kill(journal)
    return mine.rows(*numbers)


async def use(folder: Path, rows: list[int]) -> None:
    """Use all of a journal."""
    journal = await open_sqlite(folder, retention=0)
    try:
        await load(journal)
        await find(journal, *rows)
        await journal.summary()
        await journal.record((NOW, Delivered(tuple(rows))), (NOW, accepted(Course(journal).run(1))))
    finally:
        await journal.aclose()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_a_database_that_was_cut_off_is_damaged(folder: Path, share: float) -> None:
    rows = await fill(folder)
    path = folder / "journal.sqlite"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(JournalError, match=r"is damaged\. Put a copy back, or name another folder"):
        await use(folder, rows)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_whatever_damage_there_is_is_a_journal_error(tmp_path: Path) -> None:
    rows = await fill(tmp_path / "whole")
    whole = (tmp_path / "whole" / "journal.sqlite").read_bytes()
    draw = random.Random(4)
    seen = 0
    for number in range(100):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 10, 100])):
            damaged[draw.randrange(100, len(whole))] = draw.randrange(256)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "journal.sqlite").write_bytes(damaged)
        try:
            await use(folder, rows)
        except JournalError:
            seen += 1
    assert 0 < seen < 100


@pytest.mark.parametrize("others", [0, 1])
async def test_whoever_holds_the_database_is_named(folder: Path, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY", 0.05)
    await (await open_sqlite(folder)).aclose()
    journals = [await open_sqlite(folder) for _ in range(others)]
    with looking_at(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        holder = r"process \d+ on \S+" if others else "another program"
        with pytest.raises(JournalError, match=rf"is held by {holder}\. Stop that"):
            await open_sqlite(folder)
        for journal in journals:
            with pytest.raises(JournalError, match="is held by another program"):
                await journal.record((NOW, accepted(Course(journal).run(1))))
            assert await find(journal, Course(journal).first) == {}
        connection.execute("ROLLBACK")
    for journal in journals:
        await journal.record((NOW, accepted(Course(journal).run(1))))
        await journal.aclose()


async def test_a_disk_that_is_full_loses_nothing_that_was_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = DiskHome(folder)
    with monkeypatch.context() as patch:
        patch.setattr(database, "SETTINGS", (*database.SETTINGS, "max_page_count = 100"))
        journal = await home.open()
        mine = Course(journal)
        kept: list[int] = []
        with pytest.raises(JournalError, match=r"the disk is full\. Free some room, and start again"):
            await fill_up(mine, kept)
        assert len(await find(journal, *mine.rows(kept[-1], kept[-1] + 1))) == 1
        home.kill(journal)
    heir = await home.open()
    assert len(await load(heir)) == len(kept) > 1
    await heir.record((NOW, accepted(Course(heir).run(1))))
    await heir.aclose()


async def fill_up(course: Course, kept: list[int]) -> None:
    """Record facts of a hundred rows until there is no room; notes the last row of each."""
    for number in range(1_000):
        rows = course.rows(*range(100 * number + 1, 100 * number + 101))
        await course.journal.record((NOW, accepted(make_run(rows, course.first, 1_000 * number))))
        kept.append(100 * number + 100)


async def test_a_database_that_may_only_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await open_sqlite(folder)).aclose()
    monkeypatch.setattr(database, "SETTINGS", (*database.SETTINGS, "query_only = ON"))
    with pytest.raises(JournalError, match=r"cannot be written\. Give yourself the right to"):
        await open_sqlite(folder)


# --- migrations


@contextmanager
def newer(script: Path, *statements: str) -> Iterator[None]:
    """Make carpool one version newer."""
    script.write_text("".join(f"{statement}\n" for statement in statements))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, str(script)))
        yield


async def test_a_database_is_brought_forward_once_with_all_that_is_in_it(folder: Path, tmp_path: Path) -> None:
    home = DiskHome(folder)
    journal = await home.open()
    mine = Course(journal)
    facts = stamped(accepted(mine.run(1, 2)), *mine.opened(1, mine.run(1)))
    await journal.record(*facts)
    home.kill(journal)
    with newer(tmp_path / "second.sql", "ALTER TABLE batch ADD COLUMN cost REAL;"):
        for _ in range(2):
            heir = await home.open()
            assert await load(heir) == without_digests(facts)
            home.kill(heir)
        with looking_at(folder) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (len(database.MIGRATIONS),)
            assert connection.execute("SELECT cost FROM batch").fetchall() == [(None,)]
    with pytest.raises(JournalError, match=rf"newer carpool \(version {len(database.MIGRATIONS) + 1}\)"):
        await home.open()


async def test_a_folder_of_the_first_version_goes_on(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        first = database.Database(prepare(folder), lambda: "")
        with first.transaction():
            first.migrate()
        first.close()
    journal = await open_sqlite(folder)
    assert await journal.claim_keys({"key": bytes(16)}) == {}  # of a table that it did not have
    await journal.aclose()
    with looking_at(folder) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(database.MIGRATIONS),)


async def test_a_new_database_has_all_there_is(folder: Path, tmp_path: Path) -> None:
    script = "CREATE TABLE price (", "    model TEXT -- ; or none", ");", "INSERT INTO price (model) VALUES ('a;b');"
    with newer(tmp_path / "second.sql", "-- What came later; much later", *script):
        await (await open_sqlite(folder)).aclose()
    with looking_at(folder) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(database.MIGRATIONS) + 1,)
        assert connection.execute("SELECT * FROM price").fetchall() == [("a;b",)]


async def test_a_migration_that_fails_changes_nothing(folder: Path, tmp_path: Path) -> None:
    await (await open_sqlite(folder)).aclose()
    before = count(folder)
    script = "CREATE TABLE price (model TEXT);", "ALTER TABLE bill ADD COLUMN cost REAL;"
    with newer(tmp_path / "second.sql", *script), pytest.raises(JournalError, match="no such table: bill"):
        await open_sqlite(folder)
    assert count(folder) == before
    await (await open_sqlite(folder)).aclose()


async def test_a_database_in_use_is_not_brought_forward(folder: Path, tmp_path: Path) -> None:
    home = DiskHome(folder)
    living, dead = await home.open(), await home.open()
    home.kill(dead)
    with newer(tmp_path / "second.sql", "ALTER TABLE batch ADD COLUMN cost REAL;"):
        for _ in range(2):
            with pytest.raises(JournalError, match=r"in use by process \d+ on [^,\s]+\. Stop it"):
                await home.open()
        await living.record((NOW, accepted(Course(living).run(1))))
        await living.aclose()
        heir = await home.open()
        assert len(await load(heir)) == 1
        await heir.aclose()


# --- what is safe when a verb returns

SAFE = {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}  # 2 is FULL: each commit is synced


async def test_the_disk_has_what_was_committed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite may leave that to chance, so that a machine that crashes loses what was told to be safe."""
    commits: list[dict[str, Any]] = []

    class Noting(sqlite3.Connection):
        def execute(self, statement: str, /, *values: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                told = [super(Noting, self).execute(f"PRAGMA {name}").fetchone()[0] for name in SAFE]
                commits.append(dict(zip(SAFE, told, strict=True)))
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **more: connect(path, factory=Noting, **more))
    journal = await open_sqlite(folder)
    opened = len(commits)
    await journal.record((NOW, accepted(Course(journal).run(1))))
    await journal.aclose()
    assert 0 < opened < len(commits)
    assert all(commit == SAFE for commit in commits)


# --- threads


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thread_that_asyncio_no_longer_waits_for_is_let_finish(folder: Path) -> None:
    """Its own cancellation passes through all shields: what comes next must wait for the thread."""
    in_thread = threading.Semaphore(0)

    def say_so(func: Callable[..., Any], *args: object) -> Any:
        in_thread.release()
        return func(*args)

    async def run_sync(func: Callable[..., Any], /, *args: object) -> Any:
        return await anyio.to_thread.run_sync(say_so, func, *args)

    home = DiskHome(folder, run_sync)
    journal = await home.open()
    await anyio.to_thread.run_sync(in_thread.acquire)
    mine = Course(journal)
    with looking_at(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(journal.record((NOW, accepted(mine.run(1)))))
        await anyio.to_thread.run_sync(in_thread.acquire)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        closing_ = asyncio.create_task(journal.aclose())
        await anyio.to_thread.run_sync(in_thread.acquire)
        connection.execute("COMMIT")
    await closing_
    heir = await home.open()
    assert await load(heir) == [(NOW, Accepted(LANE, mine.run(1)))]
    await heir.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("finishes_first", [False, True])
async def test_a_journal_whose_opening_asyncio_cancels_is_closed(folder: Path, finishes_first: bool) -> None:
    opening, opened = threading.Semaphore(0), threading.Semaphore(0)

    def say_so(func: Callable[..., Any], *args: object) -> Any:
        opening.release()
        try:
            return func(*args)
        finally:
            opened.release()

    async def run_sync(func: Callable[..., Any], /, *args: object) -> Any:
        return await anyio.to_thread.run_sync(say_so, func, *args)

    home = DiskHome(folder, run_sync)
    await (await DiskHome(folder).open()).aclose()
    with looking_at(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(home.open())
        await anyio.to_thread.run_sync(opening.acquire)
        if finishes_first:
            connection.execute("COMMIT")
            opened.acquire()  # before the event loop hears of it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not finishes_first:
            connection.execute("COMMIT")
            await anyio.to_thread.run_sync(opened.acquire)
    assert not living(folder, None)


async def test_closing_twice_does_nothing(folder: Path) -> None:
    journal = await open_sqlite(folder)
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(JournalError):
        await journal.summary()


async def test_who_makes_the_database_is_waited_for(folder: Path) -> None:
    """SQLite itself does not wait where it turns its log on."""
    folder.mkdir()
    with looking_at(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come_and_go, folder, set[int]())
            await anyio.sleep(0.2)
            connection.execute("ROLLBACK")


async def test_many_open_a_new_folder_at_once(folder: Path) -> None:
    numbered: set[int] = set()
    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(come_and_go, folder, numbered)
    assert len(numbered) == 12


async def come_and_go(folder: Path, numbered: set[int]) -> None:
    journal = await open_sqlite(folder)
    numbered.add(journal.numbered)
    await load(journal)
    await journal.aclose()


def test_values_are_bound_in_their_order() -> None:
    """Python from 3.14 on takes no sequence for numbered parameters; 3.11 does so in silence."""
    sources = sorted(Path(database.__file__).parent.glob("*.py"))
    assert sources
    assert [path.name for path in sources if re.search(r"\?\d", path.read_text())] == []
