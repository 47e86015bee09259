"""What a journal says of the provider's side, and whether it is sound, told from outside."""

from pathlib import Path

import pytest
from journal_kit import NOW, Course, open_sqlite, stamped, status_of

from carpool.engine.events import Cleared, Done, Event, Uploaded
from carpool.errors import JournalError
from carpool.journal.sqlite.checkup import Remains, damage, remains
from carpool.journal.sqlite.folder import DATABASE
from carpool.models import Leftovers, Sought

pytestmark = pytest.mark.anyio


async def test_an_empty_journal_knows_of_nothing(tmp_path: Path) -> None:
    journal = await open_sqlite(tmp_path)
    await journal.aclose()
    assert remains(tmp_path) == Remains(frozenset(), frozenset())


async def test_what_is_under_way_is_awaited_by_all_its_names(tmp_path: Path) -> None:
    journal = await open_sqlite(tmp_path)
    course = Course(journal)
    packed: list[Event] = [course.packed(1, course.run(1))]
    uploaded: list[Event] = [course.packed(2, course.run(2)), Uploaded(course.key(2), "file-2")]
    await journal.record(*stamped(*packed, *uploaded, *course.opened(3, course.run(3))))
    held = remains(tmp_path)
    await journal.aclose()
    assert held is not None
    keys = {course.key(number) for number in (1, 2, 3)}
    assert held.awaited == keys | {"file-2", "file-3", status_of(3, "").id}
    assert held.on_disk == frozenset()


async def test_what_is_over_and_not_deleted_yet_is_on_disk(tmp_path: Path) -> None:
    journal = await open_sqlite(tmp_path)
    course = Course(journal)
    leaves = Leftovers(("file-1", "out-1"), Sought(course.key(1), 10, NOW))
    facts = [fact for number in (1, 2, 3) for fact in course.opened(number, course.run(number))]
    facts += [
        Done(course.key(1), "batch_1", leaves),
        Done(course.key(2), "batch_2", Leftovers(("file-2", "out-2"))),
        Cleared(course.key(2)),
        Done(course.key(3), "batch_3"),  # its files are kept, for rows were missing in them
    ]
    await journal.record(*stamped(*facts))
    await journal.aclose()
    assert remains(tmp_path) == Remains(frozenset(), frozenset({"file-1", "out-1"}))
    assert damage(tmp_path) == ""


async def test_damage_is_said(tmp_path: Path) -> None:
    journal = await open_sqlite(tmp_path)
    course = Course(journal)
    facts = [fact for number in range(1, 300) for fact in course.opened(number, course.run(number))]
    await journal.record(*stamped(*facts))
    await journal.aclose()
    database = tmp_path / DATABASE
    content = bytearray(database.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8_192] = b"\xff" * 8_192
    database.write_bytes(content)
    try:
        said = damage(tmp_path)
    except JournalError as exc:
        said = str(exc)
    assert said


def test_where_there_is_none_that_is_said(tmp_path: Path) -> None:
    for question in (remains, damage):
        with pytest.raises(JournalError, match="There is no journal in"):
            question(tmp_path)


def test_one_that_is_only_being_made_knows_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    assert remains(tmp_path) is None
    assert damage(tmp_path) == ""
