"""What a journal keeps of calls that are about to be recorded, in memory as on disk: one process begins with each."""

from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from unittest import mock

import pytest
from journal_kit import Course, DiskHome, Home, MemoryHome, accepted, digest_of, load, open_sqlite, stamped

from carpool.journal import Intents

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return MemoryHome() if request.param == "memory" else DiskHome(tmp_path / "journal")


ONE, OTHER, THIRD = b"1" * 16, b"2" * 16, b"3" * 16
NONE = Intents(frozenset(), frozenset())


def others(*digests: bytes, known: Iterable[bytes] = ()) -> Intents:
    return Intents(frozenset(digests), frozenset(known))


async def test_one_process_begins_with_a_call_and_the_others_hear_of_it(home: Home) -> None:
    one, two = await home.open(), await home.open()
    assert await one.intend({ONE, OTHER}) == NONE
    assert await two.intend({ONE, THIRD}) == others(ONE)
    assert await one.intend({ONE, THIRD}) == others(THIRD, known=[ONE])
    await one.aclose()
    assert await two.intend({ONE, OTHER}) == NONE
    await two.aclose()


async def test_what_is_recorded_is_found_and_no_more_about_to_be(home: Home) -> None:
    one, two = await home.open(), await home.open()
    mine = Course(one)
    run = mine.run(1, 2)
    digests = [digest_of(row) for row in run.rows]
    await one.intend({*digests, OTHER})
    await one.record(*stamped(accepted(run)))
    assert (await two.find(digests)).keys() == set(digests)
    assert await two.intend({*digests, OTHER}) == others(OTHER)
    await one.aclose()
    await two.aclose()


async def test_what_is_withdrawn_is_left_to_others(home: Home) -> None:
    one, two = await home.open(), await home.open()
    await one.intend({ONE, OTHER})
    await one.withdraw([ONE])
    assert await two.intend({ONE, OTHER}) == others(OTHER)
    await one.aclose()
    await two.aclose()


async def test_what_a_process_was_about_to_record_that_died_is_free_once_that_is_known(home: Home) -> None:
    one, two = await home.open(), await home.open()
    await one.intend({ONE})
    home.kill(one)
    assert await two.intend({ONE}) == others(ONE)
    await load(two)
    assert await two.intend({ONE}) == NONE
    await two.aclose()


async def test_many_are_declared_at_once(home: Home) -> None:
    one, two = await home.open(), await home.open()
    many = {number.to_bytes(16) for number in range(1_200)}
    assert await one.intend(many) == NONE
    assert await two.intend(many | {ONE}) == others(*many)
    await one.aclose()
    await two.aclose()


async def test_what_a_dead_process_was_about_to_record_is_free_though_its_heir_did_not_hear_all(home: Home) -> None:
    one = await home.open()
    await one.intend({ONE})
    home.kill(one)
    heir = await home.open()
    async with aclosing(heir.load()) as chunks:
        await anext(chunks, None)
    await heir.aclose()
    last = await home.open()
    await load(last)
    assert await last.intend({ONE}) == NONE
    await last.aclose()


async def test_what_is_neither_recorded_nor_withdrawn_is_free_in_the_end(tmp_path: Path) -> None:
    one, two = await open_sqlite(tmp_path), await open_sqlite(tmp_path)
    with mock.patch("time.time", return_value=1_000.0):
        await one.intend({ONE})
    with mock.patch("time.time", return_value=1_500.0):
        assert await two.intend({ONE}) == others(ONE)
    with mock.patch("time.time", return_value=1_601.0):
        assert await two.intend({ONE}) == NONE
    await one.aclose()
    await two.aclose()
