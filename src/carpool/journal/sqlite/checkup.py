"""What a journal says of the provider's side, and whether it is sound, told from outside."""

from pathlib import Path
from typing import NamedTuple

from ...naming import client_key
from .packed import unpack_leftovers
from .peek import Reader, look

_OPEN = "SELECT number, batch_id, file_id FROM batch WHERE done_at IS NULL"
_LEFT = "SELECT leaves FROM batch WHERE leaves IS NOT NULL"


class Remains(NamedTuple):
    """Name what is at the provider: what is `awaited`, and the files whose content is `on_disk`, by their ids.

    Of batches that are awaited the ids of their input files and their client keys are named too.
    """

    awaited: frozenset[str]
    on_disk: frozenset[str]


def remains(folder: Path) -> Remains | None:
    """Tell what a journal knows to be at the provider; None while it is being made. Raises `JournalError`."""
    return look(folder, _remains)


def _remains(reader: Reader) -> Remains:
    pool = reader.value("SELECT pool FROM folder")
    awaited = {name for number, *ids in reader.rows(_OPEN) for name in (client_key(pool, number), *ids) if name}
    left = {file_id for (leaves,) in reader.rows(_LEFT) for file_id in unpack_leftovers(leaves).file_ids}
    return Remains(frozenset(awaited), frozenset(left))


def damage(folder: Path) -> str:
    """Say what is wrong with the database of a journal, "" where nothing is. Raises `JournalError`."""
    found = look(folder, lambda reader: reader.value("PRAGMA quick_check(1)"))
    return "" if found in (None, "ok") else str(found)
