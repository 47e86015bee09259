"""A file that is whole or absent: it is written beside its place, and takes its name when nothing is missing."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

# How file systems say that they know no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})


def problem_with(path: Path, *, force: bool) -> str:
    """Say in a sentence why a file cannot be written there; "" where it can."""
    try:
        return _problem_with(path, force=force)
    except OSError as exc:
        return f"{path} cannot be written: {exc.strerror}."


def _problem_with(path: Path, *, force: bool) -> str:
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return f"{path} is a folder: name a file."
        if not stat.S_ISREG(mode):
            return f"{path} is no ordinary file: leave -o out, and redirect the output."  # it would be replaced by one
        if not force:
            return f"{path} exists: name another file, or give --force to replace it."
    folder = _place_of(path).parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist."
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"The folder {folder} cannot be written to."


def _place_of(path: Path) -> Path:
    """Give where a link leads."""
    return Path(os.path.realpath(path))


@contextmanager
def landing(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Give a file to write and read; on leaving well it takes its place, safe on disk, and otherwise it is removed.

    Raises `FileExistsError` where something has come there meanwhile, unless `force` replaces it, and `OSError`.
    """
    place = _place_of(path)
    beside = place.with_name(f".carpool-{token_hex(8)}.part")
    try:
        with open(beside, "xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _take_place(beside, place, force=force)
    finally:
        beside.unlink(missing_ok=True)


def _take_place(beside: Path, place: Path, *, force: bool) -> None:
    if force:
        with suppress(FileNotFoundError):
            shutil.copymode(place, beside)
        beside.replace(place)
    else:
        _link(beside, place)
    with suppress(OSError):  # some file systems cannot, and it has its name already
        _sync(place.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(beside: Path, place: Path) -> None:
    """Take a name that nothing has: a rename would replace what came there since it was looked at."""
    try:
        place.hardlink_to(beside)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        if place.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from None
        beside.replace(place)
