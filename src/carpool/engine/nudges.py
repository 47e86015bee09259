"""Word from outside that batches have ended: they are asked for at once, and the others but rarely while it comes."""

from collections.abc import Iterable

from ..config import Timing
from .agenda import Agenda
from .batch import Batch
from .batches import Batches
from .cadence import check_pause, net_pause, spread
from .commands import Command, Relay
from .events import Woken
from .lanes import Name
from .stages import Stage, is_admitted

_BEHIND = 1.05  # times `poll_min` after the word, so that the next word comes first
_KEPT = 1_000  # ids that came before their batches were known: more are of others


class Nudges:
    """Say when open batches are asked for; where it `keeps`, others may know the batches that are not known here."""

    def __init__(self, timing: Timing, batches: Batches, agenda: Agenda[Name], *, keeps: bool) -> None:
        self._timing = timing
        self._batches = batches
        self._agenda = agenda
        self._keeps = keeps
        self._heard = False  # word came of a batch that is here, and was not missing since
        self._early: dict[str, None] = {}

    def woken(self, event: Woken, now: float) -> list[Command]:
        """Ask at once for the batches that word came of."""
        unknown = [remote_id for remote_id in event.remote_ids if not self._batches.is_known(remote_id)]
        for remote_id in event.remote_ids:
            if remote_id not in unknown:
                self._nudge(self._batches.of_remote(remote_id), now)
        self._remember(unknown)
        return [Relay(tuple(unknown))] if unknown and self._keeps else []

    def _nudge(self, batch: Batch, now: float) -> None:
        """Ask for a batch at once, or once more after a check that is under way: its reply may be older.

        As often as it would be asked for in its first moments, however often word comes. Where its files are awaited,
        or were read and fell short, to ask sooner would be to give them up sooner.
        """
        self._heard = True
        if batch.told_at is not None and now - batch.told_at < self._timing.poll_min:
            return
        batch.told_at = now
        batch.netted = False
        if batch.stage is Stage.OPEN and not batch.looks and not batch.reads:
            batch.hurried = batch.key not in self._agenda
            self._agenda.advance(batch.key, now)

    def _remember(self, remote_ids: Iterable[str]) -> None:
        """Keep the ids that may be of batches whose creation is not replied to yet."""
        if not any(batch.stage is Stage.LOST or self._batches.is_being_created(batch) for batch in self._batches):
            self._early.clear()
            return
        self._early |= dict.fromkeys(remote_ids)
        while len(self._early) > _KEPT:
            del self._early[next(iter(self._early))]

    def created(self, batch: Batch, now: float) -> None:
        """Ask at once for a batch of which word came before it was known."""
        if batch.status.id in self._early:
            del self._early[batch.status.id]
            self._nudge(batch, now)
            batch.hurried = True

    def pause(self, batch: Batch, now: float) -> float:
        """Give the seconds until an open batch is asked for again.

        One that is validating tells nobody when it is admitted. One of which word came has ended, or is about to.
        """
        batch.checks += 1
        if batch.hurried:
            batch.hurried = False
            return 0.0
        jitter = spread(batch.key, batch.checks)
        is_running = is_admitted(batch.status.status) and batch.denied_since is None
        batch.netted = self._heard and is_running and batch.told_at is None
        pause = self._unnetted(batch, now, jitter)
        return max(pause, net_pause(jitter)) if batch.netted else pause

    def passed_over(self, batch: Batch, now: float) -> float:
        """Give the seconds until a batch is asked for that another was asked for in place of: it may have ended."""
        batch.checks += 1
        return self._unnetted(batch, now, spread(batch.key, batch.checks))

    def _unnetted(self, batch: Batch, now: float, jitter: float) -> float:
        since = batch.opened_at if batch.told_at is None else batch.told_at
        pause = check_pause(now - since, self._timing, jitter)
        # Word that goes on coming has it asked for already, every `poll_min`.
        return pause if batch.told_at is None else max(pause, _BEHIND * self._timing.poll_min)

    def ended(self, batch: Batch, now: float) -> None:
        """Note that a batch has ended: one of which word is missing says that none may come of the others."""
        if not batch.netted:
            return
        self._heard = False
        for other in self._batches:
            if other.netted:
                self._agenda.advance(other.key, now + self.pause(other, now))
