"""Flows for people who look at their account: one batch with all that it says, and the files that are there."""

import math
from typing import Any, NamedTuple

import msgspec

from ..models import Call, CallFailed, Flow, Reply
from . import replies
from .openai import quote_id, search
from .replies import Listed, count_of, stamp_of, text_of

_PAGE = 100  # files on a page: OpenAI would give 10,000, others 100


class Details(msgspec.Struct, frozen=True, gc=False):
    """Tell all of one batch.

    `stamps` are what happened to it, in order of time, in seconds since the epoch; `usage` are tokens by name, as far
    as the provider tells them.
    """

    listed: Listed
    window: str | None
    stamps: dict[str, float]
    usage: dict[str, int]
    metadata: dict[str, str]


class RemoteFile(msgspec.Struct, frozen=True, gc=False):
    """Tell of a file on the account: its name, its size in bytes, and when it was made, None where not given."""

    id: str
    name: str | None = None
    size: int | None = None
    created_at: float | None = None


class Files(NamedTuple):
    """List files, the newest first; `complete` is false where there are more than were listed."""

    files: tuple[RemoteFile, ...]
    complete: bool


def details(batch_id: str) -> Flow[Details | None]:
    """Ask for one batch; None where the provider knows none of this id."""
    reply = yield Call("GET", f"/batches/{quote_id(batch_id)}", True)
    try:
        replies.id_of(reply)
    except CallFailed as exc:
        if exc.failure.kind == "gone":
            return None
        raise
    return details_of(replies.decode(reply))


def files(purpose: str, pages: int) -> Flow[Files]:
    """List the files of a purpose, from so many pages at most."""
    found: dict[str, RemoteFile] = {}

    def take(entries: list[dict[str, Any]]) -> bool:
        # Not every server heeds the purpose that was asked for.
        found.update((entry["id"], _file(entry)) for entry in entries if entry.get("purpose", purpose) == purpose)
        return False

    query = {"purpose": purpose, "limit": str(_PAGE), "order": "desc"}
    complete = yield from search(Call("GET", "/files", True, query), -math.inf, take, pages)
    return Files(tuple(found.values()), complete)


def size(file_id: str) -> Flow[int | None]:
    """Ask for the bytes of a file; None where the provider does not say."""
    reply = yield Call("GET", f"/files/{quote_id(file_id)}", True)
    try:
        return count_of(replies.decode(reply).get("bytes"))
    except CallFailed:
        return None


def is_deleted(reply: Reply) -> bool:
    """Tell whether a file is gone, by a 2xx reply to its deletion; most say so, and some say nothing."""
    try:
        return replies.decode(reply).get("deleted") is not False
    except CallFailed:
        return True


def details_of(batch: dict[str, Any]) -> Details:
    """Read a batch object with all that it says."""
    stamps = {name.removesuffix("_at"): stamp_of(value) for name, value in batch.items() if name.endswith("_at")}
    told = {name: value for name, value in stamps.items() if value is not None and name != "expires"}
    return Details(
        replies.listed(batch),
        window=text_of(batch.get("completion_window")),
        stamps=dict(sorted(told.items(), key=lambda stamp: stamp[1])),
        usage=_tokens(batch.get("usage")),
        metadata=_texts(batch.get("metadata")),
    )


def _file(entry: dict[str, Any]) -> RemoteFile:
    name, made = text_of(entry.get("filename")), stamp_of(entry.get("created_at"))
    return RemoteFile(entry["id"], name, count_of(entry.get("bytes")), made)


def _tokens(usage: Any) -> dict[str, int]:
    """Gather the counts of a usage, also those that stand in an object of details."""
    found: dict[str, int] = {}
    for name, value in usage.items() if isinstance(usage, dict) else ():
        if isinstance(value, dict):
            found |= _tokens(value)
        elif type(value) is int:  # True is an int to isinstance
            found[name] = value
    return found


def _texts(metadata: Any) -> dict[str, str]:
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    return {name: value if isinstance(value, str) else str(value) for name, value in pairs}
