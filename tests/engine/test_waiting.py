"""What waits: the order of travel, and the choice of what fits one file."""

import math
from array import array
from itertools import accumulate
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from engine_kit import make_run, rows_of, with_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.engine.packing import Waiting, first_fit
from carpool.models import FileLimits, Load, Run
from carpool.naming import shard_of, span_of

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

limits = st.builds(
    FileLimits,
    requests=st.integers(1, 12),
    bytes=st.integers(1, 300),
    inputs=st.integers(1, 40),
    creations_per_hour=st.just(2_000),
)


class Weights(NamedTuple):
    """Weigh without a margin."""

    per_token: float
    per_byte: float


PLENTY = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=1)
EXACT = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])  # sums of them are exact


@st.composite
def queues(draw: st.DrawFn, *, some_counted: bool = False) -> list[Run]:
    counted = draw(st.booleans())
    runs: list[Run] = []
    number = offset = 0
    for length in draw(st.lists(st.one_of(st.just(1), st.integers(1, 8)), max_size=6)):
        sizes = draw(st.lists(st.integers(1, 80), min_size=length, max_size=length))
        inputs = draw(st.lists(st.integers(1, 15), min_size=length, max_size=length)) if counted else None
        run = make_run(range(number, number + length), offset=offset, size=sizes, inputs=inputs)
        if some_counted and draw(st.booleans()):
            run = with_tokens(run, draw(st.lists(st.integers(0, 80), min_size=length, max_size=length)))
        runs.append(run)
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


def weights_of(runs: list[Run], weights: Weights) -> list[float]:
    """Weigh row by row."""
    return [
        amount * (weights.per_byte if run.tokens is None else weights.per_token)
        for run in runs
        for amount in (run.sizes if run.tokens is None else run.tokens)
    ]


@settings(unhurried, max_examples=300)
@given(queues(some_counted=True), st.integers(1, 12), st.integers(0, 200), st.builds(Weights, EXACT, EXACT))
def test_a_budget_buys_the_longest_beginning_to_the_exact_token_and_a_single_row_in_any_case(
    queue: list[Run], requests: int, budget: int, weights: Weights
) -> None:
    affordable = sum(total <= budget for total in accumulate(weights_of(queue, weights)))

    chosen = first_fit(queue, FileLimits(requests, 10_000, 10_000, 1), budget, weights)

    assert rows_of(chosen) == rows_of(queue)[: min(max(affordable, 1), requests)]


@unhurried
@given(queues(some_counted=True), st.floats(0, 500), st.floats(0.1, 10), st.floats(0.1, 10))
def test_what_is_bought_weighs_no_more_than_the_budget_whatever_the_weights(
    queue: list[Run], budget: float, per_token: float, per_byte: float
) -> None:
    weights = Weights(per_token, per_byte)
    chosen = first_fit(queue, PLENTY, budget, weights)
    assert len(rows_of(chosen)) <= 1 or sum(weights_of(chosen, weights)) <= budget * (1 + 1e-9)
    assert bool(chosen) == bool(queue)


@unhurried
@given(queues(some_counted=True), limits, st.builds(Weights, EXACT, EXACT))
def test_a_budget_that_is_far_away_changes_nothing(queue: list[Run], limits: FileLimits, weights: Weights) -> None:
    fitting = first_fit(queue, limits)
    if fitting or not queue:
        assert first_fit(queue, limits, math.inf, weights) == first_fit(queue, limits, 1e9, weights) == fitting


@pytest.mark.parametrize(("budget", "rows"), [(0, [1]), (10, [1]), (39, [1]), (49, [1]), (50, [1, 2]), (90, [1, 2, 3])])
def test_a_heavy_row_spends_the_budget_though_it_is_a_run_of_its_own(budget: int, rows: list[int]) -> None:
    heavy = with_tokens(make_run([1]), [40])
    light = with_tokens(make_run([2, 3], offset=10), [10, 40])
    assert rows_of(first_fit([heavy, light], PLENTY, budget, Weights(1.0, 1.0))) == rows


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


def test_rows_are_dropped_by_their_numbers_of_which_others_lie_in_other_lanes() -> None:
    waiting = Waiting()
    waiting.append(make_run([1, 3, 5]))
    assert waiting.drop([0, 2, 4, 6]) == []
    assert rows_of(waiting.drop([2, 3, 4])) == [3]
    assert [list(run.rows) for run in waiting] == [[1], [5]]


@pytest.mark.parametrize(("size", "rows"), [(0, [1]), (10, [1]), (29, [1]), (30, [1, 4]), (50, [1, 4, 5])])
def test_so_many_bytes_are_counted_of_what_was_not_counted_yet(size: int, rows: list[int]) -> None:
    waiting = Waiting()
    for number, offset in ((1, 0), (2, 10)):
        waiting.append(make_run([number], segment=number, offset=offset))
    waiting.append(make_run([4, 5], segment=3, size=20))
    waiting.note_tokens([with_tokens(make_run([2], segment=2, offset=10), [3])])
    assert rows_of(waiting.uncounted(size)) == rows


@pytest.mark.parametrize("dead", [1, 3])
def test_rows_of_another_process_stay_in_front_whatever_is_put_back(dead: int) -> None:
    theirs, ours = span_of(dead)[0], span_of(2)[0]
    waiting = Waiting(2)
    waiting.append(make_run(range(ours, ours + 6)))
    chosen = first_fit(waiting, FileLimits(2, 100, 100, 1))
    waiting.take(chosen)
    waiting.put_back([make_run([theirs, theirs + 1])])
    waiting.put_back(chosen)
    waiting.append(make_run([ours + 6]))
    assert rows_of(waiting) == [theirs, theirs + 1, *range(ours, ours + 7)]


class Line(NamedTuple):
    """A row of the model."""

    row: int
    segment: int
    offset: int
    size: int
    inputs: int
    tokens: int | None


def lines_of(runs: list[Run]) -> list[Line]:
    """List the rows of runs."""
    lines = []
    for run in runs:
        offset = run.offset
        for at, (row, size) in enumerate(zip(run.rows, run.sizes, strict=True)):
            inputs = 0 if run.inputs is None else run.inputs[at]
            lines.append(Line(row, run.segment, offset, size, inputs, None if run.tokens is None else run.tokens[at]))
            offset += size
    return lines


def tokens_of(row: int) -> int:
    """Count a row of the model."""
    return row * 7 % 11


def in_line(line: Line) -> tuple[bool, int]:
    """Order the rows of the model: those of other processes first."""
    return shard_of(line.row) == 0, line.row


class WaitingMachine(RuleBasedStateMachine):
    """Compare `Waiting` with a sorted list."""

    @initialize(inputs=st.booleans())
    def begin(self, inputs: bool) -> None:
        self.inputs = inputs
        self.waiting = Waiting()
        self.model: list[Line] = []
        self.taken: list[list[Run]] = []
        self.counting: list[Run] = []
        self.next_row = 0
        self.segment, self.offset = 1, 0

    @rule(
        sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
        step=st.integers(1, 3),
        new_segment=st.booleans(),
    )
    def append(self, sizes: list[int], step: int, new_segment: bool) -> None:
        if new_segment:
            self.segment, self.offset = self.segment + 1, 0
        rows = range(self.next_row, self.next_row + step * len(sizes), step)
        run = make_run(rows, segment=self.segment, offset=self.offset, size=sizes, inputs=2 if self.inputs else None)
        self.next_row, self.offset = rows[-1] + 1, self.offset + run.size
        self.model += lines_of([run])
        self.waiting.append(run)

    @rule(shard=st.integers(1, 2), count=st.integers(1, 3))
    def recall(self, shard: int, count: int) -> None:
        first = span_of(shard)[0] + self.next_row
        run = make_run(range(first, first + count), segment=first, inputs=2 if self.inputs else None)
        self.next_row += count
        self.waiting.put_back([run])
        self.model = sorted(self.model + lines_of([run]), key=in_line)

    @rule(requests=st.integers(1, 6), size=st.integers(9, 40))
    def take(self, requests: int, size: int) -> None:
        runs = first_fit(self.waiting, FileLimits(requests, size, 50, 1))
        taken = lines_of(runs)
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
        self.model = sorted(self.model + lines_of(runs), key=in_line)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.integers(0, self.next_row + 2), max_size=8))
        dropped = lines_of(self.waiting.drop(rows))
        assert dropped == [line for line in self.model if line.row in rows]
        self.model = [line for line in self.model if line.row not in rows]

    @rule(size=st.integers(0, 40))
    def begin_to_count(self, size: int) -> None:
        runs = self.waiting.uncounted(size)
        unknown = [line for line in self.model if line.tokens is None]
        fitting = sum(total <= size for total in accumulate(line.size for line in unknown))
        assert lines_of(list(runs)) == unknown[: max(1, fitting)]
        self.counting += runs

    @precondition(lambda self: self.counting)
    @rule(data=st.data())
    def note_tokens(self, data: st.DataObject) -> None:
        run = self.counting.pop(data.draw(st.integers(0, len(self.counting) - 1)))
        self.waiting.note_tokens([with_tokens(run, map(tokens_of, run.rows))])
        self.model = [
            line._replace(tokens=tokens_of(line.row)) if line.tokens is None and line.row in run.rows else line
            for line in self.model
        ]

    @invariant()
    def it_holds_what_the_list_holds(self) -> None:
        assert lines_of(list(self.waiting)) == self.model
        assert self.waiting.rows == len(self.model)
        assert self.waiting.size == sum(line.size for line in self.model)
        assert self.waiting.inputs == sum(line.inputs for line in self.model)
        assert self.waiting.load == Load(
            sum(line.tokens or 0 for line in self.model), sum(line.size for line in self.model if line.tokens is None)
        )

    @invariant()
    def it_names_what_is_large_or_heavy(self) -> None:
        large = [line for line in self.model if line.tokens is None and line.size > 5]
        assert lines_of(list(self.waiting.larger(5))) == large
        assert self.waiting.heavier(5) == {line.row: line.tokens for line in self.model if (line.tokens or 0) > 5}


WaitingMachine.TestCase.settings = unhurried
TestWaitingMachine = WaitingMachine.TestCase
