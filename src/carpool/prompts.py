"""What enters a prompt, and how many tokens it is: messages, tools, schemas, images, inputs (contracts C).

Where nothing is published, a count is an estimate; what the provider reports of finished batches corrects it.
"""

import json
from collections.abc import Callable, Iterator, Sized
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from .images import image_tokens

Encode: TypeAlias = Callable[[str], Sized]

# Chat and tools as in OpenAI's Cookbook, "How to count tokens with tiktoken".
_MESSAGE, _NAME, _REPLY = 3, 1, 3
_FUNCTIONS, _PROPERTIES, _PROPERTY, _ENUM, _CHOICE = 12, 3, 3, -3, 3
_OBJECT = frozenset({"type", "properties", "required", "additionalProperties", "title", "description", "$schema"})
_SIMPLE = frozenset({"type", "description", "enum", "title"})

_Role: TypeAlias = Literal["assistant", "developer", "function", "system", "tool", "user"]
_ROLES = frozenset(get_args(_Role))
_ROLE = 1  # each of them is one token, in every vocabulary
_MARKS = frozenset({"type", "id", "status"})  # these tell what a part is, and are no part of the prompt
_IMAGES = ("input_image", "image_generation_call")  # though they may hold no URL

# A PDF costs the text and a picture of each page, which its bytes do not tell; the quarter is right for plain text and
# above most PDFs. More would refuse files that fit; where it is too little, the provider's refusal is learned from.
_CHARACTERS_PER_FILE_TOKEN = 4
# 10 tokens a second (Realtime guide, "Managing costs"), of 8 kbit/s or more, in base64.
_CHARACTERS_PER_AUDIO_TOKEN = 133

# tiktoken panics at a million blanks (traps 33), and a list of tokens takes 8 bytes and more for each.
_PIECE = 100_000


class _Body(msgspec.Struct, gc=False):
    """Hold the fields that enter the prompt; nothing is built of the others."""

    messages: Any = None
    tools: Any = None
    functions: Any = None
    response_format: Any = None
    input: Any = None
    instructions: Any = None
    text: Any = None
    prompt: Any = None
    suffix: Any = None
    images: Any = None


class _PlainMessage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: _Role
    content: str


class _PlainBody(_Body, gc=False):
    """Hold messages that are nothing but text, as most are: they take half the time."""

    messages: list[_PlainMessage] = []


_body_decoder = msgspec.json.Decoder(_Body)
_plain_decoder = msgspec.json.Decoder(_PlainBody)


def _decode(body: bytes) -> _Body:
    try:
        return _body_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = _object(body)
        return _Body(**{name: fields[name] for name in _Body.__struct_fields__ if name in fields})


def _object(body: bytes) -> dict[str, Any]:
    fields = json.loads(body)  # unlike msgspec it reads half a surrogate pair
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


class Meter:
    """Count in the terms of one model, whose texts `encode` makes tokens of; it is of the `vocabulary` of that name."""

    def __init__(self, encode: Encode, vocabulary: str, model: str) -> None:
        self._encode = encode
        self._model = model
        self._function = 10 if vocabulary == "cl100k_base" else 7

    def count(self, endpoint: str, body: bytes) -> int:
        """Count the prompt tokens of a body of JSON; ValueError or RecursionError when it is no object."""
        match endpoint:
            case "/v1/chat/completions":
                return self._chat(body)
            case "/v1/responses":
                return self._responses(_decode(body))
            case (
                "/v1/embeddings" | "/v1/completions" | "/v1/moderations" | "/v1/images/generations" | "/v1/images/edits"
            ):
                fields = _decode(body)
                return sum(map(self._value, (fields.input, fields.prompt, fields.suffix, fields.images)))
        return self._value({name: value for name, value in _object(body).items() if name != "model"})

    def _chat(self, body: bytes) -> int:
        tokens = _REPLY
        fields: _Body
        try:
            fields = plain = _plain_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            fields = _decode(body)
            tokens += sum(map(self._message, _listed(fields.messages)))
        else:
            for message in plain.messages:
                tokens += _MESSAGE + _ROLE + self._text(message.content)
        if fields.tools or fields.functions:
            tokens += self._tools(_listed(fields.tools) + _listed(fields.functions))
        return tokens + self._schema(fields.response_format) if fields.response_format else tokens

    def _responses(self, body: _Body) -> int:
        turns = _listed(body.input)
        if isinstance(body.input, str):
            turns = [{"role": "user", "content": body.input}]
        if body.instructions:
            turns = [{"role": "system", "content": body.instructions}, *turns]
        tokens = _REPLY + sum(map(self._message, turns)) + self._value(body.prompt)
        if body.tools:
            tokens += self._tools(_listed(body.tools))
        if isinstance(body.text, dict):
            tokens += self._schema(body.text.get("format"))
        return tokens

    def _message(self, message: Any) -> int:
        if type(message) is not dict:
            return _MESSAGE + self._value(message)
        return (_MESSAGE + _NAME if "name" in message else _MESSAGE) + self._part(message)

    def _value(self, value: Any) -> int:
        if type(value) is str:
            return self._text(value)
        if type(value) is dict:
            return self._part(value)
        if type(value) is list:
            # A prompt or an input may come as tokens already.
            return len(value) if value and type(value[0]) is int else sum(map(self._value, value))
        return 0

    def _part(self, part: dict[str, Any]) -> int:
        if "image_url" in part or part.get("type") in _IMAGES:
            return self._image(part)
        tokens = 0
        for key, value in part.items():
            if type(value) is not str:
                tokens += self._audio(value) if key == "input_audio" else self._value(value)
            elif key == "role" and value in _ROLES:
                tokens += _ROLE
            elif key == "file_data":
                tokens += len(value) // _CHARACTERS_PER_FILE_TOKEN
            elif key not in _MARKS:
                tokens += self._text(value)
        return tokens

    def _audio(self, audio: Any) -> int:
        return len(str(audio.get("data"))) // _CHARACTERS_PER_AUDIO_TOKEN if isinstance(audio, dict) else 0

    def _image(self, part: dict[str, Any]) -> int:
        url = part.get("image_url")
        if isinstance(url, dict):
            part, url = url, url.get("url")
        return image_tokens(self._model, str(url), str(part.get("detail")))

    def _tools(self, tools: list[Any]) -> int:
        return _FUNCTIONS + sum(map(self._tool, tools))

    def _tool(self, tool: Any) -> int:
        function = _function(tool)
        if function is None:
            return self._json(tool)  # what hosted tools cost is not published
        tokens = self._function + self._line(function["name"], function.get("description"))
        parameters = function.get("parameters")
        if not isinstance(parameters, dict):
            return tokens
        properties = parameters.get("properties")
        if isinstance(properties, dict) and properties:
            tokens += _PROPERTIES + sum(self._property(name, schema) for name, schema in properties.items())
        return tokens + self._rest(parameters, _OBJECT)

    def _property(self, name: str, schema: Any) -> int:
        if not isinstance(schema, dict):
            return _PROPERTY + self._line(name, _compact(schema))
        kind = schema.get("type", "")
        kind = kind if isinstance(kind, str) else _compact(kind)
        tokens = _PROPERTY + self._line(f"{name}:{kind}", schema.get("description"))
        choices = schema.get("enum")
        if isinstance(choices, list):
            tokens += _ENUM + sum(_CHOICE + self._text(str(choice)) for choice in choices)
        return tokens + self._rest(schema, _SIMPLE)

    def _rest(self, schema: dict[str, Any], known: frozenset[str]) -> int:
        # Nested schemas are no part of the Cookbook's rule: as JSON they are longer than what the model is shown.
        rest = {key: value for key, value in schema.items() if key not in known}
        return self._json(rest) if rest else 0

    def _line(self, name: str, description: Any) -> int:
        return self._text(f"{name}:{description.removesuffix('.') if isinstance(description, str) else ''}")

    def _schema(self, form: Any) -> int:
        form = form.get("json_schema", form) if isinstance(form, dict) else None
        return self._json(form["schema"]) if isinstance(form, dict) and "schema" in form else 0

    def _json(self, value: Any) -> int:
        return self._text(_compact(value))

    def _text(self, text: str) -> int:
        if len(text) > _PIECE:
            return sum(map(self._text, _pieces(text)))
        try:
            return len(self._encode(text))
        except BaseException as exc:
            # A panic of Rust is no Exception, and its class can be had from nowhere.
            if type(exc).__module__ != "pyo3_runtime":
                raise
        half = len(text) // 2
        return self._text(text[:half]) + self._text(text[half:]) if half else len(text.encode(errors="replace"))


def _function(tool: Any) -> dict[str, Any] | None:
    match tool:
        case {"type": "function", "function": {"name": str()} as function}:  # chat
            return dict(function)
        case {"type": "function", "name": str()}:  # Responses
            return dict(tool)
        case {"name": str()} if "type" not in tool:  # the `functions` of old
            return dict(tool)
    return None


def _listed(value: Any) -> list[Any]:
    return value if type(value) is list else [] if value is None else [value]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _pieces(text: str) -> Iterator[str]:
    # Cutting before a blank and a word changes nothing; cutting elsewhere, where a text has no words, adds a token.
    start = 0
    while start < len(text):
        stop = start + _PIECE
        if stop < len(text):
            blank = text.rfind(" ", start + 1, stop)
            stop = blank if blank > 0 else stop
        yield text[start:stop]
        start = stop
