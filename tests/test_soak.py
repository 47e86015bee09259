"""The soak: a short one keeps its bars, and what breaks a bar is seen."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak.__main__ import run
from benchmarks.soak.clients import Tally
from benchmarks.soak.plan import RESTLESS, STEADY, Plan
from benchmarks.soak.report import Seen, bars, growth_of, lines
from benchmarks.soak.services import Ending, Sample

SHORT = Plan(minutes=0.15, rate=20)
LONG = Plan(minutes=10, rate=0.01)
BOOKS = {"twice": 0, "runs": [], "refused": [1.0], "admitted": [1.0], "statuses": {}, "utilisation": 0.5, "files": 0}
WELL = Seen(
    plan=LONG,
    began=0.0,
    tally=Tally(asked=LONG.calls, latencies=[1.0] * LONG.calls),
    endings=[Ending(RESTLESS, signal.SIGKILL, -9, 0.1), Ending(STEADY, signal.SIGTERM, -15, 2.0)],
    last=[Ending(RESTLESS, signal.SIGTERM, 0, 0.1)],
    samples=[Sample(STEADY, at, at, 50_000_000, 20) for at in range(600)],
    books=BOOKS,
    logs={STEADY: "WARNING carpool nothing to speak of"},
)


def missed(seen: Seen) -> Sequence[str]:
    return [bar.name for bar in bars(seen) if not bar.kept]


def test_a_short_soak_keeps_its_bars(tmp_path: Path) -> None:
    seen = run(SHORT, tmp_path)
    assert missed(seen) == [], "\n".join((*lines(seen), *seen.logs.values()))
    assert {ending.signal for ending in seen.endings} == {signal.SIGKILL, signal.SIGTERM}


def test_a_soak_that_went_well_keeps_all_bars() -> None:
    assert missed(WELL) == []
    assert any("+0.0%" in line for line in lines(WELL))


@pytest.mark.parametrize(
    ("change", "bar"),
    [
        ({"tally": Tally(asked=LONG.calls, latencies=[1.0])}, "every client answered"),
        ({"tally": replace(WELL.tally, wrong=["1 was given 2"])}, "each with its own answer"),
        ({"books": {**BOOKS, "twice": 1}}, "nothing billed twice"),
        ({"books": {**BOOKS, "refused": [1.0, 500.0]}}, "no refusal after the first"),
        ({"endings": [Ending(RESTLESS, signal.SIGTERM, None, 30.0)]}, "processes end as they are told"),
        ({"last": [Ending(STEADY, signal.SIGTERM, 1, 1.0)]}, "processes end as they are told"),
        ({"logs": {STEADY: "Traceback (most recent call last):"}}, "no faults in the logs"),
    ],
)
def test_what_goes_wrong_breaks_its_bar(change: dict[str, Any], bar: str) -> None:
    assert missed(replace(WELL, **change)) == [bar]


@pytest.mark.parametrize(("memory", "descriptors"), [(6_000, 0.0), (0, 0.02)])
def test_growth_breaks_its_bar(memory: int, descriptors: float) -> None:
    growing = [
        sample._replace(memory=sample.memory + int(memory * sample.at), descriptors=20 + int(descriptors * sample.at))
        for sample in WELL.samples
    ]
    assert missed(replace(WELL, samples=growing)) == ["memory and descriptors flat within 5%"]


def test_the_steady_service_alone_is_measured_from_minute_two_on() -> None:
    noise = [Sample(RESTLESS, float(at), 1.0, 10**9 * at, at) for at in range(600)]
    early = [Sample(STEADY, float(at), 1.0, 10**9, 500) for at in range(60)]
    growth = growth_of([*noise, *early, *WELL.samples[90:]], LONG.settled, LONG.seconds)
    assert growth is not None
    assert growth.memory == (50_000_000, 50_000_000)
    assert growth.descriptors == (20, 20)


def test_the_steady_service_is_restarted_before_it_is_measured_and_the_other_all_along() -> None:
    restarts = sorted(LONG.restarts())
    steady = [restart for restart in restarts if restart.name == STEADY]
    assert {restart.signal for restart in steady} == {signal.SIGKILL, signal.SIGTERM}
    assert max(restart.at for restart in steady) < LONG.settled - 30
    restless = [restart for restart in restarts if restart.name == RESTLESS]
    assert restless[-1].at > LONG.seconds - 40
    assert [restart.signal for restart in restless[:4]] == [signal.SIGKILL, signal.SIGTERM] * 2
