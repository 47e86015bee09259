"""The Batch API of OpenAI and of those who speak it (contracts, part A)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import structs

from ..errors import LimitExceeded, Unbatchable
from ..models import (
    NO_REPLY,
    BatchProblem,
    BatchStatus,
    Body,
    Call,
    CallFailed,
    Failure,
    FileLimits,
    Flow,
    PackedBatch,
    Reply,
    Row,
    Upload,
)
from . import jsonl

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/edits",
    "/v1/images/generations",
    "/v1/moderations",
    "/v1/responses",
)
_KEY = "carpool"  # the name in a batch's metadata under which the client key stands
_FRAME = 256  # bytes that an input line has around its body, at most
_PAGE = 100  # batches on a page of the listing, the most that may be asked for
_FIND_PAGES = 20  # a lost creation is minutes old: it stands among the newest 2,000


class _Peek(msgspec.Struct, gc=False):
    model: str = ""
    stream: bool | None = None


class _PeekInput(_Peek, gc=False):
    input: Any = None


_quote = partial(quote, safe="")  # ids are the server's words, and no paths
_peek = msgspec.json.Decoder(_Peek)
_peek_input = msgspec.json.Decoder(_PeekInput)


class OpenAI:
    """Speak OpenAI's Batch API."""

    # 190 MB, since nobody says whether the documented 200 MB are decimal (contracts A3).
    limits = FileLimits(requests=50_000, bytes=190_000_000, inputs=50_000, creations_per_hour=2_000)

    def encode(self, endpoint: str, body: Body) -> tuple[str, bytes, int]:
        """Check a body; only `model`, `stream` and the size are looked at, and the inputs of embeddings."""
        if endpoint not in ENDPOINTS:
            raise Unbatchable(f"No batches for the endpoint {endpoint!r}. Use one of {', '.join(ENDPOINTS)}.")
        encoded = jsonl.encode_body(body)
        if len(encoded) + _FRAME > self.limits.bytes:
            raise LimitExceeded(
                f"A body of {len(encoded):,} bytes; a whole file takes {self.limits.bytes:,}. Shorten it."
            )
        try:
            peek = (_peek_input if endpoint == "/v1/embeddings" else _peek).decode(encoded)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise Unbatchable(f"The body cannot be read: {exc}. Send a JSON object with a model.") from exc
        if not peek.model:
            raise Unbatchable("The body has no model. Name one: batches hold one model each.")
        if peek.stream:
            raise Unbatchable("The body asks for stream: true. Batches cannot stream; leave it out.")
        inputs = self._count_inputs(peek.input) if isinstance(peek, _PeekInput) else 0
        return peek.model, jsonl.one_line(encoded), inputs

    def _count_inputs(self, value: Any) -> int:
        # A list of token numbers is one input; a list of texts or of such lists is many (contracts A3).
        inputs = len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1
        if inputs > self.limits.inputs:
            raise LimitExceeded(f"{inputs:,} embedding inputs in one request; a file takes {self.limits.inputs:,}.")
        return inputs

    def frame(self, pool: str, endpoint: str) -> tuple[bytes, bytes, bytes]:
        """Give the constant parts of an input line."""
        return jsonl.frame(pool, endpoint)

    def parse_row(self, line: bytes) -> Row:
        """Read one line of an output or error file."""
        return jsonl.parse_row(line)

    def upload(self, batch: PackedBatch) -> Flow[str]:
        """Upload the input file; when an earlier try had no reply, look for it first."""
        filename = f"{batch.key}.jsonl"
        if batch.again:
            query = {"purpose": "batch", "limit": str(_PAGE), "order": "desc"}
            for found in _files((yield Call("GET", "/files", True, query))):
                if found.get("filename") == filename and found.get("bytes") == batch.size:
                    return str(found["id"])
        upload = Upload(filename, batch.runs, batch.size)
        return _id_of((yield Call("POST", "/files", False, form={"purpose": "batch"}, upload=upload)))

    def create(self, batch: PackedBatch, file_id: str) -> Flow[BatchStatus]:
        """Create the batch; a 200 is no verdict on its content (traps 1)."""
        body = {
            "input_file_id": file_id,
            "endpoint": batch.lane.endpoint,
            "completion_window": "24h",
            "metadata": {_KEY: batch.key},
        }
        return _status((yield Call("POST", "/batches", False, json=msgspec.json.encode(body))))

    def find(self, keys: Mapping[str, str]) -> Flow[list[BatchStatus]]:
        """Search the newest batches on the account for these keys, or their input files: not all echo metadata."""
        wanted = set(keys)
        key_of = {file_id: key for key, file_id in keys.items()}
        found: list[BatchStatus] = []
        after: str | None = None
        for _ in range(_FIND_PAGES):
            page, after = _page((yield _listing(after)))
            page = [structs.replace(s, key=key_of.get(s.input_file_id or "", s.key)) for s in page]
            found += [status for status in page if status.key in wanted]
            wanted -= {status.key for status in found if status.key}
            if not wanted or not after:
                break
        return found

    def check(self, remote_ids: Sequence[str]) -> Flow[list[BatchStatus]]:
        """Ask by listing pages while a page answers for at least two, then singly for what no page held."""
        found = (yield from self._list(remote_ids)) if len(remote_ids) > 1 else {}
        replied = bool(found)
        for remote_id in (remote_id for remote_id in remote_ids if remote_id not in found):
            reply = yield Call("GET", f"/batches/{_quote(remote_id)}", True)
            try:
                found[remote_id] = _status(reply)
            except CallFailed as exc:
                kind = exc.failure.kind
                if kind == "auth" or (kind != "gone" and not replied):
                    raise
                # One batch that cannot be read must not hide what the others came to.
                if kind != "gone":
                    found[remote_id] = BatchStatus(remote_id, None, NO_REPLY)
            replied = True
        return list(found.values())

    def _list(self, remote_ids: Sequence[str]) -> Flow[dict[str, BatchStatus]]:
        found: dict[str, BatchStatus] = {}
        wanted = frozenset(remote_ids)
        after: str | None = None
        while len(wanted) - len(found) > 1:
            try:
                page, after = _page((yield _listing(after)))
            except CallFailed as exc:
                if exc.failure.kind == "auth":
                    raise
                break  # some servers have no listing
            seen = {status.id: status for status in page if status.id in wanted}
            found |= seen
            if len(seen) < 2 or not after:
                break
        return found

    def collect(self, status: BatchStatus) -> list[Call]:
        """Name the output and the error file: either may be missing, in every end (traps 5)."""
        files = (status.output_file_id, status.error_file_id)
        return [Call("GET", f"/files/{_quote(file_id)}/content", True) for file_id in files if file_id]

    def cancel(self, remote_id: str) -> Call:
        """Cancel a batch; one that has ended answers 409."""
        return Call("POST", f"/batches/{_quote(remote_id)}/cancel", True, json=b"{}")

    def delete(self, file_id: str) -> Call:
        """Delete a file."""
        return Call("DELETE", f"/files/{_quote(file_id)}", True)

    def refused(self, reply: Reply) -> Failure:
        """Say what a reply other than 2xx means."""
        return _refusal(reply)


def _listing(after: str | None) -> Call:
    query = {"limit": str(_PAGE)}
    return Call("GET", "/batches", True, query if after is None else {**query, "after": after})


# --- reading replies

_SPELLED = {"canceled": "cancelled", "canceling": "cancelling"}
_MISSING_FILE = re.compile("cannot find file|not find.*file|no such file", re.IGNORECASE)
_NO_ROOM = re.compile("enqueued token|enqueued tokens has surpassed", re.IGNORECASE)
_UNCERTAIN = frozenset({0, 408, 409})  # besides 5xx: the call may have done its work


def _decode(reply: Reply) -> dict[str, Any]:
    """Give the object in a reply; `CallFailed` when there is none."""
    if not 200 <= reply.status < 300:
        raise CallFailed(_refusal(reply))
    try:
        content = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        # A proxy's page, or half a reply: whatever was asked may have been done.
        raise CallFailed(Failure("lost", f"a reply that is no JSON object: {_excerpt(reply.body)}", reply.status))
    return content


def _refusal(reply: Reply) -> Failure:
    status = reply.status
    code, message = _described(reply.body)
    message = message or _excerpt(reply.body) or f"HTTP {status}"
    if code == "token_limit_exceeded" or _NO_ROOM.search(message):
        return Failure("full", message, status, code)
    if status in _UNCERTAIN or status >= 500:
        return Failure("lost", message, status or None, code)
    if status in (401, 403):
        return Failure("auth", message, status, code)
    if status == 429 and code not in ("insufficient_quota", "billing_hard_limit_reached"):
        return Failure("busy", message, status, code)
    if status == 404 or (status == 400 and _MISSING_FILE.search(message)):
        return Failure("gone", message, status, code)
    return Failure("rejected", message, status, code)


def _described(body: bytes) -> tuple[str | None, str]:
    try:
        code, message = jsonl.describe(msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError):
        return None, ""
    return code or None, message


def _excerpt(body: bytes) -> str:
    text = body[:300].decode(errors="replace").strip()
    return text + "..." if len(body) > 300 else text


def _id_of(reply: Reply) -> str:
    content = _decode(reply)
    if not isinstance(content.get("id"), str):
        raise CallFailed(Failure("lost", f"a reply without an id: {_excerpt(reply.body)}", reply.status))
    return str(content["id"])


def _entries(reply: Reply) -> list[dict[str, Any]]:
    entries = _decode(reply).get("data")
    return [entry for entry in _list(entries) if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _files(reply: Reply) -> list[dict[str, Any]]:
    """Give the files of a listing; none where there is no listing: uploading once more costs nothing."""
    try:
        return _entries(reply)
    except CallFailed as exc:
        if exc.failure.kind == "auth":
            raise
        return []


def _page(reply: Reply) -> tuple[list[BatchStatus], str | None]:
    """Give the batches of a listing page and the cursor of the next, None behind the last."""
    entries = _entries(reply)
    after = entries[-1]["id"] if entries and _decode(reply).get("has_more") else None
    return [_read(entry) for entry in entries], after


def _status(reply: Reply) -> BatchStatus:
    content = _decode(reply)
    _id_of(reply)
    return _read(content)


def _read(batch: dict[str, Any]) -> BatchStatus:
    """Read a batch object, of which anything but `id` may be absent, null or "" (contracts A4)."""
    return BatchStatus(
        id=batch["id"],
        key=_text(_dict(batch.get("metadata")).get(_KEY)),
        status=_SPELLED.get(status := (_text(batch.get("status")) or "unknown").lower(), status),
        input_file_id=_text(batch.get("input_file_id")),
        output_file_id=_text(batch.get("output_file_id")),
        error_file_id=_text(batch.get("error_file_id")),
        answered=_answered(_dict(batch.get("request_counts"))),
        problems=tuple(_problems(_list(_dict(batch.get("errors")).get("data")))),
    )


def _answered(counts: dict[str, Any]) -> int | None:
    done = [count for count in (counts.get("completed"), counts.get("failed")) if isinstance(count, int)]
    return sum(done) if done else None


def _problems(entries: list[Any]) -> Iterable[BatchProblem]:
    for entry in entries:
        if isinstance(entry, dict):
            code, message = jsonl.describe(entry)
            line = entry.get("line")
            yield BatchProblem(code, message, line if isinstance(line, int) else None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
