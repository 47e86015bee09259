"""For how long it pays to wait for more calls: trickles, bursts, callers that wait for their answers, little time."""

import math
from collections import deque
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from engine_kit import LANE, NOW, OTHER, Shell, answer, make_run, of, only, rows_of
from hypothesis import HealthCheck, given, settings

from carpool.config import Timing
from carpool.engine.arrivals import Arrivals, Earliest, patience
from carpool.engine.commands import Upload
from carpool.engine.events import Abandoned, Accepted, Asked, Flush, Recovered
from carpool.engine.lane import LaneState
from carpool.engine.ledger import Ledger
from carpool.models import FileLimits
from carpool.naming import span_of

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TIMING = Timing(linger=1, max_linger=30)
SMALL = FileLimits(requests=5, bytes=200, inputs=7, creations_per_hour=1_000_000)


# --- the earliest of what still waits


@unhurried
@given(
    st.lists(
        st.one_of(st.tuples(st.integers(0, 20), st.integers(0, 20).map(float)), st.integers(0, 25)),
        max_size=30,
    )
)
def test_the_earliest_time_is_that_of_a_row_that_still_waits(steps: list[tuple[int, float] | int]) -> None:
    earliest = Earliest()
    noted: list[tuple[int, float]] = []
    for step in steps:
        if isinstance(step, tuple):
            earliest.note(*step)
            noted.append(step)
        else:
            noted = [(row, at) for row, at in noted if row >= step]
            assert earliest.among(step) == min((at for _, at in noted), default=math.inf)


def test_nothing_is_left_of_what_is_cleared() -> None:
    earliest = Earliest()
    earliest.note(1, 5.0)
    assert earliest
    earliest.clear()
    assert not earliest
    assert earliest.among(1) == math.inf


# --- the rule


@pytest.mark.parametrize(
    ("pauses", "seconds"),
    [
        ((5, 5, 5, 5), 15),
        ((2, 4, 2, 4), 9),
        ((30, 30, 30, 30), 90),
        ((31, 30, 30, 30), 1),
        ((5, 5, 5, 500), 1),
        ((math.inf, 5, 5, 5), 1),
    ],
)
def test_three_mean_pauses_are_waited_for_unless_the_next_call_is_not_expected_in_time(
    pauses: Sequence[float], seconds: float
) -> None:
    assert patience(pauses, TIMING) == pytest.approx(seconds)


@unhurried
@given(st.lists(st.floats(1.001, 1e6), min_size=4, max_size=4), st.floats(1, 1_000))
def test_nobody_waits_for_less_than_linger(pauses: list[float], max_linger: float) -> None:
    assert patience(deque(pauses), Timing(linger=1, max_linger=max_linger)) >= 1


def after(*times: float, answered: Sequence[int] = (), timing: Timing = TIMING) -> Arrivals:
    """Let calls come at times, the first of which is row 0; before the `answered` ones answers come."""
    arrivals = Arrivals(timing)
    for row, at in enumerate(times):
        if row in answered:
            arrivals.freed()
        arrivals.came(row, NOW + at)
    return arrivals


def waits(arrivals: Arrivals, row: int, at: float) -> float:
    """Give for how long a call that came last, alone, waits."""
    return arrivals.due(row) - NOW - at


def test_the_first_calls_of_a_trickle_wait_as_a_burst_does_and_then_more_are_expected() -> None:
    assert waits(after(0, 5, 10, 15), 3, 15) == 1
    assert waits(after(0, 5, 10, 15, 20), 4, 20) == 15


def test_a_trickle_is_cut_max_linger_after_its_first_call() -> None:
    assert after(*range(0, 60, 5)).due(6) == NOW + 30 + 30


def test_what_comes_together_is_one_burst_whatever_its_size() -> None:
    burst = [number / 1_000 for number in range(3_000)]
    assert waits(after(*burst), 2_999, burst[-1]) == pytest.approx(1)
    minutes = [60.0 * minute + number / 100 for minute in range(10) for number in range(50)]
    assert waits(after(*minutes), len(minutes) - 1, minutes[-1]) == pytest.approx(1)


def test_bursts_that_come_soon_after_one_another_are_gathered() -> None:
    times = [8.0 * burst + number / 100 for burst in range(6) for number in range(20)]
    assert waits(after(*times), len(times) - 1, times[-1]) == pytest.approx(3 * 7.81)


def test_after_a_long_silence_nothing_is_expected_until_it_trickles_again() -> None:
    trickle = [0.0, 2, 4, 6, 8]
    assert waits(after(*trickle), 4, 8) == 6
    assert waits(after(*trickle, 3_600), 5, 3_600) == 1
    assert waits(after(*trickle, *range(3_600, 3_608, 2)), 8, 3_606) == 1
    assert waits(after(*trickle, *range(3_600, 3_610, 2)), 9, 3_608) == 6


def test_a_call_that_follows_an_answer_tells_nothing_of_others() -> None:
    times = [5.0 * number for number in range(20)]
    assert waits(after(*times, answered=range(20)), 19, times[-1]) == 1
    # One in three is enough not to be held for somebody who waits.
    assert waits(after(*times, answered=[n for n in range(20) if n % 3]), 19, times[-1]) == 15


def test_a_long_silence_counts_though_an_answer_came_in_it() -> None:
    assert waits(after(0, 2, 4, 6, 8, 3_600, answered=[5]), 5, 3_600) == 1


def test_where_max_linger_is_no_longer_than_linger_nothing_is_waited_for() -> None:
    timing = Timing(linger=2, max_linger=2)
    assert waits(after(*range(0, 50, 5), timing=timing), 9, 45) == 2


@pytest.mark.parametrize(("pack_by", "due"), [(10, 10), (0.5, 1), (40, 30), (math.inf, 30)])
def test_what_has_little_time_waits_for_less_but_for_linger(pack_by: float, due: float) -> None:
    arrivals = after(*range(-50, 0, 10))
    arrivals.clear()
    arrivals.came(9, NOW, NOW + pack_by)
    assert arrivals.due(9) == NOW + due


def test_hurry_ends_when_the_row_that_is_in_a_hurry_is_gone() -> None:
    arrivals = after(*range(-50, 0, 10))
    arrivals.clear()
    arrivals.came(9, NOW, NOW + 6)
    arrivals.came(10, NOW + 2)
    assert arrivals.due(9) == NOW + 6
    assert arrivals.due(10) == NOW + 2 + 24


# --- rows that another process numbered


@pytest.mark.parametrize("dead", [1, 3])
def test_how_long_a_row_of_another_process_waited_is_forgotten_when_it_is_gone(dead: int) -> None:
    theirs, ours = span_of(dead)[0], span_of(2)[0]
    lane = LaneState(TIMING, SMALL, Ledger(30), shard=2)
    lane.add(make_run([ours + 1]), NOW - 5)
    lane.dormant.append(make_run([theirs + 1, theirs + 2]))
    assert lane.recall([theirs + 1, theirs + 2], NOW) == {theirs + 1, theirs + 2}
    lane.add(make_run([ours + 2], offset=10), NOW + 5)
    assert lane.since == NOW - 5
    lane.waiting.drop([ours + 1, theirs + 1])
    assert lane.since <= NOW
    lane.waiting.drop([theirs + 2])
    assert lane.since == NOW + 5


# --- in the engine


def trickled(shell: Shell, calls: int, *, every: float = 5.0) -> list[list[int]]:
    """Let calls come one by one; gives the rows of each batch."""
    batches: list[list[int]] = []
    for row in range(calls):
        at = NOW + row * every
        while shell.engine.deadline() < at:
            batches += [rows_of(upload.batch.runs) for upload in of(shell.wait(), Upload)]
        shell.now = at
        shell.accept(row)
    return batches


def test_calls_that_trickle_travel_together() -> None:
    shell = Shell(TIMING, tokens=10**12)
    batches = trickled(shell, 60)
    assert [len(batch) for batch in batches[:4]] == [1, 1, 1, 1]
    assert all(len(batch) == 7 for batch in batches[4:])  # one each five seconds, for thirty
    assert [row for batch in batches for row in batch] == list(range(sum(map(len, batches))))


def test_the_last_call_of_a_trickle_waits_no_longer_than_the_settings_say() -> None:
    shell = Shell(TIMING)
    trickled(shell, 12)
    came, left = shell.now, shell.stats().waiting
    assert len(rows_of(only(shell.wait(), Upload).batch.runs)) == left
    assert came < shell.now <= came + 15


def test_a_file_that_is_full_is_packed_at_once_though_calls_trickle() -> None:
    shell = Shell(TIMING, SMALL)
    trickled(shell, 5, every=4)
    uploads = of(shell.accept(5, after=4) + shell.accept(6, 7, 8, 9, after=4), Upload)
    assert len(uploads) == 1
    assert shell.now < NOW + 30


def test_a_flush_packs_a_trickle_at_once() -> None:
    shell = Shell(TIMING)
    trickled(shell, 6)
    shell.now += 0.5
    assert rows_of(only(shell.tell(Flush()), Upload).batch.runs)[-1] == 5


def test_a_caller_that_waits_for_each_answer_is_not_kept_waiting() -> None:
    shell = Shell(TIMING)
    for row in range(12):
        shell.accept(row)
        assert shell.pause == 1
        shell.finish(shell.reopened(), answer(row))
        shell.now += 2


def test_lanes_trickle_apart() -> None:
    shell = Shell(TIMING)
    trickled(shell, 10)
    shell.accept(100, lane=OTHER, segment=2)
    assert shell.pause <= 1


def test_a_call_with_little_time_takes_those_along_that_wait_with_it() -> None:
    shell = Shell(TIMING)
    trickled(shell, 6)
    shell.tell(Flush())
    shell.accept(6, after=2)
    shell.now += 1
    shell.tell(Accepted(LANE, make_run([7], segment=2), pack_by=shell.now + 6))
    assert shell.pause == 6
    shell.accept(8, after=2, segment=3)
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [6, 7, 8]
    shell.accept(9, segment=4)
    assert shell.pause > 6


def test_a_call_with_little_time_that_goes_hurries_nobody() -> None:
    shell = Shell(TIMING)
    trickled(shell, 6)
    shell.tell(Flush())
    shell.tell(Accepted(LANE, make_run([6], segment=2), pack_by=shell.now + 6))
    shell.accept(7, segment=3, after=1)
    shell.tell(Abandoned(frozenset({6})))
    assert shell.pause > 6


def test_a_row_of_an_earlier_time_that_is_asked_for_with_little_time_is_packed_in_time() -> None:
    shell = Shell(TIMING, numbered=span_of(1)[0])
    shell.engine.replay(Accepted(LANE, make_run([1, 2, 3])), NOW - 1_000)
    shell.tell(Recovered())
    for row in range(5):
        shell.accept(span_of(1)[0] + row, segment=2, after=7)
    shell.tell(Flush())
    shell.tell(Asked((1, 3)), after=3)
    assert shell.pause > 6
    shell.tell(Asked((2, 3), shell.now + 5))
    assert shell.pause == 5
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [1, 2, 3]


# --- as creations get scarce

SCARCE = FileLimits(
    requests=5, bytes=10_000, inputs=100, creations_per_hour=40
)  # four at once, then one in 100 seconds


def one_created() -> Shell:
    """Let one batch be created, after which three more may be; a moment later a call waits for others."""
    shell = Shell(TIMING, SCARCE)
    shell.accept(0)
    only(shell.wait(), Upload)
    shell.accept(1, after=5, segment=2)
    return shell


def test_the_fewer_creations_are_left_the_longer_calls_wait_for_others() -> None:
    shell = one_created()
    assert 10 < shell.pause < 30
    shell.accept(2, 3, segment=3, after=shell.pause - 1)
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [1, 2, 3]
    shell.accept(4, after=5, segment=4)
    assert shell.pause > 30


def test_what_gains_nothing_by_waiting_goes_at_once_though_creations_get_scarce() -> None:
    full = one_created().accept(*range(2, 6), segment=3)
    assert rows_of(only(full, Upload).batch.runs) == [1, 2, 3, 4, 5]
    flushed = one_created().tell(Flush())
    assert rows_of(only(flushed, Upload).batch.runs) == [1]
    hurried = one_created()
    hurried.tell(Accepted(LANE, make_run([2], segment=3), pack_by=hurried.now + 4))
    assert hurried.pause == 4


def test_lanes_do_not_wait_for_one_another_while_creations_are_left() -> None:
    shell = one_created()
    shell.accept(10, lane=OTHER, segment=9)
    assert rows_of(only(shell.until(Upload), Upload).batch.runs) == [10]
    assert shell.now <= NOW + 10
