"""CPU and memory of awaited calls beside the straight line, each in a process of its own, the server in another.

    python -m benchmarks.throughput [--runs 5] [--counts 50000 200000]

Absolute figures are those of this machine and this hour; the ratios, of medians of the same run, are what counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BARS = {"pooled": 1.5, "pooled journal": 1.8}  # times the floor's CPU a call
MEMORY_BAR = 1536  # bytes a call above the floor's peak


@contextmanager
def served() -> Iterator[str]:
    """Run the emulator in a process of its own and give its URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.communicate()


def measure(program: str, count: int, *options: str) -> dict[str, float]:
    """Run a program in a process of its own, against a fresh server, and give what it printed."""
    name, *more = program.split()
    with served() as url:
        command = [sys.executable, "-m", f"benchmarks.{name}", str(count), url, *more, *options]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def compare(count: int, runs: int, *options: str) -> Iterator[tuple[str, bool]]:
    """Measure the floor and ours by turns; gives lines of the table, and whether each keeps its bars."""
    results: dict[str, list[dict[str, float]]] = {program: [] for program in ("floor", *BARS)}
    for _ in range(runs):
        for program, figures in results.items():
            figures.append(measure(program, count, *options))
    middle: dict[str, dict[str, Any]] = {
        program: {name: statistics.median(run[name] for run in figures) for name in figures[0]}
        for program, figures in results.items()
    }
    line = middle["floor"]
    for program, seen in middle.items():
        ratio = seen["cpu_us"] / line["cpu_us"]
        extra = (seen["peak"] - line["peak"]) / count
        text = (
            f"| {count:,} | {' '.join((program, *options))} | {seen['cpu_us']:.1f} | {ratio:.2f} "
            f"| {seen['peak'] / 1e6:.0f} | {extra:.0f} | {seen['wall_s']:.1f} |"
        )
        yield text, program == "floor" or (ratio <= BARS[program] and extra <= MEMORY_BAR)


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    print("| calls | | CPU us a call | of the floor's | peak MB | bytes more a call | s |")
    print("|---|---|---|---|---|---|---|")
    kept = True
    for count in options.counts:
        for line, good in compare(count, options.runs, *(["uvloop"] if options.uvloop else [])):
            print(line, flush=True)
            kept = kept and good
    bars = ", ".join(f"{program} {bar}" for program, bar in BARS.items())
    print(f"bars: {bars} of the floor's CPU, at most {MEMORY_BAR} bytes more a call: {'kept' if kept else 'MISSED'}")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
