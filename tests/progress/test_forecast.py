"""How much longer: simulated histories, in which the end is known, and the figures one by one."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from histories import (
    START,
    LaneWorld,
    Look,
    drifting,
    history,
    late,
    lognormal,
    mixed,
    silent,
    stalling,
    steady,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from progress_kit import NOW, batch, lane, stats

from carpool.progress import words
from carpool.progress.durations import WINDOW, Ending, Seen, at_the_earliest, at_the_latest, fit
from carpool.progress.forecast import Forecast, Left, pending
from carpool.stats import Stats

HOUR = 3_600.0
SEEDS = range(6)
STEP = 30.0


class World(NamedTuple):
    """Name what is simulated, and the least share of looks at which the truth lies within what is said."""

    lanes: Callable[[], list[LaneWorld]]
    within: float
    step: float = 30.0  # seconds between two looks


WORLDS = {
    "one batch, counted": World(lambda: [LaneWorld(10_000, lognormal(1_200, 0.6), counting=steady)], 0.95),
    "one batch, counted late": World(lambda: [LaneWorld(10_000, lognormal(1_200, 0.6), counting=late)], 0.9, 20.0),
    "two batches": World(lambda: [LaneWorld(20_000, lognormal(2 * HOUR, 0.6))], 0.7),
    "20 at once": World(lambda: [LaneWorld(200_000, lognormal(HOUR, 0.5))], 0.8),
    "20 at once, counted": World(lambda: [LaneWorld(200_000, lognormal(HOUR, 0.5), counting=steady)], 0.9),
    "20 at once, most unlike": World(lambda: [LaneWorld(200_000, lognormal(HOUR, 1.0))], 0.75, 90.0),
    "10 rounds of 8": World(lambda: [LaneWorld(800_000, lognormal(900, 0.5), abreast=8)], 0.9),
    "5 rounds of 8, all alike": World(lambda: [LaneWorld(400_000, lognormal(900, 0.02), abreast=8)], 0.9),
    "slower and slower": World(lambda: [LaneWorld(800_000, drifting(900, 0.4, 3, 6 * HOUR), abreast=8)], 0.7),
    "faster and faster": World(lambda: [LaneWorld(800_000, drifting(1_800, 0.4, 1 / 3, 6 * HOUR), abreast=8)], 0.7),
    "one after another": World(lambda: [LaneWorld(120_000, lognormal(900, 0.4), abreast=1)], 0.75),
    "three models": World(
        lambda: [
            LaneWorld(200_000, lognormal(900, 0.4), abreast=4, model="a"),
            LaneWorld(100_000, lognormal(3 * HOUR, 0.4), abreast=8, model="b"),
            LaneWorld(20_000, lognormal(600, 0.4), model="c"),
        ],
        0.8,
        60.0,
    ),
    "nearly a day each": World(lambda: [LaneWorld(100_000, lognormal(20 * HOUR, 0.6), abreast=5)], 0.85, 600.0),
    # Nothing foretells these: of the last rows none comes for long; one batch in twenty takes 24 times as long.
    "one batch that stalls": World(lambda: [LaneWorld(10_000, lognormal(1_200, 0.6), counting=stalling)], 0.45),
    "some far slower": World(lambda: [LaneWorld(400_000, mixed(900, 6 * HOUR, 0.05), abreast=8)], 0.45, 60.0),
}


class Told(NamedTuple):
    """Hold what was told at a look, and what was true."""

    look: Look
    left: Left | None
    truth: float


def told(world: World, seed: int) -> list[Told]:
    looks = list(history(world.lanes(), seed, world.step))
    forecast = Forecast()
    lefts = []
    for look in looks:
        forecast.look(look.stats, look.at)
        lefts.append(forecast.left(look.stats, look.at))
    return [Told(look, left, looks[-1].at - look.at) for look, left in zip(looks, lefts, strict=True)]


def share_within(looks: Sequence[Told]) -> float:
    known = [(entry.left, entry.truth) for entry in looks if entry.left is not None]
    return sum(left.low <= truth <= left.high for left, truth in known) / len(known)


@pytest.mark.parametrize("name", WORLDS)
def test_the_truth_lies_within_it_most_of_the_time(name: str) -> None:
    looks = [entry for seed in SEEDS for entry in told(WORLDS[name], seed)]
    assert share_within(looks) >= WORLDS[name].within


@pytest.mark.parametrize("name", WORLDS)
def test_it_says_nothing_absurd(name: str) -> None:
    before: Left | None = None
    looks = told(WORLDS[name], 99)
    for look, left, truth in looks:
        rows = pending(look.stats)
        assert (left is None) or rows
        if left is not None:
            assert 0 <= left.low <= left.high
            assert left.high >= 1.0
            assert left.high <= WINDOW * (3 + rows / 5_000)
            assert truth < 300 or left.high > 30
        if left is not None and before is not None:  # a batch more or less is no reason to think all wrong
            assert 1 / 8 < (left.high + HOUR / 10) / (before.high + HOUR / 10) < 8
        before = left
    assert looks[-1].left is None


def test_it_is_narrower_the_more_is_known() -> None:
    looks = [entry for entry in told(WORLDS["10 rounds of 8"], 3) if entry.left is not None]
    first, middle = looks[0].left, looks[len(looks) // 2].left
    assert first is not None
    assert middle is not None
    assert middle.high / middle.low < 3.2 < first.high / first.low


def test_before_a_batch_has_ended_nothing_is_told() -> None:
    looks = told(WORLDS["20 at once"], 0)
    first = next(number for number, entry in enumerate(looks) if entry.look.stats.answered)
    assert first > 5
    assert all(entry.left is None for entry in looks[:first])
    assert all(entry.left is not None for entry in looks[first:-1])


def test_a_batch_whose_rows_are_counted_tells_after_a_tenth() -> None:
    looks = told(WORLDS["one batch, counted"], 0)
    for entry in looks[:-1]:
        done = entry.look.stats.open[0].done
        assert (entry.left is None) == (done is None or done < 1_000)


def test_hundreds_of_batches_in_many_queues_are_told_of_as_well() -> None:
    """Some stand for all: to look at each would take too long."""
    lanes = [
        LaneWorld(
            160_000, lognormal(1_200, 0.4), size=4_000, counting=steady if number % 2 else silent, model=f"m{number}"
        )
        for number in range(12)
    ]
    looks = told(World(lambda: lanes, 0.0, 60.0), 0)
    assert len(looks[0].look.stats.open) == 480
    assert share_within(looks) > 0.75


def test_time_passes_between_two_looks() -> None:
    looks = list(history(WORLDS["20 at once"].lanes(), 0, STEP))
    forecast = Forecast()
    at = next(number for number, look in enumerate(looks) if look.stats.answered)
    for look in looks[: at + 1]:
        forecast.look(look.stats, look.at)
    first = forecast.left(look.stats, look.at)
    forecast.look(look.stats, look.at + 1)
    second = forecast.left(look.stats, look.at + 1)
    assert first is not None
    assert second == Left(first.low - 1, first.high - 1)


def test_refused_batches_are_no_durations() -> None:
    """A batch that finds no room is over within seconds, and its rows wait again."""
    at, stats = next(history([LaneWorld(20_000, lognormal(HOUR, 0.1))], 0, STEP))
    back = structs.replace(stats, open=stats.open[:1], lanes=(structs.replace(stats.lanes[0], waiting=10_000),))
    forecast = Forecast()
    forecast.look(stats, at)
    forecast.look(back, at + 5)
    assert forecast.left(back, at + 5) is None
    ended = structs.replace(back, lanes=(structs.replace(back.lanes[0], answered=10_000),), open=())
    forecast.look(ended, at + 600)
    left = forecast.left(ended, at + 600)
    assert left is not None
    assert left.low < 600 < left.high


def test_a_batch_that_was_over_when_it_was_first_seen_is_no_duration() -> None:
    """A process that starts again finds batches ended, perhaps hours ago."""
    looks = list(history([LaneWorld(20_000, lognormal(HOUR, 0.1))], 0, STEP))
    stats = looks[0].stats
    ended = structs.replace(stats, open=stats.open[:1], lanes=(structs.replace(stats.lanes[0], answered=10_000),))
    forecast = Forecast()
    forecast.look(stats, START + 20 * HOUR)
    forecast.look(ended, START + 20 * HOUR + 5)
    assert forecast.left(ended, START + 20 * HOUR + 5) is None


def test_what_is_still_to_come_takes_rounds_of_what_was_under_way_together() -> None:
    looks = [entry.look for entry in told(WORLDS["20 at once"], 0)]
    forecast = Forecast()
    at = next(number for number, look in enumerate(looks) if look.stats.answered > 50_000)
    for look in looks[: at + 1]:
        forecast.look(look.stats, look.at)
    few = forecast.left(looks[at].stats, looks[at].at, 10_000)
    many = forecast.left(looks[at].stats, looks[at].at + 100, 2_000_000)
    assert few is not None
    assert many is not None
    assert many.low > 4 * HOUR > few.low


@st.composite
def looks_of_any_kind(draw: st.DrawFn) -> list[tuple[Stats, float, int]]:
    """Make up what no provider would do: figures that do not agree, and a clock that is set back."""
    counts = st.integers(0, 10**7)
    lanes = [lane(0, 0, model) for model in ("a", "b", "c")]
    looks = []
    for _ in range(draw(st.integers(1, 6))):
        now = draw(st.floats(NOW - 1e6, NOW + 1e6))
        shown = [
            structs.replace(
                one,
                waiting=draw(counts),
                submitted=draw(counts),
                answered=draw(counts),
                limit=draw(st.none() | counts),
                enqueued=draw(counts),
            )
            for one in lanes
        ]
        open_ = tuple(
            batch(
                number,
                lanes[number % 3],
                stage=draw(st.sampled_from(("uploading", "queued", "creating", "running", "collecting"))),
                rows=draw(counts),
                unsettled=draw(counts),
                tokens=draw(counts),
                since=draw(st.floats(NOW - 1e6, NOW + 1e6)),
                done=draw(st.none() | counts),
            )
            for number in draw(st.sets(st.integers(0, 8)))
        )
        looks.append((stats(*shown, open_=open_), now, draw(counts)))
    return looks


@given(looks_of_any_kind())
def test_whatever_is_seen_a_range_comes_of_it_or_nothing(looks: list[tuple[Stats, float, int]]) -> None:
    forecast = Forecast()
    for seen, now, unread in looks:
        forecast.look(seen, now)
        left = forecast.left(seen, now, unread)
        if left is not None:
            assert 0 <= left.low <= left.high < math.inf
            assert left.high >= 1.0
            assert words.left(left, seen).endswith(" left")


def test_what_runs_on_counts_as_longer_than_it_has_run() -> None:
    quick = [Seen(math.log(600))]
    alone = fit(quick)
    beside = fit([*quick, *[Seen(math.log(900), running=True)] * 9])
    assert math.exp(alone.mean) == pytest.approx(600, rel=0.01)
    assert 1_000 < math.exp(beside.mean) < 4_000


def test_one_that_takes_long_takes_on_the_longer() -> None:
    durations = fit([Seen(math.log(seconds)) for seconds in (500, 600, 700, 600, 550)])
    fresh, usual, old = (durations.of_one(age).within(0.5) for age in (0.0, 600.0, 6_000.0))
    assert 500 < fresh < 700
    assert usual < 300 < old
    assert durations.of_one(86_300.0).within(0.5) <= 100


def test_the_last_of_many_ends_later_than_one() -> None:
    one = [Ending(math.log(600), 0.5)]
    many = one * 20
    assert at_the_latest(one, 0.9) < at_the_latest(many, 0.9) < WINDOW
    assert at_the_earliest(one, 0.1) == pytest.approx(at_the_earliest(many, 0.1))
    assert at_the_latest([Ending(math.log(600), 0.5, times=20)], 0.9) == pytest.approx(
        at_the_latest(many, 0.9), rel=0.02
    )
    assert at_the_latest([Ending(math.log(600_000), 0.5)], 0.9) == pytest.approx(WINDOW, rel=0.02)
