"""The outermost ASGI application: counts, checks the key, breaks connections."""

import re
from collections.abc import Callable, Mapping
from itertools import count

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .books import Notes
from .cut import Cut
from .faults import Dice
from .rate import REQUESTS, rate_headers
from .refusals import Refused, by_status
from .validation import ENDPOINTS

_ID = re.compile(r"^/v1/(files|batches)/[^/]+")
_NAMELESS = r"/v1/\1/{id}"


def route_of(method: str, path: str) -> str:
    """Name the route of a request, its ids replaced by {id}."""
    return f"{method} {_ID.sub(_NAMELESS, path)}"


def refusal(refused: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """Give the response that a refusal is sent as."""
    content = msgspec.json.encode(refused.body())
    return Response(content, refused.status, dict(headers or {}), media_type="application/json")


class Door:
    """Stand before the application; `api_key` None lets everybody in."""

    def __init__(self, app: ASGIApp, notes: Notes, dice: Dice, api_key: str | None) -> None:
        self._app = app
        self._notes = notes
        self._dice = dice
        self._api_key = api_key
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        route = route_of(scope["method"], scope["path"])
        self._notes.routes[route] += 1
        fault, kind = self._dice.roll(route, self._notes.routes[route])
        sign = _signed(send, f"req_{next(self._numbers):016x}")
        if fault == "lost_reply":
            await self._inner(scope)(scope, receive, _swallow)
        if fault in ("lost_reply", "reset"):
            await _break(receive, send)
        elif fault == "too_many":
            await _too_many(kind, route)(scope, receive, sign)
        elif fault == "server_error":
            await _server_error(kind)(scope, receive, sign)
        elif fault is not None:
            await self._inner(scope)(scope, receive, Cut(sign, kind, fault == "truncated"))
        else:
            await self._inner(scope)(scope, receive, sign)

    def _inner(self, scope: Scope) -> ASGIApp:
        if self._api_key is None:
            return self._app
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        key = given.removeprefix("Bearer ").strip()
        return self._app if key == self._api_key else _refusing(_wrong_key(key))


def _refusing(refused: Refused) -> ASGIApp:
    """Read a request to its end, and refuse it: else the connection breaks, and often before the reply is read."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await refusal(refused)(scope, receive, send)

    return refuse


def _signed(send: Send, request_id: str) -> Send:
    async def signed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
        await send(message)

    return signed


async def _swallow(_message: Message) -> None:
    return None


async def _break(receive: Receive, send: Send) -> None:
    """End the connection without a reply: uvicorn's own is reached through the raw `send`; elsewhere raise."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("the connection was broken by a fault of the emulator")
    abort: Callable[[], None] = transport.abort
    abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _wrong_key(key: str) -> Refused:
    where = "You can find your API key at https://platform.openai.com/account/api-keys."
    if not key:
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            f"auth (i.e. Authorization: Bearer YOUR_KEY). {where}"
        )
        return Refused(401, message)
    hidden = key[:3] + "*" * max(0, len(key) - 7) + key[-4:] if len(key) > 7 else "*" * len(key)
    return Refused(401, f"Incorrect API key provided: {hidden}. {where}", code="invalid_api_key")


def _too_many(kind: float, route: str) -> Response:
    hint = [{"retry-after": "1"}, {"retry-after-ms": "250"}, {}, {}][int(kind * 4)]
    live = route.removeprefix("POST ") in ENDPOINTS
    return refusal(by_status(429), hint | (rate_headers(REQUESTS, 0, 1.0) if live else {}))


def _server_error(kind: float) -> Response:
    status = (500, 502, 503)[int(kind * 3)]
    if status == 502:
        # A gateway answers for the server, and not in JSON.
        return Response("<html><head><title>502 Bad Gateway</title></head></html>", 502, media_type="text/html")
    return refusal(by_status(status))
