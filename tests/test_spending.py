"""What answers cost, what they would have cost live, and what a budget lets pass."""

import math
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.errors import BudgetExceeded, ConfigurationError
from carpool.models import Lane, Usage
from carpool.prices import Prices
from carpool.spending import Budget, Cost, Spending, checked_budget, dollars

M = 1_000_000
GPT = Lane("/v1/chat/completions", "gpt-4o")  # 2.50 and 10.00 live
EMBEDDING = Lane("/v1/embeddings", "text-embedding-3-small")
UNKNOWN = Lane("/v1/chat/completions", "llama")


def near(cost: Cost) -> Any:
    """Compare amounts as floats want to be compared."""
    return pytest.approx(as_tuple(cost))


def as_tuple(cost: Cost) -> tuple[float, ...]:
    return tuple(getattr(cost, name) for name in cost.__struct_fields__)


# --- adding up -------------------------------------------------------------------------------------------------------


def test_nothing_costs_nothing() -> None:
    spending = Spending(Prices())
    assert spending.total() == Cost()
    assert spending.by_lane() == {}
    assert (spending.paid, spending.mean_output("gpt-4o")) == (0, 0)


def test_lanes_are_apart_and_add_up() -> None:
    spending = Spending(Prices())
    spending.add(GPT, 10, Usage(M, 100_000, 5_000))
    spending.add(EMBEDDING, 5, Usage(2 * M, 0, 0))
    spending.add(GPT, 1, Usage(M, 0, 0))
    assert list(spending.by_lane()) == [GPT, EMBEDDING]
    assert as_tuple(spending.by_lane()[GPT]) == near(Cost(11, 0, 2 * M, 5_000, 100_000, 3.0, 6.0))
    assert as_tuple(spending.by_lane()[EMBEDDING]) == near(Cost(5, 0, 2 * M, 0, 0, 0.02, 0.04))
    assert as_tuple(spending.total()) == near(Cost(16, 0, 4 * M, 5_000, 100_000, 3.02, 6.04))
    assert spending.total().saved == pytest.approx(3.02)
    assert spending.paid == pytest.approx(3.02)


def test_a_live_answer_costs_the_live_price_and_saves_nothing() -> None:
    spending = Spending(Prices())
    spending.add(GPT, 1, Usage(M, 0, 0), live=True)
    total = spending.total()
    assert (total.paid, total.live, total.saved) == (2.5, 2.5, 0)


def test_a_model_without_a_price_is_counted_and_costs_nothing() -> None:
    spending = Spending(Prices())
    spending.add(UNKNOWN, 3, Usage(M, M, 10))
    assert spending.total() == Cost(requests=3, unpriced=3, input_tokens=M, cached_tokens=10, output_tokens=M)


def test_the_users_prices_and_discount_count() -> None:
    spending = Spending(Prices({"llama": {"input": 1, "output": 2, "batch": 0.8}}))
    spending.add(UNKNOWN, 3, Usage(M, M, 0))
    assert as_tuple(spending.total()) == near(Cost(3, 0, M, 0, M, 2.4, 3.0))


def test_what_was_given_out_does_not_change() -> None:
    spending = Spending(Prices())
    spending.add(GPT, 1, Usage(1, 1, 0))
    lanes = spending.by_lane()
    spending.add(GPT, 1, Usage(1, 1, 0))
    assert lanes[GPT].requests == 1


chunks = st.lists(
    st.tuples(
        st.sampled_from([GPT, EMBEDDING, UNKNOWN, GPT._replace(priority=1), GPT._replace(model="gpt-6-astra")]),
        st.integers(1, 1_000),
        st.builds(Usage, st.integers(0, M), st.integers(0, M), st.integers(0, M)),
        st.booleans(),
    )
)


@given(chunks)
def test_however_answers_arrive_the_sums_agree(chunks: list[tuple[Lane, int, Usage, bool]]) -> None:
    prices = Prices()
    spending = Spending(prices)
    for lane, rows, usage, live in chunks:
        spending.add(lane, rows, usage, live=live)
    total = spending.total()
    priced = [(found, usage, live) for lane, _, usage, live in chunks if (found := prices.of(lane.model))]
    assert total.requests == sum(rows for _, rows, _, _ in chunks)
    assert total.unpriced == sum(rows for lane, rows, _, _ in chunks if lane == UNKNOWN)
    assert total.input_tokens == sum(usage.input_tokens for _, _, usage, _ in chunks)
    assert total.paid == pytest.approx(math.fsum(found.of(usage, live=live) for found, usage, live in priced))
    assert total.live == pytest.approx(math.fsum(found.of(usage, live=True) for found, usage, _ in priced))
    assert spending.paid == pytest.approx(total.paid)
    assert total.saved >= 0


def test_the_mean_output_is_a_models_whatever_the_lane() -> None:
    spending = Spending(Prices())
    spending.add(GPT, 3, Usage(0, 300, 0))
    spending.add(GPT._replace(priority=1), 1, Usage(0, 500, 0), live=True)
    spending.add(UNKNOWN, 1, Usage(0, 7, 0))
    assert spending.mean_output("gpt-4o") == 200
    assert spending.mean_output("llama") == 7


# --- against what the batch states -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("counted", "stated"), [(0, 500), (500, 0), (0, 0), (99, 100), (101, 100), (500, 500)])
def test_small_differences_and_what_is_not_stated_pass(counted: int, stated: int) -> None:
    assert Spending(Prices()).check(GPT, counted, stated) is None


@pytest.mark.parametrize(("counted", "stated"), [(98_000, 100_000), (102_000, 100_000), (1, 1_000)])
def test_a_larger_difference_is_told_once_a_lane(counted: int, stated: int) -> None:
    spending = Spending(Prices())
    warning = spending.check(GPT, counted, stated)
    assert warning is not None
    assert f"{counted:,}" in warning
    assert f"{stated:,}" in warning
    assert "gpt-4o on /v1/chat/completions" in warning
    assert spending.check(GPT, counted, stated) is None
    assert spending.check(EMBEDDING, counted, stated) is not None


# --- the budget ------------------------------------------------------------------------------------------------------


def budget(limit: float, own: Any = None) -> tuple[Spending, Budget]:
    prices = Prices(own)
    spending = Spending(prices)
    return spending, Budget(limit, spending, prices)


def test_a_call_is_expected_to_cost_its_bytes_at_the_batch_price() -> None:
    _, limited = budget(1.0)
    assert limited.admit(1, "gpt-4o", 4_000) is None
    assert limited.committed == pytest.approx(1_000 * 1.25 / M)
    limited.admit(2, "gpt-4o", 4_000, live=True)
    assert limited.committed == pytest.approx(3_000 * 1.25 / M)


def test_output_is_expected_once_answers_had_some() -> None:
    spending, limited = budget(1.0)
    spending.add(GPT, 2, Usage(0, 400, 0))
    limited.admit(1, "gpt-4o", 4_000)
    assert limited.committed == pytest.approx((1_000 * 1.25 + 200 * 5) / M)


def test_calls_under_way_count_until_they_are_settled() -> None:
    _, limited = budget(0.002, {"x": {"input": 8}})  # a thousand bytes for a tenth of a cent
    limited.admit(1, "x", 1_000)
    limited.admit(2, "x", 1_000)
    with pytest.raises(BudgetExceeded, match=r"budget of \$0.0020 does not allow .* \$0.00 was paid, .* \$0.0020, .*"):
        limited.admit(3, "x", 1)
    assert not limited.exceeded
    limited.settled(1)
    limited.admit(4, "x", 1_000)


def test_what_was_refused_reserves_nothing() -> None:
    _, limited = budget(0.002, {"x": {"input": 8}})
    with pytest.raises(BudgetExceeded, match=r"this one \$0.010"):
        limited.admit(1, "x", 10_000)
    assert limited.committed == 0
    limited.admit(2, "x", 1_000)


def test_a_budget_that_is_paid_lets_nothing_pass() -> None:
    spending, limited = budget(1.25)
    limited.admit(1, "gpt-4o", 4)
    spending.add(GPT, 1, Usage(M, 0, 0))
    limited.settled(1)
    assert limited.exceeded
    for model in ("gpt-4o", "llama"):
        with pytest.raises(BudgetExceeded, match=r"The budget of \$1.25 is spent: \$1.25 was paid"):
            limited.admit(2, model, 0)


def test_no_budget_at_all_is_spent_from_the_start() -> None:
    _, limited = budget(0)
    assert limited.exceeded
    with pytest.raises(BudgetExceeded, match=r"The budget of \$0.00 is spent"):
        limited.admit(1, "gpt-4o", 4)


def test_a_model_without_a_price_passes_and_is_told_once() -> None:
    _, limited = budget(1e-9)
    warning = limited.admit(1, "llama", 10**9)
    assert warning is not None
    assert 'prices={"llama": {"input": ..., "output": ...}}' in warning
    assert limited.admit(2, "llama", 10**9) is None
    assert limited.admit(3, "mistral", 10**9) is not None
    assert limited.committed == 0
    limited.settled(1)


def test_settling_an_unknown_call_does_nothing() -> None:
    _, limited = budget(1.0)
    limited.admit(1, "gpt-4o", 4_000)
    limited.settled(2)
    assert limited.committed > 0
    limited.settled(1)
    limited.settled(1)
    assert limited.committed == 0


@given(st.lists(st.one_of(st.integers(1, 10**6), st.none()), max_size=60), st.floats(0.001, 1))
def test_no_more_is_reserved_than_the_budget_and_nothing_is_left_over(sizes: list[int | None], limit: float) -> None:
    """Admit calls of so many bytes; None settles the oldest."""
    _, limited = budget(limit)
    numbers = count(1)
    under_way: dict[int, float] = {}
    for size in sizes:
        if size is None:
            limited.settled(oldest := min(under_way, default=0))
            under_way.pop(oldest, None)
            continue
        cost, number = size / 4 * 1.25 / M, next(numbers)
        try:
            limited.admit(number, "gpt-4o", size)
        except BudgetExceeded:
            assert sum(under_way.values()) + cost > limit * (1 - 1e-9)
        else:
            under_way[number] = cost
        assert limited.committed == pytest.approx(sum(under_way.values()), abs=1e-12)
        assert limited.committed <= limit
    for number in under_way:
        limited.settled(number)
    assert limited.committed == 0


# --- the setting, and amounts ----------------------------------------------------------------------------------------


def test_a_budget_is_an_amount_or_none() -> None:
    assert checked_budget(None) is None
    assert [checked_budget(amount) for amount in (0, 5, 2.5)] == [0.0, 5.0, 2.5]


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), 10**400, True, "5", "$5", [5], (5, "USD")])
def test_another_budget_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="budget must be an amount in USD, 0 or more"):
        checked_budget(wrong)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (5, "$5.00"),
        (12.345, "$12.35"),
        (99.99, "$99.99"),
        (123.45, "$123"),
        (1_234_567.8, "$1,234,568"),
        (0.5, "$0.50"),
        (0.06, "$0.060"),
        (0.00123, "$0.0012"),
        (1e-9, "$0.0000000010"),
    ],
)
def test_amounts_are_written_for_people(amount: float, text: str) -> None:
    assert dollars(amount) == text
