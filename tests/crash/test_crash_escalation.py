"""A process that dies while calls are sent live: whatever the next one does, none is sent live or billed twice."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from crash_kit import stride
from crash_power import Power, PowerOff, keep_connections, let_go
from virtual import CHAT, Site, body, site

import carpool
from carpool.testing import Pace, echo

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3_600)]

TIMING = carpool.Timing(linger=0.1, max_linger=1, poll_min=0.5, poll_max=2, lookup=0.5)
# Some ride together, two run where there is room for two, two stand in line, others wait.
TEXTS = [*((f"free {number}", "free") for number in range(4)), *((f"tight {number}", "tight") for number in range(6))]
SECOND = (7, 31, 83)  # instants at which the second process dies


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    return keep_connections(monkeypatch)


async def think(endpoint: str, given: dict[str, Any]) -> bytes:
    await anyio.sleep(0.2)
    return echo(endpoint, given)


class Machine:
    """Start one process after another on a journal's folder; each asks for what its predecessors were not told."""

    def __init__(self, at: Site, connections: list[sqlite3.Connection]) -> None:
        self._at = at
        self._connections = connections
        self.told: dict[str, carpool.Response | carpool.CarpoolError] = {}

    async def live(self, off_after: int = 0) -> bool:
        """Run the program until it ends or its power goes off; gives whether it ended."""
        power = Power(self._at.transport, off_after)
        ended = False

        async def main() -> None:
            nonlocal ended
            try:
                async with (
                    carpool.Pool(
                        "sk-crash",
                        "http://emulator/v1",
                        journal=self._at.folder,
                        timing=TIMING,
                        limits={"tight": 20},
                        counter=lambda *_: 10,
                        timeout=8,
                        escalate="live",
                        _ports=power.ports,
                    ) as pool,
                    anyio.create_task_group() as asking,
                ):
                    for text, model in TEXTS:
                        if text not in self.told:
                            asking.start_soon(self._ask, pool, text, model, power)
                ended = not power.off.is_set()
            except PowerOff:
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(main)
            await power.off.wait()
            tasks.cancel_scope.cancel()
        let_go(self._at.folder, self._connections)
        return ended

    async def _ask(self, pool: carpool.Pool, text: str, model: str, power: Power) -> None:
        outcome: carpool.Response | carpool.CarpoolError
        try:
            outcome = await pool.request(CHAT, body(text, model=model))
        except carpool.CarpoolError as exc:
            outcome = exc
        if not power.off.is_set():
            self.told[text] = outcome

    def judge(self, *, to_the_end: bool) -> list[str]:
        """Say what is wrong."""
        books = self._at.emulator.books()
        wrong = []
        for text, model in TEXTS:
            told, given = self.told.get(text), body(text, model=model)
            if books.times(given) > 1:
                wrong.append(f"{text!r} ran {books.times(given)} times")
            if isinstance(told, carpool.Response) and told.text != text:
                wrong.append(f"{text!r} was answered {told.text!r}")
            if isinstance(told, carpool.CarpoolError) and not isinstance(told, carpool.RequestExpired):
                wrong.append(f"{text!r} came to {told!r}")
            if to_the_end and told is None:
                wrong.append(f"{text!r} was never told")
        if max(books.live_bodies.values(), default=0) > 1:
            wrong.append("a call was sent live twice")
        return wrong


def deaths() -> Iterator[int]:
    """Give when the first process dies: all instants in turn, or some of them."""
    instant = 1
    while True:
        yield instant
        instant += max(1, stride() // 20)


async def test_killed_around_an_escalation(tmp_path: Path, connections: list[sqlite3.Connection]) -> None:
    wrong: list[str] = []
    sent = 0
    for first in deaths():
        async with site(tmp_path / f"{first}", answer=think, pace=Pace(running=7)) as at:
            machine = Machine(at, connections)
            lived = await machine.live(first)
            found = machine.judge(to_the_end=False)
            if not lived:
                await machine.live(SECOND[first % len(SECOND)])
            await machine.live()
            found += machine.judge(to_the_end=True)
            wrong += [f"died at {first}: {line}" for line in found]
            sent += at.emulator.books().live
        if lived:
            break
    assert not wrong, "\n".join(wrong)
    assert sent > 10
