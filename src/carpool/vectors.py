"""Read the embeddings in an answer, from base64 or from numbers, as 32-bit floats."""

import sys
from array import array
from base64 import b64decode
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import msgspec

from .errors import OutputInvalid
from .models import Response


class _Embedding(msgspec.Struct, gc=False):
    embedding: str | list[float]
    index: int | None = None  # None where the server leaves it out: they stand in order


class _Answer(msgspec.Struct, gc=False):
    data: list[_Embedding]


_answer = msgspec.json.Decoder(_Answer)


def vectors(response: Response) -> Any:
    """Give the embeddings in an answer, see `Response.vectors`."""
    rows = read_rows(response)
    whole = space(len(rows), len(rows[0]))
    place(whole, 0, rows)
    return whole


def read_rows(response: Response) -> list["array[float]"]:
    """Give the embeddings in an answer in the order of their inputs, at least one, all of one length.

    Raises `OutputInvalid` where the answer holds none, or they do not belong together.
    """
    try:
        embeddings = _answer.decode(response.content).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        message = "The answer holds no embeddings, as those of /v1/embeddings do. Read it with json()."
        raise OutputInvalid(message, response, "missing") from exc
    try:
        rows = [_floats(one.embedding) for one in _in_order(embeddings)]
    except ValueError as exc:
        raise OutputInvalid(f"The embeddings cannot be read: {exc}.", response, "invalid") from exc
    if not rows or not rows[0]:
        raise OutputInvalid("The answer holds no embeddings: its `data` are empty.", response, "missing")
    if len({len(row) for row in rows}) > 1:
        raise OutputInvalid("The embeddings of one answer are not of one length.", response, "invalid")
    return rows


def _in_order(embeddings: list[_Embedding]) -> list[_Embedding]:
    indices = [one.index for one in embeddings]
    places = list(range(len(embeddings)))
    if indices == places or not any(index is not None for index in indices):
        return embeddings
    if None in indices or sorted(index for index in indices if index is not None) != places:
        raise ValueError("their `index` does not say which input each is of")
    return sorted(embeddings, key=lambda one: one.index or 0)


def _floats(embedding: str | list[float]) -> "array[float]":
    if isinstance(embedding, list):
        return array("f", embedding)
    row = array("f")
    row.frombytes(b64decode(embedding, validate=True))
    if sys.byteorder == "big":
        row.byteswap()  # they are little endian
    return row


def space(count: int, dimensions: int) -> Any:
    """Make room for so many vectors: a numpy array where numpy is installed, else a list."""
    try:
        numpy = import_module("numpy")
    except ImportError:
        return [None] * count
    return numpy.empty((count, dimensions), dtype=numpy.float32)


def place(whole: Any, start: int, rows: Sequence["array[float]"]) -> None:
    """Put vectors into the room made for them, from place `start` on."""
    if isinstance(whole, list):
        whole[start : start + len(rows)] = rows
    else:
        for number, row in enumerate(rows, start):
            whole[number] = row
