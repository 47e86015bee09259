"""Webhooks: an endpoint is told when batches end, in deliveries signed as Standard Webhooks has it (contracts A8)."""

import hmac
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
import httpx2
import msgspec

from .account import Batch
from .books import DeliveryLine

log: logging.Logger = logging.getLogger("carpool.testing")

PREFIX = "whsec_"
PATIENCE = 10.0  # seconds in which a delivery is to be answered
PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before each try


class Endpoint:
    """Tell the endpoint at `url` of batches that have ended; `note` hears of each try.

    Use it as an async context manager. What is not answered with a status from 200 to 299 is tried a few times more,
    under the same id and with a new timestamp, and then logged.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        clock: Callable[[], float],
        note: Callable[[DeliveryLine], None],
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        self._url = url
        self._key = key_of(secret)
        self._clock = clock
        self._note = note
        self._client = httpx2.AsyncClient(timeout=PATIENCE, transport=transport)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, exc, traceback)

    async def tell(self, batch: Batch) -> None:
        """Tell of the end of a batch."""
        kind = f"batch.{batch.status}"
        event = {
            "id": f"evt_{batch.id}",
            "object": "event",
            "type": kind,
            "created_at": int(self._clock()),
            "data": {"id": batch.id},
        }
        content = msgspec.json.encode(event)
        status: int | None = None
        for pause in PAUSES:
            await anyio.sleep(pause)
            status = await self._deliver(f"wh_{batch.id}", content)
            self._note(DeliveryLine(self._clock(), batch.id, kind, status))
            if status is not None and 200 <= status < 300:
                return
        log.warning("the webhook %s of %s was not taken: %s", kind, batch.id, status or "no reply")

    async def _deliver(self, delivery: str, content: bytes) -> int | None:
        """Try once; gives the status of the reply, None without one."""
        headers = {"content-type": "application/json", **signed(self._key, delivery, int(self._clock()), content)}
        try:
            return (await self._client.post(self._url, content=content, headers=headers)).status_code
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return None


def key_of(secret: str) -> bytes:
    """Give what a secret signs with; ValueError where there is nothing, or no base64 behind the prefix."""
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else secret.encode()
    except ValueError:
        key = b""
    if not key:
        raise ValueError(f"webhook_secret is a text, which is base64 behind {PREFIX}")
    return key


def signed(key: bytes, delivery: str, at: int, content: bytes) -> dict[str, str]:
    """Give the headers of a delivery that is sent at a time, in seconds since the epoch."""
    digest = hmac.digest(key, f"{delivery}.{at}.".encode() + content, "sha256")
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{b64encode(digest).decode()}",
    }
