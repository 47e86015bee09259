"""Keys that are rotated while a pool is open: each exchange asks for the key, and a refusal heals with the next one."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import pytest
from virtual import CHAT, InMemory, Site, body, run_here, site

import carpool
from carpool.account import Account
from carpool.models import Call, CallFailed, Reply, Run
from carpool.settings import Ports
from carpool.testing import Emulator, Pace
from carpool.wire import Wire

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

GET = Call("GET", "/batches", True)
POST = Call("POST", "/batches", False, json=b"{}")
SLOW = Pace(validating=5, running=300, finalizing=5)
OLD, NEW, STRANGE = "sk-old-0123456789", "sk-new-0123456789", "sk-strange-0123456789"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def no_runs(runs: tuple[Run, ...]) -> AsyncIterator[bytes]:
    raise AssertionError("nothing is uploaded here")


class Script(httpx2.AsyncBaseTransport):
    """Answer with these statuses one after the other, then with 401, and note the keys."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self._statuses = list(statuses)
        self.keys: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.keys.append(request.headers["Authorization"].removeprefix("Bearer "))
        return httpx2.Response(self._statuses.pop(0) if self._statuses else 401, text="why")


async def send(call: Call, key: Any, script: Script) -> tuple[Reply, float]:
    """Send a call; gives also how many seconds that took."""
    wire = Wire(Account("http://host/v1", key, {}), no_runs, transport=script)
    start = anyio.current_time()
    try:
        return await wire.send(call), anyio.current_time() - start
    finally:
        await wire.aclose()


# --- one call


@pytest.mark.parametrize("call", [GET, POST])
async def test_a_refused_call_is_sent_again_at_once_with_another_key(call: Call) -> None:
    keys = iter([OLD])
    reply, took = await send(call, lambda: next(keys, NEW), script := Script([401, 200]))
    assert (reply.status, took, script.keys) == (200, 0, [OLD, NEW])


async def test_another_key_may_come_a_moment_later() -> None:
    start = anyio.current_time()
    given = lambda: OLD if anyio.current_time() < start + 20 else NEW  # noqa: E731
    reply, took = await send(POST, given, script := Script([*[401] * 5, 200]))
    assert (reply.status, script.keys) == (200, [OLD] * 5 + [NEW])
    assert 20 <= took <= 28


async def test_a_new_key_may_be_taken_a_moment_later_than_it_is_given() -> None:
    reply, took = await send(POST, lambda: NEW, Script([401, 401, 200]))
    assert (reply.status, took) == (200, 3)


@pytest.mark.parametrize("alike", [True, False])
async def test_a_refusal_is_believed_after_a_minute(alike: bool) -> None:
    """A callable may also give a new token each time: none of them is hammered with."""
    given: list[str] = []

    def token() -> str:
        given.append("sk")
        return f"sk-{1 if alike else len(given)}"

    reply, took = await send(GET, token, script := Script([]))
    assert (reply.status, took) == (401, 60)
    assert len(script.keys) < 15


async def test_a_key_that_cannot_change_is_refused_at_once() -> None:
    reply, took = await send(GET, OLD, script := Script([]))
    assert (reply.status, took, script.keys) == (401, 0, [OLD])


async def test_a_callable_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    async def vault() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise LookupError(OLD)
        return NEW

    reply, took = await send(GET, vault, script := Script([200]))
    assert (reply.status, took, script.keys) == (200, 7, [NEW])
    assert len(caplog.records) == 1
    assert "LookupError" in caplog.text
    assert OLD not in caplog.text


async def test_each_rotation_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    script = Script([401, 200, 401, 200])
    wire = Wire(
        Account("http://host/v1", lambda: (OLD, NEW, NEW, STRANGE)[len(script.keys)], {}), no_runs, transport=script
    )
    assert [(await wire.send(GET)).status for _ in range(2)] == [200, 200]
    await wire.aclose()
    assert script.keys == [OLD, NEW, NEW, STRANGE]
    assert [record.getMessage()[:32] for record in caplog.records] == ["The API key was refused (401). T"] * 2


@pytest.mark.parametrize("given", ["", "two words", None])
async def test_a_callable_that_gives_no_key_is_given_up_after_a_minute(given: Any) -> None:
    start = anyio.current_time()
    with pytest.raises(CallFailed, match="key"):
        await send(GET, lambda: given, Script([]))
    assert anyio.current_time() - start == 60


# --- a pool


class Guarded(InMemory):
    """Take one key, and from the first call that is like `turn` on another one."""

    def __init__(self, app: Any, turn: Callable[[str, str], bool] = lambda method, path: False) -> None:
        super().__init__(app)
        self.key = OLD
        self.turned_at = float("inf")
        self._turn = turn
        self.refused: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.key == OLD and self._turn(request.method, request.url.path):
            self.key, self.turned_at = NEW, anyio.current_time()
        given = request.headers["Authorization"].removeprefix("Bearer ")
        if given == STRANGE:
            return httpx2.Response(404, json={"error": {"message": "No batch found."}})
        if given != self.key:
            self.refused.append(f"{request.method} {request.url.path}")
            return httpx2.Response(401, json={"error": {"message": "Incorrect API key."}})
        return await super().handle_async_request(request)

    def given(self) -> str:
        """Give the key as a store does that hears of a new one ten seconds later."""
        return NEW if anyio.current_time() >= self.turned_at + 10 else OLD


TURNS: dict[str, Callable[[str, str], bool]] = {
    "upload": lambda method, path: (method, path) == ("POST", "/v1/files"),
    "create": lambda method, path: (method, path) == ("POST", "/v1/batches"),
    "poll": lambda method, path: method == "GET" and path.startswith("/v1/batches"),
    "download": lambda method, path: path.endswith("/content"),
    "delete": lambda method, path: method == "DELETE",
}


@pytest.mark.parametrize("turn", TURNS)
async def test_a_key_may_be_rotated_at_any_moment(tmp_path: Path, turn: str) -> None:
    async with site(tmp_path, pace=Pace(running=60)) as at:
        at.transport = guard = Guarded(at.emulator.app, TURNS[turn])

        async def later() -> str:
            await anyio.sleep(0.1)
            return guard.given()

        async with at.open(key=later) as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
        assert guard.refused
        assert at.emulator.books().files == ()
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_a_live_call_is_sent_again_too(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        at.transport = guard = Guarded(at.emulator.app, lambda method, path: path == CHAT)
        async with at.open(key=guard.given) as w:
            with carpool.options(live=True):
                await w.ask("one")
    assert w.answers() == {"one": "one"}
    assert at.emulator.books().live == 1


async def test_the_calls_of_a_wrapped_client_follow_its_own_keys() -> None:
    async with Emulator(pace=Pace(running=60)).inline() as served:
        guard = Guarded(served.app, TURNS["poll"])

        async def given() -> str:
            return guard.given()

        ports = Ports(run_sync=run_here, transport=guard)
        client = openai.AsyncOpenAI(base_url="http://emulator/v1", api_key=given)
        async with carpool.Pool(given, "http://emulator/v1", progress=False, _ports=ports) as pool:
            answer = await pool.wrap(client).chat.completions.create(**body("one"))
            again = await pool.wrap(client).chat.completions.create(**body("two"))
        await client.close()
    texts = [one.choices[0].message.content for one in (answer, again)]
    assert texts == ["one", "two"]
    assert guard.refused


# --- a journal's mark of the key


async def rotated(at: Site, guard: Guarded, given: Callable[[], str | Awaitable[str]]) -> None:
    """Leave a pool that took another key while a batch ran."""
    async with at.open(key=given) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "one")
        await anyio.sleep(20)
        guard.key, guard.turned_at = NEW, anyio.current_time()
        await anyio.sleep(100)
        await w.pool.drain(0)


async def test_the_journal_knows_the_new_key_from_then_on(tmp_path: Path) -> None:
    """The next process need not ask whose key it is, and would not hear: the server is down."""
    async with site(tmp_path, pace=SLOW) as at:
        at.transport = guard = Guarded(at.emulator.app)
        await rotated(at, guard, guard.given)
        served, at.transport = at.transport, Guarded(None)
        at.transport.key = "none"
        old = at.pool(OLD)
        with pytest.raises(carpool.AuthenticationFailed):
            await old.start()
        async with at.open(key=NEW) as w:
            at.transport.key = "none"
            assert w.pool.stats().failed == 0
            await w.pool.drain(0)
        at.transport = served
        async with at.open(key=NEW) as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert set(at.emulator.books().bodies.values()) == {1}


async def test_a_key_of_another_account_is_not_taken_for_the_journals_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with site(tmp_path, pace=SLOW) as at:
        at.transport = guard = Guarded(at.emulator.app)
        await rotated(at, guard, lambda: STRANGE if guard.key == NEW else OLD)
        assert "another account" in caplog.text
        guard.key = OLD
        with pytest.raises(carpool.JournalError, match="another account"):
            await at.pool(STRANGE).start()
        async with at.open(key=OLD) as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert set(at.emulator.books().bodies.values()) == {1}
