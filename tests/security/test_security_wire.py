"""TLS that is verified whatever is set, a key that goes to its own host alone, and a warning where it can be read."""

import logging
import math
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

import carpool
from carpool.account import Account, is_in_clear
from carpool.config import Mode
from carpool.models import Call, Reply, Run, Upload
from carpool.session import Session
from carpool.settings import Ports
from carpool.wire import Read, Wire

pytestmark = pytest.mark.anyio

KEY = "sk-marked-0123456789abcdef"
ONCE = Call("POST", "/batches", False, json=b"{}")  # not sent again, whatever happens to it
READ = Call("GET", "/batches", True)
UPLOAD = Call("POST", "/files", False, form={"purpose": "batch"}, upload=Upload("in.jsonl", (), 3))
SOURCES = Path(carpool.__file__).parent


def no_runs(runs: tuple[Run, ...]) -> AsyncIterator[bytes]:
    raise AssertionError("nothing is uploaded here")


def request_on(connection: socket.socket) -> bytes:
    """Read a whole request: what is left unread would reset the connection, and the reply with it."""
    read = connection.recv(65_536)
    while True:
        head, ends, content = read.partition(b"\r\n\r\n")
        told = re.search(rb"(?i)content-length: *(\d+)", head)
        if ends and len(content) >= (int(told[1]) if told else 0):
            return read
        piece = connection.recv(65_536)
        if not piece:
            return read
        read += piece


@contextmanager
def listening(
    context: ssl.SSLContext | None = None, reply: bytes = b"", *, tunnel: bool = False
) -> Iterator[tuple[int, list[bytes]]]:
    """Answer each connection so, until the end; gives the port and what could be read of them.

    As a proxy it opens the `tunnel` that is asked for first, and is itself what lies at the end of it.
    """
    read: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                if over.is_set():
                    return
                if tunnel:
                    read.append(request_on(connection))
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                secured = connection if context is None else context.wrap_socket(connection, server_side=True)
                with secured:
                    read.append(request_on(secured))
                    secured.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], read
    finally:
        over.set()
        socket.create_connection(listener.getsockname()).close()  # not every system wakes who accepts by a shutdown
        thread.join(10)
        listener.close()


def answer(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\nConnection: close\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def send(url: str, call: Call, read: Read = no_runs, **settings: Any) -> Reply:
    """Send one call, as a pool does."""
    wire = Wire(Account(url, KEY, {}), read, final=lambda call, reply: True, **settings)
    try:
        return await wire.send(call)
    finally:
        await wire.aclose()


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def real_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make contexts as Python does: the other tests share them."""
    monkeypatch.setattr("ssl.create_default_context", ssl.create_default_context.__wrapped__)  # type: ignore[attr-defined]
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.usefixtures("real_contexts")
@pytest.mark.parametrize("trust_env", [True, False])
async def test_a_server_that_nobody_vouches_for_is_told_nothing(authority: trustme.CA, trust_env: bool) -> None:
    with listening(server_context(authority, "127.0.0.1"), answer(200)) as (port, read):
        reply = await send(f"https://127.0.0.1:{port}/v1", ONCE, trust_env=trust_env)
    assert reply.status == 0
    assert b"CERTIFICATE_VERIFY_FAILED" in reply.body
    assert read == []


@pytest.mark.usefixtures("real_contexts")
@pytest.mark.parametrize(("name", "told"), [("127.0.0.1", True), ("elsewhere.example", False)])
async def test_a_certificate_counts_for_the_host_that_it_names(
    authority: trustme.CA, name: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the environment's own authorities too."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with listening(server_context(authority, name), answer(200)) as (port, read):
        reply = await send(f"https://127.0.0.1:{port}/v1", ONCE)
    assert reply.status == (200 if told else 0)
    assert bool(read) is told


def contexts_of(wire: Wire) -> list[ssl.SSLContext]:
    """Give the contexts that a wire's connections are made with, those through proxies too."""
    client: Any = wire._client  # noqa: SLF001 - no door shows what connections are made with
    doors = [client._transport, *(door for door in client._mounts.values() if door is not None)]  # noqa: SLF001
    return [door._pool._ssl_context for door in doors]  # noqa: SLF001


class Seen(Exception):
    """End the opening of a session once its wire is made."""


MODES: tuple[Mode, ...] = ("batch", "live")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    *({"mode": mode} for mode in MODES),
    {"keep_remote_files": True, "reuse": "never", "progress": False},
    {"escalate": "live", "timeout": 60.0},
    {"limits": {"*": 10}, "tier": "tier-1", "max_pending": 1},
    {"base_url": "https://localhost/v1"},
    {"base_url": "https://10.0.0.1:8443/v1"},
)
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"HTTPS_PROXY": "http://127.0.0.1:9"},
    {"ALL_PROXY": "https://127.0.0.1:9", "NO_PROXY": "example.com"},
    {"PYTHONHTTPSVERIFY": "0", "CURL_CA_BUNDLE": "", "REQUESTS_CA_BUNDLE": ""},
)


@pytest.mark.usefixtures("real_contexts", "no_environment")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda names: ",".join(names) or "none")
async def test_no_option_and_no_environment_turns_verification_off(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen: list[Wire] = []

    class Noted(Wire):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            seen.append(self)
            raise Seen

    monkeypatch.setattr("carpool.session.Wire", Noted)
    tried = SETTINGS[:1] if environment else SETTINGS
    for settings in tried:
        with pytest.raises(Seen):
            await Session.open(carpool.Pool(KEY, **settings, _ports=Ports())._settings)  # noqa: SLF001
    assert len(seen) == len(tried)
    for wire in seen:
        for context in contexts_of(wire):
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname
        await wire.aclose()


def test_nothing_in_the_sources_turns_verification_off() -> None:
    """By the words that do it: where no test makes a client, as before an upstream, this is all that is looked at."""
    loose = re.compile(r"verify\s*=|CERT_NONE|check_hostname\s*=|_create_unverified_context")
    found = [path.name for path in SOURCES.rglob("*.py") if loose.search(path.read_text())]
    assert found == []


@pytest.mark.usefixtures("real_contexts")
async def test_an_upload_through_a_proxy_may_take_as_long_as_it_does(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy's reply to CONNECT comes before the upload: the time of the call's own reply does not begin with it."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    deadlines: list[float] = []

    async def lines(runs: tuple[Run, ...]) -> AsyncIterator[bytes]:
        deadlines.append(anyio.current_effective_deadline())
        yield b"{}\n"

    context = server_context(authority, "api.example.com")
    with listening(context, answer(200), tunnel=True) as (port, read):
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        reply = await send("https://api.example.com/v1", UPLOAD, lines)
    assert reply.status == 200
    assert read[0].startswith(b"CONNECT api.example.com:443 HTTP/1.1\r\n")
    assert KEY.encode() not in read[0]
    assert b'name="file"; filename="in.jsonl"' in read[1]
    assert deadlines == [math.inf]


# --- in clear


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("http://10.0.0.1:8000/v1", True),
        ("http://api.example.com/v1", True),
        ("http://localhost.example.com/v1", True),
        ("http://127.0.0.1.example.com/v1", True),
        ("http://[2001:db8::1]/v1", True),
        ("https://api.example.com/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://LOCALHOST/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
@pytest.mark.usefixtures("no_certificates")
async def test_plain_http_beyond_this_machine_is_warned_of(
    url: str, clear: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_in_clear(url) is clear
    await Wire(Account(url, KEY, {}), no_runs).aclose()
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == clear
    assert all("can be read on the way" in record.getMessage() and KEY not in record.getMessage() for record in warned)


# --- redirects


@pytest.mark.usefixtures("no_certificates")
@pytest.mark.parametrize("call", [READ, ONCE], ids=["read", "write"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed_on_real_sockets(call: Call, status: int) -> None:
    with listening(reply=answer(200)) as (elsewhere, strange):
        where = f"http://127.0.0.1:{elsewhere}/v1/batches"
        with listening(reply=answer(status, b"", Location=where)) as (port, asked):
            reply = await send(f"http://127.0.0.1:{port}/v1", call)
    assert KEY.encode() in asked[0]
    assert strange == []
    assert reply.status == status
