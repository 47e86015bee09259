"""The endpoint: an ASGI application of its own, so that no framework is needed, and none is in the way."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Annotated, Any, TypeAlias

import msgspec

from ..errors import PoolClosed
from .signature import Headers, keys_of, refusal

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log: logging.Logger = logging.getLogger("carpool.webhooks")

MOST = 65_536  # bytes: the deliveries that are of use here have some two hundred


class _Named(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Delivery(msgspec.Struct):
    type: str
    data: _Named


_read = msgspec.json.Decoder(_Delivery).decode


class Webhooks:
    """Take deliveries signed with one of these secrets, and call `wake` with the ids of the batches that they name.

    It is an ASGI application, to be mounted or served by itself; `handle` is the same as a plain function.
    """

    def __init__(self, secret: str | Iterable[str], wake: Callable[[str], None]) -> None:
        self._keys = keys_of(secret)
        self._wake = wake

    def handle(self, headers: Headers, body: bytes) -> bool:
        """Take a delivery, from any thread; False where it is not to be believed, and nothing was done.

        `headers` are a mapping or pairs, `body` the bytes as they came. True says nothing of what it told: whatever
        concerns no batch of this pool does nothing. Raises `PoolClosed` while the pool is not open: reply with an
        error, so that the provider tries again.
        """
        if not isinstance(body, bytes):
            raise TypeError(f"body must be the bytes as they came, which were signed, not {type(body).__name__}.")
        reason = "it is too long" if len(body) > MOST else refusal(headers, body, self._keys, time.time())
        if reason is not None:
            log.debug("a webhook delivery is refused: %s", reason)
            return False
        batch_id = ended_batch(body)
        if batch_id is not None:
            self._wake(batch_id)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await _live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise RuntimeError(f"Webhooks come by HTTP, not by {other!r}.")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = await self._status(scope, receive)
        if status is None:  # who sent it has gone
            return
        headers = [] if status == 204 else [(b"content-length", b"0")]
        if status == 405:
            headers.append((b"allow", b"POST"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _status(self, scope: Scope, receive: Receive) -> int | None:
        if scope["method"] != "POST":
            return 405
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST:
                return 413
        try:
            return 204 if self.handle(scope["headers"], bytes(body)) else 401
        except PoolClosed:
            return 503


def ended_batch(body: bytes) -> str | None:
    """Give the batch that a delivery says has ended, None where it says something else."""
    try:
        delivery = _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return delivery.data.id if delivery.type.startswith("batch.") else None


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
