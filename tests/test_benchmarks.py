"""The benchmarks that have bars in a short form: their bars are kept."""

import inspect
import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import vocabulary
from typer.testing import CliRunner

from benchmarks import counting, floor, limited, memory, report, scheduling, throughput, transport, trickle, workload
from benchmarks.__main__ import app
from benchmarks.catalogue import CATALOGUE, options_of
from benchmarks.records import Bar, Record, kept


def missed(bars: tuple[Bar, ...]) -> list[str]:
    return [str(bar) for bar in bars if not bar.kept]


@pytest.mark.parametrize("scenario", scheduling.SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_engine_keeps_the_bars_of_the_simulation(scenario: scheduling.Scenario) -> None:
    ratio, figures = scheduling.compare(scenario, 2, policies=("carpool",))["carpool"]
    assert missed(scheduling.bars(scenario, ratio, figures)) == []


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
    assert missed(limited.bars(case, 700, seen)) == []


def test_the_program_runs_a_benchmark_and_keeps_what_it_gave(tmp_path: Path) -> None:
    """It is the one of recovery, with its bars."""
    ended = CliRunner().invoke(app, ["run", "recovery", "--quick", "--results", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    kept = json.loads((tmp_path / "recovery.json").read_text())
    assert kept["machine"].keys() == {"cores", "system", "processor", "python"}
    assert kept["records"][0]["figures"]["submitted"] == 20_000
    assert "\n".join(kept["table"]) in (tmp_path / "README.md").read_text()
    assert "| 20,000 in 4 batches |" in ended.output


def test_all_go_on_after_one_that_fails_and_quick_ones_leave_the_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**options: Any) -> list[Record]:
        raise AssertionError("a row is missing")

    good = Record("near limit", {"cpu_us": 1.0, "calls": 2.0, "runs": 1.0})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(transport, "results", fails)
    monkeypatch.setattr(counting, "results", lambda **options: [good])
    ended = CliRunner().invoke(app, ["run", "transport", "counting", "--quick"])
    assert ended.exit_code == 1
    assert "a row is missing" in ended.output
    assert "missed: transport" in ended.output
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"counting.json", "README.md"}
    assert "| 2 calls, 1 run |" in (folder / "README.md").read_text()


def test_the_program_lists_every_benchmark_and_refuses_others() -> None:
    listed = CliRunner().invoke(app, ["list"]).output
    assert [line.split()[0] for line in listed.splitlines()] == list(CATALOGUE)
    refused = CliRunner().invoke(app, ["run", "unheard"])
    assert refused.exit_code == 2
    assert "unheard" in refused.output


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_benchmark_has_the_common_form(name: str) -> None:
    module = CATALOGUE[name].load()
    options = options_of(CATALOGUE[name], True, None)
    assert options
    inspect.signature(module.results).bind(**options)
    inspect.signature(module.table).bind([])


def test_a_bar_that_is_missed_is_written_beside_the_table(tmp_path: Path) -> None:
    record = Record("case", {"cpu_us": 2.0}, (Bar("us", 2.0, most=1.0), Bar("share", 0.5, least=0.4)))
    assert not kept([record])
    report.write(tmp_path, "made up", "Says little.", [record], "| a |", [], quick=False)
    page = report.page(tmp_path, ["never run", "made up"])
    assert "Missed: case: us 2, at most 1." in page
    assert "share" not in page


def test_memory_of_a_call_in_flight_is_little_more_than_that_of_its_task() -> None:
    bare, held = (memory.measure(state, 3_000, True) for state in (memory.TASK, memory.IN_FLIGHT))
    assert held - bare <= memory.BAR


def test_traffic_and_the_collector_are_accounted_for() -> None:
    seen = throughput.measure("floor", 500, "size=4096")
    others = 3  # upload, creation, download
    assert others + 1 <= seen["requests"] <= others + 1 + seen["wall_s"] / floor.POLL
    assert 500 * 4_000 < seen["received"] < 500 * 4_500
    assert 0 <= seen["gc_us"] < seen["cpu_us"]


def test_a_transport_adds_little_to_the_cost_of_a_call() -> None:
    direct, added = transport.run(1_000, 9)
    assert added < direct / 2  # the bar of `make bench` is 15 us; a busy machine is no place to hold it


def test_calls_that_trickle_for_a_day_travel_together_within_the_settings() -> None:
    assert missed(trickle.bars(trickle.trickle(1), trickle.DAY)) == []


def test_many_lanes_that_trickle_share_the_creations_of_an_hour() -> None:
    """Sixty lanes, for each of which the creations of an hour give a batch in 400 seconds."""
    shell = trickle.many_lanes(60, trickle.HOUR / 2, 600)
    longest = [0.0] * 60
    for lane, wait in zip(shell.lanes, shell.waits, strict=True):
        longest[lane] = max(longest[lane], wait)
    assert trickle.busiest_hour(shell.created_at) <= 600
    assert max(longest) <= 410
    assert min(longest) >= 350


@pytest.mark.parametrize(("runs", "judged"), [(1, False), (4, False), (5, True)])
def test_what_is_linear_is_judged_by_five_runs(runs: int, judged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"cpu_us": 30.0, "gc_us": 5.0, "peak": 1e8, "wall_s": 1.0, "received": 1.0, "sent": 1.0, "requests": 5.0}
    monkeypatch.setattr(throughput, "measure", lambda program, *rest, **more: costs)
    monkeypatch.setattr(throughput, "serve", nullcontext)
    records = throughput.linear(runs)
    assert [bar.value for record in records for bar in record.bars if "50,000" in bar.name] == [1.0] * judged
    assert throughput.table(records).endswith("; 1 run." if runs == 1 else f"; medians of {runs} runs.")


# What a process holds is read from there; the benchmark itself is for Linux.
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_another_process_is_its_own() -> None:
    """The system's `ru_maxrss` would be this process's, where that was larger."""
    program = "held = b'x' * 60_000_000; del held; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        peak, now = (workload.status(name, child.pid) for name in ("VmHWM", "VmRSS"))
        child.communicate(b"\n")
    assert 60e6 < peak < 90e6
    assert now < peak - 50e6
