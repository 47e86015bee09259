"""How a command ends that cannot do what it was asked to."""

import typer

from ..progress.words import plain
from .saying import say


def ended(code: int, sentence: str) -> typer.Exit:
    """Say why in one sentence, and give what is to be raised."""
    say(sentence)
    return typer.Exit(code)


__all__ = ["ended", "plain"]
