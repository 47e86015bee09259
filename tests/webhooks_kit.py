"""What the tests of webhooks share: a secret, signed deliveries, and the way of the emulator's to a pool."""

import base64
import hmac
import json
import time
from typing import Any

import anyio
import httpx2

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "http://service/webhooks"


def delivery(batch_id: str, kind: str = "batch.completed") -> bytes:
    """Make the body of a delivery."""
    event = {"id": "evt_1", "object": "event", "type": kind, "created_at": 1, "data": {"id": batch_id}}
    return json.dumps(event).encode()


def signed(body: bytes, *, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """Give the headers of a delivery, which is sent now unless it says otherwise."""
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"wh_1.{stamp}.".encode() + body, "sha256").digest()
    signature = base64.b64encode(digest).decode()
    return {"webhook-id": "wh_1", "webhook-timestamp": stamp, "webhook-signature": f"v1,{signature}"}


class Post(httpx2.AsyncBaseTransport):
    """Carry deliveries to the ASGI application `app` after `takes` seconds; without one they are lost."""

    def __init__(self, app: Any = None) -> None:
        self.app = app
        self.takes = 0.0
        self.statuses: list[int] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(self.takes)
        if self.app is None:
            return httpx2.Response(200)
        reply = await httpx2.ASGITransport(app=self.app).handle_async_request(request)
        self.statuses.append(reply.status_code)
        return reply

    @property
    def settings(self) -> dict[str, Any]:
        """Give the emulator's settings."""
        return {"webhook_url": URL, "webhook_secret": SECRET, "_webhook_transport": self}
