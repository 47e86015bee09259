"""Embeddings come out of answers in order and in 32 bits, with numpy and without."""

import base64
import json
import struct
import sys
from array import array
from typing import Any

import pytest

from carpool import Response
from carpool.errors import OutputInvalid


@pytest.fixture(params=["numpy", "no numpy"])
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with numpy and without."""
    if request.param == "numpy":
        pytest.importorskip("numpy")
    else:
        monkeypatch.setitem(sys.modules, "numpy", None)
    return str(request.param)


def packed(*values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def answer(*embeddings: Any) -> Response:
    data = [{"object": "embedding", **one} for one in embeddings]
    return Response("p-1", "batch_1", "req", 200, json.dumps({"object": "list", "data": data}).encode())


def lists(vectors: Any) -> list[list[float]]:
    return [list(map(float, row)) for row in vectors]


@pytest.mark.parametrize("embedding", [packed(0.5, -1.25, 3.0), [0.5, -1.25, 3]])
def test_both_encodings_give_the_same(embedding: Any, numbers: str) -> None:
    vectors = answer({"index": 0, "embedding": embedding}).vectors()
    assert lists(vectors) == [[0.5, -1.25, 3.0]]
    if numbers == "numpy":
        assert (vectors.shape, str(vectors.dtype)) == ((1, 3), "float32")
        assert vectors.flags.writeable
    else:
        assert [(type(row), row.typecode) for row in vectors] == [(array, "f")]


@pytest.mark.usefixtures("numbers")
def test_vectors_stand_in_the_order_of_their_index() -> None:
    vectors = answer(*({"index": n, "embedding": packed(n, n)} for n in (2, 0, 1))).vectors()
    assert lists(vectors) == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.usefixtures("numbers")
def test_without_an_index_they_stand_as_they_come() -> None:
    assert lists(answer({"embedding": [1]}, {"embedding": [2]}).vectors()) == [[1], [2]]


@pytest.mark.parametrize(
    ("embeddings", "reason", "said"),
    [
        ([], "missing", "`data` are empty"),
        ([{"index": 0, "embedding": []}], "missing", "`data` are empty"),
        ([{"index": 0, "embedding": "!"}], "invalid", "cannot be read"),
        ([{"index": 0, "embedding": base64.b64encode(b"123").decode()}], "invalid", "cannot be read"),
        ([{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}], "invalid", "which input"),
        ([{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [2]}], "invalid", "which input"),
        ([{"index": 0, "embedding": [1]}, {"embedding": [2]}], "invalid", "which input"),
        ([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [2, 3]}], "invalid", "not of one length"),
        ([{"index": 0, "embedding": {"a": 1}}], "missing", "no embeddings"),
    ],
)
def test_what_holds_no_vectors_says_so(embeddings: list[Any], reason: str, said: str) -> None:
    with pytest.raises(OutputInvalid, match=said) as caught:
        answer(*embeddings).vectors()
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"<html>", b'{"choices":[]}', b"[" * 10_000, b'{"data":[{"embedding":"\xed\xa0\x80"}]}']
)
def test_other_answers_hold_no_vectors(content: bytes) -> None:
    with pytest.raises(OutputInvalid, match="no embeddings"):
        Response("p-1", "batch_1", "req", 200, content).vectors()
