"""Tables for people, and JSON for machines."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000  # columns


class Screen:
    """Write on a terminal within its width, and elsewhere one line a row, without colours."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, no_color=True, force_terminal=False, width=_UNBOUNDED)

    def table(self, *tables: Table) -> None:
        """Show the first of these tables that is no wider than the screen, or else the last, folded."""
        chosen = next(filter(self.fits, tables), tables[-1])
        if self._console.is_terminal:
            self._console.print(chosen)
        else:
            self._without_blanks(chosen)

    def _without_blanks(self, table: Table) -> None:
        """Leave out the blanks at the ends of lines, which would stand in whatever the lines are copied to."""
        with self._console.capture() as captured:
            self._console.print(table)
        typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def fits(self, table: Table) -> bool:
        """Tell whether a table is no wider than the screen."""
        unbounded = self._console.options.update(max_width=_UNBOUNDED)
        return Measurement.get(self._console, unbounded, table).maximum <= self._console.width

    def lines(self, *lines: str) -> None:
        """Show lines, each a sentence or so."""
        for line in lines:
            self._console.print(Text(line))

    def gap(self) -> None:
        """Leave a line empty."""
        self._console.print()


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Lay a table out; a column named ">..." is set to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(Text(name.removeprefix(">")), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def pairs_of(rows: Iterable[tuple[str, str]]) -> Table:
    """Lay out names and what they are, a line each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


_GRADES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def grades_of(rows: Iterable[tuple[str, str, str, str]]) -> Table:
    """Lay out grades, each with a name, a sentence and below it what is to be done."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for grade, name, sentence, remedy in rows:
        lines = [Text(sentence), *([Text(remedy)] if remedy else [])]
        table.add_row(Text(grade, style=_GRADES[grade]), Text(name), Group(*lines))
    return table


def write_json(content: Any) -> None:
    """Write an object for machines."""
    typer.echo(json.dumps(content, indent=2))
