"""What a journal keeps of submissions, in memory as on disk: until they are acked, and their keys for longer."""

import time
from array import array
from pathlib import Path
from typing import Any

import pytest
from journal_kit import Course, DiskHome, Home, MemoryHome, accepted, digest_of, load, open_sqlite, settled, stamped

from carpool.engine.events import Acked, Discarded, Event, Outstanding, Submission, Submitted, Unclaimed, Unmet
from carpool.journal import Ending, Journal, Keyed, Place

pytestmark = pytest.mark.anyio

ONE, OTHER = b"1" * 16, b"2" * 16


@pytest.fixture(params=["memory", "sqlite"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return MemoryHome() if request.param == "memory" else DiskHome(tmp_path / "journal")


def submitted(mine: Course, *numbers: int, **keys: int) -> list[Event]:
    """Submit rows, some without keys, together with their requests."""
    named = {row: key for key, row in keys.items()}
    rows = sorted({*numbers, *keys.values()})
    entries = tuple(Submission(mine.rows(row)[0], named.get(row)) for row in rows)
    return [Submitted(entries), accepted(mine.run(*rows))]


def place(mine: Course, row: int, number: int = 1) -> Place:
    return Place(mine.file(number), f"batch_{number}", 100 * (row - 1), 100, delivered=True)


def unmet(mine: Course, *rows: int, error: bytes = b"why") -> Unmet:
    return Unmet(array("Q", mine.rows(*rows)), error)


async def outstanding(journal: Journal) -> list[Event]:
    return [fact for _, fact in await load(journal) if isinstance(fact, Outstanding)]


# --- keys


async def test_a_key_is_claimed_once(home: Home) -> None:
    one, two = await home.open(), await home.open()
    assert await one.claim_keys({"a": ONE, "b": OTHER}) == {}
    assert await two.claim_keys({"a": ONE, "c": ONE}) == {"a": Keyed(None, ONE)}
    assert await one.claim_keys({"a": ONE}) == {}  # nothing was submitted under it, so it is still to be claimed here
    mine = Course(one)
    await one.record(*stamped(*submitted(mine, a=1)))
    (row,) = mine.rows(1)
    assert await one.claim_keys({"a": OTHER}) == await two.claim_keys({"a": OTHER}) == {"a": Keyed(row, ONE)}
    await one.aclose()
    await two.aclose()


async def test_a_key_under_which_nothing_was_submitted_is_free_again(home: Home) -> None:
    one, two = await home.open(), await home.open()
    await one.claim_keys({"given back": ONE, "left": ONE, "lost": ONE})
    await one.record(*stamped(Unclaimed("given back")))
    assert await two.claim_keys({"given back": OTHER, "left": OTHER}) == {"left": Keyed(None, ONE)}
    await one.aclose()
    assert await two.claim_keys({"left": OTHER}) == {}
    home.kill(two)
    three = await home.open()
    assert (await three.claim_keys({"left": ONE})).keys() == {"left"}  # until it is known that its process died
    await load(three)
    assert await three.claim_keys({"left": ONE, "given back": ONE, "lost": ONE}) == {}
    await three.aclose()


async def test_what_was_recorded_under_a_key_is_not_given_back(home: Home) -> None:
    journal = await home.open()
    await journal.claim_keys({"a": ONE})
    mine = Course(journal)
    await journal.record(*stamped(*submitted(mine, a=1), Unclaimed("a")))
    assert await journal.claim_keys({"a": ONE}) == {"a": Keyed(mine.first, ONE)}
    await journal.aclose()


async def test_more_keys_and_rows_than_one_statement_asks_for(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    keys = {f"k{number}": number for number in range(1, 1_201)}
    assert await journal.claim_keys(dict.fromkeys(keys, ONE)) == {}
    await journal.record(*stamped(*submitted(mine, **keys), unmet(mine, *keys.values())))
    assert len(await journal.claim_keys(dict.fromkeys(keys, ONE))) == 1_200
    assert len(await journal.endings(mine.rows(*keys.values()))) == 1_200
    await journal.aclose()


# --- until they are acked


async def test_endings_are_told_until_they_are_acked(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.claim_keys({"a": ONE, "b": ONE})
    await journal.record(*stamped(*submitted(mine, 3, 4, a=1, b=2)))
    rows = mine.rows(1, 2, 3, 4)
    assert await journal.endings(rows) == {}
    await journal.record(*stamped(*mine.opened(1, mine.run(1, 2, 3, 4)), unmet(mine, 2), unmet(mine, 2, error=b"late")))
    await journal.record(*stamped(*mine.answered(1, 1, 2, 3, failed=[2], given=True)))
    assert await journal.endings(rows) == {
        rows[0]: Ending("a", place(mine, 1), None),
        rows[1]: Ending("b", None, b"why"),
        rows[2]: Ending(None, place(mine, 3), None),
    }
    await journal.record(*stamped(Acked(rows[0], True), Acked(rows[1], False), Acked(rows[2], True)))
    await journal.record(*stamped(Acked(rows[0], True)))
    assert await journal.endings(rows) == {}
    # What failed may be submitted anew, what was answered may not.
    assert await journal.claim_keys({"a": ONE, "b": OTHER}) == {"a": Keyed(rows[0], ONE)}
    await journal.aclose()


async def test_an_answer_that_comes_after_the_failure_changes_nothing(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(*submitted(mine, 1), *mine.opened(1, mine.run(1)), unmet(mine, 1)))
    await journal.record(*stamped(*mine.answered(1, 1)))
    assert await journal.endings(mine.rows(1)) == {mine.first: Ending(None, None, b"why")}
    await journal.aclose()


async def test_failures_of_what_was_not_submitted_are_not_kept(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1)), unmet(mine, 1)))
    assert await journal.endings(mine.rows(1)) == {}
    await journal.aclose()


# --- told again


async def test_what_is_outstanding_is_told_to_the_next(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.claim_keys({"a": ONE})
    one, two, three, four = mine.rows(1, 2, 3, 4)
    entries = Submission(one, "a", ("x", "y"), 5.0), Submission(two, None, ("z",), 7.0), Submission(three)
    facts = Submitted((*entries, Submission(four))), accepted(mine.run(1, 2, 3, 4))
    await journal.record(*stamped(*facts, *mine.opened(1, mine.run(1, 2, 3, 4)), unmet(mine, 2)))
    await journal.record(*stamped(settled("batch_1", mine.file(1), [three, four])))
    await journal.record(*stamped(Acked(four, True)))
    home.kill(journal)
    for _ in range(2):
        heir = await home.open()
        told = await outstanding(heir)
        assert told == [Outstanding(array("Q", [two, three]), array("Q", [one]), {one: ("x", "y")}, {one: 5.0})]
        assert await outstanding(heir) == []
        assert await heir.endings([one, two, three]) == {
            two: Ending(None, None, b"why"),
            three: Ending(None, Place(mine.file(1), "batch_1", 0, 100, delivered=False), None),
        }
        assert await heir.claim_keys({"a": ONE}) == {"a": Keyed(one, ONE)}
        home.kill(heir)


async def test_a_process_that_ends_well_leaves_what_is_not_acked(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    rows = mine.rows(1, 2)
    await journal.record(*stamped(*submitted(mine, 1, 2), *mine.opened(1, mine.run(1, 2))))
    discarded = Discarded(mine.run(1).segment)
    await journal.record(*stamped(*mine.answered(1, 1, 2, given=True), discarded, Acked(rows[0], True)))
    await journal.aclose()
    heir = await home.open()
    assert await outstanding(heir) == [Outstanding(array("Q", rows[1:]), array("Q"))]
    await heir.record(*stamped(Acked(rows[1], True)))
    await heir.aclose()
    last = await home.open()
    assert await load(last) == []
    assert not last.holds(rows[0])  # nobody goes on with that shard
    await last.aclose()


async def test_others_that_live_keep_theirs(home: Home) -> None:
    one, two = await home.open(), await home.open()
    await one.record(*stamped(*submitted(Course(one), 1)))
    assert await outstanding(two) == []
    await one.aclose()
    await two.aclose()


# --- how long answers and keys are kept


async def test_retention_takes_what_was_acked_and_nothing_else(tmp_path: Path) -> None:
    journal: Any = await open_sqlite(tmp_path / "journal")
    mine = Course(journal)
    rows = mine.rows(1, 2, 3)
    await journal.claim_keys({"a": ONE, "b": ONE, "c": ONE})
    await journal.record(*stamped(*submitted(mine, a=1, b=2, c=3)))
    for number in (1, 2, 3):
        await journal.record(*stamped(*mine.opened(number, mine.run(number))))
        await journal.record(*stamped(*mine.answered(number, number, given=True)))
    await journal.record(*stamped(Acked(rows[0], True)))
    await journal.record(*stamped(Acked(rows[1], True), at=time.time()))
    await journal.aclose()
    heir = await open_sqlite(tmp_path / "journal", retention=1_000)
    await load(heir)
    assert await heir.claim_keys({"a": ONE, "b": ONE, "c": ONE}) == {"b": Keyed(rows[1], ONE), "c": Keyed(rows[2], ONE)}
    assert await heir.endings(rows) == {rows[2]: Ending("c", place(mine, 1, 3), None)}
    assert (await heir.summary()).answered == 1  # not that of "b" either: it came long ago
    assert not await heir.find([digest_of(rows[0])])
    await heir.aclose()
