"""HTTP: calls out, replies in, over one connection pool.

What is safe to repeat is repeated here, with full-jitter back-off; what is not comes back as a reply with status 0,
for the engine to judge. The key is known to this room alone and appears in nothing that leaves it.
"""

import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from hashlib import blake2b
from typing import TypeAlias

import anyio
import httpx2

from ..account import Account, is_in_clear
from ..models import Call, Reply
from .environment import check_proxies, environment_mapped
from .forms import Form, Read
from .keys import Asking, Keys
from .pauses import asked_pause, asked_rest

log: logging.Logger = logging.getLogger("carpool.wire")

Receive: TypeAlias = Callable[[bytes], Awaitable[None]]

Transport: TypeAlias = httpx2.AsyncBaseTransport

CHUNK = 2**20  # bytes: what is read, sent and received at once

_TRIES = 6
_PAUSE, _PAUSE_MAX = 0.5, 16.0  # seconds: the widest first pause, and the widest of all
_PASSING = frozenset({0, 408, 409, 429})  # besides 5xx: another try may fare better
_ASKED_MAX = 600.0  # seconds: a longer `Retry-After` is obeyed so far, and then asked for again
_REDIRECTS = 5
# A file may take minutes to upload, but not minutes between two of its bytes.
_TIMEOUT = httpx2.Timeout(60.0, connect=20.0, read=120.0, pool=None)
# Nor may a reply drip for ever: so long it may take from its first byte on, and each `CHUNK` that is handed on.
_WHOLE = 900.0  # seconds
_BODY = 2**28  # bytes of a body that is held in memory: an answer has some millions, and a page of a listing too
_LIMITS = httpx2.Limits(max_connections=40, max_keepalive_connections=10)
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class Wire:
    """Send calls to one base URL with one key.

    The key may come from a callable, also an async one, asked before each exchange, so that keys can be rotated. `read`
    streams spool ranges for uploads. `final` tells of a refusal of a call whether another try would fare no better: a
    429 for lack of room in the queue passes in hours, not in seconds. `trust_env` takes proxies from the environment.
    `hear` is told the headers of each response. Raises `ConfigurationError` where the environment names a proxy or
    certificates that cannot be used.
    """

    def __init__(
        self,
        account: Account,
        read: Read,
        *,
        transport: Transport | None = None,
        final: Callable[[Call, Reply], bool] = lambda call, reply: False,
        trust_env: bool = True,
        hear: Callable[[Mapping[str, str]], None] = lambda headers: None,
    ) -> None:
        self._keys = Keys(account.key)
        self.key_may_change: bool = self._keys.may_change
        self._read = read
        self._final = final
        self._hear = hear
        if transport is None and is_in_clear(account.base_url):
            log.warning("%s is no https: the API key and all requests can be read on the way there", account.base_url)
        with environment_mapped():
            if trust_env and transport is None:
                check_proxies()
            # No compression: a body's length is how a download that ended early is noticed.
            self._client = httpx2.AsyncClient(
                base_url=account.base_url,
                headers={"Accept-Encoding": "identity", "User-Agent": "carpool", **account.headers},
                timeout=_TIMEOUT,
                limits=_LIMITS,
                transport=transport,
                trust_env=trust_env,
            )

    async def key_mark(self, salt: str) -> str:
        """Give what tells this key from others and says nothing of it; `CallFailed` when there is no usable key."""
        key = await Asking(self._keys).key()
        return blake2b(key.encode(), digest_size=8, key=salt.encode()).hexdigest()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def send(self, call: Call, receive: Receive | None = None, *, heed: bool = False) -> Reply:
        """Exchange a call for its reply; status 0 when none came, or not to its end.

        With `receive` the body of a 2xx reply goes there in chunks; once one has come, the call is not repeated. With
        `heed` a refusal for now comes back at once: how long to wait is the caller's to judge. Raises `CallFailed` when
        there is no usable key.
        """
        attempt = 1
        asking = Asking(self._keys)
        while True:
            exchange = _Exchange(call, receive)
            await self._try(exchange, asking)
            if exchange.reply.status == 401 and await asking.renewed(exchange.key):
                continue  # nothing was done
            over = attempt == _TRIES or (heed and exchange.reply.status > 0)
            if over or not exchange.may_repeat or self._final(call, exchange.reply):
                return exchange.reply
            await anyio.sleep(exchange.pause(attempt))
            attempt += 1

    async def _try(self, exchange: "_Exchange", asking: Asking) -> None:
        exchange.key = await asking.key()
        try:
            with exchange.within:
                async with self._open(exchange) as response:
                    self._hear(response.headers)
                    if response.is_success:
                        self._keys.taken()
                    await exchange.take(response)
            if exchange.within.cancelled_caught and exchange.reply.status == 0:
                exchange.fail(TimeoutError("the reply came too slowly"), sent=True)
        except _NOT_SENT as exc:
            exchange.fail(exc, sent=False)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            exchange.fail(exc, sent=True)

    @asynccontextmanager
    async def _open(self, exchange: "_Exchange") -> AsyncIterator[httpx2.Response]:
        """Send a call and follow redirects of reads, never to another host: that would be a stranger with our files."""
        call = exchange.call
        request = self._request(call, exchange.key)
        request.extensions["trace"] = exchange.trace
        response = await self._client.send(request, stream=True)
        try:
            for _ in range(_REDIRECTS):
                target = response.next_request
                if target is None or call.method != "GET" or not _same_host(target.url, request.url):
                    break
                await response.aclose()
                target.headers["Authorization"] = request.headers["Authorization"]
                response = await self._client.send(target, stream=True)
            yield response
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    def _request(self, call: Call, key: str) -> httpx2.Request:
        request = self._client.build_request(call.method, call.path.lstrip("/"), params=call.query, content=call.json)
        request.headers["Authorization"] = f"Bearer {key}"
        if call.patience is not None:
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": call.patience}
        if call.json is not None:
            request.headers["Content-Type"] = "application/json"
        if call.method == "POST":
            # Some servers break a connection after refusing a call on it (traps 17): the next one gets a fresh one.
            request.headers["Connection"] = "close"
        if call.upload is not None:
            form = Form(call.form or {}, call.upload, self._read)
            request.stream = form
            request.headers.update(form.headers)
        return request


class _Exchange:
    """Hold one try of a call: its reply, and whether another try does no harm."""

    def __init__(self, call: Call, receive: Receive | None) -> None:
        self.call = call
        self.key = ""
        self.reply = Reply(0, b"")
        self.within = anyio.CancelScope()
        self._receive = receive
        self._received = False
        self._sent = True
        self._asked: float | None = None

    @property
    def may_repeat(self) -> bool:
        """Tell whether another try may fare better and does no harm."""
        status = self.reply.status
        harmless = self.call.repeat or status == 429 or not self._sent
        return harmless and not self._received and (status in _PASSING or status >= 500)

    def pause(self, attempt: int) -> float:
        """Give the seconds to wait: what the server asked for, else full jitter."""
        if self._asked is not None:
            return min(self._asked, _ASKED_MAX)
        return random.uniform(0, min(_PAUSE_MAX, _PAUSE * 2**attempt))  # noqa: S311 - spreads load, keeps no secret

    async def trace(self, name: str, _told: Mapping[str, object]) -> None:
        """Measure the time from when the reply is awaited: a connection or an upload may take as long as it does.

        Through a proxy the reply to its CONNECT comes before the call is sent.
        """
        if name.endswith("receive_response_headers.started"):
            self._extend(self.call.patience or 0.0)
        elif name.endswith("send_request_headers.started"):
            self.within.deadline = math.inf

    def _extend(self, patience: float = 0.0) -> None:
        self.within.deadline = anyio.current_time() + patience + _WHOLE

    async def take(self, response: httpx2.Response) -> None:
        """Read a response."""
        self._extend()
        body = b""
        if self._receive is not None and response.is_success:
            await self._pass_on(response, self._receive)
        elif response.has_redirect_location:
            body = b"a redirect, which is followed for reads on the same host only"
        else:
            body = await _whole(response)
        if not response.is_success:
            # Some servers quote the key they refuse, and refusals are quoted in errors and logs.
            body = body.replace(self.key.encode(), b"***")
        self._asked = asked_pause(response.headers)
        self.reply = Reply(response.status_code, body, min(self._asked or asked_rest(response.headers), _ASKED_MAX))

    async def _pass_on(self, response: httpx2.Response, receive: Receive) -> None:
        """Hand a body on in chunks; one that is shorter than was announced is no reply (traps 11)."""
        size = held = 0
        parts: list[bytes] = []  # gathered here: httpx2's own chunks cost three copies
        async with aclosing(response.aiter_bytes()) as chunks:
            async for part in chunks:
                size += len(part)
                held += len(part)
                parts.append(part)
                if held >= CHUNK:
                    await self._hand_on(parts, receive)
                    held = 0
            if parts:
                await self._hand_on(parts, receive)
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and "content-encoding" not in response.headers and size < int(announced):
            raise httpx2.RemoteProtocolError(f"the body ended after {size:,} of {int(announced):,} bytes")

    async def _hand_on(self, parts: list[bytes], receive: Receive) -> None:
        chunk = b"".join(parts)
        parts.clear()
        self._received = True
        # A loop that is left by cancellation would leave the response's generators half run.
        with anyio.CancelScope(shield=True):
            await receive(chunk)
        self._extend()

    def fail(self, exc: Exception, *, sent: bool) -> None:
        """Note that no reply came, or none to its end; the message names no header, so no key."""
        self.reply = Reply(0, f"{type(exc).__name__}: {_words(exc)}".encode())
        self._sent = sent


def _words(exc: BaseException | None) -> str:
    """Give the words of an exception, or of the cause that has some: on trio a bad certificate is told there alone."""
    while exc is not None and not str(exc):
        exc = exc.__cause__ or exc.__context__
    return str(exc or "")


async def _whole(response: httpx2.Response) -> bytes:
    """Read a body into memory; one that does not end is no reply."""
    body = bytearray()
    async with aclosing(response.aiter_bytes()) as chunks:
        async for part in chunks:
            body += part
            if len(body) > _BODY:
                raise httpx2.RemoteProtocolError(f"the body is larger than {_BODY:,} bytes")
    return bytes(body)


def _same_host(one: httpx2.URL, other: httpx2.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
