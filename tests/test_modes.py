"""The modes: each call live, at full price, because somebody said so; or answers that an emulator makes up."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import httpx2
import openai
import pytest
from trio.testing import MockClock
from virtual import CHAT, VirtualLoop, World, body, world

import carpool
from carpool.testing import Answer, Emulator, Faults

BASE = "http://emulator/v1"
URL = f"http://emulator{CHAT}"
NOBODY = "http://127.0.0.1:9/v1"  # where nobody listens: what is sent there fails
KEY = "sk-key"
SECRET = "sk-secret-of-somebody"
FAST = carpool.Timing(linger=0.02, poll_min=0.01, poll_max=0.1)
LIVE = {"mode": "live"}
ERROR = {"error": {"message": "No.", "type": "some_error", "param": None, "code": "context_length_exceeded"}}

real = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
# Each backend once, each family once: real time is dear.
real_families = pytest.mark.parametrize(
    ("anyio_backend", "family"), [("asyncio", "httpx"), ("trio", "httpx2")], indirect=["anyio_backend"]
)
once = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "no_certificates", "no_environment")]


@pytest.fixture(params=["virtual asyncio", "virtual trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run on virtual time, unless a test asks for real sockets."""
    return {
        "virtual asyncio": ("asyncio", {"loop_factory": VirtualLoop}),
        "virtual trio": ("trio", {"clock": MockClock(autojump_threshold=0)}),
        "asyncio": ("asyncio", {}),
        "trio": ("trio", {}),
    }[request.param]


def refuse_all(request: httpx2.Request) -> httpx2.Response:
    """Let nothing be sent by a client's own connections."""
    raise AssertionError(f"{request.method} {request.url} was sent")


def sdk(transport: Any, **settings: Any) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(**{"api_key": KEY, "base_url": BASE, "http_client": http, **settings})


async def chat(client: openai.AsyncOpenAI, text: str = "hi", **more: Any) -> str:
    messages: Any = [{"role": "user", "content": text}]
    completion = await client.chat.completions.create(model="gpt-5-mini", messages=messages, **more)
    answer: str = completion.choices[0].message.content
    return answer


def client_of(pool: carpool.Pool, family: str = "httpx2", *, sync: bool = False) -> Any:
    anyhow: Any = pool
    return anyhow.http_client(family, sync=sync)


async def in_thread(func: Any, *args: Any, **kwargs: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(func, *args, **kwargs), limiter=anyio.CapacityLimiter(1))


def route(w: World) -> int:
    """Give how often the live endpoint was asked, faults included."""
    return w.emulator.books().routes[f"POST {CHAT}"]


# --- live: the pool's own calls


async def test_each_call_is_sent_at_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")
    async with world(pool=LIVE, api_key=KEY) as w:
        start = anyio.current_time()
        response = await w.pool.request(CHAT, body("one"))
        assert (response.text, response.status_code) == ("one", 200)
        assert (response.custom_id, response.batch_id) == ("", "")
        gathered = await w.pool.gather([body("two"), body("three")], endpoint=CHAT)
        assert [answer.text for answer in gathered] == ["two", "three"]
        assert anyio.current_time() == start
        stats = w.pool.stats()
        assert (stats.accepted, stats.answered, stats.failed, stats.batches, stats.lanes) == (3, 3, 0, 0, ())
    books = w.emulator.books()
    assert (books.live, books.batches, books.uploads) == (3, (), ())
    priced = [entry for entry in caplog.records if "full price" in entry.getMessage()]
    assert [entry.levelname for entry in priced] == ["WARNING", "INFO", "INFO", "INFO"]  # the mode, and each call


async def test_many_live_calls_get_their_own_answers() -> None:
    async with world(pool=LIVE) as w:
        await w.ask_all([f"text {number}" for number in range(100)])
    assert w.answers() == {f"text {number}": f"text {number}" for number in range(100)}
    assert w.emulator.books().live == 100


async def test_a_live_call_sends_its_bytes_as_they_are() -> None:
    sent: list[bytes] = []

    def look(request: httpx2.Request) -> None:
        if request.url.path == CHAT:
            sent.append(request.content)

    given = b'{"model" : "m",\t"messages": [{"role":"user","content":"\\u00e9 \xc3\xa9"}], "x":1.0e0}'
    async with world(pool=LIVE, before=look) as w:
        await w.pool.request(CHAT, given)
    assert sent == [given]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, carpool.RequestRejected),
        (404, carpool.RequestRejected),
        (422, carpool.RequestRejected),
        (500, carpool.RequestFailed),
        (503, carpool.RequestFailed),
    ],
)
async def test_errors_of_live_calls_are_typed_and_nothing_is_sent_twice(
    status: int, kind: type[carpool.RequestFailed]
) -> None:
    async with world(pool=LIVE, answer=lambda endpoint, given: Answer(status, ERROR)) as w:
        with pytest.raises(carpool.RequestFailed) as caught:
            await w.pool.request(CHAT, body())
    error = caught.value
    assert (type(error), error.status_code, error.code, error.message) == (
        kind,
        status,
        "context_length_exceeded",
        "No.",
    )
    assert b"context_length_exceeded" in error.body
    assert (error.batch_id, error.custom_id) == (None, None)
    assert route(w) == 1
    assert w.pool.stats().failed == 1


async def test_a_live_call_with_a_key_that_is_refused_is_told() -> None:
    async with world(pool=LIVE, api_key="another") as w:
        with pytest.raises(carpool.AuthenticationFailed) as caught:
            await w.pool.request(CHAT, body())
    assert KEY not in str(caught.value)


async def test_a_live_call_without_a_usable_key_is_told() -> None:
    def provider() -> str:
        raise ValueError(SECRET)

    async with world() as outer, carpool.Pool(provider, BASE, mode="live", _ports=outer.ports) as pool:
        with pytest.raises(carpool.AuthenticationFailed, match="ValueError") as caught:
            await pool.request(CHAT, body())
    assert SECRET not in str(caught.value)
    assert route(outer) == 0


async def test_a_live_call_whose_reply_was_lost_is_not_repeated() -> None:
    faults = Faults(reset=1.0, only={f"POST {CHAT}"})
    async with world(pool=LIVE, faults=faults) as w:
        with pytest.raises(carpool.RequestFailed) as caught:
            await w.pool.request(CHAT, body())
        assert type(caught.value) is carpool.RequestFailed
        assert caught.value.status_code is None
    assert route(w) == 1


async def test_a_live_call_that_never_left_is_repeated_and_one_that_is_refused_for_now_too() -> None:
    tries: list[int] = []

    def refuse(request: httpx2.Request) -> None:
        if request.url.path == CHAT:
            tries.append(1)
            if len(tries) == 1:
                raise httpx2.ConnectError("nobody there")

    faults = Faults(too_many=1.0, only={f"POST {CHAT}"}, nth={1})
    async with world(pool=LIVE, before=refuse, faults=faults) as w:
        await w.ask("patient")
    assert w.answers() == {"patient": "patient"}
    assert (len(tries), w.emulator.books().live) == (3, 1)


async def test_a_caller_that_is_cancelled_cancels_its_live_call() -> None:
    ended: list[str] = []

    async def slow(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        try:
            await anyio.sleep(1_000)
        except BaseException:
            ended.append("cancelled")
            raise
        return {}

    async with world(pool=LIVE, answer=slow) as w:
        with anyio.move_on_after(10) as scope:
            await w.pool.request(CHAT, body())
        assert scope.cancelled_caught
        await anyio.sleep(0.1)
        assert ended == ["cancelled"]
        start = anyio.current_time()
    assert anyio.current_time() - start < 1


async def test_the_timeout_of_a_live_call_ends_it() -> None:
    async def slow(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(1_000)
        return {}

    async with world(pool={**LIVE, "timeout": 50}, answer=slow) as w:
        for timeout, request in (
            (50, carpool.Request(CHAT, body())),
            (20, carpool.Request(CHAT, body(), timeout=20)),
        ):
            start = anyio.current_time()
            with pytest.raises(carpool.RequestExpired):
                await w.pool.request(request)
            assert anyio.current_time() - start == pytest.approx(timeout, abs=0.5)


async def test_leaving_waits_for_live_calls_and_leaving_by_an_exception_does_not() -> None:
    async def slow(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(100)
        return {"choices": [{"message": {"content": "late"}}]}

    async with anyio.create_task_group() as tasks:
        async with world(pool=LIVE, answer=slow) as w:
            tasks.start_soon(w.ask, "waits")
            await anyio.sleep(1)
        assert w.answers() == {"waits": "late"}
    async with anyio.create_task_group() as tasks:
        with pytest.raises(ZeroDivisionError):
            await _leave_by_an_exception(tasks, slow)


async def _leave_by_an_exception(tasks: Any, answer: Any) -> None:
    try:
        async with world(pool=LIVE, answer=answer) as w:
            tasks.start_soon(w.ask, "left")
            await anyio.sleep(1)
            start = anyio.current_time()
            raise ZeroDivisionError
    finally:
        await anyio.lowlevel.checkpoint()
        assert [type(error) for error in w.errors().values()] == [carpool.PoolClosed]
        assert anyio.current_time() - start < 10


@pytest.mark.parametrize("given", [{"model": "m", "stream": True}, {"messages": []}, b"no JSON"])
async def test_what_the_pool_cannot_send_is_refused_live_too(given: Any) -> None:
    async with world(pool=LIVE) as w:
        with pytest.raises(carpool.Unbatchable):
            await w.pool.request(CHAT, given)
        with pytest.raises(carpool.Unbatchable):
            await w.pool.request("/v1/audio/speech", body())
    assert w.transport.requests == []


async def test_a_block_that_says_no_does_not_undo_the_mode() -> None:
    async with world(pool=LIVE) as w:
        with carpool.options(live=False):
            assert (await w.pool.request(CHAT, body())).text == "hi"
    assert w.emulator.books().live == 1


async def test_live_calls_leave_the_folder_of_the_journal_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    for path in (tmp_path / "journal", file):
        async with world(pool={"mode": "live", "journal": path}) as w:
            await w.ask("live")
        assert w.answers() == {"live": "live"}
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "no folder"


async def test_what_a_journal_holds_is_neither_read_nor_written_live(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    async with world(pool={"journal": folder}) as w:
        await w.ask("kept")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    async with world(pool={"mode": "live", "journal": folder}) as w:
        await w.ask("kept")
        await w.ask("new")
    assert w.emulator.books().live == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- live: clients


async def test_a_client_sends_each_call_live_by_its_own_connections_and_logs_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "carpool")
    async with world(pool=LIVE) as w:
        client = w.pool.wrap(sdk(w.transport))
        assert await chat(client, "one", extra_headers={"x-carpool-key": "k"}) == "one"
        await client.models.list()
    books = w.emulator.books()
    assert (books.live, books.batches, books.uploads) == (1, (), ())
    (priced,) = [entry for entry in caplog.messages if "POST" in entry]
    assert "full price" in priced
    assert CHAT in priced


@pytest.mark.parametrize("anyio_backend", ["virtual asyncio"], indirect=True)  # on trio the SDK leaves generators
async def test_a_client_may_stream_live() -> None:
    chunk = '{"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}'
    lines = "".join(f"data: {chunk % word}\n\n" for word in ("a", "b")) + "data: [DONE]\n\n"
    headers = {"content-type": "text/event-stream"}
    server = httpx2.MockTransport(lambda request: httpx2.Response(200, text=lines, headers=headers))
    async with world(pool=LIVE) as w:
        client = w.pool.wrap(sdk(server))
        stream: Any = await client.chat.completions.create(model="m", messages=[], stream=True)
        assert [part.choices[0].delta.content async for part in stream] == ["a", "b"]


async def test_a_clients_errors_are_the_sdks_own_and_its_retries_its_own() -> None:
    faults = Faults(server_error=1.0, only={f"POST {CHAT}"}, nth={1})
    async with world(pool=LIVE, faults=faults, api_key=KEY) as w:
        assert await chat(w.pool.wrap(sdk(w.transport, max_retries=1))) == "hi"
        with pytest.raises(openai.BadRequestError) as caught:
            await chat(w.pool.wrap(sdk(w.transport)), stream=True)
        assert "x-carpool-error" not in caught.value.response.headers
        assert carpool.error_of(caught.value) is None
    assert route(w) == 3


async def test_the_pools_timeout_ends_a_clients_live_call_too() -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(3_600)
        raise AssertionError("it was not cancelled")

    async with world(pool={**LIVE, "timeout": 50}) as w:
        client = w.pool.wrap(sdk(httpx2.MockTransport(never), max_retries=0))
        for timeout, headers in ((50, {}), (20, {"x-carpool-timeout": "20"})):
            start = anyio.current_time()
            with pytest.raises(openai.APIStatusError) as caught:
                await chat(client, extra_headers=headers)
            assert isinstance(carpool.error_of(caught.value), carpool.RequestExpired)
            assert anyio.current_time() - start == pytest.approx(timeout, abs=0.5)


async def test_a_client_of_another_account_is_refused_live_too() -> None:
    async with world(pool=LIVE) as w:
        client = w.pool.wrap(sdk(httpx2.MockTransport(refuse_all), max_retries=0))
        for copy in (
            client.with_options(api_key=SECRET),
            client.with_options(organization="theirs"),
            client.with_options(base_url="http://other/v1"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await chat(copy)
            assert isinstance(carpool.error_of(caught.value), carpool.ConfigurationError)
            assert SECRET not in str(caught.value)


@real_families
async def test_http_clients_of_both_families_send_live(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")
    async with Emulator(api_key=KEY) as emulator:
        url = f"{emulator.url}/chat/completions"
        headers = {"authorization": f"Bearer {KEY}"}
        async with carpool.Pool(KEY, emulator.url, mode="live") as pool:
            response = await client_of(pool, family).post(url, json=body("async"), headers=headers)
            assert response.json()["choices"][0]["message"]["content"] == "async"
            blocking = client_of(pool, family, sync=True)
            response = await in_thread(blocking.post, url, json=body("thread"), headers=headers)
            assert response.json()["choices"][0]["message"]["content"] == "thread"
            # Nothing in the pool's event loop is waited for, so that it may be blocked.
            emulated = client_of(pool, family, sync=True).post(url, json=body("here"), headers=headers)
            assert emulated.status_code == 200
        books = emulator.books()
    assert (books.live, books.batches) == (3, ())
    assert sum("full price" in entry and "POST" in entry for entry in caplog.messages) == 3


# --- emulate


@contextmanager
def watched() -> Iterator[Emulator]:
    """Run a server in the provider's place, and hold it to this: nothing comes."""
    with Emulator() as provider:
        yield provider
    books = provider.books()
    assert (sum(books.routes.values()), books.live, books.uploads) == (0, 0, ())


@real
async def test_answers_are_made_up_without_a_key(caplog: pytest.LogCaptureFixture) -> None:
    with watched() as provider:
        async with carpool.Pool(base_url=provider.url, mode="emulate", timing=FAST) as pool:
            answers = await pool.gather([body("one"), body("two")], endpoint=CHAT)
            assert [answer.text for answer in answers] == ["one", "two"]
            assert pool.stats().batches == 1
            assert answers[0].batch_id
    assert any("emulate" in entry and "made up" in entry for entry in caplog.messages)


@once
async def test_no_environment_is_needed_to_emulate_and_the_folder_of_the_journal_is_left_alone(tmp_path: Path) -> None:
    async with carpool.Pool(mode="emulate", timing=FAST, journal=tmp_path / "journal") as pool:
        assert (await pool.request(CHAT, body("made up"))).text == "made up"
    assert list(tmp_path.iterdir()) == []


@once
def test_no_key_is_needed_to_emulate_in_a_plain_block() -> None:
    with carpool.Pool(mode="emulate", timing=FAST) as pool:
        response = pool.http_client(sync=True).post("https://api.openai.com/v1/chat/completions", json=body("plain"))
    assert response.json()["choices"][0]["message"]["content"] == "plain"


@real_families
async def test_http_clients_of_both_families_ride_and_pass_to_the_emulator(family: str) -> None:
    with watched() as provider:
        async with carpool.Pool(base_url=provider.url, mode="emulate", timing=FAST) as pool:
            client = client_of(pool, family)
            client.headers["authorization"] = f"Bearer {SECRET}"
            response = await client.post(f"{provider.url}/chat/completions", json=body("rides"))
            assert response.headers["x-carpool-batch-id"].startswith("batch_")
            models = await client.get(f"{provider.url}/models", params={"a": "b"})
            assert models.json()["data"][0]["id"] == "gpt-5-mini"
            blocking = client_of(pool, family, sync=True)
            assert (await in_thread(blocking.get, f"{provider.url}/models")).status_code == 200
            live = await client.post(
                f"{provider.url}/chat/completions", json=body("live"), headers={"x-carpool": "live"}
            )
            assert live.json()["choices"][0]["message"]["content"] == "live"
            assert "x-carpool-batch-id" not in live.headers
            refused = await client.post(f"{provider.url}/chat/completions", json=body(stream=True))
            assert refused.headers["x-carpool-error"] == "Unbatchable"


@once
async def test_an_emulation_goes_through_no_proxy_and_shows_nobody_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    given = sdk(httpx2.MockTransport(refuse_all), api_key=SECRET)
    async with carpool.batched(given, mode="emulate", timing=FAST) as client:
        assert [model.id async for model in client.models.list()] == []
        completion = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert completion.choices[0].message.content == "hi"


@once
async def test_nothing_is_sent_to_any_other_address_while_emulating() -> None:
    with watched() as elsewhere, watched() as provider:
        async with carpool.Pool(base_url=provider.url, mode="emulate", timing=FAST, unbatchable="live") as pool:
            clients = [client_of(pool, family) for family in ("httpx2", "httpx")]
            for method, url in (
                ("GET", f"{elsewhere.url}/models?key={SECRET}"),
                ("POST", f"{elsewhere.url}/chat/completions?key={SECRET}"),
                ("GET", provider.url.removesuffix("/v1")),
                ("DELETE", f"{provider.url}beta/files/1"),
            ):
                for client in clients:
                    response = await client.request(method, url)
                    assert response.status_code == 400, url
                    assert response.headers["x-carpool-error"] == "ConfigurationError"
                    assert SECRET not in response.text


@once
async def test_an_sdks_client_is_answered_by_the_emulator_whatever_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPOOL_MODE", "emulate")
    with watched() as provider:
        given = sdk(httpx2.AsyncHTTPTransport(), base_url=provider.url, organization="org-1")
        async with carpool.batched(given, timing=FAST, unbatchable="live") as client:
            assert await chat(client, "rides") == "rides"
            assert await chat(client.with_options(api_key="sk-other"), "too") == "too"
            await client.models.list()
            with pytest.raises(openai.BadRequestError, match="does not stream"):
                await chat(client, stream=True)
            other = sdk(httpx2.AsyncHTTPTransport(), base_url=provider.url, organization="org-1", api_key="sk-2")
            assert await chat(carpool.pool_of(client).wrap(other), "another key") == "another key"


@once
async def test_the_emulator_ends_with_the_pool_also_where_that_is_left_by_an_exception() -> None:
    urls: list[str] = []
    for error in (None, ZeroDivisionError):
        try:
            async with carpool.Pool(base_url=NOBODY, mode="emulate", timing=FAST) as pool:
                response = await pool.http_client().get(f"{NOBODY}/models")
                urls.append(str(response.request.url))
                if error is not None:
                    raise error
        except ZeroDivisionError:
            pass
    async with httpx2.AsyncClient() as direct:
        for url in urls:
            with pytest.raises(httpx2.ConnectError):
                await direct.get(url)


@once
async def test_what_the_emulator_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("carpool.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    pool = carpool.Pool(mode="emulate")
    with pytest.raises(carpool.ConfigurationError, match="carpool with its extra emulator"):
        await pool.start()


# --- which mode


async def test_the_environment_sets_the_mode_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sent_live(**settings: Any) -> bool:
        async with world(pool=settings) as w:
            await w.pool.request(CHAT, body())
        books = w.emulator.books()
        assert books.live + len(books.batches) == 1
        return books.live == 1

    assert not await sent_live()
    monkeypatch.setenv("CARPOOL_MODE", "live")
    assert await sent_live()
    assert not await sent_live(mode="batch")
    monkeypatch.setenv("CARPOOL_MODE", "batch")
    assert not await sent_live()
    assert await sent_live(mode="live")
    monkeypatch.setenv("CARPOOL_MODE", "")
    assert not await sent_live()


@once
@pytest.mark.parametrize("mode", ["Live", "emulated", "true", "0", " live"])
def test_a_mode_that_is_none_is_refused(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(carpool.ConfigurationError, match=r'mode must be "batch", "live" or "emulate"'):
        carpool.Pool(KEY, BASE, mode=mode)
    monkeypatch.setenv("CARPOOL_MODE", mode)
    with pytest.raises(carpool.ConfigurationError, match=r'CARPOOL_MODE must be "batch", "live" or "emulate"'):
        carpool.Pool(KEY, BASE)
    with pytest.raises(carpool.ConfigurationError, match="CARPOOL_MODE"):
        carpool.batched(sdk(httpx2.MockTransport(refuse_all)))
    carpool.Pool(KEY, BASE, mode="batch")


@once
def test_an_empty_mode_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPOOL_MODE", "live")
    empty: Any = ""
    with pytest.raises(carpool.ConfigurationError, match="mode must be"):
        carpool.Pool(KEY, BASE, mode=empty)


@once
@pytest.mark.parametrize("mode", ["batch", "live"])
def test_a_key_is_needed_unless_answers_are_made_up(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(carpool.ConfigurationError, match="No API key"):
        carpool.Pool(mode=mode)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    # An empty key is a mistake, and no reason to bill the account of another one.
    with pytest.raises(carpool.ConfigurationError, match="No API key"):
        carpool.Pool("", mode=mode)


async def test_a_families_response_is_its_own_live_too() -> None:
    async with world(pool=LIVE) as w:
        response = await client_of(w.pool, "httpx").post("http://other/v1/chat/completions", json=body())
    assert type(response) is httpx.Response
    assert response.status_code == 400
