"""HTTP: calls out, replies in, over one connection pool.

What is safe to repeat is repeated here, with full-jitter back-off; what is not comes back as a reply with status 0,
for the engine to judge. The key is known to this room alone and appears in nothing that leaves it.
"""

import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from inspect import isawaitable
from secrets import token_hex
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

import anyio
import httpx2

from .account import Account
from .errors import ConfigurationError
from .models import Call, CallFailed, Failure, Reply, Run, Upload

Read: TypeAlias = Callable[[tuple[Run, ...]], AsyncIterator[bytes]]
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
_LIMITS = httpx2.Limits(max_connections=40, max_keepalive_connections=10)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SPAN = re.compile(f"(?:{_PART.pattern})+")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class Wire:
    """Send calls to one base URL with one key.

    `key` may be a callable, also an async one, asked before each call, so that keys can be rotated. `read` streams
    spool ranges for uploads. `final` tells of a refusal of a call whether another try would fare no better: a 429
    for lack of room in the queue passes in hours, not in seconds. `trust_env` takes proxies from the environment.
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
        self._key = account.key
        self._read = read
        self._final = final
        self._hear = hear
        with _environment_mapped():
            if trust_env and transport is None:
                _check_proxies()
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
        key = await self._usable_key()
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
        while True:
            exchange = _Exchange(call, receive)
            await self._try(exchange)
            over = attempt == _TRIES or (heed and exchange.reply.status > 0)
            if over or not exchange.may_repeat or self._final(call, exchange.reply):
                return exchange.reply
            await anyio.sleep(exchange.pause(attempt))
            attempt += 1

    async def _try(self, exchange: "_Exchange") -> None:
        try:
            async with self._open(exchange.call) as response:
                self._hear(response.headers)
                await exchange.take(response)
        except _NOT_SENT as exc:
            exchange.fail(exc, sent=False)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            exchange.fail(exc, sent=True)

    @asynccontextmanager
    async def _open(self, call: Call) -> AsyncIterator[httpx2.Response]:
        """Send a call and follow redirects of reads, never to another host: that would be a stranger with our files."""
        request = await self._request(call)
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

    async def _request(self, call: Call) -> httpx2.Request:
        request = self._client.build_request(call.method, call.path.lstrip("/"), params=call.query, content=call.json)
        request.headers["Authorization"] = f"Bearer {await self._usable_key()}"
        if call.patience is not None:
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": call.patience}
        if call.json is not None:
            request.headers["Content-Type"] = "application/json"
        if call.method == "POST":
            # Some servers break a connection after refusing a call on it (traps 17): the next one gets a fresh one.
            request.headers["Connection"] = "close"
        if call.upload is not None:
            form = _Form(call.form or {}, call.upload, self._read)
            request.stream = form
            request.headers.update(form.headers)
        return request

    async def _usable_key(self) -> str:
        try:
            given: object = self._key() if callable(self._key) else self._key
            key = await given if isawaitable(given) else given
        except Exception as exc:  # noqa: BLE001 - the user's own callable
            raise CallFailed(Failure("auth", f"The api_key callable raised {type(exc).__name__}.")) from None
        # An illegal header would be quoted in the error about it.
        if not isinstance(key, str) or not key.isascii() or not key.isprintable() or not key or " " in key:
            raise CallFailed(Failure("auth", "The API key is empty or holds blanks or characters that no key has."))
        return key


def _check_proxies() -> None:
    """Raise `ValueError` for a port that is none, to connect to which would end in an `OverflowError`."""
    for name, address in getproxies().items():
        if name in ("http", "https", "all"):
            _ = urlsplit(address if "//" in address else f"//{address}").port


@contextmanager
def _environment_mapped() -> Iterator[None]:
    """Say what in the environment no client can be made with; the address of a proxy may hold a password."""
    try:
        yield
    except (httpx2.InvalidURL, ValueError):
        raise ConfigurationError(
            "A proxy that the environment names has no address that can be used. Check HTTPS_PROXY, HTTP_PROXY, "
            "ALL_PROXY and NO_PROXY."
        ) from None
    except (OSError, ImportError) as exc:
        raise ConfigurationError(
            f"The certificates or the proxy that the environment names cannot be used: {exc}. Check SSL_CERT_FILE, "
            "SSL_CERT_DIR and ALL_PROXY."
        ) from None


class _Exchange:
    """Hold one try of a call: its reply, and whether another try does no harm."""

    def __init__(self, call: Call, receive: Receive | None) -> None:
        self.call = call
        self.reply = Reply(0, b"")
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

    async def take(self, response: httpx2.Response) -> None:
        """Read a response."""
        body = b""
        if self._receive is not None and response.is_success:
            await self._pass_on(response, self._receive)
        elif response.has_redirect_location:
            body = b"a redirect, which is followed for reads on the same host only"
        else:
            body = await response.aread()
        if not response.is_success:
            # Some servers quote the key they refuse, and refusals are quoted in errors and logs.
            _, _, key = response.request.headers["Authorization"].partition(" ")
            body = body.replace(key.encode(), b"***")
        self._asked = _asked_pause(response.headers)
        self.reply = Reply(response.status_code, body, min(self._asked or _asked_rest(response.headers), _ASKED_MAX))

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

    def fail(self, exc: Exception, *, sent: bool) -> None:
        """Note that no reply came, or none to its end; the message names no header, so no key."""
        self.reply = Reply(0, f"{type(exc).__name__}: {exc}".encode())
        self._sent = sent


def _asked_pause(headers: httpx2.Headers) -> float | None:
    """Read `retry-after-ms` and `Retry-After` (seconds or a date) as seconds from now."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        after = headers.get("retry-after")
        if after is None:
            return None
        return max(0.0, float(after) if after[:1].isdigit() else parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _asked_rest(headers: httpx2.Headers) -> float:
    """Read for how long nothing more is allowed, in seconds: what remains of requests or tokens is none."""
    rests = [
        _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    return max(rests, default=0.0)


def _seconds(span: str) -> float:
    """Read a span such as "1s", "6m0s" or "20ms"; 0 for what is none."""
    if not _SPAN.fullmatch(span):
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(span))


def _same_host(one: httpx2.URL, other: httpx2.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


class _Form(httpx2.AsyncByteStream):
    """Stream a multipart form with one file: an iterator of its own, since httpx2's would read the file in the loop."""

    def __init__(self, fields: dict[str, str], upload: Upload, read: Read) -> None:
        boundary = token_hex(16)
        disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [f'{disposition}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
        parts.append(f'{disposition}"file"; filename="{upload.filename}"\r\nContent-Type: application/jsonl\r\n\r\n')
        self._head = "".join(parts).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._upload = upload
        self._read = read
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + upload.size + len(self._tail)),
        }

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chain(self._head, self._read(self._upload.runs), self._tail)


class _Chain:
    """Iterate over head, middle and tail: no generator, which a broken connection would leave half run."""

    def __init__(self, head: bytes, middle: AsyncIterator[bytes], tail: bytes) -> None:
        self._head: bytes | None = head
        self._middle = middle
        self._tail: bytes | None = tail

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._head is not None:
            head, self._head = self._head, None
            return head
        try:
            return await anext(self._middle)
        except StopAsyncIteration:
            if self._tail is None:
                raise
            tail, self._tail = self._tail, None
            return tail
