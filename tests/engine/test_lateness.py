"""Tokens that the provider goes on counting after their batch has ended."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from carpool.engine.lateness import Lateness

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TURN = 600.0


def ended(*ends: tuple[float, float]) -> Lateness:
    """Make one that saw so many tokens end at these times."""
    lateness = Lateness()
    for at, tokens in ends:
        lateness.end(tokens, at, TURN)
    return lateness


def test_before_a_refusal_nothing_is_held() -> None:
    lateness = ended((100, 50))
    assert (lateness.lag, lateness.held(100), lateness.wake(100)) == (0.0, 0, math.inf)


def test_a_refusal_soon_after_an_end_shows_how_late_tokens_are_released() -> None:
    lateness = ended((100, 50))
    assert lateness.blame(10, since=101, now=105, turn=TURN)
    assert lateness.lag == 10
    assert lateness.held(105) == 50
    assert lateness.held(110) == 0
    assert lateness.wake(105) == 110
    assert lateness.wake(110) == math.inf


def test_a_lag_is_some_seconds_at_least_and_grows_by_half_at_least() -> None:
    lateness = ended((100, 50))
    lateness.blame(10, since=100, now=100.5, turn=TURN)
    assert lateness.lag == 4
    lateness.end(50, 200, TURN)
    lateness.blame(10, since=204.5, now=205, turn=TURN)
    assert lateness.lag == 10
    lateness.end(50, 300, TURN)
    lateness.blame(10, since=310.5, now=311, turn=TURN)
    assert lateness.lag == 22


def test_several_ends_are_held_one_after_another() -> None:
    lateness = ended((100, 50), (103, 20))
    assert lateness.blame(10, since=104, now=105, turn=TURN)
    assert lateness.lag == 4
    assert [lateness.held(at) for at in (103.5, 104, 106.5, 107)] == [70, 20, 20, 0]
    assert lateness.wake(103.5) == 104
    assert lateness.wake(104) == 107


def test_the_end_that_explains_the_refusal_is_the_one_that_is_believed_late() -> None:
    lateness = ended((100, 50), (200, 20), (300, 20))
    assert lateness.blame(30, since=301, now=302, turn=2_000)
    assert lateness.lag == 2 * (302 - 200)


@pytest.mark.parametrize("missing", [50, 51, math.inf])
def test_tokens_that_never_were_there_explain_nothing(missing: float) -> None:
    lateness = ended((100, 50))
    assert not lateness.blame(missing, since=101, now=105, turn=TURN)
    assert lateness.lag == 0


def test_tokens_that_are_held_already_explain_nothing() -> None:
    lateness = ended((100, 50))
    lateness.blame(10, since=101, now=105, turn=TURN)
    assert not lateness.blame(10, since=106, now=107, turn=TURN)
    assert lateness.blame(10, since=111, now=112, turn=TURN)


def test_a_batch_that_did_not_know_the_lag_proves_nothing_against_it() -> None:
    lateness = ended((100, 50))
    assert lateness.blame(10, since=101, now=105, turn=TURN)
    assert lateness.blame(10, since=102, now=115, turn=TURN)
    assert lateness.lag == 10


def test_a_lag_that_grows_too_long_is_none_and_for_a_turn_nothing_is_put_down_to_it() -> None:
    lateness = ended((0, 50))
    assert lateness.blame(10, since=9, now=10, turn=TURN)
    assert lateness.lag == 20
    lateness.end(50, 100, TURN)
    assert not lateness.blame(10, since=190, now=190, turn=TURN)
    assert lateness.lag == 0, "as before longer ones were tried"
    lateness.end(50, 700, TURN)
    assert not lateness.blame(10, since=701, now=702, turn=TURN)
    lateness.end(50, 790, TURN)
    assert lateness.blame(10, since=791, now=792, turn=TURN)


def test_what_was_admitted_confirms_the_lag_and_lets_it_fade() -> None:
    lateness = ended((100, 50))
    lateness.blame(10, since=101, now=105, turn=TURN)
    lateness.admit()
    confirmed = lateness.lag
    assert confirmed == pytest.approx(9.8)
    lateness.end(50, 200, TURN)
    assert not lateness.blame(10, since=280, now=280, turn=TURN)
    assert lateness.lag == confirmed
    for _ in range(300):
        lateness.admit()
    assert lateness.lag < 0.1


def test_ends_that_are_older_than_a_turn_are_forgotten() -> None:
    lateness = ended((0, 50), (2 * TURN, 1))
    assert not lateness.blame(10, since=2 * TURN, now=2 * TURN + 1, turn=TURN)


@unhurried
@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 100), st.booleans()), max_size=30),
    st.floats(0, 200),
)
def test_what_is_held_only_shrinks_until_the_next_end_and_wake_names_the_next_step(
    steps: list[tuple[float, int, bool]], after: float
) -> None:
    lateness, now = Lateness(), 1_000.0
    for seconds, tokens, refused in steps:
        now += seconds
        lateness.end(tokens, now, TURN)
        if refused:
            lateness.blame(0, since=now, now=now + 1, turn=TURN)
    wake = lateness.wake(now)
    at = now + after
    assert lateness.held(at) <= lateness.held(now)
    if at < wake:
        assert lateness.held(at) == lateness.held(now)
    elif wake < math.inf:
        assert lateness.held(wake) < lateness.held(now)
    assert (wake == math.inf) == (lateness.held(now) == 0)
