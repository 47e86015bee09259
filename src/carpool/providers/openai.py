"""The Batch API of OpenAI and of those who speak it (contracts, part A)."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import structs

from ..config import Escalate
from ..errors import LimitExceeded, Unbatchable
from ..models import (
    NEWEST,
    NO_REPLY,
    BatchStatus,
    Body,
    Call,
    CallFailed,
    Encoded,
    Failure,
    FileLimits,
    Flow,
    PackedBatch,
    Page,
    Reply,
    Row,
    Sought,
    Standings,
    Upload,
    Usage,
)
from . import jsonl, replies
from .replies import Listed

_EMBEDDINGS = "/v1/embeddings"
_NOT_IMPLEMENTED = 501
ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    _EMBEDDINGS,
    "/v1/images/edits",
    "/v1/images/generations",
    "/v1/moderations",
    "/v1/responses",
)
_METADATA = 512  # characters of one value
_FRAME = 256  # bytes that an input line has around its body, at most
_PAGE = 100  # batches or files on a page of a listing, the most that may be asked for
_PAGES = 10_000  # of a listing: more has no account, and who goes on for ever does not say what is there
_SKEW = 3_600.0  # seconds by which the server's clock may differ from ours
_LIVE = 600.0  # seconds that a live answer may take, as with the official SDK
_FLEX = 900.0  # and in the flex tier (contracts A8)
_LIFE = 2_592_000  # seconds, the most that may be asked for: what is left behind goes by itself after thirty days


class Recent(NamedTuple):
    """List batches, the newest first; `complete` is false where there are more than were listed."""

    batches: tuple[Listed, ...]
    complete: bool


class _Peek(msgspec.Struct, gc=False):
    model: str = ""
    stream: bool | None = None


class _PeekInput(_Peek, gc=False):
    input: Any = None


_peek = msgspec.json.Decoder(_Peek)
_peek_input = msgspec.json.Decoder(_PeekInput)


def quote_id(id_: str) -> str:
    """Quote an id: ids are the server's words, and no paths, though one be ".."."""
    return quote(id_, safe="") if id_.strip(".") else "%2E" * len(id_)


class OpenAI:
    """Speak OpenAI's Batch API; unless `keep_files`, files expire, should nobody be here to delete them."""

    # 190 MB, since nobody says whether the documented 200 MB are decimal (contracts A3).
    limits: FileLimits = FileLimits(requests=50_000, bytes=190_000_000, inputs=50_000, creations_per_hour=2_000)

    def __init__(self, *, keep_files: bool = False) -> None:
        self._keep_files = keep_files

    def encode(self, endpoint: str, body: Body) -> Encoded:
        """Check a body; only `model`, `stream` and the size are looked at, and the inputs of embeddings."""
        if endpoint not in ENDPOINTS:
            raise Unbatchable(f"No batches for the endpoint {endpoint!r}. Use one of {', '.join(ENDPOINTS)}.")
        encoded = jsonl.encode_body(body)
        if len(encoded) + _FRAME > self.limits.bytes:
            raise LimitExceeded(
                f"A body of {len(encoded):,} bytes; a whole file takes {self.limits.bytes:,}. Shorten it."
            )
        try:
            peek = (_peek_input if endpoint == _EMBEDDINGS else _peek).decode(encoded)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise Unbatchable(f"The body cannot be read: {exc}. Send a JSON object with a model.") from exc
        if not peek.model:
            raise Unbatchable("The body has no model. Name one: batches hold one model each.")
        if peek.stream:
            raise Unbatchable("The body asks for stream: true. Batches cannot stream; leave it out.", "stream")
        inputs = self._count_inputs(peek.input) if isinstance(peek, _PeekInput) else 0
        return Encoded(endpoint, peek.model, jsonl.one_line(encoded), inputs)

    def _count_inputs(self, value: Any) -> int:
        # A list of token numbers is one input; a list of texts or of such lists is many (contracts A3).
        inputs = len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1
        if inputs > self.limits.inputs:
            raise LimitExceeded(f"{inputs:,} embedding inputs in one request; a file takes {self.limits.inputs:,}.")
        return inputs

    def frame(self, pool: str, endpoint: str) -> tuple[bytes, bytes, bytes]:
        """Give the constant parts of an input line."""
        return jsonl.frame(pool, endpoint)

    def parse_row(self, line: bytes, offset: int = 0) -> Row:
        """Read one line of an output or error file."""
        return jsonl.parse_row(line, offset)

    def row_line(self, custom_id: str, row: Row) -> bytes:
        """Write an answer as the line of an output file."""
        return jsonl.row_line(custom_id, row)

    def usage(self, row: Row) -> Usage | None:
        """Give the tokens that an answer says it was billed, None where it does not say."""
        return replies.usage(row)

    def total_usage(self, rows: Iterable[Row]) -> Usage:
        """Add up the tokens that answers say they were billed."""
        return replies.total_usage(rows)

    def upload(self, batch: PackedBatch) -> Flow[str]:
        """Upload the input file; when an earlier try had no reply, look for it first."""
        if batch.again and (found := (yield from self._uploads(batch.sought, all_=False))):
            return found[0]
        form = {"purpose": "batch"}
        if not self._keep_files:
            form |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(_LIFE)}
        upload = Upload(_filename(batch.key), batch.runs, batch.size)
        reply = yield Call("POST", "/files", False, form=form, upload=upload)
        if reply.status in (404, 405):  # nobody serves this address: that is the fault of no row
            raise CallFailed(replies.nowhere(reply))
        return replies.id_of(reply)

    def uploads(self, sought: Sought) -> Flow[list[str]]:
        """Look for files by name and size."""
        return (yield from self._uploads(sought, all_=True))

    def _uploads(self, sought: Sought, *, all_: bool) -> Flow[list[str]]:
        """Look for one upload or all; where there is no listing there is none.

        To upload once more costs nothing, so one is looked for once; to know that all are gone takes a reply.
        """
        wanted = (_filename(sought.key), sought.size)
        found: list[str] = []

        def take(entries: list[dict[str, Any]]) -> bool:
            found.extend(entry["id"] for entry in entries if (entry.get("filename"), entry.get("bytes")) == wanted)
            return bool(found) and not all_

        query = {"purpose": "batch", "limit": str(_PAGE), "order": "desc"}
        try:
            yield from search(Call("GET", "/files", True, query), sought.since - _SKEW, take)
        except CallFailed as exc:
            if exc.failure.kind == "auth" or (all_ and exc.failure.kind in ("lost", "busy")):
                raise
        return list(dict.fromkeys(found))

    def create(self, batch: PackedBatch, file_id: str) -> Flow[BatchStatus]:
        """Create the batch; a 200 is no verdict on its content (traps 1).

        What it is expected to weigh, and the tags of its calls, are noted beside its key, for whoever looks at the
        account.
        """
        body: dict[str, Any] = {
            "input_file_id": file_id,
            "endpoint": batch.lane.endpoint,
            "completion_window": "24h",
            "metadata": {replies.KEY: batch.key, replies.TOKENS: str(batch.tokens), **_told(batch.tags)},
        }
        if not self._keep_files:
            body["output_expires_after"] = {"anchor": "created_at", "seconds": _LIFE}
        return replies.status((yield Call("POST", "/batches", False, json=msgspec.json.encode(body))))

    def find(self, keys: Mapping[str, str], since: float) -> Flow[list[BatchStatus]]:
        """Search the account's batches for these keys, or their input files: not all servers echo metadata."""
        wanted = set(keys)
        key_of = {file_id: key for key, file_id in keys.items() if file_id}
        found: list[BatchStatus] = []

        def take(entries: list[dict[str, Any]]) -> bool:
            page = [
                structs.replace(s, key=key_of.get(s.input_file_id or "", s.key)) for s in map(replies.read, entries)
            ]
            found.extend(status for status in page if status.key in wanted)
            wanted.difference_update(status.key for status in page if status.key)
            return not wanted

        try:
            yield from search(_listing(NEWEST), since - _SKEW, take)
        except CallFailed as exc:
            if exc.failure.kind == "auth" or not found:
                raise
            # What one page told is not lost with the next; of the rest nothing is known.
            found += [BatchStatus("", key, NO_REPLY) for key in wanted]
        return found

    def check(self, remote_ids: Sequence[str]) -> Flow[list[BatchStatus]]:
        """Ask for one singly, and for more by listing the newest."""
        standings = yield from self.look(remote_ids, NEWEST if len(remote_ids) > 1 else None, ())
        return standings.statuses

    def look(self, remote_ids: Sequence[str], place: str | None, others: Collection[str]) -> Flow[Standings]:
        """List what is at a place, and what follows while a page answers for at least two; ask singly for the rest."""
        pages: list[Page] = []
        found = {} if place is None else (yield from self._list(remote_ids, place, {*remote_ids, *others}, pages))
        replied = bool(found)
        for remote_id in (remote_id for remote_id in remote_ids if remote_id not in found):
            reply = yield Call("GET", f"/batches/{quote_id(remote_id)}", True)
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
        return Standings(list(found.values()), tuple(pages))

    def _list(
        self, remote_ids: Sequence[str], place: str, known: Collection[str], pages: list[Page]
    ) -> Flow[dict[str, BatchStatus]]:
        """Give what pages tell of batches that are known, and note where they show them."""
        found: dict[str, BatchStatus] = {}
        missing = set(remote_ids)
        after: str | None = place
        while after is not None:
            try:
                # Not repeated where it fails: each batch can be asked for singly.
                entries, next_ = replies.page((yield structs.replace(_listing(after), repeat=False)))
            except CallFailed as exc:
                if exc.failure.kind not in ("busy", "lost") or exc.failure.status_code == _NOT_IMPLEMENTED:
                    pages.append(Page((), after, None))  # some servers have no listing, and some keys may not read it
                break
            pages.append(_page(entries, known, after, next_))
            found |= {status.id: status for status in entries if status.id in known}
            news = len(missing) - len(missing := missing.difference(found))
            after = next_ if news > 1 and len(missing) > 1 else None
        return found

    def recent(
        self, since: float, pages: int, keep: Callable[[Listed], bool] = lambda batch: True, most: float = math.inf
    ) -> Flow[Recent]:
        """List the account's batches created since `since`, in seconds since the epoch, from so many pages at most.

        Of those that `keep` is content with, `most` at most.
        """
        found: dict[str, Listed] = {}  # by id: a page repeats what moved on while the one before it was read

        def take(entries: list[dict[str, Any]]) -> bool:
            page = [replies.listed(entry) for entry in entries]
            found.update((b.status.id, b) for b in page if not replies.is_before(since, b) and keep(b))
            return len(found) > most and replies.are_newest_first(entries)

        complete = yield from search(_listing(NEWEST), since, take, pages)
        newest = sorted(found.values(), key=lambda batch: -(batch.created_at or math.inf))
        if len(newest) > most:
            return Recent(tuple(newest[: int(most)]), False)
        return Recent(tuple(newest), complete)

    def collect(self, status: BatchStatus) -> list[Call]:
        """Name the output and the error file: either may be missing, in every end (traps 5)."""
        files = (status.output_file_id, status.error_file_id)
        return [self.content(file_id) for file_id in files if file_id]

    def content(self, file_id: str) -> Call:
        """Fetch a file."""
        return Call("GET", f"/files/{quote_id(file_id)}/content", True)

    def live(self, call: Encoded, tier: Escalate = "live") -> Flow[Row]:
        """Send one call at once, and read its reply as the row it would have become."""
        path = call.endpoint.removeprefix("/v1")
        body, patience = (jsonl.with_tier(call.body, tier), _FLEX) if tier == "flex" else (call.body, _LIVE)
        return replies.live((yield Call("POST", path, False, json=body, patience=patience)))

    def cancel(self, remote_id: str) -> Call:
        """Cancel a batch; one that has ended answers 409."""
        return Call("POST", f"/batches/{quote_id(remote_id)}/cancel", True, json=b"{}")

    def delete(self, file_id: str) -> Call:
        """Delete a file."""
        return Call("DELETE", f"/files/{quote_id(file_id)}", True)

    def refused(self, reply: Reply) -> Failure:
        """Say what a reply other than 2xx means."""
        return replies.refusal(reply)

    def is_final(self, call: Call, reply: Reply) -> bool:
        """Tell whether a refusal stays; a batch that has ended is never cancelled any more."""
        ended = call.path.endswith("/cancel") and reply.status == 409
        return ended or self.refused(reply).kind not in ("busy", "lost")


def search(
    call: Call, since: float, take: Callable[[list[dict[str, Any]]], bool], pages: float = math.inf
) -> Flow[bool]:
    """Turn the pages of a listing until `take` is content, or they are older than `since`, so many at most.

    Tells whether all was read that there is since then: some servers would turn the same page for ever.
    """
    cursors: set[str] = set()
    while True:
        entries, after = replies.entries((yield call))
        content = take(entries)
        if not after or replies.are_older(entries, since):
            return True
        if content or after in cursors or len(cursors) + 1 >= pages:
            return False
        if len(cursors) >= _PAGES:
            raise CallFailed(Failure("lost", "The listing has no end."))
        cursors.add(after)
        call = structs.replace(call, query={**call.query, "after": after})


def _page(entries: Sequence[BatchStatus], known: Collection[str], after: str, next_: str | None) -> Page:
    """Say where the known batches on a page are: behind whatever comes before the first of them."""
    ids = [status.id for status in entries]
    shown = [remote_id for remote_id in ids if remote_id in known]
    first = ids.index(shown[0]) if shown else 0
    return Page(tuple(shown), ids[first - 1] if first else after, next_)


def _filename(key: str) -> str:
    return f"{key}.jsonl"


def _listing(after: str) -> Call:
    query = {"limit": str(_PAGE)}
    return Call("GET", "/batches", True, {**query, "after": after} if after else query)


def _told(tags: Sequence[str]) -> dict[str, str]:
    """Give tags as metadata, which holds texts of 512 characters (contracts A1): as many as that takes, whole."""
    told = ""
    for tag in tags:
        longer = f"{told}, {tag}" if told else tag
        told = longer if len(longer) <= _METADATA else told
    return {"tags": told} if told else {}
