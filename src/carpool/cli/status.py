"""`carpool status`: what runs, or ran, in a folder."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..account import find_account
from ..errors import ConfigurationError
from ..journal.sqlite.contents import OpenBatch
from ..providers.openai import OpenAI
from . import remote
from .ending import ended, plain
from .parameters import AsJson, BaseUrl
from .places import find_journals, name_of
from .show import Screen, pairs_of, table_of, write_json
from .standing import Standing, Statuses, advice, cells, examine, facts, remote_cell, standing_json
from .watching import watch as keep_drawing
from .wording import iso, moment, plural

_OFTEN, _SELDOM = 0.1, 86_400.0  # seconds between two looks
_MOST = 20  # batches that are shown of a journal


def status(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Journals, or folders that hold some; the current one without."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", help="With --watch, how often.")] = 2.0,
    ask: Annotated[
        bool, typer.Option("--remote", help="Ask the provider, too, how the open batches stand; this needs a key.")
    ] = False,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what runs, or ran, in this folder: processes, requests, batches, and what to do.

    Examples:

    carpool status

    carpool status tickets --watch

    Journals are looked for in the folder and down to two folders below it, and are only read: a program that is at one
    is not disturbed. Nobody is asked over the network without --remote, for which the key is taken from OPENAI_API_KEY.

    Exit codes: 0, also where there is no journal and after Ctrl-C; 1 where a journal cannot be read, or the server
    cannot be reached or refuses; 2 where an argument is wrong.
    """
    if watch:
        if as_json or ask:
            raise ended(2, "--watch goes with neither --json nor --remote")
        if not _OFTEN <= every <= _SELDOM:
            raise ended(2, f"--every is a number of seconds from {_OFTEN:g} to {_SELDOM:,.0f}, not {every:g}")
        keep_drawing(partial(_draw, folders or ()), every)
        return
    standings = list(map(examine, find_journals(folders or ())))
    statuses = _ask(base_url, standings) if ask else None
    if as_json:
        write_json({"at": iso(time.time()), "journals": [standing_json(each, statuses or {}) for each in standings]})
    else:
        _show(Screen(), standings, statuses)
    if unread := sum(bool(standing.problem) for standing in standings):
        raise ended(1, f"{plural(unread, 'journal')} cannot be read")


def _ask(base_url: str | None, standings: Sequence[Standing]) -> Statuses:
    """Ask how the open batches stand: those of the account alone whose key this is."""
    key = remote.needed_key()
    try:
        account = find_account(key, base_url).name
    except ConfigurationError as exc:
        raise ended(2, str(exc)) from None
    open_ = [(each, batch.batch_id) for each in standings for batch in each.open if batch.batch_id is not None]
    ours = [batch_id for each, batch_id in open_ if each.contents is not None and each.contents.account == account]
    if len(ours) < len(open_):
        others = {each.contents.account for each, _ in open_ if each.contents is not None} - {account}
        typer.echo(f"carpool: not asked, since the key is for {account}: {plain('; '.join(sorted(others)))}.", err=True)
    if not ours:
        return {}
    _, statuses = remote.ask(base_url, key, OpenAI().check(ours))
    return dict.fromkeys(ours) | {each.id: each for each in statuses}


# --- what is shown


def _draw(folders: Sequence[Path], screen: Screen) -> None:
    standings = list(map(examine, find_journals(folders)))
    screen.lines(f"At {moment(time.time())} UTC; Ctrl-C ends this.")
    screen.gap()
    _show(screen, standings, None)


def _show(screen: Screen, standings: Sequence[Standing], statuses: Statuses | None) -> None:
    now = time.time()
    if not standings:
        screen.lines("There is no journal here, nor in the folders below.")
    for number, standing in enumerate(standings):
        if number:
            screen.gap()
        _show_one(screen, standing, statuses, now)


def _show_one(screen: Screen, standing: Standing, statuses: Statuses | None, now: float) -> None:
    screen.lines(plain(name_of(standing.folder)))
    screen.table(pairs_of(("  " + name, value) for name, value in facts(standing)))
    if standing.problem:
        screen.lines("  " + plain(standing.problem))
    elif standing.contents is None:
        screen.lines("  It is empty, or is being made.")
    if standing.open:
        screen.gap()
        _show_batches(screen, standing.open, statuses, now)
    for sentence in advice(standing):
        screen.gap()
        screen.lines(sentence)


def _show_batches(screen: Screen, batches: Sequence[OpenBatch], statuses: Statuses | None, now: float) -> None:
    more = () if statuses is None else ("provider",)
    rows = [(*cells(each, now), *(() if statuses is None else (remote_cell(each, statuses),))) for each in batches]
    rows = rows[:_MOST]
    screen.table(table_of((*_WIDE, *more), rows), table_of((*_NARROW, *more), map(_stacked, rows)))
    if len(batches) > _MOST:
        screen.lines(f"{len(batches) - _MOST:,} more: --json has them all.")


_WIDE = ("batch", "endpoint", "model", ">rows", "stage", "since (UTC)", ">for")
_NARROW = ("batch", "model, endpoint", ">rows", "stage, since (UTC), for")


def _stacked(row: tuple[str, ...]) -> tuple[str, ...]:
    batch, endpoint, model, rows, stage, since, took, *more = row
    return batch, f"{model}\n{endpoint}", rows, f"{stage}\n{since}\n{took}", *more
