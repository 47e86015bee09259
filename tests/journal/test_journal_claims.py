"""Room in the queues, which all processes of a journal share: in memory as on disk."""

import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from journal_kit import LANE, NOW, Course, DiskHome, Home, MemoryHome, accepted, load

from carpool.engine.claims import PATIENCE
from carpool.engine.commands import Claim
from carpool.engine.events import Admitted, Claimed, Done, Event, Learned, Released, Spent, Uploaded
from carpool.journal import Journal
from carpool.models import Queue
from carpool.naming import shard_of

pytestmark = pytest.mark.anyio

QUEUE = LANE.queue
OTHER = Queue("gpt-5-nano", long=True)


class Closing:
    """Close in the end what was opened on a folder."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._opened: list[Journal] = []
        self.kill = home.kill

    async def open(self) -> Journal:
        """Open one."""
        self._opened.append(await self._home.open())
        return self._opened[-1]

    async def aclose(self) -> None:
        """Close all."""
        for journal in self._opened:
            await journal.aclose()


@pytest.fixture(params=["memory", "sqlite"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Home]:
    closing = Closing(MemoryHome() if request.param == "memory" else DiskHome(tmp_path / "journal"))
    yield closing
    await closing.aclose()


class Process:
    """Ask for room as one process does."""

    def __init__(self, journal: Journal, now: float = NOW) -> None:
        self.journal = journal
        self.course = Course(journal)
        self.shards = {shard_of(journal.numbered)}
        self.now = now

    async def packed(self, number: int) -> str:
        """Record a batch as far as its upload, and give its key."""
        run = self.course.run(number, segment=number)
        key = self.course.key(number)
        facts: list[Event] = [accepted(run), self.course.packed(number, run), Uploaded(key, f"file-{number}")]
        await self.journal.record(*((self.now, fact) for fact in facts))
        return key

    def asks(
        self,
        number: int,
        tokens: int = 40,
        room: float = 100,
        *,
        first: bool = False,
        heard_at: float = 0.0,
        queue: Queue = QUEUE,
    ) -> Claim:
        """Say what is asked for."""
        shards = frozenset(self.shards)
        return Claim(self.course.key(number), queue, tokens, room, first, heard_at, shards, self.now)

    async def claim(self, number: int, *args: float, **more: object) -> Claimed:
        """Pack a batch, and ask for room."""
        await self.packed(number)
        return await self.again(number, *args, **more)

    async def again(self, number: int, *args: float, **more: object) -> Claimed:
        """Ask for room for a batch that is packed."""
        return await self.journal.claim_room(self.asks(number, *args, **more))  # type: ignore[arg-type]


async def open_two(home: Home) -> tuple[Process, Process]:
    return Process(await home.open()), Process(await home.open())


async def test_two_processes_never_take_the_same_room(home: Home) -> None:
    one, other = await open_two(home)
    assert await one.claim(1) == Claimed(one.course.key(1), QUEUE, granted=True)
    assert (await other.claim(1)).granted  # 40 and 40
    denied = await one.claim(2, 40, 60)  # 100, less its own
    assert (denied.granted, denied.others) == (False, 40)
    assert (await one.again(2, 20, 60)).granted
    assert (await other.claim(2, 1, 60)).others == 60
    assert (await other.claim(3, 10**6, 60, queue=OTHER)).granted  # each queue by itself


async def test_room_is_held_until_it_is_given_back(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 90)
    assert not (await other.claim(1)).granted
    await one.journal.record((NOW, Released(one.course.key(1), ran=True)))
    assert (await other.again(1)).granted
    await other.journal.record((NOW, Released(other.course.key(1))))
    await one.journal.record((NOW, Released(one.course.key(1), ran=True)))  # a second time it is nothing
    assert (await one.claim(2, 90)).granted
    await one.journal.record((NOW, Done(one.course.key(2), None)))
    assert (await other.claim(2, 90)).others == 0


async def test_a_batch_that_is_over_gets_none(home: Home) -> None:
    one, other = await open_two(home)
    key = await one.packed(1)
    await one.journal.record((NOW, Done(key, None)))
    assert not (await one.again(1)).granted
    assert (await other.claim(1, 99, 99)) == Claimed(other.course.key(1), QUEUE, granted=True)


async def test_what_a_batch_has_it_is_given_again(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 90)
    assert (await one.again(1, 90, 0)).granted
    await one.journal.record((NOW, Learned(QUEUE, 50)))
    assert (await one.again(1, 90)).granted
    heard = await other.claim(1, heard_at=NOW)
    assert (heard.others, len(heard.created)) == (90, 1)  # and counts once


async def test_one_validates_at_a_time_where_no_limit_is_known(home: Home) -> None:
    one, other = await open_two(home)
    assert (await one.claim(1, 40, math.inf, first=True)).granted
    assert not (await other.claim(1, 40, math.inf, first=True)).granted
    await one.journal.record((NOW, Admitted(one.course.key(1))))
    assert (await other.again(1, 40, math.inf, first=True)).granted
    await one.journal.record((NOW, Admitted(one.course.key(7))))  # of which nothing is known


async def test_a_limit_that_was_learned_is_told_first(home: Home) -> None:
    one, other = await open_two(home)
    await one.journal.record((NOW, Learned(QUEUE, 90_000)))
    told = await other.claim(1)
    assert (told.granted, told.learned) == (False, (90_000, NOW))
    assert (await other.again(1, heard_at=NOW)).granted
    assert (await other.claim(2, queue=OTHER)).granted  # of another queue it says nothing
    assert (await one.claim(1, 40, 50, heard_at=NOW)).learned is None


async def test_who_waits_is_left_what_it_needs_by_those_who_hold_more(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 50)
    await one.claim(2, 40, 50)
    assert not (await other.claim(1, 30, 100)).granted
    await one.journal.record((NOW, Released(one.course.key(2), ran=True)))
    assert not (await one.claim(3, 40, 50)).granted  # 10 would be left
    assert (await one.again(3, 20, 50)).granted
    assert (await other.again(1, 30, 100)).granted
    # It waits no more: what is left may be taken.
    await one.journal.record((NOW, Released(one.course.key(3), ran=True)))
    assert (await one.claim(4, 20, 50)).granted


async def test_a_mark_counts_for_a_while(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 50)
    await one.claim(2, 40, 50)
    await other.claim(1, 30, 100)
    await one.journal.record((NOW, Released(one.course.key(2), ran=True)))
    one.now = NOW + PATIENCE - 1
    assert not (await one.claim(3, 40, 50)).granted
    one.now += 1
    assert (await one.again(3, 40, 50)).granted
    other.now = one.now
    await other.again(1, 30, 100)
    await one.journal.record((NOW, Released(one.course.key(3), ran=True)))
    assert not (await one.claim(4, 40, 50)).granted


async def test_a_process_leaves_one_mark_of_what_it_needs_most(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 50)
    await one.claim(2, 50, 50)
    for number, tokens in ((1, 20), (2, 30), (3, 25)):
        assert not (await other.claim(number, tokens, 100)).granted
    await one.journal.record((NOW, Released(one.course.key(2), ran=True)))
    assert not (await one.claim(3, 21, 50)).granted
    assert (await one.again(3, 20, 50)).granted
    await other.journal.record((NOW, Done(other.course.key(2), None)))  # nor does what it waited for any more
    assert (await one.claim(4, 30, 30)).granted


async def test_each_hears_what_the_others_did(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 10)
    one.now += 5
    await one.claim(2, 20)
    await one.journal.record((NOW + 9, Released(one.course.key(1), ran=True)))
    await one.journal.record((NOW + 9, Released(one.course.key(2))))  # which was not created
    heard = await other.claim(1)
    assert heard.created == (NOW, NOW + 5)
    assert heard.ended == ((QUEUE, NOW + 9, 10),)
    again = await other.claim(2)
    assert (again.created, again.ended) == ((), ())  # once
    assert (await one.claim(3)).created == (NOW, NOW)


async def test_what_was_heard_is_forgotten_after_an_hour(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 10)
    one.now += 3_601
    await one.claim(2, 10)
    assert (await other.claim(1, 10)).created == (NOW + 3_601,)


# --- processes that die


async def test_the_dead_hold_their_room_until_somebody_goes_on_with_their_batches(home: Home) -> None:
    one, other = await open_two(home)
    await one.claim(1, 90)
    home.kill(one.journal)
    assert not (await other.claim(1)).granted
    await load(other.journal)
    other.shards |= one.shards
    assert not (await other.again(1, 40, 10)).granted  # its own now: what is left beside it is for it to know
    assert (await other.again(1, 40, 40)).others == 0
    third = Process(await home.open())
    assert (await third.claim(1)).others == 130
    await other.journal.record((NOW, Released(one.course.key(1))))
    assert (await third.again(1)).granted


async def test_what_was_taken_over_counts_as_held_by_who_took_it(home: Home) -> None:
    one, other = await open_two(home)
    third = Process(await home.open())
    await one.claim(1, 50)
    await other.claim(1, 40)
    await third.claim(1, 10)
    home.kill(one.journal)
    await load(third.journal)
    third.shards |= one.shards
    assert not (await third.claim(2, 5, 40)).granted
    await other.journal.record((NOW, Released(other.course.key(1), ran=True)))
    # The third holds more, and its mark binds nobody.
    assert (await other.claim(2, 38, 100)).granted


async def test_a_process_that_begins_hears_of_the_creations_of_the_last_hour(home: Home) -> None:
    now = time.time()
    one = Process(await home.open(), now - 60)
    await load(one.journal)
    await one.claim(1)
    await one.claim(2)
    await one.journal.record((now, Done(one.course.key(2), None)))
    dead = Process(await home.open(), now - 50)
    await dead.claim(1)
    home.kill(dead.journal)
    fresh = Process(await home.open(), now)
    spent = [fact for _, fact in await load(fresh.journal) if isinstance(fact, Spent)]
    # What is over, and what is open and of others: what it takes over it is told of by itself.
    assert spent == [Spent((now - 60,)), Spent((now - 60,))]
    fresh.shards |= dead.shards
    assert (await fresh.claim(1, 1, 99)).created == ()
