"""The published limits: the numbers as contracts A9 and E have them, and which of them counts."""

from datetime import date
from itertools import groupby, pairwise
from typing import Any

import pytest

from carpool.errors import ConfigurationError
from carpool.limits import (
    TIERS,
    _checked_limits,
    _checked_tier,
    family_of,
    long_above,
    table,
    table_limit,
    user_limit,
)

WRITTEN = date(2026, 11, 23)
PAID = ("tier-1", "tier-2", "tier-3", "tier-4", "tier-5")
K, M, B = 1_000, 1_000_000, 1_000_000_000


def tokens(model: str, tier: str, *, long: bool = False, as_of: date | None = None) -> int | None:
    found = table_limit(model, tier, long=long, as_of=as_of)
    return None if found is None else found.tokens


# --- the numbers -----------------------------------------------------------------------------------------------------

FLAGSHIP = (1_500 * K, 3 * M, 100 * M, 200 * M, 15 * B)
LUNA = (5 * M, 20 * M, 40 * M, 1 * B, 15 * B)
NANO = (2 * M, 20 * M, 40 * M, 1 * B, 15 * B)
OMNI = (90 * K, 1_350 * K, 50 * M, 200 * M, 5 * B)
SMALL_REASONING = (1 * M, 2 * M, 40 * M, 1 * B, 15 * B)
GPT_3_5 = (2 * M, 5 * M, 50 * M, 1 * B, 10 * B)
EMBEDDING = (3 * M, 20 * M, 100 * M, 500 * M, 4 * B)
NOTHING = (0, 0, 0, 0, 0)

TODAY = {
    "gpt-6-astra": FLAGSHIP,
    "gpt-6-sol": FLAGSHIP,
    "gpt-5.6-sol": FLAGSHIP,
    "gpt-5.5": FLAGSHIP,
    "gpt-5.4": FLAGSHIP,
    "gpt-5.2-codex": FLAGSHIP,
    "gpt-5": FLAGSHIP,
    "gpt-6-luna": LUNA,
    "gpt-5.6-luna": LUNA,
    "gpt-5-mini": LUNA,
    "gpt-5.4-nano": NANO,
    "gpt-5-nano": NANO,
    "gpt-4.1-mini": NANO,
    "gpt-4.1-nano": NANO,
    "gpt-4o-mini": NANO,
    "gpt-4.1": OMNI,
    "gpt-4o": OMNI,
    "chatgpt-4o": OMNI,
    "gpt-5.2-pro": OMNI,
    "o1": OMNI,
    "o1-pro": OMNI,
    "o3": OMNI,
    "o3-mini": SMALL_REASONING,
    "o4-mini": SMALL_REASONING,
    "gpt-4.5-preview": (50 * K, 500 * K, 50 * M, 100 * M, 5 * B),
    "gpt-4-turbo": (90 * K, 1_350 * K, 40 * M, 80 * M, 300 * M),
    "gpt-4": (100 * K, 200 * K, 5 * M, 30 * M, 150 * M),
    "gpt-3.5-turbo": GPT_3_5,
    "gpt-3.5-turbo-instruct": GPT_3_5,
    "text-embedding-3-large": EMBEDDING,
    "text-embedding-3-small": EMBEDDING,
    "text-embedding-ada-002": EMBEDDING,
    "gpt-oss-120b": NOTHING,
    "gpt-oss-20b": NOTHING,
}
SPRING_2024 = {
    "gpt-3.5-turbo": (200 * K, 400 * K, 10 * M, 100 * M, 300 * M),
    "gpt-4": (100 * K, 200 * K, 5 * M, 30 * M, 45 * M),
    "gpt-4-turbo": (900 * K, 1_350 * K, 40 * M, 80 * M, 250 * M),
}
LONG = {
    "gpt-4.1-mini": (5 * M, 40 * M, 80 * M, 200 * M, 2 * B),
    "gpt-5.2-pro": (2 * M, 20 * M, 40 * M, 100 * M, 1 * B),
    "gpt-5.5": (5 * M, 40 * M, 80 * M, None, None),
}


@pytest.mark.parametrize("family", TODAY)
def test_the_limits_of_today(family: str) -> None:
    assert tuple(tokens(family, tier) for tier in PAID) == TODAY[family]


@pytest.mark.parametrize("family", SPRING_2024)
def test_the_limits_of_spring_2024(family: str) -> None:
    assert tuple(tokens(family, tier, as_of=date(2024, 6, 1)) for tier in PAID) == SPRING_2024[family]


@pytest.mark.parametrize("family", LONG)
def test_the_limits_of_long_context_pools(family: str) -> None:
    assert tuple(tokens(family, tier, long=True) for tier in PAID) == LONG[family]


@pytest.mark.parametrize(("tier", "limit"), [("build", 3 * M), ("launch", 200 * M), ("grow", 15 * B)])
def test_the_new_tiers_are_known_for_one_model_only(tier: str, limit: int) -> None:
    assert tokens("gpt-6-astra", tier) == limit
    assert {row.family for row in table() if row.tier == tier} == {"gpt-6-astra"}


def test_nothing_is_listed_that_is_not_written_out_here() -> None:
    assert {row.family for row in table()} == set(TODAY)
    assert {row.family for row in table() if row.as_of.year < 2026} == set(SPRING_2024)
    assert {row.family for row in table() if row.above} == set(LONG)
    assert {row.family for row in table() if row.tier == "free"} == {"gpt-3.5-turbo"}


# --- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("chatgpt-4o-latest", "chatgpt-4o"),
        ("gpt-4-0613", "gpt-4"),
        ("gpt-4-0125-preview", "gpt-4-turbo"),
        ("gpt-4-1106-preview", "gpt-4-turbo"),
        ("gpt-4-turbo-2024-04-09", "gpt-4-turbo"),
        ("gpt-4.5-preview-2025-02-27", "gpt-4.5-preview"),
        ("gpt-3.5-turbo-0125", "gpt-3.5-turbo"),
        ("gpt-3.5-turbo-1106", "gpt-3.5-turbo"),
        ("gpt-3.5-turbo-instruct", "gpt-3.5-turbo-instruct"),
        ("gpt-3.5-turbo-instruct-0914", "gpt-3.5-turbo-instruct"),
        ("gpt-4.1-2025-04-14", "gpt-4.1"),
        ("gpt-4.1-nano-2025-04-14", "gpt-4.1-nano"),
        ("gpt-5-mini", "gpt-5-mini"),
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("o1-pro", "o1-pro"),
        ("o1-2024-12-17", "o1"),
        ("text-embedding-ada-002", "text-embedding-ada-002"),
    ],
)
def test_a_snapshot_belongs_to_its_family(model: str, family: str) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o-audio-preview",
        "gpt-4o-audio-preview-2024-12-17",
        "gpt-4o-mini-transcribe",
        "gpt-4o-realtime-preview",
        "gpt-4-32k",
        "gpt-4-32k-0613",
        "gpt-4-vision-preview",
        "gpt-3.5-turbo-16k",
        "gpt-5-pro",
        "gpt-5.4-mini",
        "gpt-5.1",
        "gpt-6.1-sol",
        "gpt-6.2-astra",
        "gpt-6",
        "o1-preview",
        "o3-deep-research-2025-06-26",
        "text-embedding-3",
        "ft:gpt-4o-mini-2024-07-18:org::id",
        "openai/gpt-4o",
        "GPT-4o",
        "my-gpt-4o",
        "gpt-4o-2024-13-20",
        "gpt-4o-2024-11-20-2024-11-20",
        "gpt-4o-latest",
        "gpt-4-2024",
        "gpt-4-0613\n",
        "gpt-4-",
        "claude-opus-5",
        "*",
        "",
    ],
)
def test_another_suffix_is_another_model(model: str) -> None:
    assert family_of(model) is None
    assert table_limit(model, "tier-1") is None
    assert long_above(model) is None


def test_every_family_is_its_own() -> None:
    assert all(family_of(family) == family for family in TODAY)


def test_a_snapshot_has_the_limits_of_its_family() -> None:
    assert table_limit("gpt-4o-mini-2024-07-18", "tier-1") == table_limit("gpt-4o-mini", "tier-1")
    assert tokens("gpt-4-0125-preview", "tier-5") == 300 * M
    assert long_above("gpt-4.1-mini-2025-04-14") == 128_000


# --- which of several ------------------------------------------------------------------------------------------------


def test_the_newest_table_wins() -> None:
    found = table_limit("gpt-4-turbo", "tier-1")
    assert found is not None
    assert (found.tokens, found.as_of) == (90_000, date(2026, 3, 1))


def test_as_of_a_day_the_newest_of_that_day_wins() -> None:
    assert tokens("gpt-4", "tier-5", as_of=date(2026, 2, 28)) == 45 * M
    assert tokens("gpt-4", "tier-5", as_of=date(2026, 3, 1)) == 150 * M
    assert tokens("gpt-4", "tier-5", as_of=date(2024, 4, 30)) is None
    assert tokens("gpt-6-astra", "build", as_of=date(2026, 10, 7)) is None


def test_a_tier_that_ended_is_zero_and_not_its_last_number() -> None:
    found = table_limit("gpt-3.5-turbo", "free")
    assert found is not None
    assert (found.tokens, found.source) == (0, "model page, 2026: free not supported")
    assert tokens("gpt-3.5-turbo", "free", as_of=date(2024, 6, 1)) == 200_000


def test_an_old_tier_keeps_its_number_beside_the_new_ones() -> None:
    found = table_limit("gpt-6-astra", "tier-2")
    assert found is not None
    assert (found.tokens, found.as_of) == (3 * M, date(2026, 9, 1))


@pytest.mark.parametrize("tier", ["free", "build", "Tier 1", "tier-6", ""])
def test_a_tier_without_a_number_is_unknown(tier: str) -> None:
    assert table_limit("gpt-4o", tier) is None


# --- long context ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "above"), [("gpt-4.1-mini", 128_000), ("gpt-5.2-pro", 128_000), ("gpt-5.5", 272_000)]
)
def test_a_long_context_pool_begins_above_its_threshold(model: str, above: int) -> None:
    assert long_above(model) == above
    pool, ordinary = table_limit(model, "tier-1", long=True), table_limit(model, "tier-1")
    assert pool is not None
    assert ordinary is not None
    assert (pool.above, ordinary.above) == (above, 0)


def test_most_models_have_no_long_context_pool() -> None:
    assert long_above("gpt-4.1") is None
    assert table_limit("gpt-4.1", "tier-1", long=True) is None


# --- what the user says ----------------------------------------------------------------------------------------------


def test_the_users_limit_goes_by_name_then_family_then_star() -> None:
    limits = {"gpt-4o-2024-11-20": 1, "gpt-4o": 2, "*": 3}
    assert user_limit(limits, "gpt-4o-2024-11-20") == 1
    assert user_limit(limits, "gpt-4o-2024-08-06") == 2
    assert user_limit(limits, "gpt-4o") == 2
    assert user_limit(limits, "gpt-4o-mini") == 3
    assert user_limit(limits, "llama") == 3
    assert user_limit({"llama": 0, "*": 3}, "llama") == 0
    assert user_limit({"gpt-4o": 2}, "gpt-4o-mini") is None
    assert user_limit({}, "gpt-4o") is None


def test_a_tier_is_one_of_the_known_or_none() -> None:
    assert [_checked_tier(tier) for tier in TIERS] == list(TIERS)
    assert _checked_tier(None) is None


@pytest.mark.parametrize("tier", ["Tier 1", "tier1", "TIER-1", "scale", "", 1, ["tier-1"]])
def test_another_tier_is_refused_with_the_allowed_ones(tier: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tier must be one of free, tier-1, .*launch, grow, or None; got "):
        _checked_tier(tier)


def test_limits_are_copied() -> None:
    given = {"gpt-4o": 90_000, "*": 0}
    checked = _checked_limits(given)
    assert checked == given
    assert checked is not given
    assert _checked_limits(None) == {}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (90_000, "must be a mapping"),
        ([("gpt-4o", 90_000)], "must be a mapping"),
        ({1: 90_000}, "named by models or families; got 1"),
        ({None: 90_000}, "named by models or families; got None"),
        ({"gpt-4o": -1}, r"limits\['gpt-4o'\] .*; got -1"),
        ({"gpt-4o": True}, r"limits\['gpt-4o'\] .*; got True"),
        ({"gpt-4o": 9e4}, r"limits\['gpt-4o'\] .*; got 90000.0"),
        ({"gpt-4o": "90_000"}, r"limits\['gpt-4o'\] .*; got '90_000'"),
        ({"gpt-4o": None}, r"limits\['gpt-4o'\] .*; got None"),
    ],
)
def test_wrong_limits_are_refused(limits: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        _checked_limits(limits)


# --- the table itself ------------------------------------------------------------------------------------------------


def test_every_number_has_a_source_and_a_day() -> None:
    assert table()
    for row in table():
        assert row.source.strip()
        assert date(2024, 4, 15) <= row.as_of <= WRITTEN  # the Batch API began on the first of these days
        assert row.tokens >= 0
        assert row.above >= 0


def test_no_number_is_given_twice() -> None:
    keys = [(row.family, row.tier, row.above > 0, row.as_of) for row in table()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("order", [PAID, ("build", "launch", "grow")])
def test_a_higher_tier_never_has_less(order: tuple[str, ...]) -> None:
    def page(row: Any) -> Any:
        return row.family, row.above, row.as_of

    rows = sorted((row for row in table() if row.tier in order), key=lambda row: (page(row), order.index(row.tier)))
    for _, tiers in groupby(rows, key=page):
        assert all(lower.tokens <= higher.tokens for lower, higher in pairwise(tiers))
