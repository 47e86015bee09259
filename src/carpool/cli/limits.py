"""`carpool limits`: what may be queued on the account, and what is."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, NamedTuple

import typer

from ..limits import TIERS, TableLimit, Tier, family_of, table, table_limit
from ..providers.openai import Recent
from . import remote
from .ending import plain
from .lanes import LaneSum, sum_up
from .parameters import AsJson, BaseUrl, check_hours
from .show import Screen, table_of, write_json

_HOUR = 3_600.0
_LIFE = 25 * _HOUR  # a batch expires after 24 hours: what is open was created since (contracts A4)


def limits(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Models or snapshots; all without.")
    ] = None,
    tier: Annotated[Tier | None, typer.Option(help="Look up what was not learned in this tier's table.")] = None,
    since: Annotated[float, typer.Option(metavar="HOURS", help="How far back utilisation and refusals go.")] = 24.0,
    base_url: BaseUrl = None,
    table_alone: Annotated[
        bool, typer.Option("--table", help="Show the published table alone; nobody is asked.")
    ] = False,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="DATE", help="The table as it was on a day.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the enqueued-token limits and what is queued, for each model and endpoint of the account.

    A limit is learned from the account's newest refusal, or else looked up in the table of the --tier.

    The key is taken from OPENAI_API_KEY; without one the table is shown alone.

    Exit codes: 0; 1 where the server cannot be reached or refuses; 2 where an option is wrong.
    """
    check_hours(since)
    day = None if as_of is None else as_of.date()
    key = None if table_alone else remote.key()
    if key is not None:
        now = time.time()
        server, recent = remote.recent(base_url, key, now - max(since * _HOUR, _LIFE), remote.PAGES)
        began = now - since * _HOUR
        lanes = sum_up(recent.batches, since=began, now=now, models=models or (), tier=tier, as_of=day)
        view = _View(server, recent, began, now, tier, lanes)
        write_json(_account_json(view)) if as_json else _show_account(view, Screen())
        return
    if not table_alone:
        typer.echo("carpool: OPENAI_API_KEY is not set, so this is the published table alone.", err=True)
    rows = list(_published(models or (), tier, day))
    write_json(_table_json(rows)) if as_json else _show_table(rows, models or (), tier, Screen())


# --- the account


class _View(NamedTuple):
    """Hold what is shown of an account, from `since` to `now` in seconds since the epoch."""

    server: str
    recent: Recent
    since: float
    now: float
    tier: Tier | None
    lanes: Sequence[LaneSum]


def _show_account(view: _View, screen: Screen) -> None:
    hours = (view.now - view.since) / _HOUR
    screen.lines(f"{view.server}, the last {hours:,.4g} hours, at {_time(view.now):%Y-%m-%d %H:%M} UTC")
    screen.gap()
    if view.lanes:
        rows = list(map(_cells, view.lanes))
        screen.table(
            table_of(_WIDE, rows),
            table_of(_NARROW, map(_stacked, rows)),
            table_of(_NARROW, (_stacked((*row[:3], row[3].replace(" ", "\n"), *row[4:])) for row in rows)),
        )
        screen.gap()
    screen.lines(*_notes(view))


_WIDE = ("model", "endpoint", ">limit", "from", ">enqueued", ">open", ">used", ">refused", ">waiting")
_NARROW = ("model, endpoint", ">limit, from", *_WIDE[4:])


def _cells(lane: LaneSum) -> tuple[str, ...]:
    limit = lane.limit
    return (
        plain(lane.model or "?"),
        plain(lane.endpoint or "-").removeprefix("/v1/"),
        "-" if limit is None else f"{limit.tokens:,}",
        "unknown" if limit is None else f"{limit.source} {limit.as_of:%Y-%m-%d}",
        f"{lane.enqueued:,}{'+' * (lane.unweighed > 0)}",
        f"{lane.open:,}",
        "-" if lane.utilisation is None else f"{lane.utilisation:.0%}{'+' * lane.partial}",
        f"{lane.refusals:,}",
        "-",
    )


def _stacked(row: tuple[str, ...]) -> tuple[str, ...]:
    model, endpoint, limit, source, *rest = row
    return (f"{model}\n  {endpoint}", f"{limit}\n{source}", *rest)


def _notes(view: _View) -> Iterator[str]:
    """Say what the figures leave open."""
    lanes = view.lanes
    if not lanes:
        yield "No batches."
    else:
        yield "waiting: only the pool that holds the requests knows, see pool.stats()."
    if any(lane.unweighed or lane.partial for lane in lanes):
        yield "+: and more, of batches that do not say what they weigh; carpool's own do."
    if any(lane.model is None for lane in lanes):
        yield "?: batches whose model the provider has not told yet."
    if any(lane.limit is None and lane.model is not None for lane in lanes):
        where = f"the table has none for {view.tier}" if view.tier else "--tier would look it up"
        yield f"unknown: no refusal states this limit; {where}."
    tables = {lane.limit[2:] for lane in lanes if lane.limit is not None and lane.limit.source == "table"}
    for day, source in sorted(tables):
        yield f"table {day}: {source}."
    batches, complete = view.recent
    if not complete:
        oldest = batches[-1].created_at
        back = "" if oldest is None else f", back to {_time(oldest):%Y-%m-%d %H:%M} UTC"
        yield f"Only the newest {len(batches):,} batches were read{back}: the figures may be too small."


def _account_json(view: _View) -> dict[str, Any]:
    return {
        "server": view.server,
        "at": _time(view.now).isoformat(timespec="seconds"),
        "since": _time(view.since).isoformat(timespec="seconds"),
        "complete": view.recent.complete,
        "lanes": [_lane_json(lane) for lane in view.lanes],
    }


def _lane_json(lane: LaneSum) -> dict[str, Any]:
    limit = lane.limit
    return {
        "model": lane.model,
        "endpoint": lane.endpoint,
        "limit": None if limit is None else limit.tokens,
        "limit_source": "unknown" if limit is None else limit.source,
        "limit_as_of": None if limit is None else limit.as_of.isoformat(),
        "limit_said_by": None if limit is None else limit.said_by,
        "enqueued": lane.enqueued,
        "open": lane.open,
        "open_of_unknown_weight": lane.unweighed,
        "utilisation": None if lane.utilisation is None else round(lane.utilisation, 4),
        "utilisation_is_partial": lane.partial,
        "refusals": lane.refusals,
        "waiting": None,
    }


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- the table


def _table_json(rows: Iterable[TableLimit]) -> dict[str, Any]:
    return {"table": [{**row._asdict(), "as_of": row.as_of.isoformat()} for row in rows]}


def _show_table(rows: Sequence[TableLimit], models: Sequence[str], tier: Tier | None, screen: Screen) -> None:
    notes = list(_table_notes(rows, models, tier))
    if rows:
        cells = list(map(_published_cells, rows))
        wide = table_of(_TABLE, cells)
        names = [] if screen.fits(wide) else list(dict.fromkeys(row.source for row in rows))
        sources = {source: f"[{number}]" for number, source in enumerate(names, 1)}
        screen.table(table_of(_TABLE, [(*row, sources.get(source, source)) for *row, source in cells]))
        notes = [*(f"{number} {source}" for source, number in sources.items()), *notes]
    if rows and notes:
        screen.gap()
    screen.lines(*notes)


_TABLE = ("family", "tier", ">tokens", "as of", "source")


def _table_notes(rows: Sequence[TableLimit], models: Sequence[str], tier: Tier | None) -> Iterator[str]:
    where = f" for {tier}" if tier else ""
    for model in models:
        if not any(row.family == family_of(model) for row in rows):
            yield f"{model}: no limit is published{where}."
    if not rows and not models:
        yield f"No limit is published{where}."
    if any(row.above for row in rows):
        yield ">: prompts of more tokens than that count in a queue of their own."


def _published(models: Sequence[str], tier: Tier | None, as_of: date | None) -> Iterator[TableLimit]:
    """Give the newest limits of these models, or of all, in their tiers."""
    families = {family_of(model) for model in models} if models else {row.family for row in table()}
    for family in sorted(family for family in families if family is not None):
        for long in (False, True):
            for each in TIERS if tier is None else (tier,):
                row = table_limit(family, each, long=long, as_of=as_of)
                if row is not None:
                    yield row


def _published_cells(row: TableLimit) -> tuple[str, ...]:
    name = f"{row.family} >{row.above:,}" if row.above else row.family
    return name, row.tier, f"{row.tokens:,}" if row.tokens else "not offered", f"{row.as_of}", row.source
