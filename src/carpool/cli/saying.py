"""What a command says on the standard error; that nobody can hear it, a disk is full or a terminal gone, is borne."""

import os
import sys
from contextlib import suppress

from ..progress.words import plain


def say(text: str) -> None:
    """Say something, in a line."""
    write(f"carpool: {plain(text)}\n")


def write(text: str) -> None:
    """Write, if that can be."""
    if sys.stderr is not None:
        # Not by typer.echo, which finds its way around the view that may be drawn on the terminal.
        with suppress(OSError, ValueError):
            sys.stderr.write(text)


def give_up_what_is_unsaid() -> None:
    """Forget what could not be written, or else the process ends with 120, whatever its exit code should be."""
    for name in ("stdout", "stderr"):
        try:
            if (stream := getattr(sys, name)) is not None:
                stream.flush()
        except (OSError, ValueError):
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
