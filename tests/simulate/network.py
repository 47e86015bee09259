"""The network of a process: slow, and what has left it arrives, whatever becomes of the process."""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.abc
import httpx2

from .calls import CHAT, number_of
from .plan import What

_BATCHES = "/v1/batches"
_ORDERS = (_BATCHES, CHAT)  # to send these twice is to order twice
_LISTING = "GET", _BATCHES
_RUNS = {
    "status": "in_progress",
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "output_file_id": None,
    "error_file_id": None,
}
_ERRORS = re.compile(rb'"error_file_id": ?"([^"]+)"')
_Sent: TypeAlias = "list[httpx2.Response | Exception]"


class Sender(Protocol):
    """Be a process that sends."""

    async def travel(self) -> None:
        """Wait as long as the way takes; raises where the process has died meanwhile."""
        ...

    async def think(self) -> None:
        """Wait as long as a live answer takes."""
        ...

    def answered_live(self, number: int) -> None:
        """Note that a call is answered live."""
        ...

    def repeats(self) -> bool:
        """Draw whether a request is sent twice."""
        ...


class Network(httpx2.AsyncBaseTransport):
    """Carry requests of a sender to an ASGI application, whose work is done in the task group `outside`.

    Where the listing is `stale`, it shows each batch for ever as it was when it began to run. What is `locked` is shown
    to nobody.
    """

    def __init__(
        self, sender: Sender, app: Any, outside: anyio.abc.TaskGroup, *, stale: bool, locked: Callable[[], What | None]
    ) -> None:
        self._locked = locked
        self._error_files: set[str] = set()  # as far as replies named them
        self._sender = sender
        self._stale = stale
        self._app = httpx2.ASGITransport(app=app)
        self._outside = outside

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        await self._sender.travel()
        if request.method == "GET" and self._is_locked(request.url.path):
            return httpx2.Response(403, json={"error": {"message": "The key may not read this."}})
        sent: _Sent = []
        arrived = anyio.Event()
        self._outside.start_soon(self._serve, request, sent, arrived)
        if not (request.method == "POST" and request.url.path in _ORDERS) and self._sender.repeats():
            self._outside.start_soon(self._serve, request, [], anyio.Event())
        await arrived.wait()
        if request.url.path == CHAT:
            await self._sender.think()
        await self._sender.travel()
        reply = sent[0]
        if isinstance(reply, ConnectionResetError):
            raise httpx2.ReadError("connection reset") from reply
        if isinstance(reply, Exception):
            raise reply
        if request.url.path == CHAT and reply.is_success:
            self._sender.answered_live(number_of(request.content))
        return reply

    def _is_locked(self, path: str) -> bool:
        match self._locked():
            case "batches":
                return path.startswith(_BATCHES)
            case "errors":
                return any(f"/{file_id}/content" in path for file_id in self._error_files)
        return False

    async def _serve(self, request: httpx2.Request, sent: _Sent, arrived: anyio.Event) -> None:
        try:
            reply = await self._app.handle_async_request(request)
            parts = await _read(reply)
            if request.url.path.startswith(_BATCHES):
                content = b"".join(part for part in parts if isinstance(part, bytes))
                self._error_files.update(match.decode() for match in _ERRORS.findall(content))
            page = _page(parts) if self._stale and (request.method, request.url.path) == _LISTING else None
            if page is None:
                sent.append(httpx2.Response(reply.status_code, headers=reply.headers, stream=_Parts(parts)))
            else:
                page["data"] = [batch if batch["status"] == "validating" else batch | _RUNS for batch in page["data"]]
                sent.append(httpx2.Response(reply.status_code, json=page))
        except Exception as exc:  # noqa: BLE001 - it is raised where the request was made
            sent.append(exc)
        arrived.set()


class _Parts(httpx2.AsyncByteStream):
    """Give what arrived, and then what went wrong."""

    def __init__(self, parts: list[bytes | Exception]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part


def _page(parts: list[bytes | Exception]) -> dict[str, Any] | None:
    """Give what a listing shows, if it came whole."""
    try:
        page = json.loads(b"".join(part for part in parts if isinstance(part, bytes)))
    except ValueError:
        return None
    return page if "data" in page else None


async def _read(reply: httpx2.Response) -> list[bytes | Exception]:
    parts: list[bytes | Exception] = []
    assert isinstance(reply.stream, httpx2.AsyncByteStream)
    try:
        async for part in reply.stream:
            parts.append(part)  # noqa: PERF401 - those that came before it broke are kept
    except Exception as exc:  # noqa: BLE001 - it is raised where the reply is read
        parts.append(exc)
    return parts
