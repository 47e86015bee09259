"""Open a journal in which a million requests are under way in twenty batches.

    python -m benchmarks.recovery [--requests 1000000] [--batches 20] [--runs 3]

Folder and measured pool have processes of their own. What is measured ends when the pool is open: everything is told to
the engine, and the checks of the batches are on their way.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from hashlib import blake2b
from pathlib import Path

import anyio.to_thread

import carpool
from carpool.account import find_account
from carpool.engine.events import Accepted, Created, Event, Packed, Uploaded
from carpool.journal import DIGEST
from carpool.journal.sqlite import Sqlite
from carpool.models import BatchStatus, Lane, Run

from . import workload
from .throughput import served

TIME_BAR = 5.0  # seconds
MEMORY_BAR = 1_024  # bytes a request
LANE = Lane(workload.ENDPOINT, workload.MODEL)
TURN = 500  # calls accepted in one turn of the event loop
SIZE = 1_100  # bytes of a line


async def fill(folder: Path, url: str, requests: int, batches: int) -> None:
    """Record requests that are all under way, as a pool does."""
    journal = await Sqlite.open(folder, find_account("any", url).name, 1e9, anyio.to_thread.run_sync)
    segment = journal.numbered + 1
    for number, start in enumerate(range(0, requests, requests // batches), 1):
        rows = [journal.numbered + row for row in range(start + 1, start + requests // batches + 1)]
        runs = [_run(segment, rows[at : at + TURN], at * SIZE) for at in range(0, len(rows), TURN)]
        key = f"{journal.pool}-b{journal.numbered + number}"
        facts: list[Event] = [Accepted(LANE, run, False, b"".join(map(_digest, run.rows))) for run in runs]
        facts.append(Packed(journal.numbered + number, LANE, (_run(segment, rows, 0),)))
        facts.append(Uploaded(key, f"file-{number}"))
        facts.append(Created(key, BatchStatus(f"batch_{number}", key, "validating", f"file-{number}")))
        await journal.record(*((time.time(), fact) for fact in facts))
        segment += 1
    await journal.aclose()


def _run(segment: int, rows: list[int], offset: int) -> Run:
    return Run(segment, offset, array("Q", rows), array("I", [SIZE]) * len(rows))


def _digest(row: int) -> bytes:
    return blake2b(b"%d" % row, digest_size=DIGEST).digest()


async def open_(folder: Path, url: str) -> None:
    """Open a pool on the folder and print what it took."""
    before, start = workload.peak(), time.perf_counter()
    pool = carpool.Pool("any", url, journal=folder)
    await pool.start()
    seconds, peak = time.perf_counter() - start, workload.peak() - before
    submitted = sum(lane.submitted for lane in pool.stats().lanes)
    print(json.dumps({"seconds": seconds, "peak": peak, "submitted": submitted}), flush=True)
    task = asyncio.create_task(pool.aclose())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


def measure(requests: int, batches: int) -> dict[str, float]:
    """Fill a folder and open it, each in a process of its own."""
    with served() as url, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.recovery", "--url", url, "--folder", f"{folder}/journal"]
        command += ["--requests", str(requests), "--batches", str(batches)]
        subprocess.run([*command, "--part", "fill"], check=True)
        result = subprocess.run([*command, "--part", "open"], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    if figures["submitted"] != requests:
        raise AssertionError(f"{figures['submitted']} of {requests} requests were recovered")
    return figures


def kept(figures: dict[str, float], requests: int) -> bool:
    """Tell whether both bars are kept."""
    return figures["seconds"] <= TIME_BAR and figures["peak"] <= MEMORY_BAR * requests


def main() -> None:
    """Print what it took; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=["fill", "open"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "fill":
        asyncio.run(fill(options.folder, options.url, options.requests, options.batches))
    elif options.part == "open":
        asyncio.run(open_(options.folder, options.url))
    else:
        runs = [measure(options.requests, options.batches) for _ in range(options.runs)]
        sys.exit(not _report(runs, options.requests, options.batches))


def _report(runs: list[dict[str, float]], requests: int, batches: int) -> bool:
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    good = kept(middle, requests)
    print(
        f"{requests:,} requests in {batches} open batches: {middle['seconds']:.2f} s (bar {TIME_BAR:g}), "
        f"{middle['peak'] / requests:.0f} bytes a request at the peak (bar {MEMORY_BAR:,}): "
        f"{'kept' if good else 'MISSED'}"
    )
    return good


if __name__ == "__main__":
    main()
