"""Figures on the pages are what a rule gives from which they follow, or what the benchmarks have measured."""

import json
import re
import statistics
from pathlib import Path

import pytest
from docs_kit import load, pages, text_of

from carpool import Timing
from carpool.engine.cadence import check_pause, net_pause, spread

BATCHES = 51
VALIDATING = 30.0  # seconds, while which no webhook tells of a batch


def looks(key: str, hours: int, *, webhooks: bool) -> int:
    """Count how often a batch is asked for: until its end is seen, or told of and seen."""
    age, count = 0.0, 0
    while age < 3_600 * hours:
        count += 1
        jitter = spread(key, count)
        pause = check_pause(age, Timing(), jitter)
        age += net_pause(jitter) if webhooks and age >= VALIDATING else pause
    return count


@pytest.mark.parametrize("webhooks", [False, True])
@pytest.mark.parametrize("hours", [1, 20])
def test_the_page_of_webhooks_says_how_often_batches_are_asked_for(hours: int, webhooks: bool) -> None:
    row = rf"^\| {hours} hours?, {'webhooks' if webhooks else 'polling'} \|.*\| ([\d,]+) times \|$"
    told = re.search(row, text_of("docs/how-to/webhooks.md"), re.MULTILINE)
    assert told
    counted = statistics.median(looks(f"batch-{n}", hours, webhooks=webhooks) for n in range(BATCHES))
    assert int(told[1].replace(",", "")) == counted


# --- results of benchmarks: `python docs/figures.py` brings the pages up to date

figures = load("figures")
SHOWN = [page for page in pages() if figures.PLACE.search(text_of(page))]


@pytest.mark.parametrize("page", SHOWN)
def test_a_page_shows_the_results_that_are_kept(page: str) -> None:
    assert text_of(page) == figures.updated(text_of(page)), "python docs/figures.py brings it up to date"
    assert text_of(page).count("<!-- results") == 2 * len(figures.PLACE.findall(text_of(page)))


@pytest.mark.parametrize("page", SHOWN)
def test_a_place_without_results_that_are_kept_says_so(page: str) -> None:
    places = figures.PLACE.findall(text_of(page))
    alone = [shown for _, name, shown, _ in places if figures.read(name.partition(", ")[0]) is None]
    assert all("ritten by hand" in shown for shown in alone)


def test_the_readme_and_the_pages_of_limits_and_performance_show_results() -> None:
    assert {"README.md", "docs/explanation/limits.md", "docs/explanation/performance.md"} <= set(SHOWN)


def test_a_picture_of_results_is_the_one_that_is_kept() -> None:
    shown = list(figures.pictures())
    assert [place.name for _, place in shown] == ["scheduling.png"]
    assert all(kept.read_bytes() == place.read_bytes() for kept, place in shown)


def test_results_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    machine = {"cores": 2, "system": "Linux", "python": "CPython 3.11.7"}
    bar = {"name": "CPU", "value": 3.0, "most": 2.0, "least": None, "kept": False}
    table = ["| case | us |", "|---|---|", "| 50,000 pooled journal | 1 |", "| 25,000 pooled | 2 |", "", "Said."]
    results = {"quick": False, "date": "2026-01-02", "machine": machine, "table": table}
    cases = "25,000 pooled", "50,000 pooled journal"
    results["records"] = [{"case": case, "bars": [bar]} for case in cases]
    (tmp_path / "throughput.json").write_text(json.dumps(results))
    (tmp_path / "memory.json").write_text(json.dumps({**results, "quick": True}))
    page = "a\n<!-- results: {} -->\nold\n<!-- results end -->\nb"
    rows, fewer = "\n".join(table), "\n".join((*table[:3], *table[4:]))
    when = "2026-01-02, 2 cores, Linux, CPython 3.11.7."

    def shown(name: str) -> str:
        changed: str = figures.updated(page.format(name), tmp_path)
        return changed.removeprefix(f"a\n<!-- results: {name} -->\n").removesuffix("\n<!-- results end -->\nb")

    other, missed = (f"**Missed**: {case}: CPU 3, at most 2." for case in cases)
    assert shown("throughput") == f"\n{rows}\n\n{other}\n\n{missed}\n\n{when}\n"
    assert shown("throughput, short") == f"\n{fewer}\n\n{missed}\n\n{when}\n"
    assert shown("steps, longest") == "old"  # nothing is kept of it
    assert shown("memory") == "old"  # nothing but of a quick run
    with pytest.raises(KeyError):
        shown("throughput, unknown")


def test_the_legend_in_the_readme_explains_the_rows_that_are_left() -> None:
    left = set(re.findall(r"[a-z]{5,}", figures.SHORT.pattern))
    assert set(re.findall(r"`(\w+)`: ", figures.LEGEND)) == left
    legend = "`floor`: a task; `gathered`: `pool.gather`."
    table = ["| case | us |", "|---|---|", "| 50,000 gathered | 1 |", "", legend]
    assert figures.short({"table": table, "records": []}) == "\n".join((*table[:2], "", figures.LEGEND))


def test_the_longest_steps_are_shown_without_their_places() -> None:
    bar = {"name": "longest step, ms", "value": 12.34, "most": 10.0, "least": None, "kept": False}
    steps = {"records": [{"case": "asked", "figures": {"longest_ms": 12.34, "where": "pool.py:1"}, "bars": [bar]}]}
    table = "| 50,000 calls | longest step, ms |\n| --- | --- |\n| asked | 12.3 |"
    assert figures.longest(steps) == f"{table}\n\n**Missed**: asked: longest step, ms 12.3, at most 10."


def test_a_call_through_the_sdk_is_shown_beside_the_sdk_alone() -> None:
    figures_ = {"cpu_us": 2_345.6, "added_us": 123.4}  # a difference of medians would be another figure
    alone = {"case": "the official SDK, answered from memory", "figures": {"cpu_us": 2_300.0}}
    said = figures.through_sdk({"records": [alone, {"case": "the official SDK, batched", "figures": figures_}]})
    assert [*re.findall(r"[\d,]+(?= us| less)", said)] == ["2,346", "123"]
