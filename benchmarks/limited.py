"""A limit ten times smaller than the work, over loopback: is it found, kept, and used?

    python -m benchmarks.limited [--rows 6000]

Pools and the emulator run in processes of their own, over real sockets; the emulator counts exactly, or otherwise. A
batch takes at least 20 times `poll_min`. The limit is unknown at the start.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import carpool

from . import workload
from .records import Bar, Record, markdown, say, show

POLL_MIN = 0.2
TURN = 20  # times `poll_min` that a batch takes, at least


@dataclass(frozen=True)
class Case:
    """Describe one run and the bars it is held to, no `utilisation` where limit and work are counted otherwise."""

    name: str
    pools: int = 1
    counts: float = 1.0
    refusals: int = 8
    utilisation: float | None = None


CASES = (
    Case("exact", refusals=1, utilisation=0.85),
    Case("counts 40 % more", counts=1.4),
    Case("counts 30 % less", counts=0.7),
    Case("two pools", pools=2, refusals=20),
)


def text(number: int) -> str:
    """Make a text of 50 to 450 tokens."""
    return " ".join(f"word{number % 7} is {place * number % 1000}" for place in range(8 + number * 37 % 80))


async def ask(url: str, poll_min: float, begin: int, end: int) -> None:
    """Await one call for each number, each from a task of its own."""
    timing = carpool.Timing(linger=0.2, poll_min=poll_min, poll_max=10 * poll_min)
    async with carpool.Pool("any", url, timing=timing) as pool:

        async def call(number: int) -> None:
            body = {"model": workload.MODEL, "messages": [{"role": "user", "content": text(number)}]}
            assert (await pool.request(workload.ENDPOINT, body)).text == text(number)

        await asyncio.gather(*(call(number) for number in range(begin, end)))


def run(case: Case, rows: int, poll_min: float = POLL_MIN) -> dict[str, Any]:
    """Run a case, whose work is ten times the limit, and give what the emulator saw."""
    from .limited_server import count

    bodies = ({"messages": [{"role": "user", "content": text(number)}]} for number in range(rows))
    limit = int(sum(map(count, bodies)) * case.counts) // 10
    setting = json.dumps({"limit": limit, "running": TURN * poll_min, "counts": case.counts})
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.limited_server", setting],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    begin = time.time()
    edges = [rows * part // case.pools for part in range(case.pools + 1)]
    commands = [
        [sys.executable, "-m", "benchmarks.limited", "--ask", url, str(poll_min), str(one), str(other)]
        for one, other in pairwise(edges)
    ]
    pools = [subprocess.Popen(command) for command in commands]
    failed = sum(pool.wait() != 0 for pool in pools)
    end = time.time()
    seen: dict[str, Any] = json.loads(server.communicate()[0])
    middle = (begin + end) / 2
    halves = sum(at < middle for at in seen["refused"]), sum(at >= middle for at in seen["refused"])
    return {**seen, "failed": failed, "seconds": end - begin, "halves": halves}


def bars(case: Case, rows: int, seen: dict[str, Any]) -> tuple[Bar, ...]:
    """Hold a run to the bars of its case."""
    first, second = seen["halves"]
    kept = (
        Bar("answered", 0 if seen["failed"] else seen["answered"], least=rows),
        Bar("refusals", first + second, most=case.refusals),
        Bar("refusals in the second half", second, most=max(0, first - 1) if case.pools > 1 else 0),
    )
    if case.utilisation is None:
        return kept
    return (*kept, Bar("utilisation", seen["utilisation"], least=case.utilisation))


def results(*, rows: int = 6_000, quick: bool = False) -> list[Record]:
    """Run all cases."""
    records = []
    rows = min(rows, 1_500) if quick else rows
    for case in CASES:
        seen = run(case, rows)
        say(f"{case.name}: {seen['seconds']:.1f} s")
        first, second = seen["halves"]
        figures = {
            "rows": rows,
            "answered": seen["answered"],
            "utilisation": seen["utilisation"],
            "refusals_first_half": first,
            "refusals_second_half": second,
            "batches": len(seen["admitted"]),
            "seconds": seen["seconds"],
        }
        records.append(Record(case.name, figures, bars(case, rows, seen)))
    return records


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    head = ("case", "answered", "utilisation", "refusals, first half", "second half", "batches", "seconds")
    rows = [
        (
            record.case,
            f"{record.number('answered'):,} of {record.number('rows'):,}",
            f"{record.number('utilisation'):.2f}",
            record.figures["refusals_first_half"],
            record.figures["refusals_second_half"],
            record.figures["batches"],
            f"{record.number('seconds'):.1f}",
        )
        for record in records
    ]
    return markdown(head, rows)


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        url, poll_min, begin, end = options.ask
        asyncio.run(ask(url, float(poll_min), int(begin), int(end)))
        return
    show(results(rows=options.rows), table)


if __name__ == "__main__":
    main()
