"""A process that dies, and whose successor dies over the recovery: in one thread, on virtual time."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from crash_child import Asked, count, program
from crash_kit import LIMITS, SETTING, audit, inspect, is_good, stride
from crash_power import Power, PowerOff, keep_connections, let_go
from virtual import Site, site

import carpool

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3_600)]

ASKED = program(1)
TIMING = carpool.Timing(linger=0.02, max_linger=1, poll_min=0.02, poll_max=0.1, lookup=0.5)
STEP = 31
SECOND = 4  # deaths of the second process that are tried after each death of the first


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


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
        let_go(self._at.folder, self._connections)
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


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    return keep_connections(monkeypatch)


def deaths() -> Iterator[int]:
    """Give when the first process dies: all instants in turn, or some of them."""
    instant = 1
    while True:
        yield instant
        instant += stride()


@pytest.mark.parametrize("virtual_backend", ["asyncio"], indirect=True)  # no matter of the event loop
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
