"""HTTP: pauses on virtual time with a scripted transport; broken connections on real sockets."""

import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import anyio
import httpx2
import pytest

from carpool.account import Account
from carpool.errors import ConfigurationError
from carpool.models import Call, CallFailed, Reply, Run
from carpool.wire import Wire

pytestmark = pytest.mark.anyio

GET = Call("GET", "/batches", True)
POST = Call("POST", "/batches", False, json=b"{}")
SECRET = "sk-secret-0123456789"
Answers = Sequence[httpx2.Response | Exception]


def no_runs(runs: tuple[Run, ...]) -> AsyncIterator[bytes]:
    raise AssertionError("nothing is uploaded here")


class Script(httpx2.AsyncBaseTransport):
    """Give these answers one after the other."""

    def __init__(self, answers: Answers) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Content(httpx2.AsyncByteStream):
    """Stream a body, whatever the headers say of it."""

    def __init__(self, content: bytes) -> None:
        self._parts = [content] if content else []

    def __aiter__(self) -> "Content":
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class Scripted:
    """Send one call and keep the pauses between the tries."""

    def __init__(
        self, answers: Answers, key: Any = SECRET, *, final: Callable[[Call, Reply], bool] = lambda call, reply: False
    ) -> None:
        self.script = Script(answers)
        self.wire = Wire(Account("http://host/v1", key, {}), no_runs, transport=self.script, final=final)

    async def send(self, call: Call) -> tuple[Reply, float]:
        start = anyio.current_time()
        try:
            return await self.wire.send(call), anyio.current_time() - start
        finally:
            await self.wire.aclose()

    @property
    def tries(self) -> int:
        return len(self.script.requests)


class TestOnVirtualTime:
    @pytest.fixture
    def anyio_backend(self, virtual_backend: Any) -> Any:
        return virtual_backend

    @pytest.mark.parametrize(
        "bad", [408, 409, 429, 500, 502, 503, 529, httpx2.ReadError("broken"), httpx2.RemoteProtocolError("half")]
    )
    async def test_what_is_safe_is_repeated_until_it_succeeds(self, bad: Any) -> None:
        first = bad if isinstance(bad, Exception) else httpx2.Response(bad)
        scripted = Scripted(
            [first, first if isinstance(bad, Exception) else httpx2.Response(bad), httpx2.Response(200)]
        )
        reply, _ = await scripted.send(GET)
        assert (reply.status, scripted.tries) == (200, 3)

    @pytest.mark.parametrize("bad", [400, 401, 403, 404, 413, 422])
    async def test_a_verdict_is_not_questioned(self, bad: int) -> None:
        scripted = Scripted([httpx2.Response(bad, text="why")])
        reply, _ = await scripted.send(GET)
        assert (reply.status, reply.body, scripted.tries) == (bad, b"why", 1)

    async def test_tries_are_few_and_their_pauses_short(self) -> None:
        scripted = Scripted([httpx2.Response(500) for _ in range(20)])
        reply, pause = await scripted.send(GET)
        assert reply.status == 500
        assert scripted.tries == 6
        assert 0 < pause < 1 + 2 + 4 + 8 + 16

    @pytest.mark.parametrize("bad", [500, 408, 409, httpx2.ReadError("broken"), httpx2.ReadTimeout("slow")])
    async def test_what_may_have_happened_is_not_repeated(self, bad: Any) -> None:
        scripted = Scripted([bad if isinstance(bad, Exception) else httpx2.Response(bad)])
        reply, _ = await scripted.send(POST)
        assert (reply.status, scripted.tries) == (0 if isinstance(bad, Exception) else bad, 1)

    @pytest.mark.parametrize("bad", [429, httpx2.ConnectError("refused"), httpx2.ConnectTimeout("nobody")])
    async def test_what_cannot_have_happened_is_repeated_even_so(self, bad: Any) -> None:
        scripted = Scripted([bad if isinstance(bad, Exception) else httpx2.Response(bad), httpx2.Response(200)])
        reply, _ = await scripted.send(POST)
        assert (reply.status, scripted.tries) == (200, 2)

    @pytest.mark.parametrize("call", [GET, POST])
    async def test_a_refusal_that_is_known_to_be_final_is_not_questioned(self, call: Call) -> None:
        answers = [httpx2.Response(429, text="busy"), httpx2.Response(429, text="full"), httpx2.Response(200)]
        scripted = Scripted(answers, final=lambda _, reply: reply.body == b"full")
        reply, _ = await scripted.send(call)
        assert (reply.status, reply.body, scripted.tries) == (429, b"full", 2)

    @pytest.mark.parametrize(
        ("header", "value", "low", "high"),
        [
            ("Retry-After", lambda: "7", 7, 7),
            ("Retry-After", lambda: "7.5", 7.5, 7.5),
            ("retry-after-ms", lambda: "250", 0.25, 0.25),
            ("Retry-After", lambda: formatdate(time.time() + 100, usegmt=True), 95, 101),
            ("Retry-After", lambda: formatdate(time.time() - 100, usegmt=True), 0, 0),
            ("Retry-After", lambda: "soon", 0, 1),
            ("Retry-After", lambda: "-5", 0, 1),
        ],
    )
    async def test_the_pause_is_the_one_the_server_asks_for(
        self, header: str, value: Callable[[], str], low: float, high: float
    ) -> None:
        scripted = Scripted([httpx2.Response(429, headers={header: value()}), httpx2.Response(200)])
        _, pause = await scripted.send(GET)
        assert low <= pause <= high

    @pytest.mark.parametrize(
        ("headers", "rest"),
        [
            ({}, 0.0),
            ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9s"}, 0.0),
            ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}, 9.0),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m8.64s"}, 68.64),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "17h3m"}, 600.0),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, 0.0),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "-5s"}, 0.0),
            ({"x-ratelimit-remaining-tokens": "0"}, 0.0),
            (
                {
                    "x-ratelimit-remaining-requests": "0",
                    "x-ratelimit-reset-requests": "2s",
                    "x-ratelimit-remaining-tokens": "0",
                    "x-ratelimit-reset-tokens": "3s",
                },
                3.0,
            ),
            ({"retry-after": "7"}, 7.0),
            ({"retry-after-ms": "70"}, 0.07),
            ({"retry-after": "nonsense"}, 0.0),
            (
                {
                    "retry-after": "7",
                    "x-ratelimit-remaining-requests": "0",
                    "x-ratelimit-reset-requests": "9s",
                },
                7.0,
            ),
        ],
    )
    @pytest.mark.parametrize("status", [200, 400])
    async def test_a_reply_says_how_long_the_next_call_is_to_wait(
        self, status: int, headers: dict[str, str], rest: float
    ) -> None:
        reply, pause = await Scripted([httpx2.Response(status, headers=headers)]).send(POST)
        assert reply.rest == pytest.approx(rest)
        assert pause == 0

    async def test_the_headers_of_each_response_are_heard(self) -> None:
        heard: list[str] = []
        answers: Answers = [
            httpx2.ReadError("broken"),
            httpx2.Response(500, headers={"Date": "a"}),
            httpx2.Response(200, headers={"date": "b"}),
        ]
        script = Script(answers)
        account = Account("http://host/v1", SECRET, {})
        wire = Wire(account, no_runs, transport=script, hear=lambda headers: heard.append(headers["date"]))
        reply = await wire.send(GET)
        await wire.aclose()
        assert (reply.status, heard) == (200, ["a", "b"])

    @pytest.mark.parametrize("endless", ["86400", "9e999", "1e300"])
    async def test_a_pause_without_end_is_obeyed_for_minutes(self, endless: str) -> None:
        reply, _ = await Scripted([httpx2.Response(400, headers={"Retry-After": endless})]).send(POST)
        assert reply.rest <= 600

    @pytest.mark.parametrize(
        ("headers", "content", "status"),
        [
            ({"Content-Length": "11"}, b"hello world", 200),
            ({"Content-Length": "12"}, b"hello world", 0),
            ({"Content-Length": "12", "Content-Encoding": "identity"}, b"hello world", 200),
            ({}, b"hello world", 200),
            ({"Content-Length": "many"}, b"hello world", 200),
            ({"Content-Length": "3"}, b"", 0),
            ({"Content-Length": "0"}, b"", 200),
        ],
    )
    async def test_a_download_that_is_shorter_than_was_announced_is_no_reply(
        self, headers: dict[str, str], content: bytes, status: int
    ) -> None:
        answers = [httpx2.Response(200, headers=headers, stream=Content(content)) for _ in range(6)]
        scripted = Scripted(answers)
        received = bytearray()

        async def receive(chunk: bytes) -> None:
            received.extend(chunk)

        reply = await scripted.wire.send(Call("GET", "/files/file-1/content", True), receive)
        await scripted.wire.aclose()
        assert reply.status == status
        assert bytes(received) == content
        assert scripted.tries == (6 if not status and not content else 1)

    async def test_a_call_may_have_a_patience_of_its_own(self) -> None:
        for call, patience in ((POST, 120.0), (Call("POST", "/chat/completions", False, patience=900.0), 900.0)):
            scripted = Scripted([httpx2.Response(200)])
            await scripted.send(call)
            assert scripted.script.requests[0].extensions["timeout"]["read"] == patience

    async def test_a_read_follows_redirects_on_its_own_host(self) -> None:
        scripted = Scripted([httpx2.Response(307, headers={"Location": "/v1/there"}), httpx2.Response(200, text="hi")])
        reply, _ = await scripted.send(GET)
        assert reply == Reply(200, b"hi")
        assert str(scripted.script.requests[1].url) == "http://host/v1/there"
        assert scripted.script.requests[1].headers["Authorization"] == f"Bearer {SECRET}"

    @pytest.mark.parametrize("target", ["http://other/v1/there", "https://host/v1/there", "http://host:81/v1/there"])
    @pytest.mark.parametrize("call", [GET, POST])
    async def test_a_redirect_elsewhere_is_refused(self, call: Call, target: str) -> None:
        scripted = Scripted([httpx2.Response(307, headers={"Location": target})])
        reply, _ = await scripted.send(call)
        assert (reply.status, scripted.tries) == (307, 1)
        assert b"redirect" in reply.body

    async def test_a_circle_of_redirects_ends(self) -> None:
        scripted = Scripted([httpx2.Response(307, headers={"Location": "/v1/batches"}) for _ in range(30)])
        reply, _ = await scripted.send(GET)
        assert reply.status == 307

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_a_key_may_be_a_callable_that_is_asked_each_time(self, asynchronous: bool) -> None:
        keys = iter(["sk-1", "sk-2"])

        async def later() -> str:
            return next(keys)

        scripted = Scripted([httpx2.Response(500), httpx2.Response(200)], later if asynchronous else lambda: next(keys))
        await scripted.send(GET)
        assert [r.headers["Authorization"] for r in scripted.script.requests] == ["Bearer sk-1", "Bearer sk-2"]

    async def test_a_key_callable_that_fails_is_named_without_its_words(self) -> None:
        def vault() -> str:
            raise LookupError(SECRET)

        with pytest.raises(CallFailed, match="LookupError") as caught:
            await Scripted([], vault).send(GET)
        assert caught.value.failure.kind == "auth"
        assert SECRET not in str(caught.value)

    async def test_a_server_that_quotes_the_key_is_not_quoted(self) -> None:
        scripted = Scripted([httpx2.Response(401, text=f"Incorrect API key: {SECRET}.")])
        reply, _ = await scripted.send(GET)
        assert reply.body == b"Incorrect API key: ***."

    async def test_a_reply_that_is_no_refusal_is_left_as_it_is(self) -> None:
        scripted = Scripted([httpx2.Response(200, text='{"id": "file-1", "error": null}')], key="file")
        reply, _ = await scripted.send(GET)
        assert reply.body == b'{"id": "file-1", "error": null}'

    async def test_the_key_is_in_no_log_reply_or_repr(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        scripted = Scripted([httpx2.ReadError("broken"), httpx2.Response(401, text="no")])
        reply, _ = await scripted.send(GET)
        assert SECRET not in caplog.text + repr(reply) + repr(scripted.wire) + repr(scripted.script.requests)


# --- real sockets

HEAD = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def serving(*connections: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Answer the requests of each connection with these bytes, then break it; gives the URL and what was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for replies in connections:
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    asked.append(connection.recv(65_536))
                    connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", asked
    finally:
        thread.join(10)
        listener.close()


async def test_a_broken_connection_after_a_400_does_no_harm_to_the_next_call() -> None:
    with serving([HEAD % (400, 2) + b"no"], [HEAD % (200, 3) + b"yes"]) as (url, asked):
        wire = Wire(Account(url, SECRET, {}), no_runs)
        assert await wire.send(POST) == Reply(400, b"no")
        assert await wire.send(POST) == Reply(200, b"yes")
        await wire.aclose()
    assert len(asked) == 2


async def test_a_download_that_ends_early_is_noticed_and_not_repeated_behind_the_readers_back() -> None:
    chunks: list[bytes] = []

    async def receive(chunk: bytes) -> None:
        chunks.append(chunk)

    with serving([HEAD % (200, 2_000_000) + b"x" * 1_500_000]) as (url, _):
        wire = Wire(Account(url, SECRET, {}), no_runs)
        reply = await wire.send(GET, receive)
        await wire.aclose()
    assert reply.status == 0
    assert 0 < len(b"".join(chunks)) <= 1_500_000


async def test_a_download_that_cannot_begin_is_repeated() -> None:
    chunks: list[bytes] = []

    async def receive(chunk: bytes) -> None:
        chunks.append(chunk)

    with serving([b""], [HEAD % (503, 0)], [HEAD % (200, 4) + b"rows"]) as (url, _):
        wire = Wire(Account(url, SECRET, {}), no_runs)
        reply = await wire.send(GET, receive)
        await wire.aclose()
    assert (reply, chunks) == (Reply(200, b""), [b"rows"])


async def test_a_refused_download_gives_its_reason() -> None:
    async def receive(chunk: bytes) -> None:
        raise AssertionError("nothing to receive")

    with serving([HEAD % (404, 4) + b"gone"]) as (url, _):
        wire = Wire(Account(url, SECRET, {}), no_runs)
        assert await wire.send(GET, receive) == Reply(404, b"gone")
        await wire.aclose()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "gopher://me:hidden@proxy:1"),
        ("HTTPS_PROXY", "http://me:hidden/x@proxy:1"),
        ("HTTPS_PROXY", "http://me:hidden@proxy:99999"),
        ("SSL_CERT_FILE", "/nowhere.pem"),
    ],
)
async def test_an_environment_that_no_client_can_be_made_with_is_told_without_its_secrets(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        Wire(Account("https://host/v1", SECRET, {}), no_runs)
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__
