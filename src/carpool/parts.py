"""What concerns tens of thousands of callers is done in parts, between which others have the event loop."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec import structs

from .engine.commands import Fail, LetGo, Settle

T = TypeVar("T")

_PART = 1_000  # some milliseconds of the event loop


def cut(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts."""
    return (whole[start : start + _PART] for start in range(0, len(whole), _PART))


def taken_apart(whole: list[T]) -> Iterator[list[T]]:
    """Take parts out of a list: what they hold is let go of part by part, which takes long for all at once."""
    while whole:
        part = whole[:_PART]
        del whole[:_PART]
        yield part


def is_long(command: Settle | Fail | LetGo) -> bool:
    """Tell whether a command is to be carried out in parts."""
    return len(command.numbers) > _PART


def parts(command: Settle | Fail | LetGo) -> Iterator[Settle | Fail | LetGo]:
    """Cut a command, which tells each caller something of its own, into parts."""
    if isinstance(command, Settle):
        for numbers, rows in zip(cut(command.numbers), cut(command.rows), strict=True):
            yield structs.replace(command, numbers=numbers, rows=rows)
    else:
        for numbers in cut([*command.numbers]):
            yield structs.replace(command, numbers=numbers)
