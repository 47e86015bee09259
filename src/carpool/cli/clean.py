"""`carpool clean`: what is left at the provider, and deleting it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import JournalError
from ..journal.sqlite.checkup import remains
from . import remote
from .batch_words import made_by
from .ending import ended, plain
from .leftovers import Known, Leftover
from .parameters import AsJson, BaseUrl
from .remote import THOROUGH
from .show import Screen, table_of, write_json
from .sweeping import Fate, Outcome, Wish, sweep
from .wording import iso, moment, plural, size, span

_HOUR = 3_600.0
_LONGEST = 87_600.0  # hours: ten years


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is touched.")] = False,
    older_than: Annotated[
        float | None, typer.Option(metavar="HOURS", help="Files that were made longer ago alone.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Files of pools alone whose client keys begin so.")
    ] = None,
    journal: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="What this journal has on disk may go at once. Repeatable."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what somebody may still need: of the last day, and answers.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Also files of other programs, which carpool knows nothing of.")
    ] = False,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show which files carpool has left at the provider; with --yes delete those that nobody needs.

    carpool clean --journal tickets

    carpool clean --older-than 72 --yes

    Files of a batch that is not over always stay. Unless --force is given, so do those of the last day, and rows that
    nobody is known to have fetched: they may be answers that are paid for (`carpool results` fetches them).

    The key is taken from OPENAI_API_KEY.

    Exit codes: 0; 1 where a file could not be deleted, or the server cannot be reached or refuses; 2 where an argument
    is wrong.
    """
    if older_than is not None and not 0 <= older_than <= _LONGEST:
        raise ended(2, f"--older-than is a number of hours from 0 to {_LONGEST:,.0f}, not {older_than:g}")
    if every and pool is not None:
        raise ended(2, "--all and --pool exclude each other.")
    wish = Wish(_known(journal or ()), (older_than or 0.0) * _HOUR, pool, force=force, every=every)
    server, outcome = remote.meet(base_url, remote.needed_key(), lambda server: sweep(server, wish, yes=yes))
    write_json(_json(server, outcome)) if as_json else _show(server, outcome, wish)
    if any(fate.problem for fate in outcome.fates):
        raise typer.Exit(1)


def _known(folders: Sequence[Path]) -> Known:
    """Ask journals what they know."""
    awaited: set[str] = set()
    on_disk: set[str] = set()
    for folder in folders:
        try:
            known = remains(folder)
        except JournalError as exc:
            raise ended(2, str(exc)) from None
        if known is not None:
            awaited |= known.awaited
            on_disk |= known.on_disk
    return Known(frozenset(awaited), frozenset(on_disk))


# --- what is said


_WIDE = ("file", "kind", "made by", "batch", ">size", ">age", "outcome")
_NARROW = ("file, batch", "kind, made by", ">size, age", "outcome")


def _show(server: str, outcome: Outcome, wish: Wish) -> None:
    screen = Screen()
    screen.lines(f"{server}, at {moment(outcome.now)} UTC")
    screen.gap()
    if outcome.fates:
        rows = [_cells(fate, outcome) for fate in outcome.fates]
        screen.table(table_of(_WIDE, rows), table_of(_NARROW, map(_stacked, rows)))
        screen.gap()
    screen.lines(*_notes(outcome, wish))


def _cells(fate: Fate, outcome: Outcome) -> tuple[str, ...]:
    file = fate.left.file
    return (
        plain(file.id),
        fate.left.kind,
        made_by(fate.left.key),
        plain(", ".join(batch.status.id for batch in fate.left.batches) or "-"),
        "-" if file.size is None else size(file.size),
        "-" if file.created_at is None else span(outcome.now - file.created_at),
        _word(fate, outcome),
    )


def _word(fate: Fate, outcome: Outcome) -> str:
    if fate.reason:
        return f"stays: {fate.reason}"
    if fate.problem:
        return f"failed: {plain(fate.problem)}"
    return "deleted" if outcome.deleted else "would go"


def _stacked(row: tuple[str, ...]) -> tuple[str, ...]:
    file, kind, maker, batch, amount, age, word = row
    return f"{file}\n  {batch}", f"{kind}\n{maker}", f"{amount}\n{age}", word.replace(": ", ":\n", 1)


def _notes(outcome: Outcome, wish: Wish) -> Iterator[str]:
    going = [fate.left for fate in outcome.fates if not fate.reason and not fate.problem]
    staying = [fate.left for fate in outcome.fates if fate.reason]
    failed = [fate.left for fate in outcome.fates if fate.problem]
    if not outcome.fates:
        yield "No files are left." if wish.every else "Nothing of carpool's is left."
    elif not going:
        yield "Nothing was deleted." if outcome.deleted else "Nothing would be deleted."
    else:
        yield f"{_sum(going)} deleted." if outcome.deleted else f"{_sum(going)} would be deleted: give --yes."
    if failed:
        yield f"{_sum(failed)} could not be deleted."
    if staying:
        yield f"{_sum(staying)} {'stays' if len(staying) == 1 else 'stay'}."
    yield from _warnings(going, staying, outcome, wish)


def _warnings(going: Sequence[Leftover], staying: Sequence[Leftover], outcome: Outcome, wish: Wish) -> Iterator[str]:
    if any(left.kind != "input" for left in staying) and not wish.force:
        yield "Answers are paid for: `carpool results BATCH -o FILE` fetches them before they are deleted with --force."
    if any(left.kind != "input" and left.file.id not in wish.known.on_disk for left in going):
        yield f"Rows that nobody is known to have fetched {'were' if outcome.deleted else 'are'} among them."
    if any(left.key is None for left in going):
        yield "Files of other programs are among them: carpool cannot know whether they are needed."
    if outcome.foreign:
        yield f"{_sum(outcome.foreign)} of other programs not shown: see --all."
    if not outcome.complete:
        yield f"Only the newest {100 * THOROUGH:,} files of a kind, or batches, were read: there may be more."


def _sum(left: Sequence[Leftover]) -> str:
    return f"{plural(len(left), 'file')} of {size(sum(each.file.size or 0 for each in left))}"


def _json(server: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "server": server,
        "at": iso(outcome.now),
        "deleted": outcome.deleted,
        "complete": outcome.complete,
        "files": [_fate_json(fate, outcome) for fate in outcome.fates],
        "not_shown": len(outcome.foreign),
    }


def _fate_json(fate: Fate, outcome: Outcome) -> dict[str, Any]:
    left, file = fate.left, fate.left.file
    return {
        "id": file.id,
        "kind": left.kind,
        "name": file.name,
        "bytes": file.size,
        "created_at": iso(file.created_at),
        "made_by": "other" if left.key is None else "carpool",
        "client_key": left.key,
        "batches": [batch.status.id for batch in left.batches],
        "outcome": _word(fate, outcome).partition(":")[0],
        "reason": fate.reason or None,
        "problem": fate.problem or None,
    }
