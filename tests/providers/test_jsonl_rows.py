"""Rows of output and error files in every form seen, and the cutting of streams into lines."""

import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from carpool.models import Row
from carpool.providers.jsonl import Lines
from carpool.providers.openai import OpenAI

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

parse_row = OpenAI().parse_row
BODY = {"id": "chatcmpl-1", "choices": [{"message": {"content": "hi"}}]}
REFUSED = {"error": {"message": "bad", "type": "invalid_request_error", "param": "messages", "code": "invalid"}}


def row(**fields: Any) -> Row:
    return parse_row(json.dumps(fields).encode())


def test_an_answer_is_read_and_its_body_kept_byte_for_byte() -> None:
    line = (
        b'{"id":"batch_req_1","custom_id":"r-17","response":{"status_code":200,"request_id":"req_9",'
        b'"body":{"id" : "chatcmpl-1", "n":1.50,"x":"\xe2\x80\xa8\\u2028"}},"error":null}'
    )
    read = parse_row(line)
    body = b'{"id" : "chatcmpl-1", "n":1.50,"x":"\xe2\x80\xa8\\u2028"}'
    assert read == Row("r-17", 200, "req_9", body, size=len(line))
    assert read.ok


def test_an_answer_needs_neither_request_id_nor_error() -> None:
    read = row(custom_id="a", response={"status_code": 200, "body": BODY})
    assert (read.custom_id, read.status_code, read.request_id) == ("a", 200, "")
    assert (read.body, read.code, read.message) == (json.dumps(BODY).encode(), "", "")
    assert row(custom_id="a", response={"status_code": 201, "request_id": None, "body": BODY}, error=None).ok


def test_a_refusal_or_a_cut_answer_is_an_answer() -> None:
    body = {"choices": [{"finish_reason": "length", "message": {"content": None, "refusal": "no"}}]}
    assert row(custom_id="a", response={"status_code": 200, "body": body}, error=None).ok


def test_a_rejected_row_says_why() -> None:
    read = row(custom_id="a", response={"status_code": 400, "request_id": "req_7", "body": REFUSED}, error=None)
    assert (read.ok, read.status_code, read.request_id) == (False, 400, "req_7")
    assert (read.code, read.message) == ("invalid", "bad")
    assert json.loads(read.body) == REFUSED


def test_an_expired_row_has_no_response() -> None:
    error = {"code": "batch_expired", "message": "This request could not be executed before ..."}
    for fields in ({"response": None, "error": error}, {"error": error}):
        read = row(custom_id="a", **fields)
        assert (read.ok, read.status_code, read.code) == (False, 0, "batch_expired")
        assert read.message == error["message"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("out of luck", "error", "out of luck"),
        ({"message": "m"}, "error", "m"),
        ({"type": "server_error", "message": "m"}, "server_error", "m"),
        ({"error": {"code": "c", "message": "m"}}, "c", "m"),
        ({"error": "text"}, "error", "text"),
        ({"code": 7}, "7", ""),
        (["odd"], "error", "['odd']"),
    ],
)
def test_an_error_comes_as_object_nested_object_or_bare_string(error: object, code: str, message: str) -> None:
    for response in (None, {"status_code": 200, "body": BODY}, {"status_code": 500, "body": None}):
        read = row(custom_id="a", response=response, error=error)
        assert not read.ok
        assert (read.code, read.message) == (code, message)


@pytest.mark.parametrize("error", ["", {}, [], 0, False])
def test_an_empty_error_beside_an_answer_is_none(error: object) -> None:
    assert row(custom_id="a", response={"status_code": 200, "body": BODY}, error=error).ok


def test_a_body_that_is_a_json_string_is_unwrapped() -> None:
    read = row(custom_id="a", response={"status_code": 200, "body": json.dumps(BODY)}, error=None)
    assert read.ok
    assert json.loads(read.body) == BODY
    read = row(custom_id="a", response={"status_code": 400, "body": json.dumps(REFUSED)}, error=None)
    assert not read.ok
    assert json.loads(read.body) == REFUSED
    assert "bad" in read.message


@pytest.mark.parametrize(
    "fields", [{}, {"response": None}, {"response": None, "error": None}, {"response": "odd"}, {"response": {}}]
)
def test_a_row_without_response_and_error_is_a_failure(fields: dict[str, Any]) -> None:
    read = row(custom_id="a", **fields)
    assert not read.ok
    assert (read.status_code, read.code) == (0, "no_response")


@pytest.mark.parametrize("status", [0, None, 199, 300, 404, 500, "odd"])
def test_any_status_but_2xx_is_a_failure(status: object) -> None:
    read = row(custom_id="a", response={"status_code": status, "request_id": 5, "body": BODY}, error=None)
    assert not read.ok
    assert (read.status_code, read.request_id) == (status if isinstance(status, int) else 0, "")


def test_a_status_0_without_body_is_a_failure() -> None:
    assert not row(custom_id="a", response={"status_code": 0, "body": None}, error=None).ok
    assert not row(custom_id="a", response={"status_code": 0}, error=None).ok


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"nonsense",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b'{"response":{"status_code":200,"body":{}}}',
        b'{"custom_id":"a","response":{"status_code":200,"body":{"cut',
        b'{"custom_id":null,"response":{"status_code":2',
        b'{"custom_id":"a","response":{"status_code":"200","body":"\xff"}}',
        b'{"custom_id":"\xff"}',
        b'{"custom_id":"a","response":{"status_code":400,"body":' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
        b'{"custom_id":null,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
)
def test_what_is_no_row_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_row(line)


@pytest.mark.parametrize("line", [b'{"custom_id":null,"response":null}', b'{"custom_id":7}'])
def test_a_row_whose_id_is_no_text_is_a_strangers(line: bytes) -> None:
    assert parse_row(line).custom_id == ""


@pytest.mark.parametrize("depth", [100, 400, 600, 900, 5_000])
def test_an_error_nested_too_deep_is_a_row_or_a_value_error(depth: int) -> None:
    line = b'{"custom_id":"a","error":' + b'{"error":' * depth + b'"x"' + b"}" * depth + b"}"
    try:
        assert parse_row(line).message == "x"
    except ValueError:
        assert depth > 100


def test_an_answer_with_half_a_surrogate_in_it_is_an_answer() -> None:
    read = parse_row(b'{"custom_id":"a","response":{"status_code":200,"body":{"x":"\\ud83d"}},"error":null}')
    assert read.ok
    assert json.loads(read.body) == {"x": "\ud83d"}


@pytest.mark.parametrize(
    ("status", "read"),
    [("200", 200), (200.0, 200), ("503", 503), (True, 0), (200.5, 0), (-200, 0), ("2e2", 0), ("²", 0), ("20000", 0)],
)
def test_a_status_may_be_written_as_a_text_or_with_a_decimal_point(status: object, read: int) -> None:
    assert row(custom_id="a", response={"status_code": status, "body": BODY}, error=None).status_code == read


def test_a_body_that_is_a_json_string_tells_of_the_error_in_it() -> None:
    read = row(custom_id="a", response={"status_code": 400, "body": json.dumps(REFUSED)}, error=None)
    assert (read.code, read.message) == ("invalid", "bad")


@pytest.mark.parametrize("body", ["no JSON", "[" * 200_000])
def test_a_body_that_is_a_text_is_the_error(body: str) -> None:
    read = row(custom_id="a", response={"status_code": 502, "body": body}, error=None)
    assert (read.status_code, read.code, read.message) == (502, "error", body)


# --- a row that is written


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("body", [b'{"x":1.50,"y":"\\ud83d"}', b'{"x" : "\xe2\x80\xa8"}', b"[]", b"null"])
def test_an_answer_that_is_written_as_a_line_is_read_as_it_was(body: bytes, status: int) -> None:
    line = OpenAI().row_line("p-7", Row("", status, "req", body))
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    read = parse_row(line[:-1])
    assert (read.custom_id, read.status_code, read.request_id, read.ok) == ("p-7", status, "req", status == 200)
    assert json.loads(read.body) == json.loads(body)


def test_an_answer_of_several_lines_is_written_on_one() -> None:
    line = OpenAI().row_line("p-7", Row("", 200, "", b'{\n  "x": 1\n}'))
    assert line.count(b"\n") == 1
    assert json.loads(parse_row(line[:-1]).body) == {"x": 1}


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\n"])
def test_an_answer_that_is_no_json_is_written_as_a_text(body: bytes) -> None:
    line = OpenAI().row_line("p-7", Row("", 200, "", body))
    assert line.count(b"\n") == 1
    assert json.loads(parse_row(line[:-1]).body) == body.decode(errors="replace")


# --- where a row lies

FORMS = [
    b'{"custom_id":"a","response":{"status_code":200,"request_id":"req_9","body":{"x":1}},"error":null}',
    b'{"custom_id":"a","response":{"status_code":200,"body":{"x":"\xc3\xa9\xe2\x80\xa8"}}}\r',
    b' {"custom_id":"a","response":{"status_code":200,"body":{"x":"\\ud83d"}},"error":null} ',
    b'{"custom_id":"a","response":{"status_code":200,"body":"{\\"x\\":1}"},"error":null}',
    b'{"custom_id":"a","response":{"status_code":400,"body":{"error":{"message":"bad"}}},"error":null}',
    b'{"custom_id":"a","response":null,"error":{"code":"batch_expired","message":"m"}}',
    b'{"custom_id":"a"}',
]


@pytest.mark.parametrize("line", FORMS)
@pytest.mark.parametrize("offset", [0, 1, 190_000_001, 2**40])
def test_a_row_says_where_its_line_lies_and_is_the_same_wherever_that_is(line: bytes, offset: int) -> None:
    read = parse_row(line, offset)
    assert (read.offset, read.size) == (offset, len(line))
    assert replace(read, offset=0) == parse_row(line)


@unhurried
@given(st.lists(st.sampled_from([*FORMS, b"", b"nonsense"])), st.sampled_from([b"", b"\n"]), st.integers(1, 50))
def test_a_row_is_read_again_from_where_it_lies(parts: list[bytes], end: bytes, chunk: int) -> None:
    stream = b"\n".join(parts) + end
    lines = Lines()
    cut = [line for at in range(0, len(stream), chunk) for line in lines.feed(stream[at : at + chunk])]
    rows: list[Row] = []
    offset = 0
    for line in [*cut, *lines.close()]:
        with suppress(ValueError):
            rows.append(parse_row(line, offset))
        offset += len(line) + 1

    assert len(rows) == sum(part in FORMS for part in parts)
    for read in rows:
        assert parse_row(stream[read.offset : read.offset + read.size], read.offset) == read


# --- lines


@unhurried
@given(st.binary(max_size=60) | st.text("ab\n\r\u2028\u0085").map(str.encode), st.data())
def test_any_chunking_of_a_stream_gives_the_same_lines(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    lines = Lines()
    cut: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        cut += lines.feed(stream[start:stop])
    cut += lines.close()

    assert cut == (stream[:-1] if stream.endswith(b"\n") else stream).split(b"\n") if stream else cut == []


def test_raw_line_separators_inside_a_string_cut_nothing() -> None:
    line = json.dumps({"custom_id": "a", "x": "\u2028\u2029\u0085"}, ensure_ascii=False).encode()
    assert Lines().feed(line + b"\n" + line + b"\n") == [line, line]
