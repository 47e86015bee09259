"""What may travel in a batch: bodies on one line, and what is refused before anything is sent."""

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from carpool.errors import LimitExceeded, Unbatchable
from carpool.models import Encoded
from carpool.providers.openai import ENDPOINTS, OpenAI

unhurried = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

openai = OpenAI()
# Since Python 3.14 the C stack bounds how deep JSON is read: 200,000 levels may be (seen with 3.14.10).
DEEP = 1_000_000
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@dataclass
class Point:
    x: float


@unhurried
@given(st.dictionaries(st.text(), values))
def test_a_mapping_becomes_its_json_on_one_line(body: dict[str, Any]) -> None:
    body = {**body, "model": "m", "stream": None}
    call = openai.encode(CHAT, body)
    assert (call.model, call.inputs) == ("m", 0)
    assert b"\n" not in call.body
    assert json.loads(call.body) == body


@pytest.mark.parametrize(
    "body", ['{"model":"m","x":"é\\n"}', '{"model":"m","x":"é\\n"}'.encode(), b'{ "model" : "m" }']
)
def test_ready_json_travels_unchanged(body: str | bytes) -> None:
    encoded = openai.encode(CHAT, body).body
    assert encoded == (body.encode() if isinstance(body, str) else body)


@unhurried
@given(st.dictionaries(st.text(), values), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_pretty_printed_json_is_put_on_one_line(body: dict[str, Any], end: str, as_bytes: bool) -> None:
    body = {**body, "model": "m", "stream": False}
    text = json.dumps(body, indent=2).replace("\n", end)
    encoded = openai.encode(CHAT, text.encode() if as_bytes else text).body
    assert not {b"\n", b"\r"} & {encoded[at : at + 1] for at in range(len(encoded))}
    assert json.loads(encoded) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        "",
        "nonsense",
        b'{"model":"m"',
        b'{"model":"m"} {"model":"m"}',
        b"[]",
        b"null",
        b'"text"',
        b"17",
        b'{"model":"m","x":NaN}',
        b'{"model":"m","x":Infinity}',
        b'{"model":"m","x":"\xff"}',
        b'{"model":"m","x":"\\ud800"}',
        b'{"model":"m","x":"\x01"}',
        b'\xef\xbb\xbf{"model":"m"}',
        '{"model":"m","x":"\ud800"}',
        {"model": "m", "x": "\ud800"},
        {"model": "m", "\ud800": 1},
        {"model": "m", "x": object()},
        {"model": "m", "x": {1, object()}},
        {"model": "m", ("a",): 1},
        b'{"model":"m","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(body: Any) -> None:
    with pytest.raises(Unbatchable):
        openai.encode(CHAT, body)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: [1, (x,)], lambda x: {"a": [{"b": x}]}, lambda x: {x}, lambda x: frozenset({x}), Point],
)
def test_numbers_that_json_does_not_know_are_refused_wherever_they_stand(number: float, wrap: Any) -> None:
    with pytest.raises(Unbatchable, match="NaN or an infinity"):
        openai.encode(CHAT, {"model": "m", "x": wrap(number)})


def test_null_beside_numbers_is_no_nan() -> None:
    assert openai.encode(CHAT, {"model": "m", "x": [None, 1.5, (2.5, {"y": None})], "z": "null"}).model == "m"


@pytest.mark.parametrize("depth", [10, 100, 300, 450, 600, 800, 950, 5_000])
@pytest.mark.parametrize("leaf", [None, 1, math.nan])
def test_a_deep_body_is_encoded_or_refused_but_never_breaks_anything(depth: int, leaf: object) -> None:
    value: object = leaf
    for _ in range(depth):
        value = [value]
    try:
        encoded = openai.encode(CHAT, {"model": "m", "x": value}).body
    except Unbatchable:
        assert depth > 100 or leaf is not None
    else:
        assert encoded.count(b"[") == depth
        assert leaf is None or leaf == 1


def test_a_body_that_holds_itself_is_refused() -> None:
    body: dict[str, Any] = {"model": "m"}
    body["x"] = body
    with pytest.raises(Unbatchable):
        openai.encode(CHAT, body)


@pytest.mark.parametrize("mapping", [OrderedDict, MappingProxyType])
def test_any_mapping_is_a_body(mapping: Any) -> None:
    assert openai.encode(CHAT, mapping({"model": "m"})) == Encoded(CHAT, "m", b'{"model":"m"}', 0)


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"messages": []}, "{}"])
def test_a_body_without_a_model_is_refused(body: Any) -> None:
    with pytest.raises(Unbatchable, match="no model"):
        openai.encode(CHAT, body)


@pytest.mark.parametrize("model", [None, 5, ["m"], {"m": 1}])
def test_a_model_is_a_string(model: object) -> None:
    with pytest.raises(Unbatchable, match="model"):
        openai.encode(CHAT, {"model": model})


class Model(StrEnum):
    MINI = "m"


@given(
    st.sampled_from([CHAT, EMBEDDINGS]),
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(["m", "", "é", None, 5, Model.MINI]),
            "stream": st.sampled_from([None, False, True, 0, "", "yes"]),
            "input": st.sampled_from(["x", ["x", "y"], [1, 2], [[1], [2]], []]),
        },
    ),
)
def test_a_dict_is_judged_as_the_json_that_it_becomes(endpoint: str, body: dict[str, Any]) -> None:
    def judged(body: Any) -> object:
        try:
            return openai.encode(endpoint, body)
        except Unbatchable as exc:
            return str(exc)

    assert judged(body) == judged(msgspec.json.encode(body))


def test_streams_are_refused() -> None:
    with pytest.raises(Unbatchable, match="stream"):
        openai.encode(CHAT, {"model": "m", "stream": True})
    with pytest.raises(Unbatchable, match="stream"):
        openai.encode(CHAT, '{"model":"m","stream":"yes"}')


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_of_the_batch_api_is_taken(endpoint: str) -> None:
    assert openai.encode(endpoint, {"model": "m", "input": "x"}).model == "m"


@pytest.mark.parametrize(
    "endpoint", ["", "/chat/completions", "/v1/audio/speech", "/v1/chat/completions/", "v1/responses"]
)
def test_an_unknown_endpoint_is_refused_and_the_known_ones_are_named(endpoint: str) -> None:
    with pytest.raises(Unbatchable, match="/v1/responses"):
        openai.encode(endpoint, {"model": "m"})


@pytest.mark.parametrize(
    ("input_", "count"),
    [
        ("text", 1),
        (["a", "b", "c"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        ([""], 1),
        ([], 1),
        (None, 1),
        (["x"] * 50_000, 50_000),
    ],
)
def test_the_inputs_of_embeddings_are_counted(input_: object, count: int) -> None:
    assert openai.encode(EMBEDDINGS, {"model": "m", "input": input_}).inputs == count
    assert openai.encode("/v1/responses", {"model": "m", "input": input_}).inputs == 0


def test_embeddings_without_input_count_as_one() -> None:
    assert openai.encode(EMBEDDINGS, {"model": "m"}).inputs == 1


def test_more_inputs_than_a_file_takes_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="50,001"):
        openai.encode(EMBEDDINGS, {"model": "m", "input": ["x"] * 50_001})


def test_a_body_that_is_larger_than_a_file_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        openai.encode(CHAT, b'{"model":"m","x":"' + b"x" * openai.limits.bytes + b'"}')


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_largest_body_that_is_taken_fits_a_file_with_its_frame(endpoint: str) -> None:
    class Small(OpenAI):
        limits = msgspec.structs.replace(OpenAI.limits, bytes=1_000)

    small = Small()
    start, end = b'{"model":"m","x":"', b'"}'
    room = small.limits.bytes
    with pytest.raises(LimitExceeded):
        small.encode(endpoint, start + b"x" * room + end)
    taken = 0
    for size in range(room):
        try:
            taken = max(taken, len(small.encode(endpoint, start + b"x" * size + end).body))
        except LimitExceeded:
            break
    frame = sum(map(len, small.frame("p" * 40, endpoint))) + len(str(2**64))
    assert taken > 500
    assert taken + frame <= room


def test_the_limits_are_those_of_the_guide_below_the_doubtful_200_megabytes() -> None:
    limits = openai.limits
    assert (limits.requests, limits.inputs, limits.creations_per_hour) == (50_000, 50_000, 2_000)
    assert limits.bytes == 190_000_000


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_raw_line_break_inside_a_string_is_no_json_and_is_not_mended_in_silence(end: str) -> None:
    with pytest.raises(Unbatchable, match="cannot be read"):
        openai.encode(CHAT, f'{{"model": "m", "x": "one{end}two"}}')
