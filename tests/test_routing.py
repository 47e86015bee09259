"""What a client's requests come to: which ride, which pass, which are refused; and failures as HTTP responses."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest
from trio.testing import MockClock
from virtual import CHAT, EMBEDDINGS, InMemory, Samples, VirtualLoop, body, run_here, site, world

import carpool
from carpool.account import account_of
from carpool.testing import Answer, Pace
from carpool.transports import Door

BASE = "http://emulator/v1"
URL = f"http://emulator{CHAT}"
KEY = "sk-key"  # the one of `world`
SLOW = Pace(validating=5, running=60, finalizing=5)
SECRET = "sk-secret-of-somebody"

# What becomes of a request does not depend on the event loop: each backend once, each family once.
families = pytest.mark.parametrize(
    ("anyio_backend", "family"), [("asyncio", "httpx"), ("trio", "httpx2")], indirect=["anyio_backend"]
)
once = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "no_certificates")]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run on virtual time."""
    return (
        ("asyncio", {"loop_factory": VirtualLoop})
        if request.param == "asyncio"
        else ("trio", {"clock": MockClock(autojump_threshold=0)})
    )


def client_of(pool: carpool.Pool, family: str = "httpx2") -> Any:
    anyhow: Any = pool
    return anyhow.http_client(family)


def sdk(transport: Any, **settings: Any) -> openai.AsyncOpenAI:
    """Make an SDK's client; what passes by it goes by this transport."""
    http = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(**{"api_key": KEY, "base_url": BASE, "http_client": http, **settings})


async def chat(client: openai.AsyncOpenAI, text: str = "hi", **more: Any) -> str:
    messages: Any = [{"role": "user", "content": text}]
    completion = await client.chat.completions.create(model="gpt-5-mini", messages=messages, **more)
    answer: str = completion.choices[0].message.content
    return answer


class Server:
    """Answer whatever comes, and keep it."""

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        self.requests: list[Any] = []
        said = {"role": "assistant", "content": "live"}
        completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        self._answer = answer or {**completion, "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}
        self.transport = httpx2.MockTransport(self._take)

    def _take(self, request: Any) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(200, json=self._answer)

    def paths(self) -> list[str]:
        """Give what was asked for."""
        return [f"{request.method} {request.url.path}" for request in self.requests]

    def own_headers(self) -> set[str]:
        """Give the headers that should not have come."""
        return {name for request in self.requests for name in request.headers if name.startswith("x-carpool")}


def check_refused(response: Any, kind: type[carpool.CarpoolError], status: int) -> carpool.CarpoolError:
    """Check that a response is a clear refusal, and give the error behind it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-carpool-error"] == kind.__name__
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == kind.__name__
    with pytest.raises((httpx.HTTPStatusError, httpx2.HTTPStatusError)) as caught:
        response.raise_for_status()
    behind = carpool.error_of(caught.value)
    assert type(behind) is kind
    assert error["message"] == str(behind)
    return behind


# --- what is refused


def post(path: str, given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Describe a request that is to be refused."""
    url = path if "://" in path else f"http://emulator{path}"
    return {"method": "POST", "url": url, **({"json": body() if given is None else given} if not more else {}), **more}


JSON = {"content-type": "application/json"}
FILES: Any = {"image": ("cat.png", b"\x89PNG", "image/png")}
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "stream": (post(CHAT, body(stream=True)), "stream"),
    "stream of a response": (post("/v1/responses", {"model": "m", "input": "hi", "stream": True}), "stream"),
    "speech": (post("/v1/audio/speech", {"model": "tts-1", "input": "hi", "voice": "alloy"}), "/v1/audio/speech"),
    "realtime": (post("/v1/realtime/sessions", {"model": "m"}), "/v1/realtime/sessions"),
    "cancelling a response": (post("/v1/responses/resp_1/cancel", {}), "/v1/responses/resp_1/cancel"),
    "fine-tuning": (post("/v1/fine_tuning/jobs", {"model": "m"}), "/v1/fine_tuning/jobs"),
    "threads": (post("/v1/threads/runs", {"assistant_id": "a"}), "/v1/threads/runs"),
    "a new endpoint": (post("/v1/dreams", {"model": "m"}), "/v1/dreams"),
    "a slash behind": (post(f"{CHAT}/"), f"{CHAT}/"),
    "two slashes": (post("/v1//chat/completions"), "/v1//chat/completions"),
    "only the base": (post("/v1/"), "/v1/"),
    "like a free one": (post("/v1/filesystem"), "/v1/filesystem"),
    "multipart edit": (
        post("/v1/images/edits", data={"model": "m", "prompt": "p"}, files=FILES),
        "multipart/form-data",
    ),
    "multipart audio": (post("/v1/audio/transcriptions", data={"model": "m"}, files=FILES), "multipart/form-data"),
    "form": (post(CHAT, data={"model": "m"}), "application/x-www-form-urlencoded"),
    "query": (post(f"{CHAT}?api-version=1"), "query"),
    "compressed": (post(CHAT, content=b"\x1f\x8b", headers={**JSON, "content-encoding": "gzip"}), "plain JSON"),
    "not JSON": (post(CHAT, content=b"hello", headers=JSON), "JSON"),
    "half of it": (post(CHAT, content=b'{"model":"m"', headers=JSON), "JSON"),
    "NaN": (post(CHAT, content=b'{"model":"m","x":NaN}', headers=JSON), "JSON"),
    "two objects": (post(CHAT, content=b'{"model":"m"}{"model":"m"}', headers=JSON), "JSON"),
    "a list": (post(CHAT, content=b"[]", headers=JSON), "JSON object"),
    "nothing": (post(CHAT, content=b"", headers=JSON), "JSON"),
    "not UTF-8": (post(CHAT, content=b'{"model":"\xff"}', headers=JSON), "UTF-8"),
    "a byte order mark": (post(CHAT, content=b"\xef\xbb\xbf" + json.dumps(body()).encode(), headers=JSON), "JSON"),
    "UTF-16": (post(CHAT, content=json.dumps(body()).encode("utf-16"), headers=JSON), "UTF-8"),
    "no model": (post(CHAT, {"messages": []}), "model"),
    "an empty model": (post(CHAT, {"model": "", "messages": []}), "model"),
    "a number as model": (post(CHAT, {"model": 4, "messages": []}), "model"),
}


@families
async def test_what_cannot_ride_is_refused_and_says_why(family: str) -> None:
    async with world() as w:
        client = client_of(w.pool, family)
        for name, (request, word) in UNFIT.items():
            response = await client.request(**request)
            assert word in str(check_refused(response, carpool.Unbatchable, 400)), name
    assert w.emulator.books().batches == ()
    assert w.transport.requests == []


async def test_the_parameter_in_the_way_is_named() -> None:
    async with world() as w:
        client = client_of(w.pool)
        stream = await client.post(URL, json=body(stream=True))
        other = await client.post(URL, json={})
    assert (stream.json()["error"]["param"], stream.json()["error"]["code"]) == ("stream", "unbatchable")
    assert other.json()["error"]["param"] is None


@pytest.mark.parametrize("unbatchable", ["refuse", "live"])
async def test_a_query_may_hold_a_key_and_is_quoted_nowhere(unbatchable: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "carpool")
    server = Server()
    async with world(pool={"unbatchable": unbatchable}) as w:
        client = w.pool.wrap(sdk(server.transport, default_query={"key": SECRET}))
        if unbatchable == "live":
            assert await chat(client) == "live"
        else:
            with pytest.raises(openai.BadRequestError) as status:
                await chat(client)
            assert SECRET not in str(status.value)
        with carpool.options(live=True):
            assert await chat(client) == "live"
    assert {request.url.query for request in server.requests} == {f"key={SECRET}".encode()}
    assert SECRET not in caplog.text


async def test_a_stream_that_is_false_rides() -> None:
    async with world() as w:
        assert (await client_of(w.pool).post(URL, json=body(stream=False))).status_code == 200


@families
async def test_a_content_type_may_be_written_in_other_ways(family: str) -> None:
    content = json.dumps(body()).encode()
    async with world() as w:
        client = client_of(w.pool, family)
        for headers in ({"content-type": "application/json; charset=utf-8"}, {"content-type": "Application/JSON"}, {}):
            response = await client.post(URL, content=content, headers=headers)
            assert response.status_code == 200


@families
async def test_what_is_too_large_for_any_file_is_refused(family: str) -> None:
    given = {"model": "m", "input": ["a"] * 50_001}
    async with world() as w:
        response = await client_of(w.pool, family).post(f"http://emulator{EMBEDDINGS}", json=given)
    assert "50,001" in str(check_refused(response, carpool.LimitExceeded, 413))


async def test_what_is_too_large_for_the_whole_queue_is_refused() -> None:
    async with world(pool={"limits": {"*": 10}, "counter": lambda endpoint, model, given: 11}) as w:
        response = await client_of(w.pool).post(URL, json=body())
    check_refused(response, carpool.LimitExceeded, 413)
    assert w.emulator.books().batches == ()


# --- another account


FOREIGN = [
    "http://other/v1/chat/completions",
    "https://emulator/v1/chat/completions",
    "http://emulator:8000/v1/chat/completions",
    "http://emulator/v2/chat/completions",
    "http://emulator/v1beta/chat/completions",
    "http://emulator/chat/completions",
    "http://emulator.other/v1/chat/completions",
    "http://emulator/v1",
    "http://emulator/v1/../v2/chat/completions",
]


@families
async def test_another_base_url_is_refused_naming_both(family: str) -> None:
    async with world() as w:
        client = client_of(w.pool, family)
        for url in FOREIGN:
            response = await client.post(url, json=body())
            message = str(check_refused(response, carpool.ConfigurationError, 400))
            assert f"for {BASE}" in message
            assert str(httpx2.URL(url)) in message
    assert w.transport.requests == []


async def test_a_password_in_another_base_url_is_quoted_nowhere() -> None:
    async with world() as w:
        response = await client_of(w.pool).post(
            f"http://user:{SECRET}@other/v1/chat/completions?key={SECRET}", json=body()
        )
    check_refused(response, carpool.ConfigurationError, 400)
    assert SECRET not in response.text


@pytest.mark.parametrize("url", ["HTTP://Emulator/v1", "http://emulator:80/v1/"])
async def test_a_base_url_may_be_written_in_other_ways(url: str) -> None:
    async with world() as outer, carpool.Pool(KEY, url, _ports=outer.ports) as pool:
        assert (await client_of(pool).post(URL, json=body())).status_code == 200
        assert await chat(pool.wrap(sdk(outer.transport, base_url=url))) == "hi"
    assert outer.emulator.books().live == 0


@families
async def test_another_key_is_refused_and_no_key_is_quoted(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "carpool")
    async with world() as w:
        client = client_of(w.pool, family)
        for value in (f"Bearer {SECRET}", f"Basic {SECRET}", SECRET, "", f"Bearer {KEY}x"):
            response = await client.post(URL, json=body(), headers={"Authorization": value})
            error = check_refused(response, carpool.ConfigurationError, 400)
            assert "another API key" in str(error)
            for key in (SECRET, KEY):
                assert key not in f"{response.text}{response.headers}{error!r}"
        good: list[dict[str, str]] = [{"authorization": f"Bearer {KEY}"}, {}]
        for headers in good:
            assert (await client.post(URL, json=body(), headers=headers)).status_code == 200
    assert SECRET not in caplog.text
    assert KEY not in caplog.text


@once
def test_what_is_made_of_the_account_shows_no_key_in_a_traceback_with_its_values() -> None:
    async def ask(request: carpool.Request) -> carpool.Response:
        raise AssertionError("nothing rides here")

    def ask_blocking(request: carpool.Request) -> carpool.Response:
        raise AssertionError("nothing rides here")

    account = account_of(BASE, SECRET, {"x-gateway-token": SECRET})
    door = Door(
        account=account,
        ask=ask,
        ask_blocking=ask_blocking,
        live_url=lambda: None,
        unfit="refuse",
        live=False,
        emulated=False,
        budgeted=False,
        timeout=None,
    )
    for thing in (account, door, carpool.Pool(SECRET, BASE)):
        assert SECRET not in f"{thing!r} {thing}"
    assert SECRET not in account.name


async def test_any_key_rides_where_the_pools_is_a_callable() -> None:
    async with world() as outer, carpool.Pool(lambda: KEY, BASE, _ports=outer.ports) as pool:
        for value in ("Bearer one", "Bearer two"):
            response = await client_of(pool).post(URL, json=body(), headers={"Authorization": value})
            assert response.status_code == 200


@families
@pytest.mark.parametrize("name", ["OpenAI-Organization", "OpenAI-Project"])
async def test_another_organisation_or_project_is_refused_naming_both(
    family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}[name]
    async with world() as outer:
        monkeypatch.setenv(variable, "ours")
        async with carpool.Pool(KEY, BASE, _ports=outer.ports) as pool:
            client = client_of(pool, family)
            response = await client.post(URL, json=body(), headers={name.lower(): "theirs"})
            message = str(check_refused(response, carpool.ConfigurationError, 400))
            assert name.lower() in message.lower()
            assert "ours" in message
            assert "theirs" in message
            assert (await client.post(URL, json=body(), headers={name: "ours"})).status_code == 200
            assert (await client.post(URL, json=body())).status_code == 200
        monkeypatch.delenv(variable)
        response = await client_of(outer.pool, family).post(URL, json=body(), headers={name: "theirs"})
        assert "theirs" in str(check_refused(response, carpool.ConfigurationError, 400))


# --- what passes


async def test_what_costs_nothing_passes_by_the_clients_own_connections() -> None:
    async with world() as w:
        client = w.pool.wrap(sdk(w.transport))
        await client.models.list()
        file = await client.files.create(file=("a.jsonl", b'{"a": 1}\n'), purpose="user_data")
        assert (await client.files.content(file.id)).content == b'{"a": 1}\n'
        assert [entry.id async for entry in client.files.list()] == [file.id]
        assert [entry async for entry in client.batches.list()] == []
        await client.files.delete(file.id)
    books = w.emulator.books()
    assert books.live == 0
    assert books.routes["GET /v1/models"] == 1
    assert books.routes["POST /v1/files"] == 1
    assert books.routes["DELETE /v1/files/{id}"] == 1


@pytest.mark.parametrize(
    "path", ["/files", "/uploads", "/uploads/u/parts", "/batches", "/vector_stores", "/containers"]
)
async def test_a_post_that_runs_no_model_passes(path: str) -> None:
    server = Server()
    async with world() as w:
        await w.pool.wrap(sdk(server.transport)).post(path, body={}, cast_to=httpx2.Response)
    assert server.paths() == [f"POST /v1{path}"]


# What Google and Mistral call so runs a model.
OTHER_WAYS = ["/models/gemini-2.5-flash:generateContent", "/models/some/predict", "/models", "/conversations"]
# Servers may decode and follow what no client of httpx's family does.
ROUNDABOUT = ["/files/%2e%2e/chat/completions", "/batches/..%2Fchat/completions", "/files/.%2E/responses"]


@pytest.mark.parametrize("path", [*OTHER_WAYS, *ROUNDABOUT])
async def test_a_post_that_only_looks_free_is_refused(path: str) -> None:
    server = Server()
    async with world() as w:
        with pytest.raises(openai.BadRequestError) as status:
            await w.pool.wrap(sdk(server.transport)).post(path, body={"contents": []}, cast_to=httpx2.Response)
    assert isinstance(carpool.error_of(status.value), carpool.Unbatchable)
    assert server.requests == []


async def test_a_request_that_is_no_post_passes_whatever_its_account() -> None:
    server = Server()
    async with world() as w:
        client = w.pool.wrap(sdk(server.transport))
        await client.get("http://other/v1/models", cast_to=httpx2.Response)
        await client.get("/responses/resp_1", cast_to=httpx2.Response)
        await client.delete("/responses/resp_1", cast_to=httpx2.Response)
    assert server.paths() == ["GET /v1/models", "GET /v1/responses/resp_1", "DELETE /v1/responses/resp_1"]


async def test_own_headers_do_not_pass() -> None:
    server = Server()
    headers = {
        "X-Carpool-Key": "k",
        "x-carpool-timeout": "10",
        "x-carpool": "live",
        "x-carpool-tag": "a",
        "x-other": "stays",
    }
    async with world() as w:
        client = w.pool.wrap(sdk(server.transport))
        await client.models.list(extra_headers=headers)
        assert await chat(client, extra_headers=headers) == "live"
        with carpool.options(live=True):
            del headers["x-carpool"]
            assert await chat(client, extra_headers=headers) == "live"
    assert server.paths() == ["GET /v1/models", f"POST {CHAT}", f"POST {CHAT}"]
    assert server.own_headers() == set()
    assert {request.headers["x-other"] for request in server.requests} == {"stays"}


# --- unbatchable="live"


async def test_what_cannot_ride_is_sent_live_where_the_user_said_so_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    async with world(pool={"unbatchable": "live"}) as w:
        client = w.pool.wrap(sdk(server.transport))
        stream: Any = await client.chat.completions.create(model="m", messages=[], stream=True)
        await stream.close()
        headers = {"x-carpool-key": "k"}
        speech = {"model": "m", "voice": "alloy", "input": "hi"}
        await client.post("/audio/speech", body=speech, cast_to=httpx2.Response, options={"headers": headers})
        await client.audio.transcriptions.create(model="m", file=("a.mp3", b"mp3"))
        live = [entry for entry in caplog.records if "full price" in entry.getMessage()]
        assert [entry.levelname for entry in live] == ["WARNING"] * 3
        assert await chat(client, "rides") == "rides"
    assert server.paths() == [f"POST {CHAT}", "POST /v1/audio/speech", "POST /v1/audio/transcriptions"]
    assert server.own_headers() == set()
    assert json.loads(server.requests[0].content)["stream"] is True
    assert b"mp3" in server.requests[2].content
    assert w.emulator.books().live == 0


async def test_each_request_that_cannot_ride_reaches_the_server_as_it_was() -> None:
    server = Server()
    sent = [request for request, _ in UNFIT.values() if "json" in request and "//" not in request["url"][7:]]
    async with world(pool={"unbatchable": "live"}) as w:
        client = w.pool.wrap(sdk(server.transport))
        for request in sent:
            await client.post(request["url"], body=request["json"], cast_to=httpx2.Response)
    assert [json.loads(came.content) for came in server.requests] == [request["json"] for request in sent]
    assert [str(came.url) for came in server.requests] == [request["url"] for request in sent]
    assert w.emulator.books().batches == ()


async def test_another_account_is_refused_even_where_the_rest_is_sent_live() -> None:
    server = Server()
    async with world(pool={"unbatchable": "live"}) as w:
        client = w.pool.wrap(sdk(server.transport, max_retries=0))
        for other in (
            client.with_options(api_key=SECRET),
            client.with_options(base_url="http://other/v1"),
            client.with_options(organization="theirs"),
        ):
            for stream in (True, False):
                with pytest.raises(openai.BadRequestError) as caught:
                    await chat(other, stream=stream)
                assert isinstance(carpool.error_of(caught.value), carpool.ConfigurationError)
        given = {"model": "m", "input": ["a"] * 50_001}
        with pytest.raises(openai.APIStatusError) as too_large:
            await client.post("/embeddings", body=given, cast_to=httpx2.Response)
        assert too_large.value.status_code == 413
    assert server.requests == []


@once
def test_what_becomes_of_the_unbatchable_is_one_of_two() -> None:
    with pytest.raises(carpool.ConfigurationError, match='"refuse" or "live"; got \'pass\''):
        carpool.Pool(KEY, BASE, unbatchable="pass")  # type: ignore[arg-type]


# --- failures are responses


ERROR = {"error": {"message": "No.", "type": "some_error", "param": "messages", "code": "context_length_exceeded"}}


ONCE = {"retry": carpool.Retry(max_attempts=1, max_expiries=1)}
ROWS = [
    (400, carpool.RequestRejected),
    (404, carpool.RequestRejected),
    (429, carpool.RequestFailed),
    (500, carpool.RequestFailed),
]


@families
@pytest.mark.parametrize(("status", "kind"), ROWS)
async def test_a_row_that_failed_is_a_response_with_its_own_status_and_body(
    family: str, status: int, kind: type[carpool.RequestFailed]
) -> None:
    async with world(pool=ONCE, answer=lambda endpoint, given: Answer(status, ERROR)) as w:
        response = await client_of(w.pool, family).post(URL, json=body())
    (batch,) = w.emulator.books().batches
    assert (response.status_code, response.json()) == (status, ERROR)
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-carpool-error"] == kind.__name__
    assert response.headers["x-carpool-batch-id"] == batch.id
    assert response.headers["x-carpool-custom-id"] in {custom_id for custom_id, _ in w.emulator.books().runs}
    assert response.headers["x-request-id"].startswith("req")
    with pytest.raises((httpx.HTTPStatusError, httpx2.HTTPStatusError)) as caught:
        response.raise_for_status()
    error = carpool.error_of(caught.value)
    assert isinstance(error, carpool.RequestFailed)
    assert (type(error), error.status_code, error.code) == (kind, status, "context_length_exceeded")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_a_row_that_failed_is_raised_by_the_sdk_as_usual_and_asked_for_once(
    status: int, kind: type[openai.APIStatusError]
) -> None:
    async with world(pool=ONCE, answer=lambda endpoint, given: Answer(status, ERROR)) as w:
        with pytest.raises(kind) as caught:
            await chat(w.pool.wrap(sdk(w.transport, max_retries=5)))
    assert (caught.value.body, caught.value.code) == (ERROR["error"], "context_length_exceeded")
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req")
    assert isinstance(carpool.error_of(caught.value), carpool.RequestFailed)
    assert sum(w.emulator.books().bodies.values()) == 1
    assert w.emulator.books().live == 0


@pytest.mark.parametrize("status", [302, 304, 399])
async def test_a_row_with_a_status_that_clients_take_for_no_error_is_one(status: int) -> None:
    async with world(answer=lambda endpoint, given: Answer(status, ERROR)) as w:
        response = await client_of(w.pool).post(URL, json=body())
    assert check_refused(response, carpool.RequestFailed, 424).args == ("No.",)


@families
async def test_a_row_that_failed_with_the_status_of_an_answer_is_no_answer(family: str) -> None:
    error = {"code": "internal", "message": "It broke."}
    async with world() as outer:
        ports = outer.ports._replace(transport=Rewriting(outer.emulator.app, error=error))
        async with carpool.Pool(KEY, BASE, _ports=ports) as pool:
            response = await client_of(pool, family).post(URL, json=body())
    assert response.status_code == 424
    assert response.headers["x-carpool-error"] == "RequestFailed"
    assert response.json()["error"]["code"] == "internal"
    assert "It broke." in response.json()["error"]["message"]


class Rewriting(InMemory):
    """Change the rows of the files that are fetched; `drop` leaves them out."""

    def __init__(self, app: Any, *, drop: bool = False, **changes: Any) -> None:
        super().__init__(app)
        self._drop = drop
        self._changes = changes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if not request.url.path.endswith("/content"):
            return response
        rows = [json.loads(line) for line in (await response.aread()).splitlines()]
        changed = [] if self._drop else [{**row, **self._changes} for row in rows]
        return httpx2.Response(200, content="".join(json.dumps(row) + "\n" for row in changed).encode())


@pytest.mark.parametrize("route", ["POST /v1/files", "POST /v1/batches"])
async def test_a_page_in_place_of_a_reply_is_no_answer(route: str) -> None:
    class Page(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if f"{request.method} {request.url.path}" == route:
                return httpx2.Response(200, text="<html>Please sign in.</html>")
            return await super().handle_async_request(request)

    async with world() as outer:
        ports = outer.ports._replace(transport=Page(outer.emulator.app))
        async with carpool.Pool(KEY, BASE, _ports=ports) as pool:
            response = await client_of(pool).post(URL, json=body())
    check_refused(response, carpool.RequestFailed, 424)


@families
async def test_a_row_with_neither_answer_nor_error_is_told(family: str) -> None:
    async with world() as outer:
        ports = outer.ports._replace(transport=Rewriting(outer.emulator.app, response=None))
        async with carpool.Pool(KEY, BASE, _ports=ports) as pool:
            response = await client_of(pool, family).post(URL, json=body())
    check_refused(response, carpool.RequestFailed, 424)


async def test_a_batch_that_the_provider_refuses_is_told() -> None:
    async with world(models=["another"]) as w:
        with pytest.raises(openai.BadRequestError) as status:
            await chat(w.pool.wrap(sdk(w.transport)))
    assert type(carpool.error_of(status.value)) is carpool.RequestRejected
    assert "gpt-5-mini" in str(status.value)
    assert status.value.code == "model_not_found"


@families
async def test_a_call_that_expired_is_told(family: str) -> None:
    async with world(pool=ONCE, pace=Pace(running=5_000, window=100)) as w:
        response = await client_of(w.pool, family).post(URL, json=body())
    error = check_refused(response, carpool.RequestExpired, 424)
    assert "expired" in str(error)
    assert response.headers["x-carpool-batch-id"] == w.emulator.books().batches[0].id
    assert response.headers["x-carpool-custom-id"]
    assert response.json()["error"]["code"] == "batch_expired"


@families
async def test_a_call_that_was_cancelled_is_told(family: str) -> None:
    responses: list[Any] = []

    async def ask(client: Any) -> None:
        responses.append(await client.post(URL, json=body()))

    async with world(pool=ONCE, pace=Pace(running=5_000)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, client_of(w.pool, family))
        await anyio.sleep(60)
        await w.pool.cancel()
    check_refused(responses[0], carpool.RequestCancelled, 424)


@families
async def test_a_call_that_no_file_mentions_is_told(family: str) -> None:
    async with world() as outer:
        ports = outer.ports._replace(transport=Rewriting(outer.emulator.app, drop=True))
        async with carpool.Pool(KEY, BASE, _ports=ports) as pool:
            response = await client_of(pool, family).post(URL, json=body())
    check_refused(response, carpool.ResultMissing, 424)


@families
async def test_a_key_that_the_provider_refuses_is_told(family: str) -> None:
    async with world(api_key="another") as w:
        response = await client_of(w.pool, family).post(URL, json=body())
    check_refused(response, carpool.AuthenticationFailed, 401)
    assert KEY not in response.text


@families
async def test_a_full_disk_is_told(family: str) -> None:
    full = False

    async def run_sync(func: Any, /, *args: object) -> Any:
        if full:
            raise OSError(28, "No space left on device")
        return await run_here(func, *args)

    async with world() as outer:
        ports = outer.ports._replace(run_sync=run_sync)
        async with carpool.Pool(KEY, BASE, _ports=ports) as pool:
            full = True
            response = await client_of(pool, family).post(URL, json=body())
    assert "No space left" in str(check_refused(response, carpool.JournalError, 424))


@families
async def test_a_pool_that_is_not_open_refuses_what_would_ride_and_what_would_pass(family: str) -> None:
    async def refused(client: Any) -> None:
        for method, path in (("POST", "/chat/completions"), ("GET", "/models"), ("POST", "/files")):
            given = {"json": body()} if method == "POST" else {}
            response = await client.request(method, f"{BASE}{path}", **given)
            check_refused(response, carpool.PoolClosed, 410)
            assert response.json()["error"]["code"] == "pool_closed"
        for headers in ({"x-carpool": "live"}, {"x-carpool-key": "k"}):
            check_refused(await client.post(URL, json=body(), headers=headers), carpool.PoolClosed, 410)
        with carpool.options(live=True):
            check_refused(await client.post(URL, json=body()), carpool.PoolClosed, 410)
        check_refused(await client.post(URL, json=body(stream=True)), carpool.PoolClosed, 410)

    async with world() as outer:
        pool = carpool.Pool(KEY, BASE, unbatchable="live", _ports=outer.ports)
        client = client_of(pool, family)
        await refused(client)
        async with pool:
            assert (await client.post(URL, json=body())).status_code == 200
        asked = len(outer.transport.requests)
        await refused(client)
        assert len(outer.transport.requests) == asked


@pytest.mark.parametrize("mode", ["batch", "live", "emulate"])
async def test_a_wrapped_client_reaches_nobody_after_its_pools_end(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")
    server = Server()
    async with world() as outer:
        pool = carpool.Pool(KEY, BASE, mode=mode, unbatchable="live", _ports=outer.ports)
        client = pool.wrap(sdk(server.transport))
        if mode != "emulate":  # its emulator would run in a thread, on real time
            async with pool:
                pass
        for attempt in (chat(client), chat(client, stream=True), client.models.list()):
            with pytest.raises(openai.APIStatusError) as caught:
                await attempt
            assert caught.value.status_code == 410
            assert isinstance(carpool.error_of(caught.value), carpool.PoolClosed)
    assert server.requests == []
    assert not [entry for entry in caplog.messages if "full price" in entry and "POST" in entry]


# --- error_of


UNFIT_ERROR = carpool.Unbatchable("no", "stream")


@contextmanager
def caught() -> Iterator[list[BaseException]]:
    """Keep what is raised in the block."""
    kept: list[BaseException] = []
    try:
        yield kept
    except BaseException as exc:  # noqa: BLE001 - it is what is looked at
        kept.append(exc)


def raised(raiser: Callable[[], None]) -> BaseException:
    with caught() as kept:
        raiser()
    return kept[0]


def chained(*, cause: bool) -> None:
    try:
        try:
            raise UNFIT_ERROR
        except carpool.CarpoolError as exc:
            if cause:
                raise KeyError("lower") from exc
            raise KeyError("lower")  # noqa: B904 - the context is what is looked for
    except KeyError:
        raise ValueError("upper") from None


class HeadersOnly(Exception):
    """Hold no more than a response's headers, as some frameworks do."""

    def __init__(self, headers: Any, response: Any = None) -> None:
        super().__init__("told by a framework")
        self.headers = headers
        self.response = response


@once
def test_an_error_is_its_own() -> None:
    assert carpool.error_of(UNFIT_ERROR) is UNFIT_ERROR


@once
@pytest.mark.parametrize("cause", [True, False])
def test_an_error_is_found_in_causes_and_contexts(cause: bool) -> None:
    assert carpool.error_of(raised(lambda: chained(cause=cause))) is UNFIT_ERROR


@once
def test_an_error_is_found_in_groups() -> None:
    group = ExceptionGroup("outer", [ValueError("x"), ExceptionGroup("inner", [KeyError("y"), UNFIT_ERROR])])
    assert carpool.error_of(group) is UNFIT_ERROR
    assert carpool.error_of(BaseExceptionGroup("base", [KeyboardInterrupt(), UNFIT_ERROR])) is UNFIT_ERROR
    below = ValueError("below")
    below.__cause__ = group
    assert carpool.error_of(ExceptionGroup("above", [below])) is UNFIT_ERROR


@once
def test_exceptions_that_go_in_circles_end() -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__context__ = two, one
    assert carpool.error_of(one) is None
    one.__context__ = UNFIT_ERROR
    assert carpool.error_of(two) is UNFIT_ERROR
    itself = ValueError("itself")
    itself.__cause__ = itself
    assert carpool.error_of(itself) is None


@once
def test_exceptions_that_are_equal_are_not_taken_for_one() -> None:
    class Equal(Exception):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = Exception.__hash__

    upper, lower = Equal(), Equal()
    upper.__cause__, lower.__cause__ = lower, UNFIT_ERROR
    assert carpool.error_of(upper) is UNFIT_ERROR


@once
def test_an_exception_of_somebody_else_is_none_of_ours() -> None:
    assert carpool.error_of(ValueError("x")) is None
    assert carpool.error_of(KeyboardInterrupt()) is None
    response = httpx2.Response(500, request=httpx2.Request("POST", URL))
    assert carpool.error_of(httpx2.HTTPStatusError("x", request=response.request, response=response)) is None


@once
@pytest.mark.parametrize("headers", [dict, httpx.Headers, httpx2.Headers])
def test_an_error_is_made_anew_from_headers_alone(headers: Any) -> None:
    for name in carpool.__all__:
        kind = getattr(carpool, name)
        if isinstance(kind, type) and issubclass(kind, carpool.CarpoolError) and kind is not carpool.OutputInvalid:
            error = carpool.error_of(HeadersOnly(headers({"x-carpool-error": name})))
            assert type(error) is kind
            assert "told by a framework" in str(error)


@once
def test_what_is_wrong_with_an_answer_is_told_by_no_header() -> None:
    assert carpool.error_of(HeadersOnly({"x-carpool-error": "OutputInvalid"})) is None


@once
@pytest.mark.parametrize("headers", [None, 3, [], {}, {"x-carpool-error": None}, {"x-carpool-error": 3}])
def test_headers_that_tell_nothing_tell_nothing(headers: Any) -> None:
    assert carpool.error_of(HeadersOnly(headers)) is None


@once
@pytest.mark.parametrize("name", ["", "Any", "__doc__", "annotations", "Exception", "no\nname"])
def test_a_header_that_names_no_error_of_ours_is_none(name: str) -> None:
    assert carpool.error_of(HeadersOnly({"x-carpool-error": name})) is None


ODD: list[Any] = [3, "text", {"headers": {}}, type("Odd", (), {"headers": None, "extensions": 3})()]


@once
@pytest.mark.parametrize("response", ODD)
def test_odd_attributes_of_foreign_exceptions_do_no_harm(response: Any) -> None:
    assert carpool.error_of(HeadersOnly({}, response)) is None


async def test_an_error_is_found_behind_a_response_that_was_copied() -> None:
    async with world() as w:
        response = await client_of(w.pool).post(URL, json=body(stream=True))
    copy = httpx.Response(response.status_code, headers=dict(response.headers), content=response.content)
    copy.request = httpx.Request("POST", URL)
    exc = httpx.HTTPStatusError("refused", request=copy.request, response=copy)
    assert type(carpool.error_of(exc)) is carpool.Unbatchable


async def test_an_error_does_not_keep_the_frames_it_came_from() -> None:
    async with world() as w:
        response = await client_of(w.pool).post(URL, json=body(stream=True))
    with pytest.raises(httpx2.HTTPStatusError) as status:
        response.raise_for_status()
    error = carpool.error_of(status.value)
    assert error is not None
    assert error.__traceback__ is None


# --- our own headers


@families
async def test_the_key_of_a_call_is_what_a_journal_knows_it_by(family: str, tmp_path: Path) -> None:
    contents: list[list[str]] = []
    async with site(tmp_path, answer=Samples()) as at:
        for _ in range(3):
            async with at.open() as w:
                client = client_of(w.pool, family)
                got = []
                for key in ("one", "two"):
                    response = await client.post(URL, json=body(), headers={"X-Carpool-Key": key})
                    got.append(response.json()["choices"][0]["message"]["content"])
                contents.append(got)
    assert contents == [["hi #1", "hi #2"]] * 3
    assert at.emulator.books().times(body()) == 2


@families
async def test_the_timeout_of_a_call_ends_it(family: str) -> None:
    async with world(pace=SLOW) as w:
        start = anyio.current_time()
        response = await client_of(w.pool, family).post(URL, json=body(), headers={"x-carpool-timeout": "10"})
        assert anyio.current_time() - start == pytest.approx(10, abs=0.5)
        check_refused(response, carpool.RequestExpired, 424)
        assert (await client_of(w.pool, family).post(URL, json=body())).status_code == 200


async def test_the_header_wins_over_the_block_and_the_block_over_the_pool() -> None:
    async def lasted(pool: carpool.Pool, **headers: str) -> float:
        start = anyio.current_time()
        response = await client_of(pool).post(URL, json=body(), headers=headers)
        check_refused(response, carpool.RequestExpired, 424)
        return round(anyio.current_time() - start)

    async with world(pace=Pace(running=5_000), pool={"timeout": 40}) as w:
        assert await lasted(w.pool) == 40
        with carpool.options(timeout=20):
            assert await lasted(w.pool) == 20
            assert await lasted(w.pool, **{"x-carpool-key": "k"}) == 20
            assert await lasted(w.pool, **{"x-carpool-timeout": "10.5"}) == pytest.approx(10.5, abs=0.5)


NONSENSE = [
    *(("x-carpool-timeout", value) for value in ("", "0", "-1", "nan", "inf", "ten", "1e999", "10s", "0x10", "None")),
    *(("x-carpool", value) for value in ("", "batch", "Live", "true", "1", "live, live")),
]


async def test_a_header_that_makes_no_sense_is_refused_too_where_what_cannot_ride_is_sent_live() -> None:
    async with world(pool={"unbatchable": "live"}) as w:
        encoded = f"{BASE}/files/%2e%2e/chat/completions"
        response = await client_of(w.pool).post(encoded, json=body(), headers={"x-carpool-timeout": "abc"})
        check_refused(response, carpool.ConfigurationError, 400)
    assert w.transport.requests == []


async def test_a_header_of_ours_that_makes_no_sense_is_refused() -> None:
    async with world() as w:
        client = client_of(w.pool)
        for name, value in NONSENSE:
            response = await client.post(URL, json=body(), headers={name: value})
            message = str(check_refused(response, carpool.ConfigurationError, 400))
            assert name.removeprefix("x-carpool-") in message, (name, value)
    assert w.transport.requests == []


async def test_an_empty_key_is_refused_since_all_calls_with_it_would_be_one() -> None:
    async with world() as w:
        response = await client_of(w.pool).post(URL, json=body(), headers={"x-carpool-key": ""})
        check_refused(response, carpool.ConfigurationError, 400)


# --- blocks


@once
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "10", True, [1]])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="above 0"), carpool.options(timeout=timeout):
        raise AssertionError("entered")
    with pytest.raises(carpool.ConfigurationError, match="above 0"):
        carpool.Pool(KEY, BASE, timeout=timeout)


async def test_the_timeout_of_a_block_ends_its_calls_and_no_others() -> None:
    async with world(pace=SLOW) as w:
        with carpool.options(timeout=10):
            with pytest.raises(carpool.RequestExpired):
                await w.pool.request(CHAT, body())
            gathered = await w.pool.gather([body()] * 2, endpoint=CHAT, return_exceptions=True)
            assert {type(outcome) for outcome in gathered} == {carpool.RequestExpired}
            # What a request says itself comes before what a block says.
            assert (await w.pool.request(carpool.Request(CHAT, body(), timeout=1_000))).text == "hi"
        assert (await w.pool.request(CHAT, body())).text == "hi"


async def test_blocks_nest_and_what_they_leave_out_stays_as_it_is_outside() -> None:
    server = Server()
    async with world(pace=SLOW) as w:
        client = w.pool.wrap(sdk(server.transport))

        async def expires() -> bool:
            with pytest.raises(openai.APIStatusError) as status:
                await chat(client)
            return isinstance(carpool.error_of(status.value), carpool.RequestExpired)

        with carpool.options(timeout=10):
            with carpool.options(live=True):
                assert await chat(client) == "live"
                with carpool.options(live=False):
                    assert await expires()
                assert await chat(client) == "live"
            assert await expires()
            with carpool.options(timeout=1_000):
                assert await chat(client) == "hi"
            assert await expires()
        assert await chat(client) == "hi"
    assert len(server.requests) == 2


async def test_a_block_that_is_left_by_an_exception_is_over() -> None:
    async with world() as w:
        with pytest.raises(ZeroDivisionError), carpool.options(live=True):
            raise ZeroDivisionError
        with pytest.raises(carpool.ConfigurationError), carpool.options(live=True), carpool.options(timeout=-1):
            pass
        await w.ask("rides")
    assert w.emulator.books().live == 0
    assert w.answers() == {"rides": "rides"}


async def test_a_block_holds_for_its_own_task_and_those_that_it_starts() -> None:
    server = Server()
    answers: list[str] = []

    async def ask(client: openai.AsyncOpenAI, text: str) -> None:
        answers.append(await chat(client, text))

    async with world() as w, anyio.create_task_group() as tasks:
        client = w.pool.wrap(sdk(server.transport))
        tasks.start_soon(ask, client, "before")
        with carpool.options(live=True):
            tasks.start_soon(ask, client, "within")
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(ask, client, "after")
    assert sorted(answers) == ["after", "before", "live"]
    assert len(server.requests) == 1
    assert w.emulator.books().live == 0


async def test_a_live_block_sends_the_pools_own_calls_at_once_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")
    async with world() as w:
        start = anyio.current_time()
        with carpool.options(live=True):
            response = await w.pool.request(CHAT, body("now"))
        assert anyio.current_time() == start
        assert (response.text, response.batch_id, response.custom_id) == ("now", "", "")
    (priced,) = [entry for entry in caplog.messages if "full price" in entry]
    assert f"POST {CHAT}" in priced
    books = w.emulator.books()
    assert (books.live, books.batches) == (1, ())


@pytest.mark.parametrize("how", ["block", "header"])
async def test_the_timeout_of_a_live_call_ends_it(how: str) -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(3_600)
        raise AssertionError("it was not cancelled")

    async with world() as w:
        client = w.pool.wrap(sdk(httpx2.MockTransport(never), max_retries=0))
        start = anyio.current_time()
        headers = {"x-carpool-timeout": "10", "x-carpool": "live"} if how == "header" else {}
        with carpool.options(timeout=10, live=True), pytest.raises(openai.APIStatusError) as status:
            await chat(client, extra_headers=headers)
        assert isinstance(carpool.error_of(status.value), carpool.RequestExpired)
        assert anyio.current_time() - start == pytest.approx(10, abs=0.5)


async def test_the_timeout_of_what_cannot_ride_and_is_sent_live_ends_it() -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(3_600)
        raise AssertionError("it was not cancelled")

    async with world(pool={"unbatchable": "live"}) as w:
        client = w.pool.wrap(sdk(httpx2.MockTransport(never), max_retries=0))
        start = anyio.current_time()
        with carpool.options(timeout=10), pytest.raises(openai.APIStatusError) as status:
            await chat(client, stream=True)
        assert isinstance(carpool.error_of(status.value), carpool.RequestExpired)
        assert anyio.current_time() - start == pytest.approx(10, abs=0.5)
