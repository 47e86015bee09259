"""What a hook is told at the end, where asyncio runs an event loop by itself: its callbacks are in no task then."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from virtual import CHAT, InMemory, Interrupted, VirtualLoop, body, run_here, world

import carpool
from carpool.settings import Ports
from carpool.testing import Emulator, Pace


def run(main: Callable[[], Awaitable[None]]) -> list[dict[str, Any]]:
    """Run it as `asyncio.run` does; gives what the event loop complained of."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(watched())
    return complaints


@pytest.mark.parametrize("way", ["closed", "drained", "left"])
def test_a_pool_that_ends_ends_quietly(way: str) -> None:
    log: list[carpool.Event] = []

    async def main() -> None:
        with suppress(Interrupted):
            async with world(pool={"on_event": log.append}) as w:
                await w.ask("one")
                if way == "drained":
                    await w.pool.drain(5)
                elif way == "left":
                    raise Interrupted

    assert run(main) == []
    assert [event.kind for event in log].count("closed") == 1
    assert log[-1].kind == "closed"


def test_a_pool_that_nobody_closes_tells_of_its_end_when_its_event_loop_ends() -> None:
    log: list[carpool.Event] = []
    kept: list[object] = []

    async def main() -> None:
        async with Emulator(pace=Pace(running=1_000)).inline() as served:
            ports = Ports(run_sync=run_here, transport=InMemory(served.app))
            pool = carpool.Pool("sk-key", "http://emulator/v1", _ports=ports, progress=False, on_event=log.append)
            await pool.start()
            call = asyncio.ensure_future(pool.request(CHAT, body("one")))
            await asyncio.sleep(60)
            kept.extend((pool, call))

    assert run(main) == []
    assert [event.kind for event in log][-3:] == ["left", "given_up", "closed"]
