"""Progress by the pool's own door."""

import json
from typing import Any

import pytest

import carpool
from carpool import progress
from carpool.testing import Emulator, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

CHAT = "/v1/chat/completions"
TIMING = carpool.Timing(linger=0.05, poll_min=0.05)


def bodies(number: int) -> list[dict[str, Any]]:
    return [{"model": "m", "messages": [{"role": "user", "content": f"text {at}"}]} for at in range(number)]


@pytest.mark.parametrize("thread", [False, True])
async def test_a_callable_sees_a_run_from_its_beginning_to_its_end(thread: bool) -> None:
    seen: list[carpool.Stats] = []
    with Emulator(pace=Pace(running=0.7)) as emulator:
        async with carpool.Pool("any", emulator.url, timing=TIMING, progress=seen.append, thread=thread) as pool:
            await pool.gather(bodies(10), endpoint=CHAT)
    answered = [stats.answered for stats in seen]
    assert answered == sorted(answered)
    assert (answered[0], answered[-1]) == (0, 10)
    assert any(batch.stage == "running" and batch.rows == 10 for stats in seen for batch in stats.open)
    assert seen[-1].open == ()


async def test_a_callable_that_raises_does_the_pool_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_stats: carpool.Stats) -> None:
        raise ZeroDivisionError

    with Emulator() as emulator:
        async with carpool.Pool("any", emulator.url, timing=TIMING, progress=broken) as pool:
            (response,) = await pool.gather(bodies(1), endpoint=CHAT)
    assert response.text == "text 0"
    assert [record.message for record in caplog.records].count("progress cannot be shown") == 1


async def test_json_events_tell_of_a_run() -> None:
    lines: list[str] = []
    with Emulator() as emulator:
        events = progress.JsonEvents(lines.append, 10)
        async with carpool.Pool("any", emulator.url, timing=TIMING, progress=events) as pool:
            await pool.gather(bodies(10), endpoint=CHAT)
    told = list(map(json.loads, lines))
    assert [event["event"] for event in told][:: len(told) - 1] == ["progress", "end"]
    assert (told[-1]["answered"], told[-1]["total"], told[-1]["cost"]["requests"]) == (10, 10, 10)


async def test_a_pool_that_is_never_asked_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "carpool")
    async with carpool.Pool("any", "http://127.0.0.1:9/v1"):
        pass
    assert caplog.records == []
