"""The forms of a row: an input line, an output line, an error line. Source: contracts A2, A7."""

from hashlib import blake2b
from typing import Any

import msgspec

EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = ("batch_cancelled", "This request was not executed because the batch was cancelled.")
TIMED_OUT = ("request_timeout", "The request timed out.")


class Row(msgspec.Struct):
    """Hold what running a valid row needs."""

    custom_id: str
    body: dict[str, Any]


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0
    reasoning_tokens: int | None = 0


class _Tokens(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answered(msgspec.Struct):
    usage: _Tokens | None = None


class Usage(msgspec.Struct):
    """Count the tokens of answers."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, other: "Usage") -> None:
        """Add the tokens of another answer."""
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens

    def describe(self) -> dict[str, Any]:
        """Give the `usage` of a batch object."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


_ROW = msgspec.json.Decoder(Row)
_ANSWERED = msgspec.json.Decoder(_Answered)
_SORTED = msgspec.json.Encoder(order="sorted")
_encode = msgspec.json.Encoder().encode


def parse(line: bytes) -> Row:
    """Read a line that passed validation."""
    return _ROW.decode(line)


def digest(body: object) -> bytes:
    """Give 16 bytes that name a body, the same for any order of its keys and any white space.

    Bytes are taken as JSON.
    """
    if isinstance(body, bytes):
        body = msgspec.json.decode(body)
    return blake2b(_SORTED.encode(body), digest_size=16).digest()


def usage_of(body: bytes) -> Usage | None:
    """Read the token counts of an answer; None where it states none."""
    try:
        tokens = _ANSWERED.decode(body).usage
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if tokens is None:
        return None
    given = tokens.prompt_tokens_details or tokens.input_tokens_details or _Details()
    made = tokens.completion_tokens_details or tokens.output_tokens_details or _Details()
    return Usage(
        tokens.prompt_tokens or tokens.input_tokens or 0,
        given.cached_tokens or 0,
        tokens.completion_tokens or tokens.output_tokens or 0,
        made.reasoning_tokens or 0,
    )


def answered(name: str, custom_id: str | None, status: int, body: bytes) -> bytes:
    """Write the line of a request that got an HTTP answer; `name` makes its two ids."""
    if b"\n" in body:
        # Outside of strings a line feed is white space, and inside JSON forbids it raw: a space says the same.
        body = body.replace(b"\n", b" ")
    key = name.encode()
    return (
        b'{"id":"batch_req_%b","custom_id":%b,"response":{"status_code":%d,"request_id":"req_%b","body":%b},"error":null}\n'
        % (key, _encode(custom_id), status, key, body)
    )


def unanswered(name: str, custom_id: str, error: tuple[str, str]) -> bytes:
    """Write the line of a request that got no HTTP answer; `error` is a code and a message."""
    code, message = error
    line = {
        "id": f"batch_req_{name}",
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return _encode(line) + b"\n"
