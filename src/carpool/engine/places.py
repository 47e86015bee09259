"""Where the account's listing shows open batches: one call answers for all that it shows together.

A page, once seen, is the same for ever, as newer batches come before it. So the batches on it are found with one call
however many others are on the account, and nothing is asked for in vain. Only what was just created is looked for on
the newest page without having been seen there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..models import NEWEST, Page
from .batch import Batch
from .commands import Check


def checks(due: Iterable[Batch], known: Collection[str]) -> list[Check]:
    """Ask by one call for all that are at one place, and for each of the rest by a call of its own."""
    groups: dict[tuple[str | None, str], list[Batch]] = {}
    for batch in sorted(due, key=lambda batch: batch.opened_at, reverse=True):
        groups.setdefault((batch.place, batch.key if batch.place is None else ""), []).append(batch)
    return [_check(place, batches, known) for (place, _), batches in groups.items()]


def _check(place: str | None, batches: Sequence[Batch], known: Collection[str]) -> Check:
    keys, remote_ids = tuple(batch.key for batch in batches), tuple(batch.status.id for batch in batches)
    return Check(keys, remote_ids, place, known) if place is not None and len(known) > 1 else Check(keys, remote_ids)


def note(open_: Mapping[str, Batch], asked: str | None, pages: Sequence[Page], young: float) -> None:
    """Note at which places batches were shown, by remote ids; and that others which were asked for there are not.

    Those created after the time `young` may not be listed yet.
    """
    shown: dict[str, Batch] = {}
    for page in pages:
        together = {remote_id: open_[remote_id] for remote_id in page.remote_ids if remote_id in open_}
        for batch in together.values():
            batch.place = page.place if len(together) > 1 else None
        shown |= together
    missing = [batch for remote_id, batch in open_.items() if batch.place == asked and remote_id not in shown]
    oldest = min((batch.opened_at for batch in shown.values()), default=None)
    _look_elsewhere(missing, oldest, pages[-1].next, young)


def _look_elsewhere(missing: Iterable[Batch], oldest: float | None, next_: str | None, young: float) -> None:
    """Look for batches that no page has shown behind the last one, where that showed none that is older than they."""
    for batch in missing:
        if oldest is not None and batch.opened_at <= oldest:
            batch.place = next_
        elif batch.place != NEWEST or batch.opened_at <= young:
            batch.place = None
