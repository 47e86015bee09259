"""Webhooks over real sockets: an ASGI server, a plain HTTP server, and the emulator as a command."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from virtual import CHAT, body
from webhooks_kit import SECRET

import carpool
from carpool.testing import Emulator, Pace

pytestmark = pytest.mark.usefixtures("no_certificates", "no_environment")

RARELY = carpool.Timing(linger=0.05, poll_min=60)  # who is not told waits for a minute
SOON = 10.0  # seconds
PACE = Pace(running=0.3)
PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "webhooks.md"


@contextmanager
def served(app: Any, listener: socket.socket) -> Iterator[None]:
    """Serve an application by uvicorn in a thread, with its lifespan."""
    config = uvicorn.Config(app, lifespan="on", log_config=None, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="service")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give a socket of the service, whose address the emulator is to know before there is a service."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening


def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def service(url: str, path: str) -> Starlette:
    """Make a service that asks a pool, and takes the webhooks of its batches at a path."""
    pool = carpool.Pool("any", url, timing=RARELY, progress=False)
    endpoint = pool.webhooks(SECRET)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with pool:
            yield

    async def ask(request: Request) -> PlainTextResponse:
        response = await pool.request(CHAT, body(request.query_params["text"]))
        return PlainTextResponse(response.text)

    mounted = Mount(path.rstrip("/"), endpoint) if path.endswith("/") else Route(path, endpoint)
    return Starlette(routes=[Route("/ask", ask), mounted], lifespan=lifespan)


@pytest.mark.parametrize("path", ["/hooks/", "/hooks"], ids=["mounted", "routed"])
def test_a_service_is_answered_when_its_batch_has_ended(listener: socket.socket, path: str) -> None:
    here = address(listener)
    with (
        Emulator(webhook_url=here + path, webhook_secret=SECRET, pace=PACE) as emulator,
        served(service(emulator.url, path), listener),
        httpx2.Client(timeout=SOON) as client,
    ):
        assert client.get(here + "/ask", params={"text": "hello"}).text == "hello"
        assert client.post(here + path, content=b"{}").status_code == 401
        assert client.post(here + path, content=b" " * 200_000).status_code == 413
        refused = client.get(here + path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert [line.status for line in emulator.books().deliveries] == [204]


def test_the_endpoint_alone_is_an_application(listener: socket.socket) -> None:
    here = address(listener)
    with (
        Emulator(webhook_url=here, webhook_secret=SECRET, pace=PACE) as emulator,
        carpool.Pool("any", emulator.url, timing=RARELY, progress=False) as pool,
        served(pool.webhooks(SECRET), listener),
    ):
        began = time.monotonic()
        assert asyncio.run(ask(pool, "hello")) == "hello"
        assert time.monotonic() - began < SOON


async def ask(pool: carpool.Pool, text: str) -> str:
    return (await pool.request(CHAT, body(text))).text


def test_the_service_of_the_documentation_runs_as_it_is_printed(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, path = address(listener), "/openai/webhooks"
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    with Emulator(webhook_url=here + path, webhook_secret=SECRET, pace=PACE) as emulator:
        for name, value in {"BASE_URL": emulator.url, "API_KEY": "any", "WEBHOOK_SECRET": SECRET}.items():
            monkeypatch.setenv(f"OPENAI_{name}", value)
        names: dict[str, Any] = {}
        exec(block, names)
        with served(names["app"], listener), httpx2.Client(timeout=SOON) as client:
            assert client.get(here + "/ask", params={"text": "hello"}).text == "hello"
        assert [line.status for line in emulator.books().deliveries] == [204]


# --- a plain HTTP server, and the command


@contextmanager
def plain_server(handle: Any) -> Iterator[str]:
    """Serve a plain function from threads."""

    class Plain(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200 if handle(self.headers.items(), told) else 400)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="plain")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def emulate(*options: str) -> Iterator[str]:
    """Run the emulator as a command; gives its URL."""
    command = [sys.executable, "-c", "from carpool.cli import main; main()", "emulate", "--port", "0", *options]
    environment = {**os.environ, "OPENAI_WEBHOOK_SECRET": SECRET}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[2].rstrip(";")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def test_the_command_tells_a_plain_server() -> None:
    told: list[bool] = []

    def handle(headers: Any, content: bytes) -> bool:
        told.append(endpoint.handle(headers, content))
        return told[-1]

    with plain_server(handle) as there, emulate("--webhook-url", there, "--running", "0.3") as url:
        pool = carpool.Pool("any", url, timing=RARELY, progress=False)
        endpoint = pool.webhooks(["whsec_" + "AAAA" * 8, SECRET])
        with pool:
            began = time.monotonic()
            assert asyncio.run(ask(pool, "hello")) == "hello"
            assert time.monotonic() - began < SOON
    assert told == [True]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_tasks_left")
async def test_a_delivery_may_come_in_any_thread() -> None:
    handle: list[Any] = []
    with plain_server(lambda headers, content: handle[0](headers, content)) as there:
        async with (
            Emulator(webhook_url=there, webhook_secret=SECRET, pace=PACE) as emulator,
            carpool.Pool("any", emulator.url, timing=RARELY, progress=False) as pool,
        ):
            handle.append(pool.webhooks(SECRET).handle)
            with anyio.fail_after(SOON):
                assert await ask(pool, "hello") == "hello"
