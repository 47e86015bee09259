"""What a stream is fed with: requests, rows of a batch file, or bare bodies."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from ..errors import ConfigurationError, Unbatchable
from ..models import Body, Request

Asked: TypeAlias = Request | Body
"""A request; or a row of a batch file, or a bare body, as a mapping or as text of JSON."""

_NO_ENDPOINT = "Bare bodies need endpoint=...; or pass Request objects, or rows of a batch file."


class _Line(msgspec.Struct, gc=False):
    url: str | None = None
    body: msgspec.Raw = msgspec.Raw()
    method: str | None = None


_line = msgspec.json.Decoder(_Line)


def as_request(asked: Asked, endpoint: str | None = None) -> Request:
    """Give the request that something stands for; `endpoint` is that of bare bodies.

    A mapping that has a `url` and a `body` is a row of a batch file, and so is a text where no endpoint is given.
    Raises `ConfigurationError` for a bare body without an endpoint, `Unbatchable` for what is none of these.
    """
    if isinstance(asked, Request):
        return asked
    if isinstance(asked, Mapping):
        return _of_mapping(asked, endpoint)
    if endpoint is not None or not isinstance(asked, str | bytes):
        return Request(_named(endpoint), asked)
    return _of_line(asked)


def _of_mapping(asked: Mapping[str, Any], endpoint: str | None) -> Request:
    if "url" in asked and "body" in asked:
        return _of_row(asked["url"], asked.get("method"), asked["body"])
    return Request(_named(endpoint), asked)


def _of_line(line: str | bytes) -> Request:
    try:
        row = _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Unbatchable(f"The row of a batch file cannot be read: {exc}.") from None
    if row.url is None and not bytes(row.body):
        raise ConfigurationError(_NO_ENDPOINT)
    return _of_row(row.url, row.method, bytes(row.body))


def _of_row(url: Any, method: Any, body: Any) -> Request:
    if method not in (None, "POST"):
        raise Unbatchable(f"The row asks for the method {str(method)[:20]!r}: batches know POST alone.", "method")
    if not isinstance(url, str):
        raise Unbatchable("The row has no url, such as /v1/chat/completions.", "url")
    if body is None or body == b"":
        raise Unbatchable("The row has no body.", "body")
    return Request(url, body)


def _named(endpoint: str | None) -> str:
    if endpoint is None:
        raise ConfigurationError(_NO_ENDPOINT)
    return endpoint
