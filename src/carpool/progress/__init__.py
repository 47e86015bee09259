"""How far a pool has come: a live view, log lines, JSON events, or whatever the user makes of the figures."""

import builtins
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Literal, TypeAlias

from ..stats import Stats
from .events import JsonEvents
from .guard import Guarded
from .lines import Calls, Lines, Reporter, Silent
from .watch import Total

__all__ = ["JsonEvents", "Progress", "Reporter", "start"]

Progress: TypeAlias = Callable[[Stats], object] | Reporter | Literal[False] | None

log: logging.Logger = logging.getLogger("carpool.progress")


def start(
    setting: Progress, *, total: Total = None, journal: bool = False, say: Callable[[str], object] | None = None
) -> Reporter:
    """Give what is to be told twice a second how things stand, and at last.

    None draws the view on a terminal or in a notebook, where rich is installed, and elsewhere says a line a minute to
    `say`, else to the log; False does nothing; a callable is given the `Stats`; a reporter does as it likes. What one
    of them raises is borne. `total` is how many requests there are in all, as far as that is known; `journal` tells
    whether there is one.
    """
    if setting is None:
        return Guarded(_find(total, say, journal=journal), Lines(say or log.info, total, journal=journal))
    if isinstance(setting, Reporter):
        return Guarded(setting)
    return Guarded(Calls(setting)) if callable(setting) else Silent()


def _find(total: Total, say: Callable[[str], object] | None, *, journal: bool) -> Reporter:
    """Choose the view that is possible here."""
    try:
        view = _notebook(total, journal=journal) or _terminal(total, journal=journal)
    except ImportError:  # rich, or IPython, is not installed
        view = None
    return view or Lines(say or (_write if _on_terminal() else log.info), total, journal=journal)


def _on_terminal() -> bool:
    """Tell whether somebody may be watching, without a look at rich, whose import takes a while."""
    return sys.stderr is not None and sys.stderr.isatty()


def _write(line: str) -> None:
    """Write where the cursor cannot be moved, or rich is not installed: whoever is there sees no log by default."""
    sys.stderr.write(f"carpool: {line}\n")


def _notebook(total: Total, *, journal: bool) -> Reporter | None:
    if not hasattr(builtins, "get_ipython"):
        return None
    from rich import get_console

    if not get_console().is_jupyter:
        return None
    from .notebook import Notebook

    return Notebook(import_module("IPython.display").display, total, journal=journal)


def _terminal(total: Total, *, journal: bool) -> Reporter | None:
    if not _on_terminal():
        return None
    from .terminal import Terminal, find_console

    console = find_console()
    return None if console is None else Terminal(console, total, journal=journal)
