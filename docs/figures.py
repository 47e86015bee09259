"""Put the figures of `benchmarks/results/` on the pages: `python docs/figures.py`.

What stands on a page between `<!-- results: NAME -->` and `<!-- results end -->` is replaced by the table of that
benchmark, or by a view of it; so is the picture of a benchmark that a page shows. Where a benchmark has no results that
are kept, its place is left as it is.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
PLACE = re.compile(r"(<!-- results: (.+?) -->\n)(.*?)(<!-- results end -->)", re.DOTALL)
SHORT = re.compile(r"(?:50,000|1,000,000) (?:floor|pooled|streamed)(?: journal)?")
LEGEND = (
    "`floor`: the straight line, a task and a future for each call; `pooled`: a task for each call, which awaits "
    "`pool.request`; `streamed`: `pool.map`, which makes no task and no future for a call, and so may cost less than "
    "the floor; `journal`: with one. Bytes on the wire are those of HTTP bodies, both ways. Bytes more a call are "
    "those of the peak, and below zero where the floor holds more, which has all lines in memory until it writes them."
)  # of the rows that SHORT leaves
CALLS = {
    "50,000 floor": "the floor",
    "50,000 pooled": "`pool.request`",
    "50,000 pooled journal": "with a journal",
    "50,000 floor uvloop": "the floor, with uvloop",
    "50,000 pooled uvloop": "`pool.request`, with uvloop",
    "50,000 pooled journal uvloop": "with a journal, and uvloop",
}
Results = Mapping[str, Any]  # the file of one benchmark


def read(name: str, folder: Path = RESULTS) -> Results | None:
    """Read the results of a benchmark; None where none are kept, or none of a whole run."""
    path = folder / f"{name}.json"
    kept: Results | None = json.loads(path.read_text()) if path.exists() else None
    return None if kept is None or kept["quick"] else kept


def updated(page: str, folder: Path = RESULTS) -> str:
    """Give a page with the results that are kept now; KeyError where it asks for a view that there is not."""

    def place(found: re.Match[str]) -> str:
        name, _, view = found[2].partition(", ")
        kept = read(name, folder)
        shown = VIEWS[found[2]] if view else whole
        return found[0] if kept is None else f"{found[1]}\n{shown(kept)}\n\n{when(kept)}\n\n{found[4]}"

    return PLACE.sub(place, page)


def when(kept: Results) -> str:
    """Say when and where it was measured."""
    machine = kept["machine"]
    return f"{kept['date']}, {machine['cores']} cores, {machine['system']}, {machine['python']}."


# --- views


def whole(kept: Results) -> str:
    """Give all that a benchmark says, and which of its bars are missed."""
    return "\n\n".join(("\n".join(kept["table"]).strip(), *_missed(kept["records"])))


def _missed(records: Iterable[Results]) -> Iterator[str]:
    for record in records:
        for bar in record["bars"]:
            if not bar["kept"]:
                bound = f"at most {bar['most']:g}" if bar["most"] is not None else f"at least {bar['least']:g}"
                yield f"**Missed**: {record['case']}: {bar['name']} {bar['value']:.3g}, {bound}."


def short(kept: Results) -> str:
    """Leave rows out whose first cell, which tells the case, is not for readers of the README; heads stay.

    What explains the names of cases explains those that are left.
    """
    lines: Sequence[str] = kept["table"]
    heads = {at + step for at, line in enumerate(lines) if re.match(r"\|[-|: ]+\|$", line) for step in (-1, 0)}
    left = (line for at, line in enumerate(lines) if at in heads or _is_short(line))
    table = "\n".join(LEGEND if line.startswith("`floor`: ") else line for line in left).strip()
    return "\n\n".join((table, *_missed(each for each in kept["records"] if SHORT.fullmatch(each["case"]))))


def _is_short(line: str) -> bool:
    return not line.startswith("|") or SHORT.fullmatch(line.split("|")[1].strip()) is not None


def calls(kept: Results) -> str:
    """Show what awaited calls cost beside the floor, and what they may."""
    records = {record["case"]: record for record in kept["records"]}
    rows = [_call(said, records[case]) for case, said in CALLS.items()]
    head = ("50,000 calls of 1 KB, each from a task", "CPU, us a call", "of the floor's", "bar")
    runs = records["50,000 floor"]["figures"]["runs"]
    table = _markdown((*head, "peak memory above the floor's"), rows)
    said = f"Medians of {runs} runs by turns; ratios are medians of those of each turn."
    (linear,) = (record["figures"] for case, record in records.items() if case.startswith("linear: "))
    said += f" A million calls cost {linear['ratio']:.2f} times as much each as 50,000 do."
    return "\n\n".join((table, said, *_missed(records[case] for case in CALLS)))


def _call(said: str, record: Results) -> tuple[str, ...]:
    figures, bars = record["figures"], record["bars"]
    bar = next((f"{bar['most']:g}" for bar in bars if bar["name"] == "CPU, of the floor's"), "")
    memory = _above(figures["more_bytes"]) if bars else ""
    return said, f"{figures['cpu_us']:.1f}", f"{figures['ratio']:.2f}", bar, memory


def _above(size: float) -> str:
    return f"{size / 1_000:.1f} KB a call" if size > 0 else f"none: {-size / 1_000:.1f} KB a call below"


def pending(kept: Results) -> str:
    """Say what a call holds that waits."""
    figures = {record["case"]: record["figures"] for record in kept["records"]}["100,000 pending"]
    held, grown = (f"{figures[name] / 1_000:.1f} KB" for name in ("held", "resident"))
    said = f"A waiting `request` with its task holds {held} on asyncio"
    return f"{said}, and the process grows by {grown} a call at the peak."


def through_sdk(kept: Results) -> str:
    """Say what a call costs through the official SDK, and how much of that is carpool's: the median of the runs'."""
    figures = {record["case"]: record["figures"] for record in kept["records"]}["the official SDK, batched"]
    said = f"Through `batched(AsyncOpenAI())` a call costs {figures['cpu_us']:,.0f} us"
    return f"{said}; the official SDK alone, answered from memory, takes {figures['added_us']:,.0f} less."


def longest(kept: Results) -> str:
    """Give the longest steps without the places in the code."""
    rows = [(record["case"], f"{record['figures']['longest_ms']:.1f}") for record in kept["records"]]
    return "\n\n".join((_markdown(("50,000 calls", "longest step, ms"), rows), *_missed(kept["records"])))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)).replace("|  |", "| |")


VIEWS: dict[str, Callable[[Results], str]] = {
    "throughput, short": short,
    "throughput, calls": calls,
    "memory, pending": pending,
    "steps, longest": longest,
    "transport, through_sdk": through_sdk,
}


# --- the files


def pages() -> Iterator[Path]:
    """Give the pages that may show figures."""
    return iter([ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])


def pictures() -> Iterator[tuple[Path, Path]]:
    """Give the pictures of results that pages show, each with its place beside the pages."""
    return ((kept, IMAGES / kept.name) for kept in sorted(RESULTS.glob("*.png")) if (IMAGES / kept.name).exists())


if __name__ == "__main__":
    for path in pages():
        path.write_text(updated(path.read_text()))
    for kept, shown in pictures():
        shown.write_bytes(kept.read_bytes())
