"""Soak two services in requests, restarts and faults, and see that nothing is lost, billed twice or grows.

    python -m benchmarks.soak [--minutes 10] [--rate 50] [--seed 0] [--keep FOLDER]

Provider, services and clients are processes of their own, over real sockets. One service is restarted all along, by
turns killed and told to leave; the other in the first minutes only, so that its memory and descriptors can be compared
from minute 2 to the end. Exit code 1 when a bar is missed.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from .clients import Clients
from .plan import NAMES, Plan
from .report import Seen, bars, lines
from .services import Restarter, Sample, Service, watch


async def soak(plan: Plan, folder: Path) -> Seen:
    """Run a soak; journal and logs stay in the folder."""
    async with _provided(plan) as provider:
        logs = {name: folder / f"{name}.log" for name in NAMES}
        services = [Service(plan, name, provider.url, folder / "journal", logs[name]) for name in NAMES]
        try:
            seen = await _watched(plan, services)
        finally:
            for service in services:
                service.kill()
        books = await provider.tell()
    return replace(seen, books=books, logs={name: log.read_text() for name, log in logs.items()})


async def _watched(plan: Plan, services: list[Service]) -> Seen:
    addresses = dict(zip(NAMES, await asyncio.gather(*(service.start() for service in services)), strict=True))
    clients, restarter, samples = Clients(plan, addresses), Restarter(services, addresses), list[Sample]()
    began = time.time()
    watching = asyncio.create_task(watch(services, samples, min(1.0, plan.seconds / 60)))
    restarting = asyncio.create_task(restarter.run(plan.restarts()))
    await clients.run(time.monotonic() + plan.seconds + plan.after)
    watching.cancel()
    await restarting
    last = await asyncio.gather(*(service.stop(signal.SIGTERM) for service in services))
    return Seen(plan, began, clients.tally, restarter.endings, last, samples)


class _Provider(NamedTuple):
    process: asyncio.subprocess.Process
    url: str

    async def tell(self) -> dict[str, Any]:
        """End it, and give what its books tell."""
        told, _ = await self.process.communicate(b"")  # without any, its standard input stays open
        books: dict[str, Any] = json.loads(told)
        return books


@asynccontextmanager
async def _provided(plan: Plan) -> AsyncIterator[_Provider]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.soak.provider", plan.text),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield _Provider(process, (await process.stdout.readline()).decode().strip())
    finally:
        if process.returncode is None:
            process.kill()


def run(plan: Plan, keep: Path | None = None) -> Seen:
    """Run a soak in a folder that goes with it, unless it is to be kept."""
    folder = keep or Path(tempfile.mkdtemp(prefix="carpool-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        signal.signal(signal.SIGTERM, _interrupt)  # so that nothing is left running
        return asyncio.run(soak(plan, folder))
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Print what was seen; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave journal and logs in this folder")
    options = parser.parse_args()
    seen = run(Plan(options.minutes, options.rate, options.seed), options.keep)
    if options.keep is not None:
        (options.keep / "samples.json").write_text(json.dumps(seen.samples))
    print(*lines(seen), sep="\n")
    held = bars(seen)
    print(*(f"{'kept  ' if bar.kept else 'MISSED'} {bar.name}" for bar in held), sep="\n")
    sys.exit(not all(bar.kept for bar in held))


if __name__ == "__main__":
    main()
