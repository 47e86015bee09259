"""The benchmarks that have bars in a short form: their bars are kept."""

import pytest
import vocabulary

from benchmarks import limited, recovery, scheduling, transport, trickle


@pytest.mark.parametrize("scenario", scheduling.SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_engine_keeps_the_bars_of_the_simulation(scenario: scheduling.Scenario) -> None:
    ratio, figures = scheduling.compare(scenario, 2, policies=("carpool",))["carpool"]
    assert scheduling.kept(scenario, ratio, figures), (ratio, figures)


@pytest.mark.parametrize("policy", ["all at once", "one at a time"])
def test_the_simple_policies_answer_everything_and_are_worse(policy: str) -> None:
    quiet = scheduling.SCENARIOS[0]
    table = scheduling.compare(quiet, 1, policies=("carpool", policy))
    ours, theirs = table["carpool"], table[policy]
    assert theirs[1].refusals > ours[1].refusals or theirs[0] > ours[0]


def test_an_unknown_limit_is_found_and_kept_over_loopback() -> None:
    assert vocabulary.is_there(), "tiktoken's vocabularies are missing: say `make .vocabulary/.ready`"
    case = limited.CASES[0]
    seen = limited.run(case, 700, poll_min=0.1)
    assert limited.kept(case, 700, seen), {**seen, "admitted": len(seen["admitted"])}


def test_open_batches_are_recovered_within_the_bars() -> None:
    assert recovery.kept(recovery.measure(20_000, 4), 20_000)


def test_a_transport_adds_little_to_the_cost_of_a_call() -> None:
    direct, added = transport.run(1_000, 3)
    assert added < direct / 2  # the bar of `make bench` is 15 us; a busy machine is no place to hold it


def test_calls_that_trickle_for_a_day_travel_together_within_the_settings() -> None:
    assert trickle.kept(trickle.trickle(1), trickle.DAY)


def test_many_lanes_that_trickle_share_the_creations_of_an_hour() -> None:
    """Sixty lanes, for each of which the creations of an hour give a batch in 400 seconds."""
    shell = trickle.many_lanes(60, trickle.HOUR / 2, 600)
    longest = [0.0] * 60
    for lane, wait in zip(shell.lanes, shell.waits, strict=True):
        longest[lane] = max(longest[lane], wait)
    assert trickle.busiest_hour(shell.created_at) <= 600
    assert max(longest) <= 410
    assert min(longest) >= 350
