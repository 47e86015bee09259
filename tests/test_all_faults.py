"""All faults at once: every call is answered or told its own true error, and no answer is paid for twice."""

import os
from typing import Any

import anyio
import pytest
from virtual import World, site, world

import carpool
from carpool.testing import Books, Faults, Pace, Troubles

pytestmark = pytest.mark.anyio

CALLS = int(os.environ.get("CARPOOL_CALLS", "5000"))  # 20,000 in the long form
# Each of the ways in which an exchange fails strikes one in twenty; replies and downloads are lost twice as often.
FAULTS = Faults(lost_reply=0.1, truncated=0.1, cut=0.1, server_error=0.05, too_many=0.05, reset=0.05)
TROUBLES = Troubles(expiring=0.1, failed_validation=0.05, missing=0.002, doubled=0.01)
LAGS = {"file_lag": 3.0, "creation_lag": 3.0, "listing_lag": 5.0}
PACE = Pace(validating=5, running=300, finalizing=5)


@pytest.fixture
def anyio_backend(virtual_backend: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return virtual_backend


def storm(calls: int, seed: int, **more: Any) -> dict[str, Any]:
    """Set an emulator to do its worst, with a queue that takes a tenth of the work."""
    settings = {"pace": PACE, "faults": FAULTS, "troubles": TROUBLES, "enqueued_tokens": {"*": 2 * calls}, **LAGS}
    return {**settings, "seed": seed, **more}


def texts(calls: int) -> list[str]:
    return [f"text {number}" for number in range(calls)]


def all_is_well(w: World, calls: int) -> None:
    """Check that nobody hangs or is told what is not so, and that nothing was paid for twice but what got lost.

    A request whose batches fail as a whole twice, and whose third loses its row, has failed as often as it may.
    """
    assert w.settled.keys() == set(texts(calls))
    assert all(answer == text for text, answer in w.answers().items())
    for error in w.errors().values():
        assert isinstance(error, carpool.RequestFailed)
        assert sum(attempt.code != "batch_expired" for attempt in error.attempts) == 3, error.attempts
    assert len(w.errors()) <= calls / 20
    nothing_was_paid_twice(w.emulator.books())


def nothing_was_paid_twice(books: Books) -> None:
    assert not {body: times for body, times in books.paid.items() if times > 1 + books.lost[body]}


async def test_every_call_is_answered_and_nothing_is_paid_for_twice(anyio_backend_name: str) -> None:
    calls = CALLS if anyio_backend_name == "asyncio" else CALLS // 4  # the decisions are the same
    with anyio.fail_after(30 * 86_400):
        async with world(**storm(calls, seed=6)) as w:
            await w.ask_all(texts(calls))
    all_is_well(w, calls)
    books = w.emulator.books()
    assert {batch.status for batch in books.batches} == {"completed", "expired", "failed"}
    assert books.lost.total() > 0


async def test_rows_that_fail_in_every_way_are_answered_or_told_the_truth(anyio_backend_name: str) -> None:
    seed = ("asyncio", "trio").index(anyio_backend_name)
    troubles = Troubles(
        failing={429: 0.05, 500: 0.05, 0: 0.02, 400: 0.02},
        timed_out=0.05,
        missing=0.02,
        doubled=0.05,
        foreign=0.05,
        torn=0.02,
        expiring=0.1,
        cancelled=0.1,
        failed_validation=0.1,
        silent_rest=0.5,
    )
    with anyio.fail_after(30 * 86_400):
        async with world(**storm(600, seed, troubles=troubles)) as w:
            await w.ask_all(texts(600))
    nothing_was_paid_twice(w.emulator.books())
    assert len(w.settled) == 600
    for error in w.errors().values():
        assert isinstance(error, carpool.RequestFailed)
        assert error.status_code == 400 or len(error.attempts) >= 3, error
    rejected = [error for error in w.errors().values() if isinstance(error, carpool.RequestRejected)]
    assert {error.status_code for error in rejected} == {400}


async def test_processes_that_end_in_between_lose_and_repeat_nothing(tmp_path: Any, anyio_backend_name: str) -> None:
    calls = CALLS // 5 if anyio_backend_name == "asyncio" else CALLS // 20
    with anyio.fail_after(30 * 86_400):
        async with site(tmp_path, **storm(calls, seed=6)) as s:
            for hurry in (200, 600, 2_000):
                async with s.interrupted() as w, anyio.create_task_group() as tasks:
                    tasks.start_soon(w.ask_all, texts(calls))
                    await anyio.sleep(hurry)
                    tasks.cancel_scope.cancel()
            async with s.open() as w:
                await w.ask_all(texts(calls))
    all_is_well(w, calls)
