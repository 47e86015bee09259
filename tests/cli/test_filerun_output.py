"""OUTPUT is one process's at a time, and holds whole rows whatever the disk does."""

import errno
import json
import os
import resource
import stat
from array import array
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest

from carpool.cli.filerun import output as output_module
from carpool.cli.filerun.beside import Seen, folder_of, read_seen
from carpool.cli.filerun.endings import Refused, Stopped
from carpool.cli.filerun.formats import bad_row
from carpool.cli.filerun.output import Output, scan
from carpool.cli.filerun.rows import ASKED, MADE_UP, Row
from carpool.journal.sqlite.folder import prepare

ROWS = [bad_row(number << 32 | number, b"null", "x" * 500) for number in range(1, 41)]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]  # aiofiles knows no other


@asynccontextmanager
async def opened(path: Path, *, texts: bool = False) -> AsyncIterator[Output]:
    output = Output.take(path, texts=texts)
    try:
        await output.open(await output.begun())
        yield output
    finally:
        await output.close()


@contextmanager
def little_room() -> Iterator[None]:
    """Let no file grow beyond so many bytes, nor what pytest writes: a write is cut short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(b"".join(ROWS[:10])) + 77, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what makes no chunk soon."""
    monkeypatch.setattr(output_module, "PAUSE", 0.02)


async def test_rows_are_written_behind_those_that_are_held(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for start in (0, 20):
        async with opened(path) as output:
            for row in ROWS[start : start + 20]:
                output.add(row)
            await output.finish()
    assert path.read_bytes() == b"".join(ROWS)
    assert scan(path, texts=False).rows == 40


async def test_what_is_torn_is_cut_off_and_a_line_break_that_is_missing_is_added(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for rest in (ROWS[2][:30], b"\0" * 99):
        path.write_bytes(ROWS[0] + ROWS[1] + rest)
        async with opened(path):
            assert path.read_bytes() == ROWS[0] + ROWS[1]
    path.write_bytes((ROWS[0] + ROWS[1])[:-1])
    async with opened(path) as output:
        output.add(ROWS[2])
        await output.finish()
    assert path.read_bytes() == b"".join(ROWS[:3])


async def test_a_second_process_is_refused_and_none_when_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "out"
    async with opened(path):
        with pytest.raises(Refused, match="another process"):
            Output.take(path, texts=False)
    async with opened(path):
        pass


async def test_what_was_made_for_nothing_is_removed_and_what_was_there_is_not(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.touch()
    for path in (new, old):
        output = Output.take(path, texts=False)
        await output.begun()
        await output.close()
    assert [*tmp_path.iterdir()] == [old]


async def test_output_has_the_rights_that_files_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        async with opened(tmp_path / "out"):
            assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640
    finally:
        os.umask(before)


async def test_what_is_remembered_of_input_its_owner_alone_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Seen(tmp_path / "out", ASKED, 0).begin()
    finally:
        os.umask(before)
    (seen,) = folder_of(tmp_path / "out").glob("*.seen")
    assert stat.S_IMODE(seen.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", [".", "missing/out", "/dev/null", "file/out", "loop", "x" * 300])
async def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Refused, match="OUTPUT"):
        Output.take(tmp_path / name, texts=False)


async def test_to_look_changes_nothing_and_waits_for_nobody(tmp_path: Path) -> None:
    assert scan(tmp_path / "missing", texts=False).rows == 0
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "x" * 300):
        with pytest.raises(Refused, match="OUTPUT"):
            scan(tmp_path / name, texts=False)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


async def test_the_beginning_of_a_first_row_is_torn_where_a_journal_stands_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'{"id"')
    with pytest.raises(Refused, match="OUTPUT"):
        scan(path, texts=False)
    prepare(folder_of(path))
    assert scan(path, texts=False).size == 0


async def test_a_link_that_led_nowhere_stays_and_what_came_meanwhile_too(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    output = Output.take(link, texts=False)
    assert target.exists()
    await output.close()
    assert [*tmp_path.iterdir()] == [link]
    output = Output.take(target, texts=False)
    target.write_bytes(b"of another")
    await output.close()
    assert target.read_bytes() == b"of another"


@pytest.mark.parametrize("replaced", [False, True])
async def test_an_output_that_is_moved_away_is_missed(tmp_path: Path, replaced: bool) -> None:
    path, moved = tmp_path / "out", tmp_path / "moved"
    async with opened(path) as output:
        path.rename(moved)
        if replaced:
            path.write_bytes(b"of another")
        output.add(ROWS[0])
        with pytest.raises(Stopped, match="moved"):
            await output.finish()
    assert moved.read_bytes() == ROWS[0]
    assert path.exists() == replaced


async def test_a_link_leads_to_one_journal(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    (tmp_path / "link").symlink_to("out")
    assert folder_of(tmp_path / "link") == folder_of(tmp_path / "out") == tmp_path.resolve() / "out.carpool"


async def test_a_full_disk_leaves_whole_rows_and_nothing_is_written_behind_a_gap(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out"
    with little_room():
        async with opened(path) as output:
            for row in ROWS[:5]:
                output.add(row)
            await output.flush()
            for row in ROWS[5:20]:
                output.add(row)
            with pytest.raises(Stopped, match=os.strerror(errno.EFBIG)):
                await output.flush()
            output.add(ROWS[20])
            with pytest.raises(Stopped, match="cannot be written"):
                await output.flush()
    assert path.read_bytes() == b"".join(ROWS[:5])


async def test_rows_that_make_no_chunk_are_written_after_a_while(tmp_path: Path, short_pause: None) -> None:
    path = tmp_path / "out"
    broken: list[Stopped] = []
    with anyio.fail_after(10):
        async with opened(path) as output, anyio.create_task_group() as tasks:
            tasks.start_soon(output.keep_writing, broken.append)
            output.add(ROWS[0])
            assert not output.is_full
            while not path.stat().st_size:  # noqa: ASYNC110 - a file has no events
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert path.read_bytes() == ROWS[0]
    assert not broken


async def test_a_disk_that_refuses_meanwhile_is_told_of(tmp_path: Path, short_pause: None) -> None:
    broken: list[Stopped] = []
    with little_room(), anyio.fail_after(10):
        async with opened(tmp_path / "out") as output:
            for row in ROWS:
                output.add(row)
            await output.keep_writing(broken.append)
    assert len(broken) == 1


async def test_a_write_that_is_cancelled_is_done_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    async with opened(path) as output:
        for row in ROWS:
            output.add(row)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await output.flush()
        await output.finish()
    assert path.read_bytes() == b"".join(ROWS)


async def test_rows_that_are_written_are_counted(tmp_path: Path) -> None:
    async with opened(tmp_path / "out") as output:
        for number, row in enumerate(ROWS[:5]):
            output.add(row, failed=number % 2 == 0)
        assert (output.rows, output.failed) == (0, 0)
        await output.flush()
        assert (output.rows, output.failed) == (5, 3)


# --- texts


def seen(path: Path, numbers: Iterable[int], mark: bytes = ASKED) -> Seen:
    remembered = Seen(path, mark, len(read_seen(path, mark) or ()))
    remembered.begin()
    remembered.add([Row(n << 32 | 2 * n, n, b"null", "/v1/responses", b"{}") for n in numbers])
    return remembered


async def test_texts_are_known_by_what_is_remembered_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "out"
    texts = [json.dumps(f"{n}").encode() + b"\n" for n in range(6)]
    await seen(path, range(1, 5)).write()
    async with opened(path, texts=True) as output:
        for text in texts[:4]:
            output.add(text)
        await output.finish()
    path.write_bytes(path.read_bytes()[:-3])  # the last one is torn
    async with opened(path, texts=True) as output:
        output.add(texts[3])
        await output.finish()
    assert path.read_bytes() == b"".join(texts[:4])
    assert scan(path, texts=True).rows == 4


@pytest.mark.parametrize(("left", "rows"), [(b"", 0), (b"\2\0\0\0\4\0\0\0\6", 2), (b"\2\0\0\0" + bytes(80), 1)])
async def test_texts_of_which_a_power_cut_took_the_memory_are_written_again(
    tmp_path: Path, left: bytes, rows: int
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'"text"\n' * 3)
    await seen(path, range(1, 4)).write()
    (folder_of(path) / "row.seen").write_bytes(left)
    assert scan(path, texts=True).rows == rows
    await seen(path, range(1, 4)).write()
    async with opened(path, texts=True):
        assert path.read_bytes() == b'"text"\n' * 3
    assert read_seen(path, ASKED) == array("I", [2, 4, 6])


async def test_texts_that_were_made_up_are_none_that_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'"text"\n')
    for mark, other in ((MADE_UP, ASKED), (ASKED, MADE_UP)):
        await seen(path, [1], mark).write()
        assert scan(path, mark, texts=True).rows == 1
        with pytest.raises(Refused, match="nothing says"):
            scan(path, other, texts=True)
    with pytest.raises(Refused, match="--mode emulate"):
        seen(path, [1], MADE_UP)


async def test_a_disk_that_is_full_stops_what_is_remembered(tmp_path: Path) -> None:
    with little_room(), pytest.raises(Stopped, match=r"row\.seen cannot be written"):
        await seen(tmp_path / "out", range(1, 9_000)).write()
