"""The view in a notebook: one output that is shown anew, which takes no widgets."""

import io
from collections.abc import Callable
from html import escape
from secrets import token_hex
from typing import Any, TypeAlias

from rich.console import Console

from ..stats import Stats
from .columns import Frame, Picture
from .view import final, live
from .watch import Total, Watch

Display: TypeAlias = Callable[..., Any]  # IPython.display.display

_FRAME = Frame(width=100, height=40)
_CODE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'


class Notebook:
    """Show the view in the output of the cell."""

    pause: float = 1.0

    def __init__(self, display: Display, total: Total = None, *, journal: bool = False) -> None:
        self._display = display
        self._watch = Watch(total, journal=journal)
        self._id = f"carpool-{token_hex(8)}"
        self._sentence = ""
        self._shown: tuple[Picture, str] | None = None

    def update(self, stats: Stats, now: float) -> None:
        """Show how things stand, from the first call on."""
        self._sentence = self._watch.look(stats, now) or self._sentence
        if stats.accepted:
            total, left, _ = self._watch.glance(stats, now)
            self._show(live(stats, left, total, now, _FRAME), self._sentence)

    def close(self, stats: Stats, now: float) -> None:
        """Leave a summary."""
        if self._shown is not None:
            total, _, seconds = self._watch.glance(stats, now)
            self._show(final(stats, total, seconds, _FRAME, journal=self._watch.journal))

    def _show(self, picture: Picture, sentence: str = "") -> None:
        if (picture, sentence) != self._shown:
            again, self._shown = self._shown is not None, (picture, sentence)
            self._display(bundle(picture, sentence), raw=True, display_id=self._id, update=again)


def bundle(picture: Picture, sentence: str = "") -> dict[str, str]:
    """Give a picture as HTML and as plain text, under a sentence."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=_FRAME.width,
        color_system="truecolor",
        force_terminal=True,
        force_jupyter=False,
    )
    console.print(picture)
    html = console.export_html(inline_styles=True, code_format=_CODE, clear=False)
    head = f"<p>{escape(sentence)}</p>" if sentence else ""
    return {"text/html": head + html, "text/plain": f"{sentence}\n{console.export_text()}".strip("\n")}
