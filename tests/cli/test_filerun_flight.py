"""What is kept of the rows that are under way."""

import random
import tracemalloc

import pytest

from carpool.cli.filerun.flight import Flight
from carpool.cli.filerun.rows import Row


def row(number: int) -> Row:
    return Row(number << 32 | number, 2 * number, b'"%d"' % number * (number % 3), "/v1/responses", b"{}")


def flown(rows: list[Row]) -> Flight:
    flight = Flight()
    left = rows
    for size in (0, 1, 10, 700, 1_000, len(rows)):
        flight.add(left[:size])
        left = left[size:]
    return flight


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("count", [1, 711, 2_500])
def test_each_comes_out_as_it_went_in_whatever_the_order(count: int, seed: int | None) -> None:
    order, rows = [*range(count)], [row(2**20 + number) for number in range(count)]
    flight = flown(rows)
    if seed is not None:
        random.Random(seed).shuffle(order)
    for index in order:
        assert flight.line(index) == rows[index].line
        assert flight.take(index) == (rows[index].key, rows[index].name)


def test_rows_may_come_while_others_go() -> None:
    flight = Flight()
    for number in range(0, 30_000, 3):
        flight.add([row(number), row(number + 1), row(number + 2)])
        assert flight.take(number)[0] == row(number).key
        assert flight.take(number + 2)[0] == row(number + 2).key
        if number >= 300:
            assert flight.take(number - 299)[0] == row(number - 299).key


def test_little_is_kept_of_each_and_nothing_of_those_that_are_written() -> None:
    rows = [Row(n << 32, n, b'"request-%06d"' % n, "/v1/responses", b"{}") for n in range(20_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        flight = Flight()
        for start in range(0, len(rows), 1_000):
            flight.add(rows[start : start + 1_000])
        full = tracemalloc.get_traced_memory()[0] - before
        for index in range(len(rows) - 1_000):
            flight.take(index)
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert full / len(rows) < 40
    assert left < full / 8  # the last thousand
