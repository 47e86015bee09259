"""`carpool batches`: the account's batches, whoever made them, or everything about one."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import typer

from ..limits import undated
from ..providers.openai import OpenAI, Recent
from ..providers.overview import Details, details
from ..providers.replies import Listed, spelled
from . import remote
from .batch_words import batch_json, cells, details_json, facts, files_of, problem_cells
from .ending import ended, plain
from .parameters import AsJson, BaseUrl, check_hours
from .show import Screen, pairs_of, table_of, write_json
from .wording import iso, moment

_HOUR = 3_600.0
_PROBLEMS = 20  # shown of one batch, which may have thousands


def batches(
    batch_id: Annotated[
        str | None, typer.Argument(metavar="BATCH", help="An id: everything about this one is shown.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Those that stand so, such as failed. Repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Those of a model, snapshots too. Repeatable.")
    ] = None,
    since: Annotated[
        float | None, typer.Option(metavar="HOURS", help="Those created in the last so many hours.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Those that carpool made, whose client keys begin so.")
    ] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Those that are not over.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many, the newest.")] = 50,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the account's batches, the newest first, those of other programs too; or show all about one.

    carpool batches --open --model gpt-5-mini

    carpool batches batch_6a1f0c

    The key is taken from OPENAI_API_KEY.

    Exit codes: 0; 1 where the batch is not known, or the server cannot be reached or refuses; 2 where an argument is
    wrong.
    """
    check_hours(since)
    now = time.time()
    if batch_id is not None:
        if status or model or since is not None or pool is not None or only_open:
            raise ended(2, "a batch is named, so that there is nothing to choose: leave the options out")
        _show_one(base_url, checked_id(batch_id), now, as_json=as_json)
        return
    keep = _choice(_Wanted(status or (), model or (), pool, only_open))
    began = 0.0 if since is None else now - since * _HOUR
    flow = OpenAI().recent(began, remote.PAGES, keep, limit)
    server, recent = remote.ask(base_url, remote.needed_key(), flow)
    if as_json:
        write_json(_list_json(server, recent, now))
    else:
        _show_list(server, recent, now, limit)


def checked_id(batch_id: str) -> str:
    """Give an id that a batch may have; otherwise end the command."""
    if not batch_id.strip("./ ") or not batch_id.strip().isprintable():
        raise ended(2, f"{batch_id!r} is no id of a batch.")
    return batch_id.strip()


# --- which


class _Wanted(NamedTuple):
    statuses: Sequence[str]
    models: Sequence[str]
    pool: str | None
    only_open: bool


def _choice(wanted: _Wanted) -> Callable[[Listed], bool]:
    """Tell which batches are wanted."""
    statuses = set(map(spelled, wanted.statuses))
    models = {undated(model) for model in wanted.models}

    def keep(batch: Listed) -> bool:
        stands = not statuses or batch.status.status in statuses
        runs = not models or (batch.model is not None and undated(batch.model) in models)
        key = batch.status.key
        made = wanted.pool is None or (key is not None and key.startswith(wanted.pool))
        return stands and runs and made and (batch.open or not wanted.only_open)

    return keep


# --- the list


_WIDE = ("batch", "made by", "endpoint", "model", "status", ">done", ">failed", "created (UTC)", ">took")
_NARROW = ("batch, made by", "model, endpoint", "status", ">done, failed", "created (UTC), took")
_SMALL = ("batch",)


def _show_list(server: str, recent: Recent, now: float, limit: int) -> None:
    screen = Screen()
    screen.lines(f"{server}, at {moment(now)} UTC")
    screen.gap()
    if recent.batches:
        rows = [cells(batch, now) for batch in recent.batches]
        screen.table(
            table_of(_WIDE, rows),
            table_of(_NARROW, map(_stacked, rows)),
            table_of(_SMALL, map(_piled, rows)),
        )
        screen.gap()
    screen.lines(_note(recent, limit))


def _stacked(row: tuple[str, ...]) -> tuple[str, ...]:
    batch, maker, endpoint, model, status, done, failed, created, took = row
    return f"{batch}\n  {maker}", f"{model}\n{endpoint}", status, f"{done}\n{failed}", f"{created}\n{took}"


def _piled(row: tuple[str, ...]) -> tuple[str, ...]:
    batch, maker, endpoint, model, status, done, failed, created, took = row
    return (
        f"{batch}\n  made by {maker}\n  {model}, {endpoint}\n  {status}, {done} done, {failed} failed\n"
        f"  {created} UTC, took {took}",
    )


def _note(recent: Recent, limit: int) -> str:
    found = len(recent.batches)
    if recent.complete:
        return f"{found:,} in all." if found else "No batches."
    if found == limit:
        return f"The newest {found:,}: --limit shows more."
    return f"{found:,} of the newest {100 * remote.PAGES:,} batches of the account: older ones were not looked at."


def _list_json(server: str, recent: Recent, now: float) -> dict[str, object]:
    return {
        "server": server,
        "at": iso(now),
        "complete": recent.complete,
        "batches": [batch_json(batch) for batch in recent.batches],
    }


# --- one


def _show_one(base_url: str | None, batch_id: str, now: float, *, as_json: bool) -> None:
    server, found = remote.ask(base_url, remote.needed_key(), details(batch_id))
    if found is None:
        raise ended(1, f"{server} knows no batch {batch_id}.")
    if as_json:
        write_json({"server": server, "at": iso(now), **details_json(found)})
        return
    screen = Screen()
    screen.lines(f"{plain(found.listed.status.id)} at {server}, at {moment(now)} UTC")
    screen.gap()
    screen.table(pairs_of(facts(found, now)))
    _show_problems(screen, found)
    for hint in _hints(found.listed):
        screen.gap()
        screen.lines(hint)


def _show_problems(screen: Screen, found: Details) -> None:
    problems = found.listed.status.problems
    if problems:
        screen.gap()
        screen.table(table_of((">line", "code", "error"), map(problem_cells, problems[:_PROBLEMS])))
    if len(problems) > _PROBLEMS:
        screen.lines(f"{len(problems) - _PROBLEMS:,} more: --json has them all.")


def _hints(batch: Listed) -> list[str]:
    """Say what can be done next."""
    batch_id, files = plain(batch.status.id), files_of(batch)
    if batch.open:
        return [f"`carpool cancel {batch_id}` ends it; what ran by then is billed and kept."]
    if files["output"] or files["error"]:
        return [f"`carpool results {batch_id} -o FILE` fetches its rows."]
    return []
