"""Clients that speak HTTP, on both families: what they are answered, how they look, and what passes by them."""

import datetime
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import httpx2
import pytest
from trio.testing import MockClock
from virtual import CHAT, EMBEDDINGS, VirtualLoop, body, world

import carpool
from carpool.testing import Answer, Emulator, Pace

FAMILIES = ["httpx2", "httpx"]
MODULES: dict[str, Any] = {"httpx2": httpx2, "httpx": httpx}
URL = f"http://emulator{CHAT}"
SLOW = Pace(validating=5, running=60, finalizing=5)
JSON = {"content-type": "application/json"}
OWN = {"x-carpool-key": "k", "x-carpool-timeout": "100"}
FILE = {"file": ("data.jsonl", b'{"a": 1}\n', "application/jsonl")}
FAST = carpool.Timing(linger=0.02, poll_min=0.01, poll_max=0.1)

# Each backend once, each family once: what answers in memory does not depend on both at once, and real time is dear.
families = pytest.mark.parametrize(
    ("anyio_backend", "family"), [("virtual asyncio", "httpx"), ("virtual trio", "httpx2")], indirect=["anyio_backend"]
)
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "no_certificates")]


@pytest.fixture(params=["virtual asyncio", "virtual trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run on virtual time, unless a test asks for real sockets and threads."""
    return {
        "virtual asyncio": ("asyncio", {"loop_factory": VirtualLoop}),
        "virtual trio": ("trio", {"clock": MockClock(autojump_threshold=0)}),
        "asyncio": ("asyncio", {}),
        "trio": ("trio", {}),
    }[request.param]


once = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
real_families = pytest.mark.parametrize(
    ("anyio_backend", "family"), [("asyncio", "httpx"), ("trio", "httpx2")], indirect=["anyio_backend"]
)


def client_of(pool: carpool.Pool, family: str, *, sync: bool = False) -> Any:
    anyhow: Any = pool
    return anyhow.http_client(family, sync=sync)


def content_of(response: Any) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


async def in_thread(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call from a worker thread; one of its own, however many there are."""
    return await anyio.to_thread.run_sync(partial(func, *args, **kwargs), limiter=anyio.CapacityLimiter(1))


# --- answers


@families
async def test_an_answer_looks_as_it_would_have_looked_live(family: str) -> None:
    async with world() as w:
        response = await client_of(w.pool, family).post(URL, json=body("hello"))
    books = w.emulator.books()
    (batch,) = books.batches
    assert type(response) is MODULES[family].Response
    assert (response.status_code, response.reason_phrase, content_of(response)) == (200, "OK", "hello")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req")
    assert response.headers["x-carpool-batch-id"] == batch.id
    assert response.headers["x-carpool-custom-id"] in {custom_id for custom_id, _ in books.runs}
    assert "x-carpool-error" not in response.headers
    assert response.raise_for_status() is response
    assert books.live == 0


@families
async def test_a_response_can_be_read_in_every_way_that_one_from_a_socket_can(family: str) -> None:
    lines = {"a": "b"}
    async with world(answer=lambda endpoint, given: json.dumps(lines, indent=1).encode()) as w:
        client = client_of(w.pool, family)
        response = await client.post(URL, json=body())
        assert isinstance(response.elapsed, datetime.timedelta)
        assert response.is_closed
        assert json.loads(await response.aread()) == json.loads(response.text) == response.json() == lines
        assert json.loads("".join([line async for line in response.aiter_lines()])) == lines
        assert json.loads(b"".join([part async for part in response.aiter_bytes()])) == lines
        assert response.request.method == "POST"
        assert response.request.url == URL
        assert response.num_bytes_downloaded == len(response.content)


@families
async def test_a_response_may_be_streamed_to_its_reader(family: str) -> None:
    async with world() as w:
        client = client_of(w.pool, family)
        async with client.stream("POST", URL, json=body("lines")) as response:
            assert not response.is_closed
            text = "".join([line async for line in response.aiter_lines()])
        assert json.loads(text)["choices"][0]["message"]["content"] == "lines"
        assert response.elapsed >= datetime.timedelta(0)
        async with client.stream("POST", URL, json=body("raw")) as response:
            raw = b"".join([part async for part in response.aiter_raw()])
        assert json.loads(raw)["choices"][0]["message"]["content"] == "raw"
        async with client.stream("POST", URL, json=body("unread")):
            pass


STRANGE = (
    b'{"model" : "m",\t"messages": [ {"role":"user","content":"\\u00e9 \xc3\xa9 \\/ \xe2\x80\xa8"} ],'
    b' "seed":12345678901234567890, "x":1.0e0, "y":-0.0, "empty":{}, "null" :null }'
)


@families
async def test_the_bytes_of_a_body_travel_untouched(family: str) -> None:
    async with world(pool={"keep_remote_files": True}) as w:
        client = client_of(w.pool, family)
        response = await client.post(URL, content=STRANGE, headers=JSON)
        (file,) = [file for file in w.emulator.books().files if file.purpose == "batch"]
        async with httpx2.AsyncClient(transport=w.transport) as direct:
            sent = (await direct.get(f"http://emulator/v1/files/{file.id}/content")).content
    assert response.status_code == 200
    assert STRANGE in sent
    assert w.emulator.books().times(STRANGE) == 1


@families
async def test_the_bytes_of_an_answer_arrive_untouched(family: str) -> None:
    answer = b'{"a" : 1.0e0, "b":"\\u00e9 \xc3\xa9 \\/", "c":123456789012345678901234567890, "d": [ ] }'
    async with world(answer=lambda endpoint, given: answer) as w:
        response = await client_of(w.pool, family).post(URL, json=body())
    assert response.content == answer


@families
async def test_a_body_may_come_in_pieces(family: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in json.dumps(body("pieces")).encode().partition(b"model"):
            yield piece

    async with world() as w:
        response = await client_of(w.pool, family).post(URL, content=pieces())
    assert content_of(response) == "pieces"


@families
async def test_each_of_many_callers_gets_its_own_answer_from_one_batch(family: str) -> None:
    answers: dict[str, str] = {}
    texts = [f"text {number}" for number in range(300)]
    async with world(pace=SLOW) as w:
        client = client_of(w.pool, family)

        async def ask(text: str) -> None:
            answers[text] = content_of(await client.post(URL, json=body(text)))

        async with anyio.create_task_group() as tasks:
            for text in texts:
                tasks.start_soon(ask, text)
    assert answers == {text: text for text in texts}
    assert len(w.emulator.books().batches) == 1
    assert w.emulator.books().live == 0


ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "hi"},
    EMBEDDINGS: {"input": "hi", "encoding_format": "base64"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/moderations": {"input": "hi"},
    "/v1/images/generations": {"prompt": "hi"},
    "/v1/images/edits": {"prompt": "hi", "images": []},
}


@families
async def test_every_endpoint_rides(family: str) -> None:
    statuses: list[int] = []
    async with world() as w, anyio.create_task_group() as tasks:
        client = client_of(w.pool, family)

        async def ask(path: str) -> None:
            statuses.append(
                (await client.post(f"http://emulator{path}", json={"model": "m", **ENDPOINTS[path]})).status_code
            )

        for path in ENDPOINTS:
            tasks.start_soon(ask, path)
    assert statuses == [200] * len(ENDPOINTS)
    assert {batch.endpoint for batch in w.emulator.books().batches} == set(ENDPOINTS)


async def test_both_families_and_the_pool_itself_travel_in_one_batch() -> None:
    answers: list[str] = []
    async with world() as w:

        async def ask(family: str) -> None:
            answers.append(content_of(await client_of(w.pool, family).post(URL, json=body(family))))

        async def ask_pool() -> None:
            answers.append((await w.pool.request(CHAT, body("pool"))).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "httpx2")
            tasks.start_soon(ask, "httpx")
            tasks.start_soon(ask_pool)
    assert sorted(answers) == ["httpx", "httpx2", "pool"]
    assert [batch.total for batch in w.emulator.books().batches] == [3]


@families
async def test_no_timeout_of_the_client_ends_a_call_that_rides(family: str) -> None:
    async with world(pace=SLOW) as w:
        client = client_of(w.pool, family)
        client.timeout = MODULES[family].Timeout(0.001)
        start = anyio.current_time()
        response = await client.post(URL, json=body("late"), timeout=1)
        assert anyio.current_time() - start > 60
    assert content_of(response) == "late"


@families
async def test_a_caller_that_is_cancelled_while_its_call_waits_takes_it_back(family: str) -> None:
    timing = carpool.Timing(linger=20, max_linger=20)
    async with world(pool={"timing": timing}) as w:
        client = client_of(w.pool, family)
        with anyio.move_on_after(5) as scope:
            await client.post(URL, json=body("gone"))
        assert scope.cancelled_caught
        assert content_of(await client.post(URL, json=body("stays"))) == "stays"
    assert w.emulator.books().times(body("gone")) == 0


@families
async def test_leaving_the_pool_waits_for_calls_that_ride(family: str) -> None:
    answers: list[str] = []

    async def ask(client: Any) -> None:
        answers.append(content_of(await client.post(URL, json=body("waits"))))

    async with anyio.create_task_group() as tasks, world(pace=SLOW) as w:
        tasks.start_soon(ask, client_of(w.pool, family))
        await anyio.wait_all_tasks_blocked()
    assert answers == ["waits"]


@families
async def test_callers_are_told_when_the_pool_is_left_by_an_exception(family: str) -> None:
    responses: list[Any] = []

    async def ask(client: Any) -> None:
        responses.append(await client.post(URL, json=body()))

    async def leave() -> None:
        async with world(pace=SLOW) as w:
            tasks.start_soon(ask, client_of(w.pool, family))
            await anyio.sleep(10)
            raise ZeroDivisionError

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ZeroDivisionError):
            await leave()
    assert [response.status_code for response in responses] == [410]
    assert responses[0].headers["x-carpool-error"] == "PoolClosed"


# --- blocking clients


@contextmanager
def threaded(**settings: Any) -> Iterator[tuple[carpool.Pool, Emulator, str]]:
    """Open an emulator and a pool in threads of their own, and name the address of chats; nothing is asked live."""
    with Emulator(**settings) as emulator:
        with carpool.Pool("sk-key", emulator.url, timing=FAST) as pool:
            yield pool, emulator, f"{emulator.url}/chat/completions"
        assert emulator.books().live == 0


@once
@pytest.mark.parametrize("family", FAMILIES)
def test_blocking_calls_from_threads_are_answered(family: str) -> None:
    texts = [f"text {number}" for number in range(30)]
    with threaded() as (pool, emulator, url), ThreadPoolExecutor(30) as threads:
        client = client_of(pool, family, sync=True)
        responses = list(threads.map(lambda text: client.post(url, json=body(text)), texts))
        assert client.post(url, content=STRANGE, headers=JSON).status_code == 200
        pieces = json.dumps(body("pieces")).encode().partition(b"model")
        assert content_of(client.post(url, content=iter(pieces))) == "pieces"
        with client.stream("POST", url, json=body("lines")) as streamed:
            assert json.loads("".join(streamed.iter_lines()))["object"] == "chat.completion"
        client.close()
        with client as entered:
            assert entered is client
        assert not client.is_closed
        assert content_of(client.post(url, json=body("still"))) == "still"
        books = emulator.books()
    assert not client.is_closed
    assert [content_of(response) for response in responses] == texts
    assert sum(batch.total for batch in books.batches) == 34
    assert books.times(STRANGE) == 1
    response = responses[0]
    assert type(response) is MODULES[family].Response
    assert isinstance(response.elapsed, datetime.timedelta)
    assert json.loads(response.read()) == json.loads("".join(response.iter_lines())) == response.json()
    assert response.headers["x-request-id"].startswith("req")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-carpool-batch-id"] in {batch.id for batch in books.batches}
    assert response.headers["x-carpool-custom-id"] in {custom_id for custom_id, _ in books.runs}


@families
async def test_a_blocking_call_is_refused_where_the_pool_has_no_thread_of_its_own(family: str) -> None:
    async with world() as w:
        client = client_of(w.pool, family, sync=True)
        for response in (client.post(URL, json=body()), await in_thread(client.post, URL, json=body())):
            assert (response.status_code, response.headers["x-should-retry"]) == (400, "false")
            assert response.headers["x-carpool-error"] == "ConfigurationError"
            assert "thread=True" in response.json()["error"]["message"]
        unfit = await in_thread(client.post, "http://emulator/v1/audio/speech", json={"model": "m"})
        assert unfit.status_code == 400
    assert w.transport.requests == []


@once
def test_failures_of_blocking_calls_are_responses_too() -> None:
    error = {"error": {"message": "No.", "type": "t", "param": None, "code": "c"}}
    with threaded(answer=lambda endpoint, given: Answer(422, error)) as (pool, _, url):
        for family in FAMILIES:
            client = client_of(pool, family, sync=True)
            row = client.post(url, json=body())
            assert (row.status_code, row.json(), row.headers["x-carpool-error"]) == (422, error, "RequestRejected")
            with pytest.raises(MODULES[family].HTTPStatusError) as caught:
                row.raise_for_status()
            assert isinstance(carpool.error_of(caught.value), carpool.RequestRejected)
            refused = [
                client.post(url, json=body(stream=True)),
                client.post(url, data={"model": "m"}, files=FILE),
                client.post(url, json=body(), headers={"authorization": "Bearer sk-other"}),
                client.post(url, json=body(), headers={"x-carpool-timeout": "soon"}),
            ]
            kinds = ["Unbatchable", "Unbatchable", "ConfigurationError", "ConfigurationError"]
            assert [response.status_code for response in refused] == [400] * 4
            assert [response.headers["x-carpool-error"] for response in refused] == kinds
            assert {response.headers["x-should-retry"] for response in [row, *refused]} == {"false"}


@once
def test_a_blocking_client_of_a_pool_that_is_not_open_is_refused() -> None:
    def refused(client: Any, url: str) -> None:
        for response in (
            client.post(url, json=body()),
            client.post(url, json=body(), headers={"x-carpool": "live"}),
            client.get(url),
        ):
            assert (response.status_code, response.headers["x-carpool-error"]) == (410, "PoolClosed")
            assert response.headers["x-should-retry"] == "false"

    with Emulator() as emulator:
        url = f"{emulator.url}/chat/completions"
        pool = carpool.Pool("sk-key", emulator.url, timing=FAST)
        clients = [client_of(pool, family, sync=True) for family in FAMILIES]
        for client in clients:
            refused(client, url)
        assert emulator.books().routes == {}
        with pool:
            for client in clients:
                assert client.post(url, json=body()).status_code == 200
        asked = emulator.books().routes
        for client in clients:
            refused(client, url)
        assert emulator.books().routes == asked


@once
def test_settings_of_single_calls_hold_in_threads() -> None:
    with threaded(pace=Pace(running=100)) as (pool, _, url), ThreadPoolExecutor(1) as threads:
        for family in FAMILIES:
            client = client_of(pool, family, sync=True)
            expired = [client.post(url, json=body(), headers={"x-carpool-timeout": "0.1"})]
            with carpool.options(timeout=0.1):
                expired.append(client.post(url, json=body()))
                # A context goes along where somebody takes it.
                expired.append(threads.submit(copy_context().run, partial(client.post, url, json=body())).result())
            assert [response.status_code for response in expired] == [424] * 3
            assert {response.headers["x-carpool-error"] for response in expired} == {"RequestExpired"}


@once
def test_the_timeout_of_a_blocking_call_that_is_sent_live_ends_it() -> None:
    async def slow(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(0.4)
        return {}

    with Emulator(answer=slow) as emulator, carpool.Pool("sk-key", emulator.url, timing=FAST) as pool:
        url = f"{emulator.url}/chat/completions"
        for family in FAMILIES:
            client = client_of(pool, family, sync=True)
            with carpool.options(live=True, timeout=0.05):
                block = client.post(url, json=body())
            header = client.post(url, json=body(), headers={"x-carpool": "live", "x-carpool-timeout": "0.05"})
            assert [response.headers.get("x-carpool-error") for response in (block, header)] == ["RequestExpired"] * 2
            with pytest.raises(MODULES[family].TimeoutException):  # the client's own, as ever
                client.post(url, json=body(), headers={"x-carpool": "live"}, timeout=0.05)


@once
def test_a_blocking_caller_is_told_when_the_pool_is_left() -> None:
    responses: list[Any] = []

    def leave(url: str, thread: threading.Thread, pool: carpool.Pool) -> None:
        with pool:
            thread.start()
            while pool.stats().accepted == 0:
                time.sleep(0.005)
            raise ZeroDivisionError

    with Emulator(pace=Pace(running=100)) as emulator:
        pool = carpool.Pool("sk-key", emulator.url, timing=FAST)
        client = client_of(pool, "httpx2", sync=True)
        url = f"{emulator.url}/chat/completions"
        thread = threading.Thread(target=lambda: responses.append(client.post(url, json=body())))
        with pytest.raises(ZeroDivisionError):
            leave(url, thread, pool)
        thread.join()
    assert [response.status_code for response in responses] == [410]


@real_families
async def test_a_call_from_another_event_loop_is_refused_with_the_way_out(family: str) -> None:
    async with Emulator() as emulator, carpool.Pool("sk", emulator.url, timing=FAST) as pool:
        client = client_of(pool, family)
        url = f"{emulator.url}/chat/completions"
        response = await in_thread(anyio.run, partial(client.post, url, json=body()))
        assert response.status_code == 400
        assert "thread=True" in response.json()["error"]["message"]
        assert emulator.books().live == 0


# --- what passes


class Recorder:
    """Stand before an application, and keep what each request carried."""

    def __init__(self, emulator: Emulator) -> None:
        self._app = emulator.app
        self.requests: list[tuple[str, dict[str, str]]] = []
        emulator.app = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((f"{scope['method']} {scope['path']}", headers))
        await self._app(scope, receive, send)

    def names(self) -> set[str]:
        """Name the headers that came."""
        return {name for _, headers in self.requests for name in headers}


@real_families
async def test_what_costs_nothing_passes_to_the_server(family: str) -> None:
    emulator = Emulator(api_key="sk", models=["gpt-5-mini"])
    recorder = Recorder(emulator)
    async with emulator:
        async with carpool.Pool("sk", emulator.url, timing=FAST) as pool:
            client = client_of(pool, family)
            client.headers["authorization"] = "Bearer sk"
            models = await client.get(f"{emulator.url}/models", headers=OWN)
            assert models.json()["data"][0]["id"] == "gpt-5-mini"
            assert isinstance(models.elapsed, datetime.timedelta)
            assert models.headers["x-request-id"].startswith("req")
            data = {"purpose": "user_data"}
            file = (await client.post(f"{emulator.url}/files", files=FILE, data=data, headers=OWN)).json()
            async with client.stream("GET", f"{emulator.url}/files/{file['id']}/content") as response:
                assert b"".join([part async for part in response.aiter_bytes()]) == b'{"a": 1}\n'
            assert (await client.get(f"{emulator.url}/batches", params={"limit": 1})).json()["data"] == []
            assert (await client.delete(f"{emulator.url}/files/{file['id']}")).json()["deleted"]
            refused = await client.get(f"{emulator.url}/models", headers={"authorization": "Bearer other"})
            assert refused.status_code == 401
        books = emulator.books()
    assert books.live == 0
    assert books.routes["GET /v1/models"] == 2
    assert books.routes["POST /v1/files"] == 1
    assert not [name for name in recorder.names() if name.startswith("x-carpool")]


@real_families
async def test_what_costs_nothing_passes_from_threads_and_from_the_pools_own_loop(family: str) -> None:
    emulator = Emulator(models=["gpt-5-mini"])
    recorder = Recorder(emulator)
    async with emulator:
        async with carpool.Pool("sk", emulator.url, timing=FAST) as pool:
            client = client_of(pool, family, sync=True)
            for get in (client.get, partial(in_thread, client.get)):
                response = get(f"{emulator.url}/models", headers=OWN)
                response = response if isinstance(response, MODULES[family].Response) else await response
                assert response.json()["data"][0]["id"] == "gpt-5-mini"
            with client.stream("GET", f"{emulator.url}/models") as response:
                assert "gpt-5-mini" in "".join(response.iter_lines())
        books = emulator.books()
    assert (books.live, books.routes["GET /v1/models"]) == (0, 3)
    assert not [name for name in recorder.names() if name.startswith("x-carpool")]


@once
def test_what_passes_may_come_from_several_event_loops_at_once() -> None:
    statuses: list[int] = []
    with threaded() as (pool, emulator, _), ThreadPoolExecutor(3) as threads:
        client = client_of(pool, "httpx2")

        async def ask() -> None:
            async def get() -> None:
                statuses.append((await client.get(f"{emulator.url}/models")).status_code)

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(get)

        for loop in [threads.submit(anyio.run, ask) for _ in range(6)]:
            loop.result()
    assert statuses == [200] * 30


@real_families
async def test_what_is_sent_live_on_request_reaches_the_server_without_our_own_headers(
    family: str, caplog: pytest.LogCaptureFixture
) -> None:
    emulator = Emulator()
    recorder = Recorder(emulator)
    caplog.set_level("INFO", "carpool")
    async with emulator:
        async with carpool.Pool("sk", emulator.url, timing=FAST) as pool:
            url = f"{emulator.url}/chat/completions"
            headers = {"X-Carpool": "live", **OWN}
            client = client_of(pool, family)
            assert content_of(await client.post(url, json=body("async"), headers=headers)) == "async"
            blocking = client_of(pool, family, sync=True)
            assert content_of(await in_thread(blocking.post, url, json=body("sync"), headers=headers)) == "sync"
        books = emulator.books()
    assert (books.live, books.batches) == (2, ())
    assert not [name for name in recorder.names() if name.startswith("x-carpool")]
    assert len([entry for entry in caplog.messages if "full price" in entry]) == 2


@families
async def test_a_server_that_cannot_be_reached_is_an_error_of_the_client(family: str) -> None:
    async with carpool.Pool("sk-key", "http://127.0.0.1:9/v1") as pool:  # where nobody listens
        with pytest.raises(MODULES[family].ConnectError) as caught:
            await client_of(pool, family).get("http://127.0.0.1:9/v1/models")
        assert carpool.error_of(caught.value) is None


# --- the life of a client


@families
async def test_a_client_never_looks_closed_and_goes_on_to_ride(family: str) -> None:
    async with world() as w:
        client = client_of(w.pool, family)
        await client.aclose()
        assert not client.is_closed
        async with client as entered:
            assert entered is client
        async with client:
            pass
        assert not client.is_closed
        assert content_of(await client.post(URL, json=body("still"))) == "still"
    assert not client.is_closed
    assert (await client.post(URL, json=body())).status_code == 410
    assert not client.is_closed


@families
async def test_a_client_is_one_of_its_family_and_tells_its_pool(family: str) -> None:
    async with world() as w:
        assert isinstance(client_of(w.pool, family), MODULES[family].AsyncClient)
        assert isinstance(client_of(w.pool, family, sync=True), MODULES[family].Client)
        assert carpool.pool_of(client_of(w.pool, family)) is w.pool
        assert carpool.pool_of(client_of(w.pool, family, sync=True)) is w.pool
        assert isinstance(w.pool.http_client(), httpx2.AsyncClient)
        assert isinstance(w.pool.http_client(sync=True), httpx2.Client)


async def test_a_family_that_is_none_or_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match='"httpx2" or "httpx"; got \'requests\''):
            client_of(w.pool, "requests")
        monkeypatch.setitem(sys.modules, "httpx", None)
        with pytest.raises(carpool.ConfigurationError, match="pip install httpx"):
            client_of(w.pool, "httpx")
        assert isinstance(client_of(w.pool, "httpx2"), httpx2.AsyncClient)


@families
async def test_event_hooks_see_what_rides(family: str) -> None:
    seen: list[Any] = []

    async def note(event: Any) -> None:
        seen.append(event)

    async with world() as w:
        client = client_of(w.pool, family)
        client.event_hooks = {"request": [note], "response": [note]}
        response = await client.post(URL, json=body())
    assert seen == [response.request, response]


async def test_a_client_that_was_made_before_its_pool_opened_rides_once_it_is_open() -> None:
    async with world() as outer:
        pool = carpool.Pool("sk-key", "http://emulator/v1", _ports=outer.ports)
        client = pool.http_client()
        assert (await client.post(URL, json=body())).status_code == 410
        assert (await client.get("http://emulator/v1/models")).status_code == 410
        async with pool:
            assert content_of(await client.post(URL, json=body("open"))) == "open"


@families
async def test_what_passes_may_take_as_long_as_with_the_official_sdk(family: str) -> None:
    async with world() as w:
        for sync in (False, True):
            request = client_of(w.pool, family, sync=sync).build_request("GET", "http://emulator/v1/models")
            assert request.extensions["timeout"]["read"] == 600
