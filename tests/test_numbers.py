"""Sets and maps of numbers behave as those of Python do."""

from hypothesis import given
from hypothesis import strategies as st

from carpool.numbers import NumberMap, NumberSet

NUMBERS = st.integers(0, 5_000) | st.integers(2**40, 2**40 + 5_000)


@given(st.lists(st.tuples(st.booleans(), NUMBERS)), NUMBERS)
def test_a_set_holds_what_was_added_and_not_taken_out(steps: list[tuple[bool, int]], asked: int) -> None:
    ours, known = NumberSet(), set[int]()
    for adds, number in steps:
        ours.add(number) if adds else ours.discard(number)
        known.add(number) if adds else known.discard(number)
    assert all(number in ours for number in known)
    assert (asked in ours) == (asked in known)


@given(st.lists(st.tuples(NUMBERS, st.none() | st.integers(0, 2**64 - 2))), NUMBERS)
def test_a_map_gives_what_was_set_last_and_not_taken_out(steps: list[tuple[int, int | None]], asked: int) -> None:
    ours, known = NumberMap(), dict[int, int]()
    for number, other in steps:
        if other is None:
            assert ours.pop(number, -1) == known.pop(number, -1)
        else:
            ours[number] = known[number] = other
    assert {number: ours.get(number, -1) for number in known} == known
    assert (asked in ours, ours.get(asked, -1)) == (asked in known, known.get(asked, -1))
    assert bool(ours) == bool(known)
