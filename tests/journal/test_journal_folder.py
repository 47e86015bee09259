"""The folder: who may read it, what is refused, what goes when it is old, and what is left alone."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from journal_kit import (
    LANE,
    MONTH,
    NOW,
    Course,
    DiskHome,
    accepted,
    digest_of,
    find,
    load,
    open_sqlite,
    settled,
    stamped,
)

from carpool import JournalError
from carpool.engine.events import Accepted, Delivered, Discarded, Done, Escalated, Spent, unanswered
from carpool.journal import Summary
from carpool.journal.sqlite import Sqlite
from carpool.journal.sqlite.database import Database
from carpool.journal.sqlite.folder import Lock, lock_path
from carpool.journal.sqlite.outcomes import Outcomes
from carpool.naming import segment_name

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def names(folder: Path) -> set[str]:
    """Name the files that are not SQLite's."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("journal.sqlite")}


def write(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).write_bytes(b"{}\n")


# --- opening


async def test_the_owner_alone_may_read_what_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "journal"
    before = os.umask(0)
    try:
        journal = await open_sqlite(folder)
        await journal.record((NOW, accepted(Course(journal).run(1))))
        assert {path.name for path in folder.iterdir()} == {
            "journal.sqlite",
            "journal.sqlite-wal",
            "journal.sqlite-shm",
            "shard-1.lock",
        }
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert folder.stat().st_mode & 0o777 == 0o700
        await journal.aclose()
    finally:
        os.umask(before)


async def test_an_empty_folder_is_taken_as_it_is(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    await (await open_sqlite(folder)).aclose()
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"journal.sqlite": 0o600}


async def test_a_folder_that_holds_other_files_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("Chapter 1")
    with pytest.raises(JournalError, match=r"holds other files, and no journal\. Name a new or an empty one"):
        await open_sqlite(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


async def test_a_folder_that_another_process_makes_meanwhile_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir

    def make_and_list(path: Path) -> Iterator[Path]:
        write(path, "shard-1.lock")
        (path / "journal.sqlite").touch()
        return iterdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", make_and_list)
        journal = await open_sqlite(folder)
    await journal.aclose()


async def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "journal", Path("/proc/1/journal")):
        with pytest.raises(JournalError, match=rf"{folder} cannot be used: .*\. Name a writable one"):
            await open_sqlite(folder)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("step", ["open", "pwrite"])
async def test_a_disk_that_refuses_is_told_with_what_to_do(
    folder: Path, number: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, refuse)
        with pytest.raises(JournalError, match=rf"{os.strerror(number)}\. (Name a writable one|Free some room)"):
            await open_sqlite(folder)
    await (await open_sqlite(folder)).aclose()


@pytest.mark.parametrize("what", ["packed", "created", "over", "answered", "escalated", "open"])
async def test_a_folder_belongs_to_one_account_once_something_was_sent(folder: Path, what: str) -> None:
    journal = await open_sqlite(folder)
    mine = Course(journal)
    run = mine.run(1, 2)
    facts: dict[str, list[Any]] = {
        "packed": [accepted(run), mine.packed(3, run)],
        "created": [accepted(run), *mine.opened(3, run)],
        "over": [accepted(run), *mine.opened(3, run), unanswered(mine.rows(1, 2)), Done(mine.key(3), "batch_3", None)],
        "answered": [accepted(run), *mine.answered(3, 1, 2)],
        "escalated": [accepted(run), Escalated(LANE, (run,))],
        "open": [],
    }
    await journal.record(*((NOW, fact) for fact in facts[what]))
    if what != "open":
        await journal.aclose()
    with pytest.raises(JournalError, match=r"belongs to https://api\.example/v1, not to other: .*, or another folder"):
        await Sqlite.open(folder, "other", MONTH, anyio.to_thread.run_sync)
    await journal.aclose()


async def test_what_only_waits_may_go_to_another_account(folder: Path) -> None:
    journal = await open_sqlite(folder)
    mine = Course(journal)
    run = mine.run(1, 2)
    packed, failed, over = mine.packed(3, run), unanswered(mine.rows(1)), Done(mine.key(3), None)  # it was not uploaded
    await journal.record(*stamped(accepted(run), packed, failed, over))
    await journal.aclose()
    heir = await Sqlite.open(folder, "other", MONTH, anyio.to_thread.run_sync)
    told = [fact for _, fact in await load(heir) if isinstance(fact, Accepted)]
    assert [[*fact.run.rows] for fact in told] == [mine.rows(2)]
    await heir.aclose()
    await (await Sqlite.open(folder, "other", MONTH, anyio.to_thread.run_sync)).aclose()


async def test_processes_that_leave_in_good_order_leave_no_lock(folder: Path) -> None:
    journal, other = await open_sqlite(folder), await open_sqlite(folder)
    mine = Course(journal)
    await journal.record((NOW, accepted(mine.run(1))))
    await journal.aclose()
    await other.aclose()
    assert names(folder) == {"shard-1.lock"}  # something waits in it
    heir = await open_sqlite(folder)
    await load(heir)
    await heir.record((NOW, settled(None, None, mine.rows(1), failed=mine.rows(1))), (NOW, Discarded(mine.first)))
    await heir.aclose()
    assert names(folder) == set()


async def test_a_lock_file_that_was_removed_while_it_was_locked_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes it anew would hold it too."""
    folder.mkdir()
    path = lock_path(folder, 1)
    flock = fcntl.flock
    for make in (Path.unlink, lambda path: (path.unlink(), path.touch())):

        def lock_late(descriptor: int, operation: int, make: Callable[[Path], object] = make) -> None:
            make(path)
            flock(descriptor, operation)

        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", lock_late)
            assert Lock.take(path) is None
    lock = Lock.take(path)
    assert lock is not None
    assert Lock.take(path) is None
    lock.close()


async def test_locks_that_were_taken_over_do_not_gather(folder: Path) -> None:
    home = DiskHome(folder)
    living = await home.open()
    before = removed_and_open()
    for _ in range(5):
        journal = await home.open()
        await journal.record((NOW, accepted(Course(journal).run(1))))
        home.kill(journal)
        assert len(await load(living)) == 1
    assert names(folder) == {"shard-1.lock"}
    assert removed_and_open() == before
    await living.aclose()


def removed_and_open() -> int:
    """Count the files without a name that this process has open."""
    count = 0
    for descriptor in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # that of the listing itself
            status = os.fstat(descriptor)
            count += stat.S_ISREG(status.st_mode) and status.st_nlink == 0
    return count


async def test_a_number_that_a_living_process_holds_is_left_out(folder: Path, tmp_path: Path) -> None:
    """A copy of the database was put back that does not know of it."""
    await (await open_sqlite(folder)).aclose()
    copy = (folder / "journal.sqlite").read_bytes()
    living = await open_sqlite(folder)
    for path in folder.glob("journal.sqlite*"):
        path.unlink()
    (folder / "journal.sqlite").write_bytes(copy)
    others = [await open_sqlite(folder) for _ in range(2)]
    assert len({journal.numbered for journal in (living, *others)}) == 3
    for journal in others:
        await journal.aclose()
    await living.aclose()


# --- what is old


async def test_answers_that_were_delivered_go_when_they_are_old(folder: Path) -> None:
    home = DiskHome(folder)
    journal = await home.open()
    mine = Course(journal)
    now = float(int(time.time()))
    packed = [mine.packed(number, mine.run(number)) for number in range(1, 5)]
    await journal.record(*stamped(accepted(mine.run(*range(1, 9))), *packed, at=now - 2 * MONTH))
    await journal.record(*stamped(*mine.answered(1, 2, 1, failed=[2], given=True), at=now - 1.5 * MONTH))
    await journal.record(*stamped(*mine.answered(2, 3, 4), at=now - 1.5 * MONTH))
    await journal.record(*stamped(*mine.answered(3, 5, 6, given=True), at=now - 0.5 * MONTH))
    await journal.record(*stamped(*mine.answered(4, 7), Delivered(tuple(mine.rows(7, 3))), at=now - 1.5 * MONTH))
    files = [mine.file(number) for number in range(1, 5)]
    write(folder, *files, segment_name(mine.first))
    home.kill(journal)
    heir = await open_sqlite(folder, MONTH)
    assert set(await find(heir, *mine.rows(*range(1, 9)))) == set(mine.rows(3, 4, 5, 6, 8))
    assert await heir.summary() == Summary(4, 1, now - 0.5 * MONTH)
    # What went does not come back as something that waits.
    assert await load(heir) == [(now - 2 * MONTH, Accepted(LANE, mine.run(8, offset=70)))]
    assert names(folder) == {files[1], files[2], segment_name(mine.first), "shard-2.lock"}
    await heir.aclose()
    rest = await open_sqlite(folder, retention=0)
    assert set(await find(rest, *mine.rows(*range(1, 9)))) == set(mine.rows(3, 4, 8))
    await load(rest)
    assert names(folder) == {files[1], segment_name(mine.first), "shard-3.lock"}
    await rest.aclose()


async def test_batches_of_the_last_hour_count_however_short_the_retention_is(folder: Path) -> None:
    journal = await open_sqlite(folder)
    mine = Course(journal)
    now = time.time()
    await journal.record((now - 60, mine.packed(1, mine.run(1))), (now - 59, Done(mine.key(1), "batch_1")))
    await journal.aclose()
    heir = await open_sqlite(folder, retention=0)
    assert [fact for _, fact in await load(heir)] == [Spent((now - 60,))]
    await heir.aclose()


async def test_a_journal_that_stays_open_forgets_what_is_old(folder: Path) -> None:
    """With the files of answers, but for those that may just be downloaded."""
    journal, other = await open_sqlite(folder, retention=1_000), await open_sqlite(folder)
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1, 2)), *mine.answered(1, 1, given=True), *mine.answered(2, 2)))
    await journal.record(
        (time.time(), accepted(mine.run(3))), *stamped(*mine.answered(3, 3, given=True), at=time.time())
    )
    files = [mine.file(number) for number in range(1, 5)]
    write(folder, *files, segment_name(mine.first))
    for name in (*files[:3], segment_name(mine.first)):
        os.utime(folder / name, (NOW, NOW))
    await journal.forget_old()
    assert set(await find(other, *mine.rows(1, 2, 3))) == set(mine.rows(2, 3))
    assert names(folder) == {*files[1:], segment_name(mine.first), "shard-1.lock", "shard-2.lock"}
    for one in (journal, other):
        await one.aclose()


async def test_what_was_delivered_late_is_kept_for_as_long_from_then_on(folder: Path) -> None:
    journal = await open_sqlite(folder, retention=1_000)
    mine = Course(journal)
    now = time.time()
    await journal.record(*stamped(accepted(mine.run(1, 2)), *mine.answered(1, 1, 2), at=now - 5_000))
    await journal.record((now - 900, Delivered(tuple(mine.rows(1, 2)))))
    await journal.aclose()
    heir = await open_sqlite(folder, retention=1_000)
    assert set(await find(heir, *mine.rows(1, 2))) == set(mine.rows(1, 2))
    await heir.aclose()
    last = await open_sqlite(folder, retention=800)
    assert set(await find(last, *mine.rows(1, 2))) == set()
    await last.aclose()


async def test_what_is_old_goes_many_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await open_sqlite(folder)
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(*range(1, 401)))))
    for number in range(1, 401):
        await journal.record(*stamped(*mine.answered(number, number, given=True)))
    await journal.aclose()
    transactions: list[None] = []
    real = Database.transaction

    def counted(self: Database) -> Any:
        transactions.append(None)
        return real(self)

    monkeypatch.setattr(Database, "transaction", counted)
    heir = await open_sqlite(folder, retention=0)
    assert len(transactions) < 200
    assert await find(heir, *mine.rows(*range(1, 401))) == {}
    await heir.aclose()


async def test_what_many_calls_left_is_taken_over_without_a_look_at_all_answers_for_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = DiskHome(folder)
    dead = await home.open()
    theirs = Course(dead)
    for number in range(1, 401):
        await dead.record(*stamped(accepted(theirs.run(number, offset=10 * number))))
    await dead.record(*stamped(*theirs.answered(1, *range(1, 400))))
    home.kill(dead)
    looks: list[int] = []
    real = Outcomes.answered

    def counted(self: Outcomes, rows: Any) -> set[int]:
        looks.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(Outcomes, "answered", counted)
    heir = await home.open()
    told = [fact for _, fact in await load(heir) if isinstance(fact, Accepted)]
    assert [row for fact in told for row in fact.run.rows] == theirs.rows(400)
    assert len(looks) <= 5
    await heir.aclose()


async def test_what_the_living_delivered_goes_and_their_files_stay(folder: Path) -> None:
    living = await open_sqlite(folder)
    mine = Course(living)
    await living.record(*stamped(accepted(mine.run(1, 2)), *mine.answered(1, 1, given=True), *mine.answered(2, 2)))
    await find(living, *mine.rows(1, 2))
    write(folder, mine.file(1), mine.file(2), mine.file(3), segment_name(mine.first + 7))
    other = await open_sqlite(folder, retention=0)
    await load(other)
    for journal in (living, other):
        assert set(await find(journal, *mine.rows(1, 2))) == set(mine.rows(2))
    kept = {mine.file(1), mine.file(2), mine.file(3), segment_name(mine.first + 7)}
    assert names(folder) == {*kept, "shard-1.lock", "shard-2.lock"}
    # What comes now is not taken for what went.
    await living.record(*stamped(accepted(mine.run(3)), *mine.answered(3, 3)))
    assert (await find(other, *mine.rows(3)))[mine.rows(3)[0]][0].place is not None
    await other.aclose()
    await living.aclose()


# --- what nobody refers to


async def test_what_the_dead_left_half_done_is_removed(folder: Path) -> None:
    home = DiskHome(folder)
    living, dead = await home.open(), await home.open()
    mine, theirs = Course(living), Course(dead)
    await dead.record(*stamped(accepted(theirs.run(1, 2)), *theirs.answered(1, 1)))
    kept = {theirs.file(1), segment_name(theirs.first)}
    half = {theirs.file(2), segment_name(theirs.first + 1)}
    growing = {mine.file(1), segment_name(mine.first)}
    foreign = {"notes.txt", "download-x-1.jsonl", "segment-2-1.jsonl.gz"}
    write(folder, *kept, *half, *growing, *foreign)
    await load(living)
    assert names(folder) == kept | half | growing | foreign | {"shard-1.lock", "shard-2.lock"}
    home.kill(dead)
    await load(living)
    assert names(folder) == kept | growing | foreign | {"shard-1.lock"}
    await living.aclose()


async def test_what_a_process_left_behind_in_good_order_is_removed_at_the_next_opening(folder: Path) -> None:
    journal = await open_sqlite(folder)
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1)), *mine.answered(1, 1), Discarded(mine.first)))
    write(folder, mine.file(1), mine.file(2), segment_name(mine.first))
    await journal.aclose()
    heir = await open_sqlite(folder)
    await load(heir)
    assert names(folder) == {mine.file(1), "shard-2.lock"}
    await heir.aclose()


async def test_a_segment_of_which_all_is_settled_goes_though_nobody_discarded_it(folder: Path) -> None:
    home = DiskHome(folder)
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1)), accepted(mine.run(2, segment=2)), *mine.answered(1, 1)))
    write(folder, mine.file(1), segment_name(mine.first), segment_name(mine.first + 1))
    home.kill(journal)
    heir = await home.open()
    assert len(await load(heir)) == 1
    assert names(folder) == {mine.file(1), segment_name(mine.first + 1), "shard-2.lock"}
    await heir.aclose()


async def test_files_of_an_adopter_are_kept_for_the_dead(folder: Path) -> None:
    """What is adopted is of the adopter's own, and so is what it loads down for it."""
    home = DiskHome(folder)
    dead = await home.open()
    theirs = Course(dead)
    await dead.record((NOW, accepted(theirs.run(1))))
    write(folder, segment_name(theirs.first))
    home.kill(dead)
    adopter = await home.open()
    await load(adopter)
    mine = Course(adopter)
    write(folder, mine.file(1))
    other = await home.open()
    await load(other)
    assert names(folder) == {segment_name(theirs.first), mine.file(1), "shard-2.lock", "shard-3.lock"}
    assert await other.find({digest_of(theirs.first)}) != {}
    await other.aclose()
    await adopter.aclose()
