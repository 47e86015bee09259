"""What a request may be asked for with: rows of batch files, bare bodies, requests."""

import json
from collections import UserDict
from typing import Any

import pytest
from virtual import CHAT, body

from carpool import ConfigurationError, Request, Unbatchable
from carpool.bulk import as_request
from carpool.formats import body_of

EMBEDDINGS = "/v1/embeddings"
ROW: dict[str, Any] = {"custom_id": "mine", "method": "POST", "url": EMBEDDINGS, "body": {"model": "m", "input": "x"}}


def test_a_request_is_itself_and_keeps_its_own_endpoint() -> None:
    asked = Request(CHAT, body(), key="k")
    assert as_request(asked) is asked
    assert as_request(asked, EMBEDDINGS) is asked


@pytest.mark.parametrize("endpoint", [None, CHAT])
@pytest.mark.parametrize("form", [dict, UserDict])
def test_a_mapping_with_a_url_and_a_body_is_a_row(form: Any, endpoint: str | None) -> None:
    assert as_request(form(ROW), endpoint) == Request(EMBEDDINGS, ROW["body"])


@pytest.mark.parametrize("asked", [body(), UserDict(body()), {"url": CHAT}, {"body": {}}, {}])
def test_any_other_mapping_is_a_bare_body(asked: Any) -> None:
    assert as_request(asked, CHAT) == Request(CHAT, asked)
    with pytest.raises(ConfigurationError, match="endpoint="):
        as_request(asked)


@pytest.mark.parametrize("form", [str, bytes, "a line"])
def test_a_text_is_a_row_where_no_endpoint_is_given_and_a_body_where_one_is(form: Any) -> None:
    text = json.dumps(ROW)
    asked: Any = {str: text, bytes: text.encode(), "a line": text + "\n"}[form]
    request = as_request(asked)
    assert request.endpoint == EMBEDDINGS
    assert json.loads(bytes(body_of(request))) == ROW["body"]  # type: ignore[arg-type]
    assert as_request(asked, CHAT) == Request(CHAT, asked)


def test_a_body_travels_byte_for_byte() -> None:
    request = as_request('{"url": "/v1/embeddings", "body" : {"n": 1.50, "x":"\u2028"} , "more": [1]}')
    assert request.body == '{"n": 1.50, "x":"\u2028"}'.encode()


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, "url": None},
        {**ROW, "url": 5},
        {**ROW, "body": None},
        {**ROW, "body": b""},
        {**ROW, "method": "GET"},
        {**ROW, "method": 5},
        {**ROW, "method": "post"},
    ],
)
def test_a_row_without_what_it_needs_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(Unbatchable, match="row"):
        as_request(row)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        '"text"',
        b"\xff",
        '{"url": 5, "body": {}}',
        '{"url": "/v1/x"}',
        '{"body": {"model": "m"}}',
        '{"url": null, "body": {"model": "m"}}',
        '{"url": "/v1/x", "method": "PUT", "body": {}}',
        '{"url": "/v1/x", "body": {"cut',
        '{"url": "/v1/x", "body": ' + "[" * 100_000,
    ],
)
def test_a_line_that_is_no_row_is_refused(line: Any) -> None:
    with pytest.raises(Unbatchable, match="row"):
        as_request(line)


def test_a_line_that_is_a_bare_body_asks_for_an_endpoint() -> None:
    with pytest.raises(ConfigurationError, match="endpoint="):
        as_request('{"model": "m", "input": "x"}')


@pytest.mark.parametrize("asked", [None, 5, ["list"], object()])
def test_what_is_nothing_of_the_kind_asks_for_an_endpoint_and_is_refused_with_one_when_it_is_encoded(
    asked: Any,
) -> None:
    with pytest.raises(ConfigurationError):
        as_request(asked)
    assert as_request(asked, CHAT) == Request(CHAT, asked)
