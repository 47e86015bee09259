"""Lanes in a table: in as much detail as there is width."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..engine.lane import LaneStats
from ..models import Lane
from ..spending import Cost, dollars
from ..stats import Stats
from . import words
from .columns import BAD, BUSY, DIM, GOOD, Cell, Column, Form, Frame, Line, bar, cut, fitting, label, text

_ENDPOINTS = {
    "chat/completions": "chat",
    "completions": "compl",
    "images/generations": "images",
    "images/edits": "edits",
}
_STYLES = (None, BUSY, GOOD, BAD)


class Detail(NamedTuple):
    """Say how much is shown of a lane; `bar` are its characters."""

    bar: int = 0
    limit: Literal["full", "short", ""] = ""
    short: bool = True  # endpoints and numbers
    apart: bool = True  # model and endpoint


_LIVE = (
    Detail(20, "full", short=False),
    Detail(10, "full", short=False),
    Detail(8, "short", short=False),
    Detail(0, "short", short=False),
    Detail(),
    Detail(apart=False),
)
_COSTS = (Detail(short=False), Detail(), Detail(apart=False))


def live_lanes(lanes: Sequence[LaneStats], shown: int, frame: Frame) -> Iterator[Line]:
    """Show so many lanes, with what waits and how their queues stand, and a line for what is left."""
    if not shown:
        return
    chosen = _busiest(lanes, shown)
    yield from fitting((_live_form(chosen, frame, detail) for detail in _LIVE), frame.width)
    rest = [lane for lane in lanes if lane not in chosen]
    if rest:
        waiting, submitted = sum(lane.waiting for lane in rest), sum(lane.submitted for lane in rest)
        figures = f"{waiting:,} waiting, {submitted:,} in flight"
        yield cut(text(f"and {len(rest):,} more lanes: {figures}", DIM), frame.width)
    yield []


def _busiest(lanes: Sequence[LaneStats], number: int) -> list[LaneStats]:
    """Give the lanes with most to come, in their order."""
    order = sorted(range(len(lanes)), key=lambda index: -(lanes[index].waiting + lanes[index].submitted))
    return [lanes[index] for index in sorted(order[:number])]


def _live_form(lanes: Sequence[LaneStats], frame: Frame, detail: Detail) -> Form:
    queued = bool(detail.limit) or any(lane.limit is not None for lane in lanes)
    columns = [
        *_heads(detail),
        *map(Column, ("waiting", "in flight" if detail.apart else "flight", "answered", "failed")),
        *[Column("queue", right=not detail.bar)] * queued,
        *[Column("limit")] * bool(detail.limit),
    ]
    rows = [
        (*_names(lane.lane, lanes, detail), *_counts(lane, detail), *(_queue(lane, frame, detail) if queued else ()))
        for lane in lanes
    ]
    return Form(columns, rows)


def _heads(detail: Detail) -> list[Column]:
    return [label("model"), label("endpoint")] if detail.apart else [label("model")]


def _names(lane: Lane, lanes: Sequence[LaneStats], detail: Detail) -> Iterator[Cell]:
    model, endpoint = words.plain(lane.model), endpoint_of(lane, short=detail.short)
    if detail.apart:
        yield text(model)
        yield text(endpoint)
    else:
        alone = sum(other.lane.model == lane.model for other in lanes) == 1
        yield text(model if alone else f"{model} {endpoint}")


def endpoint_of(lane: Lane, *, short: bool = False) -> str:
    """Name a lane's endpoint, and what else tells it from others of its model."""
    name = words.plain(lane.endpoint).removeprefix("/v1/")
    priority = lane.priority
    marks = ["long"] * lane.long + ([f"p{priority}" if short else f"priority {priority}"] if priority else [])
    return " ".join((_ENDPOINTS.get(name, name), *marks)) if short else ", ".join((name, *marks))


def _counts(lane: LaneStats, detail: Detail) -> Iterator[Cell]:
    write = words.short if detail.short else "{:,}".format
    for number, style in zip((lane.waiting, lane.submitted, lane.answered, lane.failed), _STYLES, strict=True):
        yield text(write(number), style if number else DIM)


def _queue(lane: LaneStats, frame: Frame, detail: Detail) -> Iterator[Cell]:
    """Show the enqueued tokens against the limit."""
    limit = lane.limit
    if limit is None:
        yield text("" if detail.bar else "-", DIM)
    else:
        figure = words.percent(lane.enqueued, limit)
        share = lane.enqueued / limit if limit else 1.0
        yield (*bar(share, detail.bar, ascii_only=frame.ascii_only), *text(f"{figure:>5}" if detail.bar else figure))
    if detail.limit and limit is None:
        yield text("unknown" if detail.limit == "full" else "-", DIM)
    elif detail.limit and limit is not None:
        yield text(f"{limit:,}" if detail.limit == "full" else words.short(limit))


def ended_lanes(stats: Stats, frame: Frame) -> Iterator[Line]:
    """Show what each lane came to."""
    return fitting((_ended_form(stats, detail) for detail in _COSTS), frame.width)


def _ended_form(stats: Stats, detail: Detail) -> Form:
    columns = [*_heads(detail), *map(Column, ("answered", "failed", "paid", "saved")[: 4 if detail.apart else 3])]
    rows = [
        (
            *_names(lane.lane, stats.lanes, detail),
            *list(_counts(lane, detail))[2:],
            *list(_amounts(stats.costs.get(lane.lane, Cost())))[: 2 if detail.apart else 1],
        )
        for lane in stats.lanes
    ]
    return Form(columns, rows)


def _amounts(cost: Cost) -> Iterator[Cell]:
    priced = cost.requests > cost.unpriced
    yield text(dollars(cost.paid) if priced else "-")
    yield text(dollars(max(cost.saved, 0.0)) if priced else "-")
