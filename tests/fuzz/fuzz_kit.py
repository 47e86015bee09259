"""What fuzzing is made of: JSON that nobody expects, bytes that are none, and replies that look like the provider's."""

import gzip
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings

T = TypeVar("T")
P = ParamSpec("P")
Json: TypeAlias = Any

LONG = int(os.environ.get("CARPOOL_FUZZ", "0"))  # examples of each test in the long form; 0 is the short one

inputs = Counter[str]()  # by test: what it was given


def fuzzed(short: int, share: float = 1.0) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Give a test so many examples, always the same, or in the long form `share` of those asked for; count them."""
    setting = settings(
        max_examples=max(1, int(LONG * share)) if LONG else short,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Callable[P, None]) -> Callable[P, None]:
        @wraps(test)
        def counted(*args: P.args, **more: P.kwargs) -> None:
            inputs[test.__name__] += 1
            test(*args, **more)

        return setting(counted)

    return decorate


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs there were, where this module is a plugin, as `make fuzz` has it."""
    terminalreporter.write_sep("=", "inputs fuzzed")
    for name, count in sorted(inputs.items()):
        terminalreporter.write_line(f"{count:>10,}  {name}")
    terminalreporter.write_line(f"{inputs.total():>10,}  in all")


# --- scalars

TEXTS = [
    "",
    "\x00",
    "\u2028\u2029\x85",
    "\ud800",
    "\udfff\ud800",
    "\U0001f600",
    "../../etc/passwd",
    "/",
    "..",
    "null",
    "completed",
    "batch_expired",
    "token_limit_exceeded",
    "billing_hard_limit_reached",
    "Enqueued token limit reached for gpt-5-mini in organization x. Limit: 9,999,999,999,999,999,999 enqueued tokens.",
    "limit of 0K tokens",
    "Limit: " + "9" * 400,
    "x" * 5_000,
    "%s %d {} {0}",
    "\r\nSet-Cookie: a=b",
    "\x1b[31mred",
]
NUMBERS = [0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, 2**64 + 1, 10**400, -(10**400), 0.5, -0.0, 1e308, 1e-308, 1.5e300]

texts = st.sampled_from(TEXTS) | st.text(max_size=20)
numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
names = st.sampled_from(["id", "data", "error", "code", "message", "usage", "custom_id", "response", "body"]) | texts
values: st.SearchStrategy[Json] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)


# --- bytes


def with_peak(func: Callable[[], T]) -> tuple[T, int]:
    """Call a function; gives its result, and the bytes that were held together meanwhile."""
    tracemalloc.start()
    try:
        result = func()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def written(value: Json, *, ascii_: bool = True) -> bytes:
    """Write JSON as a lax server would: NaN, infinities and halves of surrogate pairs included."""
    return json.dumps(value, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    """Nest so deep, well formed."""
    return opening * depth + b"1" + closing * depth


RAW = [
    b"",
    b"\n",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 5_000,
    b"-1e999999",
    b'{"id":' + b"9" * 5_000 + b"}",
    b'{"id":"a","id":"b"}',
    b'data: {"id":"x"}\n\ndata: [DONE]\n\n',
    b"event: error\ndata: {}\n\n",
    b": keep-alive\n\n",
    b"<html><head><title>502 Bad Gateway</title></head></html>",
    b"HTTP/1.1 200 OK\r\n\r\n{}",
    gzip.compress(b"0" * 1_000_000),
    b'"\\ud800"',
    b'"\xed\xa0\x80"',
    '{"id":"\u2028","status":"\u0085"}'.encode(),
    b"\x00" * 64,
]
deep = st.builds(
    lambda depth, pair, head, tail: head + nested(depth, *pair) + tail,
    st.integers(1, 3_000) | st.integers(300, 1_050),
    st.sampled_from([(b"[", b"]"), (b'{"error":', b"}"), (b'{"a":', b"}"), (b'[{"":', b"}]")]),
    st.sampled_from([b"", b'{"id":"x","error":', b'{"custom_id":"p-1","response":{"status_code":200,"body":']),
    st.sampled_from([b"", b"}", b"}}"]),
)
_spoils: st.SearchStrategy[Callable[[bytes], bytes]] = st.sampled_from(
    [
        lambda content: content,
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + content,
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: b"data: " + content + b"\n\n",
        lambda content: content.replace(b":", b": \n"),
        lambda content: content.replace(b'"', b"'"),
        gzip.compress,
        lambda content: content.decode("utf-8", "replace").encode("utf-16"),
    ]
)


def bytes_of(shaped: st.SearchStrategy[Json]) -> st.SearchStrategy[bytes]:
    """Write values of a shape, mostly well, sometimes spoiled, sometimes something else altogether."""
    well = st.builds(lambda value, plain: written(value, ascii_=plain < 3), shaped, st.integers(0, 3))
    spoiled = st.builds(lambda content, spoil: spoil(content), well, _spoils)
    other = st.one_of(st.sampled_from(RAW), deep, st.binary(max_size=60))
    return st.integers(0, 9).flatmap(lambda roll: well if roll < 7 else spoiled if roll < 9 else other)


# --- what looks like the provider's


_MISSING = object()


@st.composite
def _mostly(draw: st.DrawFn, field: st.SearchStrategy[Json]) -> Json:
    """Make a field as it should be, mostly: too much that is wrong hides what comes after the first of it."""
    roll = draw(st.integers(0, 15))
    return draw(field) if roll < 14 else _MISSING if roll == 14 else draw(values)


def shape(**fields: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Make objects with these fields, each of them missing at times, or something else."""
    return st.fixed_dictionaries({name: _mostly(field) for name, field in fields.items()}).map(
        lambda made: {name: value for name, value in made.items() if value is not _MISSING}
    )


ids = st.sampled_from(["batch-1", "file-1", "x/y", "..", "../files", "?a=b", "#", "%2e%2e", "\u2028"])
statuses = st.sampled_from(
    ["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "CANCELED", "odd"]
)
stamps = st.sampled_from([None, 0, 1, 1.7e9, 2**40, 10**400])
errors = shape(code=texts, message=texts, type=texts, param=texts, line=st.integers(0, 3)) | texts
batches = shape(
    id=ids,
    object=st.just("batch"),
    status=statuses,
    input_file_id=ids,
    output_file_id=ids,
    error_file_id=ids,
    created_at=stamps,
    completed_at=stamps,
    expires_at=stamps,
    model=texts,
    endpoint=texts,
    errors=shape(object=st.just("list"), data=st.lists(errors, max_size=3)),
    request_counts=shape(total=numbers, completed=numbers, failed=numbers),
    usage=shape(input_tokens=numbers, output_tokens=numbers, input_tokens_details=shape(cached_tokens=numbers)),
    metadata=shape(carpool=st.sampled_from(["pool-b1", "pool-b2", "other"]), carpool_tokens=texts),
)
files = shape(id=ids, filename=texts, bytes=numbers, created_at=stamps, purpose=st.just("batch"))
listings = shape(data=st.lists(batches | files, max_size=3), has_more=st.booleans(), first_id=ids, last_id=ids)
usages = shape(
    prompt_tokens=numbers,
    completion_tokens=numbers,
    input_tokens=numbers,
    output_tokens=numbers,
    prompt_tokens_details=shape(cached_tokens=numbers),
    input_tokens_details=shape(cached_tokens=numbers),
)
parts = shape(
    type=st.sampled_from(["message", "output_text", "refusal"]), text=texts, refusal=texts, content=values, role=texts
)
choices = shape(
    message=shape(content=texts | values, refusal=texts, role=texts),
    text=texts,
    finish_reason=st.sampled_from(["stop", "length", "content_filter"]),
)
vectors = shape(
    index=numbers, embedding=st.lists(st.floats() | values, max_size=3) | st.sampled_from(["AACAPw==", "?"])
)
answers = shape(
    choices=st.lists(choices, max_size=2),
    output=st.lists(parts, max_size=2),
    data=st.lists(vectors, max_size=2),
    usage=usages,
    status=texts,
    incomplete_details=shape(reason=texts),
    error=errors,
)
row_ids = st.sampled_from(["pool-1", "pool-2", "pool--1", "pool-" + "9" * 5_000, "pool-1 ", "other-1"])
row_replies = shape(
    status_code=st.sampled_from([200, 200, 200.0, "200", 204, 400, 429, 500, 0, -1, 10**400, True]),
    request_id=texts,
    body=answers | texts,
)
rows = shape(custom_id=row_ids, response=row_replies, error=st.none()) | shape(custom_id=row_ids, error=errors)
reply_bodies = bytes_of(st.one_of(batches, listings, files, errors, shape(error=errors), values))
codes = st.sampled_from(
    [0, 200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 408, 409, 413, 418, 429, 500, 503, 599, 999]
)
