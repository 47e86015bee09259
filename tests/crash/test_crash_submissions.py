"""What was submitted is answered, once, and given until it is acked, at whatever instant processes die."""

import os
import sqlite3
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from crash_kit import inspect
from crash_power import Power, PowerOff, keep_connections, let_go
from crash_submitter import CHAT, body
from virtual import Site, site

import carpool
from carpool.testing import Answer, Emulator, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3_600)]

FIRST, SECOND = ("a", "b", "bad"), ("c", "d")  # what is submitted at once, and when something was answered
TEXTS = {*FIRST, *SECOND}
TIMING = carpool.Timing(linger=0.02, max_linger=1, poll_min=0.02, poll_max=0.1, lookup=0.5)
SETTING: dict[str, Any] = {"pace": Pace(validating=0.01, running=0.03)}
QUIET = 5.0  # seconds without an outcome, after which there is none
SAMPLED = 47  # without CARPOOL_CRASH, one instant in so many is tried


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    return keep_connections(monkeypatch)


def instants() -> Iterator[int]:
    """Give when a process dies: at all instants in turn, or at some of them."""
    step = SAMPLED if "CARPOOL_CRASH" not in os.environ else 1
    instant = 1 + zlib.crc32(os.environ["PYTEST_CURRENT_TEST"].encode()) % step
    while True:
        yield instant
        instant += step


def answer(endpoint: str, given: dict[str, Any]) -> Any:
    text = given["messages"][0]["content"]
    if text == "bad":
        return Answer(400, {"error": {"message": "no", "code": "nothing"}})
    return {"choices": [{"message": {"content": text}}]}


class Service:
    """Start one process after another on a journal's folder, each of which submits, and takes outcomes."""

    def __init__(self, at: Site, connections: list[sqlite3.Connection]) -> None:
        self._at = at
        self._connections = connections
        self._promised: dict[str, str] = {}  # what `submit` gave, to whatever process
        self._given = Counter[str]()
        self.wrong: list[str] = []

    async def live(self, off_after: int = 0) -> bool:
        """Live until nothing comes any more, or the power goes off; gives whether it did not."""
        power = Power(self._at.transport, off_after)
        ended = False

        async def main() -> None:
            nonlocal ended
            settings: dict[str, Any] = {"journal": self._at.folder, "timing": TIMING, "_ports": power.ports}
            try:
                async with carpool.Pool("sk-crash", "http://emulator/v1", progress=False, **settings) as pool:
                    await self._work(pool)
                ended = not power.off.is_set()
            except* PowerOff:
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(main)
            await power.off.wait()
            tasks.cancel_scope.cancel()
        let_go(self._at.folder, self._connections)
        return ended

    async def _work(self, pool: carpool.Pool) -> None:
        await self._submit_all(pool, FIRST)
        more = True
        async with pool.outcomes() as outcomes:
            while True:
                with anyio.move_on_after(QUIET) as scope:
                    outcome = await anext(outcomes, None)
                if scope.cancelled_caught or outcome is None:
                    break
                self._take(outcome)
                if more:
                    more = False
                    await self._submit_all(pool, SECOND)
        if more:
            await self._submit_all(pool, SECOND)

    async def _submit_all(self, pool: carpool.Pool, texts: tuple[str, ...]) -> None:
        async with anyio.create_task_group() as tasks:
            for text in texts:
                if text not in self._promised:  # what was promised once is not submitted again
                    tasks.start_soon(self._submit, pool, text)

    async def _submit(self, pool: carpool.Pool, text: str) -> None:
        self._promised[text] = await pool.submit(CHAT, body(text), key=text)

    def _take(self, outcome: carpool.Outcome) -> None:
        text = outcome.key or ""
        said = outcome.result().text if outcome.ok else type(outcome.error).__name__
        if said != ("RequestRejected" if text == "bad" else text):
            self.wrong.append(f"{text!r} was answered {said!r}")
        if self._promised.setdefault(text, outcome.custom_id or "") != outcome.custom_id:
            self.wrong.append(f"{text!r} came as {outcome.custom_id}, and was promised as {self._promised[text]}")
        self._given[text] += 1
        outcome.ack()

    async def check(self) -> None:
        """See, when a process has lived to its end, that everything was given, and that nothing is left."""
        books = self._at.emulator.books()
        self.wrong += [f"{text!r} was never given" for text in TEXTS - self._given.keys()]
        self.wrong += [f"{text!r} ran {n} times" for text in TEXTS if (n := books.times(body(text))) != 1]
        given = self._given.copy()
        await self.live()
        self.wrong += [f"{text!r} was given again when it was acked" for text in self._given - given]
        self.wrong += [*inspect(self._at.folder), *(f"{file.filename} is left" for file in books.files)]


async def test_processes_die_one_after_another(tmp_path: Path, connections: list[sqlite3.Connection]) -> None:
    wrong: list[str] = []
    lived = False
    for first in instants():
        async with site(tmp_path / str(first), **SETTING, answer=answer) as at:
            service = Service(at, connections)
            lived = await service.live(first)
            second = 1 + 13 * first % 60
            died_again = not lived and not await service.live(second)
            while not await service.live():
                pass
            await service.check()
            again = f", again at {second}" if died_again else ""
            wrong += [f"died at {first}{again}: {line}" for line in service.wrong]
        if lived:
            break
    assert not wrong, "\n".join(wrong)


def test_two_processes_submit_the_same_and_are_killed(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_submitter.py")
    with Emulator(**SETTING) as served:
        command = [sys.executable, str(script), served.url, str(tmp_path / "journal"), "100"]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        try:
            said = [[*iter(child.stdout.readline, "all\n")] for child in children if child.stdout is not None]
        finally:
            for child in children:
                child.kill()
                child.communicate()
        promised = [dict(line.split() for line in lines) for lines in said]
        assert promised[0] == promised[1]
        assert len({*promised[0].values()}) == 100
        assert anyio.run(_take_all, served.url, tmp_path / "journal", 100) == promised[0]
        assert {*served.books().bodies.values()} == {1}
        assert served.books().times(body("text-7")) == 1


async def _take_all(url: str, folder: Path, count: int) -> dict[str, str]:
    taken: dict[str, str] = {}
    async with carpool.Pool("sk-crash", url, journal=folder, timing=TIMING, progress=False) as pool:
        async for outcome in pool.outcomes():
            assert outcome.key is not None
            assert outcome.custom_id is not None
            assert outcome.result().text == outcome.key
            taken[outcome.key] = outcome.custom_id
            outcome.ack()
            if len(taken) == count:
                break
    return taken
