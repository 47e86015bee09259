"""A process that dies, and whose successor dies over the recovery: in one thread, on virtual time."""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from crash_child import Asked, count, program
from crash_kit import LIMITS, SETTING, audit, inspect, is_good, stride
from virtual import Site, run_here, site

import carpool
from carpool.settings import Ports

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3_600)]

ASKED = program(1)
TIMING = carpool.Timing(linger=0.02, max_linger=1, poll_min=0.02, poll_max=0.1, lookup=0.5)
STEP = 31
SECOND = 4  # deaths of the second process that are tried after each death of the first


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class PowerOff(Exception):
    """Answer whatever a dead process still tries."""


class Power:
    """Count what is done to the world, and let nothing more be done after so much of it; 0 is no end."""

    def __init__(self, transport: httpx2.AsyncBaseTransport, off_after: int = 0) -> None:
        self._off_after = off_after
        self._done = 0
        self.off = anyio.Event()
        self.ports = Ports(run_sync=self.run_sync, transport=_Wires(transport, self.use))

    def use(self) -> None:
        """Count one thing more."""
        if self.off.is_set():
            raise PowerOff
        self._done += 1
        if self._done == self._off_after:
            self.off.set()
            raise PowerOff

    async def run_sync(self, func: Callable[..., Any], /, *args: object) -> Any:
        """Run a blocking function: all that is done to files and the database is done here."""
        self.use()
        return await run_here(func, *args)


class _Wires(httpx2.AsyncBaseTransport):
    """Count each exchange twice: before it, and when the server has processed it."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, use: Callable[[], None]) -> None:
        self._inner = inner
        self._use = use

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._use()
        response = await self._inner.handle_async_request(request)
        self._use()
        return response


class Machine:
    """Start one process after another on a journal's folder."""

    def __init__(self, at: Site, connections: list[sqlite3.Connection]) -> None:
        self._at = at
        self._connections = connections

    async def die(self, *instants: int) -> tuple[bool, bool, list[str]]:
        """Let one process after another die at these instants, and then one live.

        Gives whether the first and the last of them outlived theirs, and what was wrong.
        """
        lives = [await self.live(instant) for instant in (*instants, 0)]
        found = [line for _, wrong in lives for line in wrong]
        found += [*audit(self._at.emulator.books(), ASKED), *inspect(self._at.folder)]
        return lives[0][0], lives[-2][0], found

    async def live(self, off_after: int = 0) -> tuple[bool, list[str]]:
        """Run the program until it ends or its power goes off; gives whether it ended, and what was wrong."""
        power = Power(self._at.transport, off_after)
        wrong: list[str] = []
        ended = False

        async def main() -> None:
            nonlocal ended
            try:
                async with carpool.Pool(
                    "sk-crash",
                    "http://emulator/v1",
                    journal=self._at.folder,
                    timing=TIMING,
                    limits=LIMITS,
                    counter=count,
                    _ports=power.ports,
                ) as pool:
                    wrong.extend(await self._ask(pool))
                ended = not power.off.is_set()
            except PowerOff:
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(main)
            await power.off.wait()
            tasks.cancel_scope.cancel()
        self._die()
        return ended, wrong if ended else []

    async def _ask(self, pool: carpool.Pool) -> list[str]:
        wrong: list[str] = []

        async def ask(asked: Asked) -> None:
            try:
                answer = (await pool.request(asked.endpoint, asked.body)).text
            except carpool.CarpoolError as exc:
                answer = type(exc).__name__
            if answer != (asked.text if is_good(asked.text) else "RequestRejected"):
                wrong.append(f"{asked.text!r} was answered {answer!r}")

        async with anyio.create_task_group() as tasks:
            for wave in range(2):
                for asked in ASKED:
                    if asked.wave == wave:
                        tasks.start_soon(ask, asked)
                await anyio.sleep(0.06)
        return wrong

    def _die(self) -> None:
        """Do what a death does: the kernel closes whatever the process had open."""
        locks = {(status.st_dev, status.st_ino) for status in map(os.stat, self._at.folder.glob("*.lock"))}
        for descriptor in map(int, os.listdir("/dev/fd")):
            try:
                status = os.fstat(descriptor)
            except OSError:
                continue  # that of the listing itself
            if (status.st_dev, status.st_ino) in locks:
                os.close(descriptor)
        for connection in self._connections:
            connection.close()
        self._connections.clear()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Keep the connections that are opened, to be closed when their process dies; of which nobody need hear."""
    monkeypatch.setattr(logging.getLogger("carpool"), "disabled", True)
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def spy(*args: Any, **more: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **more))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", spy)
    return opened


def deaths() -> Iterator[int]:
    """Give when the first process dies: all instants in turn, or some of them."""
    instant = 1
    while True:
        yield instant
        instant += stride()


async def test_killed_again_during_the_recovery(tmp_path: Path, connections: list[sqlite3.Connection]) -> None:
    wrong: list[str] = []
    for first in deaths():
        lived = await _die_twice(tmp_path, connections, first, wrong)
        if lived:
            break
    assert not wrong, "\n".join(wrong)


async def _die_twice(tmp_path: Path, connections: list[sqlite3.Connection], first: int, wrong: list[str]) -> bool:
    """Let the first process die at an instant, and the second at some; gives whether the first outlived it."""
    lived = False
    for second in range(1 + first % STEP, STEP * SECOND, STEP):
        async with site(tmp_path / f"{first}-{second}", **SETTING) as at:
            lived, ended, found = await Machine(at, connections).die(first, second)
            wrong += [f"died at {first}, again at {second}: {line}" for line in found]
        if lived or ended:
            break
    return lived


async def test_killed_while_listings_lag(tmp_path: Path, connections: list[sqlite3.Connection]) -> None:
    wrong: list[str] = []
    for first in deaths():
        async with site(tmp_path / str(first), **SETTING, listing_lag=0.2) as at:
            lived, _, found = await Machine(at, connections).die(first)
            wrong += [f"died at {first}: {line}" for line in found]
        if lived:
            break
    assert not wrong, "\n".join(wrong)
