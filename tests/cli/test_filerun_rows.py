"""Lines of INPUT become rows, or say what is wrong with them."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.cli.filerun.endings import Refused
from carpool.cli.filerun.rows import Bad, Parser, Row, Rows
from carpool.providers.jsonl import Lines

# Since Python 3.14 the C stack bounds how deep JSON is read: 200,000 levels may be (seen with 3.14.10).
DEEP = 1_000_000
CHAT = "/v1/chat/completions"
BODY = b'{"model": "m", "messages": []}'


def parsed(*lines: bytes, endpoint: str | None = None) -> Rows:
    return Parser(endpoint).feed(list(lines))


def row(**fields: Any) -> bytes:
    given = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}, **fields}
    return json.dumps({name: value for name, value in given.items() if value is not ...}).encode()


def test_a_row_keeps_its_custom_id_and_its_body_as_they_are_written() -> None:
    line = b'{"custom_id": "x\\u00e9", "method": "POST", "url": "/v1/chat/completions", "body": ' + BODY + b"}"
    (one,) = parsed(line)
    assert isinstance(one, Row)
    assert (one.number, one.line, one.name, one.url, one.body) == (1, 1, b'"x\\u00e9"', CHAT, BODY)
    assert one.crc == zlib.crc32(BODY, zlib.crc32(CHAT.encode()))
    assert one.key == 2**32 + one.crc < 2**63


def test_blank_lines_are_no_rows_and_count_as_lines() -> None:
    first, second = parsed(b"", row(), b" \t\r", row(), b"")
    assert [(one.number, one.line) for one in (first, second)] == [(1, 2), (2, 4)]


def test_numbers_go_on_with_the_next_lines() -> None:
    parser = Parser()
    parser.feed([row(), b""])
    assert [(one.number, one.line) for one in parser.feed([row()])] == [(2, 3)]


@pytest.mark.parametrize(
    "line",
    [
        row() + b"\r",
        b"\xef\xbb\xbf" + row(),
        b"  " + row() + b"  ",
        row(method=...),
        row(method=None),
        row(extra={"url": 1}),
        row(custom_id="\N{LINE SEPARATOR}"),
        b'{"custom_id":"\xe2\x80\xa8","method":"POST","url":"/v1/chat/completions","body":{"a":"\xe2\x80\xa8"}}',
    ],
)
def test_what_is_tolerated(line: bytes) -> None:
    (one,) = parsed(line)
    assert isinstance(one, Row)
    assert one.url == CHAT


@pytest.mark.parametrize("line", [row(url="/v1/embeddings"), row(url=...), row(url=None)])
def test_the_url_of_a_row_goes_before_the_endpoint(line: bytes) -> None:
    (one,) = parsed(line, endpoint="/v1/responses")
    assert isinstance(one, Row)
    assert one.url == ("/v1/embeddings" if b"embeddings" in line else "/v1/responses")


def test_bare_bodies_are_for_the_endpoint_and_have_no_custom_id() -> None:
    (one,) = parsed(b" " + BODY + b"\r", endpoint=CHAT)
    assert isinstance(one, Row)
    assert (one.url, one.body, one.name) == (CHAT, BODY, b"null")


@pytest.mark.parametrize("name", [b"17", b'"a b"', b"null", b'{"of": [1, null]}', b"1.50"])
def test_a_custom_id_of_any_kind_comes_back_as_it_is(name: bytes) -> None:
    (one,) = parsed(b'{"custom_id":' + name + b',"method":"POST","url":"/v1/responses","body":{}}')
    assert isinstance(one, Row)
    assert one.name == name


@pytest.mark.parametrize(
    ("line", "name", "why"),
    [
        (b"nonsense", b"null", "JSON"),
        (b'{"custom_id": "a", "body": {', b"null", "JSON"),
        (b"[1]", b"null", "object"),
        (b'"text"', b"null", "object"),
        (row(body=...), b'"a"', "no body"),
        (row(body=None), b'"a"', "no JSON object"),
        (row(body=[]), b'"a"', "no JSON object"),
        (row(body="{}"), b'"a"', "no JSON object"),
        (row(url=...), b'"a"', "url"),
        (row(url=""), b'"a"', "url"),
        (row(url="/v1/nothing"), b'"a"', "/v1/nothing"),
        (row(url=5), b'"a"', "url"),
        (row(method="GET"), b'"a"', "GET"),
        (row(method="post"), b'"a"', "post"),
        (b'{"custom_id": "\xff", "url": "/v1/responses", "body": {}}', b"null", "UTF-8"),
        (b'{"custom_id": "a", "body": ' + b"[" * DEEP + b"]" * DEEP + b"}", b"null", "deep"),
        (b"\x00" * 10, b"null", "JSON"),
    ],
)
def test_what_is_no_request_is_named_as_far_as_it_can_be(line: bytes, name: bytes, why: str) -> None:
    (one,) = parsed(line)
    assert isinstance(one, Bad)
    assert (one.number, one.line, one.name) == (1, 1, name)
    assert why in one.why


def test_bare_bodies_need_an_endpoint() -> None:
    with pytest.raises(Refused, match="--endpoint"):
        parsed(BODY)


def test_a_bare_body_among_rows_is_a_bad_line() -> None:
    one, other = parsed(row(), BODY)
    assert isinstance(one, Row)
    assert isinstance(other, Bad)
    assert "--endpoint" in other.why


def test_a_row_without_a_body_is_no_bare_body() -> None:
    (one,) = parsed(b'{"custom_id": "a", "model": "m"}', endpoint=CHAT)
    assert isinstance(one, Bad)
    assert one.name == b'"a"'


def test_an_unknown_endpoint_is_told_of_each_row() -> None:
    (one,) = parsed(BODY, endpoint="/v1/nothing")
    assert isinstance(one, Bad)


@pytest.mark.parametrize(("one", "other"), [(row(), row() + b"\r"), (b"bad", b" bad \r")])
def test_line_ends_make_no_other_row(one: bytes, other: bytes) -> None:
    assert parsed(one)[0].crc == parsed(other)[0].crc


@pytest.mark.parametrize(
    ("one", "other"), [(row(), row(url="/v1/responses")), (row(), row(body={"model": "n"})), (b"bad", b"worse")]
)
def test_another_url_or_body_makes_another_row(one: bytes, other: bytes) -> None:
    assert parsed(one)[0].crc != parsed(other)[0].crc


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.fixed_dictionaries(
    {"body": st.dictionaries(st.text(max_size=3), JSON, max_size=3)},
    optional={"custom_id": JSON, "method": st.sampled_from(["POST", "GET"]), "url": st.sampled_from([CHAT, "/x"])},
)


@given(st.lists(ROWS, max_size=6), st.booleans(), st.data())
def test_rows_are_the_same_wherever_chunks_are_cut(
    rows: list[dict[str, Any]], ascii_: bool, data: st.DataObject
) -> None:
    text = "".join(
        json.dumps(one, ensure_ascii=ascii_) + data.draw(st.sampled_from(["\n", "\r\n", "\n\n"])) for one in rows
    )
    content = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    lines, parser, found = Lines(), Parser(), Rows()
    for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
        found += parser.feed(lines.feed(content[start:stop]))
    found += parser.feed(lines.close())
    assert found == Parser().feed(content.split(b"\n"))
    assert len(found) == len(rows)
    for one, asked in zip(found, rows, strict=True):
        good = asked.get("url") == CHAT and asked.get("method") != "GET"
        assert isinstance(one, Row) is good
        assert json.loads(one.name) == asked.get("custom_id")
        if isinstance(one, Row):
            assert json.loads(one.body) == asked["body"]
