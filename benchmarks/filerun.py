"""`carpool run` over a large file, beside the straight line: CPU, memory, and what is left of it after three kills.

    python -m benchmarks.filerun [--count 1000000] [--kills 3]

The emulator runs in a process of its own, the command in another. Memory is what the system says of that process, four
times a second; so a peak in its last quarter of a second is not seen. It is flat where its peak behind the first tenth
is not above that within it by more than a tenth. Then the same file again, killed at random moments and started anew:
the output must hold each row once, and the emulator's books show each body run once.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from . import workload
from .records import Bar, Record, markdown, say, show
from .serving import serve
from .throughput import measure

PEAK_BAR = 400e6  # bytes
FLAT = 1.1  # times the peak of the first tenth
_CARPOOL = Path(sys.executable).with_name("carpool")


class Sample(NamedTuple):
    """Say how much was written, and how much memory the command had then, and had at most, in bytes."""

    written: int
    resident: int
    peak: int


class Run(NamedTuple):
    """Say what one run of the command took, in seconds and bytes."""

    exit_code: int
    cpu: float
    wall: float
    peak: int
    samples: list[Sample]


def write_input(path: Path, count: int) -> None:
    """Write so many rows of a batch file."""
    with path.open("w") as file:
        for number in range(count):
            row = {"custom_id": f"request-{number}", "method": "POST", "url": workload.ENDPOINT}
            file.write(json.dumps({**row, "body": workload.payload(number)}) + "\n")


def run(source: Path, output: Path, url: str, kill_at: float = math.inf) -> Run:
    """Run the command, and kill it when the output has grown to so many bytes."""
    env = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "any"}
    began = time.monotonic()
    process = subprocess.Popen([_CARPOOL, "run", source, "-o", output, "--quiet"], env=env)
    samples: list[Sample] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(process, output, samples, over, kill_at))
    watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watch.join()
    unit = 1 if sys.platform == "darwin" else 1024
    cpu = usage.ru_utime + usage.ru_stime
    peak = samples[-1].peak if samples else usage.ru_maxrss * unit  # see workload.peak
    return Run(process.returncode, cpu, time.monotonic() - began, peak, samples)


def _watch(
    process: "subprocess.Popen[bytes]",
    output: Path,
    samples: list[Sample],
    over: threading.Event,
    kill_at: float,
) -> None:
    """Note how much of the output there is, and how much memory is in use."""
    while not over.wait(0.25):
        written = output.stat().st_size if output.exists() else 0
        if written >= kill_at:
            os.kill(process.pid, signal.SIGKILL)
            return
        with suppress(OSError, IndexError):  # it has ended
            samples.append(Sample(written, *(workload.status(name, process.pid) for name in ("VmRSS", "VmHWM"))))


def flatness(samples: list[Sample], size: int) -> tuple[int, int]:
    """Give the peak of memory while the first tenth was written, and of what came after."""
    early = [sample.resident for sample in samples if sample.written <= size / 10]
    late = [sample.resident for sample in samples if sample.written > size / 10]
    return max(early, default=0), max(late, default=0)


def check(output: Path, count: int) -> None:
    """Make sure that each row stands there once, in order, with its own answer."""
    number = -1
    with output.open() as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            text = row["response"]["body"]["choices"][0]["message"]["content"]
            if row["custom_id"] != f"request-{number}" or not text.startswith(f"{number} "):
                raise AssertionError(f"row {number} is {line[:120]!r}")
    if number + 1 != count:
        raise AssertionError(f"{number + 1} rows of {count}")


def killed(source: Path, output: Path, size: int, kills: int) -> None:
    """Run it, killed so often, and see that each row stands there once, and that each body was run once."""
    with serve() as server:
        for turn in range(kills):
            seen = run(source, output, server.url, kill_at=(turn + random.random()) / kills * size)
            if seen.exit_code != -signal.SIGKILL:
                raise AssertionError(f"it ended with {seen.exit_code} before it was killed")
            say(f"killed after {seen.wall:.0f} s, {output.stat().st_size / size:.0%} of the output written")
        last = run(source, output, server.url)
        if last.exit_code:
            raise AssertionError(f"it ended with {last.exit_code}")
    say(f"went on to the end in {last.wall:.0f} s; bodies, by how often they were run: {server.bodies}")
    if set(server.bodies) != {"1"}:
        raise AssertionError("some bodies were run more than once, and paid for")


def compare(source: Path, output: Path, count: int) -> list[Record]:
    """Measure the command beside the floor."""
    floor = measure("floor", count)
    with serve() as server:
        seen = run(source, output, server.url)
    if seen.exit_code:
        raise AssertionError(f"it ended with {seen.exit_code}")
    check(output, count)
    early, late = flatness(seen.samples, output.stat().st_size)
    cpu = seen.cpu / count * 1e6
    bars = (
        Bar("CPU, of the floor's", cpu / floor["cpu_us"], most=1.0),
        Bar("peak MB", seen.peak / 1e6, most=PEAK_BAR / 1e6),
        Bar("peak after the first tenth, of that in it", late / max(1, early), most=FLAT),
    )
    ours = {"cpu_us": cpu, "ratio": cpu / floor["cpu_us"], "peak": seen.peak, "wall_s": seen.wall}
    theirs = {"cpu_us": floor["cpu_us"], "ratio": 1.0, "peak": floor["peak"], "wall_s": floor["wall_s"]}
    flat = {"early": float(early), "late": float(late)}
    return [
        Record(f"{count:,} rows, the floor", {**theirs, "early": None, "late": None}),
        Record(f"{count:,} rows, carpool run", {**ours, **flat}, bars),
    ]


def results(*, count: int = 1_000_000, kills: int = 3, quick: bool = False) -> list[Record]:
    """Measure a run, then kill others; raises AssertionError where a row is missing, or was paid for twice."""
    count, kills = (50_000, 1) if quick else (count, kills)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "requests.jsonl"
        write_input(source, count)
        records = compare(source, folder / "answers.jsonl", count)
        if kills:
            size = (folder / "answers.jsonl").stat().st_size
            shutil.rmtree(folder / "answers.jsonl.carpool")
            killed(source, folder / "again.jsonl", size, kills)
            check(folder / "again.jsonl", count)
    return [replace(one, bars=()) for one in records] if quick else records


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    rows = []
    for one in records:
        peaks = (
            "" if one.figures["early"] is None else f"{one.number('early') / 1e6:.0f}, {one.number('late') / 1e6:.0f}"
        )
        cells = (f"{one.number('cpu_us'):.1f}", f"{one.number('ratio'):.2f}", f"{one.number('peak') / 1e6:.0f}", peaks)
        rows.append((one.case, *cells, f"{one.number('wall_s'):.0f}"))
    head = ("1 run", "CPU us a row", "of the floor's", "peak MB", "peak MB in the first tenth, and after it", "s")
    return markdown(head, rows)


def main() -> None:
    """Print the figures; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    show(results(count=options.count, kills=options.kills), table)


if __name__ == "__main__":
    main()
