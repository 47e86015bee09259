"""Lines of text in columns, for a terminal: rich's own tables take 12 ms for thirty lanes, these half of one.

They are drawn twice a second in the user's event loop, and once more for each line that the user prints meanwhile.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

Cell: TypeAlias = tuple[Segment, ...]
Line: TypeAlias = list[Segment]

BOLD, DIM = Style(bold=True), Style(dim=True)
GOOD, BAD, BUSY = Style(color="green"), Style(color="red", bold=True), Style(color="cyan")

_GAP = 2  # spaces between columns
_LEAST = 8  # characters that a text is cut to


class Column(NamedTuple):
    """Name a column; its cells are set to the right, or to the left, and then may be cut where it is too wide."""

    name: str
    right: bool = True
    cuts: bool = False


class Frame(NamedTuple):
    """Say how much room there is, in characters, and whether others than ASCII can be shown."""

    width: int
    height: int
    ascii_only: bool = False


class Form(NamedTuple):
    """Hold a table: its columns, and the cells of each row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def label(name: str) -> Column:
    """Name a column of texts."""
    return Column(name, right=False, cuts=True)


class Picture(NamedTuple):
    """Hold lines that are ready to be drawn, none wider than the screen."""

    lines: tuple[tuple[Segment, ...], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Give them to rich."""
        for line in self.lines:
            yield from line
            yield Segment.line()


def text(content: str, style: Style | None = None) -> Cell:
    """Make a cell."""
    return (Segment(content, style),)


def width_of(cells: Iterable[Segment]) -> int:
    """Give how many columns of the screen they take."""
    return sum(cell.cell_length for cell in cells)


def bar(share: float, width: int, *, ascii_only: bool) -> Cell:
    """Draw a bar that can be read without colours, too."""
    full, rest = ("=", "-") if ascii_only else ("━", "─")
    count = min(max(int(share * width), 0), width)
    return Segment(full * count, GOOD if share >= 1 else BUSY), Segment(rest * (width - count), DIM)


def fitting(forms: Iterable[Form], width: int) -> Iterator[Line]:
    """Lay out the first that is no wider than that, or else the last, cut; what comes after it is not made."""
    form = Form((), ())
    room: list[int] = []
    for form in forms:
        room = _widths(form)
        if sum(room) + _GAP * (len(room) - 1) <= width:
            break
    return _table(form, _shrunk(form.columns, room, width), width)


def _widths(form: Form) -> list[int]:
    """Give the width of each column: that of what is widest in it."""
    widest = [cell_len(column.name) for column in form.columns]
    for row in form.rows:
        widest = [max(known, width_of(cell)) for known, cell in zip(widest, row, strict=True)]
    return widest


def _table(form: Form, room: Sequence[int], width: int) -> Iterator[Line]:
    """Set rows under the columns' names."""
    head = [text(column.name, BOLD) for column in form.columns]
    for row in (head, *form.rows):
        line: Line = []
        for column, cell, most in zip(form.columns, row, room, strict=True):
            line += [Segment(" " * _GAP)] if line else []
            line += _set(cell, most, right=column.right)
        yield cut(line, width)


def _shrunk(columns: Sequence[Column], wanted: list[int], width: int) -> list[int]:
    """Take what is too much from the widest texts."""
    room = list(wanted)
    excess = sum(room) + _GAP * (len(room) - 1) - width
    texts = [index for index, column in enumerate(columns) if column.cuts]
    while excess > 0 and texts and room[widest := max(texts, key=lambda index: room[index])] > _LEAST:
        room[widest] -= 1
        excess -= 1
    return room


def _set(cell: Cell, width: int, *, right: bool) -> Line:
    blank = width - width_of(cell)
    if blank < 0:
        return cut(cell, width)
    padding = [Segment(" " * blank)] if blank else []
    return [*padding, *cell] if right else [*cell, *padding]


def cut(line: Iterable[Segment], width: int) -> Line:
    """Cut a line to a width, and show that it was."""
    line = list(line)
    if width_of(line) <= width:
        return line
    kept: Line = []
    left = max(width - 2, 0)
    for segment in line:
        part = segment if segment.cell_length <= left else Segment(set_cell_size(segment.text, left), segment.style)
        kept.append(part)
        left -= part.cell_length
        if part is not segment:
            break
    return [*kept, Segment(".." if width >= 2 else "")]
