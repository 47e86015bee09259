"""The JSONL files that OpenAI-shaped providers read and write (contracts A2, A7)."""

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import Unbatchable
from ..models import Body, Row


def _as_dict(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


_encoder = msgspec.json.Encoder(enc_hook=_as_dict)
_TEXT = (bytes, str)
_LF, _CR = b"\n\r"  # numbers, which are found in a fifth of the time that bytes take


def encode_body(body: Body) -> bytes:
    """Give a body as JSON; `Unbatchable` when a mapping is none. Of bytes and text only the encoding is checked."""
    if isinstance(body, _TEXT):
        return _utf8(body)
    try:
        encoded = _encoder.encode(body)
    except (TypeError, ValueError, RecursionError, OverflowError, msgspec.MsgspecError) as exc:
        raise Unbatchable(f"The body is not JSON: {exc}. Convert what it holds to plain values.") from exc
    # msgspec writes NaN and the infinities as null: an answer to another question than the one asked.
    if encoded.rfind(b"null") >= 0 and _holds_no_number(body):  # from behind: CPython looks so in half the time
        raise Unbatchable("The body is not JSON: it holds NaN or an infinity. Replace it by a number or None.")
    return encoded


def _utf8(body: bytes | str) -> bytes:
    try:
        encoded = body.encode() if isinstance(body, str) else body
        if not encoded.isascii():
            encoded.decode()
    except UnicodeError as exc:
        raise Unbatchable(f"The body is not UTF-8: {exc}. Encode it as UTF-8.") from exc
    return encoded


def one_line(encoded: bytes) -> bytes:
    """Put valid JSON on one line: it allows line breaks between tokens only, so a blank changes nothing."""
    return encoded.replace(b"\n", b" ").replace(b"\r", b" ") if _LF in encoded or _CR in encoded else encoded


def _holds_no_number(body: Any) -> bool:
    left = [msgspec.to_builtins(body, enc_hook=_as_dict)]
    while left:
        value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return True
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    return False


def frame(pool: str, endpoint: str) -> tuple[bytes, bytes, bytes]:
    """Give the constant parts of an input line, around the row number and the body."""
    return (
        b'{"custom_id":"' + pool.encode() + b"-",
        b'","method":"POST","url":' + json.dumps(endpoint).encode() + b',"body":',
        b"}\n",
    )


class _HttpReply(msgspec.Struct, gc=False):
    status_code: int = 0
    request_id: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    response: _HttpReply | None = None
    error: Any = None


_line_decoder = msgspec.json.Decoder(_Line)


def parse_row(line: bytes, offset: int = 0) -> Row:
    """Read one line of an output or error file in any form seen (traps 6, 9); ValueError when it is none."""
    try:
        row = _line_decoder.decode(line)
        reply = row.response
        # The body is copied: a view would keep the whole line alive.
        body = bytes(reply.body) if reply is not None else b""
    except (msgspec.DecodeError, RecursionError):
        return _parse_oddity(line, offset)
    if reply is not None and 200 <= reply.status_code < 300 and row.error is None and body[:1] != b'"':
        return Row(row.custom_id, reply.status_code, reply.request_id or "", body, "", "", offset, len(line))
    return _parse_oddity(line, offset)


def _parse_oddity(line: bytes, offset: int) -> Row:
    try:
        row = json.loads(line)  # unlike msgspec it reads half a surrogate pair, which models do write
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"not a row: {exc}") from exc
    if not isinstance(row, dict) or "custom_id" not in row:
        raise ValueError("not a row: it has no custom_id")
    custom_id, reply = row["custom_id"], row.get("response")
    reply = reply if isinstance(reply, dict) else {}
    status, request_id, body = reply.get("status_code"), reply.get("request_id"), reply.get("body")
    status = _whole(status)
    code, message = describe(row.get("error"))
    if not code and not 200 <= status < 300:
        code, message = _described(body) if reply else ("no_response", "The row holds neither a response nor an error.")
    return Row(
        _whole_pairs(custom_id) if isinstance(custom_id, str) else "",
        status,
        _whole_pairs(request_id) if isinstance(request_id, str) else "",
        _within(body) if isinstance(body, str) else json.dumps(body, separators=(",", ":")).encode(),
        _whole_pairs(code),
        _whole_pairs(message),
        offset,
        len(line),
    )


def _whole_pairs(text: str) -> str:
    """Put a question mark for each half of a surrogate pair: such a text could be neither printed nor kept."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _within(body: str) -> bytes:
    """Give the JSON in a text, on one line; of what is none, the text as JSON."""
    try:
        json.loads(body)
        return one_line(body.encode())
    except (ValueError, RecursionError):
        return json.dumps(body).encode()


def _whole(status: Any) -> int:
    """Read a status, which some write as a text or with a decimal point; 0 for what is none."""
    if isinstance(status, str) and status.isascii() and status.isdecimal() and len(status) < 5:
        return int(status)
    whole = isinstance(status, int | float) and not isinstance(status, bool) and 0 <= status < 1_000
    return int(status) if whole and status == int(status) else 0


def _described(body: Any) -> tuple[str, str]:
    """Give code and message of a body, which some servers write as JSON within a string (traps 6)."""
    try:
        return describe(json.loads(body) if isinstance(body, str) else body)
    except (ValueError, RecursionError):
        return describe(body)


def describe(error: Any) -> tuple[str, str]:
    """Give code and message of an error: an object, a bare string, or None."""
    while isinstance(error, dict) and isinstance(error.get("error"), dict | str):
        error = error["error"]
    if not error:
        return "", ""
    if not isinstance(error, dict):
        return "error", str(error)
    code = error.get("code") or error.get("type") or "error"
    return str(code), str(error.get("message") or "")


def row_line(custom_id: str, row: Row) -> bytes:
    """Write an answer as the line of an output file; a body that is no JSON becomes a text."""
    try:
        msgspec.json.decode(row.body, type=msgspec.Raw)
        body: Any = msgspec.Raw(one_line(row.body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = row.body.decode(errors="replace")
    reply = {"status_code": row.status_code, "request_id": row.request_id, "body": body}
    return _encoder.encode({"custom_id": custom_id, "response": reply, "error": None}) + b"\n"


def with_tier(body: bytes, tier: str) -> bytes:
    """Set the service tier of a body."""
    return json.dumps({**json.loads(body), "service_tier": tier}, separators=(",", ":")).encode()


class Lines:
    """Cut a stream of bytes into lines, on "\\n" alone: U+2028 and its kin stand raw inside JSON (traps 10)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of a line that is not complete
        self.held: int = 0  # bytes in them

    def feed(self, chunk: bytes) -> list[bytes]:
        """Give the lines that are complete with this chunk."""
        first, *rest = chunk.split(b"\n")
        self._parts.append(first)
        if not rest:
            self.held += len(first)
            return []
        lines = [b"".join(self._parts), *rest]
        self._parts = [lines.pop()]
        self.held = len(self._parts[0])
        return lines

    def close(self) -> list[bytes]:
        """Give what stands behind the last line break."""
        tail = b"".join(self._parts)
        return [tail] if tail else []
