"""The rows of OUTPUT are the provider's own (contracts A7), whatever the answers hold."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.cli.filerun.formats import (
    answer_row,
    as_json,
    bad_row,
    code_of,
    concerns_some,
    error_row,
    is_of_all,
    text_line,
)
from carpool.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CarpoolError,
    ConfigurationError,
    JournalError,
    LimitExceeded,
    PoolClosed,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    ResultMissing,
    Unbatchable,
)
from carpool.models import Response
from carpool.providers.jsonl import parse_row


def response(content: bytes, **fields: Any) -> Response:
    return Response(
        **{"custom_id": "p-1", "batch_id": "b", "request_id": "req_1", "status_code": 200, **fields}, content=content
    )


def read(line: bytes) -> Any:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    return json.loads(line)


def test_an_answer_is_a_row_of_an_output_file() -> None:
    line = answer_row(7 << 32 | 0xAB, b'"mine"', response(b'{"choices": []}'))
    assert read(line) == {
        "id": "row_7_000000ab",
        "custom_id": "mine",
        "response": {"status_code": 200, "request_id": "req_1", "body": {"choices": []}},
        "error": None,
    }
    row = parse_row(line)
    assert (row.ok, row.custom_id, row.body) == (True, "mine", b'{"choices": []}')


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{\n  "a":\r\n 1\n}\n', {"a": 1}),  # as live answers are written
        ('{"a": "\N{LINE SEPARATOR}é"}'.encode(), {"a": "\N{LINE SEPARATOR}é"}),
        (b'{"a": "\\ud83d"}', {"a": "\ud83d"}),  # half a pair
        (b"<html>\n</html>", "<html>\n</html>"),
        (b"", ""),
        (b'{"a": NaN}', '{"a": NaN}'),
        (b'{"a": "\xff"}', '{"a": "\N{REPLACEMENT CHARACTER}"}'),
        (b'{"a"', '{"a"'),
        (b"\x00", "\x00"),
    ],
)
def test_any_body_is_put_on_one_line_of_json(content: bytes, body: Any) -> None:
    assert read(as_json(content) + b"\n") == body
    assert read(answer_row(1, b"null", response(content, batch_id="")))["response"]["body"] == body


@given(st.binary(max_size=30) | st.text('{}[]":,\\u0 \n\r1aé').map(lambda text: text.encode()))
def test_whatever_the_body_it_is_a_line_of_json(content: bytes) -> None:
    body = read(as_json(content) + b"\n")
    try:
        assert body == json.loads(content, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        assert body == content.decode(errors="replace")


def test_a_reply_that_is_an_error_is_the_row_as_in_an_error_file() -> None:
    body = b'{"error": {"message": "No.", "code": "invalid"}}'
    error = RequestRejected("No.", status_code=400, code="invalid", request_id="req_7", body=body)
    assert read(error_row(2 << 32 | 1, b'"x"', error)) == {
        "id": "row_2_00000001",
        "custom_id": "x",
        "response": {"status_code": 400, "request_id": "req_7", "body": json.loads(body)},
        "error": None,
    }
    assert parse_row(error_row(2 << 32 | 1, b'"x"', error)).code == "invalid"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestExpired("Late.", code="batch_expired"), "batch_expired"),
        (RequestExpired("Late."), "timeout"),
        (RequestCancelled("Off."), "batch_cancelled"),
        (ResultMissing("Gone."), "result_missing"),
        (RequestRejected("No.", status_code=400, code="missing_required_parameter"), "missing_required_parameter"),
        (RequestFailed("Odd.", status_code=500), "request_failed"),
        (LimitExceeded("Too large."), "limit_exceeded"),
        (Unbatchable("stream"), "invalid_request"),
    ],
)
def test_a_failure_without_a_reply_has_a_code_and_a_message(error: CarpoolError, code: str) -> None:
    row = read(error_row(1, b"null", error))
    assert row["response"] is None
    assert row["error"] == {"code": code, "message": getattr(error, "message", None) or str(error)}
    assert code_of(error) == code


def test_a_reply_that_looks_well_and_is_none_says_why() -> None:
    error = RequestFailed("Half of it.", status_code=200, code="error", body=b"{}")
    row = read(error_row(1, b"null", error))
    assert row["response"]["status_code"] == 200
    assert row["error"] == {"code": "error", "message": "Half of it."}


def test_texts_of_others_cannot_break_a_row() -> None:
    assert read(bad_row(1, b'"a"', 'x"\n\ud800'))["error"]["message"] == 'x"\n\ud800'
    assert read(answer_row(1, b"null", response(b"{}", request_id='"\n')))["response"]["request_id"] == '"\n'


def test_a_text_alone_is_a_json_string() -> None:
    body = {"choices": [{"message": {"content": 'two\nlines \N{LINE SEPARATOR} "é"'}}]}
    assert read(text_line(response(json.dumps(body).encode()))) == 'two\nlines \N{LINE SEPARATOR} "é"'
    assert read(text_line(response(b'{"data": []}'))) == ""
    assert read(text_line(response(b'{"choices": [{"text": "\\ud83d"}]}'))) == "\ud83d"


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceeded("x"),
        AuthenticationFailed("x"),
        JournalError("x"),
        PoolClosed("x"),
        ConfigurationError("x"),
        CarpoolError("it broke down"),
        RequestRejected("x", code="canary_refused"),
        RequestFailed("x", code="not_submitted"),
        ResultMissing("x", code="out_of_reach"),
    ],
)
def test_what_others_fail_by_too_is_no_row(error: CarpoolError) -> None:
    assert is_of_all(error)


@pytest.mark.parametrize(
    "error",
    [
        RequestRejected("x", code="invalid"),
        RequestExpired("x"),
        ResultMissing("x"),
        LimitExceeded("x"),
        Unbatchable("x"),
    ],
)
def test_what_one_row_fails_by_is_a_row(error: CarpoolError) -> None:
    assert not is_of_all(error)


def test_others_may_be_answered_where_the_budget_is_spent_or_a_batch_is_out_of_reach() -> None:
    assert concerns_some(BudgetExceeded("x"))
    assert concerns_some(ResultMissing("x", code="out_of_reach"))
    assert not concerns_some(RequestFailed("x", code="not_submitted"))
    assert not concerns_some(AuthenticationFailed("x"))


def test_an_answer_that_is_no_json_is_a_text_of_its_own() -> None:
    assert json.loads(text_line(Response("", "", "", 200, b"<html>"))) == "<html>"
