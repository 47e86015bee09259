"""Texts are packed many into a row, within what one request may hold, and their vectors come back in order."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool import ConfigurationError, Pool, RequestRejected, Response, Timing, Unbatchable
from carpool.embeddings import embed, pack
from carpool.errors import OutputInvalid
from carpool.testing import Emulator, Refused, echo

QUICK = Timing(linger=0.05, poll_min=0.05)


def lists(vectors: Any) -> list[list[float]]:
    return [list(map(float, row)) for row in vectors]


# --- packing


@given(st.lists(st.text(min_size=1, max_size=9).map(lambda text: text * 4_000) | st.text(min_size=1), max_size=40))
def test_rows_hold_what_a_request_may(texts: list[str]) -> None:
    texts = [text for text in texts if _encodes(text)]
    rows = list(pack(texts))
    assert [text for row in rows for text in row] == texts
    for row in rows:
        sizes = [len(text.encode()) for text in row]
        assert row
        assert len(row) == 1 or (sum(sizes) <= 300_000 and max(sizes) <= 8_192)


def _encodes(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


def test_short_texts_fill_rows_of_2048() -> None:
    assert [len(row) for row in pack("word" for _ in range(5_000))] == [2_048, 2_048, 904]


def test_longer_texts_fill_rows_of_300_000_bytes() -> None:
    assert [len(row) for row in pack(["ä" * 4_000] * 100)] == [37, 37, 26]


def test_a_text_that_may_be_too_long_goes_alone() -> None:
    texts = ["a", "b", "c" * 8_193, "d" * 8_192, "e" * 400_000, "f" * 400_000, "g"]
    assert [[text[0] for text in row] for row in pack(texts)] == [["a", "b"], ["c"], ["d"], ["e"], ["f"], ["g"]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("texts", "kind", "said"),
    [
        ("one text", ConfigurationError, "got str"),
        (b"one text", ConfigurationError, "got bytes"),
        (7, ConfigurationError, "got int"),
        ([], ConfigurationError, "no texts"),
        (["a", None], ConfigurationError, "number 1, from 0, is NoneType"),
        (["a", ["b"]], ConfigurationError, "number 1, from 0, is list"),
        (["a"] * 3_000 + [""], Unbatchable, "Text 3000, from 0, is empty"),
        (["\ud800"], Unbatchable, "not Unicode"),
    ],
)
async def test_texts_that_cannot_be_embedded_are_refused_before_anything_is_sent(
    texts: Any, kind: type[Exception], said: str
) -> None:
    async def gather(requests: Iterable[Any], *, endpoint: str) -> list[Response]:
        raise AssertionError("it was sent")

    with pytest.raises(kind, match=said):
        await embed(gather, texts, model="m")


@pytest.mark.anyio
async def test_the_input_is_given_once() -> None:
    async def gather(requests: Iterable[Any], *, endpoint: str) -> list[Response]:
        raise AssertionError("it was sent")

    with pytest.raises(ConfigurationError, match="leave `input` out"):
        await embed(gather, ["a"], model="m", input="b")


# --- vectors of all rows


class Rows:
    """Answer rows with vectors that say which text they are of, the last of each row first."""

    def __init__(self, dimensions: int = 3) -> None:
        self.bodies: list[Any] = []
        self.dimensions = dimensions

    async def __call__(self, requests: Iterable[Any], *, endpoint: str) -> list[Response]:
        assert endpoint == "/v1/embeddings"
        return list(map(self.answer, requests))

    def answer(self, body: Any) -> Response:
        self.bodies.append(body)
        data = [{"index": n, "embedding": [float(text)] * self.dimensions} for n, text in enumerate(body["input"])]
        return Response("p-1", "b", "r", 200, msgspec.json.encode({"data": data[::-1]}))


@pytest.mark.anyio
async def test_vectors_come_back_in_the_order_of_the_texts() -> None:
    rows = Rows()
    vectors = await embed(rows, (str(n) for n in range(5_000)), model="m", dimensions=3, user="u")
    assert [len(body.pop("input")) for body in rows.bodies] == [2_048, 2_048, 904]
    settings = {"model": "m", "encoding_format": "base64", "dimensions": 3, "user": "u"}
    assert rows.bodies == [settings] * 3
    assert lists(vectors) == [[float(n)] * 3 for n in range(5_000)]


@pytest.mark.anyio
async def test_what_is_said_of_the_encoding_holds() -> None:
    rows = Rows()
    await embed(rows, ["1"], model="m", encoding_format="float")
    assert rows.bodies == [{"model": "m", "encoding_format": "float", "input": ["1"]}]


class TooFew(Rows):
    def answer(self, body: Any) -> Response:
        return super().answer({**body, "input": body["input"][:5]})


class Uneven(Rows):
    def answer(self, body: Any) -> Response:
        self.dimensions += 1
        return super().answer(body)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("rows", "said"), [(TooFew, "5 vectors of 3 .* where 2048 of 3"), (Uneven, "52 vectors of 5 .* where 52 of 4")]
)
async def test_answers_without_their_vectors_are_not_put_together(rows: type[Rows], said: str) -> None:
    with pytest.raises(OutputInvalid, match=said) as caught:
        await embed(rows(), ["1"] * 2_100, model="m")
    assert caught.value.reason == "invalid"


# --- through a pool


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.mark.anyio
async def test_a_pool_embeds_as_single_calls_would(emulator: Emulator) -> None:
    texts = [f"text {n}" * (n % 7 + 1) for n in range(3_000)]
    async with Pool("any", emulator.url, timing=QUICK) as pool:
        vectors = await pool.embed(iter(texts), model="m", dimensions=4)
    bodies = ({"model": "m", "input": text, "dimensions": 4} for text in texts)
    single = [Response("", "", "", 200, echo("/v1/embeddings", body)) for body in bodies]
    assert lists(vectors) == [lists(one.vectors())[0] for one in single]
    assert len(emulator.books().runs) == 2


@pytest.mark.anyio
async def test_a_row_that_is_refused_fails_the_call_after_all_others(emulator: Emulator) -> None:
    def say(endpoint: str, body: dict[str, Any]) -> bytes:
        if body["input"] == ["x" * 9_000]:
            raise Refused(400, "too long", code="context_length")
        return echo(endpoint, body)

    emulator.answer = say
    async with Pool("any", emulator.url, timing=QUICK) as pool:
        with pytest.raises(RequestRejected, match="too long"):
            await pool.embed(["a", "x" * 9_000, "b"], model="m")
        assert (pool.stats().answered, pool.stats().failed) == (2, 1)
