"""What concerns tens of thousands of callers is done in parts."""

import pytest

import carpool
from carpool.callers import Callers
from carpool.engine.commands import Fail, LetGo, Settle
from carpool.models import Failure, Lane, Row
from carpool.parts import cut, is_long, parts, taken_apart
from carpool.waiter import current_runtime

GONE = Failure("cancelled", "gone")
LANE = Lane("/v1/responses", "gpt-5-mini")


@pytest.mark.parametrize("count", [0, 1, 1_000, 1_001, 2_500])
def test_the_parts_are_the_whole(count: int) -> None:
    whole = list(range(count))
    assert [number for part in cut(whole) for number in part] == whole
    assert all(len(part) <= 1_000 for part in cut(whole))
    left = whole.copy()
    taken = [(part, len(left)) for part in taken_apart(left)]
    assert [number for part, _ in taken for number in part] == whole
    assert [rest for _, rest in taken] == [max(0, len(whole) - 1_000 * turn) for turn in range(1, len(taken) + 1)]


@pytest.mark.parametrize("kind", [Fail, LetGo])
def test_a_failure_of_many_is_told_in_parts(kind: type[Fail | LetGo]) -> None:
    command = kind("batch_1", frozenset(range(2_500)), GONE, attempts={7: ()})
    told = list(parts(command))
    assert is_long(command)
    assert not any(map(is_long, told))
    assert sorted(number for part in told for number in part.numbers) == list(range(2_500))
    assert all(isinstance(part, kind) and part.attempts == {7: ()} for part in told)
    assert {(part.batch_id, part.failure) for part in told if isinstance(part, Fail | LetGo)} == {("batch_1", GONE)}


def test_rows_of_many_are_told_in_parts_each_with_its_number() -> None:
    rows = [Row(f"pool-{number}", 500, "", b"") for number in range(1_500)]
    told = list(parts(Settle("batch_1", LANE, range(1_500), rows, None)))
    pairs = [pair for part in told if isinstance(part, Settle) for pair in zip(part.numbers, part.rows, strict=True)]
    assert pairs == list(enumerate(rows))


@pytest.mark.anyio
async def test_callers_are_refused_some_at_a_time_and_each_with_an_error_of_its_own() -> None:
    callers = Callers(lambda: None)
    waiters = [current_runtime().new_waiter() for _ in range(2_500)]
    for number, waiter in enumerate(waiters):
        callers.add(number, waiter)
    error = carpool.PoolClosed("left")
    assert callers.refuse_some(error)
    with pytest.raises(carpool.PoolClosed, match="left"):
        callers.admit()
    assert 0 < sum(waiter.done() for waiter in waiters) < 2_500
    assert not callers.refuse_some(error)
    callers.refuse_all(error)
    assert not len(callers)
    errors = {id(waiter.exception()) for waiter in waiters}
    assert len(errors) == 2_500
