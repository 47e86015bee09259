"""Whatever bytes come out of a connection, and however slowly: a call ends as a reply, soon, in bounded memory."""

import ssl
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any

import anyio
import anyio.lowlevel
import httpcore2
import httpx2
import hypothesis.strategies as st
import pytest
from fuzz_kit import codes, fuzzed, reply_bodies, with_peak
from hypothesis import given
from virtual import VirtualLoop

from carpool.account import Account
from carpool.models import Call, CallFailed, Reply
from carpool.providers.openai import OpenAI
from carpool.wire import Wire
from carpool.wire.pauses import asked_pause, asked_rest
from carpool.wire.wire import _BODY

KEY = "sk-fuzzed"
READ = Call("GET", "/batches", True)
WRITE = Call("POST", "/batches", False, json=b"{}")
LIVE = Call("POST", "/chat/completions", False, json=b"{}", patience=600.0)
FETCH = Call("GET", "/files/x/content", True)
HOURS = 6  # within which any call is over
CLEAR = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is encrypted here


class Drip(httpcore2.AsyncNetworkStream):
    """Give pieces one by one, each after a pause; then end, or say nothing any more."""

    def __init__(self, pieces: Iterable[tuple[float, bytes]], *, ends: bool) -> None:
        self._pieces = iter(pieces)
        self._held: tuple[float, bytes] | None = None
        self._ends = ends

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        pause, piece = self._held or next(self._pieces, (0.0 if self._ends else 1e9, b""))
        self._held = None
        if timeout is not None and pause > timeout:
            await anyio.sleep(timeout)
            raise httpcore2.ReadTimeout
        await anyio.sleep(pause)
        self._held = (0.0, piece[max_bytes:]) if len(piece) > max_bytes else None
        return piece[:max_bytes]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None


class Net(httpcore2.AsyncNetworkBackend):
    """Connect to a server that says the same on each connection."""

    def __init__(self, pieces: Iterable[tuple[float, bytes]] | Any, *, ends: bool = True) -> None:
        self._pieces = pieces
        self._ends = ends
        self.connections = 0

    async def connect_tcp(self, *args: Any, **more: Any) -> httpcore2.AsyncNetworkStream:
        self.connections += 1
        return Drip(self._pieces() if callable(self._pieces) else self._pieces, ends=self._ends)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def send(net: Net, call: Call, *, fetch: bool) -> tuple[Reply, float, int]:
    """Send one call over such connections; gives the reply, the seconds it took, and the bytes that were handed on."""
    transport = httpx2.AsyncHTTPTransport(verify=CLEAR)
    transport._pool._network_backend = net  # noqa: SLF001 - httpx2 has no door for it
    wire = Wire(Account("http://h/v1", KEY, {}), _nothing, transport=transport, final=OpenAI().is_final)
    handed = 0

    async def receive(chunk: bytes) -> None:
        nonlocal handed
        handed += len(chunk)

    start = anyio.current_time()
    try:
        with anyio.fail_after(HOURS * 3_600):
            reply = await wire.send(call, receive if fetch else None)
        return reply, anyio.current_time() - start, handed
    finally:
        await wire.aclose()


def _nothing(_runs: object) -> Any:
    raise AssertionError("nothing is uploaded here")


def sent(net: Net, call: Call = READ, *, fetch: bool = False) -> tuple[Reply, float, int]:
    return anyio.run(partial(send, net, call, fetch=fetch), backend_options={"loop_factory": VirtualLoop})


# --- anything

_SEPARATORS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
_header_names = st.sampled_from(
    [
        b"Content-Length",
        b"Transfer-Encoding",
        b"Content-Encoding",
        b"Content-Type",
        b"Retry-After",
        b"retry-after-ms",
        b"Location",
        b"Connection",
        b"x-ratelimit-reset-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x" * 300,
        b"b\xe4d n\xe4me",
    ]
)
_header_values = st.sampled_from(
    [
        b"0",
        b"7",
        b"-1",
        b"5, 5",
        b"9" * 30,
        b"9" * 5_000,
        b"chunked",
        b"gzip, chunked",
        b"gzip",
        b"deflate",
        b"br",
        b"gzip, gzip, gzip, gzip, gzip, gzip",
        b"identity",
        b"application/json; charset=utf-16",
        b"text/event-stream",
        b"close",
        b"upgrade",
        b"1e999",
        b"nan",
        b"Wed, 21 Oct 2015 07:28:00 GMT",
        b"6m0s",
        b"/v1/batches",
        b"http://elsewhere/v1/batches",
        b"http://[",
        b"//",
        b"\xff\x00",
        b"",
    ]
) | st.binary(max_size=12)
_firsts = st.one_of(
    codes.map(lambda status: b"HTTP/1.1 %03d X" % status),
    codes.map(lambda status: b"HTTP/1.1 %03d X" % status),
    st.sampled_from([b"HTTP/1.0 200 OK", b"HTTP/2 200", b"ICY 200 OK", b"HTTP/1.1 20", b"SSH-2.0-OpenSSH_9", b""]),
)


@st.composite
def raw_replies(draw: st.DrawFn) -> bytes:
    """Write a reply as a server might that is broken, or means harm."""
    line = draw(_SEPARATORS)
    content = draw(reply_bodies)
    headers = draw(st.lists(st.tuples(_header_names, _header_values), max_size=4))
    if draw(st.integers(0, 3)):
        headers.append((b"Content-Length", b"%d" % (len(content) + draw(st.sampled_from([0, 0, 0, 1, -1, 10**9])))))
    if draw(st.integers(0, 5)) == 0:
        content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    return b"".join([draw(_firsts), line, *(b"%b: %b%b" % (*header, line) for header in headers), line, content])


raw = st.one_of(raw_replies(), raw_replies(), st.binary(max_size=80))


def assert_auth(exc: CallFailed) -> None:
    """Check that a call failed for its key."""
    assert exc.failure.kind == "auth"


@given(raw, st.sampled_from([READ, WRITE, LIVE, FETCH]), st.integers(1, 4), st.sampled_from([0.0, 1.0, 119.0]))
@fuzzed(40)
def test_any_bytes_are_a_reply_or_none(reply: bytes, call: Call, pieces: int, pause: float) -> None:
    size = max(1, -(-len(reply) // pieces))
    net = Net([(pause, reply[start : start + size]) for start in range(0, len(reply), size)])
    try:
        came, _, _ = sent(net, call, fetch=call is FETCH)
    except CallFailed as exc:
        assert_auth(exc)
        return
    assert type(came.status) is int
    assert 0 <= came.rest <= 600


_odd_headers = st.sampled_from(
    ["", "0", "1e999", "nan", "-5", "9" * 400, "٣", "²", "6m0s", "1h1h1h", "1ms1m1s", "9" * 400 + "d"]
)
_dates = st.builds(
    lambda day, month, year, rest: f"Mon, {day} {month} {year} {rest}",
    st.integers(-1, 10**6),
    st.sampled_from(["Jan", "Foo", "", "13"]),
    st.sampled_from([0, 1, 1969, 2025, 9_999, 10_000, 10**12]),
    st.sampled_from(["00:00:00 GMT", "25:61:61 +9999", "00:00:00 -2400", "", "0:0:0 +99999999999999"]),
)


@given(
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), _odd_headers | _dates | st.text(max_size=12))
)
@fuzzed(60)
def test_what_a_server_asks_for_is_a_pause_or_nothing(given_headers: dict[str, str]) -> None:
    headers = httpx2.Headers(
        [(name.encode(), value.encode("utf-8", "replace")) for name, value in given_headers.items()]
    )
    pause = asked_pause(headers)
    assert pause is None or pause >= 0


@given(_odd_headers | st.from_regex(r"([0-9]{1,9}(\.[0-9]{1,4})?(ms|s|m|h|d)){1,4}"))
@fuzzed(30)
def test_how_long_nothing_is_allowed_is_a_number(span: str) -> None:
    headers = httpx2.Headers([(b"x-ratelimit-remaining-tokens", b"0"), (b"x-ratelimit-reset-tokens", span.encode())])
    assert asked_rest(headers) >= 0


# --- slow drips, and bodies without an end

OK = b"HTTP/1.1 200 OK\r\n"


def _without_end(head: bytes, piece: bytes, pause: float) -> Iterator[tuple[float, bytes]]:
    yield 0.0, head
    while True:
        yield pause, piece


@pytest.mark.parametrize("call", [READ, WRITE, LIVE, FETCH], ids=["read", "write", "live", "fetch"])
@pytest.mark.parametrize("head", [b"", OK, OK + b"Content-Length: 1000000\r\n\r\n"], ids=["status", "headers", "body"])
def test_a_reply_that_drips_is_not_waited_for_for_ever(head: bytes, call: Call) -> None:
    net = Net(lambda: _without_end(head, b"x", 59.0))
    reply, seconds, _ = sent(net, call, fetch=call is FETCH)
    assert reply.status == 0
    assert seconds < HOURS * 3_600


def test_a_long_download_that_goes_on_is_waited_for() -> None:
    """It takes 1,200 s: more than any reply may that does not come forward."""
    megabytes, megabyte = 60, b"x" * 2**20
    head = OK + b"Content-Length: %d\r\n\r\n" % (megabytes * len(megabyte))
    net = Net(lambda: chain([(0.0, head)], repeat((20.0, megabyte), megabytes)))
    reply, seconds, handed = sent(net, FETCH, fetch=True)
    assert (reply.status, handed, net.connections) == (200, megabytes * len(megabyte), 1)
    assert seconds == pytest.approx(1_200)


def squeezed(first: bytes, next_: bytes) -> tuple[bytes, bytes]:
    """Begin a gzip stream, and give what goes on with it for ever: after a full flush nothing refers to what was."""
    made = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    begun = made.compress(first) + made.flush(zlib.Z_FULL_FLUSH)
    return begun, made.compress(next_) + made.flush(zlib.Z_FULL_FLUSH)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_body_without_end_is_not_held(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**24
    monkeypatch.setattr("carpool.wire.wire._BODY", most)
    begun = piece = bytes(2**20)
    for _ in range(times):
        begun, piece = squeezed(begun, piece * 100 if len(piece) < 2**20 else piece)
    head = OK + b"Content-Encoding: %b\r\n\r\n" % b", ".join([b"gzip"] * times or [b"identity"])
    net = Net(lambda: (each for each in chain([(0.0, head + begun)], repeat((0.01, piece)))))
    (reply, _, _), peak = with_peak(lambda: sent(net, WRITE))
    assert b"larger than" in reply.body
    assert reply.status == 0
    assert peak < 4 * most


def test_a_body_that_is_just_allowed_takes_four_times_its_size_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**24
    monkeypatch.setattr("carpool.wire.wire._BODY", most)
    head, piece = OK + b"Content-Length: %d\r\n\r\n" % most, b"x" * 2**16
    net = Net(lambda: chain([(0.0, head)], repeat((0.0, piece), most // len(piece))))
    (reply, _, _), peak = with_peak(lambda: sent(net, WRITE))
    assert reply.body == piece * (most // len(piece))
    assert peak < 4 * most


def test_a_body_may_have_256_mb() -> None:
    """The tests above set a smaller bound."""
    assert _BODY == 256 * 2**20
