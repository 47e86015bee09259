"""Where the account's listing shows open batches: one call answers for all that it shows together.

A page, once seen, is the same for ever, as newer batches come before it. So the batches on it are found with one call
however many others are on the account, and nothing is asked for in vain. Only what was just created is looked for on
the newest page without having been seen there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..models import NEWEST, Page
from .batch import Batch
from .commands import Check


def checks(due: Iterable[Batch], known: Collection[str], *, lists: bool = True) -> list[Check]:
    """Ask by one call for all that are at one place, and for each of the rest by a call of its own.

    No listing is read unless it `lists` and others are known, nor again for what was awaited from it in vain.
    """
    groups: dict[tuple[str | None, str], list[Batch]] = {}
    lists = lists and len(known) > 1
    for batch in sorted(due, key=lambda batch: batch.opened_at, reverse=True):
        place = None if batch.awaits == batch.place or not lists else batch.place
        groups.setdefault((place, batch.key if place is None else ""), []).append(batch)
    return [_check(batches, place if are_listed(batches) else None, known) for (place, _), batches in groups.items()]


def are_listed(batches: Sequence[Batch]) -> bool:
    """Tell whether a page is read for batches that are at one place, not for the sake of word of one of them."""
    return len(batches) > 1 or any(batch.told_at is None for batch in batches)


def _check(batches: Sequence[Batch], place: str | None, known: Collection[str]) -> Check:
    keys, remote_ids = tuple(batch.key for batch in batches), tuple(batch.status.id for batch in batches)
    return Check(keys, remote_ids) if place is None else Check(keys, remote_ids, place, known)


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
    if asked == NEWEST:
        for remote_id, batch in open_.items():
            batch.newest = remote_id in pages[0].remote_ids
    missing = [batch for remote_id, batch in open_.items() if batch.place == asked and remote_id not in shown]
    oldest = min((batch.opened_at for batch in shown.values()), default=None)
    _look_elsewhere(missing, oldest, pages[-1].next, young)


def _look_elsewhere(missing: Iterable[Batch], oldest: float | None, next_: str | None, young: float) -> None:
    """Look for batches that no page has shown behind the last one, where that showed none that is older than they.

    Where nothing is shown behind a place, it may be gone: once, they are looked for among the newest again.
    """
    for batch in missing:
        if oldest is not None and batch.opened_at <= oldest:
            batch.place = next_
        elif oldest is None and next_ is None and batch.place and not batch.strayed:  # `NEWEST` is empty
            batch.place, batch.strayed = NEWEST, True
        elif batch.place != NEWEST or batch.opened_at <= young:
            batch.place = None
