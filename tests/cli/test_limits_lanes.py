"""What an account's batches come to, lane by lane."""

from datetime import UTC, date, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from carpool.cli.lanes import LaneSum, Limit, sum_up, weight_of
from carpool.models import BatchStatus, NoRoom
from carpool.providers.replies import Listed

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
NOW = 1_774_437_191.0
HOUR = 3_600.0
SINCE = NOW - 24 * HOUR


def batch(
    status: str = "in_progress",
    *,
    model: str | None = "gpt-4o",
    endpoint: str | None = CHAT,
    tokens: int | None = None,
    begun: float | None = None,
    ended: float | None = None,
    created: float | None = -HOUR,
    limit: int | None = None,
    refused: bool = False,
    **more: Any,
) -> Listed:
    """Make a batch; `begun`, `ended` and `created` are in seconds from now."""
    first, second, last = (None if at is None else NOW + at for at in (created, begun, ended))
    no_room = NoRoom(limit) if refused or limit is not None else None
    return Listed(BatchStatus("b", None, status, no_room=no_room, **more), endpoint, model, tokens, first, second, last)


def refusal(limit: int | None, *, ended: float = -60, **more: Any) -> Listed:
    return batch("failed", limit=limit, refused=True, ended=ended, **more)


def lanes(*batches: Listed, since: float = SINCE, **more: Any) -> list[LaneSum]:
    return sum_up(batches, since=since, now=NOW, **more)


def lane(*batches: Listed, **more: Any) -> LaneSum:
    (only,) = lanes(*batches, **more)
    return only


# --- lanes


def test_a_lane_is_a_model_and_an_endpoint() -> None:
    found = lanes(batch(model="b"), batch(model="a", endpoint=EMBEDDINGS), batch(model="a"), batch(model="a"))
    assert [(lane.model, lane.endpoint, lane.open) for lane in found] == [
        ("a", CHAT, 2),
        ("a", EMBEDDINGS, 1),
        ("b", CHAT, 1),
    ]


def test_snapshots_count_as_their_family_where_it_is_known() -> None:
    found = lanes(
        batch(), batch(model="gpt-4o-2024-08-06"), batch(model="my-model-2024-08-06"), batch(model="my-model")
    )
    assert [(lane.model, lane.open) for lane in found] == [("gpt-4o", 2), ("my-model", 1), ("my-model-2024-08-06", 1)]


def test_an_open_batch_whose_model_is_not_told_stands_at_the_end() -> None:
    found = lanes(batch("validating", model=None, tokens=7), batch(model="z"))
    assert [(lane.model, lane.open, lane.enqueued) for lane in found] == [("z", 1, 0), (None, 1, 7)]


def test_batches_that_failed_before_they_named_a_model_make_no_lane() -> None:
    assert lanes(batch("failed", model=None, ended=-5)) == []
    assert lane(refusal(None, model=None)).refusals == 1


def test_only_the_models_asked_for_are_shown_and_those_that_are_not_told() -> None:
    batches = [batch(), batch(model="gpt-4o-mini"), batch(model=None)]
    asked = lanes(*batches, models=["gpt-4o-2024-08-06"])
    assert [lane.model for lane in asked] == ["gpt-4o", None]


def test_a_model_asked_for_without_batches_is_shown_with_its_limit() -> None:
    (asked,) = lanes(models=["gpt-4o-2024-08-06"], tier="tier-2")
    assert (asked.model, asked.endpoint, asked.open) == ("gpt-4o", None, 0)
    assert asked.limit == Limit(1_350_000, "table", date(2026, 3, 1), "model pages, Mar-Sep 2026")


def test_what_ended_before_the_time_asked_for_does_not_count_but_what_is_open_does() -> None:
    old = batch("completed", tokens=5, begun=-3 * HOUR, ended=-2 * HOUR)
    assert lanes(old, since=NOW - HOUR) == []
    older = batch(tokens=5, begun=-30 * HOUR, created=-30 * HOUR)
    assert lane(older).enqueued == 5
    assert lane(refusal(9, ended=-2 * HOUR), older, since=NOW - HOUR).refusals == 0


# --- limits


def test_a_limit_is_what_the_newest_refusal_says_of_the_model_at_any_endpoint() -> None:
    found = lanes(
        refusal(80, ended=-50),
        refusal(70, ended=-20, endpoint=EMBEDDINGS, model="gpt-4o-2024-08-06"),
        refusal(None, ended=-10),
        refusal(60, ended=-30),
        refusal(5, ended=-1, model="gpt-4o-mini"),
        batch("in_progress", limit=1),
        tier="tier-2",
    )
    at = datetime.fromtimestamp(NOW - 20, UTC)
    assert [lane.limit for lane in found if lane.model == "gpt-4o"] == [Limit(70, "learned", at, "b")] * 2


def test_a_refusal_teaches_though_it_is_older_than_what_is_asked_for() -> None:
    limit = lane(refusal(80, ended=-5 * HOUR), batch(), since=NOW - HOUR).limit
    assert limit is not None
    assert (limit.tokens, limit.source) == (80, "learned")


def test_what_was_not_learned_is_looked_up_in_the_table_of_the_tier() -> None:
    assert lane(batch(model="gpt-4")).limit is None
    assert lane(batch(model="gpt-99"), tier="tier-5").limit is None
    assert lane(batch(model=None), tier="tier-5").limit is None
    assert lane(batch(model="gpt-4"), tier="tier-5").limit == Limit(
        150_000_000, "table", date(2026, 3, 1), "model page, Mar-Sep 2026"
    )
    then = lane(batch(model="gpt-4"), tier="tier-5", as_of=date(2025, 1, 1)).limit
    assert then == Limit(45_000_000, "table", date(2024, 5, 1), "rate limits, May 2024")


def test_refusals_are_batches_that_failed_for_room() -> None:
    found = lane(refusal(80), refusal(None), batch("failed", ended=-9), batch("completed", refused=True, ended=-9))
    assert (found.refusals, found.open) == (2, 0)


# --- what is enqueued


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "paused", "unknown"])
def test_whatever_is_not_over_is_enqueued(status: str) -> None:
    found = lane(batch(status, tokens=7), batch(status, tokens=5), batch(status))
    assert (found.enqueued, found.open, found.unweighed) == (12, 3, 1)


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_what_is_over_is_not(status: str) -> None:
    found = lane(batch(status, tokens=7, begun=-9, ended=-5))
    assert (found.enqueued, found.open, found.unweighed) == (0, 0, 0)


@pytest.mark.parametrize(
    ("listed", "weight"),
    [
        (batch(tokens=7), 7),
        (batch(), None),
        (batch(input_tokens=3), None),  # what was billed so far
        (batch("completed", tokens=7, answered=2, succeeded=2, input_tokens=5), 5),
        (batch("completed", answered=2, succeeded=2, input_tokens=5), 5),
        (batch("completed", tokens=7, answered=3, succeeded=2, input_tokens=5), 7),
        (batch("completed", answered=3, succeeded=2, input_tokens=5), None),
        (batch("cancelled", tokens=7, answered=2, succeeded=2, input_tokens=5), 7),
        (batch("completed", tokens=7, answered=2, succeeded=2), 7),
        (batch("completed", input_tokens=5), 5),
    ],
)
def test_a_batch_weighs_what_it_was_billed_on_the_whole_or_what_carpool_expected(
    listed: Listed, weight: int | None
) -> None:
    assert weight_of(listed) == weight


# --- utilisation


def used(*batches: Listed, limit: int = 100, since: float = SINCE) -> float | None:
    return lane(*batches, refusal(limit), since=since).utilisation


def test_utilisation_is_tokens_times_seconds_of_the_limit_from_the_first_admission_to_now() -> None:
    assert used(batch(tokens=50, begun=-10)) == pytest.approx(0.5)
    first = batch("completed", tokens=100, begun=-40, ended=-20)
    assert used(first, batch(tokens=50, begun=-10)) == pytest.approx((100 * 20 + 50 * 10) / (100 * 40))


def test_utilisation_ends_with_the_last_batch() -> None:
    first = batch("completed", tokens=100, begun=-400, ended=-390)
    last = batch("cancelled", tokens=20, begun=-395, ended=-380)
    assert used(first, last) == pytest.approx((100 * 10 + 20 * 15) / (100 * 20))


def test_utilisation_goes_no_further_back_than_asked_for() -> None:
    assert used(batch(tokens=50, begun=-10 * HOUR), since=NOW - HOUR) == pytest.approx(0.5)
    old = batch("expired", tokens=90, begun=-10 * HOUR, ended=-1.5 * HOUR)
    half = batch("completed", tokens=100, begun=-2 * HOUR, ended=-0.5 * HOUR)
    assert used(old, half, batch(tokens=10, begun=-0.1 * HOUR), since=NOW - HOUR) == pytest.approx(0.5 + 0.01)


@pytest.mark.parametrize(
    "batches",
    [
        (),
        (batch("validating", tokens=5),),
        (batch("completed", tokens=5, begun=-9),),  # that does not say when it ended
        (batch("completed", tokens=5, begun=-9, ended=-9),),
        (batch("completed", tokens=5, begun=-9, ended=-20),),
        (batch(begun=-9),),
        (batch(tokens=5, begun=9),),  # by a clock that is ahead of ours
    ],
)
def test_where_nobody_says_what_ran_for_how_long_there_is_no_utilisation(batches: tuple[Listed, ...]) -> None:
    assert used(*batches) is None


def test_without_a_limit_there_is_no_utilisation() -> None:
    assert lane(batch(tokens=50, begun=-10)).utilisation is None
    assert used(batch(tokens=50, begun=-10), limit=0) is None


def test_utilisation_that_leaves_batches_out_says_so() -> None:
    whole = lane(batch(tokens=50, begun=-10), batch("validating"), refusal(100))
    part = lane(batch(tokens=50, begun=-10), batch(begun=-20), refusal(100))
    assert whole.utilisation == pytest.approx(0.5)
    assert part.utilisation == pytest.approx(0.25)
    assert (whole.partial, part.partial) == (False, True)


stamps = st.integers(-23 * 3600, 0)


@given(st.lists(st.tuples(st.integers(1, 100), stamps, stamps, st.booleans()), max_size=12), st.integers(1, 2_000))
def test_batches_that_fit_the_limit_never_use_more_than_it(made: list[tuple[int, int, int, bool]], limit: int) -> None:
    batches = [
        batch(tokens=tokens, begun=min(a, b))
        if still
        else batch("completed", tokens=tokens, begun=min(a, b), ended=max(a, b))
        for tokens, a, b, still in made
    ]
    found = lane(*batches, refusal(limit))
    assert found.enqueued == sum(tokens for tokens, *_, still in made if still)
    share = found.utilisation or 0
    assert share >= 0
    if sum(tokens for tokens, *_ in made) <= limit:
        assert share <= 1 + 1e-9


@given(st.permutations([batch(tokens=n, begun=-n, model="m" if n % 2 else "k") for n in range(1, 6)]))
def test_the_order_of_the_listing_does_not_matter(batches: list[Listed]) -> None:
    assert lanes(*batches) == lanes(*sorted(batches, key=lambda each: each.tokens or 0))
