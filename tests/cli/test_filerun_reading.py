"""INPUT is read in lines, wherever it comes from."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from carpool.cli.filerun.endings import Refused
from carpool.cli.filerun.reading import CHUNK, Input

LINES = [b'{"a":%d,"b":"\xe2\x80\xa8\xc2\x85"}\r' % number for number in range(3)] + [b"", b"last"]
CONTENT = b"\n".join(LINES)


async def lines_of(source: Input) -> list[bytes]:
    return [line async for lines in source.lines() for line in lines]


@pytest.fixture
def pipe() -> Iterator[tuple[Path, int]]:
    reading, writing = os.pipe()
    try:
        yield Path(f"/dev/fd/{reading}"), writing
    finally:
        os.close(reading)


@pytest.mark.anyio
@pytest.mark.parametrize("packed", [False, True])
async def test_a_file_is_read_twice_plain_or_gzipped(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "input.jsonl"  # the name does not tell
    path.write_bytes(gzip.compress(CONTENT[:20]) + gzip.compress(CONTENT[20:]) if packed else CONTENT)
    source = Input.open(str(path))
    try:
        assert source.rereadable
        assert await lines_of(source) == LINES
        assert await lines_of(source) == LINES
        assert [line for lines in source.blocks() for line in lines] == LINES
    finally:
        source.close()


@pytest.mark.anyio
async def test_of_the_standard_input_what_others_have_left_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"of another\n" + CONTENT)
    with path.open("rb", buffering=0) as file:
        assert file.read(11)
        before = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            source = Input.open("-")
            assert await lines_of(source) == await lines_of(source) == LINES
            source.close()
        finally:
            os.dup2(before, 0)
            os.close(before)


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"", b"\n", b"x", b"x\n" * CHUNK, b"x" * (2 * CHUNK) + b"\ny"])
async def test_no_line_is_lost(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    source = Input.open(str(path))
    try:
        lines = await lines_of(source)
    finally:
        source.close()
    assert lines == content.split(b"\n")[: -1 if content.endswith(b"\n") or not content else None]


@pytest.mark.anyio
@pytest.mark.parametrize("packed", [False, True])
async def test_what_comes_through_a_pipe_can_be_kept_to_be_read_twice(
    tmp_path: Path, pipe: tuple[Path, int], packed: bool
) -> None:
    path, writing = pipe
    os.write(writing, gzip.compress(CONTENT) if packed else CONTENT)
    os.close(writing)
    source = Input.open(str(path))
    try:
        assert not source.rereadable
        await source.keep(tmp_path)
        assert source.rereadable
        assert await lines_of(source) == await lines_of(source) == LINES
    finally:
        source.close()
    assert not [*tmp_path.iterdir()]


@pytest.mark.anyio
async def test_lines_of_a_pipe_come_while_it_is_written(pipe: tuple[Path, int]) -> None:
    path, writing = pipe
    source = Input.open(str(path))
    lines = source.lines()
    os.write(writing, b"one\ntw")
    assert await anext(lines) == [b"one"]
    os.write(writing, b"o\n")
    assert await anext(lines) == [b"two"]
    os.close(writing)
    assert await anext(lines, None) is None
    source.close()


@pytest.mark.anyio
@pytest.mark.parametrize("packed", [False, True])
async def test_a_pipe_may_give_byte_after_byte(pipe: tuple[Path, int], packed: bool) -> None:
    path, writing = pipe
    source = Input.open(str(path))
    content = gzip.compress(CONTENT) if packed else CONTENT
    found: list[bytes] = []

    async def read() -> None:
        found.extend(await lines_of(source))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for byte in (content[:1], content[1:2], content[2:3], content[3:]):
            await anyio.wait_all_tasks_blocked()
            os.write(writing, byte)
        os.close(writing)
    assert found == LINES
    source.close()


@pytest.mark.anyio
async def test_nobody_waits_for_a_thread_that_waits_for_a_pipe(pipe: tuple[Path, int]) -> None:
    path, writing = pipe
    before = len(os.listdir("/dev/fd"))
    source = Input.open(str(path))
    with anyio.fail_after(5):
        with anyio.move_on_after(0.05) as scope:
            await lines_of(source)
        source.close()
        assert scope.cancelled_caught
        os.close(writing)
        while len(os.listdir("/dev/fd")) >= before:  # noqa: ASYNC110 - the thread closes what it waited for
            await anyio.sleep(0.001)


@pytest.mark.anyio
@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: data[:30] + b"\0" * 30 + data[60:]])
async def test_a_damaged_archive_is_refused_by_name(tmp_path: Path, damage: "object") -> None:
    path = tmp_path / "input.gz"
    path.write_bytes(damage(gzip.compress(os.urandom(1_000).hex().encode())))  # type: ignore[operator]
    source = Input.open(str(path))
    try:
        with pytest.raises(Refused, match=r"input\.gz"):
            await lines_of(source)
    finally:
        source.close()


def test_input_and_output_may_be_one_file_by_two_names(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"x")
    link.symlink_to(path)
    source = Input.open(str(path))
    assert source.is_at(link)
    for other in ("c", "a/c", "x" * 300):
        assert not source.is_at(tmp_path / other)
    source.close()


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_is_no_file_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|directory"):
        Input.open(str(tmp_path / name))
