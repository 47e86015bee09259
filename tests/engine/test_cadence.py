"""How often to ask, how long to back off, how fast to create; and the heap of deadlines."""

import math
import tracemalloc
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from carpool.config import Timing
from carpool.engine.agenda import Agenda
from carpool.engine.cadence import Pace, backoff, check_pause, spread

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOUR = 3600.0


@unhurried
@given(age=st.floats(0, 1e6), jitter=st.floats(0, 1, exclude_max=True))
def test_a_batch_is_asked_for_between_poll_min_and_poll_max_or_up_to_a_tenth_sooner(age: float, jitter: float) -> None:
    timing = Timing(poll_min=2, poll_max=60, poll_fraction=0.05)
    assert 2 * 0.9 <= check_pause(age, timing, jitter) <= 60


@pytest.mark.parametrize(("age", "pause"), [(0, 2), (40, 2), (400, 20), (1_200, 60), (86_400, 60)])
def test_the_pause_is_a_share_of_the_age(age: float, pause: float) -> None:
    timing = Timing(poll_min=2, poll_max=60, poll_fraction=0.05)
    assert check_pause(age, timing, 0.0) == pytest.approx(pause)
    assert check_pause(age, timing, 1.0) == pytest.approx(0.9 * pause)


@pytest.mark.parametrize(("attempt", "pause"), [(1, 2), (2, 4), (5, 32), (6, 60), (10_000, 60)])
def test_the_back_off_doubles_up_to_its_cap_and_half_of_it_is_jitter(attempt: int, pause: float) -> None:
    assert backoff(attempt, 0.0) == pytest.approx(pause / 2)
    assert backoff(attempt, 1.0) == pytest.approx(pause)


def test_base_and_cap_of_the_back_off_can_be_set() -> None:
    assert backoff(1, 1.0, base=30, cap=600) == 60
    assert backoff(9, 1.0, base=30, cap=600) == 600


@unhurried
@given(st.text(), st.integers(0, 1_000))
def test_the_same_draw_of_the_same_batch_is_always_the_same(key: str, draw: int) -> None:
    assert spread(key, draw) == spread(key, draw)
    assert 0 <= spread(key, draw) < 1


def test_draws_are_spread_over_the_whole_range() -> None:
    draws = sorted(spread(f"p-b{batch}", draw) for batch in range(100) for draw in range(10))
    assert max(after - before for before, after in pairwise(draws)) < 0.02


@unhurried
@given(
    st.integers(1, 50),
    st.lists(st.floats(0, 2 * HOUR), max_size=200),
)
def test_whoever_waits_until_it_is_ready_stays_below_the_hourly_limit(per_hour: int, wishes: list[float]) -> None:
    pace = Pace(per_hour)
    now = 1_700_000_000.0
    taken: list[float] = []
    for wish in wishes:
        now = max(now, 1_700_000_000.0 + wish)
        now = pace.ready_at(now)
        pace.take(now)
        taken.append(now)
    for first in taken:
        assert sum(first <= at < first + HOUR for at in taken) <= per_hour


def test_a_tenth_may_be_had_at_once_and_the_rest_drips_in() -> None:
    pace = Pace(2_000)
    for _ in range(200):
        assert pace.ready_at(1_000.0) == 1_000.0
        pace.take(1_000.0)
    assert pace.ready_at(1_000.0) == pytest.approx(1_002.0)


def test_what_was_taken_too_much_is_waited_for() -> None:
    pace = Pace(2_000)
    for _ in range(203):
        pace.take(1_000.0)
    assert pace.ready_at(1_000.0) == pytest.approx(1_008.0)


def test_a_clock_that_goes_back_gives_no_room() -> None:
    pace = Pace(2_000)
    for _ in range(200):
        pace.take(1_000.0)
    assert pace.ready_at(900.0) > 900.0


def test_a_time_that_another_clock_gave_is_not_waited_for() -> None:
    pace = Pace(2_000)
    for _ in range(200):
        pace.take(90_000.0)
    assert pace.ready_at(1_000.0) == pytest.approx(1_002.0)
    pace.take(1_002.0)
    assert pace.ready_at(1_002.0) == pytest.approx(1_004.0)


@unhurried
@given(st.lists(st.one_of(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), st.sampled_from("abc"))))
def test_the_agenda_keeps_the_last_deadline_of_each_name(notes: list[tuple[str, int] | str]) -> None:
    agenda, model = Agenda[str](), dict[str, int]()
    for note in notes:
        if isinstance(note, str):
            agenda.drop(note)
            model.pop(note, None)
        else:
            agenda.set(*note)
            model[note[0]] = note[1]

    assert agenda.next() == min(model.values(), default=math.inf)
    assert {name for name in "abc" if agenda.is_due(name, 5)} == {name for name, at in model.items() if at <= 5}
    due = agenda.pop(5)
    assert sorted(due) == sorted(name for name, at in model.items() if at <= 5)
    assert [model[name] for name in due] == sorted(model[name] for name in due)
    assert agenda.next() == min((at for at in model.values() if at > 5), default=math.inf)


def test_deadlines_that_were_moved_and_dropped_are_kept_no_longer() -> None:
    """Those of a queue lie a day ahead, and are dropped with each batch that finds room."""
    agenda = Agenda[str]()
    agenda.set("far", 2 * 86_400.0)
    tracemalloc.start()
    try:
        for second in range(20_000):
            agenda.set("moved", 86_400.0 + second)
            agenda.set("dropped", 86_400.0 + second)
            agenda.drop("dropped")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000  # bytes; all of them take four times as many
    assert agenda.next() == 86_400.0 + 19_999
    assert agenda.pop(1e9) == ["moved", "far"]


def test_batches_are_to_be_larger_the_scarcer_creations_are() -> None:
    pace = Pace(2_000)
    seen = []
    for _ in range(200):
        seen.append(pace.thrift(0.0))
        pace.take(0.0)
    assert seen == [1] * 101 + [2] * 50 + [4] * 49
    assert pace.thrift(0.0) == 4
    assert pace.thrift(3_600.0) == 1  # they are to be had again


def test_a_creation_that_is_not_made_may_be_made_by_another() -> None:
    pace = Pace(10)
    assert pace.ready_at(0.0) == 0.0
    pace.take(0.0)
    assert pace.ready_at(0.0) > 0.0
    pace.put_back()
    assert pace.ready_at(0.0) == 0.0
    pace.put_back()  # never above what may be had at once
    pace.take(0.0)
    assert pace.ready_at(0.0) > 0.0


def crowd(starts: list[float], hours: float, patience: float = 0.1) -> list[list[float]]:
    """Let processes, each from a time on, create as often as they are allowed to, hearing at each creation of others'.

    None of them waits for more than what it would like to: `patience` seconds.
    """
    paces = [Pace(2_000) for _ in starts]
    made: list[list[float]] = [[] for _ in starts]
    heard = [[0] * len(starts) for _ in starts]
    wake = list(starts)
    while (now := min(wake)) < hours * HOUR:
        who = wake.index(now)
        for other, times in enumerate(made):
            for at in times[heard[who][other] :] if other != who else []:
                paces[who].take(at)
            heard[who][other] = len(times)
        due = max(paces[who].ready_at(now), paces[who].spare_at(made[who][-1] if made[who] else -math.inf))
        if due <= now:
            paces[who].take(now)
            made[who].append(now)
            due = now + patience
        wake[who] = due
    return made


@pytest.mark.parametrize(("count", "left"), [(1, 100), (2, 67), (4, 40)])
def test_long_before_no_creation_is_left_those_that_may_wait_are_further_apart(count: int, left: int) -> None:
    """So many then are left for what cannot wait, and are never used up."""
    made = crowd([float(start) for start in range(count)], 3)
    steady = [sum(at >= 2 * HOUR for at in times) for times in made]
    assert sum(steady) == pytest.approx(1_800, rel=0.01)
    assert sum(map(len, made)) == pytest.approx(3 * 1_800 + 200 - left, rel=0.01)


def test_who_comes_later_makes_as_many_as_the_others() -> None:
    first, later = crowd([0.0, HOUR], 3)
    assert sum(at > 1.5 * HOUR for at in later) == pytest.approx(sum(at > 1.5 * HOUR for at in first), rel=0.02)


def test_while_creations_are_many_hardly_anything_waits_for_them() -> None:
    pace = Pace(2_000)
    assert pace.spare_at(-math.inf) == -math.inf
    assert pace.spare_at(1_000.0) == 1_000.0
    for _ in range(10):
        pace.take(1_000.0)
    assert 1_000.0 < pace.spare_at(1_000.0) < 1_000.2
    pace.take(1_050.0)
    assert pace.spare_at(1_000.0) < 1_050.0


def test_after_all_were_used_nothing_waits_for_longer_than_half_a_minute() -> None:
    pace = Pace(2_000)
    for _ in range(200):
        pace.take(1_000.0)
    assert 1_020 < pace.spare_at(1_000.0) < 1_030
    assert pace.spare_at(1_000.0, decided=1) > pace.spare_at(1_000.0)
