"""`carpool run` over a large file, beside the straight line: CPU, memory, and what is left of it after three kills.

    python -m benchmarks.filerun [--count 1000000] [--kills 3]

The emulator runs in a process of its own, the command in another. Memory is what the system says of that process, four
times a second; it is flat where its peak behind the first tenth is not above that within it by more than a tenth. Then
the same file again, killed at random moments and started anew: the output must hold each row once, and the emulator's
books show each body run once.
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
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import workload
from .throughput import measure, served

PEAK_BAR = 400e6  # bytes
FLAT = 1.1  # times the peak of the first tenth
_CARPOOL = Path(sys.executable).with_name("carpool")


class Run(NamedTuple):
    """Say what one run of the command took, in seconds and bytes."""

    exit_code: int
    cpu: float
    wall: float
    peak: int
    samples: list[tuple[int, int]]


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
    samples: list[tuple[int, int]] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(process, output, samples, over, kill_at))
    watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watch.join()
    unit = 1 if sys.platform == "darwin" else 1024
    cpu = usage.ru_utime + usage.ru_stime
    return Run(process.returncode, cpu, time.monotonic() - began, usage.ru_maxrss * unit, samples)


def _watch(
    process: "subprocess.Popen[bytes]",
    output: Path,
    samples: list[tuple[int, int]],
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
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            samples.append((written, pages * os.sysconf("SC_PAGE_SIZE")))


def flatness(samples: list[tuple[int, int]], size: int) -> tuple[int, int]:
    """Give the peak of memory while the first tenth was written, and of what came after."""
    early = [resident for written, resident in samples if written <= size / 10]
    late = [resident for written, resident in samples if written > size / 10]
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
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for turn in range(kills):
            seen = run(source, output, url, kill_at=(turn + random.random()) / kills * size)
            if seen.exit_code != -signal.SIGKILL:
                raise AssertionError(f"it ended with {seen.exit_code} before it was killed")
            print(
                f"killed after {seen.wall:.0f} s, {output.stat().st_size / size:.0%} of the output written", flush=True
            )
        last = run(source, output, url)
        if last.exit_code:
            raise AssertionError(f"it ended with {last.exit_code}")
        told, _ = server.communicate()
    print(f"went on to the end in {last.wall:.0f} s; bodies, by how often they were run: {told.strip()}")
    if set(json.loads(told)) != {"1"}:
        raise AssertionError("some bodies were run more than once, and paid for")


def compare(source: Path, output: Path, count: int) -> bool:
    """Measure the command beside the floor; gives whether it keeps its bars."""
    floor = measure("floor", count)
    with served() as url:
        seen = run(source, output, url)
    if seen.exit_code:
        raise AssertionError(f"it ended with {seen.exit_code}")
    check(output, count)
    early, late = flatness(seen.samples, output.stat().st_size)
    cpu = seen.cpu / count * 1e6
    print("| rows | CPU us a row | of the floor's | peak MB | peak MB in the first tenth, and after it | s |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {count:,}, the floor | {floor['cpu_us']:.1f} | 1.00 | {floor['peak'] / 1e6:.0f} | | {floor['wall_s']:.0f} |"
    )
    print(
        f"| {count:,}, carpool run | {cpu:.1f} | {cpu / floor['cpu_us']:.2f} | {seen.peak / 1e6:.0f} "
        f"| {early / 1e6:.0f}, {late / 1e6:.0f} | {seen.wall:.0f} |",
        flush=True,
    )
    return cpu <= floor["cpu_us"] and seen.peak <= PEAK_BAR and late <= FLAT * early


def main() -> None:
    """Print the figures; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "requests.jsonl"
        write_input(source, options.count)
        kept = compare(source, folder / "answers.jsonl", options.count)
        if options.kills:
            size = (folder / "answers.jsonl").stat().st_size
            shutil.rmtree(folder / "answers.jsonl.carpool")
            killed(source, folder / "again.jsonl", size, options.kills)
            check(folder / "again.jsonl", options.count)
    print(f"bars: the floor's CPU, {PEAK_BAR / 1e6:.0f} MB, flat within a tenth: {'kept' if kept else 'MISSED'}")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
