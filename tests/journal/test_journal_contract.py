"""What a journal promises, in memory as on disk: what is recorded is told again until it is over, and found again."""

import time
from array import array
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from journal_kit import (
    EMBEDDINGS,
    LANE,
    NOW,
    Course,
    DiskHome,
    Home,
    MemoryHome,
    accepted,
    digest_of,
    digests_of,
    find,
    load,
    make_run,
    settled,
    stamped,
    status_of,
    without_digests,
)

from carpool.engine.events import (
    Accepted,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalated,
    GivenUp,
    Learned,
    Missing,
    Packed,
    Spent,
    Uploaded,
    Wanted,
)
from carpool.journal import Known, Place, Summary
from carpool.models import BatchProblem, BatchStatus, Lane, NoRoom, Queue
from carpool.naming import shard_of, span_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return MemoryHome() if request.param == "memory" else DiskHome(tmp_path / "journal")


# --- told again


async def test_every_kind_of_fact_is_told_again_with_its_time(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    long = Lane(LANE.endpoint, LANE.model, long=True)
    problems = (BatchProblem("invalid", "no such model", 3), BatchProblem("other", "", None))
    status = BatchStatus("batch_3", mine.key(3), "failed", "in", "out", None, 7, problems, NoRoom(90_000), 5, 1_000)
    facts = stamped(
        accepted(mine.run(1, 2, 3)),
        accepted(mine.run(4, 5, offset=30, size=70_000, tokens=17), rich=True),
        accepted(mine.run(6, 8, segment=2, inputs=3), EMBEDDINGS),
        accepted(mine.run(7, segment=3), long),
        mine.packed(1, mine.run(2, offset=10), mine.run(4, offset=30, size=70_000, tokens=17)),
        mine.packed(2, mine.run(6, segment=2, inputs=3), lane=EMBEDDINGS),
        Uploaded(mine.key(2), "file-2"),
        mine.packed(3, mine.run(7, segment=3), lane=long),
        Uploaded(mine.key(3), "file-3"),
        Created(mine.key(3), status),
        Missing(mine.key(3), "file"),
    )
    await journal.record(*facts[:4])
    await journal.record(*facts[4:])
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == without_digests(facts)
    await heir.aclose()


async def test_a_batch_that_is_heard_of_again_is_not_told_of_as_missing(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1)), *mine.opened(1, mine.run(1)), Missing(mine.key(1), "batch")))
    await journal.record(*stamped(Missing(mine.key(1), None)))
    home.kill(journal)
    heir = await home.open()
    assert not [fact for _, fact in await load(heir) if isinstance(fact, Missing)]
    await heir.aclose()


async def test_a_journal_is_named_and_its_pool_is_that_of_all(home: Home) -> None:
    one, two = await home.open(), await home.open()
    assert one.place == two.place != ""
    assert one.pool == two.pool != ""
    await one.aclose()
    await two.aclose()
    again = await home.open()
    assert again.pool == one.pool
    await again.aclose()


async def test_who_comes_first_is_told_nothing_and_finds_nothing(home: Home) -> None:
    journal = await home.open()
    assert await load(journal) == []
    assert await journal.find({digest_of(1)}) == await journal.find(()) == {}
    assert await journal.summary() == Summary(0, 0, None)
    await journal.record()
    await journal.aclose()


async def test_one_is_not_told_what_one_did_oneself(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1, 2)), *mine.opened(1, mine.run(1))))
    assert await load(journal) == []
    assert journal.holds(mine.first)
    await journal.aclose()


async def test_what_is_told_is_told_once_and_again_to_the_next(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    facts = stamped(accepted(mine.run(1, 2)), *mine.opened(1, mine.run(1)))
    await journal.record(*facts)
    home.kill(journal)
    for _ in range(3):
        heir = await home.open()
        assert await load(heir) == without_digests(facts)
        assert await load(heir) == []
        home.kill(heir)


async def test_what_was_not_told_to_the_end_is_told_again(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    facts = stamped(accepted(mine.run(1, 2)), *mine.opened(1, mine.run(1)))
    await journal.record(*facts)
    home.kill(journal)
    heir = await home.open()
    async with aclosing(heir.load()) as chunks:
        await anext(chunks)
    assert not heir.holds(mine.first)
    assert await load(heir) == without_digests(facts)
    assert heir.holds(mine.first)
    await heir.aclose()


async def test_rows_that_are_settled_are_not_told(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(
        *stamped(
            accepted(mine.run(1, 2, 3, 4, 5, 6, tokens=9)),
            accepted(mine.run(7, 8, offset=60)),
            *mine.opened(1, mine.run(2, 3, 5, 8)),
            *mine.answered(1, 8, 3, 2, 5, failed=[5]),
        )
    )
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [
        (NOW, Accepted(LANE, mine.run(1, tokens=9))),
        (NOW, Accepted(LANE, mine.run(4, offset=30, tokens=9))),
        (NOW, Accepted(LANE, mine.run(6, offset=50, tokens=9))),
        (NOW + 1, Accepted(LANE, mine.run(7, offset=60))),
    ]
    await heir.aclose()


async def test_rows_of_a_batch_that_is_over_wait_again(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    joined, *rest = stamped(
        accepted(mine.run(1, 2)),
        *mine.opened(1, mine.run(1, 2)),
        settled("batch_1", None, mine.rows(2), failed=mine.rows(2)),
        Done(mine.key(1), "batch_1"),
        mine.packed(2, mine.run(1)),
    )
    await journal.record(joined, *rest)
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [(NOW, Accepted(LANE, mine.run(1))), rest[-1]]
    await heir.aclose()


async def test_segments_that_were_discarded_are_not_told(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(
        *stamped(accepted(mine.run(1)), accepted(mine.run(2, segment=2)), accepted(mine.run(3, offset=10)))
    )
    await journal.record((NOW, Discarded(journal.numbered + 1)))
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [(NOW + 1, Accepted(LANE, mine.run(2, segment=2)))]
    await heir.aclose()


# --- sent live


def sent_live(told: list[tuple[float, Any]]) -> dict[Lane, set[int]]:
    """Give the rows that were sent live, by lane."""
    rows: dict[Lane, set[int]] = {}
    for _, fact in told:
        if isinstance(fact, Escalated):
            rows.setdefault(fact.lane, set()).update(row for run in fact.runs for row in run.rows)
    return rows


async def test_what_was_sent_live_is_told_to_every_process_that_follows(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    rows, others = mine.run(1, 2, 3), mine.run(4, 5, segment=2, inputs=3)
    await journal.record(*stamped(accepted(rows), accepted(others, EMBEDDINGS), *mine.opened(1, rows)))
    live = Escalated(LANE, (mine.run(1), mine.run(3, offset=20)))
    await journal.record((NOW + 50, live), (NOW + 51, Escalated(EMBEDDINGS, (mine.run(4, segment=2, inputs=3),))))
    home.kill(journal)
    for _ in range(3):
        heir = await home.open()
        told = await load(heir)
        assert sent_live(told) == {LANE: set(mine.rows(1, 3)), EMBEDDINGS: set(mine.rows(4))}
        assert next(at for at, fact in told if isinstance(fact, Escalated)) == NOW + 50
        kinds = [type(fact) for _, fact in told]
        assert kinds.index(Escalated) > max(kinds.index(Accepted), kinds.index(Created))
        home.kill(heir)


async def test_what_was_sent_live_is_told_to_the_living_who_take_it_over_and_to_nobody_else(home: Home) -> None:
    living, other = await home.open(), await home.open()
    theirs = Course(other)
    await other.record(*stamped(accepted(theirs.run(1, 2)), Escalated(LANE, (theirs.run(1),))))
    assert await load(living) == []
    home.kill(other)
    assert sent_live(await load(living)) == {LANE: set(theirs.rows(1))}
    third = await home.open()
    assert await load(third) == await load(living) == []
    await living.aclose()
    await third.aclose()


async def test_what_was_sent_live_and_answered_is_found_and_does_not_wait(home: Home) -> None:
    """Its answer came with no batch."""
    journal = await home.open()
    mine = Course(journal)
    answer = settled("", mine.file(1), mine.rows(1), given=True)
    await journal.record(*stamped(accepted(mine.run(1, 2)), Escalated(LANE, (mine.run(1, 2),)), answer))
    home.kill(journal)
    heir = await home.open()
    told = await load(heir)
    assert [list(fact.run.rows) for _, fact in told if isinstance(fact, Accepted)] == [mine.rows(2)]
    assert set(mine.rows(2)) <= sent_live(told)[LANE]
    place = Place(mine.file(1), "", 0, 100, True)
    first = mine.rows(1)[0]
    assert await find(heir, first) == {first: [Known(first, place)]}
    await heir.aclose()


async def test_what_was_sent_live_is_forgotten_with_its_segment(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    live = [Escalated(LANE, (mine.run(1),)), Escalated(LANE, (mine.run(2, segment=2),))]
    await journal.record(*stamped(accepted(mine.run(1)), accepted(mine.run(2, segment=2)), *live))
    done = settled("", mine.file(1), mine.rows(1))
    await journal.record(*stamped(done, Discarded(mine.run(1).segment), at=NOW + 9))
    home.kill(journal)
    heir = await home.open()
    assert sent_live(await load(heir)) == {LANE: set(mine.rows(2))}
    await heir.aclose()


async def test_a_batch_of_which_more_is_heard_after_its_end_stays_over(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    facts = mine.opened(1, mine.run(1))
    await journal.record(*stamped(accepted(mine.run(1)), *facts, *mine.answered(1, 1)))
    await journal.record(*stamped(*facts[1:], Done(mine.key(1), "batch_1"), Done(mine.key(2), None)))
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == []
    await heir.aclose()


# --- processes


async def test_numbers_never_overlap(home: Home) -> None:
    journals = [await home.open() for _ in range(3)]
    home.kill(journals.pop())
    await journals.pop().aclose()
    shards = {shard_of(journal.numbered) for journal in journals}
    for _ in range(3):
        journal = await home.open()
        await load(journal)
        shard = shard_of(journal.numbered)
        assert journal.numbered == span_of(shard)[0] > 0
        assert shard > max(shards)
        assert journal.holds(journal.numbered + 1)
        assert not journals[0].holds(journal.numbered + 1)
        shards.add(shard)
        await journal.aclose()
    await journals[0].aclose()


async def test_what_the_living_do_is_theirs(home: Home) -> None:
    living = await home.open()
    mine = Course(living)
    await living.record(*stamped(accepted(mine.run(1)), *mine.opened(1, mine.run(1))))
    other = await home.open()
    assert await load(other) == []
    assert not other.holds(mine.first)
    assert await find(other, mine.first) == {mine.first: [Known(mine.first, None)]}
    await other.aclose()
    await living.aclose()


async def test_the_living_adopt_what_is_left_later(home: Home) -> None:
    living, other = await home.open(), await home.open()
    assert await load(living) == []
    theirs = Course(other)
    facts = stamped(accepted(theirs.run(1)), *theirs.opened(1, theirs.run(1)))
    await other.record(*facts)
    assert await load(living) == []
    home.kill(other)
    third = await home.open()
    assert await load(living) == without_digests(facts)
    assert living.holds(theirs.first)
    assert await load(third) == []
    assert not third.holds(theirs.first)
    await living.aclose()
    await third.aclose()


async def test_a_process_of_which_nothing_is_unfinished_is_forgotten_with_its_heir(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(1)), *mine.opened(1, mine.run(1)), *mine.answered(1, 1)))
    home.kill(journal)
    heir = await home.open()
    await load(heir)
    assert heir.holds(mine.first)
    home.kill(heir)
    third = await home.open()
    await load(third)
    assert not third.holds(mine.first)
    await third.aclose()


async def test_who_is_closed_a_second_time_takes_nothing_from_its_heir(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    facts = stamped(accepted(mine.run(1)), *mine.opened(1, mine.run(1)))
    await journal.record(*facts)
    await journal.aclose()
    heir, third = await home.open(), await home.open()
    assert await load(heir) == without_digests(facts)
    await journal.aclose()
    assert await load(third) == []
    await heir.aclose()
    await third.aclose()


async def test_what_was_left_unfinished_in_good_order_is_adopted_too(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    facts = stamped(accepted(mine.run(1)), mine.packed(1, mine.run(1)))
    await journal.record(*facts)
    await journal.aclose()
    heir = await home.open()
    assert await load(heir) == without_digests(facts)
    await heir.aclose()


async def test_all_that_a_dead_process_held_goes_to_one(home: Home) -> None:
    """Or else one would send again what another has found under way."""
    grandparent, parent = await home.open(), await home.open()
    first, second = Course(grandparent), Course(parent)
    await grandparent.record(*stamped(accepted(first.run(1))))
    home.kill(grandparent)
    await load(parent)
    await parent.record(*stamped(accepted(second.run(1)), second.packed(1, first.run(1), second.run(1))))
    heirs = [await home.open() for _ in range(4)]
    home.kill(parent)
    told = {}

    async def take_over(number: int) -> None:
        told[number] = await load(heirs[number])

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(take_over, number)
    (heir,) = (heirs[number] for number in range(4) if told[number])
    assert all(heir.holds(course.first) for course in (first, second))
    assert sorted(map(len, told.values())) == [0, 0, 0, 3]
    for journal in heirs:
        await journal.aclose()


async def test_rows_are_told_before_the_batches_that_mix_them(home: Home) -> None:
    """Also where the older process has taken rows of the younger one into its batch."""
    older, younger = await home.open(), await home.open()
    first, second = Course(older), Course(younger)
    await younger.record((NOW, accepted(second.run(1, 2))))
    home.kill(younger)
    await load(older)
    batch = stamped(*first.opened(1, second.run(1), first.run(1)), at=NOW + 10)
    await older.record((NOW + 5, accepted(first.run(1))), *batch)
    home.kill(older)
    heir = await home.open()
    rows = [(NOW + 5, Accepted(LANE, first.run(1))), (NOW, Accepted(LANE, second.run(1, 2)))]
    assert await load(heir) == [*rows, *batch]
    await heir.aclose()


async def test_rows_are_under_way_where_their_own_process_lives_or_in_a_batch(home: Home) -> None:
    dead, alive, reader = await home.open(), await home.open(), await home.open()
    theirs, own = Course(dead), Course(alive)
    await dead.record(*stamped(accepted(theirs.run(1, 2, 3)), theirs.packed(1, theirs.run(2))))
    await alive.record(*stamped(accepted(own.run(1))))
    rows = [*theirs.rows(1, 2, 3), *own.rows(1)]
    assert await reader.under_way(rows) == {*rows}
    home.kill(dead)
    await load(alive)
    assert await reader.under_way(rows) == {*theirs.rows(2), *own.rows(1)}
    await alive.record(*stamped(own.packed(1, theirs.run(3), own.run(1)), Done(theirs.key(1), None)))
    assert await reader.under_way(rows) == {*theirs.rows(3), *own.rows(1)}
    assert await reader.under_way([]) == set()
    for journal in (alive, reader):
        await journal.aclose()


async def test_what_living_processes_say_of_rows_goes_before_the_rule(home: Home) -> None:
    dead, alive, reader = await home.open(), await home.open(), await home.open()
    theirs, own = Course(dead), Course(alive)
    await dead.record(*stamped(accepted(theirs.run(1, 2, 3)), theirs.packed(1, theirs.run(2)), GivenUp(theirs.rows(1))))
    await alive.record(*stamped(accepted(own.run(1, 2)), GivenUp(own.rows(2))))
    rows = [*theirs.rows(1, 2, 3), *own.rows(1, 2)]
    assert await reader.under_way(rows) == {*theirs.rows(2, 3), *own.rows(1)}
    home.kill(dead)
    await load(alive)
    await alive.record(*stamped(Wanted(theirs.rows(1, 3)), GivenUp(theirs.rows(2, 3))))
    assert await reader.under_way(rows) == {*theirs.rows(1), *own.rows(1)}
    await alive.record(*stamped(Wanted(theirs.rows(3)), settled(None, None, theirs.rows(1), failed=theirs.rows(1))))
    assert await reader.under_way(rows) == {*theirs.rows(3), *own.rows(1)}
    home.kill(alive)
    await load(reader)
    last = await home.open()
    assert await last.under_way(rows) == {*theirs.rows(2)}  # which is in a batch; what was said by the dead is nothing
    await reader.record(*stamped(Wanted([*theirs.rows(3), *own.rows(1, 2)]), settled(None, None, ())))
    assert await last.under_way(rows) == {*theirs.rows(2, 3), *own.rows(1, 2)}
    for journal in (reader, last):
        await journal.aclose()


async def test_answers_of_others_are_told_from_ones_own(home: Home) -> None:
    older, younger = await home.open(), await home.open()
    mine, late = Course(younger), Course(older)
    assert not await older.has_others()
    await younger.record(*stamped(accepted(mine.run(1)), *mine.answered(1, 1)))
    assert (await older.has_others(), await younger.has_others()) == (True, False)
    await older.record(*stamped(accepted(late.run(1)), *late.answered(1, 1)))
    assert await younger.has_others()
    for journal in (older, younger):
        await journal.aclose()


async def test_adopted_work_is_brought_to_its_end(home: Home) -> None:
    journal = await home.open()
    theirs = Course(journal)
    await journal.record(*stamped(accepted(theirs.run(1, 2)), theirs.packed(1, theirs.run(1, 2))))
    home.kill(journal)
    heir = await home.open()
    mine = Course(heir)
    await load(heir)
    done = settled("batch_1", mine.file(1), theirs.rows(1, 2))
    await heir.record(*stamped(*theirs.opened(1)[1:], done, Done(theirs.key(1), "batch_1"), Discarded(theirs.first)))
    home.kill(heir)
    last = await home.open()
    assert await load(last) == []
    assert await last.summary() == Summary(2, 2, NOW + 2)
    await last.aclose()


async def test_two_record_on_one_folder_at_the_same_time(home: Home) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(record_twenty, home)
    journal = await home.open()
    told = await load(journal)
    assert len(told) == 3 * 20
    assert len({fact.run.rows[0] for _, fact in told if isinstance(fact, Accepted)}) == 3 * 20
    await journal.aclose()


async def record_twenty(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    for number in range(1, 21):
        await journal.record((NOW, accepted(mine.run(number, offset=10 * number))))
        assert await find(journal, mine.journal.numbered + number)
    home.kill(journal)


async def test_the_mark_of_the_key_is_kept(home: Home) -> None:
    journal = await home.open()
    assert journal.key_mark is None
    await journal.note_key("one")
    await journal.note_key("two")
    assert journal.key_mark == "two"
    await journal.aclose()
    again = await home.open()
    assert again.key_mark == "two"
    await again.aclose()


# --- the account


async def test_learned_limits_are_told_at_the_opening_though_nobody_died(home: Home) -> None:
    queue, long = Queue("m", long=False), Queue("m", long=True)
    journal = await home.open()
    await journal.record(*stamped(Learned(queue, 5), Learned(long, 6), Learned(queue, 4)))
    other = await home.open()
    told = await load(other)
    assert sorted(told, key=lambda stamped: stamped[0]) == [(NOW + 1, Learned(long, 6)), (NOW + 2, Learned(queue, 4))]
    assert await load(other) == []
    await other.aclose()
    await journal.aclose()


async def test_the_batches_of_the_last_hour_are_told_once(home: Home) -> None:
    now = time.time()
    journal = await home.open()
    mine = Course(journal)
    for number, age in enumerate([30, 10, 4_000, 20], 1):
        await journal.record((now - age, mine.packed(number, mine.run(number))))
        await journal.record((now - age + 1, Done(mine.key(number), None)))
    await journal.record((now, accepted(mine.run(5))), (now - 5, mine.packed(5, mine.run(5))))
    home.kill(journal)
    heir = await home.open()
    (at, spent), *rest = await load(heir)
    assert spent == Spent((now - 30, now - 20, now - 10))
    assert at == pytest.approx(now, abs=60)
    assert [type(fact) for _, fact in rest] == [Accepted, Packed]
    other = await home.open()
    home.kill(other)
    assert await load(heir) == []
    await heir.aclose()


async def test_the_newest_batch_under_way_is_known(home: Home) -> None:
    one, two = await home.open(), await home.open()
    first, second = Course(one), Course(two)
    assert await one.open_batch() is None
    await one.record((NOW, first.packed(1, first.run(1))))
    assert await one.open_batch() is None
    await two.record(*stamped(*second.opened(7, second.run(1)), at=NOW + 9))
    await one.record(*stamped(*first.opened(1, first.run(1))[1:]))
    assert await one.open_batch() == await two.open_batch() == "batch_7"
    await two.record((NOW, Done(second.key(7), "batch_7")))
    assert await one.open_batch() == "batch_1"
    await one.record((NOW, Done(first.key(1), "batch_1")))
    assert await two.open_batch() is None
    await one.aclose()
    await two.aclose()


# --- found again


async def test_requests_are_found_in_the_order_of_their_numbers(home: Home) -> None:
    one, two = await home.open(), await home.open()
    first, second = Course(one), Course(two)
    same = digest_of(0)
    await two.record((NOW, accepted(second.run(1, 2), digests=same + digest_of(2))))
    await one.record((NOW, accepted(first.run(3, 4), digests=same + same)))
    await one.record((NOW, accepted(first.run(1), digests=same)))
    for journal in (one, two):
        found = await journal.find({same, digest_of(2), digest_of(3)})
        assert found == {
            same: [Known(row, None) for row in (*first.rows(1, 3, 4), *second.rows(1))],
            digest_of(2): [Known(second.rows(2)[0], None)],
        }
    await one.aclose()
    await two.aclose()


async def test_answers_are_found_where_they_lie_and_failures_are_not(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    await journal.record(*stamped(accepted(mine.run(*range(1, 8))), *mine.opened(1, mine.run(1, 2, 3, 4, 5))))
    await journal.record(*stamped(*mine.answered(1, 3, 5, 1, failed=[5]), *mine.answered(2, 6, given=True)))
    await journal.record((NOW, settled(None, None, mine.rows(2), failed=mine.rows(2))))
    home.kill(journal)
    heir = await home.open()
    rows = mine.rows(*range(1, 8))
    known = await find(heir, *rows)
    assert known == {
        rows[0]: [Known(rows[0], Place(mine.file(1), "batch_1", 200, 100, delivered=False))],
        rows[2]: [Known(rows[2], Place(mine.file(1), "batch_1", 0, 100, delivered=False))],
        rows[3]: [Known(rows[3], None)],
        rows[5]: [Known(rows[5], Place(mine.file(2), "batch_2", 0, 100, delivered=True))],
        rows[6]: [Known(rows[6], None)],
    }
    await heir.aclose()


async def test_rows_that_failed_at_once_are_over(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    rows = mine.rows(1, 2)
    await journal.record(*stamped(accepted(mine.run(1, 2, 3)), settled(None, None, rows, failed=rows)))
    await journal.record((NOW, settled(None, None, ())))
    assert await find(journal, *rows) == {}
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [(NOW, Accepted(LANE, mine.run(3, offset=20)))]
    assert await heir.summary() == Summary(0, 0, None)
    await heir.aclose()


async def test_whoever_delivers_notes_it_for_all(home: Home) -> None:
    one, two = await home.open(), await home.open()
    mine = Course(one)
    rows = mine.rows(1, 2, 3)
    await one.record(*stamped(accepted(mine.run(1, 2, 3)), *mine.answered(1, 1, 2), *mine.answered(2, 3)))
    assert await one.summary() == await two.summary() == Summary(3, 3, NOW + 3)
    await find(one, *rows)  # what it has read it must not take for what is
    await two.record((NOW, Delivered((rows[2], rows[0], 17))))
    await one.record((NOW, Delivered((rows[0],))))
    for journal in (one, two):
        places = [known[0].place for known in (await find(journal, *rows)).values()]
        assert [place is not None and place.delivered for place in places] == [True, False, True]
        assert await journal.summary() == Summary(3, 1, NOW + 3)
    await one.aclose()
    await two.aclose()


async def test_thousands_are_looked_up_at_once(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    numbers = range(1, 6_001)
    rows = mine.rows(*numbers)
    twins = mine.rows(*range(6_001, 12_001))
    digests = digests_of(rows)
    await journal.record((NOW, accepted(make_run(rows, mine.first))))
    await journal.record((NOW, accepted(make_run(twins, mine.first, 60_000), digests=digests)))
    await journal.record((NOW, settled("batch_1", mine.file(1), rows[::-2])))
    found = await journal.find([digest_of(row) for row in reversed(rows)] + [digest_of(0)])
    assert len(found) == 6_000
    for position in (0, 1, 499, 500, 5_999):
        place = Place(mine.file(1), "batch_1", 50 * (5_999 - position), 100, delivered=False)
        known = found[digest_of(rows[position])]
        assert known == [Known(rows[position], place if position % 2 else None), Known(twins[position], None)]
    await journal.aclose()


async def test_what_a_caller_does_with_its_facts_later_changes_nothing(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    run, fact = mine.run(1, 2), settled("batch_1", mine.file(1), mine.rows(1))
    await journal.record((NOW, accepted(run)), (NOW, fact))
    run.rows.extend(mine.rows(3))
    run.sizes.extend(array("I", [10]))
    fact.marks[0] = 0
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [(NOW, Accepted(LANE, mine.run(2, offset=10)))]
    assert (await find(heir, mine.first))[mine.first][0].place is not None
    await heir.aclose()


async def test_what_is_heard_again_replaces_what_was_heard(home: Home) -> None:
    journal = await home.open()
    mine = Course(journal)
    *facts, _ = stamped(accepted(mine.run(1)), *mine.opened(1, mine.run(1)))
    later = [Created(mine.key(1), status_of(1, mine.key(1), name)) for name in ("validating", "in_progress")]
    await journal.record(*facts, *stamped(*later, at=NOW + 9))
    home.kill(journal)
    heir = await home.open()
    assert await load(heir) == [*without_digests(facts), (NOW + 10, later[1])]
    await heir.aclose()
