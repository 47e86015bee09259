"""Whatever comes to the emulator and to the webhooks' endpoint is answered, within bounds, and never by a 500."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import httpx2
import hypothesis.strategies as st
import pytest
from fuzz_kit import RAW, bytes_of, fuzzed, names, numbers, shape, texts, values, with_peak
from hypothesis import example, given
from virtual import VirtualLoop
from webhooks_kit import SECRET, signed

from carpool.testing import Emulator
from carpool.testing.multipart import FIELD_BYTES, read_form
from carpool.testing.refusals import Refused
from carpool.testing.store import Store
from carpool.testing.validation import ENDPOINTS, Validation
from carpool.webhooks import MOST, Webhooks

BODY_MOST = 200_000
FILE_MOST = 300_000


def run(func: Callable[[], Any]) -> Any:
    """Run on virtual time."""
    return anyio.run(func, backend_options={"loop_factory": VirtualLoop})


# --- forms

_line = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
_dispositions = st.sampled_from(
    [
        b'form-data; name="file"; filename="x.jsonl"',
        b'form-data; name="file"; filename="../../etc/passwd"',
        b'form-data; name="purpose"',
        b'form-data; name="expires_after[anchor]"',
        b'form-data; name="expires_after[seconds]"',
        b"form-data; name*=utf-8''%ff; filename*0=a",
        b'form-data; name="fi\xff\x00le"; filename="\xff"',
        b'attachment; filename="x',
        b"",
    ]
)
_contents = st.sampled_from(
    [b"batch", b"created_at", b"3600", b"9" * 5_000, "٣٦٠٠".encode(), b"-1", b"{}\n", b"x" * FIELD_BYTES, *RAW]
) | st.binary(max_size=30)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes]:
    """Write a form, more or less; gives its content type too."""
    boundary = draw(st.sampled_from([b"b", b"b", b"b", b"-" * 70, b"b" * 400, b"\xe4", b"a b", b""]))
    line = draw(_line)
    parts = draw(st.lists(st.tuples(_dispositions, _contents), max_size=6))
    written = b"".join(
        b"--%b%bContent-Disposition: %b%b%b%b%b" % (boundary, line, disposition, line, line, content, line)
        for disposition, content in parts
    )
    ending = draw(st.sampled_from([b"--" + boundary + b"--" + line, b"", b"--" + boundary]))
    kind = draw(
        st.sampled_from(
            [
                "multipart/form-data; boundary=%s",
                "multipart/form-data; boundary=%s",
                'multipart/form-data; boundary="%s"',
                "multipart/form-data; boundary*0=%s; boundary*1*=x",
                "multipart/mixed; boundary=%s",
                "multipart/form-data",
                "application/json",
                "",
                ";;;=",
            ]
        )
    )
    return (kind % boundary.decode("latin-1") if "%s" in kind else kind), written + ending


_proper = shape(
    purpose=st.just("batch"),
    anchor=st.just("created_at"),
    seconds=st.sampled_from(["3600", "9" * 5_000, "٣٦٠٠", "-1", "1e3", "²", ""]),
)


async def _pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@given(forms(), st.integers(1, 5_000))
@fuzzed(40)
def test_any_form_is_read_or_refused(form: tuple[str, bytes], size: int) -> None:
    kind, content = form
    store, statuses = Store(), list[int]()

    async def read() -> None:
        kept = store.create()
        try:
            came = await read_form(kind, _pieces(content, size), kept, FILE_MOST)
        except Refused as exc:
            statuses.append(exc.status)
        else:
            assert kept.size <= FILE_MOST
            assert all(len(field) <= FIELD_BYTES for field in came.fields.values())

    run(read)
    assert set(statuses) <= {400, 413}
    store.close()


# --- requests

_paths = st.one_of(
    st.sampled_from(["/v1/files", "/v1/batches", "/v1/models", *ENDPOINTS]),
    st.builds(
        "/v1/{}/{}{}".format,
        st.sampled_from(["files", "batches"]),
        st.sampled_from(["file-1", "batch_1", "..", "%2e%2e", "%ff", "%00", "a%2Fb", "x" * 3_000]),
        st.sampled_from(["", "/content", "/cancel", "/"]),
    ),
    st.sampled_from(["/", "/v1", "//", "/v2/files", "/v1/../v1/files"]),
)
_queries = st.dictionaries(
    st.sampled_from(["limit", "after", "order", "purpose"]),
    st.sampled_from(["", "0", "-1", "9" * 5_000, "٣", "1e3", "asc", "batch", "\x00", "\U0001f600"]),
    max_size=3,
)
_creations = shape(
    input_file_id=texts,
    endpoint=st.sampled_from(sorted(ENDPOINTS)),
    completion_window=st.just("24h"),
    metadata=st.dictionaries(texts, texts, max_size=3),
    output_expires_after=shape(anchor=st.just("created_at"), seconds=numbers),
)
_bodies = shape(
    model=st.just("gpt-5-mini") | values,
    messages=st.lists(shape(role=texts, content=texts | values), max_size=3),
    input=texts | values,
    prompt=texts | values,
    stream=st.booleans() | values,
    dimensions=numbers,
    n=numbers,
    encoding_format=st.just("base64"),
)


async def _request(
    app: Any, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> Any:
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://emulator") as client:
        return await client.request(
            method,
            path,
            params=query or None,
            headers=[(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            content=body,
        )


async def _asked(requests: Sequence[tuple[str, str, dict[str, str], dict[str, str], bytes]]) -> list[Any]:
    emulator = Emulator(max_file_bytes=FILE_MOST, max_body_bytes=BODY_MOST)
    async with emulator.inline() as served:
        return [await _request(served.app, *request) for request in requests]


_kinds = st.sampled_from(["application/json", "", "text/plain; charset=utf-16", "multipart/form-data; boundary=b"])


@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "ODD"]),
    _paths,
    _queries,
    _kinds,
    bytes_of(st.one_of(_creations, _bodies, values)),
)
@fuzzed(30)
def test_any_request_is_answered(method: str, path: str, query: dict[str, str], kind: str, body: bytes) -> None:
    (reply,) = run(partial(_asked, [(method, path, query, {"content-type": kind}, body)]))
    assert reply.status_code < 500, reply.text
    assert len(reply.content) < 10 * (BODY_MOST + len(body))
    if method != "HEAD" and reply.status_code != 307:  # from one path to another
        assert isinstance(json.loads(reply.content), dict)


@given(st.sampled_from(sorted(ENDPOINTS)), bytes_of(_bodies))
@fuzzed(30)
def test_any_live_call_is_answered(path: str, body: bytes) -> None:
    (reply,) = run(partial(_asked, [("POST", path, {}, {"content-type": "application/json"}, body)]))
    assert reply.status_code < 500, reply.text
    assert len(reply.content) < 1_000_000 + 10 * len(body)


@given(st.lists(st.sampled_from([b'"purpose"\r\n\r\nbatch', b'"x"']) | st.binary(max_size=5), max_size=2), _proper)
@fuzzed(15)
def test_any_upload_with_proper_fields_is_answered(more: list[bytes], fields: dict[str, Any]) -> None:
    named = {
        "purpose": fields.get("purpose"),
        "expires_after[anchor]": fields.get("anchor"),
        "expires_after[seconds]": fields.get("seconds"),
    }
    texts_ = [(name, value) for name, value in named.items() if isinstance(value, str)]
    head = b"--b\r\nContent-Disposition: form-data; name="
    parts = [b'%b"%b"\r\n\r\n%b\r\n' % (head, n.encode(), v.encode("utf-8", "replace")) for n, v in texts_]
    parts += [head + part + b"\r\n" for part in more]
    parts.append(head + b'"file"; filename="x.jsonl"\r\n\r\n{}\r\n--b--\r\n')
    headers = {"content-type": "multipart/form-data; boundary=b"}
    (reply,) = run(partial(_asked, [("POST", "/v1/files", {}, headers, b"".join(parts))]))
    assert reply.status_code in (200, 400), reply.text


@given(
    st.sampled_from(sorted(ENDPOINTS)),
    st.lists(bytes_of(shape(custom_id=texts, method=st.just("POST"), body=_bodies)), max_size=3),
)
@fuzzed(20)
def test_any_input_file_is_judged(endpoint: str, lines: list[bytes]) -> None:
    validation = Validation(endpoint)
    for line in lines:
        validation.read(line)
    validation.finish()
    assert len(validation.starts) == len(lines)
    assert all(error["code"] and error["message"] for error in validation.errors)


# --- sizes


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        ("/v1/embeddings", {"input": "x", "dimensions": 10**9}),
        ("/v1/embeddings", {"input": ["x"] * 1_000, "dimensions": 10**6}),
        ("/v1/embeddings", {"input": "x", "dimensions": "many"}),
        ("/v1/images/generations", {"prompt": "x", "n": 10**9}),
        ("/v1/images/edits", {"prompt": "x", "n": -1}),
    ],
)
def test_nobody_may_ask_for_too_much(endpoint: str, more: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", **more}).encode()
    (reply,) = run(partial(_asked, [("POST", endpoint, {}, {"content-type": "application/json"}, body)]))
    assert reply.status_code == 400


def _field(number: int) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n%b\r\n' % (number, b"x" * (FIELD_BYTES - 1))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "fields": _field,
    "a header": lambda number: b"--b\r\nX: " if number == 0 else b"x" * 60_000,
    "headers": lambda number: b"--b\r\n" if number == 0 else b"".join(b"X%d: y\r\n" % n for n in range(2_000)),
    "a preamble": lambda number: b"x" * 60_000,
    "empty parts": lambda number: b"--b\r\n\r\n\r\n" * 100,
    "an epilogue": lambda number: b"--b--\r\n" if number == 0 else b"x" * 60_000,
}


@pytest.mark.parametrize("kind", sorted(FLOODS))
def test_a_form_that_floods_is_refused_in_bounded_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is bounded by its own size; what is around it must be, too."""
    monkeypatch.setattr("carpool.testing.multipart.BESIDE_BYTES", 50_000)
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(1_000):
            piece = FLOODS[kind](number)
            sent += len(piece)
            yield piece

    async def read() -> None:
        store = Store()
        with pytest.raises(Refused):
            await read_form("multipart/form-data; boundary=b", flood(), store.create(), FILE_MOST)
        store.close()

    _, peak = with_peak(lambda: run(read))
    assert peak < 5_000_000
    assert sent < 2_000_000


# --- webhooks


@given(
    bytes_of(shape(type=texts, data=shape(id=texts))),
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "Webhook-Id"]) | names,
        st.sampled_from(["", "0", str(int(time.time())), "9" * 5_000, "v1,", "v1,AAAA " * 300, "²"])
        | st.text(max_size=9),
    ),
    st.booleans(),
)
@example(b'{"type":"\xed\xa0\x80"}', {}, True)
@fuzzed(30)
def test_any_delivery_is_taken_or_not(body: bytes, headers: dict[str, str], good: bool) -> None:
    woken: list[str] = []
    endpoint = Webhooks(SECRET, woken.append)
    taken = endpoint.handle(signed(body) if good else headers, body)
    assert taken is (good and len(body) <= MOST)
    assert all(0 < len(id_) <= 256 for id_ in woken)
