"""Embed many texts: pack them into rows, and put the vectors of all rows together."""

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import anyio.lowlevel

from .errors import ConfigurationError, OutputInvalid, Unbatchable
from .models import Body, Response
from .vectors import place, read_rows, space

T = TypeVar("T")

ENDPOINT = "/v1/embeddings"
# OpenAI's description of `input`, as its SDKs repeat it (rubydoc.info/github/openai/openai-ruby): an array has at most
# 2,048 items, an input is not empty and has at most 8,192 tokens, and all inputs of a request at most 300,000. Beyond
# that it is refused: "Requested 416735 tokens, max 300000 tokens per request" (gpt-researcher issue 1524). A token is
# at least one byte, so as many bytes keep to it without counting.
_INPUTS = 2_048
_BYTES = 300_000
_SURE = 8_192  # bytes of a text that is not too long, whatever its tokens: a longer one goes alone, to fail alone


class Gather(Protocol):
    """Await the answers to many bodies, in their order; raise the first failure after all have settled."""

    def __call__(self, requests: Iterable[Body], *, endpoint: str) -> Awaitable[list[Response]]: ...


async def embed(gather: Gather, texts: Iterable[str], *, model: str, dimensions: int | None = None, **more: Any) -> Any:
    """Give the vectors of texts, in their order, as `Response.vectors` does; `more` goes into the bodies.

    Raises `ConfigurationError` or `Unbatchable`, before anything is sent, for texts that cannot be embedded, what
    `gather` raises, and `OutputInvalid` for an answer that does not hold the vectors of its texts.
    """
    rows: list[list[str]] = []
    for row in pack(texts):
        rows.append(row)
        await anyio.lowlevel.checkpoint()  # a row may take milliseconds
    if not rows:
        raise ConfigurationError("There are no texts to embed.")
    sizes = [len(row) for row in rows]
    settings = settings_of(model, dimensions, more)
    bodies = ({**settings, "input": row} for row in _taken(rows))
    return await _together(await gather(bodies, endpoint=ENDPOINT), sizes)


def settings_of(model: str, dimensions: int | None, more: dict[str, Any]) -> dict[str, Any]:
    """Give what stands beside the input in each body; numbers travel as base64, in a third of the bytes."""
    if "input" in more:
        raise ConfigurationError("The texts are the input: leave `input` out.")
    known = {"model": model, "encoding_format": "base64"}
    return known | ({} if dimensions is None else {"dimensions": dimensions}) | more


def pack(texts: Iterable[str]) -> Iterator[list[str]]:
    """Pack texts into rows, in their order; raises as `embed`."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"texts must be an iterable of str, such as a list; got {type(texts).__name__}.")
    row: list[str] = []
    size = 0
    alone = False
    for number, text in enumerate(texts):
        length = _length(number, text)
        if row and (alone or length > _SURE or len(row) == _INPUTS or size + length > _BYTES):
            yield row
            row, size = [], 0
        row.append(text)
        size += length
        alone = length > _SURE
    if row:
        yield row


def _length(number: int, text: Any) -> int:
    """Give the bytes of a text that can be embedded."""
    if not isinstance(text, str):
        raise ConfigurationError(f"texts must be str; number {number}, from 0, is {type(text).__name__}.")
    if not text:
        raise Unbatchable(f"Text {number}, from 0, is empty: there is no embedding of it. Leave it out.", "input")
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as exc:
        raise Unbatchable(f"Text {number}, from 0, is not Unicode: {exc.reason}.", "input") from exc


async def _together(answers: list[Response], sizes: Sequence[int]) -> Any:
    """Put the vectors of answers together; each is let go as soon as it is read: it is as large as its vectors."""
    whole: Any = None
    start = dimensions = 0
    for size, answer in zip(sizes, _taken(answers), strict=True):
        rows = read_rows(answer)
        if whole is None:
            dimensions = len(rows[0])
            whole = space(sum(sizes), dimensions)
        if len(rows) != size or len(rows[0]) != dimensions:
            raise OutputInvalid(
                f"{len(rows)} vectors of {len(rows[0])} numbers came where {size} of {dimensions} were expected.",
                answer,
                "invalid",
            )
        place(whole, start, rows)
        start += size
        await anyio.lowlevel.checkpoint()  # an answer may take tens of milliseconds
    return whole


def _taken(values: list[T]) -> Iterator[T]:
    """Give the values of a list in order, and let go of each."""
    values.reverse()
    while values:
        yield values.pop()
