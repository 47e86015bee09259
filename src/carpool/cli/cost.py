"""`carpool cost`: what the answers cost that lie in a folder."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from ..errors import JournalError
from ..journal.sqlite.kept import Kept
from ..prices import Prices
from ..spending import Cost, dollars
from .ending import ended, plain
from .parameters import AsJson, PricesFile, check_hours
from .places import find_journals, name_of
from .pricing import read_prices
from .show import Screen, table_of, write_json
from .spent import Spent
from .wording import iso, moment, plural

_HOUR = 3_600.0
_MANY = 100_000  # answers, which take a second or so to read


def cost(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Journals, or folders that hold some; the current one without."),
    ] = None,
    prices: PricesFile = None,
    since: Annotated[
        float | None, typer.Option(metavar="HOURS", help="Answers that came in the last so many hours.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the answers cost that journals keep, by model and endpoint, in USD.

    Examples:

    carpool cost

    carpool cost tickets --since 24 --prices prices.toml

    Paid is the price of a batch, or the full price where an answer came live; live is what all would have cost so. What
    failed, what is not answered yet, and answers that are not kept any more are not in it.

    Exit codes: 0, also where there is no journal; 1 where a journal or an answer cannot be read; 2 where an argument is
    wrong.
    """
    check_hours(since)
    spent = Spent(Prices(read_prices(prices)))
    began = None if since is None else time.time() - since * _HOUR
    journals = find_journals(folders or ())
    problems = list(_add_up(spent, journals, began or 0.0))
    if as_json:
        write_json(_json(spent, journals, began))
    else:
        _show(Screen(), spent, journals, began)
    if spent.unread:
        problems.append(f"{plural(spent.unread, 'answer')} cannot be read: their files are gone or damaged")
    if problems:
        raise ended(1, " ".join(problems))


def _add_up(spent: Spent, journals: Iterable[Path], since: float) -> Iterator[str]:
    """Read what journals keep; gives what kept some from being read."""
    for folder in journals:
        try:
            kept = Kept(folder, since)
            with _progress(kept.answers) as advance:
                for read in spent.add(folder, kept):
                    advance(read)
        except JournalError as exc:
            yield str(exc)


@contextmanager
def _progress(answers: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far the reading of many answers has come."""
    if answers < _MANY or not sys.stderr.isatty():
        yield lambda read: None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        reading = bar.add_task("Reading answers", total=answers)
        yield lambda read: bar.advance(reading, read)


# --- what is shown


_WIDE = ("model", "endpoint", ">requests", ">in", ">cached", ">out", ">paid", ">live", ">saved", ">unpriced")
_NARROW = ("model, endpoint", ">requests", ">in, cached, out", ">paid, live, saved", ">unpriced")


def _show(screen: Screen, spent: Spent, journals: Sequence[Path], began: float | None) -> None:
    places = ", ".join(plain(name_of(folder)) for folder in journals)
    when = "" if began is None else f", since {moment(began)} UTC"
    screen.lines(f"{places}{when}" if journals else "There is no journal here, nor in the folders below.")
    costs = spent.costs()
    if costs:
        rows = [_cells(*key, each) for key, each in costs.items()]
        if len(rows) > 1:
            rows.append(_cells("all", "", spent.total()))
        screen.gap()
        screen.table(table_of(_WIDE, rows), table_of(_NARROW, map(_stacked, rows)))
        screen.gap()
    if journals:
        screen.lines(*_notes(spent))


def _cells(model: str, endpoint: str, cost: Cost) -> tuple[str, ...]:
    priced = cost.unpriced < cost.requests
    return (
        plain(model) or "?",
        plain(endpoint).removeprefix("/v1/") or "-",
        f"{cost.requests:,}",
        f"{cost.input_tokens:,}",
        f"{cost.cached_tokens:,}",
        f"{cost.output_tokens:,}",
        *(dollars(amount) if priced else "-" for amount in (cost.paid, cost.live, cost.saved)),
        f"{cost.unpriced:,}",
    )


def _stacked(row: tuple[str, ...]) -> tuple[str, ...]:
    model, endpoint, requests, input_, cached, output, paid, live, saved, unpriced = row
    return f"{model}\n  {endpoint}", requests, f"{input_}\n{cached}\n{output}", f"{paid}\n{live}\n{saved}", unpriced


def _notes(spent: Spent) -> Iterator[str]:
    total = spent.total()
    if not total.requests:
        yield "No answers."
    if total.unpriced:
        yield "unpriced: no price is known of their models, so that they are in no amount; --prices states one."
    if spent.unsaid:
        yield f"{plural(spent.unsaid, 'answer')} without a usage: what it cost is not known, and counts nothing."
    yield "Not in it: what failed, what is not answered yet, and answers that are not kept any more."


def _json(spent: Spent, journals: Sequence[Path], began: float | None) -> dict[str, Any]:
    return {
        "journals": list(map(name_of, journals)),
        "since": iso(began),
        "costs": [
            {"model": model, "endpoint": endpoint, **_cost_json(each)}
            for (model, endpoint), each in spent.costs().items()
        ],
        "total": _cost_json(spent.total()),
        "without_usage": spent.unsaid,
        "unread": spent.unread,
    }


def _cost_json(cost: Cost) -> dict[str, Any]:
    return {**msgspec.structs.asdict(cost), "saved": cost.saved}
