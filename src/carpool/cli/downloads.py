"""How far downloads are, for whoever sits at a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..progress.terminal import is_terminal

Begin: TypeAlias = Callable[[str, int | None], Callable[[int], None]]


@contextmanager
def downloads() -> Iterator[Begin]:
    """Show on a terminal how far downloads are; give what begins one, by its name and size, and is told its bytes."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,  # it would be done by a thread that nobody waits for
        disable=not is_terminal(sys.stderr),
    )

    def begin(name: str, total: int | None) -> Callable[[int], None]:
        bar = bars.add_task(name, total=total)
        return lambda size: bars.update(bar, completed=size, refresh=True)

    with bars:
        yield begin
