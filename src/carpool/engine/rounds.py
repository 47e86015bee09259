"""Which open batches are asked for now, and which wait: a listing that is under way may tell of them by the way."""

import math
from collections.abc import Collection, Iterable, Sequence

from ..config import Timing
from ..models import NEWEST, Page
from . import places
from .agenda import Agenda
from .batch import Batch
from .cadence import backoff, spread
from .commands import Check
from .lanes import Name
from .stages import Stage

_UNLISTED = 900.0  # seconds, the most for which batches are asked for singly before a listing is tried again
_DOUBT, _DOUBT_TRUSTED = 12, 180  # times `poll_min` in which listings told nothing new; more, once they told something


class Rounds:
    """Make of the batches that are due as few calls as listings allow.

    What is due in a moment goes with what is due at its place. What the listing shows that is being read waits for its
    answer, for `poll_min` at most, and is then asked for where it was not in it. A listing may be stale for good (traps
    12): where none tells anything new for long, one batch is asked for singly, another one each time, and its place is
    read in between; all are for a while where two in turn are further.
    """

    def __init__(self, timing: Timing, agenda: Agenda[Name]) -> None:
        self._timing = timing
        self._agenda = agenda
        self._reading: dict[str, str] = {}  # places of listings under way, by the first batch that is asked for
        self._unread = 0  # listings that failed, one after the other
        self._lists_at = -math.inf
        self._news_at: float | None = None  # when a listing told something new
        self._patience = _DOUBT * timing.poll_min  # with listings that tell nothing new, in seconds
        self._doubts = 0  # since then
        self._doubted = ""  # the batch that was asked for singly for this reason
        self._passed: list[Batch] = []  # in favour of it, at its place
        self._unlisted: set[str | None] = set()  # places that were not listed since one was asked for singly there
        self._behind = 0  # times in a row that such a one was further

    def choose(self, due: Iterable[Batch], batches: Iterable[Batch], now: float) -> list[Batch]:
        """Say whose step is to be taken now, and put off who waits for an answer; `due` are out of the agenda."""
        due = list(due)
        open_ = [batch for batch in due if batch.stage is Stage.OPEN]
        if not open_:
            return due
        open_ += self._company(open_, batches, now)
        waiting = self._waiting(open_, now)
        for batch in waiting:
            self._agenda.set(batch.key, now + self._timing.poll_min)
        rest = [batch for batch in due if batch.stage is not Stage.OPEN]
        return rest + self._doubt([batch for batch in open_ if batch.key not in self._agenda], batches, now)

    def _company(self, due: Iterable[Batch], batches: Iterable[Batch], now: float) -> list[Batch]:
        """Take out the others that go with those which are due.

        Those are at their places, and due in a moment; and those that the newest page alone may show, where it tells of
        what is due as well.
        """
        soon = now + self._timing.poll_min / 2
        at = {batch.place for batch in due} - {None}
        told_anew = any(batch.newest and batch.place != NEWEST and batch.may_wait for batch in due)
        anew = told_anew and self._lists(now) and NEWEST not in self._reading.values()
        idle = [batch for batch in batches if batch.stage is Stage.OPEN and batch.awaits is None]
        chosen = [
            batch
            for batch in idle
            if (batch.place in at and self._agenda.is_due(batch.key, soon))
            or (anew and batch.is_unseen and batch.key in self._agenda)
        ]
        for batch in chosen:
            self._agenda.drop(batch.key)
        return chosen

    def _waiting(self, due: Sequence[Batch], now: float) -> list[Batch]:
        """Find those that a listing may tell of, and note which: one that is under way, or one of the newest page."""
        reading = set(self._reading.values())
        anew = [batch for batch in due if batch.place == NEWEST and batch.awaits is None]
        is_read = NEWEST in reading or (self._lists(now) and places.are_listed(anew))
        waiting = [batch for batch in due if batch.may_wait]
        for batch in waiting:
            if batch.place in reading:
                batch.awaits = batch.place
            elif batch.newest and batch.place != NEWEST and is_read:
                batch.awaits = NEWEST
        return [batch for batch in waiting if batch.awaits is not None]

    def _lists(self, now: float) -> bool:
        return now >= self._lists_at

    def checks(self, due: Sequence[Batch], known: Collection[str], now: float) -> list[Check]:
        """Ask for batches, and note what is being read."""
        lists = self._lists(now)
        doubted = [batch for batch in due if batch.key == self._doubted]
        checks = places.checks([batch for batch in due if batch not in doubted], known, lists=lists)
        checks += places.checks(doubted, known, lists=False)
        self._reading |= {check.keys[0]: check.place for check in checks if check.place is not None}
        for batch in due:
            batch.awaits = None
        asked = {batch.key for batch in due}
        self._passed = [batch for batch in self._passed if batch.key not in asked]
        return checks

    def _doubt(self, due: list[Batch], batches: Iterable[Batch], now: float) -> list[Batch]:
        """Ask for one batch singly, each time another one, where listings have told nothing new for long.

        All others at its place are passed over, as if they had been asked for too: so this is no call more. While one
        batch alone is known no listing is read: that it told nothing counts from the next one.
        """
        if sum(batch.remote_id is not None for batch in batches) < 2:
            self._news_at = None
            return due
        untold = self._unlisted.union(self._reading.values(), (None,))
        listed = [batch for batch in due if batch.may_be_told and batch.place not in untold]
        quiet = 0.0 if self._news_at is None else now - self._news_at
        if not listed or not self._lists(now) or quiet < self._patience * 2**self._doubts:
            return due
        doubted = sorted(listed, key=lambda batch: batch.opened_at)[self._doubts % len(listed)]
        self._doubts += 1
        self._doubted = doubted.key
        self._unlisted = {doubted.place, *self._unlisted.intersection(batch.place for batch in batches)}
        beside = [batch for batch in listed if batch.place == doubted.place and batch is not doubted]
        for batch in beside:
            self._agenda.set(batch.key, now)
        late = {batch.key for batch in beside}  # of those that are asked for rarely, as word will come, only these
        self._passed = [
            batch
            for batch in filter(self._may_be_passed, batches)
            if batch.place == doubted.place and (batch.key in late or not batch.netted)
        ]
        for batch in self._passed:
            self._agenda.delay(batch.key, now + self._timing.poll_min)
        return [batch for batch in due if batch.key not in self._agenda]

    def _may_be_passed(self, batch: Batch) -> bool:
        return batch.stage is Stage.OPEN and batch.key in self._agenda and batch.may_be_told

    def passed_over(self, keys: Collection[str]) -> list[Batch]:
        """Take out the batches that were passed over in favour of one of these, and not asked for or told of since."""
        self._passed = [batch for batch in self._passed if batch.key not in keys]
        if self._doubted not in keys:
            return []
        passed, self._passed = self._passed, []
        return [batch for batch in passed if self._may_be_passed(batch)]

    def heard(self, keys: Collection[str], *, further: bool, listed: bool, now: float) -> None:
        """Hear whether a call for these told of a batch that it is further than what was heard last."""
        if listed and further:
            self._patience, self._doubts, self._behind = _DOUBT_TRUSTED * self._timing.poll_min, 0, 0
        if listed and (further or self._news_at is None):
            self._news_at = now
        if self._doubted in keys:
            self._doubted = ""
            if further and not listed:
                self._fell_behind(now)

    def _fell_behind(self, now: float) -> None:
        """Read no listing for a while where two batches in turn were further than it told: one may just have ended."""
        self._behind += 1
        self._news_at, self._patience, self._doubts = now, _DOUBT * self._timing.poll_min, 0
        if self._behind > 1:
            self._behind = 1  # the next that is further has it so again
            self._lists_at = now + _UNLISTED

    def answered(self, keys: Iterable[str], pages: Sequence[Page], batches: Iterable[Batch], now: float) -> None:
        """Hear that a call for these is over, the first of all being among them: who waited for it waits no longer.

        Where its listing could not be read, and the one before it, none is for a while: each is a call made in vain.
        """
        key = next((key for key in keys if key in self._reading), None)
        if key is None:
            return
        place = self._reading.pop(key)
        self._unread = 0 if pages else self._unread + 1
        if pages:
            self._unlisted.discard(place)
        if self._unread > 1:
            pause = backoff(self._unread, spread(key, self._unread), base=self._timing.poll_min, cap=_UNLISTED)
            self._lists_at = now + pause
        for batch in batches:
            if batch.awaits == place:
                self._agenda.advance(batch.key, now)
