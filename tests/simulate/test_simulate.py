"""Some seeds keep all promises, planted bugs are found, and what failed can be replayed and made smaller."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from .plan import Backend, Plan, draw
from .planted import PLANTED, Planted
from .run import hunt, simulate
from .shrink import shrink

SEEDS = [range(first, first + 8) for first in (0, 8, 16)]
QUICK = (
    "a creation without a reply is repeated",
    "answers go to the wrong callers",
    "nobody else is about to begin",
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Simulate in a process of its own: a shell prints how to replay what fails."""
    command = [sys.executable, "-m", "simulate", *words]
    return subprocess.run(command, cwd=Path(__file__).parents[1], env=os.environ, capture_output=True, text=True)


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"{seeds.start}:{seeds.stop}")
def test_promises_are_kept_in_every_world(seeds: range) -> None:
    done = run("--small", "--no-shrink", f"{seeds.start}:{seeds.stop}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"worlds: {len(seeds)}" in done.stdout
    assert "billed twice: 0, lost: 0" in done.stdout


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_plan_that_was_written_down_runs_again_step_by_step(backend: Backend) -> None:
    plan = msgspec.structs.replace(draw(4, small=True), backend=backend)
    first, again = simulate(plan), simulate(Plan.read(plan.text))
    assert first.seen.trace == again.seen.trace
    assert first.seen.books == again.seen.books


def test_at_least_twenty_bugs_are_planted() -> None:
    assert len({bug.name for bug in PLANTED}) == len(PLANTED) >= 20
    for bug in PLANTED:
        with bug.there():  # what it replaces is there
            pass


@pytest.mark.parametrize("bug", [bug for bug in PLANTED if bug.name in QUICK], ids=lambda bug: bug.name)
def test_planted_bugs_are_found(bug: Planted) -> None:
    """These at once; `make simulate` plants all."""
    assert hunt(bug, (0, 1, 2, 3, 13), small=True) is not None


def test_planted_bugs_are_hunted_side_by_side() -> None:
    done = run("--jobs", "2", "--planted", *QUICK[:2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 bugs planted, 2 of them found" in done.stdout


def test_a_failing_plan_is_made_smaller() -> None:
    """It fails here for its kills alone, where there are calls enough."""
    plan = next(plan for plan in map(draw, range(100)) if [stop.how for stop in plan.stops].count("kill") > 3)

    def fails(tried: Plan) -> bool:
        return tried.calls >= 20 and any(stop.how == "kill" for stop in tried.stops)

    smaller = shrink(plan, fails, tries=200)
    assert [stop.how for stop in smaller.stops] == ["kill"]
    assert 20 <= smaller.calls < 40
    assert (smaller.faults, smaller.troubles, smaller.disk) == ({}, {}, 0.0)


def test_a_plan_that_fails_in_no_smaller_world_stays_as_it_is() -> None:
    assert shrink(draw(0), lambda tried: False) == draw(0)
