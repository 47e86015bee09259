"""What is shown of a batch: pure, and times are seconds since the epoch."""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from ..models import BatchProblem
from ..providers.overview import Details
from ..providers.replies import Listed
from .ending import plain
from .ownership import pool_of
from .wording import iso, moment, span

Kind: TypeAlias = Literal["input", "output", "error"]

_USAGE = {
    "input_tokens": "in",
    "cached_tokens": "of them cached",
    "output_tokens": "out",
    "reasoning_tokens": "of them reasoning",
    "total_tokens": "in all",
}


def made_by(key: str | None) -> str:
    """Say who made a batch: a pool of carpool's, or another program."""
    return "other" if key is None else plain(pool_of(key))


def files_of(batch: Listed) -> dict[Kind, str | None]:
    """Give the ids of a batch's files by their kind."""
    status = batch.status
    return {"input": status.input_file_id, "output": status.output_file_id, "error": status.error_file_id}


def done(batch: Listed) -> str:
    """Say how many rows are done, of how many."""
    answered = "-" if batch.status.answered is None else f"{batch.status.answered:,}"
    return answered if batch.total is None else f"{answered}/{batch.total:,}"


def took(batch: Listed, now: float) -> str:
    """Say how long a batch took, or has taken so far."""
    if batch.created_at is None or not (batch.open or batch.ended_at):
        return "-"
    seconds = (batch.ended_at or now) - batch.created_at
    return f"{span(seconds)} so far" if batch.open else span(seconds)


def cells(batch: Listed, now: float) -> tuple[str, ...]:
    """Give the cells of a batch's line in a list."""
    return (
        plain(batch.status.id),
        made_by(batch.status.key),
        plain(batch.endpoint or "-").removeprefix("/v1/"),
        plain(batch.model or "?"),
        plain(batch.status.status),
        done(batch),
        "-" if batch.failed is None else f"{batch.failed:,}",
        "-" if batch.created_at is None else moment(batch.created_at),
        took(batch, now),
    )


# --- one batch


def facts(details: Details, now: float) -> Iterator[tuple[str, str]]:
    """Give all that a batch says of itself, by name."""
    batch = details.listed
    yield "status", _standing(batch)
    yield "made by", _maker(batch.status.key)
    yield "endpoint", plain(batch.endpoint or "-")
    yield "model", plain(batch.model or "not told yet")
    yield from _times(details, now)
    yield "tokens", _tokens(details)
    for kind, file_id in files_of(batch).items():
        yield f"{kind} file", plain(file_id or "-")
    for name, value in details.metadata.items():
        yield "metadata", plain(f"{name} = {value}")


def _standing(batch: Listed) -> str:
    if batch.status.status == "failed":
        return "failed at its validation: nothing ran, nothing is billed"  # contracts A6
    failed = f", {batch.failed:,} of them failed" if batch.failed else ""
    rows = "" if batch.status.answered is None else f": {done(batch)} rows done{failed}"
    return f"{plain(batch.status.status)}{rows}"


def _maker(key: str | None) -> str:
    return "another program" if key is None else f"carpool, pool {made_by(key)}, client key {plain(key)}"


def _times(details: Details, now: float) -> Iterator[tuple[str, str]]:
    batch = details.listed
    for name, at in details.stamps.items():
        since = "" if batch.created_at in (None, at) else f", {span(at - (batch.created_at or 0))} after its creation"
        yield plain(name).replace("_", " "), f"{moment(at)} UTC{since}"
    if batch.open and batch.expires_at is not None:
        left = batch.expires_at - now
        when = f"in {span(left)}" if left > 0 else f"{span(-left)} ago, and it has not ended"
        yield "expires", f"{moment(batch.expires_at)} UTC, {when}"
    yield "window", plain(details.window or "-")


def _tokens(details: Details) -> str:
    told = ", ".join(f"{details.usage[name]:,} {words}" for name, words in _USAGE.items() if details.usage.get(name))
    expected = "" if details.listed.tokens is None else f"{details.listed.tokens:,} in were expected"
    return "; ".join(filter(None, (told, expected))) or "-"


def problem_cells(problem: BatchProblem) -> tuple[str, str, str]:
    """Give the cells of an error's line."""
    return "-" if problem.line is None else f"{problem.line:,}", plain(problem.code) or "-", plain(problem.message)


# --- for machines


def batch_json(batch: Listed) -> dict[str, Any]:
    """Give what is known of a batch."""
    status, key = batch.status, batch.status.key
    return {
        "id": status.id,
        "made_by": "other" if key is None else "carpool",
        "pool": None if key is None else pool_of(key),
        "client_key": key,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "status": status.status,
        "open": batch.open,
        "total": batch.total,
        "done": status.answered,
        "failed": batch.failed,
        "created_at": iso(batch.created_at),
        "ended_at": iso(batch.ended_at),
        "expires_at": iso(batch.expires_at),
        "expected_tokens": batch.tokens,
        **{f"{kind}_file_id": file_id for kind, file_id in files_of(batch).items()},
        "errors": [{"code": each.code, "message": each.message, "line": each.line} for each in status.problems],
    }


def details_json(details: Details) -> dict[str, Any]:
    """Give all that a batch says of itself."""
    return {
        **batch_json(details.listed),
        "window": details.window,
        "times": {name: iso(at) for name, at in details.stamps.items()},
        "usage": details.usage,
        "metadata": details.metadata,
    }
