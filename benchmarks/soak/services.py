"""The service processes of a soak: started, stopped and started again, and watched from outside."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .plan import Plan, Restart

_PROC = Path("/proc")
_ENDS = 30.0  # seconds that a service may take to leave
# As docs advise for services: glibc gives each thread a heap of its own, none of which ever shrinks to what it holds.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


class Sample(NamedTuple):
    """Tell what a process holds: bytes of memory, and descriptors but for the connections of its clients.

    `at` counts from the beginning of the soak, `age` from the start of the process, in seconds.
    """

    name: str
    at: float
    age: float
    memory: int
    descriptors: int


class Ending(NamedTuple):
    """Tell how a process ended, how long that took in seconds, and by which signal it was told to."""

    name: str
    signal: int
    code: int | None
    took: float

    @property
    def proper(self) -> bool:
        """Tell whether it ended as it should: uvicorn, once all is done, dies of the signal that told it to leave."""
        return self.code == -self.signal or (self.signal == signal.SIGTERM and self.code == 0)


class Service:
    """Run one service in a process of its own; its log goes on in one file."""

    def __init__(self, plan: Plan, name: str, url: str, folder: Path, log: Path) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "benchmarks.soak.service", plan.text, url, str(folder)]
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0
        self._port = 0

    async def start(self) -> str:
        """Start it, wait until it serves, and give its address."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=log, env=os.environ | _ENVIRONMENT
            )
        self._started_at = time.monotonic()
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.name} service did not start:\n{self._log.read_text()[-3000:]}")
        self._port = int(line)
        return f"http://127.0.0.1:{self._port}"

    async def stop(self, by: int) -> Ending:
        """Stop it by a signal, and wait until it has ended; it is killed where it does not."""
        assert self._process is not None
        start = time.monotonic()
        self._process.send_signal(by)
        try:
            code: int | None = await asyncio.wait_for(self._process.wait(), _ENDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            code = None
        return Ending(self.name, by, code, time.monotonic() - start)

    def kill(self) -> None:
        """Kill it, if it lives."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def sample(self, begin: float) -> Sample | None:
        """Look at it; None where there is no process, or no /proc."""
        process, now = self._process, time.monotonic()
        if process is None or process.returncode is not None:
            return None
        try:
            place = _PROC / str(process.pid)
            memory = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            links = [os.readlink(place / "fd" / name) for name in os.listdir(place / "fd")]
            served = _served(place, self._port)
        except OSError:  # it has ended just now
            return None
        own = [link for link in links if link not in served]
        return Sample(self.name, now - begin, now - self._started_at, memory, len(own))


def _served(place: Path, port: int) -> set[str]:
    """Name the sockets that belong to a port: those of clients, which come and go."""
    lines = (line.split() for line in (place / "net" / "tcp").read_text().splitlines()[1:])
    return {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}")}


class Restarter:
    """Restart services as a plan says, and keep their addresses up to date."""

    def __init__(self, services: Iterable[Service], addresses: dict[str, str]) -> None:
        self._services = {service.name: service for service in services}
        self._addresses = addresses
        self.endings: list[Ending] = []

    async def run(self, restarts: Iterable[Restart]) -> None:
        """Carry out restarts, in their order."""
        begin = time.monotonic()
        for restart in sorted(restarts):
            await asyncio.sleep(max(0.0, begin + restart.at - time.monotonic()))
            await self._restart(restart)

    async def _restart(self, restart: Restart) -> None:
        service = self._services[restart.name]
        self.endings.append(await service.stop(restart.signal))
        self._addresses[restart.name] = await service.start()


async def watch(services: Iterable[Service], samples: list[Sample], pause: float) -> None:
    """Look at services from time to time until cancelled."""
    begin = time.monotonic()
    watched = list(services)
    while True:
        samples += [sample for service in watched if (sample := service.sample(begin)) is not None]
        await asyncio.sleep(pause)
