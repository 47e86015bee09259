"""Calls of streams that are held together, against a plain dictionary."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from carpool.callers import Callers
from carpool.errors import CarpoolError, PoolClosed
from carpool.models import Response
from carpool.spans import Entry, Spans, rows_of

unhurried = settings(deadline=None, max_examples=150)


class Keeping:
    """Keep what a stream is told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.error: CarpoolError | None = None

    def settle(self, entries: Sequence[Entry]) -> None:
        self.entries += entries

    def end(self, error: CarpoolError) -> None:
        self.error = error


def answer(number: int) -> Response:
    return Response(f"p-{number}", "b", "r", 200, b"")


class Both:
    """Do the same to spans and to a dictionary: by number, the stream and the position there."""

    def __init__(self) -> None:
        self.spans = Spans()
        self.sinks = [Keeping() for _ in range(3)]
        self.model: dict[int, tuple[int, int]] = {}
        self.expected: list[list[Entry]] = [[], [], []]
        self.came = [0, 0, 0]
        self.number = 0

    def number_at(self, place: float) -> int:
        return round(place * (self.number + 2))

    def of(self, stream: int) -> list[int]:
        return [number for number, (whose, _) in self.model.items() if whose == stream]

    def add(self, stream: int, count: int, gap: int) -> None:
        """Add calls of a stream, behind numbers that are others'."""
        self.number += gap
        self.spans.add(self.number + 1, self.came[stream], self.sinks[stream], count)
        for _ in range(count):
            self.number += 1
            self.model[self.number] = stream, self.came[stream]
            self.came[stream] += 1

    def settle(self, numbers: list[int]) -> None:
        waited = self.spans.settle(numbers, [answer(number) for number in numbers])
        assert waited == [number in self.model for number in numbers]
        for number in filter(self.model.__contains__, numbers):
            stream, index = self.model.pop(number)
            self.expected[stream].append((index, answer(number)))

    def settle_some(self, places: list[float]) -> None:
        self.settle(list(dict.fromkeys(map(self.number_at, places))))

    def settle_stream(self, stream: int) -> None:
        self.settle(self.of(stream))

    def forget(self, place: float) -> None:
        number = self.number_at(place)
        assert self.spans.forget(number) is (number in self.model)
        self.model.pop(number, None)

    def leave(self, stream: int) -> None:
        numbers = self.spans.numbers_of(self.sinks[stream])
        assert numbers == self.of(stream)
        for number in numbers:
            assert self.spans.forget(number)
            del self.model[number]

    def clear(self) -> None:
        assert self.spans.clear() == {self.sinks[stream] for stream, _ in self.model.values()}
        self.model.clear()


streams = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), streams, st.sampled_from([1, 2, 3, 500, 5_000]), st.integers(0, 2)),
        st.tuples(st.just("settle_some"), st.lists(st.floats(0, 1), max_size=30)),
        st.tuples(st.just("settle_stream"), streams),
        st.tuples(st.just("forget"), st.floats(0, 1)),
        st.tuples(st.just("leave"), streams),
        st.tuples(st.just("clear")),
    ),
    max_size=25,
)


@unhurried
@given(steps)
def test_spans_agree_with_a_dictionary(steps: list[Any]) -> None:
    both = Both()
    for name, *values in steps:
        getattr(both, name)(*values)
        assert len(both.spans) == len(both.model)
        assert all(number in both.spans for number in both.model)
        assert list(both.spans) == list(both.model)
    assert 0 not in both.spans
    assert both.number + 1 not in both.spans
    assert [sink.entries for sink in both.sinks] == both.expected


def test_many_that_are_settled_in_any_order_take_no_long_time_and_leave_nothing() -> None:
    spans = Spans()
    sink = Keeping()
    for start in range(0, 200_000, 500):
        spans.add(start + 1, start, sink, 500)
    for start in range(500):
        numbers = list(range(start + 1, 200_001, 500))
        assert all(spans.settle(numbers, [answer(n) for n in numbers]))
    assert len(spans) == 0
    assert sorted(index for index, _ in sink.entries) == list(range(200_000))


def test_rows_are_those_of_answers() -> None:
    live = Response("", "", "r", 200, b"")
    assert rows_of([(0, answer(7)), (1, PoolClosed("no")), (2, live), (3, answer(2**40 + 5))]) == [7, 2**40 + 5]


def test_callers_of_streams_that_are_settled_or_gone_are_counted_once() -> None:
    told: list[None] = []
    callers = Callers(lambda: told.append(None))
    sink = Keeping()
    callers.add_streamed(1, [0, 1, 2, 5, 6], sink)
    callers.add_streamed(6, [7], sink, ("tag",))
    assert len(callers) == 6
    assert all(number in callers for number in range(1, 7))
    assert callers.give_all([1, 2], [answer(1), answer(2)]) == [True, True]
    assert callers.give_all([2], [answer(2)]) == [False]
    assert callers.refuse(3, PoolClosed("no")) is True
    assert callers.leave([4, 4, 3, 99]) == [4]
    assert len(told) == 1
    assert callers.numbers_of(sink) == [5, 6]
    assert callers.give(6, answer(6)) is True
    assert (callers.answered, callers.failed) == (4, 1)
    assert callers.by_tag == {("tag", "accepted"): 1, ("tag", "answered"): 1}
    callers.refuse_all(PoolClosed("over"))
    assert str(sink.error) == "over"
    assert len(callers) == 0
    assert [index for index, _ in sink.entries] == [0, 1, 2, 7]
