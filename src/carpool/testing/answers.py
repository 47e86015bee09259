"""What the model says: an echo, or what a callable makes of the request."""

import base64
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgspec

from .refusals import Refused, bad_type, out_of_range
from .validation import Count

Body = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """Answer a request with any status; a body in bytes is JSON and is passed on as it is."""

    status: int = 200
    body: bytes | Mapping[str, Any] = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


Reply = Mapping[str, Any] | bytes | Answer
Answering = Callable[[str, Body], Reply | Awaitable[Reply]]
Whole = tuple[int, bytes, Mapping[str, str]]

_encode = msgspec.json.Encoder().encode
_check = msgspec.json.Decoder(msgspec.Raw).decode
_NUMBERS = 20_000_000  # in all vectors of an answer
_DIMENSIONS = 16_384  # of a vector: more than any model's, and no answer of 100 MB to a line


def whole(reply: Reply) -> Whole:
    """Give the status, the body as JSON and the headers of a reply; ValueError, saying what to mend, for what is none.

    0 is no status, yet users saw it on rows (contracts A7, rule 8).
    """
    if not isinstance(reply, Answer):
        return 200, _content(reply), {}
    if not _is_status(reply.status):
        raise ValueError(f"the status of an Answer is a whole number, 200 to 599, or 0, not {reply.status!r}")
    if not _are_headers(reply.headers):
        raise ValueError(
            f"the headers of an Answer are a mapping of texts to texts, on one line of ASCII, not {reply.headers!r}"
        )
    return reply.status, _content(reply.body), reply.headers


def _is_status(given: object) -> bool:
    return isinstance(given, int) and (200 <= given <= 599 or given == 0)


def _are_headers(given: object) -> bool:
    return isinstance(given, Mapping) and all(_is_plain(text) for pair in given.items() for text in pair)


def _is_plain(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable()


def _content(body: object) -> bytes:
    try:
        if isinstance(body, bytes):
            _check_json(body)
            return body
        content = _encode(body)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise ValueError(f"the body of an answer is no JSON: {exc}") from exc
    if content[:1] != b"{":
        kind = type(body).__name__
        raise ValueError(f"an answer is a mapping, JSON as bytes, or an Answer with one of these, not {kind}")
    return content


def _check_json(body: bytes) -> None:
    try:
        _check(body)
    except msgspec.DecodeError:
        json.loads(body)  # unlike msgspec it reads half a surrogate pair, which models do write
    body.decode()  # which the check leaves out


def failure(exc: Exception) -> Whole:
    """Give the reply that an exception of an answer stands for: 500 unless it names a status."""
    if isinstance(exc, Refused):
        try:
            return whole(Answer(exc.status, exc.body()))
        except ValueError as wrong:
            exc = wrong
    said = f"{type(exc).__name__}: {exc}".encode(errors="replace").decode()  # half a surrogate pair is no JSON
    return 500, _encode(Refused(500, said, kind="server_error", code="server_error").body()), {}


def echo(endpoint: str, body: Body, prompt_tokens: int | None = None) -> bytes:
    """Give a proper response object of the endpoint that says the last text of the user again.

    Stamps are 0 and ids follow from the text; tokens are a quarter of the characters, those of the prompt unless given.
    """
    return _ECHOES[endpoint](body, prompt_tokens)


def echo_counted(count: Count) -> Answering:
    """Give an echo whose usage says what `count` makes of the body, as the API bills what it counts."""
    return lambda endpoint, body: echo(endpoint, body, count(body))


def last_text(content: object) -> str:
    """Find the last text in a prompt, a message, a list of either, or their parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return last_text(content.get("content", content.get("text")))
    if isinstance(content, list):
        users = [part for part in content if isinstance(part, dict) and part.get("role") == "user"] or content
        return next((text for part in reversed(users) if (text := last_text(part))), "")
    return ""


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)


def _chat(body: Body, prompt_tokens: int | None) -> bytes:
    text = last_text(body.get("messages"))
    tokens, said = _tokens(text), _encode(text)
    given = tokens if prompt_tokens is None else prompt_tokens
    return (
        b'{"id":"chatcmpl-%08x","object":"chat.completion","created":0,"model":%b,"choices":[{"index":0,'
        b'"message":{"role":"assistant","content":%b,"refusal":null},"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}'
    ) % (crc32(said), _encode(body.get("model")), said, given, tokens, given + tokens)


def _response(body: Body, prompt_tokens: int | None) -> bytes:
    text = last_text(body.get("input"))
    tokens, name = _tokens(text), f"{crc32(text.encode()):08x}"
    given = tokens if prompt_tokens is None else prompt_tokens
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": f"msg_{name}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    return _encode(
        {
            "id": f"resp_{name}",
            "object": "response",
            "created_at": 0,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata") or {},
            "model": body.get("model"),
            "output": [message],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": {
                "input_tokens": given,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": given + tokens,
            },
        }
    )


def _embedding(body: Body, prompt_tokens: int | None) -> bytes:
    given = body.get("input")
    whole_list = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    inputs = given if whole_list and isinstance(given, list) else [given]
    size = _count_of(body, "dimensions", 8, min(_DIMENSIONS, _NUMBERS // len(inputs)))
    packed = body.get("encoding_format") == "base64"
    vectors = [
        {"object": "embedding", "index": index, "embedding": _vector(one, size, packed)}
        for index, one in enumerate(inputs)
    ]
    tokens = sum(map(_tokens_given, inputs)) if prompt_tokens is None else prompt_tokens
    return _encode(
        {
            "object": "list",
            "data": vectors,
            "model": body.get("model"),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _tokens_given(one: object) -> int:
    """Count those of a text, or of a list of tokens; whatever else is to be embedded has none."""
    return _tokens(one) if isinstance(one, str) else len(one) if isinstance(one, list) else 0


def _vector(one: object, size: int, packed: bool) -> list[float] | str:
    seed = crc32(_encode(one))
    # Multiples of 1/256 are exact in 32 bits, so both encodings say the same numbers.
    numbers = [((seed * (index + 1) >> 7) % 512 - 256) / 256 for index in range(size)]
    return base64.b64encode(struct.pack(f"<{size}f", *numbers)).decode() if packed else numbers


def _completion(body: Body, prompt_tokens: int | None) -> bytes:
    text = last_text(body.get("prompt"))
    tokens = _tokens(text)
    given = tokens if prompt_tokens is None else prompt_tokens
    return _encode(
        {
            "id": f"cmpl-{crc32(text.encode()):08x}",
            "object": "text_completion",
            "created": 0,
            "model": body.get("model"),
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": given, "completion_tokens": tokens, "total_tokens": given + tokens},
        }
    )


_HARMS = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def _moderation(body: Body, _prompt_tokens: int | None) -> bytes:
    given = body.get("input")
    texts = given if isinstance(given, list) and given and isinstance(given[0], str) else [given]
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_HARMS, False),
        "category_scores": dict.fromkeys(_HARMS, 0.0),
        "category_applied_input_types": {harm: ["text"] for harm in _HARMS},
    }
    name = f"modr-{crc32(_encode(given)):08x}"
    return _encode({"id": name, "model": body.get("model"), "results": [result for _ in texts]})


def _image(body: Body, prompt_tokens: int | None) -> bytes:
    prompt = last_text(body.get("prompt"))
    picture = {"b64_json": base64.b64encode(prompt.encode()).decode(), "revised_prompt": prompt}
    tokens = _tokens(prompt) if prompt_tokens is None else prompt_tokens
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": 0,
        "total_tokens": tokens,
    }
    return _encode({"created": 0, "data": [picture] * _count_of(body, "n", 1, 10), "usage": usage})


def _count_of(body: Body, name: str, default: int, most: int) -> int:
    """Read how many are asked for; raises Refused for what nobody may ask for."""
    value = body.get(name) or default
    if type(value) is not int:
        raise bad_type(name, "an integer", value)
    if not 1 <= value <= most:
        raise out_of_range(name, value, 1, most)
    return value


_ECHOES: dict[str, Callable[[Body, int | None], bytes]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/images/edits": _image,
    "/v1/images/generations": _image,
    "/v1/moderations": _moderation,
    "/v1/responses": _response,
}
