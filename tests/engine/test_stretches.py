"""Rows that are looked for, or taken out, by the thousand: as stretches of consecutive numbers, where they are some."""

from array import array

import pytest
from engine_kit import make_run

from carpool.engine.packing import Waiting, common, spans


@pytest.mark.parametrize(
    ("rows", "stretches"),
    [
        ([], []),
        ([5], [(5, 5)]),
        ([1, 2, 3, 4, 5, 6, 7], [(1, 7)]),
        ([1, 3, 5], [(1, 1), (3, 3), (5, 5)]),
        ([1, 2, 4, 5, 6, 7, 8, 11], [(1, 2), (4, 8), (11, 11)]),
        ([*range(100), *range(200, 300)], [(0, 99), (200, 299)]),
    ],
)
def test_consecutive_numbers_make_one_stretch(rows: list[int], stretches: list[tuple[int, int]]) -> None:
    assert list(spans(rows)) == stretches


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("others", [[], [3], [1, 4, 6, 40], [*range(30)], [*range(500)]])
def test_what_two_sequences_have_in_common(step: int, others: list[int]) -> None:
    rows = array("Q", range(2, 400, step))
    assert list(common(rows, others)) == [row for row in others if row in rows]


def test_rows_that_lie_side_by_side_are_taken_out_together_though_others_were_numbered_between_them() -> None:
    waiting = Waiting()
    waiting.append(make_run([2, 4, 6, 8, 10]))
    (taken,) = waiting.drop([4, 6])
    assert (list(taken.rows), taken.offset) == ([4, 6], 10)
    assert [(list(run.rows), run.offset) for run in waiting] == [([2], 0), ([8, 10], 30)]
    assert (waiting.rows, waiting.size) == (3, 30)
