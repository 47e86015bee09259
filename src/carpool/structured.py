"""Read an answer as a value of a type: find its text, or say why there is none, and validate it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from .errors import OutputInvalid, Reason
from .models import Response
from .schemas import UNFIT, adapter_of, is_model, is_pydantic_dataclass, name_of, unfit

T = TypeVar("T")

_SHORT = 120  # characters of an answer, or of what is wrong with it, that a message quotes at most
_CUT = "The answer was cut off. Allow more output tokens, or ask for less at a time."
_FILTERED = "The provider's content filter ended the answer. Change the prompt."
_NO_ANSWER = "This is no answer of chat completions, Responses or completions. Read it with json()."


class _Reader(NamedTuple):
    read: Callable[[str], Any]
    wrong: type[Exception]  # what it raises for a text that does not fit


def parse(response: Response, output: type[T]) -> T:
    """Give an answer's text as a validated value of a type; `OutputInvalid` where it is none.

    Raises `ConfigurationError` for a type that cannot be read from JSON.
    """
    reader = _reader_of(output)
    text = _text_of(response)
    try:
        value: T = reader.read(text)
    except (reader.wrong, UnicodeError, RecursionError) as exc:
        message = f"The answer is no {name_of(output)}: {_first_problem(exc)} It begins {_quoted(text)}."
        raise OutputInvalid(message, response, "invalid") from exc
    return value


# --- types


def _reader_of(output: Any) -> _Reader:
    try:
        return _made_reader(output)
    except UNFIT as exc:
        raise unfit(f"{name_of(output)} cannot be read from JSON", exc) from exc


@lru_cache(maxsize=128)  # which keeps the types alive
def _made_reader(output: Any) -> _Reader:
    if is_model(output):
        return _Reader(output.model_validate_json, ValueError)
    if is_pydantic_dataclass(output):
        return _Reader(adapter_of(output).validate_json, ValueError)
    try:
        msgspec.json.schema(output)  # refuses classes of others, which the decoder would find in no answer
    except UNFIT:  # a list of models, and the like
        adapter = adapter_of(output)
        if adapter is None:
            raise
        return _Reader(adapter.validate_json, ValueError)
    return _Reader(msgspec.json.Decoder(output).decode, msgspec.DecodeError)


def _first_problem(exc: Exception) -> str:
    """Say what is wrong first: pydantic lists everything, with the values, over many lines."""
    errors = getattr(exc, "errors", None)
    if errors is None:
        return f"{exc!s:.{_SHORT}}."
    problems = errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(map(str, problems[0]["loc"]))
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0]['msg']:.{_SHORT}}{f' at {place:.{_SHORT}}' if place else ''}{more}."


# --- texts


def _text_of(response: Response) -> str:
    """Give the text of the first answer, which is whole."""
    try:
        body = response.json()
    except (ValueError, RecursionError) as exc:
        raise OutputInvalid("The answer is not JSON. Read its content.", response, "missing") from exc
    match body:
        case {"choices": [dict(choice), *_]}:
            said = _of_choice(choice)
        case {"output": list(output)}:
            said = _of_response(body, output)
        case _:
            said = _Not("missing", _NO_ANSWER)
    if isinstance(said, _Not):
        raise OutputInvalid(said.message, response, said.reason)
    return said


class _Not(NamedTuple):
    """Say why there is no text."""

    reason: Reason
    message: str


def _of_choice(choice: dict[str, Any]) -> str | _Not:
    """Read a choice of chat completions, or of completions."""
    message = _dict(choice.get("message"))
    if message.get("refusal"):
        return _refused(message["refusal"])
    if choice.get("finish_reason") == "length":
        return _Not("truncated", _CUT)
    if choice.get("finish_reason") == "content_filter":
        return _Not("filtered", _FILTERED)
    text = message.get("content", choice.get("text"))
    if isinstance(text, str) and text:
        return text
    return _no_text("calls of tools" if message.get("tool_calls") else "")


def _of_response(body: dict[str, Any], output: list[Any]) -> str | _Not:
    """Read an answer of Responses: the first of its messages that is final and says something."""
    parts = [part for part in output if isinstance(part, dict)]
    final = [part for part in parts if part.get("type") == "message" and part.get("phase") in (None, "final_answer")]
    refusal = next((piece.get("refusal") for part in final for piece in _pieces(part, "refusal")), None)
    if refusal is not None:
        return _refused(refusal)
    if body.get("status") == "incomplete":
        filtered = _dict(body.get("incomplete_details")).get("reason") == "content_filter"
        return _Not("filtered", _FILTERED) if filtered else _Not("truncated", _CUT)
    text = next(filter(None, map(_text, final)), "")
    if text:
        return text
    if error := _dict(body.get("error")).get("message"):
        return _Not("missing", f"The answer was not made: {_quoted(error)}.")
    return _no_text(", ".join(sorted({str(part.get("type")) for part in parts} - {"message", "reasoning"})))


def _text(message: dict[str, Any]) -> str:
    return "".join(piece["text"] for piece in _pieces(message, "output_text") if isinstance(piece.get("text"), str))


def _pieces(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    content = message.get("content")
    pieces = content if isinstance(content, list) else []
    return [piece for piece in pieces if isinstance(piece, dict) and piece.get("type") == kind]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _refused(refusal: Any) -> _Not:
    return _Not("refused", f"The model refused: {_quoted(refusal)}. Change the prompt.")


def _no_text(instead: str) -> _Not:
    return _Not("missing", f"The answer holds no text{instead and f', but {instead}'}. Read it with json().")


def _quoted(text: Any) -> str:
    said = str(text)
    return repr(said if len(said) <= _SHORT else f"{said[:_SHORT]}...")
