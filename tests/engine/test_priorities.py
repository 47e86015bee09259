"""Priorities: what goes first where a queue is limited."""

import math
from collections.abc import Iterable

import pytest
from engine_kit import LANE, Shell, World, rows_of

from carpool.engine.commands import Command, Count
from carpool.models import Lane

URGENT = LANE._replace(priority=1)
IDLE = LANE._replace(priority=-1)
TOKENS = 10


def limited(limit: int) -> World:
    """Make a world whose provider has a queue of so many tokens, which the user named."""
    shell = Shell(tokens=None)
    shell.limit(limit)
    return World(limit, lambda _: TOKENS, shell)


def lanes_of(world: World) -> list[Lane]:
    """Give the lanes of the batches that were created, in that order."""
    return [batch.lane for _, batch in world.creations]


def started(world: World, row: int) -> float:
    """Give the time at which a row's batch was created."""
    return next(at for at, batch in world.creations if row in rows_of(batch.runs))


def test_what_is_urgent_goes_before_all_that_waits() -> None:
    world = limited(100)
    world.accept(range(1, 101), size=40)
    world.run(1_500)
    world.accept(range(101, 106), lane=URGENT, size=40, segment=2)
    now = world.shell.now
    world.run()
    assert sorted(world.settled) == list(range(1, 106))
    later = [at for at, batch in world.creations if batch.lane == LANE and at > now]
    assert len(later) > 5
    # A batch that had been let in already goes on; nothing else goes before.
    assert sum(at < started(world, 105) for at in later) <= 1


def test_what_can_wait_goes_last_though_several_find_room_at_once() -> None:
    """Each priority has one batch in line; the next of a higher one is chosen before a lower one is let in."""
    world = limited(100)
    world.accept(range(1, 51), lane=IDLE, size=40)
    world.accept(range(51, 101), size=40, segment=2)
    world.run()
    assert sorted(world.settled) == list(range(1, 101))
    plain = [place for place, lane in enumerate(lanes_of(world)) if lane == LANE]
    idle = [place for place, lane in enumerate(lanes_of(world)) if lane == IDLE]
    assert sum(place < plain[-1] for place in idle) <= len(plain) / 10  # by having waited long
    assert sum(place < idle[-1] for place in plain) == len(plain)


class Counting(World):
    """Never come to an end of counting an urgent request."""

    def perform(self, commands: Iterable[Command]) -> None:
        super().perform(
            [command for command in commands if not (isinstance(command, Count) and command.lane == URGENT)]
        )


def test_others_go_on_while_an_urgent_request_is_counted_that_may_be_too_large() -> None:
    shell = Shell(tokens=None)
    shell.limit(100)
    world = Counting(100, lambda _: TOKENS, shell)
    world.accept(range(1, 51), size=40)
    world.accept([51], lane=URGENT, size=150, segment=2)  # above the whole limit, by its bytes
    world.accept(range(52, 101), size=40, segment=3)
    world.run()
    assert sorted(world.settled) == [*range(1, 51), *range(52, 101)]


def test_batches_of_one_priority_go_in_the_order_in_which_they_came() -> None:
    world = limited(100)
    world.accept(range(1, 101), lane=URGENT, size=40)
    world.run()
    rows = [row for _, batch in world.creations for row in rows_of(batch.runs)]
    assert rows == sorted(rows)


@pytest.mark.parametrize("limit", [100, 1_000, 5_000])
def test_the_limit_is_kept_and_all_are_answered_whatever_their_priority(limit: int) -> None:
    world = limited(limit)
    for place, lane in enumerate((LANE, URGENT, IDLE)):
        world.accept(range(1 + place * 200, 201 + place * 200), lane=lane, size=40, segment=place + 1)
    world.run()
    assert len(world.settled) == 600
    assert world.refusals == []
    assert world.peak <= limit


def test_priorities_do_not_matter_where_there_is_room() -> None:
    world = World(math.inf, lambda _: TOKENS, Shell(tokens=None))
    world.accept(range(1, 11), lane=IDLE, size=40)
    world.accept(range(11, 21), lane=URGENT, size=40, segment=2)
    world.run()
    assert len(world.settled) == 20
    assert len(world.creations) == 2
