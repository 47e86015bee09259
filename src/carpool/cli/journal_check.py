"""Whether a folder is fit for a journal, and sound if it is one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import JournalError
from ..journal.sqlite.checkup import damage
from ..journal.sqlite.contents import Contents, contents
from ..journal.sqlite.folder import DATABASE
from ..journal.sqlite.presence import Presence, present
from .ending import plain
from .findings import Finding
from .mounts import is_remote, kind_of
from .wording import plural, size

_LITTLE, _NO_ROOM = 2_000_000_000, 200_000_000  # bytes: of ten full batches, and of one


def check_journal(folder: Path, account: str | None) -> Iterator[Finding]:
    """Look at a folder from outside; `account` is whose batches are meant, None where that is not known."""
    for finding in _found(folder, account):
        yield finding._replace(sentence=f"{plain(str(folder))}: {finding.sentence}")


def _found(folder: Path, account: str | None) -> Iterator[Finding]:
    try:
        yield (found := _of_folder(folder))
        if found.level == "problem":
            return
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        yield of_room(shutil.disk_usage(nearest).free)
        yield of_file_system(kind_of(nearest))
        if (folder / DATABASE).is_file():
            yield from _of_contents(folder, account)
    except OSError as exc:
        yield _problem(f"It cannot be looked at: {exc.strerror}.", "Give yourself the right to.")
    except JournalError as exc:
        yield _problem(plain(str(exc)), "Put a copy back, or name another folder.")


def _well(sentence: str) -> Finding:
    return Finding("ok", "journal", sentence)


def _problem(sentence: str, remedy: str) -> Finding:
    return Finding("problem", "journal", sentence, remedy)


def _warning(sentence: str, remedy: str) -> Finding:
    return Finding("warning", "journal", sentence, remedy)


def _of_folder(folder: Path) -> Finding:
    try:
        folder.stat()  # since Python 3.14 exists() hides whatever keeps it from being looked at
    except (FileNotFoundError, NotADirectoryError):
        return _of_new(folder)
    if not folder.is_dir():
        return _problem("It is no folder.", "Name a folder.")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return _problem("The folder cannot be written to.", "Give yourself the right to.")
    if (folder / DATABASE).is_file():
        return _well("The folder is a journal, and can be written to.")
    if any(folder.iterdir()):
        return _problem("It holds other files, and no journal.", "Name a new or an empty folder.")
    return _well("The folder is empty, and can be written to.")


def _of_new(folder: Path) -> Finding:
    nearest = next(place for place in folder.absolute().parents if place.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return _warning("The folder does not exist: it would be made.", "Check its name.")
    return _problem(f"The folder cannot be made in {plain(str(nearest))}.", "Name another folder.")


def of_room(free: int) -> Finding:
    """Judge the room that is left, in bytes."""
    sentence = f"{size(free)} are free."
    if free < _NO_ROOM:
        return _problem(sentence, "Free some room: requests and answers are kept there.")
    return _well(sentence) if free >= _LITTLE else _warning(sentence, "Free some room.")


def of_file_system(kind: str) -> Finding:
    """Judge where it lies."""
    if is_remote(kind):
        sentence = f"Its file system ({kind}) is not local: locks and SQLite's log may fail there."
        return _problem(sentence, "Name a folder on a local disk.")
    return _well(f"Its file system is local ({plain(kind)})." if kind else "Its file system is not known.")


def _of_contents(folder: Path, account: str | None) -> Iterator[Finding]:
    found = damage(folder)
    if found:
        yield _problem(f"It is damaged: {plain(found)[:200]}.", "Put a copy back, or name another folder.")
        return
    held = contents(folder)
    if held is not None:
        yield _well(f"It is sound, and holds {_sum(held)}.")
        if account not in (None, held.account):
            yield of_account(held.account, account or "")
    for presence in present(folder):
        yield of_presence(presence)


def of_account(theirs: str, ours: str) -> Finding:
    """Say that a journal is of another account than the environment names."""
    sentence = f"It belongs to {plain(theirs)}, and the environment names {plain(ours)}."
    return _problem(sentence, "Set OPENAI_BASE_URL and the like for that account, or name another folder.")


def of_presence(presence: Presence) -> Finding:
    """Say who has a journal open."""
    who = plain(presence.name)
    if presence.seen:
        return _well(f"It is open in {who}.")
    sentence = f"It may be open in {who}: that cannot be seen from here."
    return _warning(sentence, "A journal is for the processes of one machine.")


def _sum(held: Contents) -> str:
    return (
        f"{plural(held.answered, 'answer')}, {held.in_flight:,} requests in flight in "
        f"{plural(len(held.open), 'batch')}, {held.waiting:,} waiting"
    )
