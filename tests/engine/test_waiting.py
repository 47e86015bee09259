"""What waits: the order of travel, and the choice of what fits one file."""

from array import array
from itertools import accumulate

import hypothesis.strategies as st
from engine_kit import make_run, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.engine.packing import Waiting, first_fit
from carpool.models import FileLimits, Run

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

limits = st.builds(
    FileLimits,
    requests=st.integers(1, 12),
    bytes=st.integers(1, 300),
    inputs=st.integers(1, 40),
    creations_per_hour=st.just(2_000),
)


@st.composite
def queues(draw: st.DrawFn) -> list[Run]:
    counted = draw(st.booleans())
    runs: list[Run] = []
    number = offset = 0
    for length in draw(st.lists(st.integers(1, 8), max_size=6)):
        sizes = draw(st.lists(st.integers(1, 80), min_size=length, max_size=length))
        inputs = draw(st.lists(st.integers(1, 15), min_size=length, max_size=length)) if counted else None
        runs.append(make_run(range(number, number + length), offset=offset, size=sizes, inputs=inputs))
        number += length
        offset += sum(sizes)
    return runs


@unhurried
@given(queues(), limits)
def test_what_fits_is_the_longest_beginning_within_every_limit(queue: list[Run], limits: FileLimits) -> None:
    sizes = list(accumulate(size for run in queue for size in run.sizes))
    inputs = list(accumulate(count for run in queue for count in run.inputs or array("I", [0] * len(run))))
    fitting = [
        rows <= limits.requests and size <= limits.bytes and count <= limits.inputs
        for rows, (size, count) in enumerate(zip(sizes, inputs, strict=True), 1)
    ]

    chosen = first_fit(queue, limits)

    assert rows_of(chosen) == rows_of(queue)[: sum(fitting)]
    assert all(chosen_run.segment == run.segment for chosen_run, run in zip(chosen, queue, strict=False))


@unhurried
@given(queues(), limits)
def test_packing_again_and_again_sends_every_row_once_and_in_order(queue: list[Run], limits: FileLimits) -> None:
    waiting = Waiting()
    for run in queue:
        waiting.append(run)
    sent: list[int] = []
    while chosen := first_fit(waiting, limits):
        sent += rows_of(chosen)
        waiting.take(chosen)

    assert sent + rows_of(waiting) == rows_of(queue)


def test_a_file_is_filled_to_the_exact_byte_request_and_input() -> None:
    bounds = FileLimits(requests=3, bytes=30, inputs=6, creations_per_hour=1)
    run = make_run(range(9), size=10, inputs=2)

    assert rows_of(first_fit([run], bounds)) == [0, 1, 2]
    assert rows_of(first_fit([make_run(range(9), size=[10, 10, 11])], bounds)) == [0, 1]
    assert rows_of(first_fit([make_run(range(9), size=1, inputs=[2, 2, 3] * 3)], bounds)) == [0, 1]
    assert rows_of(first_fit([make_run(range(9), size=1)], bounds)) == [0, 1, 2]


def test_a_part_of_a_run_knows_where_its_bytes_lie() -> None:
    part = make_run([4, 7, 9, 12], segment=3, offset=100, size=[5, 6, 7, 8], inputs=[1, 2, 3, 4]).part(1, 3)

    assert (part.segment, part.offset, part.size, len(part)) == (3, 105, 13, 2)
    assert (list(part.rows), list(part.sizes), list(part.inputs or ())) == ([7, 9], [6, 7], [2, 3])


def test_lines_that_lie_side_by_side_make_one_range() -> None:
    waiting = Waiting()
    waiting.append(make_run([1, 2], offset=0, inputs=1))
    waiting.append(make_run([5], offset=20, inputs=1))
    waiting.append(make_run([6], segment=2, inputs=1))

    assert [list(run.rows) for run in waiting] == [[1, 2, 5], [6]]


class WaitingMachine(RuleBasedStateMachine):
    """Compare `Waiting` with a list of (row, segment, offset, size, inputs)."""

    Line = tuple[int, int, int, int, int]

    @initialize(counted=st.booleans())
    def begin(self, counted: bool) -> None:
        self.counted = counted
        self.waiting = Waiting()
        self.model: list[WaitingMachine.Line] = []
        self.gone: list[WaitingMachine.Line] = []
        self.taken: list[list[Run]] = []
        self.next_row = 0
        self.segment, self.offset = 1, 0

    def lines(self, runs: list[Run]) -> "list[WaitingMachine.Line]":
        lines = []
        for run in runs:
            offset = run.offset
            for row, size, inputs in zip(run.rows, run.sizes, run.inputs or [0] * len(run), strict=True):
                lines.append((row, run.segment, offset, size, inputs))
                offset += size
        return lines

    @rule(
        sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
        step=st.integers(1, 3),
        new_segment=st.booleans(),
    )
    def append(self, sizes: list[int], step: int, new_segment: bool) -> None:
        if new_segment:
            self.segment, self.offset = self.segment + 1, 0
        rows = range(self.next_row, self.next_row + step * len(sizes), step)
        inputs = 2 if self.counted else None
        run = make_run(rows, segment=self.segment, offset=self.offset, size=sizes, inputs=inputs)
        self.next_row, self.offset = rows[-1] + 1, self.offset + run.size
        self.model += self.lines([run])
        self.waiting.append(run)

    @rule(requests=st.integers(1, 6), size=st.integers(9, 40))
    def take(self, requests: int, size: int) -> None:
        runs = first_fit(self.waiting, FileLimits(requests, size, 50, 1))
        taken = self.lines(runs)
        self.waiting.take(runs)
        assert taken == self.model[: len(taken)]
        del self.model[: len(taken)]
        if runs:
            self.taken.append(runs)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        runs = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.waiting.put_back(runs)
        self.model = self.lines(runs) + self.model

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.integers(0, self.next_row + 2), max_size=8))
        dropped = self.lines(self.waiting.drop(rows))
        assert dropped == [line for line in self.model if line[0] in rows]
        self.model = [line for line in self.model if line[0] not in rows]

    @invariant()
    def it_holds_what_the_list_holds(self) -> None:
        assert self.lines(list(self.waiting)) == self.model
        assert self.waiting.rows == len(self.model)
        assert self.waiting.size == sum(line[3] for line in self.model)
        assert self.waiting.inputs == sum(line[4] for line in self.model)


WaitingMachine.TestCase.settings = unhurried
TestWaitingMachine = WaitingMachine.TestCase
