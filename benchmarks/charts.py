"""Pictures of figures, drawn with matplotlib, which the extra `bench` installs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def drawn(path: Path, *, rows: int = 1, columns: int = 1, size: tuple[float, float] = (9, 6)) -> Iterator[list[Any]]:
    """Give axes to draw on, and save what was drawn."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, constrained_layout=True, squeeze=False)
    yield list(axes.flat)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def bars(path: Path, title: str, rows: Sequence[tuple[str, float, str]]) -> None:
    """Draw a bar for each row: a name, a figure, and what to write beside it."""
    names = [name for name, _, _ in rows]
    with drawn(path, size=(9, 1 + 0.3 * len(rows))) as (axis,):
        colours = ["tab:gray" if "floor" in name or "task that" in name else "tab:blue" for name in names]
        drawn_bars = axis.barh(names, [value for _, value, _ in rows], color=colours)
        axis.bar_label(drawn_bars, [f"{value:,.0f}  {note}".rstrip() for _, value, note in rows], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(title=title)


def lines(path: Path, title: str, x: str, rows: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draw a line for each name, over a logarithmic axis."""
    with drawn(path) as (axis,):
        for name, points in rows.items():
            axis.plot([at for at, _ in points], [value for _, value in points], "o-", label=name)
        axis.set(title=title, xlabel=x, xscale="log", ylim=(0, None))
        axis.legend()
