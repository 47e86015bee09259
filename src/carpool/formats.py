"""Ask for an answer of a type: its strict schema goes into the body of a call."""

from functools import lru_cache
from typing import Any

import msgspec

from .errors import ConfigurationError, Unbatchable
from .models import Body, Request
from .providers.jsonl import encode_body
from .schemas import output_of

_CHAT = "/v1/chat/completions"
_RESPONSES = "/v1/responses"

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_maybe_fields: msgspec.json.Decoder[dict[str, msgspec.Raw] | None] = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


def body_of(request: Request) -> Body:
    """Give the body of a request, with the schema of its output, if it wants one.

    Raises `ConfigurationError` for an output that cannot be asked for, `Unbatchable` for a body that asks for another.
    """
    if request.output is None:
        return request.body
    return with_output(request.endpoint, request.body, request.output)


def with_output(endpoint: str, body: Body, output: Any) -> bytes:
    """Give a body as JSON with the strict schema of a type in it; raises as `body_of`."""
    if endpoint not in (_CHAT, _RESPONSES):
        raise ConfigurationError(f"An output can be asked of {_CHAT} and {_RESPONSES}; {endpoint!r} takes no schema.")
    schema = _format_of(endpoint, output)
    encoded = encode_body(body)
    try:
        fields = _fields.decode(encoded)
    except (msgspec.DecodeError, RecursionError):
        return encoded  # to be refused with all others that are no JSON object
    if endpoint == _CHAT:
        return _with(fields, "response_format", schema, "response_format")
    return msgspec.json.encode(
        {**fields, "text": msgspec.Raw(_with(_settings(fields), "format", schema, "text.format"))}
    )


def _settings(fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    try:
        return _maybe_fields.decode(fields.get("text", b"null")) or {}
    except msgspec.DecodeError as exc:
        raise Unbatchable("The body's `text` is no object. Leave it out, or give its settings.", "text") from exc


def _with(fields: dict[str, msgspec.Raw], name: str, schema: bytes, param: str) -> bytes:
    """Set a field that is not set yet; `param` is its name in the body."""
    if bytes(fields.get(name, b"null")) != b"null":
        raise Unbatchable(f"The body has a {param} of its own beside the output. Leave one of them out.", param)
    return msgspec.json.encode({**fields, name: msgspec.Raw(schema)})


@lru_cache(maxsize=128)  # which keeps the types alive
def _made_format(endpoint: str, output: Any) -> bytes:
    name, schema = output_of(output)
    said = {"name": name, "strict": True, "schema": schema}
    return msgspec.json.encode(
        {"type": "json_schema", "json_schema": said} if endpoint == _CHAT else {"type": "json_schema", **said}
    )


def _format_of(endpoint: str, output: Any) -> bytes:
    try:
        return _made_format(endpoint, output)
    except TypeError as exc:  # of the cache: what has no hash is no type
        raise ConfigurationError(f"output must be a type; got {output!r:.100}.") from exc
