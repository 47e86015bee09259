"""Word of batches that have ended, from one process of a journal to another; in memory as on disk."""

from pathlib import Path

import pytest
from journal_kit import NOW, Course, DiskHome, Home, MemoryHome, accepted, load, stamped

from carpool.engine.events import Done

pytestmark = pytest.mark.anyio

HOUR = 3_600.0


@pytest.fixture(params=["memory", "sqlite"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return MemoryHome() if request.param == "memory" else DiskHome(tmp_path / "journal")


async def test_word_reaches_whoever_waits_for_the_batch_once(home: Home) -> None:
    mine, other = await home.open(), await home.open()
    course = Course(other)
    await other.record(*stamped(accepted(course.run(1, 2)), *course.opened(1, course.run(1, 2))))
    await mine.leave_word({"batch_1", "batch_of_others"}, NOW)
    await mine.leave_word({"batch_1"}, NOW)
    assert await mine.take_word(()) == await other.take_word({"batch_2"}) == frozenset()
    assert await other.take_word({"batch_1", "batch_2", "batch_of_others"}) == {"batch_1"}
    assert await other.take_word({"batch_1"}) == frozenset()
    await mine.aclose()
    await other.aclose()


async def test_word_of_a_batch_that_is_over_or_never_was_is_not_kept(home: Home) -> None:
    journal = await home.open()
    course = Course(journal)
    await journal.record(*stamped(accepted(course.run(1)), *course.opened(1, course.run(1))))
    await journal.record(*stamped(Done(course.key(1), "batch_1")))
    await journal.leave_word({"batch_1", "batch_2"}, NOW)
    assert await journal.take_word({"batch_1", "batch_2"}) == frozenset()
    await journal.aclose()


async def test_word_that_comes_before_the_creation_is_recorded_waits_for_it(home: Home) -> None:
    mine, other = await home.open(), await home.open()
    course = Course(other)
    *before, created = stamped(accepted(course.run(1)), *course.opened(1, course.run(1)))
    await other.record(*before)
    await mine.leave_word({"batch_1"}, NOW)
    await other.record(created)
    assert await other.take_word({"batch_1"}) == {"batch_1"}
    await mine.aclose()
    await other.aclose()


async def test_word_that_nobody_takes_goes_after_an_hour(home: Home) -> None:
    journal = await home.open()
    course = Course(journal)
    await journal.record(*stamped(accepted(course.run(1)), course.packed(1, course.run(1))))
    await journal.leave_word({"batch_old", "batch_new"}, NOW)
    await journal.leave_word({"batch_new"}, NOW + HOUR)
    await journal.leave_word({"batch_new"}, NOW + HOUR + 1)
    assert await journal.take_word({"batch_old", "batch_new"}) == {"batch_new"}
    await journal.aclose()


async def test_word_is_there_for_the_heir_of_a_process_that_died(home: Home) -> None:
    mine, other = await home.open(), await home.open()
    course = Course(other)
    await other.record(*stamped(accepted(course.run(1)), *course.opened(1, course.run(1))))
    await mine.leave_word({"batch_1"}, NOW)
    home.kill(other)
    assert len(await load(mine)) == 4
    assert await mine.take_word({"batch_1"}) == {"batch_1"}
    await mine.aclose()
