"""A look into a journal from outside: what it tells, in whatever state the folder is, and that nobody notices."""

import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from journal_kit import (
    ACCOUNT,
    EMBEDDINGS,
    LANE,
    NOW,
    Course,
    accepted,
    make_run,
    open_sqlite,
    run_inline,
    settled,
    stamped,
)

from carpool import JournalError
from carpool.engine.events import Delivered, Done, Escalated, Event, Uploaded
from carpool.journal.sqlite import Sqlite
from carpool.journal.sqlite.contents import Contents, OpenBatch, contents
from carpool.journal.sqlite.folder import Lock, lock_path
from carpool.journal.sqlite.kept import Kept, Stretch, chunks_of
from carpool.journal.sqlite.peek import Reader, look
from carpool.journal.sqlite.presence import LOCKS, Presence, present

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # nothing that is tested here awaits


_open: list[Sqlite] = []


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    while _open:
        await _open.pop().aclose()


async def opened(folder: Path) -> Course:
    _open.append(await open_sqlite(folder, run_sync=run_inline))
    return Course(_open[-1])


async def record(course: Course, *facts: Event) -> None:
    await course.journal.record(*stamped(*facts))


def told(folder: Path) -> Contents:
    found = contents(folder)
    assert found is not None
    return found


def counts(folder: Path) -> tuple[int, ...]:
    """Give what is known, answered, undelivered, in flight, live and waiting."""
    found = told(folder)
    return (found.known, found.answered, found.undelivered, found.in_flight, found.live, found.waiting)


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


# --- what it tells


async def test_a_new_journal_is_told_to_be_empty(folder: Path) -> None:
    await opened(folder)
    assert contents(folder) == Contents(ACCOUNT, 0, 0, 0, 0, None, (), 0)


async def test_requests_are_counted_by_where_they_are(folder: Path) -> None:
    c = await opened(folder)
    await record(c, accepted(c.run(*range(1, 13))))
    assert counts(folder) == (12, 0, 0, 0, 0, 12)
    await record(c, *c.opened(1, c.run(1, 2, 3, 4)), c.packed(2, c.run(5, 6, 7)))
    assert counts(folder) == (12, 0, 0, 7, 0, 5)
    await record(c, *c.answered(1, 1, 2, 3, 4, failed=(4,)))
    assert counts(folder) == (11, 3, 3, 3, 0, 5)
    await record(c, Delivered((c.first, c.first + 1), received=True))
    assert counts(folder) == (11, 3, 1, 3, 0, 5)


async def test_open_batches_are_told_with_their_stage_and_since_when(folder: Path) -> None:
    c = await opened(folder)
    await record(
        c, accepted(c.run(1, 2, 3)), accepted(c.run(4, 5, segment=2), EMBEDDINGS), accepted(c.run(6, segment=3))
    )
    await record(c, *c.opened(1, c.run(1, 2, 3)))
    await record(c, c.packed(2, c.run(4, 5, segment=2), lane=EMBEDDINGS), Uploaded(c.key(2), "file-2"))
    await record(c, c.packed(3, c.run(6, segment=3)))
    await record(c, accepted(c.run(7, segment=4)), *c.opened(4, c.run(7, segment=4)), *c.answered(4, 7))
    found = told(folder)
    assert found.open == (
        OpenBatch(c.key(3), None, LANE, 1, 1, "packed", NOW),
        OpenBatch(c.key(2), None, EMBEDDINGS, 2, 2, "uploaded", NOW + 1),
        OpenBatch(c.key(1), "batch_1", LANE, 3, 3, "created", NOW + 2),
    )
    assert (found.done, found.last_at) == (1, NOW + 4)


async def test_what_failed_while_its_batch_ran_is_not_in_flight(folder: Path) -> None:
    c = await opened(folder)
    await record(
        c,
        accepted(c.run(*range(1, 7))),
        *c.opened(1, c.run(1, 2, 3)),
        settled(None, None, c.rows(2, 3), failed=c.rows(2, 3)),
    )
    (batch,) = told(folder).open
    assert (batch.rows, batch.unanswered) == (3, 1)
    assert counts(folder) == (4, 0, 0, 1, 0, 3)


async def test_what_was_sent_live_neither_waits_nor_is_in_flight_when_it_is_answered(folder: Path) -> None:
    c = await opened(folder)
    await record(c, accepted(c.run(*range(1, 10))), *c.opened(1, c.run(1, 2, 3)))
    await record(c, Escalated(LANE, (c.run(2, 3), c.run(4, 5, 6), c.run(7))))
    assert counts(folder) == (9, 0, 0, 3, 4, 2)  # what rides is in flight as long as its batch is
    await record(c, settled("", c.file(1), c.rows(2)), settled("", c.file(1), c.rows(5)))
    assert counts(folder) == (9, 2, 2, 2, 3, 2)
    await record(c, settled(None, None, c.rows(4), failed=c.rows(4)))
    assert counts(folder) == (8, 2, 2, 2, 2, 2)
    await record(c, *c.answered(1, 1, 3))
    assert counts(folder) == (8, 4, 4, 0, 2, 2)


async def test_numbers_of_all_processes_are_counted(folder: Path) -> None:
    one, other = await opened(folder), await opened(folder)
    for c in (one, other):
        await record(c, accepted(c.run(1, 2, 3)), *c.opened(1, c.run(1, 2)))
    assert counts(folder) == (6, 0, 0, 4, 0, 2)
    assert {batch.key for batch in told(folder).open} == {one.key(1), other.key(1)}


# --- in whatever state, and nobody notices


async def crashed(folder: Path, copy: Path) -> Path:
    """Make a folder as a process leaves it that was killed: with a log, and an index to it."""
    c = await opened(folder)
    await record(c, accepted(c.run(1, 2, 3)), *c.opened(1, c.run(1, 2)))
    shutil.copytree(folder, copy)
    await c.journal.aclose()
    return copy


async def closed(folder: Path) -> Path:
    c = await opened(folder)
    await record(c, accepted(c.run(1, 2, 3)), *c.opened(1, c.run(1, 2)))
    await c.journal.aclose()
    return folder


@pytest.fixture(params=["closed", "crashed", "put back", "log emptied"])
async def left(request: Any, folder: Path, tmp_path: Path) -> Path:
    """Give a folder with two requests in flight and one that waits, in different states."""
    if request.param in ("closed", "log emptied"):
        await closed(folder)
        if request.param == "log emptied":
            (folder / "journal.sqlite-wal").touch()
        return folder
    copy = await crashed(folder, tmp_path / "copy")
    if request.param == "put back":
        (copy / "journal.sqlite-shm").unlink()
    return copy


async def test_a_look_changes_nothing_whatever_the_state(left: Path) -> None:
    before = state_of(left)
    assert counts(left) == (3, 0, 0, 2, 0, 1)
    assert list(Kept(left)) == []
    assert present(left) == []
    assert state_of(left) == before


async def test_a_look_at_a_journal_in_use_changes_no_file_and_takes_no_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = await opened(folder)
    await record(c, accepted(c.run(1, 2, 3)), *c.opened(1, c.run(1, 2)))
    before = state_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock is taken"))
        assert counts(folder) == (3, 0, 0, 2, 0, 1)
        assert len(present(folder)) == 1
    after = state_of(folder)
    assert after.keys() == before.keys()
    assert {name: state for name, state in after.items() if not name.endswith("-shm")} == {
        name: state for name, state in before.items() if not name.endswith("-shm")
    }  # to the index SQLite itself adds up to where this process, which wrote it, has read
    await record(c, *c.answered(1, 1, 2))
    await c.journal.aclose()
    assert sorted(path.name for path in folder.iterdir()) == ["journal.sqlite", "shard-1.lock"]


def running(script: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", script])


_WRITER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [{kit!r}]
from journal_kit import Course, accepted, open_sqlite, run_inline, stamped

async def write():
    for turn in range({turns}):
        c = Course(await open_sqlite(Path({folder!r}), run_sync=run_inline))
        for number in range(1, 4):
            run = c.run(*range(10 * number, 10 * number + 10), segment=number)
            await c.journal.record(*stamped(accepted(run), *c.opened(number, run)))
        await c.journal.aclose()

asyncio.run(write())
"""


async def test_a_journal_that_is_opened_written_and_closed_all_the_time_is_told_as_it_was_at_some_moment(
    folder: Path,
) -> None:
    await (await opened(folder)).journal.aclose()
    seen = []
    with running(_WRITER.format(kit=str(Path(__file__).parent), turns=15, folder=str(folder))) as writer:
        while writer.poll() is None:
            seen.append(counts(folder))
    assert writer.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert all(known == in_flight == 10 * (known // 10) for known, _, _, in_flight, _, _ in seen)
    assert counts(folder) == (450, 0, 0, 450, 0, 0)


@pytest.mark.parametrize("times", [1, 5, 1_000])
async def test_one_that_is_just_being_opened_is_looked_at_again(folder: Path, times: int) -> None:
    """SQLite says so where whoever opens it has made the index, and written nothing into it."""
    c = await opened(folder)
    left = [*range(times)]

    def question(reader: Reader) -> Any:
        if left:
            left.pop()
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY_CANTINIT
            raise error
        return reader.value("SELECT count(*) FROM batch")

    if times < 10:
        assert look(folder, question) == 0
    else:
        with pytest.raises(JournalError, match="it is being opened"):
            look(folder, question)
    await c.journal.aclose()


async def test_a_large_journal_is_told_at_once(folder: Path) -> None:
    c = await opened(folder)
    for number in range(1, 7):
        run = make_run(range(c.first + number * 100_000, c.first + number * 100_000 + 50_000), c.first + number)
        await record(c, accepted(run, digests=os.urandom(16 * 50_000)), *c.opened(number, run))
        if number % 2:
            await record(
                c, settled(f"batch_{number}", c.file(number), run.rows), Done(c.key(number), f"batch_{number}")
            )
    start = time.perf_counter()
    assert counts(folder) == (300_000, 150_000, 150_000, 150_000, 0, 0)
    assert time.perf_counter() - start < 1


# --- what cannot be read


@pytest.mark.parametrize("content", [b"", None])
async def test_a_journal_that_is_only_being_made_tells_nothing(folder: Path, content: bytes | None) -> None:
    folder.mkdir()
    database = folder / "journal.sqlite"
    if content is None:
        with sqlite3.connect(database) as made:
            made.execute("PRAGMA journal_mode = WAL")
        made.close()
    else:
        database.write_bytes(content)
    before = state_of(folder)
    assert contents(folder) is None
    assert list(Kept(folder)) == []
    assert state_of(folder) == before


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "journal.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("PRAGMA user_version = 99", r"was made by a newer carpool \(version 99\)\. Use that one\."),
        ("PRAGMA user_version = 0", r"was made by an older carpool \(version 0\)\. Use that one\."),
        ("PRAGMA application_id = 7", r"is the database of something else\."),
        ("DROP TABLE request", r"cannot be read: it is damaged \(no such table: request\)\."),
        ("DELETE FROM folder", r"cannot be read: it is damaged"),
        ("UPDATE batch SET runs = x'ff'", r"cannot be read: it is damaged"),
        ("UPDATE batch SET lane = x'00'", r"cannot be read: it is damaged"),
    ],
)
async def test_a_journal_of_others_and_a_damaged_one_is_told_in_a_sentence(
    folder: Path, statement: str, sentence: str
) -> None:
    await closed(folder)
    change(folder, statement)
    before = state_of(folder)
    with pytest.raises(JournalError, match=rf"journal\.sqlite.* {sentence}") as caught:
        contents(folder)
    assert "\n" not in str(caught.value)
    assert state_of(folder) == before


async def test_files_that_are_no_database_are_told(folder: Path) -> None:
    folder.mkdir()
    (folder / "journal.sqlite").write_bytes(b"thesis" * 1_000)
    with pytest.raises(JournalError, match=r"cannot be read: it is no database \(file is not a database\)"):
        contents(folder)
    (folder / "journal.sqlite").unlink()
    with pytest.raises(JournalError, match=rf"There is no journal in {folder}\."):
        contents(folder)
    (folder / "journal.sqlite").mkdir()
    with pytest.raises(JournalError, match=r"cannot be read: it cannot be opened\. Is it yours to read\?"):
        contents(folder)


async def test_a_torn_log_tells_what_was_safe_before_it(folder: Path, tmp_path: Path) -> None:
    copy = await crashed(folder, tmp_path / "copy")
    with (copy / "journal.sqlite-wal").open("r+b") as log:
        log.truncate(os.fstat(log.fileno()).st_size - 100)
    (copy / "journal.sqlite-shm").write_bytes(b"")
    assert counts(copy) in [(0, 0, 0, 0, 0, 0), (3, 0, 0, 2, 0, 1)]


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """Let nobody read something; root, whom that would not keep, becomes somebody else."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


@pytest.mark.parametrize("name", ["", "journal.sqlite"])
async def test_a_journal_of_another_user_is_told_in_a_sentence(name: str) -> None:
    with TemporaryDirectory(prefix="journal-", dir="/tmp") as open_to_all:
        os.chmod(open_to_all, 0o755)
        folder = await closed(Path(open_to_all, "journal"))
        folder.chmod(0o755)
        with without_rights(folder / name):
            with pytest.raises(JournalError, match=r"journal\.sqlite cannot be read: (Permission denied|.*yours to)"):
                contents(folder)
            assert present(folder) == []


# --- who is there


def signed(folder: Path, name: str, shard: int = 7) -> Path:
    path = lock_path(folder, shard)
    path.write_text(name)
    return path


def ours() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


async def test_processes_that_have_the_folder_open_are_named(folder: Path) -> None:
    one, other = await opened(folder), await opened(folder)
    assert present(folder) == [Presence(ours(), seen=True)] * 2
    await record(one, accepted(one.run(1)))
    await one.journal.aclose()  # and its lock is left, for who goes on with what is unfinished
    assert lock_path(folder, 1).exists()
    assert present(folder) == [Presence(ours(), seen=True)]
    await other.journal.aclose()
    assert present(folder) == []


async def test_another_machine_is_named_and_not_said_to_be_alive(folder: Path) -> None:
    folder.mkdir()
    signed(folder, "process 7 on elsewhere")
    signed(folder, f"process {os.getpid()} on {socket.gethostname()}", shard=8)
    signed(folder, "", shard=9)
    signed(folder, "\x00nonsense", shard=10)
    assert present(folder) == [Presence("process 7 on elsewhere", seen=False)]


# macOS has no such list: what is looked at then is who signed the lock, in the tests above.
@pytest.mark.skipif(not LOCKS.exists(), reason="this system lists no locks")
async def test_a_lock_is_found_by_its_file_or_else_by_who_signed_it(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    path = signed(folder, "process 7 on elsewhere")
    inode, device = path.stat().st_ino, path.stat().st_dev
    listed = tmp_path / "locks"
    here = f"{os.major(device):02x}:{os.minor(device):02x}"
    for line, seen in [
        (f"1: FLOCK  ADVISORY  WRITE 9 {here}:{inode} 0 EOF", True),
        (f"1: FLOCK  ADVISORY  WRITE 7 00:ff:{inode} 0 EOF", True),  # as on a file system over others
        (f"1: FLOCK  ADVISORY  WRITE 9 00:ff:{inode} 0 EOF", False),
        (f"1: FLOCK  ADVISORY  WRITE 7 {here}:{inode + 1} 0 EOF", False),
        (f"1: -> FLOCK  ADVISORY  WRITE 9 {here}:{inode} 0 EOF", False),  # waits for it
        (f"1: POSIX  ADVISORY  WRITE 9 {here}:{inode} 0 EOF", False),
    ]:
        listed.write_text(f"0: POSIX  ADVISORY  READ  1 00:01:1 0 EOF\n{line}\n")
        assert present(folder, listed) == [Presence("process 7 on elsewhere", seen)], line


async def test_without_a_list_of_locks_the_process_that_signed_is_looked_for(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    with running("") as gone:
        pass
    signed(folder, ours(), shard=1)
    signed(folder, f"process {gone.pid} on {socket.gethostname()}", shard=2)
    signed(folder, "process 7 on elsewhere", shard=3)
    signed(folder, "", shard=4)
    expected = [Presence(ours(), seen=True), Presence("process 7 on elsewhere", seen=False)]
    assert present(folder, tmp_path / "none") == expected


async def test_a_lock_held_by_another_process_is_seen(folder: Path) -> None:
    folder.mkdir()
    held = Lock.take(lock_path(folder, 1))
    assert held is not None
    held.sign()
    assert present(folder) == [Presence(ours(), seen=True)]
    held.close()
    assert present(folder) == []


# --- where answers lie


async def test_answers_are_given_by_file_in_their_order_there(folder: Path) -> None:
    c = await opened(folder)
    await record(c, accepted(c.run(*range(1, 8))), *c.opened(1, c.run(1, 2, 3, 4)))
    await record(c, *c.answered(1, 3, 1, 4, 2, failed=(1,)))
    for number in (5, 6):
        fact = settled("", c.file(2), c.rows(number))
        fact.offsets[0] = 500 - 100 * (number - 5)
        await record(c, fact)
    kept = Kept(folder)
    assert kept.answers == 5
    assert kept.lanes == {"batch_1": LANE}
    assert list(kept) == [
        Stretch(c.file(1), "batch_1", [(0, 100), (200, 100), (300, 100)]),
        Stretch(c.file(2), "", [(400, 100), (500, 100)]),
    ]


async def test_answers_since_a_time_alone_are_given(folder: Path) -> None:
    c = await opened(folder)
    await record(c, accepted(c.run(1, 2)), *c.opened(1, c.run(1)), *c.opened(2, c.run(2)))
    for number, at in ((1, NOW), (2, NOW + 100)):
        await c.journal.record((at, settled(f"batch_{number}", c.file(number), c.rows(number))))
    assert [stretch.batch_id for stretch in Kept(folder)] == ["batch_1", "batch_2"]
    assert [stretch.batch_id for stretch in Kept(folder, NOW + 1)] == ["batch_2"]
    assert (Kept(folder, NOW + 101).answers, list(Kept(folder, NOW + 101))) == (0, [])


async def test_answers_that_are_removed_meanwhile_are_left_out(folder: Path) -> None:
    c = await opened(folder)
    await record(c, accepted(c.run(1, 2)), settled("b", c.file(1), c.rows(1)), settled("b", c.file(2), c.rows(2)))
    await c.journal.aclose()
    kept = Kept(folder)
    change(folder, "DELETE FROM outcome WHERE id = 1")
    assert [stretch.file for stretch in kept] == [c.file(2)]


async def test_outcomes_are_told_of_so_many_answers_at_a_time() -> None:
    assert chunks_of(iter([])) == ([], 0)
    assert chunks_of(iter([(1, 5)]), 4) == ([(1, 1)], 5)
    assert chunks_of(iter([(1, 2), (2, 2), (5, 1), (6, 9), (8, 1), (9, 3)]), 4) == (
        [(1, 2), (5, 5), (6, 6), (8, 9)],
        18,
    )


async def test_any_question_is_asked_of_one_moment(folder: Path) -> None:
    c = await opened(folder)
    assert isinstance(c.journal, Sqlite)
    journal = c.journal

    def ask(reader: Any) -> tuple[int, int]:
        before = reader.value("SELECT count(*) FROM shard")
        change(folder, "INSERT INTO shard DEFAULT VALUES")
        return before, reader.value("SELECT count(*) FROM shard")

    assert look(folder, ask) == (1, 1)
    assert look(folder, lambda reader: reader.value("SELECT count(*) FROM shard")) == 2
    assert look(folder, lambda reader: list(reader.rows("SELECT account FROM folder"))) == [(ACCOUNT,)]
    await journal.aclose()


async def test_what_changes_while_it_is_read_without_a_log_is_read_again(folder: Path) -> None:
    await closed(folder)
    asked = []

    def ask(reader: Any) -> int:
        asked.append(reader.value("SELECT count(*) FROM shard"))
        if len(asked) < 3:
            change(folder, "INSERT INTO shard DEFAULT VALUES")
        return int(reader.value("SELECT count(*) FROM shard"))

    assert look(folder, ask) == 3
    assert asked == [1, 2, 3]


async def test_what_never_holds_still_is_told_in_a_sentence(folder: Path) -> None:
    await closed(folder)

    def ask(_reader: Any) -> None:
        change(folder, "INSERT INTO shard DEFAULT VALUES")

    with pytest.raises(JournalError, match=r"is opened and closed all the time\. Look again\."):
        look(folder, ask)
