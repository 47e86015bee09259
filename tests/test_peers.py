"""What the benchmark of other libraries counts and says, apart from running them."""

import asyncio
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.peers import Record, judged, ratios, table
from benchmarks.peers.cases import CASES
from benchmarks.peers.environments import PROGRAMS
from benchmarks.peers.measure import chosen, together
from benchmarks.peers.programs import kit
from benchmarks.peers.server import tell
from carpool.testing import Emulator

PLAIN, LIMITED, FAULTY = CASES
CARPOOL, AUTOBATCHER, BATCHLING = (
    next(program for program in PROGRAMS if program.name == name) for name in ("carpool", "autobatcher", "batchling")
)


def ran(cpu_us: float, answered: int = 50_000, **more: Any) -> dict[str, Any]:
    costs = {"cpu_us": cpu_us, "wall_s": 2.0, "peak_bytes": 2e8}
    told = {"answered": answered, "billed": answered, "twice": 0, "lost": 0, "http_calls": 9, "failures": {}}
    return {**costs, **told, **more}


STOPPED = {"answered": 0, "billed": 700, "twice": 2, "lost": 5, "http_calls": 400, "failures": {"stopped": 50_000}}


def test_a_record_has_the_medians_of_costs_and_the_sums_of_calls() -> None:
    runs = [ran(40.0), ran(30.0, answered=49_999, twice=1, failures={"still waiting": 1}), ran(90.0)]
    record = together(CARPOOL, PLAIN, 50_000, runs)
    assert (record.runs, record.calls, record.answered, record.twice) == (3, 150_000, 149_999, 1)
    assert (record.cpu_us, record.http_calls, record.failures) == (40.0, 9, {"still waiting": 1})
    assert record.cpu_runs == (40.0, 30.0, 90.0)


def test_a_program_that_was_stopped_has_no_costs() -> None:
    record = together(AUTOBATCHER, FAULTY, 50_000, [STOPPED])
    assert (record.cpu_us, record.wall_s, record.peak_bytes) == (None, None, None)
    assert "| 1 x 50,000 | 0.0% | 2 | 693 | - | - | - | 400 |" in table([record])
    assert "50,000 stopped" in table([record])


def bars(records: list[Record]) -> dict[str, bool]:
    return {record.program: bar.kept for record in judged(records) for bar in record.bars}


def whole(cpu: float, others: float, **more: Any) -> list[Record]:
    costs = ((CARPOOL, ran(cpu)), (AUTOBATCHER, ran(3 * others, **more)), (BATCHLING, ran(10 * others)))
    return [together(program, PLAIN, 50_000, [run]) for program, run in costs]


def test_the_bars_are_ratios_to_carpool_in_the_same_run() -> None:
    assert ratios(whole(20.0, 20.0)) == {"autobatcher": 3.0, "batchling": 10.0}
    assert bars(whole(20.0, 20.0)) == {"autobatcher": True, "batchling": True}
    assert bars(whole(20.1, 20.0)) == {"autobatcher": False, "batchling": False}


def test_a_ratio_is_the_median_of_those_of_each_turn() -> None:
    """The machine is three times as slow in the second turn, and in the third from the second program on."""
    ours, theirs = (20.0, 60.0, 20.0), (60.0, 180.0, 180.0)
    pairs = ((CARPOOL, ours), (AUTOBATCHER, theirs))
    records = [together(program, PLAIN, 50_000, [ran(cpu) for cpu in costs]) for program, costs in pairs]
    assert ratios(records) == {"autobatcher": 3.0}


def test_a_bar_that_is_missed_is_written_to_the_results(tmp_path: Path) -> None:
    report.write(tmp_path, "peers", "Says little.", judged(whole(25.0, 20.0)), "| a |", [], quick=False)
    page = report.page(tmp_path, ["peers"])
    assert "Missed: no limits: CPU of autobatcher, of carpool's 2.4, at least 3." in page
    assert "Missed: no limits: CPU of batchling, of carpool's 8, at least 10." in page


def test_who_did_not_answer_everything_is_no_measure_of_cost() -> None:
    assert bars(whole(20.0, 20.0, answered=49_999)) == {"batchling": True}


def test_short_runs_are_not_judged() -> None:
    records = [dataclasses.replace(record, calls=2_000, answered=2_000) for record in whole(20.0, 1.0)]
    assert ratios(records)["batchling"] == pytest.approx(0.5)
    assert bars(records) == {}


def test_the_table_has_each_case_with_its_programs_and_a_note_for_each() -> None:
    records = [together(program, case, 100, [ran(1.0, 100)]) for case in CASES for program in PROGRAMS]
    text = table(records)
    assert [line for line in text.splitlines() if line.startswith("**")] == [f"**{c.name}**: {c.what}" for c in CASES]
    for program in PROGRAMS:
        assert text.count(f"| {program.name} ") == len(CASES)
        assert text.count(f"- *{program.name}*: {program.note}.") == 1


def test_programs_and_cases_are_chosen_by_name() -> None:
    assert chosen(["carpool", "a limit"]) == ([CARPOOL], [LIMITED])
    assert chosen(None) == (list(PROGRAMS), list(CASES))
    with pytest.raises(ValueError, match="there is no nobody"):
        chosen(["carpool", "nobody"])


def test_every_peer_is_pinned() -> None:
    assert all("==" in pin for program in PROGRAMS for pin in program.pins)
    assert all(program.pins for program in PROGRAMS if program.package != "carpool")


def test_what_fits_is_told_for_a_limit_alone() -> None:
    assert (PLAIN.fits(50_000), LIMITED.fits(2_000), FAULTY.fits(2_000)) == (0, 180, 0)
    assert kit.Work(*LIMITED.work("url", 2_000)).rows == 180
    assert kit.Work(*PLAIN.work("url", 60_000)).rows == 50_000


def test_callers_count_by_their_own_right_answer_and_the_others_by_what_they_hold() -> None:
    async def call(number: int) -> str:
        match number:
            case 3:
                await asyncio.Event().wait()
            case 4:
                raise ValueError("no\n room for batch_0000000000af")
            case 5:
                return "4 is somebody else's"
        return f"{number} is mine"

    async def answered(work: kit.Work) -> list[kit.Outcome]:
        return await kit.callers(work, call)

    work = kit.Work("url", 2, 5, burst=2, pause=0.0, fits=0, patience=0.2)
    outcomes = asyncio.run(answered(work))
    assert kit.right(work, outcomes) == 2
    held = {"still waiting": 1, "ValueError: no room for batch_...": 1, "a wrong answer": 1}
    assert kit.failures(work, outcomes) == held


def test_an_answer_is_billed_twice_unless_the_provider_lost_it() -> None:
    books = dataclasses.replace(
        Emulator().books(),
        bodies=Counter({b"once": 1, b"thrice": 3, b"lost": 3, b"failed": 2}),
        unpaid=Counter({b"failed": 1}),
        lost=Counter({b"lost": 1}),
        routes=Counter({"POST /v1/files": 2, "POST /v1/batches": 3}),
    )
    told = tell(books)
    assert (told["billed"], told["twice"], told["lost"], told["http_calls"]) == (8, 3, 1, 5)
