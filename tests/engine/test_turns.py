"""Whose turn it is: priorities that grow with waiting, turns among equals, and creations that are scarce."""

from collections.abc import Iterable
from functools import partial

import hypothesis.strategies as st
import pytest
from engine_kit import LANE, NOW, Shell, World, rows_of
from hypothesis import given

from carpool.engine.turns import Turns, rank, step_of
from carpool.models import Lane, Load

URGENT, IDLE = LANE._replace(priority=1), LANE._replace(priority=-1)
ELSEWHERE = LANE._replace(endpoint="/v1/responses")
TOKENS = 10
ROOM = 100  # tokens: nine rows, of which eight are in batches of their own
TURN = 600.0  # seconds that a batch takes in the world
LOAD = Load(TOKENS, 0)


# --- by themselves


@pytest.mark.parametrize(("usual", "step"), [(None, 600), (60, 600), (600, 600), (7_200, 7_200)])
def test_a_step_of_priority_is_worth_ten_minutes_or_as_long_as_a_batch_takes(usual: float | None, step: float) -> None:
    assert step_of(usual) == step


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.integers(-100, 100), st.integers(0, 200))
def test_whoever_waits_long_enough_goes_first_whatever_the_priorities(
    since: float, step: float, priority: int, behind: int
) -> None:
    later = since + behind * step + 1
    assert rank(since, priority - behind, step) < rank(later, priority, step)


def lined_up(*stands: tuple[str, Lane, float]) -> list[str]:
    """Let batches stand in line, one after another."""
    turns, line = Turns(), dict[str, Load]()
    for key, lane, since in stands:
        turns.stand(key, lane, since)
        turns.line_up(line, key, LOAD, 600.0)
    return list(line)


def test_a_line_is_in_the_order_of_priority_and_of_waiting() -> None:
    assert lined_up(("a", LANE, 10.0), ("b", URGENT, 50.0), ("c", IDLE, 0.0)) == ["b", "a", "c"]
    assert lined_up(("a", LANE, 700.0), ("b", IDLE, 0.0)) == ["b", "a"]
    assert lined_up(("a", LANE, 10.0), ("b", ELSEWHERE, 10.0), ("c", LANE, 5.0)) == ["c", "a", "b"]


def test_a_lane_waits_since_its_last_turn_unless_that_was_in_vain() -> None:
    turns = Turns()
    turns.stand("a", LANE, 10.0)
    turns.take("a", 50.0)
    assert turns.since(LANE, 20.0) == 50.0
    assert turns.since(LANE, 60.0) == 60.0
    assert turns.since(ELSEWHERE, 20.0) == 20.0
    turns.give_back("a")
    assert turns.since(LANE, 0.0) == 10.0
    assert turns.stood("a") == 10.0


# --- in the engine


def place(world: World, row: int) -> int:
    """Say how many batches were created before that of a row."""
    return next(number for number, (_, batch) in enumerate(world.creations) if row in rows_of(batch.runs))


def limited(takes: float = TURN) -> World:
    """Make a world with so much room, which the user named, where a batch takes so many seconds."""
    shell = Shell(tokens=None)
    shell.limit(ROOM)
    return World(ROOM, lambda _: TOKENS, shell, takes=takes)


def keep_coming(world: World, lane: Lane, first: int, every: float, calls: int, *, segment: int) -> None:
    """Let calls of a lane come one by one."""
    for call in range(calls):
        world.later(call * every, partial(world.accept, [first + call], lane=lane, size=40, segment=segment))


def started(world: World, rows: Iterable[int]) -> list[float]:
    """Give for how long after the start each of these rows waited for its batch to be created."""
    at = {row: when - NOW for when, batch in world.creations for row in rows_of(batch.runs)}
    return [at[row] for row in rows]


def test_an_urgent_stream_that_never_ends_lets_what_can_wait_through() -> None:
    world = limited()
    # An urgent call a minute, where the queue takes not quite one: its backlog grows for eight hours.
    keep_coming(world, URGENT, 1, 60.0, 480, segment=1)
    world.later(3_600.0, partial(world.accept, [5_000], lane=IDLE, size=40, segment=2))
    world.run(8 * 3_600)
    (waited,) = [at - 3_600 for at in started(world, [5_000])]
    # Two steps of priority, and what stands in line then.
    assert 2 * TURN <= waited <= 2 * TURN + TURN
    assert world.shell.stats(URGENT).waiting > 5


def test_a_backlog_that_has_waited_for_hours_lets_what_is_urgent_go_first() -> None:
    world = limited()
    world.accept(range(1, 401), lane=IDLE, size=40)
    world.run(3 * 3_600)
    assert world.shell.stats(IDLE).waiting > 50
    created = len(world.creations)
    world.accept([5_000], lane=URGENT, size=40, segment=2)
    world.run(2 * TURN)
    assert place(world, 5_000) <= created + 1  # one may have been let in already


def share_of(world: World, lane: Lane) -> float:
    """Give the share of the rows of a lane in all that was created."""
    rows = {lane: 0}
    for _, batch in world.creations:
        rows[batch.lane] = rows.get(batch.lane, 0) + len(rows_of(batch.runs))
    return rows[lane] / sum(rows.values())


@pytest.mark.parametrize("takes", [TURN, 7_200.0])
def test_what_is_a_step_behind_has_one_turn_in_nine_however_slow_the_queue(takes: float) -> None:
    world = limited(takes=takes)
    # One by one, so that room comes one by one, too.
    keep_coming(world, LANE, 1, takes / 10, 250, segment=1)
    keep_coming(world, IDLE, 1_001, takes / 10, 250, segment=2)
    world.run(20 * takes)
    assert 1 / 14 <= share_of(world, IDLE) <= 1 / 6


def test_lanes_of_one_priority_take_turns_whatever_waits_in_them() -> None:
    world = limited()
    world.accept(range(1, 401), size=40)
    world.run(3 * 3_600)
    created = len(world.creations)
    world.accept([5_000], lane=ELSEWHERE, size=40, segment=2)
    world.run(2 * TURN)
    assert place(world, 5_000) <= created + 2


def test_a_stream_that_never_ends_starves_no_single_call_of_its_priority() -> None:
    world = limited()
    keep_coming(world, LANE, 1, 60.0, 480, segment=1)
    for hour in range(1, 7):
        world.later(hour * 3_600.0, partial(world.accept, [5_000 + hour], lane=ELSEWHERE, size=40, segment=2))
    world.run(7 * 3_600)
    waited = [at - hour * 3_600 for hour, at in enumerate(started(world, range(5_001, 5_007)), 1)]
    assert max(waited) <= TURN / 2


def test_within_a_lane_who_came_first_goes_first_also_after_refusals() -> None:
    world = World(ROOM, lambda _: TOKENS)  # a limit that nobody named: it is learned from a refusal
    world.accept(range(1, 101), size=40)
    keep_coming(world, LANE, 1_000, 30.0, 60, segment=2)
    world.run()
    assert world.refusals
    admitted = [row for _, batch in world.creations for row in rows_of(batch.runs)]
    last = {row: place for place, row in enumerate(admitted)}
    assert sorted(last, key=last.__getitem__) == sorted(last)


def test_what_found_no_room_for_hours_keeps_its_turn() -> None:
    """Others on the account leave no room: the turns were in vain."""
    world = limited()
    world.others = ROOM
    world.accept([1], lane=IDLE, size=40)
    world.run(3_600)
    assert len(world.refusals) > 2
    world.accept(range(100, 120), size=40, segment=2)
    world.run(1_200)
    world.others = 0
    world.run()
    idle, *others = started(world, [1, *range(100, 120)])
    assert idle < min(others)
    assert sorted(world.settled) == [1, *range(100, 120)]
