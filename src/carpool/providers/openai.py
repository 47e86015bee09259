"""The Batch API of OpenAI and of those who speak it (contracts, part A)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import structs

from ..errors import LimitExceeded, Unbatchable
from ..models import (
    NO_REPLY,
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
from . import jsonl, replies
from .replies import Listed

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/edits",
    "/v1/images/generations",
    "/v1/moderations",
    "/v1/responses",
)
_FRAME = 256  # bytes that an input line has around its body, at most
_PAGE = 100  # batches on a page of the listing, the most that may be asked for
_FIND_PAGES = 20  # a lost creation is minutes old: it stands among the newest 2,000


class Recent(NamedTuple):
    """List batches, the newest first; `complete` is false where there are more than were listed."""

    batches: tuple[Listed, ...]
    complete: bool


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

    def input_tokens(self, row: Row) -> int:
        """Give the prompt tokens that an answer says it was billed, 0 where it does not say."""
        return replies.input_tokens(row)

    def upload(self, batch: PackedBatch) -> Flow[str]:
        """Upload the input file; when an earlier try had no reply, look for it first."""
        filename = f"{batch.key}.jsonl"
        if batch.again:
            query = {"purpose": "batch", "limit": str(_PAGE), "order": "desc"}
            for found in replies.files((yield Call("GET", "/files", True, query))):
                if found.get("filename") == filename and found.get("bytes") == batch.size:
                    return str(found["id"])
        upload = Upload(filename, batch.runs, batch.size)
        return replies.id_of((yield Call("POST", "/files", False, form={"purpose": "batch"}, upload=upload)))

    def create(self, batch: PackedBatch, file_id: str) -> Flow[BatchStatus]:
        """Create the batch; a 200 is no verdict on its content (traps 1).

        What it is expected to weigh is noted beside its key, for whoever looks at the account.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": batch.lane.endpoint,
            "completion_window": "24h",
            "metadata": {replies.KEY: batch.key, replies.TOKENS: str(batch.tokens)},
        }
        return replies.status((yield Call("POST", "/batches", False, json=msgspec.json.encode(body))))

    def find(self, keys: Mapping[str, str]) -> Flow[list[BatchStatus]]:
        """Search the newest batches on the account for these keys, or their input files: not all echo metadata."""
        wanted = set(keys)
        key_of = {file_id: key for key, file_id in keys.items()}
        found: list[BatchStatus] = []
        after: str | None = None
        for _ in range(_FIND_PAGES):
            page, after = replies.page((yield _listing(after)))
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
                found[remote_id] = replies.status(reply)
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
                page, after = replies.page((yield _listing(after)))
            except CallFailed as exc:
                if exc.failure.kind == "auth":
                    raise
                break  # some servers have no listing
            seen = {status.id: status for status in page if status.id in wanted}
            found |= seen
            if len(seen) < 2 or not after:
                break
        return found

    def recent(self, since: float, pages: int) -> Flow[Recent]:
        """List the account's batches created since `since`, in seconds since the epoch, from so many pages at most."""
        found: dict[str, Listed] = {}  # by id: a page repeats what moved on while the one before it was read
        after: str | None = None
        for _ in range(pages):
            entries, after = replies.entries((yield _listing(after)))
            found |= {entry["id"]: replies.listed(entry) for entry in entries}
            if not after or replies.is_before(since, found[after]):
                return Recent(tuple(batch for batch in found.values() if not replies.is_before(since, batch)), True)
        return Recent(tuple(found.values()), False)

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
        return replies.refusal(reply)


def _listing(after: str | None) -> Call:
    query = {"limit": str(_PAGE)}
    return Call("GET", "/batches", True, query if after is None else {**query, "after": after})
