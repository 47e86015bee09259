"""A real model behind the emulator: any server of the OpenAI API."""

from types import TracebackType
from typing import Self

import httpx2
import msgspec

from .answers import Answer, Body
from .refusals import Refused

PATIENCE = 600.0


class Upstream:
    """Forward requests to a server, `url` ending in /v1; its status and body are the answer.

    Use it as an async context manager. A server that cannot be reached is a 502, one that is slower than
    `PATIENCE` seconds a TimeoutError.
    """

    def __init__(self, url: str, key: str | None, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx2.AsyncClient(headers=headers, timeout=PATIENCE, limits=limits, transport=transport)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, exc, traceback)

    async def __call__(self, endpoint: str, body: Body) -> Answer:
        """Forward one request."""
        content = msgspec.json.encode(body)
        try:
            reply = await self._client.post(
                self._url + endpoint.removeprefix("/v1"), content=content, headers={"content-type": "application/json"}
            )
        except httpx2.TimeoutException as exc:
            raise TimeoutError from exc
        except httpx2.TransportError as exc:
            message = f"The upstream cannot be reached: {type(exc).__name__}: {exc}"
            raise Refused(502, message, kind="server_error", code="upstream_unreachable") from exc
        return Answer(reply.status_code, _as_json(reply.content))


def _as_json(content: bytes) -> bytes:
    """Keep JSON, on one line; anything else, such as a gateway's HTML, becomes a JSON string."""
    try:
        return msgspec.json.format(content, indent=-1)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return msgspec.json.encode(content.decode(errors="replace"))
