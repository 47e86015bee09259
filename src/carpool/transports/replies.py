"""The HTTP responses that clients are given: answers as they would have come live, and failures as theirs.

What has no status of its own has one here that neither the SDKs nor the frameworks above them repeat (they do 408, 409,
429 and 5xx): the pool has done what could be done. A pool that is full did nothing yet: that may be repeated.
"""

import json
import re
from collections.abc import Iterator, Mapping

from .. import errors
from ..errors import (
    AuthenticationFailed,
    CarpoolError,
    ConfigurationError,
    LimitExceeded,
    PoolClosed,
    PoolFull,
    RequestFailed,
    RequestRejected,
    Unbatchable,
)
from ..models import Response

EXTENSION = "carpool_error"  # where a response keeps the error that it tells of

_STATUS: dict[type[CarpoolError], int] = {
    Unbatchable: 400,
    ConfigurationError: 400,
    RequestRejected: 400,
    AuthenticationFailed: 401,
    PoolClosed: 410,
    LimitExceeded: 413,
    PoolFull: 429,
}
_OTHERS = 424  # Failed Dependency: it hung on a batch, which did not answer it
_REQUEST, _BATCH, _CUSTOM = b"x-request-id", b"x-carpool-batch-id", b"x-carpool-custom-id"
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def headers_of(response: Response) -> list[tuple[bytes, bytes]]:
    """Give the headers of an answer."""
    return [
        (b"content-type", b"application/json"),
        (_REQUEST, response.request_id.encode()),
        (_BATCH, response.batch_id.encode()),
        (_CUSTOM, response.custom_id.encode()),
    ]


def refusal(error: CarpoolError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Give status, headers and body of a failure: the row's own where it has them."""
    error.__traceback__ = None  # it would keep the frames, and what they hold, for as long as the response lives
    name = type(error).__name__
    status = _STATUS.get(type(error), _OTHERS)
    content = b""
    names: list[tuple[bytes, bytes]] = []
    if isinstance(error, RequestFailed):
        if error.status_code is not None and error.status_code >= 400:  # any other would look like an answer
            status, content = error.status_code, error.body
        ids = (error.request_id, error.batch_id, error.custom_id)
        names = [(name, value.encode()) for name, value in zip((_REQUEST, _BATCH, _CUSTOM), ids, strict=True) if value]
    content = content or _described(error, name)
    headers = [
        (b"content-type", b"application/json"),
        (b"x-should-retry", b"true" if isinstance(error, PoolFull) else b"false"),
        (b"x-carpool-error", name.encode()),
        *names,
    ]
    return status, headers, content


def _described(error: CarpoolError, name: str) -> bytes:
    code = getattr(error, "code", None) or _WORD.sub("_", name).lower()
    # Frameworks look at `param`: one of them, told that "stream" is refused, asks again without.
    param = getattr(error, "param", None)
    return json.dumps({"error": {"message": str(error), "type": name, "param": param, "code": code}}).encode()


def error_of(exc: BaseException) -> CarpoolError | None:
    """Give the carpool error behind an exception of a client or framework; None where there is none.

    It is looked for in the response that the exception holds, and in the exceptions that it came from. Where a
    framework has kept no more than the headers, the error is made anew, and knows but its message.
    """
    chain = list(_chain(exc))
    return next(filter(None, map(_kept, chain)), None) or next(filter(None, map(_told, chain)), None)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Give an exception, and those that it came from, or is a group of."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [exc]
    while left:
        current = left.pop()
        if current is None or any(current is other for other in seen):
            continue
        seen.append(current)
        yield current
        left += [current.__context__, current.__cause__]
        if isinstance(current, BaseExceptionGroup):
            left += current.exceptions


def _kept(exc: BaseException) -> CarpoolError | None:
    """Give the error itself, which a response holds."""
    if isinstance(exc, CarpoolError):
        return exc
    extensions = getattr(getattr(exc, "response", None), "extensions", None)
    error = extensions.get(EXTENSION) if isinstance(extensions, Mapping) else None
    return error if isinstance(error, CarpoolError) else None


def _told(exc: BaseException) -> CarpoolError | None:
    """Make the error anew that headers name."""
    for headers in (getattr(getattr(exc, "response", None), "headers", None), getattr(exc, "headers", None)):
        name = headers.get("x-carpool-error") if isinstance(headers, Mapping) else None
        kind = getattr(errors, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, CarpoolError) and kind is not errors.OutputInvalid:
            return kind(str(exc))
    return None
