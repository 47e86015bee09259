"""Who of several processes may create a batch, decided by what all of them hold."""

import math

import pytest

from carpool.engine.claims import PATIENCE, Stand, State, Verdict, decide
from carpool.engine.commands import Claim
from carpool.engine.ledger import UNHEARD
from carpool.models import Queue
from carpool.naming import span_of

NOW = 1_700_000_000.0
QUEUE = Queue("gpt-5-mini", long=False)
MINE, THEIRS, OTHERS = 1, 2, 3  # shards


def claim(tokens: int = 10, room: float = 100, *, first: bool = False, shards: tuple[int, ...] = (MINE,)) -> Claim:
    return Claim(f"p-b{span_of(MINE)[0] + 1}", QUEUE, tokens, room, first, 0.0, frozenset(shards), NOW)


def holds(tokens: int, shard: int = THEIRS, *, age: float = 0.0) -> Stand:
    return Stand(shard, shard, State.HOLDS, tokens, NOW - age, 0.0)


def admitted(tokens: int, shard: int = THEIRS, *, holder: int | None = None) -> Stand:
    return Stand(shard, shard if holder is None else holder, State.ADMITTED, tokens, NOW, 0.0)


def waits(tokens: int, shard: int = THEIRS, *, age: float = 0.0, room: float = 1_000) -> Stand:
    return Stand(shard, shard, State.WAITS, tokens, NOW - age, room)


@pytest.mark.parametrize(
    ("stands", "verdict"),
    [
        ([], Verdict(True, 0)),
        ([holds(90)], Verdict(True, 90)),
        ([holds(91)], Verdict(False, 91)),
        ([holds(50), admitted(41)], Verdict(False, 91)),
        ([admitted(60), admitted(31, OTHERS)], Verdict(False, 91)),
        ([admitted(1_000, MINE)], Verdict(True, 0)),  # our own is in `room`
        ([waits(1_000)], Verdict(True, 0)),  # who holds no less
    ],
)
def test_room_is_what_others_leave(stands: list[Stand], verdict: Verdict) -> None:
    assert decide(claim(), stands) == verdict


def test_what_was_taken_over_is_ours() -> None:
    assert decide(claim(shards=(MINE, THEIRS)), [admitted(91)]) == Verdict(True, 0)


def test_a_batch_that_is_alone_is_the_providers_to_judge() -> None:
    assert decide(claim(1_000), [admitted(5, MINE)]).granted
    assert not decide(claim(1_000), [admitted(1)]).granted


def test_what_was_taken_over_since_a_batch_was_packed_may_leave_it_no_room() -> None:
    both = (MINE, THEIRS)
    assert decide(claim(100, room=100, shards=both), [admitted(5)]).granted
    assert not decide(claim(101, room=100, shards=both), [admitted(5)]).granted
    assert decide(claim(101, room=100.5, shards=both), [admitted(5)]).granted  # its tokens are rounded up


def test_where_no_limit_is_known_one_validates_at_a_time() -> None:
    first = claim(room=math.inf, first=True)
    assert decide(first, [admitted(10**9), holds(5, age=UNHEARD)]).granted
    assert not decide(first, [holds(5, age=UNHEARD - 1)]).granted
    assert decide(claim(room=math.inf), [holds(5)]).granted


def test_what_was_refused_alone_goes_first_only_where_there_is_room() -> None:
    first = claim(first=True)  # its limit is known
    assert not decide(first, [admitted(91)]).granted
    assert decide(first, [admitted(90)]).granted
    assert not decide(first, [holds(90)]).granted
    assert decide(claim(1_000, first=True), [admitted(5, MINE)]).granted  # alone


def test_who_holds_more_leaves_room_for_who_waits() -> None:
    assert not decide(claim(), [admitted(5, MINE), waits(91)]).granted
    assert decide(claim(), [admitted(5, MINE), waits(90)]).granted
    assert not decide(claim(room=math.inf, first=True), [admitted(5, MINE), waits(1)]).granted
    # Who holds as much does not; nor is a mark of any use that is old, or ours.
    assert decide(claim(), [admitted(5, MINE), admitted(5), waits(90)]).granted
    assert decide(claim(), [admitted(5, MINE), waits(91, age=PATIENCE)]).granted
    assert decide(claim(), [admitted(5, MINE), waits(91, MINE)]).granted


def test_what_it_needs_is_left_by_its_own_reckoning() -> None:
    rich = [admitted(5, MINE), admitted(20, OTHERS)]
    assert decide(claim(), [*rich, waits(30, room=65)]).granted
    assert not decide(claim(), [*rich, waits(30, room=64)]).granted
    assert not decide(claim(), [*rich, waits(3_000, room=1_000)]).granted  # it is to be alone
    assert decide(claim(), [*rich, waits(30, OTHERS, room=64)]).granted  # who holds more than we do


def test_what_a_process_took_over_counts_as_its_own() -> None:
    rich = [admitted(3, MINE), admitted(9, OTHERS, holder=THEIRS)]
    assert decide(claim(room=20), [*rich, waits(15)]).granted
    assert not decide(claim(room=20), [admitted(3, MINE), admitted(9, OTHERS), waits(15)]).granted
