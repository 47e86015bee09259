"""Opening a journal: what is there is taken over and told of, and it must be of the account whose key is used."""

import logging
from datetime import datetime

from .collector import Collector
from .errors import AuthenticationFailed, JournalError
from .journal import Journal
from .models import CallFailed
from .perform import drive
from .providers import Provider
from .wire import Wire

log: logging.Logger = logging.getLogger("carpool.recover")


async def recover(collector: Collector, journal: Journal, provider: Provider, wire: Wire) -> None:
    """Take over what earlier processes left, say what it is, and see that the key can reach it.

    Raises `JournalError`, also where batches are under way that this key does not know; `AuthenticationFailed`.
    """
    if collector.adoption is not None:
        await collector.adoption.take_over()
    lanes = collector.lanes()
    answered, _, last_at = await journal.summary()
    last = "" if last_at is None else f" (the last {datetime.fromtimestamp(last_at):%Y-%m-%d %H:%M})"
    in_flight, waiting = sum(lane.submitted for lane in lanes), sum(lane.dormant for lane in lanes)
    log.info(f"{journal.place}: {answered:,} answered{last}, {in_flight:,} in flight, {waiting:,} waiting")
    await _check_key(journal, provider, wire)


async def follow_key(journal: Journal, provider: Provider, wire: Wire) -> None:
    """Note the mark of a key that came while the journal is open; where it is of another account, say so and go on."""
    try:
        await _check_key(journal, provider, wire)
    except (JournalError, AuthenticationFailed) as exc:
        log.warning("the API key has changed, and is not taken for the journal's own: %s", exc)


async def _check_key(journal: Journal, provider: Provider, wire: Wire) -> None:
    """Ask for one of the batches under way, where the key is another than the last time."""
    try:
        mark = await wire.key_mark(journal.pool)
        if mark == journal.key_mark:
            return
        open_ = await journal.open_batch() if journal.key_mark is not None else None
        if open_ is not None and not await drive(provider.check((open_,)), wire.send):
            raise JournalError(
                f"{journal.place} tells of batches that this API key does not know: another account paid for them. Use "
                "its key, or another folder."
            )
    except CallFailed as exc:
        if exc.failure.kind == "auth":
            raise AuthenticationFailed(exc.failure.message) from exc
        # To go on would be to hear, in the end, that the batches are gone, and to give their answers up.
        raise JournalError(
            f"Whether this API key knows the batches that {journal.place} tells of cannot be found out: "
            f"{exc.failure.message}. Start again later, or with the key of the last time."
        ) from exc
    await journal.note_key(mark)
