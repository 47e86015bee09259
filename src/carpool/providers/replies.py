"""What OpenAI's replies say, in any form seen (contracts A4, A6, D1)."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import msgspec

from ..models import OUT_OF_MONEY, BatchProblem, BatchStatus, CallFailed, Failure, NoRoom, Reply, Row, Usage
from . import jsonl

KEY = "carpool"  # the name in a batch's metadata under which the client key stands
TOKENS = "carpool_tokens"  # and the name under which the tokens stand that it is expected to weigh
_ENDS = frozenset({"failed", "completed", "expired", "cancelled"})
_SPELLED = {"canceled": "cancelled", "canceling": "cancelling"}
_MISSING_FILE = re.compile("cannot find file|not find.*file|no such file", re.IGNORECASE)
_NO_ROOM = re.compile("enqueued token", re.IGNORECASE)
# "Limit: 2,000,000 enqueued tokens" (contracts A6), "the configured limit of 30K for the deployment" (D1).
# What else may follow a number makes it another: a limit that is read too small would fail every request.
_LIMIT = re.compile(
    r"\blimit(?: of|:)\s*((?:\d{1,3}(?:[,_]\d{3})+|\d{1,24})(?:\.\d+)?)\s*([KMB])?"
    r"(?=\s+(?:enqueued\s+)?tokens\b|\s+for\b|\.?\s*$|\.\s+[A-Z])",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"limit reached for (\S+) in\b|\bfor the deployment '([^']+)'", re.IGNORECASE)
_TIMES = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_FAR = 1e11  # seconds since the epoch, some 3,000 years: a larger number is no stamp
_MOST = 2**53  # a larger number is no count, and no limit: sums of such ones are beyond what a database takes
_TOKENS_MOST = 10**10  # tokens, that one answer may say it was billed
# What comes of bytes that are no JSON, no UTF-8, or nested too deep.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_UNCERTAIN = frozenset({0, 408, 409})  # besides 5xx: the call may have done its work


class Listed(msgspec.Struct, frozen=True, gc=False):
    """Tell of a batch on the account, whoever made it; stamps are in seconds since the epoch, None where not given.

    `tokens` is what carpool expected it to weigh when it made it, None for batches of others. `model` is None while the
    provider does not name it; of a batch that found no room it is the one that the refusal names. `total` rows it has,
    of which `failed` did, None while nobody says; it expires, or would have, at `expires_at`.
    """

    status: BatchStatus
    endpoint: str | None = None
    model: str | None = None
    tokens: int | None = None
    created_at: float | None = None
    in_progress_at: float | None = None
    ended_at: float | None = None
    total: int | None = None
    failed: int | None = None
    expires_at: float | None = None

    @property
    def open(self) -> bool:
        """Tell whether it still counts in the queue; a status that nobody knows is no end (contracts A5)."""
        return self.status.status not in _ENDS


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Tokens(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Billed(msgspec.Struct, gc=False):
    usage: _Tokens | None = None


_billed = msgspec.json.Decoder(_Billed)


def decode(reply: Reply) -> dict[str, Any]:
    """Give the object in a reply; `CallFailed` when there is none."""
    content = _content(reply)
    if not isinstance(content, dict):
        raise _unreadable(reply, "that is no JSON object")
    return content


def _content(reply: Reply) -> Any:
    if not 200 <= reply.status < 300:
        raise CallFailed(refusal(reply))
    try:
        return msgspec.json.decode(reply.body)
    except _UNREADABLE:
        return None


def _unreadable(reply: Reply, what: str) -> CallFailed:
    """Say that a proxy's page came, or half a reply: whatever was asked may have been done."""
    return CallFailed(Failure("lost", f"a reply {what}: {_excerpt(reply.body)}", reply.status))


def refusal(reply: Reply) -> Failure:
    """Say what a reply other than 2xx means."""
    status = reply.status
    code, message = _described(reply.body)
    message = message or _excerpt(reply.body) or f"HTTP {status}"
    if code == "token_limit_exceeded" or _NO_ROOM.search(message):
        return Failure("full", message, status, code, stated_limit(message))
    if status in _UNCERTAIN or status >= 500:
        return Failure("lost", message, status or None, code)
    if status in (401, 403):
        return Failure("auth", message, status, code)
    if code in OUT_OF_MONEY:
        return Failure("budget", message, status, code)
    if status == 429:
        return Failure("busy", message, status, code)
    if status == 404 or (status == 400 and _MISSING_FILE.search(message)):
        return Failure("gone", message, status, code)
    return Failure("rejected", message, status, code)


def nowhere(reply: Reply) -> Failure:
    """Say of a refusal that the address is wrong."""
    message = "There is no /files at the base URL, which mostly ends in /v1"
    return Failure("address", f"{message}: {refusal(reply).message}", reply.status)


def live(reply: Reply) -> Row:
    """Read the reply to a live call as the row that a batch would have held; `CallFailed` where the key is refused."""
    if 200 <= reply.status < 300:
        return Row("", reply.status, "", reply.body)
    failure = refusal(reply)
    if failure.kind == "auth":
        raise CallFailed(failure)
    return Row("", reply.status, "", reply.body, failure.code or "error", failure.message)


def stated_limit(message: str) -> int | None:
    """Read the enqueued-token limit out of a refusal, in any wording seen, with or without separators."""
    found = _LIMIT.search(message)
    if found is None:
        return None
    number, unit = found.groups("")
    limit = float(number.replace(",", "").replace("_", "")) * _TIMES[unit.upper()]
    return round(limit) if limit <= _MOST else None


def _described(body: bytes) -> tuple[str | None, str]:
    try:
        code, message = jsonl.describe(msgspec.json.decode(body))
    except _UNREADABLE:
        return None, ""
    return code or None, message


def _excerpt(body: bytes) -> str:
    text = " ".join(body[:300].decode(errors="replace").split())
    return text + "..." if len(body) > 300 else text


def id_of(reply: Reply) -> str:
    """Give the id of the object in a reply."""
    content = decode(reply)
    id_ = text_of(content.get("id"))
    if id_ is None:
        raise _unreadable(reply, "without an id")
    return id_


def page(reply: Reply) -> tuple[list[BatchStatus], str | None]:
    """Give the batches of a listing page and the cursor of the next, None behind the last."""
    found, after = entries(reply)
    return [read(entry) for entry in found], after


def entries(reply: Reply) -> tuple[list[dict[str, Any]], str | None]:
    """Give the objects of a listing page, in any envelope (contracts D0), and the cursor of the next."""
    content = _content(reply)
    named = content if isinstance(content, dict) else {}
    key = next((key for key in ("data", "value") if key in named), None)
    if key is None and not isinstance(content, list):
        raise _unreadable(reply, "that is no listing" if named else "that is no JSON object")
    listed = _list(content if key is None else named[key])
    found = [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return found, found[-1]["id"] if found and named.get("has_more") else None


def status(reply: Reply) -> BatchStatus:
    """Read the batch object in a reply."""
    content = decode(reply)
    id_of(reply)
    return read(content)


def read(batch: dict[str, Any]) -> BatchStatus:
    """Read a batch object, of which anything but `id` may be absent, null or "" (contracts A4)."""
    counts = _dict(batch.get("request_counts"))
    state = spelled(text_of(batch.get("status")) or "unknown")
    problems = tuple(_problems(_list(_dict(batch.get("errors")).get("data"))))
    return BatchStatus(
        id=batch["id"],
        key=text_of(_dict(batch.get("metadata")).get(KEY)),
        status=state,
        input_file_id=text_of(batch.get("input_file_id")),
        output_file_id=text_of(batch.get("output_file_id")),
        error_file_id=text_of(batch.get("error_file_id")),
        answered=_answered(counts),
        problems=problems,
        no_room=next(_no_room(problems), None) if state == "failed" else None,
        succeeded=count_of(counts.get("completed")),
        input_tokens=count_of(_dict(batch.get("usage")).get("input_tokens")),
    )


def spelled(status: str) -> str:
    """Spell a status as the specification does: some write capitals, and some one "l"."""
    return _SPELLED.get(status.lower(), status.lower())


def listed(batch: dict[str, Any]) -> Listed:
    """Read a batch object of a listing, with what concerns whoever looks at the account."""
    status = read(batch)
    counts = _dict(batch.get("request_counts"))
    return Listed(
        status,
        endpoint=text_of(batch.get("endpoint")),
        model=text_of(batch.get("model")) or next(_refused_models(status.problems), None),
        tokens=_noted(_dict(batch.get("metadata")).get(TOKENS)),
        created_at=stamp_of(batch.get("created_at")),
        in_progress_at=stamp_of(batch.get("in_progress_at")),
        ended_at=stamp_of(batch.get(f"{status.status}_at")) if status.status in _ENDS else None,
        total=count_of(counts.get("total")),
        failed=counts.get("failed") if _is_whole(counts.get("failed")) else None,
        expires_at=stamp_of(batch.get("expires_at")),
    )


def is_before(since: float, batch: Listed) -> bool:
    """Tell whether a batch was created before a time."""
    return batch.created_at is not None and batch.created_at < since


def are_older(entries: list[dict[str, Any]], since: float) -> bool:
    """Tell whether what follows on a listing's next page was created before a time: where the newest come first."""
    last = stamp_of(entries[-1].get("created_at"))
    return last is not None and last < since and are_newest_first(entries)


def are_newest_first(entries: list[dict[str, Any]]) -> bool:
    """Tell whether a page is in the order that the provider's own listing has; some servers list the oldest first."""
    first, last = (stamp_of(entry.get("created_at")) for entry in (entries[0], entries[-1]))
    return first is None or last is None or first >= last


def _noted(value: Any) -> int | None:
    """Read the tokens noted at a creation; metadata holds text only, and anybody may write it."""
    return int(value) or None if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else None


def stamp_of(value: Any) -> float | None:
    """Give a time in seconds since the epoch, None for what is none."""
    return value if type(value) in (int, float) and 0 < value < _FAR else None


def _refused_models(problems: Iterable[BatchProblem]) -> Iterator[str]:
    for problem in problems:
        if found := _REFUSED.search(problem.message):
            yield found[1] or found[2]


def _no_room(problems: Iterable[BatchProblem]) -> Iterator[NoRoom]:
    for problem in problems:
        if problem.code == "token_limit_exceeded" or _NO_ROOM.search(problem.message):
            yield NoRoom(stated_limit(problem.message))


def count_of(value: Any) -> int | None:
    """Give a count; none where 0 stands for not known."""
    return value if _is_whole(value) and value > 0 else None


def _answered(counts: dict[str, Any]) -> int | None:
    done = [count for count in (counts.get("completed"), counts.get("failed")) if _is_whole(count)]
    return sum(done) if done else None


def _is_whole(value: Any) -> TypeGuard[int]:
    return type(value) is int and -_MOST <= value <= _MOST  # True is an int to isinstance


def _problems(errors: list[Any]) -> Iterable[BatchProblem]:
    for entry in errors:
        if isinstance(entry, dict):
            code, message = jsonl.describe(entry)
            line = entry.get("line")
            yield BatchProblem(code, message, line if _is_whole(line) else None)


def text_of(value: Any) -> str | None:
    """Give a text, None for an empty one too."""
    return value if isinstance(value, str) and value else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def usage(row: Row) -> Usage | None:
    """Give the tokens that an answer says it was billed, None where it does not say."""
    said = _last_usage(row.body)
    return None if said is None else Usage(*_tokens(said))


def total_usage(rows: Iterable[Row]) -> Usage:
    """Add up the tokens that answers say they were billed."""
    said = [_tokens(tokens) for row in rows if (tokens := _last_usage(row.body)) is not None]
    return Usage(*map(sum, zip(*said, strict=True))) if said else Usage(0, 0, 0)


def _tokens(said: _Tokens) -> tuple[int, int, int]:
    details = said.prompt_tokens_details or said.input_tokens_details
    read = said.prompt_tokens or said.input_tokens or 0
    written = said.completion_tokens or said.output_tokens or 0
    cached = (details.cached_tokens if details else 0) or 0
    if 0 <= read <= _TOKENS_MOST and 0 <= written <= _TOKENS_MOST and 0 <= cached <= _TOKENS_MOST:
        return read, written, cached
    return _within(read), _within(written), _within(cached)


def _within(tokens: int) -> int:
    return min(max(0, tokens), _TOKENS_MOST)


def _last_usage(body: bytes) -> _Tokens | None:
    """Read what stands behind the last `"usage":`, which most answers end with; or else the whole.

    What is read so is an object of its own only where that name is the body's, and not of something within it.
    """
    start = body.rfind(b'"usage":')
    try:
        return _billed.decode(b"{" + body[start:] if start >= 0 else body).usage
    except _UNREADABLE:
        pass
    try:
        return _billed.decode(body).usage
    except _UNREADABLE:
        return None
