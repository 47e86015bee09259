"""Where journals lie."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..journal.sqlite.folder import DATABASE
from .ending import ended

_DEPTH = 2  # folders below the one that is looked into


def find_journals(folders: Sequence[Path]) -> list[Path]:
    """Find the folders that are journals, or hold some; without any, in the current one.

    Where a folder that was named holds none the command ends.
    """
    if not folders:
        return list(_below(Path(), _DEPTH))
    found: dict[tuple[int, int], Path] = {}  # by what they are: one folder has many names
    for folder in folders:
        journals = list(_named(folder))
        if not journals:
            raise ended(2, f"there is no journal in {folder}, nor in the folders below it")
        for journal in journals:
            database = (journal / DATABASE).stat()
            found.setdefault((database.st_dev, database.st_ino), journal)
    return list(found.values())


def name_of(folder: Path) -> str:
    """Name a folder for people to read."""
    return str(folder if folder.name else folder.absolute())


def _named(folder: Path) -> Iterator[Path]:
    try:
        os.scandir(folder).close()
    except OSError as exc:
        raise ended(2, f"{folder} cannot be looked into: {exc.strerror}") from None
    return _below(folder, _DEPTH)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if os.path.isfile(folder / DATABASE):
        yield folder
    elif depth:
        for name in _folders_in(folder):
            yield from _below(folder / name, depth - 1)


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:  # of another user, or gone meanwhile: it was not named
        return []
