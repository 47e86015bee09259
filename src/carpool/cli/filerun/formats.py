"""The rows of OUTPUT, in the provider's own format (contracts A7): pure."""

import json
from typing import Any

import msgspec

from ...errors import (
    BudgetExceeded,
    CarpoolError,
    LimitExceeded,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    ResultMissing,
    Unbatchable,
)
from ...models import NOT_SUBMITTED, OUT_OF_REACH, Response
from ...providers.jsonl import one_line
from .rows import ASKED, CRC

_ANSWER = b'{"id":"%b_%d_%08x","custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}\n'
_ROW = b'{"id":"%b_%d_%08x","custom_id":%b,"response":%b,"error":%b}\n'
_REPLY = b'{"status_code":%d,"request_id":%b,"body":%b}'
NO_TEXT = b"null\n"
BAD = "invalid_request"

_encode = msgspec.json.Encoder().encode
_check = msgspec.json.Decoder(msgspec.Raw).decode
# So fail those whose lane takes nothing any more, and those that the same command may ask for again.
_OF_ALL = frozenset({"canary_refused", NOT_SUBMITTED, OUT_OF_REACH})
_CODES: dict[type[CarpoolError], str] = {  # where the provider gave none
    LimitExceeded: "limit_exceeded",
    RequestCancelled: "batch_cancelled",
    RequestExpired: "timeout",
    ResultMissing: "result_missing",
    Unbatchable: BAD,
}


def answer_row(key: int, name: bytes, response: Response, mark: bytes = ASKED) -> bytes:
    """Write an answer; its id begins with the mark."""
    body = response.content
    # What comes from a file of answers and begins like an object is JSON on one line (see `jsonl.parse_row`).
    if not (response.batch_id and body.startswith(b'{"') and body.isascii()):
        body = as_json(body)
    return _ANSWER % (mark, key >> 32, key & CRC, name, response.status_code, _encode(response.request_id), body)


def error_row(key: int, name: bytes, error: CarpoolError, mark: bytes = ASKED) -> bytes:
    """Write a failure: the provider's reply where there was one, or else code and message."""
    reply = _reply(error)
    spoken = reply and not 200 <= (getattr(error, "status_code", None) or 0) < 300
    told = b"null" if spoken else _told(code_of(error), getattr(error, "message", None) or str(error))
    return _ROW % (mark, key >> 32, key & CRC, name, reply or b"null", told)


def bad_row(key: int, name: bytes, message: str, code: str = BAD, mark: bytes = ASKED) -> bytes:
    """Write what is wrong with a row that was not sent."""
    return _ROW % (mark, key >> 32, key & CRC, name, b"null", _told(code, message))


def text_line(response: Response) -> bytes:
    """Write an answer's text alone, as JSON."""
    try:
        return _text(response.text) + b"\n"
    except ValueError:  # what a server answers live need not be JSON
        return _text(response.content.decode(errors="replace")) + b"\n"


def code_of(error: CarpoolError) -> str:
    """Name a failure: in the provider's word, if it had one."""
    code = getattr(error, "code", None)
    return str(code) if code else _CODES.get(type(error), "request_failed")


def is_of_all(error: CarpoolError) -> bool:
    """Tell a failure that ends the run from one of a single row."""
    if isinstance(error, RequestFailed):
        return error.code in _OF_ALL
    return not isinstance(error, LimitExceeded | Unbatchable)


def concerns_some(error: CarpoolError) -> bool:
    """Tell whether rows that are under way may be answered though others fail so."""
    return isinstance(error, BudgetExceeded) or getattr(error, "code", None) == OUT_OF_REACH


def as_json(content: bytes) -> bytes:
    """Put a body on one line of JSON; what is no JSON becomes a text."""
    try:
        _check(content)
        if not content.isascii():
            content.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _as_odd_json(content)
    return one_line(content)


def _as_odd_json(content: bytes) -> bytes:
    try:
        # Unlike msgspec it reads half a surrogate pair, which models do write.
        json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _text(content.decode(errors="replace"))
    return one_line(content)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _reply(error: CarpoolError) -> bytes:
    if not isinstance(error, RequestFailed) or error.status_code is None or not error.body:
        return b""
    return _REPLY % (error.status_code, _text(error.request_id or ""), as_json(error.body))


def _told(code: str, message: str) -> bytes:
    return b'{"code":%b,"message":%b}' % (_text(code), _text(message))


def _text(value: Any) -> bytes:
    try:
        return _encode(value)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        return json.dumps(value).encode()  # half a surrogate pair
