"""The network of a process: slow, and what has left it arrives, whatever becomes of the process."""

from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.abc
import httpx2

_CREATION = "/v1/batches"  # to send that twice is to order twice
_Sent: TypeAlias = "list[httpx2.Response | Exception]"


class Sender(Protocol):
    """Be a process that sends."""

    async def travel(self) -> None:
        """Wait as long as the way takes; raises where the process has died meanwhile."""
        ...

    def repeats(self) -> bool:
        """Draw whether a request is sent twice."""
        ...


class Network(httpx2.AsyncBaseTransport):
    """Carry requests of a sender to an ASGI application, whose work is done in the task group `outside`."""

    def __init__(self, sender: Sender, app: Any, outside: anyio.abc.TaskGroup) -> None:
        self._sender = sender
        self._app = httpx2.ASGITransport(app=app)
        self._outside = outside

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        await self._sender.travel()
        sent: _Sent = []
        arrived = anyio.Event()
        self._outside.start_soon(self._serve, request, sent, arrived)
        if (request.method, request.url.path) != ("POST", _CREATION) and self._sender.repeats():
            self._outside.start_soon(self._serve, request, [], anyio.Event())
        await arrived.wait()
        await self._sender.travel()
        reply = sent[0]
        if isinstance(reply, ConnectionResetError):
            raise httpx2.ReadError("connection reset") from reply
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _serve(self, request: httpx2.Request, sent: _Sent, arrived: anyio.Event) -> None:
        try:
            reply = await self._app.handle_async_request(request)
            parts = _Parts(await _read(reply))
            sent.append(httpx2.Response(reply.status_code, headers=reply.headers, stream=parts))
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


async def _read(reply: httpx2.Response) -> list[bytes | Exception]:
    parts: list[bytes | Exception] = []
    assert isinstance(reply.stream, httpx2.AsyncByteStream)
    try:
        async for part in reply.stream:
            parts.append(part)  # noqa: PERF401 - those that came before it broke are kept
    except Exception as exc:  # noqa: BLE001 - it is raised where the reply is read
        parts.append(exc)
    return parts
