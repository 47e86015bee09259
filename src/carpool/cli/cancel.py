"""`carpool cancel`: batches that are not wanted any more."""

import time
from collections.abc import Iterable
from typing import Annotated, NamedTuple

import typer

from ..models import CallFailed, Flow
from ..providers.openai import OpenAI
from . import remote
from .batches import checked_id
from .ending import ended, plain
from .parameters import AsJson, BaseUrl
from .remote import LIFE, THOROUGH
from .show import Screen, table_of, write_json


class Cancelled(NamedTuple):
    """Say what became of one batch; `problem` is "" where it is being cancelled."""

    batch_id: str
    problem: str


def cancel(
    batch_ids: Annotated[
        list[str] | None, typer.Argument(metavar="BATCH", help="Ids, as in `carpool batches`.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All batches of the account that carpool made.")] = False,
    pool: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="With --all, those alone whose client keys begin so.")
    ] = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Cancel batches: what ran in them is billed and kept, the rest is not run.

    A pool that awaits a batch takes this for the provider's doing, and sends the rest again: stop its process first, or
    cancel there, with pool.cancel().

    The key is taken from OPENAI_API_KEY.

    Exit codes: 0; 1 where a batch could not be cancelled, there may be more than were found, or the server cannot be
    reached or refuses; 2 where an argument is wrong.
    """
    key = remote.key()
    if key is None:
        raise ended(2, "OPENAI_API_KEY is not set.")
    if every == bool(batch_ids) or (pool is not None and not every):
        raise ended(2, "name the batches, or give --all, with --pool if need be")
    wanted, complete = list(map(checked_id, batch_ids or ())), True
    if every:
        wanted, complete = _running(base_url, key, pool or "")
    _, cancelled = remote.ask(base_url, key, _cancel(wanted))
    _show(cancelled, as_json=as_json)
    if not complete:
        raise ended(1, "only the newest batches were read: there may be more")
    if any(batch.problem for batch in cancelled):
        raise typer.Exit(1)


def _running(base_url: str | None, key: str, prefix: str) -> tuple[list[str], bool]:
    """Name the batches that carpool made and that run, and tell whether that is all of them."""
    _, recent = remote.recent(base_url, key, time.time() - LIFE, THOROUGH)
    statuses = [batch.status for batch in recent.batches if batch.open and batch.status.status != "cancelling"]
    ours = [status.id for status in statuses if status.key is not None and status.key.startswith(prefix)]
    return ours, recent.complete


def _cancel(batch_ids: Iterable[str]) -> Flow[list[Cancelled]]:
    provider = OpenAI()
    cancelled = []
    for batch_id in batch_ids:
        reply = yield provider.cancel(batch_id)
        failure = None if 200 <= reply.status < 300 else provider.refused(reply)
        if failure is not None and failure.kind == "auth":
            raise CallFailed(failure)
        cancelled.append(Cancelled(batch_id, "" if failure is None else plain(failure.message)))
    return cancelled


def _show(cancelled: list[Cancelled], *, as_json: bool) -> None:
    if as_json:
        write_json([{"batch": batch_id, "problem": problem or None} for batch_id, problem in cancelled])
    elif cancelled:
        rows = [(plain(batch_id), problem or "is being cancelled") for batch_id, problem in cancelled]
        Screen().table(table_of(("batch", "outcome"), rows))
    else:
        typer.echo("carpool: there is nothing to be cancelled.", err=True)
