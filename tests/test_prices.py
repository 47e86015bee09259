"""What tokens cost: the numbers as contracts A8 has them, and the user's own on top of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.errors import ConfigurationError
from carpool.models import Usage
from carpool.prices import Price, Prices, table

M = 1_000_000

# USD per million tokens in batches, as contracts A8 lists them: input, output.
A8 = {
    "gpt-6-astra": (5, 25),
    "gpt-6-sol": (1, 5),
    "gpt-6.1-sol": (1, 5),
    "gpt-6.1-terra": (0.5, 2.5),
    "gpt-6-luna": (0.05, 0.25),
    "gpt-5.6": (2, 10),
    "gpt-5.6-sol": (2, 10),
    "gpt-5.6-terra": (1, 6),
    "gpt-5.6-luna": (0.1, 0.6),
    "gpt-5.5": (2.5, 15),
    "gpt-5.5-pro": (15, 90),
    "gpt-5.4": (1.25, 7.5),
    "gpt-5.4-mini": (0.375, 2.25),
    "gpt-5.4-nano": (0.1, 0.625),
    "gpt-5.2": (0.875, 7),
    "gpt-5": (0.625, 5),
    "gpt-5.1": (0.625, 5),
    "gpt-5-mini": (0.125, 1),
    "gpt-5-nano": (0.025, 0.2),
    "gpt-4.1": (1, 4),
    "gpt-4.1-mini": (0.2, 0.8),
    "gpt-4.1-nano": (0.05, 0.2),
    "gpt-4o": (1.25, 5),
    "gpt-4o-mini": (0.075, 0.3),
    "o3": (1, 4),
    "o4-mini": (0.55, 2.2),
    "o3-mini": (0.55, 2.2),
    "o1": (7.5, 30),
    "gpt-4-turbo": (5, 15),
    "gpt-4": (15, 30),
    "gpt-3.5-turbo-0125": (0.25, 0.75),
    "text-embedding-3-large": (0.065, 0),
    "text-embedding-3-small": (0.01, 0),
    "text-embedding-ada-002": (0.05, 0),
    "gpt-6.2-astra": (4, 20),
}


def price(model: str, own: Any = None) -> Price:
    found = Prices(own).of(model)
    assert found is not None
    return found


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", A8)
def test_a_batch_costs_what_is_published_and_live_costs_twice_as_much(model: str) -> None:
    found = price(model)
    for usage, usd in zip((Usage(M, 0, 0), Usage(0, M, 0)), A8[model], strict=True):
        assert found.of(usage) == pytest.approx(usd)
        assert found.of(usage, live=True) == pytest.approx(2 * usd)


@pytest.mark.parametrize(
    ("model", "usd"), [("gpt-6-astra", 0.5), ("gpt-6.1-sol", 0.05), ("gpt-5.4", 0.125), ("gpt-5.4-nano", 0.01)]
)
def test_cached_input_costs_less_where_batches_have_the_discount(model: str, usd: float) -> None:
    assert price(model).of(Usage(M, 0, M)) == pytest.approx(usd)


@pytest.mark.parametrize("model", ["gpt-5.2", "gpt-5", "gpt-4o", "o3", "gpt-4", "gpt-5.5-pro", "gpt-6.2-astra"])
def test_cached_input_costs_the_same_elsewhere(model: str) -> None:
    assert price(model).of(Usage(M, 0, M)) == price(model).of(Usage(M, 0, 0))


def test_no_price_is_negative_and_caching_never_costs_more() -> None:
    for each in table().values():
        assert 0 <= each.cached <= each.input
        assert each.output == 0 or each.output > each.input
        assert each.batch == 0.5


def test_what_is_cached_is_a_part_of_the_input() -> None:
    found = price("gpt-6-astra")
    assert found.of(Usage(1_000, 100, 400)) == pytest.approx((600 * 5 + 400 * 0.5 + 100 * 25) / M)
    assert found.of(Usage(1_000, 0, 5_000)) == found.of(Usage(1_000, 0, 1_000))  # whoever says more is wrong


tokens = st.integers(0, 10**9)


@given(st.sampled_from(sorted(table())), tokens, tokens, tokens)
def test_a_batch_costs_half_whatever_the_tokens(model: str, input_: int, output: int, cached: int) -> None:
    usage = Usage(input_, output, cached)
    assert price(model).of(usage) == pytest.approx(price(model).of(usage, live=True) / 2)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-5.5-pro-2026-04-23", "gpt-5.5-pro"),
        ("gpt-6.1-terra-2026-11-01", "gpt-6.1-terra"),  # no limit is known of it
        ("gpt-4-0613", "gpt-4"),
        ("gpt-4-1106-preview", "gpt-4-turbo"),
    ],
)
def test_a_snapshot_costs_what_its_family_does(model: str, family: str) -> None:
    assert price(model) == price(family)


def test_a_snapshot_with_a_price_of_its_own_has_that() -> None:
    assert price("gpt-4o-2024-05-13").of(Usage(M, M, 0)) == pytest.approx(10)


@pytest.mark.parametrize(
    "model",
    [
        "ft:gpt-4o-mini-2024-07-18:org::id",
        "gpt-3.5-turbo-1106",
        "gpt-4-32k-0613",
        "gpt-4o-audio-preview",
        "chatgpt-4o-latest",
        "gpt-5.4-large",
        "my-gpt-4o",
        "openai/gpt-4o",
        "llama",
        "*",
        "",
    ],
)
def test_another_model_has_no_price_but_the_users(model: str) -> None:
    assert Prices().of(model) is None
    assert Prices({"gpt-4o": {"input": 1}}).of(model) is None
    assert price(model, {"*": {"input": 3}}).of(Usage(M, 0, 0), live=True) == pytest.approx(3)


# --- what the user says ----------------------------------------------------------------------------------------------


def test_the_users_price_goes_by_name_then_family_then_the_table_then_star() -> None:
    prices = Prices({"gpt-4o-2024-11-20": {"input": 1}, "gpt-4o": {"input": 2}, "*": {"input": 3}})

    def usd(model: str) -> float | None:
        found = prices.of(model)
        return found and found.of(Usage(M, 0, 0), live=True)

    assert usd("gpt-4o-2024-11-20") == pytest.approx(1)
    assert usd("gpt-4o-2024-08-06") == pytest.approx(2)
    assert usd("gpt-4o-2024-05-13") == pytest.approx(2)  # though the table lists it
    assert usd("gpt-4o-mini") == pytest.approx(0.15)
    assert usd("llama-2025-01-31") == pytest.approx(3)


def test_a_snapshot_of_a_model_that_only_the_user_knows_costs_what_the_model_does() -> None:
    own = {"llama": {"input": 7}, "ft:gpt-4o:org::id": {"input": 8}}
    assert price("llama-2025-01-31", own) == price("llama", own)
    assert price("ft:gpt-4o:org::id", own).input == pytest.approx(8 / M)


def test_the_users_price_is_live_and_may_leave_out_all_but_input() -> None:
    assert price("x", {"x": {"input": 8}}) == pytest.approx(Price(8 / M, 8 / M, 0, 0.5))
    own = {"x": {"input": 8, "cached": 2, "output": 32, "batch": 0.8}}
    assert price("x", own) == pytest.approx(Price(8 / M, 2 / M, 32 / M, 0.8))
    assert price("x", own).of(Usage(M, M, M // 2)) == pytest.approx(0.8 * (4 + 1 + 32))


def test_a_price_may_be_nothing() -> None:
    own = {"gpt-4o": {"input": 0, "batch": 0}}
    assert price("gpt-4o", own).of(Usage(M, M, 0)) == 0
    assert price("x", {"x": {"input": 1, "cached": 0}}).of(Usage(M, 0, M)) == 0


def test_prices_are_copied() -> None:
    own = {"x": {"input": 1.0}}
    prices = Prices(own)
    own["x"]["input"] = own["y"] = 2.0  # type: ignore[assignment]
    assert prices.of("x") == Price(1 / M, 1 / M, 0, 0.5)
    assert prices.of("y") is None


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        (2.5, "must be a mapping such as"),
        ([("gpt-4o", {"input": 2.5})], "must be a mapping such as"),
        ({1: {"input": 2.5}}, "named by models, families or .*; got 1"),
        ({None: {"input": 2.5}}, "named by models, families or .*; got None"),
        ({"gpt-4o": 2.5}, r"prices\['gpt-4o'\] must hold input.*; got 2.5"),
        ({"gpt-4o": (2.5, 10)}, r"prices\['gpt-4o'\] must hold input"),
        ({"gpt-4o": None}, r"prices\['gpt-4o'\] must hold input"),
        ({"gpt-4o": {}}, r"prices\['gpt-4o'\] must hold input"),
        ({"gpt-4o": {"output": 10}}, r"prices\['gpt-4o'\] must hold input"),
        ({"gpt-4o": {"input": 2.5, "outptu": 10}}, r"must hold input, and may hold output.*outptu"),
        ({"gpt-4o": {"input": 2.5, 1: 10}}, "must hold input"),
        ({"gpt-4o": {"input": -1}}, r"prices\['gpt-4o'\]\['input'\] must be an amount in USD, 0 or more; got -1"),
        ({"gpt-4o": {"input": float("nan")}}, "amount in USD, 0 or more; got nan"),
        ({"gpt-4o": {"input": float("inf")}}, "amount in USD, 0 or more; got inf"),
        ({"gpt-4o": {"input": 10**400}}, "amount in USD, 0 or more; got 1000"),
        ({"gpt-4o": {"input": "2.5"}}, "amount in USD, 0 or more; got '2.5'"),
        ({"gpt-4o": {"input": True}}, "amount in USD, 0 or more; got True"),
        ({"gpt-4o": {"input": 1, "cached": None}}, r"\['cached'\] must be an amount in USD, 0 or more; got None"),
        ({"gpt-4o": {"input": 1, "output": -0.1}}, r"\['output'\] must be an amount in USD, 0 or more; got -0.1"),
        ({"gpt-4o": {"input": 1, "batch": 50}}, r"\['batch'\] must be a share from 0 to 1; got 50"),
        ({"gpt-4o": {"input": 1, "batch": float("nan")}}, "share from 0 to 1; got nan"),
        ({"*": {"input": 1, "batch": -0.5}}, "share from 0 to 1; got -0.5"),
    ],
)
def test_wrong_prices_are_refused(prices: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Prices(prices)
