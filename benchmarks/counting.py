"""What an enqueued-token limit costs: far away, and so near that every text is counted, beside tiktoken alone.

    python -m benchmarks.counting [--runs 5] [--count 50000]

Each program runs in a process of its own. tiktoken's own time is that of encoding the same texts, and of loading the
vocabulary, which the pool does too when it first counts.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from . import workload
from .records import Bar, Record, markdown, of_runs, say, show
from .throughput import measure

FAR_BAR = 1.1  # times the CPU without a limit
NEAR_BAR = 1.15  # times tiktoken's own, for what counting adds
TOKENS = 202  # of one call of the workload, about
FAR = 10**10


def tiktoken_alone(count: int) -> float:
    """Give the CPU time, in microseconds a call, that tiktoken takes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.counting", "--count", str(count), "--alone"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def alone(count: int) -> float:
    """Load the vocabulary and encode the texts of so many calls."""
    import tiktoken

    texts = [message["content"] for number in range(count) for message in workload.payload(number)["messages"]]
    begin = time.process_time()
    encode = tiktoken.get_encoding("o200k_base").encode_ordinary
    for text in texts:
        encode(text)
    return (time.process_time() - begin) / count * 1e6


def results(*, runs: int = 5, quick: bool = False, count: int = 50_000) -> list[Record]:
    """Measure by turns; ratios are medians of those of each run."""
    count = min(count, 10_000) if quick else count
    limits = {"no limit": None, "far limit": FAR, "near limit": TOKENS * count // 2}
    seen: dict[str, list[float]] = {name: [] for name in (*limits, "tiktoken alone")}
    for run in range(runs):
        for name, limit in limits.items():
            seen[name].append(measure("pooled", count, *(() if limit is None else (f"limit={limit}",)))["cpu_us"])
        seen["tiktoken alone"].append(tiktoken_alone(count))
        say(f"{run + 1} of {runs}: " + ", ".join(f"{name} {figures[-1]:.1f} us" for name, figures in seen.items()))
    none_, far, near, own = seen.values()
    ratio = statistics.median(one / other for one, other in zip(far, none_, strict=True))
    added = statistics.median((one - base) / other for one, base, other in zip(near, none_, own, strict=True))
    bars = {
        "far limit": (Bar("CPU, of that without a limit", ratio, most=FAR_BAR),),
        "near limit": (Bar("CPU that counting adds, of tiktoken's own", added, most=NEAR_BAR),),
    }
    calls: dict[str, float] = {"calls": count, "runs": runs}
    return [
        Record(name, {"cpu_us": statistics.median(figures), **calls}, () if quick else bars.get(name, ()))
        for name, figures in seen.items()
    ]


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    rows = [(record.case, f"{record.number('cpu_us'):.1f}") for record in records]
    calls, runs = records[0].number("calls"), records[0].number("runs")
    return markdown((f"{calls:,.0f} calls, {of_runs(runs)}", "CPU us a call"), rows)


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(alone(options.count))
        return
    show(results(runs=options.runs, count=options.count), table)


if __name__ == "__main__":
    main()
