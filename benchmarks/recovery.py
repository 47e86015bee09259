"""How long it takes, and how much memory, to open a journal in which up to a million requests are under way.

    python -m benchmarks.recovery [--counts 10000 100000 1000000] [--runs 5]

Folder and measured pool have processes of their own. What is measured ends when the pool is open: everything is told to
the engine, and the checks of the batches are on their way.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
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
from .records import Bar, Record, markdown, middle, say, show
from .serving import served

TIME_BAR = 5.0  # seconds
MEMORY_BAR = 1_024  # bytes a request
LANE = Lane(workload.ENDPOINT, workload.MODEL)
FEW = 20_000
COUNTS = (10_000, 100_000, 1_000_000)
BATCH = 50_000  # requests in a batch, at most
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


def results(*, runs: int = 5, quick: bool = False, counts: Sequence[int] = COUNTS) -> list[Record]:
    """Recover so many requests, of which a batch holds 50,000 at most."""
    records = []
    for count in (FEW,) if quick else counts:
        batches = 4 if quick else max(1, count // BATCH)
        middle_ = middle([measure(count, batches) for _ in range(runs)])
        figures = {**middle_, "bytes": middle_["peak"] / count, "batches": float(batches), "requests": float(count)}
        records.append(Record(f"{count:,} in {batches} batches", figures, bars(middle_, count)))
        say(f"recovery of {records[-1].case}: {figures['seconds']:.2f} s, {figures['bytes']:.0f} bytes a request")
    return records


def bars(figures: dict[str, float], requests: int) -> tuple[Bar, ...]:
    """Hold a recovery to its bars; among few requests, what is there once counts for more than they do."""
    if requests < FEW:
        return ()
    return (
        Bar("seconds", figures["seconds"], most=TIME_BAR),
        Bar("bytes a request at the peak", figures["peak"] / requests, most=MEMORY_BAR),
    )


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    rows = [(record.case, f"{record.number('seconds'):.2f}", f"{record.number('bytes'):.0f}") for record in records]
    return markdown(("requests recovered", "seconds", "bytes a request at the peak"), rows)


def main() -> None:
    """Print what it took; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--requests", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=["fill", "open"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "fill":
        asyncio.run(fill(options.folder, options.url, options.requests, options.batches))
    elif options.part == "open":
        asyncio.run(open_(options.folder, options.url))
    else:
        show(results(runs=options.runs, counts=options.counts), table)


if __name__ == "__main__":
    main()
