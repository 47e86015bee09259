"""What our counts and bytes weigh in the provider's tokens."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from carpool.engine.scale import Scale
from carpool.models import Load

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sampled(tokens: int = 250, size: int = 1_000) -> Scale:
    """Make a scale that knows one sample."""
    scale = Scale()
    scale.sample(tokens, size)
    return scale


def test_a_byte_weighs_a_token_and_a_token_one_before_anything_is_known() -> None:
    scale = Scale()
    assert scale.weigh(Load(30, 400)) == 430
    assert (scale.per_token, scale.per_byte) == (1.0, 1.0)
    assert not scale.calibrated
    assert not scale.reported


def test_nothing_weighs_nothing() -> None:
    assert Scale().weigh(Load(0, 0)) == 0


def test_a_sample_says_what_a_byte_weighs_with_a_margin() -> None:
    scale = sampled()
    assert scale.calibrated
    assert scale.per_byte == pytest.approx(0.25 * 1.25)
    assert scale.per_token == 1.0


def test_samples_are_added_up_and_the_margin_stays_for_few_rows_may_weigh_otherwise_than_many_did() -> None:
    scale = sampled(100, 1_000)
    for _ in range(3):
        scale.sample(300, 1_000)
    assert scale.per_byte == pytest.approx(0.25 * 1.25)


def test_where_nothing_can_be_counted_the_margin_shrinks_with_what_was_reported() -> None:
    scale = sampled(250, 1_000)
    scale.blind = True
    margins = []
    for _ in range(100):
        scale.report(Load(0, 1_000), 250)
        margins.append(scale.per_byte / 0.25 - 1)
    assert margins == sorted(margins, reverse=True)
    assert margins[2] == pytest.approx(0.125)
    assert margins[-1] < 0.03


def test_where_nothing_can_be_counted_a_byte_is_a_third_of_a_token_until_more_is_known() -> None:
    scale = Scale()
    scale.blind = True
    assert scale.calibrated
    assert scale.per_byte == pytest.approx(1 / 3)
    scale.sample(250, 1_000)
    assert scale.per_byte == pytest.approx(0.25 * 1.25)


def unbounded() -> Scale:
    """Make a scale that believes whatever is reported."""
    scale = Scale()
    scale.most = math.inf
    return scale


def test_reports_of_counted_batches_say_what_a_token_weighs() -> None:
    scale = unbounded()
    scale.report(Load(5_000, 0), 7_000)
    assert scale.reported
    assert 1.0 < scale.per_token < 1.4, "a single report is not believed at once"
    for _ in range(30):
        scale.report(Load(5_000, 0), 7_000)
    assert scale.per_token == pytest.approx(1.4, rel=1e-3)


def test_a_small_batch_is_believed_little() -> None:
    scale = unbounded()
    scale.report(Load(10, 0), 40)
    assert scale.per_token < 1.01


def test_a_provider_that_comes_to_count_otherwise_is_followed() -> None:
    scale = unbounded()
    for ratio in (1.4, 0.7):
        for _ in range(40):
            scale.report(Load(1_000, 0), int(1_000 * ratio))
        assert scale.per_token == pytest.approx(ratio, rel=1e-2)


def test_what_a_token_weighs_bears_on_bytes_of_which_only_a_sample_is_known() -> None:
    scale = unbounded()
    scale.sample(250, 1_000)
    for _ in range(40):
        scale.report(Load(5_000, 0), 10_000)
    assert scale.per_byte == pytest.approx(0.5 * 1.25, rel=1e-3)
    assert scale.guess(Load(0, 1_000)) == pytest.approx(500, abs=1)


def test_tokens_weigh_no_more_than_one_before_that_is_shown_and_no_less_than_is_shown() -> None:
    scale = Scale()
    for _ in range(40):
        scale.report(Load(5_000, 0), 10_000)
    assert scale.per_token == 1.0
    scale.most = 1.5
    assert scale.per_token == 1.5
    scale.least = 3.0
    assert scale.per_token == 3.0


def test_a_guess_has_no_margin() -> None:
    assert Scale().guess(Load(30, 400)) == 130
    assert sampled().guess(Load(30, 400)) == 130
    assert sampled(500).guess(Load(30, 400)) == 230


def test_reports_of_batches_that_were_not_counted_say_what_a_byte_weighs() -> None:
    scale = sampled(900, 1_000)
    scale.report(Load(0, 10_000), 2_500)
    assert scale.per_byte == pytest.approx(0.25 * 1.25)
    assert scale.per_token == 1.0
    assert not scale.reported


@pytest.mark.parametrize(("load", "billed"), [(Load(500, 0), 0), (Load(0, 500), 0), (Load(5, 5), 50), (Load(0, 0), 50)])
def test_what_shows_no_ratio_teaches_nothing(load: Load, billed: int) -> None:
    scale = sampled()
    scale.report(load, billed)
    assert (scale.per_token, scale.per_byte) == (1.0, 0.25 * 1.25)
    assert not scale.reported


@pytest.mark.parametrize(("load", "billed", "per_token"), [(10**9, 1, 0.1), (1, 10**9, 10.0)])
def test_ratios_that_must_be_accidents_are_not_believed(load: int, billed: int, per_token: float) -> None:
    scale = unbounded()
    scale.report(Load(load, 0), billed)
    assert scale.per_token == pytest.approx(per_token)
    scale.report(Load(0, load), billed)
    assert scale.per_byte <= 10.0 * 1.25


loads = st.builds(Load, st.integers(0, 10_000), st.integers(0, 100_000))


@unhurried
@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 5_000)), max_size=10),
    st.lists(st.tuples(loads, st.integers(0, 100_000)), max_size=20),
    st.booleans(),
    loads,
    loads,
)
def test_weights_are_positive_bounded_and_add_up(
    samples: list[tuple[int, int]], reports: list[tuple[Load, int]], blind: bool, one: Load, other: Load
) -> None:
    scale = Scale()
    scale.blind = blind
    for tokens, size in samples:
        scale.sample(min(tokens, size), size)
    for load, billed in reports:
        scale.report(load, billed)
    assert 0.1 <= scale.per_token <= 10.0
    assert 0.0 <= scale.per_byte <= 12.5
    assert scale.weigh(one) + scale.weigh(other) == pytest.approx(scale.weigh(one.plus(other)))


@unhurried
@given(st.lists(st.tuples(st.integers(1, 1_000), st.integers(1, 20)), min_size=1, max_size=30))
def test_a_calibrated_estimate_is_above_what_was_sampled(rows: list[tuple[int, int]]) -> None:
    scale = Scale()
    for tokens, bytes_a_token in rows:
        scale.sample(tokens, tokens * bytes_a_token)
    total = Load(0, sum(tokens * bytes_a_token for tokens, bytes_a_token in rows))
    assert scale.weigh(total) > sum(tokens for tokens, _ in rows)
