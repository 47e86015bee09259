"""A canary goes first, alone: whole pools on virtual time, on both backends."""

import logging
from typing import Any

import anyio
import pytest
from virtual import CHAT, EMBEDDINGS, World, body, world

import carpool
from carpool.testing import Answer, Pace, Troubles, echo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


class Refusing:
    """Refuse what is of a model named "bad", and so many others first, each with a reason of its own."""

    def __init__(self, first: int = 0, status: int = 400) -> None:
        self._left = first
        self._status = status

    def __call__(self, endpoint: str, given: dict[str, Any]) -> Answer | bytes:
        if given["model"] == "bad" or self._left > 0:
            self._left -= 1
            return Answer(self._status, {"error": {"message": f"No: {given.get('messages') or given.get('input')}"}})
        return echo(endpoint, given)


def sizes(w: World) -> list[int]:
    return [batch.total for batch in w.emulator.books().batches]


async def test_the_first_go_alone_and_the_others_follow_when_they_have_come_back() -> None:
    async with world(pool={"canary": 5}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(100))
        await anyio.sleep(60)
        tasks.start_soon(w.ask_all, [f"later {number}" for number in range(10)])
        assert sizes(w) == [5]
        assert w.pool.stats().lanes[0].waiting == 95
        await anyio.sleep(60)
        assert sizes(w) == [5, 105]
    assert len(w.answers()) == 110
    assert set(w.emulator.books().bodies.values()) == {1}


async def test_fewer_than_a_canary_go_when_they_have_lingered_and_the_rest_of_it_goes_alone_as_well() -> None:
    async with world(pool={"canary": 50}) as w:
        await w.ask_all(texts(3))
        await w.ask_all(texts(100)[3:])
    assert sizes(w) == [3, 47, 50]


@pytest.mark.parametrize(
    ("canary", "refused", "passes"),
    [(10, 1, True), (10, 2, False), ((10, 0.5), 5, True), ((10, 0.5), 6, False), ((10, 0), 1, False), (1, 1, False)],
)
async def test_more_than_the_share_must_be_refused(canary: Any, refused: int, passes: bool) -> None:
    async with world(pool={"canary": canary}, answer=Refusing(refused)) as w:
        await w.ask_all(texts(40))
    sent = canary if isinstance(canary, int) else canary[0]
    assert sum(sizes(w)) == (40 if passes else sent)
    assert len(w.errors()) == (refused if passes else 40 - sent + refused)
    assert {type(error) for error in w.errors().values()} <= {carpool.RequestRejected}


async def test_all_that_wait_and_all_that_come_fail_quickly_and_say_why() -> None:
    events: list[carpool.Event] = []
    async with world(pool={"canary": 4, "on_event": events.append}, answer=Refusing(99)) as w:
        await w.ask_all(texts(30))
        assert anyio.current_time() < 30
        start = anyio.current_time()
        await w.ask_all([f"later {number}" for number in range(5)])
        assert anyio.current_time() - start < 1
    assert sizes(w) == [4]
    assert len(w.errors()) == 35
    held = [error for error in w.errors().values() if isinstance(error, carpool.RequestRejected) and not error.batch_id]
    assert len(held) == 31
    for error in held:
        assert error.code == "canary_refused"
        assert "4 of the first 4" in error.message
        assert "No: [{'role': 'user', 'content': 'text " in error.message
    (held_back,) = (event for event in events if event.kind == "held")
    assert held_back.lane is not None
    assert held_back.lane.model == "gpt-5-mini"


async def test_a_canary_that_fails_at_its_validation_holds_its_lane() -> None:
    async with world(pool={"canary": 4}, models=["other"]) as w:
        await w.ask_all(texts(30))
    assert sum(sizes(w)) <= 4
    assert {type(error) for error in w.errors().values()} == {carpool.RequestRejected}
    assert len(w.errors()) == 30
    assert w.emulator.books().bodies.total() == 0


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_the_provider_failed_to_answer_is_no_refusal(status: int) -> None:
    async with world(pool={"canary": 5}, answer=Refusing(5, status)) as w:
        await w.ask_all(texts(20))
    assert len(w.answers()) == 20
    assert sizes(w)[:2] == [5, 5]  # the canary, and again
    assert sum(sizes(w)) == 25


async def test_a_canary_whose_batch_breaks_off_goes_again() -> None:
    pool = {"canary": 4, "retry": carpool.Retry(max_attempts=20)}
    async with world(pool=pool, troubles=Troubles(cancelled=0.5), seed=2) as w:
        await w.ask_all(texts(20))
    assert w.emulator.books().batches[0].status == "cancelled"
    assert len(w.answers()) == 20


async def test_each_lane_has_a_canary_of_its_own() -> None:
    async with world(pool={"canary": 3}, answer=Refusing(), pace=SLOW) as w, anyio.create_task_group() as tasks:
        for number in range(10):
            for model in ("good", "bad"):
                tasks.start_soon(ask, w, CHAT, body(f"{model} {number}", model=model), f"{model} {number}")
            tasks.start_soon(ask, w, EMBEDDINGS, {"model": "good", "input": f"{number}"}, f"embedding {number}")
        await anyio.sleep(40)
        assert sizes(w) == [3, 3, 3]
    assert len(w.answers()) == 20
    assert set(w.errors()) == {f"bad {number}" for number in range(10)}
    assert sum(sizes(w)) == 23


async def ask(w: World, endpoint: str, given: Any, name: str) -> None:
    (w.settled[name],) = await w.pool.gather([given], endpoint=endpoint, return_exceptions=True)


async def test_a_canary_that_nobody_awaits_any_more_makes_way_for_another() -> None:
    async with world(pool={"canary": 3, "timing": carpool.Timing(abandon=5)}, pace=Pace(running=5_000)) as w:
        with anyio.move_on_after(30):
            await w.ask_all(texts(3))
        with anyio.fail_after(20_000):
            await w.ask_all([f"later {number}" for number in range(9)])
    assert len(w.answers()) == 9


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("mine")])
async def test_a_hook_that_raises_harms_nobody(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def explode(event: carpool.Event) -> None:
        raise error

    settings = {"canary": 2, "on_event": explode}
    async with world(pool=settings, answer=Refusing()) as w, anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(ask, w, CHAT, body(f"{number}", model="bad"), f"bad {number}")
        tasks.start_soon(w.ask_all, texts(5))
    assert sorted(w.answers()) == texts(5)
    assert len(w.errors()) == 6
    failures = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text for text in failures if text.startswith("on_event failed at 'held'")]
    assert len(failures) == len(set(failures))  # once a kind
