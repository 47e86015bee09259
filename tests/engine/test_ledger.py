"""The enqueued tokens of one queue: what is reserved, what finds room, and what refusals teach."""

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carpool.engine.ledger import HEADROOM, SHARES, Ledger
from carpool.engine.limit import Limit, Source
from carpool.models import Load

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PAUSE = 30.0
NOW = 1_700_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
STALE = 20 * HOUR
LITTLE = Load(1, 0)


def tokens(count: int) -> Load:
    """Weigh rows that were counted."""
    return Load(count, 0)


def bytes_(count: int) -> Load:
    """Weigh rows that were not counted."""
    return Load(0, count)


def make(limit: int | None = 1_000, source: Source = "user") -> Ledger:
    """Make a ledger whose limit is known."""
    ledger = Ledger(PAUSE)
    ledger.learn(limit, source, NOW)
    return ledger


def queue(ledger: Ledger, now: float = NOW, **loads: int) -> Ledger:
    """Let batches into the queue, and let the provider take them."""
    for key, count in loads.items():
        ledger.reserve(key, tokens(count), now)
        ledger.create(key, tokens(count), now)
        ledger.admit(key, now)
    return ledger


def first_fit_at(ledger: Ledger, load: Load, now: float) -> float:
    """Give the time at which a batch finds room though nothing happens."""
    while not ledger.fits(load, now):
        now = ledger.wake(now)
        assert now < math.inf, "there is never room"
    return now


def refuse_alone(ledger: Ledger, load: Load, now: float, stated: int | None = None) -> float:
    """Let a batch that is alone be tried as soon as it may, and be refused; gives when."""
    now = first_fit_at(ledger, load, now)
    ledger.reserve("alone", load, now)
    ledger.refuse("alone", stated, now, 0.0)
    return now


# --- reserving


def test_what_is_reserved_is_given_back_when_the_batch_ends_or_is_forgotten() -> None:
    ledger = queue(make(), a=300, b=200)
    assert (ledger.enqueued, ledger.room(NOW)) == (500, 450)
    ledger.release("a", NOW + 100)
    assert (ledger.enqueued, ledger.room(NOW + 100)) == (200, 750)
    ledger.forget("b", NOW + 100)
    assert (ledger.enqueued, ledger.room(NOW + 100)) == (0, 950)


def test_a_batch_is_counted_once_though_it_is_reserved_or_given_back_twice() -> None:
    ledger = make()
    for _ in range(2):
        ledger.reserve("a", tokens(300), NOW)
    assert ledger.enqueued == 300
    for _ in range(2):
        ledger.release("a", NOW)
        ledger.forget("a", NOW)
    assert ledger.enqueued == 0
    assert ledger.room(NOW) == 950


def test_a_batch_that_was_never_reserved_is_not_admitted() -> None:
    ledger = make()
    assert not ledger.admit("a", NOW)
    ledger.reserve("a", tokens(1), NOW)
    assert ledger.admit("a", NOW)
    assert not ledger.admit("a", NOW)


@pytest.mark.parametrize(("more", "fits"), [(450, True), (451, False)])
def test_the_sum_stays_within_the_limit_and_headroom_to_the_exact_token(more: int, fits: bool) -> None:
    assert queue(make(), a=500).fits(tokens(more), NOW) == fits


@pytest.mark.parametrize("weight", [950, 1_000, 5_000])
def test_a_batch_that_is_alone_is_the_providers_to_judge(weight: int) -> None:
    assert make(source="table").fits(tokens(weight), NOW)
    assert not queue(make(source="table"), a=1).fits(tokens(weight), NOW)


@pytest.mark.parametrize(("weight", "fits"), [(951, True), (1_000, True), (1_001, False)])
def test_nothing_goes_above_the_users_number_not_even_alone(weight: int, fits: bool) -> None:
    assert make().fits(tokens(weight), NOW) == fits


def test_bytes_that_were_not_counted_weigh_a_token_each() -> None:
    ledger = queue(make(), a=500)
    assert ledger.fits(bytes_(450), NOW)
    assert not ledger.fits(bytes_(451), NOW)


@unhurried
@given(st.integers(20, 5_000), st.lists(st.tuples(st.booleans(), st.integers(1, 2_000)), max_size=60))
def test_reservations_that_fit_stay_within_the_limit_and_everything_is_given_back(
    limit: int, steps: list[tuple[bool, int]]
) -> None:
    ledger = make(limit)
    held: dict[str, int] = {}
    for number, (begins, draw) in enumerate(steps):
        now, count = NOW + number, 1 + draw % limit
        if begins:
            fits = not held or 100 * (sum(held.values()) + count) <= 95 * limit
            assert ledger.fits(tokens(count), now) == fits
            if fits:
                ledger.reserve(f"{number}", tokens(count), now)
                held[f"{number}"] = count
        elif held:
            key = list(held)[count % len(held)]
            [ledger.release, ledger.forget][count % 2](key, now)
            del held[key]
        assert ledger.enqueued == sum(held.values())
        assert len(held) <= 1 or 100 * sum(held.values()) <= 95 * limit
    for key in held:
        ledger.forget(key, NOW + 100)
    assert (ledger.enqueued, ledger.room(NOW + 100)) == (0, ledger.cap)


@unhurried
@given(
    limit=st.integers(20, 5_000),
    billed=st.integers(1, 30_000),
    counted=st.integers(1, 30_000),
    loads=st.lists(st.integers(1, 2_000), min_size=1, max_size=8),
)
def test_batches_that_fit_never_count_as_attempts_to_find_more_room(
    limit: int, billed: int, counted: int, loads: list[int]
) -> None:
    ledger = make(limit, "learned")
    ledger.report(tokens(counted), billed, NOW)
    for number, count in enumerate(loads):
        if ledger.scale.weigh(tokens(count)) <= ledger.room(NOW):
            ledger.reserve(f"{number}", tokens(count), NOW)
    for number in range(len(loads)):
        ledger.admit(f"{number}", NOW)
    assert ledger.limit == Limit(limit, "learned", NOW)


def test_whoever_is_reserved_for_or_forgotten_leaves_the_line_and_the_others_stay_in_order() -> None:
    ledger = make()
    ledger.line |= {"c": tokens(1), "a": tokens(2), "b": tokens(3), "d": tokens(4)}
    ledger.reserve("a", tokens(2), NOW)
    ledger.forget("d", NOW)
    assert list(ledger.line) == ["c", "b"]


def test_a_share_is_so_small_that_several_batches_fill_the_queue() -> None:
    assert make().share == 950 / SHARES
    assert make(None).share == math.inf


# --- while no limit is known


def test_one_batch_at_a_time_while_no_limit_is_known() -> None:
    ledger = Ledger(PAUSE)
    assert ledger.fits(tokens(10**9), NOW)
    ledger.reserve("a", tokens(10**9), NOW)
    assert not ledger.fits(LITTLE, NOW + 1)
    ledger.admit("a", NOW + 5)
    assert ledger.fits(tokens(10**9), NOW + 5)
    ledger.reserve("b", LITTLE, NOW + 5)
    assert not ledger.fits(LITTLE, NOW + 6)
    ledger.release("b", NOW + 7)
    assert ledger.fits(LITTLE, NOW + 7)


def test_a_batch_that_validates_for_ten_minutes_keeps_the_next_one_back_no_longer() -> None:
    ledger = Ledger(PAUSE)
    ledger.reserve("a", LITTLE, NOW)
    assert not ledger.fits(LITTLE, NOW + 6_000), "it is not created yet"
    ledger.create("a", LITTLE, NOW + 6_000)
    assert first_fit_at(ledger, LITTLE, NOW + 6_000) == NOW + 6_600


# --- limits


@pytest.mark.parametrize(
    ("user", "told", "limit"),
    [
        (None, None, Limit(None, "unknown", 0.0)),
        (None, 70, Limit(70, "table", NOW)),
        (50, None, Limit(50, "user", 0.0)),
        (50, 70, Limit(50, "user", 0.0)),
        (70, 70, Limit(70, "user", 0.0)),
        (90, 70, Limit(70, "table", NOW)),
    ],
)
def test_the_limit_in_force_is_the_users_or_what_was_told_if_that_is_less(
    user: int | None, told: int | None, limit: Limit
) -> None:
    ledger = Ledger(PAUSE)
    ledger.learn(user, "user", NOW)
    if told is not None:
        ledger.learn(told, "table", NOW)
    assert ledger.limit == limit


def test_what_was_learned_is_not_given_up_for_a_table() -> None:
    ledger = make(70, "learned")
    ledger.learn(90, "table", NOW)
    assert ledger.limit == Limit(70, "learned", NOW)
    ledger.learn(80, "learned", NOW + 1)
    assert ledger.limit == Limit(80, "learned", NOW + 1)


def test_a_refusal_states_the_limit_and_is_counted() -> None:
    ledger = Ledger(PAUSE)
    ledger.reserve("a", tokens(5_000), NOW)
    ledger.refuse("a", 1_000, NOW + 5, 0.0)
    assert ledger.limit == Limit(1_000, "learned", NOW + 5)
    assert ledger.refusals == 1
    assert ledger.fits(tokens(100), NOW + 5), "a limit that is news is made use of at once"


def test_a_stated_limit_above_the_users_leaves_the_users_in_force() -> None:
    ledger = queue(make(1_000), a=100)
    ledger.reserve("b", tokens(100), NOW)
    ledger.refuse("b", 5_000, NOW, 0.0)
    assert ledger.limit == Limit(1_000, "user", 0.0)


# --- headroom


def good_reports(ledger: Ledger, count: int) -> None:
    """Let finished batches say that our count was right."""
    for _ in range(count):
        ledger.report(tokens(1_000), 1_000, NOW)


def test_good_accounting_lets_the_headroom_grow_up_to_99_percent() -> None:
    ledger = make()
    assert ledger.headroom == HEADROOM
    good_reports(ledger, 2)
    assert ledger.headroom == pytest.approx(0.97)
    good_reports(ledger, 50)
    assert ledger.headroom == pytest.approx(0.99)
    assert ledger.cap == pytest.approx(990)


def test_a_count_that_differs_takes_the_headroom_back_but_not_below_its_start() -> None:
    ledger = make()
    good_reports(ledger, 3)
    ledger.report(tokens(1_000), 1_100, NOW)
    assert ledger.headroom == pytest.approx(0.97)
    for billed in (500, 2_000, 500, 2_000, 500):
        ledger.report(tokens(1_000), billed, NOW)
    assert ledger.headroom == pytest.approx(HEADROOM)


@pytest.mark.parametrize(("load", "billed"), [(tokens(1_000), 0), (bytes_(1_000), 300), (Load(500, 900), 800)])
def test_reports_that_show_nothing_of_our_count_leave_the_headroom(load: Load, billed: int) -> None:
    ledger = make()
    good_reports(ledger, 1)
    ledger.report(load, billed, NOW)
    assert ledger.headroom == pytest.approx(0.96)


def test_a_refusal_despite_room_takes_the_headroom_back_and_lets_it_grow_much_slower() -> None:
    ledger = make()
    good_reports(ledger, 10)
    queue(ledger, a=500)
    ledger.reserve("b", tokens(200), NOW)
    ledger.refuse("b", 1_000, NOW, 0.0)
    assert ledger.headroom == HEADROOM
    good_reports(ledger, 10)
    assert HEADROOM < ledger.headroom < 0.97


def test_a_refusal_for_want_of_room_leaves_the_headroom() -> None:
    ledger = make()
    good_reports(ledger, 10)
    queue(ledger, a=900)
    ledger.reserve("b", tokens(200), NOW)
    ledger.refuse("b", 1_000, NOW, 0.0)
    assert ledger.headroom == pytest.approx(0.99)


# --- refused despite room: a ceiling, and attempts to rise above it


def refused_despite_room(*, reported: bool = True) -> Ledger:
    """Make a ledger with 600 tokens in the queue whose next 200 were refused."""
    ledger = make()
    if reported:
        good_reports(ledger, 1)
    queue(ledger, a=300, b=300)
    ledger.reserve("c", tokens(200), NOW)
    ledger.refuse("c", 1_000, NOW, 0.0)
    return ledger


def test_after_a_refusal_despite_room_what_is_in_the_queue_is_all_that_fits() -> None:
    ledger = refused_despite_room()
    assert (ledger.cap, ledger.room(NOW)) == (600, 0)
    assert ledger.share == 950 / SHARES
    ledger.release("a", NOW + 1)
    assert ledger.fits(tokens(300), NOW + 1)
    assert not ledger.fits(tokens(301), NOW + 1)


def test_half_of_a_batch_that_was_refused_alone_is_tried_next() -> None:
    ledger = make()
    ledger.reserve("a", tokens(301), NOW)
    ledger.refuse("a", 1_000, NOW, 0.0)
    assert ledger.cap == 151


def test_a_ceiling_is_tried_after_a_turn_or_two_and_one_attempt_is_made_at_a_time() -> None:
    ledger = refused_despite_room()
    at = first_fit_at(ledger, tokens(200), NOW)
    assert NOW + 60 <= at <= NOW + 120
    ledger.reserve("d", tokens(200), at)
    assert not ledger.fits(tokens(100), at)


def test_the_ceiling_rises_as_long_as_attempts_are_admitted_until_it_is_gone() -> None:
    ledger = refused_despite_room()
    now = first_fit_at(ledger, tokens(100), NOW)
    ledger.reserve("d", tokens(100), now)
    ledger.admit("d", now + 5)
    assert ledger.cap == 700
    assert ledger.fits(tokens(200), now + 5), "more is tried at once"
    ledger.reserve("e", tokens(200), now + 5)
    assert not ledger.fits(tokens(50), now + 5)
    ledger.admit("e", now + 10)
    assert ledger.cap == 950, "what is left is less than a share"
    assert ledger.fits(tokens(50), now + 10)


def test_an_attempt_that_ends_without_an_outcome_lets_another_be_made() -> None:
    ledger = refused_despite_room()
    now = first_fit_at(ledger, tokens(200), NOW)
    ledger.reserve("d", tokens(200), now)
    ledger.forget("d", now)
    assert ledger.fits(tokens(200), now)


@pytest.mark.parametrize("reported", [False, True])
def test_attempts_in_vain_are_made_less_often_but_never_less_than_once_a_day(reported: bool) -> None:
    ledger = refused_despite_room(reported=reported)
    pauses, now = [], NOW
    for attempt in range(12):
        at = first_fit_at(ledger, tokens(200), now)
        pauses.append(at - now)
        now = at + 5
        ledger.reserve(f"{attempt}", tokens(200), at)
        ledger.refuse(f"{attempt}", 1_000, now, 0.0)
    assert pauses == sorted(pauses)
    assert pauses[0] >= 60
    assert pauses[-1] <= DAY


def test_an_attempt_that_was_admitted_ends_the_back_off() -> None:
    ledger = refused_despite_room(reported=False)
    now = NOW
    for attempt in range(3):
        now = first_fit_at(ledger, tokens(200), now)
        ledger.reserve(f"{attempt}", tokens(200), now)
        if attempt < 2:
            ledger.refuse(f"{attempt}", 1_000, now, 0.0)
    ledger.admit("2", now)
    ledger.reserve("3", tokens(100), now)
    ledger.refuse("3", 1_000, now, 0.0)
    assert first_fit_at(ledger, tokens(100), now) - now <= 16 * 60


def test_a_refusal_without_a_number_sets_a_ceiling_where_no_limit_is_known() -> None:
    ledger = queue(Ledger(PAUSE), a=500)
    ledger.reserve("b", tokens(1_000), NOW)
    ledger.refuse("b", None, NOW, 0.0)
    assert ledger.limit.tokens is None
    assert (ledger.cap, ledger.share) == (750, 750 / SHARES)
    queue(ledger, c=100)
    assert not ledger.fits(tokens(200), NOW)
    now = first_fit_at(ledger, tokens(200), NOW)
    queue(ledger, now, d=200)
    assert ledger.cap == 2 * 800, "there is no end to the rise"
    assert ledger.fits(tokens(200), now)


def test_above_what_was_seen_to_fit_one_at_a_time_is_tried_where_no_number_says_what_fits() -> None:
    ledger = queue(Ledger(PAUSE), a=100, b=100)
    ledger.reserve("c", tokens(1_000), NOW)
    ledger.create("c", tokens(1_000), NOW)
    ledger.refuse("c", None, NOW, 0.0)
    ledger.forget("c", NOW)
    ledger.release("a", NOW + 60)
    ledger.forget("a", NOW + 60)
    queue(ledger, NOW + 60, d=10, e=10)
    ledger.reserve("f", tokens(70), NOW + 60)  # within what was there before
    ledger.create("f", tokens(70), NOW + 60)
    assert ledger.fits(tokens(10), NOW + 60)
    assert not ledger.fits(tokens(11), NOW + 60)
    ledger.admit("f", NOW + 61)
    assert ledger.fits(tokens(11), NOW + 61)


def test_a_refusal_of_what_was_never_reserved_leaves_some_room() -> None:
    ledger = make()
    ledger.refuse("unknown", None, NOW, 0.0)
    assert ledger.cap > 0
    assert ledger.share > 0


# --- late releases


def test_tokens_that_are_released_late_are_held_as_long_as_that_was_seen_to_take() -> None:
    ledger = queue(make(), a=500, b=400)
    ledger.release("a", NOW + 100)
    ledger.create("c", tokens(500), NOW + 101)
    ledger.refuse("c", 1_000, NOW + 106, 0.0)
    assert ledger.cap == 950, "nobody else is in the queue"
    assert ledger.room(NOW + 106) == 50
    assert first_fit_at(ledger, tokens(500), NOW + 106) == NOW + 112
    assert ledger.room(NOW + 112) == 550


# --- alone and refused


def test_a_batch_that_was_refused_alone_is_tried_again_after_a_pause_that_doubles_up_to_ten_minutes() -> None:
    ledger = make()
    times = [refuse_alone(ledger, tokens(100), NOW)]
    for _ in range(8):
        times.append(refuse_alone(ledger, tokens(100), times[-1]))
    assert [later - earlier for earlier, later in pairwise(times)] == [30, 60, 120, 240, 300, 300, 300, 300]
    ledger.reserve("a", LITTLE, times[-1])
    ledger.refuse("a", None, times[-1], 0.999)
    assert first_fit_at(ledger, LITTLE, times[-1]) - times[-1] == pytest.approx(600, abs=1)


def test_a_batch_that_ends_ends_the_pause() -> None:
    ledger = queue(make(), a=100)
    ledger.release("a", NOW)
    now = refuse_alone(ledger, tokens(100), NOW)
    ledger.reserve("b", tokens(50), now)
    assert not ledger.fits(tokens(50), now)
    ledger.release("b", now + 1)
    assert ledger.fits(tokens(50), now + 1)


def test_an_admission_begins_the_back_off_anew() -> None:
    ledger, now = make(), NOW
    for _ in range(5):
        now = refuse_alone(ledger, tokens(100), now)
    now = first_fit_at(ledger, tokens(100), now)
    queue(ledger, now, a=100)
    ledger.forget("a", now)
    refuse_alone(ledger, tokens(100), now)
    assert first_fit_at(ledger, tokens(100), now) - now == 30


@pytest.mark.parametrize("stated", [None, 1_000])
@pytest.mark.parametrize("reported", [False, True])
def test_a_queue_that_others_fill_for_weeks_is_tried_again_and_again(stated: int | None, reported: bool) -> None:
    ledger = make()
    if reported:
        good_reports(ledger, 1)
    now = NOW
    for _ in range(1_100):
        now = refuse_alone(ledger, tokens(100), now, stated)
    assert first_fit_at(ledger, tokens(100), now) - now <= 600


def test_when_others_have_left_the_queue_the_ceiling_is_gone_after_some_attempts() -> None:
    ledger, now = make(), NOW
    for _ in range(10):
        now = refuse_alone(ledger, tokens(100), now, 1_000)
    start = now
    number = 0
    while ledger.cap < 950:
        load = tokens(max(1, int(ledger.share)))
        now = first_fit_at(ledger, load, now)
        assert now - start < 2 * HOUR, f"no more than {ledger.cap:.0f} of 950 tokens are tried"
        number += 1
        ledger.reserve(f"{number}", load, now)
        ledger.admit(f"{number}", now + 5)
        now += 5


# --- limits that are old


@pytest.mark.parametrize("source", ["learned", "table"])
def test_a_limit_that_is_twenty_hours_old_is_tried_once(source: Source) -> None:
    ledger = queue(make(source=source), a=900)
    assert not ledger.fits(tokens(200), NOW + STALE - 1)
    assert first_fit_at(ledger, tokens(200), NOW) == NOW + STALE
    ledger.reserve("b", tokens(200), NOW + STALE)
    assert not ledger.fits(tokens(200), NOW + STALE + 1)


def test_an_old_limit_that_still_holds_is_dated_anew() -> None:
    ledger = queue(make(source="learned"), a=900)
    ledger.reserve("b", tokens(200), NOW + STALE)
    ledger.refuse("b", 1_000, NOW + STALE + 5, 0.0)
    assert ledger.limit == Limit(1_000, "learned", NOW + STALE + 5)
    assert first_fit_at(ledger, tokens(200), NOW + STALE + 5) == NOW + 2 * STALE + 5


@pytest.mark.parametrize("source", ["learned", "table"])
def test_an_old_limit_that_still_holds_is_not_tried_again_at_once_though_the_refusal_states_no_number(
    source: Source,
) -> None:
    ledger = queue(make(source=source), a=900)
    ledger.reserve("b", tokens(200), NOW + STALE)
    ledger.refuse("b", None, NOW + STALE + 5, 0.0)
    assert first_fit_at(ledger, tokens(200), NOW + STALE + 5) > NOW + STALE + 60


def test_an_old_limit_that_was_raised_is_unknown_until_the_next_refusal() -> None:
    ledger = queue(make(source="learned"), a=900)
    ledger.reserve("b", tokens(900), NOW + STALE)
    ledger.admit("b", NOW + STALE + 5)
    assert ledger.limit.tokens is None
    assert ledger.fits(tokens(5_000), NOW + STALE + 5)
    ledger.reserve("c", tokens(5_000), NOW + STALE + 5)
    ledger.refuse("c", 2_000, NOW + STALE + 10, 0.0)
    assert ledger.limit == Limit(2_000, "learned", NOW + STALE + 10)
    assert ledger.room(NOW + STALE + 10) == 100


def test_a_raised_limit_does_not_change_what_a_token_weighs() -> None:
    ledger = queue(make(source="learned"), a=900)
    ledger.reserve("b", tokens(900), NOW + STALE)
    ledger.admit("b", NOW + STALE + 5)
    assert ledger.scale.per_token == 1.0


def test_a_limit_that_was_raised_above_a_ceiling_does_not_change_what_a_token_weighs() -> None:
    ledger = queue(make(source="learned"), a=300, b=300)
    ledger.reserve("c", tokens(200), NOW)
    ledger.refuse("c", 1_000, NOW, 0.0)
    ledger.reserve("d", tokens(900), NOW + STALE)
    ledger.admit("d", NOW + STALE + 5)
    assert ledger.scale.per_token == 1.0


def test_a_limit_that_was_stated_meanwhile_is_not_given_up_when_an_attempt_above_the_old_one_is_admitted() -> None:
    ledger = queue(make(source="table"), a=500)
    ledger.create("b", tokens(400), NOW)
    ledger.reserve("c", tokens(200), NOW + STALE)
    ledger.refuse("b", 800, NOW + STALE + 5, 0.0)
    ledger.admit("c", NOW + STALE + 5)
    assert ledger.limit.tokens == 800


def test_an_old_limit_is_not_tried_beyond_the_users_number() -> None:
    ledger = queue(make(source="learned"), a=900)
    ledger.learn(1_200, "user", NOW)
    assert ledger.fits(tokens(240), NOW + STALE)
    assert not ledger.fits(tokens(241), NOW + STALE)


def test_the_users_number_and_an_unknown_limit_never_grow_old() -> None:
    assert make(source="user").wake(NOW) == math.inf
    assert Ledger(PAUSE).wake(NOW) == math.inf
    ledger = queue(make(source="user"), a=900)
    assert not ledger.fits(tokens(200), NOW + 10 * STALE)


def test_an_old_limit_is_tried_also_above_a_ceiling() -> None:
    ledger = queue(make(source="learned"), a=300, b=300)
    ledger.reserve("c", tokens(200), NOW)
    ledger.refuse("c", 1_000, NOW, 0.0)
    assert not ledger.fits(tokens(500), NOW + STALE - 1)
    assert ledger.fits(tokens(500), NOW + STALE)


# --- a provider that counts otherwise


def reported(ledger: Ledger, ratio: float) -> Ledger:
    """Let many batches be billed so many tokens for each of ours."""
    for _ in range(30):
        ledger.report(tokens(5_000), int(5_000 * ratio), NOW)
    return ledger


def test_reports_of_fewer_tokens_make_ours_weigh_less() -> None:
    ledger = queue(reported(make(10_000, "learned"), 0.7), a=10_000)
    assert ledger.enqueued == pytest.approx(7_000, rel=0.01)
    assert ledger.room(NOW) == pytest.approx(ledger.cap - 7_000, rel=0.01)


def test_reports_of_more_tokens_are_believed_when_a_refusal_says_so_too() -> None:
    ledger = reported(make(10_000, "learned"), 1.4)
    assert ledger.scale.per_token == 1.0, "what is billed may include what was never queued"
    queue(ledger, a=5_000)
    ledger.reserve("b", tokens(2_500), NOW)
    ledger.refuse("b", 10_000, NOW, 0.0)
    assert ledger.scale.per_token == pytest.approx(1.4, rel=0.01)
    assert ledger.enqueued == pytest.approx(7_000, rel=0.01)


def test_what_a_provider_has_taken_in_bounds_what_a_token_weighs() -> None:
    ledger = queue(make(10_000, "learned"), a=6_000)
    ledger.reserve("b", tokens(3_000), NOW)
    ledger.refuse("b", 10_000, NOW, 0.0)
    ledger.forget("a", NOW)
    queue(reported(ledger, 3.0), c=5_000)
    assert ledger.scale.per_token == pytest.approx(2.0)


def test_batches_that_were_not_counted_bound_nothing() -> None:
    ledger = queue(make(10_000, "learned"), a=6_000)
    ledger.reserve("b", tokens(3_000), NOW)
    ledger.refuse("b", 10_000, NOW, 0.0)
    ledger.forget("a", NOW)
    ledger.create("c", bytes_(9_000), NOW)
    ledger.admit("c", NOW)
    assert reported(ledger, 3.0).scale.per_token == pytest.approx(3.0, rel=0.01)


def test_a_refusal_despite_room_says_that_tokens_weigh_more_than_was_billed() -> None:
    ledger = queue(reported(make(10_000, "learned"), 0.5), a=8_000)
    ledger.reserve("b", tokens(8_000), NOW)
    ledger.refuse("b", 10_000, NOW, 0.0)
    assert ledger.scale.per_token == pytest.approx(9_500 / 16_000, rel=0.05)


def test_the_users_number_says_nothing_of_what_the_provider_counts_and_is_kept_by_its_count() -> None:
    ledger = make(10_000, "user")
    for number in range(20):
        queue(ledger, NOW + 100 * number, **{f"{number}": 9_000})
        ledger.release(f"{number}", NOW + 100 * number + 60)
        ledger.report(tokens(9_000), 12_600, NOW)
    assert ledger.scale.per_token == pytest.approx(1.4, rel=0.01)


# --- figures


def test_nothing_is_used_before_the_first_reservation_or_without_a_limit() -> None:
    assert make().utilisation is None
    ledger = queue(Ledger(PAUSE), a=1)
    ledger.release("a", NOW + 10)
    assert ledger.utilisation is None


def test_utilisation_is_the_mean_of_what_is_reserved_while_anything_is() -> None:
    ledger = queue(make(), a=800)
    queue(ledger, NOW + 100, b=100)
    ledger.release("a", NOW + 200)
    assert ledger.utilisation == pytest.approx(0.85)
    ledger.release("b", NOW + 400)
    assert ledger.utilisation == pytest.approx((0.8 * 100 + 0.9 * 100 + 0.1 * 200) / 400)
    queue(ledger, NOW + 9_000, c=800)
    assert ledger.utilisation == pytest.approx((0.8 * 100 + 0.9 * 100 + 0.1 * 200) / 400), "idle time does not count"


# --- any course of events


class LedgerMachine(RuleBasedStateMachine):
    """Whatever happens: nothing is lost, `wake` tells the truth, and there is always room in the end."""

    @initialize(
        user=st.one_of(st.none(), st.integers(10, 2_000)),
        told=st.one_of(st.none(), st.integers(10, 2_000)),
        source=st.sampled_from(["table", "learned"]),
        pause=st.sampled_from([0.05, 1.0, PAUSE]),
    )
    def begin(self, user: int | None, told: int | None, source: Source, pause: float) -> None:
        self.ledger = Ledger(pause)
        self.user = user
        self.now = NOW
        self.held: dict[str, Load] = {}
        self.admitted: set[str] = set()
        self.number = self.refusals = 0
        self.ledger.learn(user, "user", NOW)
        self.ledger.learn(told, source, NOW)

    def draw(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.held)))

    @rule(load=st.builds(Load, st.integers(1, 900), st.sampled_from([0, 0, 0, 1, 300])))
    def reserve(self, load: Load) -> None:
        if self.ledger.fits(load, self.now):
            self.number += 1
            self.held[f"{self.number}"] = load
            self.ledger.reserve(f"{self.number}", load, self.now)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        key = self.draw(data)
        assert self.ledger.admit(key, self.now) == (key not in self.admitted)
        self.admitted.add(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), billed=st.integers(0, 2_000))
    def release(self, data: st.DataObject, billed: int) -> None:
        key = self.draw(data)
        self.ledger.release(key, self.now)
        self.ledger.report(self.held.pop(key), billed, self.now)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        key = self.draw(data)
        self.ledger.forget(key, self.now)
        del self.held[key]

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        stated=st.one_of(st.none(), st.integers(10, 2_000)),
        jitter=st.floats(0, 1, exclude_max=True),
        again=st.integers(1, 30),
    )
    def refuse(self, data: st.DataObject, stated: int | None, jitter: float, again: int) -> None:
        key = self.draw(data)
        load = self.held.pop(key)
        for _ in range(again):
            self.ledger.refuse(key, stated, self.now, jitter)
            self.refusals += 1
            if self.held or not self.ledger.fits(load, self.now):
                break
            self.ledger.reserve(key, load, self.now)
        else:
            self.held[key] = load
            self.admitted.discard(key)

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0, 700.0, 30_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait(self) -> None:
        self.now = min(self.ledger.wake(self.now), self.now + STALE)

    @invariant()
    def it_holds_what_was_reserved(self) -> None:
        total = Load(sum(load.tokens for load in self.held.values()), sum(load.size for load in self.held.values()))
        assert self.ledger.enqueued == pytest.approx(self.ledger.scale.weigh(total))
        assert self.ledger.room(self.now) <= self.ledger.cap - self.ledger.enqueued + 1e-6
        assert self.ledger.refusals == self.refusals

    @invariant()
    def the_bounds_are_kept(self) -> None:
        assert HEADROOM <= self.ledger.headroom <= 0.99 + 1e-9
        assert 0 < self.ledger.share <= self.ledger.cap
        limit = self.ledger.limit.tokens
        if limit is not None:
            assert self.ledger.cap <= 0.99 * limit + 1e-6
        if self.user is not None:
            assert limit is not None
            assert limit <= self.user
        used = self.ledger.utilisation
        assert used is None or 0 <= used <= 1

    @invariant()
    def nothing_fits_before_the_time_that_wake_gives(self) -> None:
        wake = self.ledger.wake(self.now)
        assert wake > self.now
        for load in (LITTLE, tokens(100), tokens(900), bytes_(300)):
            if not self.ledger.fits(load, self.now):
                last = min(wake, self.now + 1e8)
                for at in (self.now + (last - self.now) / 2, math.nextafter(last, 0.0)):
                    assert at < self.now or not self.ledger.fits(load, at)

    @invariant()
    def a_batch_that_is_alone_is_let_in_sooner_or_later(self) -> None:
        if not self.held:
            now, wakes = self.now, 0
            while not self.ledger.fits(tokens(min(5_000, self.user or 5_000)), now):
                now, wakes = self.ledger.wake(now), wakes + 1
                assert now < math.inf
                assert wakes < 100
            assert now - self.now <= DAY


LedgerMachine.TestCase.settings = settings(unhurried, max_examples=150, stateful_step_count=40)
TestLedgerMachine = LedgerMachine.TestCase
