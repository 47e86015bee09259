"""The spool on a real disk: what was added is what is read, whatever the order of writing."""

from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from carpool.models import Lane, Run
from carpool.spool import CHUNK, SEGMENT, Lines, Spool

pytestmark = pytest.mark.anyio

LANE = Lane("/v1/chat/completions", "m")


def frame(lane: Lane) -> tuple[bytes, bytes, bytes]:
    return b"<" + lane.model.encode(), b":", b">\n"


async def read(spool: Spool, *runs: Run) -> bytes:
    return b"".join([chunk async for chunk in spool.read(runs)])


async def test_lines_are_read_back_in_ranges() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    for number in range(10):
        spool.add(LANE, number, b"body %d" % number, 0)
    ((lane, run, *_),) = spool.accepted()
    await spool.write([run])
    assert lane == LANE
    assert list(run.rows) == list(range(10))
    assert await read(spool, run.part(2, 4)) == b"<m2:body 2>\n<m3:body 3>\n"
    assert await read(spool, run.part(9, 10), run.part(0, 1)) == b"<m9:body 9>\n<m0:body 0>\n"
    await spool.aclose()


async def test_rows_are_reported_once_and_lanes_apart() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    spool.add(LANE, 1, b"one", 0)
    spool.add(Lane("/v1/embeddings", "m"), 2, b"two", 5)
    reports = {lane: run for lane, run, *_ in spool.accepted()}
    assert spool.accepted() == []
    assert reports[LANE].inputs is None
    assert list(reports[Lane("/v1/embeddings", "m")].inputs or ()) == [5]
    spool.add(LANE, 3, b"three", 0)
    ((_, run, *_),) = spool.accepted()
    assert (list(run.rows), run.offset) == ([3], reports[LANE].size)
    await spool.aclose()


async def test_segments_end_and_large_work_is_read_back_whole() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    piece = b"x" * (CHUNK // 3)
    count = 3 * (SEGMENT // CHUNK) + 5
    for number in range(count):
        spool.add(LANE, number, piece, 0)
        if spool.has_chunks:
            await spool.write()
    runs = [run for _, run, *_ in spool.accepted()]
    await spool.write(runs)
    assert len({run.segment for run in runs}) == 2
    expected = b"".join(b"<m%d:%b>\n" % (number, piece) for number in range(count))
    assert await read(spool, *runs) == expected
    await spool.discard(runs[0].segment)
    assert await read(spool, runs[1]) == expected[runs[0].size :]
    with pytest.raises(OSError, match="segment"):
        await read(spool, runs[0])
    await spool.aclose()


async def test_what_could_not_be_written_is_written_the_next_time() -> None:
    full = True

    async def sometimes(func: Any, /, *args: object) -> Any:
        if full:
            raise OSError(28, "No space left on device")
        return await anyio.to_thread.run_sync(func, *args)

    spool = Spool(frame, sometimes)
    spool.add(LANE, 1, b"one", 0)
    ((_, run, *_),) = spool.accepted()
    with pytest.raises(OSError, match="No space left"):
        await spool.write([run])
    full = False
    await spool.write([run])
    assert await read(spool, run) == b"<m1:one>\n"
    await spool.aclose()


async def test_files_are_private_and_gone_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool(frame, anyio.to_thread.run_sync)
    spool.add(LANE, 1, b"one", 0)
    await spool.write([run for _, run, *_ in spool.accepted()])
    await spool.save("download", 0, b"rows")
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 2
    await spool.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_a_lane_whose_batches_are_small_leaves_its_segments_too() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    segments = set()
    for number in range(2 * SEGMENT // 1_000_000 + 4):
        spool.add(LANE, number, b"x" * 999_990, 0)
        ((_, run, *_),) = spool.accepted()
        await spool.write([run])
        segments.add(run.segment)
    assert len(segments) == 3
    await spool.aclose()


async def test_bodies_are_measured_without_their_frames_and_whatever_was_added_later() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    for number in (7, 88, 999):
        spool.add(LANE, number, b"x" * number, 0)
    ((lane, run, *_),) = spool.accepted()
    spool.add(LANE, 1_000, b"later", 0)
    seen: list[bytes] = []

    def measure(body: bytes) -> int:
        seen.append(body)
        return len(body)

    (one, two) = await spool.measure(lane, [run.part(0, 2), run.part(2, 3)], measure)
    assert [list(part.tokens or ()) for part in (one, two)] == [[7, 88], [999]]
    assert (one.rows, two.rows, two.offset) == (run.rows[:2], run.rows[2:], run.part(2, 3).offset)
    assert seen == [b"x" * 7, b"x" * 88, b"x" * 999]
    await spool.aclose()


@pytest.mark.parametrize("wrong", [None, "text", -1, 2**40])
async def test_a_measure_that_is_no_number_of_tokens_is_an_error(wrong: Any) -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    spool.add(LANE, 1, b"one", 0)
    ((lane, run, *_),) = spool.accepted()
    with pytest.raises((TypeError, OverflowError)):
        await spool.measure(lane, [run], lambda body: wrong)
    await spool.aclose()


async def test_what_was_added_is_weighed_before_it_is_told_of_and_told_of_once() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    told: list[int] = []
    for number in range(2_000):  # more than become lines at once, and no chunk
        spool.add(LANE, number, b"x" * 400, 0)
        assert spool.unreported >= 400 * (number + 1 - len(told))
        if number % 900 == 0:
            told += [row for _, run, *_ in spool.accepted() for row in run.rows]
            assert spool.unreported == 0
    ((_, run, *_),) = spool.accepted()
    assert [*told, *run.rows] == list(range(2_000))
    await spool.write([run])
    assert await read(spool, run) == b"".join(b"<m%d:%b>\n" % (number, b"x" * 400) for number in run.rows)
    await spool.aclose()


async def test_what_may_hold_images_or_files_is_told_apart() -> None:
    spool = Spool(frame, anyio.to_thread.run_sync)
    told = []
    for body in (b'{"content":"text"}', b'{"content":[{"type":"image_url"}]}', b'{"content":"text"}'):
        spool.add(LANE, 1, body, 0)
        ((_, _, rich, *_),) = spool.accepted()
        told.append(rich)
    assert told == [False, True, False]
    await spool.aclose()


async def test_lines_that_are_added_together_lie_as_those_that_are_added_one_by_one() -> None:
    spools = [Spool(frame, anyio.to_thread.run_sync) for _ in range(2)]
    bodies = [b"x" * size for size in (10, CHUNK // 2, CHUNK, 5, 3 * CHUNK, 1)]
    for number, body in enumerate(bodies):
        spools[0].add(("/v1/embeddings", "m", False, 0), number, body, number + 1, b"%d" % number)
    for part in (slice(0, 2), slice(2, 6)):
        numbers = list(range(6))[part]
        lines = Lines(numbers, bodies[part], [n + 1 for n in numbers], [b"%d" % n for n in numbers])
        spools[1].add_all(("/v1/embeddings", "m", False, 0), lines)
    one, together = (spool.accepted() for spool in spools)
    assert one == together
    assert spools[1].unwritten == sum(run.size for _, run, *_ in together)
    await spools[1].write()
    assert spools[1].unwritten == 0
    await spools[1].write([run for _, run, *_ in together])
    assert (await read(spools[1], *[run for _, run, *_ in together])).count(b"\n") == 6
    for spool in spools:
        await spool.aclose()
