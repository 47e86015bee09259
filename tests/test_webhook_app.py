"""The endpoint as an ASGI application and as a plain function; a pool is not needed."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from webhooks_kit import SECRET, delivery, signed

from carpool import PoolClosed
from carpool.webhooks import MOST, Webhooks

pytestmark = pytest.mark.anyio

BODY = delivery("batch_1")


class Exchange:
    """Hold an endpoint, the ids that it passed on, and what a server was sent."""

    def __init__(self, error: Exception | None = None) -> None:
        self.app = Webhooks(SECRET, self._wake)
        self.woken: list[str] = []
        self.sent: list[Any] = []
        self.received = 0
        self._error = error

    def _wake(self, batch_id: str) -> None:
        if self._error is not None:
            raise self._error
        self.woken.append(batch_id)

    async def serve(self, scope: dict[str, Any], messages: Sequence[dict[str, Any]]) -> None:
        """Let a server call it; it must ask for no more than these messages."""
        coming = iter(messages)

        async def receive() -> dict[str, Any]:
            self.received += 1
            return next(coming)

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.app(scope, receive, send)

    async def post(
        self, *pieces: bytes, headers: dict[str, str] | None = None, method: str = "POST", path: str = "/"
    ) -> int:
        """Let a request come in pieces; gives the status of the reply."""
        given = signed(b"".join(pieces)) if headers is None else headers
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        parts = pieces or (b"",)
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in parts[:-1]]
        await self.serve(scope, [*messages, {"type": "http.request", "body": parts[-1]}])
        start, end = self.sent
        assert (start["type"], end) == ("http.response.start", {"type": "http.response.body", "body": b""})
        return int(start["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Give the headers of the reply."""
        return dict(self.sent[0]["headers"])


@pytest.mark.parametrize("kind", ["completed", "failed", "expired", "cancelled"])
async def test_a_good_delivery_is_passed_on(kind: str) -> None:
    exchange = Exchange()
    assert await exchange.post(delivery("batch_1", f"batch.{kind}"), path="/anywhere") == 204
    assert exchange.woken == ["batch_1"]
    assert exchange.headers == {}


async def test_it_may_come_in_pieces() -> None:
    exchange = Exchange()
    assert await exchange.post(*(bytes((byte,)) for byte in BODY)) == 204
    assert exchange.woken == ["batch_1"]


USELESS = [
    delivery("batch_1", "response.completed"),
    delivery("batch_1", "batch"),
    delivery(""),
    delivery("b" * 257),
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff",
    b"[" * 50_000,
    b'{"type": "batch.completed"}',
    b'{"type": "batch.completed", "data": {"id": 1}}',
    b'{"type": 1, "data": {"id": "batch_1"}}',
    b'{"data": {"id": "batch_1"}, "more": ' + b"[" * 20_000 + b"]" * 20_000 + b', "type": "batch.completed"}',
]


async def test_what_is_signed_and_of_no_use_is_taken_and_does_nothing() -> None:
    for body in USELESS:
        exchange = Exchange()
        assert await exchange.post(body) == 204
        assert exchange.woken == []


@pytest.mark.parametrize("headers", [{}, signed(BODY, at=0), signed(BODY + b" "), signed(BODY, secret="whsec_AAAA")])
async def test_what_is_not_signed_so_is_refused(headers: dict[str, str]) -> None:
    exchange = Exchange()
    assert await exchange.post(BODY, headers=headers) == 401
    assert exchange.woken == []
    assert exchange.headers == {b"content-length": b"0"}


async def test_what_is_too_long_is_refused_before_it_is_read() -> None:
    exchange = Exchange()
    assert await exchange.post(*[b" " * 10_000] * 50) == 413
    assert exchange.received == MOST // 10_000 + 1
    assert not exchange.app.handle(signed(b" " * (MOST + 1)), b" " * (MOST + 1))
    assert exchange.app.handle(signed(b" " * MOST), b" " * MOST)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_other_methods_are_refused(method: str) -> None:
    exchange = Exchange()
    assert await exchange.post(BODY, method=method) == 405
    assert exchange.headers[b"allow"] == b"POST"
    assert exchange.woken == []


async def test_while_the_pool_is_not_open_the_provider_is_to_try_again() -> None:
    exchange = Exchange(PoolClosed("The pool is not open."))
    assert await exchange.post(BODY) == 503
    assert await Exchange(PoolClosed("It is not.")).post(BODY, headers={}) == 401


async def test_who_goes_before_all_is_sent_gets_no_reply() -> None:
    exchange = Exchange()
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await exchange.serve(scope, [{"type": "http.request", "more_body": True}, {"type": "http.disconnect"}])
    assert exchange.sent == exchange.woken == []


async def test_it_can_be_served_by_itself() -> None:
    exchange = Exchange()
    await exchange.serve({"type": "lifespan"}, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    assert exchange.sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


async def test_a_websocket_is_refused() -> None:
    exchange = Exchange()
    await exchange.serve({"type": "websocket"}, [{"type": "websocket.connect"}])
    assert exchange.sent == [{"type": "websocket.close", "code": 1000}]


async def test_whatever_else_comes_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="'pigeon'"):
        await Exchange().serve({"type": "pigeon"}, [])


# --- the plain function


def test_headers_may_be_a_mapping_or_pairs() -> None:
    exchange = Exchange()
    headers = signed(BODY)
    assert exchange.app.handle(headers, BODY)
    assert exchange.app.handle(list(headers.items()), BODY)
    assert exchange.app.handle(((name.encode(), value.encode()) for name, value in headers.items()), BODY)
    assert not exchange.app.handle({}, BODY)
    assert exchange.woken == ["batch_1"] * 3


@pytest.mark.parametrize("body", [BODY.decode(), {"type": "batch.completed"}, None])
def test_a_body_that_is_not_as_it_came_is_a_mistake(body: Any) -> None:
    with pytest.raises(TypeError, match="must be the bytes as they came"):
        Exchange().app.handle(signed(BODY), body)


def test_neither_secrets_nor_bodies_are_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange()
    told = delivery("batch_PRIVATE", "batch.PRIVATE")
    with caplog.at_level(logging.DEBUG):
        for headers in (signed(told), {}, signed(told, at=0), signed(told, secret="whsec_AAAA"), signed(b"PRIVATE")):
            exchange.app.handle(headers, told)
    refused = [record.getMessage() for record in caplog.records if record.name.startswith("carpool")]
    assert len(refused) == 4
    assert all(message.startswith("a webhook delivery is refused: ") for message in refused)
    shown = caplog.text + repr(exchange.app) + str(exchange.app)
    assert "PRIVATE" not in shown
    assert SECRET.removeprefix("whsec_") not in shown
