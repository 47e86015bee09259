"""The drop-in: an SDK's client goes in, the same one comes out, and its calls ride."""

import inspect
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import openai
import pytest
from trio.testing import MockClock
from virtual import CHAT, VirtualLoop, body, world

import carpool
from carpool.settings import PoolSettings
from carpool.testing import Answer, Emulator, Pace

BASE = "http://emulator/v1"
KEY = "sk-key"
SECRET = "sk-secret-of-somebody"
FAST = carpool.Timing(linger=0.02, poll_min=0.01, poll_max=0.1)
PATIENT = carpool.Timing(linger=0.4, poll_min=0.01, poll_max=0.1)  # all calls of a busy machine go into one batch
SLOW = Pace(validating=5, running=60, finalizing=5)

real = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
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
    """Let nothing pass."""
    raise AssertionError(f"{request.method} {request.url} went around the pool")


NOWHERE = httpx2.MockTransport(refuse_all)


def sdk(transport: Any = NOWHERE, **settings: Any) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(**{"api_key": KEY, "base_url": BASE, "http_client": http, **settings})


def blocking_sdk(transport: Any = NOWHERE, **settings: Any) -> openai.OpenAI:
    http = httpx2.Client(transport=transport)
    return openai.OpenAI(**{"api_key": KEY, "base_url": BASE, "http_client": http, **settings})


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def chat(client: openai.AsyncOpenAI, text: str = "hi", **more: Any) -> str:
    completion = await client.chat.completions.create(model="gpt-5-mini", messages=messages(text), **more)
    answer: str = completion.choices[0].message.content
    return answer


def blocking_chat(client: openai.OpenAI, text: str = "hi") -> str:
    completion = client.chat.completions.create(model="gpt-5-mini", messages=messages(text))
    return completion.choices[0].message.content or ""


async def accepted(pool: carpool.Pool, number: int) -> None:
    """Wait until a pool has accepted so many calls."""
    while pool.stats().accepted < number:  # noqa: ASYNC110 - no event tells of it
        await anyio.sleep(0.005)


async def in_thread(func: Any, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(func, *args), limiter=anyio.CapacityLimiter(1))


# --- wrap


async def test_a_wrapped_client_has_its_type_and_rides() -> None:
    async with world() as w:
        given = sdk(max_retries=7, timeout=3)
        client = w.pool.wrap(given)
        assert type(client) is openai.AsyncOpenAI
        assert (client.max_retries, client.timeout) == (7, 3)
        assert (client.api_key, str(client.base_url)) == (KEY, f"{BASE}/")
        assert await chat(client, "rides") == "rides"
    assert w.emulator.books().live == 0


async def test_the_client_that_was_given_is_left_as_it_was() -> None:
    passed: list[str] = []

    def take(request: httpx2.Request) -> httpx2.Response:
        passed.append(request.url.path)
        return httpx2.Response(200, json={"object": "list", "data": []})

    async with world() as w:
        given = sdk(httpx2.MockTransport(take))
        w.pool.wrap(given)
        with pytest.raises(carpool.ConfigurationError, match="do not ride"):
            carpool.pool_of(given)
    assert not given.is_closed()
    await given.models.list()
    assert passed == ["/v1/models"]


async def test_wrapping_twice_gives_the_same_client() -> None:
    async with world() as w:
        client = w.pool.wrap(sdk())
        assert w.pool.wrap(client) is client
        assert w.pool.wrap(client.with_options(timeout=1)) is not client
        assert carpool.pool_of(client) is carpool.pool_of(client.with_options(timeout=1)) is w.pool


@asyncio_only
@pytest.mark.parametrize("thing", [None, "client", object(), 3])
def test_what_does_not_ride_has_no_pool(thing: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="do not ride in a pool"):
        carpool.pool_of(thing)


async def test_copies_ride_too_with_what_they_change() -> None:
    async with world(pace=SLOW) as w:
        client = w.pool.wrap(sdk())
        for copy in (
            client.with_options(timeout=0.001, max_retries=0),
            client.copy(),
            client.with_options(default_headers={"x-more": "1"}),
            client.with_options(max_retries=5).with_options(timeout=1),
        ):
            assert carpool.pool_of(copy) is w.pool
            assert await chat(copy, "copy") == "copy"
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=messages("raw"))
        assert raw.headers["x-carpool-batch-id"].startswith("batch_")
        assert raw.parse().choices[0].message.content == "raw"
        assert raw.elapsed.total_seconds() >= 0
        async with client.chat.completions.with_streaming_response.create(model="m", messages=messages("it")) as lines:
            assert "it" in "".join([line async for line in lines.iter_lines()])
    assert w.emulator.books().live == 0


async def test_a_copy_of_another_account_is_refused_at_its_first_call() -> None:
    async with world() as w:
        client = w.pool.wrap(sdk(max_retries=0))
        for copy, word in (
            (client.with_options(api_key=SECRET), "another API key"),
            (client.with_options(organization="theirs"), "theirs"),
            (client.with_options(project="theirs"), "theirs"),
            (client.with_options(base_url="http://other/v1"), "http://other/v1"),
        ):
            with pytest.raises(openai.BadRequestError, match=word) as caught:
                await chat(copy)
            assert isinstance(carpool.error_of(caught.value), carpool.ConfigurationError)
            assert SECRET not in str(caught.value)
            assert KEY not in str(caught.value)
    assert w.transport.requests == []


async def test_closing_a_wrapped_client_does_not_end_it() -> None:
    async with world() as w:
        client = w.pool.wrap(sdk())
        async with client:
            assert await chat(client) == "hi"
        await client.close()
        assert not client.is_closed()
        assert await chat(client) == "hi"


async def test_the_sdks_own_timeout_and_retries_do_not_fire() -> None:
    async with world(pace=SLOW) as w:
        assert await chat(w.pool.wrap(sdk(timeout=1, max_retries=3)), "late") == "late"
    assert w.emulator.books().times({"messages": messages("late"), "model": "gpt-5-mini"}) == 1


async def test_a_blocking_client_is_refused_where_the_pool_has_no_thread_of_its_own() -> None:
    async with world() as w:
        client = w.pool.wrap(blocking_sdk(max_retries=2))
        assert type(client) is openai.OpenAI
        with pytest.raises(openai.BadRequestError, match="thread=True") as caught:
            blocking_chat(client)
        assert isinstance(carpool.error_of(caught.value), carpool.ConfigurationError)
        with pytest.raises(openai.BadRequestError, match="thread=True"):
            await in_thread(blocking_chat, client)
    assert w.transport.requests == []


# --- the user's own HTTP client


class Seen:
    """Keep what a user's own HTTP client sends and its hooks hear."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.heard: list[str] = []
        self.transport = httpx2.MockTransport(self._take)

    def _take(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(200, json={"object": "list", "data": []}, headers={"set-cookie": "c=d"})

    async def on_request(self, request: httpx2.Request) -> None:
        self.heard.append(f"asked {request.url.path}")

    async def on_response(self, response: httpx2.Response) -> None:
        self.heard.append(f"told {response.status_code}")


async def test_the_settings_of_the_users_own_http_client_hold() -> None:
    seen = Seen()
    http = httpx2.AsyncClient(
        transport=seen.transport,
        headers={"x-team": "blue"},
        cookies={"a": "b"},
        timeout=77,
        base_url="http://elsewhere/",
    )
    async with world() as w:
        client = w.pool.wrap(sdk(http_client=http))
        await client.models.list()
        assert await chat(client) == "hi"
    (request,) = seen.requests
    assert request.headers["x-team"] == "blue"
    assert request.headers["cookie"] == "a=b"
    assert str(request.url) == f"{BASE}/models"


async def test_the_users_own_http_client_decides_how_long_what_passes_may_take() -> None:
    seen = Seen()
    http = httpx2.AsyncClient(transport=seen.transport, timeout=77)
    async with world() as w:
        await w.pool.wrap(sdk(http_client=http)).models.list()
        await w.pool.wrap(sdk(http_client=http, timeout=5)).models.list()
    assert [request.extensions["timeout"]["read"] for request in seen.requests] == [77, 5]


async def test_parameters_of_the_users_own_http_client_are_not_dropped_silently() -> None:
    """A batch carries no query, so that a call which needs one is refused."""
    seen = Seen()
    http = httpx2.AsyncClient(transport=seen.transport, params={"api-version": "1"})
    async with world() as w:
        client = w.pool.wrap(sdk(http_client=http))
        await client.models.list()
        with pytest.raises(openai.BadRequestError, match="query"):
            await chat(client)
    assert [str(request.url) for request in seen.requests] == [f"{BASE}/models?api-version=1"]


async def test_hooks_of_the_users_own_http_client_hear_once_of_what_passes() -> None:
    """They hear of what that client sends, which is not what rides."""
    seen = Seen()
    hooks: Any = {"request": [seen.on_request], "response": [seen.on_response]}
    http = httpx2.AsyncClient(transport=seen.transport, event_hooks=hooks)
    async with world() as w:
        client = w.pool.wrap(sdk(http_client=http))
        await client.models.list()
        assert seen.heard == ["asked /v1/models", "told 200"]
        seen.heard.clear()
        await chat(client)
    assert seen.heard == []


async def test_the_users_own_authentication_is_applied_to_what_passes_once() -> None:
    class Stamp(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
            request.headers["x-stamp"] = request.headers.get("x-stamp", "") + "1"
            yield request

    seen = Seen()
    http = httpx2.AsyncClient(transport=seen.transport, auth=Stamp())
    async with world() as w:
        await w.pool.wrap(sdk(http_client=http)).models.list()
    assert [request.headers["x-stamp"] for request in seen.requests] == ["1"]


async def test_the_users_own_http_client_is_not_closed_with_the_pool() -> None:
    seen = Seen()
    http = httpx2.AsyncClient(transport=seen.transport)
    async with world() as w:
        client = w.pool.wrap(sdk(http_client=http))
        await client.close()
    assert not http.is_closed
    await http.get(f"{BASE}/models")


async def test_what_passes_follows_redirects_once() -> None:
    asked: list[str] = []

    def redirect(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"{request.method} {request.url}")
        if request.url.path == "/v1/models":
            return httpx2.Response(307, headers={"location": f"{BASE}/moved"})
        return httpx2.Response(200, json={"object": "list", "data": []})

    async with world() as w:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(redirect), follow_redirects=True)
        client = w.pool.wrap(sdk(http_client=http))
        await client.models.list()
        assert asked == [f"GET {BASE}/models", f"GET {BASE}/moved"]


async def test_a_client_of_an_earlier_pool_rides_and_passes_in_a_later_one() -> None:
    passed: list[str] = []

    def take(request: httpx2.Request) -> httpx2.Response:
        passed.append(request.url.path)
        return httpx2.Response(200, json={"object": "list", "data": []})

    async with world() as outer:
        async with carpool.Pool(KEY, BASE, _ports=outer.ports) as earlier:
            first = earlier.wrap(sdk(httpx2.MockTransport(take)))
            assert await chat(first, "one") == "one"
        async with carpool.Pool(KEY, BASE, _ports=outer.ports) as later:
            second = later.wrap(first)
            assert carpool.pool_of(second) is later
            assert await chat(second, "two") == "two"
            await second.models.list()
        with pytest.raises(openai.APIStatusError) as caught:
            await second.models.list()
        assert caught.value.status_code == 410
    assert passed == ["/v1/models"]


@asyncio_only
async def test_a_client_on_an_earlier_pools_http_client_rides_and_passes_in_a_later_one() -> None:
    with served() as (emulator, _):
        async with carpool.Pool(KEY, emulator.url, timing=FAST) as earlier:
            first = sdk(base_url=emulator.url, http_client=earlier.http_client())
            assert earlier.wrap(first) is first
            assert await chat(first, "one") == "one"
        async with carpool.batched(first, timing=FAST) as second:
            assert await chat(second, "two") == "two"
            assert (await second.models.list()).object == "list"


async def test_a_client_that_rides_in_another_pool_is_sent_live_where_that_is_asked_for() -> None:
    passed: list[str] = []

    def take(request: httpx2.Request) -> httpx2.Response:
        passed.append(request.url.path)
        return httpx2.Response(200, json={"id": "live", "choices": [], "created": 0, "model": "m", "object": "o"})

    async with world() as outer, carpool.Pool(KEY, BASE, _ports=outer.ports) as other:
        client = other.wrap(outer.pool.wrap(sdk(httpx2.MockTransport(take))))
        answer = await client.chat.completions.create(
            model="m", messages=messages("hi"), extra_headers={"x-carpool": "live"}
        )
        assert answer.id == "live"
    assert passed == [CHAT]
    assert outer.emulator.books().batches == ()


# --- accounts


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "http://other/v1"}, ["http://other/v1", BASE]),
        ({"organization": "org-theirs"}, ["OpenAI-Organization org-theirs", BASE]),
        ({"project": "proj-theirs"}, ["OpenAI-Project proj-theirs", BASE]),
        ({"api_key": SECRET}, ["another API key", BASE]),
    ],
)
async def test_a_client_of_another_account_is_refused_naming_both(settings: dict[str, Any], words: list[str]) -> None:
    async with world() as w:
        for client in (sdk(**settings), blocking_sdk(**settings)):
            with pytest.raises(carpool.ConfigurationError) as caught:
                w.pool.wrap(client)
            for word in words:
                assert word in str(caught.value)
            assert SECRET not in str(caught.value)
            assert KEY not in str(caught.value)


async def test_organisation_and_project_are_the_environments_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    async with world() as w:
        assert await chat(w.pool.wrap(sdk())) == "hi"
        with pytest.raises(carpool.ConfigurationError) as caught:
            w.pool.wrap(sdk(organization="org-2"))
    assert "org-1" in str(caught.value)
    assert "org-2" in str(caught.value)


async def test_a_header_in_other_letters_names_the_same_organisation() -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="theirs"):
            w.pool.wrap(sdk(default_headers={"openai-organization": "theirs"}))


async def test_a_callable_key_must_give_the_key_of_the_pool() -> None:
    async def same() -> str:
        return KEY

    async def other() -> str:
        return SECRET

    async with world() as w:
        assert await chat(w.pool.wrap(sdk(api_key=same))) == "hi"
        with pytest.raises(openai.BadRequestError, match="another API key") as caught:
            await chat(w.pool.wrap(sdk(api_key=other)))
    assert SECRET not in str(caught.value)


class Anthropic:
    """Look like a client of another SDK."""

    def __init__(self) -> None:
        self.api_key = SECRET
        self.base_url = "https://api.anthropic.com"
        self._client = httpx2.AsyncClient(transport=NOWHERE)

    def with_options(self, **more: Any) -> "Anthropic":
        return self


Anthropic.__module__ = "anthropic._client"
GenaiClient = type("Client", (), {"__module__": "google.genai.client", "api_key": SECRET})


@asyncio_only
@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (Anthropic(), ["anthropic (Anthropic)", "openai", "http_client"]),
        (GenaiClient(), ["google (Client)"]),
        (httpx2.AsyncClient(transport=NOWHERE), ["httpx2 (AsyncClient)"]),
        (object(), ["object"]),
        (None, ["NoneType"]),
        ("sk-key", ["str"]),
        (openai, ["module"]),
        (openai.AsyncOpenAI, ["type"]),
        (sdk().chat.completions, ["AsyncCompletions"]),
        (sdk().with_raw_response, ["AsyncOpenAIWithRawResponse"]),
    ],
)
def test_what_cannot_be_batched_is_refused_and_says_what_can(thing: Any, words: list[str]) -> None:
    pool = carpool.Pool(KEY, BASE)
    for refuse in (pool.wrap, carpool.batched):
        with pytest.raises(carpool.ConfigurationError) as caught:
            refuse(thing)
        for word in [*words, "cannot ride", "pool.http_client()"]:
            assert word in str(caught.value)
        assert SECRET not in str(caught.value)


@asyncio_only
def test_a_client_that_names_its_deployments_in_the_url_is_refused() -> None:
    settings: dict[str, Any] = {"api_key": SECRET, "azure_endpoint": "https://x.azure.com", "api_version": "2025-01-01"}
    azure: list[Any] = [
        openai.AsyncAzureOpenAI(**settings, http_client=httpx2.AsyncClient(transport=NOWHERE)),
        openai.AzureOpenAI(**settings, http_client=httpx2.Client(transport=NOWHERE)),
    ]
    for client in azure:
        with pytest.raises(carpool.ConfigurationError, match="Azure") as caught:
            carpool.batched(client)
        assert SECRET not in str(caught.value)


@asyncio_only
def test_a_client_that_signs_its_calls_by_an_identity_is_refused() -> None:
    identity: Any = {
        "identity_provider_id": "idp",
        "service_account_id": "sa",
        "client_id": "c",
        "provider": {"token_type": "jwt", "get_token": lambda: SECRET},
    }
    client = sdk(api_key=None, workload_identity=identity)
    with pytest.raises(carpool.ConfigurationError, match="API key"):
        carpool.batched(client)


@asyncio_only
def test_a_client_without_a_key_for_batches_is_refused() -> None:
    with pytest.raises(carpool.ConfigurationError, match="no API key"):
        carpool.batched(sdk(api_key="", admin_api_key=SECRET))


# --- batched


class Recorder:
    """Stand before an emulator's application, and keep what each request carried."""

    def __init__(self, emulator: Emulator) -> None:
        self._app = emulator.app
        self.requests: list[tuple[str, dict[str, str]]] = []
        emulator.app = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((f"{scope['method']} {scope['path']}", headers))
        await self._app(scope, receive, send)

    def headers(self, route: str) -> dict[str, str]:
        """Give the headers of the first request of a route."""
        return next(headers for came, headers in self.requests if came == route)


@contextmanager
def served(**settings: Any) -> Iterator[tuple[Emulator, Recorder]]:
    """Run an emulator that keeps what it is sent."""
    emulator = Emulator(**settings)
    recorder = Recorder(emulator)
    with emulator:
        yield emulator, recorder
    assert emulator.books().live == 0


@real
async def test_one_line_lets_a_client_ride(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, str] = {}
    with served(api_key=KEY) as (emulator, _):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", emulator.url)
        async with carpool.batched(openai.AsyncOpenAI(), timing=PATIENT) as client, anyio.create_task_group() as tasks:

            async def ask(text: str) -> None:
                answers[text] = await chat(client, text)

            for number in range(50):
                tasks.start_soon(ask, f"text {number}")
        assert type(client) is openai.AsyncOpenAI
        assert [batch.total for batch in emulator.books().batches] == [50]
        with pytest.raises(openai.APIStatusError) as caught:
            await chat(client)
        assert isinstance(carpool.error_of(caught.value), carpool.PoolClosed)
    assert answers == {f"text {number}": f"text {number}" for number in range(50)}


@asyncio_only
def test_one_line_lets_a_blocking_client_ride_from_threads() -> None:
    with served(api_key=KEY) as (emulator, _):
        given = openai.OpenAI(api_key=KEY, base_url=emulator.url)
        with carpool.batched(given, timing=FAST) as client, ThreadPoolExecutor(20) as threads:
            texts = [f"text {number}" for number in range(20)]
            assert list(threads.map(partial(blocking_chat, client), texts)) == texts
            assert type(client) is openai.OpenAI
            client.close()
            with client:
                assert blocking_chat(client, "this thread") == "this thread"
            assert not client.is_closed()
            assert blocking_chat(client.with_options(timeout=0.001, max_retries=0), "a copy") == "a copy"
            assert client.models.list().object == "list"
        with pytest.raises(openai.APIStatusError, match="closed"):
            blocking_chat(client)
        given.close()


@asyncio_only
async def test_a_blocking_client_rides_in_an_async_block_from_any_thread() -> None:
    with served() as (emulator, _):
        given = openai.OpenAI(api_key=KEY, base_url=emulator.url)
        async with carpool.batched(given, timing=FAST) as client:
            assert await in_thread(blocking_chat, client, "worker") == "worker"
            # The pool has a thread of its own: to block this one keeps it from nothing.
            assert blocking_chat(client, "here") == "here"
        given.close()


@asyncio_only
async def test_an_async_client_rides_in_a_plain_block() -> None:
    with served() as (emulator, _), carpool.batched(sdk(base_url=emulator.url), timing=FAST) as client:
        assert await chat(client, "plain") == "plain"


@real
async def test_leaving_by_an_exception_ends_what_rides() -> None:
    errors: list[BaseException] = []

    async def ask(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            await chat(client)
        errors.append(caught.value)

    async def leave(url: str) -> None:
        async with carpool.batched(sdk(base_url=url), timing=FAST) as client:
            tasks.start_soon(ask, client)
            await accepted(carpool.pool_of(client), 1)
            raise ZeroDivisionError

    with served(pace=Pace(running=60)) as (emulator, _):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(ZeroDivisionError):
                await leave(emulator.url)
    assert [type(carpool.error_of(error)) for error in errors] == [carpool.PoolClosed]


@asyncio_only
async def test_a_client_says_whose_batches_these_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with served(api_key=KEY) as (emulator, recorder):
        settings: dict[str, Any] = {
            "base_url": emulator.url,
            "organization": "org-1",
            "project": "proj-1",
            "default_headers": {"x-gateway-token": SECRET, "User-Agent": "ours", "X-Stainless-Lang": "x"},
        }
        async with carpool.batched(sdk(**settings), timing=FAST) as client:
            pool = carpool.pool_of(client)
            assert await chat(client) == "hi"
            told = f"{pool!r} {pool} {pool.stats()!r}"
            with pytest.raises(carpool.ConfigurationError) as caught:
                pool.wrap(sdk(**{**settings, "organization": "org-2"}))
        for route in ("POST /v1/files", "POST /v1/batches"):
            headers = recorder.headers(route)
            assert headers["authorization"] == f"Bearer {KEY}"
            assert headers["openai-organization"] == "org-1"
            assert headers["openai-project"] == "proj-1"
            assert headers["x-gateway-token"] == SECRET
    assert "org-1" in str(caught.value)
    assert "org-2" in str(caught.value)
    for text in (told, str(caught.value), "\n".join(caplog.messages)):
        assert SECRET not in text
        assert KEY not in text


@asyncio_only
async def test_own_headers_that_are_a_clients_defaults_hold_and_are_never_sent() -> None:
    with served(pace=Pace(running=60)) as (emulator, recorder):
        given = sdk(base_url=emulator.url, default_headers={"x-carpool-timeout": "0.3", "X-Carpool-Key": "k"})
        async with carpool.batched(given, timing=FAST) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await chat(client)
            assert isinstance(carpool.error_of(caught.value), carpool.RequestExpired)
    names = {name for _, headers in recorder.requests for name in headers}
    assert not [name for name in names if name.startswith("x-carpool")]


@asyncio_only
async def test_a_callable_key_is_asked_for_each_call_that_submits() -> None:
    asked: list[str] = []

    async def provider() -> str:
        asked.append("asynchronously")
        return KEY

    def blocking_provider() -> str:
        asked.append("here")
        return KEY

    with served(api_key=KEY) as (emulator, recorder):
        async with carpool.batched(sdk(base_url=emulator.url, api_key=provider), timing=FAST) as client:
            assert await chat(client) == "hi"
        blocking = blocking_sdk(base_url=emulator.url, api_key=blocking_provider)
        async with carpool.batched(blocking, timing=FAST) as blocking_client:
            assert await in_thread(blocking_chat, blocking_client) == "hi"
        assert {headers["authorization"] for _, headers in recorder.requests} == {f"Bearer {KEY}"}
    assert set(asked) == {"asynchronously", "here"}


@asyncio_only
async def test_a_callable_key_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool.wire.keys._PATIENCE", 1.0)
    turn: list[int] = []

    async def provider() -> str:
        turn.append(1)
        if len(turn) > 1:  # the SDK asks first, for its own request
            raise ValueError(SECRET)
        return KEY

    with served() as (emulator, _):
        given = sdk(base_url=emulator.url, api_key=provider)
        async with carpool.batched(given, timing=FAST) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await chat(client)
    assert isinstance(carpool.error_of(caught.value), carpool.AuthenticationFailed)
    assert SECRET not in str(caught.value)


@asyncio_only
async def test_the_settings_of_batched_are_those_of_the_pool(tmp_path: Any) -> None:
    with served(pace=Pace(running=60)) as (emulator, _):
        folder = tmp_path / "journal"
        async with carpool.batched(sdk(base_url=emulator.url), timing=FAST, timeout=0.3, journal=folder) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await chat(client)
            assert isinstance(carpool.error_of(caught.value), carpool.RequestExpired)
        assert folder.is_dir()


@asyncio_only
@pytest.mark.parametrize("setting", ["api_key", "base_url"])
def test_batched_takes_the_account_from_the_client_alone(setting: str) -> None:
    given: dict[str, Any] = {setting: SECRET}
    with pytest.raises(carpool.ConfigurationError, match="from the client") as caught:
        carpool.batched(sdk(), **given)
    assert SECRET not in str(caught.value)


@asyncio_only
def test_batched_refuses_settings_that_are_wrong() -> None:
    wrong: dict[str, Any] = {"unbatchable": "maybe"}
    with pytest.raises(carpool.ConfigurationError, match="unbatchable"):
        carpool.batched(sdk(), **wrong)
    with pytest.raises(TypeError, match="lingering"):
        carpool.batched(sdk(), lingering=1)  # type: ignore[call-arg]


@asyncio_only
def test_the_settings_that_batched_takes_are_those_of_the_pool_by_name() -> None:
    parameters = inspect.signature(carpool.Pool).parameters.values()
    settings = {parameter.name for parameter in parameters if not parameter.name.startswith("_")}
    assert PoolSettings.__optional_keys__ == settings - {"api_key", "base_url"}
    assert PoolSettings.__required_keys__ == frozenset()


@asyncio_only
async def test_a_block_is_entered_once() -> None:
    with served() as (emulator, _):
        batched = carpool.batched(sdk(base_url=emulator.url), timing=FAST)
        async with batched:
            pass
        with pytest.raises(carpool.PoolClosed, match="once"):
            async with batched:
                pass


@asyncio_only
async def test_a_block_that_cannot_be_opened_leaves_nothing(tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    for thread in (False, True):
        with pytest.raises(carpool.CarpoolError):
            async with carpool.batched(sdk(), journal=file, thread=thread):
                raise AssertionError("entered")
    with pytest.raises(carpool.CarpoolError), carpool.batched(blocking_sdk(), journal=file):
        raise AssertionError("entered")


async def test_where_the_mode_is_live_all_passes() -> None:
    seen = Seen()
    async with world(pool={"mode": "live"}) as w:
        client = w.pool.wrap(sdk(seen.transport))
        await client.put("/things", cast_to=object, body={})
        await client.post("/files/%41", cast_to=object, body={})
    assert [(request.method, request.url.raw_path) for request in seen.requests] == [
        ("PUT", b"/v1/things"),
        ("POST", b"/v1/files/%41"),
    ]


@asyncio_only
async def test_clients_whose_default_headers_differ_may_be_of_other_accounts() -> None:
    """The tenant of a gateway stands in a header; its value may be secret."""
    one = sdk(default_headers={"X-Tenant": SECRET})
    async with carpool.batched(one, mode="emulate", timing=FAST) as client:
        assert carpool.pool_of(client).wrap(sdk(default_headers={"x-tenant": SECRET})) is not None
        for headers in ({}, {"X-Tenant": "other"}, {"X-Tenant": SECRET, "X-More": "1"}):
            with pytest.raises(carpool.ConfigurationError, match=r"x-(tenant|more).*batched") as caught:
                carpool.pool_of(client).wrap(sdk(default_headers=headers))
            assert SECRET not in str(caught.value)
        with pytest.raises(openai.BadRequestError, match="another x-tenant") as refused:
            await chat(client.with_options(default_headers={"x-tenant": "other"}))
        assert SECRET not in str(refused.value)
        assert await chat(client) == "hi"


async def test_another_callable_key_is_another_account() -> None:
    async def key() -> str:
        return KEY

    async def other() -> str:
        return KEY

    pool = carpool.Pool(key, BASE)
    assert pool.wrap(sdk(api_key=key)) is not None
    for given in (other, KEY):
        with pytest.raises(carpool.ConfigurationError, match="another API key"):
            pool.wrap(sdk(api_key=given))


async def test_a_client_that_cannot_be_copied_is_refused_before_anything_is_opened() -> None:
    class Named(openai.AsyncOpenAI):
        def __init__(self, name: str) -> None:
            super().__init__(api_key=KEY, base_url=BASE, http_client=httpx2.AsyncClient(transport=NOWHERE))
            self.name = name

    with pytest.raises(carpool.ConfigurationError, match=r"Named.*http_client=pool\.http_client"):
        carpool.batched(Named("ours"), thread=True)


@pytest.mark.parametrize(
    ("settings", "led"),
    [
        ({}, False),
        ({"unbatchable": "live"}, True),
        ({"mode": "live"}, True),
        ({"mode": "emulate"}, False),
        ({"mode": "emulate", "unbatchable": "live"}, False),
    ],
)
async def test_websockets_lead_somewhere_only_where_live_calls_are_asked_for(
    settings: dict[str, Any], led: bool
) -> None:
    client = carpool.Pool(KEY, BASE, **settings).wrap(sdk())
    assert (client.websocket_base_url is None) == led


async def test_a_wrapped_client_of_a_class_of_ones_own_keeps_its_class() -> None:
    class Ours(openai.AsyncOpenAI):
        pass

    async with world() as w:
        given = Ours(api_key=KEY, base_url=BASE, http_client=httpx2.AsyncClient(transport=NOWHERE))
        client = w.pool.wrap(given)
        assert type(client) is Ours
        assert await chat(client) == "hi"


async def test_an_error_of_a_row_keeps_what_the_sdk_tells_of_it() -> None:
    error = {"error": {"message": "Too long.", "type": "invalid_request_error", "param": "messages", "code": "long"}}
    async with world(answer=lambda endpoint, given: Answer(400, error)) as w:
        with pytest.raises(openai.BadRequestError, match=r"Too long\.") as caught:
            await chat(w.pool.wrap(sdk()))
    assert (caught.value.param, caught.value.code, caught.value.type) == ("messages", "long", "invalid_request_error")
    assert caught.value.request_id


async def test_clients_and_the_pool_itself_travel_together() -> None:
    async with world() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(chat, w.pool.wrap(sdk()))
        tasks.start_soon(chat, w.pool.wrap(sdk()))
        tasks.start_soon(w.pool.request, CHAT, body())
    assert sum(batch.total for batch in w.emulator.books().batches) == 3
    assert w.emulator.books().live == 0
