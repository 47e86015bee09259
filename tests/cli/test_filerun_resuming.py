"""What OUTPUT holds is read from it alone, whatever a crash has left at its end."""

import io
import json
import re
from array import array
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.cli.filerun.endings import Refused
from carpool.cli.filerun.formats import NO_TEXT, answer_row, bad_row, text_line
from carpool.cli.filerun.resuming import Begun, scan_rows, scan_texts
from carpool.cli.filerun.rows import ASKED, CRC, MADE_UP, Bad, Row
from carpool.models import Response


def crc_of(number: int) -> int:
    return number * 2_654_435_761 % 2**32


def line_of(number: int, content: bytes = b'{"choices": [{"text": "\\ud83d \xe2\x80\xa8"}]}') -> bytes:
    if number % 5 == 0:
        return bad_row(number << 32 | crc_of(number), b"null", "INPUT:1: no")
    return answer_row(number << 32 | crc_of(number), b'"a"', Response("", "b", "r", 200, content))


def scanned(content: bytes, *, ours: bool = False) -> Begun:
    return scan_rows(io.BytesIO(content), ours=ours)


def row(number: int, crc: int | None = None) -> Row:
    return Row(number << 32 | (crc_of(number) if crc is None else crc), number + 1, b"null", "/v1/responses", b"{}")


def held(begun: Begun) -> set[int]:
    return {number for number in range(1, begun.furthest + 1) if begun.holds(number)}


def test_an_empty_output_holds_nothing() -> None:
    begun = scanned(b"")
    assert (begun.rows, begun.size, begun.furthest, begun.ended, begun.ordered) == (0, 0, 0, True, True)
    assert begun.without([row(1)]) == [row(1)]


def test_whole_rows_are_held_and_the_failed_are_counted() -> None:
    content = b"".join(map(line_of, range(1, 11)))
    begun = scanned(content)
    assert (begun.rows, begun.failed, begun.size, begun.ordered) == (10, 2, len(content), True)
    assert begun.without([*map(row, range(1, 13))]) == [row(11), row(12)]


@given(st.integers(1, 6), st.data())
def test_wherever_a_write_was_torn_the_rows_before_it_are_held(count: int, data: st.DataObject) -> None:
    lines = [*map(line_of, range(1, count + 1))]
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    rest = data.draw(st.sampled_from([b"", b"\0" * 50, b"\0" * 50 + line_of(99), b"\0" * 9 + b"\n" + line_of(99)]))
    ends = [sum(map(len, lines[:n])) for n in range(count + 1)]
    whole = max(n for n, end in enumerate(ends) if end <= cut)
    begun = scanned(content[:cut] + rest, ours=True)
    if not rest and cut + 1 in ends:  # all but the line break
        assert (begun.rows, begun.size, begun.ended) == (whole + 1, cut, False)
    else:
        assert (begun.rows, begun.size, begun.ended) == (whole, ends[whole], True)


@pytest.mark.parametrize(("mark", "other"), [(ASKED, MADE_UP), (MADE_UP, ASKED)])
def test_answers_that_are_made_up_are_no_others(mark: bytes, other: bytes) -> None:
    line = answer_row(1 << 32, b"null", Response("", "b", "r", 200, b"{}"), mark)
    assert scan_rows(io.BytesIO(line + line[:20]), mark=mark, ours=False).size == len(line)
    with pytest.raises(Refused, match="--mode emulate"):
        scan_rows(io.BytesIO(line), mark=other, ours=True)


def test_rows_in_any_order_are_a_set() -> None:
    order = [3, 1, 7, 2, 2_000]
    begun = scanned(b"".join(map(line_of, order)))
    assert held(begun) == set(order)
    assert not begun.ordered
    assert [one.number for one in begun.without([*map(row, range(1, 9))])] == [4, 5, 6, 8]


@pytest.mark.parametrize("changed", [row(2, crc=1), Bad(2 << 32 | 1, 3, b"null", "no")])
def test_a_row_that_is_another_than_the_one_held_is_refused_by_name(changed: Row | Bad) -> None:
    begun = scanned(b"".join(map(line_of, [1, 2, 3])))
    with pytest.raises(Refused, match=re.escape("row 2 (line 3)")):
        begun.without([row(1), changed])


def test_an_input_that_ends_before_what_is_held_is_refused() -> None:
    begun = scanned(b"".join(map(line_of, [1, 2, 3])))
    begun.check_end(3)
    with pytest.raises(Refused, match="2 rows"):
        begun.check_end(2)


@pytest.mark.parametrize(
    "content",
    [
        b"anything\n",
        b"anything",
        b'{"id":"batch_req_1","custom_id":"a","response":null,"error":null}\n',
        b'{"id":"row_1_x","response":null,"error":null}\n',
        b'{"id":"row_0_00000000","response":null,"error":null}\n',
        b"[]\n",
        b'"a text"\n',
        b"null\n",
        b'{"id": 1}\n',
        line_of(1) + b"a note\n" + line_of(2),
        line_of(1) + b"\n" + line_of(2),
        line_of(1) + b'{"id":"row_2_0000\n' + line_of(3),
        line_of(1) + b"\n",
        b"\n" + line_of(1),
        b'{\n  "name": 1\n}\n',
        b"{\n",
        line_of(1) + line_of(1),
        line_of(1) + line_of(900_000_000),
        b"PK\x03\x04 a spreadsheet",
    ],
)
@pytest.mark.parametrize("ours", [False, True])
def test_what_others_wrote_is_refused(content: bytes, ours: bool) -> None:
    with pytest.raises(Refused, match="OUTPUT"):
        scanned(content, ours=ours)


@pytest.mark.parametrize("content", [b"{", b'{"id":"r', b"\0" * 50, b"\0\0\0\x18ftypmp42\n", b"{\0\0\n"])
def test_what_many_a_file_begins_with_is_ours_where_something_else_says_so(content: bytes) -> None:
    assert scanned(content, ours=True).size == 0
    with pytest.raises(Refused, match="OUTPUT"):
        scanned(content)


@pytest.mark.parametrize("rest", [b'{"id":"row_1_0000', b'{"id":"row_1_00\0\0\n'])
def test_a_first_row_that_is_torn_says_itself_whose_it_is(rest: bytes) -> None:
    assert scanned(rest).size == 0


# --- what was seen, and is not held


def begun_with(*seen_rows: Row | Bad, rows: int = 0) -> Begun:
    known = array("I", [one.sign for one in seen_rows])
    return scan_rows(io.BytesIO(b"".join(map(line_of, range(1, rows + 1)))), known, ours=True)


def test_a_row_that_was_sent_is_to_be_the_same_though_it_is_not_answered() -> None:
    begun = begun_with(row(1), row(2), row(3), rows=1)
    assert begun.without([row(1), row(2)]) == [row(2)]
    assert begun.without([row(3), row(4)]) == [row(3), row(4)]
    for changed in (row(2, crc=4), Bad(2 << 32 | crc_of(2), 3, b"null", "no")):
        with pytest.raises(Refused, match=re.escape("row 2 (line 3)")):
            begun.without([row(1), changed])
    with pytest.raises(Refused, match="2 rows"):
        begun.check_end(2)
    begun.check_end(3)


def test_a_line_that_was_bad_may_be_mended_until_output_tells_it() -> None:
    bad = Bad(5 << 32 | crc_of(5), 6, b"null", "no")
    rows: list[Row | Bad] = [*map(row, range(1, 5)), bad]
    assert begun_with(*rows).without([row(5)]) == [row(5)]
    with pytest.raises(Refused, match="row 5"):
        begun_with(*rows, rows=5).without([row(5, crc=8)])
    assert begun_with(*rows, rows=5).without([bad]) == []


@given(st.integers(0, CRC), st.integers(0, CRC))
def test_signs_tell_requests_from_what_is_none(one: int, other: int) -> None:
    sign, bad = row(1, one).sign, Bad(1 << 32 | other, 1, b"null", "no").sign
    assert 0 < sign <= CRC
    assert 0 < bad <= CRC
    assert sign != bad
    assert (row(1, other).sign == sign) is (one >> 1 == other >> 1 or {one >> 1, other >> 1} == {0, 1})


# --- texts


def texts(count: int) -> list[bytes]:
    lines = [
        text_line(Response("", "b", "r", 200, json.dumps({"choices": [{"text": f"{n}\n"}]}).encode()))
        for n in range(count)
    ]
    return [NO_TEXT if n % 3 == 2 else line for n, line in enumerate(lines)]


def seen(numbers: Iterable[int]) -> "array[int]":
    return array("I", [row(number).sign for number in numbers])


def test_texts_are_counted_and_known_by_the_rows_that_were_seen() -> None:
    begun = scan_texts(io.BytesIO(b"".join(texts(5))), seen(range(1, 9)))
    assert (begun.rows, begun.failed, begun.ordered) == (5, 1, True)
    assert begun.without([*map(row, range(1, 8))]) == [row(6), row(7)]
    with pytest.raises(Refused, match="row 4"):
        begun.without([row(4, crc=1)])


@given(st.integers(1, 6), st.data())
def test_wherever_a_write_of_texts_was_torn_those_before_it_are_held(count: int, data: st.DataObject) -> None:
    lines = texts(count)
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    known = data.draw(st.integers(1, count + 1))
    ends = [sum(map(len, lines[:n])) for n in range(count + 1)]
    whole = max(n for n, end in enumerate(ends) if end <= cut or end - 1 == cut)
    begun = scan_texts(io.BytesIO(content[:cut]), seen(range(1, known + 1)))
    assert begun.rows == min(whole, known)
    assert begun.size == min(cut, ends[begun.rows])


@pytest.mark.parametrize("content", [b'"a"\n', b'{"id": 1}\n', b"text\n"])
def test_an_output_of_texts_that_nothing_is_known_of_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="--text"):
        scan_texts(io.BytesIO(content), None)


@pytest.mark.parametrize(
    "content", [line_of(1), b"text\n", b"{", b'"a"\n{}\n', b'"a\n', b"\n", b'"a"\n\n"b"\n', b"PK\x03\x04\0", b"no"]
)
def test_lines_that_are_no_texts_are_refused(content: bytes) -> None:
    for known in (seen(range(1, 9)), array("I")):
        with pytest.raises(Refused, match="--text"):
            scan_texts(io.BytesIO(content), known)


def test_texts_of_rows_that_were_not_seen_are_none_that_are_held() -> None:
    begun = scan_texts(io.BytesIO(b"".join(texts(5))), seen(range(1, 4)))
    assert (begun.rows, begun.size) == (3, len(b"".join(texts(3))))
    assert scan_texts(io.BytesIO(b"".join(texts(5))), array("I")).size == 0
