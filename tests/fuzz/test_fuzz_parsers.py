"""Whatever a server writes is read as something, or refused by the one exception that its reader names."""

import json
import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from fuzz_kit import (
    answers,
    batches,
    bytes_of,
    codes,
    deep,
    fuzzed,
    reply_bodies,
    rows,
    texts,
    values,
    with_peak,
    written,
)
from hypothesis import given

import carpool
from carpool.models import BatchStatus, Call, CallFailed, Encoded, Flow, Lane, PackedBatch, Reply, Response, Row
from carpool.outcomes import error_of_row, response_of
from carpool.providers import jsonl, overview, replies
from carpool.providers.openai import ENDPOINTS, OpenAI

OPENAI = OpenAI()
BATCH = PackedBatch("pool-b1", Lane("/v1/chat/completions", "gpt-5-mini"), (), 10, again=True, packed_at=1.7e9)
LIVE = Encoded("/v1/chat/completions", "gpt-5-mini", b'{"model":"gpt-5-mini"}', 0)
FLOWS: dict[str, Callable[[], Flow[Any]]] = {
    "upload": lambda: OPENAI.upload(BATCH),
    "uploads": lambda: OPENAI.uploads(BATCH.sought),
    "create": lambda: OPENAI.create(BATCH, "file-1"),
    "find": lambda: OPENAI.find({"pool-b1": "file-1", "pool-b2": ""}, 1.7e9),
    "check one": lambda: OPENAI.check(["batch-1"]),
    "check": lambda: OPENAI.check(["batch-1", "x/y", "batch-3"]),
    "recent": lambda: OPENAI.recent(0.0, 50),
    "details": lambda: overview.details("batch-1"),
    "files": lambda: overview.files("batch", 50),
    "size": lambda: overview.size("file-1"),
    "live": lambda: OPENAI.live(LIVE),
    "flex": lambda: OPENAI.live(LIVE, "flex"),
}


def kept(value: object) -> None:
    """Check that a journal could keep it: all texts are such as UTF-8 has."""
    msgspec.json.encode(value)


def shown(row: Row) -> None:
    """Check that what comes of a row can be shown, kept, and read as far as it can be."""
    kept((row.custom_id, row.request_id, row.code, row.message))
    if row.ok:
        response = response_of(row, "batch-1")
        json.loads(row.body)
        assert OPENAI.usage(row) is None or all(type(tokens) is int for tokens in OPENAI.usage(row) or ())
        assert repr(response)
    else:
        error = error_of_row(row, "batch-1")
        assert isinstance(error, carpool.CarpoolError)
        assert f"{error} {error!r}".encode() is not None


@given(bytes_of(rows) | deep)
@fuzzed(60)
def test_a_line_is_a_row_or_a_value_error(line: bytes) -> None:
    try:
        row = jsonl.parse_row(line, 7)
    except ValueError:
        return
    assert (row.offset, row.size) == (7, len(line))
    assert 0 <= row.status_code < 1_000
    shown(row)
    again = jsonl.parse_row(jsonl.row_line("pool-1", row)[:-1])
    assert again.custom_id == "pool-1"


@given(st.lists(bytes_of(rows), max_size=4))
@fuzzed(10)
def test_the_tokens_of_any_rows_can_be_added_up(lines: list[bytes]) -> None:
    read = []
    for line in lines:
        try:
            read.append(jsonl.parse_row(line))
        except ValueError:
            continue
    usage = OPENAI.total_usage(read)
    assert min(usage) >= 0


@given(st.sampled_from(sorted(FLOWS)), st.lists(st.tuples(codes, reply_bodies), min_size=1, max_size=4))
@fuzzed(60)
def test_a_flow_ends_with_what_it_is_for_or_a_named_failure(name: str, said: list[tuple[int, bytes]]) -> None:
    flow, calls = FLOWS[name](), 0
    call = next(flow)
    try:
        while True:
            assert isinstance(call, Call)
            assert "/../" not in f"{call.path}/"
            status, body = said[calls % len(said)]
            calls += 1
            assert calls < 1_000, "it goes on for ever"
            call = flow.send(Reply(status, body))
    except StopIteration as stop:
        kept(_plain(stop.value))
    except CallFailed as exc:
        kept(exc.failure)


def _plain(value: Any) -> Any:
    """Leave out what msgspec has no names for."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


@given(codes, reply_bodies, st.sampled_from(["/batches", "/batches/x/cancel", "/files/x"]))
@fuzzed(25)
def test_a_refusal_has_a_meaning(status: int, body: bytes, path: str) -> None:
    reply = Reply(status, body)
    failure = OPENAI.refused(reply)
    kept(failure)
    assert failure.message
    assert failure.limit is None or failure.limit >= 0
    assert OPENAI.is_final(Call("POST", path, True), reply) in (True, False)


@given(bytes_of(batches))
@fuzzed(20)
def test_a_batch_object_is_read_whatever_is_in_it(body: bytes) -> None:
    try:
        entry = replies.decode(Reply(200, body))
        replies.id_of(Reply(200, body))
    except CallFailed:
        return
    status = replies.status(Reply(200, body))
    assert isinstance(status, BatchStatus)
    kept((status, replies.listed(entry)))
    kept(_plain(overview.details_of(entry)))
    assert all(call.path.count("/") == 3 for call in OPENAI.collect(status))


def shown_error(error: carpool.CarpoolError) -> None:
    """Check that an error can be shown."""
    assert f"{error} {error!r}"


class Shape(msgspec.Struct):
    """Be what an answer should be."""

    name: str
    number: int


@given(bytes_of(answers))
@fuzzed(25)
def test_an_answer_is_read_or_says_what_is_wrong_with_it(body: bytes) -> None:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return  # no row has such a body
    response = Response("pool-1", "batch-1", "", 200, body)
    for read in (lambda: response.parse(Shape), response.vectors):
        try:
            read()
        except carpool.OutputInvalid as exc:
            shown_error(exc)
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        assert isinstance(response.text, str)
    assert response.usage is None or isinstance(response.usage, tuple)


@given(st.sampled_from([*ENDPOINTS, "/v1/other", ""]), st.one_of(values, bytes_of(values), st.binary(), texts))
@fuzzed(40)
def test_a_body_is_taken_or_refused_by_name(endpoint: str, body: Any) -> None:
    try:
        encoded = OPENAI.encode(endpoint, body)
    except carpool.CarpoolError:
        return
    head, middle, end = OPENAI.frame("pool", endpoint)
    line = head + b"1" + middle + encoded.body + end
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line)["custom_id"] == "pool-1"


@given(texts | st.from_regex(r"limit(?: of|:) ?[0-9,_]{1,30}(\.[0-9]{1,5})? ?[kmbKMB]?( tokens| for x|\.)?"))
@fuzzed(40)
def test_a_stated_limit_is_a_number_or_none(message: str) -> None:
    limit = replies.stated_limit(message)
    assert limit is None or (type(limit) is int and 0 <= limit < math.inf)


def test_what_a_lax_server_writes_is_written_here() -> None:
    assert written({"a": [float("nan"), "\ud800"]}) == b'{"a": [NaN, "\\ud800"]}'
    assert written("\ud800", ascii_=False) == b'"\xed\xa0\x80"'


SIZE = 4_000_000
LONG = "\U0001f600" + SIZE * "x"  # the emoji makes each character four bytes


def row_of(status_code: int, body: object) -> bytes:
    row = {"custom_id": "pool-1", "response": {"status_code": status_code, "body": body}, "error": None}
    return json.dumps(row, ensure_ascii=False).encode()


def listing_of(content: bytes) -> list[dict[str, Any]]:
    return replies.entries(Reply(200, content))[0]


def refusal_of(content: bytes) -> object:
    return replies.refusal(Reply(400, content))


@pytest.mark.parametrize(
    ("content", "read", "times"),
    [
        (row_of(200, {"text": LONG}), jsonl.parse_row, 1),
        (row_of(400, {"error": {"message": LONG}}), jsonl.parse_row, 16),
        (row_of(200, json.dumps({"text": LONG}, ensure_ascii=False)), jsonl.parse_row, 16),
        (json.dumps({"error": {"message": LONG}}, ensure_ascii=False).encode(), refusal_of, 16),
        (row_of(400, {"error": [[]] * (SIZE // 4)}), jsonl.parse_row, 25),
        (json.dumps({"error": [[]] * (SIZE // 4)}).encode(), refusal_of, 25),
        (json.dumps({"data": [{}] * (SIZE // 4)}).encode(), listing_of, 25),
    ],
    ids=["answer", "failed", "text for a body", "refusal", "lists failed", "lists refused", "listing"],
)
def test_what_is_taken_apart_takes_so_many_times_its_size_at_most(
    content: bytes, read: Callable[[bytes], object], times: int
) -> None:
    _, peak = with_peak(lambda: read(content))
    assert peak <= times * len(content) + 100_000
