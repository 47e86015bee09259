"""Batches in a table: in as much detail as there is width."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..engine.batch import BatchStats
from ..stats import Stats
from . import words
from .columns import BUSY, DIM, GOOD, Cell, Column, Form, Frame, Line, bar, cut, fitting, label, text

_HEAD, _TAIL = 6, 8  # characters of a batch's id, of some forty: those between are much alike


class Detail(NamedTuple):
    """Say how much is shown of a batch; `bar` are its characters."""

    bar: int = 0
    whole_id: bool = False
    model: bool = True
    requests: bool = True


_DETAILS = (Detail(20, whole_id=True), Detail(10), Detail(), Detail(model=False, requests=False))


def open_batches(stats: Stats, shown: int, now: float, frame: Frame) -> Iterator[Line]:
    """Show so many batches, the oldest, and a line for the others."""
    if not shown:
        return
    chosen, rest = stats.open[:shown], stats.open[shown:]
    several = len(stats.lanes) > 1
    details = (detail._replace(model=detail.model and several) for detail in _DETAILS)
    yield from fitting((_form(chosen, now, frame, detail) for detail in details), frame.width)
    if rest:
        number, _, name = words.batches(len(rest)).partition(" ")
        rows = sum(batch.rows for batch in rest)
        yield cut(text(f"and {number} more {name}: {rows:,} requests", DIM), frame.width)
    yield []


def _form(batches: Sequence[BatchStats], now: float, frame: Frame, detail: Detail) -> Form:
    columns = [
        label("batch"),
        *[label("model")] * detail.model,
        Column("status", right=False),
        *[Column("requests")] * detail.requests,
        Column("done", right=not detail.bar),
        Column("age"),
    ]
    return Form(columns, [tuple(_cells(batch, now, frame, detail)) for batch in batches])


def _cells(batch: BatchStats, now: float, frame: Frame, detail: Detail) -> Iterator[Cell]:
    name = words.plain(batch.id or batch.key)
    yield text(name if detail.whole_id or len(name) <= _HEAD + _TAIL + 2 else f"{name[:_HEAD]}..{name[-_TAIL:]}")
    if detail.model:
        yield text(words.plain(batch.lane.model))
    yield text(_status(batch), {"running": BUSY, "collecting": GOOD}.get(batch.stage))
    if detail.requests:
        yield text(f"{batch.rows:,}")
    yield _done(batch, detail.bar, frame)
    yield text(words.lasted(now - batch.since))


def _status(batch: BatchStats) -> str:
    """Say where a batch stands: in the provider's own word while it runs there."""
    if batch.stage == "running":
        return words.plain(batch.status).replace("_", " ") or "running"
    return "waits for room" if batch.stage == "queued" else batch.stage


def _done(batch: BatchStats, width: int, frame: Frame) -> Cell:
    done = batch.rows if batch.stage == "collecting" else batch.done
    if done is None or batch.id is None:
        return text("" if width else "-", DIM)
    figure = words.percent(done, batch.rows)
    share = done / max(batch.rows, 1)
    return (*bar(share, width, ascii_only=frame.ascii_only), *text(f"{figure:>5}" if width else figure))
