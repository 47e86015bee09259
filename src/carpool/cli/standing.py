"""How a journal stands, and what is to be done: read from its folder, and put into words."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import JournalError
from ..journal.sqlite.contents import Contents, OpenBatch, contents
from ..journal.sqlite.presence import Presence, present
from ..models import BatchStatus
from .ending import plain
from .places import name_of
from .wording import iso, moment, plural, size, span

Statuses: TypeAlias = Mapping[str, BatchStatus | None]  # by remote id, as the provider says; None where it knows none

_BLOCK = 512  # bytes, by which files count the room they take


class Standing(NamedTuple):
    """Hold what a journal's folder tells; `contents` is None while it is being made, and where there is a `problem`."""

    folder: Path
    processes: Sequence[Presence]
    contents: Contents | None
    problem: str
    size: int

    @property
    def open(self) -> tuple[OpenBatch, ...]:
        """Give the batches that are not over, the oldest first."""
        return () if self.contents is None else self.contents.open

    @property
    def alive(self) -> bool:
        """Tell whether a process is at it."""
        return any(process.seen for process in self.processes)


def examine(folder: Path) -> Standing:
    """Look into a journal's folder."""
    held, problem = None, ""
    try:
        held = contents(folder)
    except JournalError as exc:
        problem = str(exc)
    return Standing(folder, present(folder), held, problem, _room(folder))


def _room(folder: Path) -> int:
    """Add up the bytes that the files of a folder take on disk, as far as one may look."""
    room = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # discarded meanwhile
                room += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    return room


# --- for people


def facts(standing: Standing) -> Iterator[tuple[str, str]]:
    """Give what a journal holds, by name."""
    held = standing.contents
    if held is not None:
        yield "account", plain(held.account)
    yield "open in", ", ".join(map(_presence, standing.processes)) or "no process"
    if held is not None:
        delivered = held.answered - held.undelivered
        live = f", {held.live:,} sent live" if held.live else ""
        yield "requests", f"{held.known:,} known: {held.in_flight:,} in flight, {held.waiting:,} waiting{live}"
        yield "answered", f"{held.answered:,}, {delivered:,} of them delivered"
        yield "last answer", "none" if held.last_at is None else f"{moment(held.last_at)} UTC"
        yield "batches", f"{len(held.open):,} open, {held.done:,} done"
    yield "on disk", size(standing.size)


def _presence(process: Presence) -> str:
    return plain(process.name) if process.seen else f"{plain(process.name)}, if it is alive"


def cells(batch: OpenBatch, now: float) -> tuple[str, ...]:
    """Give the cells of an open batch's line."""
    return (
        plain(batch.batch_id or batch.key),
        plain(batch.lane.endpoint).removeprefix("/v1/"),
        plain(batch.lane.model),
        f"{batch.rows:,}",
        batch.stage,
        moment(batch.since),
        span(now - batch.since),
    )


def remote_cell(batch: OpenBatch, statuses: Statuses) -> str:
    """Say how a batch stands at the provider."""
    if batch.batch_id is None:
        return "-"
    if batch.batch_id not in statuses:
        return "not asked"
    status = statuses[batch.batch_id]
    if status is None:
        return "not known"
    return plain(status.status) + ("" if status.answered is None else f", {status.answered:,} done")


def advice(standing: Standing) -> Iterator[str]:
    """Say what to do, where no process is at it and something is left to be done."""
    held = standing.contents
    if held is None or standing.alive:
        return
    for process in standing.processes:
        yield f"Whether {plain(process.name)} is alive cannot be seen from here; what follows holds where it is not."
    created = [batch for batch in held.open if batch.batch_id is not None]
    if rows := sum(batch.unanswered for batch in created):
        yield (
            f"Still at the provider: {_in_batches(rows, created)}, which run on, or are over. Start the same program "
            "again with this folder to be given their answers."
        )
    packed = [batch for batch in held.open if batch.batch_id is None]
    if rows := sum(batch.unanswered for batch in packed):
        yield (
            f"Packed, and not known to be created: {_in_batches(rows, packed)}. The same program, started again, goes "
            "on with them."
        )
    if held.live:
        yield (
            f"Sent live, and no answer is recorded: {plural(held.live, 'request')}. Asked for again they fail, once: "
            "they may have been paid for."
        )
    if held.waiting:
        yield f"In no batch: {plural(held.waiting, 'request')}. They are sent when they are asked for again."
    if held.undelivered:
        yield f"Given to no caller: {plural(held.undelivered, 'answer')}. The same requests get them, for nothing."


def _in_batches(rows: int, batches: Sequence[OpenBatch]) -> str:
    return f"{plural(rows, 'request')} in {plural(len(batches), 'batch')}"


# --- for machines


def standing_json(standing: Standing, statuses: Statuses) -> dict[str, Any]:
    """Give what a journal's folder tells."""
    held = standing.contents
    return {
        "folder": name_of(standing.folder),
        "problem": standing.problem or None,
        "processes": [{"name": name, "alive": seen or None} for name, seen in standing.processes],
        "bytes": standing.size,
        "account": None if held is None else held.account,
        "requests": None if held is None else _requests_json(held),
        "last_answer_at": None if held is None else iso(held.last_at),
        "batches_done": None if held is None else held.done,
        "batches": [_batch_json(batch, statuses) for batch in standing.open],
        "advice": list(advice(standing)),
    }


def _requests_json(held: Contents) -> dict[str, int]:
    return {
        "known": held.known,
        "answered": held.answered,
        "delivered": held.answered - held.undelivered,
        "in_flight": held.in_flight,
        "live": held.live,
        "waiting": held.waiting,
    }


def _batch_json(batch: OpenBatch, statuses: Statuses) -> dict[str, Any]:
    batch_id = batch.batch_id or ""
    told = {"provider": _status_json(statuses[batch_id])} if batch_id in statuses else {}
    return {
        "id": batch.batch_id,
        "client_key": batch.key,
        "endpoint": batch.lane.endpoint,
        "model": batch.lane.model,
        "long": batch.lane.long,
        "priority": batch.lane.priority,
        "rows": batch.rows,
        "unanswered": batch.unanswered,
        "stage": batch.stage,
        "since": iso(batch.since),
        **told,
    }


def _status_json(status: BatchStatus | None) -> dict[str, Any] | None:
    return None if status is None else {"status": status.status, "done": status.answered, "succeeded": status.succeeded}
