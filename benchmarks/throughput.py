"""CPU, memory and traffic of calls beside the straight line, each in a process of its own, the server in another.

    python -m benchmarks.throughput [--runs 5] [--cases base size ...] [--counts 50000 200000] [--uvloop]

Cases are measured in series, of which the floor is the first; the programs of a series take turns, in every run against
one server process. Absolute figures are those of this machine and this hour. What counts is the ratio to the floor of
the same run, of which the median is given.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from . import charts
from .records import Bar, Record, markdown, middle, of_runs, say, show
from .serving import Server, serve

BARS = {"pooled": 1.5, "pooled journal": 1.8}  # times the floor's CPU a call, at 50,000 calls of 1 KB
MEMORY_BAR = 1536  # bytes a call above the floor's peak
LINEAR_BAR = 1.1  # times the CPU a call at 50,000
ENOUGH = 5  # runs below which that is not judged: alone they swing by more than a tenth
BASE = 50_000
MILLION = 1_000_000
EVERY = ("floor", *BARS)
TWO = ("floor", "pooled")


class Series(NamedTuple):
    """Name programs to be measured by turns, with words for all of them; `calls` are those of each."""

    calls: int
    programs: Sequence[str]
    words: tuple[str, ...] = ()

    def title(self, program: str) -> str:
        """Name a case."""
        return " ".join((f"{self.calls:,}", program, *self.words))


SIZED = ("floor", "floor uvloop", "pooled", "pooled journal")

CASES: dict[str, tuple[Series, ...]] = {
    "base": (
        Series(BASE, (*EVERY, "gathered", "gathered journal", "streamed", "streamed journal")),
        Series(BASE, EVERY, ("uvloop",)),
    ),
    "size": (
        Series(BASE, SIZED, ("size=200",)),
        Series(BASE // 2, SIZED, ("size=4096",)),
        Series(2_000, SIZED, ("size=65536",)),  # as much as a file holds
    ),
    "calls": (Series(1_000, TWO), Series(10_000, TWO), Series(200_000, EVERY)),
}
LEGEND = (
    "`floor`: the straight line, a task and a future for each call; `pooled`: a task for each call, which awaits "
    "`pool.request`; `gathered`: `pool.gather`; `streamed`: `pool.map`; `journal`: with one; `size`: bytes of a body, "
    "1 KB where nothing is said. Bytes on the wire are those of HTTP bodies, both ways. `gathered` and `streamed` may "
    "cost less than the floor, for they make no task and no future for a call, as it does. Bytes more a call are those "
    "of the peak, and below zero where the floor holds more, which has all lines in memory until it writes them."
)
QUICK = (Series(10_000, (*EVERY, "gathered", "streamed")), Series(5_000, TWO, ("size=4096",)))


def measure(program: str, count: int, *words: str, server: Server | None = None) -> dict[str, float]:
    """Run a program in a process of its own, against a fresh server or the one given; gives what it took."""
    if server is None:
        with serve() as fresh:
            return measure(program, count, *words, server=fresh)
    name, *more = program.split()
    command = [sys.executable, "-m", f"benchmarks.{name}", str(count), server.url, *more, *words]
    server.traffic()
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    return {**figures, **server.traffic()._asdict()}


def rounds(series: Series, runs: int) -> dict[str, list[dict[str, float]]]:
    """Measure the programs of a series by turns."""
    seen: dict[str, list[dict[str, float]]] = {program: [] for program in series.programs}
    for run in range(runs):
        with serve() as server:
            for program, figures in seen.items():
                figures.append(measure(program, series.calls, *series.words, server=server))
                say(f"{run + 1} of {runs}: {series.title(program)}: {figures[-1]['cpu_us']:.1f} us")
    return seen


def compare(series: Series, runs: int) -> list[Record]:
    """Measure a series, and give a record for each of its programs."""
    return summed(series, rounds(series, runs))


def summed(series: Series, seen: Mapping[str, Sequence[dict[str, float]]]) -> list[Record]:
    """Take medians; the ratio is the median of those of each run."""
    floor = seen[series.programs[0]]
    records = []
    for program in series.programs:
        pairs = list(zip(seen[program], floor, strict=True))
        ratio = statistics.median(one["cpu_us"] / other["cpu_us"] for one, other in pairs)
        extra = statistics.median((one["peak"] - other["peak"]) / series.calls for one, other in pairs)
        more: dict[str, float] = {"ratio": ratio, "more_bytes": extra, "calls": series.calls, "runs": len(pairs)}
        figures = {**middle(seen[program]), **more}
        records.append(Record(series.title(program), figures, _bars(series, program, ratio, extra)))
    return records


def _bars(series: Series, program: str, ratio: float, extra: float) -> tuple[Bar, ...]:
    if program not in BARS or series.calls < BASE or any("size=" in word for word in series.words):
        return ()  # what happens once counts for much there, or the bodies do
    memory = Bar("bytes a call above the floor's peak", extra, most=MEMORY_BAR)
    return (Bar("CPU, of the floor's", ratio, most=BARS[program]), memory)


def linear(runs: int, calls: int = MILLION) -> list[Record]:
    """Compare the cost of a call among very many with that among 50,000, and of both the garbage collector's part."""
    many, few = Series(calls, TWO), Series(BASE, ("pooled",))
    seen: dict[str, list[dict[str, float]]] = {program: [] for program in ("few", *TWO)}
    for _ in range(runs):
        seen["few"] += rounds(few, 1)["pooled"]
        for program, took in rounds(many, 1).items():
            seen[program] += took
    pairs = list(zip(seen["few"], seen["pooled"], strict=True))
    ratio = statistics.median(other["cpu_us"] / one["cpu_us"] for one, other in pairs)
    without = (((one["cpu_us"] - one["gc_us"]), (other["cpu_us"] - other["gc_us"])) for one, other in pairs)
    figures = {
        "ratio": ratio,
        "ratio_without_gc": statistics.median(other / one for one, other in without),
        "few_cpu_us": statistics.median(one["cpu_us"] for one, _ in pairs),
        "few_gc_us": statistics.median(one["gc_us"] for one, _ in pairs),
        "many_gc_us": statistics.median(other["gc_us"] for _, other in pairs),
        "runs": float(runs),
    }
    bars = (Bar(f"CPU a call of {calls:,}, of that of {BASE:,}", ratio, most=LINEAR_BAR),) if runs >= ENOUGH else ()
    return [*summed(many, seen), Record(f"linear: {calls:,} beside {BASE:,}", figures, bars)]


def results(*, runs: int = 5, quick: bool = False, only: Iterable[str] = ()) -> list[Record]:
    """Measure the named cases, or all; `quick` a few of them at a smaller size."""
    if quick:
        return [record for series in QUICK for record in compare(series, runs)]
    names = list(only) or [*CASES, "linear"]
    records = [record for name in names for series in CASES.get(name, ()) for record in compare(series, runs)]
    return [*records, *(linear(runs) if "linear" in names else [])]


def table(records: Sequence[Record]) -> str:
    """Draw the table, and under it what is linear in the number of calls."""
    head = "calls, program", "CPU us a call", "of the floor's", "collector us", "peak MB", "bytes more a call"
    rows = [
        (
            record.case,
            f"{record.number('cpu_us'):.1f}",
            f"{record.number('ratio'):.2f}",
            f"{record.number('gc_us'):.1f}",
            f"{record.number('peak') / 1e6:.0f}",
            f"{record.number('more_bytes'):.0f}",
            f"{record.number('wall_s'):.1f}",
            f"{(record.number('received') + record.number('sent')) / record.number('calls'):,.0f}",
            f"{record.number('requests'):.0f}",
            f"{record.number('runs'):.0f}",
        )
        for record in records
        if "cpu_us" in record.figures
    ]
    text = markdown((*head, "s", "bytes on the wire a call", "HTTP requests", "runs"), rows) + f"\n\n{LEGEND}"
    for record in records:
        if "ratio_without_gc" in record.figures:
            few, many = (f"{record.number(name):.1f}" for name in ("few_gc_us", "many_gc_us"))
            text += (
                f"\n\n{record.case}: {record.number('ratio'):.2f} times the CPU a call, which was "
                f"{record.number('few_cpu_us'):.1f} us among fewer. The garbage collector takes {few} and {many} us: "
                f"without it {record.number('ratio_without_gc'):.2f} times; {of_runs(record.number('runs'))}."
            )
    return text


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw the cost of a call in each case, and how it grows with their number."""
    cases = [record for record in records if "cpu_us" in record.figures]
    bars = [(record.case, record.number("cpu_us"), f"{record.number('ratio'):.2f}") for record in cases]
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in sorted(cases, key=lambda record: record.number("calls")):
        if (program := record.case.split(" ", 1)[1]) in EVERY:
            lines.setdefault(program, []).append((record.number("calls"), record.number("cpu_us")))
    one, other = folder / "throughput.png", folder / "calls.png"
    charts.bars(one, "CPU us a call, and times the floor's", bars)
    charts.lines(other, "CPU us a call", "calls at once", lines)
    return [one, other]


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=[], choices=[*CASES, "linear"])
    parser.add_argument("--counts", type=int, nargs="+", default=[], help="floor and pool, at these numbers of calls")
    parser.add_argument("--uvloop", action="store_true", help="with --counts: on uvloop")
    options = parser.parse_args()
    words = ("uvloop",) if options.uvloop else ()
    if options.counts:
        records = [record for count in options.counts for record in compare(Series(count, EVERY, words), options.runs)]
    else:
        records = results(runs=options.runs, only=options.cases)
    show(records, table)


if __name__ == "__main__":
    main()
