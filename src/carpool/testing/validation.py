"""The validation of an input file, line by line, with the codes and messages of contracts A6."""

from array import array
from collections.abc import Callable, Collection
from typing import Any

import msgspec

Count = Callable[[dict[str, Any]], int]
Found = dict[str, Any]

ENDPOINTS = {
    "/v1/responses": "Responses",
    "/v1/chat/completions": "Chat Completions",
    "/v1/embeddings": "Embeddings",
    "/v1/completions": "Completions",
    "/v1/moderations": "Moderations",
    "/v1/images/generations": "Images",
    "/v1/images/edits": "Images",
}
_NEEDED = {
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
    "/v1/moderations": "input",
    "/v1/images/generations": "prompt",
}
_KEYS = ("custom_id", "method", "url", "body")
_DUPLICATE = (
    "The custom_id '{}' for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
_MISMATCH = (
    "The model '{}' for this request does not match the rest of the batch. "
    "Each batch must contain requests for a single model."
)
_EMPTY = "The input file is empty. Please ensure that the batch contains at least one request."


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


_LINE = msgspec.json.Decoder(_Line)


def problem(code: str, message: str, *, param: str | None = None, line: int | None = None) -> Found:
    """Give one entry of a batch's `errors.data`; `line` counts from 1."""
    return {"code": code, "message": message, "param": param, "line": line}


class Validation:
    """Read the lines of one input file in order; then say what is wrong, or where the rows are and what they cost.

    `models` are those that the Batch API supports, None for all; `count` gives the prompt tokens of a body,
    None for a quarter of the line's bytes; `most` requests (or inputs to embed) are allowed.
    """

    def __init__(
        self, endpoint: str, *, models: Collection[str] | None = None, count: Count | None = None, most: int = 50_000
    ) -> None:
        self.endpoint = endpoint
        self.errors: list[Found] = []
        self.model: str | None = None
        self.tokens: int = 0
        self.starts: array[int] = array("Q")
        self.sizes: array[int] = array("Q")
        self._models = models
        self._count = count
        self._most = most
        self._inputs = 0
        self._offset = 0
        self._seen: set[str] = set()

    def read(self, line: bytes) -> None:
        """Take the next line, without its line feed."""
        start = self._offset
        self._offset += len(line) + 1
        try:
            content = _LINE.decode(line)
            found = self._check_address(content) or self._check_body(content.body)
            if found is None:
                self._accept(content, len(line))
        except (msgspec.DecodeError, ValueError, RecursionError):
            found = self._diagnose(line)
        self.starts.append(start)
        self.sizes.append(len(line))
        if found is not None:
            found["line"] = len(self.starts)
            self.errors.append(found)

    def finish(self) -> None:
        """Check what only the whole file shows, and drop what is no longer needed."""
        if not self.starts:
            self.errors.append(problem("empty_file", _EMPTY))
        elif self._inputs > self._most:
            # The code is Azure's; OpenAI's own is not known.
            message = f"The batch contains {self._inputs:,} requests, which is more than the {self._most:,} allowed."
            self.errors.append(problem("too_many_tasks", message))
        self._seen.clear()

    def _check_address(self, line: _Line) -> Found | None:
        if line.custom_id in self._seen:
            return problem("duplicate_custom_id", _DUPLICATE.format(line.custom_id), param="custom_id")
        self._seen.add(line.custom_id)
        if line.method != "POST":
            return problem("invalid_method", f"Invalid method '{line.method}'. Only POST is supported.", param="method")
        if line.url != self.endpoint:
            return problem(
                "invalid_url", "The URL provided for this request does not match the batch endpoint.", param="url"
            )
        return None

    def _check_body(self, body: dict[str, Any]) -> Found | None:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return problem("invalid_request", "Model parameter is required.", param="body.model")
        if self._models is not None and model not in self._models:
            message = f"The provided model '{model}' is not supported by the Batch API."
            return problem("model_not_found", message, param="body.model")
        if self.model is None:
            self.model = model
        elif model != self.model:
            return problem("mismatched_model", _MISMATCH.format(model), param="body.model")
        if body.get("stream"):
            message = f"{ENDPOINTS[self.endpoint]}: Streaming is not supported in the Batch API."
            return problem("streaming_unsupported", message, param="body.stream")
        needed = _NEEDED.get(self.endpoint)
        if needed is not None and not body.get(needed):
            return problem("invalid_request", f"{needed.capitalize()} parameter is required.", param=f"body.{needed}")
        return None

    def _accept(self, line: _Line, size: int) -> None:
        self.tokens += self._count(line.body) if self._count is not None else max(1, size // 4)
        inputs = line.body.get("input") if self.endpoint == "/v1/embeddings" else None
        self._inputs += len(inputs) if isinstance(inputs, list) else 1

    def _diagnose(self, line: bytes) -> Found:
        try:
            content = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            return problem("invalid_json_line", "This line is not parseable as valid JSON.")
        for key in _KEYS:
            if content.get(key) is None:
                return problem("missing_required_parameter", f"Missing required parameter: '{key}'.", param=key)
        expected = {key: dict if key == "body" else str for key in _KEYS}
        wrong = next(key for key in _KEYS if not isinstance(content[key], expected[key]))
        return problem("invalid_type", f"Invalid type for '{wrong}'.", param=wrong)
